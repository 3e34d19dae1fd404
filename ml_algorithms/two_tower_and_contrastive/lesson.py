"""What the notebook calls: small experiments, each a figure or a table of a few numbers.

In: the knobs that a reader turns. Out: a matplotlib figure, or rows to print. MovieLens-100K where
it can be had, else generated data, and every picture says which.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from matplotlib.figure import Figure

from ml_algorithms.study_data import for_notebook
from ml_algorithms.two_tower_and_contrastive.bench_data import (
    StudyData,
    evaluate,
    load_study_data,
    taken_later,
    two_tower_scores,
)
from ml_algorithms.two_tower_and_contrastive.bench_gradient import Setting, gradient_errors
from ml_algorithms.two_tower_and_contrastive.infonce import negative_weights, optimal_scores
from ml_algorithms.two_tower_and_contrastive.objective import Recipe
from ml_algorithms.two_tower_and_contrastive.sharded_table import all_reduce_bytes, sharded_bytes
from ml_algorithms.two_tower_and_contrastive.training import train
from ml_platform.evaluation.plot_style import BLUE, GREEN, ORANGE, new_figure

SETTINGS = {"epochs": 1, "learning_rate": 0.02, "batch_size": 1024, "dim": 16, "hidden": 32}


@lru_cache(maxsize=1)
def lesson_data() -> StudyData:
    """The study's data with few queries; generated data where that cannot be had, or for a test.

    ``MLSD_NOTEBOOK_SIZE=smoke`` asks for the generated data.
    """
    return for_notebook(lambda name: load_study_data(name, history_length=10, max_queries=800))


def temperature_figure(temperature: float) -> Figure:
    """How the push is shared among 40 negatives at one temperature, hardest first."""
    scores = torch.from_numpy(np.sort(np.random.default_rng(0).normal(0.1, 0.25, 40))[::-1].copy())
    share = negative_weights(scores, temperature).numpy()
    figure, (axes,) = new_figure(f"Who is pushed at temperature {temperature:g}", height=3.0)
    axes.bar(scores.numpy(), share, width=0.015, color=BLUE)
    axes.axhline(1 / 40, color=ORANGE, linewidth=1)
    axes.annotate(
        "all alike", (scores.min().item(), 1 / 40), xytext=(0, 4), textcoords="offset points",
        color=ORANGE,
    )  # fmt: skip
    axes.set_xlabel("cosine of the negative with the query")
    axes.set_ylabel("share of the gradient")
    return figure


def log_q_figure(weight: float, steps: int = 150) -> Figure:
    """Learned scores less log p(y | x), over log popularity, for a weight of the correction."""
    rng = np.random.default_rng(1)
    popularity = 1.0 / np.arange(1, 13)
    joint = torch.tensor(rng.uniform(0.3, 3.0, size=(4, 12)) * popularity)
    joint /= joint.sum()
    found = optimal_scores(joint, log_q_weight=weight, n_keys=8, steps=steps)
    conditional = (joint / joint.sum(dim=1, keepdim=True)).log()
    error = found - (conditional - conditional.mean(dim=1, keepdim=True))
    log_p = joint.sum(dim=0).log()
    figure, (axes,) = new_figure(f"log q subtracted {weight:g} times", height=3.2)
    axes.scatter(log_p.expand(4, -1).numpy(), error.numpy(), color=BLUE, s=18)
    line = (weight - 1.0) * (log_p - log_p.mean())
    axes.plot(log_p.numpy(), line.numpy(), color=ORANGE)
    axes.set_xlabel("log popularity of the item")
    axes.set_ylabel("learned score - log p(y|x)")
    axes.set_ylim(-3, 3)
    return figure


def gradient_rows(batch: int, draws: int = 30) -> list[tuple[str, float, float]]:
    """(estimator, bias, noise) on random vectors with Zipf popularity at one batch size."""
    generator = torch.Generator().manual_seed(0)
    weight = 1.0 / torch.arange(1.0, 201.0)
    query, items = (
        torch.nn.functional.normalize(torch.randn(n, 16, generator=generator), dim=1)
        for n in (2000, 200)
    )
    setting = Setting(
        query, torch.multinomial(weight, 2000, True, generator=generator), items,
        weight / weight.sum(), 0.2,
    )  # fmt: skip
    errors = gradient_errors(setting, batch=batch, draws=draws, seed=0)
    return [(name, error.bias, error.noise) for name, error in errors.items()]


@lru_cache(maxsize=32)
def trained_row(loss: str, log_q: str, temperature: float) -> dict[str, float]:
    """Recall@100, popularity percentile and coverage of one short training on the lesson's data."""
    data = lesson_data()
    recipe = Recipe.model_validate(
        {**SETTINGS, "loss": loss, "log_q": log_q, "temperature": temperature}
    )
    model = train(data.pairs, recipe, seed=0).model
    quality = evaluate(data, data.test, two_tower_scores(model, data.test))
    return {
        "recall@100": float(quality.recall_100.mean()),
        "popularity percentile": float(quality.popularity.mean()),
        "coverage@10": quality.coverage,
    }


def false_negative_figure() -> Figure:
    """Share of each window of ranks that the user takes later in the log."""
    data = lesson_data()
    model = train(data.pairs, Recipe.model_validate({**SETTINGS, "log_q": "counts"}), seed=0).model
    windows = [(0, 5), (5, 10), (10, 20), (20, 40), (40, 80), (80, 120)]
    shares = [float(one.mean()) for one in taken_later(data, model, windows)]
    figure, (axes,) = new_figure(f"False negatives by rank ({data.dataset.name})", height=3.0)
    axes.bar([f"{begin + 1}-{end}" for begin, end in windows], shares, color=GREEN)
    axes.set_xlabel("rank in the model's own list")
    axes.set_ylabel("share the user takes later")
    return figure


def table_bytes(n_items: int, distinct_rows: int, dim: int, world: int) -> dict[str, float]:
    """Megabytes that one process sends in a step for the table, by layout."""
    return {
        "replicated": all_reduce_bytes(n_items * dim, world) / 1e6,
        "sharded": sharded_bytes(distinct_rows, dim, world) / 1e6,
    }
