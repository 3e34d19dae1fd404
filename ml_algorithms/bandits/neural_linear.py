"""Neural-linear Thompson sampling: a network learns the features, a regression the uncertainty.

In: as ``environment.Policy``, contexts f[R, D]. Out: an index for every arm f[R, K].

Riquelme, Tucker and Snoek, "Deep Bayesian Bandits Showdown", ICLR 2018 (NeuralLinear): train a
network to predict the played arm's reward; take its last hidden layer as features phi(x); keep a
Bayesian linear regression on phi for each arm and Thompson-sample from that. The weights below the
last layer are treated as known, which is false and works: the uncertainty that matters most is that
of the arms.

Two speeds: the regressions take in every reward at once; the network is trained every
``retrain_every`` steps on all that was seen, and then the regressions are fitted anew, since the
features under them have moved.

Departures: the noise's scale is a knob (the paper keeps an inverse-gamma belief about it), and R
networks are trained side by side as one batched product.

Legend: R runs, K arms, D dimension, H hidden units, F features with a constant one.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn

from ml_algorithms.bandits.linear_posterior import LinearPosterior


@contextmanager
def one_torch_thread() -> Iterator[None]:
    """Networks this small gain nothing from threads, and lose much when cores are busy."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class BatchedNetworks(nn.Module):
    """R networks D -> H -> F -> K that share nothing but their shapes."""

    def __init__(self, runs: int, arms: int, dimension: int, hidden: int, features: int) -> None:
        super().__init__()
        sizes = [(dimension, hidden), (hidden, features), (features, arms)]
        self.weights = nn.ParameterList(
            [nn.Parameter(torch.randn(runs, a, b) * (2.0 / a) ** 0.5) for a, b in sizes]
        )
        self.biases = nn.ParameterList([nn.Parameter(torch.zeros(runs, 1, b)) for _, b in sizes])

    def features(self, context: torch.Tensor) -> torch.Tensor:
        """The last hidden layer f[R, N, F] of contexts f[R, N, D]."""
        hidden = torch.relu(torch.baddbmm(self.biases[0], context, self.weights[0]))
        return torch.relu(torch.baddbmm(self.biases[1], hidden, self.weights[1]))

    def forward(self, context: torch.Tensor) -> torch.Tensor:
        """Predicted rewards f[R, N, K]."""
        return torch.baddbmm(self.biases[2], self.features(context), self.weights[2])


class NeuralLinear:
    """Thompson sampling on learnt features.

    Args:
        runs: R.
        arms: K.
        dimension: D.
        scale: As in ``LinearThompson``.
        hidden: H.
        features: F - 1.
        ridge: Of the regressions.
        retrain_every: Steps between trainings.
        training_steps: Adam steps of one training, each on ``batch`` rows.
        batch: Rows of a step.
        learning_rate: Of Adam.
        seed: Of weights and batches.
    """

    def __init__(
        self,
        runs: int,
        arms: int,
        dimension: int,
        *,
        scale: float,
        hidden: int = 64,
        features: int = 24,
        ridge: float = 1.0,
        retrain_every: int = 150,
        training_steps: int = 80,
        batch: int = 128,
        learning_rate: float = 0.005,
        seed: int = 0,
    ) -> None:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.networks = BatchedNetworks(runs, arms, dimension, hidden, features)
        self.scale, self.retrain_every = scale, retrain_every
        self.training_steps, self.batch = training_steps, batch
        self.posterior = LinearPosterior(runs, arms, features + 1, ridge=ridge)
        self.optimizer = torch.optim.Adam(self.networks.parameters(), lr=learning_rate)
        self._batches = np.random.default_rng(seed)
        self._seen: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []

    def scores(self, rng: np.random.Generator, context: np.ndarray) -> np.ndarray:
        """A draw of every arm's reward at this context."""
        mean, uncertainty = self.posterior.predict(self._features(context[:, None, :])[:, 0])
        return mean + self.scale * uncertainty * rng.normal(size=mean.shape)

    def update(self, arms: np.ndarray, rewards: np.ndarray, context: np.ndarray) -> None:
        """One row for each played arm; now and then new features."""
        self._seen.append((arms, rewards, context))
        if len(self._seen) % self.retrain_every:
            self.posterior.add(arms, rewards, self._features(context[:, None, :])[:, 0])
            return
        all_arms, all_rewards, contexts = (
            np.stack(part, axis=1) for part in zip(*self._seen, strict=True)
        )
        self._train(all_arms, all_rewards, contexts)
        self.posterior.refit(all_arms, all_rewards, self._features(contexts))

    def _features(self, context: np.ndarray) -> np.ndarray:
        """f64[R, N, F], the last a constant 1."""
        with torch.no_grad():
            found = self.networks.features(torch.from_numpy(context.astype(np.float32)))
        learnt = found.numpy().astype(np.float64)
        return np.concatenate([learnt, np.ones((*learnt.shape[:2], 1))], axis=2)

    def _train(self, arms: np.ndarray, rewards: np.ndarray, contexts: np.ndarray) -> None:
        """Squared error of the played arm's output, on random rows of the past."""
        n_rows = arms.shape[1]
        for _ in range(self.training_steps):
            rows = self._batches.integers(n_rows, size=min(self.batch, n_rows))
            inputs = torch.from_numpy(contexts[:, rows].astype(np.float32))
            target = torch.from_numpy(rewards[:, rows].astype(np.float32))
            chosen = torch.from_numpy(arms[:, rows])[:, :, None]
            predicted = self.networks(inputs).gather(2, chosen)[:, :, 0]
            # Summed over runs: each network's gradient is that of its own mean error.
            loss = (predicted - target).square().mean(dim=1).sum()
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
