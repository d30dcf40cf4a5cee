"""The local engine: the conformance suite, and what is its own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from praxis_sdk.errors import ExecutionError, ValidationError
from praxis_sdk.execution.contract.specs import EngineType
from praxis_sdk.execution.contracts import ToolContract, ToolParameter
from praxis_sdk.execution.engines.local.engine import LocalExecutionEngine
from tests.execution.conformance import ProcessConformance, processes_with


@pytest.fixture
async def engine() -> AsyncIterator[LocalExecutionEngine]:
    """Make an engine for one test."""
    made = LocalExecutionEngine()
    yield made
    await made.cleanup()


class TestLocalConformance(ProcessConformance):
    """The shared promises."""

    engine_type = EngineType.LOCAL


def shell_tool(command: list[str], **spec: Any) -> ToolContract:
    """Make a tool that runs by the shell and takes `text`."""
    return ToolContract.create_local_tool(
        "sh", command, shell=True, parameters=[ToolParameter(name="text")], **spec
    )


HOSTILE = """it's "two" words; $(echo owned) `echo owned` * \\ $HOME"""


@pytest.mark.parametrize("script", ["printf %s {{text}}", 'printf %s "{{text}}"', "printf %s '{{text}}'"])
async def test_shell_scripts_never_parse_a_value(engine: LocalExecutionEngine, script: str) -> None:
    assert await engine.execute(shell_tool([script]), {"text": HOSTILE}) == HOSTILE


async def test_shell_words_stay_words(engine: LocalExecutionEngine) -> None:
    contract = shell_tool(["printf", "<%s>", "a b", "{{text}}", "| cat; $(id)"])
    assert await engine.execute(contract, {"text": HOSTILE}) == f"<a b><{HOSTILE}><| cat; $(id)>"


async def test_one_word_under_shell_is_a_script(engine: LocalExecutionEngine) -> None:
    assert await engine.execute(shell_tool(["echo a b | tr ab cd && exit 0"]), {}) == "c d\n"


async def test_words_stay_words_without_a_shell(engine: LocalExecutionEngine) -> None:
    contract = ToolContract.create_local_tool("echo", ["printf", "<%s>", "a b", "$(id)"])
    assert await engine.execute(contract, {}) == "<a b><$(id)>"


async def test_the_tool_starts_in_the_workspace_or_below(
    engine: LocalExecutionEngine, tmp_path: Path
) -> None:
    (tmp_path / "below").mkdir()
    here = ToolContract.create_local_tool("pwd", ["pwd"])
    below = ToolContract.create_local_tool("pwd", ["pwd"], cwd="below")
    assert await engine.execute(here, {}, {"workspace": str(tmp_path)}) == f"{tmp_path.resolve()}\n"
    assert await engine.execute(below, {}, {"workspace": str(tmp_path)}) == f"{tmp_path.resolve()}/below\n"
    nowhere = ToolContract.create_local_tool("pwd", ["pwd"], cwd="nowhere")
    with pytest.raises(ValidationError, match=r"engineSpec\.cwd"):
        await engine.execute(nowhere, {}, {"workspace": str(tmp_path)})


async def test_output_can_be_discarded(engine: LocalExecutionEngine) -> None:
    contract = ToolContract.create_local_tool(
        "echo", ["sh", "-c", "echo x; echo y >&2; exit 4"], capture_output=False
    )
    outcome = await engine.run(contract, {})
    assert (outcome.stdout, outcome.stderr, outcome.exit_code) == ("", "", 4)


async def test_a_signal_is_reported_as_such(engine: LocalExecutionEngine) -> None:
    contract = ToolContract.create_local_tool("dies", ["sh", "-c", "kill -SEGV $$"])
    outcome = await engine.run(contract, {})
    assert (outcome.exit_code, outcome.signal, outcome.exit_status) == (None, 11, 139)
    with pytest.raises(ExecutionError, match="SIGSEGV"):
        await engine.execute(contract, {})


async def test_descendants_without_environment_or_session_are_ended(engine: LocalExecutionEngine) -> None:
    marker = "praxis-runaway-5077"
    script = f"(env -i setsid setsid sh -c 'exec >/dev/null 2>&1; sleep 60; : {marker}') & sleep 0; echo parent gone"
    outcome = await engine.run(ToolContract.create_local_tool("forks", ["sh", "-c", script]), {})
    assert outcome.stdout == "parent gone\n"
    assert processes_with(marker) == []


async def test_a_file_that_is_not_executable_says_so(engine: LocalExecutionEngine, tmp_path: Path) -> None:
    (tmp_path / "tool").write_text("#!/bin/sh\n")
    outcome = await engine.run(ToolContract.create_local_tool("t", [str(tmp_path / "tool")]), {})
    assert outcome.failure is not None
    assert "cannot be executed" in outcome.failure.message
