"""The tables beside the funnel: re-ranking, calibration, slices, the batch split, the index.

In: an ``Evaluation``. Out: ``Grid``, as in ``tables``.
"""

from __future__ import annotations

import numpy as np

from ml_platform.evaluation.intervals import Estimate, bootstrap_difference, bootstrap_mean
from video_recommendation.config import Config
from video_recommendation.evaluation.reranking import SweepPoint
from video_recommendation.evaluation.run import Evaluation
from video_recommendation.reporting.grid import (
    BLANK,
    Cell,
    Grid,
    difference,
    estimate,
    number,
    ordered,
    sentences,
    text,
)
from video_recommendation.reporting.tables import RETRIEVAL_ORDER, SPREAD_NOTE

SHOWN_TRADE_OFFS = (0.9, 0.7, 0.5)
"""On the terminal; the report shows all."""
SLICE_ORDER = ("recent_popularity", "ease", "two_tower", "lambdarank", "final")


def is_configured(point: SweepPoint, config: Config) -> bool:
    """Whether the point is the setting the system serves with (business rules left out)."""
    settings = config.reranking
    if settings.method == "none" or settings.trade_off == 1:
        return point.method == "none"
    same_trade_off = abs(point.trade_off - settings.trade_off) < 1e-9
    return point.method == settings.method and same_trade_off


def reranking_grid(
    evaluation: Evaluation, config: Config, flag: str, *, everything: bool = False
) -> Grid:
    """What diversity costs and brings: none, configured, and some trade-offs (or all)."""
    rows: list[tuple[Cell, ...]] = []
    marked, breaks = [], []
    method = "none"
    for point in evaluation.sweep:
        configured = is_configured(point, config)
        wanted = point.method == "none" or configured or point.trade_off in SHOWN_TRADE_OFFS
        if not (everything or wanted):
            continue
        if configured:
            marked.append(len(rows))
        if point.method != method:
            breaks.append(len(rows))
            method = point.method
        rows.append(_sweep_row(point, evaluation, configured))
    note = (
        f"Lists of 10 on {len(evaluation.sweep_users):,} test queries, without the business rules. "
        "Δ: NDCG@10 lost to none, paired. ILD: mean cosine distance of pairs, in genre space and "
        "in the space of the item tower; coverage: share of the catalogue in any list; novelty: "
        "bits."
    )
    mark = "* configured." if marked else f"Configured ({_setting(config)}) is not on this grid."
    heads = ("method", "NDCG@10", "Δ", "ILD genre", "ILD emb.", "coverage", "novelty")
    caption = sentences(flag, note, mark)
    return Grid("Re-ranking", heads, tuple(rows), caption, tuple(breaks), tuple(marked))


def mean_of_finite(values: np.ndarray, users: np.ndarray) -> Estimate:
    """Mean by user of what is defined: a list of one item has no distance."""
    finite = np.isfinite(values)
    if not finite.any():
        return Estimate(float("nan"), None, None, 0)
    return bootstrap_mean(values[finite], users[finite])


def candidates_grid(evaluation: Evaluation, flag: str) -> Grid:
    """Both rankers against the candidates alone, and the calibration of the configured one."""
    rows = []
    for name, values in evaluation.candidates.items():
        if len(values["auc"]):
            found = [
                estimate(bootstrap_mean(values[m], values["user"])) for m in ("auc", "ndcg@10")
            ]
            rows.append((text(name), *found))
    note = "Within each request, among the candidates it ranked; requests with both outcomes only."
    heads = ("ranker", "AUC", "NDCG@10")
    return Grid("Rankers among the candidates", heads, tuple(rows), sentences(flag, note))


def calibration_grid(evaluation: Evaluation, flag: str) -> Grid:
    """Expected calibration error of each reading of the score."""
    rows = tuple((text(name), number(c.ece, 4)) for name, c in evaluation.calibration.items())
    note = "Fitted on validation, judged on test candidates; 15 bins of equal mass."
    return Grid("Calibration", ("reading of the score", "ECE"), rows, sentences(flag, note))


def slices_grid(evaluation: Evaluation, flag: str) -> Grid:
    """HR@10 of each slice, with the number of its queries."""
    slices = evaluation.slices
    names = ordered(list(next(iter(slices.values())).rows), SLICE_ORDER) if slices else []
    rows = tuple(
        (
            text(name),
            Cell(f"{len(table.users):,}"),
            *(estimate(table.mean(model, "hr@10")) for model in names),
        )
        for name, table in slices.items()
    )
    note = f"HR@10, {SPREAD_NOTE}. Head: the most popular fifth of items before the window."
    return Grid(
        "Slices of the test window", ("slice", "queries", *names), rows, sentences(flag, note)
    )


def batch_grid(evaluation: Evaluation, flag: str) -> Grid:
    """The plain temporal split, where user state is frozen at the cut."""
    table = evaluation.batch
    names = ordered(list(table.rows), (*RETRIEVAL_ORDER, "lambdarank"))
    metrics = ("hr@10", "ndcg@10", "recall@100")
    rows = tuple(
        (
            text(name),
            *(
                estimate(table.mean(name, metric)) if metric in table.rows[name] else BLANK
                for metric in metrics
            ),
            BLANK
            if name == "recent_popularity"
            else difference(table.difference(name, "recent_popularity", "hr@10")),
        )
        for name in names
    )
    heads = ("model", "HR@10", "NDCG@10", "Recall@100", "Δ HR@10")
    title = "Plain temporal split, for comparison"
    note = "Δ: paired difference to recent_popularity."
    return Grid(title, heads, rows, sentences(flag, f"{table.protocol}.", note))


def index_grid(evaluation: Evaluation, flag: str) -> Grid:
    """Index kinds on the run's own vectors."""
    rows = tuple(
        (
            text(m.kind),
            number(m.recall),
            Cell(f"{m.p50_ms:.3f}"),
            Cell(f"{m.p99_ms:.3f}"),
            Cell(f"{m.build_s * 1000:.1f}"),
            Cell(f"{m.bytes_per_vector:.0f}"),
        )
        for m in evaluation.index
    )
    size = f"{evaluation.index[0].n_vectors:,}" if evaluation.index else "no"
    note = f"{size} item vectors, this run's user vectors as queries, k = 100, one thread."
    heads = ("index", "recall", "p50 ms", "p99 ms", "build ms", "bytes/vector")
    return Grid("Index", heads, rows, sentences(flag, note))


def _sweep_row(point: SweepPoint, evaluation: Evaluation, configured: bool) -> tuple[Cell, ...]:
    users, plain = evaluation.sweep_users, evaluation.sweep[0]
    name = point.method if point.method == "none" else f"{point.method} {point.trade_off:g}"
    lost = BLANK
    if point is not plain:
        values = point.values["ndcg@10"], plain.values["ndcg@10"]
        lost = difference(bootstrap_difference(*values, users))
    return (
        text(f"{name} *" if configured else name),
        estimate(bootstrap_mean(point.values["ndcg@10"], users)),
        lost,
        number(mean_of_finite(point.values["ild_genre@10"], users).value),
        number(mean_of_finite(point.values["ild_embedding@10"], users).value),
        number(point.coverage),
        number(mean_of_finite(point.values["novelty@10"], users).value, 2),
    )


def _setting(config: Config) -> str:
    return f"{config.reranking.method} {config.reranking.trade_off:g}"
