"""Holds every planned answer to what the resolvers make of the same field: all tests of the API compare as they go."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import msgspec

from app.graphql.execution import PlanningExecutor

ATTEMPTS = 30  # what is asked while others write may differ between two looks, and does so often on a busy machine

_ANSWER = PlanningExecutor._answer
compared = 0  # answers, in this process


def read_answer(text: bytes) -> Any:
    """JSON with every number as the double that a client makes of it."""
    return json.loads(text, parse_int=float)


def _open_cursors(value: Any) -> Any:
    # A float in a cursor is written in as many digits as its writer likes.
    if isinstance(value, dict):
        return {key: _open_cursors(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_open_cursors(inner) for inner in value]
    if isinstance(value, str) and value.startswith("W1si"):
        return read_answer(base64.b64decode(value, altchars=b"-_"))
    return value


@contextmanager
def answer_once() -> Iterator[None]:
    """Within it nothing is compared, so that what an answer takes can be counted."""
    with patch.object(PlanningExecutor, "_answer", _ANSWER):
        yield


@contextmanager
def compare_answers() -> Iterator[None]:
    """Within it, a planned answer that isn't what the resolvers answer fails its operation."""
    answer, resolve = _ANSWER, PlanningExecutor._resolve

    async def answer_and_compare(self: PlanningExecutor, *arguments: Any) -> Any:
        global compared  # noqa: PLW0603 - how much was compared is asked at the end
        for _ in range(ATTEMPTS):
            errors = len(self.collected_errors.errors)
            planned = await answer(self, *arguments)
            if not isinstance(planned, msgspec.Raw) or len(self.collected_errors.errors) > errors:
                return planned
            resolved = await resolve(self, *arguments[1:])
            said = self.collected_errors.errors[errors:]
            left = _open_cursors(read_answer(bytes(planned)))
            right = _open_cursors(read_answer(msgspec.json.encode(resolved)))
            if left == right and list_keys(left) == list_keys(right) and not said:
                compared += 1
                return planned
        raise AssertionError(f"planned {left}, resolved {right}, with {said}")

    with patch.object(PlanningExecutor, "_answer", answer_and_compare):
        yield


@contextmanager
def resolve_everything() -> Iterator[None]:
    """Within it nothing is planned: what resolvers do for mutations and events can be seen in queries too."""
    with (
        patch("app.graphql.execution.plan_field", lambda *_: None),
        patch("app.graphql.shortcut.plan_field", lambda *_: None),
    ):
        yield


def list_keys(value: Any) -> Any:
    """The keys of all objects in their order, which `==` doesn't look at."""
    if isinstance(value, dict):
        return [(key, list_keys(inner)) for key, inner in value.items()]
    return [list_keys(inner) for inner in value] if isinstance(value, list) else None
