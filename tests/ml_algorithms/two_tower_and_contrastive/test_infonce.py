"""InfoNCE by hand, against cross-entropy over a batch, and its optimum against the closed form."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from ml_algorithms.two_tower_and_contrastive.infonce import (
    LearnedTemperature,
    info_nce_loss,
    mutual_information_bound,
    negative_weights,
    optimal_scores,
    symmetric_info_nce_loss,
)
from ml_algorithms.two_tower_and_contrastive.loss import sampled_softmax_loss


@pytest.fixture
def pairs() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(6, 4, generator=generator), torch.randn(6, 4, generator=generator)


def test_two_pairs_by_hand() -> None:
    query, key = torch.tensor([[1.0], [2.0]]), torch.tensor([[1.0], [3.0]])
    # Logits [[1, 3], [2, 6]]: row losses log(1 + e^2) and log(1 + e^-4).
    rows = (math.log1p(math.exp(2)) + math.log1p(math.exp(-4))) / 2
    columns = (math.log1p(math.exp(1)) + math.log1p(math.exp(-3))) / 2
    assert info_nce_loss(query, key).item() == pytest.approx(rows)
    assert symmetric_info_nce_loss(query, key).item() == pytest.approx((rows + columns) / 2)


def test_it_is_the_sampled_softmax_without_log_q(pairs: tuple[Tensor, Tensor]) -> None:
    query, key = pairs
    same = sampled_softmax_loss(query, key, torch.arange(6), temperature=0.3)
    torch.testing.assert_close(info_nce_loss(query, key, temperature=0.3), same)


def test_constant_log_q_changes_nothing_and_another_one_does(pairs: tuple[Tensor, Tensor]) -> None:
    query, key = pairs
    plain = info_nce_loss(query, key)
    flat = sampled_softmax_loss(query, key, torch.arange(6), log_q=torch.full((6,), -4.0))
    torch.testing.assert_close(flat, plain)
    skewed = sampled_softmax_loss(query, key, torch.arange(6), log_q=-torch.arange(6.0))
    assert abs(skewed.item() - plain.item()) > 0.1


def test_the_symmetric_loss_does_not_care_which_side_is_which(pairs: tuple[Tensor, Tensor]) -> None:
    query, key = pairs
    torch.testing.assert_close(
        symmetric_info_nce_loss(query, key), symmetric_info_nce_loss(key, query)
    )
    assert info_nce_loss(query, key).item() != pytest.approx(info_nce_loss(key, query).item())


def test_infonce_learns_pointwise_mutual_information_and_log_q_the_conditional() -> None:
    rng = np.random.default_rng(1)
    popularity = 1.0 / np.arange(1, 6) ** 1.5
    joint = torch.tensor(rng.uniform(0.3, 3.0, size=(4, 5)) * popularity, dtype=torch.float64)
    joint /= joint.sum()
    conditional = (joint / joint.sum(dim=1, keepdim=True)).log()
    truth = {0.0: conditional - joint.sum(dim=0).log(), 1.0: conditional}
    for weight, expected in truth.items():
        found = optimal_scores(joint, log_q_weight=weight, n_keys=3)
        centred = expected - expected.mean(dim=1, keepdim=True)
        assert (found - centred).abs().max() < 0.25, weight
        other = truth[1.0 - weight]
        wrong = (found - (other - other.mean(dim=1, keepdim=True))).abs().max()
        assert wrong > 1.0  # the two optima lie far apart: the test can tell them


def test_the_bound_is_at_most_log_n() -> None:
    assert mutual_information_bound(0.0, 512) == pytest.approx(math.log(512))
    assert mutual_information_bound(math.log(8), 8) == pytest.approx(0.0)  # guessing certifies 0
    with pytest.raises(ValueError, match="at least 2 keys"):
        mutual_information_bound(1.0, 1)


def test_the_weights_of_negatives_are_their_share_of_the_gradient() -> None:
    scores = torch.tensor([0.2, 0.9, 0.5, -0.3], requires_grad=True)
    for temperature in (0.1, 1.0):
        positive = torch.tensor([1.0])
        logits = torch.cat([positive, scores])[None] / temperature
        loss = torch.nn.functional.cross_entropy(logits, torch.tensor([0]))
        (gradient,) = torch.autograd.grad(loss, scores)
        torch.testing.assert_close(
            negative_weights(scores.detach(), temperature), gradient / gradient.sum()
        )
    hard, even = negative_weights(scores.detach(), 0.05), negative_weights(scores.detach(), 50.0)
    assert hard[1] > 0.99
    assert (even - 0.25).abs().max() < 0.01


def test_a_learned_temperature_starts_where_told_moves_and_stops_at_the_lowest() -> None:
    temperature = LearnedTemperature(0.5, lowest=0.05)
    assert temperature().item() == pytest.approx(0.5)
    query = torch.nn.functional.normalize(torch.eye(4) + 0.1, dim=1)
    optimiser = torch.optim.SGD(temperature.parameters(), lr=5.0)
    for _ in range(200):  # pairs that are told apart easily: sharper is always better
        optimiser.zero_grad()
        info_nce_loss(query, query, temperature=temperature()).backward()
        optimiser.step()
    assert temperature().item() == pytest.approx(0.05)


@pytest.mark.parametrize("wrong", [(0.01, 0.05), (0.5, 0.0)])
def test_temperatures_out_of_range_are_refused(wrong: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="lowest"):
        LearnedTemperature(*wrong)


def test_bad_input_is_named(pairs: tuple[Tensor, Tensor]) -> None:
    query, key = pairs
    with pytest.raises(ValueError, match="must both be"):
        info_nce_loss(query, key[:-1])
    with pytest.raises(ValueError, match="temperature must be positive"):
        info_nce_loss(query, key, temperature=0.0)
    with pytest.raises(ValueError, match="temperature must be positive"):
        negative_weights(torch.zeros(2), 0.0)
