"""Arguments: checked against the contract, then delivered in every customary way (DESIGN, "Arguments").

A tool finds argument `input_file` in the environment as `ARG_INPUT_FILE`, and as `input_file` and
`INPUT_FILE` where those names are harmless; in the JSON file named by `PRAXIS_ARGS_FILE`; and in place
of `{{input_file}}` in its command. A value never becomes shell code: in a script that a shell is given,
a placeholder turns into a quoted reference to the environment variable.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from praxis_sdk.errors import ValidationError
from praxis_sdk.execution.parameters import ToolParameter

ARGS_FILE_VARIABLE: Final = "PRAXIS_ARGS_FILE"
MAX_ARGUMENTS_BYTES: Final = 4 << 20  # of all arguments together, as JSON
MAX_VARIABLE_BYTES: Final = 96 << 10  # the kernel refuses strings of 128 KiB; longer values are in the file

_IDENTIFIER: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_PLACEHOLDER: Final = re.compile(r"\{\{\s*([^{}]+?)\s*\}\}")
_SHELLS: Final = frozenset({"sh", "bash", "dash", "ash", "ksh", "zsh"})
# Variables that decide what code a program loads or runs, or where it finds its own things. An argument
# of such a name still reaches the tool as ARG_<NAME>.
_HARMFUL: Final = re.compile(
    r"PATH|HOME|SHELL|USER|LOGNAME|PWD|OLDPWD|IFS|ENV|BASH_\w*|BASHOPTS|SHELLOPTS|PS[0-4]|PROMPT_COMMAND|TERM\w*"
    r"|LD_\w*|DYLD_\w*|LIBRARY_PATH|GLIBC_\w*|MALLOC_\w*|GCONV_PATH|LOCPATH|NLSPATH|LANG|LC_\w*|TZ\w*"
    r"|PYTHON\w*|PERL\w*|RUBY\w*|NODE_\w*|NPM_\w*|JAVA_\w*|JDK_\w*|_JAVA_\w*|CLASSPATH|PHP\w*|LUA_\w*|GEM_\w*"
    r"|GIT_\w*|SSH_\w*|GPG_\w*|EDITOR|VISUAL|PAGER|LESS\w*|MANPAGER|BROWSER|CC|CXX|CPP|LDFLAGS|CFLAGS|MAKEFLAGS"
    r"|TEXMF\w*|TEXINPUTS|MPLCONFIGDIR|XDG_\w*|TMPDIR|TMP|TEMP|HOSTNAME|HOSTALIASES|RES_OPTIONS|RESOLV\w*"
    r"|DOCKER_\w*|DAGGER_\w*|KUBE\w*|AWS_\w*|AZURE_\w*|GOOGLE_\w*|SSL_\w*|CURL_\w*|REQUESTS_\w*|\w+_PROXY"
    r"|OPENSSL_\w*|OMP_\w*|PRAXIS_\w*|ARG_\w*|_",
    re.IGNORECASE,
)


def check_arguments(parameters: Sequence[ToolParameter], args: Mapping[str, Any]) -> dict[str, Any]:
    """Check arguments against the declared parameters and fill in the defaults.

    Args:
        parameters: what the contract declares.
        args: what the caller gives; None counts as not given.

    Returns:
        A value for every parameter that was given or has a default, in the order of declaration.

    Raises:
        ValidationError: an argument is unknown, missing, or of the wrong type.
    """
    if not isinstance(args, Mapping):
        raise ValidationError(f"args: a mapping of name to value is wanted, not {type(args).__name__}")
    declared = {parameter.name: parameter for parameter in parameters}
    for name in args:
        if name not in declared:
            raise _unknown(name, declared)
    values: dict[str, Any] = {}
    for parameter in parameters:
        value = args.get(parameter.name)
        if value is None:
            value = parameter.default
        elif fault := _fault(parameter, value):
            raise ValidationError(
                f"args.{parameter.name}: {fault}", remedy=f"give a value of type {parameter.type}"
            )
        if value is not None:
            values[parameter.name] = value
        elif parameter.required:
            raise ValidationError(
                f"args.{parameter.name}: required and not given", remedy=f"add --arg {parameter.name}=..."
            )
    if len(arguments_json(values)) > MAX_ARGUMENTS_BYTES:
        raise ValidationError(
            f"args: larger than {MAX_ARGUMENTS_BYTES >> 20} MiB", remedy="mount a file with the data instead"
        )
    return values


def read_value(parameter: ToolParameter, text: str) -> Any:
    """Read a value that was written on a command line, by the type of its parameter.

    Raises:
        ValidationError: the text is not of that type.
    """
    if parameter.type == "string":
        return text
    try:
        value = json.loads(text)
    except ValueError:
        value = text
    if parameter.type == "boolean" and isinstance(value, str):
        word = value.strip().lower()
        value = {"yes": True, "on": True, "no": False, "off": False}.get(word, value)
        value = {"true": True, "false": False}.get(word, value)
    if parameter.type != "any" and (fault := _fault(parameter, value)):
        raise ValidationError(
            f"args.{parameter.name}: {fault}", remedy=f"give a value of type {parameter.type}"
        )
    return value


def read_values(parameters: Sequence[ToolParameter], text_args: Mapping[str, str]) -> dict[str, Any]:
    """Read `--arg name=text` pairs by the types of their parameters; unknown names stay as they are."""
    declared = {parameter.name: parameter for parameter in parameters}
    return {
        name: read_value(declared[name], text) if name in declared else text
        for name, text in text_args.items()
    }


def arguments_json(values: Mapping[str, Any]) -> bytes:
    """Return the content of the file that `PRAXIS_ARGS_FILE` names."""
    return json.dumps(values, ensure_ascii=False, indent=1).encode("utf-8", errors="surrogatepass")


def argument_variables(values: Mapping[str, Any], fixed: Iterable[str]) -> dict[str, str]:
    """Return the environment variables by which arguments reach a tool.

    Args:
        values: checked arguments.
        fixed: variables that the contract fixes; no argument sets one of them.

    Raises:
        ValidationError: two arguments want the same `ARG_` variable.
    """
    taken = set(fixed)
    variables: dict[str, str] = {}
    owner: dict[str, str] = {}
    for name, value in values.items():
        text = as_text(value)
        if len(text.encode("utf-8", errors="surrogatepass")) > MAX_VARIABLE_BYTES:
            continue
        variable = variable_of(name)
        if owner.setdefault(variable, name) != name:
            raise ValidationError(
                f"args.{name}: shares the variable {variable} with '{owner[variable]}'", remedy="rename one"
            )
        if variable not in taken:
            variables[variable] = text
    for name, value in values.items():
        text = as_text(value)
        if variable_of(name) not in variables:
            continue
        for variable in (name, name.upper()):
            harmless = _IDENTIFIER.fullmatch(variable) and not _HARMFUL.fullmatch(variable)
            if harmless and variable not in taken:
                variables.setdefault(variable, text)
    return variables


def variable_of(name: str) -> str:
    """Return the `ARG_` variable of an argument: 'input-file' -> 'ARG_INPUT_FILE'."""
    return "ARG_" + re.sub(r"[^A-Za-z0-9_]", "_", name).upper()


def as_text(value: Any) -> str:
    """Write a value the way a shell user would: strings as they are, true and false, else JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def placeholders(command: Iterable[str]) -> list[str]:
    """Return the names that stand as `{{name}}` in a command."""
    return [match[1] for word in command for match in _PLACEHOLDER.finditer(word)]


