"""Lab: a ranker that learns watch time learns duration.

A long video is watched for more seconds, a short one for a larger share, whoever watches. The
label decides which of the two fills the feed; the viewer does not. Zhan et al., "Deconfounding
Duration Bias in Watch-time Prediction for Video Recommendation", KDD 2022: learn the quantile of a
watch time among impressions of like duration (``ranking.duration``).

The same trees, rows and features, three labels. Video statistics and tastes come from the first
half of the log, the trees from the second, so no row has a part in its own features.

In: a simulated world and its log. Out: a ``LabReport``. Legend: U users, V videos, C candidates.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import lightgbm as lgb
import numpy as np
from matplotlib.figure import Figure
from scipy.stats import rankdata

from ml_platform.evaluation.intervals import Estimate, bootstrap_difference, bootstrap_mean
from ml_platform.evaluation.lab import Comparison, LabReport, Source, Symptom, dots
from ml_platform.evaluation.progress import Progress
from shorts_recommendation.config import WorldConfig
from shorts_recommendation.content_projection import fit_basis, project
from shorts_recommendation.log import ImpressionLog
from shorts_recommendation.ranking.duration import Label, fit_watch_label
from shorts_recommendation.world import Expected, World, generate_log, make_world

if TYPE_CHECKING:
    from shorts_recommendation.commands import Run

PRIOR = 5.0
"""Impressions of the mean that stand before a video's own."""
HEADINGS = {
    "healthy": "healthy: true satisfaction (oracle)",
    "broken": "broken: seconds watched",
    "ratio": "broken: share watched",
    "no_duration": "seconds, duration feature dropped",
    "fixed": "fixed: quantile within duration (D2Q)",
    "random": "random",
}
LABELS = {
    "duration_s": ("duration of what is shown, s", ".0f"),
    "watch_s": ("seconds watched per video (dashboard)", ".1f"),
    "skip": ("skipped", ".1%"),
    "satisfaction": ("satisfaction (truth)", ".3f"),
    "score_duration": ("rank correlation of score and duration", "+.2f"),
}


@dataclass(frozen=True)
class DurationSettings:
    """Size of the lab.

    Attributes:
        n_users: U.
        n_videos: V.
        impressions_per_user: Mean rows of the log.
        candidates: C, drawn at random for each user.
        k: Videos shown.
        trees: Of every model.
    """

    n_users: int = 800
    n_videos: int = 2000
    impressions_per_user: int = 60
    candidates: int = 300
    k: int = 10
    trees: int = 80


def run(run: Run) -> LabReport:
    """The lab; it brings its own world, whatever the data of the run."""
    return measure(DurationSettings(), run.progress, seed=run.config.seed)


def measure(settings: DurationSettings, progress: Progress, *, seed: int = 0) -> LabReport:
    """Trains on every label and fills feeds with each."""
    with progress.stage("a world and its log", 1) as step:
        world = make_world(_world(settings), seed)
        log = generate_log(world, seed)
        step(1)
    rng = np.random.default_rng(seed)
    candidates = _candidates(settings, rng)
    users, now_s = np.arange(settings.n_users), np.full(settings.n_users, world.end_s)
    truth = world.expected(users, candidates, now_s)
    scores = {"healthy": truth.satisfaction, "random": rng.random(candidates.shape)}
    kinds: dict[str, tuple[Label, bool]] = {
        "broken": ("seconds", True),
        "ratio": ("ratio", True),
        "no_duration": ("seconds", False),
        "fixed": ("d2q", True),
    }
    with progress.stage("four rankers", len(kinds)) as step:
        for name, (kind, has_duration) in kinds.items():
            model = Ranker(world, log, kind, has_duration, settings.trees)
            scores[name] = model.scores(candidates)
            step(1)
    shown = {name: feed(world, truth, candidates, scores[name], settings.k) for name in HEADINGS}
    return _report(settings, shown)


class Ranker:
    """Trees on five features, for one label.

    Args:
        world: Its catalogue and users (the truth is not read).
        log: Rows.
        kind: The label.
        has_duration: Whether the duration is a feature.
        trees: How many.
    """

    def __init__(
        self, world: World, log: ImpressionLog, kind: Label, has_duration: bool, trees: int
    ) -> None:
        catalogue = world.catalogue
        self._world, self._has_duration = world, has_duration
        self._vectors = project(catalogue.content, fit_basis(catalogue.content, 32))
        early = log.timestamp < np.median(log.timestamp)
        first, second = log.select(early), log.select(~early)
        label = fit_watch_label(first.watch_s, _durations(world, first), kind=kind, groups=10)
        past = label.transform(first.watch_s, _durations(world, first))
        self._mean, self._count = _shrunk(first.video_idx, past - past.mean(), len(catalogue))
        self._taste = np.zeros((len(world.users), self._vectors.shape[1]))
        weighed = (past - past.mean())[:, None] * self._vectors[first.video_idx]
        np.add.at(self._taste, first.user_idx, weighed)
        self._model = lgb.LGBMRegressor(
            n_estimators=trees, num_leaves=31, min_child_samples=50, n_jobs=1, verbose=-1
        )
        rows = self._features(second.user_idx, second.video_idx)
        self._model.fit(rows, label.transform(second.watch_s, _durations(world, second)))

    def scores(self, candidates: np.ndarray) -> np.ndarray:
        """Predicted labels f64[U, C] of candidates i32[U, C], row u for user u."""
        users = np.repeat(np.arange(len(candidates)), candidates.shape[1])
        rows = self._features(users, candidates.ravel())
        predicted = self._model.booster_.predict(rows, num_threads=1)
        return np.asarray(predicted).reshape(candidates.shape)

    def _features(self, users: np.ndarray, videos: np.ndarray) -> np.ndarray:
        world, catalogue = self._world, self._world.catalogue
        columns = [
            self._mean[videos],
            np.log1p(self._count[videos]),
            np.einsum("nd,nd->n", self._taste[users], self._vectors[videos]),
            (world.users.language[users] == catalogue.language[videos]).astype(float),
        ]
        if self._has_duration:
            columns.append(np.log(catalogue.duration_s[videos]))
        return np.stack(columns, axis=1)


