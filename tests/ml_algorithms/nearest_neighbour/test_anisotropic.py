"""Score-aware quantisation: the loss from the definition, its optimum, and what it buys."""

import numpy as np
import pytest

from ml_algorithms.nearest_neighbour.anisotropic import (
    anisotropic_loss,
    encode_anisotropic,
    eta_from_threshold,
    train_anisotropic,
    update_codebooks,
)
from ml_algorithms.nearest_neighbour.exact import FlatIndex
from ml_algorithms.nearest_neighbour.index import normalise
from ml_algorithms.nearest_neighbour.product_quantization import ProductQuantizer, adc


def sphere(seed: int, n: int, dimensions: int = 12) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return normalise(rng.normal(size=(n, dimensions)).astype(np.float32))


def naive_loss(points: np.ndarray, decoded: np.ndarray, eta: np.ndarray) -> float:
    total = 0.0
    for x, y, weight in zip(points.astype(float), decoded.astype(float), eta, strict=True):
        residual = x - y
        parallel = (residual @ x) * x / (x @ x)
        perpendicular = residual - parallel
        total += weight * parallel @ parallel + perpendicular @ perpendicular
    return total / len(points)


def test_eta_by_hand() -> None:
    unit = np.zeros((1, 101), dtype=np.float32)
    unit[0, 0] = 1.0
    assert eta_from_threshold(0.2, unit)[0] == pytest.approx(100 * 0.04 / 0.96)  # 4.17
    assert eta_from_threshold(0.2, 2 * unit)[0] == pytest.approx(100 * 0.01 / 0.99)
    assert eta_from_threshold(0.01, unit)[0] == 1.0  # not below plain reconstruction
    with pytest.raises(ValueError, match=r"threshold must lie in \(0, 1\)"):
        eta_from_threshold(1.0, unit)


def test_the_loss_equals_its_definition() -> None:
    rng = np.random.default_rng(0)
    points = rng.normal(size=(20, 6)).astype(np.float32)
    decoded = points + rng.normal(size=(20, 6)).astype(np.float32)
    eta = rng.uniform(1, 9, 20).astype(np.float32)
    assert anisotropic_loss(points, decoded, eta) == pytest.approx(
        naive_loss(points, decoded, eta), rel=1e-5
    )


def test_one_centroid_for_all_is_the_closed_form() -> None:
    """M = 1, K = 2, all vectors in centroid 0: c = (sum A_i)^-1 sum eta_i x_i."""
    rng = np.random.default_rng(1)
    points = rng.normal(size=(50, 4)).astype(np.float32)
    eta = rng.uniform(1, 6, 50).astype(np.float32)
    start = ProductQuantizer(rng.normal(size=(1, 2, 4)).astype(np.float32))
    updated = update_codebooks(start, points, np.zeros((50, 1), dtype=np.uint8), eta)
    unit = points / np.linalg.norm(points, axis=1, keepdims=True)
    system = sum(np.eye(4) + (w - 1) * np.outer(u, u) for u, w in zip(unit, eta, strict=True))
    expected = np.linalg.solve(system, (eta[:, None] * points).sum(axis=0))
    np.testing.assert_allclose(updated.codebooks[0, 0], expected, atol=1e-4)
    np.testing.assert_allclose(updated.codebooks[0, 1], start.codebooks[0, 1], atol=1e-5)  # unused


def test_the_joint_update_is_a_minimum() -> None:
    """No small step in any direction lowers the loss: the gradient is zero."""
    points, rng = sphere(2, 300), np.random.default_rng(2)
    eta = np.full(300, 5.0, dtype=np.float32)
    quantizer = ProductQuantizer.train(points, parts=6, bits=2)
    codes = quantizer.encode(points)
    best = update_codebooks(quantizer, points, codes, eta)
    base = naive_loss(points, best.decode(codes), eta)
    assert base < naive_loss(points, quantizer.decode(codes), eta)
    for _ in range(10):
        step = rng.normal(size=best.codebooks.shape).astype(np.float32) * 0.01
        assert naive_loss(points, ProductQuantizer(best.codebooks + step).decode(codes), eta) > base


