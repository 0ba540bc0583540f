"""Keeps pages of other sites from sending operations in the name of whoever looks at them (cross-site request forgery).

A browser sends some requests to any site without asking it first: POSTs of a form's media types, and GETs with no header
beyond the ordinary. None of these is an operation here.
"""

from __future__ import annotations

from cross_web import AsyncHTTPRequestAdapter, HTTPException

from app.errors import UnsupportedMediaType

# A page of another site can set none of these before the browser has asked this one.
PROOFS = ("graphql-require-preflight", "apollo-require-preflight", "x-apollo-operation-name")


async def refuse_unasked(request: AsyncHTTPRequestAdapter) -> None:
    """Raises UnsupportedMediaType or HTTPException for what a browser would have sent unasked, and for arrays."""
    media_type = (request.content_type or "").partition(";")[0].strip().lower()
    if request.method == "GET":
        # An EventSource can set no header, and a page of another site can't read what it receives.
        streamed = "text/event-stream" in request.headers.get("accept", "")
        if media_type != "application/json" and not streamed and not any(name in request.headers for name in PROOFS):
            raise HTTPException(
                400,
                "A query by GET needs the header GraphQL-Require-Preflight, with any value, so that no page of another "
                "site can send it; or send it by POST.",
            )
        return
    if media_type != "application/json":
        raise UnsupportedMediaType("Send operations as application/json.", field="Content-Type")
    if (await request.get_body()).lstrip()[:1] == b"[":
        raise HTTPException(400, "Send one operation at a time: an array of them is not taken.")
