import base64
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from praxis_sdk.errors import ValidationError
from praxis_sdk.execution.contract.json_schema import first_fault
from praxis_sdk.jobs.executor.result import CODE_OF_LIMIT, JobUsage
from praxis_sdk.jobs.payload import network, payload, schemas
from praxis_sdk.jobs.payload.content import JobInput
from praxis_sdk.jobs.payload.limits import LIMIT_OF_KILL, JobLimits, LimitName
from praxis_sdk.jobs.payload.payload import JobPayload, parse_payload

BASE: dict[str, Any] = {"schema_version": "1.0", "job_id": "job-1", "runtime": "python", "code": "1 + 1"}
FILES: dict[str, Any] = {**BASE, "code": None, "files": {"main.py": "1"}, "entrypoint": "main.py"}
COMMAND: dict[str, Any] = {**BASE, "code": None, "runtime": "command", "command": ["ls", "-l"]}
DIGEST = "sha256:" + "0" * 64

json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip
texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=30)
contents = st.one_of(
    st.fixed_dictionaries({"text": texts}),
    st.fixed_dictionaries(
        {"base64": st.binary(max_size=30).map(lambda data: base64.b64encode(data).decode())}
    ),
)
paths = st.from_regex(r"[a-z]{1,5}(/[a-zA-Z._ -]{3,6}){0,3}", fullmatch=True).filter(
    lambda path: not any(part in (".", "..") for part in path.split("/"))
)
limits = st.fixed_dictionaries(
    {},
    optional={
        "wall_s": st.sampled_from([1, 0.5, "90s", "1h", "250ms"]),
        "memory_bytes": st.sampled_from([1 << 26, "512M", "1.5g", "64Mi"]),
        "files": st.integers(64, 4_000_000),
        "processes": st.sampled_from([1, 2.0, 64]),
        "stdout_bytes": st.integers(1024, 1 << 20),
        "artifact_count": st.integers(0, 100),
    },
)


@st.composite
def payloads(draw: st.DrawFn) -> dict[str, Any]:
    """Documents that are acceptable, in all their forms."""
    document: dict[str, Any] = {
        "schema_version": draw(st.sampled_from(["1.0", "1.1", "1.37"])),
        "job_id": draw(st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_.:-]{0,20}", fullmatch=True)),
        "runtime": "python",
    }
    kind = draw(st.sampled_from(["code", "files", "command"]))
    files = draw(st.dictionaries(paths, texts | contents, min_size=1, max_size=3))
    folders = {path.rsplit("/", depth)[0] for path in files for depth in range(1, path.count("/") + 1)}
    files = {path: content for path, content in files.items() if path not in folders}
    if kind == "code":
        document["code"] = draw(texts)
    elif kind == "files":
        document |= {"files": files, "entrypoint": draw(st.sampled_from(sorted(files)))}
    else:
        words = draw(st.lists(texts.filter(bool), min_size=1, max_size=4))
        document |= {"runtime": "command", "command": words}
        if draw(st.booleans()):
            document["files"] = files
    inputs = st.one_of(st.fixed_dictionaries({"value": json_values}), contents, st.just({"digest": DIGEST}))
    optional = {
        "inputs": st.dictionaries(st.from_regex(r"[a-z][a-z0-9_.-]{0,8}", fullmatch=True), inputs, max_size=3),
        "parameters": st.dictionaries(texts, json_values, max_size=3),
        "limits": limits,
        "env": st.just("science"),
        "provenance": st.fixed_dictionaries(
            {}, optional={"document_revision": texts, "labels": st.dictionaries(texts.filter(bool), texts, max_size=2)}
        ),
        "network": st.lists(st.sampled_from(["data.example.org", "Data.Example.org:8443", "1.1.1.1:80"]), max_size=8),
        "fresh": st.booleans(),
        "of_a_later_version": json_values,
    }  # fmt: skip
    return document | draw(st.fixed_dictionaries({}, optional=optional))


def refusal(document: Any) -> str:
    with pytest.raises(ValidationError) as caught:
        parse_payload(document)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 1000
    return message


@settings(max_examples=200)
@given(payloads())
def test_every_acceptable_document_satisfies_the_schema_and_survives_a_round_trip(
    document: dict[str, Any],
) -> None:
    parsed = parse_payload(json.dumps(document).encode())

    assert first_fault(schemas.payload_schema(), document) is None
    assert parse_payload(parsed.to_json()) == parsed
    assert parse_payload(parsed.model_dump(mode="json")).input_digests() == parsed.input_digests()
    assert first_fault(schemas.payload_schema(), parsed.model_dump(mode="json")) is None


