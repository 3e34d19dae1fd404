"""The study at its small size, its generated tasks, the training loop and the notebook."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from ml_algorithms.mixture_of_experts import bench, lesson
from ml_algorithms.mixture_of_experts.bench import STUDY
from ml_algorithms.mixture_of_experts.bench_config import (
    BALANCE_LOOKS,
    LOOKS,
    SMOKE,
    TASK_LOOKS,
    over_seeds,
)
from ml_algorithms.mixture_of_experts.experts import ExpertBank
from ml_algorithms.mixture_of_experts.movie_tasks import movie_tasks
from ml_algorithms.mixture_of_experts.regimes import PairTask, RegimeTask
from ml_algorithms.mixture_of_experts.sparse import SparseMoE
from ml_algorithms.mixture_of_experts.training import Recipe, Student, train
from ml_platform.data.datasets import DatasetUnavailableError, load_dataset
from ml_platform.data.schema import Dataset, content_sha256, ordered_tables, unknown_users
from ml_platform.docs.notebooks import run_all
from ml_platform.evaluation.progress import Silent
from ml_platform.evaluation.results import Results

FOLDER = Path(bench.__file__).parent


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    assert STUDY.main(["--config", "smoke", "--out", str(folder)]) == 0
    return folder


def test_every_part_has_its_keys_and_pictures(out: Path) -> None:
    expected = {
        "specialisation": [f"specialisation/{n}/error" for n in LOOKS]
        + [f"control/{n}/error" for n in LOOKS]
        + [f"specialisation/{n}/multiply_adds" for n in LOOKS],
        "balancing": [f"balancing/{n}/effective_experts" for n in BALANCE_LOOKS]
        + [f"balancing/{n}/dropped" for n in BALANCE_LOOKS],
        "capacity": ["capacity/none_0.5/dropped", "capacity/bias_unlimited/error"],
        "multi_task": [f"pair/{n}/error@0" for n in TASK_LOOKS]
        + [f"movies/{n}/auc_liked" for n in TASK_LOOKS]
        + ["pair/mmoe/gate_distance@1", "work/mmoe/times_shared_bottom"],
        "parallel": ["parallel/rows_64/output_difference", "mixtral/total/billions"],
    }
    assert set(expected) == {part.name for part in STUDY.parts}
    for part, keys in expected.items():
        results = Results.read(out / f"{part}.json")
        assert results.run.dataset.synthetic  # the small size never poses as a measurement
        assert all(key in results for key in keys), part
        assert all(np.isfinite(results[key].value) for key in results)
    assert {path.name for path in (out / "plots").iterdir()} == {
        "specialisation_error.png",
        "balancing_utilisation.png",
        "capacity_factor.png",
        "multi_task_conflict.png",
        "parallel_wire.png",
    }


def test_the_studys_counts_say_what_they_should(out: Path) -> None:
    found = Results.read(out / "specialisation.json")
    dense, wide, soft, top1 = (
        found[f"specialisation/{name}/multiply_adds"].value
        for name in ("dense_active", "dense_total", "soft", "top1")
    )
    assert wide == SMOKE.experts * dense
    assert soft > top1 > dense  # the router is the difference
    assert top1 - dense == SMOKE.width * SMOKE.experts
    tasks = Results.read(out / "multi_task.json")
    assert tasks["work/mmoe/times_shared_bottom"].value > 4  # all experts run
    parallel = Results.read(out / "parallel.json")
    assert parallel["parallel/rows_64/output_difference"].value < 1e-5
    assert parallel["parallel/rows_64/router_gradient_difference"].value < 1e-5
    dropped = Results.read(out / "capacity.json")
    assert dropped["capacity/none_unlimited/dropped"].value == 0.0
    assert dropped["capacity/none_0.5/dropped"].value >= 0.5  # half the places, half the rows


def test_students_interval_by_hand() -> None:
    estimate = over_seeds([1.0, 2.0, 3.0])
    assert estimate.value == 2.0
    # t(0.975, 2) = 4.302653, sd 1, over sqrt 3
    assert estimate.high == pytest.approx(2.0 + 4.302653 / 3**0.5)
    assert over_seeds([5.0]).low is None


def test_regimes_have_unit_variance_and_zipfs_proportions() -> None:
    generator = torch.Generator().manual_seed(0)
    x, y, regime = RegimeTask(n_regimes=4, skew=1.0).draw(20_000, generator)
    shares = torch.bincount(regime).double() / 20_000
    expected = torch.tensor([12.0, 6.0, 4.0, 3.0], dtype=torch.float64) / 25.0
    torch.testing.assert_close(shares, expected, atol=0.01, rtol=0.0)
    for g in range(4):
        assert float(y[regime == g].std()) == pytest.approx(1.0, abs=0.1)
    # the place tells the regime, the content does not
    centres = torch.stack([x[regime == g, :8].mean(dim=0) for g in range(4)])
    assert (torch.cdist(x[:, :8], centres).argmin(dim=1) == regime).float().mean() > 0.99
    with pytest.raises(ValueError, match="even width"):
        RegimeTask(width=5)


def test_a_shared_rule_is_the_same_in_every_regime() -> None:
    generator = torch.Generator().manual_seed(1)
    one = RegimeTask(n_regimes=3, shared_rule=True).draw(50, generator)
    generator.manual_seed(1)
    own = RegimeTask(n_regimes=3).draw(50, generator)
    torch.testing.assert_close(one.x, own.x)
    first = own.regime == 0
    torch.testing.assert_close(one.y[first], own.y[first])
    assert not torch.allclose(one.y[~first], own.y[~first])


def test_the_pair_has_the_cosine_that_was_asked_for() -> None:
    for correlation in (-1.0, 0.0, 0.3, 1.0):
        w = PairTask(correlation, n_features=6, scale=2.0).weights()
        cosine = torch.nn.functional.cosine_similarity(w[0], w[1], dim=0)
        assert float(cosine) == pytest.approx(correlation, abs=1e-6)
        assert float(w[1].norm()) == pytest.approx(2.0)
    _, y = PairTask(1.0, noise=0.0).draw(10, torch.Generator().manual_seed(0))
    torch.testing.assert_close(y[:, 0], y[:, 1])
    with pytest.raises(ValueError, match="correlation"):
        PairTask(1.5)


def test_sparse_experts_beat_a_dense_block_of_equal_compute_on_regimes() -> None:
    task = RegimeTask(n_regimes=4, seed=1)
    recipe = Recipe(steps=150, batch=128, test_rows=1024, learning_rate=2e-2)
    torch.manual_seed(0)
    dense = Student(ExpertBank(n_experts=1, width=16, hidden=8), 16)
    torch.manual_seed(0)
    sparse = Student(SparseMoE(width=16, hidden=8, n_experts=4, k=1), 16)
    dense_error = train(dense, task, recipe, seed=0).error
    found = train(sparse, task, recipe, seed=0)
    assert found.error < 0.9 * dense_error
    assert found.steps[:2] == [0, 20]
    torch.testing.assert_close(found.loads[0].sum(), torch.tensor(1.0))
    with pytest.raises(ValueError, match="needs a SparseMoE"):
        train(dense, task, Recipe(balance="switch"), seed=0)


def ratings(rows: list[tuple[int, int, float, int]], genres: dict[int, str]) -> Dataset:
    interactions = pd.DataFrame(rows, columns=["user_id", "item_id", "rating", "timestamp"])
    items = pd.DataFrame(
        {"item_id": list(genres), "title": "t", "year": 2000, "genres": list(genres.values())}
    )
    users = unknown_users(interactions["user_id"].to_numpy(np.int64))
    tables = ordered_tables(interactions, items, users)
    return Dataset("toy", *tables, content_sha256(*tables), "generator", "none", True)


def test_movie_labels_by_hand() -> None:
    genres = {1: "Action|Comedy", 2: "Comedy", 3: "Drama", 4: ""}
    rows = [(7, 1 + t % 4, 5.0 if t % 2 else 3.0, 100 + t) for t in range(4)]
    more = [(8, 1 + t, 4.0, 200 + t) for t in range(4)]
    more += [(u, 1 + t, 4.0, 210 + 10 * u + t) for u in (11, 12) for t in range(4)]
    late = [(9, 1 + t, 2.0, 400 + t) for t in range(2)] + [
        (10, 1 + t, 4.0, 500 + t) for t in (0, 1)
    ]
    tasks = movie_tasks(ratings(rows + more + late, genres))
    assert (tasks.n_users, tasks.n_items, tasks.n_genres) == (6, 4, 3)
    assert len(tasks.train) == 4 * 3  # the last of each of four users has no successor
    assert (len(tasks.validation), len(tasks.test)) == (1, 1)
    assert tasks.test.labels.tolist() == [[1.0, 1.0]]
    first = [index for index in range(len(tasks.train)) if int(tasks.train.user[index]) == 0]
    assert tasks.train.labels[first].tolist() == [[0.0, 1.0], [1.0, 0.0], [0.0, 0.0]]


def test_a_window_without_rows_is_refused() -> None:
    rows = [(7, 1, 5.0, 100), (8, 1, 4.0, 200), (9, 1, 4.0, 300)]
    with pytest.raises(ValueError, match="has no rows"):
        movie_tasks(ratings(rows, {1: "Drama"}))


@pytest.mark.real_data
def test_movie_windows_follow_each_other() -> None:
    try:
        dataset = load_dataset("movielens-100k")
    except DatasetUnavailableError as error:
        pytest.skip(str(error))
    tasks = movie_tasks(dataset)
    assert len(tasks.train) > 70_000
    assert 0.4 < float(tasks.train.labels[:, 0].mean()) < 0.7
    assert 0.4 < float(tasks.train.labels[:, 1].mean()) < 0.9


def test_what_the_lesson_says() -> None:
    assert lesson.mixtral() == "Mixtral 8x7B: 46.7 billion stored, 12.9 billion active for a token"
    assert lesson.load_of([0, 1, 2]) == pytest.approx(3.0)
    assert "wire / compute = 0.04" in lesson.wire(14336, 450)
    assert lesson.counts(1, 1).startswith("1 experts, top-1: 1,072 parameters stored, 1,072")


def test_the_notebook_runs(tmp_path: Path) -> None:
    (written,) = run_all([FOLDER / "notebook.ipynb"], tmp_path, Silent().stage)
    assert written.with_suffix(".html").stat().st_size > 50_000
