"""Part `spark`: is Spark's ALS the same algorithm, and what does it cost on one machine?

In: the train part of the first reported split. Two submissions of spark/als_job.py in local mode:
implicit, after one iteration and after all; explicit, after all. Out, for each kind, four checks
from exact to practical:

- half-step: given Spark's item factors, our user half-step must return Spark's user factors, which
  are the last thing that Spark computes;
- trajectory: started from Spark's item factors after one iteration, our loop must arrive where
  Spark is after all of them (the same seed gives Spark the same start in both fits); implicit only;
- objective: from our own start, the loss after as many iterations must be nearly Spark's;
- lists: how many of the ten items the two recommend in common, from different starts; beside it
  the same figure for two starts of our own, since that is what a start alone moves.

Legend: U users, I items, D factors.
"""

from __future__ import annotations

import time

import numpy as np
from scipy import sparse

from ml_algorithms.matrix_factorization.als import (
    ExplicitObjective,
    ImplicitObjective,
    Objective,
    fit_als,
)
from ml_algorithms.matrix_factorization.bench_config import StudyConfig
from ml_algorithms.matrix_factorization.bench_data import Split, dataset_of, lists_of, split_of
from ml_algorithms.matrix_factorization.bench_models import one_thread
from ml_algorithms.matrix_factorization.spark_local import (
    AlsJob,
    SparkFactors,
    SparkUnavailableError,
    run_job,
)
from ml_platform.evaluation.results import Results
from ml_platform.evaluation.study import MissingInputError, StudyRun

ALPHA, IMPLICIT_REG, EXPLICIT_REG = 4.0, 0.1, 0.1
CORES = 2


def run_spark(run: StudyRun[StudyConfig]) -> None:
    """The whole part."""
    config, dataset = run.config, dataset_of(run.config.dataset)
    results = run.results_of(dataset)
    split = split_of(config.dataset, config.seeds[0])
    with run.progress.stage("spark-submit, twice", 1) as step:
        first, implicit, explicit = _submit(config, split)
        step(1)
    clicks, stars = ImplicitObjective(ALPHA, IMPLICIT_REG), ExplicitObjective(EXPLICIT_REG)
    _half_step(results, "implicit", clicks, split.train, implicit)
    _half_step(results, "explicit", stars, split.train_ratings, explicit)
    _trajectory(results, config, clicks, split.train, first, implicit)
    _converged(results, config, "implicit", clicks, split.train, implicit)
    _converged(results, config, "explicit", stars, split.train_ratings, explicit)
    _seconds(results, config, clicks, split.train, first, implicit)


def _submit(config: StudyConfig, split: Split) -> list[SparkFactors]:
    """Clicks after one iteration and after all; stars after all."""
    every = config.spark_iterations
    clicks = AlsJob(config.spark_rank, IMPLICIT_REG, (1, every), alpha=ALPHA, seed=1)
    stars = AlsJob(config.spark_rank, EXPLICIT_REG, (every,), seed=1)
    try:
        return [
            *run_job(split.train, clicks, cores=CORES, quick_start=config.spark_quick),
            *run_job(split.train_ratings, stars, cores=CORES, quick_start=config.spark_quick),
        ]
    except SparkUnavailableError as error:
        raise MissingInputError(str(error)) from error


