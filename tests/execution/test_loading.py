"""Contracts from YAML: what is accepted, and how every kind of bad input is refused."""

from __future__ import annotations

import os
import textwrap
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from praxis_sdk.errors import ValidationError
from praxis_sdk.execution.contract.loading import ContractError, find_contracts, load_contract, parse_contract
from praxis_sdk.execution.contracts import DockerEngineSpec, EngineType, RemoteMCPEngineSpec, Trust

CONTRACTS = Path(__file__).parent / "contracts"
MINIMAL = "name: a\nengine: local\nengineSpec: {command: [x]}\n"


def refusal(text: str, *, strict: bool = False) -> ContractError:
    with pytest.raises(ContractError) as caught:
        parse_contract(textwrap.dedent(text), source="tool.yaml", strict=strict)
    error = caught.value
    for line in (str(error), *map(str, error.problems), *map(str, error.warnings)):
        assert "\n" not in line
        assert line.isprintable()
    return error


def refused_with(text: str) -> str:
    try:
        parse_contract(text, source="tool.yaml")
    except ContractError as error:
        return str(error)
    return ""


def lines(error: ContractError) -> list[str]:
    return [str(problem) for problem in error.problems]


class TestAccepted:
    def test_the_example_of_spec_1_loads_verbatim(self) -> None:
        loaded = load_contract(CONTRACTS / "spec1_text_analyzer.yaml", strict=True)
        contract = loaded.contract
        assert contract.name == "text_analyzer"
        assert contract.engine is EngineType.DAGGER
        assert contract.parameters[0].required is True
        spec = contract.get_typed_spec()
        assert spec.image == "python:3.11-slim"
        assert spec.mounts == {"./shared": "/shared", "./tools": "/shared/tools"}
        assert spec.env_passthrough == []
        assert loaded.warnings == ()
        assert loaded.path == CONTRACTS / "spec1_text_analyzer.yaml"

    def test_every_spelling_found_in_the_wild_loads(self) -> None:
        contract = load_contract(CONTRACTS / "every_spelling.yaml", strict=True).contract
        assert (contract.version, contract.trust) == ("1.10", Trust.UNTRUSTED)
        spec = contract.get_typed_spec()
        assert isinstance(spec, DockerEngineSpec)
        assert spec.command == ["python", "-m", "tool", "--level", "two words"]
        assert spec.env == {"LEVEL": "5", "MODE": "a=b"}
        assert spec.env_passthrough == ["LANG"]
        assert spec.mounts == {"./data": "/data:ro", "./out": "/out"}
        assert spec.working_dir == "/data"
        assert (spec.memory_limit, spec.cpu_limit, spec.pids_limit) == ("512Mi", 1.5, 64)
        assert (spec.output_limit, spec.timeout, spec.privileged) == ("1048576", 300, False)
        input_file, count, level, options = contract.parameters
        assert input_file.required
        assert not count.required
        assert (count.default, count.constraints) == (3, {"minimum": 1})
        assert (level.type, level.constraints) == ("any", {"enum": ["low", "high"]})
        assert options.json_schema()["required"] == ["deep"]

    def test_a_remote_contract_loads_with_name_to_type_parameters(self) -> None:
        contract = load_contract(CONTRACTS / "remote.yaml", strict=True).contract
        spec = contract.get_typed_spec()
        assert isinstance(spec, RemoteMCPEngineSpec)
        assert spec.headers == {"X-Team": "data", "X-Version": "1.10"}
        assert spec.auth_token == "example"
        assert [(p.name, p.type, p.required, p.default) for p in contract.parameters] == [
            ("query", "string", False, None),
            ("limit", "integer", False, 5),
        ]

    @pytest.mark.parametrize("spelling", ["remote-mcp", "remote_mcp", "REMOTE_MCP", " Remote-MCP "])
    def test_engine_names_are_read_in_any_spelling(self, spelling: str) -> None:
        text = f"name: a\nengine: '{spelling}'\nengineSpec: {{address: 'http://h/mcp'}}\n"
        assert parse_contract(text, strict=True).contract.engine is EngineType.REMOTE_MCP

    def test_a_missing_engine_is_inferred_from_the_spec(self) -> None:
        for spec, engine in (
            ("{address: 'http://h/'}", EngineType.REMOTE_MCP),
            ("{image: x, command: [a]}", EngineType.DOCKER),
            ("{command: [a]}", EngineType.SANDBOX),
        ):
            assert parse_contract(f"name: a\nengineSpec: {spec}", strict=True).contract.engine is engine

    def test_keys_are_the_text_that_stands_there(self) -> None:
        text = MINIMAL + "params: {on: int, 1: string, no: bool, ~: any, 1.10: string}\n"
        names = [parameter.name for parameter in parse_contract(text).contract.parameters]
        assert names == ["on", "1", "no", "~", "1.10"]

    def test_unquoted_numbers_and_words_stay_text_where_text_is_wanted(self) -> None:
        text = """\
            name: a
            engine: local
            version: 1.10
            engineSpec:
              command: [echo, 1.10, 022, yes, 12:30, 1e3]
              env: {V: 1.10, MASK: 022, FLAG: yes, DAY: 2024-01-01, TIME: 12:30:00}
        """
        contract = parse_contract(textwrap.dedent(text), strict=True).contract
        spec = contract.get_typed_spec()
        assert contract.version == "1.10"
        assert spec.command == ["echo", "1.10", "022", "yes", "12:30", "1e3"]
        assert spec.env == {
            "V": "1.10", "MASK": "022", "FLAG": "yes", "DAY": "2024-01-01", "TIME": "12:30:00",
        }  # fmt: skip

    def test_dates_stay_text_and_yes_is_a_boolean_elsewhere(self) -> None:
        text = MINIMAL + "params: [{name: day, default: 2024-01-01}, {name: f, type: bool, default: yes}]\n"
        assert [p.default for p in parse_contract(text, strict=True).contract.parameters] == [
            "2024-01-01",
            True,
        ]

    def test_aliases_and_merge_keys_work(self) -> None:
        text = """\
            x-common: &common
              image: python:3.11-slim
              timeout: 10
            name: a
            engine: docker
            engineSpec:
              <<: [*common, {pids_limit: 9}]
              timeout: 20
              command: [x]
        """
        spec = parse_contract(textwrap.dedent(text), strict=True).contract.get_typed_spec()
        assert isinstance(spec, DockerEngineSpec)
        assert (spec.image, spec.timeout, spec.pids_limit) == ("python:3.11-slim", 20, 9)

    def test_empty_values_count_as_not_given(self) -> None:
        text = (
            "name: a\nengine: local\ndescription:\nparams:\nengineSpec:\n  command: [x]\n  env:\n  timeout:\n"
        )
        assert parse_contract(text, strict=True).contract.get_typed_spec().timeout == 300

    def test_a_document_start_and_a_byte_order_mark_do_no_harm(self, tmp_path: Path) -> None:
        path = tmp_path / "contract.yaml"
        path.write_bytes(b"\xef\xbb\xbf---\n" + MINIMAL.encode() + b"...\n")
        assert load_contract(path, strict=True).contract.name == "a"
        assert parse_contract("\ufeff" + MINIMAL).contract.name == "a"

    def test_surrogate_pairs_written_as_two_escapes_are_one_character(self) -> None:
        assert parse_contract(MINIMAL + 'description: "\\ud83d\\ude00"').contract.description == "\U0001f600"

    def test_an_object_schema_without_properties_declares_no_parameters(self) -> None:
        assert parse_contract(MINIMAL + "parameters: {type: object}", strict=True).contract.parameters == []

    @pytest.mark.parametrize("form", ["{type: object, properties: {}}", "[]", "{}", "null"])
    def test_no_parameters_can_be_written_in_every_form(self, form: str) -> None:
        assert parse_contract(MINIMAL + f"params: {form}", strict=True).contract.parameters == []


