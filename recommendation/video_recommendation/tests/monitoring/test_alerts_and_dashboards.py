"""The files of monitoring/ against what the service really exports.

The check that matters: a rule or a panel that names a metric, a label or a label's value that does
not exist is silent for ever. So the service is started, used, broken a little and scraped.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families

from video_recommendation.bundle import load_bundle
from video_recommendation.monitoring.monitor import MonitorSettings, watch_drift
from video_recommendation.serving.app import create_app
from video_recommendation.serving.engine import ServingSettings

FOLDER = Path(__file__).resolve().parents[4] / "monitoring"
MADE_BY_PROMETHEUS = {"up"}
FUNCTIONS = {
    "by", "count", "group_left", "histogram_quantile", "ignoring", "increase", "max",
    "max_over_time", "on", "or", "and", "unless", "rate", "scalar", "sum", "time", "topk",
    "vector", "without",
}  # fmt: skip
LABELS_OF_THE_SCRAPE = {"job", "instance"}


def rules() -> list[dict]:
    groups = yaml.safe_load((FOLDER / "alerts.yml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def dashboard() -> dict:
    return json.loads((FOLDER / "grafana" / "dashboards" / "serving.json").read_text())


def panels() -> list[dict]:
    return [panel for panel in dashboard()["panels"] if panel["type"] != "row"]


def expressions() -> dict[str, str]:
    """Where it stands, and the expression."""
    found = {f"alert {rule['alert']}": rule["expr"] for rule in rules()}
    for panel in panels():
        for target in panel["targets"]:
            found[f"panel {panel['title']} {target['refId']}"] = target["expr"]
    for note in dashboard()["annotations"]["list"]:
        found[f"annotation {note['name']}"] = note["expr"]
    return found


def selectors(expression: str) -> list[tuple[str, dict[str, tuple[str, str]]]]:
    """Metrics of an expression with their matchers: name -> (operator, value)."""
    quoted = r'"(?:[^"\\]|\\.)*"'
    bare = re.sub(r"\b(?:by|without|on|ignoring)\s*\([^)]*\)", " ", expression)
    bare = re.sub(r"\[[^\]]*\]", " ", bare)
    found = []
    for name, matchers in re.findall(rf"([a-zA-Z_:]\w*)\s*(\{{(?:[^}}\"]|{quoted})*\}})?", bare):
        pairs = re.findall(r"(\w+)\s*(=~|!~|!=|=)\s*\"([^\"]*)\"", matchers)
        inside = {label: (operator, value) for label, operator, value in pairs}
        if name not in FUNCTIONS:
            found.append((name, inside))
    return found


def grouping_labels(expression: str) -> set[str]:
    lists = re.findall(r"\b(?:by|without|on|ignoring)\s*\(([^)]*)\)", expression)
    return {label.strip() for one in lists for label in one.split(",")}


@pytest.fixture(scope="module")
def samples(tiny_system, tmp_path_factory) -> Iterator[dict[str, list[dict[str, str]]]]:
    """Label sets of every series that a used service exports; [] for one without any yet."""
    settings = MonitorSettings(interval_s=3600, window_rows=400, launch_lists=20, launch_s=0)
    serving = ServingSettings(
        tmp_path_factory.mktemp("scraped"), refresh_s=0.05, deadline_ms=20_000.0
    )
    app = create_app(load_bundle(tiny_system.bundle), serving, [watch_drift(settings)])
    with TestClient(app, raise_server_exceptions=False) as client:
        use(client, app, tiny_system)
        text = client.get("/metrics").text
    found: dict[str, list[dict[str, str]]] = {}
    for family in text_string_to_metric_families(text):
        suffix = {"counter": ["_total"], "histogram": ["_bucket", "_count", "_sum"]}
        for name in suffix.get(family.type, [""]):
            found.setdefault(family.name + name, [])
        for sample in family.samples:
            found.setdefault(sample.name, []).append(dict(sample.labels))
    return found


def use(client: TestClient, app, tiny_system) -> None:
    """Requests, events, a fault of each kind that has a counter."""
    end = time.monotonic() + 10
    while client.get("/readyz").status_code != 200:
        assert time.monotonic() < end
    engine, monitor = app.state.engine, app.state.attachments[-1]
    users = tiny_system.data.users.user_ids[:30].tolist()
    lists = [client.get(f"/v1/recommendations?user_id={user}&k=10").json() for user in users]
    item = lists[0]["items"][0]["item_id"]
    assert client.get(f"/v1/similar/{item}").status_code == 200
    assert client.get("/v1/similar/999999999").status_code == 404
    event = {"event_id": "a", "user_id": users[0], "item_id": item, "event_type": "watch"}
    assert client.post("/v1/events", json=event).status_code == 200
    engine.metrics.model_refused("production")
    engine.metrics.stage_overran("rank")
    for outcome in ("taken", "answered", "timeout"):
        engine.metrics.shadow_requests.labels("shadow", outcome).inc()
    engine.metrics.feature_rows_read("item_activity:v1", "stale", 1)
    engine.observers.append(object())  # raises when told
    engine.store.close()  # lists degrade from here on
    assert client.get(f"/v1/recommendations?user_id={users[1]}").status_code == 200
    engine.observers.pop()
    broken = monitor._drift.window().rows.copy()
    broken[:, 0] = 3
    monitor._drift.clear()
    for user in range(30):
        monitor._drift.observe(broken[user * 10 : user * 10 + 10], user)
    trained = monitor._trained
    monitor._trained = replace(
        trained, concentration=replace(trained.concentration, block=1, mean=0.0, deviation=0.0)
    )
    monitor.settings = replace(monitor.settings)
    for _ in range(301):
        monitor._labels.shown(1, broken[:5, 0].astype(int), broken[:5, 1] * 0 + 0.5)
        monitor._labels.event(1, -1, 1)
    monitor.refresh()


def test_the_reader_of_expressions_reads():
    found = selectors('sum by (le) (rate(a_total{b=~"x|y{}", c!="z"}[5m])) / scalar(d) > 0.1')
    assert found == [("a_total", {"b": ("=~", "x|y{}"), "c": ("!=", "z")}), ("d", {})]
    assert grouping_labels("sum by (le, stage) (x)") == {"le", "stage"}


def test_every_metric_that_is_named_is_exported(samples):
    assert len(expressions()) > 40
    for place, expression in expressions().items():
        named = [name for name, _ in selectors(expression)]
        assert named, f"{place} names no metric: {expression}"
        unknown = set(named) - set(samples) - MADE_BY_PROMETHEUS
        assert not unknown, f"{place}: the service does not export {sorted(unknown)}"


def test_every_label_that_is_named_is_there(samples):
    checked = 0
    for place, expression in expressions().items():
        for name, matchers in selectors(expression):
            if name in MADE_BY_PROMETHEUS:
                continue
            assert samples[name], f"{place}: {name} has no series; extend `use` so that it has"
            labels = set(samples[name][0])
            missing = set(matchers) - labels - LABELS_OF_THE_SCRAPE
            assert not missing, f"{place}: {name} has no label {sorted(missing)}"
            checked += len(matchers)
        some = {
            label for name, _ in selectors(expression) for s in samples.get(name, []) for label in s
        }
        lost = grouping_labels(expression) - some - LABELS_OF_THE_SCRAPE
        assert not lost, f"{place}: grouped by {sorted(lost)}, which no metric of it has"
    assert checked > 20


SEEN_BY_NAME = {"route", "status", "reference", "slot", "outcome", "stage", "kind"}
NOT_PROVOKED = {
    "stale", "missing", "unit change", "shift", "prediction", "popularity",  # kinds of drift
}  # fmt: skip


def test_every_value_that_is_asked_for_occurs(samples):
    """Values of routes, slots, outcomes ...: a pattern must match a series of the used service."""
    for place, expression in expressions().items():
        for name, matchers in selectors(expression):
            for label, (operator, value) in matchers.items():
                if label not in SEEN_BY_NAME or operator not in ("=", "=~"):
                    continue
                values = {s[label] for s in samples[name] if label in s}
                if label == "status" or set(value.split("|")) & NOT_PROVOKED:
                    continue  # no 5xx here; kinds of drift come from the type in drift_causes
                pattern = value if operator == "=~" else re.escape(value)
                assert any(re.fullmatch(pattern, one) for one in values), (
                    f"{place}: no {name} with {label} {value!r}; there are {sorted(values)}"
                )


def test_kinds_of_drift_are_those_that_the_monitor_finds():
    from typing import get_args

    from ml_platform.operations.drift_causes import Kind

    asked = {
        kind
        for expression in expressions().values()
        for name, matchers in selectors(expression)
        if name == "drift_severity" and matchers.get("kind", ("", ""))[0] in ("=", "=~")
        for kind in matchers["kind"][1].split("|")
    }
    assert asked == set(get_args(Kind))


def test_the_dashboard_is_whole():
    board = dashboard()
    assert board["uid"] == "mlsd-serving"
    sources = yaml.safe_load(
        (FOLDER / "grafana" / "provisioning" / "datasources" / "prometheus.yml").read_text()
    )
    uid = sources["datasources"][0]["uid"]
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
    assert len(panels()) >= 15
    for panel in panels():
        assert panel["title"]
        assert panel["type"] in ("timeseries", "stat", "table")
        assert panel["datasource"]["uid"] == uid
        assert panel["targets"]
        assert [t["refId"] for t in panel["targets"]] == list("ABC")[: len(panel["targets"])]
        assert all(target["datasource"]["uid"] == uid for target in panel["targets"])


def test_panels_do_not_overlap():
    taken: dict[tuple[int, int], str] = {}
    for panel in dashboard()["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                assert taken.setdefault((x, y), panel["title"]) == panel["title"]


def test_compose_has_four_services_that_say_when_they_are_well():
    compose = yaml.safe_load((FOLDER / "compose.yaml").read_text())
    services = compose["services"]
    assert set(services) == {"api", "redis", "prometheus", "grafana"}
    for name, service in services.items():
        assert service["healthcheck"]["test"][0] == "CMD", name
        assert "image" in service or (FOLDER.parent / service["build"]["dockerfile"]).is_file()
        for needed, condition in service.get("depends_on", {}).items():
            assert needed in services
            assert condition == {"condition": "service_healthy"}
        for port in service.get("ports", []):
            assert port.startswith("127.0.0.1:"), f"{name} would be open to the network"
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            if source.startswith("./"):
                assert (FOLDER / source).exists(), f"{name} mounts {source}, which is not there"
    assert "redis" in services["api"]["environment"]["REDIS_URL"]


def test_prometheus_scrapes_the_api_of_the_compose_file_and_reads_the_rules():
    config = yaml.safe_load((FOLDER / "prometheus.yml").read_text())
    (job,) = config["scrape_configs"]
    assert (job["job_name"], job["metrics_path"]) == ("video_recommendation", "/metrics")
    assert job["static_configs"] == [{"targets": ["api:8000"]}]
    assert config["rule_files"] == ["alerts.yml"]


def test_the_dockerfile_copies_what_is_there():
    dockerfile = (FOLDER / "Dockerfile").read_text()
    copied = [
        source
        for line in re.findall(r"^COPY (.+)$", dockerfile, re.MULTILINE)
        for source in line.split()[:-1]
    ]
    assert copied
    assert [source for source in copied if not (FOLDER.parent / source).exists()] == []
