-- The schema that the migrations make, on every edition: psql -1 -v ON_ERROR_STOP=1 -f schema.sql
-- Written by invoke schema-snapshot, to be read and compared: a database that is to live is made by invoke migrate, which
-- keeps a record of what it did.

-- TimescaleDB, where the server has it
DO $aurum$
BEGIN
  IF coalesce(nullif(current_setting('aurum.timescale', true), ''), 'auto') = 'off' OR EXISTS (SELECT FROM pg_extension WHERE extname = 'timescaledb') THEN
    RETURN;
  END IF;
  IF EXISTS (SELECT FROM pg_available_extensions WHERE name = 'timescaledb')
    AND EXISTS (SELECT FROM pg_settings WHERE name LIKE 'timescaledb.%') THEN
    BEGIN
      CREATE EXTENSION timescaledb;
      RETURN;
    EXCEPTION WHEN insufficient_privilege THEN
      RAISE WARNING 'TimescaleDB is there, but role % may not create the extension: a superuser has to run CREATE EXTENSION timescaledb in this database', current_user;
    END;
  END IF;
  IF coalesce(nullif(current_setting('aurum.timescale', true), ''), 'auto') = 'require' THEN
    RAISE EXCEPTION 'AURUM_TIMESCALE=require, but TimescaleDB is not enabled in database % and can''t be', current_database()
      USING HINT = 'Install TimescaleDB 2.18 or later, add it to shared_preload_libraries, and let a superuser run CREATE EXTENSION timescaledb.';
  END IF;
END
$aurum$;

CREATE SEQUENCE alert_transitions_id_seq AS bigint;

CREATE SEQUENCE alerts_id_seq AS bigint;

CREATE SEQUENCE api_keys_id_seq AS bigint;

CREATE SEQUENCE outbox_id_seq AS bigint;

CREATE SEQUENCE rollup_changes_id_seq AS bigint;

SET check_function_bodies = off;

CREATE OR REPLACE FUNCTION chain_audit()
 RETURNS trigger
 LANGUAGE plpgsql
 SET plan_cache_mode TO 'force_generic_plan'
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
DECLARE
  newest record;
BEGIN
  PERFORM set_config('search_path', format('pg_catalog, %I, pg_temp', TG_TABLE_SCHEMA), true);
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
END $function$
;

CREATE OR REPLACE FUNCTION note_deleted_reading()
 RETURNS trigger
 LANGUAGE plpgsql
AS $function$
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
END $function$
;

CREATE OR REPLACE FUNCTION note_rollup_changes()
 RETURNS trigger
 LANGUAGE plpgsql
AS $function$
BEGIN
  IF TG_OP = 'TRUNCATE' THEN
    DELETE FROM rollup_cover;
    RETURN NULL;
  END IF;
  INSERT INTO rollup_changes (machine_id, bucket)
  SELECT DISTINCT machine_id, date_bin('1 hour', timestamp, TIMESTAMPTZ '2000-01-03 00:00:00+00') FROM changed
  WHERE timestamp < date_bin('1 hour', clock_timestamp(), TIMESTAMPTZ '2000-01-03 00:00:00+00');
  RETURN NULL;
END $function$
;

CREATE OR REPLACE FUNCTION refuse_audit_change()
 RETURNS trigger
 LANGUAGE plpgsql
AS $function$
BEGIN
  RAISE EXCEPTION 'audit is only ever added to' USING ERRCODE = 'insufficient_privilege';
END $function$
;

CREATE TABLE allowances (
  holder text NOT NULL,
  full_at timestamp with time zone NOT NULL,
  granted bigint NOT NULL,
  CONSTRAINT allowances_pkey PRIMARY KEY (holder)
);

CREATE TABLE api_keys (
  id bigint NOT NULL DEFAULT nextval('api_keys_id_seq'::regclass),
  prefix text NOT NULL,
  digest bytea NOT NULL,
  name text NOT NULL,
  roles jsonb NOT NULL,
  locations jsonb,
  created_at timestamp with time zone NOT NULL DEFAULT CURRENT_TIMESTAMP,
  created_by text NOT NULL,
  expires_at timestamp with time zone,
  last_used_at timestamp with time zone,
  revoked_at timestamp with time zone,
  CONSTRAINT api_keys_pkey PRIMARY KEY (id),
  CONSTRAINT api_keys_digest_length CHECK ((octet_length(digest) = 32)),
  CONSTRAINT api_keys_locations_array CHECK ((jsonb_typeof(locations) = 'array'::text)),
  CONSTRAINT api_keys_prefix_key UNIQUE (prefix),
  CONSTRAINT api_keys_roles_array CHECK ((jsonb_typeof(roles) = 'array'::text))
);

