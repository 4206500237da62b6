"""Drawing a block from its conditional posterior instead of solving for its best value.

exp(-F) is a posterior density in which every block, the others fixed, is Gaussian; its precision is
exactly the block system, Q = blockdiag(H_i) + mu L x I. So the solution of the system with a right-hand
side perturbed by noise of covariance Q is a draw (perturb and optimise: Papandreou and Yuille 2010):
    Q a = c + e,   e ~ N(0, Q).
A relation's weight lambda is half its noise precision.
"""

from __future__ import annotations

import numpy as np

from hyperlearn_dask.backend import Array, array_module
from hyperlearn_dask.factorization.blocks import BlockSystem, solve_block
from hyperlearn_dask.factorization.filters import chebyshev_apply

# Of the square root of L: its error in covariance is below half a percent of L's largest eigenvalue.
SQUARE_ROOT_DEGREE = 64


def draw_block(
    system: BlockSystem, laplacian: Array | None, mu: float, start: Array, rng: np.random.Generator
) -> Array:
    """A draw (n x f) of a modality's free columns from their conditional posterior."""
    perturbed = BlockSystem(system.gram, system.right + perturbation(system, laplacian, mu, rng))
    # A draw need not be exact to more digits than its noise has.
    return solve_block(perturbed, laplacian, mu, start, 1e-4)


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
