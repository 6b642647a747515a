"""Packed samples learn what separate ones do; conversations are rendered append-only and as transformers renders them."""

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import tiny_config, tiny_model

from sapience.corpus.chat import ChatFormat, Message, Rendered, jinja_template
from sapience.corpus.tokenizer import train_tokenizer
from sapience.model.batch import Microbatch
from sapience.parallel.executor import PlainLoop
from sapience.posttraining.packing import PackedSamples, first_fit
from sapience.posttraining.samples import Sample, load_samples, read_samples, write_samples
from sapience.recipe.errors import UserError
from sapience.training.objective import NextTokens, labelled_tokens

TOKENIZER = train_tokenizer(["the cat sat on the mat and ran away. 你好，世界。" * 50], 300, 1)
CHAT = ChatFormat(TOKENIZER)
TALK = [
    Message("system", "Be brief."),
    Message("user", "Where is the cat? <｜Assistant｜>"),
    Message("assistant", "On the mat. 你好"),
    Message("user", "And now?"),
    Message("assistant", "It ran away."),
]


def samples(count: int = 11, seed: int = 0) -> list[Rendered]:
    generator = torch.Generator().manual_seed(seed)
    found = []
    for _ in range(count):
        length = int(torch.randint(4, 20, (1,), generator=generator))
        tokens = torch.randint(3, 60, (length,), generator=generator).tolist()
        begin = int(torch.randint(1, length - 1, (1,), generator=generator))
        found.append(Rendered(tokens, [place >= begin for place in range(length)]))
    return found


def test_packed_loss_and_gradient_equal_those_of_separate_samples() -> None:
    model = tiny_model(tiny_config(), 0, torch.float64)
    objective = NextTokens(0.3, 0.0)
    rendered = samples()
    packed = PackedSamples(rendered, 40, 2, 0, 2)
    results = []
    for batches in (
        packed.microbatches(0, len(packed.rows)),
        [b for s in rendered for b in PackedSamples([s], 40, 1, 0, 2).microbatches(0, 1)],
    ):
        total = labelled_tokens(batches)
        sums = PlainLoop(model, objective).forward_backward(batches, total)
        results.append((total, sums, {n: p.grad.clone() for n, p in model.named_parameters()}))
        model.zero_grad(set_to_none=True)
    assert len(packed.rows) < len(rendered) and results[0][0] == results[1][0]
    for name in ("loss", "mtp_loss"):
        assert float(results[0][1].values[name]) == pytest.approx(float(results[1][1].values[name]), rel=1e-6)
    for name, gradient in results[0][2].items():
        torch.testing.assert_close(gradient, results[1][2][name], rtol=1e-5, atol=1e-8, msg=name)


def test_only_what_the_assistant_says_is_learned_and_it_learns_to_stop() -> None:
    rendered = CHAT.conversation(TALK)
    learned = [token for token, learn in zip(rendered.tokens, rendered.learn, strict=True) if learn]
    assert TOKENIZER.decode(learned).replace("<｜end▁of▁sentence｜>", "|") == "On the mat. 你好|It ran away.|"
    assert rendered.tokens.count(TOKENIZER.bos_id) == 1 and TOKENIZER.pad_id != TOKENIZER.eos_id


def test_every_turn_is_a_prefix_of_the_next_and_text_never_becomes_a_role() -> None:
    whole = CHAT.conversation(TALK).tokens
    for turns in (2, 4):
        prompt = CHAT.prompt(TALK[:turns])
        assert whole[: len(prompt)] == prompt
        answer = CHAT.answer(TALK[turns].content)
        assert whole[len(prompt) : len(prompt) + len(answer)] == answer
    assert whole.count(CHAT.assistant[0]) == 2


@pytest.mark.parametrize("roles", ["", "assistant", "user user", "user system", "system assistant"])
def test_turns_out_of_order_are_refused(roles: str) -> None:
    with pytest.raises(ValueError, match="in turn"):
        CHAT.conversation([Message(role, "x") for role in roles.split()])  # type: ignore[arg-type]


