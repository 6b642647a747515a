"""The stage `specialise`: one expert per domain, by SFT and a short GRPO (DeepSeek-V3 report, section 5.1).

    specialise/demonstrations-DOMAIN.jsonl   what it was shown
    specialise/DOMAIN/supervised/            SFT: metrics, checkpoints, model
    specialise/DOMAIN/                       GRPO: metrics, every rollout, validations, checkpoints, model

GRPO asks behind the system prompt, so what improves most is reasoning; distillation draws both kinds of answers.
"""

import json
from pathlib import Path
from typing import Any

from sapience.corpus.chat import ChatFormat
from sapience.corpus.tokenizer import Tokenizer
from sapience.model.huggingface import load_model
from sapience.posttraining.chat_model import beginning, is_model, save_chat_model
from sapience.posttraining.demonstrations import expert_demonstrations, practised
from sapience.posttraining.grpo import GroupPolicyTraining, first_and_last
from sapience.posttraining.problem_pool import ProblemPool
from sapience.posttraining.rollouts import Prompt
from sapience.posttraining.rule_rewards import noting_sandbox, right_or_wrong, sandbox_of, validation
from sapience.posttraining.samples import write_samples
from sapience.posttraining.sft import fine_tune
from sapience.recipe.problem_sets import problem_files_of
from sapience.recipe.specialise import ExpertSection
from sapience.rewards.rules import RuleJudge
from sapience.run import StageContext, write_atomically
from sapience.training.device import placed
from sapience.training.metrics import MetricsLog

FIGURES = "figures.json"


def run(context: StageContext) -> dict[str, Any]:
    """Raise every expert in turn; a finished one is not raised again after a kill."""
    section = context.recipe.specialise
    base = beginning(context, section.model, "extend", "pretrain")
    experts: dict[str, Any] = {}
    with RuleJudge(context.recipe.rewards) as rules:
        for name, expert in section.experts.items():
            done = context.folder / name / FIGURES
            if not done.is_file():
                _supervise(context, name, expert, base)
                figures = _reinforce(context, name, expert, rules)
                write_atomically(done, json.dumps(figures, indent=1))
            experts[name] = json.loads(done.read_text(encoding="utf-8"))
        sandbox = sandbox_of(rules, context.folder)
    right = {name: figures["held_out"] or figures["right"] for name, figures in experts.items()}
    return {"right": right, "experts": experts, "sandbox": sandbox}


def _supervise(context: StageContext, name: str, expert: ExpertSection, base: Path) -> None:
    """Teach the base model the domain's demonstrations; writes `DOMAIN/supervised/model`."""
    section, seed = context.recipe.specialise, context.recipe.seed
    folder = context.folder / name / "supervised"
    if is_model(folder / "model"):
        return
    folder.mkdir(parents=True, exist_ok=True)
    pool = ProblemPool(expert.problems, section.demonstrations, seed, held_out=problem_files_of(context.recipe))
    problems = [problem for problem in pool.first(section.demonstrations) if problem.answer]
    samples = expert_demonstrations(problems, section.worked, section.system_prompt, seed)
    write_samples(context.folder / f"demonstrations-{name}.jsonl", samples)
    tokenizer = Tokenizer.load(base)
    model = placed(load_model(base), section.supervised)
    shown = practised(samples, section.reasoned)
    fine_tune(model, tokenizer, shown, section.supervised, seed, folder, context.progress, f"{name} expert: SFT")
    save_chat_model(model, tokenizer, folder / "model")


def _reinforce(context: StageContext, name: str, expert: ExpertSection, rules: RuleJudge) -> dict[str, Any]:
    """Let the expert learn from its own answers; writes `DOMAIN/model` and returns its figures."""
    section, seed = context.recipe.specialise, context.recipe.seed
    policy, folder = section.policy, context.folder / name
    begun = folder / "supervised" / "model"
    tokenizer = Tokenizer.load(begun)
    model = placed(load_model(begun), policy)
    chat, log = ChatFormat(tokenizer), MetricsLog(folder)
    judge = noting_sandbox(right_or_wrong(rules), rules, context.folder)
    held_out_files = problem_files_of(context.recipe)
    pool = ProblemPool(expert.problems, policy.iterations * policy.prompts, seed, held_out=held_out_files)
    training = GroupPolicyTraining(
        model=model,
        reference=placed(load_model(begun), policy) if policy.anchored else None,
        chat=chat,
        prompts=lambda iteration: pool.prompts(iteration, policy.prompts, section.system_prompt),
        judge=judge,
        section=policy,
        seed=seed,
        folder=folder,
        log=log,
        note=f"{name} expert: GRPO",
    )
    if policy.validations:
        unseen = ProblemPool(expert.problems, policy.validation_problems, seed, "validation", held_out_files)
        asked = [Prompt.of(p, section.system_prompt) for p in unseen.first_in_all(policy.validation_problems)]
        training.validate = validation(model, chat, asked, judge, policy, log)
    counters = training.run(context.progress)
    log.close()
    save_chat_model(model, tokenizer, folder / "model")
    records = log.read("metrics")
    held_out = [record["right"] for record in log.read("validations")]
    return {
        "right": first_and_last(records, "right"),
        "held_out": [held_out[0], held_out[-1]] if held_out else [],
        "answer_tokens": first_and_last(records, "answer_tokens"),
        "rollouts": counters.rollouts,
        "largest_mismatch": round(counters.largest_mismatch, 6),
        "unjudged": counters.dropped,
        "unusable_problem_lines": dict(pool.unusable),
        "seconds": round(counters.seconds, 1),
    }
