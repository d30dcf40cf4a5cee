"""Blocking calls beside the event loop, in threads of their own.

Copying artifacts waits for disks that may be slow or full. In the threads that everybody shares it would keep all else
waiting that needs one.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, ParamSpec, TypeVar

_P = ParamSpec("_P")
_T = TypeVar("_T")
MAX_THREADS: Final = 8
_threads: Final = ThreadPoolExecutor(MAX_THREADS, thread_name_prefix="praxis-artifacts")


async def in_thread(function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
    """Call a function in a thread and wait until it has returned, also when cancelled.

    A thread cannot be stopped, and it works on descriptors that its caller closes next: if it went on, it
    would read or write whatever gets their numbers.
    """
    call = asyncio.get_running_loop().run_in_executor(_threads, functools.partial(function, *args, **kwargs))
    try:
        return await asyncio.shield(call)
    except asyncio.CancelledError:
        while not call.done():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait([call])
        call.exception()
        raise
