"""What a job leaves in its working directory, for somebody who collects carelessly."""

import base64
import io
import zipfile

from .case import BAD_ARTIFACT, MIB, NO_RESULT, OK, RAISES, VIOLATES, Case, exceeds, number, shell


def _bomb() -> str:
    """40 MiB of zeros in 40 KiB."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for index in range(10):
            archive.writestr(f"part-{index}", bytes(4 * MIB))
    return base64.b64encode(buffer.getvalue()).decode()


def _named(name: str) -> str:
    return f"open({name!r}, 'w').write('x')"


CASES = [
    # -- links ------------------------------------------------------------------------------------------------------
    Case(
        "a symlink to /etc/passwd is rejected",
        "import os; os.symlink('/etc/passwd', 'out.txt')",
        BAD_ARTIFACT,
        rejected="symbolic link",
        lacks=("root:",),
    ),
    Case(
        "a symlink to / as an output folder is not walked",
        "import os; os.symlink('/', 'out')",
        BAD_ARTIFACT,
        rejected="symbolic link",
    ),
    Case(
        "symlinks that climb, loop, dangle or lead to descriptors are rejected",
        "import os\n"
        "for i, to in enumerate(('../../../../etc/shadow', 'l1', 'nowhere', '/proc/self/fd/1', '/proc/1/root',\n"
        "                        '/proc/self/cwd', '.praxis/result.json')):\n"
        "    os.symlink(to, f'l{i}')",
        BAD_ARTIFACT,
        rejected="symbolic link",
    ),
    Case(
        "a folder that was swapped for a symlink is not entered",
        "import os\n"
        "os.mkdir('out'); open('out/a', 'w').write('x'); os.rename('out', 'kept'); os.symlink('/etc', 'out')",
        BAD_ARTIFACT,
        rejected="symbolic link",
    ),
    Case(
        "a hard link to a system binary is refused",
        "import os; os.link('/usr/bin/env', 'env')",
        RAISES,
    ),
    Case(
        "a hard link to a file of the environment is refused",
        "import os, sys; os.link(os.path.join(sys.prefix, 'pyvenv.cfg'), 'cfg')",
        RAISES,
    ),
    Case(
        "a file with two names is rejected",
        "import os; open('a', 'w').write('x'); os.link('a', 'b')",
        BAD_ARTIFACT,
        rejected="hard link",
    ),
    Case(
        "a second name for the result file is rejected",
        "import os; open('.praxis/result.json', 'w').close(); os.link('.praxis/result.json', 'mine.json')",
        BAD_ARTIFACT,
        rejected="hard link",
    ),
    # -- special files ----------------------------------------------------------------------------------------------
    Case(
        "a fifo is rejected without blocking", "import os; os.mkfifo('pipe')", BAD_ARTIFACT, rejected="fifo"
    ),
    Case(
        "a unix socket is rejected",
        "import socket; socket.socket(socket.AF_UNIX).bind('socket')",
        BAD_ARTIFACT,
        rejected="socket",
    ),
    Case(
        "a block device cannot be made",
        "import os, stat; os.mknod('disk', 0o600 | stat.S_IFBLK, os.makedev(8, 0))",
        RAISES,
    ),
    Case(
        "a character device cannot be made",
        "import os, stat; os.mknod('mem', 0o600 | stat.S_IFCHR, os.makedev(1, 1))",
        RAISES,
    ),
    Case(
        "a whiteout, the one device that anybody may make, is nothing",
        "import os, stat\ntry: os.mknod('gone', 0o600 | stat.S_IFCHR, 0)\nexcept OSError: pass",
        OK,
        artifacts=(),
    ),
    Case(
        "an overlay's mark of an opaque folder is only an attribute",
        "import os\n"
        "os.mkdir('d'); open('d/a', 'w').write('x')\n"
        "try: os.setxattr('d', 'user.overlay.opaque', b'y')\n"
        "except OSError: pass",
        OK,
        artifacts=("d/a",),
    ),
    # -- sizes ------------------------------------------------------------------------------------------------------
    Case(
        "truncate to 2**60 ends at the file size",
        "open('huge', 'wb').truncate(2**60)",
        exceeds("file_size_bytes"),
        as_process_1=RAISES,
    ),
    Case(
        "truncate to 2**60 by a program ends at the file size",
        shell("exec truncate -s 1E huge"),
        exceeds("file_size_bytes"),
    ),
    Case(
        "one sparse file counts in full",
        "open('sparse', 'wb').truncate(7 << 20)",
        OK,
        artifacts=("sparse",),
    ),
    Case(
        "many sparse files end at their summed size",
        "for i in range(4): open(f'sparse-{i}', 'wb').truncate(7 << 20)",
        exceeds("artifact_total_bytes"),
    ),
    Case(
        "endless small files end at the number of files",
        "for i in range(10**6): open(f'f{i}', 'w').close()",
        exceeds("files"),
    ),
    Case(
        "endless folders end at the number of files",
        "import os\nfor i in range(10**6): os.mkdir(f'd{i}')",
        exceeds("files"),
    ),
    Case(
        "endless links to one file end at the number of files",
        "import os\nopen('f', 'w').close()\nfor i in range(10**6): os.link('f', f'l{i}')",
        exceeds("files"),
    ),
    Case(
        "endless extended attributes end at a limit",
        "import os\n"
        "for i in range(10**6):\n"
        "    open(f'f{i}', 'w').close()\n"
        "    try:\n"
        "        for j in range(4): os.setxattr(f'f{i}', f'user.x{j}', bytes(60000))\n"
        "    except OSError as error:\n"
        "        if error.errno != 95: raise",
        (exceeds("files"), exceeds("scratch_bytes"), exceeds("memory_bytes"), RAISES),
        without_cgroups=(exceeds("files"), exceeds("scratch_bytes"), RAISES),
    ),
    Case(
        "one artifact too many ends at their number",
        "for i in range(9): open(f'a{i}', 'w').write('x')",
        exceeds("artifact_count"),
    ),
    Case(
        "as many artifacts as allowed are kept",
        "for i in range(8): open(f'a{i}', 'w').write('x')",
        OK,
        artifacts=tuple(f"a{i}" for i in range(8)),
    ),
    Case(
        "a zip bomb ends at the scratch space",
        {
            "code": "import zipfile; zipfile.ZipFile('inputs/bomb').extractall('/tmp')",
            "inputs": {"bomb": {"base64": _bomb()}},
        },
        exceeds("scratch_bytes"),
    ),
    # -- shapes -----------------------------------------------------------------------------------------------------
    Case(
        "ten thousand nested folders are rejected and cleaned up",
        "import os\nfor _ in range(10000): os.mkdir('d'); os.chdir('d')\nopen('x', 'w').write('x')",
        BAD_ARTIFACT,
        limits={"files": 12_000},
        rejected="too many folders deep",
    ),
    Case(
        "a path as long as a path can be is rejected",
        "import os\nfor _ in range(15): os.mkdir('d' * 250); os.chdir('d' * 250)",
        BAD_ARTIFACT,
        rejected="longer than",
    ),
    Case(
        "fifteen hundred rejected entries leave at most a hundred notes",
        "import os\nfor i in range(1500): os.symlink('/etc/passwd', f'l{i}')",
        BAD_ARTIFACT,
        rejected="symbolic link",
    ),
    Case("a name with a line break is rejected", _named("a\nb"), BAD_ARTIFACT, rejected="control"),
    Case(
        "a name with an escape sequence is rejected", _named("a\x1b[31mb"), BAD_ARTIFACT, rejected="control"
    ),
    Case("a name that reverses text is rejected", _named("a\u202egpj.exe"), BAD_ARTIFACT, rejected="control"),
    Case("a name with a backslash is rejected", _named("..\\..\\evil"), BAD_ARTIFACT, rejected="backslash"),
    Case(
        "a name that is not UTF-8 is rejected",
        "open(b'a\\xff\\xfe', 'w').write('x')",
        BAD_ARTIFACT,
        rejected="not UTF-8",
    ),
    Case(
        "a name that looks like an option or a command is only a name",
        "for name in ('-rf', '$(reboot)', ';id', '|id', '~', '*', 'CON'): open(name, 'w').write('x')",
        OK,
        artifacts=("$(reboot)", "*", "-rf", ";id", "CON", "|id", "~"),
    ),
    Case(
        "an artifact named like the result file is only an artifact",
        "open('result.json', 'w').write('{\"value\": 666}'); 1",
        OK,
        outputs=1,
        artifacts=("result.json",),
    ),
    Case(
        "what lies in the harness's folder is no artifact",
        "open('.praxis/evil', 'w').write('x'); 1",
        OK,
        outputs=1,
        artifacts=(),
    ),
    # -- access -----------------------------------------------------------------------------------------------------
    Case(
        "an unreadable file does not disturb",
        "import os; open('a', 'w').write('x'); os.chmod('a', 0)",
        OK,
        artifacts=("a",),
        as_caller=BAD_ARTIFACT,
        rejected="unreadable",
    ),
    Case(
        "an unreadable folder does not disturb",
        "import os; os.mkdir('d'); open('d/a', 'w').write('x'); os.chmod('d', 0)",
        OK,
        artifacts=("d/a",),
        as_caller=BAD_ARTIFACT,
        rejected="unreadable",
    ),
    Case(
        "an unreadable working directory does not disturb",
        "import os; open('a', 'w').write('x'); os.chmod('.', 0); os._exit(0)",
        NO_RESULT,
    ),
    Case(
        "set-user-id bits mean nothing",
        "import os, shutil; shutil.copy('/usr/bin/env', 'mine'); os.chmod('mine', 0o6755)",
        OK,
        artifacts=("mine",),
    ),
    Case(
        "the working directory cannot be replaced",
        "import os; os.rename('/workspace', '/tmp/elsewhere')",
        RAISES,
    ),
    Case(
        "leaving the working directory leads nowhere",
        "import os\nopen('kept', 'w').write('x'); os.mkdir('/tmp/d'); os.chdir('/tmp/d'); os.rmdir('/tmp/d')\n1",
        OK,
        outputs=1,
        artifacts=("kept",),
    ),
    Case(
        "making files immutable is refused",
        "import fcntl, struct\nf = open('a', 'w')\nfcntl.ioctl(f, 0x40086602, struct.pack('l', 0x10))",
        RAISES,
    ),
    # -- races ------------------------------------------------------------------------------------------------------
    Case(
        "a daemon that rewrites an artifact is dead before it is read",
        "import os\n"
        "if os.fork() == 0:\n"
        "    os.setsid(); n = 0\n"
        "    while True:\n"
        "        n += 1\n"
        "        with open('a', 'w') as f: f.write(str(n) * 1000)\n"
        "while not os.path.exists('a'): pass\n",
        OK,
        artifacts=("a",),
    ),
    Case(
        "a daemon that swaps a file and a symlink is dead before it is looked at",
        "import os\n"
        "open('file', 'w').write('x'); os.symlink('/etc/passwd', '/tmp/link')\n"
        "if os.fork() == 0:\n"
        "    os.setsid()\n"
        "    while True:\n"
        "        os.symlink('/etc/passwd', 'new'); os.replace('new', 'out')\n"
        "        open('new', 'w').write('y'); os.replace('new', 'out')\n"
        "while not os.path.lexists('out'): pass\n",
        (OK, BAD_ARTIFACT),
        lacks=("root:x:0",),
    ),
    Case(
        "a writable mapping of an artifact is gone before it is read",
        "import mmap, os\n"
        "f = open('a', 'w+b'); f.truncate(4096); m = mmap.mmap(f.fileno(), 4096)\n"
        "if os.fork() == 0:\n"
        "    while True:\n"
        "        for i in range(256): m[0] = i\n",
        OK,
        artifacts=("a",),
    ),
    Case(
        "locks and leases on an artifact end with the job",
        "import fcntl, os\n"
        "f = open('a', 'w+'); f.write('x'); f.flush(); fcntl.flock(f, fcntl.LOCK_EX); fcntl.lockf(f, fcntl.LOCK_EX)\n"
        "if os.fork() == 0:\n"
        "    import signal; signal.pause()\n",
        OK,
        artifacts=("a",),
    ),
    Case(
        "mounting something on the outputs is a violation",
        f"import ctypes; ctypes.CDLL(None).syscall({number('mount')}, b'/etc', b'/workspace', None, 4096, None)",
        VIOLATES,
    ),
]
