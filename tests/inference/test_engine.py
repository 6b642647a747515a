"""The engine: whatever comes when, beside what, through however little room, an answer is what it is alone."""

import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import tiny_config, tiny_model
from torch import Tensor

from sapience.inference import native_network
from sapience.inference.engine import Engine
from sapience.inference.generate import generate
from sapience.inference.native_network import NativeNetwork
from sapience.inference.network import LatentNetwork
from sapience.inference.pages import PAGE
from sapience.inference.requests import End, Request, Sampling, Token
from sapience.model.huggingface import save_model
from sapience.model.transformer import Transformer

MODEL = tiny_model()
VOCABULARY = MODEL.config.vocab_size


pytestmark = pytest.mark.usefixtures("ahead")


@dataclass
class Heard:
    """What a request's callbacks were told."""

    tokens: dict[int, list[int]] = field(default_factory=dict)
    ends: dict[int, End] = field(default_factory=dict)

    def request(self, prompt: list[int], limit: int, **more: Any) -> Request:
        samples = more.get("samples", 1)
        self.tokens = {sample: [] for sample in range(samples)}
        more = {"seeds": list(range(samples)), "sampling": Sampling(0.9)} | more
        return Request(prompt, limit, on_token=self._token, on_end=self._end, **more)

    def _token(self, sample: int, token: Token) -> None:
        assert sample not in self.ends
        self.tokens[sample].append(token.id)

    def _end(self, sample: int, end: End) -> None:
        assert sample not in self.ends
        self.ends[sample] = end


def prompt(length: int, seed: int) -> list[int]:
    return [random.Random(seed * 1000 + i).randrange(VOCABULARY) for i in range(length)]


def alone(
    asked: list[int], limit: int, seed: int = 0, temperature: float = 0.9, stop: frozenset[int] = frozenset()
) -> list[int]:
    heard = Heard()
    engine = Engine(MODEL, rows=1, context=256)
    engine.submit(heard.request(asked, limit, seeds=[seed], sampling=Sampling(temperature), stop_ids=stop))
    while engine.step():
        pass
    return heard.tokens[0]


def test_answers_are_what_they_are_alone_whenever_they_come() -> None:
    engine = Engine(MODEL, rows=3, context=256)
    asked = [(prompt(length, length), 5 + 3 * length % 11) for length in (1, 40, 16, 17, 3, 90, 32, 5)]
    heard = [Heard() for _ in asked]
    pending = list(zip(asked, heard, strict=True))
    for step in range(400):
        if pending and step % 3 == 0:
            (tokens, limit), one = pending.pop(0)
            engine.submit(one.request(tokens, limit, stop_ids=frozenset({7})))
        if not engine.step() and not pending:
            break
    for (tokens, limit), one in zip(asked, heard, strict=True):
        expected = alone(tokens, limit, stop=frozenset({7}))
        assert one.tokens[0] == expected
        assert one.ends[0] == ("stop" if expected[-1] == 7 else "length")
    assert engine.running == engine.waiting == 0 and engine._pages.free == engine._pages.count


def test_several_answers_share_a_prompt_and_differ_by_their_seeds() -> None:
    for length in (1, 15, 16, 17, 40):
        heard = Heard()
        engine = Engine(MODEL, rows=3, context=256)
        engine.submit(heard.request(prompt(length, 1), 9, samples=7, seeds=[9, 1, 2, 3, 4, 5, 1]))
        while engine.step():
            pass
        assert [heard.tokens[i] for i in range(7)] == [
            alone(prompt(length, 1), 9, seed) for seed in (9, 1, 2, 3, 4, 5, 1)
        ]
        assert engine.counters.prompt_tokens == length and engine.counters.drawn_tokens == 63
        assert engine._pages.free == engine._pages.count


@pytest.mark.parametrize("limit", [30, 19])
def test_the_next_turn_reads_only_what_is_new(limit: int) -> None:
    """What was drawn last has not been read yet, even where it would fill a page."""
    engine = Engine(MODEL, rows=4, context=256)
    first, second = Heard(), Heard()
    question = prompt(45, 2)
    engine.submit(first.request(question, limit))
    while engine.step():
        pass
    turn = [*question, *first.tokens[0], *prompt(10, 3)]
    request = second.request(turn, 12)
    engine.submit(request)
    while engine.step():
        pass
    assert engine.counters.cached_tokens == request.cached == (45 + limit - 1) // PAGE * PAGE
    assert second.tokens[0] == alone(turn, 12)


