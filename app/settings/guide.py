"""`docs/configuration.md`: what each setting means, what it takes and what holds without it, as the code says."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any, Final, get_args, get_origin

import msgspec

from app.settings.fields import Settings, name_variable
from app.settings.texts import describe_range, find_choice, find_whole, format_value, get_meta, get_type, is_secret

_HEAD: Final = """\
# Configuration

Written by `invoke configuration-doc` from `app/settings/fields.py`; what is changed here by hand is lost.

The service and every command read these variables from the environment and from `.env` in the current folder; the environment
wins, and an empty value counts as unset. [.env.example](../.env.example) is a file to begin with. What can't be right is refused at
once, all of it together, by `SETTINGS_INVALID`; a name that begins with `AURUM_` and isn't here is warned of. A duration is one of
ISO 8601, such as `PT30S`, `PT5M` or `P1D`. A secret may come from a file, as Docker and Kubernetes hand them out: `DATABASE_URL_FILE`,
`AURUM_JWT_SECRET_FILE` and `AURUM_API_KEY_FILE` name it, and the variable beside its file is refused.

| variable | takes | without it | what it is |
|---|---|---|---|
"""

# Where more is said of a setting.
_SEE: Final = {
    "trusted_hosts": "reference.md#browsers-and-proxies",
    "cors_origins": "reference.md#browsers-and-proxies",
    "trusted_proxies": "reference.md#browsers-and-proxies",
    "max_page_rows": "reference.md#pages-and-groups",
    "stale_after": "reference.md#liveness",
    "silent_after": "reference.md#liveness",
    "outbox_retention": "reference.md#subscriptions",
    "graphql_max_cost": "reference.md#limits-of-graphql",
    "graphql_timeout": "reference.md#limits-of-graphql",
    "graphql_allowed_operations": "reference.md#documents-by-name",
    "graphql_allow_only_listed": "reference.md#documents-by-name",
    "ingest_queue_bytes": "reference.md#ingest",
    "ingest_deadline": "reference.md#ingest",
    "query_allowance": "security.md#how-much-somebody-may-ask-for",
    "ingest_allowance": "security.md#how-much-somebody-may-ask-for",
    "data_dir": "reference.md#the-embedded-server",
    "jwt_secret": "security.md#tokens-of-people",
    "jwt_public_key": "security.md#tokens-of-people",
    "jwt_jwks_url": "security.md#tokens-of-people",
    "jwt_issuer": "security.md#tokens-of-people",
    "jwt_audience": "security.md#tokens-of-people",
    "jwt_leeway": "security.md#tokens-of-people",
    "jwt_roles_claim": "security.md#tokens-of-people",
    "jwt_locations_claim": "security.md#locations",
    "api_key": "security.md#api-keys",
    "env": "security.md#open-or-asking-who-it-is",
    "otlp_endpoint": "operations.md#traces",
    "log_level": "operations.md#logs",
    "log_format": "operations.md#logs",
}


def write_guide() -> str:
    """The text of `docs/configuration.md`."""
    return _HEAD + "".join(_write_row(field) for field in msgspec.structs.fields(Settings))


def _write_row(field: msgspec.structs.FieldInfo) -> str:
    description = get_meta(field.type).description or ""
    secret = " A secret, which is never shown." if is_secret(field.type) else ""
    see = f" [More]({_SEE[field.name]})." if field.name in _SEE else ""
    default = "" if field.default in {None, ()} else f"`{format_value(field.default)}`"
    meaning = description.replace("|", "\\|")
    return f"| `{name_variable(field.name)}` | {_describe_kind(field.type)} | {default} | {meaning}{secret}{see} |\n"


def _describe_kind(annotation: Any) -> str:
    if (choice := find_choice(annotation)) is not None:
        return ", ".join(f"`{member.value}`" for member in choice)
    kind = get_type(annotation)
    kinds = {kind, *get_args(kind)}
    if get_origin(kind) is tuple:
        return "names, with commas between them"
    if bool in kinds:
        return "`true`, `false`"
    if (whole := find_whole(annotation)) is not None:
        return f"a whole number {describe_range(whole)}"
    return "a duration" if timedelta in kinds else "a path" if Path in kinds else "a text"
