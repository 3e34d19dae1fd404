"""The logging policy and the log: exact propensities, no repeats, time order, the same in parts."""

from __future__ import annotations

from dataclasses import fields
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import chi2

from shorts_recommendation.config import WorldConfig
from shorts_recommendation.log import DAY_S, STRATEGIES, ImpressionLog
from shorts_recommendation.world import (
    World,
    generate_log,
    logging_policy,
    make_world,
    stream_log,
)
from shorts_recommendation.world.generate import log_blocks
from shorts_recommendation.world.logging_policy import HOUR_S, LoggingPolicy
from shorts_recommendation.world.storage import read_log

TINY = WorldConfig(n_users=200, n_videos=500, impressions_per_user=40, days=4, n_tags=12)


@cache
def tiny() -> World:
    return make_world(TINY, 0)


@cache
def tiny_log() -> ImpressionLog:
    return generate_log(tiny(), 0)


def same(a: ImpressionLog, b: ImpressionLog) -> bool:
    return all(np.array_equal(getattr(a, f.name), getattr(b, f.name)) for f in fields(a))


def test_the_seed_decides_the_log() -> None:
    assert same(tiny_log(), generate_log(tiny(), 0))
    assert not np.array_equal(tiny_log().video_idx, generate_log(tiny(), 1).video_idx)


def test_the_log_has_about_as_many_rows_as_asked_and_its_dtypes() -> None:
    log = tiny_log()
    assert 0.7 < len(log) / (200 * 40) < 1.4
    want = dict(zip((f.name for f in fields(log)), "iiqqhf?????fb", strict=True))
    for name, code in want.items():
        assert getattr(log, name).dtype == np.dtype(code), name
    assert set(np.unique(log.strategy)) == set(range(len(STRATEGIES)))


def test_time_ascends_and_no_video_is_shown_before_its_upload() -> None:
    log = tiny_log()
    assert (np.diff(log.timestamp) >= 0).all()
    assert (log.timestamp >= tiny().catalogue.upload_s[log.video_idx]).all()
    assert tiny().start_s <= log.timestamp[0]
    assert log.timestamp[-1] < tiny().end_s


def test_sessions_are_one_user_with_places_counted_from_zero() -> None:
    log = tiny_log()
    order = np.lexsort((log.timestamp, log.session_id))
    session, place = log.session_id[order], log.position[order]
    first = np.r_[True, np.diff(session) != 0]
    assert (place[first] == 0).all()
    assert (np.diff(place)[~first[1:]] == 1).all()
    assert (np.diff(log.user_idx[order])[~first[1:]] == 0).all()
    assert (
        np.diff(log.timestamp[order])[~first[1:]] >= np.floor(log.watch_s[order][:-1][~first[1:]])
    ).all()


