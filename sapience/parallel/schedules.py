"""The pipeline schedules: 1F1B, interleaved 1F1B, ZB1P, DualPipe and DualPipeV, as data.

Sources: 1F1B and its interleaved form, Narayanan et al. 2021; ZB1P, Qi et al. 2023 (their ZB-H1); DualPipe and DualPipeV, the
DeepSeek-V3 report (section 3.2.1) and deepseek-ai's published description of its eight steps.
"""

from collections import Counter
from collections.abc import Callable

from sapience.parallel.schedule import Action, Chunk, Impossible, Kind, Schedule, Times


def one_forward_one_backward(ranks: int, microbatches: int) -> Schedule:
    """A rank runs ahead by as many forward chunks as there are ranks behind it, then alternates."""
    _require(ranks > 0 and microbatches > 0, "at least one rank and one micro-batch are needed")
    actions = []
    for rank in range(ranks):
        ahead = min(ranks - 1 - rank, microbatches)
        order = [(Chunk("F", rank, m),) for m in range(ahead)]
        for m in range(microbatches):
            if ahead + m < microbatches:
                order.append((Chunk("F", rank, ahead + m),))
            order.append((Chunk("B", rank, m),))
        actions.append(tuple(order))
    return Schedule("1f1b", (tuple(range(ranks)),), (0,) * microbatches, tuple(actions))


