"""Folders of runs: how full they are is seen, whatever is in them goes away, and compilers can do no more than fill theirs."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from available_tiers import left_behind, sandbox_of

from sapience.recipe.errors import UserError
from sapience.rewards import scratch
from sapience.rewards.contained_job import Surroundings
from sapience.rewards.contained_process import Contained
from sapience.rewards.limits import Limits
from sapience.rewards.scratch import remove, scratch_folder, too_full

LIMITS = Limits(cpu_seconds=20.0, wall_seconds=60.0, processes=16)
MOST = 8 << 20


def deep(folder: Path, levels: int) -> None:
    """A chain of folders far longer than a path may be."""
    here = os.open(folder, os.O_PATH)
    for _ in range(levels):
        os.mkdir("d" * 100, dir_fd=here)
        inner = os.open("d" * 100, os.O_PATH, dir_fd=here)
        os.close(here)
        here = inner
    os.close(here)


def test_a_folder_is_full_by_bytes_by_files_and_by_what_nobody_can_look_at(tmp_path: Path) -> None:
    assert not too_full(tmp_path, MOST)
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(1 << 40)
    assert not too_full(tmp_path, MOST), "holes take no room"
    (tmp_path / "inside").mkdir()
    (tmp_path / "inside" / "large").write_bytes(bytes(MOST + 1))
    assert too_full(tmp_path, MOST) and not too_full(tmp_path, 2 * MOST)
    (tmp_path / "inside" / "large").unlink()
    for number in range(MOST // 4096):
        (tmp_path / "inside" / str(number)).touch()
    assert too_full(tmp_path, MOST) and not too_full(tmp_path, 2 * MOST), "empty files count"
    deep(tmp_path, 40)
    assert too_full(tmp_path, 1 << 40)
    remove(tmp_path)


def test_a_folder_that_vanishes_while_it_is_looked_at_is_not_full(tmp_path: Path) -> None:
    assert not too_full(tmp_path / "gone", MOST)


def test_whatever_lies_in_a_folder_is_removed(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_text("stays")
    with scratch_folder(None, writable=True) as folder:
        deep(folder, 3000)
        (folder / "link").symlink_to(outside)
        (folder / "folders").symlink_to(tmp_path)
        for number in range(20):
            (folder / "closed" / str(number)).mkdir(parents=True)
            (folder / "closed" / str(number)).chmod(0)
        (folder / "closed").chmod(0)
    assert not folder.exists() and outside.read_text() == "stays"


def test_it_is_removed_when_something_fails(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), scratch_folder(None, writable=False) as folder:
        (folder / "file").touch()
        raise KeyboardInterrupt
    assert not folder.exists()


def test_no_place_is_a_users_error_that_names_what_to_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    scratch._place.cache_clear()
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    monkeypatch.setattr(tempfile, "tempdir", str(closed))
    assert scratch._place(True) != closed and scratch._place(False) == closed
    scratch._place.cache_clear()

    class NoExecution:
        f_flag = os.ST_NOEXEC

    monkeypatch.setattr(os, "statvfs", lambda _: NoExecution)
    with pytest.raises(UserError, match=r"noexec.*TMPDIR"):
        scratch._place(False)
    scratch._place.cache_clear()


@pytest.fixture(scope="module")
def neighbour() -> Iterator[Path]:
    """The folder of another run that is still going on, and a file that anyone may read."""
    with tempfile.TemporaryDirectory(prefix="sapience-neighbour-") as name:
        folder = Path(name)
        folder.chmod(0o777)
        (folder / "secret").write_text("secret")
        (folder / "secret").chmod(0o666)
        yield folder
        assert [path.name for path in folder.iterdir()] == ["secret"]
        assert (folder / "secret").read_text() == "secret" and folder.stat().st_mode & 0o777 == 0o777


def compiler(program: str, payload: Any = None, limits: Limits = LIMITS) -> Contained:
    """What becomes of a program that stands in a compiler's place, where files can be made."""
    around = Surroundings(None, MOST, makes_files=True, files={"source": b"source"})
    contained = sandbox_of("landlock").run("import os\n" + program, payload, limits, around)
    assert contained.started, contained
    assert not left_behind()
    return contained


def test_a_compiler_finds_its_files_and_makes_others() -> None:
    told = compiler("""
os.mkdir('made')
open('made/file', 'w').write(open('source').read())
os.rename('made/file', 'moved')
os.unlink('source')
os.write(3, open('moved', 'rb').read() + oct(os.stat('moved').st_mode).encode())""")
    assert (told.ending, told.status, told.output) == ("exit", 0, b"source0o100644")


