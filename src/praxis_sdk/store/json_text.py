"""JSON encoders that are made once: for small values, half of the work of `json.dumps` is to make one anew."""

from __future__ import annotations

import json
import json.encoder
from collections.abc import Callable
from typing import Any


def encoder(*, sort_keys: bool = False, ensure_ascii: bool = True) -> Callable[[Any], str]:
    """Return what encodes values as compact JSON, as `json.dumps` does; thread-safe.

    Args:
        sort_keys: whether names come in order.
        ensure_ascii: whether all but ASCII is escaped.
    """
    plain = json.JSONEncoder(
        sort_keys=sort_keys, ensure_ascii=ensure_ascii, separators=(",", ":"), check_circular=False
    )
    make = getattr(json.encoder, "c_make_encoder", None)
    if make is None:  # an interpreter without the accelerator
        return plain.encode
    text = json.encoder.encode_basestring_ascii if ensure_ascii else json.encoder.encode_basestring
    pieces = make(None, plain.default, text, None, ":", ",", sort_keys, False, True)

    def encode(value: Any) -> str:
        return "".join(pieces(value, 0))

    return encode
