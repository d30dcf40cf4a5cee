"""Chains turned into values: lazily, once per chain, and only for as long as somebody waits."""

from __future__ import annotations

import asyncio
import posixpath
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from graphql import GraphQLError

from tests.execution.dagger_standin.chain import Chain
from tests.execution.dagger_standin.containers import Containers, ContainerState, ExecOutcome, MountedTree
from tests.execution.dagger_standin.tree import (
    Entry,
    Tree,
    changes,
    empty_tree,
    file_entry,
    read_host,
    write_host,
)

MAX_CONTENTS_BYTES = 128 << 20  # as in the real engine
STDIN = "/.stdin"


@dataclass
class _Job:
    task: asyncio.Task[Any]
    waiters: int = 0


class Evaluator:
    """One session's values; `file_system` is the root of the machine that the session exports to."""

    def __init__(self, containers: Containers, file_system: Path) -> None:
        self._containers = containers
        self._file_system = file_system
        self._jobs: dict[Chain, _Job] = {}
        self._ending: set[asyncio.Task[Any]] = set()

    async def close(self) -> None:
        """End what still runs, and see that it has ended."""
        for job in self._jobs.values():
            job.task.cancel()
        await asyncio.gather(
            *(job.task for job in self._jobs.values()), *self._ending, return_exceptions=True
        )

    async def field(self, chain: Chain, name: str, args: dict[str, Any]) -> Any:
        """Answer a field that is no object."""
        if name == "id":
            return chain.id
        answer = getattr(self, f"_{chain.type_name.lower()}_{name}")
        return await answer(chain, **args)

    # -- fields of Container

    async def _container_sync(self, chain: Chain) -> str:
        state, exec_ = await self._container(chain)
        if exec_ is not None:
            await self._executed(exec_)
        elif await self._containers.image_env(state.image) is None:
            raise GraphQLError(f'failed to resolve image "{state.image}": {state.image}: not found')
        return chain.id

    async def _container_stdout(self, chain: Chain) -> str:
        return _text((await self._result(chain)).stdout)

    async def _container_stderr(self, chain: Chain) -> str:
        return _text((await self._result(chain)).stderr)

    async def _container_exitCode(self, chain: Chain) -> int:  # noqa: N802
        return (await self._result(chain)).exit_code

    async def _container_exists(self, chain: Chain, path: str) -> bool:
        state, exec_ = await self._container(chain)
        if exec_ is not None:
            raise GraphQLError("the stand-in looks at containers before their exec only")
        return await self._containers.has(state, posixpath.join(state.workdir or "/", path))

    async def _container_envVariable(self, chain: Chain, name: str) -> str | None:  # noqa: N802
        state, _ = await self._container(chain)
        return (state.env | (await self._containers.image_env(state.image) or {}) | state.env).get(name)

    # -- fields of Directory and File

    async def _directory_sync(self, chain: Chain) -> str:
        await self._tree(chain)
        return chain.id

    async def _directory_entries(self, chain: Chain) -> list[str]:
        return sorted(path for path in await self._tree(chain) if path != "." and "/" not in path)

    async def _directory_export(self, chain: Chain, path: str) -> str:
        tree = await self._tree(chain)
        await asyncio.to_thread(write_host, tree, self._file_system / path.lstrip("/"))
        return path

    async def _file_sync(self, chain: Chain) -> str:
        await self._tree(chain)
        return chain.id

    async def _file_size(self, chain: Chain) -> int:
        return len((await self._tree(chain))["."].data)

    # -- trees: a directory, or a file as the root

    async def _tree(self, chain: Chain) -> Tree:
        return await self._shared(chain, lambda: self._make_tree(chain))

    async def _make_tree(self, chain: Chain) -> Tree:
        name, args = chain.last
        parent = chain.parent
        if parent.type_name == "Query":
            return empty_tree()
        if parent.type_name == "Host":
            try:
                return await asyncio.to_thread(read_host, args["path"])
            except OSError as error:
                raise GraphQLError(f"lstat {args['path']}: {error.strerror}") from error
        if parent.type_name == "Container":
            outcome = await self._result(parent)
            found = outcome.directories if name == "directory" else outcome.files
            if args["path"] not in found:
                raise GraphQLError(f"{args['path']}: no such file or directory")
            return found[args["path"]]
        tree = await self._tree(parent)
        match name:
            case "file":
                if args["path"] not in tree:
                    raise GraphQLError(f"{args['path']}: no such file or directory")
                return {".": tree[args["path"]]}
            case "diff":
                return changes(tree, await self._tree(Chain.of(args["other"])))
            case "chown":
                return {path: entry.owned_by(args["owner"]) for path, entry in tree.items()}
            case "withFile":
                source = (await self._tree(Chain.of(args["source"])))["."]
                mode = source.info.mode if args.get("permissions") is None else args["permissions"]
                return {**tree, args["path"]: file_entry(source.data, mode, args["owner"])}
            case "withNewFile":
                return {**tree, args["path"]: file_entry(args["contents"].encode(), args["permissions"])}
        raise GraphQLError(f"the stand-in has no {chain.type_name} by '{name}'")

    # -- containers

    async def _container(self, chain: Chain) -> tuple[ContainerState, Chain | None]:
        """Return a container's state before its exec, and the chain up to the exec if there is one."""
        name, args = chain.last
        if chain.parent.type_name != "Container":
            return ContainerState(), None
        state, exec_ = await self._container(chain.parent)
        if exec_ is not None:
            raise GraphQLError("the stand-in runs one exec per chain, at its end")
        match name:
            case "from":
                return replace(state, image=args["address"]), None
            case "withUser":
                return replace(state, user=args["name"]), None
            case "withWorkdir":
                return replace(state, workdir=args["path"]), None
            case "withEnvVariable":
                return replace(state, env={**state.env, args["name"]: args["value"]}), None
            case "withNewFile":
                return _with_file(
                    state, args["path"], file_entry(args["contents"].encode(), args["permissions"])
                ), None
            case "withMountedFile":
                entry = (await self._tree(Chain.of(args["source"])))["."]
                state = replace(state, mounted_files=state.mounted_files | {args["path"]})
                return _with_file(state, args["path"], entry), None
            case "withMountedDirectory":
                mount = MountedTree(await self._tree(Chain.of(args["source"])), args["readOnly"])
                return replace(state, directories={**state.directories, args["path"]: mount}), None
            case "withMountedCache":
                _, volume = Chain.of(args["cache"]).last
                return replace(state, caches={**state.caches, args["path"]: volume["key"]}), None
            case "withExec":
                return state, chain
        raise GraphQLError(f"the stand-in has no Container by '{name}'")

    async def _result(self, chain: Chain) -> ExecOutcome:
        _, exec_ = await self._container(chain)
        if exec_ is None:
            raise GraphQLError("no command has been set")
        return await self._executed(exec_)

    async def _executed(self, chain: Chain) -> ExecOutcome:
        """Run an exec, or take its result from the cache, and hold it against what is expected of it."""
        _, args = chain.last
        state, _ = await self._container(chain.parent)
        run = self._containers.execute
        command = args["args"]
        if args["stdin"]:
            state = _with_file(state, STDIN, file_entry(args["stdin"].encode(), 0o444))
            command = ["sh", "-c", f'exec "$@" < {STDIN}', "sh", *command]
        outcome = await self._shared(
            chain, lambda: run(state, command, privileged=args["insecureRootCapabilities"])
        )
        codes = {"SUCCESS": [range(1)], "FAILURE": [range(1, 128), range(192, 256)]}
        codes["ANY"] = [*codes["SUCCESS"], *codes["FAILURE"]]
        if not any(outcome.exit_code in span for span in codes[args["expect"]]):
            raise GraphQLError(
                f'process "{" ".join(args["args"])}" did not complete successfully: exit code: {outcome.exit_code}',
                extensions={
                    "_type": "EXEC_ERROR",
                    "cmd": args["args"],
                    "exitCode": outcome.exit_code,
                    "stdout": _text(outcome.stdout),
                    "stderr": _text(outcome.stderr),
                },
            )
        return outcome

    async def _shared(self, chain: Chain, work: Callable[[], Awaitable[Any]]) -> Any:
        """Do work once for all who ask; when the last one gives up, end it and see that it has ended."""
        job = self._jobs.get(chain)
        if job is None:
            job = self._jobs[chain] = _Job(asyncio.ensure_future(work()))
        job.waiters += 1
        try:
            return await asyncio.shield(job.task)
        finally:
            job.waiters -= 1
            if job.waiters == 0 and not job.task.done():
                del self._jobs[chain]
                self._ending.add(job.task)
                job.task.cancel()
                await asyncio.wait({job.task})
                self._ending.discard(job.task)


def _with_file(state: ContainerState, path: str, entry: Entry) -> ContainerState:
    return replace(state, files={**state.files, path: entry})


def _text(data: bytes) -> str:
    if len(data) > MAX_CONTENTS_BYTES:
        raise GraphQLError(f"file size {len(data)} exceeds limit {MAX_CONTENTS_BYTES}")
    return data.decode("utf-8", errors="replace")
