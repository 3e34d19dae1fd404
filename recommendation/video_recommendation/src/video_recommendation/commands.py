"""What the commands do: each method is one subcommand of ``cli.py``.

A full run on real data (not quick, not synthetic, default data set) refreshes ``results/`` in the
system's folder; every run writes its own ``artifacts/<run>/``.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

import torch
from rich.console import Console

from ml_platform.data.splits import next_event_queries
from ml_platform.evaluation.progress import Console as ProgressConsole
from ml_platform.evaluation.results import Results
from ml_platform.evaluation.run_folder import published_run, record_cost, results_folder
from video_recommendation.artifacts import SYSTEM_FOLDER
from video_recommendation.benchmarks import run_index_bench
from video_recommendation.benchmarks_serving import run_serving_bench
from video_recommendation.bundle import save_bundle
from video_recommendation.config import Config
from video_recommendation.data import SystemData, load_data
from video_recommendation.evaluation.ablations import ablation_table, read_ablations, run_ablations
from video_recommendation.evaluation.record import (
    RETRIEVAL_METRICS,
    record,
    record_load,
    record_table,
)
from video_recommendation.evaluation.run import evaluate_system, protocol_line
from video_recommendation.pipeline import Trained, train_system
from video_recommendation.rollout.registry_commands import register_run
from video_recommendation.serving.load_session import LoadSession, load_session

DEFAULT_DATASET = "movielens-100k"
SYSTEM = "video_recommendation"


@dataclass
class Run:
    """One command: its configuration, where it writes, where it prints."""

    config: Config
    artifacts: Path
    console: Console
    progress: ProgressConsole = field(init=False)

    def __post_init__(self) -> None:
        torch.set_num_threads(min(2, os.cpu_count() or 1))
        self.progress = ProgressConsole(self.console)

    # --- subcommands ---------------------------------------------------------------------------

    def data(self) -> None:
        """Loads the data set and prints what is in it."""
        data = self.load()
        windows, log = data.windows, data.log
        n_queries = len(next_event_queries(log, windows.validation_end, None))
        self.console.print(f"  licence: {data.licence}", highlight=False)
        self.console.print(f"  sha256 of the content: {data.sha256}", highlight=False)
        self.console.print(f"  test window: {n_queries} next-event queries", highlight=False)

    def train(self) -> Trained:
        """Trains, publishes and registers a bundle."""
        data = self.load()
        with published_run(self.artifacts, self.config.name) as folder:
            trained = train_system(data, self.config, self.progress)
            version = save_bundle(trained.recommender, folder / "bundle")
        self.console.print(f"bundle {version} in {folder / 'bundle'}", highlight=False)
        self._register(folder, "train", data)
        return trained

    def end_to_end(self, *, serve: bool) -> None:
        """Data, training, evaluation, a served load, the report, the results."""
        from video_recommendation.reporting.console import print_report
        from video_recommendation.reporting.html import write_report

        data = self.load()
        results = self.start_results(data)
        with published_run(self.artifacts, self.config.name) as folder:
            trained = train_system(data, self.config, self.progress)
            save_bundle(trained.recommender, folder / "bundle")
            found = evaluate_system(data, trained, self.config, self.progress)
            record(results, data, trained, found)
            served = self._serve_load(folder / "bundle", data, results) if serve else None
            record_cost(results, self.progress.seconds)
            results.write(folder / "results.json")
            report = write_report(
                folder, data, trained, found, results, served=served, progress=self.progress
            )
        if self.refreshes_results(data) and serve:
            results.write(SYSTEM_FOLDER / "results" / "e2e.json")
        self._register(folder, "e2e" if serve else "evaluate", data)
        print_report(
            self.console, data, trained, found, self.config, served=served, report_path=report
        )

    def bench(self, *, quick: bool) -> None:
        """Index sizes, metric speed, then the service under rising load."""
        bundle = self.artifacts / "latest" / "bundle"
        out = self.artifacts / "bench" if quick else SYSTEM_FOLDER / "results"
        run_index_bench(self.config, out, quick, bundle=bundle, console=self.console)
        data = self.load()
        results = self.start_results(data)
        run_serving_bench(bundle, data, results, quick=quick, console=self.console)
        results.write(out / "bench_serving.json")

    def ablations(self, *, n_seeds: int) -> None:
        """The two-tower ablations."""
        from video_recommendation.reporting.console import print_ablations

        data = self.load()
        settings = read_ablations(SYSTEM_FOLDER / "configs" / "ablations", self.config)
        seeds = tuple(range(self.config.seed, self.config.seed + n_seeds))
        results = self.start_results(data)
        with self.progress.stage("two-tower ablations", len(settings) * n_seeds) as step:
            found = run_ablations(
                self.config.data, settings, seeds, workers=min(2, os.cpu_count() or 1), on_done=step
            )
        queries = next_event_queries(data.log, data.windows.validation_end, None)
        protocol = f"mean of {n_seeds} seeds; {protocol_line(data, self.config, queries)}"
        table = ablation_table(data, found, protocol, self.config.evaluation.resamples)
        record_table(results, "ablation", table, RETRIEVAL_METRICS)
        for name in settings:
            if name != "default":
                difference = table.difference(name, "default", "recall@100")
                results.add(f"ablation_difference/{name}/recall@100", difference, protocol=protocol)
        print_ablations(self.console, table)
        self.artifacts.mkdir(parents=True, exist_ok=True)
        results.write(self.artifacts / "ablations.json")
        if self.refreshes_results(data):
            results.write(SYSTEM_FOLDER / "results" / "ablations.json")

    def reproduce_table(self) -> None:
        """The published protocol."""
        from video_recommendation.published_table.table import main

        main(out=SYSTEM_FOLDER / "results" / "published_table.json")

    # --- parts ---------------------------------------------------------------------------------

    def load(self) -> SystemData:
        """The configured data set; says what it is, and when the run is a quick one."""
        if self.config.quick:
            self.console.print("[yellow]QUICK RUN: small models; the numbers are no results")
        data = load_data(self.config.data)
        kind = "[yellow]SYNTHETIC[/yellow] " if data.synthetic else ""
        self.console.print(
            f"{kind}{data.name} (from: {data.source}): {len(data.log):,} interactions, "
            f"{data.log.n_users:,} users, {data.log.n_items:,} items",
            highlight=False,
        )
        return data

    def _register(self, folder: Path, command: str, data: SystemData) -> None:
        """Makes a complete run a version; the note says what its models are worth."""
        worth = ", QUICK RUN" if self.config.quick else ""
        worth += ", SYNTHETIC" if data.synthetic else ""
        note = f"{command} {folder.name}, {data.name}, seed {self.config.seed}{worth}"
        register_run(folder, self.artifacts, self.console, note=note)

    def start_results(self, data: SystemData) -> Results:
        """The results of this command on this data; the clock starts."""
        return Results.start(
            system=SYSTEM,
            config=self.config.model_dump(mode="json"),
            dataset_name=data.name,
            dataset_sha256=data.sha256,
            synthetic=data.synthetic,
            seed=self.config.seed,
            root=SYSTEM_FOLDER,
        )

    def refreshes_results(self, data: SystemData) -> bool:
        """Whether what is measured here is what the documents quote."""
        return not self.config.quick and data.name == DEFAULT_DATASET

    @property
    def is_full(self) -> bool:
        """Whether a demonstration that brings its own data runs as the documents quote it."""
        return not self.config.quick and self.config.data.dataset == DEFAULT_DATASET

    def results_folder(self) -> Path:
        """Where a demonstration writes: ``results/`` for a full run, else beside the artifacts.

        Plots go into its folder ``plots``.
        """
        return results_folder(SYSTEM_FOLDER, self.artifacts, full=self.is_full)

    def _serve_load(self, bundle: Path, data: SystemData, results: Results) -> LoadSession:
        serving = self.config.serving
        with self.progress.stage("serving under load, second process", 1):
            session = load_session(
                bundle,
                serving.load_rate_qps,
                serving.load_seconds,
                user_ids=data.users.user_ids,
                k=self.config.reranking.k,
            )
        record_load(results, "serving", "load", session)
        return session
