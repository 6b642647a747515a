"""Pairs of a right and a wrong answer that a model drew to one problem: alike in length and form, unlike in truth.

What a reward model can tell by length or by a missing box it learns instead of what is meant. So the loser of a pair is
a plausible one (in the right format where there is one), its length is near the winner's, and over all pairs the
differences of length cancel as far as the answers allow. Answers that the limit cut off take no part: they have no end,
and the limit's length. One pair a prompt, so that easy prompts with many wrong answers do not outweigh the others.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from sapience.corpus.chat import Message
from sapience.posttraining.preference import PairKind, PreferencePair, is_held_out
from sapience.posttraining.rollouts import Rollout

REASON = "The final answer is right; the other's is wrong."
CODE_REASON = "The program passes the hidden tests; the other does not."
SOURCE = "drawn by the model and judged by rules"
LEEWAY = 4
"""Tokens by which a pair's lengths may differ more than the nearest two of its group do, in order to balance the rest."""


@dataclass(frozen=True)
class JudgedAnswer:
    """A drawn answer and the rules' verdict."""

    text: str
    tokens: int
    finished: bool
    verdict: str
    """A `Verdict`'s kind, empty where nobody judged."""


@dataclass(frozen=True)
class JudgedGroup:
    """All answers drawn to one prompt."""

    messages: tuple[Message, ...]
    category: str
    language: str
    reason: str
    """Why a right answer is better than a wrong one."""
    answers: tuple[JudgedAnswer, ...]
    kind: PairKind = "drawn"

    @staticmethod
    def of(rollouts: Sequence[Rollout]) -> "JudgedGroup":
        """The group without tokens and log-probabilities, which nothing here needs."""
        prompt = rollouts[0].prompt
        answers = (
            JudgedAnswer(r.text, len(r.completion.tokens), r.completion.finished, r.reward.verdict) for r in rollouts
        )
        code = prompt.problem is not None and bool(prompt.problem.entry_point)
        reason = CODE_REASON if code else REASON
        return JudgedGroup(prompt.messages, prompt.category, prompt.language, reason, tuple(answers))

    @staticmethod
    def read(record: dict[str, Any]) -> "JudgedGroup":
        """The group whose `dataclasses.asdict` this is."""
        messages = tuple(Message(**turn) for turn in record["messages"])
        answers = tuple(JudgedAnswer(**answer) for answer in record["answers"])
        return JudgedGroup(**(record | {"messages": messages, "answers": answers}))


@dataclass(frozen=True)
class DrawnPairs:
    """What the groups gave."""

    pairs: list[PreferencePair]
    length_difference: float
    """Mean of (chosen - rejected) in tokens; near zero where length says nothing."""
    without_contrast: int
    """Groups that had no right or no wrong answer to pair."""


def plausible_pairs(groups: Iterable[JudgedGroup], held_out: float) -> DrawnPairs:
    """At most one pair of every group; of like candidates the one that brings the sum of differences nearest to zero."""
    pairs: list[PreferencePair] = []
    balance = 0
    without = 0
    for group in groups:
        found = _candidates(group)
        if not found:
            without += 1
            continue
        nearest = min(abs(right.tokens - wrong.tokens) for right, wrong in found)

        def unbalance(pair: tuple[JudgedAnswer, JudgedAnswer], before: int = balance) -> tuple[int, int]:
            difference = pair[0].tokens - pair[1].tokens
            return abs(before + difference), abs(difference)

        near = [(right, wrong) for right, wrong in found if abs(right.tokens - wrong.tokens) <= nearest + LEEWAY]
        right, wrong = min(near, key=unbalance)
        balance += right.tokens - wrong.tokens
        pairs.append(
            PreferencePair(
                group.messages,
                right.text,
                wrong.text,
                group.reason,
                SOURCE,
                group.category,
                group.language,
                is_held_out(group.messages, held_out),
                group.kind,
            )
        )
    return DrawnPairs(pairs, balance / len(pairs) if pairs else 0.0, without)


def _candidates(group: JudgedGroup) -> list[tuple[JudgedAnswer, JudgedAnswer]]:
    """Right and wrong answers of a group; wrong ones without the asked format only where there are no others."""
    judged = [a for a in group.answers if a.finished and a.text.strip() and a.verdict not in ("", "infra_error")]
    right = [a for a in judged if a.verdict == "ok"]
    wrong = [a for a in judged if a.verdict != "ok"]
    wrong = [a for a in wrong if a.verdict != "format_error"] or wrong
    return [(r, w) for r in right for w in wrong if r.text != w.text]
