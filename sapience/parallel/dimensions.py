"""What a rank's two lanes do in each dimension of a cluster, as this package's runtime does it.

`data` adds up gradients, or gives them to owners (ZeRO-1); sharded weights are a share of each block on every rank; `experts`
exchanges tokens, `context` gathers latents. A pair is a forward chunk of one direction and a backward chunk of the other that
DualPipe runs together. Messages of a few numbers are left out, but for a step's sums, which the optimizer waits for. Supposed
is that a thing takes as long on every rank, and that a rank's messages travel one after another.
"""

from collections.abc import Callable, Iterable, Sequence

from sapience.parallel.lanes import Lanes, Task, Work
from sapience.parallel.mesh import zig_zag

SHORT = {"attention": "A", "shared": "S", "experts": "E", "dispatch": "D", "combine": "C", "send": "P", "latents": "L",
         "unfold": "U", "gather": "G", "scatter": "R", "exchange": "X", "feed": "F", "AdamW": "O", "reduce": "",
         "broadcast": ""}  # fmt: skip
"""Labels' first words where there is little room."""


def _shortened(label: str) -> str:
    word, *rest = label.split()
    return " ".join(part for part in (SHORT.get(word, ""), *rest) if part)


class _Order:
    """Tasks in the order in which lanes do them."""

    def __init__(self, ranks: int) -> None:
        self.ranks, self.tasks = range(ranks), list[Task]()

    def compute(self, rank: int, work: Work, label: str, time: float, *after: int) -> int:
        """The number of a task of one rank's arithmetic."""
        task = Task((rank,), "arithmetic", work, label, time, after, _shortened(label))
        self.tasks.append(task)
        return len(self.tasks) - 1

    def everywhere(self, work: Work, label: str, time: float, after: Iterable[int] = ()) -> list[int]:
        """The same on every rank's arithmetic lane, whatever `after` of any rank it waits for."""
        waits = tuple(after)
        return [self.compute(rank, work, label, time, *waits) for rank in self.ranks]

    def travel(self, work: Work, label: str, time: float, after: Iterable[int] = ()) -> int:
        """The number of a collective of all ranks."""
        task = Task(tuple(self.ranks), "network", work, label, time, tuple(after), _shortened(label))
        self.tasks.append(task)
        return len(self.tasks) - 1

    def done(self, name: str) -> Lanes:
        return Lanes(name, len(self.ranks), tuple(self.tasks))


def data_parallel(
    ranks: int, microbatches: int, forward: float, backward: float, travel: float, norm: float, optimizer: float
) -> Lanes:
    """Gradients are added up by an all-reduce, and every rank moves all weights. `microbatches`: all ranks' together.
    `travel`: of all weights one way; an all-reduce is two."""
    order = _Order(ranks)
    computed = _passes(order, microbatches, forward, backward)
    added = order.travel("gradients", "all-reduce", 2 * travel, computed)
    summed = order.travel("norm", "norm", norm, [added])
    order.everywhere("optimizer", "AdamW", optimizer, [summed])
    return order.done(f"data parallel: {ranks} ranks, {microbatches} micro-batches")


def zero_1(
    ranks: int, microbatches: int, forward: float, backward: float, travel: float, norm: float, optimizer: float
) -> Lanes:
    """Every weight has one owner, who gets its gradient, moves it and gives it to the others; owners have equal shares. See
    data_parallel; `optimizer`: of all weights."""
    order = _Order(ranks)
    computed = _passes(order, microbatches, forward, backward)
    reduced = [order.travel("gradients", f"reduce to {owner}", travel / ranks, computed) for owner in order.ranks]
    summed = order.travel("norm", "norm", norm, reduced)
    moved = order.everywhere("optimizer", "AdamW", optimizer / ranks, [summed])
    for owner in order.ranks:
        order.travel("weights", f"broadcast from {owner}", travel / ranks, moved)
    return order.done(f"ZeRO-1: {ranks} ranks, {microbatches} micro-batches")


def _passes(order: _Order, microbatches: int, forward: float, backward: float) -> list[int]:
    """Every rank's micro-batches, one after another: rank r has r, r + ranks, r + 2 ranks, …"""
    computed = []
    for rank in order.ranks:
        for microbatch in range(rank, microbatches, len(order.ranks)):
            order.compute(rank, "forward", f"F {microbatch}", forward)
            computed.append(order.compute(rank, "backward", f"B {microbatch}", backward))
    return computed


