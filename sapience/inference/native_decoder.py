"""Drawing by the C++ forward pass: a latent cache in pages, of which rows with one prompt share all but the last.

For float32 models on a CPU. A row's numbers have the same bits whatever else is drawn with it and on however many threads.
"""

import ctypes
from collections.abc import Sequence

import torch
from torch import Tensor

from sapience.inference.native_library import native_library
from sapience.model.block import DenseBlock, ExpertBlock
from sapience.model.transformer import Transformer

PAGE = 16
"""Positions of a page."""
AT_ONCE = 1024
"""Tokens of prompts that are read in one call: a thousand need some 30 MB at a width of 256."""
_POINTERS = ctypes.c_void_p


class _Layer(ctypes.Structure):
    _fields_ = [
        (name, _POINTERS)
        for name in (
            "attention_norm", "q_down", "q_norm", "q_up", "kv_down", "kv_norm", "kv_up", "out", "feed_norm", "gate", "bias",
            "gate_up", "down", "experts_gate_up", "experts_down", "cache",
        )
    ]  # fmt: skip


class _Model(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int32) for name in (
            "layers", "hidden", "heads", "q_rank", "rank", "nope", "rope", "value", "vocabulary", "inner", "shared_inner",
            "expert_inner", "experts", "choices", "groups", "open_groups", "counted", "softmax_gate", "norm_weights",
        )),
        *((name, ctypes.c_float) for name in ("eps", "scale", "routed_factor")),
        *((name, _POINTERS) for name in ("embedding", "norm", "head", "layer")),
    ]  # fmt: skip


