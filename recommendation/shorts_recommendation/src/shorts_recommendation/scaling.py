"""How time and memory grow with the world: the whole pipeline at several sizes.

In: a run. Out: ``scaling.json`` and a picture: the whole command at several sizes of the world, and
the log's stream alone at one size with ever more impressions. Each runs in a process of its own, so
that a peak of memory is that size's.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ml_platform.evaluation.results import Results, write_atomic
from ml_platform.evaluation.run_info import git_commit
from shorts_recommendation.world.scale import measure_scale

if TYPE_CHECKING:
    from shorts_recommendation.commands import Run

SIZES = ((1_000, 5_000), (3_000, 15_000), (10_000, 50_000), (30_000, 150_000), (100_000, 500_000))
SMALL = ((200, 1_000), (400, 2_000))
STREAMED = (120, 1_000, 10_500)
"""Impressions a person of the default world that are asked for; the last gives some eighty million
in all. The stream's memory must not follow them."""
STREAM_TIMEOUT_S = 3600.0
PROCESSOR_S = "seconds/all_processes/processor_s"


def main(run: Run) -> None:
    """Runs the sizes one after the other and writes what each took."""
    sizes = SMALL if run.config.quick else SIZES
    found: dict[tuple[int, int], Results] = {}
    with run.progress.stage("sizes", len(sizes)) as step:
        for size in sizes:
            found[size] = _run_size(run, *size)
            step(1)
    results = run.start_results(name="simulated, several sizes", sha256="by size", synthetic=True)
    for (users, videos), measured in found.items():
        _record(results, users, videos, measured)
    _record_streams(results, run)
    folder = run.results_folder()
    results.write(folder / "scaling.json")
    write_atomic(folder / "plots" / "scaling.png", _picture(found))
    run.console.print(f"numbers: {folder / 'scaling.json'}", highlight=False)


def _record_streams(results: Results, run: Run) -> None:
    """The log's stream: seconds and peak memory by number of impressions."""
    world = run.config.world
    streamed = STREAMED[:2] if run.config.quick else STREAMED
    with run.progress.stage("streams", len(streamed)) as step:
        for mean in streamed:
            size = world.model_copy(update={"impressions_per_user": mean})
            row = measure_scale([size], run.config.seed, timeout_s=STREAM_TIMEOUT_S)[0]
            protocol = (
                f"log streamed to parquet, {row.n_users:,} users x {row.n_videos:,} videos, one "
                "process, drawing of the world included in the peak"
            )
            for metric in ("impressions", "log_s", "peak_bytes", "log_bytes"):
                key = f"stream/impressions_per_user_{mean}/{metric}"
                results.add(key, float(getattr(row, metric)), protocol=protocol)
            step(1)


def _run_size(run: Run, users: int, videos: int) -> Results:
    """One end-to-end run; its results. One that this commit has made before is not made again.

    Raises:
        RuntimeError: If it failed, with the end of what it printed.
    """
    out = run.artifacts / "scaling" / f"{users}x{videos}"
    done_before = out / "latest" / "results.json"
    if done_before.exists():
        kept = Results.read(done_before)
        if kept.run.commit == git_commit(run.artifacts) and not kept.run.commit.endswith("-dirty"):
            run.console.print(f"  {users:,} x {videos:,}: kept from {done_before}", highlight=False)
            return kept
    command = [sys.executable, "-m", "shorts_recommendation.cli", "e2e"]
    command += ["--users", str(users), "--videos", str(videos), "--out", str(out)]
    if run.config.quick:
        command += ["--config", str(Path(__file__).parents[2] / "configs" / "smoke.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        said = (done.stdout + done.stderr)[-2000:]
        raise RuntimeError(f"{users} users x {videos} videos failed:\n{said}")
    return Results.read(out / "latest" / "results.json")


def _record(results: Results, users: int, videos: int, measured: Results) -> None:
    variant = f"users_{users}"
    protocol = f"e2e of {users:,} users and {videos:,} videos in a process of its own"
    seconds = measured["seconds/all_stages/wall_s"].value
    results.add(f"scaling/{variant}/wall_s", seconds, protocol=protocol)
    processor_s = measured[PROCESSOR_S].value
    results.add(f"scaling/{variant}/processor_s", processor_s, protocol=protocol)
    peak = measured["memory/main_process/peak_bytes"].value
    results.add(f"scaling/{variant}/peak_bytes", peak, protocol=protocol)
    results.add(
        f"scaling/{variant}/impressions", measured["data/log/impressions"].value, protocol=protocol
    )
    for key in measured:
        stage, name, metric = key.split("/")
        if stage == "seconds" and not name.startswith("all_"):
            results.add(
                f"scaling_{variant}/{name}/{metric}", measured[key].value, protocol=protocol
            )


def _picture(found: dict[tuple[int, int], Results]) -> bytes:
    """Processor seconds, which other work on the machine does not lengthen, and memory."""
    from ml_platform.evaluation.plot_style import BLUE, ORANGE, new_figure, png

    figure, (left, right) = new_figure("Time and memory of the whole run", panels=2)
    impressions = [r["data/log/impressions"].value for r in found.values()]
    seconds = [r[PROCESSOR_S].value for r in found.values()]
    peaks = [r["memory/main_process/peak_bytes"].value / 2**30 for r in found.values()]
    for axes, values, colour, unit in (
        (left, seconds, BLUE, "processor seconds, everything"),
        (right, peaks, ORANGE, "peak memory, GiB"),
    ):
        axes.plot(impressions, values, "o-", color=colour)
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xlabel("impressions in the log")
        axes.set_ylabel(unit)
        for x, y in zip(impressions, values, strict=True):
            axes.annotate(
                f"{y:,.0f}" if y >= 10 else f"{y:.1f}",
                (x, y),
                xytext=(0, 6),
                textcoords="offset points",
                ha="center",
                fontsize=8,
            )
    return png(figure)
