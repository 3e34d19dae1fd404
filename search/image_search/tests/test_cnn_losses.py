"""Losses against loops over their formulas, augmentation by its effect on known pictures."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Generator, Tensor
from torch.nn import functional

from image_search.embeddings.augment import (
    EMPTY,
    blanked,
    enlarged,
    gentle,
    mirrored,
    shifted,
    strong,
)  # fmt: skip
from image_search.embeddings.contrastive import Proxies, matryoshka, supcon
from ml_algorithms.two_tower_and_contrastive.infonce import info_nce_loss


def generator(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def unit(rows: int, dim: int, seed: int = 0) -> Tensor:
    return functional.normalize(torch.randn(rows, dim, generator=generator(seed)))


# --- losses ---


def test_supcon_by_hand() -> None:
    """Rows (1, 0), (1, 0), (0, 1), the first two of one class, temperature 1."""
    rows = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    found = supcon(rows, torch.tensor([0, 0, 1]), 1.0)
    expected = -math.log(math.e / (math.e + 1))
    torch.testing.assert_close(found, torch.tensor([expected, expected, 0.0]))


def test_supcon_equals_a_loop_over_equation_2() -> None:
    rows, t = unit(9, 4), 0.3
    group = torch.tensor([0, 1, 0, 2, 1, 0, 2, 3, 1])
    expected = []
    for i in range(9):
        others = [a for a in range(9) if a != i]
        below = sum(math.exp(float(rows[i] @ rows[a]) / t) for a in others)
        positive = [p for p in others if group[p] == group[i]]
        terms = [math.log(math.exp(float(rows[i] @ rows[p]) / t) / below) for p in positive]
        expected.append(-sum(terms) / len(terms) if terms else 0.0)
    torch.testing.assert_close(supcon(rows, group, t), torch.tensor(expected))


def test_two_views_make_it_nt_xent() -> None:
    """Equation 1 of SimCLR as a cross-entropy over all rows but the own."""
    rows, t = unit(8, 4), 0.2
    scores = (rows @ rows.T / t).fill_diagonal_(-torch.inf)
    expected = functional.cross_entropy(scores, torch.tensor([4, 5, 6, 7, 0, 1, 2, 3]))
    number = torch.arange(4).repeat(2)
    torch.testing.assert_close(supcon(rows, number, t).mean(), expected)
    # InfoNCE asks one view for its partner among the other's rows alone: fewer negatives.
    assert info_nce_loss(rows[:4], rows[4:], temperature=t) < expected


def test_supcon_has_a_gradient_also_where_a_row_is_alone() -> None:
    rows = unit(4, 3).requires_grad_()
    supcon(rows, torch.tensor([0, 0, 1, 2]), 0.1).mean().backward()
    assert rows.grad is not None
    assert torch.isfinite(rows.grad).all()
    assert rows.grad.abs().sum() > 0


def test_proxies_are_a_softmax_of_cosines() -> None:
    torch.manual_seed(0)
    proxies = Proxies(3, (2, 4), scale=8.0)
    rows, label = unit(5, 4), torch.tensor([0, 2, 1, 1, 0])
    vectors = proxies.vectors[1].detach()
    for i, found in enumerate(proxies(rows, label, 1, 0.0).tolist()):
        cosines = [float(rows[i] @ w / w.norm()) for w in vectors]
        total = sum(math.exp(8 * c) for c in cosines)
        expected = -math.log(math.exp(8 * cosines[label[i]]) / total)
        assert found == pytest.approx(expected, rel=1e-4)
    assert proxies(rows[:, :2], label, 0, 0.0).shape == (5,)


def test_matryoshka_is_the_mean_over_unit_prefixes() -> None:
    vectors = torch.tensor([[3.0, 4.0, 12.0], [1.0, 0.0, 0.0]])
    seen = []

    def first(rows: Tensor, number: int) -> Tensor:
        seen.append((number, rows.shape[1]))
        return rows[:, 0]

    found = matryoshka(vectors, (2, 3), first)
    torch.testing.assert_close(found, torch.tensor([(3 / 5 + 3 / 13) / 2, 1.0]))
    assert seen == [(0, 2), (1, 3)]


# --- augmentation ---


def pictures(n: int = 200, channels: int = 1, side: int = 9) -> Tensor:
    """Black, with one white pixel off the middle."""
    made = torch.full((n, channels, side, side), EMPTY)
    made[:, :, 4, 2] = 1.0
    return made


def places(batch: Tensor) -> set[tuple[int, int]]:
    return {(int(r), int(c)) for _, r, c in (batch[:, 0] > 0).nonzero()}


def test_about_half_are_mirrored() -> None:
    found = mirrored(pictures(), generator())
    assert places(found) == {(4, 2), (4, 6)}
    assert 70 < int((found[:, 0, 4, 2] > 0).sum()) < 130


@pytest.mark.parametrize("channels", [1, 3])
def test_shifts_reach_every_place_and_no_further(channels: int) -> None:
    found = shifted(pictures(channels=channels), 1, generator())
    assert found.shape == (200, channels, 9, 9)
    assert places(found) == {(r, c) for r in (3, 4, 5) for c in (1, 2, 3)}
    assert ((found > 0).sum(dim=(2, 3)) == 1).all()


@pytest.mark.parametrize("side", [1, 2, 3, 4])
def test_the_blank_is_a_square_of_its_side(side: int) -> None:
    found = blanked(torch.ones(2000, 1, 12, 12), side, generator())
    empty = found[:, 0] == EMPTY
    count = empty.sum(dim=(1, 2))
    assert int(count.max()) == side**2  # less only where it leaves the picture
    assert (empty.any(dim=0)).all()  # it reaches every pixel
    rows, columns = empty.any(dim=2).sum(dim=1), empty.any(dim=1).sum(dim=1)
    torch.testing.assert_close(rows * columns, count)


def test_a_part_of_all_is_the_whole() -> None:
    """Area 1 leaves only the shape to vary, and neither side may pass the picture's."""
    whole = torch.rand(4, 3, 8, 8, generator=generator(1))
    torch.testing.assert_close(
        enlarged(torch.ones_like(whole), 0.5, generator()), torch.ones_like(whole)
    )
    found = enlarged(whole, 0.25, generator())
    assert found.shape == whole.shape
    assert found.min() >= whole.min()
    assert found.max() <= whole.max()
    assert (found - whole).abs().amax(dim=(1, 2, 3)).min() > 0.05


def test_light_alone_is_a_straight_line() -> None:
    """Without enlargement a view is a * (x + 1) - 1 of the picture or its mirror image."""
    batch = pictures(50)
    found = strong(batch, 1.0, 0.4, generator())
    values = found.flatten(1).amax(dim=1) + 1
    assert (values <= 2 * 1.4 * 1.2 + 1e-5).all()
    assert values.std() > 0.05
    assert (found.flatten(1).amin(dim=1) == EMPTY).all()


def test_the_generator_decides() -> None:
    batch = torch.rand(20, 1, 12, 12, generator=generator(2))
    for change in (
        lambda g: gentle(batch, 2, 4, g),
        lambda g: strong(batch, 0.5, 0.4, g),
    ):
        torch.testing.assert_close(change(generator(5)), change(generator(5)))
        assert not torch.equal(change(generator(5)), change(generator(6)))
    torch.testing.assert_close(gentle(batch, 0, 0, generator(5)), mirrored(batch, generator(5)))
