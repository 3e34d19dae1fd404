"""The study at its small size, on generated data: keys, finite values, pictures, and its parts."""

import inspect
import math
from pathlib import Path

import numpy as np
import pytest
from implicit.cpu.als import AlternatingLeastSquares
from implicit.cpu.bpr import BayesianPersonalizedRanking
from scipy import sparse

from ml_algorithms.collaborative_filtering.item_knn import fit_item_knn
from ml_algorithms.collaborative_filtering.rp3beta import fit_rp3beta
from ml_algorithms.matrix_factorization.bench import STUDY
from ml_algorithms.matrix_factorization.bench_config import SMOKE
from ml_algorithms.matrix_factorization.bench_data import Split, split_of
from ml_algorithms.matrix_factorization.bench_fold_in import keep_random_events
from ml_algorithms.matrix_factorization.bench_models import GRIDS, NAMES, SCORERS
from ml_algorithms.matrix_factorization.bench_quality import RATING_NAMES, squared_errors
from ml_algorithms.matrix_factorization.bench_scaling import LINES, zipf_interactions
from ml_algorithms.matrix_factorization.bench_tail import BANDS, TAIL_NAMES, popularity_bands
from ml_algorithms.matrix_factorization.bpr import fit_bpr
from ml_algorithms.matrix_factorization.ease import fit_ease
from ml_algorithms.matrix_factorization.ials import fit_ials
from ml_algorithms.matrix_factorization.svd import fit_pure_svd
from ml_platform.evaluation.results import Results
from ml_platform.evaluation.top_k import tie_order

FITS = {
    "item_knn": fit_item_knn,
    "rp3beta": fit_rp3beta,
    "pure_svd": fit_pure_svd,
    "ials": fit_ials,
    "ials_implicit": AlternatingLeastSquares,
    "bpr": fit_bpr,
    "bpr_implicit": BayesianPersonalizedRanking,
    "ease": fit_ease,
}
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


def by_loops(scores: np.ndarray, split: Split) -> float:
    """Mean nDCG@10 over the users with hidden items, train items left out."""
    values = []
    for user in split.users:
        seen = set(split.train[user].indices.tolist())
        hidden = set(split.test[user].indices.tolist())
        ranked = [int(i) for i in np.argsort(-scores[user], kind="stable") if int(i) not in seen]
        gain = sum(1 / math.log2(r + 2) for r, item in enumerate(ranked[:10]) if item in hidden)
        ideal = sum(1 / math.log2(r + 2) for r in range(min(10, len(hidden))))
        values.append(gain / ideal)
    return float(np.mean(values))


def test_quality_has_every_model_and_a_paired_difference(out: Path) -> None:
    results = read(out, "quality")
    split = split_of(SMOKE.dataset, 1)
    random = by_loops(np.random.default_rng(0).random(split.train.shape), split)
    for model in NAMES:
        assert results[f"quality/{model}/ndcg@10"].value > 3 * random
        assert (f"quality/{model}/ndcg@10_over_ials" in results) == (model != "ials")
    counts = np.asarray(split.train.sum(axis=0)).ravel()
    broken = counts - tie_order(len(counts))[1] / len(counts)  # equal counts in the known order
    everyone = np.tile(broken, (split.train.shape[0], 1))
    popular = by_loops(everyone, split)
    assert results["quality/popularity/ndcg@10"].value == pytest.approx(popular, abs=1e-5)
    mean = split.train_ratings.data.mean()
    constant = np.sqrt(np.mean((split.test.data - mean) ** 2))
    for model in RATING_NAMES:  # ALS on raw stars shrinks towards zero stars and may be behind
        assert results[f"ratings/{model}/rmse"].value < constant * (
            1.1 if model == "als_raw" else 1
        )
    difference = results["quality/ease/ndcg@10"].value - results["quality/ials/ndcg@10"].value
    assert results["quality/ease/ndcg@10_over_ials"].value == pytest.approx(difference, abs=2e-6)


def test_tail_covers_the_catalogue_in_bands(out: Path) -> None:
    results = read(out, "tail")
    items = sum(results[f"tail/band{band + 1}/items"].value for band in range(BANDS))
    assert items == split_of(SMOKE.dataset, 1).train.shape[1]
    for model in TAIL_NAMES:
        # Ten places a user on at most this share of the catalogue: the rest have no exposure, and
        # the Gini index of such a division is at least one less the share.
        share = results[f"tail/{model}/coverage@10"].value
        assert 1 - share - 1e-6 <= results[f"tail/{model}/gini@10"].value < 1
        assert results[f"tail/{model}/recall@50_band1"].value > 0.5  # fifty of 150 items shown
    assert results["tail/popularity/coverage@10"].value < results["tail/ease/coverage@10"].value
    assert results["tail/popularity/gini@10"].value > results["tail/ease/gini@10"].value


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
        # Rows of other users, or items of another model, would share a tenth of the catalogue.
        assert fold_in[f"fold_in/fold_in/overlap@10_at_{n}"].value > 0.5
        assert abs(fold_in[f"fold_in/fold_in/ndcg@10_over_retrained_at_{n}"].value) < 0.1
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
    assert GRIDS["popularity"] == [{}]
    for name, fit in FITS.items():
        assert 8 <= len(GRIDS[name]) <= 27, name  # what the page says
        assert len({tuple(sorted(settings.items())) for settings in GRIDS[name]}) == len(
            GRIDS[name]
        ), name
        knobs = set(inspect.signature(fit).parameters)
        assert all(set(settings) <= knobs for settings in GRIDS[name]), name
    # As many tries for the library as for ours; every searched knob has a middle to win with.
    assert len(GRIDS["ials"]) == len(GRIDS["ials_implicit"])
    for name, settings in GRIDS.items():
        tried = [{one[knob] for one in settings} for knob in settings[0]]
        assert max((len(values) for values in tried), default=3) >= 3, name


def test_newcomers_keep_n_events_and_others_all() -> None:
    matrix = sparse.csr_matrix(np.triu(np.ones((6, 6), dtype=np.float32)))
    cut = keep_random_events(matrix, np.array([0, 5]), 2, seed=0)
    np.testing.assert_array_equal(np.diff(cut.indptr), [2, 5, 4, 3, 2, 1])
    assert not (cut > matrix).nnz
    np.testing.assert_array_equal(
        np.diff(keep_random_events(matrix, np.array([1]), 0, seed=0).indptr), [6, 0, 4, 3, 2, 1]
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
