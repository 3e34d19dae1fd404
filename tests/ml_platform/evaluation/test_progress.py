"""The seconds of stages, which the results quote."""

from __future__ import annotations

import io
import time

import pytest
from rich.console import Console as RichConsole

from ml_platform.evaluation.progress import Console, Silent


@pytest.mark.parametrize("progress", [Silent(), Console(RichConsole(file=io.StringIO()))])
def test_a_stage_that_runs_again_costs_both_times(progress):
    for name in ("train", "search", "train"):
        with progress.stage(name, 3) as advance:
            advance(3)
            time.sleep(0.02 if name == "train" else 0)
    assert progress.seconds["train"] >= 0.04
    assert progress.seconds["search"] < progress.seconds["train"]


def test_the_bars_say_what_runs_and_end_full():
    printed = io.StringIO()
    progress = Console(RichConsole(file=printed, width=120))
    with progress.stage("fits nothing", 0):
        pass
    with progress.stage("reads", 7) as advance:
        advance(3)
    assert "fits nothing" in printed.getvalue()
    assert "7/7" in printed.getvalue()
