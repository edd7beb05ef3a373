"""Partition of a matrix into blocks of equal work, and into panels whose part of the other factor fits into a cache."""

from typing import NamedTuple

import numpy as np

# Minimum and maximum of entries plus rows in a block: small enough to give every thread several blocks, large enough
# that scheduling costs nothing. Independent of the number of threads, as the sums of split rows depend on the blocks.
_BLOCK, _MAX_BLOCKS = (1 << 12, 1 << 16), 512
# Bytes of the gathered factor in a panel. The panels that the threads use at one time should fit into the third-level
# cache, with the streamed counts; the larger sizes are for short rows, which narrow panels would cut into few entries.
_PANEL_BYTES = (1 << 22, 1 << 23, 1 << 24)
_PANEL_ENTRIES = 48  # mean entries of a row in a panel from which the cost of one more pass over the rows is repaid
# Positions of a sample of the entries as fractions of nnz: multiples of the golden ratio, uniform for any row lengths
_SAMPLE = np.modf(np.arange(1 << 12) * (np.sqrt(5) / 2 - 0.5))[0]


class Panel(NamedTuple):
    """Consecutive columns of a matrix: where the entries of each row begin and end, and their `row_blocks`."""

    begins: np.ndarray
    ends: np.ndarray
    blocks: np.ndarray
    splits: np.ndarray


