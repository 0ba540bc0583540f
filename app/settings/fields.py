"""What can be set: one documented field per environment variable."""

from __future__ import annotations

from datetime import timedelta
from enum import Enum
from pathlib import Path
from typing import Annotated, TypeAlias

import msgspec
from msgspec import Meta


class Environment(Enum):
    DEVELOPMENT = "development"
    PRODUCTION = "production"


class TimescalePolicy(Enum):
    """What the service does about TimescaleDB: use it where it's there, refuse to run without it, leave it alone."""

    AUTO = "auto"
    REQUIRE = "require"
    OFF = "off"


class LogLevel(Enum):
    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class LogFormat(Enum):
    """A line of the log as people read it, or as programs do."""

    PLAIN = "plain"
    JSON = "json"


_SECRET = {"secret": True}

Port = Annotated[int, Meta(ge=1, le=65535)]
Names: TypeAlias = tuple[str, ...]  # in the environment with commas between them


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """One field per environment variable: `database_url` is DATABASE_URL, any other `name` is AURUM_NAME."""

    database_url: Annotated[
        str | None,
        Meta(
            description="The PostgreSQL to use: postgresql://user:password@host:port/database. "
            "Unset: an embedded server in AURUM_DATA_DIR, for development only.",
            examples=["postgresql://aurum:password@127.0.0.1:5432/aurum"],
            extra=_SECRET,
        ),
    ] = None
    env: Annotated[
        Environment,
        Meta(description="development or production. Production has no embedded server, and asks everybody who it is."),
    ] = Environment.DEVELOPMENT
    host: Annotated[str, Meta(description="The address that the service listens on.", min_length=1)] = "127.0.0.1"
    port: Annotated[Port, Meta(description="The port that the service listens on.")] = 8000
    trusted_hosts: Annotated[
        Names,
        Meta(
            description="The names that the service answers to, without ports, separated by commas. Unset: any, or localhost and "
            "IP addresses where it listens on this machine alone.",
            examples=["telemetry.plant.example"],
        ),
    ] = ()
    cors_origins: Annotated[
        Names,
        Meta(
            description="Pages of other sites that may use the service, as scheme://host[:port], separated by commas. "
            "Unset: none.",
            examples=["https://dashboard.plant.example"],
        ),
    ] = ()
    trusted_proxies: Annotated[
        Names,
        Meta(
            description="Addresses and networks of proxies whose X-Forwarded-For and X-Forwarded-Proto invoke serve believes, "
            "separated by commas. Unset: none.",
            examples=["127.0.0.1,10.20.0.0/24"],
        ),
    ] = ()
    max_connections: Annotated[
        Annotated[int, Meta(ge=1)],
        Meta(description="How many HTTP connections invoke serve takes at a time, WebSockets among them."),
    ] = 10_000
    drain: Annotated[
        timedelta,
        Meta(
            description="How long the service, once told to stop, says that it isn't ready and still takes requests, so that "
            "a proxy sends them elsewhere (ISO 8601 duration)."
        ),
    ] = timedelta(0)
    timescale: Annotated[
        TimescalePolicy,
        Meta(
            description="auto uses TimescaleDB where the server has it, require refuses to run without it, "
            "off leaves it alone."
        ),
    ] = TimescalePolicy.AUTO
    data_dir: Annotated[Path, Meta(description="Where the embedded server keeps its data.")] = Path(".aurum")
    pg_bin: Annotated[
        Path | None,
        Meta(
            description="The folder with the PostgreSQL programs for the embedded server (postgres, initdb, pg_ctl) and "
            "for backups (pg_dump, pg_restore, psql). Unset: the server is an installed PostgreSQL with TimescaleDB, else "
            "the one from PyPI, and backups take the programs that are closest to the server's version.",
            examples=["/usr/lib/postgresql/17/bin"],
        ),
    ] = None
    pool_size: Annotated[
        Annotated[int, Meta(ge=1, le=1000)], Meta(description="How many database connections one process may hold.")
    ] = 10
    statement_timeout: Annotated[
        timedelta, Meta(description="How long one SQL statement of a request may run (ISO 8601 duration).")
    ] = timedelta(seconds=30)
    max_body_bytes: Annotated[
        Annotated[int, Meta(ge=1024)], Meta(description="How large the body of a request may be, in bytes.")
    ] = 16 * 1024 * 1024
    max_batch_rows: Annotated[
        Annotated[int, Meta(ge=1)],
        Meta(description="How many readings one request may hold; lines of NDJSON aside, which are without a limit."),
    ] = 100_000
    max_metrics: Annotated[
        Annotated[int, Meta(ge=1, le=10_000)], Meta(description="How many metrics one reading may have.")
    ] = 256
    max_page_rows: Annotated[
        Annotated[int, Meta(ge=1, le=1_000_000)],
        Meta(description="How many rows one page of a GraphQL connection may have, and how many groups an aggregate."),
    ] = 10_000
    ingest_queue_bytes: Annotated[
        Annotated[int, Meta(ge=1024)],
        Meta(
            description="How much memory readings on their way to the database may take, in bytes; beyond it requests "
            "are answered with 503."
        ),
    ] = 32 * 1024 * 1024
    ingest_deadline: Annotated[
        timedelta,
        Meta(
            description="How long readings wait for the database at most, also when the service stops "
            "(ISO 8601 duration)."
        ),
    ] = timedelta(seconds=10)
    max_series_range: Annotated[
        timedelta, Meta(description="How long the range of one question for series may be (ISO 8601 duration).")
    ] = timedelta(days=3660)
    max_series_values: Annotated[
        Annotated[int, Meta(ge=1)],
        Meta(
            description="How many values one question for series may take, all its series together: raw ones, or buckets "
            "with those that are filled."
        ),
    ] = 2_000_000
    stale_after: Annotated[
        timedelta,
        Meta(
            description="A machine that was not heard for longer, and for longer than two of its usual intervals, is STALE "
            "(ISO 8601 duration)."
        ),
    ] = timedelta(minutes=2)
    silent_after: Annotated[
        timedelta,
        Meta(
            description="A machine that was not heard for longer, and for longer than four of its usual intervals, is SILENT "
            "(ISO 8601 duration)."
        ),
    ] = timedelta(minutes=15)
    outbox_retention: Annotated[
        timedelta,
        Meta(description="How long events are kept, so that a subscription can resume (ISO 8601 duration)."),
    ] = timedelta(days=1)
    graphql_max_bytes: Annotated[
        Annotated[int, Meta(ge=100)], Meta(description="How large a GraphQL document may be.")
    ] = 65_536
    graphql_max_tokens: Annotated[
        Annotated[int, Meta(ge=10)],
        Meta(
            description="How many tokens a GraphQL document may have, comments among them, and how many fields once its "
            "fragments are put in."
        ),
    ] = 2_000
    graphql_max_depth: Annotated[
        Annotated[int, Meta(ge=1, le=100)],
        Meta(
            description="How deep fields may be within fields in a GraphQL document, and values within values in its variables."
        ),
    ] = 20
    graphql_max_aliases: Annotated[
        Annotated[int, Meta(ge=0)],
        Meta(description="How many aliases and repeated fields a GraphQL document may have, fragments put in."),
    ] = 100
    graphql_max_root_fields: Annotated[
        Annotated[int, Meta(ge=1)], Meta(description="How many fields of the root one GraphQL operation may ask for.")
    ] = 50
    graphql_max_directives: Annotated[
        Annotated[int, Meta(ge=0)], Meta(description="How many directives a GraphQL document may have.")
    ] = 50
    graphql_max_values: Annotated[
        Annotated[int, Meta(ge=1)],
        Meta(
            description="How many values the variables of a GraphQL operation may have, within lists and objects as well."
        ),
    ] = 100_000
    graphql_max_cost: Annotated[
        Annotated[int, Meta(ge=1)],
        Meta(description="What one GraphQL operation may be estimated to cost, in units of about a row."),
    ] = 100_000
    query_allowance: Annotated[
        Annotated[int, Meta(ge=1)] | None,
        Meta(
            description="What GraphQL operations may be estimated to cost in a minute, all together, with each API key and of each "
            "person. Unset: without end.",
            examples=["600000"],
        ),
    ] = None
    query_burst: Annotated[
        Annotated[int, Meta(ge=1)] | None,
        Meta(description="How much of that may be spent at once after a rest. Unset: a minute's.", examples=["100000"]),
    ] = None
    ingest_allowance: Annotated[
        Annotated[int, Meta(ge=1)] | None,
        Meta(
            description="How many bytes of readings may be sent in a minute, decompressed, with each API key and by each "
            "person. Unset: without end.",
            examples=["60000000"],
        ),
    ] = None
    ingest_burst: Annotated[
        Annotated[int, Meta(ge=1)] | None,
        Meta(
            description="How many of these bytes may be sent at once after a rest. Unset: a minute's.",
            examples=["16777216"],
        ),
    ] = None
    graphql_timeout: Annotated[
        timedelta,
        Meta(description="How long one GraphQL query or mutation may take as a whole (ISO 8601 duration)."),
    ] = timedelta(minutes=1)
    graphql_introspection: Annotated[
        bool | None,
        Meta(
            description="Whether clients may ask GraphQL for its schema. Unset: true in development, false in production.",
            examples=["true"],
        ),
    ] = None
    graphiql: Annotated[
        bool | None,
        Meta(
            description="Whether /graphql shows browsers GraphiQL, a page for trying queries. Unset: true in development, "
            "false in production.",
            examples=["true"],
        ),
    ] = None
    graphql_allowed_operations: Annotated[
        Path | None,
        Meta(
            description="A JSON file of GraphQL documents by their names, {name: document}, which clients may send the names "
            "of. Unset: none.",
            examples=["persisted-documents.json"],
        ),
    ] = None
    graphql_allow_only_listed: Annotated[
        bool,
        Meta(description="true executes the documents of AURUM_GRAPHQL_ALLOWED_OPERATIONS and refuses all others."),
    ] = False
    jwt_secret: Annotated[
        str | None,
        Meta(
            description="The secret, of at least 32 bytes, that tokens of people are signed with (JWT by HS256). Of this, "
            "AURUM_JWT_PUBLIC_KEY and AURUM_JWT_JWKS_URL one may be set; without any, API keys alone let anybody in.",
            examples=["a-secret-of-at-least-32-bytes-from-a-generator"],
            extra=_SECRET,
        ),
    ] = None
    jwt_public_key: Annotated[
        Path | None,
        Meta(
            description="The file of the RSA public key, in PEM, that tokens of people are checked by (JWT by RS256).",
            examples=["/etc/aurum/identity.pem"],
        ),
    ] = None
    jwt_jwks_url: Annotated[
        str | None,
        Meta(
            description="Where the identity provider of people has its public keys (JWKS, RS256). It must be https, or on "
            "this machine.",
            examples=["https://id.example/realms/plant/protocol/openid-connect/certs"],
        ),
    ] = None
    jwt_issuer: Annotated[
        str | None,
        Meta(
            description="What tokens must have as iss. Unset: anything.", examples=["https://id.example/realms/plant"]
        ),
    ] = None
    jwt_audience: Annotated[
        str | None, Meta(description="What tokens must have as aud, or among it. Unset: anything.", examples=["aurum"])
    ] = None
    jwt_leeway: Annotated[
        timedelta, Meta(description="How far the clock of whoever signs tokens may be off (ISO 8601 duration).")
    ] = timedelta(seconds=10)
    jwt_roles_claim: Annotated[
        str, Meta(description="The claim with a person's roles, with dots where it lies within another.", min_length=1)
    ] = "roles"
    jwt_locations_claim: Annotated[
        str | None,
        Meta(
            description="The claim with the locations that a person is bound to, which every token must have then: an array "
            "of names, one name as a text, or * for all. Unset: nobody is bound to any.",
            examples=["locations"],
        ),
    ] = None
    api_key: Annotated[
        str | None,
        Meta(
            description="The API key, or the token, that invoke simulate says with each request who it is by; its roles must be "
            "engineer and ingest, or admin. Unset: it says nothing, which is enough where nobody is asked.",
            examples=["aurum_3f9c21ab_and-the-secret-as-key-new-has-printed-it"],
            extra=_SECRET,
        ),
    ] = None
    log_level: Annotated[LogLevel, Meta(description="debug, info, warning or error.")] = LogLevel.INFO
    otlp_endpoint: Annotated[
        str | None,
        Meta(
            description="Where traces go: the URL of a collector that takes OTLP over HTTP, to which /v1/traces is added. "
            "Unset: there are none.",
            examples=["http://127.0.0.1:4318"],
        ),
    ] = None
    log_format: Annotated[
        LogFormat | None,
        Meta(
            description="plain is for people, json one object a line for programs. Unset: json in production, else plain.",
            examples=["json"],
        ),
    ] = None

    @property
    def local_url(self) -> str:
        """Where a program on this machine reaches the service."""
        host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(self.host, self.host)  # noqa: S104 - told apart, not bound
        return f"http://{host}:{self.port}"


def name_file_variable(field: str) -> str:
    """The environment variable that names the file of a secret setting."""
    return f"{name_variable(field)}_FILE"


def name_variable(field: str) -> str:
    """The environment variable of a field of Settings."""
    return "DATABASE_URL" if field == "database_url" else f"AURUM_{field.upper()}"
