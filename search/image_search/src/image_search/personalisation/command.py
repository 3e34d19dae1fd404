"""``personalisation``: what a style is worth, to whom, after how many clicks. SYNTHETIC clicks.

In: a ``Run``. Out: ``results/personalisation.json``, plots, a table. Weights are chosen on the days
of validation by expected clicks under the truth (a real system needs an experiment for that); all
keys below are of the days of test, intervals resample users. <base> is similarity or impersonal,
<option> none, blend, feature, shift, oracle (``study``):

    personalisation/<base>.<option>/ndcg@10, clicks, distance, taste
    personalisation_gain/<base>.<option>/...      the same less that of "none", search by search
    personalisation_known/<base>.<option>_<n>/... gain of heavy users, of whom n clicks are known
    personalisation_gain/<base>.feature_told/...  positive control: in the truth's own styles
    personalisation_gain/<base>.blend_placebo/... with another user's style; _session and _long with
                                                  one part of the style alone
    personalisation_known/<base>.<option>_shared/ 30 clicks are known, every second one another
                                                  user's
    personalisation_harm/<base>.blend/share       users whose mean expected clicks fall
    personalisation_weight/<base>.<option>/value
    personalisation_loop/<none, blend or difference>/clicks, distance, commonest
                                                  after 20 rounds of feedback
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table

from image_search.personalisation.experiment import Experiment
from image_search.personalisation.plots import known_figure, loop_figure, options_figure
from ml_platform.evaluation.intervals import Estimate
from ml_platform.evaluation.plot_style import png
from ml_platform.evaluation.results import Results, write_atomic

if TYPE_CHECKING:
    from image_search.commands import Run

SHOWN = ("ndcg@10", "clicks", "distance", "taste")


def run(run: Run) -> None:
    """Simulates, replays, chooses, measures, prints, draws, writes."""
    images = run.load()
    results = run.start_results(images)
    experiment = Experiment.of(run, images)
    weights = experiment.chosen_weights()
    for key, weight in weights.items():
        results.add(f"personalisation_weight/{key}/value", weight, protocol=experiment.chosen_words)
    levels, gains = experiment.options(weights)
    for stage, found in (("personalisation", levels), ("personalisation_gain", gains)):
        _add(results, stage, found, experiment.words)
    for key, share in experiment.harm(weights).items():
        results.add(f"personalisation_harm/{key}/share", share, protocol=experiment.words)
    known = experiment.by_clicks_known(weights)
    _add(results, "personalisation_known", known, experiment.known_words)
    looped = experiment.loops(weights)
    last = {name: one.summary() for name, one in looped.items()}
    last["difference"] = looped["blend"].less(looped["none"])
    _add(results, "personalisation_loop", last, experiment.loop_words)
    folder = run.results_folder()
    suffix = "" if run.config.images.dataset == "fashion-mnist" else f"_{run.config.images.dataset}"
    for name, figure in (
        ("options", options_figure(gains)),
        ("known", known_figure(known)),
        ("loop", loop_figure(looped)),
    ):
        write_atomic(folder / "plots" / f"personalisation_{name}{suffix}.png", png(figure))
    results.write(folder / f"personalisation{suffix}.json")
    run.console.print(_table(levels, gains))
    run.console.print(f"numbers: {folder / f'personalisation{suffix}.json'}", highlight=False)


def _add(results: Results, stage: str, found: dict[str, dict[str, Estimate]], words: str) -> None:
    for variant, by_measure in found.items():
        for measure, estimate in by_measure.items():
            results.add(f"{stage}/{variant}/{measure}", estimate, protocol=words)


def _table(levels: dict[str, dict[str, Estimate]], gains: dict[str, dict[str, Estimate]]) -> Table:
    """One row a setting: its measures, and its gain in clicks with the interval."""
    table = Table(title="personalisation, SYNTHETIC clicks, test days")
    for column in ("base.option", *SHOWN, "gain in clicks"):
        table.add_column(column, justify="left" if column == "base.option" else "right")
    for name in list(levels) + [name for name in gains if name not in levels]:
        cells = [f"{levels[name][m].value:.4f}" if name in levels else "" for m in SHOWN]
        gain = gains.get(name, {}).get("clicks")
        words = ""
        if gain is not None and gain.low is not None:
            words = f"{gain.value:+.4f} ({gain.low:+.4f} to {gain.high:+.4f})"
        table.add_row(name, *cells, words)
    return table
