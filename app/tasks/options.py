"""Options as people write them, and as the code wants them. What can't be right is told by the option's name."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from enum import Enum
from typing import TypeVar

import msgspec

from app.errors import InvalidInput, SettingsError

Number = TypeVar("Number", int, float)
Choice = TypeVar("Choice", bound=Enum)


def read_number(name: str, text: str, kind: Callable[[str], Number]) -> Number:
    """An int or a float. Raises SettingsError."""
    try:
        return kind(text)
    except ValueError as error:
        what = "a whole number" if kind is int else "a number"
        raise SettingsError(f"--{name} is {text!r}: it must be {what}.") from error


def read_choice(name: str, text: str, kind: type[Choice]) -> Choice:
    """A member of an Enum by its value. Raises InvalidInput, with all values in lower case."""
    try:
        return kind(text)
    except ValueError as error:
        choices = ", ".join(choice.value.lower() for choice in kind)
        raise InvalidInput(f"--{name} is {text.lower()!r}: choose one of {choices}.") from error


def read_duration(name: str, text: str) -> timedelta:
    """An ISO 8601 duration, such as P90D. Raises InvalidInput."""
    try:
        return msgspec.convert(text, timedelta)
    except msgspec.ValidationError as error:
        raise InvalidInput(f"--{name} is {text!r}: it must be an ISO 8601 duration, such as P90D.") from error
