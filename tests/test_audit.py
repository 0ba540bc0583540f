"""The record of changes: what each mutation leaves in it, and whoever tampers with it is found."""

from __future__ import annotations

import asyncio
import hashlib
import re
import uuid
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import msgspec
import pytest

import app.database
from app.access.audit import Change, Subject, begin_deed, record_changes
from app.access.principal import EVERYONE
from app.access.roles import Role
from app.database import Database
from app.events.pruner import prune_outbox
from app.history.rollups import keep_rollups
from app.liveness.pulse import LivenessLimits
from app.liveness.watcher import look_now
from app.timescale.journal import name_user
from tests.client import ServiceClient
from tests.conftest import ROOT, replace_database, run_command, run_service, run_sql
from tests.keys import PRODUCTION, make

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

REGISTER = "mutation ($input: RegisterMachineInput!) { registerMachine(input: $input) { machineId } }"
RAISE = """mutation { raiseAlert(input: {machineId: "PRESS-1", alertType: THRESHOLD, severity: HIGH, cause: "heat",
    title: "Too hot", timestamp: "2026-01-31T12:00:00Z"}) { alertId } }"""
RECORD = """mutation ($risk: Float!) { recordPrediction(onConflict: OVERWRITE, input: {machineId: "PRESS-1",
    timestamp: "2026-01-31T12:00:00Z", modelVersion: "m1", riskScore: $risk}) { predictionId } }"""


async def read_audit(connection: Connection) -> list[Any]:
    """Rows in their order: actor, action, subject and what became of it."""
    rows = await connection.fetch("SELECT * FROM audit ORDER BY id")
    return [
        (
            row["actor"],
            row["action"],
            f"{row['subject_kind']} {row['subject']}",
            row["before"] and msgspec.json.decode(row["before"]),
            row["after"] and msgspec.json.decode(row["after"]),
        )
        for row in rows
    ]


async def test_what_is_changed_is_written_down_with_who_did_it_and_how_it_was_before(
    service: ServiceClient, connection: Connection
) -> None:
    await service.register("PRESS-1")
    await service.ask('mutation { updateMachine(machineId: "PRESS-1", input: {location: "Hall 3"}) { machineId } }')
    await service.ask('mutation { retireMachine(machineId: "PRESS-1") { machineId } }')

    registered, moved, retired = await read_audit(connection)
    assert registered[:4] == ("anonymous", "registerMachine", "machine PRESS-1", None)
    created_at = registered[4].pop("created_at")
    assert registered[4].pop("updated_at") == created_at
    assert registered[4] == {
        "machine_id": "PRESS-1",
        "machine_type": "press",
        "location": "Hall 2",
        "operational": True,
    }
    assert moved[1:3] == ("updateMachine", "machine PRESS-1")
    assert moved[3] == {"location": "Hall 2", "updated_at": created_at}
    assert moved[4]["location"] == "Hall 3"
    assert retired[1:3] == ("retireMachine", "machine PRESS-1")
    assert (retired[3]["operational"], retired[4]["operational"]) == (True, False)
    assert retired[3].keys() == {"operational", "updated_at"}


async def test_alerts_and_predictions_leave_a_row_for_each_thing_that_changed(
    service: ServiceClient, connection: Connection
) -> None:
    await service.register("PRESS-1")
    alert_id = (await service.ask(RAISE))["raiseAlert"]["alertId"]
    await service.ask(RAISE)  # says nothing new
    for action in ("acknowledgeAlert", "resolveAlert"):
        await service.ask(f'mutation {{ {action}(alertId: "{alert_id}") {{ alertId }} }}')
    for risk in (0.25, 0.25, 0.5):
        recorded = await service.ask(RECORD, risk=risk)
    prediction_id = recorded["recordPrediction"]["predictionId"]

    _, raised, acknowledged, resolved, first, overwritten = await read_audit(connection)
    assert raised[1:4] == ("raiseAlert", f"alert {alert_id}", None)
    assert raised[4]["title"] == "Too hot"
    assert acknowledged[1:4] == (
        "acknowledgeAlert",
        f"alert {alert_id}",
        {"acknowledged_at": None, "acknowledged_by": None},
    )
    assert acknowledged[4]["acknowledged_by"] == "anonymous"
    assert resolved[1] == "resolveAlert"
    assert resolved[3] == {"resolved_at": None, "resolved_by": None}
    assert first[1:4] == ("recordPrediction", f"prediction {prediction_id}", None)
    assert overwritten[2:] == (f"prediction {prediction_id}", {"risk_score": 0.25}, {"risk_score": 0.5})


