"""What the clients' tests begin with."""

from __future__ import annotations

from typing import Any

import pytest

from tests.client import ServiceClient


def reading(second: int) -> dict[str, Any]:
    """One of PRESS-1's."""
    return {"machine_id": "PRESS-1", "timestamp": second * 1000, "metrics": {"rpm": second}}


def shown(second: int) -> dict[str, Any]:
    """The same reading, as a subscription to `measurements` shows it."""
    timestamp = f"1970-01-01T00:00:{second:02}.000000Z"
    return {"machineId": "PRESS-1", "timestamp": timestamp, "metrics": {"rpm": float(second)}}


@pytest.fixture
async def cursor(service: ServiceClient) -> str:
    """Where to go on from to see all that is sent from now on: no protocol tells when a subscription has begun."""
    await service.register("PRESS-1")
    async with service.subscribe("subscription { measurements { cursor } }") as subscription:
        await service.ingest(reading(0))
        found: str = (await subscription.next())["cursor"]
    return found
