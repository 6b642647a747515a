"""Documents as they are trained on: bos and eos, fill-in-the-middle for code, combined tokens split at random."""

import pytest

from sapience.corpus.documents import Document
from sapience.corpus.tokenizer import FIM_BEGIN, FIM_END, FIM_HOLE, Tokenizer, train_tokenizer
from sapience.corpus.tokenizer_stage import TrainingEncoder, combined_cut

SOURCE = "def f(x):\n    return (x + 1);\n\n\nvalue = f(2);\nprint(value);\n"


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer([SOURCE * 20], 340, 1)


def documents(kind: str, count: int) -> list[Document]:
    return [Document(f"# {n}\n{SOURCE}", "python", "", kind, "mine", "MIT") for n in range(count)]


def encode(encoder: TrainingEncoder, given: list[Document]) -> list[list[int]]:
    return [ids for _, ids in encoder.documents(iter(given))]


def test_plain_documents_are_bos_text_eos(tokenizer: Tokenizer) -> None:
    given = documents("text", 5)
    for document, ids in zip(given, encode(TrainingEncoder(tokenizer, 0.0, 1.0, 0), given), strict=True):
        assert ids == [tokenizer.bos_id, *tokenizer.encode(document.text), tokenizer.eos_id]


def test_fill_in_the_middle_is_prefix_suffix_middle_of_a_tenth_of_the_code(tokenizer: Tokenizer) -> None:
    given = documents("code", 1000)
    begin, hole, end = (tokenizer.special[name] for name in (FIM_BEGIN, FIM_HOLE, FIM_END))
    rearranged = 0
    for document, ids in zip(given, encode(TrainingEncoder(tokenizer, 0.0, 0.1, 0), given), strict=True):
        assert ids[0] == tokenizer.bos_id and ids[-1] == tokenizer.eos_id
        if ids[1] != begin:
            assert tokenizer.decode(ids[1:-1]) == document.text
            continue
        rearranged += 1
        prefix = tokenizer.decode(ids[2 : ids.index(hole)])
        suffix = tokenizer.decode(ids[ids.index(hole) + 1 : ids.index(end)])
        middle = tokenizer.decode(ids[ids.index(end) + 1 : -1])
        assert middle and prefix + middle + suffix == document.text
    assert 70 <= rearranged <= 130


def test_combined_tokens_are_split_at_their_share_and_say_the_same(tokenizer: Tokenizer) -> None:
    combined = [index for index in range(tokenizer.vocab_size) if combined_cut(tokenizer.token_bytes(index))]
    assert combined, "the vocabulary has no token of punctuation and newline to test with"
    given = documents("text", 300)

    def count(share: float) -> int:
        total = 0
        for document, ids in zip(given, encode(TrainingEncoder(tokenizer, share, 0.0, 0), given), strict=True):
            assert tokenizer.decode(ids[1:-1]) == document.text
            total += sum(ids.count(index) for index in combined)
        return total

    whole = count(0.0)
    assert count(1.0) == 0
    assert 0.85 * whole < count(0.1) < 0.95 * whole


@pytest.mark.parametrize(
    ("token", "cut"),
    [
        (b".\n", 1),
        (b" );\n\n", 3),
        ("。\n".encode(), 3),
        (b"\n", 0),
        (b"a\n", 0),
        (b" \n", 0),
        (b";", 0),
        (b"\xe3\n", 0),
    ],
)
def test_what_counts_as_combined(token: bytes, cut: int) -> None:
    assert combined_cut(token) == cut


def test_encoding_hangs_on_document_and_seed_alone(tokenizer: Tokenizer) -> None:
    given = documents("code", 60)
    encoder = TrainingEncoder(tokenizer, 0.3, 0.5, 7)
    forward = encode(encoder, given)
    assert encode(TrainingEncoder(tokenizer, 0.3, 0.5, 7), given[::-1])[::-1] == forward
    assert encode(TrainingEncoder(tokenizer, 0.3, 0.5, 8), given) != forward
