"""The token stream: a pure function of seed and row, exact shares, and every prediction of a document once an epoch."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sapience.corpus.packing import pack
from sapience.corpus.shards import TokenShard, write_shard
from sapience.corpus.stream import PAD_ID, ChangingStream, TokenStream, chain
from sapience.recipe import UserError


def make_shard(folder: Path, name: str, lengths: list[int], vocabulary: int = 1000) -> TokenShard:
    rng = np.random.default_rng(len(lengths))
    write_shard(folder / name, [rng.integers(3, vocabulary, size) for size in lengths], vocabulary)
    return TokenShard.open(folder / name)


@pytest.fixture
def shards(tmp_path: Path) -> dict[str, TokenShard]:
    rng = np.random.default_rng(0)
    return {
        "a": make_shard(tmp_path, "a", rng.integers(2, 100, 60).tolist()),
        "b": make_shard(tmp_path, "b", rng.integers(2, 30, 80).tolist()),
        "c": make_shard(tmp_path, "c", [500, 3]),
    }


WEIGHTS = {"a": 0.5, "b": 0.3, "c": 0.2}


@settings(max_examples=60, deadline=None)
@given(lengths=st.lists(st.integers(0, 90), min_size=1, max_size=60), row=st.integers(2, 33))
def test_packing_holds_every_prediction_pair_once_and_packs_tightly(lengths: list[int], row: int) -> None:
    plan = pack(np.array(lengths), row, np.random.default_rng(1))
    pairs: Counter[tuple[int, int]] = Counter()
    used = np.zeros(plan.rows, int)
    for number in range(plan.rows):
        for piece in range(plan.first[number], plan.first[number + 1]):
            document, start, size = int(plan.document[piece]), int(plan.start[piece]), int(plan.size[piece])
            used[number] += size
            pairs.update((document, position) for position in range(start, start + size - 1))
    assert (used <= row).all()
    expected = {(d, p) for d, length in enumerate(lengths) for p in range(length - 1)}
    assert set(pairs) == expected and all(count == 1 for count in pairs.values())
    # No two rows would fit into one: best fit never opens a row while a piece fits into another.
    if plan.rows > 1:
        assert np.sort(used)[:2].sum() > row - 1


def test_an_epoch_of_a_domain_holds_every_token_pair_once(tmp_path: Path) -> None:
    lengths = [5, 40, 17, 9, 2, 33, 64, 8]
    shard = make_shard(tmp_path, "only", lengths)
    stream = TokenStream({"only": shard}, {"only": 1.0}, 16, 5)
    rows, pairs = 0, Counter[tuple[int, int]]()
    while sum(pairs.values()) < sum(length - 1 for length in lengths):
        drawn = stream.rows(rows, 1)
        tokens, documents = drawn.tokens[0], drawn.documents[0]
        inside = np.flatnonzero((documents[1:] == documents[:-1]) & (documents[1:] >= 0))
        pairs.update((int(tokens[place]), int(tokens[place + 1])) for place in inside)
        assert (tokens[documents < 0] == PAD_ID).all()
        rows += 1
    flat = np.asarray(shard.tokens).astype(int)
    edges = list(zip(shard.offsets[:-1], shard.offsets[1:], strict=True))
    whole = [(int(flat[i]), int(flat[i + 1])) for begin, end in edges for i in range(begin, end - 1)]
    assert pairs == Counter(whole)


def test_rows_are_a_pure_function_of_seed_and_number(shards: dict[str, TokenShard]) -> None:
    whole = TokenStream(shards, WEIGHTS, 16, 3).rows(0, 900)
    again = TokenStream(dict(reversed(shards.items())), {"c": 2, "a": 5, "b": 3}, 16, 3)
    for start, count in ((880, 20), (5, 7), (300, 1), (256, 256), (0, 3)):  # any order, as after a restart
        part = again.rows(start, count)
        assert (part.tokens == whole.tokens[start : start + count]).all()
        assert (part.documents == whole.documents[start : start + count]).all()
    assert (TokenStream(shards, WEIGHTS, 16, 4).rows(0, 50).tokens != whole.tokens[:50]).any()


def test_shares_are_exact_in_every_block(shards: dict[str, TokenShard]) -> None:
    stream = TokenStream(shards, WEIGHTS, 16, 3)
    total: Counter[int] = Counter()
    numbers: dict[int, list[int]] = {0: [], 1: [], 2: []}
    for block in range(6):
        for row in range(block * stream.block, (block + 1) * stream.block):
            domain, number = stream.locate(row)
            total[domain] += 1
            numbers[domain].append(number)
        for place, name in enumerate(stream.names):
            assert abs(total[place] - WEIGHTS[name] * (block + 1) * stream.block) <= 1
    assert all(sorted(drawn) == list(range(len(drawn))) for drawn in numbers.values())


def test_the_order_changes_from_epoch_to_epoch(tmp_path: Path) -> None:
    stream = TokenStream({"x": make_shard(tmp_path, "x", [17] * 50)}, {"x": 1.0}, 16, 0)
    first, second = stream.rows(0, 50).tokens, stream.rows(50, 50).tokens
    assert sorted(map(tuple, first.tolist())) == sorted(map(tuple, second.tolist()))
    assert (first != second).any()


def test_the_hash_of_a_stream_hangs_on_every_token(shards: dict[str, TokenShard]) -> None:
    stream = TokenStream(shards, WEIGHTS, 16, 3)
    parts = [stream.rows(0, 8), stream.rows(8, 8)]
    digest = chain(chain("", parts[0]), parts[1])
    assert chain(chain("", stream.rows(0, 8)), stream.rows(8, 8)) == digest
    parts[1].tokens[3, 3] += 1
    assert chain(chain("", parts[0]), parts[1]) != digest


def test_unknown_and_empty_domains_are_named(tmp_path: Path, shards: dict[str, TokenShard]) -> None:
    with pytest.raises(UserError, match="klingon"):
        TokenStream(shards, {"a": 1, "klingon": 1}, 16, 0)
    with pytest.raises(UserError, match="hollow"):
        TokenStream({"hollow": make_shard(tmp_path, "hollow", [])}, {"hollow": 1}, 16, 0)
    with pytest.raises(UserError):
        TokenStream(shards, {}, 16, 0)


STRETCHES = [(0, {"a": 0.2, "b": 0.7, "c": 0.1}), (333, {"a": 0.8, "c": 0.2}), (700, WEIGHTS)]


def test_a_mixture_that_changes_draws_the_same_rows_whatever_they_are_asked_by(shards: dict[str, TokenShard]) -> None:
    whole = ChangingStream(shards, STRETCHES, 16, 3).rows(0, 1000)
    again = ChangingStream(shards, STRETCHES, 16, 3)
    for start, count in ((690, 20), (5, 7), (332, 2), (333, 1), (300, 500), (0, 3), (999, 1)):
        part = again.rows(start, count)
        assert (part.tokens == whole.tokens[start : start + count]).all()
        assert (part.documents == whole.documents[start : start + count]).all()


def test_a_change_of_the_mixture_changes_nothing_before_it(shards: dict[str, TokenShard]) -> None:
    plain = TokenStream(shards, STRETCHES[0][1], 16, 3).rows(0, 333)
    assert (ChangingStream(shards, STRETCHES, 16, 3).rows(0, 333).tokens == plain.tokens).all()
    assert (ChangingStream(shards, [(0, WEIGHTS)], 16, 3).rows(7, 90).tokens == TokenStream(
        shards, WEIGHTS, 16, 3
    ).rows(7, 90).tokens).all()  # fmt: skip


def test_domains_go_on_where_they_were_when_the_mixture_changes(shards: dict[str, TokenShard]) -> None:
    rows = [tuple(row) for row in ChangingStream(shards, STRETCHES, 16, 3).rows(0, 1000).tokens.tolist()]
    found = 0
    for name in WEIGHTS:
        # A domain's rows stand in the stream in the order that they have alone, none left out, none twice.
        alone = [
            tuple(row) for row in TokenStream({name: shards[name]}, {name: 1}, 16, 3).rows(0, 1000).tokens.tolist()
        ]
        place = 0
        for row in rows:
            place += row == alone[place]
        expected = sum(weights.get(name, 0) * n for (_, weights), n in zip(STRETCHES, (333, 367, 300), strict=True))
        assert abs(place - expected) < 0.2 * expected
        found += place
    assert found == len(rows)


@pytest.mark.parametrize(("vocabulary", "width"), [(65536, 2), (65537, 4)])
def test_shards_come_back_as_written(tmp_path: Path, vocabulary: int, width: int) -> None:
    documents = [[0, vocabulary - 1, 1], [], [5] * 9]
    assert write_shard(tmp_path / "s", documents, vocabulary) == 12
    shard = TokenShard.open(tmp_path / "s")
    assert shard.tokens.dtype.itemsize == width
    parts = [shard.tokens[b:e].tolist() for b, e in zip(shard.offsets, shard.offsets[1:], strict=False)]
    assert parts == documents and shard.documents == 3
