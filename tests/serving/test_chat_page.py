"""The chat page in a real browser: what a person does, and what must never happen."""

import json
import re
from pathlib import Path
from typing import Any

from chat_page_server import MODELS, PROMPT, Imitation
from chat_page_visit import SOON, address, answered, answers, ask, browser, expect, in_browser, page, shared, state

from sapience.serving.chat_page import page_response


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
