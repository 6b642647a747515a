"""The reward model: the SFT model with a scalar in place of its words, taught by pairs which answer is better.

The score is a linear map of the final hidden state at the conversation's last token, the end that closes the answer
(`ChatFormat.conversation`, the one rendering of training, sampling and scoring), and, where a recipe gives it weight, the
answer's mean log-probability: what fine-tuning has taught already, the implicit reward of SimPO (Meng et al. 2024), to
which a very small model with few pairs owes most of its judgement. Where tokens stand is known from lengths, never
searched for among padding. Loss: Bradley and Terry (1952), with a small term that keeps scores around zero (Eisenstein
et al. 2023, "Helping or herding?", appendix). The prediction modules take no part and keep the SFT model's weights; so
does the head for words where log-probabilities have no weight. Not covered: reasons are kept with the pairs, not generated.
"""

from collections.abc import Iterator, Sequence
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
from sapience.ops.log_probability import linear_log_probability
from sapience.parallel.executor import Sums
from sapience.recipe.errors import UserError

HEAD_FILE = "reward_head.safetensors"
HEAD_NAME = "score_head.weight"
LIKELIHOOD = "likelihood"
LIKE_LENGTHS = 1.5
"""The longest row of a batch is at most so many times as long as the shortest."""
HEAD_DEVIATION = 0.01
"""Of the head's first weights: both answers of a pair begin with nearly the same score."""


@dataclass(frozen=True)
class ScoredRow:
    """A conversation as tokens."""

    tokens: list[int]
    start: int
    """Where its last answer begins."""

    def __len__(self) -> int:
        return len(self.tokens)


def scored_row(chat: ChatFormat, messages: Sequence[Message]) -> ScoredRow:
    """A conversation that ends with an answer."""
    return ScoredRow(chat.conversation(messages).tokens, len(chat.prompt(messages[:-1])))


@dataclass(frozen=True, kw_only=True)
class ScoredBatch(Microbatch):
    """Whole conversations, a row each, padded at the end; the labels are the last answers' tokens."""

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
    """A transformer and a vector that its last hidden state is multiplied with.

    `likelihood` is the weight of the answer's mean log-probability (nats per token) in the score.
    """

    def __init__(self, transformer: Transformer, seed: int = 0, likelihood: float = 0.0) -> None:
        super().__init__()
        self.transformer, self.likelihood = transformer, likelihood
        width = transformer.config.hidden_size
        like = transformer.embedding.weight
        # Its name ends in `head.weight`, by which the optimizers know a matrix that is AdamW's.
        self.score_head = nn.Linear(width, 1, bias=False, device=like.device, dtype=like.dtype)
        noise = torch.randn(1, width, generator=torch.Generator().manual_seed(seed)) * HEAD_DEVIATION
        with torch.no_grad():
            self.score_head.weight.copy_(noise)

    def forward(self, batch: ScoredBatch) -> Tensor:
        """Scores [B] in the head's type, however narrow the hidden states are."""
        transformer = self.transformer
        hidden_BTD, _ = transformer.body(batch.tokens_BT, transformer.context(batch))
        rows = torch.arange(hidden_BTD.shape[0], device=hidden_BTD.device)
        last_BD = hidden_BTD[rows, batch.lengths_B - 1]
        scores_B: Tensor = self.score_head(last_BD.to(self.score_head.weight.dtype)).squeeze(1)
        if not self.likelihood:
            return scores_B
        answer_BT = batch.labels_BT != IGNORE
        logprobs_N = linear_log_probability(hidden_BTD[answer_BT], transformer.head.weight, batch.labels_BT[answer_BT])
        row_N = rows.unsqueeze(1).expand_as(answer_BT)[answer_BT]
        sums_B = scores_B.new_zeros(scores_B.shape).index_add(0, row_N, logprobs_N.to(scores_B.dtype))
        return scores_B + self.likelihood * sums_B / answer_BT.sum(1).clamp(min=1)

    @torch.no_grad()
    def scores(self, chat: ChatFormat, conversations: Sequence[Sequence[Message]], batch: int = 64) -> list[float]:
        """The score of every conversation, in the order given, at most `batch` at once.

        What is there several times is read once, and rows of like lengths go through the model together.
        """
        rendered = [scored_row(chat, messages) for messages in conversations]
        places: dict[tuple[tuple[int, ...], int], list[int]] = {}
        for place, row in enumerate(rendered):
            places.setdefault((tuple(row.tokens), row.start), []).append(place)
        found: dict[int, float] = {}
        for alike in _of_like_lengths(
            sorted(places.values(), key=lambda same: len(rendered[same[0]])), rendered, batch
        ):
            rows = scored_batch([rendered[same[0]] for same in alike], chat.tokenizer.pad_id)
            scores_B = self(rows.to(self.score_head.weight.device))
            for same, score in zip(alike, scores_B.tolist(), strict=True):
                found.update(dict.fromkeys(same, score))
        return [found[i] for i in range(len(rendered))]


def _of_like_lengths(
    places: Sequence[list[int]], rows: Sequence[ScoredRow], most: int
) -> Iterator[Sequence[list[int]]]:
    """Parts of `places`, which are sorted by their rows' lengths: at most `most`, none of which are mostly padding."""
    begin = 0
    for end in range(1, len(places) + 1):
        full = end == len(places) or end - begin == most
        if full or len(rows[places[end][0]]) > LIKE_LENGTHS * len(rows[places[begin][0]]):
            yield places[begin:end]
            begin = end


def scored_batch(rows: Sequence[ScoredRow], pad_id: int) -> ScoredBatch:
    """Conversations as one padded batch."""
    shape = len(rows), max(map(len, rows))
    tokens = torch.full(shape, pad_id, dtype=torch.int64)
    labels = torch.full(shape, IGNORE, dtype=torch.int64)
    documents = torch.full(shape, -1, dtype=torch.int32)
    for number, row in enumerate(rows):
        whole = torch.tensor(row.tokens)
        tokens[number, : len(row)] = whole
        labels[number, row.start - 1 : len(row) - 1] = whole[row.start :]
        documents[number, : len(row)] = 0
    return ScoredBatch(tokens, labels, documents, lengths_B=torch.tensor([len(row) for row in rows]))


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
    likelihood = torch.tensor([model.likelihood])
    write_tensors(temporary, {HEAD_NAME: model.score_head.weight.detach().clone(), LIKELIHOOD: likelihood})
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
        tensors = load_file(path)
        weight = tensors[HEAD_NAME]
    except (SafetensorError, OSError, KeyError) as error:
        raise UserError(f"{path} is damaged ({error}): copy it again") from None
    wanted = model.score_head.weight.shape
    if weight.shape != wanted:
        raise UserError(f"{path} has a head of shape {list(weight.shape)}, config.json wants {list(wanted)}")
    with torch.no_grad():
        model.score_head.weight.copy_(weight)
    model.likelihood = float(tensors[LIKELIHOOD][0]) if LIKELIHOOD in tensors else 0.0
    return model
