"""The chat page in a real browser, before a server without a model: what a person does, and what must never happen."""

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from chat_page_server import MODELS, PROMPT, Imitation, served

from sapience.serving.chat_page import page_response

playwright_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
in_browser = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine: apt-get install chromium")
expect = playwright_api.expect
SOON = 5_000


def test_the_policy_allows_the_pages_own_script_and_style_alone() -> None:
    reply = page_response()
    text = bytes(reply.body).decode("utf-8")
    policy = dict(part.strip().partition(" ")[::2] for part in reply.headers["content-security-policy"].split(";"))
    assert policy["default-src"] == "'none'"
    assert policy["connect-src"] == "'self'"
    assert policy["frame-ancestors"] == "'none'"
    assert policy["require-trusted-types-for"] == "'script'"
    for name in ("script-src", "style-src"):
        assert re.fullmatch(r"'sha256-[\w+/]{43}='", policy[name]), policy[name]
    assert reply.headers["cache-control"] == "no-store"
    assert reply.headers["x-content-type-options"] == "nosniff"
    assert text.count("<script>") == text.count("<style>") == 1
    assert not re.search(r"\s(style|on\w+)=\"", text), "the policy would refuse it"
    assert "innerHTML" not in text


def test_both_languages_have_every_text() -> None:
    text = bytes(page_response().body).decode("utf-8")
    tables = re.findall(r"^  (?:en|zh): \{\n(.*?)^  \},\n", text, re.DOTALL | re.MULTILINE)
    english, chinese = [set(re.findall(r"(?:^ {4}|, )(\w+): [\"\[]", table, re.MULTILINE)) for table in tables]
    assert english == chinese
    assert len(english) > 80
    used = set(re.findall(r"\bt\(\"(\w+)\"|data-t(?:-\w+)?=\"(\w+)\"", text))
    assert {one or other for one, other in used} <= english


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright_api.sync_playwright() as play:
        opened = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def shared() -> Iterator[tuple[str, Imitation]]:
    """One server for all tests; each begins with a clean state."""
    state = Imitation()
    with served(state) as address:
        yield address, state


@pytest.fixture
def state(shared: tuple[str, Imitation]) -> Imitation:
    vars(shared[1]).update(vars(Imitation()))
    return shared[1]


@pytest.fixture
def address(shared: tuple[str, Imitation], state: Imitation) -> str:
    return shared[0]


@pytest.fixture
def page(browser: Any, address: str, request: pytest.FixtureRequest) -> Iterator[Any]:
    """A fresh visit; whatever a test does, the page makes no error, asks nobody else and opens no dialog."""
    options = {"viewport": {"width": 1100, "height": 760}, "locale": "en-US"} | getattr(request, "param", {})
    context = browser.new_context(**options)
    context.grant_permissions(["clipboard-read", "clipboard-write"], origin=address.rstrip("/"))
    opened = context.new_page()
    opened.set_default_timeout(SOON)
    wrong: list[str] = []

    def heard(message: Any) -> None:
        # The browser itself says so of an answer with an error's status, and where there is no network.
        if message.type in ("error", "warning") and "Failed to load resource" not in message.text:
            wrong.append(message.text)

    opened.on("console", heard)
    opened.on("pageerror", lambda error: wrong.append(str(error)))
    opened.on(
        "request",
        lambda asked: None if asked.url.startswith((address, "data:", "blob:")) else wrong.append(asked.url),
    )
    opened.on("dialog", lambda dialog: (wrong.append(dialog.message), dialog.dismiss()))
    opened.goto(address)
    expect(opened.locator("#model option")).to_have_count(len(MODELS))
    yield opened
    context.close()
    assert wrong == []


def ask(page: Any, text: str) -> None:
    page.get_by_label("Your question").fill(text)
    page.keyboard.press("Enter")


def answers(page: Any) -> Any:
    return page.locator(".answer .md")


def answered(page: Any, count: int = 1) -> None:
    expect(page.locator(".answer[aria-busy=false] .figures:visible")).to_have_count(count)


