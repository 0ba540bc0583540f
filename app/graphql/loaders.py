"""Relations, loaded for all their parents at once: one statement per relation, however many machines there are."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Hashable, Sequence
from functools import cached_property
from typing import TypeVar

import msgspec
from strawberry.dataloader import DataLoader

from app.database import Database
from app.history.aggregates import AggregateRequest, Group, find_groups_by_machine
from app.history.clauses import Clause
from app.history.machines import find_latest, find_machine_pulses
from app.history.pages import Page, PageRequest, count_rows_by_machine, find_pages
from app.history.series import SeriesColumns, SeriesLimits, SeriesQuestion, find_series
from app.history.shapes import TableShape
from app.insight.alert_log import Transition, find_transitions
from app.liveness.pulse import Pulse
from app.reading import StoredReading
from app.registry import StoredMachine, find_machines

Arguments = TypeVar("Arguments", bound=Hashable)
Result = TypeVar("Result")


class Loaders:
    """The loaders of one operation, each made when it's first needed. A key is a machine's id, or an id with what its field was asked."""

    def __init__(self, database: Database, series_limits: SeriesLimits) -> None:
        self._database = database
        self._series_limits = series_limits

    @cached_property
    def machine(self) -> DataLoader[str, StoredMachine | None]:
        return DataLoader(self._load_machines)

    @cached_property
    def latest(self) -> DataLoader[str, StoredReading | None]:
        return DataLoader(self._load_latest)

    @cached_property
    def pulse(self) -> DataLoader[str, Pulse | None]:
        return DataLoader(self._load_pulses)

    @cached_property
    def series(self) -> DataLoader[tuple[str, SeriesQuestion], list[SeriesColumns]]:
        return DataLoader(self._load_series)

    @cached_property
    def page(self) -> DataLoader[tuple[str, tuple[TableShape, PageRequest]], Page]:
        return DataLoader(self._load_pages)

    @cached_property
    def groups(self) -> DataLoader[tuple[str, tuple[TableShape, AggregateRequest]], list[Group]]:
        return DataLoader(self._load_groups)

    @cached_property
    def count(self) -> DataLoader[tuple[str, tuple[TableShape, Clause]], int]:
        return DataLoader(self._load_counts)

    @cached_property
    def transitions(self) -> DataLoader[int, list[Transition]]:
        return DataLoader(self._load_transitions)

    async def _load_machines(self, machine_ids: list[str]) -> list[StoredMachine | None]:
        found = await find_machines(self._database, machine_ids)
        return [found.get(machine_id) for machine_id in machine_ids]

    async def _load_transitions(self, alert_ids: list[int]) -> list[list[Transition]]:
        async with self._database.reading() as connection:
            found = await find_transitions(connection, alert_ids)
        return [found.get(alert_id, []) for alert_id in alert_ids]

    async def _load_latest(self, machine_ids: list[str]) -> list[StoredReading | None]:
        found = await find_latest(self._database, machine_ids)
        return [found.get(machine_id) for machine_id in machine_ids]

    async def _load_pulses(self, machine_ids: list[str]) -> list[Pulse | None]:
        found = await find_machine_pulses(self._database, machine_ids)
        return [found.get(machine_id) for machine_id in machine_ids]

    async def _load_series(self, keys: list[tuple[str, SeriesQuestion]]) -> list[list[SeriesColumns]]:
        async def load(machine_ids: Sequence[str], question: SeriesQuestion) -> list[list[SeriesColumns]]:
            asked = msgspec.structs.replace(question, machine_ids=tuple(machine_ids))
            found = await find_series(self._database, asked, self._series_limits)
            return [[series for series in found if series.machine_id == machine_id] for machine_id in machine_ids]

        return await _load_alike(keys, load)

    async def _load_pages(self, keys: list[tuple[str, tuple[TableShape, PageRequest]]]) -> list[Page]:
        async def load(machine_ids: Sequence[str], asked: tuple[TableShape, PageRequest]) -> list[Page]:
            async with self._database.reading() as connection:
                return await find_pages(connection, *asked, machine_ids)

        return await _load_alike(keys, load)

    async def _load_groups(self, keys: list[tuple[str, tuple[TableShape, AggregateRequest]]]) -> list[list[Group]]:
        async def load(machine_ids: Sequence[str], asked: tuple[TableShape, AggregateRequest]) -> list[list[Group]]:
            async with self._database.reading() as connection:
                return await find_groups_by_machine(connection, *asked, machine_ids)

        return await _load_alike(keys, load)

    async def _load_counts(self, keys: list[tuple[str, tuple[TableShape, Clause]]]) -> list[int]:
        async def load(machine_ids: Sequence[str], asked: tuple[TableShape, Clause]) -> list[int]:
            async with self._database.reading() as connection:
                return await count_rows_by_machine(connection, *asked, machine_ids)

        return await _load_alike(keys, load)


async def _load_alike(
    keys: Sequence[tuple[str, Arguments]], load: Callable[[Sequence[str], Arguments], Awaitable[list[Result]]]
) -> list[Result]:
    """Loads together what was asked alike: under aliases one field may be asked in several ways."""
    groups: dict[Arguments, list[str]] = {}
    for machine_id, arguments in keys:
        groups.setdefault(arguments, []).append(machine_id)
    loaded: dict[tuple[str, Arguments], Result] = {}
    for arguments, machine_ids in groups.items():
        for machine_id, result in zip(machine_ids, await load(machine_ids, arguments), strict=True):
            loaded[machine_id, arguments] = result
    return [loaded[key] for key in keys]