async def test_mutations_of_many_leave_a_row_for_each_and_the_same_correlation_id(
    service: ServiceClient, connection: Connection
) -> None:
    machines = [{"machineId": name, "machineType": "press", "location": "Hall 2"} for name in ("B", "A", "C")]
    query = "mutation ($machines: [RegisterMachineInput!]!) { registerMachines(machines: $machines) { machineId } }"
    response = await service.http.post(
        "/graphql", json={"query": query, "variables": {"machines": machines}}, headers={"x-request-id": "plan-7"}
    )
    assert "errors" not in response.json()
    rows = await connection.fetch("SELECT id, subject, correlation_id FROM audit ORDER BY id")
    assert [tuple(row) for row in rows] == [(1, "B", "plan-7"), (2, "A", "plan-7"), (3, "C", "plan-7")]


async def test_a_mutation_that_fails_leaves_no_row_and_no_gap(service: ServiceClient, connection: Connection) -> None:
    await service.register("PRESS-1")
    refused = await service.refuse(
        REGISTER, input={"machineId": "PRESS-1", "machineType": "press", "location": "Hall 2"}
    )
    assert refused["extensions"]["code"] == "ALREADY_EXISTS"
    # What is written after the record fails: its row goes with all the rest.
    await connection.execute("ALTER TABLE outbox ADD CHECK (topic <> 'alerts') NOT VALID")
    assert (await service.refuse(RAISE))["extensions"]["code"] == "INTERNAL"
    await service.register("PRESS-2")
    assert [tuple(row) for row in await connection.fetch("SELECT id, subject FROM audit ORDER BY id")] == [
        (1, "PRESS-1"),
        (2, "PRESS-2"),
    ]


async def test_what_cannot_be_written_down_is_not_done(service: ServiceClient, connection: Connection) -> None:
    await service.register("PRESS-1")
    await connection.execute("ALTER TABLE audit ADD CHECK (action = 'registerMachine') NOT VALID")
    refused = await service.refuse('mutation { retireMachine(machineId: "PRESS-1") { machineId } }')
    assert refused["extensions"]["code"] == "INTERNAL"
    assert await connection.fetchval("SELECT operational FROM machines") is True


async def test_readings_that_add_something_leave_no_row_and_replaced_values_leave_one_for_each_request(
    service: ServiceClient, connection: Connection
) -> None:
    await service.register("A", "B")

    def reading(machine_id: str, second: int, **metrics: float) -> dict[str, object]:
        return {"machine_id": machine_id, "timestamp": f"2026-01-31T12:00:{second:02}Z", "metrics": metrics}

    await service.ingest([reading("A", 1, heat=1, rpm=5), reading("A", 2, heat=2), reading("B", 1, heat=3)])
    await service.ingest([reading("A", 1, heat=9)])  # a conflict, and the stored value stays
    await service.ingest([reading("A", 3, heat=9), reading("A", 2, heat=2)], onConflict="overwrite")  # nothing new
    assert await connection.fetchval("SELECT count(*) FROM audit WHERE action = 'ingest'") == 0

    answer = await service.ingest(
        [reading("A", 1, heat=10, rpm=5, load=7), reading("B", 1, heat=30), reading("A", 2, heat=20)],
        onConflict="overwrite",
    )
    assert answer["conflicts"] == 3
    await service.ask(
        """mutation { ingest(onConflict: OVERWRITE, measurements: [
            {machineId: "B", timestamp: "2026-01-31T12:00:01Z", metrics: {heat: 31}}]) { conflicts } }"""
    )
    first, second = (await read_audit(connection))[2:]
    at_1, at_2 = "2026-01-31T12:00:01.000000Z", "2026-01-31T12:00:02.000000Z"
    assert first == (
        "anonymous",
        "ingest",
        "readings 2 machines",
        {"values": {"A": {at_1: {"heat": 1}, at_2: {"heat": 2}}, "B": {at_1: {"heat": 3}}}},
        {
            "readings": {"A": 2, "B": 1},
            "values": {"A": {at_1: {"heat": 10}, at_2: {"heat": 20}}, "B": {at_1: {"heat": 30}}},
        },
    )
    assert second[2:] == (
        "readings B",
        {"values": {"B": {at_1: {"heat": 30}}}},
        {"readings": {"B": 1}, "values": {"B": {at_1: {"heat": 31}}}},
    )


