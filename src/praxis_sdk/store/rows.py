"""Records as flat rows of SQL values, the same for every store.

A row is a tuple in the order of the columns named here; what SQL never looks into is one column of JSON text.
An execution is three rows, so that the one that changes often stays small: what stands where (`EXECUTION`), what
was asked for (`DOCUMENT`) and what came of it (`RESULT`). This is the hot path: positions instead of names,
looked-up enums, and the few terms and amounts that most executions share are read and written once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, Final

from praxis_sdk.model import Attempt, Batch, CronSchedule, Event, Execution, Worker, WorkerState
from praxis_sdk.resources import Resources
from praxis_sdk.states import ExecutionMode
from praxis_sdk.store.encoding import (
    ENDING,
    EVENT_TYPE,
    LEVEL,
    STATUS,
    STOP,
    failure_from_text,
    failure_to_text,
    flags_from_text,
    from_json,
    from_text,
    optional_json,
    resources_from_text,
    resources_to_text,
    terms_from_text,
    terms_to_text,
    to_json,
    to_text,
    usage_from_text,
    usage_to_text,
)
from praxis_sdk.store.protocol import FinishedExecution

Row = tuple[Any, ...]

# What never changes about an execution, what indexes look at, and the rest that moves. A change that leaves
# PLACE alone (a line of log, a report of progress) needs to write REST only, and no index.
STILL: Final = (
    "id",
    "kind",
    "control",
    "submitted_at",
    "mode",
    "idempotency_key",
    "batch_id",
    "parent_id",
    "schedule_id",
    "labels",
    "traceparent",
    "priority",
    "service_class",
    "terms",
)
PLACE: Final = ("status", "rank", "due_at", "worker_id", "ended_at", "flags")  # flags: joined by commas
REST: Final = (
    "reason",
    "queued_at",
    "started_at",
    "attempt_at",
    "token",
    "granted",
    "attempt",
    "retries",
    "preemptions",
    "stop",
    "progress",
    "checkpoint_at",
    "failure",
    "usage",
    "next_seq",
    "chain",
)
MOVING: Final = PLACE + REST
EXECUTION: Final = STILL + MOVING
DOCUMENT: Final = ("execution_id", "request", "context")  # JSON or NULL
RESULT: Final = ("execution_id", "outputs", "result")  # JSON or NULL
EVENT: Final = ("execution_id", "seq", "at", "type", "message", "data", "level", "component", "hash", "chunk")
ATTEMPT: Final = (
    "execution_id",
    "number",
    "token",
    "worker_id",
    "started_at",
    "ended_at",
    "ending",
    "failure",
    "usage",
)
# What a worker reserves is five columns, so that SQL can add to them.
RESERVED: Final = (
    "reserved_cpu_cores",
    "reserved_memory_mb",
    "reserved_network_mbps",
    "reserved_gpus",
    "reserved_storage_mb",
)
WORKER: Final = (
    # capacity, kinds: JSON
    "id",
    "capacity",
    "slots",
    "kinds",
    "state",
    "started_at",
    "lease_until",
    "host",
    "running",
    *RESERVED,
)
SCHEDULE: Final = (
    "id",
    "cron",
    "timezone",
    "work",
    "next_at",
    "created_at",
    "last_at",
    "last_execution_id",
    "paused",
)
BATCH: Final = ("id", "name", "created_at", "size", "opens_at", "closes_at")
ENDED: Final = (
    "kind",
    "control",
    "status",
    "failure",
    "submitted_at",
    "started_at",
    "ended_at",
    "usage",
    "retries",
    "mode",
)

# The fields of `Execution` that a change may set.
CHANGEABLE: Final = frozenset(MOVING) | {"outputs", "result"}
_IN_PLACE: Final = frozenset(PLACE)


def columns(names: Iterable[str], table: str = "") -> str:
    """Return names as a list for SQL, each with its table where one is given."""
    return ", ".join(f"{table}.{name}" if table else name for name in names)


# -- executions


def execution_row(execution: Execution) -> Row:
    """Return the values of `EXECUTION`."""
    return still_row(execution) + moving_row(execution)


def still_row(execution: Execution) -> Row:
    """Return the values of `STILL`."""
    terms = execution.terms
    return (
        execution.id,
        execution.kind,
        execution.control,
        execution.submitted_at,
        None if execution.mode is None else execution.mode._value_,
        execution.idempotency_key,
        execution.batch_id,
        execution.parent_id,
        execution.schedule_id,
        to_json(dict(execution.labels)) if execution.labels else "{}",
        execution.traceparent,
        terms.priority._value_,
        terms.service_class._value_,
        terms_to_text(terms),
    )


def moving_row(execution: Execution) -> Row:
    """Return the values of `MOVING`: those of `PLACE`, then those of `REST`."""
    return (
        execution.status._value_,
        execution.rank,
        execution.due_at,
        execution.worker_id,
        execution.ended_at,
        ",".join(execution.flags) if execution.flags else "",
        *rest_row(execution),
    )


def rest_row(execution: Execution) -> Row:
    """Return the values of `REST`."""
    stop = execution.stop
    return (
        to_text(execution.reason),
        execution.queued_at,
        execution.started_at,
        execution.attempt_at,
        execution.token,
        resources_to_text(execution.granted),
        execution.attempt,
        execution.retries,
        execution.preemptions,
        None if stop is None else stop._value_,
        execution.progress,
        execution.checkpoint_at,
        failure_to_text(execution.failure),
        usage_to_text(execution.usage),
        execution.next_seq,
        execution.chain,
    )


def moves(update: Mapping[str, Any]) -> bool:
    """Whether an update changes any of `PLACE`.

    Raises:
        ValueError: it changes what never changes.
    """
    names = update.keys()
    if not names <= CHANGEABLE:
        raise ValueError(f"a change cannot set {', '.join(sorted(names - CHANGEABLE))}")
    return not names.isdisjoint(_IN_PLACE)


def document_row(execution: Execution) -> Row:
    """Return the values of `DOCUMENT`."""
    return execution.id, optional_json(execution.request), optional_json(execution.context)


def result_row(execution: Execution) -> Row:
    """Return the values of `RESULT`."""
    return execution.id, optional_json(execution.outputs), optional_json(execution.result)


def execution_of(
    row: Sequence[Any],
    request: str | None = None,
    context: str | None = None,
    outputs: str | None = None,
    result: str | None = None,
) -> Execution:
    """Return the execution of a row.

    Args:
        row: the values of `EXECUTION`.
        request, context, outputs, result: the columns of `DOCUMENT` and `RESULT` by these names; None: left out.
    """
    mode, labels = row[4], row[9]
    # In the order of the fields of `Execution`; names would cost as much as all the rest.
    return Execution(
        row[0],
        row[1],
        row[2],
        None if request is None else from_json(request),
        terms_from_text(row[13]),
        row[3],
        None if context is None else from_json(context),
        None if mode is None else ExecutionMode(mode),
        row[5],
        row[6],
        row[7],
        row[8],
        {} if labels == "{}" else from_json(labels),
        row[10],
        STATUS[row[14]],
        from_text(row[20]),
        row[15],
        row[16],
        row[21],
        row[22],
        row[23],
        row[18],
        row[17],
        row[24],
        resources_from_text(row[25]),
        row[26],
        row[27],
        row[28],
        None if row[29] is None else STOP[row[29]],
        row[30],
        row[31],
        None if outputs is None else from_json(outputs),
        None if result is None else from_json(result),
        None if row[32] is None else failure_from_text(row[32]),
        None if row[33] is None else usage_from_text(row[33]),
        flags_from_text(row[19]) if row[19] else (),
        row[34],
        row[35],
    )


def ended_of(row: Sequence[Any]) -> FinishedExecution:
    """Return what metrics need, from the values of `ENDED`."""
    failure = row[3]
    return FinishedExecution(
        kind=row[0],
        control=row[1],
        status=STATUS[row[2]],
        error_type=None if failure is None else from_json(failure)["error_type"],
        submitted_at=row[4],
        started_at=row[5],
        ended_at=row[6],
        usage=usage_from_text(row[7]),
        retries=row[8],
        mode=None if row[9] is None else ExecutionMode(row[9]),
    )


# -- events and attempts


def event_row(event: Event) -> Row:
    """Return the values of `EVENT`."""
    return (
        event.execution_id,
        event.seq,
        event.at,
        event.type._value_,
        to_text(event.message),
        to_json(event.data) if event.data else "{}",
        event.level._value_,
        to_text(event.component),
        event.hash,
        event.chunk or None,
    )


def event_of(row: Sequence[Any]) -> Event:
    """Return the event of a row of `EVENT`."""
    execution_id, seq, at, type_, message, data, level, component, hash_, chunk = row
    return Event(
        execution_id,
        seq,
        at,
        EVENT_TYPE[type_],
        from_text(message),
        {} if data == "{}" else from_json(data),
        LEVEL[level],
        from_text(component),
        hash_,
        chunk or b"",
    )


def attempt_row(attempt: Attempt) -> Row:
    """Return the values of `ATTEMPT`."""
    return (
        attempt.execution_id,
        attempt.number,
        attempt.token,
        attempt.worker_id,
        attempt.started_at,
        attempt.ended_at,
        attempt.ending._value_,
        failure_to_text(attempt.failure),
        usage_to_text(attempt.usage),
    )


def attempt_of(row: Sequence[Any]) -> Attempt:
    """Return the attempt of a row of `ATTEMPT`."""
    execution_id, number, token, worker_id, started_at, ended_at, ending, failure, usage = row
    spent, why = usage_from_text(usage), failure_from_text(failure)
    return Attempt(execution_id, number, token, worker_id, started_at, ended_at, ENDING[ending], why, spent)


# -- workers, schedules, batches


def worker_row(worker: Worker) -> Row:
    """Return the values of `WORKER`."""
    return (
        worker.id,
        resources_to_text(worker.capacity),
        worker.slots,
        to_json(sorted(worker.kinds)),
        worker.state._value_,
        worker.started_at,
        worker.lease_until,
        worker.host,
        worker.running,
        *worker.reserved.amounts(),
    )


def worker_of(row: Sequence[Any]) -> Worker:
    """Return the worker of a row of `WORKER`."""
    cpu_cores, *whole = row[9:14]
    return Worker(
        id=row[0],
        capacity=resources_from_text(row[1]),
        slots=row[2],
        kinds=_kinds(row[3]),
        # Sums of floats that SQL made: without what rounding leaves behind.
        reserved=Resources(round(cpu_cores, 6), *whole),
        running=row[8],
        state=WorkerState(row[4]),
        started_at=row[5],
        lease_until=row[6],
        host=row[7],
    )


@lru_cache(maxsize=256)
def _kinds(text: str) -> frozenset[str]:
    return frozenset(from_json(text))


def schedule_row(schedule: CronSchedule) -> Row:
    """Return the values of `SCHEDULE`."""
    return (
        schedule.id,
        schedule.cron,
        schedule.timezone,
        to_json(schedule.work),
        schedule.next_at,
        schedule.created_at,
        schedule.last_at,
        schedule.last_execution_id,
        int(schedule.paused),
    )


def schedule_of(row: Sequence[Any]) -> CronSchedule:
    """Return the schedule of a row of `SCHEDULE`."""
    return CronSchedule(
        id=row[0],
        cron=row[1],
        timezone=row[2],
        work=from_json(row[3]),
        next_at=row[4],
        created_at=row[5],
        last_at=row[6],
        last_execution_id=row[7],
        paused=bool(row[8]),
    )


def batch_row(batch: Batch) -> Row:
    """Return the values of `BATCH`."""
    return batch.id, batch.name, batch.created_at, batch.size, batch.opens_at, batch.closes_at


def batch_of(row: Sequence[Any]) -> Batch:
    """Return the batch of a row of `BATCH`."""
    return Batch(*row)
