"""What re-ranking buys and what it costs: diversity, relevance, and the seconds people stay.

In: ``RankedRequests`` of the test days, the world, the projection that serving compares with. Out:
``reranking/<variant>/<metric>`` in the results and a picture of the trade-off.

Every variant fills a session of three slates; list metrics read the first ten places.

- ``ild@10``, ``min_distance@10``: cosine distance in the full 768-d content, not in the 64-d
  projection that the re-ranker optimises.
- ``tag_entropy@10``: bits, of the main tags; ``creators@10``: different creators in a list;
  ``creator_coverage``: share of all creators in any list.
- ``value_kept@10``: predicted value of the list as a share of the best ten's, both above the
  pool's worst. ``satisfaction@10``: the true expectation for a rested viewer, known to the world.
- ``watch_s``, ``watched``, ``skip_rate``, ``felt``: sessions before the simulated audience, which
  tires. Differences to relevance order are paired by user and by chance.

"relevance" is MMR with weight 1 and no rules. The weights of the curve are not chosen here: the
configured one was set on another world.

Legend: Q requests, one a user; V videos.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ml_platform.evaluation.diversity_metrics import (
    category_entropy,
    intra_list_distance,
    min_pairwise_distance,
)
from ml_platform.evaluation.intervals import Estimate, bootstrap_mean, bootstrap_ratio
from ml_platform.evaluation.progress import Progress
from ml_platform.evaluation.results import Results, write_atomic
from shorts_recommendation.config import Config, RerankingConfig
from shorts_recommendation.content_projection import fit_basis, project
from shorts_recommendation.evaluation.reranking_session import (
    Fill,
    RankedRequests,
    dpp_fill,
    fill_session,
    play,
    pool_of,
)
from shorts_recommendation.log import Catalogue
from shorts_recommendation.reranking import Slates, rerank
from shorts_recommendation.world.world import World

WEIGHTS = (0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.2, 0.0)
"""MMR's lambda along the curve."""
DPP_TRADE_OFFS = (0.9, 0.8, 0.6)
PAGES = 3
LIST = 10
AUDIENCES = 3
MOST_PEOPLE = 1000
"""Enough for differences of one in a hundred of watch time; twenty variants share the minute."""
NO_RULES = {"fatigue": 0.0, "tag_cap": 0, "fresh_slots": 0, "exploration": 0.0}
GOAL_GAIN, GOAL_ILD = 0.4, 0.6
"""Aims of the system: 40% more diversity than relevance order, a distance above 0.6."""
MARGIN = 0.01
"""Watch time may be so much lower and count as equal, by the lower end of the interval."""
CHOOSES, TELLS, EVERYBODY = slice(0, None, 2), slice(1, None, 2), slice(None)
"""People, one request each, in the order of time."""


@dataclass(frozen=True)
class Variant:
    """One way to build slates: rules as configured with changes, or another filler."""

    changes: Mapping[str, float]
    fill: Fill | None = None


@dataclass(frozen=True)
class Measured:
    """One value a request of every metric, and how often rules gave way."""

    metrics: dict[str, np.ndarray]
    coverage: float
    relaxed: dict[str, int]


def variants() -> dict[str, Variant]:
    """All that is compared, by the name in the results."""
    found = {"relevance": Variant({"relevance_weight": 1.0, **NO_RULES})}
    for weight in WEIGHTS:
        found[f"mmr_{weight:g}"] = Variant({"relevance_weight": weight, **NO_RULES})
    for trade_off in DPP_TRADE_OFFS:
        found[f"dpp_{trade_off:g}"] = Variant(NO_RULES, dpp_fill(trade_off))
    found["all_rules"] = Variant({})
    found["no_mmr"] = Variant({"relevance_weight": 1.0})
    found["no_fatigue"] = Variant({"fatigue": 0.0})
    found["no_cap"] = Variant({"tag_cap": 0})
    found["no_fresh"] = Variant({"fresh_slots": 0, "fresh_reserve": 0})
    return found


