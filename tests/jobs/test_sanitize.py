import base64
import json
import re
import time
import urllib.parse

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from praxis_sdk.jobs.executor.sanitize import (
    HOST_MARK,
    PATH_MARK,
    SECRET_MARK,
    USER_MARK,
    Sanitizer,
    bound,
    cut_end,
    cut_start,
    escape_controls,
    remove_secrets,
)

MARKS = f"{SECRET_MARK}{PATH_MARK}{HOST_MARK}{USER_MARK}[... bytes left out ...]"
any_text = st.text(max_size=300)
secret_values = st.text(st.characters(min_codepoint=33, max_codepoint=0x2FF), min_size=8, max_size=40).filter(
    lambda secret: secret not in MARKS
)
SANITIZER = Sanitizer(
    secrets=["correct-horse-battery"],
    paths={
        "/opt/praxis/environments/science-0123456789ab": "<environment>",
        "/usr/lib/python3.11": "<python>",
    },
    host_names=["build-7", "build-7.corp.example", "203.0.113.9"],
    user_names=["margaret", "root"],
)


def lines_of(text: str) -> int:
    return text.count("\n") + 1


@settings(max_examples=400)
@given(any_text, st.integers(0, 200), st.integers(1, 8))
def test_bounded_text_fits_and_keeps_both_ends(text: str, max_bytes: int, max_lines: int) -> None:
    result = bound(text, max_bytes=max_bytes, max_lines=max_lines)

    assert len(result.encode("utf-8", "surrogatepass")) <= max_bytes
    assert lines_of(result) <= max_lines
    if len(text.encode("utf-8", "surrogatepass")) <= max_bytes and lines_of(text) <= max_lines:
        assert result == text


@settings(max_examples=300)
@given(st.text(max_size=60), st.integers(0, 80))
def test_cuts_split_no_character(text: str, max_bytes: int) -> None:
    size = len(text.encode("utf-8", "surrogatepass"))
    for part, whole in (
        (cut_end(text, max_bytes), text.startswith),
        (cut_start(text, max_bytes), text.endswith),
    ):
        length = len(part.encode("utf-8", "surrogatepass"))
        assert whole(part)
        assert length <= max_bytes
        assert length > min(size, max_bytes) - 4


def test_middle_of_a_long_traceback_is_left_out() -> None:
    text = "\n".join(
        ["Traceback:", *(f"  frame {number}" for number in range(5000)), "ValueError: the reason"]
    )
    result = Sanitizer().traceback(text, max_bytes=4000, max_lines=40)

    assert result.startswith("Traceback:\n")
    assert result.endswith("\nValueError: the reason")
    assert re.search(r"\[\.\.\. \d+ bytes left out \.\.\.\]", result)
    assert lines_of(result) <= 40


@settings(max_examples=400)
@given(secret_values, any_text, any_text, st.sampled_from(["plain", "repr", "json", "url"]))
def test_no_secret_gets_through_in_any_usual_form(secret: str, before: str, after: str, form: str) -> None:
    written = {
        "plain": secret,
        "repr": repr(secret)[1:-1],
        "json": json.dumps(secret)[1:-1],
        "url": urllib.parse.quote_plus(secret),
    }[form]
    sanitizer = Sanitizer(secrets=[secret])
    for result in (
        sanitizer.message(f"{before}{written}{after}"),
        sanitizer.traceback(f"{before}{written}\n{after}"),
        sanitizer.scrub(f"{before}{written}{after}"),
    ):
        assert secret not in result
        assert written not in result


