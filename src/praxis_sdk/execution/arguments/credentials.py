"""The secrets of one run: where a contract and its arguments may refer to them, and what they are on this worker.

A reference in an argument is the caller's choice. A reference in a contract is its author's, so the contract must be
trusted, or the caller must allow that secret by name. Values that the contract or a parameter declares secret are never
stored: `withhold` turns them into references to the memory of the command that was given them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from praxis_sdk.errors import PraxisError, ValidationError
from praxis_sdk.execution.arguments.arguments import check_arguments, placeholders
from praxis_sdk.execution.arguments.declared_secrets import replace_secrets, secret_texts
from praxis_sdk.execution.contract.contract import ToolContract
from praxis_sdk.execution.contract.parameters import ToolParameter
from praxis_sdk.execution.contract.problems import one_line
from praxis_sdk.execution.outcome import ToolOutcome
from praxis_sdk.secrets import (
    GivenSecrets,
    Mask,
    Secret,
    SecretSources,
    SecretUnavailable,
    given_name,
    is_given,
    names_no_secret,
    references,
    replace_references,
    variables,
)

# Fields of an engine's spec that may refer to secrets: what is neither shown by `ps` nor a place on the host.
FIELDS: Final = ("env", "headers", "auth_token", "authToken", "address")
_TOKENS: Final = ("auth_token", "authToken")
_SECRET_HEADER: Final = re.compile(
    r"(?:proxy-)?authorization|cookie|.*(?:token|secret|password|api-?key).*", re.IGNORECASE
)
# What of an address is secret: a password before the host, and the value of such a parameter behind '?'.
_SECRET_IN_ADDRESS: Final = re.compile(
    r"(^https?://(?:[^/?#@:]*:)?)([^/?#@]+)(?=@)"
    r"|([?&](?:[^=&#]*(?:token|secret|password|signature|(?:api|access)[-_]?key)[^=&#]*|key|sig)=)([^&#]+)",
    re.IGNORECASE,
)
_KEEP: Final = "keep it with 'praxis secret set NAME' and write secret://NAME"


@dataclass(frozen=True)
class Credentials:
    """A contract and arguments with secrets in place, for one attempt.

    Args:
        contract, args: as an engine gets them; never stored, shown or logged.
        used: the secrets, for the audit.
        mask: what replaces their values in whatever comes out of the run.
    """

    contract: ToolContract
    args: Mapping[str, Any]
    used: tuple[Secret, ...]
    mask: Mask

    def masked(self, error: PraxisError) -> PraxisError:
        """Return an error without secrets in its message."""
        error.message, error.remedy = self.mask.text(error.message), self.mask.text(error.remedy)
        error.args = (error.message,)
        return error

    def masked_outcome(self, outcome: ToolOutcome) -> ToolOutcome:
        """Return an outcome without secrets in its texts."""
        if not self.mask:
            return outcome
        failure = outcome.failure
        return replace(
            outcome,
            stdout=self.mask.text(outcome.stdout),
            stderr=self.mask.text(outcome.stderr),
            failure=None if failure is None else replace(failure, message=self.mask.text(failure.message)),
            notes=tuple(map(self.mask.text, outcome.notes)),
        )


def check_references(
    contract: ToolContract, args: Mapping[str, Any], *, trusted: bool, allowed: Collection[str] = ()
) -> None:
    """Check arguments against a contract, and all references to secrets; nothing is resolved.

    Args:
        contract: the tool.
        args: its arguments, with references where they are secret.
        trusted: whether the caller vouches for the contract, which then may name any secret.
        allowed: the secrets that the contract may name otherwise.

    Raises:
        ValidationError: an argument is not acceptable, a reference stands where it may not, or a value that is declared
            secret is given in plain text.
    """
    spec = contract.engine_spec
    fields = {f"engineSpec.{name}": spec[name] for name in FIELDS if name in spec}
    for where, value in {**fields, **{f"args.{name}": value for name, value in args.items()}}.items():
        if names_no_secret(value):
            raise ValidationError(
                f"{one_line(where)}: no name of a secret follows 'secret://'",
                remedy="write secret://NAME, as 'praxis secret list' shows the names",
            )
    for name, value in spec.items():
        if name not in FIELDS and references(value):
            raise ValidationError(
                f"engineSpec.{name}: a secret cannot stand here",
                remedy="put it into 'env', which only the tool sees",
            )
    if not (trusted or contract.trusted):
        _check_allowed(spec, allowed)
    for where, _ in _plain(contract, args):
        raise ValidationError(f"{where}: holds a secret in plain text, which would be stored", remedy=_KEEP)
    hidden = {name for name, value in args.items() if references(value)}
    command = spec.get("command") or []
    for name in placeholders([command] if isinstance(command, str) else map(str, command)):
        if name in hidden:
            raise ValidationError(
                f"engineSpec.command: '{{{{{name}}}}}' would show a secret on the command line",
                remedy="let the tool read the argument's variable or the arguments file",
            )
    if hidden and str(spec.get("arguments", "env")).lower() in ("argv", "both"):
        raise ValidationError(
            f"args.{min(hidden)}: this tool reads its arguments from the command line, which would show a secret",
            remedy="write 'arguments: env' and let it read the argument's variable",
        )
    # What a secret must satisfy is checked on the worker, where its value is known.
    check_arguments([_unconstrained(one) if one.name in hidden else one for one in contract.parameters], args)


def withhold(
    contract: ToolContract, args: Mapping[str, Any], given: GivenSecrets
) -> tuple[ToolContract, dict[str, Any]]:
    """Replace values that are declared secret by references, and keep the values in memory.

    Args:
        contract: the tool.
        args: its arguments.
        given: takes the values.

    Returns:
        The contract and the arguments as they can be stored.
    """
    if not any(_plain(contract, args)):
        return contract, dict(args)

    def put_away(value: str) -> str:
        name = given_name()
        given.add(name, value)
        return f"secret://{name}"

    spec, kept, parameters = dict(contract.engine_spec), dict(args), []
    for token in _TOKENS:
        if isinstance(spec.get(token), str) and not _refers(spec[token]):
            spec[token] = put_away(spec[token])
    if isinstance(address := spec.get("address"), str):
        spec["address"] = _SECRET_IN_ADDRESS.sub(lambda match: _in_address(match, put_away), address)
    if headers := _headers(spec):
        spec["headers"] = {
            name: _with_scheme(value, put_away) if _is_secret_header(name, value) else value
            for name, value in headers.items()
        }
    for parameter in contract.parameters:
        if parameter.secret:
            value = kept.get(parameter.name)
            value = parameter.default if value is None else value
            parameter = parameter.model_copy(update={"default": None})
            if value is not None:
                kept[parameter.name] = replace_secrets(
                    parameter.json_schema(),
                    value,
                    lambda text: text if _refers(text) or names_no_secret(text) else put_away(text),
                )
        parameters.append(parameter)
    return contract.model_copy(update={"engine_spec": spec, "parameters": parameters}), kept


def resolve(
    contract: ToolContract, args: Mapping[str, Any], sources: SecretSources, *, trusted: bool
) -> Credentials:
    """Put secrets in place of references.

    Args:
        contract, args: as they are stored.
        sources: where the secrets are.
        trusted: whether the caller vouches for the contract.

    Raises:
        SecretUnavailable: this worker does not have one.
    """
    used: dict[str, Secret] = {}

    def secret(name: str) -> str:
        if name not in used:
            used[name] = sources.get(name)
        return used[name].value

    def variable(name: str) -> str:
        value = os.environ.get(name)
        if value is None:
            raise SecretUnavailable(
                f"${{env:{name}}}: this worker has no such variable",
                remedy="set it where the worker is started",
            )
        used[f"env:{name}"] = Secret(f"env:{name}", value, "environment")
        return value

    spec = {
        name: replace_references(value, secret, variable if trusted or contract.trusted else None)
        if name in FIELDS
        else value
        for name, value in contract.engine_spec.items()
    }
    values = replace_references(dict(args), secret)
    if not used:
        return Credentials(contract, args, (), Mask())
    resolved = contract.model_copy(update={"engine_spec": spec})
    return Credentials(resolved, values, tuple(used.values()), Mask(one.value for one in used.values()))


def _check_allowed(spec: Mapping[str, Any], allowed: Collection[str]) -> None:
    fields = {name: spec[name] for name in FIELDS if name in spec}
    for name in references(fields):
        if name not in allowed and not is_given(name):
            raise ValidationError(
                f"engineSpec: this contract is not trusted and wants the secret '{name}'",
                remedy=f"add --allow-secret {name} if the tool may have it",
            )
    for name in variables(fields):
        raise ValidationError(
            f"engineSpec: only a trusted contract may refer to ${{env:{name}}}",
            remedy="name it in 'env_passthrough', or add 'trust: trusted' if the contract is yours",
        )


def _plain(contract: ToolContract, args: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Go through the values that are declared secret and given in plain text, each with its place."""
    spec = contract.engine_spec
    for name in _TOKENS:
        if isinstance(spec.get(name), str) and not _refers(spec[name]):
            yield f"engineSpec.{name}", spec[name]
    if isinstance(address := spec.get("address"), str):
        for match in _SECRET_IN_ADDRESS.finditer(address):
            if _in_address(match, lambda text: "") != match[0]:
                yield "engineSpec.address", match[0]
    for name, value in _headers(spec).items():
        if _is_secret_header(name, value):
            yield f"engineSpec.headers.{name}", value
    for parameter in contract.parameters:
        if parameter.secret:
            given = args.get(parameter.name)
            where = f"parameters.{parameter.name}.default" if given is None else f"args.{parameter.name}"
            for value in secret_texts(parameter.json_schema(), parameter.default if given is None else given):
                if not _refers(value):
                    yield where, value


