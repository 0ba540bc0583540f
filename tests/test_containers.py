"""compose.yaml and the Dockerfile: valid, careful, and their commands do what they are there for."""

from __future__ import annotations

import re
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from app.ops.container_secrets import make_secrets
from app.settings import Settings, load_settings, name_variable
from tests.conftest import ROOT, find_program, make_environ
from tests.containers import COMPOSE, DOCKERFILE, read_environ

SERVICES: dict[str, Any] = COMPOSE["services"]
OURS = ("migrate", "app", "migrate-dev", "app-dev", "backup")


def test_the_compose_file_and_the_dockerfile_are_valid_and_pass_their_linters() -> None:
    command = [find_program("invoke"), "lint-containers"]
    environ = make_environ()
    done = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=240, check=False)
    if done.returncode != 0 and re.search(r"Failed to fetch|dns error|No solution found", done.stderr):
        pytest.skip(f"a linter can't be had here: {done.stderr.strip().splitlines()[-1]}")
    assert done.returncode == 0, done.stdout + done.stderr


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


def test_nobody_finds_another_s_database_or_service_under_the_name_that_is_looked_for() -> None:
    found: dict[tuple[str, str], list[str]] = {}
    for service, described in SERVICES.items():
        networks = described["networks"]
        joined = networks if isinstance(networks, dict) else {each: {} for each in networks}
        for network, options in joined.items():
            for name in (service, *options.get("aliases", ())):
                found.setdefault((network, name), []).append(service)
    assert {place: services for place, services in found.items() if len(services) > 1} == {}
    for name, network in (("migrate", "inner"), ("app", "inner"), ("backup", "inner"), ("app-dev", "inner-dev")):
        assert network in SERVICES[name]["networks"]
        assert found[network, "db"] == ["db-dev" if network == "inner-dev" else "db"]
    assert all(COMPOSE["networks"][network] == {"internal": True} for network in ("inner", "inner-dev"))


def test_prometheus_and_the_health_check_know_the_service_whatever_name_it_has_outside() -> None:
    scraped = YAML(typ="safe").load((ROOT / "observe" / "prometheus.yml").read_text(encoding="utf-8"))
    (target,) = scraped["scrape_configs"][0]["static_configs"][0]["targets"]
    for given in ("", "aurum.example"):
        text = SERVICES["app"]["environment"]["AURUM_TRUSTED_HOSTS"].replace("${AURUM_TRUSTED_HOSTS:-}", given)
        hosts = load_settings({"AURUM_TRUSTED_HOSTS": text}).trusted_hosts
        assert hosts == (target.split(":")[0], "localhost", "127.0.0.1", *([given] if given else []))


def test_every_setting_can_reach_the_service() -> None:
    for name in OURS:
        assert SERVICES[name]["env_file"] == [{"path": "deploy/service.env", "required": False}]
    assert "deploy/service.env" in (ROOT / ".gitignore").read_text(encoding="utf-8").splitlines()


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
    done = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=240, check=False)
    asked = (tmp_path / "asked").read_text().splitlines() if expected else []
    assert asked == expected
    assert done.returncode == (0 if expected else 1), done.stderr
    assert f"{COMPOSE['name']}_database-dev" == "aurumai_database-dev"
