"""Services that every test may ask for; what a test does not ask for is not started."""

import contextlib
from collections.abc import Iterator

import pytest

from devservices import ServiceError
from devservices.docker_daemon import as_root, docker_daemon
from devservices.docker_image import PYTHON_IMAGE, image_tarball
from devservices.ordinary_user import OrdinaryUser
from devservices.ordinary_user import ordinary_user as make_ordinary_user


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
