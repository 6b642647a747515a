"""Choosing tokens from logits: penalties, constraints, what is left out, and the draw itself.

Every answer has random numbers of its own and is reckoned by itself, so that it does not depend on what is drawn beside it.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor

from sapience.inference.requests import Constraint, Sampling, Token
from sapience.ops.draw import draw, pick

_log = logging.getLogger(__name__)
Answered = TypeVar("Answered")
COLDEST = 1e-6
"""Temperatures below this, but for zero, are drawn with like this one: divided by less, logits would leave float64."""


@dataclass(eq=False)
class Chooser:
    """How one answer's tokens are chosen, and what of it has a say in the next ones."""

    sampling: Sampling
    uniforms: list[float]
    """From 0 to 1, one a token."""
    alternatives: int = 0
    constraint: Constraint | None = None
    prompt: Sequence[int] = ()
    drawn: int = 0
    _counts_V: Tensor | None = field(default=None, repr=False)
    _seen_V: Tensor | None = field(default=None, repr=False)
    _broken: bool = False
    """The constraint has raised: it allows nothing any more."""

    @property
    def adjusts(self) -> bool:
        """Whether logits are changed before the temperature."""
        asked = self.sampling
        return bool(
            self.constraint is not None
            or asked.logit_bias
            or asked.presence_penalty
            or asked.frequency_penalty
            or asked.repetition_penalty != 1.0
        )

    @property
    def plain(self) -> bool:
        """Whether nothing but the temperature has a say, and nothing but the token is asked for."""
        return self.sampling.plain and self.constraint is None and not self.alternatives

    @property
    def temperature(self) -> float:
        """Zero, or what logits can be divided by."""
        return self.sampling.temperature and max(self.sampling.temperature, COLDEST)

    def adjust_(self, logits_V: Tensor) -> None:
        """Change them in place."""
        asked, device = self.sampling, logits_V.device
        if self._counts_V is None:
            self._counts_V = torch.zeros(len(logits_V), dtype=logits_V.dtype, device=device)
            self._seen_V = torch.zeros(len(logits_V), dtype=torch.bool, device=device)
            self._seen_V[torch.tensor(list(self.prompt), dtype=torch.int64, device=device)] = True
        if asked.repetition_penalty != 1.0:
            seen = logits_V[self._seen_V]
            logits_V[self._seen_V] = torch.where(
                seen > 0, seen / asked.repetition_penalty, seen * asked.repetition_penalty
            )
        if asked.presence_penalty or asked.frequency_penalty:
            logits_V -= asked.frequency_penalty * self._counts_V + asked.presence_penalty * (self._counts_V > 0)
        for token, bias in asked.logit_bias.items():
            logits_V[token] += bias
        allowed = None if self.constraint is None else self._ask(self.constraint.allowed)
        if self._broken:
            logits_V.fill_(float("-inf"))
        elif allowed is not None:
            logits_V.masked_fill_(~allowed.to(device), float("-inf"))

    def take(self, token: int) -> None:
        """This token was chosen."""
        self.drawn += 1
        if self._counts_V is not None and self._seen_V is not None:
            self._counts_V[token] += 1
            self._seen_V[token] = True
        if self.constraint is not None:
            self._ask(partial(self.constraint.take, token))

    def _ask(self, question: Callable[[], Answered]) -> Answered | None:
        """What the constraint says. One that raises is somebody else's mistake: it ends this answer, and no other."""
        try:
            return question()
        except Exception:
            _log.exception("a constraint cannot go on: its answer has failed")
            self._broken = True
            return None


def choose(logits_BV: Tensor, choosers: Sequence[Chooser]) -> list[Token | None]:
    """The next token of every answer; None where its constraint allows none."""
    if logits_BV.is_cuda and all(chooser.plain for chooser in choosers):
        return _taken(_drawn_by_kernel(logits_BV, choosers), choosers)
    logprobs_BV = logits_BV.log_softmax(-1)
    adjusted_BV = logits_BV
    if any(chooser.adjusts for chooser in choosers):
        adjusted_BV = logits_BV.clone()
        for logits_V, chooser in zip(adjusted_BV, choosers, strict=True):
            if chooser.adjusts:
                chooser.adjust_(logits_V)
    warm = [row for row, chooser in enumerate(choosers) if chooser.sampling.temperature > 0]
    if len(warm) == len(choosers):
        drawn_B = _drawn(adjusted_BV, choosers)
    else:
        drawn_B = adjusted_BV.argmax(-1)
        if warm:
            drawn_B[warm] = _drawn(adjusted_BV[warm], [choosers[row] for row in warm])
    return _tokens(drawn_B, adjusted_BV, logprobs_BV, choosers)


