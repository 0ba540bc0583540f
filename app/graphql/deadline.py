"""Ends an operation whose client has hung up: the deadline comes at once, its tasks are cancelled, and so is their SQL."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from litestar import Request


@contextmanager
def stop_when_gone(request: Request[Any, Any, Any] | None, deadline: asyncio.Timeout) -> Iterator[None]:
    """Lets `deadline` expire when the client of a request, whose body was read, hangs up before the block is done.

    Without a request nothing is watched: a WebSocket's operations end with it anyway.
    """
    if request is None:
        yield
        return
    watcher = asyncio.create_task(_wait_until_gone(request, deadline))
    try:
        yield
    finally:
        watcher.cancel()


async def _wait_until_gone(request: Request[Any, Any, Any], deadline: asyncio.Timeout) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
    if not deadline.expired():
        deadline.reschedule(asyncio.get_running_loop().time())
