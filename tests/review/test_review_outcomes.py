"""What a review queue gives out: majorities as counted by hand, exports, standings, and fingerprints of what was said."""

import itertools
import tempfile
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from review_queues import NAMES, draft, pair

from sapience.review.queue import ReviewQueue, queue_url
from sapience.review.records import Preference


def expected_outcome(verdicts: list[str], votes: int) -> str | None:
    """Majority by hand: of drafts first whether to keep, then how; of comparisons the one most people said."""
    if len(verdicts) < votes:
        return None
    said = Counter(verdicts)
    if set(verdicts) & {"accept", "edit", "reject"}:
        keep = said["accept"] + said["edit"]
        if keep != said["reject"] and keep < said["reject"]:
            return "reject"
        if keep == said["reject"] or said["accept"] == said["edit"]:
            return None
        return "accept" if said["accept"] > said["edit"] else "edit"
    ranked = said.most_common()
    return None if len(ranked) > 1 and ranked[0][1] == ranked[1][1] else ranked[0][0]


@pytest.mark.parametrize("votes", [1, 2, 3])
def test_every_outcome_of_up_to_four_people(tmp_path: Path, votes: int) -> None:
    """All 2 × 34 multisets of verdicts, against a count by hand."""
    queue = ReviewQueue.open(queue_url(tmp_path), votes=votes)
    kept, preferred, counted = {}, {}, Counter()
    cases = [
        c for size in range(1, 5) for c in itertools.combinations_with_replacement(("accept", "edit", "reject"), size)
    ]
    for number, verdicts in enumerate(cases):
        queue.add_drafts([draft(number)])
        for person, verdict in enumerate(verdicts):
            queue.decide(draft(number).identity, f"p{person}", verdict, "edited")  # type: ignore[arg-type]
        outcome = expected_outcome(list(verdicts), votes)
        counted[outcome] += 1
        if outcome in ("accept", "edit"):
            kept[draft(number).identity] = "edited" if outcome == "edit" else f"answer {number}"
    cases = [
        c for size in range(1, 5) for c in itertools.combinations_with_replacement(("first", "second", "equal"), size)
    ]
    for number, verdicts in enumerate(cases):
        queue.add_comparisons([pair(number)])
        for person, verdict in enumerate(verdicts):
            queue.choose(pair(number).identity, f"p{person}", verdict, f"reason {verdict}")  # type: ignore[arg-type]
        outcome = expected_outcome(list(verdicts), votes)
        counted[None if outcome is None else "compared"] += 1
        if outcome in ("first", "second"):
            preferred[pair(number).messages] = (
                f"{'one' if outcome == 'first' else 'two'} {number}",
                f"reason {outcome}",
            )
    assert {one.draft.identity: one.answer for one in queue.reviewed()} == kept
    assert {one.messages: (one.chosen, one.reason) for one in queue.preferences()} == preferred
    now = queue.counts()
    assert (now.waiting, now.accepted, now.edited, now.rejected, now.compared) == tuple(
        counted[key] for key in (None, "accept", "edit", "reject", "compared")
    )
    queue.close()


def test_exports_come_by_identity_with_those_who_agree(queue: ReviewQueue) -> None:
    queue.add_drafts(map(draft, range(6)))
    for number in (3, 5, 0):
        queue.decide(draft(number).identity, "ada", "accept")
    made = queue.reviewed()
    assert [one.draft.identity for one in made] == sorted(draft(n).identity for n in (0, 3, 5))
    assert {one.provenance for one in made} == {"drafted by a model; accepted by ada"}
    queue.add_comparisons([pair(0)])
    for name, chosen, reason in (("bo", "second", "shorter"), ("ada", "second", "true"), ("陈", "first", "style")):
        queue.choose(pair(0).identity, name, chosen, reason)
    expected = Preference(pair(0).messages, "two 0", "one 0", "true\nshorter", ("ada", "bo"), "en", "advice", "made")
    assert queue.preferences() == [expected]
    assert queue.preferences(votes=4) == []


def test_of_several_edits_the_most_written_counts(queue: ReviewQueue) -> None:
    queue.add_drafts([draft(0), draft(1)])
    for name, text in (("ada", "alone"), ("bo", "shared"), ("陈", "shared")):
        queue.decide(draft(0).identity, name, "edit", text)
    for name, text in (("陈", "third"), ("bo", "second")):
        queue.decide(draft(1).identity, name, "edit", text)
    made = {one.draft: (one.answer, one.annotators) for one in queue.reviewed()}
    assert made == {draft(0): ("shared", ("bo", "陈")), draft(1): ("second", ("bo",))}


# Properties


