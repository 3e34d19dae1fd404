"""Parts ``worked``, ``degenerate``, ``sampled`` and ``averaging``."""

from __future__ import annotations

import itertools

import numpy as np

from ml_algorithms.metrics_and_calibration.averaging import gauc, macro_values, user_aucs
from ml_algorithms.metrics_and_calibration.bench_calibration import fit_model
from ml_algorithms.metrics_and_calibration.bench_config import Config, Ranking, load, rank_all
from ml_algorithms.metrics_and_calibration.calibration_measures import brier_score
from ml_algorithms.metrics_and_calibration.like_task import build_like_task
from ml_algorithms.metrics_and_calibration.sampled import expected_ndcg
from ml_algorithms.metrics_and_calibration.worked import worked_examples
from ml_platform.data.schema import Dataset
from ml_platform.evaluation.classification_metrics import auc, expected_calibration_error, log_loss
from ml_platform.evaluation.diversity_metrics import catalogue_coverage, exposure, gini, novelty
from ml_platform.evaluation.intervals import Estimate, bootstrap_difference, bootstrap_mean
from ml_platform.evaluation.plot_style import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    interval_dot,
    named_rows,
    new_figure,
)
from ml_platform.evaluation.ranking_metrics import (
    hit_matrix,
    ndcg_at,
    recall_at,
    reciprocal_rank_at,
)
from ml_platform.evaluation.study import StudyRun
from ml_platform.evaluation.top_k import top_k

LIST = 100
MODEL_LOOKS = {
    "popularity": ("popularity", GREY, "x"),
    "ease": ("EASE", BLUE, "o"),
    "item_knn": ("item neighbours, whole history", GREEN, "s"),
    "last_film": ("item neighbours, last film", ORANGE, "^"),
}


def run_worked(run: StudyRun[Config]) -> None:
    """The page's examples, through the functions that everything else uses."""
    results = run.results(dataset_name="worked by hand", dataset_sha256="none", synthetic=True)
    for name, value in worked_examples().items():
        results.add(f"worked/{name}", value, protocol="the example's own rows, see worked.py")


def degenerate_scores(ranking: Ranking, seed: int) -> dict[str, np.ndarray]:
    """Scorers that know nothing or everything, f32[Q, I]."""
    ptr, items = ranking.relevant
    shape = (len(ptr) - 1, ranking.n_items)
    truth = np.zeros(shape, dtype=np.float32)
    truth[np.repeat(np.arange(shape[0]), np.diff(ptr)), items] = 1.0
    rng = np.random.default_rng(seed)
    return {
        "oracle": truth,
        "anti_oracle": -truth,
        "constant": np.zeros(shape, dtype=np.float32),
        "file_order": np.tile(-np.arange(ranking.n_items, dtype=np.float32), (shape[0], 1)),
        "random": rng.random(shape, dtype=np.float32),
        "popularity": ranking.scores["popularity"],
        "ease": ranking.scores["ease"],
    }


