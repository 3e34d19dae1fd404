"""Agreement of lists, intervals, verdicts; against hand counts, scipy and statsmodels."""

from __future__ import annotations

import numpy as np
import pytest
import statsmodels.api as sm
from scipy import stats

from ml_platform.operations.shadow_answers import (
    agreement,
    overlap_at,
    rank_biased_overlap,
    rubbish_reason,
)
from ml_platform.operations.shadow_intervals import cluster_mean, percentile
from ml_platform.operations.shadow_report import ShadowReport, failure_share


def test_overlap_by_hand():
    assert overlap_at([1, 2, 3, 4], [4, 3, 9, 8], 4) == 0.5
    assert overlap_at([1, 2, 3, 4], [4, 3, 9, 8], 2) == 0.0
    assert overlap_at([1, 2], [2, 1, 7, 8], 10) == 0.5  # of four places that the longer list has
    assert overlap_at([], [], 10) == 1.0


def test_rbo_by_hand():
    # agreement 1/1, 1/2, 3/3 at p = 0.5: 0.5 (1 + 0.25 + 0.25) + 0.125 * 1
    assert rank_biased_overlap([1, 2, 3], [1, 3, 2], 0.5) == pytest.approx(0.875)
    assert rank_biased_overlap([1, 2, 3], [1, 2, 3]) == pytest.approx(1.0)
    assert rank_biased_overlap([1, 2, 3], [4, 5, 6]) == 0.0
    assert rank_biased_overlap([], []) == 1.0
    assert rank_biased_overlap([], [1]) == 0.0


def test_rbo_is_the_definitions_sum_when_lists_go_on():
    rng = np.random.default_rng(0)
    a, b = rng.permutation(300).tolist(), rng.permutation(300).tolist()
    p = 0.9
    agreements = [len(set(a[:d]) & set(b[:d])) / d for d in range(1, 301)]
    plain = (1 - p) * sum(p ** (d - 1) * agreed for d, agreed in enumerate(agreements, 1))
    assert rank_biased_overlap(a, b, p) == pytest.approx(plain, abs=1e-12)


def test_tau_looks_at_common_items_only():
    rng = np.random.default_rng(1)
    a, b = rng.permutation(30)[:20].tolist(), rng.permutation(30)[:20].tolist()
    common = sorted(set(a) & set(b))
    ranks = [[a.index(i) for i in common], [b.index(i) for i in common]]
    expected = stats.kendalltau(*ranks).statistic
    assert agreement(a, b).tau == pytest.approx(expected)
    assert agreement(a, b).n_common == len(common)
    assert agreement([1, 2, 3], [3, 2, 1]).tau == -1.0
    assert agreement([1, 2], [2, 7]).tau is None


def test_cluster_mean_is_that_of_statsmodels():
    rng = np.random.default_rng(2)
    users = rng.integers(0, 25, 300)
    values = rng.normal(size=300) + rng.normal(size=25)[users]
    fit = sm.OLS(values, np.ones(300)).fit(
        cov_type="cluster", cov_kwds={"groups": users}, use_t=True
    )
    found = cluster_mean(values, users)
    assert found.value == pytest.approx(fit.params[0])
    assert [found.low, found.high] == pytest.approx(fit.conf_int()[0])
    assert cluster_mean(np.array([1.0, 3.0]), np.array([7, 7])).low is None


def test_percentile_interval_covers_as_promised():
    rng = np.random.default_rng(3)
    truth = stats.expon.ppf(0.95)
    found = [percentile(rng.exponential(size=400), 95) for _ in range(400)]
    covered = np.mean([one.low <= truth <= one.high for one in found])
    assert 0.93 <= covered <= 0.99
    assert percentile(np.arange(20.0), 99).low is None  # nothing lies above the last value


def record(n, *, user=None, ms=10.0, items=(1, 2, 3, 4)):
    scores = [0.9, 0.8, 0.7, 0.6]
    user = n % 20 if user is None else user
    return {"request_id": f"r{n}", "user_id": user, "items": np.array(items), "scores": scores,
            "total_ms": ms, "blocked": []}  # fmt: skip


def answer(items=(1, 2, 3, 4), ms=11.0):
    scores = [0.8, 0.7, 0.6, 0.5]
    return {"items": list(items), "scores": scores, "elapsed_ms": ms, "cpu_ms": ms / 2}


def filled(answers, records=None):
    report = ShadowReport()
    for n, one in enumerate(answers):
        report.add(record(n) if records is None else records[n], one)
    return report


