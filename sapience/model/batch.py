"""What goes into the network in training: packed rows with their targets."""

from dataclasses import dataclass

import torch
from torch import Tensor

from sapience.ops.cross_entropy import IGNORE
from sapience.ops.masked_attention import most_documents


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
    """Document 0 of a row is the beginning of all its other documents, which see it and not each other."""
    most_documents: int = 0
    """No row holds more; 0 where nobody has counted them. They are counted before a batch goes to a GPU, which need not
    wait then."""

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
    """Targets of prediction depth k: at position i the token i+k+1, [B, T-k]; none where a document ends in between."""
    labels = batch.labels_BT[:, depth:]
    same = batch.documents_BT[:, depth:] == batch.documents_BT[:, : labels.shape[1]]
    return torch.where(same, labels, IGNORE)
