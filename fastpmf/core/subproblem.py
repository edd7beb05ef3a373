"""The convex problem of one factor while the other is fixed."""

from functools import lru_cache
from typing import NamedTuple

import numpy as np


class RowPrior(NamedTuple):
    """What rules and kernels are told beside the weights d.

    Attributes
    ----------
    shape, ridge : ndarray of shape (1 or n_rows, K), optional
        shape - 1 and the ridge, of the factor's dtype, both with the same number of rows.
    held : ndarray of shape (K,), bool, optional
        Components whose entries stay as they are.
    zeros : bool
        Whether some weights are inf, which keeps an entry at zero.
    """

    shape: np.ndarray | None = None
    ridge: np.ndarray | None = None
    held: np.ndarray | None = None
    zeros: bool = False

    @property
    def general(self) -> bool:
        """Whether row totals don't tell where the optimum is, so that gaps are bounded otherwise."""
        return self.ridge is not None or self.held is not None or self.zeros

    @property
    def total_shape(self) -> np.ndarray | float:
        """Of each row, or of all alike."""
        return 0.0 if self.shape is None else self.shape.sum(axis=1, dtype=np.float64)

    def select_rows(self, rows: np.ndarray | slice) -> "RowPrior":
        """That of these rows, by number."""
        shape, ridge = (A if A is None or len(A) == 1 else A[rows] for A in (self.shape, self.ridge))
        return self._replace(shape=shape, ridge=ridge)

    def arrays(self, width: int, dtype: np.dtype) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """shape, ridge and held as kernels want them, all zero where there is nothing."""
        nothing = _nothing(width, dtype)
        shape, ridge = self.shape, self.ridge
        if shape is None:
            shape = nothing if ridge is None or len(ridge) == 1 else np.zeros_like(ridge)
        if ridge is None:
            ridge = nothing if len(shape) == 1 else np.zeros_like(shape)
        return shape, ridge, nothing if self.held is None else self.held[None].astype(dtype)


@lru_cache(maxsize=16)
def _nothing(width: int, dtype: np.dtype) -> np.ndarray:
    out = np.zeros((1, width), dtype)
    out.flags.writeable = False
    return out


NO_PRIOR = RowPrior()


def as_weights(weight: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Weights as kernels want them: two dimensions, the factor's dtype, C order."""
    return np.ascontiguousarray(np.atleast_2d(weight), dtype=dtype)
