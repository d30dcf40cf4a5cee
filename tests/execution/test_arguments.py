"""Arguments: checked before anything starts, and never code, wherever they arrive."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from praxis_sdk.errors import ValidationError
from praxis_sdk.execution.arguments.arguments import (
    MAX_ARGUMENTS_BYTES,
    MAX_DEPTH,
    MAX_VARIABLE_BYTES,
    MAX_VARIABLES_BYTES,
    argument_variables,
    arguments_json,
    as_text,
    check_arguments,
    fill_command,
    is_harmless,
    read_value,
    read_values,
    variable_of,
)
from praxis_sdk.execution.context import RunContext
from praxis_sdk.execution.contract.specs import EngineType
from praxis_sdk.execution.contracts import ToolContract, ToolParameter
from praxis_sdk.execution.invocation import prepare

# Text that a process can be given: no NUL, no lone surrogates.
TEXT = st.text(alphabet=st.characters(exclude_characters="\0", exclude_categories=("Cs",)), max_size=40)
NASTY = st.text(alphabet="$`\"'\\(){}[];&|<>*?!#~ \t\n-=%aé", max_size=25)
NAMES = st.text(
    alphabet=st.characters(exclude_characters="={}\0", exclude_categories=("Cs", "Cc")),
    min_size=1,
    max_size=20,
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)
SHELLS = [path for name in ("sh", "bash") if (path := shutil.which(name))]


def parameter(name: str = "x", type_: str = "string", **fields: Any) -> ToolParameter:
    return ToolParameter(name=name, type=type_, **fields)


def refusal(parameters: list[ToolParameter], args: Any) -> str:
    with pytest.raises(ValidationError) as caught:
        check_arguments(parameters, args)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def output_of(shell: str, script: str, values: dict[str, Any], *, directory: Path | None = None) -> bytes:
    """Run a script with placeholders as an engine would, with nothing but arguments in its environment."""
    command = fill_command(
        [shell, "-c", script], [parameter(name, "any") for name in ("x", "y", "n")], values
    )
    done = subprocess.run(
        command,
        env=argument_variables(values, fixed=()),
        capture_output=True,
        cwd=directory,
        timeout=20,
        check=False,
    )
    assert done.stderr == b""
    assert done.returncode == 0
    return done.stdout


class TestShellScripts:
    @pytest.mark.parametrize("shell", SHELLS)
    @settings(max_examples=150, deadline=None)
    @given(x=NASTY | TEXT, y=NASTY)
    @example(x="$(echo pwned)", y="`echo pwned`")
    @example(x="'; echo pwned; '", y='"; echo pwned; "')
    @example(x="-n", y="\\")
    @example(x="* a  b\n", y="\n")
    def test_a_value_never_becomes_shell_code(self, shell: str, x: str, y: str) -> None:
        script = "\n".join(
            [
                "# it's {{x}} in a comment, with a \" and a `",
                "printf '%s.' {{x}}",  # a word of its own
                "printf '%s.' pre{{x}}post",
                "printf '%s.' {{x}}{{y}}",
                'printf "%s." "in {{x}} double"',
                "printf '%s.' 'in {{x}} single'",
                """printf '%s.' 'a'"b {{x}}"'c {{y}}'\\''d'""",
                'printf "%s." "$(printf "%s." {{x}})"',  # substitution inside double quotes
                """printf "%s." "$(printf '%s.' '{{y}}')" """,
                "v={{x}}; printf '%s.' \"$v\"",
                "(printf '%s.' {{y}}) # don't",
                "if [ {{x}} = '{{x}}' ]; then printf '%s.' same; fi",
                "case {{x}} in '{{x}}') printf '%s.' case;; esac",
                "f() { printf '%s.' \"$#\"; }; f {{x}} '{{y}}'",  # words stay one word each
            ]
        )
        expected = [
            x, f"pre{x}post", x + y, f"in {x} double", f"in {x} single", f"ab {x}c {y}'d",
            f"{x}.", f"{y}.", x, y, "same", "case", "2",
        ]  # fmt: skip
        assert output_of(shell, script, {"x": x, "y": y}).decode() == "".join(f"{text}." for text in expected)

    @pytest.mark.parametrize("shell", SHELLS)
    def test_an_argument_that_is_not_given_is_empty_text(self, shell: str) -> None:
        assert output_of(shell, "printf '<%s>' {{x}} '{{x}}' \"{{x}}\" a{{x}}", {}) == b"<><><><a>"

    @pytest.mark.parametrize("shell", SHELLS)
    def test_a_missing_argument_does_not_take_the_value_of_one_that_is_spelled_alike(
        self, shell: str
    ) -> None:
        parameters = [parameter("a-b"), parameter("a_b")]
        command = fill_command([shell, "-c", "printf '<%s>' {{a-b}} {{a_b}}"], parameters, {"a-b": "1"})
        done = subprocess.run(
            command, env=argument_variables({"a-b": "1"}, ()), capture_output=True, check=True
        )
        assert done.stdout == b"<1><>"

    @pytest.mark.parametrize("shell", SHELLS)
    @settings(max_examples=100, deadline=None)
    @given(n=st.integers(-(10**9), 10**9))
    def test_whole_numbers_can_be_used_in_arithmetic(self, shell: str, n: int) -> None:
        assert (
            output_of(shell, "echo $(( ({{n}}) + 1 )) $(({{n}}*2))", {"n": n})
            == f"{n + 1} {n * 2}\n".encode()
        )

    @pytest.mark.parametrize(
        "script", ["echo $(({{x}}))", "echo $(( ({{x}}) + 1 ))", "(( {{x}} ))", "echo $(( a[{{x}}] ))"]
    )
    @pytest.mark.parametrize("value", ["1", "a[$(touch pwned)]", True, 1.5, ["1"]])
    def test_other_values_are_refused_in_arithmetic(self, script: str, value: Any) -> None:
        with pytest.raises(ValidationError, match="arithmetic, where only a whole number can"):
            fill_command(["bash", "-c", script], [parameter()], {"x": value})

    @pytest.mark.parametrize(
        "script",
        [
            "cat <<EOF\n{{x}}\nEOF\n",
            "cat <<'EOF'\nit's\nEOF\necho {{x}}",
            "echo `echo {{x}}`",
            "echo ${a:-{{x}}}",
            'echo "${a:-{{x}}}"',
            "echo $'it\\'s' {{x}}",
            "echo \\{{x}}",
            "eval {{x}}",
            "true && eval echo '{{x}}'",
            "sh -c 'echo {{x}}'",
            'timeout 5 /bin/bash -euo pipefail -c "echo {{x}}"',
        ],
    )
    @pytest.mark.parametrize("value", ["a", None])
    def test_places_where_no_reference_is_right_are_refused(self, script: str, value: str | None) -> None:
        with pytest.raises(ValidationError) as caught:
            fill_command(["sh", "-c", script], [parameter()], {} if value is None else {"x": value})
        assert str(caught.value).startswith("engineSpec.command: '{{x}}' ")
        assert caught.value.remedy == "let the code read the variable ARG_X instead"

    @pytest.mark.parametrize(
        "words",
        [
            ["sh", "-c"], ["/bin/bash", "-ec"], ["bash", "-ce"], ["bash", "-e", "-c"],
            ["bash", "-euo", "pipefail", "-c"],
            ["bash", "-o", "pipefail", "-c"], ["bash", "--norc", "-c"], ["sh", "-c", "--"], ["env", "sh", "-c"],
            ["/usr/bin/env", "-i", "bash", "-c"], ["timeout", "5", "sh", "-c"], ["busybox", "sh", "-c"],
            ["bash", "--rcfile", "x", "-c"], ["sh", "-c", "-e"],
        ],
    )  # fmt: skip
    def test_scripts_are_recognised_behind_any_options(self, words: list[str]) -> None:
        assert fill_command([*words, "echo {{x}}", "{{x}}"], [parameter()], {"x": "v w"}) == [
            *words, 'echo "${ARG_X-}"', "v w",
        ]  # fmt: skip

    @pytest.mark.parametrize(
        "words",
        [
            ["python", "-c"], ["python3.11", "-Ic"], ["/usr/bin/python3", "-W", "ignore", "-c"], ["perl", "-ne"],
            ["node", "--eval"], ["ruby", "-e"], ["php", "-r"], ["su", "-c"], ["fish", "-c"],
        ],
    )  # fmt: skip
    def test_values_do_not_go_into_the_code_of_other_interpreters(self, words: list[str]) -> None:
        with pytest.raises(ValidationError, match="stands in code, which a value must not become a part of"):
            fill_command([*words, "print('{{x}}')"], [parameter()], {"x": "a"})
        assert fill_command([*words, "print(1)", "{{x}}"], [parameter()], {"x": "a"})[-1] == "a"

    @pytest.mark.parametrize(
        "words", [["python", "tool.py", "-c"], ["python", "-m", "tool", "-c"], ["grep", "-c"]]
    )
    def test_options_of_a_program_are_not_mistaken_for_code(self, words: list[str]) -> None:
        assert fill_command([*words, "{{x}}"], [parameter()], {"x": "a b"})[-1] == "a b"


