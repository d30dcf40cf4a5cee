"""Tables for people: as wide as their terminal; one line per row where nobody looks."""

from __future__ import annotations

import io
import os
import shutil
from collections.abc import Mapping, Sequence
from typing import Final

from praxis_sdk.cli.terminal.streams import Streams, in_colour
from praxis_sdk.cli.terminal.untrusted_text import one_line

_UNLIMITED_WIDTH: Final = 10_000
_COLOUR: Final[Mapping[str, str]] = {"yes": "green", "no": "red", "missing": "red"}


def render(streams: Streams, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Lay out a table.

    Args:
        streams: where it will be shown.
        columns: the headings.
        rows: a text per column; made safe here.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    people = os.isatty(streams.result_fd)
    file = io.StringIO()
    console = Console(
        file=file,
        width=_width(people=people),
        force_terminal=in_colour(streams.result_fd),
        markup=False,
        emoji=False,
        highlight=False,
        legacy_windows=False,
    )
    table = Table(box=box.SIMPLE_HEAD if people else None, pad_edge=False, show_edge=False)
    for column in columns:
        table.add_column(Text(column), overflow="fold", header_style="bold")
    for row in rows:
        table.add_row(*(Text(one_line(" ".join(cell.split())), style=_COLOUR.get(cell, "")) for cell in row))
    console.print(table)
    return "\n".join(line.rstrip() for line in file.getvalue().splitlines()) + "\n"


def _width(*, people: bool) -> int:
    if people or os.environ.get("COLUMNS", "").isdigit():
        return max(shutil.get_terminal_size().columns, 40)
    return _UNLIMITED_WIDTH