def test_nobody_sees_a_video_twice_within_the_memory_of_the_policy() -> None:
    log, memory = tiny_log(), LoggingPolicy(tiny(), 0).seen.shape[1]
    assert memory == 125
    for user in range(200):
        videos = log.video_idx[log.user_idx == user]
        for start in range(0, len(videos), memory // 2):
            window = videos[start : start + memory]
            assert len(set(window.tolist())) == len(window)


def policy_at_work() -> tuple[LoggingPolicy, int]:
    """A policy that user 0 has fed with views, and a time in the first day."""
    policy = LoggingPolicy(tiny(), 7)
    now = tiny().start_s + 5 * HOUR_S + 100
    there = np.flatnonzero(tiny().catalogue.upload_s <= tiny().start_s)[:40]
    for place, video in enumerate(there):
        policy.observe(np.array([0]), np.array([video]), np.array([place % 3 == 0]))
    return policy, now


def test_frequencies_match_the_logged_propensities() -> None:
    """Chi-square over all videos: 200,000 choices by one user at one time."""
    policy, now = policy_at_work()
    tables = policy.tables(tiny().start_s, 24)
    n = 200_000
    video, _, logged = policy.choose(tables, np.zeros(n, np.int32), np.full(n, now))
    p = policy.probabilities(tables, 0, now)
    assert p.sum() == pytest.approx(1)
    assert (p[policy.seen[0][:40]] == 0).all()
    assert np.allclose(logged, p[video], rtol=1e-4)
    count, expected = np.bincount(video, minlength=500), n * p
    possible = expected > 0
    assert count[~possible].sum() == 0
    assert expected[possible].min() > 5
    statistic = ((count - expected)[possible] ** 2 / expected[possible]).sum()
    assert statistic < chi2.ppf(0.999, possible.sum() - 1)
    wrong = np.roll(expected[possible], 1)  # the test can fail
    assert ((count[possible] - wrong) ** 2 / wrong).sum() > chi2.ppf(0.999, possible.sum() - 1)


def test_strategies_have_their_shares_where_nothing_was_seen() -> None:
    policy = LoggingPolicy(tiny(), 3)
    now = tiny().start_s + 30 * HOUR_S
    tables = policy.tables(tiny().start_s + DAY_S, 24)
    n = 100_000
    video, strategy, _ = policy.choose(tables, np.zeros(n, np.int32), np.full(n, now))
    share = np.bincount(strategy, minlength=4) / n
    assert np.abs(share - policy.shares).max() < 4 * np.sqrt(0.25 / n)
    assert policy.shares == pytest.approx([0.38, 0.4275, 0.1425, 0.05])
    fresh = tiny().catalogue.upload_s[video[strategy == 2]]
    assert (fresh > now - DAY_S).all()
    assert (fresh <= now).all()


def test_tags_draw_from_the_profile_by_hand() -> None:
    """One tag with 18 views, smoothing of 6 over 12 tags: 18.5 of 24 draws."""
    policy = LoggingPolicy(tiny(), 3)
    policy.profile[0, 4] = 18
    tables = policy.tables(tiny().start_s, 1)
    n = 60_000
    now = np.full(n, tiny().start_s + 10)
    video, strategy, _ = policy.choose(tables, np.zeros(n, np.int32), now)
    share = (tiny().catalogue.tags[video[strategy == 1], 0] == 4).mean()
    assert share == pytest.approx(18.5 / 24, abs=4 * np.sqrt(0.25 / (strategy == 1).sum()))


def test_logged_propensities_are_those_of_the_slow_form_along_a_log() -> None:
    """Replays the log's first hours against ``probabilities``, impression by impression."""
    log = next(p for p in log_blocks(tiny(), 0) if len(p) > 300).select(slice(0, 600))
    policy = LoggingPolicy(tiny(), 0)
    tables = policy.tables(tiny().start_s, 24)
    for row in range(len(log)):
        user, video = int(log.user_idx[row]), int(log.video_idx[row])
        p = policy.probabilities(tables, user, int(log.timestamp[row]))[video]
        assert log.propensity[row] == pytest.approx(p, rel=1e-4)
        policy.observe(np.array([user]), np.array([video]), log.long_view[row : row + 1])


def test_ips_recovers_the_value_of_another_policy() -> None:
    """E[1/p · π(v) · r] over the log is what π would get where π is what the policy might show."""
    policy, now = policy_at_work()
    tables = policy.tables(tiny().start_s, 24)
    n = 200_000
    users, times = np.zeros(n, np.int32), np.full(n, now)
    video, _, propensity = policy.choose(tables, users, times)
    p = policy.probabilities(tables, 0, now)
    every = tiny().expected(np.array([0]), np.arange(500)[None], np.array([now])).long_view[0]
    target = (p > 0) / (p > 0).sum()  # uniform over what may be shown
    value = float((target * every).sum())
    reward = np.random.default_rng(0).random(n) < every[video]
    terms = target[video] / propensity * reward
    error = terms.std() / np.sqrt(n)
    assert abs(terms.mean() - value) < 4 * error
    assert error < 0.01
    assert abs(reward.mean() - value) > 4 * error, "the plain mean is biased, so the test can fail"


def test_an_empty_catalogue_and_an_exhausted_user_are_named() -> None:
    config = TINY.model_copy(update={"backlog_share": 0.0})
    with pytest.raises(ValueError, match="no video exists at"):
        generate_log(make_world(config, 0), 0)
    policy = LoggingPolicy(tiny(), 0)
    policy.seen = np.arange(500, dtype=np.int32)[None]
    tables = policy.tables(tiny().start_s, 1)
    with pytest.raises(ValueError, match="user 0 has seen nearly all"):
        policy.choose(tables, np.array([0]), np.array([tiny().start_s]))


def test_without_fresh_uploads_the_fresh_slots_are_uniform() -> None:
    config = TINY.model_copy(update={"backlog_share": 1.0})
    world = make_world(config, 0)
    policy = LoggingPolicy(world, 0)
    now = world.start_s + 3 * DAY_S + 7
    tables = policy.tables(world.start_s + 3 * DAY_S, 1)
    n = 50_000
    video, strategy, logged = policy.choose(tables, np.zeros(n, np.int32), np.full(n, now))
    assert len(np.unique(video[strategy == 2])) > 450
    assert np.allclose(logged, policy.probabilities(tables, 0, now)[video], rtol=1e-4)


def test_parts_on_disk_are_the_log_in_memory(tmp_path: Path) -> None:
    parts = stream_log(tiny(), tmp_path, 0)
    assert [p.name for p in parts][:2] == ["log-00000.parquet", "log-00001.parquet"]
    assert same(read_log(parts), tiny_log())


def test_the_length_of_blocks_changes_parts_not_the_shape() -> None:
    """Blocks of an hour: more parts, still in order, about as many rows."""
    parts = [p for p in log_blocks(tiny(), 0, rows_per_block=50) if len(p)]
    assert len(parts) > 80
    times = np.concatenate([p.timestamp for p in parts])
    assert (np.diff(times) >= 0).all()
    assert 0.8 < len(times) / len(tiny_log()) < 1.25


def test_a_hundred_impressions_say_most_of_a_taste() -> None:
    """A logistic regression for each user, on true factors, reaches most of the oracle's value."""
    world = make_world(WorldConfig(n_users=150, n_videos=3000, impressions_per_user=150), 0)
    log, factors = generate_log(world, 0), world.video_truth.factors / 4
    users = np.flatnonzero(np.bincount(log.user_idx, minlength=150) >= 100)[:40]
    now = np.full(len(users), world.end_s)
    lists = []
    for user in users:
        rows = np.flatnonzero(log.user_idx == user)[-150:]
        foreign = world.catalogue.language != world.users.language[user]
        x = np.c_[factors, foreign, np.ones(3000)]
        weight = _ridge(x[log.video_idx[rows]], log.long_view[rows])
        lists.append(np.argsort(-x[:, :-1] @ weight)[:10])
    learnt = world.expected(users, np.stack(lists), now).satisfaction.mean()
    best = world.expected(users, world.oracle_top(users, now, 10), now).satisfaction.mean()
    assert learnt > 0.7 * best


def _ridge(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Logistic regression with a unit Gaussian prior, by Newton's steps; without the constant."""
    weight = np.zeros(x.shape[1])
    for _ in range(8):
        p = 1 / (1 + np.exp(-x @ weight))
        hessian = x.T @ (x * (p * (1 - p))[:, None]) + np.eye(len(weight))
        weight -= np.linalg.solve(hessian, x.T @ (p - y) + weight)
    return weight[:-1]


def test_base_rates_are_those_of_a_short_video_feed() -> None:
    """What the ranker's labels look like; a change of the response model must keep them."""
    log = generate_log(make_world(WorldConfig(n_users=500, n_videos=4000, days=7), 0), 0)
    assert 0.25 < log.long_view.mean() < 0.40
    assert 0.25 < log.skip.mean() < 0.45
    assert 0.02 < log.like.mean() < 0.04
    assert 0 < log.follow.mean() < log.share.mean() < 0.01


# The compiled kernel, as plain Python.


def test_the_kernel_uncompiled_makes_the_same_choices() -> None:
    """Same stream of random numbers, same videos: numba changes the speed and nothing else."""
    policy, now = policy_at_work()
    tables = policy.tables(tiny().start_s, 24)
    users, times = np.array([0, 1, 2] * 30, np.int32), np.full(90, now)
    policy._rng = np.random.default_rng(5)
    compiled = policy.choose(tables, users, times)
    policy._rng = np.random.default_rng(5)
    with pytest.MonkeyPatch.context() as patch:
        for name in ("_choose", "_tag_rates", "_pick", "_search", "_contains"):
            patch.setattr(logging_policy, name, getattr(logging_policy, name).py_func)
        plain = policy.choose(tables, users, times)
    for ours, theirs in zip(compiled, plain, strict=True):
        assert np.allclose(ours, theirs, rtol=1e-6)


def test_pick_and_search_by_hand() -> None:
    shares = np.array([0.2, 0.3, 0.5])
    picked = [logging_policy._pick.py_func(shares, draw) for draw in (0.0, 0.19, 0.2, 0.49, 0.99)]
    assert picked == [0, 0, 1, 1, 2]
    assert logging_policy._pick.py_func(shares, 1.0) == 2, "rounding falls on the last"
    cumulative = np.array([0.0, 1, 1, 4, 8])  # weights 1, 0, 3, 4
    found = [logging_policy._search.py_func(cumulative, 0, 4, d) for d in (0.0, 0.12, 0.13, 0.99)]
    assert found == [0, 0, 2, 3]
    assert logging_policy._search.py_func(cumulative, 1, 3, 0.5) == 2
    assert logging_policy._search.py_func(cumulative, 1, 3, 1.0) == 2
