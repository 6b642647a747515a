"""The review queue against its contract: who is asked what and when, what may be said, nothing twice, nothing lost."""

import sqlite3
import threading
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa
from review_queues import NAMES, Clock, draft, pair

from sapience.recipe import UserError
from sapience.review import queue as queue_module
from sapience.review.queue import LEASE, ReviewQueue, queue_url
from sapience.review.records import Choice, Comparison, Decision, Draft, RefusedWord, UnknownItem, identify

# What is asked


def test_identity_is_content_and_nothing_else() -> None:
    one = draft(1)
    assert one.identity == identify(one.messages, one.answer)
    assert Draft.of(one.messages, one.answer, "zh", "other", "elsewhere").identity == one.identity
    assert len({identify((("user", "a"),), "b", "c"), identify((("user", "a"),), "bc"), identify((), "b", "c")}) == 3


@pytest.mark.parametrize("bad", ["\0", "\ud800"])
def test_what_no_database_keeps_is_refused_as_a_record(bad: str) -> None:
    with pytest.raises(ValueError, match="decode"):
        Draft.of((("user", "?"),), bad, "en", "", "")
    with pytest.raises(ValueError, match="decode"):
        Comparison.of((("user", bad),), "a", "b", "en", "", "")


def test_records_that_cannot_be_judged_are_refused() -> None:
    with pytest.raises(ValueError, match="open question"):
        Draft.of((("user", "?"), ("assistant", "!")), "a", "en", "", "")
    with pytest.raises(ValueError, match="the same"):
        Comparison.of((("user", "?"),), "a", "a", "en", "", "")
    with pytest.raises(ValueError, match="does not belong"):
        replace(draft(1), answer="another")


def test_adding_again_adds_nothing_and_keeps_what_was_said(queue: ReviewQueue) -> None:
    drafts, pairs = [draft(n) for n in range(1203)], [pair(n) for n in range(3)]
    assert queue.add_drafts(drafts[:700]) == 700
    queue.decide(drafts[0].identity, "ada", "accept")
    assert queue.add_drafts([*drafts, *drafts]) == 503
    assert queue.add_comparisons(pairs) == 3
    assert queue.add_comparisons(iter(pairs)) == 0
    assert [one.draft for one in queue.reviewed()] == drafts[:1]
    assert queue.counts().waiting == 1202 + 3


def test_a_reopened_queue_remembers(url: str) -> None:
    first = ReviewQueue.open(url)
    first.add_drafts([draft(1)])
    first.decide(draft(1).identity, "ada", "edit", "更好的回答")
    mark = first.fingerprint()
    first.close()
    second = ReviewQueue.open(url)
    assert second.fingerprint() == mark
    assert [one.answer for one in second.reviewed()] == ["更好的回答"]
    second.close()


# Who sees what


def test_everybody_sees_everything_once(queue: ReviewQueue) -> None:
    queue.add_drafts(map(draft, range(4)))
    for name in NAMES:
        seen = []
        while (now := queue.next_draft(name)) is not None:
            queue.decide(now.identity, name, "accept")
            seen.append(now)
        assert sorted(one.identity for one in seen) == sorted(draft(n).identity for n in range(4))


def test_asking_again_gives_the_same_item_and_others_get_another(queue: ReviewQueue, clock: Clock) -> None:
    queue.add_drafts(map(draft, range(2)))
    assert queue.next_draft("ada") == queue.next_draft("ada") == draft(0)
    assert queue.next_draft("bo") == draft(1)
    assert queue.next_draft("陈") in (draft(0), draft(1)), "where all are on a screen, one is given twice"
    queue.decide(draft(0).identity, "ada", "accept")
    assert queue.next_draft("ada") == draft(1)


def test_a_lease_ends(queue: ReviewQueue, clock: Clock) -> None:
    queue.add_drafts(map(draft, range(2)))
    queue.next_draft("ada")
    clock.now += LEASE - timedelta(seconds=1)
    assert queue.next_draft("bo") == draft(1)
    clock.now += timedelta(seconds=2)
    assert queue.next_draft("陈") == draft(0)


def test_what_is_on_the_screen_stays_there(queue: ReviewQueue, clock: Clock) -> None:
    queue.add_drafts(map(draft, range(2)))
    assert queue.next_draft("bo") == draft(0)
    clock.now += timedelta(minutes=1)
    assert queue.next_draft("ada") == draft(1)
    clock.now += LEASE - timedelta(seconds=30)
    assert queue.next_draft("ada") == draft(1), "although the earlier one is free again"


