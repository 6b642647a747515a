"""Steps of few rows by kernels and recorded graphs, against the reference by PyTorch, on random weights far from zero."""

import pytest
import torch

from sapience.inference.generate import generate
from sapience.inference.graph_network import GraphNetwork
from sapience.inference.network import LatentNetwork, Passed, Places
from sapience.inference.pace import Pace
from sapience.model.linear import Precision
from sapience.model.transformer import Transformer
from sapience.recipe.model import ModelSection

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

SHAPES = {
    "odd widths": {
        "hidden_size": 96, "num_attention_heads": 5, "kv_lora_rank": 32, "q_lora_rank": 40, "qk_rope_head_dim": 16,
        "v_head_dim": 24, "qk_nope_head_dim": 24, "moe_intermediate_size": 48, "intermediate_size": 160,
    },
    "softmax gate, queries as they are, nothing shared": {
        "hidden_size": 128, "num_attention_heads": 4, "kv_lora_rank": 64, "q_lora_rank": None, "qk_rope_head_dim": 32,
        "v_head_dim": 32, "qk_nope_head_dim": 32, "moe_intermediate_size": 64, "intermediate_size": 128,
        "n_shared_experts": 0, "n_group": 1,
        "topk_group": 1, "scoring_func": "softmax", "norm_topk_prob": False,
    },
    "V3's attention": {
        "hidden_size": 512, "num_attention_heads": 32, "kv_lora_rank": 512, "q_lora_rank": 256, "qk_rope_head_dim": 64,
        "v_head_dim": 128, "qk_nope_head_dim": 128, "moe_intermediate_size": 256, "intermediate_size": 384,
        "n_shared_experts": 2,
    },
}  # fmt: skip
ROOM, ROWS = 512, 6


def _model(shape: str, precision: Precision) -> Transformer:
    given = {
        "vocab_size": 515, "num_hidden_layers": 3, "n_shared_experts": 1, "n_routed_experts": 8, "n_group": 4, "topk_group": 2,
        "num_experts_per_tok": 3, "max_position_embeddings": ROOM, "num_nextn_predict_layers": 1, "first_k_dense_replace": 1,
        "routed_scaling_factor": 2.5,
    }  # fmt: skip
    model = Transformer(ModelSection(**(given | SHAPES[shape]))).initialize(1)
    torch.manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.copy_(torch.rand_like(parameter) + 0.5)
            else:
                parameter.mul_(4)
        for gate in model.gates():
            gate.gate.bias_E.normal_(std=0.1)
    return model.cuda().compute_in(precision)


def _distance(ours: torch.Tensor | None, theirs: torch.Tensor | None) -> float:
    assert ours is not None and theirs is not None
    return float((ours.float() - theirs.float()).norm() / theirs.float().norm())


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-5), ("bf16", 3e-2), ("fp8", 1e-1)])
@pytest.mark.parametrize("shape", SHAPES)
def test_steps_equal_the_reference(shape: str, precision: Precision, tolerance: float) -> None:
    model = _model(shape, precision)
    with torch.inference_mode():
        _compare_steps(model, tolerance)


def _compare_steps(model: Transformer, tolerance: float) -> None:
    pages = ROWS * ROOM // 16
    table = torch.randperm(pages, generator=torch.Generator().manual_seed(3)).view(ROWS, -1).int()
    lengths = torch.tensor([3, 40, 17, 100, 311, 160])
    positions = torch.cat([torch.arange(length) for length in lengths.tolist()])
    rows = torch.arange(ROWS).repeat_interleave(lengths)
    read = torch.randint(515, (len(rows),), generator=torch.Generator().manual_seed(4))
    networks = [LatentNetwork(model, pages, ROOM, True), GraphNetwork(model, pages, ROOM, True)]
    prompt = Places(positions, rows, table)
    passed = LatentNetwork._run(networks[0], read, prompt, torch.zeros(0, dtype=torch.int64), None)
    assert passed.states_ND is not None
    networks[0].predict(read, prompt, torch.zeros(0, dtype=torch.int64), passed.states_ND)
    for mine, yours in zip(networks[1].caches, networks[0].caches, strict=True):
        mine.latent_BSR.copy_(yours.latent_BSR)
        mine.rotary_BSP.copy_(yours.rotary_BSP)
    # Two tokens of the first row and one of the others; then fewer, the same shape again (recorded), and a larger one.
    steps = [0, 0, 1, 2, 3, 4, 5], [0, 1, 2, 3, 4], [0, 0, 1, 2, 3, 4], sorted(3 * list(range(ROWS)))
    for step, rows_of in enumerate(steps):
        rows = torch.tensor(rows_of)
        ahead = torch.tensor([rows_of[:i].count(row) for i, row in enumerate(rows_of)])
        where = Places(lengths[rows] + ahead, rows, table)
        tokens = torch.randint(515, (len(rows),), generator=torch.Generator().manual_seed(step))
        wanted = torch.arange(len(rows)) if step % 2 else torch.arange(0, len(rows), 2)
        results: list[tuple[Passed, Passed]] = []
        for network in networks:
            passed = network.forward(tokens, where, wanted)
            given = passed.states_ND if not results else results[0][0].states_ND
            assert given is not None
            results.append((passed, network.predict(tokens, where, wanted, given)))
        for yours, mine in zip(*results, strict=True):
            assert mine.logits.shape == yours.logits.shape
            for ours, theirs in ((mine.logits, yours.logits), (mine.states_ND, yours.states_ND)):
                assert ours is not None and theirs is not None
                # Rounding turns a near tie of a gate now and then, in a row here and there.
                distances = (ours.float() - theirs.float()).norm(dim=1) / theirs.float().norm(dim=1)
                assert float(distances.median()) < tolerance, distances
        for mine, yours in zip(networks[1].caches, networks[0].caches, strict=True):
            assert _distance(mine.latent_BSR[:pages], yours.latent_BSR[:pages]) < tolerance
            assert _distance(mine.rotary_BSP[:pages], yours.rotary_BSP[:pages]) < tolerance


