"""YAML as people write it, read into plain JSON data that remembers its lines.

The text may come from a stranger, so everything has a limit: bytes, nesting, the number of values
(also of those that aliases repeat). Tags build nothing. Values mean what they mean in YAML 1.1 as
PyYAML reads it, except where that surprises authors: a key is the text that stands there (`on`, `1`),
dates stay text, and only plain decimals are numbers (`0755`, `1:30` and `1_000` stay text).
"""

from __future__ import annotations

import math
import os
import re
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from praxis_sdk.execution.contract.problems import (
    ContractError,
    DocumentPath,
    Problem,
    field_name,
    is_secret,
    one_line,
)

SEVERAL_DOCUMENTS: Final = "holds several documents"
MAX_BYTES: Final = 1 << 20
MAX_VALUES: Final = 20_000
MAX_DEPTH: Final = 50

_TAG: Final = "tag:yaml.org,2002:"
_FLAGS: Final = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
_INTEGER: Final = re.compile(r"^[-+]?(?:0|[1-9][0-9]*)\Z")
_FLOAT: Final = re.compile(
    r"^(?:[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))\Z"
)
_BOOLEAN: Final = re.compile(
    r"^(?:true|True|TRUE|false|False|FALSE|yes|Yes|YES|no|No|NO|on|On|ON|off|Off|OFF)\Z"
)
_NULL: Final = re.compile(r"^(?:~|null|Null|NULL|)\Z")
_MAX_NUMBER_CHARS: Final = 40


@dataclass(frozen=True)
class YamlDocument:
    """One YAML document as plain data.

    Args:
        source: the file, as people call it.
        value: mappings with text as keys, lists, text, finite numbers, booleans, None.
        lines: line of each key and list item, by its path.
        problems: what could not be read; `value` goes on without it.
    """

    source: str
    value: Any
    lines: Mapping[DocumentPath, int]
    problems: tuple[Problem, ...]

    def line_of(self, path: DocumentPath) -> int:
        """Return the line of what stands at a path, or of the nearest thing around it."""
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path, 1)


def read_text(path: Path) -> str:
    """Read a contract's file.

    Raises:
        ContractError: it is missing, unreadable, not a regular file, too large, or not UTF-8.
    """
    data = _read_bytes(path)
    source = str(path)
    if data.startswith((b"\xff\xfe", b"\xfe\xff", b"\x00\x00\xfe\xff")):
        raise ContractError(
            [Problem(source, 1, "", "is UTF-16 or UTF-32, not UTF-8", "save the file as UTF-8")]
        )
    if b"\0" in data:
        line = data[: data.index(b"\0")].count(b"\n") + 1
        raise ContractError([Problem(source, line, "", "holds a NUL byte", "save the file as UTF-8 text")])
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        message = f"is not UTF-8: byte 0x{data[error.start]:02x} has no meaning there"
        raise ContractError([Problem(source, line, "", message, "save the file as UTF-8")]) from error


def _read_bytes(path: Path) -> bytes:
    def refuse(message: str, remedy: str) -> ContractError:
        return ContractError([Problem(str(path), None, "", message, remedy)])

    try:
        # Without O_NONBLOCK, opening a named pipe would wait for its writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise refuse("no such file", "check the path") from error
    except (OSError, ValueError) as error:
        reason = (getattr(error, "strerror", None) or str(error)).lower()
        raise refuse(f"cannot be read: {reason}", "check the path and its permissions") from error
    try:
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISDIR(mode):
            raise refuse("is a directory", "name a file in it, for example contract.yaml")
        if not stat.S_ISREG(mode):
            raise refuse("is not a regular file", "name a file")
        with open(descriptor, "rb", closefd=False) as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise refuse(f"cannot be read: {(error.strerror or '').lower()}", "check the file") from error
    finally:
        os.close(descriptor)
    if len(data) > MAX_BYTES:
        raise refuse(
            f"is larger than {MAX_BYTES >> 20} MiB", "a contract is a few lines; is this the right file?"
        )
    return data


def read_yaml(text: str, source: str, *, text_at: Callable[[DocumentPath], bool]) -> YamlDocument:
    """Read a YAML text with one document in it.

    Args:
        text: the YAML text.
        source: the file it is from, for messages.
        text_at: tells at which paths unquoted numbers and booleans are text (`1.10`, `yes`, `022`).

    Raises:
        ContractError: it is too large, not YAML, not one document, or built to exhaust its reader. What
            is wrong with single values is in the result's `problems`.
    """
    if len(text) > MAX_BYTES:
        message = f"is larger than {MAX_BYTES >> 20} MiB"
        raise ContractError([Problem(source, None, "", message, "a contract is a few lines")])
    node = _compose(text, source)
    if node is None:
        raise ContractError([Problem(source, 1, "", "is empty", "write a contract into it")])
    construction = _Construction(source, text_at)
    value = construction.value(node, ())
    return YamlDocument(source, value, construction.lines, tuple(construction.problems))


