"""The stages corpus and tokenizer, from files to shards: what is kept and held out, the same again after a restart."""

import hashlib
import json
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from sapience.corpus import stage
from sapience.corpus.documents import Document, read_documents, write_documents
from sapience.corpus.shards import TokenShard
from sapience.corpus.stage import run_corpus
from sapience.corpus.tokenizer import Tokenizer
from sapience.corpus.tokenizer_stage import run_tokenizer
from sapience.problems.families import generate
from sapience.problems.lookup import needle_words
from sapience.problems.problem import is_test
from sapience.recipe import Recipe, UserError
from sapience.run import StageContext

SUBJECTS = (
    "river",
    "harbour",
    "teacher",
    "engine",
    "garden",
    "letter",
    "winter",
    "market",
    "bridge",
    "village",
)
VERBS = ("crosses", "remembers", "follows", "describes", "carries", "watches", "repairs", "answers", "paints")
GERMAN = "Der Fluss entspringt in den Hügeln und fließt lange nach Norden, bis er das Meer erreicht. " * 2
QUESTION = "A farmer counts forty two chickens and nine goats in the yard before supper, how many legs are there?"


class Bar:
    def advance(self, amount: float = 1, **figures: float | str) -> None: ...


@contextmanager
def silent(name: str, total: int | None) -> Iterator[Bar]:
    yield Bar()


def prose(rng: random.Random, sentences: int = 12) -> str:
    return " ".join(
        f"The {rng.choice(SUBJECTS)} of {rng.randint(1000, 9999)} {rng.choice(VERBS)} the {rng.choice(SUBJECTS)} "
        f"near {rng.choice(SUBJECTS)} number {rng.randint(10, 999)}." for _ in range(sentences)
    )  # fmt: skip


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, rng = tmp_path_factory.mktemp("sources"), random.Random(1)
    texts = [prose(rng) for _ in range(400)]
    near = [text.replace("The", "A", 1) for text in texts[:60]]
    (folder / "prose.jsonl").write_text(
        "".join(
            json.dumps({"text": text}) + "\n"
            for text in [*texts, *texts[:5], *near, f"{prose(rng)} {QUESTION} {prose(rng)}", GERMAN]
        )
        + "{broken\n"
    )
    (folder / "problems.jsonl").write_text(json.dumps({"question": QUESTION, "answer": "120"}) + "\n")
    code = folder / "code"
    code.mkdir()
    for number in range(40):
        body = "\n\n".join(
            f"def f{k}_{rng.randint(0, 10**6)}(x):\n    return {rng.randint(0, 10**6)} * x - {rng.randint(0, 10**6)}\n"
            for k in range(20)
        )
        (code / f"m{number}.py").write_text(body)
    return folder


def section(folder: Path, **changes: Any) -> dict[str, Any]:
    made: dict[str, Any] = {
        "held_out_kb": 8,
        "near_duplicates": 0.6,
        "document_bytes": 800,
        "problem_files": [str(folder / "problems.jsonl")],
        "sources": [
            {
                "type": "files",
                "name": "prose",
                "domain": "en",
                "language": "en",
                "license": "MIT",
                "path": str(folder / "prose.jsonl"),
            },
            {
                "type": "files",
                "name": "code",
                "domain": "python",
                "kind": "code",
                "path": str(folder / "code"),
            },
            {"type": "problems", "name": "skills", "families": {"maxn": 200, "codefn": 100}, "together": 3},
            {"type": "lookup", "name": "lookup", "documents": 300},
            {"type": "drills", "name": "drills", "documents": 200},
        ],
    }
    return made | changes


def run(folder: Path, corpus: Mapping[str, Any], **recipe: Any) -> dict[str, Any]:
    folder.mkdir(exist_ok=True)
    return run_corpus(StageContext(Recipe.model_validate({"corpus": corpus, **recipe}), folder, folder, {}, silent))


def documents(folder: Path, part: str) -> dict[str, list[Document]]:
    return {p.name.split(".")[0]: list(read_documents(p)) for p in sorted((folder / part).glob("*.jsonl.zst"))}


