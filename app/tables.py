"""The tables, each declared once; a migration in piccolo_migrations/ follows from every change here.

Telemetry is keyed by (machine_id, timestamp): the machine first, because every question is about machines. Its time
columns carry a second index where a query reads all machines in order of time. All times are timestamptz. Columns
without a default of their own say `default=None`, or Piccolo would put '' or 0 there for whoever forgets them.
"""

from __future__ import annotations

from datetime import timedelta

from piccolo.columns import (
    JSONB,
    UUID,
    BigInt,
    BigSerial,
    Boolean,
    Bytea,
    DoublePrecision,
    ForeignKey,
    Interval,
    OnDelete,
    OnUpdate,
    Text,
    Timestamptz,
)
from piccolo.columns.defaults.uuid import UUID4
from piccolo.constraints import Check
from piccolo.table import Table

from app.timescale.declared import Declared
from app.timescale.hypertable import Hypertable
from app.timescale.indexes import Index
from app.timescale.keys import CompositeKey, KeyTimestamptz, PrimaryKey

_SEVERITIES = "'LOW', 'MEDIUM', 'HIGH', 'CRITICAL'"
_ALERT_ACTIONS = "'RAISE', 'CLEAR', 'ACKNOWLEDGE', 'RESOLVE', 'SHELVE'"
_ALERT_TYPES = "'ANOMALY', 'PREDICTION', 'THRESHOLD', 'ESG', 'SILENCE'"


class Machine(Declared, Table, tablename="machines"):
    """A machine that sends readings. Never deleted: retiring it sets `operational` to false and keeps its history."""

    machine_id = Text(primary_key=True, default=None)
    machine_type = Text(default=None)
    location = Text(default=None)
    operational = Boolean(default=True)
    created_at = Timestamptz()
    updated_at = Timestamptz()

    machines_machine_id_not_empty = Check("machine_id <> ''")


class RawMeasurement(
    Declared,
    CompositeKey,
    Table,
    tablename="raw_measurements",
    hypertable=Hypertable("timestamp", chunk_interval=timedelta(days=1)),
):
    """A reading: what a machine measured at one instant, as {metric name: finite number}."""

    machine_id = ForeignKey(Machine, on_delete=OnDelete.restrict, on_update=OnUpdate.restrict, null=False, default=None)
    # index: GraphQL `measurements` over all machines, newest first, and the fleet's newest readings
    timestamp = KeyTimestamptz(primary_key=True, default=None, index=True)
    metrics = JSONB(default=None)
    created_at = Timestamptz()

    # key: `series`, `latest`, and the merge of a reading that arrives again
    raw_measurements_pkey = PrimaryKey([machine_id, timestamp])
    raw_measurements_metrics_object = Check("jsonb_typeof(metrics) = 'object'")


class Feature(
    Declared,
    CompositeKey,
    Table,
    tablename="features",
    hypertable=Hypertable("timestamp", chunk_interval=timedelta(days=7)),
):
    """What was computed of the window of readings that ends at `timestamp`."""

    machine_id = ForeignKey(Machine, on_delete=OnDelete.restrict, on_update=OnUpdate.restrict, null=False, default=None)
    # index: GraphQL `features` over all machines, newest first
    timestamp = KeyTimestamptz(primary_key=True, default=None, index=True)
    features = JSONB(default=None)
    created_at = Timestamptz()

    # key: a machine's features over a range
    features_pkey = PrimaryKey([machine_id, timestamp])
    features_features_object = Check("jsonb_typeof(features) = 'object'")


class Prediction(
    Declared,
    CompositeKey,
    Table,
    tablename="predictions",
    hypertable=Hypertable("timestamp", chunk_interval=timedelta(days=7)),
):
    """What one version of a model expected of a machine at one instant."""

    # index: one prediction by its public id. Unique by its making; a hypertable can't enforce it without the time.
    prediction_id = UUID(default=UUID4(), index=True)
    machine_id = ForeignKey(Machine, on_delete=OnDelete.restrict, on_update=OnUpdate.restrict, null=False, default=None)
    # index: GraphQL `predictions` over all machines, newest first
    timestamp = KeyTimestamptz(primary_key=True, default=None, index=True)
    risk_score = DoublePrecision(default=None)
    failure_probability = DoublePrecision(default=None, null=True)
    maintenance_hours = DoublePrecision(default=None, null=True)
    failure_type = Text(default=None, null=True)
    confidence = DoublePrecision(default=None, null=True)
    model_version = Text(default=None)
    features_used = JSONB(default=None)
    created_at = Timestamptz()

    # key: a machine's newest prediction, and a prediction that is recorded again
    predictions_pkey = PrimaryKey([machine_id, timestamp, model_version])
    predictions_risk_score_range = Check("risk_score BETWEEN 0 AND 1")
    predictions_failure_probability_range = Check("failure_probability BETWEEN 0 AND 1")
    predictions_confidence_range = Check("confidence BETWEEN 0 AND 1")


