"""The C++ forward pass, compiled for this processor when it is needed first, and kept.

Drawing token by token is a thousand small steps, each of which PyTorch takes longer to begin than to do; one function that
does all of them is ten times as fast on a CPU. It needs a C++ compiler that knows OpenMP (`c++`, or what CXX names). Where
there is none, drawing goes on without.
"""

import ctypes
import hashlib
import logging
import os
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

import torch

SOURCE = Path(__file__).with_name("forward.cpp")
FLAGS = (
    "-std=c++17", "-O3", "-march=native", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math", "-fopenmp", "-fPIC",
)  # fmt: skip
_SECONDS = 120.0
_log = logging.getLogger(__name__)


@cache
def native_library() -> ctypes.CDLL | None:
    """The library, or None where it cannot be had; the reason is logged once."""
    try:
        return _library()
    except (OSError, subprocess.SubprocessError) as error:
        _log.warning("drawing on the CPU is several times slower than it could be: %s", _reason(error))
        return None


def _reason(error: Exception) -> str:
    said = getattr(error, "stderr", None)
    lines = said.decode("utf-8", "replace").strip().splitlines() if said else []
    return next((line for line in lines if "error" in line), lines[-1] if lines else str(error))


def _library() -> ctypes.CDLL:
    """From the cache if the same compiler made it for the same processor before. Raises OSError and SubprocessError."""
    compiler = shutil.which(os.environ.get("CXX") or "c++")
    if compiler is None:
        raise OSError("there is no C++ compiler (install g++, or name one by CXX)")
    version = subprocess.run([compiler, "--version"], capture_output=True, check=True, timeout=_SECONDS).stdout
    made_of = b"\0".join([SOURCE.read_bytes(), " ".join(FLAGS).encode(), compiler.encode(), version, _processor()])
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sapience"
    name = f"forward-{_hash(made_of)}"
    for kept in folder.glob(f"{name}-*.so"):
        if kept.stem == f"{name}-{_hash(kept.read_bytes())}":  # a file cut short would end the process that loads it
            return _loaded(kept)
    with tempfile.TemporaryDirectory() as scratch:
        made = _built(compiler, Path(scratch))
        kept = folder / f"{name}-{_hash(made.read_bytes())}.so"
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            beside = kept.with_suffix(f".{os.getpid()}")
            shutil.copyfile(made, beside)
            beside.replace(kept)
        except OSError:  # nowhere to keep it: every process makes its own, which stays loaded when its file is gone
            return _loaded(made)
        return _loaded(kept)


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:20]


def _built(compiler: str, folder: Path) -> Path:
    made, library = folder / "forward.o", folder / "forward.so"
    for command in ([*FLAGS, "-c", str(SOURCE), "-o", str(made)], ["-shared", str(made), "-o", str(library)]):
        subprocess.run([compiler, *command], capture_output=True, check=True, timeout=_SECONDS)
    return library


def _loaded(path: Path) -> ctypes.CDLL:
    # It was linked without an OpenMP of its own and finds PyTorch's, so that both have one team of threads.
    for pattern in ("libgomp*.so*", "libiomp*.so*", "libomp*.so*"):
        for runtime in sorted((Path(torch.__file__).parent / "lib").glob(pattern)):
            ctypes.CDLL(str(runtime), mode=ctypes.RTLD_GLOBAL)
    return ctypes.CDLL(str(path))


def _processor() -> bytes:
    """What `-march=native` depends on."""
    try:
        lines = Path("/proc/cpuinfo").read_bytes().splitlines()
    except OSError:
        return os.uname().machine.encode()
    return b"\n".join(sorted({line for line in lines if line.startswith((b"flags", b"model name", b"Features"))}))
