"""Floor 4: reading counts from files and writing results, whole or not at all."""

from fastpmf.counts import Alignment, Dataset
from fastpmf.io.counts import FORMATS, convert_counts, read_counts, write_counts, write_factor, write_table
from fastpmf.io.factors import write_factors
from fastpmf.io.models import is_model, load_model
from fastpmf.io.streams import stream_counts

__all__ = [
    "FORMATS",
    "Alignment",
    "Dataset",
    "convert_counts",
    "is_model",
    "load_model",
    "read_counts",
    "stream_counts",
    "write_counts",
    "write_factor",
    "write_factors",
    "write_table",
]