class TestFiles:
    def refused(self, path: Path) -> str:
        with pytest.raises(ContractError) as caught:
            load_contract(path)
        assert caught.value.exit_status == 2
        assert isinstance(caught.value, ValidationError)
        return str(caught.value)

    def test_a_missing_file_is_named(self, tmp_path: Path) -> None:
        path = tmp_path / "none.yaml"
        assert self.refused(path) == f"{path}: no such file (check the path)"

    def test_a_directory_is_refused(self, tmp_path: Path) -> None:
        assert "is a directory (name a file in it" in self.refused(tmp_path)

    def test_a_named_pipe_is_refused_without_waiting_for_its_writer(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "pipe.yaml")
        assert "is not a regular file" in self.refused(tmp_path / "pipe.yaml")

    def test_a_link_to_itself_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "loop.yaml").symlink_to("loop.yaml")
        assert "cannot be read" in self.refused(tmp_path / "loop.yaml")

    def test_an_unreadable_file_is_refused(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def deny(*_: object) -> int:  # for root, no file is unreadable
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr("praxis_sdk.execution.contract.yaml_source.os.open", deny)
        assert "cannot be read: permission denied" in self.refused(tmp_path / "secret.yaml")

    def test_a_path_with_a_nul_or_a_line_break_gives_one_line(self) -> None:
        assert "\n" not in self.refused(Path("a\nb"))
        assert "cannot be read" in self.refused(Path("a\0b"))

    def test_more_than_a_mebibyte_is_refused(self, tmp_path: Path) -> None:
        path = tmp_path / "big.yaml"
        path.write_bytes(b"#" * ((1 << 20) + 1))
        assert "is larger than 1 MiB" in self.refused(path)
        with pytest.raises(ContractError, match="larger than 1 MiB"):
            parse_contract("#" * ((1 << 20) + 1))

    @pytest.mark.parametrize(
        ("data", "expected"),
        [
            (b"", ":1: is empty"),
            (b"# nothing\n\n", ":1: is empty"),
            ("name: a\n".encode("utf-16"), ":1: is UTF-16 or UTF-32, not UTF-8 (save the file as UTF-8)"),
            ("name: a\n".encode("utf-32"), ":1: is UTF-16 or UTF-32"),
            ("name: a\n".encode("utf-16-le"), ":1: holds a NUL byte"),
            (b"name: a\nengine: x\0\n", ":2: holds a NUL byte (save the file as UTF-8 text)"),
            (b"name: a\ndescription: caf\xe9\n", ":2: is not UTF-8: byte 0xe9"),
            (b"name: a\nengine: \x07\n", ":2: holds the character U+0007, which YAML does not allow"),
            (b"\x7fELF\x02\x01\x01", ":1: holds the character U+007F"),
        ],
    )
    def test_bytes_that_are_no_text_are_refused(self, tmp_path: Path, data: bytes, expected: str) -> None:
        path = tmp_path / "tool.yaml"
        path.write_bytes(data)
        assert self.refused(path).startswith(f"{path}{expected}")


class TestYaml:
    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            (
                "name: a\n\tengine: b\n",
                "tool.yaml:2: a tab cannot be used here, at column 1 (indent with spaces)",
            ),
            ("name: a: b\n", "tool.yaml:1: ': ' is not allowed here, at column 8"),
            ("name: 'a\nengine: b\n", "a quote or a bracket is not closed"),
            ("name: [a, b\nengine: c\n", "a quote or a bracket is not closed"),
            ("name: @a\n", "tool.yaml:1: text cannot begin with this character, at column 7"),
            ("name: a\n engine: b\n", "tool.yaml:2: ': ' is not allowed here, at column 8"),
            ('name: "\\q"\n', "tool.yaml:1: an unknown escape in double quotes"),
            ("name: a\n---\nname: b\n", "tool.yaml:2: holds several documents"),
            ("name: *a\n", "tool.yaml:1: '*' begins an alias that nothing defines"),
            ("name: !a!b c\n", "tool.yaml:1: '!' begins a tag that is not known"),
            ("- a\n- b\n", "tool.yaml:1: a contract is a mapping, not a list"),
            ("just text\n", "tool.yaml:1: a contract is a mapping, not text"),
            ("null\n", "tool.yaml:1: a contract is a mapping, not nothing"),
            ("42\n", "tool.yaml:1: a contract is a mapping, not a number"),
            ("[" * 1000, "tool.yaml:1: holds more than 50 levels"),
            ("a: " * 3 + "b", "tool.yaml:1: ': ' is not allowed here"),
            ("\n".join(f"{' ' * i}k:" for i in range(60)), "holds more than 50 levels"),
            ("- \n" * 30_000, "holds more than 20000 values"),
        ],
    )
    def test_what_is_not_yaml_is_refused_with_line_and_column(self, text: str, expected: str) -> None:
        assert expected in str(refusal(text))

    def test_a_billion_laughs_are_not_laughed(self) -> None:
        laughs = ["x0: &x0 [ha, ha, ha, ha, ha, ha, ha, ha, ha, ha]"]
        laughs += [f"x{i}: &x{i} [{', '.join([f'*x{i - 1}'] * 10)}]" for i in range(1, 10)]
        error = refusal("\n".join(laughs))
        assert "holds more than 20000 values" in str(error)
        assert "once its aliases are filled in" in str(error)

    def test_merge_keys_cannot_be_used_as_a_bomb(self) -> None:
        text = ["m0: &m0 {k0: 1}"]
        text += [f"m{i}: &m{i} {{<<: [{', '.join([f'*m{i - 1}'] * 10)}], k{i}: 1}}" for i in range(1, 10)]
        assert "holds more than 20000 values" in str(refusal("\n".join(text)))

    @pytest.mark.parametrize("text", ["name: &a [*a]", "name: &a {b: *a}", "&a {<<: *a}", "&a {b: {<<: *a}}"])
    def test_an_alias_of_itself_is_refused(self, text: str) -> None:
        assert any("itself" in line or "'<<' can only merge" in line for line in lines(refusal(text)))

    @pytest.mark.parametrize("key", ["name", "engineSpec.command"])
    def test_a_key_given_twice_is_refused_with_both_lines(self, key: str) -> None:
        texts = {
            "name": "name: a\nengine: local\nengineSpec: {command: [x]}\nname: b\n",
            "engineSpec.command": "name: a\nengine: local\nengineSpec:\n  command: [x]\n  command: [y]\n",
        }
        first = {"name": 1, "engineSpec.command": 4}[key]
        second = {"name": 4, "engineSpec.command": 5}[key]
        assert lines(refusal(texts[key])) == [
            f"tool.yaml:{second}: {key}: given twice, first in line {first} (keep one of them)"
        ]

    @pytest.mark.parametrize(
        "tagged",
        ["!!python/object/apply:os.system [id]", "!!python/name:os.system", "!foo bar", "!!set {a}", "!!binary aGk=",
         "!!omap [a: b]", "!!timestamp 2024-01-01", "!!int abc", "!!bool 3"],
    )  # fmt: skip
    def test_tags_build_nothing(self, tagged: str) -> None:
        error = refusal(MINIMAL + f"description: {tagged}\n")
        assert error.problems[0].line == 4
        assert error.problems[0].field == "description"

    @pytest.mark.parametrize(
        "number", ["99999999999999999999", "1" * 5000, "-9223372036854775809", ".nan", "-.inf", "1.0e+999"]
    )
    def test_numbers_that_json_cannot_hold_are_refused(self, number: str) -> None:
        error = refusal(MINIMAL + f"params: [{{name: a, default: {number}}}]")
        assert lines(error)[0].startswith("tool.yaml:4: params[0].default: is not a number that can be used")

    @pytest.mark.parametrize("text", ['"a\\0b"', '"\\ud800"'])
    def test_escapes_of_unusable_characters_are_refused(self, text: str) -> None:
        error = refusal(MINIMAL + f"description: {text}\n")
        assert (error.problems[0].line, error.problems[0].field) == (4, "description")

    def test_a_placeholder_without_quotes_is_explained(self) -> None:
        error = refusal("name: a\nengine: local\nengineSpec:\n  command: {{x}}\n")
        assert lines(error)[0] == (
            "tool.yaml:4: engineSpec.command: a mapping cannot be a key "
            "(put quotes around text that begins with '{' or '[')"
        )

    @settings(max_examples=300, deadline=None)
    @given(st.text(alphabet=st.sampled_from("ab:-[]{}&*!#|>'\"%@`,? \n\t<1.0~\\"), max_size=60))
    def test_any_text_is_a_contract_or_one_clear_line(self, text: str) -> None:
        said = refused_with(text)
        assert said == "" or (said.startswith("tool.yaml:") and "\n" not in said)

    @settings(max_examples=200, deadline=None)
    @given(st.binary(max_size=80))
    def test_any_bytes_are_a_contract_or_one_clear_line(
        self, tmp_path_factory: pytest.TempPathFactory, data: bytes
    ) -> None:
        path = tmp_path_factory.getbasetemp() / "any.yaml"
        path.write_bytes(data)
        with pytest.raises(ContractError) as caught:
            load_contract(path)
        assert str(caught.value).startswith(str(path))
        assert "\n" not in str(caught.value)


