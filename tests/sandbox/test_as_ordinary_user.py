"""The same tests once more, by a user without any privilege."""

import os
from pathlib import Path

import pytest

from devservices.ordinary_user import OrdinaryUser

MODULES = sorted(
    path.name for path in Path(__file__).parent.glob("test_*.py") if path.name != Path(__file__).name
)


if os.geteuid() == 0:  # else these very tests are being run by an ordinary user

    @pytest.mark.parametrize("module", MODULES)
    def test_the_sandbox_works_without_privileges(ordinary_user: OrdinaryUser, module: str) -> None:
        done = ordinary_user.run_pytest(f"tests/sandbox/{module}", "-q")
        assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
