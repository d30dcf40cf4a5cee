"""The lock-down is proven, not believed: a step that did not take effect means that nothing runs.

Each test starts a launcher in which one step has been sabotaged, and expects the refusal to name it.
"""

import os

import pytest

from praxis_sdk.errors import IsolationUnavailable
from praxis_sdk.sandbox import Launcher, Policy
from praxis_sdk.sandbox.client import connection

from .conftest import read_all

IMPORTS = (
    "import os\n"
    "from praxis_sdk.sandbox import kernel\n"
    "from praxis_sdk.sandbox.init import baseroot, lockdown, mounts, verify\n"
    "from praxis_sdk.sandbox.init import main as init\n"
    "from praxis_sdk.sandbox.launcher import main as launcher, spawner"
)
SABOTAGE = {
    "capabilities are kept": (
        "lockdown.STEPS = tuple(s for s in lockdown.STEPS if s.__name__ != 'drop_capabilities')",
        "CapEff",
    ),
    "only the effective capabilities are dropped": (
        ("kernel.empty_bounding_set = lambda last: None"),
        "CapBnd",
    ),
    "no filter is installed": (
        "lockdown.STEPS = tuple(s for s in lockdown.STEPS if s.__name__ != 'filter_system_calls')",
        "Seccomp",
    ),
    "new privileges are possible": (
        (
            # Without the bit the filter could not be installed either (and capabilities are gone by then).
            "lockdown.STEPS = tuple(s for s in lockdown.STEPS if s.__name__ not in"
            " ('forbid_new_privileges', 'filter_system_calls'))"
        ),
        "NoNewPrivs",
    ),
    "the network is the host's": (
        "spawner.ISOLATION &= ~kernel.CLONE_NEWNET",
        "net namespace is the launcher's",
    ),
    "the IPC objects are the host's": (
        "spawner.ISOLATION &= ~kernel.CLONE_NEWIPC",
        "ipc namespace is the launcher's",
    ),
    "the cgroups are the host's": (
        (
            "def all_but_cgroups(flags, real=kernel.unshare):\n"
            "    if flags != kernel.CLONE_NEWCGROUP: real(flags)\n"
            "kernel.unshare = all_but_cgroups"
        ),
        "cgroup namespace is the launcher's",
    ),
    "the loopback device is up": (
        (
            "def up(real=lockdown.lock_down):\n"
            "    def act(order):\n"
            "        import fcntl, socket, struct\n"
            "        with socket.socket() as s: fcntl.ioctl(s, 0x8914, struct.pack('16sh14x', b'lo', 1))\n"
            "        real(order)\n"
            "    return act\n"
            "lockdown.lock_down = up()"
        ),
        "lo is up",
    ),
    "the root is writable": (
        (
            "baseroot.kernel.mount_setattr = lambda where, attributes, real=kernel.mount_setattr, **more:"
            " real(where, attributes & ~1, **more)"
        ),
        "/usr is writable",
    ),
    "set-user-id works": (
        (
            "baseroot.kernel.mount_setattr = lambda where, attributes, real=kernel.mount_setattr, **more:"
            " real(where, attributes & ~2, **more)"
        ),
        "/usr honours set-user-id",
    ),
    "a descriptor of the launcher leaks": (
        "mounts.place = lambda *args, real=mounts.place: (os.open('/', os.O_RDONLY), real(*args))[1]",
        "is open",
    ),
    "a mount is missing": (
        "mounts.place = lambda *args, real=mounts.place: {**real(*args), '/forgotten': 0}",
        "/forgotten is not mounted",
    ),
}


@pytest.mark.parametrize("name", SABOTAGE)
async def test_a_sandbox_that_is_not_what_it_should_be_is_refused(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    code, reason = SABOTAGE[name]
    monkeypatch.setattr(connection, "_MAIN", f"{IMPORTS}\n{code}\n{connection._MAIN}")
    reader, writer = os.pipe()
    async with await Launcher.start() as launcher:
        with pytest.raises(IsolationUnavailable, match=reason):
            await launcher.spawn(Policy(), ["echo", "ran"], stdout=writer)
        os.close(writer)
        assert await read_all(reader) == b""
    os.close(reader)


async def test_a_sandbox_shares_no_namespace_with_the_host(launcher: Launcher) -> None:
    reader, writer = os.pipe()
    script = "for n in user mnt pid net ipc uts cgroup; do readlink /proc/self/ns/$n; done"
    with await launcher.spawn(Policy(), ["sh", "-c", script], stdout=writer) as sandbox:
        os.close(writer)
        inside = (await read_all(reader)).decode().split()
        await sandbox.wait()
    os.close(reader)
    outside = [
        os.readlink(f"/proc/self/ns/{name}") for name in ("user", "mnt", "pid", "net", "ipc", "uts", "cgroup")
    ]
    assert len(inside) == 7
    assert not set(inside) & set(outside)
