"""The chunked cross-entropy against its reference, in value and gradient, wherever the chunks fall."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sapience.ops import cross_entropy
from sapience.ops.cross_entropy import IGNORE, linear_cross_entropy, reference, token_losses


def random_inputs(
    rows: int, vocabulary: int, seed: int, ignored: float = 0.3, dtype: torch.dtype = torch.float64
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(rows, 6, generator=generator).to(dtype).requires_grad_()
    head = torch.randn(vocabulary, 6, generator=generator).to(dtype).requires_grad_()
    labels = torch.randint(vocabulary, (rows,), generator=generator)
    labels[torch.rand(rows, generator=generator) < ignored] = IGNORE
    return hidden, head, labels


def loss_by_loop(hidden: torch.Tensor, head: torch.Tensor, labels: torch.Tensor) -> list[float]:
    losses = []
    for row, label in zip(hidden.detach().double(), labels.tolist(), strict=True):
        logits = head.detach().double() @ row
        losses.append(0.0 if label == IGNORE else float(logits.logsumexp(0) - logits[label]))
    return losses


@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(1, 17),
    vocabulary=st.integers(2, 11),
    chunk=st.integers(1, 80),
    ignored=st.sampled_from([0.0, 0.4, 1.0]),
    seed=st.integers(0, 10**6),
)
def test_value_and_gradients_at_any_chunk_boundary(
    rows: int, vocabulary: int, chunk: int, ignored: float, seed: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cross_entropy, "CHUNK_ELEMENTS", chunk)
        hidden, head, labels = random_inputs(rows, vocabulary, seed, ignored)
        loss = linear_cross_entropy(hidden, head, labels)
        expected = loss_by_loop(hidden, head, labels)
        assert loss.item() == pytest.approx(sum(expected), rel=1e-10, abs=1e-12)
        assert token_losses(hidden, head, labels).tolist() == pytest.approx(expected, rel=1e-10, abs=1e-12)
        ours = torch.autograd.grad(2.5 * loss, (hidden, head))
        hidden_too, head_too = hidden.detach().requires_grad_(), head.detach().requires_grad_()
        logits = hidden_too @ head_too.t()
        plain = torch.nn.functional.cross_entropy(logits, labels, ignore_index=IGNORE, reduction="sum")
        theirs = torch.autograd.grad(2.5 * plain, (hidden_too, head_too))
    for one, other in zip(ours, theirs, strict=True):
        assert torch.allclose(one, other, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("chunk", [1, 15, 10**6])
def test_a_row_of_weight_n_is_n_rows(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cross_entropy, "CHUNK_ELEMENTS", chunk)
    hidden, head, labels = random_inputs(9, 5, 4)
    times = torch.tensor([1, 3, 2, 1, 0, 4, 1, 2, 1])
    found = []
    for each in (
        lambda: linear_cross_entropy(hidden, head, labels, times.float()),
        lambda: reference(hidden, head, labels, times),
        lambda: linear_cross_entropy(hidden.repeat_interleave(times, 0), head, labels.repeat_interleave(times)),
    ):
        loss = each()
        found.append((loss.detach(), *torch.autograd.grad(2.5 * loss, (hidden, head))))
    with torch.no_grad():
        assert linear_cross_entropy(hidden, head, labels, times.float()).item() == pytest.approx(found[2][0].item())
    for other, exactness in zip(found[:2], (1e-9, 1e-5), strict=True):  # the reference's logits are float32
        for one, expected in zip(other, found[2], strict=True):
            torch.testing.assert_close(one, expected, rtol=exactness, atol=exactness, check_dtype=False)


@pytest.mark.parametrize("chunk", [1, 15, 10**6])
def test_gradcheck(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cross_entropy, "CHUNK_ELEMENTS", chunk)
    hidden, head, labels = random_inputs(9, 5, 3)
    assert torch.autograd.gradcheck(lambda h, w: linear_cross_entropy(h, w, labels), (hidden, head))


def test_only_one_gradient_wanted() -> None:
    hidden, head, labels = random_inputs(9, 5, 3)
    both = torch.autograd.grad(linear_cross_entropy(hidden, head, labels), (hidden, head))
    for index, inputs in enumerate([(hidden, head.detach()), (hidden.detach(), head)]):
        (one,) = torch.autograd.grad(linear_cross_entropy(*inputs, labels), inputs[index])
        assert torch.equal(one, both[index])
    with torch.no_grad():
        assert linear_cross_entropy(hidden, head, labels).item() == pytest.approx(
            reference(hidden, head, labels).item()
        )


def test_huge_logits_do_not_overflow() -> None:
    hidden, head, labels = random_inputs(9, 5, 3, dtype=torch.float32)
    hidden, head = (1e4 * hidden).detach().requires_grad_(), head.detach().requires_grad_()
    loss = linear_cross_entropy(hidden, head, labels)
    assert loss.item() == pytest.approx(sum(loss_by_loop(hidden, head, labels)), rel=1e-5)
    gradients = torch.autograd.grad(loss, (hidden, head))
    assert all(gradient.isfinite().all() for gradient in gradients)


@pytest.mark.parametrize("chunk", [40, 10**6])
def test_bfloat16_sums_in_float32(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cross_entropy, "CHUNK_ELEMENTS", chunk)
    hidden, head, labels = random_inputs(300, 20, 3, dtype=torch.bfloat16)
    loss = linear_cross_entropy(hidden, head, labels)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(sum(loss_by_loop(hidden, head, labels)), rel=5e-3)
    ours = torch.autograd.grad(loss, (hidden, head))
    exact = random_inputs(300, 20, 3)
    exact_inputs = [value.detach().to(torch.bfloat16).double().requires_grad_() for value in exact[:2]]
    theirs = torch.autograd.grad(linear_cross_entropy(*exact_inputs, labels), exact_inputs)
    for one, other in zip(ours, theirs, strict=True):
        assert one.dtype == torch.bfloat16
        assert (one.double() - other).norm() < 1e-2 * other.norm()
