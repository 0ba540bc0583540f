"""What can be set, from the environment and `.env`; the environment wins.

`load_settings` is called by `main`, `piccolo_conf` and `tasks` alone; everyone else is handed values. A setting that
can't be right is refused with its name, what was given (never a secret's value) and what would be right.
"""

from __future__ import annotations

import os
import textwrap
from collections.abc import Iterator, Mapping
from datetime import timedelta
from enum import Enum
from io import StringIO
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

import msgspec
from dotenv.parser import parse_stream
from msgspec import Meta

from app.errors import SettingsError


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


_SECRET = {"secret": True}

_LONGEST_STATEMENT = timedelta(days=24)  # PostgreSQL counts milliseconds in 32 bits
_LONGEST = timedelta(days=36_500)

Port = Annotated[int, Meta(ge=1, le=65535)]


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
    env: Annotated[Environment, Meta(description="development or production. Production has no embedded server.")] = (
        Environment.DEVELOPMENT
    )
    host: Annotated[str, Meta(description="The address that the service listens on.", min_length=1)] = "127.0.0.1"
    port: Annotated[Port, Meta(description="The port that the service listens on.")] = 8000
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
    log_level: Annotated[LogLevel, Meta(description="debug, info, warning or error.")] = LogLevel.INFO

    @property
    def local_url(self) -> str:
        """Where a program on this machine reaches the service."""
        host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(self.host, self.host)  # noqa: S104 - told apart, not bound
        return f"http://{host}:{self.port}"


def name_variable(field: str) -> str:
    """The environment variable of a field of Settings."""
    return "DATABASE_URL" if field == "database_url" else f"AURUM_{field.upper()}"


def find_unknown(environ: Mapping[str, str | None]) -> list[str]:
    """Names that look like ours and aren't: most often a slip of the pen. AURUM_TEST_* belongs to the tests."""
    known = {name_variable(field) for field in Settings.__struct_fields__}
    return sorted(
        name
        for name in environ
        if name.startswith("AURUM_") and name not in known and not name.startswith(("AURUM_TEST_", "AURUM_CI_"))
    )


def read_environment(env_file: Path = Path(".env")) -> dict[str, str]:
    """The variables of `.env`, if it's there, and over them those of the process. An empty one counts as unset.

    Raises SettingsError when the file can't be read.
    """
    written: dict[str, str | None] = {}
    try:
        text = env_file.read_text(encoding="utf-8") if env_file.exists() else ""
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{env_file} can't be read: {error}.") from error
    # As the values stand, without putting variables in: a password may hold `${`.
    for line in parse_stream(StringIO(text)):
        if line.error:
            raise SettingsError(f"Line {line.original.line} of {env_file} is no NAME=value.")
        if line.key is not None:
            written[line.key] = line.value
    return {name: value for name, value in {**written, **os.environ}.items() if value}


def load_settings(environ: Mapping[str, str] | None = None) -> Settings:
    """Settings from `environ`, by default the process's and `.env`.

    Raises SettingsError with one line for each variable that can't be right.
    """
    if environ is None:
        environ = read_environment()
    given: dict[str, Any] = {}
    problems: list[str] = []
    for field in msgspec.structs.fields(Settings):
        variable = name_variable(field.name)
        text = environ.get(variable)
        if text is None:
            continue
        try:
            given[field.name] = msgspec.convert(
                _fold_enum(text, field.type), field.type, strict=False, dec_hook=_decode
            )
        except msgspec.ValidationError as error:
            problems.append(f"{variable} is {_quote(text, field.type)}: {_explain(error, field.type)}")
    if not problems:
        problems.extend(_check_together(settings := Settings(**given)))
    if problems:
        raise SettingsError("\n".join(problems))
    return settings


def _check_together(settings: Settings) -> Iterator[str]:
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
    statement_timeout = _format(settings.statement_timeout)
    if not timedelta(milliseconds=1) <= settings.statement_timeout <= _LONGEST_STATEMENT:
        yield f"AURUM_STATEMENT_TIMEOUT is {statement_timeout}: must be from PT0.001S to {_format(_LONGEST_STATEMENT)}."
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
                f"{name_variable(name)} is {_format(span)}: must be longer than nothing, such as PT30S, "
                f"and at most {_format(_LONGEST)}."
            )
    if settings.graphql_allow_only_listed and settings.graphql_allowed_operations is None:
        yield "AURUM_GRAPHQL_ALLOW_ONLY_LISTED is true: AURUM_GRAPHQL_ALLOWED_OPERATIONS must name the file of the list."
    if settings.silent_after <= settings.stale_after:
        yield (
            f"AURUM_SILENT_AFTER is {_format(settings.silent_after)}: must be longer than AURUM_STALE_AFTER, "
            f"which is {_format(settings.stale_after)}."
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


def write_example() -> str:
    """The text of `.env.example`: each setting with what it means, and its default or an example commented out."""
    head = "Copy this file to .env and take the # off what you set. The environment wins over it, and unset is the default."
    blocks = [_comment(head)]
    for field in msgspec.structs.fields(Settings):
        meta = next(meta for meta in _metas(field.type) if meta.description)
        value = field.default if field.default is not None else (meta.examples or [""])[0]
        blocks.append(f"{_comment(meta.description or '')}# {name_variable(field.name)}={_format(value)}\n")
    return "\n".join(blocks)


def _comment(text: str) -> str:
    return "".join(f"# {line}\n" for line in textwrap.wrap(text, 118))


def _format(value: object) -> str:
    if isinstance(value, timedelta):
        for unit, prefix, letter in ((timedelta(days=1), "P", "D"), (timedelta(minutes=1), "PT", "M")):
            if value % unit == timedelta(0):
                return f"{prefix}{value // unit}{letter}"
        return str(msgspec.to_builtins(value))
    if isinstance(value, bool):
        return str(value).lower()
    return str(value.value if isinstance(value, Enum) else value)


def _metas(annotation: Any) -> Iterator[Meta]:
    yield from (item for item in getattr(annotation, "__metadata__", ()) if isinstance(item, Meta))


def _plain(annotation: Any) -> Any:
    return getattr(annotation, "__origin__", annotation)


def is_secret(annotation: Any) -> bool:
    """Whether a field's value must never be shown."""
    return any((meta.extra or {}).get("secret", False) for meta in _metas(annotation))


def _quote(text: str, annotation: Any) -> str:
    return "a secret, not shown" if is_secret(annotation) else repr(text)


def _fold_enum(text: str, annotation: Any) -> str:
    kind = _plain(annotation)
    return text.lower() if isinstance(kind, type) and issubclass(kind, Enum) else text


def _decode(kind: type, value: Any) -> Any:
    # The one type of Settings that msgspec doesn't know.
    if kind is Path:
        return Path(value)
    raise TypeError(f"no setting is a {kind}")


def _explain(error: msgspec.ValidationError, annotation: Any) -> str:
    kind = _plain(annotation)
    if isinstance(kind, type) and issubclass(kind, Enum):
        return f"must be one of {', '.join(member.value for member in kind)}."
    if kind is timedelta:
        return "must be an ISO 8601 duration, such as PT30S, PT5M or P1D."
    if kind in {bool, bool | None}:
        return "must be true or false."
    if kind is int:
        least = next((meta.ge for meta in _metas(annotation) if meta.ge is not None), None)
        most = next((meta.le for meta in _metas(annotation) if meta.le is not None), None)
        return f"must be a whole number {f'of at least {least}' if most is None else f'from {least} to {most}'}."
    return f"{str(error).replace('`', '')}."
