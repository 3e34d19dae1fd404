"""The study behind the page: what losses, temperature and negatives do to recall and popularity.

In: MovieLens-100K, cut by time (``bench_data``). Out: six parts, a results file and pictures each.
Every model is the same small two-tower; only the loss and its negatives change. Each loss gets the
best of the same temperatures by validation recall, EASE and iALS the best of their own grids.

    python -m ml_algorithms.two_tower_and_contrastive.bench --only losses
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field

from ml_algorithms.two_tower_and_contrastive import bench_plots as plots
from ml_algorithms.two_tower_and_contrastive.bench_data import (
    Baseline,
    StudyData,
    baselines,
    taken_later,
)
from ml_algorithms.two_tower_and_contrastive.bench_distributed import run_distributed
from ml_algorithms.two_tower_and_contrastive.bench_gradient import (
    ESTIMATORS,
    Setting,
    gradient_errors,
)
from ml_algorithms.two_tower_and_contrastive.bench_runs import (
    DataKey,
    Outcome,
    Task,
    by_name,
    record,
    record_differences,
    run_tasks,
    study_data,
    tuned,
)
from ml_algorithms.two_tower_and_contrastive.objective import Recipe
from ml_algorithms.two_tower_and_contrastive.training import train
from ml_platform.evaluation.intervals import bootstrap_mean
from ml_platform.evaluation.results import Results
from ml_platform.evaluation.study import Part, Study, StudyRun


class Config(BaseModel):
    """Sizes of the study."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    dataset: str = "movielens-100k"
    history_length: int = 20
    max_queries: int = 4000
    seeds: tuple[int, ...] = (0, 1, 2)
    workers: int = Field(default=2, ge=1)
    recipe: Recipe = Recipe(epochs=3, learning_rate=0.01)
    """What all trainings share."""
    tuned_temperatures: tuple[float, ...] = (0.03, 0.07, 0.15, 0.3, 0.6)
    swept_temperatures: tuple[float, ...] = (0.03, 0.1, 0.3, 1.0)
    swept_negatives: tuple[int, ...] = (4, 32, 256, 1024)
    swept_batches: tuple[int, ...] = (128, 512, 2048)
    own_negatives: int = 16
    mined_shares: tuple[float, ...] = (0.0, 0.25, 0.5, 1.0)
    top_ranks: tuple[int, int] = (0, 100)
    deep_ranks: tuple[int, int] = (100, 300)
    rank_windows: tuple[tuple[int, int], ...] = (
        (0, 10), (10, 30), (30, 100), (100, 300), (300, 1000),
    )  # fmt: skip
    gradient_batches: tuple[int, ...] = (32, 128, 512)
    gradient_draws: int = 200
    gradient_after: int = 50
    distributed_epochs: int = 2
    exact_steps: int = 20

    @property
    def data_key(self) -> DataKey:
        """What the workers load."""
        return DataKey(self.dataset, self.history_length, self.max_queries)

    def variant(self, **changes: object) -> Recipe:
        """The shared recipe with some fields changed, checked like any recipe."""
        return Recipe.model_validate({**self.recipe.model_dump(), **changes})


LOSSES: dict[str, dict[str, object]] = {
    "full_softmax": {"loss": "full_softmax"},
    "info_nce": {"loss": "info_nce"},
    "in_batch": {"loss": "in_batch"},
    "in_batch_logq": {"loss": "in_batch", "log_q": "counts"},
    "in_batch_logq_streaming": {"loss": "in_batch", "log_q": "streaming"},
    "uniform": {"loss": "uniform"},
    "mixed": {"loss": "mixed"},
    "mixed_logq": {"loss": "mixed", "log_q": "counts"},
    "mixed_logq_own_positive": {"loss": "mixed", "log_q": "counts", "correct_positive": False},
    "bpr": {"loss": "bpr"},
}
SWEPT = ("in_batch", "mixed_logq")


def losses(run: StudyRun[Config]) -> None:
    """Every loss at its best temperature, beside popularity, EASE and iALS."""
    config, data, results = _start(run)
    first, others = config.seeds[0], config.seeds[1:]
    grid = [
        Task(name, config.variant(**change, temperature=temperature), first)
        for name, change in LOSSES.items()
        for temperature in config.tuned_temperatures
    ]
    tried = _run(run, "temperatures on validation", grid)
    chosen = tuned(tried)
    kept = [outcome for outcome in tried if outcome.task.recipe == chosen[outcome.task.name]]
    rest = _run(
        run, "other seeds", [Task(name, chosen[name], seed) for name in LOSSES for seed in others]
    )
    grouped = by_name(sorted([*kept, *rest], key=lambda o: list(LOSSES).index(o.task.name)))
    choices = dict.fromkeys(grouped, "temperature and epoch chosen on the middle part")
    for name, baseline in baselines(data).items():
        grouped[name] = [baseline.quality]
        choices[name] = _record_setting(results, name, baseline)
    record(results, "losses", data, grouped, choices)
    record_differences(results, "losses", data, grouped, "full_softmax", choices)
    for name, recipe in chosen.items():
        results.add(
            f"losses/{name}/temperature", recipe.temperature,
            protocol=f"best validation recall@100 of {config.tuned_temperatures}, seed {first}",
        )  # fmt: skip
    run.picture("recall_popularity", plots.recall_against_popularity(results, list(grouped)))


