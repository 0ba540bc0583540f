"""Random ways from one declaration to the next: each step generated, applied, free of drift, and taken back, with its rows."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

from app.timescale.statements import ENABLE_TIMESCALE
from tests.conftest import make_database
from tests.timescale.community import CommunityServer
from tests.timescale.project import Project, is_community
from tests.timescale.sequences import CHANGES, MORE_CHANGES, Step, sequences
from tests.timescale.walk import Walk

# How many ways: always the same few, or as many as there is time for, each time others.
WANTED = os.environ.get("AURUM_TEST_SEQUENCES")
TRIES = settings(
    max_examples=int(WANTED or 8),
    derandomize=WANTED is None,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
if WANTED is not None:
    pytestmark = pytest.mark.timeout(0)


async def walk(url: str, steps: list[Step]) -> None:
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        patch.setattr(sys, "path", list(sys.path))  # where Piccolo puts the folder of the migrations
        project = Project(Path(folder), url, patch)
        await project.fetch(ENABLE_TIMESCALE)
        try:
            await Walk(project, community=await is_community(project)).walk(steps)
        finally:
            project.forget_files()


@TRIES
@given(steps=sequences(MORE_CHANGES))
async def test_any_way_leads_there_and_back_on_the_server(server_url: str, steps: list[Step]) -> None:
    async with make_database(server_url) as url:
        await walk(url, steps)


@TRIES
@given(steps=sequences(CHANGES))
async def test_any_way_leads_there_and_back_on_community(community: CommunityServer, steps: list[Step]) -> None:
    community.reset()
    await walk(community.dsn, steps)
