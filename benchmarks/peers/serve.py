"""What every program that is measured has in common: it does what lines on its input say, and answers in JSON.

    burst N     N pieces of work under way at once; answers the seconds until all are known to be recorded
    singles N   N pieces of work one after another; answers the milliseconds of each

The clock is in the program that submits, so that nothing of this protocol is measured. This module and its
neighbours run with the peers' packages, and use nothing of Praxis.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

_PR_SET_PDEATHSIG = 1


def end_with_parent() -> None:
    """Have the kernel kill this process when the one that started it has ended, however that ended."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def serve(commands: Mapping[str, Callable[[int], Any]]) -> None:
    """Do what the lines of the standard input say until it ends.

    Args:
        commands: what each word does, given its number.
    """
    answers = claim_output()
    answer(answers, "ready")
    for line in sys.stdin:
        word, number = line.split()
        answer(answers, commands[word](int(number)))


def claim_output() -> int:
    """Return the standard output, which from here on is for answers alone: whatever else is said is an error."""
    answers = os.dup(1)
    os.dup2(2, 1)
    return answers


def answer(answers: int, value: Any) -> None:
    """Write an answer."""
    os.write(answers, json.dumps(value).encode() + b"\n")


def one_by_one(call: Callable[[], object]) -> Callable[[int], list[float]]:
    """Return the command that does a piece of work again and again, and takes the milliseconds of each."""

    def singles(count: int) -> list[float]:
        taken = []
        for _ in range(count):
            began = time.perf_counter()
            call()
            taken.append((time.perf_counter() - began) * 1000)
        return taken

    return singles
