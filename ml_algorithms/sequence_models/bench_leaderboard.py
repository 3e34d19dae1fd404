"""Part ``leaderboard``: who ranks the next item best, and by how much?

Leave-last-out, full ranking, seen items masked. A network's value is the mean over seeds for each
user, and the interval resamples users; the range over seeds stands beside it.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from matplotlib.figure import Figure

from ml_algorithms.sequence_models.bench_config import Config, Data, label, load
from ml_algorithms.sequence_models.bench_models import (
    NETWORKS,
    TITLES,
    Entry,
    train_network,
    tuned_baselines,
)
from ml_algorithms.sequence_models.evaluation import (
    Split,
    leave_last_two_out,
    rank_all,
    sampled_hit_rate,
)
from ml_algorithms.sequence_models.sequences import training_windows
from ml_platform.evaluation import plot_style
from ml_platform.evaluation.intervals import Estimate, bootstrap_difference, bootstrap_mean
from ml_platform.evaluation.results import Results
from ml_platform.evaluation.study import StudyRun

REFERENCE = "ease_fading"


def leaderboard(run: StudyRun[Config]) -> None:
    """All rows on the first data set, the chosen ones on the others."""
    config = run.config
    data = [load(config, name) for name in config.datasets]
    results = run.results(**label(data))  # type: ignore[arg-type]
    for position, one in enumerate(data):
        variants = tuple(NETWORKS) if position == 0 else config.second_variants
        seeds = config.seeds if position == 0 else config.seeds[:1]
        split = leave_last_two_out(one.log)
        rows, knobs = _rows(run, one, split, variants, seeds)
        _record(results, one, split, rows, seeds)
        for name, words in knobs.items():
            results.add(f"{one.name}/{name}/seeds", float(len(seeds)), protocol=f"chosen: {words}")
        run.picture(one.name, _picture(one, rows))


def _rows(
    run: StudyRun[Config],
    data: Data,
    split: Split,
    variants: tuple[str, ...],
    seeds: tuple[int, ...],
) -> tuple[dict[str, dict[str, np.ndarray]], dict[str, str]]:
    """For each row the metrics by query, f64[seeds, Q], seconds and epochs; and knobs."""
    rows: dict[str, dict[str, np.ndarray]] = {}
    knobs: dict[str, str] = {}
    total = 5 + len(variants) * len(seeds)
    with run.progress.stage(f"leaderboard, {data.title}", total) as step:
        for name, entries in _entries(split, run.config, variants, seeds):
            rows[name] = _measured(entries, split)
            knobs[name] = "; ".join(entry.knobs for entry in entries) or "nothing to tune"
            step(len(entries))
    return rows, knobs


def _entries(
    split: Split, config: Config, variants: tuple[str, ...], seeds: tuple[int, ...]
) -> Iterator[tuple[str, list[Entry]]]:
    for name, entry in tuned_baselines(split, config):
        yield name, [entry]
    windows = training_windows(split.train, config.length)
    for name in variants:
        yield (
            name,
            [train_network(name, split, config, seed=seed, windows=windows) for seed in seeds],
        )


def _measured(entries: list[Entry], split: Split) -> dict[str, np.ndarray]:
    rankings = [rank_all(entry.scorer, split.test) for entry in entries]
    unmasked = [rank_all(entry.scorer, split.test, mask_seen=False) for entry in entries]
    sampled = [
        sampled_hit_rate(entry.scorer, split.test, n_sampled=_n_sampled(split)) for entry in entries
    ]
    return {
        "hr@10": np.stack([ranking.hit_rate for ranking in rankings]),
        "ndcg@10": np.stack([ranking.ndcg for ranking in rankings]),
        "unmasked_ndcg@10": np.stack([ranking.ndcg for ranking in unmasked]),
        "sampled_hr@10": np.stack(sampled),
        "fit_s": np.array([entry.seconds for entry in entries]),
        "epochs": np.array([entry.report.best_epoch if entry.report else 0 for entry in entries]),
    }


def _n_sampled(split: Split) -> int:
    """100 as in the literature; fewer where a small catalogue does not have as many unseen."""
    most_seen = int(np.diff(split.test.histories.ptr).max())
    return max(1, min(100, split.train.n_items - most_seen - 1))


def _record(
    results: Results,
    data: Data,
    split: Split,
    rows: dict[str, dict[str, np.ndarray]],
    used: tuple[int, ...],
) -> None:
    threads = torch.get_num_threads()
    base = (
        f"{data.title}, items with 5 or more events, leave-last-out, full ranking of "
        f"{split.train.n_items} items, seen masked; n = users"
    )
    seeds = f"mean of seeds {', '.join(map(str, used))}; 95% interval over users"
    for name, row in rows.items():
        key = f"{data.name}/{name}"
        for metric in ("hr@10", "ndcg@10"):
            value = bootstrap_mean(row[metric].mean(axis=0))
            results.add(f"{key}/{metric}", value, protocol=f"{base}; {seeds}")
        spread = row["ndcg@10"].mean(axis=1)
        if len(spread) > 1:
            results.add(
                f"{key}/ndcg@10_seed_range",
                float(spread.max() - spread.min()),
                protocol=f"{base}; highest less lowest of {len(spread)} seeds",
                n=len(spread),
            )
        gap = bootstrap_difference(
            row["ndcg@10"].mean(axis=0), rows[REFERENCE]["ndcg@10"].mean(axis=0)
        )
        results.add(f"{key}/ndcg@10_less_{REFERENCE}", gap, protocol=f"{base}; paired; {seeds}")
        results.add(
            f"{key}/unmasked_ndcg@10",
            bootstrap_mean(row["unmasked_ndcg@10"].mean(axis=0)),
            protocol=f"{base.replace('seen masked', 'seen NOT masked')}; {seeds}",
        )
        results.add(
            f"{key}/sampled_hr@10",
            bootstrap_mean(row["sampled_hr@10"].mean(axis=0)),
            protocol=f"{data.title}, rank among {_n_sampled(split)} uniform unseen items; {seeds}",
        )
        results.add(
            f"{key}/fit_s",
            float(row["fit_s"].mean()),
            protocol=f"wall seconds of one fit, validation included, {threads} threads",
        )
        results.add(f"{key}/epochs", float(row["epochs"].mean()), protocol="best epoch, mean")
    results.add(f"{data.name}/data/events", float(len(split.train)), protocol="training events")


def _picture(data: Data, rows: dict[str, dict[str, np.ndarray]]) -> Figure:
    order = sorted(rows, key=lambda name: -rows[name]["ndcg@10"].mean())
    figure, (axes,) = plot_style.new_figure(
        f"Next item on {data.title}: full ranking", height=0.6 + 0.32 * len(order)
    )
    plot_style.named_rows(axes, [TITLES[name] for name in order])
    for place, name in enumerate(order):
        colour = plot_style.GREY
        if name in NETWORKS:
            colour = plot_style.BLUE if name.startswith("sasrec") else plot_style.ORANGE
        value = bootstrap_mean(rows[name]["ndcg@10"].mean(axis=0))
        marker = {"s": "s", "h": "D"}.get(name[0], "o") if name in NETWORKS else "o"
        plot_style.interval_dot(axes, place, _ends(value), colour=colour, marker=marker)
    axes.set_xlabel("NDCG@10, 95% interval over users (grey: baselines)")
    return figure


def _ends(value: Estimate) -> tuple[float, float | None, float | None]:
    return value.value, value.low, value.high
