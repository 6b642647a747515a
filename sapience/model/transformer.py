"""The whole network: embedding, layers, final norm, output head, and the multi-token-prediction modules.

DeepSeek-V3 report, sections 2.1 and 2.2. The prediction modules share embedding and head with the main model and form a
causal chain: depth k reads depth k-1's hidden state and the embedding of the token k places ahead (eqs. 21-25). They
take the main model's state *after* its final norm, as the public serving stacks do; the report does not say.
"""

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from sapience.model.batch import FAMILY, Microbatch
from sapience.model.block import Context, DenseBlock, ExpertBlock, Router
from sapience.model.feed_forward import Experts
from sapience.model.linear import Copy, Linear, Precision, RMSNorm, refresh
from sapience.model.rope import rotary_table
from sapience.ops.embedding import embedding
from sapience.ops.masked_attention import AttentionMask, CausalStretches, Mask, PackedDocuments, most_documents
from sapience.recipe.compute import RecomputedPart
from sapience.recipe.model import ModelSection

_SHAPES = 64
"""Of inputs that a layer's code may be compiled for in one process; PyTorch's own limit is 8."""


@dataclass(frozen=True)
class Forward:
    """Hidden states of a training pass."""

    hidden_BTD: Tensor
    """Main model, after the final norm."""
    predictions: list[Tensor]
    """Depth k (from 1): [B, T-k, D] after its own norm; position i predicts token i+k+1."""
    routers: list[Router]
    """One per layer with experts, main model first, then prediction depths."""


class PredictionModule(nn.Module):
    """One depth of multi-token prediction: join, one transformer layer, norm."""

    def __init__(self, config: ModelSection) -> None:
        super().__init__()
        self.embedding_norm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.hidden_norm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.join = Linear(2 * config.hidden_size, config.hidden_size, fp8=False)
        self.block = ExpertBlock(config)
        self.norm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps)

    def joined(self, hidden_BTD: Tensor, embedding_BTD: Tensor) -> Tensor:
        """M [norm(embedding) ; norm(hidden)]: eq. 21 in the order that the released weights expect."""
        joined: Tensor = self.join(
            torch.cat((self.embedding_norm(embedding_BTD), self.hidden_norm(hidden_BTD)), dim=-1)
        )
        return joined


