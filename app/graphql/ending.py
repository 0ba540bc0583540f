"""Ends a stream of events when whoever receives it is to be let out, with an error that says why."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from graphql import GraphQLError
from strawberry.types import ExecutionResult

from app.access.entrance import Entrance
from app.access.principal import Principal
from app.errors import Unauthenticated

_OVER = object()


async def end_with_access(source: Any, entrance: Entrance, principal: Principal) -> AsyncGenerator[Any, None]:
    """What `source`, an asynchronous generator, gives until then."""
    ending = asyncio.create_task(entrance.wait_for_end(principal))
    waiting: asyncio.Timeout | None = None

    def stop_waiting(_: asyncio.Task[str]) -> None:
        if waiting is not None:
            waiting.reschedule(asyncio.get_running_loop().time())

    ending.add_done_callback(stop_waiting)
    try:
        async with aclosing(source):
            while not ending.done():
                try:
                    async with asyncio.timeout(None) as waiting:
                        result = await anext(source, _OVER)
                except TimeoutError:
                    if not ending.done():
                        raise
                    break
                finally:
                    waiting = None
                if result is _OVER:
                    return
                yield result
            error = GraphQLError(ending.result(), extensions={"code": Unauthenticated.code})
            yield ExecutionResult(data=None, errors=[error])
    finally:
        ending.cancel()
