"""Processes that multiply, hide, refuse to die or aim at others."""

from .case import (
    CALL,
    EXITS,
    KILLED,
    MIB,
    MISSING,
    OK,
    RAISES,
    TIMED_OUT,
    VIOLATES,
    Case,
    calls,
    exceeds,
    number,
    shell,
)

_BURNERS = "while :; do sh -c 'i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done'; done"

CASES = [
    # -- numbers ----------------------------------------------------------------------------------------------------
    Case(
        "a double-forked daemon ends with the job",
        "import os, signal\n"
        "if os.fork() == 0:\n"
        "    os.setsid()\n"
        "    if os.fork() == 0:\n"
        "        os.closerange(0, 3); signal.pause()\n"
        "    os._exit(0)\n"
        "os.wait(); 1",
        OK,
    ),
    Case(
        "a fork bomb ends at the number of processes",
        "import os, signal\nwhile True:\n    if os.fork() == 0: signal.pause()",
        exceeds("processes"),
        without_cgroups=RAISES,
    ),
    Case(
        "a fork bomb that doubles ends at a limit",
        "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass",
        (exceeds("cpu_s"), TIMED_OUT),
        limits={"cpu_s": 1, "wall_s": 2},
    ),
    Case(
        "a fork bomb of a shell ends at a limit",
        {"runtime": "command", "command": ["bash", "-c", ":(){ :|:& };:; while :; do :; done"]},
        (exceeds("cpu_s"), exceeds("processes"), exceeds("stderr_bytes"), TIMED_OUT),
        limits={"cpu_s": 1, "wall_s": 2},
        without_cgroups=(exceeds("cpu_s"), exceeds("stderr_bytes"), TIMED_OUT, EXITS),
    ),
    Case(
        "a thread bomb ends at the number of processes",
        "import threading\nwhile True: threading.Thread(target=threading.Event().wait, daemon=True).start()",
        exceeds("processes"),
        limits={"memory_bytes": 1024 * MIB},
        without_cgroups=RAISES,
    ),
    Case(
        "children that nobody waits for end at the number of processes",
        "import os\nwhile True:\n    if os.fork() == 0: os._exit(0)",
        exceeds("processes"),
        without_cgroups=RAISES,
    ),
    Case(
        "orphans are buried as they die",
        "import os\n"
        "for _ in range(100):\n"
        "    pid = os.fork()\n"
        "    if pid == 0:\n"
        "        os.fork()\n"
        "        os._exit(0)\n"
        "    os.waitpid(pid, 0)\n"
        "1",
        OK,
        outputs=1,
        as_process_1=(OK, exceeds("processes"), RAISES),
    ),
    Case(
        "a program that becomes itself for ever ends at a limit",
        shell("echo 'exec sh loop' > loop; exec sh loop"),
        (exceeds("cpu_s"), TIMED_OUT),
        limits={"cpu_s": 1, "wall_s": 2},
    ),
    # -- time -------------------------------------------------------------------------------------------------------
    Case(
        "SIGTERM ignored and spinning ends at the processor time",
        "import signal\n"
        "for number in range(1, 65):\n"
        "    try: signal.signal(number, signal.SIG_IGN)\n"
        "    except (OSError, ValueError): pass\n"
        "signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))\n"
        "while True: pass",
        exceeds("cpu_s"),
        limits={"cpu_s": 1},
    ),
    Case(
        "many short burners are summed",
        shell(_BURNERS),
        (exceeds("cpu_s"), TIMED_OUT),
        limits={"cpu_s": 0.5, "wall_s": 3},
        without_cgroups=TIMED_OUT,
    ),
    Case(
        "many burners at once are summed",
        "import os\nfor _ in range(8):\n    if os.fork() == 0:\n        while True: pass\nos.wait()",
        exceeds("cpu_s"),
        limits={"cpu_s": 1},
        # Each is ended on its own, and the parent sees one of them die.
        without_cgroups=(OK, TIMED_OUT),
    ),
    Case(
        "burning in other threads counts",
        "import hashlib, threading\n"
        "def burn():\n    while True: hashlib.sha256(bytes(1 << 20))\n"
        "for _ in range(2): threading.Thread(target=burn).start()",
        exceeds("cpu_s"),
        limits={"cpu_s": 1},
    ),
    Case("sleeping for ever times out", "import time; time.sleep(10**6)", TIMED_OUT, limits={"wall_s": 0.5}),
    Case(
        "waiting for a lock for ever times out",
        "import threading; l = threading.Lock(); l.acquire(); l.acquire()",
        TIMED_OUT,
        limits={"wall_s": 0.5},
    ),
    Case(
        "a thread that never ends times out",
        "import threading; threading.Thread(target=threading.Event().wait).start(); 1",
        TIMED_OUT,
        limits={"wall_s": 0.5},
    ),
    Case(
        "an exit handler that never ends times out",
        "import atexit, time; atexit.register(time.sleep, 10**6)\n1",
        TIMED_OUT,
        limits={"wall_s": 0.5},
    ),
    Case(
        "a finaliser that never ends is not waited for, or times out",
        "import time\nclass A:\n    def __del__(self): time.sleep(10**6)\na = A(); 1",
        (OK, TIMED_OUT),
        limits={"wall_s": 0.5},
    ),
    Case(
        "stopping itself times out",
        "import os, signal; os.kill(os.getpid(), signal.SIGSTOP)",
        TIMED_OUT,
        limits={"wall_s": 0.5},
        as_process_1=OK,
    ),
    Case(
        "stopped children do not hold the end up",
        "import os, signal\n"
        "for _ in range(5):\n"
        "    if os.fork() == 0: os.kill(os.getpid(), signal.SIGSTOP)\n"
        "2",
        OK,
        outputs=2,
    ),
    Case(
        "a stopped vfork child times out",
        f"{CALL}\nimport signal\npid = os.fork()\n"
        "if pid == 0:\n    os.kill(os.getpid(), signal.SIGSTOP)\nos.waitpid(pid, 0)",
        TIMED_OUT,
        limits={"wall_s": 0.5},
    ),
    Case("the clock cannot be set", "import time; time.clock_settime(time.CLOCK_REALTIME, 0)", RAISES),
    Case("the clock cannot be set by adjtimex", calls("adjtimex", "b'\\0' * 256"), RAISES, says="EPERM"),
    Case(
        "the limit on time cannot be raised",
        "import resource; resource.setrlimit(resource.RLIMIT_CPU, (-1, -1))",
        RAISES,
    ),
    Case(
        "timers without end are few",
        f"{CALL}\nfor _ in range(10**5): call({number('timer_create')}, 1, None, ctypes.byref(ctypes.c_int()))",
        RAISES,
        says="EAGAIN",
    ),
    # -- signals ----------------------------------------------------------------------------------------------------
    Case(
        "kill(-1, 9) reaches its own sandbox only",
        "import os, signal\n"
        "pid = os.fork()\n"
        "if pid == 0: signal.pause()\n"
        "os.kill(-1, 9); os.waitpid(pid, 0)[1]",
        OK,
        outputs=9,
    ),
    Case("kill(0, 9) is its own end", "import os; os.kill(0, 9)", KILLED),
    Case("a program that kills itself is killed", shell("kill -9 $$"), KILLED),
    Case("a program that stops itself times out", shell("kill -STOP $$"), TIMED_OUT, limits={"wall_s": 0.5}),
    Case("a program cannot end its init", shell("kill -9 1; kill -TERM 1; echo alive"), OK, says="alive"),
    Case(
        "a program's orphans are buried as they die",
        shell("i=0; while [ $i -lt 200 ]; do sh -c 'true &'; i=$((i+1)); done"),
        OK,
    ),
    Case(
        "process 1 takes no signal from inside",
        f"{CALL}\nfor one in (9, 19, 11, 17, 40): call({number('kill')}, 1, one)\n'alive'",
        OK,
        outputs="alive",
    ),
    Case(
        "a forged sender does not fool process 1",
        f"{CALL}\nimport signal, struct\nsignal.signal(15, signal.SIG_IGN)\n"
        "info = struct.pack('iiiixxxxxxxx', 15, 0, -1, 0).ljust(128, b'\\0')\n"
        f"call({number('rt_sigqueueinfo')}, 1, 15, info)\n'alive'",
        OK,
        outputs="alive",
    ),
    Case(
        "process 1 cannot be reached by its descriptor either",
        "import os, signal; signal.pidfd_send_signal(os.pidfd_open(1), 9)\n'alive'",
        OK,
        outputs="alive",
    ),
    Case(
        "no process of the host has a number here",
        "import os\n"
        "found = []\n"
        "for pid in range(2, 40000):\n"
        "    try: os.kill(pid, 0)\n"
        "    except ProcessLookupError: continue\n"
        "    if pid != os.getpid(): found.append(pid)\n"
        "found",
        OK,
        outputs=[],
    ),
    Case(
        "only its own processes can be seen",
        "import os\nsorted(int(pid) for pid in os.listdir('/proc') if pid.isdigit() and int(pid) != os.getpid())",
        (OK,),
    ),
    # -- standing ---------------------------------------------------------------------------------------------------
    Case(
        "real-time scheduling is refused",
        "import os; os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))",
        RAISES,
    ),
    Case(
        "round-robin scheduling is refused",
        "import os; os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(99))",
        RAISES,
    ),
    Case(
        "deadline scheduling is refused",
        f"{CALL}\nimport struct\n"
        f"call({number('sched_setattr')}, 0, struct.pack('IIQiIQQQ', 48, 6, 0, 0, 0, 10**7, 2 * 10**7, 2 * 10**7), 0)",
        RAISES,
        says="EPERM",
    ),
    Case("precedence over others is refused", "import os; os.nice(-5)", RAISES),
    Case("giving way is allowed", "import os; os.nice(19)", OK, outputs=19),
    Case("real-time input and output is refused", calls("ioprio_set", "1, 0, 1 << 13"), RAISES, says="EPERM"),
    Case(
        "moving the init's limits is refused",
        "import resource; resource.prlimit(1, resource.RLIMIT_NOFILE, (16, 16))",
        RAISES,
        as_process_1=OK,
    ),
    Case(
        "raising its own limits is refused",
        "import resource; resource.setrlimit(resource.RLIMIT_NPROC, (10**6, 10**6))",
        RAISES,
    ),
    Case(
        "changing user is refused",
        "import os\n"
        "for act in (lambda: os.setuid(0), lambda: os.setresuid(0, 0, 0), lambda: os.setgid(0),\n"
        "            lambda: os.setgroups([0]), lambda: os.setuid(1001)):\n"
        "    try: act()\n"
        "    except OSError: continue\n"
        "    raise SystemExit('it worked')\n"
        "os.getuid()",
        OK,
        outputs=1000,
    ),
    # -- prctl ------------------------------------------------------------------------------------------------------
    Case(
        "asking for a death signal, a new name or orphans changes nothing outside",
        f"{CALL}\nlibc.prctl(1, 0); libc.prctl(15, b'systemd'); libc.prctl(36, 1, 0, 0, 0); libc.prctl(4, 1)\n4",
        OK,
        outputs=4,
    ),
    Case(
        "new privileges cannot be allowed again",
        f"{CALL}\n[libc.prctl(38, 0, 0, 0, 0), libc.prctl(39, 0, 0, 0, 0)]",
        OK,
        outputs=[-1, 1],
    ),
    Case(
        "capabilities cannot be had back",
        f"{CALL}\n"
        "[libc.prctl(47, 2, 21, 0, 0), libc.prctl(8, 1, 0, 0, 0), libc.prctl(28, 0x2f, 0, 0, 0), "
        "[line.split()[1].strip('0') for line in open('/proc/self/status') if line.startswith('Cap')]]",
        OK,
        outputs=[-1, 0, -1, ["", "", "", "", ""]],
    ),
    Case(
        "all capabilities at once are refused",
        calls("capset", "b'\\x22\\x05\\x08\\x20\\0\\0\\0\\0', b'\\xff' * 24"),
        RAISES,
        says="EPERM",
    ),
    Case(
        "claiming another address space's layout is refused",
        calls("prctl", "35, 8, 4096, 0, 0"),
        RAISES,
    ),
    Case("tracing itself is a violation", calls("ptrace", "0, 0, 0, 0"), VIOLATES),
    Case(
        "a child that is killed for a violation does not spoil its parent",
        f"{CALL}\nif os.fork() == 0: call({number('ptrace')}, 0, 0, 0, 0)\nos.wait()[1]",
        OK,
        outputs=31,
    ),
    Case(
        "a violation in a thread ends the whole job",
        f"{CALL}\nimport threading\n"
        f"t = threading.Thread(target=call, args=({number('ptrace')}, 0, 0, 0, 0)); t.start(); t.join()",
        VIOLATES,
    ),
    Case(
        "a program that is not there is named as missing",
        {"runtime": "command", "command": ["no-such-program"]},
        MISSING,
    ),
    Case(
        "a folder as a program is the job's own mistake", {"runtime": "command", "command": ["/tmp"]}, EXITS
    ),
    Case(
        "a command line of a megabyte is only long",
        {"runtime": "command", "command": ["true", *(["x" * 100_000] * 9)]},
        OK,
    ),
]
