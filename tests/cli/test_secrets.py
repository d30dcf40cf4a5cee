"""Secrets reach a tool and nothing else: no record, no output, no message, no file of the home."""

from __future__ import annotations

import base64
import json
import subprocess
from pathlib import Path

import pytest

from tests.cli.conftest import AtHome, ContractWriter, praxis

VALUE = "correct-horse-battery"

# Says what it got in every way in which a tool would let it slip.
TALKATIVE = """
import base64, os, sys, time, urllib.parse
value = os.environ["TOKEN"]
print(value)
print("as an address:", urllib.parse.quote(value, safe=""))
print("basic", base64.b64encode(f"user:{value}".encode()).decode())
for part in (value[:7], value[7:]):
    sys.stdout.write(part); sys.stdout.flush(); time.sleep(0.02)
print("", file=sys.stderr); print("error", value, file=sys.stderr)
sys.exit(0 if value == "-".join(["correct", "horse", "battery"]) else 9)
"""
PASSWORD = [{"name": "token", "type": "string", "format": "password", "required": True, "minLength": 8}]


def talkative(write_contract: ContractWriter, **fields: object) -> Path:
    """Write the contract of a tool that cannot keep a secret."""
    spec = {"command": ["python3", "-c", TALKATIVE], "timeout": 60, **fields.pop("spec", {})}  # type: ignore[dict-item]
    return write_contract(**{"engine": "sandbox", "trust": "untrusted", "spec": spec, **fields})


def keep(at_home: AtHome, name: str, value: str = VALUE) -> None:
    """Keep a secret in the home."""
    done = at_home("secret", "set", name, stdin=value.encode())
    assert done.returncode == 0, done.stderr


def found_in(folder: Path, text: str) -> list[Path]:
    """Return the files below a folder that hold a text."""
    return [path for path in folder.rglob("*") if path.is_file() and text.encode() in path.read_bytes()]


def assert_masked(done: subprocess.CompletedProcess[bytes]) -> None:
    """Check what a command printed of the talkative tool."""
    assert done.returncode == 0, done.stderr
    for form in (VALUE, VALUE[7:], base64.b64encode(f"user:{VALUE}".encode()).decode()[8:24]):
        assert form.encode() not in done.stdout + done.stderr
    assert b"[secret]" in done.stdout


def test_an_argument_by_reference_reaches_the_tool_and_no_record(
    at_home: AtHome, write_contract: ContractWriter
) -> None:
    keep(at_home, "api-token")
    contract = talkative(write_contract, params=PASSWORD)
    assert_masked(at_home("run", contract, "--arg", "token=secret://api-token"))
    assert_masked(at_home("submit", "--tool", contract, "--arg", "token=secret://api-token", "--wait"))
    executions = [one["id"] for one in at_home.json("ps", "--all")["executions"]]
    assert len(executions) == 2
    for one in executions:
        assert_masked(at_home("logs", one))
        shown = at_home("show", one, "--json")
        assert VALUE.encode() not in shown.stdout
        assert json.loads(shown.stdout)["request"]["args"] == {"token": "secret://api-token"}
        events = at_home("logs", one, "--type", "data_access", "--json")
        assert b"secret api-token" in events.stdout
    assert found_in(at_home.home, VALUE) == [at_home.home / "secrets/api-token"]


def test_a_declared_secret_in_plain_text_runs_now_and_is_refused_where_it_would_be_stored(
    at_home: AtHome, write_contract: ContractWriter
) -> None:
    contract = talkative(write_contract, params=PASSWORD)
    assert_masked(at_home("run", contract, "--arg", f"token={VALUE}"))
    refused = at_home("submit", "--tool", contract, "--arg", f"token={VALUE}")
    assert refused.returncode == 2
    assert refused.stderr.startswith(b"praxis: args.token: holds a secret in plain text")
    assert b"praxis secret set" in refused.stderr
    (one,) = at_home.json("ps", "--all")["executions"]
    again = at_home("retry", one["id"], "--wait")
    assert again.returncode != 0
    assert b"gone with the command" in again.stderr
    assert found_in(at_home.home, VALUE) == []


