"""The network by the C++ forward pass.

For float32 models on a CPU. A row's numbers have the same bits whatever else is drawn with it and on however many threads.
"""

import ctypes
from collections.abc import Sequence

import torch
from torch import Tensor

from sapience.inference.native_library import native_library
from sapience.inference.network import Passed, Places, check_tokens
from sapience.inference.pages import PAGE
from sapience.model.block import DenseBlock, ExpertBlock
from sapience.model.transformer import PredictionModule, Transformer

_POINTERS = ctypes.c_void_p


class _Matrix(ctypes.Structure):
    _fields_ = [("rows", _POINTERS), ("factors", _POINTERS)]


class _Layer(ctypes.Structure):
    _fields_ = [
        *((name, _POINTERS) for name in ("attention_norm", "q_norm", "kv_norm", "kv_up", "feed_norm")),
        *((name, _Matrix) for name in ("q_down", "q_up", "kv_down", "out")),
        *((name, _POINTERS) for name in ("gate", "bias")),
        *((name, _Matrix) for name in ("gate_up", "down", "experts_gate_up", "experts_down")),
        ("cache", _POINTERS),
    ]


class _Model(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int32) for name in (
            "layers", "hidden", "heads", "q_rank", "rank", "nope", "rope", "value", "vocabulary", "inner", "shared_inner",
            "expert_inner", "experts", "choices", "groups", "open_groups", "counted", "softmax_gate", "norm_weights",
        )),
        *((name, ctypes.c_float) for name in ("eps", "scale", "routed_factor")),
        *((name, _POINTERS) for name in ("embedding", "norm", "embedding_norm", "state_norm")),
        *((name, _Matrix) for name in ("head", "join")),
        ("layer", _POINTERS),
    ]  # fmt: skip


class _Batch(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int32) for name in ("tokens", "page", "pages_per_row", "positions", "wanted", "threads")),
        *((name, _POINTERS) for name in (
            "token", "position", "row", "table", "cosines", "sines", "want", "logits", "given", "states", "scratch",
        )),
    ]  # fmt: skip


def fits(model: Transformer) -> bool:
    """Whether the library can be had and covers this model."""
    config = model.config
    weights = [*model.parameters(), *model.buffers()]
    if model.number != torch.float32 or not all(
        weight.device.type == "cpu" and weight.dtype == torch.float32 and weight.is_contiguous() for weight in weights
    ):
        return False
    library = native_library()
    if library is None:
        return False
    sizes = (ctypes.c_int32 * 6)()
    library.sizes(sizes)
    experts, groups, latent = sizes[3:]
    return (
        config.n_routed_experts <= experts
        and config.n_group <= groups
        and config.kv_lora_rank + config.qk_rope_head_dim <= latent
        and list(sizes[:3]) == [ctypes.sizeof(part) for part in (_Layer, _Model, _Batch)]
    )


