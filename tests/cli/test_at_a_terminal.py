"""What people see on a terminal, and that tools cannot take it over."""

from __future__ import annotations

import json
import os
import pty
import struct
import subprocess
import termios
from fcntl import ioctl
from pathlib import Path

import pytest

from tests.cli.conftest import COMMAND, ContractWriter, environment, ready_for_signals


def at_terminal(*words: str | Path, columns: int = 80, **variables: str) -> tuple[int, str]:
    """Run the command with a terminal for all its streams; returns exit status and what it showed."""
    ours, theirs = pty.openpty()
    ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    process = subprocess.Popen(
        [*COMMAND, *words],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=environment(**variables),
        preexec_fn=ready_for_signals,
    )
    os.close(theirs)
    shown = b""
    while True:
        try:
            shown += os.read(ours, 65536)
        except OSError:  # EIO: nobody is left who could write
            break
    os.close(ours)
    return process.wait(60), shown.decode().replace("\r\n", "\n")


@pytest.mark.parametrize("stream", ["1", "2"])
def test_escape_sequences_of_a_tool_are_shown_and_not_obeyed(
    write_contract: ContractWriter, stream: str
) -> None:
    script = (
        rf"printf '\033]0;owned\007\033[2J\302\233H 50%%\r99%%\n\342\200\256txt\tgr\303\274n\n' >&{stream}"
    )
    status, shown = at_terminal("run", write_contract(script), "--quiet")
    assert status == 0
    assert shown == "\\x1b]0;owned\\x07\\x1b[2J\\x9bH 50%\n99%\n\\u202etxt\tgrün\n"


def test_kept_output_is_shown_and_not_obeyed(write_contract: ContractWriter, tmp_path: Path) -> None:
    home = str(tmp_path / "home")
    contract = write_contract(r"printf '\033]0;owned\007\302\233H\342\200\256txt'")
    submission = tmp_path / "batch.json"
    request = {"contract": json.loads(contract.read_text()), "trusted": True}
    submission.write_text(json.dumps({"name": "b", "submissions": [{"kind": "tool", "request": request}]}))
    environ = environment(PRAXIS_HOME=home)
    subprocess.run([*COMMAND, "batch", "submit", submission, "--wait"], env=environ, check=True)
    listed = subprocess.run([*COMMAND, "ps", "--all", "--json"], env=environ, capture_output=True, check=True)
    one = json.loads(listed.stdout)["executions"][0]["id"]
    for words in (
        ("logs", one),
        ("logs", one, "--type", "log"),
        ("logs", one, "--json"),
        ("show", one),
        ("show", one, "--json"),
        ("batch", "report", "b"),
    ):
        status, shown = at_terminal(*words, PRAXIS_HOME=home)
        assert status == 0, words
        assert not set(shown) & set("\x1b\x07\x9b\u202e"), words


def test_characters_cut_between_two_writes_are_put_together(
    write_contract: ContractWriter, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    script = rf"printf 'gr\303'; read _ < {gate}; printf '\274n\n'"
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [*COMMAND, "run", write_contract(script), "-q"], stdout=theirs, env=environment()
    )
    os.close(theirs)
    shown = os.read(ours, 100)
    assert shown == b"gr"
    gate.write_text("go on\n")
    while not shown.endswith(b"\n"):
        shown += os.read(ours, 100)
    assert process.wait(60) == 0
    os.close(ours)
    assert shown.decode() == "grün\r\n"


def test_the_summary_starts_a_line_and_has_a_colour(write_contract: ContractWriter) -> None:
    status, shown = at_terminal("run", write_contract("printf unfinished"))
    assert status == 0
    first, summary = shown.splitlines()
    assert first == "unfinished"
    assert summary.startswith("\x1b[32mpraxis:\x1b[0m tool completed")


@pytest.mark.parametrize("variables", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_colour_can_be_refused(write_contract: ContractWriter, variables: dict[str, str]) -> None:
    assert "\x1b" not in at_terminal("run", write_contract("exit 1"), **variables)[1]
    assert "\x1b" not in at_terminal("engines", **variables)[1]


def test_what_contracts_say_of_themselves_is_made_safe(
    write_contract: ContractWriter, tmp_path: Path
) -> None:
    write_contract(name="t‮ool", description="one\x1b[2J\ntwo")
    status, shown = at_terminal("tools", tmp_path, NO_COLOR="1", columns=120)
    assert status == 0
    assert "\\u202e" in shown
    assert "one\\x1b[2J" in shown
    assert "\x1b" not in shown
    assert "‮" not in shown


def test_tables_fit_a_narrow_terminal(write_contract: ContractWriter, tmp_path: Path) -> None:
    write_contract(description="words " * 60, file="a/long/way/down/the/tree/of/directories/contract.yaml")
    for words in (("tools", tmp_path), ("engines",)):
        table = at_terminal(*words, columns=80, NO_COLOR="1")[1].split("\n\n")[0]
        assert max(len(line) for line in table.splitlines()) <= 80


def test_a_job_cannot_take_the_terminal_over(home: Path) -> None:
    code = r"print('\x1b[2Jshown \u202e'); {'value': '\x1b[2J'}"
    status, shown = at_terminal("exec", "-c", code, PRAXIS_HOME=str(home))
    assert status == 0
    assert shown.startswith("\\x1b[2Jshown \\u202e\n")
    assert "\x1b[2J" not in shown
    assert 'output: {"value": "\\u001b[2J"}' in shown
