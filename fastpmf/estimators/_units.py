"""The units that a solver has the factors in: W = stored * units and H = stored / units."""

import numpy as np

from fastpmf.counts import Side
from fastpmf.model.priors import Terms

_NEAR = 24  # components whose sum is 2**-24 to 2**24 are left as they are
_FARTHEST = 1000  # powers of two that float64 has, and their inverses


def known_units(terms: tuple[Terms, Terms], parts: list[np.ndarray | None], width: int) -> np.ndarray:
    """Powers of two, (width,), in which the squares of a component that is known are within a dtype's range.

    Parameters
    ----------
    terms : (Terms, Terms)
    parts : list of two ndarray of shape (n_rows, K) or None
        What is known of W' and of H' transposed; brought into the units, in new arrays.
    width : int

    Notes
    -----
    A component that is known of both factors is left as it is, and so are all where squares have a price, which may
    be what holds the other factor down. Multiplication by a power of two rounds nothing.
    """
    exponent = np.zeros(width)
    ridged = any(t.ridge is not None for t in terms)
    held = [np.zeros(width, bool) if t.held is None else t.held for t in terms]
    for side, sign in zip(Side, (1, -1), strict=True):
        known, mine = parts[side], held[side] & ~held[1 - side]
        if known is None or ridged or not mine.any():
            continue
        sums = np.pad(known.sum(axis=0, dtype=np.float64), (0, width - known.shape[1]))
        power = np.floor(np.log2(sums, where=mine & (sums > 0), out=np.zeros(width)))
        power[np.abs(power) <= _NEAR] = 0
        power = np.clip(power, -_FARTHEST, _FARTHEST)
        if power.any():
            parts[side] = np.ldexp(known, -power[: known.shape[1]].astype(np.int64))
            exponent += sign * power
    return np.exp2(exponent)


def present(
    W: np.ndarray,
    Ht: np.ndarray,
    units: np.ndarray,
    *,
    n_components: int,
    scales: tuple[np.ndarray, np.ndarray],
    fixed: list[tuple[np.ndarray | None, np.ndarray | None, np.ndarray | None]],
) -> tuple[np.ndarray, np.ndarray]:
    """W and H of the free components in the user's units, from a solver's; what is known, to the bit."""
    units = units[:n_components]
    with np.errstate(over="ignore", under="ignore"):  # a solution that is not finite is refused
        W = (W[:, :n_components] * units / scales[0][:, None]).astype(W.dtype)
        Ht = (Ht[:, :n_components] / units / scales[1][:, None]).astype(Ht.dtype)
        for A, (values, held, _) in zip((W, Ht), fixed, strict=True):
            if values is not None and held is not None:
                A[:, held] = values[:, held]
    return W, Ht.T
