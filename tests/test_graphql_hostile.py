"""Requests that are meant to keep the service busy: each is refused by its code, and nothing of it is executed.

With -s what each of them takes is printed, client and service together, in milliseconds of CPU: none should take 100.
"""

from __future__ import annotations

import time

import pytest
import websockets

from tests.client import ServiceClient
from tests.hostile import ATTACKS
from tests.statements import count_statements


@pytest.mark.parametrize("attack", ATTACKS)
async def test_what_is_meant_to_keep_the_service_busy_is_refused_before_any_statement(
    service: ServiceClient, monkeypatch: pytest.MonkeyPatch, attack: str
) -> None:
    make, code = ATTACKS[attack]
    body = make()
    await service.ask("{ fleet { live } }")  # connects
    statements = count_statements(monkeypatch)
    began = time.process_time()
    response = await service.http.post("/graphql", content=body)
    print(f"{(time.process_time() - began) * 1000:8.1f} ms  {attack}")  # noqa: T201 - to be looked at, not compared
    answer = response.json()
    errors = answer.get("errors", [answer])
    codes = {error["code"] if "code" in error else error["extensions"]["code"] for error in errors}
    assert (codes, statements) == ({code}, [])
    assert answer.get("data") is None
    assert len(response.content) < 32_000


async def test_a_message_of_more_than_could_ever_be_right_closes_its_websocket(service: ServiceClient) -> None:
    async with service.subscribe("{ fleet { live } }") as subscription:
        await subscription.next()
        assert (await subscription.next_message())["type"] == "complete"
        await subscription.send({"query": "{ fleet { live } }", "variables": {"a": [0] * 270_000}})
        with pytest.raises(websockets.ConnectionClosed) as caught:
            await subscription.next_message()
    assert caught.value.rcvd is not None
    assert caught.value.rcvd.code == 4400
    assert await service.ask("{ fleet { live } }") == {"fleet": {"live": 0}}
