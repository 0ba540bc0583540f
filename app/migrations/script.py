r"""All migrations as one psql script, for databases that nobody may reach with Python. Touches no database.

It does what a run of ours does, in the same order and with the same bookkeeping, and decides everything while it runs: what
is applied already, which edition there is, what an earlier run left over. So it may be run again at any time, and either
may go on where the other was cut off.

psql has no loops and no procedures: \if asks a variable that \gset has read, and \gexec runs what a query returns.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

from piccolo.apps.migrations.tables import Migration
from piccolo.conf.apps import AppConfig

from app.database import OLDEST_POSTGRES
from app.errors import MigrationRefused
from app.timescale.files import compute_checksum, find_folder, list_files, load_modules
from app.timescale.journal import CREATE_JOURNAL, LOCK, Event
from app.timescale.leftovers import CREATE_STEPS, RESTORE_PATIENCE, choose_patience
from app.timescale.manager import load_own_manager
from app.timescale.moves import DataMigrationManager
from app.timescale.steps import LOCK_TIMEOUT, Needs, Step, describe_step, guard
from app.timescale.tape import write_literal
from app.timescale.tokens import Kind, read_tokens, replace_places

_HEAD = r"""
-- AurumAI's migrations up to {newest}, as invoke migrate-sql wrote them. Run it with psql 11 or later:
--
--   psql --no-psqlrc --file THIS "$DATABASE_URL"
--
-- with --set timescale=require or timescale=off as AURUM_TIMESCALE would say. It applies what the database lacks, as invoke
-- migrate does, and may be run again at any time, also where it was cut off. Where others are in its way for two seconds
-- it gives way and ends: run it again.

\set ON_ERROR_STOP on
\set ON_ERROR_ROLLBACK off
\set AUTOCOMMIT on
\set QUIET on
\encoding UTF8

-- A psql before 11 doesn't know the variable, and stops here.
SELECT :VERSION_NUM >= 110000 AS known, now() = statement_timestamp() AS alone,
       current_setting('server_version_num')::int >= {oldest}0000 AS recent
\gset
\if :alone
\else
{not_alone}
\endif
\if :recent
\else
{not_recent}
\endif
SET standard_conforming_strings = on;
SET client_min_messages = warning;
SET timezone = 'UTC';
SET application_name = 'migrations by a script';
\if :{{?timescale}}
SELECT :'timescale' IN ('auto', 'require', 'off') AS known, set_config('aurum.timescale', :'timescale', false) AS timescale
\gset
\if :known
\else
{not_known}
\endif
\endif

-- One run at a time, this or another: the lock ends with the session.
SELECT pg_try_advisory_lock({lock}) AS locked
\gset
\if :locked
\else
\echo 'Another run is under way on this database, and this one waits for it.'
DO $aurum$
BEGIN
  WHILE NOT pg_try_advisory_lock({lock}) LOOP
    COMMIT; -- a wait in one transaction would hold back VACUUM
    PERFORM pg_sleep(0.3);
  END LOOP;
END
$aurum$;
\endif
""".lstrip()

# What a run refuses before it does anything, and what is to be done about each migration.
_SURVEY = """
DO $aurum$
DECLARE
  ids CONSTANT text[] COLLATE "C" := {ids};
  checksums CONSTANT text[] := {checksums};
  applied text[] COLLATE "C" := '{{}}';
  event text;
  found text COLLATE "C";
  state text;
