"""The engine classes by the names of spec 1, and a registry of all of them.

An engine's module imports its library only when it is used, so importing this costs little and works
without any extra installed.
"""

from __future__ import annotations

from praxis_sdk.execution.contract.specs import EngineType
from praxis_sdk.execution.engines.dagger.engine import DaggerExecutionEngine
from praxis_sdk.execution.engines.docker.engine import DockerSDKExecutionEngine
from praxis_sdk.execution.engines.local.engine import LocalExecutionEngine
from praxis_sdk.execution.engines.mcp.remote import RemoteMCPEngine
from praxis_sdk.execution.engines.mcp.stdio import McpStdioEngine
from praxis_sdk.execution.engines.sandbox import SandboxExecutionEngine
from praxis_sdk.execution.registry import EngineRegistry

__all__ = [
    "DaggerExecutionEngine",
    "DockerSDKExecutionEngine",
    "LocalExecutionEngine",
    "McpStdioEngine",
    "RemoteMCPEngine",
    "SandboxExecutionEngine",
    "builtin_engines",
]


def builtin_engines() -> EngineRegistry:
    """Make a registry of the built-in engines, with the sandbox as the default, and of those that packages bring.

    Nothing is started or connected until an engine is used; end with `await registry.cleanup_all()`.
    """
    registry = EngineRegistry(installed=True)
    registry.register(EngineType.SANDBOX, SandboxExecutionEngine(), is_default=True)
    registry.register(EngineType.DOCKER, DockerSDKExecutionEngine())
    registry.register(EngineType.DAGGER, DaggerExecutionEngine())
    registry.register(EngineType.LOCAL, LocalExecutionEngine())
    registry.register(EngineType.REMOTE_MCP, RemoteMCPEngine())
    registry.register(EngineType.MCP_STDIO, McpStdioEngine())
    return registry
