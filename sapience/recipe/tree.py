"""The whole recipe: one section a room, and the contradictions between sections."""

from typing import Literal, Self, get_args

from pydantic import Field, model_validator

from sapience.recipe.corpus import CorpusSection
from sapience.recipe.distill import DistillSection
from sapience.recipe.evaluate import EvaluateSection
from sapience.recipe.extend import ExtendSection
from sapience.recipe.finetune import FinetuneSection
from sapience.recipe.model import ModelSection
from sapience.recipe.parallel import ParallelSection
from sapience.recipe.pretrain import PretrainSection
from sapience.recipe.reinforce import ReinforceSection
from sapience.recipe.report import ReportSection
from sapience.recipe.review import ReviewSection
from sapience.recipe.reward import RewardSection
from sapience.recipe.rewards import RewardsSection
from sapience.recipe.section import Section
from sapience.recipe.serve import ServeSection
from sapience.recipe.specialise import SpecialiseSection
from sapience.recipe.tokenizer import TokenizerSection

StageName = Literal[
    "corpus", "tokenizer", "pretrain", "extend", "specialise", "distill", "review", "finetune", "reward", "reinforce",
    "evaluate", "report",
]  # fmt: skip


class Recipe(Section):
    """Everything a run depends on; two runs of one recipe on one kind of machine end with the same weights."""

    name: str = Field(default="run", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Name of the run's directory under `runs/`."""
    seed: int = Field(default=0, ge=0, lt=2**63)
    """Seed of every random choice: weights, order of documents, sampling."""
    stages: list[StageName] = Field(default_factory=lambda: list(get_args(StageName)), min_length=1)
    """The part of the journey to make; a stage may be left out where a later one names a model of its own."""
    model: ModelSection = ModelSection()
    corpus: CorpusSection = CorpusSection()
    tokenizer: TokenizerSection = TokenizerSection()
    pretrain: PretrainSection = PretrainSection()
    extend: ExtendSection = ExtendSection()
    specialise: SpecialiseSection = SpecialiseSection()
    distill: DistillSection = DistillSection()
    review: ReviewSection = ReviewSection()
    finetune: FinetuneSection = FinetuneSection()
    reward: RewardSection = RewardSection()
    reinforce: ReinforceSection = ReinforceSection()
    rewards: RewardsSection = RewardsSection()
    evaluate: EvaluateSection = EvaluateSection()
    report: ReportSection = ReportSection()
    serve: ServeSection = ServeSection()
    parallel: ParallelSection = ParallelSection()

    @model_validator(mode="after")
    def _sections_agree(self) -> Self:
        vocabulary = self.tokenizer.vocab_size
        if "tokenizer" in self.stages and self.tokenizer.path is None and vocabulary > self.model.vocab_size:
            raise ValueError(
                f"tokenizer.vocab_size {vocabulary} exceeds model.vocab_size {self.model.vocab_size}: "
                f"set model.vocab_size to {vocabulary} or more"
            )
        factors = [phase.factor for phase in self.extend.phases]
        if factors != sorted(set(factors)) or factors[0] < 2:
            raise ValueError(f"extend.phases have factors {factors}: they must grow from phase to phase, from 2 on")
        if self.extend.scaling_factor is not None and factors[-1] > self.extend.scaling_factor:
            raise ValueError(
                f"extend.scaling_factor {self.extend.scaling_factor:g} is below the last phase's factor {factors[-1]}: "
                f"YaRN must reach the longest context; set it to {factors[-1]} or more (V3: 40 for 32)"
            )
        named = set(self.pretrain.mixture).union(*(stretch.mixture for stretch in self.pretrain.curriculum))
        unknown = sorted(named - set(self.corpus.domains()))
        if unknown and "corpus" in self.stages:
            raise ValueError(
                f"pretrain's mixture names domains that no source of the corpus has: {', '.join(unknown)}; "
                f"the corpus has {', '.join(sorted(self.corpus.domains()))}"
            )
        return self
