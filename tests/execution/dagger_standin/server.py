"""The stand-in as a server: GraphQL over HTTP with a session token, on a thread with an event loop of its own."""

from __future__ import annotations

import asyncio
import base64
import hmac
import secrets
import threading
import uuid
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import aiodocker
from aiohttp import web
from graphql import GraphQLResolveInfo, get_named_type, graphql, is_object_type

from tests.execution.dagger_standin.chain import Chain
from tests.execution.dagger_standin.containers import LABEL, Containers
from tests.execution.dagger_standin.evaluator import Evaluator
from tests.execution.dagger_standin.schema import make_schema

VERSION = "v0.21.11-stand-in"
START_BOUND_S = 30.0


class DaggerStandIn:
    """One session of an engine that runs its execs in a Docker daemon; a context manager.

    Args:
        docker_host: the daemon's address.
        file_system: where the session's machine has its root; another place makes it another machine.

    Attributes:
        port, token: where it is reached, and what it wants to be shown.
        executions: the arguments of every exec whose process was started, in order.
        requests: how many requests were answered.
    """

    def __init__(self, docker_host: str, file_system: Path = Path("/")) -> None:
        self.docker_host = docker_host
        self.file_system = file_system
        self.port = 0
        self.token = secrets.token_hex(16)
        self.executions: list[list[str]] = []
        self.requests = 0
        self._session = uuid.uuid4().hex
        self._schema = make_schema()
        self._open_requests = 0
        self._changed = threading.Condition()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), name="dagger-stand-in")
        self._loop: asyncio.AbstractEventLoop
        self._stopping: asyncio.Event

    @property
    def environment(self) -> dict[str, str]:
        """The variables by which clients find it."""
        return {"DAGGER_SESSION_PORT": str(self.port), "DAGGER_SESSION_TOKEN": self.token}

    def __enter__(self) -> Self:
        self._thread.start()
        if not self._ready.wait(START_BOUND_S):
            raise RuntimeError("the stand-in did not start")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def alive(self) -> bool:
        """Whether it was not stopped yet."""
        return self._thread.is_alive()

    def stop(self) -> None:
        """Die: connections break, execs end; repeatable."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stopping.set)
            self._thread.join()

    def settle(self) -> None:
        """Wait until every request has been dealt with, those of clients that went away included."""
        with self._changed:
            assert self._changed.wait_for(lambda: self._open_requests == 0, START_BOUND_S), (
                "requests are left open"
            )

    def wait_started(self, marker: str) -> None:
        """Wait until an exec with a marker in its arguments runs."""
        with self._changed:
            assert self._changed.wait_for(
                lambda: any(marker in word for args in self.executions for word in args), START_BOUND_S
            ), f"no exec with {marker} was started"

    async def leftovers(self) -> list[str]:
        """Return the containers that are there now."""
        async with aiodocker.Docker(url=self.docker_host) as docker:
            filters = {"label": [f"{LABEL}={self._session}"]}
            return [found.id for found in await docker.containers.list(all=True, filters=filters)]

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stopping = asyncio.Event()
        containers = Containers(self.docker_host, self._session, self._started)
        self._evaluator = Evaluator(containers, self.file_system)
        app = web.Application(client_max_size=64 << 20)
        app.router.add_post("/query", self._query)
        runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
        try:
            await runner.setup()
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            self.port = runner.addresses[0][1]
            self._ready.set()
            await self._stopping.wait()
        finally:
            await runner.cleanup()
            await self._evaluator.close()
            await containers.close()

    def _started(self, args: list[str]) -> None:
        with self._changed:
            self.executions.append(args)
            self._changed.notify_all()

    async def _query(self, request: web.Request) -> web.Response:
        with self._changed:
            self._open_requests += 1
        try:
            return await self._answer(request)
        finally:
            with self._changed:
                self._open_requests -= 1
                self.requests += 1
                self._changed.notify_all()

    async def _answer(self, request: web.Request) -> web.Response:
        expected = "Basic " + base64.b64encode(f"{self.token}:".encode()).decode()
        if not hmac.compare_digest(request.headers.get("Authorization", ""), expected):
            return web.Response(status=401, text="unauthorized")
        body = await request.json()
        result = await graphql(
            self._schema,
            body["query"],
            variable_values=body.get("variables"),
            field_resolver=self._resolve,
            type_resolver=lambda value, *_: value.type_name,
        )
        return web.json_response(result.formatted)

    def _resolve(self, parent: Chain | None, info: GraphQLResolveInfo, **args: Any) -> Any:
        chain = parent or Chain("Query")
        if info.field_name == "version":
            return VERSION
        if info.field_name == "node":
            return Chain.of(args["id"])
        named = get_named_type(info.return_type)
        if is_object_type(named):
            if args.get("noCache"):
                args["nonce"] = uuid.uuid4().hex  # another object each time, so what is cached is not it
            return chain.then(named.name, info.field_name, args)
        return self._evaluator.field(chain, info.field_name, args)
