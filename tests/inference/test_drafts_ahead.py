"""Drafts change how long an answer takes and nothing else: every token and every log-probability is the same to the bit."""

import random
from typing import Any

import pytest
import torch
from tiny_models import tiny_config, tiny_model

from sapience.inference import native_network
from sapience.inference.engine import Engine
from sapience.inference.native_network import NativeNetwork
from sapience.inference.network import LatentNetwork, Places
from sapience.inference.pace import BETWEEN, TRIAL, Pace
from sapience.inference.requests import Request, Sampling, Token
from sapience.model.transformer import Transformer

pytestmark = pytest.mark.usefixtures("ahead")
FEW_WORDS = tiny_model(tiny_config(vocab_size=5))
"""Of which a guess is often right."""


def needs_compiler(kind: Any) -> None:
    if kind is NativeNetwork and not native_network.fits(FEW_WORDS):
        pytest.skip("needs a C++ compiler")


@pytest.mark.parametrize("kind", [NativeNetwork, LatentNetwork])
@pytest.mark.parametrize("changes", [{}, {"q_lora_rank": None, "kv_lora_rank": 24, "n_shared_experts": 2}])
def test_the_prediction_module_is_that_of_training(kind: Any, changes: dict[str, Any]) -> None:
    needs_compiler(kind)
    model, exact = (tiny_model(tiny_config(**changes), dtype=dtype) for dtype in (torch.float32, torch.float64))
    network = kind(model, 8, 64, True)
    tokens = torch.tensor([random.Random(1).randrange(61) for _ in range(40)])
    table = torch.tensor([[5, 2, 7]])
    with torch.no_grad():
        states = exact.hidden(tokens.unsqueeze(0))
        [predicted] = exact.mtp_hidden(states, tokens.unsqueeze(0))
        expected = exact.logits(predicted)[0]
    parts = []
    given = []
    with torch.inference_mode():
        for start, end in ((0, 17), (17, 18), (18, 40)):
            places = Places(torch.arange(start, end), torch.zeros(end - start, dtype=torch.int64), table)
            passed = network.forward(tokens[start:end], places, torch.arange(0))
            given.append(passed.states_ND)
            assert passed.logits.shape == (0, 61)
        read = torch.cat(given)
        assert torch.allclose(read.double(), states[0], atol=1e-4)
        for start, end in ((0, 20), (20, 21), (21, 39)):
            places = Places(torch.arange(start, end), torch.zeros(end - start, dtype=torch.int64), table)
            passed = network.predict(tokens[start + 1 : end + 1], places, torch.arange(end - start), read[start:end])
            parts.append(passed.logits)
            assert torch.allclose(passed.states_ND.double(), predicted[0, start:end], atol=1e-4)
    assert torch.allclose(torch.cat(parts).double(), expected, atol=1e-3)


def drawn(
    model: Transformer, requests: list[dict[str, Any]], depth: int, rows: int = 3
) -> tuple[list[tuple[list[Token], str]], Engine]:
    """Every answer's tokens and its end."""
    engine = Engine(model, rows=rows, context=256, depth=depth)
    answers: list[tuple[list[Token], str]] = []

    def submit(asked: dict[str, Any]) -> None:
        place, samples = len(answers), asked.get("samples", 1)
        answers.extend(([], "") for _ in range(samples))

        def on_end(sample: int, end: str) -> None:
            answers[place + sample] = answers[place + sample][0], end

        def on_token(sample: int, token: Token) -> None:
            answers[place + sample][0].append(token)

        engine.submit(Request(**({"seeds": range(samples)} | asked), on_token=on_token, on_end=on_end))

    for one in requests:
        submit(one)
    while engine.step():
        pass
    assert engine._pages.free == engine._pages.count
    return answers, engine


