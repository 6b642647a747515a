"""The reward model: the SFT model with a scalar in place of its words, taught by pairs which answer is better.

The score is a linear map of the final hidden state at the conversation's last token, the end that closes the answer
(`ChatFormat.conversation`, the one rendering of training, sampling and scoring). Where that token stands is known from
the conversation's length, never searched for among padding. Loss: Bradley and Terry (1952), with a small term that keeps
scores around zero (Eisenstein et al. 2023, "Helping or herding?", appendix). The head for words and the prediction
modules take no part and keep the SFT model's weights. Not covered: reasons are kept with the pairs, not generated.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from sapience.corpus.chat import ChatFormat, Message, jinja_template
from sapience.corpus.tokenizer import ASSISTANT, USER, Tokenizer
from sapience.model.batch import Microbatch
from sapience.model.huggingface import load_model, save_model
from sapience.model.tensor_files import write_tensors
from sapience.model.transformer import Transformer
from sapience.ops.cross_entropy import IGNORE
from sapience.parallel.executor import Sums
from sapience.recipe.errors import UserError

HEAD_FILE = "reward_head.safetensors"
HEAD_NAME = "score_head.weight"
HEAD_DEVIATION = 0.01
"""Of the head's first weights: both answers of a pair begin with nearly the same score."""


@dataclass(frozen=True, kw_only=True)
class ScoredBatch(Microbatch):
    """Whole conversations, a row each, padded at the end."""

    lengths_B: Tensor
    """int64: tokens of each row."""

    def to(self, device: torch.device | str) -> "ScoredBatch":
        """The same on another device."""
        moved = super().to(device)
        return ScoredBatch(
            moved.tokens_BT,
            moved.labels_BT,
            moved.documents_BT,
            moved.isolate,
            lengths_B=self.lengths_B.to(device, non_blocking=True),
        )


class RewardModel(nn.Module):
    """A transformer and a vector that its last hidden state is multiplied with."""

    def __init__(self, transformer: Transformer, seed: int = 0) -> None:
        super().__init__()
        self.transformer = transformer
        width = transformer.config.hidden_size
        like = transformer.embedding.weight
        # Its name ends in `head.weight`, by which the optimizers know a matrix that is AdamW's.
        self.score_head = nn.Linear(width, 1, bias=False, device=like.device, dtype=like.dtype)
        noise = torch.randn(1, width, generator=torch.Generator().manual_seed(seed)) * HEAD_DEVIATION
        with torch.no_grad():
            self.score_head.weight.copy_(noise)

    def forward(self, batch: ScoredBatch) -> Tensor:
        """Scores [B]."""
        transformer = self.transformer
        hidden_BTD, _ = transformer.body(batch.tokens_BT, transformer.context(batch))
        rows = torch.arange(hidden_BTD.shape[0], device=hidden_BTD.device)
        last_BD = hidden_BTD[rows, batch.lengths_B - 1]
        scores_B1: Tensor = self.score_head(last_BD)
        return scores_B1.squeeze(1)

    @torch.no_grad()
    def scores(self, chat: ChatFormat, conversations: Sequence[Sequence[Message]], batch: int = 64) -> list[float]:
        """The score of every conversation, in the order given; rows of like lengths go through the model together."""
        rendered = [chat.conversation(messages).tokens for messages in conversations]
        order = sorted(range(len(rendered)), key=lambda i: len(rendered[i]))
        found: dict[int, float] = {}
        for start in range(0, len(order), batch):
            chosen = order[start : start + batch]
            rows = scored_batch([rendered[i] for i in chosen], chat.tokenizer.pad_id)
            scores_B = self(rows.to(self.score_head.weight.device))
            found.update(zip(chosen, scores_B.tolist(), strict=True))
        return [found[i] for i in range(len(rendered))]


def scored_batch(rows: Sequence[Sequence[int]], pad_id: int) -> ScoredBatch:
    """Conversations as one padded batch."""
    width = max(map(len, rows))
    tokens = torch.full((len(rows), width), pad_id, dtype=torch.int64)
    documents = torch.full((len(rows), width), -1, dtype=torch.int32)
    for number, row in enumerate(rows):
        tokens[number, : len(row)] = torch.tensor(row)
        documents[number, : len(row)] = 0
    lengths = torch.tensor([len(row) for row in rows])
    return ScoredBatch(tokens, torch.full_like(tokens, IGNORE), documents, lengths_B=lengths)


def preference_loss(chosen_P: Tensor, rejected_P: Tensor, center: float) -> Tensor:
    """Sum over pairs of -log sigmoid(chosen - rejected) + center · ((chosen + rejected) / 2)²."""
    ranking_P = -functional.logsigmoid(chosen_P - rejected_P)
    return (ranking_P + center * ((chosen_P + rejected_P) / 2).square()).sum()


@dataclass
class PreferenceObjective:
    """The loss of a batch whose first half are the chosen answers and whose second half the rejected ones, in order."""

    model: RewardModel
    center: float

    def __call__(self, _: Transformer, batch: Microbatch) -> tuple[Tensor, Sums]:
        """See `Objective`."""
        assert isinstance(batch, ScoredBatch)
        chosen_P, rejected_P = self.model(batch).chunk(2)
        loss = preference_loss(chosen_P, rejected_P, self.center)
        margin_P = (chosen_P - rejected_P).detach()
        values = {"loss": loss.detach(), "accuracy": (margin_P > 0).to(loss.dtype).sum(), "margin": margin_P.sum()}
        return loss, Sums(values, loss.new_zeros((0, 1)))


def save_reward_model(model: RewardModel, tokenizer: Tokenizer, folder: Path) -> None:
    """A Hugging Face folder of the transformer with the head beside it; config.json last, so that a torn one is none."""
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f".{HEAD_FILE}.partial"
    write_tensors(temporary, {HEAD_NAME: model.score_head.weight.detach().clone()})
    temporary.replace(folder / HEAD_FILE)
    named = USER in tokenizer.special and ASSISTANT in tokenizer.special
    tokenizer.save(folder, jinja_template(named))
    save_model(model.transformer, folder, tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id)


def load_reward_model(folder: Path, device: torch.device | str = "cpu") -> RewardModel:
    """What `save_reward_model` wrote. Raises UserError where there is no head, a damaged one or one of another width."""
    path = folder / HEAD_FILE
    if not path.is_file():
        raise UserError(
            f"{folder} has no {HEAD_FILE}: it is no reward model; give the model folder of a stage `reward`"
        )
    model = RewardModel(load_model(folder, device))
    try:
        weight = load_file(path)[HEAD_NAME]
    except (SafetensorError, OSError, KeyError) as error:
        raise UserError(f"{path} is damaged ({error}): copy it again") from None
    wanted = model.score_head.weight.shape
    if weight.shape != wanted:
        raise UserError(f"{path} has a head of shape {list(weight.shape)}, config.json wants {list(wanted)}")
    with torch.no_grad():
        model.score_head.weight.copy_(weight)
    return model