async def test_a_correction_that_the_database_refuses_is_not_written_down_and_its_neighbours_are(
    service: ServiceClient, connection: Connection
) -> None:
    await service.register("A")
    readings = [{"machine_id": "A", "timestamp": f"2026-01-31T12:00:0{n}Z", "metrics": {"heat": n}} for n in range(4)]
    await service.ingest(readings)
    await connection.execute("ALTER TABLE raw_measurements ADD CHECK ((metrics->>'heat')::float8 < 100)")
    values = (10, 1000, 20, 30)
    corrected = [{**reading, "metrics": {"heat": value}} for reading, value in zip(readings, values, strict=True)]
    answer = await service.ingest(corrected, onConflict="overwrite")
    assert (answer["conflicts"], answer["rejectedCount"]) == (3, 1)
    *_, (_, _, _, before, after) = await read_audit(connection)
    assert list(before["values"]["A"].values()) == [{"heat": 0}, {"heat": 2}, {"heat": 3}]
    assert list(after["values"]["A"].values()) == [{"heat": 10}, {"heat": 20}, {"heat": 30}]
    assert after["readings"] == {"A": 3}


async def test_what_is_done_with_a_key_is_kept_under_its_name_and_its_id(
    database_url: str, connection: Connection
) -> None:
    key = await make(connection, Role.ENGINEER, Role.INGEST, locations=("Hall 2",), name="plant")
    key_id = await connection.fetchval("SELECT id FROM api_keys")
    reading = {"machine_id": "A", "timestamp": "2026-01-31T12:00:00Z", "metrics": {"heat": 1}}
    async with run_service(database_url, **PRODUCTION) as service, ServiceClient(service.url, key) as client:
        await client.register("A")
        await client.ingest(reading)
        await client.ingest({**reading, "metrics": {"heat": 2}}, onConflict="overwrite")
    rows = await connection.fetch("SELECT actor, actor_kind, actor_key, action FROM audit ORDER BY id")
    assert [tuple(row) for row in rows[1:]] == [
        ("key:plant", "key", key_id, "registerMachine"),
        ("key:plant", "key", key_id, "ingest"),
    ]
    assert (await verify(database_url))[0] == 0


async def test_of_very_many_replaced_values_a_thousand_are_told_and_all_are_counted(
    service: ServiceClient, connection: Connection
) -> None:
    await service.register("A")

    def batch(value: float) -> list[dict[str, object]]:
        return [
            {"machine_id": "A", "timestamp": 1_769_860_800_000 + n, "metrics": {"heat": value, "rpm": value}}
            for n in range(3_000)
        ]

    await service.ingest(batch(1))
    await service.ingest(batch(2), onConflict="overwrite")
    *_, (_, _, _, before, after) = await read_audit(connection)
    assert after["readings"] == {"A": 3_000}
    assert len(before["values"]["A"]) == len(after["values"]["A"]) == 500


