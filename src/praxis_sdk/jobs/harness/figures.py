"""Figures without a screen: what a window or a notebook would have shown becomes a file."""

from __future__ import annotations

import contextlib
import functools
import io
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_REHEARSALS = 3
_last = 0


def rehearse() -> None:
    """Draw something where the library is loaded, so that it has looked for its fonts before the first job draws."""
    agg: Any = sys.modules.get("matplotlib.backends.backend_agg")
    drawing: Any = sys.modules.get("matplotlib.figure")
    if agg is None or drawing is None:
        return
    with contextlib.suppress(Exception):  # the job that draws will hear of it
        for _ in range(_REHEARSALS):
            figure = drawing.Figure(figsize=(2, 2), dpi=50)
            figure.add_subplot().plot([0, 1], [0, 1])
            agg.FigureCanvasAgg(figure).print_png(io.BytesIO())
    # The files of fonts that it holds open are closed in a child; its own handler of forks forgets them there, too.
    with contextlib.suppress(AttributeError):
        sys.modules["matplotlib.font_manager"]._get_font.cache_clear()  # noqa: SLF001


def watch_figure(module: Any) -> None:
    """Have figures remember that the job saved them, and save those that it shows one by one."""
    save = module.Figure.savefig

    @functools.wraps(save)
    def savefig(self: Any, *args: Any, **keywords: Any) -> Any:
        self._praxis_saved = True
        return save(self, *args, **keywords)

    def show(self: Any, warn: bool = True) -> None:
        save_one(self, getattr(self, "number", 0))

    module.Figure.savefig = savefig
    module.Figure.show = show


def watch_pyplot(module: Any) -> None:
    """Have `show` end the figures that are there, as the closing of their windows does."""

    @functools.wraps(module.show)
    def show(*args: Any, **keywords: Any) -> None:
        stay = module.isinteractive() or not keywords.get("block", args[0] if args else True)
        for figure, number in _open_figures():
            save_one(figure, number)
        if not stay:
            module.close("all")

    module.show = show


def save_open() -> list[str]:
    """Save the figures that the job left open and did not save itself, and close them; returns the files' names."""
    pyplot = sys.modules.get("matplotlib.pyplot")
    if pyplot is None:
        return []
    still_open = _open_figures()
    names = [name for figure, number in still_open if (name := save_one(figure, number))]
    if still_open:
        pyplot.close("all")
    return names


def _open_figures() -> list[tuple[Any, int]]:
    managers = sys.modules["matplotlib._pylab_helpers"].Gcf.get_all_fig_managers()
    return [(manager.canvas.figure, manager.num) for manager in managers]


def save_one(figure: Any, number: int = 0) -> str:
    """Save a figure unless it has been; returns the file's name, or nothing."""
    global _last
    if getattr(figure, "_praxis_saved", False):
        return ""
    _last = max(_last + 1, number)
    name = free_name(f"figure-{_last}", "png")
    figure.savefig(name)
    return name


def free_name(stem: str, suffix: str) -> str:
    """Return a file name that nothing has yet."""
    name, count = f"{stem}.{suffix}", 1
    while os.path.lexists(name):
        count += 1
        name = f"{stem}-{count}.{suffix}"
    return name
