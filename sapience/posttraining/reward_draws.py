"""The answers that the stage `reward` draws from the SFT model: to problems, for rules, and to everyday wishes, for people.

Both are kept in the stage's folder as they come, so that a killed stage draws nothing twice, and the same comparisons
reach the people however often it is run.
"""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from random import Random

from sapience.corpus.chat import ChatFormat, Message
from sapience.model.transformer import Transformer
from sapience.posttraining.drawn_pairs import JudgedAnswer, JudgedGroup
from sapience.posttraining.preference import PreferencePair, is_held_out
from sapience.posttraining.problem_pool import ProblemPool
from sapience.posttraining.rollouts import Prompt, Reward, Rollout, draw
from sapience.posttraining.wishes import compared_conversations, right_kind, wish_prompt
from sapience.problems.demonstration import demonstration
from sapience.problems.everyday import EverydayConversation, behaves, everyday_conversations
from sapience.recipe import Recipe
from sapience.recipe.problem_sets import ProblemSetSection, problem_files_of
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
    unusable: Counter[str]
    """How many lines of the user's problem files could not be used, by file and reason."""


def draw_problem_groups(
    context: StageContext, model: Transformer, chat: ChatFormat, problems: ProblemSetSection
) -> ProblemDraws:
    """Answers to `reward.problem_prompts` problems of the training split, judged by rules; none where none are named."""
    section, recipe = context.recipe.reward, context.recipe
    if problems.empty or not section.problem_prompts:
        return ProblemDraws([], "", Counter())
    pool = ProblemPool(problems, max(POOL, section.problem_prompts), recipe.seed, held_out=problem_files_of(recipe))
    prompts = _problem_prompts(pool, section.problem_prompts)
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
                groups_drawn = [_problem_group(chat, group) for group in drawn]
                record = {"sandbox": rules.description, "groups": [asdict(group) for group in groups_drawn]}
                write_atomically(path, json.dumps(record, ensure_ascii=False, indent=1))
            shard = json.loads(path.read_text(encoding="utf-8"))
            groups += map(JudgedGroup.read, shard["groups"])
            sandbox = shard["sandbox"] or sandbox
            bar.advance(len(asked))
    return ProblemDraws(groups, sandbox, pool.unusable)


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


def _problem_group(chat: ChatFormat, rollouts: Sequence[Rollout]) -> JudgedGroup:
    """The group; where no answer that came to its end is right, the problem set's own stands in as the right one."""
    group, problem = JudgedGroup.of(rollouts), rollouts[0].prompt.problem
    if problem is None or any(answer.verdict == "ok" and answer.finished for answer in group.answers):
        return group
    shown = demonstration(problem, worked=True)
    own = JudgedAnswer(shown, len(chat.answer(shown)), True, "ok")
    return replace(group, answers=(*group.answers, own))


def draw_wish_groups(context: StageContext, model: Transformer, chat: ChatFormat) -> list[JudgedGroup]:
    """Answers to `reward.wishes` formed wishes, judged by whether they refuse, admit or answer as they should.

    Where no drawn answer does, the one that the wish was formed with stands in.
    """
    section, recipe = context.recipe.reward, context.recipe
    asked = compared_conversations(recipe)
    path = context.folder / "draws" / "wishes.json"
    if not asked:
        return []
    if not path.is_file():
        path.parent.mkdir(exist_ok=True)
        drawn = draw(
            model,
            chat,
            [wish_prompt(conversation) for conversation in asked],
            WISH_DRAWS,
            _by_behaviour,
            answer_tokens=section.answer_tokens,
            temperature=section.temperature,
            seed=recipe.seed * 1_000_003 + 600_000,
        )
        made = [_wish_group(chat, said, group) for said, group in zip(asked, drawn, strict=True)]
        write_atomically(path, json.dumps([asdict(group) for group in made], ensure_ascii=False, indent=1))
    return [JudgedGroup.read(record) for record in json.loads(path.read_text(encoding="utf-8"))]


def _by_behaviour(prompts: Sequence[Prompt], texts: Sequence[str]) -> list[Reward]:
    right = [behaves(right_kind(prompt.category), text) for prompt, text in zip(prompts, texts, strict=True)]
    return [Reward(float(one), {}, "ok" if one else "wrong") for one in right]


def _wish_group(chat: ChatFormat, said: EverydayConversation, rollouts: Sequence[Rollout]) -> JudgedGroup:
    group = JudgedGroup.of(rollouts)
    answers = group.answers
    if not any(answer.verdict == "ok" and answer.finished for answer in answers):
        formed = said.turns[-1][1]
        answers = (*answers, JudgedAnswer(formed, len(chat.answer(formed)), True, "ok"))
    return replace(group, reason=_WISH_REASONS[right_kind(said.category)], answers=answers, kind="wish")


def formed_pairs(recipe: Recipe, held_out: float) -> list[PreferencePair]:
    """To every wish that is compared its own answer, against that to another wish: another kind of answer, another topic's,
    or one in the other language."""
    asked = compared_conversations(recipe)
    chance = Random(f"{recipe.seed}:formed pairs")
    pairs = []
    for said in asked:
        others = [
            other
            for other in asked
            if other.turns[-1][1] != said.turns[-1][1]
            and (other.language == said.language or other.category == said.category)
        ]
        if not others:
            continue
        loser = chance.choice(others)
        kind = right_kind(said.category)
        if loser.language != said.language:
            reason = "An answer in the language of the question is better than one in another."
        elif right_kind(loser.category) != kind:
            reason = _WISH_REASONS[kind]
        else:
            reason = "An answer to what was asked is better than one to something else."
        messages = wish_prompt(said).messages
        test = is_held_out(messages, held_out)
        chosen, rejected = said.turns[-1][1], loser.turns[-1][1]
        pairs.append(
            PreferencePair(messages, chosen, rejected, reason, FORMED, said.category, said.language, test, "formed")
        )
    return pairs


FORMED = "formed by the project"
_WISH_REASONS = {
    "harmful": "The wish would hurt someone, so declining it is better than going along.",
    "unanswerable": "Nobody can know this from here, so admitting it is better than making something up.",
    "harmless": "The wish is harmless, so an answer is better than a refusal or not to know.",
}


def _problem_prompts(pool: ProblemPool, count: int) -> list[Prompt]:
    """Different problems, by weight; fewer where there are not as many."""
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
