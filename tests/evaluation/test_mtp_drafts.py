"""MTP and bigram drafts against loops over single places."""

from collections import Counter

import numpy as np
import pytest
import torch
from tiny_language_model import ByteTokenizer, TinyLanguageModel

from sapience.evaluation.mtp import DraftScore, bigram_successors, draft_score

TEXTS = ["Das Meer ist weit. " * 3, "x", "ab", "def f(x):\n    return x + 7\n"]


def slow_score(model: TinyLanguageModel, texts: list[str], successors: np.ndarray) -> DraftScore:
    """Every place of every text, with all the text before it as context."""
    score = DraftScore()
    for text in texts:
        tokens = [256, *text.encode()]
        for place in range(2, len(tokens)):
            given = torch.tensor([tokens[:place]])
            hidden = model.hidden(given)
            own = int(model.logits(hidden)[0, -1].argmax())
            draft = int(model.logits(model.mtp_hidden(hidden, given)[0])[0, -1].argmax())
            bigram = int(successors[tokens[place - 1]])
            true = tokens[place]
            score += DraftScore(1, draft == own, draft == own == true, bigram == own, bigram == own == true)
    return score


@pytest.mark.parametrize("batch_tokens", [1, 64, 10_000])
def test_equals_loop_over_places(batch_tokens: int) -> None:
    torch.set_num_threads(1)
    model = TinyLanguageModel(seed=2)
    with torch.no_grad():  # nearer to its own drafts, so that the counts are not all zero
        model.embedding_VD.mul_(0.3)
    successors = bigram_successors([np.array([256, *TEXTS[0].encode()])], 259)
    measured = draft_score(model, ByteTokenizer(), TEXTS, successors, 512, batch_tokens)
    assert measured == slow_score(model, TEXTS, successors)
    assert measured.positions == sum(max(0, len(text) - 1) for text in TEXTS)
    assert measured.accepted > 0
    assert measured.shares()["accepted"] == measured.accepted / measured.positions


def test_each_place_counts_once_across_windows() -> None:
    model = TinyLanguageModel(seed=3)
    successors = np.full(259, -1)
    assert draft_score(model, ByteTokenizer(), TEXTS, successors, 8).positions == sum(max(0, len(t) - 1) for t in TEXTS)


def test_a_model_without_mtp_has_no_positions() -> None:
    score = draft_score(TinyLanguageModel(seed=0, mtp=False), ByteTokenizer(), TEXTS, np.full(259, -1), 64)
    assert score == DraftScore()
    assert set(score.shares().values()) == {0.0}


def test_bigram_successors_equal_a_counter() -> None:
    random = np.random.default_rng(0)
    streams = [random.integers(0, 12, size=n).astype(np.uint16) for n in (300, 1, 57)]
    counts: dict[int, Counter[int]] = {}
    for stream in streams:
        for first, second in zip(stream[:-1].tolist(), stream[1:].tolist(), strict=True):
            counts.setdefault(first, Counter())[second] += 1
    expected = [
        min(counts[token], key=lambda second: (-counts[token][second], second)) if token in counts else -1
        for token in range(15)
    ]
    assert bigram_successors(streams, 15).tolist() == expected


def test_bigram_successors_stop_at_the_limit() -> None:
    stream = np.array([1, 2, 1, 2, 1, 3, 1, 3, 1, 3], dtype=np.uint16)
    assert bigram_successors([stream], 5)[1] == 3
    assert bigram_successors([stream], 5, limit=5)[1] == 2
