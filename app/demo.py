"""The demo: the service on the embedded server, and three simulated machines that use it like anybody else, over HTTP.

All of it is this one process and PostgreSQL, so nothing outlives it: Ctrl-C and SIGTERM end it in order, and after a
kill -9 the embedded server's keeper stops PostgreSQL.
"""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import msgspec
import uvicorn

from app.console import Bar, say, show_progress
from app.errors import SettingsError
from app.main import create_app
from app.ops.protocol import make_protocol
from app.settings import Settings
from app.simulator.calls import Event, EventKind
from app.simulator.client import Progress, SimulationPlan, run_simulation

DRAIN_SECONDS = 5  # for requests under way when the demo ends

EXAMPLE = """{ fleet { machines live } machines { nodes { machineId liveness latest { timestamp metrics } } } }"""


class Server(uvicorn.Server):
    """uvicorn, less its own signal handlers: the demo ends the simulation first, then the server."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def check_port(host: str, port: int) -> None:
    """Raises SettingsError when something listens there already, or when nothing may."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        # As uvicorn does: a port whose last connections are only winding up is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise SettingsError(
                f"Port {port} on {host} can't be used ({error.strerror}): end what uses it, or set AURUM_PORT to another."
            ) from error


async def run_demo(settings: Settings, dsn: str) -> None:
    """Serves and simulates until SIGINT or SIGTERM. Raises AurumError when the service can't start."""
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopping.set)

    app = create_app(msgspec.structs.replace(settings, database_url=dsn))
    server = Server(
        uvicorn.Config(
            app,
            host=settings.host,
            port=settings.port,
            http=make_protocol(settings.max_connections),
            log_level="warning",
            log_config=None,  # the application has set up the log
            timeout_graceful_shutdown=DRAIN_SECONDS,
        )
    )
    serving = asyncio.create_task(server.serve(), name="server")
    simulating = asyncio.create_task(_simulate(settings), name="simulation")
    waiting = asyncio.create_task(stopping.wait(), name="signal")
    # Whichever ends first ends the others: a server that can't start, a simulation that is refused, a signal.
    await asyncio.wait([serving, simulating, waiting], return_when=asyncio.FIRST_COMPLETED)
    if stopping.is_set():
        say("Stopping.")
    simulating.cancel()
    waiting.cancel()
    server.should_exit = True
    outcomes = await asyncio.gather(simulating, serving, waiting, return_exceptions=True)
    refused = app.state.get("startup_error")
    for error in (refused, *outcomes):
        if isinstance(error, Exception):
            raise error


async def _simulate(settings: Settings) -> None:
    url = settings.local_url
    with ExitStack() as stack:
        bar: Bar | None = None

        def show(progress: Progress) -> None:
            nonlocal bar
            if progress.total is None:
                return
            if bar is None:
                bar = stack.enter_context(show_progress("Filling in 7 days of history", "readings"))
            bar(progress.done, progress.total)

        def tell(event: Event) -> None:
            if event.kind is EventKind.READY:
                say(f"GraphQL   {url}/graphql\nIngest    {url}/ingest\nHealth    {url}/health/ready")
            elif event.kind is EventKind.LIVE:
                stack.close()
                body = msgspec.json.encode({"query": EXAMPLE}).decode()
                say(f"{event.message} Ctrl-C stops all of it; the data stays. Ask it something:\n")
                say(f"curl -s {url}/graphql -H 'content-type: application/json' -d '{body}'\n")
            else:
                say(event.message)

        await run_simulation(SimulationPlan(url, api_key=settings.api_key), on_progress=show, on_event=tell)