def test_assignment_finds_what_no_single_change_improves() -> None:
    points = sphere(3, 40)
    eta = np.full(40, 6.0, dtype=np.float32)
    quantizer = ProductQuantizer.train(points, parts=4, bits=2)
    codes = encode_anisotropic(quantizer, points, eta, sweeps=20)
    for row in range(40):
        own = naive_loss(points[row : row + 1], quantizer.decode(codes[row : row + 1]), eta[:1])
        for part in range(4):
            for code in range(4):
                other = codes[row : row + 1].copy()
                other[0, part] = code
                changed = naive_loss(points[row : row + 1], quantizer.decode(other), eta[:1])
                assert changed >= own - 1e-5


def test_eta_one_is_plain_product_quantisation() -> None:
    points = sphere(4, 500)
    plain = ProductQuantizer.train(points, parts=6, bits=3)
    ones = np.ones(500, dtype=np.float32)
    np.testing.assert_array_equal(encode_anisotropic(plain, points, ones), plain.encode(points))
    updated = update_codebooks(plain, points, plain.encode(points), ones)
    split = points.reshape(500, 6, 2)
    codes = plain.encode(points)
    for part in range(6):
        for code in range(8):
            members = split[codes[:, part] == code, part]
            np.testing.assert_allclose(
                updated.codebooks[part, code], members.mean(axis=0), atol=1e-3
            )


def test_training_lowers_the_loss_and_trades_error_for_direction() -> None:
    points = sphere(5, 1500)
    eta = eta_from_threshold(0.45, points)
    quantizer, losses = train_anisotropic(points, parts=6, bits=3, eta=eta, rounds=6)
    assert all(b <= a + 1e-6 for a, b in zip(losses, losses[1:], strict=False))
    plain = ProductQuantizer.train(points, parts=6, bits=3)
    ones = np.ones(len(points), dtype=np.float32)
    ours = quantizer.decode(encode_anisotropic(quantizer, points, eta))
    theirs = plain.decode(plain.encode(points))
    assert anisotropic_loss(points, ours, eta) < 0.95 * anisotropic_loss(points, theirs, eta)
    assert anisotropic_loss(points, ours, ones) > anisotropic_loss(
        points, theirs, ones
    )  # the price
    parallel = [abs(np.einsum("nd,nd->n", points - one, points)).mean() for one in (ours, theirs)]
    assert parallel[0] < 0.8 * parallel[1]


def test_the_top_scores_are_estimated_better_at_equal_bytes() -> None:
    points, queries = sphere(6, 3000), sphere(7, 100)
    eta = eta_from_threshold(0.45, points)
    aware, _ = train_anisotropic(points, parts=6, bits=3, eta=eta, rounds=6)
    plain, _ = train_anisotropic(points, parts=6, bits=3, eta=1.0, rounds=6)
    truth, ids = FlatIndex(points, "ip").search(queries, 1)
    error = {}
    for name, quantizer, weight in (("aware", aware, eta), ("plain", plain, 1.0)):
        codes = encode_anisotropic(quantizer, points, weight)
        scores = np.stack([adc(quantizer.table(q, "ip"), codes) for q in queries])
        error[name] = np.abs(scores[np.arange(100), ids[:, 0]] - truth[:, 0]).mean()
    assert error["aware"] < 0.9 * error["plain"], error


def test_bad_input_is_named() -> None:
    with pytest.raises(ValueError, match="eta must be at least 1 everywhere"):
        train_anisotropic(sphere(0, 50), parts=6, bits=2, eta=0.5)
    with pytest.raises(ValueError, match=r"2\^8 x 64 unknowns exceed 8192"):
        train_anisotropic(sphere(0, 300, 64), parts=8, bits=8, eta=2.0)
