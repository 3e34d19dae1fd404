"""The study at its small size: keys, finite values, pictures, and what must hold at any size."""

from pathlib import Path

import numpy as np
import pytest

from ml_algorithms.bandits import bench_arms, bench_contextual
from ml_algorithms.bandits.bench import SMOKE, STUDY
from ml_algorithms.bandits.bench_config import CLICK_RATES, log_steps
from ml_platform.evaluation.results import Results


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    assert STUDY.main(["--config", "smoke", "--out", str(folder)]) == 0
    return folder


def test_regret_lies_between_nothing_and_chance(out: Path) -> None:
    results = Results.read(out / "regret.json")
    at = SMOKE.horizon
    chance = results[f"regret/theory/random@{at}"].value
    assert chance == pytest.approx((0.1 - np.mean(CLICK_RATES)) * at)
    for name in bench_arms.PLAIN:
        metric = results[f"regret/{name}/regret@{at}"]
        assert 0 < metric.value < 1.1 * chance
        assert metric.low is not None


def test_every_part_has_its_keys_and_pictures(out: Path) -> None:
    late = Results.read(out / "delay_and_batch.json")
    for name in bench_arms.DELAYED:
        assert late[f"delay_50/{name}/regret@200"].value > 0
        assert late[f"batch_50/{name}/regret@200"].value > 0
    changing = Results.read(out / "nonstationary.json")
    assert {key.split("/")[1] for key in changing} == set(bench_arms.CHANGING)
    contextual = Results.read(out / "contextual.json")
    for world in ("linear_world", "bent_world"):
        for family in bench_contextual.FAMILIES:
            assert np.isfinite(contextual[f"{world}/{family}/regret@250"].value)
    linear = contextual["linear_world/linucb/regret@250"].value
    assert linear < contextual["linear_world/random/regret@250"].value / 2
    real = Results.read(out / "real.json")
    assert real.run.dataset.synthetic
    for name in bench_contextual.FILM_POLICIES:
        assert 0 <= real[f"real/{name}/like_rate"].value <= 1
    pictures = {path.name for path in (out / "plots").iterdir()}
    assert pictures == {
        "regret_curves.png",
        "contextual_curves.png",
        "delay_and_batch_curves.png",
        "nonstationary_curves.png",
        "real_likes.png",
    }


def test_changing_means_move_the_best_arm() -> None:
    means = bench_arms.changing_means(400, 4)
    best = means.argmax(axis=1)
    assert [int(best[at]) for at in (0, 100, 200, 300)] == [0, 2, 4, 1]
    assert (np.sort(means, axis=1) == np.sort(means[0])).all()


def test_the_knob_with_the_least_regret_is_taken() -> None:
    make, _ = bench_contextual.FAMILIES["epsilon_linear"]
    assert bench_contextual.tuned(make, (0.05, 1.0), SMOKE, 0.0, 1) == 0.05
    assert bench_contextual.tuned(make, (0.3,), SMOKE, 0.0, 1) == 0.3


def test_log_steps_reach_the_end() -> None:
    steps = log_steps(1000)
    assert steps[0] == 10
    assert steps[-1] == 1000
    assert (np.diff(steps) > 0).all()
