"""A first look at a new environment, from inside a sandbox.

Packages are somebody else's code: they are installed without running any of it, and the first time it runs is
here, as it will run for jobs. Found out are whether the modules to preload can be imported, and which fonts
matplotlib and packages of fonts bring along (so that no job has to search for fonts, and none sees those of this host).
"""

from __future__ import annotations

import asyncio
import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

from praxis_sdk.errors import PlatformError, ValidationError
from praxis_sdk.jobs.executor.sanitize import Sanitizer
from praxis_sdk.jobs.payload import strict_json
from praxis_sdk.sandbox import Bind, Launcher, Limits, Policy, SandboxExit

INSIDE: Final = "/environment"
TIMEOUT_S: Final = 300.0
_MAX_OUTPUT_BYTES: Final = 16 << 20
# Asked in this order for what the family of a text lacks: Chinese, Japanese and Korean, emoji, other scripts.
_FILL_IN: Final = (
    "Noto Sans CJK JP",
    "Noto Emoji",
    *("Noto Sans Arabic", "Noto Sans Devanagari", "Noto Sans Thai", "Noto Sans Hebrew"),
)
_FONT_FILE: Final = re.compile(r"fontlist-v[0-9A-Za-z]+(\.[0-9A-Za-z]+)*\.json")

_SCRIPT: Final = """
import importlib, json, os, sys
stdout = os.dup(1)
os.dup2(2, 1)
names, fonts = sys.argv[2:], None
for name in names:
    try:
        importlib.import_module(name)
    except BaseException as error:
        print(f"'{name}': {type(error).__name__}: {error}", file=sys.stderr)
        os._exit(1)
if sys.argv[1] == "matplotlib":
    import matplotlib.font_manager as manager
    everywhere = manager.findSystemFonts
    manager.findSystemFonts = lambda paths=None, fontext="ttf": everywhere(paths, fontext) if paths else []
    found = manager.FontManager()
    own = os.path.dirname(manager.__file__)
    beside = (p for p in everywhere([os.path.dirname(own)]) if not p.startswith(own + os.sep))
    for path in sorted(beside)[:500]:
        try:
            found.addfont(path)
        except Exception:  # it is not one that matplotlib reads
            pass
    manager.json_dump(found, "/tmp/fonts.json")
    with open("/tmp/fonts.json") as file:
        fonts = {"file": f"fontlist-v{manager.FontManager.__version__}.json", "list": json.load(file)}
with open(stdout, "w") as file:
    json.dump({"fonts": fonts}, file)
os._exit(0)
"""


@dataclass(frozen=True)
class FontList:
    """The fonts of an environment, as matplotlib's own cache file says it.

    Args:
        file: name of the cache file.
        content: its bytes, the same on every host.
        families: those that fill in for characters which the usual ones lack.
    """

    file: str
    content: bytes
    families: tuple[str, ...] = ()


def inspect(
    prefix: Path,
    *,
    binds: Sequence[Path],
    variables: Mapping[str, str],
    preload: Sequence[str],
    has_matplotlib: bool,
) -> FontList | None:
    """Import what is to be preloaded, in a sandbox; blocks, so not for the thread of an event loop.

    Args:
        prefix: the environment, still without its final path.
        binds: further folders that its interpreter needs to see.
        variables: environment variables of a job.
        preload: modules to import.
        has_matplotlib: whether to make a list of fonts.

    Raises:
        ValidationError: a module cannot be imported.
        IsolationUnavailable: this host cannot build a sandbox.
        PlatformError: the sandbox failed.
    """
    with tempfile.TemporaryFile() as stdout, tempfile.TemporaryFile() as stderr:
        policy = Policy(
            mounts=(Bind(prefix, INSIDE), *(Bind(path, str(path)) for path in binds)),
            limits=Limits(cpu_seconds=TIMEOUT_S, memory_bytes=4 << 30, file_size_bytes=_MAX_OUTPUT_BYTES),
        )
        argv = [f"{INSIDE}/bin/python", "-s", "-P", "-c", _SCRIPT]
        argv += ["matplotlib" if has_matplotlib else "", *preload]
        end = asyncio.run(_run(policy, argv, variables, stdout, stderr))
        if not end.ok:
            raise _failure(end, stderr)
        stdout.seek(0)
        return _fonts(stdout.read(_MAX_OUTPUT_BYTES))


async def _run(
    policy: Policy, argv: Sequence[str], variables: Mapping[str, str], stdout: IO[bytes], stderr: IO[bytes]
) -> SandboxExit:
    async with await Launcher.start() as launcher:
        sandbox = await launcher.spawn(
            policy, argv, env=variables, stdout=stdout.fileno(), stderr=stderr.fileno()
        )
        with sandbox:
            try:
                async with asyncio.timeout(TIMEOUT_S):
                    return await sandbox.wait()
            except TimeoutError as problem:
                raise ValidationError(
                    f"preload: not imported within {TIMEOUT_S:g} s", remedy="preload fewer modules"
                ) from problem


def _failure(end: SandboxExit, stderr: IO[bytes]) -> Exception:
    size = os.fstat(stderr.fileno()).st_size
    stderr.seek(max(0, size - 4096))
    lines = stderr.read(4096).decode("utf-8", "replace").strip().splitlines() or [""]
    said = Sanitizer().message(lines[-1], max_bytes=400)
    if end.spawn_error is not None:
        return PlatformError(f"the interpreter cannot be started in a sandbox: {end.spawn_error.message}")
    if end.killed_by is not None:
        return ValidationError(
            f"preload: ended by the limit of {end.killed_by}", remedy="preload fewer modules"
        )
    return ValidationError(f"preload: cannot import {said}" if said else "preload: the interpreter crashed")


def _fonts(output: bytes) -> FontList | None:
    """Read what the sandbox wrote; it is data of a stranger, and goes nowhere but back into a sandbox."""
    try:
        fonts: Any = strict_json.parse(output, max_bytes=_MAX_OUTPUT_BYTES)["fonts"]
        if fonts is None:
            return None
        name, content = str(fonts["file"]), dict(fonts["list"])
        for key in ("ttflist", "afmlist"):
            # The order of a search through folders is the file system's; that of names is the same everywhere.
            content[key] = sorted(content[key], key=lambda font: str(font["fname"]))
    except (KeyError, TypeError, ValueError) as error:
        raise PlatformError(f"matplotlib's list of fonts is not understood: {error}") from error
    if not _FONT_FILE.fullmatch(name):
        raise PlatformError(f"matplotlib's list of fonts has an unknown name: {name[:80]!a}")
    names = {font.get("name") for font in content["ttflist"] if isinstance(font, dict)}
    return FontList(name, strict_json.canonical(content), tuple(one for one in _FILL_IN if one in names))