async def test_writers_at_once_make_one_chain_without_gaps(
    service: ServiceClient, connection: Connection, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # One after the other, on a machine that may be slow.
    monkeypatch.setattr(app.database, "ACQUIRE_TIMEOUT", 120.0)
    await asyncio.gather(*(service.register(f"M-{n}") for n in range(40)))
    rows = await connection.fetch("SELECT id, previous_hash, hash FROM audit ORDER BY id")
    assert [row["id"] for row in rows] == list(range(1, 41))
    assert [row["previous_hash"] for row in rows] == [bytes(32), *(row["hash"] for row in rows[:-1])]
    verified = await verify(database_url)
    assert verified == (0, f"40 rows are as they were written. The newest is 40:{rows[-1]['hash'].hex()}.")


async def test_the_hash_is_over_all_of_a_row_as_the_documentation_says(
    service: ServiceClient, connection: Connection
) -> None:
    await service.register("PRESS-1")
    row = await connection.fetchrow("SELECT *, (extract(epoch FROM at) * 1000000)::bigint AS instant FROM audit")
    assert row is not None
    fields = ["0" * 64, "1", str(row["instant"]), "anonymous", "anyone", None, "registerMachine", "machine", "PRESS-1"]
    fields += [None, row["after"], row["correlation_id"]]
    text = ",".join("-" if field is None else f"{len(field.encode())}:{field}" for field in fields)
    assert row["hash"] == hashlib.sha256(text.encode()).digest()


# --- Append-only ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "statement", ["UPDATE audit SET actor = 'somebody else'", "DELETE FROM audit", "TRUNCATE audit"]
)
async def test_not_even_the_owner_changes_a_row_by_accident(
    service: ServiceClient, connection: Connection, statement: str
) -> None:
    await service.register("PRESS-1")
    with pytest.raises(asyncpg.InsufficientPrivilegeError, match="audit is only ever added to"):
        await connection.execute(statement)


async def test_nobody_chooses_the_number_the_time_or_the_hash_of_a_row(
    service: ServiceClient, connection: Connection, database_url: str
) -> None:
    await service.register("PRESS-1")
    await connection.execute(
        """
        INSERT INTO audit SELECT 77, '2001-01-01', 'key:x', 'key', 5, 'a', 'machine', 'ü', NULL, '{"b": 1.50, "a": "é"}', 'c',
                                 sha256('x'), sha256('y')
        """
    )
    row = await connection.fetchrow("SELECT id, at > now() - interval '1 minute' AS fresh FROM audit ORDER BY id DESC")
    assert row is not None
    assert tuple(row) == (2, True)
    assert (await verify(database_url))[0] == 0


async def test_nobody_s_temporary_table_or_type_stands_for_the_record(
    database_url: str, connection: Connection
) -> None:
    add = "INSERT INTO public.audit (actor, actor_kind, action, subject_kind, subject, correlation_id) VALUES ({})"
    row = "'key:x', 'key', 'a', 'machine', 'M-1', 'c'"
    await connection.execute(add.format(row))
    await connection.execute("CREATE TEMP TABLE audit (id bigint, hash bytea)")
    await connection.execute("INSERT INTO pg_temp.audit VALUES (100, sha256('x'))")
    await connection.execute("CREATE DOMAIN pg_temp.text AS varchar(1)")
    await connection.execute("SET search_path = pg_temp, public")
    await connection.execute(add.format(row))
    assert [row["id"] for row in await connection.fetch("SELECT id FROM public.audit ORDER BY id")] == [1, 2]
    assert (await verify(database_url))[0] == 0


# --- audit-verify ---------------------------------------------------------------------------------------------------


async def verify(database_url: str, *options: str) -> tuple[int, str]:
    """The exit code and the one line of audit-verify."""
    done = await asyncio.to_thread(run_command, "invoke", "audit-verify", *options, database_url=database_url)
    return done.returncode, (done.stdout if done.returncode == 0 else done.stderr).strip()


@pytest.fixture
async def recorded(database_url: str) -> str:
    """A database with 2,500 rows of audit, which is more than are walked over at a time."""
    database = Database(timescale="auto", pool_size=1, statement_timeout=timedelta(seconds=60))
    await database.open(database_url)
    try:
        async with database.transaction() as connection:
            changes = [Change(Subject.MACHINE, f"M-{n}", None, {"n": n}) for n in range(1, 2_501)]
            await record_changes(connection, begin_deed(EVERYONE, "registerMachines"), changes)
    finally:
        await database.close()
    return database_url


