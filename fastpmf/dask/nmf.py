"""`PoissonNMF` over the workers of a Dask cluster."""

from collections.abc import Callable
from typing import Any, Self

import numpy as np

from fastpmf import estimators
from fastpmf.core.factors import column_sums, empty_factor, padded
from fastpmf.counts.labels import Labels, align
from fastpmf.dask._crew import Crew
from fastpmf.dask._estimator import OverWorkers
from fastpmf.dask._fit import Result, Whole, fit
from fastpmf.dask._share import Points
from fastpmf.fitting.fit import check_parameters, tell_end
from fastpmf.fitting.memory import check_memory
from fastpmf.fitting.problem import Penalties, _check_modes, _terms, as_numbers, read_penalties, resolve_auto, vector
from fastpmf.fitting.ranges import dtype_for
from fastpmf.solvers import Multiplicative, Record, Status
from fastpmf.solvers.base import Memory
from fastpmf.utils.messages import brief
from fastpmf.utils.validation import check_factor
from fastpmf.utils.warnings import warn


class PoissonNMF(OverWorkers):
    """`fastpmf.PoissonNMF` of counts whose rows are spread over the workers of a Dask cluster.

    Each worker holds its rows' counts and W. In an iteration it updates W of its rows, and says what they say of H,
    n_features times n_components numbers, which are added up from worker to worker. Any number of workers and of blocks
    gives the factors that one machine has from `StreamedCounts`, up to rounding.

    Parameters
    ----------
    n_components : int
        Number of components, >= 1.
    client : distributed.Client, default=None
        None: the current one. No cluster is ever started; `local_cluster` makes one.
    prior_W, prior_H, alpha_W, alpha_H, l1_ratio
        As in `fastpmf.PoissonNMF`.
    solver : {"auto", "cd", "mu"}, default="auto"
        "auto" is "cd": coordinate descent for W, relaxed multiplicative steps for H, whose columns are on no worker
        together. "mu" is multiplicative for both.
    acceleration : {"auto", "relaxation"} or None, default="auto"
        "relaxation" with "mu" only; "auto" is none.
    inner_steps : int, default=1
        Steps on W in an iteration, for a step on H: with more, more is done for each message.
    max_iter, tol, max_time, eval_every, random_state, dtype
        As in `fastpmf.PoissonNMF`.
    n_threads : int or None, default=None
        Of each worker. None: what `local_cluster` has told it, or NUMBA_NUM_THREADS in its environment; else as many
        threads as Dask runs tasks in.
    verbose : bool, default=False
        As in `fastpmf.PoissonNMF`.
    callback : callable, default=None
        Called here, as callback(record), every `eval_every` iterations; a true answer stops the fit.
    memory : bool, default=True
        Of a path: whether workers read their rows into memory, where they are by rows and by columns, or anew in each
        pass, a block at a time.
    timeout : float, default=600.0
        Seconds that no wait for the workers is longer than: for an iteration, for their opening X, for a worker when
        there is none. Then a TimeoutError says which worker had not finished what.

    Attributes
    ----------
    components_, n_iter_, objective_, kkt_residual_, status_, trace_, prior_W_, prior_H_, n_features_in_, ...
        As in `fastpmf.PoissonNMF`.
    client_ : distributed.Client
        The one that was used.
    recoveries_ : int
        How often rows of lost workers were given to others.
    communication_ : dict
        messages: how many went between workers in iterations; message_bytes: of each; between_workers: all bytes that
        workers sent to each other, as Dask counts them; to_client: bytes that came here, H included.

    See Also
    --------
    fastpmf.StreamedCounts : counts larger than the memory, on one machine.

    Notes
    -----
    When a worker is lost, its rows are read again by others, their W is solved from the newest H, and the fit goes on;
    see the page on Dask. Not offered are `n_init`, init other than random, `solver="em"`, extrapolation, fixed parts,
    `background`, `mask`, `sample_weight`, `validation` and `partial_fit`.

    Examples
    --------
    In a script::

        from distributed import Client
        from fastpmf.dask import PoissonNMF, local_cluster

        if __name__ == "__main__":
            with local_cluster(4) as cluster, Client(cluster) as client:
                model = PoissonNMF(20, random_state=0)
                W = model.fit_transform("counts.h5ad")  # a dask array, on the workers
                local = model.to_local()  # a fastpmf.PoissonNMF
    """

    def __init__(
        self,
        n_components: int,
        *,
        client: Any = None,
        prior_W: Any = None,
        prior_H: Any = None,
        alpha_W: float = 0.0,
        alpha_H: Any = "same",
        l1_ratio: float = 0.0,
        solver: str = "auto",
        acceleration: str | None = "auto",
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
        self.prior_W = prior_W
        self.prior_H = prior_H
        self.alpha_W = alpha_W
        self.alpha_H = alpha_H
        self.l1_ratio = l1_ratio
        self.solver = solver
        self.acceleration = acceleration
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

    def fit(
        self,
        X: Any,
        y: None = None,
        *,
        H: Any = None,
        row_exposure: Any = None,
        column_exposure: Any = None,
        checkpoint: Any = None,
        resume: Any = None,
    ) -> Self:
        """Fit the model to X.

        Parameters
        ----------
        X : dask array of shape (n_samples, n_features), AnnData, list, or path-like
            A dask array of scipy.sparse CSR (or dense) chunks with one chunk over all columns; an AnnData object whose
            X is one; a list of delayed blocks of rows, or of futures of them; or a path, which all workers can read, to
            a format that can be read by rows: a folder of .npy, .h5ad, 10x Genomics' .h5, .zarr.
        y : None
            Ignored.
        H : array-like of shape (n_components, n_features), optional
            Where to start, with the best W for it; by default both are random.
        row_exposure : float or array-like of shape (n_samples,), optional
            As in `fastpmf.PoissonNMF.fit`.
        column_exposure : float or array-like of shape (n_features,), optional
            As in `fastpmf.PoissonNMF.fit`.
        checkpoint : path-like or fastpmf.Checkpoint, optional
            A folder of this process's in which H is saved now and then.
        resume : path-like, optional
            Such a folder, to go on from its last H, with the best W for it.

        Returns
        -------
        self

        Raises
        ------
        ImportError
            Dask is not installed.
        TypeError, ValueError
            If an argument has an invalid type or value.
        TimeoutError
            A worker did not answer within `timeout`, or there was none.
        FitInterrupted
            On Ctrl-C, a KeyboardInterrupt; the estimator then holds what was fitted so far.
        """
        self._fit(X, H, row_exposure, column_exposure, checkpoint, resume, wanted=False)
        return self

    def fit_transform(
        self,
        X: Any,
        y: None = None,
        *,
        H: Any = None,
        row_exposure: Any = None,
        column_exposure: Any = None,
        checkpoint: Any = None,
        resume: Any = None,
    ) -> Any:
        """Fit the model to X and return W; arguments and errors as in `fit`.

        Returns
        -------
        W : dask array of shape (n_samples, n_components)
            Its chunks, the rows of a block of X each, are in the workers' memory. They are lost with a worker;
            `transform` makes them anew.
        """
        return self._fit(X, H, row_exposure, column_exposure, checkpoint, resume, wanted=True)

    def _fit(self, X: Any, H: Any, row: Any, column: Any, checkpoint: Any, resume: Any, *, wanted: bool) -> Any:
        if self.solver == "em" or self.acceleration == "extrapolation":
            raise ValueError(
                "solver must be 'auto', 'cd' or 'mu' and acceleration 'auto', 'relaxation' or None over workers, got "
                f"{brief(self.solver)} and {brief(self.acceleration)}"
            )
        check_parameters(
            self.n_components, self.solver, self.acceleration, self.inner_steps, 1, self.max_iter, self.tol,
            self.max_time, self.eval_every, self.callback, row_access_only=True,
        )  # fmt: skip
        client, source = self._over(X)
        columns = Labels(source.names.columns, item="column")
        H, column = align(H, "H", columns=columns), align(column, "column_exposure", rows=columns)
        row = align(row, "row_exposure", rows=Labels(source.names.rows))
        W, result = self._run(
            client, source, H=H, row=row, column=column, checkpoint=checkpoint, resume=resume, wanted=wanted
        )
        solution = result.solution
        if solution.status is Status.NON_FINITE:
            warn(f"{solution.status} (iteration {solution.n_iter})", RuntimeWarning)
        tell_end(solution, self.tol)
        return W

    def _solve(
        self, crew: Crew, whole: Whole, *, wanted: bool, H: Any = None, row: Any = None, column: Any = None, **told: Any
    ) -> Result:  # fmt: skip
        counts: Any = whole
        k, (n, p) = self.n_components, whole.shape
        work = dtype_for(self.dtype, counts)
        check_memory(counts._replace(shape=(1, p), nnz=1), k, work, Multiplicative())  # the client has H alone
        exposure = None if row is None else vector(row, n, "row_exposure")
        across = vector(column, p, "column_exposure")
        given = Penalties(self.prior_W, self.prior_H, self.alpha_W, self.alpha_H, self.l1_ratio)
        total_exposure = (n if exposure is None else float(exposure.sum())) * float(across.sum())
        penalties = resolve_auto(given, k, whole.total, total_exposure)
        rows, columns = read_penalties(penalties, k, whole.shape)
        width, one = empty_factor(1, k, work).shape[1], np.ones(1)
        terms = _terms(np.ones(p), across, columns, None, None, width, work)
        _check_modes([_terms(one, one, rows, None, None, width, work), terms], whole.shape, k)
        self._penalties, self._column = penalties, None if column is None else across
        self._model = Points(k, work, self.solver, self.acceleration, self.inner_steps, rows, terms, across)
        facts = {
            "n_components": k, "dtype": str(work), "solver": self.solver, "acceleration": self.acceleration,
            "inner_steps": self.inner_steps, "priors": [[A.tolist() for A in plain] for plain in (rows, columns)],
        }  # fmt: skip
        return fit(
            crew, self._model, whole, exposure=exposure, H=None if H is None else self._start(H, p), facts=facts,
            max_iter=self.max_iter, tol=self.tol, max_time=self.max_time,
            eval_every=self.eval_every, random_state=self.random_state, verbose=self.verbose, callback=self.callback,
            wanted=wanted, **told,
        )  # fmt: skip

    def _start(self, H: Any, p: int) -> Memory:
        """What a worker would remember of a fit that has come to this H."""
        H = check_factor(H, (self.n_components, p), "H") * self._model.column_exposure
        Ht = padded(H.T, self._model.dtype)
        measures, units = np.full(3, np.nan), np.ones(Ht.shape[1])
        return {"Ht": Ht, "h_sum": column_sums(Ht), "units": units, "measures": measures, "done": np.array(0)}

    def _made(self, result: Result) -> estimators.PoissonNMF:
        local = estimators.PoissonNMF(**self._parameters(estimators.PoissonNMF))
        solution, H = result.solution, self._model.components(result.columns)
        local._keep_fitted(
            H, solution.objective, solution.kkt_residual, solution.n_iter, solution.status, solution.trace,
            solution.restarts,
        )  # fmt: skip
        local.prior_W_, local.prior_H_ = map(as_numbers, self._penalties[:2])
        local._online = None
        local.column_exposure_, local.background_, local.validation_ = self._column, None, None
        return local

    def transform(self, X: Any, *, row_exposure: Any = None) -> Any:
        """The W that explains X best with `components_` fixed; see `fastpmf.PoissonNMF.transform`.

        Parameters
        ----------
        X : dask array of shape (n_samples, n_features), AnnData, list, or path-like
            As in `fit`.
        row_exposure : float or array-like of shape (n_samples,), optional
            Of these rows, whose number in each block must be known; 1 by default.

        Returns
        -------
        W : dask array of shape (n_samples, n_components)
            Nothing is done before it is computed; then each block is, on a worker.
        """
        return self._transform(X, row_exposure)
