"""Group relative policy optimization: draw answers, judge them, learn from what was better than its group.

The mechanism that the experts of `specialise` and the stage `reinforce` call (DeepSeek-V3 report, section 5.2.2). The
training model itself draws; the trainer computes the log-probabilities again and logs how far the two are apart. An
iteration is a function of (seed, iteration) and the weights, so a killed run ends with the same bits. Not covered:
answers longer than memory holds at once, and drawing while training.
"""

import hashlib
import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sapience.corpus.chat import ChatFormat
from sapience.model.batch import Microbatch, prediction_labels
from sapience.model.gate import max_violation
from sapience.model.transformer import Transformer
from sapience.ops.cross_entropy import IGNORE, linear_cross_entropy
from sapience.ops.log_probability import linear_log_probability
from sapience.parallel.executor import PlainLoop, Sums
from sapience.posttraining.policy_batches import PolicyBatch, answer_logprobs, policy_batches, with_tensors
from sapience.posttraining.policy_gradient import advantages, correction, denominator, k3, surrogate
from sapience.posttraining.rollouts import Judge, Prompt, Rollout, draw
from sapience.recipe.policy import PolicySection
from sapience.run import ProgressFactory
from sapience.training.checkpoint import latest_checkpoint, save_checkpoint
from sapience.training.garbage import seldom_searched
from sapience.training.metrics import MetricsLog
from sapience.training.optimizer import OptimizerSet
from sapience.training.skipped import UpdateCounters


@dataclass
class PolicyObjective:
    """-(surrogate - beta k3), weighted and summed over answer tokens, and the prediction modules' own loss beside it."""

    section: PolicySection
    prediction_scale: float = 0.0
    """lambda * denominator / answer tokens, set for every update, so that lambda weighs a mean over tokens."""
    largest_mismatch: float = 0.0
    """The largest |difference| between engine and trainer that was met so far, in nats."""

    def __call__(self, model: Transformer, batch: Microbatch) -> tuple[Tensor, Sums]:
        """See `Objective`. The prediction modules read detached states: they follow the policy, they do not move it."""
        assert isinstance(batch, PolicyBatch)
        context = model.context(batch)
        hidden_BTD, routers = model.body(batch.tokens_BT, context)
        answer_BT = batch.labels_BT != IGNORE
        policy_N = linear_log_probability(hidden_BTD[answer_BT], model.head.weight, batch.labels_BT[answer_BT])
        old_N = policy_N.detach() if batch.old_BT is None else batch.old_BT[answer_BT]
        engine_N, weights_N = batch.engine_BT[answer_BT], batch.weights_BT[answer_BT]
        gain_N = surrogate(policy_N, old_N, batch.advantages_BT[answer_BT], self.section.clip)
        gain_N = gain_N * correction(old_N, engine_N, self.section.mismatch)
        kl_N = torch.zeros_like(policy_N)
        if batch.reference_BT is not None:
            kl_N = k3(policy_N, batch.reference_BT[answer_BT])
        loss = -(weights_N * (gain_N - batch.betas_BT[answer_BT] * kl_N)).sum()
        mismatch_N, counts_N = (old_N - engine_N).abs(), batch.counts_BT[answer_BT].to(loss.dtype)
        self.largest_mismatch = max(self.largest_mismatch, float(mismatch_N.max()))
        values = {
            "loss": loss.detach(),
            "kl": (weights_N * kl_N).sum().detach(),
            "mismatch_mean": (counts_N * mismatch_N).sum(),
            "corrected": counts_N[mismatch_N > self.section.mismatch].sum(),
            "clipped": counts_N[((policy_N.detach() - old_N).exp() - 1).abs() > self.section.clip].sum(),
        }
        prediction = loss.new_zeros(())
        if self.prediction_scale and model.predictions:
            head = model.head.weight.detach()
            states, _ = model.chain(hidden_BTD.detach(), batch.tokens_BT, context, shared_frozen=True)
            for depth, state in enumerate(states, start=1):
                labels_BT = prediction_labels(batch, depth)
                labelled_BT = labels_BT != IGNORE
                counts_N = batch.counts_BT[:, : labels_BT.shape[1]][labelled_BT]
                losses = linear_cross_entropy(state[labelled_BT], head, labels_BT[labelled_BT], counts_N)
                prediction = prediction + losses / len(states)
        values["mtp_loss"] = prediction.detach()
        loads = torch.stack([r.loads_E for r in routers]) if routers else loss.new_zeros((0, 1))
        return loss + self.prediction_scale * prediction, Sums(values, loads)


