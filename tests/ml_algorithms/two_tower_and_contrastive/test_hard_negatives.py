"""Mining by hand: windows, masks, short rows; the loss against a loop."""

import math

import pytest
import torch

from ml_algorithms.two_tower_and_contrastive.hard_negatives import (
    above_positive_mask,
    mine_hard_negatives,
    own_negatives_loss,
    semi_hard_mask,
)

SCORES = torch.tensor([[0.9, 0.1, 0.8, 0.3, 0.7], [0.0, 0.5, 0.4, 0.3, 0.2]])


def test_the_whole_window_is_found_in_every_row() -> None:
    items, valid = mine_hard_negatives(SCORES, 2, ranks=(1, 3))
    assert [set(row) for row in items.tolist()] == [{2, 4}, {2, 3}]
    assert valid.all()


def test_forbidden_items_take_no_rank() -> None:
    forbidden = torch.zeros(2, 5, dtype=torch.bool)
    forbidden[0, [0, 2]] = True
    items, _ = mine_hard_negatives(SCORES, 2, ranks=(0, 2), forbidden=forbidden)
    assert [set(row) for row in items.tolist()] == [{4, 3}, {1, 2}]


def test_a_row_that_runs_out_says_so() -> None:
    forbidden = torch.tensor([[True, True, True, True, False], [False] * 5])
    items, valid = mine_hard_negatives(SCORES, 3, ranks=(0, 3), forbidden=forbidden)
    assert valid.tolist() == [[True, False, False], [True, True, True]]
    assert items[0, 0] == 4


def test_draws_are_even_within_the_window_and_never_repeat() -> None:
    scores = torch.arange(10.0, 0.0, -1.0).expand(3000, -1)
    generator = torch.Generator().manual_seed(0)
    items, _ = mine_hard_negatives(scores, 2, ranks=(2, 6), generator=generator)
    assert (items[:, 0] != items[:, 1]).all()
    counts = torch.bincount(items.flatten(), minlength=10)
    assert counts[[0, 1, 6, 7, 8, 9]].sum() == 0
    assert (counts[2:6] - 1500).abs().max() < 150  # 5 standard deviations


def test_semi_hard_is_between_the_margin_and_the_positive() -> None:
    scores = torch.tensor([[0.1, 0.5, 0.79, 0.8, 0.9]])
    mask = semi_hard_mask(torch.tensor([0.8]), scores, margin=0.5)
    assert mask.tolist() == [[False, True, True, False, False]]


def test_candidates_near_or_above_the_positive_are_marked() -> None:
    scores = torch.tensor([[0.5, 0.74, 0.77, 0.9], [-0.5, -0.3, -0.1, 0.2]])
    mask = above_positive_mask(torch.tensor([0.8, -0.2]), scores, share=0.95)
    assert mask.tolist() == [[False, False, True, True], [False, False, True, True]]


def test_the_loss_is_a_loop_over_rows() -> None:
    generator = torch.Generator().manual_seed(3)
    query, positive = torch.randn(2, 4, 3, generator=generator)
    negative = torch.randn(4, 5, 3, generator=generator)
    valid = torch.rand(4, 5, generator=generator) < 0.7
    total = 0.0
    for row in range(4):
        first = float(query[row] @ positive[row]) / 0.5
        others = [
            float(query[row] @ negative[row, n]) / 0.5 for n in range(5) if bool(valid[row, n])
        ]
        total += math.log(sum(math.exp(x) for x in [first, *others])) - first
    loss = own_negatives_loss(query, positive, negative, valid=valid, temperature=0.5)
    assert loss.item() == pytest.approx(total / 4, rel=1e-5)


def test_a_row_without_negatives_costs_nothing() -> None:
    query = torch.ones(1, 2, requires_grad=True)
    loss = own_negatives_loss(
        query, torch.ones(1, 2), torch.ones(1, 3, 2), valid=torch.zeros(1, 3, dtype=torch.bool)
    )
    loss.backward()
    assert loss.item() == 0.0
    assert query.grad is not None
    assert not query.grad.any()


def test_windows_and_shapes_out_of_range_are_named() -> None:
    for ranks in ((2, 2), (0, 6), (-1, 3)):
        with pytest.raises(ValueError, match="must be a window within"):
            mine_hard_negatives(SCORES, 1, ranks=ranks)
    with pytest.raises(ValueError, match="n_mined must lie"):
        mine_hard_negatives(SCORES, 3, ranks=(0, 2))
    with pytest.raises(ValueError, match="margin must be positive"):
        semi_hard_mask(torch.zeros(1), torch.zeros(1, 1), margin=0.0)
    with pytest.raises(ValueError, match="share must lie"):
        above_positive_mask(torch.zeros(1), torch.zeros(1, 1), share=1.5)
    with pytest.raises(ValueError, match="negative must be"):
        own_negatives_loss(torch.zeros(2, 3), torch.zeros(2, 3), torch.zeros(4, 3))
