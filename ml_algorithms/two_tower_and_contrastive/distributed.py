"""The two-tower on several processes: table replicated or sharded by row, negatives shared.

In: ``TrainingPairs`` and a ``Recipe`` in a file, started by torchrun. Out: the trained weights as
one file (the whole table, whoever held it), seconds, and bytes sent by each process.

    python -m torch.distributed.run --standalone --nproc_per_node=2
        -m ml_algorithms.two_tower_and_contrastive.distributed --job job.pt --out out.pt

Each of W processes takes its part of every global batch, in the order of ``training.batches``, so
that one process and W do the same arithmetic up to rounding. Three things have to be global:

1. *Negatives.* A process that saw only its own B / W columns would train another loss. Item
   vectors, their ids and users are gathered from all; the gradient of a gathered column is the sum
   over the processes that used it (``sharded_table.GatherColumns``).
2. *Dense gradients.* DistributedDataParallel averages them: Li et al., "PyTorch Distributed",
   VLDB 2020. The local loss is the mean over B / W rows, so the average is the global mean's.
3. *The table.* Replicated: one more parameter of DDP, its whole gradient is all-reduced. Sharded:
   ``sharded_table.ShardedTable``, outside of DDP, each process steps its own rows.

``log q`` uses counts of the whole training window, the same everywhere. A streaming estimate would
have to see the gathered ids, or every process would learn its own q.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ml_algorithms.two_tower_and_contrastive.loss import sampled_softmax_loss
from ml_algorithms.two_tower_and_contrastive.objective import (
    Batch,
    Objective,
    Recipe,
    TrainingPairs,
)
from ml_algorithms.two_tower_and_contrastive.sharded_table import (
    GatherColumns,
    ShardedTable,
    all_reduce_bytes,
    gather,
)
from ml_algorithms.two_tower_and_contrastive.towers import TwoTower, build_two_tower
from ml_algorithms.two_tower_and_contrastive.training import batches, optimiser_of

Layout = Literal["replicated", "sharded"]
LAUNCH_TIMEOUT_S = 600


def distribute(model: TwoTower, layout: Layout) -> nn.Module:
    """The model as W processes train it; all start from the same weights."""
    if layout == "replicated":
        return DistributedDataParallel(model)
    table = ShardedTable(model.table.get_parameter("weight").detach())
    return TwoTower(table, DistributedDataParallel(model.towers), model.n_items)


def global_loss(
    model: nn.Module, batch: Batch, objective: Objective, *, share_negatives: bool = True
) -> Tensor:
    """This process's part of the sampled softmax over the columns of all processes.

    Args:
        model: From ``distribute``.
        batch: The global batch; this process computes its slice of rows and of uniform negatives.
        objective: For log q and the temperature.
        share_negatives: False keeps to this process's own columns: less to move, fewer negatives.

    Returns:
        The mean over this process's rows; the mean of it over the processes is the global loss.
    """
    recipe = objective.recipe
    part = _slice(len(batch.item_idx))
    extra = _slice(len(batch.uniform) if recipe.loss == "mixed" else 0)
    item_idx, uniform, user_idx = (
        batch.item_idx[part], batch.uniform[extra], batch.user_idx[part],
    )  # fmt: skip
    query, items = model(batch.history[part], torch.cat([item_idx, uniform]))
    n_own = len(item_idx)
    gather_rows = GatherColumns.apply if share_negatives else _identity
    gather_ids = gather if share_negatives else _identity
    columns = torch.cat([gather_rows(items[:n_own]), gather_rows(items[n_own:])])
    positive_idx, positive_user = gather_ids(item_idx), gather_ids(user_idx)
    column_idx = torch.cat([positive_idx, gather_ids(uniform)])
    same_user = torch.zeros(n_own, len(columns), dtype=torch.bool)
    if recipe.mask_user:
        same_user[:, : len(positive_idx)] = user_idx[:, None] == positive_user[None, :]
    own_log_q = objective.log_q(item_idx, len(batch.item_idx))
    return sampled_softmax_loss(
        query, items[:n_own], item_idx,
        temperature=objective.temperature(), log_q=own_log_q,
        negative=columns, negative_idx=column_idx,
        negative_log_q=objective.log_q(column_idx, len(batch.item_idx)),
        in_batch=False, exclude=same_user, correct_positive=recipe.correct_positive,
        n_draws=len(columns) - 1,
    )  # fmt: skip


@dataclass(frozen=True)
class Run:
    """One training within a job."""

    layout: Layout
    seed: int
    max_steps: int | None = None
    share_negatives: bool = True
    sgd_rate: float | None = None
    """Plain gradient steps instead of AdamW (``training.optimiser_of``): shows a wrong scale."""


def train_distributed(pairs: TrainingPairs, recipe: Recipe, run: Run) -> dict[str, Any]:
    """Trains on all processes of the group; ``training.train`` on one gives the same model.

    Returns:
        On every process: ``state`` (weights of an ordinary ``TwoTower``), ``steps``, ``seconds``
        and ``table_bytes_per_step`` (sent by this process for the table).

    Raises:
        ValueError: If the recipe is none that can be shared, or a batch does not divide.
    """
    check_shareable(recipe, len(pairs), dist.get_world_size())
    model = build_two_tower(
        pairs.genres,
        dim=recipe.dim,
        hidden=recipe.hidden,
        normalise=recipe.normalise,
        seed=run.seed,
    )
    objective = Objective(pairs, recipe, run.seed)
    replica = distribute(model, run.layout)
    optimiser = optimiser_of(replica.parameters(), recipe, run.sgd_rate)
    dist.barrier()
    started, steps = time.perf_counter(), 0
    for _, batch in batches(pairs, recipe, run.seed):
        if steps == run.max_steps:
            break
        loss = global_loss(replica, batch, objective, share_negatives=run.share_negatives)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        steps += 1
    dist.barrier()
    seconds = time.perf_counter() - started
    weight = model.table.get_parameter("weight")
    sent = all_reduce_bytes(weight.numel(), dist.get_world_size())
    if isinstance(replica, TwoTower) and isinstance(replica.table, ShardedTable):
        sent = replica.table.bytes_sent / steps
        with torch.no_grad():
            weight.copy_(replica.table.whole())
    return {
        "state": model.state_dict(),
        "steps": steps,
        "seconds": seconds,
        "table_bytes_per_step": sent,
    }


@dataclass(frozen=True)
class Job:
    """What ``launch`` hands to the processes."""

    pairs: TrainingPairs
    recipe: Recipe
    runs: tuple[Run, ...]


def launch(job: Job, folder: Path, *, processes: int = 2) -> list[dict[str, Any]]:
    """Runs a job under torchrun and reads what rank 0 wrote: ``train_distributed`` of each run.

    ``--standalone`` finds a free port itself, so that several can run on one machine.

    Raises:
        RuntimeError: If torchrun fails; the message ends with what it said.
    """
    folder.mkdir(parents=True, exist_ok=True)
    job_file, out = folder / "job.pt", folder / "out.pt"
    out.unlink(missing_ok=True)
    torch.save(
        {
            "pairs": vars(job.pairs),
            "recipe": job.recipe.model_dump(),
            "runs": [vars(run) for run in job.runs],
        },
        job_file,
    )
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone",
        f"--nproc_per_node={processes}", "-m", __spec__.name,
        "--job", str(job_file), "--out", str(out),
    ]  # fmt: skip
    root = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=LAUNCH_TIMEOUT_S, check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path},
    )  # fmt: skip
    if done.returncode or not out.exists():
        raise RuntimeError(f"torchrun ended with {done.returncode}: {done.stderr[-2000:]}")
    results: list[dict[str, Any]] = torch.load(out, weights_only=True)
    return results


def main() -> None:
    """One process of a job; torchrun starts W of them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--job", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    torch.set_num_threads(1)
    job = torch.load(options.job, weights_only=True)
    pairs, recipe = TrainingPairs(**job["pairs"]), Recipe.model_validate(job["recipe"])
    dist.init_process_group("gloo")
    try:
        results = [train_distributed(pairs, recipe, Run(**run)) for run in job["runs"]]
        if dist.get_rank() == 0:
            torch.save(results, options.out)
        dist.barrier()
    finally:
        dist.destroy_process_group()


def _identity(mine: Tensor) -> Tensor:
    return mine


def _slice(n: int) -> slice:
    """This process's part of n things."""
    size = n // dist.get_world_size()
    return slice(dist.get_rank() * size, (dist.get_rank() + 1) * size)


def check_shareable(recipe: Recipe, n_pairs: int, world: int) -> None:
    """Raises ValueError if so many processes cannot do what one does with this recipe."""
    if recipe.loss not in ("in_batch", "mixed") or recipe.log_q == "streaming":
        raise ValueError(
            f"loss {recipe.loss!r} with log_q {recipe.log_q!r} is not shared between processes: "
            "use in_batch or mixed, with counts or none"
        )
    if recipe.learn_temperature:
        raise ValueError("a learned temperature is not synchronised here: fix it")
    if min(recipe.batch_size, n_pairs) % world or recipe.n_negatives % world:
        raise ValueError(
            f"batch_size={recipe.batch_size} and n_negatives={recipe.n_negatives} must be "
            f"multiples of {world} processes"
        )


if __name__ == "__main__":
    main()
