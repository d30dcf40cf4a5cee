"""The sandbox engine: the conformance suite; what isolates is tested in tests/sandbox."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from praxis_sdk.execution.contract.specs import EngineType
from praxis_sdk.execution.engines.sandbox import SandboxExecutionEngine
from tests.execution.conformance import IsolatedConformance


@pytest.fixture
async def engine() -> AsyncIterator[SandboxExecutionEngine]:
    """Make an engine for one test."""
    made = SandboxExecutionEngine()
    yield made
    await made.cleanup()


class TestSandboxConformance(IsolatedConformance):
    """The shared promises."""

    engine_type = EngineType.SANDBOX