BEGIN
  IF current_setting('transaction_read_only')::boolean THEN
    RAISE EXCEPTION 'MIGRATION_REFUSED: The database is read-only, a replica most likely: migrations run on the primary.';
  END IF;
  IF to_regclass('migration') IS NOT NULL THEN
    IF (SELECT count(*) FROM pg_attribute WHERE attrelid = to_regclass('migration') AND NOT attisdropped
        AND attname IN ('name', 'app_name', 'ran_on')) < 3 THEN
      RAISE EXCEPTION 'SCHEMA_FOREIGN: The database has a table "migration" that isn''t Piccolo''s: another program lives here.';
    END IF;
    SELECT coalesce(array_agg(name::text), '{{}}') INTO applied FROM migration WHERE app_name = {app};
  END IF;
  SELECT max(name) INTO found FROM unnest(applied) AS name WHERE name <> ALL (ids);
  IF found IS NOT NULL THEN
    RAISE EXCEPTION 'SCHEMA_AHEAD: The database has migrations that this script doesn''t know, the newest is %: write it anew with the newer code.', found;
  END IF;
  SELECT min(id) INTO found FROM unnest(ids) AS id WHERE id <> ALL (applied);
  IF found < (SELECT max(name) FROM unnest(applied) AS name) THEN
    RAISE EXCEPTION 'MIGRATION_REFUSED: The migration % comes before one that is applied: they were made on two branches.', found;
  END IF;
  FOR number IN 1 .. cardinality(ids) LOOP
    state := CASE WHEN ids[number] = ANY (applied) THEN 'applied' ELSE 'pending' END;
    IF to_regclass('migration_journal') IS NOT NULL THEN
      SELECT checksum INTO found FROM migration_journal WHERE migration = ids[number] ORDER BY id DESC LIMIT 1;
      IF state = 'applied' AND found <> checksums[number] THEN
        RAISE EXCEPTION 'MIGRATION_REFUSED: Edited since it was applied: the file of %.', ids[number]
          USING HINT = 'If the edit changes nothing that was run, let invoke migrate --accept-edited take it.';
      END IF;
      SELECT journal.event INTO event FROM migration_journal AS journal
      WHERE migration = ids[number] AND journal.event <> {accepted} ORDER BY id DESC LIMIT 1;
      IF state = 'pending' AND event = {event} THEN
        state := 'unrecorded'; -- a crash came between the migration and Piccolo's own bookkeeping
      END IF;
    END IF;
    PERFORM set_config('aurum.migration_' || number, state, false);
  END LOOP;
END
$aurum$;
"""

# The values that a step waits for are found first, by a block that leaves each statement in a setting of the session.
_LEFTOVERS = rf"""
-- What can't run in a transaction, and was written down in one: each by itself, and again where it was cut off.
SELECT to_regclass('migration_step') IS NOT NULL AS left_over
\gset
\if :left_over
DO $aurum$
DECLARE
  step record;
  pair record;
  found json;
BEGIN
  FOR step IN SELECT id, statement, query, cleanup FROM migration_step LOOP
    IF step.query IS NOT NULL THEN
      EXECUTE format('SELECT row_to_json(found) FROM (%s) AS found', step.query) INTO found;
      FOR pair IN SELECT key, value FROM json_each_text(found) LOOP
        step.statement := replace(step.statement, ':' || pair.key, pair.value);
      END LOOP;
    END IF;
    IF step.query IS NOT NULL AND found IS NULL THEN
      step.statement := ''; -- no row: there is nothing to do
    END IF;
    PERFORM set_config('aurum.step_' || step.id, step.statement, false);
    IF step.cleanup IS NOT NULL THEN
      EXECUTE step.cleanup INTO step.cleanup;
    END IF;
    PERFORM set_config('aurum.cleanup_' || step.id, coalesce(step.cleanup, ''), false);
  END LOOP;
END
$aurum$;
SELECT 'SET lock_timeout = ' || {choose_patience("cleanup")}, cleanup,
       'SET lock_timeout = ' || {choose_patience("statement")}, statement, 'DELETE FROM migration_step WHERE id = ' || id
FROM (SELECT id, nullif(current_setting('aurum.cleanup_' || id), '') AS cleanup,
      nullif(current_setting('aurum.step_' || id), '') AS statement FROM migration_step) AS found
ORDER BY id
\gexec
DROP TABLE migration_step;
{RESTORE_PATIENCE}
\gset
\endif
"""

_MIGRATION = r"""
-- ==== {title}
SELECT current_setting('aurum.migration_{number}') = 'pending' AS pending,
       current_setting('aurum.migration_{number}') = 'unrecorded' AS unrecorded, clock_timestamp() AS began