CREATE TABLE audit (
  id bigint NOT NULL,
  at timestamp with time zone NOT NULL,
  actor text NOT NULL,
  actor_kind text NOT NULL,
  actor_key bigint,
  action text NOT NULL,
  subject_kind text NOT NULL,
  subject text NOT NULL,
  before jsonb,
  after jsonb,
  correlation_id text NOT NULL,
  previous_hash bytea NOT NULL,
  hash bytea NOT NULL,
  CONSTRAINT audit_pkey PRIMARY KEY (id),
  CONSTRAINT audit_hashes_length CHECK (((octet_length(previous_hash) = 32) AND (octet_length(hash) = 32)))
);

CREATE TABLE file_loads (
  fingerprint text NOT NULL,
  path text NOT NULL,
  progress jsonb NOT NULL,
  finished_at timestamp with time zone,
  created_at timestamp with time zone NOT NULL DEFAULT CURRENT_TIMESTAMP,
  updated_at timestamp with time zone NOT NULL DEFAULT CURRENT_TIMESTAMP,
  CONSTRAINT file_loads_pkey PRIMARY KEY (fingerprint)
);

CREATE TABLE machines (
  machine_id text NOT NULL,
  machine_type text NOT NULL,
  location text NOT NULL,
  operational boolean NOT NULL DEFAULT true,
  created_at timestamp with time zone NOT NULL DEFAULT CURRENT_TIMESTAMP,
  updated_at timestamp with time zone NOT NULL DEFAULT CURRENT_TIMESTAMP,
  CONSTRAINT machines_pkey PRIMARY KEY (machine_id),
  CONSTRAINT machines_machine_id_not_empty CHECK ((machine_id <> ''::text))
);

CREATE TABLE alerts (
  id bigint NOT NULL DEFAULT nextval('alerts_id_seq'::regclass),
  machine_id text NOT NULL,
  "timestamp" timestamp with time zone NOT NULL DEFAULT CURRENT_TIMESTAMP,
  alert_type text NOT NULL,
  severity text NOT NULL,
  cause text NOT NULL,
  title text NOT NULL,
  description text,
  evidence jsonb NOT NULL DEFAULT '{}'::jsonb,
  cleared_at timestamp with time zone,
  acknowledged_at timestamp with time zone,
  acknowledged_by text,
  resolved_at timestamp with time zone,
  resolved_by text,
  shelved_at timestamp with time zone,
  shelved_by text,
  shelved_until timestamp with time zone,
  created_at timestamp with time zone NOT NULL DEFAULT CURRENT_TIMESTAMP,
  cleared_by text,
  CONSTRAINT alerts_pkey PRIMARY KEY (id),
  CONSTRAINT alerts_alert_type_known CHECK ((alert_type = ANY (ARRAY['ANOMALY'::text, 'PREDICTION'::text, 'THRESHOLD'::text, 'ESG'::text, 'SILENCE'::text]))),
  CONSTRAINT alerts_machine_id_fkey FOREIGN KEY (machine_id) REFERENCES machines(machine_id) ON UPDATE RESTRICT ON DELETE RESTRICT,
  CONSTRAINT alerts_severity_known CHECK ((severity = ANY (ARRAY['LOW'::text, 'MEDIUM'::text, 'HIGH'::text, 'CRITICAL'::text])))
);

CREATE TABLE alert_transitions (
  id bigint NOT NULL DEFAULT nextval('alert_transitions_id_seq'::regclass),
  alert_id bigint NOT NULL,
  at timestamp with time zone NOT NULL,
  action text NOT NULL,
  state_before text,
  state_after text NOT NULL,
  by text NOT NULL,
  note text,
  shelved_until timestamp with time zone,
  CONSTRAINT alert_transitions_pkey PRIMARY KEY (id),
  CONSTRAINT alert_transitions_action_known CHECK ((action = ANY (ARRAY['RAISE'::text, 'CLEAR'::text, 'ACKNOWLEDGE'::text, 'RESOLVE'::text, 'SHELVE'::text]))),
  CONSTRAINT alert_transitions_alert_id_fkey FOREIGN KEY (alert_id) REFERENCES alerts(id) ON UPDATE RESTRICT ON DELETE RESTRICT
);

CREATE TABLE esg_records (
  machine_id text NOT NULL,
  "timestamp" timestamp with time zone NOT NULL,
  instant_co2eq_kg double precision NOT NULL,
  cumulative_co2eq_kg double precision NOT NULL,
  fuel_rate_lh double precision,
  power_consumption_kw double precision,
  efficiency_score double precision,
  factors jsonb NOT NULL,
  metadata jsonb,
  created_at timestamp with time zone NOT NULL DEFAULT CURRENT_TIMESTAMP,
  CONSTRAINT esg_records_pkey PRIMARY KEY (machine_id, "timestamp"),
  CONSTRAINT esg_records_machine_id_fkey FOREIGN KEY (machine_id) REFERENCES machines(machine_id) ON UPDATE RESTRICT ON DELETE RESTRICT
);

