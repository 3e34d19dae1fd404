"""Counts against PyTorch's counter and published totals; the wire's arithmetic by hand."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from ml_algorithms.mixture_of_experts.communication import (
    Cluster,
    Layer,
    communication_ratio,
    exchange_bytes,
    exchange_seconds,
    expert_bytes_per_device,
    expert_seconds,
    step_bytes,
)
from ml_algorithms.mixture_of_experts.counting import (
    MIXTRAL_8X7B,
    moe_work,
    multi_task_multiply_adds,
    padded_multiply_adds,
    parameters,
)
from ml_algorithms.mixture_of_experts.dense import SoftMoE
from ml_algorithms.mixture_of_experts.expert_choice import ExpertChoiceMoE
from ml_algorithms.mixture_of_experts.experts import ExpertBank
from ml_algorithms.mixture_of_experts.mmoe import MMoE
from ml_algorithms.mixture_of_experts.ple import PLE
from ml_algorithms.mixture_of_experts.sparse import SparseMoE

ROWS, WIDTH, HIDDEN, EXPERTS = 32, 6, 10, 4


def counted(model: torch.nn.Module, x: torch.Tensor) -> float:
    """Multiply-adds per row, by PyTorch's own count of operations."""
    with FlopCounterMode(display=False) as counter:
        model(x)
    return counter.get_total_flops() / 2 / ROWS


@pytest.mark.parametrize("k", [1, 2, 4])
def test_sparse_work_is_what_pytorch_counts(k: int) -> None:
    moe = SparseMoE(width=WIDTH, hidden=HIDDEN, n_experts=EXPERTS, k=k)
    work = moe_work(width=WIDTH, hidden=HIDDEN, n_experts=EXPERTS, active=k)
    assert counted(moe, torch.randn(ROWS, WIDTH)) == work.multiply_adds
    assert parameters(moe) == work.total_parameters


def test_soft_and_expert_choice_work() -> None:
    x = torch.randn(ROWS, WIDTH)
    choice = ExpertChoiceMoE(width=WIDTH, hidden=HIDDEN, n_experts=EXPERTS)
    work = moe_work(width=WIDTH, hidden=HIDDEN, n_experts=EXPERTS, active=1)
    assert counted(choice, x) == work.multiply_adds
    soft = SoftMoE(width=WIDTH, hidden=HIDDEN, n_experts=EXPERTS)
    work = moe_work(width=WIDTH, hidden=HIDDEN, n_experts=EXPERTS, active=EXPERTS)
    assert parameters(soft) == work.total_parameters == work.active_parameters
    mixing = EXPERTS * WIDTH  # the weighted sum, which moe_work leaves out
    assert counted(soft, x) == work.multiply_adds + mixing


def test_a_dense_block_has_no_router() -> None:
    work = moe_work(width=WIDTH, hidden=HIDDEN, n_experts=1, active=1)
    assert work.multiply_adds == 2 * WIDTH * HIDDEN
    assert work.total_parameters == parameters(ExpertBank(n_experts=1, width=WIDTH, hidden=HIDDEN))
    with pytest.raises(ValueError, match="active experts"):
        moe_work(width=2, hidden=2, n_experts=2, active=3)


def test_padding_costs_what_the_places_cost() -> None:
    # 4 experts with 10 places for 32 rows: 40 / 32 of the work, and the router
    work = padded_multiply_adds(width=6, hidden=10, n_experts=4, places=10, n_rows=32)
    assert work == pytest.approx(1.25 * 120 + 24)


@pytest.mark.parametrize(
    "model",
    [
        MMoE(n_features=9, n_tasks=2, n_experts=1, expert_dims=(8, 4)),
        MMoE(n_features=9, n_tasks=3, n_experts=5, expert_dims=(8, 4)),
        PLE(n_features=9, n_tasks=2, own_experts=2, shared_experts=3, expert_dims=(8,)),
        PLE(n_features=9, n_tasks=2, own_experts=1, shared_experts=2, n_levels=2),
    ],
)
def test_multi_task_work_is_what_pytorch_counts(model: torch.nn.Module) -> None:
    assert counted(model, torch.randn(ROWS, 9)) == multi_task_multiply_adds(model)


def test_mmoe_computes_all_its_experts() -> None:
    one = MMoE(n_features=32, n_tasks=2, n_experts=1, expert_dims=(64,), tower_dims=())
    eight = MMoE(n_features=32, n_tasks=2, n_experts=8, expert_dims=(64,), tower_dims=())
    assert multi_task_multiply_adds(eight) > 7 * multi_task_multiply_adds(one)


def test_mixtral_total_and_active_match_what_is_published() -> None:
    # "47B parameters, but only uses 13B active" (Jiang et al. 2024, abstract)
    assert round(MIXTRAL_8X7B.total / 1e9) == 47
    assert round(MIXTRAL_8X7B.active / 1e9) == 13
    assert MIXTRAL_8X7B.total < 8 * 7e9  # not 56: attention is shared


LAYER = Layer(width=4, hidden=6, n_experts=8, k=2, matrices=3, bytes_per_value=2)
CLUSTER = Cluster(devices=4, bytes_per_s=100.0, latency_s=0.5, operations_per_s=1000.0)


def test_bytes_by_hand() -> None:
    # 10 rows, 2 choices, 4 values of 2 bytes; three quarters leave the device
    assert exchange_bytes(LAYER, 4, 10) == 10 * 2 * 4 * 2 * 0.75
    assert exchange_bytes(LAYER, 1, 10) == 0.0
    assert step_bytes(LAYER, 4, 10, training=True) == 4 * 120
    assert step_bytes(LAYER, 4, 10, training=False) == 2 * 120


def test_times_by_hand() -> None:
    assert exchange_seconds(LAYER, CLUSTER, 10) == pytest.approx(0.5 + 1.2)
    # 2 operations * 10 rows * 2 experts * 3 matrices * 24
    assert expert_seconds(LAYER, CLUSTER, 10) == pytest.approx(2.88)
    assert communication_ratio(LAYER, CLUSTER, 10) == pytest.approx(3.4 / 2.88)


def test_without_latency_only_the_experts_hidden_width_counts() -> None:
    free = Cluster(4, 100.0, 0.0, 1000.0)
    ratio = communication_ratio(LAYER, free, 10)
    assert ratio == pytest.approx(2 * 1000.0 * 0.75 / (3 * 6 * 100.0))
    for other in (Layer(4, 6, 8, 1, 3), Layer(40, 6, 8, 2, 3)):
        assert communication_ratio(other, free, 77) == pytest.approx(ratio)
    assert communication_ratio(Layer(4, 3, 8, 4, 3), free, 10) == pytest.approx(2 * ratio)


def test_memory_is_divided_and_must_divide() -> None:
    assert expert_bytes_per_device(LAYER, 4) == 2 * 3 * 4 * 6 * 2
    with pytest.raises(ValueError, match="spread evenly"):
        expert_bytes_per_device(LAYER, 3)


def test_impossible_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="at most n_experts"):
        Layer(4, 4, n_experts=2, k=3)
    with pytest.raises(ValueError, match="bandwidth"):
        Cluster(1, 0.0, 0.0, 1.0)
    with pytest.raises(ValueError, match="latency"):
        Cluster(1, 1.0, -1.0, 1.0)
