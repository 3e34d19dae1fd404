"""Pictures of the log's shapes: watching by duration, and exposure, sessions and hours.

In: the world and its log. Out: matplotlib figures in the repository's style.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ml_platform.evaluation.plot_style import BLACK, BLUE, GREEN, GREY, ORANGE, new_figure
from shorts_recommendation.log import ImpressionLog
from shorts_recommendation.world.statistics import (
    DURATION_EDGES_S,
    duration_bucket,
    hourly_shares,
    zipf_slope,
)
from shorts_recommendation.world.world import World


def picture_of_watching(world: World, log: ImpressionLog) -> Any:
    """Watch ratio falls with duration, seconds rise; patience falls with the place."""
    figure, (ratio_axes, seconds_axes, place_axes) = new_figure(
        "Simulated: longer videos win seconds and lose ratio", panels=3, height=3.2
    )
    duration = world.catalogue.duration_s[log.video_idx]
    bucket, ratio = duration_bucket(duration), log.watch_s / duration
    places = [p for p in range(len(DURATION_EDGES_S) - 1) if (bucket == p).any()]
    names = [f"{DURATION_EDGES_S[p]:.0f} to {DURATION_EDGES_S[p + 1]:.0f}" for p in places]
    quartiles = [[np.percentile(ratio[bucket == p], q) for p in places] for q in (25, 50, 75)]
    at = np.arange(len(places))
    ratio_axes.fill_between(at, quartiles[0], quartiles[2], color=BLUE, alpha=0.2, linewidth=0)
    ratio_axes.plot(at, quartiles[1], color=BLUE, marker="o")
    ratio_axes.set_ylabel("watch ratio (quartiles)")
    mean = [log.watch_s[bucket == p].mean() for p in places]
    seconds_axes.plot(at, mean, color=ORANGE, marker="s")
    seconds_axes.set_ylim(bottom=0)
    seconds_axes.set_ylabel("seconds watched, mean")
    for axes in (ratio_axes, seconds_axes):
        axes.set_xticks(at, names, rotation=45, fontsize=8)
        axes.set_xlabel("duration, s")
    _by_place(place_axes, log)
    return figure


def _by_place(axes: Any, log: ImpressionLog) -> None:
    """Rates over the first thirty places of a session."""
    last = min(30, int(log.position.max()) + 1)
    inside = log.position < last
    count = np.bincount(log.position[inside], minlength=last)
    for name, column, colour in (
        ("skipped", log.skip, BLACK),
        ("long view", log.long_view, GREEN),
    ):
        rate = np.bincount(log.position[inside], column[inside], minlength=last) / count
        axes.plot(np.arange(1, last + 1), rate, color=colour)
        axes.annotate(
            name, (last, rate[-1]), xytext=(0, 6), textcoords="offset points",
            ha="right", color=colour, fontsize=9,
        )  # fmt: skip
    axes.set_ylim(0, 0.7)
    axes.set_xlabel("place in the session")
    axes.set_ylabel("share of impressions")


def picture_of_traffic(world: World, log: ImpressionLog) -> Any:
    """Exposure by rank, the length of sessions, and the hours of a day."""
    figure, (rank_axes, length_axes, hour_axes) = new_figure(
        "Simulated: exposure, sessions, hours", panels=3, height=3.2
    )
    shown = np.bincount(log.video_idx, minlength=len(world.catalogue))
    count = np.sort(shown[shown > 0])[::-1]
    rank_axes.loglog(np.arange(1, len(count) + 1), count, color=BLUE)
    rank_axes.annotate(
        f"slope {zipf_slope(shown):.2f}\nin the top tenth", (0.95, 0.9),
        xycoords="axes fraction", ha="right", va="top", fontsize=9, color=BLUE,
    )  # fmt: skip
    rank_axes.set_xlabel("rank of a video")
    rank_axes.set_ylabel("impressions")
    length = np.bincount(log.session_id - log.session_id.min())
    length = np.sort(length[length > 0])
    length_axes.semilogy(length, 1 - np.arange(len(length)) / len(length), color=ORANGE)
    length_axes.set_xlabel("videos in a session, at least")
    length_axes.set_ylabel("share of sessions")
    hour_axes.bar(np.arange(24), hourly_shares(log), color=GREY)
    hour_axes.set_xticks([0, 6, 12, 18])
    hour_axes.set_xlabel("hour of the day")
    hour_axes.set_ylabel("share of impressions")
    return figure
