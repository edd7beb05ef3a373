"""`warmup`: what a first fit would compile, compiled before it."""

import time
from typing import Any

import numpy as np
from sklearn.utils import check_scalar

from fastpmf._messages import check_option
from fastpmf.counts.base import COUNT_DTYPES
from fastpmf.estimators import HPF, PoissonNMF
from fastpmf.estimators._fit import without_fit_warnings


def warmup(n_components: int, *, counts_dtype: Any = "uint8", dtype: Any = None) -> float:
    """Compile the kernels that fits need, and keep them on disk for this and later processes.

    A kernel is compiled for the dtypes, and for the number of 64-byte vectors that a factor's row takes: 16 components
    of float32 to a vector, or 8 of float64. What is on disk already is only loaded.

    Parameters
    ----------
    n_components : int
        Number of components, >= 1.
    counts_dtype : {"uint8", "uint16", "int32", "float32", "float64"}, default="uint8"
        What the counts are kept as; `as_counts(X).dtype` says it.
    dtype : {None, "float32", "float64"}, default=None
        As in `PoissonNMF`.

    Returns
    -------
    float
        Seconds that it took.

    Raises
    ------
    TypeError, ValueError
        If an argument has an invalid type or value.

    Examples
    --------
    >>> from fastpmf import warmup
    >>> warmup(2) > 0
    True
    """
    check_scalar(n_components, "n_components", (int, np.integer), min_val=1)
    check_option(counts_dtype, map(str, COUNT_DTYPES), "counts_dtype")
    began = time.perf_counter()
    X = np.random.default_rng(0).poisson(1.0, (40, 30)) + np.eye(40, 30, dtype=int)
    X = X.astype(counts_dtype)
    with without_fit_warnings():  # nothing here has the time to converge
        for solver, prior in (("auto", None), ("mu", None), ("em", None), ("auto", "auto")):
            model = PoissonNMF(
                int(n_components), solver=solver, prior_W=prior, prior_H=prior, max_iter=15, tol=0, dtype=dtype,
                random_state=0,
            )  # fmt: skip
            model.fit(X)
        model.score(X)
        HPF(int(n_components), max_iter=3, tol=0, dtype=dtype, random_state=0).fit(X)
    return time.perf_counter() - began
