from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest
from handmade import START_S, make_catalogue, make_items_of, make_log, make_users

from shorts_recommendation.config import StateConfig
from shorts_recommendation.counters import CounterSnapshot, VideoCounters, counted_columns
from shorts_recommendation.features import (
    cross_feature_names,
    cross_features,
    replay,
    requests_at,
)
from shorts_recommendation.requests import RequestBatch, concatenate
from shorts_recommendation.state import Outcomes, UserStates

CONFIG = StateConfig(history_length=16)
CATALOGUE, USERS = make_catalogue(), make_users()
ITEMS, LOG = make_items_of(CATALOGUE), make_log(make_catalogue(), make_users())


@pytest.fixture(scope="module")
def served() -> list[tuple[RequestBatch, np.ndarray]]:
    """What a service would compute: events one by one in time, counters live."""
    states = UserStates(USERS, ITEMS, CONFIG)
    counters = VideoCounters(
        len(CATALOGUE), CONFIG.counter_half_lives_h, CONFIG.counter_period_s, int(LOG.timestamp[0])
    )
    columns, found = counted_columns(LOG), []
    for row in range(len(LOG)):
        at = slice(row, row + 1)
        snapshot = counters.advance(int(LOG.timestamp[row]))
        batch = states.batch(LOG.user_idx[at], LOG.timestamp[at])
        found.append((batch, cross_features(batch, LOG.video_idx[at][:, None], snapshot, ITEMS)))
        states.apply(
            LOG.user_idx[at],
            LOG.video_idx[at],
            Outcomes.of_log(LOG, np.array([row])),
            LOG.timestamp[at],
        )
        counters.add(LOG.video_idx[at], LOG.timestamp[at], columns[at])
    return found


