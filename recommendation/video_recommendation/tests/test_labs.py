"""Each lab on a tiny configuration: what is broken is worse, what is fixed is well again."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import typer
from rich.console import Console
from scipy.stats import hypergeom
from tiny_system import TINY

from feature_engineering.counters import EventCounter
from ml_platform.evaluation.intervals import Estimate
from ml_platform.evaluation.lab import LabReport, written
from ml_platform.evaluation.progress import Silent
from ml_platform.evaluation.results import Results
from video_recommendation.artifacts import SYSTEM_FOLDER
from video_recommendation.commands import Run
from video_recommendation.config import Config
from video_recommendation.data import SystemData, load_data
from video_recommendation.labs import (
    label_leakage,
    popularity_collapse,
    position_bias,
    sampled_metrics,
    stale_index,
    train_serve_skew,
)
from video_recommendation.labs.clicks import (
    ClickSettings,
    draw_clicks,
    examination_from_swaps,
    fit_logistic,
)
from video_recommendation.labs.closed_loop import LoopSettings, concentration, fill
from video_recommendation.labs.command import LABS, run_lab
from video_recommendation.labs.funnel import Funnel, FunnelSettings, build_funnel
from video_recommendation.labs.sampled_ndcg import Places, places

# Tastes count for much and popularity for little, so that a few epochs learn something.
CONFIG = Config.model_validate(
    {
        **TINY.model_dump(mode="json"),
        "data": {
            "dataset": "synthetic",
            "synthetic": {
                "n_users": 200,
                "n_items": 400,
                "n_interactions": 12_000,
                "days": 120,
                "n_factors": 4,
                "taste_strength": 4.0,
                "zipf_exponent": 0.4,
                "position_bias": 0.2,
                "seed": 1,
            },
        },
        "two_tower": {"pooling": "recency", "batch_size": 64, "n_uniform": 128},
    }
)
SMALL = FunnelSettings(embedding_dim=16, epochs=2, train_queries=300, test_queries=250, n_trees=20)


@pytest.fixture(scope="module")
def data() -> SystemData:
    return load_data(CONFIG.data)


@pytest.fixture(scope="module")
def funnel(data: SystemData) -> Funnel:
    return build_funnel(data, CONFIG, SMALL, Silent())


def interval(report: LabReport, variant: str, key: str) -> Estimate:
    for comparison in (report.main, *report.more):
        for symptom in comparison.symptoms:
            if symptom.key == key and variant in symptom.values:
                found = symptom.values[variant]
                assert isinstance(found, Estimate)
                return found
    raise KeyError((variant, key))


# --- label leakage ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def leak(data: SystemData) -> LabReport:
    return label_leakage.measure(data, CONFIG, Silent(), SMALL)


def test_a_leak_lifts_the_offline_metric_and_lowers_the_served_one(leak: LabReport) -> None:
    honest = leak.value("healthy", "offline_ndcg@10")
    assert leak.value("broken", "offline_ndcg@10") > 1.3 * honest
    assert leak.value("broken", "served_ndcg@10") < honest
    assert interval(leak, "broken", "gap_ndcg@10").low > 0  # type: ignore[operator]
    assert leak.value("fixed", "gap_ndcg@10") == 0
    assert leak.value("fixed", "served_ndcg@10") > leak.value("broken", "served_ndcg@10")


def test_a_leak_is_seen_without_labels(leak: LabReport) -> None:
    assert leak.value("healthy", "changed_share") == leak.value("fixed", "changed_share") == 0
    assert leak.value("broken", "changed_share") > 0.05
    assert leak.value("broken", "feature_auc") > leak.value("healthy", "feature_auc") + 0.1


@pytest.mark.parametrize("name", ["broken", "leak_open_minute", "leak_lifetime", "healthy"])
def test_served_is_what_the_log_of_that_second_holds(
    name: str, funnel: Funnel, data: SystemData
) -> None:
    window, log = label_leakage.WINDOWS[name], data.log
    served = window.served(funnel.proposer.retriever.counter, funnel.test)
    some = np.linspace(0, len(served) - 1, 40).astype(int)
    for row in some:
        now = funnel.test.now[row : row + 1]
        known = log.timestamp < now[0]
        counter = EventCounter(log.item_idx[known], log.timestamp[known], n_items=log.n_items)
        item = funnel.test.examples.item_idx[row : row + 1]
        count = counter.between(item, window.begin(now), window.end(now))
        assert served[row] == np.log1p(count).astype(np.float32)[0]


# --- train-serve skew ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def skew(data: SystemData) -> LabReport:
    return train_serve_skew.measure(data, CONFIG, Silent(), SMALL)


def test_a_skew_raises_no_error_and_parity_names_it(skew: LabReport) -> None:
    assert skew.value("broken", "not_finite") == skew.value("healthy", "not_finite") == 0
    assert skew.value("broken", "rows_that_differ") > 0.5
    assert skew.value("fixed", "rows_that_differ") == 0
    assert skew.value("fixed", "ndcg@10") == skew.value("healthy", "ndcg@10")


def test_drift_sees_a_unit_and_is_blind_to_a_wrong_row(skew: LabReport) -> None:
    assert skew.value("minutes", "drift_names_it") == 1
    assert skew.value("minutes", "psi") > 1
    assert skew.value("row_above", "drift_names_it") == 0
    assert skew.value("row_above", "rows_that_differ") > 0.5
    # Generated tastes have no recency for "newest first" to spoil; a wrong row spoils any data.
    assert skew.value("row_above", "difference_ndcg@10") < 0


# --- stale index --------------------------------------------------------------------------------


def test_a_stale_index_answers_everything_and_knows_nothing(data: SystemData) -> None:
    report = stale_index.measure(data, CONFIG, Silent(), replace(SMALL, epochs=3))
    healthy, broken, fixed = (
        report.value(name, "recall@100") for name in ("healthy", "broken", "fixed")
    )
    assert broken < 0.75 * min(healthy, fixed)
    assert broken < 1.5 * report.value("broken", "chance")
    assert (
        report.value("broken", "answered_share") == report.value("healthy", "answered_share") == 1
    )
    assert report.value("broken", "self_retrieval") < 0.1
    assert report.value("fixed", "self_retrieval") == 1
    refused = [report.value(name, "refused") for name in ("healthy", "broken", "fixed")]
    assert refused == [0, 1, 0]
    assert "does not belong to the item vectors" in report.alarm


# --- popularity collapse ------------------------------------------------------------------------


def test_a_greedy_loop_collapses_and_weighted_exploration_holds() -> None:
    settings = LoopSettings(n_users=100, n_items=80, n_new_items=4, n_days=12, n_worlds=3)
    report = popularity_collapse.measure(settings, Silent())
    for key, sign in (("coverage", 1), ("effective_items", 1), ("gini", -1), ("new_items", 1)):
        broken = sign * report.value("broken", key)
        assert broken < sign * report.value("healthy", key)
        assert broken < sign * report.value("fixed", key)
    assert report.value("broken", "click_rate") > report.value("healthy", "click_rate")
    assert report.value("fixed", "effective_items") > report.value(
        "explore_only", "effective_items"
    )


def test_the_exploring_place_is_drawn_from_the_rest_with_its_propensity() -> None:
    scores = np.tile(np.arange(6.0), (4000, 1))  # best first: 5, 4, 3, ...
    lists, propensity = fill(scores, 3, True, np.random.default_rng(0))
    assert (lists[:, :2] == [5, 4]).all()
    assert propensity[0].tolist() == [1, 1, 0.25]
    shares = np.bincount(lists[:, 2], minlength=6) / 4000
    assert shares[4:].tolist() == [0, 0]
    np.testing.assert_allclose(shares[:4], 0.25, atol=0.03)


def test_concentration_of_hand_made_lists() -> None:
    lists = np.array([[0, 1], [0, 1]])  # two of four items, equally often
    coverage, effective, gini = concentration(lists, 4)
    assert (coverage, effective, gini) == (0.5, 2.0, 0.5)


# --- position bias ------------------------------------------------------------------------------


def test_clicks_teach_the_old_order_and_weights_unlearn_it() -> None:
    report = position_bias.measure(ClickSettings(n_requests=20_000, swapped=0.3), Silent())
    assert report.value("broken", "weight_freshness") > 0.5
    assert abs(report.value("fixed", "weight_freshness")) < 0.15
    assert report.value("broken", "watches") < 0.95 * report.value("healthy", "watches")
    assert report.value("fixed", "watches") > 0.99 * report.value("healthy", "watches")
    assert report.value("position_feature", "watches") > 0.98 * report.value("healthy", "watches")
    # The offline test on clicks prefers the ranker that is worse.
    assert report.value("broken", "click_ndcg@10") > report.value("fixed", "click_ndcg@10") + 0.03


def test_swaps_find_the_examination_curve() -> None:
    clicks = draw_clicks(ClickSettings(n_requests=60_000, swapped=1.0), seed=3)
    swaps = examination_from_swaps(clicks)
    covered = [
        e.low <= truth <= e.high  # type: ignore[operator]
        for e, truth in zip(swaps, clicks.examined, strict=True)
    ]
    assert sum(covered) >= 8  # of ten 95% intervals
    assert swaps[-1].value < 0.2


def test_swaps_without_clicks_are_refused() -> None:
    clicks = draw_clicks(ClickSettings(n_requests=50), seed=0)
    with pytest.raises(ValueError, match="log more"):
        examination_from_swaps(clicks)


def test_logistic_weights_solve_the_normal_equations() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((5000, 3))
    truth = np.array([1.0, -0.5, 0.0])
    labels = (rng.random(5000) < 1 / (1 + np.exp(-x @ truth))).astype(np.float64)
    weight = fit_logistic(x, labels)
    np.testing.assert_allclose(weight, truth, atol=0.12)
    residual = x.T @ (1 / (1 + np.exp(-x @ weight)) - labels)
    np.testing.assert_allclose(residual, 0, atol=1e-2)


# --- sampled metrics ----------------------------------------------------------------------------


def hand_made(above: list[int], n: int = 1600) -> Places:
    size = len(above)
    share = np.array(above) / n
    return Places(np.array(above), np.full(size, n), share, np.arange(size, dtype=np.int32))


def test_a_sharp_top_wins_on_the_catalogue_and_loses_on_the_sample() -> None:
    sharp, even = hand_made([0, 1500]), hand_made([30, 30])
    assert sharp.full().mean() == 0.5 > even.full().mean() == 0
    assert even.sampled(100).mean() > sharp.sampled(100).mean() + 0.05


def test_sampled_ndcg_is_the_mean_over_samples() -> None:
    seen = hand_made([7], n=60)
    draws = hypergeom.rvs(60, 7, 20, size=20_000, random_state=0)
    simulated = np.where(draws < 10, 1 / np.log2(draws + 2.0), 0).mean()
    assert seen.sampled(20)[0] == pytest.approx(simulated, abs=0.005)
    assert seen.sampled(60)[0] == pytest.approx(seen.full()[0])
    assert seen.sampled(10_000)[0] == pytest.approx(seen.full()[0])


def test_by_popularity_depends_on_the_mass_above() -> None:
    seen = replace(hand_made([5, 5]), mass_above=np.array([0.0, 1.0]))
    assert seen.sampled_by_popularity(100) == pytest.approx([1.0, 0.0])


def test_places_agree_with_a_loop(data: SystemData) -> None:
    from ml_platform.data.splits import next_event_queries
    from video_recommendation.requests import batch_of_queries

    queries = next_event_queries(data.log, data.windows.validation_end, None).subset(np.arange(5))
    scores = np.random.default_rng(0).random((5, data.log.n_items)).astype(np.float32)
    popularity = np.arange(1.0, data.log.n_items + 1)
    found = places(lambda _: scores, data, queries, popularity)
    batch, (ptr, items) = batch_of_queries(data.log, queries), queries.relevant(data.log)
    row = 0
    for q in range(5):
        relevant = items[ptr[q] : ptr[q + 1]]
        out = np.union1d(batch.item_idx[batch.ptr[q] : batch.ptr[q + 1]], relevant)
        negatives = np.setdiff1d(np.arange(data.log.n_items), out)
        for item in relevant:
            better = negatives[scores[q, negatives] > scores[q, item]]
            assert found.above[row] == len(better)
            assert found.negatives[row] == len(negatives)
            share = popularity[better].sum() / popularity[negatives].sum()
            assert found.mass_above[row] == pytest.approx(share)
            row += 1
    assert row == len(found.above)


def test_more_negatives_make_the_metric_smaller(data: SystemData) -> None:
    settings = sampled_metrics.SampledSettings(test_queries=150)
    report = sampled_metrics.measure(data, CONFIG, Silent(), settings)
    for name in ("popularity", "because_you_watched"):
        sampled = report.value("broken", f"{name}_ndcg@10")
        full = report.value("healthy", f"{name}_ndcg@10")
        assert sampled > 1.5 * full
        assert report.value("fixed", f"{name}_ndcg@10") == full
    wide = report.value("negatives_all", "difference_ndcg@10")
    assert wide == pytest.approx(report.value("healthy", "difference_ndcg@10"))


# --- the command --------------------------------------------------------------------------------


def run_in(folder: Path) -> tuple[Run, Console]:
    console = Console(record=True, width=140, force_terminal=False)
    return Run(config=CONFIG, artifacts=folder, console=console), console


def test_list_names_every_lab_once(tmp_path: Path) -> None:
    run, console = run_in(tmp_path)
    run_lab(run, "list")
    lines = [line for line in console.export_text().splitlines() if line.strip()]
    assert [line.split()[0] for line in lines] == [f"lab-{lab.name}" for lab in LABS]


def test_an_unknown_name_ends_with_the_names_there_are(tmp_path: Path) -> None:
    run, console = run_in(tmp_path)
    with pytest.raises(typer.Exit) as stopped:
        run_lab(run, "stale-indes")
    assert stopped.value.exit_code == 2
    text = console.export_text()
    assert "'stale-indes'" in text
    assert "stale-index" in text


def test_a_run_writes_numbers_and_picture_beside_the_artifacts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(position_bias, "ClickSettings", lambda: ClickSettings(20_000, swapped=0.3))
    run, console = run_in(tmp_path)
    run_lab(run, "position-bias")
    folder = tmp_path / "demonstrations"
    results = Results.read(folder / "labs_position_bias.json")
    assert results.run.dataset.synthetic
    key = "lab_position_bias/broken/weight_freshness"
    assert results[key].value > results[key.replace("broken", "fixed")].value + 0.5
    assert (folder / "plots" / "lab_position_bias.png").read_bytes()[:4] == b"\x89PNG"
    assert "SIMULATED DATA" in console.export_text()
    assert json.loads((folder / "labs_position_bias.json").read_text())["metrics"]


def test_every_lab_has_its_page_and_its_module() -> None:
    pages = {path.stem for path in (SYSTEM_FOLDER / "labs").glob("*.md")} - {"README"}
    assert pages == {lab.key for lab in LABS}


def test_numbers_as_text() -> None:
    assert written(None, ".3f") == "-"
    assert written(0.25, ".1%") == "25.0%"
    assert written(Estimate(0.5, 0.4, 0.6, 9), ".2f") == "0.50 [0.40, 0.60]"
    assert written(Estimate(0.5, None, None, 1), ".2f") == "0.50"
