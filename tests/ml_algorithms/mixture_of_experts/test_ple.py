"""PLE against its two limits (MMoE, separate models) and the equations of one level."""

import pytest
import torch

from ml_algorithms.mixture_of_experts.conflict import gate_distance, gradient_cosine
from ml_algorithms.mixture_of_experts.counting import parameters
from ml_algorithms.mixture_of_experts.mmoe import MMoE
from ml_algorithms.mixture_of_experts.ple import PLE
from ml_algorithms.mixture_of_experts.task_models import (
    KINDS,
    budget_width,
    models_of,
    shared_parameters,
)


def test_without_own_experts_one_level_is_mmoe() -> None:
    torch.manual_seed(0)
    ple = PLE(n_features=5, n_tasks=2, own_experts=0, shared_experts=3, expert_dims=(4,))
    mmoe = MMoE(n_features=5, n_tasks=2, n_experts=3, expert_dims=(4,))
    level = ple.levels[0]
    with torch.no_grad():
        for mine, theirs in zip(level.shared, mmoe.experts, strict=True):  # type: ignore[arg-type]
            mine.load_state_dict(theirs.state_dict())
        for task, gate in enumerate(level.task_gates):  # type: ignore[arg-type]
            gate.weight.copy_(mmoe.gates.weight[3 * task : 3 * task + 3])
            gate.bias.copy_(mmoe.gates.bias[3 * task : 3 * task + 3])
    ple.towers.load_state_dict(mmoe.towers.state_dict())
    x = torch.randn(9, 5)
    torch.testing.assert_close(ple(x).logits, mmoe(x).logits)
    torch.testing.assert_close(ple(x).gates, mmoe(x).gates)


def gradients(model: PLE, task: int) -> dict[str, bool]:
    model.zero_grad()
    model(torch.randn(6, 5)).logits[:, task].sum().backward()
    return {name: p.grad is not None and bool(p.grad.any()) for name, p in model.named_parameters()}


def test_a_tasks_loss_never_reaches_the_others_own_experts_on_one_level() -> None:
    torch.manual_seed(1)
    model = PLE(n_features=5, n_tasks=2, own_experts=2, shared_experts=1, expert_dims=(8,))
    reached = gradients(model, 0)
    assert all(hit for name, hit in reached.items() if ".own.0." in name and "weight" in name)
    assert all(hit for name, hit in reached.items() if ".shared." in name and "weight" in name)
    assert not any(hit for name, hit in reached.items() if ".own.1." in name)


def test_levels_let_the_tasks_meet_again_through_the_shared_gate() -> None:
    torch.manual_seed(2)
    model = PLE(
        n_features=5, n_tasks=2, own_experts=1, shared_experts=1, n_levels=2, expert_dims=(8,)
    )
    reached = gradients(model, 0)
    assert any(hit for name, hit in reached.items() if "levels.0.own.1." in name)
    assert not any(hit for name, hit in reached.items() if "levels.1.own.1." in name)


def test_without_shared_experts_the_tasks_are_separate() -> None:
    model = PLE(n_features=5, n_tasks=2, own_experts=2, shared_experts=0, expert_dims=(8,))
    reached = gradients(model, 1)
    assert not any(hit for name, hit in reached.items() if ".own.0." in name)
    assert shared_parameters(model) == []


def test_one_level_by_hand() -> None:
    torch.manual_seed(3)
    model = PLE(n_features=3, n_tasks=2, own_experts=1, shared_experts=1, expert_dims=(4,))
    x = torch.randn(5, 3)
    logits, gates = model(x)
    level = model.levels[0]
    for task in range(2):
        own = level.own[task][0](x)  # type: ignore[index,operator]
        shared = level.shared[0](x)  # type: ignore[index,operator]
        gate = torch.softmax(level.task_gates[task](x), dim=1)  # type: ignore[index,operator]
        mixed = gate[:, :1] * own + gate[:, 1:] * shared
        torch.testing.assert_close(logits[:, task], model.towers[task](mixed)[:, 0])
        torch.testing.assert_close(gates[:, task], gate)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"own_experts": 0, "shared_experts": 0}, "no experts"),
        ({"n_levels": 0}, "need at least"),
        ({"expert_dims": ()}, "need at least"),
        ({"shared_experts": 0, "n_levels": 2}, "shared mixture"),
    ],
)
def test_sizes_out_of_range_are_refused(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PLE(**{"n_features": 2, "n_tasks": 2, **wrong})  # type: ignore[arg-type]


def test_gradient_cosine_by_hand() -> None:
    w = torch.nn.Parameter(torch.tensor([1.0, 1.0]))
    assert gradient_cosine([w[0] * 3, w[0] * 2], [w]) == pytest.approx(1.0)
    assert gradient_cosine([w[0], -w[0]], [w]) == pytest.approx(-1.0)
    assert gradient_cosine([w[0], w[1]], [w]) == pytest.approx(0.0)
    assert gradient_cosine([w.sum(), w[0]], [w]) == pytest.approx(0.5**0.5)
    other = torch.nn.Parameter(torch.ones(1))
    assert gradient_cosine([w.sum(), other.sum()], [w, other]) == 0.0
    assert gradient_cosine([w.sum(), 0 * w.sum()], [w]) == 0.0
    with pytest.raises(ValueError, match="two losses"):
        gradient_cosine([w.sum()], [w])


def test_gate_distance_by_hand() -> None:
    apart = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
    alike = torch.tensor([[[0.3, 0.7], [0.3, 0.7]]])
    assert gate_distance(apart) == 1.0
    assert gate_distance(torch.cat([apart, alike])) == 0.5
    with pytest.raises(ValueError, match="two tasks"):
        gate_distance(torch.ones(2, 3, 4))


def test_models_of_one_budget_are_within_it_and_near_it() -> None:
    for kind, build in models_of(10, 3000).items():
        size = parameters(build())
        assert 0.9 * 3000 < size <= 3000, (kind, size)
        logits, gates = build()(torch.randn(4, 10))
        assert logits.shape == (4, 2)
        torch.testing.assert_close(gates.sum(dim=-1), torch.ones(4, 2))
    assert set(models_of(10, 3000)) == set(KINDS)
    with pytest.raises(ValueError, match="does not fit"):
        budget_width("mmoe", 10, 50)
