"""Drawn answers as rows for the policy gradient: a prompt is read once, however many answers to it there are.

A prompt with its answers is a family of documents; families stand behind one another in a row, and none sees another. An
answer that was drawn several times, as likely and as good each time, is read once and counts as often as it was drawn.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sapience.model.batch import FAMILY, Microbatch
from sapience.model.transformer import Transformer
from sapience.ops.cross_entropy import IGNORE
from sapience.ops.log_probability import linear_log_probability
from sapience.posttraining.policy_gradient import token_weight
from sapience.posttraining.rollouts import Rollout
from sapience.recipe.policy import PolicySection

SHARED_ROW = 256
"""Most tokens of a row that several answers or several prompts share; attention grows with the square of a row."""


@dataclass(frozen=True, kw_only=True)
class PolicyBatch(Microbatch):
    """Prompts, each with answers to it behind it; all that the loss needs of every answer token, zero elsewhere."""

    counts_BT: Tensor
    """How often the answer was drawn."""
    weights_BT: Tensor
    """Weight of the token in the loss, times that."""
    advantages_BT: Tensor
    engine_BT: Tensor
    """Log-probability at the draw."""
    betas_BT: Tensor
    """Weight of the KL divergence."""
    old_BT: Tensor | None = None
    """The trainer's log-probability before the first update; None where there is only one."""
    reference_BT: Tensor | None = None
    """That of the model the stage began with; None where beta is zero."""

    def to(self, device: torch.device | str) -> "PolicyBatch":
        """The same on another device."""

        def move(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else tensor.to(device, non_blocking=True)

        moved = super().to(device)
        return PolicyBatch(
            moved.tokens_BT,
            moved.labels_BT,
            moved.documents_BT,
            moved.isolate,
            moved.positions_BT,
            moved.prefix,
            counts_BT=self.counts_BT.to(device),
            weights_BT=self.weights_BT.to(device),
            advantages_BT=self.advantages_BT.to(device),
            engine_BT=self.engine_BT.to(device),
            betas_BT=self.betas_BT.to(device),
            old_BT=move(self.old_BT),
            reference_BT=move(self.reference_BT),
        )


@dataclass(frozen=True)
class _Answer:
    """A drawn answer, and how often it was drawn."""

    rollout: Rollout
    times: int

    @property
    def tokens(self) -> list[int]:
        """Of the answer."""
        return self.rollout.completion.tokens


@dataclass(frozen=True)
class _Family:
    """A prompt and some of the answers to it: the prompt is read once, however many there are."""

    prompt: Sequence[int]
    end: int
    """Last tokens of the prompt that stand at the head of every answer: one predicts its first token, and as many as
    there are prediction depths keep what a depth looks ahead to within the answer's own part."""
    answers: list[_Answer]

    @property
    def length(self) -> int:
        """Tokens: the prompt's beginning once, its end and all but the last token of the answer for every answer."""
        return len(self.prompt) - self.end + sum(self.end - 1 + len(answer.tokens) for answer in self.answers)

    def beta(self, section: PolicySection) -> float:
        """The weight of KL: another one where no rule judges."""
        ruled = self.answers[0].rollout.prompt.problem is not None or section.open_beta is None
        return section.beta if ruled else float(section.open_beta or 0.0)


def policy_batches(
    rollouts: Sequence[Rollout], section: PolicySection, pad_id: int, depths: int = 1
) -> list[PolicyBatch]:
    """Answers behind their prompts, rows of like lengths together, at most `micro_tokens` at once; `depths` of multi-token
    prediction are trained along.

    Answers to one prompt share its row up to SHARED_ROW tokens: they see the prompt and not each other, at the positions
    they would have alone, so nothing but the arithmetic on the prompt is saved. Families that leave room for others share
    a row as well, which spares padding. Those that KL is taken of have batches of their own: nobody else's need the
    reference.
    """
    families = _families(rollouts, max(1, depths))
    anchored = [family for family in families if family.beta(section) > 0]
    free = [family for family in families if not family.beta(section) > 0]
    return [
        _policy_batch(rows, section, pad_id)
        for part in (free, anchored)
        for rows in _batches(_packed(part), section.micro_tokens)
    ]


def _answers(rollouts: Sequence[Rollout]) -> list[_Answer]:
    """Each different one once, in the order of their first draws."""
    drawn: dict[Hashable, list[Rollout]] = {}
    for rollout in rollouts:
        said = tuple(rollout.completion.tokens), tuple(rollout.completion.logprobs), rollout.advantage
        drawn.setdefault((_asked(rollout), said), []).append(rollout)
    return [_Answer(alike[0], len(alike)) for alike in drawn.values()]


def _asked(rollout: Rollout) -> tuple[bool, tuple[int, ...]]:
    """What tells families apart: a wish may read as a problem does."""
    return rollout.prompt.problem is None, tuple(rollout.prompt_tokens)


def _families(rollouts: Sequence[Rollout], end: int) -> list[_Family]:
    families: list[_Family] = []
    still_open: dict[Hashable, _Family] = {}
    for answer in _answers(rollouts):
        key, prompt = _asked(answer.rollout), answer.rollout.prompt_tokens
        family = still_open.get(key)
        if family is None or family.length + family.end - 1 + len(answer.tokens) > SHARED_ROW:
            family = still_open[key] = _Family(prompt, min(end, len(prompt)), [])
            families.append(family)
        family.answers.append(answer)
    return families


def _packed(families: Sequence[_Family]) -> list[list[_Family]]:
    """Rows of at most SHARED_ROW tokens, each family in the fullest that has room, the long ones first; shortest row first."""
    rows: list[list[_Family]] = []
    held: list[int] = []
    for length, family in sorted(((f.length, f) for f in families), key=lambda pair: -pair[0]):
        fitting = [number for number, tokens in enumerate(held) if tokens + length <= SHARED_ROW]
        if fitting:
            fullest = max(fitting, key=held.__getitem__)
            rows[fullest].append(family)
            held[fullest] += length
        else:
            rows.append([family])
            held.append(length)
    return [rows[number] for number in sorted(range(len(rows)), key=held.__getitem__)]


def _length(row: Sequence[_Family]) -> int:
    return sum(family.length for family in row)


def _batches(rows: Sequence[list[_Family]], most_tokens: int) -> list[list[list[_Family]]]:
    """Rows in order, as many as have room at once; a row that is longer is alone."""
    batches: list[list[list[_Family]]] = []
    for row in rows:
        if not batches or _length(row) * (len(batches[-1]) + 1) > most_tokens:
            batches.append([])
        batches[-1].append(row)
    return batches


def _policy_batch(rows: Sequence[Sequence[_Family]], section: PolicySection, pad_id: int) -> PolicyBatch:
    shape = len(rows), max(map(_length, rows))
    tokens = torch.full(shape, pad_id, dtype=torch.int64)
    labels = torch.full(shape, IGNORE, dtype=torch.int64)
    documents = torch.full(shape, -1, dtype=torch.int32)
    positions = torch.zeros(shape, dtype=torch.int64)
    counts, weights, values, engine, betas = (torch.zeros(shape) for _ in range(5))
    for number, row in enumerate(rows):
        at = 0
        for first, family in zip(range(0, len(row) * FAMILY, FAMILY), row, strict=True):
            shared = len(family.prompt) - family.end
            tokens[number, at : at + shared] = torch.tensor(family.prompt[:shared], dtype=torch.int64)
            documents[number, at : at + shared] = first
            positions[number, at : at + shared] = torch.arange(shared)
            at += shared
            for document, answer in enumerate(family.answers, start=first + 1):
                said, completion = answer.tokens, answer.rollout.completion
                whole = torch.tensor([*family.prompt[shared:], *said[:-1]])
                end = at + len(whole)
                tokens[number, at:end] = whole
                documents[number, at:end] = document
                positions[number, at:end] = shared + torch.arange(len(whole))
                counts[number, at:end] = answer.times
                part = number, slice(end - len(said), end)
                labels[part] = torch.tensor(said)
                weights[part] = answer.times * token_weight(len(said), section.aggregate)
                values[part] = answer.rollout.advantage or 0.0
                engine[part] = torch.tensor(completion.logprobs)
                betas[part] = family.beta(section)
                at = end
    return PolicyBatch(
        tokens, labels, documents, positions_BT=positions, prefix=True,
        counts_BT=counts, weights_BT=weights, advantages_BT=values, engine_BT=engine, betas_BT=betas,
    )  # fmt: skip


@torch.no_grad()
def answer_logprobs(model: Transformer, batch: PolicyBatch) -> Tensor:
    """The model's log-probability of every answer token, zero elsewhere, [B,T] on the batch's device."""
    device = model.embedding.weight.device
    moved = batch.to(device)
    hidden_BTD, _ = model.body(moved.tokens_BT, model.context(moved))
    answer_BT = moved.labels_BT != IGNORE
    values = linear_log_probability(hidden_BTD[answer_BT], model.head.weight, moved.labels_BT[answer_BT])
    result = torch.zeros(answer_BT.shape, dtype=values.dtype, device=device)
    result[answer_BT] = values
    return result.to(batch.tokens_BT.device)


def with_tensors(batch: PolicyBatch, **changes: Tensor) -> PolicyBatch:
    """The same batch with some of its tensors set."""
    return PolicyBatch(**({name: getattr(batch, name) for name in batch.__dataclass_fields__} | changes))