CREATE TABLE features (
  machine_id text NOT NULL,
  "timestamp" timestamp with time zone NOT NULL,
  features jsonb NOT NULL,
  created_at timestamp with time zone NOT NULL DEFAULT CURRENT_TIMESTAMP,
  CONSTRAINT features_pkey PRIMARY KEY (machine_id, "timestamp"),
  CONSTRAINT features_features_object CHECK ((jsonb_typeof(features) = 'object'::text)),
  CONSTRAINT features_machine_id_fkey FOREIGN KEY (machine_id) REFERENCES machines(machine_id) ON UPDATE RESTRICT ON DELETE RESTRICT
);

CREATE TABLE machine_pulses (
  machine_id text NOT NULL,
  packets jsonb NOT NULL,
  usual_interval interval,
  clock_lag interval NOT NULL,
  seen_at timestamp with time zone NOT NULL,
  silent_since timestamp with time zone,
  CONSTRAINT machine_pulses_pkey PRIMARY KEY (machine_id),
  CONSTRAINT machine_pulses_machine_id_fkey FOREIGN KEY (machine_id) REFERENCES machines(machine_id) ON UPDATE RESTRICT ON DELETE RESTRICT
);

CREATE TABLE outbox (
  id bigint NOT NULL DEFAULT nextval('outbox_id_seq'::regclass),
  topic text NOT NULL,
  payload jsonb NOT NULL,
  created_at timestamp with time zone NOT NULL DEFAULT CURRENT_TIMESTAMP,
  CONSTRAINT outbox_pkey PRIMARY KEY (id)
);

CREATE TABLE outbox_readers (
  name text NOT NULL,
  "position" bigint NOT NULL,
  CONSTRAINT outbox_readers_pkey PRIMARY KEY (name)
);

CREATE TABLE predictions (
  prediction_id uuid NOT NULL DEFAULT gen_random_uuid(),
  machine_id text NOT NULL,
  "timestamp" timestamp with time zone NOT NULL,
  risk_score double precision NOT NULL,
  failure_probability double precision,
  maintenance_hours double precision,
  failure_type text,
  confidence double precision,
  model_version text NOT NULL,
  features_used jsonb NOT NULL,
  created_at timestamp with time zone NOT NULL DEFAULT CURRENT_TIMESTAMP,
  CONSTRAINT predictions_pkey PRIMARY KEY (machine_id, "timestamp", model_version),
  CONSTRAINT predictions_confidence_range CHECK (((confidence >= (0)::double precision) AND (confidence <= (1)::double precision))),
  CONSTRAINT predictions_failure_probability_range CHECK (((failure_probability >= (0)::double precision) AND (failure_probability <= (1)::double precision))),
  CONSTRAINT predictions_machine_id_fkey FOREIGN KEY (machine_id) REFERENCES machines(machine_id) ON UPDATE RESTRICT ON DELETE RESTRICT,
  CONSTRAINT predictions_risk_score_range CHECK (((risk_score >= (0)::double precision) AND (risk_score <= (1)::double precision)))
);

CREATE TABLE raw_measurements (
  machine_id text NOT NULL,
  "timestamp" timestamp with time zone NOT NULL,
  metrics jsonb NOT NULL,
  created_at timestamp with time zone NOT NULL DEFAULT CURRENT_TIMESTAMP,
  CONSTRAINT raw_measurements_pkey PRIMARY KEY (machine_id, "timestamp"),
  CONSTRAINT raw_measurements_machine_id_fkey FOREIGN KEY (machine_id) REFERENCES machines(machine_id) ON UPDATE RESTRICT ON DELETE RESTRICT,
  CONSTRAINT raw_measurements_metrics_object CHECK ((jsonb_typeof(metrics) = 'object'::text))
);

CREATE TABLE rollup_changes (
  id bigint NOT NULL DEFAULT nextval('rollup_changes_id_seq'::regclass),
  machine_id text NOT NULL,
  bucket timestamp with time zone NOT NULL,
  CONSTRAINT rollup_changes_pkey PRIMARY KEY (id)
);

CREATE TABLE rollup_cover (
  id bigint NOT NULL,
  since timestamp with time zone NOT NULL,
  until timestamp with time zone NOT NULL,
  CONSTRAINT rollup_cover_pkey PRIMARY KEY (id),
  CONSTRAINT rollup_cover_one_row CHECK ((id = 1))
);

