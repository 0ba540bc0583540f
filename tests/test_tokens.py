"""Tokens of people: by a secret, a public key, and the keys of an identity provider, which is a real HTTP server here."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from app.access import entrance, jwks
from app.access.jwks import read_keys
from tests.client import ServiceClient
from tests.conftest import run_command, run_service
from tests.keys import PRODUCTION
from tests.ports import find_free_port

SECRET = "a secret of thirty-two bytes, and more"
HS256 = {**PRODUCTION, "AURUM_JWT_SECRET": SECRET}


@cache
def make_rsa(name: str, bits: int = 2048) -> rsa.RSAPrivateKey:
    """One key for each name."""
    assert name
    return rsa.generate_private_key(65537, bits)


def write_pem(key: rsa.RSAPrivateKey) -> str:
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return key.public_key().public_bytes(serialization.Encoding.PEM, form).decode()


def say(**claims: Any) -> dict[str, Any]:
    # A day, since what tests are parametrized by is made long before the last of them runs.
    return {"sub": "ana", "exp": int(time.time()) + 86_400, "roles": ["viewer"], **claims}


def sign(claims: dict[str, Any], key: Any = SECRET, algorithm: str = "HS256", **headers: Any) -> str:
    return jwt.encode(claims, key, algorithm=algorithm, headers=headers or None)


def forge(header: dict[str, Any], claims: dict[str, Any], key: bytes) -> str:
    """A token that a library would not make."""
    parts = [base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=") for part in (header, claims)]
    signature = hmac.digest(key, b".".join(parts), hashlib.sha256) if key else b""
    return b".".join([*parts, base64.urlsafe_b64encode(signature).rstrip(b"=")]).decode()


async def ask(service: ServiceClient, token: str) -> tuple[int, Any]:
    """The status, and who acknowledged an alert, or what was said against it."""
    query = {"query": "{ fleet { machines } }"}
    response = await service.http.post("/graphql", json=query, headers={"authorization": f"Bearer {token}"})
    body = response.json()
    return response.status_code, body["errors"][0]["message"] if "errors" in body else body["data"]


NO_MACHINES = (200, {"fleet": {"machines": 0}})


async def test_a_token_signed_with_the_secret_lets_in_with_its_roles(database_url: str) -> None:
    async with run_service(database_url, **HS256) as service:
        assert await ask(service, sign(say())) == NO_MACHINES
        assert await ask(service, sign(say(roles="other viewer"))) == NO_MACHINES
        status, message = await ask(service, sign(say(roles=["ingest", 7, "root"])))
        said = "Query.fleet is for viewer, operator, engineer and admin, and user:ana is none of these."
        assert (status, message) == (200, said)
        assert await ask(service, sign({"sub": "ana", "exp": int(time.time()) + 60})) == (200, said)
        register = (
            'mutation { registerMachine(input: { machineId: "A", machineType: "x", location: "y" }) { machineId } }'
        )
        raised = """mutation { raiseAlert(input: { machineId: "A", alertType: ESG, severity: LOW, cause: "c", title: "t" })
                    { alertId } }"""
        async with ServiceClient(service.url, sign(say(roles=["engineer"]))) as ana:
            await ana.ask(register)
            alert_id = (await ana.ask(raised))["raiseAlert"]["alertId"]
            told = await ana.ask("{ alerts { nodes { alertId transitions { by } } } }")
            assert told["alerts"]["nodes"] == [{"alertId": alert_id, "transitions": [{"by": "user:ana"}]}]


NOW = int(time.time())


@pytest.mark.parametrize(
    ("token", "said"),
    [
        (sign(say(exp=NOW - 60)), "The token has expired: get a new one."),
        (sign(say(nbf=NOW + 43_200)), "The token doesn't hold yet: compare the clocks."),
        (sign({"sub": "ana"}), "The token lacks exp."),
        (sign({"exp": NOW + 86_400}), "The token lacks sub."),
        (sign(say(sub="a\nb")), "The token's sub must be 1 to 200 printable characters."),
        (sign(say(exp=10**18)), "The token's exp is no instant."),
        (
            sign(say(), "another secret of thirty-two bytes"),
            "The token's signature doesn't fit the key that tokens are checked by here.",
        ),
        (sign(say())[:-4] + "AAAA", "The token's signature doesn't fit the key that tokens are checked by here."),
        (
            forge({"alg": "none", "typ": "JWT"}, say(), b""),
            "The token is signed by another algorithm than the one that is taken here.",
        ),
        (
            forge({"alg": "None", "typ": "JWT"}, say(), b""),
            "The token is signed by another algorithm than the one that is taken here.",
        ),
        (
            sign(say(), make_rsa("x"), "RS256"),
            "The token is signed by another algorithm than the one that is taken here.",
        ),
        (sign(say(), SECRET * 2, "HS512"), "The token is signed by another algorithm than the one that is taken here."),
        ("a.b.c", "That is neither an API key nor a token."),
        ("nonsense", "That is neither an API key nor a token."),
        ("x" * 20_000, "The token is too long."),
    ],
    ids=count(1),
)
async def test_a_token_that_doesn_t_hold_lets_nobody_in(database_url: str, token: str, said: str) -> None:
    async with run_service(database_url, **HS256) as service:
        status, message = await ask(service, token)
        assert (status, message) == (401, said)
        assert token not in message


async def test_a_public_key_is_not_taken_for_a_secret(database_url: str, tmp_path: Path) -> None:
    file = tmp_path / "key.pem"
    file.write_text(write_pem(make_rsa("a")))
    async with run_service(database_url, **PRODUCTION, AURUM_JWT_PUBLIC_KEY=str(file)) as service:
        assert await ask(service, sign(say(), make_rsa("a"), "RS256")) == NO_MACHINES
        # Whoever has the public key, which is anybody, could sign with it if the token chose the algorithm.
        confused = forge({"alg": "HS256", "typ": "JWT"}, say(roles=["admin"]), file.read_bytes())
        assert await ask(service, confused) == (
            401,
            "The token is signed by another algorithm than the one that is taken here.",
        )
        assert (await ask(service, sign(say(), make_rsa("b"), "RS256")))[0] == 401


async def test_a_file_without_a_public_key_is_refused_at_startup(database_url: str, tmp_path: Path) -> None:
    command = ["uvicorn", "--factory", "app.main:create_app", "--port", str(find_free_port())]
    file = tmp_path / "key.pem"
    for text, said in [(None, "which can't be read"), ("nonsense", "which must hold an RSA public key in PEM.")]:
        if text is not None:
            file.write_text(text)
        done = await asyncio.to_thread(run_command, *command, database_url=database_url, AURUM_JWT_PUBLIC_KEY=str(file))
        assert done.returncode != 0
        assert f"SETTINGS_INVALID: AURUM_JWT_PUBLIC_KEY is {file}, {said}" in done.stderr


async def test_issuer_audience_and_claims_are_those_of_the_settings(database_url: str) -> None:
    settings = {
        "AURUM_JWT_ISSUER": "https://id.example",
        "AURUM_JWT_AUDIENCE": "aurum",
        "AURUM_JWT_ROLES_CLAIM": "realm.access.roles",
        "AURUM_JWT_LOCATIONS_CLAIM": "https://aurum.example/halls",
    }
    right = {
        "sub": "ana",
        "exp": NOW + 86_400,
        "iss": "https://id.example",
        "aud": ["aurum", "other"],
        "realm": {"access": {"roles": ["viewer"]}},
        "https://aurum.example/halls": ["Hall 1"],
    }
    async with run_service(database_url, **HS256, **settings) as service:
        assert await ask(service, sign(right)) == NO_MACHINES
        wrong: list[tuple[dict[str, Any], str]] = [
            ({"iss": "https://evil.example"}, "The token is of another issuer than the one of AURUM_JWT_ISSUER."),
            ({"aud": "other"}, "The token is for another audience than the one of AURUM_JWT_AUDIENCE."),
            (
                {"realm": {"access": "viewer"}},
                "Query.fleet is for viewer, operator, engineer and admin, and user:ana is none of these.",
            ),
            (
                {"https://aurum.example/halls": None},
                "The token doesn't say for which locations it is, as tokens here must: an array of names, a name, or *.",
            ),
        ]
        for changes, said in wrong:
            assert (await ask(service, sign({**right, **changes})))[1] == said
        for missing, said in [("iss", "The token lacks iss."), ("aud", "The token lacks aud.")]:
            assert await ask(service, sign({k: v for k, v in right.items() if k != missing})) == (401, said)


async def test_somebody_sees_the_locations_that_the_token_names(database_url: str) -> None:
    async with run_service(database_url, **HS256, AURUM_JWT_LOCATIONS_CLAIM="halls") as service:
        async with ServiceClient(service.url, sign(say(roles=["admin"], halls="*"))) as admin:
            await admin.register("A")  # of Hall 2
        for halls, machines in [(["Hall 2"], 1), ("Hall 2", 1), (["Hall 1"], 0), ([], 0), (["Hall 1", "*"], 1)]:
            assert await ask(service, sign(say(halls=halls))) == (200, {"fleet": {"machines": machines}})


class Provider:
    """An identity provider, as far as its JWKS; `answer` is what it says to whoever asks."""

    def __init__(self) -> None:
        self.asked = 0
        self.answer = b""

    def publish(self, *names: str, **changes: Any) -> None:
        keys = [
            {**json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(make_rsa(name).public_key())), "kid": name, **changes}
            for name in names
        ]
        body = json.dumps({"keys": keys}).encode()
        self.answer = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        self.asked += 1
        writer.write(self.answer)
        writer.close()
        with suppress(ConnectionError):  # whoever asked has heard enough
            await writer.wait_closed()


@asynccontextmanager
async def open_provider() -> AsyncIterator[tuple[Provider, str]]:
    provider = Provider()
    server = await asyncio.start_server(provider.handle, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server:
        yield provider, f"http://127.0.0.1:{port}/keys"


def sign_as(name: str, **claims: Any) -> str:
    return sign(say(**claims), make_rsa(name), "RS256", kid=name)


async def test_a_provider_s_keys_are_fetched_once_and_again_for_a_new_one(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(entrance, "HOLDS", 0.0)
    monkeypatch.setattr(jwks, "ASKED_EVERY", 3600.0)
    monkeypatch.setattr(jwks, "TIMEOUT", 60.0)
    async with open_provider() as (provider, url):
        provider.publish("old")
        async with run_service(database_url, **PRODUCTION, AURUM_JWT_JWKS_URL=url) as service:
            answers = await asyncio.gather(*(ask(service, sign_as("old", n=number)) for number in range(10)))
            assert answers == [NO_MACHINES] * 10
            assert provider.asked == 1
            # A token without a kid is of the only key there is.
            assert await ask(service, sign(say(), make_rsa("old"), "RS256")) == NO_MACHINES
            provider.publish("old", "new")
            # Somebody may make up keys: the provider isn't asked for each.
            for _ in range(3):
                assert await ask(service, sign_as("new")) == (
                    401,
                    "The token is signed with a key that the identity provider doesn't have.",
                )
            assert provider.asked == 1
            monkeypatch.setattr(jwks, "ASKED_EVERY", 0.0)
            assert await ask(service, sign_as("new")) == NO_MACHINES
            assert provider.asked == 2
            # What it has taken back holds no longer once the keys are renewed.
            provider.publish("new")
            monkeypatch.setattr(jwks, "RENEWED_AFTER", 0.0)
            assert (await ask(service, sign_as("old")))[0] == 401


async def test_a_provider_that_is_away_is_a_503_and_what_is_known_goes_on(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(entrance, "HOLDS", 0.0)
    monkeypatch.setattr(jwks, "ASKED_EVERY", 0.0)
    monkeypatch.setattr(jwks, "TIMEOUT", 60.0)
    away = (503, "The identity provider's keys can't be fetched just now: try again later.")
    async with (
        open_provider() as (provider, url),
        run_service(database_url, **PRODUCTION, AURUM_JWT_JWKS_URL=url) as service,
    ):
        redirect = b"HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n"
        huge = b"HTTP/1.1 200 OK\r\ncontent-length: 300000\r\n\r\n" + b" " * 300_000
        for answer in (
            b"",
            b"HTTP/1.1 500 No\r\ncontent-length: 0\r\n\r\n",
            b"HTTP/1.1 200 OK\r\n\r\nnonsense",
            redirect,
            huge,
        ):
            provider.answer = answer
            assert await ask(service, sign_as("one")) == away
        refused = await service.http.get("/health/ready", headers={"authorization": f"Bearer {sign_as('one')}"})
        assert (refused.status_code, refused.json()["code"]) == (503, "IDENTITY_UNAVAILABLE")
        assert refused.headers["retry-after"] == "10"
        provider.publish("one")
        assert await ask(service, sign_as("one")) == NO_MACHINES
        provider.answer = b""
        monkeypatch.setattr(jwks, "RENEWED_AFTER", 0.0)
        assert await ask(service, sign_as("one")) == NO_MACHINES
        assert await ask(service, sign_as("two")) == away
        monkeypatch.setattr(jwks, "FORGOTTEN_AFTER", 0.0)
        assert await ask(service, sign_as("one")) == away


async def test_a_provider_that_hangs_is_waited_for_no_longer_than_seconds(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jwks, "TIMEOUT", 0.5)
    monkeypatch.setattr(jwks, "ASKED_EVERY", 0.0)
    ended = asyncio.Event()

    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()  # until whoever asked hangs up
        writer.close()
        await writer.wait_closed()
        ended.set()

    server = await asyncio.start_server(hang, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    async with run_service(database_url, **PRODUCTION, AURUM_JWT_JWKS_URL=url) as service, asyncio.timeout(60):
        # A time limit may also end before there is a connection.
        while not ended.is_set():
            assert (await ask(service, sign_as("one")))[0] == 503
    server.close()


def test_keys_that_aren_t_for_these_signatures_are_left_out() -> None:
    provider = Provider()
    for changes in ({"use": "enc"}, {"alg": "RS512"}, {"kty": "EC"}, {"kid": 7}, {"n": "nonsense!"}):
        provider.publish("one", **changes)
        assert read_keys(provider.answer.partition(b"\r\n\r\n")[2]) == {}
    short = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(make_rsa("short", 1024).public_key()))
    assert read_keys(json.dumps({"keys": [{**short, "kid": "short"}, "x"]}).encode()) == {}
    provider.publish("one", "two")
    assert set(read_keys(provider.answer.partition(b"\r\n\r\n")[2])) == {"one", "two"}