def evaluate_reranking(
    requests: RankedRequests,
    world: World,
    basis: np.ndarray,
    config: Config,
    results: Results,
    *,
    plots: Path,
    progress: Progress,
) -> None:
    """Measures every variant, records it and draws the curve.

    Args:
        requests: Ranked candidates of the test days, at least ``pool + PAGES * k`` each.
        world: Truth and audience.
        basis: f32[768, D] of ``content_projection``.
        config: Rules, resamples, seed.
        results: Takes the metrics.
        plots: Folder for ``reranking_trade_off.png``.
        progress: Told how far it is.
    """
    requests = requests.spread(MOST_PEOPLE)
    vectors = project(world.catalogue.content, basis)
    found, protocol = {}, protocol_of(requests, config)
    with progress.stage("re-ranking: the trade-off", len(variants())) as step:
        for name, variant in variants().items():
            found[name] = measure(requests, world, vectors, variant, config)
            step(1)
    for name, measured in found.items():
        record(results, name, measured, found["relevance"], config, protocol)
    record_aims(results, found, config, protocol)
    with progress.stage("re-ranking: projection and speed", 2) as step:
        record_projections(results, requests, world.catalogue, config)
        step(1)
        record_speed(results, requests, world.catalogue, vectors, config.reranking)
        step(1)
    from shorts_recommendation.evaluation.reranking_plot import trade_off_figure

    write_atomic(plots / "reranking_trade_off.png", trade_off_figure(results))


def protocol_of(requests: RankedRequests, config: Config) -> str:
    """One line: on what, how many, how long."""
    rules = config.reranking
    return (
        f"simulated world; {len(requests)} people of the test days, one request each, the funnel's "
        f"own values; pool {rules.pool}, k {rules.k}; list metrics on the first {LIST} places in "
        f"768-d content; sessions of up to {PAGES * rules.k} videos before {AUDIENCES} audiences; "
        "intervals by user bootstrap"
    )


def measure(
    requests: RankedRequests,
    world: World,
    vectors: np.ndarray,
    variant: Variant,
    config: Config,
) -> Measured:
    """Fills the sessions of a variant and looks at them from every side."""
    rules = RerankingConfig.model_validate({**config.reranking.model_dump(), **variant.changes})
    shown, slates = fill_session(
        requests, world.catalogue, vectors, rules, pages=PAGES, fill=variant.fill, seed=config.seed
    )
    first = shown[:, :LIST]
    played = play(world, requests, shown, audiences=AUDIENCES, seed=config.seed + 1)
    truth = world.expected(requests.user_idx, first, requests.now_s)
    catalogue = world.catalogue
    metrics = {
        **list_metrics(catalogue, first),
        "value_kept@10": value_kept(requests, first),
        "satisfaction@10": truth.satisfaction.mean(axis=1),
        "watch_s": played.watch_s,
        "watched": played.watched,
        "skip_rate": played.skips,
        "felt": played.satisfaction,
        "fresh_share@10": fresh_share(requests, first),
    }
    creators = np.unique(catalogue.creator_idx[first])
    ruled = rules.tag_cap > 0 or rules.fresh_slots > 0
    relaxed = _relaxed(slates) if ruled else {}
    return Measured(metrics, len(creators) / catalogue.n_creators, relaxed)


def list_metrics(catalogue: Catalogue, lists: np.ndarray) -> dict[str, np.ndarray]:
    """Diversity of lists i32[Q, 10] without empty places."""
    # Only the rows in use are made float64: the whole catalogue would be gigabytes.
    used, place = np.unique(lists, return_inverse=True)
    content, local = catalogue.content[used], place.reshape(lists.shape).astype(np.int32)
    tags = np.eye(catalogue.n_tags, dtype=bool)[catalogue.tags[used, 0]]
    creators = np.sort(catalogue.creator_idx[lists], axis=1)
    return {
        "ild@10": intra_list_distance(content, local),
        "min_distance@10": min_pairwise_distance(content, local),
        "tag_entropy@10": category_entropy(local, tags),
        "creators@10": 1.0 + (np.diff(creators, axis=1) > 0).sum(axis=1),
    }