def _headers(spec: Mapping[str, Any]) -> dict[str, str]:
    """Return the headers of a spec, which may write them as a mapping or as lines."""
    headers: Any = spec.get("headers") or {}
    if isinstance(headers, Mapping):
        return {str(name): str(value) for name, value in headers.items()}
    pairs = (str(line).partition(":") for line in headers)
    return {name.strip(): value.strip() for name, _, value in pairs}


def _with_scheme(value: str, put_away: Callable[[str], str]) -> str:
    """Put away what follows the scheme of a header such as 'Bearer ...', which tools show by itself, too."""
    scheme, space, token = value.rpartition(" ")
    return f"{scheme}{space}{put_away(token)}"


def _in_address(match: re.Match[str], put_away: Callable[[str], str]) -> str:
    """Put away the secret in a match of `_SECRET_IN_ADDRESS`; a reference stays."""
    before, secret = (match[1], match[2]) if match[2] else (match[3], match[4])
    return match[0] if _refers(secret) else f"{before}{put_away(secret)}"


def _refers(value: Any) -> bool:
    return bool(references(value) or variables(value))


def _is_secret_header(name: object, value: object) -> bool:
    return bool(_SECRET_HEADER.fullmatch(str(name))) and not _refers(value)


def _unconstrained(parameter: ToolParameter) -> ToolParameter:
    return parameter.model_copy(update={"type": "any", "constraints": {}})