def panel_width(n_rows: int, n_columns: int, nnz: int, row_bytes: int) -> int:
    """Columns in a panel if a row of the gathered factor has `row_bytes` bytes; all of them if panels are not faster.

    A power of two, so that factors of similar widths share panels. The sums of rows that are not split do not depend on
    the width (bitwise).
    """
    if n_columns * row_bytes > 2 * _PANEL_BYTES[0]:
        for size in _PANEL_BYTES:
            width = 1 << max((size // row_bytes).bit_length() - 1, 0)
            if nnz >= _PANEL_ENTRIES * n_rows * -(-n_columns // width):
                return width
    return max(n_columns, 1)


def column_groups(indices: np.ndarray, n_columns: int, n_groups: int) -> np.ndarray:
    """Boundaries of groups of consecutive columns with about equally many entries, by a sample of the column indices.

    They ascend from 0 to n_columns; there are fewer groups if single columns hold more than the entries of a group.
    """
    if not len(indices) or n_groups == 1:
        return np.array([0, n_columns])
    sample = np.sort(indices[(_SAMPLE * len(indices)).astype(np.intp)])
    inner = sample[(np.arange(1, n_groups) * len(sample)) // n_groups]
    return np.unique(np.concatenate([[0], inner, [n_columns]]))


def blocks_of(ends: np.ndarray, n_entries: int, n_rows: int | None = None) -> np.ndarray:
    """Boundaries of blocks of consecutive rows with at most these numbers of entries and rows.

    `ends` is the indptr of the rows. A row with more entries is a block by itself.

    Examples
    --------
    >>> import numpy as np
    >>> blocks_of(np.array([0, 2, 4, 9, 9, 10]), 4).tolist()
    [0, 2, 3, 5]
    """
    bounds, last = [0], len(ends) - 1
    while (start := bounds[-1]) < last:
        stop = int(np.searchsorted(ends, int(ends[start]) + n_entries, side="right")) - 1
        bounds.append(min(max(stop, start + 1), start + (n_rows or last)))
    return np.array(bounds, np.int64)


def row_blocks(begins: np.ndarray, ends: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Divide rows whose entries begin and end here into blocks of about equal work; split very long rows.

    Returns
    -------
    blocks : ndarray of shape (n_blocks, 5), int64
        First row, end row, first entry, end entry, and the slot of the partial sum of a piece (-1: whole rows).
    splits : ndarray of shape (n_split, 3), int64
        Row, first slot and end slot of each row that is split.
    """
    n_rows, lengths = len(begins), ends - begins
    before = np.cumsum(lengths) - lengths
    size = min(max(int(lengths.sum()) // _MAX_BLOCKS, _BLOCK[0]), _BLOCK[1])
    long = lengths > 2 * size
    # A block starts where the cumulative number of entries and rows passes a multiple of `size`; a long row is alone
    block_of_row = (before + np.arange(n_rows)) // size
    starts_block = np.ones(n_rows, bool)
    starts_block[1:] = (np.diff(block_of_row) > 0) | long[1:] | long[:-1]
    first = np.flatnonzero(starts_block)
    end = np.append(first[1:], n_rows)[: len(first)]
    whole = ~long[first]
    blocks = [np.stack([f := first[whole], e := end[whole], begins[f], ends[e - 1], np.full(len(f), -1)], axis=1)]
    splits, slot = [], 0
    for i in np.flatnonzero(long):
        cuts = np.append(np.arange(begins[i], ends[i], size), ends[i])
        n = len(cuts) - 1
        blocks.append(np.stack([np.full(n, i), np.full(n, i + 1), cuts[:-1], cuts[1:], slot + np.arange(n)], axis=1))
        splits.append((i, slot, slot + n))
        slot += n
    return (
        np.ascontiguousarray(np.concatenate(blocks), dtype=np.int64),
        np.array(splits, dtype=np.int64).reshape(-1, 3),
    )


# Rows of at most this many entries are processed side by side, one in each lane. A longer row has its entries along the
# lanes, and its own list of components that are not zero.
NARROW = 64
# Vectors in the transposed blocks of a group: 0.75 MiB, which fits into a second-level cache. A long row may have more,
# up to 16 MiB. What does not fit is gathered again in each sweep.
_GROUP_BLOCK, _LONG_ROW_BLOCK = 12288, 1 << 18


def row_groups(lengths: np.ndarray, n_lanes: int, n_components: int) -> tuple[np.ndarray, np.ndarray]:
    """Group rows for vectors of `n_lanes` numbers, the longest first.

    Returns
    -------
    order : ndarray of shape (n_rows,), int64
        The rows, group by group.
    groups : ndarray of shape (n_groups, 5), int64
        First position in `order`, number of rows, vectors of entries, 1 for short rows side by side, and the number of
        components whose gathered rows are kept at once. Whether a row is a short one depends on this row only.
    """
    width = -(-n_components // n_lanes) * n_lanes
    order = np.argsort(-_length_class(lengths), kind="stable")
    lengths = lengths[order]
    n_long = int(np.count_nonzero(lengths > NARROW))
    vectors = -(-lengths[:n_long] // n_lanes)
    # In units of the block: each row counts as at least 1 / n_lanes, so no group has more than n_lanes rows
    unit = -(-_GROUP_BLOCK // n_lanes)
    size = np.clip(vectors * width, unit, unit * n_lanes)
    first = np.flatnonzero(np.diff((np.cumsum(size) - size) // (unit * n_lanes), prepend=-1))
    n_rows = np.diff(first, append=n_long)
    total = np.add.reduceat(vectors, first) if n_long else first
    strip = np.clip(_LONG_ROW_BLOCK // np.maximum(total, 1) // n_lanes * n_lanes, n_lanes, width)
    long = np.stack([first, n_rows, total, np.zeros_like(first), strip], axis=1)
    first = np.arange(n_long, len(lengths), n_lanes)
    longest = np.maximum.reduceat(lengths, first) if len(first) else first
    n_rows = np.minimum(n_lanes, len(lengths) - first)
    short = np.stack([first, n_rows, longest, np.ones_like(first), np.full_like(first, width)], axis=1)
    return order, np.ascontiguousarray(np.concatenate([long, short]), dtype=np.int64)


def _length_class(lengths: np.ndarray) -> np.ndarray:
    """A class for each row that increases with the length.

    Lengths within an eighth share a class, in which rows are not reordered. NARROW is the largest length of its class.
    """
    steps = np.ceil(6 * np.log2(np.maximum(lengths, 1) / NARROW))
    # Short lengths differ by more than an eighth: each has its own class, below all others
    return np.where(lengths <= 8, np.minimum(lengths - 1000, steps), steps).astype(np.int64)
