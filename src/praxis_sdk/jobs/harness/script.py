"""The job's code as a script: run in a fresh `__main__`, with its parameters used or refused.

The value is that of the last expression, or what `main` returns. Nothing of the code has run when a SyntaxError or a
parameter that it would not see is told.
"""

from __future__ import annotations

import ast
import builtins
import importlib.machinery
import linecache
import re
import sys
import types

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

FUTURES = 0x1FE0000  # the bits of a code object that `from __future__ import` sets (PyCF_MASK)
_COROUTINE, _TAKES_KEYWORDS = 0x80, 0x08
_Definition = (ast.FunctionDef, ast.AsyncFunctionDef)


class BadParameter(Exception):
    """The code would not see a parameter."""


class Script:
    """Code that is about to run.

    Args:
        name: the name of its file, in the working directory.
        source: its text.
        folder: the working directory.
        parameters: what it may find by name in `main`, and all of it as `parameters`.
        inputs: what it finds as `inputs`.
        package: the package that it is a module of; empty for a script.
    """

    def __init__(
        self,
        name: str,
        source: str,
        folder: str,
        parameters: dict[str, Any],
        inputs: dict[str, Any],
        *,
        package: str = "",
    ) -> None:
        self.name = name
        self.source = source
        self.parameters = parameters
        module = _ready.pop() if _ready else _main_module()
        module.__file__ = module.__loader__.path = f"{folder}/{name}"
        module.parameters = parameters
        module.inputs = inputs
        if package:  # as `python -m`: relative imports work
            module.__package__ = package
        self.module = module
        self._runner: Any = None

    def run(self) -> tuple[Any, bool]:
        """Run it all.

        Returns:
            The value, and whether the code returned it (from `main`) rather than happened to end with it.

        Raises:
            BadParameter: a parameter would not be used.
        """
        if self.module.__package__:
            __import__(self.module.__package__)  # as `python -m`: what the package does comes first
        sys.modules["__main__"] = self.module
        lines = self.source.splitlines(keepends=True)
        linecache.cache[self.name] = (len(self.source), None, lines, self.name)
        # Not `ast.parse`, whose frame would show in the traceback of a SyntaxError.
        tree: Any = compile(self.source, self.name, "exec", ast.PyCF_ONLY_AST, dont_inherit=True)
        body = tree.body
        last = body.pop() if body and isinstance(body[-1], ast.Expr) else None
        runs_itself, defined = False, None
        if "main" in self.source:
            whole = body if last is None else [*body, last]
            runs_itself = any(True for _ in _calls_of_main(whole)) or any(map(_is_main_guard, body))
            defined = next((at for at in reversed(range(len(body))) if _defines_main(body[at])), None)
        if self.parameters and not self._reads_parameters():
            whole = body if last is None else [*body, last]
            check_parameters(
                body, whole, defined, self.parameters, runs_itself=runs_itself, source=self.source
            )
        split = 0 if defined is None or not (self.parameters and runs_itself) else defined + 1
        flags, pieces = 0, []
        for piece in (body[:split], body[split:]):
            if piece:
                pieces.append(self._compile(piece, flags))
                flags |= pieces[-1].co_flags & FUTURES
        ending = None if last is None else self._compile(last.value, flags)
        try:
            for piece in pieces:
                self._evaluate(piece)
                if split and piece is pieces[0]:
                    _set_defaults(self.module.main, self.parameters, tolerant=self._reads_parameters())
            if ending is not None and (value := self._evaluate(ending)) is not None:
                return value, False
            entry = getattr(self.module, "main", None)
            if isinstance(entry, types.FunctionType) and not runs_itself:
                return self._finished(self._call(entry)), True
            return None, False
        finally:
            if self._runner is not None:
                self._runner.close()

    def _reads_parameters(self) -> bool:
        return re.search(r"\bparameters\b", self.source) is not None

    def _compile(self, what: list[ast.stmt] | ast.expr, flags: int = 0) -> types.CodeType:
        flags |= ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
        mode = "exec" if isinstance(what, list) else "eval"
        tree = ast.Module(what, []) if isinstance(what, list) else ast.Expression(what)
        code: types.CodeType = compile(tree, self.name, mode, flags, dont_inherit=True)
        return code

    def _evaluate(self, code: types.CodeType) -> Any:
        value = eval(code, self.module.__dict__)
        return self._finished(value)

    def _finished(self, value: Any) -> Any:
        """Wait for a coroutine; all of them run in one event loop."""
        if type(value) is not types.CoroutineType:
            return value
        import asyncio

        if self._runner is None:
            self._runner = asyncio.Runner()
        return self._runner.run(value)

    def _call(self, entry: types.FunctionType) -> Any:
        """Call `main` with the parameters that it takes."""
        code, given = entry.__code__, dict(self.parameters)
        if not code.co_flags & _TAKES_KEYWORDS:
            names = _names(code)
            unknown = [name for name in given if name not in names]
            if unknown and not self._reads_parameters():
                raise BadParameter(_unknown(unknown[0], names))
            given = {name: value for name, value in given.items() if name in names}
        first = []
        for name in code.co_varnames[: code.co_posonlyargcount]:
            if name not in given:
                break
            first.append(given.pop(name))
        return entry(*first, **given)