class TestWords:
    @settings(max_examples=200, deadline=None)
    @given(x=TEXT | NASTY, y=TEXT)
    def test_words_stay_one_word_each(self, x: str, y: str) -> None:
        parameters = [parameter("x"), parameter("y")]
        command = ["tool", "{{x}}", "--y={{ y }}", "a{{x}}b{{y}}c", "{{x}}{{x}}", "plain"]
        assert fill_command(command, parameters, {"x": x, "y": y}) == [
            "tool", x, f"--y={y}", f"a{x}b{y}c", x + x, "plain",
        ]  # fmt: skip

    @settings(max_examples=100, deadline=None)
    @given(x=NASTY, y=TEXT)
    def test_words_stay_words_under_shell_mode(self, x: str, y: str) -> None:
        contract = ToolContract.create_local_tool(
            "t",
            ["printf", "%s.", "{{x}}", "a {{y}}"],
            shell=True,
            parameters=[parameter("x"), parameter("y")],
        )
        plan = prepare(contract, {"x": x, "y": y}, RunContext(), EngineType.LOCAL)
        done = subprocess.run(plan.argv, env=dict(plan.env), capture_output=True, check=True)
        assert done.stdout.decode() == f"{x}.a {y}."

    def test_values_that_are_not_text_are_written_as_shell_users_do(self) -> None:
        values = {"a": True, "b": 1.5, "c": ["x", 1], "d": {"e": None}}
        parameters = [parameter(name, "any") for name in values]
        assert fill_command([f"{{{{{name}}}}}" for name in values], parameters, values) == [
            "true", "1.5", '["x", 1]', '{"e": null}',
        ]  # fmt: skip

    @settings(max_examples=100, deadline=None)
    @given(NAMES)
    def test_placeholders_of_undeclared_names_are_refused(self, name: str) -> None:
        assume(name.strip() == name and name not in ("x", "y"))
        with pytest.raises(ValidationError) as caught:
            fill_command(["tool", f"{{{{{name}}}}}"], [parameter("x"), parameter("y")], {"x": "a"})
        assert "names no parameter" in str(caught.value)
        assert "\n" not in str(caught.value)

    def test_a_value_too_long_for_a_command_is_refused_with_a_way_out(self) -> None:
        for command in (["tool", "{{x}}"], ["sh", "-c", "echo {{x}}"]):
            with pytest.raises(ValidationError, match=r"args.x: longer than the 96 KiB .*PRAXIS_ARGS_FILE"):
                fill_command(command, [parameter()], {"x": "a" * (MAX_VARIABLE_BYTES + 1)})


