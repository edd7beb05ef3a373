"""How the rows of a matrix are bundled for coordinate descent, whose vectors hold one number for each stored entry."""

import numpy as np

from fastpmf.kernels.coordinate import QUAD

# A row of up to this many entries goes beside others, one lane each, so that a short one wastes no lanes and waits for
# no sum across them; a longer one has all lanes to itself, and then its own list of components that are not zero.
NARROW = 256
# Vectors that a group's transposed block may take: half a MiB, which a second-level cache holds.
_BLOCK = 8192


def length_class(lengths: np.ndarray) -> np.ndarray:
    """Rows of one class are within an eighth of each other's length; all narrow ones are in lower classes."""
    exact = lengths <= 8
    steps = np.floor(6 * np.log2(np.maximum(lengths, 1) / NARROW) - 1e-9)
    return np.where(exact, lengths - 1000, steps).astype(np.int64)


def row_groups(lengths: np.ndarray, n_lanes: int, n_components: int) -> np.ndarray:
    """Bundle rows, which come by about falling length, into groups of about equal length.

    Parameters
    ----------
    lengths : ndarray of shape (n_rows,)
        In the order of falling `length_class`.
    n_lanes : int
        Numbers in a vector.
    n_components : int

    Returns
    -------
    groups : ndarray of shape (n_groups, 5), int64
        First row, number of rows, vectors of entries, 1 for one row in all lanes or 0 for one row a lane, and for how
        many components at once the block of gathered rows is held. Which kind a row is in depends on that row alone.
    """
    n_rows = len(lengths)
    n_long = int(np.count_nonzero(lengths > NARROW))
    first = np.concatenate([np.arange(n_long), np.arange(n_long, n_rows, n_lanes)])
    wide = first < n_long
    size = np.where(wide, 1, np.minimum(n_lanes, n_rows - first))
    longest = np.maximum.reduceat(lengths, first)
    vectors = np.where(wide, -(-longest // n_lanes), longest)
    strip = np.clip(_BLOCK // np.maximum(vectors, 1) // QUAD * QUAD, QUAD, -(-n_components // QUAD) * QUAD)
    return np.ascontiguousarray(np.stack([first, size, vectors, wide, strip], axis=1), dtype=np.int64)