def fill_command(
    command: Sequence[str], parameters: Sequence[ToolParameter], values: Mapping[str, Any]
) -> list[str]:
    """Put arguments in place of `{{name}}` in a command.

    A word keeps being one word, whatever the value holds. Where the word is a script for a shell
    (`sh -c '...'`), the placeholder becomes a reference to the argument's variable instead. An
    argument that is not given is an empty string.

    Raises:
        ValidationError: a placeholder names no parameter, or a value cannot stand in a command.
    """
    known = {parameter.name for parameter in parameters}
    for name in placeholders(command):
        if name not in known:
            raise ValidationError(
                f"engineSpec.command: '{{{{{name}}}}}' names no parameter",
                remedy="declare it under 'parameters'",
            )
    filled = []
    for index, word in enumerate(command):
        if index >= 2 and _is_shell_script(command, index):
            filled.append(fill_script(word, values))
        else:
            filled.append(_PLACEHOLDER.sub(lambda match: _word_text(match[1], values), word))
    return filled


def fill_script(script: str, values: Mapping[str, Any]) -> str:
    """Put quoted references to arguments' variables in place of `{{name}}` in a shell script."""
    pieces: list[str] = []
    end = 0
    quote = ""
    for match in _PLACEHOLDER.finditer(script):
        quote = _quote_state(script[end : match.start()], quote)
        _word_text(match[1], values)  # refuses what no variable can hold
        reference = "${" + variable_of(match[1]) + "-}"
        pieces += [script[end : match.start()], _REFERENCE_IN_QUOTES[quote].format(reference)]
        end = match.end()
    return "".join([*pieces, script[end:]])


_REFERENCE_IN_QUOTES: Final = {"": '"{}"', '"': "{}", "'": "'\"{}\"'"}


def _quote_state(text: str, quote: str) -> str:
    """Follow a shell's quotes through a text: which quote is open behind it ('' for none)."""
    escaped = False
    for char in text:
        if escaped:
            escaped = False
        elif char == "\\" and quote != "'":
            escaped = True
        elif quote == "" and char in "'\"":
            quote = char
        elif char == quote:
            quote = ""
    return quote


def _is_shell_script(command: Sequence[str], index: int) -> bool:
    program = command[0].rsplit("/", 1)[-1]
    flags = command[index - 1]
    return program in _SHELLS and re.fullmatch(r"-[a-z]*c", flags) is not None


def _word_text(name: str, values: Mapping[str, Any]) -> str:
    text = as_text(values[name]) if name in values else ""
    if len(text.encode("utf-8", errors="surrogatepass")) > MAX_VARIABLE_BYTES:
        raise ValidationError(
            f"args.{name}: longer than the {MAX_VARIABLE_BYTES >> 10} KiB that fit in a command",
            remedy=f"let the tool read it from the file named by {ARGS_FILE_VARIABLE}",
        )
    return text


def _fault(parameter: ToolParameter, value: Any) -> str | None:
    try:
        if "\0" in as_text(value) and isinstance(value, str):
            return "holds a NUL character"
        as_text(value).encode("utf-8")
    except (TypeError, UnicodeEncodeError):
        return f"{type(value).__name__} cannot be written as JSON in UTF-8"
    return parameter.fault_of(value)


def _unknown(name: object, declared: Mapping[str, ToolParameter]) -> ValidationError:
    near = difflib.get_close_matches(str(name), declared, n=1)
    known = ", ".join(declared) or "none"
    remedy = f"did you mean '{near[0]}'?" if near else f"declared parameters: {known}"
    return ValidationError(f"args.{name}: the contract declares no such parameter", remedy=remedy)
