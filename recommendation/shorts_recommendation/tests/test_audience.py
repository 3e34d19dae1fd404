"""What people carry: fatigue, place in the session, leaving, coming back."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from shorts_recommendation.config import WorldConfig
from shorts_recommendation.log import DAY_S, LONG_VIEW_S, SKIP_S
from shorts_recommendation.world import Audience, Behaviour, World, make_world
from shorts_recommendation.world.audience import (
    CONTENT_MEAN,
    FADE,
    LONGEST_SESSION,
    SATIATION_HALF_LIFE_S,
)

CONFIG = WorldConfig(n_users=3000, n_videos=600, impressions_per_user=30, days=4, n_tags=12)


@cache
def world() -> World:
    return make_world(CONFIG, 0)


def everyone(audience: Audience) -> tuple[np.ndarray, np.ndarray]:
    """All users and one time, with their sessions open."""
    users = np.arange(CONFIG.n_users)
    now = np.full(CONFIG.n_users, world().start_s + DAY_S)
    audience.open_sessions(users, now)
    return users, now


def test_the_same_seed_gives_the_same_people() -> None:
    outcomes = []
    for seed in (5, 5, 6):
        audience = Audience(world(), seed)
        users, now = everyone(audience)
        outcomes.append(audience.watch(users, users % 600, now).watch_s)
    assert np.array_equal(outcomes[0], outcomes[1])
    assert not np.array_equal(outcomes[0], outcomes[2])


def test_outcomes_keep_the_logs_definitions() -> None:
    audience = Audience(world(), 0)
    users, now = everyone(audience)
    videos = np.random.default_rng(0).integers(600, size=len(users))
    seen = audience.watch(users, videos, now)
    duration = world().catalogue.duration_s[videos]
    assert np.array_equal(seen.long_view, seen.watch_s >= np.minimum(duration, LONG_VIEW_S))
    assert np.array_equal(seen.skip, seen.watch_s < SKIP_S)
    assert not (seen.skip & (seen.long_view | seen.like | seen.share | seen.follow)).any()
    ratio = seen.watch_s / duration
    assert ratio.max() > 1.5, "replays"
    assert ratio.max() <= world().behaviour.replay_most + 1e-5
    assert ((seen.satisfaction > 0) & (seen.satisfaction < 1)).all()


def test_fatigue_of_a_creator_and_a_tag_by_hand() -> None:
    catalogue = world().catalogue
    first = int(np.argmax(np.bincount(catalogue.creator_idx)))
    of_creator = np.flatnonzero(catalogue.creator_idx == first)
    pairs = [(a, b) for a in of_creator for b in of_creator if a != b]
    seen, same = next(p for p in pairs if np.ptp(catalogue.tags[list(p), 0]) == 0)
    other = int(
        np.flatnonzero(
            (catalogue.tags[:, 0] == catalogue.tags[seen, 0]) & (catalogue.creator_idx != first)
        )[0]
    )
    away = int(np.flatnonzero(catalogue.tags[:, 0] != catalogue.tags[seen, 0])[0])
    behaviour = replace(Behaviour(), long_satiation=0.0)
    audience = Audience(replace(world(), behaviour=behaviour), 0)
    one, now = np.array([0]), np.array([world().start_s])
    audience.open_sessions(one, now)
    assert audience.fatigue(one, np.array([same]))[0] == 0
    audience.watch(one, np.array([seen]), now)
    creator, tag = behaviour.creator_satiation, behaviour.tag_satiation
    assert audience.fatigue(one, np.array([same]))[0] == pytest.approx(creator + tag)
    assert audience.fatigue(one, np.array([other]))[0] == pytest.approx(tag)
    assert audience.fatigue(one, np.array([away]))[0] == 0
    audience.watch(one, np.array([away]), now + 20)
    assert audience.fatigue(one, np.array([same]))[0] == pytest.approx(FADE * (creator + tag))
    audience.open_sessions(one, now + 5000)
    assert audience.fatigue(one, np.array([same]))[0] == 0, "a new session is rested"


def test_satiation_of_a_tag_halves_in_its_half_life() -> None:
    rested = replace(Behaviour(), tag_satiation=0.0, creator_satiation=0.0)
    audience = Audience(replace(world(), behaviour=rested), 0)
    one, now = np.array([0]), np.array([world().start_s])
    audience.open_sessions(one, now)
    video = np.array([int(np.argmin(world().catalogue.duration_s))])
    views = sum(int(audience.watch(one, video, now).long_view[0]) for _ in range(60))
    assert views > 4
    weight = rested.long_satiation
    assert audience.fatigue(one, video)[0] == pytest.approx(weight * np.log1p(views), rel=1e-4)
    audience.open_sessions(one, now + SATIATION_HALF_LIFE_S)
    later = audience.fatigue(one, video)[0]
    assert later == pytest.approx(weight * np.log1p(views / 2), rel=1e-4)


def test_later_places_are_skipped_more_but_satisfy_the_same() -> None:
    calm = replace(Behaviour(), tag_satiation=0.0, creator_satiation=0.0, long_satiation=0.0)
    audience = Audience(replace(world(), behaviour=calm), 0)
    users, now = everyone(audience)
    videos = users % 600
    first = audience.watch(users, videos, now)
    for _ in range(8):
        last = audience.watch(users, videos, now)
    assert np.allclose(first.satisfaction, last.satisfaction)
    error = np.sqrt(0.5 / len(users))
    assert last.skip.mean() - first.skip.mean() > 4 * error
    assert first.watch_s.mean() > last.watch_s.mean()
    assert (audience.place == 9).all()


def test_bad_videos_end_sessions_and_no_session_is_endless() -> None:
    audience = Audience(world(), 0)
    users, now = everyone(audience)
    good = world().oracle_top(users, now, 1)[:, 0]
    worst = np.argmin(
        world().expected(users, np.tile(np.arange(600), (3000, 1)), now).satisfaction, 1
    )
    happy = audience.watch(users, good, now).leaves.mean()
    other = Audience(world(), 0)
    other.open_sessions(users, now)
    assert other.watch(users, worst, now).leaves.mean() > 2 * happy
    audience.place[:] = LONGEST_SESSION - 1
    assert audience.watch(users, good, now).leaves.all()


def gaps(audience: Audience, users: np.ndarray, videos: np.ndarray, now: np.ndarray) -> np.ndarray:
    """Seconds until the next visit, after twelve sessions of five such videos."""
    for _ in range(12):
        audience.open_sessions(users, now)
        for place in range(5):
            audience.watch(users, videos[:, place], now)
        back = audience.next_visit_s(users, now)
    return back - now


def test_the_satisfied_come_back_sooner() -> None:
    """Retention: the ratio of gaps is what the formula says, within chance."""
    users, now = np.arange(3000), np.full(3000, world().start_s + DAY_S)
    calm = replace(Behaviour(), tag_satiation=0.0, creator_satiation=0.0, long_satiation=0.0)
    people = replace(world(), behaviour=calm)
    happy, bored = Audience(people, 0), Audience(people, 0)
    best = world().oracle_top(users, now, 5)
    poor = np.random.default_rng(0).integers(600, size=(3000, 5))
    soon, late = gaps(happy, users, best, now), gaps(bored, users, poor, now)
    assert happy.habit.mean() > CONTENT_MEAN + 0.3 > bored.habit.mean()
    mood = np.exp(-calm.retention * (happy.habit - bored.habit)).mean()
    assert soon.mean() / late.mean() == pytest.approx(mood, rel=0.15)


def test_habit_moves_by_its_weight() -> None:
    audience = Audience(world(), 0)
    one, now = np.array([0]), np.array([world().start_s])
    audience.open_sessions(one, now)
    felt = [audience.watch(one, np.array([v]), now).satisfaction[0] for v in (3, 4)]
    audience.next_visit_s(one, now)
    expected = CONTENT_MEAN + 0.2 * (np.mean(felt) - CONTENT_MEAN)
    assert audience.habit[0] == pytest.approx(expected, rel=1e-5)


def test_visits_follow_the_time_of_day() -> None:
    audience = Audience(world(), 0)
    start = np.full(3000, world().start_s)
    hours = (audience._later(start, np.linspace(0, 4 * DAY_S, 3000)) // 3600) % 24
    count = np.bincount(hours, minlength=24)
    assert count[19:22].mean() > 2.5 * count[6:10].mean()
    zero = audience._later(start + 12345, np.zeros(3000))
    assert np.abs(zero - start - 12345).max() <= 1, "no gap, no time"
    later = audience._later(start + 12345, np.full(3000, 3.0 * DAY_S))
    assert np.abs(later - start - 12345 - 3 * DAY_S).max() <= 1, "whole days are whole days"