def guess(logits_BV: Tensor, choosers: Sequence[Chooser], ahead: int) -> list[int]:
    """What the answers would draw from these logits as the token `ahead` of their next, with that token's random number.

    So a draft is the very token that is drawn wherever the guessed distribution is near the true one. Penalties and
    constraints are left out: they only cost drafts.
    """
    if logits_BV.is_cuda and not any(chooser.sampling.limits for chooser in choosers):
        return [int(token) for token, _ in _drawn_by_kernel(logits_BV, choosers, ahead)]
    warm = [row for row, chooser in enumerate(choosers) if chooser.sampling.temperature > 0]
    drawn_B = logits_BV.argmax(-1)
    if warm:
        drawn_B[warm] = _drawn(logits_BV[warm], [choosers[row] for row in warm], ahead)
    tokens: list[int] = drawn_B.tolist()
    return tokens


def _drawn_by_kernel(logits_BV: Tensor, choosers: Sequence[Chooser], ahead: int = 0) -> list[tuple[float, float]]:
    """Token and log-probability of every answer, by one kernel."""
    asked = torch.tensor([(one.temperature, one.uniforms[one.drawn + ahead]) for one in choosers], dtype=torch.float64)
    drawn: list[tuple[float, float]] = draw(logits_BV, asked.to(logits_BV.device, non_blocking=True)).tolist()
    return drawn


def _taken(drawn: Sequence[tuple[float, float]], choosers: Sequence[Chooser]) -> list[Token | None]:
    tokens: list[Token | None] = []
    for (token, value), chooser in zip(drawn, choosers, strict=True):
        chooser.take(int(token))
        tokens.append(Token(int(token), value, ()))
    return tokens


def _tokens(
    drawn_B: Tensor, adjusted_BV: Tensor, logprobs_BV: Tensor, choosers: Sequence[Chooser]
) -> list[Token | None]:
    index_B1 = drawn_B.unsqueeze(1)
    # Brought to the host together: each time that something is brought costs a wait. Whole numbers stay exact in float64.
    results = torch.cat((index_B1.double(), logprobs_BV.gather(1, index_B1).double()), dim=1)
    possible = [True] * len(choosers)
    if any(chooser.constraint is not None for chooser in choosers):
        possible = (adjusted_BV.gather(1, index_B1).squeeze(1) > float("-inf")).tolist()
    tokens: list[Token | None] = []
    for row, ((number, value), chooser) in enumerate(zip(results.tolist(), choosers, strict=True)):
        token = int(number)
        if not possible[row]:
            tokens.append(None)
            continue
        chooser.take(token)
        alternatives: tuple[tuple[int, float], ...] = ()
        if chooser.alternatives:
            best = logprobs_BV[row].topk(min(chooser.alternatives, logprobs_BV.shape[1]))
            alternatives = tuple(zip(best.indices.tolist(), best.values.tolist(), strict=True))
        tokens.append(Token(token, value, alternatives))
    return tokens


def _drawn(logits_BV: Tensor, choosers: Sequence[Chooser], ahead: int = 0) -> Tensor:
    """By the inverse of the distribution function, in float64."""
    device = logits_BV.device
    asked = [chooser.sampling for chooser in choosers]
    temperatures = [chooser.temperature for chooser in choosers]
    temperature_B = torch.tensor(temperatures, dtype=torch.float64, device=device)
    chance_BV = (logits_BV.double() / temperature_B.unsqueeze(1)).softmax(-1)
    limited = [row for row, one in enumerate(asked) if one.limits]
    if limited:
        chance_BV[limited] = _limited(chance_BV[limited], [asked[row] for row in limited])
    uniforms = [one.uniforms[one.drawn + ahead] for one in choosers]
    return pick(chance_BV, torch.tensor(uniforms, dtype=torch.float64, device=device))


def _limited(chance_BV: Tensor, asked: Sequence[Sampling]) -> Tensor:
    """Without what top-k, top-p and min-p leave out, each over what the one before it left."""

    def column(values: list[float]) -> Tensor:
        return torch.tensor(values, dtype=torch.float64, device=chance_BV.device).unsqueeze(1)

    count = chance_BV.shape[1]
    sorted_BV, order_BV = chance_BV.sort(dim=-1, descending=True, stable=True)
    place_V = torch.arange(count, device=chance_BV.device)
    sorted_BV = sorted_BV * (place_V < column([float(one.top_k or count) for one in asked]))
    share_BV = sorted_BV / sorted_BV.sum(-1, keepdim=True)
    before_BV = share_BV.cumsum(-1) - share_BV
    top_p_B1, min_p_B1 = column([one.top_p for one in asked]), column([one.min_p for one in asked])
    kept_BV = ((before_BV < top_p_B1) | (top_p_B1 >= 1.0)) & (sorted_BV >= min_p_B1 * sorted_BV[:, :1])
    kept_BV[:, 0] = True
    return torch.zeros_like(chance_BV).scatter_(1, order_BV, sorted_BV * kept_BV)
