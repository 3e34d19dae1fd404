"""A model update over an old index: the losses, the mixtures, the command at tiny size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from image_search.commands import Run
from image_search.config import load_config
from image_search.embeddings.base import unit_rows
from image_search.retrieval import compatible_command
from image_search.retrieval.compatible_study import (
    Pictures,
    Update,
    averaged,
    first_right,
    gain_of,
)
from image_search.retrieval.compatible_training import class_means, influence_loss, train_model
from ml_platform.evaluation.progress import Silent
from ml_platform.evaluation.results import Results


def pictures_of(gallery_label: list[int], query_label: list[int]) -> Pictures:
    nothing = np.zeros((0, 2, 2, 1), dtype=np.uint8)
    return Pictures(
        nothing, np.zeros(0), nothing, np.array(gallery_label), nothing, np.array(query_label)
    )


def test_influence_loss_by_hand() -> None:
    means = torch.eye(2)
    rows = torch.tensor([[1.0, 0.0], [0.6, 0.8]])
    loss = float(influence_loss(rows, torch.tensor([0, 0]), means, 0.5))
    # Scores over .5: (2, 0) and (1.2, 1.6); -log softmax of the first.
    wanted = [np.log(1 + np.exp(-2)), np.log(1 + np.exp(0.4))]
    assert loss == pytest.approx(np.mean(wanted), rel=1e-6)


def test_influence_pulls_towards_the_old_mean_of_the_class() -> None:
    means = torch.eye(2)
    row = torch.tensor([[0.6, 0.8]], requires_grad=True)
    influence_loss(row, torch.tensor([0]), means, 0.5).backward()
    assert row.grad is not None
    assert row.grad[0, 0] < 0 < row.grad[0, 1]  # a step against the gradient: to the first axis


def test_class_means_by_hand() -> None:
    vectors = np.array([[1, 0], [0, 1], [0, 1]], dtype=np.float32)
    means = class_means(vectors, np.array([0, 0, 1]), 2)
    np.testing.assert_allclose(means, [[0.5**0.5, 0.5**0.5], [0, 1]], rtol=1e-6)
    with pytest.raises(ValueError, match="class 2 has no picture"):
        class_means(vectors, np.array([0, 0, 1]), 3)


def test_first_right_merges_old_and_new_items_by_similarity() -> None:
    east, north = np.array([[1, 0]], np.float32), np.array([[0, 1]], np.float32)
    near_north = unit_rows(np.array([[0.3, 1]]))
    old = np.concatenate([east, near_north])
    new = np.concatenate([north, north])
    pictures = pictures_of([0, 1], [0])
    nobody, first = np.array([False, False]), np.array([True, False])
    # All old, asked to the east: item 0, of the right class.
    assert first_right(pictures, old, east, new, north, nobody).tolist() == [1]
    # Asked to the north by a model that does not fit: item 1, wrong.
    assert first_right(pictures, old, north, new, north, nobody).tolist() == [0]
    # Item 0 is back-filled and lies exactly north: it beats the old item's near miss.
    assert first_right(pictures, old, north, new, north, first).tolist() == [1]


def test_gain_and_average_by_hand() -> None:
    def update(old: float, new: float, cross: float) -> Update:
        one = np.array
        return Update(one([old]), one([new]), one([new]), {("bct", 0.0): one([cross])})

    assert gain_of(update(0.5, 0.9, 0.7), "bct") == pytest.approx(0.5)
    assert gain_of(update(0.9, 0.9, 0.7), "bct") is None
    both = averaged([update(0.5, 0.9, 0.7), update(0.7, 0.9, 0.8)])
    assert both.old_old.tolist() == pytest.approx([0.6])
    assert both.mixed["bct", 0.0].tolist() == pytest.approx([0.75])
    with pytest.raises(ValueError, match="no updates"):
        averaged([])


def test_training_refuses_nonsense() -> None:
    config = load_config().embeddings.cnn
    pictures, labels = np.zeros((8, 8, 8, 1), np.uint8), np.zeros(8, np.int64)

    def train(batch: int, means: np.ndarray | None) -> None:
        train_model(
            pictures, labels, config, epochs=1, batch=batch, seed=0, progress=Silent(),
            old_means=means,
        )  # fmt: skip

    with pytest.raises(ValueError, match="8 pictures are less than a batch of 9"):
        train(9, None)
    with pytest.raises(ValueError, match="old means of 3 numbers"):
        train(4, np.zeros((1, 3), np.float32))


def test_compatible_command(tmp_path: Path) -> None:
    config = load_config(
        None,
        (
            "images.dataset=shapes",
            "images.shapes_per_class=60",
            "embeddings.cnn.side=16",
            "embeddings.cnn.width=8",
            "embeddings.cnn.dims=[16]",
            "embeddings.cnn.learning_rate=0.1",
            "evaluation.resamples=100",
            "index.study.update_seeds=1",
            "index.study.update_epochs=8",
            "index.study.update_batch=16",
            "index.study.update_old_share=0.6",
        ),
    )
    run = Run(config=config, artifacts=tmp_path, console=Console(quiet=True))
    compatible_command.run(run)
    folder = run.results_folder()
    results = Results.read(folder / "compatible.json")

    def r1(name: str) -> float:
        return results[f"compatible/{name}/recall@1"].value

    # Nothing back-filled: two queries are the old model's; all done: the new one's.
    assert r1("both.0") == r1("wait.0") == r1("old_old")
    assert r1("both.100") == r1("independent.100") == r1("wait.100") == r1("new_new")
    assert r1("bct.100") == r1("bct_bct")
    # Chance is a fifth: what was trained to fit is compatible with something, at least.
    assert r1("bct.0") > 0.25
    assert (folder / "plots" / "compatible.png").stat().st_size > 5_000
