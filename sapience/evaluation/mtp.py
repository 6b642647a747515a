"""How good the multi-token-prediction drafts are on held-out text.

The draft of depth 1 at position i names token i+2. A speculative decoder accepts it where it equals the main
model's own greedy choice for that place, so acceptance alone can be had by a draft that shares the model's
errors; a draft that is accepted *and* true is one that real text confirms. A bigram draft, the most frequent
successor of token i+1 in the training text, is measured in the same way: MTP has to beat it to be worth its
cost. All is teacher-forced: one forward pass, no generation.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sapience.evaluation.bits_per_byte import (
    LanguageModel,
    TextEncoder,
    Window,
    document_windows,
    evaluating,
    model_device,
    padded_batch,
    window_batches,
)


class DraftingModel(LanguageModel, Protocol):
    """A model whose MTP modules give states for tokens further ahead, an empty list if it has none."""

    def mtp_hidden(self, hidden_BTD: Tensor, tokens_BT: Tensor) -> list[Tensor]: ...


@dataclass(frozen=True, slots=True)
class DraftScore:
    """Counts over `positions` places of text where both a draft and the main model's choice exist."""

    positions: int = 0
    accepted: int = 0
    accepted_true: int = 0
    bigram_accepted: int = 0
    bigram_accepted_true: int = 0

    def __add__(self, other: "DraftScore") -> "DraftScore":
        return DraftScore(
            self.positions + other.positions,
            self.accepted + other.accepted,
            self.accepted_true + other.accepted_true,
            self.bigram_accepted + other.bigram_accepted,
            self.bigram_accepted_true + other.bigram_accepted_true,
        )

    def shares(self) -> dict[str, float]:
        """The counts as shares of all positions; zeros where there is no position."""
        over = max(1, self.positions)
        return {
            "accepted": self.accepted / over,
            "accepted_true": self.accepted_true / over,
            "bigram_accepted": self.bigram_accepted / over,
            "bigram_accepted_true": self.bigram_accepted_true / over,
        }


def bigram_successors(
    texts: Iterable[NDArray[np.unsignedinteger]], vocab_size: int, limit: int = 4_000_000
) -> NDArray[np.int64]:
    """For every token the token that follows it most often, the lowest id on a tie; [vocab_size], -1 for a
    token never seen.

    Of each stream of tokens at most the first `limit` are counted.
    """
    codes: NDArray[np.int64] = np.zeros(0, np.int64)
    counts: NDArray[np.int64] = np.zeros(0, np.int64)
    for tokens in texts:
        stream = np.asarray(tokens[:limit], dtype=np.int64)
        new_codes, new_counts = np.unique(stream[:-1] * vocab_size + stream[1:], return_counts=True)
        merged = np.concatenate([codes, new_codes])
        codes, places = np.unique(merged, return_inverse=True)
        counts = np.bincount(places, np.concatenate([counts, new_counts]), len(codes)).astype(np.int64)
    first, second = codes // vocab_size, codes % vocab_size
    order = np.lexsort((-second, counts, first))  # the last entry of each first token is its best successor
    successors = np.full(vocab_size, -1, np.int64)
    successors[first[order]] = second[order]
    return successors


def draft_score(
    model: DraftingModel,
    tokenizer: TextEncoder,
    texts: Sequence[str],
    successors: NDArray[np.int64],
    length: int,
    batch_tokens: int = 4096,
) -> DraftScore:
    """Scores the drafts of depth 1 on `texts`, in windows of `length` tokens; each place in a text counts
    once.

    `successors` comes from `bigram_successors`. A model without MTP gives a score without positions. The
    model's training mode is left as it was.
    """
    windows = [
        window
        for tokens in tokenizer.encode_batch(list(texts))
        for window in document_windows([tokenizer.bos_id, *tokens], length)
    ]
    successors_V = torch.from_numpy(successors).to(model_device(model))
    score = DraftScore()
    with torch.inference_mode(), evaluating(model):
        for batch in window_batches(windows, batch_tokens):
            score += _batch_score(model, batch, tokenizer.pad_id, successors_V)
    return score


def _batch_score(model: DraftingModel, batch: Sequence[Window], pad_id: int, successors_V: Tensor) -> DraftScore:
    """Position i of the draft and position i+1 of the main model both name token i+2: those two are
    compared."""
    tokens_BT, scored_BT = padded_batch(batch, pad_id, successors_V.device)
    inputs_BT = tokens_BT[:, :-1]
    counted_BT = scored_BT[:, 2:]
    if not bool(counted_BT.any()):
        return DraftScore()
    hidden_BTD = model.hidden(inputs_BT)
    depths = model.mtp_hidden(hidden_BTD, inputs_BT)
    if not depths:
        return DraftScore()
    truth_N = tokens_BT[:, 2:][counted_BT]
    own_N = greedy(model, hidden_BTD[:, 1:][counted_BT])
    draft_N = greedy(model, depths[0][counted_BT])
    bigram_N = successors_V[tokens_BT[:, 1:-1][counted_BT]]
    return DraftScore(
        len(truth_N),
        int((draft_N == own_N).sum()),
        int(((draft_N == own_N) & (draft_N == truth_N)).sum()),
        int((bigram_N == own_N).sum()),
        int(((bigram_N == own_N) & (bigram_N == truth_N)).sum()),
    )


def greedy(model: LanguageModel, hidden_ND: Tensor) -> Tensor:
    """The most likely token at each of N states, [N], with the logits of only some states at a time."""
    chunks = [
        model.logits(hidden_ND[None, start : start + 512])[0].argmax(-1) for start in range(0, len(hidden_ND), 512)
    ]
    return torch.cat(chunks) if chunks else torch.zeros(0, dtype=torch.long, device=hidden_ND.device)
