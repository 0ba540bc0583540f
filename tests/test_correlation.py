"""One id for each request: in the answer, in its errors, in the log."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from app.correlation import CorrelationFilter
from tests.client import ServiceClient


class Lines(logging.Handler):
    """What the service would write to the log."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []
        self.addFilter(CorrelationFilter())
        self.setFormatter(logging.Formatter("%(levelname)s%(correlation)s %(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record).splitlines()[0])


@pytest.fixture
def log(service: ServiceClient) -> Any:
    handler = Lines()
    logger = logging.getLogger("app")
    logger.addHandler(handler)
    yield handler.lines
    logger.removeHandler(handler)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("POST", "/graphql", 400), ("POST", "/ingest", 400), ("GET", "/health/live", 200), ("GET", "/nowhere", 404)],
)
async def test_an_answer_has_the_id_that_the_request_had(
    service: ServiceClient, method: str, path: str, status: int
) -> None:
    response = await service.http.request(method, path, headers={"X-Request-ID": "gateway-7:Ab.1_2"})
    assert (response.status_code, response.headers.get_list("x-request-id")) == (status, ["gateway-7:Ab.1_2"])


@pytest.mark.parametrize("sent", [None, "", "a b", "a\tb", "x" * 129, "é", "-a", "<script>"])
async def test_a_request_without_an_id_that_can_be_gets_a_new_one(service: ServiceClient, sent: str | None) -> None:
    headers: dict[bytes, bytes] = {} if sent is None else {b"x-request-id": sent.encode()}
    ids = [
        (await service.http.post("/graphql", json={"query": "{ __typename }"}, headers=headers)).headers["x-request-id"]
        for _ in range(2)
    ]
    assert [len(each) for each in ids] == [32, 32]
    assert ids[0] != ids[1]


async def test_what_no_one_foresaw_is_logged_under_the_id_of_the_answer(
    service: ServiceClient, log: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def break_down(*_: Any) -> None:
        raise RuntimeError("SELECT secret FROM somewhere")

    monkeypatch.setattr("app.graphql.queries.find_fleet", break_down)
    body = {"query": "{ fleet { machines } }"}
    response = await service.http.post("/graphql", json=body, headers={"x-request-id": "gateway-7"})
    (error,) = response.json()["errors"]
    assert error["extensions"] == {"code": "INTERNAL", "correlationId": "gateway-7"}
    assert "secret" not in response.text
    assert log == ["ERROR [gateway-7] Unforeseen error gateway-7 at ['fleet']"]


async def test_each_operation_of_a_websocket_has_an_id_of_its_own(
    service: ServiceClient, log: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def break_down(*_: Any) -> None:
        raise RuntimeError("secret")

    monkeypatch.setattr("app.graphql.queries.find_fleet", break_down)
    async with service.subscribe("{ nope }") as subscription:
        request = subscription.response_headers["x-request-id"]
        refused = (await subscription.next_message())["payload"][0]["extensions"]
        assert refused == {"code": "GRAPHQL_VALIDATION_FAILED", "correlationId": f"{request}.1"}
        await subscription.send({"query": "{ fleet { machines } }"})
        broken = (await subscription.next_message())["payload"]["errors"][0]["extensions"]
        assert broken == {"code": "INTERNAL", "correlationId": f"{request}.2"}
    assert log == [f"ERROR [{request}.2] Unforeseen error {request}.2 at ['fleet']"]
