"""The report says what the numbers say: verdicts, flags, captions, escaping, width."""

from __future__ import annotations

import re
from dataclasses import replace
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from handmade_evaluation import N_QUERIES, SERVED, fake_queries, make_evaluation, metrics
from rich.console import Console
from tiny_system import TINY, TinySystem

from ml_platform.data.splits import next_event_queries
from ml_platform.evaluation.plot_style import png
from ml_platform.evaluation.progress import Silent
from ml_platform.evaluation.results import Results
from video_recommendation.config import Config
from video_recommendation.data import SystemData
from video_recommendation.evaluation.lists import Table
from video_recommendation.evaluation.run import Evaluation
from video_recommendation.pipeline import Trained
from video_recommendation.reporting import captions, plots, plots_models, tables, tables_quality
from video_recommendation.reporting.console import print_ablations, print_report
from video_recommendation.reporting.html import write_report
from video_recommendation.reporting.people import middle_query, two_people


def printed(
    system: TinySystem, evaluation: Evaluation, config: Config = TINY, *, width: int = 80
) -> str:
    console = Console(width=width, file=StringIO())
    print_report(
        console,
        system.data,
        system.trained,
        evaluation,
        config,
        served=SERVED,
        report_path=Path("artifacts/latest/report.html"),
    )
    return console.file.getvalue()


@pytest.fixture(scope="module")
def found(tiny_system: TinySystem) -> Evaluation:
    """A hand-made evaluation over the tiny system's real test queries."""
    data = tiny_system.data
    queries = next_event_queries(data.log, data.windows.validation_end, None)
    return make_evaluation(queries)


def results_of(data: SystemData) -> Results:
    return Results.start(
        system="video_recommendation",
        config=TINY.model_dump(mode="json"),
        dataset_name=data.name,
        dataset_sha256=data.sha256,
        synthetic=data.synthetic,
        seed=0,
        root=Path(__file__).parent,
    )


# --- tables and captions -------------------------------------------------------------------------


def test_retrieval_rows_stand_in_order_with_ease_as_the_reference() -> None:
    grid = tables.retrieval_grid(make_evaluation(), "")
    names = [row[0].text for row in grid.rows]
    assert names[0] == "random"
    assert names[-1] == "merged"
    ease = grid.rows[names.index("ease")]
    assert [cell.text for cell in ease[4:]] == ["", ""]
    merged = grid.rows[-1]
    assert float(merged[5].text) == pytest.approx(0.1, abs=0.02)
    assert merged[5].tone == "good"


def test_funnel_shows_served_stages_only_when_served() -> None:
    evaluation = make_evaluation()
    served = tables.funnel_grid(evaluation, SERVED, "")
    by_stage = {row[0].text: [cell.text for cell in row[1:]] for row in served.rows}
    assert by_stage["rank"] == ["100", ".30", "1.25", "3.50"]
    assert by_stage["prerank"] == ["200", ".10", "", ""]
    assert by_stage["total"] == ["", "", "1.25", "3.50"]
    assert list(by_stage)[-4:] == ["queue", "state", "popularity", "total"]
    assert "recommend" not in by_stage
    assert len(tables.funnel_grid(evaluation, None, "").columns) == 3


def test_load_line() -> None:
    assert "p99 22.3 ms" in tables.load_line(SERVED)
    assert "degraded 0.20%" in tables.load_line(SERVED)
    assert "not measured" in tables.load_line(None)
    dead = replace(SERVED, load=replace(SERVED.load, ok=0, p50_ms=None, p99_ms=None))
    assert "none of 1,000 requests was answered" in tables.load_line(dead)


def test_configured_setting_is_marked_or_said_to_be_missing() -> None:
    evaluation = make_evaluation()
    grid = tables_quality.reranking_grid(evaluation, Config(), "")
    assert [grid.rows[row][0].text for row in grid.marked] == ["mmr 0.9 *"]
    other = Config.model_validate({"reranking": {"trade_off": 0.85}})
    assert (
        "(mmr 0.85) is not on this grid"
        in tables_quality.reranking_grid(evaluation, other, "").caption
    )


def test_captions_follow_the_numbers() -> None:
    evaluation = make_evaluation(merged=0.7)
    assert "Best Recall@100: merged" in captions.retrieval_caption(evaluation)
    worse = make_evaluation(two_tower=0.8)
    assert "Best Recall@100: two_tower" in captions.retrieval_caption(worse)
    assert "that of isotonic" in captions.reliability_caption(evaluation)
    assert "Not used by any tree: fresh_rank." in captions.importance_caption(evaluation)
    assert "flat is fastest" in captions.index_caption(evaluation)
    assert "would save 6 µs" in captions.index_caption(evaluation)
    assert "in 2 of 2 slices" in captions.slices_caption(evaluation)
    assert "in 0 of 2 slices" in captions.slices_caption(make_evaluation(final=0.3))


