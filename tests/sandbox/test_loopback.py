"""A sandbox may have one door: a listening socket on its own loopback device, which the client holds."""

import asyncio
import os
import socket

import pytest

from praxis_sdk.sandbox import Launcher, Limits, Policy, PolicyError

from .conftest import read_all
from .test_zygote import warm  # noqa: F401 - a fixture

PORT = 3128
TALK = f"""
import socket
with socket.create_connection(("127.0.0.1", {PORT})) as door:
    door.sendall(b"knock")
    print(door.recv(100).decode())
for address in (("127.0.0.1", 1), ("169.254.169.254", 80), ("1.1.1.1", 53)):
    try:
        socket.create_connection(address, 1)
        print("reached", address)
    except OSError as problem:
        print(problem.errno)
"""


async def answer(listener_fd: int) -> bytes:
    loop = asyncio.get_running_loop()
    with socket.socket(fileno=os.dup(listener_fd)) as door:
        connection, _ = await loop.sock_accept(door)
        with connection:
            connection.setblocking(False)
            heard = await loop.sock_recv(connection, 100)
            await loop.sock_sendall(connection, b"come in")
    return heard


@pytest.mark.parametrize("forked", [False, True])
async def test_work_can_talk_to_the_client_and_to_nobody_else(warm: Launcher, forked: bool) -> None:  # noqa: F811
    policy = Policy(limits=Limits(memory_bytes=256 << 20), loopback_port=PORT)
    for _ in range(2):
        order = os.memfd_create("order")
        os.write(order, TALK.encode())
        os.lseek(order, 0, os.SEEK_SET)
        reader, writer = os.pipe()
        if forked:
            sandbox = await warm.fork(policy, order, stdout=writer, stderr=writer)
        else:
            sandbox = await warm.spawn(policy, ["python3", "-"], stdin=order, stdout=writer, stderr=writer)
        os.close(writer)
        os.close(order)
        with sandbox:
            assert await asyncio.wait_for(answer(sandbox.listener_fd), 20) == b"knock"
            assert await read_all(reader) == b"come in\n111\n101\n101\n"
            assert (await sandbox.wait()).ok
        os.close(reader)


async def test_without_a_port_there_is_no_door(launcher: Launcher) -> None:
    with await launcher.spawn(Policy(), ["true"]) as sandbox:
        assert sandbox.listener_fd == -1
        await sandbox.wait()


@pytest.mark.parametrize("port", [0, -1, 65_536])
def test_the_port_must_be_one(port: int) -> None:
    with pytest.raises(PolicyError, match="loopback_port"):
        Policy(loopback_port=port)
