"""Part `knobs`: factors, regularisation and unobserved weight of iALS, and rank of PureSVD.

In: the reported splits. Out: nDCG@10 pooled over seeds along each knob, the others held at the
tuned point; factors twice: with the regularisation held, and with it chosen anew for each width on
the tuning split, since "more factors overfit" is mostly "the penalty was not moved along".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ml_algorithms.matrix_factorization.bench_config import StudyConfig
from ml_algorithms.matrix_factorization.bench_data import (
    dataset_of,
    lists_of,
    ndcg,
    split_of,
    tuning_split_of,
)
from ml_algorithms.matrix_factorization.bench_models import (
    SCORERS,
    Settings,
    setting_text,
    side_by_side,
    tuned,
)
from ml_platform.evaluation.intervals import bootstrap_mean
from ml_platform.evaluation.plot_style import BLUE, GREY, ORANGE, SKY, new_figure
from ml_platform.evaluation.results import Results
from ml_platform.evaluation.study import StudyRun

WEAK = 0.25  # the held penalty of the "under-regularised" line, as a share of the tuned one


def run_knobs(run: StudyRun[StudyConfig]) -> None:
    """The whole part."""
    config, dataset = run.config, dataset_of(run.config.dataset)
    results = run.results_of(dataset)
    base: Settings = {**tuned(config.dataset, "ials"), "iterations": config.knob_iterations}
    total = 4 * len(config.factors) + len(config.regs) + len(config.unobserved_weights)
    with run.progress.stage("curves", total) as step:
        for factors in config.factors:
            wide = {**base, "factors": factors}
            _add(results, config, "pure_svd", "factors", factors, {"factors": factors})
            _add(results, config, "ials", "factors", factors, wide)
            weak = {**wide, "reg": WEAK * base["reg"]}
            _add(results, config, "ials_weak_reg", "factors", factors, weak)
            _add(results, config, "ials_tuned_reg", "factors", factors, _best_reg(config, wide))
            step(4)
        for reg in config.regs:
            _add(results, config, "ials", "reg", reg, {**base, "reg": reg})
            step(1)
        for weight in config.unobserved_weights:
            _add(
                results, config, "ials", "unobserved_weight", weight,
                {**base, "unobserved_weight": weight},
            )  # fmt: skip
            step(1)
    run.picture("curves", _picture(results, config))


def _best_reg(config: StudyConfig, settings: Settings) -> Settings:
    """The settings with the penalty that is best at this width on the tuning split."""
    split = tuning_split_of(config.dataset)

    def value(reg: float) -> float:
        scores = SCORERS["ials"](split.train, 0, **{**settings, "reg": reg})
        return float(ndcg(lists_of(scores, split.train), split).mean())

    best = int(np.argmax(side_by_side(value, config.regs)))
    return {**settings, "reg": config.regs[best]}


def _add(
    results: Results, config: StudyConfig, line: str, knob: str, at: float, settings: Settings
) -> None:
    scorer = SCORERS["pure_svd" if line == "pure_svd" else "ials"]

    def values_of(seed: int) -> np.ndarray:
        split = split_of(config.dataset, seed)
        return ndcg(lists_of(scorer(split.train, seed, **settings), split.train), split)

    values = side_by_side(values_of, config.seeds)
    users = np.concatenate([split_of(config.dataset, seed).users for seed in config.seeds])
    results.add(
        f"{knob}/{line}/ndcg@10_at_{at:g}",
        bootstrap_mean(np.concatenate(values), users),
        protocol=f"protocol of part quality, {len(config.seeds)} seeds; {setting_text(settings)}",
    )


def _line(
    axes: Any, results: Results, knob: str, line: str, places: Sequence[float], **style: Any
) -> None:
    metrics = [results[f"{knob}/{line}/ndcg@10_at_{at:g}"] for at in places]
    axes.plot(places, [metric.value for metric in metrics], **style)
    if line == "ials":
        low, high = [m.low for m in metrics], [m.high for m in metrics]
        axes.fill_between(places, low, high, color=style["color"], alpha=0.15, linewidth=0)


def _picture(results: Results, config: StudyConfig) -> Any:
    figure, (left, middle, right) = new_figure(
        "iALS: three knobs, one at a time", panels=3, height=3.8, share_y=True
    )
    lines = {
        "ials_tuned_reg": ("penalty retuned", ORANGE, "s"),
        "ials": ("penalty held", BLUE, "o"),
        "ials_weak_reg": ("held at a quarter", SKY, "v"),
        "pure_svd": ("PureSVD", GREY, "x"),
    }
    for line, (label, colour, marker) in lines.items():
        _line(
            left, results, "factors", line, config.factors,
            color=colour, marker=marker, label=label,
            # Drawn first and larger: where it coincides with "held", both are seen.
            markersize=8 if line == "ials_tuned_reg" else 4,
        )  # fmt: skip
    left.legend(frameon=False, fontsize=7)
    _line(middle, results, "reg", "ials", config.regs, color=BLUE, marker="o", markersize=4)
    _line(
        right, results, "unobserved_weight", "ials", config.unobserved_weights,
        color=BLUE, marker="o", markersize=4,
    )  # fmt: skip
    left.set_ylabel("nDCG@10")
    left.set_xscale("log", base=2)
    left.set_xticks(config.factors, [str(factors) for factors in config.factors])
    for axes, label in ((left, "factors"), (middle, "penalty (reg)"), (right, "unobserved weight")):
        if axes is not left:
            axes.set_xscale("log")
        axes.set_xlabel(label)
    return figure
