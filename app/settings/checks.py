"""What no single setting shows: settings that don't go together, and values that have no type of their own."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import timedelta
from urllib.parse import urlsplit

from app.settings.fields import Environment, Settings, name_variable
from app.settings.network import check_names
from app.settings.texts import format_value

_LONGEST_STATEMENT = timedelta(days=24)  # PostgreSQL counts milliseconds in 32 bits
_LONGEST = timedelta(days=36_500)
_LONGEST_DRAIN = timedelta(hours=1)
_LEAST_SECRET = 32  # bytes, as long as what HS256 makes of them
_MOST_LEEWAY = timedelta(minutes=5)
_IN_A_HEADER = re.compile(r"[!-~]+")
_LOOPBACK = {"127.0.0.1", "::1", "localhost"}


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
    yield from _check_tokens(settings)
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
    if settings.api_key is not None and not _IN_A_HEADER.fullmatch(settings.api_key):
        yield "AURUM_API_KEY is a secret, not shown: it must be a key or a token alone, as it was printed."
    if settings.graphql_allow_only_listed and settings.graphql_allowed_operations is None:
        yield "AURUM_GRAPHQL_ALLOW_ONLY_LISTED is true: AURUM_GRAPHQL_ALLOWED_OPERATIONS must name the file of the list."
    if settings.otlp_endpoint is not None and not settings.otlp_endpoint.startswith(("http://", "https://")):
        yield "AURUM_OTLP_ENDPOINT is no URL that begins with http:// or https://: it must look like http://127.0.0.1:4318."
    if settings.silent_after <= settings.stale_after:
        yield (
            f"AURUM_SILENT_AFTER is {format_value(settings.silent_after)}: must be longer than AURUM_STALE_AFTER, "
            f"which is {format_value(settings.stale_after)}."
        )


def _check_tokens(settings: Settings) -> Iterator[str]:
    sources = ("jwt_secret", "jwt_public_key", "jwt_jwks_url")
    given = [name_variable(name) for name in sources if getattr(settings, name) is not None]
    if len(given) > 1:
        yield f"{' and '.join(given)} are set: tokens are checked by one of them."
    if settings.jwt_secret is not None and len(settings.jwt_secret.encode()) < _LEAST_SECRET:
        yield f"AURUM_JWT_SECRET is a secret, not shown: it must have at least {_LEAST_SECRET} bytes."
    if settings.jwt_jwks_url is not None and not _is_safe_url(settings.jwt_jwks_url):
        yield (
            "AURUM_JWT_JWKS_URL is not a URL that keys can be trusted from: it must begin with https://, "
            "or with http:// and an address of this machine."
        )
    if not timedelta(0) <= settings.jwt_leeway <= _MOST_LEEWAY:
        yield f"AURUM_JWT_LEEWAY is {format_value(settings.jwt_leeway)}: must be from PT0S to {format_value(_MOST_LEEWAY)}."


def _is_safe_url(url: str) -> bool:
    try:
        parts = urlsplit(url)
        host = parts.hostname
    except ValueError:
        return False
    return bool(host) and (parts.scheme == "https" or (parts.scheme == "http" and host in _LOOPBACK))


def _is_postgres_url(url: str) -> bool:
    """Whether it can be taken apart. What is wrong with it isn't told: any part of it may be one of the password."""
    try:
        parts = urlsplit(url)
        known = parts.scheme in {"postgresql", "postgres"} and (parts.port is None or parts.port > 0)
    except ValueError:
        return False
    # A / ? # or @ of a password that isn't escaped ends up in one of these.
    return known and not parts.fragment and "@" not in parts.path + parts.query and parts.netloc.count("@") <= 1
