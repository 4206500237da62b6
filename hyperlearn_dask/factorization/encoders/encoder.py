"""Learned multi-graph convolution: a modality's rows made from features, or free rows, and its graph.

The published encoder (Arya et al. 2019), T_j the Chebyshev polynomials and L~ = L - I:
    A~ = sum_j T_j(L~) B Theta_j,   j = 0 .. J.
``on = "features"``: B = X, what the entities are like (n x p). With ``own`` each entity also has a free row:
    A~ = sum_j T_j(L~) X Theta_j + E.
``on = "free"``: B (n x f) is learned as well; Theta_j are f x f.

Other modalities see A~ alone, in which F is quadratic, the others fixed: curvature K (a -> H_i a_i + mu L A,
see :mod:`..blocks`) and gradient G~ = K A~ - C. Let M be the linear map from the parameters that move
(Theta and E; or, in turns, Theta and B) to A~. In them F is quadratic too, with S the ridges:
    decay/2 sum_j ||Theta_j||^2 + eps/2 ||E or B||^2          is added to F,
    dF/dTheta_j = B' T_j(L~) G~ + decay Theta_j,   dF/dE = G~ + eps E,
    dF/dB = sum_j T_j(L~) G~ Theta_j' + eps B              (the gradient is M' G~ + S times the parameters),
    (M' K M + S) Delta = -gradient                         gives the step to the minimum, by PCG.
Nothing larger than the parameters and a few blocks (n x f) is held, and of the graph only L times a block
is asked for. A step in the parameters is one in A~, M Delta, so the exact joint step of the schedules holds.

All parameters are one matrix, the *code*: Theta_0, ..., Theta_J and E or B, one below the other.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from hyperlearn_dask.backend import Array
from hyperlearn_dask.config import EncoderSpec
from hyperlearn_dask.factorization.blocks import BlockSystem, curvature, residual
from hyperlearn_dask.factorization.filters import chebyshev_sum, chebyshev_terms, conjugate_gradients
from hyperlearn_dask.factorization.grams import inner, spectrum
from hyperlearn_dask.factorization.kernels import arrays
from hyperlearn_dask.factorization.kernels.rows import invert_rows, solver_of_rows

# Of a solve; a direction from fewer is still one of descent.
MOST_ITERATIONS = 200
# Columns of B up to which B' B is held and decomposed to precondition with; of more its diagonal serves.
MOST_INPUTS = 512
# Rows with a system each, through Theta at once; and enough of them for a mean to precondition with.
ROWS_AT_ONCE = 64
ENOUGH_ROWS = 256


@dataclass(frozen=True, eq=False)
class Encoder:
    """A modality's encoder with its parameters.

    ``laplacian``: L, None where the degree is 0; ``features``: X (n x p), sparse or not, None on free rows;
    ``code``: the parameters (see the module); ``turn``: which of them move, on free rows: B in even turns,
    Theta in odd ones.
    """

    spec: EncoderSpec
    laplacian: Array | None
    features: Any
    code: Array
    turn: int = 0

    @property
    def thetas(self) -> list[Array]:
        """Theta_0 .. Theta_J."""
        return _cut(self.code, self._inputs, self.spec.degree)

    @property
    def rows(self) -> Array:
        """E or B (n x f), with no rows where the encoder has neither."""
        return self.code[self._cut :]

    @property
    def conjugable(self) -> bool:
        """Whether it is the same each time that moves, so that ways can be made conjugate."""
        return self.spec.on == "features"

    @property
    def moving(self) -> slice:
        """The rows of the code that move."""
        if self.spec.on == "features":
            return slice(None)
        return slice(self._cut, None) if self._moves_base else slice(0, self._cut)

    def encode(self) -> Array:
        """A~ (n x f)."""
        base = self.base
        encoded = chebyshev_sum(self.laplacian, [base @ theta for theta in self.thetas])
        return encoded + self.rows if self.spec.own else encoded

    def along(self, change: Array) -> Array:
        """M Delta (n x f): how A~ changes with the code, of which only what moves may."""
        if self._moves_base:
            rows = change[self._cut :]
            return chebyshev_sum(self.laplacian, [rows @ theta for theta in self.thetas])
        moved = self.by_weights(change)
        return moved + change[self._cut :] if self.spec.own else moved

    def by_weights(self, change: Array) -> Array:
        """M Delta (n x f) of a change of Theta alone."""
        base = self.base
        return chebyshev_sum(
            self.laplacian, [base @ theta for theta in _cut(change, self._inputs, self.spec.degree)]
        )

    def transposed(self, gradient: Array) -> Array:
        """M' G: a gradient in A~ as one in the code, 0 in what does not move."""
        found = np.zeros_like(self.code)
        if self._moves_base:
            # dF/dB = sum_j T_j(L~) G Theta_j'
            terms = chebyshev_terms(self.laplacian, gradient, self.spec.degree)
            for term, theta in zip(terms, self.thetas):
                found[self._cut :] += term @ theta.T
            return found
        found[: self._cut] = self.weights_transposed(gradient)
        if self.spec.own:
            found[self._cut :] = gradient
        return found

    def weights_transposed(self, gradient: Array) -> Array:
        """M' G of Theta alone: dF/dTheta_j = B' T_j(L~) G, one below the other."""
        terms = chebyshev_terms(self.laplacian, gradient, self.spec.degree)
        return np.concatenate([self.base.T @ term for term in terms])

    def ridges(self, ridge: float) -> np.ndarray:
        """The diagonal of S, (rows of the code, 1)."""
        ridges = np.full((len(self.code), 1), ridge)
        ridges[: self._cut] = self.spec.decay
        return ridges

    @property
    def base(self) -> Any:
        """B."""
        return self.rows if self.features is None else self.features

    @property
    def moves_rows(self) -> bool:
        """Whether E or B is among what moves."""
        return self.spec.own or self._moves_base

    @property
    def _moves_base(self) -> bool:
        return self.spec.on == "free" and self.turn % 2 == 0

    @property
    def _inputs(self) -> int:
        """The columns of B."""
        return int(self.code.shape[1] if self.features is None else self.features.shape[1])

    @property
    def _cut(self) -> int:
        """Where in the code Theta ends."""
        return (self.spec.degree + 1) * self._inputs

    def seen_through(self, gram: Array) -> Array:
        """A curvature (f x f, or one per row) as a row that moves feels it, about."""
        if not self._moves_base:
            return gram
        if gram.ndim == 2:
            return self._through_weights(gram)
        felt = arrays.empty(gram.shape, gram.dtype)
        for first in range(0, len(gram), ROWS_AT_ONCE):
            rows = slice(first, first + ROWS_AT_ONCE)
            felt[rows] = self._through_weights(gram[rows])
        return felt

    def _through_weights(self, gram: Array) -> Array:
        """sum_j of the mean of T_j^2 times Theta_j H Theta_j', of symmetric H (f x f) one below the other."""
        half = [1.0] + [0.5] * self.spec.degree
        flat = gram.reshape(-1, gram.shape[-1])
        total = np.zeros_like(flat)
        for h, theta in zip(half, self.thetas):
            # H Theta', transposed the symmetric Theta H, and that times Theta'
            product = (flat @ theta.T).reshape(gram.shape).swapaxes(-1, -2)
            total += h * (product.reshape(flat.shape) @ theta.T)
        return total.reshape(gram.shape)


