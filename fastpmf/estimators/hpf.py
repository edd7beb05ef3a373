"""`HPF`: hierarchical Poisson factorization, the Bayesian reading of the same model, in scikit-learn's manners."""

import copy
from typing import Any, Self

import numpy as np

from fastpmf.counts.labels import MatrixLabels, names_of
from fastpmf.estimators._applied_hpf import AppliedHPF
from fastpmf.estimators._callbacks import stopped_at
from fastpmf.fitting.fit import tell_end
from fastpmf.fitting.hpf import DEFAULT_SHAPE, MOVED, Found, check_priors, infer
from fastpmf.fitting.memory import check_declared
from fastpmf.fitting.problem import Known, align_beside
from fastpmf.kernels.threads import threads
from fastpmf.model.gamma import GammaPosterior
from fastpmf.model.hierarchy import GammaPrior
from fastpmf.solvers.base import Callback
from fastpmf.solvers.mean_field import MeanField


class HPF(AppliedHPF):
    """Hierarchical Poisson factorization by mean-field inference.

    The model, Gamma distributions by shape and rate::

        x_ij ~ Poisson(sum_k W_ik H_kj)
        W_ik ~ Gamma(a_k, xi_i),    xi_i ~ Gamma(a_prime, a_prime / b_prime)      a row's activity
        H_kj ~ Gamma(c_k, eta_j),   eta_j ~ Gamma(c_prime, c_prime / d_prime)     a column's popularity

    Its posterior is approached by independent Gamma distributions, by coordinate ascent on the evidence lower bound,
    which no half-step lowers. An iteration is a multiplicative one with exp E[log W] and exp E[log H] for factors.

    Parameters
    ----------
    n_components : int
        Number of components, >= 1.
    a, c : float or array-like of shape (n_components,), default=None
        Shapes of the entries of W and of H, > 0, one for all components or one for each; below 1 they favour sparse
        factors. With `learn_prior` they are initial values. None is 0.3, and with `learn_prior`
        min(30, 0.6 times the mean count of a row) / n_components.
    a_prime, c_prime : float, default=0.3
        Shapes of the activities and of the popularities, > 0: the smaller, the more rows, or columns, may differ.
    b_prime, d_prime : float, default=1.0
        Their prior means, > 0: an entry's prior mean is about a / b_prime. The paper's names, as hpfrec has them; in
        scHPF a, c are the same, ap and cp are a_prime and c_prime, and bp and dp are a_prime / b_prime and
        c_prime / d_prime. The fit hardly depends on these two, which data overrule.
    hierarchy : bool, default=True
        False: W_ik ~ Gamma(a_k, b_prime) and H_kj ~ Gamma(c_k, d_prime), plain Gamma-Poisson factorization.
    learn_prior : bool, default=False
        Fit a_prime, b_prime, c_prime, d_prime and a shape a_k and c_k for each component too, by maximising the bound
        (empirical Bayes). Components that the counts do not support end with small shapes and nearly no weight.
    inner_steps : int, default=1
        Steps on W's posteriors in an iteration, for one on H's; as in `PoissonNMF`.
    init : {"auto", "random", "nndsvd", "nndsvda", "nndsvdar"}, default="auto"
        Means to start from; see `PoissonNMF`.
    n_init : int, default=1
        Starts to try side by side; see `PoissonNMF`.
    max_iter : int, default=500
    tol : float, default=1e-4
        Converged when the latest half-steps moved no more than this share of the counts: half the sum of rate times
        abs(mean - old mean). No bound on what more iterations could gain is known, unlike in `PoissonNMF`. 1e-3 takes a
        third of the iterations, and on words and ratings predicted held-out counts worse by up to 0.015 nats each.
    max_time : float, default=None
        Seconds after which no iteration begins, not counting compilation; None for no limit.
    eval_every : int, default=10
        Iterations between evaluations of the bound for `trace_`, `callback`, `verbose` and `validation`; each costs
        about as much as three iterations, or ten where rows hold few counts: raise it where it isn't looked at.
    forgetting_rate, delay : float, default=0.7 and 1.0
        Of `partial_fit`: a mini-batch goes (t + delay)^-forgetting_rate of the way, t the rows before it in units of
        its own; 0.5 < forgetting_rate <= 1 <= delay.
    total_samples : int, default=None
        Rows that `partial_fit` will have seen in the end; None: those seen so far.
    random_state : int, RandomState, Generator or None, default=None
        Equal seeds give equal bits, for any number of threads.
    dtype : {None, "float32", "float64"}, default=None
        Of the posteriors. None: float32 for float32 counts that are at least 1e-14 and sum to at most 1e30, else
        float64. Sums and the bound are float64 always.
    n_threads : int or None, default=None
        None or -1: as many as the process may use. The result does not depend on it.
    verbose : bool, default=False
        As in `PoissonNMF`.
    callback : callable, default=None
        Called as callback(record, W, H) with the posterior means; a true answer stops the fit.

    Attributes
    ----------
    components_ : ndarray of shape (n_components, n_features)
        E[H].
    W_posterior_, H_posterior_ : GammaPosterior
        Of the fitted rows (n_samples, n_components) and of H (n_components, n_features): shapes, rates, means,
        geometric means, credible intervals, samples.
    activity_, popularity_ : GammaPosterior or None
        Of xi (n_samples,) and eta (n_features,); None without the hierarchy.
    prior_ : dict
        Final values of a, a_prime, b_prime, c, c_prime and d_prime; a and c are arrays of shape (n_components,) if
        each component has its own shape.
    elbo_ : float
        Evidence lower bound at the end, in nats: a lower bound on log p(X), which models may be compared by.
    objective_ : float
        Minus `elbo_`.
    residual_ : float
        What `tol` is compared with.
    n_iter_ : int
    status_ : Status
        Why the fit stopped, as a sentence; `status_.name` is a short identifier.
    trace_ : structured ndarray
        Fields n_iter, objective (nats; minus the bound), kkt_residual (here the share that `tol` is for) and seconds.
    restarts_ : ndarray of shape (n_init,)
    validation_ : structured ndarray or None
        Fields n_iter and log_likelihood of held-out counts, per count, in nats.
    row_names_ : ndarray of shape (n_samples,), or None
        Names of the fitted rows if X had string names.
    n_features_in_, feature_names_in_
        As in `PoissonNMF`.

    See Also
    --------
    PoissonNMF : maximum likelihood and posterior modes, faster to an optimum.

    Notes
    -----
    Mean-field posteriors are too narrow: they take entries that trade off against each other for independent. The
    intervals are of use to compare entries, not as probabilities; the README says by how much.

    With scikit-learn 1.9 or later, `set_callbacks` takes its callbacks; see `PoissonNMF`.

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
        self, X: Any, y: None = None, *, mask: Any = None, validation: Any = None, checkpoint: Any = None,
        resume: Any = None,
    ) -> Self:  # fmt: skip
        """Infer the posteriors of W and H given X.

        Parameters
        ----------
        X : matrix of counts of shape (n_samples, n_features)
            As in `PoissonNMF.fit`.
        y : None
            Ignored.
        mask : matrix of shape (n_samples, n_features), optional
            True or positive where an entry is not observed.
        validation : float or matrix of counts of shape (n_samples, n_features), optional
            As in `PoissonNMF.fit`. Where a fraction f is held out, W's rates are times 1 - f in the end, so that means
            are those of all counts.
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
            What the fit needs, see `fastpmf.plan`, this process may not have; the sentence says what would fit.
        FitInterrupted
            On Ctrl-C once an iteration is done, a KeyboardInterrupt; the estimator then holds what was fitted so far.
            Before that a plain KeyboardInterrupt, and it is as it was.
        """
        with threads(self.n_threads):
            self._check_memory(X)
            known = Known(mask=mask)
            beside, _, _, validation = align_beside(MatrixLabels.of(X), known, validation=validation)
            counts, seen = self._enter(X, beside.mask)
            latest: list[Any] = [None, 1.0]  # posteriors, and what share of the counts they are of

            def tell(*at: Any) -> None:
                latest[:] = at

            def stopped(*at: Any) -> Found:
                return Found(stopped_at(*at), copy.deepcopy(latest[0]), latest[1])

            def solve(callback: Callback | None) -> Found:
                return infer(
                    counts, self.n_components, self._priors, learn=self.learn_prior, mask=beside.mask,
                    validation=validation, inner_steps=self.inner_steps, init=self.init, n_init=self.n_init,
                    max_iter=self.max_iter, tol=self.tol, checkpoint=checkpoint, resume=resume,
                    max_time=self.max_time, eval_every=self.eval_every, random_state=self.random_state,
                    dtype=self.dtype, verbose=self.verbose, callback=callback, tell=tell,
                )  # fmt: skip

            def keep(model: HPF, found: Found) -> None:
                model._adopt(seen)
                model._keep(found)
                model.row_names_ = names_of(X, 0)

            found = self._observed(solve, keep, stopped, X, y, known)
        self._become(keep, found)
        tell_end(found.solution, self.tol, MOVED)
        return self

    def fit_transform(
        self, X: Any, y: None = None, *, mask: Any = None, validation: Any = None, checkpoint: Any = None,
        resume: Any = None,
    ) -> np.ndarray:  # fmt: skip
        """Infer the posteriors and return E[W]; arguments and errors as in `fit`.

        Returns
        -------
        W : ndarray of shape (n_samples, n_components)
        """
        self.fit(X, y, mask=mask, validation=validation, checkpoint=checkpoint, resume=resume)
        return self.W_posterior_.mean

    def _keep(self, found: Found) -> None:
        solution, (rows, columns) = found.solution, found.state.posteriors
        self.W_posterior_ = GammaPosterior.of_entries(rows, self.n_components, found.share)
        self._schedule = None  # partial_fit begins anew
        self.activity_ = GammaPosterior.of_rows(rows, found.share) if self.hierarchy else None
        self._keep_columns(columns, found.state.priors, self.n_components)
        self.elbo_, self.objective_, self.residual_ = -solution.objective, solution.objective, solution.kkt_residual
        self.n_iter_, self.status_, self.trace_ = solution.n_iter, solution.status, solution.trace
        self.restarts_, self.validation_ = solution.restarts, solution.validation

    def _check_memory(self, X: Any) -> None:
        """Raise a MemoryError if the size of X is known and its fit would exceed the memory limit."""
        check_declared(X, self.n_components, self.dtype, MeanField(self._priors()), n_init=self.n_init)

    def _priors(self, default_shape: float = DEFAULT_SHAPE) -> tuple[GammaPrior, GammaPrior]:
        return check_priors(
            (self.a, self.a_prime, self.b_prime), (self.c, self.c_prime, self.d_prime), self.n_components,
            hierarchical=self.hierarchy, default_shape=default_shape,
        )  # fmt: skip
