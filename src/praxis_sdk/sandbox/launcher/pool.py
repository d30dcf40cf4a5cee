"""Locked sandboxes ahead of need: they have become what most runs ask for, and wait only for their work.

What cannot be changed after lock-down is the template: the working directory and the size of the scratch space. A run
that asks for another one is served without the pool; when two in a row ask for the same other one, the pool follows.
Limits that can be set from outside, or only be lowered, are set when the work is assigned. Each child is used once.
"""

from __future__ import annotations

from collections import deque

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any, NamedTuple

    from praxis_sdk.sandbox.launcher.child import Child

    class Template(NamedTuple):
        """What a locked child can no longer change."""

        workdir: str
        scratch_bytes: int
        scratch_inodes: int

else:
    from collections import namedtuple

    Template = namedtuple("Template", ("workdir", "scratch_bytes", "scratch_inodes"))

MIN_SIZE = 2
MAX_SIZE = 8


class SandboxPool:
    """Keeps between MIN_SIZE and MAX_SIZE children of one template, more the more often none was ready.

    Attributes:
        template: what its children are; None before the first request.
        limits: those of the latest request, which the next one probably has, too.
        making: how many are on their way.
    """

    __slots__ = ("_other", "_paused", "_size", "limits", "making", "ready", "template")

    def __init__(self) -> None:
        self.template: Template | None = None
        self.limits: Mapping[str, Any] = {}
        self.ready: deque[Child] = deque()
        self.making = 0
        self._size = MIN_SIZE
        self._paused = False
        self._other: Template | None = None

    @property
    def wanting(self) -> bool:
        """True when there should be more children than there are."""
        return self.template is not None and not self._paused and len(self.ready) + self.making < self._size

    def take(self, template: Template, limits: Mapping[str, Any]) -> Child | None:
        """Return a locked child of this template, or None; and learn from the request what to have ready."""
        self._paused = False
        if template != self.template:
            if self.template is None or template == self._other:
                self.template, self._other, self._size = template, None, MIN_SIZE
                self.limits = limits
            else:
                self._other = template
            return None
        self._other = None
        self.limits = limits
        if not self.ready:
            self._size = min(MAX_SIZE, self._size + 1)
            return None
        return self.ready.popleft()

    def pause(self) -> None:
        """Want nothing until the next request: a child could not be made, and trying again at once would not help."""
        self._paused = True

    def drain(self) -> list[Child]:
        """Return every waiting child, to be buried."""
        drained = list(self.ready)
        self.ready.clear()
        return drained