class TestFields:
    @pytest.mark.parametrize(
        ("spec", "field", "message"),
        [
            ("{command: [x]}", "engineSpec.image", "missing (name a container image, for example 'python:3.11-slim')"),
            ("{image: }", "engineSpec.image", "missing"),
            ("{image: 3}", "engineSpec.image", "must be text, not a number (put quotes around it)"),
            ("{image: 'a b'}", "engineSpec.image", "does not have the right form (name a container image"),
            ("{image: ''}", "engineSpec.image", "does not have the right form"),
            ("{image: [a]}", "engineSpec.image", "must be text, not a list"),
            ("{image: a, command: {b: c}}", "engineSpec.command", "must be a list, not a mapping"),
            ("{image: a, command: 'a \"b'}", "engineSpec.command", "cannot be split into words: no closing quotation"),
            ("{image: a, command: [[b]]}", "engineSpec.command[0]", "must be text, not a list"),
            ("{image: a, timeout: -1}", "engineSpec.timeout", "must be above 0 and at most 604800 seconds"),
            ("{image: a, timeout: soon}", "engineSpec.timeout", "'soon' is not a duration"),
            ("{image: a, timeout: true}", "engineSpec.timeout", "true or false is not a duration"),
            ("{image: a, timeout: 9d}", "engineSpec.timeout", "must be above 0 and at most"),
            ("{image: a, memory_limit: lots}", "engineSpec.memory_limit", "'lots' is not a size (write for"),
            ("{image: a, memoryLimit: 1.5}", "engineSpec.memoryLimit", "a number is not a size"),
            ("{image: a, cpu_limit: true}", "engineSpec.cpu_limit", "must be a number, not true or false"),
            ("{image: a, cpu_limit: 0}", "engineSpec.cpu_limit", "must be above 0"),
            ("{image: a, pids_limit: 1.5}", "engineSpec.pids_limit", "must be a whole number"),
            ("{image: a, privileged: maybe}", "engineSpec.privileged", "must be true or false, not text"),
            ("{image: a, mounts: [data]}", "engineSpec.mounts", "must be a mapping, or a list of"),
            ("{image: a, mounts: {a: b}}", "engineSpec.mounts", "must be an absolute path inside"),
            ("{image: a, mounts: {a: /proc}}", "engineSpec.mounts", "nothing can be mounted at '/proc'"),
            ("{image: a, mounts: {a: /b, c: /b}}", "engineSpec.mounts", "'/b' is the target of two mounts"),
            ("{image: a, mounts: {a: '/b:rx'}}", "engineSpec.mounts", "only ':ro' and ':rw' are known"),
            ("{image: a, mounts: [a:/b, a:/c]}", "engineSpec.mounts", "'a' is given twice"),
            ("{image: a, env: [A=1, A=2]}", "engineSpec.env", "'A' is given twice"),
            ("{image: a, working_dir: work}", "engineSpec.working_dir", "must be an absolute path inside"),
            ("{image: a, env_passthrough: HOME}", "engineSpec.env_passthrough", "must be a list, not text"),
            ("[a]", "engineSpec", "must be a mapping, not a list"),
            ("text", "engineSpec", "must be a mapping, not text"),
        ],
    )  # fmt: skip
    def test_a_wrong_field_is_named_with_file_and_line(self, spec: str, field: str, message: str) -> None:
        error = refusal(f"name: a\nengine: docker\n\nengineSpec: {spec}\n")
        assert str(error).startswith(f"tool.yaml:4: {field}: ")
        assert message in str(error)

    @pytest.mark.parametrize(
        ("params", "line", "field", "message"),
        [
            ("3", 4, "params", "must be a list, or a mapping of name to type or schema, not a number"),
            ("\n  - x\n", 5, "params[0]", "must be a mapping, not text"),
            ("\n  - type: string\n", 5, "params[0].name", "missing"),
            ("\n  - name: a\n  - name: b\n    type: wat\n", 7, "params[1].type", "'wat' is not a type"),
            ("\n  - name: a\n    type: int\n    default: x\n", 7, "params[0].default", "does not satisfy"),
            ("\n  - name: a\n    required: perhaps\n", 6, "params[0].required", "must be true or false"),
            ("\n  - name: a\n    pattern: '('\n", 5, "params[0].constraints", "not a JSON Schema"),
            ("\n  - name: a\n    constraints: 3\n    enum: [1]\n", 6, "params[0].constraints", "must be a mapping"),
            ("\n  - name: a=b\n", 5, "params[0].name", "does not have the right form"),
            ("\n  - name: a\n  - name: a\n", 4, "params", "'a' is declared twice"),
            ("\n  properties:\n    a: {type: wat}\n", 6, "params.properties.a.type", "'wat' is not a type"),
            ("\n  properties:\n    a: 3\n", 4, "params", "parameter 'a' must be a type name or a mapping"),
            ("\n  properties: {a: {}}\n  required: [b]\n", 4, "params", "'b' is not among the properties"),
            ("\n  properties: {a: {}}\n  required: [[b]]\n", 4, "params", "'required' must be a list of names"),
            ("\n  a: int\n  b: {type: wat}\n", 6, "params.b.type", "'wat' is not a type"),
        ],
    )  # fmt: skip
    def test_a_wrong_parameter_is_named_in_every_form(
        self, params: str, line: int, field: str, message: str
    ) -> None:
        error = refusal(f"name: a\nengine: local\nengineSpec: {{command: [x]}}\nparams: {params}\n")
        assert str(error).startswith(f"tool.yaml:{line}: {field}: ")
        assert message in str(error)

    @pytest.mark.parametrize("reference", ["file:///etc/hostname", "http://127.0.0.1:9/schema"])
    def test_a_schema_cannot_make_praxis_read_files_or_call_servers(self, reference: str) -> None:
        error = refusal(MINIMAL + f"params: [{{name: a, items: {{$ref: '{reference}'}}}}]\n")
        assert "Retrieval is disabled" in str(error)

    def test_top_level_fields_are_named(self) -> None:
        assert lines(refusal("engine: local\nengineSpec: {command: [x]}")) == [
            "tool.yaml:1: name: missing (give the tool a name of up to 200 characters in one line)"
        ]
        assert "tool.yaml:1: engine: missing (name one of dagger, local, remote-mcp" in str(
            refusal("name: a")
        )
        error = refusal("name: a\nengine: doker\nengineSpec: {image: x}")
        assert str(error) == "tool.yaml:2: engine: 'doker' is not known here (did you mean 'docker'?)"
        assert "tool.yaml:4: trust: 'perhaps' is not known here" in str(refusal(MINIMAL + "trust: perhaps"))
        assert "tool.yaml:1: name: must be text, not a number" in str(
            refusal(MINIMAL.replace("name: a", "name: 3"))
        )
        assert "tool.yaml:1: name: is empty" in str(refusal(MINIMAL.replace("name: a", "name: ''")))

    def test_all_problems_are_found_at_once(self) -> None:
        error = refusal(
            """\
            name: a
            engine: docker
            engineSpec:
              timeout: -1
              memory_limit: lots
            params:
              - name: x
                type: wat
            """
        )
        assert [(p.line, p.field) for p in error.problems] == [
            (3, "engineSpec.image"),
            (4, "engineSpec.timeout"),
            (5, "engineSpec.memory_limit"),
            (8, "params[0].type"),
        ]
        assert str(error).startswith("tool.yaml:3: engineSpec.image: missing")
        assert str(error).endswith("; and 3 more problems")

    @pytest.mark.parametrize(
        ("text", "line", "field", "other"),
        [
            ("name: a\nengineSpec: {command: [x]}\nparams: []\nparameters: []\n", 4, "parameters", "params"),
            ("name: a\nengine: local\nengineSpec: {command: [x]}\nengine_spec: {}\n", 4, "engine_spec", "engineSpec"),
            ("name: a\nengineSpec:\n  command: [x]\n  workdir: /a\n  workingDir: /b\n", 5, "engineSpec.workingDir",
             "workdir"),
            ("name: a\nengineSpec: {command: [x]}\nparams:\n  - name: b\n    schema: {}\n    constraints: {}\n", 6,
             "params[0].constraints", "schema"),
        ],
    )  # fmt: skip
    def test_two_spellings_of_one_field_are_refused(
        self, text: str, line: int, field: str, other: str
    ) -> None:
        assert lines(refusal(text)) == [
            f"tool.yaml:{line}: {field}: the same field as '{other}' (keep one of them)"
        ]

    @pytest.mark.parametrize(
        ("command", "message"),
        [
            ("[echo, '{{nope}}']", "'{{nope}}' names no parameter (declare it under 'parameters')"),
            ("[python, -c, 'print({{x}})']", "'{{x}}' stands in code"),
            ("[bash, -c, 'eval {{x}}']", "'{{x}}' stands in or behind code that a shell reads a second time"),
        ],
    )
    def test_placeholders_that_could_never_be_filled_are_refused(self, command: str, message: str) -> None:
        error = refusal(f"name: a\nengine: local\nengineSpec:\n  command: {command}\nparams: {{x: string}}\n")
        assert str(error).startswith(f"tool.yaml:4: engineSpec.command: {message}")


