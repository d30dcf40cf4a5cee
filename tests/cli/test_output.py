"""What work writes costs what it weighs, and comes back as it was written."""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path

import pytest

from tests.cli.conftest import AtHome, ContractWriter

MIB = 1 << 20


def database_bytes(home: Path) -> int:
    """Return how large the database is, with what is not yet merged into it."""
    return sum(file.stat().st_size for file in home.glob("praxis.db*") if file.is_file())


def the_id(at_home: AtHome) -> str:
    """Return the only execution's id."""
    (one,) = at_home.json("ps", "--all")["executions"]
    return str(one["id"])


def python(code: str) -> dict[str, object]:
    """Return the spec of a tool that runs Python code in the sandbox."""
    return {"command": ["python3", "-c", code], "timeout": 60, "output_limit": "512m"}


WRITTEN = {
    "binary": "import sys; sys.stdout.buffer.write(bytes(range(256)) * 3)",
    "lone carriage returns": r"import sys; sys.stdout.buffer.write(b'1%\r2%\r\n3%\rdone')",
    "half a character": r"import sys; sys.stdout.buffer.write(b'caf\xc3')",
    "split characters": "import os\nfor byte in 'grün ☃ 🜚'.encode(): os.write(1, bytes([byte]))",
    "no end of line": "print('x', end='')",
    "a long line": "print('x' * 300_000)",
    "nothing but line ends": r"print('\n' * 100_000)",
}


@pytest.mark.parametrize("case", WRITTEN)
def test_bytes_come_back_as_they_were_written(
    at_home: AtHome, write_contract: ContractWriter, case: str
) -> None:
    contract = write_contract(spec=python(WRITTEN[case]), engine="sandbox", trust="untrusted")
    shown = at_home("submit", "--tool", contract, "--wait", "--quiet")
    assert (shown.returncode, shown.stderr) == (0, b"")
    one = the_id(at_home)
    assert at_home("logs", one).stdout == shown.stdout
    found = at_home.json("show", one)
    result = found["result"]
    kept = result["stdout"].encode()
    if result["stdout_base64"] is not None:
        kept = base64.b64decode(result["stdout_base64"])
        assert result["stdout"] == shown.stdout.decode(errors="replace")
    assert kept == shown.stdout
    assert found["execution"]["outputs"]["stdout"] == result["stdout"]
    assert result["stdout_bytes"] == len(kept)
    assert result["stdout_sha256"] == hashlib.sha256(kept).hexdigest()
    assert not result["stdout_truncated"]
    lines = [json.loads(line) for line in at_home("logs", one, "--json").stdout.splitlines()]
    assert [(line["seq"], line["index"]) for line in lines] == sorted(
        (line["seq"], line["index"]) for line in lines
    )
    texts = [
        base64.b64decode(line["data"]["base64"]) if "base64" in line["data"] else line["message"].encode()
        for line in lines
    ]
    assert b"\n".join(texts) == shown.stdout.removesuffix(b"\n")
    direct = at_home("run", contract, "--quiet")
    assert (direct.returncode, direct.stdout) == (0, shown.stdout)


def test_a_million_empty_lines_cost_what_they_weigh(at_home: AtHome, write_contract: ContractWriter) -> None:
    code = r"import sys; sys.stdout.write('\n' * 1_000_000)"
    contract = write_contract(spec=python(code), engine="sandbox", trust="untrusted")
    assert at_home("run", contract).stdout == b"\n" * 1_000_000
    assert database_bytes(at_home.home) < 5 * MIB
    assert at_home("logs", the_id(at_home)).stdout == b"\n" * 1_000_000


def test_streams_that_take_turns_byte_by_byte_are_bounded(
    at_home: AtHome, write_contract: ContractWriter
) -> None:
    code = "import os\nfor _ in range(100_000): os.write(1, b'a'); os.write(2, b'b')"
    contract = write_contract(spec=python(code), engine="sandbox", trust="untrusted")
    done = at_home("run", contract, "--quiet")
    assert (done.stdout, done.stderr) == (b"a" * 100_000, b"b" * 100_000)
    assert database_bytes(at_home.home) < 5 * MIB
    again = at_home("logs", the_id(at_home))
    assert (again.stdout, again.stderr) == (b"a" * 100_000, b"b" * 100_000)


def test_output_is_kept_once(at_home: AtHome, write_contract: ContractWriter) -> None:
    code = f"import os\nfor _ in range(8): os.write(1, os.urandom({MIB}))"
    contract = write_contract(spec=python(code), engine="sandbox", trust="untrusted")
    shown = at_home("run", contract).stdout
    assert len(shown) <= 8 * MIB
    assert database_bytes(at_home.home) < 1.3 * len(shown) + MIB
    assert at_home("logs", the_id(at_home)).stdout == shown


def test_of_much_output_the_beginning_and_the_end_are_kept(
    at_home: AtHome, write_contract: ContractWriter
) -> None:
    code = "print('first')\nfor _ in range(40): print('x' * (1 << 20), end='')\nprint('\\nlast')"
    contract = write_contract(spec=python(code), engine="sandbox", trust="untrusted")
    shown = at_home("run", contract)
    whole = b"first\n" + b"x" * (40 * MIB) + b"\nlast\n"
    assert shown.stdout == whole
    assert database_bytes(at_home.home) < 20 * MIB
    one = the_id(at_home)
    logged = at_home("logs", one)
    assert logged.stdout.startswith(b"first\n")
    assert logged.stdout.endswith(b"x\nlast\n")
    left_out = len(whole) - len(logged.stdout)
    assert 0 < left_out < 25 * MIB
    assert f"{left_out} bytes of stdout are left out here" in logged.stderr.decode()
    result = at_home.json("show", one)["result"]
    assert result["stdout"].startswith("first\n")
    assert f"\n[... {left_out} bytes left out ...]\n" in result["stdout"]
    assert result["stdout"].endswith("x\nlast\n")
    assert (result["stdout_truncated"], result["stdout_bytes"]) == (True, len(whole))
    assert result["stdout_sha256"] == hashlib.sha256(whole).hexdigest()


def test_a_long_line_of_a_job_comes_unbroken_through_the_queue(at_home: AtHome) -> None:
    code = "import json; print(json.dumps({'rows': ['value %05d' % n for n in range(3000)]}))"
    done = at_home("submit", "-c", code, "--wait", "--fresh")
    assert len(json.loads(done.stdout)["rows"]) == 3000


def test_an_equal_job_shows_what_the_first_one_wrote(at_home: AtHome) -> None:
    code = "import sys; print('counting'); sys.stdout.buffer.write(b'\\xff\\n'); print('and', file=sys.stderr); 5"
    first = at_home("submit", "-c", code, "--wait", "--quiet")
    assert (first.stdout, first.stderr) == (b"counting\n\xff\n", b"and\n")
    again = at_home("submit", "-c", code, "--wait", "--quiet")
    assert (again.stdout, again.stderr) == (first.stdout, first.stderr)
    second = at_home.json("ps", "--all")["executions"][0]["id"]
    for words in (("logs", second), ("logs", "-f", second), ("exec", "-c", code, "--quiet")):
        done = at_home(*words)
        assert (done.stdout, done.stderr) == (first.stdout, first.stderr), words
    result = at_home.json("show", second)["result"]
    assert result["from_cache"]
    assert base64.b64decode(result["stdout"]["base64"]) == first.stdout
    assert result["stderr"]["text"] == "and\n"