class TestVariables:
    @settings(max_examples=300, deadline=None)
    @given(
        st.dictionaries(NAMES, TEXT, max_size=4),
        st.sets(NAMES | st.sampled_from(["a", "A", "ARG_A"]), max_size=3),
    )
    def test_every_variable_is_an_argument_under_a_harmless_name(
        self, values: dict[str, str], fixed: set[str]
    ) -> None:
        assume(len({variable_of(name) for name in values}) == len(values))
        variables = argument_variables(values, fixed)
        assert not fixed & variables.keys()
        for name, value in values.items():
            if variable_of(name) not in fixed:
                assert variables[variable_of(name)] == value
        named = {variable_of(name) for name in values} | values.keys() | {name.upper() for name in values}
        assert variables.keys() <= named
        for variable in variables.keys() - {variable_of(name) for name in values}:
            assert is_harmless(variable)

    @settings(max_examples=300, deadline=None)
    @given(
        st.one_of(
            st.sampled_from(["PATH", "HOME", "IFS", "ENV", "BASH_ENV", "SHELLOPTS", "PS4", "TMPDIR", "LANG"]),
            st.from_regex(r"(LD|DYLD|PERL|NODE|JAVA|GIT|SSH|LC|BASH|PRAXIS|SSL)_[A-Z0-9_]{0,12}", fullmatch=True),
            st.from_regex(r"PYTHON[A-Z]{0,12}", fullmatch=True),
        ),
        st.data(),
    )  # fmt: skip
    def test_no_argument_sets_what_steers_a_program(self, variable: str, data: st.DataObject) -> None:
        case = data.draw(st.sampled_from([str.upper, str.lower, str.title, str.swapcase, str.casefold]))
        name = case(variable)
        assert argument_variables({name: "evil"}, ()) == {variable_of(name): "evil"}

    def test_no_argument_sets_a_variable_that_the_contract_fixes(self) -> None:
        assert argument_variables({"mode": "a"}, {"MODE"}) == {"ARG_MODE": "a", "mode": "a"}
        assert argument_variables({"mode": "a"}, {"MODE", "mode", "ARG_MODE"}) == {}
        contract = ToolContract.create_local_tool(
            "t",
            ["x"],
            env={"MODE": "fixed"},
            env_passthrough=["LEVEL"],
            parameters=[parameter("mode"), parameter("level")],
        )
        env = prepare(contract, {"mode": "a", "level": "b"}, RunContext(), EngineType.LOCAL).env
        assert (env["MODE"], env["ARG_MODE"], env["ARG_LEVEL"]) == ("fixed", "a", "b")
        assert env["LEVEL"] == "b"

    def test_plain_names_reach_the_tool_as_they_are_and_in_capitals(self) -> None:
        assert argument_variables({"input-file": "a", "count": 2}, ()) == {
            "ARG_INPUT_FILE": "a", "ARG_COUNT": "2", "count": "2", "COUNT": "2",
        }  # fmt: skip

    @pytest.mark.parametrize(("one", "other"), [("a-b", "a_b"), ("a.b", "a-b"), ("n", "N"), ("é", "è")])
    def test_two_arguments_cannot_share_a_variable(self, one: str, other: str) -> None:
        with pytest.raises(ValidationError, match="shares the variable ARG_"):
            argument_variables({one: "1", other: "2"}, ())

    def test_the_environment_is_never_fuller_than_a_kernel_allows(self) -> None:
        values = {f"p{i}": "v" * MAX_VARIABLE_BYTES for i in range(30)}
        variables = argument_variables(values, ())
        assert 0 < sum(map(len, variables.values())) <= 3 * MAX_VARIABLES_BYTES
        subprocess.run([shutil.which("true") or "true"], env=variables, check=True)
        with pytest.raises(ValidationError, match="the environment has no room"):
            fill_command(["sh", "-c", "echo {{p29}}"], [parameter(name) for name in values], values)

    def test_a_value_too_long_for_a_variable_is_in_the_file_only(self) -> None:
        values = {"x": "a" * (MAX_VARIABLE_BYTES + 1), "y": "b"}
        assert set(argument_variables(values, ())) == {"ARG_Y", "y", "Y"}
        assert json.loads(arguments_json(values)) == values


