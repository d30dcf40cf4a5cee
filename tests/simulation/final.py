"""What must hold when all has ended, asked of the store itself."""

import itertools
from typing import TYPE_CHECKING

from praxis_sdk.model import AttemptEnd, EventType, Execution, Flag
from praxis_sdk.resources import ZERO
from praxis_sdk.states import ExecutionStatus
from praxis_sdk.store import ExecutionFilter
from praxis_sdk.store.changes import verify_chain
from tests.simulation.kind import GRACE
from tests.simulation.ledger import differences
from tests.simulation.loop import EPOCH_S, State
from tests.simulation.process import AGEING_STEP_S, PATIENCE_S
from tests.simulation.workload import LONGEST_IN_STREAM_S, MOST_DEAF_S, Wish

if TYPE_CHECKING:
    from tests.simulation.world import World

MOST = 100_000
TOLERATED_S = 0.1
LONGEST_STOP_S = GRACE.cooperative_s + GRACE.terminate_s + MOST_DEAF_S + 1.0
SPENDS_A_RETRY = frozenset({AttemptEnd.FAILED, AttemptEnd.LOST, AttemptEnd.TIMED_OUT})


async def judge(world: "World", wishes: list[Wish]) -> None:
    """Look at everything that is left."""
    kept = await world.base.find(ExecutionFilter(), limit=MOST)
    if {one.id for one in kept} != set(world.ledger.known):
        world.fail("the store holds other executions than those whose topics rang")
    if not world.acknowledged <= {one.id for one in kept}:
        world.fail(f"lost: {sorted(world.acknowledged - {one.id for one in kept})}")
    for execution in sorted(kept, key=lambda one: one.id):
        await _execution(world, execution)
        _child(world, execution)
    _keys(world, kept)
    for worker in await world.base.workers(active_only=False):
        if worker.running or not worker.reserved.fits_in(ZERO):
            world.fail(f"{worker.id}: room leaked: {worker.running} with {worker.reserved}")
    for process in world.processes:
        if process.state is State.RUNNING and process.running:
            world.fail(f"{process.name}: work runs that nobody wants: {process.running}")
    lost = any(kept.startswith("attempt lost") and number for kept, number in world.ledger.moves.items())
    if lost and not world.planned.disturbs:
        world.fail("an attempt was lost, and nothing was wrong but clocks")
    if not world.planned.any:
        await _without_faults(world, wishes, {one.id: one for one in kept})


async def _execution(world: "World", execution: Execution) -> None:
    name = world.ledger.name(execution.id)
    known = world.ledger.known[execution.id]
    unseen = differences(known, execution)
    if unseen:
        world.fail(f"{name}: changed without a ring: {unseen}")
    if not execution.status.final:
        world.fail(f"{name}: is {execution.status}")
    if execution.id in world.cancelled and execution.status is not ExecutionStatus.CANCELLED:
        world.fail(f"{name}: its cancellation was acknowledged, and it is {execution.status}")
    events = await world.base.events(execution.id, limit=MOST)
    if [event.seq for event in events] != list(range(execution.next_seq)):
        world.fail(f"{name}: its stream has gaps: {[event.seq for event in events]}, {execution.next_seq}")
    wrong = verify_chain(events, execution.chain)
    if wrong:
        world.fail(f"{name}: {wrong}")
    stands = None
    for event in events:
        if event.type is EventType.STATUS:
            if event.data["from"] != stands:
                world.fail(f"{name}: was {stands}, and its stream says {event.data['from']}")
            stands = event.data["to"]
    if stands != execution.status:
        world.fail(f"{name}: is {execution.status}, and its stream says {stands}")
    await _attempts(world, name, execution)


def _child(world: "World", execution: Execution) -> None:
    """A child is cancelled with its parent, also one that comes only when that is acknowledged already."""
    at = world.cancelled.get(execution.parent_id or "")
    if at is None or world.planned.any:  # a store that fails may keep its parent from seeing it to its end
        return
    world.count("children of cancelled")
    assert execution.ended_at is not None
    if execution.status is not ExecutionStatus.CANCELLED and execution.ended_at - EPOCH_S > at + TOLERATED_S:
        parent = world.ledger.name(execution.parent_id or "")
        world.fail(
            f"{world.ledger.name(execution.id)}: {execution.status}, though its parent {parent} was cancelled"
        )


