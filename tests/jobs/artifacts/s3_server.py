"""A real S3 server (moto) in a process of its own, whose clock a test can move.

Started by the `s3` fixture as `python s3_server.py`: prints its port, serves until its standard input closes,
so it ends with the tests even when they are killed. `POST /praxis-test/clock` with a number of seconds
moves the clock by which objects get their time of last modification.
"""

from __future__ import annotations

import datetime as dt
import logging
import os
import sys
import threading
from collections.abc import Callable, Iterable
from typing import Any

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from moto.s3 import models
from werkzeug.serving import make_server

CLOCK = "/praxis-test/clock"

_real_utcnow = models.utcnow
_shift = dt.timedelta()


def _utcnow() -> dt.datetime:
    return _real_utcnow() + _shift


def _application() -> Callable[[dict[str, Any], Any], Iterable[bytes]]:
    moto = DomainDispatcherApplication(create_backend_app)

    def serve(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        global _shift
        if environ["PATH_INFO"] != CLOCK:
            return moto(environ, start_response)
        body = environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"]))
        _shift += dt.timedelta(seconds=float(body))
        start_response("204 No Content", [])
        return []

    return serve


def main() -> None:
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    models.utcnow = _utcnow
    server = make_server("127.0.0.1", 0, _application(), threaded=True, request_handler=MotoRequestHandler)
    print(server.port, flush=True)

    def end_with_the_tests() -> None:
        sys.stdin.buffer.read()
        os._exit(0)

    threading.Thread(target=end_with_the_tests, daemon=True).start()
    server.serve_forever()


if __name__ == "__main__":
    main()
