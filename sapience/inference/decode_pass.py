"""A few tokens' pass through the network by kernels made for few rows; the parts of a step that `graph_network` records."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from sapience.inference.pages import PAGE
from sapience.model.attention import LatentAttention, LatentCache
from sapience.model.block import DenseBlock, ExpertBlock
from sapience.model.feed_forward import Experts
from sapience.model.linear import Copy, Linear, RMSNorm
from sapience.model.transformer import PredictionModule, Transformer
from sapience.ops import cycle_kernel
from sapience.ops.decode_attention_kernel import BLOCK, Pages, attend, remember
from sapience.ops.decode_linear_kernel import Matrix, experts_gated, experts_linear, gated, linear, linear_pair
from sapience.ops.decode_norm_gate_kernel import Norm, normed, route, summed_normed
from sapience.ops.draw import draw

_PROGRAMS = 264
"""That keep a GPU's multiprocessors at work: two for each of 132."""


class DecodePass:
    """A model whose matrices the kernels read, and the pages of its latents."""

    def __init__(
        self, model: Transformer, caches: Sequence[LatentCache], rotary: tuple[Tensor, Tensor], head_VD: Tensor
    ) -> None:
        """A cache for every layer, and one more if the prediction module is to be used."""
        self.model, self.caches, self.head = model, caches, Matrix(head_VD)
        self.cosines, self.sines = rotary
        blocks: list[nn.Module] = list(model.layers)
        if len(caches) > len(blocks):
            module = model.predictions[0]
            assert isinstance(module, PredictionModule)
            self.module, self.join = module, _matrix(module.join)
            blocks.append(module.block)
        self.layers = [_Layer(block) for block in blocks]

    def step(self, inputs: Tensor, given_ND: Tensor | None, picked_N: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Logits and states of all tokens, those of nobody too, or of the picked ones; with states given, the prediction
        module's."""
        model, config = self.model, self.model.config
        count, width = len(inputs), inputs.shape[1] - 2
        main = len(model.layers)
        hidden_ND = model.embedded(inputs[:, 0].clamp(min=0).long())
        layers, caches, norm = self.layers[:main], self.caches[:main], model.norm
        if given_ND is not None:
            module = self.module
            joined = hidden_ND.new_empty(count, 2 * config.hidden_size)
            normed(hidden_ND, _norm(module.embedding_norm), joined[:, : config.hidden_size])
            normed(given_ND, _norm(module.hidden_norm), joined[:, config.hidden_size :])
            hidden_ND = linear(joined, self.join, config.hidden_size)
            layers, caches, norm = self.layers[main:], self.caches[main:], module.norm
        head_blocks = -(-config.num_attention_heads // 16)
        splits = max(1, min(width * PAGE // BLOCK, -(-_PROGRAMS // (count * head_blocks)), 32))
        parts: Tensor | None = None
        for layer, cache in zip(layers, caches, strict=True):
            pages = Pages(cache.latent_BSR, cache.rotary_BSP, inputs[:, 2:], inputs[:, 1], self.cosines, self.sines)
            hidden_ND, parts = layer.step(hidden_ND, parts, pages, splits)
        _, states_ND = _summed(hidden_ND, parts, norm)
        if picked_N is not None:
            states_ND = states_ND[picked_N]
        logits = linear(states_ND, self.head, config.vocab_size, wide=True)
        return logits, states_ND

    def cycle(self, answers: Tensor, asked: Tensor, width: int) -> Tensor:
        """A step with drafts: see `cycle_kernel` for what goes in, `cycle.by_calls` for what comes out."""
        rows, wanted = cycle_kernel.spread(answers, asked, width)
        logits, states_ND = self.step(rows, None)
        results, rows, last, wanted = cycle_kernel.check(answers, asked, draw(logits, wanted), width)
        logits, states_ND = self.step(rows, states_ND, last)
        for ahead in range(width - 1):
            rows, wanted = cycle_kernel.follow(answers, asked, draw(logits, wanted), results, ahead, width)
            if ahead + 2 < width:
                logits, states_ND = self.step(rows, states_ND)
        return results


class _Layer:
    """One layer's matrices as the kernels read them."""

    def __init__(self, block: nn.Module) -> None:
        assert isinstance(block, DenseBlock | ExpertBlock)
        self.block, self.config = block, block.attention.config
        attention: LatentAttention = block.attention
        compressed = self.config.q_lora_rank is not None
        self.query = _matrix(attention.q_down if compressed else attention.q_proj)
        self.query_up = _matrix(attention.q_up) if compressed else None
        self.latent, self.out = _matrix(attention.kv_down), _matrix(attention.out)
        self.up_HdR = attention.kv_up.matrix.detach().view(
            self.config.num_attention_heads, -1, self.config.kv_lora_rank
        )
        feed = block.shared if isinstance(block, ExpertBlock) else block.feed_forward
        self.gate_up = None if feed is None else _matrix(feed.gate_up)
        self.down = None if feed is None else _matrix(feed.down)
        if isinstance(block, ExpertBlock):
            experts: Experts = block.experts
            self.experts_gate_up = _stack(experts.gate_up_EFD, experts.gate_up_copy)
            self.experts_down = _stack(experts.down_EDF, experts.down_copy)
            wide = block.gate.weight_ED.detach()
            upper = wide.to(self.up_HdR.dtype)
            self.gate = Matrix(torch.cat((upper, (wide - upper).to(upper.dtype))))

    def step(self, hidden_ND: Tensor, parts: Tensor | None, pages: Pages, splits: int) -> tuple[Tensor, Tensor | None]:
        """The residual stream behind the layer, and what is still to be added to it; given is that of the layer before. The
        rows' latents are in their pages then."""
        block, config = self.block, self.config
        attention: LatentAttention = block.attention
        width, heads = config.hidden_size, config.num_attention_heads
        rank, query_width = config.kv_lora_rank + config.qk_rope_head_dim, heads * config.qk_head_dim
        hidden_ND, x_ND = _summed(hidden_ND, parts, block.attention_norm)
        outputs = (query_width if config.q_lora_rank is None else config.q_lora_rank), rank
        query, key_value = linear_pair(x_ND, self.query, self.latent, outputs)
        query_norm = None if self.query_up is None else _norm(attention.q_norm)
        remember(key_value, _norm(attention.kv_norm), pages, query, query_norm)
        if self.query_up is not None:
            query = linear(query, self.query_up, query_width)
        query = query.unflatten(1, (heads, -1))
        mixed = attend(query, self.up_HdR, config.v_head_dim, attention.scale, pages, splits)
        hidden_ND = linear(mixed, self.out, width, hidden_ND)
        x_ND = normed(hidden_ND, _norm(block.feed_forward_norm))
        if not isinstance(block, ExpertBlock):
            assert self.gate_up is not None and self.down is not None
            inner_NF = gated(x_ND, self.gate_up, config.intermediate_size)
            return linear(inner_NF, self.down, width, hidden_ND), None
        routed = route(
            linear(x_ND, self.gate, 2 * config.n_routed_experts, wide=True),
            block.gate.bias_E, pages.positions, config.num_experts_per_tok, config.n_group, config.topk_group,
            2 if config.balanced_by_bias else 1, config.scoring_func == "sigmoid", config.norm_topk_prob,
            config.routed_scaling_factor, config.n_shared_experts,
        )  # fmt: skip
        inner = config.moe_intermediate_size
        inner_CF = experts_gated(x_ND, self.experts_gate_up, self.gate_up, inner, routed)
        return hidden_ND, experts_linear(inner_CF, self.experts_down, self.down, width, routed)


def _summed(hidden_ND: Tensor, parts: Tensor | None, norm: nn.Module) -> tuple[Tensor, Tensor]:
    """The residual stream with its parts, and that normed."""
    if parts is None:
        return hidden_ND, normed(hidden_ND, _norm(norm))
    return summed_normed(hidden_ND, parts, _norm(norm))


def _norm(module: nn.Module) -> Norm:
    assert isinstance(module, RMSNorm)
    return Norm(module.weight.detach(), float(module.eps or 0.0))


def _matrix(module: Linear) -> Matrix:
    return _stack(module.weight, module.copy)


def _stack(weight: Tensor, copy: Copy) -> Matrix:
    if copy.elements is not None and copy.scales is not None:
        elements, scales = copy.elements, copy.scales
        plane = elements.shape[1] // copy.planes
        return Matrix(elements if weight.ndim == 3 else elements[0], scales if weight.ndim == 3 else scales[0], plane)
    matrix = weight.detach() if copy.narrow is None else copy.narrow
    return Matrix(matrix, None, matrix.shape[-2] // copy.planes)
