"""Small stand-ins with the methods that the evaluation needs of a model and a tokenizer."""

import torch
from torch import Tensor, nn


class ByteTokenizer:
    """A token is a byte; 256 begins a text, 257 ends it, 258 pads."""

    bos_id = 256
    eos_id = 257
    pad_id = 258
    vocab_size = 259
    special: dict[str, int] = {}

    def encode(self, text: str) -> list[int]:
        return list(text.encode())

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        return [self.encode(text) for text in texts]

    def decode(self, ids: list[int]) -> str:
        return bytes(token for token in ids if token < 256).decode(errors="replace")

    def token_bytes(self, token: int) -> bytes:
        return bytes([token]) if token < 256 else b""


class TinyLanguageModel(nn.Module):
    """A causal model in float64: each state sums the last states with fading weights, far enough for context
    to count."""

    def __init__(self, seed: int, mtp: bool = True) -> None:
        super().__init__()
        random = torch.Generator().manual_seed(seed)
        self.embedding_VD = nn.Parameter(torch.randn(259, 8, generator=random, dtype=torch.float64))
        self.head_DV = nn.Parameter(torch.randn(8, 259, generator=random, dtype=torch.float64))
        self.mtp = mtp

    def hidden(self, tokens_BT: Tensor) -> Tensor:
        embedded_BTD = self.embedding_VD[tokens_BT]
        states = [embedded_BTD[:, 0]]
        for place in range(1, tokens_BT.shape[1]):
            states.append(torch.tanh(0.7 * states[-1] + embedded_BTD[:, place]))
        return torch.stack(states, dim=1)

    def logits(self, hidden_BTD: Tensor) -> Tensor:
        return hidden_BTD @ self.head_DV

    def mtp_hidden(self, hidden_BTD: Tensor, tokens_BT: Tensor) -> list[Tensor]:
        if not self.mtp:
            return []
        return [torch.tanh(0.6 * hidden_BTD[:, :-1] + self.embedding_VD[tokens_BT[:, 1:]])]


class CopyingModel(nn.Module):
    """Continues like the place earlier in the context with the longest matching end: perfect copying of a
    needle."""

    def hidden(self, tokens_BT: Tensor) -> Tensor:
        states = torch.zeros(*tokens_BT.shape, 259)
        for row, tokens in enumerate(tokens_BT.tolist()):
            for end in range(1, len(tokens) + 1):
                states[row, end - 1, self._next(tokens[:end])] = 1.0
        return states

    def logits(self, hidden_BTD: Tensor) -> Tensor:
        return hidden_BTD

    @staticmethod
    def _next(tokens: list[int]) -> int:
        best, choice = 0, 0
        for place in range(len(tokens) - 1, 0, -1):
            same = 0
            while same < place and tokens[place - 1 - same] == tokens[len(tokens) - 1 - same]:
                same += 1
            if same > best:
                best, choice = same, tokens[place]
        return choice
