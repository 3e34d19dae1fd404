"""The truth of the world: what is drawn, how tastes drift, what content says, who is the oracle."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from shorts_recommendation.config import WorldConfig
from shorts_recommendation.log import DAY_S
from shorts_recommendation.world import Behaviour, World, make_world
from shorts_recommendation.world.response import expected_response

TINY = WorldConfig(n_users=200, n_videos=500, impressions_per_user=30, days=4, n_tags=12)


@cache
def tiny(seed: int = 0) -> World:
    return make_world(TINY, seed)


def test_the_seed_decides_everything() -> None:
    again, other = make_world(TINY, 0), make_world(TINY, 1)
    for name in ("creator_idx", "tags", "duration_s", "upload_s", "content", "video_ids"):
        ours = getattr(tiny().catalogue, name)
        assert np.array_equal(ours, getattr(again.catalogue, name))
        assert not np.array_equal(ours, getattr(other.catalogue, name))
    assert np.array_equal(tiny().user_truth.taste_end, again.user_truth.taste_end)


def test_the_catalogue_is_as_its_columns_promise() -> None:
    world = make_world(TINY.model_copy(update={"n_videos": 20_000}), 3)
    catalogue = world.catalogue
    assert catalogue.content.dtype == np.float16
    assert catalogue.content.shape == (20_000, 768)
    length = np.linalg.norm(catalogue.content.astype(np.float32), axis=1)
    assert np.allclose(length, 1, atol=2e-3)
    assert len(np.unique(catalogue.video_ids)) == len(catalogue)
    assert catalogue.n_creators == 2_000
    assert catalogue.n_tags == 12
    main, second, third = catalogue.tags.T
    assert (main >= 0).all()
    assert (third[second < 0] == -1).all()
    assert (main != second).all()
    assert (second[third >= 0] != third[third >= 0]).all()
    assert catalogue.duration_s.min() >= 5
    assert catalogue.duration_s.max() <= 180
    assert 10 < np.median(catalogue.duration_s) < 30
    old = (catalogue.upload_s < world.start_s).mean()
    assert abs(old - TINY.backlog_share) < 0.02
    hours = (catalogue.upload_s[catalogue.upload_s >= world.start_s] - world.start_s) // 3600
    assert len(np.unique(hours)) == 24 * TINY.days, "something is uploaded every hour"
    assert catalogue.upload_s.max() < world.end_s


def test_popularity_follows_zipf() -> None:
    weight = np.sort(tiny().video_truth.popularity)[::-1]
    slope = np.polyfit(np.log(np.arange(1, 501)), np.log(weight), 1)[0]
    assert slope == pytest.approx(-TINY.zipf_exponent, abs=1e-6)


def test_popularity_waits_for_the_upload_decays_and_jumps_with_a_shock() -> None:
    world = tiny()
    video = int(np.argmax(world.catalogue.upload_s))
    upload = int(world.catalogue.upload_s[video])
    calm = replace(world, shocks=replace(world.shocks, boost=np.ones(len(world.shocks.boost))))
    assert calm.popularity_at(upload - 1)[video] == 0
    first = calm.popularity_at(upload)[video]
    assert first == pytest.approx(world.video_truth.popularity[video])
    assert calm.popularity_at(upload + DAY_S)[video] == pytest.approx(first * 2**-0.8)
    shock = 0
    now = int(world.shocks.start_s[shock])
    there = world.catalogue.upload_s <= now
    hot = there & (world.catalogue.tags[:, 0] == world.shocks.tag[shock])
    ratio = world.popularity_at(now)[hot] / calm.popularity_at(now)[hot]
    assert (ratio >= world.shocks.boost[shock] * 0.999).all()


def test_tastes_rotate_as_far_as_the_drift_says() -> None:
    users = np.arange(200)
    start, end = np.full(200, tiny().start_s), np.full(200, tiny().end_s)
    for drift, at_end in ((0.0, 1.0), (0.5, np.cos(np.pi / 4)), (1.0, 0.0)):
        world = make_world(TINY.model_copy(update={"taste_drift": drift, "n_users": 4000}), 0)
        first, last = world.tastes(users, start), world.tastes(users, end)
        assert np.allclose(first, world.user_truth.taste_start[users])
        part = (last * first).sum(axis=1) / world.config.n_factors
        independent = world.user_truth.taste_end[users]
        rest = (independent * first).sum(axis=1) / world.config.n_factors
        angle = drift * np.pi / 2
        assert np.allclose(part, np.cos(angle) + np.sin(angle) * rest, atol=1e-4)
        assert part.mean() == pytest.approx(at_end, abs=0.15)  # few tags: tastes are alike
    halfway = (start + end) // 2
    assert np.array_equal(tiny().tastes(users, end + 9 * DAY_S), tiny().tastes(users, end))
    assert not np.allclose(tiny().tastes(users, halfway), tiny().tastes(users, end))


@pytest.mark.parametrize("signal", [0.2, 0.5, 0.9])
def test_a_linear_probe_finds_as_much_of_the_factors_as_asked(signal: float) -> None:
    """A ridge probe, fitted on half of the videos; a creator's style gives a few per cent away."""
    world = make_world(WorldConfig(n_users=10, n_videos=6000, content_signal=signal), 0)
    x, y, half = world.catalogue.content.astype(np.float32), world.video_truth.factors, 3000
    x = x - x[:half].mean(axis=0)
    probe = np.linalg.solve(x[:half].T @ x[:half] + 0.5 * np.eye(768), x[:half].T @ y[:half])
    left = ((y[half:] - y[:half].mean(axis=0) - x[half:] @ probe) ** 2).sum()
    r2 = 1 - left / ((y[half:] - y[:half].mean(axis=0)) ** 2).sum()
    assert r2 == pytest.approx(signal, abs=0.05)


