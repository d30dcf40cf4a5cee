"""Frames between the client and the launcher: one JSON object per packet, descriptors beside it.

The socket is SOCK_SEQPACKET, so the kernel keeps packets apart and the descriptors with the packet that they
came with. A packet is bounded; a payload that does not fit (a long command line or environment) travels in a
sealed-size memory file whose descriptor is the packet's last one. JSON is ASCII, with lone surrogates for
undecodable bytes, so any argv survives the trip.
"""

from __future__ import annotations

import array
import contextlib
import errno
import json
import os
import resource
import socket

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import Any

MAX_PACKET_BYTES = 64 * 1024
MAX_PAYLOAD_BYTES = 8 * 1024 * 1024
MAX_DESCRIPTORS = 128

_DESCRIPTOR_BYTES = 4
_ANCILLARY_BYTES = socket.CMSG_SPACE((MAX_DESCRIPTORS + 1) * 4)
_IN_MEMORY_FILE = b"@"
# Plain numbers: arithmetic on the enumerations costs more than the system call.
_TRUNCATED, _DESCRIPTORS_CUT = int(socket.MSG_TRUNC), int(socket.MSG_CTRUNC)
_CLOSE_ON_EXEC = int(socket.MSG_CMSG_CLOEXEC)
_NO_SIGNAL = int(socket.MSG_NOSIGNAL)
# Made once: `json.loads` and `json.dumps` with options make them anew for every message.
_encode = json.JSONEncoder(separators=(",", ":")).encode
_scan: Callable[[str, int], tuple[Any, int]] = json.JSONDecoder().scan_once  # type: ignore[attr-defined]
_SOCKET_LEVEL, _RIGHTS = int(socket.SOL_SOCKET), int(socket.SCM_RIGHTS)


# The kernel lacks something for one frame at this moment: the other side lives, and may hear of it later.
_SCARCE = frozenset({errno.ETOOMANYREFS, errno.ENOBUFS, errno.ENOMEM, errno.EMFILE, errno.ENFILE})


class WireError(Exception):
    """A frame broke the rules of the protocol: too big, too many descriptors, not JSON."""


class DescriptorsLost(WireError):
    """A frame arrived without all its descriptors, because this process may hold no more.

    Args:
        message: what it said.
    """

    def __init__(self, message: dict[str, Any]) -> None:
        super().__init__("this process may hold no more descriptors")
        self.message = message


def encode(message: dict[str, Any]) -> bytes:
    """Return `message` as JSON bytes; raises WireError when it is over MAX_PAYLOAD_BYTES."""
    payload = _encode(message).encode("ascii")
    if len(payload) > MAX_PAYLOAD_BYTES:
        raise WireError(f"message of {len(payload)} bytes is over the limit of {MAX_PAYLOAD_BYTES}")
    return payload


def send(channel: socket.socket, payload: bytes, descriptors: Sequence[int] = ()) -> None:
    """Send one frame.

    Args:
        channel: a SOCK_SEQPACKET socket.
        payload: what `encode` returned.
        descriptors: open files that go with it; the caller keeps (and closes) its own copies.

    Raises:
        WireError: too many descriptors.
        BlockingIOError: a non-blocking socket is full; nothing was sent.
        OSError: the kernel lacks something at the moment (`is_scarcity`), or the other side is gone.
    """
    if len(descriptors) > MAX_DESCRIPTORS:
        raise WireError(f"{len(descriptors)} descriptors in one frame; the limit is {MAX_DESCRIPTORS}")
    if len(payload) <= MAX_PACKET_BYTES:
        _send_packet(channel, payload, list(descriptors))
        return
    overflow = memory_file("praxis-frame", payload)
    try:
        _send_packet(channel, _IN_MEMORY_FILE, [*descriptors, overflow])
    finally:
        os.close(overflow)


