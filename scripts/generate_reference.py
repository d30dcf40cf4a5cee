"""Writes docs/reference from the code; `--check` only says what is out of date."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, Literal

from praxis_sdk.execution.contract import fields
from praxis_sdk.execution.contract.fields import ContractPart
from praxis_sdk.execution.contract.parameters import JSON_TYPES, ToolParameter
from praxis_sdk.execution.contract.schema import contract_schema, describe_fields
from praxis_sdk.execution.contract.specs import SPEC_OF, EngineType, Port
from praxis_sdk.execution.contracts import ToolContract
from praxis_sdk.jobs.payload import schemas

ROOT: Final = Path(__file__).resolve().parent.parent
REFERENCE: Final = ROOT / "docs" / "reference"

# How the forms that a value can have are called in the tables.
_FORMS: Final[tuple[tuple[Any, str], ...]] = (
    (fields.Flag, "true or false"),
    (fields.Command, "list of words, or one line"),
    (fields.Variables, "mapping of name to text"),
    (fields.Headers, "mapping of name to text"),
    (fields.MountMap, "mapping of host path to path inside"),
    (fields.Size, "size: `512m`, `1g`"),
    (fields.Seconds, "seconds, or `90s`, `5m`, `1h`"),
    (fields.Cores, "number above 0"),
    (fields.Count, "whole number above 0"),
    (Literal["best-effort", "strict"], "`best-effort`, `strict`"),
    (fields.Delivery, "`env`, `argv`, `both`, `stdin`"),
    (fields.Url, "http or https URL"),
    (fields.InsidePath, "absolute path"),
    (fields.Image, "text"),
    (list[Port], "list of `HOST:CONTAINER`, `HOST:CONTAINER/udp`"),
    (Literal["all"] | fields.Count, "`all`, or a whole number above 0"),
    (fields.Text, "text"),
    (fields.Secret, "text"),
    (list[fields.VariableName], "list of names"),
    (list[fields.OutputPattern], "list of patterns: `*.csv`"),
    (str, "text"),
)
_NAMED_FORMS: Final = {
    (ToolContract, "engine"): ", ".join(f"`{engine}`" for engine in EngineType),
    (ToolContract, "engine_spec"): "mapping: the fields of the engine, below",
    (ToolContract, "parameters"): "see below",
    (ToolContract, "version"): "text",
    (ToolContract, "trust"): "`untrusted`, `trusted`",
    (ToolParameter, "type"): ", ".join(f"`{name}`" for name in sorted(set(JSON_TYPES.values()))),
    (ToolParameter, "default"): "any value",
    (ToolParameter, "option"): "`--input-file`, `-i`",
    (ToolParameter, "constraints"): "mapping",
}

_INTRODUCTION: Final = """\
# Contract reference

<!-- Written by scripts/generate_reference.py from the code; `make docs` writes it anew. -->

A contract is a YAML file that says what a tool is, what it can be given, and what it takes to run it:

```yaml
name: text_analyzer
description: Analyzes text files and generates statistics reports
engine: dagger
params:
  - name: input_file
    type: string
    description: Path to the text file to analyze
    required: true
engineSpec:
  image: python:3.11-slim
  command: ["python", "/shared/tools/simple_python_tool/main.py"]
  mounts:
    ./shared: /shared
    ./tools: /shared/tools:ro
```

`praxis validate FILE` checks one and names file, line and field of all that is wrong with it. Editors
that know JSON Schema can do so while you type; [contract.schema.json](contract.schema.json) is the schema.

- A field with several spellings takes any of them, but only one at a time.
- An empty value (`mounts:` with nothing behind it) means that the field is not given.
- An unknown key is a warning, and an error under `praxis validate --strict`. Keys that begin
  with `x-` are yours; Praxis does not look at them.
- Keys are the text that stands there (`on`, `1`). Unquoted values of `command`, `env`, `headers` and
  `version` are, too (`1.10`, `yes`). Elsewhere they mean what they mean in YAML 1.1, except that dates and
  numbers like `0755`, `1:30` and `1_000` stay text.
