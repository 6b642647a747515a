"""The architecture is V3's: with the same weights, transformers' DeepseekV3ForCausalLM gives the same numbers, and
DeepseekV2ForCausalLM where the gate is a softmax.

The weights travel through our own Hugging Face folder, so names, shapes and the config's keys are proven with them.
transformers has no prediction modules and no balance loss; those have oracles of their own.
"""

import importlib
import inspect
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from quiet_progress import quiet
from safetensors.torch import load_file
from tiny_models import tiny_config, tiny_model
from torch.nn import functional

from sapience.inference.generate import generate
from sapience.model.conversion import Conversion, convert_folder
from sapience.model.gate import choose_experts
from sapience.model.huggingface import exported_tensors, load_model, save_model
from sapience.model.transformer import Transformer
from sapience.recipe import UserError

transformers = pytest.importorskip("transformers")

YARN = {"factor": 8.0, "original_max_position_embeddings": 16}
SOFTMAX = {"scoring_func": "softmax", "norm_topk_prob": False, "num_nextn_predict_layers": 0}
FAMILY: dict[str, dict[str, Any]] = {
    "v3 in miniature": {},
    "no query compression": {"q_lora_rank": None},
    "one group": {"n_group": 1, "topk_group": 1},
    "groups of two, one kept": {"n_group": 2, "topk_group": 1},
    "all groups kept": {"n_group": 4, "topk_group": 4},
    "no dense layer": {"first_k_dense_replace": 0},
    "dense layers only": {"first_k_dense_replace": 3, "num_nextn_predict_layers": 0},
    "yarn": {"rope_scaling": YARN, "max_position_embeddings": 128},
    "yarn with another temperature": {"rope_scaling": YARN | {"mscale": 0.707, "mscale_all_dim": 0.9}},
    "yarn that says nothing of temperature": {"rope_scaling": YARN | {"mscale_all_dim": 0.0}},
    "yarn without query compression": {"rope_scaling": YARN, "q_lora_rank": None, "qk_rope_head_dim": 16},
    "tied head": {"tie_word_embeddings": True},
    "weights not renormalised": {"norm_topk_prob": False},
    "two shared experts": {"n_shared_experts": 2},
    "another base and two prediction modules": {"rope_theta": 500.0, "num_nextn_predict_layers": 2},
    "v2: softmax, two of four groups": SOFTMAX | {"routed_scaling_factor": 16.0},
    "v2-lite: softmax, one group, no query compression, yarn": SOFTMAX
    | {"n_group": 1, "topk_group": 1, "q_lora_rank": None, "n_shared_experts": 2, "routed_scaling_factor": 1.0}
    | {"rope_scaling": YARN | {"mscale": 0.707, "mscale_all_dim": 0.707}},
}


def in_transformers(model: Transformer, folder: Path) -> Any:
    """The model as transformers loads it from our folder, nothing missing, nothing drawn anew."""
    save_model(model, folder, bos_id=0, eos_id=1, pad_id=2)
    name = "DeepseekV3ForCausalLM" if model.config.balanced_by_bias else "DeepseekV2ForCausalLM"
    loaded, told = getattr(transformers, name).from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", output_loading_info=True
    )
    assert not told["missing_keys"] and not told["mismatched_keys"]
    main = model.config.num_hidden_layers
    unread = {key for key in told["unexpected_keys"] if int(key.split(".")[2]) < main}
    assert not unread, unread
    return loaded.eval()


def some_tokens(length: int = 40) -> torch.Tensor:
    """No padding token among them: transformers gives its embedding no gradient."""
    return torch.randint(3, 61, (2, length), generator=torch.Generator().manual_seed(7))


@pytest.mark.parametrize("changes", FAMILY.values(), ids=list(FAMILY))
def test_logits_equal(changes: dict[str, Any], tmp_path: Path) -> None:
    model = tiny_model(tiny_config(**changes))
    tokens = some_tokens()
    with torch.no_grad():
        ours = model.logits(model.hidden(tokens))
        theirs = in_transformers(model, tmp_path)(input_ids=tokens, use_cache=False).logits
    assert ours.abs().max() > 1
    assert (ours - theirs).abs().max() <= 1e-4


