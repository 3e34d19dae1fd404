"""The reference that training leaves: whose rows, whose scores, and its file; the label join."""

from __future__ import annotations

import numpy as np
import pytest

from ml_platform.data.splits import next_event_queries
from ml_platform.operations.drift_causes import Finding
from video_recommendation.bundle import load_bundle
from video_recommendation.features import SCHEMA
from video_recommendation.monitoring.labels import LabelJoin
from video_recommendation.monitoring.reference import (
    Reference,
    cross_fitted,
    explain_family,
    monitored_columns,
    shown_rows,
)
from video_recommendation.pipeline import time_ordered


@pytest.fixture(scope="module")
def held_out(tiny_system):
    data, ranking = tiny_system.data, tiny_system.trained.ranking
    windows = data.windows
    queries = next_event_queries(data.log, windows.train_end, windows.validation_end)
    queries = time_ordered(queries)
    n = len(ranking.held_out.group)
    return ranking.held_out, queries.subset(np.arange(len(queries) - n, len(queries)))


def test_the_reference_holds_the_lists_that_would_be_shown(tiny_system, held_out):
    examples, queries = held_out
    recommender = tiny_system.trained.recommender
    rows = shown_rows(recommender, examples, tiny_system.trained.ranking.held_out_score, queries)
    owner = examples.owner[rows]
    counts = np.bincount(owner, minlength=len(queries))
    np.testing.assert_array_equal(counts, np.minimum(20, examples.group))
    assert len(set(rows.tolist())) == len(rows)
    profile = recommender.reference.profile
    assert all(column.shares.n_rows == len(rows) for column in profile.columns)
    assert profile.columns[0].shares.n_clusters == len(set(queries.user_idx[owner].tolist()))
    # Selection is the point: shown items have far more votes than the candidates.
    votes = SCHEMA.names.index("ease_score")
    assert examples.features[rows, votes].mean() > examples.features[:, votes].mean()


def test_columns_are_the_features_and_the_score():
    columns = monitored_columns()
    assert [column.name for column in columns] == [*SCHEMA.names, "prediction"]
    assert all(column.owner for column in columns)
    families = {column.name: column.family for column in columns}
    assert families["age_days"] == families["log_count_1d"] == "item_activity"
    assert families["gender"] == "user_profile"
    assert families["ease_rank"] == "retrieval"
    assert families["prediction"] == ""


def test_cross_fitting_uses_the_other_users_only():
    score = np.tile([0.0, 1.0], 40)
    users = np.repeat([0, 1], 40)
    watched = np.concatenate([np.tile([False, True], 20), np.tile([False, False, True, False], 10)])
    found = cross_fitted(score, watched, users)
    # User 1 never watched at score 1; user 0 always did: each gets what the other did.
    np.testing.assert_allclose(found[:40][score[:40] == 1], watched[40:].mean(), atol=1e-9)
    np.testing.assert_allclose(found[40:][score[40:] == 1], 1.0)


def test_the_reference_survives_the_bundle(tiny_system):
    saved, loaded = (
        tiny_system.trained.recommender.reference,
        load_bundle(tiny_system.bundle).reference,
    )
    assert isinstance(loaded, Reference)
    assert loaded.concentration == saved.concentration
    assert loaded.calibration.ratio == saved.calibration.ratio
    for one, two in zip(saved.profile.columns, loaded.profile.columns, strict=True):
        assert repr(one.info) == repr(two.info)  # a default may be NaN
        np.testing.assert_array_equal(one.sketch, two.sketch)


def finding(feature: str, kind: str = "shift", direction: str = "down") -> Finding:
    return Finding(feature, "item", "o", "item_activity", kind, "alert", 1, 0, 1, direction, "")


@pytest.mark.parametrize(
    ("findings", "words"),
    [
        ([finding("log_count_1d", "missing"), finding("trend")], "events no longer reach"),
        ([finding("log_count_1d", "stale"), finding("trend", "stale")], "the materialiser"),
        (
            [finding("log_count_1d", direction="up"), finding("trend", direction="up")],
            "popularity shift",
        ),
    ],
)
def test_item_activity_that_moves_is_explained(findings, words):
    sentence = explain_family("item_activity", findings)
    assert sentence is not None
    assert words in sentence


def test_what_has_no_known_pattern_is_left_to_the_plain_sentence():
    mixed = [finding("log_count_1d", direction="up"), finding("log_count_7d", direction="down")]
    assert explain_family("item_activity", mixed) is None
    assert explain_family("retrieval", [finding("ease_rank")] * 2) is None


def shown(join: LabelJoin, user: int = 7) -> None:
    join.shown(user, np.array([10, 20, 30]), np.array([0.3, 0.2, 0.1]))


def test_a_list_is_answered_by_the_next_moment_only():
    join = LabelJoin()
    shown(join)
    join.event(7, 20, moment=100)
    join.event(7, 10, moment=100)  # the same second: the same moment
    assert join.n_answered == 0  # more of that second may come
    join.event(7, 30, moment=101)
    scores, outcomes, users = join.answered()
    np.testing.assert_array_equal(outcomes, [True, True, False])
    np.testing.assert_array_equal(scores, [0.3, 0.2, 0.1])
    np.testing.assert_array_equal(users, [7, 7, 7])


def test_the_next_list_closes_the_one_before():
    join = LabelJoin()
    shown(join)
    join.event(7, 99, moment=5)
    shown(join)
    assert join.n_answered == 1
    assert not join.answered()[1].any()


def test_a_list_without_an_event_is_no_label():
    join = LabelJoin()
    shown(join)
    shown(join)
    join.event(8, 20, moment=1)  # somebody else
    assert join.n_answered == 0
    assert [len(part) for part in join.answered()] == [0, 0, 0]


def test_memory_is_bounded():
    join = LabelJoin(max_waiting=3, max_answered=2)
    for user in range(5):
        shown(join, user)
    assert len(join._waiting) == 3
    for user in (2, 3, 4):  # the newest three
        join.event(user, 10, moment=1)
        shown(join, user)
    assert join.n_answered == 2
    join.clear()
    assert (join.n_answered, len(join._waiting)) == (0, 0)