def test_content_is_near_within_a_tag_and_far_between_tags() -> None:
    world = make_world(WorldConfig(n_users=10, n_videos=4000), 0)
    content, main = world.catalogue.content.astype(np.float32), world.catalogue.tags[:, 0]
    distance = 1 - content[:2000] @ content[2000:].T
    same = main[:2000, None] == main[None, 2000:]
    assert 0.3 < distance[same].mean() < 0.5
    assert 0.8 < distance[~same].mean() < 1.0


def test_expected_is_the_mean_of_many_draws() -> None:
    """The closed forms against the simulator that they summarise, one viewer at a time."""
    from shorts_recommendation.world import Audience

    world = make_world(TINY.model_copy(update={"n_users": 20_000}), 0)
    users, now = np.arange(20_000), np.full(20_000, world.start_s + DAY_S)
    for video in (0, 7):
        videos = np.full(20_000, video)
        audience = Audience(world, video)
        audience.open_sessions(users, now)
        seen = audience.watch(users, videos, now)
        mean = world.expected(users, videos[:, None], now)
        for name in ("long_view", "skip", "like", "watch_s", "satisfaction"):
            drawn, expected = getattr(seen, name).astype(float), getattr(mean, name)[:, 0]
            error = (drawn - expected).std() / np.sqrt(20_000) + 1e-6
            assert abs((drawn - expected).mean()) < 4 * error, name


def test_expected_refuses_what_it_cannot_mean() -> None:
    now = np.full(2, tiny().start_s)
    with pytest.raises(ValueError, match=r"video_idx must lie in \[0, 500\), got -1 to 3"):
        tiny().expected(np.array([0, 1]), np.array([[3], [-1]]), now)
    with pytest.raises(ValueError, match="user_idx"):
        tiny().expected(np.array([0, 200]), np.array([[3], [1]]), now)
    with pytest.raises(ValueError, match=r"want user_idx \[B\]"):
        tiny().expected(np.array([0, 1]), np.array([3, 1]), now)


def test_expected_in_chunks_is_expected_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    users, now = np.arange(50), np.full(50, tiny().end_s)
    videos = rng.integers(500, size=(50, 7))
    whole = tiny().expected(users, videos, now)
    monkeypatch.setattr("shorts_recommendation.world.world.PAIRS_PER_CHUNK", 20)
    for name in ("long_view", "watch_s", "satisfaction"):
        assert np.allclose(getattr(whole, name), getattr(tiny().expected(users, videos, now), name))


