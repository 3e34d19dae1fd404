"""The streaming estimate on streams whose frequencies are known."""

import numpy as np
import pytest

from ml_algorithms.two_tower_and_contrastive.frequency import StreamingFrequencyEstimator


def zipf(n_items: int) -> np.ndarray:
    weight = 1.0 / np.arange(1, n_items + 1)
    return weight / weight.sum()


def feed(estimator: StreamingFrequencyEstimator, draws: np.ndarray, batch: int) -> None:
    for begin in range(0, draws.size, batch):
        estimator.update(draws[begin : begin + batch])


def test_one_bucket_follows_the_papers_recursion() -> None:
    estimator = StreamingFrequencyEstimator(
        4, learning_rate=0.5, initial_gap=8.0, per_example=False, warm_up=False, hashed=False
    )
    for batch in ([1], [2], [2], [1, 1], [3]):  # item 1 in batches 1 and 4
        estimator.update(np.array(batch))
    # B: 8 -> .5 * 8 + .5 * (1 - 0) = 4.5 -> .5 * 4.5 + .5 * (4 - 1) = 3.75
    assert estimator.probability(np.array([1]))[0] == pytest.approx(1 / 3.75)
    assert estimator.probability(np.array([0]))[0] == pytest.approx(1 / 8.0)


def test_repeats_within_a_batch_are_gaps_like_any_other() -> None:
    draws = np.random.default_rng(0).integers(0, 5, size=600)
    one_by_one = StreamingFrequencyEstimator(5, hashed=False)
    in_batches = StreamingFrequencyEstimator(5, hashed=False)
    feed(one_by_one, draws, 1)
    feed(in_batches, draws, 100)
    np.testing.assert_allclose(in_batches.mean_gap, one_by_one.mean_gap)
    assert in_batches.step == one_by_one.step == 600


def test_known_frequencies_are_found_and_sum_to_about_one() -> None:
    truth, rng = zipf(200), np.random.default_rng(1)
    estimator = StreamingFrequencyEstimator(200, learning_rate=0.01, hashed=False)
    feed(estimator, rng.choice(200, size=200_000, p=truth), 512)
    estimate = estimator.probability(np.arange(200))
    relative = np.abs(estimate / truth - 1)
    assert np.median(relative) < 0.08  # sqrt(rate / 2) = 0.07 is one standard deviation
    assert relative.max() < 0.35
    assert estimate.sum() == pytest.approx(1.0, abs=0.05)
    np.testing.assert_allclose(
        estimator.log_probability(np.arange(200)), np.log(estimate), rtol=1e-6
    )


def test_per_batch_probability_saturates_where_per_example_does_not() -> None:
    draws = np.random.default_rng(2).choice(50, size=50_000, p=zipf(50))
    per_example = StreamingFrequencyEstimator(50, hashed=False)
    per_batch = StreamingFrequencyEstimator(50, hashed=False, per_example=False)
    feed(per_example, draws, 100)
    feed(per_batch, draws, 100)
    # The first item fills 22 % of the draws: in every batch of 100, hence probability 1 in the
    # paper's terms.
    assert per_batch.probability(np.array([0]))[0] == pytest.approx(1.0, abs=0.01)
    assert per_example.probability(np.array([0]))[0] == pytest.approx(zipf(50)[0], rel=0.25)
    # A rare item: P(in batch) = 1 - (1 - q)^100.
    rare = per_batch.probability(np.array([49]))[0]
    assert rare == pytest.approx(1 - (1 - zipf(50)[49]) ** 100, rel=0.3)


def test_drift_is_followed_and_a_lower_rate_follows_later() -> None:
    before, after, rng = zipf(20), zipf(20)[::-1], np.random.default_rng(3)
    first = rng.choice(20, size=20_000, p=before)
    second = rng.choice(20, size=4_000, p=after)
    errors = {}
    for rate in (0.002, 0.05):
        estimator = StreamingFrequencyEstimator(20, learning_rate=rate, hashed=False)
        feed(estimator, first, 100)
        assert estimator.probability(np.array([0]))[0] == pytest.approx(before[0], rel=0.5)
        feed(estimator, second, 100)
        estimate = estimator.probability(np.arange(20))
        errors[rate] = np.abs(np.log(estimate / after)).mean()
    assert errors[0.05] < 0.25
    assert errors[0.05] < 0.5 * errors[0.002], errors


def test_several_hashes_repair_most_collisions() -> None:
    n_items, truth, rng = 400, zipf(400), np.random.default_rng(4)
    draws = rng.choice(n_items, size=60_000, p=truth)
    overestimate = {}
    for n_hashes in (1, 4):
        estimator = StreamingFrequencyEstimator(800, n_hashes=n_hashes, learning_rate=0.02, seed=5)
        feed(estimator, draws, 500)
        ratio = estimator.probability(np.arange(n_items)) / truth
        overestimate[n_hashes] = float((ratio > 2.0).mean())
    assert overestimate[1] > 0.1  # at load one half, a third of the items share a bucket
    assert overestimate[4] < 0.2 * overestimate[1], overestimate


def test_warm_up_forgets_a_wrong_prior_sooner() -> None:
    draws = np.random.default_rng(6).integers(0, 10, size=300)
    error = {}
    for warm_up in (True, False):
        estimator = StreamingFrequencyEstimator(
            10, learning_rate=0.01, initial_gap=1000.0, warm_up=warm_up, hashed=False
        )
        feed(estimator, draws, 50)
        error[warm_up] = np.abs(np.log(estimator.probability(np.arange(10)) / 0.1)).mean()
    assert error[True] < 0.5 * error[False], error


def test_hashing_spreads_consecutive_ids_evenly() -> None:
    estimator = StreamingFrequencyEstimator(1000, n_hashes=3, seed=7)
    buckets = estimator._buckets(np.arange(100_000))
    for table in buckets:
        load = np.bincount(table, minlength=1000)
        assert load.min() > 50
        assert load.max() < 200


def test_an_empty_batch_changes_nothing() -> None:
    estimator = StreamingFrequencyEstimator(5, hashed=False)
    estimator.update(np.zeros(0, dtype=np.int64))
    assert estimator.step == 0


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"n_buckets": 0}, "at least 1"),
        ({"n_buckets": 5, "learning_rate": 1.0}, "learning_rate"),
        ({"n_buckets": 5, "initial_gap": 0.5}, "initial_gap"),
        ({"n_buckets": 5, "hashed": False, "n_hashes": 2}, "one table"),
    ],
)
def test_knobs_out_of_range_are_refused(knobs: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        StreamingFrequencyEstimator(**knobs)  # type: ignore[arg-type]


def test_ids_outside_an_unhashed_table_are_named() -> None:
    estimator = StreamingFrequencyEstimator(5, hashed=False)
    with pytest.raises(ValueError, match=r"item ids 2\.\.5 outside 0\.\.4"):
        estimator.update(np.array([2, 5]))
