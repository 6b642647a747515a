"""The processes of a run that `torchrun` has started: one leads and writes, the others do their share when they are told."""

import os
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]

from sapience.parallel.groups import forget_groups

PATIENCE = timedelta(days=1)
"""How long a process waits for the others: what one of them makes alone takes hours. When one dies `torchrun` ends all."""


@dataclass(frozen=True)
class Team:
    """All processes of the world."""

    rank: int
    size: int

    @property
    def leads(self) -> bool:
        """Whether this is the process that makes what is not shared, and writes files."""
        return self.rank == 0

    def tell(self, what: Any) -> None:
        """From the leader to all others."""
        dist.broadcast_object_list([what], src=0)

    def hear(self) -> Any:
        """What the leader tells next."""
        told = [None]
        dist.broadcast_object_list(told, src=0)
        return told[0]

    def agree(self, what: Any) -> Any:
        """What the leader says, to everybody."""
        if self.leads:
            self.tell(what)
            return what
        return self.hear()

    def leave(self) -> None:
        """The work is done."""
        forget_groups()
        dist.destroy_process_group()


def join(threads: int = 0) -> Team:
    """The world that the environment speaks of (`torchrun` sets it); `threads` for this process's arithmetic, 0 for as many as
    `OMP_NUM_THREADS` says (`torchrun` says one)."""
    if threads:
        torch.set_num_threads(threads)
    if not dist.is_initialized():
        if torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
        rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo",
            store=_store(rank),
            rank=rank,
            world_size=size,
            timeout=PATIENCE,
        )
    return Team(dist.get_rank(), dist.get_world_size())


def _store(rank: int) -> Any:
    """Where processes find each other. Each time that `torchrun` starts them again they have a part of their own: addresses
    that dead processes have left there would be waited for."""
    agents = os.environ.get("TORCHELASTIC_USE_AGENT_STORE", "") == "True"
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    store = TCPStore(address, port, is_master=rank == 0 and not agents, timeout=PATIENCE)
    return PrefixStore("start " + os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"), store)