@settings(max_examples=300)
@given(payloads(), st.data())
def test_what_the_schema_refuses_the_model_refuses_too(document: dict[str, Any], data: st.DataObject) -> None:
    field = data.draw(st.sampled_from([*JobPayload.model_fields, "code", "files", "command", "entrypoint"]))
    document[field] = data.draw(
        json_values | st.sampled_from([{"x": {}}, ["x"], {"files": 1.5}, {"wall_s": 0}])
    )

    try:
        parse_payload(document)
    except ValidationError:
        return
    assert first_fault(schemas.payload_schema(), document) is None


@settings(max_examples=300)
@given(st.binary(max_size=200) | json_values.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_give_a_payload_or_one_line(data: bytes) -> None:
    refusal(data)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema_version": "2.0"}, "'schema_version' 2.0 is not supported; this executor reads payloads of 1.x"),
        ({"schema_version": "0.9"}, "'schema_version' 0.9 is not supported"),
        ({"schema_version": 1}, "'schema_version' must be text such as '1.0'"),
        ({"schema_version": "1"}, "'schema_version' must be text such as '1.0'"),
        ({"job_id": "a b"}, "payload.job_id: "),
        ({"job_id": 5}, "payload.job_id: must be text"),
        ({"job_id": "x\n"}, "payload.job_id: "),
        ({"code": None}, "exactly one of 'code' and 'files'"),
        ({"files": {"a": "x"}, "entrypoint": "a"}, "exactly one of 'code' and 'files'"),
        ({"entrypoint": "a"}, "'files' and 'entrypoint' go together"),
        ({"command": ["ls"]}, "'command' is for the runtime 'command'"),
        ({"code": "x" * ((1 << 20) + 1)}, "payload.code: larger than the limit of 1048576 bytes"),
        ({"inputs": {"a/b": {"text": ""}}}, "payload.inputs.a/b"),
        ({"inputs": {"a": {}}}, "payload.inputs.a: must have exactly one of"),
        ({"inputs": {"a": {"text": "x", "value": None}}}, "payload.inputs.a: must have exactly one of"),
        ({"inputs": {"a": {"text": None}}}, "payload.inputs.a"),
        ({"inputs": {"a": {"digest": "sha256:ABC"}}}, "payload.inputs.a.digest: "),
        ({"inputs": {"a": {"base64": "x"}}}, "payload.inputs.a.base64: is not base64"),
        ({"inputs": {"a": {"text": "x" * ((8 << 20) + 1)}}}, "payload.inputs: together larger than"),
        ({"parameters": [1]}, "payload.parameters: must be a JSON object"),
        ({"parameters": {"a": float("nan")}}, "payload.parameters.a: not a finite number"),
        ({"parameters": {"a": [1, 2**64]}}, "payload.parameters.a[1]: an integer does not fit in 64 bits"),
        ({"parameters": {"a": b"x"}}, "payload.parameters.a: bytes is not JSON data"),
        ({"parameters": {1: 2}}, "payload.parameters: a key is int and not text"),
        ({"limits": {"files": "many"}}, "payload.limits.files: must be a whole number"),
        ({"limits": {"files": 1}}, "payload.limits.files: "),
        ({"limits": {"memory_bytes": "lots"}}, "payload.limits.memory_bytes: is not a size"),
        ({"limits": {"memory_bytes": True}}, "payload.limits.memory_bytes: must be a whole number"),
        ({"limits": {"memory_bytes": "9" * 400}}, "payload.limits.memory_bytes: is not a size"),
        ({"limits": {"wall_s": 0}}, "payload.limits.wall_s: "),
        ({"limits": {"wall_s": "8d"}}, "payload.limits.wall_s: "),
        ({"env": "../x"}, "payload.env: "),
        ({"env_version": "latest"}, "payload.env_version: "),
        ({"env_version": "science-0123456789ab"}, "not a version of the environment 'base'"),
        ({"network": "data.example.org"}, "payload.network: must be a list"),
        ({"network": ["*.example.org"]}, "payload.network[0]: '*.example.org' holds a wildcard"),
        ({"fresh": "yes"}, "payload.fresh: must be true or false"),
        ({"code": "\ud800"}, "payload.code: text holds half of a surrogate pair"),
    ],
)  # fmt: skip
def test_refusal_names_the_field(change: dict[str, Any], message: str) -> None:
    assert message in refusal(BASE | change)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (
            {"job_id": "a b"},
            "job_id: must be 1 to 128 letters, digits and any of '_.:-', beginning with a letter or a digit",
        ),
        ({"job_id": None}, "job_id: must be text"),
        (
            {"runtime": "Py thon"},
            "runtime: must be 1 to 64 lower-case letters, digits, '_' and '-', such as 'python'",
        ),
        ({"files": {}, "code": None}, "files: must not be empty"),
        ({"files": {"a": 7}}, "files.a: must be text, or an object with one of 'text' and 'base64'"),
        ({"files": {f"f{number}": "" for number in range(1025)}}, "files: must have at most 1024 entries"),
        ({"command": []}, "command: must not be empty"),
        ({"command": ["a\0b"]}, "command[0]: must be text without NUL characters"),
        ({"command": ["x" * 131_073]}, "command[0]: must have at most 131072 characters"),
        ({"command": ["a"] * 1025}, "command: must have at most 1024 entries"),
        ({"command": [""]}, "command: names no program, which is its first word"),
        (
            {"inputs": {"a b": {"value": 1}}},
            (
                "inputs.a b: the name must be 1 to 128 letters, digits and any of '_.-', "
                "beginning with a letter, a digit or '_'"
            ),
        ),
        ({"inputs": {"a": 1}}, 'inputs.a: must be an object with one of its fields, such as {"value": 1}'),
        (
            {"inputs": {"a": {"digest": "md5:1"}}},
            "inputs.a.digest: must be 'sha256:' and 64 hexadecimal digits in lower case",
        ),
        (
            {"inputs": {"a": {"base64": "?"}}},
            "inputs.a.base64: is not base64: letters, digits, '+', '/', padded with '='",
        ),
        (
            {"limits": {"memory_bytes": "1K"}},
            "limits.memory_bytes: must be at least 16777216 bytes (16.0 MiB)",
        ),
        (
            {"limits": {"memory_bytes": 1 << 50}},
            "limits.memory_bytes: must be at most 1099511627776 bytes (1.0 TiB)",
        ),
        (
            {"limits": {"memory_bytes": None}},
            "limits.memory_bytes: must be a whole number of bytes, or a size such as '512M'",
        ),
        ({"limits": {"wall_s": -1}}, "limits.wall_s: must be more than 0 seconds"),
        ({"limits": {"wall_s": 10**9}}, "limits.wall_s: must be at most 86400 seconds"),
        (
            {"limits": {"wall_s": []}},
            "limits.wall_s: must be a duration such as '90s', or a number of seconds",
        ),
        ({"limits": {"processes": 0}}, "limits.processes: must be at least 1"),
        ({"limits": {"files": 10**9}}, "limits.files: must be at most 4000000"),
        ({"limits": 5}, "limits: must be a JSON object"),
        (
            {"env": "Bad Name"},
            "env: must be lower-case letters and digits, in parts joined by '-', such as 'base'",
        ),
        ({"env": "a" * 65}, "env: must have at most 64 characters"),
        (
            {"env_version": "base"},
            "env_version: must be a name, '-' and 12 hexadecimal digits, as 'praxis env list' shows it",
        ),
        ({"provenance": {"labels": {"": "x"}}}, "provenance.labels.'': the name must not be empty"),
        (
            {"provenance": {"labels": {"a": "x" * 1025}}},
            "provenance.labels.a: must have at most 1024 characters",
        ),
        ({"network": ["x.org"] * 33}, "network: must have at most 32 entries"),
        ({"network": [5]}, "network[0]: must be text such as 'data.example.org' or 'data.example.org:8443'"),
        ({"fresh": 2, "env": 1}, "env: must be text; and 1 more problem"),
    ],
)
def test_a_refusal_says_what_would_be_right_in_our_words(change: dict[str, Any], line: str) -> None:
    assert refusal(BASE | change) == f"payload.{line}"


