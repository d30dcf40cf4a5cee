"""Python jobs behave as Python does: how they end, what they return, how their exceptions read."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable

import pytest

from praxis_sdk.control.lifecycle.failure_policy import of_job
from praxis_sdk.jobs.executor.executor import JobExecutor
from praxis_sdk.jobs.executor.result import JobResult
from praxis_sdk.states import ErrorType, FailureCategory
from tests.jobs.conftest import payload

Run = Callable[..., Awaitable[JobResult]]


# -- the end


async def test_a_file_that_is_never_closed_is_complete(run: Run, executor: JobExecutor) -> None:
    code = (
        "import csv\n"
        "out = open('m.csv', 'w', newline='')\n"
        "writer = csv.writer(out)\n"
        "for n in range(1501): writer.writerow([n, n * 0.5])\n"
        "class Holder: pass\n"
        "one = Holder(); one.me = one; one.file = open('cycle.txt', 'w'); one.file.write('kept')\n"
    )
    result = await run(code)
    kept = {one.name: await executor._artifacts.read(one.digest) for one in result.artifacts}
    assert kept["m.csv"].count(b"\n") == 1501
    assert kept["cycle.txt"] == b"kept"


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("import atexit; atexit.register(print, 'first'); atexit.register(print, 'last')", "last\nfirst\n"),
        ("class C:\n    def __del__(self): print('freed')\nc = C()", "freed\n"),
        ("import weakref\nclass C: pass\nc = C(); weakref.finalize(c, print, 'finalized')", "finalized\n"),
        ("def g():\n    try: yield\n    finally: print('closed')\none = g(); next(one)", "closed\n"),
        ("import ctypes; ctypes.CDLL(None).puts(b'from C')", "from C\n"),
        ("import ctypes; print('py'); ctypes.CDLL(None).printf(b'no newline')", "py\nno newline"),
        (
            (
                "import threading, time\n"
                "def late(): event.wait(); print('late')\n"
                "event = threading.Event(); threading.Thread(target=late).start()\n"
                "threading.Timer(0.01, event.set).start()"
            ),
            "late\n",
        ),
        (
            (
                "import logging.handlers, sys\n"
                "memory = logging.handlers.MemoryHandler(100, target=logging.StreamHandler(sys.stdout))\n"
                "logging.getLogger().addHandler(memory); logging.warning('flushed')"
            ),
            "flushed\n",
        ),
    ],
)
async def test_an_interpreter_ends_in_full(run: Run, code: str, said: str) -> None:
    result = await run(code)
    assert result.succeeded, result.failure
    assert result.stdout.text == said


@pytest.mark.parametrize(
    "code",
    [
        (
            "from concurrent.futures import ThreadPoolExecutor\n"
            "pool = ThreadPoolExecutor(2)\nprint(sum(pool.map(len, ['a', 'bb', 'ccc'])))"
        ),
        (
            "from concurrent.futures import ProcessPoolExecutor\n"
            "pool = ProcessPoolExecutor(2)\nprint(sum(pool.map(len, ['a', 'bb', 'ccc'])))"
        ),
        "from multiprocessing.pool import ThreadPool\npool = ThreadPool(2)\nprint(sum(pool.map(int, '123')))",
        "from multiprocessing import Pool\npool = Pool(2)\nprint(sum(pool.map(int, '123')))",
        (
            "import asyncio\n"
            "async def main(): return await asyncio.get_running_loop().run_in_executor(None, sum, [1, 2, 3])\n"
            "print(asyncio.run(main()))"
        ),
    ],
)
async def test_pools_that_are_not_shut_down_end_with_the_job(run: Run, code: str) -> None:
    result = await run(code, limits={"wall_s": 60})
    assert result.succeeded, (result.failure, result.stderr.text)
    assert result.stdout.text == "6\n"
    assert result.timings.run_s is not None
    assert result.timings.run_s < 50


async def test_running_daemon_threads_do_not_touch_the_result(executor: JobExecutor) -> None:
    code = (
        "import os, threading\n"
        "def busy():\n"
        "    while True:\n"
        "        os.close(os.open('/dev/null', os.O_RDONLY)); open('/dev/null').close()\n"
        "for _ in range(2): threading.Thread(target=busy, daemon=True).start()\n"
        "[1, 2, 3]"
    )
    jobs = [payload(code=code, fresh=True) for _ in range(60)]
    results = await asyncio.gather(*(executor.execute(job) for job in jobs))
    assert [(str(one.status), one.outputs) for one in results] == [("completed", [1, 2, 3])] * len(jobs)


@pytest.mark.parametrize(
    "code",
    [
        "import atexit, shutil; atexit.register(shutil.rmtree, '.praxis')\n7",
        "import atexit, os; atexit.register(os.chdir, '/tmp')\n7",
        "import atexit, os; atexit.register(os.closerange, 3, 4096)\n7",
        "import os\nheld = []\ntry:\n    while True: held.append(os.open('/dev/null', 0))\nexcept OSError: pass\n7",
        "import atexit; atexit.register(lambda: 1 / 0)\n7",
        "import os\nos.fork()\n7",
    ],
)
async def test_the_value_outlives_what_a_job_does_at_its_end(run: Run, code: str) -> None:
    result = await run(code)
    assert result.succeeded, result.failure
    assert result.outputs == 7


@pytest.mark.parametrize(
    ("code", "exit_code"),
    [
        ("import sys; print('done'); sys.stdout.close()", 0),
        ("import sys; sys.exit(3)", 3),
        ("import sys; sys.exit('why')", 1),
        ("import sys; sys.exit(2**70)", 255),
        ("import sys; sys.exit(-1)", 255),
        ("import sys; sys.exit(1.0)", 1),
        ("import os; os._exit(4)", 4),
        ("import os; print('lost'); os.close(1)", 0),
        ("import os, sys; sys.stdout.reconfigure(line_buffering=False); print('x'); os.close(1)", 120),
        ("raise KeyboardInterrupt", 130),
        ("import threading; t = threading.Thread(target=lambda: 1 / 0); t.start()", 0),
        ("import sys; sys.excepthook = lambda *_: sys.exit(9)\n1 / 0", 9),
        ("import argparse; argparse.ArgumentParser().parse_args(['--unknown'])", 2),
    ],
)
async def test_the_exit_code_is_an_interpreters(run: Run, code: str, exit_code: int) -> None:
    assert (await run(code)).exit_code == exit_code


SELF = "import os, signal, time, faulthandler, ctypes\n"


@pytest.mark.parametrize(
    ("code", "name"),
    [
        ("os.kill(os.getpid(), signal.SIGKILL)", "SIGKILL"),
        ("os.kill(os.getpid(), signal.SIGSEGV)", "SIGSEGV"),
        ("os.kill(os.getpid(), signal.SIGTERM)", "SIGTERM"),
        ("os.kill(0, signal.SIGKILL)", "SIGKILL"),
        (
            "os.killpg(os.getpgrp(), signal.SIGINT) if signal.signal(signal.SIGINT, signal.SIG_DFL) else 0",
            "SIGINT",
        ),
        ("os.abort()", "SIGABRT"),
        ("signal.raise_signal(signal.SIGUSR1)", "SIGUSR1"),
        ("signal.alarm(1); signal.pause()", "SIGALRM"),
        ("ctypes.string_at(0)", "SIGSEGV"),
        ("if os.fork() == 0: os.kill(1, signal.SIGHUP)\nelse: signal.pause()", "SIGHUP"),
        ("import atexit; atexit.register(os.kill, os.getpid(), 9)", "SIGKILL"),
    ],
)
async def test_a_signal_to_itself_ends_a_job_as_it_ends_a_program(run: Run, code: str, name: str) -> None:
    result = await run(f"{SELF}print('before')\n{code}")
    assert result.failure is not None
    assert (result.failure.category, result.failure.code) == (
        FailureCategory.USER_CODE_ERROR,
        "killed_by_signal",
    )
    assert result.failure.message == f"ended by {name}"
    assert (result.exit_code, result.signal) == (None, getattr(signal, name))
    assert result.stdout.text == "before\n"
    failure = of_job(result)
    assert failure is not None
    assert failure.error_type is ErrorType.PERMANENT, "the same again would do the same"


@pytest.mark.parametrize(
    "code",
    [
        "signal.signal(signal.SIGTERM, signal.SIG_IGN); os.kill(os.getpid(), signal.SIGTERM); print('on')",
        "signal.signal(signal.SIGUSR1, lambda *_: print('on')); os.kill(os.getpid(), signal.SIGUSR1)",
        (
            "assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL\n"
            "assert signal.signal(signal.SIGTERM, signal.SIG_IGN) is signal.SIG_DFL; print('on')"
        ),
        "signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2}); signal.raise_signal(signal.SIGUSR2); print('on')",
        "import subprocess\np = subprocess.Popen(['sleep', '60']); p.terminate(); print({-15: 'on'}[p.wait()])",
        (
            "import multiprocessing\np = multiprocessing.get_context('fork').Process(target=signal.pause)\n"
            "p.start(); p.terminate(); p.join(); print('on' if p.exitcode == -15 else p.exitcode)"
        ),
        "import signal\ntry: signal.raise_signal(signal.SIGINT)\nexcept KeyboardInterrupt: print('on')",
        "os.kill(os.getpid(), 0); os.kill(os.getpid(), signal.SIGCHLD); print('on')",
    ],
)
async def test_signals_that_end_nobody_end_no_job(run: Run, code: str) -> None:
    result = await run(SELF + code)
    assert result.succeeded, (result.failure, result.stderr.text)
    assert result.stdout.text == "on\n"


# -- the code


async def test_annotations_are_evaluated(run: Run) -> None:
    assert (await run("def f(x: float): ...\nf.__annotations__['x'] is float")).outputs is True
    code = "from __future__ import annotations\ndef f(x: nowhere): ...\nf.__annotations__"
    assert (await run(code)).outputs == {"x": "nowhere"}


@pytest.mark.parametrize(
    ("code", "value"),
    [
        ("async def main(): return 42", 42),
        ("async def main(): return 42\nmain()", 42),
        ("import asyncio\nawait asyncio.sleep(0)\nx = await asyncio.sleep(0, 5)\nx + 1", 6),
        ("import asyncio\nasync def f(): return 1\nawait asyncio.gather(f(), f())", [1, 1]),
    ],
)
async def test_coroutines_are_awaited(run: Run, code: str, value: object) -> None:
    result = await run(code)
    assert result.succeeded, result.failure
    assert result.outputs == value


GUARDED = (
    "def main(rate=0.1, *, steps=3):\n    print(rate, steps)\nif __name__ == '__main__':\n    main({})\n"
)


@pytest.mark.parametrize(
    ("code", "parameters", "said"),
    [
        (GUARDED.format(""), {"rate": 0.5}, "0.5 3\n"),
        (GUARDED.format(""), {"steps": 9}, "0.1 9\n"),
        (GUARDED.format(""), {}, "0.1 3\n"),
        (GUARDED.format("rate=0.2"), {"steps": 9}, "0.2 9\n"),
        ("def main(rate=0.1): print(rate)\nmain()", {"rate": 0.5}, "0.5\n"),
        ("def main(rate, /): print(rate)", {"rate": 0.5}, "0.5\n"),
        ("async def main(rate): print(rate)", {"rate": 0.5}, "0.5\n"),
        ("print(parameters)", {"any": 1}, "{'any': 1}\n"),
    ],
)
async def test_parameters_are_used(run: Run, code: str, parameters: dict[str, object], said: str) -> None:
    result = await run(code, parameters=parameters)
    assert result.succeeded, result.failure
    assert result.stdout.text == said


@pytest.mark.parametrize(
    ("code", "name", "says"),
    [
        (GUARDED.format(""), "rtae", "it takes rate, steps"),
        (GUARDED.format("rate=0.2"), "rate", "leave rate out of that call"),
        (GUARDED.format("0.2"), "rate", "leave rate out of that call"),
        (GUARDED.format("**{}"), "rate", "leave rate out of that call"),
        ("def main(a, b): print(a)", "c", "it takes a, b"),
        ("rate = 0.1; print(rate)", "rate", "the code takes none"),
        ("def main(): print('ran')", "x", "it takes nothing"),
    ],
)
async def test_parameters_that_would_be_ignored_are_refused(
    run: Run, code: str, name: str, says: str
) -> None:
    result = await run(code, parameters={name: 1})
    assert result.failure is not None
    assert (result.failure.category, result.failure.code) == (
        FailureCategory.VALIDATION_ERROR,
        "invalid_payload",
    )
    assert result.failure.message.startswith(f"payload.parameters.{name}: ")
    assert says in result.failure.message
    assert result.stdout.text == "", "nothing of the code has run"


# -- values

ODD = {
    "complex": ("1 + 2j", {"repr": "(1+2j)", "type": "complex"}),
    "object": ("object", {"repr": "<class 'object'>", "type": "type"}),
    "colliding": ("{1: 'a', '1': 'b'}", {"repr": "{1: 'a', '1': 'b'}", "type": "dict"}),
    "tuple key": ("{(1, 2): 3}", {"repr": "{(1, 2): 3}", "type": "dict"}),
    "big": ("2**100", {"repr": str(2**100), "type": "int"}),
    "huge": ("10**5000", {"repr": "<an integer of 16610 bits>", "type": "int"}),
    "surrogate": (r"'\udcff'", {"repr": r"'\udcff'", "type": "str"}),
}


@pytest.mark.parametrize("name", ODD)
async def test_a_last_line_that_is_not_json_is_kept_as_its_repr(run: Run, name: str) -> None:
    code, kept = ODD[name]
    result = await run(f"open('f.txt', 'w').write('x')\nx = {code}\nx")
    assert result.succeeded, result.failure
    assert result.outputs == kept
    assert [one.name for one in result.artifacts] == ["f.txt"]


@pytest.mark.parametrize("name", ODD)
async def test_a_returned_value_that_is_not_json_is_refused_with_its_place(run: Run, name: str) -> None:
    result = await run(f"def main(): return {{'deep': [{ODD[name][0]}]}}")
    assert result.failure is not None
    assert result.failure.code == "bad_value"
    assert "result.deep[0] " in result.failure.message


@pytest.mark.parametrize(
    ("code", "value"),
    [
        ("from decimal import Decimal\nDecimal('1.10')", "1.10"),
        ("from pathlib import Path\nPath('a') / 'b'", "a/b"),
        ("import uuid\nuuid.UUID(int=1)", "00000000-0000-0000-0000-000000000001"),
        ("import datetime\ndatetime.timedelta(days=1, milliseconds=5)", "PT86400.005S"),
        ("import datetime\n{datetime.date(2024, 1, 2): datetime.datetime(2024, 1, 2, 3)}",
         {"2024-01-02": "2024-01-02T03:00:00"}),
        ("import enum\nclass E(enum.Enum):\n    A = 'a'\n[E.A]", ["a"]),
        ("import dataclasses\n@dataclasses.dataclass\nclass P:\n    x: int\n    y: list\nP(1, [2])",
         {"x": 1, "y": [2]}),
        ("import collections\n[collections.deque([1]), collections.Counter('aab'), range(3), {'k': 1}.keys()]",
         [[1], {"a": 2, "b": 1}, [0, 1, 2], ["k"]]),
        ("[float('inf'), -float('inf'), float('nan')]", ["Infinity", "-Infinity", None]),
        ("[b'text', b'\\xff\\xfe']", ["text", {"base64": "//4="}]),
        ("from fractions import Fraction\nFraction(1, 3)", "1/3"),
    ],
)  # fmt: skip
async def test_what_json_can_say_is_said(run: Run, code: str, value: object) -> None:
    result = await run(code)
    assert result.succeeded, result.failure
    assert result.outputs == value


async def test_a_repr_that_fails_or_is_long_is_bounded(run: Run) -> None:
    result = await run("class C:\n    def __repr__(self): 1 / 0\nC()")
    assert result.outputs == {"repr": "<repr() failed: ZeroDivisionError>", "type": "C"}
    result = await run("class C:\n    def __repr__(self): return 'x' * 10**6\nC()")
    assert result.succeeded, result.failure
    assert "characters left out" in result.outputs["repr"]  # type: ignore[index,call-overload]


@pytest.mark.parametrize(
    ("code", "begins", "kind"),
    [
        ("'x' * 3_000_000", "'xxx", "str"),
        ("list(range(10**6))", "[0, 1, 2, ", "list"),
        ("{n: 'a' * 100 for n in range(10**5)}", "{0: 'aaa", "dict"),
        ("b'x' * 3_000_000", "b'xxx", "bytes"),
        ("[['x' * 1000] * 1000] * 1000", "[['xxx", "list"),
        ("class D(dict):\n    def items(self): return [1]\nD(a=1)", "{'a': 1}", "D"),
        ("class D(dict):\n    def items(self): raise SystemExit(3)\nD(a=1)", "{'a': 1}", "D"),
    ],
)
async def test_a_last_line_too_long_or_broken_for_json_decides_nothing(
    run: Run, code: str, begins: str, kind: str
) -> None:
    body, _, last = code.rpartition("\n")
    result = await run(f"open('f.txt', 'w').write('kept')\n{body}\n{last}")
    assert result.succeeded, result.failure
    assert [one.name for one in result.artifacts] == ["f.txt"]
    assert result.outputs["type"] == kind  # type: ignore[index,call-overload]
    assert result.outputs["repr"].startswith(begins)  # type: ignore[index,call-overload]
    assert len(result.outputs["repr"]) < 10_100  # type: ignore[index,call-overload]


async def test_a_repr_fits_a_small_limit_and_a_returned_value_names_it(run: Run) -> None:
    shown = await run("'\u20ac' * 2000", limits={"outputs_bytes": 2048})
    assert shown.succeeded, shown.failure
    assert "2000 characters in all" in shown.outputs["repr"]  # type: ignore[index,call-overload]
    returned = await run("def main(): return 'x' * 2000", limits={"outputs_bytes": 1024})
    assert returned.failure is not None
    assert (returned.failure.code, returned.failure.message) == (
        "outputs_exceeded",
        "the returned value is longer than its limit outputs_bytes of 1.0 KiB (write it to a file)",
    )


async def test_the_place_of_a_value_that_holds_itself_is_short(run: Run) -> None:
    result = await run("def main():\n    a = []; a.append(a)\n    return a")
    assert result.failure is not None
    assert result.failure.message.endswith("[0] is nested deeper than 64")
    assert len(result.failure.message) < 150


@pytest.mark.parametrize(
    ("code", "exit_code"),
    [
        ("import os; os._exit(0)", 0),
        ("import os; os._exit(3)", 3),
        ("import os; os.execvp('true', ['true'])", 0),
        ("import ctypes; ctypes.CDLL(None).exit(4)", 4),
    ],
)
async def test_an_end_past_the_interpreters_is_told_with_its_exit_code(
    run: Run, code: str, exit_code: int
) -> None:
    result = await run(code)
    assert result.failure is not None
    assert (result.failure.code, result.exit_code) == ("no_result", exit_code)
    assert f"ended with exit code {exit_code} before it had a result" in result.failure.message


async def test_a_file_over_its_limit_names_the_limit(run: Run) -> None:
    result = await run("open('f', 'wb').truncate(2 << 20)", limits={"file_size_bytes": 1 << 20})
    assert result.failure is not None
    assert result.failure.message == (
        "OSError: [Errno 27] File too large (limits.file_size_bytes is 1.0 MiB; on the command line --file-size)"
    )


# -- exceptions

TRACEBACKS = {
    "syntax": ("x = (\n", '  File "job.py", line 1\n    x = (\n        ^\nSyntaxError: '),
    "str fails": (
        "class Bad(Exception):\n    def __str__(self): return self.detail\nraise Bad(1)",
        (
            'Traceback (most recent call last):\n  File "job.py", line 3, in <module>\n    raise Bad(1)\n'
            "Bad: <exception str() failed>\n"
        ),
    ),
    "chained": (
        "try:\n    1 / 0\nexcept ZeroDivisionError as e:\n    raise ValueError('x') from e",
        "The above exception was the direct cause",
    ),
    "group": (
        "raise ExceptionGroup('g', [ValueError(1), TypeError(2)])",
        "+---------------- 2 ----------------",
    ),
    "recursion": ("def f(): f()\nf()", "Previous line repeated"),
    "last line": ("x = 1\nx / 0", 'File "job.py", line 2, in <module>\n    x / 0'),
    "main": (
        "def main():\n    1 / 0",
        'Traceback (most recent call last):\n  File "job.py", line 2, in main',
    ),
    "async": (
        "async def main():\n    1 / 0",
        'Traceback (most recent call last):\n  File "job.py", line 2, in main',
    ),
    "kill": (
        "import os\nos.kill(1, 'x')",
        "Traceback (most recent call last):\n  File \"job.py\", line 2, in <module>\n    os.kill(1, 'x')\nTypeError",
    ),
    "thread": (
        "import threading\nt = threading.Thread(target=lambda: 1 / 0); t.start(); t.join(); raise ValueError",
        'File "job.py", line 2, in <lambda>',
    ),
    "atexit in C": (
        "import atexit\natexit.register(open, '/none')\nraise ValueError",
        "Exception ignored in atexit callback: <built-in function open>\nFileNotFoundError: [Errno 2]",
    ),
    "atexit": (
        "import atexit\natexit.register(lambda: 1 / 0)\nraise ValueError",
        "Exception ignored in atexit",
    ),
}


@pytest.mark.parametrize("name", TRACEBACKS)
async def test_tracebacks_show_the_job_and_nothing_of_ours(run: Run, name: str) -> None:
    code, shown = TRACEBACKS[name]
    result = await run(code)
    assert result.failure is not None
    assert result.failure.code == "exception"
    assert shown in result.stderr.text
    for text in (result.stderr.text, result.failure.traceback or ""):
        assert "/run/praxis" not in text
        assert "script.py" not in text
        assert "ast.py" not in text


@pytest.mark.parametrize(
    ("code", "last"),
    [
        ("raise ValueError('A' * 10**7 + 'end')", "Aend\n"),
        ("import copy\nx = []\nfor _ in range(10**5): x = [x]\ncopy.deepcopy(x)", "RecursionError: maximum"),
    ],
)
async def test_a_long_traceback_does_not_hide_the_exception_behind_a_limit(
    run: Run, code: str, last: str
) -> None:
    result = await run(code, limits={"stderr_bytes": 64 << 10})
    assert result.failure is not None
    assert (result.failure.code, result.exit_code) == ("exception", 1)
    assert last in result.stderr.text[-200:]
    assert "\n[...]\n" in result.stderr.text


async def test_the_hook_of_the_job_is_told_of_its_exception(run: Run) -> None:
    result = await run("import sys\nsys.excepthook = lambda kind, *_: print('hook', kind.__name__)\n1 / 0")
    assert (result.stdout.text, result.stderr.text, result.exit_code) == ("hook ZeroDivisionError\n", "", 1)
    assert result.failure is not None
    assert result.failure.message == "ZeroDivisionError: division by zero"