class EsgRecord(
    Declared,
    CompositeKey,
    Table,
    tablename="esg_records",
    hypertable=Hypertable("timestamp", chunk_interval=timedelta(days=7)),
):
    """What a machine emitted: kilograms of CO2 equivalent at one instant and since its first record."""

    machine_id = ForeignKey(Machine, on_delete=OnDelete.restrict, on_update=OnUpdate.restrict, null=False, default=None)
    # index: GraphQL `esgRecords` over all machines, newest first
    timestamp = KeyTimestamptz(primary_key=True, default=None, index=True)
    instant_co2eq_kg = DoublePrecision(default=None)
    cumulative_co2eq_kg = DoublePrecision(default=None)
    fuel_rate_lh = DoublePrecision(default=None, null=True)
    power_consumption_kw = DoublePrecision(default=None, null=True)
    efficiency_score = DoublePrecision(default=None, null=True)
    factors = JSONB(default=None)
    metadata = JSONB(default=None, null=True)
    created_at = Timestamptz()

    # key: a machine's records over a range
    esg_records_pkey = PrimaryKey([machine_id, timestamp])


class Alert(Declared, Table, tablename="alerts"):
    """Something about a machine that a person should see, and what they did about it."""

    id = BigSerial(primary_key=True)
    # index: a machine's alerts
    machine_id = ForeignKey(
        Machine, on_delete=OnDelete.restrict, on_update=OnUpdate.restrict, null=False, default=None, index=True
    )
    # index: GraphQL `alerts` over all machines, newest first
    timestamp = Timestamptz(index=True)
    alert_type = Text(default=None)
    severity = Text(default=None)
    cause = Text(default=None)
    title = Text(default=None)
    description = Text(default=None, null=True)
    evidence = JSONB(default="{}")
    cleared_at = Timestamptz(default=None, null=True)
    cleared_by = Text(default=None, null=True)
    acknowledged_at = Timestamptz(default=None, null=True)
    acknowledged_by = Text(default=None, null=True)
    # index: the open ones, which are few
    resolved_at = Timestamptz(default=None, null=True, index=True)
    resolved_by = Text(default=None, null=True)
    shelved_at = Timestamptz(default=None, null=True)
    shelved_by = Text(default=None, null=True)
    shelved_until = Timestamptz(default=None, null=True)
    created_at = Timestamptz()

    alerts_alert_type_known = Check(f"alert_type IN ({_ALERT_TYPES})")
    alerts_severity_known = Check(f"severity IN ({_SEVERITIES})")


class AlertTransition(Declared, Table, tablename="alert_transitions"):
    """One thing that happened to an alert, kept for good; `state_before` is null where it was opened."""

    id = BigSerial(primary_key=True)
    # index: the transitions of an alert, in their order
    alert_id = ForeignKey(
        Alert, on_delete=OnDelete.restrict, on_update=OnUpdate.restrict, null=False, default=None, index=True
    )
    at = Timestamptz(default=None)
    action = Text(default=None)
    state_before = Text(default=None, null=True)
    state_after = Text(default=None)
    by = Text(default=None)
    note = Text(default=None, null=True)
    shelved_until = Timestamptz(default=None, null=True)

    alert_transitions_action_known = Check(f"action IN ({_ALERT_ACTIONS})")


class Outbox(Declared, Table, tablename="outbox"):
    """What happened, written in the transaction that made it happen, told to subscribers in the order of `id`."""

    id = BigSerial(primary_key=True)
    topic = Text(default=None)
    payload = JSONB(default=None)
    # index: what is old enough to be forgotten
    created_at = Timestamptz(index=True)


class OutboxReader(Declared, Table, tablename="outbox_readers"):
    """How far something that follows the outbox has come; moved in the transaction that holds what it made of the events."""

    name = Text(primary_key=True, default=None)
    position = BigInt(default=None)


