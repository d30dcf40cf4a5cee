"""Text that leaves the executor, made safe to show: nothing of the host, nothing secret, never too long.

Pure functions. What a job wrote to its standard output is its user's own and stays as it is (bounded); what
Praxis passes on as a *message* (spec 3, section 8.2) goes through `Sanitizer`:

    bound (roughly) -> secrets -> host paths, host names, user names -> control characters -> bound (exactly)

The first step keeps the work small whatever the job wrote; it never leaves half a secret behind, because it
looks for secrets beyond its own cut.
"""

from __future__ import annotations

import base64
import json
import re
import unicodedata
import urllib.parse
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

MAX_MESSAGE_BYTES: Final = 2_000
MAX_TRACEBACK_BYTES: Final = 16_000
MAX_TRACEBACK_LINES: Final = 100

SECRET_MARK: Final = "[secret]"  # noqa: S105 - what stands in its place
PATH_MARK: Final = "<host>"
HOST_MARK: Final = "<hostname>"
USER_MARK: Final = "<user>"

_CUT_MARK: Final = "[... {} bytes left out ...]"
_MIN_ROOM_BYTES: Final = 16
_MIN_SECRET_CHARS: Final = 4  # a shorter one is replaced only where it stands alone
_MIN_LINE_CHARS: Final = 8  # a line of a longer secret (a key file) that is one by itself
_MIN_NAME_CHARS: Final = 3
_REACH: Final = 4_096  # how far behind a rough cut a secret of a known form is looked for, in characters
# Names of users and hosts that say nothing, and that are words of any message.
_COMMON_NAMES: Final = frozenset(
    {"admin", "app", "daemon", "data", "debian", "host", "localhost", "nobody", "python", "root", "sandbox"}
    | {"server", "test", "tests", "ubuntu", "user", "work", "worker"}
)
# The first parts of paths that a job sees as its own.
_INSIDE: Final = ("dev", "proc", "tmp", "work")

# Control, format and surrogate characters, line and paragraph separators.
_ACTING: Final = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})

# Secrets that are known by their form, whoever they belong to. Untrusted text goes through here in the event loop, so
# every pattern of this module takes time in proportion to the text: repeats are bounded, and those that others of the
# same text could overlap begin where a word does and never give back what they took (`++`).
_KNOWN_SECRETS: Final = re.compile(
    r"""
      -----BEGIN\ [A-Z ]{0,40}PRIVATE\ KEY-----
      (?: [\s\S]{0,16384}? -----END\ [A-Z ]{0,40}PRIVATE\ KEY----- | [\s\S]{0,16384} )
    | \b(?:AKIA|ASIA)[A-Z0-9]{16}\b
    | \b(?:gh[opsur]_[A-Za-z0-9]{16,255}|github_pat_[A-Za-z0-9_]{16,255})
    | \bglpat-[A-Za-z0-9_-]{16,255}
    | \bxox[abeoprs]-[A-Za-z0-9-]{8,255}
    | \b(?:sk|pk|rk)[-_](?:[a-z]+[-_]){0,3}[A-Za-z0-9_-]{16,255}
    | \bhf_[A-Za-z0-9]{16,255}
    | \bnpm_[A-Za-z0-9]{16,255}
    | \bpypi-[A-Za-z0-9_-]{16,512}
    | \bdckr_pat_[A-Za-z0-9_-]{16,255}
    | \bAIza[A-Za-z0-9_-]{30,255}
    | \bya29\.[A-Za-z0-9_-]{16,512}
    | (?<![A-Za-z0-9_-])(?=(?:[A-Za-z0-9_]{0,64}+-){0,32}?eyJ)
      [A-Za-z0-9_-]{11,8192}+\.[A-Za-z0-9_-]{4,8192}+(?:\.[A-Za-z0-9_-]{0,4096}+)?
    """,
    re.VERBOSE,
)
# What follows a word that announces a secret; the word itself stays.
_ANNOUNCED: Final = re.compile(
    r"""(?ix)
      (?P<scheme>\b(?:bearer|basic)\s{1,4}) (?!\[secret\]) (?P<token>[A-Za-z0-9+/=_.~-]{8,8192})
    | (?P<url>\b[a-z][a-z0-9+.-]{1,20}://) (?!\[secret\]) (?P<credentials>[^\s/@'"<>]{1,512}) (?=@)
    | (?P<name>(?:passw(?:or)?d|passphrase|secret|token|api[_-]?key|access[_-]?key|credentials?)
        ["']?\s{0,4}[=:]\s{0,4})
      (?!["'\s]{0,4}\[secret\]) (?P<value>"[^"\n]{1,512}"|'[^'\n]{1,512}'|[^\s"',;&)\]}]{1,512})
    """
)
_QUOTED_PATH: Final = re.compile(r"""(?<=["'`])/[^"'`\n/]{1,255}/[^"'`\n]{0,4096}(?=["'`])""")
_PLAIN_PATH: Final = re.compile(
    r"(?:(?<![\w/.>\]-])|(?<=\s-[A-Za-z]))(?:file://)?(/[\w.@+~%-]{1,255}(?:/[\w.@+~%=-]{0,255})+)"
)
_WINDOWS_PATH: Final = re.compile(r"(?<![\w])[A-Za-z]:\\(?:[\w .@+~%$-]+\\)*([\w.@+~%$-]*)")


