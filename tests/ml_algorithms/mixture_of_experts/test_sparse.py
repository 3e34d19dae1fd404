"""The sparse layer against a loop over rows; capacity, drops and the router's gradient by hand."""

import pytest
import torch
from torch import Tensor

from ml_algorithms.mixture_of_experts.dense import SoftMoE
from ml_algorithms.mixture_of_experts.experts import ExpertBank
from ml_algorithms.mixture_of_experts.sparse import (
    DispatchOrder,
    Router,
    SparseMoE,
    capacity,
    expert_load,
    within_capacity,
)

WIDTH, HIDDEN, EXPERTS, ROWS = 6, 5, 4, 30


@pytest.fixture
def rows() -> Tensor:
    return torch.randn(ROWS, WIDTH, generator=torch.Generator().manual_seed(1))


def layer(k: int, gating: str = "all", **options: object) -> SparseMoE:
    torch.manual_seed(0)
    moe = SparseMoE(width=WIDTH, hidden=HIDDEN, n_experts=EXPERTS, k=k, gating=gating, **options)  # type: ignore[arg-type]
    torch.nn.init.normal_(moe.experts.bias_out)  # so that no expert answers exactly 0
    return moe


def plain_expert(bank: ExpertBank, expert: int, row: Tensor) -> Tensor:
    hidden = torch.relu(row @ bank.weight_in[expert] + bank.bias_in[expert])
    return hidden @ bank.weight_out[expert] + bank.bias_out[expert]


@pytest.mark.parametrize(("k", "gating"), [(1, "all"), (2, "all"), (2, "chosen"), (4, "chosen")])
def test_forward_equals_a_loop_over_rows(rows: Tensor, k: int, gating: str) -> None:
    moe = layer(k, gating)
    found = moe(rows)
    for row, output in zip(rows, found.output, strict=True):
        logits = moe.router.linear.weight @ row
        best = sorted(range(EXPERTS), key=lambda e: -logits[e].item())[:k]
        over = logits if gating == "all" else logits[best]
        weights = [(torch.exp(logits[e]) / torch.exp(over).sum()).item() for e in best]
        expected = sum(
            w * plain_expert(moe.experts, e, row) for w, e in zip(weights, best, strict=True)
        )
        torch.testing.assert_close(output, expected)
    assert found.kept.all()
    assert float(found.dropped_share) == 0.0


def test_choosing_all_experts_is_the_soft_mixture(rows: Tensor) -> None:
    sparse = layer(EXPERTS)
    soft = SoftMoE(width=WIDTH, hidden=HIDDEN, n_experts=EXPERTS)
    soft.experts, soft.router = sparse.experts, sparse.router.linear
    torch.testing.assert_close(sparse(rows).output, soft(rows).output)


def test_capacity_by_hand() -> None:
    assert capacity(100, 4, 1, 1.0) == 25
    assert capacity(100, 4, 2, 1.25) == 63  # 62.5 rounded up
    assert capacity(100, 10, 1, 1.1) == 11  # not 12: binary 11.000000000000002
    assert capacity(3, 8, 1, 0.5) == 1
    with pytest.raises(ValueError, match="must be positive"):
        capacity(10, 2, 1, 0.0)


def test_first_choices_are_seated_before_second_ones() -> None:
    experts = torch.tensor([[0, 1], [0, 1], [1, 0], [0, 1]])
    # expert 0: first choices of rows 0, 1, 3, then row 2's second; expert 1: row 2, then 0, 1, 3
    kept = within_capacity(experts, 2, 2)
    assert kept.tolist() == [[True, True], [True, False], [True, False], [False, False]]


def test_a_dropped_row_gets_zero_and_the_residual_carries_it(rows: Tensor) -> None:
    moe = layer(1, capacity_factor=0.5)
    found = moe(rows)
    places = capacity(ROWS, EXPERTS, 1, 0.5)
    dropped = ~found.kept[:, 0]
    assert dropped.any()
    assert (found.output[dropped] == 0).all()
    assert (found.output[~dropped].abs().sum(dim=1) > 0).all()
    assert int(found.kept.sum()) <= EXPERTS * places
    torch.testing.assert_close((rows + found.output)[dropped], rows[dropped])
    assert float(found.dropped_share) == pytest.approx(float(dropped.float().mean()))


