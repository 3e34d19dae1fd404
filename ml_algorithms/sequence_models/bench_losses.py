"""Part ``losses``: what do more negatives buy under each loss, and who is overconfident?

One seed, a fixed short schedule, the first data set. Confidence is the probability that the model
gives to the first item of each list (sigma of the score for the binary losses, the softmax over the
catalogue for the others) against how often that item is the target.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ml_algorithms.sequence_models.bench_config import Config, label, load
from ml_algorithms.sequence_models.bench_models import Entry, train_network
from ml_algorithms.sequence_models.evaluation import (
    BATCH,
    Questions,
    Scorer,
    leave_last_two_out,
    rank_all,
)
from ml_algorithms.sequence_models.sequences import training_windows
from ml_platform.evaluation import plot_style
from ml_platform.evaluation.intervals import bootstrap_mean
from ml_platform.evaluation.study import StudyRun

BINARY = ("bce", "gbce")
SWEEP_NEGATIVES = 16  # for t: few enough that plain BCE is visibly overconfident
LOGQ_NEGATIVES = 64
FLOOR = 1e-3  # of the log axis; below it is one user in a thousand


def losses(run: StudyRun[Config]) -> None:
    """One training run a variant; NDCG@10, confidence and hit rate at 1."""
    config = run.config
    data = load(config, config.datasets[0])
    results = run.results(**label([data]))  # type: ignore[arg-type]
    split = leave_last_two_out(data.log)
    windows = training_windows(split.train, config.length)
    measured: dict[str, dict[str, float]] = {}
    variants = _variants(config, data.log.n_items)
    protocol = (
        f"{data.title}, SASRec with {config.n_layers} layer, leave-last-out, full ranking, "
        f"seen masked, seed {run.seed}, {config.loss_epochs} epochs; 95% interval over users"
    )
    with run.progress.stage("losses", len(variants)) as step:
        for name, settings in variants.items():
            entry = train_network(
                "sasrec_full",
                split,
                config,
                seed=run.seed,
                settings=settings | {"max_epochs": config.loss_epochs},
                windows=windows,
            )
            ranking = rank_all(entry.scorer, split.test)
            hits = first_is_target(ranking.items, split.test)
            confidence = confidence_of_first(
                entry.scorer,
                split.test,
                ranking.items[:, 0],
                offset=_offset(entry, data.log.n_items),
            )
            key = f"losses/{name}"
            results.add(f"{key}/ndcg@10", bootstrap_mean(ranking.ndcg), protocol=protocol)
            results.add(f"{key}/hr@1", bootstrap_mean(hits), protocol=protocol)
            results.add(f"{key}/confidence", bootstrap_mean(confidence), protocol=protocol)
            results.add(f"{key}/fit_s", entry.seconds, protocol="wall seconds of one fit")
            measured[name] = {
                "ndcg": float(ranking.ndcg.mean()),
                "hr1": float(hits.mean()),
                "confidence": float(confidence.mean()),
            }
            step(1)
    run.picture("negatives", _negatives_picture(config, measured))
    run.picture("confidence", _confidence_picture(measured))


def _variants(config: Config, n_items: int) -> dict[str, dict[str, object]]:
    """Name to settings: each loss at each number of negatives, a sweep of t, logQ on and off."""
    made: dict[str, dict[str, object]] = {"full_softmax": {"loss": "full_softmax"}}
    counts = [count for count in config.negatives if count < n_items]
    for count in counts:
        made[f"sampled_m{count}"] = {"loss": "sampled_softmax", "negatives": count}
        made[f"bce_m{count}"] = {"loss": "bce", "negatives": count}
        made[f"gbce_m{count}_t0.75"] = {"loss": "gbce", "negatives": count, "t": 0.75}
    for t in config.calibrations:
        name = f"gbce_m{SWEEP_NEGATIVES}_t{t:g}"
        if t > 0:  # t = 0 is BCE
            made[name] = {"loss": "gbce", "negatives": SWEEP_NEGATIVES, "t": t}
    shared = {"loss": "sampled_softmax", "negatives": SWEEP_NEGATIVES, "shared": True}
    made[f"sampled_m{SWEEP_NEGATIVES}_shared"] = shared
    most = made[f"gbce_m{counts[-1]}_t0.75"]
    made["gbce_cold"] = most | {"start_at_prior": False}
    popular = {"loss": "sampled_softmax", "negatives": min(LOGQ_NEGATIVES, n_items - 1)}
    popular |= {"sampler": "popularity"}
    made["popular_logq"] = popular | {"log_q": True}
    made["popular_raw"] = popular | {"log_q": False}
    return made


def _offset(entry: Entry, n_items: int) -> float | None:
    """What a binary loss adds to scores before sigma; None where the model is a softmax."""
    if entry.settings is None or entry.settings.loss not in BINARY:
        return None
    return entry.settings.offset(n_items)


def first_is_target(lists: np.ndarray, questions: Questions) -> np.ndarray:
    """HR@1 of questions with one relevant item, f64[Q]."""
    return np.asarray(lists[:, 0] == questions.relevant_items, dtype=np.float64)


def confidence_of_first(
    scorer: Scorer, questions: Questions, first: np.ndarray, *, offset: float | None
) -> np.ndarray:
    """The model's own probability of the first item of each list, f64[Q].

    sigma(score + offset), or without an offset the softmax over the catalogue.
    """
    out = np.zeros(len(questions))
    for begin in range(0, len(questions), BATCH):
        end = min(begin + BATCH, len(questions))
        scores = scorer(questions.histories.batch(begin, end)).astype(np.float64)
        top = scores[np.arange(end - begin), first[begin:end]]
        if offset is not None:
            out[begin:end] = 1.0 / (1.0 + np.exp(-top - offset))
        else:
            highest = scores.max(axis=1)
            total = np.exp(scores - highest[:, None]).sum(axis=1)
            out[begin:end] = np.exp(top - highest) / total
    return out


def _negatives_picture(config: Config, measured: dict[str, dict[str, float]]) -> Any:
    figure, (axes,) = plot_style.new_figure("What more negatives buy, by loss")
    lines = (
        ("sampled_m{}", "sampled softmax", plot_style.BLUE, "s"),
        ("bce_m{}", "BCE", plot_style.ORANGE, "o"),
        ("gbce_m{}_t0.75", "gBCE, t = 0.75", plot_style.GREEN, "^"),
    )
    counts = [count for count in config.negatives if f"bce_m{count}" in measured]
    for pattern, title, colour, marker in lines:
        values = [measured[pattern.format(count)]["ndcg"] for count in counts]
        axes.plot(counts, values, color=colour, marker=marker, label=title)
    axes.axhline(
        measured["full_softmax"]["ndcg"], color=plot_style.BLACK, linestyle="--", linewidth=1
    )
    axes.annotate(
        "full softmax", (counts[0], measured["full_softmax"]["ndcg"]), xytext=(0, 4),
        textcoords="offset points", fontsize=9,
    )  # fmt: skip
    axes.set_xscale("log")
    axes.set_xticks(counts, [str(count) for count in counts])
    axes.minorticks_off()
    axes.set_xlabel("negatives for a target (log scale)")
    axes.set_ylabel("NDCG@10, test")
    axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def _confidence_picture(measured: dict[str, dict[str, float]]) -> Any:
    """One row a variant: what the model says of its first item, and how often it is right."""
    names = sorted(measured, key=lambda name: -measured[name]["confidence"])
    figure, (axes,) = plot_style.new_figure(
        "Probability of the first item: said and true", height=1.0 + 0.3 * len(names)
    )
    plot_style.named_rows(axes, [_title(name) for name in names])
    said = [max(measured[name]["confidence"], FLOOR) for name in names]
    true = [max(measured[name]["hr1"], FLOOR) for name in names]
    for place, ends in enumerate(zip(said, true, strict=True)):
        axes.plot(ends, (place, place), color=plot_style.GREY, linewidth=1.5, alpha=0.6)
    rows = range(len(names))
    axes.plot(true, rows, "o", color=plot_style.BLUE, label="right: share of users")
    axes.plot(said, rows, "D", color=plot_style.ORANGE, label="said: mean probability")
    axes.set_xscale("log")
    axes.set_xlabel("probability (log scale)")
    axes.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.4, 1.0), ncols=2, fontsize=9)
    return figure


def _title(name: str) -> str:
    """A variant in words: gbce_m16_t0.75 is gBCE, M = 16, t = 0.75."""
    whole = {
        "full_softmax": "full softmax",
        "sampled_m16_shared": "sampled softmax, M = 16, shared",
        "gbce_cold": "gBCE, most negatives, cold start",
        "popular_logq": f"sampled softmax, popular {LOGQ_NEGATIVES}, logQ",
        "popular_raw": f"sampled softmax, popular {LOGQ_NEGATIVES}, raw",
    }
    if name in whole:
        return whole[name]
    loss, count, *rest = name.split("_")
    titles = {"sampled": "sampled softmax", "bce": "BCE", "gbce": "gBCE"}
    words = [titles[loss], f"M = {count[1:]}", *(f"t = {t[1:]}" for t in rest)]
    return ", ".join(words)