def fingerprint(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def made(sources: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("made")
    return folder, run(folder, section(sources))


def test_figures_say_what_became_of_every_record(made: tuple[Path, dict[str, Any]]) -> None:
    folder, figures = made
    expected = {"exact duplicate": 5, "held-out problem": 1, "near duplicate": 60, "wrong language": 1}
    assert figures["dropped"] == expected
    assert figures["set_aside"] == {"malformed JSON": 1}
    assert figures["documents"]["en"] + figures["held_out_documents"]["en"] == 400
    for part, name in (("train", "documents"), ("heldout", "held_out_documents")):
        assert {domain: len(found) for domain, found in documents(folder, part).items()} == figures[name]
    sources = {entry["name"]: entry for entry in json.loads((folder / "provenance.json").read_text())["sources"]}
    entry = sources["prose"]
    assert (entry["documents"], entry["license"], len(entry["sha256"])) == (400, "MIT", 64)
    aside = [json.loads(line) for line in (folder / "quarantine.jsonl").read_text().splitlines()]
    assert [(entry["source"], entry["reason"]) for entry in aside] == [("prose", "malformed JSON")]
    assert not (folder / "drafts").exists()


def test_nothing_in_training_is_near_to_anything_held_out(made: tuple[Path, dict[str, Any]]) -> None:
    train, held = documents(made[0], "train"), documents(made[0], "heldout")

    def runs(text: str) -> set[tuple[str, ...]]:
        words = text.split()
        return {tuple(words[i : i + 5]) for i in range(len(words) - 4)}

    assert held["en"] and held["python"] and "skills" not in held
    for domain, documents_held in held.items():
        others = [runs(document.text) for document in train[domain]]
        for document in documents_held:
            mine = runs(document.text)
            assert max(len(mine & other) / len(mine | other) for other in others) < 0.7
    assert not any(QUESTION in document.text for part in (train, held) for found in part.values() for document in found)


def test_generated_documents_are_of_the_training_split(made: tuple[Path, dict[str, Any]]) -> None:
    train = documents(made[0], "train")
    questions = [
        block.removeprefix("Problem: ").partition("\nAnswer:")[0]
        for document in train["skills"]
        for block in document.text.split("\n\n")
    ]
    assert len(questions) == len(set(questions)) == 300
    assert not any(is_test(question) for question in questions)
    assert not set(questions) & {problem.question for problem in generate("maxn", "test", 50, 0)}
    forbidden = needle_words("test")
    assert len(train["lookup"]) == 300
    assert len({document.text for document in train["drills"]}) == 200
    for text in (document.text for document in train["lookup"]):
        *_, answer = text.split("\n")
        word, code = answer.removeprefix("What is the code of ").split("? The code of ")[0], answer[-4:-1]
        assert f"The code of {word} is {code}." in text.rsplit("\n", 1)[0] and word not in forbidden


def test_the_same_recipe_gives_the_same_bytes_and_another_seed_does_not(
    made: tuple[Path, dict[str, Any]], sources: Path, tmp_path: Path
) -> None:
    run(tmp_path / "again", section(sources))
    assert fingerprint(tmp_path / "again") == fingerprint(made[0])
    run(tmp_path / "other", section(sources), seed=1)
    assert fingerprint(tmp_path / "other") != fingerprint(made[0])


@pytest.mark.parametrize("place", ["drafts", "written", "generated", "clearing up"])
def test_an_interrupted_stage_ends_with_the_same_bytes(
    place: str,
    made: tuple[Path, dict[str, Any]],
    sources: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Killed(BaseException): ...

    def killed(*arguments: Any) -> Any:
        raise Killed

    with monkeypatch.context() as patch:
        if place == "drafts":
            original: Any = write_documents
            calls: list[Path] = []

            def second_dies(path: Path, found: Any) -> int:
                calls.append(path)
                return int(original(path, found) if len(calls) == 1 else killed())

            patch.setattr("sapience.corpus.drafts.write_documents", second_dies)
        elif place == "clearing up":

            def dies_on_the_way(folder: Path, ignore_errors: bool = False) -> None:
                if folder.is_dir():
                    next(folder.glob("*.sizes.npy")).unlink()
                    killed()

            patch.setattr("sapience.corpus.stage.shutil.rmtree", dies_on_the_way)
        else:
            patch.setattr(stage, {"written": "write_written", "generated": "write_generated"}[place], killed)
        with pytest.raises(Killed):
            run(tmp_path / "run", section(sources))
    if place in ("written", "generated"):  # finished drafts are taken up again, not made again
        monkeypatch.setattr("sapience.corpus.drafts.write_documents", killed)
    figures = run(tmp_path / "run", section(sources))
    assert figures == made[1] and fingerprint(tmp_path / "run") == fingerprint(made[0])


def test_limits_take_a_part_by_hash_and_fallbacks_wait(sources: Path, tmp_path: Path) -> None:
    first, code = section(sources)["sources"][:2]
    second = code | {"name": "second", "fallback": True}
    figures = run(tmp_path / "a", section(sources, sources=[first, code | {"limit_mb": 0.01}, second]))
    assert 9_000 < figures["bytes"]["python"] + figures["held_out_bytes"]["python"] < 14_000
    assert figures["sources_used"] == ["code", "prose"]


def test_missing_sources(sources: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("shutil.which", lambda program: None)
    debian = {
        "type": "debian",
        "name": "manual",
        "domain": "de",
        "packages": ["some-doc"],
        "include": ["*.html"],
    }
    prose_source = section(sources)["sources"][0]
    figures = run(tmp_path / "a", section(sources, sources=[debian, prose_source]))
    assert "apt-get" in figures["sources_missing"]["manual"] and set(figures["documents"]) == {"en"}
    with pytest.raises(UserError, match=r"manual.*apt-get"):
        run(tmp_path / "b", section(sources, sources=[debian | {"optional": False}, prose_source]))
    with pytest.raises(UserError, match=r"the corpus is empty.*apt-get"):
        run(tmp_path / "c", section(sources, sources=[debian]))


def test_what_the_user_can_mend_is_said(sources: Path, tmp_path: Path) -> None:
    (tmp_path / "short.txt").write_text("too short")
    mine = {"type": "files", "name": "mine", "domain": "en", "path": str(tmp_path / "short.txt")}
    with pytest.raises(UserError, match="no sources"):
        run(tmp_path / "a", {})
    with pytest.raises(UserError, match=r"no document of domain en is left.*1 too short"):
        run(tmp_path / "b", {"sources": [mine]})
    with pytest.raises(UserError, match=r"gone.jsonl.*does not exist"):
        run(tmp_path / "c", {"sources": [mine], "problem_files": ["gone.jsonl"]})
    with pytest.raises(UserError, match="does not exist"):
        run(tmp_path / "d", {"sources": [mine | {"path": str(tmp_path / "gone")}]})
    with pytest.raises(UserError, match="hides facts"):
        run(tmp_path / "e", {"sources": [{"type": "lookup", "name": "lookup"}]})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"sources": [{"type": "fish", "name": "x", "domain": "y"}]}, "type"),
        (
            {"sources": [{"type": "files", "name": "x", "domain": "y", "path": "p"}] * 2},
            "two sources are named x",
        ),
        ({"sources": [{"type": "lookup", "name": "x", "needles": [4, 1]}]}, "needles"),
        (
            {
                "sources": [
                    {"type": "lookup", "name": "x"},
                    {"type": "files", "name": "z", "domain": "lookup", "path": "p"},
                ]
            },
            "mixes",
        ),
    ],
)
def test_a_wrong_recipe_is_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Recipe.model_validate({"corpus": changes})