@pytest.mark.parametrize("name", FAMILY)
def test_parameter_gradients_equal(name: str, tmp_path: Path) -> None:
    model = tiny_model(tiny_config(**FAMILY[name] | {"num_nextn_predict_layers": 0}))
    twin = in_transformers(model, tmp_path)
    tokens = some_tokens()
    for logits in (model.logits(model.hidden(tokens)), twin(input_ids=tokens, use_cache=False).logits):
        functional.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten()).backward()
    theirs = {key: parameter.grad for key, parameter in twin.named_parameters()}
    pairs = [
        ("model.embed_tokens.weight", model.embedding.weight.grad),
        ("model.norm.weight", model.norm.weight.grad),
    ]
    if not model.config.tie_word_embeddings:
        pairs.append(("lm_head.weight", model.head.weight.grad))
    names = {
        "attention_norm.weight": "input_layernorm.weight",
        "feed_forward_norm.weight": "post_attention_layernorm.weight",
        "attention.q_proj.weight": "self_attn.q_proj.weight",
        "attention.q_down.weight": "self_attn.q_a_proj.weight",
        "attention.q_norm.weight": "self_attn.q_a_layernorm.weight",
        "attention.q_up.weight": "self_attn.q_b_proj.weight",
        "attention.kv_down.weight": "self_attn.kv_a_proj_with_mqa.weight",
        "attention.kv_norm.weight": "self_attn.kv_a_layernorm.weight",
        "attention.kv_up.weight": "self_attn.kv_b_proj.weight",
        "attention.out.weight": "self_attn.o_proj.weight",
        "gate.weight_ED": "mlp.gate.weight",
        "experts.gate_up_EFD": "mlp.experts.gate_up_proj",
        "experts.down_EDF": "mlp.experts.down_proj",
        "shared.down.weight": "mlp.shared_experts.down_proj.weight",
        "feed_forward.down.weight": "mlp.down_proj.weight",
    }
    for index, layer in enumerate(model.layers):
        prefix = f"model.layers.{index}."
        for ours, parameter in layer.named_parameters():
            if ours in names:
                pairs.append((prefix + names[ours], parameter.grad))
            else:
                inner = "mlp.shared_experts." if ours.startswith("shared") else "mlp."
                assert ours in ("shared.gate_up.weight", "feed_forward.gate_up.weight") and parameter.grad is not None
                gate, up = parameter.grad.chunk(2)
                pairs += [(f"{prefix}{inner}gate_proj.weight", gate), (f"{prefix}{inner}up_proj.weight", up)]
    assert {key for key, _ in pairs} == set(theirs)
    still = [key for key, ours in pairs if ours is None or not ours.abs().max() > 0]
    assert not still, still
    for key, ours in pairs:
        assert ours is not None
        assert (ours - theirs[key]).norm() <= 1e-4 * theirs[key].norm(), key


@pytest.mark.parametrize("name", ["v3 in miniature", "v2-lite: softmax, one group, no query compression, yarn"])
def test_an_export_generates_the_same_greedy_text(name: str, tmp_path: Path) -> None:
    """From shards written by `sapience export`'s own way, by transformers' cache and ours."""
    model = tiny_model(tiny_config(**FAMILY[name]))
    save_model(model, tmp_path / "ours", bos_id=0, eos_id=1, pad_id=2)
    convert_folder(tmp_path / "ours", tmp_path / "hub", Conversion(shard_bytes=40_000), quiet)
    assert len(list((tmp_path / "hub").glob("*.safetensors"))) > 2
    twin, told = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "hub", output_loading_info=True)
    assert not told["missing_keys"] and not told["mismatched_keys"]
    prompts = some_tokens(9).tolist()
    written = twin.generate(
        torch.tensor(prompts), max_new_tokens=24, do_sample=False, attention_mask=torch.ones(2, 9), eos_token_id=None
    )
    for row, drawn in zip(written.tolist(), generate(model, prompts, 24), strict=True):
        assert row[9:] == drawn.tokens