def test_greedy_text_of_many_prompts_equals_the_references(monkeypatch: pytest.MonkeyPatch) -> None:
    model = _model("odd widths", "fp32")
    generator = torch.Generator().manual_seed(5)
    prompts = [torch.randint(515, (length,), generator=generator).tolist() for length in (1, 5, 16, 40, 90, 33, 2)]
    ours = generate(model, prompts, 60, batch_size=4, recorded=True)
    monkeypatch.setattr("sapience.inference.graph_network.fits", lambda _: False)
    theirs = generate(model, prompts, 60, batch_size=4, recorded=True)
    assert [one.tokens for one in ours] == [one.tokens for one in theirs]


def test_tokens_are_drawn_as_on_the_host() -> None:
    from sapience.ops.draw_kernel import draw  # needs triton

    torch.manual_seed(6)
    for rows, vocabulary in ((1, 200), (33, 5003), (4, 129_280)):
        logits = torch.randn(rows, vocabulary, device="cuda") * 4
        temperatures = torch.rand(rows, dtype=torch.float64) * 2
        temperatures[::3] = 0
        uniforms = torch.rand(rows, dtype=torch.float64)
        drawn = draw(logits, torch.stack((temperatures, uniforms), dim=1).cuda()).cpu()
        for row in range(rows):
            token, wide = int(drawn[row, 0]), logits[row].double().cpu()
            assert abs(float(drawn[row, 1]) - float(wide.log_softmax(0)[token])) < 1e-5
            if temperatures[row] == 0:
                assert token == int(wide.argmax())
            else:
                share = (wide / temperatures[row]).softmax(0)
                assert (
                    float(share[:token].sum()) - 1e-6 <= float(uniforms[row]) <= float(share[: token + 1].sum()) + 1e-6
                )


@pytest.mark.parametrize("depth", [1, 3])
def test_answers_with_drafts_are_those_without(depth: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model = _model("odd widths", "fp32")
    with torch.no_grad():
        model.head.weight[7:] = 0  # few words, so that some drafts are right
        model.head.weight[:7].mul_(0.3)
    generator = torch.Generator().manual_seed(5)
    prompts = [torch.randint(515, (length,), generator=generator).tolist() for length in (1, 5, 16, 40, 90)]
    left = [torch.full((1 << size,), 1 << 30, dtype=torch.int32, device="cuda") for size in range(4, 16)]
    del left  # memory that is handed out again holds something
    for temperature in (0.0, 0.7):
        plain = generate(model, prompts, 50, temperature=temperature, batch_size=4, recorded=True)
        monkeypatch.setattr(Pace, "drafts", lambda self, answers: True)
        cycles: list[int] = []
        whole = GraphNetwork.cycle
        monkeypatch.setattr(GraphNetwork, "cycle", lambda self, asked: cycles.append(1) or whole(self, asked))  # noqa: B023
        drafted = generate(model, prompts, 50, temperature=temperature, batch_size=4, depth=depth, recorded=True)
        assert [one.tokens for one in drafted] == [one.tokens for one in plain]
        assert 10 < len(cycles) < (75 if temperature else 100)  # drawn with the same numbers, many drafts are right
        monkeypatch.undo()
