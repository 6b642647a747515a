"""A step with drafts as one call: check the drafts, draw, and draft again.

A device that works by itself would wait twice a step for the host, which reads what was drawn to ask for the next drafts. Here
it is asked for all of it at once. By the calls of a Network this is the meaning; `graph_network` records it.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from sapience.inference.answers import Answer, Started, end_of
from sapience.inference.network import Network, Places
from sapience.inference.requests import Token
from sapience.ops.draw import draw


class Cycle(NamedTuple):
    """What is asked for N answers with up to W - 1 drafts each; all on the CPU. The module has seen what was before."""

    tokens_NW: Tensor
    """int64: an answer's last token and the drafts behind it; -1 where there is none."""
    begins_N: Tensor
    """Positions of the last tokens."""
    ends_N: Tensor
    """Positions behind the last that an answer has pages for."""
    table_NP: Tensor
    asked_NU: Tensor
    """Temperature, and random numbers of the next 2 W - 1 tokens; float64."""


def by_calls(network: Network, asked: Cycle) -> Tensor:
    """[N, 3 W] in float64: W tokens, W log-probabilities, how many drafts are right, W - 1 drafts of what comes then.

    Tokens count up to the first behind which the draft was another; drafts behind an answer's end are of no use.
    """
    count, width = asked.tokens_NW.shape
    rows_NW = torch.arange(count).unsqueeze(1).expand(-1, width)
    positions_NW = asked.begins_N.unsqueeze(1) + torch.arange(width)
    live_NW = asked.tokens_NW >= 0
    places = Places(positions_NW[live_NW], rows_NW[live_NW], asked.table_NP)
    passed = network.forward(asked.tokens_NW[live_NW], places, torch.arange(int(live_NW.sum())))
    assert passed.states_ND is not None
    device = passed.logits.device
    temperatures_N, uniforms_NU = asked.asked_NU[:, 0], asked.asked_NU[:, 1:]
    wanted = torch.stack((temperatures_N.unsqueeze(1).expand(-1, width), uniforms_NU[:, :width]), dim=2)[live_NW]
    results_NR = torch.full((count, 3 * width), -1.0, dtype=torch.float64)
    drawn = draw(passed.logits, wanted.to(device)).cpu()
    results_NR[:, :width][live_NW], results_NR[:, width : 2 * width][live_NW] = drawn[:, 0], drawn[:, 1]
    right_NW = (results_NR[:, : width - 1] == asked.tokens_NW[:, 1:]) & live_NW[:, 1:]
    accepted_N = right_NW.cumprod(1).sum(1)
    results_NR[:, 2 * width] = accepted_N.double()
    seen_NW = live_NW & (torch.arange(width) <= accepted_N.unsqueeze(1))
    places = Places(positions_NW[seen_NW], rows_NW[seen_NW], asked.table_NP)
    last = (accepted_N + 1).cumsum(0) - 1
    tokens = results_NR[:, :width][seen_NW].long()
    passed = network.predict(tokens, places, last, passed.states_ND[seen_NW[live_NW].to(device)])
    rows_N = torch.arange(count)
    for ahead in range(width - 1):
        wanted = torch.stack((temperatures_N[rows_N], uniforms_NU[rows_N, accepted_N[rows_N] + 1 + ahead]), dim=1)
        drafts = draw(passed.logits, wanted.to(device)).cpu()[:, 0]
        results_NR[rows_N, 2 * width + 1 + ahead] = drafts
        positions = asked.begins_N[rows_N] + accepted_N[rows_N] + 1 + ahead
        going = positions < asked.ends_N[rows_N]
        if ahead + 2 == width or not bool(going.any()):
            break
        assert passed.states_ND is not None
        given_ND = passed.states_ND[last[going].to(device)]
        rows_N, last = rows_N[going], torch.arange(int(going.sum()))
        places = Places(positions[going], rows_N, asked.table_NP)
        passed = network.predict(drafts[going].long(), places, last, given_ND)
    return results_NR


def asked_for(answers: Sequence[Answer], ends: Sequence[int], table_NP: Tensor, depth: int) -> Cycle:
    """The next cycle of these answers, whose choosers have nothing but a temperature."""
    width = 1 + depth
    tokens, asked = [], []
    for answer in answers:
        row, chooser = [answer.tokens[-1], *answer.drafts], answer.chooser
        tokens.append([*row, *[-1] * (width - len(row))])
        uniforms = chooser.uniforms[chooser.drawn : chooser.drawn + 2 * width - 1]
        asked.append([chooser.temperature, *uniforms, *[0.5] * (2 * width - 1 - len(uniforms))])
    begins = [answer.begin + len(answer.tokens) - 1 for answer in answers]
    chances = torch.tensor(asked, dtype=torch.float64)
    return Cycle(torch.tensor(tokens), torch.tensor(begins), torch.tensor(ends), table_NP, chances)


def take_cycle(
    started: Started, older: Sequence[Answer], drawn: dict[Answer, list[Token | None]]
) -> dict[Answer, list[int]]:
    """What a cycle drew for those who are still here, up to their ends; their next drafts."""
    assert started.results_NR is not None
    width = started.results_NR.shape[1] // 3
    rows = dict(zip(started.answers, started.results_NR.tolist(), strict=True))
    drafts = {}
    for answer in older:
        row, kept = rows[answer], drawn.setdefault(answer, [])
        for i in range(1 + int(row[2 * width])):
            answer.chooser.take(int(row[i]))
            kept.append(Token(int(row[i]), row[width + i]))
            if end_of(answer, kept) is not None:
                break
        left = answer.limit - len(answer.tokens) - len(kept)
        drafts[answer] = [int(token) for token in row[2 * width + 1 :]][: max(0, left - 1)]
    return drafts