class TestChecks:
    def test_defaults_fill_in_and_order_is_that_of_declaration(self) -> None:
        parameters = [parameter("a", default="d"), parameter("b"), parameter("c", "int", default=3)]
        assert list(check_arguments(parameters, {"c": 1}).items()) == [("a", "d"), ("c", 1)]
        assert check_arguments(parameters, {"a": None}) == {"a": "d", "c": 3}

    @pytest.mark.parametrize(
        ("args", "message"),
        [
            ({}, "args.count: required and not given (add --arg count=...)"),
            ({"count": None}, "args.count: required and not given"),
            ({"count": 1, "cuont": 2}, "args.cuont: the contract declares no such parameter (did you mean 'count'?)"),
            ({"count": 1, "zzz": 2}, "args.zzz: the contract declares no such parameter (declared parameters: count, "),
            ({"count": 1, "a\nb": 2}, "args.a\\nb: the contract declares no such parameter"),
            ({"count": "one"}, "args.count: must be a whole number, not 'one'"),
            ({"count": 1.5}, "args.count: must be a whole number, not 1.5"),
            ({"count": True}, "args.count: must be a whole number, not true"),
            ({"count": 0}, "args.count: must be at least 1, not 0"),
            ({"count": 1, "flag": "perhaps"}, "args.flag: must be true or false, not 'perhaps'"),
            (["count"], "args: must be a mapping of name to value, not list"),
        ],
    )  # fmt: skip
    def test_what_is_wrong_is_named(self, args: Any, message: str) -> None:
        assert refusal(
            [parameter("count", "int", required=True, minimum=1), parameter("flag", "bool")], args
        ).startswith(message)

    @pytest.mark.parametrize(
        "value",
        ["a\0b", "\ud800", ["\ud800"], {"\udfff": 1}, float("nan"), [float("inf")], b"bytes", {1, 2}, object(),
         Path("x"),
         {(1, 2): 3}],
    )  # fmt: skip
    def test_what_no_tool_can_be_given_is_refused(self, value: object) -> None:
        assert refusal([parameter("x", "any")], {"x": value}).startswith("args.x: ")

    @pytest.mark.parametrize("depth", [MAX_DEPTH + 1, 100_000])
    def test_deep_nesting_is_refused_without_recursion(self, depth: int) -> None:
        value: Any = []
        for _ in range(depth):
            value = [value]
        assert "is nested deeper than 100 levels" in refusal([parameter("x", "any")], {"x": value})
        circle: list[Any] = []
        circle.append(circle)
        assert "is nested deeper than 100 levels" in refusal([parameter("x", "any")], {"x": circle})
        text = "[" * depth
        assert read_value(parameter("x", "any"), text) == text

    def test_more_than_the_limit_of_all_arguments_is_refused(self) -> None:
        assert "larger than 4 MiB" in refusal([parameter()], {"x": "a" * MAX_ARGUMENTS_BYTES})

    def test_tuples_and_number_keys_are_checked_as_the_json_that_they_become(self) -> None:
        assert check_arguments([parameter("x", "list")], {"x": (1, 2)}) == {"x": [1, 2]}
        assert check_arguments([parameter("x", "dict")], {"x": {1: 2}}) == {"x": {"1": 2}}

    def test_a_default_that_no_process_can_be_given_is_refused_too(self) -> None:
        assert "holds a NUL character" in refusal([parameter(default="\0")], {})