@st.composite
def words(draw: st.DrawFn) -> list[tuple[str, int, str, str]]:
    """Words of people on drafts and comparisons, at most one of a person on an item."""
    word = st.tuples(
        st.sampled_from(NAMES),
        st.integers(0, 3),
        st.sampled_from(("accept", "edit", "reject", "first", "second", "equal")),
        st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=3, max_size=8).filter(
            lambda text: len(text.strip()) > 2
        ),
    )
    return draw(st.lists(word, max_size=10, unique_by=lambda w: (w[0], w[1], w[2] in ("accept", "edit", "reject"))))


def say(queue: ReviewQueue, name: str, number: int, verdict: str, text: str) -> None:
    if verdict in ("accept", "edit", "reject"):
        queue.decide(draft(number).identity, name, verdict, text, text)  # type: ignore[arg-type]
    else:
        queue.choose(pair(number).identity, name, verdict, text)  # type: ignore[arg-type]


@settings(deadline=None, max_examples=25)
@given(said=words(), order=st.randoms(use_true_random=False), more=words())
def test_fingerprint_is_what_was_said_not_when(said: list, order, more: list) -> None:
    marks = []
    shuffled = list(said)
    order.shuffle(shuffled)
    for sequence, items in ((said, range(4)), (shuffled, range(3, -1, -1))):
        with tempfile.TemporaryDirectory() as folder:
            queue = ReviewQueue.open(queue_url(Path(folder)))
            queue.add_drafts(map(draft, items))
            queue.add_comparisons(map(pair, items))
            empty = queue.fingerprint()
            for word in sequence:
                say(queue, *word)
            marks.append(
                (queue.fingerprint(), queue.reviewed(), queue.preferences(), queue.agreement(), queue.counts())
            )
            assert (queue.fingerprint() == empty) == (not said)
            for word in more:
                say(queue, *word)
            while any(queue.undo(name) for name in NAMES):
                pass
            assert queue.fingerprint() == empty
            queue.close()
    assert marks[0] == marks[1]


@settings(deadline=None, max_examples=25)
@given(numbers=st.lists(st.integers(0, 9), max_size=12), again=st.lists(st.integers(0, 9), max_size=12))
def test_adding_twice_is_adding_once(numbers: list[int], again: list[int]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        queue = ReviewQueue.open(queue_url(Path(folder)))
        assert queue.add_drafts(map(draft, numbers)) == len(set(numbers))
        assert queue.add_drafts(map(draft, again)) == len(set(again) - set(numbers))
        assert queue.add_comparisons(map(pair, numbers)) == len(set(numbers))
        assert queue.add_comparisons(map(pair, numbers)) == 0
        assert queue.counts().waiting == len(set(again) | set(numbers)) + len(set(numbers))
        queue.close()


def test_fingerprint_of_one_kind_hears_that_kind_alone(queue: ReviewQueue) -> None:
    queue.add_drafts([draft(1)])
    queue.add_comparisons([pair(1)])
    assert {queue.fingerprint(kind) for kind in (None, "draft", "comparison")} == {""}, "nothing was said"
    queue.decide(draft(1).identity, "ada", "reject")
    drafts, both = queue.fingerprint("draft"), queue.fingerprint()
    assert len(drafts) == 16
    assert (both, queue.fingerprint("comparison")) == (drafts, "")
    queue.choose(pair(1).identity, "ada", "first", "kinder")
    assert queue.fingerprint("draft") == drafts
    assert len({drafts, queue.fingerprint("comparison"), queue.fingerprint()}) == 3
    queue.undo("ada")
    queue.undo("ada")
    assert {queue.fingerprint(kind) for kind in (None, "draft", "comparison")} == {""}


@settings(deadline=None, max_examples=12)
@given(said=words(), votes=st.integers(1, 3))
def test_standings_are_everybodys_last_words(said: list, votes: int) -> None:
    last: dict[tuple[int, str], str] = {}
    with tempfile.TemporaryDirectory() as folder:
        queue = ReviewQueue.open(queue_url(Path(folder)), votes=votes)
        queue.add_drafts(map(draft, range(4)))
        queue.add_comparisons(map(pair, range(4)))
        for word in said:
            say(queue, *word)
            name, number, verdict, _ = word
            if verdict in ("accept", "edit", "reject"):
                last[number, name] = verdict
        found = queue.standings()
        counts = queue.counts()
        kept = {one.draft.identity for one in queue.reviewed()}
        queue.close()
    assert set(found) == {draft(number).identity for number in range(4)}
    for number in range(4):
        standing = found[draft(number).identity]
        expected = Counter(verdict for (item, _), verdict in last.items() if item == number)
        assert (standing.accept, standing.edit, standing.reject) == tuple(
            expected[verdict] for verdict in ("accept", "edit", "reject")
        )
        assert (standing.outcome in ("accept", "edit")) == (draft(number).identity in kept)
    outcomes = Counter(standing.outcome for standing in found.values())
    assert (outcomes["accept"], outcomes["edit"], outcomes["reject"]) == (
        counts.accepted, counts.edited, counts.rejected,
    )  # fmt: skip
