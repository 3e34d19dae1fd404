"""The study: every model tuned on the validation users, then asked about the test users once.

In: ``MicroVideos``, a ``MicroVideoConfig``. Out: ``Study``: one ``Row`` a model with recall, NDCG and
precision at k of every test user (mean over seeds where the model is random).

Two protocols, kept apart in every table:

- ``published``: models are fitted on train rows only; validation pairs choose among settings and do
  nothing else. These rows stand beside published figures.
- ``recent``: validation pairs are data: they are counted, and trees learn from them. No published
  model has them; these rows show what knowing the present is worth on this set.

Legend: U users, V videos, Q test users, k list length.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import product

import numpy as np

from ml_algorithms.diversity.mmr import mmr, rescale
from ml_platform.data.micro_video import MicroVideos
from ml_platform.evaluation.diversity_metrics import intra_list_distance
from ml_platform.evaluation.progress import Progress, Step
from shorts_recommendation.micro_video import scorers
from shorts_recommendation.micro_video.funnel import (
    Labelled,
    Sources,
    fit_trees,
    funnel_scorers,
    hide_one,
    labelled_rows,
)
from shorts_recommendation.micro_video.graph_walk import Walk, content_graph, walk_scorer
from shorts_recommendation.micro_video.protocol import (
    BLOCK,
    METRICS,
    Measured,
    Scorer,
    measure,
    measure_lists,
    recommend,
    tune,
)
from shorts_recommendation.micro_video.settings import MicroVideoConfig
from shorts_recommendation.micro_video.split import Queries, Split, make_split
from shorts_recommendation.micro_video.tower import tower_scorer, train_tower

N_STAGES = 16


@dataclass(frozen=True)
class Row:
    """One model on the test users.

    Attributes:
        values: "recall", "ndcg", "precision": f64[Q], mean over seeds.
        lists: i32[Q, k] of the first seed.
        protocol: "published" or "recent".
        setting: What won on the validation users, in words; "" where nothing was chosen.
        tried: Settings tried there.
        seeds: Fits that the values are a mean of.
        validation_recall: Of the winner, on the users who chose it; None where nothing was chosen.
        seconds: Fitting every setting and measuring.
    """

    values: dict[str, np.ndarray]
    lists: np.ndarray
    protocol: str
    setting: str
    tried: int
    seeds: int
    validation_recall: float | None
    seconds: float


@dataclass
class Study:
    """All rows by name, the re-ranked lists by MMR's weight, and the split they stand on."""

    split: Split
    config: MicroVideoConfig
    rows: dict[str, Row] = field(default_factory=dict)
    reranked: dict[float, tuple[Measured, np.ndarray]] = field(default_factory=dict)
    """Weight to (metrics, intra-list distance f64[Q]); 1.0 is the ranker's order."""

    def difference(self, first: str, second: str) -> tuple[np.ndarray, np.ndarray]:
        """Recall of two rows, user by user, for a paired interval."""
        return self.rows[first].values["recall"], self.rows[second].values["recall"]


def run_study(videos: MicroVideos, config: MicroVideoConfig, progress: Progress) -> Study:
    """Everything; about three minutes on two cores at full size."""
    split = make_split(videos, heavy_rows=config.heavy_rows, audio_weight=config.audio_weight)
    study = Study(split, config)
    with progress.stage("micro-videos: tune, fit, measure", N_STAGES) as step:
        _baselines(study, step)
        walk, settings = _graph_walks(study, step)
        tower = _towers(study, step)
        _funnel(study, walk, settings, tower, step)
        _recent(study, walk, settings, tower, step)
    return study


# --- the published protocol ---


def _baselines(study: Study, step: Step) -> None:
    split, config = study.split, study.config
    grids = {
        "popularity": scorers.popularity_grid(split)[:1],
        "popularity_ordinary": scorers.popularity_grid(split)[1:],
        "item_knn": scorers.item_knn_grid(split, config),
        "item_knn_ordinary": scorers.item_knn_grid(split, config, ordinary_only=True),
        "rp3beta": scorers.rp3beta_grid(split, config),
        "ease": scorers.ease_grid(split, config),
        "content_image": [("", lambda: scorers.content_knn(split.train, split.image))],
        "content_audio": [("", lambda: scorers.content_knn(split.train, split.audio))],
        "content_knn": [("", lambda: scorers.content_knn(split.train, split.content))],
    }
    for name, grid in grids.items():
        _tuned_row(study, name, grid)
        step(1)
    _ials(study)
    step(1)


