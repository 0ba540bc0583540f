"""Commands that run: the service, simulated machines, or both."""

from __future__ import annotations

import asyncio
import math
import os
import resource

from invoke.context import Context
from invoke.tasks import task

from app.console import complain, say, show_progress
from app.errors import SettingsError
from app.settings import load_settings
from app.simulator.fault import Fault
from app.tasks.checkout import ROOT
from app.tasks.databases import migrate_forwards, open_piccolo
from app.tasks.options import read_number
from app.tasks.reports import report_errors

OTHER_FILES = 100  # beside connections: logs, libraries, what a fetch of keys takes
FAULTS = ", ".join(fault.value for fault in Fault)


@task
def demo(_: Context) -> None:
    """Everything at once: embedded PostgreSQL, migrations, the service, and three simulated machines."""
    from app.demo import check_port, run_demo

    with report_errors():
        settings = load_settings()
        check_port(settings.host, settings.port)
        with open_piccolo():
            migrate_forwards()
            asyncio.run(run_demo(settings, os.environ["DATABASE_URL"]))
        say("Stopped.")


@task
def serve(_: Context) -> None:
    """The service on AURUM_HOST and AURUM_PORT."""
    import uvicorn

    from app.demo import check_port
    from app.ops.protocol import IDLE_SECONDS, make_protocol

    with report_errors():
        settings = load_settings()
        check_port(settings.host, settings.port)
        _allow_files(settings.max_connections + settings.pool_size + OTHER_FILES)
        patience = math.ceil(settings.ingest_deadline.total_seconds())
        uvicorn.run(
            "app.main:create_app",
            factory=True,
            host=settings.host,
            port=settings.port,
            http=make_protocol(settings.max_connections),
            server_header=False,
            proxy_headers=bool(settings.trusted_proxies),
            forwarded_allow_ips=list(settings.trusted_proxies),
            timeout_keep_alive=IDLE_SECONDS,
            timeout_graceful_shutdown=patience,
        )


def _allow_files(many: int) -> None:
    """Has the process open so many files, if it may: without one for a connection, clients are hung up on without a word."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = many if hard == resource.RLIM_INFINITY else min(many, hard)
    if soft != resource.RLIM_INFINITY and soft < allowed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    if allowed < many:
        complain(
            f"The process may open {hard:,} files, and AURUM_MAX_CONNECTIONS asks for {many:,}: raise the limit (ulimit -n, "
            "LimitNOFILE), or lower the setting."
        )


@task
def dev(_: Context) -> None:
    """The service, started again whenever a file of app/ changes."""
    import uvicorn

    with report_errors():
        settings = load_settings()
        with open_piccolo():
            uvicorn.run(
                "app.main:create_app",
                factory=True,
                host=settings.host,
                port=settings.port,
                http="app.ops.protocol:BoundedProtocol",  # by its name, since each start is a process of its own
                reload=True,
                reload_dirs=[str(ROOT / "app")],
            )


@task(
    help={
        "machines": "how many machines; they cycle over trucks, mills and boilers",
        "rate": "live readings per machine and second",
        "days": "how many days of history to fill in first",
        "seed": "the same seed gives the same machines and readings",
        "fault": f"a fault that begins when the simulation goes live: {FAULTS}",
        "url": "the service; by default the one of AURUM_HOST and AURUM_PORT",
    }
)
def simulate(
    _: Context, machines: str = "3", rate: str = "1", days: str = "7", seed: str = "21", fault: str = "", url: str = ""
) -> None:
    """Simulated machines that send readings to a running service over HTTP, until Ctrl-C, with the key of AURUM_API_KEY."""
    from app.simulator.client import FaultPlan, Progress, SimulationPlan, run_simulation

    with report_errors():
        settings = load_settings()
        plan = SimulationPlan(
            url or settings.local_url,
            api_key=settings.api_key,
            machines=read_number("machines", machines, int),
            rate=read_number("rate", rate, float),
            days=read_number("days", days, float),
            seed=read_number("seed", seed, int),
            fault=FaultPlan(_read_fault(fault)) if fault else None,
        )
        with show_progress("History", "readings") as bar:

            def show(progress: Progress) -> None:
                if progress.total is not None:
                    bar(progress.done, progress.total)

            asyncio.run(run_simulation(plan, on_progress=show, on_event=lambda event: say(event.message)))


def _read_fault(name: str) -> Fault:
    try:
        return Fault(name)
    except ValueError as error:
        raise SettingsError(f"There is no fault {name!r}: choose one of {FAULTS}.") from error
