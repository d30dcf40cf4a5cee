"""Engines of others: registered in Python, or brought by a package and named on the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from praxis_sdk.errors import ValidationError
from praxis_sdk.execution.contracts import EngineRegistry, ExecutionEngine, ToolContract
from praxis_sdk.execution.outcome import Isolation
from praxis_sdk.execution.runner import ToolRunner
from tests.cli.conftest import only_line, praxis


class CustomEngine(ExecutionEngine):
    """An engine as the example of spec 1 has it."""

    def __init__(self, answer: str = "custom") -> None:
        self.answer = answer
        self.seen: list[dict[str, Any]] = []

    async def execute(
        self, contract: ToolContract, args: dict[str, Any], context: dict[str, Any] | None = None
    ) -> str:
        self.seen.append(args)
        return self.answer

    async def validate_contract(self, contract: ToolContract) -> bool:
        return True

    async def get_capabilities(self) -> dict[str, Any]:
        return {"engine_type": "custom", "available": True}

    async def cleanup(self) -> None:
        return None


def registered(name: str = "custom") -> tuple[EngineRegistry, CustomEngine]:
    """Make a registry with one engine, the default."""
    registry, engine = EngineRegistry(), CustomEngine()
    registry.register(name, engine, is_default=True)
    return registry, engine


def contract(engine: str | None = "custom", **fields: Any) -> ToolContract:
    """Make a trusted contract with one required number."""
    given = {"engine": engine} if engine else {}
    parameters = [
        {"name": "count", "type": "integer", "required": True},
        {"name": "mode", "type": "string", "default": "fast"},
    ]
    spec = {"engineSpec": {"anything": [1, 2]}, "trust": "trusted", "params": parameters}
    return ToolContract.model_validate({"name": "tool", **given, **spec, **fields})


async def test_a_contract_can_name_a_custom_engine() -> None:
    registry, engine = registered()
    outcome = await ToolRunner(registry).run(contract(), {"count": 3})
    assert (outcome.stdout, outcome.engine) == ("custom", "custom")
    assert engine.seen == [{"count": 3, "mode": "fast"}]


async def test_a_contract_can_name_any_engine_that_is_registered() -> None:
    registry, _ = registered("warehouse")
    outcome = await ToolRunner(registry).run(contract("warehouse"), {"count": 3})
    assert outcome.stdout == "custom"


@pytest.mark.parametrize(
    ("args", "field"), [({}, "args.count"), ({"count": "x"}, "args.count"), ({"count": 1, "n": 2}, "args.n")]
)
@pytest.mark.parametrize("named", [None, "custom"])
async def test_arguments_are_checked_for_a_custom_engine_too(
    args: dict[str, Any], field: str, named: str | None
) -> None:
    registry, engine = registered()
    with pytest.raises(ValidationError, match=field):
        await ToolRunner(registry).run(contract(), args, engine=named)
    with pytest.raises(ValidationError, match=field):
        await engine.run(contract(), args)
    assert engine.seen == []


async def test_get_by_type_finds_a_custom_engine_and_refuses_what_is_not_there() -> None:
    registry, engine = registered("mine")
    assert registry.get_by_type("custom") is engine
    assert registry.get() is engine
    with pytest.raises(ValidationError, match="none of type 'nothing' is registered"):
        registry.get_by_type("nothing")


async def test_the_default_runs_what_no_engine_is_registered_for_and_says_so() -> None:
    registry, _ = registered()
    outcome = await ToolRunner(registry).run(
        contract(None, engineSpec={"image": "debian", "command": ["true"]}), {"count": 1}
    )
    assert outcome.stdout == "custom"
    assert outcome.notes == (
        "ran on 'custom', the default engine: there is no 'docker' engine here",
        *outcome.notes[1:],
    )


async def test_an_engine_that_isolates_nothing_runs_trusted_tools_alone() -> None:
    registry, engine = registered()
    assert engine.isolation is Isolation.NONE
    with pytest.raises(ValidationError, match="the 'custom' engine isolates nothing"):
        await ToolRunner(registry).run(contract(trust="untrusted"), {"count": 1})


def test_a_misspelt_engine_is_refused() -> None:
    with pytest.raises(ValueError, match="dokcer"):
        contract("dokcer")


# -- packages

ENGINE = """
from praxis_sdk.execution.contracts import ExecutionEngine

class Engine(ExecutionEngine):
    engine_type = "parrot"

    async def execute(self, contract, args, context=None):
        return f"parrot says {args}\\n"

    async def validate_contract(self, contract):
        return True

    async def get_capabilities(self):
        return {"engine_type": "parrot", "available": True}

    async def cleanup(self):
        pass
