"""What the notebooks compute and the system itself has no use for.

Legend: Q requests, C candidates, R impressions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from shorts_recommendation.counters import counters_until
from shorts_recommendation.evaluation.duration_study import LabelScores, fit_label_scores
from shorts_recommendation.evaluation.ranking import LoggedRows
from shorts_recommendation.evaluation.retrieval_queries import snapshots_of
from shorts_recommendation.experiments.ground import log_before
from shorts_recommendation.experiments.settings import ExperimentSettings
from shorts_recommendation.experiments.simulation import Platform
from shorts_recommendation.experiments.studies import Ground
from shorts_recommendation.features import cross_features, replay, requests_at
from shorts_recommendation.log import DAY_S
from shorts_recommendation.notebooks.desk import Desk
from shorts_recommendation.ranking.fitting import training_label
from shorts_recommendation.ranking.heads import TASKS, Heads
from shorts_recommendation.ranking.sequences import make_sequences
from shorts_recommendation.ranking.value import grades
from shorts_recommendation.recommender import Recommender
from shorts_recommendation.requests import RequestBatch
from shorts_recommendation.state import Outcomes


def by_duration(duration_s: np.ndarray, values: np.ndarray, groups: int = 10) -> np.ndarray:
    """Mean of values f[N] in groups of equal size by duration, f64[groups, 2]: duration, mean."""
    order = np.array_split(np.argsort(duration_s, kind="stable"), groups)
    return np.array([[duration_s[part].mean(), values[part].mean()] for part in order])


def judged_impressions(desk: Desk, most: int) -> tuple[LoggedRows, dict[str, Heads]]:
    """Impressions of the test days, and what both rankers said a moment before each.

    Args:
        desk: The system; its rankers know nothing of these days.
        most: Impressions, drawn by the seed.

    Returns:
        R rows with their labels (nan for watch and diversity), heads f32[R] by ranker.
    """
    data, recommender = desk.data, desk.recommender
    log, config = data.log, desk.config
    rows = np.flatnonzero(log.timestamp >= data.windows.validation_end)
    rng = np.random.default_rng(config.seed)
    rows = np.sort(rng.permutation(rows)[:most])
    batch = requests_at(data.users, recommender.items, log, config.state, rows)
    videos = log.video_idx[rows][:, None]
    cross = _features(desk, batch, videos)
    encoded = recommender.encode(batch)
    heads = {}
    for name, ranker in recommender.rankers.items():
        found = ranker.score(encoded, batch.user, batch.context, videos, cross)
        heads[name] = Heads(**{task: column[:, 0] for task, column in found.as_dict().items()})
    labels = np.full((len(rows), len(TASKS)), np.nan, dtype=np.float32)
    for task in ("long_view", "like", "skip"):
        labels[:, TASKS.index(task)] = getattr(log, task)[rows]
    strong = log.like[rows] | log.share[rows] | log.follow[rows]
    return LoggedRows(
        user=log.user_idx[rows],
        session=log.session_id[rows],
        gains=grades(log.long_view[rows], log.skip[rows], strong),
        labels=labels,
        position=log.position[rows],
        strategy=log.strategy[rows],
    ), heads


@dataclass(frozen=True)
class LabelLesson:
    """Three watch labels on the same trees and candidates.

    Attributes:
        scores: By label, f32[Q, C].
        videos: i32[Q, C], -1 padded: the funnel's own candidates.
        duration_s: f32[Q, C].
        satisfaction: f32[Q, C], true.
        users: i32[Q].
    """

    scores: LabelScores
    videos: np.ndarray
    duration_s: np.ndarray
    satisfaction: np.ndarray
    users: np.ndarray


def three_labels(desk: Desk) -> LabelLesson:
    """Trains trees on seconds, ratio and D2Q, and scores candidates with each.

    Args:
        desk: World and log; trees learn on its training days, requests are those of the test days.
    """
    data, config, items = desk.data, desk.config, desk.recommender.items
    rows, _ = replay(data.catalogue, data.users, items, data.log, config.state)
    label = training_label(data.catalogue, data.log, data.windows, config)
    sequences = make_sequences(
        data.catalogue, data.log, rows, label, session_gap_s=config.state.session_gap_s
    )
    batch, videos = desk.queries().batch, desk.funnel.videos
    learn = sequences.time_s < data.windows.train_end
    scores = fit_label_scores(
        sequences,
        learn,
        data.catalogue,
        data.log,
        batch,
        _features(desk, batch, videos),
        config.ranking,
        seed=config.seed,
    )
    known = np.maximum(videos, 0)
    truth = data.world.expected(batch.user_idx, known, batch.now_s).satisfaction
    return LabelLesson(scores, videos, data.catalogue.duration_s[known], truth, batch.user_idx)


def turn_of_sessions(
    desk: Desk, feeds: Mapping[str, Recommender], *, n_people: int, n_videos: int
) -> dict[str, np.ndarray]:
    """Share of a tag in the next ten while people watch through one video of it after the other.

    The people are those seen last, the tag is the fifth of each one's profile, and the videos are
    opened outside the feed, so that all feeds see the same history.

    Args:
        desk: States and counters at the end of the log.
        feeds: By name.
        n_people: At most so many.
        n_videos: Watched one after the other.

    Returns:
        f64[n_videos + 1] by name: before the first, after each.
    """
    catalogue, states = desk.data.catalogue, desk.recommender.new_states()
    snapshot = desk.recommender.new_counters().snapshot
    people = np.argsort(-states.last_s)[:n_people].astype(np.int32)
    start_s = states.last_s[people] + 30
    tags = np.argsort(-states.tag_profile[people], axis=1)[:, 4]
    alive = catalogue.upload_s < start_s.min()
    of_tag = [np.flatnonzero(alive & (catalogue.tags == tag).any(axis=1)) for tag in tags]
    opened = np.stack([np.resize(videos, n_videos) for videos in of_tag]).astype(np.int32)
    yes, no = np.ones(len(people), dtype=bool), np.zeros(len(people), dtype=bool)
    share = {name: np.zeros(n_videos + 1) for name in feeds}
    for number in range(n_videos + 1):
        now_s = start_s + 40 * number
        batch = states.batch(people, now_s)
        for name, feed in feeds.items():
            slates = feed.recommend(batch, snapshot, 10)
            has = [
                (catalogue.tags[slate.video_idx] == tag).any(axis=1).mean()
                for slate, tag in zip(slates, tags, strict=True)
            ]
            share[name][number] = np.mean(has)
        if number < n_videos:
            video = opened[:, number]
            seen = Outcomes(catalogue.duration_s[video], yes, no, no, no, no)
            states.apply(people, video, seen, now_s)
    return share


def ground_of(desk: Desk, settings: ExperimentSettings) -> Ground:
    """Where experiments on the desk's system begin: the midnight before the test days.

    Nothing is trained: the system knows the days before that midnight only, and gets the states and
    counters of then instead of those at the end of the log.
    """
    data, recommender, state = desk.data, desk.recommender, desk.config.state
    start_s = data.windows.validation_end
    before = log_before(data, start_s)
    _, states = replay(data.catalogue, data.users, recommender.items, before.log, state)
    counters = counters_until(
        data.catalogue,
        before.log,
        start_s,
        half_lives_h=state.counter_half_lives_h,
        period_s=state.counter_period_s,
    )
    return Ground(
        world=data.world,
        recommender=recommender,
        platform=Platform(states, counters),
        log=before.log,
        start_s=start_s,
        settings=settings,
        seed=desk.config.seed,
    )


def small_settings(desk: Desk, most_people: int = 600, most_days: int = 4) -> ExperimentSettings:
    """An experiment over the test days of the desk's world, everybody in it up to a limit."""
    windows = desk.data.windows
    days = min(most_days, (windows.end - windows.validation_end) // DAY_S)
    people = min(most_people, len(desk.data.users))
    return replace(
        ExperimentSettings(),
        days=days,
        long_days=days,
        people=people,
        trap_people=people,
        aa_splits=40,
    )


def _features(desk: Desk, batch: RequestBatch, videos: np.ndarray) -> np.ndarray:
    """f32[Q, C, F] of candidates, each request against the counters of its moment."""
    data, items = desk.data, desk.recommender.items
    snapshots = snapshots_of(data.log, len(data.catalogue), desk.config, batch.now_s)
    parts, places = [], []
    for snapshot, rows in snapshots:
        parts.append(cross_features(batch.take(rows), videos[rows], snapshot, items))
        places.append(rows)
    return np.concatenate(parts)[np.argsort(np.concatenate(places))]
