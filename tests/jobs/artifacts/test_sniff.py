"""What files are said to be, whatever they claim."""

from __future__ import annotations

import builtins
import csv
import gzip
import io
import json
import sqlite3
import tarfile
import zipfile
import zlib
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from praxis_sdk.errors import MissingExtra
from praxis_sdk.jobs.artifacts import Artifact, ArtifactKind, Sniffed, sniff_bytes
from praxis_sdk.jobs.artifacts.digest import key_of
from praxis_sdk.jobs.artifacts.types import signatures
from praxis_sdk.jobs.artifacts.types.sniff import UNKNOWN, sniff

PNG = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + bytes(30)
SVG = '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink">%s</svg>'


def archive(*names: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name in names:
            file.writestr(name, "x")
    return buffer.getvalue()


def tar() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as file:
        file.addfile(tarfile.TarInfo("x"))
    return buffer.getvalue()


def database() -> bytes:
    with sqlite3.connect(":memory:") as connection:
        connection.execute("create table t (x)")
        return connection.serialize()


@pytest.mark.parametrize(
    ("data", "format_", "content_type", "kind"),
    [
        (PNG, "png", "image/png", "plot"),
        (b"\xff\xd8\xff\xe0\0\x10JFIF" + bytes(20), "jpg", "image/jpeg", "plot"),
        (b"GIF89a" + bytes(20), "gif", "image/gif", "plot"),
        (b"RIFF\x20\0\0\0WEBPVP8 " + bytes(20), "webp", "image/webp", "plot"),
        (b"II*\0" + bytes(20), "tiff", "image/tiff", "plot"),
        (b"BM" + (60).to_bytes(4, "little") + bytes(54), "bmp", "image/bmp", "plot"),
        (b"%PDF-1.7\n%\xe2\xe3\n", "pdf", "application/pdf", "export"),
        (b"PAR1" + bytes(30) + b"PAR1", "parquet", "application/vnd.apache.parquet", "dataset"),
        (b"ARROW1\0\0" + bytes(30) + b"ARROW1", "arrow", "application/vnd.apache.arrow.file", "dataset"),
        (b"\x93NUMPY\x01\0" + bytes(30), "npy", "application/x-npy", "dataset"),
        (archive("arr_0.npy"), "npz", "application/x-npz", "dataset"),
        (b"\x89HDF\r\n\x1a\n" + bytes(30), "hdf5", "application/x-hdf5", "dataset"),
        (database(), "sqlite", "application/vnd.sqlite3", "dataset"),
        (archive("[Content_Types].xml", "xl/workbook.xml"), "xlsx", None, "dataset"),
        (archive("[Content_Types].xml", "word/document.xml"), "docx", None, "export"),
        (archive("readme.txt"), "zip", "application/zip", "export"),
        (gzip.compress(b"x" * 50, mtime=0), "gz", "application/gzip", "export"),
        (b"\x28\xb5\x2f\xfd" + bytes(30), "bin", "application/octet-stream", "export"),
        (b"OggS\0\x02" + bytes(40), None, None, "export"),
        (b"plain words\n", "txt", "text/plain; charset=utf-8", "export"),
        ("Grüße, 世界\n".encode(), "txt", "text/plain; charset=utf-8", "export"),
        ("Grüße\n".encode("utf-16"), "txt", "text/plain; charset=utf-16le", "export"),
        (b"\xef\xbb\xbfa,b\n1,2\n", "csv", "text/csv; charset=utf-8", "dataset"),
        (b"a;b\n1;2\n", "csv", "text/csv; charset=utf-8", "dataset"),
        (b"a\tb\n1\t2\n", "tsv", "text/tab-separated-values; charset=utf-8", "dataset"),
        (b'name,text\nx,"one, two\nthree"\n', "csv", None, "dataset"),
        (b"Dear all,\nthis, that, and more.\n", "txt", None, "export"),
        (b'{"a": [1, 2.5, null]}', "json", "application/json", "dataset"),
        (b"[1]\n", "json", "application/json", "dataset"),
        (b'{"a": 1}\n{"a": 2}\n', "jsonl", "application/x-ndjson", "dataset"),
        (b'{"a": NaN}', "txt", None, "export"),
        (b"{not json}", "txt", None, "export"),
        (b"[" * 100_000, "txt", None, "export"),
        (b'{"n": ' + b"9" * 10_000 + b"}", "json", None, "dataset"),
        (b"<?xml version='1.0'?><data/>", "xml", "application/xml", "dataset"),
        (b"<data><row/></data>", "xml", "application/xml", "dataset"),
        (b"<- an arrow", "txt", None, "export"),
        (b"\x1b[31mred\x1b[0m\n", "txt", None, "export"),
        (b"", "bin", "application/octet-stream", "export"),
        (b"\x80\x04\x95\x10\0\0", "bin", "application/octet-stream", "export"),
        (b"\x7fELF\x02\x01\x01" + bytes(50), "bin", "application/octet-stream", "export"),
        (bytes(100), "bin", "application/octet-stream", "export"),
        ("Grüße".encode("latin-1"), "bin", "application/octet-stream", "export"),
    ],
)
def test_a_format_is_told_by_the_bytes(
    data: bytes, format_: str | None, content_type: str | None, kind: str
) -> None:
    found = sniff_bytes(data)
    if format_ is not None:
        assert found.format == format_
    if content_type is not None:
        assert found.content_type == content_type
    assert found.kind == kind


@pytest.mark.parametrize(
    "data",
    [
        b"<!DOCTYPE html><title>x</title>",
        b"  \n<HTML>",
        b"\xef\xbb\xbf<html>",
        "<html><script>1</script>".encode("utf-16"),
        b"<script>alert(1)</script>",
        b"<!-- --><script>alert(1)</script>",
        b"<iframe src=x>",
        b"<b>bold</b>",
        b"<p>",
    ],
)
def test_a_page_is_a_page_and_flagged_whatever_it_is_called(data: bytes) -> None:
    found = sniff_bytes(data)
    assert (found.format, found.active) == ("html", True)
    assert found.content_type.startswith("text/html; charset=utf-")


@pytest.mark.parametrize(
    ("data", "format_"),
    [
        (PNG + b"<html><script>alert(1)</script>", "png"),
        (b"GIF89a/*<script>alert(1)</script>*/=1;", "gif"),
        (b"%PDF-1.4\n<script>alert(1)</script>", "pdf"),
        (archive("x") + b"<script>alert(1)</script>", "zip"),
        (b'{"x": "<script>alert(1)</script>"}', "json"),
        (b"a,b\n<script>,1\n", "csv"),
        (b"hello <script>alert(1)</script>", "txt"),
        (b"GIF89a", "txt"),
        (b"BM, the mean\n", "txt"),
        (b"\0<html><script>alert(1)</script>", "bin"),
    ],
)
def test_a_polyglot_gets_one_harmless_type(data: bytes, format_: str) -> None:
    found = sniff_bytes(data)
    assert (found.format, found.active) == (format_, False)
    assert "html" not in found.content_type


MATPLOTLIB = """<?xml version="1.0" encoding="utf-8" standalone="no"?>
<!DOCTYPE svg PUBLIC "-//W3C//DTD SVG 1.1//EN" "http://www.w3.org/Graphics/SVG/1.1/DTD/svg11.dtd">
<svg xmlns:xlink="http://www.w3.org/1999/xlink" width="460pt" xmlns="http://www.w3.org/2000/svg" version="1.1">
 <metadata><rdf:RDF xmlns:dc="http://purl.org/dc/elements/1.1/" xmlns:cc="http://creativecommons.org/ns#"
  xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><cc:Work>
  <dc:type rdf:resource="http://purl.org/dc/dcmitype/StillImage"/></cc:Work></rdf:RDF></metadata>
 <defs><style type="text/css">*{stroke-linejoin: round; stroke-linecap: butt}</style></defs>
 <g id="figure_1" clip-path="url(#p1)"><path d="M 0 0 L 1 1 z" style="fill: #ffffff"/>
 <use xlink:href="#m1" x="1"/><image xlink:href="data:image/png;base64,AAAA"/></g></svg>"""


@pytest.mark.parametrize(
    "document",
    [MATPLOTLIB, SVG % "<path d='M0 0'/>", SVG % "<script>alert(1)</script>", SVG % ("<g>" * 100_000)],
)
def test_an_svg_is_a_plot_that_may_act_whatever_it_holds(document: str) -> None:
    """No drawing is vouched for: it is served as an attachment, or shown where it can do nothing."""
    found = sniff_bytes(document.encode())
    assert (found.format, found.content_type, found.kind, found.active) == (
        "svg",
        "image/svg+xml",
        ArtifactKind.PLOT,
        True,
    )


def test_an_svg_behind_a_comment_is_an_svg() -> None:
    assert sniff_bytes(("<!-- made by x -->\n" + SVG % "<g/>").encode()).format == "svg"


def test_xhtml_is_flagged() -> None:
    found = sniff_bytes(b"<?xml version='1.0'?><html xmlns='http://www.w3.org/1999/xhtml'/>")
    assert (found.content_type, found.active) == ("application/xhtml+xml", True)


def test_large_files_are_told_by_their_ends() -> None:
    rows = b"".join(b"%d,%d\n" % (number, number) for number in range(200_000))
    assert sniff_bytes(rows).format == "csv"
    assert sniff_bytes(b"[" + b"1," * 600_000 + b"1]").format == "json"
    assert sniff_bytes(b'{"a": 1}\n' * 200_000).format == "jsonl"
    assert sniff_bytes("ä".encode() * 100_001).format == "txt"
    assert sniff_bytes(b"x" * 200_000 + b"\0").format == "bin"
    assert sniff_bytes(rows + b"\xff").format == "bin"


def test_little_of_a_large_file_is_read() -> None:
    asked: list[int] = []

    def read_at(offset: int, size_bytes: int) -> bytes:
        asked.append(size_bytes)
        return bytes(size_bytes)

    assert sniff(read_at, 1 << 60) == UNKNOWN
    assert sum(asked) <= 2 << 16


def test_a_bomb_is_not_unpacked() -> None:
    bomb = io.BytesIO()
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("zeros", bytes(50_000_000))
    assert sniff_bytes(bomb.getvalue()).format == "zip"
    assert sniff_bytes(zlib.compress(bytes(1_000_000))).format == "bin"


def as_artifact(found: Sniffed) -> Artifact:
    digest = "sha256:" + "0" * 64
    return Artifact(
        name="x",
        kind=found.kind,
        format=found.format,
        digest=digest,
        size_bytes=0,
        content_type=found.content_type,
        active=found.active,
        uri=f"artifact:{key_of(digest)}",
    )


BEGINNINGS = st.sampled_from(
    [
        b"",
        b"<",
        b"<!--",
        b"<svg",
        b"<?xml ",
        b"{",
        b"[",
        b"PK\x03\x04",
        b"\x89PNG\r\n\x1a\n",
        b"RIFF",
        b"\xff\xfe",
        b"\xef\xbb\xbf",
        b"a,b\n",
    ]
)


@settings(max_examples=500, deadline=None)
@given(start=BEGINNINGS, rest=st.one_of(st.binary(max_size=300), st.text(max_size=300).map(str.encode)))
def test_any_bytes_get_a_type_that_a_record_accepts(start: bytes, rest: bytes) -> None:
    """Feature: artifacts, sniffing."""
    as_artifact(sniff_bytes(start + rest))


@settings(max_examples=200, deadline=None)
@given(prefix=st.sampled_from([b"", b" ", b"\n\t", b"\xef\xbb\xbf"]), rest=st.text(max_size=200))
def test_what_browsers_take_for_a_page_is_never_harmless(prefix: bytes, rest: str) -> None:
    """Feature: artifacts, active content."""
    found = sniff_bytes(prefix + b"<script>" + rest.encode())
    assert found.active or not found.content_type.startswith("text/html")
    assert found.active or found == UNKNOWN  # with control characters it is no text


JSON_VALUES = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.text()
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=5), inner, max_size=4)
    ),
    max_leaves=8,
)


