"""The trade-off in one picture, from the results alone.

In: ``Results`` with ``reranking/...``. Out: the bytes of a PNG: intra-list distance against what
the same people gain or lose to relevance order, in true satisfaction of ten places and in seconds
of a session. Differences, because they are paired: people differ far more than lists do.
"""

from __future__ import annotations

from typing import Any

from ml_platform.evaluation.plot_style import BLACK, BLUE, GREEN, ORANGE, new_figure, png
from ml_platform.evaluation.results import Results

PANELS = (
    ("satisfaction@10", "satisfaction of ten places, rested"),
    ("watch_s", "seconds watched in a session"),
)
CURVES = (
    ("mmr_", BLUE, "o", "MMR alone, weight", (3, 6)),
    ("dpp_", GREEN, "^", "DPP alone, weight", (-17, -11)),
)
"""Prefix of the variants, colour, marker, legend, where a point's weight stands."""
RULES = {"all_rules": "D", "no_mmr": "v", "no_fatigue": "P", "no_cap": "<", "no_fresh": ">"}


def trade_off_figure(results: Results) -> bytes:
    """Two panels; each point is a variant, whiskers are 95% intervals."""
    picture, panels = new_figure("What does diversity cost?", panels=2, height=4.2)
    names = [key.split("/")[1] for key in results if key.endswith("/ild@10")]
    for axes, (metric, label) in zip(panels, PANELS, strict=True):
        start = results["reranking/relevance/ild@10"].value
        axes.plot([start], [0], color=BLACK, marker="s", linestyle="none", label="relevance order")
        axes.axhline(0, color=BLACK, linewidth=0.8)
        for prefix, colour, marker, legend, shift in CURVES:
            chosen = [n for n in names if n.startswith(prefix)]
            points = _points(axes, results, chosen, metric, colour, marker, legend, line="-")
            for x, y, name in points if axes is panels[0] else ():  # the other has the same order
                axes.annotate(
                    name.removeprefix(prefix),
                    (x, y),
                    textcoords="offset points",
                    xytext=shift,
                    fontsize=7,
                    color=colour,
                )
        for name in (n for n in RULES if n in names):
            words = name.replace("_", " ")
            _points(axes, results, [name], metric, ORANGE, RULES[name], words, line="none")
        axes.set_xlabel("intra-list distance of ten places, 768-d")
        axes.set_ylabel(f"change of {label}")
        axes.yaxis.set_major_formatter("{x:+.1%}")
    panels[0].legend(frameon=False, fontsize=8, loc="lower left")
    return png(picture)


def _points(
    axes: Any,
    results: Results,
    names: list[str],
    metric: str,
    colour: str,
    marker: str,
    label: str,
    *,
    line: str,
) -> list[tuple[float, float, str]]:
    """Draws the variants by distance; returns (x, y, name) of each."""
    found = sorted((results[f"reranking/{n}/ild@10"].value, n) for n in names)
    changes = [results[f"reranking/{name}/{metric}_change"] for _, name in found]
    x, y = [ild for ild, _ in found], [c.value for c in changes]
    low = [c.value - (c.value if c.low is None else c.low) for c in changes]
    high = [(c.value if c.high is None else c.high) - c.value for c in changes]
    style = {"color": colour, "marker": marker, "linestyle": line, "label": label}
    axes.errorbar(x, y, yerr=[low, high], markersize=5, linewidth=1.2, elinewidth=0.7, **style)
    return [(ild, value, name) for (ild, name), value in zip(found, y, strict=True)]