class TestSecrets:
    @pytest.mark.parametrize(
        "spec",
        [
            "auth_token: [S3CRET]",
            "auth_token: *S3CRET",
            "auth_token: !S3CRET",
            "auth_token: !S3!CRET x",
            "auth_token: {S3CRET: 1}",
            'auth_token: "S3CRET\\n"',
            'auth_token: "S3CRET\\0"',
            "headers: [S3CRET]",
            "headers: {Authorization: [S3CRET]}",
            'headers: {Authorization: "S3CRET\\r\\nX: y"}',
            "headers: S3CRET",
            "env: {API_KEY=S3CRET: }",
            "env: [API_KEY:S3CRET]",
            "env: [{API_KEY: S3CRET}]",
            "env: {API_KEY: !!int S3CRET}",
            "env: {API_KEY: [S3CRET]}",
            "env: S3CRET",
            "env: {'=S3CRET': x}",
            "env: {API_KEY: @S3CRET}",
        ],
    )
    @pytest.mark.parametrize(
        "head",
        [
            "engine: docker\nengineSpec:\n  image: x\n",
            "engine: remote-mcp\nengineSpec:\n  address: http://h/\n",
        ],
    )
    def test_no_message_repeats_a_secret(self, head: str, spec: str) -> None:
        try:
            warnings = parse_contract(f"name: a\n{head}  {spec}\n").warnings
        except ContractError as error:
            said = [str(error), repr(error), *lines(error), *map(str, error.warnings)]
        else:
            said = [str(warning) for warning in warnings]
        assert said
        assert not any("S3CRET" in text for text in said)