@in_browser
def test_an_answer_streams_and_its_figures_are_told(page: Any, state: Imitation) -> None:
    state.answers["slow What is dew?"] = "Water that **condensed** from the air over night."
    expect(page.get_by_role("button", name="Send")).to_be_disabled()
    page.evaluate(
        """() => {
          window.said = [];
          const live = document.getElementById("live");
          new MutationObserver(() => said.push(live.textContent)).observe(live, { childList: true });
        }"""
    )
    ask(page, "slow What is dew?")
    expect(answers(page)).to_contain_text("Water")
    assert "night" not in answers(page).inner_text(), "it is shown while it comes"
    answered(page)
    expect(answers(page)).to_have_text("Water that condensed from the air over night.")
    expect(answers(page).locator("strong")).to_have_text("condensed")
    figures = page.locator(".figures").inner_text()
    assert re.search(
        r"reinforce\n?7 tokens\n?[\d.]+ tokens/s\n?first after 0\.\d\d s\n?75 % of drafts accepted", figures
    ), figures
    assert page.locator(".figures").get_attribute("title").startswith("11 tokens read, seed ")
    text = state.answers["slow What is dew?"]
    assert page.evaluate("said") == ["reinforce is answering.", f"reinforce: {text}"], "read aloud once, and whole"
    (body,) = state.asked
    assert body["messages"] == [{"role": "user", "content": "slow What is dew?"}]
    assert body["stream"] is True
    assert body["stream_options"] == {"include_usage": True}
    assert (body["temperature"], body["top_p"], body["top_k"], body["max_tokens"]) == (0.7, 1, 0, 1024)
    ask(page, "And frost?")
    answered(page, 2)
    assert [one["role"] for one in state.asked[-1]["messages"]] == ["user", "assistant", "user"]
    expect(page).to_have_title("slow What is dew? · sapience")
    ask(page, "long and empty")
    expect(page.locator(".figures").last).to_contain_text("cut off at the limit")
    ask(page, "plain words")
    expect(answers(page).last).to_have_text("All at once.")
    ask(page, "empty indeed")
    expect(page.get_by_text("An empty answer.", exact=True)).to_be_visible()


@in_browser
def test_stop_by_button_and_by_key_keeps_what_came(page: Any, state: Imitation) -> None:
    for way in ("button", "key"):
        ask(page, f"endless {way}")
        expect(answers(page).last).to_contain_text("word word")
        if way == "button":
            page.get_by_role("button", name="Stop").click()
        else:
            page.keyboard.press("Escape")
        expect(page.locator(".figures").last).to_have_text(re.compile("stopped"))
        expect(page.get_by_role("button", name="Send")).to_be_visible()
        expect(answers(page).last).to_contain_text("word word")
    for _ in range(100):
        if state.left < 2:
            page.wait_for_timeout(20)
    assert state.left == 2, "the server knows that nobody reads on"


@in_browser
def test_versions_of_answers_and_questions_can_be_paged(page: Any, state: Imitation) -> None:
    state.answers.update({"one": "first", "two": "second", "three": "third"})
    ask(page, "one")
    answered(page)
    ask(page, "two")
    answered(page, 2)
    state.answers["two"] = "second, again"
    page.get_by_role("button", name="Answer again").last.click()
    expect(answers(page).last).to_have_text("second, again")
    expect(page.locator(".pager")).to_have_text("2/2")
    page.get_by_role("button", name="Earlier version").click()
    expect(answers(page).last).to_have_text("second")
    expect(page.get_by_role("button", name="Later version")).to_be_focused()
    page.locator(".turn").first.hover()
    page.get_by_role("button", name="Edit the question").first.click()
    field = page.get_by_label("The question as it should be")
    expect(field).to_be_focused()
    field.fill("three")
    page.keyboard.press("Escape")
    expect(field).to_have_count(0)
    page.get_by_role("button", name="Edit the question").first.click()
    field.fill("three")
    page.keyboard.press("Enter")
    expect(answers(page)).to_have_text(["third"])
    expect(page.locator(".question .pager")).to_have_text("2/2")
    assert state.asked[-1]["messages"] == [{"role": "user", "content": "three"}]
    page.reload()
    expect(answers(page)).to_have_text(["third"])
    page.get_by_role("button", name="Earlier version").click()
    expect(answers(page)).to_have_text(["first", "second"])
    page.get_by_role("button", name="Later version").last.click()
    expect(answers(page)).to_have_text(["first", "second, again"])


