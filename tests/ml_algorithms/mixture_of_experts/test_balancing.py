"""Balancing losses on routings whose values are known; the bias on a router that has collapsed."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import norm
from torch import Tensor

from ml_algorithms.mixture_of_experts.balancing import (
    BiasBalancer,
    effective_experts,
    importance_loss,
    load_loss,
    router_z_loss,
    squared_variation,
    switch_loss,
)
from ml_algorithms.mixture_of_experts.sparse import Router, Routing, expert_load


def routing_of(logits: Tensor, k: int = 1) -> Routing:
    probabilities = torch.softmax(logits, dim=-1)
    weights, experts = torch.topk(probabilities, k)
    return Routing(experts, weights, logits, logits, None)


def test_switch_loss_is_one_when_even_and_the_number_of_experts_when_collapsed() -> None:
    even = routing_of(100.0 * torch.eye(4))
    assert switch_loss(even).item() == pytest.approx(1.0)
    collapsed = routing_of(torch.tensor([[100.0, 0.0, 0.0, 0.0]]).repeat(4, 1))
    assert switch_loss(collapsed).item() == pytest.approx(4.0)


def test_switch_loss_by_hand() -> None:
    logits = torch.log(torch.tensor([[0.6, 0.4], [0.7, 0.3], [0.2, 0.8]]))
    # f = (2/3, 1/3), P = (0.5, 0.5): 2 (1/3 + 1/6) = 1
    assert switch_loss(routing_of(logits)).item() == pytest.approx(1.0)
    logits = torch.log(torch.tensor([[0.9, 0.1], [0.7, 0.3], [0.2, 0.8]]))
    # f = (2/3, 1/3), P = (0.6, 0.4)
    assert switch_loss(routing_of(logits)).item() == pytest.approx(2 * (0.4 + 0.4 / 3))


def test_switch_losss_gradient_moves_rows_from_the_busy_expert() -> None:
    logits = torch.tensor([[2.0, 0.0], [1.0, 0.0], [0.0, 0.5]], requires_grad=True)
    switch_loss(routing_of(logits)).backward()
    assert logits.grad is not None
    assert (logits.grad[:, 0] > 0).all()  # a descent step lowers the busy expert everywhere
    assert (logits.grad[:, 1] < 0).all()


def test_z_loss_by_hand() -> None:
    logits = torch.tensor([[0.0, 0.0], [math.log(3.0), 0.0]])
    expected = (math.log(2.0) ** 2 + math.log(4.0) ** 2) / 2
    assert router_z_loss(routing_of(logits)).item() == pytest.approx(expected)
    # a constant added to all logits leaves the routing alone and not the z-loss
    shifted = routing_of(logits + 5.0)
    torch.testing.assert_close(shifted.probabilities, routing_of(logits).probabilities)
    assert router_z_loss(shifted).item() > 10 * expected


def test_importance_by_hand() -> None:
    routing = Routing(
        torch.tensor([[0], [0], [1]]), torch.tensor([[0.5], [0.7], [0.8]]),
        torch.zeros(3, 2), torch.zeros(3, 2), None,
    )  # fmt: skip
    # sums 1.2 and 0.8: mean 1, population variance 0.04
    assert importance_loss(routing).item() == pytest.approx(0.04)
    assert squared_variation(torch.tensor([2.0, 2.0])).item() == 0.0
    with pytest.raises(ValueError, match="no values"):
        squared_variation(torch.empty(0))


def test_load_equals_shazeers_probability_expert_by_expert() -> None:
    torch.manual_seed(0)
    router = Router(width=5, n_experts=4, k=2, gating="chosen", noisy=True).train()
    assert router.noise is not None
    torch.nn.init.normal_(router.noise.weight)
    routing = router(torch.randn(20, 5))
    assert routing.noise_scale is not None
    clean = routing.logits.detach().numpy()
    noisy, scale = routing.noisy_logits.detach().numpy(), routing.noise_scale.detach().numpy()
    probability = np.zeros((20, 4))
    for row in range(20):
        for e in range(4):
            others = sorted(np.delete(noisy[row], e), reverse=True)
            probability[row, e] = norm.cdf((clean[row, e] - others[1]) / scale[row, e])
    load = probability.sum(axis=0)
    assert load_loss(routing).item() == pytest.approx(load.var() / load.mean() ** 2, rel=1e-4)


def test_load_loss_needs_noise_and_a_choice() -> None:
    with pytest.raises(ValueError, match="noisy"):
        load_loss(routing_of(torch.zeros(3, 2)))
    every = Router(width=2, n_experts=2, k=2, noisy=True).train()(torch.zeros(3, 2))
    with pytest.raises(ValueError, match="always chosen"):
        load_loss(every)


def test_the_bias_spreads_a_collapsed_router_without_a_gradient() -> None:
    torch.manual_seed(0)
    router = Router(width=4, n_experts=4, k=1)
    with torch.no_grad():
        router.linear.weight.zero_()
        router.linear.weight[0, 0] = 0.5
    x = torch.randn(400, 4).abs()  # expert 0 has the largest logit for every row
    before = router.linear.weight.clone()
    balancer = BiasBalancer(router, step=0.01)
    assert float(effective_experts(expert_load(router(x).experts, 4))) == pytest.approx(1.0)
    tail = []
    for _ in range(120):
        routing = router(x)
        balancer.update(routing)
        tail.append(expert_load(routing.experts, 4))
    assert float(effective_experts(torch.stack(tail[-40:]).mean(dim=0))) > 2.0
    torch.testing.assert_close(router.linear.weight, before)
    with pytest.raises(ValueError, match="positive"):
        BiasBalancer(router, step=0.0)


def test_one_step_of_the_bias() -> None:
    router = Router(width=2, n_experts=3, k=1)
    experts = torch.tensor([[0], [0], [1]])  # loads 2/3, 1/3, 0
    BiasBalancer(router, step=0.5).update(
        Routing(experts, torch.ones(3, 1), torch.zeros(3, 3), torch.zeros(3, 3), None)
    )
    assert router.selection_bias.tolist()[0] == -0.5
    assert router.selection_bias.tolist()[2] == 0.5


def test_effective_experts_of_known_loads() -> None:
    assert float(effective_experts(torch.tensor([1.0, 0.0, 0.0]))) == pytest.approx(1.0)
    assert float(effective_experts(torch.full((5,), 0.2))) == pytest.approx(5.0)
    assert float(effective_experts(torch.tensor([2.0, 2.0, 0.0]))) == pytest.approx(2.0)
    with pytest.raises(ValueError, match="no expert"):
        effective_experts(torch.zeros(3))
