"""Problem files are asked like families: some of their test part, base models behind examples of their training part."""

import json
from pathlib import Path

import pytest
import torch
from test_evaluate_stage import SECTION, context, records, run  # noqa: F401  (run is a fixture)
from tiny_language_model import ByteTokenizer

from sapience.evaluation import stage
from sapience.evaluation.few_shot import few_shot_answers
from sapience.evaluation.problem_files import file_problems
from sapience.model.transformer import Transformer
from sapience.problems.problem import content_hash, split_of
from sapience.recipe import UserError
from sapience.recipe.model import ModelSection
from sapience.recipe.problem_sets import ProblemFileSection

QUESTIONS = [f"What is {n} and one?" for n in range(200)]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "sums.jsonl"
    rows = [json.dumps({"question": text, "answer": n + 1}) for n, text in enumerate(QUESTIONS)]
    path.write_text("\n".join([*rows, "{"]))
    return path


def test_the_test_part_is_asked_by_hash_and_training_problems_are_shown(file: Path) -> None:
    section = ProblemFileSection(path=str(file))
    found = file_problems([section], [], 5, 3)
    tested = sorted((text for text in QUESTIONS if split_of(text) == "test"), key=content_hash)
    shown = sorted((text for text in QUESTIONS if split_of(text) == "train"), key=content_hash)
    assert [p.question for p in found.asked["sums"]] == tested[:5]
    assert [p.question for p in found.solved["sums"]] == shown[:3]
    assert found.unusable == {f"{file}: not JSON": 1}
    whole = file_problems([section, ProblemFileSection(path=str(file), use="test", name="whole")], [], 500, 3)
    assert len(whole.asked["whole"]) == 200 and whole.solved == {"sums": [], "whole": []}


def test_names_and_parts_that_cannot_be_asked_are_refused(file: Path) -> None:
    with pytest.raises(UserError, match="called maxn as a generated family is"):
        file_problems([ProblemFileSection(path=str(file), name="maxn", use="test")], [], 5, 3)
    only = next(place for place, text in enumerate(QUESTIONS) if split_of(text) == "test")
    with pytest.raises(UserError, match="no problem in its test part"):
        file_problems([ProblemFileSection(path=str(file), limit=only or None)], [], 5, 3)


def test_what_experts_were_raised_on_is_asked_beside_the_named_files(file: Path) -> None:
    folder = file.parent
    tested = [text for text in QUESTIONS if split_of(text) == "test"]
    for name, texts in (("more", tested[:2]), ("clash", tested[2:4]), ("untestable", [])):
        (folder / name).mkdir()
        rows = [{"question": text, "answer": "1"} for text in (*texts, "What is two and one?")]
        (folder / name / "sums.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert split_of("What is two and one?") == "train"
    own = ProblemFileSection(path=str(file), limit=60)
    more = ProblemFileSection(path=str(folder / "more" / "sums.jsonl"))
    lost = ProblemFileSection(path=str(folder / "untestable" / "sums.jsonl"), name="lost")
    train = ProblemFileSection(path=str(file), name="train", use="train")
    found = file_problems([], [own, more, lost, train], 500, 3)
    of_own = {text for text in QUESTIONS[:60] if split_of(text) == "test"}
    assert {p.question for p in found.asked["sums"]} == of_own | set(tested[:2])
    assert list(found.asked) == ["sums"] and found.untested == ["lost", "train"]
    assert {p.question for p in found.solved["sums"]} <= {t for t in QUESTIONS if split_of(t) == "train"} | {
        "What is two and one?"
    }
    clash = ProblemFileSection(path=str(folder / "clash" / "sums.jsonl"), use="test")
    named = file_problems([clash], [own, train], 500, 3)
    assert {p.question for p in named.asked["sums"]} == {*tested[2:4], "What is two and one?"}
    assert named.untested == ["train"]


def test_a_base_model_sees_the_files_own_examples_or_none(file: Path) -> None:
    torch.set_num_threads(1)
    config = ModelSection(vocab_size=259, hidden_size=32, num_hidden_layers=2, max_position_embeddings=512)
    model = Transformer(config).initialize(0)
    found = file_problems([ProblemFileSection(path=str(file))], [], 2, 2)
    asked = found.asked["sums"]
    for solved, shots in ((found.solved, 2), ({"sums": []}, 0)):
        said = few_shot_answers(
            model, ByteTokenizer(), asked, shots=2, window=256, answer_tokens=2, seed=0, solved=solved
        )
        assert [one.shots for one in said] == [shots] * 2
        for one, problem in zip(said, asked, strict=True):
            assert one.prompt.endswith(f"Problem: {problem.question}\nAnswer:")
            assert one.prompt.count("Problem: ") == shots + 1


def test_the_stage_asks_files_beside_families_and_counts_bad_records(run: Path, file: Path) -> None:  # noqa: F811
    task = {
        "text": "Add two numbers.",
        "code": "def add(a, b):\n    return a + b",
        "task_id": 11,
        "test_list": ["assert add(1, 2) == 3"],
    }
    (file.parent / "tasks.jsonl").write_text(json.dumps(task))
    files = [ProblemFileSection(path=str(file)), ProblemFileSection(path=str(file.parent / "tasks.jsonl"))]
    figures = stage.run_evaluate(context(run, SECTION.model_copy(update={"problem_files": files}))[0])
    assert {family: score["problems"] for family, score in figures["families"]["base"].items()} == {
        "maxn": 3, "copy": 3, "sums": 3, "tasks": 1,
    }  # fmt: skip
    assert figures["unusable"] == {f"{file}: not JSON": 1} and figures["problems"] == 10
    asked = [record for record in records(run, "base") if record.get("family") in ("sums", "tasks")]
    assert [record["shots"] for record in asked] == [1, 1, 1, 0]