def shard_weights(
    ranks: int,
    blocks: int,
    forward: float,
    backward: float,
    gather: float,
    scatter: float,
    norm: float,
    optimizer: float,
) -> Lanes:
    """Every rank keeps a share of each block. A block's weights are gathered before its forward and again before its backward,
    while the block before computes, so that two at most are whole (on a GPU FSDP2 may be a little earlier); its gradients are
    scattered after its backward, while the next one computes. What is in no block is left out.

    Times are of a block; `optimizer`: of all weights on one rank.
    """
    order = _Order(ranks)
    computed: list[int] = []
    before: list[int] = []
    for block in range(blocks):
        # Issued when the block before begins, which is when the one before that is done.
        gathered = order.travel("weights", f"gather {block}", gather, before)
        before = computed
        computed = order.everywhere("forward", f"F {block}", forward, [gathered])
    scattered: list[int] = []
    gathered = order.travel("weights", f"gather {blocks - 1}", gather, computed)
    for block in reversed(range(blocks)):
        here = gathered
        if block:
            gathered = order.travel("weights", f"gather {block - 1}", gather, computed)
        computed = order.everywhere("backward", f"B {block}", backward, [here])
        scattered.append(order.travel("gradients", f"scatter {block}", scatter, computed))
    summed = order.travel("norm", "norm", norm, scattered)
    order.everywhere("optimizer", "AdamW", optimizer / ranks, [summed])
    return order.done(f"sharded weights: {ranks} ranks, {blocks} blocks, a micro-batch each")


def expert_parallel(
    ranks: int,
    attention: float,
    shared: float,
    experts: float,
    backward: float,
    to_experts: float,
    from_experts: float,
) -> Lanes:
    """A layer with experts, forward and backward, a part of which takes `backward` times as long as forward.

    `to_experts`: the dispatch, and the way of gradients of experts' outputs, which FP8 halves; `from_experts`: the other two.
    """
    order = _Order(ranks)
    attended = order.everywhere("forward", "attention", attention)
    dispatched = order.travel("states", "dispatch", to_experts, attended)
    beside = order.everywhere("forward", "shared", shared)
    computed = order.everywhere("forward", "experts", experts, [dispatched])
    combined = order.travel("states", "combine", from_experts, computed)
    returned = order.travel("slopes", "combine", to_experts, [combined, *beside])
    computed = order.everywhere("backward", "experts", experts * backward, [returned])
    dispatched = order.travel("slopes", "dispatch", from_experts, computed)
    order.everywhere("backward", "shared", shared * backward)
    order.everywhere("backward", "attention", attention * backward, [dispatched])
    return order.done(f"experts: a layer forward and backward, {ranks} ranks")


class _Chunks:
    """A forward and a backward chunk of layers with experts, on one rank of a group that all do the same; told turn by turn.
    A turn ends where a chunk would wait for the network."""

    def __init__(
        self, attention: float, shared: float, experts: float, backward: float, ways: tuple[float, float]
    ) -> None:
        """`ways`: to experts, and from them."""
        self.order = _Order(1)
        self._attention, self._shared, self._experts = attention, shared, experts
        self._times, (self._there, self._back) = backward, ways
        self._forward: list[int] = []
        self._backward: list[int] = []
        """What the next turn waits for."""

    def attend(self) -> None:
        """Forward: attention and gate, the dispatch is sent off, the shared experts work."""
        attended = self.order.compute(0, "forward", "attention", self._attention, *self._forward)
        self._forward = [self.order.travel("states", "dispatch", self._there, [attended])]
        self.order.compute(0, "forward", "shared", self._shared)

    def mix(self) -> None:
        """Forward: the experts, whose outputs are sent back."""
        mixed = self.order.compute(0, "forward", "experts", self._experts, *self._forward)
        self._forward = [self.order.travel("states", "combine", self._back, [mixed])]

    def enter(self) -> None:
        """Backward: gradients of the experts' outputs are sent off."""
        self._backward = [self.order.travel("slopes", "combine", self._there, self._backward)]

    def mix_back(self) -> None:
        """Backward: the experts, then the shared experts while gradients of tokens travel."""
        mixed = self.order.compute(0, "backward", "experts", self._experts * self._times, *self._backward)
        self._backward = [self.order.travel("slopes", "dispatch", self._back, [mixed])]
        self.order.compute(0, "backward", "shared", self._shared * self._times)

    def attend_back(self) -> None:
        """Backward: attention and gate."""
        self._backward = [
            self.order.compute(0, "backward", "attention", self._attention * self._times, *self._backward)
        ]

    def leave(self, forward: bool, time: float) -> None:
        """What a chunk has made is sent to the pipeline's next rank."""
        waits = self._forward if forward else self._backward
        self.order.travel("states" if forward else "slopes", "send", time, waits)


