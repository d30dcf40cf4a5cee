"""The sandbox: a command of somebody else's, in namespaces of its own.

Theory of operation. A **launcher** process (`launcher/`), clean and single-threaded, forks one **init** (`init/`) per
run into new user, mount, process, network, IPC, host-name and cgroup namespaces. The init finds itself in a prepared
read-only root (`init/baseroot`), adds the policy's mounts (`init/mounts`), gives up every power (`init/lockdown`),
and then reads back from the kernel whether that is so (`init/verify`). Only then does it start the tool, as one
unprivileged id without capabilities, under a system-call filter (`init/seccomp`), in a control group
(`launcher/cgroups`). When the tool ends, so does the init, and the kernel kills whatever is left in its process
namespace: an end needs nobody's cooperation.

Two ways around waiting: sandboxes that are locked before they are needed (`launcher/pool`), and a **zygote**
(`zygote/`), an environment's interpreter that has imported everything, is itself confined, and forks a locked child
per job. `client/canary` attacks a sandbox from inside before it is relied on.

The client (`client/`) talks to the launcher over one socket (`wire`) and kills through pidfds. What happened is judged
from the wait status and the kernel's own counters (`exits`), never from what the work prints.

    async with await Launcher.start() as launcher:
        with await launcher.spawn(Policy(), ["python", "-c", "print(1)"], stdout=fd) as sandbox:
            end = await sandbox.wait()

`host/` tells what this machine can do, by trying. See docs/explanation/sandbox.md.
"""

from praxis_sdk.sandbox.client.connection import Enforcement
from praxis_sdk.sandbox.client.launcher_client import Launcher
from praxis_sdk.sandbox.client.run import Harvest, Sandbox
from praxis_sdk.sandbox.exits import KilledBy, SandboxExit, SandboxUsage, SpawnError
from praxis_sdk.sandbox.host.features import Feature, features
from praxis_sdk.sandbox.init.baseroot import INLINE_DIRECTORY
from praxis_sdk.sandbox.policy import DEFAULT_WORKDIR, Bind, Limits, Policy, PolicyError
from praxis_sdk.sandbox.zygote.spec import Zygote

__all__ = [
    "DEFAULT_WORKDIR",
    "INLINE_DIRECTORY",
    "Bind",
    "Enforcement",
    "Feature",
    "Harvest",
    "KilledBy",
    "Launcher",
    "Limits",
    "Policy",
    "PolicyError",
    "Sandbox",
    "SandboxExit",
    "SandboxUsage",
    "SpawnError",
    "Zygote",
    "features",
]