@in_browser
def test_a_comparison_asks_two_models_at_once_and_goes_on_with_one(page: Any, state: Imitation) -> None:
    page.get_by_label("Model", exact=True).select_option("finetune")
    page.get_by_role("button", name="Compare two models").click()
    page.get_by_label("Second model").select_option("pretrain")
    ask(page, "endless race")
    expect(answers(page)).to_have_count(2)
    for column in range(2):
        expect(answers(page).nth(column)).to_contain_text("word word")
    page.get_by_role("button", name="Stop finetune").click()
    expect(page.locator(".answer").nth(0)).to_have_attribute("aria-busy", "false")
    expect(page.locator(".answer").nth(1)).to_have_attribute("aria-busy", "true")
    page.get_by_role("button", name="Stop pretrain").click()
    expect(page.locator(".answer[aria-busy=false]")).to_have_count(2)
    ask(page, "who?")
    answered(page, 4)
    assert {one["model"] for one in state.asked[:2]} == {"finetune", "pretrain"}
    told = {one["model"]: one["messages"][1]["content"] for one in state.asked[2:]}
    assert told["finetune"] != told["pretrain"], "each goes on with its own answers"
    expect(answers(page)).to_have_text(
        [re.compile("word"), re.compile("word"), "finetune says: who?", "pretrain says: who?"]
    )
    page.get_by_role("button", name="Continue with this").nth(1).click()
    expect(page.get_by_label("Second model")).to_be_hidden()
    expect(page.get_by_label("Model", exact=True)).to_have_value("pretrain")
    ask(page, "more")
    expect(answers(page).last).to_have_text("pretrain says: more")
    assert state.asked[-1]["messages"][-2]["content"] == "pretrain says: who?"
    page.reload()
    expect(answers(page)).to_have_count(5)
    expect(page.get_by_label("Model", exact=True)).to_have_value("pretrain")


@in_browser
def test_a_reload_keeps_conversation_draft_model_and_settings(page: Any, state: Imitation) -> None:
    page.get_by_label("Model", exact=True).select_option("finetune")
    page.get_by_role("button", name="Settings").click()
    panel = page.get_by_role("dialog", name="Settings")
    panel.get_by_label("System prompt").fill("Be brief.")
    panel.locator("#temperature").fill("0.25")
    panel.locator("#top_k").fill("40")
    panel.locator("#max_tokens").fill("")
    panel.get_by_text("Fixed", exact=True).click()
    panel.get_by_label("Fixed seed").fill("7")
    panel.get_by_role("button", name="Close").click()
    ask(page, "hello")
    answered(page)
    body = state.asked[0]
    assert body["messages"][0] == {"role": "system", "content": "Be brief."}
    assert (body["model"], body["temperature"], body["top_k"], body["seed"]) == ("finetune", 0.25, 40, 7)
    assert "max_tokens" not in body
    page.get_by_label("Your question").fill("half a thought")
    page.reload()
    expect(page.get_by_label("Your question")).to_have_value("half a thought")
    expect(answers(page)).to_have_text(["finetune says: hello"])
    expect(page.get_by_label("Model", exact=True)).to_have_value("finetune")
    page.get_by_label("Model", exact=True).select_option("reinforce")
    page.get_by_role("button", name="Settings").click()
    expect(panel.locator("#temperature")).to_have_value("0.25")
    expect(panel.get_by_label("Fixed seed")).to_have_value("7")
    expect(panel.locator("#system-help")).to_contain_text(PROMPT)
    panel.get_by_role("button", name="Use the prompt it was taught with").click()
    expect(panel.get_by_label("System prompt")).to_have_value(PROMPT)
    panel.get_by_role("button", name="Back to the defaults").click()
    expect(panel.locator("#temperature")).to_have_value("0.7")


@in_browser
def test_an_answer_cut_by_a_reload_is_kept(page: Any) -> None:
    ask(page, "endless night")
    expect(answers(page)).to_contain_text("word word word")
    page.reload()
    expect(answers(page)).to_contain_text("word word word")
    expect(page.get_by_role("alert")).to_contain_text("closed before the answer ended")


HOSTILE = {
    "<script>window.hit = 1</script> & <b>bold</b>": "<script>window.hit = 1</script> & <b>bold</b>",
    '<img src="x" onerror="window.hit = 1">': '<img src="x" onerror="window.hit = 1">',
    "[press](javascript:window.hit=1)": "[press](javascript:window.hit=1)",
    "[press](  JaVaScRiPt:window.hit=1 )": "[press](  JaVaScRiPt:window.hit=1 )",
    "[press](java\tscript:window.hit=1)": "[press](java\tscript:window.hit=1)",
    "[press](data:text/html,<script>window.hit=1</script>)": "[press](data:text/html,<script>window.hit=1</script>)",
    "<javascript:window.hit=1>": "<javascript:window.hit=1>",
    "![picture](https://elsewhere.example/pixel.png)": "picture",
    "[[a](https://a.example)](https://b.example)": "[a](https://b.example)",
    "&lt;script&gt;": "<script>",
    "```html\n<script>window.hit = 1</script>": "html\nCopy\n<script>window.hit = 1</script>",
    "```\nhalf an": "Copy\nhalf an",
    "| a |\n|---|\n| <iframe src=https://elsewhere.example> |": "a\n<iframe src=https://elsewhere.example>",
    "# <svg onload=window.hit=1>": "<svg onload=window.hit=1>",
    "1) **un*closed": "**un*closed",
    "snake_case_name and 2 * 3 * 4": "snake_case_name and 2 * 3 * 4",
    "costs $5 and $6, $x_1 * y_2 * z$, \\(a_b*c*\\)": "costs $5 and $6, $x_1 * y_2 * z$, \\(a_b*c*\\)",
    "他说**“你好”**就走了": "他说“你好”就走了",
}
"""What a model may write, and what is to be read of it."""


