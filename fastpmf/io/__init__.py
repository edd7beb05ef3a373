"""Floor 4: reading counts from files and writing results, whole or not at all."""

from fastpmf.io.counts import read_counts, write_factor

__all__ = ["read_counts", "write_factor"]
