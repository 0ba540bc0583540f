"""Reads settings from the environment and `.env`; the environment wins.

`load_settings` is called by `main`, `piccolo_conf` and `tasks` alone; everyone else is handed values. A setting that
can't be right is refused with its name, what was given (never a secret's value) and what would be right.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from io import StringIO
from pathlib import Path
from typing import Any

import msgspec
from dotenv.parser import parse_stream

from app.errors import SettingsError
from app.settings.checks import check_together
from app.settings.fields import Names, Settings, name_file_variable, name_variable
from app.settings.texts import explain_kind, find_choice, get_type, is_secret, quote

_LARGEST_SECRET = 64 * 1024  # bytes of a file

# The variables of secrets, each with the one that names a file instead.
_SECRET_FILES = {
    name_variable(field.name): name_file_variable(field.name)
    for field in msgspec.structs.fields(Settings)
    if is_secret(field.type)
}


def find_unknown(environ: Mapping[str, str | None]) -> list[str]:
    """Names that look like ours and aren't: most often a slip of the pen. AURUM_TEST_* belongs to the tests."""
    known = {name_variable(field) for field in Settings.__struct_fields__} | set(_SECRET_FILES.values())
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
    for name, file_name in _SECRET_FILES.items():
        # Either of the process's stands over both of the file's.
        if os.environ.get(name) or os.environ.get(file_name):
            written.pop(name, None)
            written.pop(file_name, None)
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
        try:
            text = _read_text(variable, environ)
        except SettingsError as error:
            problems.append(str(error))
            continue
        if text is None:
            continue
        try:
            given[field.name] = msgspec.convert(_prepare(text, field.type), field.type, strict=False, dec_hook=_decode)
        except msgspec.ValidationError as error:
            problems.append(f"{variable} is {quote(text, field.type)}: {explain_kind(error, field.type)}")
    if not problems:
        problems.extend(check_together(settings := Settings(**given)))
    if problems:
        raise SettingsError("\n".join(problems))
    return settings


def _read_text(variable: str, environ: Mapping[str, str]) -> str | None:
    """What is given for a setting, in the file that NAME_FILE names where it is a secret."""
    file_variable = _SECRET_FILES.get(variable, "")
    name = environ.get(file_variable)
    if name is None:
        return environ.get(variable)
    if variable in environ:
        raise SettingsError(f"{variable} and {file_variable} are both set: leave one out.")
    try:
        with Path(name).open(encoding="utf-8") as file:
            text = file.read(_LARGEST_SECRET + 1)
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it isn't UTF-8"
        raise SettingsError(f"{file_variable} is {name!r}, which can't be read: {reason}.") from error
    # Editors end a file with a line break.
    text = text.rstrip("\r\n")
    if not text or len(text) > _LARGEST_SECRET:
        raise SettingsError(
            f"{file_variable} is {name!r}, which holds nothing, or more than {_LARGEST_SECRET:,} bytes."
        )
    return text


def _prepare(text: str, annotation: Any) -> str | list[str]:
    if get_type(annotation) == Names:
        return [name.strip() for name in text.split(",") if name.strip()]
    return text.lower() if find_choice(annotation) is not None else text


def _decode(kind: type, value: Any) -> Any:
    # The one type of Settings that msgspec doesn't know.
    if kind is Path:
        return Path(value)
    raise TypeError(f"no setting is a {kind}")
