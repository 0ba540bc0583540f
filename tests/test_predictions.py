"""Predictions of somebody else's models, recorded over GraphQL, each once."""

from __future__ import annotations

from typing import Any

import asyncpg
import pytest

from app.database import EditionName, probe_edition
from tests.client import ServiceClient

FIELDS = """
    predictionId machineId timestamp riskScore failureProbability maintenanceHours failureType confidence modelVersion
    featuresUsed
"""
ONE = f"""
    mutation ($input: RecordPredictionInput!, $onConflict: OnConflict! = KEEP) {{
      recordPrediction(input: $input, onConflict: $onConflict) {{ {FIELDS} }}
    }}
"""
MANY = f"""
    mutation ($predictions: [RecordPredictionInput!]!, $onConflict: OnConflict! = KEEP) {{
      recordPredictions(predictions: $predictions, onConflict: $onConflict) {{ {FIELDS} }}
    }}
"""
PREDICTION = {
    "machineId": "A",
    "timestamp": "2026-01-31T12:00:00.000001Z",
    "riskScore": 0.75,
    "failureProbability": 0.5,
    "maintenanceHours": 36.5,
    "failureType": "bearing",
    "confidence": 1,
    "modelVersion": "bearing-3",
    "featuresUsed": {"vibration": 0.8, "rpm": 0.2},
}


def told(answer: Any) -> Any:
    return {name: value for name, value in answer.items() if name != "predictionId"}


async def record(service: ServiceClient, on_conflict: str = "KEEP", **changes: Any) -> Any:
    return (await service.ask(ONE, input={**PREDICTION, **changes}, onConflict=on_conflict))["recordPrediction"]


async def test_a_prediction_that_is_compressed_is_known_and_may_be_replaced(
    service: ServiceClient, connection: asyncpg.Connection[asyncpg.Record]
) -> None:
    edition = await probe_edition(connection, timescale="auto")
    if edition.name is not EditionName.COMMUNITY:
        pytest.skip("this edition compresses nothing")
    await service.register("A")
    recorded = await record(service)
    await connection.execute(
        "ALTER TABLE predictions SET (timescaledb.compress, timescaledb.compress_segmentby = 'machine_id')"
    )
    await connection.execute("SELECT compress_chunk(chunk) FROM show_chunks('predictions') AS chunk")
    assert await record(service) == recorded
    await connection.execute("SELECT compress_chunk(chunk) FROM show_chunks('predictions') AS chunk")
    replaced = await record(service, on_conflict="OVERWRITE", riskScore=0.5)
    assert replaced == {**recorded, "riskScore": 0.5}
    assert await record(service, riskScore=0.5) == replaced


async def test_a_prediction_is_recorded_and_is_the_machines_latest(service: ServiceClient) -> None:
    await service.register("A")
    recorded = await record(service)
    assert told(recorded) == {**PREDICTION, "confidence": 1.0}
    least = await record(
        service,
        timestamp="2026-01-31T11:00:00Z",
        failureProbability=None,
        maintenanceHours=None,
        failureType=None,
        confidence=None,
        featuresUsed=None,
    )
    assert (least["failureProbability"], least["maintenanceHours"], least["featuresUsed"]) == (None, None, {})
    data = await service.ask(f'{{ machine(machineId: "A") {{ latestPrediction {{ {FIELDS} }} }} }}')
    assert data["machine"]["latestPrediction"] == recorded


async def test_a_prediction_that_comes_again_changes_nothing(service: ServiceClient) -> None:
    await service.register("A")
    assert await record(service) == await record(service)
    assert (await service.ask("{ predictions { totalCount } }"))["predictions"] == {"totalCount": 1}


async def test_another_value_is_a_conflict_unless_it_is_to_take_the_old_ones_place(service: ServiceClient) -> None:
    await service.register("A")
    first = await record(service)
    error = await service.refuse(ONE, input={**PREDICTION, "riskScore": 0.5})
    assert error["extensions"] == {"code": "CONFLICT"}
    assert error["message"] == (
        "Model 'bearing-3' has said otherwise of 'A' at that instant: say onConflict: OVERWRITE to replace it, "
        "or give another modelVersion."
    )
    assert await record(service, "OVERWRITE", riskScore=0.5) == {**first, "riskScore": 0.5}
    assert (await record(service, modelVersion="bearing-4"))["predictionId"] != first["predictionId"]