def value_kept(requests: RankedRequests, lists: np.ndarray) -> np.ndarray:
    """Value of the list over that of the best ten, both above the worst of the best 60. f64[Q]."""
    there = requests.videos >= 0
    value = np.where(there, requests.value, -np.inf).astype(np.float64)
    ranked = -np.sort(-value, axis=1)[:, :60]
    floor = np.where(np.isfinite(ranked), ranked, np.inf).min(axis=1)
    best = ranked[:, :LIST].sum(axis=1) - LIST * floor
    rows = np.arange(len(lists))[:, None]
    column = (requests.videos[:, None, :] == lists[:, :, None]).argmax(axis=2)
    own = value[rows, column].sum(axis=1) - LIST * floor
    return np.divide(own, best, out=np.ones(len(lists)), where=best > 0)


def fresh_share(requests: RankedRequests, lists: np.ndarray) -> np.ndarray:
    """Share of places given to uploads with exposures left, f64[Q]."""
    column = (requests.videos[:, None, :] == lists[:, :, None]).argmax(axis=2)
    return np.take_along_axis(requests.fresh, column, axis=1).mean(axis=1)


def record(
    results: Results,
    name: str,
    measured: Measured,
    base: Measured,
    config: Config,
    protocol: str,
) -> None:
    """One variant: its means, and differences to relevance order where it matters."""
    resamples = config.evaluation.resamples
    for metric, values in measured.metrics.items():
        mean = bootstrap_mean(values, resamples=resamples)
        results.add(f"reranking/{name}/{metric}", mean, protocol=protocol)
    results.add(f"reranking/{name}/creator_coverage", measured.coverage, protocol=protocol)
    for rule, times in measured.relaxed.items():
        key = f"reranking/{name}/{rule}_relaxed"
        places = len(measured.metrics["watch_s"]) * PAGES * config.reranking.k
        results.add(key, times / places, protocol=f"{protocol}; share of places")
    if name == "relevance":
        return
    for metric in ("ild@10", "min_distance@10", "satisfaction@10", "watch_s", "felt"):
        change = relative(measured.metrics[metric], base.metrics[metric], resamples)
        key = f"reranking/{name}/{metric}_change"
        results.add(key, change, protocol=f"{protocol}; relative to relevance order")


def relative(values: np.ndarray, base: np.ndarray, resamples: int) -> Estimate:
    """Mean / mean of base - 1, paired: both means are resampled."""
    found = bootstrap_ratio(values, base, resamples=resamples)
    low, high = (None if end is None else end - 1 for end in (found.low, found.high))
    return Estimate(found.value - 1, low, high, found.n)


def record_aims(
    results: Results, found: Mapping[str, Measured], config: Config, protocol: str
) -> None:
    """The aims, answered: how far diversity can rise at all, and where watch time is no lower.

    The best of twenty variants is chosen on every second person and reported on the others: on the
    people who chose it, part of its lead would be their chance.
    """
    resamples = config.evaluation.resamples
    half = (
        f"{protocol}; of {len(found)} variants, chosen on every second person, told of the others"
    )
    kept = [name for name in found if _no_worse(found, name, CHOOSES, resamples)]
    equal = f"watch time at most {MARGIN:.0%} lower by the lower end of its interval"
    for metric in ("ild@10", "min_distance@10", "tag_entropy@10"):
        for aim, names, words in (("reachable", list(found), "any"), ("equal_watch", kept, equal)):
            best = max(names, key=lambda name: found[name].metrics[metric][CHOOSES].mean())
            said = f"{half}; {words}; chosen: {best}"
            for told, key in ((metric, "gain"), ("watch_s", "watch_s_change")):
                change = _change(found, best, told, TELLS, resamples)
                results.add(f"reranking/{aim}/{metric}_{key}", change, protocol=said)
    # Not chosen here, so everybody counts.
    gain = _change(found, "all_rules", "ild@10", EVERYBODY, resamples).value
    met = gain >= GOAL_GAIN and _no_worse(found, "all_rules", EVERYBODY, resamples)
    results.add("reranking/aims/ild_gain_met", float(met), protocol=protocol)
    over = float(found["all_rules"].metrics["ild@10"].mean()) > GOAL_ILD
    results.add("reranking/aims/ild_met", float(over), protocol=protocol)


