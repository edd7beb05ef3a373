"""`PoissonNMF`: maximum likelihood, or the posterior mode, under the Poisson model."""

import math
import os
from dataclasses import replace
from typing import Any, Self

import numpy as np
from sklearn.utils.validation import check_is_fitted

from fastpmf.analysis.gibbs import Chain, EntryPrior, PosteriorDraws, SamplingOptions, draw_posterior
from fastpmf.analysis.rates import check_groups_given, check_no_groups
from fastpmf.core.counts import Counts
from fastpmf.core.factors import FLOATS
from fastpmf.counts import MemoryCounts
from fastpmf.counts.labels import MatrixLabels, align
from fastpmf.estimators._callbacks import with_callbacks
from fastpmf.estimators._persistence import (
    checked_curves,
    checked_names,
    damaged_model,
    read_model,
    with_seeded_prior,
    write_model,
)
from fastpmf.estimators.base import FactorModel
from fastpmf.fitting.fit import INTERRUPTIONS, PoissonFit, report_end
from fastpmf.fitting.memory import check_memory_before_reading
from fastpmf.fitting.online import OnlineEM, OnlineOptions, online_em_step
from fastpmf.fitting.options import FitData, Penalties, PoissonOptions, align_prior
from fastpmf.fitting.problem import as_numbers, has_entries, read_priors, vector
from fastpmf.fitting.seeds import SeededPrior, component_names
from fastpmf.fitting.transform import producible, transform_blocks
from fastpmf.kernels.threads import threads
from fastpmf.solvers import Solution, Status
from fastpmf.solvers.base import TRACE_DTYPE, Callback
from fastpmf.utils.files import READ_ERRORS
from fastpmf.utils.progress import compilation_shown, stage
from fastpmf.utils.validation import check_factor, check_option, check_shape_dtype
from fastpmf.utils.warnings import without_fit_warnings


