"""Arguments: checked against the contract, then delivered in every customary way (DESIGN, "Arguments").

A tool finds argument `input_file` in the environment as `ARG_INPUT_FILE`, and as `input_file` and
`INPUT_FILE` where those names are harmless; in the JSON file named by `PRAXIS_ARGS_FILE`; and in place
of `{{input_file}}` in its command. A value never becomes shell code: in a script that a shell is given,
a placeholder turns into a quoted reference to the environment variable. `command_line` has the words of
tools that read `argv`.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NoReturn

from praxis_sdk.errors import ValidationError
from praxis_sdk.execution.arguments.command_line import (
    MAX_WORD_BYTES,
    argument_words,
    check_command,
    check_word,
)
from praxis_sdk.execution.arguments.shell_script import PLACEHOLDER, PlaceholderRefused, fill_script
from praxis_sdk.execution.arguments.text import as_text, size_bytes
from praxis_sdk.execution.arguments.values import explain, normalised
from praxis_sdk.execution.contract.parameters import ToolParameter
from praxis_sdk.execution.contract.problems import one_line
from praxis_sdk.execution.contract.specs import ProcessEngineSpec
from praxis_sdk.secrets import references

ARGS_FILE_VARIABLE: Final = "PRAXIS_ARGS_FILE"
MAX_ARGUMENTS_BYTES: Final = 4 << 20  # of all arguments together, as JSON
MAX_VARIABLE_BYTES: Final = MAX_WORD_BYTES  # longer values are in the file
MAX_VARIABLES_BYTES: Final = 384 << 10  # of all values in the environment, each under up to three names
MAX_DEPTH: Final = 100  # of lists and mappings in one value

_IDENTIFIER: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_SHELL: Final = ("/bin/sh", "-c")
_SHELLS: Final = frozenset({"sh", "bash", "dash", "ash", "ksh", "mksh", "zsh"})
# Other programs that take code as an argument -> the options that announce it.
_INTERPRETERS: Final = {
    **dict.fromkeys(("python", "python2", "python3", "pypy", "pypy3", "csh", "tcsh", "fish", "su"), "c"),
    **dict.fromkeys(("ruby", "lua", "Rscript"), "e"),
    **dict.fromkeys(("perl", "node", "julia"), "eEp"),
    "php": "r",
}
# Variables that decide what code a program loads or runs, or where it finds its own things. An argument
# of such a name still reaches the tool as ARG_<NAME>.
_HARMFUL: Final = re.compile(
    r"PATH|CDPATH|GLOBIGNORE|HOME|SHELL|USER|LOGNAME|PWD|OLDPWD|IFS|ENV|BASH_\w*|BASHOPTS|SHELLOPTS|PS[0-4]|PROMPT_COMMAND|TERM\w*"
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
        raise ValidationError(f"args: must be a mapping of name to value, not {type(args).__name__}")
    declared = {parameter.name: parameter for parameter in parameters}
    for name in args:
        if name not in declared:
            raise _unknown(name, declared)
    values: dict[str, Any] = {}
    for parameter in parameters:
        value = args.get(parameter.name)
        if value is None:
            value = parameter.default
        if value is not None:
            values[parameter.name] = _accepted(parameter, value)
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
    value = _read_text(parameter.json_schema(), text)
    if parameter.type == "array" and not isinstance(value, list) and not text.lstrip().startswith("["):
        value = [_read_text(_items(parameter), text)]
    return value if parameter.type in ("string", "any") or references(value) else _accepted(parameter, value)


def read_values(
    parameters: Sequence[ToolParameter], text_args: Mapping[str, Sequence[str]]
) -> dict[str, Any]:
    """Read the texts of `--arg name=text` by the types of their parameters; unknown names stay as they are.

    Raises:
        ValidationError: a text is not of its type, or an argument that is not a list is given twice.
    """
    declared = {parameter.name: parameter for parameter in parameters}
    values: dict[str, Any] = {}
    for name, texts in text_args.items():
        parameter = declared.get(name)
        if len(texts) > 1 and (parameter is None or parameter.type != "array"):
            raise ValidationError(
                f"args.{one_line(name)}: given twice, and not a list", remedy="keep one of them"
            )
        if parameter is None:
            values[name] = texts[0]
        elif len(texts) == 1:
            values[name] = read_value(parameter, texts[0])
        else:
            items = _items(parameter)
            value = [_read_text(items, text) for text in texts]
            values[name] = value if references(value) else _accepted(parameter, value)
    return values


def _read_text(schema: Mapping[str, Any], text: str) -> Any:
    """Read text as JSON, unless it is to be text, or is one of the choices as it stands."""
    choices = schema.get("enum")
    if schema.get("type") == "string" or (isinstance(choices, list) and text in choices):
        return text
    try:
        value = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        return text
    return value


def _items(parameter: ToolParameter) -> Mapping[str, Any]:
    """Return the schema of a list's items; those without one are text."""
    items = parameter.constraints.get("items")
    return items if isinstance(items, Mapping) else {"type": "string"}


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
    fitting = _fitting_texts(values)
    for name, text in fitting.items():
        variable = variable_of(name)
        if owner.setdefault(variable, name) != name:
            raise ValidationError(
                f"args.{name}: shares the variable {variable} with '{owner[variable]}'", remedy="rename one"
            )
        if variable not in taken:
            variables[variable] = text
    for name, text in fitting.items():
        for variable in (name, name.upper()):
            if is_harmless(variable) and variable not in taken:
                variables.setdefault(variable, text)
    return variables