FILLING = {
    "one large file": "while True: open('large', 'ab').write(bytes(1 << 20))",
    "some large files": "for n in range(1000):\n for _ in range(7): open(f'f{n}', 'ab').write(bytes(1 << 20))",
    "many files": "n = 0\nwhile True:\n n += 1\n open(f'f{n}', 'w').close()",
    "many folders": "n = 0\nwhile True:\n n += 1\n os.mkdir(f'f{n}')",
    "many processes": """
for _ in range(3): os.fork()
for n in range(1 << 30): open(f'{os.getpid()}-{n}', 'wb').write(bytes(1 << 16))""",
    "a daemon": """
import time
if os.fork() == 0 and os.fork() == 0:
    for n in range(1 << 30): open(f'f{n}', 'wb').write(bytes(1 << 20))
time.sleep(60)""",
    "a deep folder": "while True: os.mkdir('d' * 100); os.chdir('d' * 100)",
}  # fmt: skip


@pytest.mark.parametrize("name", FILLING)
def test_a_compiler_that_fills_the_disk_is_stopped(name: str) -> None:
    begun = time.monotonic()
    contained = compiler(FILLING[name])
    if name == "one large file":
        assert contained.ending == "exit" and contained.status != 0, contained  # by the limit of a file
    else:
        assert contained.ending == "disk", contained
    assert time.monotonic() - begun < 20


OUTSIDE = {
    "read a neighbour": "open(payload + '/secret')",
    "write a neighbour": "open(payload + '/secret', 'r+')",
    "plant in a neighbour": "open(payload + '/planted', 'w')",
    "list temporary files": "os.listdir(os.path.dirname(os.getcwd()))",
    "move to a neighbour": "os.rename('source', payload + '/planted')",
    "move from a neighbour": "os.rename(payload + '/secret', 'mine')",
    "link to a neighbour": "os.link(payload + '/secret', 'mine')",
    "link into a neighbour": "os.link('source', payload + '/planted')",
    "make a symbolic link": "os.symlink(payload, 'mine')",
    "make a pipe": "os.mkfifo('mine')",
    "make a device": "os.mknod('mine', 0o20666, os.makedev(1, 5))",
    "make a socket": "import socket; socket.socket(socket.AF_UNIX).bind('mine')",
    "open a neighbour up": "os.chmod(payload, 0o700)",
    "give its folder away": "os.chown('.', 0, 0)",
    "make its folder readable": "os.chmod('.', 0o777)",
    "move its folder": "os.rename(os.getcwd(), os.getcwd() + '-moved')",
    "remove its folder": "os.unlink('source'); os.rmdir(os.getcwd())",
    "leave by its parent": "open('../planted', 'w')",
    "write the library": "open(os.sys.path[0] + '/planted.py', 'w')",
}  # fmt: skip


@pytest.mark.parametrize("name", OUTSIDE)
def test_a_compiler_gets_nowhere_else(name: str, neighbour: Path) -> None:
    attempt = OUTSIDE[name].replace("\n", "\n    ")
    told = compiler(
        f"try:\n    {attempt}\n    os.write(3, b'through')\nexcept OSError as error: os.write(3, b'failed')",
        str(neighbour),
    )
    assert told.output == b"failed", told


LEAVING = {
    "closed folders": "os.mkdir('a'); os.mkdir('a/b'); os.umask(0o777); os.mkdir('a/b/c', 0); os.mkdir('d', 0)",
    "a deep folder": "for _ in range(5000):\n os.mkdir('d' * 100); os.chdir('d' * 100)",
    "processes that write on": """
for _ in range(8):
    if os.fork() == 0:
        for n in range(1 << 30): open(f'{os.getpid()}-{n}', 'w').close()""",
    "odd names": "open(b'\\xff\\n\\x01'.decode('latin1'), 'w'); open('-rf', 'w'); open(' ', 'w'); os.mkdir('...')",
}  # fmt: skip


@pytest.mark.parametrize("name", LEAVING)
def test_whatever_a_compiler_leaves_is_removed(name: str) -> None:
    compiler(LEAVING[name])


def test_a_name_that_leads_out_of_the_folder_is_not_written() -> None:
    around = Surroundings(None, MOST, files={"../planted": b"x"})
    contained = sandbox_of("landlock").run("", None, LIMITS, around)
    assert not contained.started and "a file's name is a path" in contained.complaint
    assert not left_behind()


def test_what_was_compiled_can_be_read_and_run_and_nothing_can_be_written() -> None:
    around = Surroundings(None, MOST, files={"one": b"1", "two": b"2"})
    program = """
import os
told = [sorted(os.listdir('.')), open('one').read(), os.access('two', os.X_OK)]
for attempt in (lambda: open('one', 'a'), lambda: open('new', 'w'), lambda: os.mkdir('new'), lambda: os.unlink('one'),
                lambda: os.rename('one', 'two'), lambda: os.truncate('one', 0), lambda: os.chmod('one', 0o666),
                lambda: os.link('one', 'new'), lambda: os.symlink('one', 'new'), lambda: os.utime('one'),
                lambda: os.open('.', os.O_TMPFILE | os.O_WRONLY)):
    try: told.append(attempt())
    except OSError: pass
os.write(3, repr(told).encode())"""
    contained = sandbox_of("landlock").run(program, None, LIMITS, around)
    assert contained.output == b"[['one', 'two'], '1', True]", contained
    assert not left_behind()
