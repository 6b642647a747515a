"""Programs that do not solve the problem and want to be told that they did, in every tier: none may."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from available_tiers import TIERS, left_behind, sandbox_of

from sapience.problems.problem import Problem, StreamCase, TestCase
from sapience.rewards.code import CodeJudge
from sapience.rewards.limits import Limits

TESTS = (TestCase((2, 3), 5), TestCase((10, -4), 6), TestCase((7, 7), 14))
PROBLEM = Problem("own", "code", "Add.", "", "", entry_point="f", tests=TESTS)

WRONG = "\ndef f(a, b):\n    return 0\n"
SPOOFS = {
    "exit in the function": "import os\ndef f(a, b): os._exit(0)",
    "polite exit in the function": "import sys\ndef f(a, b): sys.exit(0)",
    "exit at import": "import os\nos._exit(0)",
    "polite exit at import": "raise SystemExit(0)",
    "a marker": "def f(a, b):\n    for word in ('ok', 'passed', '3 passed', 'PASS', '[]'): print(word)",
    "a marker at exit": "import atexit\natexit.register(lambda: print('ok'))" + WRONG,
    "a hook for errors": "import sys, os\nsys.excepthook = lambda *a: os._exit(0)\ndef f(a, b): 1 / 0",
    "an int that equals everything": """
class Any(int):
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    __hash__ = int.__hash__
def f(a, b): return Any(0)""",
    "a string that equals everything": "class Any(str):\n    __eq__ = lambda s, o: True\ndef f(a, b): return Any('5')",
    "a list that equals everything": "class Any(list):\n    __eq__ = lambda s, o: True\ndef f(a, b): return Any()",
    "an object that equals everything": "class Any:\n    __eq__ = lambda s, o: True\ndef f(a, b): return Any()",
    "an int with a lying text": """
class Any(int):
    __repr__ = __str__ = __format__ = __int__ = __index__ = lambda self: '5'
def f(a, b): return Any(0)""",
    "a name with a frame in it": """
def f(a, b): return type('x\\n{"case":0,"answer":5}\\n{"case":1,"answer":6}\\n', (), {})()""",
    "an error with a frame in it": """
def f(a, b): raise ValueError('"}\\n{"case":0,"answer":5}\\n{"case":0,"kind":"ok","detail":"')""",
    "a string with a frame in it": """def f(a, b): return '0}\\n{"case":0,"answer":5}\\n{"case":1,"answer":6}'""",
    "verdicts on the wire": """
import os
def f(a, b):
    for case in (-1, 0, 1, 2):
        os.write(3, b'{"case":%d,"kind":"ok","detail":""}\\n' % case)
    return 0""",
    "a claim that the machine failed": """
import os
os.write(3, b'{"case":-1,"kind":"infra_error","detail":""}\\n')
def f(a, b): os.write(3, b'{"case":0,"kind":"infra_error","detail":""}\\n')""",
    "a second start mark": "import os\nos.write(3, b'started\\n' * 5)" + WRONG,
    "many guesses": """
import os
def f(a, b):
    for guess in range(-50, 50):
        for case in range(3): os.write(3, b'{"case":%d,"answer":%d}\\n' % (case, guess))
    return 0""",
    "two processes, two guesses": "import os\ndef f(a, b):\n    return 0 if os.fork() == 0 else (os.wait(), 14)[1]",
    "looking for the tests": """
import gc, os, sys
def f(a, b):
    found, frame = [], sys._getframe()
    while frame:
        found += [v for v in list(frame.f_locals.values()) + list(frame.f_globals.values())]
        frame = frame.f_back
    for thing in found + gc.get_objects():
        if isinstance(thing, (tuple, list)) and list(thing)[:1] == [5]: return 5
        if isinstance(thing, dict) and 'returns' in thing: return thing['returns']
        if getattr(type(thing), '__name__', '') == 'TestCase': return thing.returns
    return 0""",
    "looking for files": """
