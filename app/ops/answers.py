"""The one mapping of errors to HTTP: {"code", "message"} and, where one is to blame, "field"; never a stack trace or SQL."""

from __future__ import annotations

import logging
from http import HTTPStatus
from typing import Any, TypeAlias

from litestar import Request, Response
from litestar.exceptions import HTTPException

from app.correlation import read_correlation_id
from app.errors import PayloadTooLarge, RequestError

logger = logging.getLogger(__name__)

AnyRequest: TypeAlias = Request[Any, Any, Any]


def answer_request_error(_: AnyRequest, error: RequestError) -> Response[dict[str, object]]:
    """An error that we raised for the client."""
    answer = {**error.extensions, "message": str(error)}
    return Response(answer, status_code=error.http_status, headers=error.http_headers)


def answer_http_error(_: AnyRequest, error: HTTPException) -> Response[dict[str, object]]:
    """An error of HTTP itself, such as a path that isn't there; its code is the status's name."""
    status = HTTPStatus(error.status_code)
    if status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
        return answer_request_error(_, PayloadTooLarge("The body has more bytes than AURUM_MAX_BODY_BYTES."))
    return Response({"code": status.name, "message": error.detail}, status_code=status, headers=error.headers)


def answer_unforeseen_error(request: AnyRequest, error: Exception) -> Response[dict[str, object]]:
    """A bug. The log has what happened, under the correlation id that the client gets."""
    correlation_id = read_correlation_id()
    logger.error("Unforeseen error %s at %s", correlation_id, request.url.path, exc_info=error)
    message = "Something went wrong inside the service; its log has it under the correlationId."
    return Response({"code": "INTERNAL", "message": message, "correlationId": correlation_id}, status_code=500)
