"""Values as text: how arguments are written where a tool can only be given text."""

from __future__ import annotations

import json
from typing import Any


def as_text(value: Any) -> str:
    """Write a value the way a shell user would: strings as they are, true and false, else JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def size_bytes(text: str) -> int:
    """Return how many bytes a text takes up in a command or an environment."""
    return len(text.encode("utf-8", errors="surrogatepass"))
