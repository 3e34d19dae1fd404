"""The monitor on a real engine: what it sees of lists and events, and what it says of faults."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from fastapi.testclient import TestClient

from ml_platform.operations.reference_profile import Monitored
from video_recommendation.bundle import load_bundle
from video_recommendation.features import SCHEMA
from video_recommendation.monitoring.monitor import (
    LaunchSample,
    ModelMonitor,
    MonitorSettings,
    shown_matrix,
    watch_drift,
)
from video_recommendation.monitoring.reference import ACTIVITY, monitored_columns
from video_recommendation.serving.app import create_app
from video_recommendation.serving.engine import ServingSettings
from video_recommendation.serving.protocol import RecommendedItem

SETTINGS = MonitorSettings(interval_s=3600, window_rows=600, launch_lists=30, launch_s=0)


@pytest.fixture(scope="module")
def running(tiny_system, tmp_path_factory) -> Iterator[SimpleNamespace]:
    """The app with a monitor, after forty users have asked once."""
    folder = tmp_path_factory.mktemp("monitored")
    settings = ServingSettings(folder, refresh_s=0.05, deadline_ms=20_000.0)
    app = create_app(load_bundle(tiny_system.bundle), settings, [watch_drift(SETTINGS)])
    with TestClient(app) as client:
        end = time.monotonic() + 10
        while client.get("/readyz").status_code != 200:
            assert time.monotonic() < end
        users = tiny_system.data.users.user_ids[:40].tolist()
        answers = [ask(client, user) for user in users]
        monitor = app.state.attachments[-1]
        monitor.refresh()
        yield SimpleNamespace(
            client=client, app=app, monitor=monitor, answers=answers, users=users, folder=folder
        )


def ask(client: TestClient, user: int) -> dict:
    answer = client.get("/v1/recommendations", params={"user_id": user, "k": 10})
    assert answer.status_code == 200
    return answer.json()


def exported(client: TestClient) -> dict[str, float]:
    lines = client.get("/metrics").text.splitlines()
    return {
        name: float(value)
        for name, value in (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    }


def test_shown_rows_and_scores_reach_the_window(running):
    window = running.monitor._drift.window()
    assert len(window.rows) == sum(len(answer["items"]) for answer in running.answers)
    assert window.n_clusters == 40
    scores = [item["score"] for answer in running.answers for item in answer["items"]]
    np.testing.assert_allclose(window.rows[:, -1], scores, rtol=1e-6)
    assert not window.stale.any()


def test_both_references_are_there_and_the_launch_is_kept_for_a_restart(running):
    assert running.monitor.describe()["references"] == ["launch", "training"]
    assert (running.folder / f"launch-{running.monitor._version}.npz").is_file()


def test_gauges_cover_every_feature_under_both_references(running):
    found = exported(running.client)
    for reference in ("training", "launch"):
        for name in SCHEMA.names:
            assert f'drift_psi{{feature="{name}",reference="{reference}"}}' in found
        assert f'prediction_psi{{reference="{reference}"}}' in found
    assert found["drift_window_rows"] == len(running.monitor._drift.window().rows)
    assert abs(found["drift_last_report_timestamp_seconds"] - time.time()) < 60


def test_the_launch_itself_has_not_drifted(running):
    """Thirty of the forty lists are the reference of all forty."""
    assert running.monitor.reports["launch"].ready
    assert running.monitor.reports["launch"].findings == ()


def test_operations_show_the_findings(running):
    shown = running.client.get("/v1/operations").json()["monitor"]
    assert shown["version"] == running.monitor._version
    assert set(shown["findings"]) == {"training", "launch"}


def test_an_event_answers_the_list_and_counts_once(running):
    user, answer = running.users[0], running.answers[0]
    watched = answer["items"][2]["item_id"]
    before = running.monitor._labels.n_answered
    for event_id, item_id, later in [
        ("m-1", watched, 0),
        ("m-2", answer["items"][0]["item_id"], 9),
    ]:
        event = {"event_id": event_id, "user_id": user, "item_id": item_id, "event_type": "watch"}
        event["timestamp"] = running.app.state.engine.clock.now() + later
        assert running.client.post("/v1/events", json=event).status_code == 200
    assert running.monitor._labels.n_answered == before + 1
    scores, outcomes, users = running.monitor._labels.answered()
    assert (outcomes[-10:] == (np.arange(10) == 2)).all()
    assert (users[-10:] == user).all()
    np.testing.assert_allclose(scores[-10:], [item["score"] for item in answer["items"]], rtol=1e-6)
    assert list(running.monitor._events)[-2:] == [watched, answer["items"][0]["item_id"]]


def test_a_broken_column_is_found_named_and_exported_then_gone(running, caplog):
    monitor = running.monitor
    rows = monitor._drift.window().rows.copy()
    gap = SCHEMA.names.index("genre_affinity")
    rows[:, gap] = 0.125
    for user in range(40):
        monitor._drift.observe(rows[user * 10 : user * 10 + 10], user)
    monitor._drift.observe(rows[:200], 41)
    monitor._drift.clear()
    for user in range(40):
        monitor._drift.observe(rows[user * 10 : user * 10 + 10], user)
    monitor.refresh()
    series = 'drift_severity{feature="genre_affinity",kind="constant",reference="launch"}'
    assert exported(running.client)[series] == 2
    assert "alert: genre_affinity (user_item, ask video_recommendation.features): constant" in (
        caplog.text
    )
    caplog.clear()
    monitor.refresh()
    assert "genre_affinity" not in caplog.text  # told once
    monitor._drift.clear()
    for user in running.users:
        ask(running.client, user)
    monitor.refresh()
    assert series not in exported(running.client)


def test_rows_that_the_store_could_not_give_make_activity_stale():
    item = RecommendedItem(0, 0.5, "", (), features_as_of=1000)
    features = np.zeros((3, len(SCHEMA)), dtype=np.float32)
    items = [item, replace(item, features_as_of=-1), replace(item, features_as_of=700)]
    rows, stale = shown_matrix(items, features, now=1060)
    assert rows.shape == (3, len(SCHEMA) + 1)
    np.testing.assert_array_equal(stale.any(axis=1), [False, True, True])
    names = np.array([column.name for column in monitored_columns()])
    assert set(names[stale[1]]) == set(ACTIVITY)


def test_a_launch_sample_is_uniform_and_waits_for_its_time(monkeypatch):
    columns = (Monitored("x"),)
    monkeypatch.setattr(
        "video_recommendation.monitoring.monitor.monitored_columns", lambda: columns
    )
    sample = LaunchSample(MonitorSettings(launch_lists=200, launch_s=0))
    for user in range(2000):
        sample.observe(np.full((1, 1), user, dtype=np.float32), user)
    users = np.array([user for _, user in sample._lists])
    assert len(users) == 200
    assert abs(users.mean() - 1000) < 4 * 577 / np.sqrt(200)
    assert sample.profile() is not None
    assert LaunchSample(MonitorSettings(launch_lists=0, launch_s=60)).profile() is None


def test_a_new_version_starts_with_none_of_the_old_ones_rows(running, tiny_system):
    engine = running.app.state.engine
    other = load_bundle(tiny_system.bundle)
    other.version, other.reference = "another", None
    engine.install(other)
    ask(running.client, running.users[0])
    running.monitor.refresh()
    assert len(running.monitor._drift.window().rows) == 10
    assert running.monitor.describe()["references"] == []
    assert running.monitor._version == "another"


def test_closing_unhooks(tiny_system, tmp_path):
    from ml_platform.serving.metrics import ServiceMetrics
    from video_recommendation.serving.engine import ServingEngine

    engine = ServingEngine(
        load_bundle(tiny_system.bundle), ServingSettings(tmp_path), ServiceMetrics()
    )
    monitor = ModelMonitor(engine)
    assert engine.observers == [monitor]
    monitor.close()
    assert engine.observers == []
    engine.close()
