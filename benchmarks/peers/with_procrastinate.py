"""Procrastinate on PostgreSQL: `with_procrastinate.py CONNINFO`; with `worker CONNINFO` it is the worker.

Tuned: a worker process of its own with 24 jobs at once and as many connections, woken by NOTIFY, no periodic
tasks; jobs deferred together in one statement. Nothing tells a submitter of the end of a job, so it asks the table
for open jobs, which an index of Procrastinate's answers, every millisecond for one and every 10 ms for many.
"""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
import time
from collections.abc import Coroutine
from typing import Any

import procrastinate
import psycopg
from serve import end_with_parent, one_by_one, serve

CONCURRENCY = 24
OPEN = "SELECT EXISTS (SELECT FROM procrastinate_jobs WHERE status IN ('todo', 'doing'))"


def app_of(conninfo: str) -> tuple[procrastinate.App, Any]:
    """Return the application and its task."""
    connector = procrastinate.PsycopgConnector(conninfo=conninfo, min_size=4, max_size=CONCURRENCY + 4)
    app = procrastinate.App(connector=connector)

    @app.task(name="noop")
    async def noop() -> None:
        return

    return app, noop


async def work(conninfo: str) -> None:
    """Be the worker."""
    app, _ = app_of(conninfo)
    async with app.open_async():
        await app.run_worker_async(
            concurrency=CONCURRENCY, fetch_job_polling_interval=1.0, install_signal_handlers=False
        )


async def prepare(conninfo: str) -> None:
    """Make the tables."""
    app, _ = app_of(conninfo)
    async with app.open_async():
        await app.schema_manager.apply_schema_async()


def main() -> None:
    end_with_parent()
    logging.disable(logging.INFO)
    if sys.argv[1] == "worker":
        asyncio.run(work(sys.argv[2]))
        return
    conninfo = sys.argv[1]
    asyncio.run(prepare(conninfo))
    loop = asyncio.new_event_loop()

    def run(coroutine: Coroutine[Any, Any, Any]) -> Any:
        return loop.run_until_complete(coroutine)

    app, noop = app_of(conninfo)
    run(app.open_async())
    looker = psycopg.connect(conninfo, autocommit=True)

    def all_done(pause_s: float) -> None:
        while looker.execute(OPEN).fetchone()[0]:
            time.sleep(pause_s)

    def burst(count: int) -> float:
        began = time.perf_counter()
        run(noop.batch_defer_async(*({} for _ in range(count))))
        all_done(0.01)
        return time.perf_counter() - began

    def single() -> None:
        run(noop.defer_async())
        all_done(0.001)

    worker = subprocess.Popen(
        [sys.executable, __file__, "worker", conninfo], stdin=subprocess.DEVNULL, stdout=2
    )
    try:
        serve({"burst": burst, "singles": one_by_one(single)})
    finally:
        worker.terminate()
        worker.wait()
        run(app.close_async())


if __name__ == "__main__":
    main()
