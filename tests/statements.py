"""What the service in this process asks its database."""

from __future__ import annotations

from typing import Any

import asyncpg
import pytest


def count_statements(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The statements that fetch something, as they come from now on, of every connection of this process."""
    statements: list[str] = []
    original: Any = asyncpg.Connection._execute  # type: ignore[attr-defined]  # every statement passes through it

    async def count(self: Any, query: str, *args: Any, **kwargs: Any) -> Any:
        statements.append(query)
        return await original(self, query, *args, **kwargs)

    monkeypatch.setattr(asyncpg.Connection, "_execute", count)
    return statements
