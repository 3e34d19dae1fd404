"""The study at its small size: all keys, finite values, pictures; its variants pick the same."""

from pathlib import Path

import numpy as np
import pytest

from ml_algorithms.diversity import bench_optimality as optimality
from ml_algorithms.diversity import bench_speed as speed
from ml_algorithms.diversity.bench import STUDY
from ml_algorithms.diversity.bench_config import Config
from ml_algorithms.diversity.bench_trade_off import KNOBS
from ml_algorithms.diversity.dpp import greedy_dpp, trade_off_kernel
from ml_algorithms.diversity.mmr import mmr
from ml_platform.evaluation.results import Results


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    assert STUDY.main(["--config", "smoke", "--out", str(folder)]) == 0
    return folder


def test_optimality_stays_within_its_bounds(out: Path) -> None:
    results = Results.read(out / "optimality.json")
    for name in optimality.METHODS:
        assert 0 <= results[f"optimality/{name}/place_min"].value <= 1
        assert 0 <= results[f"optimality/{name}/exact_share"].value <= 1
    for name in ("dpp_monotone", "calibrated"):
        least = results[f"optimality/{name}/bounded_min"].value
        assert least >= results[f"optimality/{name}/bound"].value
    assert results.run.dataset.synthetic


def test_the_studys_keys_and_pictures(out: Path) -> None:
    results = Results.read(out / "trade_off.json")
    assert results.run.dataset.synthetic  # the small size never poses as a measurement
    for method, knobs in KNOBS.items():
        for knob in knobs:
            for metric in ("ndcg", "ild_genre", "ild_latent", "miscalibration", "coverage"):
                assert np.isfinite(results[f"trade_off/{method}_{knob:g}/{metric}"].value)
    timings = Results.read(out / "speed.json")
    assert all(timings[key].value > 0 for key in timings)
    pictures = {path.name for path in (out / "plots").iterdir()}
    assert pictures == {"optimality_places.png", "speed_times.png", "trade_off_curves.png"}


def test_the_calibrated_list_is_better_calibrated(out: Path) -> None:
    results = Results.read(out / "trade_off.json")
    strong = results["trade_off/calibrated_0.97/miscalibration"].value
    assert strong < results["trade_off/relevance/miscalibration"].value
    assert (
        results["trade_off/mmr_0.2/ild_genre"].value
        > results["trade_off/relevance/ild_genre"].value
    )


def test_the_timed_variants_pick_the_same_items() -> None:
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(40, 30))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    relevance, similarity = rng.random(40), vectors @ vectors.T
    ours = mmr(relevance, similarity, k=8, trade_off=speed.TRADE_OFF).tolist()
    assert speed.naive_mmr(relevance, similarity, 8) == ours
    assert speed.vectorised_mmr(relevance, similarity, 8) == ours
    kernel = trade_off_kernel(relevance, similarity, trade_off=speed.TRADE_OFF)
    assert speed.naive_dpp(kernel, 8) == greedy_dpp(kernel, 8).tolist()
    assert speed.vectorised_dpp(kernel, 8) == greedy_dpp(kernel, 8).tolist()


def test_the_value_of_an_ordered_list_by_hand() -> None:
    relevance = np.array([1.0, 0.5, 0.2])
    similarity = np.array([[1.0, 0.4, 0.0], [0.4, 1.0, 0.6], [0.0, 0.6, 1.0]])
    values = optimality.mmr_values(np.array([[0, 1, 2], [2, 0, 1]]), relevance, similarity)
    # 0.5 (1.7) - 0.5 (0.4 + max(0, 0.6)); the other order: 0.5 (1.7) - 0.5 (0 + max(0.6, 0.4))
    np.testing.assert_allclose(values, [0.35, 0.55])


def test_an_instance_draws_valid_shares() -> None:
    instance = optimality.draw_instance(Config(), seed=3)
    np.testing.assert_allclose(instance.shares.sum(axis=1), 1.0)
    np.testing.assert_allclose(np.linalg.norm(instance.vectors, axis=1), 1.0)
    assert len(instance.relevance) == Config().small_candidates
