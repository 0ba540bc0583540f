"""The clients of npm's that browsers mostly use for subscriptions, on the service: `graphql-ws` and `graphql-sse`."""

from __future__ import annotations

from tests.client import ServiceClient
from tests.clients.conftest import reading, shown
from tests.clients.environment import find_node_folder
from tests.clients.program import Program, run_program
from tests.clients.wire import Wire, lay_wire
from tests.npm import NODE


async def follow_over_a_break(service: ServiceClient, program: Program, wire: Wire, cursor: str) -> None:
    """What any client sees of three readings, where its connection breaks after the first and the second comes meanwhile."""
    await service.ingest(reading(1))
    first = await program.read()
    wire.cut()
    await service.ingest(reading(2))
    second = await program.read()
    await service.ingest(reading(3))
    third = await program.read()
    batches = (first, second, third)
    assert [(each["dropped"], each["measurements"]) for each in batches] == [(0, [shown(n)]) for n in (1, 2, 3)]
    assert int(cursor) < int(first["cursor"]) < int(second["cursor"]) < int(third["cursor"])
    assert [each["connections"] - first["connections"] for each in batches] == [0, 1, 1]


async def test_graphql_ws_connects_again_and_goes_on_from_its_cursor(service: ServiceClient, cursor: str) -> None:
    script = find_node_folder() / "with_graphql_ws.mjs"
    async with (
        lay_wire(service.url) as wire,
        run_program(NODE, script, f"{wire.url}/graphql", cursor) as program,
    ):
        (machine,) = await program.read()
        assert machine["data"] == {"machine": {"machineId": "PRESS-1"}}
        (retired,) = await program.read()
        assert retired["data"] == {"retireMachine": {"operational": False}}
        assert await program.read() == {"errors": ["GRAPHQL_VALIDATION_FAILED"]}
        await follow_over_a_break(service, program, wire, cursor)


async def test_graphql_sse_asks_again_and_goes_on_from_its_cursor(service: ServiceClient, cursor: str) -> None:
    script = find_node_folder() / "with_graphql_sse.mjs"
    async with (
        lay_wire(service.url) as wire,
        run_program(NODE, script, f"{wire.url}/graphql", cursor) as program,
    ):
        assert await program.read() == {"machine": {"machineId": "PRESS-1"}}
        await follow_over_a_break(service, program, wire, cursor)
