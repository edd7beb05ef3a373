"""`PoissonNMF`: maximum likelihood, or the posterior's mode, under the Poisson model, in scikit-learn's manners."""

from typing import Any, Self

import numpy as np

from fastpmf.counts.labels import MatrixLabels
from fastpmf.estimators._applied import AppliedNMF
from fastpmf.estimators._callbacks import stopped_at
from fastpmf.fitting.fit import prepare, tell_end
from fastpmf.fitting.memory import check_declared
from fastpmf.fitting.problem import Known, Penalties, align_beside, as_numbers, vector
from fastpmf.kernels.threads import threads
from fastpmf.solvers import Solution, solver_of
from fastpmf.solvers.base import Callback


class PoissonNMF(AppliedNMF):
    """Non-negative factorization of counts under the Poisson likelihood, which is KL-NMF.

    Minimises over W, H >= 0, with mu = W H and all zeros of X counted,

        D(X || mu) = sum_ij [x_ij log(x_ij / mu_ij) - x_ij + mu_ij]

    which is maximising the likelihood of x_ij ~ Poisson(mu_ij), and, once columns are normalised, PLSI.

    Parameters
    ----------
    n_components : int
        Number of components, >= 1.
    prior_W : (shape, rate), "auto", "sparse" or None, default=None
        Gamma prior of W's entries: shape >= 1 and rate >= 0, each a number or one for each component; None is the flat
        (1, 0), maximum likelihood. With one the fit is the most probable W and H. Shape 1 is an L1 penalty, above it no
        entry is zero. "auto" is shape 1.1 with the rate 0.11 sqrt(n_components / mean count per unit of exposure),
        which predicts held-out counts well. "sparse" is shape 1 with the rate 0.1 sqrt(n_components / mean count per
        unit of exposure), for many components and few counts in a row, as in recommendation. The relative scale
        of W and H is set in closed form to maximise the joint prior.
    prior_H : (shape, rate), "auto", "sparse" or None, default=None
        Of H's entries.
    alpha_W : float, default=0.0
        scikit-learn's penalty on W, in place of a prior: with `l1_ratio`, n_features alpha_W [l1_ratio sum W +
        (1 - l1_ratio) / 2 sum W^2] is added to the objective.
    alpha_H : float or "same", default="same"
        That on H, times n_samples; "same" is `alpha_W`.
    l1_ratio : float, default=0.0
        Share of L1 in both, from 0 to 1.
    solver : {"auto", "cd", "em", "mu"}, default="auto"
        With each of them the objective never rises. "auto" is "cd".

        "cd": ten relaxed multiplicative iterations, then guarded coordinate descent on each row in turn, which is
        soonest at any objective but the poorest. Entries can be, and leave, exact zeros. A column of `StreamedCounts`
        is never together: of these W alone is descended, and H takes relaxed multiplicative steps.
        "mu": multiplicative updates of Lee & Seung, the rule of scikit-learn's "mu". For how many iterations the two
        agree, see `non_negative_factorization`.
        "em": the simultaneous update of PLSI, both factors in one pass over the rows. About as many iterations as
        "mu", and no transposed copy of the counts: for when memory is what is short.
    acceleration : {"auto", "extrapolation", "relaxation"} or None, default="auto"
        "extrapolation": begin each iteration where the last move would have led if it had gone on, and keep only what
        does not raise the objective. "auto": with "cd", and not with "mu" and "em". "relaxation", with "mu" only: go
        nearly twice as far in each update, which takes about half as many iterations, and is monotone too.
        Of `StreamedCounts` "auto" is none.
    inner_steps : int, default=1
        Steps on W in an iteration, for a step on H: with more, less of a pass over `StreamedCounts` is waiting for the
        disk. On H instead where these are stored by columns. Not with "em".
    init : {"auto", "random", "nndsvd", "nndsvda", "nndsvdar", "custom"}, default="auto"
        Where to start, by scikit-learn's names. "auto" is "random", which costs nothing and mostly ended as low; on
        small text "nndsvd" ended 2 % lower. All but "custom" (W and H given to `fit_transform`) are scaled to
        sum(W H) = sum(X). Zeros of "nndsvd" are lifted to 1e-6 of the factor's mean, of "nndsvda" to the mean, of
        "nndsvdar" to about a hundredth of it.
    n_init : int, default=1
        Random starts to try; the worse half is dropped after 30 iterations, 60, 120 and so on, and the best one left is
        finished (successive halving): ten starts cost about as much as five or six fits of 100 iterations. The result
        is usually lower than with one start, but not always: the first start, which n_init=1 finishes, can be dropped
        and yet end lower. `restarts_` has all their objectives.
    max_iter : int, default=500
        Most iterations, of both factors each; in `transform`, most rounds of sweeps for a row.
    tol : float, default=1e-4
        Converged when `kkt_residual_` is at most this: an upper bound, in nats per count, on what the best other W
        with this H, or the best other H with this W, could lower the objective by. It is 0 exactly where the
        Karush-Kuhn-Tucker conditions hold, and does not depend on the scale of X. 0.01 to 0.02 is a quick look.
        Nothing stops on a plateau. In `transform`, each row goes on until its own bound, per count of the row, is at
        most this.
    max_time : float, default=None
        Seconds after which no iteration begins, not counting compilation; None for no limit.
    eval_every : int, default=10
        Iterations between evaluations of the objective for `trace_`, `callback` and `verbose`.
    forgetting_rate, delay : float, default=0.7 and 1.0
        Of `partial_fit`: a mini-batch goes (t + delay)^-forgetting_rate of the way, t the rows before it in units of
        its own; 0.5 < forgetting_rate <= 1 <= delay.
    total_samples : int, default=None
        Rows that `partial_fit` will have seen in the end, against which priors are weighed; None: those seen so far.
    random_state : int, RandomState, Generator or None, default=None
        For the random parts of `init`. Equal seeds give equal bits, for any number of threads.
    dtype : {None, "float32", "float64"}, default=None
        Of the factors. None: float32 for float32 counts that are at least 1e-14 and sum to at most 1e30, else float64.
        Sums and the objective are float64 always. Exposures and weights are from 1e-10 to 1e10 in float32 and from
        1e-50 to 1e50 in float64, else refused; so are known factors, starts and priors above 1e30 and 1e130, and a W or
        H that the dtype can't hold beside what is known.
    n_threads : int or None, default=None
        None or -1: as many as the process may use (its affinity and cgroup quota). The result does not depend on it.
    verbose : bool, default=False
        Show a progress bar with objective and residual on standard error (tqdm where installed, plain lines else); and
        a line there if kernels take more than a second to compile, also in `transform`, `score` and `partial_fit`.
    callback : callable, default=None
        Called as callback(record, W, H) every `eval_every` iterations, `record` having the fields of `trace_` and W
        and H being read-only views; a true answer stops the fit.

    Attributes
    ----------
    components_ : ndarray of shape (n_components, n_features)
        The factor H.
    n_components_ : int
        Number of components.
    n_iter_ : int
        Iterations done.
    objective_ : float
        At the end, in nats: D(X || W H), and with priors minus their log densities, but for constants: it is minus the
        log posterior, up to a constant of X and of the priors.
    reconstruction_err_ : float
        sqrt(2 objective), with no prior scikit-learn's measure.
    kkt_residual_ : float
        The measure that `tol` is compared with, of the factors returned; nats per count.
    restarts_ : ndarray of shape (n_init,)
        The objective at which each start ended or was left behind, in nats.
    status_ : Status
        Why the fit stopped, as a sentence; `status_.name` is a short identifier.
    trace_ : structured ndarray
        Fields n_iter, objective (nats), kkt_residual (nats per count) and seconds, one record per evaluation, the
        start included.
    n_features_in_ : int
        Number of features seen in `fit`.
    prior_W_, prior_H_ : (shape, rate) or None
        The priors as numbers.
    column_exposure_, background_ : ndarray or None
        What `fit` was given.
    mean_W_ : ndarray of shape (n_components,) or None
        Mean of the fitted rows of W, which `recommend` uses for rows without counts; None after a fit with
        `fastpmf.dask`.
    validation_ : structured ndarray or None
        Fields n_iter and log_likelihood of held-out counts, per count, in nats; None without `validation`.
    feature_names_in_ : ndarray of shape (n_features,)
        Their names, where X had string names.

    See Also
    --------
    poisson_nmf : the same as a function that returns arrays.
    HPF : posteriors instead of points.

    Notes
    -----
    Memory beyond X: one transposed copy of the counts (none with "em"), and the factors four times: as they are, two
    spares (one without acceleration), and the result. W H is never formed.

    With scikit-learn 1.9 or later, `set_callbacks` takes its callbacks. A fit is a task to them, and every `eval_every`
    iterations are one in it. `ScoringMonitor` scores where there is a y, which may be anything here.

    References
    ----------
    D. D. Lee and H. S. Seung, "Algorithms for non-negative matrix factorization", NIPS 2000, theorem 2.
    L. T. K. Hien and N. Gillis, J. Sci. Comput. 87 (2021), section 3.5.
    A. M. S. Ang and N. Gillis, Neural Computation 31 (2019), algorithm 1.

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
        prior_W: Any = None,
        prior_H: Any = None,
        alpha_W: float = 0.0,
        alpha_H: Any = "same",
        l1_ratio: float = 0.0,
        solver: str = "auto",
        acceleration: str | None = "auto",
        inner_steps: int = 1,
        init: str = "auto",
        n_init: int = 1,
        max_iter: int = 500,
        tol: float = 1e-4,
        max_time: float | None = None,
        eval_every: int = 10,
        forgetting_rate: float = 0.7,
        delay: float = 1.0,
        total_samples: int | None = None,
        random_state: Any = None,
        dtype: Any = None,
        n_threads: int | None = None,
        verbose: bool = False,
        callback: Callback | None = None,
    ) -> None:
        self.n_components = n_components
        self.prior_W = prior_W
        self.prior_H = prior_H
        self.alpha_W = alpha_W
        self.alpha_H = alpha_H
        self.l1_ratio = l1_ratio
        self.solver = solver
        self.acceleration = acceleration
        self.inner_steps = inner_steps
        self.init = init
        self.n_init = n_init
        self.max_iter = max_iter
        self.tol = tol
        self.max_time = max_time
        self.eval_every = eval_every
        self.forgetting_rate = forgetting_rate
        self.delay = delay
        self.total_samples = total_samples
        self.random_state = random_state
        self.dtype = dtype
        self.n_threads = n_threads
        self.verbose = verbose
        self.callback = callback

    def fit(
        self,
        X: Any,
        y: None = None,
        *,
        W: Any = None,
        H: Any = None,
        fixed_W: Any = None,
        fixed_H: Any = None,
        row_exposure: Any = None,
        column_exposure: Any = None,
        background: Any = None,
        mask: Any = None,
        sample_weight: Any = None,
        validation: Any = None,
        checkpoint: Any = None,
        resume: Any = None,
    ) -> Self:
        """Fit the model to X.

        The full model is x_ij ~ Poisson(r_i c_j (W_i . H_j + b_j)), with row exposures r, column exposures c and
        background b: W and H are in counts per unit of exposure. Arguments that belong to rows or columns of X are
        aligned with it by labels if both have labels (the index and columns of pandas objects, the names of a
        `Dataset`), and taken by position otherwise.

        Parameters
        ----------
        X : matrix of counts of shape (n_samples, n_features)
            scipy.sparse in any format, dense, DataFrame, (data, indices, indptr), or the result of `as_counts`; or
            `StreamedCounts`, with which mask, sample_weight and validation can't be had.
        y : None
            Ignored.
        W : array-like of shape (n_samples, n_components), optional
            Where to start, with init="custom".
        H : array-like of shape (n_components, n_features), optional
            Where to start, with init="custom".
        fixed_W : array-like of shape (n_samples, n_components), optional
            What is known of W: numbers that stay, NaN where it is free. A column is wholly known, or NaN but for zeros.
        fixed_H : array-like of shape (n_components, n_features), optional
            What is known of H, known topics or signatures: a row is wholly known, or NaN but for zeros.
        row_exposure : float or array-like of shape (n_samples,), optional
            r > 0, for example library sizes, document lengths, years at risk; 1 by default.
        column_exposure : float or array-like of shape (n_features,), optional
            c > 0; 1 by default. `transform` and `score` go on using it.
        background : float or array-like of shape (n_features,), optional
            b >= 0, what is there without any component; 0 by default. `transform` and `score` go on using it.
        mask : matrix of shape (n_samples, n_features), optional
            Sparse or dense; True or positive where an entry is not observed. The values of X there are not used, and
            may be NaN or negative. It costs memory for W and H once more, and time that grows with the masked entries.
        sample_weight : float or array-like of shape (n_samples,), optional
            Weights >= 0 of the rows' log-likelihoods and of their priors: 2 is the row twice. Rows of weight 0 get
            their W from the fitted H.
        validation : float or matrix of counts of shape (n_samples, n_features), optional
            Stop once held-out counts get no likelier for two evaluations, every `eval_every` iterations each. A
            fraction is held out by `thin_counts`, and the rest fitted as so much less exposure. A matrix is the counts
            held out: of the entries of `mask` where there is one, else independent ones of all entries. They are scored
            at no less than 1e-8 of a component's mean, without rows and columns of which the fit sees no count.
        checkpoint : path-like or Checkpoint, optional
            A folder in which the fit saves itself every ten minutes, or as the `Checkpoint` says.
        resume : path-like, optional
            Such a folder, to go on from its last checkpoint, to the same bits as if nothing had happened; checkpoints
            go on there too. X and the parameters must be those of that fit, but for max_iter, max_time, tol and what is
            only shown.

        Returns
        -------
        self

        Raises
        ------
        TypeError, ValueError
            If an argument has an invalid type or value.
        MemoryError
            What the fit needs, see `fastpmf.plan`, this process may not have; the sentence says what would fit.
        FitInterrupted
            On Ctrl-C once an iteration is done, a KeyboardInterrupt; the estimator then holds what was fitted so far.
            Before that a plain KeyboardInterrupt, and it is as it was.
        """
        known = Known(fixed_W, fixed_H, row_exposure, column_exposure, background, mask, sample_weight)
        self._fit(X, y, W, H, known, validation=validation, checkpoint=checkpoint, resume=resume)
        return self

    def fit_transform(
        self,
        X: Any,
        y: None = None,
        W: Any = None,
        H: Any = None,
        *,
        fixed_W: Any = None,
        fixed_H: Any = None,
        row_exposure: Any = None,
        column_exposure: Any = None,
        background: Any = None,
        mask: Any = None,
        sample_weight: Any = None,
        validation: Any = None,
        checkpoint: Any = None,
        resume: Any = None,
    ) -> np.ndarray:
        """Fit the model to X and return W; arguments and errors as in `fit`.

        Returns
        -------
        W : ndarray of shape (n_samples, n_components)
        """
        known = Known(fixed_W, fixed_H, row_exposure, column_exposure, background, mask, sample_weight)
        return self._fit(X, y, W, H, known, validation=validation, checkpoint=checkpoint, resume=resume)

    def _fit(self, X: Any, y: Any, W: Any, H: Any, known: Known, validation: Any, **saved: Any) -> np.ndarray:
        with threads(self.n_threads):
            self._check_memory(X)
            beside, W, H, validation = align_beside(MatrixLabels.of(X), known, W=W, H=H, validation=validation)
            counts, seen = self._enter(X, beside.mask)
            prepared = prepare(
                counts, self.n_components, penalties=self._penalties, known=beside, solver=self.solver,
                acceleration=self.acceleration, inner_steps=self.inner_steps, init=self.init, n_init=self.n_init,
                W=W, H=H, validation=validation,
                max_iter=self.max_iter, tol=self.tol, max_time=self.max_time, eval_every=self.eval_every,
                random_state=self.random_state, dtype=self.dtype, callback=self.callback, **saved,
            )  # fmt: skip

            def solve(callback: Callback | None) -> Solution:
                return prepared.run(verbose=self.verbose, callback=callback)

            def keep(model: PoissonNMF, solution: Solution) -> None:
                model._adopt(seen)
                model._keep(solution)
                model.prior_W_, model.prior_H_ = map(as_numbers, prepared.penalties[:2])
                with np.errstate(over="ignore"):
                    model.mean_W_ = solution.W.mean(axis=0, dtype=np.float64)
                model._online = None  # partial_fit begins anew
                model.validation_ = solution.validation
                across, backdrop = beside.column_exposure, beside.background
                model.column_exposure_ = None if across is None else vector(across, counts.shape[1], "column_exposure")
                model.background_ = None if backdrop is None else np.array(backdrop, dtype=np.float64)

            solution = self._observed(solve, keep, stopped_at, X, y, known)
        self._become(keep, solution)
        tell_end(solution, self.tol)
        return solution.W

    def _check_memory(self, X: Any) -> None:
        """Raise a MemoryError if the size of X is known and its fit would exceed the memory limit."""
        solver = solver_of(self.solver, self.acceleration)()
        check_declared(X, self.n_components, self.dtype, solver, n_init=self.n_init)

    @property
    def _penalties(self) -> Penalties:
        return Penalties(self.prior_W, self.prior_H, self.alpha_W, self.alpha_H, self.l1_ratio)
