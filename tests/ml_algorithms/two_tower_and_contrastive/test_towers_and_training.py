"""The towers against a loop; training is repeatable, learns, and does what a recipe says."""

import math

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from ml_algorithms.two_tower_and_contrastive.objective import Objective, Recipe, TrainingPairs
from ml_algorithms.two_tower_and_contrastive.towers import (
    TwoTower,
    build_two_tower,
    score_histories,
)
from ml_algorithms.two_tower_and_contrastive.training import batches, last_items, train

N_ITEMS = 24
SMALL = {"dim": 6, "hidden": 5, "batch_size": 32, "n_negatives": 16, "learning_rate": 0.02}


def toy_pairs(n: int = 960, *, seed: int = 0) -> TrainingPairs:
    """Two halves of the catalogue; the next item comes from the half that the history is in."""
    rng = np.random.default_rng(seed)
    half = rng.integers(2, size=n)
    popularity = 1.0 / np.arange(1, 13)
    draw = rng.choice(12, size=(n, 4), p=popularity / popularity.sum()) + 12 * half[:, None]
    history = draw[:, :3].copy()
    history[::5, 0] = N_ITEMS  # some histories are shorter
    return TrainingPairs(
        history=torch.from_numpy(history),
        item_idx=torch.from_numpy(draw[:, 3]),
        user_idx=torch.arange(n),
        genres=torch.eye(N_ITEMS)[:, :3],
    )


def hit_rate(model: TwoTower) -> float:
    """Share of held-out pairs whose best 12 items are those of the right half."""
    pairs = toy_pairs(200, seed=9)
    top = score_histories(model, pairs.history).topk(12).indices
    return float(((top >= 12) == (pairs.item_idx >= 12)[:, None]).float().mean())


def test_vectors_are_those_of_a_loop() -> None:
    genres = torch.tensor([[1.0, 0.0], [0.5, 0.5], [0.0, 0.0]])
    model = build_two_tower(genres, dim=4, hidden=3, normalise=True, seed=0)
    torch.nn.init.normal_(model.towers.query_tower.outer.weight)
    torch.nn.init.normal_(model.towers.item_tower.outer.weight)
    history = torch.tensor([[3, 0, 2], [3, 3, 3]])  # 3 is padding
    query, items = model(history, torch.tensor([1, 2]))
    table, towers = model.table.weight, model.towers

    def unit(tower: torch.nn.Module, x: Tensor) -> Tensor:
        out = x + tower.outer.weight @ torch.relu(tower.inner(x)) + tower.outer.bias
        return out / out.norm()

    torch.testing.assert_close(query[0], unit(towers.query_tower, (table[0] + table[2]) / 2))
    torch.testing.assert_close(query[1], unit(towers.query_tower, torch.zeros(4)))
    genre = towers.genre.weight @ genres[1]
    torch.testing.assert_close(items[0], unit(towers.item_tower, table[1] + genre))
    torch.testing.assert_close(query @ model(history, torch.arange(3))[1].T,
                               score_histories(model, history))  # fmt: skip


def test_sizes_are_checked() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        build_two_tower(torch.ones(2, 2), dim=0, hidden=1, normalise=True, seed=0)
    with pytest.raises(ValueError, match="genres must be"):
        build_two_tower(torch.ones(2), dim=1, hidden=1, normalise=True, seed=0)


@pytest.mark.parametrize(
    "change",
    [
        {"loss": "full_softmax"},
        {"loss": "info_nce"},
        {"loss": "in_batch", "log_q": "counts"},
        {"loss": "in_batch", "log_q": "streaming"},
        {"loss": "uniform"},
        {"loss": "mixed", "log_q": "counts", "correct_positive": False},
        {"loss": "mixed", "learn_temperature": True, "temperature": 0.5},
        {"loss": "bpr"},
        {"loss": "own_negatives", "n_negatives": 8, "n_mined": 4, "mined_ranks": (6, 16),
         "mask_known": False, "mask_share": 0.9, "mined_from_epoch": 3},
    ],
)  # fmt: skip
def test_every_loss_learns_the_two_halves(change: dict[str, object]) -> None:
    recipe = Recipe.model_validate({**SMALL, "epochs": 4, **change})
    fit = train(toy_pairs(), recipe, seed=0)
    untrained = build_two_tower(toy_pairs().genres, dim=6, hidden=5, normalise=True, seed=0)
    assert hit_rate(untrained) < 0.7
    assert hit_rate(fit.model) > 0.9
    assert fit.losses[-1] < fit.losses[0] or recipe.n_mined  # mining makes the problem harder


