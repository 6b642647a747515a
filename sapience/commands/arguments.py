"""What several commands are given, with the words their `--help` has for it."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from sapience.recipe.serve import MOST_DRAFTED

RecipeFile = Annotated[Path, typer.Argument(help="A recipe, such as recipes/demo.yaml.", show_default=False)]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(help="Changes to the recipe, such as pretrain.steps=50 seed=1.", show_default=False),
]
RunName = Annotated[str, typer.Argument(metavar="RUN", help="A run's name or directory.", show_default=False)]
ModelName = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="RUN (its latest model), RUN@stage, RUN@specialise/DOMAIN or a Hugging Face folder.",
        show_default=False,
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
Draft = Annotated[
    int | None,
    typer.Option(
        help="Tokens that the prediction module drafts ahead; 0: none.", min=0, max=MOST_DRAFTED,
        show_default="serve.draft of the run's recipe",
    ),
]  # fmt: skip
EightBits = Annotated[bool, typer.Option("--int8", help="Weights in 8 bits: on a CPU up to three times as fast.")]
NewFolder = Annotated[Path, typer.Argument(help="Where to write; must not exist yet.", show_default=False)]
ShardSize = Annotated[float, typer.Option(help="Largest file in GB.", min=0.001, max=1e6)]


class Stored(StrEnum):
    """Types that weights are written in."""

    STORED = "stored"
    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"

    def torch(self) -> Any:
        """The torch type; None for what is stored."""
        import torch

        return None if self is Stored.STORED else getattr(torch, self.value)
