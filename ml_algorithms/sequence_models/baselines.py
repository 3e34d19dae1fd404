"""What a sequence model has to beat: popularity, the last item, and item-item regression.

In: the training log and a knob or two. Out: a ``Scorer``: histories to f32[B, I].

- popularity: the same list for everyone; ``since`` counts recent events only.
- Markov chain: P(next = j | last = i), counted over neighbouring events of a user, with additive
  smoothing towards popularity: ``(n_ij + mu p_j) / (n_i + mu)``. First order, no training.
- EASE and iALS of ``matrix_factorization``: the history as a set. With ``half_life`` (in events)
  newer events weigh more, which gives EASE a sense of now for the price of one multiplication.

Legend: B batch, I items.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import sparse

from ml_algorithms.collaborative_filtering.scoring import score_histories
from ml_algorithms.matrix_factorization.ease import fit_ease
from ml_algorithms.matrix_factorization.ials import fit_ials
from ml_algorithms.sequence_models.evaluation import Scorer
from ml_algorithms.sequence_models.sequences import Histories
from ml_platform.data.interactions import InteractionLog

Float32Array = npt.NDArray[np.float32]


def popularity(log: InteractionLog, *, since: int | None = None) -> Scorer:
    """Counts of training events, all or those from Unix second ``since`` on."""
    chosen = log.item_idx if since is None else log.item_idx[log.timestamp >= since]
    counts = np.bincount(chosen, minlength=log.n_items).astype(np.float32)

    def score(histories: Histories) -> Float32Array:
        return np.tile(counts, (len(histories), 1))

    return score


def markov_chain(log: InteractionLog, *, smoothing: float) -> Scorer:
    """First-order transitions, smoothed; an empty history gets popularity.

    Args:
        log: Training rows.
        smoothing: mu, in pseudo-events: with n_i = mu the chain and popularity weigh the same.

    Raises:
        ValueError: If ``smoothing`` is not positive.
    """
    if not smoothing > 0:
        raise ValueError(f"smoothing must be positive, got {smoothing}")
    transitions = transition_counts(log)
    leaving = np.asarray(transitions.sum(axis=1)).ravel()
    prior = np.bincount(log.item_idx, minlength=log.n_items) / max(len(log), 1)

    def score(histories: Histories) -> Float32Array:
        known = np.diff(histories.ptr) > 0
        last = np.where(known, histories.items[histories.ptr[1:] - 1], 0) if known.any() else None
        if last is None:
            return np.tile(prior.astype(np.float32), (len(histories), 1))
        counts = transitions[last].toarray() * known[:, None]
        out = (counts + smoothing * prior) / (leaving[last] * known + smoothing)[:, None]
        return out.astype(np.float32)

    return score


def transition_counts(log: InteractionLog) -> sparse.csr_matrix:
    """How often item j followed item i directly within a user, csr [I, I]."""
    same_user = log.user_idx[1:] == log.user_idx[:-1]
    source, target = log.item_idx[:-1][same_user], log.item_idx[1:][same_user]
    shape = (log.n_items, log.n_items)
    return sparse.coo_matrix((np.ones(len(source)), (source, target)), shape=shape).tocsr()


def ease(log: InteractionLog, *, reg: float, half_life: float | None = None) -> Scorer:
    """EASE over live histories; ``half_life`` in events lets old events fade."""
    weights = fit_ease(log.matrix(), reg=reg)

    def score(histories: Histories) -> Float32Array:
        decay = None if half_life is None else fading(histories, half_life)
        return score_histories(weights, histories.items, histories.ptr, decay)

    return score


def fading(histories: Histories, half_life: float) -> npt.NDArray[np.float64]:
    """Weight 2^(-age / half_life) of every event, age counted in events from the newest.

    Raises:
        ValueError: If ``half_life`` is not positive.
    """
    if not half_life > 0:
        raise ValueError(f"half_life must be positive, got {half_life}")
    last = np.repeat(histories.ptr[1:] - 1, np.diff(histories.ptr))
    return np.exp2(-(last - np.arange(len(histories.items))) / half_life)


def ials(
    log: InteractionLog, *, factors: int, unobserved_weight: float, reg: float, seed: int = 0
) -> Scorer:
    """iALS; the user's factor is folded in from the history of the request."""
    model = fit_ials(
        log.matrix(), factors=factors, unobserved_weight=unobserved_weight, reg=reg, seed=seed
    )

    def score(histories: Histories) -> Float32Array:
        ones = np.ones(len(histories.items), dtype=np.float32)
        shape = (len(histories), histories.n_items)
        matrix = sparse.csr_matrix((ones, histories.items, histories.ptr), shape=shape)
        matrix.sum_duplicates()
        matrix.data[:] = 1.0
        return model.score(model.fold_in(matrix))

    return score
