"""A cache that strangers may fill: bounded by entries and by bytes, and what was used again outlives what was used once."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class BoundedCache(Generic[Key, Value]):
    """The newest entries are on trial, and those that were asked for again are kept in a half of their own.

    Keys that come once each, however many, so drive out each other and never what is in use.
    """

    def __init__(self, *, entries: int, size: int) -> None:
        """`entries` and `size`, in whatever unit `put` is told, are the most that each of the two halves holds twice."""
        self._trial = _Half[Key, Value](entries // 2, size // 2)
        self._kept = _Half[Key, Value](entries // 2, size // 2)

    def __len__(self) -> int:
        return len(self._trial.held) + len(self._kept.held)

    @property
    def size(self) -> int:
        return self._trial.size + self._kept.size

    def get(self, key: Key) -> Value | None:
        """The value, which from now on counts as used again; None where there is none."""
        entry = self._kept.take(key) or self._trial.take(key)
        if entry is None:
            return None
        self._kept.put(key, *entry)
        return entry[0]

    def put(self, key: Key, value: Value, size: int) -> None:
        """Keeps a value on trial. One that is larger than a half isn't kept at all."""
        half = self._kept if self._kept.take(key) else self._trial
        half.take(key)
        half.put(key, value, size)


class _Half(Generic[Key, Value]):
    def __init__(self, entries: int, size: int) -> None:
        self._most_entries = entries
        self._most_size = size
        self.held: OrderedDict[Key, tuple[Value, int]] = OrderedDict()
        self.size = 0

    def take(self, key: Key) -> tuple[Value, int] | None:
        entry = self.held.pop(key, None)
        if entry is not None:
            self.size -= entry[1]
        return entry

    def put(self, key: Key, value: Value, size: int) -> None:
        self.held[key] = value, size
        self.size += size
        while self.held and (len(self.held) > self._most_entries or self.size > self._most_size):
            _, (_, freed) = self.held.popitem(last=False)
            self.size -= freed
