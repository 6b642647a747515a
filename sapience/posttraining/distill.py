"""The stage `distill`: reasoning samples of two kinds from the experts, and everyday answers (DeepSeek-V3 report, 5.1).

    draws-DOMAIN-0000.jsonl   every answer drawn, with its verdict, a shard of problems a file
    original.jsonl            <problem, original response>: the problem set's own answer, else the expert's shortest right
                              one without a system prompt
    reasoned.jsonl            <system prompt, problem, expert's response>: the shortest right one behind the system prompt
    everyday.jsonl            conversations that come with sapience
    drafts.jsonl              answers of a general model, which wait for people

A shard is written whole or not at all, so a killed stage loses one shard's draws at most.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from sapience.corpus.chat import ChatFormat, Message
from sapience.corpus.tokenizer import Tokenizer
from sapience.model.huggingface import load_model
from sapience.posttraining.distillation import Drawn, distilled, draw_shard, mean, read_draws, write_draws
from sapience.posttraining.drafting import draft_everyday
from sapience.posttraining.problem_pool import ProblemPool
from sapience.posttraining.rule_rewards import right_or_wrong, sandbox_of
from sapience.posttraining.samples import Sample, read_samples, write_samples
from sapience.posttraining.wishes import learned_conversations
from sapience.problems.everyday import EverydayConversation, everyday_conversations
from sapience.problems.problem import Problem
from sapience.recipe.errors import UserError
from sapience.recipe.problem_sets import problem_files_of
from sapience.rewards.rules import RuleJudge
from sapience.run import StageContext, resolve_model
from sapience.training.device import choose_device

WRITTEN = "written by the project"
FORMED = "formed by the project from phrasings and topics"


def run(context: StageContext) -> dict[str, Any]:
    """Ask every expert, keep what is right, add everyday answers."""
    section, folder, known = context.recipe.distill, context.folder, context.recipe.specialise.experts
    drawn: list[Drawn] = []
    given: dict[str, str] = {}
    unusable: Counter[str] = Counter()
    with RuleJudge(context.recipe.rewards) as rules:
        for domain, model in experts(context).items():
            files = problem_files_of(context.recipe)
            pool = ProblemPool(known[domain].problems, section.problems, context.recipe.seed, held_out=files)
            unusable |= pool.unusable
            drawn += _asked(context, domain, model, pool.first(section.problems), rules)
            given |= _given_answers(context, domain)
        sandbox = sandbox_of(rules, folder)
    kept = distilled(drawn, given, context.recipe.specialise.system_prompt)
    for kind in ("original", "reasoned"):
        write_samples(folder / f"{kind}.jsonl", kept[kind])
    everyday = conversation_samples(everyday_conversations() if section.written else (), WRITTEN)
    everyday += conversation_samples(learned_conversations(context.recipe), FORMED)
    write_samples(folder / "everyday.jsonl", everyday)
    figures: dict[str, Any] = {
        "accepted": {**{kind: len(samples) for kind, samples in kept.items()}, "everyday": len(everyday)}
    }
    if section.generator is not None:
        drafted = draft_everyday(section.generator, context.recipe.seed, folder, context.progress)
        left_out = dict(drafted.left_out)
        figures |= {"drafted": len(drafted.samples), "drafts_failed": drafted.failed, "drafts_left_out": left_out}
    # An answer to a problem that the expert was shown tells nothing of how well it reasons.
    telling = [d for d in drawn if d.question not in given] or drawn
    kinds = {kind: [d for d in telling if d.kind == kind] for kind in kept}
    return figures | {
        "drawn": len(drawn),
        "drawn_to_unseen": sum(d.question not in given for d in drawn),
        "right_share": {kind: mean([float(d.right) for d in found]) for kind, found in kinds.items() if found},
        "length": {kind: mean([float(d.tokens) for d in found if d.right]) for kind, found in kinds.items() if found},
        "unjudged": sum(d.verdict == "infra_error" for d in drawn),
        "unusable_problem_lines": dict(unusable),
        "sandbox": sandbox,
    }


def experts(context: StageContext) -> dict[str, Path]:
    """Domain -> model. Raises UserError for a domain whose problems the recipe does not name."""
    section, known = context.recipe.distill, context.recipe.specialise.experts
    if section.experts:
        unknown = sorted(set(section.experts) - set(known))
        if unknown:
            raise UserError(
                f"distill.experts names {', '.join(unknown)}, of whose problems the recipe says nothing: add "
                f"specialise.experts.{unknown[0]}.problems"
            )
        return {domain: resolve_model(text) for domain, text in section.experts.items()}
    if "specialise" not in context.inputs or section.problems == 0:
        return {}
    return {domain: context.inputs["specialise"] / domain / "model" for domain in known}


def conversation_samples(conversations: Iterable[EverydayConversation], source: str) -> list[Sample]:
    """Everyday conversations as samples."""
    return [
        Sample(
            tuple(Message(role, content) for role, content in said.turns),  # type: ignore[arg-type]
            "everyday", source, "general", said.category, said.language,
        )
        for said in conversations
    ]  # fmt: skip


def _asked(
    context: StageContext, domain: str, model_folder: Path, problems: Sequence[Problem], rules: RuleJudge
) -> list[Drawn]:
    """All answers of one expert, shard by shard."""
    section, recipe = context.recipe.distill, context.recipe
    shards = [problems[i : i + section.shard_problems] for i in range(0, len(problems), section.shard_problems)]
    paths = [context.folder / f"draws-{domain}-{number:04d}.jsonl" for number in range(len(shards))]
    if not all(path.is_file() for path in paths):
        chat = ChatFormat(Tokenizer.load(model_folder))
        model = load_model(model_folder).to(choose_device(section.device))
        judge = right_or_wrong(rules)
        with context.progress(f"{domain} expert answers", len(problems)) as bar:
            for number, (path, shard) in enumerate(zip(paths, shards, strict=True)):
                if not path.is_file():
                    seed = recipe.seed * 1_000_003 + number
                    system = recipe.specialise.system_prompt
                    drawn = draw_shard(model, chat, shard, domain, system, judge, section, seed)
                    sandbox_of(rules, context.folder)
                    write_draws(path, drawn)
                bar.advance(len(shard))
    return [answer for path in paths for answer in read_draws(path)]


def _given_answers(context: StageContext, domain: str) -> dict[str, str]:
    """Question -> the problem set's own answer, where the run's expert was shown one."""
    if "specialise" not in context.inputs:
        return {}
    path = context.inputs["specialise"] / f"demonstrations-{domain}.jsonl"
    return {s.messages[0].content: s.answer for s in read_samples(path) if s.messages[0].role == "user"}