def run_degenerate(run: StudyRun[Config]) -> None:
    """What each metric says of scorers that need no model."""
    config = run.config
    data = load(config)
    results = run.results_of(data)
    ranking = rank_all(data, config, run.seed)
    ptr, items = ranking.relevant
    counts = np.diff(ptr)
    seen = ranking.seen
    ndcgs: dict[str, Estimate] = {}
    for name, scores in degenerate_scores(ranking, run.seed).items():
        lists, _ = top_k(scores, LIST, seen=_unseen_again(seen, ranking))
        hits = hit_matrix(lists, ptr, items)
        values = {
            "ndcg@10": ndcg_at(hits, counts, 10),
            "recall@10": recall_at(hits, counts, 10),
            "recall@100": recall_at(hits, counts, 100),
            "rr@10": reciprocal_rank_at(hits, 10),
            "novelty@10": novelty(lists[:, :10], ranking.popularity, ranking.n_past_users),
        }
        for metric, value in values.items():
            estimate = bootstrap_mean(value, ranking.users, resamples=config.bootstrap)
            results.add(f"degenerate/{name}/{metric}", estimate, protocol=ranking.protocol)
            if metric == "ndcg@10":
                ndcgs[name] = estimate
        reach = catalogue_coverage(lists[:, :10], ranking.n_items)
        unequal = gini(exposure(lists[:, :10], ranking.n_items))
        results.add(f"degenerate/{name}/coverage@10", reach, protocol=ranking.protocol)
        results.add(f"degenerate/{name}/gini@10", unequal, protocol=ranking.protocol)
    _degenerate_probabilities(run, data)
    figure, (axes,) = new_figure("NDCG@10 of scorers that know nothing, or everything")
    for place, one in enumerate(ndcgs.values()):
        interval_dot(axes, place, (one.value, one.low, one.high), colour=BLUE)
        axes.text(one.value, place - 0.22, f"{one.value:.3f}", ha="center", va="bottom", fontsize=8)
    named_rows(axes, [name.replace("_", " ") for name in ndcgs])
    axes.set_xscale("symlog", linthresh=0.01)
    axes.set_xlim(-0.0005, 3)
    axes.set_xticks([0, 0.005, 0.01, 0.1, 1], ["0", "0.005", "0.01", "0.1", "1"])
    axes.minorticks_off()
    axes.set_xlabel("NDCG@10 (linear to 0.01, then logarithmic)")
    run.picture("ndcg", figure)


def _unseen_again(
    seen: tuple[np.ndarray, np.ndarray], ranking: Ranking
) -> tuple[np.ndarray, np.ndarray]:
    """The pairs to mask: a relevant item is never masked, even if a burst repeats it."""
    ptr, items = ranking.relevant
    relevant = np.repeat(np.arange(len(ptr) - 1), np.diff(ptr)) * ranking.n_items + items
    keep = ~np.isin(seen[0] * ranking.n_items + seen[1], relevant)
    return seen[0][keep], seen[1][keep]


def _degenerate_probabilities(run: StudyRun[Config], data: Dataset) -> None:
    """The same for probabilities: one real model, and what can be made of it without learning."""
    task = build_like_task(data)
    labels = task.test.labels
    model = fit_model("logistic", task.train, run.config, run.seed)
    p = model(task.test.features)
    rng = np.random.default_rng(run.seed)
    scorers = {
        "model": p,
        "model_halved": p / 2,
        "model_inverted": 1 - p,
        "base_rate": np.full(len(labels), task.base_rate),
        "one_half": np.full(len(labels), 0.5),
        "random": rng.random(len(labels)),
        "oracle": labels.astype(np.float64),
        "anti_oracle": 1.0 - labels,
    }
    protocol = (
        f"like (rating >= 4) of {len(labels)} rows in the last 15% of time, logistic regression, "
        f"{run.config.bins} bins of equal mass"
    )
    written = run.written
    if written is None:
        raise ValueError("results are opened by the part before")
    for name, scores in scorers.items():
        key = f"probabilities/{name}"
        ece = expected_calibration_error(labels, scores, bins=run.config.bins)
        written.add(f"{key}/auc", auc(labels, scores), n=len(labels), protocol=protocol)
        written.add(f"{key}/log_loss", log_loss(labels, scores), protocol=protocol)
        written.add(f"{key}/brier", brier_score(labels, scores), protocol=protocol)
        written.add(f"{key}/ece", ece, protocol=protocol)
        accuracy = float(((scores >= 0.5) == labels).mean())
        written.add(f"{key}/accuracy", accuracy, protocol=protocol)


def ranks_of_relevant(ranking: Ranking, scores: np.ndarray) -> np.ndarray:
    """The rank of every relevant item among the query's unseen irrelevant items. i64[R].

    Ties count as half better and half worse, rounded down, so that a scorer without an opinion on
    most items gains nothing from it.
    """
    ptr, items = ranking.relevant
    owner = np.repeat(np.arange(len(ptr) - 1), np.diff(ptr))
    masked = scores.astype(np.float32, copy=True)
    masked[ranking.seen] = np.nan
    own = scores[owner, items]
    masked[owner, items] = np.nan  # the other relevant items are no negatives
    order = np.sort(masked, axis=1)  # NaN last
    ranks = np.empty(len(items), dtype=np.int64)
    for q in range(len(ptr) - 1):
        row = order[q]
        row = row[: len(row) - int(np.isnan(row).sum())]
        mine = own[ptr[q] : ptr[q + 1]]
        above = len(row) - np.searchsorted(row, mine, side="right")
        tied = np.searchsorted(row, mine, side="right") - np.searchsorted(row, mine, side="left")
        ranks[ptr[q] : ptr[q + 1]] = 1 + above + tied // 2
    return ranks


