"""Writing safetensors so that a full disk is told as what it is, and so that a file that has its name is on the disk."""

import os
import re
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write and flush a safetensors file. Raises OSError where the disk is full or the file cannot be written.

    safetensors tells an operating system's error in words of its own, with the number in brackets.
    """
    try:
        save_file(dict(tensors), path, metadata=metadata)
    except SafetensorError as error:
        found = re.search(r"os error (\d+)", str(error))
        if found is None:
            raise
        number = int(found[1])
        raise OSError(number, os.strerror(number), str(path)) from None
    with open(path, "rb+") as file:
        os.fsync(file.fileno())
