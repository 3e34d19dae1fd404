"""What shadowing and logging cost: the arithmetic by hand, and one short real run."""

from __future__ import annotations

import numpy as np
import pytest

from ml_platform.evaluation.results import Results
from video_recommendation.rollout.overhead import compare, measure_overhead, record_overhead


def test_the_ratio_is_the_geometric_mean_of_pairs():
    """A machine that is three times as slow in the second pair changes neither ratio."""
    off = [np.full(100, 10.0), np.full(100, 30.0)]
    on = [np.full(100, 11.0), np.full(100, 33.0)]
    found = compare(off, on, 100.0, 0.1, 0, {"dropped": 2})
    for name in ("p50", "p99"):
        assert found.ratio[name].value == pytest.approx(1.1)
        assert found.ratio[name].low == pytest.approx(1.1)
        assert found.ratio[name].n == 2
    assert found.off_ms["p50"] == pytest.approx(20.0)
    assert found.n_requests == 400
    assert "ratio 1.100" in found.table()


def test_pairs_that_disagree_give_an_interval_around_the_middle():
    off = [np.full(50, 10.0)] * 4
    on = [np.full(50, value) for value in (8.0, 12.5, 8.0, 12.5)]
    ratio = compare(off, on, 100.0, 0.1, 0, {}).ratio["p50"]
    assert ratio.value == pytest.approx(1.0)
    assert ratio.low < 0.9 < 1.1 < ratio.high


def test_one_pair_has_no_interval():
    ratio = compare([np.ones(9)], [np.ones(9) * 2], 1.0, 0.1, 0, {}).ratio["p99"]
    assert (ratio.value, ratio.low, ratio.high) == (2.0, None, None)


def test_a_short_run_on_a_real_server(tiny_system, tmp_path):
    found = measure_overhead(tiny_system.bundle, rate_qps=30.0, share=1.0, pairs=1, seconds=0.7)
    assert found.n_failed == 0
    assert found.shadow_counts["answered"] >= 10
    assert 0.1 < found.ratio["p50"].value < 10
    results = Results.start(
        system="video_recommendation",
        config={},
        dataset_name="synthetic",
        dataset_sha256="0" * 64,
        synthetic=True,
        seed=0,
        root=tmp_path,
    )
    record_overhead(results, found)
    assert results["overhead/shadow_and_log/p50_ratio"].value == found.ratio["p50"].value
    assert "100% shadowed" in results["overhead/shadow_and_log/p50_ratio"].protocol
