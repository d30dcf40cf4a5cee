"""Whether an SVG is plainly a drawing.

A list of what is allowed, not of what is forbidden: elements that draw, references that stay inside the
file or carry an image or a font, no scripts, no event handlers, no animation (which can rewrite a link), no
entities, no style sheets from elsewhere. Whatever is not understood is not vouched for. The whole
file is parsed, piece by piece; nothing is expanded, fetched or kept.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final
from xml.parsers import expat

SVG_NAMESPACE: Final = "http://www.w3.org/2000/svg"
MAX_CHECKED_BYTES: Final = 4 << 20  # a larger one takes too long to be vouched for
_MAX_STYLE_CHARACTERS: Final = 1 << 20
_CHUNK_BYTES: Final = 1 << 16

_ELEMENTS: Final = frozenset(
    """
    svg g defs symbol use switch title desc metadata style path rect circle ellipse line polyline polygon
    text tspan textPath image linearGradient radialGradient stop pattern clipPath mask marker view filter
    feBlend feColorMatrix feComponentTransfer feComposite feConvolveMatrix feDiffuseLighting
    feDisplacementMap feDistantLight feDropShadow feFlood feFuncA feFuncB feFuncG feFuncR feGaussianBlur
    feImage feMerge feMergeNode feMorphology feOffset fePointLight feSpecularLighting feSpotLight feTile
    feTurbulence font font-face glyph missing-glyph hkern vkern
    """.split()  # noqa: SIM905
)
# Namespaces of descriptions, which browsers do not act on.
_DESCRIPTIVE: Final = (
    "http://www.w3.org/1999/02/22-rdf-syntax-ns#",
    "http://creativecommons.org/ns#",
    "http://web.resource.org/cc/",
    "http://purl.org/dc/elements/1.1/",
    "http://www.inkscape.org/namespaces/inkscape",
    "http://sodipodi.sourceforge.net/DTD/sodipodi-0.dtd",
)
_ENCODINGS: Final = (None, "utf-8", "us-ascii", "ascii")
_INNER_REFERENCE: Final = re.compile(
    r"#|data:(image/(png|jpeg|gif|webp)|font/|application/(x-)?font)", re.IGNORECASE
)
_CSS_URL: Final = re.compile(r"url\(\s*['\"]?\s*", re.IGNORECASE)
_CSS_REFUSED: Final = re.compile(r"\\|@import|image-set|expression\(|javascript:|\bsrc\(", re.IGNORECASE)


class _Active(Exception):
    """Something was found that is more than a drawing."""


def is_inert(read_at: Callable[[int, int], bytes], size_bytes: int) -> bool:
    """Tell whether an SVG is known to run nothing and to fetch nothing.

    Args:
        read_at: returns the bytes at an offset, at most so many.
        size_bytes: the file's length.
    """
    if size_bytes > MAX_CHECKED_BYTES:
        return False
    checker = _Checker()
    try:
        for offset in range(0, size_bytes, _CHUNK_BYTES):
            checker.parser.Parse(read_at(offset, _CHUNK_BYTES), False)
        checker.parser.Parse(b"", True)
    except (_Active, expat.ExpatError, ValueError, LookupError):
        # A browser shows the sound beginning of a broken file, so brokenness proves nothing.
        return False
    return True


class _Checker:
    def __init__(self) -> None:
        self._in_style = False
        self._style: list[str] = []
        self._style_characters = 0
        self._depth = 0
        parser = expat.ParserCreate(namespace_separator=" ")
        parser.buffer_text = True
        parser.XmlDeclHandler = self._declaration
        parser.StartDoctypeDeclHandler = self._doctype
        parser.EntityDeclHandler = parser.ProcessingInstructionHandler = _refuse
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._text
        self.parser = parser

    def _declaration(self, _version: str, encoding: str | None, _standalone: int) -> None:
        if (encoding and encoding.lower()) not in _ENCODINGS:
            raise _Active

    def _doctype(self, _name: str, _system: str | None, _public: str | None, has_subset: int) -> None:
        if has_subset:
            raise _Active

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        namespace, _, local = name.rpartition(" ")
        if self._depth == 0 and (namespace, local) != (SVG_NAMESPACE, "svg"):
            raise _Active
        self._depth += 1
        if namespace in _DESCRIPTIVE:
            return
        if namespace != SVG_NAMESPACE or local not in _ELEMENTS:
            raise _Active
        self._in_style = local == "style"
        for attribute, value in attributes.items():
            _check_attribute(attribute.rpartition(" ")[2].lower(), value)

    def _end(self, _name: str) -> None:
        self._depth -= 1
        if self._in_style:
            _check_css("".join(self._style))
            self._style.clear()
            self._in_style = False

    def _text(self, text: str) -> None:
        if not self._in_style:
            return
        self._style_characters += len(text)
        if self._style_characters > _MAX_STYLE_CHARACTERS:
            raise _Active
        self._style.append(text)


def _refuse(*_: object) -> None:
    raise _Active


def _check_attribute(name: str, value: str) -> None:
    if name.startswith("on") or name == "base":
        raise _Active
    if name == "href":
        if not _INNER_REFERENCE.match(value.strip()):
            raise _Active
        return
    _check_css(value)


def _check_css(text: str) -> None:
    if _CSS_REFUSED.search(text):
        raise _Active
    if any(not _INNER_REFERENCE.match(text, found.end()) for found in _CSS_URL.finditer(text)):
        raise _Active
