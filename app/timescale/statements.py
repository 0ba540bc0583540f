"""The statement that brings TimescaleDB into a database, on every edition.

It is a DO block that decides when it runs, so the same text serves the runner, `piccolo migrations` and a psql script.
AURUM_TIMESCALE reaches it as the session setting `aurum.timescale` (auto where it isn't set). Needs TimescaleDB 2.18 or
later where there is any.
"""

from __future__ import annotations

# SQL for what AURUM_TIMESCALE says.
TIMESCALE_POLICY = "coalesce(nullif(current_setting('aurum.timescale', true), ''), 'auto')"

# An extension that is installed but not preloaded ends the session that creates it, so ask for its settings first:
# they exist as soon as its loader is in the server. They are readable by everyone, shared_preload_libraries isn't.
_AVAILABLE = """EXISTS (SELECT FROM pg_available_extensions WHERE name = 'timescaledb')
    AND EXISTS (SELECT FROM pg_settings WHERE name LIKE 'timescaledb.%')"""

ENABLE_TIMESCALE = f"""
DO $aurum$
BEGIN
  IF {TIMESCALE_POLICY} = 'off' OR EXISTS (SELECT FROM pg_extension WHERE extname = 'timescaledb') THEN
    RETURN;
  END IF;
  IF {_AVAILABLE} THEN
    BEGIN
      CREATE EXTENSION timescaledb;
      RETURN;
    EXCEPTION WHEN insufficient_privilege THEN
      RAISE WARNING 'TimescaleDB is there, but role % may not create the extension: a superuser has to run CREATE EXTENSION timescaledb in this database', current_user;
    END;
  END IF;
  IF {TIMESCALE_POLICY} = 'require' THEN
    RAISE EXCEPTION 'AURUM_TIMESCALE=require, but TimescaleDB is not enabled in database % and can''t be', current_database()
      USING HINT = 'Install TimescaleDB 2.18 or later, add it to shared_preload_libraries, and let a superuser run CREATE EXTENSION timescaledb.';
  END IF;
END
$aurum$
""".strip()

# SQL that says whether that statement would bring it in. A trusted extension asks for no more than CREATE in the database.
CAN_ENABLE = f"""(
  {TIMESCALE_POLICY} <> 'off' AND NOT EXISTS (SELECT FROM pg_extension WHERE extname = 'timescaledb') AND {_AVAILABLE}
  AND EXISTS (
    SELECT FROM pg_available_extensions AS extension JOIN pg_available_extension_versions AS made USING (name)
    WHERE name = 'timescaledb' AND made.version = extension.default_version AND (
      current_setting('is_superuser')::boolean OR NOT made.superuser
      OR (made.trusted AND has_database_privilege(current_database(), 'CREATE'))
    )
  )
)"""
