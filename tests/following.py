"""Tells when a subscription to a service in this process is up: no protocol does, and what is sent before isn't for it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from app.correlation import read_correlation_id
from app.events.fanout import Fanout, Subscription
from app.events.outbox import Topic

_SUBSCRIBE = Fanout.subscribe
_here: set[str] = set()  # URLs of the services in this process
_up: set[str] = set()  # ids of operations


@contextmanager
def _subscribe(self: Fanout, topic: Topic) -> Iterator[Subscription]:
    with _SUBSCRIBE(self, topic) as subscription:
        _up.add(read_correlation_id())
        yield subscription


# For good: services in one process come and go in any order.
Fanout.subscribe = _subscribe  # type: ignore[method-assign]


@contextmanager
def serve_here(url: str) -> Iterator[None]:
    """Within it the service at this URL is in this process."""
    _here.add(url)
    try:
        yield
    finally:
        _here.discard(url)


def is_here(url: str) -> bool:
    """Whether the service at this URL is in this process, so that its subscriptions can be seen."""
    return url in _here


def is_up(operation: str) -> bool:
    """Whether the subscription of this id is up: its request's, with `.1` behind it where it is the first over a WebSocket."""
    return operation in _up
