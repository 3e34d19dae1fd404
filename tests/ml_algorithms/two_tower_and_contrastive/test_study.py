"""The study at size smoke, the notebook from first to last cell, and what both stand on."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from ml_algorithms import study_data
from ml_algorithms.two_tower_and_contrastive import bench_data, lesson
from ml_algorithms.two_tower_and_contrastive.bench import LOSSES, STUDY
from ml_algorithms.two_tower_and_contrastive.bench_data import (
    baselines,
    evaluate,
    load_study_data,
    taken_later,
)
from ml_algorithms.two_tower_and_contrastive.bench_runs import Outcome, Task, tuned
from ml_algorithms.two_tower_and_contrastive.objective import Recipe
from ml_algorithms.two_tower_and_contrastive.towers import build_two_tower
from ml_platform.data.datasets import DatasetUnavailableError
from ml_platform.docs.notebooks import run_all
from ml_platform.evaluation.progress import Silent
from ml_platform.evaluation.results import Results
from ml_platform.evaluation.study import MissingInputError

FOLDER = Path(lesson.__file__).parent


@pytest.fixture(scope="module")
def data() -> bench_data.StudyData:
    return load_study_data("synthetic", history_length=6, max_queries=100)


def test_the_smoke_study_measures_every_part(tmp_path: Path) -> None:
    assert STUDY.main(["--config", "smoke", "--out", str(tmp_path)]) == 0
    names = {part.name for part in STUDY.parts}
    assert {path.stem for path in tmp_path.glob("*.json")} == names
    assert len(list((tmp_path / "plots").glob("*.png"))) == len(names) + 1
    results = {name: Results.read(tmp_path / f"{name}.json") for name in names}
    for one in results.values():
        assert one.run.dataset.synthetic
        assert all(math.isfinite(one[key].value) for key in one)
    for name in (*LOSSES, "popularity", "ease", "ials"):
        recall = results["losses"][f"losses/{name}/recall@100"]
        assert recall.low is not None
        assert 0 < recall.low <= recall.value <= 1
    percentile = {
        name: results["losses"][f"losses/{name}/popularity@10"].value
        for name in (*LOSSES, "popularity", "ease", "ials")
    }
    assert max(percentile, key=lambda name: percentile[name]) == "popularity"
    assert percentile["in_batch"] < percentile["in_batch_logq"]  # what the correction gives back
    chosen = {  # each row's protocol says of itself what was chosen, and only that
        name: results["losses"][f"losses/{name}/recall@100"].protocol or ""
        for name in ("in_batch", "popularity", "ease")
    }
    assert "temperature and epoch chosen" in chosen["in_batch"]
    assert "nothing to choose, one fit" in chosen["popularity"]
    reg = results["losses"]["losses_setting/ease/reg"].value
    assert f"reg {reg:g}, last_events" in chosen["ease"]
    assert "epoch" not in chosen["ease"] + chosen["popularity"]
    assert "hard_negatives/mined0.5_unmasked/recall@10" in results["hard_negatives"]
    assert results["gradient_bias"]["gradient/in_batch/bias@64"].value > 0
    ours = results["distributed"]
    assert "nothing chosen" in (ours["distributed/one/recall@100"].protocol or "")
    # Two processes under torchrun train the model of one; 151 items: shards of unequal length.
    for layout in ("replicated", "sharded"):
        assert ours[f"distributed/two_{layout}/sgd_update_difference"].value < 1e-3
        recall = ours[f"distributed_difference/two_{layout}/recall@100"].value
        assert abs(recall) < 0.02
    # Negatives that are not shared are another loss: the comparison can fail.
    assert ours["distributed/two_local_negatives/sgd_update_difference"].value > 0.05


def test_the_notebook_runs(tmp_path: Path) -> None:
    run_all([FOLDER / "notebook.ipynb"], tmp_path, Silent().stage, {"MLSD_NOTEBOOK_SIZE": "smoke"})
    cells = json.loads((tmp_path / "notebook.ipynb").read_text())["cells"]
    shown = [
        output
        for cell in cells
        for output in cell.get("outputs", [])
        if {"image/png", "application/vnd.jupyter.widget-view+json"} & set(output.get("data", {}))
    ]
    assert len(shown) >= 3


def test_pairs_know_the_past_only(data: bench_data.StudyData) -> None:
    pairs, train = data.pairs, data.train
    row = 0
    for user in range(train.n_users):
        begin, end = train.user_ptr[user], train.user_ptr[user + 1]
        for at in range(begin, end):
            before = [
                int(item)
                for item, time in zip(
                    train.item_idx[begin:end], train.timestamp[begin:end], strict=True
                )
                if time < train.timestamp[at]
            ]
            if not before:
                continue
            assert int(pairs.item_idx[row]) == train.item_idx[at]
            history = [i for i in pairs.history[row].tolist() if i < train.n_items]
            assert history == before[-6:]
            row += 1
    assert row == len(pairs)


def test_windows_follow_each_other_in_time_and_mask_the_history(
    data: bench_data.StudyData,
) -> None:
    latest = data.train.timestamp.max()
    assert latest < data.validation.queries.timestamp.min()
    assert data.validation.queries.timestamp.max() < data.test.queries.timestamp.min()
    lengths = data.test.queries.history_end - data.test.queries.history_begin
    assert lengths.min() >= 1
    np.testing.assert_array_equal(np.bincount(data.test.seen[0]), lengths)


def test_an_oracle_finds_everything_and_popularity_has_the_highest_percentile(
    data: bench_data.StudyData,
) -> None:
    window = data.test
    scores = np.zeros((len(window.queries), data.log.n_items), dtype=np.float32)
    owner = np.repeat(np.arange(len(window.queries)), np.diff(window.relevant_ptr))
    scores[owner, window.relevant_items] = 1.0
    oracle = evaluate(data, window, lambda block: scores[block])
    assert oracle.recall_10.min() == 1.0
    assert oracle.ndcg_10.min() == pytest.approx(1.0)
    fitted = baselines(data)
    quality = {name: one.quality for name, one in fitted.items()}
    assert quality["popularity"].popularity.mean() > quality["ease"].popularity.mean()
    assert quality["ease"].recall_100.mean() > 0.9 * quality["popularity"].recall_100.mean()
    assert fitted["ease"].setting["reg"] in bench_data.EASE_GRID
    assert fitted["ials"].tried == len(bench_data.IALS_GRID) * len(bench_data.RECENT)


def test_taken_later_counts_what_the_log_says(data: bench_data.StudyData) -> None:
    model = build_two_tower(data.pairs.genres, dim=4, hidden=4, normalise=True, seed=0)
    (everything,) = taken_later(data, model, [(0, data.log.n_items)])
    queries = data.validation.queries
    for query in range(0, len(queries), 7):
        user = queries.user_idx[query]
        rest = data.log.item_idx[queries.history_end[query] : data.log.user_ptr[user + 1]]
        seen = data.log.item_idx[queries.history_begin[query] : queries.history_end[query]]
        expected = len(set(rest.tolist()) - set(seen.tolist())) / data.log.n_items
        assert everything[query] == pytest.approx(expected)


def test_the_tuned_recipe_is_the_best_on_validation() -> None:
    quality = None  # type: ignore[var-annotated]
    outcomes = [
        Outcome(Task(name, Recipe(temperature=t), 0), quality, validation, t)  # type: ignore[arg-type]
        for name, t, validation in (("a", 0.1, 0.3), ("a", 0.2, 0.4), ("b", 0.1, 0.2))
    ]
    assert {name: one.temperature for name, one in tuned(outcomes).items()} == {"a": 0.2, "b": 0.1}


def test_data_that_cannot_be_had_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def nowhere(name: str, **_: object) -> None:
        raise DatasetUnavailableError("no source")

    monkeypatch.setattr(study_data, "load_dataset", nowhere)
    with pytest.raises(MissingInputError, match="no source"):
        load_study_data("movielens-100k", history_length=5, max_queries=10)


def test_lesson_rows_and_figures_say_what_the_page_says() -> None:
    figure = lesson.log_q_figure(0.0, steps=60)
    dots = figure.axes[0].collections[0].get_offsets()
    slope = np.polyfit(dots[:, 0], dots[:, 1], 1)[0]
    assert -1.3 < slope < -0.7  # InfoNCE: one log popularity short of the conditional
    rows = {name: (bias, noise) for name, bias, noise in lesson.gradient_rows(64, draws=10)}
    assert rows["in_batch_logq"][0] < rows["in_batch"][0]
    sizes = lesson.table_bytes(10_000, 1_000, 64, 2)
    assert sizes["sharded"] < sizes["replicated"] == pytest.approx(10_000 * 64 * 4 / 1e6)
