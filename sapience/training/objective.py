"""What pre-training minimises: next token, further tokens, balance (DeepSeek-V3 report, equations 17-25).

Every term is a *sum* over tokens; the executor divides by one denominator, the labelled tokens of the whole step. So the
gradient does not depend on how the step is cut into micro-batches, rows or ranks.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sapience.model.batch import Microbatch, prediction_labels
from sapience.model.block import Router
from sapience.model.transformer import Transformer
from sapience.ops.cross_entropy import IGNORE, linear_cross_entropy
from sapience.parallel.executor import Sums


@dataclass
class NextTokens:
    """L = L_main + lambda/D sum_k L_MTP^k + alpha sum f_i P_i, as sums over tokens."""

    prediction_weight: float
    """lambda; the loop changes it by the schedule."""
    alpha: float
    """Weight of the sequence-wise balance loss."""
    names: tuple[str, ...] = ("loss", "mtp_loss", "balance_loss")

    def __call__(self, model: Transformer, batch: Microbatch) -> tuple[Tensor, Sums]:
        """A micro-batch's loss sum and its parts; a sequence's balance term counts once per labelled token of it."""
        forward = model(batch)
        total, values = self.of_tokens(model, forward.hidden_BTD, forward.predictions, batch)
        more, balance = self.of_routers(forward.routers, batch)
        if forward.routers:
            total = total + more
            loads = torch.stack([router.loads_E for router in forward.routers])
        else:
            loads = total.new_zeros((0, model.config.n_routed_experts))
        return total, Sums(values | balance, loads)

    def of_tokens(
        self, model: Transformer, hidden_BTD: Tensor, predictions: Sequence[Tensor], batch: Microbatch
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """What is made of the last hidden states: the loss sum of next and of further tokens, and both for the record."""
        head = model.head.weight
        main = linear_cross_entropy(hidden_BTD.flatten(0, 1), head, batch.labels_BT.flatten())
        prediction = main.new_zeros(())
        for depth, hidden in enumerate(predictions, start=1):
            labels = prediction_labels(batch, depth)
            prediction = prediction + linear_cross_entropy(hidden.flatten(0, 1), head, labels.flatten())
        total = main
        if predictions:
            prediction = prediction / len(predictions)
            total = total + self.prediction_weight * prediction
        return total, {"loss": main.detach(), "mtp_loss": prediction.detach()}

    def of_routers(self, routers: Sequence[Router], batch: Microbatch) -> tuple[Tensor, dict[str, Tensor]]:
        """What some layers add: their balance terms, weighted, and the plain sum for the record."""
        kind = torch.promote_types(routers[0].balance_B.dtype, torch.float32) if routers else torch.float32
        tokens_B = (batch.whole.labels_BT != IGNORE).sum(1).to(kind)
        balance = tokens_B.new_zeros(())
        for router in routers:
            balance = balance + (router.balance_B.to(kind) * tokens_B).sum()
        return self.alpha * balance, {"balance_loss": balance.detach()}


def labelled_tokens(batches: list[Microbatch]) -> int:
    """The step's denominator: positions with a next token to predict."""
    return sum(int((batch.labels_BT != IGNORE).sum()) for batch in batches)
