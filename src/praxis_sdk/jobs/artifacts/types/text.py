"""Formats that are text: HTML, SVG, XML, JSON, tables, plain text.

Browsers take a text for HTML by its beginning, so that is looked at first and as they do it
(WHATWG MIME Sniffing, section 7.1). JSON is what parses; a table is what has the same number of fields in
every row.
"""

from __future__ import annotations

import codecs
import csv
import json
import re
from collections.abc import Callable
from typing import Final
from xml.parsers import expat

SVG_NAMESPACE: Final = "http://www.w3.org/2000/svg"
MAX_PARSED_BYTES: Final = 1 << 20  # a longer JSON is judged by its two ends
_MAX_ROWS: Final = 1000
_BOMS: Final = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16le"),
    (codecs.BOM_UTF16_BE, "utf-16be"),
)
_BINARY: Final = re.compile("[\0-\x08\x0b\x0e-\x1a\x1c-\x1f]")
_HTML: Final = re.compile(
    r"(<!doctype html|<(html|head|script|iframe|h1|div|font|table|a|style|title|b|body|br|p)(?=[\s>/])|<!--)",
    re.IGNORECASE,
)
_XHTML: Final = "http://www.w3.org/1999/xhtml"
_DELIMITERS: Final = ((",", "csv"), ("\t", "tsv"), (";", "csv"))


def decode(head: bytes, tail: bytes, *, whole: bool) -> tuple[str, str] | None:
    """Return a text's beginning and its character set; None when the file is no text.

    Args:
        head: the file's beginning.
        tail: its end.
        whole: `head` is the whole file.
    """
    charset, skipped = next(((name, len(bom)) for bom, name in _BOMS if head.startswith(bom)), ("utf-8", 0))
    try:
        text = codecs.getincrementaldecoder(charset)().decode(head[skipped:], whole)
        end = "" if whole or charset != "utf-8" else _without_torn_start(tail).decode()
    except UnicodeDecodeError:
        return None
    if _BINARY.search(text) or _BINARY.search(end):
        return None
    return text, charset


def _without_torn_start(tail: bytes) -> bytes:
    """Drop the rest of a character whose beginning was cut off: at most three continuation bytes."""
    start = 0
    while start < min(3, len(tail)) and tail[start] & 0xC0 == 0x80:
        start += 1
    return tail[start:]


def identify(head: str, tail: str, read_all: Callable[[], bytes] | None) -> str:
    """Return a text's format: html, xhtml, svg, xml, json, jsonl, csv, tsv or txt.

    Args:
        head: its beginning.
        tail: its end, as far as it could be decoded.
        read_all: returns the whole file; None when it is too long for that.
    """
    start = head.lstrip(" \t\n\f\r")
    if start.startswith("<"):
        if _HTML.match(start):
            return _markup_root(start) if start.startswith("<!--") else "html"
        return _markup_root(start) if start.startswith(("<?xml", "<!DOCTYPE")) or _tag(start) else "txt"
    if start.startswith(("{", "[")):
        return _json(start, tail, read_all)
    return _table(head, whole=read_all is not None) or "txt"


def _tag(text: str) -> bool:
    return bool(re.match(r"<[A-Za-z_][\w.:-]*[\s>/]", text))


def _markup_root(text: str) -> str:
    """Name the format by the first element; text that is no XML but was taken for a page stays one."""
    names: list[str] = []
    parser = expat.ParserCreate(namespace_separator=" ")
    parser.StartElementHandler = lambda name, _: names.append(name)
    problem = False
    try:
        # Characters are fed as UTF-8 whatever the file's own encoding was; a declaration must not matter.
        parser.Parse(re.sub(r"^<\?xml[^>]*\?>", "", text), False)
    except (expat.ExpatError, ValueError, LookupError):
        problem = True
    if not names:
        return "html" if text.startswith("<!--") else "txt" if problem else "xml"
    namespace, _, local = names[0].rpartition(" ")
    if namespace == SVG_NAMESPACE or (local.lower() == "svg" and not namespace):
        return "svg"
    if namespace == _XHTML:
        return "xhtml"
    return "html" if text.startswith("<!--") else "xml"


def _json(head: str, tail: str, read_all: Callable[[], bytes] | None) -> str:
    if read_all is None:
        closed = tail.rstrip()[-1:] == ("}" if head[0] == "{" else "]")
        return "jsonl" if _json_lines(head, whole=False) else "json" if closed else "txt"
    document = read_all().decode("utf-8-sig", errors="replace")
    if _is_json(document):
        return "json"
    return "jsonl" if _json_lines(document, whole=True) else "txt"


def _json_lines(text: str, *, whole: bool) -> bool:
    lines = text.split("\n")
    if not whole or not lines[-1].strip():
        lines.pop()
    return len(lines) >= 2 and all(
        line.lstrip()[:1] in ("{", "[") and _is_json(line) for line in lines[:_MAX_ROWS]
    )


def _is_json(text: str) -> bool:
    try:
        json.loads(text, parse_int=len, parse_float=len, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return False
    return True


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _table(text: str, *, whole: bool) -> str | None:
    for delimiter, name in _DELIMITERS:
        if delimiter not in text:
            continue
        rows = text.splitlines(keepends=True)
        if not whole:
            rows.pop()
        try:
            counts = [
                len(row)
                for row, _ in zip(csv.reader(rows, delimiter=delimiter), range(_MAX_ROWS), strict=False)
                if row
            ]
        except csv.Error:
            continue
        if len(counts) >= 2 and counts[0] >= 2 and len(set(counts)) == 1:
            return name
    return None