def run_sampled(run: StudyRun[Config]) -> None:
    """The order of models by NDCG@10 against m sampled negatives, m up to the catalogue."""
    config = run.config
    data = load(config)
    results = run.results_of(data)
    ranking = rank_all(data, config, run.seed)
    ptr, items = ranking.relevant
    users = np.repeat(ranking.users, np.diff(ptr))
    ranks = {name: ranks_of_relevant(ranking, s) for name, s in ranking.scores.items()}
    # One n for all queries, the whole catalogue, though each has seen some of it: the ranks are
    # exact, and a sample is drawn as if the seen items were further negatives at the bottom.
    negatives = ranking.n_items - 1
    protocol = f"{ranking.protocol}; {len(items)} relevant items alone, expectation over samples"
    sizes = [m for m in config.sampled if m < negatives] + [negatives]
    curves: dict[str, list[Estimate]] = {name: [] for name in ranks}
    for m in sizes:
        label = "all" if m == negatives else str(m)
        values = {n: expected_ndcg(r, negatives, m, 10) for n, r in ranks.items()}
        for name, value in values.items():
            estimate = bootstrap_mean(value, users, resamples=config.bootstrap)
            results.add(f"sampled_{label}/{name}/ndcg@10", estimate, protocol=protocol)
            curves[name].append(estimate)
        for a, b in itertools.combinations(values, 2):
            difference = bootstrap_difference(
                values[a], values[b], users, resamples=config.bootstrap
            )
            results.add(f"sampled_{label}/{a}-minus-{b}/ndcg@10", difference, protocol=protocol)
    full = {name: curve[-1].value for name, curve in curves.items()}
    for place, m in enumerate(sizes):
        label = "all" if m == negatives else str(m)
        wrong = sum(
            (full[a] - full[b]) * (curves[a][place].value - curves[b][place].value) < 0
            for a, b in itertools.combinations(full, 2)
        )
        results.add(f"sampled_{label}/all/pairs_reversed", float(wrong), n=6, protocol=protocol)
    figure, (axes,) = new_figure("The same models, judged against a sample of the catalogue")
    for name, curve in curves.items():
        label, colour, marker = MODEL_LOOKS[name]
        y = [one.value for one in curve]
        axes.plot(sizes, y, marker=marker, color=colour, label=label)
        axes.fill_between(
            sizes, [one.low or 0 for one in curve], [one.high or 0 for one in curve],
            color=colour, alpha=0.15, linewidth=0,
        )  # fmt: skip
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xticks(sizes[::2], [f"{m:,}" for m in sizes[::2]])
    axes.set_yticks([0.02, 0.05, 0.1, 0.2, 0.5], ["0.02", "0.05", "0.1", "0.2", "0.5"])
    axes.minorticks_off()
    axes.set_xlabel("negatives sampled for each relevant item (the last point: all)")
    axes.set_ylabel("NDCG@10 (log scale)")
    axes.legend(frameon=False)
    run.picture("curves", figure)


