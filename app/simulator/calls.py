"""The four things a simulated machine asks of the service, over HTTP: is it ready, register, last seen, ingest.

Machines and readings arrive, receipts leave. A service that can't be reached or says "later" (429, 502, 503, 504, and
in GraphQL DATABASE_BUSY, DATABASE_UNAVAILABLE, QUERY_TIMEOUT) is asked again until it answers, since a machine doesn't throw its
readings away; each new attempt is told by an event. Asking twice is safe: a reading is known by its machine and instant.
Fails with ServiceUnreachable (never became ready) and ServiceRefused (a "no" that asking again won't change).
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from enum import StrEnum
from typing import Any, TypeVar

import httpx
import msgspec

from app.errors import AurumError
from app.simulator.profiles import MachineSpec

READY_PATIENCE_S = 60.0
_READY_POLL_S = 0.25
_FIRST_DELAY_S = 0.5
_LONGEST_DELAY_S = 30.0
_LATER = (429, 502, 503, 504)
_REFUSED = (401, 403)
_LATER_CODES = ("DATABASE_BUSY", "DATABASE_UNAVAILABLE", "QUERY_TIMEOUT")
_NOT_LET_IN = ("UNAUTHENTICATED", "FORBIDDEN")
_WAY_IN = (
    "Set AURUM_API_KEY, or AURUM_API_KEY_FILE, to a key of its roles engineer and ingest, of no locations: "
    "invoke key-new --name simulator --role engineer --role ingest makes one."
)
_REGISTER = "mutation($input: RegisterMachineInput!) { registerMachine(input: $input) { machineId } }"
_LAST_SEEN = "query($id: ID!) { machine(machineId: $id) { lastSeenAt } }"


class ServiceUnreachable(AurumError):
    """The service did not become ready in time."""

    code = "SERVICE_UNREACHABLE"


class ServiceRefused(AurumError):
    """The service answered, and the answer is no. The message has its code and its words."""

    code = "SERVICE_REFUSED"


class EventKind(StrEnum):
    READY = "ready"
    RESUMED = "resumed"
    FAULT = "fault"
    LIVE = "live"
    RETRYING = "retrying"
    REJECTED = "rejected"
    CONFLICTS = "conflicts"
    UNACCOUNTED = "unaccounted"


@dataclass(frozen=True)
class Event:
    """Something that a person who watches should know, in a sentence."""

    kind: EventKind
    message: str


class Rejection(msgspec.Struct, frozen=True):
    index: int
    code: str
    message: str


class Receipt(msgspec.Struct, frozen=True):
    """What became of the readings of one POST."""

    accepted: int
    duplicates: int
    conflicts: int
    rejected: tuple[Rejection, ...]


class WireReading(msgspec.Struct, frozen=True):
    """A reading as /ingest takes it; `timestamp` in ms since 1970."""

    machine_id: str
    timestamp: int
    metrics: dict[str, float]


class _GraphQLAnswer(msgspec.Struct, frozen=True):
    data: dict[str, Any] | None = None
    errors: tuple[dict[str, Any], ...] = ()


class _Later(Exception):
    """The service can't answer now. `wait` is in seconds, None if it didn't say how long."""

    def __init__(self, reason: str, wait: float | None = None) -> None:
        super().__init__(reason)
        self.wait = wait


T = TypeVar("T")


class Calls:
    """The service at the base URL of `http`. `retries` counts the attempts that had to be made again."""

    def __init__(self, http: httpx.AsyncClient, on_event: Callable[[Event], None]) -> None:
        self._http = http
        self._on_event = on_event
        self.retries = 0

    async def wait_until_ready(self) -> None:
        """Comes back when /health/ready answers 200. Raises ServiceUnreachable after READY_PATIENCE_S, ServiceRefused at once."""
        deadline = time.monotonic() + READY_PATIENCE_S
        while True:
            try:
                response = await self._http.get("/health/ready")
            except httpx.TransportError as error:
                reason = _describe_failure(error)
            else:
                if response.status_code == 200:
                    return
                reason = _describe_answer(response)
                if response.status_code in _REFUSED:
                    raise _refuse("/health/ready", reason)
            if time.monotonic() >= deadline:
                raise ServiceUnreachable(
                    f"{self._http.base_url} was not ready within {READY_PATIENCE_S:g} s ({reason}). Is it running?"
                )
            await asyncio.sleep(_READY_POLL_S)

    async def register(self, machine: MachineSpec) -> None:
        """Makes the machine known; one that is known already stays as it is. Raises ServiceRefused."""
        fields = {
            "machineId": machine.machine_id,
            "machineType": machine.profile.kind.value,
            "location": machine.location,
        }
        await self._ask(_REGISTER, {"input": fields}, forgiven="ALREADY_EXISTS")

    async def find_last_seen(self, machine_id: str) -> int | None:
        """The instant of the machine's newest reading in ms since 1970, None if it has none. Raises ServiceRefused."""
        data = await self._ask(_LAST_SEEN, {"id": machine_id})
        machine = data.get("machine")
        if machine is None or machine["lastSeenAt"] is None:
            return None
        return to_millis(msgspec.convert(machine["lastSeenAt"], datetime))

    async def ingest(self, readings: list[WireReading]) -> Receipt:
        """Posts readings of any number of machines. Raises ServiceRefused if the batch as a whole is refused."""
        body = msgspec.json.encode(readings)

        async def attempt() -> Receipt:
            return _decode(await self._post("/ingest", body), Receipt)

        return await self._persist(attempt)

    async def _ask(self, query: str, variables: dict[str, Any], *, forgiven: str | None = None) -> dict[str, Any]:
        body = msgspec.json.encode({"query": query, "variables": variables})

        async def attempt() -> dict[str, Any]:
            answer = _decode(await self._post("/graphql", body), _GraphQLAnswer)
            for error in answer.errors:
                code = error.get("extensions", {}).get("code")
                if code in _LATER_CODES:
                    raise _Later(f"{code}: {error.get('message')}")
                if code != forgiven:
                    raise _refuse("/graphql", f"{code}: {error.get('message')}")
            return answer.data or {}

        return await self._persist(attempt)

    async def _post(self, path: str, body: bytes) -> httpx.Response:
        """One attempt. Raises _Later, ServiceRefused or httpx.TransportError."""
        response = await self._http.post(path, content=body, headers={"Content-Type": "application/json"})
        if response.status_code in _LATER:
            raise _Later(_describe_answer(response), _read_retry_after(response))
        # Some servers answer errors in GraphQL with a 4xx; their body says more than the status does.
        if not response.is_success and not (path == "/graphql" and b'"errors"' in response.content):
            raise _refuse(path, _describe_answer(response))
        return response

    async def _persist(self, attempt: Callable[[], Awaitable[T]]) -> T:
        for delay in _back_off():
            try:
                return await attempt()
            except httpx.TransportError as error:
                reason, wait = _describe_failure(error), delay
            except _Later as later:
                reason, wait = str(later), delay if later.wait is None else later.wait
            self.retries += 1
            self._on_event(Event(EventKind.RETRYING, f"{reason}; trying again in {wait:g} s."))
            await asyncio.sleep(wait)
        raise AssertionError("back-off never ends")


