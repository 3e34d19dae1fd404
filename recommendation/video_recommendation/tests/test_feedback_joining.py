"""From logs to labelled rows by hand: every event has a place, a young row is no negative."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ml_platform.serving.event_log import EventLog, LoggedEvent
from video_recommendation.config import RankingConfig
from video_recommendation.features import SCHEMA
from video_recommendation.feedback_loop import logs
from video_recommendation.feedback_loop.joining import TrainingRows, join
from video_recommendation.feedback_loop.logs import (
    Impressions,
    LoggedWatch,
    LogReader,
    RequestLogIncompleteError,
    impressions_of,
)
from video_recommendation.feedback_loop.measures import break_even_day, gini, top_share
from video_recommendation.feedback_loop.training import (
    fit_position_based,
    position_based_gradient,
)

HOUR = 3_600
WINDOW = 12 * HOUR


def record(request_id: str, now: int, items: list[int], user_id: int = 1) -> dict[str, object]:
    return {
        "request_id": request_id,
        "now": now,
        "user_id": user_id,
        "items": items,
        "exploration_place": 1,
        "propensity": 0.25,
        "features": {"values": np.full((len(items), len(SCHEMA)), 0.5).tolist()},
    }


SHOWN = impressions_of(
    [
        record("r1", 0, [7, 8, 9]),
        record("r2", 2 * HOUR, [7, 5], user_id=2),
        record("r3", 20 * HOUR, [7, 8]),
    ]
)


def watch(event_id: str, item_id: int, at: int, rating: float | None = None) -> LoggedWatch:
    head = event_id.split("/")[0]
    request_id = None if head == logs.ORGANIC else head
    return LoggedWatch(event_id, request_id, 1, item_id, rating, at)


def joined(*events: LoggedWatch, as_of: int = 24 * HOUR) -> TrainingRows:
    return join(SHOWN, events, as_of=as_of, window_s=WINDOW)


def test_impressions_are_the_items_shown_in_order() -> None:
    assert SHOWN.item_id.tolist() == [7, 8, 9, 7, 5, 7, 8]
    assert SHOWN.position.tolist() == [1, 2, 3, 1, 2, 1, 2]
    assert SHOWN.user_id.tolist() == [1, 1, 1, 2, 2, 1, 1]
    assert SHOWN.exploration.tolist() == [False, True, False, False, True, False, True]
    assert SHOWN.propensity.tolist() == [1, 0.25, 1, 1, 0.25, 1, 0.25]
    assert len(Impressions.none()) == 0


def test_a_late_event_labels_its_own_impression_and_no_later_one() -> None:
    """Item 7 was shown at 0 h and, since nothing was known, again at 20 h."""
    rows = joined(watch("r1/7/watch", 7, 22 * HOUR))

    assert np.flatnonzero(rows.watched).tolist() == [0]
    assert rows.counts.first == rows.counts.late == rows.counts.positives == 1


def test_an_event_within_the_window_is_not_late() -> None:
    assert joined(watch("r1/7/watch", 7, WINDOW - 1)).counts.late == 0
    assert joined(watch("r1/7/watch", 7, WINDOW)).counts.late == 1


def test_young_rows_are_left_out_watched_or_not() -> None:
    rows = joined(watch("r3/8/watch", 8, 21 * HOUR))

    assert rows.mature.tolist() == [True] * 5 + [False] * 2
    assert rows.trainable.tolist() == rows.mature.tolist()
    assert rows.watched[6]
    assert (rows.counts.positives, rows.counts.immature_positives) == (0, 1)
    assert joined(as_of=32 * HOUR).mature.all()  # at the very age of the window
    assert joined(as_of=32 * HOUR - 1).mature.sum() == 5


def test_the_next_join_has_yesterdays_young_rows() -> None:
    events = (watch("r3/8/watch", 8, 25 * HOUR),)
    today, tomorrow = joined(as_of=24 * HOUR), joined(*events, as_of=48 * HOUR)

    assert not today.trainable[5:].any()
    assert tomorrow.trainable[5:].all()
    assert tomorrow.watched.tolist() == [False] * 6 + [True]


def test_every_event_has_one_place() -> None:
    rows = joined(
        watch("r1/7/watch", 7, HOUR),
        watch("r1/7/rating", 7, HOUR + 60, 5.0),
        watch("r1/7/watch", 7, HOUR),  # the log was shipped twice
        watch("organic/1-3-4/watch", 3, HOUR),
        watch("r9/7/watch", 7, HOUR),  # its answer is not in the request log
        watch("r2/9/watch", 9, HOUR),  # r2 did not show 9
        watch("r2/5/watch", 5, 23 * HOUR),
    )
    counts = rows.counts

    assert (counts.events, counts.first, counts.repeated, counts.duplicates) == (7, 2, 1, 1)
    assert (counts.organic, counts.unknown_request, counts.not_shown) == (1, 1, 1)
    assert (counts.late, counts.impressions, counts.mature, counts.immature) == (1, 7, 5, 2)
    assert rows.rating.tolist() == [5, 0, 0, 0, 0, 0, 0]
    assert rows.watched.tolist() == [True, False, False, False, True, False, False]


@pytest.mark.parametrize("field", ["first", "organic", "mature", "positives"])
def test_books_that_do_not_balance_are_refused(field: str) -> None:
    counts = joined(watch("r1/7/watch", 7, HOUR)).counts
    wrong = replace(counts, **{field: getattr(counts, field) + 1})

    with pytest.raises(ValueError, match="the join lost"):
        wrong.check()


def test_random_events_balance_too() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        events = [
            watch(f"{rng.choice(['r1', 'r2', 'r3', 'r4', 'organic'])}/{item}/watch", item, at)
            for item, at in rng.integers(0, 30, (20, 2)).tolist()
        ]
        rows = joined(*events)  # checks itself
        distinct = {(e.request_id, e.item_id) for e in events} & set(SHOWN.row_of)
        assert rows.counts.first == len(distinct) == rows.watched.sum()


def test_rows_without_features_are_not_trained_on() -> None:
    degraded = {**record("r1", 0, [7]), "features": None}
    rows = join(impressions_of([degraded]), (), as_of=WINDOW, window_s=WINDOW)

    assert rows.mature.all()
    assert not rows.trainable.any()


# --- reading --------------------------------------------------------------------------------------


def test_the_reader_goes_on_where_it_stopped_and_waits_for_whole_lines(tmp_path: Path) -> None:
    path = tmp_path / "requests.jsonl"
    first, second = (json.dumps(record(name, 0, [1])) for name in ("r1", "r2"))
    with EventLog(tmp_path / "events.sqlite") as log:
        reader = LogReader(path, log)
        path.write_text(first + "\n" + second[:20])  # the second line is being written
        assert reader.read(1)[0].request_ids == ("r1",)
        path.write_text(first + "\n" + second + "\n")
        body = b'{"item_id":1,"rating":null,"user_id":1}'
        log.append([LoggedEvent("r2/1/watch", body, 5)])
        impressions, watches = reader.read(2)

    assert impressions.request_ids == ("r1", "r2")
    assert [(w.event_id, w.request_id, w.received_at) for w in watches] == [("r2/1/watch", "r2", 5)]


def test_a_request_log_with_holes_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "FLUSH_TIMEOUT_S", 0.05)
    with EventLog(tmp_path / "events.sqlite") as log:
        reader = LogReader(tmp_path / "requests.jsonl", log)
        with pytest.raises(RequestLogIncompleteError, match="holds 0 of 2 answers"):
            reader.read(2)


# --- the likelihood of the position-based model -----------------------------------------------


def test_the_gradient_is_that_of_the_likelihood() -> None:
    rng = np.random.default_rng(1)
    score, examine = rng.normal(size=40), rng.uniform(0.1, 1.0, 40)
    label = (rng.uniform(size=40) < 0.4).astype(float)

    def loss(f: np.ndarray) -> np.ndarray:
        watch = examine / (1 + np.exp(-f))
        return -label * np.log(watch) - (1 - label) * np.log(1 - watch)

    gradient, curvature = position_based_gradient(score, label, examine)
    np.testing.assert_allclose(
        gradient, (loss(score + 1e-6) - loss(score - 1e-6)) / 2e-6, atol=1e-6
    )
    # The expected curvature is the expected squared gradient (Fisher information).
    p = examine / (1 + np.exp(-score))
    ones, zeros = (position_based_gradient(score, np.full(40, y), examine)[0] for y in (1.0, 0.0))
    np.testing.assert_allclose(curvature, p * ones**2 + (1 - p) * zeros**2, rtol=1e-9)


def fitted_gap(*, corrected: bool) -> float:
    """Score of a kind of item always shown low, less that of an equal kind always shown on top."""
    rng = np.random.default_rng(2)
    n = 6_000
    kind = rng.integers(0, 2, n)
    examine = np.where(kind == 0, 1.0, 0.3)
    watched = rng.uniform(size=n) < examine * 0.4
    features = np.zeros((n, len(SCHEMA)), dtype=np.float32)
    features[:, 0] = kind
    features[:, 1] = rng.normal(size=n)
    known = examine if corrected else np.ones(n)
    config = RankingConfig(max_trees=150, learning_rate=0.1, min_rows_in_leaf=50)
    ranker, calibrator = fit_position_based(features, watched, known, config, seed=0)
    probability = calibrator.probability(ranker.score(features))
    return float(probability[kind == 1].mean() - probability[kind == 0].mean())


def test_a_low_place_is_no_fault_of_the_item() -> None:
    assert fitted_gap(corrected=False) < -0.2  # 0.12 against 0.40
    assert abs(fitted_gap(corrected=True)) < 0.05


# --- measures -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("counts", "expected"),
    [([3, 3, 3], 0.0), ([0, 0, 0, 5], 0.75), ([1, 2, 3], 2 / 9), ([0, 0], 0.0)],
)
def test_gini_by_hand(counts: list[int], expected: float) -> None:
    assert gini(np.array(counts)) == pytest.approx(expected)


def test_gini_is_half_the_relative_mean_difference() -> None:
    counts = np.random.default_rng(3).integers(0, 50, 40)
    pairs = np.abs(counts[:, None] - counts[None, :]).mean()
    assert gini(counts) == pytest.approx(pairs / (2 * counts.mean()))


def test_top_share_by_hand() -> None:
    counts = np.array([10, 0, 5, 1, 1, 1, 1, 1, 0, 0])
    assert top_share(counts) == pytest.approx(0.5)
    assert top_share(counts, 0.2) == pytest.approx(0.75)
    assert top_share(np.zeros(5)) == 0.0


@pytest.mark.parametrize(
    ("saved", "expected"),
    [
        ([-1.0, 0.5, 0.6, 0.1], 2),
        ([-1.0, 0.5, 0.4], None),
        ([0.0, 0.1], 0),
        ([-1.0, 2.0, -3.0, 4.0], 3),
    ],
)
def test_break_even_is_the_day_from_which_it_stays_positive(
    saved: list[float], expected: int | None
) -> None:
    assert break_even_day(np.array(saved)) == expected