def overlapped_pair(
    layers: int,
    attention: float,
    shared: float,
    experts: float,
    backward: float,
    to_experts: float,
    from_experts: float,
    send: float,
) -> tuple[Lanes, Lanes]:
    """A forward and a backward chunk that take turns where one of them would wait (DeepSeek-V3 report, figure 4), and the same
    chunks one after the other. `send`: to the pipeline's next rank. See expert_parallel."""
    ways = to_experts, from_experts
    pair = _Chunks(attention, shared, experts, backward, ways)
    pair.enter()
    pair.attend()
    for layer in range(layers):
        pair.mix_back()
        pair.mix()
        if layer == layers - 1:
            pair.leave(True, send)
        pair.attend_back()
        if layer < layers - 1:
            pair.enter()
            pair.attend()
    pair.leave(False, send)
    alone = _Chunks(attention, shared, experts, backward, ways)
    for _ in range(layers):
        alone.attend()
        alone.mix()
    alone.leave(True, send)
    for _ in range(layers):
        alone.enter()
        alone.mix_back()
        alone.attend_back()
    alone.leave(False, send)
    chunks = f"a forward and a backward chunk of {_layers(layers)}"
    return pair.order.done(f"overlapped pair: {chunks}"), alone.order.done(f"one after the other: {chunks}")


def _layers(number: int) -> str:
    return "1 layer" if number == 1 else f"{number} layers"


def contiguous(rank: int, ranks: int) -> tuple[int, int]:
    """Two pieces that follow one another, for comparison: nothing here cuts rows like that."""
    return 2 * rank, 2 * rank + 1


def attention_share(pieces: Iterable[int], ranks: int) -> float:
    """Of a row's causal attention, what is done for the queries of these pieces of 2 · ranks: piece i sees the i before it and
    half of itself."""
    return sum(2 * piece + 1 for piece in pieces) / (2 * ranks) ** 2


def context_parallel(
    ranks: int,
    layers: int,
    latents: float,
    gather: float,
    unfold: float,
    attention: float,
    feed: float,
    backward: float,
) -> tuple[Lanes, Lanes]:
    """Layers of a row, forward and backward, whose places ranks share by zig-zag; and the same with contiguous places.

    `latents`, `feed`: what a rank does for its own places; `unfold`: of all places' keys and values, on every rank;
    `attention`: of the whole row, all ranks together. A part takes `backward` times as long as forward.
    """

    def split(name: str, pieces: Callable[[int, int], tuple[int, int]]) -> Lanes:
        order = _Order(ranks)
        own = [pieces(rank, ranks) for rank in order.ranks]
        for _ in range(layers):
            made = order.everywhere("forward", "latents", latents)
            gathered = order.travel("states", "gather", gather, made)
            order.everywhere("forward", "unfold", unfold, [gathered])
            _attend(order, "forward", own, attention)
            order.everywhere("forward", "feed", feed)
        for _ in range(layers):
            order.everywhere("backward", "feed", feed * backward)
            _attend(order, "backward", own, attention * backward)
            unfolded = order.everywhere("backward", "unfold", unfold * backward)
            exchanged = order.travel("slopes", "exchange", gather, unfolded)
            order.everywhere("backward", "latents", latents * backward, [exchanged])
        return order.done(f"{name} of {2 * ranks} pieces of a row: {ranks} ranks, {_layers(layers)}")

    return split("context, zig-zag", zig_zag), split("for comparison, contiguous pairs", contiguous)


def _attend(order: _Order, work: Work, own: Sequence[tuple[int, int]], attention: float) -> None:
    for rank, pieces in enumerate(own):
        label = f"attention {pieces[0]},{pieces[1]}"
        order.compute(rank, work, label, attention * attention_share(pieces, len(own)))
