"""A table whose rows live on several processes, and the collectives with gradients around it.

In: ids i64[N] that this process wants, in a ``torch.distributed`` group of W processes. Out: their
rows f32[N, D], with a gradient that ends on the process that owns the row. Also the arithmetic of
what each layout sends.

Row r is row r // W of process r mod W. A lookup is three exchanges (how many, which ids, the rows),
its backward pass one (the rows' gradients), each an all-to-all with parts of uneven size. That is
the model-parallel layout of DLRM (Naumov et al., 2019) for tables beyond one machine's memory.

Gloo (CPU) has all that is used here: all_gather, all_reduce, all_to_all_single with uneven parts.
reduce_scatter would halve what the backward of ``GatherColumns`` sends; recent gloo has it, but
all_reduce runs on older ones too.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd import Function

FLOAT_BYTES, ID_BYTES = 4, 8


class GatherColumns(Function):
    """All processes' rows [n, D], stacked in rank order [W n, D]; gradients are summed back."""

    @staticmethod
    def forward(ctx: Any, mine: Tensor) -> Tensor:
        """All-gather."""
        return gather(mine)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        """Every process has a gradient for every column: sum them, keep those of one's own."""
        total = gradients[0].clone(memory_format=torch.contiguous_format)  # autograd's stays as is
        dist.all_reduce(total)
        return total.chunk(dist.get_world_size())[dist.get_rank()]


class Exchange(Function):
    """Uneven all-to-all of rows [sum(send), D]; the gradient takes the same way back."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, send: list[int], receive: list[int]) -> Tensor:
        """Sends ``send[r]`` rows to process r and gets ``receive[r]`` from it."""
        ctx.send, ctx.receive = send, receive
        return _exchange(rows, send, receive)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        """Sends each row's gradient to where the row came from."""
        return _exchange(gradients[0], ctx.receive, ctx.send), None, None


class ShardedTable(nn.Module):
    """Row-sharded embedding table: row r is row r // W of process r mod W.

    Modulo, and not ranges, because ids often follow age or popularity: ranges would give one
    process all the popular rows.
    """

    def __init__(self, whole: Tensor) -> None:
        """Keep one's own rows of ``whole`` [I, D] (at scale: initialise only those)."""
        super().__init__()
        self.world, rank = dist.get_world_size(), dist.get_rank()
        self.n_rows = len(whole)
        self.weight = nn.Parameter(whole[rank :: self.world].clone())
        # DDP averages over processes; what arrives here is a sum over them.
        self.weight.register_hook(lambda gradient: gradient / self.world)
        self.bytes_sent = 0

    def forward(self, wanted: Tensor) -> Tensor:
        """Rows [N, D] of ids i64[N]. Each distinct row crosses the wire once.

        Ids travel to the owners, rows come back; the backward pass sends one gradient per row.
        """
        distinct, place = wanted.unique(return_inverse=True)
        owner = distinct % self.world
        order = torch.argsort(owner, stable=True)
        send = torch.bincount(owner, minlength=self.world)
        receive = torch.empty_like(send)
        dist.all_to_all_single(receive, send)
        n_send, n_receive = send.tolist(), receive.tolist()
        asked = _exchange(distinct[order], n_send, n_receive)
        rows = Exchange.apply(self.weight[asked // self.world], n_receive, n_send)
        self._count(n_send, n_receive)
        back = torch.empty_like(order)
        back[order] = torch.arange(len(order))
        return rows[back[place]]

    def whole(self) -> Tensor:
        """The table [I, D], put together on every process; for saving and serving."""
        longest = -(-self.n_rows // self.world)
        padded = self.weight.detach().new_zeros(longest, self.weight.shape[1])
        padded[: len(self.weight)] = self.weight.detach()
        parts = gather(padded).view(self.world, longest, -1)
        return parts.transpose(0, 1).reshape(self.world * longest, -1)[: self.n_rows]

    def _count(self, asked: list[int], served: list[int]) -> None:
        """Bytes that leave this process for one lookup and its backward: ids, rows, gradients."""
        rank, row = dist.get_rank(), self.weight.shape[1] * FLOAT_BYTES
        out, into = sum(asked) - asked[rank], sum(served) - served[rank]
        self.bytes_sent += self.world * ID_BYTES + out * (ID_BYTES + row) + into * row


def all_reduce_bytes(n_floats: int, world: int) -> float:
    """Bytes that each process sends to all-reduce so many floats around a ring: 2 (W - 1) / W."""
    return 2 * (world - 1) / world * n_floats * FLOAT_BYTES


def sharded_bytes(n_distinct: float, dim: int, world: int) -> float:
    """Bytes that each process sends for a sharded lookup of distinct rows, forward and backward.

    Of the rows that a process asks for, (W - 1) / W live elsewhere: it sends their ids, serves as
    many rows to others, and sends as many gradients back. The size of the table does not occur.
    """
    remote = n_distinct * (world - 1) / world
    return world * ID_BYTES + remote * (ID_BYTES + 2 * dim * FLOAT_BYTES)


def gather(mine: Tensor) -> Tensor:
    """All processes' tensors of equal shape, stacked in rank order; no gradient."""
    parts = [torch.empty_like(mine) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, mine.contiguous())
    return torch.cat(parts)


def _exchange(rows: Tensor, send: list[int], receive: list[int]) -> Tensor:
    """Uneven all-to-all of rows; no gradient."""
    arrived = rows.new_empty(sum(receive), *rows.shape[1:])
    dist.all_to_all_single(arrived, rows.contiguous(), receive, send)
    return arrived