class PoissonNMF(FactorModel):
    r"""Non-negative factorization of counts under the Poisson likelihood, which is KL-NMF.

    Minimises over W, H >= 0 the generalised Kullback-Leibler divergence, with all zeros of X counted:

    .. math:: D(X \| \mu) = \sum_{ij} \left[ x_{ij} \log \frac{x_{ij}}{\mu_{ij}} - x_{ij} + \mu_{ij} \right],
              \qquad \mu = W H

    This maximises the likelihood of x_ij ~ Poisson(mu_ij); with normalised factors it is PLSI.

    Parameters
    ----------
    n_components : int
        Number of components, >= 1.
    prior_W : (shape, rate), "auto", "sparse" or None, default=None
        Gamma prior of the entries of W: shape >= 1 and rate >= 0, each a number, one for each component, or one for
        each entry, of shape (n_samples, n_components); a DataFrame is aligned with X by the labels of rows. The rate
        may be a name too. None is the flat prior (1, 0), maximum likelihood; with a prior the fit is the posterior
        mode. Shape 1 is an L1 penalty; with a larger shape no entry is zero. A shape acts like shape - 1 counts that
        the component has in this entry. "auto" has shape 1.1 and rate 0.11 sqrt(n_components / mean count per unit
        of exposure), and predicts held-out counts well. "sparse" has shape 1 and rate 0.1 sqrt(n_components / mean
        count per unit of exposure), for many components and few counts in a row, as in recommendation. The relative
        scale of W and H is set in closed form to maximise the joint prior.
    prior_H : (shape, rate), SeededPrior, "auto", "sparse" or None, default=None
        Gamma prior of the entries of H; numbers for each entry have shape (n_components, n_features). `seeded_prior`
        makes one from lists of features. A random start is moved towards what shapes of single entries expect.
    alpha_W : float, default=0.0
        scikit-learn's penalty on W, instead of a prior: n_features alpha_W [l1_ratio sum W + (1 - l1_ratio) / 2 sum
        W^2] is added to the objective.
    alpha_H : float or "same", default="same"
        The penalty on H, times n_samples; "same" is `alpha_W`.
    l1_ratio : float, default=0.0
        Share of the L1 penalty in both, from 0 to 1.
    prior_groups : float, default=10.0
        Shape and rate, > 0, of the Gamma prior of the effects of `groups`, whose mean is 1. It acts like so many counts
        in each group and feature at the rate without an effect.
    solver : {"auto", "cd", "em", "mu"}, default="auto"
        No solver ever raises the objective. "auto" is "cd".

        "cd": ten relaxed multiplicative iterations, then guarded coordinate descent on each row in turn; the fastest
        except to a high objective. Entries can become, and leave, exact zeros. With `StreamedCounts`, whose columns
        are never in memory together, only W is updated by coordinate descent, and H by relaxed multiplicative steps.
        "mu": multiplicative updates of Lee & Seung, as "mu" of scikit-learn. For how many iterations the two agree is
        described in `non_negative_factorization`.
        "em": the simultaneous update of PLSI, both factors in one pass over the rows. It takes about as many iterations
        as "mu", and needs no transposed copy of the counts.
    acceleration : {"auto", "extrapolation", "relaxation"} or None, default="auto"
        "extrapolation": start each iteration from a point beyond the last iterate, in the direction of the last step,
        and accept the result only if it does not raise the objective. "relaxation", with "mu" only: go nearly twice as
        far in each update, which takes about half as many iterations and never raises the objective either. "auto":
        extrapolation with "cd", none with "mu", "em" and `StreamedCounts`.
    inner_steps : int, default=1
        Updates of W in an iteration, for one of H (the other way round if counts are stored by columns). With more, a
        fit of `StreamedCounts` waits less for the disk. Not with "em".
    init : {"auto", "merge", "random", "nndsvd", "nndsvda", "nndsvdar", "custom", "grow", "shrink"}, default="auto"
        Start, with scikit-learn's names. "merge": fit more components from a random start, merge the most similar ones,
        and replace some in rounds; see the Notes. "auto" is "merge" with "cd" and without `validation`, else "random".
        "custom": W and H given to `fit`. "grow": W and H of a fit with fewer components, given to `fit`, and new
        components for rows that they fit badly. "shrink": those of a fit with more components, of which the most
        similar ones are merged, and one round of "merge"; for a sweep over `n_components`. The others are scaled so
        that sum(W H) = sum(X). Zeros of "nndsvd" are replaced by 1e-6 of the mean of the factor, of "nndsvda" by the
        mean, of "nndsvdar" by about a hundredth of it.
    n_init : int, default=1
        Number of starts. The worse half is dropped after 30 iterations, 60, 120 and so on, and the best one is finished
        (successive halving): ten random starts cost about as much as five or six fits of 100 iterations. With "merge",
        each start is searched to the end before any is dropped. The result is usually, but not always, lower than with
        one start: the first start, which n_init=1 finishes, can be dropped and yet end lower. `restarts_` has the
        objectives of all.
    max_iter : int, default=500
        Maximum number of iterations, each of both factors; in `transform`, of rounds of sweeps for a row.
    tol : float, default=1e-4
        Converged if `kkt_residual_` is at most this: an upper bound, in nats per count, on the decrease of the
        objective by any other W with this H, or any other H with this W. It is 0 exactly if the Karush-Kuhn-Tucker
        conditions hold, does not depend on the scale of X, and does not stop on a plateau. 0.01 to 0.02 is enough for a
        quick look. In `transform` it is compared with the bound of each row, per count of the row.
    max_time : float, default=None
        Seconds after which no iteration starts, without compilation; None for no limit.
    eval_every : int, default=10
        Iterations between evaluations of the objective for `trace_`, `callback` and `verbose`.
    forgetting_rate, delay : float, default=0.7 and 1.0
        For `partial_fit`: the step length of a mini-batch is (t + delay)^-forgetting_rate, where t is the number of
        earlier rows divided by that of the mini-batch; 0.5 < forgetting_rate <= 1 <= delay.
    total_samples : int, default=None
        Number of rows that `partial_fit` will have seen in the end, against which priors are weighted; None: those seen
        so far.
    random_state : int, RandomState, Generator or None, default=None
        For the random parts of `init`. Equal seeds give bitwise equal results, for any number of threads.
    dtype : {None, "float32", "float64"}, default=None
        Dtype of the factors. None: float64 for float64 counts, and float32 for float32 counts and integers; but float64
        too if there are integers above 2**24, which float32 may not represent, or counts that are below 1e-14 or sum to
        more than 1e30. A fit in float32 took about half the time, and ended at the same objective up to 4e-6 nats per
        count. Sums and the objective are always float64. A `tol` below 1e-6 may need float64. Exposures and
        weights must be from 1e-10 to 1e10 in float32 and from 1e-50 to 1e50 in float64; fixed factors, starts and
        priors at most 1e30 and 1e130.
    n_threads : int or None, default=None
        Number of threads. None or -1: all that the process may use (its affinity and cgroup quota). The result does not
        depend on it.
    verbose : bool, default=False
        Show a progress bar with objective and residual on standard error (lines of text without tqdm, or if standard
        error is a file), and a line for each stage, such as compilation, that takes more than a second; also in
        `transform`, `score` and `partial_fit`.
    callback : callable, default=None
        Called as callback(record, W, H) every `eval_every` iterations; `record` has the fields of `trace_`, and W and H
        are read-only views. A true result stops the fit.

    Attributes
    ----------
    components_ : ndarray of shape (n_components, n_features)
        The factor H.
    n_components_ : int
        Number of components.
    n_iter_ : int
        Number of iterations.
    objective_ : float
        Final objective in nats: D(X || W H), and with priors minus their log densities, that is minus the log posterior
        up to a constant of X and of the priors.
    reconstruction_err_ : float
        sqrt(2 objective); without priors scikit-learn's measure.
    kkt_residual_ : float
        The measure that `tol` is compared with, for the returned factors; nats per count.
    restarts_ : ndarray of shape (n_init,)
        Last objective of each start, in nats.
    status_ : Status
        Why the fit stopped, as a sentence; `status_.name` is a short identifier.
    trace_ : structured ndarray
        Fields n_iter, objective (nats), kkt_residual (nats per count) and seconds, one record per evaluation, including
        the start.
    n_features_in_ : int
        Number of features seen in `fit`.
    prior_W_, prior_H_ : (shape, rate) or None
        The priors as numbers.
    column_exposure_, background_ : ndarray or None
        As given to `fit`.
    group_effects_ : ndarray of shape (n_groups, n_features) or None
        Effects of the groups; None without `groups`.
    group_names_ : ndarray of shape (n_groups,) or None
        Labels of the groups, sorted.
    component_names_ : ndarray of shape (n_components,) or None
        Names of the components, if `prior_H` is a `SeededPrior`.
    mean_W_ : ndarray of shape (n_components,) or None
        Mean of the fitted rows of W, which `recommend` uses for rows without counts; None after a fit with
        `fastpmf.dask`.
    validation_ : structured ndarray or None
        Fields n_iter and log_likelihood of held-out counts, in nats per count; None without `validation`.
    feature_names_in_ : ndarray of shape (n_features,)
        Names of the features, if X had string names.

    See Also
    --------
    poisson_nmf : the same as a function that returns arrays.
    HPF : posteriors instead of points.

    Notes
    -----
    Memory beyond X: one transposed copy of the counts (none with "em"), and four copies of the factors: the iterate,
    two working copies (one without acceleration), and the result; with init="merge" between six and seven. W H is never
    formed.

    With init="merge" a fit first improves the local optimum in which it will end. It fits 1.5 times as many components
    for 20 iterations, merges the most similar ones, and iterates 5 times more. With at most ten components, and counts
    in memory, up to four random starts of 25 iterations compete with the result. Then in each of three rounds it adds a
    quarter as many components for rows that are fitted badly, iterates 10 times, merges as many, iterates 5 times, and
    undoes the round if the objective is no lower. These iterations are counted in `n_iter_`. They are at most half of
    `max_iter`, so that with `max_iter` below 340 there are fewer starts, and below 50 the start is that of "random";
    and they take at most half of `max_time`. The rounds end early if the fit has converged. The trace and `callback`
    get a record after the first merging, and after each start and each round that is kept. No checkpoint is saved
    before the end of the search. Only components without fixed entries and with equal priors are merged, the largest
    set of them: never seeded components. Which ones are merged is decided by the objective, or by
    similarity alone with `StreamedCounts`.

    With scikit-learn 1.9 or later, `set_callbacks` accepts its callbacks. A fit is a task, and every `eval_every`
    iterations are a task within it. `ScoringMonitor` scores if there is a y, which may be anything here.

    References
    ----------
    D. D. Lee and H. S. Seung, "Algorithms for non-negative matrix factorization", NIPS 2000, theorem 2.
    L. T. K. Hien and N. Gillis, J. Sci. Comput. 87 (2021), section 3.5.
    Y. Guo and T. E. Holy, IEEE Trans. Signal Process. 73 (2025), for merging.
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
           [2., 0., 1.]], dtype=float32)
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
        prior_groups: float = 10.0,
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
        self.prior_groups = prior_groups
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
        groups: Any = None,
        mask: Any = None,
        sample_weight: Any = None,
        validation: Any = None,
        checkpoint: Any = None,
        resume: Any = None,
    ) -> Self:
        r"""Fit the model to X.

        The full model has row exposures r, column exposures c, a background b, and effects e of groups g(i) of rows:

        .. math:: x_{ij} \sim \mathrm{Poisson}\bigl(r_i c_j e_{g(i)j} (W_i \cdot H_j + b_j)\bigr)

        W and H are in counts per unit of exposure. Arguments that belong to rows or columns of X are
        aligned with it by labels if both have labels (the index and columns of pandas objects, the names of a
        `Dataset`), and taken by position otherwise.

        Parameters
        ----------
        X : matrix of counts of shape (n_samples, n_features)
            scipy.sparse in any format, dense, DataFrame, (data, indices, indptr), the result of `as_counts`, or
            `StreamedCounts`, which exclude mask, sample_weight and validation.
        y : None
            Ignored.
        W : array-like of shape (n_samples, n_components), optional
            Start, with init="custom", "grow" or "shrink".
        H : array-like of shape (n_components, n_features), optional
            Start, with init="custom", "grow" or "shrink".
        fixed_W : array-like of shape (n_samples, n_components), optional
            Fixed parts of W, NaN where it is free. A column is wholly fixed, or NaN except for zeros.
        fixed_H : array-like of shape (n_components, n_features), optional
            Fixed parts of H, such as known topics or signatures. A row is wholly fixed, or NaN except for zeros.
        row_exposure : float or array-like of shape (n_samples,), optional
            r > 0, for example library sizes, document lengths, years at risk; 1 by default.
        column_exposure : float or array-like of shape (n_features,), optional
            c > 0; 1 by default. `transform` and `score` use it too.
        background : float or array-like of shape (n_features,), optional
            b >= 0, the rate without any component; 0 by default. `transform` and `score` use it too.
        groups : array-like of shape (n_samples,), optional
            Labels, all strings or all numbers, of the group of each row, such as batches, donors or sites. Each group
            has an effect on each feature, which is fitted with W and H: its prior is Gamma(`prior_groups`,
            `prior_groups`), with mean 1. Without a background, and priors and fixed parts of H, the mean of the effects
            of a feature over the groups is 1; otherwise their prior decides on the scale. Not with `mask` or
            `validation`.
        mask : matrix of shape (n_samples, n_features), optional
            Sparse or dense; True or positive where an entry is not observed. Values of X there are not used, and may be
            NaN or negative. A mask takes memory for another W and H, and time in proportion to its entries.
        sample_weight : float or array-like of shape (n_samples,), optional
            Weights >= 0 of the log-likelihoods of the rows and of their priors: weight 2 is the row twice. Rows of
            weight 0 get their W from the fitted H.
        validation : float or matrix of counts of shape (n_samples, n_features), optional
            Stop if the likelihood of held-out counts has not improved for two evaluations, which are `eval_every`
            iterations apart. A fraction is held out by `thin_counts`, and the rest is fitted with the exposure reduced
            accordingly. A matrix has the held-out counts: of the entries of `mask` if there is one, else independent
            ones of all entries. Entries of the factors below 1e-8 of the mean of their component are raised to it for
            scoring; rows and columns without counts to fit are not scored.
        checkpoint : path-like or Checkpoint, optional
            A folder in which the fit saves its state every ten minutes, or as the `Checkpoint` says.
        resume : path-like, optional
            Such a folder, to continue from its last checkpoint with bitwise the same result; further checkpoints are
            saved there too. X and the parameters must be those of that fit, except max_iter, max_time, tol and those
            of the display; with init="merge", max_iter limits the search too, so that another one gives another result.

        Returns
        -------
        self

        Raises
        ------
        TypeError, ValueError
            If an argument has an invalid type or value.
        MemoryError
            If the estimated memory exceeds this process's limit; see `fastpmf.plan`.
        FitInterrupted
            On Ctrl-C after the first iteration, a KeyboardInterrupt; the estimator then has the fit so far. Before that
            a plain KeyboardInterrupt, and the estimator is unchanged.
        """
        data = FitData(
            W=W, H=H, fixed_W=fixed_W, fixed_H=fixed_H, row_exposure=row_exposure, column_exposure=column_exposure,
            background=background, groups=groups, mask=mask, sample_weight=sample_weight, validation=validation,
        )  # fmt: skip
        self._finish(*self._fit(X, y, data, checkpoint, resume))
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
        groups: Any = None,
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
        data = FitData(
            W=W, H=H, fixed_W=fixed_W, fixed_H=fixed_H, row_exposure=row_exposure, column_exposure=column_exposure,
            background=background, groups=groups, mask=mask, sample_weight=sample_weight, validation=validation,
        )  # fmt: skip
        return self._finish(*self._fit(X, y, data, checkpoint, resume)).W

    @with_callbacks  # type: ignore[untyped-decorator]
    def _fit(self, X: Any, y: Any, data: FitData, checkpoint: Any, resume: Any) -> tuple[Solution, dict[str, Any]]:
        """The solution, and the attributes of the fitted estimator, which is not changed."""
        with threads(self.n_threads), compilation_shown(verbose=self.verbose):
            options = PoissonOptions.of(self)
            self._check_memory(X)
            counts, aligned, features = self._read_training_data(X, data)
            options = options.aligned(MatrixLabels.of(X))
            fit = PoissonFit(counts, options, aligned, checkpoint=checkpoint, resume=resume)
            penalties, p = fit.problem.penalties, counts.shape[1]
            exposure, background = aligned.column_exposure, aligned.background
            known = {
                **features,
                "prior_W_": as_numbers(penalties.prior_W),
                "prior_H_": as_numbers(penalties.prior_H),
                "column_exposure_": None if exposure is None else vector(exposure, p, "column_exposure"),
                "background_": None if background is None else np.array(background, dtype=np.float64),
                "component_names_": component_names(self.prior_H),
            }

            def attributes(solution: Solution, _: Any = None) -> dict[str, Any]:
                return known | solution_attributes(solution) | {"group_names_": fit.problem.group_names}

            tasks = self._tasks(attributes, X, y, data)
            solution, _ = fit.run(tasks)
            if tasks is not None:
                tasks.end(solution, None)
        return solution, attributes(solution)

    def _finish(self, solution: Solution, attributes: dict[str, Any]) -> Solution:
        self._set_fitted_attributes(attributes)
        report_end(solution, self.tol)
        return solution

    def _check_memory(self, X: Any) -> None:
        """Raise an error if the size of X is known and its fit would exceed the memory limit."""
        options = PoissonOptions.of(self)
        solver, search = options.make_solver(), options.make_search()
        check_memory_before_reading(X, self.n_components, self.dtype, solver, n_init=self.n_init, search=search)

    def partial_fit(self, X: Any, y: None = None, *, row_exposure: Any = None) -> Self:
        """Take one step of online EM on a mini-batch of rows; one pass over all mini-batches is an epoch.

        W of the mini-batch and H are fitted to it, with a Gamma prior on H that stands for all earlier rows. Then the
        statistics of the mini-batch are blended with those of the earlier rows: (1 - rho) old + rho new, with rho = (t
        + delay)^-forgetting_rate, where t is the number of earlier rows divided by that of the mini-batch. This forgets
        how the counts of a feature were allocated to components, never how many there were. H is the posterior mode
        given the statistics, as if there were `total_samples` rows (by default those seen so far). W is not stored: use
        `transform`.

        The first rows, 150 for each component, are stored in memory. Whenever their number has doubled, and once more
        when they are complete, they are fitted together from a random start; until then components may change places.
        After `fit`, partial_fit starts again from the beginning; a saved and loaded model continues.

        A row without counts is not skipped, since its zeros were observed; without a prior it leaves H unchanged, as in
        `fit`. The first mini-batch must have a positive count. A later mini-batch without rows changes nothing.

        Parameters
        ----------
        X : matrix of counts of shape (n_batch, n_features)
        y : None
            Ignored.
        row_exposure : float or array-like of shape (n_batch,), optional

        Returns
        -------
        self

        Raises
        ------
        TypeError, ValueError
            If an argument has an invalid type or value.

        References
        ----------
        O. Cappe and E. Moulines, "Online expectation-maximization algorithm for latent data models", J. R. Stat. Soc. B
        71 (2009), section 2.
        """
        online = getattr(self, "_online", None)
        with threads(self.n_threads), compilation_shown(verbose=self.verbose):
            if online is not None and self._is_empty(X):
                return self
            counts, features = self._read_batch(X, first=online is None)
            k = self.n_components if online is None else len(self.components_)
            row_exposure = align(row_exposure, "row_exposure", rows=self._labels(X).rows)
            exposure = vector(row_exposure, counts.shape[0], "row_exposure")
            penalties = PoissonOptions.of(self).aligned(self._labels(X)).penalties
            H = None if online is None else self.components_
            after, H = online_em_step(online, H, counts, exposure, k, penalties, OnlineOptions.of(self))
        nan, no_trace = math.nan, np.empty(0, TRACE_DTYPE)
        solution = Solution(np.empty((0, k)), H, nan, nan, after.schedule.steps, Status.ONLINE, no_trace)
        attributes = solution_attributes(solution) | {"_online": after, "mean_W_": after.statistics.exposure}
        if online is None:
            attributes |= features | {"column_exposure_": None, "background_": None}
            attributes |= {"component_names_": component_names(self.prior_H)}
            attributes |= {"prior_W_": as_numbers(penalties.prior_W), "prior_H_": as_numbers(penalties.prior_H)}
            self._set_fitted_attributes(attributes)
        else:
            self.__dict__ = vars(self) | attributes
        return self

    def transform(
        self, X: Any, *, row_exposure: Any = None, groups: Any = None, new_groups: str = "ignore", mask: Any = None,
        prior_W: Any = None, return_gap_bound: bool = False,
    ) -> Any:  # fmt: skip
        """The W that minimises the objective for X with `components_` fixed, including the prior of W.

        Each row is a separate convex problem, solved by coordinate descent whatever `solver` is, and its result does
        not depend on the other rows (bitwise). A warning is given if rows do not converge to `tol` in `max_iter`
        rounds. Counts of features in which every component is zero can't be explained by any W and are left out. For
        the fitted rows the result is that of `fit_transform` only if the fit converged: there H was updated after W.

        Parameters
        ----------
        X : matrix of counts of shape (n_samples, n_features)
        row_exposure : float or array-like of shape (n_samples,), optional
            Exposures of these rows, 1 by default; column exposures and background are those of `fit`.
        groups : array-like of shape (n_samples,), optional
            Labels of the groups of these rows; needed if the model was fitted with groups.
        new_groups : {"ignore", "estimate"}, default="ignore"
            What to do with groups that were not fitted. "ignore": their effects are 1, with a warning. "estimate":
            their effects are fitted to all given rows of a group together, as by `with_new_groups`, and then forgotten.
        mask : matrix of shape (n_samples, n_features), optional
            True or positive where an entry is not observed; X may hold NaN there.
        prior_W : (shape, rate), optional
            The prior of these rows, instead of that of `fit`; needed if that has numbers for each fitted row.
        return_gap_bound : bool, default=False
            Whether to return the certificate too.

        Returns
        -------
        W : ndarray of shape (n_samples, n_components)
        gap_bound : ndarray of shape (n_samples,)
            With `return_gap_bound`: upper bound, in nats, on the decrease of the objective by any other W for each row,
            up to rounding of the dtype, about 1e-6 nats per count in float32.
        """
        check_option(new_groups, ("ignore", "estimate"), "new_groups")
        counts, data = self._read_rows(X, row_exposure, groups, mask)
        prior_W = self._aligned_prior_W(X, counts, prior_W)
        model = self._with_groups_of_rows(counts, data, prior_W) if new_groups == "estimate" else self
        data = model._with_known_effects(counts, data)
        W, gap_bound = self._transform(counts, data, prior_W)
        return (W, gap_bound) if return_gap_bound else W

    def with_new_groups(self, X: Any, groups: Any, *, row_exposure: Any = None, prior_W: Any = None) -> Self:
        """A copy of the model with the effects of further groups, estimated from their rows with `components_` fixed.

        All methods of the copy know the groups: `transform`, `score`, `rate_factors`, `report` and others. W of the
        rows and the effects are fitted in turn until they converge to `tol`.

        Parameters
        ----------
        X : matrix of counts of shape (n_samples, n_features)
            Rows of the new groups, in memory. Rows of groups that the model has are not used.
        groups : array-like of shape (n_samples,)
            Labels of the groups of the rows. The effects of a group depend on all of its rows, and on others up to tol.
        row_exposure : float or array-like of shape (n_samples,), optional
            Exposures of these rows, 1 by default.
        prior_W : (shape, rate), optional
            As in `transform`.

        Returns
        -------
        PoissonNMF
            `group_names_` and `group_effects_` have the new groups after the others, sorted; the model itself if it
            has all groups. Features that no component produces have effects of about 1.

        Raises
        ------
        TypeError, ValueError
            If an argument has an invalid type or value, or the model was fitted without groups.

        See Also
        --------
        transform : W of new rows.

        Examples
        --------
        >>> from fastpmf import PoissonNMF
        >>> X, groups = [[4, 0, 2], [0, 3, 0], [2, 0, 1], [1, 2, 3]], ["a", "a", "b", "b"]
        >>> model = PoissonNMF(2, random_state=0).fit(X, groups=groups)
        >>> model.with_new_groups([[3, 1, 0], [2, 5, 1]], ["c", "c"]).group_names_
        array(['a', 'b', 'c'], dtype='<U1')
        """
        counts, data = self._read_rows(X, row_exposure, groups, None)
        return self._with_groups_of_rows(counts, data, self._aligned_prior_W(X, counts, prior_W))

    def score(
        self, X: Any, y: None = None, *, row_exposure: Any = None, groups: Any = None, mask: Any = None,
        sample_weight: Any = None, prior_W: Any = None,
    ) -> float:  # fmt: skip
        """Poisson log-likelihood of X under its own best W, per count: ``log L(transform(X), components_) / sum(X)``.

        Counts of features in which every component is zero, which had none in training, are left out, as in
        `transform`: any model of that training data gives them likelihood 0. So are masked entries.

        Parameters
        ----------
        X : matrix of counts of shape (n_samples, n_features)
        y : None
            Ignored.
        row_exposure, groups, mask
            As in `transform`; effects of new groups are 1.
        sample_weight : float or array-like of shape (n_samples,), optional
            Weights of the rows in the score; W does not depend on them.
        prior_W : (shape, rate), optional
            As in `transform`.

        Returns
        -------
        float
            In nats per count, higher is better.

        Raises
        ------
        ValueError
            If X has no counts to score.
        """
        counts, data = self._read_rows(X, row_exposure, groups, mask)
        weight = align(sample_weight, "sample_weight", rows=self._labels(X).rows)
        prior_W = self._aligned_prior_W(X, counts, prior_W)
        data = self._with_known_effects(counts, data)
        with compilation_shown(verbose=self.verbose):
            W, _ = self._transform(counts, data, prior_W)
            return self._score(counts, W, replace(data, sample_weight=weight))

    def sample_posterior(
        self, X: Any, n_draws: int = 100, *, burn_in: int = 100, thin: int = 10, keep_W: bool = True,
        row_exposure: Any = None, mask: Any = None, random_state: Any = None,
    ) -> PosteriorDraws:  # fmt: skip
        """Draws of W and H from their posterior distribution, by Gibbs sampling.

        The model must have been fitted with priors of both factors. The draws have the whole posterior, whose mode the
        fit has found; parts of factors that were fixed in the fit are drawn too.

        Parameters
        ----------
        X : matrix of counts of shape (n_samples, n_features)
            The fitted counts, or others with the same features; whole numbers.
        n_draws : int, default=100
            Number of draws to keep, at least 2. A 90 % interval needs 19.
        burn_in : int, default=100
            Sweeps before the first draw.
        thin : int, default=10
            Sweeps between draws. The more counts components share, the more slowly they move:
            `PosteriorDraws.effective_draws` tells what the draws are worth.
        keep_W : bool, default=True
            Whether to keep draws of W, which take n_draws times the memory of W.
        row_exposure : float or array-like of shape (n_samples,), optional
            The exposures given to `fit`.
        mask : matrix of shape (n_samples, n_features), optional
            True or positive where an entry is not observed.
        random_state : int, RandomState, Generator or None, default=None
            Equal seeds give bitwise equal draws, for any number of threads.

        Returns
        -------
        PosteriorDraws

        Raises
        ------
        TypeError, ValueError
            If an argument has an invalid type or value, or the model has no priors of both factors with positive
            rates.
        MemoryError
            If the draws exceed this process's limit.
        DrawsInterrupted
            On Ctrl-C after at least two draws; a KeyboardInterrupt with those so far as `draws`.

        See Also
        --------
        PosteriorDraws : the result.

        Notes
        -----
        See `HPF.sample_posterior` for the method, its cost, and what the chain does not visit.

        Examples
        --------
        >>> from fastpmf import PoissonNMF
        >>> from fastpmf.datasets import make_poisson_counts
        >>> X = make_poisson_counts(100, 50, 2, nnz=1_000, random_state=0).X
        >>> model = PoissonNMF(2, prior_W="auto", prior_H="auto", random_state=0).fit(X)
        >>> low, high = model.sample_posterior(X, 50, random_state=0).feature_shares.interval(0.9)
        >>> low.shape
        (2, 50)
        """
        check_is_fitted(self)
        check_no_groups(self, "the model", "sample_posterior has no groups")
        if self.prior_W_ is None or self.prior_H_ is None:
            raise ValueError("sample_posterior needs a model with prior_W and prior_H")
        counts, data = self._read_rows(X, row_exposure, None, mask)
        (n, p), k, dtype = counts.shape, len(self.components_), self.components_.dtype
        options = SamplingOptions(n_draws, burn_in, thin, keep_W)
        options.check(counts, k, dtype)
        priors = [
            EntryPrior(prior.shape + 1, prior.rate)
            for prior in read_priors(Penalties(self.prior_W_, self.prior_H_), k, (n, p))
        ]
        if not all((prior.rate > 0).all() for prior in priors):
            raise ValueError("sample_posterior needs priors with rates > 0, since others are no distributions")
        exposures = vector(data.row_exposure, n, "row_exposure"), vector(self.column_exposure_, p, "column_exposure")
        with threads(self.n_threads), compilation_shown(verbose=self.verbose):
            W, _ = self._transform(counts, data, self.prior_W_)
            background = None if self.background_ is None else np.broadcast_to(self.background_, p)
            chain = Chain.start(
                counts, W, self.components_, (priors[0], priors[1]), exposures, background, mask=mask,
                random_state=random_state,
            )  # fmt: skip
            return draw_posterior(chain, options, dtype, self._names(X), verbose=self.verbose)

    def _read_rows(self, X: Any, row_exposure: Any, groups: Any, mask: Any) -> tuple[Counts, FitData]:
        """New rows and all the data that belongs to them."""
        data = FitData(row_exposure=row_exposure, groups=groups, mask=mask)
        counts, data = self._read_new_data(X, data, streamed=True)
        check_groups_given(self, groups)
        return counts, replace(data, column_exposure=self.column_exposure_, background=self.background_)

    def _transform(self, counts: Counts, data: FitData, prior_W: Any = None) -> tuple[np.ndarray, np.ndarray]:
        penalties = self._row_penalties(prior_W)
        with threads(self.n_threads), compilation_shown(verbose=self.verbose), stage("computing the weights of rows"):
            return transform_blocks(
                counts, self.components_, data, max_iter=self.max_iter, tol=self.tol, penalties=penalties
            )

    def _aligned_prior_W(self, X: Any, counts: Counts, prior_W: Any) -> Any:
        """The prior of new rows, with arrays for single entries in the order of the rows of X."""
        prior_W, size = (
            align_prior(prior_W, "prior_W", rows=self._labels(X).rows),
            (counts.shape[0], len(self.components_)),
        )
        if has_entries(prior_W) and any(np.ndim(x) == 2 and np.shape(x) != size for x in prior_W):
            shapes = " and ".join(str(np.shape(x)) for x in prior_W)
            raise ValueError(f"prior_W must have arrays of shape {size}, with a row for each row of X, got {shapes}")
        return prior_W

    def _row_penalties(self, prior_W: Any) -> Penalties:
        if prior_W is None and has_entries(self.prior_W_):
            raise ValueError("prior_W must be given for these rows, since that of fit has numbers for each fitted row")
        return PoissonOptions.of(self).penalties._replace(prior_W=self.prior_W_ if prior_W is None else prior_W)

    def rate_factors(
        self, W: Any, *, row_exposure: Any = None, groups: Any = None
    ) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
        """Two factors whose product has the rates of the model, with exposures, background and effects of groups.

        Functions of W and H, such as `fastpmf.kl_divergence`, `fastpmf.recommend` and the plots, apply to them.

        Parameters
        ----------
        W : array-like of shape (n_samples, n_components)
            Result of `fit_transform` or `transform`.
        row_exposure : float or array-like of shape (n_samples,), optional
            Exposures of these rows, 1 by default.
        groups : array-like of shape (n_samples,), optional
            Labels of the groups of these rows; needed if the model was fitted with groups. Effects of groups that were
            not fitted are 1, with a warning.

        Returns
        -------
        W : ndarray of shape (n_samples, m)
            m is n_components, plus 1 with a background, times the number of groups in `groups`.
        H : ndarray of shape (m, n_features)

        Raises
        ------
        TypeError, ValueError
            If an argument has an invalid type, shape or value.

        Examples
        --------
        >>> from fastpmf import PoissonNMF, kl_divergence
        >>> X, groups = [[4, 0, 2], [0, 3, 0], [2, 0, 1], [1, 2, 3]], ["a", "a", "b", "b"]
        >>> model = PoissonNMF(2, random_state=0)
        >>> factors = model.rate_factors(model.fit_transform(X, groups=groups), groups=groups)
        >>> [A.shape for A in factors]
        [(4, 4), (4, 3)]
        >>> kl_divergence(X, *factors) < model.objective_  # which has the penalty of the effects too
        True
        """
        return self._rate_factors(W, row_exposure, groups)

    def _with_groups_of_rows(self, counts: Counts, data: FitData, prior_W: Any) -> Self:
        """`with_new_groups`, of aligned data and prior."""

        def estimate(part: MemoryCounts, data: FitData, rows: np.ndarray) -> tuple[np.ndarray, dict[str, Any]]:
            H, background = self.components_, self.background_
            part = producible(
                part, H if background is None else np.vstack([H, np.broadcast_to(background, H.shape[1])])
            )
            if part.total == 0:
                return np.ones((len(np.unique(data.groups)), H.shape[1])), {}
            prior = self._row_penalties(prior_W).select_rows(rows).prior_W
            options = replace(
                PoissonOptions.of(self), prior_W=prior, prior_H=None, alpha_H=0.0, init="random", n_init=1,
                random_state=0, verbose=False, callback=None,
            )  # fmt: skip
            with threads(self.n_threads), without_fit_warnings():
                solution, _ = PoissonFit(part, options, replace(data, fixed_H=H)).run()
            if solution.status in INTERRUPTIONS:
                raise KeyboardInterrupt
            assert solution.group_effects is not None
            return solution.group_effects, {}

        return self._with_groups_of(counts, data, estimate)

    def _with_features(self, columns: np.ndarray) -> Self:
        model = super()._with_features(columns)
        model.alpha_W = self.alpha_W * (self.components_.shape[1] / len(columns))  # it is multiplied by n_features
        model.column_exposure_, model.background_ = (
            x if x is None or x.ndim == 0 else x[columns] for x in (self.column_exposure_, self.background_)
        )
        if has_entries(self.prior_H_):
            model.prior_H_ = tuple(x if np.ndim(x) < 2 else x[:, columns] for x in self.prior_H_)
        return model

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the fitted model to one `.npz` file without pickle; an existing file is replaced whole or not at all.

        A `random_state` or `callback` that is an object is not saved; it is None in the loaded model.
        """
        write_model(path, *self._saved())

    def _saved(self) -> tuple[str, dict[str, Any], dict[str, np.ndarray], dict[str, Any]]:
        """Kind, parameters, arrays and facts of the model file."""
        check_is_fitted(self)
        arrays = {"components": self.components_, "trace": self.trace_, "restarts": self.restarts_}
        online = getattr(self, "_online", None)
        if online is not None:
            arrays |= online.to_arrays()
        for name in ("column_exposure", "background", "validation", "mean_W", "group_effects", "group_names"):
            if (value := getattr(self, f"{name}_")) is not None:
                arrays[name] = value
        if hasattr(self, "feature_names_in_"):
            arrays["feature_names_in"] = self.feature_names_in_.astype(str)
        if self.component_names_ is not None:
            arrays["component_names"] = self.component_names_.astype(str)
        facts = {
            "n_iter": self.n_iter_,
            "objective": self.objective_,
            "kkt_residual": self.kkt_residual_,
            "status": self.status_.name,
            "priors": [self.prior_W_, self.prior_H_],
        }
        parameters = self.get_params(deep=False)
        if isinstance(prior := self.prior_H, SeededPrior):
            parameters["prior_H"] = prior.shape, prior.rate
            arrays["prior_components"] = prior.component_names.astype(str)
            arrays["prior_features"] = prior.feature_names.astype(str)
        return type(self).__name__, parameters, arrays, facts

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read a model that `save` wrote.

        Raises
        ------
        FileNotFoundError
            If there is no such file.
        ValueError
            If the file is damaged, or is not a model of this class.
        """
        parameters, arrays, facts = read_model(path, cls.__name__)
        try:
            # JSON has lists for tuples, and among the parameters only priors are either
            parameters = {name: tuple(x) if isinstance(x, list) else x for name, x in parameters.items()}
            parameters = with_seeded_prior(parameters, arrays, "prior_H")
            model = cls(**parameters)
            H = arrays["components"]
            if H.ndim != 2 or H.dtype not in FLOATS or not H.size:
                raise ValueError(f"components of shape {H.shape} and {H.dtype}")
            check_factor(H, H.shape, "components")
            k, p = H.shape
            names, status = checked_names(arrays, p), Status[facts["status"]]
            component_names = checked_names(arrays, k, "component_names")
            solution = Solution(
                np.empty((0, k)), H, facts["objective"], facts["kkt_residual"], facts["n_iter"], status,
                np.empty(0, TRACE_DTYPE),
            )  # fmt: skip
            attributes = solution_attributes(solution) | checked_curves(arrays) | {"n_features_in_": p}
            for name, prior in zip(("prior_W_", "prior_H_"), facts["priors"], strict=True):
                attributes[name] = None if prior is None else tuple(prior)
            for name in ("column_exposure", "background"):
                if (value := arrays.get(name)) is not None and value.dtype != float:
                    raise ValueError(f"{name} of {value.dtype}")
                attributes[f"{name}_"] = value
            mean_W = arrays.get("mean_W")
            if mean_W is not None:
                mean_W = check_factor(check_shape_dtype(mean_W, (k,), np.dtype(float), "mean_W"), (k,), "mean_W")
            attributes |= {"mean_W_": mean_W, "component_names_": component_names}
            effects, group_names = arrays.get("group_effects"), arrays.get("group_names")
            if (effects is None) != (group_names is None):
                raise ValueError("only one of group_effects and group_names")
            if effects is not None and group_names is not None:
                shape = len(group_names), p
                effects = check_factor(
                    check_shape_dtype(effects, shape, np.dtype(float), "group_effects"), shape, "group_effects"
                )
            attributes |= {"group_effects_": effects, "group_names_": group_names}
            if "online_schedule" in arrays:
                attributes["_online"] = OnlineEM.from_arrays(arrays, p, k)
        except READ_ERRORS as error:
            raise damaged_model(path, error) from None
        if names is not None:
            attributes["feature_names_in_"] = names
        model._set_fitted_attributes(attributes)
        return model


def solution_attributes(solution: Solution) -> dict[str, Any]:
    """The attributes of an estimator that come from a solution."""
    with np.errstate(over="ignore"):
        mean_W = solution.W.mean(axis=0, dtype=np.float64) if len(solution.W) else None
    return {
        "components_": solution.H,
        "n_components_": len(solution.H),
        "objective_": solution.objective,
        "reconstruction_err_": math.sqrt(2.0 * max(solution.objective, 0.0)),  # rounding may give D slightly below 0
        "kkt_residual_": solution.kkt_residual,
        "n_iter_": solution.n_iter,
        "status_": solution.status,
        "trace_": solution.trace,
        "restarts_": solution.restarts,
        "validation_": solution.validation,
        "mean_W_": mean_W,
        "group_effects_": solution.group_effects,
        "group_names_": None,
    }
