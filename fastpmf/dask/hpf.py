"""`HPF` over the workers of a Dask cluster."""

from collections.abc import Callable
from typing import Any, Self

from fastpmf import estimators
from fastpmf.dask._crew import Crew
from fastpmf.dask._estimator import OverWorkers
from fastpmf.dask._fit import Result, Whole, fit
from fastpmf.dask._share import Posterior
from fastpmf.fitting.fit import check_parameters, tell_end
from fastpmf.fitting.hpf import MOVED, check_priors
from fastpmf.fitting.memory import check_memory
from fastpmf.fitting.ranges import dtype_for
from fastpmf.solvers import Record, Status
from fastpmf.solvers.mean_field import MeanField


class HPF(OverWorkers):
    """`fastpmf.HPF` of counts whose rows are spread over the workers of a Dask cluster.

    Each worker holds its rows' counts and the posteriors of their W; otherwise as `fastpmf.dask.PoissonNMF`.

    Parameters
    ----------
    n_components : int
        Number of components, >= 1.
    client : distributed.Client, default=None
        None: the current one.
    a, a_prime, b_prime, c, c_prime, d_prime, hierarchy, inner_steps
        As in `fastpmf.HPF`.
    max_iter, tol, max_time, eval_every, random_state, dtype
        As in `fastpmf.HPF`.
    n_threads, verbose, callback, memory, timeout
        As in `fastpmf.dask.PoissonNMF`.

    Attributes
    ----------
    components_, H_posterior_, popularity_, prior_, elbo_, objective_, residual_, n_iter_, status_, trace_, ...
        As in `fastpmf.HPF`. Posteriors of W are on no single machine: `fit_transform` and `transform` give E[W], and
        `to_local().posterior` the posteriors of any rows.
    client_, recoveries_, communication_
        As in `fastpmf.dask.PoissonNMF`.

    Notes
    -----
    Not offered are `learn_prior`, `n_init`, init other than random, `mask`, `validation` and `partial_fit`.
    """

    def __init__(
        self,
        n_components: int,
        *,
        client: Any = None,
        a: Any = None,
        a_prime: float = 0.3,
        b_prime: float = 1.0,
        c: Any = None,
        c_prime: float = 0.3,
        d_prime: float = 1.0,
        hierarchy: bool = True,
        inner_steps: int = 1,
        max_iter: int = 500,
        tol: float = 1e-4,
        max_time: float | None = None,
        eval_every: int = 10,
        random_state: Any = None,
        dtype: Any = None,
        n_threads: int | None = None,
        verbose: bool = False,
        callback: Callable[[Record], Any] | None = None,
        memory: bool = True,
        timeout: float = 600.0,
    ) -> None:
        self.n_components = n_components
        self.client = client
        self.a = a
        self.a_prime = a_prime
        self.b_prime = b_prime
        self.c = c
        self.c_prime = c_prime
        self.d_prime = d_prime
        self.hierarchy = hierarchy
        self.inner_steps = inner_steps
        self.max_iter = max_iter
        self.tol = tol
        self.max_time = max_time
        self.eval_every = eval_every
        self.random_state = random_state
        self.dtype = dtype
        self.n_threads = n_threads
        self.verbose = verbose
        self.callback = callback
        self.memory = memory
        self.timeout = timeout

    def fit(self, X: Any, y: None = None, *, checkpoint: Any = None, resume: Any = None) -> Self:
        """Infer the posteriors of W and H given X.

        Parameters
        ----------
        X : dask array of shape (n_samples, n_features), AnnData, list, or path-like
            As in `fastpmf.dask.PoissonNMF.fit`.
        y : None
            Ignored.
        checkpoint, resume
            As in `fastpmf.dask.PoissonNMF.fit`; it is H's posterior that is saved.

        Returns
        -------
        self

        Raises
        ------
        ImportError, TypeError, ValueError, TimeoutError, FitInterrupted
            As in `fastpmf.dask.PoissonNMF.fit`.
        """
        self._fit(X, checkpoint=checkpoint, resume=resume, wanted=False)
        return self

    def fit_transform(self, X: Any, y: None = None, *, checkpoint: Any = None, resume: Any = None) -> Any:
        """Infer the posteriors and return E[W]; arguments and errors as in `fit`.

        Returns
        -------
        W : dask array of shape (n_samples, n_components)
            As of `fastpmf.dask.PoissonNMF.fit_transform`.
        """
        return self._fit(X, checkpoint=checkpoint, resume=resume, wanted=True)

    def _fit(self, X: Any, **told: Any) -> Any:
        check_parameters(
            self.n_components, "mu", None, self.inner_steps, 1, self.max_iter, self.tol, self.max_time,
            self.eval_every, self.callback,
        )  # fmt: skip
        self._priors = check_priors(
            (self.a, self.a_prime, self.b_prime), (self.c, self.c_prime, self.d_prime), self.n_components,
            hierarchical=self.hierarchy,
        )  # fmt: skip
        W, result = self._run(*self._over(X), **told)
        tell_end(result.solution, self.tol, MOVED)
        return W

    def _solve(self, crew: Crew, whole: Whole, *, wanted: bool, **told: Any) -> Result:
        counts: Any = whole
        work = dtype_for(self.dtype, counts)
        held = counts._replace(shape=(1, whole.shape[1]), nnz=1)  # the client has H alone
        check_memory(held, self.n_components, work, MeanField(self._priors))
        self._model = Posterior(self.n_components, work, self._priors, self.inner_steps)
        facts = {
            "n_components": self.n_components, "dtype": str(work), "inner_steps": self.inner_steps,
            "priors": [prior.to_numbers() for prior in self._priors],
        }  # fmt: skip
        result = fit(
            crew, self._model, whole, exposure=None, H=None, facts=facts, max_iter=self.max_iter, tol=self.tol,
            max_time=self.max_time, eval_every=self.eval_every, random_state=self.random_state, verbose=self.verbose,
            callback=self.callback, wanted=wanted, **told,
        )  # fmt: skip
        if result.solution.status is Status.NON_FINITE:
            raise ValueError(
                f"X and the hyperparameters must leave every posterior rate positive and finite in {work}, which "
                f"iteration {result.solution.n_iter} found not so; less extreme ones, or dtype='float64', would"
            )
        return result

    def _made(self, result: Result) -> estimators.HPF:
        local, solution = estimators.HPF(**self._parameters(estimators.HPF)), result.solution
        local._keep_columns(self._model.factor(result.columns), self._priors, self.n_components)
        local.elbo_, local.objective_, local.residual_ = -solution.objective, solution.objective, solution.kkt_residual
        local.n_iter_, local.status_, local.trace_ = solution.n_iter, solution.status, solution.trace
        local.restarts_, local.validation_, local._schedule = solution.restarts, None, None
        return local

    def transform(self, X: Any) -> Any:
        """E[W] for rows of counts, H's posterior as it is; see `fastpmf.HPF.transform`.

        Parameters
        ----------
        X : dask array of shape (n_samples, n_features), AnnData, list, or path-like
            As in `fit`.

        Returns
        -------
        W : dask array of shape (n_samples, n_components)
            Nothing is done before it is computed; then each block is, on a worker.
        """
        return self._transform(X)
