"""`PoissonNMF`: maximum likelihood under the Poisson model, in scikit-learn's manners."""

import math
import os
import warnings
from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.validation import check_is_fitted, validate_data

from fastpmf.counts import MemoryCounts, as_counts
from fastpmf.estimators._fit import check_parameters, fit, producible, transform
from fastpmf.estimators._model_file import read_model, write_model
from fastpmf.kernels._jit import threads
from fastpmf.model.factors import FLOATS, check_factor
from fastpmf.model.objective import poisson_log_likelihood
from fastpmf.solvers import FitInterrupted, Solution, Status
from fastpmf.solvers.base import TRACE_DTYPE, Callback


class PoissonNMF(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """Non-negative factorization of counts under the Poisson likelihood, which is KL-NMF.

    Minimises over W, H >= 0, with mu = W H and all zeros of X counted,

        D(X || mu) = sum_ij [x_ij log(x_ij / mu_ij) - x_ij + mu_ij]

    which is maximising the likelihood of x_ij ~ Poisson(mu_ij), and, once columns are normalised, PLSI.

    Parameters
    ----------
    n_components : int
        Number of components, >= 1.
    solver : {"auto", "cd", "em", "mu"}, default="auto"
        With each of them the objective never rises. "auto" is "cd".

        "cd": ten relaxed multiplicative iterations, then guarded coordinate descent on each row in turn, which is
        soonest at any objective but the poorest. Entries can be, and leave, exact zeros.
        "mu": multiplicative updates of Lee & Seung, the reference: iteration by iteration those of scikit-learn.
        "em": the simultaneous update of PLSI, both factors in one pass over the rows. About as many iterations as
        "mu", and no transposed copy of the counts: for when memory is what is short.
    acceleration : {"auto", "extrapolation", "relaxation"} or None, default="auto"
        "extrapolation": begin each iteration where the last move would have led if it had gone on, and keep only what
        does not raise the objective. "auto": with "cd", and not with "mu" and "em". "relaxation", with "mu" only: go
        nearly twice as far in each update, which takes about half as many iterations, and is monotone too.
    init : {"auto", "random", "nndsvd", "nndsvda", "nndsvdar", "custom"}, default="auto"
        Where to start, by scikit-learn's names. "auto" is "random", which ended as low as the others and costs
        nothing. All but "custom" (W and H given to `fit_transform`) are scaled to sum(W H) = sum(X). Zeros of "nndsvd"
        are lifted to 1e-6 of the factor's mean, of "nndsvda" to the mean, of "nndsvdar" to about a hundredth of it.
    n_init : int, default=1
        Starts to try, side by side; after 30 iterations, 60, 120 and so on the worse half is left behind, and the best
        is finished: ten starts cost about as much as five or six fits. `restarts_` has all their objectives.
    max_iter : int, default=500
        Most iterations, of both factors each; in `transform`, most rounds of sweeps for a row.
    tol : float, default=1e-4
        Converged when `kkt_residual_` is at most this: an upper bound, in nats per count, on what the best other W
        with this H, or the best other H with this W, could lower the objective by. It is 0 exactly where the
        Karush-Kuhn-Tucker conditions hold, and does not depend on the scale of X. 0.01 to 0.02 is a quick look.
        Nothing stops on a plateau. In `transform`, each row goes on until its own bound, per count of the row, is at
        most this.
    max_time : float, default=None
        Seconds after which no iteration begins, compilation included; None for no limit.
    eval_every : int, default=10
        Iterations between evaluations of the objective for `trace_`, `callback` and `verbose`.
    random_state : int, RandomState, Generator or None, default=None
        For the random parts of `init`. Equal seeds give equal bits, for any number of threads.
    dtype : {None, "float32", "float64"}, default=None
        Of the factors. None: float32 for float32 counts, else float64. Sums and the objective are float64 always.
    n_threads : int or None, default=None
        None or -1: as many as the process may use (its affinity and cgroup quota). The result does not depend on it.
    verbose : bool, default=False
        Show a progress bar with objective and residual on standard error (tqdm where installed, plain lines else).
    callback : callable, default=None
        Called as callback(record, W, H) every `eval_every` iterations, `record` having the fields of `trace_` and W
        and H being read-only views; a true answer stops the fit.

    Attributes
    ----------
    components_ : ndarray of shape (n_components, n_features)
        H.
    n_components_ : int
        Number of components.
    n_iter_ : int
        Iterations done.
    objective_ : float
        D(X || W H) at the end, in nats.
    reconstruction_err_ : float
        sqrt(2 D), scikit-learn's measure.
    kkt_residual_ : float
        The measure that `tol` is compared with, of the factors returned; nats per count.
    restarts_ : ndarray of shape (n_init,)
        The objective at which each start ended or was left behind, in nats.
    status_ : Status
        Why the fit stopped; `str(status_)` is a sentence.
    trace_ : structured ndarray
        Fields n_iter, objective (nats), kkt_residual (nats per count) and seconds, one record per evaluation, the
        start included.
    n_features_in_ : int
        Number of features seen in `fit`.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Their names, where X had string names.

    See Also
    --------
    poisson_nmf : the same as a function that returns arrays.

    Notes
    -----
    One multiplicative iteration is U * S / v_sum on W and then on H, with S_ik = sum_j x_ij / (u_i . v_j) v_jk over the
    nonzeros; coordinate descent gathers what each row needs of the other factor once, and solves the row's convex
    problem nearly while that is in the cache. W H is never formed. Memory beyond X: one transposed copy of the counts
    (none with "em"), and the factors four times: as they are, two spares (one without acceleration), and the result.

    References
    ----------
    D. D. Lee and H. S. Seung, "Algorithms for non-negative matrix factorization", NIPS 2000, theorem 2.
    L. T. K. Hien and N. Gillis, "Algorithms for nonnegative matrix factorization with the Kullback-Leibler divergence",
    J. Sci. Comput. 87 (2021), section 3.5.
    A. M. S. Ang and N. Gillis, "Accelerating nonnegative matrix factorization algorithms using extrapolation", Neural
    Computation 31 (2019), algorithm 1.

    Examples
    --------
    >>> import numpy as np
    >>> from fastpmf import PoissonNMF
    >>> X = np.array([[4, 0, 2], [0, 3, 0], [2, 0, 1]])
    >>> model = PoissonNMF(n_components=2, random_state=0)
    >>> W = model.fit_transform(X)
    >>> model.inverse_transform(W).round(3)
    array([[4., 0., 2.],
           [0., 3., 0.],
           [2., 0., 1.]])
    """

    def __init__(
        self,
        n_components: int,
        *,
        solver: str = "auto",
        acceleration: str | None = "auto",
        init: str = "auto",
        n_init: int = 1,
        max_iter: int = 500,
        tol: float = 1e-4,
        max_time: float | None = None,
        eval_every: int = 10,
        random_state: Any = None,
        dtype: Any = None,
        n_threads: int | None = None,
        verbose: bool = False,
        callback: Callback | None = None,
    ) -> None:
        self.n_components = n_components
        self.solver = solver
        self.acceleration = acceleration
        self.init = init
        self.n_init = n_init
        self.max_iter = max_iter
        self.tol = tol
        self.max_time = max_time
        self.eval_every = eval_every
        self.random_state = random_state
        self.dtype = dtype
        self.n_threads = n_threads
        self.verbose = verbose
        self.callback = callback

    def fit(self, X: Any, y: None = None, *, W: Any = None, H: Any = None) -> Self:
        """Fit the model to X.

        Parameters
        ----------
        X : matrix of counts of shape (n_samples, n_features)
            scipy.sparse in any format, dense, DataFrame, (data, indices, indptr), or the result of `as_counts`.
        y : None
            Ignored.
        W : array-like of shape (n_samples, n_components), optional
            Where to start, with init="custom".
        H : array-like of shape (n_components, n_features), optional
            Where to start, with init="custom".

        Returns
        -------
        self

        Raises
        ------
        TypeError, ValueError
            In one sentence that names the argument, what it got and what it wants.
        FitInterrupted
            On Ctrl-C, a KeyboardInterrupt; the estimator then holds what was fitted so far.
        """
        self.fit_transform(X, y, W=W, H=H)
        return self

    def fit_transform(self, X: Any, y: None = None, W: Any = None, H: Any = None) -> np.ndarray:
        """Fit the model to X and return W; arguments and errors as in `fit`.

        Returns
        -------
        W : ndarray of shape (n_samples, n_components)
        """
        with threads(self.n_threads):
            counts, seen = as_counts(X, n_threads=self.n_threads), BaseEstimator()
            self._check_features(seen, X, counts, reset=True)  # a refit that fails leaves the fitted model as it is
            solution = fit(
                counts, self.n_components, solver=self.solver, acceleration=self.acceleration, init=self.init,
                n_init=self.n_init, W=W, H=H, max_iter=self.max_iter, tol=self.tol, max_time=self.max_time,
                eval_every=self.eval_every, random_state=self.random_state, dtype=self.dtype, verbose=self.verbose,
                callback=self.callback,
            )  # fmt: skip
        self.__dict__.pop("feature_names_in_", None)
        self.__dict__.update(seen.__dict__)
        self._keep(solution)
        if solution.status is Status.INTERRUPTED:
            raise FitInterrupted(solution)
        if solution.status in (Status.MAX_ITER, Status.MAX_TIME) and self.tol > 0:
            warnings.warn(
                f"{solution.status} It is {solution.kkt_residual:.2g} after {solution.n_iter} iterations, "
                f"tol is {self.tol:g}.",
                ConvergenceWarning,
                stacklevel=3,  # past scikit-learn's wrapper
            )
        return solution.W

    def transform(self, X: Any, *, return_gap_bound: bool = False) -> Any:
        """The W that explains X best with `components_` fixed.

        Each row is a convex problem of its own, solved by coordinate descent whatever `solver` is, and its answer
        depends, bitwise, on that row alone. Rows that `max_iter` rounds don't bring to `tol` are warned of. Counts of
        features in which every component is zero can't be explained by any W and are left out. For the rows that were
        fitted this is not quite the W of `fit_transform` unless that fit had converged: there H has moved on since W
        was updated.

        Parameters
        ----------
        X : matrix of counts of shape (n_samples, n_features)
        return_gap_bound : bool, default=False
            Also return the certificate.

        Returns
        -------
        W : ndarray of shape (n_samples, n_components)
        gap_bound : ndarray of shape (n_samples,)
            With `return_gap_bound`: no other row could lower the divergence of this one by more, in nats. Rounding of
            the working dtype enters, some 1e-6 nats per count in float32.
        """
        W, gap_bound = self._solve_rows(self._read(X))
        return (W, gap_bound) if return_gap_bound else W

    def inverse_transform(self, X: Any) -> np.ndarray:
        """The rates W H, a dense matrix: mind its size.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_components)
            W.

        Returns
        -------
        rate : ndarray of shape (n_samples, n_features)
        """
        check_is_fitted(self)
        W = np.asarray(X)
        shape = (W.shape[0] if W.ndim else 0, self.n_components_)
        return check_factor(W, shape, "X") @ self.components_

    def score(self, X: Any, y: None = None) -> float:
        """Poisson log-likelihood of X under its own best W, per count: log L(transform(X), components_) / sum(X).

        Counts of features in which every component is zero, which had none in training, are left out of both, as they
        are in `transform`: any model of that training data gives them likelihood 0.

        Parameters
        ----------
        X : matrix of counts of shape (n_samples, n_features)
        y : None
            Ignored.

        Returns
        -------
        float
            In nats per count, higher is better.

        Raises
        ------
        ValueError
            X has no counts to score.
        """
        counts = self._read(X)
        W, _ = self._solve_rows(counts)
        counts = producible(counts, self.components_)
        if counts.total == 0:
            raise ValueError("X must hold a positive count, in a feature that components_ produce, to be scored")
        return poisson_log_likelihood(counts, W, self.components_, n_threads=self.n_threads) / counts.total

    def save(self, path: str | os.PathLike) -> None:
        """Write the fitted model to one `.npz` file without pickle; it replaces `path` whole or not at all.

        A `random_state` or `callback` that is an object is not kept, and comes back as None.
        """
        check_is_fitted(self)
        arrays = {"components": self.components_, "trace": self.trace_, "restarts": self.restarts_}
        if hasattr(self, "feature_names_in_"):
            arrays["feature_names_in"] = self.feature_names_in_.astype(str)
        facts = {
            "n_iter": self.n_iter_,
            "objective": self.objective_,
            "kkt_residual": self.kkt_residual_,
            "status": self.status_.name,
        }
        write_model(path, type(self).__name__, self.get_params(deep=False), arrays, facts)

    @classmethod
    def load(cls, path: str | os.PathLike) -> Self:
        """Read back what `save` wrote.

        Raises
        ------
        FileNotFoundError
            No such file.
        ValueError
            Not a whole model file of this class.
        """
        parameters, arrays, facts = read_model(path, cls.__name__)
        try:
            model = cls(**parameters)
            H, trace = arrays["components"], arrays["trace"].astype(TRACE_DTYPE)
            if H.ndim != 2 or H.dtype not in FLOATS or not H.size or len(H) != model.n_components:
                raise ValueError(f"components of shape {H.shape} and {H.dtype}")
            check_factor(H, H.shape, "components")
            names = arrays.get("feature_names_in")
            if names is not None and names.shape != H.shape[1:]:
                raise ValueError(f"{names.size} feature names for {H.shape[1]} features")
            model._keep_fitted(
                H, facts["objective"], facts["kkt_residual"], facts["n_iter"], Status[facts["status"]], trace,
                arrays.get("restarts", np.array([facts["objective"]])).astype(float),  # older files have none
            )  # fmt: skip
            model.n_features_in_ = H.shape[1]
        except (KeyError, TypeError, IndexError, ValueError, OverflowError) as error:
            raise ValueError(f"{os.fspath(path)} is not a whole fastpmf model file: {error}") from None
        if names is not None:
            model.feature_names_in_ = names.astype(object)
        return model

    def _keep(self, solution: Solution) -> None:
        self._keep_fitted(
            solution.H,
            solution.objective,
            solution.kkt_residual,
            solution.n_iter,
            solution.status,
            solution.trace,
            solution.restarts,
        )

    def _keep_fitted(
        self, H: np.ndarray, objective: float, kkt_residual: float, n_iter: int, status: Status, trace: np.ndarray,
        restarts: np.ndarray,
    ) -> None:  # fmt: skip
        self.components_ = H
        self.n_components_ = H.shape[0]
        self.objective_ = objective
        self.reconstruction_err_ = math.sqrt(2.0 * max(objective, 0.0))  # rounding may leave D a hair below 0
        self.kkt_residual_ = kkt_residual
        self.n_iter_ = n_iter
        self.status_ = status
        self.trace_ = trace
        self.restarts_ = restarts

    def _read(self, X: Any) -> MemoryCounts:
        """X through the door, its width and names checked against what was fitted."""
        check_is_fitted(self)
        counts = as_counts(X, n_threads=self.n_threads)
        self._check_features(self, X, counts, reset=False)
        return counts

    def _check_features(self, estimator: BaseEstimator, X: Any, counts: MemoryCounts, *, reset: bool) -> None:
        validate_data(estimator, X=counts if isinstance(X, tuple) else X, reset=reset, skip_check_array=True)

    def _solve_rows(self, counts: MemoryCounts) -> tuple[np.ndarray, np.ndarray]:
        check_parameters(
            self.n_components, self.solver, self.acceleration, self.n_init, self.max_iter, self.tol, self.max_time,
            self.eval_every, self.callback,
        )  # fmt: skip
        with threads(self.n_threads):
            return transform(counts, self.components_, max_iter=self.max_iter, tol=self.tol)

    @property
    def _n_features_out(self) -> int:
        return self.n_components_

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        tags.input_tags.positive_only = True
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags
