"""Pipeline schedules on paper: published counts, bubbles and memory; and that the checker sees whatever is wrong with one."""

import json
import random
from collections import Counter
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sapience.cli import main
from sapience.parallel.schedule import Action, Chunk, Impossible, Schedule, Times, check, kept_at_most, timed
from sapience.parallel.schedule_picture import lines, svg
from sapience.parallel.schedules import SCHEDULES, dualpipe, dualpipe_v, interleaved, published_bubble

SIZES = [(2, 4), (2, 8), (4, 8), (4, 12), (4, 20), (6, 12), (8, 16), (8, 20), (8, 32), (16, 32), (16, 48)]
EQUAL = [Times(), Times(1, 2, 1, 2.4), Times(3, 6, 3, 7)]
"""Forward, input's and weights' part take the same."""
CASES = [(name, *size) for name in SCHEDULES for size in SIZES if name != "interleaved" or size[1] % size[0] == 0]


@pytest.mark.parametrize(("name", "ranks", "microbatches"), CASES)
def test_every_schedule_computes_what_it_is_for(name: str, ranks: int, microbatches: int) -> None:
    """Within the published memory: as many chunks as ranks, one more for DualPipe, twice as many (halves) when folded."""
    schedule = SCHEDULES[name](ranks, microbatches)
    most = {"interleaved": 3 * ranks, "dualpipe": ranks + 1, "dualpipev": 2 * ranks + 1}.get(name, ranks)
    check(schedule, [most] * ranks)
    assert schedule.ranks == ranks and schedule.microbatches == microbatches
    if name.startswith("dualpipe"):
        assert kept_at_most(schedule) == [most] * ranks


UNEQUAL = [Times(1, 2.5, 1, 3.5), Times(2, 3, 1, 5), Times(1, 1.9, 0.8)]
TIMED = [(*case, times) for case in CASES for times in (EQUAL if "dual" in case[0] else EQUAL + UNEQUAL)]


@pytest.mark.parametrize(("name", "ranks", "microbatches", "times"), TIMED)
def test_bubbles_are_the_published_ones(name: str, ranks: int, microbatches: int, times: Times) -> None:
    """DualPipe's formula is for chunks of equal length (forward, input's part, weights' part); a middle rank does not overlap
    its first pair and so waits less."""
    timeline = timed(SCHEDULES[name](ranks, microbatches), times)
    bubbles = [timeline.bubble(rank) for rank in range(ranks)]
    assert max(bubbles) == pytest.approx(published_bubble(name, ranks, times))
    if "dual" not in name or times.pair == times.forward + times.backward:
        assert min(bubbles) == pytest.approx(max(bubbles))


def steps(order: tuple[Action, ...], stages: tuple[int, int]) -> list[str]:
    """Actions in the published words: F0, B1, …, the phase being that of the stage; W alone."""
    words = []
    for action in order:
        said = [one.kind + ("" if one.kind == "W" else str(stages.index(one.stage))) for one in action]
        words.append("&".join(said))
    return words


@pytest.mark.parametrize("folded", [False, True])
@pytest.mark.parametrize(("ranks", "microbatches"), [(4, 8), (4, 14), (8, 16), (8, 20), (16, 32), (16, 40)])
def test_dualpipes_eight_steps(folded: bool, ranks: int, microbatches: int) -> None:
    """Repetitions of every step as the table has them (DeepSeek's published code; for 8 ranks and 20 micro-batches 6/4/2/0,
    1/2/3/4, 3/2/1/0, 3/4/5/6 and so on)."""
    schedule = (dualpipe_v if folded else dualpipe)(ranks, microbatches)
    for rank in range(ranks):
        other = 2 * ranks - 1 - rank if folded else ranks - 1 - rank
        near = rank if folded else min(rank, other)
        half = ranks if folded else ranks // 2
        phases = (rank, other) if folded or rank < half else (other, rank)
        order = schedule.actions[rank]
        outer, inner = half - near - 1, near + 1
        pairs = microbatches - 2 * ranks + rank + 1 if folded else microbatches // 2 - ranks + near + 1
        expected = ["F0"] * (2 * outer) + ["F0", "F1"] * inner + ["I1", "W", "F1"] * outer
        main = ["F0&B1", "F1&B0"] * pairs
        if near == half - 1:
            main[:1] = ["F0", "B1"]
        expected += main + ["B1", "F1&B0"] * outer
        late = ["B1", "B0"] * inner
        expected += late[:inner] + [word.replace("B", "I") for word in late[inner:]]
        expected += ["W", "I0"] * outer + ["W"] * inner
        assert steps(order, phases) == expected
        counts = Counter(chunk.kind for action in order for chunk in action)
        each = 2 * microbatches if folded else microbatches
        assert counts["F"] == counts["B"] + counts["I"] == each and counts["I"] == counts["W"] == outer * 2 + inner


