"""What stands between the passes of a step with drafts, for CUDA: rows of the next pass out of what the last one gave.

Meaning: `sapience.inference.cycle.by_calls`. Of an answer there come, in int32, W tokens (its last and W - 1 drafts, -1 for
none), the position of the first, the first position that it has no page for, and its pages; in float64 its temperature and
2 W - 1 random numbers. Rows of a pass are token, position and pages, in int32; -1 and -1 for nobody.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from sapience.ops.decode_launch import room, start, wait


def spread(answers: Tensor, asked: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """A row for every token, and temperature and random number of what is drawn behind it."""
    count, pages = answers.shape[0], answers.shape[1] - width - 2
    rows = room(answers, (count * width, 2 + pages))
    wanted = asked.new_empty((count * width, 2))
    start(_spread, (count * width,), answers, asked, rows, wanted, pages, width, triton.next_power_of_2(pages))
    return rows, wanted


def check(answers: Tensor, asked: Tensor, drawn: Tensor, width: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Results without the next drafts, the prediction module's rows, which of them is an answer's last, and what its draft is
    drawn with."""
    count, pages = answers.shape[0], answers.shape[1] - width - 2
    results = asked.new_empty((count, 3 * width))
    rows = room(answers, (count * width, 2 + pages))
    last = room(answers, (count,), torch.int64)
    wanted = asked.new_empty((count, 2))
    full = triton.next_power_of_2(pages)
    start(_check, (count,), answers, asked, drawn, results, rows, last, wanted, pages, width, full)
    return results, rows, last, wanted


def follow(
    answers: Tensor, asked: Tensor, drafts: Tensor, results: Tensor, ahead: int, width: int
) -> tuple[Tensor, Tensor]:
    """Note the drafts in the results; rows that go on from them, and what the next ones are drawn with."""
    count, pages = answers.shape[0], answers.shape[1] - width - 2
    rows = room(answers, (count, 2 + pages))
    wanted = asked.new_empty((count, 2))
    full = triton.next_power_of_2(pages)
    start(_follow, (count,), answers, asked, drafts, results, rows, wanted, pages, ahead, width, full)
    return rows, wanted


@triton.jit
def _store_row(rows, row, token, position, source, pages, PAGES: tl.constexpr):  # type: ignore[no-untyped-def]
    page = tl.arange(0, PAGES)
    rows += row * (2 + pages)
    tl.store(rows, token)
    tl.store(rows + 1, position)
    tl.store(rows + 2 + page, tl.load(source + page, mask=page < pages), mask=page < pages)


@triton.jit
def _spread(answers, asked, rows, wanted, pages, WIDTH: tl.constexpr, PAGES: tl.constexpr):  # type: ignore[no-untyped-def]
    row = tl.program_id(0)
    answer, ahead = row // WIDTH, row % WIDTH
    wait()
    answers += answer * (WIDTH + 2 + pages)
    token = tl.load(answers + ahead)
    position = tl.where(token >= 0, tl.load(answers + WIDTH) + ahead, -1)
    _store_row(rows, row, token, position, answers + WIDTH + 2, pages, PAGES)
    asked += answer * (2 * WIDTH)
    tl.store(wanted + 2 * row, tl.load(asked))
    tl.store(wanted + 2 * row + 1, tl.load(asked + 1 + ahead))


@triton.jit
def _check(  # type: ignore[no-untyped-def]
    answers, asked, drawn, results, rows, last, wanted, pages, WIDTH: tl.constexpr, PAGES: tl.constexpr
):
    answer = tl.program_id(0)
    wait()
    answers += answer * (WIDTH + 2 + pages)
    asked += answer * (2 * WIDTH)
    drawn += answer * (2 * WIDTH)
    results += answer * (3 * WIDTH)
    right, accepted = True, tl.zeros((), tl.int32)
    for ahead in tl.static_range(WIDTH - 1):
        right = right & (tl.load(drawn + 2 * ahead).to(tl.int32) == tl.load(answers + ahead + 1))
        accepted += right.to(tl.int32)
    begin = tl.load(answers + WIDTH)
    for ahead in tl.static_range(WIDTH):
        token = tl.load(drawn + 2 * ahead)
        tl.store(results + ahead, token)
        tl.store(results + WIDTH + ahead, tl.load(drawn + 2 * ahead + 1))
        live = (ahead <= accepted) & (tl.load(answers + ahead) >= 0)
        _store_row(
            rows,
            answer * WIDTH + ahead,
            tl.where(live, token.to(tl.int32), -1),
            tl.where(live, begin + ahead, -1),
            answers + WIDTH + 2,
            pages,
            PAGES,
        )
    tl.store(results + 2 * WIDTH, accepted.to(tl.float64))
    tl.store(last + answer, (answer * WIDTH + accepted).to(tl.int64))
    tl.store(wanted + 2 * answer, tl.load(asked))
    tl.store(wanted + 2 * answer + 1, tl.load(asked + 2 + accepted))


@triton.jit
def _follow(  # type: ignore[no-untyped-def]
    answers,
    asked,
    drafts,
    results,
    rows,
    wanted,
    pages,
    AHEAD: tl.constexpr,
    WIDTH: tl.constexpr,
    PAGES: tl.constexpr,
):
    answer = tl.program_id(0)
    wait()
    answers += answer * (WIDTH + 2 + pages)
    asked += answer * (2 * WIDTH)
    results += answer * (3 * WIDTH)
    token = tl.load(drafts + 2 * answer)
    tl.store(results + 2 * WIDTH + 1 + AHEAD, token)
    accepted = tl.load(results + 2 * WIDTH).to(tl.int32)
    begin = tl.load(answers + WIDTH)
    position = begin + accepted + 1 + AHEAD
    live = (begin >= 0) & (position < tl.load(answers + WIDTH + 1))
    _store_row(
        rows,
        answer,
        tl.where(live, token.to(tl.int32), -1),
        tl.where(live, position, -1),
        answers + WIDTH + 2,
        pages,
        PAGES,
    )
    tl.store(wanted + 2 * answer, tl.load(asked))
    tl.store(wanted + 2 * answer + 1, tl.load(asked + tl.minimum(3 + AHEAD + accepted, 2 * WIDTH - 1)))
