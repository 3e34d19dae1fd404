"""One of two processes of ``test_distributed``: gradients of one global batch, by case.

    python two_processes.py FOLDER RANK

In: FOLDER/job.pt (pairs, recipe, weights). Out: FOLDER/out.pt, written by rank 0: for every case
the gradients by the parameter names of an ordinary ``TwoTower``. The processes meet at a file.
"""

import sys
from pathlib import Path

import torch
import torch.distributed as dist

from ml_algorithms.two_tower_and_contrastive.distributed import Layout, distribute, global_loss
from ml_algorithms.two_tower_and_contrastive.objective import Objective, Recipe, TrainingPairs
from ml_algorithms.two_tower_and_contrastive.sharded_table import ShardedTable
from ml_algorithms.two_tower_and_contrastive.towers import TwoTower, build_two_tower
from ml_algorithms.two_tower_and_contrastive.training import batches


def gradients(
    model: TwoTower,
    pairs: TrainingPairs,
    recipe: Recipe,
    layout: Layout,
    *,
    share: bool,
    divide: bool,
) -> dict[str, torch.Tensor]:
    """Gradients of the first global batch; ``divide`` False drops the table's division by W."""
    replica = distribute(model, layout)
    table = replica.table if isinstance(replica, TwoTower) else None
    if isinstance(table, ShardedTable) and not divide:
        hooks = table.weight._backward_hooks
        assert hooks is not None
        assert len(hooks) == 1
        hooks.clear()
    _, batch = next(batches(pairs, recipe, 0))
    objective = Objective(pairs, recipe, 0)
    global_loss(replica, batch, objective, share_negatives=share).backward()
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    if isinstance(table, ShardedTable):
        assert table.weight.grad is not None
        table.weight.data.copy_(table.weight.grad)
        found["table.weight"] = table.whole()
    return found


def main() -> None:
    """All cases."""
    folder, rank = Path(sys.argv[1]), int(sys.argv[2])
    torch.set_num_threads(1)
    job = torch.load(folder / "job.pt", weights_only=True)
    pairs, recipe = TrainingPairs(**job["pairs"]), Recipe.model_validate(job["recipe"])
    store = dist.FileStore(str(folder / "store"), 2)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=2)
    cases: dict[str, tuple[Layout, bool, bool]] = {
        "replicated": ("replicated", True, True),
        "sharded": ("sharded", True, True),
        "sharded_undivided": ("sharded", True, False),
        "replicated_local": ("replicated", False, True),
        "sharded_local": ("sharded", False, True),
    }
    out = {}
    for name, (layout, share, divide) in cases.items():
        model = build_two_tower(
            pairs.genres, dim=recipe.dim, hidden=recipe.hidden, normalise=recipe.normalise, seed=0
        )
        model.load_state_dict(job["state"])
        out[name] = gradients(model, pairs, recipe, layout, share=share, divide=divide)
    if rank == 0:
        torch.save(out, folder / "out.pt")
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