class _Batch(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int32) for name in ("tokens", "page", "pages_per_row", "positions", "wanted", "threads")),
        *((name, _POINTERS) for name in (
            "token", "position", "row", "table", "cosines", "sines", "want", "logits", "scratch",
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


class NativeDecoder:
    """See Decoder."""

    def __init__(self, model: Transformer, prompts: Sequence[Sequence[int]], limit: int) -> None:
        """Room for `limit` tokens behind each prompt."""
        library = native_library()
        if library is None:
            raise RuntimeError("the C++ forward pass cannot be had here: ask `fits` before")
        library.scratch_size.restype = ctypes.c_int64
        self.library, self.model = library, model
        self.threads = torch.get_num_threads()
        longest = max(map(len, prompts)) + limit
        self.positions = -(-longest // PAGE) * PAGE
        self.cosines, self.sines = model.rotary(self.positions)
        self.lengths_B = torch.tensor([len(prompt) for prompt in prompts], dtype=torch.int32)
        self.readers: dict[tuple[int, ...], int] = {}
        """The first row of each different prompt, which reads it."""
        self.sources = [self.readers.setdefault(tuple(prompt), row) for row, prompt in enumerate(prompts)]
        self.table_BP, pages = self._pages(prompts, limit)
        config = model.config
        width = config.kv_lora_rank + config.qk_rope_head_dim
        self.cache_LpSW = torch.empty(len(model.layers), pages, PAGE, width)
        self.layers = (_Layer * len(model.layers))(
            *(_layer(layer, cache) for layer, cache in zip(model.layers, self.cache_LpSW, strict=True))  # type: ignore[arg-type]
        )
        self.network = _model(model, self.layers)
        self.scratch = torch.empty(0)

    def _pages(self, prompts: Sequence[Sequence[int]], limit: int) -> tuple[Tensor, int]:
        """Each row's pages in order, [rows, pages], and how many there are. Whole pages of a prompt are its reader's."""
        table: list[list[int]] = []
        count = 0
        for row, (prompt, source) in enumerate(zip(prompts, self.sources, strict=True)):
            shared = table[source][: len(prompt) // PAGE] if source != row else []
            own = -(-(len(prompt) + limit) // PAGE) - len(shared)
            table.append([*shared, *range(count, count + own)])
            count += own
        widest = max(map(len, table))
        return torch.tensor([[*pages, *[0] * (widest - len(pages))] for pages in table], dtype=torch.int32), count

    def read(self) -> Tensor:
        """See Decoder."""
        tokens = torch.tensor([token for prompt in self.readers for token in prompt])
        lengths = torch.tensor([len(prompt) for prompt in self.readers])
        rows = torch.tensor(list(self.readers.values())).repeat_interleave(lengths)
        ends = lengths.cumsum(0) - 1
        positions = torch.arange(len(tokens)) - (ends + 1 - lengths).repeat_interleave(lengths)
        parts = []
        for start in range(0, len(tokens), AT_ONCE):
            piece = slice(start, start + AT_ONCE)
            wanted = ends[(ends >= start) & (ends < start + AT_ONCE)] - start
            parts.append(self._forward(tokens[piece], positions[piece], rows[piece], wanted))
        self._copy_last_pages()
        place = {row: index for index, row in enumerate(self.readers.values())}
        return torch.cat(parts)[[place[source] for source in self.sources]]

    def _copy_last_pages(self) -> None:
        """Of prompts that do not end with a page, for the rows that did not read them."""
        pairs = [
            (int(self.table_BP[source, length // PAGE]), int(self.table_BP[row, length // PAGE]))
            for row, (source, length) in enumerate(zip(self.sources, self.lengths_B.tolist(), strict=True))
            if source != row and length % PAGE
        ]
        if pairs:
            read, written = zip(*pairs, strict=True)
            self.cache_LpSW[:, list(written)] = self.cache_LpSW[:, list(read)]

    def step(self, tokens: Sequence[int]) -> Tensor:
        """See Decoder."""
        rows = torch.arange(len(tokens))
        logits = self._forward(torch.tensor(tokens), self.lengths_B, rows, rows)
        self.lengths_B = self.lengths_B + 1
        return logits

    def keep(self, rows: Sequence[int]) -> None:
        """See Decoder."""
        index = torch.tensor(rows)
        self.table_BP, self.lengths_B = self.table_BP[index], self.lengths_B[index]

    def _forward(self, tokens: Tensor, positions: Tensor, rows: Tensor, wanted: Tensor) -> Tensor:
        """Logits of the wanted among new tokens, whose latents are written to the cache."""
        if int(tokens.min()) < 0 or int(tokens.max()) >= self.model.config.vocab_size:
            raise IndexError(f"token {int(tokens.max())} is none of the model's {self.model.config.vocab_size}")
        positions, rows, wanted = positions.int(), rows.int(), wanted.int()
        logits = torch.empty(len(wanted), self.model.config.vocab_size)
        network = ctypes.byref(self.network)
        size = self.library.scratch_size(network, len(tokens), self.positions, self.threads)
        if len(self.scratch) < size:
            self.scratch = torch.empty(size)
        sizes = len(tokens), PAGE, self.table_BP.shape[1], self.positions, len(wanted), self.threads
        arrays = tokens, positions, rows, self.table_BP, self.cosines, self.sines, wanted, logits, self.scratch
        batch = _Batch(*sizes, *(array.data_ptr() for array in arrays))
        self.library.forward(network, ctypes.byref(batch))
        return logits


def _layer(layer: DenseBlock | ExpertBlock, cache_pSW: Tensor) -> _Layer:
    attention, config = layer.attention, layer.attention.config
    compressed = config.q_lora_rank is not None
    parts: dict[str, Tensor] = {
        "attention_norm": layer.attention_norm.weight,
        "q_up": attention.q_up.weight if compressed else attention.q_proj.weight,
        "kv_down": attention.kv_down.weight,
        "kv_norm": attention.kv_norm.weight,
        "kv_up": attention.kv_up.weight,
        "out": attention.out.weight,
        "feed_norm": layer.feed_forward_norm.weight,
        "cache": cache_pSW,
    }
    if compressed:
        parts |= {"q_down": attention.q_down.weight, "q_norm": attention.q_norm.weight}
    dense = layer.feed_forward if isinstance(layer, DenseBlock) else layer.shared
    if dense is not None:
        parts |= {"gate_up": dense.gate_up.weight, "down": dense.down.weight}
    if isinstance(layer, ExpertBlock):
        parts |= {
            "gate": layer.gate.weight_ED,
            "bias": layer.gate.bias_E,
            "experts_gate_up": layer.experts.gate_up_EFD,
            "experts_down": layer.experts.down_EDF,
        }
    return _Layer(**{name: part.data_ptr() for name, part in parts.items()})


def _model(model: Transformer, layers: "ctypes.Array[_Layer]") -> _Model:
    config = model.config
    first = model.layers[0]
    assert isinstance(first, DenseBlock | ExpertBlock)
    return _Model(
        layers=len(layers),
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
        head=model.head.weight.data_ptr(),
        layer=ctypes.addressof(layers),
    )
