"""Changes of executions, and what comes of them: pure, so that every store settles them alike.

A change says under which conditions it holds (where the execution stands, which attempt speaks) and what is
then different. A store reads the execution under a lock, has the change settled here, and writes what comes
of it in the same transaction: the execution, its events, the attempt that ended, the worker's reservation.
A change that does not hold changes nothing: so the late word of a lost or cancelled attempt is discarded.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from praxis_sdk.json_text import text_of
from praxis_sdk.model import (
    AUDITED,
    Attempt,
    AttemptEnd,
    Event,
    EventType,
    Execution,
    Failure,
    Level,
    NewEvent,
    Usage,
)
from praxis_sdk.resources import ZERO, Resources
from praxis_sdk.states import HELD, ExecutionStatus
from praxis_sdk.store.json_text import encoder


@dataclass(frozen=True, slots=True)
class Change:
    """A guarded change of one execution.

    Args:
        execution_id: which one.
        when: it holds where the execution stands so; empty: wherever.
        token: it holds for the attempt of this fencing token only; None: for any.
        update: fields of `Execution` with their new values.
        events: what is appended to the stream; a change of status adds its own event before them.
        ending: how the current attempt ended, where it did.
        actor: who changed it, for the audit.
    """

    execution_id: str
    when: frozenset[ExecutionStatus] = frozenset()
    token: int | None = None
    update: Mapping[str, Any] = field(default_factory=dict)
    events: tuple[NewEvent, ...] = ()
    ending: AttemptEnd | None = None
    actor: str = "control"


@dataclass(frozen=True, slots=True)
class AppliedChange:
    """What came of a change that held.

    Args:
        before, after: the execution.
        events: its new events, numbered and chained.
        attempt: the attempt that ended.
    """

    before: Execution
    after: Execution
    events: tuple[Event, ...] = ()
    attempt: Attempt | None = None


def apply_change(execution: Execution, change: Change, now: float) -> AppliedChange | None:
    """Apply a change to an execution as it is now.

    Args:
        execution: as the store has it.
        change: what shall be different.
        now: seconds since 1970.

    Returns:
        What came of it; None where the change does not hold.
    """
    if not holds(execution, change):
        return None
    after = execution.but(**change.update) if change.update else execution
    if after.flags != execution.flags:  # only ever added: who changes them may not know those of others
        after = after.but(flags=tuple(dict.fromkeys((*execution.flags, *after.flags))))
    drafts = change.events
    if after.status is not execution.status:
        drafts = (_moved(execution, after, change.actor), *drafts)
    events, seq, chain = _appended(after, drafts, now)
    if events:
        after = after.but(next_seq=seq, chain=chain)
    attempt = _ended(execution, after, change.ending, now) if change.ending is not None else None
    return AppliedChange(execution, after, events, attempt)


def holds(execution: Execution, change: Change) -> bool:
    """Whether a change's conditions are met; an execution that has ended takes events alone."""
    if change.when and execution.status not in change.when:
        return False
    if change.token is not None and execution.token != change.token:
        return False
    return not (execution.status.final and "status" in change.update)


def created(execution: Execution, now: float, drafts: Iterable[NewEvent] = ()) -> AppliedChange:
    """Number and chain the first events of an execution that is new."""
    events, seq, chain = _appended(execution, (_moved(None, execution, "submitter"), *drafts), now)
    after = execution.but(next_seq=seq, chain=chain)
    return AppliedChange(execution, after, events)


@dataclass(slots=True)
class Reservations:
    """By how much the reservations of workers change in one transaction.

    Args:
        held: per worker, resources and attempts to add; below zero to give back.
    """

    held: dict[str, tuple[Resources, int]] = field(default_factory=dict)

    def note(self, settled: AppliedChange) -> None:
        """Take account of an execution that a worker holds now, or holds no more."""
        before, after = settled.before, settled.after
        held_before = before.status in HELD and bool(before.worker_id)
        held_after = after.status in HELD and bool(after.worker_id)
        if held_before and held_after and before.worker_id == after.worker_id:
            return
        if held_before:
            amount, count = self.held.get(before.worker_id, (ZERO, 0))
            self.held[before.worker_id] = amount - before.granted, count - 1
        if held_after:
            amount, count = self.held.get(after.worker_id, (ZERO, 0))
            self.held[after.worker_id] = amount + after.granted, count + 1


def _moved(before: Execution | None, after: Execution, actor: str) -> NewEvent:
    data: dict[str, Any] = {"from": str(before.status) if before else None, "to": str(after.status)}
    if before is None:
        context = after.context or {}
        data |= {
            "kind": after.kind,
            "control": after.control,
            "version": context.get("version"),
            "agent": context.get("agent_id"),
            "mode": str(after.mode) if after.mode else None,
            "priority": str(after.terms.priority),
            "request": context.get("request_digest"),
        }
    if after.worker_id and after.status in HELD:
        data |= {"worker": after.worker_id, "attempt": after.attempt, "token": after.token}
    if after.reason:
        data["reason"] = after.reason
    if after.status.final:
        data |= {name: digest_of(value) for name, value in _results(after)}
        data["duration_s"] = round(after.elapsed_s(after.ended_at or 0.0), 6)
        data["failure"] = failure_to_json(after.failure) if after.failure else None
    data["actor"] = actor
    level = Level.ERROR if after.status is ExecutionStatus.FAILED else Level.INFO
    return NewEvent(EventType.STATUS, str(after.status), data, level)


