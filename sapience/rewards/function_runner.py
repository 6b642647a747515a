"""Runs inside a sandbox: executes one submission and calls its function once for every test's arguments.

The module is executed once, then every case runs in a child made by fork: it starts from the same state, and a case
that crashes, exits or eats its time loses nothing of the others. A fork takes about a millisecond here, a sandbox of
its own per case would take twenty.

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
    from typing import Any

_ANSWERS = 3
_DETAIL_LETTERS = 200
_OUT_OF_TIME = (_signal.SIGPROF, _signal.SIGXCPU)

_quoted = _json.encode_basestring_ascii


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
    for case, args in enumerate(cases):
        child = posix.fork()
        if child == 0:
            run_case(case, function, args, max(seconds - _spent(), 0.01))
        _, status = posix.waitpid(child, 0)
        ended_by = posix.WTERMSIG(status) if posix.WIFSIGNALED(status) else 0
        if ended_by in _OUT_OF_TIME or _spent() >= seconds:
            return _fail(-1, "timeout", f"more than {seconds:g} s of processor time")
        if ended_by:
            _fail(case, "runtime_error", f"ended by signal {ended_by}")
    return None


if __name__ == "contained":
    run(*payload)  # type: ignore[name-defined]  # noqa: F821
