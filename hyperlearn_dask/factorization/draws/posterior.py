"""Drawing a block from its conditional posterior instead of solving for its best value.

exp(-F) is a posterior density in which every block, the others fixed, is Gaussian; its precision is
exactly the block system, Q = blockdiag(H_i) + mu L x I. So the solution of the system with a right-hand
side perturbed by noise of covariance Q is a draw (perturb and optimise: Papandreou and Yuille 2010):
    Q a = c + e,   e ~ N(0, Q).
A relation's weight lambda is half its noise precision.

Rows that an encoder makes, A~ = D Theta + E (see :mod:`.priors`), are drawn in two steps, each given the
other: the rows of Theta one after the other, then all of E at once, with
    Q = blockdiag(H_i + diag(s)) + mu L x I,   c - (blockdiag(H_i) + mu L x I) D Theta   for c.
"""

from __future__ import annotations

import numpy as np

from hyperlearn_dask.backend import Array, array_module, beside
from hyperlearn_dask.factorization.blocks import BlockSystem, curvature, residual, solve_block
from hyperlearn_dask.factorization.draws.priors import Prior
from hyperlearn_dask.factorization.filters import chebyshev_apply
from hyperlearn_dask.factorization.kernels.weights import draw_weights

# Of the square root of L: its error in covariance is below half a percent of L's largest eigenvalue.
SQUARE_ROOT_DEGREE = 64


def draw_block(
    system: BlockSystem, laplacian: Array | None, mu: float, start: Array, rng: np.random.Generator
) -> Array:
    """A draw (n x f) of a modality's free columns from their conditional posterior."""
    perturbed = BlockSystem(system.gram, system.right + perturbation(system, laplacian, mu, rng))
    # A draw need not be exact to more digits than its noise has.
    return solve_block(perturbed, laplacian, mu, start, 1e-4)


def draw_code(
    prior: Prior,
    system: BlockSystem,
    laplacian: Array | None,
    mu: float,
    block: Array,
    code: Array,
    ridges: np.ndarray,
    rng: np.random.Generator,
) -> tuple[Array, Array]:
    """A draw of a modality's rows (n x f) and of the code that makes them.

    Parameters
    ----------
    system
        The modality's, without ridges; it is used up.
    block, code
        The rows and the code at present.
    ridges
        s (parts x f).
    """
    code, made = code.copy(), 0.0
    if prior.design is not None:
        rest = residual(system, laplacian, mu, block)
        _draw_weights(prior, system, rest, code[: prior.inputs], prior.by_row(ridges), rng)
        made = prior.design @ code[: prior.inputs]
        if not prior.own:
            return made, code
    own = code[prior.inputs :]
    right = system.right
    if prior.design is not None:
        right = right - curvature(system, laplacian, mu, made)
    diagonal = beside(np.arange(own.shape[1]), system.gram)
    # A Gram that all rows share is on the host, whatever the rows are on.
    system.gram[..., diagonal, diagonal] += array_module(system.gram).asarray(ridges[-1], dtype=own.dtype)
    own[:] = draw_block(BlockSystem(system.gram, right), laplacian, mu, own, rng)
    return made + own, code


def _draw_weights(
    prior: Prior,
    system: BlockSystem,
    rest: Array,
    weights: Array,
    ridges: np.ndarray,
    rng: np.random.Generator,
) -> None:
    """Draw Theta in place; ``rest``: the system's residual, used up."""
    dtype, design, bent = weights.dtype, prior.design, prior.bent
    nothing = (design.indptr[:1], design.indices[:0], design.data[:0])
    draw_weights(
        design.indptr,
        design.indices,
        design.data,
        nothing if bent is None else (bent.indptr, bent.indices, bent.data),
        np.ascontiguousarray(system.gram if system.by_row else system.gram[None], dtype=dtype),
        np.ascontiguousarray(rest),
        weights,
        ridges[: len(weights)].astype(dtype),
        np.zeros(len(weights), dtype=dtype)
        if bent is None
        else np.asarray((design * bent).sum(axis=0), dtype=dtype),
        rng.normal(size=weights.shape).astype(dtype),
    )


def perturbation(system: BlockSystem, laplacian: Array | None, mu: float, rng: np.random.Generator) -> Array:
    """Noise (n x f) with the block system as its covariance."""
    xp = array_module(system.right)
    shape, dtype = system.right.shape, system.right.dtype
    white = xp.asarray(rng.normal(size=shape), dtype=dtype)
    root = xp.linalg.cholesky(xp.asarray(system.gram, dtype=dtype))
    noise = xp.matmul(root, white[:, :, None])[:, :, 0] if system.by_row else white @ root.T
    if laplacian is not None and mu > 0:
        white = xp.asarray(rng.normal(size=shape), dtype=dtype)
        coefficients = xp.asarray(square_root_coefficients(SQUARE_ROOT_DEGREE), dtype=dtype)
        noise += np.sqrt(mu) * chebyshev_apply(laplacian, white, coefficients[:, None])
    return noise


def square_root_coefficients(degree: int) -> np.ndarray:
    """Chebyshev coefficients of sqrt(l) on [0, 2], (degree + 1,).

    With l = 1 + cos(theta), sqrt(l) = sqrt(2) cos(theta / 2), whose cosine series is known:
        cos(theta / 2) = 2/pi + 4/pi sum_k (-1)^(k+1) / (4 k^2 - 1) cos(k theta).
    """
    k = np.arange(1, degree + 1)
    series = np.sqrt(2) * np.concatenate([[2 / np.pi], 4 / np.pi * (-1.0) ** (k + 1) / (4 * k**2 - 1)])
    # What the cut leaves at l = 0 goes: L's null space must stay without noise, whatever mu is.
    series[0] -= (series * (-1.0) ** np.arange(degree + 1)).sum()
    return series
