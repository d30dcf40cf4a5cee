"""Masking of secrets in text and in streams that arrive in pieces."""

from __future__ import annotations

import base64
import itertools
import json
import urllib.parse

import pytest
from hypothesis import given
from hypothesis import strategies as st

from praxis_sdk.secrets import Mask, StreamMask

VALUE = 'pa$$ "w0rd"/é\\+'


def streamed(mask: Mask, pieces: list[bytes]) -> bytes:
    stream = StreamMask(mask)
    return b"".join([*map(stream.feed, pieces), stream.end()])


@pytest.mark.parametrize(
    "written",
    [
        VALUE,
        urllib.parse.quote(VALUE, safe=""),
        urllib.parse.quote_plus(VALUE),
        json.dumps(VALUE)[1:-1],
        json.dumps(VALUE, ensure_ascii=False)[1:-1],
        repr(VALUE)[1:-1],
    ],
)
def test_every_usual_form_is_masked(written: str) -> None:
    assert Mask([VALUE]).text(f"a {written} b") == "a [secret] b"


@pytest.mark.parametrize("user", ["", "a:", "ab:", "abc:", "aladdin:"])
@pytest.mark.parametrize("encode", [base64.b64encode, base64.urlsafe_b64encode])
def test_base64_is_masked_at_every_alignment(user: str, encode) -> None:
    value = "correct-horse-battery-staple>>>???"
    written = encode(f"{user}{value}!".encode()).decode()
    masked = Mask([value]).text(f"Authorization: Basic {written}")
    assert "[secret]" in masked
    for start in range(len(written) - 12):
        if f"{written[start : start + 12]}" in masked:
            assert start < len(user) * 4 // 3 + 2, "characters of the secret are left"


def test_lines_of_a_key_file_are_masked_one_by_one() -> None:
    key = "-----BEGIN KEY-----\nMIIEvQIBADANBg\nkqhkiG9w0BAQEF\n-----END KEY-----\n"
    assert Mask([key]).text("line 2: MIIEvQIBADANBg.") == "line 2: [secret]."


def test_values_too_short_to_mask_leave_text_alone() -> None:
    assert not Mask(["abc", ""])
    assert Mask(["abc"]).text("abcdef") == "abcdef"


def test_keys_and_items_of_a_json_value_are_masked() -> None:
    value = {"hunter22": ["x hunter22", 1, None, {"a": "hunter22"}]}
    assert Mask(["hunter22"]).value(value) == {"[secret]": ["x [secret]", 1, None, {"a": "[secret]"}]}


def test_a_longer_secret_is_masked_whole_where_a_shorter_one_begins_it() -> None:
    mask = Mask(["alpha", "alphabet-soup"])
    assert streamed(mask, [b"alpha", b"bet-so", b"up alpha"]) == b"[secret] [secret]"


def test_what_cannot_begin_a_secret_passes_at_once() -> None:
    stream = StreamMask(Mask(["hunter22"]))
    assert stream.feed(b"progress 10 %") == b"progress 10 %"
    assert stream.feed(b" hunt") == b" "
    assert stream.feed(b"ing") == b"hunting"
    assert stream.end() == b""


pieces = st.lists(st.sampled_from([b"a", b"ab", b"ba", b"aba", b"abab", b"b", b"-"]), max_size=30)


@given(pieces=pieces, values=st.sets(st.sampled_from(["abab", "ababa", "baab", "aaaa", "bbbab"]), min_size=1))
def test_no_secret_is_left_however_a_stream_is_cut(pieces: list[bytes], values: set[str]) -> None:
    mask = Mask(values)
    whole = streamed(mask, pieces)
    assert not any(value.encode() in whole for value in values)
    if not any(value.encode() in b"".join(pieces) for value in values):
        assert whole == b"".join(pieces)


@given(data=st.binary(max_size=200), cuts=st.lists(st.integers(0, 200)))
def test_bytes_without_secrets_pass_unchanged(data: bytes, cuts: list[int]) -> None:
    places = sorted({0, len(data), *(cut for cut in cuts if cut <= len(data))})
    parts = [data[first:last] for first, last in itertools.pairwise(places)]
    assert streamed(Mask(["correct-horse-battery"]), parts) == data
