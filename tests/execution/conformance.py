"""The conformance suite: what every engine promises, whatever stands behind it.

`EngineConformance` holds for all engines; `ProcessConformance` adds what holds for those that start a
process. A test module per engine derives a class from one of them and supplies the fixture `engine` and
the contracts. What an engine does not claim to support it must refuse: no test here is skipped.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import time
import uuid
from pathlib import Path
from typing import Any

import pytest
import structlog

from praxis_sdk.errors import ExecutionError, ValidationError
from praxis_sdk.execution.base import ExecutionEngine
from praxis_sdk.execution.context import RunContext, StreamName
from praxis_sdk.execution.contract.specs import EngineType
from praxis_sdk.execution.contracts import ToolContract, ToolParameter
from praxis_sdk.execution.outcome import Limit, ToolOutcome
from praxis_sdk.states import ExecutionStatus, FailureCategory
from praxis_sdk.termination import Termination

# Far longer than any test lasts, and short enough to end by itself on a machine where a test failed.
LONG_S = 60


class Listener:
    """Collects live output and tells when an expected text has appeared."""

    def __init__(self, expected: str = "") -> None:
        self.expected = expected.encode()
        self.received: dict[str, bytes] = {"stdout": b"", "stderr": b""}
        self.seen = asyncio.Event()

    def __call__(self, stream: StreamName, data: bytes) -> None:
        self.received[stream] += data
        if self.expected in self.received[stream]:
            self.seen.set()


class EngineConformance:
    """What every engine promises.

    A deriving class supplies the fixture `engine` and these five contracts. Each takes the parameter
    `text` (a required string).
    """

    engine_type: EngineType
    claims_usage = True
    confirms_ends = True  # False: tools run where no signal reaches, and nothing tells of their end

    def echoing(self) -> ToolContract:
        """Return a tool that writes its argument `text` and a line break to stdout."""
        raise NotImplementedError

    def failing(self) -> ToolContract:
        """Return a tool that fails, saying 'problem: ' and its argument `text`."""
        raise NotImplementedError

    def hanging(self, marker: str) -> ToolContract:
        """Return a tool that goes on for `LONG_S`; `marker` is somewhere in its command or request."""
        raise NotImplementedError

    def flooding(self) -> ToolContract:
        """Return a tool that writes far more than its output limit of 64 KiB."""
        raise NotImplementedError

    def leftovers(self, marker: str) -> list[str]:
        """Return what is left of a tool that ran with a marker: processes, containers, open calls."""
        raise NotImplementedError

    async def started(self, marker: str, listener: Listener) -> None:
        """Wait until the hanging tool with this marker really runs."""
        raise NotImplementedError

    # -- results

    async def test_success_yields_output_and_a_full_account(self, engine: ExecutionEngine) -> None:
        listener = Listener()
        outcome = await engine.run(self.echoing(), {"text": "größe 7 ☃"}, RunContext(on_output=listener))
        assert outcome.status is ExecutionStatus.COMPLETED, outcome
        assert outcome.stdout.rstrip("\n") == "größe 7 ☃"
        assert outcome.stdout_bytes == len(outcome.stdout.encode())
        assert listener.received["stdout"].decode() == outcome.stdout
        assert outcome.failure is None
        assert outcome.succeeded
        assert outcome.exit_status == 0
        assert outcome.engine == self.engine_type
        assert 0 < outcome.duration_s < LONG_S
        if self.claims_usage:
            assert outcome.usage.cpu_s is not None
            assert outcome.usage.cpu_s >= 0
            assert outcome.usage.peak_memory_bytes is not None
            assert outcome.usage.peak_memory_bytes > 0

    async def test_execute_returns_stdout(self, engine: ExecutionEngine) -> None:
        assert (await engine.execute(self.echoing(), {"text": "plain"})).strip() == "plain"

    async def test_failure_keeps_exit_code_and_output(self, engine: ExecutionEngine) -> None:
        outcome = await engine.run(self.failing(), {"text": "out of paper"})
        assert outcome.status is ExecutionStatus.FAILED
        assert outcome.failure is not None
        assert outcome.failure.category is FailureCategory.USER_CODE_ERROR
        assert "problem: out of paper" in outcome.stdout + outcome.stderr
        assert outcome.exit_status != 0

    async def test_execute_raises_what_failed(self, engine: ExecutionEngine) -> None:
        with pytest.raises(ExecutionError) as caught:
            await engine.execute(self.failing(), {"text": "out of paper"})
        assert "problem: out of paper" in (caught.value.output or "")

    # -- arguments are checked before anything starts

    @pytest.mark.parametrize(
        ("args", "field"),
        [
            ({}, "args.text"),
            ({"text": 7}, "args.text"),
            ({"text": "a", "txet": "b"}, "args.txet"),
            ({"text": "\0"}, "args.text"),
        ],
    )
    async def test_bad_arguments_are_refused_by_name(
        self, engine: ExecutionEngine, args: dict[str, Any], field: str
    ) -> None:
        with pytest.raises(ValidationError, match=field):
            await engine.execute(self.echoing(), args)

    # -- ends

    async def test_timeout_ends_the_tool_and_leaves_nothing(self, engine: ExecutionEngine) -> None:
        marker = f"conformance-{uuid.uuid4().hex}"
        began = time.monotonic()
        outcome = await engine.run(self.hanging(marker), {"text": marker}, RunContext(timeout_s=1.5))
        assert outcome.status is ExecutionStatus.TIMED_OUT, outcome
        assert outcome.limit is Limit.TIMEOUT
        assert outcome.failure is not None
        assert outcome.failure.category is FailureCategory.RESOURCE_LIMIT
        assert outcome.exit_status == 124
        assert time.monotonic() - began < LONG_S / 2
        assert self.leftovers(marker) == []

    async def test_a_proof_is_given_from_evidence_only(self, engine: ExecutionEngine) -> None:
        """What was made to end is confirmed where the kernel or a daemon says so, and nowhere else."""
        marker = f"conformance-{uuid.uuid4().hex}"
        known: list[Termination] = []
        listener = Listener("ready")
        context = RunContext(on_output=listener, on_termination=known.append)
        running = asyncio.ensure_future(engine.run(self.hanging(marker), {"text": marker}, context))
        await asyncio.wait_for(self.started(marker, listener), LONG_S / 2)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        if self.confirms_ends:
            assert known[-1].confirmed
        else:
            assert not known[-1].confirmed
            assert known[-1].remains is None, "nothing here can end it"
            assert known[-1].known.startswith("cancellation requested: ")

    async def test_an_answer_is_evidence(self, engine: ExecutionEngine) -> None:
        known: list[Termination] = []
        await engine.run(self.echoing(), {"text": "a"}, RunContext(on_termination=known.append))
        assert known[-1].confirmed

    async def test_cancellation_ends_the_tool_and_leaves_nothing(self, engine: ExecutionEngine) -> None:
        marker = f"conformance-{uuid.uuid4().hex}"
        listener = Listener("ready")
        run = asyncio.ensure_future(
            engine.run(self.hanging(marker), {"text": marker}, RunContext(on_output=listener))
        )
        await asyncio.wait_for(self.started(marker, listener), LONG_S / 2)
        assert self.leftovers(marker) != [], "the tool must be seen while it runs, or the next check is void"
        run.cancel()
        with pytest.raises(asyncio.CancelledError):
            await run
        assert self.leftovers(marker) == []

    async def test_cancellation_during_launch_leaves_nothing(self, engine: ExecutionEngine) -> None:
        marker = f"conformance-{uuid.uuid4().hex}"
        for turns in (0, 1, 2, 3, 5, 8):
            run = asyncio.ensure_future(engine.run(self.hanging(marker), {"text": marker}))
            for _ in range(turns):
                await asyncio.sleep(0)  # let the launch get that far
            run.cancel()
            with pytest.raises(asyncio.CancelledError):
                await run
        assert self.leftovers(marker) == []

    async def test_output_limit_ends_the_tool(self, engine: ExecutionEngine) -> None:
        outcome = await engine.run(self.flooding(), {"text": "x"})
        assert outcome.status is ExecutionStatus.FAILED
        assert outcome.limit is Limit.OUTPUT
        assert outcome.failure is not None
        assert outcome.failure.category is FailureCategory.RESOURCE_LIMIT
        assert len(outcome.stdout) == 64 << 10
        assert outcome.stdout_bytes > 64 << 10

    # -- many, again, and away

    async def test_twenty_runs_at_once(self, engine: ExecutionEngine) -> None:
        outcomes = await asyncio.gather(
            *(engine.run(self.echoing(), {"text": f"number {i}"}) for i in range(20))
        )
        assert [outcome.stdout.strip() for outcome in outcomes] == [f"number {i}" for i in range(20)]
        assert len({outcome.execution_id for outcome in outcomes}) == 20

    async def test_cleanup_is_repeatable_and_the_engine_serves_again(self, engine: ExecutionEngine) -> None:
        await engine.run(self.echoing(), {"text": "before"})
        await engine.cleanup()
        await engine.cleanup()
        assert (await engine.run(self.echoing(), {"text": "after"})).stdout.strip() == "after"
        await engine.cleanup()

    # -- what it says of itself

    async def test_capabilities_have_the_keys_of_the_spec(self, engine: ExecutionEngine) -> None:
        capabilities = await engine.get_capabilities()
        assert capabilities["engine_type"] == self.engine_type
        assert capabilities["available"] is True, capabilities
        for key in (
            "supports_containers",
            "supports_mounts",
            "supports_environment",
            "supports_resource_limits",
            "supports_memory_limit",
            "supports_cpu_limit",
            "supports_network_isolation",
        ):
            assert isinstance(capabilities[key], bool), key
        assert capabilities["isolation"] == engine.isolation.label
        json.dumps(capabilities)

    async def test_own_contracts_are_valid_and_foreign_ones_are_not(self, engine: ExecutionEngine) -> None:
        assert await engine.validate_contract(self.echoing()) is True
        if self.engine_type is not EngineType.REMOTE_MCP:
            foreign = ToolContract(
                name="far", engine=EngineType.REMOTE_MCP, engine_spec={"address": "http://localhost:1/mcp"}
            )
            assert await engine.validate_contract(foreign) is False

    async def test_logs_tell_start_and_end_without_arguments(self, engine: ExecutionEngine) -> None:
        with structlog.testing.capture_logs() as logs:
            await engine.run(self.echoing(), {"text": "secret-argument"}, RunContext(execution_id="run-1"))
        mine = [line for line in logs if line.get("execution_id") == "run-1"]
        assert [line["event"] for line in mine if line["event"].startswith("tool.")] == [
            "tool.started",
            "tool.ended",
        ]
        ended = mine[-1]
        assert ended["status"] == "completed"
        assert ended["duration_s"] > 0
        assert "secret-argument" not in json.dumps(logs, default=str)


class ProcessConformance(EngineConformance):
    """What engines promise that start a process with a command, an environment and perhaps mounts.

    A deriving class supplies `base_spec`: the fields that every spec of its engine needs.
    """

    base_spec: dict[str, Any] = {}
    python = "python3"

    def contract(self, script: str, *args: str, **spec: Any) -> ToolContract:
        """Make a contract whose tool is a Python script; it may take `text` and other odd parameters."""
        return ToolContract(
            name="probe",
            engine=self.engine_type,
            engine_spec={**self.base_spec, "command": [self.python, "-c", script, *args], **spec},
            parameters=[
                ToolParameter(name="text", required=True),
                *(
                    ToolParameter(name=name, type="any")
                    for name in ("number", "flag", "items", "PATH", "LD_PRELOAD")
                ),
            ],
            trust="trusted" if self.engine_type is EngineType.LOCAL else "untrusted",
        )

    async def run(
        self,
        engine: ExecutionEngine,
        script: str,
        *,
        workspace: Path | None = None,
        text: str = "t",
        **spec: Any,
    ) -> ToolOutcome:
        """Run a Python script as a tool."""
        context = RunContext(workspace=workspace) if workspace else RunContext()
        return await engine.run(self.contract(script, **spec), {"text": text}, context)

    def echoing(self) -> ToolContract:
        return self.contract("import os; print(os.environ['ARG_TEXT'])")

    def failing(self) -> ToolContract:
        return self.contract(
            "import os, sys\n"
            "print('half', 'done')\n"
            "print('problem:', os.environ['ARG_TEXT'], file=sys.stderr)\n"
            "sys.exit(7)\n"
        )

    def hanging(self, marker: str) -> ToolContract:
        # A grandchild in a session of its own that ignores SIGTERM must not survive either.
        script = (
            "import os, signal, subprocess, sys, time\n"
            "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
            f"nap = [sys.executable, '-c', 'import time; time.sleep({LONG_S})', sys.argv[1]]\n"
            "subprocess.Popen(nap, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)\n"
            "print('ready', flush=True)\n"
            f"time.sleep({LONG_S})\n"
        )
        return self.contract(script, marker)

    def flooding(self) -> ToolContract:
        return self.contract("while True: print('x' * 1000)", output_limit="64k")

    def leftovers(self, marker: str) -> list[str]:
        return processes_with(marker)

    async def started(self, marker: str, listener: Listener) -> None:
        await listener.seen.wait()

    # -- results of processes

    async def test_nonzero_exit_keeps_both_streams(self, engine: ExecutionEngine) -> None:
        outcome = await engine.run(self.failing(), {"text": "jam"})
        assert outcome.exit_code == 7
        assert outcome.exit_status == 7
        assert outcome.stdout == "half done\n"
        assert outcome.stderr == "problem: jam\n"
        with pytest.raises(ExecutionError) as caught:
            await engine.execute(self.failing(), {"text": "jam"})
        assert caught.value.exit_code == 7
        assert caught.value.output == "half done\nproblem: jam\n"

    async def test_undecodable_output_is_replaced(self, engine: ExecutionEngine) -> None:
        outcome = await self.run(engine, "import os; os.write(1, b'a\\xff\\x00b')")
        assert outcome.stdout == "a\ufffd\x00b"
        assert outcome.stdout_bytes == 4

    async def test_missing_command_is_a_missing_dependency(self, engine: ExecutionEngine) -> None:
        contract = self.contract("").model_copy(
            update={"engine_spec": {**self.base_spec, "command": ["no-such-program-here"]}}
        )
        outcome = await engine.run(contract, {"text": "t"})
        assert outcome.status is ExecutionStatus.FAILED
        assert outcome.failure is not None
        assert outcome.failure.category is FailureCategory.DEPENDENCY_ERROR
        assert "no-such-program-here" in outcome.failure.message
        assert outcome.exit_status == 127

    async def test_stdin_is_empty(self, engine: ExecutionEngine) -> None:
        assert (await self.run(engine, "import sys; print(repr(sys.stdin.read()))")).stdout == "''\n"

    COUNTING = "import sys; data = sys.stdin.buffer.read(); print(len(data), data[:9])"

    async def test_what_the_caller_gives_is_read_on_standard_input(
        self, engine: ExecutionEngine, tmp_path: Path
    ) -> None:
        contract = self.contract(self.COUNTING)
        args = {"text": "t"}
        outcome = await engine.run(contract, args, RunContext(stdin="größe\n".encode()))
        assert outcome.stdout == f"8 {'größe'.encode() + bytes([10])!r}\n"
        (tmp_path / "data").write_bytes(b"line\n" * 100_000)
        with (tmp_path / "data").open("rb") as file:
            os.lseek(file.fileno(), 5, os.SEEK_SET)
            outcome = await engine.run(contract, args, RunContext(stdin=file.fileno()))
            assert outcome.stdout == "499995 b'line\\nline'\n", outcome
            assert os.lseek(file.fileno(), 0, os.SEEK_CUR) == 5, "the caller's place in the file stays"
        reading, writing = os.pipe()
        os.write(writing, b"piped")
        os.close(writing)
        assert (await engine.run(contract, args, RunContext(stdin=reading))).stdout == "5 b'piped'\n"
        os.close(reading)

    async def test_a_tool_need_not_read_its_standard_input(self, engine: ExecutionEngine) -> None:
        contract = self.contract("print('done')")
        outcome = await engine.run(contract, {"text": "t"}, RunContext(stdin=b"x" * 1_000_000))
        assert outcome.stdout == "done\n", outcome

    async def test_a_contract_puts_arguments_on_standard_input(self, engine: ExecutionEngine) -> None:
        contract = self.contract(
            "import sys; print(ascii(sys.stdin.read()))", stdin="<{{text}}> {{number}}\n"
        )
        large = "ü\n" * 100_000
        assert (await engine.execute(contract, {"text": large, "number": 3})).strip() == ascii(
            f"<{large}> 3\n"
        )
        with pytest.raises(ValidationError, match="fills its standard input itself"):
            await engine.run(contract, {"text": "t"}, RunContext(stdin=b"x"))
        script = "import json, sys; print(json.load(sys.stdin) == {'text': 'a\\nü', 'items': [1]})"
        contract = self.contract(script, arguments="stdin")
        assert await engine.execute(contract, {"text": "a\nü", "items": [1]}) == "True\n"

    async def test_what_a_finished_tool_left_running_is_ended(self, engine: ExecutionEngine) -> None:
        marker = f"conformance-{uuid.uuid4().hex}"
        script = (
            "import subprocess, sys\n"
            f"nap = [sys.executable, '-c', 'import time; time.sleep({LONG_S})', sys.argv[1]]\n"
            "subprocess.Popen(nap, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)\n"
            "print('left one behind')\n"
        )
        outcome = await engine.run(self.contract(script, marker), {"text": "t"})
        assert outcome.stdout == "left one behind\n"
        assert processes_with(marker) == []

    # -- output files

    async def test_output_files_are_collected_from_a_fresh_writable_working_directory(
        self, engine: ExecutionEngine, tmp_path: Path
    ) -> None:
        script = (
            "import os\n"
            "print(os.listdir('.'))\n"
            "os.makedirs('plots/deep')\n"
            "for name in ('a.csv', 'b.txt', 'plots/c.png', 'plots/deep/d.png', 'plots/e.csv'):\n"
            "    open(name, 'w').write(name)\n"
            "os.symlink('/etc/hostname', 'f.csv')\n"
        )
        contract = self.contract(script, outputs=["*.csv", "plots/**/*.png"])
        outcome = await engine.run(contract, {"text": "t"}, RunContext(outputs=tmp_path / "out"))
        assert outcome.stdout == "[]\n", outcome
        assert outcome.succeeded, outcome
        expected = {"a.csv", "plots/c.png", "plots/deep/d.png"}
        kept = {path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.*")}
        assert kept == expected
        assert {file.path for file in outcome.outputs} == expected
        assert (tmp_path / "out/plots/deep/d.png").read_text() == "plots/deep/d.png"
        assert outcome.exports.files == ()
        told = await engine.run(contract, {"text": "t"})
        assert any("were not kept" in note and "a.csv" in note for note in told.notes), told.notes

    # -- environment and arguments

    async def test_environment_is_an_allow_list(
        self, engine: ExecutionEngine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("HOST_SECRET", "hush")
        monkeypatch.setenv("HOST_SHARED", "shared")
        script = "import json, os; print(json.dumps(dict(os.environ)))"
        outcome = await self.run(
            engine, script, env={"FIXED": "1"}, env_passthrough=["HOST_SHARED", "HOST_ABSENT"]
        )
        env = json.loads(outcome.stdout)
        assert env["FIXED"] == "1"
        assert env["HOST_SHARED"] == "shared"
        assert "HOST_SECRET" not in env
        assert "HOST_ABSENT" not in env
        assert set(env) & set(os.environ) <= self.inherent_variables() | {"HOST_SHARED"}

    def inherent_variables(self) -> set[str]:
        """Name the variables that a tool has by itself, whatever the host has."""
        return {"PATH", "HOME", "LANG", "LC_CTYPE", "HOSTNAME", "PWD", "SHLVL", "TERM", "TMPDIR", "_"}

    async def test_arguments_arrive_in_every_customary_way(self, engine: ExecutionEngine) -> None:
        script = (
            "import json, os, sys\n"
            "names = ('ARG_TEXT', 'text', 'TEXT', 'ARG_ITEMS', 'ARG_FLAG', 'ARG_NUMBER')\n"
            "file = json.load(open(os.environ['PRAXIS_ARGS_FILE']))\n"
            "print(json.dumps({'argv': sys.argv[1:], 'file': file,\n"
            "  'env': {n: os.environ.get(n) for n in names}}))\n"
        )
        args = {"text": "two words; $(id) 'q'", "number": 1.5, "flag": True, "items": [1, "ü"]}
        outcome = await engine.run(self.contract(script, "--text={{text}}", "{{ number }}", "{{flag}}"), args)
        seen = json.loads(outcome.stdout)
        assert seen["argv"] == ["--text=two words; $(id) 'q'", "1.5", "true"]
        assert seen["file"] == args
        assert seen["env"] == {
            "ARG_TEXT": args["text"],
            "text": args["text"],
            "TEXT": args["text"],
            "ARG_ITEMS": '[1, "ü"]',
            "ARG_FLAG": "true",
            "ARG_NUMBER": "1.5",
        }

    async def test_arguments_never_set_what_decides_which_code_runs(self, engine: ExecutionEngine) -> None:
        script = (
            "import json, os\n"
            "names = ('PATH', 'LD_PRELOAD', 'ARG_PATH', 'FIXED')\n"
            "print(json.dumps({name: os.environ.get(name) for name in names}))\n"
        )
        args = {"text": "t", "PATH": "/evil", "LD_PRELOAD": "/evil.so"}
        outcome = await engine.run(self.contract(script, env={"FIXED": "contract"}), args)
        seen = json.loads(outcome.stdout)
        assert "/evil" not in (seen["PATH"] or "")
        assert seen["LD_PRELOAD"] is None
        assert seen["ARG_PATH"] == "/evil"
        assert seen["FIXED"] == "contract"

    def habit(self, script: str, *, params: list[dict[str, Any]], **spec: Any) -> ToolContract:
        """Make a contract in the dialect of the spec; its tool is a Python script."""
        fields = {**self.base_spec, "command": ["python3", "-c", script], **spec}
        trust = "trusted" if self.engine_type is EngineType.LOCAL else "untrusted"
        return ToolContract.model_validate(
            {
                "name": "habit",
                "engine": str(self.engine_type),
                "params": params,
                "engineSpec": fields,
                "trust": trust,
            }
        )

    async def test_an_argument_takes_precedence_over_a_variable_of_the_host(
        self, engine: ExecutionEngine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        contract = self.habit(
            "import os; print(eval(os.environ['EXPRESSION']), os.environ.get('UNIT'))",
            params=[{"name": "expression", "type": "string", "required": "true"}, {"name": "unit"}],
            env_passthrough=["EXPRESSION", "UNIT"],
        )
        monkeypatch.delenv("EXPRESSION", raising=False)
        monkeypatch.setenv("UNIT", "metres")
        assert await engine.execute(contract, {"expression": "6*7"}) == "42 metres\n"
        monkeypatch.setenv("EXPRESSION", "1")
        assert await engine.execute(contract, {"expression": "6*7", "unit": "feet"}) == "42 feet\n"

    async def test_a_tool_that_reads_arg_variables_finds_them(self, engine: ExecutionEngine) -> None:
        script = "import json, os; print(json.dumps([os.environ.get('ARG_' + n) for n in ('TEXT', 'DEPTH', 'GONE')]))"
        params = [{"name": "text"}, {"name": "depth", "type": "int", "default": 2}, {"name": "gone"}]
        for text in ("", "two\nlines\n", "--help", "größe ☃ 🎈", "'\"$(id)`\\"):
            found = json.loads(await engine.execute(self.habit(script, params=params), {"text": text}))
            assert found == [text, "2", None]

    ARGPARSE = (
        "import argparse, json\n"
        "parser = argparse.ArgumentParser()\n"
        "parser.add_argument('files', nargs='*')\n"
        "parser.add_argument('--text')\n"
        "parser.add_argument('-n', type=int, dest='count')\n"
        "parser.add_argument('--verbose', action='store_true')\n"
        "parser.add_argument('--color', action=argparse.BooleanOptionalAction, default=True)\n"
        "parser.add_argument('--tag', action='append')\n"
        "print(json.dumps(vars(parser.parse_args())))\n"
    )
    ARGPARSE_PARAMS: list[dict[str, Any]] = [
        {"name": "text"},
        {"name": "files", "type": "list", "positional": True},
        {"name": "count", "type": "int", "option": "-n"},
        {"name": "verbose", "type": "bool"},
        {"name": "color", "type": "bool", "default": True},
        {"name": "tag", "type": "list"},
    ]

    @pytest.mark.parametrize("arguments", ["argv", "both"])
    async def test_a_tool_that_reads_argv_finds_options_flags_and_lists(
        self, engine: ExecutionEngine, arguments: str
    ) -> None:
        contract = self.habit(self.ARGPARSE, params=self.ARGPARSE_PARAMS, arguments=arguments)
        everything = {
            "text": "-two\nlines ☃",
            "files": ["a b", "-c", ""],
            "count": -5,
            "verbose": True,
            "color": False,
            "tag": ["--x", "y"],
        }
        assert json.loads(await engine.execute(contract, everything)) == everything
        assert json.loads(await engine.execute(contract, {"text": "", "verbose": False, "tag": []})) == {
            "files": [], "text": "", "count": None, "verbose": False, "color": True, "tag": None,
        }  # fmt: skip

    async def test_argv_alone_sets_no_variables(self, engine: ExecutionEngine) -> None:
        script = "import os, sys; print(sys.argv[1:], 'ARG_TEXT' in os.environ, 'text' in os.environ)"
        contract = self.habit(script, params=[{"name": "text"}], arguments="argv")
        assert await engine.execute(contract, {"text": "a"}) == "['--text', 'a'] False False\n"

    async def test_a_value_too_long_for_a_command_line_is_refused_with_the_way_out(
        self, engine: ExecutionEngine
    ) -> None:
        contract = self.habit(
            "", params=[{"name": "text"}, {"name": "tag", "type": "list"}], arguments="argv"
        )
        for args in ({"text": "x" * (128 << 10)}, {"tag": ["y" * 1000] * 600}):
            with pytest.raises(ValidationError, match="KiB") as caught:
                await engine.execute(contract, args)
            assert "PRAXIS_ARGS_FILE" in str(caught.value)

    async def test_a_host_path_that_is_passed_on_hides_no_program(
        self, engine: ExecutionEngine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        if self.engine_type is not EngineType.LOCAL:
            monkeypatch.setenv("PATH", "/opt/host/bin")
            monkeypatch.setenv("HOME", "/home/of-the-host")
            monkeypatch.setenv("PYTHONHOME", "/opt/host")
        contract = self.habit(
            "import os, tempfile; tempfile.TemporaryFile(dir=os.environ.get('TMPDIR')); print('found')",
            params=[],
            env_passthrough=["PATH", "HOME", "PYTHONHOME"],
        )
        outcome = await engine.run(contract, {})
        assert outcome.stdout == "found\n", outcome
        if self.engine_type is not EngineType.LOCAL:
            assert any("not passed on: HOME, PATH, PYTHONHOME" in note for note in outcome.notes)

    @pytest.mark.parametrize(
        ("script", "expected"),
        [
            ("printf 'a\\nb\\n' | wc -l", "2"),
            ("echo one # two\necho {{text}} | tr a-z A-Z\n", "one\nIT'S; $(ID)"),
            ("cat <<END\n$((1 + 2))\nEND\nif true; then\n  echo yes\nfi\n", "3\nyes"),
        ],
    )
    async def test_a_line_under_shell_is_a_script(
        self, engine: ExecutionEngine, script: str, expected: str
    ) -> None:
        contract = self.habit("", params=[{"name": "text"}], command=script, shell=True)
        assert (await engine.execute(contract, {"text": "it's; $(id)"})).strip() == expected

    async def test_a_script_takes_argv_from_its_first_place_on(self, engine: ExecutionEngine) -> None:
        params = [{"name": "text"}, {"name": "file", "positional": True}]
        for fields in ({"command": "echo $#: $@", "shell": True}, {"command": ["sh", "-c", "echo $#: $@"]}):
            contract = self.habit("", params=params, arguments="argv", **fields)
            assert await engine.execute(contract, {"text": "t", "file": "f"}) == "3: --text t f\n"

    async def test_large_arguments_arrive_by_file(self, engine: ExecutionEngine) -> None:
        script = (
            "import json, os\n"
            "args = json.load(open(os.environ['PRAXIS_ARGS_FILE']))\n"
            "print(len(args['text']), 'ARG_TEXT' in os.environ)\n"
        )
        assert (await self.run(engine, script, text="x" * 1_000_000)).stdout == "1000000 False\n"


class IsolatedConformance(ProcessConformance):
    """What engines promise that give a process a file system, limits and a network of its own."""

    scripts_see = "/"

    # -- mounts

    @pytest.fixture
    def workspace(self, tmp_path: Path) -> Path:
        """Make a directory tree that tools are given."""
        (tmp_path / "shared" / "deep").mkdir(parents=True)
        (tmp_path / "shared" / "a.txt").write_text("alpha")
        (tmp_path / "shared" / "deep" / "b.txt").write_text("beta")
        (tmp_path / "shared" / "doomed.txt").write_text("still here")
        (tmp_path / "tools").mkdir()
        (tmp_path / "tools" / "tool.py").write_text("print('tool')")
        (tmp_path / "single.txt").write_text("one file")
        return tmp_path

    async def test_read_only_mounts_can_be_read_and_not_written(
        self, engine: ExecutionEngine, workspace: Path
    ) -> None:
        script = (
            "print(open('/data/a.txt').read(), open('/data/deep/b.txt').read())\n"
            "for path in ('/data/a.txt', '/data/new.txt', '/data/deep/new.txt'):\n"
            "    try: open(path, 'a').write('x'); print('wrote', path)\n"
            "    except OSError as error: print(type(error).__name__)\n"
        )
        before = snapshot(workspace)
        outcome = await self.run(engine, script, workspace=workspace, mounts={"./shared": "/data:ro"})
        assert outcome.stdout.splitlines()[0] == "alpha beta", outcome
        assert "wrote" not in outcome.stdout
        assert snapshot(workspace) == before
        assert outcome.exports.files == ()

    async def test_what_changed_in_read_write_mounts_is_exported(
        self, engine: ExecutionEngine, workspace: Path
    ) -> None:
        script = (
            "import os\n"
            "open('/shared/a.txt', 'a').write(' and more')\n"
            "open('/shared/new.txt', 'w').write('new')\n"
            "os.makedirs('/shared/x/y'); open('/shared/x/y/z.bin', 'wb').write(bytes(range(256)))\n"
            "os.remove('/shared/doomed.txt')\n"
        )
        outcome = await self.run(engine, script, workspace=workspace, mounts={"./shared": "/shared"})
        assert outcome.succeeded, outcome
        shared = workspace / "shared"
        assert (shared / "a.txt").read_text() == "alpha and more"
        assert (shared / "new.txt").read_text() == "new"
        assert (shared / "x/y/z.bin").read_bytes() == bytes(range(256))
        assert (shared / "doomed.txt").read_text() == "still here", "deletions are not propagated"
        assert (shared / "deep" / "b.txt").read_text() == "beta"
        assert {file.path for file in outcome.exports.files} == {"a.txt", "new.txt", "x/y/z.bin"}
        assert {file.mount for file in outcome.exports.files} == {"/shared"}
        assert not [p for p in shared.rglob("*") if p.name.startswith(".praxis")]

    async def test_symlinks_that_the_tool_left_alone_are_no_news(
        self, engine: ExecutionEngine, workspace: Path
    ) -> None:
        (workspace / "shared" / "link").symlink_to("a.txt")
        (workspace / "shared" / "deep" / "gone").symlink_to("/nowhere")
        script = "import os; open('/shared/deep/b.txt', 'w').write('x'); os.symlink('a.txt', '/shared/mine')"
        outcome = await self.run(engine, script, workspace=workspace, mounts={"./shared": "/shared"})
        assert outcome.succeeded, outcome
        links = [note for note in outcome.notes if "link" in note]
        assert links == ["/shared/mine was not exported: it is a symlink"]

    async def test_a_change_that_two_runs_made_at_once_is_told(
        self, engine: ExecutionEngine, workspace: Path
    ) -> None:
        shared = workspace / "shared"

        def another_run(stream: StreamName, data: bytes) -> None:
            (shared / "a.txt").write_text("of the other run")
            (shared / "new.txt").write_text("of the other run")

        script = (
            "for name in ('a.txt', 'new.txt', 'alone.txt'): open('/shared/' + name, 'w').write('mine')\n"
            "print('written', flush=True)\n"
        )
        contract = self.contract(script, mounts={"./shared": "/shared"})
        context = RunContext(workspace=workspace, on_output=another_run)
        outcome = await engine.run(contract, {"text": "t"}, context)
        assert outcome.succeeded, outcome
        assert {file.path: file.overtook_change for file in outcome.exports.files} == {
            "a.txt": True,
            "new.txt": True,
            "alone.txt": False,
        }
        told = [note for note in outcome.notes if "changed on the host while the tool ran" in note]
        assert [note.split(" ")[0] for note in told] == ["/shared/a.txt", "/shared/new.txt"]
        again = await self.run(engine, script, workspace=workspace, mounts={"./shared": "/shared"})
        assert not [note for note in again.notes if "changed on the host" in note]

    async def test_exports_follow_a_failed_tool_but_not_a_killed_one(
        self, engine: ExecutionEngine, workspace: Path
    ) -> None:
        write = "open('/shared/report.txt', 'w').write('partial')\n"
        failed = await self.run(
            engine, write + "raise SystemExit(3)", workspace=workspace, mounts={"./shared": "/shared"}
        )
        assert failed.exit_code == 3
        assert (workspace / "shared/report.txt").read_text() == "partial"
        (workspace / "shared/report.txt").unlink()
        killed = await self.run(
            engine,
            write + f"import time; time.sleep({LONG_S})",
            workspace=workspace,
            mounts={"./shared": "/shared"},
            timeout=2,
        )
        assert killed.status is ExecutionStatus.TIMED_OUT
        assert not (workspace / "shared/report.txt").exists()

    async def test_nested_mounts_do_not_overwrite_each_other(
        self, engine: ExecutionEngine, workspace: Path
    ) -> None:
        script = (
            "for name in ('a.txt', 'tools/tool.py', 'deep/ro/single.txt'): print(open('/shared/' + name).read())\n"
            "open('/shared/outer.txt', 'w').write('outer')\n"
            "open('/shared/tools/inner.txt', 'w').write('inner')\n"
        )
        (workspace / "readonly").mkdir()
        (workspace / "readonly" / "single.txt").write_text("ro")
        mounts = {"./tools": "/shared/tools", "./shared": "/shared", "./readonly": "/shared/deep/ro:ro"}
        outcome = await self.run(engine, script, workspace=workspace, mounts=mounts)
        assert outcome.stdout == "alpha\nprint('tool')\nro\n", outcome
        assert (workspace / "shared/outer.txt").read_text() == "outer"
        assert (workspace / "tools/inner.txt").read_text() == "inner"
        assert not (workspace / "shared/tools/inner.txt").exists()
        assert not (workspace / "shared/inner.txt").exists()
        assert not (workspace / "tools/outer.txt").exists()

    async def test_single_files_can_be_mounted(self, engine: ExecutionEngine, workspace: Path) -> None:
        script = "print(open('/in/one.txt').read()); open('/in/two.txt', 'a').write('!')"
        (workspace / "two.txt").write_text("two")
        mounts = {"./single.txt": "/in/one.txt:ro", "./two.txt": "/in/two.txt:rw"}
        outcome = await self.run(engine, script, workspace=workspace, mounts=mounts)
        assert outcome.stdout == "one file\n", outcome
        assert (workspace / "two.txt").read_text() == "two!"

    async def test_hostile_leavings_are_not_followed(self, engine: ExecutionEngine, workspace: Path) -> None:
        script = (
            "import os\n"
            "os.symlink('/etc/passwd', '/shared/passwd'); os.symlink('/', '/shared/root')\n"
            "os.mkfifo('/shared/fifo')\n"
            "open('/shared/line\\nbreak', 'w').write('x')\n"
            "os.remove('/shared/deep/b.txt'); os.rmdir('/shared/deep'); os.symlink('/etc', '/shared/deep')\n"
            "open('/shared/good.txt', 'w').write('good')\n"
        )
        outcome = await self.run(engine, script, workspace=workspace, mounts={"./shared": "/shared"})
        assert outcome.succeeded, outcome
        assert {file.path for file in outcome.exports.files} == {"good.txt"}
        assert sorted(p.name for p in (workspace / "shared").iterdir()) == [
            "a.txt",
            "deep",
            "doomed.txt",
            "good.txt",
        ]
        assert (workspace / "shared/deep/b.txt").read_text() == "beta"
        skipped = "\n".join(outcome.exports.skipped)
        for name in ("passwd", "root", "fifo"):
            assert f"/shared/{name} was not exported" in skipped

    async def test_missing_mount_source_is_refused(self, engine: ExecutionEngine, workspace: Path) -> None:
        with pytest.raises(ValidationError, match=r"engineSpec\.mounts: 'absent'"):
            await self.run(engine, "", workspace=workspace, mounts={"./absent": "/data"})

    async def test_working_directory_is_where_the_tool_starts(
        self, engine: ExecutionEngine, workspace: Path
    ) -> None:
        script = "import os; print(os.getcwd(), os.listdir('.'))"
        outcome = await self.run(
            engine,
            script,
            workspace=workspace,
            mounts={"./tools": "/shared/tools"},
            working_dir="/shared/tools",
        )
        assert outcome.stdout == "/shared/tools ['tool.py']\n", outcome

    # -- limits

    async def test_memory_limit_is_enforced_or_refused(self, engine: ExecutionEngine) -> None:
        script = "data = bytearray(400 << 20)\nfor i in range(0, len(data), 4096): data[i] = 1\nprint('took it all')"
        if not (await engine.get_capabilities())["supports_memory_limit"]:
            with pytest.raises(ValidationError, match=r"engineSpec\.memory_limit"):
                await self.run(engine, script, memory_limit="96m")
            return
        outcome = await self.run(engine, script, memory_limit="96m")
        assert "took it all" not in outcome.stdout
        assert outcome.status is ExecutionStatus.FAILED
        assert outcome.failure is not None
        assert outcome.limit is Limit.MEMORY or "MemoryError" in outcome.stderr
        if outcome.limit is Limit.MEMORY:
            assert outcome.failure.category is FailureCategory.RESOURCE_LIMIT
        assert (await self.run(engine, "print('next')")).stdout == "next\n"

    async def test_cpu_limit_is_enforced_or_refused(self, engine: ExecutionEngine) -> None:
        script = (
            "import time\n"
            "wall, cpu = time.monotonic(), time.process_time()\n"
            "while time.process_time() - cpu < 0.4: pass\n"
            "print((time.process_time() - cpu) / (time.monotonic() - wall))\n"
        )
        if not (await engine.get_capabilities())["supports_cpu_limit"]:
            with pytest.raises(ValidationError, match=r"engineSpec\.cpu_limit"):
                await self.run(engine, script, cpu_limit=0.25)
            return
        share = float((await self.run(engine, script, cpu_limit=0.25)).stdout)
        assert share < 0.6, "a quarter of a core, and what the first period lends"

    async def test_fork_bomb_is_contained(self, engine: ExecutionEngine) -> None:
        if not (await engine.get_capabilities()).get("supports_pids_limit", True):
            pytest.fail("an engine that gives a tool a system of its own must bound its processes")
        script = (
            "import os, time\n"
            "made = 0\n"
            "try:\n"
            "    while made < 500:\n"
            "        if os.fork() == 0: time.sleep(30); os._exit(0)\n"
            "        made += 1\n"
            "except OSError as error: print('stopped', type(error).__name__)\n"
            "print('fewer' if made < 500 else 'unbounded', flush=True)\n"
            "os._exit(0)\n"
        )
        outcome = await self.run(engine, script, pids_limit=40, timeout=30)
        assert "unbounded" not in outcome.stdout
        assert "fewer" in outcome.stdout or outcome.limit is Limit.PROCESSES

    # -- network and privileges

    async def test_network_is_off_unless_asked_for(self, engine: ExecutionEngine) -> None:
        with socket.create_server(("0.0.0.0", 0)) as server:
            port = server.getsockname()[1]
            script = (
                "import socket\n"
                "print(sorted(line.split(':')[0].strip() for line in open('/proc/net/dev') if ':' in line))\n"
                f"try: socket.create_connection(('127.0.0.1', {port}), 2); print('connected')\n"
                "except OSError as error: print('refused')\n"
            )
            outcome = await self.run(engine, script)
        assert outcome.stdout.splitlines()[-1] == "refused", outcome
        assert outcome.stdout.splitlines()[0] == "['lo']"

    async def test_the_tool_has_no_privileges(self, engine: ExecutionEngine) -> None:
        script = (
            "import os\n"
            "lines = open('/proc/self/status').read().splitlines()\n"
            "status = dict(line.split(':\\t', 1) for line in lines if ':\\t' in line)\n"
            "print(int(status['CapEff'], 16), int(status['CapBnd'], 16), status['NoNewPrivs'], status['Seccomp'])\n"
            "print(os.getuid() != 0)\n"
            "for path in ('/usr/x', '/etc/x', '/x'):\n"
            "    try: open(path, 'w'); print('wrote', path)\n"
            "    except OSError: pass\n"
        )
        outcome = await self.run(engine, script)
        assert outcome.stdout == "0 0 1 2\nTrue\n", outcome

    async def test_host_access_is_for_trusted_tools(self, engine: ExecutionEngine) -> None:
        with pytest.raises(ValidationError, match=r"engineSpec\.network"):
            await self.run(engine, "", network="host")


def processes_with(marker: str) -> list[str]:
    """Return the command lines of this machine's processes that hold a marker, without one's own."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            if marker in line:
                found.append(line)
    return found


def snapshot(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Return mode and content of every file below a folder."""
    return {
        str(path.relative_to(folder)): (path.stat().st_mode, path.read_bytes())
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
