"""What no single setting shows: settings that don't go together, and values that have no type of their own."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from urllib.parse import urlsplit

from app.settings.fields import Environment, Settings, name_variable
from app.settings.network import check_names
from app.settings.texts import format_value

_LONGEST_STATEMENT = timedelta(days=24)  # PostgreSQL counts milliseconds in 32 bits
_LONGEST = timedelta(days=36_500)
_LONGEST_DRAIN = timedelta(hours=1)


def check_together(settings: Settings) -> Iterator[str]:
    """One sentence for each thing that can't be right."""
    if settings.database_url is None:
        if settings.env is Environment.PRODUCTION:
            yield (
                "DATABASE_URL is not set: AURUM_ENV=production has no embedded server, "
                "set it to postgresql://user:password@host:port/database."
            )
    elif not _is_postgres_url(settings.database_url):
        yield (
            "DATABASE_URL is not a PostgreSQL URL (it is a secret, not shown): it must look like "
            "postgresql://user:password@host:port/database, with any of : / ? # @ % in the password as %3A %2F %3F %23 %40 %25."
        )
    statement_timeout = format_value(settings.statement_timeout)
    if not timedelta(milliseconds=1) <= settings.statement_timeout <= _LONGEST_STATEMENT:
        yield f"AURUM_STATEMENT_TIMEOUT is {statement_timeout}: must be from PT0.001S to {format_value(_LONGEST_STATEMENT)}."
    for name in (
        "ingest_deadline",
        "max_series_range",
        "stale_after",
        "silent_after",
        "outbox_retention",
        "graphql_timeout",
    ):
        span = getattr(settings, name)
        if not timedelta(0) < span <= _LONGEST:
            yield (
                f"{name_variable(name)} is {format_value(span)}: must be longer than nothing, such as PT30S, "
                f"and at most {format_value(_LONGEST)}."
            )
    if not timedelta(0) <= settings.drain <= _LONGEST_DRAIN:
        yield f"AURUM_DRAIN is {format_value(settings.drain)}: must be from PT0S to {format_value(_LONGEST_DRAIN)}."
    yield from check_names(settings)
    if settings.graphql_allow_only_listed and settings.graphql_allowed_operations is None:
        yield "AURUM_GRAPHQL_ALLOW_ONLY_LISTED is true: AURUM_GRAPHQL_ALLOWED_OPERATIONS must name the file of the list."
    if settings.otlp_endpoint is not None and not settings.otlp_endpoint.startswith(("http://", "https://")):
        yield "AURUM_OTLP_ENDPOINT is no URL that begins with http:// or https://: it must look like http://127.0.0.1:4318."
    if settings.silent_after <= settings.stale_after:
        yield (
            f"AURUM_SILENT_AFTER is {format_value(settings.silent_after)}: must be longer than AURUM_STALE_AFTER, "
            f"which is {format_value(settings.stale_after)}."
        )


def _is_postgres_url(url: str) -> bool:
    """Whether it can be taken apart. What is wrong with it isn't told: any part of it may be one of the password."""
    try:
        parts = urlsplit(url)
        known = parts.scheme in {"postgresql", "postgres"} and (parts.port is None or parts.port > 0)
    except ValueError:
        return False
    # A / ? # or @ of a password that isn't escaped ends up in one of these.
    return known and not parts.fragment and "@" not in parts.path + parts.query and parts.netloc.count("@") <= 1
