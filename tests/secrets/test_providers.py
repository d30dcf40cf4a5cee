"""Where secrets come from: files, variables, a command, memory."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from praxis_sdk.errors import ValidationError
from praxis_sdk.secrets import (
    CommandSecrets,
    FileSecrets,
    GivenSecrets,
    SecretSources,
    SecretUnavailable,
    given_name,
)


def test_a_kept_secret_is_read_back_and_only_its_owner_can_read_the_file(tmp_path: Path) -> None:
    store = FileSecrets(tmp_path / "secrets")
    store.put("db.password", "hunter22")
    store.put("db.password", "hunter23\nsecond line")
    found = store.get("db.password")
    assert found is not None
    assert found.value == "hunter23\nsecond line"
    assert found.version
    assert "hunter" not in repr(found)
    assert (tmp_path / "secrets/db.password").stat().st_mode & 0o077 == 0
    assert (tmp_path / "secrets").stat().st_mode & 0o077 == 0
    assert [name for name, _ in store.names()] == ["db.password"]
    assert store.remove("db.password")
    assert not store.remove("db.password")
    assert store.get("db.password") is None


def test_one_line_end_is_not_part_of_a_secret_that_an_editor_wrote(tmp_path: Path) -> None:
    (tmp_path / "token").write_bytes(b"abc def \r\n")
    (tmp_path / "token").chmod(0o600)
    found = FileSecrets(tmp_path).get("token")
    assert found is not None
    assert found.value == "abc def "


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "a/b", ".hidden", "x" * 129, "a b", "é"])
def test_a_name_that_could_leave_the_folder_is_refused(tmp_path: Path, name: str) -> None:
    store = FileSecrets(tmp_path)
    with pytest.raises(ValidationError, match="not a valid name"):
        store.put(name, "v")
    with pytest.raises(ValidationError, match="not a valid name"):
        store.get(name)


@pytest.mark.parametrize("value", ["", "a\0b", "x" * ((64 << 10) + 1)])
def test_a_value_that_no_tool_could_get_is_refused(tmp_path: Path, value: str) -> None:
    with pytest.raises(ValidationError, match="secret 'token'"):
        FileSecrets(tmp_path).put("token", value)


def test_a_file_that_every_user_can_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("hunter22")
    (tmp_path / "token").chmod(0o644)
    with pytest.raises(SecretUnavailable, match="every user") as raised:
        FileSecrets(tmp_path).get("token")
    assert "chmod 600" in raised.value.remedy


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_what_is_not_a_regular_file_is_refused_at_once(tmp_path: Path, make) -> None:
    make(tmp_path / "token")
    with pytest.raises(SecretUnavailable):
        FileSecrets(tmp_path).get("token")


def test_the_first_place_that_has_a_secret_answers(tmp_path: Path) -> None:
    FileSecrets(tmp_path).put("api-key", "from the file")
    FileSecrets(tmp_path).put("other", "from the file")
    sources = SecretSources.of(tmp_path, {"PRAXIS_SECRET_API_KEY": "from the variable"})
    assert sources.get("api-key").value == "from the variable"
    assert sources.get("other").source == "file"
    with pytest.raises(SecretUnavailable, match="no such secret") as raised:
        sources.get("missing")
    assert raised.value.remedy == "praxis secret set missing"


def test_an_operators_command_is_asked_with_the_name_as_one_word(tmp_path: Path) -> None:
    script = tmp_path / "vault.py"
    script.write_text(
        "import sys\nprint('value of', sys.argv[1]) if sys.argv[1] != 'none' else sys.exit(1)\n"
    )
    sources = SecretSources.of(tmp_path, {"PRAXIS_SECRET_COMMAND": f"{sys.executable} {script} {{name}}"})
    assert sources.get("token").value == "value of token"
    with pytest.raises(SecretUnavailable, match="no such secret"):
        sources.get("none")


def test_a_command_that_never_answers_is_ended_with_all_that_it_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("praxis_sdk.secrets.providers.COMMAND_TIMEOUT_S", 0.2)
    fifo = tmp_path / "held"
    os.mkfifo(fifo)
    reading = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    command = CommandSecrets(["sh", "-c", f"exec 9>{fifo}; sleep 600 & wait", "{name}"])
    with pytest.raises(SecretUnavailable, match="did not answer"):
        command.get("token")
    assert os.read(reading, 1) == b""  # the end of the file: no process holds it open for writing
    os.close(reading)


@pytest.mark.parametrize("line", ["vault get", "vault 'get {name}", "{name}"])
def test_a_command_that_does_not_say_where_the_name_goes_is_refused(line: str) -> None:
    with pytest.raises(ValidationError, match="PRAXIS_SECRET_COMMAND"):
        CommandSecrets.of(line)


def test_a_given_value_is_gone_with_its_process(tmp_path: Path) -> None:
    name, given = given_name(), GivenSecrets()
    given.add(name, "hunter22")
    assert SecretSources.of(tmp_path, {}, given).get(name).value == "hunter22"
    with pytest.raises(SecretUnavailable, match="gone with the command"):
        SecretSources.of(tmp_path, {}).get(name)
