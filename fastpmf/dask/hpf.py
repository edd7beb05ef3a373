"""`HPF` over the workers of a Dask cluster."""

from collections.abc import Callable
from typing import Any, Self

from fastpmf import estimators
from fastpmf.core.ranges import dtype_for
from fastpmf.dask.base import DistributedEstimator
from fastpmf.dask.pool import WorkerPool
from fastpmf.dask.shard import HPFModel, posterior_of_H
from fastpmf.dask.worker import RowData
from fastpmf.estimators.hpf import column_attributes, run_attributes
from fastpmf.fitting.checkpoint import open_checkpoints
from fastpmf.fitting.fit import check_any_counts, facts_of, report_end
from fastpmf.fitting.hpf import MOVED, HPFOptions, check_finite, check_no_entries
from fastpmf.fitting.memory import check_columns
from fastpmf.solvers import MeanField, Record


class HPF(DistributedEstimator):
    """`fastpmf.HPF` of counts whose rows are spread over the workers of a Dask cluster.

    Each worker stores the counts of its rows and the posteriors of their W; otherwise as `fastpmf.dask.PoissonNMF`.

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
        As in `fastpmf.HPF`. There are no posteriors of the fitted W: `fit_transform` and `transform` return E[W], and
        `to_local().posterior` the posteriors of any rows.
    client_, recoveries_, communication_
        As in `fastpmf.dask.PoissonNMF`.

    See Also
    --------
    HPF : on one machine.
    fastpmf.dask.PoissonNMF : maximum likelihood and posterior modes.
    fastpmf.dask.local_cluster : workers on this machine.

    Notes
    -----
    Not available: `learn_prior`, `c` for single entries, `n_init`, init other than random, `groups`, `mask`,
    `validation` and `partial_fit`.

    Examples
    --------
    In a script::

        from distributed import Client
        from fastpmf.dask import HPF, local_cluster

        if __name__ == "__main__":
            with local_cluster(4) as cluster, Client(cluster) as client:
                model = HPF(20, random_state=0)
                W = model.fit_transform("counts.h5ad")  # a dask array, on the workers
                local = model.to_local()  # a fastpmf.HPF
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
            As in `fastpmf.dask.PoissonNMF.fit`; the posterior of H is saved.

        Returns
        -------
        self

        Raises
        ------
        ImportError, TypeError, ValueError, MemoryError, TimeoutError, FitInterrupted
            As in `fastpmf.dask.PoissonNMF.fit`.
        """
        self._fit(X, checkpoint, resume, return_W=False)
        return self

    def fit_transform(self, X: Any, y: None = None, *, checkpoint: Any = None, resume: Any = None) -> Any:
        """Infer the posteriors and return E[W]; arguments and errors as in `fit`.

        Returns
        -------
        W : dask array of shape (n_samples, n_components)
            As in `fastpmf.dask.PoissonNMF.fit_transform`.
        """
        return self._fit(X, checkpoint, resume, return_W=True)

    def _fit(self, X: Any, checkpoint: Any, resume: Any, *, return_W: bool) -> Any:
        options = HPFOptions.of(self)
        solver = MeanField(priors=options.priors(), inner_steps=options.inner_steps)
        check_no_entries(solver.priors, "fastpmf.dask")
        client, source = self._open(X)
        with WorkerPool(client, source, n_threads=self.n_threads, timeout=self.timeout) as pool:
            survey = pool.open()
            check_any_counts(survey)
            dtype, k = dtype_for(options.dtype, survey), options.n_components
            check_columns(survey.shape[1], k, dtype, solver.n_factor_copies + 1)
            facts = facts_of(survey, options, dtype, workers=True)
            facts |= {"priors": [prior.to_numbers() for prior in solver.priors]}
            checkpoints = open_checkpoints(checkpoint, resume, facts)
            model = HPFModel(k, dtype, solver)
            start = self._random_start(pool, options.random_state)
            solution, columns, shards = self._run(
                pool, model, options, start, RowData(), checkpoints, return_W=return_W
            )
        check_finite(solution, dtype)
        attributes = (
            column_attributes(posterior_of_H(columns, k), solver.priors) | run_attributes(solution) | {"mean_W_": None}
        )
        self._set_fitted_attributes(estimators.HPF, attributes, client, source, pool)
        report_end(solution, self.tol, MOVED)
        return None if shards is None else self._join(list(zip(shards, survey.rows.values(), strict=True)))

    def transform(self, X: Any) -> Any:
        """E[W] for rows of counts, given the posterior of H; see `fastpmf.HPF.transform`.

        Parameters
        ----------
        X : dask array of shape (n_samples, n_features), AnnData, list, or path-like
            As in `fit`.

        Returns
        -------
        W : dask array of shape (n_samples, n_components)
            Lazy: each block is computed on a worker when it is needed.
        """
        return self._transform(X)
