"""What a model keeps of a learned encoder: enough to give a newcomer its row.

A newcomer v hears its neighbours u and is not heard by them, so what the convolution makes of them stays.
With l_u = -w_vu / sum w the entries of its row of L~ (the normalised Laplacian's, as if neighbours had its
degree) and L~_vv = 0,
    T_0(v) = x_v,   T_1(v) = sum_u l_u T_0(u),   T_k(v) = 2 sum_u l_u T_{k-1}(u) - T_{k-2}(v),
so that T_k(v) = a_k x_v + sum_u l_u Y_k(u) with a = 1, 0, -1, 0, 1 ... and Y_k = 2 T_{k-1} - Y_{k-2},
Y_1 = T_0, Y_0 = 0. Its row sum_k T_k(v) Theta_k is then x_v sum_k a_k Theta_k + sum_u l_u z_u, with
*messages* known beforehand,
    Z = sum_k Y_k Theta_k = sum_i T_i(L~) B Psi_i,   Psi_i = (2, or 1 for i = 0) sum_s (-1)^s Theta_{i+1+2s}.
Without neighbours L~_vv = -1, as for isolated entities in training: T_k(-1) = (-1)^k.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp

from hyperlearn_dask.config import EncoderSpec
from hyperlearn_dask.factorization.encoders.encoder import Encoder
from hyperlearn_dask.factorization.filters import chebyshev_sum


@dataclass(frozen=True, eq=False)
class Encoding:
    """A trained encoder: ``thetas`` (degree + 1, inputs, f) and ``messages`` Z (n x f), see the module.

    f are the free columns of the modality.
    """

    spec: EncoderSpec
    thetas: np.ndarray
    messages: np.ndarray

    @property
    def inputs(self) -> int:
        """How many features an entity has; 0 where the encoder is on free rows."""
        return int(self.thetas.shape[1]) if self.spec.on == "features" else 0

    def rows(self, features: Any, links: sp.csr_array) -> np.ndarray:
        """The rows (k x f) of newcomers.

        Parameters
        ----------
        features
            (k x inputs), sparse or not; of an encoder on free rows nothing is known, and None is right.
        links
            (k x n) weights w_vu of their neighbours, not negative; a row may be empty.
        """
        total = np.asarray(links.sum(axis=1)).reshape(-1, 1)
        lonely = total == 0
        heard = -(links @ self.messages) / np.where(lonely, 1, total)
        if features is None:
            return heard
        among, alone = (
            sum(a * theta for a, theta in zip(signs, self.thetas))
            for signs in (_signs(len(self.thetas)), (-1.0) ** np.arange(len(self.thetas)))
        )
        return heard + np.where(lonely, features @ alone, features @ among)


def encoding_of(encoder: Encoder) -> Encoding:
    """What is to be kept of an encoder."""
    thetas = encoder.thetas
    blocks = [encoder.base @ psi for psi in _psis(thetas)]
    messages = chebyshev_sum(encoder.laplacian, blocks) if blocks else np.zeros_like(encoder.encode())
    return Encoding(encoder.spec, np.stack(thetas), messages)


def _signs(count: int) -> list[float]:
    """a_k: 1, 0, -1, 0, 1 ..."""
    return [(1.0, 0.0, -1.0, 0.0)[k % 4] for k in range(count)]


def _psis(thetas: list[np.ndarray]) -> list[np.ndarray]:
    """Psi_0 .. Psi_{J-1}."""
    return [
        (1 if i == 0 else 2) * sum((-1) ** s * theta for s, theta in enumerate(thetas[i + 1 :: 2]))
        for i in range(len(thetas) - 1)
    ]
