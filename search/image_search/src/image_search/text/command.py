"""`text-search`: how well a sentence finds pictures, against simpler ways.

In: a ``Run``. Out: ``results/text_search.json``, tables, a picture of prompts and what they find.

    text_search/<way>/<metric>              all prompts of the test, dual encoder and rivals
    text_search/<way>.<group>/<metric>      by group of prompts
    text_difference/<rival>/<metric>        dual encoder minus rival, paired by prompt
    text_classes/<way>/recall@1             picture to text
    text_variant/<variant>/<metric>         on validation; choices are made here
    text_held_out/<seen or unseen>/<metric> pairs of class and trait
    text_speed/<tower>/...                  one text at a time

Sentences of one meaning ("dark tee", "a dark t-shirt") fail together: intervals resample meanings.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from rich.table import Table

from image_search.evaluation.run import judged_rows
from image_search.images.image_set import ImageSet, Rows, owner_rows, validation_rows
from image_search.images.traits import Traits, traits_of
from image_search.pipeline import pictures_at
from image_search.text.evaluation import METRICS
from image_search.text.picture import prompt_page, shown_prompts
from image_search.text.prompts import GROUPS, Prompts
from image_search.text.study import (
    Judged,
    TestReport,
    compare_held_out,
    compare_variants,
    judge_test,
)
from ml_platform.evaluation.intervals import Estimate, bootstrap_difference, bootstrap_mean
from ml_platform.evaluation.plot_style import png
from ml_platform.evaluation.results import Results

if TYPE_CHECKING:
    from image_search.commands import Run


def run(run: Run) -> None:
    """Trains, measures, prints, writes; see the module.

    Raises:
        NothingToJudgeError: If the pictures have no classes.
    """
    images = run.load()
    config = run.config
    judged_rows(images, config)  # before the work, not after it
    results = run.start_results(images)
    with run.progress.stage("text: traits of all pictures", len(images)) as advance:
        traits = traits_of(images.images)
        advance(len(images))
    rows = owner_rows(images)
    report = judge_test(images, traits, rows, config, run.progress)
    _record_test(results, report, images, rows, run)
    checked = validation_rows(images, _validation_size(images, rows, run), config.seed)
    _record_study(results, images, traits, checked, rows, run)
    folder = run.results_folder()
    (folder / "plots").mkdir(parents=True, exist_ok=True)
    page = prompt_page(
        report.encoder,
        shown_prompts(report.prompts),
        report.searched,
        pictures_at(images, rows.queries),
        f"{images.name}: prompts that no training saw, ten best of {len(report.searched):,}",
    )
    (folder / "plots" / "text_search.png").write_bytes(png(page))
    results.write(folder / "text_search.json")
    run.console.print(_ways_table(report, quick=config.quick))
    run.console.print(_groups_table(report))
    run.console.print(f"numbers: {folder / 'text_search.json'}", highlight=False)


def _validation_size(images: ImageSet, rows: Rows, run: Run) -> int:
    """As configured, but at most a quarter of a small gallery."""
    return min(run.config.images.validation_queries, len(rows.gallery) // 4)


def _record_test(
    results: Results, report: TestReport, images: ImageSet, rows: Rows, run: Run
) -> None:
    config, prompts = run.config, report.prompts
    common = (
        f"{images.name}, trained on {len(rows.gallery):,} gallery pictures with computed captions, "
        f"{len(report.searched):,} pictures searched exactly ({rows.protocol}"
        f"{', TRAINED ON THESE' if np.isin(rows.queries, rows.gallery).any() else ''}), relevant = "
        f"class and computed traits match, seed {config.seed}"
        + (", synthetic" if images.synthetic else "")
    )
    words = f"{common}, {len(prompts)} prompts unseen as sentences, 95% bootstrap by meaning"
    clusters = meanings(prompts)
    for way in report.ways:
        for metric in METRICS:
            results.add(
                f"text_search/{way.name}/{metric}",
                _mean(way.values[metric], clusters, run),
                protocol=words,
            )
            for group in GROUPS:
                here = prompts.group == group
                if here.any():
                    value = _mean(way.values[metric][here], clusters[here], run)
                    results.add(f"text_search/{way.name}.{group}/{metric}", value, protocol=words)
        results.add(f"text_search/{way.name}/refused", way.refused, protocol=words, n=len(prompts))
    ours = report.ways[0]
    for rival in report.ways[1:]:
        for metric in METRICS:
            gain = bootstrap_difference(
                ours.values[metric],
                rival.values[metric],
                clusters,
                resamples=config.evaluation.resamples,
                seed=config.seed,
            )
            results.add(f"text_difference/{rival.name}/{metric}", gain, protocol=words)
    for name, (right, n_sentences) in report.image_to_text.items():
        results.add(
            f"text_classes/{name}/recall@1",
            _mean(right, None, run),
            protocol=f"{common}; {n_sentences} sentences to choose from, 95% bootstrap by picture",
        )
    _record_cost(results, report, common, run)


def _record_cost(results: Results, report: TestReport, common: str, run: Run) -> None:
    tower = run.config.text.tower
    speed = "one text a call, processor time of one process"
    for name, q in (("p50_ms", 50), ("p99_ms", 99)):
        value = float(np.percentile(report.text_ms, q))
        results.add(f"text_speed/{tower}/{name}", value, protocol=speed, n=len(report.text_ms))
    fitted = report.encoder.fitted
    if fitted is not None:
        results.add(
            f"text_speed/{tower}/training_s",
            fitted.seconds,
            protocol=f"{common}; wall clock, {run.config.text.epochs} epochs",
        )


def _record_study(
    results: Results, images: ImageSet, traits: Traits, checked: Rows, rows: Rows, run: Run
) -> None:
    """Variants on validation, held-out pairs on test; one picture a line of a table."""
    synthetic = ", synthetic" if images.synthetic else ""
    found, prompts, n = compare_variants(images, traits, checked, run.config, run.progress)
    words = (
        f"{images.name}, {checked.protocol}, trained on {n:,} pictures of the rest, {len(prompts)} "
        f"prompts, 95% bootstrap by meaning, seed {run.config.seed}{synthetic}"
    )
    _record_judged(results, "text_variant", found, prompts, words, run)
    run.console.print(_judged_table("variants, on validation", found))
    found, prompts, n = compare_held_out(images, traits, rows, run.config, run.progress)
    words = (
        f"{images.name}, trained on {n:,} pictures, with or without those of one trait a class; "
        f"{len(prompts)} prompts for these pairs, pictures of the test split, 95% bootstrap by "
        f"meaning, seed {run.config.seed}{synthetic}"
    )
    _record_judged(results, "text_held_out", found, prompts, words, run)
    run.console.print(_judged_table("held-out pairs of class and trait, on test", found))


def _record_judged(
    results: Results, stage: str, found: dict[str, Judged], prompts: Prompts, words: str, run: Run
) -> None:
    clusters = meanings(prompts)
    for name, way in found.items():
        for metric in METRICS:
            value = _mean(way.values[metric], clusters, run)
            results.add(f"{stage}/{name}/{metric}", value, protocol=words)


def meanings(prompts: Prompts) -> np.ndarray:
    """i64[Q]: prompts of one number ask for the same."""
    said = np.concatenate([prompts.claims.classes.astype(np.int8), prompts.claims.traits], axis=1)
    return np.asarray(np.unique(said, axis=0, return_inverse=True)[1]).reshape(-1)


def _mean(values: np.ndarray, clusters: np.ndarray | None, run: Run) -> Estimate:
    return bootstrap_mean(
        values, clusters, resamples=run.config.evaluation.resamples, seed=run.config.seed
    )


def _ways_table(report: TestReport, *, quick: bool) -> Table:
    note = "  QUICK RUN, no results" if quick else ""
    title = f"{len(report.prompts)} prompts, {len(report.searched):,} pictures{note}"
    return _judged_table(title, {way.name: way for way in report.ways})


def _judged_table(title: str, found: dict[str, Judged]) -> Table:
    table = Table("answered by", "P@1", "P@10", "mAP", "refused", title=title)
    for name, way in found.items():
        cells = (f"{way.values[metric].mean():.3f}" for metric in METRICS)
        table.add_row(name, *cells, str(way.refused))
    return table


def _groups_table(report: TestReport) -> Table:
    """MAP by group of prompts."""
    groups = [g for g in GROUPS if np.any(report.prompts.group == g)]
    table = Table("mAP", *groups, title="by kind of prompt")
    for way in report.ways:
        cells = (f"{way.values['map'][report.prompts.group == g].mean():.3f}" for g in groups)
        table.add_row(way.name, *cells)
    return table
