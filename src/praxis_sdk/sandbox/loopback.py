"""The only network that a sandbox can have: its own loopback device, with one door that opens to the client.

The init, which still owns the new network namespace, brings the device up and listens; the socket goes to the client,
whose proxy accepts from it. Work inside can connect to that port, and to what it listens on itself.
"""

from __future__ import annotations

import fcntl
import socket
import struct

ADDRESS = "127.0.0.1"
BACKLOG = 128
_SIOCSIFFLAGS = 0x8914
_UP_AND_RUNNING = 0x41


def open_door(port: int) -> int:
    """Bring the loopback device up and listen on it; returns the listening socket's descriptor.

    Raises:
        OSError: the device or the port cannot be had.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        fcntl.ioctl(control, _SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", _UP_AND_RUNNING))
    door = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        door.bind((ADDRESS, port))
        door.listen(BACKLOG)
        door.setblocking(False)
    except OSError as problem:
        door.close()
        raise OSError(problem.errno, f"listening on {ADDRESS} port {port}: {problem.strerror}") from problem
    return door.detach()
