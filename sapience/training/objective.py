"""What pre-training minimises: next token, further tokens, balance (DeepSeek-V3 report, equations 17-25).

Every term is a *sum* over tokens; the executor divides by one denominator, the labelled tokens of the whole step. So the
gradient does not depend on how the step is cut into micro-batches, rows or ranks.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from sapience.model.batch import Microbatch, prediction_labels
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

    def __call__(self, model: Transformer, batch: Microbatch) -> tuple[Tensor, Sums]:
        """A micro-batch's loss sum and its parts; a sequence's balance term counts once per labelled token of it."""
        forward = model(batch)
        head = model.head.weight
        main = linear_cross_entropy(forward.hidden_BTD.flatten(0, 1), head, batch.labels_BT.flatten())
        total = main
        values = {"loss": main.detach()}
        prediction = main.new_zeros(())
        for depth, hidden in enumerate(forward.predictions, start=1):
            labels = prediction_labels(batch, depth)
            prediction = prediction + linear_cross_entropy(hidden.flatten(0, 1), head, labels.flatten())
        if forward.predictions:
            prediction = prediction / len(forward.predictions)
            total = total + self.prediction_weight * prediction
        values["mtp_loss"] = prediction.detach()
        tokens_B = (batch.labels_BT != IGNORE).sum(1).to(main.dtype)
        balance = main.new_zeros(())
        for router in forward.routers:
            balance = balance + (router.balance_B.to(main.dtype) * tokens_B).sum()
        if forward.routers:
            total = total + self.alpha * balance
            loads = torch.stack([router.loads_E for router in forward.routers])
        else:
            loads = main.new_zeros((0, model.config.n_routed_experts))
        values["balance_loss"] = balance.detach()
        return total, Sums(values, loads)


def labelled_tokens(batches: list[Microbatch]) -> int:
    """The step's denominator: positions with a next token to predict."""
    return sum(int((batch.labels_BT != IGNORE).sum()) for batch in batches)
