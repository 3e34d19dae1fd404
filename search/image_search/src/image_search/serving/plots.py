"""Pictures of the service under load: latency over rate, and where one query's time goes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from image_search.serving.load_session import LoadSession, Quantiles
from ml_platform.evaluation.plot_style import BLUE, GREY, ORANGE, named_rows, new_figure

STAGES = ("read", "decode", "queue", "embed", "lock", "retrieve", "rank", "personalise", "page")
LEAST_MS = 0.05
"""A stage that takes less is not drawn."""
_TICKS_MS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)


def latency_over_rate(sweeps: Mapping[str, Sequence[LoadSession]], *, p99_ms: float) -> Figure:
    """One panel a sweep: p50 and p99 over the offered rate; open markers where some failed."""
    figure, panels = new_figure(
        "Latency under rising load", panels=len(sweeps), height=3.6, share_y=True
    )
    for axes, (name, rows) in zip(panels, sweeps.items(), strict=True):
        axes.set_title(name.replace("_", " "), loc="left", fontsize=10)
        for metric, colour, marker in (("p50", BLUE, "o"), ("p99", ORANGE, "s")):
            points = [
                (r.load.offered_qps, getattr(r.latency, metric), r.load.error_rate == 0)
                for r in rows
                if r.latency is not None
            ]
            axes.plot([x for x, _, _ in points], [y for _, y, _ in points], color=colour, lw=1.5)
            for x, y, clean in points:
                face = colour if clean else "white"
                axes.plot([x], [y], marker=marker, color=colour, markerfacecolor=face, ms=5)
            if points:
                place = points[-1][:2]
                axes.annotate(
                    metric, place, xytext=(5, -3), textcoords="offset points", color=colour
                )
        axes.axhline(p99_ms, color=ORANGE, linewidth=1, linestyle="--", alpha=0.6)
        axes.set_yscale("log")
        axes.set_yticks(_TICKS_MS, [f"{tick:g}" for tick in _TICKS_MS])
        axes.minorticks_off()
        axes.margins(x=0.14)
        axes.set_xlim(left=0)
        axes.set_xlabel("queries a second, offered")
    panels[0].set_ylabel("milliseconds")
    return figure


def stage_profile(sessions: Mapping[str, tuple[str, LoadSession]]) -> Figure:
    """One panel a load: median and p99 milliseconds of every stage of one kind of query.

    Args:
        sessions: Title -> (kind of query, session).
    """
    figure, panels = new_figure("Where the time goes", panels=len(sessions), height=3.4)
    for axes, (title, (kind, session)) in zip(panels, sessions.items(), strict=True):
        axes.set_title(title.replace("_", " "), loc="left", fontsize=10)
        found: dict[str, Quantiles] = {
            stage: session.stages[f"{kind}_{stage}"]
            for stage in STAGES
            if f"{kind}_{stage}" in session.stages
            and session.stages[f"{kind}_{stage}"].p99 >= LEAST_MS
        }
        if f"{kind}_retrieve" not in session.stages and f"{kind}_search" in session.stages:
            found["search"] = session.stages[f"{kind}_search"]
        named_rows(axes, list(found))
        for place, (stage, quantiles) in enumerate(found.items()):
            waiting = stage in ("queue", "lock")
            axes.barh(place, quantiles.p50, color=GREY if waiting else BLUE, height=0.55)
            axes.plot([quantiles.p50, quantiles.p99], [place, place], color="0.3", linewidth=1)
        axes.set_xlabel("ms, line to p99")
    return figure
