"""What an execution costs from submission to record, beside the peers that are made for that.

Every program is begun anew for each round, warmed up, measured and ended, one after the other: A B C A B C ...
So nobody's polling takes time from anybody else, nobody's tables grow, and a slow minute is nobody's alone. Rates
are of pieces of work that are all under way at once; a ratio is taken round by round.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import statistics
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import box
from rich.table import Table

from benchmarks.harness import RESULTS, conditions
from benchmarks.programs import (
    PEERS_PYTHON,
    ROOT,
    Program,
    database,
    disk_folder,
    filesystem_of,
    postgres,
    program,
    redis,
)

if TYPE_CHECKING:
    from devservices.postgres import PostgresServer

TITLE = "durable executions end to end, beside DBOS, Procrastinate and Celery"
PEERS = ROOT / "benchmarks" / "peers"
_databases = itertools.count()

Start = Callable[["Setting"], contextlib.AbstractAsyncContextManager[Program]]


@dataclass(frozen=True)
class Setting:
    """What a round's programs share.

    Args:
        folder: on the disk, empty for each program.
        server: PostgreSQL.
    """

    folder: Path
    server: PostgresServer


@dataclass(frozen=True)
class Task:
    """What a program is asked for.

    Args:
        figure: the name of what comes of it.
        command, count: what it is asked.
        warm_up: pieces of work before; not measured.
    """

    figure: str
    command: str
    count: int
    warm_up: int = 100

    async def measure(self, one: Program) -> float:
        """Measure; returns a rate per second, or the median of milliseconds."""
        await one.ask(self.command, self.warm_up)
        taken = await one.ask(self.command, self.count)
        return statistics.median(taken) if isinstance(taken, list) else self.count / taken

    @property
    def unit(self) -> str:
        """What the figure is in."""
        return "ms" if self.command == "singles" else "/s"


@dataclass(frozen=True)
class Aim:
    """What was promised.

    Args:
        what: for people.
        figure: the figure that it is about.
        peers: where given, the ratio to the best of them counts; otherwise the figure itself.
        at_least, at_most: the bound; neither: for comparison only.
    """

    what: str
    figure: str
    peers: tuple[str, ...] = ()
    at_least: float | None = None
    at_most: float | None = None


@dataclass
class Outcome:
    """What a run of the suite came to.

    Args:
        rounds: per figure, a value per round.
        units: per figure.
    """

    rounds: dict[str, list[float]] = field(default_factory=dict)
    units: dict[str, str] = field(default_factory=dict)

    def median(self, figure: str) -> float:
        """Return the median over the rounds."""
        return statistics.median(self.rounds[figure])

    def judge(self, aim: Aim) -> dict[str, object]:
        """Say whether an aim was reached."""
        values = self.rounds[aim.figure]
        peer = max(aim.peers, key=self.median) if aim.peers else None
        if peer is not None:
            values = [mine / theirs for mine, theirs in zip(values, self.rounds[peer], strict=True)]
        value = statistics.median(values)
        reached = None  # nothing was promised: it is there to be seen
        if aim.at_least is not None:
            reached = value >= aim.at_least
        elif aim.at_most is not None:
            reached = value <= aim.at_most
        return {
            "aim": aim.what,
            "figure": aim.figure,
            "peer": peer,
            "value": round(value, 3),
            "range": [round(min(values), 3), round(max(values), 3)],
            "at_least": aim.at_least,
            "at_most": aim.at_most,
            "reached": reached,
        }


# -- the programs


def praxis(what: str, kept_in: str) -> Start:
    """Return what starts Praxis with no-ops in its own process, or with jobs in sandboxes; on a store."""

    @contextlib.asynccontextmanager
    async def start(setting: Setting) -> AsyncIterator[Program]:
        with contextlib.ExitStack() as stack:
            place = str(setting.folder / "praxis.db")
            if kept_in == "postgresql":
                place = setting.server.url(stack.enter_context(_database(setting)))
            command = [sys.executable, "-m", "benchmarks.subject", what, place, str(setting.folder)]
            async with program(*command) as one:
                yield one

    return start


def dbos(way: str) -> Start:
    """Return what starts DBOS on SQLite: `direct`, `queue` or `wal`."""

    def start(setting: Setting) -> contextlib.AbstractAsyncContextManager[Program]:
        return program(str(PEERS_PYTHON), str(PEERS / "with_dbos.py"), way, str(setting.folder))

    return start


@contextlib.asynccontextmanager
async def procrastinate(setting: Setting) -> AsyncIterator[Program]:
    """Start Procrastinate with its worker."""
    server = setting.server
    with _database(setting) as name:
        conninfo = f"host={server.directory} user={server.owner} dbname={name}"
        async with program(str(PEERS_PYTHON), str(PEERS / "with_procrastinate.py"), conninfo) as one:
            yield one


@contextlib.asynccontextmanager
async def celery(setting: Setting) -> AsyncIterator[Program]:
    """Start Celery with its worker, and Redis."""
    async with (
        redis() as socket,
        program(str(PEERS_PYTHON), str(PEERS / "with_celery.py"), str(socket)) as one,
    ):
        yield one


@contextlib.contextmanager
def _database(setting: Setting) -> Any:
    with database(setting.server, f"bench{next(_databases)}") as name:
        yield name


SQLITE = "praxis, SQLite"
POSTGRESQL = "praxis, PostgreSQL"
JOBS = "praxis, sandboxed jobs, SQLite"
DBOS_WAYS = ("DBOS, SQLite, direct", "DBOS, SQLite, queue")
DBOS_WAL = "DBOS, SQLite in WAL mode by hand, direct"
PROCRASTINATE = "Procrastinate, PostgreSQL"
CELERY = "Celery, Redis"
CELERY_SPAWNS = "Celery, Redis, python -I -c pass each"
ONE = ", one at a time"


def programs(count: int) -> list[tuple[Start, list[Task]]]:
    """Return what is measured in a round, in order; rates over `count` pieces of work."""
    singles = max(20, count // 10)
    jobs = max(20, count // 4)

    def usual(name: str) -> list[Task]:
        return [
            Task(name, "burst", count, max(20, count // 4)),
            Task(name + ONE, "singles", singles, 10),
        ]

    return [
        (dbos("direct"), usual(DBOS_WAYS[0])),
        (praxis("noop", "sqlite"), usual(SQLITE)),
        (dbos("queue"), usual(DBOS_WAYS[1])),
        (dbos("wal"), usual(DBOS_WAL)),
        (procrastinate, usual(PROCRASTINATE)),
        (praxis("noop", "postgresql"), usual(POSTGRESQL)),
        (celery, [*usual(CELERY), Task(CELERY_SPAWNS, "spawns", jobs, 20)]),
        (praxis("job", "sqlite"), [Task(JOBS, "burst", jobs, 50), Task(JOBS + ONE, "singles", singles, 10)]),
    ]


AIMS = (
    Aim("no-ops on SQLite, against DBOS on SQLite", SQLITE, DBOS_WAYS, at_least=10),
    Aim("the same, against DBOS on a file that was tuned by hand", SQLITE, (DBOS_WAL,)),
    Aim("no-ops on PostgreSQL, against Procrastinate", POSTGRESQL, (PROCRASTINATE,), at_least=3),
    Aim("no-ops on PostgreSQL, against Celery with Redis", POSTGRESQL, (CELERY,), at_least=1),
    Aim("submit to result, SQLite, median ms", SQLITE + ONE, at_most=5),
    Aim("submit to result, PostgreSQL, median ms", POSTGRESQL + ONE, at_most=5),
    Aim("sandboxed jobs, against DBOS' unsandboxed no-ops", JOBS, DBOS_WAYS, at_least=2),
    Aim("sandboxed jobs, against Celery with python -I -c pass", JOBS, (CELERY_SPAWNS,), at_least=3),
    Aim("submit to result of a sandboxed job, median ms", JOBS + ONE, at_most=10),
)


async def run(say: Callable[[str], None], rounds: int = 5, count: int = 1000) -> dict[str, object]:
    """Measure all programs in turn, `rounds` times, and keep the figures.

    Args:
        say: told how far it is.
        rounds: how often.
        count: pieces of work per rate.
    """
    if not PEERS_PYTHON.exists():
        raise RuntimeError("the peers are missing: run scripts/bench-peers")
    setting = conditions()
    outcome = Outcome()
    with postgres() as server:
        version = server.sql("SHOW server_version")
        for number in range(1, rounds + 1):
            say(f"round {number} of {rounds}")
            for start, tasks in programs(count):
                with disk_folder() as folder:
                    setting["filesystem"] = filesystem_of(folder)
                    setting["filesystem_postgresql"] = filesystem_of(server.directory)
                    async with start(Setting(folder, server)) as one:
                        for task in tasks:
                            value = await task.measure(one)
                            outcome.rounds.setdefault(task.figure, []).append(value)
                            outcome.units[task.figure] = task.unit
                            say(f"  {task.figure}: {value:.1f}{task.unit}")
    setting |= {"postgresql": version, "peers": _versions(), "tasks": count, "rounds": rounds}
    setting["load_after"] = conditions()["load_before"]
    kept: dict[str, object] = {
        "figures": {
            name: {
                "median": round(outcome.median(name), 2),
                "unit": outcome.units[name],
                "rounds": [round(value, 2) for value in values],
            }
            for name, values in outcome.rounds.items()
        },
        "aims": [outcome.judge(aim) for aim in AIMS],
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "control.json").write_text(json.dumps({"conditions": setting, **kept}, indent=1) + "\n")
    return kept


def tables(kept: dict[str, Any]) -> Sequence[Table]:
    """Return the figures and the aims as people read them."""
    figures = Table(title=TITLE, title_justify="left", box=box.SIMPLE_HEAD)
    figures.add_column("program")
    for column in ("median", "over rounds"):
        figures.add_column(column, justify="right")
    for name, one in kept["figures"].items():
        span = f"{min(one['rounds']):.1f} to {max(one['rounds']):.1f}"
        figures.add_row(name, f"{one['median']:.1f}{one['unit']}", span)
    aims = Table(title="aims", title_justify="left", box=box.SIMPLE_HEAD)
    aims.add_column("aim")
    for column in ("value", "over rounds", "bound", ""):
        aims.add_column(column, justify="right")
    for aim in kept["aims"]:
        unit = "x" if aim["peer"] else ""
        bound = f">= {aim['at_least']:g}" if aim["at_least"] is not None else ""
        bound = f"<= {aim['at_most']:g}" if aim["at_most"] is not None else bound
        span = f"{aim['range'][0]:.2f} to {aim['range'][1]:.2f}"
        said = {True: "reached", False: "missed", None: ""}[aim["reached"]]
        aims.add_row(aim["aim"], f"{aim['value']:.2f}{unit}", span, bound, said)
    return figures, aims


def _versions() -> list[str]:
    """Return the peers with their versions, as they are installed."""
    import subprocess

    names = ("dbos", "procrastinate", "celery", "redis", "psycopg")
    code = f"from importlib.metadata import version\nfor n in {names!r}: print(n, version(n))"
    ended = subprocess.run([str(PEERS_PYTHON), "-c", code], capture_output=True, text=True, check=True)
    return ended.stdout.splitlines()
