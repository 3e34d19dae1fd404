"""Training of the cross-feature network in torch; the formulas stand in ``cross_mlp``.

In: ``Lessons`` to learn from and to check on. Out: the weights by name, f32, as numpy reads them.

Legend: R impressions, F features, D dimension, W width, K places, J of x0.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from image_search.config import RankingConfig
from image_search.ranking.learning import Lessons
from image_search.ranking.positions import ClickLoss, Correction
from ml_platform.evaluation.progress import Progress

CLIP = 6.0
TINY = 1e-7


class CrossNetwork(nn.Module):
    """See ``cross_mlp``.

    Args:
        mean: f32[F] of the features.
        spread: f32[F].
        dim: D.
        places: K, logits of the places; read by ``place_logit`` only.
        config: Width, cross layers, hidden layers.
    """

    mean: torch.Tensor
    spread: torch.Tensor

    def __init__(
        self, mean: np.ndarray, spread: np.ndarray, dim: int, places: int, config: RankingConfig
    ) -> None:
        super().__init__()
        self.register_buffer("mean", torch.from_numpy(mean))
        self.register_buffer("spread", torch.from_numpy(spread))
        self.project = nn.Linear(dim, config.width, bias=False)
        size = len(mean) + 2 * config.width
        self.cross = nn.ModuleList(nn.Linear(size, size) for _ in range(config.cross_layers))
        sizes = (size, *config.hidden)
        self.deep = nn.ModuleList(
            nn.Linear(before, after) for before, after in zip(sizes[:-1], sizes[1:], strict=True)
        )
        self.out = nn.Linear(size + sizes[-1], 1)
        self.place_logit = nn.Embedding(places, 1)
        nn.init.zeros_(self.place_logit.weight)

    def forward(
        self, features: torch.Tensor, query: torch.Tensor, item: torch.Tensor
    ) -> torch.Tensor:
        """Logits f32[R] of features f32[R, F], query and item vectors f32[R, D]."""
        plain = ((features - self.mean) / self.spread).clamp(-CLIP, CLIP)
        query, item = self.project(query), self.project(item)
        start = torch.cat([plain, query * item, (query - item).abs()], dim=1)
        crossed = deep = start
        for layer in self.cross:
            crossed = start * layer(crossed) + crossed
        for layer in self.deep:
            deep = functional.relu(layer(deep))
        logits: torch.Tensor = self.out(torch.cat([crossed, deep], dim=1))[:, 0]
        return logits

    def arrays(self) -> dict[str, np.ndarray]:
        """The weights that scoring needs, by name."""
        kept = {name: value.detach().numpy().copy() for name, value in self.state_dict().items()}
        kept.pop("place_logit.weight")
        kept["project"] = kept.pop("project.weight")
        return kept


@dataclass(frozen=True)
class _Rows:
    """Impressions in one dimension, and the vectors they point to."""

    features: torch.Tensor
    query: np.ndarray
    item: np.ndarray
    place: torch.Tensor
    loss: ClickLoss
    vectors: torch.Tensor
    items: torch.Tensor

    def batch(self, rows: np.ndarray) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Features, query and item vectors of some rows."""
        query = self.vectors[torch.from_numpy(self.query[rows])]
        return self.features[rows], query, self.items[torch.from_numpy(self.item[rows])]


def train_network(
    learn: Lessons,
    check: Lessons,
    config: RankingConfig,
    *,
    correction: Correction,
    columns: np.ndarray,
    seed: int,
    threads: int,
    progress: Progress,
) -> dict[str, np.ndarray]:
    """The weights of the best epoch; see ``cross_mlp.fit_cross_mlp``."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        train, held = (_rows(part, correction, columns) for part in (learn, check))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            spread = train.features.std(dim=0).numpy()
            net = CrossNetwork(
                train.features.mean(dim=0).numpy(),
                np.where(spread > 1e-6, spread, 1).astype(np.float32),
                train.vectors.shape[1],
                learn.clicked.shape[1],
                config,
            )
            with torch.no_grad():
                net.out.bias.fill_(train.loss.base)
            return _best_epoch(net, train, held, config, seed, progress)
    finally:
        torch.set_num_threads(before)


def _best_epoch(
    net: CrossNetwork,
    train: _Rows,
    held: _Rows,
    config: RankingConfig,
    seed: int,
    progress: Progress,
) -> dict[str, np.ndarray]:
    """Trains all epochs and returns the weights of the one with the least loss on ``held``."""
    steps = max(1, -(-len(train.query) // config.batch))
    optimiser = torch.optim.AdamW(
        net.parameters(), lr=config.network_rate, weight_decay=config.weight_decay
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, config.network_rate, total_steps=steps * config.epochs
    )
    rng, best = np.random.default_rng(seed), (np.inf, net.arrays())
    with progress.stage("ranker: cross_mlp", steps * config.epochs) as advance:
        for _ in range(config.epochs):
            order = rng.permutation(len(train.query))
            for rows in np.array_split(order, steps):
                optimiser.zero_grad()
                _click_loss(net, train, rows).backward()  # type: ignore[no-untyped-call]
                optimiser.step()
                schedule.step()
                advance(1)
            value = _held_loss(net, held, config.batch)
            if value < best[0]:
                best = (value, net.arrays())
    return best[1]


def _rows(part: Lessons, correction: Correction, columns: np.ndarray) -> _Rows:
    features = part.features.reshape(-1, part.features.shape[-1])[:, columns]
    loss = ClickLoss(correction, part.clicked.ravel().astype(float), part.theta.ravel())
    return _Rows(
        features=torch.from_numpy(np.ascontiguousarray(features)),
        query=np.repeat(part.query, part.clicked.shape[1]),
        item=part.rows.ravel(),
        place=torch.from_numpy(part.place.ravel().copy()),
        loss=loss,
        vectors=torch.from_numpy(part.neighbours.vectors),
        items=torch.from_numpy(part.neighbours.items),
    )


def _click_loss(net: CrossNetwork, part: _Rows, rows: np.ndarray) -> torch.Tensor:
    """The mean of ``ClickLoss`` of some rows, in torch."""
    logits = net(*part.batch(rows))
    clicked = torch.from_numpy(part.loss.clicked[rows]).float()
    theta = torch.from_numpy(part.loss.theta[rows]).float()
    if part.loss.correction == "feature":
        logits = logits + net.place_logit(part.place[rows])[:, 0]
    if part.loss.correction == "ips":
        return (functional.softplus(logits) - clicked / theta * logits).mean()
    if part.loss.correction == "examination":
        missed = (1 - theta * torch.sigmoid(logits)).clamp(min=TINY)
        terms = clicked * (functional.logsigmoid(logits) + theta.log())
        return -(terms + (1 - clicked) * missed.log()).mean()
    return functional.binary_cross_entropy_with_logits(logits, clicked)


@torch.no_grad()
def _held_loss(net: CrossNetwork, part: _Rows, batch: int) -> float:
    """Mean loss of all rows."""
    pieces = np.array_split(np.arange(len(part.query)), max(1, -(-len(part.query) // batch)))
    sums = [float(_click_loss(net, part, rows)) * len(rows) for rows in pieces]
    return sum(sums) / len(part.query)