def test_a_prompt_that_another_is_reading_is_not_read_twice() -> None:
    engine = Engine(MODEL, rows=4, context=256)
    beginning = prompt(64, 4)
    heard = [Heard() for _ in range(3)]
    for i, one in enumerate(heard):
        engine.submit(one.request([*beginning, i], 5))
    while engine.step():
        pass
    assert engine.counters.cached_tokens == 2 * 64
    assert [one.tokens[0] for one in heard] == [alone([*beginning, i], 5) for i in range(3)]
    whole = Heard()
    engine.submit(whole.request(beginning, 5))
    while engine.step():
        pass
    assert engine.counters.cached_tokens == 2 * 64 + 48  # the last token's logits are wanted
    assert whole.tokens[0] == alone(beginning, 5)


@pytest.mark.parametrize("kind", [NativeNetwork, LatentNetwork])
def test_a_long_prompt_does_not_hold_the_others(kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    if kind is NativeNetwork and not native_network.fits(MODEL):
        pytest.skip("needs a C++ compiler")
    monkeypatch.setattr(native_network, "fits", lambda model: kind is NativeNetwork)
    monkeypatch.setattr(kind, "at_once", 8)
    engine = Engine(MODEL, rows=4, context=256)
    short, long = Heard(), Heard()
    engine.submit(short.request(prompt(4, 1), 40))
    engine.step()
    engine.submit(long.request(prompt(80, 2), 3))
    for _ in range(9):
        engine.step()
    assert len(short.tokens[0]) == 10 and not long.tokens[0]
    while engine.step():
        pass
    assert short.tokens[0] == alone(prompt(4, 1), 40) and long.tokens[0] == alone(prompt(80, 2), 3)


def test_what_nobody_wants_any_more_ends_wherever_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(NativeNetwork, "at_once", 8)
    monkeypatch.setattr(LatentNetwork, "at_once", 8)
    engine = Engine(MODEL, rows=2, context=256)
    drawing, reading, waiting, stays = Heard(), Heard(), Heard(), Heard()
    requests = [
        drawing.request(prompt(4, 1), 40), reading.request(prompt(60, 2), 9, samples=3),
        waiting.request(prompt(5, 3), 9), stays.request(prompt(6, 4), 9),
    ]  # fmt: skip
    for request in requests:
        engine.submit(request)
    for _ in range(3):
        engine.step()
    assert drawing.tokens[0] and not reading.tokens[0] and engine.waiting == 2
    for request in requests[:3]:
        engine.cancel(request)
    while engine.step():
        pass
    engine.cancel(requests[0])  # is over already
    engine.step()
    assert drawing.ends == {0: "cancelled"} and reading.ends == dict.fromkeys(range(3), "cancelled")
    assert waiting.ends == {0: "cancelled"} and not waiting.tokens[0]
    assert stays.tokens[0] == alone(prompt(6, 4), 9) and engine._pages.free == engine._pages.count


def test_what_can_never_be_answered_is_refused() -> None:
    engine = Engine(MODEL, rows=2, positions=6 * PAGE, context=200)
    with pytest.raises(ValueError, match="context of 200: ask for fewer"):
        engine.submit(Heard().request([1] * 190, 11))
    with pytest.raises(ValueError, match="need 7 pages of 16 positions and there are 6"):
        engine.submit(Heard().request([1] * 90, 7))
    with pytest.raises(IndexError, match="none of the model's 61"):
        engine.submit(Heard().request([61], 3))
    with pytest.raises(IndexError, match="none of the model's 61"):
        engine.submit(Heard().request([6], 3, sampling=Sampling(logit_bias={99: 1.0})))
    assert not engine.step()
    heard = Heard()
    engine.submit(heard.request([1] * 90, 6))
    while engine.step():
        pass
    assert heard.ends == {0: "length"}


class Even:
    """Allows even tokens, as many as it was told."""

    def __init__(self, count: int) -> None:
        self.left = count

    def allowed(self) -> Tensor:
        return (torch.arange(VOCABULARY) % 2 == 0) & (self.left > 0)

    def take(self, token: int) -> None:
        self.left -= 1


def test_every_answer_has_a_constraint_of_its_own() -> None:
    engine = Engine(MODEL, rows=4, context=256)
    heard = Heard()
    engine.submit(heard.request(prompt(5, 1), 9, samples=2, constraint=lambda: Even(4)))
    while engine.step():
        pass
    assert heard.ends == {0: "failed", 1: "failed"}
    assert all(len(tokens) == 4 and not any(token % 2 for token in tokens) for tokens in heard.tokens.values())


class Broken(Even):
    """Raises when it is asked for the third time, or told of the third token."""

    def __init__(self, asked: bool) -> None:
        super().__init__(100)
        self.asked, self.calls = asked, 0

    def allowed(self) -> Tensor:
        self.calls += self.asked
        if self.calls == 3:
            raise RuntimeError("lost")
        return super().allowed()

    def take(self, token: int) -> None:
        self.calls += not self.asked
        if self.calls == 3:
            raise RuntimeError("lost")


@pytest.mark.parametrize("asked", [True, False])
def test_a_constraint_that_raises_ends_its_own_answer(asked: bool) -> None:
    engine = Engine(MODEL, rows=4, context=256)
    broken, other = Heard(), Heard()
    engine.submit(broken.request(prompt(5, 1), 9, constraint=lambda: Broken(asked)))
    engine.submit(other.request(prompt(6, 2), 9))
    while engine.step():
        pass
    assert broken.ends == {0: "failed"} and len(broken.tokens[0]) == (2 if asked else 3)
    assert other.ends == {0: "length"} and other.tokens[0] == alone(prompt(6, 2), 9)
    assert engine._pages.free == engine._pages.count


@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.integers(1, 50),
            st.integers(0, 2),
            st.integers(1, 12),
            st.integers(1, 4),
            st.integers(0, 9),
            st.integers(0, 30),
        ),
        min_size=1,
        max_size=12,
    ),
    st.integers(1, 5),
    st.integers(8, 14),
)
def test_nothing_is_lost_and_nothing_hangs(asked: list[tuple[int, ...]], rows: int, pages: int) -> None:
    """Prompts that begin alike, more of them than there is room for, some cancelled: each ends once, with its own tokens."""
    engine = Engine(MODEL, rows=rows, positions=pages * PAGE, context=256)
    heard = [Heard() for _ in asked]
    whole = prompt(50, 5)
    requests = []
    for (length, seed, limit, samples, _, _), one in zip(asked, heard, strict=True):
        tokens = whole[:length] if seed == 0 else [*whole[: length // 2], *prompt(length - length // 2, seed)]
        requests.append(one.request(tokens, limit, samples=samples))
    steps = 0
    came = [False] * len(asked)
    while True:
        for index, (_, _, _, _, when, gone) in enumerate(asked):
            if when <= steps and not came[index]:
                engine.submit(requests[index])
                came[index] = True
            if gone == steps and gone % 3 == 0:
                engine.cancel(requests[index])
        if not engine.step() and all(came):
            break
        steps += 1
        assert steps < 2000
    for request, one in zip(requests, heard, strict=True):
        assert sorted(one.ends) == list(range(request.samples))
        for sample, end in one.ends.items():
            expected = alone(list(request.prompt), request.limit, sample)
            assert one.tokens[sample] == (expected if end == "length" else expected[: len(one.tokens[sample])])
            assert end in ("length", "cancelled")
    assert engine.running == engine.waiting == 0 and engine._pages.free == engine._pages.count


def test_a_hundred_prompts_are_continued_as_transformers_continues_them(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    model = Transformer(tiny_config(num_nextn_predict_layers=0)).initialize(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(8.0)
    save_model(model, tmp_path, bos_id=0, eos_id=1, pad_id=2)
    twin = transformers.DeepseekV3ForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    prompts = [prompt(1 + seed % 37, seed) for seed in range(100)]
    drawn = generate(model, prompts, 12, batch_size=16)
    for asked, one in zip(prompts, drawn, strict=True):
        with torch.no_grad():
            written = twin.generate(
                torch.tensor([asked]), attention_mask=torch.ones(1, len(asked), dtype=torch.int64), max_new_tokens=12,
                min_new_tokens=12, do_sample=False, eos_token_id=None, pad_token_id=2,
            )  # fmt: skip
        assert one.tokens == written[0, len(asked) :].tolist()