def test_a_lease_holds_one_item_of_each_kind(queue: ReviewQueue) -> None:
    queue.add_drafts([draft(0)])
    queue.add_comparisons([pair(0), pair(1)])
    assert queue.next_draft("ada") == draft(0)
    assert queue.next_comparison("ada") == pair(0)
    assert queue.next_comparison("bo") == pair(1)


def test_undo_frees_what_was_on_the_screen(queue: ReviewQueue) -> None:
    queue.add_drafts(map(draft, range(3)))
    queue.decide(draft(0).identity, "ada", "accept")
    assert queue.next_draft("ada") == draft(1)
    queue.undo("ada")
    assert queue.next_draft("bo") == draft(1)
    assert queue.next_draft("ada") == draft(0)


def test_what_still_needs_votes_comes_first(url: str) -> None:
    queue = ReviewQueue.open(url, votes=2)
    queue.add_drafts(map(draft, range(3)))
    for name in ("ada", "bo"):
        queue.decide(draft(0).identity, name, "accept")
    queue.decide(draft(1).identity, "ada", "accept")
    order = []
    while (now := queue.next_draft("陈")) is not None:
        order.append(now)
        queue.decide(now.identity, "陈", "accept")
    assert order == [draft(2), draft(1), draft(0)], "no vote, one vote, settled"
    queue.close()


def test_a_tie_waits_for_another_person(queue: ReviewQueue) -> None:
    queue.add_drafts(map(draft, range(2)))
    queue.decide(draft(0).identity, "ada", "accept")
    queue.decide(draft(0).identity, "bo", "reject")
    queue.decide(draft(1).identity, "ada", "accept")
    assert queue.counts().waiting == 1
    assert queue.next_draft("陈") == draft(0)


# What is said


def test_the_last_word_counts_and_history_stays(tmp_path: Path) -> None:
    queue = ReviewQueue.open(queue_url(tmp_path))
    queue.add_drafts([draft(0)])
    identity = draft(0).identity
    queue.decide(identity, "ada", "reject", reason="dull")
    queue.decide(identity, "ada", "edit", "livelier")
    queue.decide(identity, "ada", "edit", "livelier")
    assert [(one.answer, one.annotators) for one in queue.reviewed()] == [("livelier", ("ada",))]
    assert queue.counts().annotators == 1
    queue.undo("ada")
    assert queue.reviewed() == [], "the word before counts again"
    queue.close()
    with sqlite3.connect(tmp_path / "review.sqlite") as file:
        said = file.execute("select verdict, answer, reason, withdrawn from review_words order by row").fetchall()
    file.close()
    assert said == [("reject", "", "dull", 0), ("edit", "livelier", "", 1)], "a request sent twice is one word"


def test_undo_goes_back_word_by_word(queue: ReviewQueue, clock: Clock) -> None:
    queue.add_drafts([draft(0)])
    queue.add_comparisons([pair(0)])
    empty = queue.fingerprint()
    queue.decide(draft(0).identity, "ada", "accept")
    after_one = queue.fingerprint()
    queue.choose(pair(0).identity, "ada", "second", "more exact")
    queue.decide(draft(0).identity, "bo", "reject")
    queue.undo("bo")
    assert queue.undo("ada") == Choice(pair(0), "ada", "second", "more exact", clock.now)
    assert queue.fingerprint() == after_one
    assert queue.next_comparison("ada") == pair(0)
    assert queue.undo("ada") == Decision(draft(0), "ada", "accept", "answer 0", "", clock.now)
    assert queue.undo("ada") is None
    assert queue.fingerprint() == empty
    assert queue.counts().annotators == 0


def test_decisions_say_what_was_decided(queue: ReviewQueue, clock: Clock) -> None:
    queue.add_drafts([draft(0)])
    identity = draft(0).identity
    assert queue.decide(identity, " ada ", "edit", " new\r\ntext\n", " because ") == Decision(
        draft(0), "ada", "edit", "new\ntext", "because", clock.now
    )
    assert queue.decide(identity, "ada", "edit", "answer 0\r\n").action == "accept", "an edit that changes nothing"
    assert queue.decide(identity, "ada", "reject", "ignored").answer == ""


