"""One transformer layer, as steps that a schedule can interleave.

A block with experts is attention, routing, dispatch, experts, combine. Each is a method that takes and returns plain
tensors, so that a pipeline may run the steps of two micro-batches in turn, with the exchange between dispatch and experts
under way meanwhile (`until_dispatch`, `expert`, `combine`). `forward` calls them in order.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from torch import Tensor, nn

from sapience.model.attention import LatentAttention
from sapience.model.batch import Exchange, SharedRows
from sapience.model.feed_forward import Experts, FeedForward
from sapience.model.gate import Gate, Routing, count_loads, sequence_balance
from sapience.model.linear import Linear, RMSNorm
from sapience.model.recompute import after_norm, around_attention
from sapience.ops.fp8_tiles import Tiles
from sapience.ops.masked_attention import Mask
from sapience.ops.permutation import ExpertOrder, combine, dispatch, expert_order, sort_weights
from sapience.recipe.compute import RecomputedPart
from sapience.recipe.model import ModelSection


@dataclass(frozen=True)
class Context:
    """What every layer of a forward pass shares."""

    cosines: Tensor
    """[T,P/2], or [B,T,P/2] where rows have positions of their own; so are the sines."""
    sines: Tensor
    valid_BT: Tensor | None = None
    """True where there is a token; None where there is no padding."""
    mask: Mask | None = None
    """None for plain causality."""
    shared: SharedRows | None = None
    """Where other ranks have other places of the rows."""
    key_table: tuple[Tensor, Tensor] | None = None
    """Then cosines and sines of all places."""

    @property
    def exchange(self) -> Exchange | None:
        """How to speak with those ranks."""
        return None if self.shared is None else self.shared.exchange


@dataclass(frozen=True)
class Router:
    """What a layer's gate leaves behind for balancing; returned, never stored, so recomputation cannot count it twice."""

    loads_E: Tensor
    """Tokens per expert, padding left out; no gradient."""
    balance_B: Tensor
    """Sequence-wise balance term of each row, differentiable; where ranks share rows, a rank's share of it."""


class DenseBlock(nn.Module):
    """Attention and a dense feed-forward, each behind its norm and added to the residual stream."""

    def __init__(self, config: ModelSection) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.attention = LatentAttention(config)
        self.feed_forward_norm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.feed_forward = FeedForward(config.hidden_size, config.intermediate_size)
        self.recompute: frozenset[RecomputedPart] = frozenset()

    def attend(self, hidden_BTD: Tensor, context: Context) -> Tensor:
        """The residual stream after attention."""
        return _attended(self.attention_norm, self.attention, self.recompute, hidden_BTD, context)

    def feed(self, hidden_BTD: Tensor) -> Tensor:
        """The residual stream after the feed-forward."""
        feed = partial(self.feed_forward, tiles=_tiles(self.feed_forward_norm, self.feed_forward.down, hidden_BTD))
        fed: Tensor = after_norm(self.feed_forward_norm, feed, hidden_BTD, "norms" in self.recompute)
        return hidden_BTD + fed

    def forward(self, hidden_BTD: Tensor, context: Context) -> tuple[Tensor, Router | None]:
        """A dense layer has no router."""
        return self.feed(self.attend(hidden_BTD, context)), None


