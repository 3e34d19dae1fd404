"""Pictures of the service under load: latency over rate, and where one request's time goes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from ml_platform.evaluation.plot_style import BLUE, GREEN, GREY, ORANGE, named_rows, new_figure
from shorts_recommendation.serving.load_session import LoadSession

STAGES = ("queue", "state", "encode", "retrieve", "prerank", "rank", "rerank")
_LOWEST_MS = 0.5
_TICKS_MS = (0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)


def latency_over_rate(
    sessions: Mapping[str, Sequence[LoadSession]], *, p50_ms: float, p99_ms: float
) -> Figure:
    """One panel a path: p50 and p99 over the offered rate; open markers degraded or failed."""
    figure, panels = new_figure(
        "Latency under rising load", panels=len(sessions), height=3.6, share_y=True
    )
    for axes, (path, rows) in zip(panels, sessions.items(), strict=True):
        axes.set_title(f"{path} path", loc="left", fontsize=10)
        for metric, colour, marker, limit in (
            ("p50_ms", BLUE, "o", p50_ms),
            ("p99_ms", ORANGE, "s", p99_ms),
        ):
            points = [(r.load.offered_qps, getattr(r.load, metric), _clean(r)) for r in rows]
            points = [(x, max(y, _LOWEST_MS), clean) for x, y, clean in points if y is not None]
            axes.plot([p[0] for p in points], [p[1] for p in points], color=colour, linewidth=1.5)
            for x, y, clean in points:
                face = colour if clean else "white"
                axes.plot([x], [y], marker=marker, color=colour, markerfacecolor=face)
            axes.axhline(limit, color=colour, linewidth=1, linestyle="--", alpha=0.6)
            if points:
                name = metric.removesuffix("_ms")
                axes.annotate(
                    name, points[-1][:2], xytext=(5, -3), textcoords="offset points", color=colour
                )
        axes.set_yscale("log")
        axes.set_yticks(_TICKS_MS, [f"{tick:g}" for tick in _TICKS_MS])
        axes.minorticks_off()
        axes.margins(x=0.12)
        axes.set_xlim(left=0)
        axes.set_ylim(_LOWEST_MS, max(200.0, *(y for _, y, _ in points)) * 1.3 if points else 200.0)
        axes.set_xlabel("requests a second, offered")
    panels[0].set_ylabel("milliseconds")
    return figure


def stage_profile(session: LoadSession, threads: Mapping[str, float]) -> Figure:
    """Left: median milliseconds of the stages of a computed feed. Right: cores busy, by thread."""
    figure, (left, right) = new_figure("Where the time goes, uncached", panels=2, height=3.6)
    stages = [s for s in STAGES if s in session.stages]
    left.set_title(
        f"stages of a batch (mean of {session.batch_mean:.1f} feeds)", loc="left", fontsize=10
    )
    named_rows(left, stages)
    for place, stage in enumerate(stages):
        quantiles = session.stages[stage]
        left.barh(place, quantiles.p50, color=GREY if stage == "queue" else BLUE, height=0.55)
        left.plot([quantiles.p50, quantiles.p90], [place, place], color="0.3", linewidth=1)
    left.set_xlabel("milliseconds, median (line to p90)")
    busy = dict(sorted(threads.items(), key=lambda pair: -pair[1])[:8])
    right.set_title("processor time", loc="left", fontsize=10)
    named_rows(right, list(busy))
    for place, (name, cores) in enumerate(busy.items()):
        outside = name in ("client", "store")
        right.barh(place, cores, color=GREEN if outside else BLUE, height=0.55)
    right.set_xlabel("cores busy (of two)")
    return figure


def _clean(session: LoadSession) -> bool:
    return session.load.error_rate == 0 and session.degraded_share == 0
