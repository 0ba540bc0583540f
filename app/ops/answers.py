"""The one mapping of errors to HTTP: {"code", "message"} and, where one is to blame, "field"; never a stack trace or SQL."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

import msgspec
from litestar import Request, Response
from litestar.exceptions import HTTPException
from litestar.types import ASGIApp, Receive, Scope, Send

from app.correlation import read_correlation_id
from app.errors import PayloadTooLarge, RequestError
from app.ops.requests import note_error

INTERNAL = "INTERNAL"

logger = logging.getLogger(__name__)


class Answer(msgspec.Struct, frozen=True):
    """What a client is told of an error."""

    status: int
    content: Mapping[str, object]
    headers: Mapping[str, str] = {}


def describe_error(error: Exception, path: str) -> Answer:
    """An error that we raised for the client, one of HTTP itself, whose code is its status's name, or a bug.

    The log has what happened in a bug, under the correlation id that the client gets.
    """
    if isinstance(error, RequestError):
        return Answer(error.http_status, {**error.extensions, "message": str(error)}, error.http_headers or {})
    if isinstance(error, HTTPException):
        if error.status_code == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
            return describe_error(PayloadTooLarge("The body has more bytes than AURUM_MAX_BODY_BYTES."), path)
        content = {"code": HTTPStatus(error.status_code).name, "message": error.detail}
        return Answer(error.status_code, content, error.headers or {})
    correlation_id = read_correlation_id()
    logger.error("Unforeseen error %s at %s", correlation_id, path, exc_info=error, extra={"code": INTERNAL})
    message = "Something went wrong inside the service; its log has it under the correlationId."
    return Answer(500, {"code": INTERNAL, "message": message, "correlationId": correlation_id})


def answer_error(request: Request[Any, Any, Any], error: Exception) -> Response[Mapping[str, object]]:
    """Litestar's way to answer an error."""
    answer = describe_error(error, request.url.path)
    note_error(request.scope, str(answer.content["code"]))
    return Response(answer.content, status_code=answer.status, headers=answer.headers)


def answer_errors(app: ASGIApp) -> ASGIApp:
    """The application with its errors answered. It must not fail any more once it has begun to answer."""

    async def run(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await app(scope, receive, send)
        except Exception as error:  # noqa: BLE001 - whoever asked gets it
            await send_error(scope, send, error)

    return run


async def send_error(scope: Scope, send: Any, error: Exception, prefix: str = "") -> None:
    """Answers a request that failed before anything else has answered it; `prefix` is that of ASGI's messages."""
    answer = describe_error(error, scope["path"])
    note_error(scope, str(answer.content["code"]))
    body = msgspec.json.encode(answer.content)
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(body)),
        *((name.lower().encode(), value.encode()) for name, value in answer.headers.items()),
    ]
    await send({"type": f"{prefix}http.response.start", "status": answer.status, "headers": headers})
    await send({"type": f"{prefix}http.response.body", "body": body, "more_body": False})
