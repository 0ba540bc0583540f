"""A project on each server: the one of the tests, and TimescaleDB Community."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.conftest import make_database
from tests.timescale.project import Project


@pytest.fixture(params=["server", "community"])
async def project(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server_url: str
) -> AsyncIterator[Project]:
    if request.param == "community":
        server = request.getfixturevalue("community")
        server.reset()
        yield Project(tmp_path, server.dsn, monkeypatch)
    else:
        async with make_database(server_url) as url:
            made = Project(tmp_path, url, monkeypatch)
            if await made.fetch("SELECT 1 FROM pg_available_extensions WHERE name = 'timescaledb'"):
                await made.fetch("CREATE EXTENSION timescaledb")
            yield made
    if request.param == "community":
        server.reset()
