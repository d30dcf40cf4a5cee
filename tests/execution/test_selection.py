"""Which engine runs a contract: never one that isolates less, and the outcome says when it was another."""

from __future__ import annotations

from typing import Any

import pytest

from praxis_sdk.errors import EngineUnavailable, ValidationError
from praxis_sdk.execution.base import ExecutionEngine
from praxis_sdk.execution.contract.portability import port_spec
from praxis_sdk.execution.contracts import EngineRegistry, EngineType, ToolContract, Trust
from praxis_sdk.execution.outcome import Isolation
from praxis_sdk.execution.runner import ToolRunner

ISOLATION = {
    EngineType.LOCAL: Isolation.NONE,
    EngineType.SANDBOX: Isolation.NAMESPACES,
    EngineType.DOCKER: Isolation.CONTAINER,
    EngineType.DAGGER: Isolation.CONTAINER,
    EngineType.REMOTE_MCP: Isolation.REMOTE,
}


class FakeEngine(ExecutionEngine):
    """An engine that only says its name."""

    def __init__(self, engine_type: str, isolation: Isolation, **capabilities: Any) -> None:
        self.engine_type = engine_type
        self.isolation = isolation
        self._capabilities = {"available": True, "supports_memory_limit": True, **capabilities}

    async def execute(
        self, contract: ToolContract, args: dict[str, Any], context: dict[str, Any] | None = None
    ) -> str:
        return f"ran on {self.engine_type}, {contract.trust}"

    async def validate_contract(self, contract: ToolContract) -> bool:
        return True

    async def get_capabilities(self) -> dict[str, Any]:
        return self._capabilities

    async def cleanup(self) -> None:
        return None


def runner(*absent: EngineType, **capabilities: dict[str, Any]) -> ToolRunner:
    """Make a runner over fake engines of every type; those named are not available."""
    registry = EngineRegistry()
    for engine_type, isolation in ISOLATION.items():
        off = {
            "available": False,
            "unavailable_reason": f"no {engine_type} daemon",
            "remedy": f"start {engine_type}",
        }
        own = capabilities.get(engine_type.name.lower(), {})
        registry.register(
            engine_type, FakeEngine(engine_type, isolation, **(off if engine_type in absent else own))
        )
    return ToolRunner(registry)


def contract(engine: EngineType, trust: Trust = Trust.UNTRUSTED, **spec: Any) -> ToolContract:
    """Make a contract for an engine."""
    needed: dict[str, Any] = {"command": ["true"]}
    if engine in (EngineType.DAGGER, EngineType.DOCKER):
        needed["image"] = "debian"
    if engine is EngineType.REMOTE_MCP:
        needed = {"address": "http://localhost:1/mcp"}
    return ToolContract(name="tool", engine=engine, engine_spec={**needed, **spec}, trust=trust)


@pytest.mark.parametrize(
    "engine", [EngineType.SANDBOX, EngineType.DOCKER, EngineType.DAGGER, EngineType.REMOTE_MCP]
)
async def test_a_contract_runs_where_it_says(engine: EngineType) -> None:
    outcome = await runner().run(contract(engine), {})
    assert outcome.stdout == f"ran on {engine}, untrusted"
    assert outcome.notes == ()


async def test_dagger_falls_back_to_docker_and_says_so() -> None:
    outcome = await runner(EngineType.DAGGER).run(contract(EngineType.DAGGER), {})
    assert outcome.engine == EngineType.DOCKER
    assert outcome.notes == ("ran on 'docker' in place of 'dagger': no dagger daemon",)


async def test_nothing_falls_back_to_less_isolation() -> None:
    with pytest.raises(EngineUnavailable, match="no dagger daemon; docker: no docker daemon"):
        await runner(EngineType.DAGGER, EngineType.DOCKER).run(contract(EngineType.DAGGER), {})
    with pytest.raises(EngineUnavailable, match="no sandbox daemon"):
        await runner(EngineType.SANDBOX).run(contract(EngineType.SANDBOX), {})


async def test_the_sandbox_on_request_warns_about_the_image() -> None:
    ported = port_spec(contract(EngineType.DAGGER), EngineType.SANDBOX)
    assert ported.notes == ("image 'debian' is not used: the tool runs the host's own programs",)
    outcome = await runner().run(contract(EngineType.DAGGER), {}, engine="sandbox")
    assert outcome.engine == EngineType.SANDBOX


async def test_an_untrusted_tool_never_runs_locally() -> None:
    with pytest.raises(ValidationError, match="not declared trusted"):
        await runner().run(contract(EngineType.LOCAL), {})
    with pytest.raises(ValidationError, match="not declared trusted"):
        await runner().run(contract(EngineType.SANDBOX), {}, engine="local")


async def test_trust_is_declared_by_the_contract_or_by_the_caller() -> None:
    declared = await runner().run(contract(EngineType.LOCAL, Trust.TRUSTED), {})
    vouched = await runner().run(contract(EngineType.LOCAL), {}, trusted=True)
    assert declared.stdout == vouched.stdout == "ran on local, trusted"


async def test_auto_takes_what_can_do_it() -> None:
    for absent, expected in (
        ((), EngineType.DAGGER),
        ((EngineType.DAGGER,), EngineType.DOCKER),
    ):
        outcome = await runner(*absent).run(contract(EngineType.DAGGER), {}, engine="auto")
        assert outcome.engine == expected
    unfit = runner(docker={"supports_memory_limit": False})
    with pytest.raises(EngineUnavailable, match=r"engineSpec\.memory_limit cannot be enforced"):
        await unfit.run(contract(EngineType.DOCKER, memory_limit="64m", runtime="runsc"), {}, engine="auto")


async def test_auto_runs_an_untrusted_local_tool_in_the_sandbox() -> None:
    outcome = await runner().run(contract(EngineType.LOCAL), {}, engine="auto")
    assert outcome.engine == EngineType.SANDBOX
    assert "in place of 'local'" in outcome.notes[0]


@pytest.mark.parametrize("target", [EngineType.DAGGER, EngineType.SANDBOX, EngineType.KUBERNETES])
def test_a_stronger_runtime_is_never_dropped(target: EngineType) -> None:
    with pytest.raises(ValidationError, match=r"engineSpec\.runtime"):
        port_spec(contract(EngineType.DOCKER, runtime="runsc"), target)


async def test_a_limit_that_the_engine_lacks_is_refused() -> None:
    weak = runner(sandbox={"supports_memory_limit": False})
    with pytest.raises(ValidationError, match=r"engineSpec\.memory_limit"):
        await weak.run(contract(EngineType.SANDBOX, memory_limit="64m"), {})


async def test_unknown_engines_are_named() -> None:
    with pytest.raises(ValidationError, match="'dokcer' is not an engine"):
        await runner().run(contract(EngineType.SANDBOX), {}, engine="dokcer")
    with pytest.raises(EngineUnavailable, match="no 'kubernetes' engine"):
        await runner().run(contract(EngineType.DOCKER), {}, engine="kubernetes")


async def test_custom_engines_are_found_by_name_and_need_trust() -> None:
    registry = EngineRegistry()
    registry.register("mine", FakeEngine("custom", Isolation.NONE))
    with pytest.raises(ValidationError, match="not declared trusted"):
        await ToolRunner(registry).run(contract(EngineType.SANDBOX), {}, engine="mine")
    outcome = await ToolRunner(registry).run(contract(EngineType.SANDBOX), {}, engine="mine", trusted=True)
    assert outcome.stdout == "ran on custom, trusted"