class MachinePulse(Declared, Table, tablename="machine_pulses"):
    """What was learned of a machine from its newest packets: how often it sends, how wrong its clock is, when it was
    last heard, and since when it's known to be silent."""

    machine_id = ForeignKey(
        Machine,
        primary_key=True,
        on_delete=OnDelete.restrict,
        on_update=OnUpdate.restrict,
        null=False,
        default=None,
    )
    packets = JSONB(default=None)
    usual_interval = Interval(default=None, null=True)
    clock_lag = Interval(default=None)
    seen_at = Timestamptz(default=None)
    silent_since = Timestamptz(default=None, null=True)


class Rollup(
    Declared,
    CompositeKey,
    Table,
    tablename="rollups",
    # an hour of which readings changed, and `series` of all metrics
    indexes=(Index("rollups_hour", ("machine_id", "bucket")),),
):
    """What the values of one metric of a machine in one hour come to, so that long ranges need not read them again.

    Right wherever `rollup_cover` says so and `rollup_changes` names no later change.
    """

    machine_id = ForeignKey(Machine, on_delete=OnDelete.cascade, on_update=OnUpdate.restrict, null=False, default=None)
    metric = Text(default=None)
    bucket = KeyTimestamptz(primary_key=True, default=None)
    readings = BigInt(default=None)
    # null where it may be beyond double precision: such an hour is read anew
    total = DoublePrecision(default=None, null=True)
    lowest = DoublePrecision(default=None)
    highest = DoublePrecision(default=None)
    earliest = DoublePrecision(default=None)
    latest = DoublePrecision(default=None)

    # key: `series` of long ranges
    rollups_pkey = PrimaryKey([machine_id, metric, bucket])


class RollupChange(Declared, Table, tablename="rollup_changes"):
    """An hour of a machine whose readings changed after it had ended; written by triggers on raw_measurements."""

    id = BigSerial(primary_key=True)
    machine_id = Text(default=None)
    bucket = Timestamptz(default=None)


class RollupCover(Declared, Table, tablename="rollup_cover"):
    """From when until when hours are rolled up, whichever machine they are of; one row, or none while nothing is."""

    id = BigInt(primary_key=True, default=None)
    since = Timestamptz(default=None)
    until = Timestamptz(default=None)

    rollup_cover_one_row = Check("id = 1")


class FileLoad(Declared, Table, tablename="file_loads"):
    """A file that was loaded or is being loaded, by what is in it and how it is read; from `progress` one can go on."""

    fingerprint = Text(primary_key=True, default=None)
    path = Text(default=None)
    progress = JSONB(default=None)
    finished_at = Timestamptz(default=None, null=True)
    created_at = Timestamptz()
    updated_at = Timestamptz()


class ApiKey(Declared, Table, tablename="api_keys"):
    """A key that lets a program in: `prefix` is public and what it's looked up by, of the whole only a SHA-256 is kept."""

    id = BigSerial(primary_key=True)
    # index: a key that is shown to the service
    prefix = Text(default=None, unique=True)
    digest = Bytea(default=None)
    name = Text(default=None)
    roles = JSONB(default=None)
    # null where it isn't bound to any
    locations = JSONB(default=None, null=True)
    created_at = Timestamptz()
    created_by = Text(default=None)
    expires_at = Timestamptz(default=None, null=True)
    last_used_at = Timestamptz(default=None, null=True)
    revoked_at = Timestamptz(default=None, null=True)

    api_keys_digest_length = Check("octet_length(digest) = 32")
    api_keys_roles_array = Check("jsonb_typeof(roles) = 'array'")
    api_keys_locations_array = Check("jsonb_typeof(locations) = 'array'")


class Audit(Declared, Table, tablename="audit"):
    """Who changed what; a row for each thing. Only ever added to: its triggers number and chain the rows, and refuse the rest."""

    # key: the newest row, which the next one hangs on
    id = BigInt(primary_key=True, default=None)
    at = Timestamptz(default=None)
    actor = Text(default=None)
    actor_kind = Text(default=None)
    # the id of an API key, whose name others may have too
    actor_key = BigInt(default=None, null=True)
    action = Text(default=None)
    subject_kind = Text(default=None)
    subject = Text(default=None)
    before = JSONB(default=None, null=True)
    after = JSONB(default=None, null=True)
    correlation_id = Text(default=None)
    previous_hash = Bytea(default=None)
    hash = Bytea(default=None)

    audit_hashes_length = Check("octet_length(previous_hash) = 32 AND octet_length(hash) = 32")


class Allowance(Declared, Table, tablename="allowances"):
    """What somebody may still ask for, of one kind, at whichever process: all of it again from `full_at` on."""

    holder = Text(primary_key=True, default=None)
    full_at = Timestamptz(default=None)
    # units that the last process to ask was given
    granted = BigInt(default=None)