def test_weights_are_summed_by_domain() -> None:
    files = {"type": "files", "path": "p"}
    recipe = Recipe.model_validate({"corpus": {"sources": [
        files | {"name": "a", "domain": "en", "weight": 0.2}, files | {"name": "b", "domain": "en", "weight": 0.1},
        files | {"name": "c", "domain": "en", "weight": 5, "fallback": True, "optional": True},
        files | {"name": "d", "domain": "zh", "weight": 0.4, "optional": True},
    ]}})  # fmt: skip
    assert recipe.corpus.weights() == pytest.approx({"en": 0.3, "zh": 0.4})
    assert recipe.corpus.domains() == ["en", "zh"] and recipe.corpus.optional_domains() == {"zh"}


def test_shards_hold_what_training_documents_say(
    made: tuple[Path, dict[str, Any]], sources: Path, tmp_path: Path
) -> None:
    recipe = Recipe.model_validate(
        {"corpus": section(sources), "tokenizer": {"vocab_size": 400, "fill_in_middle": 0, "sample_mb": 0.2}}
    )
    results = []
    for name in ("a", "b"):
        folder = tmp_path / name
        folder.mkdir()
        results.append(run_tokenizer(StageContext(recipe, folder, folder, {"corpus": made[0]}, silent)))
    assert fingerprint(tmp_path / "a" / "tokens") == fingerprint(tmp_path / "b" / "tokens") and results[0] == results[1]
    tokenizer = Tokenizer.load(tmp_path / "a")
    assert tokenizer.vocab_size == 400 == results[0]["vocab_size"]
    for domain, expected in documents(made[0], "train").items():
        shard = TokenShard.open(tmp_path / "a" / "tokens" / domain)
        assert results[0]["tokens"][domain] == len(shard.tokens)
        for document, begin, end in zip(expected, shard.offsets[:-1], shard.offsets[1:], strict=True):
            ids = shard.tokens[begin:end].tolist()
            assert (ids[0], ids[-1]) == (tokenizer.bos_id, tokenizer.eos_id)
            assert tokenizer.decode(ids[1:-1]) == document.text