def test_a_report_by_hand():
    report = filled([answer((1, 2, 3, 9))] * 150)
    found = report.summary({"taken": 160, "answered": 150, "dropped": 10})
    assert (found.n_pairs, found.n_users, found.verdict) == (150, 20, "go on")
    assert found.agreement["overlap@10"].value == 0.75
    assert found.agreement["tau"].value == pytest.approx(1.0)
    assert found.scores["production"][2] == pytest.approx(0.75)
    assert found.score_ks == pytest.approx(0.25)  # the same steps, moved by one of four
    assert found.latency_ms["production"]["p50"].value == 10.0
    assert found.latency_ms["candidate_cpu"]["p95"].value == 5.5
    assert found.failures.value == 0.0
    text = found.table()
    assert "verdict: go on: nothing here speaks against a canary" in text
    assert "dropped 10" in text
    assert found.as_dict()["agreement"]["rbo"]["n"] == 150


@pytest.mark.parametrize(
    ("report", "counts", "verdict", "words"),
    [
        (filled([answer()] * 30), {"answered": 30}, "look", "only 30 pairs"),
        (filled([answer()] * 150), {"answered": 150}, "look", "both answer the same"),
        (filled([answer((4, 3, 2, 1))] * 150), {"answered": 150}, "stop", "reverse order"),
        (filled([answer((5, 6, 7, 8))] * 150), {"answered": 150}, "look", "right sign?"),
        (filled([answer(ms=25.0)] * 150), {"answered": 150}, "stop", "25.0 ms against 10.0 ms"),
        (filled([answer((1, 2, 3, 9))] * 150), {"answered": 150, "rubbish_bad_score": 12}, "stop",
         "7.4% of requests"),
        (filled([]), {"start": 20}, "stop", "no usable answer"),
    ],
)  # fmt: skip
def test_the_verdict_names_what_should_stop_one(report, counts, verdict, words):
    found = report.summary(counts)
    assert found.verdict == verdict
    assert words in "; ".join(found.reasons)


def test_a_closed_lane_is_a_reason_to_stop():
    found = filled([answer((1, 2, 3, 9))] * 150).summary({"answered": 150}, "20 failures in a row")
    assert found.verdict == "stop"
    assert found.reasons[0] == "the lane closed: 20 failures in a row"


def test_failure_share_counts_every_kind_once():
    counts = {"answered": 90, "timeout": 4, "raised": 3, "rubbish_bad_score": 3, "dropped": 500,
              "restarts": 9}  # fmt: skip
    found = failure_share(counts)
    exact = stats.binomtest(10, 100).proportion_ci(0.95)
    assert (found.value, found.n) == (0.1, 100)
    assert (found.low, found.high) == pytest.approx((exact.low, exact.high))
    assert failure_share({}).n == 0


def test_old_pairs_make_room():
    report = ShadowReport(max_pairs=10)
    for n in range(25):
        report.add(record(n), answer())
    assert report.summary({}).n_pairs == 10


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({}, None),
        ({"request_id": "r2"}, "wrong_request"),
        ({"items": None}, "bad_shape"),
        ({"items": [1, 2, True]}, "bad_shape"),
        ({"items": [1, 2, "3"]}, "bad_shape"),
        ({"scores": [0.1]}, "bad_shape"),
        ({"scores": [0.1, 0.2, None]}, "bad_score"),
        ({"scores": [0.1, 0.2, float("inf")]}, "bad_score"),
        ({"elapsed_ms": None}, "bad_time"),
        ({"cpu_ms": -1}, "bad_time"),
        ({"items": [1, 2, 99]}, "unknown_item"),
        ({"items": [1, 2, 2]}, "duplicate_item"),
        ({"items": [1, 2, 8]}, "blocked_item"),
        ({"items": [1, 2], "scores": [0.1, 0.2]}, "too_few"),
    ],
)
def test_rubbish_is_named(change, reason):
    request = {"request_id": "r1", "items": np.array([5, 6, 7]), "blocked": np.array([8])}
    good = {"request_id": "r1", "items": [1, 2, 3], "scores": [0.3, 0.2, 1], "elapsed_ms": 1.0,
            "cpu_ms": 1}  # fmt: skip
    found = rubbish_reason(request, {**good, **change}, knows=lambda item: item < 10)
    assert found == reason


@pytest.mark.parametrize("rubbish", [None, 3, "text", [], [1, 2]])
def test_rubbish_of_any_type_is_refused(rubbish):
    request = {"request_id": "r1", "items": [], "blocked": []}
    assert rubbish_reason(request, rubbish, knows=lambda item: True) == "not_an_object"
