"""The interface of every engine (spec 1, "Execution Engine Interface")."""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

from praxis_sdk.errors import ExecutionError, PlatformError, PraxisError
from praxis_sdk.execution.arguments.arguments import check_arguments
from praxis_sdk.execution.context import RunContext
from praxis_sdk.execution.outcome import Exit, Isolation, Limit, ToolFailure, ToolOutcome, classify
from praxis_sdk.states import ExecutionStatus, FailureCategory
from praxis_sdk.termination import Remains, Termination

if TYPE_CHECKING:
    from praxis_sdk.execution.contract.contract import ToolContract


class ExecutionEngine(ABC):
    """Runs tools. A custom engine implements the four abstract methods and is registered.

    The built-in engines derive from `praxis_sdk.execution.engines.supervised.SupervisedEngine` and implement
    `launch`, from which `run` and `execute` follow.
    """

    engine_type: str = "custom"
    isolation: Isolation = Isolation.NONE

    @abstractmethod
    async def execute(
        self, contract: ToolContract, args: dict[str, Any], context: dict[str, Any] | None = None
    ) -> str:
        """Run a tool and return what it wrote to stdout.

        Args:
            contract: the tool.
            args: its arguments by name.
            context: fields of `RunContext`; others are ignored.

        Raises:
            ValidationError: contract or arguments are not acceptable; nothing was started.
            ExecutionError: the tool was started and did not succeed.
            PlatformError: the engine could not do its work.
        """

    @abstractmethod
    async def validate_contract(self, contract: ToolContract) -> bool:
        """Tell whether this engine can run a contract."""

    @abstractmethod
    async def get_capabilities(self) -> dict[str, Any]:
        """Say what this engine can do on this host, after asking it."""

    @abstractmethod
    async def cleanup(self) -> None:
        """Free what the engine holds; repeatable."""

    async def end_remains(self, remains: Remains) -> Termination:
        """End what an earlier run, of any process, may have left running.

        Args:
            remains: what it is.

        Returns:
            What is known now; confirmed only where something says that it is gone.
        """
        return Termination(known=f"the engine '{self.engine_type}' cannot look for it", remains=remains)

    async def sweep(self) -> None:  # noqa: B027 - most engines leave nothing that outlives their process
        """Remove what dead processes of this installation left; called as a worker starts."""

    async def _initialize(self) -> None:  # noqa: B027 - a hook, not a duty
        """Get ready for the first run; the example of spec 1 calls this, and an engine may override it."""

    async def run(
        self, contract: ToolContract, args: dict[str, Any], context: RunContext | dict[str, Any] | None = None
    ) -> ToolOutcome:
        """Run a tool and return the full account of it; a tool that fails is an outcome, not an error.

        Here it follows from `execute`, for engines that implement no more than the spec asks.

        Raises:
            ValidationError, PlatformError: as in `execute`.
        """
        ctx = RunContext.of(context)
        args = check_arguments(contract.parameters, args)
        ctx.ended(Termination(known=f"the engine '{self.engine_type}' does not say what it leaves running"))
        began = time.monotonic()
        status, failure = ExecutionStatus.COMPLETED, None
        exit_code: int | None = 0
        stdout = ""
        fields = {
            "execution_id": ctx.execution_id,
            "workspace": str(ctx.workspace),
            "timeout_s": ctx.timeout_s,
        }
        timer = asyncio.timeout(ctx.timeout_s)
        try:
            async with timer:
                stdout = str(await self.execute(contract, args, fields))
        except ExecutionError as error:
            status, exit_code, stdout = ExecutionStatus.FAILED, error.exit_code, error.output or ""
            failure = ToolFailure(FailureCategory.USER_CODE_ERROR, error.message)
        except PraxisError:
            raise
        except (Exception, SystemExit) as error:
            if not timer.expired():
                raise PlatformError(
                    f"the engine '{self.engine_type}' raised {type(error).__name__}: {error}"
                ) from error
            exit_code = None
            status, failure = classify(Exit(), timeout_s=ctx.timeout_s or 0, timed_out=True)
        if ctx.mask is not None:
            stdout = ctx.mask.text(stdout)
        if ctx.on_output is not None and stdout:
            ctx.on_output("stdout", stdout.encode())
        return ToolOutcome(
            tool=contract.name,
            execution_id=ctx.execution_id,
            engine=self.engine_type,
            isolation=self.isolation,
            status=status,
            exit_code=exit_code,
            limit=Limit.TIMEOUT if status is ExecutionStatus.TIMED_OUT else None,
            stdout=stdout,
            stdout_bytes=len(stdout.encode()),
            duration_s=time.monotonic() - began,
            failure=failure,
        )
