"""What the zygote's children run in these tests: Python code that comes as the order, or a program (`#! word word`)."""

import os
import shlex
import sys
from collections.abc import Callable


def begin(fd: int) -> Callable[[], int] | list[str]:
    with open(fd, "rb", closefd=False) as file:
        code = file.read()
    return shlex.split(code[2:].decode()) if code.startswith(b"#!") else lambda: main(code)


def main(code: bytes) -> int:
    sys.stdout = os.fdopen(1, "w", closefd=False)
    sys.stderr = os.fdopen(2, "w", closefd=False)
    status = 0
    try:
        exec(compile(code, "job", "exec"), {"os": os, "sys": sys})
    except SystemExit as stop:
        status = int(stop.code or 0)
    except BaseException as problem:  # noqa: BLE001 - whatever a job raises is its own
        print(f"{type(problem).__name__}: {problem}")
        status = 1
    sys.stdout.flush()
    return status
