"""The micro-video study as a command: measures, prints, and writes ``micro_video.json``.

In: the system's ``Config`` (its seed and whether the run is quick). Out: ``Results`` with keys
``micro_video/<model>/<metric>``, ``micro_video_published/<model>/<metric>`` (cited, not measured),
``micro_video_set/<part>/<fact>``, and two pictures. A quick run takes a generated set and says so.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from ml_platform.data.micro_video import MicroVideos, load_micro_videos
from ml_platform.evaluation.intervals import Estimate, bootstrap_difference, bootstrap_mean
from ml_platform.evaluation.plot_style import png
from ml_platform.evaluation.progress import Console as ProgressConsole
from ml_platform.evaluation.results import Results, write_atomic
from shorts_recommendation.artifacts import SYSTEM, SYSTEM_FOLDER
from shorts_recommendation.config import Config
from shorts_recommendation.micro_video.names import NAMES
from shorts_recommendation.micro_video.plots import comparison_plot, reranking_plot
from shorts_recommendation.micro_video.protocol import METRICS
from shorts_recommendation.micro_video.published import CITATION, published_for
from shorts_recommendation.micro_video.rows import Row, Study
from shorts_recommendation.micro_video.settings import MicroVideoConfig, smoke_settings, untuned
from shorts_recommendation.micro_video.split import generated_set
from shorts_recommendation.micro_video.study import run_study, shape_of

if TYPE_CHECKING:
    from shorts_recommendation.commands import Run

FILE = "micro_video.json"
DEVELOPMENT_FILE = "micro_video_development.json"
ORIGINS = {
    "published": "ours",
    "recent": "ours, validation is data",
    "numbering": "artefact of the numbering",
}
PAIRED = (
    ("walk_backoff", "walk"),
    ("walk_content", "walk_backoff"),
    ("walk_content", "rp3beta"),
    ("walk_content", "two_tower"),
    ("walk_content", "funnel"),
    ("item_knn_ordinary", "item_knn"),
    ("recent_popularity", "walk_content"),
    ("walk_recent", "recent_popularity"),
    ("walk_shifted", "walk_recent"),
    ("walk_shifted", "funnel_recent"),
)
"""Pairs whose difference in recall is recorded user by user: the first less the second."""


def run(run: Run) -> None:
    """The subcommand: writes into the run's results folder."""
    main(run.config, run.results_folder(), run.console)


def main(
    config: Config, out: Path, console: Console, settings: MicroVideoConfig | None = None
) -> Results:
    """Runs the study and writes ``micro_video.json`` and ``plots/`` below ``out``.

    Args:
        config: ``quick`` takes the generated set; ``seed`` is the first of the fits' seeds.
        out: A folder.
        console: Where progress and the table go.
        settings: Instead of the defaults; with ``development`` the test users stay closed, and the
            file is another.

    Raises:
        DatasetUnavailableError: No source has the set.
        CorruptFileError: A source has another set under this name.
    """
    started, worked = time.perf_counter(), time.process_time()
    settings = settings or (smoke_settings() if config.quick else MicroVideoConfig())
    settings = settings.model_copy(
        update={"seeds": tuple(config.seed + seed for seed in settings.seeds)}
    )
    videos = generated_set() if config.quick else load_micro_videos(settings.dataset)
    if settings.development:
        console.print(
            "[yellow]DEVELOPMENT: the test users stay closed; half of validation is asked"
        )
    if videos.synthetic:
        console.print("[yellow]GENERATED SET, smoke size: mechanics only, no results")
    results = Results.start(
        system=SYSTEM,
        config=settings.model_dump(mode="json"),
        dataset_name=videos.name,
        dataset_sha256=videos.sha256,
        synthetic=videos.synthetic,
        seed=config.seed,
        root=SYSTEM_FOLDER,
    )
    study = run_study(videos, settings, ProgressConsole(console))
    record(study, videos, results)
    wall, worked = time.perf_counter() - started, time.process_time() - worked
    for name, value in (("wall_s", wall), ("processor_s", worked)):
        results.add(f"micro_video_set/run/{name}", value, protocol="loading, fitting and measuring")
    results.write(out / (DEVELOPMENT_FILE if settings.development else FILE))
    for name, figure in (
        ("micro_video", comparison_plot(study, published_for(videos.synthetic))),
        ("micro_video_reranking", reranking_plot(study)),
    ):
        write_atomic(out / "plots" / f"{name}.png", png(figure))
    console.print(table_of(results, study))
    console.print(f"{wall:.0f} s, of them {worked:.0f} s of processor", highlight=False)
    return results


# --- results ---


