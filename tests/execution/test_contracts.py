"""The public names of tool contracts (spec 1 and 2), and the agreement of models and JSON Schema."""

from __future__ import annotations

import ast
import asyncio
import inspect
import json
from pathlib import Path
from typing import Any

import pydantic
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from praxis_sdk.execution import contracts
from praxis_sdk.execution.context import RunContext
from praxis_sdk.execution.contract.json_schema import faults
from praxis_sdk.execution.contract.loading import load_contract, parse_contract
from praxis_sdk.execution.contract.schema import contract_schema
from praxis_sdk.execution.contract.specs import SPEC_OF
from praxis_sdk.execution.contracts import (
    DaggerEngineSpec,
    DockerEngineSpec,
    EngineRegistry,
    EngineType,
    ExecutionEngine,
    ExecutionError,
    LocalEngineSpec,
    RemoteMCPEngineSpec,
    ToolContract,
    ToolParameter,
    Trust,
    ValidationError,
)
from praxis_sdk.states import ExecutionStatus

ROOT = Path(__file__).parents[2]

# Both listings of spec 1, "Custom Engine Development", letter by letter.
CUSTOM_ENGINE = (Path(__file__).parent / "contracts" / "spec1_custom_engine.txt").read_text()
CUSTOM_ENGINE_USE = (Path(__file__).parent / "contracts" / "spec1_custom_engine_use.txt").read_text()


def accepts(kind: type[pydantic.BaseModel], **fields: Any) -> bool:
    try:
        kind.model_validate(fields)
    except pydantic.ValidationError:
        return False
    return True


class TestPublicNames:
    def test_the_names_of_the_specs_are_there(self) -> None:
        expected = {
            "DaggerEngineSpec", "EngineRegistry", "EngineType", "ExecutionEngine", "ExecutionError",
            "LocalEngineSpec", "RemoteMCPEngineSpec", "ToolContract", "ToolParameter", "ValidationError",
        }  # fmt: skip
        assert expected <= set(contracts.__all__)
        assert all(hasattr(contracts, name) for name in contracts.__all__)

    def test_engine_types_have_the_names_and_values_of_the_specs(self) -> None:
        assert {e.name: e.value for e in EngineType} == {
            "DAGGER": "dagger", "LOCAL": "local", "REMOTE_MCP": "remote-mcp",
            "SANDBOX": "sandbox", "DOCKER": "docker", "KUBERNETES": "kubernetes", "MCP_STDIO": "mcp-stdio",
        }  # fmt: skip
        assert EngineType("remote_mcp") is EngineType("REMOTE-MCP") is EngineType.REMOTE_MCP
        with pytest.raises(ValueError, match="not a valid EngineType"):
            EngineType("ftp")

    def test_dagger_spec_has_the_fields_and_defaults_of_the_specs(self) -> None:
        spec = DaggerEngineSpec(image="x")
        ours = {
            "output_limit",
            "pids_limit",
            "pip_cache",
            "shell",
            "arguments",
            "limits",
            "stdin",
            "outputs",
        }
        assert spec.model_dump(exclude=ours) == {
            "image": "x", "command": [], "mounts": {}, "env": {}, "env_passthrough": [], "working_dir": None,
            "timeout": 300, "memory_limit": None, "cpu_limit": None, "network": None, "privileged": False,
        }  # fmt: skip

    def test_local_and_remote_specs_have_the_fields_and_defaults_of_the_specs(self) -> None:
        local = LocalEngineSpec()
        assert (local.command, local.shell, local.cwd, local.env, local.timeout, local.capture_output) == (
            [], False, None, {}, 300, True,
        )  # fmt: skip
        remote = RemoteMCPEngineSpec(address="http://h/mcp")
        assert (remote.timeout, remote.headers, remote.auth_token) == (30, {}, None)

    def test_parameters_have_the_fields_and_defaults_of_the_specs(self) -> None:
        parameter = ToolParameter(name="a")
        assert (parameter.type, parameter.description, parameter.required, parameter.default) == (
            "string", "", False, None,
        )  # fmt: skip

    def test_contracts_have_the_fields_and_defaults_of_the_specs(self) -> None:
        contract = ToolContract(name="a", engine="local")
        assert (contract.engine_spec, contract.parameters, contract.description, contract.version) == (
            {},
            [],
            None,
            None,
        )
        assert contract.trust is Trust.UNTRUSTED

    def test_the_interface_of_engines_is_that_of_the_spec(self) -> None:
        assert ExecutionEngine.__abstractmethods__ == {
            "execute",
            "validate_contract",
            "get_capabilities",
            "cleanup",
        }
        assert list(inspect.signature(ExecutionEngine.execute).parameters) == [
            "self",
            "contract",
            "args",
            "context",
        ]

    def test_errors_carry_what_the_spec_says(self) -> None:
        error = ExecutionError("ended with 3", exit_code=3, output="text")
        assert (str(error), error.exit_code, error.output) == ("ended with 3", 3, "text")
        assert not issubclass(ValidationError, ExecutionError)


