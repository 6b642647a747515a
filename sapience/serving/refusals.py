"""Mistakes as OpenAI's clients read them: a status and {"error": {"message", "type", "param", "code"}}.

JSON is written here too: a refusal may quote what no encoding holds (halves of surrogate pairs), and that must not fail.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi.responses import JSONResponse
from pydantic import BaseModel

INVALID = "invalid_request_error"
SERVER = "server_error"


class ErrorBody(BaseModel):
    """What went wrong."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorReply(BaseModel):
    """The reply to a request that is not served."""

    error: ErrorBody


class Refused(Exception):
    """A request that is not served, and why."""

    def __init__(
        self,
        status: int,
        message: str,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code
        self.headers = dict(headers or {})

    @property
    def body(self) -> dict[str, Any]:
        """OpenAI's error object."""
        kind = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}.get(
            self.status, INVALID if self.status < 500 else SERVER
        )
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    @property
    def reply(self) -> "Json":
        """As a response."""
        return Json(self.body, self.status, self.headers)


class Json(JSONResponse):
    """JSON in UTF-8, whatever the texts in it are."""

    def render(self, content: Any) -> bytes:
        return as_json(content)


def as_json(content: Any) -> bytes:
    """One line; characters that UTF-8 cannot hold become a question mark."""
    text = json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.encode("utf-8", "replace")


def of_validation(errors: Sequence[Mapping[str, Any]]) -> Refused:
    """What pydantic found first, in OpenAI's words."""
    first = errors[0]
    param = _path(first["loc"])
    kind = first["type"]
    if kind == "json_invalid":
        return Refused(400, f"the body is not JSON: {first.get('ctx', {}).get('error', first['msg'])}")
    if kind == "extra_forbidden":
        return Refused(400, f"Unrecognized request argument supplied: {param}", param, "unknown_parameter")
    if kind == "missing":
        what = f"Missing required parameter: '{param}'" if param else "the request has no body"
        return Refused(400, what, param or None, "missing_required_parameter")
    code = "invalid_type" if kind.endswith("_type") else "invalid_value"
    return Refused(400, f"Invalid '{param or 'body'}': {first['msg']}", param or None, code)


def _path(places: Sequence[int | str]) -> str:
    """`messages[0].content` of where pydantic looked, without its names for the members of a union."""
    path = ""
    for place in places[1:]:
        if isinstance(place, int):
            path += f"[{place}]"
        elif place.isidentifier() and place not in _MEMBERS and not place[0].isupper():
            path += f".{place}" if path else place
    return path


_MEMBERS = frozenset({"str", "int", "float", "bool", "assistant", "developer", "system", "tool", "json_object"})
"""Members of unions, and tags of discriminated ones, as pydantic calls them."""
