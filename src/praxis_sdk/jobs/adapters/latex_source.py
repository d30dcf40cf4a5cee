r"""What a piece of LaTeX is: a document, a formula, or text with formulas in it; pure, from the source alone.

Read is what TeX would read: comments, escaped characters, verbatim text and what stands in `\text{...}` do not count.
The first thing that decides, decides: a dollar sign or an environment of text means text, an environment that exists
only inside formulas, such as `pmatrix` or `aligned`, means that all of it is a formula.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class Mode(StrEnum):
    """How a source is set."""

    DOCUMENT = "document"  # as it is
    FORMULA = "formula"  # between the dollar signs of a box
    ALIGNED = "aligned"  # a formula of several lines
    LINE = "line"  # text in a box of its own width, or of a page's where it is wider
    PARAGRAPHS = "paragraphs"  # text in a box of a page's width


# Environments that exist only inside of formulas; also with a star where amsmath or mathtools has one.
_OF_FORMULAS: Final = re.compile(
    r"([pbBvV]|small|psmall|bsmall|vsmall)?matrix|[drc]?r?cases|numcases|array|subarray|aligned(at)?|[lr]?gathered|"
    r"multlined|split|CD"
)
_BOXES: Final = frozenset({"tabular", "tabular*", "tikzpicture", "picture", "minipage", "math"})
# Commands whose argument is text, wherever they stand.
_OF_TEXT: Final = re.compile(
    r"text(rm|bf|it|sf|tt|sc|normal)?|[mhf]box|makebox|parbox|emph|(short)?intertext|tag|label|(eq)?ref|cite|operatorname"
)
_TOKEN: Final = re.compile(
    r"(?P<comment>%[^\n]*\n?)|\\(?P<word>[A-Za-z@]+)\*?|\\(?P<symbol>.)|(?P<blank>\n[ \t]*\n)|(?P<other>[{}$&])",
    re.DOTALL,
)
_ENVIRONMENT: Final = re.compile(r"[ \t]*\{([A-Za-z]+\*?)\}")


@dataclass(frozen=True)
class _Token:
    kind: str
    text: str
    start: int
    end: int
    depth: int  # of braces around it


@dataclass(frozen=True)
class LatexSource:
    """A source, and how it is to be set.

    Args:
        mode: what it is.
        text: what TeX reads, line by line where the source has it.
    """

    mode: Mode
    text: str


def understand(code: str) -> LatexSource:
    """Say what a source is, and return it without the delimiters that only say the same."""
    tokens = list(_tokens(code))
    for token in tokens:
        if token.kind == "word" and token.text in ("documentclass", "documentstyle"):
            return LatexSource(Mode.DOCUMENT, code)
        if token.kind == "begin" and token.text == "document":
            return LatexSource(Mode.DOCUMENT, rf"\documentclass{{article}}{code}")
    whole = _without_delimiters(code, tokens)
    if whole is not None:
        return _formula(whole)
    decisive = next((token for token in tokens if _decides(token)), None)
    if decisive is None or (decisive.kind == "begin" and _OF_FORMULAS.fullmatch(decisive.text.rstrip("*"))):
        return _formula(code)
    lists = any(
        token.kind in ("blank", "display") or (token.kind == "begin" and token.text not in _BOXES)
        for token in tokens
    )
    broken = any(token.kind == "symbol" and token.text == "\\" and not token.depth for token in tokens)
    boxed = any(token.kind == "begin" for token in tokens)
    return LatexSource(Mode.PARAGRAPHS if lists or (broken and not boxed) else Mode.LINE, code.strip("\n"))


def _decides(token: _Token) -> bool:
    if token.kind == "begin":
        return True
    return token.kind == "display" or (token.text in ("$", "(") and token.kind in ("other", "symbol"))


def _formula(code: str) -> LatexSource:
    r"""Return a formula: without empty lines, which none may have, and in lines where `\\` or `&` asks for them."""
    text = "\n".join(line if line.strip() else "%" for line in code.split("\n"))
    open_environments = 0
    lines = False
    for token in _tokens(code):
        if token.kind == "begin":
            if not open_environments and token.text == "split":  # it needs a display around it
                text = text.replace("{split}", "{aligned}")
            open_environments += 1
        elif token.kind == "end":
            open_environments -= 1
        elif not open_environments and not token.depth:
            lines |= token.text in ("\\", "&") and token.kind in ("symbol", "other")
    return LatexSource(Mode.ALIGNED if lines else Mode.FORMULA, text)


def _without_delimiters(code: str, tokens: list[_Token]) -> str | None:
    r"""Return what is inside of `\[...\]` or `$$...$$` that is all there is; None where it is not."""
    found = [token for token in tokens if token.kind in ("display", "other", "symbol", "blank", "comment")]
    marks = [token for token in found if token.kind == "display"]
    if len(marks) != 2 or (marks[0].text, marks[1].text) not in (("[", "]"), ("$$", "$$")):
        return None
    outside = code[: marks[0].start], code[marks[1].end :]
    if any(re.sub(r"%[^\n]*", "", text).strip() for text in outside):
        return None
    if any(token.text == "$" and marks[0].end <= token.start < marks[1].start for token in found):
        return None
    return f"{outside[0]}{code[marks[0].end : marks[1].start]}{outside[1]}"


def _tokens(code: str) -> Iterator[_Token]:
    """Go through what matters, and over comments, verbatim text and the text inside of formulas."""
    at, depth = 0, 0
    while match := _TOKEN.search(code, at):
        start, at = match.span()
        kind = str(match.lastgroup)
        text = match[kind]
        if kind == "comment":
            yield _Token(kind, "", start, at, depth)
        elif kind == "blank":
            at -= 1  # the second line end may begin another one
            if code[:start].strip() and code[at:].strip():
                yield _Token(kind, "", start, at, depth)
        elif kind == "symbol":
            yield _Token("display" if text in "[]" else kind, text, start, at, depth)
        elif kind == "word":
            if text in ("begin", "end") and (named := _ENVIRONMENT.match(code, at)):
                at = named.end()
                yield _Token(text, named[1], start, at, depth)
                if text == "begin" and named[1].rstrip("*") in ("verbatim", "lstlisting"):
                    at = max(at, code.find(rf"\end{{{named[1]}}}", at))
            elif text == "verb" and at < len(code):
                closing = code.find(code[at], at + 1)
                at = closing + 1 if closing > 0 else at
            elif _OF_TEXT.fullmatch(text):
                yield _Token(kind, text, start, at, depth)
                at = _after_group(code, at)
            else:
                yield _Token(kind, text, start, at, depth)
        elif text in "{}":
            depth += 1 if text == "{" else -1
        elif text == "$" and code.startswith("$$", start):
            at = start + 2
            yield _Token("display", "$$", start, at, depth)
        else:
            yield _Token(kind, text, start, at, depth)


def _after_group(code: str, at: int) -> int:
    """Return the place behind the group in braces that begins there; the same place where none does."""
    opening = re.compile(r"[ \t]*(\[[^\]]*\][ \t]*)?\{").match(code, at)
    if opening is None:
        return at
    depth = 0
    for brace in re.compile(r"\\.|[{}]", re.DOTALL).finditer(code, opening.end() - 1):
        depth += {"{": 1, "}": -1}.get(brace[0], 0)
        if depth == 0:
            return brace.end()
    return len(code)
