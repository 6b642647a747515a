"""The commands that talk and look: chat, samples, review, and what a run says may come next."""

import io
import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tiny_models import tiny_config, tiny_model

from sapience.cli import main
from sapience.corpus.chat import ChatFormat
from sapience.corpus.tokenizer import train_tokenizer
from sapience.model.huggingface import save_model
from sapience.review.queue import ReviewQueue, queue_url
from sapience.review.records import Comparison, Draft
from sapience.screen import Screen

ROOT = Path(__file__).resolve().parent.parent
SEEDS = {"pretrain": 0, "finetune": 1, "specialise/math": 2}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three models and rollouts with a hostile answer, in runs/tiny."""
    here = tmp_path_factory.mktemp("here")
    run = here / "runs" / "tiny"
    tokenizer = train_tokenizer(["Ada finds a boat in the garden.\n" * 20], 288, 1)
    for stage, seed in SEEDS.items():
        config = tiny_config(vocab_size=288, max_position_embeddings=256)
        special = (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id)
        save_model(tiny_model(config, seed), run / stage / "model", *special)
        tokenizer.save(run / stage / "model", None if stage == "pretrain" else ChatFormat(tokenizer).template)
    (run / "recipe.yaml").write_text("name: tiny\nreview: {votes: 2}\n")
    (run / "reinforce").mkdir()
    with open(run / "reinforce" / "rollouts.jsonl", "w") as file:
        for step in range(1, 5):
            for number in range(3):
                turns = [{"role": "user", "content": f"Question {step} [bold]?"}]
                record = {
                    "step": step, "phase": "reinforce", "category": "maxn", "expected": "9", "messages": turns,
                    "text": f"answer {step}{number} \x1b[31mred[/nothing]", "reward": number / 4, "sources": {"rules": 0.25},
                    "verdict": "ok" if number == 2 else "wrong", "advantage": number - 1.0, "finished": True, "tokens": [1, 2],
                }  # fmt: skip
                file.write(json.dumps(record) + "\n")
        file.write('{"step": 5, "pha')
    return here


@pytest.fixture(autouse=True)
def here(made: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(made)
    monkeypatch.setenv("COLUMNS", "200")
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGXFSZ, signal.SIGINT)}
    yield made
    for number, handler in before.items():
        signal.signal(number, handler)


def exit_of(*arguments: str) -> int:
    with pytest.raises(SystemExit) as caught:
        main(list(arguments))
    code = caught.value.code
    assert code is None or isinstance(code, int)
    return code or 0


def one_object(text: str) -> dict[str, Any]:
    value = json.loads(text)
    assert isinstance(value, dict) and text.count("\n") == 1
    return value


@pytest.mark.parametrize("temperature", ["0", "0.9"])
@pytest.mark.parametrize("model", ["tiny", "tiny@specialise/math", "runs/tiny/finetune/model"])
def test_one_answer_is_streamed_as_it_is_told_in_json(
    model: str, temperature: str, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [
        "chat",
        model,
        "--message",
        "Who is Ada?",
        "--tokens",
        "9",
        "--temperature",
        temperature,
        "--seed",
        "4",
    ]
    assert exit_of(*arguments, "--json") == 0
    told = one_object(capsys.readouterr().out)
    assert list(told) == ["prompt", "answer", "finished", "tokens"] and told["prompt"] == "Who is Ada?"
    assert 0 < told["tokens"] <= 9 and told["finished"] == (told["tokens"] < 9)
    assert exit_of(*arguments) == 0
    from sapience.serving.printable import printable

    captured = capsys.readouterr()
    assert captured.out == printable(told["answer"]) + "\n"
    assert ("raised to reason" in captured.err) == ("math" in model)


def test_a_continued_text_neither_acts_on_the_terminal_nor_fails_to_be_written(
    capsys: pytest.CaptureFixture[str],
) -> None:
    prompt = "boat \udcff\x1b[31m\x9b"  # a byte that is no UTF-8, as Python gives it in arguments
    assert exit_of("generate", "tiny@pretrain", prompt, "--tokens", "3") == 0
    assert capsys.readouterr().out.startswith("boat \ufffd␛[31m\ufffd")
    assert exit_of("generate", "tiny@pretrain", prompt, "--tokens", "3", "--json") == 0
    line = capsys.readouterr().out
    line.encode("utf-8")
    assert one_object(line)["prompt"] == prompt and not any("\x7f" <= letter < "\xa0" for letter in line)


def test_a_base_model_is_introduced_but_not_on_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_of("chat", "tiny@pretrain", "--message", "x", "--json", "--tokens", "3") == 0
    captured = capsys.readouterr()
    assert one_object(captured.out) and "pretrain is a base model" in captured.err


def test_a_pipe_of_questions(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    answers = {}
    for stage in ("finetune", "pretrain"):
        assert exit_of("chat", f"tiny@{stage}", "--message", "Who?", "--tokens", "4", "--json") == 0
        answers[stage] = one_object(capsys.readouterr().out)["answer"]
    lines = io.TextIOWrapper(io.BytesIO(b"Who?\r\n/stage\n\n/dance\n/stage pretrain\n/new\nWho?"), encoding="utf-8")
    monkeypatch.setattr(sys, "stdin", lines)
    assert exit_of("chat", "tiny", "--tokens", "4") == 0
    captured = capsys.readouterr()
    from sapience.serving.printable import printable

    finetuned, base = (printable(answers[stage]) for stage in ("finetune", "pretrain"))
    assert captured.out == f"{finetuned}\n{base}\n{base}\n" and finetuned != base
    for words in ("* finetune", "there is no command /dance", "now talking to pretrain", "a new conversation"):
        assert words in captured.err


MISTAKES = {
    "json without a message": (["chat", "tiny", "--json"], "say with --message"),
    "an empty message": (["chat", "tiny", "--message", " "], "the message is empty"),
    "no such stage": (["chat", "tiny@extend"], "has no model of stage 'extend'"),
    "no model": (["chat", "nowhere"], "neither a run nor a Hugging Face folder"),
    "temperature": (["chat", "tiny", "--temperature", "inf", "--message", "x"], "temperature inf"),
    "temperature of a text": (["generate", "tiny", "x", "--temperature", "inf"], "temperature inf"),
    "seed of a text": (["generate", "tiny", "x", "--seed", str(2**32)], "is out of range"),
    "too long a message": (["chat", "tiny", "--message", "boat " * 400], "ask a shorter one"),
    "samples of no run": (["samples", "nowhere"], "no run nowhere"),
    "samples of no stage": (["samples", "tiny", "--stage", "dance"], "choose from reinforce"),
    "no step": (["samples", "tiny", "--step", "3-1"], "is no step"),
    "nothing to turn round": (["samples", "tiny", "--reverse"], "say with --sort"),
    "no random draw": (["samples", "tiny", "--seed", "3", "--count", "2"], "give --random with it"),
    "no queue at an address": (["review", "tiny", "--json", "--url", "sqlite:///none.sqlite"], "no review queue yet"),
    "no queue to serve": (["review", "tiny", "--no-browser", "--url", "sqlite:///none.sqlite"], "no review queue yet"),
    "no queue": (["review", "tiny", "--no-browser"], "no review queue yet: the stage review"),
    "no queue to tell of": (["review", "tiny", "--json"], "no review queue yet"),
    "a wrong address": (["review", "tiny", "--json", "--url", "mysql://x/y"], "a review queue cannot live in mysql"),
}


@pytest.mark.parametrize(("arguments", "words"), MISTAKES.values(), ids=list(MISTAKES))
def test_a_mistake_is_one_sentence(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_of(*arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and "Traceback" not in captured.err
    assert captured.err.strip().splitlines()[-1].startswith("sapience: ") and words in captured.err
    assert not Path("none.sqlite").exists()


@pytest.mark.parametrize("wrong", [["--sort", "beauty"], ["--count", "0"], ["--seed", "-1"]], ids=str)
def test_wrong_use_of_samples(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_of("samples", "tiny", *wrong) == 2
    assert "Usage" in capsys.readouterr().err


def test_samples_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        exit_of("samples", "tiny", "--verdict", "wrong", "--step", "2-4", "--sort", "reward", "--count", "4", "--json")
        == 0
    )
    told = one_object(capsys.readouterr().out)
    assert told["found"] == 6 and [sample["reward"] for sample in told["samples"]] == [0.25, 0.25, 0.25, 0.0]
    assert told["samples"][0]["answer"] == "answer 21 \x1b[31mred[/nothing]" and told["samples"][0]["step"] == 2
    assert exit_of("samples", "tiny", "--group", "--sort", "step", "--reverse", "--count", "1", "--json") == 0
    told = one_object(capsys.readouterr().out)
    assert told["found"] == 4 and told["samples"][0]["step"] == 4 and len(told["samples"][0]["answers"]) == 3
    draws = []
    for seed in ("1", "1", "2"):
        assert exit_of("samples", "tiny", "--random", "--seed", seed, "--count", "5", "--json") == 0
        draws.append(one_object(capsys.readouterr().out)["samples"])
    assert draws[0] == draws[1] != draws[2]


def test_samples_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_of("samples", "tiny") == 0
    shown = capsys.readouterr()
    for words in ("reinforce", "33 %", "0.25 → 0.25", "maxn 12", "Look closer", "samples tiny --stage reinforce"):
        assert words in shown.out
    assert "1 lines could not be read" in shown.err
    assert exit_of("samples", "tiny", "--search", "QUESTION 3", "--count", "2") == 0
    shown = capsys.readouterr()
    assert shown.out.count("user: Question 3 [bold]?") == 2 and "answer: answer 30 ␛[31mred[/nothing]" in shown.out
    assert "2 of 3 answers; --count shows more" in shown.err and "\x1b" not in shown.out
    assert exit_of("samples", "tiny", "--step", "3", "--group") == 0
    shown = capsys.readouterr()
    assert shown.out.count("Question 3 [bold]?") == 1
    places = [shown.out.index(f"answer 3{number} ␛[31mred[/nothing]") for number in (2, 1, 0)]
    assert places == sorted(places) and "1 of 1 groups" in shown.err
    assert exit_of("samples", "tiny", "--category", "none") == 0
    shown = capsys.readouterr()
    assert shown.out == "" and "no answers are like that" in shown.err


@pytest.fixture
def queue(here: Path) -> Iterator[ReviewQueue]:
    run = here / "runs" / "tiny"
    opened = ReviewQueue.open(queue_url(run), 2)
    asked = (("user", "Who are you?"),)
    drafts = [Draft.of(asked, f"I am {number}.", "en", "self", "x") for number in range(3)]
    opened.add_drafts(drafts)
    opened.add_comparisons([Comparison.of(asked, "A", "B", "en", "self", "x")])
    for annotator, action in (("Ada", "accept"), ("Ben", "accept")):
        opened.decide(drafts[0].identity, annotator, action)  # type: ignore[arg-type]
    opened.decide(drafts[1].identity, "Ada", "accept")
    yield opened
    opened.close()
    for file in run.glob("review.sqlite*"):
        file.unlink()


def test_how_far_the_review_is_with_the_recipes_votes(queue: ReviewQueue, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_of("review", "tiny", "--json") == 0
    told = one_object(capsys.readouterr().out)
    assert {name: told[name] for name in ("waiting", "accepted", "compared", "annotators")} == {
        "waiting": 3, "accepted": 1, "compared": 0, "annotators": 2,
    }  # fmt: skip
    assert told["agreement"]["decisions"]["items"] == 1 and told["agreement"]["decisions"]["percent"] == 100.0
    assert exit_of("review", "tiny", "--json", "--url", queue_url(Path("runs/tiny"))) == 0
    assert one_object(capsys.readouterr().out) == told


def test_the_page_is_served_with_the_recipes_votes(
    queue: ReviewQueue, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    served: list[Any] = []
    monkeypatch.setattr("sapience.review.server.serve", lambda *arguments: served.append(arguments))
    assert exit_of("review", "tiny", "--no-browser", "--port", "0") == 0
    assert exit_of("review", "tiny") == 0
    run = Path("runs/tiny")
    assert served == [(run, queue_url(run), 0, False, 2), (run, queue_url(run), 8765, True, 2)]


def test_what_comes_next_depends_on_what_there_is(
    queue: ReviewQueue, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Screen().journey(Path("runs/tiny"))
    shown = capsys.readouterr().out
    for command in ("chat runs/tiny", "serve runs/tiny", "samples runs/tiny", "review runs/tiny", "status runs/tiny"):
        assert f"sapience {command}" in shown
    assert "3 answers wait" in shown and "generate" not in shown
    (tmp_path / "recipe.yaml").write_text("{}")
    Screen().journey(tmp_path)
    shown = capsys.readouterr().out
    assert f'sapience generate {tmp_path} "The "' in shown
    assert not any(word in shown for word in ("sapience chat", "sapience serve", "sapience samples", "sapience review"))


def test_help_teaches_by_examples(capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("chat", "samples", "review"):
        assert exit_of(command, "--help") == 0
        assert f"sapience {command} demo" in capsys.readouterr().out


def environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "COLUMNS": "200", "TERM": "dumb"}


class Terminal:
    """A pseudo-terminal with a program in it."""

    def __init__(self, arguments: list[str], folder: Path) -> None:
        self.master, slave = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "sapience", *arguments],
            cwd=folder, env=environment() | {"XDG_STATE_HOME": str(folder / "state")}, stdin=slave, stdout=slave,
            stderr=slave, start_new_session=True,
        )  # fmt: skip
        os.close(slave)
        self.seen = b""

    def until(self, words: bytes, more: int = 0) -> None:
        """Read up to `words` and at least `more` bytes behind them, which are then behind us."""
        deadline = time.monotonic() + 60
        while words not in self.seen or len(self.seen) - self.seen.index(words) - len(words) < more:
            ready, _, _ = select.select([self.master], [], [], 1)
            assert ready or time.monotonic() < deadline, self.seen
            if ready:
                self.seen += os.read(self.master, 65536)
            assert b"Traceback" not in self.seen, self.seen
        self.seen = self.seen[self.seen.index(words) + len(words) + more :]

    def interrupt_until(self, words: bytes) -> None:
        """Ctrl-C at the prompt, again where it came between the prompt and the wait for a key, which Python misses."""
        for _ in range(30):
            self.process.send_signal(signal.SIGINT)
            ready, _, _ = select.select([self.master], [], [], 2)
            if ready:
                break
        self.until(words)

    def type(self, line: str) -> None:
        os.write(self.master, line.encode() + b"\n")

    def end(self) -> int:
        """Waits for the program's own end, and ends it where it does not come."""
        try:
            return self.process.wait(timeout=30)
        finally:
            self.process.kill()
            os.close(self.master)


