"""The sharded table and its collectives, gradients of two processes against one, and bytes.

A group of one process shows the plumbing; sums and averages over processes are the same in it. So
``two_processes.py`` is started twice, and its gradients are held against one process's. Two
processes under torchrun: ``test_study``, in the part ``distributed``.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from ml_algorithms.two_tower_and_contrastive import distributed
from ml_algorithms.two_tower_and_contrastive.bench_distributed import update_difference
from ml_algorithms.two_tower_and_contrastive.distributed import (
    Job,
    Run,
    check_shareable,
    launch,
    train_distributed,
)
from ml_algorithms.two_tower_and_contrastive.objective import Objective, Recipe, TrainingPairs
from ml_algorithms.two_tower_and_contrastive.sharded_table import (
    GatherColumns,
    ShardedTable,
    all_reduce_bytes,
    sharded_bytes,
)
from ml_algorithms.two_tower_and_contrastive.towers import TwoTower, build_two_tower
from ml_algorithms.two_tower_and_contrastive.training import batches, train

RECIPE = Recipe(
    loss="mixed", log_q="counts", correct_positive=False, batch_size=32, n_negatives=16,
    dim=6, hidden=5, epochs=1, learning_rate=0.02,
)  # fmt: skip


@pytest.fixture
def group(tmp_path: Path) -> Iterator[None]:
    """A gloo group of this process alone, met at a file: no port."""
    store = dist.FileStore(str(tmp_path / "store"), 1)
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def pairs() -> TrainingPairs:
    generator = torch.Generator().manual_seed(0)
    return TrainingPairs(
        history=torch.randint(32, (320, 5), generator=generator),
        item_idx=torch.randint(31, (320,), generator=generator) ** 2 // 31,
        user_idx=torch.randint(40, (320,), generator=generator),
        genres=torch.eye(31)[:, :4],
    )


@pytest.mark.usefixtures("group")
def test_a_lookup_is_an_embedding_with_its_gradient() -> None:
    whole = torch.randn(7, 3, generator=torch.Generator().manual_seed(0))
    wanted = torch.tensor([6, 0, 6, 3, 6])
    table = ShardedTable(whole)
    rows = table(wanted)
    torch.testing.assert_close(rows, whole[wanted])
    (rows * torch.arange(15.0).view(5, 3)).sum().backward()
    ordinary = torch.nn.Embedding.from_pretrained(whole.clone(), freeze=False)
    (ordinary(wanted) * torch.arange(15.0).view(5, 3)).sum().backward()
    torch.testing.assert_close(table.weight.grad, ordinary.weight.grad)
    torch.testing.assert_close(table.whole(), whole)
    assert table.bytes_sent == 8  # alone, nothing but a count to itself


@pytest.mark.usefixtures("group")
def test_gathered_columns_carry_their_gradient() -> None:
    mine = torch.ones(2, 3, requires_grad=True)
    (GatherColumns.apply(mine) * torch.tensor([[1.0], [2.0]])).sum().backward()
    assert mine.grad is not None
    assert mine.grad.tolist() == [[1.0] * 3, [2.0] * 3]


@pytest.mark.usefixtures("group")
@pytest.mark.parametrize("layout", ["replicated", "sharded"])
def test_a_group_of_one_trains_the_model_of_plain_training(layout: str) -> None:
    alone = train(pairs(), RECIPE, seed=0, max_steps=6).model.state_dict()
    run = Run(layout, seed=0, max_steps=6)  # type: ignore[arg-type]
    found = train_distributed(pairs(), RECIPE, run)
    assert found["steps"] == 6
    for name, value in alone.items():
        torch.testing.assert_close(found["state"][name], value, rtol=0, atol=2e-4)


def gradients_of_two(folder: Path, model: TwoTower) -> dict[str, dict[str, torch.Tensor]]:
    """What ``two_processes.py`` writes, by case; see there."""
    job = {"pairs": vars(pairs()), "recipe": RECIPE.model_dump(), "state": model.state_dict()}
    torch.save(job, folder / "job.pt")
    root = Path(distributed.__file__).parents[2]
    command = [sys.executable, str(Path(__file__).with_name("two_processes.py")), str(folder)]
    started = [
        subprocess.Popen(
            [*command, str(rank)],
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(root)},
        )
        for rank in range(2)
    ]
    for process in started:
        _, said = process.communicate(timeout=60)
        assert process.returncode == 0, said
    found: dict[str, dict[str, torch.Tensor]] = torch.load(folder / "out.pt", weights_only=True)
    return found


def off(gradients: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> dict[str, float]:
    """Relative difference of every parameter's gradient, by norm."""
    return {
        name: float((gradients[name] - value).norm() / value.norm())
        for name, value in expected.items()
    }


