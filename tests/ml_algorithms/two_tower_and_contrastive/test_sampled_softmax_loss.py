"""The sampled loss against the full softmax: equality, unbiasedness, and what each mask removes."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from ml_algorithms.two_tower_and_contrastive.loss import (
    full_softmax_loss,
    mixed_log_q,
    sampled_softmax_loss,
)

N_ITEMS, DIM, BATCH = 30, 6, 8


@pytest.fixture
def tables() -> tuple[Tensor, Tensor, Tensor]:
    """Item embeddings [I, D], queries [B, D], positives [B] (all different)."""
    generator = torch.Generator().manual_seed(0)
    items = torch.randn(N_ITEMS, DIM, generator=generator, dtype=torch.float64)
    query = torch.randn(BATCH, DIM, generator=generator, dtype=torch.float64)
    return items, query, torch.randperm(N_ITEMS, generator=generator)[:BATCH]


def zipf() -> Tensor:
    weight = 1.0 / torch.arange(1, N_ITEMS + 1, dtype=torch.float64)
    return weight / weight.sum()


@pytest.mark.parametrize("correct_positive", [True, False])
def test_all_items_as_negatives_with_exact_log_q_is_the_full_softmax(
    tables: tuple[Tensor, Tensor, Tensor], correct_positive: bool
) -> None:
    items, query, positive = tables
    items.requires_grad_()
    log_q = torch.full((N_ITEMS,), -math.log(N_ITEMS), dtype=torch.float64)
    sampled = sampled_softmax_loss(
        query, items[positive], positive, temperature=0.7, log_q=log_q[positive],
        negative=items, negative_idx=torch.arange(N_ITEMS), negative_log_q=log_q,
        in_batch=False, correct_positive=correct_positive,
    )  # fmt: skip
    full = full_softmax_loss(query, items, positive, temperature=0.7)
    torch.testing.assert_close(sampled, full)
    (sampled_gradient,) = torch.autograd.grad(sampled, items)
    (full_gradient,) = torch.autograd.grad(full, items)
    torch.testing.assert_close(sampled_gradient, full_gradient)


def test_a_batch_of_two_by_hand() -> None:
    query = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    positive = torch.tensor([[2.0, 1.0], [0.0, 3.0]])
    # Logits [[2, 0], [1, 3]]; log q of the items: log 0.5 and log 0.25.
    log_q = torch.log(torch.tensor([0.5, 0.25]))
    losses = sampled_softmax_loss(
        query, positive, torch.tensor([0, 1]), log_q=log_q, reduction="none"
    )
    first = -math.log(2 * math.exp(2) / (2 * math.exp(2) + 4 * math.exp(0)))
    second = -math.log(4 * math.exp(3) / (4 * math.exp(3) + 2 * math.exp(1)))
    torch.testing.assert_close(losses, torch.tensor([first, second]))


def test_without_log_q_it_is_cross_entropy_over_the_batch(
    tables: tuple[Tensor, Tensor, Tensor],
) -> None:
    items, query, positive = tables
    loss = sampled_softmax_loss(query, items[positive], positive, temperature=0.5)
    logits = query @ items[positive].T / 0.5
    torch.testing.assert_close(loss, torch.nn.functional.cross_entropy(logits, torch.arange(BATCH)))


def test_the_partition_function_is_unbiased_when_the_positive_is_not_corrected() -> None:
    """exp(loss) is the estimated Z over exp(positive logit): its mean must be the true one."""
    generator = torch.Generator().manual_seed(1)
    items = 0.7 * torch.randn(N_ITEMS, DIM, generator=generator, dtype=torch.float64)
    query = torch.randn(1, DIM, generator=generator, dtype=torch.float64)
    target, n_batch, n_uniform, draws = 2, 5, 7, 3_000
    log_q = mixed_log_q(zipf(), n_in_batch=n_batch - 1, n_uniform=n_uniform, n_items=N_ITEMS)
    others = torch.multinomial(zipf(), draws * (n_batch - 1), True, generator=generator)
    uniform = torch.randint(N_ITEMS, (draws, n_uniform), generator=generator)
    ratios = []
    for batch_items, extra in zip(others.view(draws, -1), uniform, strict=True):
        idx = torch.cat([torch.tensor([target]), batch_items])
        losses = sampled_softmax_loss(
            query.expand(n_batch, -1), items[idx], idx, log_q=log_q[idx],
            negative=items[extra], negative_idx=extra, negative_log_q=log_q[extra],
            correct_positive=False, reduction="none",
        )  # fmt: skip
        ratios.append(losses[0].exp().item())
    truth = full_softmax_loss(query, items, torch.tensor([target])).exp().item()
    error_of_mean = float(np.std(ratios)) / math.sqrt(draws)
    assert np.mean(ratios) == pytest.approx(truth, abs=4 * error_of_mean)
    assert error_of_mean < 0.03 * truth  # the test has the power to see a bias of a few percent


def mean_gradients(batch: int, draws: int) -> tuple[Tensor, dict[str, Tensor]]:
    """Mean gradient on the item table over batches drawn by popularity, exact and sampled."""
    generator = torch.Generator().manual_seed(2)
    items = torch.randn(N_ITEMS, DIM, generator=generator, dtype=torch.float64)
    items = (0.5 * items).requires_grad_()
    log_q = zipf().log()
    full = torch.zeros_like(items)
    sampled = {name: torch.zeros_like(items) for name in ("uncorrected", "yi", "included")}
    for _ in range(draws):
        idx = torch.multinomial(zipf(), batch, True, generator=generator)
        query = torch.randn(batch, DIM, generator=generator, dtype=torch.float64)
        losses = {
            "uncorrected": sampled_softmax_loss(query, items[idx], idx),
            "yi": sampled_softmax_loss(query, items[idx], idx, log_q=log_q[idx]),
            "included": sampled_softmax_loss(
                query, items[idx], idx, log_q=log_q[idx], correct_positive=False
            ),
        }
        full += torch.autograd.grad(full_softmax_loss(query, items, idx), items)[0]
        for name, loss in losses.items():
            sampled[name] += torch.autograd.grad(loss, items)[0]
    return full / draws, {name: gradient / draws for name, gradient in sampled.items()}


def test_correction_brings_the_gradient_to_that_of_the_full_softmax() -> None:
    full, sampled = mean_gradients(batch=256, draws=150)
    error = {name: float((g - full).norm() / full.norm()) for name, g in sampled.items()}
    assert error["yi"] < 0.25 * error["uncorrected"], error
    assert error["included"] < 0.25 * error["uncorrected"], error
    # What the correction is for: uncorrected, the most popular item is pushed down too hard.
    popular = torch.zeros(N_ITEMS, dtype=torch.bool)
    popular[0] = True
    bias = {name: float((g - full)[popular].norm()) for name, g in sampled.items()}
    assert bias["yi"] < 0.25 * bias["uncorrected"], bias
    assert bias["included"] < 0.1 * bias["uncorrected"], bias
    # Yi et al. also correct the positive itself: a smaller bias that no batch size removes.
    assert bias["included"] < bias["yi"], bias


def test_the_same_item_elsewhere_in_the_batch_is_no_negative() -> None:
    query = torch.tensor([[1.0], [2.0], [3.0]])
    positive = torch.tensor([[1.0], [1.0], [5.0]])
    losses = sampled_softmax_loss(query, positive, torch.tensor([4, 4, 9]), reduction="none")
    # Row 0 and 1 meet only item 9: logits (1, 5) and (2, 10); row 2 meets item 4 twice: (15, 3, 3).
    expected = [math.log1p(math.exp(4)), math.log1p(math.exp(8)), math.log1p(2 * math.exp(-12))]
    torch.testing.assert_close(losses, torch.tensor(expected))


def test_accidental_hits_among_uniform_negatives_are_removed(
    tables: tuple[Tensor, Tensor, Tensor],
) -> None:
    items, query, positive = tables
    extra = torch.cat([positive, torch.tensor([int(positive[0])])])
    with_hits = sampled_softmax_loss(
        query, items[positive], positive, negative=items[extra], negative_idx=extra, in_batch=False,
        reduction="none",
    )  # fmt: skip
    logits = query @ items[positive].T
    for row in range(
        1, BATCH
    ):  # row 0's positive occurs twice among them and counts in other rows twice
        others = torch.cat([logits[row], logits[row, :1]])
        others = others[extra != positive[row]]
        expected = (
            torch.logsumexp(torch.cat([logits[row, row : row + 1], others]), 0) - logits[row, row]
        )
        torch.testing.assert_close(with_hits[row], expected)


def test_other_positives_of_the_same_user_are_no_negatives(
    tables: tuple[Tensor, Tensor, Tensor],
) -> None:
    items, query, positive = tables
    user = torch.tensor([0, 0, 1, 2, 3, 4, 5, 6])
    same_user = user[:, None] == user[None, :]
    by_user = sampled_softmax_loss(
        query, items[positive], positive, user_idx=user, reduction="none"
    )
    by_mask = sampled_softmax_loss(
        query, items[positive], positive, exclude=same_user, reduction="none"
    )
    plain = sampled_softmax_loss(query, items[positive], positive, reduction="none")
    torch.testing.assert_close(by_user, by_mask)
    torch.testing.assert_close(by_user[2:], plain[2:])
    assert (by_user[:2] < plain[:2]).all()


def test_a_row_whose_negatives_are_all_masked_costs_nothing_and_has_finite_gradients() -> None:
    query = torch.ones(2, 3, requires_grad=True)
    positive = torch.ones(2, 3, requires_grad=True)
    loss = sampled_softmax_loss(query, positive, torch.tensor([7, 7]))
    loss.backward()
    assert loss.item() == 0.0
    assert query.grad is not None
    assert not query.grad.any()


def test_weights_are_normalised_by_their_sum(tables: tuple[Tensor, Tensor, Tensor]) -> None:
    items, query, positive = tables
    weight = torch.tensor([3.0, 1.0, 0, 0, 0, 0, 0, 0], dtype=torch.float64)
    losses = sampled_softmax_loss(query, items[positive], positive, reduction="none")
    weighted = sampled_softmax_loss(query, items[positive], positive, weight=weight)
    torch.testing.assert_close(weighted, (3 * losses[0] + losses[1]) / 4)
    nothing = sampled_softmax_loss(query, items[positive], positive, weight=0 * weight)
    assert nothing.item() == 0.0


def test_a_learned_temperature_gets_a_gradient(tables: tuple[Tensor, Tensor, Tensor]) -> None:
    items, query, positive = tables
    temperature = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    sampled_softmax_loss(query, items[positive], positive, temperature=temperature).backward()
    assert temperature.grad is not None
    assert temperature.grad.item() != 0.0


def test_the_mixture_of_two_sources_is_a_distribution() -> None:
    mixture = mixed_log_q(zipf(), n_in_batch=20, n_uniform=10, n_items=N_ITEMS).exp()
    assert mixture.sum().item() == pytest.approx(1.0)
    torch.testing.assert_close(mixture[0], (20 * zipf()[0] + 10 / N_ITEMS) / 30)
    unseen = mixed_log_q(torch.tensor([0.0]), n_in_batch=20, n_uniform=10, n_items=100).exp()
    assert unseen.item() == pytest.approx(10 / (30 * 100))


def test_missing_partners_are_named(tables: tuple[Tensor, Tensor, Tensor]) -> None:
    items, query, positive = tables
    embedded, log_q = items[positive], torch.zeros(BATCH)
    with pytest.raises(ValueError, match="must be"):
        sampled_softmax_loss(query, embedded[:-1], positive)
    with pytest.raises(ValueError, match="come together: the ids"):
        sampled_softmax_loss(query, embedded, positive, negative=items)
    with pytest.raises(ValueError, match="needs extra negatives"):
        sampled_softmax_loss(query, embedded, positive, in_batch=False)
    with pytest.raises(ValueError, match="one source only"):
        sampled_softmax_loss(
            query, embedded, positive, log_q=log_q, negative=items,
            negative_idx=torch.arange(N_ITEMS),
        )  # fmt: skip
