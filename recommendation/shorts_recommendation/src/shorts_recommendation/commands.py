"""What the commands do: each method is one subcommand of ``cli.py``.

A full run (not quick, default size, default configuration) refreshes ``results/`` in the system's
folder; every run writes its own ``artifacts/<run>/``.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console

from ml_platform.evaluation.progress import Console as ProgressConsole
from ml_platform.evaluation.results import Results
from ml_platform.evaluation.run_folder import published_run, record_cost, results_folder
from shorts_recommendation.artifacts import SYSTEM, SYSTEM_FOLDER
from shorts_recommendation.bundle import save_bundle
from shorts_recommendation.config import Config
from shorts_recommendation.data import ShortsData, load_data
from shorts_recommendation.pipeline import Trained, train_system


@dataclass
class Run:
    """One command: its configuration, where it writes, where it prints."""

    config: Config
    artifacts: Path
    console: Console
    progress: ProgressConsole = field(init=False)

    def __post_init__(self) -> None:
        import torch

        torch.set_num_threads(min(2, os.cpu_count() or 1))
        self.progress = ProgressConsole(self.console)

    # --- subcommands ---

    def data(self) -> None:
        """Makes or reads the world and prints what is in it."""
        data = self.load()
        self.console.print(f"  sha256 of the content: {data.sha256}", highlight=False)

    def train(self) -> Trained:
        """Trains and publishes a bundle."""
        data = self.load()
        with published_run(self.artifacts, self.config.name) as folder:
            trained = train_system(data, self.config, self.progress)
            version = save_bundle(trained.recommender, folder / "bundle", trained.reference)
        self.console.print(f"bundle {version} in {folder / 'bundle'}", highlight=False)
        return trained

    def end_to_end(self, *, serve: bool) -> None:
        """World, training, evaluation, a served load, the report, the results."""
        from shorts_recommendation.evaluation.run import evaluate_system
        from shorts_recommendation.reporting.report import print_report, write_report

        data = self.load()
        results = self.start_results(data)
        with published_run(self.artifacts, self.config.name) as folder:
            (folder / "plots").mkdir()
            trained = train_system(data, self.config, self.progress)
            save_bundle(trained.recommender, folder / "bundle", trained.reference)
            evaluate_system(data, trained, self.config, results, folder / "plots", self.progress)
            if serve:
                self._serve_load(folder / "bundle", results)
            record_cost(results, self.progress.seconds)
            results.write(folder / "results.json")
            report = write_report(folder, results, self.config)
        if self.is_full and serve:
            results.write(self.results_folder() / "e2e.json")
            self._copy_plots(folder / "plots")
        print_report(self.console, results, self.config, report)

    def bench(self) -> None:
        """The service under rising load."""
        from shorts_recommendation.serving.command import main

        main(self)

    # --- parts ---

    def load(self) -> ShortsData:
        """The configured world; says what it is, and when the run is a quick one."""
        if self.config.quick:
            self.console.print("[yellow]QUICK RUN: a small world; the numbers are no results")
        data = load_data(self.config, progress=self.progress)
        self.console.print(
            f"[yellow]SIMULATED[/yellow] {data.name}: {len(data.log):,} impressions, "
            f"{len(data.users):,} people, {len(data.catalogue):,} videos",
            highlight=False,
        )
        return data

    @property
    def is_full(self) -> bool:
        """Whether what is measured here is what the documents quote."""
        return self.config == Config()

    def results_folder(self) -> Path:
        """Where a command writes: ``results/`` for a full run, else beside the artifacts.

        Plots go into its folder ``plots``.
        """
        return results_folder(SYSTEM_FOLDER, self.artifacts, full=self.is_full)

    def start_results(
        self,
        data: ShortsData | None = None,
        *,
        name: str = "",
        sha256: str = "",
        synthetic: bool = False,
    ) -> Results:
        """The results of this command on this data; the clock starts.

        Args:
            data: The world; None where a command brings its own data, named by
            name: its name and
            sha256: its checksum, and
            synthetic: whether a generator made it.
        """
        return Results.start(
            system=SYSTEM,
            config=self.config.model_dump(mode="json"),
            dataset_name=data.name if data else name,
            dataset_sha256=data.sha256 if data else sha256,
            synthetic=data is not None or synthetic,
            seed=self.config.seed,
            root=SYSTEM_FOLDER,
        )

    def _copy_plots(self, plots: Path) -> None:
        from ml_platform.evaluation.results import write_atomic

        for picture in sorted(plots.glob("*.png")):
            write_atomic(self.results_folder() / "plots" / picture.name, picture.read_bytes())

    def _serve_load(self, bundle: Path, results: Results) -> None:
        from shorts_recommendation.serving.record import record_sessions

        with self.progress.stage("serving under load, second process", 3) as step:
            record_sessions(bundle, self.config, results, step)
