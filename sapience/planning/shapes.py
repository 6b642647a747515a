"""Models of known sizes to measure with: by name, from a Hugging Face config, or from a recipe.

`nano` is for two CPU cores, `small` for one GPU; `v3slice` is two layers of DeepSeek-V3's own widths with 16 experts.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from sapience.recipe.errors import UserError
from sapience.recipe.loading import load_recipe
from sapience.recipe.model import ModelSection


@dataclass(frozen=True)
class Shape:
    """A model and the rows of a step."""

    name: str
    model: ModelSection
    rows: int
    length: int
    """Tokens of a row."""


def _shape(name: str, rows: int, length: int, **fields: Any) -> Shape:
    given = {"num_nextn_predict_layers": 0, "first_k_dense_replace": 1, "routed_scaling_factor": 2.5}
    return Shape(name, ModelSection(max_position_embeddings=length, **(given | fields)), rows, length)


SHAPES = {
    "nano": _shape(
        "nano", 8, 512, vocab_size=8192, hidden_size=256, intermediate_size=704, moe_intermediate_size=128,
        num_hidden_layers=6, num_attention_heads=8, n_shared_experts=1, n_routed_experts=16, kv_lora_rank=64,
        q_lora_rank=96, qk_rope_head_dim=16, v_head_dim=32, qk_nope_head_dim=32, n_group=4, topk_group=2,
        num_experts_per_tok=4,
    ),
    "small": _shape(
        "small", 8, 4096, vocab_size=32768, hidden_size=1024, intermediate_size=2816, moe_intermediate_size=384,
        num_hidden_layers=12, num_attention_heads=16, n_shared_experts=2, n_routed_experts=64, kv_lora_rank=256,
        q_lora_rank=384, qk_rope_head_dim=32, v_head_dim=64, qk_nope_head_dim=64, n_group=8, topk_group=4,
        num_experts_per_tok=6,
    ),
    "v3slice": _shape(
        "v3slice", 2, 4096, vocab_size=32768, hidden_size=7168, intermediate_size=18432, moe_intermediate_size=2048,
        num_hidden_layers=2, num_attention_heads=128, n_shared_experts=1, n_routed_experts=16, kv_lora_rank=512,
        q_lora_rank=1536, qk_rope_head_dim=64, v_head_dim=128, qk_nope_head_dim=128, n_group=1, topk_group=1,
        num_experts_per_tok=8,
    ),
}  # fmt: skip


def find_shape(name: str) -> Shape:
    """A named shape, a recipe's (.yaml) or that of a Hugging Face config (.json, V3's field names).

    Raises UserError for what is none of these.
    """
    if name in SHAPES:
        return SHAPES[name]
    path = Path(name)
    if path.suffix in (".yaml", ".yml"):
        recipe = load_recipe(path)
        return Shape(path.stem, recipe.model, recipe.pretrain.batch.rows, recipe.pretrain.length)
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        given = record.get("hf", record)
        fields = {key: value for key, value in given.items() if key in ModelSection.model_fields}
        model = ModelSection(**fields)
        return Shape(
            path.stem, model, int(record.get("batch", 1)), int(record.get("seq", model.max_position_embeddings))
        )
    except OSError:
        known = ", ".join(SHAPES)
        raise UserError(f"there is no shape {name}: give {known}, a recipe (.yaml) or a config (.json)") from None
    except (ValueError, AttributeError, ValidationError) as error:
        raise UserError(f"{name} is no config of a DeepSeek-V3 model: {str(error).splitlines()[0]}") from None
