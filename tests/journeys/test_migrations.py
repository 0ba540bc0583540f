"""The migrations as people live with them, on every edition: what the seed left pending, and what holds for all of them."""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from app.migrations.state import APP_NAME, FOLDER, list_migrations
from app.piccolo_app import APP_CONFIG
from app.timescale.autogenerate import read_hypertables as read_declared
from app.timescale.drift import find_differences
from app.timescale.files import list_files, load_managers
from app.timescale.manager import TimescaleMigrationManager
from tests.client import ServiceClient
from tests.conftest import ROOT, run_command, run_sql
from tests.ports import find_free_port
from tests.test_migrations import HYPERTABLES, TABLES, fetch, has_extension, list_tables, read_hypertables, run
from tests.test_startup import start, wait_until_ready
from tests.timescale.catalogue import build, look

BOOKKEEPING = ["migration", "migration_journal"]
DERIVED = ["rollup_changes"]  # from readings, and made anew
BY_HAND = (
    "function note_rollup_changes()",
    "function note_deleted_reading()",
    "trigger raw_measurements.note_",
    "function chain_audit()",
    "function refuse_audit_change()",
    "trigger audit.",
)
SEED = (
    "INSERT INTO machines (machine_id, machine_type, location) VALUES ('A', 'press', 'x'), ('B', 'mill', 'y')",
    "INSERT INTO raw_measurements (machine_id, timestamp, metrics) "
    "SELECT 'A', '2026-01-01'::timestamptz + n * interval '1 hour', jsonb_build_object('n', n) FROM generate_series(1, 99) AS n",
    "INSERT INTO features (machine_id, timestamp, features) "
    "SELECT 'B', '2026-01-01'::timestamptz + n * interval '1 day', jsonb_build_object('n', n) FROM generate_series(1, 99) AS n",
    "INSERT INTO predictions (machine_id, timestamp, risk_score, model_version, features_used) "
    "SELECT 'A', '2026-01-01'::timestamptz + n * interval '1 day', 0.5, 'v' || n, '{}' FROM generate_series(1, 99) AS n",
    "INSERT INTO esg_records (machine_id, timestamp, instant_co2eq_kg, cumulative_co2eq_kg, factors) "
    "SELECT 'A', '2026-01-01'::timestamptz + n * interval '1 day', n, n * n, '{}' FROM generate_series(1, 99) AS n",
    "INSERT INTO alerts (machine_id, timestamp, alert_type, severity, cause, title) "
    "SELECT 'B', '2026-01-01'::timestamptz + n * interval '1 day', 'ESG', 'LOW', 'c', 't' FROM generate_series(1, 9) AS n",
    "INSERT INTO outbox (topic, payload) SELECT 'measurements', to_jsonb(n) FROM generate_series(1, 9) AS n",
)


# --- what the seed left pending -----------------------------------------------------------------------------------


async def test_the_first_migration_is_applied(url: str) -> None:
    first = list_migrations()[0]
    await run(url, "invoke", "migrate-to", "--id", first)
    assert await fetch(url, "SELECT name, app_name FROM migration") == [(first, APP_NAME)]
    assert await fetch(url, "SELECT migration, event FROM migration_journal") == [(first, "applied")]


async def test_the_tables_and_the_extension_are_there(url: str) -> None:
    available = await fetch(url, "SELECT 1 FROM pg_available_extensions WHERE name = 'timescaledb'") != []
    await run(url, "piccolo", "migrations", "forwards", "app")
    assert await list_tables(url) == sorted([*TABLES, *BOOKKEEPING])
    assert await has_extension(url) is available
    assert await read_hypertables(url) == (HYPERTABLES if available else {})


async def test_back_to_nothing_and_forward_again_gives_the_same_database(url: str) -> None:
    await run(url, "piccolo", "migrations", "forwards", "app")
    before = await look(url)
    await run(url, "piccolo", "migrations", "backwards", "app", "all", "--auto_agree")
    assert await list_tables(url) == BOOKKEEPING
    assert await look(url) == {}
    await run(url, "piccolo", "migrations", "forwards", "app")
    assert await look(url) == before


