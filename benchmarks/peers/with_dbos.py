"""DBOS on SQLite: `with_dbos.py direct|queue|wal FOLDER`.

direct  workflows called one after another, which is faster than starting them all in threads: SQLite takes one at
        a time, and threads that wait for it poll
queue   enqueued all at once
wal     as direct, on a file that was put into WAL mode by hand before; DBOS itself leaves SQLite's slower default

Tuned: polling every 20 ms instead of every second, more threads than the default, no logs. A commit waits for the
disk in each of the three. Nothing polls for the end of a workflow that is called; for queued ones DBOS does.
"""

from __future__ import annotations

import logging
import sqlite3
import sys
import time
from pathlib import Path
from typing import Any

from dbos import DBOS
from serve import end_with_parent, one_by_one, serve

POLLING_S = 0.02


@DBOS.workflow()
def noop() -> None:
    """Do nothing, durably."""


def main() -> None:
    end_with_parent()
    way, folder = sys.argv[1], Path(sys.argv[2])
    path = folder / "dbos.sqlite"
    if way == "wal":
        with sqlite3.connect(path) as connection:
            connection.execute("PRAGMA journal_mode = WAL").fetchall()
    DBOS(
        config={
            "name": "bench",
            "system_database_url": f"sqlite:///{path}",
            "log_level": "ERROR",
            "max_executor_threads": 64,
        }
    )
    DBOS.launch()
    logging.disable(logging.WARNING)
    queue: Any = None
    if way == "queue":
        queue = DBOS.register_queue("bench", polling_interval_sec=POLLING_S)

    def enqueued() -> None:
        queue.enqueue(noop).get_result(polling_interval_sec=POLLING_S)

    def burst(count: int) -> float:
        began = time.perf_counter()
        if queue is None:
            for _ in range(count):
                noop()
        else:
            for handle in [queue.enqueue(noop) for _ in range(count)]:
                handle.get_result(polling_interval_sec=POLLING_S)
        return time.perf_counter() - began

    single = noop if queue is None else enqueued
    serve({"burst": burst, "singles": one_by_one(single)})
    DBOS.destroy()


if __name__ == "__main__":
    main()