def _tuned_row(study: Study, name: str, grid: scorers.Grid) -> None:
    """Tunes a model without randomness, measures the winner, and adds its row."""
    with _clock() as seconds:
        won = tune(grid, study.split.train, study.split.validation, study.config.k)
        measured = _test(study, won.scorer)
    chosen = len(grid) > 1
    study.rows[name] = Row(
        _values([measured]), measured.lists, "published", won.setting, won.tried, 1,
        won.validation_recall if chosen else None, seconds(),
    )  # fmt: skip


def _ials(study: Study) -> None:
    """iALS, tuned with the first seed, then fitted with all."""
    split, config = study.split, study.config
    fit = scorers.ials_scorer
    with _clock() as seconds:
        grid = [
            (f"unobserved={w:g} reg={r:g}", lambda w=w, r=r: fit(split, config, w, r, config.seeds[0]))
            for w, r in scorers.ials_settings(config)
        ]
        won = tune(grid, split.train, split.validation, config.k)
        w, r = scorers.ials_settings(config)[[name for name, _ in grid].index(won.setting)]
        fitted = [won.scorer, *(fit(split, config, w, r, seed) for seed in config.seeds[1:])]
        measured = [_test(study, one) for one in fitted]
    study.rows["ials"] = Row(
        _values(measured), measured[0].lists, "published", won.setting, won.tried,
        len(measured), won.validation_recall, seconds(),
    )  # fmt: skip


@dataclass(frozen=True)
class WalkSettings:
    """Knobs of the walk that won: decay, content weight, backoff, whose popularity."""

    decay: float
    content: float
    backoff: float
    light_only: bool = True

    def __str__(self) -> str:
        whose = "ordinary" if self.light_only else "all"
        return (
            f"decay={self.decay:g} content={self.content:g} backoff={self.backoff:g} "
            f"popularity={whose}"
        )


def walk_of(split: Split, config: MicroVideoConfig, chosen: WalkSettings) -> Scorer:
    """The walk on a split's train rows."""
    return walk_scorer(
        Walk.on(split.train),
        content_graph(split.content, config.content_neighbours),
        split.popularity(light_only=chosen.light_only),
        hops=config.walk_hops,
        decay=chosen.decay,
        content=chosen.content,
        backoff=chosen.backoff,
    )


def _graph_walks(study: Study, step: Step) -> tuple[Scorer, WalkSettings]:
    """Three rows, each adding one thing: the walk, popularity to fall back on, content."""
    config = study.config
    bare = [WalkSettings(d, 0.0, 0.0) for d in config.walk_decay]
    backed = [
        WalkSettings(d, 0.0, b, light)
        for d, b, light in product(config.walk_decay, config.walk_backoff, (True, False))
    ]
    softened = [
        replace(one, content=c) for one in backed for c in config.walk_content if one.light_only
    ]
    for name, tried in (("walk", bare), ("walk_backoff", backed), ("walk_content", softened)):
        grid = [(str(one), lambda one=one: walk_of(study.split, config, one)) for one in tried]
        _tuned_row(study, name, grid)
        step(1)
    chosen = next(one for one in softened if str(one) == study.rows["walk_content"].setting)
    return walk_of(study.split, config, chosen), chosen


def _towers(study: Study, step: Step) -> Scorer:
    """The two-tower, one fit a seed; nothing of it is chosen here. Gives the first seed's."""
    split, config = study.split, study.config
    with _clock() as seconds:
        fitted = [
            tower_scorer(train_tower(split, config, seed), split.train) for seed in config.seeds
        ]
        measured = [_test(study, one) for one in fitted]
    study.rows["two_tower"] = Row(
        _values(measured), measured[0].lists, "published", "", 1, len(measured), None, seconds()
    )
    step(1)
    return fitted[0]


def _sources(split: Split, walk: Scorer, tower: Scorer) -> Sources:
    named = {
        "walk": walk,
        "two_tower": tower,
        "content": scorers.content_knn(split.train, split.content),
        "popularity": scorers.constant(split.popularity(light_only=True)),
    }
    return Sources(named, split.train, split)


def _funnel(
    study: Study, walk: Scorer, settings: WalkSettings, tower: Scorer, step: Step
) -> None:
    """Trees that learn from hidden train rows; leaves chosen on the validation users."""
    split, config = study.split, study.config
    rng = np.random.default_rng(config.seeds[0])
    with _clock() as seconds:
        rest, hidden = hide_one(split, rng)
        before = replace(split, train=rest)
        earlier = tower_scorer(train_tower(before, config, config.seeds[0]), rest)
        past = _sources(before, walk_of(before, config, settings), earlier)
        rows = labelled_rows(past, hidden, config, rng)
        now = _sources(split, walk, tower)
        leaves, recall = _best_leaves(study, now, rows)
        lists = _ranked(now, rows, leaves, study, split.test.user_idx)
        measured = [measure_lists(one, split.test, config.k) for one in lists]
    study.rows["funnel"] = Row(
        _values(measured), measured[0].lists, "published", f"leaves={leaves}",
        len(config.leaves), len(measured), recall, seconds(),
    )  # fmt: skip
    step(1)


