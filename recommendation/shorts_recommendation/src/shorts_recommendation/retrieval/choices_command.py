"""Why the defaults of recall are what they are: every knob at a few values, observable recall.

In: a ``Run``. Out: ``results/recall_choices.json`` with ``retrieval_choice/<knob>_<value>/...``, a
table. Models are of the training days, measured on sessions of the validation days:

- ``uniform_recall@100``, ``uniform_recall@1000``: evaluation/uniform_recall.py, the criterion;
- ``recall@100``, ``recall@1000``: of all long views, which favours what the log's policy showed;
- ``uniform_recall@1000_over_default``: paired difference to the value that serves.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table

from ml_platform.evaluation.intervals import Estimate, bootstrap_difference, bootstrap_mean
from ml_platform.evaluation.results import Results
from shorts_recommendation.config import Config
from shorts_recommendation.data import ShortsData
from shorts_recommendation.evaluation.retrieval_queries import Queries, session_queries
from shorts_recommendation.evaluation.uniform_recall import effective_events
from shorts_recommendation.items import fit_projection, make_items
from shorts_recommendation.retrieval.choices import CUTS, Tried, name_of, try_merges, try_towers

if TYPE_CHECKING:
    from shorts_recommendation.commands import Run

MOST_QUERIES = 6000
"""Sessions of the validation days; each costs a second or less over all settings."""


def main(run: Run) -> None:
    """Tries every value, prints, writes."""
    data, config = run.load(), run.config
    results = run.start_results(data)
    with run.progress.stage("choices: queries of the validation days", 1):
        queries = validation_queries(data, config)
    rows = try_merges(data, config, queries, run.progress)
    rows += try_towers(data, config, queries, run.progress)
    table = record(results, rows, queries, config)
    folder = run.results_folder()
    results.write(folder / "recall_choices.json")
    run.console.print(table)
    run.console.print(f"numbers: {folder / 'recall_choices.json'}", highlight=False)


def validation_queries(data: ShortsData, config: Config, most: int = MOST_QUERIES) -> Queries:
    """Sessions of the validation days as they began."""
    windows = data.windows
    known = data.catalogue.content[data.catalogue.upload_s < windows.train_end]
    items = make_items(data.catalogue, fit_projection(known, seed=config.seed))
    return session_queries(
        data, items, config, windows.train_end, windows.validation_end, most=most
    )


def record(results: Results, rows: list[Tried], queries: Queries, config: Config) -> Table:
    """Adds every number; one line of the table a value."""
    protocol = (
        f"validation days, models of the training days, first request of {len(queries):,} sessions "
        f"with a long view, weights worth {effective_events(queries):,.0f} events, seed "
        f"{config.seed}, SYNTHETIC{', QUICK' if config.quick else ''}"
    )
    users, resamples = queries.batch.user_idx, config.evaluation.resamples
    serving = {
        row.knob: row for row in rows if row.value == default_values(config).get(row.knob, "")
    }
    table = Table(title="recall of the validation days by knob")
    for column in ("knob", "value", "uniform@100", "uniform@1000", "over default", "logged@1000"):
        table.add_column(column, justify="left" if column in ("knob", "value") else "right")
    for row in rows:
        key, cells = f"retrieval_choice/{row.knob}_{row.value}", []
        for place, k in enumerate(CUTS):
            found = bootstrap_mean(row.uniform[place], users, resamples=resamples)
            results.add(f"{key}/uniform_recall@{k}", found, protocol=protocol)
            cells.append(_text(found))
        over = ""
        if row.knob in serving and row is not serving[row.knob]:
            difference = bootstrap_difference(
                row.uniform[-1], serving[row.knob].uniform[-1], users, resamples=resamples
            )
            words = f"minus {serving[row.knob].value}, paired; {protocol}"
            results.add(f"{key}/uniform_recall@{CUTS[-1]}_over_default", difference, protocol=words)
            over = _text(difference)
        for place, k in enumerate(CUTS):
            logged = bootstrap_mean(row.logged[place], users, resamples=resamples)
            results.add(f"{key}/recall@{k}", logged, protocol=protocol)
        for name, value in row.cost.items():
            results.add(f"{key}/{name}", value, protocol="processor time of one thread")
        mark = " *" if row is serving.get(row.knob) else ""
        table.add_row(row.knob, row.value + mark, *cells, over, f"{logged.value:.4f}")
    return table


def default_values(config: Config) -> dict[str, str]:
    """Knob to the value that serves, as text."""
    recall = config.retrieval
    return {
        "rejected_weight": str(config.two_tower.rejected_weight),
        "epochs": str(config.two_tower.epochs),
        "collaborative": recall.collaborative,
        "quotas": name_of(recall.quotas, recall.n_candidates),
        "head": "by_quota",
    }


def _text(estimate: Estimate) -> str:
    if estimate.low is None or estimate.high is None:
        return f"{estimate.value:.4f}"
    return f"{estimate.value:.4f} ({estimate.low:.4f} to {estimate.high:.4f})"