class Transformer(nn.Module):
    """A DeepSeek-V3 language model."""

    def __init__(self, config: ModelSection) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(
            DenseBlock(config) if index < config.first_k_dense_replace else ExpertBlock(config)
            for index in range(config.num_hidden_layers)
        )
        self.norm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        if config.tie_word_embeddings:
            self.head.weight = self.embedding.weight
        self.predictions = nn.ModuleList(PredictionModule(config) for _ in range(config.num_nextn_predict_layers))
        self._tables: dict[tuple[str, int], tuple[Tensor, Tensor]] = {}
        self._number: torch.dtype | None = None
        self._compiled: dict[int, Callable[..., Any]] = {}
        self._compiled_rows: Collection[int] | None = None

    @torch.no_grad()
    def initialize(self, seed: int) -> "Transformer":
        """Draw every matrix from a normal distribution of `initializer_range` (the embedding of `embedding_range`, where there
        is one); norms are one. The same on any device."""
        generator = torch.Generator().manual_seed(seed)
        for parameter in self.parameters():
            if parameter.ndim == 1:
                parameter.fill_(1.0)
            else:
                noise = torch.randn(parameter.shape, generator=generator)
                own = self.config.embedding_range if parameter is self.embedding.weight else None
                parameter.copy_(noise * (own or self.config.initializer_range))
        return self

    @property
    def number(self) -> torch.dtype:
        """The type of the hidden states."""
        return self._number or next(self.parameters()).dtype

    @property
    def device(self) -> torch.device:
        """Where its parameters are."""
        return next(self.parameters()).device

    def compute_in(self, precision: Precision) -> "Transformer":
        """Compute hidden states and the products between them in this precision from now on.

        Embedding, head, gate and norms keep their weights (report, section 3.3.1). Copies lie beside the weights: move a model
        to its device before.
        """
        self._number = None if precision == "fp32" else torch.bfloat16
        for weight, copy in copies_of(self):
            copy.make(weight, precision)
        return self

    def recompute(self, parts: Iterable[RecomputedPart]) -> None:
        """Make these parts of every layer again in the backward pass from now on, instead of keeping them."""
        for block in self.blocks():
            block.recompute = frozenset(parts)

    def blocks(self) -> "list[DenseBlock | ExpertBlock]":
        """The layers that are here, the prediction modules' last."""
        blocks = [*self.layers, *(m.block for m in self.predictions if isinstance(m, PredictionModule))]
        return [block for block in blocks if isinstance(block, DenseBlock | ExpertBlock)]

    def compile_layers(self, rows: Collection[int] | None = None) -> None:
        """Compile layers and final norms for passes that are to be differentiated, if `rows` is given those with one of these
        numbers of rows. Others, whose shapes vary, are not: each shape takes as long as the first."""
        # Stages compile the same code for their lengths, and behind so many shapes the compiler would silently give up.
        torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, _SHAPES)
        for block in self.gates():
            if not block.experts.compiles:
                block.experts.of_tokens = torch.compiler.disable(block.experts.of_tokens)  # type: ignore[method-assign]
        norms = [module.norm for module in self.predictions if isinstance(module, PredictionModule)]
        parts: list[nn.Module] = [*self.blocks(), self.norm, *norms]
        self._compiled = {id(part): torch.compile(part, dynamic=False) for part in parts}
        self._compiled_rows = rows

    @property
    def compiled(self) -> bool:
        """Whether layers are compiled."""
        return bool(self._compiled)

    def _run(self, part: nn.Module, *inputs: Any) -> Any:
        """The part's result, by its compiled form where there is one for so many rows and a gradient is wanted."""
        fits = self._compiled_rows is None or len(inputs[0]) in self._compiled_rows
        run = self._compiled.get(id(part), part) if fits and torch.is_grad_enabled() else part
        return run(*inputs)

    def refresh(self) -> None:
        """Make the copies anew of weights that have changed; a pass begins with it."""
        if self._number is not None:
            refresh(copies_of(self))

    def gates(self) -> "list[ExpertBlock]":
        """The layers with experts in the order of `Forward.routers`."""
        main = [layer for layer in self.layers if isinstance(layer, ExpertBlock)]
        return main + [module.block for module in self.predictions if isinstance(module, PredictionModule)]

    def numbered_gates(self) -> "list[tuple[int, ExpertBlock]]":
        """The same with their places in that order: a part of a model, such as a pipeline's stage, has some of them."""
        config = self.config
        layers = [*self.layers[config.first_k_dense_replace :]]
        layers += [module.block if isinstance(module, PredictionModule) else module for module in self.predictions]
        return [(number, layer) for number, layer in enumerate(layers) if isinstance(layer, ExpertBlock)]

    def rotary(self, length: int) -> tuple[Tensor, Tensor]:
        """Cosines and sines of the first `length` positions on the model's device."""
        device = self.device
        key = str(device), length
        if key not in self._tables:
            # A table made while sampling must still be good for training, which keeps it for the backward pass.
            with torch.inference_mode(False):
                self._tables = {key: rotary_table(self.config, length, device)}
        return self._tables[key]

    def forward(self, batch: Microbatch) -> Forward:
        """Hidden states of the main model and of every prediction depth."""
        context = self.context(batch)
        hidden, routers = self.body(batch.tokens_BT, context)
        predictions, more = self.chain(hidden, batch.tokens_BT, context)
        return Forward(hidden, predictions, routers + more)

    def context(self, batch: Microbatch) -> Context:
        """What the layers share for this batch."""
        whole, shared = batch.whole, batch.shared
        table = self.rotary(whole.tokens_BT.shape[1])
        if whole.positions_BT is not None:
            table = table[0][whole.positions_BT], table[1][whole.positions_BT]
        mask: Mask | None = None if shared is None else CausalStretches(shared.stretches)
        if batch.isolate and not batch.prefix and shared is None and batch.documents_BT.is_cuda:
            mask = PackedDocuments.of(batch.documents_BT, batch.most_documents or most_documents(batch.documents_BT))
        elif batch.isolate or batch.prefix:
            mask = AttentionMask.of(_allowed(batch))
        if shared is None:
            return Context(*table, batch.valid_BT, mask)
        cosines, sines = (each[..., shared.places_T, :] for each in table)
        return Context(cosines, sines, batch.valid_BT, mask, shared, table)

    def body(self, tokens_BT: Tensor, context: Context) -> tuple[Tensor, list[Router]]:
        """The main model: hidden states after the final norm [B,T,D], and the gates' records."""
        self.refresh()
        hidden_BTD, routers = self.stretch(self.embedded(tokens_BT), range(len(self.layers)), context)
        return self.normed(hidden_BTD), routers

    def stretch(self, hidden_BTD: Tensor, layers: range, context: Context) -> tuple[Tensor, list[Router]]:
        """Through some layers in a row: the residual stream behind them, and their gates' records."""
        routers = []
        for index in layers:
            hidden_BTD, router = self._run(self.layers[index], hidden_BTD, context)
            if router is not None:
                routers.append(router)
        return hidden_BTD, routers

    def normed(self, hidden_BTD: Tensor) -> Tensor:
        """Behind the final norm."""
        normed: Tensor = self._run(self.norm, hidden_BTD)
        return normed

    def chain(
        self, hidden_BTD: Tensor, tokens_BT: Tensor, context: Context, shared_frozen: bool = False
    ) -> tuple[list[Tensor], list[Router]]:
        """The prediction modules' hidden states; depth k has T-k positions, and T where ranks share rows.

        With `shared_frozen` no gradient reaches the embedding, which the modules share with the main model.
        """
        predictions: list[Tensor] = []
        routers: list[Router] = []
        state = hidden_BTD
        for depth, module in enumerate(self.predictions, start=1):
            assert isinstance(module, PredictionModule)
            vectors = self.embedding.weight.detach() if shared_frozen else self.embedding.weight
            ahead_BT, moved = _ahead(tokens_BT, context, depth)
            embedded = embedding(ahead_BT, vectors, self.number)
            state, router = self._run(module.block, module.joined(state[:, : ahead_BT.shape[1]], embedded), moved)
            state = self._run(module.norm, state)
            predictions.append(state)
            if router is not None:
                routers.append(router)
        return predictions, routers

    def embedded(self, tokens_BT: Tensor) -> Tensor:
        """The first hidden states, [B,T,D]."""
        return embedding(tokens_BT, self.embedding.weight, self.number)

    def hidden(self, tokens_BT: Tensor) -> Tensor:
        """Hidden states after the final norm, [B,T,D], of rows without padding (padding at the end does no harm)."""
        return self.body(tokens_BT, Context(*self.rotary(tokens_BT.shape[1])))[0]

    def logits(self, hidden_BTD: Tensor) -> Tensor:
        """Unnormalised log-probabilities over the vocabulary."""
        return functional.linear(hidden_BTD, self.head.weight.to(hidden_BTD.dtype))

    def mtp_hidden(self, hidden_BTD: Tensor, tokens_BT: Tensor) -> list[Tensor]:
        """Depth k: [B, T-k, D]; `logits` of it at position i predicts token i+k+1."""
        return self.chain(hidden_BTD, tokens_BT, Context(*self.rotary(tokens_BT.shape[1])))[0]


