"""Three machines, two of them with rows in every table but measurements."""

from __future__ import annotations

IDS = [f"00000000-0000-4000-8000-00000000000{place}" for place in range(5)]

SEED = f"""
INSERT INTO machines (machine_id, machine_type, location) VALUES
  ('A', 'press', 'Hall 1'), ('B', 'mill', 'Hall 2'), ('C', 'mill', 'Hall 1');

INSERT INTO features (machine_id, timestamp, features, created_at) VALUES
  ('A', '2026-01-01T00:00:00Z', '{{"mean": {{"rpm": 1.5}}, "count": 60}}', '2026-01-01T00:01:00Z'),
  ('A', '2026-01-02T00:00:00Z', '{{"mean": {{"rpm": 2}}, "count": 61}}', '2026-01-02T00:01:00Z');

INSERT INTO predictions (prediction_id, machine_id, timestamp, risk_score, failure_probability, maintenance_hours,
                         failure_type, confidence, model_version, features_used, created_at) VALUES
  ('{IDS[0]}', 'A', '2026-01-01T00:00:00Z', 0.25, 0.5, 120.5, 'bearing', 0.75, 'v1', '{{"rpm": 0.5}}', '2026-01-01T00:00:01Z'),
  ('{IDS[1]}', 'A', '2026-01-02T00:00:00Z', 0.5, NULL, NULL, NULL, NULL, 'v1', '{{}}', '2026-01-02T00:00:01Z'),
  ('{IDS[2]}', 'A', '2026-01-02T00:00:00Z', 1, 1, 0, 'belt', 1, 'v2', '{{"rpm": 1}}', '2026-01-02T00:00:02Z'),
  ('{IDS[3]}', 'B', '2026-01-03T00:00:00Z', 0, 0, NULL, NULL, 0, 'v1', '[]', '2026-01-03T00:00:01Z');

INSERT INTO esg_records (machine_id, timestamp, instant_co2eq_kg, cumulative_co2eq_kg, fuel_rate_lh, power_consumption_kw,
                         efficiency_score, factors, metadata, created_at) VALUES
  ('A', '2026-01-01T00:00:00Z', 0.125, 10, 4.5, NULL, 0.5, '{{"diesel": 2.68}}', NULL, '2026-01-01T00:00:01Z'),
  ('A', '2026-01-01T01:00:00Z', 0.25, 10.25, NULL, 12.5, NULL, '{{"grid": 0.2}}', '{{"site": "x"}}', '2026-01-01T01:00:01Z');

INSERT INTO alerts (id, machine_id, timestamp, alert_type, severity, cause, title, description, evidence, cleared_at,
                    acknowledged_at, acknowledged_by, resolved_at, resolved_by, shelved_at, shelved_by, shelved_until,
                    created_at) VALUES
  (1, 'A', '2026-01-01T00:00:00Z', 'ANOMALY', 'LOW', 'rpm', 'Odd', NULL, '{{"z": 3.5}}',
   NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, '2026-01-01T00:00:01Z'),
  (2, 'A', '2026-01-02T00:00:00Z', 'THRESHOLD', 'CRITICAL', 'hot', 'Hot', 'Very', '{{}}',
   NULL, '2026-01-02T01:00:00Z', 'ana', NULL, NULL, '2026-01-02T02:00:00Z', 'ben', '2026-01-03T00:00:00Z', '2026-01-02T00:00:01Z'),
  (3, 'A', '2026-01-03T00:00:00Z', 'ESG', 'HIGH', 'co2', 'Dirty', NULL, '{{}}',
   '2026-01-03T01:00:00Z', NULL, NULL, NULL, NULL, NULL, NULL, NULL, '2026-01-03T00:00:01Z'),
  (4, 'A', '2026-01-04T00:00:00Z', 'SILENCE', 'MEDIUM', 'mute', 'Mute', NULL, '{{}}',
   '2026-01-04T01:00:00Z', '2026-01-04T02:00:00Z', 'ana', NULL, NULL, NULL, NULL, NULL, '2026-01-04T00:00:01Z'),
  (5, 'B', '2026-01-05T00:00:00Z', 'PREDICTION', 'HIGH', 'risk', 'Risk', NULL, '{{}}',
   NULL, NULL, NULL, '2026-01-05T01:00:00Z', 'ana', NULL, NULL, NULL, '2026-01-05T00:00:01Z');
"""
