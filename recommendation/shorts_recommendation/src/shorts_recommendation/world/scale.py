"""How time and memory grow with the world: each size in a process of its own.

In: sizes. Out: ``ScaleRow``s. The peak is the resident set's high-water mark of a fresh process
that imports, draws the world and streams the log to parquet, so a size does not inherit the peak of
the one before it.

Run alone, the module measures one size and prints the row as JSON:
    python -m shorts_recommendation.world.scale '{"n_users": 1000}' 0 /tmp/there
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from ml_platform.evaluation.run_info import peak_memory_bytes
from shorts_recommendation.config import WorldConfig


@dataclass(frozen=True)
class ScaleRow:
    """What one size took.

    Attributes:
        n_users, n_videos, days, impressions: the size; impressions as they came out.
        world_s, log_s: seconds to draw the world, and to simulate and write the log.
        start_bytes: resident set after the imports.
        world_bytes: peak resident set until the world was drawn.
        peak_bytes: peak resident set in all.
        log_bytes: of the parquet parts on disk.
    """

    n_users: int
    n_videos: int
    days: int
    impressions: int
    world_s: float
    log_s: float
    start_bytes: float
    world_bytes: float
    peak_bytes: float
    log_bytes: int


def measure_scale(
    sizes: list[WorldConfig], seed: int = 0, *, timeout_s: float = 600.0
) -> list[ScaleRow]:
    """Measures each size in a fresh process, one after the other.

    Raises:
        RuntimeError: if a process fails; holds what it wrote to its error stream.
    """
    return [_measured_alone(size, seed, timeout_s) for size in sizes]


def _measured_alone(size: WorldConfig, seed: int, timeout_s: float) -> ScaleRow:
    with tempfile.TemporaryDirectory(prefix="world-scale-") as folder:
        command = [sys.executable, "-m", __name__, size.model_dump_json(), str(seed), folder]
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s)
    if done.returncode != 0:
        raise RuntimeError(f"measuring {size} failed with {done.returncode}:\n{done.stderr}")
    return ScaleRow(**json.loads(done.stdout.splitlines()[-1]))


def stream_and_measure(size: WorldConfig, seed: int, folder: Path) -> ScaleRow:
    """Draws a world and streams its log in this process; peaks are those of the whole process."""
    from shorts_recommendation.world.generate import log_blocks, stream_log
    from shorts_recommendation.world.world import make_world

    warm = make_world(WorldConfig(n_users=20, n_videos=400, impressions_per_user=5, days=2), 0)
    list(log_blocks(warm, 0))  # compiles, so that no size pays for it
    start = peak_memory_bytes()
    begin = time.perf_counter()
    world = make_world(size, seed)
    drawn, world_bytes = time.perf_counter(), peak_memory_bytes()
    parts = stream_log(world, folder, seed)
    end = time.perf_counter()
    return ScaleRow(
        n_users=size.n_users,
        n_videos=size.n_videos,
        days=size.days,
        impressions=_rows(parts),
        world_s=drawn - begin,
        log_s=end - drawn,
        start_bytes=start,
        world_bytes=world_bytes,
        peak_bytes=peak_memory_bytes(),
        log_bytes=sum(part.stat().st_size for part in parts),
    )


def _rows(parts: list[Path]) -> int:
    from pyarrow.parquet import read_metadata

    return sum(read_metadata(part).num_rows for part in parts)


def main(arguments: list[str]) -> None:
    """Measures one size: configuration as JSON, seed, folder."""
    size, seed, folder = arguments
    row = stream_and_measure(WorldConfig.model_validate_json(size), int(seed), Path(folder))
    print(json.dumps(asdict(row)))


if __name__ == "__main__":
    main(sys.argv[1:])
