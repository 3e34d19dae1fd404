"""Two pictures: our rows beside the published ones, and what re-ranking costs."""

from __future__ import annotations

from collections.abc import Mapping

from matplotlib.figure import Figure

from ml_platform.evaluation.intervals import bootstrap_mean
from ml_platform.evaluation.plot_style import (
    BLUE,
    GREY,
    ORANGE,
    PINK,
    interval_dot,
    named_rows,
    new_figure,
)
from shorts_recommendation.micro_video.names import NAMES
from shorts_recommendation.micro_video.published import Figure as Published
from shorts_recommendation.micro_video.rows import Study

LOOKS = {
    "published": (BLUE, "o", "ours, train rows only"),
    "recent": (ORANGE, "s", "ours, validation pairs are data"),
    "numbering": (PINK, "^", "artefact: video numbers follow time"),
    "cited": (GREY, "D", "published (no interval)"),
}


def comparison_plot(study: Study, published: Mapping[str, Published]) -> Figure:
    """Recall@k of every model, best on top; three protocols by colour and marker."""
    rows: list[tuple[str, str, tuple[float, float | None, float | None]]] = [
        (figure.name, "cited", (figure.recall, None, None)) for figure in published.values()
    ]
    for name, row in study.rows.items():
        found = bootstrap_mean(row.values["recall"], resamples=study.config.resamples)
        rows.append((NAMES[name], row.protocol, (found.value, found.low, found.high)))
    rows.sort(key=lambda one: -one[2][0])
    kind = "" if published else "GENERATED SET: "
    figure, (axes,) = new_figure(
        f"{kind}Recall@{study.config.k} of the hidden micro-video",
        height=0.24 * len(rows) + 1.2,
    )
    drawn: set[str] = set()
    for place, (_, protocol, ends) in enumerate(rows):
        colour, marker, label = LOOKS[protocol]
        shown = None if protocol in drawn else label
        interval_dot(axes, place, ends, colour=colour, marker=marker, label=shown)
        drawn.add(protocol)
    named_rows(axes, [name for name, _, _ in rows])
    axes.set_xlim(left=0)
    axes.set_xlabel(f"recall@{study.config.k}, full catalogue, 95% interval over users")
    axes.legend(frameon=False, fontsize=9, loc="lower right")
    return figure


def reranking_plot(study: Study) -> Figure:
    """NDCG@k against intra-list distance, one point a weight of MMR."""
    figure, (axes,) = new_figure("What a diverse list costs on real micro-videos", height=3.4)
    points = sorted(study.reranked.items(), reverse=True)
    x = [float(distance.mean()) for _, (_, distance) in points]
    y = [float(measured.ndcg.mean()) for _, (measured, _) in points]
    axes.plot(x, y, marker="o", color=BLUE, linewidth=1.5)
    for place, (weight, _) in enumerate(points):
        note = "ranker's order" if weight == 1 else f"weight {weight:g}"
        axes.annotate(note, (x[place], y[place]), textcoords="offset points", xytext=(8, 6))
    axes.margins(x=0.25, y=0.25)
    axes.set_xlabel(f"intra-list distance@{study.config.k}, image and audio")
    axes.set_ylabel(f"NDCG@{study.config.k}")
    return figure