def variable_of(name: str) -> str:
    """Return the `ARG_` variable of an argument: 'input-file' -> 'ARG_INPUT_FILE'."""
    return "ARG_" + re.sub(r"[^A-Za-z0-9_]", "_", name).upper()


def is_harmless(variable: str) -> bool:
    """Tell whether an argument may set a variable of this name: a plain name that steers no program."""
    return bool(_IDENTIFIER.fullmatch(variable)) and not _HARMFUL.fullmatch(variable)


def placeholders(command: Iterable[str]) -> list[str]:
    """Return the names that stand as `{{name}}` in a command."""
    return [match[1] for word in command for match in PLACEHOLDER.finditer(word)]


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
    _check_names(command, parameters, "command")
    script = _code_index(command)
    filled = []
    for index, word in enumerate(command):
        if index == script and PLACEHOLDER.search(word):
            filled.append(_fill_code(command, index, values))
        else:
            filled.append(PLACEHOLDER.sub(lambda match: _word_text(match[1], values), word))
    return filled


def build_command(
    spec: ProcessEngineSpec, parameters: Sequence[ToolParameter], values: Mapping[str, Any]
) -> list[str]:
    """Return the command of a spec with arguments in place, and behind it where the tool reads `argv`.

    Under `shell` one word is a script; several are a command that the shell runs as it stands.

    Raises:
        ValidationError: as `fill_command`; or the arguments are too long for a command line.
    """
    words = argument_words(parameters, values) if spec.arguments in ("argv", "both") else []
    if not spec.shell:
        command = _append(fill_command(spec.command, parameters, values), words)
    elif len(spec.command) == 1:
        command = _append(fill_command([*_SHELL, *spec.command], parameters, values), words)
    else:
        command = [*_SHELL, '"$@"', "sh", *_append(fill_command(spec.command, parameters, values), words)]
    check_command(command)
    return command


def fill_stdin(
    spec: ProcessEngineSpec, parameters: Sequence[ToolParameter], values: Mapping[str, Any]
) -> bytes | None:
    """Return what the contract itself puts on standard input; None where that is left to the caller.

    Raises:
        ValidationError: a placeholder names no parameter, or the contract fills standard input twice.
    """
    if spec.arguments == "stdin":
        if spec.stdin is not None:
            raise ValidationError(
                "engineSpec.stdin: 'arguments: stdin' already fills standard input", remedy="keep one of them"
            )
        return arguments_json(values)
    if spec.stdin is None:
        return None
    _check_names([spec.stdin], parameters, "stdin")
    return PLACEHOLDER.sub(
        lambda match: as_text(values[match[1]]) if match[1] in values else "", spec.stdin
    ).encode("utf-8", errors="surrogatepass")


def _check_names(texts: Iterable[str], parameters: Sequence[ToolParameter], field: str) -> None:
    known = {parameter.name for parameter in parameters}
    for name in placeholders(texts):
        if name not in known:
            raise ValidationError(
                f"engineSpec.{field}: '{{{{{name}}}}}' names no parameter",
                remedy="declare it under 'parameters'",
            )


def _append(command: list[str], words: list[str]) -> list[str]:
    """Put words behind a command; a script that ends it gets the shell's name as `$0`, and the words from `$1` on."""
    code = _code_index(command)
    if words and code is not None and code == len(command) - 1:
        shell = next((name for name in map(_program, command) if name in _SHELLS), None)
        return [*command, *([shell] if shell else []), *words]
    return [*command, *words]


def _fill_code(command: Sequence[str], index: int, values: Mapping[str, Any]) -> str:
    """Fill the word of a command that is code: a shell's script takes references, other code takes nothing."""
    names = placeholders([command[index]])
    for name in names:
        _word_text(name, values)  # refuses what no variable can hold
    fitting = _fitting_texts(values)
    if not any(_program(word) in _SHELLS for word in command[:index]):
        raise _refused(names, "stands in code, which a value must not become a part of")
    if any(name in values and name not in fitting for name in names):
        raise _refused(names, "has a value for which the environment has no room")
    try:
        return fill_script(command[index], variable_of, values)
    except PlaceholderRefused as error:
        raise _refused(names, str(error)) from error