def feed(
    world: World, truth: Expected, candidates: np.ndarray, scores: np.ndarray, k: int
) -> dict[str, np.ndarray]:
    """What the k best by score are like, and how the score hangs on duration; f64[U] each."""
    top = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    duration = world.catalogue.duration_s[candidates]

    def of(values: np.ndarray) -> np.ndarray:
        return np.take_along_axis(values, top, axis=1).mean(axis=1).astype(np.float64)

    return {
        "duration_s": of(duration),
        "watch_s": of(truth.watch_s),
        "skip": of(truth.skip),
        "satisfaction": of(truth.satisfaction),
        "score_duration": rank_correlation(scores, duration),
    }


def rank_correlation(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Spearman's correlation within each row, f64[U]."""
    ranks = [rankdata(x, axis=1) for x in (a, b)]
    a, b = (r - r.mean(axis=1, keepdims=True) for r in ranks)
    return (a * b).sum(axis=1) / np.sqrt((a**2).sum(axis=1) * (b**2).sum(axis=1))


def _report(settings: DurationSettings, shown: Mapping[str, dict[str, np.ndarray]]) -> LabReport:
    values: dict[str, dict[str, Estimate]] = {
        key: {name: bootstrap_mean(shown[name][key]) for name in HEADINGS} for key in LABELS
    }
    symptoms = tuple(Symptom(k, LABELS[k][0], values[k], LABELS[k][1]) for k in LABELS)
    main = {name: HEADINGS[name] for name in ("healthy", "broken", "ratio", "fixed")}
    half = {name: HEADINGS[name] for name in ("broken", "no_duration", "fixed", "random")}
    tilt, seconds = values["score_duration"], values["watch_s"]
    return LabReport(
        source=Source.simulation(settings),
        protocol=(
            f"simulation: {settings.n_users} people, {settings.n_videos} videos, the best "
            f"{settings.k} of {settings.candidates} random candidates each; trees on the second "
            "half of the log; intervals by user bootstrap"
        ),
        main=Comparison("One log, three labels", main, tuple(s.only(main) for s in symptoms)),
        alarm=(
            f"score and duration go together: {tilt['broken'].value:+.2f} for seconds, "
            f"{tilt['ratio'].value:+.2f} for shares, {tilt['fixed'].value:+.2f} for D2Q. The "
            f"dashboard says: {seconds['broken'].value:.0f} seconds a video, D2Q only "
            f"{seconds['fixed'].value:.0f}."
        ),
        more=(
            Comparison(
                "Is the duration feature the culprit?",
                half,
                tuple(s.only(half) for s in symptoms),
                by_variant=True,
            ),
            _differences(shown),
        ),
        figure=_figure(values),
    )


def _differences(shown: Mapping[str, dict[str, np.ndarray]]) -> Comparison:
    names = ("broken", "ratio", "no_duration")
    found = {
        f"fixed_minus_{n}": bootstrap_difference(
            shown["fixed"]["satisfaction"], shown[n]["satisfaction"]
        )
        for n in names
    }
    return Comparison(
        "True satisfaction: D2Q less the others, paired by person",
        {f"fixed_minus_{n}": HEADINGS[n] for n in names},
        (Symptom("satisfaction", "difference", found, "+.3f"),),
        by_variant=True,
    )


def _figure(values: Mapping[str, Mapping[str, Estimate]]) -> Figure:
    order = ("random", "broken", "no_duration", "ratio", "fixed", "healthy")
    rows = {HEADINGS[n]: {"satisfaction": values["satisfaction"][n]} for n in order}
    return dots("Which label makes people content?", "true satisfaction, 95% interval", rows)


def _world(settings: DurationSettings) -> WorldConfig:
    return WorldConfig(
        n_users=settings.n_users,
        n_videos=settings.n_videos,
        impressions_per_user=settings.impressions_per_user,
        n_languages=2,
        content_dim=64,
    )


def _candidates(settings: DurationSettings, rng: np.random.Generator) -> np.ndarray:
    rows = rng.random((settings.n_users, settings.n_videos))
    return np.argsort(rows, axis=1)[:, : settings.candidates]


def _durations(world: World, log: ImpressionLog) -> np.ndarray:
    return world.catalogue.duration_s[log.video_idx]


def _shrunk(video: np.ndarray, excess: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean label of each video above the log's, shrunk to it, and its impressions; [V] each."""
    count = np.bincount(video, minlength=n)
    return np.bincount(video, weights=excess, minlength=n) / (count + PRIOR), count