def code_rows(spec: EncoderSpec, inputs: int, entities: int) -> int:
    """How many rows the code has, with B of so many columns."""
    return (spec.degree + 1) * inputs + (entities if spec.own or spec.on == "free" else 0)


def descent(
    encoder: Encoder,
    system: BlockSystem,
    mu: float,
    ridge: float,
    block: Array,
    before: Array | None,
    tolerance: float,
) -> tuple[Array, float, float]:
    """The way from the present code to the block's solution, and F's slope along it.

    Parameters
    ----------
    system, mu
        The modality's system in A~ and its graph's weight.
    ridge
        eps, of E or B.
    block
        A~ at present (n x f).
    before
        Another change of the code, or None.
    tolerance
        Relative residual to which the way is solved.

    Returns
    -------
    Delta (as the code), <G, Delta>, <G, before>
        With G minus the gradient in what moves; both slopes 0 where ways are not made conjugate.
    """
    if not block.shape[1]:  # no relation couples the modality
        return np.zeros_like(encoder.code), 0.0, 0.0
    moving = encoder.moving
    ridges = encoder.ridges(ridge).astype(block.dtype)
    downhill = encoder.transposed(residual(system, encoder.laplacian, mu, block)) - ridges * encoder.code

    def apply(change: Array) -> Array:
        whole = _within(encoder, change)
        bent = curvature(system, encoder.laplacian, mu, encoder.along(whole))
        return (encoder.transposed(bent) + ridges * whole)[moving]

    right = downhill[moving]
    way = conjugate_gradients(
        apply,
        right,
        _preconditioner(encoder, system, mu, ridges),
        np.zeros_like(right),
        tolerance,
        most=MOST_ITERATIONS,
    )
    change = _within(encoder, way)
    if not encoder.conjugable:
        return change, 0.0, 0.0
    return change, inner(downhill, change), 0.0 if before is None else inner(downhill, before)


def starting_code(
    spec: EncoderSpec, laplacian: Array | None, features: Any, start: Array, ridge: float
) -> Array:
    """The code that a training begins with: the nearest to a start of the rows themselves (n x f).

    On features least squares, on free rows B = start and Theta = I, 0, ...
    """
    n, f = start.shape
    if features is None:
        identity = np.eye(f, dtype=start.dtype)
        return np.concatenate([identity, *[np.zeros_like(identity)] * spec.degree, start])
    code = np.zeros((code_rows(spec, features.shape[1], n), f), dtype=start.dtype)
    encoder = Encoder(spec, laplacian, features, code)
    # Ridges small beside a curvature of I, so that they choose among equals.
    system = BlockSystem(np.eye(f) / START_RIDGE, start / start.dtype.type(START_RIDGE))
    return descent(encoder, system, 0.0, ridge, np.zeros_like(start), None, START_TOLERANCE)[0]


