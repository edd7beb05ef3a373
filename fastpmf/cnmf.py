"""cNMF on fastpmf: call `patch()` in Python, or run `python -m fastpmf.cnmf` instead of `cnmf`.

cNMF (D. Kotliar et al., "Identifying gene expression programs of cell-type identity and cellular activity with
single-cell RNA-Seq", eLife 2019) factorizes by scikit-learn's `non_negative_factorization`: its replicates, and the
usages and spectra of their consensus. It passes CSC for the last of these, for which scikit-learn's Kullback-Leibler
updates (1.9.1) silently give wrong results.
"""

import importlib
from typing import Any

import numpy as np

from fastpmf.estimators import non_negative_factorization
from fastpmf.model.updates import TINY


def patch(solver: str = "auto") -> None:
    """Make cNMF call fastpmf instead of scikit-learn in this process.

    `prepare` must be called with beta_loss="kullback-leibler"; `factorize` raises an error for cNMF's default, least
    squares. A single `factorize` uses all cores. Processes that are started later without fork, as by
    `factorize_multi_process` on some systems, are not patched.

    Parameters
    ----------
    solver : {"auto", "mu", "cd", "em"}, default="auto"
        Replaces cNMF's "mu". "auto" is coordinate descent, which reaches the same divergence much faster; exact zeros
        of its spectra are replaced by 1e-12 of their gene's sum, the minimum under "mu". "mu" is the same as
        `cnmf.cnmf.non_negative_factorization = fastpmf.non_negative_factorization`. All other parameters are cNMF's:
        start, seeds, penalties, max_iter, and tol, which applies to fastpmf's convergence criterion.

    Raises
    ------
    ImportError
        If cNMF is not installed, or is a version that does not call that function.

    See Also
    --------
    non_negative_factorization : the function that cNMF then calls.

    Examples
    --------
    In Python, before cNMF is used::

        import fastpmf.cnmf

        fastpmf.cnmf.patch()

    On the command line, `python -m fastpmf.cnmf` takes the place of `cnmf`.
    """
    try:
        module: Any = importlib.import_module("cnmf.cnmf")
    except ImportError as error:
        raise ImportError(f"fastpmf.cnmf needs cNMF (pip install cnmf): {error}") from None
    if not hasattr(module, "non_negative_factorization"):
        raise ImportError("this version of cNMF has no cnmf.cnmf.non_negative_factorization to replace")

    def factorization(X: Any, **options: Any) -> tuple[np.ndarray, np.ndarray, int]:
        W, H, n_iter = non_negative_factorization(X, **options | {"solver": solver})
        if options.get("update_H", True):
            # cNMF takes medians of the spectra, and "mu" has no exact zeros. A gene that is 0 in all programs can't be
            # explained, and a cell with no other genes gets usages of 0, by whose sum cNMF divides
            H = np.where(H == 0, TINY * H.sum(axis=0), H)
        return W, H, n_iter

    module.non_negative_factorization = factorization


if __name__ == "__main__":
    patch()
    importlib.import_module("cnmf").main()
