"""Runs inside a sandbox: executes one submission and calls its function once for every test's arguments.

The module is executed once, then every case runs in a child made by fork: it starts from the same state, and a case
that crashes, exits or eats its time loses nothing of the others. A fork takes about half a millisecond here, a sandbox of
its own per case would take ten. Functions that can be seen to keep nothing from one call to the next, as most that a small
model writes, have one child for all cases, and for each of those behind a case that ended it.

What comes out are lines of JSON on descriptor 3, an answer or a reason for each case. The submission can write there
too; that gains it nothing, since it knows the questions and not the right answers, and only a first answer counts.
All cases share one budget of processor seconds; when it is used up, the remaining cases are not run.
"""

from __future__ import annotations

import _json
import _signal  # type: ignore[import-not-found]  # the module `signal` takes milliseconds to load
import posix
import resource
import sys
from types import CodeType

TYPE_CHECKING = False
if TYPE_CHECKING:  # for the same reason
    from collections.abc import Mapping
    from typing import Any

_ANSWERS = 3
_DETAIL_LETTERS = 200
_OUT_OF_TIME = (_signal.SIGPROF, _signal.SIGXCPU)

_quoted = _json.encode_basestring_ascii
_MOST_IN_A_CHILD = 1024
"""Cases; each leaves a byte in a pipe."""
_OF_A_MODULE = frozenset(("__name__", "__doc__", "__package__", "__loader__", "__spec__", "__builtins__"))
_HARMLESS = frozenset(
    """abs all any bool chr dict divmod enumerate filter float int isinstance len list map max min ord pow range reversed round
    set sorted str sum tuple zip ValueError TypeError IndexError KeyError ZeroDivisionError
    append capitalize count endswith extend find get index insert isalpha isdigit islower isupper items join keys lower pop
    remove replace reverse sort split startswith strip swapcase title upper values""".split()
)
"""Builtins and methods with no memory but their arguments."""


def encoded(value: Any) -> str:
    """JSON text of a value that is built of plain types, no NaN among them; what is derived from one counts as it.

    Tuples, sets and dictionaries are objects that say what they are (`comparison.decoded` reads them). The types' own
    methods are called, whatever a derived class makes of them.
    """
    if value is None:
        return "null"
    if value is True or value is False:
        return "true" if value else "false"
    if isinstance(value, int):
        return int.__repr__(value)
    if isinstance(value, float) and float.__sub__(value, value) == 0:
        return float.__repr__(value)
    if isinstance(value, str):
        return _quoted(str.__str__(value))
    if isinstance(value, list):
        return "[" + ",".join([encoded(item) for item in list.__iter__(value)]) + "]"
    if isinstance(value, tuple):
        return '{"t":[' + ",".join([encoded(item) for item in tuple.__iter__(value)]) + "]}"
    if isinstance(value, (set, frozenset)):
        items = set.__iter__(value) if isinstance(value, set) else frozenset.__iter__(value)
        return '{"s":[' + ",".join([encoded(item) for item in items]) + "]}"
    if isinstance(value, dict):
        pairs = ["[" + encoded(key) + "," + encoded(item) + "]" for key, item in dict.items(value)]
        return '{"d":[' + ",".join(pairs) + "]}"
    raise TypeError(f"answered with {type(value).__name__[:60]}, which is no plain value")


def _tell(line: str) -> None:
    text = (line + "\n").encode()
    while text:
        text = text[posix.write(_ANSWERS, text) :]


def _fail(case: int, kind: str, detail: str) -> None:
    """`case` is -1 for what concerns them all."""
    _tell(f'{{"case":{case},"kind":"{kind}","detail":{_quoted(detail[:_DETAIL_LETTERS])}}}')


def _described(error: BaseException) -> str:
    try:
        return f"{type(error).__name__}: {error}"
    except BaseException:
        return "an error that cannot be described"


def _kind_of(error: BaseException) -> str:
    return "memory" if isinstance(error, MemoryError) else "runtime_error"


def _spent() -> float:
    own, ended = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return own.ru_utime + own.ru_stime + ended.ru_utime + ended.ru_stime


