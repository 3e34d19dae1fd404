from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from rich.console import Console

from ml_platform.evaluation.intervals import Estimate
from ml_platform.evaluation.results import Results
from shorts_recommendation.artifacts import SYSTEM_FOLDER
from shorts_recommendation.config import Config
from shorts_recommendation.reporting.report import print_report, write_report
from shorts_recommendation.reporting.tables import tables


def _results() -> Results:
    results = Results.start(
        system="shorts_recommendation",
        config={},
        dataset_name="simulated",
        dataset_sha256="0",
        synthetic=True,
        seed=0,
        root=SYSTEM_FOLDER,
    )
    for name, recall in (("random", 0.1), ("merged", 0.8), ("vectors", 0.6)):
        estimate = Estimate(recall, recall - 0.05, recall + 0.05, 40)
        results.add(f"retrieval/{name}/recall@1000", estimate, protocol="test days, by hand")
    results.add("ranking/transformer_minus_random/truth_ndcg@10", 0.3, protocol="paired")
    results.add("ranking/oracle/truth_ndcg@10", 1.0, protocol="truth")
    results.add("seconds/all_stages/wall_s", 12.0, protocol="now")
    results.add("memory/main_process/peak_bytes", 2.0**30, protocol="now")
    return results


def test_rows_are_ordered_by_the_metric_and_columns_without_numbers_are_left_out() -> None:
    recall, ranking = tables(_results())
    assert [row[0] for row in recall.rows] == ["merged", "vectors", "random"]
    assert recall.columns == ["retrieval", "recall@1000"]
    assert recall.rows[0][1] == "0.800 [0.750, 0.850]"
    assert recall.protocols == ["test days, by hand"]
    assert ranking.rows == [["oracle", "1.000"]]  # differences have a page of their own
    assert tables(_results(), intervals=False)[0].rows[0] == ["merged", "0.800"]


def test_the_terminal_says_that_the_world_is_simulated() -> None:
    text = io.StringIO()
    print_report(Console(file=text, width=90), _results(), Config(quick=True), Path("r.html"))
    assert "QUICK RUN, SIMULATED WORLD" in " ".join(text.getvalue().split())
    assert "peak memory 1.00 GiB" in text.getvalue()


def test_the_page_holds_tables_and_pictures(tmp_path: Path) -> None:
    from ml_platform.evaluation.plot_style import new_figure, png

    figure, (axes,) = new_figure("Recall")
    axes.plot(np.arange(3))
    (tmp_path / "plots").mkdir()
    (tmp_path / "plots" / "recall_curve.png").write_bytes(png(figure))
    page = write_report(tmp_path, _results(), Config()).read_text()
    assert "0.800 [0.750, 0.850]" in page
    assert page.count("data:image/png;base64,") == 1
    assert 'alt="recall curve"' in page
    assert "Quick run" not in page
