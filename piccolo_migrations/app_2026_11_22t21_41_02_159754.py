from app.engine import find_engine
from app.timescale.manager import TimescaleMigrationManager

ID = "2026-11-22T21:41:02:159754"
DESCRIPTION = "Note which hours of readings change after they ended"

# An hour that hasn't ended isn't rolled up yet. The clock is asked, not the transaction's beginning: whoever asked it
# before the hour ended has a transaction that began before, and the roll-up waits for the end of those.
FUNCTION = """
CREATE FUNCTION note_rollup_changes() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF TG_OP = 'TRUNCATE' THEN
    DELETE FROM rollup_cover;
    RETURN NULL;
  END IF;
  INSERT INTO rollup_changes (machine_id, bucket)
  SELECT DISTINCT machine_id, date_bin('1 hour', timestamp, TIMESTAMPTZ '2000-01-03 00:00:00+00') FROM changed
  WHERE timestamp < date_bin('1 hour', clock_timestamp(), TIMESTAMPTZ '2000-01-03 00:00:00+00');
  RETURN NULL;
END $$
"""
FORWARDS = (
    FUNCTION,
    "CREATE TRIGGER note_inserted AFTER INSERT ON raw_measurements "
    "REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION note_rollup_changes()",
    "CREATE TRIGGER note_updated AFTER UPDATE ON raw_measurements "
    "REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION note_rollup_changes()",
    "CREATE TRIGGER note_moved AFTER UPDATE ON raw_measurements "
    "REFERENCING OLD TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION note_rollup_changes()",
    "CREATE TRIGGER note_deleted AFTER DELETE ON raw_measurements "
    "REFERENCING OLD TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION note_rollup_changes()",
    "CREATE TRIGGER note_truncated AFTER TRUNCATE ON raw_measurements "
    "FOR EACH STATEMENT EXECUTE FUNCTION note_rollup_changes()",
)
BACKWARDS = (
    "DROP TRIGGER note_inserted ON raw_measurements",
    "DROP TRIGGER note_updated ON raw_measurements",
    "DROP TRIGGER note_moved ON raw_measurements",
    "DROP TRIGGER note_deleted ON raw_measurements",
    "DROP TRIGGER note_truncated ON raw_measurements",
    "DROP FUNCTION note_rollup_changes()",
    # Nobody notes what changes from here on.
    "DELETE FROM rollup_cover",
)


async def forwards():
    manager = TimescaleMigrationManager(
        migration_id=ID, app_name="app", description=DESCRIPTION
    )

    async def note():
        for statement in FORWARDS:
            await find_engine().run_ddl(statement)

    async def forget():
        for statement in BACKWARDS:
            await find_engine().run_ddl(statement)

    manager.add_raw(note)
    manager.add_raw_backwards(forget)

    return manager
