"""How the service stops without a request being refused: it says so first, and closes after.

On SIGTERM or SIGINT `/health/ready` is answered with 503 and each answer has `Connection: close`, while everything is
still taken; whoever shares requests out among several processes has that long to notice. Then streams of events end, so
that their clients go elsewhere and resume, and the signal is handed to the server, which finishes what is under way.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import threading
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing, contextmanager
from datetime import timedelta
from types import FrameType
from typing import Any, TypeVar

SIGNALS = (signal.SIGINT, signal.SIGTERM)

Piece = TypeVar("Piece")

logger = logging.getLogger(__name__)


class Drain:
    """`began` once the service was told to stop; `ended` once it no longer waits for requests to come in."""

    def __init__(self, lasts: timedelta) -> None:
        self.began = False
        self.ended = False
        self._lasts = lasts.total_seconds()
        self._waiting: set[asyncio.Task[Any]] = set()

    @contextmanager
    def watch_signals(self) -> Iterator[None]:
        """Hears of the server's signals before the server does, which must have set up its handlers."""
        if threading.current_thread() is not threading.main_thread():
            yield  # where Python delivers no signals
            return
        loop = asyncio.get_running_loop()
        originals = {number: signal.getsignal(number) for number in SIGNALS}

        def hear(number: int, frame: FrameType | None) -> None:
            original = originals[signal.Signals(number)]
            if not callable(original):
                return
            if self.began:
                original(number, frame)  # told twice: at once
            else:
                loop.call_soon_threadsafe(self._begin, lambda: original(number, frame))

        mine = [number for number, original in originals.items() if callable(original)]
        for number in mine:
            signal.signal(number, hear)
        try:
            yield
        finally:
            for number in mine:
                if signal.getsignal(number) is hear:
                    signal.signal(number, originals[number])

    def _begin(self, stop_server: Callable[[], object]) -> None:
        if self.began:
            stop_server()
            return
        self.began = True
        if self._lasts == 0:
            self._end(stop_server)
            return
        logger.info("Stopping: not ready any longer, and closing in %g s.", self._lasts)
        asyncio.get_running_loop().call_later(self._lasts, self._end, stop_server)

    def _end(self, stop_server: Callable[[], object]) -> None:
        self.ended = True
        for task in self._waiting:
            task.cancel()
        stop_server()

    async def stream(self, make_pieces: Callable[[], AsyncGenerator[Piece, None]]) -> AsyncGenerator[Piece, None]:
        """The pieces, as long as the service doesn't stop. Then they end in order, however long the next would be waited for."""
        async with aclosing(make_pieces()) as pieces:
            while not self.ended:
                task = asyncio.current_task()
                assert task is not None  # noqa: S101 - what awaits is in a task
                self._waiting.add(task)
                try:
                    piece = await anext(pieces)
                except StopAsyncIteration:
                    return
                except asyncio.CancelledError:
                    # Somebody else may have cancelled it as well, and then that counts.
                    if self.ended and task.uncancel() == 0:
                        return
                    raise
                finally:
                    self._waiting.discard(task)
                yield piece
