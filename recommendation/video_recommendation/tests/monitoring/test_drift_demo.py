"""The demonstration on a tiny system: it runs and writes; each fault is what it claims to be."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console

from ml_platform.evaluation.results import Results
from ml_platform.operations.drift_causes import Finding
from video_recommendation.bundle import load_bundle
from video_recommendation.commands import Run
from video_recommendation.features import SCHEMA
from video_recommendation.monitoring import demo
from video_recommendation.monitoring.drift_replay import (
    ShownList,
    ask_each,
    detect,
    false_alarms,
    profile_of,
    watch_events,
)
from video_recommendation.monitoring.faults import (
    GAP,
    broken_upstream,
    burst_events,
    popularity_shift,
    sound,
    unit_change,
)


@pytest.fixture
def run(tiny_system, tmp_path) -> Run:
    (tmp_path / "latest").mkdir()
    (tmp_path / "latest" / "bundle").symlink_to(tiny_system.bundle)
    config = tiny_system.trained.recommender.config
    return Run(config, tmp_path, Console(record=True, width=140))


@pytest.mark.slow
def test_the_quick_demonstration_writes_and_says_that_it_is_quick(run, monkeypatch):
    monkeypatch.setattr(demo, "QUICK", demo.Sizes(100, 40, 80, 50, 2))
    demo.run_drift_demo(run, quick=True)
    printed = run.console.export_text()
    for words in ("unit change", "popularity shift", "broken upstream", "QUICK RUN", "SYNTHETIC"):
        assert words in printed
    folder = run.artifacts / "demonstrations"
    results = Results.read(folder / "drift.json")
    assert results.run.dataset.synthetic
    text = (folder / "drift.json").read_text()
    for key in ("undrifted/false_alarm_rate", "broken_upstream/named", "monitor/observe_us"):
        assert f"drift/{key}" in text
    assert (folder / "plots" / "drift_psi.png").read_bytes().startswith(b"\x89PNG")


def test_a_bundle_of_other_data_is_refused(run, tiny_system):
    data = run.load()
    recommender = load_bundle(tiny_system.bundle)
    assert demo.open_recommender(run, data).version == recommender.version
    others = replace(data.catalogue, item_ids=data.catalogue.item_ids + 1)
    with pytest.raises(ValueError, match="other items than"):
        demo.open_recommender(run, replace(data, catalogue=others))


@pytest.fixture(scope="module")
def few(tiny_system):
    """Sound and broken answers to the same twenty requests."""
    data = tiny_system.data
    queries = demo._request_parts(data, demo.Sizes(20, 10, 0, 1, 1), np.random.default_rng(0))[0]
    served = sound(load_bundle(tiny_system.bundle), data)
    burst = burst_events(data, np.random.default_rng(0))
    systems = {
        "sound": served,
        "unit": unit_change(served),
        "burst": popularity_shift(served, *burst),
        "stopped": broken_upstream(served, data),
    }
    return {name: ask_each(one, data, queries, lambda _: None) for name, one in systems.items()}


def test_the_unit_change_divides_under_the_logarithm_and_touches_nothing_else(few):
    for one, two in zip(few["sound"], few["unit"], strict=True):
        expected = np.log1p(np.expm1(one.rows[0, GAP].astype(float)) / 60)
        np.testing.assert_allclose(two.rows[:, GAP], expected, rtol=1e-4)
        assert (
            two.rows[0, SCHEMA.names.index("history_length")]
            == (one.rows[0, SCHEMA.names.index("history_length")])
        )


def test_stopped_counters_fall_behind_and_a_burst_adds(few, tiny_system):
    week = SCHEMA.names.index("log_count_7d")
    mean = {name: np.mean([x.rows[:, week].mean() for x in lists]) for name, lists in few.items()}
    assert mean["stopped"] < mean["sound"]
    data = tiny_system.data
    items, moments = burst_events(data, np.random.default_rng(0))
    assert len(np.unique(items)) == 5
    served = sound(load_bundle(tiny_system.bundle), data)
    more = popularity_shift(served, items, moments).counter
    assert len(more) == len(served.counter) + len(items)
    assert few["sound"][0].stale.sum() == 0


def lists_of(n: int, rng: np.random.Generator, shift: float = 0.0) -> list[ShownList]:
    n_columns = len(SCHEMA) + 1
    return [
        ShownList(
            rng.normal(shift, 1, (5, n_columns)).astype(np.float32),
            np.zeros((5, n_columns), dtype=bool),
            user,
            np.zeros(5, dtype=bool),
        )
        for user in range(n)
    ]


def test_detection_counts_requests_from_the_fault_on():
    rng = np.random.default_rng(0)
    profile = profile_of(lists_of(400, rng))
    found = detect(
        profile, lists_of(60, rng), lists_of(60, rng, 3.0), lambda r: len(r.findings) > 25
    )
    assert found.seen is not None
    assert found.named is not None
    assert 10 <= found.seen <= found.named <= 60
    quiet = detect(profile, lists_of(60, rng), lists_of(60, rng), lambda r: bool(r.findings))
    assert (quiet.seen, quiet.named) == (None, None)


def test_false_alarms_are_counted_window_by_window():
    alarms = false_alarms(
        lists_of(200, np.random.default_rng(0)), n_reference=100, n_window=30, n_splits=3, seed=0
    )
    assert len(alarms) == 3 * 3
    assert alarms.sum() <= 1


def test_the_burst_is_named_in_the_events_only(tiny_system):
    data = tiny_system.data
    burst = burst_events(data, np.random.default_rng(0))
    reference = load_bundle(tiny_system.bundle).reference
    watch = watch_events(reference.concentration, data, burst, "o")
    assert not watch.sound.any()
    assert isinstance(watch.finding, Finding)
    assert watch.delay is not None
    assert watch.delay <= reference.concentration.block
