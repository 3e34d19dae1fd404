"""Jacobs' two losses by hand and by behaviour; expert choice against a loop."""

import math

import pytest
import torch

from ml_algorithms.mixture_of_experts.dense import SoftMoE, competitive_loss, cooperative_loss
from ml_algorithms.mixture_of_experts.expert_choice import ExpertChoiceMoE


def test_soft_mixture_equals_a_loop() -> None:
    torch.manual_seed(0)
    moe = SoftMoE(width=4, hidden=3, n_experts=3)
    x = torch.randn(7, 4)
    output, gates = moe(x)
    for n in range(7):
        gate = torch.softmax(moe.router.weight @ x[n], dim=0)
        expected = sum(gate[e] * moe.experts.one(e, x[n : n + 1])[0] for e in range(3))
        torch.testing.assert_close(output[n], expected)
        torch.testing.assert_close(gates[n], gate)


def test_the_two_losses_by_hand() -> None:
    answers = torch.tensor([[[0.0]], [[2.0]]])  # two experts, one row
    gates, target = torch.tensor([[0.5, 0.5]]), torch.tensor([[1.0]])
    assert cooperative_loss(answers, gates, target).item() == 0.0  # the mixture hits it exactly
    # each expert alone is off by 1: -log(0.5 e^-0.5 + 0.5 e^-0.5) = 0.5
    assert competitive_loss(answers, gates, target).item() == pytest.approx(0.5)


def test_competition_teaches_the_nearer_expert() -> None:
    answers = torch.tensor([[[0.5]], [[3.0]]], requires_grad=True)
    gates, target = torch.tensor([[0.5, 0.5]]), torch.tensor([[0.0]])
    competitive_loss(answers, gates, target).backward()
    assert answers.grad is not None
    near, far = answers.grad.flatten().abs().tolist()
    assert near > 4 * far
    # posterior of the near one, (1 + e^{(0.25 - 9) / 2})^-1, times its distance
    assert near == pytest.approx(0.5 / (1 + math.exp((0.25 - 9.0) / 2)), rel=1e-4)
    other = answers.detach().clone().requires_grad_()
    cooperative_loss(other, gates, target).backward()
    assert other.grad is not None
    pulls = other.grad.flatten().tolist()
    assert pulls[0] == pytest.approx(pulls[1])  # the sum's error pulls both alike


def test_competitive_loss_far_from_all_experts_stays_finite() -> None:
    answers = torch.full((2, 1, 1), 1e3)
    loss = competitive_loss(answers, torch.tensor([[0.5, 0.5]]), torch.zeros(1, 1))
    assert loss.item() == pytest.approx(0.5e6)


def test_expert_choice_equals_a_loop() -> None:
    torch.manual_seed(0)
    moe = ExpertChoiceMoE(width=4, hidden=3, n_experts=3, experts_per_row=1.5)
    x = torch.randn(8, 4)
    found = moe(x)
    assert found.picked.shape == (3, 4)  # 8 * 1.5 / 3 places
    scores = torch.softmax(x @ moe.router.weight.T, dim=1)
    expected = torch.zeros(8, 4)
    for e in range(3):
        for n in sorted(range(8), key=lambda n: -scores[n, e].item())[:4]:
            expected[n] += scores[n, e] * moe.experts.one(e, x[n : n + 1])[0]
    torch.testing.assert_close(found.output, expected)
    assert int(found.experts_per_row().sum()) == 12


def test_expert_choice_is_even_and_leaves_some_rows_alone() -> None:
    torch.manual_seed(1)
    moe = ExpertChoiceMoE(width=4, hidden=3, n_experts=4)
    found = moe(torch.randn(64, 4))
    counts = found.experts_per_row()
    assert int(counts.sum()) == 64
    assert int(counts.max()) > 1
    assert (found.output[counts == 0] == 0).all()
    assert (counts == 0).any()


def test_a_later_row_changes_an_earlier_ones_output() -> None:
    """Why expert choice over positions cannot be used for generation as it is."""
    torch.manual_seed(2)
    moe = ExpertChoiceMoE(width=4, hidden=3, n_experts=2)
    torch.nn.init.normal_(moe.experts.bias_out)
    x = torch.randn(6, 4)
    assert (moe(x).picked[0] < 3).any()  # expert 0 takes one of the first three rows
    later = x.clone()
    later[3:] = 100.0 * (moe.router.weight[0] - moe.router.weight[1])  # all of them want expert 0
    assert moe(later).picked[0].min() >= 3
    assert not torch.allclose(moe(x).output[:3], moe(later).output[:3])


def test_experts_per_row_out_of_range_are_refused() -> None:
    for wrong in (0.0, 4.5):
        with pytest.raises(ValueError, match="experts_per_row"):
            ExpertChoiceMoE(width=2, hidden=2, n_experts=4, experts_per_row=wrong)
