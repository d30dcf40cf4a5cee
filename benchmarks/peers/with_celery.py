"""Celery with Redis: `with_celery.py SOCKET`, the path of Redis' socket; the results are kept there, too.

Tuned: a prefork pool of 2, one per core; 64 tasks fetched ahead per process; no gossip, mingle or heartbeat; Redis
through a Unix socket and without persistence, so that nothing ever waits for a disk, and nothing survives one.
A submitter is told of results by Redis' publications, without polling.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from celery import Celery
from celery.result import ResultSet
from serve import end_with_parent, one_by_one, serve

PROCESSES = 2


def app_of(socket: str) -> Celery:
    """Return the application with its tasks."""
    app = Celery(
        "bench", broker=f"redis+socket://{socket}", backend=f"redis+socket://{socket}?virtual_host=1"
    )
    app.conf.update(
        worker_prefetch_multiplier=64,
        task_serializer="json",
        result_serializer="json",
        broker_connection_retry_on_startup=True,
        worker_hijack_root_logger=False,
    )

    @app.task(name="noop")
    def noop() -> None:
        return

    @app.task(name="spawn")
    def spawn() -> None:
        subprocess.run([sys.executable, "-I", "-c", "pass"], check=True)

    return app


def main() -> None:
    end_with_parent()
    if sys.argv[1] == "worker":
        app = app_of(sys.argv[2])
        options = ["--pool", "prefork", "--concurrency", str(PROCESSES), "--loglevel", "ERROR"]
        app.worker_main(["worker", *options, "--without-gossip", "--without-mingle", "--without-heartbeat"])
        return
    socket = sys.argv[1]
    app = app_of(socket)

    def all_of(name: str, count: int) -> float:
        task = app.tasks[name]
        began = time.perf_counter()
        ResultSet([task.delay() for _ in range(count)]).get()
        return time.perf_counter() - began

    worker = subprocess.Popen(
        [sys.executable, __file__, "worker", socket],
        stdin=subprocess.DEVNULL,
        stdout=2,
        cwd=Path(socket).parent,
    )
    try:
        serve(
            {
                "burst": lambda count: all_of("noop", count),
                "spawns": lambda count: all_of("spawn", count),
                "singles": one_by_one(lambda: app.tasks["noop"].delay().get()),
            }
        )
    finally:
        worker.terminate()
        worker.wait()


if __name__ == "__main__":
    main()
