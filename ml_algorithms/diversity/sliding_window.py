"""Long feeds: an item only has to differ from what is still on the screen.

In: relevance or quality f[C], and a similarity or kernel f[C, C] or vectors f[C, D] of C
candidates. Out: positions of the picked, in order.

A feed of 200 items is never seen at once. Compared with *all* that came before, everything is a
repeat sooner or later: the 19th item over 18 genres adds no volume to a DPP, which then stops. A
window W compares the next item with the W - 1 picks before it only, so the list may be of any
length, and the time per item stops growing with the position.

- ``windowed_mmr``: MMR whose maximum runs over the window.
- ``windowed_dpp``: the item that multiplies the determinant of the window most.
- ``sliding_spectrum``: Huang, Wang, Zhang and Xu, "Sliding Spectrum Decomposition for Diversified
  Recommendation", KDD 2021, in the greedy form that leaves out the running volume:

      next = argmax of   quality[c] + gamma * |v_c less its projection on the window's vectors|

  Quality and diversity are *added* here, where a DPP multiplies them.

Departures from the paper. Its diversity term is multiplied by the volume of the picks so far, a
product of numbers below one that fades along the list; the form without it keeps one exchange rate
at every position. And each step orthogonalises the window's own vectors anew (W is about ten):
taking the oldest *orthogonalised* vector out of a running Gram-Schmidt basis is cheaper by a
factor W, but what is left then spans something other than the items that remain.

What a window gives up: an item may repeat one that has left it. Deduplicate before.

Legend: C candidates, k list length, W window, D dimension of the vectors.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ml_algorithms.diversity.dpp import DUPLICATE_SHARE


def windowed_mmr(
    relevance: npt.NDArray[np.floating],
    similarity: npt.NDArray[np.floating],
    *,
    k: int,
    trade_off: float,
    window: int,
) -> npt.NDArray[np.int64]:
    """MMR against the last ``window - 1`` picks. Time O(k W C).

    Args:
        relevance: Scores [C], best brought to [0, 1].
        similarity: Symmetric [C, C]; the diagonal is not used.
        k: Items to pick; all C when k exceeds C.
        trade_off: As in ``mmr``.
        window: W >= 1 items that are judged together; 1 sorts by relevance.

    Returns:
        Picked candidates i64[min(k, C)]. With ``window > k`` exactly what ``mmr`` picks.

    Raises:
        ValueError: If shapes disagree, or k, trade_off or window is out of range.
    """
    _check(relevance.shape[0], similarity.shape, k, window)
    if not 0.0 <= trade_off <= 1.0:
        raise ValueError(f"trade_off must lie in [0, 1], got {trade_off}")
    n_picked = min(k, relevance.shape[0])
    picked = np.empty(n_picked, dtype=np.int64)
    gain = trade_off * relevance.astype(np.float64)
    for position in range(n_picked):
        recent = _recent(picked, position, window)
        marginal = gain
        if len(recent):
            marginal = gain - (1.0 - trade_off) * similarity[recent].max(axis=0)
        picked[position] = int(marginal.argmax())
        gain[picked[position]] = -np.inf
    return picked


def windowed_dpp(kernel: npt.NDArray[np.floating], k: int, *, window: int) -> npt.NDArray[np.int64]:
    """Greedy DPP in which only the last ``window - 1`` picks repel. Time O(k W^2 C).

    The gain of candidate c is det(L of window + c) / det(L of window), the Schur complement
    ``L_cc - L_cR L_RR^-1 L_Rc`` over the recent picks R.

    Args:
        kernel: Symmetric positive semi-definite [C, C].
        k: Items to pick.
        window: W >= 1; at most the kernel's rank, or the list may end early.

    Returns:
        Picked candidates i64[<= k], each once. Fewer than k only when no candidate adds volume to
        the window. With ``window > k`` exactly what ``greedy_dpp`` picks.

    Raises:
        ValueError: If the kernel is not square, or k or window is out of range.
    """
    _check(kernel.shape[0], kernel.shape, k, window)
    own = np.diag(kernel).astype(np.float64)
    floor = own * DUPLICATE_SHARE
    picked = np.empty(min(k, len(own)), dtype=np.int64)
    for position in range(len(picked)):
        recent = _recent(picked, position, window)
        rows = kernel[recent]
        explained = np.einsum("wc,wc->c", rows, np.linalg.solve(rows[:, recent], rows))
        gain = own - explained
        gain[gain <= floor] = -np.inf
        gain[picked[:position]] = -np.inf
        best = int(gain.argmax())
        if not gain[best] > 0.0:
            return picked[:position]
        picked[position] = best
    return picked


def sliding_spectrum(
    quality: npt.NDArray[np.floating],
    vectors: npt.NDArray[np.floating],
    *,
    k: int,
    gamma: float,
    window: int,
) -> npt.NDArray[np.int64]:
    """Quality plus ``gamma`` times the part of an item that the window does not span.

    Args:
        quality: Scores [C]; bring them to one scale per request, since they are added to a length.
        vectors: Item vectors [C, D], best of length 1.
        k: Items to pick; all C when k exceeds C.
        gamma: Weight of novelty, >= 0; 0 sorts by quality.
        window: W >= 1.

    Returns:
        Picked candidates i64[min(k, C)]. Time O(k W D (C + W)).

    Raises:
        ValueError: If shapes disagree, or k, gamma or window is out of range.
    """
    _check(quality.shape[0], (vectors.shape[0], quality.shape[0]), k, window)
    if gamma < 0.0:
        raise ValueError(f"gamma must be >= 0, got {gamma}")
    score = quality.astype(np.float64)
    squared = np.einsum("cd,cd->c", vectors, vectors).astype(np.float64)
    picked = np.empty(min(k, len(score)), dtype=np.int64)
    for position in range(len(picked)):
        basis = orthonormal_rows(vectors[_recent(picked, position, window)])
        spanned = np.square(vectors @ basis.T).sum(axis=1)
        novelty = np.sqrt(np.maximum(squared - spanned, 0.0))
        picked[position] = int((score + gamma * novelty).argmax())
        score[picked[position]] = -np.inf
    return picked


def orthonormal_rows(rows: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    """An orthonormal basis [r, D] of the span of rows [R, D], r <= R, by Gram-Schmidt.

    A row that the rows before it span adds nothing. (A QR factorisation would return an arbitrary
    direction for it, and that direction would then count as covered.)
    """
    basis = np.zeros((0, rows.shape[1]))
    for row in rows.astype(np.float64):
        rest = row - basis.T @ (basis @ row)
        rest -= basis.T @ (basis @ rest)  # a second pass removes what rounding left
        length = float(np.linalg.norm(rest))
        if length > 1e-8 * max(float(np.linalg.norm(row)), 1e-300):
            basis = np.vstack([basis, rest / length])
    return basis


def _recent(picked: npt.NDArray[np.int64], position: int, window: int) -> npt.NDArray[np.int64]:
    """The picks that share a window with the next one."""
    return picked[max(0, position - window + 1) : position]


def _check(n_candidates: int, shape: tuple[int, ...], k: int, window: int) -> None:
    if shape != (n_candidates, n_candidates):
        raise ValueError(f"shapes do not fit {n_candidates} candidates: got {shape}")
    if k < 0 or window < 1:
        raise ValueError(f"k must be >= 0 and window >= 1, got {k} and {window}")