async def tamper(database_url: str, *statements: str) -> None:
    """As the owner of the table may."""
    await run_sql(
        database_url, "ALTER TABLE audit DISABLE TRIGGER USER", *statements, "ALTER TABLE audit ENABLE TRIGGER USER"
    )


async def read_anchor(database_url: str, number: int) -> str:
    connection = await asyncpg.connect(database_url)
    try:
        hash_ = await connection.fetchval("SELECT hash FROM audit WHERE id = $1", number)
    finally:
        await connection.close()
    return f"{number}:{hash_.hex()}"


@pytest.mark.parametrize(
    ("statement", "problem", "right"),
    [
        ("UPDATE audit SET actor = 'key:y' WHERE id = 1700", "Row 1700 is not as it was written.", 1_699),
        ("UPDATE audit SET after = '{\"n\": 2}' WHERE id = 1", "Row 1 is not as it was written.", 0),
        ("UPDATE audit SET at = at + interval '1 us' WHERE id = 2500", "Row 2500 is not as it was written.", 2_499),
        ("UPDATE audit SET actor_key = 1 WHERE id = 9", "Row 9 is not as it was written.", 8),
        ("DELETE FROM audit WHERE id = 1000", "Row 1000 is missing.", 999),
        ("DELETE FROM audit WHERE id < 3", "Rows 1 to 2 are missing.", 0),
        (
            "INSERT INTO audit SELECT 0, at, actor, actor_kind, actor_key, action, subject_kind, subject, before, after, "
            "correlation_id, previous_hash, hash FROM audit WHERE id = 1",
            "Row 0 was put in: no row has a number below 1.",
            0,
        ),
    ],
)
async def test_the_first_row_that_was_tampered_with_is_told(
    recorded: str, statement: str, problem: str, right: int
) -> None:
    await tamper(recorded, statement)
    code, told = await verify(recorded)
    assert code == 1
    assert told.startswith(f"{problem} {right:,} rows before are right, up to {right}:")


async def test_a_row_put_in_the_place_of_another_with_a_hash_of_its_own_breaks_the_chain_behind_it(
    recorded: str,
) -> None:
    # The row is removed, and one is written by the trigger itself as if the chain ended there.
    await run_sql(
        recorded,
        "CREATE TABLE behind AS SELECT * FROM audit WHERE id > 1200",
        "ALTER TABLE audit DISABLE TRIGGER refuse_change",
        "DELETE FROM audit WHERE id >= 1200",
        "INSERT INTO audit (actor, actor_kind, action, subject_kind, subject, correlation_id) "
        "VALUES ('key:z', 'key', 'registerMachines', 'machine', 'M-1200', 'c')",
        "ALTER TABLE audit DISABLE TRIGGER chain_inserted",
        "INSERT INTO audit SELECT * FROM behind",
        "ALTER TABLE audit ENABLE TRIGGER USER",
    )
    code, told = await verify(recorded)
    assert code == 1
    assert told.startswith("Row 1201 does not follow on row 1200: one of them took another's place. 1,200 rows before")


async def test_rows_removed_from_the_end_show_by_an_anchor(recorded: str) -> None:
    anchor = await read_anchor(recorded, 2_500)
    assert await verify(recorded, "--expect", anchor) == (
        0,
        f"2,500 rows are as they were written. The newest is {anchor}.",
    )
    await tamper(recorded, "DELETE FROM audit WHERE id > 2000")
    assert (await verify(recorded))[0] == 0
    code, told = await verify(recorded, "--expect", anchor)
    assert code == 1
    assert told.startswith("Row 2500, which was there, is missing.")


