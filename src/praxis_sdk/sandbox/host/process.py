"""How a clean helper process of the sandbox is started: the launcher, and the host's examination."""

from __future__ import annotations

import os
import sys
from pathlib import Path

# Makes the packages importable without running their own __init__, which would load the whole client.
BOOTSTRAP = """
import sys, types
root = sys.argv[1]
for name, path in (("praxis_sdk", root), ("praxis_sdk.sandbox", root + "/sandbox")):
    package = types.ModuleType(name)
    package.__path__ = [path]
    sys.modules[name] = package
"""


def command(code: str, *arguments: str) -> list[str]:
    """Return the command line of an isolated interpreter that runs `code`.

    Args:
        code: Python; it imports from `praxis_sdk.sandbox` only what needs no third-party package.
        arguments: its `sys.argv[2:]`.
    """
    package = Path(__file__).resolve().parent.parent.parent
    # The real path of the interpreter, so that no virtual environment is consulted.
    return [os.path.realpath(sys.executable), "-I", "-S", "-c", BOOTSTRAP + code, str(package), *arguments]
