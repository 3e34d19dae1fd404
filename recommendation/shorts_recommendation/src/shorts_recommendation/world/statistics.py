"""The shapes of the log, beside those that are published of real ones.

In: the world's tables and its log. Out: ``ShapeRow``s (ours, published, source) and two pictures.
A generated log cannot be right about people; it can avoid being wrong about shapes that every
feed shares, and where ours differs the row says so.

Published figures are those found at their source:
- KuaiRand (Gao, Li, Zhang and others, "KuaiRand: An Unbiased Sequential Recommendation Dataset with
  Randomly Exposed Videos", CIKM 2022; the sizes in the authors' README, which also defines
  ``long_view`` and ``is_click`` of the one-column feed by the rules that are used here);
- KuaiRec (Gao, Li, Lei and others, "KuaiRec: A Fully-Observed Dataset and Insights for Evaluating
  Recommender Systems", CIKM 2022; the authors' notebook of statistics);
- TikTok (Zannettou, Nemes Nemeth, Ayalon and others, "Analyzing User Engagement with TikTok's Short
  Format Video Recommendations using Data Donations", CHI 2024, abstract).
Where ``published`` is None, no figure was found there: like, share and skip rates stand on our own.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from shorts_recommendation.log import DAY_S, Catalogue, ImpressionLog
from shorts_recommendation.world.world import World

DURATION_EDGES_S = (5.0, 10.0, 20.0, 40.0, 80.0, 180.0)
VALID_PLAY_S = 7.0  # KuaiRand's is_click in the one-column feed: longer than this, or to the end
_KUAIRAND_DAYS = 31  # 8 April to 8 May 2022


@dataclass(frozen=True)
class ShapeRow:
    """One statistic.

    Attributes:
        key: "variant/metric", for results keys ``world/<key>``.
        ours: of this log.
        published: of a real log, or None where no figure was found.
        source: key in references.yaml, "" where there is none.
        note: what the published figure is of, and why ours differs if it does.
    """

    key: str
    ours: float
    published: float | None = None
    source: str = ""
    note: str = ""


def shape_rows(world: World, log: ImpressionLog) -> list[ShapeRow]:
    """Every statistic, in the order of a table.

    Raises:
        ValueError: for an empty log.
    """
    if len(log) == 0:
        raise ValueError("the log is empty: nothing to describe")
    catalogue = world.catalogue
    return [
        *feedback_rows(catalogue, log),
        *duration_rows(catalogue, log),
        *activity_rows(world, log),
        *catalogue_rows(world, log),
    ]


def feedback_rows(catalogue: Catalogue, log: ImpressionLog) -> list[ShapeRow]:
    """Rates of each kind of feedback, over impressions."""
    duration = catalogue.duration_s[log.video_idx]
    ratio = log.watch_s / duration
    valid = log.watch_s >= np.minimum(duration, VALID_PLAY_S)
    rule = "KuaiRand defines it by the same rule; no rate was found at the source"
    attention = "TikTok, attention of users; ours is the mean watch ratio, capped at 1"
    return [
        ShapeRow("feedback/long_view_rate", float(log.long_view.mean()), None, "gao2022", rule),
        ShapeRow("feedback/skip_rate", float(log.skip.mean())),
        ShapeRow("feedback/valid_play_rate", float(valid.mean()), None, "gao2022", rule),
        ShapeRow(
            "feedback/watched_share", float(np.minimum(ratio, 1).mean()),
            0.45, "zannettou2024", attention,
        ),
        ShapeRow(
            "feedback/ratio_above_one_rate", float((ratio > 1).mean()), None, "gao2022kuairec",
            "watch ratios above 1 occur in KuaiRec too; no rate was found at the source",
        ),
        ShapeRow("feedback/like_rate", float(log.like.mean())),
        ShapeRow("feedback/share_rate", float(log.share.mean())),
        ShapeRow("feedback/follow_rate", float(log.follow.mean())),
        ShapeRow(
            "feedback/uniform_share", float((log.strategy == 3).mean()), 0.0037, "gao2022",
            "impressions whose video was drawn uniformly; ours are more, so that off-policy "
            "estimates are possible on a smaller log",
        ),
    ]  # fmt: skip


def duration_rows(catalogue: Catalogue, log: ImpressionLog) -> list[ShapeRow]:
    """Quartiles of the watch ratio, and mean seconds, by duration: the bias in one table."""
    duration = catalogue.duration_s[log.video_idx]
    bucket = duration_bucket(duration)
    rows = []
    for place in range(len(DURATION_EDGES_S) - 1):
        watch, length = log.watch_s[bucket == place], duration[bucket == place]
        if not len(watch):
            continue
        low, high = DURATION_EDGES_S[place : place + 2]
        variant = f"duration_{low:.0f}_{high:.0f}_s"
        for share in (25, 50, 75):
            value = float(np.percentile(watch / length, share))
            rows.append(ShapeRow(f"{variant}/watch_ratio_p{share}", value))
        rows.append(ShapeRow(f"{variant}/watch_s", float(watch.mean())))
    return rows


def duration_bucket(duration_s: np.ndarray) -> np.ndarray:
    """Place of each duration among ``DURATION_EDGES_S``, 0-based."""
    return np.searchsorted(DURATION_EDGES_S[1:-1], duration_s, side="right")


def activity_rows(world: World, log: ImpressionLog) -> list[ShapeRow]:
    """Sessions, days and hours."""
    length = np.bincount(log.session_id - log.session_id.min())
    length = length[length > 0]
    per_user = np.bincount(log.user_idx, minlength=len(world.users))
    hours = hourly_shares(log)
    kuairand = 11_713_045 / 1_000 / _KUAIRAND_DAYS
    return [
        ShapeRow("activity/session_length_mean", float(length.mean())),
        ShapeRow("activity/session_length_p50", float(np.median(length))),
        ShapeRow("activity/session_length_p90", float(np.percentile(length, 90))),
        ShapeRow("activity/impressions_per_user_mean", float(per_user.mean())),
        ShapeRow("activity/impressions_per_user_p50", float(np.median(per_user))),
        ShapeRow("activity/impressions_per_user_p90", float(np.percentile(per_user, 90))),
        ShapeRow(
            "activity/impressions_per_user_day", float(per_user.mean() / world.config.days),
            kuairand, "gao2022",
            "KuaiRand-1K, 1,000 users in 31 days; ours are far lighter users, so that histories "
            "are short and a laptop suffices",
        ),
        ShapeRow("activity/busiest_hour_over_mean", float(hours.max() * 24)),
    ]  # fmt: skip


def hourly_shares(log: ImpressionLog) -> np.ndarray:
    """Share of the impressions in each hour of the day, f64[24]."""
    return np.bincount((log.timestamp % DAY_S) // 3600, minlength=24) / len(log)


def catalogue_rows(world: World, log: ImpressionLog) -> list[ShapeRow]:
    """Exposure, uploads, tags."""
    catalogue = world.catalogue
    shown = np.bincount(log.video_idx, minlength=len(catalogue))
    later = (catalogue.upload_s >= world.start_s).sum()
    return [
        ShapeRow("catalogue/coverage", float((shown > 0).mean())),
        ShapeRow(
            "catalogue/impressions_per_video", len(log) / len(catalogue),
            322_278_385 / 32_038_725, "gao2022", "KuaiRand-27K, sampled users",
        ),
        ShapeRow("catalogue/zipf_slope", zipf_slope(shown)),
        ShapeRow("catalogue/top_percent_share", top_share(shown, 0.01)),
        ShapeRow("catalogue/uploads_per_hour", float(later / (24 * world.config.days))),
        ShapeRow("catalogue/duration_p50_s", float(np.median(catalogue.duration_s))),
        ShapeRow(
            "catalogue/tags_per_video", float((catalogue.tags >= 0).sum(axis=1).mean()),
            1.183, "gao2022kuairec", "KuaiRec, categories of a video; ours are tags, and more",
        ),
    ]  # fmt: skip


def zipf_slope(shown: np.ndarray) -> float:
    """Slope of log exposure over log rank, by least squares over the top tenth of what was shown.

    Raises:
        ValueError: if fewer than 20 videos were shown.
    """
    count = np.sort(shown[shown > 0])[::-1]
    top = count[: max(2, len(count) // 10)]
    if len(count) < 20:
        raise ValueError(f"only {len(count)} videos were shown: too few for a slope")
    return float(np.polyfit(np.log(np.arange(1, len(top) + 1)), np.log(top), 1)[0])


def top_share(shown: np.ndarray, part: float) -> float:
    """Share of the impressions that the most shown ``part`` of the catalogue has."""
    count = np.sort(shown)[::-1]
    return float(count[: max(1, round(part * len(count)))].sum() / count.sum())
