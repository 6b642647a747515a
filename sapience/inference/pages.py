"""Which pages of a latent cache hold what: whole pages of a beginning are shared by all that begin so.

A page is named by all tokens up to its end. Pages that nobody uses any more are kept for whoever begins like that again,
until room is needed: then the longest unused goes first.
"""

import hashlib
from array import array
from collections import OrderedDict
from collections.abc import Iterable, Sequence

PAGE = 16
"""Positions of a page."""
Name = bytes


def pages_for(positions: int) -> int:
    """How many hold so many positions."""
    return -(-positions // PAGE)


def names_of(tokens: Sequence[int], before: Name = b"") -> list[Name]:
    """Of the whole pages of tokens that follow the page `before`."""
    names = []
    for start in range(0, len(tokens) - PAGE + 1, PAGE):
        before = hashlib.blake2b(before + array("q", tokens[start : start + PAGE]).tobytes(), digest_size=16).digest()
        names.append(before)
    return names


class Pages:
    """Who uses which page."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._fresh = list(range(count - 1, -1, -1))
        self._users: dict[int, int] = {}
        self._named: dict[Name, int] = {}
        self._names: dict[int, Name] = {}
        self._unused: OrderedDict[int, None] = OrderedDict()
        """Named pages without a user, the longest unused first."""

    @property
    def free(self) -> int:
        """Pages that can be had."""
        return len(self._fresh) + len(self._unused)

    def take(self, count: int) -> list[int]:
        """So many pages, each with one user. Raises ValueError where there are not as many."""
        if count > self.free:
            raise ValueError(f"{count} pages are wanted and {self.free} of {self.count} are free")
        taken = []
        for _ in range(count):
            if self._fresh:
                page = self._fresh.pop()
            else:
                page, _ = self._unused.popitem(last=False)
                del self._named[self._names.pop(page)]
            self._users[page] = 1
            taken.append(page)
        return taken

    def find(self, names: Iterable[Name]) -> list[int]:
        """Pages that hold this beginning, as far as it is kept. They get no user by this."""
        found = []
        for name in names:
            page = self._named.get(name)
            if page is None:
                break
            found.append(page)
        return found

    def share(self, pages: Iterable[int]) -> None:
        """One more user of each."""
        for page in pages:
            self._users[page] = self._users.get(page, 0) + 1
            self._unused.pop(page, None)

    def name(self, page: int, name: Name) -> None:
        """What this page holds from now on, unless another holds the same."""
        if name not in self._named and page not in self._names:
            self._named[name], self._names[page] = page, name

    def forget(self) -> None:
        """What nobody uses is kept no longer."""
        for page in self._unused:
            del self._named[self._names.pop(page)]
            self._fresh.append(page)
        self._unused.clear()

    def release(self, pages: Iterable[int]) -> None:
        """One user less of each."""
        for page in pages:
            self._users[page] -= 1
            if self._users[page] == 0:
                del self._users[page]
                if page in self._names:
                    self._unused[page] = None
                else:
                    self._fresh.append(page)