def _allowed(batch: Microbatch) -> Tensor:
    """[B,1,T,S]: True where query t may see key s of the whole rows."""
    whole, shared = batch.whole, batch.shared
    documents_BS = whole.documents_BT
    keys_S = torch.arange(documents_BS.shape[1], device=documents_BS.device)
    seen = batch.documents_BT.unsqueeze(2) == documents_BS.unsqueeze(1)
    if batch.prefix:
        families_BT, families_BS = (d.div(FAMILY, rounding_mode="floor") for d in (batch.documents_BT, documents_BS))
        beginnings_BS = families_BS * FAMILY == documents_BS
        seen = seen | ((families_BT.unsqueeze(2) == families_BS.unsqueeze(1)) & beginnings_BS.unsqueeze(1))
    places_T = keys_S if shared is None else shared.places_T
    return (seen & (keys_S <= places_T.unsqueeze(1))).unsqueeze(1)


def _ahead(tokens_BT: Tensor, context: Context, depth: int) -> tuple[Tensor, Context]:
    """The tokens `depth` places ahead, and a context of the places that have such a token.

    Where ranks share rows, all places stay and those behind the end are padding: nobody who counts can see them.
    """
    shared = context.shared
    if shared is not None:
        valid_BT = shared.ahead(shared.whole.valid_BT, depth, False)
        return shared.ahead(shared.whole.tokens_BT, depth, 0), replace(context, valid_BT=valid_BT)
    length = tokens_BT.shape[1] - depth
    valid = None if context.valid_BT is None else context.valid_BT[:, -length:]
    mask = None if context.mask is None else context.mask.first(length)
    return tokens_BT[:, depth:], Context(context.cosines[..., :length, :], context.sines[..., :length, :], valid, mask)


def copies_of(model: nn.Module) -> list[tuple[Tensor, Copy]]:
    """The weights of which products may take copies, and these copies, of any model that has a Transformer in it."""
    return [pair for module in model.modules() if isinstance(module, Linear | Experts) for pair in module.copies()]


def count_parameters(modules: Sequence[nn.Module]) -> int:
    """Elements of the distinct parameters of several modules."""
    seen = {id(p): p.numel() for module in modules for p in module.parameters()}
    return sum(seen.values())
