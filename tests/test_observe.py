"""What is shipped for Prometheus and Grafana: read by their own programs, and about metrics that are there."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from grafana_foundation_sdk.cog import plugins
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard
from ruamel.yaml import YAML

from app.ops import metrics
from tests.client import ServiceClient
from tests.conftest import ROOT, run_command, run_service
from tests.ports import find_free_port
from tests.scrape import Scrape, scrape

FOLDER = ROOT / "observe"
ALERTS = FOLDER / "alerts.yml"
DASHBOARD = FOLDER / "grafana" / "dashboards" / "aurumai.json"
CHORES = 5
GUIDE = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")

needs_promtool = pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed (Prometheus)")


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time for the database to answer a scrape, on a busy machine as well."""
    monkeypatch.setattr(metrics, "PATIENCE", 30.0)


def read_yaml(path: Path) -> Any:
    return YAML(typ="safe").load(path)


def list_rules() -> list[Any]:
    (group,) = read_yaml(ALERTS)["groups"]
    return list(group["rules"])


def read_dashboard() -> Any:
    return json.loads(DASHBOARD.read_text(encoding="utf-8"))


def list_panels() -> list[Any]:
    return [panel for panel in read_dashboard()["panels"] if panel["type"] != "row"]


def list_expressions() -> list[str]:
    return [target["expr"] for panel in list_panels() for target in panel["targets"]]