def _record_setting(results: Results, name: str, baseline: Baseline) -> str:
    """Keys for a baseline's setting; returns what the protocol says of it."""
    if not baseline.setting:
        return "nothing to choose"
    how = f"best validation recall@100 of {baseline.tried} settings"
    for knob, value in baseline.setting.items():
        results.add(f"losses_setting/{name}/{knob}", value, protocol=how)
    text = ", ".join(f"{knob} {value:g}" for knob, value in baseline.setting.items())
    return f"{text}: chosen on the middle part of {baseline.tried} settings"


def temperature(run: StudyRun[Config]) -> None:
    """Recall and popularity against the temperature; learned; without normalisation."""
    config, data, results = _start(run)
    tasks = [
        Task(f"{name}_t{value:g}", config.variant(**LOSSES[name], temperature=value), seed)
        for name in SWEPT
        for value in config.swept_temperatures
        for seed in config.seeds
    ]
    extra: dict[str, dict[str, object]] = {
        "mixed_logq_learned": {
            **LOSSES["mixed_logq"], "learn_temperature": True, "temperature": 0.5,
        },
        "in_batch_learned": {
            **LOSSES["in_batch"], "learn_temperature": True, "temperature": 0.5,
        },
        "mixed_logq_free_norm": {
            **LOSSES["mixed_logq"], "normalise": False, "temperature": 1.0,
        },
    }  # fmt: skip
    tasks += [
        Task(name, config.variant(**change), seed)
        for name, change in extra.items()
        for seed in config.seeds
    ]
    outcomes = _run(run, "trainings", tasks)
    record(results, "temperature", data, by_name(outcomes), {})
    for name in ("mixed_logq_learned", "in_batch_learned"):
        ends = [outcome.temperature for outcome in outcomes if outcome.task.name == name]
        results.add(
            f"temperature/{name}/temperature", float(np.mean(ends)), n=len(ends),
            protocol="after the last epoch, started at 0.5",
        )  # fmt: skip
    run.picture("sweep", plots.temperature_sweep(results, SWEPT, config.swept_temperatures))


def negatives(run: StudyRun[Config]) -> None:
    """Recall against the number of uniform negatives, and against the batch of in-batch ones."""
    config, data, results = _start(run)
    tasks = [
        Task(f"uniform_n{n}", config.variant(**LOSSES["uniform"], n_negatives=n), seed)
        for n in config.swept_negatives
        for seed in config.seeds
    ]
    tasks += [
        Task(f"{name}_b{batch}", config.variant(**LOSSES[name], batch_size=batch), seed)
        for name in ("in_batch", "in_batch_logq")
        for batch in config.swept_batches
        for seed in config.seeds
    ]
    record(results, "negatives", data, by_name(_run(run, "trainings", tasks)), {})
    run.picture(
        "count", plots.negatives_sweep(results, config.swept_negatives, config.swept_batches)
    )


