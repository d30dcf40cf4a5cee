"""From the words and files of the command line to a submission, as the coordinator takes it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from praxis_sdk.cli.input.moments import read_duration, read_moment
from praxis_sdk.cli.input.submitted import is_payload
from praxis_sdk.errors import ValidationError

if TYPE_CHECKING:
    from praxis_sdk.cli.control_plane import Control
    from praxis_sdk.cli.input.job_request import JobRequest
    from praxis_sdk.control.lifecycle.submission import Window

# What a file may say beside the fields of `Work`, since these are terms of the submission, not of the work.
TERMS: Final = ("priority", "mode", "opens", "closes", "idempotency_key")
_NAMELESS: Final = "job"  # a job is named by its execution


@dataclass(frozen=True)
class CommandSubmission:
    """A submission.

    Args:
        work: the fields of `Work`.
        priority, mode, idempotency_key: as the coordinator takes them; None: not said.
        opens, closes: its window, as it was written; None: not said.
        job: a job of the command line, whose inputs are still files.
    """

    work: Mapping[str, Any]
    priority: str | None = None
    mode: str | None = None
    idempotency_key: str | None = None
    opens: str | float | None = None
    closes: str | float | None = None
    job: JobRequest | None = field(default=None, repr=False)

    def but(self, **terms: Any) -> CommandSubmission:
        """Return it with those terms that are not None."""
        return replace(self, **{name: value for name, value in terms.items() if value is not None})

    def with_work(self, **fields: Any) -> CommandSubmission:
        """Return it with those fields of the work that are not None."""
        given = {name: value for name, value in fields.items() if value is not None}
        return replace(self, work={**self.work, **given})

    def labelled(self, labels: Mapping[str, str]) -> CommandSubmission:
        """Return it with further labels, which go before those of the same name."""
        own = self.work.get("labels") or {}
        if not labels or not isinstance(own, Mapping):  # what is no mapping is refused with the rest
            return self
        return self.with_work(labels={**own, **labels})

    def retried_on(self, exit_codes: Sequence[int]) -> CommandSubmission:
        """Return it with exit codes that mean: try again; they replace those of the file."""
        own = self.work.get("retry") or {}
        if not isinstance(own, Mapping):  # what is no mapping is refused with the rest
            return self
        return self.with_work(retry={**own, "exit_codes": list(exit_codes)})

    async def complete(self, control: Control) -> Mapping[str, Any]:
        """Return the work, with the inputs of a job in the artifact store."""
        if self.job is None:
            return self.work
        control.home.make_writable()
        payload = (await self.job.payload(control.home.artifacts())).to_json()
        return {**self.work, "request": {**payload, "job_id": _NAMELESS}}


def submission_of(document: Mapping[str, Any], folder: Path) -> CommandSubmission:
    """Read a submission as a file writes it.

    Args:
        document: the fields of `Work`, and `TERMS`.
        folder: where paths in it count from.

    Raises:
        ValidationError: a term has the wrong form, or a contract that it names cannot be used.
    """
    if is_payload(document):
        document = {"kind": "job", "request": document}
    terms = {name: document[name] for name in TERMS if document.get(name) is not None}
    for name, value in terms.items():
        forms: Any = (str, int, float) if name in ("opens", "closes") else str
        if not isinstance(value, forms) or isinstance(value, bool):
            raise ValidationError(f"{name}: {value!r} has the wrong form", remedy="write it as text")
    work = {name: value for name, value in document.items() if name not in TERMS}
    if work.get("kind") == "tool" and isinstance(work.get("request"), Mapping):
        work["request"] = _tool_request(work["request"], folder)
    return CommandSubmission(work, **terms)


def tool_submission(
    contract: Path,
    texts: Mapping[str, Sequence[str]],
    *,
    args: Mapping[str, Any],
    engine: str | None,
    trusted: bool,
    allow_secrets: Sequence[str] = (),
    workspace: Path,
    timeout: str | None,
    allow_mounts: Sequence[Path] = (),
) -> CommandSubmission:
    """Make the submission of a tool by its contract's file.

    Raises:
        ContractError: the contract cannot be used.
        ValidationError: an argument is not of the type that its parameter has.
    """
    from praxis_sdk.execution.arguments.arguments import read_values
    from praxis_sdk.execution.contract.loading import load_contract

    loaded = load_contract(contract)
    request: dict[str, Any] = {
        "contract": loaded.contract.model_dump(mode="json", exclude_none=True),
        "args": {**args, **read_values(loaded.contract.parameters, texts)},
        "workspace": str(workspace.resolve()),
        "allow_mounts": [str(path.resolve()) for path in (contract.parent, *allow_mounts)],
    }
    if engine is not None:
        request["engine"] = engine
    if trusted:
        request["trusted"] = True
    if allow_secrets:
        request["allow_secrets"] = list(allow_secrets)
    if timeout is not None:
        request["timeout"] = read_duration(timeout, "--timeout")
    return CommandSubmission({"kind": "tool", "request": request})


def window_of(opens: str | float | None, closes: str | float | None, now: float) -> Window | None:
    """Return the window that two times make; None where neither is given.

    Raises:
        ValidationError: one is no time, or it ends before it begins.
    """
    from praxis_sdk.control.lifecycle.submission import Window

    if opens is None and closes is None:
        return None
    opens_at = None if opens is None else read_moment(opens, "--opens", now)
    closes_at = None if closes is None else read_moment(closes, "--closes", now, after=opens_at)
    try:
        return Window(opens_at, closes_at)
    except ValidationError as error:
        message = error.message.replace("schedule.closes_at", "--closes")
        raise ValidationError(message, remedy=error.remedy) from error


def works_of(documents: Sequence[Any], folder: Path) -> list[Mapping[str, Any]]:
    """Read the pieces of a batch, which share the terms of the batch.

    Raises:
        ValidationError: one is not acceptable; the message says which.
    """
    works = []
    for number, document in enumerate(documents, 1):
        try:
            if not isinstance(document, Mapping):
                raise ValidationError("is no object", remedy='write {"kind": "job", "request": {...}}')
            own = next((name for name in TERMS if document.get(name) is not None), None)
            if own is not None:
                raise ValidationError(f"{own}: is said of the whole batch", remedy="move it to the top")
            works.append(submission_of(document, folder).work)
        except ValidationError as error:
            raise ValidationError(
                f"submissions[{number - 1}]: {error.message}", remedy=error.remedy
            ) from error
    return works


def _tool_request(request: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Put the contract that a request names by its path into it, and say where its mounts count from."""
    found = dict(request)
    contract = found.get("contract")
    if isinstance(contract, str):
        from praxis_sdk.execution.contract.loading import load_contract

        loaded = load_contract(folder / contract)
        found["contract"] = loaded.contract.model_dump(mode="json", exclude_none=True)
    workspace = found.get("workspace", ".")
    if isinstance(workspace, str):
        found["workspace"] = str((folder / workspace).resolve())
    return found