def _best_leaves(study: Study, sources: Sources, rows: Labelled) -> tuple[int, float]:
    """The size of a tree with the best recall on the validation users, and that recall."""
    config, validation = study.config, study.split.validation
    rankers = [fit_trees(rows, config, leaves, config.seeds[0]) for leaves in config.leaves]
    lists = _many_lists(funnel_scorers(sources, rankers, config), study, validation.user_idx)
    recalls = [measure_lists(one, validation, config.k).recall.mean() for one in lists]
    best = int(np.argmax(recalls))
    return config.leaves[best], float(recalls[best])


def _ranked(
    sources: Sources, rows: Labelled, leaves: int, study: Study, users: np.ndarray
) -> list[np.ndarray]:
    """Lists i32[Q, k] of one ranker a seed."""
    rankers = [fit_trees(rows, study.config, leaves, seed) for seed in study.config.seeds]
    return _many_lists(funnel_scorers(sources, rankers, study.config), study, users)


def _many_lists(
    score: Callable[[np.ndarray], list[np.ndarray]], study: Study, users: np.ndarray
) -> list[np.ndarray]:
    """Lists i32[Q, k] of several rankers that share their features."""
    blocks = []
    for begin in range(0, len(users), BLOCK):
        block = users[begin : begin + BLOCK]
        found = score(block)
        blocks.append(
            [recommend(lambda _, one=one: one, study.split.train, block, study.config.k) for one in found]
        )
    return [np.concatenate(parts) for parts in zip(*blocks, strict=True)]


# --- validation pairs as data ---


def _recent(
    study: Study, walk: Scorer, settings: WalkSettings, tower: Scorer, step: Step
) -> None:
    """Popularity of the present, alone, beside the walk, and in the trees."""
    split, config = study.split, study.config
    counts = recent_share(split.validation, split.n_videos)
    with _clock() as seconds:
        measured = _test(study, scorers.constant(counts))
    study.rows["recent_popularity"] = Row(
        _values([measured]), measured.lists, "recent", "", 1, 1, None, seconds()
    )
    fold = np.random.default_rng(config.seeds[0]).integers(0, config.folds, len(split.validation))
    with _clock() as seconds:
        weight, recall = _recent_weight(study, walk, fold)
        measured = _test(study, _plus(walk, weight * counts))
    study.rows["walk_recent"] = Row(
        _values([measured]), measured.lists, "recent", f"weight={weight:g}",
        len(config.recent_weight), 1, recall, seconds(),
    )  # fmt: skip
    with _clock() as seconds:
        measured_many, sources, rows = _recent_funnel(study, walk, tower, fold)
    study.rows["funnel_recent"] = Row(
        _values(measured_many), measured_many[0].lists, "recent", f"leaves={config.leaves[-1]}",
        1, len(measured_many), None, seconds(),
    )  # fmt: skip
    _rerank(study, sources, rows)
    step(1)


def recent_share(pairs: Queries, n_videos: int) -> np.ndarray:
    """Share of the pairs that each video has, f64[V]."""
    return np.bincount(pairs.video_idx, minlength=n_videos) / max(1, len(pairs))


def _other_folds(validation: Queries, fold: np.ndarray, one: int, n_videos: int) -> np.ndarray:
    """Shares among the pairs outside a fold: what that fold's users may be told."""
    others = Queries(validation.user_idx[fold != one], validation.video_idx[fold != one])
    return recent_share(others, n_videos)


def _recent_weight(study: Study, walk: Scorer, fold: np.ndarray) -> tuple[float, float]:
    """The weight with the best recall on validation users, counts always from other folds."""
    split, config = study.split, study.config
    recalls = np.zeros(len(config.recent_weight))
    for one in range(config.folds):
        own = Queries(split.validation.user_idx[fold == one], split.validation.video_idx[fold == one])
        counts = _other_folds(split.validation, fold, one, split.n_videos)
        for place, weight in enumerate(config.recent_weight):
            found = measure(_plus(walk, weight * counts), split.train, own, config.k)
            recalls[place] += found.recall.sum() / len(split.validation)
    best = int(recalls.argmax())
    return config.recent_weight[best], float(recalls[best])


