"""What the commands do: each method is one subcommand of ``cli.py``.

A full run (default configuration, on a public data set) refreshes ``results/`` in the system's
folder; every run writes its own ``artifacts/<run>/``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from image_search.artifacts import SYSTEM, SYSTEM_FOLDER
from image_search.attributes import draw_attributes
from image_search.config import Config
from image_search.images.captions import captions, traits_of
from image_search.images.datasets import load_images
from image_search.images.image_set import ImageSet
from image_search.pipeline import Trained, save_trained, train_system
from ml_platform.evaluation.progress import Console as ProgressConsole
from ml_platform.evaluation.results import Results
from ml_platform.evaluation.run_folder import published_run, record_cost, results_folder

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

    def train(self) -> Trained:
        """Fits the embeddings and saves them."""
        images = self.load()
        with published_run(self.artifacts, self.config.name) as folder:
            trained = train_system(images, self.config, self.progress)
            save_trained(trained, folder / "embedders", images)
        self._say(f"embeddings {', '.join(trained.embedders)} in {folder / 'embedders'}")
        return trained

    def evaluate(self) -> Results:
        """Fits the embeddings, measures retrieval with each, writes and prints the results."""
        from image_search.evaluation.run import evaluate_system, judged_rows
        from image_search.reporting.tables import print_tables

        images = self.load()
        judged_rows(images, self.config)  # before the work, not after it
        results = self.start_results(images)
        with published_run(self.artifacts, self.config.name) as folder:
            trained = train_system(images, self.config, self.progress)
            save_trained(trained, folder / "embedders", images)
            evaluate_system(images, trained, self.config, results, self.progress)
            record_images(images, results)
            record_cost(results, self.progress.seconds)
            results.write(folder / "results.json")
        if self.is_full:
            results.write(self.results_folder() / f"evaluate_{self.config.images.dataset}.json")
        print_tables(self.console, results, quick=self.config.quick)
        self._say(f"results: {folder / 'results.json'}")
        return results

    def end_to_end(self) -> None:
        """What there is so far: data, training, evaluation."""
        self.evaluate()
        self._say("Index, ranking, re-ranking and serving are not built yet: e2e ends here.")

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