async def test_an_end_that_was_written_anew_shows_by_an_anchor(recorded: str) -> None:
    anchor = await read_anchor(recorded, 2_500)
    await tamper(recorded, "DELETE FROM audit WHERE id = 2500")
    await run_sql(
        recorded,
        "INSERT INTO audit (actor, actor_kind, action, subject_kind, subject, correlation_id) "
        "VALUES ('key:z', 'key', 'registerMachines', 'machine', 'M-2500', 'c')",
    )
    assert (await verify(recorded))[0] == 0
    code, told = await verify(recorded, "--expect", anchor)
    assert (code, told.startswith("Row 2500 is not the one with the hash ")) == (1, True)


async def test_what_was_verified_before_need_not_be_again(recorded: str) -> None:
    anchor = await read_anchor(recorded, 2_400)
    code, told = await verify(recorded, "--since", anchor)
    assert code == 0
    assert told.startswith("100 rows are as they were written. The newest is 2500:")
    await tamper(recorded, "DELETE FROM audit WHERE id = 2401")
    code, told = await verify(recorded, "--since", anchor)
    assert code == 1
    assert told.startswith(f"Row 2401 is missing. 0 rows before are right, up to {anchor}.")


async def test_triggers_that_are_switched_off_are_told(recorded: str) -> None:
    await run_sql(recorded, "ALTER TABLE audit DISABLE TRIGGER refuse_change")
    code, told = await verify(recorded)
    assert code == 1
    assert told.startswith("Nothing guards audit: the trigger refuse_change is switched off or gone.")


async def test_an_anchor_that_is_none_is_refused(database_url: str) -> None:
    code, told = await verify(database_url, "--expect", "abc")
    assert (code, told) == (
        1,
        "BAD_USER_INPUT: --expect is 'abc': it must be NUMBER:HASH, as audit-verify prints it.",
    )


# --- The role of the service ----------------------------------------------------------------------------------------


def read_grants(role: str) -> list[str]:
    """The statements of docs/security.md, for a role of another name."""
    guide = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```sql\n(.*?)```", guide, re.DOTALL)
    return [statement.replace("aurum_service", role) for statement in block.strip().split(";\n")]


@pytest.fixture
async def role_url(database_url: str, connection: Connection) -> AsyncIterator[str]:
    """The database's URL for a role that has the rights of docs/security.md and no others."""
    if not await connection.fetchval("SELECT rolcreaterole OR rolsuper FROM pg_roles WHERE rolname = current_user"):
        pytest.skip("the role of this server may not create others")
    role, password = f"service_{uuid.uuid4().hex[:8]}", uuid.uuid4().hex
    await run_sql(database_url, f"CREATE ROLE {role} LOGIN PASSWORD '{password}'", *read_grants(role))
    parts = urlsplit(database_url)
    yield urlunsplit(parts._replace(netloc=f"{role}:{password}@{parts.netloc.rpartition('@')[2]}"))
    await run_sql(database_url, f"DROP OWNED BY {role}", f"DROP ROLE {role}")


async def test_the_service_does_all_it_does_as_the_role_of_the_guide_and_cannot_change_the_record(
    role_url: str, database_url: str, connection: Connection
) -> None:
    reading = {"machine_id": "PRESS-1", "timestamp": "2026-01-31T12:00:00Z", "metrics": {"heat": 1}}
    async with run_service(role_url) as service:
        await service.register("PRESS-1")
        async with service.subscribe("subscription { measurements { measurements { metrics } } }") as events:
            await service.ingest(reading)
            assert (await events.next())["measurements"] == [{"metrics": {"heat": 1}}]
        await service.ingest({**reading, "metrics": {"heat": 2}}, onConflict="overwrite")
        alert_id = (await service.ask(RAISE))["raiseAlert"]["alertId"]
        await service.ask(f'mutation {{ resolveAlert(alertId: "{alert_id}") {{ alertId }} }}')
        await service.ask(RECORD, risk=0.5)
        await service.ask(RECORD, risk=0.25)
        asked = await service.ask("{ fleet { machines } machines { totalCount } storage { edition } }")
        assert asked["fleet"] == {"machines": 1}
        assert (await service.http.get("/health/ready")).status_code == 200
    database = Database(timescale="auto", pool_size=2, statement_timeout=timedelta(seconds=60))
    await database.open(role_url)
    try:
        await keep_rollups(database)
        await prune_outbox(database, timedelta(0))
        await look_now(database, LivenessLimits(timedelta(minutes=2), timedelta(minutes=15)))
    finally:
        await database.close()

    assert [row[1] for row in await read_audit(connection)] == [
        "registerMachine",
        "ingest",
        "raiseAlert",
        "resolveAlert",
        "recordPrediction",
        "recordPrediction",
    ]
    for statement, said in {
        "UPDATE audit SET actor = 'somebody else'": "permission denied for table audit",
        "DELETE FROM audit": "permission denied for table audit",
        "TRUNCATE audit": "permission denied for table audit",
        "ALTER TABLE audit DISABLE TRIGGER refuse_change": "must be owner of table audit",
        "DROP TRIGGER chain_inserted ON audit": "must be owner of relation audit",
        "DELETE FROM migration_journal": "permission denied for table migration_journal",
    }.items():
        with pytest.raises(asyncpg.InsufficientPrivilegeError, match=said):
            await run_sql(role_url, statement)
    assert (await verify(database_url))[0] == 0


