"""The services that other tests rely on are real, private, and gone with their user."""

import json
import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import aiodocker

from devservices import CHECKOUT
from devservices.ordinary_user import OrdinaryUser, copy_interpreter

WITH_DOCKER = [sys.executable, str(CHECKOUT / "scripts/with_docker.py")]


async def test_docker_runs_a_container_of_the_made_image_without_network(docker_host: str) -> None:
    code = "import os, platform; print(platform.python_version(), os.listdir('/sys/class/net'))"
    async with aiodocker.Docker(url=docker_host) as docker:
        container = await docker.containers.create(
            {
                "Image": "python:3.11-slim",
                "Cmd": ["python", "-c", code],
                "HostConfig": {"NetworkMode": "none"},
            }
        )
        try:
            await container.start()
            ended = await container.wait()
            output = "".join(await container.log(stdout=True, stderr=True))
        finally:
            await container.delete(force=True)
    assert ended["StatusCode"] == 0, output
    version, interfaces = output.split(maxsplit=1)
    assert version.startswith("3.11.")
    assert "eth0" not in interfaces


async def test_docker_is_not_the_machines_own(docker_host: str) -> None:
    async with aiodocker.Docker(url=docker_host) as docker:
        information = await docker.system.info()
        images = await docker.images.list()
    assert Path(information["DockerRootDir"]).is_relative_to(CHECKOUT / ".cache")
    assert ["python:3.11-slim"] in [image["RepoTags"] for image in images]


def test_docker_environment_names_the_daemon(docker_environment: str) -> None:
    assert os.environ["DOCKER_HOST"] == docker_environment


def test_killed_user_leaves_no_docker_process() -> None:
    work = ["docker", "run", "python:3.11-slim", "sh", "-c", "echo ready; sleep 3600"]
    process = subprocess.Popen([*WITH_DOCKER, *work], stdout=subprocess.PIPE, text=True)
    assert process.stdout
    try:
        assert process.stdout.readline() == "ready\n"
        family = dict(descendants(process.pid))
        assert {"dockerd", "containerd", "sh"} <= set(family.values())
        watched = {os.pidfd_open(pid): name for pid, name in family.items()}
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
    while watched:
        dead, _, _ = select.select(watched, [], [], 30)
        assert dead, f"still alive: {sorted(watched.values())}"
        for pidfd in dead:
            del watched[pidfd]
            os.close(pidfd)


def descendants(pid: int) -> list[tuple[int, str]]:
    """Return (pid, name) of all processes below one, as this PID namespace numbers them."""
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in map(int, (task / "children").read_text().split()):
            found += [(child, Path(f"/proc/{child}/comm").read_text().strip()), *descendants(child)]
    return found


def test_with_docker_passes_the_commands_exit_status_on() -> None:
    ended = subprocess.run([*WITH_DOCKER, "bash", "-c", "docker version >/dev/null && exit 7"], check=False)
    assert ended.returncode == 7


def test_ordinary_user_has_no_privileges(ordinary_user: OrdinaryUser) -> None:
    code = (
        "import os, json; print(json.dumps([os.getuid(), os.getgroups(), open('/proc/self/status').read()]))"
    )
    ended = ordinary_user.run_python(code)
    assert ended.returncode == 0, ended.stderr
    uid, groups, status = json.loads(ended.stdout)
    assert uid == ordinary_user.uid != 0
    assert groups in ([], [uid]) or os.geteuid() != 0
    assert "CapEff:\t0000000000000000" in status


def test_ordinary_user_runs_praxis_code_with_its_dependencies(ordinary_user: OrdinaryUser) -> None:
    code = "import praxis_sdk, pydantic, aiodocker, jsonschema_rs, pyseccomp; print(praxis_sdk.__file__)"
    ended = ordinary_user.run_python(code)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.startswith(str(ordinary_user.checkout))


def test_ordinary_user_runs_tests(ordinary_user: OrdinaryUser) -> None:
    ended = ordinary_user.run_pytest(
        f"tests/test_services.py::{test_ordinary_user_has_no_privileges.__name__}"
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "1 passed" in ended.stdout


def test_ordinary_user_writes_to_a_directory_of_its_own(ordinary_user: OrdinaryUser) -> None:
    directory = ordinary_user.make_directory("a-test")
    ended = ordinary_user.run(["sh", "-c", "echo hello >file"], cwd=directory)
    assert ended.returncode == 0, ended.stderr
    assert (directory / "file").read_text() == "hello\n"


def test_copied_interpreter_works(ordinary_user: OrdinaryUser, tmp_path: Path) -> None:
    own = Path(sys.base_prefix, "bin", f"python{sys.version_info.major}.{sys.version_info.minor}")
    copy = copy_interpreter(own, tmp_path / "python")
    ended = subprocess.run(
        [copy, "-I", "-c", "import ssl, sys; print(sys.prefix)"], capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.strip()


def test_system_packages_are_silent_when_all_is_there() -> None:
    script = CHECKOUT / "scripts/system-packages"
    ended = subprocess.run([script, "test"], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")
