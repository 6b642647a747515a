"""Requests on their way: prompts that are read, answers that are drawn, steps that have been begun."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from sapience.inference.drafting import Draftee
from sapience.inference.network import Passed
from sapience.inference.pages import PAGE, Name, pages_for
from sapience.inference.requests import End, Request, Token
from sapience.inference.sampling import Chooser


@dataclass(eq=False)
class Prompt:
    """A request whose prompt is read, or has been."""

    request: Request
    names: list[Name]
    pages: list[int] = field(default_factory=list)
    """Of the prompt; the one answer's too, where only one is wanted."""
    reserved: list[int] = field(default_factory=list)
    """Of the first of several answers."""
    read: int = 0
    """Tokens."""
    logits_V: Tensor | None = None
    state_1D: Tensor | None = None
    """Of its last token, for drafts."""
    begun: int = 0
    """Answers."""

    @property
    def complete(self) -> bool:
        return self.read == len(self.request.prompt)

    @property
    def own(self) -> int:
        """Pages that an answer does not share with the others."""
        request = self.request
        return pages_for(len(request.prompt) + request.limit) - len(request.prompt) // PAGE


@dataclass(eq=False)
class Answer(Draftee):
    """One that is being drawn."""

    prompt: Prompt = field(kw_only=True)
    sample: int = field(kw_only=True)


@dataclass(frozen=True)
class Started:
    """A step that the device has been given."""

    answers: list[Answer]
    began: float
    passed: Passed | None = None
    results_NR: Tensor | None = None
    """Of a cycle, where drafts are checked."""


def table_of(pages: Sequence[Sequence[int]]) -> Tensor:
    """Each row's pages in order, filled up with zeros."""
    widest = max(map(len, pages))
    return torch.tensor([[*row, *[0] * (widest - len(row))] for row in pages], dtype=torch.int32)


def chooser_of(request: Request, sample: int) -> Chooser:
    """Of one of the answers to a request."""
    generator = torch.Generator().manual_seed(request.seeds[sample] % 2**64)
    uniforms = torch.rand(request.limit, generator=generator, dtype=torch.float64).tolist()
    constraint = None if request.constraint is None else request.constraint()
    return Chooser(request.sampling, uniforms, request.alternatives, constraint, request.prompt)


def rows_of(started: Started, older: list[Answer]) -> Passed:
    """What the step gives those who are still here."""
    assert started.passed is not None
    logits, states_ND = started.passed
    if started.answers == older:
        return started.passed
    row_of = {answer: row for row, answer in enumerate(started.answers)}
    rows = [row_of[answer] for answer in older]
    return Passed(logits[rows], None if states_ND is None else states_ND[rows])


def logits_of(prompt: Prompt) -> Tensor:
    """Behind a prompt that has been read, [V]."""
    assert prompt.logits_V is not None
    return prompt.logits_V


def end_of(answer: Answer, drawn: Sequence[Token | None]) -> End | None:
    """Whether the answer ends with the last of the tokens that were drawn just now."""
    token = drawn[-1]
    if token is None:
        return "failed"
    if token.id in answer.prompt.request.stop_ids:
        return "stop"
    return "length" if len(answer.tokens) + len(drawn) == answer.limit else None