@in_browser
def test_whatever_a_model_writes_is_shown_and_never_run(page: Any, state: Imitation) -> None:
    state.answers.update({f"case {number}": text for number, text in enumerate(HOSTILE)})
    for number, expected in enumerate(HOSTILE.values()):
        ask(page, f"case {number}")
        answered(page, number + 1)
        assert answers(page).last.inner_text().strip() == expected
    assert page.evaluate("window.hit") is None
    assert page.locator(".md script, .md img, .md iframe, .md svg:not(.i)").count() == 0
    for anchor in page.locator(".md a").all():
        assert re.match("https?:", anchor.get_attribute("href"))
        assert "noopener" in anchor.get_attribute("rel")
    expect(page.locator(".md").last.locator("strong")).to_have_text("“你好”")


MARKDOWN = """# Title

A *word*, a **strong _one_**, `code`, ~~gone~~, [a link](https://a.example/x_(y)), https://b.example/z.

1. one
   - inner
     - deeper

   still one
2. two

- a
- b

| left | right |
|:--|--:|
| `a|b` | **2** |

> quote
> - item

---

```python
def f(x):  # half
    return \"\"\"three
    lines\"\"\" + 'x'
```

Under
=====

$$
a * b
- c
$$

- [x](mailto:a@b.example)

1. after
2. last
"""


@in_browser
def test_markdown_becomes_the_right_nodes_however_it_arrives(page: Any, state: Imitation) -> None:
    state.answers["all"] = MARKDOWN
    state.step = 0.002
    ask(page, "all")
    answered(page)
    made = answers(page).evaluate(OUTLINE)
    assert made == [
        "h1", "p(em strong(em) code del a a)", "ol(li(p ul(li(ul(li))) p) li(p))", "ul(li li)",
        "div(table(thead(tr(th th)) tbody(tr(td(code) td(strong)))))", "blockquote(p ul(li))", "hr", "figure",
        "h1", "div", "ul(li(a))", "ol(li li)",
    ]  # fmt: skip
    code = page.locator(".md pre code")
    expect(code).to_have_text('def f(x):  # half\n    return """three\n    lines""" + \'x\'', use_inner_text=True)
    assert code.locator(".k").all_inner_texts() == ["def", "return"]
    assert code.locator(".s").all_inner_texts() == ['"""three\n    lines"""', "'x'"]
    streamed = answers(page).evaluate("box => box.outerHTML")
    page.get_by_role("button", name="Copy", exact=True).click()
    expect(page.locator("#live")).to_have_text("Copied")
    assert page.evaluate("navigator.clipboard.readText()").startswith("def f(x):")
    page.reload()
    assert answers(page).evaluate("box => box.outerHTML") == streamed, "drawn at once or bit by bit, it is the same"
    page.get_by_role("button", name="Copy the answer").click()
    expect(page.locator("#live")).to_have_text("Copied")
    assert page.evaluate("navigator.clipboard.readText()") == MARKDOWN


OUTLINE = """box => {
  const line = (node) => {
    if (node.tagName === "FIGURE") return "figure";
    const inside = [...node.children].map(line).join(" ");
    return node.tagName.toLowerCase() + (inside ? `(${inside})` : "");
  };
  return [...box.children].map(line);
}"""


@in_browser
def test_every_prefix_of_an_answer_is_drawn_as_if_it_were_all(page: Any) -> None:
    """The part that grows is drawn anew, the rest is kept: at each length both must agree with a drawing from nothing."""
    different = page.evaluate(
        """text => {
          const grown = new Paper(document.createElement("div"));
          const wrong = [];
          for (let end = 1; end <= text.length; end += 1) {
            const piece = text.slice(0, end);
            const whole = new Paper(document.createElement("div"));
            grown.show(piece, true);
            whole.show(piece, true);
            if (!grown.box.isEqualNode(whole.box)) wrong.push(piece.slice(-30));
          }
          return wrong;
        }""",
        MARKDOWN,
    )
    assert different == []


