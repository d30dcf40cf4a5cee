"""Arguments as words of a command line, in the form that argparse, click and getopt read.

    text, number      --name value      --name=value where the value begins with '-'
    true              --name
    false             nothing; --no-name where the default is true, as leaving it out would mean the default
    list              --name one --name two
    object            --name '{"as": "JSON"}'
    positional        value, behind the options; behind '--' where one begins with '-'

The option is the parameter's name as the contract spells it (`input_file` is `--input_file`), unless the
parameter gives another (`option: -i`). Options keep the order of the contract, and so do positional values.
An argument that is not given adds no word. An empty text is a word: it was given.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from praxis_sdk.errors import ValidationError
from praxis_sdk.execution.arguments.text import as_text, size_bytes
from praxis_sdk.execution.contract.parameters import ToolParameter

MAX_WORD_BYTES: Final = 96 << 10  # the kernel refuses words and variables of 128 KiB
MAX_COMMAND_BYTES: Final = 512 << 10  # of all words; with the environment, what any kernel accepts


def argument_words(parameters: Sequence[ToolParameter], values: Mapping[str, Any]) -> list[str]:
    """Return the words that hand arguments to a tool that reads `argv`.

    Args:
        parameters: what the contract declares, in its order.
        values: checked arguments.

    Raises:
        ValidationError: an argument is too long for a command line.
    """
    given = [(parameter, values[parameter.name]) for parameter in parameters if parameter.name in values]
    words: list[str] = []
    for parameter, value in given:
        if not parameter.positional:
            words += _option_words(parameter, value)
    behind = [word for parameter, value in given if parameter.positional for word in _texts(parameter, value)]
    if any(word.startswith("-") for word in behind):
        words.append("--")
    return [*words, *behind]


def check_command(words: Iterable[str]) -> None:
    """Refuse a command line that the kernel would refuse.

    Raises:
        ValidationError: it is too long.
    """
    if sum(size_bytes(word) + 1 for word in words) > MAX_COMMAND_BYTES:
        raise ValidationError(
            f"args: the command line would be longer than {MAX_COMMAND_BYTES >> 10} KiB",
            remedy="let the tool read the file named by PRAXIS_ARGS_FILE",
        )


def check_word(name: str, text: str) -> str:
    """Return the text of an argument that becomes part of a word.

    Raises:
        ValidationError: it is too long.
    """
    if size_bytes(text) > MAX_WORD_BYTES:
        raise ValidationError(
            f"args.{name}: longer than the {MAX_WORD_BYTES >> 10} KiB that fit in a command",
            remedy="let the tool read the file named by PRAXIS_ARGS_FILE",
        )
    return text


def _option_words(parameter: ToolParameter, value: Any) -> Iterator[str]:
    option = parameter.option or (parameter.name if parameter.name.startswith("-") else f"--{parameter.name}")
    if isinstance(value, bool):
        if value:
            yield option
        elif parameter.default is True:
            yield f"--no-{option.lstrip('-')}"
        return
    for text in _texts(parameter, value):
        if not text.startswith("-"):
            yield from (option, text)
        elif option.startswith("--"):
            yield f"{option}={text}"
        else:
            yield f"{option}{text}"  # as getopt reads a short option: -n-5


def _texts(parameter: ToolParameter, value: Any) -> list[str]:
    items = value if isinstance(value, list | tuple) else [value]
    return [check_word(parameter.name, as_text(item)) for item in items]
