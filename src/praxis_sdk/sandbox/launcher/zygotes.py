"""Where forked children come from: the current generation of a zygote, its successor, and those that are retired."""

from __future__ import annotations

from collections import deque

from praxis_sdk.sandbox.launcher.child import StartError
from praxis_sdk.sandbox.launcher.zygote_process import ZygoteProcess

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from praxis_sdk.sandbox.launcher.events import Events
    from praxis_sdk.sandbox.launcher.spawner import Spawner
    from praxis_sdk.sandbox.launcher.zygote_process import Born

MAX_UNBORN = 16


class Zygotes:
    """Asks for children, starting zygotes as needed: the first lazily, another one when it died or is used up.

    Args:
        settings: the zygote as the client described it.
    """

    def __init__(self, settings: Mapping[str, Any], nursery: Spawner, events: Events) -> None:
        self._settings = settings
        self._nursery = nursery
        self._events = events
        self._current: ZygoteProcess | None = None
        self._next: ZygoteProcess | None = None
        self._retired: list[ZygoteProcess] = []
        self._wanted: deque[Born] = deque()
        self._closed = False

    def ask(self, born: Born) -> None:
        """Have a child forked as soon as there is a zygote that can."""
        self._wanted.append(born)
        self._deliver()

    def close(self) -> None:
        """End every zygote and every child."""
        self._closed = True
        for generation in self._generations():
            generation.kill()
        self._current = self._next = None

    def _generations(self) -> list[ZygoteProcess]:
        return [g for g in (self._current, self._next, *self._retired) if g is not None]

    def _deliver(self) -> None:
        """Pass on what is wanted, as far as the current generation can take it."""
        if self._closed:
            return
        if self._current is None and self._wanted:
            self._current = self._start()
        current = self._current
        if current is None or not current.loaded:
            return
        while self._wanted and current.unborn < MAX_UNBORN:
            born = self._wanted.popleft()
            try:
                current.ask(self._then_deliver(born))
            except ConnectionError:
                # It has died, and the event that says so is on its way; then there will be another one.
                self._wanted.appendleft(born)
                return
            except OSError as problem:
                born(StartError("zygote", problem.errno or 0, str(problem)))
        if current.births >= self._settings["recycle_after"] and self._next is None:
            self._next = self._start()

    def _then_deliver(self, born: Born) -> Born:
        def then(child: object) -> None:
            born(child)  # type: ignore[arg-type]
            self._deliver()

        return then

    def _start(self) -> ZygoteProcess | None:
        try:
            return ZygoteProcess(self._settings, self._nursery, self._events, self._changed)
        except OSError as problem:
            self._fail(StartError("zygote", problem.errno or 0, str(problem)))
            return None

    def _changed(self, generation: ZygoteProcess) -> None:
        """A generation has loaded, or will give no more children."""
        if generation.problem is not None:
            if generation is self._current:
                self._current = None
                if not generation.loaded:
                    self._fail(generation.problem)
            elif generation is self._next:
                self._next = None
        elif generation is self._next:
            self._next = None
            if self._current is not None:
                self._current.retire()
                self._retired.append(self._current)
            self._current = generation
        self._retired = [old for old in self._retired if old.problem is None or old.living]
        self._deliver()

    def _fail(self, problem: StartError) -> None:
        wanted, self._wanted = self._wanted, deque()
        for born in wanted:
            born(problem)
