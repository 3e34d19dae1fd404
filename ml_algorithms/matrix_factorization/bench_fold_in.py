"""Part `fold_in`: a new user in one solve, against retraining with that user.

In: one split a seed; some users are left out of training altogether. Each is then given n of its
train events, in seeded random order, and served three ways: popularity, fold-in (one half-step with
the item factors as they are), and a model trained again on everything with those n events in it.
Out: nDCG@10 of the three on the newcomer's hidden ratings, overlap of the two lists, and the
milliseconds of one fold-in for one user, against events and factors.

Legend: U users, I items, D factors, n events of a newcomer.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from scipy import sparse

from ml_algorithms.matrix_factorization.bench_config import StudyConfig
from ml_algorithms.matrix_factorization.bench_data import (
    Split,
    dataset_of,
    lists_of,
    ndcg,
    split_of,
)
from ml_algorithms.matrix_factorization.bench_models import one_thread, popularity, tuned
from ml_algorithms.matrix_factorization.ials import ImplicitALS, fit_ials
from ml_platform.evaluation.intervals import bootstrap_difference, bootstrap_mean
from ml_platform.evaluation.plot_style import BLUE, GREY, ORANGE, new_figure
from ml_platform.evaluation.results import Results
from ml_platform.evaluation.study import StudyRun

WAYS = {"popularity": (GREY, "x"), "retrained": (ORANGE, "s"), "fold_in": (BLUE, "o")}
HISTORY = (1, 10, 50, 200, 1000)


def run_fold_in(run: StudyRun[StudyConfig]) -> None:
    """The whole part."""
    config, dataset = run.config, dataset_of(run.config.dataset)
    results = run.results_of(dataset)
    total = len(config.seeds) * len(config.events)
    with run.progress.stage("quality", total) as step:
        _quality(config, results, step)
    with run.progress.stage("milliseconds", len(config.fold_in_factors)) as step:
        _milliseconds(config, results, step)
    run.picture("quality", _picture(results, config))


def keep_random_events(train: sparse.csr_matrix, rows: np.ndarray, n: int, seed: int) -> Any:
    """The matrix with at most n random entries in each of ``rows``; other rows as they are."""
    rng = np.random.default_rng(seed)
    keep = np.ones(train.nnz, dtype=bool)
    for row in rows:
        begin, end = train.indptr[row], train.indptr[row + 1]
        keep[begin:end] = rng.permutation(end - begin) < n
    cut = train.tocoo()
    return sparse.csr_matrix((cut.data[keep], (cut.row[keep], cut.col[keep])), shape=train.shape)


def _quality(config: StudyConfig, results: Results, step: Callable[[int], None]) -> None:
    settings = {"iterations": 16, **tuned(config.dataset, "ials")}
    values: dict[tuple[str, int], list[np.ndarray]] = {}
    overlaps: dict[int, list[np.ndarray]] = {n: [] for n in config.events}
    owners = []
    for seed in config.seeds:
        split = split_of(config.dataset, seed)
        rng = np.random.default_rng(seed)
        newcomers = np.sort(rng.choice(split.users, config.newcomers, replace=False))
        owners.append(newcomers)
        with one_thread():
            model = fit_ials(
                keep_random_events(split.train, newcomers, 0, seed), seed=seed, **settings
            )
            for n in config.events:
                known = keep_random_events(split.train, newcomers, n, seed)
                retrained = fit_ials(known, seed=seed, **settings)
                lists = _three_lists(model, retrained, known, newcomers)
                for way, one in lists.items():
                    values.setdefault((way, n), []).append(_ndcg_of(one, split, newcomers))
                same = [
                    len(np.intersect1d(a, b)) / len(a)
                    for a, b in zip(lists["fold_in"], lists["retrained"], strict=True)
                ]
                overlaps[n].append(np.array(same))
                step(1)
    _record(config, results, values, overlaps, np.concatenate(owners))


def _three_lists(
    model: ImplicitALS, retrained: ImplicitALS, known: sparse.csr_matrix, newcomers: np.ndarray
) -> dict[str, np.ndarray]:
    rows = known[newcomers]
    scores = {
        "popularity": popularity(known, 0)[newcomers],
        "fold_in": model.score(model.fold_in(rows)),
        "retrained": retrained.score(retrained.user_factors[newcomers]),
    }
    return {way: lists_of(one, rows) for way, one in scores.items()}


def _ndcg_of(lists: np.ndarray, split: Split, newcomers: np.ndarray) -> np.ndarray:
    part = Split(split.train[newcomers], split.train_ratings[newcomers], split.test[newcomers])
    return ndcg(lists, part)


def _record(
    config: StudyConfig,
    results: Results,
    values: dict[tuple[str, int], list[np.ndarray]],
    overlaps: dict[int, list[np.ndarray]],
    owners: np.ndarray,
) -> None:
    protocol = (
        f"{config.newcomers} users left out of training a seed, {len(config.seeds)} seeds; n "
        "random train events shown, ranked on their hidden quarter; full catalogue less shown; "
        "users resampled"
    )
    for n in config.events:
        pooled = {way: np.concatenate(values[way, n]) for way in WAYS}
        for way in WAYS:
            results.add(
                f"fold_in/{way}/ndcg@10_at_{n}", bootstrap_mean(pooled[way], owners),
                protocol=protocol,
            )  # fmt: skip
        results.add(
            f"fold_in/fold_in/ndcg@10_over_retrained_at_{n}",
            bootstrap_difference(pooled["fold_in"], pooled["retrained"], owners),
            protocol=f"{protocol}; paired by user",
        )
        results.add(
            f"fold_in/fold_in/overlap@10_at_{n}",
            bootstrap_mean(np.concatenate(overlaps[n]), owners),
            protocol=f"{protocol}; share of the retrained model's ten that fold-in lists too",
        )


def _milliseconds(config: StudyConfig, results: Results, step: Callable[[int], None]) -> None:
    """One user at a time, as a request would; random factors will do for a clock."""
    rng = np.random.default_rng(0)
    n_items = 2_000
    for factors in config.fold_in_factors:
        items = rng.normal(0, 0.1, (n_items, factors)).astype(np.float32)
        model = ImplicitALS(items[:1], items, 0.2, 0.01, 1.0)
        for n in HISTORY:
            columns = rng.choice(n_items, n, replace=False)
            row = sparse.csr_matrix(
                (np.ones(n, np.float32), (np.zeros(n, int), columns)), shape=(1, n_items)
            )
            row.sort_indices()
            with one_thread():
                spent = _median_ms(partial(model.fold_in, row), config)
            results.add(
                f"fold_in_cost/d{factors}/ms_at_{n}", spent,
                protocol=f"one user of n events, {n_items:,} items, the items' Gram matrix formed "
                f"anew; 1 thread, median of {config.timing_repeats} after warm-up",
                n=config.timing_repeats,
            )  # fmt: skip
        step(1)


def _median_ms(call: Callable[[], Any], config: StudyConfig) -> float:
    for _ in range(3):
        call()
    spent = []
    for _ in range(config.timing_repeats):
        begin = time.perf_counter()
        call()
        spent.append(1e3 * (time.perf_counter() - begin))
    return float(np.median(spent))


def _picture(results: Results, config: StudyConfig) -> Any:
    figure, (left, right) = new_figure("A new user in one solve", panels=2)
    for way, (colour, marker) in WAYS.items():
        metrics = [results[f"fold_in/{way}/ndcg@10_at_{n}"] for n in config.events]
        left.plot(
            config.events, [m.value for m in metrics], color=colour, marker=marker,
            label=way.replace("_", "-"),
        )  # fmt: skip
        if way == "fold_in":
            low, high = [m.low for m in metrics], [m.high for m in metrics]
            left.fill_between(config.events, low, high, color=colour, alpha=0.15, linewidth=0)
    left.set_xlabel("events known of the new user")
    left.set_ylabel("nDCG@10")
    left.legend(frameon=False)
    for factors, shade in zip(config.fold_in_factors, (0.35, 0.55, 0.75, 1.0), strict=False):
        spent = [results[f"fold_in_cost/d{factors}/ms_at_{n}"].value for n in HISTORY]
        right.plot(HISTORY, spent, color=BLUE, alpha=shade, marker="o", markersize=4)
        right.annotate(
            f"D = {factors}", (HISTORY[-1], spent[-1]), xytext=(5, -3),
            textcoords="offset points", fontsize=8,
        )  # fmt: skip
    right.set_yscale("log")
    right.set_xscale("log")
    left.set_xscale("log")
    left.set_xticks(config.events, [str(n) for n in config.events])
    left.minorticks_off()
    right.set_xlim(right=HISTORY[-1] * 6)
    right.set_xlabel("events of the user")
    right.set_ylabel("milliseconds, one user, one thread")
    return figure