async def test_a_restored_backup_has_the_whole_chain_and_goes_on_with_it(recorded: str, tmp_path: Path) -> None:
    anchor = await read_anchor(recorded, 2_500)
    backup = str(tmp_path / "a.dump")
    name = f"aurum_{uuid.uuid4().hex[:12]}"
    made = await asyncio.to_thread(run_command, "invoke", "backup", "--file", backup, database_url=recorded)
    assert made.returncode == 0, made.stderr
    command = ("invoke", "restore", "--file", backup, "--database", name)
    done = await asyncio.to_thread(run_command, *command, database_url=recorded)
    restored = replace_database(recorded, name)
    try:
        assert done.returncode == 0, done.stderr
        assert (await verify(restored, "--expect", anchor))[0] == 0
        async with run_service(restored) as service:
            await service.register("PRESS-1")
        code, told = await verify(restored, "--since", anchor)
        assert (code, told.split(" ")[0]) == (0, "1")
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await run_sql(restored, "DELETE FROM audit")
    finally:
        await run_sql(recorded, f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


async def test_keys_and_loaded_files_are_written_down_by_the_login_that_ran_the_command(
    database_url: str, connection: Connection, tmp_path: Path
) -> None:
    made = await asyncio.to_thread(
        run_command, "invoke", "key-new", "--name", "plant", "--role", "viewer", database_url=database_url
    )
    prefix = made.stdout.split("_")[1]
    await asyncio.to_thread(run_command, "invoke", "key-revoke", prefix, database_url=database_url)
    file = tmp_path / "press.csv"
    load = ("invoke", "load-csv", "--file", str(file), "--machine", "PRESS-1", "--on-conflict", "overwrite")
    for value in (1, 2):
        file.write_text(f"timestamp,heat\n2026-01-31T12:00:00Z,{value}\n")
        done = await asyncio.to_thread(run_command, *load, database_url=database_url)
        assert done.returncode == 0, done.stderr

    new, revoked, registered, corrected = await read_audit(connection)
    assert {row[0] for row in (new, revoked, registered, corrected)} == {f"command:{name_user()}"}
    assert new[1:4] == ("key-new", f"key {prefix}", None)
    assert (new[4]["name"], new[4]["roles"], new[4]["locations"]) == ("plant", ["viewer"], None)
    assert "digest" not in new[4]
    assert revoked[1:4] == ("key-revoke", f"key {prefix}", {"revoked_at": None})
    assert registered[1:3] == ("load-csv", "machine PRESS-1")
    assert corrected[2:] == (
        "readings PRESS-1",
        {"values": {"PRESS-1": {"2026-01-31T12:00:00.000000Z": {"heat": 1}}}},
        {"readings": {"PRESS-1": 1}, "values": {"PRESS-1": {"2026-01-31T12:00:00.000000Z": {"heat": 2}}}},
    )
