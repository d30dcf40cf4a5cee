"""What a sandbox sees of the host, what it may write, and what is handed over afterwards."""

import os
from pathlib import Path

import pytest

from praxis_sdk.sandbox import Bind, Launcher, Limits, Policy, PolicyError

from .conftest import MIB, Run


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A directory of the user who runs the tests, closed to others."""
    source = tmp_path / "source"
    (source / "sub").mkdir(parents=True)
    (source / "a.txt").write_text("a")
    (source / "b.txt").write_text("b")
    (source / "sub" / "c.txt").write_text("c")
    (source / "secret").write_text("s")
    (source / "secret").chmod(0o600)
    source.chmod(0o700)
    return source


def snapshot(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): path.read_text()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


async def test_a_readonly_mount_can_be_read_by_its_owner_and_not_written(run: Run, folder: Path) -> None:
    policy = Policy(mounts=(Bind(folder, "/in"),))
    result = await run(
        ["sh", "-c", "cat /in/a.txt /in/sub/c.txt /in/secret; stat -c %u /in; echo x > /in/new"], policy
    )
    assert result.output.startswith("acs1000\n")
    assert "Read-only" in result.output
    assert snapshot(folder).keys() == {"a.txt", "b.txt", "sub/c.txt", "secret"}


async def test_a_writable_mount_hands_over_what_changed_and_spares_the_host(run: Run, folder: Path) -> None:
    before = snapshot(folder)
    script = "echo new > new; echo more >> a.txt; rm b.txt; echo d > sub/d.txt; cat secret; mkdir e; ls"
    result = await run(["sh", "-c", script], Policy(mounts=(Bind(folder, "/workspace", writable=True),)))
    assert result.ok, result
    assert result.output.split() == ["sa.txt", "e", "new", "secret", "sub"]
    assert result.written == {
        "/workspace": {"new": b"new\n", "a.txt": b"amore\n", "b.txt": b"<deleted>", "sub/d.txt": b"d\n"}
    }
    assert snapshot(folder) == before


async def test_a_replaced_directory_is_marked_opaque(launcher: Launcher, folder: Path) -> None:
    policy = Policy(mounts=(Bind(folder, "/out", writable=True),))
    command = ["sh", "-c", "rm -r /out/sub && mkdir /out/sub && echo z > /out/sub/z"]
    with await launcher.spawn(policy, command) as sandbox:
        assert (await sandbox.wait()).ok
        (harvest,) = [item for item in sandbox.harvest if item.target == "/out"]
        assert harvest.kind == "overlay"
        fd = os.open("sub", os.O_RDONLY | os.O_DIRECTORY, dir_fd=harvest.fd)
        assert os.listdir(fd) == ["z"]
        assert os.getxattr(fd, "user.overlay.opaque") == b"y"
        os.close(fd)


async def test_writable_mounts_share_the_scratch_budget(run: Run, folder: Path) -> None:
    policy = Policy(mounts=(Bind(folder, "/out", writable=True),), limits=Limits(scratch_bytes=4 * MIB))
    result = await run(["sh", "-c", "head -c 3m /dev/zero > /tmp/x; head -c 3m /dev/zero > /out/y"], policy)
    assert "No space left" in result.output


async def test_a_readonly_file_can_be_mounted(run: Run, folder: Path) -> None:
    policy = Policy(mounts=(Bind(folder / "secret", "/conf/token"),))
    result = await run(["sh", "-c", "cat /conf/token; echo x > /conf/token"], policy)
    assert result.output.startswith("s")
    assert not result.ok


async def test_a_writable_file_is_a_copy_that_is_handed_over(
    run: Run, launcher: Launcher, folder: Path
) -> None:
    policy = Policy(mounts=(Bind(folder / "secret", "/conf/token", writable=True),))
    result = await run(["sh", "-c", "cat /conf/token; echo changed > /conf/token"], policy)
    assert result.output == "s"
    assert result.written["/conf/token"] == {"secret": b"changed\n"}
    assert (folder / "secret").read_text() == "s"


@pytest.mark.parametrize("outer_writable", [False, True])
@pytest.mark.parametrize("inner_writable", [False, True])
@pytest.mark.parametrize("exists", [False, True])
@pytest.mark.parametrize("swapped", [False, True])
async def test_a_mount_below_another_works(
    run: Run,
    folder: Path,
    tmp_path: Path,
    outer_writable: bool,
    inner_writable: bool,
    exists: bool,
    swapped: bool,
) -> None:
    inner = tmp_path / "inner"
    inner.mkdir()
    (inner / "tool").write_text("tool")
    if exists:
        (folder / "x/tools").mkdir(parents=True)
        (folder / "x/tools/hidden").write_text("h")
    binds = (Bind(folder, "/shared", outer_writable), Bind(inner, "/shared/x/tools", inner_writable))
    policy = Policy(mounts=binds[::-1] if swapped else binds)
    script = (
        "cat /shared/a.txt /shared/x/tools/tool; ls /shared/x/tools;"
        "(echo i > /shared/x/tools/i; echo o > /shared/o) 2>&-"
    )
    result = await run(["sh", "-c", script], policy)
    assert result.output == "atooltool\n"
    expected: dict[str, dict[str, bytes]] = {"/workspace": {}}
    if outer_writable:
        expected["/shared"] = {"o": b"o\n"}
    if inner_writable:
        expected["/shared/x/tools"] = {"i": b"i\n"}
    assert result.written == expected
    assert (folder / "x").exists() == exists


async def test_a_file_below_a_directory_mount_works(run: Run, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "conf").write_text("conf")
    for target in ("/in/new.conf", "/in/a.txt"):
        policy = Policy(mounts=(Bind(folder, "/in"), Bind(tmp_path / "conf", target)))
        assert (await run(["cat", target, "/in/b.txt"], policy)).output == "confb"


async def test_mounts_in_scratch_space_work(run: Run, folder: Path) -> None:
    policy = Policy(
        mounts=(
            Bind(folder, "/tmp/in"),
            Bind(folder, "/workspace/deep/in"),
            Bind(folder / "a.txt", "/workspace/f"),
        )
    )
    result = await run(["sh", "-c", "cat /tmp/in/a.txt /workspace/deep/in/b.txt f; echo x > /tmp/y"], policy)
    assert (result.ok, result.output) == (True, "aba")


async def test_a_working_directory_below_a_mount_is_scratch_space(run: Run, folder: Path) -> None:
    policy = Policy(mounts=(Bind(folder, "/shared"),), workdir="/shared/job")
    result = await run(["sh", "-c", "pwd; cat ../a.txt; echo x > y"], policy)
    assert result.output == "/shared/job\na"
    assert result.written == {"/shared/job": {"y": b"x\n"}}


async def test_the_users_link_is_followed_once(run: Run, folder: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(folder)
    result = await run(["cat", "/in/a.txt"], Policy(mounts=(Bind(link, "/in"),)))
    assert result.output == "a"


async def test_a_link_inside_a_mount_leads_nowhere_on_the_host(
    run: Run, folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "outside").write_text("outside")
    (folder / "link").symlink_to(tmp_path / "outside")
    result = await run(["cat", "/in/link"], Policy(mounts=(Bind(folder, "/in"),)))
    assert "No such file" in result.output


async def test_a_link_in_the_way_of_a_mount_point_is_refused(run: Run, folder: Path) -> None:
    (folder / "x").symlink_to("/etc")
    with pytest.raises(PolicyError, match="/in/x/y"):
        await run(["true"], Policy(mounts=(Bind(folder, "/in"), Bind(folder, "/in/x/y"))))


async def test_a_mount_below_a_file_is_refused(run: Run, folder: Path) -> None:
    with pytest.raises(PolicyError, match="is a file"):
        await run(["true"], Policy(mounts=(Bind(folder / "a.txt", "/in"), Bind(folder, "/in/x"))))


async def test_a_directory_cannot_cover_a_file(run: Run, folder: Path) -> None:
    with pytest.raises(PolicyError, match="is a file on the host"):
        await run(["true"], Policy(mounts=(Bind(folder, "/in"), Bind(folder, "/in/a.txt"))))


async def test_a_missing_source_is_refused(run: Run, tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match="nothing-here"):
        await run(["true"], Policy(mounts=(Bind(tmp_path / "nothing-here", "/in"),)))


async def test_a_source_that_is_no_file_is_refused(run: Run, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for source in (tmp_path / "fifo", Path("/dev/null")):
        with pytest.raises(PolicyError, match="neither"):
            await run(["true"], Policy(mounts=(Bind(source, "/in"),)))


@pytest.mark.parametrize(
    "target",
    [
        "relative",
        "/",
        "//x",
        "/a/../b",
        "/a/",
        "/a//b",
        "/proc",
        "/proc/self",
        "/dev/shm",
        "/sys",
        "/etc/passwd",
        "/usr",
        "/usr/local/x",
        "/bin",
        "/lib64",
        "/run/praxis/x",
        "/run",
        "",
        "/a\0b",
    ],
)
def test_a_target_that_belongs_to_the_sandbox_is_refused(target: str) -> None:
    with pytest.raises(PolicyError):
        Policy(mounts=(Bind(Path("/tmp"), target),))


def test_two_mounts_on_one_target_are_refused() -> None:
    with pytest.raises(PolicyError, match="two mounts"):
        Policy(mounts=(Bind(Path("/tmp"), "/in"), Bind(Path("/var"), "/in")))


@pytest.mark.parametrize("field", ["cpu_seconds", "memory_bytes", "processes", "open_files", "scratch_bytes"])
@pytest.mark.parametrize("value", [0, -1, 2**63, float("nan"), float("inf")])
def test_an_impossible_limit_is_refused(field: str, value: float) -> None:
    with pytest.raises(PolicyError, match=field):
        Limits(**{field: value})  # type: ignore[arg-type]
