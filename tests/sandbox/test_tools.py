"""Honest tools work as they do outside."""

import asyncio
import os
import shutil
import signal

import pytest

from praxis_sdk.sandbox import Launcher, Limits, Policy, PolicyError

from .conftest import MIB, Run, read_all


async def test_the_exit_code_of_the_tool_is_reported(run: Run) -> None:
    for code in (0, 1, 2, 125, 126, 127, 137, 255):
        result = await run(["sh", "-c", f"exit {code}"])
        assert (result.end.exit_code, result.end.signal, result.end.killed_by) == (code, None, None)


async def test_a_signal_that_ended_the_tool_is_reported(run: Run) -> None:
    result = await run(["sh", "-c", "kill -SEGV $$"])
    assert (result.end.exit_code, result.end.signal, result.end.killed_by) == (None, signal.SIGSEGV, None)


async def test_python_runs_and_knows_itself_as_an_ordinary_user(run: Run) -> None:
    result = await run(
        "import os, pwd, socket, tempfile, ssl, ctypes, sqlite3, multiprocessing\n"
        "print(os.getuid(), os.getgid(), pwd.getpwuid(os.getuid()).pw_name, os.getcwd(), socket.gethostname())\n"
        "print(multiprocessing.Pool(2).map(abs, [-1, -2]))\n"
        "open(tempfile.mkstemp()[1], 'w').write('x'); open('out', 'w').write('made')"
    )
    assert result.output.splitlines() == ["1000 1000 sandbox /workspace sandbox", "[1, 2]"]
    assert result.ok
    assert result.written["/workspace"] == {"out": b"made"}


@pytest.mark.parametrize(
    "command",
    [
        ["bash", "-c", "x=(1 2 3); cat <(echo ${x[1]}) | grep 2 && wait"],
        ["perl", "-e", "use POSIX; print floor(2.5), qq(\\n)"],
        ["awk", "BEGIN { print 1 + 1 }"],
        ["sh", "-c", "echo 'int main(void){return 42;}' > a.c && cc a.c -o a; ./a; test $? = 42"],
        ["sh", "-c", "tar cf a.tar /etc/passwd 2>/dev/null && gzip a.tar && zcat a.tar.gz | tar tf -"],
        ["sh", "-c", "ls -laR /etc /dev > /dev/null; ps aux; df /tmp; date; hostname; id"],
        ["node", "-e", "console.log([1,2].map(x => x * 2), process.version)"],
        ["pdflatex", "-version"],
    ],
    ids=lambda command: command[0] + str(len(command[-1])),
)
async def test_ordinary_programs_work(run: Run, command: list[str]) -> None:
    if shutil.which(command[0], path="/usr/local/bin:/usr/bin:/bin") is None:
        pytest.skip(
            f"this machine has no {command[0]}"
        )  # a tool of the host, not a service that Praxis starts
    result = await run(command, limits=Limits(memory_bytes=8192 * MIB))
    assert result.ok, result


async def test_a_command_that_does_not_exist_is_the_callers_mistake(run: Run) -> None:
    result = await run(["no-such-command"])
    assert result.end.spawn_error is not None
    assert (result.end.exit_code, result.end.spawn_error.errno) == (127, 2)
    assert "no-such-command" in result.end.spawn_error.message


async def test_a_file_that_is_not_executable_is_the_callers_mistake(run: Run) -> None:
    result = await run(["/etc/passwd"])
    assert result.end.spawn_error is not None
    assert (result.end.exit_code, result.end.spawn_error.errno) == (126, 13)


async def test_a_file_of_no_known_format_is_the_callers_mistake(run: Run, tmp_path) -> None:
    from praxis_sdk.sandbox import Bind

    script = tmp_path / "script"
    script.write_text("echo no interpreter line\n")
    script.chmod(0o755)
    result = await run(["/script"], Policy(mounts=(Bind(script, "/script"),)))
    assert result.end.spawn_error is not None
    assert (result.end.exit_code, result.end.spawn_error.errno) == (126, 8)


async def test_a_missing_working_directory_is_the_callers_mistake(run: Run) -> None:
    result = await run(["true"], cwd="/nowhere")
    assert result.end.spawn_error is not None
    assert result.end.spawn_error.errno == 2
    assert "/nowhere" in result.end.spawn_error.message