"""


@pytest.fixture
def package(tmp_path: Path) -> dict[str, str]:
    """Lay out an installed package that brings two engines, one of them broken; returns the environment for it."""
    site = tmp_path / "site"
    info = site / "parrot_engine-1.0.dist-info"
    info.mkdir(parents=True)
    (site / "parrot_engine.py").write_text(ENGINE)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: parrot-engine\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[praxis.engines]\nparrot = parrot_engine:Engine\nbroken = parrot_engine:Nothing\n"
    )
    return {"PYTHONPATH": str(site), "PRAXIS_HOME": str(tmp_path / "home")}


def written(tmp_path: Path, **fields: Any) -> Path:
    """Write a trusted local contract, with some fields of its own."""
    path = tmp_path / "tool.yaml"
    spec = {"command": ["echo", "local"]}
    document = {"name": "tool", "engine": "local", "engineSpec": spec, "trust": "trusted", **fields}
    path.write_text(
        json.dumps({"params": [{"name": "word", "type": "string", "required": True}], **document})
    )
    return path


def test_the_command_line_names_an_engine_that_a_package_brings(
    package: dict[str, str], tmp_path: Path
) -> None:
    own = written(tmp_path, engine="parrot", engineSpec={"perch": "high"})
    done = praxis("run", own, "--arg", "word=hi", env=package)
    assert (done.returncode, done.stdout) == (0, b"parrot says {'word': 'hi'}\n"), done.stderr
    assert praxis("validate", own, env=package).returncode == 0
    refused = praxis("run", own, env=package)
    assert refused.returncode == 2
    assert "args.word" in only_line(refused.stderr)
    wished = praxis("run", written(tmp_path), "--arg", "word=hi", "--engine", "parrot", env=package)
    assert wished.stdout == b"parrot says {'word': 'hi'}\n", wished.stderr


def test_engines_shows_what_packages_bring_and_what_is_wrong_with_it(package: dict[str, str]) -> None:
    done = praxis("engines", "--json", env=package)
    found = {one["name"]: one for one in json.loads(done.stdout)["engines"]}
    assert found["parrot"]["available"]
    assert not found["broken"]["available"]
    assert "package 'parrot-engine' cannot be loaded" in found["broken"]["reason"]


def test_an_engine_that_cannot_be_loaded_is_told_in_one_line(package: dict[str, str], tmp_path: Path) -> None:
    done = praxis("run", written(tmp_path), "--arg", "word=hi", "--engine", "broken", env=package)
    assert done.returncode == 3
    assert "engine 'broken' of the package 'parrot-engine' cannot be loaded" in only_line(done.stderr)


ODD_ENGINE = """
import asyncio, sys
from praxis_sdk.execution.contracts import ExecutionEngine

class Engine(ExecutionEngine):
    engine_type = "parrot"

    async def execute(self, contract, args, context=None):
        if args["how"] == "raise":
            raise RuntimeError(f"choked on {args}")
        if args["how"] == "exit":
            sys.exit(0)
        if args["how"] == "late":
            raise TimeoutError("the warehouse is asleep")
        if args["how"] == "hang":
            await asyncio.Event().wait()
        return f"{args} {contract.engine_spec}\\n"

    async def validate_contract(self, contract):
        return True

    async def get_capabilities(self):
        return {"engine_type": "parrot", "available": True}

    async def cleanup(self):
        pass
"""
SECRET = "correct-horse-battery"


@pytest.fixture
def odd(package: dict[str, str], tmp_path: Path) -> Path:
    """Put an engine in the package that repeats what it is told, and misbehaves on request; return a contract."""
    (Path(package["PYTHONPATH"]) / "parrot_engine.py").write_text(ODD_ENGINE)
    params = [
        {"name": "how", "type": "string", "default": "well"},
        {"name": "token", "type": "string", "format": "password"},
    ]
    env = {"KEY": "secret://api-key"}
    return written(tmp_path, engine="parrot", params=params, engineSpec={"env": env})


@pytest.mark.parametrize("how", ["well", "raise"])
def test_an_engine_that_repeats_secrets_is_masked(
    odd: Path, package: dict[str, str], tmp_path: Path, how: str
) -> None:
    variables = {**package, "PRAXIS_SECRET_API_KEY": SECRET[::-1]}
    for form in ([], ["--json"]):
        done = praxis("run", odd, "--arg", f"token={SECRET}", "--arg", f"how={how}", *form, env=variables)
        assert done.returncode == (0 if how == "well" else 3), done.stderr
        assert b"[secret]" in done.stdout + done.stderr
        for secret in (SECRET, SECRET[::-1]):
            assert secret.encode() not in done.stdout + done.stderr
            for file in (tmp_path / "home").rglob("*"):
                assert not file.is_file() or secret.encode() not in file.read_bytes(), file


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("raise", "the engine 'parrot' raised RuntimeError: choked on"),
        ("exit", "the engine 'parrot' raised SystemExit: 0"),
        ("late", "the engine 'parrot' raised TimeoutError: the warehouse is asleep"),
    ],
)
def test_what_an_engine_raises_is_the_platforms_fault(
    odd: Path, package: dict[str, str], how: str, said: str
) -> None:
    variables = {**package, "PRAXIS_SECRET_API_KEY": SECRET}
    done = praxis("run", odd, "--arg", f"how={how}", env=variables)
    assert done.returncode == 3
    assert said in only_line(done.stderr)


def test_a_custom_engine_keeps_to_the_time_limit(odd: Path, package: dict[str, str]) -> None:
    variables = {**package, "PRAXIS_SECRET_API_KEY": SECRET}
    done = praxis("run", odd, "--arg", "how=hang", "--timeout", "1", "--json", env=variables)
    assert done.returncode == 124, done.stderr
    outcome = json.loads(done.stdout)
    assert (outcome["status"], outcome["limit"], outcome["exit_code"]) == ("timed_out", "timeout", None)