CREATE TABLE rollups (
  machine_id text NOT NULL,
  metric text NOT NULL,
  bucket timestamp with time zone NOT NULL,
  readings bigint NOT NULL,
  total double precision,
  lowest double precision NOT NULL,
  highest double precision NOT NULL,
  earliest double precision NOT NULL,
  latest double precision NOT NULL,
  CONSTRAINT rollups_pkey PRIMARY KEY (machine_id, metric, bucket),
  CONSTRAINT rollups_machine_id_fkey FOREIGN KEY (machine_id) REFERENCES machines(machine_id) ON UPDATE RESTRICT ON DELETE CASCADE
);

ALTER SEQUENCE alert_transitions_id_seq OWNED BY alert_transitions.id;

ALTER SEQUENCE alerts_id_seq OWNED BY alerts.id;

ALTER SEQUENCE api_keys_id_seq OWNED BY api_keys.id;

ALTER SEQUENCE outbox_id_seq OWNED BY outbox.id;

ALTER SEQUENCE rollup_changes_id_seq OWNED BY rollup_changes.id;

CREATE INDEX alert_transitions_alert_id ON alert_transitions USING btree (alert_id);

CREATE INDEX alerts_machine_id ON alerts USING btree (machine_id);

CREATE INDEX alerts_resolved_at ON alerts USING btree (resolved_at);

CREATE INDEX alerts_timestamp ON alerts USING btree ("timestamp");

CREATE INDEX esg_records_timestamp ON esg_records USING btree ("timestamp");

CREATE INDEX features_timestamp ON features USING btree ("timestamp");

CREATE INDEX outbox_created_at ON outbox USING btree (created_at);

CREATE INDEX predictions_prediction_id ON predictions USING btree (prediction_id);

CREATE INDEX predictions_timestamp ON predictions USING btree ("timestamp");

CREATE INDEX raw_measurements_timestamp ON raw_measurements USING btree ("timestamp");

CREATE INDEX rollups_hour ON rollups USING btree (machine_id, bucket);

CREATE TRIGGER chain_inserted BEFORE INSERT ON audit FOR EACH ROW EXECUTE FUNCTION chain_audit();

CREATE TRIGGER refuse_change BEFORE DELETE OR UPDATE OR TRUNCATE ON audit FOR EACH STATEMENT EXECUTE FUNCTION refuse_audit_change();

CREATE TRIGGER note_deleted AFTER DELETE ON raw_measurements FOR EACH ROW EXECUTE FUNCTION note_deleted_reading();

CREATE TRIGGER note_inserted AFTER INSERT ON raw_measurements REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION note_rollup_changes();

CREATE TRIGGER note_moved AFTER UPDATE ON raw_measurements REFERENCING OLD TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION note_rollup_changes();

CREATE TRIGGER note_truncated AFTER TRUNCATE ON raw_measurements FOR EACH STATEMENT EXECUTE FUNCTION note_rollup_changes();

CREATE TRIGGER note_updated AFTER UPDATE ON raw_measurements REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION note_rollup_changes();

-- esg_records, left out without TimescaleDB
DO $aurum$
BEGIN
  IF EXISTS (SELECT FROM pg_extension WHERE extname = 'timescaledb') THEN
    PERFORM create_hypertable(
      '"esg_records"'::regclass,
      by_range('timestamp', INTERVAL '604800000000 microseconds'),
      create_default_indexes => false, if_not_exists => true, migrate_data => true
    );
  END IF;
END
$aurum$;

-- features, left out without TimescaleDB
DO $aurum$
BEGIN
  IF EXISTS (SELECT FROM pg_extension WHERE extname = 'timescaledb') THEN
    PERFORM create_hypertable(
      '"features"'::regclass,
      by_range('timestamp', INTERVAL '604800000000 microseconds'),
      create_default_indexes => false, if_not_exists => true, migrate_data => true
    );
  END IF;
END
$aurum$;

-- predictions, left out without TimescaleDB
DO $aurum$
BEGIN
  IF EXISTS (SELECT FROM pg_extension WHERE extname = 'timescaledb') THEN
    PERFORM create_hypertable(
      '"predictions"'::regclass,
      by_range('timestamp', INTERVAL '604800000000 microseconds'),
      create_default_indexes => false, if_not_exists => true, migrate_data => true
    );
  END IF;
END
$aurum$;

-- raw_measurements, left out without TimescaleDB
DO $aurum$
BEGIN
  IF EXISTS (SELECT FROM pg_extension WHERE extname = 'timescaledb') THEN
    PERFORM create_hypertable(
      '"raw_measurements"'::regclass,
      by_range('timestamp', INTERVAL '86400000000 microseconds'),
      create_default_indexes => false, if_not_exists => true, migrate_data => true
    );
  END IF;
END
$aurum$;
