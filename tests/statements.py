"""What the service in this process asks its database."""

from __future__ import annotations

import asyncio
from typing import Any

import asyncpg
import pytest

from app.chores import repeat
from app.events.listener import Listener

ANY_TIME = {repeat.__name__, Listener._run.__name__}  # the coroutines of tasks that no request waits for


def count_statements(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The statements that fetch something, as they come from now on, of every connection of this process; less those of
    chores and of the listener, which come any time."""
    statements: list[str] = []
    original: Any = asyncpg.Connection._execute  # type: ignore[attr-defined]  # every statement passes through it

    async def count(self: Any, query: str, *args: Any, **kwargs: Any) -> Any:
        task = asyncio.current_task()
        if task is None or task.get_coro().__name__ not in ANY_TIME:  # type: ignore[union-attr]  # a coroutine has a name
            statements.append(query)
        return await original(self, query, *args, **kwargs)

    monkeypatch.setattr(asyncpg.Connection, "_execute", count)
    return statements
