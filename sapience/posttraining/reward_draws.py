"""The answers that the stage `reward` draws from the SFT model: to problems, for rules, and to everyday wishes, for people.

Both are kept in the stage's folder as they come, so that a killed stage draws nothing twice, and the same comparisons
reach the people however often it is run.
"""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from random import Random

from sapience.corpus.chat import ChatFormat, Message
from sapience.model.transformer import Transformer
from sapience.posttraining.drawn_pairs import JudgedGroup
from sapience.posttraining.problem_pool import ProblemPool
from sapience.posttraining.rollouts import Prompt, Reward, draw
from sapience.problems.everyday import everyday_conversations
from sapience.recipe.problem_sets import ProblemSetSection
from sapience.review.records import Comparison
from sapience.rewards.rules import RuleJudge
from sapience.run import StageContext, write_atomically

SHARD_PROMPTS = 64
"""Prompts between two saved shards."""
POOL = 1000
"""Problems of a family to choose from, where more prompts are not asked for: most of them no demonstration."""
ROUNDS = 8
"""Drawings from the pool, as many prompts each as are wanted, after which fewer different ones will do."""
WISH_DRAWS = 4
"""Answers to an everyday wish, of which the first two different ones are compared."""


@dataclass(frozen=True)
class ProblemDraws:
    """Judged answers to problems."""

    groups: list[JudgedGroup]
    sandbox: str
    """Where programs ran, in one sentence; empty where none was judged."""


def draw_problem_groups(
    context: StageContext, model: Transformer, chat: ChatFormat, problems: ProblemSetSection
) -> ProblemDraws:
    """Answers to `reward.problem_prompts` problems of the training split, judged by rules; none where none are named."""
    section, recipe = context.recipe.reward, context.recipe
    if problems.empty or not section.problem_prompts:
        return ProblemDraws([], "")
    prompts = _problem_prompts(problems, section.problem_prompts, recipe.seed)
    folder = context.folder / "draws"
    folder.mkdir(exist_ok=True)
    groups: list[JudgedGroup] = []
    sandbox = ""
    with RuleJudge(recipe.rewards) as rules, context.progress("answers to compare", len(prompts)) as bar:
        for number, start in enumerate(range(0, len(prompts), SHARD_PROMPTS)):
            asked = prompts[start : start + SHARD_PROMPTS]
            path = folder / f"draws-{number:04}.json"
            if not path.is_file():
                drawn = draw(
                    model,
                    chat,
                    asked,
                    section.draws,
                    lambda prompts, texts: _by_rules(rules, prompts, texts),
                    answer_tokens=section.answer_tokens,
                    temperature=section.temperature,
                    seed=recipe.seed * 1_000_003 + number,
                )
                record = {"sandbox": rules.description, "groups": [asdict(JudgedGroup.of(group)) for group in drawn]}
                write_atomically(path, json.dumps(record, ensure_ascii=False, indent=1))
            shard = json.loads(path.read_text(encoding="utf-8"))
            groups += map(JudgedGroup.read, shard["groups"])
            sandbox = shard["sandbox"] or sandbox
            bar.advance(len(asked))
    return ProblemDraws(groups, sandbox)


def draw_comparisons(
    context: StageContext, model: Transformer, chat: ChatFormat
) -> tuple[list[Comparison], Counter[str]]:
    """Two different answers to each of `review.comparisons` everyday wishes, and why some wishes have no such two."""
    section, recipe = context.recipe.reward, context.recipe
    wanted = recipe.review.comparisons
    left_out: Counter[str] = Counter()
    if not wanted:
        return [], left_out
    path = context.folder / "draws" / "everyday.json"
    wishes = list(_wishes())
    chosen = Random(f"{recipe.seed}:comparisons").sample(wishes, min(wanted, len(wishes)))
    if not path.is_file():
        path.parent.mkdir(exist_ok=True)
        drawn = draw(
            model,
            chat,
            chosen,
            WISH_DRAWS,
            lambda prompts, _: [Reward(None, {})] * len(prompts),
            answer_tokens=section.answer_tokens,
            temperature=section.temperature,
            seed=recipe.seed * 1_000_003 + 500_000,
        )
        groups = [asdict(JudgedGroup.of(group)) for group in drawn]
        write_atomically(path, json.dumps(groups, ensure_ascii=False, indent=1))
    comparisons = []
    for group in map(JudgedGroup.read, json.loads(path.read_text(encoding="utf-8"))):
        texts = list(dict.fromkeys(a.text for a in group.answers if a.finished and a.text.strip()))
        if len(texts) < 2:
            left_out["wishes without two different answers"] += 1
            continue
        messages = tuple((message.role, message.content) for message in group.messages)
        source = f"two answers of the model that {context.run.name} fine-tuned"
        try:
            comparisons.append(Comparison.of(messages, texts[0], texts[1], group.language, group.category, source))
        except ValueError:
            left_out["wishes with answers that cannot be shown"] += 1
    return comparisons, left_out


def _problem_prompts(problems: ProblemSetSection, count: int, seed: int) -> list[Prompt]:
    """Different problems, by weight; fewer where there are not as many."""
    pool = ProblemPool(problems, max(POOL, count), seed)
    found: dict[str, Prompt] = {}
    for iteration in range(ROUNDS):
        for prompt in pool.prompts(iteration, count):
            if len(found) < count:
                found.setdefault(prompt.messages[-1].content, prompt)
    return list(found.values())


def _by_rules(rules: RuleJudge, prompts: Sequence[Prompt], texts: Sequence[str]) -> list[Reward]:
    verdicts = rules.judge_texts([prompt.problem for prompt in prompts if prompt.problem is not None], texts)
    return [
        Reward(None if verdict.kind == "infra_error" else float(verdict.right), {}, verdict.kind)
        for verdict in verdicts
    ]


def _wishes() -> Iterator[Prompt]:
    """The first turns of the everyday conversations, each once."""
    seen: set[tuple[Message, ...]] = set()
    for conversation in everyday_conversations():
        roles = [role for role, _ in conversation.turns]
        first = conversation.turns[: roles.index("user") + 1]
        messages = tuple(Message(role, content) for role, content in first)  # type: ignore[arg-type]
        if messages not in seen:
            seen.add(messages)
            yield Prompt(messages, conversation.category, language=conversation.language)