class TestUnknownKeys:
    @pytest.mark.parametrize(
        ("text", "warning"),
        [
            ("name: a\nengine: docker\nengineSpec: {image: x, command: [x], memory-limit: 1g}\n",
             "3: engineSpec.memory-limit: unknown key (did you mean 'memory_limit'?)"),
            ("name: a\nengine: docker\nengineSpec: {image: x, command: [x], workDirr: /a}\n",
             "3: engineSpec.workDirr: unknown key (did you mean 'workdir'?)"),
            ("name: a\nengine: docker\nengineSpec: {image: x, command: [x], capture_output: true}\n",
             "3: engineSpec.capture_output: unknown key (only 'local' knows it)"),
            ("name: a\nengine: docker\nengineSpec: {image: x, command: [x], cwd: /a}\n",
             "3: engineSpec.cwd: unknown key (only 'local' knows it; did you mean 'working_dir'?)"),
            ("name: a\nengine: docker\nengineSpec: {image: x, command: [x], volumes: {}}\n",
             "3: engineSpec.volumes: unknown key (did you mean 'mounts'?)"),
            ("name: a\nengine: local\nengineSpec: {command: [x], memory_limit: 1g}\n",
             ("3: engineSpec.memory_limit: unknown key (only 'dagger', 'mcp-stdio', 'sandbox', 'docker' and "
             "'kubernetes' know it)")),
            ("name: a\nengine: local\nimage: x\nengineSpec: {command: [x]}\n",
             "3: image: unknown key (it belongs under 'engineSpec')"),
            ("name: a\nengine: local\nengineSpec:\n  command: [x]\n  params: []\n",
             "5: engineSpec.params: unknown key (it belongs at the top level, beside 'name')"),
            ("nmae: b\nname: a\nengine: local\nengineSpec: {command: [x]}\n",
             "1: nmae: unknown key (did you mean 'name'?)"),
            ("name: a\nengine: local\nengineSpec: {command: [x]}\napiVersion: v1\n",
             "4: apiVersion: unknown key (did you mean 'version'?)"),
            ("name: a\nengine: local\nengineSpec: {command: [x]}\nzzz: v1\n",
             "4: zzz: unknown key (remove it, or name it 'x-...' if it is yours)"),
            ("name: a\nengine: local\nengineSpec: {command: [x]}\nparams:\n  - name: a\n    requird: true\n",
             "6: params[0].requird: unknown key (did you mean 'required'?)"),
            ("name: a\nengine: local\nengineSpec: {timeout: 3}\n",
             ("3: engineSpec.command: missing (give the program and its arguments as a list; without it, "
              "the tool does not run)")),
        ],
    )  # fmt: skip
    def test_it_is_a_warning_with_a_hint_and_an_error_under_strict(self, text: str, warning: str) -> None:
        assert [str(w) for w in parse_contract(text, source="tool.yaml").warnings] == [f"tool.yaml:{warning}"]
        assert lines(refusal(text, strict=True)) == [f"tool.yaml:{warning}"]

    def test_extensions_and_json_schema_words_are_no_warnings(self) -> None:
        text = MINIMAL + "x-team: b\nparams:\n  - {name: a, enum: [b], title: c, examples: [b], x-d: e}\n"
        assert parse_contract(text, strict=True).warnings == ()

    def test_warnings_stay_with_an_error_because_they_may_be_its_cause(self) -> None:
        error = refusal("name: a\nengine: docker\nimage: x\nengineSpec: {command: [x]}\n")
        assert [p.field for p in error.problems] == ["engineSpec.image"]
        assert [str(w) for w in error.warnings] == [
            "tool.yaml:3: image: unknown key (it belongs under 'engineSpec')"
        ]