class NativeNetwork:
    """See Network."""

    at_once = 1024
    asynchronous = False
    """Need some 30 MB at a width of 256."""

    def __init__(
        self, model: Transformer, pages: int, positions: int, drafts: bool = False, eight_bits: bool = False
    ) -> None:
        """See LatentNetwork. With `eight_bits` the matrices but the gate's and that of keys and values are rounded
        (`rounded_rows`), copies a quarter as large."""
        library = native_library()
        if library is None:
            raise RuntimeError("the C++ forward pass cannot be had here: ask `fits` before")
        library.scratch_size.restype = ctypes.c_int64
        self.library, self.model, self.drafts = library, model, drafts
        self.threads = torch.get_num_threads()
        self.positions = -(-positions // PAGE) * PAGE
        self.cosines, self.sines = model.rotary(self.positions)
        config = model.config
        blocks = [*model.layers, *(module.block for module in model.predictions[:drafts])]
        width = config.kv_lora_rank + config.qk_rope_head_dim
        self.cache_LpSW = torch.empty(len(blocks), pages, PAGE, width)
        made = _Matrices(eight_bits)
        self.matrices = made
        self.layers = (_Layer * len(blocks))(
            *(_layer(block, cache, made) for block, cache in zip(blocks, self.cache_LpSW, strict=True))
        )
        self.network = _model(model, self.layers, made)
        self.prediction = _prediction(model, self.layers, self.network, made) if drafts else None
        self.scratch = torch.empty(0)

    def forward(self, tokens_N: Tensor, places: Places, wanted: Tensor) -> Passed:
        """See Network."""
        return self._run(self.network, tokens_N, places, wanted, None)

    def predict(self, tokens_N: Tensor, places: Places, wanted: Tensor, states_ND: Tensor) -> Passed:
        """See Network."""
        assert self.prediction is not None
        return self._run(self.prediction, tokens_N, places, wanted, states_ND.contiguous())

    def _run(
        self, network: _Model, tokens_N: Tensor, places: Places, wanted: Tensor, given_ND: Tensor | None
    ) -> Passed:
        config, count = self.model.config, len(tokens_N)
        check_tokens(tokens_N, config.vocab_size)
        tokens_N = tokens_N.long()
        positions_N, rows_N, table_RP, wanted = (x.int().contiguous() for x in (*places, wanted))
        logits = torch.empty(len(wanted), config.vocab_size)
        states_ND = torch.empty(count, config.hidden_size) if self.drafts else None
        size = self.library.scratch_size(ctypes.byref(network), count, self.positions, self.threads)
        if len(self.scratch) < size:
            self.scratch = torch.empty(size)
        sizes = count, PAGE, table_RP.shape[1], self.positions, len(wanted), self.threads
        arrays = (
            tokens_N, positions_N, rows_N, table_RP, self.cosines, self.sines, wanted, logits, given_ND, states_ND,
            self.scratch,
        )  # fmt: skip
        batch = _Batch(*sizes, *(None if array is None else array.data_ptr() for array in arrays))
        self.library.forward(ctypes.byref(network), ctypes.byref(batch))
        return Passed(logits, states_ND)

    def copy(self, source: Sequence[int], target: Sequence[int]) -> None:
        """See Network."""
        self.cache_LpSW[:, list(target)] = self.cache_LpSW[:, list(source)]


def rounded_rows(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Rows [N, K] of a matrix, or of several, as whole numbers from -127 to 127 and a factor each, [N]."""
    rows_NK = weight.detach().reshape(-1, weight.shape[-1])
    factors_N = (rows_NK.abs().amax(1) / 127).clamp(min=torch.finfo(torch.float32).tiny)
    return (rows_NK / factors_N.unsqueeze(1)).round().to(torch.int8), factors_N


class _Matrices:
    """What the library is told of weights; holds what had to be made for that."""

    def __init__(self, eight_bits: bool) -> None:
        self.eight_bits = eight_bits
        self._kept: list[Tensor] = []

    def of(self, weight: Tensor) -> _Matrix:
        if not self.eight_bits:
            return _Matrix(weight.data_ptr(), None)
        rows_NK, factors_N = rounded_rows(weight)
        self._kept += [rows_NK, factors_N]
        return _Matrix(rows_NK.data_ptr(), factors_N.data_ptr())


def _layer(layer: DenseBlock | ExpertBlock, cache_pSW: Tensor, made: _Matrices) -> _Layer:
    attention, config = layer.attention, layer.attention.config
    compressed = config.q_lora_rank is not None
    vectors: dict[str, Tensor] = {
        "attention_norm": layer.attention_norm.weight,
        "kv_norm": attention.kv_norm.weight,
        "kv_up": attention.kv_up.weight,
        "feed_norm": layer.feed_forward_norm.weight,
        "cache": cache_pSW,
    }
    matrices: dict[str, Tensor] = {
        "q_up": attention.q_up.weight if compressed else attention.q_proj.weight,
        "kv_down": attention.kv_down.weight,
        "out": attention.out.weight,
    }
    if compressed:
        matrices["q_down"], vectors["q_norm"] = attention.q_down.weight, attention.q_norm.weight
    dense = layer.feed_forward if isinstance(layer, DenseBlock) else layer.shared
    if dense is not None:
        matrices |= {"gate_up": dense.gate_up.weight, "down": dense.down.weight}
    if isinstance(layer, ExpertBlock):
        vectors |= {"gate": layer.gate.weight_ED, "bias": layer.gate.bias_E}
        matrices |= {"experts_gate_up": layer.experts.gate_up_EFD, "experts_down": layer.experts.down_EDF}
    return _Layer(
        **{name: part.data_ptr() for name, part in vectors.items()},
        **{name: made.of(part) for name, part in matrices.items()},
    )


def _model(model: Transformer, layers: "ctypes.Array[_Layer]", made: _Matrices) -> _Model:
    config = model.config
    first = model.layers[0]
    assert isinstance(first, DenseBlock | ExpertBlock)
    return _Model(
        layers=len(model.layers),
        hidden=config.hidden_size,
        heads=config.num_attention_heads,
        q_rank=config.q_lora_rank or 0,
        rank=config.kv_lora_rank,
        nope=config.qk_nope_head_dim,
        rope=config.qk_rope_head_dim,
        value=config.v_head_dim,
        vocabulary=config.vocab_size,
        inner=config.intermediate_size,
        shared_inner=config.moe_intermediate_size * config.n_shared_experts,
        expert_inner=config.moe_intermediate_size,
        experts=config.n_routed_experts,
        choices=config.num_experts_per_tok,
        groups=config.n_group,
        open_groups=config.topk_group,
        counted=2 if config.balanced_by_bias else 1,
        softmax_gate=config.scoring_func == "softmax",
        norm_weights=config.norm_topk_prob,
        eps=config.rms_norm_eps,
        scale=first.attention.scale,
        routed_factor=config.routed_scaling_factor,
        embedding=model.embedding.weight.data_ptr(),
        norm=model.norm.weight.data_ptr(),
        head=made.of(model.head.weight),
        layer=ctypes.addressof(layers),
    )


def _prediction(model: Transformer, layers: "ctypes.Array[_Layer]", main: _Model, matrices: _Matrices) -> _Model:
    """The first prediction module, whose layer is the last."""
    module = model.predictions[0]
    assert isinstance(module, PredictionModule)
    made = _Model()
    ctypes.pointer(made)[0] = main
    made.layers = 1
    made.layer = ctypes.addressof(layers) + (len(layers) - 1) * ctypes.sizeof(_Layer)
    made.norm, made.join = module.norm.weight.data_ptr(), matrices.of(module.join.weight)
    made.embedding_norm, made.state_norm = module.embedding_norm.weight.data_ptr(), module.hidden_norm.weight.data_ptr()
    return made
