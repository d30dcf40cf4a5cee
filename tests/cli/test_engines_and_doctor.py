"""`praxis engines` and `praxis doctor`: what works on this host, and what to do about the rest."""

from __future__ import annotations

import json
from pathlib import Path

from praxis_sdk.execution.contract.specs import EngineType
from tests.cli.conftest import praxis, praxis_after

NO_DOCKER = {"DOCKER_HOST": "unix:///nowhere/docker.sock"}

SLOW_ENGINE = """
import asyncio
import praxis_sdk.cli.terminal.capabilities as capabilities
import praxis_sdk.execution.engine as engine
from praxis_sdk.execution.engines.local.engine import LocalExecutionEngine

class Silent(LocalExecutionEngine):
    async def get_capabilities(self):
        await asyncio.Event().wait()

def registry():
    made = engine.EngineRegistry()
    made.register("local", LocalExecutionEngine())
    made.register("silent", Silent())
    return made

capabilities.ANSWER_BOUND_S = 0.1
engine.builtin_engines = registry
"""

BROKEN_HOST = """
import praxis_sdk.sandbox.host.features as host
from praxis_sdk.errors import IsolationUnavailable
from praxis_sdk.execution.engine import SandboxExecutionEngine

async def refuse(self, *args):
    raise IsolationUnavailable("user namespaces are switched off", remedy="switch them on")

SandboxExecutionEngine.run = SandboxExecutionEngine.get_capabilities = refuse
host.features = lambda: (host.Feature("user-namespaces", False, "EPERM", "sysctl -w this=1"),)
"""


def test_engines_says_what_works_and_why_others_do_not() -> None:
    done = praxis("engines", env=NO_DOCKER)
    assert (done.returncode, done.stderr) == (0, b"")
    table, reasons = done.stdout.decode().split("\n\n")
    rows = {line.split()[0]: line.split()[1:] for line in table.splitlines()}
    assert set(rows) == {"engine", *EngineType}
    assert rows["local"][:2] == ["yes", "none"]
    assert rows["sandbox"] == ["yes", "namespaces", "no", "yes", "yes", "yes"]
    assert rows["docker"][:2] == ["no", "container"]
    assert "docker: " in reasons
    assert "/nowhere/docker.sock" in reasons
    assert "kubernetes: not in this version" in reasons


def test_engines_as_json() -> None:
    done = praxis("engines", "--json", env=NO_DOCKER)
    result = json.loads(done.stdout)
    assert (done.returncode, done.stderr, result["schema_version"]) == (0, b"", 1)
    engines = {engine["name"]: engine for engine in result["engines"]}
    assert set(engines) == set(EngineType)
    assert engines["sandbox"]["available"]
    assert engines["sandbox"]["capabilities"]["supports_network_isolation"] is True
    assert (engines["docker"]["available"], engines["docker"]["isolation"]) == (False, "container")
    assert engines["docker"]["reason"]
    assert engines["docker"]["remedy"]
    assert engines["kubernetes"] == {
        "name": "kubernetes",
        "available": False,
        "isolation": None,
        "reason": "not in this version",
        "remedy": None,
        "capabilities": {},
    }


def test_an_engine_that_does_not_answer_holds_nobody_up() -> None:
    done = praxis_after(SLOW_ENGINE, "engines", "--json")
    engines = {engine["name"]: engine for engine in json.loads(done.stdout)["engines"]}
    assert engines["local"]["available"]
    assert engines["silent"]["reason"] == "gave no answer within 0.1 s"


def test_doctor_ends_with_a_verdict() -> None:
    done = praxis("doctor", env=NO_DOCKER)
    lines = done.stdout.decode().splitlines()
    assert (done.returncode, done.stderr) == (0, b"")
    assert lines[-1].startswith("the sandbox works as ")
    assert lines[0].startswith("Python ")
    assert any(line.startswith("user-namespaces ") for line in lines)
    assert any(line.startswith("sandbox ") for line in lines)


def test_doctor_as_json() -> None:
    done = praxis("doctor", "--json", env=NO_DOCKER)
    result = json.loads(done.stdout)
    assert (done.returncode, done.stderr, result["schema_version"]) == (0, b"", 1)
    assert result["sandbox_works"] is True
    assert set(result["system"]) >= {"python", "kernel", "uid", "root", "cgroup_version"}
    assert set(result["features"][0]) == {"name", "available", "detail", "remedy", "required"}
    assert {engine["name"] for engine in result["engines"]} == set(EngineType)


def test_doctor_fails_where_the_sandbox_does() -> None:
    done = praxis_after(BROKEN_HOST, "doctor", env=NO_DOCKER)
    lines = done.stdout.decode().splitlines()
    assert done.returncode == 3
    assert "user-namespaces: sysctl -w this=1" in lines
    assert lines[-1].startswith("the sandbox does not work as ")
    assert lines[-1].endswith(": user namespaces are switched off (switch them on)")


def test_doctor_works_for_an_ordinary_user(ordinary_user) -> None:  # type: ignore[no-untyped-def]
    done = ordinary_user.run_praxis("doctor", "--json")
    result = json.loads(done.stdout)
    assert (done.returncode, result["system"]["root"]) == (0, False)
    assert result["verdict"] == f"the sandbox works as an ordinary user (uid {ordinary_user.uid})"


def test_an_ordinary_user_runs_an_untrusted_tool(ordinary_user) -> None:  # type: ignore[no-untyped-def]
    contract = Path(ordinary_user.home, "contract.yaml")
    contract.write_text(
        "name: who\nengine: sandbox\nengineSpec:\n  command: [sh, -c, 'echo hello; exit 4']\n"
    )
    done = ordinary_user.run_praxis("run", contract)
    assert (done.returncode, done.stdout) == (4, "hello\n")
