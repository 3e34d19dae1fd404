"""The study at its small size, and what degenerate scorers must get whatever the data."""

import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from ml_algorithms.metrics_and_calibration.bench import STUDY
from ml_algorithms.metrics_and_calibration.bench_calibration import (
    METHODS,
    MODELS,
    _ece_by_users,
    fit_model,
)
from ml_algorithms.metrics_and_calibration.bench_config import Config
from ml_algorithms.metrics_and_calibration.bench_ranking import _truncation
from ml_algorithms.metrics_and_calibration.like_task import Window
from ml_platform.evaluation.classification_metrics import expected_calibration_error
from ml_platform.evaluation.intervals import Estimate
from ml_platform.evaluation.results import Results


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    assert STUDY.main(["--config", "smoke", "--out", str(folder)]) == 0
    return folder


def test_degenerate_scorers_get_what_they_must(out: Path) -> None:
    results = Results.read(out / "degenerate.json")
    assert results.run.dataset.synthetic
    assert results["degenerate/oracle/ndcg@10"].value == 1.0
    assert results["degenerate/anti_oracle/ndcg@10"].value == 0.0
    assert results["probabilities/base_rate/auc"].value == 0.5
    assert results["probabilities/oracle/brier"].value == 0.0
    assert results["probabilities/anti_oracle/auc"].value == 0.0
    halved, model = "probabilities/model_halved/auc", "probabilities/model/auc"
    assert results[halved].value == results[model].value
    inverted = results["probabilities/model_inverted/auc"].value
    assert inverted == pytest.approx(1 - results[model].value, abs=1e-4)


def test_parts_have_their_keys_and_pictures(out: Path) -> None:
    sampled = Results.read(out / "sampled.json")
    for model in ("popularity", "ease", "item_knn", "last_film"):
        # The fewer negatives, the higher the number that calls itself NDCG@10.
        few, many = (sampled[f"sampled_{m}/{model}/ndcg@10"].value for m in ("10", "all"))
        assert few > many
    averaging = Results.read(out / "averaging.json")
    assert averaging["users/user_only/gauc"].value == 0.5
    calibration = Results.read(out / "calibration.json")
    for model in MODELS:
        for method in ("raw", *METHODS):
            assert np.isfinite(calibration[f"{model}/{method}/log_loss"].value)
            assert calibration[f"{model}/{method}/ece"].low is not None
    raw, closed = (calibration[f"down_sampled/{n}/ece"].value for n in ("raw", "closed_form"))
    assert closed < raw
    assert Results.read(out / "worked.json")["worked/rows/ece"].value == pytest.approx(0.15)
    pictures = {path.name for path in (out / "plots").iterdir()}
    assert pictures == {
        "degenerate_ndcg.png",
        "sampled_curves.png",
        "averaging_intervals.png",
        "calibration_methods.png",
        "calibration_null.png",
    }


def test_an_ideal_past_the_cut_off_by_hand() -> None:
    found: dict[str, float] = {}

    def add(key: str, value: float, *, protocol: str) -> None:
        found[key] = value

    run, ranking = SimpleNamespace(written=SimpleNamespace(add=add)), SimpleNamespace(protocol="")
    _truncation(run, ranking, np.array([1, 3, 5]))  # type: ignore[arg-type]
    # Places 4 and 5 are in the ideal of the third query and out of reach of a list of three.
    three = 1 + 1 / math.log2(3) + 1 / 2
    third = three / (three + 1 / math.log2(5) + 1 / math.log2(6))
    assert found["averaging/oracle/untruncated_ndcg@3"] == pytest.approx((1 + 1 + third) / 3)
    assert found["averaging/oracle/queries_beyond_3"] == pytest.approx(1 / 3)


def test_ece_by_users_draws_whole_users_and_is_centred_on_the_estimate() -> None:
    rng = np.random.default_rng(0)
    users = np.repeat(np.arange(60), 10)
    p = rng.uniform(0.2, 0.8, 600)
    labels = (rng.random(600) < p).astype(int)
    config = Config(bins=5)
    found = _ece_by_users(labels, p, users, config)
    assert found.value == expected_calibration_error(labels, p, bins=5)
    assert found.n == 600
    assert found.low is not None
    assert found.high is not None
    assert found.low <= found.value <= found.high
    # The same rows in another order are the same users.
    mixed = rng.permutation(600)
    again = _ece_by_users(labels[mixed], p[mixed], users[mixed], config)
    assert again.high == pytest.approx(found.high, abs=0.01)
    # All of a user's rows alike: ten times as many rows, no more knowledge. The interval of rows
    # drawn singly would be narrower by about the root of ten.
    labels, p = np.repeat(labels[:60], 10), np.repeat(p[:60], 10)
    whole = _ece_by_users(labels, p, users, config)
    single = _ece_by_users(labels, p, np.arange(600), config)
    assert _width(whole) > 1.8 * _width(single)


def _width(estimate: Estimate) -> float:
    assert estimate.low is not None
    assert estimate.high is not None
    return estimate.high - estimate.low


def test_unknown_models_are_refused() -> None:
    window = Window(np.zeros((2, 1)), np.array([0, 1]), np.zeros(2))
    with pytest.raises(ValueError, match="unknown model"):
        fit_model("oracle", window, Config(), 0)