@settings(max_examples=300)
@given(payloads(), st.data())
def test_no_refusal_speaks_pydantic(document: dict[str, Any], data: st.DataObject) -> None:
    field = data.draw(st.sampled_from([*JobPayload.model_fields]))
    document[field] = data.draw(
        json_values | st.dictionaries(st.text(max_size=3), json_values) | st.lists(json_values, max_size=2)
    )

    try:
        parse_payload(document)
    except ValidationError as error:
        message = str(error)
    else:
        return
    phrases = ("Input should", "should have", "should be", "Dictionary", "Value error")
    assert not any(phrase in message for phrase in phrases)
    assert "see the schema" not in message, "a kind of problem without words"


@pytest.mark.parametrize("field", ["schema_version", "job_id", "runtime"])
def test_required_fields_are_enforced(field: str) -> None:
    message = refusal({name: value for name, value in BASE.items() if name != field})

    assert message.startswith(f"payload.{field}: is missing")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not JSON"),
        (b"[1]", "must be a JSON object"),
        (b"\xff", "not UTF-8"),
        (b'{"a": 1, "a": 2}', "key 'a' is given twice"),
        (b'{"parameters": {"x": {"a": 1, "a": 2}}}', "key 'a' is given twice"),
        (b'{"parameters": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested deeper than"),
        (b'{"parameters": {"x": ' + b"[" * 80 + b"]" * 80 + b"}}", "nested deeper than"),
        (b'{"x": ' + b"9" * 1_000_000 + b"}", "payload.x: an integer does not fit"),
        (b'{"x": -1e999}', "payload.x: not a finite number"),
        (b'{"x": NaN}', "payload.x: not a finite number"),
        (b'{"x": "\\ud800"}', "payload.x: text holds half of a surrogate pair"),
        (b'{"x": [' + b"[]," * 1_000_001 + b"[]]}", "more than 1000000 brackets"),
        (b" " * (payload.MAX_PAYLOAD_BYTES + 1), "larger than the limit"),
    ],
)
def test_hostile_documents_end_as_one_line(data: bytes, message: str) -> None:
    assert message in refusal(data)


