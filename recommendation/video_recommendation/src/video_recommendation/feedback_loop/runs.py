"""All arms of all seeds, two processes at a time; Ctrl-C ends after the day that is running.

In: settings and an empty folder. Out: an ``Experiment``. One task is one seed: its world and its
first version are made once, then its arms run one after the other. The parent learns of a day from
its file, which appears when the day is complete.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor, wait
from multiprocessing import get_context
from multiprocessing.synchronize import Event
from pathlib import Path

import torch

from video_recommendation.feedback_loop.analysis import Experiment
from video_recommendation.feedback_loop.loop import DayRecord, run_arm
from video_recommendation.feedback_loop.settings import GREEDY, LoopSettings
from video_recommendation.feedback_loop.training import first_version

POLL_S = 0.25
OnDay = Callable[[str, int, DayRecord], None]
"""Told of every finished day: the arm's name, the seed, the day."""

_stop: Event | None = None


def run_experiment(settings: LoopSettings, folder: Path, on_day: OnDay) -> Experiment:
    """Runs everything.

    Raises:
        KeyboardInterrupt: on Ctrl-C, after the days that were running are complete.
    """
    told: set[Path] = set()

    def tell() -> None:
        for path in sorted(set(folder.glob("*/*/days/*.json")) - told):
            told.add(path)
            arm, seed = path.parts[-3], int(path.parts[-4].removeprefix("seed_"))
            on_day(arm, seed, DayRecord(**json.loads(path.read_text())))

    if len(settings.seeds) == 1:
        found = {settings.seeds[0]: run_seed(settings, settings.seeds[0], folder, tell)}
    else:
        found = _in_processes(settings, folder, tell)
    return Experiment(
        settings,
        {(arm, seed): days for seed, arms in found.items() for arm, days in arms.items()},
    )


def run_seed(
    settings: LoopSettings, seed: int, folder: Path, after_day: Callable[[], None] = lambda: None
) -> dict[str, list[DayRecord]]:
    """All arms of one seed, by name."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # two processes share the machine, and one thread is reproducible
    try:
        world = settings.world_of(seed)
        first = first_version(world, settings.config_of(GREEDY, seed))
        days = {}
        for arm in settings.arms:
            place = folder / f"seed_{seed}" / arm.name
            days[arm.name] = run_arm(
                world, settings, arm, first, place, stop=_stopped, after_day=after_day
            )
        return days
    finally:
        torch.set_num_threads(threads)


def _in_processes(
    settings: LoopSettings, folder: Path, tell: Callable[[], None]
) -> dict[int, dict[str, list[DayRecord]]]:
    context = get_context("spawn")
    stop = context.Event()
    workers = min(2, os.cpu_count() or 1)
    with ProcessPoolExecutor(
        workers, mp_context=context, initializer=_prepare, initargs=(stop,)
    ) as pool:
        tasks: dict[int, Future[dict[str, list[DayRecord]]]] = {
            seed: pool.submit(run_seed, settings, seed, folder) for seed in settings.seeds
        }
        try:
            while wait(tasks.values(), timeout=POLL_S).not_done:
                tell()
        except KeyboardInterrupt:
            stop.set()
            pool.shutdown(cancel_futures=True)  # waits for the days that are running
            raise
    tell()
    return {seed: task.result() for seed, task in tasks.items()}


def _prepare(stop: Event) -> None:
    """In a worker: Ctrl-C reaches the whole group, but only the parent decides what it means."""
    global _stop
    _stop = stop
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _stopped() -> bool:
    return _stop is not None and _stop.is_set()
