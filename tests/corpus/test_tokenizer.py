"""One tokenizer, three readers: rustbpe that learned it, tiktoken that encodes, tokenizers that loads it."""

import json
from pathlib import Path

import pytest
import tiktoken
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as JsonTokenizer

from sapience.corpus.pretokenizer import single_pattern
from sapience.corpus.tokenizer import (
    _CHARACTERS_FOR_THREADS,
    BOS,
    EOS,
    FIM_HOLE,
    PAD,
    SPECIAL,
    TextStream,
    Tokenizer,
    train_tokenizer,
)
from sapience.recipe import UserError

TEXT = (
    "The quick brown fox jumps over the lazy dog. The dog sleeps, the fox runs.\n\nHere are 3.14159 and 2024 things;\n"
    "def add(a, b):\n    return a + b\n\nÜber den Wäldern wächst das Grün. Il était une fois, à la forêt.\n"
    "敏捷的棕色狐狸跳过了懒狗。狐狸跑了。\nアイ・アイはサルだよ。アイ・アイ。ｶﾞ が が\n"
    "\taaaa aaa aaaaa abababab\r\n\x00\x01 x\u00a0y\n"
)
MIXED = st.text(st.sampled_from(TEXT + "0123456789"), max_size=40) | st.text("ab ", max_size=40)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer([TEXT * 4, TEXT[::-1] * 3], 420, 1)


@settings(max_examples=400, deadline=None)
@given(text=MIXED | st.text(max_size=30))
def test_same_ids_everywhere_and_back_again(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text)
    loaded = JsonTokenizer.from_str(json.dumps(tokenizer.document))
    loaded.encode_special_tokens = True
    assert loaded.encode(text, add_special_tokens=False).ids == ids
    assert tokenizer.decode(ids) == text
    assert b"".join(tokenizer.token_bytes(index) for index in ids) == text.encode()


def test_many_long_texts_are_encoded_by_threads_in_their_order(tokenizer: Tokenizer) -> None:
    texts = [TEXT[start:] * (start % 19) for start in range(0, len(TEXT), 2)]
    assert sum(map(len, texts)) > _CHARACTERS_FOR_THREADS
    assert tokenizer.encode_batch(texts) == [tokenizer.encode(text) for text in texts]


def test_tiktoken_encodes_as_rustbpe_does() -> None:
    import rustbpe

    learner = rustbpe.Tokenizer()
    learner.train_from_iterator(iter([TEXT * 4, TEXT[::-1] * 3]), 420 - len(SPECIAL), pattern=single_pattern(3))
    trained = train_tokenizer([TEXT * 4, TEXT[::-1] * 3], 420, 3)
    assert isinstance(trained._fast, tiktoken.Encoding)
    for text in (TEXT, TEXT[::-1], "12 3456 アイ・アイ", "aaaaaaaab" * 9, ""):
        assert trained.encode(text) == [index + len(SPECIAL) for index in learner.encode(text)]


def test_training_twice_gives_one_tokenizer(tokenizer: Tokenizer) -> None:
    assert train_tokenizer([TEXT * 4, TEXT[::-1] * 3], 420, 1).document == tokenizer.document
    assert tokenizer.vocab_size == 420


def test_special_tokens_stand_first_and_are_never_in_plain_text(tokenizer: Tokenizer) -> None:
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id) == (0, 1, 2)
    assert [tokenizer.special[name] for name in SPECIAL] == list(range(len(SPECIAL)))
    for name in (BOS, EOS, PAD, FIM_HOLE):
        ids = tokenizer.encode(f"a{name}b")
        assert not set(ids) & set(tokenizer.special.values())
        assert tokenizer.decode(ids) == f"a{name}b"


def test_transformers_loads_what_is_saved(tokenizer: Tokenizer, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    tokenizer.save(tmp_path)
    loaded = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert loaded.encode(TEXT, add_special_tokens=False) == tokenizer.encode(TEXT)
    assert (loaded.bos_token_id, loaded.eos_token_id, loaded.pad_token_id) == (0, 1, 2)
    assert loaded.decode(tokenizer.encode("a  b, c .")) == "a  b, c ."


def test_saved_and_loaded_is_the_same(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path)
    for path in (tmp_path, tmp_path / "tokenizer.json"):
        assert Tokenizer.load(path).encode(TEXT) == tokenizer.encode(TEXT)


def test_a_tokenizer_of_the_users_own(tokenizer: Tokenizer, tmp_path: Path) -> None:
    names = {"<s>": 0, "</s>": 1}
    vocabulary = names | {chr(33 + place): 2 + place for place in range(90)}
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    added = [{"id": index, "content": name} | flags for name, index in names.items()]
    document = tokenizer.document | {"added_tokens": added, "post_processor": None}
    document["model"] = document["model"] | {"vocab": vocabulary, "merges": []}
    (tmp_path / "tokenizer.json").write_text(json.dumps(document))
    with pytest.raises(UserError, match="eos_token"):
        Tokenizer.load(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"eos_token": {"content": "</s>"}, "bos_token": "<s>"}))
    own = Tokenizer.load(tmp_path)
    assert (own.bos_id, own.eos_id, own.vocab_size) == (0, 1, 92)
    assert own.decode(own.encode("abc")) == "abc"


@pytest.mark.parametrize("content", [None, "{}", "no json", '{"version": "1.0"}'])
def test_a_missing_or_damaged_tokenizer_is_the_users_to_mend(content: str | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(UserError, match="tokenizer"):
        Tokenizer.load(tmp_path)


def test_streamed_text_is_whole_characters(tokenizer: Tokenizer) -> None:
    stream = TextStream(tokenizer)
    given_out = [stream.push(index) for index in tokenizer.encode("狐狸 é 🙂 end")]
    assert "".join(given_out) == "狐狸 é 🙂 end"
    assert all("\ufffd" not in part for part in given_out)
