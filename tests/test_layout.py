"""What a stranger relies on: public names, and files that the documentation points to."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

PUBLIC = {
    "praxis_sdk.execution.contracts": [
        "DaggerEngineSpec", "EngineRegistry", "EngineType", "ExecutionEngine", "ExecutionError", "LocalEngineSpec",
        "RemoteMCPEngineSpec", "ToolContract", "ToolParameter", "ValidationError",
    ],
    "praxis_sdk.execution.engine": [
        "DaggerExecutionEngine", "DockerSDKExecutionEngine", "LocalExecutionEngine", "RemoteMCPEngine",
        "SandboxExecutionEngine", "builtin_engines",
    ],
    "praxis_sdk.control.kinds": [
        "AttemptHandle", "CancellationRequested", "Grace", "Kind", "Kinds", "Outcome", "Plan",
    ],
    "praxis_sdk.control.plane": ["ControlPlane", "PlaneOptions", "offer_of_this_host"],
    "praxis_sdk.control.lifecycle.submission": ["Submission", "Window"],
    "praxis_sdk.store": ["EventFilter", "ExecutionFilter", "Store", "StoreConflict", "UnknownExecution"],
    "praxis_sdk.jobs": ["JobPayload", "JobResult", "JobLimits", "parse_payload", "parse_result", "dedupe_key"],
    "praxis_sdk.sandbox": ["Bind", "Launcher", "Limits", "Policy", "Sandbox", "SandboxExit", "Zygote"],
}  # fmt: skip

LINK = re.compile(r"\]\((?!https?:|#)([^)#\s]+)")


@pytest.mark.parametrize("module", sorted(PUBLIC))
def test_public_names_stay(module: str) -> None:
    loaded = importlib.import_module(module)
    assert [name for name in PUBLIC[module] if not hasattr(loaded, name)] == []
    assert set(PUBLIC[module]) <= set(loaded.__all__)


def pages() -> list[Path]:
    """Return every page of documentation."""
    return sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "benchmarks").glob("*.md")])


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    targets = LINK.findall(page.read_text(encoding="utf-8"))
    assert [target for target in targets if not (page.parent / target).exists()] == []


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_pages_name_no_machine(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert not re.search(r"/root/|/home/[a-z]|index-url[ =]h", text)
