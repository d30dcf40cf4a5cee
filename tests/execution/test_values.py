"""What a tool is given for what its caller wrote: types, choices, bounds, and the words for what is wrong."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from praxis_sdk.errors import ValidationError
from praxis_sdk.execution.contracts import ToolContract
from praxis_sdk.execution.engine import LocalExecutionEngine


@pytest.fixture
async def engine() -> AsyncIterator[LocalExecutionEngine]:
    """Make an engine for one test."""
    made = LocalExecutionEngine()
    yield made
    await made.cleanup()


def showing(schema: dict[str, Any]) -> ToolContract:
    """Make a tool that prints its argument `x` as it finds it."""
    return ToolContract.model_validate(
        {
            "name": "showing",
            "engine": "local",
            "trust": "trusted",
            "parameters": {"x": schema},
            "engineSpec": {"command": 'printf %s "$ARG_X"', "shell": True},
        }
    )


@pytest.mark.parametrize(
    ("schema", "given", "found"),
    [
        ("integer", 3.0, "3"),
        ("integer", 1e3, "1000"),
        ("integer", "3", "3"),
        ("integer", "-3.0", "-3"),
        ("integer", "1e3", "1000"),
        ("integer", 1e22, "10000000000000000000000"),
        ("integer", 2**70, str(2**70)),
        ("integer", -0.0, "0"),
        ("number", "1.5", "1.5"),
        ("number", "3", "3"),
        ("number", 2, "2"),
        ("boolean", "Yes", "true"),
        ("boolean", "off", "false"),
        ("string", "3.0", "3.0"),
        ({"type": "array", "items": {"type": "integer"}}, [1.0, "2"], "[1, 2]"),
        ({"type": "object", "properties": {"n": {"type": "integer"}}}, {"n": 2.0, "m": 2.5}, '{"n": 2, "m": 2.5}'),
        ({"type": ["integer", "null"]}, "7", "7"),
        ({"type": ["string", "integer"]}, "7", "7"),
        ({"type": "integer", "default": "5"}, None, "5"),
        ({"type": "integer", "default": 5.0}, None, "5"),
        ({"type": "integer", "enum": [1, 2]}, "2", "2"),
        ({"type": "string", "format": "date"}, "2024-02-29", "2024-02-29"),
    ],
)  # fmt: skip
async def test_a_value_arrives_in_the_form_of_its_type(
    engine: LocalExecutionEngine, schema: Any, given: Any, found: str
) -> None:
    assert await engine.execute(showing(schema), {"x": given}) == found


@pytest.mark.parametrize(
    ("schema", "given", "told"),
    [
        ("integer", 2.5, "args.x: must be a whole number, not 2.5"),
        ("integer", "2.5", "args.x: must be a whole number, not '2.5'"),
        ("integer", True, "args.x: must be a whole number, not true"),
        ("integer", "0x10", "args.x: must be a whole number, not '0x10'"),
        ("integer", "007", "args.x: must be a whole number, not '007'"),
        ("integer", "1_000", "args.x: must be a whole number, not '1_000'"),
        ("integer", "", "args.x: must be a whole number, not ''"),
        ("integer", "1e999", "args.x: must be a whole number, not '1e999'"),
        ("integer", "9" * 5000, f"args.x: must be a whole number, not '{'9' * 57}...'"),
        ("number", "nan", "args.x: must be a number, not 'nan'"),
        ("number", "1e999", "args.x: must be a number, not '1e999'"),
        ("boolean", 1, "args.x: must be true or false, not 1"),
        ("boolean", "maybe", "args.x: must be true or false, not 'maybe'"),
        ("string", 7, "args.x: must be text, not 7"),
        ("array", "a", "args.x: must be a list, not 'a'"),
        ("object", [], "args.x: must be a JSON object, not []"),
        ({"type": ["integer", "null"]}, "a", "args.x: must be a whole number or null, not 'a'"),
        ({"enum": ["low", "high"]}, "hihg", "args.x: must be one of 'low', 'high', not 'hihg' (did you mean 'high'?)"),
        ({"type": "integer", "enum": [1, 2]}, 3, "args.x: must be one of 1, 2, not 3"),
        ({"type": "integer", "minimum": 3}, 2, "args.x: must be at least 3, not 2"),
        ({"type": "number", "exclusiveMaximum": 1}, 1, "args.x: must be below 1, not 1"),
        ({"type": "integer", "multipleOf": 5}, 7, "args.x: must be a multiple of 5, not 7"),
        ({"type": "string", "pattern": "^[a-z]+$"}, "A1", "args.x: must match the pattern '^[a-z]+$', not 'A1'"),
        ({"type": "string", "maxLength": 1}, "ab", "args.x: must have at most 1 character, not 2"),
        ({"type": "array", "minItems": 2}, [1], "args.x: must have at least 2 items, not 1"),
        ({"type": "array", "items": {"type": "integer"}}, [1, "b"], "args.x[1]: must be a whole number, not 'b'"),
        ({"type": "string", "format": "date"}, "2024-13-01",
         "args.x: must be a date, for example 2024-05-31, not '2024-13-01'"),
        ({"type": "object", "properties": {"a": {}}, "required": ["a"]}, {}, "args.x: lacks the entry 'a'"),
        ({"type": "object", "properties": {"a": {}}, "additionalProperties": False}, {"b": 1},
         "args.x: has the unknown entry 'b' (remove it)"),
        ({"type": "string", "format": "password", "minLength": 3, "pattern": "^[a-z]+$"}, "S3CRET",
         "args.x: must match the pattern '^[a-z]+$'"),
        ("string", "a\nb\0", "args.x: holds a NUL character (remove it)"),
    ],
)  # fmt: skip
async def test_what_is_wrong_is_one_line_with_the_choices_or_the_bound(
    engine: LocalExecutionEngine, schema: Any, given: Any, told: str
) -> None:
    with pytest.raises(ValidationError) as caught:
        await engine.execute(showing(schema), {"x": given})
    assert str(caught.value) == told


@pytest.mark.parametrize(
    ("parameter", "told"),
    [
        ({"enum": [True, False, "auto"]}, "'enum' holds true, which is not text; put quotes around it"),
        ({"enum": [1.1, 1.2]}, "'enum' holds 1.1, which is not text; put quotes around it"),
        ({"default": False}, "must be text, not false; put quotes around it"),
        ({"type": "integer", "default": "0755"}, "must be a whole number, not '0755'"),
    ],
)
def test_a_contract_that_yaml_misread_is_refused(parameter: dict[str, Any], told: str) -> None:
    fields = {"name": "x", "type": "string", **parameter}
    contract = {"name": "t", "engineSpec": {"command": ["true"]}, "parameters": [fields]}
    with pytest.raises(ValueError, match="Value error") as caught:
        ToolContract.model_validate(contract)
    assert told in str(caught.value)


async def test_what_is_checked_is_what_arrives_in_the_file(engine: LocalExecutionEngine) -> None:
    contract = showing({"type": "array", "items": {"type": "integer"}})
    spec = {"command": 'cat "$PRAXIS_ARGS_FILE"', "shell": True}
    contract = contract.model_copy(update={"engine_spec": spec})
    assert json.loads(await engine.execute(contract, {"x": (1.0, "2")})) == {"x": [1, 2]}
