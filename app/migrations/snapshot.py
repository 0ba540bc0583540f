"""The schema that the migrations make, as SQL and as a page with a diagram: the same bytes on every server and edition.

It is read from a rehearsal of all migrations that leaves the hypertables out, since editions differ in those; they come
from the migrations' declarations, as the steps that a migration would run.
"""

from __future__ import annotations

from piccolo.conf.apps import AppConfig

from app.engine import Engine
from app.migrations.rehearsal import open_rehearsal, rehearse
from app.timescale.autogenerate import read_hypertables
from app.timescale.diagram import write_page
from app.timescale.files import load_managers
from app.timescale.manager import TimescaleMigrationManager
from app.timescale.script import write_script


async def make_snapshot(engine: Engine, app: AppConfig) -> dict[str, str]:
    """The text of each file, by its name: schema.sql and schema.md. Any database will do, and stays as it is.

    Raises DatabaseUnavailable, MigrationRefused where the role can't rehearse, MigrationFailed where a migration can't run.
    """
    managers = await load_managers(app)
    async with open_rehearsal(engine):
        catalogue = await rehearse(engine, managers, hypertables=False)
    hypertables = read_hypertables(managers)
    timescale = any(
        isinstance(manager, TimescaleMigrationManager) and manager.enables_timescale for manager in managers
    )
    return {
        "schema.sql": write_script(catalogue, hypertables, timescale=timescale),
        "schema.md": write_page(catalogue, hypertables),
    }