@dataclass
class PolicyCounters(UpdateCounters):
    """What a checkpoint keeps beside tensors."""

    iteration: int = 0
    rollouts: int = 0
    without_spread: int = 0
    """Groups from which nothing was learned since all answers were worth the same."""
    dropped: int = 0
    """Answers that nobody could judge."""
    seconds: float = 0.0
    drawing_seconds: float = 0.0
    largest_mismatch: float = 0.0
    drawn: str = ""
    """Hash of all prompts drawn so far."""


@dataclass
class GroupPolicyTraining:
    """A GRPO run, ready to begin or to go on."""

    model: Transformer
    reference: Transformer | None
    """The model that KL is taken from; needed where a beta is above zero."""
    chat: ChatFormat
    prompts: Callable[[int], list[Prompt]]
    """The prompts of an iteration, a pure function of it."""
    judge: Judge
    section: PolicySection
    seed: int
    folder: Path
    log: MetricsLog
    note: str
    validate: Callable[[int], None] | None = None
    """Called after the iterations at which held-out problems are to be answered, with their number."""
    counters: PolicyCounters = field(default_factory=PolicyCounters)

    def run(self, progress: ProgressFactory) -> PolicyCounters:
        """All iterations, from the last checkpoint if there is one. Raises UserError where gradients stay not finite."""
        section = self.section
        optimizer = OptimizerSet(self.model, section.optimizer)
        objective = PolicyObjective(section)
        executor = PlainLoop(self.model, objective)
        self._resume(optimizer)
        marks = {round(section.iterations * (i + 1) / section.validations) for i in range(section.validations)}
        with progress(self.note, section.iterations) as bar, seldom_searched():
            bar.advance(self.counters.iteration)
            if self.counters.iteration == 0 and self.validate is not None and section.validations:
                self.validate(0)
            while self.counters.iteration < section.iterations:
                figures = self._iterate(optimizer, objective, executor)
                done = self.counters.iteration
                if self.validate is not None and done in marks:
                    self.validate(done)
                if done % section.checkpoint_every == 0 or done == section.iterations:
                    self._save(optimizer)
                bar.advance(1, **figures)
        return self.counters

    def _iterate(self, optimizer: OptimizerSet, objective: PolicyObjective, executor: PlainLoop) -> dict[str, float]:
        began = time.perf_counter()
        section, counters = self.section, self.counters
        number = counters.iteration
        prompts = self.prompts(number)
        groups = draw(
            self.model,
            self.chat,
            prompts,
            section.samples,
            self.judge,
            answer_tokens=section.answer_tokens,
            temperature=section.temperature,
            seed=self.seed * 1_000_003 + number,
        )
        drawn = time.perf_counter()
        learned = [judge_group(group, section.normalize) for group in groups]
        useful = [group for group, has_spread in zip(groups, learned, strict=True) if has_spread]
        rate = rate_at(section, (number + 0.5) / section.iterations)
        parts = [useful[i :: section.updates] for i in range(section.updates)]
        # What the policy thinks before the first update has to be known before the first update.
        updates = [self._prepared(part) for part in parts if part]
        figures = [self._update(*update, optimizer, objective, executor, rate) for update in updates]
        counters.iteration += 1
        counters.rollouts += sum(map(len, groups))
        counters.without_spread += len(groups) - len(useful)
        counters.dropped += sum(r.reward.value is None for group in groups for r in group)
        counters.largest_mismatch = max(counters.largest_mismatch, objective.largest_mismatch)
        counters.drawn = _chained(counters.drawn, prompts)
        counters.drawing_seconds += drawn - began
        counters.seconds += time.perf_counter() - began
        for group in groups:
            for rollout in group:
                self.log.write("rollouts", {"step": counters.iteration, "phase": self.note, **rollout.record()})
        record = self._record(groups, useful, figures, rate)
        self.log.write("metrics", record)
        return {"reward": record["reward"], "tokens": record["answer_tokens"]}

    def _prepared(self, groups: Sequence[Sequence[Rollout]]) -> tuple[list[PolicyBatch], list[int]]:
        """Micro-batches of an update and the lengths of its answers."""
        section = self.section
        rollouts = [r for group in groups for r in group if r.advantage is not None]
        depths = self.model.config.num_nextn_predict_layers
        batches = policy_batches(rollouts, section, self.chat.tokenizer.pad_id, depths)
        if (reference := self.reference) is not None:
            batches = [
                with_tensors(b, reference_BT=answer_logprobs(reference, b)) if b.betas_BT.any() else b for b in batches
            ]
        if section.updates > 1:
            batches = [with_tensors(b, old_BT=answer_logprobs(self.model, b)) for b in batches]
        return batches, [len(r.completion.tokens) for r in rollouts]

    def _update(
        self,
        batches: Sequence[PolicyBatch],
        lengths: Sequence[int],
        optimizer: OptimizerSet,
        objective: PolicyObjective,
        executor: PlainLoop,
        rate: float,
    ) -> dict[str, float]:
        """One optimizer step; figures as means."""
        section = self.section
        total = denominator(lengths, section.aggregate)
        objective.prediction_scale = section.prediction_weight * total / sum(lengths)
        sums = executor.forward_backward(batches, total)
        norm = float(optimizer.step(rate))
        self.counters.count_update(
            norm, "GRPO updates", f"iteration {self.counters.iteration}", "lower the policy's peak learning rate"
        )
        values = {name: float(value) for name, value in sums.values.items()}
        per_token = {"mismatch_mean", "mtp_loss", "corrected", "clipped"}
        anchored = sum(float(b.weights_BT[b.betas_BT > 0].sum()) for b in batches)
        shares = dict.fromkeys(per_token, float(sum(lengths))) | {"kl": anchored or 1.0}
        means = {name: value / shares.get(name, total) for name, value in values.items()}
        violations = [max_violation(loads) for loads in sums.loads_LE]
        return means | {"gradient_norm": norm, "max_violation": max(violations, default=0.0)}

    def _record(
        self,
        groups: Sequence[Sequence[Rollout]],
        useful: Sequence[Sequence[Rollout]],
        figures: Sequence[dict[str, float]],
        rate: float,
    ) -> dict[str, Any]:
        rollouts = [r for group in groups for r in group]
        judged = [r for r in rollouts if r.reward.value is not None]
        ruled = [r for r in judged if r.prompt.problem is not None]
        means = {name: _mean([f[name] for f in figures]) for name in (figures[0] if figures else {})}
        return {
            "step": self.counters.iteration,
            "phase": self.note,
            "seconds": round(self.counters.seconds, 3),
            "reward": _mean([r.reward.value or 0.0 for r in judged]),
            "right": _mean([float(r.reward.right) for r in ruled]),
            "answer_tokens": _mean([float(len(r.completion.tokens)) for r in rollouts]),
            "finished": _mean([float(r.completion.finished) for r in rollouts]),
            "groups_with_spread": len(useful) / len(groups),
            "learning_rate": rate,
            **{name: value if math.isfinite(value) else None for name, value in means.items()},
        }

    def _save(self, optimizer: OptimizerSet) -> None:
        save_checkpoint(
            self.folder / "checkpoints",
            self.counters.iteration,
            self.model.state_dict(),
            optimizer.tensors(),
            asdict(self.counters),
            self.section.keep_checkpoints,
        )

    def _resume(self, optimizer: OptimizerSet) -> None:
        checkpoint = latest_checkpoint(self.folder / "checkpoints")
        if checkpoint is None:
            self.log.rewind(-1)
            return
        self.model.load_state_dict(checkpoint.weights)
        optimizer.load(checkpoint.optimizer)
        self.counters = PolicyCounters(**checkpoint.state)
        self.log.rewind(self.counters.iteration)


