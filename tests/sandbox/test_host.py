"""The report on this host is true: what it calls available works, and what it misses has a remedy."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from praxis_sdk.sandbox import Launcher, features
from praxis_sdk.sandbox.host import features as host_module

from .conftest import Run


async def test_the_report_agrees_with_what_the_launcher_enforces(launcher: Launcher) -> None:
    found = {feature.name: feature for feature in features()}
    enforcement = launcher.enforcement
    assert found["host-ids"].available == enforcement.privileged
    assert found["cgroup-memory"].available == (enforcement.memory == "cgroup")
    assert found["cgroup-pids"].available == (enforcement.processes == "cgroup")
    assert found["cgroup-cpu"].available == enforcement.cpu_quota


async def test_a_host_that_builds_sandboxes_misses_nothing_required(run: Run) -> None:
    assert (await run(["true"])).ok
    assert host_module.missing(features()) == ()


def test_every_missing_required_feature_has_a_remedy() -> None:
    for feature in features():
        assert feature.detail
        assert feature.available or feature.remedy or not feature.required


def test_examining_the_host_leaves_nothing() -> None:
    children = Path("/proc/self/task", str(os.getpid()), "children")
    before = children.read_text()
    features()
    assert " probe " not in Path("/proc/self/mountinfo").read_text()
    assert children.read_text() == before


def test_a_host_without_user_namespaces_is_reported_with_the_remedy() -> None:
    # A user namespace of its own has a limit of its own, so nobody else notices.
    code = (
        "import os, sys\n"
        "from praxis_sdk.sandbox import kernel\nfrom praxis_sdk.sandbox.host.features import features\n"
        "from praxis_sdk.sandbox.init.idmap import write_map\n"
        "uid, gid = os.getuid(), os.getgid()\n"
        "kernel.unshare(kernel.CLONE_NEWUSER)\n"
        "write_map('self', 'setgroups', 'deny')\n"
        "write_map('self', 'uid_map', f'0 {uid} 1'); write_map('self', 'gid_map', f'0 {gid} 1')\n"
        "open('/proc/sys/user/max_user_namespaces', 'w').write('0')\n"
        "found = {f.name: f for f in features()}\n"
        "f = found['user-namespaces']\n"
        "print(f.available, f.remedy)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.startswith("False sysctl -w user.max_user_namespaces"), done


def test_a_missing_libseccomp_names_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    from praxis_sdk.sandbox.init import seccomp

    monkeypatch.setitem(sys.modules, "pyseccomp", None)
    seccomp.compile_filter.cache_clear()
    try:
        (library,) = [feature for feature in features() if feature.name == "libseccomp"]
    finally:
        seccomp.compile_filter.cache_clear()
    assert not library.available
    assert "libseccomp2" in library.remedy
