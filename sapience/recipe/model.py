"""The shape of the network, in the names of Hugging Face's DeepSeek-V3 `config.json`.

Defaults are DeepSeek-V3's training settings (report, section 4.2) where they do not depend on size; the sizes
themselves are the demo's. A contradiction inside the section is refused here, with the remedy in the message.
"""

from typing import Literal, Self

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from sapience.recipe.section import Section


class RopeScaling(Section):
    """YaRN (Peng et al. 2023) on the decoupled rotary part, as DeepSeek-V3 uses it for long context (section 4.3)."""

    type: Literal["yarn"] = "yarn"
    """The only scaling V3 knows."""
    factor: float = Field(gt=1)
    """s: longest context / original context."""
    original_max_position_embeddings: PositiveInt
    """Context length, in tokens, that the rotary frequencies were trained at."""
    beta_fast: PositiveFloat = 32.0
    """Dimensions that turn more often than this over the original context are left alone."""
    beta_slow: PositiveFloat = 1.0
    """Dimensions that turn less often than this are fully interpolated."""
    mscale: float = 1.0
    """Numerator of the cosine/sine scale; V3 keeps it equal to `mscale_all_dim`, so that the ratio is one."""
    mscale_all_dim: float = 1.0
    """m in the softmax temperature (0.1 m ln s + 1)^2."""


class ModelSection(Section):
    """Multi-head latent attention, DeepSeekMoE and multi-token prediction (report, section 2)."""

    vocab_size: PositiveInt = 1024
    """Rows of the embedding and the output head; at least the tokenizer's vocabulary."""
    hidden_size: PositiveInt = 128
    """D: width of the residual stream."""
    intermediate_size: PositiveInt = 384
    """Inner width of the dense feed-forward layers."""
    moe_intermediate_size: PositiveInt = 96
    """F: inner width of one expert."""
    num_hidden_layers: PositiveInt = 4
    """L: layers of the main model, without the prediction modules."""
    num_nextn_predict_layers: int = Field(default=1, ge=0)
    """Depth of multi-token prediction: how many further tokens are predicted, in a causal chain (section 2.2)."""
    num_attention_heads: PositiveInt = 4
    """H: attention heads."""
    q_lora_rank: PositiveInt | None = None
    """Width of the compressed query latent; null for no query compression, as in V2-Lite."""
    kv_lora_rank: PositiveInt = 64
    """R: width of the compressed key-value latent, all that a cache keeps beside the rotary key."""
    qk_nope_head_dim: PositiveInt = 16
    """Per head, query-key width without position."""
    qk_rope_head_dim: PositiveInt = 16
    """Query-key width that carries the position; one key of this width is shared by all heads."""
    v_head_dim: PositiveInt = 32
    """Per head, value width."""
    n_routed_experts: PositiveInt = 8
    """E: routed experts of a layer."""
    n_shared_experts: int = Field(default=1, ge=0)
    """Experts that every token passes through."""
    num_experts_per_tok: PositiveInt = 2
    """K: routed experts a token chooses."""
    n_group: PositiveInt = 1
    """Groups (nodes) that the routed experts are divided into."""
    topk_group: PositiveInt = 1
    """Groups a token may choose experts from."""
    first_k_dense_replace: int = Field(default=1, ge=0)
    """How many of the first layers have a dense feed-forward instead of experts."""
    routed_scaling_factor: PositiveFloat = 1.0
    """Factor on the routed experts' weights; 2.5 in the released V3."""
    norm_topk_prob: bool = True
    """Renormalise the chosen experts' affinities to sum one (eq. 13)."""
    scoring_func: Literal["sigmoid", "softmax"] = "sigmoid"
    """Affinity of a token to an expert (eq. 15). `softmax` is DeepSeek-V2's gate: no balancing bias (only the balance loss
    keeps its experts even), and a group is scored by its best expert alone."""
    rope_theta: PositiveFloat = 10000.0
    """Base of the rotary frequencies."""
    rope_scaling: RopeScaling | None = None
    """Set by `extend`; null in pre-training."""
    max_position_embeddings: PositiveInt = 128
    """Longest context in tokens; the stages set it."""
    rms_norm_eps: PositiveFloat = 1e-6
    """Added to the mean square before the root."""
    initializer_range: PositiveFloat = 0.006
    """Standard deviation of the normal initialisation of every matrix; V3 trained with 0.006, its config.json says 0.02."""
    embedding_range: PositiveFloat | None = None
    """The same of the embedding alone; null for `initializer_range`. Beside Muon, which moves matrices far from the first step
    on, an embedding of about one keeps its say in the residual stream."""
    tie_word_embeddings: bool = False
    """Share the embedding with the output head; V3 does not."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.n_routed_experts % self.n_group:
            divisors = [str(n) for n in range(1, self.n_routed_experts + 1) if self.n_routed_experts % n == 0]
            raise ValueError(
                f"experts {self.n_routed_experts} are not divisible by n_group {self.n_group}: "
                f"choose n_group from {', '.join(divisors)}"
            )
        if self.topk_group > self.n_group:
            raise ValueError(f"topk_group {self.topk_group} exceeds n_group {self.n_group}: lower topk_group")
        if self.balanced_by_bias and self.n_group > 1 and self.n_routed_experts // self.n_group < 2:
            raise ValueError(f"n_group {self.n_group} leaves groups of one expert: a group is scored by its two best")
        if not self.balanced_by_bias and self.norm_topk_prob:
            raise ValueError(
                "norm_topk_prob true goes with scoring_func sigmoid only: DeepSeek-V2 does not renormalise softmax "
                "affinities, and loaders of its checkpoints disagree on what it would mean; set norm_topk_prob to false"
            )
        reachable = self.topk_group * self.n_routed_experts // self.n_group
        if self.num_experts_per_tok > reachable:
            raise ValueError(
                f"num_experts_per_tok {self.num_experts_per_tok} exceeds the {reachable} experts that topk_group "
                f"{self.topk_group} of {self.n_group} groups offers: raise topk_group or lower num_experts_per_tok"
            )
        if self.first_k_dense_replace > self.num_hidden_layers:
            raise ValueError(
                f"first_k_dense_replace {self.first_k_dense_replace} exceeds num_hidden_layers {self.num_hidden_layers}"
            )
        if self.qk_rope_head_dim % 2:
            raise ValueError(
                f"qk_rope_head_dim {self.qk_rope_head_dim} is odd: rotation turns pairs, choose an even width"
            )
        return self

    @property
    def qk_head_dim(self) -> int:
        """Per head, query-key width with its rotary part."""
        return self.qk_nope_head_dim + self.qk_rope_head_dim

    @property
    def balanced_by_bias(self) -> bool:
        """Whether the gate has a bias per expert that enters the choice (DeepSeek-V3), or none (DeepSeek-V2)."""
        return self.scoring_func == "sigmoid"

    @property
    def moe_layers(self) -> int:
        """Layers with experts, the prediction modules included."""
        return self.num_hidden_layers - self.first_k_dense_replace + self.num_nextn_predict_layers