@settings(max_examples=200, deadline=None)
@given(
    value=st.one_of(
        st.lists(JSON_VALUES, max_size=4), st.dictionaries(st.text(max_size=5), JSON_VALUES, max_size=4)
    ),
    indent=st.sampled_from([None, 2]),
)
def test_json_is_json(value: object, indent: int | None) -> None:
    """Feature: artifacts, sniffing of JSON."""
    assert sniff_bytes(json.dumps(value, indent=indent).encode()).format == "json"


CELLS = st.text(st.characters(categories=["L", "N", "P", "Zs"], exclude_characters="<{[;\t"), max_size=8)


@settings(max_examples=200, deadline=None)
@given(
    rows=st.integers(2, 5).flatmap(
        lambda width: st.lists(st.lists(CELLS, min_size=width, max_size=width), min_size=2)
    )
)
def test_a_written_table_is_a_table(rows: list[list[str]]) -> None:
    """Feature: artifacts, sniffing of tables."""
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    assert sniff_bytes(text.getvalue().encode()).format == "csv"


@pytest.fixture
def no_puremagic(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    real = builtins.__import__

    def without(name: str, *arguments: object, **options: object) -> object:
        if name == "puremagic":
            raise ImportError(name)
        return real(name, *arguments, **options)  # type: ignore[arg-type]

    signatures._library.cache_clear()
    monkeypatch.setattr(builtins, "__import__", without)
    yield
    monkeypatch.undo()
    signatures._library.cache_clear()


@pytest.mark.usefixtures("no_puremagic")
def test_a_missing_library_names_the_extra() -> None:
    with pytest.raises(MissingExtra, match=r"praxis-sdk\[jobs\]"):
        sniff_bytes(bytes(10))
    assert sniff_bytes(PNG).format == "png"