def test_words_that_cannot_be_taken_are_refused(queue: ReviewQueue) -> None:
    queue.add_drafts([draft(0)])
    queue.add_comparisons([pair(0)])
    one, two = draft(0).identity, pair(0).identity
    refused = [
        lambda: queue.decide(one, "ada", "edit", " \n"),
        lambda: queue.decide(one, "", "accept"),
        lambda: queue.decide(one, "x" * 65, "accept"),
        lambda: queue.decide(one, "a\nb", "accept"),
        lambda: queue.decide(one, "ada", "edit", "nul \0"),
        lambda: queue.decide(one, "ada", "reject", reason="half \udc00"),
        lambda: queue.decide(one, "ada", "maybe"),  # type: ignore[arg-type]
        lambda: queue.choose(two, "ada", "equal", " no "),
        lambda: queue.choose(two, "ada", "third", "long enough"),  # type: ignore[arg-type]
        lambda: queue.next_draft(" "),
        lambda: queue.undo(""),
    ]
    for word in refused:
        with pytest.raises(RefusedWord):
            word()
    for word in (lambda: queue.decide(two, "ada", "accept"), lambda: queue.choose(one, "ada", "first", "because")):
        with pytest.raises(UnknownItem):
            word()
    assert queue.counts().annotators == 0


# Several at once


def test_four_people_at_once_lose_nothing(url: str) -> None:
    """Each has a connection of their own and adds the same drafts as they begin."""
    items = [draft(n) for n in range(30)]
    failures: list[BaseException] = []
    barrier = threading.Barrier(4)

    def work(name: str) -> None:
        try:
            queue = ReviewQueue.open(url, votes=4)
            barrier.wait(timeout=60)
            queue.add_drafts(items)
            for _ in items:
                now = queue.next_draft(name)
                assert now is not None
                queue.decide(now.identity, name, "edit", f"{name} on {now.answer}")
            assert queue.next_draft(name) is None
            queue.close()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(name,)) for name in ("a", "b", "c", "d")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    queue = ReviewQueue.open(url, votes=4)
    made = queue.reviewed()
    assert len(made) == 30
    assert {one.answer for one in made} == {f"a on answer {n}" for n in range(30)}
    assert queue.agreement().decisions.items == 30
    with sa.orm.Session(queue._engine) as session:
        assert session.scalar(sa.select(sa.func.count(queue_module.Word.row))) == 120
    queue.close()


def test_threads_share_one_queue(queue: ReviewQueue) -> None:
    queue.add_drafts(map(draft, range(40)))
    given_out: list[str] = []

    def work(name: str) -> None:
        for _ in range(10):
            now = queue.next_draft(name)
            assert now is not None
            given_out.append(now.identity)
            queue.decide(now.identity, name, "accept")

    threads = [threading.Thread(target=work, args=(name,)) for name in ("a", "b", "c", "d")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(given_out)) == 40, "while others wait, nobody gets what another has"
    assert queue.counts().accepted == 40


# Addresses


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("nonsense", "no database address"),
        ("mysql://host/name", "cannot live in mysql"),
        ("sqlite://", "in memory"),
        ("sqlite:///no/such/folder/queue.sqlite", "unable to open"),
    ],
)
def test_addresses_that_cannot_be_used(url: str, told: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=told):
        ReviewQueue.open(url)


def test_only_a_missing_file_is_known_not_to_exist(tmp_path: Path) -> None:
    assert not ReviewQueue.exists(queue_url(tmp_path))
    assert not list(tmp_path.iterdir()), "asking makes nothing"
    ReviewQueue.open(queue_url(tmp_path)).close()
    assert ReviewQueue.exists(queue_url(tmp_path))
    assert ReviewQueue.exists("postgresql://ada@host/name")
    with pytest.raises(UserError, match="no database address"):
        ReviewQueue.exists("nonsense")


def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    (tmp_path / "review.sqlite").write_text("not a database, but long enough to be told from an empty file" * 9)
    with pytest.raises(UserError, match="not a database"):
        ReviewQueue.open(queue_url(tmp_path))


def test_a_missing_driver_names_the_remedy_and_no_password(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*arguments: object, **options: object) -> None:
        raise ModuleNotFoundError("No module named 'psycopg'")

    monkeypatch.setattr(queue_module.sa, "create_engine", missing)
    with pytest.raises(UserError, match=r"pip install 'psycopg\[binary\]'") as raised:
        ReviewQueue.open("postgresql://ada:secret@host/name")
    assert "secret" not in str(raised.value)
