"""Memory of every kind that the kernel keeps for a process.

Without a memory control group only the address space of each process is limited: what a job keeps in memory
files, pipes and queues then counts for nobody. These cases stop by themselves at a bound that hurts nobody.
"""

from .case import CALL, MIB, OK, RAISES, Case, calls, exceeds, number, shell

CASES = [
    Case(
        "a 64 GiB array ends the job",
        "x = bytearray(64 << 30)",
        (RAISES, exceeds("memory_bytes")),
        without_cgroups=RAISES,
    ),
    Case(
        "a growing list ends at the memory",
        "x = []\nwhile True: x.append(bytearray(10_000_000))",
        exceeds("memory_bytes"),
        without_cgroups=RAISES,
    ),
    Case(
        "many processes share one limit of memory",
        "import os, signal\n"
        "ready, full = os.pipe()\n"
        "signal.signal(signal.SIGCHLD, lambda *_: os._exit(1))\n"
        "for _ in range(8):\n"
        "    if os.fork() == 0:\n"
        "        x = bytearray(b'x') * 30_000_000; os.write(full, b'x'); signal.pause()\n"
        "held = 0\n"
        "while held < 8: held += len(os.read(ready, 8))",
        exceeds("memory_bytes"),
        without_cgroups=OK,
    ),
    Case(
        "a full /dev/shm ends at the scratch space",
        "open('/dev/shm/a', 'wb').write(bytes(7 << 20))\n"
        "for i in range(10): open(f'/dev/shm/{i}', 'wb').write(bytes(7 << 20))",
        exceeds("scratch_bytes"),
    ),
    Case(
        "a full /tmp ends at the scratch space",
        shell("i=0; while head -c 4m /dev/zero > /tmp/$i; do i=$((i+1)); done; exit 1"),
        exceeds("scratch_bytes"),
    ),
    Case(
        "a scratch space larger than the memory ends at the memory",
        "for i in range(40): open(f'/tmp/{i}', 'wb').write(bytes(7 << 20))",
        exceeds("memory_bytes"),
        limits={"scratch_bytes": 512 * MIB, "memory_bytes": 64 * MIB},
        without_cgroups=OK,
    ),
    Case(
        "memory files end at the memory",
        "import os\nfor i in range(28):\n    os.write(os.memfd_create(str(i)), bytes(7 << 20))",
        exceeds("memory_bytes"),
        limits={"memory_bytes": 64 * MIB},
        without_cgroups=OK,
    ),
    Case(
        "one memory file ends at the file size",
        "import os\nf = os.memfd_create('x')\nwhile True: os.write(f, bytes(1 << 20))",
        exceeds("file_size_bytes"),
        as_process_1=RAISES,
    ),
    Case("secret memory is not to be had", calls("memfd_secret", "0"), RAISES, says="ENOSYS"),
    Case(
        "a shared mapping ends at the memory",
        "import mmap\nm = mmap.mmap(-1, 512 << 20)\nfor i in range(0, 512 << 20, 4096): m[i] = 1",
        exceeds("memory_bytes"),
        without_cgroups=RAISES,
    ),
    Case(
        "locking memory is refused",
        f"{CALL}\nb = ctypes.create_string_buffer(1 << 20)\ncall({number('mlock')}, b, 1 << 20)",
        RAISES,
    ),
    Case("locking all memory is refused", calls("mlockall", "3"), RAISES),
    Case(
        "huge pages are not to be had",
        "import mmap; m = mmap.mmap(-1, 1 << 30, flags=0x40022); m[0] = 1",
        RAISES,
    ),
    Case(
        "pipes filled to the brim end at a limit",
        "import fcntl, os\n"
        "held = []\n"
        "for _ in range(200):\n"
        "    r, w = os.pipe(); held.append((r, w)); os.set_blocking(w, False)\n"
        "    try: fcntl.fcntl(w, 1031, 1 << 20)\n"
        "    except OSError: pass\n"
        "    try:\n"
        "        while True: os.write(w, bytes(1 << 16))\n"
        "    except BlockingIOError: pass",
        exceeds("memory_bytes"),
        limits={"memory_bytes": 24 * MIB},
        without_cgroups=OK,
    ),
    Case(
        "socket buffers filled to the brim end at a limit",
        "import socket\n"
        "held = []\n"
        "for _ in range(400):\n"
        "    a, b = socket.socketpair(); held.append((a, b)); a.setblocking(False)\n"
        "    try:\n"
        "        while True: a.send(bytes(1 << 16))\n"
        "    except BlockingIOError: pass",
        exceeds("memory_bytes"),
        limits={"memory_bytes": 24 * MIB},
        without_cgroups=OK,
    ),
    Case(
        "System V shared memory ends at the memory",
        f"{CALL}\nlibc.shmat.restype = ctypes.c_void_p\n"
        "for i in range(28):\n"
        "    key = libc.shmget(0, 7 << 20, 0o1600)\n"
        "    if key < 0: raise OSError('refused')\n"
        "    where = libc.shmat(key, None, 0)\n"
        "    if where in (None, 2**64 - 1): raise OSError('refused')\n"
        "    ctypes.memset(where, 1, 7 << 20); libc.shmdt(ctypes.c_void_p(where))",
        exceeds("memory_bytes"),
        limits={"memory_bytes": 64 * MIB},
        without_cgroups=OK,
    ),
    Case(
        "System V semaphores end at a limit",
        f"{CALL}\nwhile True: call({number('semget')}, 0, 250, 0o600)",
        (RAISES, exceeds("memory_bytes")),
        limits={"memory_bytes": 24 * MIB},
        without_cgroups=RAISES,
    ),
    Case(
        "System V queues end at a limit",
        f"{CALL}\nmessage = ctypes.create_string_buffer(8200); message[0] = 1\n"
        "for _ in range(40000):\n"
        f"    queue = call({number('msgget')}, 0, 0o600)\n"
        f"    call({number('msgsnd')}, queue, message, 8000, 0o4000)",
        (RAISES, exceeds("memory_bytes")),
        limits={"memory_bytes": 24 * MIB},
        without_cgroups=(RAISES, OK),
    ),
    Case(
        "POSIX queues end at their size",
        f"{CALL}\nfor i in range(1000): call({number('mq_open')}, b'q%d' % i, 0o102, 0o600, None)",
        RAISES,
        says="EMFILE",
    ),
    Case(
        "descriptors end at their number",
        "import os\nheld = [os.open('/dev/null', 0) for _ in range(10**5)]",
        RAISES,
        says="Too many open files",
    ),
    Case(
        "descriptors in flight end at their number",
        "import array, os, socket\n"
        "held = []\n"
        "for _ in range(100):\n"
        "    a, b = socket.socketpair(); held.append((a, b)); a.setblocking(False)\n"
        "    for _ in range(50):\n"
        "        a.sendmsg([b'x'], [(1, 1, array.array('i', [os.open('/dev/null', 0)] * 250))])",
        RAISES,
    ),
    Case(
        "epoll in epoll ends at its depth",
        "import select\n"
        "held = [select.epoll()]\n"
        "for _ in range(100):\n"
        "    held.append(select.epoll()); held[-1].register(held[-2].fileno())",
        RAISES,
    ),
    Case(
        "instances of inotify, of which all jobs of a user share a few, are not to be had",
        calls("inotify_init1", "0"),
        RAISES,
        says="ENOSYS",
    ),
    Case(
        "event descriptors end at their number",
        "import os\nheld = [os.eventfd(0) for _ in range(2000)]",
        RAISES,
        says="Too many open files",
    ),
    Case(
        "asynchronous input and output does not take the host's share",
        calls("io_setup", "60000, ctypes.byref(ctypes.c_ulong(0))"),
        RAISES,
    ),
    Case(
        "names that do not exist cost no memory for long",
        "import os\n"
        "for i in range(60_000):\n"
        "    try: os.stat(f'/tmp/no-{i}')\n"
        "    except FileNotFoundError: pass\n"
        "8",
        OK,
        limits={"memory_bytes": 24 * MIB},
        outputs=8,
        without_cgroups=OK,
    ),
    Case(
        "the out-of-memory score cannot be lowered",
        "open('/proc/self/oom_score_adj', 'w').write('-1000')",
        RAISES,
    ),
    Case(
        "the init's out-of-memory score cannot be moved",
        "open('/proc/1/oom_score_adj', 'w').write('1000')",
        RAISES,
    ),
    Case(
        "an out-of-memory kill of a child alone does not spoil its parent",
        "import os\n"
        "if os.fork() == 0:\n"
        "    x = []\n"
        "    while True: x.append(bytearray(10_000_000))\n"
        "os.wait(); 6",
        (OK, exceeds("memory_bytes")),
        outputs=6,
        without_cgroups=OK,
    ),
    Case(
        "a pickle of recursion in C ends as the job's own",
        "x = []\nfor _ in range(10**6): x = [x]\nimport copy; copy.deepcopy(x)",
        RAISES,
        limits={"memory_bytes": 512 * MIB},
    ),
]
