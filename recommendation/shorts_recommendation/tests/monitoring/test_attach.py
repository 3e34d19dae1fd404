"""The monitor on a running service: it hears of everything and never costs an answer."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from fastapi.testclient import TestClient

sys.path.insert(0, str(Path(__file__).parents[1] / "serving"))

from tiny_feed import DATA_END, N_VIDEOS, TinyRecommender, serving_config

from shorts_recommendation.counters import VideoCounters
from shorts_recommendation.monitoring.attach import watch_feed
from shorts_recommendation.monitoring.monitor import MonitorSettings
from shorts_recommendation.serving.app import create_app
from shorts_recommendation.serving.settings import ServingSettings


class Tiny(TinyRecommender):
    """With counters of the half-lives that its configuration names."""

    def new_counters(self) -> VideoCounters:
        state = self.config.state
        return VideoCounters(N_VIDEOS, state.counter_half_lives_h, 900, DATA_END - 900)


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[SimpleNamespace]:
    """A feed with a monitor, and the same folder again after a restart."""
    clients: list[TestClient] = []

    def start() -> SimpleNamespace:
        serving = ServingSettings(tmp_path, serving_config(), refresh_s=0.05)
        settings = MonitorSettings(interval_s=3600, every=1)
        app = watch_feed(create_app(Tiny(), serving), settings=settings)
        client = TestClient(app)
        client.__enter__()
        clients.append(client)
        end = time.monotonic() + 20
        while client.get("/readyz").status_code != 200:
            assert time.monotonic() < end
        return SimpleNamespace(client=client, app=app, monitor=app.state.monitor)

    def stop() -> None:
        clients.pop().__exit__(None, None, None)

    yield SimpleNamespace(start=start, stop=stop)
    while clients:
        stop()


def value(served: SimpleNamespace, name: str, **labels: str) -> float:
    found = served.monitor.registry.get_sample_value(name, labels)
    assert found is not None, name
    return found


def send(served: SimpleNamespace, number: int, watch_s: float) -> None:
    event = {"event_id": f"e{number}", "user_id": 3, "video_id": 11, "watch_s": watch_s}
    assert served.client.post("/v1/events", json=event).status_code == 200


def test_slates_and_events_are_heard_of(watched):
    served = watched.start()
    assert served.client.get("/v1/feed?user_id=3&k=5").status_code == 200
    made = value(served, "feed_slots_total", reason="relevance")
    assert made >= 5
    send(served, 1, 1.0)
    assert value(served, "feed_watched_total", outcome="skip") == 1
    assert value(served, "feed_watched_total", outcome="shown") == 1
    assert served.client.get("/v1/feed?user_id=3&k=5").status_code == 200
    assert value(served, "feed_event_effect_seconds_count") == 1
    assert value(served, "feed_event_effect_seconds_sum") < 5
    assert 0 <= value(served, "feed_snapshot_age_seconds") < 1_800


def test_events_of_a_replay_are_no_news(watched):
    served = watched.start()
    send(served, 1, 19.0)
    watched.stop()
    again = watched.start()
    assert value(again, "feed_watched_total", outcome="shown") == 0
    send(again, 2, 19.0)
    assert value(again, "feed_watched_total", outcome="long_view") == 1


def test_a_monitor_that_raises_is_counted_and_nothing_else(watched, monkeypatch):
    served = watched.start()
    monkeypatch.setattr(served.monitor, "slates_made", None)
    monkeypatch.setattr(served.monitor, "events_applied", None)
    assert len(served.client.get("/v1/feed?user_id=5&k=5").json()["items"]) == 5
    send(served, 1, 5.0)
    assert value(served, "observer_failures_total", observer="FeedMonitor") >= 2


def test_what_is_compared_is_what_was_shown(watched):
    served = watched.start()
    items = served.client.get("/v1/feed?user_id=4&k=5").json()["items"]
    served.monitor.refresh()
    window = served.monitor.watch.drift.window()
    assert len(window.rows) >= 5
    duration = float(np.log(20.0))
    assert window.rows[:, 0] == pytest.approx(np.full(len(window.rows), duration))
    assert items