\gset
\if :pending
{before}BEGIN;
{create};
SET LOCAL lock_timeout = {timeout};
{within}
-- The bookkeeping, ours and Piccolo's.
{journal};
INSERT INTO migration_journal (migration, event, checksum, took)
VALUES ({id}, {event}, {checksum}, clock_timestamp() - :'began'::timestamptz);
INSERT INTO migration (app_name, name) VALUES ({app}, {id});
COMMIT;
\echo {said}
\elif :unrecorded
INSERT INTO migration (app_name, name) VALUES ({app}, {id});
\endif
"""

# A data migration, which counts as applied when it is done, keeps account of how far it is until then.
_END_OF_MOVES = "DROP TABLE IF EXISTS migration_progress;\n"

_FOOT = r"""
SELECT pg_advisory_unlock({lock}) AS unlocked
\gset
\echo 'The database is at {newest}.'
"""


async def write_script(app: AppConfig) -> str:
    """The text of the script. Raises MigrationRefused where a migration can't be told without a database to ask."""
    modules, files = load_modules(app), list_files(find_folder(app))
    checksums = {name: compute_checksum(files[name]) for name in modules}
    newest = max(modules, default="base")
    parts = [
        _HEAD.format(
            newest=newest,
            oldest=OLDEST_POSTGRES,
            lock=LOCK,
            not_alone=_refuse("Each migration is a transaction of its own: run this without --single-transaction."),
            not_recent=_refuse(f"This PostgreSQL is too old: AurumAI needs {OLDEST_POSTGRES} or later."),
            not_known=_refuse("The variable timescale is auto, require or off."),
        ),
        _SURVEY.format(
            ids=_write_array(list(checksums)),
            checksums=_write_array(list(checksums.values())),
            app=write_literal(app.app_name),
            event=write_literal(Event.APPLIED.value),
            accepted=write_literal(Event.ACCEPTED.value),
        ),
        _LEFTOVERS,
    ]
    for number, (migration_id, module) in enumerate(modules.items(), start=1):
        manager = await load_own_manager(app, migration_id, module)
        steps = await manager.list_steps()
        moves_rows = isinstance(manager, DataMigrationManager)
        title = " ".join(f"{migration_id}  {manager.description}".split())
        parts.append(
            _MIGRATION.format(
                title=title,
                number=number,
                before="".join(f"{describe_step(step)}\n{write_statement(step.sql)}\n" for step in steps if moves_rows),
                create=";\n".join(Migration.create_table(if_not_exists=True).ddl),
                timeout=LOCK_TIMEOUT // timedelta(milliseconds=1),
                within=_END_OF_MOVES if moves_rows else "".join(_write_steps(migration_id, steps)),
                journal=CREATE_JOURNAL,
                id=write_literal(migration_id),
                event=write_literal(Event.APPLIED.value),
                checksum=write_literal(checksums[migration_id]),
                app=write_literal(app.app_name),
                said=write_literal(f"{title}: applied.").replace("\\", "\\\\"),
            )
        )
        if not moves_rows and not all(step.transactional for step in steps):
            parts.append(_LEFTOVERS)
    return "".join([*parts, _FOOT.format(lock=LOCK, newest=newest)])


def _refuse(sentence: str) -> str:
    return f"DO $aurum$ BEGIN RAISE EXCEPTION {write_literal(f'MIGRATION_REFUSED: {sentence}')}; END $aurum$;"


def _write_array(texts: list[str]) -> str:
    return f"ARRAY[{', '.join(map(write_literal, texts))}]::text[]"


def _write_steps(migration_id: str, steps: list[Step]) -> Iterator[str]:
    """The steps in their order; those that can't run here are written down in migration_step, where they can run at all."""
    for step in steps:
        if step.asks:
            raise MigrationRefused(
                f"A raw step of the migration {migration_id} asks the database ({' '.join(step.sql.split())[:60]}), and what "
                "it does may depend on the answer: that can't be written as a script."
            )
        if step.transactional:
            yield f"\n{describe_step(step)}\n{write_statement(step.sql)}\n"
        else:
            values = ", ".join(map(write_literal, (migration_id, step.sql, step.values, step.cleanup)))
            record = (
                f"{CREATE_STEPS};\nINSERT INTO migration_step (migration, statement, query, cleanup) VALUES ({values});"
            )
            if step.needs is not Needs.POSTGRES:
                record = f"{guard(step.needs, record)};"
            yield f"\n{describe_step(step)}\n{record}\n"


def write_statement(sql: str) -> str:
    """A statement with its semicolon, as psql has to read it to send it unchanged. Raises MigrationRefused."""
    tokens = read_tokens(sql)
    symbols = [token for token in tokens if token.kind is Kind.SYMBOL]
    if any(token.value == "\\" for token in symbols):
        raise MigrationRefused(
            f"psql would take the backslash in this for a command of its own: {' '.join(sql.split())[:60]}"
        )
    # :name is a variable of psql's wherever it isn't in quotes, in an array's slice for one.
    text = replace_places(sql, [(token.start, token.end, "\\:") for token in symbols if token.value == ":"])
    return f"{text}\n;" if "--" in sql[tokens[-1].end :] else f"{text};"