class TestContracts:
    def test_typed_specs_are_those_of_the_engine(self) -> None:
        for engine, kind in SPEC_OF.items():
            fields = {"address": "http://h/"} if engine is EngineType.REMOTE_MCP else {"command": ["x"]}
            fields |= {} if engine in (EngineType.REMOTE_MCP, EngineType.LOCAL) else {"image": "x"}
            contract = ToolContract(name="a", engine=engine, engine_spec=fields)
            assert type(contract.get_typed_spec()) is kind

    def test_the_dagger_factory_makes_an_untrusted_dagger_contract(self) -> None:
        contract = ToolContract.create_dagger_tool(
            "a", "x", ["b"], mounts={"./c": "/c"}, env={"D": "e"}, parameters=[ToolParameter(name="f")],
            description="g", memory_limit="1g",
        )  # fmt: skip
        spec = contract.get_typed_spec()
        assert isinstance(spec, DaggerEngineSpec)
        assert (contract.engine, contract.trusted, contract.description) == (EngineType.DAGGER, False, "g")
        assert (spec.image, spec.command, spec.mounts, spec.env, spec.memory_limit) == (
            "x",
            ["b"],
            {"./c": "/c"},
            {"D": "e"},
            "1g",
        )

    def test_the_local_factory_makes_a_trusted_local_contract(self) -> None:
        contract = ToolContract.create_local_tool("a", ["b"], shell=True, cwd="/tmp", timeout=5)
        spec = contract.get_typed_spec()
        assert isinstance(spec, LocalEngineSpec)
        assert (contract.engine, contract.trusted) == (EngineType.LOCAL, True)
        assert (spec.command, spec.shell, spec.cwd, spec.timeout) == (["b"], True, "/tmp", 5)

    @pytest.mark.parametrize(
        ("make", "told"),
        [
            (lambda: ToolContract.create_dagger_tool("t", "i", ["x"], memory_limt="64m"),
             "'memory_limt' is not a field of DaggerEngineSpec; did you mean 'memory_limit'?"),
            (lambda: ToolContract.create_dagger_tool("t", "i", ["x"], memoryLimt="64m"), "did you mean 'memoryLimit'?"),
            (lambda: ToolContract.create_dagger_tool("t", "i", ["x"], nonsense=1), "known are timeout, output_limit, "),
            (lambda: ToolContract.create_local_tool("t", ["x"], time_out=3), "did you mean 'timeout'?"),
            (lambda: ToolContract(name="t", engine="local", engine_spec={"comand": ["x"]}), "did you mean 'command'?"),
            (lambda: ToolContract(name="t", engine="local", trsut="trusted"), "did you mean 'trust'?"),
            (lambda: DaggerEngineSpec(image="x", cpu_limits=1), "did you mean 'cpu_limit'?"),
            (lambda: RemoteMCPEngineSpec(address="http://h/", header={}), "did you mean 'headers'?"),
            (lambda: ToolParameter(name="x", requird=True), "did you mean 'required'?"),
            (lambda: RunContext.of({"timeout": 5}), "did you mean 'timeout_s'?"),
        ],
    )  # fmt: skip
    def test_a_misspelt_field_is_refused_with_the_nearest(self, make: Any, told: str) -> None:
        with pytest.raises((pydantic.ValidationError, ValidationError)) as caught:
            make()
        assert told in str(caught.value)

    @pytest.mark.parametrize("key", ["engineSpec", "engine_spec"])
    def test_how_arguments_arrive_is_also_read_at_the_top_level(self, key: str) -> None:
        text = f"name: t\nengine: local\narguments: argv\noutputs: ['*.csv']\n{key}: {{command: [x]}}\n"
        loaded = parse_contract(text, strict=True)
        spec = loaded.contract.get_typed_spec()
        assert isinstance(spec, LocalEngineSpec)
        assert (spec.arguments, spec.outputs) == ("argv", ["*.csv"])
        with pytest.raises(ValidationError, match="given at the top level and under"):
            parse_contract(text.replace("[x]", "[x], arguments: env"))
        with pytest.raises(ValidationError, match=r"arguments: 'words' is not known"):
            parse_contract(text.replace("argv", "words"))

    def test_what_is_the_callers_own_is_left_alone(self) -> None:
        contract = ToolContract.create_local_tool("t", ["x"], **{"x-owner": "data-team"})
        assert contract.get_typed_spec().timeout == 300
        assert ToolParameter(name="x", title="X", examples=[1]).name == "x"
        assert RunContext.of({"task_id": "7", "agent": "a", "timeout_s": 3}).timeout_s == 3

    def test_contracts_and_their_parts_cannot_be_changed(self) -> None:
        contract = ToolContract.create_local_tool("a", ["b"], parameters=[ToolParameter(name="c")])
        for part in (contract, contract.parameters[0], contract.get_typed_spec()):
            with pytest.raises(pydantic.ValidationError):
                part.name = "x"  # type: ignore[misc]

    def test_fields_can_be_given_in_either_spelling_but_not_in_both(self) -> None:
        spec = {"command": ["x"]}
        assert ToolContract(name="a", engineSpec=spec) == ToolContract(name="a", engine_spec=spec)
        assert not accepts(ToolContract, name="a", engineSpec=spec, engine_spec=spec)
        assert not accepts(DockerEngineSpec, image="x", workdir="/a", workingDir="/b")
        assert accepts(DockerEngineSpec, image="x", workdir="/a", workingDir=None)

    @pytest.mark.parametrize("flag", ["true", "True", "yes", "on", "1", True, 1])
    def test_flags_are_read_as_authors_write_them(self, flag: object) -> None:
        assert ToolParameter(name="a", required=flag).required is True

    @pytest.mark.parametrize("flag", ["maybe", "t", "2", 2, 0.5, [], {}])
    def test_what_is_no_flag_is_refused(self, flag: object) -> None:
        assert not accepts(ToolParameter, name="a", required=flag)

    @pytest.mark.parametrize(
        "fields",
        [
            {"cwd": "a\0b"}, {"command": ["a\0"]}, {"env": {"A": "\0"}}, {"env": {"A=B": "c"}}, {"env": {"": "c"}},
            {"env_passthrough": ["A="]}, {"timeout": float("nan")}, {"timeout": float("inf")}, {"timeout": 0},
            {"output_limit": "0"}, {"output_limit": True}, {"output_limit": "9999999999t"}, {"timeout": "\u0663s"},
        ],
    )  # fmt: skip
    def test_what_no_process_can_be_given_is_refused(self, fields: dict[str, Any]) -> None:
        assert not accepts(LocalEngineSpec, **fields)

    @pytest.mark.parametrize(
        "fields",
        [
            {"headers": {"A b": "c"}},
            {"headers": {"A": "b\r\nC: d"}},
            {"auth_token": "a\nb"},
            {"address": "file:///x"},
        ],
    )
    def test_what_no_request_can_carry_is_refused(self, fields: dict[str, Any]) -> None:
        assert not accepts(RemoteMCPEngineSpec, **{"address": "http://h/", **fields})

    def test_constraints_are_read_before_the_first_run(self) -> None:
        assert not accepts(ToolParameter, name="a", pattern="(")
        assert not accepts(ToolParameter, name="a", constraints={"type": "wat"})
        assert not accepts(ToolParameter, name="a", constraints=5, enum=[1])
        assert not accepts(ToolParameter, name="a", items={"$ref": "file:///etc/hostname"})
        by_name = {"a": {"constraints": 3, "required": []}}
        assert not accepts(ToolContract, name="a", engineSpec={"command": ["x"]}, params=by_name)

    def test_default_and_constraints_must_fit(self) -> None:
        assert accepts(ToolParameter, name="a", type="int", minimum=1, default=1)
        assert not accepts(ToolParameter, name="a", type="int", minimum=1, default=0)
        assert not accepts(ToolParameter, name="a", type="int", default="one")
        assert ToolParameter(name="a", type="int", default="1").default == 1

    def test_no_more_than_500_parameters(self) -> None:
        spec = {"command": ["x"]}
        assert accepts(
            ToolContract, name="a", engineSpec=spec, params={f"p{i}": "string" for i in range(500)}
        )
        assert not accepts(
            ToolContract, name="a", engineSpec=spec, params={f"p{i}": "string" for i in range(501)}
        )