def _recent_funnel(
    study: Study, walk: Scorer, tower: Scorer, fold: np.ndarray
) -> tuple[list[Measured], Sources, Labelled]:
    """Trees that learn from the validation pairs, with counts from other folds as a feature."""
    split, config = study.split, study.config
    rng = np.random.default_rng(config.seeds[0])
    parts = []
    for one in range(config.folds):
        own = Queries(split.validation.user_idx[fold == one], split.validation.video_idx[fold == one])
        counts = _other_folds(split.validation, fold, one, split.n_videos)
        parts.append(labelled_rows(_with_recent(split, walk, tower, counts), own, config, rng))
    rows = Labelled(
        np.concatenate([part.features for part in parts]),
        np.concatenate([part.hit for part in parts]),
    )
    sources = _with_recent(split, walk, tower, recent_share(split.validation, split.n_videos))
    lists = _ranked(sources, rows, config.leaves[-1], study, split.test.user_idx)
    return [measure_lists(one, split.test, config.k) for one in lists], sources, rows


def _with_recent(split: Split, walk: Scorer, tower: Scorer, counts: np.ndarray) -> Sources:
    plain = _sources(split, walk, tower)
    named = {**plain.scorers, "recent": scorers.constant(counts)}
    return Sources(named, split.train, split, counts)


def _rerank(study: Study, sources: Sources, rows: Labelled) -> None:
    """MMR over the ranker's pool, one weight after the other, with recall and distance."""
    split, config = study.split, study.config
    ranker = fit_trees(rows, config, config.leaves[-1], config.seeds[0])
    score = funnel_scorers(sources, [ranker], config)
    picked: dict[float, list[np.ndarray]] = {weight: [] for weight in (1.0, *config.rerank_weight)}
    for begin in range(0, len(split.test), BLOCK):
        users = split.test.user_idx[begin : begin + BLOCK]
        scores = score(users)[0]
        pools = recommend(lambda _, s=scores: s, split.train, users, config.rerank_pool)
        for row, pool in enumerate(pools):
            relevance, near = rescale(scores[row, pool]), split.content[pool] @ split.content[pool].T
            for weight, lists in picked.items():
                lists.append(pool[mmr(relevance, near, k=config.k, trade_off=weight)])
    for weight, lists in picked.items():
        joined = np.stack(lists)
        distance = intra_list_distance(split.content, joined)
        study.reranked[weight] = (measure_lists(joined, split.test, config.k), distance)


# --- small parts ---


def _plus(scorer: Scorer, base: np.ndarray) -> Scorer:
    """A scorer with a constant f64[V] added for everybody."""
    row = base.astype(np.float32)
    return lambda users: scorer(users) + row


def _test(study: Study, scorer: Scorer) -> Measured:
    return measure(scorer, study.split.train, study.split.test, study.config.k)


def _values(measured: Sequence[Measured]) -> dict[str, np.ndarray]:
    """Each metric f64[Q], mean over the fits."""
    return {
        metric: np.mean([getattr(one, metric) for one in measured], axis=0) for metric in METRICS
    }


@contextmanager
def _clock() -> Iterator[Callable[[], float]]:
    """Gives a function that says how many seconds the block took."""
    started = time.perf_counter()
    ended: list[float] = []
    yield lambda: (ended[0] if ended else time.perf_counter()) - started
    ended.append(time.perf_counter())


def shape_of(split: Split) -> dict[str, float]:
    """What the set looks like: sizes, heavy accounts, cold videos, how far the present has moved.

    The last one is for the reader and no model: recall@20 of the best list that is the same for
    everybody, counted on the test pairs themselves.
    """
    lengths = np.diff(split.train.indptr)
    watched = np.asarray(split.train.sum(axis=0)).ravel()
    light = np.asarray(split.train[~split.heavy].sum(axis=0)).ravel()
    top = np.sort(recent_share(split.test, split.n_videos))[::-1]
    return {
        "users": len(lengths),
        "videos": split.n_videos,
        "train_rows": split.train.nnz,
        "validation_pairs": len(split.validation),
        "test_pairs": len(split.test),
        "heavy_accounts": int(split.heavy.sum()),
        "heavy_share_of_rows": float(lengths[split.heavy].sum() / max(1, lengths.sum())),
        "ordinary_median_rows": float(np.median(lengths[~split.heavy])),
        "test_users_without_rows": int((lengths[split.test.user_idx] == 0).sum()),
        "test_share_cold": float((watched[split.test.video_idx] == 0).mean()),
        "test_share_unknown_to_ordinary": float((light[split.test.video_idx] == 0).mean()),
        "best_constant_list_recall": float(top[:20].sum()),
    }

