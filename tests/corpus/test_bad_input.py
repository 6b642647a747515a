"""Damaged input is set aside and counted; what the user can mend is said in one sentence."""

import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import zstandard

from sapience.corpus.files import read_files, user_files
from sapience.corpus.records import Reading
from sapience.recipe import UserError

LIMIT = 1_000_000
GOOD = [{"text": f"Line number {n} is a good record, and long enough to read."} for n in range(200)]


def lines(records: Sequence[Any]) -> bytes:
    return b"".join(json.dumps(record).encode() + b"\n" for record in records)


def read(path: Path, field: str = "text") -> tuple[list[str], Reading]:
    reading = Reading(LIMIT)
    root, files = user_files(str(path), ("**/*",), (), "mine")
    return [record.text for record in read_files(root, files, field, reading)], reading


def test_malformed_lines_are_set_aside_and_named(tmp_path: Path) -> None:
    bad = b'{"text": "cut off\n{"text": 3}\n[1, 2]\n{"other": "x"}\n{"text": "\xff\xfe"}\n{"text": "\\ud800"}\n\n'
    (tmp_path / "a.jsonl").write_bytes(lines(GOOD[:3]) + bad + lines(GOOD[3:]))
    texts, reading = read(tmp_path)
    assert texts == [record["text"] for record in GOOD]
    assert reading.counts == {"malformed JSON": 1, "no text": 3, "invalid UTF-8": 2}
    assert [place["place"] for place in reading.places] == [f"a.jsonl:{n}" for n in range(4, 10)]


def test_a_record_beyond_the_limit_is_set_aside_unread(tmp_path: Path) -> None:
    with open(tmp_path / "a.jsonl", "wb") as file:
        file.write(lines(GOOD[:2]) + b'{"text": "')
        file.writelines(b"x" * 1_000_000 for _ in range(50))
        file.write(b'"}\n' + lines(GOOD[2:4]))
    texts, reading = read(tmp_path)
    assert texts == [record["text"] for record in GOOD[:4]]
    assert reading.counts == {"too large": 1}
    assert "record_limit_mb" in reading.places[0]["detail"]


def test_a_text_file_beyond_the_limit_or_not_in_utf8_is_set_aside(tmp_path: Path) -> None:
    (tmp_path / "large.txt").write_bytes(b"word " * 300_000)
    (tmp_path / "latin.txt").write_bytes("naïve café".encode("latin-1"))
    (tmp_path / "good.txt").write_text("A good file.")
    texts, reading = read(tmp_path)
    assert texts == ["A good file."]
    assert reading.counts == {"too large": 1, "invalid UTF-8": 1}


@pytest.mark.parametrize("ending", [".zst", ".gz"])
def test_a_compressed_file_that_breaks_off_gives_what_it_has(ending: str, tmp_path: Path) -> None:
    records = [{"text": f"{n} {hash(str(n))} {hash(str(n) * 2)}"} for n in range(20_000)]
    whole = zstandard.compress(lines(records)) if ending == ".zst" else gzip.compress(lines(records))
    path = tmp_path / f"a.jsonl{ending}"
    path.write_bytes(whole)
    assert len(read(path)[0]) == len(records) and not read(path)[1].counts
    path.write_bytes(whole[: len(whole) * 2 // 3])
    texts, reading = read(path)
    assert texts == [record["text"] for record in records[: len(texts)]]
    assert reading.counts == {"damaged file": 1}
    path.write_bytes(b"not compressed at all")
    assert read(path)[1].counts == {"damaged file": 1}


def test_zstd_frames_one_after_another_are_one_file(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl.zst").write_bytes(zstandard.compress(lines(GOOD[:70])) + zstandard.compress(lines(GOOD[70:])))
    assert len(read(tmp_path)[0]) == len(GOOD)


def test_parquet_is_read_and_damage_is_set_aside(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    table = pyarrow.table({"body": [record["text"] for record in GOOD] + [None]})
    parquet.write_table(table, tmp_path / "a.parquet")
    texts, reading = read(tmp_path / "a.parquet", "body")
    assert texts == [record["text"] for record in GOOD] and reading.counts == {"no text": 1}
    assert read(tmp_path / "a.parquet", "nothing")[1].counts == {"no text": 1}
    (tmp_path / "b.parquet").write_bytes(b"PAR1 broken PAR1")
    assert read(tmp_path / "b.parquet", "body")[1].counts == {"damaged file": 1}


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        read(tmp_path / "nowhere")
    with pytest.raises(UserError, match="no readable file"):
        read(tmp_path)
    (tmp_path / "picture.png").write_bytes(b"x")
    with pytest.raises(UserError, match="no known ending"):
        read(tmp_path / "picture.png")


def test_files_come_in_an_order_of_their_own_whatever_the_disk_says(tmp_path: Path) -> None:
    for number in range(30):
        folder = tmp_path / f"d{number % 3}"
        folder.mkdir(exist_ok=True)
        (folder / f"{number}.txt").write_text(f"Text {number}")
    order = read(tmp_path)[0]
    assert order == read(tmp_path)[0] and sorted(order) != order and len(order) == 30