class Named(ExecutionEngine):
    def __init__(self, engine_type: str, log: list[str], *, fails: bool = False) -> None:
        self.engine_type = engine_type
        self.log, self.fails = log, fails

    async def execute(
        self, contract: ToolContract, args: dict[str, Any], context: dict[str, Any] | None = None
    ) -> str:
        raise ExecutionError("no", exit_code=4, output="out")

    async def validate_contract(self, contract: ToolContract) -> bool:
        return True

    async def get_capabilities(self) -> dict[str, Any]:
        return {"engine_type": self.engine_type}

    async def cleanup(self) -> None:
        self.log.append(self.engine_type)
        if self.fails:
            raise RuntimeError(self.engine_type)


class TestRegistry:
    def test_engines_are_found_by_name_type_and_default(self) -> None:
        registry, log = EngineRegistry(), list[str]()
        one, two = Named("local", log), Named("docker", log)
        registry.register("one", one)
        assert registry.get() is one
        registry.register("two", two, is_default=True)
        assert (registry.get(), registry.get("one"), registry.list_engines()) == (two, one, ["one", "two"])
        assert registry.get_by_type(EngineType.DOCKER) is registry.get_by_type("docker") is two

    def test_what_is_not_there_is_named_with_what_is(self) -> None:
        registry = EngineRegistry()
        with pytest.raises(ValidationError, match=r"None is not registered \(registered: none\)"):
            registry.get()
        registry.register("one", Named("local", []))
        with pytest.raises(ValidationError, match=r"'two' is not registered \(registered: one\)"):
            registry.get("two")
        with pytest.raises(ValidationError, match="none of type 'dagger'"):
            registry.get_by_type(EngineType.DAGGER)
        with pytest.raises(ValidationError, match="is not an ExecutionEngine"):
            registry.register("x", object())  # type: ignore[arg-type]

    async def test_all_engines_are_cleaned_up_even_when_one_fails(self) -> None:
        registry, log = EngineRegistry(), list[str]()
        for name, fails in (("a", False), ("b", True), ("c", False)):
            registry.register(name, Named(name, log, fails=fails))
        for _ in range(2):
            with pytest.raises(ExceptionGroup):
                await registry.cleanup_all()
        assert log == ["a", "b", "c"] * 2


