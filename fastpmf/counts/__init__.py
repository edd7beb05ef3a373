"""Floor 1: what is factorised, behind one protocol."""

from fastpmf.counts.base import COUNT_DTYPES, Counts, Side
from fastpmf.counts.door import as_counts
from fastpmf.counts.memory import MemoryCounts
from fastpmf.counts.rows import SparseRows

__all__ = ["COUNT_DTYPES", "Counts", "MemoryCounts", "Side", "SparseRows", "as_counts"]
