"""`HPF`: hierarchical Poisson factorization, the Bayesian counterpart of `PoissonNMF`."""

import copy
import dataclasses
import os
from typing import Any, Self

import numpy as np
from sklearn.utils.validation import check_is_fitted

from fastpmf.analysis.gibbs import Chain, EntryPrior, PosteriorDraws, SamplingOptions, draw_posterior
from fastpmf.analysis.rates import check_groups_given, check_no_groups
from fastpmf.core.counts import Counts
from fastpmf.core.factors import column_sums
from fastpmf.core.ranges import check_scale
from fastpmf.counts import MemoryCounts
from fastpmf.counts.labels import MatrixLabels, align, names_of
from fastpmf.counts.masked import hide_entries
from fastpmf.estimators._callbacks import with_callbacks
from fastpmf.estimators._persistence import (
    checked_curves,
    checked_names,
    damaged_model,
    read_model,
    to_json,
    with_seeded_prior,
    write_model,
)
from fastpmf.estimators.base import FactorModel
from fastpmf.fitting.fit import report_end
from fastpmf.fitting.hpf import MOVED, HPFFit, HPFOptions, infer_effects, infer_rows
from fastpmf.fitting.memory import check_memory_before_reading
from fastpmf.fitting.online import OnlineOptions, Schedule, variational_step
from fastpmf.fitting.options import FitData, KnownEffects
from fastpmf.fitting.problem import check_beside_groups, number_groups
from fastpmf.fitting.seeds import SeededPrior, component_names
from fastpmf.fitting.transform import blocks_with_data
from fastpmf.kernels.threads import threads
from fastpmf.model.gamma import GammaPosterior
from fastpmf.model.groups import Groups
from fastpmf.model.hierarchy import EntryShapes, GammaFactor, GammaPrior
from fastpmf.solvers import MeanField, Solution, Status
from fastpmf.solvers.base import Callback
from fastpmf.solvers.mean_field import PosteriorState
from fastpmf.utils.files import READ_ERRORS
from fastpmf.utils.progress import compilation_shown, stage
from fastpmf.utils.validation import check_number, check_option, check_shape_dtype, positions

_CERTAIN = 1e12  # shape and rate of a posterior in place of the number 1