def _refused(names: Sequence[str], reason: str) -> ValidationError:
    shown = ", ".join(f"'{{{{{name}}}}}'" for name in dict.fromkeys(names))
    return ValidationError(
        f"engineSpec.command: {one_line(shown)} {reason}",
        remedy=f"let the code read the variable {variable_of(names[0])} instead",
    )


def _code_index(command: Sequence[str]) -> int | None:
    """Find the word of a command that is code for a shell or an interpreter: what follows `sh ... -c`."""
    for start, word in enumerate(command):
        program = _program(word)
        announcing = "c" if program in _SHELLS else _INTERPRETERS.get(program)
        if announcing is None:
            continue
        announced = False
        index = start + 1
        while index < len(command) and command[index][:1] in ("-", "+") and len(command[index]) > 1:
            option = command[index]
            index += 1
            if option == "--":
                break
            if not option.startswith("--"):
                announced = announced or any(letter in option[1:] for letter in announcing)
                index += 1 if option[-1] in ("oO" if program in _SHELLS else "WX") else 0
            elif option in ("--eval", "--print", "--run", "--command", "--rcfile", "--init-file"):
                announced = announced or option not in ("--rcfile", "--init-file")
                index += 1 if option in ("--rcfile", "--init-file") else 0
        if announced and index < len(command):
            return index
    return None


def _program(word: str) -> str:
    name = word.rsplit("/", 1)[-1]
    return "python" if re.fullmatch(r"python[0-9.]*", name) else name


def _fitting_texts(values: Mapping[str, Any]) -> dict[str, str]:
    """Return, as text, the values for which the environment has room; the others are in the file only."""
    texts: dict[str, str] = {}
    room = MAX_VARIABLES_BYTES
    for name, value in values.items():
        text = as_text(value)
        size = size_bytes(text)
        if size <= min(MAX_VARIABLE_BYTES, room):
            texts[name] = text
            room -= size
    return texts


def _word_text(name: str, values: Mapping[str, Any]) -> str:
    return check_word(name, as_text(values[name]) if name in values else "")


def _accepted(parameter: ToolParameter, value: Any) -> Any:
    """Return a value in the form of its type.

    Raises:
        ValidationError: it does not satisfy the parameter.
    """
    place = f"args.{parameter.name}"
    if isinstance(value, str) and "\0" in value:
        raise ValidationError(f"{place}: holds a NUL character", remedy="remove it")
    if _is_deeper(value, MAX_DEPTH):
        raise ValidationError(f"{place}: is nested deeper than {MAX_DEPTH} levels", remedy="flatten it")
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False)
        text.encode("utf-8")
    except (TypeError, ValueError) as error:
        if isinstance(error, ValueError) and "JSON compliant" in str(error):
            raise ValidationError(
                f"{place}: holds a number that is infinite, too large, or not a number",
                remedy="give a number that JSON can write",
            ) from error
        raise ValidationError(
            f"{place}: {type(value).__name__} cannot be written as JSON in UTF-8",
            remedy="give text, a number, true or false, a list or a mapping",
        ) from error
    # Through JSON, so that what is checked is what the tool gets: tuples are lists, keys are text.
    plain = json.loads(text) if isinstance(value, list | tuple | dict) else value
    plain = normalised(parameter.json_schema(), plain)
    fault = parameter.fault_of(plain)
    if fault is None:
        return plain
    message, remedy = explain(fault, hidden=parameter.secret)
    where = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in fault.path)
    raise ValidationError(one_line(f"{place}{where}: {message}"), remedy=remedy)


def _is_deeper(value: Any, limit: int) -> bool:
    """Tell whether lists and mappings are nested deeper than a limit, or in themselves."""
    level = [value]
    for _ in range(limit + 1):
        inner: list[Any] = []
        for item in level:
            if isinstance(item, dict):
                inner += item.values()
            elif isinstance(item, list | tuple):
                inner += item
        if not inner:
            return False
        level = [item for item in inner if isinstance(item, dict | list | tuple)]
    return True


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _unknown(name: object, declared: Mapping[str, ToolParameter]) -> ValidationError:
    near = difflib.get_close_matches(str(name), declared, n=1)
    known = ", ".join(declared) or "none"
    remedy = f"did you mean '{near[0]}'?" if near else f"declared parameters: {known}"
    return ValidationError(
        f"args.{one_line(str(name))}: the contract declares no such parameter", remedy=remedy
    )