def receive(channel: socket.socket) -> tuple[dict[str, Any], list[int]] | None:
    """Receive one frame.

    Returns:
        The message and its descriptors (close-on-exec, now the caller's to close); None when the other side
        is gone.

    Raises:
        DescriptorsLost: it is well-formed, but some of its descriptors did not fit; the others have been closed.
        WireError: the frame is malformed; its descriptors have been closed.
        BlockingIOError: nothing to read on a non-blocking socket.
    """
    try:
        packet, ancillary, flags, _ = _receive_packet(channel)
    except ConnectionResetError:
        # The other side left something unread. That is said once, before what it had still sent.
        packet, ancillary, flags, _ = _receive_packet(channel)
    received: list[int] = []
    for level, kind, data in ancillary:
        if level == _SOCKET_LEVEL and kind == _RIGHTS:
            received += array.array("i", data[: len(data) - len(data) % _DESCRIPTOR_BYTES])
    if not packet:
        close_all(received)
        return None
    if flags & _DESCRIPTORS_CUT and not flags & _TRUNCATED and packet != _IN_MEMORY_FILE:
        close_all(received)
        raise DescriptorsLost(decode(packet))
    try:
        return _decode(packet, flags, received), received
    except (WireError, ValueError, IndexError, OSError, RecursionError) as problem:
        close_all(received)
        raise WireError(f"malformed frame: {problem}") from problem


def _receive_packet(channel: socket.socket) -> tuple[bytes, list[tuple[int, int, bytes]], int, object]:
    return channel.recvmsg(MAX_PACKET_BYTES, _ANCILLARY_BYTES, _CLOSE_ON_EXEC)


def memory_file(name: str, content: bytes) -> int:
    """Return the descriptor of an anonymous file that holds `content`, positioned at its start."""
    fd = os.memfd_create(name, os.MFD_CLOEXEC)
    try:
        view = memoryview(content)
        while view:
            view = view[os.write(fd, view) :]
        os.lseek(fd, 0, os.SEEK_SET)
    except BaseException:
        os.close(fd)
        raise
    return fd


def read_memory_file(fd: int) -> bytes:
    """Return the bytes of a memory file and close it; raises WireError when it is over MAX_PAYLOAD_BYTES."""
    try:
        size = os.lseek(fd, 0, os.SEEK_END)
        if size > MAX_PAYLOAD_BYTES:
            raise WireError(f"payload of {size} bytes is over the limit of {MAX_PAYLOAD_BYTES}")
        return os.pread(fd, size, 0)
    finally:
        os.close(fd)


def close_all(descriptors: Sequence[int]) -> None:
    """Close every descriptor of the list."""
    for fd in descriptors:
        os.close(fd)


def _decode(packet: bytes, flags: int, received: list[int]) -> dict[str, Any]:
    if flags & (_TRUNCATED | _DESCRIPTORS_CUT):
        raise WireError("truncated")
    return decode(read_memory_file(received.pop()) if packet == _IN_MEMORY_FILE else packet)


def decode(payload: bytes) -> dict[str, Any]:
    """Return the message that `encode` encoded; raises WireError, or ValueError, where it is none."""
    text = payload.decode("ascii")
    try:
        message, end = _scan(text, 0)
    except StopIteration:
        raise WireError("not JSON") from None
    if end != len(text) or not isinstance(message, dict):
        raise WireError("not a JSON object")
    return message


def is_scarcity(problem: OSError) -> bool:
    """True when sending failed because the kernel lacks something at the moment; the other side may well live."""
    return problem.errno in _SCARCE


def _send_packet(channel: socket.socket, packet: bytes, descriptors: list[int]) -> None:
    ancillary = [(_SOCKET_LEVEL, _RIGHTS, array.array("i", descriptors))] if descriptors else []
    try:
        channel.sendmsg([packet], ancillary, _NO_SIGNAL)
    except OSError as problem:
        if problem.errno != errno.ETOOMANYREFS:
            raise
        # What all processes of a user have in flight is held against the limit of each sender. Jobs that run under the
        # same id as this process may have more in flight than its soft limit, but never as much as its hard one.
        with _most_descriptors():
            channel.sendmsg([packet], ancillary, _NO_SIGNAL)


@contextlib.contextmanager
def _most_descriptors() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