@pytest.fixture
def long_talk(here: Path) -> list[str]:
    """A model that never ends by itself within the limit of the answer, which would take minutes."""
    folder = here / "runs" / "long" / "finetune" / "model"
    tokenizer = train_tokenizer(["Ada finds a boat in the garden.\n" * 20], 288, 1)
    model = tiny_model(tiny_config(vocab_size=288, max_position_embeddings=100_000), 1)
    save_model(model, folder, tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id)
    tokenizer.save(folder, ChatFormat(tokenizer).template)
    (here / "runs" / "long" / "recipe.yaml").write_text("{}")
    return ["chat", "long", "--tokens", "90000", "--temperature", "0"]


def test_at_a_terminal_ctrl_c_ends_the_answer_and_the_talk_goes_on(long_talk: list[str], here: Path) -> None:
    terminal = Terminal(long_talk, here)
    try:
        terminal.until(b"you> ")
        terminal.type("Who?")
        terminal.until(b"finetune> ", more=40)
        terminal.process.send_signal(signal.SIGINT)
        terminal.until(b"(stopped)")
        terminal.until(b"you> ")
        terminal.interrupt_until(b"/quit ends")
        terminal.until(b"you> ")
        terminal.type("/undo")
        terminal.until(b"the conversation is empty")
        terminal.until(b"you> ")
        terminal.type("/quit")
    finally:
        code = terminal.end()
    assert code == 0


def test_a_request_to_terminate_ends_the_talk_in_an_answer(long_talk: list[str], here: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "sapience", *long_talk],
        cwd=here, env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdin and process.stdout
    process.stdin.write(b"Who?\n")
    process.stdin.flush()
    assert process.stdout.read(1)
    process.terminate()
    _, told = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM and b"Traceback" not in told


def test_at_a_terminal_a_question_may_have_lines_and_is_remembered(long_talk: list[str], here: Path) -> None:
    terminal = Terminal([*long_talk[:2], "--tokens", "3"], here)
    try:
        terminal.until(b"you> ")
        terminal.type("Who is \\")
        terminal.until(b"...> ")
        terminal.type("Ada?")
        terminal.until(b"finetune> ")
        terminal.until(b"you> ")
        terminal.type("/undo")
        terminal.until(b"you> ")
        terminal.type("/quit")
    finally:
        code = terminal.end()
    history = here / "state" / "sapience" / "chat_history"
    assert code == 0 and history.read_text().splitlines()[-4:] == ["Who is \\", "Ada?", "/undo", "/quit"]
    assert history.stat().st_mode & 0o077 == 0
