"""The monitor, and rules that name only what a running service exports."""

from __future__ import annotations

import re
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from alert_rules import Samples, rules_of, samples_of, selectors, unknown_in
from handmade import encoded, gradient
from prometheus_client import CollectorRegistry
from starlette.testclient import TestClient
from test_serving_api import ADMIN, IMAGES, added, by_picture, client_of
from tiny_search import make_test_searcher

from image_search.monitoring.monitor import MonitorSettings, QueryMonitor, principal
from image_search.searcher import Answer, Filters
from image_search.serving.metrics import REFUSALS
from image_search.serving.queries import Query
from image_search.serving.settings import Found

FOLDER = Path(__file__).resolve().parents[3] / "monitoring" / "image_search"
SETTINGS = MonitorSettings(interval_s=3600, window=300, launch=100, gallery=100, directions=3)


def monitor() -> QueryMonitor:
    return QueryMonitor(CollectorRegistry(), make_test_searcher(IMAGES), SETTINGS)


def show(watched: QueryMonitor, vectors: np.ndarray, best: float | None = 0.97) -> None:
    for vector in vectors:
        rows = np.array([0] if best is not None else [], np.int64)
        values = np.full(len(rows), best or 0.0, np.float32)
        query = Query("image", 1, Filters(), picture=IMAGES.images[0])
        watched.saw(query, Found(Answer(rows, values, values), vector, {}, 1))


# --- the monitor ---


def test_directions_are_those_of_an_eigendecomposition():
    vectors = np.random.default_rng(0).normal(size=(60, 5)) * [5, 3, 2, 1, 0.5]
    middle, found = principal(vectors, 3)
    values, columns = np.linalg.eigh(np.cov(vectors.T))
    best = columns[:, np.argsort(-values)[:3]].T
    np.testing.assert_allclose(abs((found * best).sum(axis=1)), 1, atol=1e-9)
    np.testing.assert_allclose(middle, vectors.mean(axis=0))
    assert principal(vectors[:2], 8)[1].shape[0] == 2


def test_the_same_queries_are_no_drift_and_others_are():
    watched = monitor()
    vectors = make_test_searcher(IMAGES).spaces["image"].vectors
    rng = np.random.default_rng(1)
    best = np.sort(vectors @ vectors.T, axis=1)[:, -2]
    for row in rng.permutation(np.tile(np.arange(100), 3)):
        show(watched, vectors[row : row + 1], float(best[row]))
    watched.refresh()  # the launch sample is full
    watched.refresh()
    described = watched.describe()
    assert described["launch"] == {"queries": 300, "ready": True, "findings": []}
    assert described["catalogue"]["findings"] == []

    for row in rng.integers(100, size=300):
        show(watched, -vectors[row : row + 1], float(rng.uniform(0.1, 0.5)))
    watched.refresh()
    for reference in ("catalogue", "launch"):
        findings = watched.describe()[reference]["findings"]
        assert any(line.startswith("alert: direction_0: shift") for line in findings)
        assert any("best_similarity: prediction" in line for line in findings)
    severity = watched.watch.series.severity.labels("direction_0", "shift", "launch")
    assert severity._value.get() == 2


def test_few_queries_say_nothing_and_words_are_not_compared():
    watched = monitor()
    vectors = make_test_searcher(IMAGES).spaces["image"].vectors
    show(watched, -vectors[:5], 0.1)
    watched.refresh()
    assert watched.describe()["catalogue"] == {"queries": 5, "ready": False, "findings": []}
    words = Query("text", 1, Filters(), text="ring")
    watched.saw(words, Found(Answer(np.zeros(0, int), np.zeros(0), np.zeros(0)), vectors[0], {}, 1))
    watched.refresh()
    assert watched.describe()["catalogue"]["queries"] == 5


def test_an_answer_without_results_is_a_missing_similarity():
    watched = monitor()
    vectors = make_test_searcher(IMAGES).spaces["image"].vectors
    show(watched, vectors, None)
    watched.refresh()
    findings = watched.describe()["catalogue"]["findings"]
    assert any("best_similarity: missing" in line for line in findings)


def test_the_thread_reports_until_the_monitor_is_closed():
    searcher = make_test_searcher(IMAGES)
    watched = QueryMonitor(CollectorRegistry(), searcher, MonitorSettings(interval_s=0.01))
    before = set(threading.enumerate())
    watched.start()
    end = time.monotonic() + 20
    while not watched.describe():
        assert time.monotonic() < end
        time.sleep(0.01)
    watched.close()
    assert set(threading.enumerate()) <= before


# --- the rules ---


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Samples:
    """Of a service that was used."""
    with client_of(tmp_path_factory.mktemp("scraped")) as client:
        use(client)
        return samples_of(client.get("/metrics").text)


def use(client: TestClient) -> None:
    """Queries, refusals, changes, a drift, an observer that fails."""
    assert by_picture(client, encoded(IMAGES.images[0])).status_code == 200
    assert by_picture(client, b"no").status_code == 415
    assert client.post("/v1/search", json={"text": "ring"}).status_code == 200
    item = added(client, encoded(gradient())).json()["item_id"]
    assert client.delete(f"/v1/items/{item}", headers=ADMIN).status_code == 200
    watched = client.app.state.monitor
    watched.watch.drift.references["launch"] = watched.watch.drift.references["catalogue"]
    vectors = client.app.state.engine.searcher.spaces["image"].vectors
    show(watched, -vectors[:100], 0.1)
    watched.refresh()
    client.app.state.engine.metrics.observer_failed(type(watched).__name__)


def test_every_metric_label_and_value_that_is_named_is_exported(samples: Samples):
    expressions = {rule["alert"]: rule["expr"] for rule in rules_of(FOLDER)}
    assert sum(len(named) for e in expressions.values() for _, named in selectors(e)) > 12
    for alert, expression in expressions.items():
        assert unknown_in(expression, samples) == [], alert


def test_reasons_of_refusals_are_bounded_and_known():
    expressions = [rule["expr"] for rule in rules_of(FOLDER)]
    named = {value for one in expressions for value in re.findall(r'reason=~"([^"]*)"', one)}
    assert named
    assert {reason for value in named for reason in value.split("|")} <= set(REFUSALS)
