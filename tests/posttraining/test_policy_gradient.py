"""GRPO's mathematics against literal loops in float64, and the loss of a batch against the sum it is meant to be."""

import math
from dataclasses import replace
from typing import Literal

import pytest
import torch
from tiny_models import tiny_config, tiny_model

from sapience.inference.generate import Completion, generate
from sapience.model.batch import FAMILY
from sapience.model.linear import Precision
from sapience.ops.cross_entropy import IGNORE
from sapience.ops.log_probability import linear_log_probability, reference
from sapience.parallel.executor import PlainLoop
from sapience.posttraining import policy_batches as batching
from sapience.posttraining.grpo import PolicyObjective, judge_group
from sapience.posttraining.policy_batches import PolicyBatch, answer_logprobs, policy_batches, with_tensors
from sapience.posttraining.policy_gradient import advantages, correction, denominator, k3, surrogate
from sapience.posttraining.rollouts import Prompt, Reward, Rollout
from sapience.problems.problem import Problem
from sapience.recipe.policy import PolicySection
from sapience.training.device import placed


def test_advantages_are_equation_28() -> None:
    rewards = [1.0, 0.0, 0.25, 1.0, 0.0]
    mean = sum(rewards) / 5
    deviation = math.sqrt(sum((r - mean) ** 2 for r in rewards) / 5)
    assert advantages(rewards) == pytest.approx([(r - mean) / deviation for r in rewards])
    assert advantages(rewards, normalize=False) == pytest.approx([r - mean for r in rewards])
    assert advantages([0.3] * 4) is None


def test_k3_is_equation_27_and_never_negative() -> None:
    generator = torch.Generator().manual_seed(0)
    policy, other = torch.randn(2, 200, generator=generator, dtype=torch.float64)
    expected = [math.exp(o - p) - (o - p) - 1 for p, o in zip(policy.tolist(), other.tolist(), strict=True)]
    assert k3(policy, other).tolist() == pytest.approx(expected)
    assert (k3(policy, other) >= 0).all() and k3(policy, policy).abs().max() == 0


def test_the_surrogate_is_clipped_on_the_side_that_would_gain() -> None:
    ratio = torch.tensor([0.5, 0.9, 1.1, 2.0], dtype=torch.float64)
    for sign in (1.0, -1.0):
        found = surrogate(ratio.log(), torch.zeros(4), torch.full((4,), sign), 0.2).tolist()
        assert found == pytest.approx([min(r * sign, min(max(r, 0.8), 1.2) * sign) for r in ratio.tolist()])


def test_correction_is_one_within_the_bound_and_truncated_beyond() -> None:
    trainer, engine = torch.tensor([-1.0, -1.0, -1.0, -3.0]), torch.tensor([-1.01, -1.5, -9.0, -1.0])
    assert correction(trainer, engine, 0.05).tolist() == pytest.approx([1.0, math.exp(0.5), 2.0, math.exp(-2.0)])


def test_log_probabilities_equal_the_reference_in_value_and_gradient() -> None:
    generator = torch.Generator().manual_seed(1)
    hidden = torch.randn(37, 16, generator=generator, dtype=torch.float64, requires_grad=True)
    head = torch.randn(91, 16, generator=generator, dtype=torch.float64, requires_grad=True)
    labels = torch.randint(91, (37,), generator=generator)
    slope = torch.randn(37, generator=generator, dtype=torch.float64)
    results = []
    for function in (linear_log_probability, reference):
        value = function(hidden, head, labels)
        results.append((value.detach(), *torch.autograd.grad((value * slope).sum(), (hidden, head))))
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


