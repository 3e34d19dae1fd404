"""The losses against hand numbers, their own optima, and the two-tower package's loss."""

import math

import pytest
import torch

from ml_algorithms.sequence_models.losses import (
    bce_loss,
    beta_of,
    full_softmax_loss,
    gbce_loss,
    prior_logit,
    sampled_softmax_loss,
)
from ml_algorithms.two_tower_and_contrastive import loss as two_tower

POSITIVE = torch.tensor([math.log(3.0)])  # sigma = 3/4
NEGATIVE = torch.tensor([[0.0, -math.log(4.0)]])  # sigma = 1/2 and 1/5


def test_bce_by_hand() -> None:
    expected = -(math.log(3 / 4) + math.log(1 / 2) + math.log(4 / 5)) / 3
    assert bce_loss(POSITIVE, NEGATIVE).item() == pytest.approx(expected, rel=1e-6)


def test_gbce_by_hand() -> None:
    expected = -(0.25 * math.log(3 / 4) + math.log(1 / 2) + math.log(4 / 5)) / 3
    assert gbce_loss(POSITIVE, NEGATIVE, beta=0.25).item() == pytest.approx(expected, rel=1e-6)


def test_sampled_softmax_by_hand() -> None:
    # exp: 3 against 1 and 1/4; corrected with q = 1/8 and M = 2: divided by 1/4, so 4 and 1.
    assert sampled_softmax_loss(POSITIVE, NEGATIVE).item() == pytest.approx(-math.log(3 / 4.25))
    log_q = torch.log(torch.tensor([[1 / 8, 1 / 8]]))
    corrected = sampled_softmax_loss(POSITIVE, NEGATIVE, log_q).item()
    assert corrected == pytest.approx(-math.log(3 / 8), rel=1e-6)


def test_a_sampled_item_at_minus_infinity_does_not_count() -> None:
    masked = torch.cat([NEGATIVE, torch.tensor([[-math.inf]])], dim=1)
    assert sampled_softmax_loss(POSITIVE, masked).item() == pytest.approx(-math.log(3 / 4.25))
    assert bce_loss(POSITIVE, masked).item() == pytest.approx(bce_loss(POSITIVE, NEGATIVE) * 3 / 4)


def test_every_item_once_as_a_sample_is_the_full_softmax() -> None:
    torch.manual_seed(0)
    states, items = torch.randn(4, 3), torch.randn(6, 3)
    target = torch.tensor([0, 5, 2, 2])
    logits = states @ items.T
    others = logits.masked_fill(torch.nn.functional.one_hot(target, 6).bool(), -math.inf)
    positive = logits[torch.arange(4), target]
    sampled = sampled_softmax_loss(positive, others)
    torch.testing.assert_close(sampled, full_softmax_loss(states, items, target))


def test_parity_with_the_two_tower_loss_where_negatives_are_shared() -> None:
    torch.manual_seed(1)
    states, items = torch.randn(5, 3), torch.randn(9, 3)
    target, drawn = torch.tensor([0, 1, 2, 3, 4]), torch.tensor([1, 7, 7, 8])
    log_q = torch.log(torch.linspace(0.05, 0.3, 9))
    theirs = two_tower.sampled_softmax_loss(
        states, items[target], target, log_q=log_q[target], negative=items[drawn],
        negative_idx=drawn, negative_log_q=log_q[drawn], in_batch=False, correct_positive=False,
    )  # fmt: skip
    negative = (states @ items[drawn].T).masked_fill(target[:, None] == drawn[None], -math.inf)
    positive = (states * items[target]).sum(dim=1)
    torch.testing.assert_close(sampled_softmax_loss(positive, negative, log_q[drawn]), theirs)


@pytest.mark.parametrize(("t", "expected"), [(0.0, 1.0), (1.0, 0.1), (0.5, 0.55), (0.75, 0.325)])
def test_beta_by_hand(t: float, expected: float) -> None:
    assert beta_of(10, 101, t) == pytest.approx(expected)  # alpha = 0.1


@pytest.mark.parametrize(("negatives", "beta"), [(1, 1.0), (16, 1.0), (256, 0.3)])
def test_the_prior_is_the_best_constant_score(negatives: int, beta: float) -> None:
    prior = prior_logit(negatives, beta)
    assert 1 / (1 + math.exp(-prior)) == pytest.approx(beta / (beta + negatives))
    score = torch.tensor(prior, dtype=torch.float64, requires_grad=True)
    gbce_loss(score.expand(1), score.expand(1, negatives), beta=beta).backward()
    assert score.grad is not None
    assert abs(score.grad.item()) < 1e-12


@pytest.mark.parametrize(("negatives", "t"), [(10, -0.1), (10, 1.1), (0, 0.5), (101, 0.5)])
def test_beta_out_of_range_is_refused(negatives: int, t: float) -> None:
    with pytest.raises(ValueError, match="must lie in"):
        beta_of(negatives, 101, t)


@pytest.mark.parametrize("t", [0.0, 0.75, 1.0])
def test_the_optimum_of_gbce_is_as_confident_as_the_formula_says(t: float) -> None:
    """Expected loss of one item of true probability p, a sample with probability alpha."""
    p, n_negatives, n_items = 0.02, 10, 1001
    alpha, beta = n_negatives / (n_items - 1), beta_of(n_negatives, n_items, t)
    score = torch.linspace(-8, 8, 160_001, dtype=torch.float64)
    softplus = torch.nn.functional.softplus
    expected_loss = p * beta * softplus(-score) + (1 - p) * alpha * softplus(score)
    best = torch.sigmoid(score[expected_loss.argmin()]).item()
    assert best == pytest.approx(beta * p / (beta * p + alpha * (1 - p)), rel=1e-3)
    assert (best == pytest.approx(p, rel=1e-3)) == (t == 1.0)
    if t == 0.0:
        assert best > 30 * p  # plain BCE says 0.67 where 0.02 is true
