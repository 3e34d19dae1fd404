"""The study at its small size: all keys, finite values, pictures; its variants pick the same."""

from pathlib import Path

import numpy as np
import pytest

from ml_algorithms.diversity import bench_optimality as optimality
from ml_algorithms.diversity import bench_speed as speed
from ml_algorithms.diversity.bench import STUDY
from ml_algorithms.diversity.bench_config import Config
from ml_algorithms.diversity.bench_trade_off import KNOBS, at_kept_relevance
from ml_algorithms.diversity.dpp import greedy_dpp, trade_off_kernel
from ml_algorithms.diversity.mmr import mmr
from ml_platform.evaluation.results import Results


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    assert STUDY.main(["--config", "smoke", "--out", str(folder)]) == 0
    return folder


def test_greedy_lists_are_near_the_best_and_keep_their_bounds(out: Path) -> None:
    results = Results.read(out / "optimality.json")
    for name in optimality.METHODS:
        # A list drawn at random is at about 0.5, one with a wrong sign near 0.
        assert results[f"optimality/{name}/place_min"].value > 0.8
        assert results[f"optimality/{name}/exact_share"].value > 0
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


@pytest.mark.parametrize("name", list(optimality.METHODS))
def test_a_list_is_called_exact_where_no_list_is_better_and_only_there(name: str) -> None:
    comparisons = [
        optimality.METHODS[name](optimality.draw_instance(Config(), seed), 3) for seed in range(8)
    ]
    for one in comparisons:
        assert one.exact == (one.place == pytest.approx(1.0, abs=1e-9))
    if name in ("mmr", "dpp"):  # greedy without a promise misses some of eight
        assert not all(one.exact for one in comparisons)


def test_kept_relevance_by_hand() -> None:
    # NDCG falls 1.0, 0.98, 0.90: 0.95 is crossed 3/8 of the way along the second leg,
    # where the metric is 2 + 3/8 (6 - 2). Beyond, the curve stays below the floor.
    ndcg, metric = [1.0, 0.98, 0.90, 0.5, 0.5], [1.0, 2.0, 6.0, 9.0, 9.0]
    method = "shuffle"
    names = ["relevance", *(f"{method}_{knob:g}" for knob in KNOBS[method])]
    measured = {
        name: {"ndcg": np.array([n - 0.1, n + 0.1]), "ild_genre": np.array([m, m])}
        for name, n, m in zip(names, ndcg, metric, strict=True)
    }
    kept = at_kept_relevance(measured, method, "ild_genre")
    assert kept[0] == 1.0  # the list by relevance alone is always kept
    # Fifty steps a leg: the last kept point lies at most one step of 4/50 before the crossing.
    assert 3.5 - 4 / 50 <= max(kept) <= 3.5
    again = measured | {names[4]: {"ndcg": np.array([0.99]), "ild_genre": np.array([20.0])}}
    assert max(at_kept_relevance(again, method, "ild_genre")) == 20.0  # above the floor once more


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
