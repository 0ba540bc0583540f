"""What follows from the settings alone, in the shape in which each room takes it.

Whatever a setting names may be missing or wrong, a file above all: then SettingsError, with the variable's name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from app.access.allowance import Allowance, Kind
from app.access.bucket import Rate
from app.access.jwks import ProviderKeys
from app.access.tokens import Claims, FixedKey, KeySource, Tokens, read_public_key
from app.addresses import is_loopback
from app.database import Database
from app.graphql.limits import DocumentLimits
from app.graphql.operations import AllowedOperations, read_allowed
from app.graphql.protection import Protection
from app.ops.gate import Gate
from app.settings import Environment, LogFormat, Settings

if TYPE_CHECKING:
    from app.ops.traces import Traces


def make_database(settings: Settings, traces: Traces | None) -> Database:
    """The pool, not yet open."""
    return Database(
        timescale=settings.timescale.value,
        pool_size=settings.pool_size,
        statement_timeout=settings.statement_timeout,
        tracing=traces,
    )


def make_protection(settings: Settings) -> Protection:
    """What clients of GraphQL may ask for. Reads the file of the operations that are allowed."""
    listed = settings.graphql_allowed_operations
    return Protection(
        limits=DocumentLimits(
            bytes=settings.graphql_max_bytes,
            tokens=settings.graphql_max_tokens,
            depth=settings.graphql_max_depth,
            aliases=settings.graphql_max_aliases,
            root_fields=settings.graphql_max_root_fields,
            directives=settings.graphql_max_directives,
            values=settings.graphql_max_values,
        ),
        timeout=settings.graphql_timeout,
        max_cost=settings.graphql_max_cost,
        introspection=_is_developing(settings, settings.graphql_introspection),
        graphiql=_is_developing(settings, settings.graphiql),
        allowed=AllowedOperations()
        if listed is None
        else read_allowed(listed, only=settings.graphql_allow_only_listed),
    )


def _is_developing(settings: Settings, chosen: bool | None) -> bool:
    return settings.env is Environment.DEVELOPMENT if chosen is None else chosen


def make_tokens(settings: Settings) -> Tokens | None:
    """The tokens that are taken, if any are. Reads the file of the key that they are checked by."""
    source = _find_token_keys(settings)
    if source is None:
        return None
    claims = Claims(
        issuer=settings.jwt_issuer,
        audience=settings.jwt_audience,
        leeway=settings.jwt_leeway,
        roles=settings.jwt_roles_claim,
        locations=settings.jwt_locations_claim,
    )
    return Tokens(source, claims)


def _find_token_keys(settings: Settings) -> KeySource | None:
    if settings.jwt_secret is not None:
        return FixedKey(settings.jwt_secret, "HS256")
    if settings.jwt_public_key is not None:
        return read_public_key(settings.jwt_public_key)
    return None if settings.jwt_jwks_url is None else ProviderKeys(settings.jwt_jwks_url)


def make_query_allowance(settings: Settings, database: Database) -> Allowance | None:
    """What each caller may ask of GraphQL a minute."""
    return _make_allowance(database, Kind.QUERY, settings.query_allowance, settings.query_burst)


def make_ingest_allowance(settings: Settings, database: Database) -> Allowance | None:
    """What each caller may send a minute."""
    return _make_allowance(database, Kind.INGEST, settings.ingest_allowance, settings.ingest_burst)


def _make_allowance(database: Database, kind: Kind, per_minute: int | None, burst: int | None) -> Allowance | None:
    return None if per_minute is None else Allowance(database, kind, Rate(per_minute, burst or per_minute))


def make_gate(settings: Settings) -> Gate:
    """Which names and which pages of other sites are let in; where it serves this machine alone, by no name but its own."""
    hosts = frozenset(name.lower() for name in settings.trusted_hosts)
    any_name = not hosts and not is_loopback(settings.host)
    return Gate(None if any_name else hosts, frozenset(origin.lower() for origin in settings.cors_origins))


def open_traces(settings: Settings) -> Traces | None:
    """Where traces go, if anywhere; to be stopped."""
    if settings.otlp_endpoint is None:
        return None
    # Not at the top: without traces nothing of theirs is there, neither in memory nor in the time of a request.
    from app.ops.traces import Traces  # noqa: PLC0415 - as said

    return Traces(settings.otlp_endpoint)


def writes_json(settings: Settings) -> bool:
    """Whether the log is for programs."""
    if settings.log_format is None:
        return settings.env is Environment.PRODUCTION
    return settings.log_format is LogFormat.JSON
