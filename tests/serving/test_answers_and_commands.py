"""Answers that stream, stop and fit; the commands of a talk; all without a terminal."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import tiny_config, tiny_model

from sapience.corpus.chat import ChatFormat, Message, has_chat_template
from sapience.corpus.tokenizer import ASSISTANT, USER, Tokenizer, train_tokenizer
from sapience.inference.generate import generate
from sapience.model.huggingface import save_model
from sapience.recipe import UserError
from sapience.serving.answering import AnswerStream, ChatModel, Settings, answer, load_chat_model
from sapience.serving.conversation import Conversation
from sapience.serving.talk import Talk
from sapience.serving.terminal import FENCE, whole

V3 = train_tokenizer(["Ada finds a boat in the garden.\n" * 20], 288, 1)


def without_roles(tokenizer: Tokenizer) -> Tokenizer:
    """As V2's: the same vocabulary, its two role tokens called something else."""
    text = json.dumps(tokenizer.document, ensure_ascii=False)
    return Tokenizer(json.loads(text.replace(USER, "<one>").replace(ASSISTANT, "<two>")))


FORMATS = {"V3": ChatFormat(V3), "V2": ChatFormat(without_roles(V3))}


def save(folder: Path, seed: int, taught: bool, context: int = 128, tokenizer: Tokenizer = V3) -> Path:
    config = tiny_config(vocab_size=288, max_position_embeddings=context)
    save_model(tiny_model(config, seed), folder, tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id)
    tokenizer.save(folder, ChatFormat(tokenizer).template if taught else None)
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "tiny"
    for seed, (stage, context) in enumerate({"pretrain": 24, "specialise/math": 128, "finetune": 128}.items()):
        save(run / stage / "model", seed, stage != "pretrain", context)
    save(run / "reward" / "model", 9, True)
    (run / "reward" / "model" / "reward_head.safetensors").write_bytes(b"not read")
    (run / "recipe.yaml").write_text("specialise: {system_prompt: Think first.}")
    return run


class Room:
    """A talk whose answers and notices are kept."""

    def __init__(self, folder: Path, system: str = "", tokens: int = 6, interactive: bool = False) -> None:
        self.written, self.said = "", list[str]()
        self.talk = Talk(
            load_chat_model(folder),
            Conversation(system),
            Settings(0.8, tokens, 5),
            self._write,
            self.said.append,
            interactive,
        )

    def _write(self, text: str) -> None:
        self.written += text

    def hears(self, line: str) -> str:
        """What a line adds to the notices."""
        before = len(self.said)
        assert self.talk.take(line)
        return "\n".join(self.said[before:])

    def turns(self) -> list[str]:
        return [turn.content for turn in self.talk.conversation.turns]


@pytest.mark.parametrize("name", FORMATS)
@settings(max_examples=200)
@given(tokens=st.lists(st.integers(0, 287), max_size=24))
def test_pieces_together_are_the_text_whatever_the_bytes(name: str, tokens: list[int]) -> None:
    chat = FORMATS[name]
    stream = AnswerStream(chat)
    assert "".join([*map(stream.push, tokens), stream.end()]) == chat.text(tokens)


@pytest.mark.parametrize("name", FORMATS)
def test_broken_and_split_characters_and_a_leading_blank(name: str) -> None:
    chat = FORMATS[name]
    ids = {chat.tokenizer.token_bytes(index): index for index in range(288)}
    for data in (" é你".encode(), b"\xff\xff\xff\xe4\xbd\xa0 \xf0\x9fa\xe4\xbd", b"", b"  x", b"\xe4"):
        tokens = [ids[bytes([value])] for value in data] + [chat.tokenizer.eos_id]
        stream = AnswerStream(chat)
        pieces = [*map(stream.push, tokens), stream.end()]
        assert (
            "".join(pieces) == chat.text(tokens) == data.decode("utf-8", "replace").removeprefix(" " * (name == "V2"))
        )


def test_an_answer_is_what_the_model_draws_after_the_prompt(run: Path) -> None:
    model = load_chat_model(run / "finetune" / "model")
    conversation = Conversation("Be kind.")
    conversation.ask("Who is Ada?")
    pieces: list[str] = []
    said = answer(model, conversation, Settings(0.9, 8, 3), pieces.append)
    prompt = model.chat.prompt([Message("system", "Be kind."), Message("user", "Who is Ada?")])
    [drawn] = generate(model.network, [prompt], 8, temperature=0.9, stop_ids={V3.eos_id}, seed=3)
    assert said.text == model.chat.text(drawn.tokens) == "".join(pieces) and said.tokens == len(drawn.tokens)
    assert (said.finished, said.stopped, said.left_out) == (drawn.finished, False, 0)
    assert said == answer(model, conversation, Settings(0.9, 8, 3), pieces.append)


