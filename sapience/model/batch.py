"""What goes into the network in training: packed rows with their targets."""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from sapience.ops.cross_entropy import IGNORE
from sapience.ops.masked_attention import most_documents

FAMILY = 1 << 12
"""Documents that may have a beginning in common, it included."""


class Exchange(Protocol):
    """How ranks that share rows speak with each other."""

    @property
    def size(self) -> int:
        """Of them."""

    def gathered(self, x_BTd: Tensor) -> Tensor:
        """What all ranks have of the rows, in the rows' order; a gradient is summed where it belongs."""

    def total(self, x: Tensor) -> Tensor:
        """The sum of every rank's, and so is its gradient."""


@dataclass(frozen=True)
class SharedRows:
    """Rows of which this rank has some places and others have the rest: context parallelism."""

    whole: "Microbatch"
    places_T: Tensor
    """int64: this rank's, in order."""
    stretches: tuple[tuple[int, int, int], ...]
    """The same as (from, to, end): places of this rank that follow one another, and where in the rows they end."""
    exchange: Exchange

    def ahead(self, x_BT: Tensor, distance: int, filling: int | bool) -> Tensor:
        """Of something that the whole rows have, what stands `distance` places behind each of this rank's; behind the end
        there is `filling`."""
        return functional.pad(x_BT, (0, distance), value=filling)[:, self.places_T + distance]

    def to(self, device: torch.device | str) -> "SharedRows":
        """The same on another device."""
        return SharedRows(self.whole.to(device), self.places_T.to(device), self.stretches, self.exchange)


@dataclass(frozen=True)
class Microbatch:
    """Rows that go through the model at once."""

    tokens_BT: Tensor
    """int64 inputs."""
    labels_BT: Tensor
    """int64: the next token, or IGNORE where there is none to predict."""
    documents_BT: Tensor
    """int32: which document of its row a position belongs to; -1 is padding."""
    isolate: bool = False
    """Attend within a document only (post-training); pre-training lets packed documents see each other, as V3 does."""
    positions_BT: Tensor | None = None
    """int64: place of each token in its own sequence; None where places count from the row's beginning."""
    prefix: bool = False
    """A document whose number is a multiple of FAMILY is the beginning of those with the numbers up to the next multiple,
    which see it and not each other."""
    most_documents: int = 0
    """No row holds more; 0 where nobody has counted them. They are counted before a batch goes to a GPU, which need not
    wait then."""
    shared: SharedRows | None = None
    """Where these are but some places of rows."""

    @property
    def whole(self) -> "Microbatch":
        """All places of the rows."""
        return self if self.shared is None else self.shared.whole

    @property
    def valid_BT(self) -> Tensor:
        """True where there is a token, False on padding."""
        return self.documents_BT >= 0

    def to(self, device: torch.device | str) -> "Microbatch":
        """The same on another device. To a GPU from locked memory, so that nobody waits for what runs there."""
        leaving = torch.device(device).type == "cuda" and not self.documents_BT.is_cuda
        return Microbatch(
            _sent(self.tokens_BT, device),
            _sent(self.labels_BT, device),
            _sent(self.documents_BT, device),
            self.isolate,
            None if self.positions_BT is None else _sent(self.positions_BT, device),
            self.prefix,
            most_documents(self.documents_BT) if self.isolate and leaving else self.most_documents,
            None if self.shared is None else self.shared.to(device),
        )


def _sent(tensor: Tensor, device: torch.device | str) -> Tensor:
    if torch.device(device).type == "cuda" and not tensor.is_cuda:
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


def from_rows(tokens: Tensor, documents: Tensor, isolate: bool = False) -> Microbatch:
    """Inputs and targets from packed rows of T+1 tokens; no target crosses the end of a document or leads into padding."""
    same = (documents[:, 1:] == documents[:, :-1]) & (documents[:, 1:] >= 0)
    labels = torch.where(same, tokens[:, 1:], IGNORE)
    return Microbatch(tokens[:, :-1].contiguous(), labels, documents[:, :-1].contiguous(), isolate)


def prediction_labels(batch: Microbatch, depth: int) -> Tensor:
    """Targets of prediction depth k: at position i the token i+k+1, [B, T-k]; none where a document ends in between. Of shared
    rows [B, T], none for the last k places of the rows."""
    labels = batch.whole.labels_BT[:, depth:]
    documents = batch.whole.documents_BT
    same = documents[:, depth:] == documents[:, : labels.shape[1]]
    labels = torch.where(same, labels, IGNORE)
    return (
        labels if batch.shared is None else functional.pad(labels, (0, depth), value=IGNORE)[:, batch.shared.places_T]
    )
