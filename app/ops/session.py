"""A connection for backup and restore: it writes values the same way everywhere, and can send a program where it went."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import asyncpg

from app.database import Connection, explain_refusal
from app.engine import CONNECT_TIMEOUT

_SETTINGS = {
    # The same text for the same value on every server: checksums are taken of texts.
    "timezone": "UTC",
    "datestyle": "ISO, YMD",
    "intervalstyle": "postgres",
    "extra_float_digits": "1",
    "bytea_output": "hex",
    "lc_monetary": "C",
    "xmlbinary": "base64",
    # What takes long here takes long on purpose.
    "statement_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
    "jit": "off",
}
_TLS_OPTIONS = ("sslcert", "sslkey", "sslrootcert", "sslcrl", "ssl_min_protocol_version", "ssl_max_protocol_version")


async def open_session(dsn: str, **settings: str) -> Connection:
    """A connection with these settings besides. Raises DatabaseUnavailable, saying why in a word."""
    with explain_refusal():
        session = await asyncpg.connect(dsn, timeout=CONNECT_TIMEOUT, server_settings={**_SETTINGS, **settings})
        # A role may have one, and an older server doesn't know what that is.
        await session.execute("SELECT set_config(name, '0', false) FROM pg_settings WHERE name = 'transaction_timeout'")
    return session


def make_environment(session: Connection, dsn: str) -> dict[str, str]:
    """The environment in which libpq reaches the same server, database and role as the session did.

    asyncpg has taken the URL apart and chosen among its hosts, and libpq reads some URLs otherwise. Arguments could be
    seen by every user of the machine, the environment can't.
    """
    reached: Any = session
    address, parameters = reached._addr, reached._params  # noqa: SLF001 - asyncpg has no public way to tell
    query = parse_qs(urlsplit(dsn).query)
    if isinstance(address, str):  # the file of a unix socket, which libpq knows by its folder and port
        host, port = str(Path(address).parent), address.rpartition(".")[2]
    else:
        host, port = address
    found = {
        "PGHOST": host,
        "PGPORT": str(port),
        "PGUSER": parameters.user,
        "PGDATABASE": parameters.database,
        "PGPASSWORD": parameters.password,
        "PGSSLMODE": None if parameters.sslmode is None else parameters.sslmode.name.replace("_", "-"),
        "PGOPTIONS": _write_options(parameters.server_settings),
        "PGAPPNAME": "aurumai",
        "PGCONNECT_TIMEOUT": str(round(CONNECT_TIMEOUT)),
        **{f"PG{option.replace('_', '').upper()}": query[option][-1] for option in _TLS_OPTIONS if option in query},
    }
    return {**_keep_environment(), **{variable: value for variable, value in found.items() if value}}


def _keep_environment() -> dict[str, str]:
    """The process's own, without what would lead libpq elsewhere."""
    return {
        variable: value
        for variable, value in os.environ.items()
        if variable != "DATABASE_URL" and (not variable.startswith("PG") or variable.startswith("PGSSL"))
    }


def _write_options(settings: dict[str, str]) -> str:
    """The session's settings that the URL gave, as libpq takes them."""
    return " ".join(
        value if name == "options" else f"-c {name}=" + re.sub(r"([\\\s])", r"\\\1", value)
        for name, value in settings.items()
        if name not in _SETTINGS
    )