def hard_negatives(run: StudyRun[Config]) -> None:
    """Recall against the share of mined negatives, and what each mask changes."""
    config, data, results = _start(run)
    n = config.own_negatives
    common: dict[str, object] = {
        "loss": "own_negatives", "n_negatives": n, "mined_ranks": config.top_ranks,
    }  # fmt: skip
    half = {**common, "n_mined": n // 2}
    variants: dict[str, dict[str, object]] = {
        f"mined{share:g}": {**common, "n_mined": round(share * n)} for share in config.mined_shares
    }
    variants |= {
        "mined0.5_unmasked": {**half, "mask_known": False},
        "mined0.5_positive_aware": {**half, "mask_share": 0.95},
        "mined0.5_deep": {**half, "mined_ranks": config.deep_ranks},
    }
    tasks = [
        Task(name, config.variant(**change), seed)
        for name, change in variants.items()
        for seed in config.seeds
    ]
    grouped = by_name(_run(run, "trainings", tasks))
    record(results, "hard_negatives", data, grouped, {})
    record_differences(results, "hard_negatives", data, grouped, "mined0", {})
    run.picture("share", plots.hard_negatives(results, list(grouped)))
    base = train(data.pairs, config.variant(**LOSSES["full_softmax"]), seed=run.seed).model
    for (begin, end), share in zip(
        config.rank_windows, taken_later(data, base, config.rank_windows), strict=True
    ):
        results.add(
            f"false_negatives/ranks{begin + 1}-{end}/share",
            bootstrap_mean(share, data.validation.queries.user_idx),
            protocol="share of a full-softmax two-tower's ranks, seen left out, that the user "
            f"takes later in the log; {data.dataset.name}, validation queries, 95% over users",
        )
    run.picture("false", plots.false_negatives(results, config.rank_windows))


def gradient_bias(run: StudyRun[Config]) -> None:
    """Bias and noise of each estimator's gradient against the full softmax's."""
    config, data, results = _start(run)
    torch.set_num_threads(1)
    recipe = config.variant(**LOSSES["full_softmax"])
    model = train(data.pairs, recipe, seed=run.seed, max_steps=config.gradient_after).model
    with torch.inference_mode():
        items = model(data.pairs.history[:1], torch.arange(data.pairs.n_items))[1]
        query = torch.cat(
            [model(part, torch.arange(1))[0] for part in data.pairs.history.split(4096)]
        )
    setting = Setting(
        query.clone(), data.pairs.item_idx, items.clone(), data.pairs.probability(),
        recipe.temperature,
    )  # fmt: skip
    protocol = (
        f"gradient on the item vectors of a two-tower after {config.gradient_after} steps on "
        f"{data.dataset.name}, temperature {recipe.temperature}, {config.gradient_draws} batches, "
        "as many uniform draws as rows, relative to the full softmax's gradient"
    )
    with run.progress.stage("batch sizes", len(config.gradient_batches)) as step:
        for batch in config.gradient_batches:
            errors = gradient_errors(
                setting, batch=batch, draws=config.gradient_draws, seed=run.seed
            )
            for name, error in errors.items():
                for metric, value in vars(error).items():
                    results.add(
                        f"gradient/{name}/{metric}@{batch}", value, n=config.gradient_draws,
                        protocol=protocol,
                    )  # fmt: skip
            step(1)
    _wrong_q(config, setting, results, protocol, seed=run.seed)
    run.picture("error", plots.gradient_error(results, ESTIMATORS, config.gradient_batches))


def _wrong_q(
    config: Config, setting: Setting, results: Results, protocol: str, *, seed: int
) -> None:
    """Bias of the corrected gradient when training sees a tenth of the pairs that q counted."""
    generator = torch.Generator().manual_seed(seed)
    n = len(setting.item_idx)
    rows = torch.randperm(n, generator=generator)[: max(2, n // 10)]
    counts = torch.bincount(setting.item_idx[rows], minlength=len(setting.items)).float()
    batch = max(config.gradient_batches)
    for name, probability in (
        ("q_of_all_pairs", setting.probability),
        ("q_of_the_tenth", counts / len(rows)),
    ):
        tenth = Setting(
            setting.query[rows], setting.item_idx[rows], setting.items, probability,
            setting.temperature,
        )  # fmt: skip
        errors = gradient_errors(tenth, batch=batch, draws=config.gradient_draws, seed=seed)
        for metric, value in vars(errors["in_batch_logq"]).items():
            results.add(
                f"gradient_on_a_tenth/{name}/{metric}@{batch}", value, n=config.gradient_draws,
                protocol=f"in-batch + logQ, batches drawn from a tenth of the pairs; {protocol}",
            )  # fmt: skip


def distributed(run: StudyRun[Config]) -> None:
    """One process against two under torchrun, table replicated and sharded."""
    config, data, results = _start(run)
    recipe = config.variant(**LOSSES["mixed_logq_own_positive"], epochs=config.distributed_epochs)
    run_distributed(
        results, data, recipe, seeds=config.seeds, exact_steps=config.exact_steps,
        scratch=run.scratch, progress=run.progress,
    )  # fmt: skip
    run.picture("bytes", plots.bytes_per_step(results, recipe.dim))


def _start(run: StudyRun[Config]) -> tuple[Config, StudyData, Results]:
    data = study_data(run.config.data_key)
    results = run.results_of(data.dataset)
    return run.config, data, results


def _run(run: StudyRun[Config], name: str, tasks: list[Task]) -> list[Outcome]:
    with run.progress.stage(name, len(tasks)) as step:
        return run_tasks(run.config.data_key, tasks, workers=run.config.workers, step=step)


SMOKE = Config(
    dataset="synthetic",
    history_length=8,
    max_queries=120,
    seeds=(0, 1),
    workers=1,
    recipe=Recipe(epochs=1, learning_rate=0.01, batch_size=256, n_negatives=32, dim=8, hidden=8),
    tuned_temperatures=(0.1, 0.2),
    swept_temperatures=(0.1, 0.5),
    swept_negatives=(4, 32),
    swept_batches=(64, 256),
    own_negatives=4,
    top_ranks=(0, 20),
    deep_ranks=(20, 40),
    mined_shares=(0.0, 0.5),
    rank_windows=((0, 10), (10, 100)),
    gradient_batches=(16, 64),
    gradient_draws=5,
    distributed_epochs=1,
    exact_steps=5,
)

STUDY = Study(
    name="two_tower_and_contrastive",
    folder=Path(__file__).resolve().parent,
    sizes={"default": Config(), "smoke": SMOKE},
    parts=[
        Part("losses", "which loss finds more, and what does it do to popularity?", losses),
        Part("temperature", "what does the temperature move besides recall?", temperature),
        Part("negatives", "how many negatives are enough?", negatives),
        Part("hard_negatives", "do mined negatives help, and which masks?", hard_negatives),
        Part("gradient_bias", "how wrong is each sampled gradient?", gradient_bias),
        Part("distributed", "do two processes train the same model?", distributed),
    ],
)

if __name__ == "__main__":
    raise SystemExit(STUDY.main())