def test_gradients_of_two_processes_are_those_of_one(tmp_path: Path) -> None:
    model = build_two_tower(
        pairs().genres, dim=RECIPE.dim, hidden=RECIPE.hidden, normalise=RECIPE.normalise, seed=0
    )
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():  # at the usual start, outer layers are zero and inner gradients too
        for parameter in model.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    _, batch = next(batches(pairs(), RECIPE, 0))
    Objective(pairs(), RECIPE, 0)(model, batch, 0).backward()
    expected = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert len(expected) == 10
    found = gradients_of_two(tmp_path, model)
    for case in ("replicated", "sharded"):
        assert max(off(found[case], expected).values()) < 1e-4, case
    # Controls. A sum in place of the mean is a factor of two, and only on the sharded table.
    undivided = off(found["sharded_undivided"], expected)
    assert undivided.pop("table.weight") == pytest.approx(1.0, abs=1e-3)
    assert max(undivided.values()) < 1e-4
    for case in ("replicated_local", "sharded_local"):
        assert min(off(found[case], expected).values()) > 0.01, case


def test_two_processes_step_as_one_under_plain_descent_only_if_scaled_right() -> None:
    start = {"a": torch.zeros(2), "b": torch.ones(3)}
    one = {"a": torch.tensor([3.0, 4.0]), "b": torch.tensor([1.0, 1.0, 3.0])}
    assert update_difference(one, one, start) == 0
    twice = {"a": one["a"], "b": torch.tensor([1.0, 1.0, 5.0])}
    assert update_difference(twice, one, start) == 1


@pytest.mark.usefixtures("group")
def test_the_gathers_backward_leaves_autograds_gradient_alone() -> None:
    # A group of one sums nothing: what is seen is that the sum is taken in another tensor.
    gradient = torch.ones(2, 3)
    assert GatherColumns.backward(None, gradient).data_ptr() != gradient.data_ptr()


def test_what_cannot_be_shared_is_refused() -> None:
    check_shareable(RECIPE, 320, 2)
    for change, message in (
        ({"loss": "bpr"}, "not shared between processes"),
        ({"log_q": "streaming"}, "not shared between processes"),
        ({"learn_temperature": True}, "not synchronised"),
        ({"batch_size": 33}, "multiples of 2"),
        ({"n_negatives": 15}, "multiples of 2"),
    ):
        with pytest.raises(ValueError, match=message):
            check_shareable(RECIPE.model_copy(update=change), 320, 2)


def test_a_failed_launch_says_what_torchrun_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.executable", "/bin/false")
    with pytest.raises(RuntimeError, match="torchrun ended with 1"):
        launch(Job(pairs(), RECIPE, (Run("replicated", 0),)), tmp_path)


def test_bytes_by_hand() -> None:
    assert all_reduce_bytes(100, 4) == 2 * 3 / 4 * 400
    # 10 rows, half remote: 5 ids of 8 bytes, 5 rows and 5 gradients of 3 floats, 2 counts.
    assert sharded_bytes(10, 3, 2) == 5 * 8 + 2 * 5 * 12 + 16