class TestCommands:
    @pytest.mark.parametrize("command", ["ls / | wc -l", "[echo, a, '>', b]", "make && make install"])
    def test_operators_of_a_shell_are_doubtful_without_one(self, command: str) -> None:
        text = f"name: a\nengine: sandbox\nengineSpec:\n  command: {command}\n"
        (warning,) = parse_contract(text).warnings
        assert "is an ordinary word here" in str(warning)
        assert "shell: true" in warning.remedy
        assert not parse_contract(text.replace("  command", "  shell: true\n  command")).warnings


class TestFinding:
    def write(self, root: Path, files: dict[str, str]) -> None:
        for name, text in files.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(text)

    def test_contracts_are_found_by_name_or_by_content_in_order(self, tmp_path: Path) -> None:
        self.write(
            tmp_path,
            {
                "b/contract.yaml": MINIMAL,
                "a/tool.yml": MINIMAL,
                "a/broken.contract.yaml": "name: [",
                "a/values.yaml": "name: chart\nversion: 1\n",
                "a/other.yaml": "{ not yaml",
                "a/wrong.yaml": "name: a\nengine: docker\nengineSpec: {}\n",
                "notes.txt": MINIMAL,
                ".hidden/contract.yaml": MINIMAL,
            },
        )
        found = list(find_contracts(tmp_path))
        assert [str(f.path.relative_to(tmp_path)) for f in found] == [
            "a/broken.contract.yaml", "a/other.yaml", "a/tool.yml", "a/wrong.yaml", "b/contract.yaml",
        ]  # fmt: skip
        assert [f.loaded is not None for f in found] == [False, False, True, False, True]
        assert "engineSpec.image: missing" in str(found[3].error)

    def test_links_in_a_circle_end(self, tmp_path: Path) -> None:
        self.write(tmp_path, {"a/contract.yaml": MINIMAL})
        (tmp_path / "a/again").symlink_to(tmp_path)
        (tmp_path / "loop").symlink_to("loop")
        assert [f.path.name for f in find_contracts(tmp_path)] == ["contract.yaml"]

    def test_depth_is_bounded(self, tmp_path: Path) -> None:
        self.write(
            tmp_path,
            {
                "/".join("abcdefgh") + "/contract.yaml": MINIMAL,
                "/".join("abcdefghi") + "/contract.yaml": MINIMAL,
            },
        )
        assert len(list(find_contracts(tmp_path))) == 1

    def test_too_many_files_are_said_to_be_too_many(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.write(tmp_path, {f"{i}.contract.yaml": MINIMAL for i in range(5)})
        monkeypatch.setattr("praxis_sdk.execution.contract.loading.MAX_FILES", 3)
        *first, last = find_contracts(tmp_path)
        assert len(first) == 3
        assert "holds too many files" in str(last.error)

    @pytest.mark.parametrize("name", ["none", "file"])
    def test_what_is_no_directory_is_refused(self, tmp_path: Path, name: str) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(ContractError, match="cannot be searched"):
            list(find_contracts(tmp_path / name))