def test_the_oracles_list_is_the_brute_force_list() -> None:
    users = np.arange(30)
    now = np.linspace(tiny().start_s, tiny().end_s, 30).astype(np.int64)
    top = tiny().oracle_top(users, now, 10)
    every = np.broadcast_to(np.arange(500), (30, 500))
    satisfaction = tiny().expected(users, every, now).satisfaction.astype(np.float64)
    satisfaction[tiny().catalogue.upload_s[None] > now[:, None]] = -1
    best = -np.sort(-satisfaction, axis=1)[:, :10]
    assert np.allclose(np.take_along_axis(satisfaction, top, axis=1), best, atol=1e-6)
    assert all(len(set(row)) == 10 for row in top.tolist())
    assert (tiny().catalogue.upload_s[top] <= now[:, None]).all()


def test_the_oracle_wants_no_more_than_exists() -> None:
    with pytest.raises(ValueError, match="k is 501"):
        tiny().oracle_top(np.array([0]), np.array([tiny().end_s]), 501)
    early = tiny().start_s - 10_000 * DAY_S
    with pytest.raises(ValueError, match="only 0 videos exist"):
        tiny().oracle_top(np.array([0]), np.array([early]), 1)


def test_the_oracle_is_at_least_twice_as_good_as_trending_and_random() -> None:
    world = make_world(WorldConfig(n_users=300, n_videos=3000), 0)
    users, now = np.arange(300), np.full(300, world.end_s)
    rng = np.random.default_rng(0)
    trending = np.tile(np.argsort(-world.popularity_at(world.end_s))[:10], (300, 1))
    lists = {
        "oracle": world.oracle_top(users, now, 10),
        "trending": trending,
        "random": rng.integers(3000, size=(300, 10)),
    }
    mean = {n: world.expected(users, v, now).satisfaction.mean() for n, v in lists.items()}
    assert mean["oracle"] > 2 * max(mean["trending"], mean["random"])


# The response, by hand.


def test_skip_and_satisfaction_by_hand() -> None:
    behaviour = Behaviour(skip_bias=1.0, skip_slope=2.0, bait=0.5, content=-1.0, content_slope=1.0)
    got = expected_response(behaviour, np.array([1.0]), np.array([0.4]), np.array([20.0]))
    assert got.skip[0] == pytest.approx(1 / (1 + np.exp(1.0 + 2.0 * (1.0 + 0.2))))
    logit = -1.0 + 1.0 - behaviour.disappointment * 0.4
    assert got.satisfaction[0] == pytest.approx(1 / (1 + np.exp(-logit)))


def test_duration_bias_seconds_rise_and_ratio_falls_and_satisfaction_does_not_care() -> None:
    duration = np.array([6.0, 12, 25, 50, 100, 180])
    got = expected_response(Behaviour(), np.zeros(6), np.zeros(6), duration)
    assert (np.diff(got.watch_s) > 0).all()
    assert (np.diff(got.watch_s / duration) < 0).all()
    assert np.ptp(got.satisfaction) == 0
    assert np.ptp(got.skip) == 0
    assert np.ptp(got.like) == 0


def test_clickbait_draws_views_and_disappoints() -> None:
    got = expected_response(Behaviour(), np.zeros(2), np.array([0.0, 0.8]), np.full(2, 20.0))
    assert got.long_view[1] > got.long_view[0]
    assert got.skip[1] < got.skip[0]
    assert got.satisfaction[1] < 0.5 * got.satisfaction[0]
    assert got.like[1] < got.like[0]


def test_a_foreign_language_lowers_interest_by_its_constant() -> None:
    world = tiny()
    same = world.catalogue.language == world.users.language[0]
    native, foreign = int(np.flatnonzero(same)[0]), int(np.flatnonzero(~same)[0])
    flat = replace(
        world,
        video_truth=replace(
            world.video_truth,
            factors=np.zeros_like(world.video_truth.factors),
            quality=np.zeros_like(world.video_truth.quality),
        ),
    )
    y = flat.interest(np.array([0]), np.array([[native, foreign]]), np.array([world.start_s]))
    assert y[0, 0] == 0
    assert y[0, 1] == pytest.approx(-world.behaviour.language)
