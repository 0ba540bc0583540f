"""What a mutation may be about, where whoever asks is bound to locations.

It is looked for among what they see, before anything is changed: a machine or an alert elsewhere is answered like one that
isn't there at all, in the same words. Nobody else is asked anything here.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from app.errors import Forbidden, NotFound
from app.graphql.context import Context
from app.insight.alert_log import can_be_id
from app.insight.rows import find_alerts
from app.registry import find_machines
from app.texts import quote_text


def _is_bound(context: Context) -> bool:
    return context.principal is not None and context.principal.locations is not None


async def require_machines(context: Context, machine_ids: Sequence[str], fields: Sequence[str]) -> None:
    """Raises NotFound for the first machine that isn't there for whoever asks, with the one of `fields` that named it."""
    if not _is_bound(context):
        return
    seen = await find_machines(context.rooms.database, machine_ids)
    for machine_id, field in zip(machine_ids, fields, strict=True):
        if machine_id not in seen:
            raise NotFound(f"No machine {quote_text(machine_id)} is registered.", field=field)


async def require_alerts(context: Context, alert_ids: Sequence[str], fields: Sequence[str]) -> None:
    """The same for alerts."""
    if not _is_bound(context):
        return
    numbers = [int(alert_id) for alert_id in alert_ids if can_be_id(alert_id)]
    async with context.rooms.database.connection() as connection:
        seen = {str(number) for number in await find_alerts(connection, numbers)}
    for alert_id, field in zip(alert_ids, fields, strict=True):
        if alert_id not in seen:
            raise NotFound(f"There is no alert {quote_text(alert_id)}.", field=field)


def require_locations(context: Context, given: Iterable[tuple[str | None, str]]) -> None:
    """Raises Forbidden for the first location that isn't one of whoever asks, with the field that named it."""
    principal = context.principal
    if principal is None or principal.locations is None:
        return
    for location, field in given:
        if location is not None and location.strip() not in principal.locations:
            raise Forbidden(f"{principal.name} is bound to other locations than {quote_text(location)}.", field=field)
