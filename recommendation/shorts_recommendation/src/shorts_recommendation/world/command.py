"""Describes the world: shapes of its log, what the oracle is worth, how memory grows.

In: a ``Run``. Out: ``results/world.json`` with keys ``world/...``, two pictures, a table.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from rich.table import Table

from ml_platform.evaluation.intervals import bootstrap_mean
from ml_platform.evaluation.plot_style import png
from ml_platform.evaluation.results import Results, write_atomic
from shorts_recommendation.config import WorldConfig
from shorts_recommendation.data import ShortsData
from shorts_recommendation.world.pictures import picture_of_traffic, picture_of_watching
from shorts_recommendation.world.scale import ScaleRow, measure_scale
from shorts_recommendation.world.statistics import ShapeRow, shape_rows
from shorts_recommendation.world.world import World

if TYPE_CHECKING:
    from shorts_recommendation.commands import Run

LENGTHS = (1, 2, 4)  # times the days, and the impressions, of the shortest streamed log
VALUE_USERS = 1000
K = 10


def main(run: Run) -> None:
    """Measures, prints, writes."""
    data = run.load()
    results = run.start_results(data)
    rows = shape_rows(data.world, data.log)
    record_shapes(results, rows, data)
    record_values(results, data.world, run.config.evaluation.resamples, run.config.seed)
    sizes = stream_sizes(run.config.world, quick=run.config.quick)
    with run.progress.stage("streamed logs, a process each", len(sizes)) as step:
        for size in sizes:
            (measured,) = measure_scale([size], run.config.seed)
            record_scale(results, measured)
            step(1)
    folder = run.results_folder()
    results.write(folder / "world.json")
    for name, picture in (("watching", picture_of_watching), ("traffic", picture_of_traffic)):
        write_atomic(folder / "plots" / f"world_{name}.png", png(picture(data.world, data.log)))
    run.console.print(shape_table(rows))
    run.console.print(f"numbers: {folder / 'world.json'}", highlight=False)


def record_shapes(results: Results, rows: list[ShapeRow], data: ShortsData) -> None:
    """Adds every statistic."""
    protocol = f"whole simulated log, {data.world.config.days} days, logging policy"
    for row in rows:
        results.add(f"world/{row.key}", row.ours, protocol=protocol, n=len(data.log))


def value_of_lists(world: World, seed: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Lists of K for up to ``VALUE_USERS`` users at random times of the log's second half.

    Returns:
        users i64[B], and the mean expected satisfaction f64[B] of the oracle's list, of the most
        popular of the hour, and of videos drawn at random.
    """
    rng = np.random.default_rng(seed)
    n = min(VALUE_USERS, len(world.users))
    users = rng.choice(len(world.users), n, replace=False)
    now = rng.integers((world.start_s + world.end_s) // 2, world.end_s, n)
    lists = {
        "oracle": world.oracle_top(users, now, K),
        "trending": np.stack([np.argsort(-world.popularity_at(int(t)))[:K] for t in now]),
        "random": np.stack(
            [rng.choice(np.flatnonzero(world.catalogue.upload_s <= t), K) for t in now]
        ),
    }
    values = {
        name: world.expected(users, videos, now).satisfaction.mean(axis=1).astype(np.float64)
        for name, videos in lists.items()
    }
    return users, values


def record_values(results: Results, world: World, resamples: int, seed: int) -> None:
    """Adds the value of the oracle's, the trending and a random list."""
    users, values = value_of_lists(world, seed)
    protocol = (
        f"mean expected satisfaction of a list of {K}, fresh viewer, {len(users):,} users at "
        "random times of the second half; interval over users"
    )
    for name, value in values.items():
        estimate = bootstrap_mean(value, users, resamples=resamples, seed=seed)
        results.add(f"world/value_{name}/satisfaction@{K}", estimate, protocol=protocol)


def stream_sizes(config: WorldConfig, *, quick: bool) -> list[WorldConfig]:
    """Logs of growing length by the same users over the same catalogue."""
    days, impressions = (3, 30) if quick else (7, 60)
    return [
        config.model_copy(
            update={"days": days * times, "impressions_per_user": impressions * times}
        )
        for times in LENGTHS
    ]


def record_scale(results: Results, row: ScaleRow) -> None:
    """Adds the impressions, seconds and peak memory of one streamed log."""
    protocol = (
        f"a process of its own: {row.n_users:,} users, {row.n_videos:,} videos, {row.days} days; "
        "peak resident set, imports and world included"
    )
    variant = f"world/streamed_{row.days}_days"
    for metric, value in (
        ("impressions", row.impressions),
        ("wall_s", row.world_s + row.log_s),
        ("peak_bytes", row.peak_bytes),
        ("disk_bytes", row.log_bytes),
    ):
        results.add(f"{variant}/{metric}", value, protocol=protocol)


def shape_table(rows: list[ShapeRow]) -> Table:
    """The statistics beside the published ones, for the terminal."""
    table = Table(title="Shapes of the simulated log", title_justify="left")
    table.add_column("statistic")
    table.add_column("ours", justify="right")
    table.add_column("published", justify="right")
    table.add_column("source")
    for row in rows:
        published = "" if row.published is None else f"{row.published:,.4g}"
        source = row.source if row.published is not None else ""
        table.add_row(row.key, f"{row.ours:,.4g}", published, source)
    return table