def asked(vocabulary: int) -> list[dict[str, Any]]:
    def prompt(length: int) -> list[int]:
        return [random.Random(length * 100 + i).randrange(vocabulary) for i in range(length)]

    begin = prompt(33)
    return [
        {"prompt": prompt(1), "limit": 30, "sampling": Sampling(0.0)},
        {"prompt": prompt(20), "limit": 1, "sampling": Sampling(1.0)},
        {"prompt": prompt(16), "limit": 2, "sampling": Sampling(1.0)},
        {"prompt": begin, "limit": 31, "samples": 3, "sampling": Sampling(0.8)},
        {"prompt": [*begin, 1], "limit": 24, "sampling": Sampling(1.0, top_k=3), "stop_ids": frozenset({4})},
        {"prompt": prompt(50), "limit": 40, "sampling": Sampling(1.1, frequency_penalty=0.3), "alternatives": 2},
        {"prompt": [*begin, 2], "limit": 40, "sampling": Sampling(0.0, repetition_penalty=1.2)},
    ]


@pytest.mark.parametrize("kind", [NativeNetwork, LatentNetwork])
@pytest.mark.parametrize("depth", [1, 2, 4])
@pytest.mark.parametrize("simple", [False, True])
def test_answers_are_those_without_drafts(kind: Any, depth: int, simple: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of all kinds together, and of those alone that have nothing but a temperature, which a device checks by itself."""
    needs_compiler(kind)
    requests = [one for one in asked(5) if not simple or (one["sampling"].plain and "alternatives" not in one)]
    monkeypatch.setattr(native_network, "fits", lambda model: kind is NativeNetwork)
    monkeypatch.setattr(kind, "at_once", 24)
    plain, _ = drawn(FEW_WORDS, requests, 0)
    monkeypatch.setattr(Pace, "drafts", lambda self, answers: True)
    drafted, engine = drawn(FEW_WORDS, requests, depth)
    chance = random.Random(depth)
    monkeypatch.setattr(Pace, "drafts", lambda self, answers: chance.random() < 0.4)
    now_and_then, _ = drawn(FEW_WORDS, requests, depth, rows=2)
    for one in (drafted, now_and_then):
        for (tokens, end), (expected, ended) in zip(one, plain, strict=True):
            assert [token.id for token in tokens] == [token.id for token in expected] and end == ended
            if kind is NativeNetwork:
                assert tokens == expected
    counters = engine.counters
    assert 10 < counters.accepted_tokens < counters.drafted_tokens - 10
    assert counters.drawn_tokens == sum(len(tokens) for tokens, _ in plain)


def test_good_drafts_save_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that says one thing only, and whose prediction module knows it."""
    monkeypatch.setattr(Pace, "drafts", lambda self, answers: True)
    model = tiny_model()
    with torch.no_grad():
        model.head.weight.zero_()
    steps = 0
    engine = Engine(model, rows=1, context=256, depth=3)
    heard: list[int] = []
    request = Request([1, 2], 41, Sampling(0.0), on_token=lambda _, token: heard.append(token.id))
    engine.submit(request)
    while engine.step():
        steps += 1
    assert heard == [0] * 41
    assert steps == 11 and engine.counters.accepted_tokens == engine.counters.drafted_tokens == 30
    assert request.accepted == request.drafted == 30


def test_without_a_prediction_module_nothing_is_drafted() -> None:
    model = tiny_model(tiny_config(num_nextn_predict_layers=0))
    answers, engine = drawn(model, asked(61), 2)
    assert engine.depth == 0 and engine.counters.drafted_tokens == 0
    assert answers == drawn(model, asked(61), 0)[0]


@pytest.mark.parametrize("faster", [True, False])
def test_the_faster_way_is_taken_and_the_other_tried_again(faster: bool) -> None:
    pace = Pace()
    ways = []
    for step in range(3 * BETWEEN):
        way = pace.drafts(4)
        ways.append(way)
        better = faster if step < BETWEEN + 50 else not faster
        pace.took(4, way, 1.0 if way == better else 2.0, 2)
        assert pace.drafts(1)  # another number of answers has its own figures
    assert ways[:TRIAL] == [True] * TRIAL and ways[TRIAL : 2 * TRIAL] == [False] * TRIAL
    assert set(ways[2 * TRIAL : BETWEEN]) == {faster}
    assert ways[BETWEEN : BETWEEN + TRIAL] == [not faster] * TRIAL
    assert ways[-1] is not faster