@in_browser
def test_a_long_answer_and_nonsense_are_drawn_in_time(page: Any) -> None:
    """Milliseconds a piece late in an answer of 400 KB, and for texts made to be slow to read."""
    piece, late, slowest = page.evaluate(
        """markdown => {
          const text = markdown.repeat(900);
          const paper = new Paper(document.createElement("div"));
          for (let end = 0; end < text.length - 4000; end += 4000) paper.show(text.slice(0, end), true);
          let began = performance.now();
          for (let end = text.length - 400; end < text.length; end += 4) paper.show(text.slice(0, end), true);
          const late = (performance.now() - began) / 100;
          const code = "```python\\n" + "print('x')  # word\\n".repeat(20000);
          const other = new Paper(document.createElement("div"));
          other.show(code, true);
          began = performance.now();
          for (let n = 1; n <= 100; n += 1) other.show(code + "x = 1\\n".repeat(n), true);
          const piece = (performance.now() - began) / 100;
          let slowest = 0;
          const parts = ["*a _b ", "[", "[a](", "`a ``b ", "$", "> ", "- ", "  ", "|-", "**", "<!", "1. ", "![", "~~x"];
          for (const part of parts) {
            began = performance.now();
            new Paper(document.createElement("div")).show(part.repeat(8000), true);
            slowest = Math.max(slowest, performance.now() - began);
          }
          return [piece, late, slowest];
        }""",
        MARKDOWN,
    )
    assert late < 30
    assert piece < 60
    assert slowest < 1500


@in_browser
def test_errors_are_shown_where_they_happen_and_can_be_retried(page: Any, state: Imitation) -> None:
    ask(page, "fail once")
    expect(page.get_by_role("alert")).to_contain_text("The model is being loaded")
    page.get_by_role("button", name="Try again").click()
    expect(answers(page)).to_have_text(["reinforce says: fail once"])
    expect(page.locator(".pager")).to_have_count(0)
    state.answers["break it"] = state.answers["cut it"] = "This is what came before the end of it all."
    ask(page, "break it")
    expect(page.get_by_role("alert")).to_contain_text("ran out of memory")
    expect(answers(page).last).to_have_text("This is what came bef")
    ask(page, "cut it")
    expect(page.get_by_role("alert").last).to_contain_text("The connection ended before the answer did")
    expect(answers(page).last).to_have_text("This is what came bef")
    page.context.set_offline(True)
    page.get_by_role("button", name="Answer again").first.click()
    expect(page.get_by_role("alert").first).to_contain_text("The server does not answer")
    page.context.set_offline(False)
    page.get_by_role("button", name="Try again").first.click()
    expect(answers(page).first).to_have_text("reinforce says: fail once")


@in_browser
def test_a_conversation_that_outgrows_the_context_goes_on_without_its_beginning(page: Any, state: Imitation) -> None:
    state.room = 4
    page.evaluate("settings.system = 'Be brief.'")
    for number, text in enumerate(("one", "two", "three", "four")):
        ask(page, text)
        answered(page, number + 1)
    told = [[message["content"] for message in body["messages"]] for body in state.asked]
    assert told[-1] == ["Be brief.", "three", "reinforce says: three", "four"]
    assert len(told) == 4 + 1 + 1, "each drops one round more than the one before"
    expect(page.locator(".figures").nth(2)).to_contain_text("1 earlier question left out")
    expect(page.locator(".figures").nth(3)).to_contain_text("2 earlier questions left out")
    state.room = 1
    ask(page, "five")
    expect(page.get_by_role("alert")).to_contain_text("The conversation is too long.")


@in_browser
def test_models_that_cannot_be_read_are_told_and_asked_for_again(page: Any, state: Imitation) -> None:
    page.route("**/v1/models", lambda route: route.abort())
    page.reload()
    expect(page.get_by_role("alert")).to_contain_text("The models could not be read: The server does not answer.")
    page.unroute("**/v1/models")
    page.get_by_role("button", name="Try again").click()
    expect(page.get_by_role("alert")).to_have_count(0)
    ask(page, "hello")
    answered(page)


@in_browser
def test_each_paragraph_runs_in_its_own_direction(page: Any, state: Imitation) -> None:
    state.answers["both"] = "שלום **עולם**\n\nHello world\n\n- مرحبا"
    ask(page, "both")
    answered(page)
    directions = "box => [...box.querySelectorAll('p, li')].map((node) => getComputedStyle(node).direction)"
    assert answers(page).evaluate(directions) == ["rtl", "ltr", "rtl"]