def test_every_plot_draws(tiny_system: TinySystem) -> None:
    evaluation = make_evaluation()
    figures = [
        plots.retrieval_plot(evaluation),
        plots.funnel_plot(evaluation),
        plots.slices_plot(evaluation),
        plots.training_plot(tiny_system.trained),
        plots_models.trade_off_plot(evaluation, Config()),
        plots_models.reliability_plot(evaluation),
        plots_models.importance_plot(evaluation),
        plots_models.index_plot(evaluation),
    ]
    for figure in figures:
        image = png(figure)
        assert image.startswith(b"\x89PNG")
        assert len(image) < 150_000


# --- two people ----------------------------------------------------------------------------------


def test_the_middle_query_is_found_by_time() -> None:
    queries = replace(fake_queries(), timestamp=np.arange(N_QUERIES)[::-1].copy())
    wanted = np.zeros(N_QUERIES, dtype=bool)
    wanted[[1, 5, 9]] = True
    assert middle_query(queries, wanted) == 5
    assert middle_query(queries, np.zeros(N_QUERIES, dtype=bool)) is None


def test_people_are_shown_with_the_past_only(tiny_system: TinySystem, found: Evaluation) -> None:
    data = tiny_system.data
    people = two_people(data, tiny_system.trained, found)
    assert {person.kind for person in people} == {"warm", "cold"}
    for person in people:
        seen = {event.title for event in person.history}
        assert not seen & {item.title for item in person.shown}
        assert len(person.shown) == 10
        assert all(item.reason and item.sources for item in person.shown)
    assert people == two_people(data, tiny_system.trained, found)


# --- both outputs --------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [80, 100, 160])
def test_the_terminal_report_keeps_to_its_width(
    tiny_system: TinySystem, found: Evaluation, width: int
) -> None:
    lines = printed(tiny_system, found, width=width).splitlines()
    assert max(map(len, lines)) <= min(width, 100)
    for title in ("The funnel", "Retrieval", "The pool", "Ranking", "Re-ranking", "Aims"):
        assert any(line.startswith(title) for line in lines), title
    assert not any("…" in line for line in lines)  # nothing was cut off


def test_flags_stand_under_every_table(tiny_system: TinySystem, found: Evaluation) -> None:
    text = printed(tiny_system, found)
    # 6 tables and two people.
    assert text.count("QUICK RUN, not a result. SYNTHETIC data") == 8
    full = printed(replace_synthetic(tiny_system), found, TINY.model_copy(update={"quick": False}))
    assert "QUICK" not in full
    assert "SYNTHETIC" not in full


def test_not_reached_is_printed(tiny_system: TinySystem, found: Evaluation) -> None:
    assert "not reached" not in printed(tiny_system, found)
    poor = make_evaluation(found.queries, final=0.52)
    assert re.search(r"final vs ease.*not reached", printed(tiny_system, poor))


def test_ablations_are_set_against_the_default() -> None:
    rng = np.random.default_rng(0)
    rows = {"no_log_q": metrics(0.3, rng), "default": metrics(0.5, rng)}
    console = Console(width=80, file=StringIO())
    print_ablations(console, Table(rows, np.arange(N_QUERIES) % 9, "3 seeds", 100))
    text = console.file.getvalue()
    assert text.index("default") < text.index("no_log_q")
    assert re.search(r"no_log_q.*-\.\d{3}", text)
    assert "3 seeds." in text


def test_the_page_is_whole_and_escaped(
    tiny_system: TinySystem, found: Evaluation, tmp_path: Path
) -> None:
    evil = "<script>alert(1)</script> & co"
    titles = tuple(evil for _ in tiny_system.data.catalogue.titles)
    catalogue = replace(tiny_system.data.catalogue, titles=titles)
    data = replace(tiny_system.data, catalogue=catalogue)
    progress = Silent()
    with progress.stage("a stage", 1):
        pass
    results = results_of(data)
    results.add("memory/main_process/peak_bytes", 2.0**30, protocol="hand-made")
    path = write_report(
        tmp_path, data, tiny_system.trained, found, results, SERVED, progress=progress
    )
    page = path.read_text(encoding="utf-8")
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt; &amp; co" in page
    assert page.count("<figure>") == page.count("data:image/png;base64,") == 8
    assert not re.search(r"(src|href)=\"(?!data:|#)", page)  # nothing is fetched
    assert "1,024 MiB" in page
    assert "a stage" in page
    assert data.licence in page
    assert page.count("QUICK RUN, not a result. SYNTHETIC data") > 15
    assert len(list((tmp_path / "plots").iterdir())) == 8
    assert not list(tmp_path.glob(".*"))


def replace_synthetic(system: TinySystem) -> TinySystem:
    return replace(system, data=replace(system.data, synthetic=False))


def test_a_page_without_a_served_load_says_so(
    tiny_system: TinySystem, found: Evaluation, tmp_path: Path
) -> None:
    trained: Trained = tiny_system.trained
    path = write_report(tmp_path, tiny_system.data, trained, found, results_of(tiny_system.data))
    page = path.read_text(encoding="utf-8")
    assert "Served load: not measured in this run." in page
    assert "not measured" in page
