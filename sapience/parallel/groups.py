"""Groups of ranks. All ranks make all groups, in the same order: a group that only its members make can wait for ever."""

from collections.abc import Iterable, Sequence

import torch.distributed as dist

_made: dict[tuple[str, tuple[int, ...]], dist.ProcessGroup] = {}


def make_groups(ranks: Iterable[Sequence[int]], use: str = "") -> list[dist.ProcessGroup]:
    """One for each of these lists of ranks, made before or now. Every rank has to ask for the same, also for those that it is
    not in. Groups of different uses are different ones, so that what is under way in one waits for nothing in another."""
    wanted = [(use, tuple(each)) for each in ranks]
    for each in wanted:
        if each not in _made:
            group = dist.new_group(sorted(each[1]))
            assert group is not None  # a rank outside is given a group too, that it cannot use
            _made[each] = group
    return [_made[each] for each in wanted]


def forget_groups() -> None:
    """When the process leaves the world that they were made in."""
    _made.clear()
