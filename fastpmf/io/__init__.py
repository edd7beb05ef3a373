"""Files: counts in many formats, models, factors and tables.

formats     the table of file formats; add a format there
counts      reading, streaming, converting and writing counts
concatenate the rows of several matrices of counts
results     models, factors and tables
text, npy, hdf5, tenx, tables      readers of the formats, which return the sources of counts in sources.py
"""

from fastpmf.counts import Alignment, Dataset
from fastpmf.io.concatenate import concatenate_counts
from fastpmf.io.counts import convert_counts, read_counts, stream_counts, write_counts
from fastpmf.io.formats import FORMATS
from fastpmf.io.results import is_model, load_model, write_factor, write_factors, write_table

__all__ = [
    "FORMATS",
    "Alignment",
    "Dataset",
    "concatenate_counts",
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