def test_interleaving_halves_the_share_of_the_bubble() -> None:
    """With v stages a rank a chunk takes 1/v of the time."""
    plain = timed(SCHEDULES["1f1b"](4, 8), Times())
    for parts in (2, 4):
        made = interleaved(4, 8, parts)
        check(made)
        assert timed(made, Times(1 / parts, 2 / parts)).bubble(0) == pytest.approx(plain.bubble(0) / parts)


def changed(schedule: Schedule, rank: int, order: list[Action]) -> Schedule:
    actions = list(schedule.actions)
    actions[rank] = tuple(order)
    return replace(schedule, actions=tuple(actions))


@pytest.mark.parametrize("name", SCHEDULES)
@given(st.integers(0, 10**9))
def test_whatever_is_wrong_is_seen(name: str, seed: int) -> None:
    """An action left out, done twice, done elsewhere, or of a micro-batch that is none."""
    chance, schedule = random.Random(seed), SCHEDULES[name](4, 8)
    rank = chance.randrange(4)
    order = list(schedule.actions[rank])
    place = chance.randrange(len(order))
    kind = chance.randrange(4)
    if kind == 0:
        del order[place]
    elif kind == 1:
        order.insert(chance.randrange(len(order)), order[place])
    elif kind == 2:
        chunk = order[place][0]
        order[place] = (replace(chunk, stage=(chunk.stage + 1) % schedule.stages), *order[place][1:])
    else:
        order[place] = (replace(order[place][0], microbatch=8), *order[place][1:])
    with pytest.raises(Impossible):
        check(changed(schedule, rank, order))


def test_what_never_ends_and_what_keeps_too_much_is_seen() -> None:
    schedule = SCHEDULES["1f1b"](3, 6)
    order = list(schedule.actions[2])
    order[0], order[1] = order[1], order[0]
    with pytest.raises(Impossible, match="never ends: rank 0 waits for ever with B of micro-batch 0 at stage 0"):
        check(changed(schedule, 2, order))
    with pytest.raises(Impossible, match="rank 0 keeps the activations of 3 chunks, and 2 are allowed"):
        check(schedule, [2, 2, 1])
    made = SCHEDULES["zb1p"](3, 6)
    order = list(made.actions[0])
    weights = [i for i, action in enumerate(order) if action[0].kind == "W"]
    order[weights[0]], order[weights[1]] = order[weights[1]], order[weights[0]]
    with pytest.raises(Impossible, match="is not what was put off first"):
        check(changed(made, 0, order))
    order = [action for i, action in enumerate(made.actions[0]) if i != weights[-1]]
    with pytest.raises(Impossible, match="rank 0 ends without I of micro-batch 5"):
        check(changed(made, 0, order))
    pair = (Chunk("B", 0, 0), Chunk("F", 0, 1))
    with pytest.raises(Impossible, match="an action is a chunk, or a forward and a backward one"):
        check(changed(schedule, 0, [pair, *schedule.actions[0]]))


@pytest.mark.parametrize(
    ("name", "ranks", "microbatches", "reason"),
    [
        ("dualpipe", 3, 8, "even number of ranks"),
        ("dualpipe", 4, 6, "at least 8 micro-batches for 4 ranks"),
        ("dualpipev", 4, 6, "at least 8 micro-batches for 4 ranks"),
        ("interleaved", 4, 6, "6 micro-batches are no multiple of 4 ranks"),
        ("zb1p", 4, 3, "3 micro-batches are fewer than 4 ranks"),
    ],
)
def test_what_a_schedule_cannot_take_is_said(name: str, ranks: int, microbatches: int, reason: str) -> None:
    with pytest.raises(Impossible, match=reason):
        SCHEDULES[name](ranks, microbatches)


def test_pictures_show_every_chunk() -> None:
    schedule = dualpipe(4, 10)
    timeline = timed(schedule, Times())
    root = ElementTree.fromstring(svg(schedule, timeline))
    boxes = list(root.iter("{http://www.w3.org/2000/svg}g"))
    assert len(boxes) == sum(map(len, schedule.actions))
    rows = lines(timeline, 2 * round(timeline.end))
    assert len(rows) == 4 and all(len(row) == len(rows[0]) for row in rows)
    idle = {row[4:].count(".") for row in rows}
    assert idle == {round(2 * timeline.bubble(0))}


def test_the_command_times_a_schedule_on_paper(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["bench", "schedule", "dualpipe", "--ranks", "8", "--microbatches", "20"]
    with pytest.raises(SystemExit, match="0"):
        main([*asked, "--json", "--svg", str(tmp_path / "picture.svg")])
    record = json.loads(capsys.readouterr().out)
    assert record["bubbles"] == [6.0] * 8 and record["published_bubble"] == 6.0 and record["kept_at_most"] == [9] * 8
    assert (tmp_path / "picture.svg").read_text().startswith("<svg")
    with pytest.raises(SystemExit, match="0"):
        main(asked)
    assert (
        "the idlest rank waits 6 (published: 6); activations of at most 9 chunks; 2 copies" in capsys.readouterr().out
    )
    with pytest.raises(SystemExit, match="2"):
        main([*asked[:-1], "7"])
    assert "DualPipe takes an even number" in capsys.readouterr().err