import os
def f(a, b):
    for folder in ('/tmp', '/box', '/at', '.', '/work', '/home'):
        try: names = os.listdir(folder)
        except OSError: continue
        for name in names:
            try: text = open(os.path.join(folder, name)).read()
            except OSError: continue
            if '14' in text: return 14
    return 0""",
    "another json": "import _json, json\n_json.encode_basestring_ascii = json.dumps = lambda *a: '5'" + WRONG,
    "another type and len": "import builtins\nbuiltins.type = lambda *a: str\nbuiltins.len = lambda x: 5" + WRONG,
    "another end": "import posix\nposix._exit = lambda status: None\nposix.fork = lambda: 1" + WRONG,
    "no children": "import posix\nposix.fork = lambda: 0" + WRONG,
    "the runner killed": "import os\ndef f(a, b): os.kill(os.getppid(), 9)",
    "a true": "def f(a, b): return True",
    "a float": "def f(a, b): return float(a + b)",
    "a text": "def f(a, b): return str(a + b)",
    "a tuple": "def f(a, b): return (a + b,)",
    "a generator": "def f(a, b): yield a + b",
    "a coroutine": "async def f(a, b): return a + b",
    "not a number": "def f(a, b): return float('nan')",
    "the function itself": "def f(a, b): return f",
    "right once": "def f(a, b): return 5",
}  # fmt: skip


@pytest.fixture(scope="module", params=TIERS)
def judge(request: pytest.FixtureRequest) -> Iterator[CodeJudge]:
    with CodeJudge(sandbox_of(request.param), limits=Limits(cpu_seconds=0.5)) as judge:
        yield judge


@pytest.mark.parametrize("name", SPOOFS)
def test_a_spoof_is_not_right(judge: CodeJudge, name: str) -> None:
    verdict = judge.judge(PROBLEM, SPOOFS[name])
    assert verdict.kind not in ("ok", "infra_error"), verdict
    assert verdict.passed <= 1, verdict


def test_an_honest_program_passes_the_same_tests(judge: CodeJudge) -> None:
    assert judge.judge(PROBLEM, "def f(a, b):\n    return a + b").right


DOUBLED = Problem("own", "code", "Double.", "", "", tests=(StreamCase("21", "42"), StreamCase("5", "10")))
PROGRAM_SPOOFS = {
    "a verdict as output": """print('{"case":0,"stdout":"NDI="}'); print('{"case":1,"stdout":"MTA="}')""",
    "frames on every descriptor": """
import os
for number in range(64):
    for case, text in ((0, b'NDI='), (1, b'MTA=')):
        try: os.write(number, b'{"case":%d,"stdout":"%b"}\\n' % (case, text))
        except OSError: pass""",
    "every answer": "print(*range(100), sep='\\n')",
    "nothing and a good end": "raise SystemExit(0)",
    "another exit": "import os\nos._exit(0)",
    "the right output and a bad end": "print(2 * int(input())); raise SystemExit(1)",
    "the right output and a crash": "import ctypes\nprint(2 * int(input()), flush=True); ctypes.string_at(0)",
    "the right output and no end": "print(2 * int(input()), flush=True)\nwhile True: pass",
    "a child that goes on writing": """
import os
if os.fork() == 0:
    while True: os.write(1, b'42\\n')
print(0)""",
    "another input": """
try: open('.stdin', 'w').write('21')
except OSError: pass
print(42)""",
    "the runner's descriptors": """
import os
for number in range(64):
    for case, text in ((0, b'NDI='), (1, b'MTA=')):
        try: open(f'/proc/{os.getppid()}/fd/{number}', 'wb').write(b'{"case":%d,"stdout":"%b"}\\n' % (case, text))
        except OSError: pass
raise SystemExit(1)""",
    "the runner killed": "import os\nos.kill(os.getppid(), 9)",
    "the runner's modules": "import _json, sys\n_json.encode_basestring_ascii = lambda text: '\"ok\"'\nsys.modules.clear()",
}  # fmt: skip


@pytest.mark.parametrize("name", PROGRAM_SPOOFS)
def test_a_spoof_by_a_program_is_not_right(judge: CodeJudge, name: str) -> None:
    verdict = judge.judge(DOUBLED, PROGRAM_SPOOFS[name])
    assert verdict.kind not in ("ok", "infra_error"), verdict
    assert not left_behind()


def test_an_honest_program_that_reads_and_writes_is_right(judge: CodeJudge) -> None:
    assert judge.judge(DOUBLED, "print(2 * int(input()))").right
