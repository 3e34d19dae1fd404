"""Each kind of drift is injected into a sound window; the monitor must name it, and only it."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from ml_platform.operations.drift_causes import PREDICTION, Finding
from ml_platform.operations.drift_monitor import DriftMonitor, DriftReport, Window, drift_report
from ml_platform.operations.reference_profile import Monitored, build_profile

COLUMNS = (
    Monitored("gap_s", "context", "team history", "history"),
    Monitored("log_gap_s", "context", "team history", "history"),
    Monitored("count_1d", "item", "team counters", "counters", default=0.0),
    Monitored("count_7d", "item", "team counters", "counters", default=0.0),
    Monitored("code", "user", "team profile", "profile"),
    Monitored(PREDICTION, PREDICTION, "team ranking"),
)
GAP, LOG_GAP, DAY, WEEK, CODE, SCORE = range(6)


def rows_of(n_users: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Five rows a user; the user's own columns are the same in all of them."""
    rng = np.random.default_rng(seed)
    users = np.repeat(np.arange(n_users), 5)
    gap = rng.lognormal(5, 1.5, n_users)[users]
    day = rng.poisson(3, len(users))
    week = day + rng.poisson(15, len(users))
    code = rng.choice(4, n_users, p=[0.4, 0.3, 0.2, 0.1])[users]
    score = rng.beta(2, 20, len(users))
    return np.column_stack([gap, np.log1p(gap), day, week, code, score]), users


@pytest.fixture(scope="module")
def profile():
    rows, users = rows_of(800, seed=0)
    return build_profile(rows, users, COLUMNS)


@pytest.fixture
def sound() -> Window:
    rows, users = rows_of(200, seed=1)
    return Window(rows, users, np.zeros(rows.shape, dtype=bool))


def found(report: DriftReport) -> dict[str, tuple[str, str]]:
    return {f.feature: (f.kind, f.severity) for f in report.findings}


def test_a_sound_window_has_no_findings(profile, sound):
    report = drift_report(profile, sound)
    assert report.ready
    assert found(report) == {}
    assert report.conclusions == ()


@pytest.mark.parametrize(
    ("factor", "words"),
    [
        (1 / 60, "seconds became minutes"),
        (1000, "seconds became milliseconds"),
        (1 / 3600, "seconds became hours"),
    ],
)
def test_a_unit_change_is_named(profile, sound, factor, words):
    sound.rows[:, GAP] *= factor
    report = drift_report(profile, sound)
    assert found(report) == {"gap_s": ("unit change", "alert")}
    assert words in report.findings[0].sentence


def test_a_unit_change_under_a_logarithm_is_named(profile, sound):
    sound.rows[:, LOG_GAP] = np.log1p(np.expm1(sound.rows[:, LOG_GAP]) / 60)
    finding = drift_report(profile, sound).findings[0]
    assert (finding.feature, finding.kind) == ("log_gap_s", "unit change")
    assert "under the logarithm" in finding.sentence
    assert "seconds became minutes" in finding.sentence
    assert finding.owner == "team history"
    assert finding.direction == "down"


def test_a_shift_that_is_no_unit_is_called_a_shift(profile, sound):
    sound.rows[:, DAY] += 3
    report = drift_report(profile, sound)
    assert found(report)["count_1d"][0] == "shift"
    assert report.findings[0].direction == "up"
    assert "median 3 -> 6, x2" in report.findings[0].sentence


def test_missing_values_are_counted_against_the_reference(profile, sound):
    sound.rows[sound.clusters % 4 == 0, GAP] = np.nan
    report = drift_report(profile, sound)
    assert found(report)["gap_s"][0] == "missing"
    assert "25% of the values are NaN, 0% in the reference" in report.findings[0].sentence


def test_defaults_count_as_missing_beyond_their_usual_share(profile, sound):
    usual = (rows_of(800, seed=0)[0][:, DAY] == 0).mean()
    sound.rows[sound.clusters % 2 == 0, DAY] = 0
    sentence = {f.feature: f.sentence for f in drift_report(profile, sound).findings}["count_1d"]
    assert f"{usual:.0%} in the reference: not delivered any more" in sentence


