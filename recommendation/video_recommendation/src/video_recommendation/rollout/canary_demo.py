"""``video-recommendation canary-demo``: three candidates are rolled out; one stays.

In: nothing but the seed; the users are a simulated world. Out: what happened on the terminal, step
by step with reasons; ``canary.json``; a picture of the click difference with its always-valid
interval; every decision in ``rollout.jsonl``.

    shadow      all three candidates answer copies of the same requests; the reports say what is odd
    canary      each on users of its own, through the real app, until promoted or rolled back
    streams     the same plan many times over, controller alone: the rates behind the anecdotes
"""

from __future__ import annotations

import math
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ml_platform.evaluation.results import Results
from ml_platform.operations.canary import CanaryPlan
from ml_platform.operations.shadow_report import ShadowSummary
from video_recommendation.artifacts import SYSTEM_FOLDER
from video_recommendation.config import Config
from video_recommendation.rollout.canary_report import (
    plot_rollouts,
    print_rollout,
    print_streams,
    record_rollouts,
    record_shadows,
    record_streams,
)
from video_recommendation.rollout.canary_streams import (
    SAME,
    SCENARIOS,
    Rates,
    Traffic,
    stream_rates,
)
from video_recommendation.rollout.demo_stage import CANDIDATES, Stage, set_stage
from video_recommendation.rollout.demo_traffic import Rollout, roll_out, shadow_all
from video_recommendation.simulation.world import WorldConfig

if TYPE_CHECKING:
    from video_recommendation.commands import Run

SYSTEM: dict[str, Any] = {
    "name": "canary-demo",
    "quick": True,
    "data": {"dataset": "synthetic"},
    "two_tower": {
        "embedding_dim": 16,
        "history_length": 20,
        "pooling": "recency",
        "n_uniform": 64,
        "batch_size": 512,
        "max_epochs": 3,
        "patience": 1,
    },
    "item_item": {"neighbours": 50, "ease_reg": 50.0},
    "retrieval": {
        "two_tower": 40,
        "co_visitation": 20,
        "ease": 20,
        "recent_popularity": 20,
        "fresh": 5,
    },
    "ranking": {
        "prerank_keep": 80,
        "max_trees": 60,
        "learning_rate": 0.08,
        "min_rows_in_leaf": 30,
        "mmoe_epochs": 1,
        "mmoe_negatives": 5,
    },
    "reranking": {"k": 10, "pool": 20, "exploration_slot": -1},
}
"""The real system with small models: what is shown is the rollout, not the ranking."""

# One request a second of simulated time. At 1% the candidate has thirty users: enough to see that
# it fails or is slow, too few to say anything of clicks, so that step wants no proof of them. The
# p95 of few requests in one process moves a lot: the ratio is wide, the slow candidate far beyond.
PLAN = CanaryPlan(
    steps=(0.01, 0.05, 0.25, 0.5, 1.0),
    min_requests=(20, 60, 250, 800, 200),
    max_requests=(400, 1_000, 3_000, 8_000, 2_000),
    click_margins=(math.inf, 0.5, 0.3, 0.1, 0.1),
    window_s=300.0,
    latency_ratio=2.0,
)
QUICK_PLAN = CanaryPlan(
    steps=(0.2, 1.0),
    min_requests=(12, 5),
    max_requests=(60, 20),
    click_margins=(math.inf, 0.5),
    window_s=20.0,
    latency_ratio=2.0,
)


@dataclass(frozen=True)
class DemoSize:
    """How much of everything.

    Attributes:
        world: The users.
        plan: Of every rollout.
        delay_ms: Pause of the slow candidate.
        n_shadow: Requests that all candidates answer in the shadow.
        max_requests: Most of a rollout.
        look_every: Requests between looks.
        traffic: Of the streams.
        n_same, n_other: Streams of the A/A scenario and of each other one.
        workers: Processes for the streams.
    """

    world: WorldConfig
    plan: CanaryPlan
    delay_ms: float
    n_shadow: int
    max_requests: int
    look_every: int
    traffic: Traffic
    n_same: int
    n_other: int
    workers: int
    system: dict[str, Any] = field(default_factory=lambda: SYSTEM)