def test_transformers_renders_the_same_ids(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    TOKENIZER.save(tmp_path)
    other = transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(tmp_path / "tokenizer.json"),
        bos_token="<｜begin▁of▁sentence｜>",
        eos_token="<｜end▁of▁sentence｜>",
    )
    other.chat_template = jinja_template(named=True)
    plain = [Message(m.role, m.content.replace("<｜Assistant｜>", "")) for m in TALK]
    turns = [{"role": m.role, "content": m.content} for m in plain]
    text = other.apply_chat_template(turns[:4], tokenize=False, add_generation_prompt=True)
    assert other(text, add_special_tokens=False)["input_ids"] == CHAT.prompt(plain[:4])
    text = other.apply_chat_template(turns, tokenize=False)
    assert other(text, add_special_tokens=False)["input_ids"] == CHAT.conversation(plain).tokens


@given(st.lists(st.integers(1, 30), max_size=40))
def test_packing_loses_nothing_and_overfills_nothing(lengths: list[int]) -> None:
    rows = first_fit(lengths, 30)
    assert sorted(i for row in rows for i in row) == list(range(len(lengths)))
    assert all(sum(lengths[i] for i in row) <= 30 for row in rows)


def test_rows_are_a_function_of_seed_and_place_and_long_samples_are_counted() -> None:
    one, two = (PackedSamples(samples(), 15, 2, 7, 2) for _ in range(2))
    assert one.too_long == sum(len(s.tokens) > 16 for s in samples()) > 0
    one.microbatches(0, 9)

    def ids(batches: list[Microbatch]) -> list[list[int]]:
        return [row for batch in batches for row in batch.labels_BT.tolist()]

    assert ids(one.microbatches(5, 4)) == ids(two.microbatches(5, 4))


def test_samples_of_every_layout_load_and_bad_lines_are_named(tmp_path: Path) -> None:
    good = [
        {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]},
        {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]},
        {"instruction": "a", "input": "", "output": "b"},
        {"prompt": "a", "response": "b"},
    ]
    bad = ["not json", "[]", '{"prompt": "a"}', '{"messages": [{"role": "user", "content": "a"}]}', '{"messages": 5}']
    path = tmp_path / "mine.jsonl"
    path.write_text("\n".join([*map(json.dumps, good), *bad]) + "\n")
    loaded = load_samples(path, "mine")
    assert [(s.messages[0].content, s.answer, s.source) for s in loaded.samples] == [("a", "b", "mine")] * 4
    assert [line.split(":")[0] for line in loaded.bad] == [f"line {n}" for n in range(5, 10)]
    path.write_text("nothing\n")
    with pytest.raises(UserError, match="no usable sample"):
        load_samples(path, "mine")


def test_a_users_record_says_nothing_of_kind_and_source_and_is_never_printed_as_python(tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    plain = {"prompt": "a", "answer": "b"}
    good = [plain | {"kind": "qa", "source": "web", "language": "zh"}, plain | {"source": None, "language": None}]
    bad = {"instruction": "a", "input": {"a": 1}, "output": "b"}
    path.write_text("\n".join(map(json.dumps, [*good, bad])))
    loaded = load_samples(path, "mine.jsonl")
    assert [(s.kind, s.source, s.language) for s in loaded.samples] == [
        ("own", "mine.jsonl", "zh"), ("own", "mine.jsonl", ""),
    ]  # fmt: skip
    assert loaded.bad == ["line 3: 'input' is no text"]


@pytest.mark.parametrize("damage", ["{", '{"prompt": "a", "answer": "b", "kind": "qa", "source": "x"}'])
def test_the_runs_own_samples_keep_kind_and_source_and_a_damaged_line_is_fatal(damage: str, tmp_path: Path) -> None:
    path = tmp_path / "samples.jsonl"
    sample = Sample((Message("user", "a"), Message("assistant", "b")), "reasoned", "math expert", "math", "maxn", "en")
    write_samples(path, [sample])
    assert read_samples(path) == [sample]
    with path.open("a") as file:
        file.write(damage + "\n")
    with pytest.raises(UserError, match=r"samples.jsonl is not as the run wrote it \(line 2: .*run again"):
        read_samples(path)
