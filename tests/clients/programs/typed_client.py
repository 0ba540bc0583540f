"""The client that ariadne-codegen has generated from our schema and `operations.graphql`, as a program would use it.

    typed_client.py URL CURSOR

`mypy --strict` checks it together with what was generated, which is the package aurum_client beside it.
"""

import asyncio
import json
import sys
from collections.abc import Mapping
from datetime import datetime, timedelta, timezone

from aurum_client import Client
from aurum_client.enums import AlertType, Liveness, Resolution, Severity
from aurum_client.exceptions import GraphQLClientGraphQLMultiError
from aurum_client.input_types import (
    AlertRelationWhere,
    AlertWhere,
    IdFilter,
    MachineWhere,
    MeasurementInput,
    RaiseAlertInput,
    RegisterMachineInput,
    SeverityFilter,
)

START = datetime(2026, 1, 1, tzinfo=timezone(timedelta(hours=1)))


def say(value: object) -> None:
    print(json.dumps(value, default=str), flush=True)  # noqa: T201 - what the test reads


def read(second: int, metrics: Mapping[str, float]) -> MeasurementInput:
    return MeasurementInput(machineId="A", timestamp=START + timedelta(seconds=second), metrics=dict(metrics))


async def ask(client: Client) -> None:
    machine = RegisterMachineInput(machineId="A", machineType="press", location="Hall 1")
    registered = (await client.register_machine(machine)).register_machine
    say([registered.machine_id, registered.created_at.utcoffset() == timedelta(0)])
    try:
        await client.register_machine(machine)
    except GraphQLClientGraphQLMultiError as refused:
        say([error.extensions for error in refused.errors])

    taken = (await client.ingest([read(0, {"rpm": 1.5}), read(0, {}), read(120, {"rpm": 3})])).ingest
    say([taken.accepted, [(each.index, each.code) for each in taken.rejected]])
    wrong = RaiseAlertInput(
        machineId="A",
        alertType=AlertType.THRESHOLD,
        severity=Severity.HIGH,
        cause="rpm",
        title="Too fast",
        evidence={"rpm": [3, None]},
    )
    alert = (await client.raise_alert(wrong)).raise_alert
    say([alert.severity is Severity.HIGH, alert.state.value, alert.evidence])

    severe = AlertWhere(severity=SeverityFilter(gte=Severity.HIGH))
    where = MachineWhere(machineId=IdFilter.model_validate({"in": ["A", "B"]}), alerts=AlertRelationWhere(some=severe))
    found = (await client.find_machines(where)).machines
    (node,) = found.nodes
    latest = node.latest
    assert latest is not None
    say([node.machine_id, found.total_count, node.liveness is Liveness.SILENT, latest.timestamp, latest.metrics])

    minutes = timedelta(minutes=1)
    (series,) = (await client.read_series(["A"], START, START + 3 * minutes, minutes)).series
    say([series.metric, series.timestamps, series.epoch_millis, series.values])
    say(series.resolution is Resolution.BUCKETED)


async def follow(client: Client, after: str) -> None:
    async for event in client.follow_measurements(after=after):
        batch = event.measurements
        say([batch.dropped, [(each.machine_id, each.timestamp, each.metrics) for each in batch.measurements]])
        break


async def main(url: str, cursor: str) -> None:
    async with Client(url=url, ws_url=url.replace("http", "ws", 1)) as client:
        await ask(client)
        await follow(client, cursor)


asyncio.run(main(sys.argv[1], sys.argv[2]))
