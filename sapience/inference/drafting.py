"""Drafts of the next tokens by the model's prediction module (DeepSeek-V3 report, section 2.2: MTP as speculative decoding).

The module takes the main model's state at a position and the token behind it, and guesses the token after that; its own state
and its guess take it further. The main model reads all guesses in one pass and draws as it would have drawn without them;
guesses count as far as they are what was drawn. So the answer is the one without drafts, whatever the drafts are (to the bit
where the C++ forward pass reads them, elsewhere but for rounding): its distribution is exact by construction, not by a
correction. Rejection sampling keeps the distribution too and accepts somewhat more, but then what is said depends on how good
the drafts were.

What the module has not seen yet is kept with each answer until drafts are wanted. Not covered: several modules, of which V3
has one; trees of guesses.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from sapience.inference.network import Network, Places
from sapience.inference.sampling import Chooser, guess


@dataclass(eq=False)
class Draftee:
    """An answer for which drafts are made."""

    pages: list[int]
    chooser: Chooser
    begin: int
    """Position of the answer's first token."""
    limit: int
    tokens: list[int] = field(default_factory=list)
    drafts: list[int] = field(default_factory=list)
    """Guesses of the tokens behind the last."""
    unseen: list[Tensor] = field(default_factory=list)
    """States [n, D] before the last tokens, which the module has not joined with them yet."""


def read_prompts(
    network: Network, prompts: Sequence[tuple[Sequence[int], int, int]], places: Places, states_ND: Tensor
) -> None:
    """The module reads what the main model has read: of each prompt tokens from..to. The last token's state is left out."""
    tokens: list[int] = []
    kept: list[int] = []
    at = 0
    for prompt, start, end in prompts:
        following = list(prompt[start + 1 : end + 1])
        tokens += following
        kept += range(at, at + len(following))
        at += end - start
    if tokens:
        index = torch.tensor(kept)
        where = Places(places.positions_N[index], places.rows_N[index], places.table_RP)
        network.predict(
            torch.tensor(tokens), where, torch.zeros(0, dtype=torch.int64), states_ND[index.to(states_ND.device)]
        )


def draft(network: Network, answers: Sequence[Draftee], table_RP: Tensor, depth: int) -> None:
    """Guess up to `depth` tokens for every answer, none behind its limit. Row i of the table is answer i's."""
    rows = [row for row, answer in enumerate(answers) if answer.limit - len(answer.tokens) > 1]
    if not rows:
        return
    states = [torch.cat(answers[row].unseen) for row in rows]
    counts = torch.tensor([len(part) for part in states])
    tokens = [token for row, part in zip(rows, states, strict=True) for token in answers[row].tokens[-len(part) :]]
    ends = counts.cumsum(0) - 1
    last = torch.tensor([answers[row].begin + len(answers[row].tokens) - 2 for row in rows])
    positions = torch.arange(len(tokens)) + (last - ends).repeat_interleave(counts)
    places = Places(positions, torch.tensor(rows).repeat_interleave(counts), table_RP)
    passed = network.predict(torch.tensor(tokens), places, ends, torch.cat(states))
    for row in rows:
        answers[row].unseen = []
    wanted = ends
    for ahead in range(depth):
        for row, token in zip(rows, guess(passed.logits, [answers[row].chooser for row in rows], ahead), strict=True):
            answers[row].drafts.append(token)
        more = [i for i, row in enumerate(rows) if answers[row].limit - len(answers[row].tokens) > ahead + 2]
        if ahead + 1 == depth or not more:
            return
        assert passed.states_ND is not None
        given_ND = passed.states_ND[wanted[more].to(passed.states_ND.device)]
        rows = [rows[i] for i in more]
        following = torch.tensor([answers[row].drafts[-1] for row in rows])
        positions = torch.tensor([answers[row].begin + len(answers[row].tokens) - 1 + ahead for row in rows])
        wanted = torch.arange(len(rows))
        passed = network.predict(following, Places(positions, torch.tensor(rows), table_RP), wanted, given_ND)