def test_replay_equals_the_service(served: list[tuple[RequestBatch, np.ndarray]]) -> None:
    rows, _ = replay(CATALOGUE, USERS, ITEMS, LOG, CONFIG)
    assert sorted(rows.log_row.tolist()) == list(range(len(LOG)))
    for at, row in enumerate(rows.log_row):
        batch, cross = served[row]
        np.testing.assert_allclose(rows.cross[at], cross[0, 0], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(rows.user[at], batch.user[0], rtol=2e-3, atol=2e-3)
        np.testing.assert_allclose(rows.context[at], batch.context[0], rtol=2e-3, atol=2e-3)


def test_requests_at_rows_equal_the_service(
    served: list[tuple[RequestBatch, np.ndarray]],
) -> None:
    asked = np.array([700, 12, 345, 346, 12])
    batch = requests_at(USERS, ITEMS, LOG, CONFIG, asked)
    expected = concatenate([served[row][0] for row in asked])
    for field in fields(RequestBatch):
        np.testing.assert_array_equal(
            getattr(batch, field.name), getattr(expected, field.name), err_msg=field.name
        )


def test_rows_of_some_users_have_the_counters_of_all() -> None:
    everybody, _ = replay(CATALOGUE, USERS, ITEMS, LOG, CONFIG)
    only = np.zeros(len(USERS), dtype=bool)
    only[[3, 4]] = True
    some, _ = replay(CATALOGUE, USERS, ITEMS, LOG, CONFIG, only_users=only)
    assert set(LOG.user_idx[some.log_row]) == {3, 4}
    where = {row: at for at, row in enumerate(everybody.log_row)}
    same = everybody.cross[[where[row] for row in some.log_row]]
    np.testing.assert_array_equal(some.cross, same)


def test_no_feature_sees_its_own_outcome() -> None:
    """Changing what happened at a row leaves that row's features as they were."""
    row = 500
    changed = LOG.select(slice(None))
    for name in ("long_view", "like", "skip"):
        array = getattr(changed, name).copy()
        array[row] = ~array[row]
        object.__setattr__(changed, name, array)
    before, _ = replay(CATALOGUE, USERS, ITEMS, LOG, CONFIG)
    after, _ = replay(CATALOGUE, USERS, ITEMS, changed, CONFIG)
    at = int(np.flatnonzero(before.log_row == row)[0])
    np.testing.assert_array_equal(before.cross[at], after.cross[at])
    np.testing.assert_array_equal(before.user[at], after.user[at])
    assert (before.user != after.user).any()  # later rows of the user do change


def test_columns_by_hand() -> None:
    names = cross_feature_names(CONFIG)
    states = UserStates(USERS, ITEMS, CONFIG)
    video = 0
    twin = int(np.flatnonzero(ITEMS.creator == ITEMS.creator[video])[1])
    outcome = Outcomes(
        watch_s=np.array([30.0], dtype=np.float32),
        long_view=np.array([True]),
        skip=np.array([False]),
        like=np.array([False]),
        share=np.array([False]),
        follow=np.array([False]),
    )
    states.apply(np.array([2]), np.array([twin]), outcome, np.array([START_S]))
    batch = states.batch(np.array([2]), np.array([START_S + 60]))
    counters = VideoCounters(len(CATALOGUE), CONFIG.counter_half_lives_h, 900, START_S)
    got = cross_features(batch, np.array([[video, twin]]), counters.snapshot, ITEMS)[0]
    value = dict(zip(names, got[0], strict=True))
    assert value["log_duration"] == pytest.approx(np.log(CATALOGUE.duration_s[0]))
    assert value["creator_shown"] == pytest.approx(np.log(2))
    assert value["creator_long_views"] == pytest.approx(np.log(2))
    assert value["creator_of_late"] == 1
    assert value["language_match"] == float(CATALOGUE.language[0] == USERS.language[2])
    age_h = (START_S + 60 - CATALOGUE.upload_s[0]) / 3600
    assert value["log_age_h"] == pytest.approx(np.log1p(age_h), rel=1e-5)
    assert value["session_cosine"] == pytest.approx(
        float(ITEMS.content[video] @ ITEMS.content[twin]), abs=1e-5
    )
    assert got[1][names.index("session_cosine")] == pytest.approx(1.0, abs=1e-5)
    assert got.shape[1] == len(names)


def test_kernel_equals_whole_array_code(served: list[tuple[RequestBatch, np.ndarray]]) -> None:
    """The twin lays out every comparison with the history before it counts."""
    batch = concatenate([b for b, _ in served[5:60:5]])
    rng = np.random.default_rng(3)
    videos = rng.integers(-1, len(CATALOGUE), (len(batch), 9)).astype(np.int32)
    videos[:, 0] = batch.history[:, -1]  # its creator and tag are in the history for sure
    counts = rng.integers(0, 50, (4, 3, len(CATALOGUE))).astype(np.float32)
    snapshot = CounterSnapshot(0, counts, counts[0, 0].astype(np.int32))
    got = cross_features(batch, videos, snapshot, ITEMS)
    assert got[..., 5].max() > 0
    assert got[..., 8].max() > 0
    np.testing.assert_allclose(got, _twin(batch, videos, snapshot), rtol=1e-5, atol=1e-6)


def _twin(batch: RequestBatch, videos: np.ndarray, snapshot: CounterSnapshot) -> np.ndarray:
    videos = np.maximum(videos, 0)
    tags, has = ITEMS.tags[videos], ITEMS.tags[videos] >= 0
    rows = np.arange(len(batch))[:, None, None]
    affinity = np.where(has, batch.tag_profile[rows, np.maximum(tags, 0)], 0)
    known, history = batch.history >= 0, np.maximum(batch.history, 0)
    same = (
        ITEMS.creator[videos][:, :, None] == np.where(known, ITEMS.creator[history], -1)[:, None, :]
    )
    late_tags = np.where(known, ITEMS.tags[history, 0], -2)[:, -10:]
    cosines = []
    for profile in (batch.session, batch.user[:, 32:64]):
        length = np.maximum(np.linalg.norm(profile, axis=1), 1e-6)
        cosines.append(np.einsum("bcd,bd->bc", ITEMS.content[videos], profile / length[:, None]))
    own = [
        ITEMS.log_duration[videos],
        np.log1p(np.maximum(batch.now_s[:, None] - ITEMS.upload_s[videos], 0) / 3600),
        ITEMS.language[videos] == batch.language[:, None],
        affinity[..., 0],
        affinity.sum(axis=2) / np.maximum(has.sum(axis=2), 1),
        np.log1p(same.sum(axis=2)),
        np.log1p(np.einsum("bcl,bl->bc", same.astype(float), batch.history_outcomes[:, :, 1])),
        same[:, :, -10:].sum(axis=2),
        (tags[..., 0][:, :, None] == late_tags[:, None, :]).sum(axis=2),
        *cosines,
    ]
    return np.concatenate([np.stack(own, axis=2), snapshot.features[videos]], axis=2)
