"""The chat page by key, on a telephone, in Chinese, light and dark, and while it scrolls."""

from typing import Any

import pytest
from chat_page_server import Imitation
from chat_page_visit import MARKDOWN, address, answered, answers, ask, browser, expect, in_browser, page, shared, state


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
