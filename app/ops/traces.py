"""Traces, by OpenTelemetry, to a collector that takes OTLP over HTTP. Imported only where AURUM_OTLP_ENDPOINT is set.

A span for each request over HTTP, each GraphQL operation, each transaction of ingest with its COPY or its
merge, and each SQL statement of theirs. No
value is in any: of a statement there is the text with its literals taken out, of an operation its kind and name.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from importlib.metadata import version
from threading import Thread
from typing import Any

from opentelemetry import context, trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Link, SpanContext, SpanKind, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from app.correlation import read_correlation_id
from app.tracing import CANCELLED, Attributes

PATIENCE = 5.0  # seconds with a collector, when the service stops
MOST_TEXT = 2_000  # characters of a statement
MOST_LINKS = 128  # requests that one transaction names; OpenTelemetry keeps no more

# What asyncpg runs on a connection that goes back to its pool.
_FAREWELL = "SELECT pg_advisory_unlock_all()"
_LITERAL = re.compile(r"'(?:[^']|'')*'|(?<![$\w.])\d+(?:\.\d+)?(?:[eE][+-]?\d+)?\b")


class _Span:
    def __init__(self, span: trace.Span) -> None:
        self._span = span

    def end(self, *, name: str | None = None, attributes: Attributes | None = None, error: str | None = None) -> None:
        if name is not None:
            self._span.update_name(name)
        if attributes is not None:
            self._span.set_attributes(attributes)
        if error is not None:
            self._span.set_attribute("error.type", error)
            self._span.set_status(StatusCode.ERROR)
        self._span.end()


class Traces:
    """Spans on their way to a collector: gathered, sent by a thread of its own, and dropped where it is away."""

    def __init__(self, endpoint: str) -> None:
        resource = Resource.create({"service.name": "aurumai", "service.version": version("aurumai")})
        self._provider = TracerProvider(resource=resource)
        exporter = OTLPSpanExporter(endpoint=f"{endpoint.rstrip('/')}/v1/traces")
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("aurumai")
        self._propagator = TraceContextTextMapPropagator()

    def stop(self) -> None:
        """Sends what is there, and waits PATIENCE seconds for the collector. One that hangs is not waited for by the process either."""
        sending = Thread(target=self._provider.shutdown, daemon=True)
        sending.start()
        sending.join(PATIENCE)

    def mark(self) -> SpanContext:
        return trace.get_current_span().get_span_context()

    def begin(self, name: str, attributes: Attributes, origins: Sequence[SpanContext] = ()) -> _Span:
        first, *others = origins or (None,)
        around = context.get_current()
        if first is not None:
            around = trace.set_span_in_context(trace.NonRecordingSpan(first), around)
        links = [Link(other) for other in others[:MOST_LINKS] if other is not None and other.is_valid]
        return self._attach(self._tracer.start_span(name, around, attributes=attributes, links=links))

    @contextmanager
    def cover(self, name: str, attributes: Attributes) -> Iterator[None]:
        span = self._tracer.start_span(name, attributes=attributes)
        token = context.attach(trace.set_span_in_context(span))
        error: str | None = CANCELLED
        try:
            yield
            error = None
        except Exception as failure:
            error = getattr(failure, "code", None) or type(failure).__name__
            raise
        finally:
            context.detach(token)
            _Span(span).end(error=error)

    def begin_request(self, scope: Any, route: str) -> _Span:
        sent = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        attributes = {
            "http.request.method": scope["method"],
            "http.route": route,
            "aurumai.request_id": read_correlation_id(),
        }
        around = self._propagator.extract(sent, context.Context())
        return self._attach(
            self._tracer.start_span(f"{scope['method']} {route}", around, kind=SpanKind.SERVER, attributes=attributes)
        )

    def _attach(self, span: trace.Span) -> _Span:
        # Never detached: each request, each operation of a WebSocket and each committer is a task, with a context that
        # ends with it.
        context.attach(trace.set_span_in_context(span))
        return _Span(span)

    def tell_statement(self, query: Any) -> None:
        if not trace.get_current_span().get_span_context().is_valid:
            return  # of a chore, which nobody waits for
        if query.query.startswith(_FAREWELL):
            return
        now = time.time_ns()
        text = hide_literals(query.query)
        verb = text.split(None, 1)[0].upper() if text else "SQL"
        attributes = {"db.system.name": "postgresql", "db.operation.name": verb, "db.query.text": text}
        began = now - int(query.elapsed * 1_000_000_000)
        span = self._tracer.start_span(verb, kind=SpanKind.CLIENT, attributes=attributes, start_time=began)
        if query.exception is not None:
            # Its class alone: what it says may quote values.
            span.set_attribute("error.type", type(query.exception).__name__)
            span.set_status(StatusCode.ERROR)
        span.end(now)


@lru_cache(maxsize=1_000)
def hide_literals(statement: str) -> str:
    """The statement on one line with `?` for each text and number in it, cut where it is long."""
    return " ".join(_LITERAL.sub("?", statement).split())[:MOST_TEXT]