async def test_a_new_column_is_generated_applied_and_taken_back(url: str, tmp_path: Path) -> None:
    for name in ("app", "piccolo_migrations"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("piccolo_conf.py", "tasks.py"):
        shutil.copy(ROOT / name, tmp_path)
    tables = tmp_path / "app" / "tables.py"
    location = "    location = Text(default=None)\n"
    assert tables.read_text().count(location) == 1
    tables.write_text(
        tables.read_text().replace(location, f"{location}    serial_number = Text(default=None, null=True)\n")
    )

    async def invoke(*command: str) -> str:
        done = await asyncio.to_thread(
            run_command, "invoke", *command, database_url=url, cwd=tmp_path, PYTHONPATH=str(tmp_path)
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    column = "SELECT data_type, is_nullable FROM information_schema.columns WHERE column_name = 'serial_number'"
    assert (await invoke("migration", "--msg", "Number the machines")).startswith("Wrote piccolo_migrations/app_")
    assert (
        await invoke("migration", "--msg", "again")
    ) == "Nothing changed: the migrations say all that the tables do.\n"
    assert len(list((tmp_path / "piccolo_migrations").glob("app_*.py"))) == len(list_migrations()) + 1
    await invoke("migrate")
    assert await fetch(url, column) == [("text", "YES")]
    assert (await invoke("migrate-check")) == "Migrations, database and tables are in step.\n"
    await invoke("migrate-rollback")
    assert await fetch(url, column) == []


async def test_after_a_reset_and_its_migrations_the_service_starts_and_answers(url: str) -> None:
    if "template1" in url:
        pytest.skip("TimescaleDB in WebAssembly has one session, and the service needs more")
    await run(url, "invoke", "migrate")
    await run(url, "invoke", "migrate-to", "--id", "base", "--yes")
    await run(url, "invoke", "migrate")
    port = find_free_port()
    with start(["invoke", "serve"], port, DATABASE_URL=url):
        assert (await wait_until_ready(port)).json()["status"] == "ready"
        async with ServiceClient(f"http://127.0.0.1:{port}") as client:
            registered = await client.ask(
                'mutation { registerMachine(input: {machineId: "P", machineType: "press", location: "x"}) { machineId } }'
            )
            assert registered == {"registerMachine": {"machineId": "P"}}
            assert await client.ask("{ machines { nodes { machineId } } }") == {
                "machines": {"nodes": [{"machineId": "P"}]}
            }


# --- what holds for all of them -----------------------------------------------------------------------------------


async def test_they_are_a_single_line() -> None:
    """Each has a file called after it, and begins where those before it have left every hypertable and index."""
    files = list_files(FOLDER)
    names = [path.name for path in files.values()]
    assert names == sorted(path.name for path in FOLDER.glob("app_*.py"))
    assert names == [f"app_{name.replace('-', '_').replace(':', '_').lower()}.py" for name in files]
    managers = await load_managers(APP_CONFIG)
    for place, manager in enumerate(managers):
        known = read_declared(managers[:place])
        for transition in manager.transitions if isinstance(manager, TimescaleMigrationManager) else ():
            assert transition.old == known.get(transition.tablename)


async def test_what_they_make_is_what_the_tables_declare(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # Piccolo looks into piccolo_conf.py for the kind of engine.
    monkeypatch.setenv("DATABASE_URL", url)
    monkeypatch.delitem(sys.modules, "piccolo_conf", raising=False)
    await run(url, "invoke", "migrate")
    found = [str(each) for each in find_differences(await build(url, APP_CONFIG.table_classes), await look(url))]
    assert [each for each in found if not each.startswith(BY_HAND)] == []
    assert len(found) == 11  # functions, and the triggers that call them


@pytest.mark.timeout(900)  # two dozen commands, each a process
async def test_rows_of_every_table_stay_back_and_forward(url: str) -> None:
    """Through each migration but the first, which makes these tables: what one holds, it holds under every one of them."""
    await run(url, "invoke", "migrate")
    await run_sql(url, *SEED)
    before = await read_rows(url)
    assert {table: len(rows) for table, rows in before.items()} == {
        "alerts": 9,
        "esg_records": 99,
        "features": 99,
        "machines": 2,
        "outbox": 9,
        "predictions": 99,
        "raw_measurements": 99,
    }
    names = list_migrations()
    for name in (*reversed(names[:-1]), *names[1:]):
        await run(url, "invoke", "migrate-to", "--id", name, "--yes")
        rows = await read_rows(url)
        assert rows.keys() == before.keys()
        for table, held in rows.items():
            columns = held[0].keys() & before[table][0].keys()
            assert [{name: row[name] for name in columns} for row in held] == [
                {name: row[name] for name in columns} for row in before[table]
            ]
    assert await read_rows(url) == before


async def read_rows(url: str) -> dict[str, list[dict[str, Any]]]:
    """All rows of the tables that have any, in the order of their texts."""
    found = {}
    for table in await list_tables(url):
        if table not in [*BOOKKEEPING, *DERIVED]:
            rows = await fetch(url, f"SELECT to_jsonb(held)::text FROM {table} AS held ORDER BY 1")
            found[table] = [json.loads(row[0]) for row in rows]
    return {table: rows for table, rows in found.items() if rows}
