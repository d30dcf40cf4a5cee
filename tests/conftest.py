"""Services that every test may ask for; what a test does not ask for is not started."""

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from uuid import uuid4

import pytest

from devservices import ServiceError
from devservices.docker_daemon import as_root, docker_daemon
from devservices.docker_image import PYTHON_IMAGE, image_tarball
from devservices.ordinary_user import OrdinaryUser
from devservices.ordinary_user import ordinary_user as make_ordinary_user
from devservices.postgres import PostgresServer
from devservices.postgres import postgres_server as make_postgres_server


def pytest_collection_finish(session: pytest.Session) -> None:
    """Build the Docker image before the first test, in nobody's timeout and with its progress in sight."""
    if session.config.option.collectonly:
        return
    if not any("docker_host" in getattr(item, "fixturenames", ()) for item in session.items):
        return
    terminal = session.config.pluginmanager.get_plugin("terminalreporter")
    say = terminal.write_line if terminal else lambda _: None
    try:
        image_tarball(PYTHON_IMAGE, as_root(), say)
    except ServiceError as error:
        say(f"docker: {error}")  # the tests that need it fail with the same words


@pytest.fixture(scope="session")
def docker_host() -> Iterator[str]:
    """The address (``unix:///...``) of a private, real Docker daemon that holds ``python:3.11-slim``.

    It has no network but ``none`` and ``host``. It is started with the first test that asks for it and
    ended, with all its containers, after the last; with pytest-xdist, once per worker. It runs in a PID
    namespace: the pids that ``docker inspect`` tells are not the host's, though the host sees the processes
    under numbers of its own.

    A machine that cannot run it fails the test; it does not skip it.
    """
    with contextlib.ExitStack() as stack:
        try:
            address = stack.enter_context(docker_daemon(say=lambda _: None))
        except ServiceError as error:
            pytest.fail(str(error), pytrace=False)
        yield address


@pytest.fixture
def docker_environment(docker_host: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The same daemon, also named by DOCKER_HOST in this process's environment while the test runs."""
    monkeypatch.setenv("DOCKER_HOST", docker_host)
    return docker_host


@pytest.fixture(scope="session")
def ordinary_user() -> Iterator[OrdinaryUser]:
    """A user without privileges, with a readable copy of the code: ``ordinary_user.run(["id", "-u"])``.

    Where the tests do not run as root it is the user who runs them. See `devservices.ordinary_user`.
    """
    with make_ordinary_user() as user:
        yield user


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """A private, real PostgreSQL server, which all tests of this process share; none may stop it.

    It is started with the first test that asks for it; with pytest-xdist, once per worker. A machine without
    PostgreSQL fails the test; it does not skip it.
    """
    with contextlib.ExitStack() as stack:
        try:
            server = stack.enter_context(make_postgres_server())
        except ServiceError as error:
            pytest.fail(str(error), pytrace=False)
        yield server


@pytest.fixture
def own_postgres_server() -> Iterator[PostgresServer]:
    """A PostgreSQL server for one test, which may stop it and start it again; it waits for the disk."""
    with contextlib.ExitStack() as stack:
        try:
            server = stack.enter_context(make_postgres_server(durable=True))
        except ServiceError as error:
            pytest.fail(str(error), pytrace=False)
        yield server


@pytest.fixture(scope="session")
def postgres_template(postgres_server: PostgresServer) -> str:
    """The name of a database that has the tables of the store, and nothing in them."""
    from praxis_sdk.store.postgres.store import PostgresStore

    async def fill() -> None:
        store = await PostgresStore.open(postgres_server.url("template"))
        await store.close()

    postgres_server.sql("CREATE DATABASE template")
    # Not in this thread, where a test's event loop may be about to run.
    thread = threading.Thread(target=asyncio.run, args=(fill(),))
    thread.start()
    thread.join()
    return "template"


@pytest.fixture
def empty_postgres_url(postgres_server: PostgresServer) -> Iterator[str]:
    """The address of a database of this test alone, without any tables."""
    yield from _database(postgres_server, "template0")


@pytest.fixture
def postgres_url(postgres_server: PostgresServer, postgres_template: str) -> Iterator[str]:
    """The address of a database of this test alone, which has the tables of the store."""
    yield from _database(postgres_server, postgres_template)


def _database(server: PostgresServer, template: str) -> Iterator[str]:
    name = f"test_{uuid4().hex}"
    server.sql(f"CREATE DATABASE {name} TEMPLATE {template}")
    yield server.url(name)
    server.sql(f"DROP DATABASE {name} WITH (FORCE)")
