"""The Python client `gql`: queries and mutations over HTTP, checked against the schema that the service tells of itself, and a
subscription over WebSocket that goes on from its cursor on another connection.

    with_gql.py URL CURSOR
"""

import asyncio
import json
import sys

from gql import Client, GraphQLRequest, gql
from gql.transport.exceptions import TransportQueryError
from gql.transport.httpx import HTTPXAsyncTransport
from gql.transport.websockets import WebsocketsTransport
from graphql import GraphQLError

URL, CURSOR = sys.argv[1:]
PATIENCE = 60  # seconds
REGISTER = gql("mutation ($input: RegisterMachineInput!) { registerMachine(input: $input) { machineId operational } }")
FIND = gql("query ($ids: [ID!]) { machines(where: { machineId: { in: $ids } }) { nodes { machineId } totalCount } }")
FOLLOW = "subscription ($after: String) { measurements(after: $after) { cursor dropped measurements { machineId timestamp metrics } } }"


def say(value: object) -> None:
    print(json.dumps(value), flush=True)  # noqa: T201 - what the test reads


async def wait_for_the_test() -> None:
    await asyncio.to_thread(sys.stdin.readline)


async def ask() -> None:
    transport = HTTPXAsyncTransport(url=URL, timeout=PATIENCE)
    async with Client(transport=transport, fetch_schema_from_transport=True, execute_timeout=PATIENCE) as session:
        machine = {"machineId": "A", "machineType": "press", "location": "Hall 1"}
        say(await session.execute(GraphQLRequest(REGISTER, variable_values={"input": machine})))
        say(await session.execute(GraphQLRequest(FIND, variable_values={"ids": ["A", "PRESS-1"]})))
        try:
            await session.execute(GraphQLRequest(REGISTER, variable_values={"input": machine}))
        except TransportQueryError as error:
            say([each["extensions"] for each in error.errors or []])
        try:
            await session.execute(gql("{ machines { nodes { colour } } }"))
        except GraphQLError as error:
            say(error.message)


async def follow() -> None:
    after = CURSOR
    for most in (2, 1):
        batches = 0
        variables = {"after": after}
        url = URL.replace("http", "ws", 1)
        transport = WebsocketsTransport(url=url, connect_timeout=PATIENCE, ack_timeout=PATIENCE, close_timeout=PATIENCE)
        async with Client(transport=transport) as session:
            async for answer in session.subscribe(GraphQLRequest(gql(FOLLOW), variable_values=variables)):
                say(answer["measurements"])
                after = answer["measurements"]["cursor"]
                batches += 1
                if batches == most:
                    break
        say("away")
        await wait_for_the_test()


asyncio.run(ask())
asyncio.run(follow())