@in_browser
def test_two_tabs_show_the_same_conversations(page: Any, address: str) -> None:
    other = page.context.new_page()
    other.goto(address)
    ask(page, "from the first")
    answered(page)
    other.get_by_role("link", name="from the first").click()
    expect(answers(other)).to_have_text(["reinforce says: from the first"])
    page.bring_to_front()
    ask(page, "and more")
    answered(page, 2)
    expect(answers(other)).to_have_count(2)
    page.get_by_role("button", name="Conversation menu").click()
    page.get_by_role("menuitem", name="Delete").click()
    expect(other.get_by_role("heading", name="What would you like to ask?")).to_be_visible()
    expect(other.get_by_role("link")).to_have_count(0)


@in_browser
def test_a_key_is_asked_for_once_and_kept_in_the_tab_alone(page: Any, state: Imitation) -> None:
    state.key = "open sesame"
    ask(page, "hello")
    dialog = page.get_by_role("dialog", name="This server asks for a key")
    expect(dialog).to_be_visible()
    dialog.get_by_label("Key").fill("wrong")
    page.keyboard.press("Enter")
    expect(dialog).to_contain_text("did not accept that key")
    dialog.get_by_role("button", name="Cancel").click()
    expect(page.get_by_role("alert")).to_contain_text("The server needs a key.")
    page.get_by_role("button", name="Compare two models").click()
    ask(page, "both")
    dialog.get_by_label("Key").fill("open sesame")
    dialog.get_by_role("button", name="Use this key").click()
    expect(answers(page)).to_have_text(["", "reinforce says: both", "finetune says: both"])
    page.reload()
    expect(page.locator("#model option")).to_have_count(len(MODELS))
    expect(dialog).to_be_hidden()
    assert "sesame" not in page.evaluate("JSON.stringify(localStorage)")


@in_browser
def test_conversations_are_listed_searched_renamed_exported_and_deleted(
    page: Any, state: Imitation, tmp_path: Path
) -> None:
    for text in ("apples", "pears"):
        ask(page, text)
        answered(page)
        page.keyboard.press("Control+Shift+O")
        expect(page.get_by_role("heading", name="What would you like to ask?")).to_be_visible()
        expect(page.get_by_label("Your question")).to_be_focused()
    side = page.get_by_role("navigation", name="Conversations")
    expect(side.get_by_role("link")).to_have_text(["pears", "apples"])
    page.get_by_label("Search conversations").fill("says: APP")
    expect(side.get_by_role("link")).to_have_text(["apples"])
    side.get_by_role("link", name="apples").click()
    expect(answers(page)).to_have_text(["reinforce says: apples"])
    page.get_by_label("Search conversations").fill("")
    page.get_by_role("button", name="Conversation menu").click()
    page.get_by_role("menuitem", name="Rename").click()
    page.get_by_label("Title").fill("Fruit")
    page.keyboard.press("Enter")
    expect(side.get_by_role("link")).to_have_text(["pears", "Fruit"])
    for kind in ("Markdown", "JSON"):
        page.get_by_role("button", name="Conversation menu").click()
        with page.expect_download() as download:
            page.get_by_role("menuitem", name=f"Export as {kind}").click()
        saved = tmp_path / download.value.suggested_filename
        download.value.save_as(saved)
        text = saved.read_text(encoding="utf-8")
        if kind == "Markdown":
            assert saved.name == "Fruit.md"
            assert text == "# Fruit\n\n## You\n\napples\n\n## reinforce\n\nreinforce says: apples\n"
        else:
            assert json.loads(text)["title"] == "Fruit"
    page.get_by_role("button", name="Menu of “Fruit”").click()
    page.get_by_role("menuitem", name="Delete").click()
    expect(side.get_by_role("link")).to_have_text(["pears"])
    expect(page.get_by_role("heading", name="What would you like to ask?")).to_be_visible()
    page.get_by_role("button", name="Undo").click()
    expect(side.get_by_role("link")).to_have_text(["pears", "Fruit"])
    page.go_back()
    page.reload()
    expect(side.get_by_role("link")).to_have_text(["pears", "Fruit"])


@in_browser
def test_an_answer_goes_on_while_another_conversation_is_read(page: Any, state: Imitation) -> None:
    state.answers["slow river"] = "It flows " * 6 + "to the sea."
    ask(page, "slow river")
    expect(answers(page)).to_contain_text("It")
    page.get_by_role("button", name="New conversation").click()
    ask(page, "other")
    answered(page)
    page.get_by_role("link", name="slow river").click()
    expect(answers(page)).to_contain_text("to the sea.")


