"""One executor for all hostile jobs: each of them is the predecessor of the next."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from .laboratory import Laboratory


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def laboratory(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Laboratory]:
    """An executor on a home of its own; when the last test is over, nothing of it may be left."""
    home = tmp_path_factory.mktemp("home")
    made = Laboratory(home, tmp_path_factory.mktemp("temporary") / "files")
    await made.open()
    yield made
    await made.close()
