"""The main job on real input: analyse the GNU General Public License on every engine of this machine.

The contract is the one in `tools/simple_python_tool`, written for Dagger. It runs in the sandbox first;
then wherever else this machine can run it. Each engine must find the same numbers and must write its
report back through the declared mount. Run it by `make demo`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from praxis_sdk.errors import PraxisError
from praxis_sdk.execution.context import RunContext
from praxis_sdk.execution.contract.loading import load_contract
from praxis_sdk.execution.contracts import EngineType, ToolContract, ToolOutcome
from praxis_sdk.execution.engine import builtin_engines
from praxis_sdk.execution.runner import ToolRunner

EXAMPLES = Path(__file__).parent
TOOL = "tools/simple_python_tool"
GPL_3 = Path("/usr/share/common-licenses/GPL-3")
REPORT = "shared/reports/GPL-3.json"

out = Console(highlight=False)


@dataclass(frozen=True)
class Attempt:
    """One engine's turn: what it made of the tool, or why it could not."""

    engine: str
    outcome: ToolOutcome | None = None
    report: dict[str, object] | None = None
    reason: str = ""


def make_workspace(folder: Path) -> Path:
    """Lay out what the contract mounts: ./shared with the text, ./tools with the program."""
    shutil.copytree(EXAMPLES / "tools", folder / "tools")
    (folder / "shared").mkdir()
    shutil.copyfile(GPL_3, folder / "shared" / "GPL-3")
    return folder


@contextlib.asynccontextmanager
async def text_analyzer_server(root: Path) -> AsyncIterator[str]:
    """Run the MCP server that offers the same analysis; yields its address."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(EXAMPLES / "mcp_text_analyzer.py"),
        "--root",
        str(root),
        "--port",
        "0",
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        yield (await process.stdout.readline()).decode().strip()
    finally:
        process.terminate()
        await process.wait()


async def attempt(
    runner: ToolRunner,
    contract: ToolContract,
    workspace: Path,
    input_file: str,
    engine: str | None,
    label: str,
) -> Attempt:
    """Run the tool on one engine, live, and read the report that it wrote back."""
    report = workspace / REPORT
    report.unlink(missing_ok=True)
    out.rule(f"[bold]{label}", align="left")
    told: list[str] = []

    def tell(line: str) -> None:
        told.append(line)
        out.print(f"[dim]{line}")

    context = RunContext(
        workspace=workspace,
        on_output=lambda _, data: out.print(data.decode(errors="replace"), end="", markup=False),
        on_progress=tell,
    )
    try:
        outcome = await runner.run(contract, {"input_file": input_file}, context, engine=engine)
    except PraxisError as error:
        out.print(f"[yellow]not here:[/] {error}", markup=True)
        return Attempt(label, reason=str(error))
    for note in outcome.notes:
        if note not in told:
            out.print(f"[yellow]note:[/] {note}")
    if contract.engine is EngineType.REMOTE_MCP:
        statistics = json.loads(outcome.stdout) if outcome.succeeded else None
    else:
        statistics = json.loads(report.read_text()) if report.exists() else None
    return Attempt(label, outcome, statistics)


async def run_everywhere(workspace: Path) -> list[Attempt]:
    """Give every engine its turn."""
    registry = builtin_engines()
    runner = ToolRunner(registry)
    contract = load_contract(workspace / TOOL / "contract.yaml").contract
    local = load_contract(workspace / TOOL / "contract.local.yaml").contract
    inside = "/shared/GPL-3"
    try:
        attempts = [
            await attempt(runner, contract, workspace, inside, "sandbox", "sandbox"),
            await attempt(runner, contract, workspace, inside, "docker", "docker"),
            await attempt(runner, contract, workspace, inside, None, "dagger"),
            await attempt(runner, local, workspace, "shared/GPL-3", None, "local"),
        ]
        async with text_analyzer_server(workspace / "shared") as address:
            remote = ToolContract(
                name="text_analyzer",
                engine=EngineType.REMOTE_MCP,
                engine_spec={"address": address},
                parameters=contract.parameters,
            )
            attempts.append(await attempt(runner, remote, workspace, "GPL-3", None, "remote-mcp"))
        return attempts
    finally:
        await registry.cleanup_all()


def show(attempts: list[Attempt]) -> None:
    """Print the table of engines, durations and isolation."""
    table = Table(title="text_analyzer on the GPL-3", title_justify="left", box=box.SIMPLE_HEAD)
    for column in ("contract", "ran on", "isolation", "status", "words", "report"):
        table.add_column(column)
    table.add_column("duration", justify="right")
    for one in attempts:
        if one.outcome is None:
            table.add_row(one.engine, "-", "-", "not here", "-", "-", "-")
            continue
        words = str((one.report or {}).get("words", "-"))
        exported = (
            f"{sum(file.size_bytes for file in one.outcome.exports.files)} B"
            if one.outcome.exports.files
            else "-"
        )
        table.add_row(
            one.engine,
            one.outcome.engine,
            one.outcome.isolation.label,
            str(one.outcome.status),
            words,
            exported,
            f"{one.outcome.duration_s * 1000:.0f} ms",
        )
    out.print()
    out.print(table)


def verdict(attempts: list[Attempt]) -> int:
    """Return 0 if every engine that is here succeeded with the same numbers, and the sandbox is among them."""
    done = [one for one in attempts if one.outcome is not None]
    words = {(one.report or {}).get("words") for one in done}
    if not (
        done and done[0].engine == "sandbox" and all(one.outcome and one.outcome.succeeded for one in done)
    ):
        out.print("[red]The demo failed: an engine that is here did not succeed, or the sandbox is not here.")
        return 1
    if len(words) != 1 or None in words:
        out.print(f"[red]The demo failed: the engines disagree about the number of words: {words}")
        return 1
    out.print(f"{len(done)} engines ran the tool and found the same {words.pop()} words.")
    return 0


def main() -> int:
    """Run the demo."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--json", action="store_true", help="print the outcomes as JSON")
    arguments = parser.parse_args()
    if not GPL_3.exists():
        out.print(
            f"[red]{GPL_3} is missing: the demo analyses the copy that Debian ships (package base-files)."
        )
        return 3
    if arguments.json:
        out.file = sys.stderr
    with tempfile.TemporaryDirectory(prefix="praxis-demo-") as folder:
        attempts = asyncio.run(run_everywhere(make_workspace(Path(folder))))
    show(attempts)
    if arguments.json:
        print(
            json.dumps([one.outcome.to_json() if one.outcome else {"reason": one.reason} for one in attempts])
        )
    return verdict(attempts)


if __name__ == "__main__":
    raise SystemExit(main())