class ExpertBlock(nn.Module):
    """Attention and a mixture of experts."""

    def __init__(self, config: ModelSection) -> None:
        super().__init__()
        self.config = config
        self.attention_norm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.attention = LatentAttention(config)
        self.feed_forward_norm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.gate = Gate(config)
        self.experts = Experts(config)
        self.shared = (
            FeedForward(config.hidden_size, config.moe_intermediate_size * config.n_shared_experts)
            if config.n_shared_experts
            else None
        )
        self.recompute: frozenset[RecomputedPart] = frozenset()

    def attend(self, hidden_BTD: Tensor, context: Context) -> Tensor:
        """The residual stream after attention."""
        return _attended(self.attention_norm, self.attention, self.recompute, hidden_BTD, context)

    def normalise(self, hidden_BTD: Tensor) -> Tensor:
        """What gate and experts see: [T, D] with the rows of all sequences one after another."""
        normalised: Tensor = self.feed_forward_norm(hidden_BTD)
        return normalised.flatten(0, 1)

    def route(self, x_TD: Tensor) -> tuple[Routing, ExpertOrder]:
        """Choose experts and sort the tokens' copies by them."""
        routing: Routing = self.gate(x_TD)
        return routing, expert_order(routing.experts_TK, self.config.n_routed_experts, self.experts.multiple)

    def dispatch(self, x_TD: Tensor, routing: Routing, order: ExpertOrder) -> tuple[Tensor, Tensor]:
        """Copies of the tokens at their experts' places, [N, D], and the weight of each, [N]."""
        return dispatch(x_TD, order), sort_weights(routing.weights_TK, order)

    def expert(self, rows_ND: Tensor, weights_N: Tensor, order: ExpertOrder) -> Tensor:
        """The routed experts' arithmetic on rows that have been dispatched: weighted outputs, [N, D]."""
        outputs: Tensor = self.experts(rows_ND, weights_N, order.counts_E)
        return outputs

    def combine(
        self, hidden_BTD: Tensor, outputs_ND: Tensor, order: ExpertOrder, shared_TD: Tensor | None = None
    ) -> Tensor:
        """The residual stream with the routed experts' outputs and the shared experts' added."""
        mixed_TD = combine(outputs_ND, order)
        if shared_TD is not None:
            mixed_TD = mixed_TD + shared_TD
        return hidden_BTD + mixed_TD.view_as(hidden_BTD)

    def until_dispatch(
        self, hidden_BTD: Tensor, context: Context, leave: Callable[[Tensor, Tensor, Tensor, ExpertOrder], Tensor]
    ) -> tuple[Tensor, Tensor | None, Router]:
        """What comes in front of the routed experts: the residual stream after attention, what the shared experts add to it
        (None without any), [T, D], and the layer's router.

        `leave` is given the tokens, their dispatched rows, the weights of these and their order as soon as they are there, and
        gives back the tokens that the shared experts, which work after that, shall read.
        """
        hidden_BTD = self.attend(hidden_BTD, context)
        tiles = _tiles(self.feed_forward_norm, self.attention.out, hidden_BTD)

        def mix(x_TD: Tensor) -> tuple[Tensor | None, Routing]:
            routing, order = self.route(x_TD)
            tokens_TD = leave(x_TD, *self.dispatch(x_TD, routing, order), order)
            return None if self.shared is None else self.shared(tokens_TD, tiles), routing

        shared_TD, routing = after_norm(self.normalise, mix, hidden_BTD, "norms" in self.recompute)
        return hidden_BTD, shared_TD, self.observe(routing, hidden_BTD.shape[0], context)

    def observe(self, routing: Routing, rows: int, context: Context) -> Router:
        """Load and balance term of this pass."""
        experts_BTK = routing.experts_TK.unflatten(0, (rows, -1))
        affinities_BTE = routing.affinities_TE.unflatten(0, (rows, -1))
        valid = context.valid_BT if context.valid_BT is not None else experts_BTK.new_ones(experts_BTK.shape[:2])
        return Router(
            count_loads(experts_BTK, valid, self.config.n_routed_experts),
            sequence_balance(affinities_BTE, self.config.num_experts_per_tok, valid, context.exchange),
        )

    def forward(self, hidden_BTD: Tensor, context: Context) -> tuple[Tensor, Router | None]:
        """All steps in order; from dispatch to combine as one, which keeps no copies of the tokens for the backward pass."""
        hidden_BTD, routing = self._routed(self.attend(hidden_BTD, context))
        return hidden_BTD, self.observe(routing, hidden_BTD.shape[0], context)

    def feed(self, hidden_BTD: Tensor) -> Tensor:
        """The residual stream after the experts; for inference, where nobody balances."""
        return self._routed(hidden_BTD)[0]

    def _routed(self, hidden_BTD: Tensor) -> tuple[Tensor, Routing]:
        mix = partial(self._mixed, tiles=_tiles(self.feed_forward_norm, self.attention.out, hidden_BTD))
        mixed_TD, routing = after_norm(self.normalise, mix, hidden_BTD, "norms" in self.recompute)
        return hidden_BTD + mixed_TD.view_as(hidden_BTD), routing

    def _mixed(self, x_TD: Tensor, tiles: Tiles | None) -> tuple[Tensor, Routing]:
        """What all experts add, and the routing."""
        routing, order = self.route(x_TD)
        beside = None if self.shared is None else partial(self.shared, x_TD, tiles)
        weights_N = sort_weights(routing.weights_TK, order)
        return self.experts.of_tokens(x_TD, weights_N, order, tiles, beside), routing


def _attended(
    norm: RMSNorm, attention: LatentAttention, parts: frozenset[RecomputedPart], hidden_BTD: Tensor, context: Context
) -> Tensor:
    compress = partial(attention.compress, tiles=_tiles(norm, attention.out, hidden_BTD))
    query, key_value = after_norm(norm, compress, hidden_BTD, "norms" in parts)
    if context.exchange is not None:
        key_value = context.exchange.gathered(key_value)
    inputs = query, key_value, context.cosines, context.sines, context.mask, context.key_table
    mixed = around_attention(attention.mix, *inputs) if "attention_up" in parts else attention.mix(*inputs)
    merged: Tensor = attention.out(mixed)
    return hidden_BTD + merged


def _tiles(norm: RMSNorm, linear: Linear, hidden_BTD: Tensor) -> Tiles | None:
    """What layers in FP8, of which `linear` is one, take of the norm's result; made without it."""
    return norm.tiles(hidden_BTD) if linear.copy.precision == "fp8" else None
