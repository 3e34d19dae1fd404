"""Each lab on a tiny world: what is broken is worse, what is fixed is well again."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from rich.console import Console
from scipy import stats

from ml_platform.evaluation.intervals import Estimate
from ml_platform.evaluation.lab import LabReport
from ml_platform.evaluation.progress import Silent
from ml_platform.evaluation.results import Results
from shorts_recommendation.config import Config
from shorts_recommendation.labs import (
    duration_bias,
    feedback_collapse,
    stale_trending,
    upload_starvation,
)
from shorts_recommendation.labs.closed_loop import Loop, LoopPolicy, LoopSettings
from shorts_recommendation.labs.command import LABS, run_lab
from shorts_recommendation.labs.duration_bias import DurationSettings, rank_correlation
from shorts_recommendation.labs.stale_trending import TrendingSettings
from shorts_recommendation.log import DAY_S
from shorts_recommendation.world import World, generate_log, make_world

TINY = LoopSettings(n_users=90, n_videos=500, n_days=9, n_worlds=2)


def interval(report: LabReport, variant: str, key: str) -> Estimate:
    for comparison in (report.main, *report.more):
        for symptom in comparison.symptoms:
            if symptom.key == key and variant in symptom.values:
                found = symptom.values[variant]
                assert isinstance(found, Estimate)
                return found
    raise KeyError((variant, key))


def t_half(values: np.ndarray) -> float:
    """Half of Student's 95% interval, by scipy's own test."""
    found = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    return float(found.high - found.low) / 2


# --- duration bias ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def duration() -> LabReport:
    settings = DurationSettings(n_users=200, n_videos=600, candidates=150, trees=40)
    return duration_bias.measure(settings, Silent())


def test_seconds_fill_the_feed_with_long_videos_and_shares_with_short_ones(
    duration: LabReport,
) -> None:
    seconds, share, d2q, luck = (
        duration.value(name, "duration_s") for name in ("broken", "ratio", "fixed", "random")
    )
    assert seconds > 1.8 * luck
    assert share < 0.6 * luck
    assert abs(d2q - luck) < 0.5 * luck
    assert duration.value("broken", "score_duration") > 0.5
    assert duration.value("ratio", "score_duration") < -0.5
    assert abs(duration.value("fixed", "score_duration")) < 0.2


def test_the_dashboard_prefers_the_label_that_people_like_least(duration: LabReport) -> None:
    assert duration.value("broken", "watch_s") > duration.value("fixed", "watch_s")
    for name in ("broken", "ratio"):
        gain = interval(duration, f"fixed_minus_{name}", "satisfaction")
        assert gain.low is not None
        assert gain.low > 0
    assert duration.value("random", "satisfaction") < duration.value("broken", "satisfaction")
    assert duration.value("fixed", "satisfaction") < duration.value("healthy", "satisfaction")


def test_rank_correlation_by_hand() -> None:
    a = np.array([[1.0, 2, 3, 4], [1, 2, 3, 4]])
    b = np.array([[10.0, 20, 25, 99], [4, 3, 2, 1]])
    assert rank_correlation(a, b) == pytest.approx([1, -1])


# --- the closed loop ----------------------------------------------------------------------------


def test_a_loop_shows_nobody_anything_twice_and_nothing_before_its_upload() -> None:
    loop = Loop(replace(TINY, n_days=5), LoopPolicy("x", explores=0.2, fresh_slots=1), 0)
    trace = loop.run()
    shown = np.concatenate(trace.videos, axis=1)
    assert shown.shape == (90, 50)
    assert all(len(set(row)) == 50 for row in shown.tolist())
    for videos, now_s in zip(trace.videos, trace.now_s, strict=True):
        assert (loop.world.catalogue.upload_s[videos] <= now_s).all()
    assert (np.diff(trace.now_s) == DAY_S).all()
    assert all(
        felt.mean() < most for felt, most in zip(trace.satisfaction, trace.best, strict=True)
    )


def test_exploration_is_logged_with_its_probability() -> None:
    loop = Loop(replace(TINY, n_users=60), LoopPolicy("x", explores=0.3), 0)
    videos = np.tile(np.arange(10, dtype=np.int32), (60, 1))
    open_ = np.ones((60, 500), dtype=bool)
    drawn, propensity = loop._explored(videos, np.ones(videos.shape), open_)
    explored = drawn != videos
    assert 0.2 < explored.mean() < 0.4
    assert propensity[~explored] == pytest.approx(0.7)
    assert propensity[explored] == pytest.approx(0.3 / 490)
    assert (drawn[explored] >= 10).all()


def test_the_first_day_is_random_and_logged_as_such() -> None:
    """A weighed feed must not take day 0 for a day of certain choices."""
    loop = Loop(replace(TINY, n_days=1), LoopPolicy("x", weight_cap=2.0), 0)
    open_ = np.ones((90, 500), dtype=bool)
    open_[:, 400:] = False
    _, propensity = loop._slates(0, loop.world.start_s + 20 * 3600, open_)
    assert propensity[3] == pytest.approx(1 / np.arange(400, 390, -1))
    loop.run()
    assert set(np.unique(loop._memory)) == {0.0, 2.0}


def test_policies_of_one_seed_start_from_the_same_day() -> None:
    first = Loop(replace(TINY, n_days=1), LoopPolicy("a"), 4).run()
    other = Loop(replace(TINY, n_days=1), LoopPolicy("b", explores=0.5), 4).run()
    assert (first.videos[0] == other.videos[0]).all()
    assert (first.long_view[0] == other.long_view[0]).all()


# --- feedback collapse --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def collapse() -> LabReport:
    return feedback_collapse.measure(replace(TINY, backlog_share=0.9, n_days=12), Silent())


def test_a_feed_of_its_own_slates_narrows_and_two_dashboards_applaud(collapse: LabReport) -> None:
    assert collapse.value("broken", "creators") < 0.85 * collapse.value("healthy", "creators")
    assert collapse.value("broken", "long_view") > collapse.value("healthy", "long_view")
    assert collapse.value("broken", "ild") > 0.95 * collapse.value("healthy", "ild")


def test_exploration_of_the_catalogue_keeps_more_than_that_of_the_pool(
    collapse: LabReport,
) -> None:
    shown = {n: collapse.value(n, "videos") for n in ("broken", "pool_only", "fixed", "healthy")}
    assert shown["broken"] < shown["pool_only"] < shown["fixed"] < shown["healthy"]


def test_intervals_of_loops_are_students_over_worlds(collapse: LabReport) -> None:
    """Two worlds: a reach of 12.7 standard errors, where resampling would give the two values."""
    settings = replace(TINY, backlog_share=0.9, n_days=12)
    creators = feedback_collapse.METRICS.index("creators")
    ends = [
        feedback_collapse.daily(Loop(settings, feedback_collapse.POLICIES["broken"], seed))
        for seed in (0, 1)
    ]
    by_world = np.array([days[-feedback_collapse.LAST :, creators].mean() for days in ends])
    found = interval(collapse, "broken", "creators")
    assert found.n == 2
    assert found.low is not None
    assert found.value - found.low == pytest.approx(t_half(by_world), rel=1e-6)
    assert found.low < by_world.min()


def test_effective_number_by_hand() -> None:
    assert feedback_collapse.effective(np.array([3, 3, 0, 3])) == pytest.approx(3)
    assert feedback_collapse.effective(np.array([7, 0])) == 1


# --- stale trending -----------------------------------------------------------------------------

TRENDING = TrendingSettings(
    n_users=500, n_videos=900, length=60, n_worlds=3, stop_days=(7, 9), stop_hours=(20,)
)


@pytest.fixture(scope="module")
def trending() -> LabReport:
    return stale_trending.measure(TRENDING, Silent())


def test_a_stale_list_is_full_and_worth_less(trending: LabReport) -> None:
    assert trending.value("broken", "full") == trending.value("healthy", "full") == 1
    assert trending.value("broken", "hits") < 0.9 * trending.value("healthy", "hits")
    assert trending.value("fixed", "hits") > 1.1 * trending.value("broken", "hits")
    assert trending.value("broken", "uploads") < trending.value("healthy", "uploads")
    assert trending.value("age_0h", "broken_hits") == trending.value("age_0h", "healthy_hits")
    assert trending.value("age_24h", "broken_hits") < trending.value("age_3h", "broken_hits")


def test_moments_of_one_world_are_averaged_before_the_interval(trending: LabReport) -> None:
    hits = []
    for seed in range(3):
        world = make_world(stale_trending._world(TRENDING), seed)
        found = stale_trending.in_world(TRENDING, world, generate_log(world, seed), lambda _: None)
        place = stale_trending.AGES_H.index(stale_trending.REPORTED_H)
        hits.append(found[list(stale_trending.LISTS).index("broken"), place, :, 0].mean())
    found = interval(trending, "broken", "hits")
    assert found.n == 3  # worlds, not the six moments
    assert found.low is not None
    assert found.value - found.low == pytest.approx(t_half(np.array(hits)), rel=1e-6)


@pytest.fixture(scope="module")
def small_world() -> World:
    return make_world(stale_trending._world(replace(TRENDING, n_users=100)), 1)


def test_the_monitor_compares_two_clocks(small_world: World) -> None:
    log = generate_log(small_world, 1)
    stop_s = small_world.start_s + 5 * DAY_S + 60
    snapshot = stale_trending.snapshot_at(small_world.catalogue, log, stop_s)
    assert snapshot.as_of_s == stop_s - 60  # the last full quarter of an hour
    assert not stale_trending.is_stale(snapshot, snapshot.as_of_s + 3 * 900, 900)
    assert stale_trending.is_stale(snapshot, snapshot.as_of_s + 3 * 900 + 1, 900)


def test_the_fallback_is_taken_only_where_the_snapshot_is_stale(small_world: World) -> None:
    log, catalogue = generate_log(small_world, 1), small_world.catalogue
    stop_s = small_world.start_s + 5 * DAY_S
    snapshot = stale_trending.snapshot_at(catalogue, log, stop_s)
    in_time = stale_trending.trending_or_newest(catalogue, snapshot, stop_s + 900, 900, 40)
    late_s = stop_s + 6 * 3600
    late = stale_trending.trending_or_newest(catalogue, snapshot, late_s, 900, 40)
    assert (late[:20] == in_time[:20]).all()
    young = stale_trending.newest(catalogue, late_s, 40)
    assert set(late[20:].tolist()) <= set(young.tolist())
    assert len(set(late.tolist())) == 40
    assert catalogue.upload_s[young[0]] == catalogue.upload_s[catalogue.upload_s <= late_s].max()


def test_hours_without_a_long_view_decide_nothing(small_world: World) -> None:
    log = generate_log(small_world, 1)
    with pytest.raises(ValueError, match="the log is too small"):
        stale_trending.judge(small_world, log, np.arange(5), small_world.end_s + DAY_S)


# --- upload starvation --------------------------------------------------------------------------


def test_without_a_budget_nobody_sees_an_upload() -> None:
    report = upload_starvation.measure(replace(TINY, backlog_share=0.3, n_days=12), Silent())
    assert report.value("broken", "uploads_seen") < 0.5 * report.value("fixed", "uploads_seen")
    assert report.value("broken", "upload_places") < 0.5 * report.value("fixed", "upload_places")
    assert report.value("fixed", "satisfaction") > report.value("broken", "satisfaction")
    assert (
        interval(report, "fixed_minus_broken", "satisfaction_late").value
        > interval(report, "random_places_minus_broken", "satisfaction_late").value
    )
    with pytest.raises(KeyError, match="uploads_seen"):
        report.value("healthy", "uploads_seen")  # too early to say


# --- the command --------------------------------------------------------------------------------


@dataclass
class Desk:
    """What a lab asks of a run: the whole command would load every model's library."""

    folder: Path
    console: Console
    config: Config = field(default_factory=lambda: Config(quick=True))
    progress: Silent = field(default_factory=Silent)

    def results_folder(self) -> Path:
        return self.folder


