"""The only network that a sandbox can have: its own loopback device, with one door that opens to the client.

The init, which still owns the new network namespace, brings the device up and listens; the socket goes to the client,
whose proxy accepts from it. Work inside can connect to that port, and to what it listens on itself.
"""

from __future__ import annotations

import fcntl
import os
import socket
import struct

from praxis_sdk.sandbox import kernel

ADDRESS = "127.0.0.1"
BACKLOG = 128
# What TCP keeps for each connection comes out of one budget of the whole machine (`net.ipv4.tcp_mem`), and where no
# control group counts it, it is the only thing that does. So each may keep less than usual: minimum, default, maximum.
_BUFFERS = {"tcp_rmem": "4096 65536 262144", "tcp_wmem": "4096 16384 262144"}
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


def bound_buffers(pid: int) -> None:
    """Set the sizes of buffers in the network namespace of another process.

    A helper does it, because without privileges there is no way back from there. It goes without where /proc/sys is
    read-only, as in many containers.

    Raises:
        OSError: there is no helper to be had.
    """
    helper, helper_fd = kernel.clone3(0)
    if helper == 0:
        try:
            kernel.setns(os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC), kernel.CLONE_NEWNET)
            for name, sizes in _BUFFERS.items():
                with open(f"/proc/sys/net/ipv4/{name}", "w") as file:
                    file.write(sizes)
        finally:
            os._exit(0)
    os.close(helper_fd)
    os.waitpid(helper, 0)
