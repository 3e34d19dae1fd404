"""Training learns what it can only learn in order; the study and the notebook run."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from ml_algorithms.sequence_models import cost
from ml_algorithms.sequence_models.bench import STUDY
from ml_algorithms.sequence_models.bench_config import Config, load, tied_share
from ml_algorithms.sequence_models.bench_ties import reorder_ties
from ml_algorithms.sequence_models.evaluation import leave_last_two_out, model_scorer, rank_all
from ml_algorithms.sequence_models.hstu import HSTU
from ml_algorithms.sequence_models.sasrec import SASRec
from ml_algorithms.sequence_models.sequences import Windows, training_windows
from ml_algorithms.sequence_models.training import (
    NegativeSampler,
    TrainSettings,
    fit,
)
from ml_platform.data.interactions import InteractionLog
from ml_platform.docs.notebooks import run_all
from ml_platform.evaluation.progress import Silent

FOLDER = Path(STUDY.folder)


def rings(n_users: int = 120, length: int = 14, ring: int = 20) -> InteractionLog:
    """Each user walks a ring of items from a random start: next = last + 1, popularity is flat."""
    starts = np.random.default_rng(0).integers(ring, size=n_users)
    items = (starts[:, None] + np.arange(length)) % ring
    return InteractionLog(
        user_ptr=np.arange(n_users + 1, dtype=np.int64) * length,
        item_idx=items.ravel().astype(np.int32),
        rating=np.ones(n_users * length, dtype=np.float32),
        timestamp=np.tile(np.arange(length, dtype=np.int64), n_users),
        user_ids=np.arange(n_users, dtype=np.int64),
        item_ids=np.arange(ring, dtype=np.int64),
    )


@pytest.mark.parametrize(
    ("network", "loss", "negatives", "learning_rate"),
    [
        (SASRec, "full_softmax", 8, 2e-2),
        (SASRec, "sampled_softmax", 8, 2e-2),
        (SASRec, "gbce", 8, 2e-2),  # stays at "reject everything" without the prior's offset
        (SASRec, "bce", 1, 2e-2),
        (HSTU, "sampled_softmax", 8, 2e-2),
        (HSTU, "gbce", 8, 2e-2),
    ],
)
def test_every_network_and_loss_learns_the_ring(
    network: type, loss: str, negatives: int, learning_rate: float
) -> None:
    split = leave_last_two_out(rings())
    torch.manual_seed(0)
    model = network(20, 12, width=16, n_layers=1, dropout=0.0)
    scorer = model_scorer(model)
    settings = TrainSettings(
        loss=loss, negatives=negatives, max_epochs=20, patience=20, batch_size=16,
        learning_rate=learning_rate,
    )  # fmt: skip
    windows = training_windows(split.train, 12)
    report = fit(model, windows, settings, lambda: rank_all(scorer, split.validation).ndcg.mean())
    ranking = rank_all(scorer, split.test, k=1)
    # 13 of 20 items are seen and masked: a guess is right once in seven.
    assert ranking.hit_rate.mean() > 0.9, report


def test_the_best_epoch_comes_back_and_patience_ends_the_run() -> None:
    split, model = leave_last_two_out(rings(20)), SASRec(20, 8, width=8, n_layers=1)
    seen: list[torch.Tensor] = []
    scores = iter([0.1, 0.9, 0.3, 0.2, 0.1])

    def validate() -> float:
        seen.append(model.position.detach().clone())
        return next(scores)

    settings = TrainSettings(max_epochs=9, patience=2, batch_size=8)
    report = fit(model, training_windows(split.train, 8), settings, validate)
    assert (report.epochs, report.best_epoch, report.best_score) == (4, 2, 0.9)
    torch.testing.assert_close(model.position.detach(), seen[1])
    assert not model.training


def test_negatives_by_shape_and_frequency() -> None:
    items = np.array([[4, 0, 0, 0], [4, 0, 0, 1]])
    windows = Windows(items, np.zeros_like(items), 4)
    target = torch.from_numpy(items[:, 1:])
    one = NegativeSampler(windows, TrainSettings(negatives=1), 0)
    assert one.draw(target).shape == (2, 3, 1)
    few = TrainSettings(negatives=16)
    assert NegativeSampler(windows, few, 0).draw(target).shape == (2, 3, 16)
    together = few.model_copy(update={"shared": True})
    assert NegativeSampler(windows, together, 0).draw(target).shape == (2, 1, 16)
    many = NegativeSampler(windows, TrainSettings(negatives=5000, sampler="popularity"), 0)
    drawn = many.draw(target)
    assert drawn.shape == (2, 1, 5000)
    # Targets 0, 0, 0, 0, 0, 1 and one more each: 6, 2, 1, 1 of 10.
    np.testing.assert_allclose(many.log_q.exp().numpy(), [0.6, 0.2, 0.1, 0.1], rtol=1e-6)
    share = np.bincount(drawn.numpy().ravel(), minlength=4) / drawn.numel()
    np.testing.assert_allclose(share, [0.6, 0.2, 0.1, 0.1], atol=0.02)


def test_tied_rows_move_and_nothing_else() -> None:
    log = rings(3, 6)
    same = InteractionLog(
        log.user_ptr, log.item_idx, log.rating, log.timestamp // 3, log.user_ids, log.item_ids
    )
    up, down = reorder_ties(same, "item_up"), reorder_ties(same, "item_down")
    for begin, end in zip(range(0, 18, 3), range(3, 21, 3), strict=True):
        assert up.item_idx[begin:end].tolist() == sorted(same.item_idx[begin:end])
        assert down.item_idx[begin:end].tolist() == sorted(same.item_idx[begin:end])[::-1]
    assert tied_share(same).all()
    assert not tied_share(log).any()
    with pytest.raises(ValueError, match="order must be"):
        reorder_ties(log, "alphabet")


def test_costs_by_hand() -> None:
    shape = cost.Shape(length=10, width=4, n_layers=2, n_heads=2, matrices=8)
    assert cost.full_encoding(shape) == 2 * (10 * 8 * 16 + 55 * 8)
    assert cost.one_more_event(shape) == 2 * (8 * 16 + 2 * 10 * 4)
    assert cost.candidates_apart(shape, 5) == 5 * cost.full_encoding(shape)
    together = cost.full_encoding(shape) + 5 * cost.one_more_event(shape)
    assert cost.candidates_together(shape, 5) == together
    assert cost.attention_bytes(shape) == 2 * 100 * 4
    assert cost.cache_bytes(shape) == 2 * 2 * 10 * 4 * 4


def test_the_smoke_study_measures_every_part(tmp_path: Path) -> None:
    assert STUDY.main(["--config", "smoke", "--out", str(tmp_path)]) == 0
    for part in STUDY.parts:
        content = json.loads((tmp_path / f"{part.name}.json").read_text())
        assert all(math.isfinite(row["value"]) for row in content["metrics"].values())
        assert list((tmp_path / "plots").glob(f"{part.name}_*.png")), part.name
    rows = json.loads((tmp_path / "leaderboard.json").read_text())["metrics"]
    for name in ("popularity", "markov", "ials", "ease_fading", "sasrec_bce", "hstu_request"):
        assert 0.0 <= rows[f"synthetic/{name}/ndcg@10"]["value"] <= 1.0
    assert rows["synthetic/ease_fading/ndcg@10_less_ease_fading"]["value"] == 0.0


def test_generated_data_loads_without_rare_items() -> None:
    data = load(Config(datasets=("synthetic",), synthetic_users=30), "synthetic")
    assert data.synthetic
    assert np.bincount(data.log.item_idx).min() >= 5


def test_the_notebook_runs(tmp_path: Path) -> None:
    run_all([FOLDER / "notebook.ipynb"], tmp_path, Silent().stage, {"MLSD_NOTEBOOK_SIZE": "smoke"})
    assert (tmp_path / "notebook.html").stat().st_size > 0