@in_browser
def test_broken_and_full_storage_are_told_and_break_nothing(page: Any, state: Imitation) -> None:
    ask(page, "kept")
    answered(page)
    page.evaluate(
        """() => {
          localStorage.setItem("sapience-chat:chat:one", "{not json");
          const lacking = { id: "two", title: "x", updated: 1, turns: {}, answers: {}, start: { shown: 0, turns: ["gone"] } };
          localStorage.setItem("sapience-chat:chat:two", JSON.stringify(lacking));
          localStorage.setItem("sapience-chat:settings", '{"temperature":"hot","theme":5,"top_p":0.5,"tongue":"xx"}');
        }"""
    )
    page.reload()
    expect(page.locator(".note")).to_contain_text("2 kept conversations could not be read")
    expect(answers(page)).to_have_text(["reinforce says: kept"])
    page.evaluate(
        """() => {
          let text = "x".repeat(1 << 20);
          for (let n = 0; text.length; n += 1) {
            try { localStorage.setItem("filler" + n, text); } catch { text = text.slice(0, text.length >> 1); }
          }
        }"""
    )
    ask(page, "too much")
    answered(page, 2)
    assert state.asked[-1]["top_p"] == 0.5
    assert state.asked[-1]["temperature"] == 0.7
    expect(page.locator(".note").last).to_contain_text("storage is full")
    expect(answers(page).last).to_have_text("reinforce says: too much")


@in_browser
def test_scrolling_follows_until_the_reader_looks_up(page: Any, state: Imitation) -> None:
    page.set_viewport_size({"width": 700, "height": 420})
    state.answers["poem"] = "\n\n".join(f"Verse {number}." for number in range(300))
    state.step = 0.004
    ask(page, "poem")
    gap = "() => { const s = document.getElementById('scroll'); return s.scrollHeight - s.scrollTop - s.clientHeight; }"
    top = "document.getElementById('scroll').scrollTop"
    expect(answers(page)).to_contain_text("Verse 40.")
    assert page.evaluate(gap) < 80
    page.mouse.move(350, 200)
    page.mouse.wheel(0, -250)
    expect(page.get_by_role("button", name="To the end")).to_be_visible()
    seen, written = page.evaluate(top), len(answers(page).inner_text())
    page.wait_for_function("n => document.querySelector('.answer .md').innerText.length > n + 200", arg=written)
    assert page.evaluate(top) == seen, "what is being read stays where it is"
    page.get_by_role("button", name="To the end").click()
    answered(page)
    page.wait_for_function(f"({gap})() < 2")
    expect(page.get_by_role("button", name="To the end")).to_be_hidden()


@in_browser
def test_enter_inside_an_input_method_sends_nothing_and_shift_starts_a_line(page: Any, state: Imitation) -> None:
    field = page.get_by_label("Your question")
    field.fill("你hao")
    field.evaluate(
        """node => node.dispatchEvent(
            new KeyboardEvent("keydown", { key: "Enter", isComposing: true, bubbles: true, cancelable: true }))"""
    )
    field.press("Shift+Enter")
    field.press_sequentially("x")
    expect(field).to_have_value("你hao\nx")
    assert state.asked == []


@in_browser
def test_everything_can_be_reached_by_key(page: Any, state: Imitation) -> None:
    page.keyboard.type("by key")
    page.keyboard.press("Enter")
    answered(page)
    seen = []
    for _ in range(40):
        page.keyboard.press("Tab")
        name, marked = page.evaluate(
            """() => { const e = document.activeElement;
              const marked = e === document.body || e.id === "ask" || getComputedStyle(e).outlineStyle !== "none";
              return [e === document.body ? "" : e.getAttribute("aria-label") || e.textContent.trim(), marked]; }"""
        )
        assert marked, f"{name}: the focus is not seen"
        seen.append(name)
    for wanted in (
        *("New conversation", "Search conversations", "by key", "Model", "Compare two models", "Settings"),
        *("Conversation menu", "Copy the question", "Edit the question", "Copy the answer", "Answer again"),
        "Your question",
    ):
        assert wanted in seen
    page.get_by_role("button", name="Conversation menu").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("menuitem", name="Rename")).to_be_focused()
    page.keyboard.press("ArrowUp")
    expect(page.get_by_role("menuitem", name="Delete")).to_be_focused()
    page.keyboard.press("Escape")
    expect(page.get_by_role("button", name="Conversation menu")).to_be_focused()