def run_averaging(run: StudyRun[Config]) -> None:
    """Micro and macro, truncated and not, by users and by rows, AUC and GAUC."""
    config = run.config
    data = load(config)
    results = run.results_of(data)
    ranking = rank_all(data, config, run.seed)
    ptr, items = ranking.relevant
    counts = np.diff(ptr)
    rows = []
    for name, scores in ranking.scores.items():
        lists, _ = top_k(scores, 10, seen=_unseen_again(ranking.seen, ranking))
        values = ndcg_at(hit_matrix(lists, ptr, items), counts, 10)
        estimates = {
            "micro": bootstrap_mean(values, ranking.users, resamples=config.bootstrap),
            "micro_by_rows": bootstrap_mean(values, resamples=config.bootstrap),
            "macro": bootstrap_mean(
                macro_values(values, ranking.users), resamples=config.bootstrap
            ),
        }
        for kind, estimate in estimates.items():
            results.add(f"averaging/{name}/{kind}", estimate, protocol=ranking.protocol)
        wide, narrow = (_width(estimates[kind]) for kind in ("micro", "micro_by_rows"))
        results.add(f"averaging/{name}/width_ratio", wide / narrow, protocol=ranking.protocol)
        rows.append((MODEL_LOOKS[name][0], estimates))
    _truncation(run, ranking, counts)
    _within_users(run, data)
    figure, (axes,) = new_figure("One metric, two averages, two intervals", height=4.2)
    looks = {
        "micro": (BLUE, "o", "over queries, users resampled"),
        "micro_by_rows": (BLACK, "x", "over queries, rows resampled (wrong)"),
        "macro": (ORANGE, "s", "over users"),
    }
    for place, (_, estimates) in enumerate(rows):
        for shift, (kind, (colour, marker, label)) in enumerate(looks.items()):
            one = estimates[kind]
            interval_dot(
                axes, place + 0.22 * (shift - 1), (one.value, one.low, one.high),
                colour=colour, marker=marker, label=label if place == 0 else None,
            )  # fmt: skip
    named_rows(axes, [name for name, _ in rows])
    axes.set_xlabel("NDCG@10 with 95% interval")
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=8)
    run.picture("intervals", figure)


def _width(estimate: Estimate) -> float:
    return (estimate.high or 0.0) - (estimate.low or 0.0)


def _truncation(run: StudyRun[Config], ranking: Ranking, counts: np.ndarray) -> None:
    """What an IDCG over all relevant items, beyond the cut-off, does to the oracle."""
    if run.written is None:
        raise ValueError("results are opened by the part before")
    k = 3
    discount = 1.0 / np.log2(np.arange(2, counts.max() + 2))
    ideal = np.cumsum(discount)
    ratio = ideal[np.minimum(counts, k) - 1] / ideal[counts - 1]
    run.written.add(
        "averaging/oracle/untruncated_ndcg@3", float(ratio.mean()), protocol=ranking.protocol
    )
    share = float((counts > k).mean())
    run.written.add("averaging/oracle/queries_beyond_3", share, protocol=ranking.protocol)


def _within_users(run: StudyRun[Config], data: Dataset) -> None:
    """AUC and GAUC of a model, of its user side alone, and of its film side alone."""
    if run.written is None:
        raise ValueError("results are opened by the part before")
    task = build_like_task(data)
    labels, users = task.test.labels, task.test.users
    model = fit_model("logistic", task.train, run.config, run.seed)
    # Columns 0 and 2 of the features are the past like rates of the user and of the film. Most
    # users of the test window are new; their own rows of this window, labels included, stand in
    # for a good user feature.
    own_rate = _own_rate(labels, users)
    scorers = {
        "model": model(task.test.features),
        "user_only": own_rate,
        "film_only": task.test.features[:, 2],
        "film_and_user": task.test.features[:, 2] + own_rate,
    }
    used, _ = user_aucs(labels, scorers["model"], users)
    protocol = (
        f"like (rating >= 4), {len(labels)} rows of {len(np.unique(users))} users in the last 15% "
        f"of time; GAUC over the {len(used)} users with both classes, by rows; user_only is the "
        "user's like rate in the same window, a device for the lesson and no feature"
    )
    for name, scores in scorers.items():
        run.written.add(f"users/{name}/auc", auc(labels, scores), n=len(labels), protocol=protocol)
        run.written.add(f"users/{name}/gauc", gauc(labels, scores, users), protocol=protocol)


def _own_rate(labels: np.ndarray, users: np.ndarray) -> np.ndarray:
    """Each user's share of likes in these rows, each row itself included. f[N].

    It knows the answer on purpose: a number that orders none of a user's rows.
    """
    _, user_of = np.unique(users, return_inverse=True)
    rate = np.bincount(user_of, weights=labels) / np.bincount(user_of)
    return np.asarray(rate[user_of])
