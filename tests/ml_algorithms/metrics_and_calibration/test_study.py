"""The study at its small size, and what degenerate scorers must get whatever the data."""

from pathlib import Path

import numpy as np
import pytest

from ml_algorithms.metrics_and_calibration.bench import STUDY
from ml_algorithms.metrics_and_calibration.bench_calibration import METHODS, MODELS, fit_model
from ml_algorithms.metrics_and_calibration.bench_config import Config
from ml_algorithms.metrics_and_calibration.like_task import Window
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
    assert averaging["averaging/oracle/untruncated_ndcg@3"].value <= 1.0
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


def test_unknown_models_are_refused() -> None:
    window = Window(np.zeros((2, 1)), np.array([0, 1]), np.zeros(2))
    with pytest.raises(ValueError, match="unknown model"):
        fit_model("oracle", window, Config(), 0)
