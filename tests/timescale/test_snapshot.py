"""`schema-snapshot`: docs/schema.sql makes the database that the runner makes, and docs/schema.md draws it, on every edition."""

from __future__ import annotations

import asyncio
import difflib
import re
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from piccolo.conf.apps import AppRegistry

from app.embedded.installations import find_wheel
from app.errors import MigrationRefused
from app.migrations.snapshot import make_snapshot
from app.piccolo_app import APP_CONFIG
from tests.conftest import ROOT, find_program, make_database, make_environ, run_command
from tests.mermaid.parser import parse_diagram
from tests.test_migrations import TABLES
from tests.timescale.catalogue import look
from tests.timescale.project import COMPRESSION, MEAN, OFTEN, RETENTION, Project, daily, declare, is_community, step

FILES = ("schema.sql", "schema.md")


def read_diagram(page: str) -> Any:
    (diagram,) = re.findall(r"```mermaid\n(.*?)```", page, re.DOTALL)
    return parse_diagram(diagram)


@pytest.fixture(params=["server", "community"])
async def empty(request: pytest.FixtureRequest) -> AsyncIterator[Callable[[], Awaitable[str]]]:
    """Gives an empty database on either server, on Community the one that there is."""
    async with AsyncExitStack() as stack:

        async def make() -> str:
            if request.param == "server":
                return await stack.enter_async_context(make_database(request.getfixturevalue("server_url")))
            server = request.getfixturevalue("community")
            server.reset()
            dsn: str = server.dsn
            return dsn

        yield make


