"""Hugging Face files: the one place that knows how our tensors are called there.

Writes and reads `config.json` and safetensors in the layout of DeepSeek-V3's release; prediction modules are layers
L, L+1, … with copies of embedding and head. Our fused and stacked matrices are cut and joined tensor by tensor. FP8
blocks, sharded files and a model card are not covered here.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from torch import Tensor

from sapience.model.tensor_files import write_tensors
from sapience.model.transformer import PredictionModule, Transformer
from sapience.recipe.errors import UserError
from sapience.recipe.model import ModelSection
from sapience.run import write_atomically

WEIGHTS = "model.safetensors"
FIXED = {
    "hidden_act": "silu",
    "attention_bias": False,
    "moe_layer_freq": 1,
    "topk_method": "noaux_tc",
    "rope_interleave": True,
}
"""Keys of config.json that the family leaves no choice in; another value means weights that would be misread."""
LOADABLE = (torch.float32, torch.bfloat16, torch.float16)


def save_model(model: Transformer, folder: Path, bos_id: int, eos_id: int, pad_id: int) -> None:
    """Write config.json, generation_config.json and the weights (config last, so that a torn folder is no model)."""
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f".{WEIGHTS}.partial"
    write_tensors(temporary, dict(exported_tensors(model)), {"format": "pt"})
    temporary.replace(folder / WEIGHTS)
    generation = {"bos_token_id": bos_id, "eos_token_id": eos_id, "pad_token_id": pad_id}
    write_atomically(folder / "generation_config.json", json.dumps(generation, indent=1))
    dtype = str(model.embedding.weight.dtype).removeprefix("torch.")
    write_atomically(folder / "config.json", json.dumps(_config_json(model.config, generation, dtype), indent=1))


def load_config(folder: Path) -> ModelSection:
    """The architecture that `config.json` describes. Raises UserError where it is none of DeepSeek-V3's family."""
    try:
        raw = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{folder} has no readable config.json ({error}): give a Hugging Face model folder") from None
    kind = raw.get("model_type") if isinstance(raw, dict) else None
    if kind != "deepseek_v3":
        raise UserError(f"{folder}/config.json describes a {kind!r} model; sapience loads model_type 'deepseek_v3'")
    for key, value in FIXED.items():
        if raw.get(key, value) != value:
            raise UserError(f"{folder}/config.json has {key} {raw[key]!r}; sapience knows {value!r} only")
    known = {key: raw[key] for key in ModelSection.model_fields if key in raw}
    known.pop("rope_scaling", None)
    scaling = raw.get("rope_scaling") or raw.get("rope_parameters") or {}
    if scaling.get("rope_theta"):
        known["rope_theta"] = scaling["rope_theta"]
    way = scaling.get("type", scaling.get("rope_type", "default"))
    if way not in ("yarn", "default"):
        raise UserError(f"{folder}/config.json has rope_scaling of type {way!r}; sapience knows yarn, or none")
    if way == "yarn":
        names = ("factor", "original_max_position_embeddings", "beta_fast", "beta_slow", "mscale", "mscale_all_dim")
        known["rope_scaling"] = {name: scaling[name] for name in names if name in scaling}
    known.setdefault("num_nextn_predict_layers", 0)
    try:
        return ModelSection.model_validate(known)
    except ValidationError as error:
        wrong = "; ".join(": ".join([*map(str, item["loc"]), item["msg"]]) for item in error.errors())
        raise UserError(f"{folder}/config.json: {wrong.replace('Value error, ', '')}") from None


def load_model(folder: Path, device: torch.device | str = "cpu") -> Transformer:
    """The model of a Hugging Face folder, in float32.

    Raises UserError that names the tensor where one is missing or has another shape, or the file where it is damaged.
    """
    config = load_config(folder)
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise UserError(f"{folder} has a config.json but no .safetensors: the weights are missing")
    with torch.device(device):
        model = Transformer(config)
    handles = [_opened(path, device) for path in files]
    where = {name: handle for handle in handles for name in handle.keys()}  # noqa: SIM118
    with torch.no_grad():
        for name, target in _layout(model):
            if name not in where:
                raise UserError(f"{folder} lacks the tensor {name}, which its config.json promises")
            value = where[name].get_tensor(name)
            if value.shape != target.shape:
                raise UserError(
                    f"{folder}: tensor {name} has shape {list(value.shape)}, config.json wants {list(target.shape)}"
                )
            if value.dtype not in LOADABLE:
                stored = str(value.dtype).removeprefix("torch.")
                raise UserError(
                    f"{folder}: tensor {name} is {stored}: convert the weights to bfloat16 or float32 first"
                )
            target.copy_(value)
    return model