def test_a_contract_gets_only_the_secrets_that_its_caller_allows(
    at_home: AtHome, write_contract: ContractWriter
) -> None:
    keep(at_home, "api-token")
    contract = talkative(write_contract, spec={"env": {"TOKEN": "secret://api-token"}})
    refused = at_home("run", contract)
    assert refused.returncode == 2
    assert b"--allow-secret api-token" in refused.stderr
    assert_masked(at_home("run", contract, "--allow-secret", "api-token"))
    assert_masked(at_home("run", contract, "--trust"))
    assert_masked(at_home("submit", "--tool", contract, "--allow-secret", "api-token", "--wait"))


def test_a_variable_of_the_worker_is_for_trusted_contracts_only(
    at_home: AtHome, write_contract: ContractWriter
) -> None:
    contract = talkative(write_contract, spec={"env": {"TOKEN": "${env:MY_TOKEN}"}})
    variables = {**at_home.variables, "MY_TOKEN": VALUE}
    refused = praxis("run", contract, env=variables)
    assert refused.returncode == 2
    assert b"only a trusted contract" in refused.stderr
    assert_masked(praxis("run", contract, "--trust", env=variables))
    missing = at_home("run", contract, "--trust")
    assert missing.returncode == 3
    assert b"${env:MY_TOKEN}: this worker has no such variable" in missing.stderr


def test_a_missing_secret_is_a_missing_dependency_with_a_remedy(
    at_home: AtHome, write_contract: ContractWriter
) -> None:
    contract = talkative(write_contract, params=PASSWORD)
    at_home("submit", "--tool", contract, "--arg", "token=secret://nowhere", "--wait")
    (one,) = at_home.json("ps", "--all")["executions"]
    failure = at_home.json("show", one["id"])["execution"]["failure"]
    assert (failure["category"], failure["code"]) == ("DEPENDENCY_ERROR", "secret_unavailable")
    assert "praxis secret set nowhere" in failure["message"]


def test_what_a_secret_must_satisfy_is_said_without_the_secret(
    at_home: AtHome, write_contract: ContractWriter
) -> None:
    keep(at_home, "short", "hunter2")
    contract = talkative(write_contract, params=PASSWORD)
    refused = at_home("run", contract, "--arg", "token=secret://short")
    assert refused.returncode == 2
    assert b"args.token" in refused.stderr
    assert b"hunter2" not in refused.stderr


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ({"command": ["echo", "{{token}}"]}, b"would show a secret on the command line"),
        ({"command": ["echo"], "arguments": "argv"}, b"write 'arguments: env'"),
        ({"command": ["echo", "secret://api-token"]}, b"a secret cannot stand here"),
    ],
)
def test_a_secret_never_stands_on_a_command_line(
    at_home: AtHome, write_contract: ContractWriter, spec: dict[str, object], said: bytes
) -> None:
    keep(at_home, "api-token")
    contract = write_contract(engine="sandbox", trust="untrusted", spec=spec, params=PASSWORD)
    refused = at_home("run", contract, "--arg", "token=secret://api-token", "--trust")
    assert refused.returncode == 2
    assert said in refused.stderr


def test_headers_and_tokens_of_a_remote_server_are_not_stored(
    at_home: AtHome, write_contract: ContractWriter
) -> None:
    spec = {
        "address": "http://127.0.0.1:9/mcp",
        "timeout": 10,
        "auth_token": VALUE,
        "headers": {"X-Api-Key": f"{VALUE}-2", "X-Team": "blue"},
    }
    contract = write_contract(engine="remote-mcp", trust="untrusted", spec=spec)
    assert at_home("run", contract).returncode != 0  # nobody listens there
    refused = at_home("submit", "--tool", contract)
    assert refused.returncode == 2
    assert b"engineSpec.auth_token: holds a secret in plain text" in refused.stderr
    assert VALUE.encode() not in refused.stderr
    (one,) = at_home.json("ps", "--all")["executions"]
    assert b"blue" in at_home("show", one["id"], "--json").stdout
    assert found_in(at_home.home, VALUE) == []


def test_a_missing_secret_ends_both_ways_with_the_same_exit_status(
    at_home: AtHome, write_contract: ContractWriter
) -> None:
    contract = talkative(write_contract, params=[{"name": "token", "type": "string"}])
    given = (contract, "--arg", "token=secret://none")
    assert [at_home("run", *given).returncode, at_home("submit", *given, "--wait").returncode] == [3, 3]


def test_a_value_too_short_to_be_masked_is_said_to_be(at_home: AtHome) -> None:
    done = at_home("secret", "set", "pin", stdin=b"123")
    assert done.returncode == 0
    assert b"'pin' has fewer than 4 characters, so it is not masked" in done.stderr


