"""The review page in a real browser: every way to judge, by mouse and by key, and what must never happen on the way."""

import shutil
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from sapience.review.page import review_app, swapped
from sapience.review.queue import ReviewQueue, queue_url
from sapience.review.records import Comparison, Draft

playwright_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine: apt-get install chromium")
expect = playwright_api.expect
SOON = 10_000

DRAFTS = [
    Draft.of((("system", "Be brief."), ("user", "What is dew?")), "Water from the air.", "en", "science", "s"),
    Draft.of((("user", "怎样泡一壶好茶？"),), "用开水泡三分钟。", "zh", "everyday", "s"),
    Draft.of((("user", "<img src=x onerror=alert(1)>"),), "<script>alert(2)</script> **raw**", "en", "markup", "s"),
    Draft.of((("user", "Last?"),), "Yes.", "x onclick=alert(3)", "", "s"),
]
PAIRS = [
    Comparison.of(
        (("user", "Why is the sky blue?"),), "Because it is.", "Short waves scatter more.", "en", "science", "s"
    ),
    Comparison.of((("user", "一年有几个月？"),), "十二个月。", "大约十个月。", "zh", "facts", "s"),
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright_api.sync_playwright() as play:
        opened = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def queue(tmp_path: Path) -> Iterator[ReviewQueue]:
    opened = ReviewQueue.open(queue_url(tmp_path))
    opened.add_drafts(DRAFTS)
    opened.add_comparisons(PAIRS)
    yield opened
    opened.close()


@pytest.fixture
def address(queue: ReviewQueue) -> Iterator[str]:
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(review_app(queue), log_level="warning"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield f"http://127.0.0.1:{listener.getsockname()[1]}/"
    server.should_exit = True
    thread.join()


@pytest.fixture
def page(browser: Any, address: str) -> Iterator[Any]:
    """A fresh visit; whatever a test does, the page makes no error, asks nobody else and opens no dialog."""
    context = browser.new_context()
    opened = context.new_page()
    opened.set_default_timeout(SOON)
    wrong: list[str] = []
    opened.on("console", lambda message: wrong.append(message.text) if message.type in ("error", "warning") else None)
    opened.on("pageerror", lambda error: wrong.append(str(error)))
    opened.on(
        "request", lambda request: None if request.url.startswith((address, "data:")) else wrong.append(request.url)
    )
    opened.on("dialog", lambda dialog: (wrong.append(dialog.message), dialog.dismiss()))
    opened.goto(address)
    yield opened
    context.close()
    assert wrong == []


def enter_as(page: Any, name: str) -> None:
    page.get_by_label("Your name").fill(name)
    page.get_by_role("button", name="Start").click()
    expect(page.locator("#answers article").first).to_be_visible()


def question(page: Any) -> Any:
    return page.locator(".question.open .text")


def test_answers_by_mouse(page: Any, queue: ReviewQueue) -> None:
    enter_as(page, "ada")
    expect(question(page)).to_have_text("What is dew?")
    expect(page.locator("#conversation .text").first).to_have_text("Be brief.")
    page.get_by_role("button", name="Accept").click()
    expect(question(page)).to_have_text("怎样泡一壶好茶？")
    expect(page.locator("#said")).to_have_text("Accepted.")
    assert question(page).get_attribute("lang") == "zh"
    page.get_by_role("button", name="Edit").click()
    expect(page.get_by_label("The answer as it should be")).to_have_value("用开水泡三分钟。")
    page.get_by_label("The answer as it should be").fill("用八十度的水泡两分钟。")
    page.get_by_role("button", name="Confirm").click()
    expect(question(page)).to_have_text("<img src=x onerror=alert(1)>")
    page.get_by_role("button", name="Reject").click()
    page.get_by_label("Why?").fill("not an answer")
    page.get_by_role("button", name="Confirm").click()
    expect(question(page)).to_have_text("Last?")
    expect(page.locator("#figures")).to_contain_text("1 accepted")
    counts = queue.counts()
    assert (counts.accepted, counts.edited, counts.rejected) == (1, 1, 1)
    assert "用八十度的水泡两分钟。" in [one.answer for one in queue.reviewed()]


def test_answers_and_comparisons_by_key(page: Any, queue: ReviewQueue) -> None:
    enter_as(page, "ada")
    page.keyboard.press("a")
    expect(question(page)).to_have_text("怎样泡一壶好茶？")
    page.keyboard.press("e")
    expect(page.locator("#edit")).to_be_focused()
    page.keyboard.press("Control+a")
    page.keyboard.type("areu 120?")
    expect(page.locator("#edit")).to_have_value("areu 120?")
    page.keyboard.press("Control+Enter")
    expect(question(page)).to_contain_text("img")
    page.keyboard.press("r")
    expect(page.locator("#reason")).to_be_focused()
    page.keyboard.type("no")
    page.keyboard.press("Enter")
    expect(question(page)).to_have_text("Last?")
    page.keyboard.press("r")
    page.keyboard.press("Escape")
    page.keyboard.press("a")
    expect(page.get_by_text("Nothing waits for you here.", exact=True)).to_be_visible()
    expect(page.locator("#said")).to_have_text("Accepted. Nothing waits for you here.")
    page.get_by_role("tab", name="Answers").focus()
    page.keyboard.press("ArrowRight")
    expect(page.get_by_role("tab", name="Comparisons")).to_have_attribute("aria-selected", "true")
    expect(question(page)).to_have_text("Why is the sky blue?")
    good = 1 if page.locator("#answers .text").first.text_content() == PAIRS[0].second else 2
    page.keyboard.press(str(good))
    expect(page.locator("#reason")).to_be_focused()
    page.keyboard.type("no")
    page.keyboard.press("Enter")
    expect(page.locator("#wrong")).to_contain_text("at least three characters")
    page.keyboard.type("t circular")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("and true")
    page.keyboard.press("Enter")
    expect(question(page)).to_have_text("一年有几个月？")
    page.keyboard.press("0")
    page.keyboard.type("都一样")
    page.keyboard.press("Enter")
    expect(page.get_by_text("Nothing waits for you here.", exact=True)).to_be_visible()
    (preference,) = queue.preferences()
    assert (preference.chosen, preference.reason) == (PAIRS[0].second, "not circular\nand true")
    counts = queue.counts()
    assert (counts.waiting, counts.accepted, counts.edited, counts.rejected, counts.compared) == (0, 2, 1, 1, 2)


def test_undo_offers_the_last_word_again(page: Any, queue: ReviewQueue) -> None:
    enter_as(page, "ada")
    page.keyboard.press("u")
    expect(page.locator("#said")).to_have_text("There is nothing to take back.")
    page.keyboard.press("e")
    page.locator("#edit").fill("Water, condensed.")
    page.keyboard.press("Control+Enter")
    expect(question(page)).to_have_text("怎样泡一壶好茶？")
    page.get_by_role("tab", name="Comparisons").click()
    expect(question(page)).to_have_text("Why is the sky blue?")
    page.keyboard.press("u")
    expect(question(page)).to_have_text("What is dew?")
    expect(page.get_by_role("tab", name="Answers")).to_have_attribute("aria-selected", "true")
    expect(page.locator("#edit")).to_have_value("Water, condensed.")
    assert queue.reviewed() == []
    page.keyboard.press("Control+Enter")
    expect(question(page)).to_have_text("怎样泡一壶好茶？")
    assert [one.answer for one in queue.reviewed()] == ["Water, condensed."]


def test_what_is_typed_survives_a_look_elsewhere(page: Any) -> None:
    enter_as(page, "ada")
    page.keyboard.press("e")
    page.locator("#edit").fill("Half a thou")
    page.get_by_role("tab", name="Comparisons").click()
    expect(question(page)).to_have_text("Why is the sky blue?")
    page.get_by_role("tab", name="Answers").click()
    expect(page.locator("#edit")).to_have_value("Half a thou")
    page.get_by_role("button", name="Cancel").click()
    expect(page.locator("#edit-field")).to_be_hidden()
    page.get_by_role("button", name="Edit").click()
    expect(page.locator("#edit")).to_have_value("Half a thou")
    page.get_by_role("button", name="Cancel").click()


def warned(page: Any) -> bool:
    """Whether leaving the page now would be asked about."""
    return page.evaluate(
        """() => {
            const leaving = new Event("beforeunload", { cancelable: true });
            window.dispatchEvent(leaving);
            return leaving.defaultPrevented;
        }"""
    )


def test_leaving_warns_of_an_edit_that_was_set_aside(page: Any) -> None:
    enter_as(page, "ada")
    page.keyboard.press("e")
    assert not warned(page), "nothing was changed yet"
    page.locator("#edit").fill("Half a thou")
    assert warned(page)
    page.keyboard.press("Escape")
    expect(page.locator("#edit-field")).to_be_hidden()
    assert warned(page)
    page.keyboard.press("a")
    expect(question(page)).not_to_have_text("What is dew?")
    assert not warned(page)


def test_what_one_person_typed_is_not_offered_to_another(page: Any, queue: ReviewQueue) -> None:
    pair = PAIRS[0].identity
    other = next(name for name in ("bo", "cy", "di", "eve", "flo") if swapped(name, pair) != swapped("ada", pair))
    queue.choose(PAIRS[1].identity, other, "equal", "the same")
    enter_as(page, "ada")
    page.get_by_role("tab", name="Comparisons").click()
    expect(question(page)).to_have_text("Why is the sky blue?")
    page.keyboard.press("1")
    page.keyboard.type("says more")
    page.get_by_role("button", name="change").click()
    enter_as(page, other)
    expect(question(page)).to_have_text("Why is the sky blue?")
    expect(page.locator("#reason-field")).to_be_hidden()
    expect(page.locator("#left")).to_have_attribute("aria-pressed", "false")
    page.keyboard.press("0")
    expect(page.locator("#reason")).to_have_value("")
    assert not warned(page)


def test_a_reload_keeps_person_and_place(page: Any) -> None:
    enter_as(page, "陈 da")
    page.get_by_role("tab", name="Comparisons").click()
    expect(question(page)).to_have_text("Why is the sky blue?")
    first = page.locator("#answers .text").first.text_content()
    expected = PAIRS[0].second if swapped("陈 da", PAIRS[0].identity) else PAIRS[0].first
    assert first == expected
    page.reload()
    expect(page.locator("#name")).to_have_text("陈 da")
    expect(question(page)).to_have_text("Why is the sky blue?")
    assert page.locator("#answers .text").first.text_content() == first
    page.get_by_role("button", name="change").click()
    expect(page.get_by_label("Your name")).to_have_value("陈 da")
    enter_as(page, "bo")
    expect(page.locator("#name")).to_have_text("bo")


def test_help_opens_by_key_and_single_keys_can_be_turned_off(page: Any, queue: ReviewQueue) -> None:
    enter_as(page, "ada")
    page.keyboard.press("?")
    expect(page.get_by_role("dialog", name="Keys")).to_be_visible()
    page.keyboard.press("a")
    page.get_by_label("Single keys act").uncheck()
    page.get_by_role("button", name="Close").click()
    expect(page.get_by_role("dialog", name="Keys")).to_be_hidden()
    page.keyboard.press("a")
    page.keyboard.press("r")
    expect(page.locator("#reason")).to_be_hidden()
    assert queue.counts().annotators == 0
    page.reload()
    expect(question(page)).to_have_text("What is dew?")
    page.keyboard.press("r")
    expect(page.locator("#reason")).to_be_hidden()


def test_enter_inside_an_input_method_sends_nothing(page: Any, queue: ReviewQueue) -> None:
    enter_as(page, "ada")
    page.keyboard.press("r")
    page.evaluate(
        """() => document.getElementById("reason").dispatchEvent(
            new KeyboardEvent("keydown", { key: "Enter", isComposing: true, bubbles: true, cancelable: true }))"""
    )
    expect(page.locator("#reason-field")).to_be_visible()
    assert queue.counts().annotators == 0


def test_two_people_get_different_items_and_the_page_says_how_far_they_agree(
    page: Any, browser: Any, address: str, queue: ReviewQueue
) -> None:
    enter_as(page, "ada")
    other = browser.new_context()
    second = other.new_page()
    second.goto(address)
    enter_as(second, "bo")
    assert question(page).text_content() != question(second).text_content()
    other.close()
    for name, action in (("ada", "accept"), ("bo", "reject")):
        queue.decide(DRAFTS[3].identity, name, action)
    page.reload()
    expect(page.locator("#agreement")).to_have_text("Agreement on answers: 0 % over 1 item, Cohen’s κ 0.00")
    expect(page.locator("#figures")).to_contain_text("2 people")


@pytest.mark.parametrize("width", [360, 1200])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_overflows_and_every_control_is_named(page: Any, width: int, scheme: str) -> None:
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": width, "height": 780})
    enter_as(page, "ada")
    for tab in ("Answers", "Comparisons"):
        page.get_by_role("tab", name=tab).click()
        expect(page.locator("#answers article")).to_have_count(1 if tab == "Answers" else 2)
        wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert wide <= 0
    for control in page.locator("button:visible, textarea:visible, input:visible").all():
        assert control.evaluate("e => (e.labels && e.labels.length) || e.textContent.trim().length"), control
    faint = page.evaluate(CONTRAST)
    assert faint == []


CONTRAST = """() => {
  const parse = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const light = (c) => c.slice(0, 3).map((v) => v / 255)
    .map((v) => (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = (e) => { for (; e; e = e.parentElement) {
    const c = parse(getComputedStyle(e).backgroundColor); if (c.length < 4 || c[3] > 0) return c; } return [255, 255, 255]; };
  const texts = [...document.querySelectorAll("h1, h2, p, button, label, span")]
    .filter((e) => e.offsetParent && e.textContent.trim());
  return texts.map((e) => {
    const [a, b] = [light(parse(getComputedStyle(e).color)), light(behind(e))].sort((x, y) => y - x);
    return [e.textContent.trim().slice(0, 30), (a + 0.05) / (b + 0.05)];
  }).filter(([, ratio]) => ratio < 4.5);
}"""
"""Texts whose contrast with what is behind them is below WCAG AA's 4.5."""


def test_who_comes_when_comparisons_alone_wait_begins_with_them(page: Any, queue: ReviewQueue) -> None:
    while (draft := queue.next_draft("ada")) is not None:
        queue.decide(draft.identity, "ada", "accept")
    enter_as(page, "ada")
    expect(page.get_by_role("tab", name="Comparisons")).to_have_attribute("aria-selected", "true")
    expect(page.locator("#answers article")).to_have_count(2)
    page.reload()
    expect(page.get_by_role("tab", name="Comparisons")).to_have_attribute("aria-selected", "true")
