"""Tensors written one after another make the file that safetensors makes of all at once."""

import errno
import json
import os
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from sapience.model.tensor_files import Entry, TensorFolder, stream_tensors, write_tensors

TYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64, torch.float8_e4m3fn]


def entries_of(tensors: dict[str, torch.Tensor]) -> list[Entry]:
    return [Entry(name, tuple(value.shape), value.dtype) for name, value in tensors.items()]


@settings(max_examples=60, deadline=None)
@given(
    drawn=st.lists(st.tuples(st.sampled_from(TYPES), st.lists(st.integers(1, 5), max_size=3)), min_size=1, max_size=8),
    seed=st.integers(0, 100),
)
def test_the_bytes_are_the_librarys(
    drawn: list[tuple[torch.dtype, list[int]]], seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Odd sizes of every type, in any order: wide types first, so that none stands at an odd place."""
    folder = tmp_path_factory.mktemp("files")
    generator = torch.Generator().manual_seed(seed)
    tensors = {
        f"tensor.{index * 7 % 5}.{index}.größe": torch.randn(shape, generator=generator).to(dtype)
        for index, (dtype, shape) in enumerate(drawn)
    }
    save_file(tensors, folder / "library.safetensors", {"format": "pt"})
    stream_tensors(folder / "model.safetensors", entries_of(tensors), iter(tensors.values()))
    assert (folder / "model.safetensors").read_bytes() == (folder / "library.safetensors").read_bytes()
    read = TensorFolder(folder)
    for name, value in tensors.items():
        assert read.shape(name) == tuple(value.shape) and read.dtype(name) == value.dtype
        assert torch.equal(read.read(name).flatten().view(torch.uint8), value.flatten().view(torch.uint8))


def test_views_that_are_not_contiguous_are_written_as_they_look(tmp_path: Path) -> None:
    matrix = torch.arange(12.0).view(3, 4)
    tensors = {"turned": matrix.t(), "column": matrix[:, 1]}
    stream_tensors(tmp_path / "one.safetensors", entries_of(tensors), tensors.values())
    read = load_file(tmp_path / "one.safetensors")
    assert all(torch.equal(read[name], value) for name, value in tensors.items())


@pytest.mark.parametrize("way", ["streamed", "at once"])
def test_files_are_as_readable_as_others(way: str, tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        tensors, path = {"a": torch.ones(2)}, tmp_path / "file.safetensors"
        if way == "streamed":
            stream_tensors(path, entries_of(tensors), tensors.values())
        else:
            write_tensors(path, tensors)
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o640


def test_a_tensor_that_is_not_as_promised_is_no_file(tmp_path: Path) -> None:
    for wrong in (torch.ones(3), torch.ones(2, dtype=torch.bfloat16)):
        with pytest.raises(AssertionError):
            stream_tensors(tmp_path / "file.safetensors", [Entry("a", (2,), torch.float32)], [wrong])


def test_a_full_disk_is_told_with_the_file(tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    with pytest.raises(OSError, match="/dev/full") as told:
        stream_tensors(Path("/dev/full"), [Entry("a", (4096,), torch.float32)], [torch.ones(4096)])
    assert told.value.errno == errno.ENOSPC


def test_the_header_is_padded_json(tmp_path: Path) -> None:
    stream_tensors(tmp_path / "file.safetensors", [Entry("a", (1,), torch.float32)], [torch.ones(1)])
    data = (tmp_path / "file.safetensors").read_bytes()
    length = int.from_bytes(data[:8], "little")
    assert length % 8 == 0 and json.loads(data[8 : 8 + length])["a"]["data_offsets"] == [0, 4]
