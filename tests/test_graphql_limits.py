"""Documents and variables that are too much: refused by name before anything is executed."""

from __future__ import annotations

from typing import Any

import graphql
import pytest

from app.cache import BoundedCache
from tests.client import ServiceClient
from tests.conftest import run_service

NESTED = "latest { machine { " * 50 + "machineId" + " } }" * 50
# Each fragment has the next one twice: in full it would have 2**30 fields.
BOMB = '{ machine(machineId: "A") { ...F0 } } fragment F30 on Machine { machineId }' + "".join(
    f" fragment F{n} on Machine {{ a: latest {{ machine {{ ...F{n + 1} }} }} b: latest {{ machine {{ ...F{n + 1} }} }} }}"
    for n in range(30)
)
ATTACKS = {
    "bytes": (
        "{ fleet { machines } }" + " " * 10_000_000,
        "The document has 10,000,022 bytes; AURUM_GRAPHQL_MAX_BYTES allows 65,536.",
    ),
    "tokens": (
        "{ fleet { " + "machines " * 2_000 + "} }",
        "The document has 2,005 tokens; AURUM_GRAPHQL_MAX_TOKENS allows 2,000.",
    ),
    "comments": (
        "#\n" * 2_000 + "{ fleet { machines } }",
        "The document has 2,006 tokens; AURUM_GRAPHQL_MAX_TOKENS allows 2,000.",
    ),
    "depth": (
        f'{{ machine(machineId: "A") {{ {NESTED} }} }}',
        "The document has fields 102 deep within fields; AURUM_GRAPHQL_MAX_DEPTH allows 20.",
    ),
    "aliases": (
        "{ " + "".join(f"a{n}: fleet {{ live }} " for n in range(101)) + "}",
        "The document has 101 aliases and repeated fields; AURUM_GRAPHQL_MAX_ALIASES allows 100.",
    ),
    "repeated fields": (
        "{ fleet { " + "live " * 102 + "} }",
        "The document has 101 aliases and repeated fields; AURUM_GRAPHQL_MAX_ALIASES allows 100.",
    ),
    "repeated fields of an unused fragment": (
        "{ fleet { live } } fragment Unused on Fleet { " + "live " * 102 + "}",
        "The document has 101 aliases and repeated fields; AURUM_GRAPHQL_MAX_ALIASES allows 100.",
    ),
    "root fields": (
        "{ " + "".join(f"a{n}: __typename " for n in range(51)) + "}",
        "The document has 51 root fields; AURUM_GRAPHQL_MAX_ROOT_FIELDS allows 50.",
    ),
    "directives": (
        "{ fleet { live " + "@include(if: true) " * 51 + "} }",
        "The document has 51 directives; AURUM_GRAPHQL_MAX_DIRECTIVES allows 50.",
    ),
    "fragments within fragments": (
        BOMB,
        "With its fragments put in, the document has more than 2,000 fields, "
        "and AURUM_GRAPHQL_MAX_TOKENS allows no more: spread fewer fragments.",
    ),
}


@pytest.mark.parametrize("attack", ATTACKS)
async def test_a_document_over_a_limit_is_refused_by_the_limit_s_name(service: ServiceClient, attack: str) -> None:
    document, message = ATTACKS[attack]
    error = await service.refuse(document)
    assert error == {"message": message, "extensions": {"code": "QUERY_TOO_COMPLEX"}}


@pytest.mark.parametrize(
    ("document", "setting", "limit", "message"),
    [
        ("{fleet{live}}", "BYTES", 100, None),
        ("{fleet{live}}" + " " * 88, "BYTES", 100, "The document has 101 bytes; AURUM_GRAPHQL_MAX_BYTES allows 100."),
        ("{fleet{live stale silent machines}}", "TOKENS", 10, None),
        ("{fleet{live,stale,silent,machines,__typename,operational}}", "TOKENS", 10, "The document has 11 tokens; AURUM_GRAPHQL_MAX_TOKENS allows 10."),
        ('{fleet{live}} # "not a text', "TOKENS", 10, None),
        ('{machine(machineId:"{{{[[[((( a b c d e f # \\" g"){machineId}}', "TOKENS", 13, None),
        ("{fleet{live}}", "DEPTH", 2, None),
        ("{fleet{live}}", "DEPTH", 1, "The document has fields 2 deep within fields; AURUM_GRAPHQL_MAX_DEPTH allows 1."),
        ("{...{...{...{fleet{...{live}}}}}}", "DEPTH", 2, None),
        ("{fleet{live}}", "ALIASES", 0, None),
        ("{fleet{live ...A}} fragment A on Fleet{stale}", "ALIASES", 0, None),
        ("{fleet{live ...A}} fragment A on Fleet{live}", "ALIASES", 0, "The document has 1 aliases and repeated fields; AURUM_GRAPHQL_MAX_ALIASES allows 0."),
        ("{__typename fleet{live}}", "ROOT_FIELDS", 2, None),
        ("{__typename fleet{live} ...A} fragment A on Query{machines{totalCount}}", "ROOT_FIELDS", 2, "The document has 3 root fields; AURUM_GRAPHQL_MAX_ROOT_FIELDS allows 2."),
        ("{fleet{live @skip(if:false)}}", "DIRECTIVES", 1, None),
    ],
)  # fmt: skip
async def test_a_limit_is_what_its_setting_says(
    database_url: str, document: str, setting: str, limit: int, message: str | None
) -> None:
    async with run_service(database_url, **{f"AURUM_GRAPHQL_MAX_{setting}": str(limit)}) as service:
        answer = await service.post_graphql(document)
    assert [error["message"] for error in answer.get("errors", [])] == ([] if message is None else [message])


