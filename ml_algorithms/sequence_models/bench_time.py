"""Part ``global_time``: does the order of models survive a split by time?

One cut for everyone: training rows come before it, and no model sees another user's future. Every
later second of a user is a request with its live history (all earlier events, as serving has
them); everything rated in that second is relevant. Requests without any history are left out:
there every model is the popularity list.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from ml_algorithms.sequence_models.bench_config import Config, label, load
from ml_algorithms.sequence_models.bench_models import (
    NETWORKS,
    TITLES,
    Entry,
    train_network,
    tuned_baselines,
)
from ml_algorithms.sequence_models.evaluation import Split, questions_of, rank_all
from ml_platform.data.interactions import InteractionLog, Queries
from ml_platform.data.splits import next_event_queries, temporal_windows
from ml_platform.evaluation import plot_style
from ml_platform.evaluation.intervals import Estimate, bootstrap_difference, bootstrap_mean
from ml_platform.evaluation.study import StudyRun

MODELS = ("sasrec_sampled", "hstu_history", "hstu_request")
REFERENCE = "ease_fading"
MAX_VALIDATION = 1000


def global_time(run: StudyRun[Config]) -> None:
    """Baselines and networks, trained before the first cut, asked after the second."""
    config = run.config
    data = load(config, config.datasets[0])
    results = run.results(**label([data]))  # type: ignore[arg-type]
    split = time_split(data.log)
    protocol = (
        f"{data.title}, train on the first 80% of events by time, tune on the next 10%, test on "
        f"the last 10%: every second of a user with a history is a request with live history; "
        f"full ranking, seen masked; seed {run.seed}, {torch.get_num_threads()} threads; 95% "
        "interval over users"
    )
    rows: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    with run.progress.stage("global time", 6 + 1 + len(MODELS)) as step:
        for name, entry in [*tuned_baselines(split, config, recent=True)]:
            rows[name] = _measure(entry, split)
            step(1)
        for name in MODELS:
            entry = train_network(name, split, config, seed=run.seed)
            rows[name] = _measure(entry, split)
            step(1)
    users = split.test.user_idx
    for name, (hit_rate, ndcg) in rows.items():
        key = f"global_time/{name}"
        results.add(f"{key}/hr@10", bootstrap_mean(hit_rate, users), protocol=protocol)
        results.add(f"{key}/ndcg@10", bootstrap_mean(ndcg, users), protocol=protocol)
        gap = bootstrap_difference(ndcg, rows[REFERENCE][1], users)
        results.add(f"{key}/ndcg@10_less_{REFERENCE}", gap, protocol=f"{protocol}; paired")
    results.add(
        "global_time/data/test_users",
        float(len(np.unique(users))),
        protocol="users with a test request",
    )
    run.picture("leaderboard", _picture(data.title, rows, users))


def time_split(log: InteractionLog) -> Split:
    """The three windows of ``temporal_windows`` as a ``Split``; validation thinned to 1,000."""
    cuts = temporal_windows(log.timestamp)
    train = log.select(log.timestamp < cuts.train_end)
    validation = _with_history(log, cuts.train_end, cuts.validation_end)
    step = max(1, len(validation) // MAX_VALIDATION)
    thinned = validation.subset(np.arange(0, len(validation), step))
    test = _with_history(log, cuts.validation_end, None)
    return Split(train, questions_of(log, thinned), questions_of(log, test))


def _with_history(log: InteractionLog, begin: int, end: int | None) -> Queries:
    queries = next_event_queries(log, begin, end)
    return queries.subset(queries.history_end > queries.history_begin)


def _measure(entry: Entry, split: Split) -> tuple[np.ndarray, np.ndarray]:
    ranking = rank_all(entry.scorer, split.test)
    return ranking.hit_rate, ranking.ndcg


def _picture(title: str, rows: dict[str, tuple[np.ndarray, np.ndarray]], users: np.ndarray) -> Any:
    order = sorted(rows, key=lambda name: -rows[name][1].mean())
    figure, (axes,) = plot_style.new_figure(
        f"The same models under one cut in time ({title})", height=0.8 + 0.32 * len(order)
    )
    plot_style.named_rows(axes, [TITLES[name] for name in order])
    for place, name in enumerate(order):
        value: Estimate = bootstrap_mean(rows[name][1], users)
        colour = plot_style.GREY
        if name in NETWORKS:
            colour = plot_style.BLUE if name.startswith("sasrec") else plot_style.ORANGE
        ends = (value.value, value.low, value.high)
        plot_style.interval_dot(axes, place, ends, colour=colour)
    axes.set_xlabel("NDCG@10, 95% interval over users (grey: baselines)")
    return figure
