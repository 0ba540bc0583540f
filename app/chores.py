"""What a service does again and again beside its requests."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, MutableMapping

from app.errors import AurumError

logger = logging.getLogger(__name__)


async def repeat(
    what: str, do: Callable[[], Awaitable[object]], every: float, failing: MutableMapping[str, bool]
) -> None:
    """Does it at once, and again `every` seconds after it was done, until it is cancelled; an error only puts it off.

    `what` goes behind "Could not"; under it `failing` says whether it went wrong the last time.
    """
    while True:
        try:
            await do()
            failing[what] = False
        except AurumError as error:
            failing[what] = True
            logger.warning("Could not %s: %s", what, error, extra={"code": error.code})
        except Exception:
            # A chore that died of a bug would be missed only when the disk is full.
            failing[what] = True
            logger.exception("Could not %s, and will try again.", what)
        await asyncio.sleep(every)


async def stop(task: asyncio.Task[None], patience: float) -> None:
    """Cancels a task and waits for its end. One that has not ended after `patience` seconds is cancelled again.

    A cancellation can be lost: an outage that is met on the way out takes its place.
    """
    while not task.done():
        task.cancel()
        await asyncio.wait({task}, timeout=patience)