START_RIDGE = 1e-2
START_TOLERANCE = 1e-3


def cost(encoder: Encoder, change: Array, ridge: float) -> np.ndarray:
    """1/2 the ridges of code + alpha change, as coefficients in alpha, lowest first."""
    ridges = encoder.ridges(ridge).astype(change.dtype)
    code = encoder.code
    return np.array(
        [inner(code, ridges * code) / 2, inner(code, ridges * change), inner(change, ridges * change) / 2]
    )


def _within(encoder: Encoder, part: Array) -> Array:
    """A change of what moves as one of the whole code."""
    if len(part) == len(encoder.code):
        return part
    whole = np.zeros_like(encoder.code)
    whole[encoder.moving] = part
    return whole


def _preconditioner(encoder: Encoder, system: BlockSystem, mu: float, ridges: np.ndarray) -> Any:
    """About (M' K M + S)^-1: of K the rows' own curvatures, of M' M the mean over the spectrum.

    With E or B alone it is (H_i + eps)^-1 row by row, with Theta alone see :func:`_solver_of_weights`. With
    both E is eliminated first; where C_i = H_i (H_i + eps)^-1, so that E feels what Theta leaves,
        Theta solves M' (eps mean C) M Theta + decay Theta = R_Theta - M' C R_E,
        E_i = (H_i + eps)^-1 R_Ei - C_i (M Theta)_i.
    """
    identity = np.eye(system.right.shape[1], dtype=system.right.dtype)
    # L's mean eigenvalue is about 1.
    gram = encoder.seen_through(np.asarray(system.gram, dtype=identity.dtype) + mu * identity)
    if not encoder.moves_rows:
        return _solver_of_weights(encoder, gram, ridges)
    eps = ridges[-1, 0]
    solve_rows = _inverse(gram, eps)
    if not encoder.spec.own:
        return solve_rows
    felt = _mean_felt(gram, eps) if gram.ndim == 3 else identity - eps * solve_rows(identity)
    solve = _solver_of_weights(encoder, eps * felt, ridges)
    cut = len(ridges) - len(encoder.rows)

    def precondition(rest: Array) -> Array:
        own = rest[cut:]
        solved = solve_rows(own)
        weights = solve(rest[:cut] - encoder.weights_transposed(own - eps * solved))
        moved = encoder.by_weights(weights)
        return np.concatenate([weights, solved - moved + eps * solve_rows(moved)])

    return precondition


def _inverse(gram: Array, eps: float) -> Callable[[Array], Array]:
    """R -> (H_i + eps)^-1 R_i, of H (f x f) or the H_i (n x f x f)."""
    if gram.ndim == 3:
        return solver_of_rows(gram, np.full(len(gram), eps, dtype=gram.dtype))
    w, q = spectrum(gram)
    inverse = (q / (np.maximum(w, np.finfo(gram.dtype).eps * w[-1]) + eps)) @ q.T
    return lambda rest: rest @ inverse


def _mean_felt(gram: Array, eps: float) -> Array:
    """The mean of H_i (H_i + eps)^-1, of many rows that of some."""
    some = np.ascontiguousarray(gram[:: -(-len(gram) // ENOUGH_ROWS)])
    inverse = invert_rows(some, np.full(len(some), eps, dtype=gram.dtype)).mean(axis=0)
    return np.eye(len(inverse), dtype=gram.dtype) - eps * inverse


def _solver_of_weights(encoder: Encoder, gram: Array, ridges: np.ndarray) -> Any:
    """R -> (M' (I (x) W) M + decay)^-1 R for Theta, about; W the mean curvature.

    Diagonal between the eigenvectors of W and of B' B, of which many inputs have the diagonal only.
    """
    w, q = spectrum(gram.mean(axis=0) if gram.ndim == 3 else gram)
    base, blocks = encoder.base, encoder.spec.degree + 1
    # On average over the spectrum, T_0^2 is 1 and the other T_j^2 are 1/2.
    half = np.where(np.arange(blocks) == 0, 1.0, 0.5)[:, None, None]
    product = base.T @ base if base.shape[1] <= MOST_INPUTS else (base * base).sum(axis=0)
    dense = product.toarray() if hasattr(product, "toarray") else np.asarray(product)
    g, u = spectrum(dense) if dense.ndim == 2 else (dense, None)
    scale = half * np.maximum(g, 0)[:, None] * np.maximum(w, 0) + encoder.spec.decay
    scale = scale.astype(ridges.dtype)

    def solve(rest: Array) -> Array:
        parts = rest.reshape(blocks, -1, rest.shape[1]) @ q
        parts = parts / scale if u is None else u @ ((u.T @ parts) / scale)
        return (parts @ q.T).reshape(rest.shape)

    return solve


def _cut(code: Array, inputs: int, degree: int) -> list[Array]:
    """The blocks Theta_0 .. Theta_J of a code."""
    return [code[j * inputs : (j + 1) * inputs] for j in range(degree + 1)]
