"""`config.json` of a Hugging Face folder: the one place that knows its keys.

Models with sigmoid gates are `deepseek_v3`, with softmax gates `deepseek_v2`. A key that describes another network than
ours is refused, since its weights would be misread.
"""

import json
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from sapience.recipe.errors import UserError
from sapience.recipe.model import ModelSection

CONFIG = "config.json"
FIXED = {
    "hidden_act": "silu",
    "attention_bias": False,
    "mlp_bias": False,
    "moe_layer_freq": 1,
    "rope_interleave": True,
}
"""Keys that the family leaves no choice in."""
QUANTIZATION = {
    "quant_method": "fp8",
    "fmt": "e4m3",
    "weight_block_size": [128, 128],
    "activation_scheme": "dynamic",
}
"""How the release describes weights in FP8 blocks."""
_METHODS = {"deepseek_v3": ("noaux_tc",), "deepseek_v2": ("greedy", "group_limited_greedy")}
_AFFINITIES = {"deepseek_v3": "sigmoid", "deepseek_v2": "softmax"}
_MAY_LACK = {
    "q_lora_rank", "n_group", "topk_group", "num_nextn_predict_layers", "scoring_func", "norm_topk_prob", "rope_theta",
    "rope_scaling", "rms_norm_eps", "initializer_range", "embedding_range", "tie_word_embeddings",
}  # fmt: skip
"""Keys of ours that a folder may leave out: null, one group, none, or what the release has. The others shape the network,
some of them without showing in the shape of any weight."""
_SCALING = ("factor", "original_max_position_embeddings", "beta_fast", "beta_slow", "mscale", "mscale_all_dim")


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises UserError where there is none."""
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path.parent} has no readable {path.name} ({error}): give a Hugging Face model folder"
        ) from None
    if not isinstance(raw, dict):
        raise UserError(f"{path} holds no JSON object: give a Hugging Face model folder")
    return raw


def load_config(folder: Path) -> ModelSection:
    """The architecture that `config.json` describes. Raises UserError where it is none of DeepSeek-V3's family."""
    raw = read_json(folder / CONFIG)
    kind = raw.get("model_type")
    if kind not in _METHODS:
        raise UserError(
            f"{folder}/config.json describes a {kind!r} model; sapience loads model_type 'deepseek_v3' and 'deepseek_v2'"
        )
    for key, value in FIXED.items():
        if raw.get(key, value) != value:
            raise UserError(f"{folder}/config.json has {key} {raw[key]!r}; sapience knows {value!r} only")
    heads = raw.get("num_attention_heads")
    if raw.get("num_key_value_heads") not in (None, heads):
        raise UserError(
            f"{folder}/config.json has num_key_value_heads {raw['num_key_value_heads']} and {heads} attention heads: latent "
            "attention unfolds a key and a value for every head"
        )
    known = {key: raw[key] for key in ModelSection.model_fields if raw.get(key) is not None}
    lacking = [key for key in ModelSection.model_fields if key not in known and key not in _MAY_LACK]
    if lacking:
        raise UserError(
            f"{folder}/config.json lacks {', '.join(lacking)}: without it the weights can be read in several ways"
        )
    known |= _gate(raw, kind, folder)
    known.pop("rope_scaling", None)
    if (scaling := _scaling(raw, folder)) is not None:
        known["rope_scaling"] = scaling
    theta = _rope(raw, folder).get("rope_theta")
    if theta:
        known["rope_theta"] = theta
    known.setdefault("num_nextn_predict_layers", 0)
    known.setdefault("q_lora_rank", None)
    try:
        return ModelSection.model_validate(known)
    except ValidationError as error:
        wrong = "; ".join(": ".join([*map(str, item["loc"]), item["msg"]]) for item in error.errors())
        raise UserError(f"{folder}/config.json: {wrong.replace('Value error, ', '')}") from None


def _gate(raw: dict[str, Any], kind: str, folder: Path) -> dict[str, Any]:
    method = raw.get("topk_method", _METHODS[kind][0])
    if method not in _METHODS[kind]:
        raise UserError(
            f"{folder}/config.json has topk_method {method!r}; sapience knows {' and '.join(map(repr, _METHODS[kind]))} of a "
            f"{kind!r} model"
        )
    if raw.get("scoring_func", _AFFINITIES[kind]) != _AFFINITIES[kind]:
        raise UserError(
            f"{folder}/config.json has scoring_func {raw['scoring_func']!r}; a {kind!r} model's is {_AFFINITIES[kind]!r}"
        )
    gate: dict[str, Any] = {"scoring_func": _AFFINITIES[kind]}
    if kind == "deepseek_v2":
        gate["norm_topk_prob"] = raw.get("norm_topk_prob", False)
        if method == "greedy":  # groups, if there are any, play no part
            gate |= {"n_group": 1, "topk_group": 1}
    return gate


def _rope(raw: dict[str, Any], folder: Path) -> dict[str, Any]:
    """`rope_scaling`, or `rope_parameters` as transformers 5 writes it; empty where there is neither."""
    found = raw.get("rope_scaling") or raw.get("rope_parameters") or {}
    if not isinstance(found, dict):
        raise UserError(f"{folder}/config.json has a rope_scaling that is no object ({found!r})")
    return found


def _scaling(raw: dict[str, Any], folder: Path) -> dict[str, Any] | None:
    scaling = _rope(raw, folder)
    way = scaling.get("type", scaling.get("rope_type", "default"))
    if way not in ("yarn", "default"):
        raise UserError(f"{folder}/config.json has rope_scaling of type {way!r}; sapience knows yarn, or none")
    if way == "default":
        return None
    if scaling.get("attention_factor") is not None or not scaling.get("truncate", True):
        raise UserError(
            f"{folder}/config.json has a yarn with attention_factor or without truncate, which is not DeepSeek's"
        )
    absent = {"mscale": 1.0, "mscale_all_dim": 0.0}  # what DeepSeek's own code takes an absent key for
    return absent | {name: scaling[name] for name in _SCALING if scaling.get(name) is not None}


def quantization_of(folder: Path) -> dict[str, Any] | None:
    """The folder's `quantization_config` where matrices are FP8 blocks, None where there is none. Raises UserError for
    any other quantization."""
    found = read_json(folder / CONFIG).get("quantization_config")
    if not found:
        return None
    known = {key: QUANTIZATION[key] for key in ("quant_method", "weight_block_size")}
    if not isinstance(found, dict) or not known.items() <= found.items():
        raise UserError(
            f"{folder}/config.json has a quantization_config that sapience does not know ({found}): it reads fp8 in blocks of "
            "128 x 128, as DeepSeek-V3's release has it; convert the weights to bfloat16 first"
        )
    return found


def config_json(
    config: ModelSection, special: dict[str, int], dtype: str, quantization: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Content of config.json, keys as in the release."""
    v3 = config.balanced_by_bias
    methods = _METHODS["deepseek_v3" if v3 else "deepseek_v2"]
    content = {
        "architectures": ["DeepseekV3ForCausalLM" if v3 else "DeepseekV2ForCausalLM"],
        "model_type": "deepseek_v3" if v3 else "deepseek_v2",
        **config.model_dump(mode="json"),
        "num_key_value_heads": config.num_attention_heads,
        "moe_layer_freq": 1,
        "topk_method": methods[-1] if v3 or config.n_group > 1 else methods[0],
        "hidden_act": "silu",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "torch_dtype": dtype,
        **special,
    }
    return content | ({"quantization_config": quantization} if quantization else {})
