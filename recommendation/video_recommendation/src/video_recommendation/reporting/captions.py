"""What to see in each plot, as sentences computed from the numbers of the run.

In: an ``Evaluation`` or ``Trained``. Out: one or two sentences a plot. A claim appears only when
the numbers of this run support it; nothing is said here that another run could make untrue.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ml_platform.evaluation.intervals import bootstrap_difference
from video_recommendation.config import Config
from video_recommendation.evaluation.reranking import SweepPoint
from video_recommendation.evaluation.run import Evaluation
from video_recommendation.pipeline import Trained
from video_recommendation.reporting.grid import interval_text, short
from video_recommendation.reporting.tables import BASELINES
from video_recommendation.reporting.tables_quality import is_configured, mean_of_finite
from video_recommendation.retrieval.training import best_epoch_count

NEARLY_EXACT = 0.99


def retrieval_caption(evaluation: Evaluation) -> str:
    """Who finds most, and who is distinguishable from EASE."""
    table = evaluation.retrieval
    names = [name for name in table.rows if name != "oracle"]
    best = max(names, key=lambda name: table.mean(name, "recall@100").value)
    against = {n: table.difference(n, "ease", "recall@100") for n in names if n != "ease"}
    above = [n for n, d in against.items() if d.excludes_zero and d.value > 0]
    below = [n for n, d in against.items() if d.excludes_zero and d.value < 0]
    value = interval_text(table.mean(best, "recall@100"))
    return (
        f"Means with 95% intervals by user; the dashed line is EASE. Blue squares are baselines, "
        f"orange dots our sources. Best Recall@100: {best}, {value}. Judged by paired differences, "
        f"{listed(above) or 'none'} above EASE, {listed(below) or 'none'} below it; the others "
        "cannot be told from it."
    )


def funnel_caption(evaluation: Evaluation) -> str:
    """How much is left after each stage, and what is still in the pool."""
    replay, pool = evaluation.replay, evaluation.pool
    share = replay.sizes["candidates"] / replay.sizes["catalogue"]
    slowest = max(replay.stage_ms, key=lambda stage: replay.stage_ms[stage])
    return (
        f"{share:.0%} of the catalogue become candidates, and those hold {pool['pool_recall']:.0%} "
        f"of what was watched next; no later stage can find the rest. In batches most time goes to "
        f"{slowest}, {replay.stage_ms[slowest]:.2f} ms a request."
    )


def training_caption(trained: Trained) -> str:
    """Which epoch was chosen, and whether training had come to its end."""
    recall = [epoch.validation_recall for epoch in trained.epochs]
    chosen = best_epoch_count(trained.epochs)
    end = (
        "It was still rising at the last epoch allowed: more epochs may help."
        if chosen == len(recall)
        else f"After {len(recall)} epochs it stood at {short(recall[-1])}."
    )
    return (
        f"Validation Recall@100 was best after epoch {chosen}, {short(max(recall))}; the bundle's "
        f"model was trained anew for as many epochs on 90% of time. {end}"
    )


def slices_caption(evaluation: Evaluation) -> str:
    """Where the final list is good and bad, and where it beats EASE."""
    values = {name: table.mean("final", "hr@10") for name, table in evaluation.slices.items()}
    best = max(values, key=lambda name: values[name].value)
    worst = min(values, key=lambda name: values[name].value)
    differences = {
        name: table.difference("final", "ease", "hr@10")
        for name, table in evaluation.slices.items()
    }
    won = [name for name, d in differences.items() if d.excludes_zero and d.value > 0]
    return (
        f"HR@10 of the final list is highest for “{best}” ({interval_text(values[best])}) and "
        f"lowest for “{worst}” ({interval_text(values[worst])}). It is above EASE, by an "
        f"interval that excludes 0, in {len(won)} of {len(values)} slices."
    )


def trade_off_caption(evaluation: Evaluation, config: Config) -> str:
    """What the configured setting and the extremes cost and bring."""
    plain = evaluation.sweep[0]
    parts = []
    configured = [p for p in evaluation.sweep if is_configured(p, config)]
    for point in configured:
        if point is not plain:
            parts.append(f"Configured (circled): {_bargain(point, evaluation)}.")
    strongest = min(evaluation.sweep, key=lambda p: p.trade_off)
    if strongest is not plain:
        parts.append(f"The strongest setting drawn: {_bargain(strongest, evaluation)}.")
    return " ".join(["Numbers beside points are trade-offs, 1 is relevance only.", *parts])


def reliability_caption(evaluation: Evaluation) -> str:
    """How far off each reading is."""
    found = evaluation.calibration
    best = min(found, key=lambda name: found[name].ece)
    watched = float(evaluation.replay.watched.mean())
    raw = f", against {found['raw'].ece:.4f} of the raw score read as log-odds"
    return (
        f"On the dashed line a prediction is what happens. {watched:.2%} of the ranked candidates "
        f"were watched. The smallest error is that of {best}: ECE {found[best].ece:.4f}"
        f"{'' if best == 'raw' else raw}. Bins without a watch cannot be drawn."
    )


def importance_caption(evaluation: Evaluation) -> str:
    """The leaders of both measures, and features that no tree uses."""
    by_shap, by_gain = list(evaluation.shap), max(evaluation.gain, key=lambda n: evaluation.gain[n])
    unused = [name for name, value in evaluation.gain.items() if value == 0]
    rest = f" Not used by any tree: {listed(unused)}." if unused else ""
    return (
        f"By mean |SHAP| the ranker leans most on {listed(by_shap[:3])}; by share of split gain on "
        f"{by_gain} ({evaluation.gain[by_gain]:.0%}).{rest}"
    )


def index_caption(evaluation: Evaluation) -> str:
    """The fastest index, and the fastest that loses nearly nothing."""
    fastest = min(evaluation.index, key=lambda m: m.p50_ms)
    exact = [m for m in evaluation.index if m.recall >= NEARLY_EXACT]
    sound = min(exact, key=lambda m: m.p50_ms) if exact else None
    first = (
        f"Fastest at the median: {fastest.kind}, {fastest.p50_ms:.3f} ms with recall "
        f"{short(fastest.recall)}."
    )
    if sound is None:
        return f"{first} None keeps a recall of {short(NEARLY_EXACT, 2)}."
    if sound is fastest:
        return f"{first} No other with a recall of {short(NEARLY_EXACT, 2)} or more is faster."
    saved = sound.p50_ms - fastest.p50_ms
    return (
        f"{first} Of those with a recall of {short(NEARLY_EXACT, 2)} or more, {sound.kind} is "
        f"fastest, {sound.p50_ms:.3f} ms: giving up recall would save "
        f"{saved * 1000:.0f} µs a query."
    )


def listed(names: Sequence[str]) -> str:
    """Words as a list in a sentence: a, b and c."""
    *head, last = names or [""]
    return f"{', '.join(head)} and {last}" if head else last


def _bargain(point: SweepPoint, evaluation: Evaluation) -> str:
    """What one setting costs in NDCG@10 and brings in distance."""
    users, plain = evaluation.sweep_users, evaluation.sweep[0]
    lost = bootstrap_difference(point.values["ndcg@10"], plain.values["ndcg@10"], users)
    gains = [
        mean_of_finite(point.values[m], users).value - mean_of_finite(plain.values[m], users).value
        for m in ("ild_genre@10", "ild_embedding@10")
    ]
    told = "" if lost.excludes_zero else ", an interval that includes 0,"
    return (
        f"{point.method} {point.trade_off:g} changes NDCG@10 by {interval_text(lost, signed=True)}"
        f"{told} and intra-list distance by {short(gains[0], signed=True)} in genres and "
        f"{short(gains[1], signed=True)} in item-tower vectors"
    )


def recall_gap_line(evaluation: Evaluation) -> str:
    """What the best baseline is: a reader should compare with that, not with the weakest."""
    table = evaluation.retrieval
    names = [name for name in BASELINES if name in table.rows]
    best = max(names, key=lambda name: table.mean(name, "recall@100").value)
    values = np.array([table.mean(name, "recall@100").value for name in names])
    return f"Strongest baseline by Recall@100: {best}, {short(float(values.max()))}."
