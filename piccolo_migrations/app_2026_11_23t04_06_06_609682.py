from app.engine import find_engine
from app.timescale.manager import TimescaleMigrationManager

ID = "2026-11-23T04:06:06:609682"
DESCRIPTION = "Let nobody's temporary table stand for audit"

# A session finds its own temporary tables and types before all others: whoever may only add to audit could make one of that name,
# and so choose the number of the row and the hash before it.
HEAD = "CREATE OR REPLACE FUNCTION chain_audit() RETURNS trigger LANGUAGE plpgsql SET plan_cache_mode = force_generic_plan"
OWN_PATH = " SET search_path = pg_catalog, pg_temp"
NAME_SCHEMA = "PERFORM set_config('search_path', format('pg_catalog, %I, pg_temp', TG_TABLE_SCHEMA), true);\n  "
CHAIN = """{head} AS $$
DECLARE
  newest record;
BEGIN
  {first}PERFORM pg_advisory_xact_lock(4727201008);
  SELECT id, hash INTO newest FROM audit ORDER BY id DESC LIMIT 1;
  NEW.id := coalesce(newest.id, 0) + 1;
  NEW.at := clock_timestamp();
  NEW.previous_hash := coalesce(newest.hash, decode(repeat('00', 32), 'hex'));
  SELECT sha256(convert_to(string_agg(coalesce(octet_length(field) || ':' || field, '-'), ',' ORDER BY place), 'UTF8'))
  INTO NEW.hash
  FROM unnest(ARRAY[
    encode(NEW.previous_hash, 'hex'), NEW.id::text, (extract(epoch FROM NEW.at) * 1000000)::bigint::text,
    NEW.actor, NEW.actor_kind, NEW.actor_key::text, NEW.action, NEW.subject_kind, NEW.subject,
    NEW.before::text, NEW.after::text, NEW.correlation_id
  ]) WITH ORDINALITY AS given (field, place);
  RETURN NEW;
END $$
"""


async def forwards():
    manager = TimescaleMigrationManager(
        migration_id=ID, app_name="app", description=DESCRIPTION
    )

    async def look_in_its_own_schema():
        await find_engine().run_ddl(
            CHAIN.format(head=HEAD + OWN_PATH, first=NAME_SCHEMA)
        )

    async def look_where_the_session_does():
        await find_engine().run_ddl(CHAIN.format(head=HEAD, first=""))

    manager.add_raw(look_in_its_own_schema)
    manager.add_raw_backwards(look_where_the_session_does)

    return manager
