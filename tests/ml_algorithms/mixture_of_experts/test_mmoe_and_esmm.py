"""MMoE against a naive loop and the shared-bottom network; ESMM against plain probabilities."""

import math

import pytest
import torch
from torch import Tensor, nn

from ml_algorithms.mixture_of_experts.esmm import (
    entire_space_loss,
    joint_probabilities,
    log1m_exp,
)
from ml_algorithms.mixture_of_experts.mmoe import MMoE, gate_utilisation

FEATURES, TASKS, EXPERTS = 7, 2, 3


@pytest.fixture
def model() -> MMoE:
    torch.manual_seed(0)
    return MMoE(
        n_features=FEATURES, n_tasks=TASKS, n_experts=EXPERTS, expert_dims=(6, 4), tower_dims=(5,)
    )


@pytest.fixture
def batch() -> Tensor:
    return torch.randn(9, FEATURES, generator=torch.Generator().manual_seed(1))


def test_forward_equals_the_equations_row_by_row(model: MMoE, batch: Tensor) -> None:
    logits, gates = model(batch)
    assert logits.shape == (9, TASKS)
    assert gates.shape == (9, TASKS, EXPERTS)
    weight = model.gates.weight.view(TASKS, EXPERTS, FEATURES)
    bias = model.gates.bias.view(TASKS, EXPERTS)
    for row, x in enumerate(batch):
        for task in range(TASKS):
            gate = torch.softmax(weight[task] @ x + bias[task], dim=0)
            mixed = sum(gate[e] * model.experts[e](x) for e in range(EXPERTS))
            torch.testing.assert_close(logits[row, task], model.towers[task](mixed)[0])
            torch.testing.assert_close(gates[row, task], gate)


def test_one_expert_is_the_shared_bottom_network(batch: Tensor) -> None:
    model = MMoE(n_features=FEATURES, n_tasks=TASKS, n_experts=1, expert_dims=(6,), tower_dims=())
    logits, gates = model(batch)
    shared = model.experts[0](batch)
    torch.testing.assert_close(logits, torch.cat([tower(shared) for tower in model.towers], dim=1))
    assert (gates == 1).all()


def test_every_task_reaches_every_expert_with_a_gradient(model: MMoE, batch: Tensor) -> None:
    for task in range(TASKS):
        model.zero_grad()
        model(batch).logits[:, task].sum().backward()
        for expert in model.experts:
            assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in expert.parameters())
        other = model.towers[1 - task]
        assert all(p.grad is None or not p.grad.any() for p in other.parameters())


def test_opposed_tasks_learn_to_use_different_experts() -> None:
    """Two tasks with labels from different inputs: the gates must part."""
    torch.manual_seed(3)
    model = MMoE(n_features=4, n_tasks=2, n_experts=2, expert_dims=(4,), tower_dims=())
    optimiser = torch.optim.Adam(model.parameters(), lr=0.1)
    x = torch.randn(128, 4)
    labels = torch.stack([(x[:, 0] > 0).float(), (x[:, 1] > 0).float()], dim=1)
    for _ in range(40):
        loss = nn.functional.binary_cross_entropy_with_logits(model(x).logits, labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert loss.item() < 0.3 * math.log(2)  # log 2 is the loss before training
    share = gate_utilisation(model(x).gates).share
    assert (share[0] - share[1]).abs().max() > 0.05


def test_gate_dropout_renormalises_in_training_only(batch: Tensor) -> None:
    torch.manual_seed(4)
    model = MMoE(n_features=FEATURES, n_tasks=2, n_experts=4, gate_dropout=0.6)
    gates = model.train()(batch.repeat(50, 1)).gates
    torch.testing.assert_close(gates.sum(dim=-1), torch.ones(450, 2))
    assert 0.4 < (gates == 0).float().mean() < 0.7
    assert (model.eval()(batch).gates > 0).all()


def test_dropout_and_deep_towers_are_built() -> None:
    model = MMoE(n_features=3, n_tasks=1, expert_dims=(8, 8), tower_dims=(4, 2), dropout=0.5)
    assert sum(isinstance(m, nn.Dropout) for m in model.modules()) == 4 * 2 + 2
    assert model(torch.randn(2, 3)).logits.shape == (2, 1)


def test_utilisation_of_known_gates() -> None:
    gates = torch.tensor([[[1.0, 0.0], [0.5, 0.5]], [[0.0, 1.0], [0.5, 0.5]]])
    share, effective = gate_utilisation(gates)
    torch.testing.assert_close(share, torch.full((2, 2), 0.5))
    torch.testing.assert_close(effective, torch.tensor([1.0, 2.0]))  # one-hot per row; even per row
    with pytest.raises(ValueError, match="empty"):
        gate_utilisation(gates[:0])


@pytest.mark.parametrize(
    "wrong", [{"n_experts": 0}, {"n_tasks": 0}, {"expert_dims": ()}, {"gate_dropout": 1.0}]
)
def test_sizes_out_of_range_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"need at least|gate_dropout"):
        MMoE(**{"n_features": 2, "n_tasks": 2, **wrong})  # type: ignore[arg-type]


def test_joint_probability_is_the_product_and_never_above_watch() -> None:
    watch, like = torch.randn(50), torch.randn(50)
    p = joint_probabilities(watch, like)
    torch.testing.assert_close(p.like, torch.sigmoid(watch) * torch.sigmoid(like))
    torch.testing.assert_close(p.like, p.watch * p.like_given_watch)
    assert (p.like <= p.watch).all()


def test_entire_space_loss_equals_the_plain_formula() -> None:
    generator = torch.Generator().manual_seed(5)
    watch = torch.randn(40, generator=generator, dtype=torch.float64)
    like = torch.randn(40, generator=generator, dtype=torch.float64)
    watched = (torch.rand(40, generator=generator) < 0.5).double()
    liked = watched * (torch.rand(40, generator=generator) < 0.5).double()
    p = torch.sigmoid(watch) * torch.sigmoid(like)
    expected = nn.functional.binary_cross_entropy(torch.sigmoid(watch), watched)
    expected = expected + 2.0 * nn.functional.binary_cross_entropy(p, liked)
    loss = entire_space_loss(watch, like, watched, liked, like_weight=2.0)
    torch.testing.assert_close(loss, expected)


@pytest.mark.parametrize("logit", [-80.0, -30.0, 0.0, 30.0, 80.0])
@pytest.mark.parametrize("liked", [0.0, 1.0])
def test_extreme_logits_keep_finite_losses_and_gradients(logit: float, liked: float) -> None:
    watch = torch.tensor([logit], requires_grad=True)
    like = torch.tensor([logit], requires_grad=True)
    loss = entire_space_loss(watch, like, torch.tensor([1.0]), torch.tensor([liked]))
    loss.backward()
    assert math.isfinite(loss.item())
    assert watch.grad is not None
    assert like.grad is not None
    assert torch.isfinite(watch.grad).all()
    assert torch.isfinite(like.grad).all()
    if liked == 1.0 and logit == -80.0:
        assert like.grad.item() == pytest.approx(-1.0)  # a product of probabilities would give 0


def test_log1m_exp_on_both_branches() -> None:
    x = torch.tensor([-1e-3, -0.1, -0.7, -5.0, -50.0], dtype=torch.float64)
    torch.testing.assert_close(log1m_exp(x), torch.log1p(-torch.exp(x)))


def test_a_like_without_a_watch_is_a_labelling_error() -> None:
    with pytest.raises(ValueError, match="1 impressions are liked but not watched"):
        entire_space_loss(torch.zeros(2), torch.zeros(2), torch.tensor([0.0, 1.0]), torch.ones(2))
