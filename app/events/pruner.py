"""Keeps the outbox from growing without end."""

from __future__ import annotations

import logging
from datetime import timedelta

from app.database import Database
from app.events.outbox import forget_events

INTERVAL = 60.0  # seconds

logger = logging.getLogger(__name__)


async def prune_outbox(database: Database, retention: timedelta) -> None:
    """Forgets events older than `retention`. Raises DatabaseUnavailable, QueryTimeout."""
    async with database.connection() as connection:
        forgotten = await forget_events(connection, retention)
    if forgotten:
        logger.info("Forgot %d events older than %s.", forgotten, retention)
