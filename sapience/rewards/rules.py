"""Rules that judge an answer to a problem: a number in a box, a program against tests it cannot see.

One door for every stage: distillation, GRPO and evaluation judge alike. The sandbox is chosen when the first program is
to be judged, so that a recipe without code needs none; where nothing on the machine isolates, that raises instead of
calling programs wrong.
"""

from __future__ import annotations

from collections.abc import Sequence

from sapience.problems.plain import SEPARATOR
from sapience.problems.problem import Problem
from sapience.problems.scoring import score
from sapience.recipe.rewards import RewardsSection
from sapience.rewards.code import CodeJudge
from sapience.rewards.limits import Limits
from sapience.rewards.math_judge import MathJudge
from sapience.rewards.mathematics import judge_answer
from sapience.rewards.sandbox import Sandbox, choose_sandbox
from sapience.rewards.source_code import fenced_source
from sapience.rewards.verdict import Verdict


def is_program(problem: Problem) -> bool:
    """True where the answer has to be run."""
    return problem.domain == "code" and bool(problem.tests)


class RuleJudge:
    """Judges answers to problems; a context manager, since it may hold a sandbox."""

    def __init__(self, section: RewardsSection | None = None) -> None:
        self.section = section or RewardsSection()
        self._sandbox: Sandbox | None = None
        self._code: CodeJudge | None = None
        self._math: MathJudge | None = None

    def __enter__(self) -> RuleJudge:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let what works for it end."""
        for held in (self._code, self._math):
            if held is not None:
                held.close()
        self._code = self._math = None

    @property
    def sandbox(self) -> Sandbox:
        """Where programs run, chosen and tested once. Raises UserError where nothing isolates."""
        if self._sandbox is None:
            self._sandbox = choose_sandbox(self.section.sandbox)
        return self._sandbox

    @property
    def description(self) -> str:
        """The sandbox in one sentence, for the record; empty where no program was judged."""
        return self._sandbox.description if self._sandbox is not None else ""

    def judge_texts(self, problems: Sequence[Problem], texts: Sequence[str], plain: bool = False) -> list[Verdict]:
        """One verdict per answer.

        Chat answers give their result in a box and programs in a fenced block; with `plain` they are a base model's,
        the result at the end and the program bare, both up to the first empty line.
        """
        verdicts: dict[int, Verdict] = {}
        programs: dict[int, tuple[Problem, str]] = {}
        results: dict[int, tuple[Problem, str]] = {}
        for index, (problem, text) in enumerate(zip(problems, texts, strict=True)):
            if is_program(problem):
                source = text.strip().split(SEPARATOR)[0] if plain else fenced_source(text, problem.language)
                if source:
                    programs[index] = problem, source
                else:
                    verdicts[index] = Verdict(
                        "format_error", 0, len(problem.tests), f"no fenced block of {problem.language}"
                    )
            elif plain:
                verdicts[index] = Verdict("ok" if score(problem, text) else "wrong", int(score(problem, text)), 1)
            elif problem.domain == "math":
                results[index] = problem, text
            else:
                verdicts[index] = judge_answer(problem, text, self.section.answer_formats)
        if results:
            found = self._mathematics().judge_many(list(results.values()))
            verdicts.update(zip(results, found, strict=True))
        if programs:
            found = self._judge().judge_many(list(programs.values()))
            verdicts.update(zip(programs, found, strict=True))
        return [verdicts[index] for index in range(len(problems))]

    def _mathematics(self) -> MathJudge:
        if self._math is None:
            self._math = MathJudge(self.section.answer_formats, self.section.math_workers, self.section.math_seconds)
        return self._math

    def _judge(self) -> CodeJudge:
        if self._code is None:
            section = self.section
            limits = Limits(
                cpu_seconds=section.cpu_seconds, wall_seconds=section.wall_seconds, memory_mb=section.memory_mb
            )
            self._code = CodeJudge(self.sandbox, section.workers, limits)
        return self._code
