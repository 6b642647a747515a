"""Pages: nobody loses one, nobody gets another's, a beginning is found as long as nothing needed its room."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sapience.inference.pages import PAGE, Pages, names_of, pages_for


def test_a_name_tells_all_tokens_up_to_the_end_of_a_page() -> None:
    tokens = list(range(3 * PAGE + 5))
    names = names_of(tokens)
    assert len(names) == 3 and len(set(names)) == 3
    assert names_of(tokens[PAGE:], names[0]) == names[1:]
    other = [7, *tokens[1:]]
    assert not set(names) & set(names_of(other))
    assert names_of(tokens[: PAGE - 1]) == []
    assert [pages_for(n) for n in (0, 1, PAGE, PAGE + 1)] == [0, 1, 1, 2]


def test_unused_beginnings_go_when_room_is_needed_the_longest_unused_first() -> None:
    pages = Pages(4)
    first, second = pages.take(2), pages.take(2)
    for page, name in zip([*first, *second], (b"a", b"b", b"c", b"d"), strict=True):
        pages.name(page, name)
    pages.release(second)
    pages.release(first)
    assert pages.free == 4 and pages.find([b"a", b"b", b"x", b"c"]) == first
    pages.share(first[:1])
    assert pages.free == 3
    assert pages.take(1) == second[:1] and pages.find([b"c"]) == []
    with pytest.raises(ValueError, match="3 pages are wanted and 2 of 4 are free"):
        pages.take(3)
    assert pages.find([b"a", b"b"]) == first


def test_what_has_a_name_keeps_it_and_a_second_page_of_that_content_gets_none() -> None:
    pages = Pages(2)
    one, other = pages.take(2)
    pages.name(one, b"a")
    pages.name(other, b"a")
    pages.name(one, b"b")
    assert pages.find([b"a"]) == [one] and pages.find([b"b"]) == []
    pages.release([other])
    assert pages.take(1) == [other]


def test_what_nobody_uses_can_be_forgotten() -> None:
    pages = Pages(3)
    used, unused = pages.take(1), pages.take(2)
    for page, name in zip([*used, *unused], (b"a", b"b", b"c"), strict=True):
        pages.name(page, name)
    pages.release(unused)
    pages.forget()
    assert pages.find([b"a"]) == used and pages.find([b"b"]) == pages.find([b"c"]) == []
    assert sorted(pages.take(2)) == sorted(unused) and pages.free == 0


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 5), st.integers(0, 9)), max_size=60))
def test_no_page_is_lost_or_given_twice(steps: list[tuple[int, int, int]]) -> None:
    pages = Pages(9)
    users: list[list[int]] = []
    for what, amount, which in steps:
        if what == 0 and amount <= pages.free:
            taken = pages.take(amount)
            assert len(set(taken)) == amount
            assert not set(taken) & {page for held in users for page in held}
            users.append(taken)
        elif what == 1 and users:
            pages.release(users.pop(which % len(users)))
        elif what == 2 and users and users[which % len(users)]:
            pages.name(users[which % len(users)][0], bytes([amount]))
        elif what == 3:
            found = pages.find([bytes([amount])])
            pages.share(found)
            users.append(found)
        assert pages.free == 9 - len({page for held in users for page in held})
