"""Gradients: finite differences, numbers by hand, naive pair loops for LambdaMART."""

import numpy as np
import pytest

from ml_algorithms.gradient_boosted_trees.losses import (
    LambdaMART,
    LogisticLoss,
    SquaredLoss,
    sigmoid,
)


@pytest.mark.parametrize(
    ("loss", "value"),
    [
        (SquaredLoss, lambda s, y: (s - y) ** 2 / 2),
        (LogisticLoss, lambda s, y: np.log1p(np.exp(s)) - y * s),
    ],
)
def test_gradient_and_hessian_are_the_derivatives(loss, value):
    y, s, e = np.array([0.0, 1.0, 1.0]), np.array([0.3, -1.2, 2.0]), 1e-4
    gradient, hessian = loss(y).gradients(s)
    up, down, here = value(s + e, y), value(s - e, y), value(s, y)
    np.testing.assert_allclose(gradient, (up - down) / (2 * e), rtol=1e-5)
    np.testing.assert_allclose(hessian, (up - 2 * here + down) / e**2, rtol=1e-4)


def test_the_first_score_is_the_best_constant():
    y = np.array([0.0, 0.0, 0.0, 1.0])
    assert SquaredLoss(y).initial_score() == 0.25
    assert sigmoid(np.array(LogisticLoss(y).initial_score())) == pytest.approx(0.25)


def test_sigmoid_does_not_overflow():
    assert sigmoid(np.array([-1e4, 0.0, 1e4])).tolist() == [0.0, 0.5, 1.0]


def test_lambdas_of_one_pair_by_hand():
    # Grades 1 and 0 with equal scores, the better one listed first. Swapping them loses
    # 1 - 1 / log2(3) of the ideal DCG 1; the pair is undecided, so its probability is 1/2.
    loss = LambdaMART(np.array([1.0, 0.0]), np.array([2]), normalise=False)
    lambdas, hessian = loss.gradients(np.zeros(2))
    weight = 1.0 - 1.0 / np.log2(3.0)
    np.testing.assert_allclose(lambdas, [-weight / 2, weight / 2])
    np.testing.assert_allclose(hessian, [weight / 4, weight / 4])


def naive_lambdas(scores, grade, truncation, normalise):
    """All pairs, from the definitions: the change of NDCG by actually swapping two rows."""
    gain = 2.0**grade - 1
    n = len(scores)
    order = list(np.argsort(-scores, kind="stable"))
    rank = np.empty(n, dtype=int)
    rank[order] = np.arange(n)
    ideal = sum(g / np.log2(i + 2) for i, g in enumerate(sorted(gain)[::-1][:truncation]))

    def dcg(rank):
        return sum(gain[i] / np.log2(rank[i] + 2) for i in range(n))

    lambdas, hessian, total = np.zeros(n), np.zeros(n), 0.0
    for a in range(n):
        for b in range(n):
            if gain[a] <= gain[b] or min(rank[a], rank[b]) >= truncation:
                continue
            swapped = rank.copy()
            swapped[[a, b]] = rank[[b, a]]
            delta = abs(dcg(rank) - dcg(swapped)) / ideal
            if normalise and scores.max() != scores.min():
                delta /= 0.01 + abs(scores[a] - scores[b])
            p = 1 / (1 + np.exp(scores[a] - scores[b]))
            lambdas[a] -= delta * p
            lambdas[b] += delta * p
            hessian[[a, b]] += delta * p * (1 - p)
            total += 2 * delta * p
    if normalise and total > 0:
        factor = np.log2(1 + total) / total
        return lambdas * factor, hessian * factor
    return lambdas, hessian


@pytest.mark.parametrize("normalise", [False, True])
@pytest.mark.parametrize("truncation", [2, 30])
def test_lambdas_equal_a_naive_loop_over_swaps(normalise, truncation):
    rng = np.random.default_rng(5)
    group = np.array([6, 1, 9])
    grade = rng.integers(0, 4, 16).astype(float)
    scores = rng.normal(size=16)
    scores[3] = scores[4]
    lambdas, hessian = LambdaMART(
        grade, group, truncation=truncation, normalise=normalise
    ).gradients(scores)
    for begin, end in ((0, 6), (6, 7), (7, 16)):
        expected = naive_lambdas(scores[begin:end], grade[begin:end], truncation, normalise)
        np.testing.assert_allclose(lambdas[begin:end], expected[0], atol=1e-12)
        np.testing.assert_allclose(hessian[begin:end], expected[1], atol=1e-12)


def test_lambdas_of_a_query_sum_to_zero_and_one_grade_has_none():
    rng = np.random.default_rng(0)
    loss = LambdaMART(np.array([2.0, 0.0, 1.0, 1.0, 1.0]), np.array([3, 2]))
    lambdas, hessian = loss.gradients(rng.normal(size=5))
    assert lambdas[:3].sum() == pytest.approx(0.0)
    assert lambdas[0] < 0  # the best row is pushed up: the gradient is negative
    assert lambdas[3:].tolist() == [0.0, 0.0]
    assert hessian[3:].tolist() == [0.0, 0.0]


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: LogisticLoss(np.array([0.0, 2.0])), "0 and 1"),
        (lambda: LogisticLoss(np.ones(3)), "both"),
        (lambda: LambdaMART(np.zeros(3), np.array([2])), "sum to 3"),
        (lambda: LambdaMART(np.array([0.5]), np.array([1])), "grades"),
        (lambda: LambdaMART(np.array([31.0]), np.array([1])), r"31\.0"),
    ],
)
def test_bad_targets_are_refused(make, match):
    with pytest.raises(ValueError, match=match):
        make()
