"""Shell scripts with `{{name}}` placeholders: each becomes a quoted reference to a variable.

The value itself is never put into the script, so it cannot become code. What has to be right is the
quoting around the reference, so the script is followed through its quotes, substitutions and comments:

    echo {{x}}          echo "${ARG_X-}"            a word of its own
    echo "a {{x}}"      echo "a ${ARG_X-}"          quotes are there already
    echo 'a {{x}}'      echo 'a '"${ARG_X-}"''      single quotes are left and entered again
    n=$(( {{n}} + 1 ))  n=$(( ${ARG_N-0} + 1 ))     whole numbers only: shells evaluate other text there
    # it's {{x}}        # it's x                    a comment

Where no reference is right (here-documents, backquotes, `${...}`, code for another shell or `eval`),
the placeholder is refused.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Final

PLACEHOLDER: Final = re.compile(r"\{\{\s*([^{}]+?)\s*\}\}")

# Text that a shell would read a second time, so that a value in it would be code after all.
_SECOND_READING: Final = re.compile(
    r"(?:^|[\n;&|({]|\b(?:then|do|else)\b)[ \t]*eval\s"
    r"|(?<![\w./-])(?:[\w./-]*/)?(?:ba|da|a|k|z)?sh(?:[ \t]+(?:[-+]\w*o[ \t]+\w+|[-+][\w-]+))*[ \t]+-\w*c\w*(?![\w-])"
)
_UNQUOTED: Final = ("", "$(", "(")
_ARITHMETIC: Final = ("((", "(((")  # the latter: parentheses in it


class PlaceholderRefused(ValueError):
    """No reference to a variable can stand where a placeholder stands."""


def fill_script(script: str, variable_of: Callable[[str], str], values: Mapping[str, Any]) -> str:
    """Put references to variables in place of `{{name}}` in a script for a POSIX shell.

    Args:
        script: the script.
        variable_of: says which variable holds an argument.
        values: the arguments that were given; others stand for empty text.

    Raises:
        PlaceholderRefused: a placeholder stands where a value could become code or be mangled.
    """
    pieces: list[str] = []
    contexts = _Contexts()
    end = 0
    second_reading = _SECOND_READING.search(script)
    for match in PLACEHOLDER.finditer(script):
        before = script[end : match.start()]
        contexts.read(before)
        if second_reading and second_reading.start() < match.start():
            raise PlaceholderRefused("stands in or behind code that a shell reads a second time")
        name = match[1]
        reference = f"${{{variable_of(name)}-}}" if name in values else ""
        pieces += [before, _quoted(reference, name, values.get(name), contexts)]
        contexts.follow_word()
        end = match.end()
    return "".join([*pieces, script[end:]])


def _quoted(reference: str, name: str, value: Any, contexts: _Contexts) -> str:
    if contexts.refusal:
        raise PlaceholderRefused(contexts.refusal)
    context = contexts.innermost
    if context in _UNQUOTED:
        return f'"{reference}"'
    if context == '"':
        return reference
    if context == "'":
        return f"'\"{reference}\"'"
    if context == "#":
        return re.sub(r"\W", "_", name)
    if context in _ARITHMETIC and (value is None or (isinstance(value, int) and not isinstance(value, bool))):
        return reference or "0"
    if context in _ARITHMETIC:
        raise PlaceholderRefused("stands in arithmetic, where only a whole number can")
    raise PlaceholderRefused("stands in ${...}" if context == "${" else "stands in backquotes; use $(...)")


class _Contexts:
    """The quotes and substitutions that are open at a place of a script, outermost first.

    Args:
        refusal: why nothing can be said any more; empty while all is clear.
    """

    def __init__(self) -> None:
        self.refusal = ""
        self._open: list[str] = []
        self._at_word_start = True

    @property
    def innermost(self) -> str:
        """The innermost one: a quote, '$(', '(', '((', '(((', '${', '`', '#', or '' for none."""
        return self._open[-1] if self._open else ""

    def follow_word(self) -> None:
        """Note that a word stands here, so that a '#' behind it begins no comment."""
        self._at_word_start = False

    def read(self, text: str) -> None:
        """Go on through the next piece of the script."""
        index = 0
        while index < len(text):
            index += self._step(text, index)
        if index > len(text):
            self.refusal = "stands behind a backslash"

    def _step(self, text: str, index: int) -> int:
        """Read one character or operator; return its length."""
        char, context = text[index], self.innermost
        at_word_start, self._at_word_start = self._at_word_start, char in " \t\n;&|()"
        if context == "#":
            if char == "\n":
                self._open.pop()
            return 1
        if context == "'":
            if char == "'":
                self._open.pop()
            return 1
        if char == "\\":
            return 2
        if context == '"' and char == '"':
            self._open.pop()
            return 1
        for opening in ("$((", "$(", "${"):
            if text.startswith(opening, index):
                self._open.append("((" if opening == "$((" else opening)
                self._at_word_start = True
                return len(opening)
        if char == "`":
            self._toggle_backquote()
            return 1
        if context == '"':
            return 1
        return self._step_unquoted(text, index, at_word_start)

    def _step_unquoted(self, text: str, index: int, at_word_start: bool) -> int:
        char, context = text[index], self.innermost
        if char == '"' or (char == "'" and not (context == "${" and '"' in self._open)):
            if char == "'" and text[index - 1 : index] == "$":
                self.refusal = "stands behind $'...', which shells read differently"
            self._open.append(char)
        elif context == "${":
            if char == "}":
                self._open.pop()
        elif context in _ARITHMETIC:
            return self._step_arithmetic(text, index)
        elif char == "#" and at_word_start and context in ("", "$(", "(", "`"):
            self._open.append("#")
        elif char == "(":
            double = text.startswith("((", index)
            self._open.append("((" if double else "(")
            return 2 if double else 1
        elif char == ")":
            if context in ("$(", "("):
                self._open.pop()
        elif text.startswith("<<<", index):
            return 3
        elif text.startswith("<<", index):
            self.refusal = "stands behind a here-document ('<<')"
        return 1

    def _step_arithmetic(self, text: str, index: int) -> int:
        if text[index] == "(":
            self._open.append("(((")
        elif self.innermost == "(((" and text[index] == ")":
            self._open.pop()
        elif text.startswith("))", index):
            self._open.pop()
            return 2
        return 1

    def _toggle_backquote(self) -> None:
        if "`" in self._open:
            while self._open.pop() != "`":
                pass
        else:
            self._open.append("`")