@in_browser
@pytest.mark.parametrize("page", [{"locale": "zh-CN"}], indirect=True)
def test_chinese_is_spoken_where_the_browser_does(page: Any) -> None:
    assert page.evaluate("document.documentElement.lang") == "zh-CN"
    expect(page.get_by_role("heading", name="想问点什么？")).to_be_visible()
    page.get_by_label("你的问题").fill("你好")
    page.get_by_role("button", name="发送").click()
    expect(page.locator(".figures")).to_contain_text("个词元")
    page.get_by_role("button", name="设置").click()
    expect(page.get_by_role("dialog", name="设置")).to_contain_text("温度")
    page.keyboard.press("Escape")
    page.get_by_role("button", name="English").click()
    expect(page.get_by_label("Your question")).to_be_visible()
    expect(page.locator(".figures")).to_contain_text("drafts accepted")
    page.reload()
    assert page.evaluate("document.documentElement.lang") == "en"


@in_browser
def test_the_appearance_can_be_switched_and_is_kept(page: Any) -> None:
    shade = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(shade)
    page.emulate_media(color_scheme="dark")
    dark = page.evaluate(shade)
    assert dark != light
    page.get_by_role("button", name="Appearance: Automatic").click()
    assert page.evaluate(shade) == light
    page.emulate_media(color_scheme="light")
    page.get_by_role("button", name="Appearance: Light").click()
    assert page.evaluate(shade) == dark
    page.reload()
    assert page.evaluate(shade) == dark


@in_browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(
    "page", [{"viewport": {"width": 360, "height": 700}, "has_touch": True, "is_mobile": True}], indirect=True
)
def test_a_telephone_has_room_for_everything(page: Any, state: Imitation, scheme: str) -> None:
    page.emulate_media(color_scheme=scheme)
    state.answers["wide"] = (
        MARKDOWN + "\n| a | b | c | d | e |\n|-|-|-|-|-|\n| 1 | 2 | 3 | 4 | 5 |\n\n`" + "x" * 200 + "`\n"
    )
    expect(page.get_by_role("navigation", name="Conversations")).to_be_hidden()
    fits(page)
    field, send = page.get_by_label("Your question"), page.get_by_role("button", name="Send")
    field.fill("wide")
    send.tap()
    answered(page)
    page.get_by_role("button", name="Compare two models").tap()
    field.fill("w" * 200)
    field.press("Enter")
    expect(field).to_have_value("w" * 200 + "\n")
    send.tap()
    answered(page, 3)
    fits(page)
    assert page.evaluate(CONTRAST) == []
    page.get_by_role("button", name="Show conversations").tap()
    expect(page.get_by_role("link", name="wide")).to_be_visible()
    fits(page)
    page.get_by_role("link", name="wide").tap()
    expect(page.get_by_role("navigation", name="Conversations")).to_be_hidden()
    page.get_by_role("button", name="Settings").tap()
    expect(page.get_by_role("dialog", name="Settings")).to_be_visible()
    fits(page)
    assert page.evaluate(CONTRAST) == []


def fits(page: Any) -> None:
    """Nothing is wider than the screen, and what is pressed is as wide and as high as a finger."""
    assert page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth") <= 0
    assert page.evaluate("(s => s.scrollWidth - s.clientWidth)(document.getElementById('scroll'))") <= 0
    small = page.evaluate(
        """() => [...document.querySelectorAll("button, select, #list a, #ask")]
          .filter((e) => e.checkVisibility() && !e.closest("[inert]"))
          .map((e) => [e.getAttribute("aria-label") || e.textContent.trim(), e.getBoundingClientRect()])
          .filter(([, box]) => box.height < 40 || box.width < 40)
          .map(([name, box]) => [name, box.width, box.height])"""
    )
    assert small == []


CONTRAST = """() => {
  const canvas = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
  const parse = (colour) => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = colour;
    canvas.fillRect(0, 0, 1, 1);
    return canvas.getImageData(0, 0, 1, 1).data;
  };
  const light = (c) => [...c].slice(0, 3).map((v) => v / 255)
    .map((v) => (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = (e) => { for (; e; e = e.parentElement) {
    const c = parse(getComputedStyle(e).backgroundColor); if (c[3] > 250) return c; } return [255, 255, 255]; };
  const words = (e) => [...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim());
  const modal = document.querySelector("dialog[open]") || document.body;
  const away = ".away, :disabled, option, script, style";
  const texts = [...modal.querySelectorAll("*")]
    .filter((e) => words(e) && e.checkVisibility({ opacityProperty: true }) && !e.closest(away));
  return texts.map((e) => {
    const [a, b] = [light(parse(getComputedStyle(e).color)), light(behind(e))].sort((x, y) => y - x);
    return [e.textContent.trim().slice(0, 30), (a + 0.05) / (b + 0.05)];
  }).filter(([, ratio]) => ratio < 4.5);
}"""
"""Texts whose contrast with what is behind them is below WCAG AA's 4.5."""