def _compose(text: str, source: str) -> Node | None:
    try:
        loader = _Loader(text.removeprefix("\ufeff"))
        node: Node | None = loader.get_single_node()
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        message = f"holds the character U+{int(error.character):04X}, which YAML does not allow"
        raise ContractError([Problem(source, line, "", message, "remove it")]) from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        message, remedy = _plain_words(error)
        raise ContractError([Problem(source, line, "", f"{message}, at column {column}", remedy)]) from error
    return node


class _Loader(yaml.SafeLoader):
    """PyYAML's parser with limits, and with the scalar types that this module documents."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 - as PyYAML declares it

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = 0
        self._count = 0

    def compose_node(self, parent: Node | None, index: Any) -> Node | None:
        """Compose a node, unless it is one too many or one too deep."""
        self._depth += 1
        self._count += 1
        if self._depth > MAX_DEPTH or self._count > MAX_VALUES:
            limit = f"{MAX_DEPTH} levels" if self._depth > MAX_DEPTH else f"{MAX_VALUES} values"
            raise yaml.MarkedYAMLError(
                problem=f"{_TOO_MUCH} {limit}",
                problem_mark=self.peek_event().start_mark,  # type: ignore[no-untyped-call]
            )
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node


_Loader.add_implicit_resolver(_TAG + "bool", _BOOLEAN, list("yYnNtTfFoO"))
_Loader.add_implicit_resolver(_TAG + "float", _FLOAT, list("-+0123456789."))
_Loader.add_implicit_resolver(_TAG + "int", _INTEGER, list("-+0123456789"))
_Loader.add_implicit_resolver(_TAG + "null", _NULL, ["~", "n", "N", ""])
_Loader.add_implicit_resolver(_TAG + "merge", re.compile(r"<<$"), ["<"])


class _Construction:
    """The making of plain data from one document's nodes."""

    def __init__(self, source: str, text_at: Callable[[DocumentPath], bool]) -> None:
        self.lines: dict[DocumentPath, int] = {}
        self.problems: list[Problem] = []
        self._source = source
        self._text_at = text_at
        self._count = 0
        self._open: set[int] = set()

    def value(self, node: Node, path: DocumentPath) -> Any:
        """Make the value of a node; where that is impossible, note the problem and return None."""
        line = self.lines.setdefault(path, _line(node))
        self._spend(path, line)
        if isinstance(node, ScalarNode):
            return self._scalar(node, path)
        if id(node) in self._open:
            self._note(path, "an alias in it refers to itself", "remove the alias")
            return None
        if node.tag not in (_TAG + "map", _TAG + "seq"):
            return self._refuse_tag(node, path)
        self._open.add(id(node))
        try:
            if isinstance(node, MappingNode):
                return self._mapping(node, path)
            items = node.value if isinstance(node, SequenceNode) else []
            return [self.value(item, (*path, index)) for index, item in enumerate(items)]
        finally:
            self._open.discard(id(node))

    def _mapping(self, node: MappingNode, path: DocumentPath) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for key, (line, value_node) in self._entries(node, path).items():
            self.lines[*path, key] = line
            result[key] = self.value(value_node, (*path, key))
        return result

    def _entries(self, node: MappingNode, path: DocumentPath) -> dict[str, tuple[int, Node]]:
        """Collect a mapping's own entries, then those it merges (`<<`) and does not have itself."""
        entries: dict[str, tuple[int, Node]] = {}
        merged: list[Node] = []
        for key_node, value_node in node.value:
            self._spend(path, _line(key_node))
            if key_node.tag == _TAG + "merge":
                merged += value_node.value if isinstance(value_node, SequenceNode) else [value_node]
                continue
            key = self._key(key_node, path)
            if key is None:
                continue
            if key in entries:
                message = f"given twice, first in line {entries[key][0]}"
                self._note((*path, key), message, "keep one of them", line=_line(key_node))
                continue
            entries[key] = (_line(key_node), value_node)
        for other in merged:
            if not isinstance(other, MappingNode) or id(other) in self._open:
                self._note(path, "'<<' can only merge other mappings", "give it an alias of a mapping")
                continue
            self._open.add(id(other))
            for key, entry in self._entries(other, path).items():
                entries.setdefault(key, entry)
            self._open.discard(id(other))
        return entries

    def _key(self, node: Node, path: DocumentPath) -> str | None:
        if not isinstance(node, ScalarNode):
            kind = "a mapping" if isinstance(node, MappingNode) else "a list"
            remedy = "put quotes around text that begins with '{' or '['"
            self._note(path, f"{kind} cannot be a key", remedy, line=_line(node))
            return None
        if not node.tag.startswith(_TAG) or node.tag.startswith(_TAG + "python"):
            self._refuse_tag(node, path)
            return None
        return self._text(node.value, path)

    def _scalar(self, node: ScalarNode, path: DocumentPath) -> Any:
        kind = node.tag.removeprefix(_TAG)
        text: str = node.value
        plain_text = node.style is None and kind in ("bool", "int", "float") and self._text_at(path)
        if kind == "str" or plain_text:
            return self._text(text, path)
        if kind == "null":
            return None
        if kind == "bool" and text.lower() in _FLAGS:
            return _FLAGS[text.lower()]
        if kind in ("int", "float"):
            return self._number(kind, text, path)
        return self._refuse_tag(node, path)

    def _number(self, kind: str, text: str, path: DocumentPath) -> int | float | None:
        if len(text) <= _MAX_NUMBER_CHARS:
            if _INTEGER.fullmatch(text) and -(1 << 63) <= int(text) < 1 << 63:
                return int(text) if kind == "int" else float(text)
            if (
                _FLOAT.fullmatch(text)
                and not text.lower().endswith(("inf", "nan"))
                and math.isfinite(float(text))
            ):
                return float(text)
        self._note(path, "is not a number that can be used", "put quotes around it if it is meant as text")
        return None

    def _text(self, text: str, path: DocumentPath) -> str | None:
        try:
            text = text.encode("utf-16", "surrogatepass").decode(
                "utf-16"
            )  # joins pairs written as two escapes
        except UnicodeDecodeError:
            self._note(path, "holds half a character (a lone surrogate)", "remove the escape")
            return None
        if "\0" in text:
            self._note(path, "holds a NUL character", "remove the escape")
            return None
        return text

    def _refuse_tag(self, node: Node, path: DocumentPath) -> None:
        name = node.tag.replace(_TAG, "!!")
        shown = "a tag" if is_secret(path) else f"the tag '{name[:60]}'"
        remedy = (
            "remove it; a contract is plain data"
            if not is_secret(path)
            else "put quotes around text with '!'"
        )
        self._note(path, f"{shown} is not allowed", remedy, line=_line(node))

    def _spend(self, path: DocumentPath, line: int) -> None:
        """Count what aliases repeat as often as it is repeated."""
        self._count += 1
        if self._count > MAX_VALUES or len(path) > MAX_DEPTH:
            message = f"{_TOO_MUCH} {MAX_VALUES} values or {MAX_DEPTH} levels once its aliases are filled in"
            problem = Problem(self._source, line, field_name(path[:3]), message, _TOO_MUCH_REMEDY)
            raise ContractError([problem])

    def _note(self, path: DocumentPath, message: str, remedy: str, *, line: int | None = None) -> None:
        place = self.lines.get(path, 1) if line is None else line
        self.problems.append(Problem(self._source, place, field_name(path), message, remedy))