async def test_the_committed_files_are_what_the_migrations_say_on_every_server(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What a migration changes is looked up in the registry, where the project's own tables stand.
    monkeypatch.setattr(sys.modules["piccolo_conf"], "APP_REGISTRY", AppRegistry(apps=["app.piccolo_app"]))
    snapshot = await make_snapshot(project.engine, APP_CONFIG)
    assert snapshot == {name: (ROOT / "docs" / name).read_text(encoding="utf-8") for name in FILES}
    assert await project.fetch("SELECT FROM pg_namespace WHERE nspname LIKE 'aurum_check%'") == []
    assert await look(project.url) == {}


async def test_psql_makes_the_runner_s_database_of_the_committed_script(empty: Callable[[], Awaitable[str]]) -> None:
    url = await empty()
    done = await asyncio.to_thread(run_command, "invoke", "migrate", database_url=url)
    assert done.returncode == 0, done.stderr
    made = await look(url)
    assert [name for kind, name in made if kind == "table"] == TABLES
    url = await empty()
    psql = str(find_wheel().bin_dir / "psql")
    command = [psql, "-X", "-q", "-1", "-v", "ON_ERROR_STOP=1", "-f", str(ROOT / "docs" / "schema.sql"), url]
    done = await asyncio.to_thread(
        lambda: subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    )
    assert done.returncode == 0, done.stderr
    assert await look(url) == made


BY_HAND = [
    "CREATE TYPE mood AS ENUM ('calm', 'it''s hot')",
    "CREATE SEQUENCE ticket AS integer INCREMENT BY -5 MAXVALUE 90 CYCLE",
    """
    CREATE FUNCTION stamp() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN -- says when; the rest stays
      NEW.at := now();
      RETURN NEW;
    END $$
    """,
    """
    CREATE TABLE "Odd one" (
      "the.key" int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
      mood mood NOT NULL DEFAULT 'calm',
      word text COLLATE "C",
      price numeric(10, 2) DEFAULT nextval('ticket'),
      twice numeric(10, 2) GENERATED ALWAYS AS (price * 2) STORED,
      tags text[] UNIQUE,
      at timestamptz(3),
      partner int REFERENCES "Odd one",
      CONSTRAINT "a, b" UNIQUE (word, price)
    )
    """,
    "CREATE UNLOGGED TABLE a_circle (id int PRIMARY KEY, other int)",
    "CREATE UNLOGGED TABLE b_circle (id int PRIMARY KEY REFERENCES a_circle, serial bigserial)",
    "ALTER TABLE a_circle ADD FOREIGN KEY (other) REFERENCES b_circle DEFERRABLE",
    "ALTER TABLE a_circle ADD CONSTRAINT later CHECK (other > 0) NOT VALID",
    "ALTER TABLE a_circle ENABLE ROW LEVEL SECURITY",
    "ALTER TABLE b_circle ENABLE ROW LEVEL SECURITY",
    "ALTER TABLE b_circle FORCE ROW LEVEL SECURITY",
    "CREATE DOMAIN level AS real DEFAULT 1 NOT NULL CONSTRAINT known CHECK (VALUE >= 0)",
    "CREATE TYPE spot AS (x int, name varchar(9))",
    "CREATE TYPE span AS RANGE (SUBTYPE = float8)",
    "CREATE AGGREGATE total (int) (SFUNC = int4pl, STYPE = int, INITCOND = '0')",
    "CREATE TABLE spots (id level PRIMARY KEY, at spot, during span)",
    "CREATE RULE kept AS ON DELETE TO spots DO INSTEAD NOTHING",
    "ALTER TABLE spots REPLICA IDENTITY USING INDEX spots_pkey",
    "CREATE VIEW z_first AS SELECT 1 AS one",
    "CREATE MATERIALIZED VIEW a_second AS SELECT one FROM z_first",
    "CREATE UNIQUE INDEX second_one ON a_second (one)",
    """CREATE INDEX partly ON "Odd one" (lower(word)) INCLUDE (price) WHERE price > 0""",
    """CREATE TRIGGER stamped BEFORE UPDATE ON "Odd one" FOR EACH ROW EXECUTE FUNCTION stamp()""",
    """CREATE TRIGGER asleep BEFORE INSERT ON "Odd one" FOR EACH ROW EXECUTE FUNCTION stamp()""",
    """ALTER TABLE "Odd one" DISABLE TRIGGER asleep""",
]


async def make_everything(project: Project) -> dict[str, str]:
    """A project with all that a migration can make, applied, and its snapshot."""
    project.declare(
        declare(daily(COMPRESSION + RETENTION + MEAN).replace("days=1)", "days=1), default_indexes=True", 1))
    )
    await project.generate()
    await project.write_raw(*BY_HAND)
    await project.forwards()
    return await make_snapshot(project.engine, project.app)


async def test_whatever_a_migration_makes_the_script_makes_too(project: Project) -> None:
    snapshot = await make_everything(project)
    connection = await asyncpg.connect(project.url)
    try:
        await connection.execute("CREATE SCHEMA again; SET search_path = again, public")
        await connection.execute(snapshot["schema.sql"])
    finally:
        await connection.close()
    made, again = await look(project.url), await look(project.url, "again")
    assert again == made
    kinds = {"table", "column", "constraint", "index", "trigger", "function", "sequence", "type", "view"}
    kinds |= {"materialized view", "row level security", "domain", "rule", "aggregate function", "replica identity"}
    if await is_community(project):
        kinds |= {"hypertable", "compression", "policy", "aggregate"}
    assert {kind for kind, _ in made} >= kinds


async def test_the_diagram_says_to_mermaid_what_the_migrations_made(project: Project) -> None:
    diagram = read_diagram((await make_everything(project))["schema.md"])
    assert diagram["entities"] == {
        "machines": [["text", "machine_id", ["PK"], ""]],
        "readings": [
            ["text", "machine_id", ["PK", "FK"], ""],
            ["timestamptz", "timestamp", ["PK"], ""],
            ["real", "value", [], ""],
        ],
        "spots": [
            ["level", "id", ["PK"], ""],
            ["spot", "at", [], "may be null"],
            ["span", "during", [], "may be null"],
        ],
        "Odd_one": [
            ["integer", "the_key", ["PK"], ""],
            ["mood", "mood", [], ""],
            ["text", "word", ["UK"], "may be null"],
            ["numeric(10_2)", "price", ["UK"], "may be null"],
            ["numeric(10_2)", "twice", [], "may be null"],
            ["text[]", "tags", ["UK"], "may be null"],
            ["timestamp(3)_with_time_zone", "at", [], "may be null"],
            ["integer", "partner", ["FK"], "may be null"],
        ],
        "a_circle": [["integer", "id", ["PK"], ""], ["integer", "other", ["FK"], "may be null"]],
        "b_circle": [["integer", "id", ["PK", "FK"], ""], ["bigint", "serial", [], ""]],
    }
    assert sorted(diagram["relations"]) == [
        ["Odd_one", "Odd_one", "partner", "ZERO_OR_ONE", "ZERO_OR_MORE", "NON_IDENTIFYING"],
        ["a_circle", "b_circle", "id", "ONLY_ONE", "ZERO_OR_ONE", "IDENTIFYING"],
        ["b_circle", "a_circle", "other", "ZERO_OR_ONE", "ZERO_OR_MORE", "NON_IDENTIFYING"],
        ["machines", "readings", "machine_id", "ONLY_ONE", "ZERO_OR_MORE", "IDENTIFYING"],
    ]


async def test_the_committed_diagram_has_every_column_and_reference_of_the_database(
    connection: asyncpg.Connection[asyncpg.Record],
) -> None:
    columns = await connection.fetch(
        "SELECT table_name, array_agg(column_name::text ORDER BY ordinal_position) FROM information_schema.columns "
        "WHERE table_schema = 'public' AND table_name NOT LIKE 'migration%' GROUP BY table_name"
    )
    references = await connection.fetch(
        "SELECT confrelid::regclass::text, conrelid::regclass::text FROM pg_constraint "
        "WHERE contype = 'f' AND connamespace = 'public'::regnamespace"
    )
    diagram = read_diagram((ROOT / "docs" / "schema.md").read_text(encoding="utf-8"))
    assert {name: [column[1] for column in drawn] for name, drawn in diagram["entities"].items()} == {
        row["table_name"]: row["array_agg"] for row in columns
    }
    assert sorted(relation[:2] for relation in diagram["relations"]) == sorted(list(row) for row in references)


async def test_a_changed_migration_changes_both_files_by_what_changed(project: Project) -> None:
    await step(project, declare(daily(COMPRESSION)))
    before = await make_snapshot(project.engine, project.app)
    assert await make_snapshot(project.engine, project.app) == before
    more = declare(daily(COMPRESSION + RETENTION + OFTEN)).replace(
        "    value =", "    note = Text(default=None, null=True)\n    value ="
    )
    project.declare(more)
    await project.generate()  # and not applied: the files count, not the database
    after = await make_snapshot(project.engine, project.app)

    def compare(name: str) -> list[str]:
        lines = difflib.unified_diff(before[name].splitlines(), after[name].splitlines(), lineterm="", n=0)
        return [line for line in lines if line[:2] not in {"--", "++", "@@"}]

    assert compare("schema.md") == [
        '+        text note "may be null"',
        "-| readings | 1 day by timestamp | after 7 days by machine_id, in the order timestamp DESC | for good |",
        "+| readings | 1 day by timestamp | after 7 days by machine_id, in the order timestamp DESC | 365 days |",
        "+",
        "+| aggregate | of | by | columns | refreshed |",
        "+|---|---|---|---|---|",
        "+| readings_hourly | readings | 1 hour, machine_id | readings = count(*); mean = avg(value); peak = max(value) "
        "| every 1 hour, from 20 days ago to 1 hour ago |",
    ]
    telling = ("-", "+  note", "+-- ", "+    PERFORM add_retention_policy")
    assert [line for line in compare("schema.sql") if line.startswith(telling)] == [
        "+  note text,",
        "+-- readings, left out without TimescaleDB Community",
        "+-- readings, left out without TimescaleDB Community",
        "+-- readings, left out without TimescaleDB Community",
        "+    PERFORM add_retention_policy('\"readings\"'::regclass, INTERVAL '31536000000000 microseconds');",
    ]


async def test_what_the_script_could_not_say_is_refused(project: Project) -> None:
    await project.write_raw("CREATE TABLE parted (at date) PARTITION BY RANGE (at)")
    with pytest.raises(MigrationRefused) as refused:
        await make_snapshot(project.engine, project.app)
    assert str(refused.value) == "schema-snapshot can't write parted, which is a table partitioned by RANGE (at)."


async def test_the_command_names_the_file_that_is_not_what_the_migrations_say(
    empty_database_url: str, tmp_path: Path
) -> None:
    for name in ("app", "piccolo_migrations", "piccolo_conf.py"):
        (tmp_path / name).symlink_to(ROOT / name)
    shutil.copy(ROOT / "tasks.py", tmp_path)
    shutil.copytree(ROOT / "docs", tmp_path / "docs")

    def run(*options: str) -> tuple[int, str, str]:
        done = subprocess.run(
            [find_program("invoke"), "schema-snapshot", *options],
            cwd=tmp_path,
            env=make_environ(DATABASE_URL=empty_database_url),
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
        return done.returncode, done.stdout, done.stderr

    assert await asyncio.to_thread(run, "--check") == (0, "", "")
    page = tmp_path / "docs" / "schema.md"
    page.write_text(page.read_text() + "more\n")
    said = "Not what the migrations say: docs/{}. Run invoke schema-snapshot, and review the change.\n"
    assert await asyncio.to_thread(run, "--check") == (1, "", said.format("schema.md"))
    (tmp_path / "docs" / "schema.sql").unlink()
    assert await asyncio.to_thread(run, "--check") == (1, "", said.format("schema.sql and docs/schema.md"))
    assert await asyncio.to_thread(run) == (0, "Wrote docs/schema.sql.\nWrote docs/schema.md.\n", "")
    assert await asyncio.to_thread(run, "--check") == (0, "", "")
    for name in FILES:
        assert (tmp_path / "docs" / name).read_bytes() == (ROOT / "docs" / name).read_bytes()
