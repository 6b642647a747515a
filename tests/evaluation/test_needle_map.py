"""Needles: samples have the exact length and place, and one forward pass says what step-by-step decoding
would."""

from bisect import bisect_left
from itertools import accumulate

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_language_model import ByteTokenizer, CopyingModel, TinyLanguageModel

from sapience.evaluation.needles import answer_needles, needle_map, needle_samples, shortest
from sapience.problems.lookup import needle_words

FILLERS = [
    "The sea is wide. Ships sail on it! " * 20,
    "Ein Satz auf Deutsch.\nNoch einer. " * 20,
    "天気がいい。散歩する。" * 20,
]


@pytest.mark.parametrize("length", [128, 301])
@pytest.mark.parametrize("depth", [0.0, 0.3, 0.5, 1.0])
def test_samples_have_exact_length_and_hold_needle_and_question(length: int, depth: float) -> None:
    tokenizer = ByteTokenizer()
    for sample in needle_samples(tokenizer, FILLERS, length, [depth], 4, seed=3):
        assert len(sample.tokens) == length
        text = tokenizer.decode(sample.tokens)
        needle = sample.needle
        assert text.endswith("\n" + needle.question + needle.answer)
        assert needle.word in needle_words("test")
        assert text.count(needle.sentence) == 1
        room = len(text) - len(needle.question + needle.answer)
        assert text.index(needle.sentence) / room == pytest.approx(
            depth * (1 - len(needle.sentence) / room), abs=36 / room
        )
        assert tokenizer.decode(sample.tokens[-sample.answer_length :]) == needle.answer


@given(st.lists(st.sampled_from([0, 0, 1, 1, 5]), min_size=1, max_size=300), st.integers(1, 700))
def test_the_shortest_piece_is_found_as_bisection_finds_it(more: list[int], least: int) -> None:
    tokens = list(accumulate(more))
    search, asked = shortest(least, len(tokens)), []
    asked.append(next(search))
    with pytest.raises(StopIteration) as found:
        while len(asked) < 40:
            asked.append(search.send(tokens[asked[-1]]))
    assert found.value.value == bisect_left(tokens, least)


def test_samples_depend_on_the_seed_alone() -> None:
    def drawn(seed: int) -> list[list[int]]:
        return [s.tokens for s in needle_samples(ByteTokenizer(), FILLERS, 160, [0.0, 1.0], 3, seed)]

    assert drawn(1) == drawn(1)
    assert drawn(1) != drawn(2)
    assert len({tuple(tokens) for tokens in drawn(1)}) == 6


def test_too_short_a_length_names_the_least_possible() -> None:
    with pytest.raises(ValueError, match=r"take (\d+) or more"):
        needle_samples(ByteTokenizer(), FILLERS, 64, [0.5], 1, 0)


def test_answers_equal_greedy_decoding_step_by_step() -> None:
    torch.set_num_threads(1)
    tokenizer = ByteTokenizer()
    samples = needle_samples(tokenizer, FILLERS, 140, [0.0, 1.0], 5, seed=0)
    for model in (TinyLanguageModel(seed=1), CopyingModel()):
        results = answer_needles(model, tokenizer, samples, batch_tokens=3 * 140)
        for sample, result in zip(samples, results, strict=True):
            tokens = list(sample.tokens[: -sample.answer_length])
            for _ in range(sample.answer_length):
                state = model.hidden(torch.tensor([tokens]))[:, -1:]
                tokens.append(int(model.logits(state).argmax()))
            assert result.correct == (tokens == sample.tokens)


def test_a_model_that_copies_finds_all_and_a_random_one_none() -> None:
    tokenizer = ByteTokenizer()
    found = needle_map(CopyingModel(), tokenizer, FILLERS, {128: 2, 256: 3}, [0.0, 0.5, 1.0], seed=0)
    assert found.by_length() == {128: 1.0, 256: 1.0}
    assert [(c["length"], c["depth"], c["samples"]) for c in found.cells()] == [
        (128, 0.0, 2), (128, 0.5, 2), (128, 1.0, 2), (256, 0.0, 3), (256, 0.5, 3), (256, 1.0, 3),
    ]  # fmt: skip
    lost = needle_map(TinyLanguageModel(seed=0), tokenizer, FILLERS, {128: 2}, [0.5], seed=0)
    assert lost.by_length() == {128: 0.0}
