"""Counts: input validation, storage of X and of its transpose, partition into blocks, masks and streaming."""

from fastpmf.core.counts import Counts, Side
from fastpmf.counts.csr import COUNT_DTYPES, SparseRows
from fastpmf.counts.in_memory import MemoryCounts
from fastpmf.counts.validation import Alignment, Dataset, as_counts

__all__ = ["COUNT_DTYPES", "Alignment", "Counts", "Dataset", "MemoryCounts", "Side", "SparseRows", "as_counts"]