def _line(node: Node) -> int:
    return int(node.start_mark.line) + 1


_TOO_MUCH: Final = "holds more than"
_TOO_MUCH_REMEDY: Final = "a contract is a few lines; is this the right file?"
_UNCLOSED: Final = ("a quote or a bracket is not closed", "close it")
# How PyYAML's message begins -> what is said instead. Its own words may repeat a piece of the text, which
# may be a secret (`auth_token: *s3cret` is an unknown alias to YAML).
_WORDS: Final[tuple[tuple[str, tuple[str, str]], ...]] = (
    (_TOO_MUCH, ("", _TOO_MUCH_REMEDY)),
    ("found character '\\t'", ("a tab cannot be used here", "indent with spaces")),
    ("found character", ("text cannot begin with this character", "put quotes around it")),
    (
        "mapping values are not allowed",
        ("': ' is not allowed here", "check the indentation, or quote the text"),
    ),
    (
        "could not find expected ':'",
        ("a key is not followed by ':'", "write 'key: value'; check the indentation"),
    ),
    (
        "found undefined alias",
        ("'*' begins an alias that nothing defines", "put quotes around text with '*'"),
    ),
    ("found duplicate anchor", ("'&' defines the same anchor twice", "rename one, or quote text with '&'")),
    ("found undefined tag handle", ("'!' begins a tag that is not known", "put quotes around text with '!'")),
    ("found unexpected end of stream", _UNCLOSED),
    ("expected ',' or", _UNCLOSED),
    (
        "found unknown escape",
        ("an unknown escape in double quotes", "use single quotes, or write a backslash twice"),
    ),
    ("expected <block end>", ("does not line up with what is above", "check the indentation and the quotes")),
    ("but found another document", (SEVERAL_DOCUMENTS, "keep one contract in a file")),
)


def _plain_words(error: yaml.MarkedYAMLError) -> tuple[str, str]:
    problem = str(error.problem or error.context or "")
    for beginning, (message, remedy) in _WORDS:
        if problem.startswith(beginning) or str(error.context).startswith(beginning):
            return message or problem, remedy
    return "is not YAML: " + re.sub(
        r"'[^']{3,}'|\"[^\"]{3,}\"", "this", one_line(problem)
    ), "check the syntax"
