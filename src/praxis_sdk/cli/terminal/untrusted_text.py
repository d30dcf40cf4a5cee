r"""What a terminal may be shown of a text that somebody else wrote.

A terminal obeys what is printed on it: escape sequences move the cursor, rename the window, answer into
the keyboard, and hide what went before; bidirectional controls make a text read as another. So whatever is
not plain text is written out (`\x1b`, `\u202e`), and nothing that was on the screen changes.

A lone carriage return, with which a tool would overwrite its line, starts a new line instead: a progress
bar becomes lines, and nothing that was shown is taken back.
"""

from __future__ import annotations

import codecs
import re
from typing import Final

# C0 but tab and newline, DEL, C1; bidirectional controls; line separators; what has no width and no
# business in a terminal. The joiners U+200C and U+200D stay: scripts and emoji need them.
_UNSAFE: Final = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\ud800-\udfff\U000e0000-\U000e0fff]"
)
_CARRIAGE_RETURN: Final = re.compile("\r\n?")


def visible(text: str) -> str:
    """Write out everything in a text that a terminal would obey; newlines and tabs stay."""
    return _UNSAFE.sub(_written_out, text)


def one_line(text: str) -> str:
    """Make a text safe to print as a single line."""
    return visible(text).replace("\n", "\\n").replace("\t", " ")


class TerminalFilter:
    """Makes a stream of bytes safe for a terminal, piece by piece.

    How the stream is cut into pieces does not matter; a character that is cut is shown with the next piece.
    Bytes that are not UTF-8 are written out.

    Args:
        encoding: what the terminal reads; what it cannot show is written out.
    """

    def __init__(self, encoding: str = "utf-8") -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="backslashreplace")
        self._encoding = encoding
        self._after_return = False

    def feed(self, data: bytes, *, final: bool = False) -> bytes:
        """Take a piece and return what can be shown now.

        Args:
            data: the piece.
            final: no further piece comes.
        """
        text = self._decoder.decode(data, final)
        if not text:
            return b""
        if self._after_return and text[0] == "\n":  # the second half of CR LF
            text = text[1:]
            self._after_return = False
            if not text:
                return b""
        self._after_return = text[-1] == "\r"
        text = visible(_CARRIAGE_RETURN.sub("\n", text))
        return text.encode(self._encoding, errors="backslashreplace")


def _written_out(match: re.Match[str]) -> str:
    number = ord(match[0])
    if number <= 0xFF:
        return f"\\x{number:02x}"
    return f"\\u{number:04x}" if number <= 0xFFFF else f"\\U{number:08x}"
