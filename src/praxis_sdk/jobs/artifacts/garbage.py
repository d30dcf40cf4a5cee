"""Removing artifacts that nothing refers to: mark and sweep that never removes a referenced one.

The promise asked of callers: after `put` (or `renew`) has returned, its reference is recorded within the grace
period less `RENEW_AFTER_S`. Then three rules keep every referenced artifact:

1. *Age.* Only what was last vouched for before the cutoff (start of the sweep less the grace period) is a candidate.
   `put` makes an object that it finds young again, unless it is younger than `RENEW_AFTER_S`.
2. *Order.* Candidates are listed first and references read afterwards. So a reference that this reading
   misses was recorded later still, and its `put` came after the cutoff: the object is no candidate.
3. *Doom.* A `put` may find an old object at the very moment in which it is removed. So a removal is announced by
   the key `doomed/...` (created, never replaced, so there is one remover at a time), and only then is the age
   looked at once more and the object removed. `put` does it the other way round: it makes the object
   young, then looks for the announcement, then whether the object is still there. Of two who each write first
   and look second, one at least sees the other: the remover sees a young object and lets it be, or `put` sees the
   announcement and waits until it is withdrawn. Only a `put` that neither found an object nor then an
   announcement may create one without looking again, since nobody removes what nobody saw.

A remover that dies leaves its announcement; it is withdrawn after `ABANDONED_S`, when no request of it can be under
way any more.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Final, Protocol

from praxis_sdk.jobs.artifacts.body import Body
from praxis_sdk.jobs.artifacts.digest import OBJECTS, check_digest, digest_of, key_of
from praxis_sdk.jobs.artifacts.store import DOOMED, RENEW_AFTER_S, ArtifactStore

DEFAULT_GRACE_S: Final = 24 * 3600.0
MIN_GRACE_S: Final = 2 * RENEW_AFTER_S
ABANDONED_S: Final = 3600.0
MAX_CANDIDATES: Final = 100_000  # held in memory at once; the references are read once for so many
_REMOVALS_AT_ONCE: Final = 8


class References(Protocol):
    """Whoever knows which artifacts are needed: the store of executions, for one."""

    def digests(self) -> AsyncIterator[str]:
        """Yield the digest of every referenced artifact, in any order, also more than once.

        Whatever was recorded before the first one is asked for must be among them.
        """


@dataclass(frozen=True, slots=True)
class Sweep:
    """What a garbage collection did, or with `dry_run` would have done.

    Args:
        removed: digests, sorted.
        removed_bytes: their summed length.
        kept_young: objects that were too young to be looked at, or were renewed meanwhile.
        kept_referenced: old objects that something refers to.
        dry_run: nothing was removed.
    """

    removed: tuple[str, ...]
    removed_bytes: int
    kept_young: int
    kept_referenced: int
    dry_run: bool


async def sweep(
    store: ArtifactStore, references: References, *, grace_s: float = DEFAULT_GRACE_S, dry_run: bool = False
) -> Sweep:
    """Remove the artifacts that are old and that nothing refers to.

    It may run while artifacts are stored and read, and beside another sweep; its time comes from `store.clock`.

    Args:
        store: where they are.
        references: asked at least once, and again for every `MAX_CANDIDATES` old objects.
        grace_s: how long an artifact is safe without a reference; at least two hours.
        dry_run: only tell what would be removed.

    Raises:
        ValueError: the grace period is too short.
        ValidationError: `references` gave something that is no digest; nothing was removed for that reading.
        StoreUnavailable: the store cannot be used; what was removed until then stays removed.
    """
    if grace_s < MIN_GRACE_S:
        raise ValueError(f"grace_s must be at least {MIN_GRACE_S:.0f}")
    now_s = store.clock()
    run = _Run(store, now_s - grace_s, dry_run)
    if not dry_run:
        await store.backend.tidy(now_s - max(grace_s, DEFAULT_GRACE_S))
        await _withdraw_abandoned(store, now_s - ABANDONED_S)
    candidates: dict[str, int] = {}
    async for item in store.backend.objects(OBJECTS):
        digest = digest_of(item.key)
        if digest is None:
            continue
        if item.modified_s >= run.cutoff_s:
            run.kept_young += 1
            continue
        candidates[digest] = item.size_bytes
        if len(candidates) >= MAX_CANDIDATES:
            await run.settle(candidates, references)
            candidates = {}
    await run.settle(candidates, references)
    return Sweep(
        removed=tuple(sorted(run.removed)),
        removed_bytes=run.removed_bytes,
        kept_young=run.kept_young,
        kept_referenced=run.kept_referenced,
        dry_run=dry_run,
    )


class _Run:
    def __init__(self, store: ArtifactStore, cutoff_s: float, dry_run: bool) -> None:
        self.store = store
        self.cutoff_s = cutoff_s
        self.dry_run = dry_run
        self.removed: list[str] = []
        self.removed_bytes = 0
        self.kept_young = 0
        self.kept_referenced = 0

    async def settle(self, candidates: dict[str, int], references: References) -> None:
        """Remove those of the candidates that no reference names."""
        if not candidates:
            return
        count = len(candidates)
        async for digest in references.digests():
            candidates.pop(check_digest(digest), None)
        self.kept_referenced += count - len(candidates)
        remaining = iter(candidates.items())
        while batch := list(itertools.islice(remaining, _REMOVALS_AT_ONCE)):
            outcomes = await asyncio.gather(
                *(self._remove(digest, size_bytes) for digest, size_bytes in batch), return_exceptions=True
            )
            for outcome in outcomes:
                if outcome is not None:
                    raise outcome

    async def _remove(self, digest: str, size_bytes: int) -> None:
        if self.dry_run or await _remove_if_old(self.store, digest, self.cutoff_s):
            self.removed.append(digest)
            self.removed_bytes += size_bytes
        else:
            self.kept_young += 1


async def _remove_if_old(store: ArtifactStore, digest: str, cutoff_s: float) -> bool:
    """Remove an object unless it has been renewed; False when it has, is gone, or is another sweep's business.

    A failure in the middle leaves the announcement, because the removal may still be under way.
    """
    key = key_of(digest)
    if not await store.backend.create(DOOMED + key, Body.of_bytes(b"")):
        return False
    found = await store.backend.stat(key)
    old = found is not None and found.modified_s < cutoff_s
    if old:
        await store.backend.remove(key)
    await store.backend.remove(DOOMED + key)
    return old


async def _withdraw_abandoned(store: ArtifactStore, before_s: float) -> None:
    async for item in store.backend.objects(DOOMED):
        if item.modified_s < before_s:
            await store.backend.remove(item.key)
