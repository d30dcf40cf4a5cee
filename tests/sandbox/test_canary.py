"""The self-attack finds nothing in a whole sandbox, and names what it finds in a broken one."""

import dataclasses

import pytest

from praxis_sdk.errors import IsolationUnavailable
from praxis_sdk.sandbox import Launcher
from praxis_sdk.sandbox.client import canary, connection

from .test_zygote import ZYGOTE, launched

UNVERIFIED = (
    "import os\n"
    "from praxis_sdk.sandbox import kernel\n"
    "from praxis_sdk.sandbox.init import baseroot, lockdown, mounts, verify\n"
    "from praxis_sdk.sandbox.init import main as init\n"
    "from praxis_sdk.sandbox.launcher import main as launcher, spawner\n"
    "verify.verify = lambda *_: None\n"
    "verify.verify_descriptors = lambda *_: None\n"
)
FAULTS = {
    "the network is the host's": ("spawner.ISOLATION &= ~kernel.CLONE_NEWNET", "of the host was reached"),
    "capabilities are kept": (
        "lockdown.STEPS = tuple(s for s in lockdown.STEPS if s.__name__ != 'drop_capabilities')",
        "capabilities in",
    ),
    "no filter is installed": (
        "lockdown.STEPS = tuple(s for s in lockdown.STEPS if s.__name__ != 'filter_system_calls')",
        "no system-call filter",
    ),
    "a file of the host is shown": (
        (
            "baseroot.ETC_ENTRIES = (*baseroot.ETC_ENTRIES, '/etc/shadow')\n"
            "baseroot._small_file = lambda path: b''\n"
            "baseroot._is_small_file = lambda path, real=baseroot._is_small_file: path == '/etc/shadow' or real(path)"
        ),
        "/etc/shadow can be read",
    ),
    "the root can be written to": (
        (
            "baseroot.ROOT_OPTIONS = baseroot.ROOT_OPTIONS.replace('755', '777')\n"
            "kernel.mount_setattr = lambda where, attributes, real=kernel.mount_setattr, **more:"
            " real(where, attributes & ~1, **more)"
        ),
        "/ can be written to",
    ),
    "a descriptor leaks": (
        "kernel.close_range = lambda *_: None\nos.dup2 = lambda a, b, inheritable=True, real=os.dup2: real(a, b)",
        "is open",
    ),
    "the host's name is shown": (
        "lockdown.STEPS = tuple(s for s in lockdown.STEPS if s.__name__ != 'rename_host')",
        "the host's name is visible",
    ),
    "the attack is cut short": (
        "init.spawn = lambda *_: os.posix_spawn('/bin/false', ['false'], {})",
        "carried out",
    ),
}


async def test_a_whole_sandbox_withstands_the_attack(launcher: Launcher) -> None:
    await canary.check(launcher)


async def test_a_child_of_the_zygote_withstands_the_attack() -> None:
    async with launched(dataclasses.replace(ZYGOTE, preload=())) as launcher:
        await canary.check(launcher, zygote=True)


@pytest.mark.parametrize("name", FAULTS)
async def test_a_broken_sandbox_is_refused(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    code, reason = FAULTS[name]
    monkeypatch.setattr(connection, "_MAIN", f"{UNVERIFIED}{code}\n{connection._MAIN}")
    async with await Launcher.start() as launcher:
        with pytest.raises(IsolationUnavailable, match=reason):
            await canary.check(launcher)
