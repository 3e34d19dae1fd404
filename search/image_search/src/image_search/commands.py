"""What the commands do: each method is one subcommand of ``cli.py``.

A full run (default configuration, on a public data set) refreshes ``results/`` in the system's
folder; every run writes its own ``artifacts/<run>/``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from rich.console import Console
from rich.table import Table

from image_search.artifacts import SYSTEM, SYSTEM_FOLDER
from image_search.attributes import draw_attributes
from image_search.config import Config
from image_search.images.captions import captions, traits_of
from image_search.images.datasets import load_images
from image_search.images.image_set import ImageSet
from ml_platform.evaluation.progress import Console as ProgressConsole
from ml_platform.evaluation.results import Results
from ml_platform.evaluation.run_folder import published_run, record_cost, results_folder

if TYPE_CHECKING:
    from image_search.bundle import Parts
    from image_search.embeddings.base import Embedder
    from image_search.evaluation.retrieval import RetrievalScores
    from image_search.images.image_set import Rows

BUNDLE = "bundle"
"""The bundle's folder within a run's."""
FLOORS = ("pixels_cosine", "hog")
"""Measured beside what is served in every end-to-end run."""
MOST_BROKEN = 20
"""Broken files that are named on the terminal; the results have the number of all."""
EXAMPLES = 5


@dataclass
class Run:
    """One command: its configuration, where it writes, where it prints."""

    config: Config
    artifacts: Path
    console: Console
    progress: ProgressConsole = field(init=False)

    def __post_init__(self) -> None:
        self.progress = ProgressConsole(self.console)

    # --- subcommands ---

    def data(self) -> None:
        """Fetches or makes the pictures and prints what is in them."""
        images = self.load()
        self.console.print(f"  terms: {images.terms} Served by: {images.source}", highlight=False)
        self.console.print(f"  sha256 of the content: {images.sha256}", highlight=False)
        self.console.print(_class_table(images))
        if images.labelled:
            self._print_examples(images)

    def train(self) -> Parts:
        """Trains what is served and saves it as a bundle."""
        from image_search.pipeline import save_trained, train_system

        images = self.load()
        with published_run(self.artifacts, self.config.name) as folder:
            parts = train_system(images, self.config, self.progress)
            version = save_trained(parts, folder / BUNDLE, images, self.config)
        self._say(f"bundle {version} in {folder / BUNDLE}")
        return parts

    def evaluate(self) -> Results:
        """Fits every embedding that is compared, measures retrieval with each."""
        from image_search.evaluation.run import evaluate_embeddings, judged_rows

        images = self.load()
        judged_rows(images, self.config)  # before the work, not after it
        results = self.start_results(images)
        show = partial(self._show, images)
        evaluate_embeddings(images, self.config, results, self.progress, show)
        return self._finish(images, results, f"evaluate_{self.config.images.dataset}")

    def end_to_end(self) -> Results:
        """Trains, saves, loads what was saved, measures it beside the floors, serves a load."""
        from image_search.bundle import load_searcher
        from image_search.evaluation.funnel import measure_funnel
        from image_search.evaluation.run import evaluate_embedder, judged_rows
        from image_search.pipeline import fit_embedder, save_trained, train_system
        from image_search.serving.short_load import short_load

        images = self.load()
        rows = judged_rows(images, self.config)
        results = self.start_results(images)
        with published_run(self.artifacts, self.config.name) as folder:
            parts = train_system(images, self.config, self.progress)
            save_trained(parts, folder / BUNDLE, images, self.config)
        searcher = load_searcher(folder / BUNDLE)
        embedders = [searcher.embedder]
        for name in (floor for floor in FLOORS if floor != searcher.embedder.name):
            embedders.append(fit_embedder(name, images, rows.gallery, self.config, self.progress))
        for embedder in embedders:
            evaluate_embedder(embedder, images, rows, self.config, results, self.progress)
        measure_funnel(searcher, images, rows, results, self.config.seed, self.progress)
        short_load(self, images, searcher, results)
        return self._finish(images, results, f"e2e_{self.config.images.dataset}")

    # --- parts ---

    def load(self) -> ImageSet:
        """The configured pictures; says what they are, and lists the broken ones."""
        if self.config.quick:
            self.console.print("[yellow]QUICK RUN: few pictures; the numbers are no results")
        images = load_images(self.config.images, seed=self.config.seed, progress=self.progress)
        kind = "[yellow]SYNTHETIC[/yellow] " if images.synthetic else ""
        self.console.print(
            f"{kind}{images.name}: {len(images):,} pictures, {len(images.label_names)} classes",
            highlight=False,
        )
        self._print_broken(images)
        return images

    @property
    def is_full(self) -> bool:
        """Whether what is measured here is what the documents quote: defaults, a public set."""
        images = self.config.images
        public = images.dataset in ("fashion-mnist", "clothing")
        plain = images.model_copy(update={"dataset": Config().images.dataset})
        return public and self.config.model_copy(update={"images": plain}) == Config()

    @property
    def latest_bundle(self) -> Path:
        """The bundle of the last complete run; it may not exist."""
        return self.artifacts / "latest" / BUNDLE

    def results_folder(self) -> Path:
        """Where a command writes: ``results/`` for a full run, else beside the artifacts."""
        return results_folder(SYSTEM_FOLDER, self.artifacts, full=self.is_full)

    def start_results(self, images: ImageSet) -> Results:
        """The results of this command on these pictures; the clock starts."""
        return Results.start(
            system=SYSTEM,
            config=self.config.model_dump(mode="json"),
            dataset_name=images.name,
            dataset_sha256=images.sha256,
            synthetic=images.synthetic,
            seed=self.config.seed,
            root=SYSTEM_FOLDER,
        )

    def _show(
        self, images: ImageSet, embedder: Embedder, rows: Rows, scores: RetrievalScores
    ) -> None:
        """Draws what an embedding finds, and a map of some of its vectors."""
        from image_search.embeddings.vectors import embed_rows
        from image_search.reporting.map_plot import drawn_rows, tsne_picture
        from image_search.reporting.neighbours import neighbour_picture

        name = f"{self.config.images.dataset}_{embedder.name}.png"
        plots = self.results_folder() / "plots"
        neighbour_picture(images, rows, scores, embedder.name, plots / f"neighbours_{name}")
        drawn = rows.queries[drawn_rows(len(rows.queries), self.config.seed)]
        vectors = embed_rows(embedder, images, drawn, progress=self.progress, what="map")
        tsne_picture(
            vectors,
            images.label[drawn],
            images.label_names,
            plots / f"map_{name}",
            self.config.seed,
        )

    def _finish(self, images: ImageSet, results: Results, name: str) -> Results:
        """Adds what the run cost, writes, prints."""
        from image_search.reporting.tables import print_tables

        record_images(images, results)
        record_cost(results, self.progress.seconds)
        path = self.results_folder() / f"{name}.json"
        results.write(path)
        print_tables(self.console, results, quick=self.config.quick)
        self._say(f"results: {path}")
        return results

    def _print_broken(self, images: ImageSet) -> None:
        if not images.broken:
            return
        self.console.print(f"[red]{len(images.broken)} files cannot be read and are skipped:")
        for number, (name, reason) in enumerate(images.broken.items()):
            if number == MOST_BROKEN:
                self._say(f"  and {len(images.broken) - MOST_BROKEN} more")
                break
            self._say(f"  {name}: {reason}")

    def _print_examples(self, images: ImageSet) -> None:
        """Some captions and synthetic attributes, of pictures spread over the set."""
        rows = np.linspace(0, len(images) - 1, min(EXAMPLES, len(images))).astype(np.int64)
        label, ids = images.label[rows], images.item_id[rows]
        traits = traits_of([images.images[int(row)] for row in rows])
        sentences = captions(label, images.label_names, traits, ids, self.config.seed)
        drawn = draw_attributes(ids, label, self.config.seed)
        table = Table(
            "picture", "caption (computed)", "price", "quality", "views a day", "days old"
        )
        table.title = "Examples; price, quality, views and age are SYNTHETIC"
        for n, row in enumerate(rows):
            columns = (drawn.price[n], drawn.quality[n], drawn.popularity[n], drawn.age_days[n])
            forms = (".2f", ".2f", ".0f", ".0f")
            cells = [format(float(v), f) for v, f in zip(columns, forms, strict=True)]
            table.add_row(str(images.item_id[row]), sentences[n], *cells)
        self.console.print(table)

    def _say(self, text: str) -> None:
        self.console.print(text, highlight=False, markup=False)


def record_images(images: ImageSet, results: Results) -> None:
    """Writes how many pictures there are in each split, and how many files were broken."""
    words = f"{images.name}, source {images.source}"
    for part, name in enumerate(("gallery", "validation", "query")):
        count = int((images.split == part).sum())
        results.add(f"data/{name}/pictures", count, protocol=words)
    results.add("data/broken/files", len(images.broken), protocol=words)


def _class_table(images: ImageSet) -> Table:
    table = Table("class", "gallery", "validation", "query")
    for k, name in enumerate(images.label_names):
        counts = [int(((images.label == k) & (images.split == part)).sum()) for part in range(3)]
        table.add_row(name, *(f"{count:,}" for count in counts))
    unlabelled = int((images.label < 0).sum())
    if unlabelled:
        table.add_row("(no class)", f"{unlabelled:,}", "", "")
    return table
