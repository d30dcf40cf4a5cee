"""Logging: configured here and nowhere below. Silent unless asked for, and only ever on stderr.

    praxis run --verbose ...         lines of key=value
    PRAXIS_LOG=text praxis ...       the same, for any command
    PRAXIS_LOG=json praxis ...       lines of JSON, for collectors

Arguments and environments are in none of them.
"""

from __future__ import annotations

import contextlib
import logging
import os
from typing import TYPE_CHECKING, Any, Final, NoReturn, TextIO, cast

from praxis_sdk.cli.terminal.streams import STDERR, write_fully
from praxis_sdk.errors import ValidationError

if TYPE_CHECKING:
    from structlog.typing import Processor

_VARIABLE: Final = "PRAXIS_LOG"


def configure(*, verbose: bool = False, unset: str = "") -> None:
    """Set up structlog and the standard library's logging for this process.

    Args:
        verbose: show everything; otherwise `PRAXIS_LOG` says what is shown.
        unset: what counts where `PRAXIS_LOG` says nothing.

    Raises:
        ValidationError: `PRAXIS_LOG` has a value that is not known.
    """
    form = os.environ.get(_VARIABLE, "").strip().lower() or unset
    if form not in ("", "text", "json"):
        raise ValidationError(
            f"{_VARIABLE}: {form[:40]!r} is not a form of logging", remedy="use 'json' or 'text'"
        )
    import structlog

    if not verbose and not form:
        structlog.configure(
            processors=[_drop], wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL)
        )
        logging.root.handlers[:] = [logging.NullHandler()]
        return
    level = logging.DEBUG if verbose else logging.INFO
    stderr = cast("TextIO", _Stderr())
    renderer: Processor = (
        structlog.processors.JSONRenderer()
        if form == "json"
        else structlog.processors.KeyValueRenderer(key_order=["timestamp", "level", "event"])
    )
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    structlog.configure(
        processors=[*shared, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(file=stderr),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    logging.root.handlers[:] = [handler]
    logging.root.setLevel(logging.WARNING)  # below it libraries may tell arguments and secrets


class _Stderr:
    """A file for loggers that never fails: no run ends because nobody reads its log."""

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError):
            write_fully(STDERR, text.encode(errors="backslashreplace"))
        return len(text)

    def flush(self) -> None:
        """Nothing is held back."""


def _drop(_logger: object, _method: str, _event: object) -> NoReturn:
    import structlog

    raise structlog.DropEvent