_ready: list[Any] = []


def make_ready() -> None:
    """Have a `__main__` there for the next script: a fork gets it from its zygote for less than it takes to make it."""
    if not _ready:
        _ready.append(_main_module())


def _main_module() -> Any:
    module: Any = types.ModuleType("__main__")
    module.__builtins__ = builtins
    module.__annotations__ = {}
    module.__cached__ = None
    module.__file__ = module.parameters = module.inputs = None
    module.__loader__ = importlib.machinery.SourceFileLoader("__main__", "")
    return module


def check_parameters(
    body: list[ast.stmt],
    whole: list[ast.stmt],
    defined: int | None,
    parameters: dict[str, Any],
    *,
    runs_itself: bool,
    source: str,
) -> None:
    """Refuse parameters that code which does not read `parameters` would not see; raises BadParameter."""
    if defined is None:
        if re.search(r"\bmain\b", source.replace("__main__", "")) is None:
            name = next(iter(parameters))
            raise BadParameter(
                f"parameters.{name}: the code takes none; give it a function main({name}), or read parameters[{name!r}]"
            )
        if not runs_itself:
            return  # looked at when it is called
    definition = body[defined] if defined is not None else None
    arguments = definition.args if isinstance(definition, _Definition) else None
    if arguments is not None:
        named = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
        names = [one.arg for one in named]
        unknown = [name for name in parameters if name not in names]
        if unknown and (arguments.kwarg is None or runs_itself):
            raise BadParameter(_unknown(unknown[0], names))
    if not runs_itself:
        return
    calls = list(_calls_of_main(whole))
    positional = [] if arguments is None else [one.arg for one in (*arguments.posonlyargs, *arguments.args)]
    for name in parameters:
        if arguments is None or not calls or any(_passes(call, name, positional) for call in calls):
            raise BadParameter(
                f"parameters.{name}: the code calls main in its own way, and would not see it;"
                f" leave {name} out of that call, or read parameters[{name!r}]"
            )


def _unknown(name: str, names: list[str] | tuple[str, ...]) -> str:
    choices = ", ".join(names) or "nothing"
    return f"parameters.{name}: main takes no such parameter; it takes {choices}"


def _passes(call: ast.Call, name: str, positional: list[str]) -> bool:
    """Tell whether a call of main settles a parameter by itself, or may do so."""
    if any(isinstance(one, ast.Starred) for one in call.args):
        return True
    if name in positional[: len(call.args)]:
        return True
    return any(keyword.arg is None or keyword.arg == name for keyword in call.keywords)


def _calls_of_main(statements: list[ast.stmt]) -> Iterator[ast.Call]:
    """Find the calls of main that happen while the module runs, rather than in a function."""
    left: list[ast.AST] = list(statements)
    while left:
        node = left.pop()
        if isinstance(node, (*_Definition, ast.Lambda)):
            continue
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "main":
            yield node
        left += ast.iter_child_nodes(node)


def _is_main_guard(node: ast.stmt) -> bool:
    """Tell whether a statement is `if __name__ == "__main__":`, behind which the code runs itself."""
    return isinstance(node, ast.If) and "__name__" in ast.dump(node.test)


def _defines_main(node: ast.stmt) -> bool:
    return isinstance(node, _Definition) and node.name == "main"


def _names(code: types.CodeType) -> tuple[str, ...]:
    return code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]


def _set_defaults(entry: Any, parameters: dict[str, Any], *, tolerant: bool) -> None:
    """Make parameters the defaults of main, which the code will call by itself."""
    while not isinstance(entry, types.FunctionType) or hasattr(entry, "__wrapped__"):
        entry = getattr(entry, "__wrapped__", None)
        if entry is None:
            if tolerant:
                return
            name = next(iter(parameters))
            raise BadParameter(
                f"parameters.{name}: main is decorated, and would not see it; read parameters[{name!r}]"
            )
    code = entry.__code__
    names = code.co_varnames[: code.co_argcount]
    defaults = entry.__defaults__ or ()
    known = dict(zip(names[len(names) - len(defaults) :], defaults, strict=True))
    known.update((name, parameters[name]) for name in names if name in parameters)
    tail: list[Any] = []
    for name in reversed(names):
        if name not in known:
            break
        tail.insert(0, known[name])
    missed = [name for name in names[: len(names) - len(tail)] if name in parameters]
    if missed and not tolerant:
        after = names[names.index(missed[0]) + 1]
        raise BadParameter(f"parameters.{missed[0]}: main would not see it; give '{after}' a default, too")
    entry.__defaults__ = tuple(tail) or None
    only = code.co_varnames[code.co_argcount : code.co_argcount + code.co_kwonlyargcount]
    given = {name: parameters[name] for name in only if name in parameters}
    if given:
        entry.__kwdefaults__ = {**(entry.__kwdefaults__ or {}), **given}
