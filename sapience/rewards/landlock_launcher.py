"""Runs inside the interpreter that is about to run a submission: gives up the file system and most system calls.

The confinement of the tier without namespaces, executed by `contained_entry` with `wishes` as a global. Everything
here holds for this process and all that come from it, and cannot be taken back. A call that fails raises, and the
sandbox then does not report its start.
"""

import ctypes
import os
import struct
import sys

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446  # the same numbers on every architecture
_PATH_BENEATH = 1
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_OWN = 0xF | 1 << 4 | 1 << 5 | 1 << 7 | 1 << 8 | 1 << 13 | 1 << 14
"""What may be done in a folder of one's own: these four; removing and making files and folders, moving and truncating
them. Links, sockets, pipes and devices cannot be made.
"""
_DUMPABLE, _NO_NEW_PRIVILEGES, _SECCOMP, _FILTER_MODE = 4, 38, 22, 2
_OLDEST_USABLE = 3
"""Landlock before this version cannot keep files from being truncated."""

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long
_libc.syscall.argtypes = [ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p]
_libc.prctl.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p]


def _checked(what: str, result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def keep_standard_library(folder: str) -> None:
    """Import by a descriptor: the user that this process becomes may not be able to reach the folder by name."""
    held = os.open(folder, os.O_PATH)
    place = f"/proc/self/fd/{held}"
    sys.path[:] = [place, f"{place}/lib-dynload"]
    for module in list(sys.modules.values()):  # packages that are loaded already know where their other modules are
        if hasattr(module, "__path__"):
            module.__path__ = [path.replace(folder, place, 1) for path in module.__path__]


def restrict_files(readable: list[str], listed: list[str], writable: list[str], own: list[str]) -> None:
    """Nothing but these paths, and what lies beneath them, can be opened any more; what is known of sockets and signals too.

    Raises OSError where the kernel knows too little.
    """
    version = _checked("this kernel has no Landlock", _libc.syscall(_CREATE_RULESET, None, None, 1, None))
    if version < _OLDEST_USABLE:
        raise OSError(f"Landlock version {version} is too old, {_OLDEST_USABLE} is needed (Linux 6.2)")
    files = (1 << 16 if version >= 5 else 1 << 15) - 1
    every = struct.pack("=QQQ", files, 3, 3)  # files; binding and connecting; abstract sockets and signals
    attributes = every[: 24 if version >= 6 else 16 if version >= 4 else 8]
    ruleset = _checked("ruleset", _libc.syscall(_CREATE_RULESET, attributes, len(attributes), None, None))
    for path in readable:
        _allow(ruleset, path, _EXECUTE | _READ_FILE | _READ_DIR)
    for path in listed:
        _allow(ruleset, path, _READ_DIR)
    for path in writable:
        _allow(ruleset, path, _READ_FILE | _WRITE_FILE)
    for path in own:
        _allow(ruleset, path, _OWN)
    _checked("no new privileges", _libc.prctl(_NO_NEW_PRIVILEGES, 1, None, None, None))
    _checked("restriction", _libc.syscall(_RESTRICT_SELF, ruleset, None, None, None))
    os.close(ruleset)


def _allow(ruleset: int, path: str, access: int) -> None:
    place = os.open(path, os.O_PATH | os.O_CLOEXEC)
    if os.fstat(place).st_mode & 0o170000 != 0o040000:  # no folder
        access &= ~_READ_DIR
    rule = struct.pack("=Qi", access, place)
    _checked(path, _libc.syscall(_ADD_RULE, ruleset, _PATH_BENEATH, rule, None))
    os.close(place)


def close_to_children() -> None:
    """Keep what this process starts away from its descriptors: Landlock lets pipes be opened through /proc."""
    _checked("not dumpable", _libc.prctl(_DUMPABLE, None, None, None, None))


def restrict_calls(program: bytes) -> None:
    """Load the system call filter; comes last, as the filter forbids what the steps before need."""
    instructions = ctypes.create_string_buffer(program, len(program))
    head = struct.pack("HP", len(program) // 8, ctypes.addressof(instructions))
    _checked("filter", _libc.prctl(_SECCOMP, _FILTER_MODE, head, None, None))


if __name__ == "confinement":
    _readable, _listed, _writable, _own, _library, _program = wishes  # type: ignore[name-defined]  # noqa: F821
    if _library:
        keep_standard_library(_library)
    restrict_files(_readable, _listed, _writable, _own)
    close_to_children()
    restrict_calls(_program)
