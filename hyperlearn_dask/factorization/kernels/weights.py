"""Learned weights drawn one feature after the other, compiled by Numba."""

from __future__ import annotations

import numba
import numpy as np


@numba.njit(cache=True, nogil=True, fastmath={"contract", "reassoc", "nsz"})
def draw_weights(starts, rows, values, bent, grams, rest, weights, ridges, stiffness, white):  # type: ignore[no-untyped-def]
    """Draw every row of Theta from its conditional, given those before it; of A~ = D Theta + ....

    With x = column q of D, and G the block's residual C - H A~ - mu L A~ at present,
        Q = sum_i x_i^2 H_i + stiffness_q I + diag(ridges_q),   Q = R R',
        Theta_q += R'^-1 (R^-1 (sum_i x_i G_i - ridges_q Theta_q) + z),   z white noise,
    and G_i loses x_i H_i times the change, and bent_iq = mu (L x)_i times it.

    Parameters
    ----------
    starts, rows, values
        D (n x q), compressed by columns.
    bent
        (starts, rows, values) of mu L D in the same way; of length 0 where there is no graph.
    grams
        H_i (n x f x f), or H (1 x f x f) of all rows.
    rest
        G (n x f), written to.
    weights
        Theta (q x f), written to.
    ridges, white
        (q x f).
    stiffness
        mu x' L x, (q,).
    """
    width = weights.shape[1]
    by_row = len(grams) > 1
    bent_starts, bent_rows, bent_values = bent
    root = np.empty((width, width), dtype=weights.dtype)
    step = np.empty(width, dtype=weights.dtype)
    for q in range(len(weights)):
        for a in range(width):
            step[a] = -ridges[q, a] * weights[q, a]
            for b in range(a + 1):
                root[a, b] = 0
        for k in range(starts[q], starts[q + 1]):
            i, x = rows[k], values[k]
            gram = grams[i if by_row else 0]
            for a in range(width):
                step[a] += x * rest[i, a]
                for b in range(a + 1):
                    root[a, b] += x * x * gram[a, b]
        for a in range(width):
            root[a, a] += stiffness[q] + ridges[q, a]
        # Q = R R', and the step on the way
        for a in range(width):
            for b in range(a + 1):
                total = root[a, b]
                for c in range(b):
                    total -= root[a, c] * root[b, c]
                root[a, b] = np.sqrt(max(total, ridges[q, a])) if a == b else total / root[b, b]
            for c in range(a):
                step[a] -= root[a, c] * step[c]
            step[a] /= root[a, a]
        for a in range(width):
            step[a] += white[q, a]
        for a in range(width - 1, -1, -1):
            for c in range(a + 1, width):
                step[a] -= root[c, a] * step[c]
            step[a] /= root[a, a]
            weights[q, a] += step[a]
        for k in range(starts[q], starts[q + 1]):
            i, x = rows[k], values[k]
            gram = grams[i if by_row else 0]
            for a in range(width):
                total = gram[a, 0] * step[0]
                for b in range(1, width):
                    total += gram[a, b] * step[b]
                rest[i, a] -= x * total
        if len(bent_starts) > 1:
            for k in range(bent_starts[q], bent_starts[q + 1]):
                for a in range(width):
                    rest[bent_rows[k], a] -= bent_values[k] * step[a]