async def test_the_environment_is_the_callers_and_nothing_of_the_host(run: Run, monkeypatch) -> None:
    monkeypatch.setenv("HOST_SECRET", "hush")
    result = await run(["env"], env={"A": "1", "LANG": "C"})
    names = dict(line.split("=", 1) for line in result.output.splitlines())
    assert names.keys() == {"A", "LANG", "PATH", "HOME", "TMPDIR"}
    assert (names["A"], names["LANG"]) == ("1", "C")


async def test_odd_arguments_arrive_byte_for_byte(run: Run) -> None:
    odd = ["", " ", "a\nb", "é", "\udcff", "$(id)", "'", "-n"]
    result = await run(
        ["python", "-c", "import sys, os; print([os.fsencode(a) for a in sys.argv[1:]])", *odd]
    )
    assert result.output.strip() == repr([os.fsencode(text) for text in odd])


async def test_a_very_long_command_line_arrives(run: Run) -> None:
    words = ["x" * 1000] * 1500
    result = await run(["python", "-c", "import sys; print(sum(map(len, sys.argv[1:])))", *words])
    assert result.output.strip() == "1500000"


async def test_standard_input_reaches_the_tool(launcher: Launcher) -> None:
    in_reader, in_writer = os.pipe()
    out_reader, out_writer = os.pipe()
    with await launcher.spawn(Policy(), ["cat"], stdin=in_reader, stdout=out_writer) as sandbox:
        os.close(in_reader)
        os.close(out_writer)
        os.write(in_writer, b"through")
        os.close(in_writer)
        assert await read_all(out_reader) == b"through"
        assert (await sandbox.wait()).ok
    os.close(out_reader)


async def test_terminate_asks_the_tool_and_its_children(launcher: Launcher) -> None:
    reader, writer = os.pipe()
    script = "trap 'echo asked; exit 3' TERM; echo ready; sleep 1000 & wait"
    with await launcher.spawn(Policy(), ["sh", "-c", script], stdout=writer) as sandbox:
        os.close(writer)
        assert (await asyncio.to_thread(os.read, reader, 6)) == b"ready\n"
        sandbox.terminate()
        assert await read_all(reader) == b"asked\n"
        end = await sandbox.wait()
        assert (end.exit_code, end.killed_by) == (3, None)
    os.close(reader)


async def test_kill_ends_a_tool_that_ignores_every_signal(launcher: Launcher) -> None:
    reader, writer = os.pipe()
    script = "trap '' TERM INT HUP; echo ready; while :; do :; done"
    with await launcher.spawn(Policy(), ["sh", "-c", script], stdout=writer) as sandbox:
        os.close(writer)
        assert (await asyncio.to_thread(os.read, reader, 6)) == b"ready\n"
        sandbox.terminate()
        sandbox.kill()
        end = await sandbox.wait()
        assert (end.exit_code, end.signal, end.killed_by) == (None, signal.SIGKILL, None)
        sandbox.kill()
        sandbox.terminate()
        assert await sandbox.wait() == end
    os.close(reader)


async def test_signals_that_the_interpreter_ignores_have_their_defaults_again(run: Run) -> None:
    result = await run(["sh", "-c", "yes | head -1; grep -E 'Sig(Ign|Blk)' /proc/self/status"])
    first, _, blocked, _, ignored = result.output.split()
    assert (first, int(blocked, 16)) == ("y", 0)
    assert int(ignored, 16) & 0x7FFFFFFF == 0  # above: two of libc's own


async def test_usage_is_measured(run: Run) -> None:
    result = await run("x = bytearray(50_000_000)\nimport time\nwhile time.process_time() < 0.3: pass")
    assert 0.3 <= result.end.usage.cpu_seconds < 5
    assert result.end.usage.peak_memory_bytes >= 50_000_000
    assert result.end.usage.wall_seconds >= 0.3


@pytest.mark.parametrize("argv", [[], [""], ["a\0b"]])
async def test_an_impossible_command_line_is_refused(launcher: Launcher, argv: list[str]) -> None:
    with pytest.raises(PolicyError):
        await launcher.spawn(Policy(), argv)


async def test_the_smallest_memory_limit_ends_as_a_memory_limit_at_worst(run: Run) -> None:
    result = await run(["true"], limits=Limits(memory_bytes=4 * MIB))
    assert result.ok or result.end.killed_by == "memory", result
