"""Sampling against transformers' processors and a loop in plain Python; an answer's draw is its own affair."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from sapience.inference.requests import Request, Sampling
from sapience.inference.sampling import Chooser, _limited, choose

VOCABULARY = 40


def logits(rows: int, seed: int = 0) -> Tensor:
    return torch.randn(rows, VOCABULARY, generator=torch.Generator().manual_seed(seed)) * 2


class Only:
    """Allows tokens of a set, one less after each."""

    def __init__(self, *tokens: int) -> None:
        self.left = set(tokens)

    def allowed(self) -> Tensor:
        return torch.tensor([token in self.left for token in range(VOCABULARY)])

    def take(self, token: int) -> None:
        self.left.remove(token)


@pytest.mark.parametrize(
    "asked", [{"top_k": 5}, {"top_p": 0.6}, {"min_p": 0.2}, {"top_k": 9, "top_p": 0.7, "min_p": 0.1}, {"top_p": 1e-9}]
)
def test_what_is_left_out_is_what_transformers_leaves_out(asked: dict[str, Any]) -> None:
    process = pytest.importorskip("transformers").generation.logits_process
    kinds = {
        "top_k": process.TopKLogitsWarper,
        "top_p": process.TopPLogitsWarper,
        "min_p": process.MinPLogitsWarper,
    }
    scores = logits(50).double()
    theirs = scores
    for name, value in asked.items():
        theirs = kinds[name](value)(torch.zeros(50, 1, dtype=torch.int64), theirs)
    ours = _limited(scores.softmax(-1), [Sampling(**asked)] * 50)
    assert torch.allclose(ours / ours.sum(-1, keepdim=True), theirs.softmax(-1), atol=1e-12)
    assert ((ours > 0).sum(-1) < VOCABULARY).all()


def test_penalties_are_openais_and_transformers() -> None:
    process = pytest.importorskip("transformers").generation.logits_process
    prompt, answer = [3, 5, 5], [7, 3, 7, 9]
    [scores] = logits(1)
    chooser = Chooser(Sampling(0.0, repetition_penalty=1.3), [0.5], prompt=prompt)
    changed = scores.clone()
    chooser.adjust_(changed)
    expected = process.RepetitionPenaltyLogitsProcessor(1.3)(torch.tensor([prompt]), scores.clone().unsqueeze(0))[0]
    assert torch.allclose(changed, expected)
    for token in answer:
        chooser.take(token)
    changed = scores.clone()
    chooser.adjust_(changed)
    every = torch.tensor([prompt + answer])
    assert torch.allclose(changed, process.RepetitionPenaltyLogitsProcessor(1.3)(every, scores.clone().unsqueeze(0))[0])
    chooser = Chooser(
        Sampling(0.0, presence_penalty=0.5, frequency_penalty=0.25, logit_bias={2: 4.0}), [0.5], 0, None, prompt
    )
    chooser.adjust_(scores.clone())
    for token in answer:
        chooser.take(token)
    changed = scores.clone()
    chooser.adjust_(changed)
    expected = scores.clone()
    for token in set(answer):
        expected[token] -= 0.5 + 0.25 * answer.count(token)
    expected[2] += 4.0
    assert torch.allclose(changed, expected)


def test_draws_follow_the_distribution_that_is_left() -> None:
    [scores] = logits(1, seed=3)
    asked = Sampling(0.7, top_k=6, min_p=0.02)
    shares = _limited((scores.double() / 0.7).softmax(-1).unsqueeze(0), [asked])[0]
    shares = shares / shares.sum()
    uniforms = torch.rand(4000, generator=torch.Generator().manual_seed(1), dtype=torch.float64).tolist()
    drawn = choose(scores.expand(4000, -1), [Chooser(asked, [u]) for u in uniforms])
    counts = torch.bincount(torch.tensor([token.id for token in drawn if token]), minlength=VOCABULARY)
    assert counts.sum() == 4000 and not counts[shares == 0].any()
    expected = shares * 4000
    often = expected > 5
    assert float(((counts - expected)[often] ** 2 / expected[often]).sum()) < 2.0 * int(often.sum())


@pytest.mark.parametrize("uniform", [0.0, 1 - 2**-53])
def test_the_ends_of_the_distribution_are_tokens_that_may_come(uniform: float) -> None:
    [scores] = logits(1)
    best = set(scores.topk(3).indices.tolist())
    [token] = choose(scores.unsqueeze(0), [Chooser(Sampling(1.0, top_k=3), [uniform])])
    assert token is not None and token.id in best


def test_an_answer_is_drawn_alike_in_any_company() -> None:
    scores = logits(6)
    asked = [
        Sampling(0.0), Sampling(1.0), Sampling(0.8, top_p=0.5), Sampling(0.0, logit_bias={4: 50.0}),
        Sampling(1.2, top_k=4, frequency_penalty=1.0), Sampling(1.0),
    ]  # fmt: skip

    def choosers() -> list[Chooser]:
        constraints = [None] * 5 + [Only(1, 2)]
        return [Chooser(one, [0.3], 3, held) for one, held in zip(asked, constraints, strict=True)]

    together = choose(scores, choosers())
    alone = [choose(scores[row : row + 1], [chooser])[0] for row, chooser in enumerate(choosers())]
    assert together == alone
    assert together[0] is not None and together[0].id == int(scores[0].argmax())
    assert together[3] is not None and together[3].id == 4
    for row, token in enumerate(together):
        assert token is not None
        exact = scores[row].log_softmax(-1)
        assert token.logprob == pytest.approx(float(exact[token.id]), abs=1e-6)
        assert [one for one, _ in token.alternatives] == exact.topk(3).indices.tolist()


def test_a_constraint_is_kept_and_may_leave_nothing() -> None:
    for temperature in (0.0, 1.0):
        chooser = Chooser(Sampling(temperature), [0.9] * 3, 0, Only(8, 30))
        drawn = [choose(logits(1, seed), [chooser])[0] for seed in range(3)]
        assert {token.id for token in drawn[:2] if token} == {8, 30} and drawn[2] is None
        assert chooser.drawn == 2


@pytest.mark.parametrize(
    "asked",
    [{"temperature": -0.1}, {"temperature": math.nan}, {"top_p": 0.0}, {"top_p": 1.1}, {"min_p": -1.0}, {"top_k": -1},
     {"repetition_penalty": 0.0}, {"presence_penalty": math.inf}, {"top_k": 10**400}, {"logit_bias": {1: math.nan}},
     {"logit_bias": {1: 1e300}}],
)  # fmt: skip
def test_what_cannot_be_drawn_with_is_refused(asked: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="give"):
        Sampling(**asked)


def test_requests_without_sense_are_refused() -> None:
    with pytest.raises(ValueError, match="bos"):
        Request([], 3)
    with pytest.raises(ValueError, match="give 1 or more"):
        Request([1], 0)
    with pytest.raises(ValueError, match="a seed an answer"):
        Request([1], 1, samples=2)
    with pytest.raises(ValueError, match="0 or more"):
        Request([1], 1, alternatives=-1)


def test_a_temperature_near_zero_takes_the_likeliest() -> None:
    scores = logits(20)
    for temperature in (5e-324, 1e-310, 1e-30, 1e-7):
        drawn = choose(scores, [Chooser(Sampling(temperature), [0.5]) for _ in range(20)])
        assert [token.id for token in drawn if token] == scores.argmax(-1).tolist()
