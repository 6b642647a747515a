"""The chat page, as one reply: `chat.html` with a policy that lets it run its own script and style and nothing else.

What a model writes is shown by a page that also holds a person's conversations, so the page must not run what it shows.
Its script makes every node one by one and never parses HTML; the policy enforces that twice: script and style are known by
hash, and trusted types refuse any other way in. It talks to its own server alone.

Not covered: who may call the server, and its API; the page asks for a key where it is answered with 401.
"""

import base64
import hashlib
import re
from functools import cache
from pathlib import Path

from starlette.responses import HTMLResponse, Response

PAGE = Path(__file__).with_name("chat.html")


def page_response() -> Response:
    """The page with its headers. Nobody keeps a copy, so a new version is seen on the next visit."""
    text, policy = _page()
    headers = {
        "Content-Security-Policy": policy,
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cross-Origin-Opener-Policy": "same-origin",
        "Cache-Control": "no-store",
    }
    return HTMLResponse(text, headers=headers)


@cache
def _page() -> tuple[str, str]:
    text = PAGE.read_text(encoding="utf-8")
    return text, _policy(text)


def _policy(page: str) -> str:
    """Pictures may come as data only: browsers ask for /favicon.ico unless the page names an (empty) one."""
    allowed = {}
    for tag in ("script", "style"):
        inside = re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        hashes = (base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode() for text in inside)
        allowed[tag] = " ".join(f"'sha256-{value}'" for value in hashes)
    return (
        f"default-src 'none'; script-src {allowed['script']}; style-src {allowed['style']}; connect-src 'self'; "
        "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        "require-trusted-types-for 'script'; trusted-types 'none'"
    )
