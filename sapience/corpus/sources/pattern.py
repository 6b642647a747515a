"""Which files of an archive a recipe's pattern means: `*` within a folder's name, `**` across folders."""

import re
from functools import lru_cache

_TOKENS = re.compile(r"\*\*/|\*\*|\*|\?|[^*?]+")
_MEANING = {"**/": r"(?:.*/)?", "**": r".*", "*": r"[^/]*", "?": r"[^/]"}


@lru_cache(maxsize=256)
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile("".join(_MEANING.get(token) or re.escape(token) for token in _TOKENS.findall(pattern)))


def matches(pattern: str, path: str) -> bool:
    """Whether a path inside an archive, relative and with slashes, matches the whole pattern."""
    return _compiled(pattern).fullmatch(path) is not None
