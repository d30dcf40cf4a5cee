"""Every hostile job ends as its case says, and nothing of it is left."""

import pytest

from . import artifacts, files, kernel, memory, network, output, processes, python, results, tex
from .case import Case
from .laboratory import Laboratory

THEMES = (artifacts, files, kernel, memory, network, output, processes, python, results, tex)
CASES = [
    pytest.param(case, id=f"{theme.__name__.rsplit('.', 1)[-1]}: {case.name}")
    for theme in THEMES
    for case in theme.CASES
]


@pytest.mark.asyncio(loop_scope="session")
@pytest.mark.parametrize("case", CASES)
async def test_hostile_job(laboratory: Laboratory, case: Case) -> None:
    await laboratory.survives(case)
