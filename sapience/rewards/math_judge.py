"""The judge of mathematics: takes the final answer where the recipe says it stands, and compares it with the right one.

Three steps, each only for what the one before left open: the same text or number (`mathematics`), the same numbers in
the same structure (`math_quick`), algebra in processes with a deadline (`math_pool`). What was compared once is
remembered, since a group of samples tends to give the same few answers.

A right answer that cannot be read is an error of the data: nothing is called wrong beside it. Loaders find such answers
with `unreadable`; where one slips through, the verdict is `infra_error`, which is dropped and counted.

Not covered: answers that are proofs or prose, and whether the steps before an answer are sound.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from functools import lru_cache
from threading import Lock

from sapience.problems.problem import Problem
from sapience.rewards.math_forms import Form
from sapience.rewards.math_pool import MathPool, Outcome
from sapience.rewards.math_quick import quick_same
from sapience.rewards.math_reading import read
from sapience.rewards.math_text import LONGEST, UnreadableError
from sapience.rewards.mathematics import final_answer, same_result
from sapience.rewards.verdict import Verdict

_RIGHT = Verdict("ok", 1, 1)
_ANOTHER = "another answer"


class MathJudge:
    """Judges final answers; a context manager, to be called from any thread.

    `formats` are where an answer may stand (`mathematics.ANSWER_FORMATS`), `seconds` is the processor time of one comparison.
    The last `remembered` verdicts are kept.
    """

    def __init__(
        self, formats: Sequence[str] = ("boxed",), workers: int = 2, seconds: float = 5.0, remembered: int = 65536
    ) -> None:
        self.formats = tuple(formats)
        final_answer("", self.formats)  # an unknown format is refused now
        self._pool = MathPool(workers, seconds)
        self._lock = Lock()
        self._known: OrderedDict[tuple[str, str], Verdict] = OrderedDict()
        self._remembered = remembered

    def __enter__(self) -> MathJudge:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let the processes end."""
        self._pool.close()

    def judge_many(self, pairs: Sequence[tuple[Problem, str]]) -> list[Verdict]:
        """One verdict for each (problem, text), in order."""
        results = [(problem.answer, final_answer(text, self.formats)) for problem, text in pairs]
        asked = list(dict.fromkeys((right, given) for right, given in results if given is not None))
        found = dict(zip(asked, self.compare_many(asked), strict=True))
        missing = Verdict("format_error", 0, 1, f"no final answer in the form {' or '.join(self.formats)}")
        return [missing if given is None else found[right, given] for right, given in results]

    def compare_many(self, pairs: Sequence[tuple[str, str]]) -> list[Verdict]:
        """One verdict for each (right answer, final answer), in order; nothing is extracted."""
        verdicts: dict[tuple[str, str], Verdict] = {}
        open_pairs: list[tuple[str, str]] = []
        for pair in dict.fromkeys(pairs):
            verdict = self._recalled(pair) or quick_verdict(*pair)
            if verdict is None:
                open_pairs.append(pair)
            else:
                verdicts[pair] = verdict
        for pair, outcome in zip(open_pairs, self._pool.equal_many(open_pairs), strict=True):
            verdicts[pair] = _verdict(pair[0], outcome)
        self._remember(verdicts)
        return [verdicts[pair] for pair in pairs]

    def _recalled(self, pair: tuple[str, str]) -> Verdict | None:
        with self._lock:
            return self._known.get(pair)

    def _remember(self, verdicts: dict[tuple[str, str], Verdict]) -> None:
        with self._lock:
            for pair, verdict in verdicts.items():
                if verdict.kind != "infra_error" and len(pair[1]) <= LONGEST:
                    self._known[pair] = verdict
                    self._known.move_to_end(pair)
            while len(self._known) > self._remembered:
                self._known.popitem(last=False)


def unreadable(answer: str) -> str | None:
    """Why a right answer cannot be read, as a clause; None for one that can."""
    form = _right_form(answer)
    return form if isinstance(form, str) else None


def quick_verdict(right: str, given: str) -> Verdict | None:
    """The verdict that needs no algebra, or None."""
    if right.strip() and same_result(given, right):
        return _RIGHT
    form = _right_form(right)
    if isinstance(form, str):
        return Verdict(
            "infra_error", 0, 1, f"the right answer '{right[:60]}' cannot be read ({form}): an error of the data"
        )
    try:
        same = quick_same(form, read(given, form))
    except UnreadableError as error:
        return Verdict("wrong", 0, 1, f"the answer cannot be read: {error}")
    if same == "algebra":
        return None
    return _RIGHT if same else Verdict("wrong", 0, 1, _ANOTHER)


def _error_of_the_data(right: str, reason: str) -> Verdict:
    return Verdict(
        "infra_error", 0, 1, f"the right answer '{right[:60]}' cannot be read ({reason}): an error of the data"
    )


def _verdict(right: str, outcome: Outcome) -> Verdict:
    match outcome.kind:
        case "same":
            return _RIGHT
        case "different":
            return Verdict("wrong", 0, 1, outcome.detail or _ANOTHER)
        case "timeout":
            return Verdict("wrong", 0, 1, f"the answer takes too long to compare: {outcome.detail}")
        case "unreadable":
            return _error_of_the_data(right, outcome.detail)
    return Verdict("infra_error", 0, 1, outcome.detail)


@lru_cache(maxsize=4096)
def _right_form(answer: str) -> Form | str:
    """The form, or why there is none. One right answer is compared with many others."""
    try:
        return read(answer)
    except UnreadableError as error:
        return str(error)