async def _attempts(world: "World", name: str, execution: Execution) -> None:
    attempts = await world.base.attempts(execution.id)
    if [one.number for one in attempts] != list(range(1, execution.attempt + 1)):
        world.fail(
            f"{name}: {execution.attempt} attempts began, and ended: {[one.number for one in attempts]}"
        )
    tokens = [one.token for one in attempts]
    if tokens != sorted(set(tokens)):
        world.fail(f"{name}: tokens {tokens}")
    completed = [one.token for one in attempts if one.ending is AttemptEnd.COMPLETED]
    if completed != ([execution.token] if execution.status.succeeded else []):
        world.fail(f"{name}: is {execution.status} by {execution.token}, and completed by {completed}")
    spent = sum(one.ending in SPENDS_A_RETRY for one in attempts)
    if spent > execution.terms.retry.max_retries + 1:
        world.fail(
            f"{name}: {spent} attempts failed, and {execution.terms.retry.max_retries} retries are allowed"
        )
    preempted = sum(one.ending is AttemptEnd.PREEMPTED for one in attempts)
    if preempted != execution.preemptions:
        world.fail(f"{name}: preempted {preempted} times, and {execution.preemptions} are counted")
    for ending in AttemptEnd:
        number = sum(one.ending is ending for one in attempts)
        world.ledger.moves[f"attempt {ending}"] += number


def _keys(world: "World", kept: list[Execution]) -> None:
    keys = [one.idempotency_key for one in kept if one.idempotency_key is not None]
    if len(keys) != len(set(keys)):
        world.fail("a key names two executions")


# -- what is promised where nothing goes wrong


async def _without_faults(world: "World", wishes: list[Wish], kept: dict[str, Execution]) -> None:
    attempts = [one for execution_id in kept for one in await world.base.attempts(execution_id)]
    all_s = sum(one.ended_at - one.started_at for one in attempts)
    for wish in wishes:
        for execution_id in wish.ids:
            execution = kept[execution_id]
            name = world.ledger.name(execution_id)
            if Flag.WINDOW_MISSED in execution.flags:
                _missed(world, name, execution, all_s)
            if execution.started_at is None:
                if (
                    Flag.WINDOW_MISSED not in execution.flags
                    and execution.status is not ExecutionStatus.CANCELLED
                ):
                    world.fail(f"{name}: never started, and is {execution.status}")
                continue
            _window(world, name, execution, all_s)
            if world.stream_of_work:
                _not_starved(world, name, execution)
    _schedule(world, wishes, kept)
    if world.ledger.longest_stop_s > LONGEST_STOP_S:
        world.fail(f"an attempt that should end ran on for {world.ledger.longest_stop_s:.1f} s")
    if any(attempt.startswith("attempt lost") and number for attempt, number in world.ledger.moves.items()):
        world.fail("an attempt was lost though nothing went wrong")


def _window(world: "World", name: str, execution: Execution, all_s: float) -> None:
    """Work never starts before its window, nor after it."""
    assert execution.started_at is not None
    terms, at = execution.terms, execution.started_at
    if terms.opens_at is not None:
        world.count("windows")
        if at < terms.opens_at:
            world.fail(f"{name}: started {terms.opens_at - at:.3f} s before its window")
    if terms.closes_at is None:
        return
    if at > terms.closes_at:
        world.fail(f"{name}: started {at - terms.closes_at:.3f} s after its window")
    if _feasible(execution, all_s):
        world.count("feasible windows")


def _missed(world: "World", name: str, execution: Execution, all_s: float) -> None:
    """No window is missed in which all work, one after another, has time."""
    world.count("missed windows")
    closes_at = execution.terms.closes_at
    if closes_at is None or execution.ended_at is None or execution.ended_at < closes_at:
        world.fail(f"{name}: missed a window that had not closed")
    if execution.attempt == 0 and _feasible(execution, all_s):
        world.fail(f"{name}: missed its window, in which there was time for everything")


def _feasible(execution: Execution, all_s: float) -> bool:
    """Whether all work of the run, one after another, has time in a window.

    Args:
        all_s: how long all attempts of the run took together, in seconds.
    """
    terms = execution.terms
    opens_at = max(execution.submitted_at, terms.opens_at or 0.0)
    return terms.closes_at is not None and terms.closes_at - opens_at >= all_s


def _schedule(world: "World", wishes: list[Wish], kept: dict[str, Execution]) -> None:
    """A schedule submits its work once for each time that it is due, and leaves none out."""
    every_s = next((float(wish.cron[2:4]) for wish in wishes if wish.cron is not None), 0.0)
    # The key of such an execution ends with the time when it was due.
    keys = [one.idempotency_key or "" for one in kept.values() if one.schedule_id is not None]
    due = sorted(float(key.rpartition(":")[2]) for key in keys)
    if any(later - sooner != every_s for sooner, later in itertools.pairwise(due)):
        world.fail(f"a schedule of every {every_s:g} s submitted at {due}")
    world.count("scheduled", len(due))


def _not_starved(world: "World", name: str, execution: Execution) -> None:
    """What does not fit waits until it is the oldest, then until patience ends, and then for what still runs.

    Of two that are large the second waits for the first.
    """
    assert execution.started_at is not None
    if execution.terms.requirements.cpu_cores < 2:
        return
    world.count("large in a stream")
    waited_s = execution.started_at - execution.submitted_at
    if waited_s > 7 * AGEING_STEP_S + PATIENCE_S + 2 * (LONGEST_IN_STREAM_S + 3.0):
        world.fail(f"{name}: starved for {waited_s:.1f} s")
