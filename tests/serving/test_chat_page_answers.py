"""How the chat page draws what a model writes: as Markdown, in time, and never run."""

import re
from typing import Any

from chat_page_server import Imitation
from chat_page_visit import MARKDOWN, address, answered, answers, ask, browser, expect, in_browser, page, shared, state

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
