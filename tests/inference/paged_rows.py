"""Rows that are read and drawn through a network's pages, none of them shared: a loop that is easy to follow."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from sapience.inference.network import Network, Places
from sapience.inference.pages import PAGE, pages_for
from sapience.model.transformer import Transformer


class PagedRows:
    """Prompts, then a token a step for every row that is left."""

    def __init__(
        self,
        kind: Callable[[Transformer, int, int], Network],
        model: Transformer,
        prompts: Sequence[Sequence[int]],
        limit: int,
    ) -> None:
        self.prompts = prompts
        longest = pages_for(max(map(len, prompts)) + limit)
        self.network = kind(model, longest * len(prompts), longest * PAGE)
        order = torch.randperm(longest * len(prompts), generator=torch.Generator().manual_seed(1))
        self.table = order.view(len(prompts), longest).int()
        self.lengths = torch.tensor([len(prompt) for prompt in prompts])

    @torch.inference_mode()
    def read(self, at_once: int = 10**9) -> Tensor:
        """Logits behind every prompt."""
        tokens = torch.tensor([token for prompt in self.prompts for token in prompt])
        rows = torch.arange(len(self.prompts)).repeat_interleave(self.lengths)
        positions = torch.cat([torch.arange(len(prompt)) for prompt in self.prompts])
        ends = self.lengths.cumsum(0) - 1
        parts = []
        for start in range(0, len(tokens), at_once):
            piece = slice(start, start + at_once)
            wanted = ends[(ends >= start) & (ends < start + at_once)] - start
            parts.append(
                self.network.forward(tokens[piece], Places(positions[piece], rows[piece], self.table), wanted).logits
            )
        return torch.cat(parts)

    @torch.inference_mode()
    def step(self, tokens: Sequence[int]) -> Tensor:
        """Logits behind one more token of each row."""
        rows = torch.arange(len(tokens))
        logits = self.network.forward(torch.tensor(tokens), Places(self.lengths, rows, self.table), rows).logits
        self.lengths = self.lengths + 1
        return logits

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with these rows only."""
        self.table, self.lengths = self.table[list(rows)], self.lengths[list(rows)]
