"""The movie half of part ``multi_task``: two heads on real ratings, cut by time.

User and item embeddings and genres go into a shared bottom, MMoE, PLE, or two networks of their own
(each with its own embeddings: that is what "a model per task" means in production). The networks
above the embeddings have one budget; the number of epochs is each model's best on validation.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from ml_algorithms.mixture_of_experts.bench_config import Config, over_seeds
from ml_algorithms.mixture_of_experts.movie_tasks import MovieRows, MovieTasks, movie_tasks
from ml_algorithms.mixture_of_experts.task_models import Kind, SingleTasks, models_of
from ml_algorithms.study_data import study_dataset
from ml_platform.data.datasets import SyntheticConfig
from ml_platform.data.schema import Dataset
from ml_platform.evaluation.classification_metrics import auc
from ml_platform.evaluation.results import Results
from ml_platform.evaluation.study import StudyRun

HEADS = ("liked", "stays")
SMALL = SyntheticConfig(n_users=120, n_items=80, n_interactions=4000)


class MovieModel(nn.Module):
    """Embeddings below, a multi-task network above."""

    def __init__(self, network: nn.Module, tasks: MovieTasks, width: int) -> None:
        super().__init__()
        copies = 2 if isinstance(network, SingleTasks) else 1
        self.users = nn.ModuleList(nn.Embedding(tasks.n_users, width) for _ in range(copies))
        self.items = nn.ModuleList(nn.Embedding(tasks.n_items, width) for _ in range(copies))
        for table in (*self.users, *self.items):
            nn.init.normal_(table.weight, std=0.05)  # type: ignore[arg-type]
        self.network = network

    def forward(self, rows: MovieRows) -> Tensor:
        """Logits f[N, 2]."""
        features = [
            torch.cat([users(rows.user), items(rows.item), rows.genres], dim=1)
            for users, items in zip(self.users, self.items, strict=True)
        ]
        if isinstance(self.network, SingleTasks):
            parts = zip(self.network.tasks, features, strict=True)
            return torch.cat([task(x).logits for task, x in parts], dim=1)
        logits: Tensor = self.network(features[0])[0]
        return logits


def load_movies(config: Config) -> Dataset:
    """The movie data; generated at the small size.

    Raises:
        MissingInputError: If it cannot be had.
    """
    return study_dataset(config.dataset, small=SMALL)


def run_movies(study: StudyRun[Config], dataset: Dataset, results: Results) -> None:
    """Train every kind for every seed; AUC of each head, and differences from single tasks."""
    config = study.config
    tasks = movie_tasks(dataset, seed=study.seed, limit=config.movie_rows)
    n_features = 2 * config.movie_embedding + tasks.n_genres
    models = models_of(n_features, config.task_budget)
    scores: dict[Kind, list[tuple[float, float]]] = {}
    with study.progress.stage("two heads on movies", len(models) * len(config.movie_seeds)) as step:
        for kind, build in models.items():
            scores[kind] = [fit_movies(build, tasks, config, seed) for seed in config.movie_seeds]
            step(len(config.movie_seeds))
    how = (
        f"{dataset.name}, cut 80/10/10 by time, test window n={len(tasks.test)} rows; embeddings "
        f"{config.movie_embedding}, network budget {config.task_budget}, best of "
        f"{config.movie_epochs} epochs by validation; {len(config.movie_seeds)} seeds, Student "
        "interval over seeds (not over users)"
    )
    for head, name in enumerate(HEADS):
        base = float(tasks.test.labels[:, head].mean())
        results.add(f"movies/{name}/base_rate", base, n=len(tasks.test), protocol=how)
        for kind, found in scores.items():
            values = [one[head] for one in found]
            results.add(f"movies/{kind}/auc_{name}", over_seeds(values), protocol=how)
            if kind != "single_task":
                paired = zip(values, scores["single_task"], strict=True)
                gain = over_seeds([mine - single[head] for mine, single in paired])
                results.add(f"movies/{kind}/gain_{name}", gain, protocol=how + ", paired by seed")


def fit_movies(
    build: Callable[[], nn.Module], tasks: MovieTasks, config: Config, seed: int
) -> tuple[float, float]:
    """Test AUC of the two heads, at the epoch with the best mean validation AUC."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    model = MovieModel(build(), tasks, config.movie_embedding)
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=1e-2)
    best, state = -1.0, copy.deepcopy(model.state_dict())
    for _ in range(config.movie_epochs):
        model.train()
        order = torch.from_numpy(rng.permutation(len(tasks.train)))
        for rows in torch.split(order, config.movie_batch):
            batch = _take(tasks.train, rows)
            loss = functional.binary_cross_entropy_with_logits(model(batch), batch.labels)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        found = sum(_aucs(model, tasks.validation))
        if found > best:
            best, state = found, copy.deepcopy(model.state_dict())
    model.load_state_dict(state)
    return _aucs(model, tasks.test)


def _take(rows: MovieRows, index: Tensor) -> MovieRows:
    return MovieRows(rows.user[index], rows.item[index], rows.genres[index], rows.labels[index])


@torch.no_grad()
def _aucs(model: MovieModel, rows: MovieRows) -> tuple[float, float]:
    model.eval()
    logits, labels = model(rows).numpy(), rows.labels.numpy()
    return auc(labels[:, 0], logits[:, 0]), auc(labels[:, 1], logits[:, 1])
