"""Which problems a stage draws: generated families, a user's own files, and data sets of the Hugging Face hub."""

from collections.abc import Iterator, Mapping
from pathlib import PurePath
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, Field, PositiveFloat, PositiveInt, model_validator

from sapience.recipe.section import Section


class ProblemFileSection(Section):
    """A set of problems with answers: a file in a layout of GSM8K, MATH, HumanEval, MBPP, …, or a data set by name."""

    path: str | None = None
    """Where the file lies: .jsonl, .json (a list), either also as .gz or .zst, or .parquet."""
    dataset: str | None = None
    """Instead of a path: name on the Hugging Face hub, such as `openai/gsm8k`, or a folder with a data set."""
    config: str | None = None
    """The data set's configuration, where it has several."""
    revision: str | None = None
    """Commit of the data set; name one to get the same problems again later."""
    hub_split: str = "train"
    """The part of the data set that is read, such as `test`; `use` says what for."""
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")] | None = None
    """What the set is called in figures; null takes the file's name without its ending, or the data set's."""
    layout: Literal[
        "auto", "question_answer", "gsm8k", "math", "cmath", "humaneval", "mbpp", "apps", "livecodebench"
    ] = "auto"
    """Which fields a record has; `auto` tells it by their names."""
    use: Literal["split", "train", "test"] = "split"
    """`split`: a tenth by content hash is kept for testing, as with generated problems (MBPP: by its authors' numbers).
    `test`: nothing is trained on, wherever else a question of it may turn up. `train`: nothing is tested."""
    limit: PositiveInt | None = None
    """Problems that are taken, from the beginning; null takes all."""
    domain: Literal["auto", "math", "general"] = "auto"
    """`math`: the last number in a box is the answer; `general`: any short text in a box; `auto`: mathematics. Programs are
    judged by running them, whatever stands here."""
    weight: PositiveFloat = 1.0
    """Share of the prompts, relative to the families'."""

    @model_validator(mode="after")
    def _one_of_the_two(self) -> Self:
        if (self.path is None) == (self.dataset is None):
            given = "neither" if self.path is None else "both"
            raise ValueError(f"problems come from a path or a dataset, {given} is given: give exactly one of the two")
        if self.path is not None and (self.config or self.revision or self.hub_split != "train"):
            raise ValueError(
                f"config, revision and hub_split belong to a dataset, {self.path} is a file: leave them out, or give "
                "dataset in place of path"
            )
        return self

    @property
    def source(self) -> str:
        """The path or the data set's name, for messages."""
        return self.path or self.dataset or ""

    @property
    def called(self) -> str:
        """The name in figures: a family's, for whoever counts by family."""
        if self.name is not None:
            return self.name
        path = PurePath(self.source)
        return path.with_suffix("").stem if path.suffix in (".gz", ".zst") and path.stem else path.stem or "problems"


class ProblemSetSection(Section):
    """Problems with answers that rules can check.

    Stages learn from the training split alone; the validations of GRPO ask the validation split.
    """

    families: dict[str, PositiveFloat] = Field(default_factory=dict)
    """Generated families and their shares of the prompts."""
    files: list[ProblemFileSection] = Field(default_factory=list)
    """Files of a user's own, and data sets."""

    @property
    def empty(self) -> bool:
        """True where nothing is named."""
        return not self.families and not self.files


def problem_files_of(section: BaseModel) -> list[ProblemFileSection]:
    """Every problem set that is named anywhere in a recipe or a part of it, in order, each once.

    Two that differ in their weight alone are one.
    """
    found: dict[str, ProblemFileSection] = {}
    for file in _files_in(section):
        found.setdefault(file.model_dump_json(exclude={"weight"}), file)
    return list(found.values())


def _files_in(value: Any) -> Iterator[ProblemFileSection]:
    if isinstance(value, ProblemFileSection):
        yield value
    elif isinstance(value, BaseModel):
        for name in type(value).model_fields:
            yield from _files_in(getattr(value, name))
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _files_in(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _files_in(item)
