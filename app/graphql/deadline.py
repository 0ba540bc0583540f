"""Ends an operation whose client has hung up: the deadline comes at once, its tasks are cancelled, and so is their SQL."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeAlias

Receive: TypeAlias = Callable[[], Awaitable[Mapping[str, Any]]]

PATIENCE = 0.5  # seconds; most operations are done before anybody has to look


@contextmanager
def stop_when_gone(receive: Receive | None, deadline: asyncio.Timeout) -> Iterator[None]:
    """Lets `deadline` expire when the client of a request, whose body was read, hangs up before the block is done.

    Without a request nothing is watched: a WebSocket's operations end with it anyway.
    """
    if receive is None:
        yield
        return
    watchers: list[asyncio.Task[None]] = []
    timer = asyncio.get_running_loop().call_later(
        PATIENCE, lambda: watchers.append(asyncio.create_task(_wait_until_gone(receive, deadline)))
    )
    try:
        yield
    finally:
        timer.cancel()
        for watcher in watchers:
            watcher.cancel()


async def _wait_until_gone(receive: Receive, deadline: asyncio.Timeout) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    if not deadline.expired():
        deadline.reschedule(asyncio.get_running_loop().time())