def test_only_chosen_experts_get_a_gradient(rows: Tensor) -> None:
    moe = layer(1)
    one = rows[:1]
    routing = moe.router(one)
    moe(one).output.sum().backward()
    for expert in range(EXPERTS):
        has = bool(moe.experts.weight_out.grad[expert].any())  # type: ignore[index]
        assert has == (expert == int(routing.experts[0, 0]))


def test_the_weight_is_what_teaches_the_router(rows: Tensor) -> None:
    moe = layer(1)
    moe(rows).output.sum().backward()
    assert moe.router.linear.weight.grad is not None
    assert moe.router.linear.weight.grad.abs().sum() > 0
    with pytest.raises(ValueError, match="no gradient"):
        layer(1, "chosen")


def test_a_row_depends_on_its_batch_only_under_capacity(rows: Tensor) -> None:
    free, tight = layer(1), layer(1, capacity_factor=0.5)
    torch.testing.assert_close(free(rows).output[-1], free(rows[-1:]).output[0])
    dropped = int((~tight(rows).kept[:, 0]).nonzero()[0])
    alone = tight(rows[dropped : dropped + 1]).output[0]
    assert (tight(rows).output[dropped] == 0).all()
    assert alone.abs().sum() > 0


def test_noise_only_while_training(rows: Tensor) -> None:
    moe = layer(2, "chosen", noisy=True)
    moe.eval()
    torch.testing.assert_close(moe(rows).output, moe(rows).output)
    assert moe(rows).routing.noise_scale is None
    moe.train()
    torch.manual_seed(1)
    first, second = moe(rows).routing, moe(rows).routing
    assert not torch.equal(first.noisy_logits, second.noisy_logits)
    torch.testing.assert_close(first.logits, second.logits)
    # softplus(0) = log 2 at the start, plus the floor
    torch.testing.assert_close(first.noise_scale, torch.full((ROWS, EXPERTS), 0.693147 + 0.01))


def test_the_selection_bias_changes_the_choice_and_not_the_weight(rows: Tensor) -> None:
    moe = layer(1)
    moe.router.selection_bias[2] = 2.0  # more than any probability
    routing = moe(rows).routing
    assert (routing.experts == 2).all()
    torch.testing.assert_close(routing.weights[:, 0], routing.probabilities[:, 2])


def test_dispatch_sorts_by_expert_and_combine_undoes_it() -> None:
    experts = torch.tensor([[2, 0], [1, 2], [0, 1]])
    kept = torch.tensor([[True, True], [False, True], [True, True]])
    order = DispatchOrder.of(experts, kept, 3)
    assert order.counts == [2, 1, 2]
    assert order.rows.tolist() == [0, 2, 2, 0, 1]
    weights = torch.tensor([[1.0, 10.0], [100.0, 1000.0], [1e4, 1e5]])
    total = order.combine(torch.ones(5, 2), weights, torch.zeros(3, 2))
    assert total.tolist() == [[11.0, 11.0], [1000.0, 1000.0], [110000.0, 110000.0]]


def test_load_of_known_choices() -> None:
    load = expert_load(torch.tensor([[0, 1], [0, 2]]), 4)
    assert load.tolist() == [0.5, 0.25, 0.25, 0.0]


@pytest.mark.parametrize("k", [0, 5])
def test_a_k_that_no_row_can_have_is_refused(k: int) -> None:
    with pytest.raises(ValueError, match="k must lie"):
        Router(width=4, n_experts=4, k=k)


def test_sizes_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        ExpertBank(n_experts=4, hidden=4, width=0)
    with pytest.raises(ValueError, match="capacity_factor"):
        layer(1, capacity_factor=0.0)
