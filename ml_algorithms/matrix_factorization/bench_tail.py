"""Part `tail`: what each model does to rare items.

In: the tuned models' lists of part `quality` (computed once a process). Out: catalogue coverage,
the Gini coefficient of exposure and nDCG at 10, and recall@50 of the hidden ratings in five
popularity bands. The bands hold a like number of *hidden ratings*, not of items: band 1 is the few
blockbusters that a fifth of the hidden ratings go to, band 5 all the rare items together. Bands of
equal item count would leave the last ones without a rating to measure on.

BPR appears a second time with negatives drawn by popularity: the same model, another sampler.

Legend: U users, I items, N hidden ratings.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ml_algorithms.matrix_factorization.bench_config import StudyConfig
from ml_algorithms.matrix_factorization.bench_data import (
    Split,
    dataset_of,
    lists_of,
    ndcg,
    split_of,
)
from ml_algorithms.matrix_factorization.bench_models import (
    DEEP,
    NAMES,
    SCORERS,
    one_thread,
    tuned,
    tuned_lists,
)
from ml_platform.evaluation.diversity_metrics import catalogue_coverage, exposure, gini
from ml_platform.evaluation.intervals import bootstrap_mean
from ml_platform.evaluation.plot_style import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PINK,
    SKY,
    new_figure,
)
from ml_platform.evaluation.results import Results
from ml_platform.evaluation.study import StudyRun

BANDS = 5
POPULAR_NEGATIVES = "bpr_popular_negatives"
TAIL_NAMES = {**NAMES, POPULAR_NEGATIVES: "BPR, negatives by popularity"}
SHOWN = {
    "popularity": (GREY, "x"),
    "ease": (BLACK, "s"),
    "ials": (BLUE, "o"),
    "pure_svd": (SKY, "v"),
    "rp3beta": (GREEN, "^"),
    "bpr": (ORANGE, "D"),
    POPULAR_NEGATIVES: (PINK, "P"),
}
# Where names stand beside their points, in points of the picture: those that would meet.
LABELS = {
    "ease": ((-8, 1), "right"),
    "ials": ((-4, 8), "center"),
    "rp3beta": ((-8, -3), "right"),
    "item_knn": ((-8, -3), "right"),
}


def run_tail(run: StudyRun[StudyConfig]) -> None:
    """The whole part."""
    config, dataset = run.config, dataset_of(run.config.dataset)
    results = run.results_of(dataset)
    with run.progress.stage("lists", len(TAIL_NAMES)) as step:
        for model in TAIL_NAMES:
            _measure(config, model, results)
            step(1)
    _band_sizes(config, results)
    run.picture("bands", _bands_picture(results))
    run.picture("exposure", _exposure_picture(results))


def popularity_bands(split: Split) -> np.ndarray:
    """i64[I]: band 0 (most popular in train) to 4, each with about as many hidden ratings."""
    popularity = np.bincount(split.train.indices, minlength=split.train.shape[1])
    order = np.argsort(-popularity, kind="stable")
    hidden = np.bincount(split.test.indices, minlength=split.train.shape[1])[order]
    # The middle of an item's share decides, so that no band is empty of a large item's own.
    middle = (np.cumsum(hidden) - hidden / 2) / hidden.sum()
    bands = np.empty(len(order), dtype=np.int64)
    bands[order] = np.minimum((middle * BANDS).astype(np.int64), BANDS - 1)
    return bands


def _lists(config: StudyConfig, model: str, seed: int) -> np.ndarray:
    if model != POPULAR_NEGATIVES:
        return tuned_lists(config.dataset, model, seed)
    train = split_of(config.dataset, seed).train
    settings = {**tuned(config.dataset, "bpr"), "popularity_exponent": 1.0}
    with one_thread():
        return lists_of(SCORERS["bpr"](train, seed, **settings), train, DEEP)


def _measure(config: StudyConfig, model: str, results: Results) -> None:
    found, owner, band = [], [], []
    coverage, concentration, ranked = [], [], []
    for seed in config.seeds:
        split, lists = split_of(config.dataset, seed), _lists(config, model, seed)
        user = np.repeat(np.arange(split.test.shape[0]), np.diff(split.test.indptr))
        listed = np.zeros(split.test.shape, dtype=bool)
        rows, places = np.nonzero(lists >= 0)
        listed[rows, lists[rows, places]] = True
        found.append(listed[user, split.test.indices].astype(np.float64))
        owner.append(user)
        band.append(popularity_bands(split)[split.test.indices])
        ranked.append(ndcg(lists[:, :10], split))
        top = lists[split.users, :10]
        coverage.append(catalogue_coverage(top, split.train.shape[1]))
        concentration.append(gini(exposure(top, split.train.shape[1])))
    protocol = f"protocol of part quality, {len(config.seeds)} seeds"
    results.add(f"tail/{model}/coverage@10", float(np.mean(coverage)), protocol=f"{protocol}; mean")
    results.add(
        f"tail/{model}/gini@10", float(np.mean(concentration)),
        protocol=f"{protocol}; of exposure over the whole catalogue; mean",
    )  # fmt: skip
    users = np.concatenate([split_of(config.dataset, seed).users for seed in config.seeds])
    results.add(
        f"tail/{model}/ndcg@10", bootstrap_mean(np.concatenate(ranked), users),
        protocol=f"{protocol}; users resampled",
    )  # fmt: skip
    hits, owners, bands = (np.concatenate(part) for part in (found, owner, band))
    for number in range(BANDS):
        chosen = bands == number
        results.add(
            f"tail/{model}/recall@{DEEP}_band{number + 1}",
            bootstrap_mean(hits[chosen], owners[chosen]),
            protocol=f"{protocol}; share of the band's hidden ratings listed; bands of equal "
            "hidden ratings by train popularity, 1 the most popular; users resampled",
        )


def _band_sizes(config: StudyConfig, results: Results) -> None:
    sizes = [
        np.bincount(popularity_bands(split_of(config.dataset, seed)), minlength=BANDS)
        for seed in config.seeds
    ]
    for number, size in enumerate(np.mean(sizes, axis=0)):
        results.add(
            f"tail/band{number + 1}/items", float(size),
            protocol="items of the band, mean over seeds; items nobody has in test included",
        )  # fmt: skip


def _bands_picture(results: Results) -> Any:
    figure, (axes,) = new_figure(f"Recall@{DEEP} of hidden ratings, by how popular the item is")
    ends = []
    for model, (colour, marker) in SHOWN.items():
        values = [results[f"tail/{model}/recall@{DEEP}_band{b + 1}"].value for b in range(BANDS)]
        axes.plot(range(BANDS), values, color=colour, marker=marker, label=TAIL_NAMES[model])
        ends.append(values[-1])
    sizes = [results[f"tail/band{b + 1}/items"].value for b in range(BANDS)]
    names = ["blockbusters", "", "middle", "", "tail"]
    axes.set_xticks(
        range(BANDS),
        [f"{name}\n{size:.0f} items" for name, size in zip(names, sizes, strict=True)],
    )
    axes.set_xlabel("popularity band; each holds a fifth of the hidden ratings")
    axes.set_ylabel(f"recall@{DEEP}")
    axes.legend(frameon=False, fontsize=8)
    return figure


def _exposure_picture(results: Results) -> Any:
    figure, (axes,) = new_figure("Reach against accuracy", height=4.2)
    for model, name in TAIL_NAMES.items():
        x = results[f"tail/{model}/coverage@10"].value
        y = results[f"tail/{model}/ndcg@10"].value
        colour, marker = SHOWN.get(model, (GREY, "."))
        axes.plot([x], [y], marker=marker, color=colour, linestyle="none")
        place, side = LABELS.get(model, ((7, -3), "left"))
        axes.annotate(name, (x, y), xytext=place, textcoords="offset points", fontsize=8, ha=side)
    axes.margins(x=0.2, y=0.12)
    axes.set_xlim(left=0.0)
    axes.set_xlabel("share of the catalogue in somebody's top 10")
    axes.set_ylabel("nDCG@10")
    return figure