@settings(max_examples=200)
@example("000000000", 0, 7290)
@given(secret_values, st.integers(0, 200), st.integers(0, 30_000))
def test_no_cut_leaves_a_part_of_a_secret(secret: str, offset: int, length: int) -> None:
    assume(not set(secret) & set("x." + MARKS))
    text = "x" * offset + secret * (1 + length // len(secret)) + "." * offset
    result = Sanitizer(secrets=[secret]).traceback(text, max_bytes=400, max_lines=9)

    assert not set(secret) & set(re.sub(r"\[\.\.\. \d+ bytes left out \.\.\.\]", "", result))


def test_secret_in_base64_and_in_a_key_file_is_removed() -> None:
    key = "-----BEGIN SOMETHING-----\nabcdefghijkl\nmnopqrstuvwx\n-----END SOMETHING-----\n"
    encoded = base64.b64encode(b"correct-horse-battery").decode()
    result = Sanitizer(secrets=[key, "correct-horse-battery"]).message(
        f"{encoded} and mnopqrstuvwx and {key!r}"
    )

    assert result == f"{SECRET_MARK} and {SECRET_MARK} and '{SECRET_MARK}'"


def test_short_secret_is_removed_where_it_stands_alone() -> None:
    assert Sanitizer(secrets=["42", ""]).message("pin 42, 1420 bytes") == f"pin {SECRET_MARK}, 1420 bytes"


@pytest.mark.parametrize(
    "secret",
    [
        "AKIA" + "ABCDEFGHIJKLMNOP",
        "ghp_" + "a1B2c3D4e5F6g7H8i9J0",
        "github_pat_" + "a1B2c3D4e5F6g7H8i9J0",
        "glpat-" + "a1B2c3D4e5F6g7H8i9J0",
        "xoxb-" + "123456789012-abcdef",
        "sk-" + "a1B2c3D4e5F6g7H8i9J0",
        "sk-ant-api03-" + "a1B2c3D4e5F6g7H8i9J0",
        "hf_" + "a1B2c3D4e5F6g7H8i9J0",
        "npm_" + "a1B2c3D4e5F6g7H8i9J0",
        "AIza" + "SyA1b2C3d4E5f6G7h8I9j0K1l2M3n4O5p6Q",
        "eyJ" + "hbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl",
        "-----BEGIN RSA PRIVATE KEY-----\nMIIB\n-----END RSA PRIVATE KEY-----",
        "-----BEGIN PRIVATE KEY-----\nMIIB",
    ],
)
def test_secrets_of_known_forms_are_removed(secret: str) -> None:
    assert remove_secrets(f"before {secret} after").startswith(f"before {SECRET_MARK}")
    assert secret not in Sanitizer().message("x " * 10_000 + secret, max_bytes=100)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Authorization: Bearer abc.def-123", f"Authorization: Bearer {SECRET_MARK}"),
        ("https://user:pass@example.org/x/y", f"https://{SECRET_MARK}@example.org/x/y"),
        ("password=hunter2 rest", f"password={SECRET_MARK} rest"),
        ('{"api_key": "abc", "n": 1}', f'{{"api_key": {SECRET_MARK}, "n": 1}}'),
        ("DB_PASSWORD: 'a b c'", f"DB_PASSWORD: {SECRET_MARK}"),
        ("the token is long", "the token is long"),
    ],
)
def test_announced_secrets_are_removed(text: str, expected: str) -> None:
    assert remove_secrets(text) == expected
    assert remove_secrets(expected) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('File "/home/margaret/My Code/x.py", line 3', f'File "{PATH_MARK}/x.py", line 3'),
        ('File "/usr/lib/python3.11/json/decoder.py", line 3', 'File "<python>/json/decoder.py", line 3'),
        ("/opt/praxis/environments/science-0123456789ab/lib/x.py", "<environment>/lib/x.py"),
        ('File "/work/main.py", line 1', 'File "/work/main.py", line 1'),
        ("cannot read /var/lib/praxis/jobs/17/input.csv:", f"cannot read {PATH_MARK}/input.csv:"),
        ("PATH=/a/b:/c/d", f"PATH={PATH_MARK}/b:{PATH_MARK}/d"),
        ("cc -I/usr/include/x -L/home/x/lib", f"cc -I{PATH_MARK}/x -L{PATH_MARK}/lib"),
        ("file:///home/margaret/.praxis/x", f"{PATH_MARK}/x"),
        ("'/home/margaret/.ssh/id_rsa'", f"'{PATH_MARK}/id_rsa'"),
        ("C:\\Users\\margaret\\x.py", f"{PATH_MARK}/x.py"),
        ("see https://example.org/a/b and a/b or 3/4", "see https://example.org/a/b and a/b or 3/4"),
        ("build-7.corp.example and BUILD-7, not build-77", f"{HOST_MARK} and {HOST_MARK}, not build-77"),
        ("margaret is not margarets", f"{USER_MARK} is not margarets"),
        ("the root of the equation", "the root of the equation"),
        ("connect 203.0.113.9:80", f"connect {HOST_MARK}:80"),
    ],
)
def test_what_names_the_host_is_replaced(text: str, expected: str) -> None:
    assert SANITIZER.message(text) == expected
    assert SANITIZER.message(expected) == expected


@settings(max_examples=400)
@given(any_text)
def test_nothing_acts_on_a_terminal_or_on_the_direction_of_text(text: str) -> None:
    traceback, message = Sanitizer().traceback(text), Sanitizer().message(text)

    assert "\n" not in message
    for result in (traceback, message):
        result.encode("utf-8")
        assert not re.search(
            "[\0-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2066-\u2069\ufeff]", result
        )
    assert escape_controls(escape_controls(text)) == escape_controls(text)


def test_escape_sequences_become_visible() -> None:
    assert escape_controls("\x1b]52;c;AAAA\x07\u202e\r\n\t") == "\\x1b]52;c;AAAA\\x07\\u202e\n\t"


@pytest.mark.parametrize(
    "piece",
    ["a", "/a", "'/a", "token", "token=", "eyJ", "a://", "C:\\a", "\x1b", "-----BEGIN PRIVATE KEY-----", "\n",
     "correct-horse-battery", "\ud800", "é", "\U0001f600", " ", "sk-", "bearer "],
)  # fmt: skip
def test_a_hundred_megabytes_are_no_work(piece: str) -> None:
    text = piece * (100_000_000 // len(piece))

    assert len(SANITIZER.message(text).encode()) <= 2_000
    assert len(SANITIZER.traceback(text).encode()) <= 16_000


def test_secrets_do_not_show_in_the_sanitizers_own_description() -> None:
    assert "correct-horse" not in repr(SANITIZER)


def processor_s(text: str) -> float:
    """Return the processor time that a message of a text takes at least, in seconds."""
    sanitizer = Sanitizer(secrets=["a secret of its own"], host_names=["machine-7"])

    def once() -> float:
        began = time.process_time()
        sanitizer.traceback(text)
        return time.process_time() - began

    return min(once() for _ in range(3))


@pytest.mark.parametrize(
    "piece", ["-eyJ", ".eyJ", "-a", "x-", "/a", "token:   ", "'/a/", " C:\\a ", "-----BEGIN A", "a://", "\0"]
)
def test_no_text_takes_much_longer_than_another(piece: str) -> None:
    size = 1_000_000
    assert processor_s(piece * (size // len(piece))) < 8 * processor_s("word " * (size // 5))
