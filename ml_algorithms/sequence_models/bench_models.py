"""Every row of the study's tables: trained networks and tuned baselines under one name each.

In: a split and the configuration. Out: ``Entry``: a scorer and what it took to get it. Baselines
are tuned on the validation targets like the networks' early stopping, by NDCG@10.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

import torch

from ml_algorithms.sequence_models import baselines
from ml_algorithms.sequence_models.bench_config import Config
from ml_algorithms.sequence_models.evaluation import Scorer, Split, model_scorer, rank_all
from ml_algorithms.sequence_models.hstu import HSTU
from ml_algorithms.sequence_models.sasrec import SASRec
from ml_algorithms.sequence_models.sequences import Windows, training_windows
from ml_algorithms.sequence_models.training import TrainReport, TrainSettings, fit

SAMPLED: dict[str, object] = {"loss": "sampled_softmax", "negatives": 256}
# name: (network, clock, loss, negatives)
NETWORKS: dict[str, tuple[str, str, dict[str, object]]] = {
    "sasrec_bce": ("sasrec", "none", {"loss": "bce", "negatives": 1}),
    "sasrec_gbce": ("sasrec", "none", {"loss": "gbce", "negatives": 256}),
    "sasrec_sampled": ("sasrec", "none", SAMPLED),
    "sasrec_full": ("sasrec", "none", {"loss": "full_softmax"}),
    "hstu_none": ("hstu", "none", SAMPLED),
    "hstu_history": ("hstu", "history", SAMPLED),
    "hstu_request": ("hstu", "request", SAMPLED),
}
TITLES = {
    "popularity": "Popularity",
    "recent_popularity": "Recent popularity",
    "markov": "Markov chain, last item",
    "ials": "iALS",
    "ease": "EASE",
    "ease_fading": "EASE, fading history",
    "sasrec_bce": "SASRec, BCE, 1 negative",
    "sasrec_gbce": "SASRec, gBCE, 256 negatives",
    "sasrec_sampled": "SASRec, sampled softmax, 256",
    "sasrec_full": "SASRec, full softmax",
    "hstu_none": "HSTU, no clock",
    "hstu_history": "HSTU, clock of the history",
    "hstu_request": "HSTU, clock of the request",
}
DAY_S = 86_400


@dataclass(frozen=True)
class Entry:
    """A scorer, the seconds to fit it, the knobs it ended with, and a network's report."""

    scorer: Scorer
    seconds: float
    knobs: str
    report: TrainReport | None = None
    settings: TrainSettings | None = None


def train_network(
    name: str,
    split: Split,
    config: Config,
    *,
    seed: int,
    settings: dict[str, object] | None = None,
    windows: Windows | None = None,
) -> Entry:
    """Trains ``name`` of ``NETWORKS``; ``settings`` overrides fields of its ``TrainSettings``."""
    kind, clock, own = NETWORKS[name]
    n_items = split.train.n_items
    fields = config.train.model_dump() | own | (settings or {})
    fields["negatives"] = min(fields["negatives"], n_items - 1)
    train = TrainSettings.model_validate(fields)
    shape = {"width": config.width, "n_layers": config.n_layers, "n_heads": config.n_heads}
    torch.manual_seed(seed)
    model: torch.nn.Module
    if kind == "sasrec":
        model = SASRec(n_items, config.length, dropout=config.dropout, **shape)
    else:
        model = HSTU(n_items, config.length, dropout=config.dropout, clock=clock, **shape)  # type: ignore[arg-type]
    scorer = model_scorer(model)
    windows = windows or training_windows(split.train, config.length)
    report = fit(model, windows, train, lambda: _ndcg(scorer, split), seed=seed)
    knobs = f"best of {report.epochs} epochs: {report.best_epoch}"
    return Entry(scorer, report.seconds, knobs, report, train)


def tuned_baselines(
    split: Split, config: Config, *, recent: bool = False
) -> Iterator[tuple[str, Entry]]:
    """The baselines, each with the knobs that rank the validation targets best."""
    log = split.train
    yield "popularity", _best(split, {"": partial(baselines.popularity, log)})
    if recent:
        end = int(log.timestamp.max())
        since = {f"{days} days": end - days * DAY_S for days in (1, 7, 30)}
        choices = {name: partial(baselines.popularity, log, since=s) for name, s in since.items()}
        yield "recent_popularity", _best(split, choices)
    chains = {
        f"smoothing {mu:g}": partial(baselines.markov_chain, log, smoothing=mu)
        for mu in config.smoothings
    }
    yield "markov", _best(split, chains)
    factorisations = {
        f"{factors} factors, unobserved weight {weight:g}": partial(
            baselines.ials, log, factors=factors, unobserved_weight=weight, reg=0.003
        )
        for factors in config.ials_factors
        for weight in config.ials_weights
    }
    yield "ials", _best(split, factorisations)
    plain = {f"reg {reg:g}": partial(baselines.ease, log, reg=reg) for reg in config.ease_regs}
    yield "ease", _best(split, plain)
    fading = {
        f"reg {reg:g}, half-life {life:g}": partial(baselines.ease, log, reg=reg, half_life=life)
        for reg in config.ease_regs
        for life in config.half_lives
    }
    yield "ease_fading", _best(split, fading)


def _best(split: Split, choices: Mapping[str, Callable[[], Scorer]]) -> Entry:
    """The choice of highest validation NDCG@10; the seconds are of fitting that one."""
    entries = []
    for knobs, make in choices.items():
        started = time.perf_counter()
        scorer = make()
        entries.append((_ndcg(scorer, split), Entry(scorer, time.perf_counter() - started, knobs)))
    return max(entries, key=lambda pair: pair[0])[1]


def _ndcg(scorer: Scorer, split: Split) -> float:
    return float(rank_all(scorer, split.validation).ndcg.mean())
