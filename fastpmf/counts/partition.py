"""How a matrix is cut into equal pieces of work, and into panels whose part of the other factor stays in a cache."""

from typing import NamedTuple

import numpy as np

from fastpmf.kernels.simd import QUAD

# Entries and rows in a block of work: small enough that any number of threads finds enough blocks, large enough that
# taking one costs nothing. It depends on the matrix alone, never on the threads, because split rows are summed by it.
_BLOCK, _BLOCKS_AT_MOST = (1 << 12, 1 << 16), 512
# Bytes of the gathered factor in a panel. What workers gather from at one time should stay in the third-level cache
# that they share, beside the counts that stream through it; the wider ones are for rows that narrow ones would shred.
_PANELS = (1 << 22, 1 << 23, 1 << 24)
# Where to look for a sample of the entries, as shares of all: evenly spread, and in step with no length of rows
_SPREAD = np.modf(np.arange(1 << 12) * (np.sqrt(5) / 2 - 0.5))[0]
_SEGMENT = 48  # entries of a row in a panel, on average, from which on going over the rows once more is paid back


class Panel(NamedTuple):
    """Consecutive columns of a matrix: where each row's entries begin and end in them, and `row_blocks` of these."""

    begins: np.ndarray
    ends: np.ndarray
    blocks: np.ndarray
    splits: np.ndarray


def panel_width(n_rows: int, n_columns: int, nnz: int, row_bytes: int) -> int:
    """Columns in a panel, where a row of the gathered factor has so many bytes; all of them if panels don't pay.

    A power of two, so that factors of like widths share their panels. Where a row is no giant, its sums are the same
    bits for any width.
    """
    if n_columns * row_bytes > 2 * _PANELS[0]:
        for size in _PANELS:
            width = 1 << max((size // row_bytes).bit_length() - 1, 0)
            if nnz >= _SEGMENT * n_rows * -(-n_columns // width):
                return width
    return max(n_columns, 1)


def column_shares(indices: np.ndarray, n_columns: int, n_shares: int) -> np.ndarray:
    """Where so many consecutive groups of columns begin, and the last ends, that store about equally many entries.

    Parameters
    ----------
    indices : ndarray of shape (nnz,)
        The column of each entry, of which a sample is looked at.
    n_columns, n_shares : int

    Returns
    -------
    ndarray, int64
        From 0 to n_columns, ascending; fewer groups where single columns have more than a share.
    """
    if not len(indices) or n_shares == 1:
        return np.array([0, n_columns])
    sample = np.sort(indices[(_SPREAD * len(indices)).astype(np.intp)])
    inner = sample[(np.arange(1, n_shares) * len(sample)) // n_shares]
    return np.unique(np.concatenate([[0], inner, [n_columns]]))


def blocks_of(ends: np.ndarray, n_entries: int, n_rows: int | None = None) -> np.ndarray:
    """Where consecutive blocks of rows begin, and the last ends.

    Parameters
    ----------
    ends : ndarray of shape (n_rows + 1,)
        The rows' indptr.
    n_entries : int
        Each block stores at most so many entries; a row that is longer is a block of its own.
    n_rows : int, optional
        And is of at most so many rows.

    Returns
    -------
    ndarray of shape (n_blocks + 1,), int64
        From 0 to n_rows, ascending.

    Examples
    --------
    >>> import numpy as np
    >>> blocks_of(np.array([0, 2, 4, 9, 9, 10]), 4).tolist()
    [0, 2, 3, 5]
    """
    bounds, last = [0], len(ends) - 1
    while (start := bounds[-1]) < last:
        fits = int(np.searchsorted(ends, int(ends[start]) + n_entries, side="right")) - 1
        bounds.append(min(max(fits, start + 1), start + (n_rows or last)))
    return np.array(bounds, np.int64)


def row_blocks(begins: np.ndarray, ends: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cut the rows of a CSR matrix, or of a panel of it, into blocks of about equal work, giant rows into pieces.

    Parameters
    ----------
    begins, ends : ndarray of shape (n_rows,), int64
        Where the entries of each row begin and end.

    Returns
    -------
    blocks : ndarray of shape (n_blocks, 5), int64
        First row, end row, first entry, end entry, and the slot of a piece's partial sum (-1: whole rows).
    splits : ndarray of shape (n_split, 3), int64
        Row, first slot and end slot of each row that was cut.
    """
    n_rows, lengths = len(begins), ends - begins
    before = np.cumsum(lengths) - lengths
    size = min(max(int(lengths.sum()) // _BLOCKS_AT_MOST, _BLOCK[0]), _BLOCK[1])
    giant = lengths > 2 * size
    # A block ends where the running count of entries and rows passes a multiple of `size`, and around every giant.
    block_of_row = (before + np.arange(n_rows)) // size
    opens = np.ones(n_rows, bool)
    opens[1:] = (np.diff(block_of_row) > 0) | giant[1:] | giant[:-1]
    first = np.flatnonzero(opens)
    end = np.append(first[1:], n_rows)[: len(first)]
    whole = ~giant[first]
    blocks = [np.stack([f := first[whole], e := end[whole], begins[f], ends[e - 1], np.full(len(f), -1)], axis=1)]
    splits, slot = [], 0
    for i in np.flatnonzero(giant):
        cuts = np.append(np.arange(begins[i], ends[i], size), ends[i])
        n = len(cuts) - 1
        blocks.append(np.stack([np.full(n, i), np.full(n, i + 1), cuts[:-1], cuts[1:], slot + np.arange(n)], axis=1))
        splits.append((i, slot, slot + n))
        slot += n
    return (
        np.ascontiguousarray(np.concatenate(blocks), dtype=np.int64),
        np.array(splits, dtype=np.int64).reshape(-1, 3),
    )


# A row of up to this many entries goes beside others, one lane each, so that a short one wastes no lanes and waits for
# no sum across them; a longer one has all lanes to itself, and then its own list of components that are not zero.
NARROW = 256
# Vectors that a group's transposed block may take: three quarters of a MiB, which a second-level cache holds. Of what
# doesn't fit, strips are gathered again in each sweep, which is cheap while the other factor is in the third-level
# cache. Where it has outgrown that (bytes), to sweep over a long block in memory, in order, is cheaper: 16 MiB.
_GROUP_BLOCK, _LONG_GROUP_BLOCK, _CACHED = 12288, 1 << 18, 1 << 24


def block_vectors(factor_bytes: int) -> int:
    """Vectors that a group's transposed block may take, where so large a factor is gathered from."""
    return _GROUP_BLOCK if factor_bytes <= _CACHED else _LONG_GROUP_BLOCK


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