def test_depth_that_a_payload_accepts_it_also_writes() -> None:
    nested: Any = 1
    for _ in range(63):
        nested = [nested]
    parsed = parse_payload(BASE | {"parameters": {"x": nested}, "inputs": {"a": {"value": nested}}})

    assert parse_payload(json.dumps(parsed.to_json()).encode()) == parsed
    assert "nested deeper than 64" in refusal(BASE | {"parameters": {"x": [nested]}})


@pytest.mark.parametrize(
    "path",
    ["/etc/passwd", "../x", "a/../../x", "a//b", "./a", "a/.", "", "a\\b", "a\nb", "a\0b", "a/", "x" * 256,
     "/".join("a" * 17), "\u2028x", "a\x85"],
)  # fmt: skip
def test_unsafe_names_of_files_are_refused(path: str) -> None:
    assert "payload.files" in refusal(FILES | {"files": {"main.py": "", path: ""}})
    assert first_fault(schemas.payload_schema(), FILES) is None


@pytest.mark.parametrize("path", ["a/b.py", "..a", "a..", ".hidden", "ä/ö", "a b", "-x", "a/...", "x" * 255])
def test_other_names_of_files_are_kept(path: str) -> None:
    parsed = parse_payload(FILES | {"files": {path: "x"}, "entrypoint": path})

    assert parsed.files is not None
    assert parsed.files[path].content() == b"x"


def test_files_are_bounded() -> None:
    assert "both a file and a folder" in refusal(FILES | {"files": {"main.py": "", "a/b": "", "a": ""}})
    many = {f"f{number}": "" for number in range(payload.MAX_FILES)}
    assert "payload.files" in refusal(FILES | {"files": {"main.py": "", **many}})
    large = {"main.py": {"base64": base64.b64encode(bytes(payload.MAX_FILES_BYTES + 1)).decode()}}
    assert "together larger than" in refusal(FILES | {"files": large})
    assert "'entrypoint' is none of 'files'" in refusal(FILES | {"entrypoint": "other.py"})


def test_command_takes_files_but_no_code() -> None:
    assert parse_payload(COMMAND).command == ["ls", "-l"]
    assert parse_payload(COMMAND | {"files": {"a": "x"}}).files is not None
    assert "takes 'command'" in refusal(COMMAND | {"code": "x"})
    assert "takes 'command'" in refusal(COMMAND | {"command": None})
    assert "payload.command" in refusal(COMMAND | {"command": []})
    assert "payload.command: names no program" in refusal(COMMAND | {"command": [""]})
    assert "payload.command[0]" in refusal(COMMAND | {"command": ["a\0"]})


