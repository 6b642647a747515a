"""Decoding on a GPU: a few tokens' step through the network is one CUDA graph, of kernels made for few rows.

A step's shape is a power of two of tokens and of pages; the first step of a shape runs kernel by kernel, the second is
recorded, the others are played back: the host copies tokens, positions and pages to the device and starts one graph. Rows
that fill up a shape stand for nobody. Long pieces of prompts go LatentNetwork's way, into the same pages.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from sapience.inference.network import LatentNetwork, Passed, Places, check_tokens
from sapience.inference.pages import PAGE
from sapience.model.attention import LatentAttention
from sapience.model.block import DenseBlock, ExpertBlock
from sapience.model.feed_forward import Experts
from sapience.model.linear import Copy, Linear, RMSNorm
from sapience.model.transformer import Transformer, copies_of
from sapience.ops.fp8_blocks import BLOCK

MOST_TOKENS = 256
"""Of a step that is recorded."""
_LEAST_PAGES = 8
_PROGRAMS = 264
"""That keep a GPU's multiprocessors at work: two for each of 132."""


def fits(model: Transformer) -> bool:
    """Whether the kernels take this model, here."""
    config = model.config
    experts, groups = config.n_routed_experts, config.n_group
    # Shared experts are read as so many of the others' width, in FP8 block by block.
    in_blocks = config.n_shared_experts > 1 and any(copy.precision == "fp8" for _, copy in copies_of(model))
    return (
        model.embedding.weight.is_cuda
        and model.number in (torch.bfloat16, torch.float32)
        and experts & (experts - 1) == 0
        and groups & (groups - 1) == 0
        and config.kv_lora_rank <= 512
        and not (in_blocks and config.moe_intermediate_size % BLOCK)
    )


class _Recorded(NamedTuple):
    """A step of one shape."""

    inputs: Tensor
    """Tokens, positions and pages, [tokens, 2 + pages]."""
    given: Tensor
    """States, for the prediction module."""
    graph: Any
    """None until the shape comes again."""
    results: tuple[Tensor, Tensor] | None


