"""How the rows of a matrix are bundled for coordinate descent, whose vectors hold one number for each stored entry."""

import numpy as np

from fastpmf.kernels.strips import QUAD

# A row of up to this many entries goes beside others, one lane each, so that a short one wastes no lanes and waits for
# no sum across them; a longer one has all lanes to itself, and then its own list of components that are not zero.
NARROW = 256
# Vectors that a group's transposed block may take: three quarters of a MiB, which a second-level cache holds. Of what
# doesn't fit, strips are gathered again in each sweep, which is cheap while the other factor is in the third-level
# cache. Where it has outgrown that (bytes), to sweep over a long block in memory, in order, is cheaper: 16 MiB.
_BLOCK, _LONG_BLOCK, _CACHED = 12288, 1 << 18, 1 << 24


def block_vectors(factor_bytes: int) -> int:
    """Vectors that a group's transposed block may take, where so large a factor is gathered from."""
    return _BLOCK if factor_bytes <= _CACHED else _LONG_BLOCK


def row_groups(lengths: np.ndarray, n_lanes: int, n_components: int, block: int) -> tuple[np.ndarray, np.ndarray]:
    """Bundle rows into groups of about equal length, the longest first.

    Parameters
    ----------
    lengths : ndarray of shape (n_rows,)
        Entries in each row.
    n_lanes : int
        Numbers in a vector.
    n_components : int
    block : int
        `block_vectors`.

    Returns
    -------
    order : ndarray of shape (n_rows,), int64
        The rows, those of a group side by side.
    groups : ndarray of shape (n_groups, 5), int64
        First place in `order`, number of rows, vectors of entries, 1 for one row in all lanes or 0 for one row a lane,
        and for how many components at once the block of gathered rows is held. Which kind a row is in depends on that
        row alone.
    """
    n_rows, whole = len(lengths), -(-n_components // QUAD) * QUAD
    narrow = min(NARROW, max(block // whole, 1))  # sixteen rows whose block must be gathered twice gain nothing
    order = np.argsort(-_length_class(lengths, narrow), kind="stable")
    lengths = lengths[order]
    n_long = int(np.count_nonzero(lengths > narrow))
    first = np.concatenate([np.arange(n_long), np.arange(n_long, n_rows, n_lanes)])
    wide = first < n_long
    size = np.where(wide, 1, np.minimum(n_lanes, n_rows - first))
    longest = np.maximum.reduceat(lengths, first)
    vectors = np.where(wide, -(-longest // n_lanes), longest)
    strip = np.clip(block // np.maximum(vectors, 1) // QUAD * QUAD, QUAD, whole)
    return order, np.ascontiguousarray(np.stack([first, size, vectors, wide, strip], axis=1), dtype=np.int64)


def _length_class(lengths: np.ndarray, narrow: int) -> np.ndarray:
    """Rises with the length, equal for rows within an eighth of each other's, which thus stay in their order.

    `narrow` is the last length of its class.
    """
    steps = np.ceil(6 * np.log2(np.maximum(lengths, 1) / narrow))
    # The shortest are apart by more than that: each length is a class of its own, below all others
    return np.where(lengths <= 8, np.minimum(lengths - 1000, steps), steps).astype(np.int64)
