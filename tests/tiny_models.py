"""Models small enough to check by hand, drawn so that no weight is neutral.

`Transformer.initialize` gives norms of one, gate biases of zero and logits near zero; an error in a norm's place, or a
bias that reaches the weights, would hide behind that. Here every tensor differs from what leaves a value unchanged.
"""

from typing import Any

import torch

from sapience.model.batch import Microbatch, from_rows
from sapience.model.transformer import Transformer
from sapience.recipe.model import ModelSection

torch.set_num_threads(1)

SIZES: dict[str, Any] = {
    "vocab_size": 61,
    "hidden_size": 32,
    "intermediate_size": 48,
    "moe_intermediate_size": 16,
    "num_hidden_layers": 3,
    "num_nextn_predict_layers": 1,
    "num_attention_heads": 2,
    "q_lora_rank": 12,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 4,
    "v_head_dim": 8,
    "n_routed_experts": 8,
    "num_experts_per_tok": 3,
    "n_group": 4,
    "topk_group": 2,
    "first_k_dense_replace": 1,
    "routed_scaling_factor": 2.5,
}


def tiny_config(**changes: Any) -> ModelSection:
    """V3 in miniature: query compression, two of four groups, three of eight experts, a dense layer, one MTP depth."""
    return ModelSection.model_validate(SIZES | changes)


@torch.no_grad()
def tiny_model(
    config: ModelSection | None = None, seed: int = 0, dtype: torch.dtype = torch.float32, deviation: float = 0.25
) -> Transformer:
    """Random weights; norms between a half and one and a half; gate biases that change the choice of experts."""
    model = Transformer(config or tiny_config()).to(dtype)
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1:
            parameter.copy_(0.5 + torch.rand(parameter.shape, generator=generator))
        else:
            scale = 0.7 if "embedding" in name else deviation
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)
    for block in model.gates() if model.config.balanced_by_bias else ():
        block.gate.bias_E.copy_(0.2 * torch.rand(block.gate.bias_E.shape, generator=generator))
    return model


def random_batch(
    config: ModelSection, rows: int, length: int, seed: int = 0, isolate: bool = False, padding: bool = True
) -> Microbatch:
    """Packed rows: documents of random lengths, a little padding at the end of some rows."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(config.vocab_size, (rows, length + 1), generator=generator)
    documents = torch.zeros(rows, length + 1, dtype=torch.int32)
    for row in range(rows):
        begins = torch.rand(length + 1, generator=generator) < 0.15
        documents[row] = begins.cumsum(0).to(torch.int32)
        if padding and row % 2:
            end = int(torch.randint(length // 2, length + 1, (1,), generator=generator))
            documents[row, end:] = -1
            tokens[row, end:] = 2
    return from_rows(tokens, documents, isolate)