def test_an_answer_ends_where_the_model_says_so(run: Path) -> None:
    model = load_chat_model(run / "finetune" / "model")
    with torch.no_grad():
        model.network.head.weight[V3.eos_id] = 40 * model.network.head.weight.abs().max()
    conversation = Conversation()
    conversation.ask("x")
    said = next(
        said
        for seed in range(50)
        if (said := answer(model, conversation, Settings(1.0, 9, seed), lambda _: None)).finished
    )
    assert not said.stopped and "end▁of" not in said.text


def interrupting(after: int) -> Callable[[str], None]:
    seen = 0

    def show(_: str) -> None:
        nonlocal seen
        seen += 1
        if seen == after:
            raise KeyboardInterrupt

    return show


def test_ctrl_c_ends_the_answer_and_keeps_its_beginning(run: Path) -> None:
    model = load_chat_model(run / "finetune" / "model")
    conversation = Conversation()
    conversation.ask("Who is Ada?")
    whole = answer(model, conversation, Settings(0.0, 9, 0), lambda _: None)
    said = answer(model, conversation, Settings(0.0, 9, 0), interrupting(4))
    assert said.stopped and not said.finished and said.tokens == 4 and whole.text.startswith(said.text)
    assert answer(model, conversation, Settings(0.0, 9, 0), lambda _: None) == whole


def test_a_long_conversation_is_not_read_anew_for_every_answer(run: Path) -> None:
    model = load_chat_model(run / "finetune" / "model")
    conversation = Conversation()
    for question in ("Who is Ada Lovelace and what did she write?", "When?", "Why?"):
        conversation.ask(question)
        conversation.answer(answer(model, conversation, Settings(0.7, 9, 1), lambda _: None).text)
    counters = model.engine.counters
    assert 0 < counters.cached_tokens < counters.prompt_tokens
    fresh = load_chat_model(run / "finetune" / "model")
    conversation.reopen()
    assert answer(fresh, conversation, Settings(0.7, 9, 1), lambda _: None) == answer(
        model, conversation, Settings(0.7, 9, 1), lambda _: None
    )