class TestCustomEngine:
    def engine(self) -> dict[str, Any]:
        names: dict[str, Any] = {"__name__": "custom"}
        exec(compile(CUSTOM_ENGINE, "spec 1", "exec"), names)
        return names

    def test_the_example_of_spec_1_runs_as_it_is_printed(self) -> None:
        names = self.engine()
        names |= {"contract": ToolContract.create_local_tool("a", ["b"]), "args": {}}
        code = compile(CUSTOM_ENGINE_USE, "spec 1", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        asyncio.run(eval(code, names))
        assert names["result"] == "execution result"
        assert names["registry"].get() is names["engine"]

    async def test_its_outcome_follows_from_execute(self) -> None:
        names = self.engine()
        engine = names["CustomExecutionEngine"]("value")
        heard: list[bytes] = []
        context = RunContext(on_output=lambda _stream, data: heard.append(data))
        outcome = await engine.run(ToolContract.create_local_tool("a", ["b"]), {}, context)
        assert (outcome.status, outcome.stdout, outcome.exit_code) == (
            ExecutionStatus.COMPLETED,
            "execution result",
            0,
        )
        assert heard == [b"execution result"]

    async def test_a_failing_custom_engine_gives_a_failed_outcome(self) -> None:
        outcome = await Named("x", []).run(ToolContract.create_local_tool("a", ["b"]), {})
        assert (outcome.status, outcome.stdout, outcome.exit_code) == (ExecutionStatus.FAILED, "out", 4)


# What the models refuse and the schema cannot say; see `contract_schema`.
BEYOND_SCHEMA = (
    "is the target of two mounts", "nothing can be mounted", "must be an absolute path inside", "is not a host path",
    "only ':ro' and ':rw'", "cannot be split into words", "is given twice", "is declared twice", "does not satisfy",
    "not a JSON Schema", "is not a duration", "must be above 0 and at most", "is not a size", "is more than any host",
    "must be one line", "is not the name of an HTTP header", "is not among the properties", "valid integer",
    "Input should be greater than", "Input should be less than", "are the same field", "put quotes around it",
    "is not a field of", "must be a path below the working directory",
)  # fmt: skip

JUNK = st.sampled_from(
    [None, True, False, 0, 1, -1, 1.5, "", "x", "a b", [], ["x"], [1], [None], {}, {"a": "b"}, {"a": 1}, [[]]]
)  # fmt: skip
TYPES = st.sampled_from(
    ["string", "Int", " bool ", "path", "any", "wat", ["string", "null"], ["wat"], "", None, 3]
)
GOOD_AND_BAD: dict[str, list[Any]] = {
    "timeout": [5, 0.5, "90s", " 2 m ", "1h", "0", "9d", "soon", 10**9],
    "command": [["a", 1, 1.5], "a b", "a 'b", [], ["\0"], ["a", True], "\0"],
    "env": [{"A": 1}, {"A": True, "B": "c"}, ["A=b"], ["A=1", "A=2"], ["A"], {"A=": "b"}, {"": "b"},
            {"A": None}, ["=x"]],
    "env_passthrough": [["HOME"], ["A="], "HOME", [""]],
    "output_limit": ["1m", "64Mi", 1, 0, "0", "1x", 1.5, "99999999999t"],
    "mounts": [{"./a": "/b"}, ["a:/b:ro"], {"a": "b"}, {"a": "/b", "c": "/b"}, {"a": "/proc"}, {"": "/a"}, ["a"],
               ["a:b"], {"a": "/b:rx"}, ["a:/b", "a:/c"], {"a": "/b/../c"}],
    "working_dir": ["/a", "a", "/a\0"],
    "memory_limit": ["512m", 1024, "lots"],
    "cpu_limit": [1, 0.5, "1.5", 0, 2000, "0", "1e3", "2000", "inf"],
    "pids_limit": [1, "64", 64.0, 0, 1.5, "1.5", "0", 10**7],
    "network": ["none", "\0"],
    "entrypoint": [["sh", "-c"], "image", ["\0"], "a 'b"],
    "gpus": ["all", 1, "2", 0, "some", 1.5],
    "ports": [["8080:80"], ["53:53/udp"], ["80"], ["0:80"], ["8080:70000"], "8080:80"],
    "limits": ["strict", "best-effort", "Strict", "loose", 1],
    "image": ["python:3.11-slim", "a b", "-x", ""],
    "privileged": ["yes", "Off", 1, 2, "maybe"],
    "pip_cache": ["true"],
    "runtime": ["runsc"], "user": ["1000:1000"], "tmpfs_size": ["1m"], "scratch_size": ["1m"],
    "file_size_limit": ["1m"], "namespace": ["a"], "service_account": ["a"],
    "arguments": ["argv", " Both ", "stdin", "words"],
    "stdin": ["{{a}}", "x\0"], "outputs": [["*.csv", "a/**/b"], ["/a"], ["../a"], "*.csv"],
    "shell": ["true"], "cwd": ["/a", "a\0"], "capture_output": [False],
    "address": ["http://h/mcp", "HTTP://h", "ftp://h", "http:///x", "http://h/a b"],
    "headers": [{"A": "b"}, ["A: b"], ["A"], {"A b": "c"}, {"A": "b\nc"}, ["A b: c"], {"A": 1.5}, ["A: b\nc"]],
    "auth_token": ["a", "a\nb"], "tool": ["a"], "transport": ["streamable-http", "sse"],
}  # fmt: skip


@st.composite
def specs(draw: st.DrawFn) -> Any:
    engine = draw(st.sampled_from(list(EngineType)))
    model = SPEC_OF[engine]
    spec: dict[str, Any] = {}
    base = {"image": "x"} if engine is not EngineType.REMOTE_MCP else {"address": "http://h/"}
    if draw(st.integers(0, 9)):
        spec |= base
    for name in draw(st.lists(st.sampled_from(list(model.model_fields)), max_size=4)):
        values = st.sampled_from(GOOD_AND_BAD[name][: draw(st.integers(1, len(GOOD_AND_BAD[name])))])
        spec[draw(st.sampled_from(model.spellings()[name]))] = draw(
            values if draw(st.integers(0, 9)) else JUNK
        )
    return engine, spec


@st.composite
def parameters(draw: st.DrawFn) -> dict[str, Any]:
    optional = {
        "type": TYPES, "description": st.sampled_from(["", "x", None, 3]),
        "required": st.sampled_from(["true", False, "maybe", [], ["a"], 1]),
        "default": JUNK, "constraints": st.sampled_from([{}, {"minimum": 1}, None, 3, {"type": "wat"}]),
        "schema": st.sampled_from([{}, {"minLength": 1}]),
        "enum": st.sampled_from([["x"], [], 3, None]), "minimum": st.sampled_from([1, "x"]),
    }  # fmt: skip
    chosen = draw(st.lists(st.sampled_from(sorted(optional)), max_size=3, unique=True))
    return {key: draw(optional[key]) for key in chosen}


@st.composite
def parameter_sets(draw: st.DrawFn) -> Any:
    names = draw(st.lists(st.sampled_from(["a", "b", "c-d", "type", "properties", "e=f", ""]), max_size=3))
    form = draw(st.integers(0, 3))
    if form == 0:
        return [draw(parameters()) | ({"name": name} if draw(st.integers(0, 9)) else {}) for name in names]
    by_name = {name: draw(st.one_of(parameters(), TYPES)) for name in names}
    if form == 1:
        required = draw(st.sampled_from([None, [], ["a"], "a", [1], 0]))
        return {"type": "object", "properties": by_name, "required": required}
    return by_name if form == 2 else draw(st.one_of(JUNK, st.just({"type": "object"})))


@st.composite
def written_contracts(draw: st.DrawFn) -> dict[str, Any]:
    engine, spec = draw(specs())
    contract: dict[str, Any] = {
        "name": draw(st.sampled_from(["a", "a", "a", "a", "", None, 3, "a\nb", "x" * 201]))
    }
    spellings = [engine.value, engine.value.upper(), f" {engine.name} ", None, None, "ftp", 3, ""]
    contract["engine"] = draw(st.sampled_from(spellings[: draw(st.integers(1, 8))]))
    key = draw(st.sampled_from(["engineSpec", "engine_spec"]))
    contract[key] = spec if draw(st.integers(0, 9)) else draw(JUNK)
    if draw(st.booleans()):
        contract[draw(st.sampled_from(["params", "parameters"]))] = draw(parameter_sets())
    for field, values in (
        ("description", [None, "x", 3]), ("version", ["1", 1.5, True]), ("trust", ["Trusted", "untrusted", "no", None]),
        ("params", [None, []]), ("engine_spec", [None, {}]), ("x-any", [1]),
    ):  # fmt: skip
        if not draw(st.integers(0, 5)):
            contract.setdefault(field, draw(st.sampled_from(values)))
    return {field: value for field, value in contract.items() if value is not None or draw(st.booleans())}


def messages_of_models(written: dict[str, Any]) -> list[str]:
    try:
        ToolContract.model_validate(written)
    except pydantic.ValidationError as error:
        return [detail["msg"] for detail in error.errors()]
    return []


class TestSchema:
    @settings(max_examples=1500, deadline=None)
    @given(written_contracts())
    def test_models_and_schema_agree(self, written: dict[str, Any]) -> None:
        # The schema accepts a superset: all that the models accept, and beyond that only what no schema can refuse.
        refusals = [fault.path for fault in faults(contract_schema(), written)]
        said = messages_of_models(written)
        if not said:
            assert not refusals
        elif not refusals:
            assert [message for message in said if not any(words in message for words in BEYOND_SCHEMA)] == []

    def test_the_schema_is_a_sound_json_schema(self) -> None:
        metaschema = {"$ref": "https://json-schema.org/draft/2020-12/schema"}
        assert list(faults(metaschema, contract_schema())) == []

    def test_the_schema_points_at_the_field(self) -> None:
        written = {
            "name": "a",
            "engine": "Docker",
            "engineSpec": {"timeout": -1, "image": 3},
            "params": [{"type": "wat"}],
        }
        assert {fault.path for fault in faults(contract_schema(), written)} == {
            ("engineSpec", "timeout"), ("engineSpec", "image"), ("params", 0), ("params", 0, "type"),
        }  # fmt: skip

    def test_contracts_of_the_tests_satisfy_the_schema(self) -> None:
        import yaml

        for path in sorted((Path(__file__).parent / "contracts").glob("*.yaml")):
            load_contract(path, strict=True)
            assert list(faults(contract_schema(), yaml.safe_load(path.read_text()))) == []

    def test_the_files_of_the_reference_are_up_to_date(self) -> None:
        text = (ROOT / "docs" / "reference" / "contract.schema.json").read_text()
        assert json.loads(text) == contract_schema()

    def test_the_example_of_the_reference_loads(self) -> None:
        page = (ROOT / "docs" / "reference" / "contract.md").read_text()
        example = page.split("```yaml\n", 1)[1].split("```", 1)[0]
        assert parse_contract(example, strict=True).contract.name == "text_analyzer"
