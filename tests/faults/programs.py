"""Programs that do not want to end, for every surface that runs programs, and a look at what the kernel has of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final
from uuid import uuid4

_PRELUDE: Final = """
import ctypes, os, signal, sys, tempfile, threading, time
ctypes.CDLL(None).prctl(15, b"{mark}", 0, 0, 0)  # PR_SET_NAME
def ready():
    print("ready", flush=True)
def deaf():
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
"""

# Each says "ready" once it is in the state that its name tells.
HOSTILE: Final = {
    # A handler in Python never runs while C code holds the interpreter.
    "c_loop": """
signal.signal(signal.SIGTERM, lambda *_: None)
ready()
sum(range(10**13))
""",
    "ignores_sigterm": """
deaf()
ready()
while True:
    time.sleep(1000)
""",
    # Three generations, of which some are orphans in sessions of their own.
    "fork_tree": """
deaf()
reader, writer = os.pipe()
def grow(depth):
    for number in range(2):
        if os.fork() == 0:
            if number:
                os.setsid()
                if os.fork():
                    os._exit(0)
            os.write(writer, b".")
            if depth:
                grow(depth - 1)
            while True:
                time.sleep(1000)
grow(1)
for _ in range(6):
    os.read(reader, 1)
ready()
while True:
    time.sleep(1000)
""",
    "blocked_io": """
deaf()
folder = tempfile.mkdtemp()
fifo = os.path.join(folder, "fifo")
os.mkfifo(fifo)
both = os.open(fifo, os.O_RDWR)
os.unlink(fifo)
os.rmdir(folder)
ready()
os.read(both, 1)
""",
    "threads": """
deaf()
lock = threading.Lock()
lock.acquire()
def spin():
    while True:
        pass
threads = [threading.Thread(target=target) for target in (spin, lock.acquire, spin, lock.acquire)]
for thread in threads:
    thread.start()
ready()
for thread in threads:
    thread.join()
""",
}

HONEST: Final = """
ended = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: ended.set())
ready()
while not ended.wait(0.05):
    pass
print("saved what there was", flush=True)
"""
NEXT: Final = 'print("next", flush=True)'

SURFACES: Final = ("python-job", "command-job", "sandbox", "local", "docker")


def new_mark() -> str:
    """Return a name that no other process has; a process's name has 15 letters at most."""
    return f"pf{uuid4().hex[:12]}"


def marked(program: str, mark: str) -> str:
    """Return a program whose processes bear a mark."""
    return _PRELUDE.replace("{mark}", mark) + program


def shell_loop(mark: str) -> dict[str, Any]:
    """Return a command job: a shell that spins and does not hear SIGTERM."""
    script = "trap '' TERM INT HUP; echo ready; while :; do :; done"
    return _job(runtime="command", command=["sh", "-c", script, mark])


def on(surface: str, code: str) -> dict[str, Any]:
    """Return the submission of a Python program on a surface."""
    if surface == "python-job":
        return _job(runtime="python", code=code)
    if surface == "command-job":
        return _job(runtime="command", command=["python3", "-c", code])
    spec: dict[str, Any] = {"command": ["python3", "-c", code]}
    if surface == "docker":
        spec["image"] = "python:3.11-slim"
    contract = {"name": "hostile", "engine": surface, "engineSpec": spec}
    return {"kind": "tool", "request": {"contract": contract, "trusted": surface == "local"}}


def alive(mark: str) -> list[str]:
    """Return the processes of this machine that bear a mark, in whichever namespace they are."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            name = (entry / "comm").read_text().strip()
            words = (entry / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if name == mark or mark.encode() in words:
            found.append(f"{entry.name} {name}")
    return found


def _job(**fields: Any) -> dict[str, Any]:
    return {"kind": "job", "request": {"schema_version": "1.0", **fields}}
