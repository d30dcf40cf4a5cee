"""The first process of a private Docker daemon's PID namespace.

Theory of operation. A daemon is a tree of processes (dockerd, containerd, one shim and more per container)
that tears itself out of its parent's hands, and a tree of mounts. To end both for certain, whatever happens
to the tests, the kernel is made to do it: this program is process 1 of a PID namespace and lives in a mount
namespace of its own. When it ends, be it in order or killed, the kernel kills every process of the
namespace and drops every mount. It ends when

- its standard input says ``stop`` or is closed (the user is done, or is dead),
- the process behind the pidfd that it was given is dead (standard input may have been inherited by a
  survivor),
- SIGTERM says so, or
- dockerd ends by itself.

It does not ask dockerd to end in order: containers that ignore SIGTERM would make that slow, and nothing
that dockerd would save outlives it. For the same reason every start begins with an empty data directory.

On standard output it writes one line, ``ready``, when dockerd says through systemd's notification protocol
that its API answers: nobody polls. It runs as root, so it also makes and removes what only root may make
and remove.
"""

import fcntl
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
from pathlib import Path

# The machine's own Docker is invisible to ours: its settings, its keys, its containerd, its shims' sockets.
HIDDEN = ("/etc/docker", "/run/containerd", "/run/docker")


def mount_tmpfs(path: Path) -> None:
    """Mount an empty file system over a directory, for this mount namespace only."""
    path.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=711", "tmpfs", path], check=True)


def file_system_of(path: Path) -> str:
    """Return the type of the file system that holds a path, such as ``ext4``."""
    answer = subprocess.run(
        ["stat", "--file-system", "--format=%T", path], check=True, capture_output=True, text=True
    )
    return answer.stdout.strip()


def remove_tree(path: Path) -> None:
    """Remove a directory, but nothing that is mounted in it."""
    subprocess.run(["rm", "-rf", "--one-file-system", "--", path], check=True)


def remove_cgroups(name: str) -> None:
    """Remove the control groups that containers left behind, in every hierarchy."""
    hierarchies = [Path("/sys/fs/cgroup"), *Path("/sys/fs/cgroup").glob("*/")]
    for parent in [hierarchy / name for hierarchy in hierarchies if (hierarchy / name).is_dir()]:
        for directory, _, _ in os.walk(parent, topdown=False):
            try:
                os.rmdir(directory)
            except OSError as error:
                print(f"cannot remove the control group {directory}: {error}", file=sys.stderr)


def end_everything_else() -> None:
    """Kill every other process of this PID namespace and wait until the last one is gone."""
    if os.getpid() != 1:
        raise SystemExit("not the first process of a PID namespace: refusing to kill everything")
    try:
        os.kill(-1, signal.SIGKILL)
    except ProcessLookupError:
        return
    while True:
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            return


class Init:
    """Starts dockerd, reports that it is ready, reaps orphans, and ends it all."""

    def __init__(self, config: dict[str, str]) -> None:
        self.directory = Path(config["directory"])
        self.data = self.directory / "data"
        self.log = self.directory / "dockerd.log"
        self.run = Path(config["run"])
        self.cgroup = config["cgroup"]
        self.group = config["group"]
        self.pidfd = int(config["pidfd"])
        self.selector = selectors.DefaultSelector()
        self.notifications = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.wake_read, self.wake_write = socket.socketpair()  # a signal's arrival, as something to select on
        self.wake_write.setblocking(False)
        self.dockerd_pid = 0
        self.stopping = False

    def prepare(self) -> None:
        """Give the daemon empty places: nothing of an earlier run is trusted."""
        self.lock = (self.directory / "init.lock").open("w")
        fcntl.flock(self.lock, fcntl.LOCK_EX)  # a killed user's daemon may be about to end in this directory
        for path in HIDDEN:
            mount_tmpfs(Path(path))
        remove_cgroups(self.cgroup)
        remove_tree(self.data)
        self.data.mkdir()
        if file_system_of(self.data).startswith("overlay"):  # the storage driver cannot stack on itself
            mount_tmpfs(self.data)

    def start(self) -> None:
        """Start dockerd, with nothing of the caller's environment and no network of its own."""
        notify = self.run / "notify.sock"
        self.notifications.bind(str(notify))
        (self.run / "daemon.json").write_text("{}")
        arguments = [
            "dockerd",
            f"--host=unix://{self.run}/docker.sock",
            f"--group={self.group}",
            f"--data-root={self.data}",
            f"--exec-root={self.run}/exec",
            f"--pidfile={self.run}/docker.pid",
            f"--config-file={self.run}/daemon.json",
            f"--cgroup-parent=/{self.cgroup}",
            "--exec-opt=native.cgroupdriver=cgroupfs",
            "--bridge=none",
            "--iptables=false",
            "--ip-forward=false",
            "--userland-proxy=false",
            "--shutdown-timeout=3",
        ]
        environment = {
            "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME": str(self.run),
            "TMPDIR": str(self.run),
            "NOTIFY_SOCKET": str(notify),
        }
        with self.log.open("wb") as log:
            process = subprocess.Popen(
                arguments, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, process_group=0
            )
        self.dockerd_pid = process.pid

    def serve(self) -> int:
        """React to what happens until it is time to end; return the exit status."""
        signal.set_wakeup_fd(self.wake_write.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGTERM, lambda *_: self.stop())
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the user's own end decides, not the terminal

        self.selector.register(sys.stdin, selectors.EVENT_READ, self.stop)
        self.selector.register(self.notifications, selectors.EVENT_READ, self.notified)
        self.selector.register(self.wake_read, selectors.EVENT_READ, lambda: self.wake_read.recv(4096))
        if self.pidfd >= 0:
            self.selector.register(self.pidfd, selectors.EVENT_READ, self.stop)

        while self.reap() and not self.stopping:
            for key, _ in self.selector.select():
                key.data()
        return 0 if self.stopping else 1

    def notified(self) -> None:
        """Pass on that the API answers."""
        if b"READY=1" in self.notifications.recv(4096).splitlines():
            print("ready", flush=True)

    def stop(self) -> None:
        """End the loop in `serve`."""
        self.stopping = True

    def reap(self) -> bool:
        """Collect the dead children; return whether dockerd lives."""
        while True:
            pid, _ = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return True
            if pid == self.dockerd_pid:
                return False

    def clean(self) -> None:
        """Leave nothing but the logs."""
        end_everything_else()
        mounts = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
        for mount_point in reversed(mounts):
            if Path(mount_point).is_relative_to(self.data) or Path(mount_point).is_relative_to(self.run):
                subprocess.run(["umount", "--lazy", mount_point], check=False)
        remove_cgroups(self.cgroup)
        remove_tree(self.data)
        remove_tree(self.run)


def main() -> int:
    """Run one daemon until its user is done."""
    init = Init(json.loads(sys.argv[1]))
    try:
        init.prepare()
        init.start()
        return init.serve()
    finally:
        init.clean()


if __name__ == "__main__":
    sys.exit(main())
