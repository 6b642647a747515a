"""Bits per byte on held-out text, and what lzma needs for the same bytes.

Bits per byte compares models whatever their tokenizers, and compares them with a compressor anyone knows.
Each document is scored on its own behind a bos token; eos is not counted, since it is not text. A window
slides by half its length and only its unseen half is scored, so that every token beyond the first window has
at least half a window of context. The hidden states of a batch are turned into logits only where a token is
scored, and only for a chunk at a time: the logits of the whole set never exist.

Not covered: scoring with a context that crosses documents.
"""

import lzma
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

_LOGITS_AT_ONCE = 4_000_000  # entries of one chunk of logits: 16 MB in float32


class TextEncoder(Protocol):
    """What is needed of a tokenizer."""

    bos_id: int
    pad_id: int

    def encode_batch(self, texts: list[str]) -> list[list[int]]: ...


class LanguageModel(Protocol):
    """What is needed of a model: states after the final norm, and logits from states."""

    def hidden(self, tokens_BT: Tensor) -> Tensor: ...

    def logits(self, hidden_BTD: Tensor) -> Tensor: ...


@dataclass(frozen=True, slots=True)
class Window:
    """A piece of a document: `tokens` are read, the predictions of `tokens[first_scored:]` count."""

    tokens: Sequence[int]
    first_scored: int


def document_windows(tokens: Sequence[int], length: int) -> list[Window]:
    """Cuts bos + text into windows that read at most `length` tokens (and predict one more), half
    overlapping.

    Every token but the first is scored exactly once. Empty for a document without a token to predict.
    """
    stride = max(1, length // 2)
    windows: list[Window] = []
    scored = 1  # tokens before this one are scored already; bos is given
    start = 0
    while scored < len(tokens):
        end = min(start + length + 1, len(tokens))
        windows.append(Window(tokens[start:end], scored - start))
        scored = end
        start += stride
    return windows


def window_batches(windows: Sequence[Window], batch_tokens: int) -> list[list[Window]]:
    """Groups windows of like length, so that padding is rare, with at most `batch_tokens` padded tokens a
    batch."""
    batches: list[list[Window]] = []
    for window in sorted(windows, key=lambda window: -len(window.tokens)):
        if not batches or (len(batches[-1]) + 1) * len(batches[-1][0].tokens) > batch_tokens:
            batches.append([])
        batches[-1].append(window)
    return batches


def padded_batch(batch: Sequence[Window], pad_id: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Tokens of a batch, padded on the right where no causal model looks, and which of them are scored: [B,
    T] both."""
    longest = max(len(window.tokens) for window in batch)
    tokens_BT = torch.full((len(batch), longest), pad_id, dtype=torch.long)
    scored_BT = torch.zeros((len(batch), longest), dtype=torch.bool)
    for row, window in enumerate(batch):
        tokens_BT[row, : len(window.tokens)] = torch.tensor(window.tokens)
        scored_BT[row, window.first_scored : len(window.tokens)] = True
    return tokens_BT.to(device), scored_BT.to(device)


def model_device(model: object) -> torch.device:
    """The device of the model's first parameter; the CPU for a model without any."""
    if isinstance(model, torch.nn.Module):
        for parameter in model.parameters():
            return parameter.device
    return torch.device("cpu")


@contextmanager
def evaluating(model: object) -> Iterator[None]:
    """Puts a module into evaluation mode for a while, then back into the mode it was in."""
    training = isinstance(model, torch.nn.Module) and model.training
    if isinstance(model, torch.nn.Module):
        model.eval()
    try:
        yield
    finally:
        if isinstance(model, torch.nn.Module):
            model.train(training)


@torch.inference_mode()
def nats(model: LanguageModel, windows: Sequence[Window], pad_id: int, batch_tokens: int = 4096) -> float:
    """Sum of the negative log-likelihoods of all scored tokens, in nats, added up in float64.

    The result does not depend on `batch_tokens` beyond the rounding of the model itself.
    """
    device = model_device(model)
    total = 0.0
    for batch in window_batches(windows, batch_tokens):
        tokens_BT, scored_BT = padded_batch(batch, pad_id, device)
        hidden_ND = model.hidden(tokens_BT[:, :-1])[scored_BT[:, 1:]]
        targets_N = tokens_BT[:, 1:][scored_BT[:, 1:]]
        total += chunked_nats(model, hidden_ND, targets_N)
    return total


def chunked_nats(model: LanguageModel, hidden_ND: Tensor, targets_N: Tensor) -> float:
    """Negative log-likelihood of `targets_N` in nats, with the logits of only some positions at a time."""
    total = 0.0
    chunk = 1024
    start = 0
    while start < len(targets_N):
        logits_1NV = model.logits(hidden_ND[None, start : start + chunk])
        losses_N = cross_entropy(logits_1NV[0].float(), targets_N[start : start + chunk], reduction="none")
        total += float(losses_N.double().sum())
        start += chunk
        chunk = max(1, _LOGITS_AT_ONCE // logits_1NV.shape[-1])
    return total


def bits_per_byte(
    model: LanguageModel, tokenizer: TextEncoder, texts: Sequence[str], length: int, batch_tokens: int = 4096
) -> float:
    """Bits per byte of UTF-8 that the model needs for `texts`, each scored on its own in windows of `length`
    tokens.

    The model's training mode is left as it was. `ValueError` for texts without a byte.
    """
    size = sum(len(text.encode()) for text in texts)
    if size == 0:
        raise ValueError("bits per byte needs at least one byte of text: the held-out sample is empty")
    windows = [
        window
        for tokens in tokenizer.encode_batch(list(texts))
        for window in document_windows([tokenizer.bos_id, *tokens], length)
    ]
    with evaluating(model):
        return nats(model, windows, tokenizer.pad_id, batch_tokens) / math.log(2) / size


def xz_bits_per_byte(texts: Sequence[str]) -> float:
    """Bits per byte of Python's `lzma` at its strongest preset on the concatenation of `texts`.

    `ValueError` for texts without a byte.
    """
    data = "".join(texts).encode()
    if not data:
        raise ValueError("bits per byte needs at least one byte of text: the held-out sample is empty")
    return 8 * len(lzma.compress(data, preset=9 | lzma.PRESET_EXTREME)) / len(data)
