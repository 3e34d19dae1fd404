"""report.html: one self-contained page of a run, readable on a phone, light or dark.

In: all that a run measured. Out: ``report.html`` and ``plots/*.png`` in the run's folder. The page
holds its pictures inline and fetches nothing, so it can be sent as one file. Tables and sentences
are those of the terminal report; titles of items are escaped like any other text.
"""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from matplotlib.figure import Figure

from ml_platform.evaluation.plot_style import png
from ml_platform.evaluation.progress import Console, Silent
from ml_platform.evaluation.results import Results, write_atomic
from video_recommendation.data import SystemData
from video_recommendation.evaluation.run import Evaluation
from video_recommendation.pipeline import Trained
from video_recommendation.reporting import captions, plots, plots_models, tables, tables_quality
from video_recommendation.reporting.aims import aims_grid
from video_recommendation.reporting.grid import Grid, flags
from video_recommendation.reporting.people import CHOICE_NOTE, two_people
from video_recommendation.serving.load_session import LoadSession

TEMPLATE = "report.html.j2"
FILE_NAME = "report.html"
PEAK_MEMORY = "memory/main_process/peak_bytes"
"""Key of the results."""


@dataclass(frozen=True)
class Plot:
    """A picture with what to see in it."""

    name: str
    image: bytes
    caption: str

    @property
    def uri(self) -> str:
        """The picture as an address that holds it."""
        return "data:image/png;base64," + base64.b64encode(self.image).decode()


@dataclass(frozen=True)
class Section:
    """One part of the page."""

    anchor: str
    title: str
    plots: tuple[Plot, ...] = ()
    grids: tuple[Grid, ...] = ()
    lines: tuple[str, ...] = ()


def write_report(
    folder: Path,
    data: SystemData,
    trained: Trained,
    evaluation: Evaluation,
    results: Results,
    served: LoadSession | None = None,
    *,
    progress: Silent | Console | None = None,
) -> Path:
    """Writes the page and its plots, each whole or not at all.

    Args:
        folder: The run's folder; made if missing.
        data: The run's data.
        trained: The trained system.
        evaluation: What was measured offline.
        results: The run's facts: commit, hardware, date.
        served: What was measured under load, when a load was served.
        progress: Who kept the seconds of every stage of the run.

    Returns:
        The path of report.html.
    """
    config = trained.recommender.config
    sections = report_sections(data, trained, evaluation, served)
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template(TEMPLATE).render(
        title=f"Video recommendation on {data.name}",
        flag=flags(config, data),
        protocol=evaluation.retrieval.protocol,
        sections=sections,
        people=two_people(data, trained, evaluation),
        choice_note=CHOICE_NOTE,
        facts=run_facts(data, results),
        seconds=progress.seconds if progress else {},
        config=json.dumps(config.model_dump(mode="json"), indent=2),
    )
    for plot in (plot for section in sections for plot in section.plots):
        write_atomic(folder / "plots" / f"{plot.name}.png", plot.image)
    path = folder / FILE_NAME
    write_atomic(path, page)
    return path


def report_sections(
    data: SystemData, trained: Trained, evaluation: Evaluation, served: LoadSession | None
) -> list[Section]:
    """All sections but the people and the facts, which have their own form."""
    config = trained.recommender.config
    flag = flags(config, data)
    ev = evaluation
    return [
        Section("aims", "Aims", grids=(aims_grid(ev, flag),)),
        Section(
            "funnel",
            "Funnel",
            (_plot("funnel", plots.funnel_plot(ev), captions.funnel_caption(ev)),),
            (tables.funnel_grid(ev, served, flag),),
            (tables.load_line(served),),
        ),
        Section(
            "retrieval",
            "Retrieval",
            (_plot("retrieval", plots.retrieval_plot(ev), captions.retrieval_caption(ev)),),
            (tables.retrieval_grid(ev, flag), tables.pool_grid(ev, config, flag)),
            (captions.recall_gap_line(ev), tables.knobs_line(ev)),
        ),
        Section(
            "ranking",
            "Ranking",
            (
                _plot(
                    "importance", plots_models.importance_plot(ev), captions.importance_caption(ev)
                ),
                _plot(
                    "reliability",
                    plots_models.reliability_plot(ev),
                    captions.reliability_caption(ev),
                ),
            ),
            (
                tables.ranking_grid(ev, config, flag),
                tables_quality.candidates_grid(ev, flag),
                tables_quality.calibration_grid(ev, flag),
            ),
        ),
        Section(
            "reranking",
            "Re-ranking",
            (
                _plot(
                    "trade_off",
                    plots_models.trade_off_plot(ev, config),
                    captions.trade_off_caption(ev, config),
                ),
            ),
            (tables_quality.reranking_grid(ev, config, flag, everything=True),),
        ),
        Section(
            "slices",
            "Slices and the plain temporal split",
            (_plot("slices", plots.slices_plot(ev), captions.slices_caption(ev)),),
            (tables_quality.slices_grid(ev, flag), tables_quality.batch_grid(ev, flag)),
        ),
        Section(
            "training",
            "Training and index",
            (
                _plot("training", plots.training_plot(trained), captions.training_caption(trained)),
                _plot("index", plots_models.index_plot(ev), captions.index_caption(ev)),
            ),
            (tables_quality.index_grid(ev, flag),),
        ),
    ]


def run_facts(data: SystemData, results: Results) -> dict[str, str]:
    """Under which circumstances the numbers came about."""
    run = results.run
    log, windows = data.log, data.windows
    train = int((log.timestamp < windows.train_end).sum())
    test = int((log.timestamp >= windows.validation_end).sum())
    kind = ", SYNTHETIC" if data.synthetic else ""
    return {
        "commit": run.commit,
        "date": f"{run.date:%Y-%m-%d %H:%M} UTC",
        "hardware": str(run.hardware),
        "peak memory": _peak_memory(results),
        "seed": str(run.seed),
        "configuration": f"{run.config.get('name', '?')}, sha256 {run.config_sha256[:12]}",
        "data set": f"{data.name}{kind}, sha256 {data.sha256[:12]}",
        "size": f"{len(log):,} interactions, {log.n_users:,} users, {log.n_items:,} items",
        "time windows": (
            f"{train:,} train, {len(log) - train - test:,} validation, {test:,} test interactions"
        ),
        "source": data.source,
        "licence": data.licence,
    }


def _peak_memory(results: Results) -> str:
    if PEAK_MEMORY not in results:
        return "not measured"
    peak_mib = results[PEAK_MEMORY].value / 2**20
    return f"{peak_mib:,.0f} MiB, the process that trained and evaluated"


def _plot(name: str, figure: Figure, caption: str) -> Plot:
    return Plot(name, png(figure), caption)