- Aliases and merge keys (`<<`) work; tags (`!!python/...`) do not.
- A file has at most 1 MiB, 20000 values and 50 levels.
"""

_PARAMETER_FORMS: Final = """\
Parameters can be written in three ways, under `parameters` or `params`:

```yaml
params: # a list
  - name: count
    type: integer
    minimum: 1
    default: 10

parameters: # a JSON Schema
  type: object
  properties:
    count: {type: integer, minimum: 1, default: 10}
  required: []

parameters: # names and types
  count: integer
```

Customary names of types are understood: {synonyms}. [How arguments arrive](arguments.md) says in which
ways a tool is given them.
"""


def contract_page() -> str:
    """Return docs/reference/contract.md."""
    pieces = [_INTRODUCTION, "## Contract\n", _table(ToolContract), "## Parameters\n"]
    synonyms = (f"`{name}` ({meaning})" for name, meaning in JSON_TYPES.items() if name != meaning)
    pieces += [_PARAMETER_FORMS.replace("{synonyms}", ", ".join(synonyms)), _table(ToolParameter)]
    for engine, model in SPEC_OF.items():
        pieces += [
            f"## Engine `{engine}`\n",
            f"{(model.__doc__ or '').strip().splitlines()[0]}\n",
            _table(model),
        ]
    return "\n".join(pieces)


def contract_schema_file() -> str:
    """Return docs/reference/contract.schema.json."""
    return json.dumps(contract_schema(), indent=2) + "\n"


PAGES: Final[Mapping[Path, Callable[[], str]]] = {
    REFERENCE / "contract.md": contract_page,
    REFERENCE / "contract.schema.json": contract_schema_file,
}


def pages() -> Iterator[tuple[Path, str]]:
    """Go through all files of docs/reference that are written here, with their text."""
    for path, page in PAGES.items():
        yield path, page()
    for name, text in schemas.reference_documents().items():
        yield REFERENCE / name, text


def _table(model: type[ContractPart]) -> str:
    rows = ["| Field | Value | Default | Meaning |", "| --- | --- | --- | --- |"]
    described = describe_fields(model)
    for name, spellings in model.spellings().items():
        keys = " or ".join(f"`{key}`" for key in spellings)
        rows.append(
            f"| {keys} | {_form(model, name)} | {_default(model, name)} | {_sentence(described[name])} |"
        )
    return "\n".join(rows) + "\n"


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def _form(model: type[ContractPart], name: str) -> str:
    if (model, name) in _NAMED_FORMS:
        return _NAMED_FORMS[model, name]
    field = model.model_fields[name]
    annotation = field.rebuild_annotation()
    for form, words in _FORMS:
        if form in (annotation, field.annotation) or field.annotation == form | None:
            return words
    if field.annotation is int:  # a count, whose bounds pydantic has taken apart
        return "whole number above 0"
    if name == "transport":
        return f"`{field.default}`"
    raise LookupError(f"{model.__name__}.{name}: no words for {annotation}; add them to _FORMS")


def _default(model: type[ContractPart], name: str) -> str:
    field = model.model_fields[name]
    if field.is_required():
        return "from the spec" if (model, name) == (ToolContract, "engine") else "required"
    value = field.get_default(call_default_factory=True, validated_data={})
    if value is None or value in ("", [], {}):
        return "none"
    return f"`{json.dumps(value) if isinstance(value, bool | int | float) else value}`"


def main() -> int:
    """Write the pages that have changed, or name them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--check", action="store_true", help="write nothing; exit with 1 if a page is out of date"
    )
    check = parser.parse_args().check
    stale = 0
    for path, text in pages():
        if path.exists() and path.read_text(encoding="utf-8") == text:
            continue
        stale += 1
        print(f"{path.relative_to(ROOT)}: {'out of date; run make docs' if check else 'written'}")
        if not check:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
