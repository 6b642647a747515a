"""The corpus is cleared of every set that the recipe tests with, and its figures say of which how much."""

import json
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from sapience.corpus.decontamination import GENERATED, HeldOutQuestions, recipe_questions
from sapience.corpus.documents import read_documents
from sapience.corpus.ngrams import WordRuns
from sapience.corpus.stage import run_corpus
from sapience.problems.problem import split_of
from sapience.recipe import Recipe
from sapience.run import StageContext

WORDS = (
    "river harbour teacher engine garden letter winter market bridge village clock window farmer stone paper lamp"
).split()


class Bar:
    def advance(self, amount: float = 1, **figures: float | str) -> None: ...


@contextmanager
def silent(name: str, total: int | None) -> Iterator[Bar]:
    yield Bar()


def sentence(rng: random.Random, count: int = 16) -> str:
    return " ".join(f"{rng.choice(WORDS)}{rng.randint(0, 999)}" for _ in range(count))


@pytest.fixture
def sets(tmp_path: Path) -> dict[str, Any]:
    """Three sets of a recipe, and a corpus that holds a question of each, one of them in another set's words too."""
    rng = random.Random(3)
    own = [sentence(rng) for _ in range(60)]
    tested = next(text for text in own if split_of(text) == "test")
    trained = next(text for text in own if split_of(text) == "train")
    whole, code = sentence(rng), sentence(rng)
    for name, rows in {
        "own": [{"question": text, "answer": "1"} for text in own],
        "whole": [{"question": whole, "answer": "1"}],
        "code": [{"text": code, "code": "def f(): return 1", "task_id": 11, "test_list": ["assert f() == 1"]}],
    }.items():
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    held = {text: f"{sentence(rng, 40)}. {text}, {sentence(rng, 40)}." for text in (tested, trained, whole, code)}
    texts = [*held.values(), *(sentence(rng, 90) for _ in range(60))]
    (tmp_path / "text.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    recipe = {
        "corpus": {"sources": [{"type": "files", "name": "t", "domain": "en", "path": str(tmp_path / "text.jsonl")}]},
        "specialise": {"experts": {"math": {"problems": {"files": [{"path": str(tmp_path / "own.jsonl")}]}}}},
        "evaluate": {"problem_files": [
            {"path": str(tmp_path / "whole.jsonl"), "use": "test"}, {"path": str(tmp_path / "code.jsonl")},
        ]},
    }  # fmt: skip
    return {
        "recipe": Recipe.model_validate(recipe),
        "kept": held[trained],
        "gone": [held[t] for t in (tested, whole, code)],
    }


def test_documents_with_questions_of_any_tested_set_are_dropped_and_counted(
    sets: dict[str, Any], tmp_path: Path
) -> None:
    folder = tmp_path / "stage"
    folder.mkdir()
    figures = run_corpus(StageContext(sets["recipe"], folder, folder, {}, silent))
    texts = {d.text.strip() for part in ("train", "heldout") for d in read_documents(folder / part / "en.jsonl.zst")}
    assert sets["kept"] in texts and not texts & set(sets["gone"])
    tested = len(recipe_questions(sets["recipe"])["own"])
    assert figures["dropped"]["held-out problem"] == 3
    assert {name: found for name, found in figures["held_out_problems"].items() if name != GENERATED} == {
        "own": {"questions": tested, "documents": 1},
        "whole": {"questions": 1, "documents": 1},
        "code": {"questions": 1, "documents": 1},
    }
    assert json.loads((folder / "provenance.json").read_text())["held_out"] == figures["held_out_problems"]


def test_of_several_sets_the_first_counts() -> None:
    rng = random.Random(1)
    one, two = sentence(rng), sentence(rng)
    held = HeldOutQuestions([two, one, two], 13, ["a", "b", "b"])
    assert held.sets == ("a", "b")
    texts = [f"x {one} y {two}", one, sentence(rng), two, ""]
    assert held.set_found_in(WordRuns(texts)).tolist() == [0, 1, -1, 0, -1]
    assert held.found_in(WordRuns(texts)).tolist() == [True, True, False, True, False]
