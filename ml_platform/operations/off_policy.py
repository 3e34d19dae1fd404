r"""What would a new policy have earned? Answered from the log of the old one.

In: one row a logged decision (`Logged`): the reward, the probability with which the old policy
chose what it showed (the propensity), the probability with which the new one would have, and, where
there is a reward model, its predictions. Out: `PolicyValue`, the mean reward a decision, with a 95%
interval and the effective sample size.

With weights w = target / propensity, reward r, a model q of the reward, v = sum_a target(a) q(a):

    DM    = mean(v)                                                                              (1)
    IPS   = mean(w r)                                                                            (2)
    SNIPS = sum(w r) / sum(w)                                                                    (3)
    DR    = mean(v + w (r - q))                                                                  (4)

- The direct method (1) believes the model, and its interval knows nothing of the model's bias.
- Inverse propensity scoring (2) is unbiased if the propensities are those that were used and every
  action the target may take had a chance (Horvitz and Thompson, "A Generalization of Sampling
  Without Replacement From a Finite Universe", JASA 1952). Its variance grows with the weights.
- Self-normalised (3) divides by what the weights sum to instead of by what they should: a small
  bias of order 1/N for much less variance, and the estimate stays among the rewards that were seen
  (Swaminathan and Joachims, "The Self-Normalized Estimator for Counterfactual Learning", NeurIPS
  2015).
- Doubly robust (4) lets the model guess and corrects it by weighted residuals: right if either the
  propensities or the model are right, and less noisy the better the model (Dudik, Langford and Li,
  "Doubly Robust Policy Evaluation and Learning", ICML 2011). The model must not have been fitted on
  the rows that correct it.

Which one is best depends on the log, so compare them on yours, as the Open Bandit Pipeline does
(Saito, Aihara, Matsutani and Narita, "Open Bandit Dataset and Pipeline", NeurIPS 2021 Datasets and
Benchmarks). Clipping (`clip`) caps the weights; what is cut off is lost: with rewards >= 0 it makes
IPS too small by exactly E[max(w - clip, 0) r]. The effective sample size is sum(w)^2 / sum(w^2):
how many rows of the target itself the log is worth.

Lists. The propensity of a whole list of 10 is a product of ten small numbers, and its weights are
useless. What is logged here is the propensity of ONE slot: everything else of the page is decided
as ever, and one position is filled from a known distribution. The value estimated is then that of
the policy for this slot with the rest of the page unchanged, position effect included. It is not
the value of a new ranking of the whole page; for that, users must examine the slot independently of
its neighbours, or an online test decides.

Two checks come before any estimate. The weights average 1 if the propensities are right and the
support is complete (`PolicyValue.weights_plausible`). And `unsupported_share` says how much of the
target's choices the old policy could not have shown at all: there the log says nothing, and IPS
silently counts 0.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

Z = float(stats.norm.ppf(0.975))
# Three standard errors: a check that stands beside every estimate must rarely cry wolf.
WEIGHT_TOLERANCE = 3.0
Float64Array = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Logged:
    """Logged decisions, one row each.

    Attributes:
        reward: f64[N].
        propensity: f64[N], in (0, 1]: probability with which the logging policy chose the action
            that it took, at that moment, as it was logged then.
        target: f64[N], in [0, 1]: probability with which the new policy takes the same action.
        predicted: f64[N], the model's reward of the action that was taken; for DR.
        predicted_value: f64[N], the model's reward of the new policy there, v; for DM and DR.
        users: [N], whose rows hang together; None: rows are independent.
    """

    reward: Float64Array
    propensity: Float64Array
    target: Float64Array
    predicted: Float64Array | None = None
    predicted_value: Float64Array | None = None
    users: npt.NDArray[np.integer] | None = None

    def __post_init__(self) -> None:
        n = len(self.reward)
        if n < 2:
            raise ValueError(f"an interval needs at least 2 logged decisions, got {n}")
        for name in ("reward", "propensity", "target", "predicted", "predicted_value", "users"):
            values = getattr(self, name)
            if values is None:
                continue
            if np.shape(values) != (n,):
                raise ValueError(f"{n} rewards, but {name} has shape {np.shape(values)}")
            if not np.isfinite(values).all():
                raise ValueError(f"{name} of row {int(np.argmin(np.isfinite(values)))} not finite")
        outside = ~((self.propensity > 0) & (self.propensity <= 1))
        if outside.any():
            row = int(np.argmax(outside))
            raise ValueError(
                f"propensity of row {row} is {self.propensity[row]}, but the action was taken; log "
                "the probability with which it was drawn, and leave out decisions drawn from none"
            )
        if not ((self.target >= 0) & (self.target <= 1 + 1e-9)).all():
            raise ValueError("target must hold probabilities of the new policy, 0 to 1")

    @property
    def weights(self) -> Float64Array:
        """The importance weights w = target / propensity, f64[N]."""
        return np.asarray(self.target / self.propensity, dtype=np.float64)


@dataclass(frozen=True)
class PolicyValue:
    """An estimate of the mean reward of one decision under the target policy.

    Attributes:
        value: The estimate, with `low` and `high` of its 95% interval.
        n: Logged decisions.
        effective_n: What they are worth for this target.
        mean_weight: 1 in expectation, before clipping.
        weights_plausible: Whether `mean_weight` is within three standard errors of 1. If not:
            propensities are not those that were used, or the log lacks actions of the target.
    """

    value: float
    low: float
    high: float
    n: int
    effective_n: float
    mean_weight: float
    weights_plausible: bool


def direct_method(logged: Logged) -> PolicyValue:
    """Equation (1). The interval covers the draw of contexts, not the error of the model."""
    if logged.predicted_value is None:
        raise ValueError("the direct method needs predicted_value, the model's view of the target")
    return _estimate(logged, logged.predicted_value)


def ips(logged: Logged, *, clip: float | None = None) -> PolicyValue:
    """Equation (2); with `clip` the weights are capped there, which biases it downwards."""
    return _estimate(logged, _clipped(logged.weights, clip) * logged.reward)


def snips(logged: Logged, *, clip: float | None = None) -> PolicyValue:
    """Equation (3), with the interval of a ratio by the delta method.

    Raises:
        ValueError: If the target never takes any logged action: all weights are 0.
    """
    weights = _clipped(logged.weights, clip)
    if not weights.sum() > 0:
        raise ValueError(
            "the new policy never takes an action of this log: all weights are 0; "
            "log with exploration that covers it"
        )
    value = float(weights @ logged.reward / weights.sum())
    return _estimate(logged, value + weights * (logged.reward - value) / weights.mean())


def doubly_robust(logged: Logged, *, clip: float | None = None) -> PolicyValue:
    """Equation (4); with `clip` the correction of the model is capped, and its bias remains."""
    if logged.predicted is None or logged.predicted_value is None:
        raise ValueError("doubly robust needs predicted and predicted_value of a reward model")
    residual = logged.reward - logged.predicted
    return _estimate(logged, logged.predicted_value + _clipped(logged.weights, clip) * residual)


def unsupported_share(target: Float64Array, logging: Float64Array) -> float:
    """Share of the target's choices that the logging policy could not have shown.

    Args:
        target: f64[Q, A], the new policy's probabilities in Q contexts.
        logging: f64[Q, A], the logging policy's.

    Returns:
        0 where the log can judge everything. IPS misses the reward of just this share.
    """
    if target.shape != logging.shape or target.ndim != 2:
        raise ValueError(f"two policies [Q, A] are needed, got {target.shape}, {logging.shape}")
    return float(np.where(logging > 0, 0.0, target).sum(axis=1).mean())


def _clipped(weights: Float64Array, clip: float | None) -> Float64Array:
    if clip is None:
        return weights
    if not clip > 0:
        raise ValueError(f"clip must be above 0, got {clip}")
    return np.minimum(weights, clip)


def _estimate(logged: Logged, terms: Float64Array) -> PolicyValue:
    """The mean of the terms with its interval, and what the weights say about the log."""
    weights = logged.weights
    half = Z * _standard_error(terms, logged.users)
    value, squares = float(terms.mean()), float(weights @ weights)
    mean_weight = float(weights.mean())
    tolerance = WEIGHT_TOLERANCE * _standard_error(weights, logged.users)
    return PolicyValue(
        value=value,
        low=value - half,
        high=value + half,
        n=len(terms),
        effective_n=float(weights.sum() ** 2 / squares) if squares > 0 else 0.0,
        mean_weight=mean_weight,
        weights_plausible=abs(mean_weight - 1) <= tolerance + 1e-12,
    )


def _standard_error(terms: Float64Array, users: npt.NDArray[np.integer] | None) -> float:
    """Of the mean of terms [N]; rows of one user are summed first, for they hang together."""
    centred = terms - terms.mean()
    if users is not None:
        _, user_of = np.unique(users, return_inverse=True)
        centred = np.bincount(user_of, weights=centred)
    clusters = len(centred)
    if clusters < 2:
        raise ValueError("all rows are of one user; there is no interval")
    return math.sqrt(float(centred @ centred) * clusters / (clusters - 1)) / len(terms)