def interleaved(ranks: int, microbatches: int, chunks: int = 2) -> Schedule:
    """1F1B with `chunks` stages a rank, `ranks` stages apart: a smaller bubble for more messages."""
    _require(chunks > 0, "a rank has at least one stage")
    _require(microbatches % ranks == 0, f"{microbatches} micro-batches are no multiple of {ranks} ranks")
    total, block = microbatches * chunks, ranks * chunks

    def chunk(kind: Kind, rank: int, number: int) -> Action:
        part = number % block // ranks
        part = part if kind == "F" else chunks - 1 - part
        return (Chunk(kind, part * ranks + rank, number // block * ranks + number % ranks),)

    actions = []
    for rank in range(ranks):
        ahead = min(2 * (ranks - rank - 1) + (chunks - 1) * ranks, total)
        order = [chunk("F", rank, number) for number in range(ahead)]
        for number in range(total):
            if ahead + number < total:
                order.append(chunk("F", rank, ahead + number))
            order.append(chunk("B", rank, number))
        actions.append(tuple(order))
    places = tuple(stage % ranks for stage in range(ranks * chunks))
    return Schedule("interleaved", (places,), (0,) * microbatches, tuple(actions))


def zero_bubble(ranks: int, microbatches: int) -> Schedule:
    """1F1B whose gradients of weights are put off into what would be its bubble, within 1F1B's memory.

    Rank r puts off as many as there are ranks before it, from the beginning on; so the ranks behind, which have work last,
    pass inputs' gradients on without a stop.
    """
    _require(microbatches >= ranks > 0, f"{microbatches} micro-batches are fewer than {ranks} ranks")
    actions = []
    for rank in range(ranks):
        ahead, order, weights = ranks - 1 - rank, [], 0
        order += [(Chunk("F", rank, m),) for m in range(ahead)]
        for m in range(microbatches):
            if ahead + m < microbatches:
                order.append((Chunk("F", rank, ahead + m),))
            order.append((Chunk("I", rank, m),))
            if m >= rank:
                order.append((Chunk("W", rank, weights),))
                weights += 1
        order += [(Chunk("W", rank, m),) for m in range(weights, microbatches)]
        actions.append(tuple(order))
    return Schedule("zb1p", (tuple(range(ranks)),), (0,) * microbatches, tuple(actions))


def dualpipe(ranks: int, microbatches: int) -> Schedule:
    """Micro-batches enter at both ends: rank r has stage r for one half of them and stage ranks-1-r for the other, and runs a
    forward chunk of one direction and a backward chunk of the other as a pair."""
    _require(ranks % 2 == 0 and microbatches % 2 == 0, "DualPipe takes an even number of ranks and of micro-batches")
    _require(microbatches >= 2 * ranks, f"DualPipe takes at least {2 * ranks} micro-batches for {ranks} ranks")
    half, each = ranks // 2, microbatches // 2
    actions = []
    for rank in range(ranks):
        near = min(rank, ranks - 1 - rank)
        first = int(rank >= half)  # the direction that enters at the nearer end
        stages = [rank, ranks - 1 - rank]
        steps = _Steps([(stages[first ^ phase], (first ^ phase) * each) for phase in (0, 1)])
        actions.append(steps.taken(half - near - 1, near + 1, each - ranks + near + 1, near == half - 1))
    directions = tuple(range(ranks)), tuple(reversed(range(ranks)))
    return Schedule("dualpipe", directions, (0,) * each + (1,) * each, tuple(actions))


def dualpipe_v(ranks: int, microbatches: int) -> Schedule:
    """DualPipe folded: two stages a rank, down the ranks and up again, one copy of the parameters."""
    _require(ranks > 0, "at least one rank is needed")
    _require(microbatches >= 2 * ranks, f"DualPipeV takes at least {2 * ranks} micro-batches for {ranks} ranks")
    actions = []
    for rank in range(ranks):
        steps = _Steps([(rank, 0), (2 * ranks - 1 - rank, 0)])
        actions.append(steps.taken(ranks - rank - 1, rank + 1, microbatches - 2 * ranks + rank + 1, rank == ranks - 1))
    places = (*range(ranks), *reversed(range(ranks)))
    return Schedule("dualpipev", (places,), (0,) * microbatches, tuple(actions))


class _Steps:
    """A rank's order in the eight steps; phases are its two stages, each with its micro-batches."""

    def __init__(self, phases: list[tuple[int, int]]) -> None:
        """Stage and first micro-batch of each."""
        self._phases = phases
        self._counts: Counter[tuple[str, int]] = Counter()
        self._put_off: list[Chunk] = []
        self.order: list[Action] = []

    def taken(self, outer: int, inner: int, pairs: int, middle: bool) -> tuple[Action, ...]:
        """The whole order: the steps' repetitions are `outer` (1, twice; 3, 5, 7), `inner` (2, 6, 8) and `pairs` (4). A middle
        rank does not overlap its first pair."""
        for _ in range(2 * outer):
            self._add(self._forward(0))
        for _ in range(inner):
            self._add(self._forward(0))
            self._add(self._forward(1))
        for _ in range(outer):
            self._backward(1, put_off=True)
            self._weight()
            self._add(self._forward(1))
        for number in range(pairs):
            if middle and number == 0:
                self._add(self._forward(0))
                self._backward(1)
            else:
                self._pair(0, 1)
            self._pair(1, 0)
        for _ in range(outer):
            self._backward(1)
            self._pair(1, 0)
        later = False
        for number in range(inner):
            later = later or (number == inner // 2 and inner % 2 == 0)
            self._backward(1, put_off=later)
            later = later or (number == inner // 2 and inner % 2 == 1)
            self._backward(0, put_off=later)
        for _ in range(outer):
            self._weight()
            self._backward(0, put_off=True)
        for _ in range(inner):
            self._weight()
        return tuple(self.order)

    def _next(self, kind: Kind, phase: int) -> Chunk:
        stage, first = self._phases[phase]
        counted = "F" if kind == "F" else "B"
        number = self._counts[counted, phase]
        self._counts[counted, phase] += 1
        return Chunk(kind, stage, first + number)

    def _forward(self, phase: int) -> Chunk:
        return self._next("F", phase)

    def _add(self, *chunks: Chunk) -> None:
        self.order.append(chunks)

    def _backward(self, phase: int, put_off: bool = False) -> None:
        chunk = self._next("I" if put_off else "B", phase)
        if put_off:
            self._put_off.append(chunk)
        self._add(chunk)

    def _weight(self) -> None:
        put_off = self._put_off.pop(0)
        self._add(Chunk("W", put_off.stage, put_off.microbatch))

    def _pair(self, forward: int, backward: int) -> None:
        self._add(self._forward(forward), self._next("B", backward))


SCHEDULES: dict[str, Callable[[int, int], Schedule]] = {
    "1f1b": one_forward_one_backward,
    "interleaved": interleaved,
    "zb1p": zero_bubble,
    "dualpipe": dualpipe,
    "dualpipev": dualpipe_v,
}


def published_bubble(name: str, ranks: int, times: Times) -> float:
    """What the DeepSeek-V3 report's table 2 gives (interleaved 1F1B: Narayanan et al., two stages a rank), for `ranks` ranks.

    A DualPipeV of so many ranks has twice as many stages, which is what the table counts.
    """
    forward, backward, weight = times.forward, times.backward, times.weight
    return {
        "1f1b": (ranks - 1) * (forward + backward),
        "interleaved": (ranks - 1) * (forward + backward),
        "zb1p": (ranks - 1) * (forward + backward - 2 * weight),
        "dualpipe": (ranks // 2 - 1) * (times.pair + backward - 3 * weight),
        "dualpipev": (ranks - 1) * (times.pair + backward - 3 * weight),
    }[name]


def _require(condition: bool, reason: str) -> None:
    if not condition:
        raise Impossible(reason)