def test_unknown_fields_are_ignored_everywhere() -> None:
    later = {"schema_version": "1.9", "priority": {"a": 1}, "limits": {"gpus": 1}, "provenance": {"x": 1}}
    later |= {"inputs": {"a": {"text": "x", "encoding": "utf-8"}}}
    parsed = parse_payload(BASE | later)

    assert parsed.inputs["a"].content() == b"x"
    assert "priority" not in parsed.to_json()


def test_inputs_by_value_and_by_digest_of_the_same_bytes_are_one() -> None:
    forms = [{"text": "é"}, {"base64": "w6k="}]
    digests = {JobInput.model_validate(form).content_digest() for form in forms}
    digest = digests.pop()

    assert not digests
    assert JobInput(digest=digest).content_digest() == digest
    assert JobInput(digest=digest).content() is None
    assert JobInput(value=None).content() == b"null"
    assert JobInput(value="é").kind == "json"


@pytest.mark.parametrize(
    ("text", "host"),
    [
        ("data.example.org", "data.example.org:443"),
        ("Data.Example.ORG.:8443", "data.example.org:8443"),
        ("xn--bcher-kva.example:80", "xn--bcher-kva.example:80"),
        ("8.8.8.8", "8.8.8.8:443"),
        ("[2606:4700::1111]:853", "[2606:4700::1111]:853"),
        ("[2606:4700:0:0::1111]", "[2606:4700::1111]:443"),
    ],
)
def test_hosts_are_written_in_one_way(text: str, host: str) -> None:
    assert str(network.parse_host(text)) == host
    assert parse_payload(BASE | {"network": [text, text]}).network == [host]
    assert first_fault(schemas.payload_schema(), BASE | {"network": [text]}) is None


@pytest.mark.parametrize(
    "text",
    ["", "*", "*.example.org", "a.*.org", "localhost", "metadata", "metadata.google.internal", "x.local", "x.localhost",
     "printer.lan", "127.0.0.1", "127.1", "0x7f.1", "0x7f000001", "2130706433", "10.1.2.3", "172.16.0.1", "192.168.1.1",
     "169.254.169.254", "100.64.0.1", "0.0.0.0", "224.0.0.1", "255.255.255.255", "::1", "[::1]", "[fe80::1]",
     "[fd00::1]", "[::ffff:127.0.0.1]", "[::ffff:8.8.8.8]", "[64:ff9b::7f00:1]", "[2002:7f00:1::]", "[ff02::1]",
     "[2606:4700::1", "2606:4700::1", "example.org:0", "example.org:65536", "example.org:x", "example.org:",
     "example.org:443:443", "http://example.org", "user@example.org", "example.org/path", "exa mple.org", "-a.org",
     "a-.org", "a..org", "bücher.example", "1.2.3.4.5", "a." + "b" * 64, "example.org\n"],
)  # fmt: skip
def test_hosts_that_could_mean_more_are_refused(text: str) -> None:
    assert "payload.network[0]" in refusal(BASE | {"network": [text]})


def test_limits_are_read_as_people_write_them() -> None:
    read = JobLimits.model_validate({"memory_bytes": "512M", "wall_s": "1.5m", "processes": 2.0})

    assert (read.memory_bytes, read.wall_s, read.processes) == (512 << 20, 90.0, 2)
    assert read.for_sandbox().memory_bytes == 512 << 20
    assert JobLimits(wall_s=1e-9, cpu_s=1e-9).for_sandbox().cpu_seconds == 0.001


def test_limits_above_the_operators_are_refused() -> None:
    JobLimits().check_within(JobLimits())
    with pytest.raises(ValidationError, match=r"payload\.limits\.files: 16384 is more than the 100"):
        JobLimits().check_within(JobLimits(files=100))


def test_every_limit_has_a_name_a_code_and_a_number_in_the_usage() -> None:
    names = set(JobLimits.model_fields)

    assert set(LimitName) == names == set(CODE_OF_LIMIT)
    assert set(LIMIT_OF_KILL.values()) <= names
    peaks = {
        "memory_bytes": "peak_memory_bytes",
        "processes": "peak_processes",
        "file_size_bytes": "largest_file_bytes",
    }
    assert {peaks.get(name, name) for name in names} == set(JobUsage.model_fields)


def test_schemas_are_published_under_stable_names() -> None:
    documents = schemas.reference_documents()

    assert set(documents) == {"job-payload.schema.json", "job-result.schema.json"}
    assert json.loads(documents["job-payload.schema.json"]) == schemas.payload_schema()
    assert all(text.endswith("}\n") and "Args:" not in text for text in documents.values())