class HPF(FactorModel):
    """Hierarchical Poisson factorization by mean-field inference.

    The model, with Gamma distributions given by shape and rate::

        x_ij ~ Poisson(sum_k W_ik H_kj)
        W_ik ~ Gamma(a_k, xi_i),    xi_i ~ Gamma(a_prime, a_prime / b_prime)      activity of a row
        H_kj ~ Gamma(c_k, eta_j),   eta_j ~ Gamma(c_prime, c_prime / d_prime)     popularity of a column

    With groups of rows the rates are e_g(i)j sum_k W_ik H_kj, with effects e_gj ~ Gamma(prior_groups, prior_groups).

    The posterior is approximated by independent Gamma distributions, by coordinate ascent on the evidence lower bound,
    which never falls. An iteration is a multiplicative one, with exp E[log W] and exp E[log H] as factors.

    Parameters
    ----------
    n_components : int
        Number of components, >= 1.
    a, c : float or array-like of shape (n_components,), default=None
        Shapes of the entries of W and of H, > 0, one for all components or one for each; below 1 they favour sparse
        factors. With `learn_prior` they are initial values. None is 0.3, and with `learn_prior`
        min(30, 0.6 times the mean count of a row) / n_components. c may also have one for each entry of H, of shape
        (n_components, n_features): a larger one acts like so many counts more that the component has of the feature.
        Or it is a `SeededPrior`, made by `seeded_prior` from lists of features, whose counts are added to 0.3; its own
        shape and rate have no effect. A random start is moved towards what shapes of single entries expect.
    a_prime, c_prime : float, default=0.3
        Shapes of the activities and of the popularities, > 0: with smaller shapes, rows, or columns, may differ more.
    b_prime, d_prime : float, default=1.0
        Prior means of the activities and of the popularities, > 0: the prior mean of an entry is about a / b_prime. The
        names are those of the paper and of hpfrec; in scHPF a and c are the same, ap and cp are a_prime and c_prime,
        and bp and dp are a_prime / b_prime and c_prime / d_prime. The fit hardly depends on these two.
    hierarchy : bool, default=True
        False: W_ik ~ Gamma(a_k, b_prime) and H_kj ~ Gamma(c_k, d_prime), plain Gamma-Poisson factorization.
    learn_prior : bool, default=False
        Whether to fit a_prime, b_prime, c_prime, d_prime, and shapes a_k and c_k of each component too, by maximising
        the bound (empirical Bayes). Components that the counts do not support end with small shapes and hardly any
        weight.
    prior_groups : float, default=10.0
        Shape and rate, > 0, of the prior of the effects of `groups`, as in `PoissonNMF`.
    inner_steps : int, default=1
        Updates of the posteriors of W in an iteration, for one of those of H; as in `PoissonNMF`.
    init : {"auto", "merge", "random", "nndsvd", "nndsvda", "nndsvdar"}, default="auto"
        Initial means, "auto" is "merge"; see the Notes. The others are as in `PoissonNMF`.
    n_init : int, default=1
        Number of starts; see `PoissonNMF`.
    max_iter : int, default=500
        Maximum number of iterations.
    tol : float, default=1e-4
        Converged if the latest updates moved at most this share of the counts: half the sum of rate times
        abs(mean - old mean). Unlike in `PoissonNMF`, no bound on what more iterations could gain is known. 1e-3 takes a
        third of the iterations, and on words and ratings predicted held-out counts worse by up to 0.015 nats each.
    max_time : float, default=None
        Seconds after which no iteration starts, without compilation; None for no limit.
    eval_every : int, default=10
        Iterations between evaluations of the bound for `trace_`, `callback`, `verbose` and `validation`. Each costs
        about as much as three iterations, or ten if rows hold few counts.
    forgetting_rate, delay : float, default=0.7 and 1.0
        For `partial_fit`: the step length of a mini-batch is (t + delay)^-forgetting_rate, where t is the number of
        earlier rows divided by that of the mini-batch; 0.5 < forgetting_rate <= 1 <= delay.
    total_samples : int, default=None
        Number of rows that `partial_fit` will have seen in the end; None: those seen so far.
    random_state : int, RandomState, Generator or None, default=None
        Equal seeds give bitwise equal results, for any number of threads.
    dtype : {None, "float32", "float64"}, default=None
        Dtype of the posteriors. None: as in `PoissonNMF`, float64 for float64 counts, and float32 for float32 counts
        and integers, if float32 represents them. Sums and the bound are always float64.
    n_threads : int or None, default=None
        Number of threads. None or -1: all that the process may use. The result does not depend on it.
    verbose : bool, default=False
        As in `PoissonNMF`.
    callback : callable, default=None
        Called as callback(record, W, H) with the posterior means; a true result stops the fit.

    Attributes
    ----------
    components_ : ndarray of shape (n_components, n_features)
        E[H].
    W_posterior_, H_posterior_ : GammaPosterior
        Posteriors of the fitted rows, (n_samples, n_components), and of H, (n_components, n_features): shapes, rates,
        means, geometric means, credible intervals, samples.
    activity_, popularity_ : GammaPosterior or None
        Posteriors of xi (n_samples,) and eta (n_features,); None without the hierarchy.
    prior_ : dict
        Final values of a, a_prime, b_prime, c, c_prime and d_prime; a and c are arrays of shape (n_components,) if
        each component has its own shape, and c is one of shape (n_components, n_features) if each entry has.
    component_names_ : ndarray of shape (n_components,) or None
        Names of the components, if `c` is a `SeededPrior`.
    group_effects_ : ndarray of shape (n_groups, n_features) or None
        Posterior means of the effects of the groups; None without `groups`.
    group_effects_posterior_ : GammaPosterior of shape (n_groups, n_features), or None
        Their posteriors; None without `groups`, or with a single group, whose effects are 1.
    group_names_ : ndarray of shape (n_groups,) or None
        Labels of the groups, sorted.
    mean_W_ : ndarray of shape (n_components,) or None
        Mean of E[W] over the fitted rows; None after `partial_fit` and `fastpmf.dask`.
    elbo_ : float
        Final evidence lower bound in nats: a lower bound on log p(X), which can be compared between models.
    objective_ : float
        Minus `elbo_`.
    residual_ : float
        Share of the counts that the latest updates moved, which is compared with `tol`.
    n_iter_ : int
        Number of iterations.
    status_ : Status
        Why the fit stopped, as a sentence; `status_.name` is a short identifier.
    trace_ : structured ndarray
        Fields n_iter, objective (minus the bound, nats), kkt_residual (here the share that `tol` is for) and seconds.
    restarts_ : ndarray of shape (n_init,)
        Last objective of each start, in nats.
    validation_ : structured ndarray or None
        Fields n_iter and log_likelihood of held-out counts, in nats per count.
    row_names_ : ndarray of shape (n_samples,), or None
        Names of the fitted rows, if X had string names.
    n_features_in_, feature_names_in_
        As in `PoissonNMF`.

    See Also
    --------
    PoissonNMF : maximum likelihood and posterior modes, faster to an optimum.

    Notes
    -----
    Mean-field posteriors are too narrow, since they treat entries that trade off against each other as independent. The
    intervals are useful to compare entries, not as probabilities; those of `sample_posterior` are calibrated.

    The bound has many local optima. With init="merge" a fit first searches for a good optimum of the likelihood, as
    `PoissonNMF` does with the same `init`: it fits more components, merges the most similar ones, and replaces some in
    rounds, 70 iterations in all, or 170 with at most ten components, without priors. Inference starts from the factors
    found, of which 97 % are replaced by their mean over the components, since it would hardly leave their exact zeros.
    These iterations are not part of `n_iter_`. They are at most half of `max_iter`, so that with `max_iter` below 50
    the start is that of "random", and take at most half of `max_time`. Ctrl-C before their end keeps nothing. On seven
    data sets at k = 20 the bound was higher by 0.6 to 2.4 % than from a random start and held-out counts were predicted
    better, by 0.003 to 0.07 nats each; a fit took 1.1 to 2.3 times as long.

    With scikit-learn 1.9 or later, `set_callbacks` accepts its callbacks; see `PoissonNMF`.

    References
    ----------
    P. Gopalan, J. M. Hofman and D. M. Blei, "Scalable recommendation with hierarchical Poisson factorization", UAI 2015
    (arXiv:1311.1704).

    Examples
    --------
    >>> import numpy as np
    >>> from fastpmf import HPF
    >>> X = np.array([[9, 0, 8, 0], [8, 1, 9, 0], [0, 7, 1, 8], [0, 9, 0, 7]])
    >>> model = HPF(n_components=2, random_state=0).fit(X)
    >>> model.W_posterior_.mean.shape, model.components_.shape
    ((4, 2), (2, 4))
    """

    def __init__(
        self,
        n_components: int,
        *,
        a: Any = None,
        a_prime: float = 0.3,
        b_prime: float = 1.0,
        c: Any = None,
        c_prime: float = 0.3,
        d_prime: float = 1.0,
        hierarchy: bool = True,
        learn_prior: bool = False,
        prior_groups: float = 10.0,
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
        self.a = a
        self.a_prime = a_prime
        self.b_prime = b_prime
        self.c = c
        self.c_prime = c_prime
        self.d_prime = d_prime
        self.hierarchy = hierarchy
        self.learn_prior = learn_prior
        self.prior_groups = prior_groups
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
        self, X: Any, y: None = None, *, groups: Any = None, mask: Any = None, validation: Any = None,
        checkpoint: Any = None, resume: Any = None,
    ) -> Self:  # fmt: skip
        """Infer the posteriors of W and H given X.

        Parameters
        ----------
        X : matrix of counts of shape (n_samples, n_features)
            As in `PoissonNMF.fit`.
        y : None
            Ignored.
        groups : array-like of shape (n_samples,), optional
            Labels, all strings or all numbers, of the group of each row, such as batches, donors or sites, whose
            effects on the features are inferred with W and H; as in `PoissonNMF.fit`. Not with `mask` or `validation`.
        mask : matrix of shape (n_samples, n_features), optional
            True or positive where an entry is not observed.
        validation : float or matrix of counts of shape (n_samples, n_features), optional
            As in `PoissonNMF.fit`. If a fraction f is held out, the rates of W are multiplied by 1 - f in the end, so
            that the means are those of all counts.
        checkpoint, resume
            As in `PoissonNMF.fit`.

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
        data = FitData(groups=groups, mask=mask, validation=validation)
        solution, attributes = self._fit(X, y, data, checkpoint, resume)
        self._set_fitted_attributes(attributes)
        report_end(solution, self.tol, MOVED)
        return self

    def fit_transform(
        self, X: Any, y: None = None, *, groups: Any = None, mask: Any = None, validation: Any = None,
        checkpoint: Any = None, resume: Any = None,
    ) -> np.ndarray:  # fmt: skip
        """Infer the posteriors and return E[W]; arguments and errors as in `fit`.

        Returns
        -------
        W : ndarray of shape (n_samples, n_components)
        """
        self.fit(X, y, groups=groups, mask=mask, validation=validation, checkpoint=checkpoint, resume=resume)
        return self.W_posterior_.mean

    @with_callbacks  # type: ignore[untyped-decorator]
    def _fit(self, X: Any, y: Any, data: FitData, checkpoint: Any, resume: Any) -> tuple[Solution, dict[str, Any]]:
        """The solution, and the attributes of the fitted estimator, which is not changed."""
        with threads(self.n_threads), compilation_shown(verbose=self.verbose):
            options = HPFOptions.of(self)
            self._check_memory(X)
            counts, aligned, features = self._read_training_data(X, data)
            options = options.aligned(MatrixLabels.of(X))
            fit = HPFFit(counts, options, aligned, checkpoint=checkpoint, resume=resume)
            known = features | {"row_names_": names_of(X, 0)}
            names = {"component_names_": component_names(self.c)}

            def attributes(solution: Solution, state: PosteriorState) -> dict[str, Any]:
                return known | _solution_attributes(solution, copy.deepcopy(state), fit) | names

            tasks = self._tasks(attributes, X, y, data)
            solution, state = fit.run(tasks)
            if tasks is not None:
                tasks.end(solution, state)
        return solution, known | _solution_attributes(solution, state, fit) | names

    def _check_memory(self, X: Any) -> None:
        """Raise an error if the size of X is known and its fit would exceed the memory limit."""
        options = HPFOptions.of(self)
        solver, search = MeanField(priors=options.priors()), options.make_search()
        check_memory_before_reading(X, self.n_components, self.dtype, solver, n_init=self.n_init, search=search)

    def partial_fit(self, X: Any, y: None = None) -> Self:
        """Take one step of stochastic variational inference on a mini-batch of rows.

        The posteriors of its rows are inferred given that of H; then the parameters of H become (1 - rho) old + rho
        (what they would be if all `total_samples` rows were like these), rho = (t + delay)^-forgetting_rate with t the
        number of earlier rows divided by that of the mini-batch. This is a step along the natural gradient of the
        bound. One pass over all mini-batches is an epoch. The posterior of H starts from a fit to the first mini-batch.
        Posteriors of rows are not stored: use `posterior`. After `fit`, partial_fit starts again from the beginning; a
        saved and loaded model continues.

        A row without counts is not skipped, since its zeros were observed: it lowers the rates of all components. The
        first mini-batch must have a positive count. A later mini-batch without rows changes nothing.

        Parameters
        ----------
        X : matrix of counts of shape (n_batch, n_features)
        y : None
            Ignored.

        Returns
        -------
        self

        Raises
        ------
        TypeError, ValueError
            If an argument has an invalid type or value.
        """
        schedule = getattr(self, "_schedule", None)
        with threads(self.n_threads), compilation_shown(verbose=self.verbose):
            if schedule is not None and self._is_empty(X):
                return self
            counts, features = self._read_batch(X, first=schedule is None)
            if schedule is None:
                k, columns, priors = self.n_components, None, HPFOptions.of(self).priors()
            else:
                k, columns, priors = len(self.components_), self._columns, self._priors
            after, columns = variational_step(
                counts, columns, priors, k, schedule or Schedule(), OnlineOptions.of(self)
            )
        attributes = {"n_iter_": after.steps, "status_": Status.ONLINE, "_schedule": after, "mean_W_": None}
        attributes |= column_attributes(columns, priors)
        if schedule is None:
            self._set_fitted_attributes(attributes | features)
        else:
            self.__dict__ = vars(self) | attributes
        return self

    def posterior(self, X: Any, *, groups: Any = None, new_groups: str = "ignore", mask: Any = None) -> GammaPosterior:
        """Posterior of W for rows of counts, given that of H.

        The posterior of each row is updated until an update moves at most a share `tol` of its counts. The result for a
        row does not depend on which other rows are passed with it (bitwise).

        Parameters
        ----------
        X : matrix of counts of shape (n_samples, n_features)
        groups : array-like of shape (n_samples,), optional
            Labels of the groups of these rows; needed if the model was fitted with groups. Their effects are fixed at
            the posterior means.
        new_groups : {"ignore", "estimate"}, default="ignore"
            What to do with groups that were not fitted. "ignore": their effects are 1, with a warning. "estimate":
            their effects are inferred from all given rows of a group, as by `with_new_groups`, and then forgotten.
        mask : matrix of shape (n_samples, n_features), optional
            True or positive where an entry is not observed; X may hold NaN there.

        Returns
        -------
        GammaPosterior of shape (n_samples, n_components)
        """
        check_option(new_groups, ("ignore", "estimate"), "new_groups")
        counts, data = self._read_rows(X, groups, mask)
        model = self._with_groups_of(counts, data, self._estimated_effects) if new_groups == "estimate" else self
        return self._infer_rows(counts, model._with_known_effects(counts, data))

    def transform(self, X: Any, *, groups: Any = None, new_groups: str = "ignore", mask: Any = None) -> np.ndarray:
        """E[W] for rows of counts, given the posterior of H; see `posterior`.

        Parameters
        ----------
        X : matrix of counts of shape (n_samples, n_features)
        groups, new_groups, mask
            As in `posterior`.

        Returns
        -------
        W : ndarray of shape (n_samples, n_components)
        """
        return self.posterior(X, groups=groups, new_groups=new_groups, mask=mask).mean

    def with_new_groups(self, X: Any, groups: Any) -> Self:
        """A copy of the model with the effects of further groups, inferred from their rows with that of H fixed.

        All methods of the copy know the groups: `transform`, `score`, `rate_factors`, `report` and others. Posteriors
        of W of the rows and of the effects are updated in turn until they converge to `tol`.

        Parameters
        ----------
        X : matrix of counts of shape (n_samples, n_features)
            Rows of the new groups, in memory. Rows of groups that the model has are not used.
        groups : array-like of shape (n_samples,)
            Labels of the groups of the rows. The effects of a group depend on all of its rows.

        Returns
        -------
        HPF
            `group_names_`, `group_effects_` and `group_effects_posterior_` have the new groups after the others,
            sorted; the model itself if it has all groups.

        Raises
        ------
        TypeError, ValueError
            If an argument has an invalid type or value, or the model was fitted without groups.

        See Also
        --------
        transform : W of new rows.

        Examples
        --------
        >>> from fastpmf import HPF
        >>> X, groups = [[4, 0, 2], [0, 3, 0], [2, 0, 1], [1, 2, 3]], ["a", "a", "b", "b"]
        >>> model = HPF(2, random_state=0).fit(X, groups=groups)
        >>> model.with_new_groups([[3, 1, 0], [2, 5, 1]], ["c", "c"]).group_names_
        array(['a', 'b', 'c'], dtype='<U1')
        """
        return self._with_groups_of(*self._read_rows(X, groups, None), self._estimated_effects)

    def score(
        self, X: Any, y: None = None, *, groups: Any = None, mask: Any = None, sample_weight: Any = None
    ) -> float:
        """Poisson log-likelihood per count of X at the posterior means, W's inferred from X.

        Parameters
        ----------
        X : matrix of counts of shape (n_samples, n_features)
        y : None
            Ignored.
        groups, mask
            As in `posterior`; effects of new groups are 1.
        sample_weight : float or array-like of shape (n_samples,), optional
            Weights of the rows in the score.

        Returns
        -------
        float
            In nats per count, higher is better.
        """
        counts, data = self._read_rows(X, groups, mask)
        data = self._with_known_effects(counts, data)
        weight = align(sample_weight, "sample_weight", rows=self._labels(X).rows)
        with compilation_shown(verbose=self.verbose):  # one message for both steps
            W = self._infer_rows(counts, data).mean
            return self._score(counts, W, dataclasses.replace(data, sample_weight=weight))

    def sample_posterior(
        self, X: Any, n_draws: int = 100, *, burn_in: int = 100, thin: int = 10, keep_W: bool = True, mask: Any = None,
        random_state: Any = None,
    ) -> PosteriorDraws:  # fmt: skip
        """Draws of W and H from their posterior distribution, by Gibbs sampling.

        Mean-field posteriors treat entries that trade off against each other as independent, and are too narrow. These
        draws are from the posterior itself, so that a 90 % interval of an entry has a probability of 90 %, given the
        model and its priors, and that the chain is long enough.

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
            If an argument has an invalid type or value.
        MemoryError
            If the draws exceed this process's limit.
        DrawsInterrupted
            On Ctrl-C after at least two draws; a KeyboardInterrupt with those so far as `draws`.

        See Also
        --------
        PosteriorDraws : the result.

        Notes
        -----
        A sweep draws the component of each unit of each count, then W, H and the rates of their priors given these. It
        costs n_components operations for each nonzero and each unit of a count, and memory for a copy of H for each
        thread. The chain starts at the fitted model and stays near this mode, in which components keep their numbers;
        other modes, which fits from other starts would find, are not visited.

        References
        ----------
        A. T. Cemgil, "Bayesian inference for nonnegative matrix factorisation models", Computational Intelligence and
        Neuroscience (2009), section 3.3.

        Examples
        --------
        >>> from fastpmf import HPF
        >>> from fastpmf.datasets import make_poisson_counts
        >>> X = make_poisson_counts(100, 50, 2, nnz=1_000, random_state=0).X
        >>> model = HPF(2, random_state=0).fit(X)
        >>> low, high = model.sample_posterior(X, 50, random_state=0).feature_shares.interval(0.9)
        >>> low.shape
        (2, 50)
        """
        check_is_fitted(self)
        check_no_groups(self, "the model", "sample_posterior has no groups")
        counts, data = self._read_new_data(X, FitData(mask=mask), streamed=True)
        k, dtype, options = (
            len(self.components_),
            self.components_.dtype,
            SamplingOptions(n_draws, burn_in, thin, keep_W),
        )
        options.check(counts, k, dtype)
        with threads(self.n_threads), compilation_shown(verbose=self.verbose):
            W = self._infer_rows(counts, data).mean
            priors = (
                EntryPrior.of(self._priors[0], k, len(W)),
                EntryPrior.of(self._priors[1], k, self.components_.shape[1]),
            )
            chain = Chain.start(counts, W, self.components_, priors, mask=mask, random_state=random_state)
            return draw_posterior(chain, options, dtype, self._names(X), verbose=self.verbose)

    def predictive_mean(self, rows: Any, columns: Any) -> np.ndarray:
        """Posterior predictive means E[W_i . H_j] of entries of the fitted rows, times E[e_gj] with groups.

        Parameters
        ----------
        rows, columns : int or array-like of int
            Numbers of rows and columns, from 0, or their names if X had names. They are broadcast against each other.

        Returns
        -------
        mean : ndarray of the broadcast shape, float64

        Raises
        ------
        TypeError, ValueError
            If `rows` or `columns` do not hold integers or known names, can't be broadcast, or a number is negative or
            too large.
        """
        W, H, effect = self._entry_posteriors(rows, columns)
        mean = (W.mean.astype(np.float64) * H.mean).sum(axis=-1)
        return mean if effect is None else mean * effect.mean

    def predictive_sample(
        self, rows: Any, columns: Any, n_samples: int = 100, *, random_state: Any = None
    ) -> np.ndarray:
        """Draws of counts of entries of the fitted rows, from the posterior predictive distribution.

        Each draw is Poisson(W_i . H_j) with W_i and H_j drawn from their posteriors, independently for each entry. With
        groups its rate is multiplied by a draw of the effect.

        Parameters
        ----------
        rows, columns : int or array-like of int
            As in `predictive_mean`, with the same errors.
        n_samples : int, default=100
        random_state : int, RandomState, Generator or None, default=None

        Returns
        -------
        counts : ndarray of int64, n_samples draws of the broadcast shape
        """
        rng = np.random.default_rng(random_state) if not hasattr(random_state, "poisson") else random_state
        W, H, effect = self._entry_posteriors(rows, columns)
        size = (n_samples, *W.shape.shape)
        rate = (W.sample(size, rng) * H.sample(size, rng)).sum(axis=-1)
        return rng.poisson(rate if effect is None else rate * effect.sample(size[:-1], rng))

    def predictive_log_likelihood(self, X: Any, *, exposure: float = 1.0) -> float:
        """Log-likelihood per count of other counts of the fitted rows, at the posterior predictive means.

        Parameters
        ----------
        X : matrix of counts of shape (n_samples, n_features)
            Held-out counts, for example of `thin_counts`. If both X and the fitted counts have row names, rows are
            matched by them, and X may have only some of the fitted rows. Their groups are the fitted ones.
        exposure : float, default=1.0
            Ratio of their rates to those of the fitted counts: f / (1 - f) after thinning by f.

        Returns
        -------
        float
            In nats per count.
        """
        check_is_fitted(self, "W_posterior_")
        counts, _ = self._read_new_data(X)
        check_number(exposure, "exposure", positive=True)
        check_scale(np.array([exposure]), np.dtype(np.float64), "exposure")
        W, group = self.W_posterior_.mean, self._group_of_row
        names, fitted = names_of(X, 0), getattr(self, "row_names_", None)
        if names is not None and fitted is not None and not np.array_equal(names, fitted):
            rows = positions(names.tolist(), len(W), "row names of X", fitted)
            W, group = W[rows], None if group is None else group[rows]
        if counts.shape[0] != len(W):
            raise ValueError(f"X must have the {len(W)} fitted rows, got {counts.shape[0]}")
        groups = None if group is None else KnownEffects(group, self.group_effects_.T)
        return self._score(counts, W, FitData(row_exposure=np.full(counts.shape[0], exposure), groups=groups))

    def rate_factors(self, W: Any, *, groups: Any = None) -> tuple[np.ndarray, np.ndarray]:
        """Two factors whose product has the rates of the model, with the posterior means of H and of the effects.

        Functions of W and H, such as `fastpmf.kl_divergence`, `fastpmf.recommend` and the plots, apply to them.

        Parameters
        ----------
        W : array-like of shape (n_samples, n_components)
            Result of `fit_transform` or `transform`.
        groups : array-like of shape (n_samples,), optional
            Labels of the groups of these rows; needed if the model was fitted with groups. Effects of groups that were
            not fitted are 1, with a warning.

        Returns
        -------
        W : ndarray of shape (n_samples, m)
            m is n_components, times the number of groups in `groups`.
        H : ndarray of shape (m, n_features)

        Raises
        ------
        TypeError, ValueError
            If an argument has an invalid type, shape or value.

        Examples
        --------
        >>> from fastpmf import HPF
        >>> X, groups = [[4, 0, 2], [0, 3, 0], [2, 0, 1], [1, 2, 3]], ["a", "a", "b", "b"]
        >>> model = HPF(2, random_state=0)
        >>> factors = model.rate_factors(model.fit_transform(X, groups=groups), groups=groups)
        >>> [A.shape for A in factors]
        [(4, 4), (4, 3)]
        """
        return self._rate_factors(W, None, groups)

    def _read_rows(self, X: Any, groups: Any, mask: Any) -> tuple[Counts, FitData]:
        """New rows, and the data that belong to them."""
        counts, data = self._read_new_data(X, FitData(groups=groups, mask=mask), streamed=True)
        check_groups_given(self, groups)
        check_beside_groups(data)
        return counts, data

    def _estimated_effects(
        self, counts: MemoryCounts, data: FitData, rows: np.ndarray
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Effects of the groups of these rows, (n_new, n_features), and their posterior after that of the others."""
        names, group = number_groups(data.groups, len(rows))
        with threads(self.n_threads):
            groups = Groups.of(counts, group, np.ones((counts.shape[1], len(names))), self.prior_groups)
            effects = groups.start.T
            if counts.total > 0:
                effects = infer_effects(
                    counts, self._columns, self._priors[0], groups, max_iter=self.max_iter, tol=self.tol
                )
        known, group_of_row = self.group_effects_posterior_, self._group_of_row
        if known is None:  # of a single group, whose effects are 1
            known = GammaPosterior(*np.full((2, *self.group_effects_.shape), _CERTAIN))
            group_of_row = np.zeros(len(self.W_posterior_.shape), np.int64)
        shape = (groups.counts + groups.strength).T
        posterior = GammaPosterior(*map(np.concatenate, ((known.shape, shape), (known.rate, shape / effects))))
        return effects, {"group_effects_posterior_": posterior, "_group_of_row": group_of_row}

    def _infer_rows(self, counts: Counts, data: FitData) -> GammaPosterior:
        with threads(self.n_threads), compilation_shown(verbose=self.verbose), stage("computing the weights of rows"):
            parts, rows = [], []
            for selected, block, block_data in blocks_with_data(counts, data):
                part = infer_rows(
                    hide_entries(block, block_data.mask), self._columns, self._priors[0], effects=block_data.groups,
                    max_iter=self.max_iter, tol=self.tol,
                )  # fmt: skip
                parts.append(part)
                rows.append(np.arange(*selected.indices(counts.shape[0])))
            factor = parts[0]
            if len(parts) > 1:
                order, weight = np.concatenate(rows), parts[0].weight
                if data.groups is not None:  # each row has its own
                    weight = np.concatenate([part.weight for part in parts])[np.argsort(order)]
                factor = GammaFactor.joined(parts, order, weight)
        return GammaPosterior.of_entries(factor)

    def _entry_posteriors(
        self, rows: Any, columns: Any
    ) -> tuple[GammaPosterior, GammaPosterior, GammaPosterior | None]:
        """Posteriors of W_i, of H_j and of the effect for the given entries (i, j); no effect without groups."""
        check_is_fitted(self, "W_posterior_")
        rows = positions(rows, len(self.W_posterior_.shape), "rows", getattr(self, "row_names_", None))
        names = getattr(self, "feature_names_in_", None)
        columns = positions(columns, self.components_.shape[1], "columns", names)
        try:
            rows, columns = np.broadcast_arrays(rows, columns)
        except ValueError:
            raise ValueError(
                f"rows and columns must have shapes that can be broadcast, got {rows.shape} and {columns.shape}"
            ) from None
        group, effects = self._group_of_row, self.group_effects_posterior_
        effect = None if group is None or effects is None else effects[group[rows], columns]
        return self.W_posterior_[rows], self.H_posterior_.transposed()[columns], effect

    def _with_features(self, columns: np.ndarray) -> Self:
        model = super()._with_features(columns)
        factor = self._columns.select_rows(columns)
        model._columns = dataclasses.replace(factor, sums=column_sums(factor.mean))
        return model

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the fitted model with all posteriors to one `.npz` file; an existing file is replaced whole.

        A `random_state` or `callback` that is an object is not saved; it is None in the loaded model.
        """
        check_is_fitted(self)
        columns, schedule = self._columns, getattr(self, "_schedule", None)
        arrays = {field.name: getattr(columns, field.name) for field in dataclasses.fields(columns)}
        del arrays["activity_shape"], arrays["n_components"]
        if np.ndim(columns.activity_shape):
            arrays |= {"column_activity_shape": columns.activity_shape, "column_shapes": self.prior_["c"]}
        if self.component_names_ is not None:
            arrays["component_names"] = self.component_names_.astype(str)
        facts: dict[str, Any] = {
            "activity_shape": None if np.ndim(columns.activity_shape) else to_json(columns.activity_shape),
            "priors": [prior.to_numbers() for prior in self._priors],
            "n_components": len(self.components_),
            "n_iter": self.n_iter_,
            "status": self.status_.name,
            "schedule": None if schedule is None else list(schedule),
        }
        if hasattr(self, "W_posterior_"):  # not after partial_fit
            arrays |= {"W_shape": self.W_posterior_.shape, "W_rate": self.W_posterior_.rate}
            arrays |= {"trace": self.trace_, "restarts": self.restarts_}
            if self.group_names_ is not None:
                arrays["group_names"] = self.group_names_
            if self.group_effects_posterior_ is not None:
                effects = self.group_effects_posterior_
                arrays |= {"group_effects_shape": effects.shape, "group_effects_rate": effects.rate}
                arrays["group_of_row"] = self._group_of_row
            if self.activity_ is not None:
                arrays |= {"row_activity_shape": self.activity_.shape, "row_activity_rate": self.activity_.rate}
            if self.validation_ is not None:
                arrays["validation"] = self.validation_
            if self.row_names_ is not None:
                arrays["row_names"] = self.row_names_.astype(str)
            facts |= {"elbo": to_json(self.elbo_), "residual": to_json(self.residual_)}
        if hasattr(self, "feature_names_in_"):
            arrays["feature_names_in"] = self.feature_names_in_.astype(str)
        parameters = self.get_params(deep=False)
        if isinstance(prior := self.c, SeededPrior):
            parameters["c"] = prior.shape, prior.rate
            arrays["prior_components"] = prior.component_names.astype(str)
            arrays["prior_features"] = prior.feature_names.astype(str)
        write_model(path, type(self).__name__, parameters, arrays, facts)

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
            parameters = with_seeded_prior(parameters, arrays, "c")
            model = cls(**parameters)
            k = int(facts["n_components"])  # the parameter may have been changed since the fit
            rows, columns = (GammaPrior.from_numbers(prior, k) for prior in facts["priors"])
            if rows.hierarchical is not columns.hierarchical:
                raise ValueError("priors of which one has a hierarchy")
            activity_shape = facts["activity_shape"]
            if activity_shape is None:
                activity_shape = arrays["column_activity_shape"]
            factor = GammaFactor.from_arrays(arrays | {"activity_shape": activity_shape}, k)
            p = len(factor.mean)
            if "column_shapes" in arrays:
                shapes = check_shape_dtype(arrays["column_shapes"], (k, p), np.dtype(float), "column_shapes")
                extra = (shapes - columns.shapes(k)[:, None]).T
                columns = dataclasses.replace(columns, entries=EntryShapes.of(extra))
            attributes = column_attributes(factor, (rows, columns))
            attributes |= {"n_iter_": int(facts["n_iter"]), "status_": Status[facts["status"]], "n_features_in_": p}
            attributes |= {"mean_W_": None, "component_names_": checked_names(arrays, k, "component_names")}
            if facts["schedule"] is not None:
                attributes["_schedule"] = Schedule.from_numbers(facts["schedule"])
            if (names := checked_names(arrays, p)) is not None:
                attributes["feature_names_in_"] = names
            if "W_shape" in arrays:
                W = _checked_posterior(arrays["W_shape"], arrays["W_rate"], (-1, k))
                n, activity = len(W.shape), None
                if rows.hierarchical:
                    activity = _checked_posterior(arrays["row_activity_shape"], arrays["row_activity_rate"], (n,))
                elbo = float(facts["elbo"])
                attributes |= {
                    "W_posterior_": W, "activity_": activity, "mean_W_": W.mean.mean(axis=0, dtype=np.float64),
                    "elbo_": elbo, "objective_": -elbo, "residual_": float(facts["residual"]),
                    "row_names_": checked_names(arrays, n, "row_names"), **checked_curves(arrays),
                    **_loaded_groups(arrays, n, p),
                }  # fmt: skip
        except READ_ERRORS as error:
            raise damaged_model(path, error) from None
        model._set_fitted_attributes(attributes)
        return model


def column_attributes(columns: GammaFactor, priors: tuple[GammaPrior, GammaPrior]) -> dict[str, Any]:
    """The attributes of an estimator that come from the posterior of H and the priors."""
    posterior, prior_ = GammaPosterior.of_entries(columns).transposed(), dict[str, Any]()
    names = ("a", "a_prime", "b_prime"), ("c", "c_prime", "d_prime")
    for prior, (shape, *others) in zip(priors, names, strict=True):
        prior_[shape] = np.array(prior.shape) if isinstance(prior.shape, tuple) else prior.shape
        if prior.entries is not None:
            prior_[shape] = prior.entry_shapes(columns.n_components, len(columns.mean)).T.copy()
        prior_ |= zip(others, (prior.activity_shape, prior.activity_mean), strict=True)
    return {
        "components_": posterior.mean,
        "H_posterior_": posterior,
        "popularity_": GammaPosterior.of_rows(columns) if priors[1].hierarchical else None,
        "prior_": prior_,
        "component_names_": None,
        "group_effects_": None,
        "group_effects_posterior_": None,
        "group_names_": None,
        "_group_of_row": None,
        "_columns": columns,
        "_priors": priors,
    }


def _solution_attributes(solution: Solution, state: PosteriorState, fit: HPFFit) -> dict[str, Any]:
    """The attributes of an estimator after a fit."""
    (rows, columns), priors, share, groups = state.posteriors, state.priors, fit.share, fit.problem.groups
    W = GammaPosterior.of_entries(rows, share)
    found = column_attributes(columns, (priors[0], priors[1])) | {
        "W_posterior_": W,
        "activity_": GammaPosterior.of_rows(rows, share) if priors[0].hierarchical else None,
        "mean_W_": W.mean.mean(axis=0, dtype=np.float64),
        **run_attributes(solution),
    }
    if groups is not None and fit.group_names is not None:
        shape = (groups.counts + groups.strength).T
        found |= _group_attributes(fit.group_names, len(columns.mean), GammaPosterior(shape, shape / state.effects.T))
        found["_group_of_row"] = groups.group
    elif fit.group_names is not None:
        found |= _group_attributes(fit.group_names, len(columns.mean), None)
    return found


def _group_attributes(names: np.ndarray, p: int, posterior: GammaPosterior | None) -> dict[str, Any]:
    """The attributes of an estimator with the effects of groups; without a posterior they are 1."""
    effects = np.ones((len(names), p)) if posterior is None else posterior.mean
    return {"group_effects_": effects, "group_effects_posterior_": posterior, "group_names_": names}


def _loaded_groups(arrays: dict[str, np.ndarray], n: int, p: int) -> dict[str, Any]:
    """The attributes with groups, from the arrays of a file; a ValueError if they do not belong together."""
    names = arrays.get("group_names")
    if names is None:
        if "group_effects_shape" in arrays:
            raise ValueError("effects of groups without names")
        return {}
    if "group_effects_shape" not in arrays:
        return _group_attributes(names, p, None)
    posterior = _checked_posterior(arrays["group_effects_shape"], arrays["group_effects_rate"], (len(names), p))
    group = check_shape_dtype(arrays["group_of_row"], (n,), np.dtype(np.int64), "group_of_row")
    if not ((group >= 0) & (group < len(names))).all():
        raise ValueError("a row of an unknown group")
    return _group_attributes(names, p, posterior) | {"_group_of_row": group}


def run_attributes(solution: Solution) -> dict[str, Any]:
    """The attributes of an estimator that say how its fit went."""
    return {
        "elbo_": -solution.objective,
        "objective_": solution.objective,
        "residual_": solution.kkt_residual,
        "n_iter_": solution.n_iter,
        "status_": solution.status,
        "trace_": solution.trace,
        "restarts_": solution.restarts,
        "validation_": solution.validation,
    }


def _checked_posterior(shape: np.ndarray, rate: np.ndarray, expected: tuple[int, ...]) -> GammaPosterior:
    if shape.shape != rate.shape or shape.ndim != len(expected) or shape.shape[-1] != expected[-1]:
        raise ValueError(f"a posterior of shapes {shape.shape} and {rate.shape}")
    if not all(A.dtype.kind == "f" and np.isfinite(A).all() and (A > 0).all() for A in (shape, rate)):
        raise ValueError("a posterior that is not finite and > 0")
    return GammaPosterior(shape, rate)