def test_a_constant_column_is_named(profile, sound):
    sound.rows[:, WEEK] = 17
    finding = drift_report(profile, sound).findings[0]
    assert (finding.feature, finding.kind, finding.severity) == ("count_7d", "constant", "alert")
    assert "every row holds 17" in finding.sentence


def test_stale_values_are_named_before_anything_else(profile, sound):
    sound.stale[: len(sound.stale) // 10, DAY] = True
    finding = drift_report(profile, sound).findings[0]
    assert (finding.feature, finding.kind) == ("count_1d", "stale")
    assert finding.sentence.startswith("10% of the values are older than allowed")


def test_a_change_of_codes_is_found(profile, sound):
    sound.rows[:, CODE] = 3 - sound.rows[:, CODE]
    assert found(drift_report(profile, sound)) == {"code": ("shift", "alert")}


def test_scores_that_move_are_prediction_drift(profile, sound):
    sound.rows[:, SCORE] *= 2
    assert found(drift_report(profile, sound)) == {"prediction": ("prediction", "alert")}


def test_columns_of_one_family_that_move_together_get_one_conclusion(profile, sound):
    sound.rows[:, [DAY, WEEK]] = 0
    report = drift_report(profile, sound)
    assert len(report.findings) == 2
    assert report.conclusions == (
        "2 of the 2 columns of counters moved together: look at what feeds them before each "
        "(team counters)",
    )

    def explain(family: str, findings: tuple[Finding, ...]) -> str:
        return f"{family}: {len(findings)} stopped"

    assert drift_report(profile, sound, explain).conclusions == ("counters: 2 stopped",)


def test_alerts_stand_before_warnings(profile, sound):
    sound.rows[:, SCORE] *= 1.35
    sound.rows[:, WEEK] = 17
    severities = [f.severity for f in drift_report(profile, sound).findings]
    assert severities == sorted(severities)  # "alert" < "warning"
    assert severities[0] == "alert"


def test_few_users_are_no_window(profile, sound):
    few = Window(sound.rows[:45] * 100, sound.clusters[:45], sound.stale[:45])  # nine users
    report = drift_report(profile, few)
    assert not report.ready
    assert report.findings == ()


def test_the_ring_keeps_the_newest_rows():
    monitor = DriftMonitor(n_columns=1, capacity=5)
    assert len(monitor.window().rows) == 0
    for n, user in [(2, 7), (2, 8), (3, 9)]:
        monitor.observe(np.full((n, 1), user, dtype=np.float32), user, user == 8)
    window = monitor.window()
    assert sorted(window.clusters) == [8, 8, 9, 9, 9]
    np.testing.assert_array_equal(window.rows[:, 0], window.clusters)
    np.testing.assert_array_equal(window.stale[:, 0], window.clusters == 8)
    monitor.observe(np.arange(9, dtype=np.float32)[:, None], 1)  # more than it holds
    assert sorted(monitor.window().rows[:, 0]) == [4, 5, 6, 7, 8]
    monitor.clear()
    assert len(monitor.window().rows) == 0


def test_threads_do_not_tear_rows():
    """Each list is one number in all rows and its cluster; a torn row would mix two."""
    monitor = DriftMonitor(n_columns=4, capacity=97)

    def write(user: int) -> None:
        for _ in range(500):
            monitor.observe(np.full((10, 4), user, dtype=np.float32), user)

    threads = [threading.Thread(target=write, args=(user,)) for user in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(50):
        window = monitor.window()
        assert (window.rows == window.clusters[:, None]).all()
    for thread in threads:
        thread.join()


def test_an_unknown_reference_is_an_error(profile):
    with pytest.raises(KeyError, match="launch"):
        DriftMonitor(6, {"training": profile}).report("launch")
