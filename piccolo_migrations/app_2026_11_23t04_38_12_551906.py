from app.engine import find_engine
from app.timescale.manager import TimescaleMigrationManager

ID = "2026-11-23T04:38:12:551906"
DESCRIPTION = (
    "Note deleted readings one by one, without which their table can't be compressed"
)

# TimescaleDB compresses no table with a trigger that gets the deleted rows of a statement as a table: those of a whole
# batch would be missing there. With a trigger for each row it unpacks the batch before.
#
# An hour is noted once by a transaction, as far as the newest 8,000 characters remember: of deletions in order of time,
# that is every machine's hour. The setting ends with the transaction, and goes back with a savepoint as its notes do. A name's
# own quotes are doubled, so that none is taken for another's end.
FUNCTION = """
CREATE FUNCTION note_deleted_reading() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
  hour timestamptz := date_bin('1 hour', OLD.timestamp, TIMESTAMPTZ '2000-01-03 00:00:00+00');
  noted text := coalesce(current_setting('aurum.noted', true), '');
  entry text := format(',%L %s,', OLD.machine_id, extract(epoch FROM hour));
BEGIN
  IF hour < date_bin('1 hour', clock_timestamp(), TIMESTAMPTZ '2000-01-03 00:00:00+00') AND position(entry IN noted) = 0 THEN
    INSERT INTO rollup_changes (machine_id, bucket) VALUES (OLD.machine_id, hour);
    PERFORM set_config('aurum.noted', right(noted || entry, 8000), true);
  END IF;
  RETURN NULL;
END $$
"""
FORWARDS = (
    "DROP TRIGGER note_deleted ON raw_measurements",
    FUNCTION,
    "CREATE TRIGGER note_deleted AFTER DELETE ON raw_measurements "
    "FOR EACH ROW EXECUTE FUNCTION note_deleted_reading()",
)
BACKWARDS = (
    "DROP TRIGGER note_deleted ON raw_measurements",
    "DROP FUNCTION note_deleted_reading()",
    "CREATE TRIGGER note_deleted AFTER DELETE ON raw_measurements "
    "REFERENCING OLD TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION note_rollup_changes()",
)


async def forwards():
    manager = TimescaleMigrationManager(
        migration_id=ID, app_name="app", description=DESCRIPTION
    )

    async def note_rows():
        for statement in FORWARDS:
            await find_engine().run_ddl(statement)

    async def note_statements():
        for statement in BACKWARDS:
            await find_engine().run_ddl(statement)

    manager.add_raw(note_rows)
    manager.add_raw_backwards(note_statements)

    return manager
