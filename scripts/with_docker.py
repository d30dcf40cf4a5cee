"""Runs a command beside a private Docker daemon, which it finds through DOCKER_HOST.

    with_docker.py [--optional] COMMAND [ARGUMENT...]

The daemon holds the image python:3.11-slim, serves this command alone, and is gone when the command ends.
With --optional the command also runs, without DOCKER_HOST, where no daemon can be started.
"""

import contextlib
import os
import signal
import subprocess
import sys

from devservices import ServiceError
from devservices.docker_daemon import docker_daemon


def say(line: str) -> None:
    """Report progress, apart from what the command writes."""
    print(line, file=sys.stderr, flush=True)


def run(command: list[str], environment: dict[str, str]) -> int:
    """Run the command to its end; return its status as a shell would."""
    process = subprocess.Popen(command, env=environment)
    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # the terminal sends it to the command as well, which decides
    signal.signal(signal.SIGTERM, lambda *_: process.terminate())
    status = process.wait()
    return status if status >= 0 else 128 - status


def main(arguments: list[str]) -> int:
    """Start the daemon, run the command, end the daemon."""
    optional = arguments[:1] == ["--optional"]
    command = arguments[optional:]
    if not command:
        print(__doc__, file=sys.stderr)
        return 2
    with contextlib.ExitStack() as stack:
        environment = dict(os.environ)
        try:
            environment["DOCKER_HOST"] = stack.enter_context(docker_daemon(say=say))
        except ServiceError as error:
            if not optional:
                say(f"docker: {error}")
                return 3
            say(f"docker: going on without, since {error}")
        return run(command, environment)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