class TestJson:
    @settings(max_examples=200, deadline=None)
    @given(st.dictionaries(NAMES, JSON, max_size=5))
    def test_the_file_gives_back_what_was_given(self, args: dict[str, Any]) -> None:
        values = check_arguments([parameter(name, "any") for name in args], args)
        assert json.loads(arguments_json(values).decode("utf-8")) == {
            k: v for k, v in args.items() if v is not None
        }

    @settings(max_examples=200, deadline=None)
    @given(JSON)
    def test_values_written_on_a_command_line_are_read_back(self, value: Any) -> None:
        assert read_value(parameter("x", "any"), json.dumps(value)) == value
        if isinstance(value, str):
            assert read_value(parameter("x", "string"), value) == value
        if isinstance(value, dict | list):
            assert (
                read_value(parameter("x", "object" if isinstance(value, dict) else "array"), as_text(value))
                == value
            )

    @pytest.mark.parametrize(
        ("type_", "text", "value"),
        [
            ("string", "5", "5"), ("string", "true", "true"), ("integer", "5", 5), ("number", "1.5", 1.5),
            ("number", "1e3", 1000.0), ("boolean", "Yes", True), ("boolean", "off", False), ("boolean", "FALSE", False),
            ("array", "[1]", [1]), ("object", "{}", {}), ("any", "word", "word"), ("any", "null", None),
            ("any", "NaN", "NaN"),
        ],
    )  # fmt: skip
    def test_text_is_read_by_type(self, type_: str, text: str, value: Any) -> None:
        assert read_value(parameter("x", type_), text) == value
        assert read_values([parameter("x", type_)], {"x": [text], "other": ["5"]}) == {
            "x": value,
            "other": "5",
        }

    @pytest.mark.parametrize(
        ("type_", "text"),
        [("integer", "five"), ("integer", "1.5"), ("integer", ""), ("number", "NaN"), ("number", "Infinity"),
         ("boolean", "maybe"), ("boolean", "1"), ("array", "[a"), ("object", "[1]"), ("integer", "9" * 5000)],
    )  # fmt: skip
    def test_text_of_another_type_is_refused(self, type_: str, text: str) -> None:
        with pytest.raises(ValidationError, match=r"args\.x: must be "):
            read_value(parameter("x", type_), text)


def test_python_sees_the_same_arguments_in_all_three_ways(tmp_path: Path) -> None:
    values = {"input_file": "a 'b' \"c\" $d", "count": 3}
    (tmp_path / "args.json").write_bytes(arguments_json(values))
    code = """
import json, os, sys
from_file = json.load(open(os.environ["PRAXIS_ARGS_FILE"]))["input_file"]
print(json.dumps([os.environ["ARG_INPUT_FILE"], os.environ["input_file"], from_file, sys.argv[1]]))
"""
    parameters = [parameter("input_file"), parameter("count", "int")]
    command = fill_command([sys.executable, "-c", code, "{{input_file}}"], parameters, values)
    env = argument_variables(values, ()) | {"PRAXIS_ARGS_FILE": str(tmp_path / "args.json")}
    seen = json.loads(subprocess.run(command, env=env, capture_output=True, check=True).stdout)
    assert seen == [values["input_file"]] * 4
