"""Secrets by reference: a name in requests and contracts, a value on the worker while an attempt runs.

    secret://NAME    in an argument, or in a contract's env, headers and auth_token
    ${env:NAME}      a variable of the worker's own environment; in the same places of a trusted contract

A reference is what is stored, shown and logged. The worker that runs an attempt resolves it, hands the value to the
tool, and masks it in everything that the tool writes and the engine reports (`mask`). Whoever writes the reference
decides: a caller may pass any secret as an argument, a contract may name only those that the caller allows.
"""

from praxis_sdk.secrets.mask import Mask, StreamMask
from praxis_sdk.secrets.providers import (
    CommandSecrets,
    EnvironmentSecrets,
    FileSecrets,
    GivenSecrets,
    Secret,
    SecretProvider,
    SecretSources,
    SecretUnavailable,
)
from praxis_sdk.secrets.reference import (
    check_name,
    given_name,
    is_given,
    names_no_secret,
    references,
    replace_references,
    variables,
)

__all__ = [
    "CommandSecrets",
    "EnvironmentSecrets",
    "FileSecrets",
    "GivenSecrets",
    "Mask",
    "Secret",
    "SecretProvider",
    "SecretSources",
    "SecretUnavailable",
    "StreamMask",
    "check_name",
    "given_name",
    "is_given",
    "names_no_secret",
    "references",
    "replace_references",
    "variables",
]
