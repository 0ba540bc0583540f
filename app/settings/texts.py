"""Settings as text: `.env.example`, and what a refusal says."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from datetime import timedelta
from enum import Enum
from typing import Any, get_args

import msgspec
from msgspec import Meta

from app.settings.fields import Settings, name_variable


def write_example() -> str:
    """The text of `.env.example`: each setting with what it means, and its default or an example commented out."""
    head = "Copy this file to .env and take the # off what you set. The environment wins over it, and unset is the default."
    blocks = [_comment(head)]
    for field in msgspec.structs.fields(Settings):
        meta = get_meta(field.type)
        value = field.default if field.default not in {None, ()} else (meta.examples or [""])[0]
        blocks.append(f"{_comment(meta.description or '')}# {name_variable(field.name)}={format_value(value)}\n")
    return "\n".join(blocks)


def _comment(text: str) -> str:
    return "".join(f"# {line}\n" for line in textwrap.wrap(text, 118))


def format_value(value: object) -> str:
    """A value as one would write it in the environment."""
    if isinstance(value, tuple):
        return ",".join(value)
    if isinstance(value, timedelta):
        if not value:
            return "PT0S"
        for unit, prefix, letter in ((timedelta(days=1), "P", "D"), (timedelta(minutes=1), "PT", "M")):
            if value % unit == timedelta(0):
                return f"{prefix}{value // unit}{letter}"
        return str(msgspec.to_builtins(value))
    if isinstance(value, bool):
        return str(value).lower()
    return str(value.value if isinstance(value, Enum) else value)


def _metas(annotation: Any) -> Iterator[Meta]:
    yield from (item for item in getattr(annotation, "__metadata__", ()) if isinstance(item, Meta))


def get_meta(annotation: Any) -> Meta:
    """What describes a field."""
    return next(meta for meta in _metas(annotation) if meta.description)


def get_type(annotation: Any) -> Any:
    """A field's type, less what is annotated to it."""
    return getattr(annotation, "__origin__", annotation)


def find_choice(annotation: Any) -> type[Enum] | None:
    """The Enum of a field that is one, or one or nothing."""
    kind = get_type(annotation)
    kinds = (kind, *get_args(kind))
    return next((each for each in kinds if isinstance(each, type) and issubclass(each, Enum)), None)


def find_whole(annotation: Any) -> Any:
    """What is annotated to a field that is a whole number, or one or nothing; None of any other."""
    return next((each for each in (annotation, *get_args(get_type(annotation))) if get_type(each) is int), None)


def is_secret(annotation: Any) -> bool:
    """Whether a field's value must never be shown."""
    return any((meta.extra or {}).get("secret", False) for meta in _metas(annotation))


def quote(text: str, annotation: Any) -> str:
    """What was given for a setting, unless it is a secret."""
    return "a secret, not shown" if is_secret(annotation) else repr(text)


def describe_range(annotation: Any) -> str:
    """What a whole number may be."""
    least = next((meta.ge for meta in _metas(annotation) if meta.ge is not None), None)
    most = next((meta.le for meta in _metas(annotation) if meta.le is not None), None)
    return f"of at least {least}" if most is None else f"from {least} to {most}"


def explain_kind(error: msgspec.ValidationError, annotation: Any) -> str:
    """What would be right for a setting of this type."""
    kind = get_type(annotation)
    if (choice := find_choice(annotation)) is not None:
        return f"must be one of {', '.join(str(member.value) for member in choice)}."
    if kind is timedelta:
        return "must be an ISO 8601 duration, such as PT30S, PT5M or P1D."
    if kind in {bool, bool | None}:
        return "must be true or false."
    if (whole := find_whole(annotation)) is not None:
        return f"must be a whole number {describe_range(whole)}."
    return f"{str(error).replace('`', '')}."
