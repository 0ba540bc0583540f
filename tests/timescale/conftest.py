"""A project on each server: the one of the tests, and TimescaleDB Community."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from app.timescale.statements import ENABLE_TIMESCALE
from tests.conftest import make_database
from tests.timescale.project import Project, is_community

pytest.register_assert_rewrite("tests.timescale.walk")


@pytest.fixture(params=["server", "community"])
async def project(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server_url: str
) -> AsyncIterator[Project]:
    """With TimescaleDB enabled where the server has it."""
    if request.param == "community":
        server = request.getfixturevalue("community")
        server.reset()
        made = Project(tmp_path, server.dsn, monkeypatch)
        await made.fetch(ENABLE_TIMESCALE)
        assert await is_community(made)
        yield made
    else:
        async with make_database(server_url) as url:
            made = Project(tmp_path, url, monkeypatch)
            await made.fetch(ENABLE_TIMESCALE)
            yield made
