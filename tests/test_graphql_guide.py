"""docs/graphql.md: each example runs, in its order, as it stands there."""

from __future__ import annotations

import json
import re
from typing import Any

from tests.client import ServiceClient
from tests.conftest import ROOT
from tests.scrape import wait_for_scrape

BEGIN = 1_767_225_600_000  # 2026-01-01T00:00:00Z, in milliseconds since 1970


def read_examples() -> list[tuple[str, dict[str, Any]]]:
    """The operations of the guide, each with its variables."""
    text = (ROOT / "docs" / "graphql.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```(graphql|json)\n(.*?)```", text, re.DOTALL)
    examples: list[tuple[str, dict[str, Any]]] = []
    for kind, block in blocks:
        if kind == "graphql":
            examples.append((block, {}))
        else:
            examples[-1] = (examples[-1][0], json.loads(block))
    return examples


async def test_the_examples_of_the_guide_run_in_their_order(service: ServiceClient) -> None:
    for name, kind, place in (("PRESS-1", "press", "Hall 1"), ("MILL-7", "mill", "Hall 2")):
        mutation = "mutation ($input: RegisterMachineInput!) { registerMachine(input: $input) { machineId } }"
        await service.ask(mutation, input={"machineId": name, "machineType": kind, "location": place})
    await service.ingest(
        [
            {
                "machine_id": name,
                "timestamp": BEGIN + 60_000 * minute,
                "metrics": {"temperature": 40 + minute / 2, "rpm": 1500},
            }
            for name in ("PRESS-1", "MILL-7")
            for minute in range(60)
        ]
    )
    examples = read_examples()
    assert len(examples) == 12
    answers = []
    for document, variables in examples:
        if document.startswith("subscription"):
            # What the examples before it have changed is not on its way any more.
            await wait_for_scrape(service, "aurumai_outbox_lag_seconds", 0)
            async with service.subscribe(document) as subscription:
                await subscription.expect_silence(0.1)
        else:
            answers.append(await service.ask(document, **variables))
    _, fleet, page, found, groups, series, ingested, recorded, alerts, storage = answers
    assert (fleet["fleet"]["machines"], fleet["fleet"]["operational"]) == (3, 3)
    assert fleet["machine"]["latest"] == {
        "timestamp": "2026-01-01T00:59:00.000000Z",
        "metrics": {"temperature": 69.5, "rpm": 1500},
    }
    assert page["measurements"]["totalCount"] == 120
    assert [edge["node"]["machineId"] for edge in page["measurements"]["edges"]] == ["PRESS-1", "MILL-7", "PRESS-1"]
    assert [node["machineId"] for node in found["machines"]["nodes"]] == ["PRESS-1", "PRESS-2"]
    assert len(found["measurements"]["nodes"]) == 10
    assert {group["count"] for group in groups["measurementsAggregate"]} == {60}
    assert [len(each["values"]) for each in series["series"]] == [len(series["series"][0]["epochMillis"])] * 2
    assert ingested["ingest"]["accepted"] == 1
    assert recorded["raiseAlert"]["state"] == "ACTIVE_UNACKNOWLEDGED"
    assert [each["action"] for each in alerts["alerts"]["nodes"][0]["transitions"]] == ["RAISE"]
    assert storage["storage"]["migrations"]["pending"] == []
