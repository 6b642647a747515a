"""Decoding on a GPU: a few tokens' step through the network is one CUDA graph, of kernels made for few rows.

A step's shape is a power of two of tokens and of pages; the first step of a shape runs kernel by kernel and is recorded, the
others are played back: the host copies tokens, positions and pages to the device and starts one graph. Rows
that fill up a shape stand for nobody. Long pieces of prompts go LatentNetwork's way, into the same pages.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sapience.inference.cycle import Cycle, by_calls
from sapience.inference.network import LatentNetwork, Passed, Places, check_tokens
from sapience.inference.pages import PAGE
from sapience.model.transformer import Transformer, copies_of
from sapience.ops.fp8_blocks import BLOCK

MOST_TOKENS = 256
"""Of a step that is recorded."""
_LEAST_PAGES = 8


def fits(model: Transformer) -> bool:
    """Whether the kernels take this model, here."""
    config = model.config
    experts, groups = config.n_routed_experts, config.n_group
    # Shared experts are read as so many of the others' width, in FP8 block by block.
    in_blocks = config.n_shared_experts > 1 and any(copy.precision == "fp8" for _, copy in copies_of(model))
    return (
        _starts_early(model.embedding.weight.device)
        and model.number in (torch.bfloat16, torch.float32)
        and experts & (experts - 1) == 0
        and groups & (groups - 1) == 0
        and config.kv_lora_rank <= 512
        and not (in_blocks and config.moe_intermediate_size % BLOCK)
    )


def _starts_early(device: torch.device) -> bool:
    """Whether kernels can be started while the one before them ends: on NVIDIA's GPUs since Hopper."""
    return device.type == "cuda" and not torch.version.hip and torch.cuda.get_device_capability(device) >= (9, 0)


class _Recorded(NamedTuple):
    """A step of one shape."""

    inputs: Tensor
    """Tokens, positions and pages, [tokens, 2 + pages]."""
    given: Tensor
    """States, for the prediction module."""
    graph: Any
    """None before the first step."""
    results: tuple[Tensor, Tensor] | None


class _Cycling(NamedTuple):
    """A recorded step with drafts."""

    answers: Tensor
    asked: Tensor
    graph: Any
    results: Tensor


class GraphNetwork(LatentNetwork):
    """LatentNetwork with recorded steps."""

    asynchronous = True

    def __init__(self, model: Transformer, pages: int, positions: int, drafts: bool = False) -> None:
        # Needs triton, which comes with PyTorch's CUDA builds alone.
        from sapience.inference.decode_pass import DecodePass

        super().__init__(model, pages, positions, drafts)
        self._shapes: dict[tuple[int, int, bool], _Recorded] = {}
        self._cycles: dict[tuple[int, int, int], _Cycling] = {}
        self._pool: Any = None
        self._pass = DecodePass(model, self.caches, (self.cosines, self.sines), self.head_VD)

    def _run(self, tokens_N: Tensor, places: Places, wanted: Tensor, given_ND: Tensor | None) -> Passed:
        count = len(tokens_N)
        if count > MOST_TOKENS:
            return super()._run(tokens_N, places, wanted, given_ND)
        from sapience.ops import decode_launch  # needs triton, which comes with PyTorch's CUDA builds alone

        check_tokens(tokens_N, self.model.config.vocab_size)
        positions_N, rows_N, table_RP = places
        reach = int(positions_N.max()) // PAGE + 1
        size = 1 << (count - 1).bit_length()
        width = self._pages_for(reach)
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
            given = shape.given if key[2] else None
            with decode_launch.compiling():
                self._pass.step(shape.inputs, given)
            logits, states_ND = self._pass.step(shape.inputs, given)
            graph, results = self._recorded(lambda: self._pass.step(shape.inputs, given))
            self._shapes[key] = shape._replace(graph=graph, results=results)
        else:
            shape.graph.replay()
            logits, states_ND = shape.results
        chosen = logits[:count] if len(wanted) == count else logits[wanted.long().to(self.device)]
        return Passed(chosen.clone(), states_ND[:count].clone() if self.drafts else None)

    def cycle(self, asked: Cycle) -> Tensor:
        """See `cycle.by_calls`."""
        from sapience.ops import decode_launch  # needs triton, which comes with PyTorch's CUDA builds alone

        count, width = asked.tokens_NW.shape
        size = 1 << (count - 1).bit_length()
        if size * width > MOST_TOKENS:
            return by_calls(self, asked)
        reach = (int(asked.begins_N.max()) + 2 * width - 2) // PAGE + 1
        pages = self._pages_for(reach)
        made = self._cycles.get((size, pages, width))
        host = torch.full((size, width + 2 + pages), -1, dtype=torch.int32, pin_memory=True)
        host[:count, :width], host[:count, width] = asked.tokens_NW, asked.begins_N
        host[:count, width + 1] = asked.ends_N
        table_NP = asked.table_NP[:, :pages]
        host[:count, width + 2 : width + 2 + table_NP.shape[1]] = table_NP
        chances = torch.zeros(size, 2 * width, dtype=torch.float64, pin_memory=True)
        chances[:count] = asked.asked_NU
        answers = (
            host.to(self.device, non_blocking=True) if made is None else made.answers.copy_(host, non_blocking=True)
        )
        drawn = (
            chances.to(self.device, non_blocking=True) if made is None else made.asked.copy_(chances, non_blocking=True)
        )
        if made is None:
            with decode_launch.compiling():
                self._pass.cycle(answers, drawn, width)
            results_NR = self._pass.cycle(answers, drawn, width)
            graph, recorded = self._recorded(lambda: self._pass.cycle(answers, drawn, width))
            self._cycles[size, pages, width] = _Cycling(answers, drawn, graph, recorded)
        else:
            made.graph.replay()
            results_NR = made.results
        return results_NR[:count].clone()

    def _pages_for(self, reach: int) -> int:
        """A power of two, as many as there can be at most."""
        return min(max(_LEAST_PAGES, 1 << (reach - 1).bit_length()), self.cosines.shape[0] // PAGE)

    def _shape(self, size: int, width: int, predicts: bool) -> _Recorded:
        inputs = torch.zeros(size, 2 + width, dtype=torch.int32, device=self.device)
        given = torch.zeros(
            size if predicts else 0, self.model.config.hidden_size, dtype=self.model.number, device=self.device
        )
        return _Recorded(inputs, given, None, None)

    def _recorded(self, run: Callable[[], Any]) -> tuple[Any, Any]:
        """The graph of what is run, and its results, which every replay overwrites."""
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            results = run()
        self._pool = self._pool or graph.pool()
        return graph, results
