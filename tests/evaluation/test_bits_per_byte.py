"""Bits per byte equals a slow float64 loop, whatever the batch; the held-out sample is one rule for all."""

import lzma
import math
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_language_model import ByteTokenizer, TinyLanguageModel

from sapience.corpus.documents import Document, write_documents
from sapience.evaluation.bits_per_byte import (
    bits_per_byte,
    document_windows,
    window_batches,
    xz_bits_per_byte,
)
from sapience.evaluation.held_out import held_out_domains, held_out_sample

TEXTS = ["Das Meer ist weit. " * 9, "x", "", "天気がいい。" * 4, "def f(x):\n    return x + 7\n"]


@torch.no_grad()
def slow_bits_per_byte(model: TinyLanguageModel, texts: list[str], length: int) -> float:
    """One token at a time: its context begins at the last half-window boundary that leaves it at least half
    a window."""
    bits = 0.0
    size = 0
    stride = length // 2
    for text in texts:
        tokens = [256, *text.encode()]
        size += len(text.encode())
        for place in range(1, len(tokens)):
            start = max(0, math.ceil((place - length) / stride)) * stride
            logits = model.logits(model.hidden(torch.tensor([tokens[start:place]])))[0, -1]
            bits -= float(torch.log_softmax(logits, -1)[tokens[place]]) / math.log(2)
    return bits / size


@pytest.mark.parametrize("length", [8, 32, 500])
def test_equals_token_by_token_loop(length: int) -> None:
    torch.set_num_threads(1)
    model = TinyLanguageModel(seed=0)
    measured = bits_per_byte(model, ByteTokenizer(), TEXTS, length)
    assert measured == pytest.approx(slow_bits_per_byte(model, TEXTS, length), rel=1e-6)


def test_batch_size_and_order_of_texts_change_nothing() -> None:
    model = TinyLanguageModel(seed=1)
    one = bits_per_byte(model, ByteTokenizer(), TEXTS, 32, batch_tokens=1)
    assert bits_per_byte(model, ByteTokenizer(), TEXTS, 32, batch_tokens=100_000) == pytest.approx(one, rel=1e-6)
    assert bits_per_byte(model, ByteTokenizer(), TEXTS[::-1], 32) == pytest.approx(one, rel=1e-6)


def test_a_model_that_knows_nothing_needs_log2_of_the_vocabulary() -> None:
    model = TinyLanguageModel(seed=0)
    torch.nn.init.zeros_(model.head_DV)
    assert bits_per_byte(model, ByteTokenizer(), ["plain ascii"], 8) == pytest.approx(math.log2(259), rel=1e-6)


def test_training_mode_is_left_as_it_was() -> None:
    model = TinyLanguageModel(seed=0)
    for mode in (True, False):
        model.train(mode)
        bits_per_byte(model, ByteTokenizer(), ["text"], 8)
        assert model.training is mode


def test_no_text_is_refused() -> None:
    with pytest.raises(ValueError, match="empty"):
        bits_per_byte(TinyLanguageModel(seed=0), ByteTokenizer(), [""], 8)
    with pytest.raises(ValueError, match="empty"):
        xz_bits_per_byte([])


@given(st.integers(0, 200), st.integers(1, 40))
def test_windows_score_every_token_once_with_half_a_window_of_context(size: int, length: int) -> None:
    tokens = list(range(size))
    windows = document_windows(tokens, length)
    assert [token for w in windows for token in w.tokens[w.first_scored :]] == tokens[1:]
    for number, window in enumerate(windows):
        assert len(window.tokens) <= length + 1
        assert number == 0 or window.first_scored >= length - length // 2


@given(st.lists(st.integers(2, 33), max_size=40), st.integers(1, 300))
def test_batches_hold_all_windows_within_the_limit(sizes: list[int], limit: int) -> None:
    windows = [w for size in sizes for w in document_windows(range(size), 32)]
    batches = window_batches(windows, limit)
    assert sorted(len(w.tokens) for b in batches for w in b) == sorted(len(w.tokens) for w in windows)
    assert all(len(b) == 1 or len(b) * max(len(w.tokens) for w in b) <= limit for b in batches)


def test_xz_compresses_the_concatenation() -> None:
    texts = ["Das Meer ist weit. " * 50, "天気がいい。" * 50]
    data = "".join(texts).encode()
    expected = 8 * len(lzma.compress(data, preset=9 | lzma.PRESET_EXTREME)) / len(data)
    assert xz_bits_per_byte(texts) == expected


def document(text: str) -> Document:
    return Document(text=text, domain="de", language="de", kind="text", source="test", license="CC0-1.0")


def test_held_out_sample_is_the_same_for_any_order_of_the_file(tmp_path: Path) -> None:
    documents = [document(f"Blatt {n}: " + "äöü" * (n % 37)) for n in range(200)]
    (tmp_path / "a" / "heldout").mkdir(parents=True)
    (tmp_path / "b" / "heldout").mkdir(parents=True)
    write_documents(tmp_path / "a" / "heldout" / "de.jsonl.zst", documents)
    write_documents(tmp_path / "b" / "heldout" / "de.jsonl.zst", reversed(documents))
    assert held_out_domains(tmp_path / "a") == ["de"]
    sample = held_out_sample(tmp_path / "a", "de", 2000)
    assert sample == held_out_sample(tmp_path / "b", "de", 2000)
    assert 1995 < sum(len(d.text.encode()) for d in sample) <= 2000
    in_order = sorted(documents, key=lambda d: d.id)
    assert [d.text for d in sample[:-1]] == [d.text for d in in_order[: len(sample) - 1]]
    assert in_order[len(sample) - 1].text.startswith(sample[-1].text)


def test_one_long_document_does_not_stand_for_the_domain(tmp_path: Path) -> None:
    (tmp_path / "heldout").mkdir()
    documents = [document(letter * 5000) for letter in "abcdefgh"]
    write_documents(tmp_path / "heldout" / "de.jsonl.zst", documents)
    assert [len(d.text) for d in held_out_sample(tmp_path, "de", 4000)] == [1000] * 4
    everything = held_out_sample(tmp_path, "de", 1_000_000)
    assert sorted(d.text for d in everything) == sorted(d.text for d in documents)
