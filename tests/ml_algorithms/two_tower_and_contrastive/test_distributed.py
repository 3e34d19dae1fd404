"""The sharded table and its collectives in a group of one process, and the arithmetic of bytes.

Two processes under torchrun against one: ``test_study``, in the part ``distributed``.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from ml_algorithms.two_tower_and_contrastive.distributed import (
    Job,
    Run,
    check_shareable,
    launch,
    train_distributed,
)
from ml_algorithms.two_tower_and_contrastive.objective import Recipe, TrainingPairs
from ml_algorithms.two_tower_and_contrastive.sharded_table import (
    GatherColumns,
    ShardedTable,
    all_reduce_bytes,
    sharded_bytes,
)
from ml_algorithms.two_tower_and_contrastive.training import train

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
