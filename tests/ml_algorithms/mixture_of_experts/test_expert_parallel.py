"""Two processes compute what one does: outputs, all gradients, and the bytes of the arithmetic."""

import pytest
import torch

from ml_algorithms.mixture_of_experts.communication import Layer, step_bytes
from ml_algorithms.mixture_of_experts.expert_parallel import ExpertParallelMoE
from ml_algorithms.mixture_of_experts.parallel_run import ParallelCase, verify_parallel
from ml_algorithms.mixture_of_experts.sparse import SparseMoE

CASE = ParallelCase(width=12, hidden=20, n_experts=6, k=2, rows=226, seed=3)


def test_two_processes_equal_one() -> None:
    report = verify_parallel(CASE)
    assert report.output_difference < 1e-6
    assert report.largest_gradient > 1e-3  # the tolerances below are far under what is compared
    assert report.input_gradient_difference < 1e-6
    assert report.expert_gradient_difference < 1e-6
    assert report.router_gradient_difference < 1e-6

    # The bytes that were counted are those of the choices that left the process.
    layer, x, _ = CASE.build()
    experts = layer.router(x).experts
    half = CASE.rows // 2
    away = int((experts[:half] >= 3).sum()), int((experts[half:] < 3).sum())
    row_bytes = CASE.width * 4
    assert report.bytes_sent == [2 * sum(away) * row_bytes] * 2
    even = step_bytes(Layer(12, 20, 6, 2, bytes_per_value=4), 2, half, training=True)
    assert report.bytes_sent[0] == pytest.approx(even, rel=0.25)  # routing is nearly even
    assert report.parallel_ms > report.exchange_ms > 0


def test_a_slice_holds_its_own_experts() -> None:
    whole = SparseMoE(width=4, hidden=3, n_experts=6, k=1)
    part = ExpertParallelMoE(whole, rank=1, ranks=3)
    torch.testing.assert_close(part.experts.weight_in, whole.experts.weight_in[2:4])
    assert part.experts.n_experts == 2


def test_what_cannot_be_divided_is_refused() -> None:
    whole = SparseMoE(width=4, hidden=3, n_experts=6, k=1)
    with pytest.raises(ValueError, match="spread evenly"):
        ExpertParallelMoE(whole, rank=0, ranks=4)
    tight = SparseMoE(width=4, hidden=3, n_experts=6, k=1, capacity_factor=1.0)
    with pytest.raises(ValueError, match="no capacity"):
        ExpertParallelMoE(tight, rank=0, ranks=2)
    with pytest.raises(ValueError, match="cannot be divided"):
        ParallelCase(rows=7).build()
