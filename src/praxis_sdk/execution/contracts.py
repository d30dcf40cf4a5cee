"""The public names of tool execution: what the specs import from `praxis_sdk.execution.contracts` (spec 1 and 2).

Nothing inside Praxis imports them from here.
"""

from praxis_sdk.errors import ExecutionError, ValidationError
from praxis_sdk.execution.base import ExecutionEngine
from praxis_sdk.execution.contract.contract import ToolContract, Trust
from praxis_sdk.execution.contract.parameters import ToolParameter
from praxis_sdk.execution.contract.specs import (
    DaggerEngineSpec,
    DockerEngineSpec,
    EngineType,
    KubernetesEngineSpec,
    LocalEngineSpec,
    RemoteMCPEngineSpec,
    SandboxEngineSpec,
)
from praxis_sdk.execution.outcome import ToolOutcome
from praxis_sdk.execution.registry import EngineRegistry

__all__ = [
    "DaggerEngineSpec",
    "DockerEngineSpec",
    "EngineRegistry",
    "EngineType",
    "ExecutionEngine",
    "ExecutionError",
    "KubernetesEngineSpec",
    "LocalEngineSpec",
    "RemoteMCPEngineSpec",
    "SandboxEngineSpec",
    "ToolContract",
    "ToolOutcome",
    "ToolParameter",
    "Trust",
    "ValidationError",
]
