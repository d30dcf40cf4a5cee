"""What a terminal may be shown: nothing that it would obey."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from praxis_sdk.cli.terminal.untrusted_text import TerminalFilter, one_line, visible

BIDIRECTIONAL = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}
MARKS = "\u200e\u200f\u061c"
HOSTILE = st.sampled_from(
    [
        "\x1b[2J",
        "\x1b]0;title\x07",
        "\x9b31m",
        "\u202e",
        "\u2066",
        "\r",
        "\r\n",
        "\b",
        "\x7f",
        "\x00",
        "\u2028",
        "é",
        "☃",
        "😀",
    ]
)
PIECES = st.lists(st.one_of(st.binary(max_size=12), HOSTILE.map(str.encode)), max_size=20)


def obeyed(text: str) -> list[str]:
    """Return the characters that a terminal would not simply show."""
    return [
        char
        for char in text
        if (unicodedata.category(char) == "Cc" and char not in "\n\t")
        or unicodedata.bidirectional(char) in BIDIRECTIONAL
        or char in MARKS
        or unicodedata.category(char) in ("Zl", "Zp", "Cs")
    ]


def filtered(pieces: list[bytes], encoding: str = "utf-8") -> bytes:
    """Put pieces through a filter, one after the other."""
    filter_ = TerminalFilter(encoding)
    return b"".join([*(filter_.feed(piece) for piece in pieces), filter_.feed(b"", final=True)])


@settings(max_examples=300, deadline=None)
@given(PIECES)
def test_nothing_that_a_terminal_obeys_passes(pieces: list[bytes]) -> None:
    assert obeyed(filtered(pieces).decode()) == []


@settings(max_examples=300, deadline=None)
@given(PIECES, st.integers(1, 5))
def test_cutting_a_stream_into_pieces_changes_nothing(pieces: list[bytes], size: int) -> None:
    whole = b"".join(pieces)
    recut = [whole[start : start + size] for start in range(0, len(whole), size)]
    assert filtered(pieces) == filtered([whole]) == filtered(recut)


@settings(max_examples=300, deadline=None)
@given(st.text())
def test_a_line_is_one_line_and_safe(text: str) -> None:
    assert "\n" not in one_line(text)
    assert obeyed(one_line(text)) == []


@settings(max_examples=200, deadline=None)
@given(PIECES, st.sampled_from(["latin-1", "ascii", "iso8859-15"]))
def test_an_eight_bit_terminal_gets_no_control_bytes_either(pieces: list[bytes], encoding: str) -> None:
    assert not [
        byte
        for byte in filtered(pieces, encoding)
        if (byte < 0x20 and byte not in b"\n\t") or 0x7F <= byte < 0xA0
    ]


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        (b"\x1b[31mred\x1b[0m", r"\x1b[31mred\x1b[0m"),
        (b"\x1b]0;owned\x07", r"\x1b]0;owned\x07"),
        ("\u009b2J".encode(), r"\x9b2J"),
        (b"\x9b2J", r"\x9b2J"),
        ("if (admin\u202e)".encode(), r"if (admin\u202e)"),
        (b"50%\r100%\r\ndone\n", "50%\n100%\ndone\n"),
        (b"a\bb\x7f\x00", r"a\x08b\x7f\x00"),
        ("größe\t☃ 👩‍🔬 日本語\n".encode(), "größe\t☃ 👩‍🔬 日本語\n"),
        (b"\xe2\x98", r"\xe2\x98"),
    ],
)
def test_what_is_not_plain_text_is_written_out(raw: bytes, shown: str) -> None:
    assert filtered([raw]).decode() == shown


def test_text_appears_at_once_and_a_cut_character_with_its_rest() -> None:
    filter_ = TerminalFilter()
    assert filter_.feed(b"50%\r") == b"50%\n"
    assert filter_.feed(b"\nnext") == b"next"
    assert filter_.feed("☃".encode()[:2]) == b""
    assert filter_.feed("☃".encode()[2:]) == "☃".encode()


def test_surrogates_from_file_names_are_written_out() -> None:
    assert visible(b"\xff".decode("utf-8", "surrogateescape")) == r"\udcff"
