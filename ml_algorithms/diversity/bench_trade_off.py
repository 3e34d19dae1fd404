"""Part ``trade_off``: what variety costs on movie ratings, each method along its knob.

Relevance is EASE; the pool is its best 100 unseen items; the list has 20. Every method sees the
same pools. MMR, DPP and the sliding spectrum optimise genre space, the calibrated list the user's
genre mix, ``mmr_latent`` a space of factors; ``shuffle`` puts random items of the pool into the
list: what any noise would buy.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.sparse.linalg import svds

from ml_algorithms.collaborative_filtering.scoring import score_histories
from ml_algorithms.diversity.bench_config import LOOKS, Config
from ml_algorithms.diversity.calibrated import calibrated_list, genre_shares, miscalibration, mix
from ml_algorithms.diversity.dpp import greedy_dpp, trade_off_kernel
from ml_algorithms.diversity.mmr import mmr, rescale
from ml_algorithms.diversity.sliding_window import sliding_spectrum
from ml_algorithms.matrix_factorization.ease import fit_ease
from ml_algorithms.study_data import NextEvents, next_events, study_dataset
from ml_platform.data.datasets import SyntheticConfig
from ml_platform.data.schema import Dataset, genre_flags
from ml_platform.evaluation.diversity_metrics import (
    catalogue_coverage,
    intra_list_distance,
    min_pairwise_distance,
    unit_rows,
)
from ml_platform.evaluation.intervals import bootstrap_difference, bootstrap_mean
from ml_platform.evaluation.plot_style import new_figure
from ml_platform.evaluation.ranking_metrics import hit_matrix, ndcg_at
from ml_platform.evaluation.results import Results
from ml_platform.evaluation.study import StudyRun
from ml_platform.evaluation.top_k import top_k

KNOBS: dict[str, tuple[float, ...]] = {
    "mmr": (0.9, 0.8, 0.6, 0.4, 0.2),
    "dpp": (0.98, 0.95, 0.9, 0.8, 0.5),
    "sliding_spectrum": (0.1, 0.25, 0.5, 1.0, 2.0),
    "calibrated": (0.3, 0.6, 0.8, 0.9, 0.97),
    "mmr_latent": (0.9, 0.8, 0.6, 0.4, 0.2),
    "shuffle": (0.1, 0.25, 0.5, 1.0),
}
KEPT_NDCG = 0.95  # methods are compared where they keep this share of the relevance
SMALL = SyntheticConfig(n_users=120, n_items=200, n_interactions=6000)
DPP_RIDGE = 0.1  # eighteen genres span eighteen dimensions: without it a DPP ends the list there


@dataclass(frozen=True)
class Pool:
    """One query's candidates, best first.

    Attributes:
        items: i32[C].
        relevance: f[C] in [0, 1].
        target: f[G], the genre mix of the history.
    """

    items: np.ndarray
    relevance: np.ndarray
    target: np.ndarray


@dataclass(frozen=True)
class World:
    """What all methods share: item vectors, the pools, and the truth that judges the lists."""

    shares: np.ndarray  # p(g|i) [I, G]
    genre_vectors: np.ndarray  # unit [I, G]
    latent_vectors: np.ndarray  # unit [I, D]
    pools: list[Pool]
    relevant: tuple[np.ndarray, np.ndarray]  # ragged: ptr [Q + 1], items
    users: np.ndarray


def run_trade_off(run: StudyRun[Config]) -> None:
    """Measures the part."""
    config = run.config
    data = study_dataset(config.dataset, small=SMALL)
    results = run.results_of(data)
    world = build_world(data, config, run.seed)
    measured = {}
    n_lists = 1 + sum(len(knobs) for knobs in KNOBS.values())
    with run.progress.stage("lists", n_lists) as step:
        measured["relevance"] = measure(world, config, "relevance", 0.0, run.seed)
        step(1)
        for method, knobs in KNOBS.items():
            for knob in knobs:
                measured[f"{method}_{knob:g}"] = measure(world, config, method, knob, run.seed)
                step(1)
    _record(results, measured, world, config, data)
    _draw(run, measured)


def build_world(data: Dataset, config: Config, seed: int) -> World:
    """Fits EASE on the past, and draws the pools of queries in the last tenth of time."""
    events = next_events(
        data,
        queries=config.queries,
        seed=seed,
        least_history=config.minimum_history,  # a mix needs a history
        least_unseen=config.candidates,
    )
    matrix = events.past.matrix()
    model = fit_ease(matrix, reg=config.ease_reg)
    _, genres = genre_flags(data)
    shares = genre_shares(genres)
    dimensions = min(config.latent_dimensions, min(matrix.shape) - 1)
    start = np.random.default_rng(seed).normal(size=min(matrix.shape))
    _, strengths, factors = svds(matrix.astype(np.float64), k=dimensions, v0=start)
    return World(
        shares=shares,
        genre_vectors=unit_rows(genres),
        latent_vectors=unit_rows(factors.T * strengths),
        pools=_pools(events, model, shares, config.candidates),
        relevant=events.relevant,
        users=events.queries.user_idx,
    )


def _pools(events: NextEvents, model: np.ndarray, shares: np.ndarray, size: int) -> list[Pool]:
    ptr, history = events.ptr, events.history
    scores = score_histories(model, history, ptr)
    items, values = top_k(scores, size, seen=events.seen)
    return [
        Pool(items[q], rescale(values[q]), mix(shares[history[ptr[q] : ptr[q + 1]]]))
        for q in range(len(events.queries))
    ]


def _similarity(vectors: np.ndarray, ridge: float = 0.0) -> np.ndarray:
    """Cosine with a unit diagonal, whatever the vectors (an item may have no genre)."""
    similarity = (1.0 - ridge) * (vectors @ vectors.T)
    np.fill_diagonal(similarity, 1.0)
    return similarity


def pick(
    method: str, knob: float, pool: Pool, world: World, config: Config, rng: np.random.Generator
) -> np.ndarray:
    """Positions in the pool that the method shows, in order."""
    k = config.list_length
    genre = world.genre_vectors[pool.items]
    latent = world.latent_vectors[pool.items]
    choices: dict[str, Callable[[], np.ndarray]] = {
        "relevance": lambda: np.arange(k),
        "mmr": lambda: mmr(pool.relevance, _similarity(genre), k=k, trade_off=knob),
        "mmr_latent": lambda: mmr(pool.relevance, _similarity(latent), k=k, trade_off=knob),
        "dpp": lambda: greedy_dpp(
            trade_off_kernel(pool.relevance, _similarity(genre, DPP_RIDGE), trade_off=knob), k
        ),
        "sliding_spectrum": lambda: sliding_spectrum(
            pool.relevance, genre, k=k, gamma=knob, window=config.window
        ),
        "calibrated": lambda: calibrated_list(
            pool.relevance, world.shares[pool.items], pool.target, k=k, weight=knob
        ),
        "shuffle": lambda: _with_noise(len(pool.items), k, knob, rng),
    }
    return choices[method]()


def _with_noise(n: int, k: int, share: float, rng: np.random.Generator) -> np.ndarray:
    """The first k, a share of the places filled with random others of the pool."""
    order = np.arange(k)
    places = np.flatnonzero(rng.random(k) < share)
    order[places] = rng.choice(np.arange(k, n), size=len(places), replace=False)
    return order


def measure(
    world: World, config: Config, method: str, knob: float, seed: int
) -> dict[str, np.ndarray]:
    """All metrics of one method at one knob, one value a query; coverage as an array of one."""
    rng = np.random.default_rng(seed)
    lists = np.stack([p.items[pick(method, knob, p, world, config, rng)] for p in world.pools])
    ptr, relevant = world.relevant
    hits = hit_matrix(lists, ptr, relevant)
    kl = [
        miscalibration(p.target, world.shares[row].mean(axis=0))
        for p, row in zip(world.pools, lists, strict=True)
    ]
    return {
        "ndcg": ndcg_at(hits, np.diff(ptr), config.list_length),
        "ild_genre": intra_list_distance(world.genre_vectors, lists),
        "ild_latent": intra_list_distance(world.latent_vectors, lists),
        "min_distance": min_pairwise_distance(world.genre_vectors, lists),
        "miscalibration": np.array(kl),
        "coverage": np.array([catalogue_coverage(lists, len(world.shares))]),
    }


def _record(
    results: Results,
    measured: dict[str, dict[str, np.ndarray]],
    world: World,
    config: Config,
    data: Dataset,
) -> None:
    protocol = (
        f"{data.name}: next-event queries of the last 10% of time ({len(world.users)} queries, "
        f"{len(np.unique(world.users))} users), EASE reg {config.ease_reg:g} on the past, best "
        f"{config.candidates} unseen re-ranked to {config.list_length}, user bootstrap"
    )
    knobs = {"resamples": config.bootstrap}
    base = measured["relevance"]
    for name, metrics in measured.items():
        key = f"trade_off/{name}"
        for metric, values in metrics.items():
            if metric == "coverage":
                results.add(f"{key}/coverage", values[0], n=len(world.users), protocol=protocol)
            else:
                estimate = bootstrap_mean(values, world.users, **knobs)
                results.add(f"{key}/{metric}", estimate, protocol=protocol)
        if name != "relevance":
            difference = bootstrap_difference(metrics["ndcg"], base["ndcg"], world.users, **knobs)
            results.add(f"{key}/ndcg_difference", difference, protocol=protocol)
    kept = f"{protocol}; best point of the curve, interpolated, with NDCG >= {KEPT_NDCG:.0%}"
    for method in KNOBS:
        for metric, best in (("ild_genre", max), ("ild_latent", max), ("miscalibration", min)):
            value = best(at_kept_relevance(measured, method, metric))
            results.add(f"kept/{method}/{metric}", value, protocol=kept)


def at_kept_relevance(
    measured: dict[str, dict[str, np.ndarray]], method: str, metric: str
) -> list[float]:
    """The metric along a method's curve wherever NDCG stays above the floor."""
    base = measured["relevance"]
    floor = KEPT_NDCG * base["ndcg"].mean()
    curve = [base] + [measured[f"{method}_{knob:g}"] for knob in KNOBS[method]]
    ndcg = np.array([point["ndcg"].mean() for point in curve])
    value = np.array([point[metric].mean() for point in curve])
    path = np.linspace(0, len(curve) - 1, 50 * (len(curve) - 1) + 1)
    along = np.interp(path, np.arange(len(curve)), ndcg)
    return [float(v) for v in np.interp(path, np.arange(len(curve)), value)[along >= floor]]


def _draw(run: StudyRun[Config], measured: dict[str, dict[str, np.ndarray]]) -> None:
    panels = [
        ("ild_genre", "distance within\nthe list (genres)"),
        ("ild_latent", "distance within\nthe list (factors)"),
        ("miscalibration", "miscalibration\nof genres (KL, nats)"),
    ]
    figure, all_axes = new_figure(
        "Relevance along each method's knob", panels=3, height=4.2, share_y=True
    )
    for axes, (metric, label) in zip(all_axes, panels, strict=True):
        base = measured["relevance"]
        for method, knobs in KNOBS.items():
            name, colour, marker = LOOKS[method]
            curve = [base] + [measured[f"{method}_{knob:g}"] for knob in knobs]
            x = [point[metric].mean() for point in curve]
            y = [point["ndcg"].mean() for point in curve]
            axes.plot(x, y, marker=marker, color=colour, markersize=5, label=name)
        axes.plot(base[metric].mean(), base["ndcg"].mean(), "*", color="black", markersize=12)
        axes.set_xlabel(label)
    all_axes[0].set_ylabel(f"NDCG@{run.config.list_length}")
    handles, labels = all_axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
    run.picture("curves", figure)