def to_millis(moment: datetime) -> int:
    """Whole ms since 1970 of a moment with an offset; what is finer is cut off."""
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)


def _back_off() -> Iterator[float]:
    delay = _FIRST_DELAY_S
    while True:
        yield delay
        delay = min(2 * delay, _LONGEST_DELAY_S)


def _read_retry_after(response: httpx.Response) -> float | None:
    """Seconds to wait, from either form of the header (RFC 9110, 10.2.3); None if there is none that makes sense."""
    value = response.headers.get("Retry-After", "")
    if value.isdecimal():
        return float(value)
    try:
        moment = parsedate_to_datetime(value)
    except ValueError:
        return None
    return max(0.0, moment.timestamp() - time.time())


def _decode(response: httpx.Response, shape: type[T]) -> T:
    try:
        return msgspec.json.decode(response.content, type=shape)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ServiceRefused(
            f"{response.request.url} answered something else than AurumAI does ({error}). Is the URL right?"
        ) from error


def _refuse(path: str, said: str) -> ServiceRefused:
    """With what to do, where the service wants another key or one at all."""
    return ServiceRefused(
        f"{path} refused: {said}" + (f" {_WAY_IN}" if any(code in said for code in _NOT_LET_IN) else "")
    )


def _describe_failure(error: httpx.TransportError) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def _describe_answer(response: httpx.Response) -> str:
    """The status with the code and message of the body if it has them, else the body's beginning."""
    try:
        body = msgspec.json.decode(response.content, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError):
        said = response.text[:200].strip()
    else:
        words = (body.get("code"), body.get("message") or body.get("detail"))
        said = ": ".join(str(word) for word in words if word)
    return f"HTTP {response.status_code} {said}".rstrip()