def test_what_transformers_saves_loads_here(tmp_path: Path) -> None:
    """transformers has no prediction modules: it loses them, and its config.json still promises them."""
    model = tiny_model()
    in_transformers(model, tmp_path / "ours").save_pretrained(tmp_path / "theirs", max_shard_size="40KB")
    with pytest.raises(UserError, match=r"model\.layers\.3\.\S+ and \d+ more.*promises"):
        load_model(tmp_path / "theirs")
    path = tmp_path / "theirs" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"num_nextn_predict_layers": 0}))
    again = load_model(tmp_path / "theirs")
    tokens = some_tokens()
    with torch.no_grad():
        assert torch.equal(again.logits(again.hidden(tokens)), model.logits(model.hidden(tokens)))


def test_yarn_without_its_temperature_keys_is_read_as_transformers_reads_it(tmp_path: Path) -> None:
    model = tiny_model(tiny_config(rope_scaling=YARN | {"mscale_all_dim": 0.0}))
    save_model(model, tmp_path / "ours", 0, 1, 2)
    path = tmp_path / "ours" / "config.json"
    raw = json.loads(path.read_text())
    del raw["rope_scaling"]["mscale"], raw["rope_scaling"]["mscale_all_dim"]
    path.write_text(json.dumps(raw))
    twin = transformers.DeepseekV3ForCausalLM.from_pretrained(tmp_path / "ours", attn_implementation="eager")
    again, tokens = load_model(tmp_path / "ours"), some_tokens()
    with torch.no_grad():
        difference = again.logits(again.hidden(tokens)) - twin(input_ids=tokens, use_cache=False).logits
    assert difference.abs().max() <= 1e-4


def test_drafts_are_those_of_transformers_own_reader_of_prediction_layers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its newest versions draft with the layer behind the last (61 in V3): the released order of `eh_proj`'s input, the
    final norms and the shared head, by an oracle that nobody here wrote."""
    layers = pytest.importorskip("transformers.modeling_layers")
    if not hasattr(layers, "MtpModel"):
        pytest.skip("this transformers reads no prediction layers")
    module = importlib.import_module("transformers.models.deepseek_v3.modeling_deepseek_v3")
    for name in ("DeepseekV3PreTrainedModel", "DeepseekV3ForCausalLM"):
        ignored = [r"model\.layers\.3.*"]
        monkeypatch.setattr(getattr(module, name), "_keys_to_ignore_on_load_unexpected", ignored, raising=False)
    model = tiny_model()
    save_model(model, tmp_path, 0, 1, 2)
    twin = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    drafted: list[torch.Tensor] = []
    forward = layers.MtpModel.forward

    def heard(self: Any, *given: Any, **named: Any) -> Any:
        out = forward(self, *given, **named)
        drafted.append(out[1])
        return out

    monkeypatch.setattr(layers.MtpModel, "forward", heard)
    prompt = some_tokens(9)[:1]
    given = {"max_new_tokens": 12, "do_sample": False, "eos_token_id": None}
    plain, helped = (twin.generate(prompt, **given, **more) for more in ({}, {"use_mtp": True}))
    assert torch.equal(plain, helped) and drafted
    with torch.no_grad():
        hidden = model.hidden(plain[:, :10])
        ours = model.logits(model.mtp_hidden(hidden, plain[:, :10])[0])[0, -1]
    assert ours.abs().max() > 1 and (ours - drafted[0].reshape(-1, 61)[-1]).abs().max() <= 1e-4


def in_fp8(folder: Path, **changes: Any) -> tuple[Transformer, dict[str, torch.Tensor]]:
    """Our reading of an FP8 export, and transformers' of the same files, which it multiplies out in bfloat16."""
    save_model(tiny_model(tiny_config(num_nextn_predict_layers=0, **changes)), folder / "ours", 0, 1, 2)
    convert_folder(folder / "ours", folder / "fp8", Conversion(fp8=True), quiet)
    twin, told = transformers.DeepseekV3ForCausalLM.from_pretrained(
        folder / "fp8",
        quantization_config=transformers.FineGrainedFP8Config(dequantize=True),
        dtype=torch.bfloat16,
        output_loading_info=True,
    )
    assert not told["missing_keys"] and not told["mismatched_keys"]
    return load_model(folder / "fp8"), twin.state_dict()


