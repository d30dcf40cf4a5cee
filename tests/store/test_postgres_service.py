"""The PostgreSQL server that tests rely on is real, private, and gone with its user."""

import os
import select
import signal
import subprocess
import sys
from pathlib import Path

from devservices import CHECKOUT
from devservices.postgres import PostgresServer, postgres_server

RUN_ONE = """
import pathlib, sys, time
from devservices.postgres import postgres_server
with postgres_server() as server:
    pid = (server.data / "postmaster.pid").read_text().split()[0]
    print(pid, server.directory, flush=True)
    sys.stdin.read()
"""


def test_a_killed_user_leaves_no_server_and_its_files_go_with_the_next() -> None:
    environment = os.environ | {"PYTHONPATH": str(CHECKOUT / "scripts")}
    user = subprocess.Popen(
        [sys.executable, "-c", RUN_ONE],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert user.stdin
    assert user.stdout
    pid, directory = user.stdout.readline().split()
    postmaster = os.pidfd_open(int(pid))
    user.send_signal(signal.SIGKILL)
    user.wait()
    dead, _, _ = select.select([postmaster], [], [], 30)
    os.close(postmaster)
    user.stdin.close()
    user.stdout.close()
    assert dead, "the server outlived its user"
    assert Path(directory).exists()
    with postgres_server() as server:
        assert server.directory != Path(directory)
        assert not Path(directory).exists()


def test_a_server_has_no_port_and_its_own_directory(postgres_server: PostgresServer) -> None:
    assert postgres_server.sql("SHOW listen_addresses") == ""
    assert postgres_server.sql("SHOW fsync") == "off"
    assert postgres_server.directory.stat().st_mode & 0o077 == 0


def test_a_durable_server_waits_for_the_disk(own_postgres_server: PostgresServer) -> None:
    assert own_postgres_server.sql("SHOW fsync") == "on"
    assert own_postgres_server.sql("SHOW synchronous_commit") == "on"
