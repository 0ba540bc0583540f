"""Documents by their names, and requests that a page of another site could send."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.client import ServiceClient
from tests.conftest import hear, run_command, run_service

QUERY = "query Fleet { fleet { machines } }"
HASH = hashlib.sha256(QUERY.encode()).hexdigest()
UNKNOWN = {
    "message": "PersistedQueryNotFound",
    "extensions": {"code": "PERSISTED_QUERY_NOT_FOUND", "field": "extensions.persistedQuery.sha256Hash"},
}
ASKED = {"fleet": {"machines": 0}}
PREFLIGHT = {"graphql-require-preflight": "1"}


def persist(digest: object = HASH, version: object = 1) -> dict[str, Any]:
    return {"persistedQuery": {"version": version, "sha256Hash": digest}}


async def post(service: ServiceClient, **body: Any) -> Any:
    response = await service.http.post("/graphql", json=body)
    assert response.status_code == 200
    return response.json()


async def test_a_query_is_known_by_its_hash_once_it_was_sent_with_it(service: ServiceClient) -> None:
    assert (await post(service, extensions=persist()))["errors"] == [UNKNOWN]
    assert (await post(service, query=QUERY))["data"] == ASKED
    assert (await post(service, extensions=persist()))["errors"] == [UNKNOWN]
    assert (await post(service, query=QUERY, extensions=persist()))["data"] == ASKED
    assert (await post(service, extensions=persist()))["data"] == ASKED
    assert (await post(service, extensions=persist(HASH.upper())))["data"] == ASKED


async def test_a_known_query_takes_variables(service: ServiceClient) -> None:
    await service.register("A")
    query = "query ($id: ID!) { machine(machineId: $id) { machineId } }"
    extensions = persist(hashlib.sha256(query.encode()).hexdigest())
    await post(service, query=query, extensions=extensions, variables={"id": "B"})
    answer = await post(service, extensions=extensions, variables={"id": "A"})
    assert answer["data"] == {"machine": {"machineId": "A"}}


@pytest.mark.parametrize(
    ("extensions", "field"),
    [
        (persist("0" * 64), "extensions.persistedQuery.sha256Hash"),
        (persist(version=2), "extensions.persistedQuery"),
        (persist(digest=5), "extensions.persistedQuery"),
        ({"persistedQuery": "x"}, "extensions.persistedQuery"),
        ({"documentId": 5}, "documentId"),
    ],
)
async def test_a_name_that_cannot_be_is_refused(service: ServiceClient, extensions: Any, field: str) -> None:
    (error,) = (await post(service, query=QUERY, extensions=extensions))["errors"]
    assert error["extensions"] == {"code": "BAD_USER_INPUT", "field": field}


@pytest.mark.parametrize("beside", [{}, {"documentId": "fleet"}])
async def test_extensions_that_are_no_object_are_refused_over_http_and_over_a_websocket(
    service: ServiceClient, beside: dict[str, str]
) -> None:
    for extensions in (3, "x", [1], True):
        sent: dict[str, object] = {"query": QUERY, "extensions": extensions, **beside}
        response = await service.http.post("/graphql", json=sent)
        assert (response.status_code, response.json()["errors"][0]["extensions"]["code"]) == (400, "BAD_REQUEST")
        async with service.subscribe(QUERY) as subscription:
            assert await subscription.next() == {"machines": 0}
            assert (await subscription.next_message())["type"] == "complete"
            await subscription.send(sent)
            (error,) = (await subscription.next_message())["payload"]
            assert error["message"] == "The extensions must be an object."
            assert error["extensions"].items() >= {"code": "BAD_USER_INPUT", "field": "extensions"}.items()


async def test_a_query_that_is_wrong_is_not_kept(service: ServiceClient) -> None:
    extensions = persist(hashlib.sha256(b"{ nope }").hexdigest())
    for _ in range(2):
        answer = await post(service, query="{ nope }", extensions=extensions)
        assert answer["errors"][0]["extensions"]["code"] == "GRAPHQL_VALIDATION_FAILED"
    assert (await post(service, extensions=extensions))["errors"] == [UNKNOWN]


async def test_a_known_query_is_asked_by_get(service: ServiceClient) -> None:
    params = {"extensions": msgspec.json.encode(persist()).decode()}
    unknown = await service.http.get("/graphql", params=params, headers=PREFLIGHT)
    assert unknown.json()["errors"] == [UNKNOWN]
    await post(service, query=QUERY, extensions=persist())
    assert (await service.http.get("/graphql", params=params, headers=PREFLIGHT)).json()["data"] == ASKED


async def test_a_known_query_is_asked_over_a_websocket(service: ServiceClient) -> None:
    async with service.subscribe(QUERY) as subscription:
        assert await subscription.next() == {"machines": 0}
        assert (await subscription.next_message())["type"] == "complete"
        await subscription.send({"extensions": persist()})
        (error,) = (await subscription.next_message())["payload"]
        assert error["message"] == "PersistedQueryNotFound"
        await subscription.send({"query": QUERY, "extensions": persist()})
        assert (await subscription.next_message())["payload"]["data"] == ASKED
        assert (await subscription.next_message())["type"] == "complete"
        await subscription.send({"extensions": persist()})
        assert (await subscription.next_message())["payload"]["data"] == ASKED


async def test_neither_a_query_nor_a_name_is_refused(service: ServiceClient) -> None:
    response = await service.http.post("/graphql", json={"variables": {}})
    assert response.status_code == 400
    async with service.subscribe("{ fleet { live } }") as subscription:
        await subscription.next()
        await subscription.next_message()
        await subscription.send({"variables": {}})
        (error,) = (await subscription.next_message())["payload"]
        assert error["message"] == 'Request data is missing a "query" value'
        assert error["extensions"]["code"] == "BAD_REQUEST"


@pytest.fixture
def listed(tmp_path: Path) -> str:
    file = tmp_path / "persisted-documents.json"
    file.write_bytes(msgspec.json.encode({HASH: QUERY, "machines": "{ machines { totalCount } }", "old": "{ gone }"}))
    return str(file)


async def test_listed_documents_are_known_by_their_names(database_url: str, listed: str) -> None:
    with hear("app.graphql.schema") as log:
        async with run_service(database_url, AURUM_GRAPHQL_ALLOWED_OPERATIONS=listed) as service:
            assert (await post(service, documentId="machines"))["data"] == {"machines": {"totalCount": 0}}
            assert (await post(service, extensions=persist()))["data"] == ASKED
            assert (await post(service, query="{ fleet { live } }"))["data"] == {"fleet": {"live": 0}}
            response = await service.http.get("/graphql", params={"documentId": "machines"}, headers=PREFLIGHT)
            assert response.json()["data"] == {"machines": {"totalCount": 0}}
    assert log == [
        "WARNING The listed GraphQL operation old will be refused: Cannot query field 'gone' on type 'Query'."
    ]


async def test_where_only_listed_documents_are_executed_all_others_are_refused(database_url: str, listed: str) -> None:
    settings = {"AURUM_GRAPHQL_ALLOWED_OPERATIONS": listed, "AURUM_GRAPHQL_ALLOW_ONLY_LISTED": "true"}
    async with run_service(database_url, **settings) as service:
        assert (await post(service, query=QUERY))["data"] == ASKED
        assert (await post(service, documentId="machines"))["data"] == {"machines": {"totalCount": 0}}
        for body in (
            {"query": "{ fleet { live } }"},
            {"query": "{ machines { totalCount } } "},
            {"query": "{ fleet { live } }", "documentId": "machines"},
            {"documentId": "other"},
            {"extensions": persist("0" * 64)},
        ):
            (error,) = (await post(service, **body))["errors"]
            assert error["extensions"] == {"code": "OPERATION_NOT_LISTED"}
        async with service.subscribe("subscription { measurements { cursor } }") as subscription:
            (error,) = (await subscription.next_message())["payload"]
            assert error["extensions"]["code"] == "OPERATION_NOT_LISTED"


@pytest.mark.parametrize("content", [None, b"[]", b'{"a": 5}', b"\xff", b""])
def test_a_list_that_cannot_be_read_stops_the_service(database_url: str, tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "list.json"
    if content is not None:
        file.write_bytes(content)
    done = run_command(
        "uvicorn", "--factory", "app.main:create_app", database_url=database_url, AURUM_GRAPHQL_ALLOWED_OPERATIONS=str(file)
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.startswith(f"SETTINGS_INVALID: AURUM_GRAPHQL_ALLOWED_OPERATIONS is {file}, which ")


REGISTER = 'mutation { registerMachine(input: {machineId: "A", machineType: "x", location: "x"}) { machineId } }'


@pytest.mark.parametrize(
    "media_type",
    ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "text/plain; application/json", "application/graphql", ""],
)  # fmt: skip
async def test_a_form_s_media_types_are_no_operations(service: ServiceClient, media_type: str) -> None:
    content = msgspec.json.encode({"query": REGISTER})
    response = await service.http.post("/graphql", content=content, headers={"content-type": media_type})
    assert response.status_code == 415
    assert response.json()["errors"][0]["extensions"] == {"code": "UNSUPPORTED_MEDIA_TYPE", "field": "Content-Type"}
    assert await service.ask("{ fleet { machines } }") == ASKED


async def test_json_may_say_its_character_set(service: ServiceClient) -> None:
    headers = {"content-type": "Application/JSON; charset=utf-8"}
    response = await service.http.post("/graphql", content=msgspec.json.encode({"query": QUERY}), headers=headers)
    assert response.json()["data"] == ASKED


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 400),
        ({"content-type": "text/plain"}, 400),
        (PREFLIGHT, 200),
        ({"apollo-require-preflight": "true"}, 200),
        ({"x-apollo-operation-name": "Fleet"}, 200),
        ({"content-type": "application/json"}, 200),
    ],
)
async def test_a_query_by_get_needs_a_header_that_another_site_cannot_set(
    service: ServiceClient, headers: dict[str, str], status: int
) -> None:
    del service.http.headers["content-type"]
    response = await service.http.get("/graphql", params={"query": QUERY}, headers=headers)
    assert response.status_code == status
    if status == 200:
        assert response.json()["data"] == ASKED
    else:
        assert response.json()["errors"][0]["extensions"] == {"code": "BAD_REQUEST"}


async def test_a_mutation_by_get_is_refused(service: ServiceClient) -> None:
    response = await service.http.get("/graphql", params={"query": REGISTER}, headers=PREFLIGHT)
    assert response.status_code == 400
    assert response.json()["errors"][0]["message"] == "mutations are not allowed when using GET"
    assert await service.ask("{ fleet { machines } }") == ASKED


async def test_an_array_of_operations_is_refused_as_that(service: ServiceClient) -> None:
    response = await service.http.post("/graphql", json=[{"query": QUERY}] * 2)
    assert response.status_code == 400
    assert response.json()["errors"] == [
        {
            "message": "Send one operation at a time: an array of them is not taken.",
            "extensions": {"code": "BAD_REQUEST"},
        }
    ]


async def test_of_several_operations_one_must_be_named(service: ServiceClient) -> None:
    query = "query One { fleet { machines } } query Two { machines { totalCount } }"
    for _ in range(2):
        (error,) = (await post(service, query=query))["errors"]
        assert error["extensions"] == {"code": "BAD_USER_INPUT", "field": "operationName"}
        assert (await post(service, query=query, operationName="One"))["data"] == ASKED
        assert (await post(service, query=query, operationName="Two"))["data"] == {"machines": {"totalCount": 0}}
