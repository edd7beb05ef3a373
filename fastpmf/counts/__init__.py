"""Floor 1: what is factorised, behind one protocol."""

from fastpmf.core.counts import Counts, Side
from fastpmf.counts.csr import SparseRows
from fastpmf.counts.dtypes import COUNT_DTYPES
from fastpmf.counts.in_memory import MemoryCounts
from fastpmf.counts.validation import as_counts

__all__ = ["COUNT_DTYPES", "Counts", "MemoryCounts", "Side", "SparseRows", "as_counts"]
