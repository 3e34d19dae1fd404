"""Part ``optimality``: greedy lists against every list there is.

Small enough to try all: C = 10 candidates, lists of 4, random vectors and genres (synthetic, and
said so). 0 is the worst list of an instance, 1 the best; a ratio to the optimum itself would have
no meaning for objectives that change their sign.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np

from ml_algorithms.diversity.bench_config import LOOKS, Config
from ml_algorithms.diversity.calibrated import calibrated_list, genre_shares, mix, objective
from ml_algorithms.diversity.dpp import greedy_dpp, quality_similarity_kernel, trade_off_kernel
from ml_algorithms.diversity.mmr import mmr
from ml_platform.evaluation.diversity_metrics import unit_rows
from ml_platform.evaluation.intervals import bootstrap_mean
from ml_platform.evaluation.plot_style import GREY, named_rows, new_figure
from ml_platform.evaluation.study import StudyRun

MMR_TRADE_OFF, DPP_TRADE_OFF, CALIBRATION_WEIGHT = 0.5, 0.7, 0.5


@dataclass(frozen=True)
class Instance:
    """Candidates small enough for exhaustive search; vectors are unit length [C, D]."""

    relevance: np.ndarray
    vectors: np.ndarray
    shares: np.ndarray
    target: np.ndarray


@dataclass(frozen=True)
class Comparison:
    """A greedy list's value among the values of all lists.

    Attributes:
        place: (value - worst) / (best - worst).
        exact: Whether no list is better.
        bounded: What theory bounds from below (a share of the optimum), NaN without theory.
    """

    place: float
    exact: bool
    bounded: float


def run_optimality(run: StudyRun[Config]) -> None:
    """Measures the part."""
    config = run.config
    results = run.results(dataset_name="random vectors", dataset_sha256="generated", synthetic=True)
    found: dict[str, list[Comparison]] = {name: [] for name in METHODS}
    with run.progress.stage("instances", config.instances) as step:
        for number in range(config.instances):
            instance = draw_instance(config, run.seed * 100_003 + number)
            for name, compare in METHODS.items():
                found[name].append(compare(instance, config.small_list))
            step(1)
    protocol = (
        f"synthetic: {config.instances} random instances, lists of {config.small_list} from "
        f"{config.small_candidates} candidates, {config.small_dimensions} dimensions, "
        f"{config.small_genres} genres, all lists tried; 0 is the worst list, 1 the best"
    )
    for name, comparisons in found.items():
        place = np.array([one.place for one in comparisons])
        exact = np.array([float(one.exact) for one in comparisons])
        key = f"optimality/{name}"
        results.add(f"{key}/place", bootstrap_mean(place), protocol=protocol)
        results.add(f"{key}/exact_share", bootstrap_mean(exact), protocol=protocol)
        results.add(f"{key}/place_min", place.min(), n=len(place), protocol=protocol)
        results.add(f"{key}/place_p05", np.quantile(place, 0.05), n=len(place), protocol=protocol)
        bounded = np.array([one.bounded for one in comparisons])
        if not np.isnan(bounded).any():
            results.add(f"{key}/bounded_min", bounded.min(), n=len(bounded), protocol=protocol)
            results.add(f"{key}/bound", bound(name, config.small_list), protocol="theory")
    _draw(run, found)


def draw_instance(config: Config, seed: int) -> Instance:
    """Random unit vectors, relevance in [0, 1], one to three genres an item, a skewed user."""
    rng = np.random.default_rng(seed)
    n, n_genres = config.small_candidates, config.small_genres
    vectors = unit_rows(rng.normal(size=(n, config.small_dimensions)))
    genres = rng.random((n, n_genres)) < 0.25
    genres[np.arange(n), rng.integers(n_genres, size=n)] = True
    target = mix(rng.dirichlet(np.full(n_genres, 0.5), size=1))
    return Instance(rng.random(n), vectors, genre_shares(genres), target)


def mmr_values(orders: np.ndarray, relevance: np.ndarray, similarity: np.ndarray) -> np.ndarray:
    """Sum over the positions of the marginal relevance: MMR has no objective over *sets*.

    Args:
        orders: Lists [N, k], in order.
        relevance: [C].
        similarity: [C, C].
    """
    total = MMR_TRADE_OFF * relevance[orders].sum(axis=1)
    for place in range(1, orders.shape[1]):
        nearest = similarity[orders[:, place, None], orders[:, :place]].max(axis=1)
        total -= (1 - MMR_TRADE_OFF) * nearest
    return np.asarray(total)


def compare_mmr(instance: Instance, k: int) -> Comparison:
    """Against all ordered lists, since the value depends on the order."""
    similarity = instance.vectors @ instance.vectors.T
    picked = mmr(instance.relevance, similarity, k=k, trade_off=MMR_TRADE_OFF)
    orders = np.array(list(itertools.permutations(range(len(instance.relevance)), k)))
    values = mmr_values(orders, instance.relevance, similarity)
    reached = mmr_values(picked[None, :], instance.relevance, similarity)
    return _compare(float(reached[0]), values)


def compare_dpp(instance: Instance, k: int) -> Comparison:
    """The trade-off kernel that a product would use: not monotone, no bound."""
    similarity = instance.vectors @ instance.vectors.T
    kernel = trade_off_kernel(instance.relevance, similarity, trade_off=DPP_TRADE_OFF)
    return _compare_determinants(kernel, k)


def compare_dpp_monotone(instance: Instance, k: int) -> Comparison:
    """I + L: every gain is at least 1, so the logarithm is monotone and greedy is bounded."""
    similarity = instance.vectors @ instance.vectors.T
    kernel = quality_similarity_kernel(1.0 + instance.relevance, similarity)
    kernel += np.eye(len(kernel))
    compared = _compare_determinants(kernel, k)
    chosen = greedy_dpp(kernel, k)
    best = float(_log_determinants(kernel, k).max())
    reached = float(np.linalg.slogdet(kernel[np.ix_(chosen, chosen)])[1])
    return Comparison(compared.place, compared.exact, reached / best)


def compare_calibrated(instance: Instance, k: int) -> Comparison:
    """Formula (1) of `calibrated`, with the share of the way from the first pick."""
    arguments = (instance.relevance, instance.shares, instance.target)
    picked = calibrated_list(*arguments, k=k, weight=CALIBRATION_WEIGHT)
    sets = itertools.combinations(range(len(instance.relevance)), k)
    values = np.array([objective(np.array(s), *arguments, weight=CALIBRATION_WEIGHT) for s in sets])
    reached = objective(picked, *arguments, weight=CALIBRATION_WEIGHT)
    # (2) is (1) plus weight * log(length): the first pick, as the bound counts it.
    first = objective(picked[:1], *arguments, weight=CALIBRATION_WEIGHT)
    first -= CALIBRATION_WEIGHT * math.log(k)
    compared = _compare(reached, values)
    return Comparison(
        compared.place, compared.exact, (reached - first) / (float(values.max()) - first)
    )


METHODS = {
    "mmr": compare_mmr,
    "dpp": compare_dpp,
    "dpp_monotone": compare_dpp_monotone,
    "calibrated": compare_calibrated,
}


def bound(name: str, k: int) -> float:
    """What theory promises: 1 - (1 - 1/k)^n with n free greedy steps."""
    steps = k if name == "dpp_monotone" else k - 1
    return 1.0 - (1.0 - 1.0 / k) ** steps


def _compare_determinants(kernel: np.ndarray, k: int) -> Comparison:
    chosen = greedy_dpp(kernel, k)
    reached = float(np.linalg.slogdet(kernel[np.ix_(chosen, chosen)])[1])
    return _compare(reached, _log_determinants(kernel, k))


def _log_determinants(kernel: np.ndarray, k: int) -> np.ndarray:
    sets = np.array(list(itertools.combinations(range(len(kernel)), k)))
    return np.asarray(np.linalg.slogdet(kernel[sets[:, :, None], sets[:, None, :]])[1])


def _compare(reached: float, values: np.ndarray) -> Comparison:
    best, worst = float(values.max()), float(values.min())
    place = (reached - worst) / (best - worst)
    return Comparison(place, reached >= best - 1e-9, math.nan)


def _draw(run: StudyRun[Config], found: dict[str, list[Comparison]]) -> None:
    figure, (left, right) = new_figure("Greedy against the best list there is", panels=2)
    names = [LOOKS[name][0] for name in found]
    rng = np.random.default_rng(0)
    for row, (name, comparisons) in enumerate(found.items()):
        _, colour, marker = LOOKS[name]
        place = [one.place for one in comparisons]
        height = row + rng.uniform(-0.25, 0.25, len(place))
        left.plot(place, height, marker, color=colour, markersize=3, alpha=0.35, linestyle="none")
        share = float(np.mean([one.exact for one in comparisons]))
        right.barh(row, share, color=colour, height=0.55)
        right.text(share + 0.02, row, f"{share:.0%}", va="center", fontsize=9, color="0.25")
    for axes in (left, right):
        named_rows(axes, names)
    right.set_yticklabels([])
    right.set_xlim(0, 1.15)
    right.axvline(1.0, color=GREY, linewidth=1)
    left.set_xlabel("value of the greedy list\n(0 = worst list, 1 = best)")
    right.set_xlabel("share of instances\nwhere greedy is optimal")
    run.picture("places", figure)