def run_promtool(*arguments: str, cwd: Path = FOLDER) -> str:
    done = subprocess.run(["promtool", *arguments], cwd=cwd, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


async def scrape_all(service: ServiceClient) -> Scrape:
    """With what is only there once each chore was done, and of a database that answered in time."""
    async with asyncio.timeout(60):
        while True:
            found = await scrape(service)
            if found.read("aurumai_database_up") and len(found.list_samples("aurumai_chore_failing")) == CHORES:
                return found


async def test_every_metric_that_is_named_is_in_a_scrape(service: ServiceClient) -> None:
    await service.refuse("{ nope }")
    await service.http.post("/ingest", content=b"{")
    await service.register("PRESS-1")
    found = await scrape_all(service)
    texts = [rule["expr"] for rule in list_rules()] + list_expressions()
    texts.append(read_dashboard()["templating"]["list"][0]["query"])
    named = {name for text in texts for name in re.findall(r"\b(?:aurumai|process)_\w+", text)}
    assert len(named) > 25
    assert named - found.names == set()


async def test_every_label_that_is_asked_for_is_there(service: ServiceClient) -> None:
    await service.refuse("{ nope }")
    await service.http.post("/ingest", content=b"{")
    found = await scrape_all(service)
    given = {"job", "instance", "le"} | {
        label for name in found.names for labels, _ in found.list_samples(name) for label in labels
    }
    texts = [rule["expr"] for rule in list_rules()] + list_expressions()
    asked = {label for text in texts for label in re.findall(r"(\w+)=~?[\"']", text)}
    asked |= {
        label.strip()
        for text in texts
        for labels in re.findall(r"\b(?:by|on) \(([\w, ]+)\)", text)
        for label in labels.split(",")
    }
    assert asked - given == set()


def test_every_alert_is_documented_and_no_other() -> None:
    section = GUIDE.partition("\n## Alerts\n")[2].partition("\n## ")[0]
    assert re.findall(r"^\| `(Aurum\w+)` \|", section, re.MULTILINE) == [rule["alert"] for rule in list_rules()]


def test_an_alert_says_whom_to_wake_and_what_is_wrong() -> None:
    for rule in list_rules():
        assert rule["labels"]["severity"] in {"critical", "warning"}
        assert rule["annotations"]["summary"].endswith(".")


def test_the_metric_of_each_panel_is_documented() -> None:
    for text in list_expressions():
        for name in re.findall(r"\b(aurumai_\w+)", text):
            assert f"`{re.sub('_(bucket|count)$', '', name)}`" in GUIDE, name


@needs_promtool
def test_prometheus_takes_its_configuration_and_the_rules() -> None:
    run_promtool("check", "config", "--syntax-only", "prometheus.yml")  # the key isn't here
    (scraped,) = read_yaml(FOLDER / "prometheus.yml")["scrape_configs"]
    assert scraped["authorization"] == {"credentials_file": "/run/secrets/prometheus_key"}
    assert read_yaml(FOLDER / "prometheus.yml")["rule_files"] == [ALERTS.name]
    assert f"SUCCESS: {len(list_rules())} rules found" in run_promtool("check", "rules", ALERTS.name)


@needs_promtool
def test_prometheus_takes_the_queries_of_the_dashboard(tmp_path: Path) -> None:
    intervals = {"$__rate_interval": "1m", "$instance": ".*"}
    rules = []
    for number, expression in enumerate(list_expressions()):
        for variable, value in intervals.items():
            expression = expression.replace(variable, value)  # noqa: PLW2901 - as Grafana does
        rules.append({"record": f"panel:{number}", "expr": expression})
    (tmp_path / "panels.yml").write_text(json.dumps({"groups": [{"name": "panels", "rules": rules}]}))
    assert f"SUCCESS: {len(rules)} rules found" in run_promtool("check", "rules", "panels.yml", cwd=tmp_path)


@pytest.mark.skipif(shutil.which("prometheus") is None, reason="prometheus is not installed")
async def test_a_real_prometheus_reads_a_service_that_asks_for_a_key_and_knows_all_rules(
    database_url: str, tmp_path: Path
) -> None:
    made = await asyncio.to_thread(
        run_command, "invoke", "key-new", "--name", "prometheus", "--role", "viewer", database_url=database_url
    )
    assert made.returncode == 0, made.stderr
    (tmp_path / "key").write_text(made.stdout)
    async with run_service(database_url, AURUM_HOST="0.0.0.0") as service:
        assert (await service.http.get("/metrics")).status_code == 401
        config = read_yaml(FOLDER / "prometheus.yml")
        config["global"] = {"scrape_interval": "5s", "scrape_timeout": "5s", "evaluation_interval": "1s"}
        config["rule_files"] = [str(ALERTS)]
        (job,) = config["scrape_configs"]
        job["authorization"]["credentials_file"] = str(tmp_path / "key")
        job["static_configs"][0]["targets"] = [service.url.removeprefix("http://")]
        (tmp_path / "prometheus.yml").write_text(json.dumps(config))
        async with run_prometheus(tmp_path) as prometheus:
            assert (await ask_until_answered(prometheus, 'up{job="aurumai"} == 1'))["value"][1] == "1"
            info = await ask_until_answered(prometheus, "aurumai_info")
            assert info["metric"]["version"] == "0.1.0"
            rules = (await prometheus.get("/api/v1/rules")).json()["data"]["groups"][0]["rules"]
            assert [rule["name"] for rule in rules] == [rule["alert"] for rule in list_rules()]
            assert {rule["health"] for rule in rules} <= {"ok", "unknown"}
            assert {rule["state"] for rule in rules} == {"inactive"}


@asynccontextmanager
async def run_prometheus(folder: Path) -> AsyncIterator[httpx.AsyncClient]:
    """A Prometheus with the configuration of a folder, and a client of it."""
    port = find_free_port()
    command = [
        "prometheus",
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # noqa: ASYNC220 - doesn't wait
    try:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:
            yield client
    finally:
        process.terminate()
        await asyncio.to_thread(process.wait, 60)


async def ask_until_answered(prometheus: httpx.AsyncClient, query: str) -> Any:
    """The one sample of a query, once there is one."""
    async with asyncio.timeout(60):
        while True:
            with suppress(httpx.TransportError):
                answer = await prometheus.get("/api/v1/query", params={"query": query})
                if answer.status_code == 200 and (found := answer.json()["data"]["result"]):
                    (sample,) = found
                    return sample
            await asyncio.sleep(0.1)


OK = {
    "up": "1",
    "aurumai_database_up": "1",
    "aurumai_listener_up": "1",
    "aurumai_outbox_lag_seconds": "0",
    "aurumai_ingest_backlog_bytes": "1000",
    "aurumai_ingest_backlog_limit_bytes": "10000",
    "aurumai_pool_waiting_requests": "0",
    'aurumai_pool_connections{state="used"}': "1",
    "aurumai_pool_limit_connections": "10",
    'aurumai_migrations{state="pending"}': "0",
    'aurumai_migrations{state="unknown"}': "0",
    'aurumai_ingest_readings_total{result="accepted"}': "0+1000",
    'aurumai_ingest_rejected_readings_total{code="BAD_METRIC"}': "0+1",
    'aurumai_http_request_duration_seconds_count{route="/ingest",method="POST",status="200"}': "0+1000",
}
# What differs, of `OK` or beside it, and which alert comes of it within half an hour; none of what is as it should be.
SCENES: list[tuple[dict[str, str], str | None]] = [
    ({}, None),
    ({"up": "0"}, "AurumInstanceDown"),
    ({"aurumai_database_up": "0"}, "AurumDatabaseAway"),
    ({"aurumai_database_up": "0", "aurumai_listener_up": "0"}, "AurumDatabaseAway"),
    ({"aurumai_listener_up": "0"}, "AurumListenerDown"),
    ({"aurumai_outbox_lag_seconds": "31"}, "AurumOutboxLag"),
    ({'aurumai_http_request_duration_seconds_count{route="/ingest",status="503"}': "0+15"}, "AurumIngestRefused"),
    ({'aurumai_http_request_duration_seconds_count{route="/graphql",status="503"}': "0+15"}, None),
    ({"aurumai_ingest_backlog_bytes": "8001"}, "AurumQueueNearFull"),
    ({'aurumai_ingest_rejected_readings_total{code="BAD_METRIC"}': "0+20"}, "AurumReadingsRejected"),
    ({'aurumai_pool_connections{state="used"}': "10"}, None),
    (
        {'aurumai_pool_connections{state="used"}': "10", "aurumai_pool_waiting_requests": "1"},
        "AurumPoolExhausted",
    ),
    ({'aurumai_migrations{state="pending"}': "1"}, "AurumMigrationsPending"),
    ({'aurumai_migrations{state="unknown"}': "1"}, "AurumMigrationsUnknown"),
    ({'aurumai_http_errors_total{code="INTERNAL"}': "0+1"}, "AurumInternalErrors"),
    (
        {'aurumai_graphql_operations_total{kind="query",name="other",outcome="INTERNAL"}': "0+1"},
        "AurumInternalErrors",
    ),
    ({'aurumai_http_errors_total{code="NOT_FOUND"}': "0+1"}, None),
    ({'aurumai_chore_failing{chore="prune the outbox"}': "1"}, "AurumChoreFailing"),
    ({'aurumai_chore_failing{chore="prune the outbox"}': "0"}, None),
    ({'aurumai_subscription_dropped_batches_total{topic="alerts"}': "0+1"}, "AurumSubscribersBehind"),
]


def name_series(metric: str) -> str:
    name, _, labels = metric.partition("{")
    return f'{name}{{job="aurumai",instance="app:8000"{"," + labels if labels else "}"}'


@needs_promtool
@pytest.mark.parametrize(("changes", "expected"), SCENES)
def test_an_alert_fires_for_what_it_is_about_and_for_nothing_else(
    changes: dict[str, str], expected: str | None, tmp_path: Path
) -> None:
    minutes = 40
    series = [
        {"series": name_series(metric), "values": f"{value}{'' if '+' in value else '+0'}x{minutes}"}
        for metric, value in {**OK, **changes}.items()
    ]
    fired = 'ALERTS{alertstate="firing"}'
    scene = {
        "rule_files": [str(ALERTS)],
        "tests": [
            {
                "interval": "1m",
                "input_series": series,
                "promql_expr_test": [
                    {
                        "expr": f"count by (alertname) ({fired})",
                        "eval_time": f"{minutes - 5}m",
                        "exp_samples": []
                        if expected is None
                        else [{"labels": f'{{alertname="{expected}"}}', "value": 1}],
                    }
                ],
            }
        ],
    }
    file = tmp_path / "scene.yml"
    file.write_text(json.dumps(scene))
    run_promtool("test", "rules", str(file))


def test_grafana_s_own_model_takes_the_dashboard_whole() -> None:
    plugins.register_default_plugins()
    given = read_dashboard()
    taken = json.loads(json.dumps(Dashboard.from_json(given), cls=JSONEncoder))
    assert list(find_losses(given, taken, "")) == []


def find_losses(given: Any, taken: Any, place: str) -> Any:
    """What the model doesn't know, or knows otherwise."""
    if isinstance(given, dict) and isinstance(taken, dict):
        for key, value in given.items():
            yield from find_losses(value, taken.get(key), f"{place}.{key}")
    elif isinstance(given, list) and isinstance(taken, list) and len(given) == len(taken):
        for number, pair in enumerate(zip(given, taken, strict=True)):
            yield from find_losses(*pair, f"{place}.{number}")
    elif given != taken:
        yield place, given, taken


def test_panels_lie_beside_each_other_and_ask_the_source_that_is_provisioned() -> None:
    (source,) = read_yaml(FOLDER / "grafana/provisioning/datasources/prometheus.yml")["datasources"]
    panels = read_dashboard()["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    assert len({panel["title"] for panel in panels}) == len(panels)
    cells = [
        (x, y)
        for panel in panels
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]
    assert len(set(cells)) == len(cells)
    assert {x for x, _ in cells} == set(range(24))
    for panel in list_panels():
        assert panel["description"]
        for target in panel["targets"]:
            assert target["datasource"] == {"type": source["type"], "uid": source["uid"]}


def test_grafana_finds_the_dashboard_where_it_is_told_to_look() -> None:
    (provider,) = read_yaml(FOLDER / "grafana/provisioning/dashboards/aurumai.yml")["providers"]
    assert (provider["type"], provider["options"]["path"]) == ("file", "/var/lib/grafana/dashboards")
    assert [path.name for path in DASHBOARD.parent.iterdir()] == ["aurumai.json"]
