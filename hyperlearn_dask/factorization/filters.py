"""Graph filters: functions of a Laplacian applied by Chebyshev polynomials, and conjugate gradients.

The normalised Laplacian L has its eigenvalues in [0, 2]; L~ = L - I has them in [-1, 1]. A filter h is
applied as sum_k c_k T_k(L~) with T_k the Chebyshev polynomials: multi-graph convolution with given
coefficients (Arya et al. 2019, section 3; Hammond et al. 2011).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from hyperlearn_dask.backend import Array, array_module
from hyperlearn_dask.factorization import kernels

# Above this degree the resolvent is applied by conjugate gradients, which adapt to the spectrum.
SILLY_DEGREE = 400


def chebyshev_apply(laplacian: Array, block: Array, coefficients: Array) -> Array:
    """sum_k T_k(L~) B diag(c_k).

    Parameters
    ----------
    laplacian
        Sparse (n x n), eigenvalues in [0, 2].
    block
        B, (n x f).
    coefficients
        (degree + 1, f): c_k of each column.

    Returns
    -------
    (n x f) array; besides it at most two blocks of that size are held.
    """
    return kernels.chebyshev(laplacian, block, coefficients)


def graph_product(laplacian: Array, block: Array) -> Array:
    """L B, (n x f)."""
    return kernels.graph_product(laplacian, block)


def chebyshev_terms(laplacian: Array | None, block: Array, degree: int) -> Iterator[Array]:
    """T_0(L~) B, T_1(L~) B, ..., T_degree(L~) B, each (n x f), by T_{k+1} = 2 L~ T_k - T_{k-1}.

    ``laplacian``: None where the degree is 0.
    """
    now, before = block, None
    yield now
    for _ in range(degree):
        shifted = graph_product(laplacian, now) - now
        now, before = shifted if before is None else 2 * shifted - before, now
        yield now


def chebyshev_sum(laplacian: Array | None, blocks: Sequence[Array]) -> Array:
    """sum_k T_k(L~) B_k, a block (n x f) of its own for every degree; by Clenshaw's recurrence.

    The transpose of :func:`chebyshev_terms`.
    """
    now, before = blocks[-1], None
    for k in range(len(blocks) - 2, -1, -1):
        # S_k = B_k + 2 L~ S_{k+1} - S_{k+2}; the sum is B_0 + L~ S_1 - S_2
        shifted = graph_product(laplacian, now) - now
        following = blocks[k] + (shifted if k == 0 else 2 * shifted)
        now, before = following if before is None else following - before, now
    return now


def resolvent_coefficients(weights: np.ndarray, mu: float, tolerance: float) -> np.ndarray:
    """Chebyshev coefficients of h(l) = 1 / (mu l + w) on [0, 2], for several w > 0 at once.

    With z = 1 + w/mu and rho = z - sqrt(z^2 - 1) the expansion is known in closed form,
        h(1 + t) = (1/mu) 2/sqrt(z^2 - 1) sum'_k (-rho)^k T_k(t)      (the first term halved),
    and what is cut off after degree d is at most 2 rho^(d+1) / (sqrt(z^2 - 1) (1 - rho)) / mu. The
    degree is the smallest at which that, times ||mu L + w||, stays under ``tolerance``: it bounds the
    relative residual and grows like sqrt(1 + 2 mu / w).

    Returns
    -------
    (degree + 1, len(weights)) float64 array.
    """
    z = 1 + weights / mu
    root = np.sqrt((z - 1) * (z + 1))
    rho = 1 / (z + root)
    degree = resolvent_degree(float(weights.min()), mu, tolerance)
    power = (-rho[None, :]) ** np.arange(degree + 1)[:, None]
    coefficients = 2 / (mu * root) * power
    coefficients[0] /= 2
    return coefficients


def resolvent_degree(weight: float, mu: float, tolerance: float) -> int:
    """The degree that :func:`resolvent_coefficients` needs for its smallest weight, and so for all."""
    z = 1 + weight / mu
    root = np.sqrt((z - 1) * (z + 1))
    rho = 1 / (z + root)
    if not rho < 1:  # w/mu below rounding
        return SILLY_DEGREE + 1
    # 2 rho^(d+1) (z + 1) / (root (1 - rho)) <= tolerance
    target = tolerance * root * (1 - rho) / (2 * (z + 1))
    return max(1, int(np.ceil(np.log(target) / np.log(rho))))


def solve_resolvent(
    laplacian: Array, mu: float, weights: np.ndarray, block: Array, start: Array, tolerance: float
) -> Array:
    """Solve (mu L + w_r I) y_r = b_r for every column r, to a relative residual of ``tolerance``.

    One Chebyshev filter of the degree the bound asks for, or conjugate gradients from ``start``
    where that degree is silly.
    """
    xp = array_module(block)
    if resolvent_degree(float(weights.min()), mu, tolerance) <= SILLY_DEGREE:
        coefficients = resolvent_coefficients(weights, mu, tolerance)
        return chebyshev_apply(laplacian, block, xp.asarray(coefficients, dtype=block.dtype))
    w = xp.asarray(weights, dtype=block.dtype)
    diagonal = mu * xp.asarray(laplacian.diagonal(), dtype=block.dtype)[:, None] + w
    return conjugate_gradients(
        lambda y: mu * graph_product(laplacian, y) + w * y,
        block,
        lambda y: y / diagonal,
        start,
        tolerance,
        by_column=True,
    )


def conjugate_gradients(
    apply: Callable[[Array], Array],
    right: Array,
    precondition: Callable[[Array], Array],
    start: Array,
    tolerance: float,
    by_column: bool = False,
    most: int = 2000,
) -> Array:
    """Preconditioned conjugate gradients for a positive definite operator on (n x f) blocks.

    Stops at ||residual|| <= tolerance ||right||. ``by_column``: the operator acts on each column by
    itself, so each column has its own step lengths (and all must meet the tolerance).
    """
    xp = array_module(right)
    axis = 0 if by_column else None

    def inner(a: Array, b: Array) -> Array:
        return (a * b).sum(axis=axis)

    x = start.copy()
    residual = right - apply(x)
    target = tolerance**2 * inner(right, right)
    direction = precondition(residual)
    z = direction
    rz = inner(residual, z)
    for _ in range(most):
        if bool((inner(residual, residual) <= target).all()):
            break
        image = apply(direction)
        curvature = inner(direction, image)
        # A column that is solved exactly has curvature 0; its step is 0 from then on.
        step = xp.where(curvature > 0, rz / xp.where(curvature > 0, curvature, 1), 0)
        x += step * direction
        residual -= step * image
        z = precondition(residual)
        rz_new = inner(residual, z)
        direction = z + xp.where(rz > 0, rz_new / xp.where(rz > 0, rz, 1), 0) * direction
        rz = rz_new
    return x
