"""The stage `reinforce`: GRPO from the SFT model to the assistant (DeepSeek-V3 report, section 5.2.2).

    reinforce/metrics.jsonl, rollouts.jsonl, validations.jsonl, checkpoints/
    reinforce/model/

Problems are judged by rules, everyday wishes by the reward model; nothing is asked behind a system prompt.
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from fractions import Fraction
from math import floor
from random import Random
from typing import Any

from sapience.corpus.chat import ChatFormat
from sapience.corpus.tokenizer import Tokenizer
from sapience.model.huggingface import load_model
from sapience.posttraining.chat_model import beginning, save_chat_model
from sapience.posttraining.grpo import GroupPolicyTraining, first_and_last
from sapience.posttraining.mixed_rewards import MixedJudge, Scores
from sapience.posttraining.problem_pool import ProblemPool
from sapience.posttraining.reward_model import load_reward_model
from sapience.posttraining.rollouts import Prompt
from sapience.posttraining.rubric_judge import RubricJudge
from sapience.posttraining.rule_rewards import noting_sandbox, sandbox_of, validation
from sapience.posttraining.wishes import asked_conversations, right_kind, wish_prompt
from sapience.recipe.problem_sets import problem_files_of
from sapience.rewards.rules import RuleJudge
from sapience.run import StageContext, resolve_model
from sapience.training.device import choose_device, placed
from sapience.training.metrics import MetricsLog

TURNS = (
    "harmless", "harmless", "harmful",
    "harmless", "unanswerable",
    "harmless", "harmful",
    "harmless", "unanswerable",
)  # fmt: skip
"""Which kind of everyday wish is asked after which."""


def run(context: StageContext) -> dict[str, Any]:
    """Draw, judge, learn."""
    recipe, section, folder = context.recipe, context.recipe.reinforce, context.folder
    policy = section.policy
    begun = beginning(context, section.model, "finetune")
    tokenizer = Tokenizer.load(begun)
    chat, log = ChatFormat(tokenizer), MetricsLog(folder)
    model = placed(load_model(begun), policy)
    problems = recipe.specialise.all_problems() if section.problems.empty else section.problems
    scores = _reward_model(context)
    everyday = section.everyday if scores is not None else 0.0
    wishes = [wish_prompt(conversation) for conversation in asked_conversations(recipe)]
    pool = ProblemPool(problems, policy.iterations * policy.prompts, recipe.seed, held_out=problem_files_of(recipe))
    with ExitStack() as held:
        rules = held.enter_context(RuleJudge(recipe.rewards))
        rubric = held.enter_context(RubricJudge(section.judge)) if section.judge is not None else None
        judge = noting_sandbox(MixedJudge(section, rules, scores, rubric), rules, folder)
        training = GroupPolicyTraining(
            model=model,
            reference=placed(load_model(begun), policy) if policy.anchored else None,
            chat=chat,
            prompts=asked(pool, policy.prompts, everyday, wishes, recipe.seed),
            judge=judge,
            section=policy,
            seed=recipe.seed,
            folder=folder,
            log=log,
            note="GRPO",
        )
        if policy.validations:
            unseen = ProblemPool(
                problems, policy.validation_problems, recipe.seed, "validation", problem_files_of(recipe)
            )
            held_out = [Prompt.of(problem) for problem in unseen.first_in_all(policy.validation_problems)]
            training.validate = validation(model, chat, held_out, judge, policy, log)
        counters = training.run(context.progress)
        sandbox = sandbox_of(rules, folder)
    log.close()
    save_chat_model(model, tokenizer, folder / "model")
    records = log.read("metrics")
    return {
        **{name: first_and_last(records, name) for name in ("reward", "right", "answer_tokens")},
        "iterations": counters.iteration,
        "rollouts": counters.rollouts,
        "groups_without_spread": counters.without_spread,
        "unjudged": counters.dropped,
        "unusable_problem_lines": dict(pool.unusable),
        "skipped_updates": counters.skipped,
        "largest_mismatch": round(counters.largest_mismatch, 6),
        "kl": first_and_last(records, "kl"),
        "training_seconds": round(counters.seconds, 1),
        "drawing_seconds": round(counters.drawing_seconds, 1),
        "reward_model": scores is not None,
        "sandbox": sandbox,
    }


def asked(
    pool: ProblemPool, count: int, everyday: float, wishes: Sequence[Prompt], seed: int
) -> Callable[[int], list[Prompt]]:
    """The prompts of an iteration: problems, and a share of everyday wishes.

    A share that is no whole number of wishes is asked in full over the iterations, a wish more in some than in others.
    Wishes take turns by `TURNS`, however many there are of each kind: where one kind of answer is right most of the
    time, a model learns to give it always.
    """
    share = Fraction(str(everyday)) * count
    kinds: dict[str, list[Prompt]] = {}
    for wish in wishes:
        kinds.setdefault(right_kind(wish.category), []).append(wish)
    turns = [kind for kind in TURNS if kind in kinds]

    def prompts(iteration: int) -> list[Prompt]:
        rng = Random(f"{seed}:{iteration}:everyday")
        places = range(floor(iteration * share), floor((iteration + 1) * share))
        chosen = [rng.choice(kinds[turns[place % len(turns)]]) for place in places]
        return pool.prompts(iteration, count - len(places)) + chosen

    return prompts


def _reward_model(context: StageContext) -> Scores | None:
    """The recipe's own reward model, the run's, or none; placed as the policy is."""
    named, policy = context.recipe.reinforce.reward_model, context.recipe.reinforce.policy
    if named is None and "reward" not in context.inputs:
        return None
    folder = resolve_model(named) if named is not None else context.inputs["reward"] / "model"
    model = load_reward_model(folder, choose_device(policy.device))
    placed(model.transformer, policy)
    chat = ChatFormat(Tokenizer.load(folder))
    return lambda conversations: model.scores(chat, conversations)
