"""The entry of the command: whatever happens ends as an exit status and at most one line of error.

    exit status   the tool's own (124 timed out, 128+N killed by signal N, 130 cancelled),
                  2 the user's mistake, 3 the platform's failure, 141 the reader of stdout is gone

What is imported here is what every call pays for.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Final

EXIT_INTERRUPTED: Final = 130
EXIT_OUTPUT_CLOSED: Final = 141  # what a shell shows for SIGPIPE


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command `praxis`.

    Args:
        arguments: what follows the command's name; the process's own where missing.

    Returns:
        The exit status.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        return _run(words)
    except KeyboardInterrupt:  # before anything was started
        return EXIT_INTERRUPTED


def _run(words: Sequence[str]) -> int:
    from praxis_sdk.cli.terminal.streams import OutputClosed, Streams, open_missing

    open_missing()
    streams = Streams()
    try:
        try:
            return _invoke(words, streams)
        except OutputClosed:
            raise
        except Exception as error:  # noqa: BLE001  (the last place where an error can be told)
            from praxis_sdk.cli.terminal.failures import report

            # The command line itself may be what is wrong, so its words are asked, not its parser.
            options = words[: words.index("--")] if "--" in words else words
            debug = bool(os.environ.get("PRAXIS_DEBUG")) or not {"--verbose", "-v"}.isdisjoint(options)
            return report(error, streams, as_json="--json" in options, debug=debug)
    except OutputClosed:
        return EXIT_OUTPUT_CLOSED


def _invoke(words: Sequence[str], streams: object) -> int:
    from typer.main import get_command

    from praxis_sdk.cli.app import app

    status = get_command(app).main(args=words, prog_name="praxis", standalone_mode=False, obj=streams)
    return status if isinstance(status, int) else 0
