"""Part ``ties``: how far do the targets, and the metrics, move with the order of equal seconds?

Users of MovieLens rate whole pages at once, so many rows of one user carry the same second, and
"the last event" is then whatever the sort left last. The same protocol runs under several orders
of tied rows: by item id up and down (what a plain sort of a table by user and time gives, if the
table was sorted by item before) and by seeded hashes. Training data and targets move together, as
they would in anyone's pipeline.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from ml_algorithms.sequence_models.baselines import ease, markov_chain, popularity
from ml_algorithms.sequence_models.bench_config import Config, Data, label, load, tied_share
from ml_algorithms.sequence_models.bench_models import TITLES, train_network
from ml_algorithms.sequence_models.evaluation import leave_last_two_out, rank_all
from ml_platform.data.interactions import InteractionLog, seeded_hash
from ml_platform.evaluation import plot_style
from ml_platform.evaluation.intervals import bootstrap_mean
from ml_platform.evaluation.results import Results
from ml_platform.evaluation.study import StudyRun

NETWORK = "sasrec_sampled"
EASE_KNOBS = {"reg": 300.0, "half_life": 8.0}
SMOOTHING = 300.0


def reorder_ties(log: InteractionLog, order: str) -> InteractionLog:
    """The same log with tied rows in another order.

    Args:
        log: Any.
        order: "item_up", "item_down", or "hash_<seed>".

    Raises:
        ValueError: On another word.
    """
    if order == "item_up":
        key: npt.NDArray[Any] = log.item_idx
    elif order == "item_down":
        key = -log.item_idx
    elif order.startswith("hash_"):
        users, items = log.user_ids[log.user_idx], log.item_ids[log.item_idx]
        key = seeded_hash(int(order.removeprefix("hash_")), users, items)
    else:
        raise ValueError(f"order must be item_up, item_down or hash_<seed>, got {order!r}")
    rows = np.lexsort((key, log.timestamp, log.user_idx))
    return replace(log, item_idx=log.item_idx[rows], rating=log.rating[rows])


def ties(run: StudyRun[Config]) -> None:
    """All orders on all data sets; the network on the first one only."""
    config = run.config
    data = [load(config, name) for name in config.datasets]
    results = run.results(**label(data))  # type: ignore[arg-type]
    orders = ["item_up", "item_down", *(f"hash_{seed}" for seed in config.hash_seeds)]
    for position, one in enumerate(data):
        share = tied_share(one.log)
        results.add(
            f"{one.name}/ties/users_in_tie",
            float(share.mean()),
            protocol=f"{one.title}: users whose last two events carry the same second",
            n=len(share),
        )
        values: dict[str, dict[str, float]] = {}
        with run.progress.stage(f"ties, {one.title}", len(orders)) as step:
            for order in orders:
                trained = position == 0 and order in config.network_orders
                networks = [NETWORK] if trained else []
                values[order] = _one_order(results, one, order, networks, run)
                step(1)
        _spread(results, one, values)
        if position == 0:
            run.picture("orders", _picture(one, values))


def _one_order(
    results: Results, data: Data, order: str, networks: list[str], run: StudyRun[Config]
) -> dict[str, float]:
    log = reorder_ties(data.log, order)
    split = leave_last_two_out(log)
    scorers = {
        "popularity": popularity(split.train),
        "markov": markov_chain(split.train, smoothing=SMOOTHING),
        "ease_fading": ease(split.train, **EASE_KNOBS),
    }
    for name in networks:
        scorers[name] = train_network(name, split, run.config, seed=run.seed).scorer
    protocol = (
        f"{data.title}, leave-last-out, full ranking, seen masked, ties by {order}; seed "
        f"{run.seed}; 95% interval over users"
    )
    out = {}
    for name, scorer in scorers.items():
        ranking = rank_all(scorer, split.test)
        for metric, values in (("hr@10", ranking.hit_rate), ("ndcg@10", ranking.ndcg)):
            key = f"{data.name}/{name}_{order}/{metric}"
            results.add(key, bootstrap_mean(values), protocol=protocol)
        out[name] = float(ranking.ndcg.mean())
    reference = reorder_ties(data.log, "hash_0")
    end = reference.user_ptr[1:][np.diff(reference.user_ptr) >= 2] - 1
    results.add(
        f"{data.name}/ties/targets_changed_{order}",
        float((reference.item_idx[end] != log.item_idx[end]).mean()),
        protocol=f"{data.title}: share of users whose last event differs from that under hash_0",
        n=len(end),
    )
    return out


def _spread(results: Results, data: Data, values: dict[str, dict[str, float]]) -> None:
    """(highest - lowest) / mean over hashes, and item_up against their mean, by model."""
    for name in values["item_up"]:
        hashes = [order for order in values if order.startswith("hash_") and name in values[order]]
        by_hash = np.array([values[order][name] for order in hashes])
        results.add(
            f"{data.name}/{name}/ndcg_range_over_hashes",
            float((by_hash.max() - by_hash.min()) / by_hash.mean()),
            protocol=f"{data.title}: NDCG@10, (highest - lowest) / mean of {len(hashes)} hashes",
        )
        for order in ("item_up", "item_down"):
            if name not in values[order]:
                continue
            results.add(
                f"{data.name}/{name}/ndcg_{order}_over_hashes",
                float(values[order][name] / by_hash.mean() - 1.0),
                protocol=f"{data.title}: NDCG@10 under {order} over the mean of hashes, less 1",
            )


def _picture(data: Data, values: dict[str, dict[str, float]]) -> Any:
    names = list(values["item_up"])
    figure, (axes,) = plot_style.new_figure(
        f"The order of tied seconds moves NDCG@10 ({data.title})", height=1.2 + 0.5 * len(names)
    )
    plot_style.named_rows(axes, [TITLES[name] for name in names])
    kinds = (
        ("hash_", "seeded hash", plot_style.BLUE, "o"),
        ("item_up", "item id, ascending", plot_style.ORANGE, ">"),
        ("item_down", "item id, descending", plot_style.GREEN, "<"),
    )
    for prefix, title, colour, marker in kinds:
        points = [
            (values[order][name], place)
            for place, name in enumerate(names)
            for order in values
            if order.startswith(prefix) and name in values[order]
        ]
        x, y = zip(*points, strict=True)
        axes.plot(x, y, linestyle="none", marker=marker, color=colour, label=title, alpha=0.8)
    axes.set_xlabel("NDCG@10, test, full ranking")
    axes.legend(frameon=False, fontsize=9, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3)
    return figure