def test_the_answer_stays_within_the_context_and_old_turns_are_left_out(run: Path) -> None:
    room = Room(run / "pretrain" / "model", system="Hi.", tokens=100)
    told = [room.hears(f"a {number}") for number in range(4)]
    assert len(room.turns()) == 8
    assert [("oldest questions" in one) for one in told].count(True) == 1
    context = room.talk.model.context
    for turns in range(1, 8, 2):
        conversation = Conversation("Hi.", room.talk.conversation.turns[:turns])
        fitted = conversation.fitted(room.talk.model.chat, context - context // 4)
        said = answer(room.talk.model, conversation, Settings(0.8, 100, 5), lambda _: None)
        assert len(fitted.tokens) + said.tokens <= context and (
            said.finished or len(fitted.tokens) + said.tokens == context
        )
    written = room.written
    assert "ask a shorter one, or shorten the system message" in room.hears("much " * 30)
    assert len(room.turns()) == 8 and room.written == written


def test_a_base_model_and_an_expert_are_introduced_and_an_assistant_is_not(run: Path) -> None:
    assert ["pretrain is a base model" in one for one in Room(run / "pretrain" / "model").said] == [True]
    assert [
        "math was raised to reason" in one and "Think first." in one for one in Room(run / "specialise/math/model").said
    ] == [True]
    assert Room(run / "finetune" / "model").said == []


def test_another_stage_answers_the_last_question_again(run: Path) -> None:
    room = Room(run / "finetune" / "model", interactive=True)
    room.hears("Who is Ada?")
    room.hears("And Ben?")
    first, second = room.turns()[1], room.turns()[3]
    assert room.written == f"finetune> {first}\nfinetune> {second}\n"
    assert room.hears("/stage").splitlines() == ["* finetune", "  pretrain", "  specialise/math"]
    assert "now talking to specialise/math" in room.hears("/stage specialise/math")
    changed = room.turns()
    assert changed[:3] == ["Who is Ada?", first, "And Ben?"] and changed[3] != second
    assert room.written.endswith(f"\nspecialise/math> {changed[3]}\n")
    room.hears("/stage finetune")
    assert room.turns()[3] == second
    assert "no model of stage reward: choose from finetune" in room.hears("/stage reward")
    assert room.talk.model.name == "finetune"


def test_a_stage_that_cannot_answer_again_leaves_the_answer_there(run: Path) -> None:
    room = Room(run / "finetune" / "model")
    room.hears("a long question of more than eighteen tokens " * 2)
    turns = room.turns()
    assert "room for" in room.hears("/stage pretrain") and room.turns() == turns
    assert room.talk.model.name == "pretrain" and "* pretrain" in room.hears("/stage")


def test_a_model_of_no_run_has_no_other_stages(tmp_path: Path) -> None:
    room = Room(save(tmp_path / "own", 4, True))
    assert "a model of its own" in room.hears("/stage") and "a model of its own" in room.hears("/stage finetune")


def test_a_reward_model_does_not_talk(run: Path) -> None:
    with pytest.raises(UserError, match="gives scores and no answers"):
        load_chat_model(run / "reward" / "model")


def test_commands_change_the_talk_and_mistakes_are_one_sentence(run: Path) -> None:
    room = Room(run / "finetune" / "model")
    room.hears("Who?")
    first = room.turns()
    assert room.hears("/undo") == "taken back; the conversation is empty" and room.turns() == []
    assert room.hears("/undo") == "there is nothing to take back"
    assert room.hears("/seed 6") == "seed 6"
    room.hears("Who?")
    assert room.turns() != first
    room.hears("/undo")
    room.hears("/seed 5")
    room.hears("Who?")
    assert room.turns() == first
    room.hears("/temperature 0")
    assert room.talk.settings == Settings(0.0, 6, 5)
    room.hears("/again")
    assert room.talk.settings.seed == 6 and len(room.turns()) == 2
    for line in ("/top-k 40", "/top-p 0.9", "/min-p 0.1", "/tokens 4"):
        assert room.hears(line) == line[1:]
    assert room.talk.settings == Settings(0.0, 4, 6, 40, 0.9, 0.1)
    assert room.hears("/settings") == "temperature 0, tokens 4, seed 6, top-k 40, top-p 0.9, min-p 0.1"
    room.talk.settings = Settings(0.0, 6, 5)
    room.hears("/system Be brief.")
    assert room.talk.conversation.system == "Be brief."
    assert "system message stays" in room.hears("/new") and room.turns() == []
    room.hears("/system")
    assert room.talk.conversation.system == ""
    for line in (
        "/seed",
        "/seed x",
        "/seed -1",
        "/temperature nan",
        "/temperature -1",
        "/temperature x",
        "/top-k -1",
        "/top-p 0",
        "/min-p 2",
        "/tokens 0",
        "/again",
        "/dance",
        "/",
    ):
        told = room.hears(line)
        assert told and "\n" not in told and room.talk.settings == Settings(0.0, 6, 5) and room.turns() == [], line
    assert all(f"/{name}" in room.hears("/help") for name in ("stage", "system", "new", "undo", "seed", "quit"))
    room.hears(" /etc is a folder?")
    room.hears("   ")
    assert room.turns()[0] == "/etc is a folder?" and len(room.turns()) == 2
    assert not room.talk.take("/quit")


@pytest.mark.parametrize(("interactive", "after", "kept"), [(True, 3, True), (True, 1, False), (False, 3, False)])
def test_ctrl_c_ends_an_answer_but_through_a_pipe_the_talk(
    interactive: bool, after: int, kept: bool, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At a terminal the first piece is the model's name: an interrupt there comes before any token."""
    room = Room(run / "finetune" / "model", interactive=interactive)
    room.talk._write = interrupting(after)
    if kept:
        assert room.hears("Who?") == "(stopped)" and len(room.turns()) == 2
        return
    with pytest.raises(KeyboardInterrupt):
        room.talk.take("Who?")
    assert room.turns() == []


def test_an_interrupted_prefill_is_as_if_nothing_was_asked(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    room = Room(run / "finetune" / "model")

    def interrupted(*_: object) -> ChatModel:
        raise KeyboardInterrupt

    monkeypatch.setattr(Conversation, "fitted", interrupted)
    with pytest.raises(KeyboardInterrupt):
        room.talk.take("Who?")
    assert room.turns() == []
    monkeypatch.undo()
    assert room.hears("Who?") is not None and len(room.turns()) == 2


@pytest.mark.parametrize(
    "wrong",
    [
        {"temperature": -0.1},
        {"temperature": float("inf")},
        {"tokens": 0},
        {"seed": -1},
        {"seed": 2**40},
        {"top_p": 0.0},
    ],
)
def test_settings_that_cannot_be_drawn_with(wrong: dict[str, float]) -> None:
    with pytest.raises(UserError, match="give"):
        Settings(**wrong)  # type: ignore[arg-type]


def test_a_chat_template_says_that_a_model_was_taught(tmp_path: Path) -> None:
    assert not has_chat_template(tmp_path)
    for content, taught in (("{}", False), ("[]", False), ("{", False), ('{"chat_template": "x"}', True)):
        (tmp_path / "tokenizer_config.json").write_text(content)
        assert has_chat_template(tmp_path) is taught
    (tmp_path / "tokenizer_config.json").unlink()
    (tmp_path / "chat_template.jinja").write_text("x")
    assert has_chat_template(tmp_path)


@pytest.mark.parametrize(
    ("typed", "wanted"),
    [
        (["Who?"], "Who?"),
        (["a\\", "b\\", "c", "d"], "a\nb\nc"),
        (["a\\"], "a"),
        ([FENCE, "def f():", "    pass\\", "", FENCE, "next"], "def f():\n    pass\\\n"),
        ([FENCE, "a"], "a"),
        ([], None),
    ],
)
def test_a_question_may_have_several_lines(typed: list[str], wanted: str | None) -> None:
    asked: list[str] = []

    def line(prompt: str) -> str | None:
        asked.append(prompt)
        return typed.pop(0) if typed else None

    assert whole(line) == wanted
    assert asked[0] == "you> " and set(asked[1:]) <= {"...> "}
