"""The shapes of a log: hand-computed on a log of a few rows, and drawn without complaint."""

from __future__ import annotations

import io
from dataclasses import fields, replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from rich.console import Console

from ml_platform.evaluation.progress import Silent
from ml_platform.evaluation.results import Results
from shorts_recommendation.config import Config, DataConfig, WorldConfig
from shorts_recommendation.data import ShortsData, windows_of
from shorts_recommendation.log import ImpressionLog
from shorts_recommendation.world import World, command, generate_log, make_world
from shorts_recommendation.world.pictures import picture_of_traffic, picture_of_watching
from shorts_recommendation.world.statistics import (
    duration_bucket,
    shape_rows,
    top_share,
    zipf_slope,
)

CONFIG = Config(
    world=WorldConfig(n_users=150, n_videos=500, impressions_per_user=30, days=4, n_tags=12),
    data=DataConfig(train_days=2, validation_days=1),
)


@cache
def world() -> World:
    return make_world(CONFIG.world, 0)


@cache
def log() -> ImpressionLog:
    return generate_log(world(), 0)


def by_hand() -> tuple[World, ImpressionLog]:
    """Four impressions of four videos of 8, 8, 30 and 60 s, the rest of the log cut away."""
    duration = world().catalogue.duration_s.copy()
    duration[:4] = [8, 8, 30, 60]
    watch = np.array([8, 16, 15, 2], np.float32)
    few = replace(
        log().select(slice(0, 4)),
        user_idx=np.array([0, 0, 0, 1], np.int32),
        video_idx=np.arange(4, dtype=np.int32),
        session_id=np.array([5, 5, 5, 7]),
        timestamp=np.array([0, 100, 3600, 3700]) + world().start_s,
        watch_s=watch,
        long_view=np.array([True, True, False, False]),
        skip=np.array([False, False, False, True]),
        like=np.array([True, False, False, False]),
    )
    return replace(world(), catalogue=replace(world().catalogue, duration_s=duration)), few


def test_feedback_by_hand() -> None:
    from shorts_recommendation.world.statistics import activity_rows, duration_rows, feedback_rows

    there, few = by_hand()
    got = {row.key: row.ours for row in feedback_rows(there.catalogue, few)}
    assert got["feedback/long_view_rate"] == 0.5
    assert got["feedback/skip_rate"] == 0.25
    assert got["feedback/like_rate"] == 0.25
    assert got["feedback/valid_play_rate"] == 0.75
    assert got["feedback/ratio_above_one_rate"] == 0.25
    assert got["feedback/watched_share"] == pytest.approx((1 + 1 + 0.5 + 2 / 60) / 4)
    got = {row.key: row.ours for row in duration_rows(there.catalogue, few)}
    assert got["duration_5_10_s/watch_ratio_p50"] == 1.5
    assert got["duration_5_10_s/watch_s"] == 12
    assert got["duration_20_40_s/watch_ratio_p25"] == 0.5
    assert "duration_10_20_s/watch_s" not in got
    got = {row.key: row.ours for row in activity_rows(there, few)}
    assert got["activity/session_length_mean"] == 2
    assert got["activity/impressions_per_user_mean"] == pytest.approx(4 / 150)
    assert got["activity/busiest_hour_over_mean"] == 12


def test_buckets_hold_their_lower_edge() -> None:
    assert duration_bucket(np.array([5.0, 9.9, 10, 40, 80, 180])).tolist() == [0, 0, 1, 3, 4, 4]


def test_slope_and_share_by_hand() -> None:
    ranks = np.arange(1, 1001)
    assert zipf_slope(1e6 / ranks) == pytest.approx(-1)
    assert top_share(np.array([1, 6, 2, 1]), 0.25) == 0.6
    with pytest.raises(ValueError, match="only 3 videos were shown"):
        zipf_slope(np.array([4, 0, 2, 1]))


def test_an_empty_log_is_refused() -> None:
    with pytest.raises(ValueError, match="empty"):
        shape_rows(world(), log().select(slice(0, 0)))


def test_every_row_is_finite_and_every_published_figure_has_its_source() -> None:
    rows = shape_rows(world(), log())
    assert len({row.key for row in rows}) == len(rows)
    for row in rows:
        assert np.isfinite(row.ours), row.key
        assert row.published is None or (row.source and row.note), row.key
    references = Path(__file__).parents[3] / "references.yaml"
    known = references.read_text()
    for row in rows:
        assert not row.source or f"\n{row.source}:" in known, row.source


def test_the_shapes_are_those_of_a_feed() -> None:
    """Directions, not values: what the biases of the module do to the log."""
    got = {row.key: row.ours for row in shape_rows(world(), log())}
    short, long = "duration_5_10_s", "duration_40_80_s"
    assert got[f"{short}/watch_ratio_p50"] > got[f"{long}/watch_ratio_p50"]
    assert got[f"{short}/watch_s"] < got[f"{long}/watch_s"]
    assert got["catalogue/zipf_slope"] < -0.2
    assert got["catalogue/top_percent_share"] > 0.03
    assert got["activity/busiest_hour_over_mean"] > 1.2
    assert got["catalogue/uploads_per_hour"] == pytest.approx(0.4 * 500 / 96, rel=0.15)


def test_pictures_hold_what_they_say() -> None:
    watching = picture_of_watching(world(), log())
    assert next(a.get_xlabel() for a in watching.axes) == "duration, s"
    traffic = picture_of_traffic(world(), log())
    bars = [patch.get_height() for patch in traffic.axes[2].patches]
    assert len(bars) == 24
    assert sum(bars) == pytest.approx(1)


def test_the_command_writes_its_keys_and_pictures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = ShortsData(
        world(), world().catalogue, world().users, log(), windows_of(CONFIG, world().start_s),
        "simulated", "0" * 64,
    )  # fmt: skip
    monkeypatch.setattr(command, "LENGTHS", (1,))
    (tmp_path / "plots").mkdir()
    printed = io.StringIO()
    run = SimpleNamespace(
        config=CONFIG.model_copy(update={"quick": True}),
        console=Console(file=printed, width=120),
        progress=Silent(),
        load=lambda: data,
        results_folder=lambda: tmp_path,
        start_results=lambda data: Results.start(
            system="shorts_recommendation", config={}, dataset_name=data.name,
            dataset_sha256=data.sha256, synthetic=True, seed=0, root=Path(__file__).parent,
        ),
    )  # fmt: skip
    command.main(run)  # type: ignore[arg-type]
    results = Results.read(tmp_path / "world.json")
    assert results["world/feedback/skip_rate"].value == pytest.approx(log().skip.mean(), rel=1e-4)
    values = {
        n: results[f"world/value_{n}/satisfaction@10"] for n in ("oracle", "trending", "random")
    }
    assert values["oracle"].low > 1.5 * max(values["trending"].high, values["random"].high)
    assert results["world/streamed_3_days/peak_bytes"].value > 50e6
    assert (tmp_path / "plots" / "world_watching.png").stat().st_size > 10_000
    assert "feedback/long_view_rate" in printed.getvalue()
    assert {f.name for f in fields(data)} >= {"sha256"}