def test_transformers_reads_fp8_blocks_as_the_same_numbers(tmp_path: Path) -> None:
    pytest.importorskip("accelerate", reason="transformers reads FP8 with accelerate only")
    sizes = {"hidden_size": 256, "intermediate_size": 256, "moe_intermediate_size": 128}
    ours, theirs = in_fp8(tmp_path, **sizes, q_lora_rank=128, kv_lora_rank=124, v_head_dim=56)
    named = exported_tensors(ours)
    for layer in (1, 2):
        stacked = [named.pop(f"model.layers.{layer}.mlp.experts.{e}.down_proj.weight") for e in range(8)]
        assert torch.equal(torch.stack(stacked), theirs[f"model.layers.{layer}.mlp.experts.down_proj"].float())
    compared = [name for name in named if name in theirs]
    assert len(compared) > 25
    for name in compared:
        assert torch.equal(named[name], theirs[name].float()), name


def test_ragged_edges_are_multiplied_out_by_blocks_of_128(tmp_path: Path) -> None:
    """140 rows are blocks of 128 and 12. transformers 5.23 takes them for two of 70: shown here while it does."""
    pytest.importorskip("accelerate", reason="transformers reads FP8 with accelerate only")
    ours, theirs = in_fp8(tmp_path, hidden_size=256, kv_lora_rank=136)
    name = "model.layers.0.self_attn.kv_a_proj_with_mqa.weight"
    stored = load_file(tmp_path / "fp8" / "model.safetensors")
    elements, scale = stored[name].float(), stored[name + "_scale_inv"]
    assert elements.shape == (140, 256) and scale.shape == (2, 2) and len(scale.unique()) > 1
    literal = torch.tensor(
        [[float(elements[r, c] * scale[r // 128, c // 128]) for c in range(256)] for r in range(140)]
    )
    assert torch.equal(exported_tensors(ours)[name], literal)
    halves = elements * scale.repeat_interleave(70, 0).repeat_interleave(128, 1)
    assert torch.equal(theirs[name].float(), literal) or torch.equal(theirs[name].float(), halves)


def test_a_closed_group_never_wins_even_where_every_open_expert_is_negative() -> None:
    """Masking with zero, as transformers did before it masked with minus infinity, lets closed groups win here."""
    config = tiny_config(n_group=2, topk_group=1, num_experts_per_tok=2)
    affinities = torch.tensor([[0.5, 0.4, 0.3, 0.2, 0.1, 0.1, 0.1, 0.1]])
    bias = torch.full((8,), -0.9)
    assert set(choose_experts(affinities, bias, config)[0].tolist()) == {0, 1}
    masked_with_zero = torch.where(torch.arange(8) < 4, affinities + bias, torch.zeros(()))
    assert set(masked_with_zero.topk(2).indices[0].tolist()).isdisjoint({0, 1, 2, 3})


def test_negative_biases_choose_as_transformers_does_where_it_masks_with_minus_infinity(tmp_path: Path) -> None:
    model = tiny_model()
    with torch.no_grad():
        for block in model.gates():
            block.gate.bias_E.sub_(3.0)
    tokens = some_tokens()
    twin = in_transformers(model, tmp_path)
    with torch.no_grad():
        ours = model.logits(model.hidden(tokens))
        theirs = twin(input_ids=tokens, use_cache=False).logits
    router = inspect.getsource(sys.modules[type(twin).__module__])
    if "masked_fill(~score_mask.bool(), 0.0)" in router:
        assert (ours - theirs).abs().max() > 1e-2
    else:
        assert (ours - theirs).abs().max() <= 1e-4
