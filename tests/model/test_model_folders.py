"""Model folders: a round trip loses no bit, prediction modules included, and a damaged folder is named precisely."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import tiny_config, tiny_model

from sapience.model.config_json import load_config
from sapience.model.huggingface import exported_tensors, load_model, save_model
from sapience.recipe import UserError

WEIGHTS = "model.safetensors"


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"num_nextn_predict_layers": 2, "q_lora_rank": None},
        {"tie_word_embeddings": True},
        {"rope_scaling": {"factor": 8.0, "original_max_position_embeddings": 16, "mscale": 0.7}, "rope_theta": 500.0},
        {"first_k_dense_replace": 3, "num_nextn_predict_layers": 0, "n_shared_experts": 0},
    ],
    ids=["v3", "two depths", "tied", "yarn", "dense"],
)
def test_a_round_trip_is_bit_for_bit(changes: dict[str, Any], tmp_path: Path) -> None:
    model = tiny_model(tiny_config(**changes))
    save_model(model, tmp_path / "one", 0, 1, 2)
    again = load_model(tmp_path / "one")
    assert again.config == model.config
    state, other = model.state_dict(), again.state_dict()
    assert list(state) == list(other)
    assert all(torch.equal(state[name], other[name]) for name in state)
    save_model(again, tmp_path / "two", 0, 1, 2)
    for name in ("config.json", "generation_config.json", WEIGHTS):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_names_and_shapes_are_the_releases() -> None:
    """The published listing (facts of DeepSeek-V3's checkpoint), with this model's sizes."""
    config = tiny_config()
    tensors = {name: list(tensor.shape) for name, tensor in exported_tensors(tiny_model(config)).items()}
    block = {
        "input_layernorm.weight": [32],
        "post_attention_layernorm.weight": [32],
        "self_attn.q_a_proj.weight": [12, 32],
        "self_attn.q_a_layernorm.weight": [12],
        "self_attn.q_b_proj.weight": [2 * 12, 12],
        "self_attn.kv_a_proj_with_mqa.weight": [16 + 4, 32],
        "self_attn.kv_a_layernorm.weight": [16],
        "self_attn.kv_b_proj.weight": [2 * 16, 16],
        "self_attn.o_proj.weight": [32, 16],
    }
    feed = {"gate_proj.weight": [16, 32], "up_proj.weight": [16, 32], "down_proj.weight": [32, 16]}
    mixture = {"mlp.gate.weight": [8, 32], "mlp.gate.e_score_correction_bias": [8]}
    for part in [*(f"mlp.experts.{e}." for e in range(8)), "mlp.shared_experts."]:
        mixture |= {part + name: shape for name, shape in feed.items()}
    dense = {"mlp.gate_proj.weight": [48, 32], "mlp.up_proj.weight": [48, 32], "mlp.down_proj.weight": [32, 48]}
    prediction = {
        "embed_tokens.weight": [61, 32],
        "enorm.weight": [32],
        "hnorm.weight": [32],
        "eh_proj.weight": [32, 64],
        "shared_head.norm.weight": [32],
        "shared_head.head.weight": [61, 32],
    }
    expected = {"model.embed_tokens.weight": [61, 32], "model.norm.weight": [32], "lm_head.weight": [61, 32]}
    layers = [block | dense, block | mixture, block | mixture, block | mixture | prediction]
    for index, layer in enumerate(layers):
        expected |= {f"model.layers.{index}.{name}": shape for name, shape in layer.items()}
    assert tensors == expected


def test_the_prediction_layer_carries_copies_of_embedding_and_head() -> None:
    model = tiny_model()
    tensors = exported_tensors(model)
    assert torch.equal(tensors["model.layers.3.embed_tokens.weight"], model.embedding.weight)
    assert torch.equal(tensors["model.layers.3.shared_head.head.weight"], model.head.weight)


def test_a_folder_split_into_several_files_loads(tmp_path: Path) -> None:
    model = tiny_model()
    save_model(model, tmp_path, 0, 1, 2)
    tensors = sorted(load_file(tmp_path / WEIGHTS).items())
    (tmp_path / WEIGHTS).unlink()
    for part in range(3):
        save_file(dict(tensors[part::3]), tmp_path / f"model-0000{part + 1}-of-00003.safetensors")
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), load_model(tmp_path).parameters(), strict=True))


def test_bfloat16_weights_load_as_the_float32_numbers_they_are(tmp_path: Path) -> None:
    model = tiny_model(dtype=torch.bfloat16)
    save_model(model, tmp_path, 0, 1, 2)
    assert json.loads((tmp_path / "config.json").read_text())["torch_dtype"] == "bfloat16"
    again = load_model(tmp_path)
    for one, other in zip(model.parameters(), again.parameters(), strict=True):
        assert other.dtype == torch.float32 and torch.equal(one.float(), other)


def change_tensors(change: Callable[[dict[str, torch.Tensor]], None]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        tensors = load_file(folder / WEIGHTS)
        change(tensors)
        save_file(tensors, folder / WEIGHTS)

    return damage


def change_config(**changes: Any) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return damage


def truncate(folder: Path) -> None:
    path = folder / WEIGHTS
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


YARN = {"type": "yarn", "factor": 8.0, "original_max_position_embeddings": 16}
DAMAGES: dict[str, tuple[Callable[[Path], None], tuple[str, ...]]] = {
    "missing tensor": (
        change_tensors(lambda t: t.__delitem__("model.layers.1.mlp.experts.3.up_proj.weight")),
        ("model.layers.1.mlp.experts.3.up_proj.weight", "lacks"),
    ),
    "wrong shape": (
        change_tensors(lambda t: t.update({"model.norm.weight": torch.ones(31)})),
        ("model.norm.weight", "[31]", "[32]"),
    ),
    "prediction layer promised, not there": (
        change_config(num_nextn_predict_layers=2),
        ("model.layers.4.enorm.weight", "lacks"),
    ),
    "truncated file": (truncate, (WEIGHTS, "damaged")),
    "empty file": (lambda folder: (folder / WEIGHTS).write_bytes(b"") and None, (WEIGHTS, "damaged")),
    "no weights": (lambda folder: (folder / WEIGHTS).unlink(), ("weights are missing",)),
    "no config": (lambda folder: (folder / "config.json").unlink(), ("config.json",)),
    "config that is not JSON": (
        lambda folder: (folder / "config.json").write_text("{") and None,
        ("config.json",),
    ),
    "config that is a list": (
        lambda folder: (folder / "config.json").write_text("[]") and None,
        ("config.json",),
    ),
    "another architecture": (change_config(model_type="llama"), ("'llama'", "deepseek_v3")),
    "sizes of another kind": (change_config(hidden_size="wide"), ("config.json", "hidden_size")),
    "rotary halves instead of pairs": (change_config(rope_interleave=False), ("rope_interleave", "False")),
    "impossible sizes": (change_config(n_group=3), ("config.json", "n_group")),
    "rope scaling of another kind": (
        change_config(rope_scaling={"type": "linear", "factor": 4.0}),
        ("rope_scaling", "linear", "yarn"),
    ),
    "another scoring function": (change_config(scoring_func="softmax"), ("scoring_func",)),
    "yarn with a factor of its own on attention": (
        change_config(rope_scaling=YARN | {"attention_factor": 1.5}),
        ("attention_factor",),
    ),
    "yarn that is not cut to whole pairs": (change_config(rope_scaling=YARN | {"truncate": False}), ("truncate",)),
    "rope scaling that is a word": (change_config(rope_scaling="yarn"), ("rope_scaling",)),
    "experts per token not said": (change_config(num_experts_per_tok=None), ("lacks num_experts_per_tok",)),
    "route scale not said": (change_config(routed_scaling_factor=None), ("lacks routed_scaling_factor",)),
    "FP8 without its scales": (
        change_tensors(
            lambda t: t.update({"model.layers.0.mlp.up_proj.weight": torch.zeros(48, 32).to(torch.float8_e4m3fn)})
        ),
        ("model.layers.0.mlp.up_proj.weight", "FP8", "weight_scale_inv"),
    ),
}


@pytest.mark.parametrize(("damage", "words"), DAMAGES.values(), ids=list(DAMAGES))
def test_a_bad_folder_is_named(damage: Callable[[Path], None], words: tuple[str, ...], tmp_path: Path) -> None:
    save_model(tiny_model(), tmp_path, 0, 1, 2)
    damage(tmp_path)
    with pytest.raises(UserError) as caught:
        load_model(tmp_path)
    for word in (*words, str(tmp_path)):
        assert word in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_config_of_transformers_newer_spelling_is_read(tmp_path: Path) -> None:
    """`rope_parameters` with `rope_type`, as transformers 5 writes it."""
    config = tiny_config(rope_scaling={"factor": 8.0, "original_max_position_embeddings": 16}, rope_theta=500.0)
    save_model(tiny_model(config), tmp_path, 0, 1, 2)
    path = tmp_path / "config.json"
    raw = json.loads(path.read_text())
    scaling = raw.pop("rope_scaling")
    scaling["rope_type"] = scaling.pop("type")
    raw["rope_parameters"] = scaling | {"rope_theta": raw.pop("rope_theta")}
    path.write_text(json.dumps(raw))
    assert load_config(tmp_path) == config


RELEASED: dict[str, Any] = {
    "architectures": ["DeepseekV3ForCausalLM"], "attention_bias": False, "attention_dropout": 0.0, "auto_map": {},
    "aux_loss_alpha": 0.001, "bos_token_id": 0, "eos_token_id": 1, "ep_size": 1, "first_k_dense_replace": 3,
    "hidden_act": "silu", "hidden_size": 7168, "initializer_range": 0.02, "intermediate_size": 18432, "kv_lora_rank": 512,
    "max_position_embeddings": 163840, "model_type": "deepseek_v3", "moe_intermediate_size": 2048, "moe_layer_freq": 1,
    "n_group": 8, "n_routed_experts": 256, "n_shared_experts": 1, "norm_topk_prob": True, "num_attention_heads": 128,
    "num_experts_per_tok": 8, "num_hidden_layers": 61, "num_key_value_heads": 128, "num_nextn_predict_layers": 1,
    "pretraining_tp": 1, "q_lora_rank": 1536, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "rms_norm_eps": 1e-06,
    "quantization_config": {
        "activation_scheme": "dynamic", "fmt": "e4m3", "quant_method": "fp8", "weight_block_size": [128, 128],
    },
    "rope_scaling": {
        "beta_fast": 32, "beta_slow": 1, "factor": 40, "mscale": 1.0, "mscale_all_dim": 1.0,
        "original_max_position_embeddings": 4096, "type": "yarn",
    },
    "rope_theta": 10000, "routed_scaling_factor": 2.5, "scoring_func": "sigmoid", "seq_aux": True,
    "tie_word_embeddings": False, "topk_group": 4, "topk_method": "noaux_tc", "torch_dtype": "bfloat16", "use_cache": True,
    "v_head_dim": 128, "vocab_size": 129280,
}  # fmt: skip
"""config.json of V3 and R1, by the facts published of it."""
LITE = RELEASED | {
    "architectures": ["DeepseekV2ForCausalLM"], "model_type": "deepseek_v2", "first_k_dense_replace": 1,
    "hidden_size": 2048, "intermediate_size": 10944, "moe_intermediate_size": 1408, "n_group": 1, "topk_group": 1,
    "n_routed_experts": 64, "n_shared_experts": 2, "norm_topk_prob": False, "num_attention_heads": 16,
    "num_key_value_heads": 16, "num_experts_per_tok": 6, "num_hidden_layers": 27, "q_lora_rank": None,
    "routed_scaling_factor": 1.0, "scoring_func": "softmax", "topk_method": "greedy", "vocab_size": 102400,
    "rope_scaling": RELEASED["rope_scaling"] | {"mscale": 0.707, "mscale_all_dim": 0.707},
}  # fmt: skip
del LITE["num_nextn_predict_layers"], LITE["quantization_config"]


def test_the_released_configs_are_the_recipes_models(tmp_path: Path) -> None:
    """V3's config.json against the recipe of its pre-training: all alike but the longer context and the initialisation."""
    from sapience.recipe import load_recipe

    (tmp_path / "config.json").write_text(json.dumps(RELEASED))
    recipes = Path(__file__).parent.parent.parent / "recipes"
    trained = load_recipe(recipes / "v3-671b.yaml").model
    longer = {"max_position_embeddings": 163840, "initializer_range": 0.02, "rope_scaling": RELEASED["rope_scaling"]}
    assert load_config(tmp_path) == type(trained).model_validate(trained.model_dump() | longer)
    (tmp_path / "config.json").write_text(json.dumps(LITE))
    lite = load_config(tmp_path)
    pretrained = load_recipe(recipes / "v3-lite-16b.yaml").model.model_dump()
    differing = {name for name, value in lite.model_dump().items() if value != pretrained[name]}
    assert differing == {
        "max_position_embeddings", "initializer_range", "rope_scaling", "scoring_func", "norm_topk_prob",
        "num_nextn_predict_layers",
    }  # fmt: skip
    assert lite.rope_scaling is not None and lite.rope_scaling.mscale_all_dim == 0.707


def test_a_killed_save_leaves_no_model_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """config.json comes last: a folder without it is no model, so nothing half written is ever loaded."""
    from sapience.model import huggingface

    def full(path: Path, data: bytes | str) -> None:
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(huggingface, "write_atomically", full)
    with pytest.raises(OSError, match="No space"):
        save_model(tiny_model(), tmp_path, 0, 1, 2)
    with pytest.raises(UserError, match=r"config\.json"):
        load_model(tmp_path)