def _opened(path: Path, device: torch.device | str) -> Any:
    try:
        return safe_open(path, framework="pt", device=str(device))
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is damaged ({error}): copy it again") from None


def exported_tensors(model: Transformer) -> Iterator[tuple[str, Tensor]]:
    """Every tensor under its name in the release; the prediction layers carry copies of embedding and head."""
    shared = {"lm_head.weight"} if model.config.tie_word_embeddings else set()
    for name, tensor in _layout(model):
        if name not in shared:
            yield name, tensor.detach().clone()
    for index in range(model.config.num_nextn_predict_layers):
        prefix = f"model.layers.{model.config.num_hidden_layers + index}."
        yield prefix + "embed_tokens.weight", model.embedding.weight.detach().clone()
        yield prefix + "shared_head.head.weight", model.head.weight.detach().clone()


def _layout(model: Transformer) -> Iterator[tuple[str, Tensor]]:
    """Name in the release, and the view of our tensor that it is."""
    yield "model.embed_tokens.weight", model.embedding.weight
    yield "model.norm.weight", model.norm.weight
    if not model.config.tie_word_embeddings:
        yield "lm_head.weight", model.head.weight
    for index, layer in enumerate(model.layers):
        yield from _block(f"model.layers.{index}.", layer, model.config)
    for index, module in enumerate(model.predictions, start=model.config.num_hidden_layers):
        assert isinstance(module, PredictionModule)
        prefix = f"model.layers.{index}."
        yield prefix + "enorm.weight", module.embedding_norm.weight
        yield prefix + "hnorm.weight", module.hidden_norm.weight
        yield prefix + "eh_proj.weight", module.join.weight
        yield prefix + "shared_head.norm.weight", module.norm.weight
        yield from _block(prefix, module.block, model.config)


def _block(prefix: str, block: Any, config: ModelSection) -> Iterator[tuple[str, Tensor]]:
    yield prefix + "input_layernorm.weight", block.attention_norm.weight
    yield prefix + "post_attention_layernorm.weight", block.feed_forward_norm.weight
    attention = block.attention
    names = {
        "q_proj": "q_proj", "q_down": "q_a_proj", "q_norm": "q_a_layernorm", "q_up": "q_b_proj",
        "kv_down": "kv_a_proj_with_mqa", "kv_norm": "kv_a_layernorm", "kv_up": "kv_b_proj", "out": "o_proj",
    }  # fmt: skip
    for ours, theirs in names.items():
        if hasattr(attention, ours):
            yield f"{prefix}self_attn.{theirs}.weight", getattr(attention, ours).weight
    if not hasattr(block, "gate"):
        yield from _swiglu(prefix + "mlp.", block.feed_forward.gate_up.weight, block.feed_forward.down.weight)
        return
    yield prefix + "mlp.gate.weight", block.gate.weight_ED
    yield prefix + "mlp.gate.e_score_correction_bias", block.gate.bias_E
    for expert in range(config.n_routed_experts):
        yield from _swiglu(
            f"{prefix}mlp.experts.{expert}.", block.experts.gate_up_EFD[expert], block.experts.down_EDF[expert]
        )
    if block.shared is not None:
        yield from _swiglu(prefix + "mlp.shared_experts.", block.shared.gate_up.weight, block.shared.down.weight)


def _swiglu(prefix: str, gate_up: Tensor, down: Tensor) -> Iterator[tuple[str, Tensor]]:
    gate, up = gate_up.chunk(2, dim=0)
    yield prefix + "gate_proj.weight", gate
    yield prefix + "up_proj.weight", up
    yield prefix + "down_proj.weight", down


def _config_json(config: ModelSection, special: dict[str, int], dtype: str) -> dict[str, Any]:
    """Keys of the release's config.json; `initializer_range` is the one really trained with."""
    fields = config.model_dump(mode="json")
    return {
        "architectures": ["DeepseekV3ForCausalLM"],
        "model_type": "deepseek_v3",
        **fields,
        "num_key_value_heads": config.num_attention_heads,
        "moe_layer_freq": 1,
        "topk_method": "noaux_tc",
        "hidden_act": "silu",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "torch_dtype": dtype,
        **special,
    }
