"""Expert parallelism: the experts are spread over processes, rows travel to them and back.

In, per process: its share of the rows f[N/R, D]. Out: their outputs, equal to those of one process
that holds all experts, and gradients that are equal too (`verify_parallel` measures both).

GShard, ICLR 2021, section 3.2. One forward pass in a process:

    1. route the local rows (every process has the whole router)
    2. sort the choices by expert; experts lie in order, so they are sorted by process as well
    3. tell each process how many rows will come for each of its experts
    4. all-to-all: send the rows              f[M, D] -> f[M', D]
    5. run the local experts on what arrived
    6. all-to-all back, weigh, add            f[M', D] -> f[M, D]

The backward pass of an all-to-all is the all-to-all in the other direction: gradients of the
answers travel to the experts, gradients of the rows travel home. An expert's gradient is then
complete where it lives; only the router, which everyone holds, needs an all-reduce.

Departure: no capacity. Production systems before dropless kernels sent buckets of fixed size, so
that step 3 was not needed; here the sizes are exchanged first. Backend gloo: its
``all_to_all_single`` works on CPU tensors (the list form, ``all_to_all``, came later).

Legend: R processes, N rows in total, M choices that one process sends, D width, E experts.
"""

from __future__ import annotations

import time
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ml_algorithms.mixture_of_experts.experts import ExpertBank
from ml_algorithms.mixture_of_experts.sparse import DispatchOrder, Router, SparseMoE


class Traffic:
    """Counts what left this process, and the time spent exchanging (waiting included)."""

    def __init__(self) -> None:
        self.bytes_sent = 0
        self.seconds = 0.0

    def exchange(self, rows: Tensor, send: list[int], receive: list[int]) -> Tensor:
        """Send ``send[r]`` rows to process r; returns what the others sent here."""
        started = time.perf_counter()
        arrived = rows.new_empty((sum(receive), *rows.shape[1:]))
        dist.all_to_all_single(arrived, rows.contiguous(), receive, send)
        elsewhere = sum(send) - send[dist.get_rank()]  # what stays here is not on the wire
        self.bytes_sent += elsewhere * rows[:1].numel() * rows.element_size()
        self.seconds += time.perf_counter() - started
        return arrived


class _AllToAll(torch.autograd.Function):
    """An exchange whose gradient is the reverse exchange."""

    @staticmethod
    def forward(
        ctx: Any, rows: Tensor, send: list[int], receive: list[int], traffic: Traffic
    ) -> Tensor:
        ctx.splits, ctx.traffic = (send, receive), traffic
        return traffic.exchange(rows, send, receive)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        send, receive = ctx.splits
        return ctx.traffic.exchange(gradients[0], receive, send), None, None, None


class ExpertParallelMoE(nn.Module):
    """One process's part: the whole router and E / R of the experts."""

    def __init__(self, whole: SparseMoE, *, rank: int, ranks: int) -> None:
        """Take this process's slice of a layer that every process built from the same seed.

        Args:
            whole: The layer; without capacity.
            rank: This process.
            ranks: R.

        Raises:
            ValueError: If the experts cannot be spread evenly, or the layer has a capacity.
        """
        super().__init__()
        n_experts = whole.experts.n_experts
        if n_experts % ranks:
            raise ValueError(f"{n_experts} experts cannot be spread evenly over {ranks} processes")
        if whole.capacity_factor is not None:
            raise ValueError(
                "expert parallelism here has no capacity: what is dropped would depend on how the "
                f"rows are divided; got capacity_factor={whole.capacity_factor}"
            )
        self.n_experts, self.ranks, self.here = n_experts, ranks, n_experts // ranks
        self.router: Router = whole.router
        self.experts = _slice(whole.experts, rank * self.here, self.here)
        self.traffic = Traffic()

    def forward(self, x: Tensor) -> Tensor:
        """This process's rows f[N/R, D] through everybody's experts."""
        routing = self.router(x)
        everything = torch.ones_like(routing.experts, dtype=torch.bool)
        order = DispatchOrder.of(routing.experts, everything, self.n_experts)
        coming = self._exchange_counts(order.counts)  # i64[R, E/R]: from process r for expert e
        send = torch.tensor(order.counts).view(self.ranks, self.here).sum(dim=1).tolist()
        receive = coming.sum(dim=1).tolist()

        arrived = _AllToAll.apply(x[order.rows], send, receive, self.traffic)
        answers = self._run_experts(arrived, coming)
        returned = _AllToAll.apply(answers, receive, send, self.traffic)
        return order.combine(returned, routing.weights, x)

    def _exchange_counts(self, counts: list[int]) -> Tensor:
        coming = torch.empty(self.ranks * self.here, dtype=torch.int64)
        dist.all_to_all_single(coming, torch.tensor(counts))
        return coming.view(self.ranks, self.here)

    def _run_experts(self, arrived: Tensor, coming: Tensor) -> Tensor:
        """Rows come ordered by (process, expert); experts want them by expert."""
        expert_of = torch.arange(self.here).repeat(self.ranks).repeat_interleave(coming.flatten())
        by_expert = torch.argsort(expert_of, stable=True)
        answers = self.experts.grouped(arrived[by_expert], coming.sum(dim=0).tolist())
        return torch.empty_like(answers).index_copy(0, by_expert, answers)

    def reduce_router_gradients(self) -> None:
        """Sum over the processes the gradients of what all of them hold."""
        for parameter in self.router.parameters():
            if parameter.grad is not None:
                dist.all_reduce(parameter.grad)


def _slice(bank: ExpertBank, first: int, count: int) -> ExpertBank:
    """Experts first .. first+count-1 as a bank of their own."""
    part = ExpertBank(n_experts=count, width=bank.width, hidden=bank.hidden)
    with torch.no_grad():
        for mine, whole in zip(part.parameters(), bank.parameters(), strict=True):
            mine.copy_(whole[first : first + count])
    return part