async def test_nothing_of_a_refused_document_is_executed(service: ServiceClient) -> None:
    register = 'registerMachine(input: {machineId: "A", machineType: "press", location: "x"}) { machineId }'
    error = await service.refuse(f"mutation {{ {register} {'__typename ' * 102} }}")
    assert error["extensions"] == {"code": "QUERY_TOO_COMPLEX"}
    assert await service.ask('{ machine(machineId: "A") { machineId } }') == {"machine": None}


async def test_each_operation_of_a_document_is_measured_also_those_that_are_not_asked_for(
    service: ServiceClient,
) -> None:
    document = "query Asked { fleet { live } } query Other { fleet { " + "live " * 102 + "} }"
    response = await service.http.post("/graphql", json={"query": document, "operationName": "Asked"})
    assert response.json()["errors"][0]["extensions"] == {"code": "QUERY_TOO_COMPLEX"}


async def test_a_fragment_within_itself_is_called_that(service: ServiceClient) -> None:
    error = await service.refuse(
        '{ machine(machineId: "A") { ...A } } fragment A on Machine { latest { machine { ...A } } }'
    )
    assert error["message"] == "Cannot spread fragment 'A' within itself."
    assert error["extensions"] == {"code": "GRAPHQL_VALIDATION_FAILED"}


def nest(depth: int) -> Any:
    where: Any = {"machineId": {"eq": "A"}}
    for _ in range(depth - 2):
        where = {"not": where}
    return {"where": where}


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        (nest(20), None),
        (nest(21), "The variables have values 21 deep within values; AURUM_GRAPHQL_MAX_DEPTH allows 20."),
        (nest(500), "The variables have values 500 deep within values; AURUM_GRAPHQL_MAX_DEPTH allows 20."),
        ({"where": {"machineId": {"in": ["A"] * 99_997}}}, None),
        (
            {"where": {"machineId": {"in": ["A"] * 99_998}}},
            "The variables have more than 100,000 values, and AURUM_GRAPHQL_MAX_VALUES allows no more: send less at a time.",
        ),
    ],
    ids=["20 deep", "21 deep", "500 deep", "as many as may be", "one too many"],
)
async def test_variables_are_measured(service: ServiceClient, variables: Any, message: str | None) -> None:
    query = "query ($where: MachineWhere) { machines(where: $where) { nodes { machineId } } }"
    answer = await service.post_graphql(query, **variables)
    told = [error["message"] for error in answer.get("errors", [])]
    if message is None:
        assert not any("AURUM_GRAPHQL" in sentence for sentence in told)
    else:
        assert told == [message]


async def test_limits_hold_over_a_websocket_and_the_connection_stays(service: ServiceClient) -> None:
    document, message = ATTACKS["aliases"]
    async with service.subscribe(document) as subscription:
        answer = await subscription.next_message()
        assert answer["type"] == "error"
        assert answer["payload"][0]["message"] == message
        assert answer["payload"][0]["extensions"]["code"] == "QUERY_TOO_COMPLEX"
        await subscription.send({"query": "{ fleet { machines } }"})
        assert (await subscription.next_message())["payload"]["data"] == {"fleet": {"machines": 0}}


@pytest.mark.parametrize(
    ("payload", "field"),
    [({"query": ["{ fleet { live } }"]}, "query"), ({"query": "{ fleet { live } }", "variables": [1]}, "variables")],
)
async def test_what_is_no_text_or_no_object_is_refused_over_a_websocket(
    service: ServiceClient, payload: Any, field: str
) -> None:
    async with service.subscribe("{ fleet { live } }") as subscription:
        await subscription.next()
        assert (await subscription.next_message())["type"] == "complete"
        await subscription.send(payload)
        error = (await subscription.next_message())["payload"][0]
        assert (error["extensions"]["code"], error["extensions"]["field"]) == ("BAD_USER_INPUT", field)


async def test_a_document_is_validated_once_however_often_it_is_sent(
    service: ServiceClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    validated: list[object] = []
    original = graphql.validate

    def count(*arguments: Any, **options: Any) -> Any:
        validated.append(arguments)
        return original(*arguments, **options)

    monkeypatch.setattr("app.graphql.documents.validate", count)
    query = "query ($id: ID!) { machine(machineId: $id) { machineId } }"
    for name in ("A", "B", "C"):
        assert await service.ask(query, id=name) == {"machine": None}
    assert len(validated) == 1


def test_keys_that_come_once_never_drive_out_what_is_in_use() -> None:
    cache: BoundedCache[str, int] = BoundedCache(entries=4, size=1_000)
    cache.put("used", 1, 10)
    assert cache.get("used") == 1
    for n in range(1_000):
        cache.put(f"once {n}", n, 10)
    assert (cache.get("used"), len(cache), cache.size) == (1, 3, 30)
    assert [n for n in range(1_000) if cache.get(f"once {n}") is not None] == [998, 999]


def test_a_cache_is_bounded_by_size_too() -> None:
    cache: BoundedCache[str, int] = BoundedCache(entries=1_000, size=100)
    for n in range(10):
        cache.put(f"key {n}", n, 20)
    assert (len(cache), cache.size) == (2, 40)
    cache.put("larger than a half", 0, 51)
    assert (cache.get("larger than a half"), cache.size) == (None, 0)
    cache.put("key", 1, 10)
    cache.put("key", 2, 30)
    assert (cache.get("key"), cache.size) == (2, 30)
