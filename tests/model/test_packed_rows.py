"""Packed rows: no target crosses a document, isolated documents do not see each other, separate rows give the same."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import random_batch, tiny_config, tiny_model

from sapience.model.batch import Microbatch, from_rows, prediction_labels
from sapience.ops.cross_entropy import IGNORE, token_losses
from sapience.training.objective import NextTokens

CONFIG = tiny_config(num_nextn_predict_layers=2)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(-1, 3), min_size=6, max_size=12), st.integers(1, 3))
def test_targets_by_brute_force(documents: list[int], depth: int) -> None:
    """At position i depth k predicts token i+k+1 where all tokens from i to there are of one document."""
    numbers = sorted(d for d in documents if d >= 0) + [-1] * sum(d < 0 for d in documents)
    tokens = torch.arange(100, 100 + len(numbers)).unsqueeze(0)
    batch = from_rows(tokens, torch.tensor([numbers], dtype=torch.int32))
    length = len(numbers) - 1
    for k in (0, depth):
        labels = batch.labels_BT if k == 0 else prediction_labels(batch, k)
        expected = []
        for i in range(length - k):
            span = numbers[i : i + k + 2]
            expected.append(100 + i + k + 1 if span[0] >= 0 and len(set(span)) == 1 else IGNORE)
        assert labels[0].tolist() == expected


def losses_by_place(batch: Microbatch) -> list[torch.Tensor]:
    """Loss at every position of every depth."""
    model = tiny_model(CONFIG, dtype=torch.float64)
    with torch.no_grad():
        forward = model(batch)
        labels = [batch.labels_BT, *(prediction_labels(batch, k) for k in (1, 2))]
        states = [forward.hidden_BTD, *forward.predictions]
        return [
            token_losses(h.flatten(0, 1), model.head.weight, label.flatten()).view_as(label)
            for h, label in zip(states, labels, strict=True)
        ]


@pytest.mark.parametrize("changed", [0, 1, 2])
def test_another_documents_tokens_change_no_loss_where_documents_are_isolated(changed: int) -> None:
    documents = torch.tensor([[0] * 6 + [1] * 5 + [2] * 6], dtype=torch.int32)
    tokens = torch.randint(61, documents.shape, generator=torch.Generator().manual_seed(1))
    other = torch.where(documents == changed, (tokens + 7) % 61, tokens)
    before = losses_by_place(from_rows(tokens, documents, isolate=True))
    after = losses_by_place(from_rows(other, documents, isolate=True))
    for depth in range(3):
        place = documents[:, : before[depth].shape[1]]
        same = place != changed
        assert torch.allclose(before[depth][same], after[depth][same], atol=1e-10)
        assert not torch.allclose(before[depth][~same], after[depth][~same])


def test_packed_documents_see_each_other_where_they_are_not_isolated() -> None:
    """As V3 pre-trains: no mask between samples of a row."""
    documents = torch.tensor([[0] * 6 + [1] * 6], dtype=torch.int32)
    tokens = torch.randint(61, documents.shape, generator=torch.Generator().manual_seed(1))
    other = torch.where(documents == 0, (tokens + 7) % 61, tokens)
    before, after = (losses_by_place(from_rows(t, documents))[0] for t in (tokens, other))
    assert not torch.allclose(before[:, 6:], after[:, 6:])


def test_packed_and_separate_rows_have_the_same_losses_and_gradients() -> None:
    lengths = [7, 4, 6, 2]
    generator = torch.Generator().manual_seed(4)
    texts = [torch.randint(61, (length,), generator=generator) for length in lengths]
    packed = from_rows(
        torch.cat(texts).unsqueeze(0),
        torch.cat([torch.full((n,), i, dtype=torch.int32) for i, n in enumerate(lengths)]).unsqueeze(0),
        isolate=True,
    )
    longest = max(lengths)
    rows, documents = torch.full((4, longest), 2), torch.full((4, longest), -1, dtype=torch.int32)
    for index, text in enumerate(texts):
        rows[index, : len(text)], documents[index, : len(text)] = text, 0
    separate = from_rows(rows, documents)
    results = []
    for batch in (packed, separate):
        model = tiny_model(CONFIG, dtype=torch.float64)
        total, sums = NextTokens(prediction_weight=0.3, alpha=0.0)(model, batch)
        total.backward()
        results.append((sums, [p.grad for p in model.parameters()]))
    (one, gradients), (other, more) = results
    for name in ("loss", "mtp_loss"):
        assert float(one.values[name]) == pytest.approx(float(other.values[name]), rel=1e-6)
    for ours, theirs in zip(gradients, more, strict=True):
        assert ours is not None and theirs is not None
        assert torch.allclose(ours, theirs, rtol=1e-5, atol=1e-6)


def test_tokens_in_the_padding_change_nothing() -> None:
    batch = random_batch(CONFIG, 4, 16)
    assert not batch.valid_BT.all()
    other = Microbatch(
        torch.where(batch.valid_BT, batch.tokens_BT, 33), batch.labels_BT, batch.documents_BT, batch.isolate
    )
    model = tiny_model(CONFIG, dtype=torch.float64)
    with torch.no_grad():
        (total, sums), (total_other, sums_other) = (NextTokens(0.3, 0.01)(model, b) for b in (batch, other))
    assert float(total) == pytest.approx(float(total_other), rel=1e-9)
    assert torch.equal(sums.loads_LE, sums_other.loads_LE)
    assert sums.loads_LE[0].sum() == batch.valid_BT.sum() * CONFIG.num_experts_per_tok
