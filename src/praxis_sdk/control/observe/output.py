"""Output as it is kept, and composed into what an execution came to.

The streams of an attempt are kept once, as pieces in its execution's stream of events; what its kind keeps of the end
names their sizes and digests. Whoever reads wants both in one document, in the shape that the kind documents.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from praxis_sdk.execution.context import StreamName
from praxis_sdk.execution.outcome import text_of, written
from praxis_sdk.execution.output import GAP
from praxis_sdk.model import WORK, EventType, Execution
from praxis_sdk.store import Store

STREAMS: Final[tuple[StreamName, ...]] = ("stdout", "stderr")
PAGE: Final = 64  # events, each of which may have a piece of 64 KiB
_LOG: Final = frozenset({EventType.LOG})


@dataclass(slots=True)
class Kept:
    """What is kept of a stream.

    Args:
        data: its bytes, with a line in place of what was left out when they were written.
        size_bytes: how many bytes of it are the stream's own.
    """

    data: bytes = b""
    size_bytes: int = 0


async def read_output(
    store: Store, execution: Execution, *, max_bytes: int | None = None
) -> dict[StreamName, Kept]:
    """Return what is kept of the streams of an execution's last attempt.

    Args:
        store: where it is kept.
        execution: whose.
        max_bytes: most bytes of each stream; None: all that is kept.
    """
    found = {stream: bytearray() for stream in STREAMS}
    own = dict.fromkeys(STREAMS, 0)
    after = -1
    while page := await store.events(execution.id, after=after, limit=PAGE, types=_LOG):
        after = page[-1].seq
        for event in page:
            stream = event.data.get("stream")
            if stream not in found or event.data.get("attempt", 1) != execution.attempt:
                continue
            if max_bytes is not None and len(found[stream]) >= max_bytes:
                continue
            if "left_out_bytes" in event.data:
                found[stream] += GAP.format(event.data["left_out_bytes"]).encode()
            elif event.component == WORK:
                chunk = event.chunk if max_bytes is None else event.chunk[: max_bytes - len(found[stream])]
                found[stream] += chunk
                own[stream] += len(chunk)
    return {stream: Kept(bytes(data), own[stream]) for stream, data in found.items()}


async def with_output(store: Store, execution: Execution, *, max_bytes: int | None = None) -> Execution:
    """Return an execution whose `outputs` and `result` have what it wrote; arguments as in `read_output`."""
    result = execution.result
    compose = _SHAPES.get(execution.kind)
    if compose is None or not isinstance(result, Mapping):
        return execution
    kept = dict.fromkeys(STREAMS, Kept())
    if any(map(_wrote(execution.kind, result), STREAMS)):
        kept = await read_output(store, execution, max_bytes=max_bytes)
    return compose(execution, result, kept)


def _wrote(kind: str, result: Mapping[str, Any]) -> Callable[[StreamName], bool]:
    """Return what tells whether a stream has anything, so that nothing is looked for in vain."""
    if kind == "tool":
        return lambda stream: bool(result.get(f"{stream}_bytes"))
    return lambda stream: bool(result.get(stream, {}).get("total_bytes"))


def _tool(execution: Execution, result: Mapping[str, Any], kept: Mapping[StreamName, Kept]) -> Execution:
    fields: dict[str, Any] = {}
    for stream, one in kept.items():
        fields |= written(stream, one.data)
        fields[f"{stream}_truncated"] = result.get(f"{stream}_bytes", 0) > one.size_bytes
    outputs = execution.outputs
    if isinstance(outputs, Mapping):
        outputs = {**outputs, "stdout": fields["stdout"]}
    return execution.but(outputs=outputs, result={**result, **fields})


def _job(execution: Execution, result: Mapping[str, Any], kept: Mapping[StreamName, Kept]) -> Execution:
    fields: dict[str, Any] = {}
    for stream, one in kept.items():
        named = result.get(stream, {})
        text, encoded = text_of(one.data)
        cut = named.get("total_bytes", 0) > one.size_bytes
        fields[stream] = {**named, "text": text, "base64": encoded, "truncated": cut}
    return execution.but(result={**result, **fields})


_SHAPES: Final = {"tool": _tool, "job": _job}
