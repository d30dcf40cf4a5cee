"""A notebook as a script: its cells in order, each shown as a notebook shows it."""

from __future__ import annotations

import ast
import linecache
import sys
import traceback

from praxis_sdk.jobs.harness import figures, script
from praxis_sdk.jobs.harness.notebook import Cell, NotebookError, read_cells

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class Notebook(script.Script):
    """Cells that are about to run, in one module and one event loop.

    The source is the notebook's file. Parameters are names after the cell with the tag `parameters`, as papermill has
    it, and all of them are in `parameters`.
    """

    def run(self) -> tuple[Any, bool]:
        """Run all cells; the value is that of the last one. See `Script.run`."""
        try:
            cells = read_cells(self.source.encode("utf-8", "surrogatepass"))
        except NotebookError as problem:
            raise script.BadParameter(f"files.{self.name}: {problem}") from None
        tagged = any(cell.holds_parameters for cell in cells)
        if self.parameters and not tagged and not any("parameters" in cell.source for cell in cells):
            name = next(iter(self.parameters))
            raise script.BadParameter(
                f"parameters.{name}: no cell has the tag 'parameters'; give one the tag, or read parameters[{name!r}]"
            )
        sys.modules["__main__"] = self.module
        self.module.display = display
        if sys.excepthook is sys.__excepthook__:
            sys.excepthook = (
                traceback.print_exception
            )  # the interpreter's own looks for files of the cells' names
        value, flags = None, 0
        try:
            for cell in cells:
                if value is not None:
                    display(value)
                value, flags = self._run_cell(cell, flags)
                if cell is not cells[-1]:
                    figures.save_open()
        finally:
            if self._runner is not None:
                self._runner.close()
        return value, False

    def _run_cell(self, cell: Cell, flags: int) -> tuple[Any, int]:
        """Run a cell; returns the value that it shows, and the features of `__future__` from here on."""
        self.name = (
            f"{self.module.__file__.rpartition('/')[2]}, cell {cell.number}"  # what tracebacks call it
        )
        lines = cell.source.splitlines(keepends=True)
        linecache.cache[self.name] = (len(cell.source), None, lines, self.name)
        tree: Any = compile(cell.source, self.name, "exec", ast.PyCF_ONLY_AST | flags, dont_inherit=True)
        body = tree.body
        last = body.pop() if body and isinstance(body[-1], ast.Expr) else None
        code = self._compile(body, flags)
        flags = code.co_flags & script.FUTURES
        ending = None if last is None else self._compile(last.value, flags)
        self._evaluate(code)
        value = None if ending is None else self._evaluate(ending)
        if cell.holds_parameters:
            vars(self.module).update(self.parameters)
        return (None if cell.source.rstrip().endswith(";") else value), flags


def display(*values: Any) -> None:
    """Show values as a notebook does where it has nothing but text."""
    for value in values:
        if type(value).__name__ == "Figure" and hasattr(value, "savefig"):
            figures.save_one(value)
        else:
            print(repr(value))