async def test_many_predictions_are_recorded_or_none(service: ServiceClient) -> None:
    await service.register("A", "B")
    wanted = [
        {**PREDICTION, "machineId": machine_id, "timestamp": f"2026-01-31T{hour:02}:00:00.000000Z", "confidence": 1.0}
        for hour in (9, 3, 6)
        for machine_id in "BA"
    ]
    assert [told(each) for each in (await service.ask(MANY, predictions=wanted))["recordPredictions"]] == wanted
    assert [told(each) for each in (await service.ask(MANY, predictions=wanted[:2]))["recordPredictions"]] == wanted[:2]
    new = {**PREDICTION, "timestamp": "2026-01-31T15:00:00Z"}
    for predictions, extensions in (
        ([new, {**wanted[0], "riskScore": 0.1}], {"code": "CONFLICT", "field": "predictions.1"}),
        ([new, {**new, "machineId": "Z"}], {"code": "NOT_FOUND", "field": "predictions.1.machineId"}),
        ([new, {**new, "riskScore": 2}], {"code": "BAD_USER_INPUT", "field": "predictions.1.riskScore"}),
        ([new, wanted[0], new], {"code": "BAD_USER_INPUT", "field": "predictions.2"}),
        ([new] * 1_001, {"code": "BAD_USER_INPUT", "field": "predictions"}),
    ):
        error = await service.refuse(MANY, predictions=predictions)
        assert error["extensions"] == extensions
    assert (await service.ask("{ predictions { totalCount } }"))["predictions"] == {"totalCount": 6}
    changed = [{**each, "riskScore": 0.125} for each in wanted]
    answer = await service.ask(MANY, predictions=[new, *changed], onConflict="OVERWRITE")
    assert [each["riskScore"] for each in answer["recordPredictions"]] == [0.75, *[0.125] * 6]
    assert (await service.ask(MANY, predictions=[]))["recordPredictions"] == []


@pytest.mark.parametrize(
    ("changes", "code", "field"),
    [
        ({"machineId": "Z"}, "NOT_FOUND", "machineId"),
        ({"riskScore": -0.1}, "BAD_USER_INPUT", "riskScore"),
        ({"failureProbability": 1.1}, "BAD_USER_INPUT", "failureProbability"),
        ({"confidence": 2}, "BAD_USER_INPUT", "confidence"),
        ({"maintenanceHours": -1}, "BAD_USER_INPUT", "maintenanceHours"),
        ({"modelVersion": ""}, "BAD_USER_INPUT", "modelVersion"),
        ({"failureType": "x" * 201}, "BAD_USER_INPUT", "failureType"),
        ({"timestamp": "2099-01-01T00:00:00Z"}, "BAD_USER_INPUT", "timestamp"),
        ({"featuresUsed": "rpm"}, "BAD_USER_INPUT", "featuresUsed"),
        ({"featuresUsed": {"rpm": "\u0000"}}, "BAD_USER_INPUT", "featuresUsed"),
    ],
)
async def test_a_prediction_that_cannot_be_is_refused_with_its_field(
    service: ServiceClient, changes: dict[str, Any], code: str, field: str
) -> None:
    await service.register("A")
    error = await service.refuse(ONE, input={**PREDICTION, **changes})
    assert error["extensions"] == {"code": code, "field": field}


async def test_a_number_that_is_not_finite_is_refused(service: ServiceClient) -> None:
    await service.register("A")
    error = await service.refuse(
        'mutation { recordPrediction(input: { machineId: "A", riskScore: 0, maintenanceHours: 1e999, modelVersion: "m" }) '
        "{ predictionId } }"
    )
    assert error["extensions"] == {"code": "BAD_USER_INPUT", "field": "maintenanceHours"}