def test_secrets_are_listed_by_name_and_never_shown(at_home: AtHome) -> None:
    assert at_home("secret", "list").stdout == b"no secrets yet; 'praxis secret set NAME' keeps one\n"
    keep(at_home, "api-token")
    keep(at_home, "db.password")
    listed = at_home("secret", "list", "--json")
    assert [one["name"] for one in json.loads(listed.stdout)["secrets"]] == ["api-token", "db.password"]
    assert VALUE.encode() not in listed.stdout + at_home("secret", "list").stdout
    assert at_home("secret", "remove", "api-token").returncode == 0
    gone = at_home("secret", "remove", "api-token")
    assert (gone.returncode, gone.stderr[:7]) == (2, b"praxis:")


@pytest.mark.parametrize("name", ["../x", ".x", "a/b", "given.x"])
def test_a_name_that_is_not_valid_is_refused_in_one_line(at_home: AtHome, name: str) -> None:
    refused = at_home("secret", "set", name, stdin=b"value")
    assert refused.returncode == 2
    assert len(refused.stderr.splitlines()) == 1


TELLS = """
import json, os
print(json.load(open(os.environ["PRAXIS_ARGS_FILE"]))["given"] == json.loads(os.environ["WANTED"]))
print(os.environ["WANTED"])
"""
HIDDEN_STRING = {"type": "string", "format": "password"}


@pytest.mark.parametrize(
    ("parameter", "value"),
    [
        ({"type": "object", "properties": {"key": HIDDEN_STRING}}, {"user": "ann", "key": VALUE}),
        ({"type": "object", "additionalProperties": HIDDEN_STRING}, {"one": VALUE, "two": VALUE[::-1]}),
        ({"type": "array", "items": HIDDEN_STRING}, [VALUE, VALUE[::-1]]),
        ({"type": "array", "items": {"type": "object", "properties": {"key": HIDDEN_STRING}}}, [{"key": VALUE}]),
        ({"type": "array", "format": "password"}, [VALUE]),
        ({"type": "integer", "format": "password"}, 7700112233),
        ({"type": "any", "anyOf": [HIDDEN_STRING, {"type": "null"}]}, VALUE),
    ],
)  # fmt: skip
def test_a_secret_inside_a_value_is_as_secret(
    at_home: AtHome, write_contract: ContractWriter, parameter: dict[str, object], value: object
) -> None:
    contract = talkative(
        write_contract,
        params=[{"name": "given", **parameter}],
        spec={"command": ["python3", "-c", TELLS], "env_passthrough": ["WANTED"]},
    )
    text = json.dumps(value) if not isinstance(value, str) else value
    variables = {**at_home.variables, "WANTED": json.dumps(value)}
    done = praxis("run", contract, "--arg", f"given={text}", env=variables)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(b"True\n")  # the tool got it, in its own form
    assert b"[secret]" in done.stdout
    refused = at_home("submit", "--tool", contract, "--arg", f"given={text}")
    assert refused.returncode == 2
    assert refused.stderr.startswith(b"praxis: args.given: holds a secret in plain text")
    for secret in (VALUE, VALUE[::-1], "7700112233"):
        assert secret.encode() not in done.stdout + refused.stderr
        assert found_in(at_home.home, secret) == []


def test_a_default_inside_a_value_is_no_less_secret(at_home: AtHome, write_contract: ContractWriter) -> None:
    parameter = {"name": "given", "type": "array", "items": HIDDEN_STRING, "default": [VALUE]}
    contract = talkative(
        write_contract, params=[parameter], spec={"command": ["sh", "-c", 'echo "$ARG_GIVEN"']}
    )
    assert at_home("run", contract).stdout == b'["[secret]"]\n'
    assert found_in(at_home.home, VALUE) == []


@pytest.mark.parametrize("text", ["hunter2-hunter2", '["hunter2-hunter2"]'])
def test_what_is_wrong_with_a_secret_is_said_without_it(
    at_home: AtHome, write_contract: ContractWriter, text: str
) -> None:
    parameter = {"name": "given", "type": "array", "items": {"type": "integer", "format": "password"}}
    refused = at_home("run", talkative(write_contract, params=[parameter]), "--arg", f"given={text}")
    assert refused.returncode == 2
    assert refused.stderr == b"praxis: args.given[0]: must be a whole number\n"