def test_a_seed_repeats_a_run_and_another_does_not() -> None:
    recipe = Recipe.model_validate({**SMALL, "epochs": 1, "log_q": "counts"})
    first, second, other = (train(toy_pairs(), recipe, seed=s).model for s in (3, 3, 4))
    torch.testing.assert_close(first.state_dict(), second.state_dict(), rtol=0, atol=0)
    assert not torch.equal(first.table.weight, other.table.weight)


def test_the_best_epoch_is_kept() -> None:
    recipe = Recipe.model_validate({**SMALL, "epochs": 3})
    kept: list[Tensor] = []

    def worse_and_worse(model: TwoTower) -> float:
        kept.append(model.table.weight.detach().clone())
        return -float(len(kept))

    fit = train(toy_pairs(), recipe, seed=0, validate=worse_and_worse)
    assert fit.validation == [-1.0, -2.0, -3.0]
    torch.testing.assert_close(fit.model.table.weight.detach(), kept[0], rtol=0, atol=0)


def test_an_epoch_visits_every_pair_once() -> None:
    pairs, recipe = toy_pairs(96), Recipe.model_validate({**SMALL, "epochs": 2})
    seen = [[], []]  # type: ignore[var-annotated]
    for epoch, batch in batches(pairs, recipe, seed=1):
        seen[epoch] += batch.user_idx.tolist()
        assert len(batch.uniform) == 16
    assert sorted(seen[0]) == sorted(seen[1]) == list(range(96))
    assert seen[0] != seen[1]


def test_max_steps_stops_early() -> None:
    recipe = Recipe.model_validate({**SMALL, "epochs": 5})
    assert len(train(toy_pairs(), recipe, seed=0, max_steps=2).losses) == 1


def test_log_q_is_that_of_the_recipes_sampler() -> None:
    pairs = toy_pairs()
    wanted = torch.tensor([0, 12, 23])
    share = torch.bincount(pairs.item_idx, minlength=N_ITEMS)[wanted] / len(pairs)

    def log_q(**change: object) -> Tensor | None:
        recipe = Recipe.model_validate({**SMALL, **change})
        return Objective(pairs, recipe, 0).log_q(wanted, n_in_batch=32)

    assert log_q(log_q="none") is None
    torch.testing.assert_close(log_q(loss="in_batch", log_q="counts"), share.log())
    mixture = (32 * share + 16 / N_ITEMS) / 48
    torch.testing.assert_close(log_q(loss="mixed", log_q="counts"), mixture.log())
    uniform = log_q(loss="uniform", log_q="counts")
    torch.testing.assert_close(uniform, torch.full((3,), -math.log(N_ITEMS)))


def test_mined_negatives_are_neither_positive_nor_known() -> None:
    pairs = toy_pairs()
    recipe = Recipe.model_validate(
        {**SMALL, "loss": "own_negatives", "n_mined": 8, "mined_ranks": (0, 12)}
    )
    objective = Objective(pairs, recipe, 0)
    known = pairs.known()
    assert known.sum(dim=1).max() == 1
    objective.known = known | torch.nn.functional.one_hot(torch.tensor(5), N_ITEMS).bool()
    _, batch = next(batches(pairs, recipe, 0))
    generator = torch.Generator().manual_seed(0)
    query, items = torch.randn(32, 6, generator=generator), torch.randn(24, 6, generator=generator)
    mined, valid = objective._mine(query, items, batch, 8)
    assert valid.all()
    assert (mined != batch.item_idx[:, None]).all()
    assert (mined != 5).all()


def test_last_items_by_hand() -> None:
    log = np.array([7, 8, 9, 4, 5])
    found = last_items(log, np.array([0, 0, 3]), np.array([3, 1, 3]), length=2, padding=99)
    assert found.tolist() == [[8, 9], [99, 7], [99, 99]]


def test_impossible_recipes_are_refused() -> None:
    with pytest.raises(ValidationError):
        Recipe(loss="triplet")  # type: ignore[arg-type]
    too_many = Recipe(loss="own_negatives", n_negatives=4, n_mined=8)
    with pytest.raises(ValueError, match="mined ones are a part"):
        train(toy_pairs(), too_many, seed=0)
    beyond = Recipe(loss="own_negatives", n_negatives=4, n_mined=2)
    with pytest.raises(ValueError, match="beyond 24 items"):
        train(toy_pairs(), beyond, seed=0)
    with pytest.raises(ValueError, match="at least 2 pairs"):
        train(toy_pairs(1), Recipe(), seed=0)
