"""``compatible``: the embedding changes; what may ask the old index until all is back-filled?

In: a ``Run``. Out: ``compatible.json`` with ``compatible/<way>.<percent>/recall@1``, the criterion
and the gain of each way, a plot and a table. The models are small and briefly trained, the old one
on fewer pictures: levels are those of the study, not of the service.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure
from rich.table import Table

from image_search.config import Config
from image_search.images.image_set import ImageSet
from image_search.retrieval.compatible_study import (
    SHARES,
    WAYS,
    Pictures,
    Update,
    averaged,
    draw_pictures,
    gain_of,
    measure_update,
)
from ml_platform.evaluation.intervals import bootstrap_difference, bootstrap_mean
from ml_platform.evaluation.plot_style import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PINK,
    new_figure,
    png,
)
from ml_platform.evaluation.results import Results, write_atomic

if TYPE_CHECKING:
    from image_search.commands import Run

LOOKS = {
    "wait": (GREY, "s", "wait: old model until all is done"),
    "independent": (PINK, "v", "independent new model"),
    "mapped": (BLUE, "o", "mapped query (Procrustes)"),
    "both": (GREEN, "D", "two queries, both models"),
    "bct": (ORANGE, "^", "backward-compatible training"),
}


def run(run: Run) -> None:
    """Trains, measures, prints, writes."""
    images, config = run.load(), run.config
    pictures = draw_pictures(images, config)
    results = run.start_results(images)
    seeds = range(config.seed, config.seed + config.index.study.update_seeds)
    each = [measure_update(pictures, config, seed, run.progress) for seed in seeds]
    update = averaged(each)
    record(results, update, each, protocol(images, pictures, config), config)
    folder = run.results_folder()
    results.write(folder / "compatible.json")
    write_atomic(folder / "plots" / "compatible.png", png(compatible_plot(update)))
    run.console.print(compatible_table(update))
    run.console.print(f"numbers: {folder / 'compatible.json'}", highlight=False)


def protocol(images: ImageSet, pictures: Pictures, config: Config) -> str:
    """What stands beneath every number."""
    study = config.index.study
    n_old = max(study.update_batch, round(study.update_old_share * len(pictures.train)))
    return (
        f"{images.name}{', synthetic' if images.synthetic else ''}, small network, SupCon, "
        f"{study.update_epochs} epochs, old model on {n_old:,} pictures, new on "
        f"{len(pictures.train):,}, gallery of {len(pictures.gallery):,} others, "
        f"{len(pictures.queries):,} test queries, exact search, mean of {study.update_seeds} "
        f"trainings, 95% bootstrap by query{', QUICK' if config.quick else ''}"
    )


def record(
    results: Results, update: Update, each: list[Update], words: str, config: Config
) -> None:
    """R@1 of every mixture, the criterion with its paired interval, the spread over trainings."""
    resamples = config.evaluation.resamples
    for (way, share), values in update.mixed.items():
        key = f"compatible/{way}.{round(100 * share)}"
        results.add(f"{key}/recall@1", bootstrap_mean(values, resamples=resamples), protocol=words)
        spread = float(np.std([one.mixed[way, share].mean() for one in each]))
        trainings = f"standard deviation over {len(each)} trainings; {words}"
        results.add(f"{key}/recall@1_spread", spread, protocol=trainings)
    alone = {"old_old": update.old_old, "new_new": update.new_new, "bct_bct": update.bct_new}
    for name, values in alone.items():
        estimate = bootstrap_mean(values, resamples=resamples)
        results.add(f"compatible/{name}/recall@1", estimate, protocol=words)
    cost = bootstrap_difference(update.bct_new, update.new_new, resamples=resamples)
    results.add("compatible/bct_bct/over_new_new", cost, protocol=words)
    for way in WAYS[1:]:
        over = bootstrap_difference(update.mixed[way, 0.0], update.old_old, resamples=resamples)
        criterion = f"cross test less old/old, compatible where above 0; {words}"
        results.add(f"compatible/{way}/over_old_old", over, protocol=criterion)
        gain = gain_of(update, way)
        if gain is not None:
            had = f"share of new/new's improvement had with nothing back-filled; {words}"
            results.add(f"compatible/{way}/gain", gain, protocol=had)


def compatible_table(update: Update) -> Table:
    """R@1 by way and share back-filled."""
    table = Table(title="R@1 while the gallery is back-filled (0%: the cross test)")
    table.add_column("way")
    for share in SHARES:
        table.add_column(f"{share:.0%}", justify="right")
    for way in WAYS:
        table.add_row(way, *(f"{update.mixed[way, share].mean():.4f}" for share in SHARES))
    return table


def compatible_plot(update: Update) -> Figure:
    """R@1 by share back-filled, a line a way, and the two models by themselves."""
    figure, (axes,) = new_figure("The model changes; the gallery follows item by item", height=4.4)
    for way in WAYS:
        colour, marker, label = LOOKS[way]
        values = [float(update.mixed[way, share].mean()) for share in SHARES]
        axes.plot(SHARES, values, color=colour, marker=marker, label=label)
    for name, level in (("old on old", update.old_old), ("new on new", update.new_new)):
        axes.axhline(float(level.mean()), color=BLACK, linestyle="--", linewidth=0.8)
        axes.annotate(
            name, (0.5, float(level.mean())), (0, 3), textcoords="offset points", fontsize=8,
            ha="center", va="bottom", color=GREY,
        )  # fmt: skip
    axes.set_xlabel("share of the gallery that is back-filled")
    axes.set_ylabel("R@1 (class of the first result)")
    axes.set_xticks(SHARES, [f"{share:.0%}" for share in SHARES])
    figure.legend(frameon=False, fontsize=8, ncols=3, loc="outside lower center")
    return figure
