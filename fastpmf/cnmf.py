"""cNMF with fastpmf underneath: `patch()` once in Python, `python -m fastpmf.cnmf` where one would type `cnmf`.

cNMF (D. Kotliar et al., "Identifying gene expression programs of cell-type identity and cellular activity with
single-cell RNA-Seq", eLife 2019) factorizes by one function, scikit-learn's `non_negative_factorization`: for its
replicates, and again for the usages and spectra of their consensus. The last of these comes to it as CSC, for which
scikit-learn's Kullback-Leibler updates (1.9.1) are wrong, without a word.
"""

import importlib
from typing import Any

import numpy as np

from fastpmf.estimators import non_negative_factorization
from fastpmf.model.updates import TINY


def patch(solver: str = "auto") -> None:
    """Have cNMF call fastpmf wherever it calls scikit-learn, from now on and in this process.

    cNMF has to `prepare` with beta_loss="kullback-leibler"; its default, least squares, is refused when it factorizes.
    `factorize` by itself uses all cores. Processes that only begin after this call, `factorize_multi_process`
    where Python does not fork, know nothing of it.

    Parameters
    ----------
    solver : {"auto", "mu", "cd", "em"}, default="auto"
        Put in place of the "mu" that cNMF asks for. "auto" is coordinate descent, much sooner at the same divergence;
        the exact zeros of its spectra are lifted to 1e-12 of their gene, which is where "mu" stops. "mu" does as cNMF
        asks, and is the same as `cnmf.cnmf.non_negative_factorization = fastpmf.non_negative_factorization`.
        All else is cNMF's: start, seeds, penalties, max_iter, and tol, which is fastpmf's own test here.

    Raises
    ------
    ImportError
        cNMF is not installed, or is a version that does not call that function.
    """
    try:
        module: Any = importlib.import_module("cnmf.cnmf")
    except ImportError as error:
        raise ImportError(f"fastpmf.cnmf needs cNMF (pip install cnmf): {error}") from None
    if not hasattr(module, "non_negative_factorization"):
        raise ImportError("this cNMF has no cnmf.cnmf.non_negative_factorization that fastpmf could stand in for")

    def factorization(X: Any, **options: Any) -> tuple[np.ndarray, np.ndarray, int]:
        W, H, n_iter = non_negative_factorization(X, **options | {"solver": solver})
        if options.get("update_H", True):
            # "mu" leaves no exact zeros, and medians are to be taken of these spectra: no usage explains a gene that is
            # 0 in all programs, and a cell that has no other gets no usage at all, by whose sum cNMF divides
            H = np.where(H == 0, TINY * H.sum(axis=0), H)
        return W, H, n_iter

    module.non_negative_factorization = factorization


if __name__ == "__main__":
    patch()
    importlib.import_module("cnmf").main()
