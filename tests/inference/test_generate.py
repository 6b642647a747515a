"""Decoding with the latent cache is the full forward pass: absorbed equals expanded, cached equals recomputed."""

from typing import Any

import pytest
import torch
from paged_rows import PagedRows
from tiny_models import tiny_config, tiny_model

from sapience.inference import network
from sapience.inference.generate import Completion, generate
from sapience.inference.network import LatentNetwork
from sapience.model.attention import LatentCache
from sapience.model.transformer import Transformer
from sapience.training.objective import NextTokens

VARIANTS: dict[str, dict[str, Any]] = {
    "compressed queries": {},
    "plain queries": {"q_lora_rank": None},
    "yarn": {"rope_scaling": {"factor": 8, "original_max_position_embeddings": 8}},
    "no dense layer, one group": {"first_k_dense_replace": 0, "n_group": 1, "topk_group": 1},
    "softmax gate, plain queries": {"scoring_func": "softmax", "norm_topk_prob": False, "q_lora_rank": None},
    "tied head, two depths": {"tie_word_embeddings": True, "num_nextn_predict_layers": 2},
    "yarn, plain queries, another temperature": {
        "q_lora_rank": None,
        "rope_scaling": {"factor": 4, "original_max_position_embeddings": 8, "mscale": 0.707, "mscale_all_dim": 0.707},
    },
}
PROMPTS = [[5], [17, 3, 9, 22, 40, 8, 8], [60, 1, 2], [17, 3, 9, 22, 40, 8, 7]]


@pytest.mark.parametrize("changes", VARIANTS.values(), ids=list(VARIANTS))
def test_absorbed_attention_is_the_expanded_one(changes: dict[str, Any]) -> None:
    model = tiny_model(tiny_config(**changes), dtype=torch.float64)
    attention: Any = model.layers[1].attention
    x = torch.randn(2, 9, 32, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    cosines, sines = model.rotary(9)
    causal = torch.ones(9, 9, dtype=torch.bool).tril().expand(2, 9, 9)
    with torch.no_grad():
        cache = LatentCache(*attention.latents(x, cosines, sines))
        absorbed = attention.absorbed(x, cosines, sines, cache, causal)
        expanded = attention.out(attention.mix(*attention.compress(x), cosines, sines, None))
    assert (absorbed - expanded).abs().max() < 1e-5


def greedy_by_full_passes(model: Transformer, prompt: list[int], count: int) -> tuple[list[int], list[float]]:
    tokens, logprobs = list(prompt), []
    for _ in range(count):
        with torch.no_grad():
            last = model.logits(model.hidden(torch.tensor([tokens]))[0, -1]).log_softmax(-1)
        tokens.append(int(last.argmax()))
        logprobs.append(float(last.max()))
    return tokens[len(prompt) :], logprobs


@pytest.mark.parametrize("changes", VARIANTS.values(), ids=list(VARIANTS))
def test_token_by_token_is_the_full_forward_pass(changes: dict[str, Any]) -> None:
    model = tiny_model(tiny_config(**changes))
    drawn = generate(model, PROMPTS, 12)
    for prompt, completion in zip(PROMPTS, drawn, strict=True):
        tokens, logprobs = greedy_by_full_passes(model, prompt, 12)
        assert completion.tokens == tokens and not completion.finished
        assert completion.logprobs == pytest.approx(logprobs, abs=1e-4)


@pytest.mark.parametrize("scores", [1, 300, 400])
def test_long_prompts_are_read_in_pieces(scores: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model(dtype=torch.float64)
    prompts = [*PROMPTS, [7] * 20, PROMPTS[1]]
    whole = PagedRows(LatentNetwork, model, prompts, 2)
    logits = whole.read()
    monkeypatch.setattr(network, "SCORES_AT_ONCE", scores)
    pieces = PagedRows(LatentNetwork, model, prompts, 2)
    assert torch.allclose(pieces.read(), logits, atol=1e-6)
    following = list(range(len(prompts)))
    in_pieces = pieces.step(following)
    monkeypatch.undo()
    assert torch.allclose(in_pieces, whole.step(following), atol=1e-6)


def stops_of(completions: list[Completion]) -> set[int]:
    """A token that some completions hold early and others do not, to be the stop token."""
    return {completions[1].tokens[3]}


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_a_result_does_not_depend_on_its_neighbours(temperature: float) -> None:
    """Alone, with others, in batches of two, with rows that finish early: the same tokens."""
    model = tiny_model(dtype=torch.float64)
    stop = stops_of(generate(model, PROMPTS, 15, temperature=temperature, seed=3))
    together = generate(model, PROMPTS, 15, temperature=temperature, stop_ids=stop, seed=3)
    in_twos = generate(model, PROMPTS, 15, temperature=temperature, stop_ids=stop, seed=3, batch_size=2)
    assert [c.tokens for c in together] == [c.tokens for c in in_twos]
    assert any(c.finished for c in together)
    for index, completion in enumerate(together):
        padded = [PROMPTS[index] if i == index else [7] for i in range(len(PROMPTS))]
        other = generate(model, padded, 15, temperature=temperature, stop_ids=stop, seed=3)[index]
        assert other.tokens == completion.tokens
        assert other.logprobs == pytest.approx(completion.logprobs, abs=1e-6)
        ended = completion.tokens[-1] in stop
        assert completion.finished == ended and (ended or len(completion.tokens) == 15)
        assert not stop & set(completion.tokens[:-1])


def test_logprobs_are_those_of_the_full_pass_at_temperature_one() -> None:
    model = tiny_model(dtype=torch.float64)
    for prompt, completion in zip(PROMPTS, generate(model, PROMPTS, 10, temperature=1.3, seed=1), strict=True):
        tokens = torch.tensor([prompt + completion.tokens])
        with torch.no_grad():
            logprobs = model.logits(model.hidden(tokens))[0].log_softmax(-1)
        expected = [float(logprobs[len(prompt) - 1 + i, token]) for i, token in enumerate(completion.tokens)]
        assert completion.logprobs == pytest.approx(expected, abs=1e-5)


def test_sampling_follows_the_distribution_and_the_seed() -> None:
    model = tiny_model(deviation=0.05)
    prompts = [[5, 9]] * 600
    drawn = [c.tokens[0] for c in generate(model, prompts, 1, temperature=0.5, seed=2)]
    assert drawn == [c.tokens[0] for c in generate(model, prompts, 1, temperature=0.5, seed=2)]
    assert drawn != [c.tokens[0] for c in generate(model, prompts, 1, temperature=0.5, seed=3)]
    with torch.no_grad():
        shares = (model.logits(model.hidden(torch.tensor([[5, 9]]))[0, -1]) / 0.5).softmax(-1)
    counts = torch.bincount(torch.tensor(drawn), minlength=61)
    expected = shares * len(drawn)
    often = expected > 5
    chi_square = float(((counts - expected)[often] ** 2 / expected[often]).sum())
    assert chi_square < 2.0 * int(often.sum())


def test_any_seed_will_do() -> None:
    model = tiny_model(tiny_config(), 1)
    for seed in (2**62, 20_240_607 * 1_000_003):
        first, second = (generate(model, PROMPTS, 4, temperature=1.0, seed=seed) for _ in range(2))
        assert first == second


def test_tokens_are_streamed_as_they_come() -> None:
    model = tiny_model()
    heard: dict[int, list[int]] = {index: [] for index in range(len(PROMPTS))}
    drawn = generate(model, PROMPTS, 8, on_token=lambda index, token: heard[index].append(token))
    assert [heard[index] for index in heard] == [c.tokens for c in drawn]


def test_an_empty_prompt_is_refused_and_no_prompts_give_nothing() -> None:
    model = tiny_model()
    with pytest.raises(ValueError, match="bos"):
        generate(model, [[1], []], 3)
    assert generate(model, [], 3) == []


def test_training_goes_on_after_generation_at_the_same_length() -> None:
    """What generation leaves behind in the model must not be in the way of gradients."""
    from tiny_models import random_batch

    model = tiny_model()
    batch = random_batch(model.config, 2, 12)
    generate(model, [[1, 2, 3, 4]], 8)
    NextTokens(0.3, 0.0)(model, batch)[0].backward()
    assert model.head.weight.grad is not None and model.head.weight.grad.isfinite().all()


@pytest.mark.parametrize(("prompts", "tokens", "asked", "recorded"), [
    (4, 60, None, False), (64, 1000, None, True), (256, 250, None, True), (4, 60, True, True), (64, 1000, False, False),
])  # fmt: skip
def test_steps_are_recorded_where_there_are_many(
    prompts: int, tokens: int, asked: bool | None, recorded: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four samples of a training must not wait for a minute's compiling."""
    seen: list[bool] = []

    class Stop(Exception):
        pass

    def network(*given: Any) -> None:
        seen.append(given[-1])
        raise Stop

    monkeypatch.setattr("sapience.inference.engine.network_of", network)
    with pytest.raises(Stop):
        generate(tiny_model(), [[1]] * prompts, tokens, recorded=asked)
    assert seen == [recorded]