def _change(
    found: Mapping[str, Measured], name: str, metric: str, people: slice, resamples: int
) -> Estimate:
    """Of these people, relative to relevance order."""
    own, base = (found[one].metrics[metric][people] for one in (name, "relevance"))
    return relative(own, base, resamples)


def _no_worse(found: Mapping[str, Measured], name: str, people: slice, resamples: int) -> bool:
    """Whether equal watch time is shown, and not merely not refuted."""
    if name == "relevance":
        return True
    change = _change(found, name, "watch_s", people, resamples)
    return change.low is not None and change.low >= -MARGIN


def record_projections(
    results: Results, requests: RankedRequests, catalogue: Catalogue, config: Config
) -> None:
    """How well cosines in few dimensions agree with 768, over the pairs that pools compare."""
    dim, rules = config.reranking.projected_dim, config.reranking
    nothing = np.zeros((len(requests), 0), dtype=np.int32)
    some = slice(500)
    for method in ("principal", "random"):
        basis = fit_basis(catalogue.content, dim, method=method, seed=config.seed)
        vectors = project(catalogue.content, basis)
        items = pool_of(requests, requests.videos, nothing, catalogue, vectors, rules)
        pools, low = items.videos[some], items.vectors[some]
        full = catalogue.content[np.maximum(pools, 0)].astype(np.float32)
        pairs = np.triu_indices(pools.shape[1], 1)
        near = (low @ low.transpose(0, 2, 1))[:, *pairs]
        true = (full @ full.transpose(0, 2, 1))[:, *pairs]
        there = (pools[:, pairs[0]] >= 0) & (pools[:, pairs[1]] >= 0)
        near, true = near[there], true[there]
        protocol = f"simulated world; {dim} of 768 dimensions, pairs within {len(pools)} pools"
        variant = f"projection_{method}"
        correlation = float(np.corrcoef(near, true)[0, 1])
        error = float(np.abs(near - true).mean())
        results.add(f"reranking/{variant}/correlation", correlation, protocol=protocol)
        results.add(f"reranking/{variant}/absolute_error", error, protocol=protocol)


def record_speed(
    results: Results,
    requests: RankedRequests,
    catalogue: Catalogue,
    vectors: np.ndarray,
    rules: RerankingConfig,
    *,
    rounds: int = 200,
) -> None:
    """Microseconds a request, one after the other on one thread, at two batch sizes."""
    shown = requests.videos[:, : rules.memory]
    items = pool_of(requests, requests.videos, shown, catalogue, vectors, rules)
    rng = np.random.default_rng(0)
    for size in (1, min(16, len(requests))):
        batch = type(items)(**{n: getattr(items, n)[:size] for n in items.__dataclass_fields__})
        seconds = np.empty(rounds)
        rerank(batch, rules, rng)
        for number in range(rounds):
            begin = time.perf_counter()
            rerank(batch, rules, rng)
            seconds[number] = time.perf_counter() - begin
        protocol = (
            f"pool {batch.videos.shape[1]}, k {rules.k}, {shown.shape[1]} shown before, batches of "
            f"{size}, one thread, closed loop, n = {rounds}, no errors"
        )
        for name, q in (("p50", 0.5), ("p99", 0.99)):
            value = float(np.quantile(seconds, q)) / size * 1e6
            results.add(f"reranking/speed_batch_{size}/{name}_us", value, protocol=protocol)


def _relaxed(slates: list[Slates]) -> dict[str, int]:
    total: dict[str, int] = {}
    for slate in slates:
        for rule, times in slate.times_relaxed().items():
            total[rule] = total.get(rule, 0) + times
    return total