def run_in(folder: Path) -> tuple[Any, Console]:
    console = Console(record=True, width=140, force_terminal=False)
    return Desk(folder, console), console


def test_list_names_every_lab_once(tmp_path: Path) -> None:
    run, console = run_in(tmp_path)
    run_lab(run, "list")
    lines = [line for line in console.export_text().splitlines() if line.strip()]
    assert [line.split()[0] for line in lines] == [f"lab-{lab.name}" for lab in LABS]


def test_an_unknown_name_ends_with_the_names_there_are(tmp_path: Path) -> None:
    run, console = run_in(tmp_path)
    with pytest.raises(typer.Exit) as stopped:
        run_lab(run, "stale-trendings")
    assert stopped.value.exit_code == 2
    assert "upload-starvation" in console.export_text()


def test_a_run_writes_numbers_and_picture_beside_the_artifacts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = DurationSettings(n_users=80, n_videos=300, candidates=60, trees=10)
    monkeypatch.setattr(duration_bias, "DurationSettings", lambda: settings)
    run, console = run_in(tmp_path)
    run_lab(run, "duration-bias")
    folder = run.results_folder()
    results = Results.read(folder / "labs_duration_bias.json")
    assert results.run.dataset.synthetic
    assert results["lab_duration_bias/broken/duration_s"].value > 40
    assert (folder / "plots" / "lab_duration_bias.png").read_bytes()[:4] == b"\x89PNG"
    text = console.export_text()
    assert "SIMULATED DATA" in text
    assert "Answer before you read on" in text