def record(study: Study, videos: MicroVideos, results: Results) -> None:
    """All metrics of a study."""
    k = study.config.k
    for fact, value in shape_of(study.split).items():
        results.add(f"micro_video_set/all/{fact}", value, protocol=f"{videos.name} as published")
    for name, row in study.rows.items():
        protocol = protocol_of(name, row, videos, study)
        for metric in METRICS:
            results.add(
                f"micro_video/{name}/{metric}@{k}",
                bootstrap_mean(row.values[metric], resamples=study.config.resamples),
                protocol=protocol,
            )
        _add_plain(results, name, row, k)
    for first, second in PAIRED:
        found = bootstrap_difference(
            *study.difference(first, second), resamples=study.config.resamples
        )
        protocol = f"recall@{k} user by user, {first} less {second}; 95% user bootstrap"
        results.add(f"micro_video_paired/{first}-{second}/recall@{k}", found, protocol=protocol)
    _record_reranking(study, videos, results)
    for name, figure in published_for(videos.synthetic).items():
        for metric in METRICS:
            results.add(
                f"micro_video_published/{name}/{metric}@20",
                getattr(figure, metric),
                protocol=CITATION,
            )


def protocol_of(name: str, row: Row, videos: MicroVideos, study: Study) -> str:
    """How a row was measured, in one line."""
    kind = "GENERATED, " if videos.synthetic else ""
    fitted = {
        "published": "fitted on train rows, validation pairs choose settings only",
        "recent": "validation pairs are data too: NOT comparable with published figures",
        "numbering": "reads the videos' numbers, which follow first appearance: NOT comparable",
    }[row.protocol]
    chosen = f"; best of {row.tried} on validation: {row.setting}" if row.tried > 1 else ""
    left = untuned(name, study.config)
    chosen += f"; not tuned: {left}" if left else ""
    asked = "half of the validation" if study.config.development else "test"
    seeds = f"; mean of {row.seeds} seeds" if row.seeds > 1 else ""
    return (
        f"{kind}{videos.name}, published split, {len(study.split.test):,} {asked} users asked "
        f"once, full catalogue, train rows masked; {fitted}{chosen}{seeds}; 95% user bootstrap"
    )


def _add_plain(results: Results, name: str, row: Row, k: int) -> None:
    results.add(
        f"micro_video/{name}/seconds", row.seconds,
        protocol=f"wall: all {row.tried} settings and {row.seeds} seeds fitted and measured",
    )  # fmt: skip
    if row.validation_recall is not None:
        results.add(
            f"micro_video/{name}/validation_recall@{k}", row.validation_recall,
            protocol=f"of the winner of {row.tried}, on the users who chose it: too high",
        )  # fmt: skip


def _record_reranking(study: Study, videos: MicroVideos, results: Results) -> None:
    k, resamples = study.config.k, study.config.resamples
    kind = "GENERATED, " if videos.synthetic else ""
    protocol = (
        f"{kind}MMR over the best {study.config.rerank_pool} of funnel_recent, likeness by image "
        f"and audio; {min(study.config.rerank_users, len(study.split.test)):,} drawn users of "
        "those asked; 95% user bootstrap"
    )
    for weight, (measured, distance) in study.reranked.items():
        values = {f"recall@{k}": measured.recall, f"ndcg@{k}": measured.ndcg, f"ild@{k}": distance}
        for metric, one in values.items():
            results.add(
                f"micro_video_reranking/mmr_{weight:g}/{metric}",
                bootstrap_mean(one, resamples=resamples),
                protocol=protocol,
            )


# --- the printed table ---


def table_of(results: Results, study: Study) -> Table:
    """Ours and the published ones, best recall first."""
    k = study.config.k
    table = Table(title=f"Micro-videos: top {k} of the full catalogue, one hidden video a user")
    for column in ("model", "recall", "95%", "NDCG", "precision", "from"):
        table.add_column(column, justify="left" if column in ("model", "from") else "right")
    found: list[tuple[str, Mapping[str, float], Estimate | None, str]] = []
    for name, row in study.rows.items():
        metric = results[f"micro_video/{name}/recall@{k}"]
        interval = Estimate(metric.value, metric.low, metric.high, metric.n or 0)
        means: Mapping[str, float] = {one: float(row.values[one].mean()) for one in METRICS}
        origin = ORIGINS[row.protocol]
        found.append((NAMES[name], means, interval, origin))
    for figure in published_for(results.run.dataset.synthetic).values():
        means = {one: float(getattr(figure, one)) for one in METRICS}
        found.append((figure.name, means, None, "cited"))
    for label, values, ends, origin in sorted(found, key=lambda one: -one[1]["recall"]):
        known = ends is not None and ends.low is not None
        span = f"{ends.low:.4f} to {ends.high:.4f}" if ends is not None and known else ""
        numbers = [f"{values[one]:.4f}" for one in METRICS]
        table.add_row(label, numbers[0], span, numbers[1], numbers[2], origin)
    return table
