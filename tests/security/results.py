"""What a job leaves where the executor looks for its result."""

from .case import BAD_RESULT, BAD_VALUE, EXITS, MIB, NO_RESULT, OK, RAISES, Case, Verdict, exceeds, shell

_FILE = ".praxis/result.json"


def _forged(content: str) -> str:
    """Code that writes a result past the harness, which never gets to write its own."""
    return f"import os\nopen({_FILE!r}, 'w', errors='surrogatepass').write({content})\nos._exit(0)"


def _in_place(action: str, where: str = "result.json", *, leave: bool = True) -> str:
    """Code that puts something else in the place of the result, and goes before the harness looks, or not."""
    path = ".praxis" if where == ".praxis" else _FILE
    prepare = "os.rmdir('.praxis')" if where == ".praxis" else ""
    return f"import os, socket\n{prepare}\npath = {path!r}\n{action}\n" + ("os._exit(0)" if leave else "1")


_LINKS = "os.symlink('/etc/passwd', path)"
_ANY_FAILURE = (
    NO_RESULT,
    EXITS,
    RAISES,
    Verdict("U", "failed", "USER_CODE_ERROR", "no_result"),
)

CASES = [
    # -- forged content: no trust is gained -------------------------------------------------------------------------
    Case("a forged value is the job's own value", _forged("""'{"value": 42}'"""), OK, outputs=42),
    Case(
        "a forged error is the job's own error",
        _forged("""'{"error": {"type": "E", "message": "/root/x \\\\u001b[31m", "traceback": "t"}}'"""),
        RAISES,
    ),
    Case(
        "a forged error of odd types does no harm",
        _forged("""'{"error": {"type": [1], "message": {"a": 1}, "traceback": 5}}'"""),
        RAISES,
    ),
    Case("a forged error that is no object does no harm", _forged("""'{"error": "x", "value": 1}'"""), OK),
    Case("a forged complaint does no harm", _forged("""'{"bad_value": {"a": ["b"]}}'"""), BAD_VALUE),
    Case(
        "a forged category or limit is not looked at",
        _forged(
            """'{"value": 1, "category": "INTERNAL_ERROR", "status": "cancelled", "limit": "memory_bytes"}'"""
        ),
        OK,
        outputs=1,
    ),
    Case("a forged pickle is no result", _forged("chr(128) + 'cos\\nsystem\\n'"), BAD_RESULT),
    Case("NaN is no result", _forged("""'{"value": NaN}'"""), BAD_RESULT),
    Case("infinity is no result", _forged("""'{"value": [1e999, -Infinity]}'"""), BAD_RESULT),
    Case("a key given twice is no result", _forged("""'{"value": 1, "value": 2}'"""), BAD_RESULT),
    Case("half of a surrogate pair is no result", _forged("""'{"value": "\\\\ud800"}'"""), BAD_RESULT),
    Case("a surrogate as bytes is no result", _forged("""'{"value": "\\ud800"}'"""), BAD_RESULT),
    Case(
        "an integer of 100,000 digits is no result",
        _forged("""'{"value": ' + '9' * 10**5 + '}'"""),
        BAD_RESULT,
    ),
    Case("an integer of 70 bits is no result", _forged("""'{"value": 1' + '0' * 21 + '}'"""), BAD_RESULT),
    Case("a list is no result", _forged("'[1]'"), BAD_RESULT),
    Case("nothing is no result", _forged("''"), BAD_RESULT),
    Case("something behind the result is no result", _forged("""'{"value": 1} {"value": 2}'"""), BAD_RESULT),
    Case("a byte order mark is no result", _forged("""chr(0xfeff) + '{"value": 1}'"""), BAD_RESULT),
    Case("nesting of 100,000 is no result", _forged("'[' * 10**5"), BAD_RESULT),
    Case(
        "nesting of 70, which JSON readers take, is no result",
        _forged("""'{"value": ' + '[' * 70 + ']' * 70 + '}'"""),
        BAD_RESULT,
    ),
    Case(
        "a million brackets are refused before they are objects",
        _forged("""'{"value": [' + '[],' * 1_500_000 + '[]]}'"""),
        BAD_RESULT,
        limits={"outputs_bytes": MIB, "stdout_bytes": MIB},
    ),
    Case(
        "as many brackets as fit are bounded",
        _forged("""'{"value": [' + '[],' * 900_000 + '[]]}'"""),
        exceeds("outputs_bytes"),
        limits={"outputs_bytes": MIB},
        growth_mib=192,
    ),
    Case(
        "a result of 8 MiB is too long",
        _forged("""'{"value": "' + 'x' * (8 << 20)"""),
        exceeds("outputs_bytes"),
    ),
    Case(
        "a sparse result is too long",
        f"import os; open({_FILE!r}, 'wb').truncate(7 << 20); os._exit(0)",
        exceeds("outputs_bytes"),
    ),
    # -- through the harness ----------------------------------------------------------------------------------------
    Case(
        "a value longer than its limit is too long",
        "def main(): return 'x' * 70_000",
        exceeds("outputs_bytes"),
    ),
    Case(
        "an honest integer of 100 bits is refused in words",
        "def main(): return 2**100",
        BAD_VALUE,
        says="64 bits",
    ),
    Case(
        "an honest half of a surrogate pair is refused in words",
        r"def main(): return '\udcff'",
        BAD_VALUE,
        says="surrogate",
    ),
    Case(
        "an integer of 100 bits as the last line is shown",
        "2**100",
        OK,
        outputs={"repr": str(2**100), "type": "int"},
    ),
    Case("an honest NaN is null", "[float('nan'), 1.5]", OK, outputs=[None, 1.5]),
    Case("a value nested 64 deep is kept", "x = []\nfor _ in range(63): x = [x]\nx", OK),
    Case(
        "a value nested 70 deep is refused",
        "x = []\nfor _ in range(70): x = [x]\ndef main(): return x",
        BAD_VALUE,
    ),
    Case("a value that holds itself is refused", "x = []\nx.append(x)\ndef main(): return x", BAD_VALUE),
    Case(
        "a last line that holds itself is shown",
        "x = []\nx.append(x)\nx",
        OK,
        outputs={"repr": "[[...]]", "type": "list"},
    ),
    Case("bytes and sets become what JSON has", "[b'a', {2, 1}]", OK, outputs=["a", [1, 2]]),
    Case(
        "an object that computes for ever ends",
        "import itertools\nclass E(dict):\n    def items(self): return ((n, 1) for n in itertools.count())\n"
        "def main(): return E()",
        (exceeds("cpu_s"), exceeds("memory_bytes")),
        limits={"cpu_s": 1},
        without_cgroups=(exceeds("cpu_s"), RAISES),
    ),
    # -- in the place of the file -----------------------------------------------------------------------------------
    Case("a symlink as the result is not followed", _in_place(_LINKS), NO_RESULT, lacks=("root:x:0",)),
    Case("a symlink as the result stops the harness only", _in_place(_LINKS, leave=False), _ANY_FAILURE),
    Case(
        "a symlink to another file as the result is not followed",
        _in_place("open('own', 'w').write('{\"value\": 1}'); os.symlink('../own', path)"),
        NO_RESULT,
    ),
    Case("a fifo as the result does not block", _in_place("os.mkfifo(path)"), NO_RESULT),
    Case(
        "a fifo as the result ends the harness at the wall clock",
        _in_place("os.mkfifo(path)", leave=False),
        Verdict("R", "timed_out", "RESOURCE_LIMIT", "wall_clock_exceeded", "wall_s"),
        limits={"wall_s": 0.5},
    ),
    Case("a folder as the result is none", _in_place("os.mkdir(path)"), NO_RESULT),
    Case(
        "a folder as the result stops the harness only",
        _in_place("os.mkdir(path)", leave=False),
        _ANY_FAILURE,
    ),
    Case("a socket as the result is none", _in_place("socket.socket(socket.AF_UNIX).bind(path)"), NO_RESULT),
    Case(
        "an unreadable result is none, or the job's own",
        f"import os; open({_FILE!r}, 'w').write('{{\"value\": 1}}'); os.chmod({_FILE!r}, 0); os._exit(0)",
        OK,
        as_caller=NO_RESULT,
    ),
    # -- in the place of its folder ---------------------------------------------------------------------------------
    Case(
        "a symlink as its folder is not followed",
        _in_place(
            "os.mkdir('/tmp/f'); open('/tmp/f/result.json', 'w').write('{\"value\": 1}'); os.symlink('/tmp/f', path)",
            ".praxis",
        ),
        NO_RESULT,
    ),
    Case(
        "a symlink as its folder hides the harness's result",
        _in_place("os.mkdir('/tmp/f'); os.symlink('/tmp/f', path)", ".praxis", leave=False),
        NO_RESULT,
    ),
    Case(
        "a symlink within the outputs as its folder is not followed",
        _in_place(
            "os.mkdir('f'); open('f/result.json', 'w').write('{\"value\": 1}'); os.symlink('f', path)",
            ".praxis",
        ),
        NO_RESULT,
    ),
    Case(
        "a symlink to / as its folder is not followed",
        _in_place("os.symlink('/', path)", ".praxis"),
        NO_RESULT,
    ),
    Case("a fifo as its folder does not block", _in_place("os.mkfifo(path)", ".praxis"), NO_RESULT),
    Case(
        "a fifo as its folder stops the harness only",
        _in_place("os.mkfifo(path)", ".praxis", leave=False),
        _ANY_FAILURE,
    ),
    Case("a file as its folder is none", _in_place("open(path, 'w')", ".praxis"), NO_RESULT),
    Case("a closed folder stops the harness only", "import os; os.chmod('.praxis', 0)", _ANY_FAILURE),
    Case("a removed folder is made again", "import os; os.rmdir('.praxis')\n3", OK, outputs=3),
    Case(
        "a folder as the result of a program is told",
        shell(f"mkdir -p {_FILE}; echo fine"),
        BAD_RESULT,
        says="not a regular file",
    ),
    Case(
        "a result as deep as the sea of a program is refused",
        shell(f"mkdir -p .praxis; head -c 60000 /dev/zero | tr '\\0' '[' > {_FILE}"),
        BAD_RESULT,
    ),
    Case(
        "a job may not bring its own result",
        {"files": {"main.py": "import os; os._exit(0)", _FILE: '{"value": 5}'}, "entrypoint": "main.py"},
        (OK, NO_RESULT, Verdict("V", "failed", "VALIDATION_ERROR", "invalid_payload")),
    ),
    Case(
        "a job may not bring a file in the place of the folder",
        {"files": {"main.py": "1", ".praxis": "x"}, "entrypoint": "main.py"},
        (NO_RESULT, Verdict("V", "failed", "VALIDATION_ERROR", "invalid_payload")),
    ),
]