FULL = DemoSize(
    world=WorldConfig(
        n_users=3_000,
        n_items=300,
        n_factors=3,
        n_new_items_per_day=0,
        n_sessions=9_000,
        taste_strength=3.0,
        quality_strength=0.5,
    ),
    plan=PLAN,
    delay_ms=30.0,
    n_shadow=150,
    max_requests=12_000,
    look_every=25,
    traffic=Traffic(),
    n_same=200,
    n_other=60,
    workers=2,
)
QUICK = DemoSize(
    world=WorldConfig(n_users=150, n_items=100, n_new_items_per_day=0, n_sessions=2_000),
    plan=QUICK_PLAN,
    delay_ms=40.0,
    n_shadow=0,
    max_requests=80,
    look_every=10,
    traffic=Traffic(n_users=60, n_requests=150, look_every=10),
    n_same=4,
    n_other=2,
    workers=1,
)


def run_canary_demo(run: Run, *, quick: bool) -> None:
    """The command."""
    size = QUICK if quick else FULL
    folder = run.artifacts / "demonstrations" if quick else run.results_folder()
    (folder / "plots").mkdir(parents=True, exist_ok=True)
    if quick:
        run.console.print(
            "[yellow]QUICK: a handful of users; no shadow; the numbers are no results"
        )
    run.console.print("SYNTHETIC: simulated users; the rollout is real, its users are not")
    journal = run.artifacts / "demonstrations" / "rollout.jsonl"
    journal.parent.mkdir(parents=True, exist_ok=True)
    journal.unlink(missing_ok=True)
    with tempfile.TemporaryDirectory(prefix="canary-demo-") as scratch:
        stage = _set_stage(run, size, Path(scratch))
        shadows = _shadow(run, size, stage, Path(scratch))
        rollouts = [_roll_out(run, size, stage, n, Path(scratch), journal) for n in CANDIDATES]
        streams = _streams(run, size)
        _write(run, size, stage, shadows, rollouts, streams, folder)
    run.console.print(f"every decision: {journal}", highlight=False)


def _set_stage(run: Run, size: DemoSize, folder: Path) -> Stage:
    config = Config.model_validate({**size.system, "seed": run.config.seed})
    world = WorldConfig(**{**asdict(size.world), "seed": run.config.seed})
    with run.progress.stage("production and candidates", 4) as step:
        return set_stage(config, world, folder, delay_ms=size.delay_ms, step=step)


def _shadow(run: Run, size: DemoSize, stage: Stage, folder: Path) -> dict[str, ShadowSummary]:
    if not size.n_shadow:
        return {}
    with run.progress.stage("shadow: three processes answer copies", size.n_shadow) as step:
        found = shadow_all(stage, folder, size.n_shadow, run.config.seed, step)
    for name, summary in found.items():
        run.console.print(f"[bold]{name}[/] in the ", end="")
        run.console.print(summary.table(), highlight=False, markup=False)
    return found


def _roll_out(
    run: Run, size: DemoSize, stage: Stage, name: str, folder: Path, journal: Path
) -> Rollout:
    with run.progress.stage(f"canary: {name}", size.max_requests) as step:
        found = roll_out(
            stage,
            name,
            folder,
            size.plan,
            journal=journal,
            max_requests=size.max_requests,
            look_every=size.look_every,
            seed=run.config.seed,
            step=step,
        )
    print_rollout(run.console, found, stage)
    return found


def _streams(run: Run, size: DemoSize) -> list[Rates]:
    found = []
    with run.progress.stage("the plan, many times over", len(SCENARIOS)) as step:
        for scenario in SCENARIOS:
            n = size.n_same if scenario is SAME else size.n_other
            found.append(stream_rates(size.plan, size.traffic, scenario, n, workers=size.workers))
            step(1)
    print_streams(run.console, found, size.plan)
    return found


def _write(
    run: Run,
    size: DemoSize,
    stage: Stage,
    shadows: dict[str, ShadowSummary],
    rollouts: list[Rollout],
    streams: list[Rates],
    folder: Path,
) -> None:
    plan = {
        k: [str(x) for x in v] if isinstance(v, tuple) else v for k, v in vars(size.plan).items()
    }
    results = Results.start(
        system="video_recommendation",
        config={"system": size.system, "world": asdict(size.world), "plan": plan},
        dataset_name="simulated_world",
        dataset_sha256=stage.data_sha256,
        synthetic=True,
        seed=run.config.seed,
        root=SYSTEM_FOLDER,
    )
    record_shadows(results, shadows)
    record_rollouts(results, rollouts, stage)
    record_streams(results, streams)
    results.write(folder / "canary.json")
    path = plot_rollouts(rollouts, folder / "plots" / "canary.png")
    run.console.print(f"wrote {folder / 'canary.json'} and {path}", highlight=False)
