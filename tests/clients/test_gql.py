"""The Python client `gql` on the service."""

from __future__ import annotations

from tests.client import ServiceClient
from tests.clients.conftest import reading, shown
from tests.clients.environment import PROGRAMS, find_python
from tests.clients.program import run_program


async def test_gql_asks_changes_and_follows_with_nothing_missed_while_it_was_away(
    service: ServiceClient, cursor: str
) -> None:
    async with run_program(find_python(), PROGRAMS / "with_gql.py", f"{service.url}/graphql", cursor) as program:
        assert await program.read() == {"registerMachine": {"machineId": "A", "operational": True}}
        assert await program.read() == {
            "machines": {"nodes": [{"machineId": "A"}, {"machineId": "PRESS-1"}], "totalCount": 2}
        }
        assert await program.read() == [{"code": "ALREADY_EXISTS", "field": "machineId"}]
        assert await program.read() == "Cannot query field 'colour' on type 'Machine'."

        batches = []
        for second in (1, 2):
            await service.ingest(reading(second))
            batches.append(await program.read())
        assert await program.read() == "away"
        await service.ingest(reading(3))
        await program.go_on()
        batches.append(await program.read())
        assert [(each["dropped"], each["measurements"]) for each in batches] == [(0, [shown(n)]) for n in (1, 2, 3)]
        cursors = [int(each["cursor"]) for each in batches]
        assert int(cursor) < cursors[0] < cursors[1] < cursors[2]
        assert await program.read() == "away"
        await program.go_on()