def _appended(
    execution: Execution, drafts: Iterable[NewEvent], now: float
) -> tuple[tuple[Event, ...], int, str]:
    events: list[Event] = []
    seq, chain = execution.next_seq, execution.chain
    for draft in drafts:
        at = float(now if draft.at is None else draft.at)  # as every store gives it back
        entry = (execution.id, seq, at, draft.type, draft.message, draft.data, draft.level, draft.component)
        if draft.type in AUDITED:
            chain = entry_hash(chain, *entry)
            events.append(Event(*entry, chain))
        else:
            events.append(Event(*entry, "", draft.chunk))
        seq += 1
    return tuple(events), seq, chain


def _ended(execution: Execution, after: Execution, ending: AttemptEnd, now: float) -> Attempt:
    return Attempt(
        execution_id=execution.id,
        number=execution.attempt,
        token=execution.token,
        worker_id=execution.worker_id,
        started_at=now if execution.attempt_at is None else execution.attempt_at,
        ended_at=now,
        ending=ending,
        failure=after.failure,
        usage=after.usage,
    )


# -- the chain of audit entries

_entry_json: Final = encoder(sort_keys=True, ensure_ascii=False)


def entry_hash(
    chain: str,
    execution_id: str,
    seq: int,
    at: float,
    type_: str,
    message: str,
    data: Mapping[str, Any],
    level: str,
    component: str,
) -> str:
    """Return the hash of an audit entry, which covers the entry before it through `chain`."""
    entry = [chain, execution_id, seq, at, type_, message, data, level, component]
    return hashlib.sha256(_entry_json(entry).encode("utf-8", "surrogatepass")).hexdigest()


def verify_chain(events: Iterable[Event], chain: str) -> str:
    """Check the audit entries of one execution, in order.

    Args:
        events: its events; those that are no audit entries are passed over.
        chain: the hash of the last entry, as the execution has it.

    Returns:
        What is wrong, in one line; empty: nothing was altered or removed.
    """
    running = ""
    for event in events:
        if event.type not in AUDITED:
            continue
        entry = (event.seq, event.at, event.type, event.message, event.data, event.level, event.component)
        running = entry_hash(running, event.execution_id, *entry)
        if running != event.hash:
            return f"entry {event.seq} was altered, or one before it was altered or removed"
    return "" if running == chain else "entries at the end were removed"


def verify_record(execution: Execution, events: Iterable[Event]) -> str:
    """Check that an execution is what its audit trail says: the chain proves the trail, and this the record.

    Args:
        execution: with request, outputs and result.
        events: its events in order; those that are no changes of status are passed over.

    Returns:
        What differs, in one line; empty: nothing.
    """
    moves = [event.data for event in events if event.type is EventType.STATUS]
    if not moves:
        return "its first entry was removed"
    first, last = moves[0], moves[-1]
    told: list[tuple[str, object, object]] = [
        ("kind", execution.kind, first.get("kind")),
        ("control", execution.control, first.get("control")),
        ("status", str(execution.status), last.get("to")),
    ]
    if first.get("request") is not None:
        told.append(("request", request_digest(execution.request), first["request"]))
    if execution.status.final:
        kept = {name: digest_of(value) for name, value in _results(execution)}
        told += [(name, kept.get(name), last.get(name)) for name in _RESULTS]
    wrong = [name for name, kept_value, trail_value in told if kept_value != trail_value]
    return f"{', '.join(wrong)} of the record was altered: the audit trail says otherwise" if wrong else ""


_RESULTS: Final = ("outputs", "result")
_value_json: Final = encoder()  # as stores keep it


def _results(execution: Execution) -> list[tuple[str, Any]]:
    """What came of an execution, as far as it has something: the audit trail holds digests of that."""
    values = (("outputs", execution.outputs), ("result", execution.result))
    return [(name, value) for name, value in values if value is not None]


def digest_of(value: Any) -> str:
    """Return the sha256 of a value's JSON as it is kept."""
    return hashlib.sha256(text_of(value, _value_json).encode()).hexdigest()


def request_digest(request: Any) -> str:
    """Return the sha256 of a request's JSON with its names in order: equal requests have equal digests."""
    return hashlib.sha256(_entry_json(request).encode("utf-8", "surrogatepass")).hexdigest()


# -- records as JSON


def failure_to_json(failure: Failure) -> dict[str, Any]:
    """Return a failure as JSON."""
    return {
        "category": str(failure.category),
        "error_type": str(failure.error_type),
        "code": failure.code,
        "message": failure.message,
        "detail": failure.detail,
    }


def usage_to_json(usage: Usage) -> dict[str, Any]:
    """Return a usage as JSON."""
    return {
        "wall_s": usage.wall_s,
        "cpu_s": usage.cpu_s,
        "peak_memory_bytes": usage.peak_memory_bytes,
        "network_bytes": usage.network_bytes,
        "storage_bytes": usage.storage_bytes,
    }
