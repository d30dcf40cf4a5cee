"""Real services for tests, the demo and the benchmarks, started by whoever needs them.

Nothing here is part of Praxis, and nothing here is shared with the machine's own services: every service
has its own process tree, its own directory under ``.cache`` and its own socket, and is gone when its user
is gone.

``docker_daemon``   a private dockerd, with the images that contracts name
``docker_image``    how those images are made where no registry can be reached
``docker_init``     the first process of the daemon's PID namespace, which ends it for certain
``ordinary_user``   runs a program as an unprivileged user where the tests themselves run as root

Only the standard library is used, so that any Python 3.11 can start a service.
"""

from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
CACHE = CHECKOUT / ".cache"


class ServiceError(RuntimeError):
    """A service cannot be had on this machine; the message names the remedy."""
