"""Starts R processes on this machine and compares them with one process.

In: a `ParallelCase`. Out: a `ParallelReport` with the largest differences of outputs and gradients,
bytes and times. Each process writes what it found into a file; this one reads and compares.

Legend: R processes, N rows in total, D width, H hidden width, E experts.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch import multiprocessing as processes

from ml_algorithms.mixture_of_experts.expert_parallel import ExpertParallelMoE
from ml_algorithms.mixture_of_experts.sparse import SparseMoE

# Loopback: the processes are on one machine, and a host name that does not resolve stops gloo.
LOOPBACK = "lo0" if sys.platform == "darwin" else "lo"


@dataclass(frozen=True)
class ParallelCase:
    """What is run; every process builds the same layer and rows from the seed."""

    width: int = 32
    hidden: int = 64
    n_experts: int = 8
    k: int = 2
    rows: int = 256
    ranks: int = 2
    repeats: int = 1
    seed: int = 0

    def build(self) -> tuple[SparseMoE, Tensor, Tensor]:
        """The layer, rows f[N, D] and targets f[N, D].

        Raises:
            ValueError: If the rows cannot be divided evenly.
        """
        if self.rows % self.ranks:
            raise ValueError(f"{self.rows} rows cannot be divided among {self.ranks} processes")
        torch.manual_seed(self.seed)
        layer = SparseMoE(width=self.width, hidden=self.hidden, n_experts=self.n_experts, k=self.k)
        return layer, torch.randn(self.rows, self.width), torch.randn(self.rows, self.width)


@dataclass(frozen=True)
class ParallelReport:
    """Differences are largest absolute ones; times are medians of forward plus backward."""

    output_difference: float
    input_gradient_difference: float
    expert_gradient_difference: float
    router_gradient_difference: float
    largest_gradient: float
    bytes_sent: list[int]
    """Per process, rows only, in one forward and backward pass."""
    single_ms: float
    parallel_ms: float
    exchange_ms: float
    """Of ``parallel_ms``, inside exchanges, waiting for the other process included."""


def verify_parallel(case: ParallelCase) -> ParallelReport:
    """Run one process and R processes on the same rows, one thread each, and compare."""
    layer, x, target = case.build()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        single = _timed(lambda: _single_step(layer, x, target), case.repeats)
    finally:
        torch.set_num_threads(threads)
    output, x_grad = _single_step(layer, x, target)
    found = _run_processes(case)
    experts = [p.grad for p in layer.experts.parameters()]
    router = [p.grad for p in layer.router.parameters()]
    here = case.n_experts // case.ranks
    expert_pairs = [
        (whole[r * here : (r + 1) * here], mine)  # type: ignore[index]
        for r, part in enumerate(found)
        for whole, mine in zip(experts, part["experts"], strict=True)
    ]
    router_pairs = [pair for part in found for pair in zip(router, part["router"], strict=True)]
    return ParallelReport(
        output_difference=_largest([(output, torch.cat([p["output"] for p in found]))]),
        input_gradient_difference=_largest([(x_grad, torch.cat([p["x_grad"] for p in found]))]),
        expert_gradient_difference=_largest(expert_pairs),
        router_gradient_difference=_largest(router_pairs),
        largest_gradient=max(float(p.grad.abs().max()) for p in layer.parameters()),  # type: ignore[union-attr]
        bytes_sent=[part["bytes"] for part in found],
        single_ms=single,
        parallel_ms=max(part["ms"] for part in found),
        exchange_ms=max(part["exchange_ms"] for part in found),
    )


def _single_step(layer: SparseMoE, x: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Output and the gradient of the rows; parameters keep their gradients."""
    layer.zero_grad()
    rows = x.clone().requires_grad_()
    output = layer(rows).output
    _loss(output, target, len(x)).backward()
    return output.detach(), _gradient(rows)


def _loss(output: Tensor, target: Tensor, n_rows: int) -> Tensor:
    """Squared error over all N rows, so that the processes' losses sum to the single one's."""
    return (output - target).square().sum() / n_rows


def _gradient(rows: Tensor) -> Tensor:
    if rows.grad is None:
        raise ValueError("the rows got no gradient: nothing was routed")
    return rows.grad


def _run_processes(case: ParallelCase) -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory(prefix="experts-") as folder:
        processes.start_processes(  # type: ignore[attr-defined]
            _worker, args=(case, folder), nprocs=case.ranks, start_method="spawn"
        )
        return [torch.load(Path(folder) / f"{rank}.pt") for rank in range(case.ranks)]


def _worker(rank: int, case: ParallelCase, folder: str) -> None:
    os.environ.setdefault("GLOO_SOCKET_IFNAME", LOOPBACK)
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=case.ranks
    )
    try:
        torch.save(_worker_step(rank, case), Path(folder) / f"{rank}.pt")
    finally:
        dist.destroy_process_group()


def _worker_step(rank: int, case: ParallelCase) -> dict[str, Any]:
    whole, x, target = case.build()
    layer = ExpertParallelMoE(whole, rank=rank, ranks=case.ranks)
    exchange_ms = []
    mine = slice(rank * case.rows // case.ranks, (rank + 1) * case.rows // case.ranks)

    def step() -> tuple[Tensor, Tensor]:
        layer.zero_grad()
        layer.traffic.bytes_sent, layer.traffic.seconds = 0, 0.0
        rows = x[mine].clone().requires_grad_()
        output = layer(rows)
        _loss(output, target[mine], case.rows).backward()
        layer.reduce_router_gradients()
        exchange_ms.append(1e3 * layer.traffic.seconds)
        return output.detach(), _gradient(rows)

    ms = _timed(step, case.repeats)
    waited = statistics.median(exchange_ms[1:])  # the first was the warm-up
    output, x_grad = step()
    return {
        "output": output,
        "x_grad": x_grad,
        "experts": [p.grad for p in layer.experts.parameters()],
        "router": [p.grad for p in layer.router.parameters()],
        "bytes": layer.traffic.bytes_sent,
        "ms": ms,
        "exchange_ms": waited,
    }


def _timed(step: Callable[[], object], repeats: int) -> float:
    """Median milliseconds after one warm-up."""
    step()
    elapsed = []
    for _ in range(repeats):
        started = time.perf_counter()
        step()
        elapsed.append(1e3 * (time.perf_counter() - started))
    return statistics.median(elapsed)


def _largest(pairs: list[tuple[Tensor | None, Tensor]]) -> float:
    """Largest absolute difference over pairs of tensors."""
    return max(float((a - b).abs().max()) for a, b in pairs if a is not None)
