"""Uploads and variables that change how Python or the linker starts."""

from .case import BAD_ARTIFACT, EXITS, NO_RESULT, OK, RAISES, Case, Verdict, shell

MISSING_INPUT = Verdict("V", "failed", "DEPENDENCY_ERROR", "input_missing")
_LINKER = (
    "export LD_PRELOAD=/workspace/evil.so LD_LIBRARY_PATH=/workspace PYTHONPATH=/workspace "
    "GLIBC_TUNABLES=glibc.malloc.mxfast=glibc.malloc.mxfast=A PYTHONSTARTUP=/workspace/evil.py POISON=1; "
    "cat /etc/hostname"
)
_EVIL = "import os; os.environ['POISON'] = '1'; print('poisoned')"


def _upload(name: str, code: str, content: str = _EVIL) -> dict[str, object]:
    return {"files": {"main.py": code, name: content}, "entrypoint": "main.py"}


CASES = [
    *(
        Case(f"an upload named {name} is not imported at start", _upload(name, "1"), OK, lacks=("poisoned",))
        for name in (
            "sitecustomize.py",
            "usercustomize.py",
            "site.py",
            "evil.pth",
            "json.py",
            "os.py",
            "signal.py",
            "traceback.py",
            "random.py",
            "encodings/__init__.py",
            "importlib/__init__.py",
            "pyvenv.cfg",
            "praxis_sdk/__init__.py",
            "harness.py",
            "__main__.py",
            "python",
            "conftest.py",
        )
    ),
    Case(
        "an upload can be imported by the job itself",
        _upload("mine.py", "import mine; mine.x", "x = 5"),
        OK,
        outputs=5,
    ),
    Case(
        "an upload that shadows the library is the job's own affair",
        _upload("wave.py", "import wave", _EVIL),
        OK,
        says="poisoned",
    ),
    Case(
        "an upload that breaks the harness's late imports is the job's own mistake",
        _upload("numbers.py", "import sys; sys.modules.pop('traceback', None); raise ValueError('x')", "1/0"),
        RAISES,
    ),
    Case(
        "replaced built-ins do not make a success",
        "import builtins\n"
        "for name in ('open', 'print', 'len', 'isinstance', 'str', 'range', 'type', 'getattr', 'map', 'any'):\n"
        "    setattr(builtins, name, None)\n"
        "raise ValueError('x')",
        (RAISES, EXITS, NO_RESULT),
    ),
    Case(
        "a replaced meta path does not make a success",
        "import sys\nsys.meta_path.clear(); sys.modules.clear(); sys.path[:] = ['/proc']\nraise ValueError('x')",
        (RAISES, EXITS, NO_RESULT),
    ),
    Case(
        "variables of the linker and of Python act on the job's own children only",
        {
            "runtime": "command",
            "files": {"evil.py": "print('own')"},
            "command": [
                "sh",
                "-c",
                _LINKER,
            ],
        },
        OK,
        says="sandbox",
    ),
    Case(
        "a poisoned cache of byte code stays in the job",
        "import os\nos.makedirs('__pycache__'); open('__pycache__/json.cpython-311.pyc', 'wb').write(b'evil')\n"
        "os.makedirs('/tmp/.matplotlib', exist_ok=True); open('/tmp/.matplotlib/fontlist.json', 'w').write('evil')",
        OK,
        artifacts=(),
    ),
    Case(
        "byte code cannot be written beside the interpreter's library",
        "import importlib.util, json, os\n"
        "path = importlib.util.cache_from_source(json.__file__)\n"
        "os.makedirs(os.path.dirname(path), exist_ok=True); open(path, 'wb').write(b'evil')",
        RAISES,
    ),
    Case("source that is no Python is the job's own mistake", "def (:", RAISES, says="SyntaxError"),
    Case("source with a NUL is the job's own mistake", "x = 1\0", RAISES),
    Case("source that nests too deep is the job's own mistake", "(" * 300 + ")" * 300, RAISES),
    Case(
        "source that makes the compiler work for ever is bounded",
        "-" * 50_000 + "1",
        RAISES,
    ),
    Case("source that returns at top level is the job's own mistake", "return 1", RAISES),
    Case(
        "a declared coding cannot hide what runs",
        "# -*- coding: utf-7 -*-\n# +AAo-print('hidden')\n1",
        OK,
        outputs=1,
        lacks=("hidden",),
    ),
    Case(
        "parameters are data",
        {
            "code": "def main(text, **others): return text",
            "parameters": {"text": "__import__('os').system('id')", "__builtins__": 1, "self": None},
        },
        OK,
        outputs="__import__('os').system('id')",
    ),
    Case(
        "an input is data under its own name",
        {"code": "inputs['n.p']", "inputs": {"n.p": {"value": {"__proto__": [1, None]}}}},
        OK,
        outputs={"__proto__": [1, None]},
    ),
    Case(
        "an input that is not here is a missing dependency",
        {"code": "1", "inputs": {"x": {"digest": "sha256:" + "0" * 64}}},
        MISSING_INPUT,
    ),
    Case(
        "a script of its own may shadow a program",
        {"runtime": "command", "files": {"ls": "#!/bin/sh\necho mine\n"}, "command": ["./ls"]},
        OK,
        says="mine",
    ),
    Case(
        "a link in the place of an uploaded folder is the job's own",
        shell("ln -s /etc d; cat d/hostname"),
        BAD_ARTIFACT,
    ),
]
