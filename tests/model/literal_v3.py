"""DeepSeek-V3 as its report writes it: one sequence, one position, one head, one expert at a time, in float64.

Reads a Transformer's weights and nothing else of it. Slow on purpose; the numbers in the docstrings are the report's
equations. Where the report leaves a choice, the project's is taken: the state that the first prediction module reads is
the one after the final norm, and its joining matrix expects [embedding ; hidden].
"""

import math
from typing import Any

import torch
from torch import Tensor

from sapience.model.transformer import Transformer


def norm(x: Tensor, module: Any) -> Tensor:
    """x over its root mean square, times a weight."""
    return x / torch.sqrt((x * x).mean() + module.eps) * module.weight.detach().double()


def turned(x: Tensor, position: int, model: Transformer) -> Tensor:
    """Rotary embedding of one vector: adjacent elements are a complex number, turned by position · theta^(-2i/P)."""
    width = len(x)
    out = torch.empty_like(x)
    for i in range(width // 2):
        angle = position * model.config.rope_theta ** (-2 * i / width)
        a, b = x[2 * i], x[2 * i + 1]
        out[2 * i] = a * math.cos(angle) - b * math.sin(angle)
        out[2 * i + 1] = a * math.sin(angle) + b * math.cos(angle)
    return out


def matrix(module: Any) -> Tensor:
    weight: Tensor = module.weight.detach().double()
    return weight


def attention(block: Any, h: list[Tensor], model: Transformer) -> list[Tensor]:
    """Equations 1 to 11, without YaRN."""
    config, layer = model.config, block.attention
    heads, nope, rope = config.num_attention_heads, config.qk_nope_head_dim, config.qk_rope_head_dim
    latents, rotary_keys, queries = [], [], []
    for position, x in enumerate(h):
        down = matrix(layer.kv_down) @ x
        latents.append(norm(down[: config.kv_lora_rank], layer.kv_norm))
        rotary_keys.append(turned(down[config.kv_lora_rank :], position, model))
        if config.q_lora_rank is None:
            q = matrix(layer.q_proj) @ x
        else:
            q = matrix(layer.q_up) @ norm(matrix(layer.q_down) @ x, layer.q_norm)
        per_head = q.view(heads, nope + rope)
        queries.append([torch.cat((one[:nope], turned(one[nope:], position, model))) for one in per_head])
    outputs = []
    for position in range(len(h)):
        mixed = []
        for head in range(heads):
            scores, values = [], []
            for before in range(position + 1):
                up = (matrix(layer.kv_up) @ latents[before]).view(heads, nope + config.v_head_dim)[head]
                key = torch.cat((up[:nope], rotary_keys[before]))
                scores.append(queries[position][head] @ key / math.sqrt(nope + rope))
                values.append(up[nope:])
            shares = torch.stack(scores).softmax(0)
            mixed.append(sum(share * value for share, value in zip(shares, values, strict=True)))
        outputs.append(matrix(layer.out) @ torch.cat(mixed))
    return outputs


def swiglu(gate_up: Tensor, down: Tensor, x: Tensor) -> Tensor:
    inner = len(gate_up) // 2
    gate = gate_up[:inner] @ x
    return down @ (gate * torch.sigmoid(gate) * (gate_up[inner:] @ x))


def experts(block: Any, u: Tensor, model: Transformer) -> Tensor:
    """Equations 12 to 16 for one token, with group-limited choice."""
    config = model.config
    centroids = block.gate.weight_ED.detach().double()
    affinity = [float(torch.sigmoid(centroids[e] @ u)) for e in range(config.n_routed_experts)]
    biased = [s + float(b) for s, b in zip(affinity, block.gate.bias_E, strict=True)]
    size = config.n_routed_experts // config.n_group
    groups = sorted(
        range(config.n_group), key=lambda g: -sum(sorted(biased[g * size : (g + 1) * size], reverse=True)[:2])
    )
    open_experts = [e for g in groups[: config.topk_group] for e in range(g * size, (g + 1) * size)]
    chosen = sorted(open_experts, key=lambda e: -biased[e])[: config.num_experts_per_tok]
    total = sum(affinity[e] for e in chosen)
    out = swiglu(block.shared.gate_up.weight.detach().double(), matrix(block.shared.down), u)
    for e in chosen:
        weight = affinity[e] / total * config.routed_scaling_factor
        routed = block.experts
        out = out + weight * swiglu(routed.gate_up_EFD[e].detach().double(), routed.down_EDF[e].detach().double(), u)
    return out


def transformer_block(block: Any, h: list[Tensor], model: Transformer) -> list[Tensor]:
    """TRM: attention and feed-forward, each behind its norm, added to the stream."""
    attended = attention(block, [norm(x, block.attention_norm) for x in h], model)
    h = [x + a for x, a in zip(h, attended, strict=True)]
    fed = []
    for x in h:
        u = norm(x, block.feed_forward_norm)
        if hasattr(block, "gate"):
            fed.append(x + experts(block, u, model))
        else:
            layer = block.feed_forward
            fed.append(x + swiglu(matrix(layer.gate_up), matrix(layer.down), u))
    return fed


def hidden_states(model: Transformer, tokens: list[int]) -> list[list[Tensor]]:
    """[main model, depth 1, depth 2, …]: states after their norms; depth k has T-k of them (equations 21, 22)."""
    embedding = matrix(model.embedding)
    h = [embedding[token] for token in tokens]
    for layer in model.layers:
        h = transformer_block(layer, h, model)
    states = [[norm(x, model.norm) for x in h]]
    for depth, module in enumerate(model.predictions, start=1):
        joined = []
        for i in range(len(tokens) - depth):
            ahead = norm(embedding[tokens[i + depth]], module.embedding_norm)
            joined.append(matrix(module.join) @ torch.cat((ahead, norm(states[-1][i], module.hidden_norm))))
        states.append([norm(x, module.norm) for x in transformer_block(module.block, joined, model)])
    return states


def loss_sums(model: Transformer, tokens: list[int]) -> list[float]:
    """Sum of -log P of what each depth predicts: state i of depth k predicts token i+k+1 (equations 23, 24).

    `tokens` are T+1: T inputs and the last target.
    """
    head = matrix(model.head)
    sums = []
    for depth, states in enumerate(hidden_states(model, tokens[:-1])):
        total = 0.0
        for i, state in enumerate(states):
            total -= float((head @ state).log_softmax(0)[tokens[i + depth + 1]])
        sums.append(total)
    return sums