def test_a_number_is_given_by_reference_too(at_home: AtHome, write_contract: ContractWriter) -> None:
    keep(at_home, "pin", "7700112233")
    keep(at_home, "no-pin")
    contract = talkative(
        write_contract,
        params=[{"name": "pin", "type": "integer"}, {"name": "pins", "type": "array", "items": {"type": "integer"}}],
        spec={"command": ["sh", "-c", 'test "$ARG_PIN" = 7700112233 && test "$ARG_PINS" = "[7700112233]"']},
    )  # fmt: skip
    done = at_home("run", contract, "--arg", "pin=secret://pin", "--arg", "pins=secret://pin")
    assert done.returncode == 0, done.stderr
    refused = at_home("run", contract, "--arg", "pin=secret://no-pin")
    assert refused.returncode == 2
    assert refused.stderr.startswith(b"praxis: args.pin: must be a whole number")
    assert VALUE.encode() not in refused.stderr


@pytest.mark.parametrize(
    "text", ["secret://", "secret://../../etc/shadow", "see secret:// there", "SECRET://-x"]
)
@pytest.mark.parametrize("form", ["password", "idn-email"])
def test_a_reference_without_a_name_is_not_taken_for_a_value(
    at_home: AtHome, write_contract: ContractWriter, text: str, form: str
) -> None:
    contract = talkative(write_contract, params=[{"name": "token", "format": form}])
    refused = at_home("run", contract, "--arg", f"token={text}")
    assert refused.returncode == 2
    assert refused.stderr.startswith(b"praxis: args.token: no name of a secret follows 'secret://'")
    in_contract = talkative(write_contract, spec={"env": {"TOKEN": text}})
    refused = at_home("run", in_contract, "--trust")
    assert refused.returncode == 2
    assert refused.stderr.startswith(b"praxis: engineSpec.env: no name of a secret follows 'secret://'")


@pytest.mark.parametrize("spec", [{"arguments": "stdin"}, {"stdin": "{{token}}"}])
def test_a_secret_may_stand_on_standard_input(
    at_home: AtHome, write_contract: ContractWriter, spec: dict[str, object]
) -> None:
    keep(at_home, "api-token")
    contract = talkative(write_contract, params=PASSWORD, spec={"command": ["cat"], **spec})
    done = at_home("run", contract, "--arg", "token=secret://api-token")
    assert done.returncode == 0, done.stderr
    assert b"[secret]" in done.stdout


@pytest.mark.parametrize(
    "address",
    [
        f"http://ann:{VALUE}@127.0.0.1:9/mcp",
        f"http://{VALUE}@127.0.0.1:9/mcp",
        f"http://127.0.0.1:9/mcp?team=blue&api_key={VALUE}",
        f"http://127.0.0.1:9/mcp?access_token={VALUE}&team=blue",
    ],
)
def test_a_secret_in_an_address_is_not_stored(
    at_home: AtHome, write_contract: ContractWriter, address: str
) -> None:
    spec = {"address": address, "timeout": 10}
    contract = write_contract(engine="remote-mcp", trust="untrusted", spec=spec)
    done = at_home("run", contract)
    assert done.returncode == 3, done.stderr  # nobody listens there
    assert b"cannot be reached" in done.stderr
    refused = at_home("submit", "--tool", contract)
    assert refused.returncode == 2
    assert refused.stderr.startswith(b"praxis: engineSpec.address: holds a secret in plain text")
    assert VALUE.encode() not in done.stderr + refused.stderr
    assert found_in(at_home.home, VALUE) == []
    keep(at_home, "api-token")
    by_name = write_contract(
        engine="remote-mcp",
        trust="untrusted",
        spec={"address": address.replace(VALUE, "secret://api-token"), "timeout": 10},
    )
    done = at_home("run", by_name, "--allow-secret", "api-token")
    assert (done.returncode, b"cannot be reached" in done.stderr) == (3, True), done.stderr


@pytest.mark.parametrize("query", ["?team=blue", "?keyword=tokyo&monkey=1", "", "#token=none"])
def test_an_address_without_a_secret_is_stored_as_it_stands(
    at_home: AtHome, write_contract: ContractWriter, query: str
) -> None:
    address = f"http://127.0.0.1:9/mcp{query}"
    contract = write_contract(engine="remote-mcp", trust="untrusted", spec={"address": address})
    done = at_home("submit", "--tool", contract)
    assert done.returncode == 0, done.stderr
    request = at_home.json("show", done.stdout.decode().strip())["request"]
    assert request["contract"]["engine_spec"]["address"] == address
