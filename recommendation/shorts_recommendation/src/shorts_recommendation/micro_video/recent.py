"""The second half of the study: what knowing the present is worth.

In: a ``Study`` with the first half's winners. Out: its rows of protocol ``recent`` and the
re-ranked lists. Validation pairs are data here: they are counted, and trees learn from them. Where
a validation user is asked (to choose a weight) or learned from, counts come from other folds of
users, never from the user's own pair.

Legend: U users, V videos, Q test users, k list length.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import product

import numpy as np

from ml_algorithms.diversity.mmr import mmr, rescale
from ml_platform.evaluation.diversity_metrics import intra_list_distance
from ml_platform.evaluation.progress import Step
from shorts_recommendation.micro_video import scorers
from shorts_recommendation.micro_video.funnel import (
    Labelled,
    Sources,
    fit_trees,
    funnel_scorers,
    labelled_rows,
)
from shorts_recommendation.micro_video.protocol import (
    BLOCK,
    Measured,
    Scorer,
    measure,
    measure_lists,
    recommend,
    tune,
)
from shorts_recommendation.micro_video.rows import (
    Graphs,
    Row,
    Study,
    WalkSettings,
    clock,
    fixed,
    means_of,
    on_test,
    plus,
    ranked_lists,
    recent_share,
    sources_of,
    walk_of,
)
from shorts_recommendation.micro_video.split import Queries, Split

SMOOTH = 5e-4
"""Added to both shares of ``prior_shift``: one and a half pairs of the validation part."""


def add_recent(
    study: Study, graphs: Graphs, settings: WalkSettings, tower: Scorer, step: Step
) -> None:
    """Popularity of the present, alone, beside the walk, and in the trees."""
    split, config = study.split, study.config
    counts = recent_share(split.validation, split.n_videos)
    with clock() as seconds:
        measured = on_test(study, scorers.constant(counts))
    study.rows["recent_popularity"] = Row(
        means_of([measured]), measured.lists, "recent", "", 1, 1, None, seconds()
    )
    fold = np.random.default_rng(config.seeds[0]).integers(0, config.folds, len(split.validation))
    for name, grid in _recent_walks(study, graphs, settings).items():
        with clock() as seconds:
            best, recall = _best_recent(study, grid, fold)
            measured = on_test(study, grid[best][1](counts))
        study.rows[name] = Row(
            means_of([measured]), measured.lists, "recent", grid[best][0], len(grid), 1, recall,
            seconds(),
        )  # fmt: skip
    with clock() as seconds:
        measured_many, sources, rows = _recent_funnel(
            study, walk_of(split, graphs, settings), tower, fold
        )
    study.rows["funnel_recent"] = Row(
        means_of(measured_many), measured_many[0].lists, "recent", f"leaves={config.leaves[-1]}",
        1, len(measured_many), None, seconds(),
    )  # fmt: skip
    _rerank(study, sources, rows)
    step(1)


def add_numbering(study: Study, graphs: Graphs, settings: WalkSettings, step: Step) -> None:
    """What the videos' numbers give away: they follow first appearance, and hidden videos are new.

    Rows of protocol ``numbering`` explain the split; they are no models to compare. A production
    system knows upload times and may use them; here the number stands in for a time that the set
    does not state, and that no published model reads.
    """
    split, config = study.split, study.config
    walk = walk_of(split, graphs, settings)
    plain = scorers.constant(split.popularity(light_only=True))
    for name, scorer in (("popularity_numbering", plain), ("walk_numbering", walk)):
        with clock() as seconds:
            grid = [
                (f"power={p:g}", partial(by_number, scorer, split.n_videos, p))
                for p in config.numbering_power
            ]
            won = tune(grid, split.train, split.validation, config.k)
            measured = on_test(study, won.scorer)
        study.rows[name] = Row(
            means_of([measured]), measured.lists, "numbering", won.setting, won.tried, 1,
            won.validation_recall, seconds(),
        )  # fmt: skip
    step(1)


def by_number(scorer: Scorer, n_videos: int, power: float) -> Scorer:
    """Scores times ((number + 1) / V) ** power: late numbers gain."""
    weight = ((np.arange(n_videos) + 1.0) / n_videos) ** power
    row = weight.astype(np.float32)
    return lambda users: scorer(users) * row


RecentGrid = list[tuple[str, Callable[[np.ndarray], Scorer]]]
"""(setting in words, function from the present's popularity f64[V] to a scorer)."""


def _recent_walks(study: Study, graphs: Graphs, settings: WalkSettings) -> dict[str, RecentGrid]:
    """Two ways to tell the walk what is watched now: added, or as a correction of the prior."""
    split, config = study.split, study.config
    walk = walk_of(split, graphs, settings)
    bare = walk_of(split, graphs, replace(settings, backoff=0.0))
    old = split.popularity(light_only=settings.light_only)
    added: RecentGrid = [(f"weight={w:g}", partial(_added, walk, w)) for w in config.recent_weight]
    shifted: RecentGrid = [
        (f"backoff={b:g} power={p:g}", partial(_shifted, bare, old, b, p))
        for b, p in product(config.shift_backoff, config.shift_power)
    ]
    return {"walk_recent": added, "walk_shifted": shifted}


def _added(walk: Scorer, weight: float, now: np.ndarray) -> Scorer:
    return plus(walk, weight * now)


def _shifted(
    bare: Scorer, old: np.ndarray, backoff: float, power: float, now: np.ndarray
) -> Scorer:
    return prior_shift(bare, old, now, backoff, power)


def prior_shift(
    scorer: Scorer, old: np.ndarray, now: np.ndarray, backoff: float, power: float
) -> Scorer:
    """Scores read as probabilities under the old popularity, moved towards the present one.

    If only the share of the videos changed, and not who likes which, then P_now(v | u) is in
    proportion to P_old(v | u) P_now(v) / P_old(v) (M. Saerens, P. Latinne, C. Decaestecker,
    "Adjusting the Outputs of a Classifier to New a Priori Probabilities", Neural Computation 14(1),
    2002). The counts are few, so both shares are smoothed by ``SMOOTH`` and the ratio is damped by
    ``power``.

    Args:
        scorer: Without a constant of its own.
        old: f64[V], popularity where the scorer was fitted.
        now: f64[V], popularity of the present.
        backoff: Weight of the mean of both popularities, added before the correction.
        power: 1 is the formula, 0 no correction.
    """
    base = (backoff * (0.5 * old + 0.5 * now + 1e-6)).astype(np.float32)
    ratio = (((now + SMOOTH / 10) / (old + SMOOTH)) ** power).astype(np.float32)
    return lambda users: (scorer(users) + base) * ratio


def _best_recent(study: Study, grid: RecentGrid, fold: np.ndarray) -> tuple[int, float]:
    """The setting with the best recall on validation users, counts always from other folds."""
    split, config = study.split, study.config
    recalls = np.zeros(len(grid))
    for one in range(config.folds):
        own = _only(split.validation, fold == one)
        counts = recent_share(_only(split.validation, fold != one), split.n_videos)
        for place, (_, make) in enumerate(grid):
            found = measure(make(counts), split.train, own, config.k)
            recalls[place] += found.recall.sum() / len(split.validation)
    best = int(recalls.argmax())
    return best, float(recalls[best])


def _only(queries: Queries, kept: np.ndarray) -> Queries:
    return Queries(queries.user_idx[kept], queries.video_idx[kept])


def _recent_funnel(
    study: Study, walk: Scorer, tower: Scorer, fold: np.ndarray
) -> tuple[list[Measured], Sources, Labelled]:
    """Trees that learn from the validation pairs, with counts from other folds as a feature."""
    split, config = study.split, study.config
    rng = np.random.default_rng(config.seeds[0])
    parts = []
    for one in range(config.folds):
        own = _only(split.validation, fold == one)
        counts = recent_share(_only(split.validation, fold != one), split.n_videos)
        parts.append(labelled_rows(_with_recent(split, walk, tower, counts), own, config, rng))
    rows = Labelled(
        np.concatenate([part.features for part in parts]),
        np.concatenate([part.hit for part in parts]),
    )
    sources = _with_recent(split, walk, tower, recent_share(split.validation, split.n_videos))
    lists = ranked_lists(sources, rows, config.leaves[-1], study, split.test.user_idx)
    return [measure_lists(one, split.test, config.k) for one in lists], sources, rows


def _with_recent(split: Split, walk: Scorer, tower: Scorer, counts: np.ndarray) -> Sources:
    plain = sources_of(split, walk, tower)
    named = {**plain.scorers, "recent": scorers.constant(counts)}
    return Sources(named, split.train, split, counts)


def _rerank(study: Study, sources: Sources, rows: Labelled) -> None:
    """MMR over the ranker's pool, one weight after the other, with recall and distance.

    Of ``rerank_users`` drawn users.
    """
    split, config = study.split, study.config
    rng, most = np.random.default_rng(config.seeds[0]), min(config.rerank_users, len(split.test))
    drawn = np.zeros(len(split.test), dtype=bool)
    drawn[rng.choice(len(drawn), most, replace=False)] = True
    asked = _only(split.test, drawn)
    ranker = fit_trees(rows, config, config.leaves[-1], config.seeds[0])
    score = funnel_scorers(sources, [ranker], config)
    picked: dict[float, list[np.ndarray]] = {weight: [] for weight in (1.0, *config.rerank_weight)}
    for begin in range(0, len(asked), BLOCK):
        users = asked.user_idx[begin : begin + BLOCK]
        scores = score(users)[0]
        pools = recommend(fixed(scores), split.train, users, config.rerank_pool)
        for row, pool in enumerate(pools):
            relevance, near = (
                rescale(scores[row, pool]),
                split.content[pool] @ split.content[pool].T,
            )
            for weight, lists in picked.items():
                lists.append(pool[mmr(relevance, near, k=config.k, trade_off=weight)])
    for weight, lists in picked.items():
        joined = np.stack(lists)
        distance = intra_list_distance(split.content, joined)
        study.reranked[weight] = (measure_lists(joined, asked, config.k), distance)
