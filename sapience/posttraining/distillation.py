"""Rejection sampling: answers of both kinds to training problems, and which of them are kept.

"We perform rejection sampling to curate high-quality SFT data" (DeepSeek-V3 report, section 5.1); of several right
answers the shortest is kept, which is how answers stay as short as they can be.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from sapience.corpus.chat import ChatFormat, Message
from sapience.model.transformer import Transformer
from sapience.posttraining.demonstrations import SOURCE
from sapience.posttraining.rollouts import Judge, Prompt, draw
from sapience.posttraining.samples import Sample
from sapience.problems.problem import Problem
from sapience.recipe.distill import DistillSection
from sapience.run import write_atomically

ReasoningKind = Literal["original", "reasoned"]
KINDS: tuple[ReasoningKind, ...] = ("original", "reasoned")


@dataclass(frozen=True)
class Drawn:
    """One answer of an expert."""

    question: str
    domain: str
    family: str
    kind: ReasoningKind
    """`reasoned` was drawn behind the system prompt."""
    text: str
    tokens: int
    verdict: str
    finished: bool

    @property
    def right(self) -> bool:
        """True where the rules said so and the answer came to its end."""
        return self.verdict == "ok" and self.finished


def draw_shard(
    model: Transformer,
    chat: ChatFormat,
    problems: Sequence[Problem],
    domain: str,
    system: str,
    judge: Judge,
    section: DistillSection,
    seed: int,
) -> list[Drawn]:
    """`section.draws` answers of each kind to every problem, judged."""
    drawn = []
    for place, kind in enumerate(KINDS):
        prompts = [Prompt.of(problem, system if kind == "reasoned" else "") for problem in problems]
        groups = draw(
            model,
            chat,
            prompts,
            section.draws,
            judge,
            answer_tokens=section.answer_tokens,
            temperature=section.temperature,
            seed=2 * seed + place,
        )
        drawn += [
            Drawn(
                problem.question, domain, problem.family, kind, rollout.text, len(rollout.completion.tokens),
                rollout.reward.verdict, rollout.completion.finished,
            )
            for problem, group in zip(problems, groups, strict=True)
            for rollout in group
        ]  # fmt: skip
    return drawn


def write_draws(path: Path, drawn: Sequence[Drawn]) -> None:
    """One JSON object a line, in one move."""
    write_atomically(path, "".join(json.dumps(asdict(d), ensure_ascii=False) + "\n" for d in drawn))


def read_draws(path: Path) -> list[Drawn]:
    """What `write_draws` wrote."""
    return [Drawn(**json.loads(line)) for line in path.read_text(encoding="utf-8").split("\n") if line]


def distilled(drawn: Sequence[Drawn], given: Mapping[str, str], system: str) -> dict[ReasoningKind, list[Sample]]:
    """The samples of each kind, one per problem at most, in the order in which problems were asked.

    `given` maps questions to the problem set's own answers, which go before drawn ones in the original kind.
    """
    best: dict[tuple[str, str], Drawn] = {}
    for answer in drawn:
        key = answer.question, answer.kind
        if answer.right and (key not in best or answer.tokens < best[key].tokens):
            best[key] = answer
    asked = {answer.question: answer for answer in drawn}
    kept: dict[ReasoningKind, list[Sample]] = {"original": [], "reasoned": []}
    for question, any_answer in asked.items():
        if question in given:
            kept["original"].append(_sample(any_answer, "original", given[question], SOURCE, ""))
        elif (question, "original") in best:
            answer = best[question, "original"]
            kept["original"].append(_sample(answer, "original", answer.text, f"{answer.domain} expert", ""))
        if (question, "reasoned") in best:
            answer = best[question, "reasoned"]
            kept["reasoned"].append(_sample(answer, "reasoned", answer.text, f"{answer.domain} expert", system))
    return kept


def mean(values: Sequence[float]) -> float:
    """Rounded to four places; zero of nothing."""
    return round(sum(values) / len(values), 4) if values else 0.0


def _sample(answer: Drawn, kind: ReasoningKind, text: str, source: str, system: str) -> Sample:
    before = (Message("system", system),) if system else ()
    messages = (*before, Message("user", answer.question), Message("assistant", text))
    return Sample(messages, kind, source, answer.domain, answer.family, "en")
