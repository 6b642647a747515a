"""Experts: one model per domain, raised from the base model by SFT and a short GRPO (report, section 5.1)."""

from typing import Annotated, Self

from pydantic import Field, PositiveInt, model_validator

from sapience.recipe.policy import PolicySection
from sapience.recipe.problem_sets import ProblemSetSection
from sapience.recipe.section import Section
from sapience.recipe.supervised import SupervisedSection

ExpertName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]


class ExpertSection(Section):
    """One expert's domain."""

    problems: ProblemSetSection
    """What it is asked in GRPO; the demonstrations are drawn from the same families and files. The test part of the files is
    what `evaluate` measures it on, beside its families."""


class SpecialiseSection(Section):
    """Expert models, which later write reasoning data for the assistant."""

    model: str | None = None
    """A Hugging Face folder or RUN[@stage] to begin with; null takes this run's extended (or base) model."""
    experts: dict[ExpertName, ExpertSection] = Field(
        default_factory=lambda: {
            "math": ExpertSection(
                problems=ProblemSetSection(families={"maxn": 1, "minn": 1, "secondn": 1, "sortn": 1})
            ),
            "code": ExpertSection(problems=ProblemSetSection(families={"codefn": 1, "codelist": 1, "codestr": 1})),
        }
    )
    """By domain. V3: code, mathematics, general reasoning."""
    demonstrations: PositiveInt = 200
    """Solved problems of each family (and file) to begin with: a fixed set, the only one in the run with answers that
    no model of the run wrote."""
    worked: float = Field(default=0.5, ge=0, le=1)
    """Share of the demonstrations that show their steps, where the problem has steps."""
    reasoned: PositiveInt = 1
    """How often an epoch shows each demonstration behind the system prompt, for once that it shows it as it is: an expert is
    there to reason."""
    system_prompt: str = "Think step by step, check, then answer."
    """Said to an expert when it is to reason. It is fine-tuned on every demonstration as it is, and behind this prompt with
    its steps. V3's prompt, which asks for reflection and verification, is not published."""
    supervised: SupervisedSection = SupervisedSection()
    policy: PolicySection = PolicySection()

    @model_validator(mode="after")
    def _names_tell_files_apart(self) -> Self:
        read: dict[str, tuple[str, str]] = {}
        for expert, section in self.experts.items():
            for file in section.problems.files:
                place = file.model_dump_json(include={"path", "dataset", "config", "revision", "hub_split"})
                other, known = read.setdefault(file.called, (expert, place))
                if other != expert and known != place:
                    raise ValueError(
                        f"the experts {other} and {expert} have different problem files called {file.called}: "
                        "give each a name of its own"
                    )
        return self

    def all_problems(self) -> ProblemSetSection:
        """What all experts are asked, taken together: a family's share is the sum of its shares."""
        sets = [expert.problems for expert in self.experts.values()]
        families: dict[str, float] = {}
        for problems in sets:
            for name, weight in problems.families.items():
                families[name] = families.get(name, 0) + weight
        return ProblemSetSection(families=families, files=[file for problems in sets for file in problems.files])
