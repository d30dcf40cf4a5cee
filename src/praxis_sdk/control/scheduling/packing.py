"""Packing: which worker an execution goes to, so that the room that is left stays in large pieces.

Best fit: of the workers that have room, the one that is left with the least of the scarcest resource takes the
execution (spec 4, property 30). The scarcest is the one of which what waits wants the largest part of what is
free. Workers are sorted by it, so a search is a bisection, and mostly the first comparison after it finds
room; workers with equal room are one entry, so a fleet of equal machines is a short list. Amounts are whole
numbers here, so that sums are exact and compare fast.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Sequence
from typing import Final

from praxis_sdk.model import Worker
from praxis_sdk.resources import Resources

# Cores (in units of 1e-9), MiB of memory, Mbit/s, graphics processors, MiB of disk, slots.
Amounts = tuple[int, int, int, int, int, int]

_CORE: Final = 10**9
_GPUS: Final = 3
_SLOTS: Final = 5
_MOST_MINIMAL: Final = 8  # so many failed shapes per kind are compared with; beyond that a search is cheaper


def need_of(requirements: Resources) -> Amounts:
    """Return what an execution takes up on a worker, its slot among it."""
    return (
        round(requirements.cpu_cores * _CORE),
        requirements.memory_mb,
        requirements.network_mbps,
        requirements.gpus,
        requirements.storage_mb,
        1,
    )


def capacity_of(worker: Worker) -> Amounts:
    """Return what a worker offers when nothing runs on it."""
    *amounts, _ = need_of(worker.capacity)
    return amounts[0], amounts[1], amounts[2], amounts[3], amounts[4], worker.slots


def room_of(worker: Worker) -> Amounts:
    """Return what a worker has left; below zero where its capacity or its slots were lowered."""
    whole, held = worker.capacity, worker.reserved
    return (
        round((whole.cpu_cores - held.cpu_cores) * _CORE),
        whole.memory_mb - held.memory_mb,
        whole.network_mbps - held.network_mbps,
        whole.gpus - held.gpus,
        whole.storage_mb - held.storage_mb,
        worker.slots - worker.running,
    )


def fits(need: Amounts, room: Amounts) -> bool:
    """Whether every amount is at most that of the room."""
    return (
        need[0] <= room[0]
        and need[1] <= room[1]
        and need[2] <= room[2]
        and need[3] <= room[3]
        and need[4] <= room[4]
        and need[5] <= room[5]
    )


def plus(one: Amounts, other: Amounts) -> Amounts:
    """Return the sum of two amounts."""
    return (
        one[0] + other[0],
        one[1] + other[1],
        one[2] + other[2],
        one[3] + other[3],
        one[4] + other[4],
        one[5] + other[5],
    )


def minus(one: Amounts, other: Amounts) -> Amounts:
    """Return the difference of two amounts."""
    return (
        one[0] - other[0],
        one[1] - other[1],
        one[2] - other[2],
        one[3] - other[3],
        one[4] - other[4],
        one[5] - other[5],
    )


# A worker's room as it is sorted: the scarcest resource, then all of them in their order.
_Entry = tuple[int, Amounts]


class _Pool:
    """The workers that can run the same kinds of work, sorted by the room that they have left."""

    def __init__(self) -> None:
        self.members: dict[Amounts, list[str]] = {}
        self.order: list[_Entry] = []


class Fleet:
    """The room of all workers while one round of scheduling fills it.

    Room only shrinks in a round, so a shape that found no room finds none later, nor does a larger one: such
    searches are answered from memory.

    Args:
        workers: those that take work.
        needs: what the round will look for room for; what is too small for all of it is not searched.
    """

    def __init__(self, workers: Iterable[Worker], needs: Sequence[Amounts]) -> None:
        self._pools: dict[tuple[frozenset[str], bool], _Pool] = {}
        self._serving: dict[tuple[str, bool], tuple[Sequence[_Pool], ...]] = {}
        self._failed: set[tuple[str, Amounts]] = set()
        self._minimal: dict[str, list[Amounts]] = {}
        self._full: set[str] = set()  # kinds for which no room at all is left
        self._slivers = False
        columns = [*zip(*needs, strict=True)] if needs else [(0,)] * (_SLOTS + 1)
        self._least = tuple(min(column) for column in columns)
        found: dict[tuple[Amounts, frozenset[str], bool], list[str]] = {}
        for worker in workers:
            left = worker.slots - worker.running
            if left <= 0:
                continue
            whole, held = worker.capacity, worker.reserved
            room = (  # as `room_of`, without the call: this runs for every worker in every round
                round((whole.cpu_cores - held.cpu_cores) * _CORE),
                whole.memory_mb - held.memory_mb,
                whole.network_mbps - held.network_mbps,
                whole.gpus - held.gpus,
                whole.storage_mb - held.storage_mb,
                left,
            )
            key = room, worker.kinds, whole.gpus > 0
            ids = found.get(key)
            if ids is None:
                found[key] = [worker.id]
            else:
                ids.append(worker.id)
        free = [0] * (_SLOTS + 1)
        for (room, _, _), ids in found.items():
            for number, amount in enumerate(room):
                free[number] += max(0, amount) * len(ids)
        pressure = [
            sum(column) / amount if amount else 0.0 for column, amount in zip(columns, free, strict=True)
        ]
        self._scarcest = pressure.index(max(pressure))
        for (room, kinds, has_gpus), ids in found.items():
            pool = self._pools.setdefault((kinds, has_gpus), _Pool())
            if self._of_use(room):
                pool.members[room] = ids
                pool.order.append(self._entry(room))
        for pool in self._pools.values():
            pool.order.sort()

    @property
    def has_room(self) -> bool:
        """Whether any worker that is not kept has a slot left, and something to run in it."""
        return self._slivers or any(pool.order for pool in self._pools.values())

    def place(self, kind: str, need: Amounts) -> str | None:
        """Take room for an execution where it fits best.

        Args:
            kind: its kind of work.
            need: what it takes up.

        Returns:
            The id of the worker; None where none has room.
        """
        if kind in self._full or (kind, need) in self._failed:
            return None
        if kind in self._minimal and self._larger_than_failed(kind, need):
            return None
        scarcest = self._scarcest
        wanted = (need[scarcest],)
        cpu, memory, network, gpus, storage, _ = need
        best: _Entry | None = None
        for group in self._groups(kind, needs_gpu=need[_GPUS] > 0):
            source: _Pool | None = None
            for pool in group:
                order = pool.order
                for index in range(bisect_left(order, wanted), len(order)):
                    entry = order[index]
                    room = entry[1]
                    if (  # as `fits`, without the call; who is sorted here has a slot
                        cpu <= room[0]
                        and memory <= room[1]
                        and storage <= room[4]
                        and network <= room[2]
                        and gpus <= room[3]
                    ):
                        if best is None or entry < best:
                            best, source = entry, pool
                        break
            if best is not None and source is not None:
                room = best[1]
                members = source.members[room]
                worker_id = members.pop()
                if not members:
                    self._forget(best, source)
                self._add(worker_id, minus(room, need), source)
                return worker_id
        self._remember_failed(kind, need)
        return None

    def keep(self, worker: Worker, room: Amounts) -> None:
        """Offer a worker to nobody else in this round.

        Args:
            worker: which one.
            room: what it has left after what was placed there.
        """
        pool = self._pools.get((worker.kinds, worker.capacity.gpus > 0))
        members = pool.members.get(room) if pool is not None else None
        if pool is not None and members is not None and worker.id in members:
            members.remove(worker.id)
            if not members:
                self._forget(self._entry(room), pool)

    def _groups(self, kind: str, *, needs_gpu: bool) -> tuple[Sequence[_Pool], ...]:
        """Return where to look, in this order: work that needs no graphics processor leaves them to others."""
        groups = self._serving.get((kind, needs_gpu))
        if groups is None:
            plain = [pool for (kinds, has), pool in self._pools.items() if kind in kinds and not has]
            with_gpus = [pool for (kinds, has), pool in self._pools.items() if kind in kinds and has]
            groups = (with_gpus,) if needs_gpu else (plain, with_gpus)
            self._serving[kind, needs_gpu] = groups
        return groups

    def _entry(self, room: Amounts) -> _Entry:
        return room[self._scarcest], room

    def _of_use(self, room: Amounts) -> bool:
        """Whether there is room for the least that may be looked for; if not, it may be for something else."""
        least = self._least
        if (
            room[0] >= least[0]
            and room[1] >= least[1]
            and room[5] > 0
            and room[2] >= least[2]
            and room[3] >= least[3]
            and room[4] >= least[4]
        ):
            return True
        self._slivers = self._slivers or (room[5] > 0 and room[0] > 0 and room[1] > 0)
        return False

    def _add(self, worker_id: str, room: Amounts, pool: _Pool) -> None:
        if not self._of_use(room):
            return
        members = pool.members.get(room)
        if members is None:
            pool.members[room] = [worker_id]
            insort(pool.order, self._entry(room))
        else:
            members.append(worker_id)

    def _forget(self, entry: _Entry, pool: _Pool) -> None:
        del pool.members[entry[1]]
        del pool.order[bisect_left(pool.order, entry)]

    def _larger_than_failed(self, kind: str, need: Amounts) -> bool:
        for small in self._minimal[kind]:
            if (  # as `fits`, without the call
                small[0] <= need[0]
                and small[1] <= need[1]
                and small[2] <= need[2]
                and small[3] <= need[3]
                and small[4] <= need[4]
            ):
                self._failed.add((kind, need))
                return True
        return False

    def _remember_failed(self, kind: str, need: Amounts) -> None:
        if not any(pool.order for group in self._groups(kind, needs_gpu=False) for pool in group):
            self._full.add(kind)
            return
        self._failed.add((kind, need))
        minimal = [known for known in self._minimal.get(kind, ()) if not fits(need, known)]
        if len(minimal) < _MOST_MINIMAL:
            minimal.append(need)
        self._minimal[kind] = minimal