def execute(code: CodeType, entry_point: str) -> Any:
    """The submission's function; the module is not `__main__`, so what stands under that guard is not run."""
    module = type(sys)("submission")
    sys.modules["submission"] = module
    exec(code, module.__dict__)
    return module.__dict__.get(entry_point)


def run_case(case: int, function: Any, args: list[Any], seconds: float) -> None:
    """Never returns: the child must not go on as a second runner."""
    try:
        _signal.setitimer(_signal.ITIMER_PROF, seconds)
        answer = encoded(function(*args))
        _tell(f'{{"case":{case},"answer":{answer}}}')
    except BaseException as error:
        _fail(case, _kind_of(error), _described(error))
    finally:
        posix._exit(0)


def keeps_nothing(function: Any, source: str, module: Mapping[str, Any]) -> bool:
    """Whether no call can change what the next one finds: a plain function of its arguments and of harmless names alone.

    Recursive functions are not among them, since a function could keep something in its own attributes.
    """
    if type(function) is not type(keeps_nothing) or "global" in source:
        return False
    if function.__defaults__ or function.__kwdefaults__ or function.__closure__:
        return False
    own = module.keys() - _OF_A_MODULE
    if any(module[name] is not function for name in own):
        return False
    codes = [function.__code__]
    for code in codes:
        if not _HARMLESS.issuperset(code.co_names) or not own.isdisjoint(code.co_names):
            return False
        codes += [constant for constant in code.co_consts if type(constant) is CodeType]
    return True


def run_together(function: Any, cases: list[list[Any]], seconds: float, done: int) -> None:
    """All cases in one child, which writes a byte to `done` after each; ends before one that lacks memory. Never returns."""
    try:
        _signal.setitimer(_signal.ITIMER_PROF, seconds)
        for case, args in enumerate(cases):
            try:
                _tell(f'{{"case":{case},"answer":{encoded(function(*args))}}}')
            except (MemoryError, RecursionError):
                break
            except BaseException as error:
                _fail(case, _kind_of(error), _described(error))
            posix.write(done, b".")
    finally:
        posix._exit(0)


def _answered_together(function: Any, cases: list[list[Any]], seconds: float) -> int:
    """How many of the first cases one child has answered."""
    reads, writes = posix.pipe()
    child = posix.fork()
    if child == 0:
        run_together(function, cases, max(seconds - _spent(), 0.01), writes)
    posix.close(writes)
    posix.waitpid(child, 0)
    answered = len(posix.read(reads, _MOST_IN_A_CHILD))
    posix.close(reads)
    return answered


def run(source: str, entry_point: str, cases: list[list[Any]], seconds: float) -> None:
    """All of it: compile, execute, call; tells what went wrong and returns."""
    _signal.setitimer(_signal.ITIMER_PROF, seconds)
    try:
        code = compile(source, "submission.py", "exec")
    except BaseException as error:
        return _fail(-1, "compile_error", _described(error))
    try:
        function = execute(code, entry_point)
    except BaseException as error:
        return _fail(-1, _kind_of(error), _described(error))
    if not callable(function):
        return _fail(-1, "runtime_error", f"defines no function {entry_point}")
    answered, out_of_time = 0, f"more than {seconds:g} s of processor time"
    if len(cases) <= _MOST_IN_A_CHILD and keeps_nothing(function, source, sys.modules["submission"].__dict__):
        answered = _answered_together(function, cases, seconds)
        if _spent() >= seconds:
            return _fail(-1, "timeout", out_of_time)
    for case, args in enumerate(cases[answered:], start=answered):
        child = posix.fork()
        if child == 0:
            run_case(case, function, args, max(seconds - _spent(), 0.01))
        _, status = posix.waitpid(child, 0)
        ended_by = posix.WTERMSIG(status) if posix.WIFSIGNALED(status) else 0
        if ended_by in _OUT_OF_TIME or _spent() >= seconds:
            return _fail(-1, "timeout", out_of_time)
        if ended_by:
            _fail(case, "runtime_error", f"ended by signal {ended_by}")
    return None


if __name__ == "contained":
    run(*payload)  # type: ignore[name-defined]  # noqa: F821