@dataclass(frozen=True)
class Sanitizer:
    """What must not be seen in messages, and how to make it so.

    Args:
        secrets: exact values; also their URL, JSON, backslash and base64 forms are removed.
        paths: host folders and what to call them: `{"/opt/envs/science-0a1b": "<environment>"}`.
        host_names: names and addresses of this machine.
        user_names: accounts of this machine. Words that many messages hold ("root", "test") are left alone.
    """

    secrets: Collection[str] = field(default=(), repr=False)
    paths: Mapping[str, str] = field(default_factory=dict)
    host_names: Collection[str] = ()
    user_names: Collection[str] = ()

    def message(self, text: str, *, max_bytes: int = MAX_MESSAGE_BYTES) -> str:
        """Return a text as one line without anything that must not be seen."""
        line = " ".join(self._clean(text, max_bytes).split())
        return bound(line, max_bytes=max_bytes, max_lines=1)

    def traceback(
        self, text: str, *, max_bytes: int = MAX_TRACEBACK_BYTES, max_lines: int = MAX_TRACEBACK_LINES
    ) -> str:
        """Return a text of many lines without anything that must not be seen; the middle goes first."""
        return bound(self._clean(text, max_bytes), max_bytes=max_bytes, max_lines=max_lines)

    def scrub(self, text: str) -> str:
        """Return a text without secrets and without what names the host; its length is up to the text."""
        return self._without_names(self._without_paths(remove_secrets(text, self.secrets)))

    def _clean(self, text: str, max_bytes: int) -> str:
        scrubbed = self.scrub(_roughly(text, 2 * max_bytes, self.secrets))
        shown = escape_controls(scrubbed)
        # Characters that split a secret are visible by now, and names that did are gone.
        return remove_secrets(shown, self.secrets)

    def _without_paths(self, text: str) -> str:
        for path in sorted(self.paths, key=len, reverse=True):
            prefix = path.rstrip("/")
            if prefix:
                text = re.sub(rf"(?<![\w.-]){re.escape(prefix)}(?![\w.-])", _literal(self.paths[path]), text)
        text = _QUOTED_PATH.sub(lambda match: _shortened(match[0]), text)
        text = _PLAIN_PATH.sub(lambda match: _shortened(match[1]), text)
        return _WINDOWS_PATH.sub(lambda match: f"{PATH_MARK}/{match[1]}", text)

    def _without_names(self, text: str) -> str:
        text = _replace_words(text, self.host_names, HOST_MARK)
        return _replace_words(text, self.user_names, USER_MARK)


def remove_secrets(text: str, secrets: Iterable[str] = ()) -> str:
    """Replace exact secrets, in every form in which they are usually written, and secrets of known forms."""
    exact = _exact(secrets)
    if exact is not None:
        text = exact.sub(SECRET_MARK, text)
    text = _KNOWN_SECRETS.sub(SECRET_MARK, text)
    return _ANNOUNCED.sub(_without_announced, text)


def escape_controls(text: str) -> str:
    r"""Make visible what would otherwise act on a terminal or on the order of the text.

    Control characters (escape sequences among them), marks of writing direction, invisible characters and
    halves of surrogate pairs become escapes such as `\x1b`; line feeds and tabs stay.
    """
    text = text.replace("\r\n", "\n")
    if text.isascii() and text.isprintable():
        return text
    return text.translate(_SHOWN)