def test_log_probabilities_of_bfloat16_states_are_not_rounded() -> None:
    """In value as exact as float32; the head's gradient stays float32, that of the states is in their type."""
    generator = torch.Generator().manual_seed(2)
    hidden = torch.randn(37, 16, generator=generator).bfloat16().requires_grad_()
    head = (8 * torch.randn(91, 16, generator=generator)).requires_grad_()
    labels = torch.randint(91, (37,), generator=generator)
    wide_hidden, wide_head = (t.detach().bfloat16().double().requires_grad_() for t in (hidden, head))
    found, exact = linear_log_probability(hidden, head, labels), reference(wide_hidden, wide_head, labels)
    torch.testing.assert_close(found.double(), exact, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(reference(hidden, head, labels), found, rtol=1e-5, atol=1e-5)
    ours = torch.autograd.grad(found.sum(), (hidden, head))
    theirs = torch.autograd.grad(exact.sum(), (wide_hidden, wide_head))
    assert [gradient.dtype for gradient in ours] == [torch.bfloat16, torch.float32]
    assert all((one - other).norm() < 0.01 * other.norm() for one, other in zip(ours, theirs, strict=True))


def rollouts_of(seed: int, groups: int = 3, size: int = 4) -> list[Rollout]:
    """Answers of different lengths without an end token, with random rewards and log-probabilities."""
    generator = torch.Generator().manual_seed(seed)

    def draw(low: int, high: int) -> int:
        return int(torch.randint(low, high, (1,), generator=generator))

    found: list[Rollout] = []
    for _ in range(groups):
        prompt = [draw(3, 60) for _ in range(draw(2, 9))]
        group = []
        for _ in range(size):
            tokens = [draw(3, 60) for _ in range(draw(1, 12))]
            logprobs = (-5 * torch.rand(len(tokens), generator=generator)).tolist()
            reward = Reward(float(draw(0, 5)), {})
            group.append(Rollout(Prompt((), "x"), prompt, Completion(tokens, logprobs, False), "", reward))
        judge_group(group, normalize=True)
        found += group
    return [rollout for rollout in found if rollout.advantage is not None]


@pytest.mark.parametrize("aggregate", ["sequence", "token"])
def test_loss_and_gradient_equal_a_literal_loop_in_float64(aggregate: Literal["sequence", "token"]) -> None:
    config = tiny_config()
    model, other = tiny_model(config, 0, torch.float64), tiny_model(config, 1, torch.float64)
    rollouts = rollouts_of(3)
    section = PolicySection(aggregate=aggregate, beta=0.3, mismatch=1e9, micro_tokens=50, clip=0.2)
    total = denominator([len(r.completion.tokens) for r in rollouts], aggregate)

    parameters = dict(model.named_parameters())
    expected_loss = torch.zeros((), dtype=torch.float64)
    for rollout in rollouts:
        row = torch.tensor([[*rollout.prompt_tokens, *rollout.completion.tokens]])
        logs = [m.logits(m.hidden(row)).log_softmax(-1)[0] for m in (model, other)]
        start, length = len(rollout.prompt_tokens), len(rollout.completion.tokens)
        for place in range(start, start + length):
            policy, fixed = (log[place - 1, row[0, place]] for log in logs)
            ratio = (policy - policy.detach()).exp()
            gain = torch.minimum(ratio * rollout.advantage, ratio.clamp(0.8, 1.2) * rollout.advantage)
            kl = (fixed.detach() - policy).exp() - (fixed.detach() - policy) - 1
            expected_loss = expected_loss - (gain - 0.3 * kl) * (1 / length if aggregate == "sequence" else 1) / total
    expected = torch.autograd.grad(expected_loss, list(parameters.values()), allow_unused=True)

    for micro_tokens in (50, 10_000):
        cut = section.model_copy(update={"micro_tokens": micro_tokens})
        batches = policy_batches(rollouts, cut, 2)
        batches = [type(b)(**{**vars(b), "reference_BT": answer_logprobs(other, b)}) for b in batches]
        sums = PlainLoop(model, PolicyObjective(cut)).forward_backward(batches, total)
        assert float(sums.values["loss"]) / total == pytest.approx(float(expected_loss.detach()), rel=1e-6)
        for (name, parameter), wanted in zip(parameters.items(), expected, strict=True):
            if wanted is not None:
                torch.testing.assert_close(parameter.grad, wanted, rtol=1e-5, atol=1e-7, msg=name)
            parameter.grad = None


def test_the_prediction_modules_follow_and_do_not_move_the_policy() -> None:
    model = tiny_model(tiny_config(), 0, torch.float64)
    rollouts = rollouts_of(5)
    section = PolicySection(beta=0.0)
    gradients = []
    for scale in (0.0, 0.7):
        PlainLoop(model, PolicyObjective(section, scale)).forward_backward(policy_batches(rollouts, section, 2), 5.0)
        gradients.append({n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None})
        model.zero_grad(set_to_none=True)
    for name, value in gradients[0].items():
        if "predictions" not in name:
            torch.testing.assert_close(gradients[1][name], value)
    assert any("predictions" in name and value.abs().max() > 0 for name, value in gradients[1].items())


@pytest.mark.parametrize("longest", [12, 30, 512])
def test_a_prompt_that_answers_share_changes_no_loss_and_no_gradient(
    longest: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_model(tiny_config(num_nextn_predict_layers=2), 0, torch.float64)
    rollouts = rollouts_of(7, groups=4, size=6)
    section = PolicySection(beta=0.0, aggregate="token", mismatch=1e9)
    found = []
    for limit in (0, longest):
        monkeypatch.setattr(batching, "SHARED_ROW", limit)
        batches = policy_batches(rollouts, section, 2, depths=2)
        lengths = [int((b.labels_BT != IGNORE).sum()) for b in batches]
        assert sum(lengths) == sum(len(r.completion.tokens) for r in rollouts)
        sums = PlainLoop(model, PolicyObjective(section, 0.3)).forward_backward(batches, 1.0)
        gradients = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
        tokens = sum(int(b.valid_BT.sum()) for b in batches)
        found.append((sums.values, gradients, tokens))
        model.zero_grad(set_to_none=True)
    alone, shared = found
    for name in ("loss", "mtp_loss", "mismatch_mean"):
        assert float(shared[0][name]) == pytest.approx(float(alone[0][name]), rel=1e-9)
    for name, gradient in alone[1].items():
        torch.testing.assert_close(shared[1][name], gradient, rtol=1e-8, atol=1e-10, msg=name)
    assert shared[2] < alone[2] if longest > 12 else shared[2] <= alone[2]


@pytest.mark.parametrize("aggregate", ["sequence", "token"])
def test_an_answer_drawn_several_times_is_read_once_and_counts_as_often(
    aggregate: Literal["sequence", "token"],
) -> None:
    model, other = tiny_model(tiny_config(num_nextn_predict_layers=2), 0, torch.float64), tiny_model(tiny_config(), 1)
    section = PolicySection(beta=0.3, aggregate=aggregate, mismatch=3.0)
    rollouts = rollouts_of(7, groups=3, size=4)
    again = [rollouts[0], rollouts[5], rollouts[5]]
    found = []
    for parts in ([[*rollouts, *again]], [rollouts, *([r] for r in again)]):
        batches = [batch for part in parts for batch in policy_batches(part, section, 2, depths=2)]
        batches = [with_tensors(b, reference_BT=answer_logprobs(other.double(), b)) for b in batches]
        sums = PlainLoop(model, PolicyObjective(section, 0.3)).forward_backward(batches, 1.0)
        gradients = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
        found.append((sums.values, gradients, sum(int((b.labels_BT != IGNORE).sum()) for b in batches)))
        model.zero_grad(set_to_none=True)
    merged, apart = found
    repeated = sum(len(r.completion.tokens) for r in again)
    assert apart[2] - merged[2] == repeated
    for name, value in apart[0].items():
        assert float(merged[0][name]) == pytest.approx(float(value), rel=1e-6), name
    for name, gradient in apart[1].items():
        torch.testing.assert_close(merged[1][name], gradient, rtol=1e-6, atol=1e-8, msg=name)


def test_answers_of_another_worth_or_likelihood_stay_apart() -> None:
    """Judges may differ from time to time, and nothing is lost then."""
    [first, *_] = rollouts_of(7, groups=1)
    less = replace(first, advantage=-1.0)
    likelier = replace(first, completion=replace(first.completion, logprobs=[0.0] * len(first.completion.tokens)))
    [batch] = policy_batches([first, less, likelier, first], PolicySection(), 2)
    assert sorted(set(batch.counts_BT[batch.labels_BT != IGNORE].tolist())) == [1.0, 2.0]
    assert int((batch.labels_BT != IGNORE).sum()) == 3 * len(first.completion.tokens)


def test_kl_weighs_more_where_no_rule_judges() -> None:
    config = tiny_config()
    model, other = tiny_model(config, 0, torch.float64), tiny_model(config, 1, torch.float64)
    ruled, open_ended = rollouts_of(3, groups=1), rollouts_of(4, groups=1)
    problem = Problem("maxn", "math", "3 or 4?", "4", "4")
    for rollout in ruled:
        rollout.prompt = Prompt((), "maxn", problem)
    losses = {}
    for beta, open_beta in ((0.0, 0.0), (0.2, None), (0.2, 0.0), (0.0, 0.2), (0.1, 0.3)):
        section = PolicySection(beta=beta, open_beta=open_beta, mismatch=1e9, aggregate="token")
        batches = policy_batches([*ruled, *open_ended], section, 2)
        batches = [PolicyBatch(**{**vars(b), "reference_BT": answer_logprobs(other, b)}) for b in batches]
        sums = PlainLoop(model, PolicyObjective(section)).forward_backward(batches, 1.0)
        losses[beta, open_beta] = float(sums.values["loss"])
        assert section.anchored == (beta > 0 or bool(open_beta))
    plain = losses[0.0, 0.0]
    of_rules, of_open = losses[0.2, 0.0] - plain, losses[0.0, 0.2] - plain
    assert of_rules > 0 and of_open > 0
    assert losses[0.2, None] - plain == pytest.approx(of_rules + of_open, rel=1e-5)
    assert losses[0.1, 0.3] - plain == pytest.approx(0.5 * of_rules + 1.5 * of_open, rel=1e-5)


def test_answers_without_kl_have_batches_of_their_own() -> None:
    """Also where a wish reads as a problem does: nobody else's batch needs the reference."""
    ruled, open_ended = rollouts_of(3, groups=2), rollouts_of(3, groups=2)
    for rollout in ruled:
        rollout.prompt = Prompt((), "maxn", Problem("maxn", "math", "3 or 4?", "4", "4"))
    section = PolicySection(beta=0.0, open_beta=0.2, micro_tokens=10_000)
    batches = policy_batches([*open_ended, *ruled], section, 2)
    assert [sorted(set(b.betas_BT[b.labels_BT != IGNORE].tolist())) for b in batches] == [[0.0], [pytest.approx(0.2)]]
    answers = [int((b.labels_BT != IGNORE).sum()) for b in batches]
    assert answers == [sum(len(r.completion.tokens) for r in part) for part in (ruled, open_ended)]
    assert len(policy_batches([*open_ended, *ruled], PolicySection(beta=0.1, micro_tokens=10_000), 2)) == 1


@pytest.mark.parametrize("document", [3, FAMILY, FAMILY + 2])
def test_neighbours_in_a_row_do_not_see_one_another(document: int) -> None:
    """An answer is seen by itself alone, a prompt by the answers to it alone."""
    model = tiny_model(tiny_config(), 0, torch.float64)
    [batch] = policy_batches(rollouts_of(9, groups=3, size=4), PolicySection(), 2)
    assert len(batch.tokens_BT) == 1 and {0, FAMILY, 2 * FAMILY} <= set(batch.documents_BT.flatten().tolist())
    before = answer_logprobs(model, batch)
    changed = batch.tokens_BT.clone()
    moved = batch.documents_BT == document
    changed[moved] = (changed[moved] + 7) % 50 + 3
    after = answer_logprobs(model, PolicyBatch(**{**vars(batch), "tokens_BT": changed}))
    touched = batch.documents_BT // FAMILY == document // FAMILY if document % FAMILY == 0 else moved
    torch.testing.assert_close(after[~touched], before[~touched], rtol=0, atol=1e-12)
    assert (after[touched] != before[touched]).any()


def test_rows_are_filled_with_families_of_other_prompts() -> None:
    rollouts = rollouts_of(11, groups=160, size=4)
    batches = policy_batches(rollouts, PolicySection(micro_tokens=1024), 2)
    held, places = sum(int(b.valid_BT.sum()) for b in batches), sum(b.valid_BT.numel() for b in batches)
    assert held > 0.9 * places, (held, places)
    assert all(b.tokens_BT.numel() <= 1024 and b.tokens_BT.shape[1] <= batching.SHARED_ROW for b in batches)
    assert sum(int((b.labels_BT != IGNORE).sum()) for b in batches) == sum(len(r.completion.tokens) for r in rollouts)


EVERY_EXPERT = tiny_config(n_group=1, topk_group=1, n_routed_experts=4, num_experts_per_tok=4)
"""Every token goes to every expert, so that rounding cannot change where."""


def step(precision: Precision, away: float) -> tuple[dict[str, float], dict[str, torch.Tensor]]:
    """Figures and gradients of a step; the reference's weights are `away` times larger than the policy's."""
    section = PolicySection(device="cpu", precision=precision, beta=0.3, mismatch=1e9)
    model, other = (placed(tiny_model(EVERY_EXPERT), section) for _ in range(2))
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(1 + away)
    rollouts = rollouts_of(3, groups=6, size=6)
    batches = [with_tensors(b, reference_BT=answer_logprobs(other, b)) for b in policy_batches(rollouts, section, 2)]
    sums = PlainLoop(model, PolicyObjective(section, 0.3)).forward_backward(batches, float(len(rollouts)))
    assert all(value.dtype == torch.float32 for value in sums.values.values())
    assert all(p.dtype == torch.float32 for p in model.parameters())
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return {name: float(value) / len(rollouts) for name, value in sums.values.items()}, gradients


def test_a_step_in_bfloat16_is_near_float32_with_wide_gradients() -> None:
    """1 - 2<x,y>/(x²+y²) of all gradients together."""
    (exact, wide), (values, narrow) = step("fp32", 0.05), step("bf16", 0.05)
    assert exact["kl"] > 0.01
    for name in ("loss", "kl", "mtp_loss"):
        assert values[name] == pytest.approx(exact[name], rel=0.01) and values[name] != exact[name]
    assert narrow.keys() == wide.keys() and all(one.dtype == torch.float32 for one in narrow.values())
    ours, theirs = (torch.cat([g.flatten() for g in all_.values()]).double() for all_ in (narrow, wide))
    assert float(1 - 2 * (ours * theirs).sum() / (ours.square().sum() + theirs.square().sum())) < 0.02


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp8"])
def test_a_policy_that_is_still_its_reference_is_no_nat_away(precision: Precision) -> None:
    assert step(precision, 0.0)[0]["kl"] == 0.0


@pytest.mark.parametrize(("precision", "mean"), [("fp32", 1e-5), ("bf16", 0.03)])
def test_engine_and_trainer_are_as_near_as_the_precision_lets_them(precision: Precision, mean: float) -> None:
    """The model draws and is asked for the log-probabilities of what it drew, also after its weights have moved."""
    section = PolicySection(device="cpu", precision=precision)
    model = placed(tiny_model(EVERY_EXPERT), section)
    for _ in range(2):
        prompts = [[number + 3, 9, 5] for number in range(20)]
        drawn = generate(model, prompts, 12, temperature=1.0, seed=1)
        rollouts = [
            Rollout(Prompt((), "x"), prompt, completion, "", Reward(0.0, {}), 0.0)
            for prompt, completion in zip(prompts, drawn, strict=True)
        ]
        apart = torch.cat(
            [
                (answer_logprobs(model, b) - b.engine_BT)[b.labels_BT != IGNORE].abs()
                for b in policy_batches(rollouts, section, 2)
            ]
        )
        assert float(apart.mean()) < mean
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(0.9)
