"""monitoring/shorts and the dashboard against what the service really exports.

A rule or a panel that names a metric, a label or a value that does not exist is silent for ever. So
the service is started, used, broken a little and scraped.
"""

from __future__ import annotations

import json
import re
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import yaml
from alert_rules import Samples, rules_of, samples_of, selectors, unknown_in
from fastapi.testclient import TestClient

sys.path.insert(0, str(Path(__file__).parents[1] / "serving"))

from tiny_feed import DATA_END, N_VIDEOS, TinyRecommender, serving_config

from shorts_recommendation.counters import VideoCounters
from shorts_recommendation.monitoring.attach import watch_feed
from shorts_recommendation.monitoring.monitor import MonitorSettings
from shorts_recommendation.serving.app import create_app
from shorts_recommendation.serving.settings import ServingSettings

ROOT = Path(__file__).resolve().parents[4] / "monitoring"
FOLDER = ROOT / "shorts"
KINDS = {"missing", "stale", "constant", "unit change", "shift", "prediction"}
NOT_PROVOKED = {"stale", "trending"}  # answers of a feed that is too busy


def dashboard() -> dict:
    return json.loads((ROOT / "grafana" / "dashboards" / "shorts.json").read_text())


def expressions() -> dict[str, str]:
    found = {f"alert {rule['alert']}": rule["expr"] for rule in rules_of(FOLDER)}
    for panel in dashboard()["panels"]:
        for target in panel.get("targets", []):
            found[f"panel {panel['title']} {target['refId']}"] = target["expr"]
    for note in dashboard()["annotations"]["list"]:
        found[f"annotation {note['name']}"] = note["expr"]
    return found


class Tiny(TinyRecommender):
    """With counters of the half-lives that its configuration names."""

    def new_counters(self) -> VideoCounters:
        state = self.config.state
        counters = VideoCounters(N_VIDEOS, state.counter_half_lives_h, 900, DATA_END - 900)
        columns = np.ones((N_VIDEOS, 4), np.float32)
        counters.add(np.arange(N_VIDEOS), np.full(N_VIDEOS, DATA_END - 200, np.int64), columns)
        counters.advance(DATA_END)
        return counters


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Samples:
    """Of a service that was used; an expression that has no series here wants a longer ``use``."""
    folder = tmp_path_factory.mktemp("scraped")
    settings = MonitorSettings(interval_s=3600, launch_rows=300, every=1)
    serving = ServingSettings(folder, serving_config(), refresh_s=0.05)
    app = watch_feed(create_app(Tiny(), serving), settings=settings)
    with TestClient(app, raise_server_exceptions=False) as client:
        use(client, app)
        return samples_of(client.get("/metrics").text)


def use(client: TestClient, app) -> None:
    """Feeds, events, a drift, an observer that fails."""
    end = time.monotonic() + 20
    while client.get("/readyz").status_code != 200:
        assert time.monotonic() < end
    engine, monitor = app.state.engine, app.state.monitor
    for user in range(1, 41):
        assert client.get(f"/v1/feed?user_id={user}&k=10").status_code == 200
    for user in range(1, 5):
        event = {"event_id": f"e{user}", "user_id": user, "video_id": 1, "watch_s": 2.0 + 9 * user}
        assert client.post("/v1/events", json=event).status_code == 200
        assert client.get(f"/v1/feed?user_id={user}&k=10").json()["items"]
    monitor.refresh()  # the launch sample is full
    monitor.watch.drift.references["training"] = monitor.watch.drift.references["launch"]
    columns = len(monitor.watch.columns)
    monitor.watch.drift.clear()
    for user in range(30):  # all columns far out: every one is found, the value too
        monitor.watch.drift.observe(np.full((10, columns), 1e6 + user, np.float32), user)
    monitor.refresh()
    engine.metrics.observer_failed(type(monitor).__name__)


def test_every_metric_label_and_value_that_is_named_is_exported(samples: Samples):
    assert len(expressions()) > 40
    assert sum(len(named) for e in expressions().values() for _, named in selectors(e)) > 20
    for place, expression in expressions().items():
        assert selectors(expression), f"{place} names no metric: {expression}"
        assert unknown_in(expression, samples, NOT_PROVOKED | KINDS) == [], place


def test_kinds_of_drift_are_those_that_the_monitor_knows(samples):
    from typing import get_args

    from ml_platform.operations.drift_causes import Kind

    assert set(get_args(Kind)) >= KINDS
    assert {s["kind"] for s in samples["drift_severity"]} <= KINDS
    assert {s["reference"] for s in samples["drift_severity"]} == {"launch", "training"}


def test_the_dashboard_is_whole_and_nothing_overlaps():
    board = dashboard()
    others = json.loads((ROOT / "grafana" / "dashboards" / "serving.json").read_text())
    assert board["uid"] != others["uid"]
    provisioned = ROOT / "grafana" / "provisioning" / "datasources" / "prometheus.yml"
    uid = yaml.safe_load(provisioned.read_text())["datasources"][0]["uid"]
    taken: set[tuple[int, int]] = set()
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
    for panel in board["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24
        taken |= cells
        if panel["type"] != "row":
            assert panel["description"]
            assert panel["datasource"]["uid"] == uid
            refs = [target["refId"] for target in panel["targets"]]
            assert refs == list("ABC")[: len(refs)]


def test_compose_starts_what_prometheus_scrapes():
    services = yaml.safe_load((FOLDER / "compose.yaml").read_text())["services"]
    assert set(services) == {"feed", "redis", "prometheus", "grafana"}
    for name, service in services.items():
        assert service["healthcheck"]["test"][0] == "CMD", name
        for port in service.get("ports", []):
            assert port.startswith("127.0.0.1:"), f"{name} would be open to the network"
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            if source.startswith(".") and not source.endswith("artifacts"):
                assert (FOLDER / source).exists(), f"{name} mounts {source}, which is not there"
    config = yaml.safe_load((FOLDER / "prometheus.yml").read_text())
    (job,) = config["scrape_configs"]
    assert job["static_configs"] == [{"targets": ["feed:8000"]}]
    assert all(
        job["job_name"] in rule["expr"] for rule in rules_of(FOLDER) if rule["alert"] == "FeedDown"
    )


def test_the_dockerfile_copies_what_is_there():
    lines = re.findall(r"^COPY (.+)$", (FOLDER / "Dockerfile").read_text(), re.MULTILINE)
    copied = [source for one in lines for source in one.split()[:-1]]
    assert len(copied) >= 6
    assert [source for source in copied if not (ROOT.parent / source).exists()] == []