def bound(text: str, *, max_bytes: int, max_lines: int) -> str:
    """Cut a text to at most so many bytes (as UTF-8) and lines.

    The end of a text says most (a traceback's last line is its message), then its start; the middle is
    replaced by a line that says how much is missing. No character is ever split.
    """
    size = _size(text)
    lines = text.split("\n")
    if size <= max_bytes and len(lines) <= max_lines:
        return text
    head = tail = text
    joint = "\n"
    if max_lines < 3:
        head = tail = " ".join(lines)
        joint = " "
    elif len(lines) >= max_lines - 1:
        head_lines = (max_lines - 1) // 3
        head = "\n".join(lines[:head_lines])
        tail = "\n".join(lines[-(max_lines - 1 - head_lines) :])
    room = max_bytes - len(_CUT_MARK.format(size)) - 2
    if room < _MIN_ROOM_BYTES:
        return cut_start(tail, max_bytes)
    if max_lines < 3 and size <= max_bytes:
        return head
    head, tail = cut_end(head, room // 3), cut_start(tail, room - room // 3)
    return f"{head}{joint}{_CUT_MARK.format(size - _size(head) - _size(tail))}{joint}{tail}"


def cut_end(text: str, max_bytes: int) -> str:
    """Return as much of the start of a text as fits in so many bytes."""
    encoded = text[: max(max_bytes, 0)].encode("utf-8", "surrogatepass")[: max(max_bytes, 0)]
    return _decode_part(encoded)


def cut_start(text: str, max_bytes: int) -> str:
    """Return as much of the end of a text as fits in so many bytes."""
    if max_bytes <= 0:
        return ""
    encoded = text[-max_bytes:].encode("utf-8", "surrogatepass")[-max_bytes:]
    start = next((i for i, byte in enumerate(encoded) if byte & 0xC0 != 0x80), len(encoded))
    return encoded[start:].decode("utf-8", "surrogatepass")


def _decode_part(encoded: bytes) -> str:
    """Decode the start of a text, without the character that its end may have split."""
    for split in range(4):
        try:
            return encoded[: len(encoded) - split].decode("utf-8", "surrogatepass")
        except UnicodeDecodeError:
            continue
    raise AssertionError("the start of UTF-8 is UTF-8, but for one character")


def _size(text: str) -> int:
    return len(text.encode("utf-8", "surrogatepass"))


def _roughly(text: str, keep: int, secrets: Iterable[str]) -> str:
    """Return the start and the end of a long text, each so many characters long; no secret is split."""
    if len(text) <= 2 * keep + _REACH:
        return text
    secrets = list(secrets)
    reach = max([_REACH, *(3 * len(secret) for secret in secrets)])
    end, start = keep, len(text) - keep
    # Forms are looked for around the cuts. Exact secrets are looked for from the start, as they will be later: one
    # that repeats itself is found at other places when the search begins elsewhere.
    windows = [
        (_KNOWN_SECRETS, max(0, keep - reach), keep + reach),
        (_KNOWN_SECRETS, len(text) - keep - reach, len(text)),
    ]
    exact = _exact(secrets)
    if exact is not None:
        windows.append((exact, 0, len(text)))
    for finder, first, last in windows:
        for match in finder.finditer(text, max(0, first), last):
            if match.start() < end < match.end():
                end = match.start()
            if match.start() < start < match.end():
                start = match.end()
    return f"{text[:end]}\n{_CUT_MARK.format(start - end)}\n{text[start:]}"


def _exact(secrets: Iterable[str]) -> re.Pattern[str] | None:
    """Return what finds secrets in the forms in which programs write them; None where there are none."""
    forms: set[str] = set()
    for secret in secrets:
        lines = [line for line in secret.split("\n") if len(line) >= _MIN_LINE_CHARS]
        for text in {secret, secret.strip(), *(line.strip() for line in lines)}:
            raw = text.encode("utf-8", "surrogatepass")
            quoted = (urllib.parse.quote(raw, safe=""), urllib.parse.quote_plus(raw))
            escaped = (repr(text)[1:-1], ascii(text)[1:-1], json.dumps(text)[1:-1])
            encoded = (base64.b64encode(raw), base64.urlsafe_b64encode(raw)) if len(raw) >= 6 else ()
            forms |= {text, *quoted, *escaped, *(form.decode().rstrip("=") for form in encoded)}
    patterns = [
        re.escape(form) if len(form) >= _MIN_SECRET_CHARS else rf"(?<!\w){re.escape(form)}(?!\w)"
        for form in sorted(forms - {""}, key=lambda form: (-len(form), form))
    ]
    return re.compile("|".join(patterns)) if patterns else None


def _without_announced(match: re.Match[str]) -> str:
    if match["url"]:
        return f"{match['url']}{SECRET_MARK}"
    if match["scheme"]:
        return f"{match['scheme']}{SECRET_MARK}"
    return f"{match['name']}{SECRET_MARK}"


def _shortened(path: str) -> str:
    """Return the last part of a host's path; a path that the job itself has stays."""
    parts = path.strip("/").split("/")
    return path if parts[0] in _INSIDE else f"{PATH_MARK}/{parts[-1]}"


def _replace_words(text: str, words: Iterable[str], mark: str) -> str:
    telling = {word for word in words if len(word) >= _MIN_NAME_CHARS and word.lower() not in _COMMON_NAMES}
    if not telling:
        return text
    choices = "|".join(re.escape(word) for word in sorted(telling, key=lambda word: (-len(word), word)))
    return re.sub(rf"(?<![\w-])(?:{choices})(?![\w-])", mark, text, flags=re.IGNORECASE)


def _literal(text: str) -> str:
    return text.replace("\\", "\\\\")


class _Shown(dict[int, str]):
    """How each character is shown, worked out when it first comes."""

    def __missing__(self, code: int) -> str:
        char = chr(code)
        if char not in "\n\t" and unicodedata.category(char) in _ACTING:
            char = char.encode("unicode_escape", "surrogatepass").decode("ascii")
        self[code] = char
        return char


_SHOWN: Final = _Shown()  # as large as Unicode at most
