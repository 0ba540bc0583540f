"""How long Hypothesis waits for a case: as long as it takes, since a machine may be busy with other things."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

PATIENT = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
