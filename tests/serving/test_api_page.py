"""The chat page and the server that gives it out, together in a browser."""

import shutil

import pytest
from api_server import FakeEngine, fake_speaker, running, says, until

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine: apt-get install chromium")
def test_a_question_asked_on_the_page_is_answered_by_the_server() -> None:
    from playwright.sync_api import expect, sync_playwright

    with running(fake_speaker(FakeEngine(says("Hello **you**."), delay=0.01))) as server, sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page()
        wrong: list[str] = []
        page.on("console", lambda message: wrong.append(message.text))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.goto(f"{server.url}/")
        page.fill("#ask", "Hi")
        page.click("#send")
        expect(page.locator("strong", has_text="you")).to_be_visible()
        until(lambda: server.house.doors.active == 0)
        browser.close()
        assert not wrong and server.engine.counters.drawn_tokens > 5
