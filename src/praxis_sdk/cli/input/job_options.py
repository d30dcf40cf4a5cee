"""The options that describe a job, for every command that takes one."""

from __future__ import annotations

from typing import Annotated

import typer

Entrypoint = Annotated[
    str | None,
    typer.Option("--entrypoint", metavar="FILE", help="Of a folder: the file to run, such as pkg/main.py."),
]
Module = Annotated[
    str | None,
    typer.Option(
        "--module", "-m", metavar="MODULE", help="Of a folder: the module to run, as python -m does."
    ),
]
Stdin = Annotated[
    bool | None,
    typer.Option(
        "--stdin/--no-stdin",
        help="Hand standard input over; unless said, a file or a pipe is, and a terminal is not.",
        show_default=False,
    ),
]
Timeout = Annotated[
    str | None, typer.Option("--timeout", metavar="TIME", help="End it after this time: 90, 90s, 5m.")
]
CpuTime = Annotated[str | None, typer.Option("--cpu-time", metavar="TIME", help="Processor time.")]
CollectTime = Annotated[
    str | None,
    typer.Option("--collect-time", metavar="TIME", help="Processor time for reading what it leaves."),
]
Memory = Annotated[str | None, typer.Option("--memory", metavar="SIZE", help="Memory: 512M, 2G.")]
Processes = Annotated[
    int | None, typer.Option("--processes", metavar="N", help="Processes and threads at once.")
]
FileSize = Annotated[
    str | None, typer.Option("--file-size", metavar="SIZE", help="The largest file, inputs included.")
]
Files = Annotated[int | None, typer.Option("--files", metavar="N", help="Files and folders.")]
Scratch = Annotated[
    str | None, typer.Option("--scratch", metavar="SIZE", help="All files together, inputs included.")
]
StdoutLimit = Annotated[str | None, typer.Option("--stdout-limit", metavar="SIZE", help="Standard output.")]
StderrLimit = Annotated[str | None, typer.Option("--stderr-limit", metavar="SIZE", help="Standard error.")]
OutputLimit = Annotated[
    str | None, typer.Option("--output-limit", metavar="SIZE", help="The returned value.")
]
MaxArtifacts = Annotated[
    int | None, typer.Option("--max-artifacts", metavar="N", help="Number of artifacts.")
]
ArtifactBytes = Annotated[
    str | None, typer.Option("--artifact-bytes", metavar="SIZE", help="All artifacts together.")
]
