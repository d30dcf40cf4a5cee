"""`praxis worker`: takes work from the queue and runs it, until told to end."""

from __future__ import annotations

from typing import Annotated, Final

import typer

from praxis_sdk.cli.chosen_store import ChosenStore, StoreOption
from praxis_sdk.cli.terminal.streams import Streams
from praxis_sdk.errors import ValidationError

_MIB: Final = 1 << 20


def worker(
    context: typer.Context,
    drain: Annotated[
        bool, typer.Option("--drain", help="Work until nothing is left to do now, then end.")
    ] = False,
    slots: Annotated[
        int | None, typer.Option(metavar="N", min=1, max=100_000, help="Run so many at once at most.")
    ] = None,
    cpu: Annotated[
        float | None, typer.Option(metavar="CORES", min=0.01, help="Offer so many cores; else all here.")
    ] = None,
    memory: Annotated[
        str | None, typer.Option(metavar="SIZE", help="Offer so much memory: 4G; else all here.")
    ] = None,
    storage: Annotated[
        str | None, typer.Option(metavar="SIZE", help="Offer so much disk space: 100G; else what is free.")
    ] = None,
    network: Annotated[
        int | None, typer.Option(metavar="MBPS", min=1, help="Offer so many Mbit/s; else 1000.")
    ] = None,
    gpus: Annotated[
        int | None, typer.Option(metavar="N", min=0, max=1000, help="Offer so many GPUs; else none.")
    ] = None,
    max_slots: Annotated[
        int | None,
        typer.Option(
            metavar="N", min=1, max=100_000, help="Let the slots grow to N and shrink again by use."
        ),
    ] = None,
    job_limit: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=MAX", help="The most that a job may ask for: memory_bytes=4G; repeatable."
        ),
    ] = None,
    metrics_port: Annotated[
        str | None, typer.Option(metavar="[HOST:]PORT", help="Serve /metrics for Prometheus.")
    ] = None,
    store: StoreOption = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but errors.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log everything.")] = False,
) -> int:
    """Run a worker in the foreground; its log is on stderr (PRAXIS_LOG=json for collectors).

    Ctrl-C or SIGTERM: it takes no more work, finishes what runs, and ends with 0. A second one ends it at
    once; what it was doing goes back to the queue.
    """
    from praxis_sdk.cli.metrics_page import read_address
    from praxis_sdk.cli.terminal import logging as logs
    from praxis_sdk.cli.worker_service import WorkerRequest, serve

    streams: Streams = context.obj
    logs.configure(verbose=verbose, unset="" if quiet else "text")
    amounts = {
        "cpu_cores": cpu,
        "memory_mb": _mib(memory, "--memory"),
        "network_mbps": network,
        "gpus": gpus,
        "storage_mb": _mib(storage, "--storage"),
    }
    request = WorkerRequest(
        drain=drain,
        slots=slots,
        most_slots=_most_slots(slots, max_slots),
        offered={name: amount for name, amount in amounts.items() if amount is not None},
        job_limits=job_limit or (),
        metrics=read_address(metrics_port) if metrics_port is not None else None,
    )
    chosen = ChosenStore.of_user(store)
    chosen.home.job_limits(job_limit or ())  # a mistake is told before anything begins
    streams.reserve_stdout()

    def say(line: str) -> None:
        if not quiet:
            streams.say(line)

    return serve(chosen, request, say)


def _most_slots(slots: int | None, max_slots: int | None) -> int:
    if max_slots is None:
        return 0
    if slots is None or max_slots < slots:
        raise ValidationError(
            f"--max-slots: {max_slots} goes with fewer --slots to begin with",
            remedy="give both, such as 8 and 64",
        )
    return max_slots


def _mib(text: str | None, option: str) -> int | None:
    from praxis_sdk.units import parse_bytes

    if text is None:
        return None
    try:
        return max(1, parse_bytes(text) // _MIB)
    except ValueError as error:
        raise ValidationError(f"{option}: {error}") from error
