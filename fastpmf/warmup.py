"""`warmup`: compile kernels ahead of the first fit."""

import time
from typing import Any

import numpy as np
from sklearn.utils import check_scalar

from fastpmf.core.counts import Side
from fastpmf.counts import COUNT_DTYPES, as_counts
from fastpmf.counts.csr import SparseRows
from fastpmf.estimators import HPF, PoissonNMF
from fastpmf.kernels.csr import count_columns, cut_rows, scatter_columns
from fastpmf.utils.validation import check_option
from fastpmf.utils.warnings import without_fit_warnings


def warmup(n_components: int, *, counts_dtype: Any = "uint8", dtype: Any = None) -> float:
    """Compile the kernels of `PoissonNMF` and `HPF` and cache them on disk for this and later processes.

    These are the kernels of fits with any solver and prior, with masks and validation, of counts in memory or streamed,
    and of `partial_fit`, `transform` and `score`. Kernels that are in the cache already are only loaded.

    Parameters
    ----------
    n_components : int
        Number of components, >= 1.
    counts_dtype : {"uint8", "uint16", "int32", "float32", "float64"}, default="uint8"
        Dtype of the counts, `as_counts(X).dtype`. Fits with sample weights convert the counts to the dtype of the
        factors, and need a warm-up for that dtype.
    dtype : {None, "float32", "float64"}, default=None
        As in `PoissonNMF`.

    Returns
    -------
    float
        Seconds taken.

    Raises
    ------
    TypeError, ValueError
        If an argument has an invalid type or value.

    See Also
    --------
    show_versions : versions, and properties of the machine.

    Notes
    -----
    Each kernel is compiled for the dtypes of counts and factors. Those that contract counts with a factor
    (`ratio_contract`, `scatter_contract`) or sum log rates (`log_rate`) are also compiled for the number of 64-byte
    vectors in a row of a factor, from 1 to 16, and once for all wider rows; `multiply`, `extrapolate` and `sum_columns`
    from 1 to 4, and once for all wider rows. A vector holds 8 components in float64 and 16 in float32: a warm-up for 20
    components in float64 serves 17 to 24.

    Examples
    --------
    >>> from fastpmf import warmup
    >>> warmup(2) > 0
    True
    """
    check_scalar(n_components, "n_components", (int, np.integer), min_val=1)
    check_option(counts_dtype, map(str, COUNT_DTYPES), "counts_dtype")
    start = time.perf_counter()
    X = np.random.default_rng(0).poisson(1.0, (40, 30)) + np.eye(40, 30, dtype=int)
    counts = as_counts(X.astype(counts_dtype))
    with without_fit_warnings():  # too few iterations to converge
        options: dict[str, Any] = {"max_iter": 15, "tol": 0, "dtype": dtype, "random_state": 0}
        for model in (
            PoissonNMF(int(n_components), prior_W="auto", prior_H="auto", **options),
            PoissonNMF(int(n_components), solver="em", **options),
            HPF(int(n_components), **options),
        ):
            model.fit(counts, mask=np.eye(40, 30, k=1, dtype=bool)).score(counts)
    _compile_for_large_counts(counts.side(Side.ROWS))
    return time.perf_counter() - start


def _compile_for_large_counts(X: SparseRows) -> None:
    """Call the kernels that partition and transpose large matrices, and ignore their results."""
    n_rows, n_columns = X.shape
    rows, columns = np.array([0, n_rows, n_rows]), np.array([0, n_columns, n_columns])
    cut_rows(2, X.indices, X.indptr, columns, np.empty((3, n_rows), np.int64))
    place = np.empty((2, n_columns), np.int64)
    count_columns(2, X.indices, X.indptr, rows, place)
    place[:] = 0
    scatter_columns(2, X.data, X.indices, X.indptr, rows, place, np.empty_like(X.data), np.empty_like(X.indices))
