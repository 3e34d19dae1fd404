"""The whole study at its smallest size, and the notebook."""

import math
from pathlib import Path

import pytest

from ml_algorithms.gradient_boosted_trees import bench_tasks
from ml_algorithms.gradient_boosted_trees.bench import STUDY
from ml_platform.data.datasets import DatasetUnavailableError
from ml_platform.docs.notebooks import run_all
from ml_platform.evaluation.progress import Silent
from ml_platform.evaluation.results import Results
from ml_platform.evaluation.study import MissingInputError

EXPECTED = {
    "parity": (
        {
            "adult/ours/auc",
            "adult/xgboost/log_loss",
            "california/ours_vs_lightgbm/rmse_percent",
            "ranking/ours_vs_lightgbm/ndcg@10_difference",
        },
        {"difference"},
    ),
    "speed": (
        {
            "fit/ours/seconds_600",
            "inference/onnxruntime/p50_us_1",
            "node/histogram_numba/ms",
            "node/exact/ms",
        },
        {"time"},
    ),
    "ablations": (
        {
            "growth/leaf_wise_7/rmse",
            "bins/bins_13/rmse",
            "rate/rate_0.5/best_trees",
            "regularisation/l2=10/few_rows_rmse",
            "missing/native/the_largest_rmse",
            "categorical/one_hot_3/log_loss",
            "monotone/free/violated_rows",
        },
        {"shape", "learning_rate", "monotone"},
    ),
    "deep": (
        {"adult/mlp_all/log_loss", "california/linear_all/rmse", "ranking/lambdamart_all/ndcg@10"},
        {"by_rows"},
    ),
    "explanations": (
        {
            "share/gain/noise_number",
            "rank/shap/category",
            "agreement/gain_shap/spearman",
            "retrain/without_noise_number/log_loss_rise",
            "cost/tree_shap_ours/us_per_row",
        },
        {"importances"},
    ),
}


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    assert STUDY.main(["--config", "smoke", "--out", str(folder)]) == 0
    return folder


@pytest.mark.parametrize("part", EXPECTED)
def test_each_part_writes_finite_numbers_and_pictures(out, part):
    results = Results.read(out / f"{part}.json")
    keys, pictures = EXPECTED[part]
    found = {key: results[key].value for key in results}
    assert keys <= found.keys()
    assert all(math.isfinite(value) for value in found.values())
    assert results.run.dataset.synthetic
    for picture in pictures:
        content = (out / "plots" / f"{part}_{picture}.png").read_bytes()
        assert content.startswith(b"\x89PNG")
        assert len(content) > 5_000


def test_the_constraint_holds_and_the_converted_model_is_the_model(out):
    ablations, speed = Results.read(out / "ablations.json"), Results.read(out / "speed.json")
    assert ablations["monotone/constrained/violated_rows"].value == 0.0
    assert speed["inference/onnxruntime/largest_difference"].value < 1e-4


def test_a_table_that_cannot_be_had_fails_by_name(monkeypatch):
    def refuse(name):
        raise DatasetUnavailableError(f"{name} is not available here")

    monkeypatch.setattr(bench_tasks, "load_table", refuse)
    bench_tasks._real_table.cache_clear()
    with pytest.raises(MissingInputError, match="adult is not available"):
        bench_tasks.table_task("adult", 0, synthetic=False)


def test_the_notebook_runs(tmp_path):
    notebook = Path(bench_tasks.__file__).parent / "notebook.ipynb"
    (executed,) = run_all([notebook], tmp_path, Silent().stage)
    assert executed.read_text(encoding="utf-8").count('"image/png"') == 5
