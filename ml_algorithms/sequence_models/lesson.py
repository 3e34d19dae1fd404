"""What the notebook calls: small data, a network trained in seconds, and pictures of the knobs.

In: knobs. Out: numbers, and Figures for ``show``. MovieLens-100K where it is to be had, else
generated events, and the notebook says which.
"""

from __future__ import annotations

import numpy as np
import torch
from matplotlib.figure import Figure

from ml_algorithms.sequence_models import cost
from ml_algorithms.sequence_models.baselines import ease, markov_chain, popularity
from ml_algorithms.sequence_models.bench_config import Config, Data, load
from ml_algorithms.sequence_models.bench_ties import reorder_ties
from ml_algorithms.sequence_models.evaluation import Split, leave_last_two_out, rank_all
from ml_algorithms.sequence_models.losses import beta_of
from ml_algorithms.study_data import for_notebook
from ml_platform.evaluation import plot_style

N_ITEMS_EXAMPLE = 1000


def small_data() -> Data:
    """MovieLens-100K, or generated events where it is missing or ``MLSD_NOTEBOOK_SIZE=smoke``."""
    config = Config(synthetic_users=120)
    return for_notebook(lambda name: load(config, name))


def baseline_scores(data: Data, order: str) -> dict[str, float]:
    """NDCG@10 of the cheap models when tied seconds are put into ``order``."""
    split = leave_last_two_out(reorder_ties(data.log, order))
    scorers = {
        "popularity": popularity(split.train),
        "Markov chain": markov_chain(split.train, smoothing=300.0),
        "EASE, fading": ease(split.train, reg=300.0, half_life=8.0),
    }
    return {name: float(rank_all(one, split.test).ndcg.mean()) for name, one in scorers.items()}


def ties_figure(scores: dict[str, dict[str, float]]) -> Figure:
    """One row a model, one mark an order of ties."""
    names = list(next(iter(scores.values())))
    figure, (axes,) = plot_style.new_figure("The same protocol, other orders of tied seconds")
    plot_style.named_rows(axes, names)
    markers = ("o", ">", "<", "s", "D")
    colours = (plot_style.BLUE, plot_style.ORANGE, plot_style.GREEN, plot_style.PINK)
    for (order, row), colour, marker in zip(scores.items(), colours, markers, strict=False):
        axes.plot(
            list(row.values()), range(len(names)), linestyle="none", marker=marker, color=colour,
            label=order,
        )  # fmt: skip
    axes.set_xlabel("NDCG@10, full ranking")
    axes.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=4)
    return figure


def fading_score(split: Split, half_life: float) -> float:
    """Validation NDCG@10 of EASE with this half-life in events."""
    scorer = ease(split.train, reg=300.0, half_life=half_life)
    return float(rank_all(scorer, split.validation).ndcg.mean())


def weights_of(copies: int, strength: float, *, softmax: bool) -> np.ndarray:
    """Weights of ``copies`` similar events of logit ``strength`` and four others of logit 0."""
    logits = torch.tensor([strength] * copies + [0.0] * 4)
    if softmax:
        return logits.softmax(dim=0).numpy()
    return torch.nn.functional.silu(logits + 1.0).numpy()


def attention_figure(copies: int, strength: float) -> Figure:
    """The same history through a softmax and through SiLU, with the sum of the similar events."""
    figure, panels = plot_style.new_figure("Similar events (blue) among others (grey)", panels=2)
    for axes, softmax in zip(panels, (True, False), strict=True):
        weights = weights_of(copies, strength, softmax=softmax)
        colours = [plot_style.BLUE] * copies + [plot_style.GREY] * 4
        axes.bar(range(len(weights)), weights, color=colours)
        name = "softmax" if softmax else "SiLU, before the norm"
        axes.set_title(f"{name}: similar events sum to {weights[:copies].sum():.2f}", fontsize=10)
        axes.set_xlabel("event in the history")
    panels[0].set_ylabel("weight")
    return figure


def confidence_figure(n_negatives: int, t: float) -> Figure:
    """What the optimum of gBCE says for each true probability, 1,000 items."""
    figure, (axes,) = plot_style.new_figure("What a perfectly trained model would say")
    true = np.geomspace(1e-4, 0.5, 60)
    alpha = n_negatives / (N_ITEMS_EXAMPLE - 1)
    beta = beta_of(n_negatives, N_ITEMS_EXAMPLE, t)
    said = beta * true / (beta * true + alpha * (1 - true))
    axes.plot(true, true, color=plot_style.GREY, label="calibrated")
    plain = true / (true + alpha * (1 - true))
    axes.plot(true, plain, color=plot_style.ORANGE, linestyle="--", label="BCE")
    axes.plot(true, said, color=plot_style.GREEN, label=f"gBCE, t = {t:g}, beta = {beta:.3f}")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("true probability of the item (log scale)")
    axes.set_ylabel("sigma(score) at the optimum (log scale)")
    axes.legend(frameon=False)
    return figure


def request_cost(length: int, candidates: int) -> str:
    """A table: millions of multiply-adds of one request under four ways to serve (``cost``)."""
    shape = cost.Shape(length, width=64, n_layers=2, n_heads=2, matrices=8)
    rows = {
        "encode the whole history": cost.full_encoding(shape) / 1e6,
        "one new event, cached keys and values": cost.one_more_event(shape) / 1e6,
        f"{candidates} candidates, one pass each": cost.candidates_apart(shape, candidates) / 1e6,
        f"{candidates} candidates, one shared pass": cost.candidates_together(shape, candidates)
        / 1e6,
        "cache of one user, KB": cost.cache_bytes(shape) / 1e3,
    }
    return "\n".join(f"{value:14,.2f}  {name}" for name, value in rows.items())
