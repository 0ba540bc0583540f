from app.engine import find_engine
from app.timescale.manager import TimescaleMigrationManager

ID = "2026-11-23T00:45:30:820515"
DESCRIPTION = "Chain the rows of audit, and let nothing change them"

# Numbers are given under the lock, so a transaction that is rolled back leaves no gap: one is where a row was removed. The
# lock holds until the transaction ends, and only then the next one looks for the newest row. Our sessions would plan each of
# the statements anew for each row, which takes longer than to execute them.
CHAIN = """
CREATE FUNCTION chain_audit() RETURNS trigger LANGUAGE plpgsql SET plan_cache_mode = force_generic_plan AS $$
DECLARE
  newest record;
BEGIN
  PERFORM pg_advisory_xact_lock(4727201008);
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
REFUSE = """
CREATE FUNCTION refuse_audit_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  RAISE EXCEPTION 'audit is only ever added to' USING ERRCODE = 'insufficient_privilege';
END $$
"""
FORWARDS = (
    CHAIN,
    REFUSE,
    "CREATE TRIGGER chain_inserted BEFORE INSERT ON audit FOR EACH ROW EXECUTE FUNCTION chain_audit()",
    "CREATE TRIGGER refuse_change BEFORE UPDATE OR DELETE OR TRUNCATE ON audit "
    "FOR EACH STATEMENT EXECUTE FUNCTION refuse_audit_change()",
)
BACKWARDS = (
    "DROP TRIGGER chain_inserted ON audit",
    "DROP TRIGGER refuse_change ON audit",
    "DROP FUNCTION chain_audit()",
    "DROP FUNCTION refuse_audit_change()",
)


async def forwards():
    manager = TimescaleMigrationManager(
        migration_id=ID, app_name="app", description=DESCRIPTION
    )

    async def chain():
        for statement in FORWARDS:
            await find_engine().run_ddl(statement)

    async def let_go():
        for statement in BACKWARDS:
            await find_engine().run_ddl(statement)

    manager.add_raw(chain)
    manager.add_raw_backwards(let_go)

    return manager