def _relative(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Largest difference of an entry, as a share of the largest entry."""
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


def _half_step(
    results: Results, kind: str, objective: Objective, matrix: sparse.csr_matrix, them: SparkFactors
) -> None:
    ours = objective.half_step(matrix, them.item_factors.astype(np.float64))
    results.add(
        f"agreement/{kind}/half_step_error", _relative(ours, them.user_factors),
        protocol="our user half-step on Spark's item factors against Spark's user factors: largest "
        "difference of an entry, as a share of the largest entry",
        n=ours.size,
    )  # fmt: skip


def _trajectory(
    results: Results,
    config: StudyConfig,
    objective: Objective,
    matrix: sparse.csr_matrix,
    first: SparkFactors,
    last: SparkFactors,
) -> None:
    # Spark's pass is items, then users; ours users, then items. So Spark's items after its first
    # pass, then our remaining passes, then one more user half-step make Spark's number of each.
    model = fit_als(
        matrix, objective, factors=config.spark_rank, iterations=config.spark_iterations - 1,
        initial_item_factors=first.item_factors.astype(np.float64),
    )  # fmt: skip
    for name, ours, theirs in (
        ("items", model.item_factors, last.item_factors),
        ("users", objective.half_step(matrix, model.item_factors), last.user_factors),
    ):
        results.add(
            f"agreement/implicit/trajectory_error_{name}", _relative(ours, theirs),
            protocol=f"started from Spark's item factors after 1 iteration, {name} after "
            f"{config.spark_iterations}: largest difference of an entry, as a share of the largest",
            n=ours.size,
        )  # fmt: skip


def _converged(
    results: Results,
    config: StudyConfig,
    kind: str,
    objective: Objective,
    matrix: sparse.csr_matrix,
    them: SparkFactors,
) -> None:
    ours, again = (
        fit_als(
            matrix, objective, factors=config.spark_rank, iterations=config.spark_iterations,
            seed=seed,
        )
        for seed in (1, 2)
    )  # fmt: skip
    loss = objective.loss(matrix, them.user_factors, them.item_factors)
    our_loss = objective.loss(matrix, ours.user_factors, ours.item_factors)
    protocol = f"{config.spark_rank} factors, {config.spark_iterations} iterations, other starts"
    results.add(f"agreement/{kind}/loss_spark", loss, protocol=protocol)
    results.add(f"agreement/{kind}/loss_ours", our_loss, protocol=protocol)
    results.add(
        f"agreement/{kind}/loss_difference", our_loss / loss - 1.0,
        protocol=f"{protocol}; ours over Spark's, less 1",
    )  # fmt: skip
    lists = [
        lists_of(users @ items.T, matrix)
        for users, items in (
            (ours.user_factors, ours.item_factors),
            (them.user_factors, them.item_factors),
            (again.user_factors, again.item_factors),
        )
    ]
    for name, one, other in (("spark", 0, 1), ("own_restart", 0, 2)):
        same = [
            len(np.intersect1d(a, b)) / len(a)
            for a, b in zip(lists[one], lists[other], strict=True)
        ]
        results.add(
            f"agreement/{kind}/overlap@10_{name}", float(np.mean(same)),
            protocol=f"{protocol}; share of ten items in common, mean over users", n=len(same),
        )  # fmt: skip
    scores = [ours.user_factors @ ours.item_factors.T, them.user_factors @ them.item_factors.T]
    correlation = np.corrcoef(scores[0].ravel(), scores[1].ravel())[0, 1]
    results.add(
        f"agreement/{kind}/score_correlation", float(correlation),
        protocol=f"{protocol}; Pearson's, over all user-item pairs", n=scores[0].size,
    )  # fmt: skip


def _seconds(
    results: Results,
    config: StudyConfig,
    objective: Objective,
    matrix: sparse.csr_matrix,
    first: SparkFactors,
    last: SparkFactors,
) -> None:
    passes = config.spark_iterations
    what = f"{matrix.nnz:,} interactions, {config.spark_rank} factors"
    results.add(
        "seconds/spark/first_fit", first.fit_seconds,
        protocol=f"{what}; local[{CORES}], 1 iteration, the first fit of the job: Java's warm-up",
    )  # fmt: skip
    results.add(
        "seconds/spark/iteration", last.fit_seconds / passes,
        protocol=f"{what}; local[{CORES}], the job's second fit, of {passes} iterations, divided "
        "by them; the start of Java and Spark not counted",
    )  # fmt: skip
    begin = time.perf_counter()
    with one_thread():
        fit_als(matrix, objective, factors=config.spark_rank, iterations=passes)
    seconds = (time.perf_counter() - begin) / passes
    results.add(
        "seconds/ours/iteration", seconds,
        protocol=f"{what}; 1 thread, a fit of {passes} iterations divided by them",
    )  # fmt: skip
    results.add(
        "seconds/spark/times_ours", last.fit_seconds / passes / seconds,
        protocol=f"{what}; Spark in {CORES} threads over ours in 1, seconds an iteration",
    )  # fmt: skip