def judge_group(group: Sequence[Rollout], normalize: bool) -> bool:
    """Set the advantages of a prompt's answers; False where there is nothing to learn. The unjudged are left out."""
    judged = [r for r in group if r.reward.value is not None]
    if len(judged) < 2:
        return False
    values = advantages([float(r.reward.value or 0.0) for r in judged], normalize)
    if values is None:
        return False
    for rollout, value in zip(judged, values, strict=True):
        rollout.advantage = value
    return True


def rate_at(section: PolicySection, share: float) -> float:
    """Learning rate at `share` of the iterations: linear warm-up, constant, cosine to a tenth over the last `decay`."""
    if share < section.warmup:
        return section.peak * share / section.warmup
    start = 1 - section.decay
    if share <= start or section.decay == 0:
        return section.peak
    return section.peak * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * (share - start) / section.decay)))


def first_and_last(records: Sequence[dict[str, Any]], name: str) -> list[float]:
    """A figure's means over the first and over the last tenth of the iterations; empty where it was never logged."""
    values = [float(record[name]) for record in records if record.get(name) is not None]
    tenth = max(1, len(values) // 10)
    return [round(sum(part) / len(part), 4) for part in (values[:tenth], values[-tenth:])] if values else []


def _mean(values: Sequence[float]) -> float:
    return round(sum(values) / len(values), 6) if values else 0.0


def _chained(previous: str, prompts: Sequence[Prompt]) -> str:
    content = json.dumps([[(m.role, m.content) for m in p.messages] for p in prompts], ensure_ascii=False)
    return hashlib.sha256((previous + content).encode("utf-8", "replace")).hexdigest()[:32]
