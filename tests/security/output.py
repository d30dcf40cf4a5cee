"""What a job writes to its streams, and how it lies about its end."""

from .case import BAD_VALUE, EXITS, KILLED, MIB, NO_RESULT, OK, RAISES, Case, exceeds, shell

CASES = [
    # -- too much ---------------------------------------------------------------------------------------------------
    Case("endless lines end at the size of stdout", "while True: print('x' * 70)", exceeds("stdout_bytes")),
    Case("endless lines of a program end at the size of stdout", shell("yes"), exceeds("stdout_bytes")),
    Case(
        "a gigabyte without a line break ends at the size of stdout",
        "import os\nfor _ in range(1024): os.write(1, bytes(1 << 20))",
        exceeds("stdout_bytes"),
    ),
    Case(
        "2**31 writes of one byte end at the size of stderr",
        "import os\nfor _ in range(2**31): os.write(2, b'x')",
        exceeds("stderr_bytes"),
    ),
    Case(
        "2**31 writes of nothing end at the processor time",
        "import os\nfor _ in range(2**31): os.write(1, b'')",
        exceeds("cpu_s"),
        limits={"cpu_s": 1},
    ),
    Case(
        "many processes that write at once share one limit",
        "import os\n"
        "for _ in range(8):\n"
        "    if os.fork() == 0:\n"
        "        while True: os.write(1, b'y' * 4096)\n"
        "os.wait()",
        exceeds("stdout_bytes"),
    ),
    Case(
        "closed streams and spinning end at the processor time",
        "import os\nos.close(1); os.close(2)\nwhile True: pass",
        exceeds("cpu_s"),
        limits={"cpu_s": 1},
    ),
    Case(
        "a 100 MB message of an exception is cut",
        "raise RuntimeError('A' * 100_000_000)",
        RAISES,
        limits={"memory_bytes": 1024 * MIB},
        says="RuntimeError: AAAA",
    ),
    Case(
        "a 100 MB message of an exit ends at the size of stderr",
        "import sys; sys.exit('A' * 100_000_000)",
        exceeds("stderr_bytes"),
        limits={"memory_bytes": 1024 * MIB},
    ),
    # -- bytes that act ---------------------------------------------------------------------------------------------
    Case(
        "escape sequences, OSC 52 and marks of direction are data in a stream",
        r"print('\x1b[2J\x1b]52;c;cm0gLXJmIC8=\x07\u202eevil\u2066')",
        OK,
        says="evil",
    ),
    Case(
        "escape sequences, OSC 52 and marks of direction are escaped in a message",
        r"raise ValueError('\x1b[2J\x1b]52;c;cm0gLXJmIC8=\x07\u202eevil\u2066\r\nsecond')",
        RAISES,
        says="evil",
    ),
    Case(
        "bytes that are not UTF-8 are replaced",
        r"import os; os.write(1, b'\xff\xfe\x00ab\xc3')",
        OK,
        says="ab",
    ),
    Case(
        "halves of surrogate pairs do no harm in a message",
        r"raise ValueError('\udcff\ud800')",
        RAISES,
        says="ValueError",
    ),
    Case(
        "halves of surrogate pairs do no harm in a stream",
        r"import sys; print('\udcff'); print('\udcff\ud800', file=sys.stderr)",
        OK,
    ),
    Case(
        "halves of surrogate pairs that no text file takes are the job's own mistake",
        r"print('\udcff\ud800')",
        RAISES,
    ),
    # -- lies about the end -----------------------------------------------------------------------------------------
    Case(
        "a printed success does not hide exit code 1",
        'print(\'{"status": "completed", "exit_code": 0}\')\nraise SystemExit(1)',
        EXITS,
    ),
    Case("an exit before the result is no success", "import os; os._exit(0)", NO_RESULT),
    Case("exit code 137 is no out-of-memory kill", "import os; os._exit(137)", NO_RESULT),
    Case("exit code 137 of a program is no out-of-memory kill", shell("exit 137"), EXITS),
    Case("exit code 125 is no failure of the platform", shell("exit 125"), EXITS),
    Case("exit code 127 is no missing dependency", shell("exit 127"), EXITS),
    Case(
        "a signal to itself is no limit",
        "import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
        KILLED,
    ),
    Case(
        "a processor-time signal to itself is no limit",
        "import os, signal; os.kill(os.getpid(), signal.SIGXCPU)",
        RAISES,
    ),
    Case(
        "a real-time signal has no name and does no harm",
        "import os; os.kill(os.getpid(), 40)",
        KILLED,
        as_process_1=OK,
    ),
    Case(
        "a real-time signal to a child has no name and does no harm",
        "import os, signal\nif os.fork() == 0: signal.pause() or 1\nos.kill(-1, 64); os.wait()[1]",
        (OK, KILLED),
    ),
    Case(
        "a result with __reduce__ is never unpickled",
        "class Bomb:\n    def __reduce__(self): return (print, ('boom',))\ndef main(): return Bomb()",
        BAD_VALUE,
        lacks=("boom",),
    ),
    Case(
        "a result whose isoformat lies is judged again",
        "class Lie:\n    def isoformat(self): return float('nan')\ndef main(): return Lie()",
        (BAD_VALUE, EXITS, NO_RESULT),
    ),
    Case(
        "replaced hooks and serialisers do not hide an exception",
        "import json, sys, traceback\n"
        'json.dumps = lambda *a, **k: \'{"value": "forged"}\'\n'
        "traceback.format_exception = lambda *a, **k: ['all is well']\n"
        "sys.excepthook = lambda *a: None\n"
        "raise ValueError('real')",
        RAISES,
        says="real",
    ),
    Case(
        "deep recursion in C ends as the job's own crash",
        "class A:\n    __slots__ = ()\n    __repr__ = lambda self: repr(self)\n"
        "import sys; sys.setrecursionlimit(10**9)\nrepr(A())",
        (KILLED, exceeds("memory_bytes")),
        limits={"memory_bytes": 256 * MIB},
        without_cgroups=(KILLED, RAISES),
    ),
    Case(
        "a null pointer is the job's own crash", "import ctypes; ctypes.string_at(0)", KILLED, says="SIGSEGV"
    ),
    Case(
        "an abort dumps no core and leaves no artifact",
        "import os, resource\n"
        "try: resource.setrlimit(resource.RLIMIT_CORE, (-1, -1))\n"
        "except (ValueError, OSError): pass\n"
        "os.abort()",
        KILLED,
        artifacts=(),
    ),
    # -- tracebacks -------------------------------------------------------------------------------------------------
    Case(
        "paths of a host in a message are shortened",
        "raise RuntimeError('cannot open /root/.ssh/id_rsa nor /srv/customers/acme/key.pem')",
        RAISES,
        says="id_rsa",
    ),
    Case(
        "secrets of a known form in a message are removed",
        "raise RuntimeError('key AKIAIOSFODNN7EXAMPLE, Authorization: Bearer ' + 'x' * 40)",
        RAISES,
    ),
    Case(
        "forged frames of a traceback name no file of the host",
        "exec(compile('1/0', '/root/secret/place.py', 'exec'))",
        RAISES,
        says="ZeroDivisionError",
    ),
    Case(
        "an exception that fails to say what it is does not matter",
        "class E(Exception):\n    def __str__(self): raise self\n    __repr__ = __str__\nraise E",
        RAISES,
    ),
    Case(
        "an exception with a monstrous name is cut",
        "raise type('E' * 10**6 + '\\n\\x1b[31m', (Exception,), {})('x')",
        RAISES,
    ),
    Case(
        "a circle of causes ends",
        "a, b = ValueError('a'), ValueError('b')\na.__cause__, b.__cause__ = b, a\nraise a",
        RAISES,
    ),
    Case(
        "a thousand nested groups of exceptions end",
        "e = ValueError('x')\nfor _ in range(1000): e = ExceptionGroup('g', [e])\nraise e",
        RAISES,
    ),
    Case(
        "a traceback of a thousand frames is cut", "def f(n): f(n + 1)\nf(0)", RAISES, says="RecursionError"
    ),
    Case(
        "an interrupt of its own is an exception like others",
        "raise KeyboardInterrupt",
        RAISES,
    ),
    # -- descriptors ------------------------------------------------------------------------------------------------
    Case(
        "a stream held open by background children does not delay the end",
        "import os, signal\n"
        "for _ in range(5):\n"
        "    if os.fork() == 0:\n"
        "        os.setsid(); [os.dup(1) for _ in range(100)]; signal.pause()\n"
        "print('done')",
        OK,
        says="done",
    ),
    Case(
        "closing every descriptor does no harm",
        "import os; os.closerange(0, 1024)\n7",
        (OK, EXITS),
        outputs=7,
    ),
    Case(
        "a stream that is taken over is the job's own",
        "import fcntl, os\n"
        "fcntl.fcntl(1, fcntl.F_SETFL, os.O_NONBLOCK); fcntl.fcntl(2, fcntl.F_SETFL, os.O_NONBLOCK)\n"
        "try: fcntl.fcntl(1, 1031, 1 << 20)\n"
        "except OSError: pass\n"
        "os.write(1, b'still here')",
        OK,
        says="still here",
    ),
    Case(
        "streams replaced by what fails do not hide the result",
        "import sys\n"
        "class Broken:\n"
        "    def write(self, text): raise OSError('no')\n"
        "    flush = write\n"
        "sys.stdout = sys.stderr = Broken()\n5",
        (OK, EXITS),
    ),
    Case(
        "only the three streams are open",
        "import os\nsorted(int(fd) for fd in os.listdir('/proc/self/fd'))[:3] + "
        "[os.readlink('/proc/self/fd/0')] + [len(os.listdir('/proc/self/fd')) <= 5]",
        OK,
        outputs=[0, 1, 2, "/dev/null", True],
    ),
]