class GraphNetwork(LatentNetwork):
    """LatentNetwork with recorded steps."""

    asynchronous = True

    def __init__(self, model: Transformer, pages: int, positions: int, drafts: bool = False) -> None:
        super().__init__(model, pages, positions, drafts)
        self._shapes: dict[tuple[int, int, bool], _Recorded] = {}
        self._pool: Any = None
        blocks = [*model.layers, *([self._module.block] if drafts else [])]
        self._layers = [_Layer(block) for block in blocks]
        if drafts:
            self._join = _matrix(self._module.join)

    def _run(self, tokens_N: Tensor, places: Places, wanted: Tensor, given_ND: Tensor | None) -> Passed:
        count = len(tokens_N)
        if count > MOST_TOKENS:
            return super()._run(tokens_N, places, wanted, given_ND)
        from sapience.ops import decode_kernel  # needs triton, which comes with PyTorch's CUDA builds alone

        check_tokens(tokens_N, self.model.config.vocab_size)
        positions_N, rows_N, table_RP = places
        reach = int(positions_N.max()) // PAGE + 1
        size = 1 << (count - 1).bit_length()
        width = min(max(_LEAST_PAGES, 1 << (reach - 1).bit_length()), self.cosines.shape[0] // PAGE)
        key = size, width, given_ND is not None
        shape = self._shapes.get(key) or self._shape(*key)
        # A new one each time: the last may still be on its way. Its memory is kept for the next.
        host = torch.full((size, 2 + width), -1, dtype=torch.int32, pin_memory=True)
        host[:count, 0], host[:count, 1] = tokens_N, positions_N
        table_RP = table_RP[:, :width]
        host[:count, 2 : 2 + table_RP.shape[1]] = table_RP[rows_N.long()]
        shape.inputs.copy_(host, non_blocking=True)
        if given_ND is not None:
            shape.given[:count] = given_ND
        if shape.results is None:
            with decode_kernel.compiling():
                self._step(shape.inputs, shape.given, key[2])
            logits, states_ND = self._step(shape.inputs, shape.given, key[2])
            self._shapes[key] = self._recorded(shape, key[2])
        else:
            shape.graph.replay()
            logits, states_ND = shape.results
        chosen = logits[:count] if len(wanted) == count else logits[wanted.long().to(self.device)]
        return Passed(chosen.clone(), states_ND[:count].clone() if self.drafts else None)

    def _shape(self, size: int, width: int, predicts: bool) -> _Recorded:
        inputs = torch.zeros(size, 2 + width, dtype=torch.int32, device=self.device)
        given = torch.zeros(
            size if predicts else 0, self.model.config.hidden_size, dtype=self.model.number, device=self.device
        )
        return _Recorded(inputs, given, None, None)

    def _recorded(self, shape: _Recorded, predicts: bool) -> _Recorded:
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            results = self._step(shape.inputs, shape.given, predicts)
        self._pool = self._pool or graph.pool()
        return shape._replace(graph=graph, results=results)

    def _step(self, inputs: Tensor, given_ND: Tensor, predicts: bool) -> tuple[Tensor, Tensor]:
        """Logits and states of all tokens, those of nobody too."""
        from sapience.ops import decode_kernel as kernel

        model, config = self.model, self.model.config
        count, width = len(inputs), inputs.shape[1] - 2
        main = len(model.layers)
        hidden_ND = model.embedded(inputs[:, 0].clamp(min=0).long())
        layers, caches, norm = self._layers[:main], self.caches[:main], model.norm
        if predicts:
            module = self._module
            joined = hidden_ND.new_empty(count, 2 * config.hidden_size)
            kernel.normed(hidden_ND, _norm(module.embedding_norm), joined[:, : config.hidden_size])
            kernel.normed(given_ND, _norm(module.hidden_norm), joined[:, config.hidden_size :])
            hidden_ND = kernel.linear(joined, self._join, config.hidden_size)
            layers, caches, norm = self._layers[main:], self.caches[main:], module.norm
        head_blocks = -(-config.num_attention_heads // 16)
        splits = max(1, min(width * PAGE // kernel.BLOCK, -(-_PROGRAMS // (count * head_blocks)), 32))
        parts: Tensor | None = None
        for layer, cache in zip(layers, caches, strict=True):
            pages = kernel.Pages(
                cache.latent_BSR, cache.rotary_BSP, inputs[:, 2:], inputs[:, 1], self.cosines, self.sines
            )
            hidden_ND, parts = layer.step(hidden_ND, parts, pages, splits)
        _, states_ND = _summed(hidden_ND, parts, norm)
        logits = kernel.linear(states_ND, kernel.Matrix(self.head_VD), config.vocab_size, wide=True)
        return logits, states_ND


class _Layer:
    """One layer's matrices as the kernels read them."""

    def __init__(self, block: DenseBlock | ExpertBlock) -> None:
        from sapience.ops import decode_kernel as kernel

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
        self.gate_up: Any = None if feed is None else _matrix(feed.gate_up)
        self.down: Any = None if feed is None else _matrix(feed.down)
        if isinstance(block, ExpertBlock):
            experts: Experts = block.experts
            self.experts_gate_up = _stack(experts.gate_up_EFD, experts.gate_up_copy)
            self.experts_down = _stack(experts.down_EDF, experts.down_copy)
            wide = block.gate.weight_ED.detach()
            upper = wide.to(self.up_HdR.dtype)
            self.gate = kernel.Matrix(torch.cat((upper, (wide - upper).to(upper.dtype))))

    def step(self, hidden_ND: Tensor, parts: Tensor | None, pages: Any, splits: int) -> tuple[Tensor, Tensor | None]:
        """The residual stream behind the layer, and what is still to be added to it; given is that of the layer before. The
        rows' latents are in their pages then."""
        from sapience.ops import decode_kernel as kernel

        block, config = self.block, self.config
        attention: LatentAttention = block.attention
        width, heads = config.hidden_size, config.num_attention_heads
        rank, query_width = config.kv_lora_rank + config.qk_rope_head_dim, heads * config.qk_head_dim
        hidden_ND, x_ND = _summed(hidden_ND, parts, block.attention_norm)
        outputs = (query_width if config.q_lora_rank is None else config.q_lora_rank), rank
        query, key_value = kernel.linear_pair(x_ND, self.query, self.latent, outputs)
        query_norm = None if self.query_up is None else _norm(attention.q_norm)
        kernel.remember(key_value, _norm(attention.kv_norm), pages, query, query_norm)
        if self.query_up is not None:
            query = kernel.linear(query, self.query_up, query_width)
        query = query.unflatten(1, (heads, -1))
        mixed = kernel.attend(query, self.up_HdR, config.v_head_dim, attention.scale, pages, splits)
        hidden_ND = kernel.linear(mixed, self.out, width, hidden_ND)
        x_ND = kernel.normed(hidden_ND, _norm(block.feed_forward_norm))
        if not isinstance(block, ExpertBlock):
            inner_NF = kernel.gated(x_ND, self.gate_up, config.intermediate_size)
            return kernel.linear(inner_NF, self.down, width, hidden_ND), None
        routed = kernel.route(
            kernel.linear(x_ND, self.gate, 2 * config.n_routed_experts, wide=True),
            block.gate.bias_E, pages.positions, config.num_experts_per_tok, config.n_group, config.topk_group,
            2 if config.balanced_by_bias else 1, config.scoring_func == "sigmoid", config.norm_topk_prob,
            config.routed_scaling_factor, config.n_shared_experts,
        )  # fmt: skip
        inner = config.moe_intermediate_size
        inner_CF = kernel.experts_gated(x_ND, self.experts_gate_up, self.gate_up, inner, routed)
        return hidden_ND, kernel.experts_linear(inner_CF, self.experts_down, self.down, width, routed)


def _summed(hidden_ND: Tensor, parts: Tensor | None, norm: nn.Module) -> tuple[Tensor, Tensor]:
    """The residual stream with its parts, and that normed."""
    from sapience.ops import decode_kernel as kernel

    if parts is None:
        return hidden_ND, kernel.normed(hidden_ND, _norm(norm))
    return kernel.summed_normed(hidden_ND, parts, _norm(norm))


def _norm(module: nn.Module) -> Any:
    from sapience.ops import decode_kernel as kernel

    assert isinstance(module, RMSNorm)
    return kernel.Norm(module.weight.detach(), float(module.eps or 0.0))


def _matrix(linear: Linear) -> Any:
    return _stack(linear.weight, linear.copy)


def _stack(weight: Tensor, copy: Copy) -> Any:
    from sapience.ops import decode_kernel as kernel

    if copy.elements is not None and copy.scales is not None:
        elements, scales = copy.elements, copy.scales
        plane = elements.shape[1] // copy.planes
        return kernel.Matrix(
            elements if weight.ndim == 3 else elements[0], scales if weight.ndim == 3 else scales[0], plane
        )
    matrix = weight.detach() if copy.narrow is None else copy.narrow
    return kernel.Matrix(matrix, None, matrix.shape[-2] // copy.planes)
