"""The estimators of the gradient study, and what the positive's correction is equal to."""

import math

import torch

from ml_algorithms.two_tower_and_contrastive.bench_gradient import Setting, gradient_errors
from ml_algorithms.two_tower_and_contrastive.loss import sampled_softmax_loss


def test_a_positive_as_it_is_weights_each_row_by_its_uncertainty() -> None:
    """The gradient is (1 - p) times that of a softmax over the negatives alone.

    p is the positive's probability as estimated from the same sample: the sample weight that
    Khrylchenko et al. (RecSys 2025) derive.
    """
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(4, 3, generator=generator, dtype=torch.float64)
    table = torch.randn(9, 3, generator=generator, dtype=torch.float64).requires_grad_()
    idx, drawn = torch.arange(4), torch.arange(4, 9)
    log_q = torch.log_softmax(torch.randn(9, generator=generator, dtype=torch.float64), dim=0)
    loss = sampled_softmax_loss(
        query, table[idx], idx, log_q=log_q[idx], negative=table[drawn], negative_idx=drawn,
        negative_log_q=log_q[drawn], in_batch=False, correct_positive=False,
    )  # fmt: skip
    (found,) = torch.autograd.grad(loss, table)
    positive = (query * table[idx]).sum(dim=1)
    negatives = query @ table[drawn].T - log_q[drawn] - math.log(5)
    z_negative = negatives.logsumexp(dim=1)
    weight = 1 - torch.exp(positive - torch.logaddexp(positive, z_negative)).detach()
    (expected,) = torch.autograd.grad((weight * (z_negative - positive)).mean(), table)
    torch.testing.assert_close(found, expected)


def test_n_draws_says_how_many_draws_the_columns_stand_for() -> None:
    query, positive = torch.ones(1, 1), torch.ones(1, 1)
    arguments = {
        "log_q": torch.zeros(1), "negative": torch.zeros(1, 1),
        "negative_idx": torch.tensor([1]), "negative_log_q": torch.zeros(1),
        "in_batch": False, "correct_positive": False,
    }  # fmt: skip
    one = sampled_softmax_loss(query, positive, torch.tensor([0]), **arguments)  # type: ignore[arg-type]
    four = sampled_softmax_loss(query, positive, torch.tensor([0]), n_draws=4, **arguments)  # type: ignore[arg-type]
    assert math.isclose(one.item(), math.log1p(math.exp(-1)), rel_tol=1e-6)
    assert math.isclose(four.item(), math.log1p(math.exp(-1) / 4), rel_tol=1e-6)


def test_the_correction_lowers_the_bias_and_batches_lower_the_noise() -> None:
    generator = torch.Generator().manual_seed(1)
    weight = 1.0 / torch.arange(1.0, 41.0)
    items = torch.nn.functional.normalize(torch.randn(40, 8, generator=generator), dim=1)
    setting = Setting(
        query=torch.nn.functional.normalize(torch.randn(2000, 8, generator=generator), dim=1),
        item_idx=torch.multinomial(weight, 2000, True, generator=generator),
        items=items,
        probability=weight / weight.sum(),
        temperature=0.5,
    )
    small = gradient_errors(setting, batch=16, draws=60, seed=0)
    large = gradient_errors(setting, batch=256, draws=60, seed=0)
    assert large["in_batch_logq"].bias < 0.3 * large["in_batch"].bias
    assert large["mixed_logq"].bias < 0.3 * large["in_batch"].bias
    assert large["in_batch"].bias > 3 * large["in_batch"].floor  # seen, and not chance
    for name in ("in_batch_logq", "uniform_logq", "mixed_logq_own_positive"):
        assert large[name].noise < small[name].noise
