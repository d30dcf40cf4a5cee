"""What work writes costs what it weighs, and comes back as it was written."""

from __future__ import annotations

import base64
import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import AtHome, ContractWriter, environment, only_line, praxis_after

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


NO_WATCHES = """
import errno, os, selectors, stat
register = selectors.EpollSelector.register
def refuse_pipes(self, fileobj, events, data=None):
    fd = fileobj if isinstance(fileobj, int) else fileobj.fileno()
    if stat.S_ISFIFO(os.fstat(fd).st_mode):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    return register(self, fileobj, events, data)
selectors.EpollSelector.register = refuse_pipes
"""


@pytest.mark.parametrize("engine", ["sandbox", "local", "job"])
def test_a_host_without_epoll_watches_is_the_platforms_trouble(
    at_home: AtHome, write_contract: ContractWriter, engine: str
) -> None:
    trust = "trusted" if engine == "local" else "untrusted"
    contract = write_contract("echo x", engine="local" if engine == "job" else engine, trust=trust)
    words = ("exec", "-c", "1") if engine == "job" else ("run", contract)
    done = praxis_after(NO_WATCHES, *words, env=at_home.variables)
    assert (done.returncode, done.stdout) == (3, b"")
    assert "output cannot be read: No space left on device" in only_line(done.stderr)
    failure = at_home.json("show", the_id(at_home))["execution"]["failure"]
    assert (failure["category"], failure["error_type"]) == ("INTERNAL_ERROR", "transient")


# Says at its end what the kernel counted as its peak of memory, in KiB.
WITH_PEAK = """
import atexit, os, re
def say():
    peak = re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]
    open(os.environ["PEAK_FILE"], "w").write(peak)
atexit.register(say)
"""


def peak_mib(at_home: AtHome, *words: str | Path, stdout: int = subprocess.DEVNULL) -> float:
    """Run the command and return its peak of memory in MiB."""
    file = at_home.cwd / "peak"
    code = f"import sys\n{WITH_PEAK}\nfrom praxis_sdk.cli.main import main\nsys.exit(main(sys.argv[1:]))"
    subprocess.run(
        [sys.executable, "-c", code, *words],
        env=environment(**at_home.variables, PEAK_FILE=str(file)),
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        check=False,
        timeout=100,
    )
    return int(file.read_text()) / 1024


def test_much_output_never_sits_in_memory(at_home: AtHome, write_contract: ContractWriter) -> None:
    code = "import sys\nfor _ in range(300): sys.stdout.write('x' * (1 << 20))"
    contract = write_contract(spec=python(code), engine="sandbox", trust="untrusted")
    least = peak_mib(at_home, "run", write_contract("true", file="least.yaml"))
    assert peak_mib(at_home, "run", contract) < least + 60
    assert peak_mib(at_home, "submit", "--tool", contract, "--wait") < least + 90
    local = write_contract(spec=python(code), file="local.yaml")
    assert peak_mib(at_home, "run", local) < least + 60
    assert peak_mib(at_home, "run", contract, "--json") < least + 150
    assert database_bytes(at_home.home) < 4 * 19 * MIB
    one = at_home.json("ps", "--all")["executions"][0]["id"]
    assert peak_mib(at_home, "logs", one) < least + 60
    assert peak_mib(at_home, "logs", one, "--json") < least + 60


def test_a_job_that_writes_much_never_sits_in_memory(at_home: AtHome) -> None:
    least = peak_mib(at_home, "exec", "-c", "1")
    code = "import sys\nfor _ in range(60): sys.stdout.write('x' * (1 << 20))"
    assert peak_mib(at_home, "exec", "-c", code, "--stdout-limit", "64M") < least + 130
    assert database_bytes(at_home.home) < 20 * MIB


def test_a_reader_that_stops_holds_the_work_up_and_fills_no_memory(
    at_home: AtHome, write_contract: ContractWriter
) -> None:
    # It says on stderr how far it is each time it wrote a MiB; nobody reads what it writes to stdout.
    code = "import sys\nfor n in range(300): sys.stdout.write('x' * (1 << 20)); print(n, file=sys.stderr)"
    contract = write_contract(spec={**python(code), "timeout": 5}, engine="sandbox", trust="untrusted")
    process = at_home.start("run", contract)
    found: list[dict[str, object]] = []
    while not found:
        found = at_home.json("ps", "--all")["executions"]
    said = at_home("logs", "-f", str(found[0]["id"])).stderr.split()
    status = Path(f"/proc/{process.pid}/status").read_text()
    process.stdout.close()
    process.stderr.close()
    assert process.wait(timeout=60) == 141
    assert int(said[-1]) < 20
    assert int(status.split("VmHWM:")[1].split()[0]) / 1024 < peak_mib(at_home, "ps") + 60
    assert at_home.json("ps", "--all")["executions"][0]["status"] == "timed_out"


def test_an_equal_job_through_the_queue_names_its_artifacts(at_home: AtHome) -> None:
    code = "open('table.csv', 'w').write('a,b\\n1,2\\n'); 5"
    first = at_home("submit", "-c", code, "--wait").stderr.decode()
    again = at_home("submit", "-c", code, "--wait").stderr.decode()
    shown = [line for line in first.splitlines() if "table.csv" in line or "output: 5" in line]
    assert len(shown) == 2
    assert [line for line in again.splitlines() if line in shown] == shown


def test_output_of_an_earlier_attempt_is_kept_apart(at_home: AtHome, tmp_path: Path) -> None:
    code = "import os, sys; print('try', end=''); sys.stdout.flush(); os.kill(os.getpid(), 11)"
    submission = {
        "kind": "tool",
        "request": {
            "contract": {"name": "crash", "engine": "sandbox", "engineSpec": python(code)},
        },
        "retry": {"max_retries": 1, "first_pause_s": 0.1, "retry_on": ["crash"]},
    }
    file = tmp_path / "crash.json"
    file.write_text(json.dumps(submission))
    at_home("submit", file, "--wait")
    found = at_home.json("show", the_id(at_home))
    assert len(found["attempts"]) == 2
    assert found["result"]["stdout"] == "try"
    lines = at_home("logs", the_id(at_home), "--json").stdout.splitlines()
    said = [json.loads(line) for line in lines]
    assert [line["message"] for line in said if line["component"] == "work"] == ["try", "try"]
