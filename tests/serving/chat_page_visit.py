"""A visit to the chat page in Chromium, before a server without a model: fixtures, and what everybody does first."""

import shutil
from collections.abc import Iterator
from typing import Any

import pytest
from chat_page_server import MODELS, Imitation, served

playwright_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
in_browser = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine: apt-get install chromium")
expect = playwright_api.expect
SOON = 5_000
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
