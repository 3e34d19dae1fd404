"""The study at its small size, on generated data: keys, finite values, pictures, and its parts."""

from pathlib import Path

import numpy as np
import pytest
from scipy import sparse

from ml_algorithms.matrix_factorization.bench import STUDY
from ml_algorithms.matrix_factorization.bench_config import SMOKE
from ml_algorithms.matrix_factorization.bench_data import split_of
from ml_algorithms.matrix_factorization.bench_fold_in import first_events
from ml_algorithms.matrix_factorization.bench_models import GRIDS, NAMES, SCORERS
from ml_algorithms.matrix_factorization.bench_quality import RATING_NAMES, squared_errors
from ml_algorithms.matrix_factorization.bench_scaling import LINES, zipf_interactions
from ml_algorithms.matrix_factorization.bench_tail import BANDS, TAIL_NAMES, popularity_bands
from ml_platform.evaluation.results import Results

PARTS = ("quality", "tail", "knobs", "fold_in", "scaling")  # spark: test_spark.py


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    chosen = [argument for part in PARTS for argument in ("--only", part)]
    assert STUDY.main(["--config", "smoke", "--out", str(folder), *chosen]) == 0
    return folder


def read(out: Path, part: str) -> Results:
    results = Results.read(out / f"{part}.json")
    assert results.run.dataset.synthetic  # the small size never poses as a measurement
    assert all(np.isfinite(results[key].value) for key in results)
    return results


def test_quality_has_every_model_and_a_paired_difference(out: Path) -> None:
    results = read(out, "quality")
    for model in NAMES:
        assert 0 <= results[f"quality/{model}/ndcg@10"].value <= 1
        assert (f"quality/{model}/ndcg@10_over_ials" in results) == (model != "ials")
    for model in RATING_NAMES:
        assert 0 < results[f"ratings/{model}/rmse"].value < 3
    difference = results["quality/ease/ndcg@10"].value - results["quality/ials/ndcg@10"].value
    assert results["quality/ease/ndcg@10_over_ials"].value == pytest.approx(difference, abs=2e-6)


def test_tail_covers_the_catalogue_in_bands(out: Path) -> None:
    results = read(out, "tail")
    items = sum(results[f"tail/band{band + 1}/items"].value for band in range(BANDS))
    assert items == split_of(SMOKE.dataset, 1).train.shape[1]
    for model in TAIL_NAMES:
        assert 0 < results[f"tail/{model}/coverage@10"].value <= 1
        assert 0 <= results[f"tail/{model}/gini@10"].value < 1
    assert results["tail/popularity/coverage@10"].value < results["tail/ease/coverage@10"].value


def test_bands_hold_like_numbers_of_hidden_ratings() -> None:
    split = split_of(SMOKE.dataset, 1)
    bands = popularity_bands(split)
    held = np.bincount(bands[split.test.indices], minlength=BANDS)
    assert held.min() > 0.5 * held.mean()
    popularity = np.bincount(split.train.indices, minlength=len(bands))
    assert popularity[bands == 0].min() >= popularity[bands == BANDS - 1].max()


def test_knobs_fold_in_and_scaling_measure_every_point(out: Path) -> None:
    knobs, fold_in, scaling = (read(out, part) for part in ("knobs", "fold_in", "scaling"))
    for factors in SMOKE.factors:
        assert f"factors/ials_tuned_reg/ndcg@10_at_{factors}" in knobs
    for n in SMOKE.events:
        assert 0 <= fold_in[f"fold_in/fold_in/overlap@10_at_{n}"].value <= 1
    for line in LINES:
        for nnz in SMOKE.scaling_nnz:
            assert scaling[f"by_nnz/{line}/seconds_at_{nnz}"].value > 0


def test_pictures(out: Path) -> None:
    assert {path.name for path in (out / "plots").iterdir()} == {
        "quality_rank.png", "tail_bands.png", "tail_exposure.png", "knobs_curves.png",
        "fold_in_quality.png", "scaling_seconds.png",
    }  # fmt: skip


def test_grids_are_of_like_size_and_fit_their_models() -> None:
    assert set(GRIDS) == set(NAMES) == set(SCORERS)
    assert all(len(settings) <= 18 for settings in GRIDS.values())


def test_newcomers_keep_n_events_and_others_all() -> None:
    matrix = sparse.csr_matrix(np.triu(np.ones((6, 6), dtype=np.float32)))
    cut = first_events(matrix, np.array([0, 5]), 2, seed=0)
    np.testing.assert_array_equal(np.diff(cut.indptr), [2, 5, 4, 3, 2, 1])
    assert not (cut > matrix).nnz
    np.testing.assert_array_equal(
        np.diff(first_events(matrix, np.array([1]), 0, seed=0).indptr), [6, 0, 4, 3, 2, 1]
    )


def test_generated_interactions_are_as_many_as_asked_and_distinct() -> None:
    matrix = zipf_interactions(50, 40, 700, seed=0)
    assert matrix.nnz == 700
    assert matrix.data.max() == 1.0
    counts = np.bincount(matrix.indices, minlength=40)
    assert counts[:10].sum() > 1.3 * counts[30:].sum()


def test_squared_errors_are_of_clipped_predictions() -> None:
    split = split_of(SMOKE.dataset, 1)
    far = squared_errors(np.full(split.test.shape, 99.0), split)
    np.testing.assert_allclose(far, (5.0 - split.test.data) ** 2)
