"""`PoissonNMF` over the workers of a Dask cluster."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Self

import numpy as np
from sklearn.utils.validation import check_is_fitted

from fastpmf import estimators
from fastpmf.analysis.rates import check_groups_given
from fastpmf.core.counts import Side
from fastpmf.core.ranges import check_entries, check_scale, dtype_for
from fastpmf.dask.base import DistributedEstimator
from fastpmf.dask.pool import WorkerPool
from fastpmf.dask.shard import AllGroups, ColumnState, CustomStart, PoissonModel, RandomStart
from fastpmf.dask.worker import RowData, Survey
from fastpmf.estimators.poisson_nmf import solution_attributes
from fastpmf.fitting.checkpoint import open_checkpoints
from fastpmf.fitting.fit import check_any_counts, facts_of, poisson_facts, report_end
from fastpmf.fitting.memory import check_columns
from fastpmf.fitting.options import FitData, Penalties, PoissonOptions
from fastpmf.fitting.problem import (
    as_numbers,
    check_mode_with_groups,
    check_number_of_groups,
    check_specs,
    factor_spec,
    fixed_part_of_H,
    has_entries,
    non_negative_vector,
    number_groups,
    read_priors,
    resolve_named_priors,
    vector,
)
from fastpmf.fitting.seeds import component_names
from fastpmf.solvers import Multiplicative, Record, Status
from fastpmf.utils.messages import brief
from fastpmf.utils.validation import check_factor, check_option
from fastpmf.utils.warnings import warn


class PoissonNMF(DistributedEstimator):
    """`fastpmf.PoissonNMF` of counts whose rows are spread over the workers of a Dask cluster.

    Each worker stores the counts and W of its rows. In an iteration it updates W, and computes what its rows contribute
    to the update of H, n_features times n_components numbers, which are summed from worker to worker. For any number of
    workers and of blocks the factors are those of one machine from `StreamedCounts` with init="random", up to rounding.

    Parameters
    ----------
    n_components : int
        Number of components, >= 1.
    client : distributed.Client, default=None
        None: the current one. A cluster is never started; `local_cluster` makes one.
    prior_W, prior_H, alpha_W, alpha_H, l1_ratio, prior_groups
        As in `fastpmf.PoissonNMF`.
    solver : {"auto", "cd", "mu"}, default="auto"
        "auto" is "cd": coordinate descent for W, and relaxed multiplicative steps for H, since no worker has all counts
        of a column. "mu": multiplicative updates of both.
    acceleration : {"auto", "relaxation"} or None, default="auto"
        "relaxation" with "mu" only; "auto" is none.
    inner_steps : int, default=1
        Number of updates of W for each update of H; more of them are more computation for each message.
    init : {"auto", "random", "custom"}, default="auto"
        Start. "auto" is "random". "custom": H given to `fit`, and W given to `fit` or else solved from H.
    max_iter, tol, max_time, eval_every, random_state, dtype
        As in `fastpmf.PoissonNMF`.
    n_threads : int or None, default=None
        Number of threads of each worker. None: that of `local_cluster`, or NUMBA_NUM_THREADS in the environment of the
        worker, or the number of tasks that Dask runs at a time.
    verbose : bool, default=False
        As in `fastpmf.PoissonNMF`.
    callback : callable, default=None
        Called in this process as callback(record) every `eval_every` iterations; a true result stops the fit.
    memory : bool, default=True
        If X is a path: True, workers read their rows into memory, where they are stored by rows and by columns; False,
        they read them again in each pass, a block at a time.
    timeout : float, default=600.0
        Maximum seconds to wait for the workers: to read X, for an iteration, or for a worker if there is none. After
        that a TimeoutError names the worker and its task.

    Attributes
    ----------
    components_, n_iter_, objective_, kkt_residual_, status_, trace_, prior_W_, prior_H_, n_features_in_, ...
        As in `fastpmf.PoissonNMF`.
    client_ : distributed.Client
        The client that was used.
    recoveries_ : int
        How often rows of lost workers were assigned to others.
    communication_ : dict
        messages: number of messages between workers; between_workers: bytes of the arrays in them; to_client: bytes
        sent to this process, including H.

    See Also
    --------
    fastpmf.StreamedCounts : counts larger than memory, on one machine.

    Notes
    -----
    If a worker is lost, other workers read its rows again, solve their W from the latest H, and the fit continues. See
    the page on Dask. Not available: `n_init`, init="merge", "grow", "shrink", "nndsvd" and its variants,
    `solver="em"`, extrapolation, `fixed_W`, `mask`, `sample_weight`, `validation` and `partial_fit`. A random start
    does not depend on a seeded prior: start from `components_` of a fit to some rows, with init="custom".

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
        prior_groups: float = 10.0,
        solver: str = "auto",
        acceleration: str | None = "auto",
        inner_steps: int = 1,
        init: str = "auto",
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
        self.prior_groups = prior_groups
        self.solver = solver
        self.acceleration = acceleration
        self.inner_steps = inner_steps
        self.init = init
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
        self, X: Any, y: None = None, *, W: Any = None, H: Any = None, fixed_H: Any = None, row_exposure: Any = None,
        column_exposure: Any = None, background: Any = None, groups: Any = None, checkpoint: Any = None,
        resume: Any = None,
    ) -> Self:  # fmt: skip
        """Fit the model to X.

        Parameters
        ----------
        X : dask array of shape (n_samples, n_features), AnnData, list, or path-like
            A dask array of scipy.sparse CSR (or dense) chunks with one chunk over all columns; an AnnData object whose
            X is one; a list of delayed blocks of rows, or of futures of them; or a path that all workers can read, to a
            format that can be read by rows: a folder of .npy, .h5ad, .h5 of 10x Genomics, .zarr.
        y : None
            Ignored.
        W : array-like of shape (n_samples, n_components), optional
            Start, with init="custom"; solved from H by default.
        H : array-like of shape (n_components, n_features), optional
            Start, with init="custom".
        fixed_H, row_exposure, column_exposure, background, groups
            As in `fastpmf.PoissonNMF.fit`.
        checkpoint : path-like or fastpmf.Checkpoint, optional
            A folder on the client's machine in which the fit saves H every ten minutes, or as set by the `Checkpoint`.
        resume : path-like, optional
            Folder of such checkpoints: the fit continues from the last H, from which W is solved.

        Returns
        -------
        self

        Raises
        ------
        ImportError
            If Dask is not installed.
        TypeError, ValueError
            If an argument has an invalid type or value.
        MemoryError
            If the estimated memory of H exceeds this process's limit.
        TimeoutError
            If a worker did not answer within `timeout`, or there was none.
        FitInterrupted
            On Ctrl-C, a KeyboardInterrupt; the estimator then has the fit so far.
        """
        data = FitData(
            W=W, H=H, fixed_H=fixed_H, row_exposure=row_exposure, column_exposure=column_exposure,
            background=background, groups=groups,
        )  # fmt: skip
        self._fit(X, data, checkpoint, resume, return_W=False)
        return self

    def fit_transform(
        self, X: Any, y: None = None, W: Any = None, H: Any = None, *, fixed_H: Any = None, row_exposure: Any = None,
        column_exposure: Any = None, background: Any = None, groups: Any = None, checkpoint: Any = None,
        resume: Any = None,
    ) -> Any:  # fmt: skip
        """Fit the model to X and return W; arguments and errors as in `fit`.

        Returns
        -------
        W : dask array of shape (n_samples, n_components)
            Each chunk has the rows of a block of X and is in the memory of a worker. If the worker is lost the chunk is
            too; `transform` computes it again.
        """
        data = FitData(
            W=W, H=H, fixed_H=fixed_H, row_exposure=row_exposure, column_exposure=column_exposure,
            background=background, groups=groups,
        )  # fmt: skip
        return self._fit(X, data, checkpoint, resume, return_W=True)

    def _fit(self, X: Any, data: FitData, checkpoint: Any, resume: Any, *, return_W: bool) -> Any:
        if self.solver == "em" or self.acceleration == "extrapolation":
            raise ValueError(
                "solver must be 'auto', 'cd' or 'mu', and acceleration 'auto', 'relaxation' or None, with workers, got "
                f"{brief(self.solver)} and {brief(self.acceleration)}"
            )
        options = PoissonOptions.of(self)
        check_option(options.init, ("auto", "random", "custom"), "init")
        client, source = self._open(X)
        options, data = options.aligned(source.labels), data.aligned(source.labels)
        with WorkerPool(client, source, n_threads=self.n_threads, timeout=self.timeout) as pool:
            survey = pool.open()
            check_any_counts(survey)
            model, penalties, row_data = _read_data(options, data, survey)
            names, groups, group = _read_groups(options, data, model, pool)
            model, row_data = replace(model, groups=groups), row_data._replace(group=group)
            facts = facts_of(survey, options, model.dtype, workers=True)
            exposure = np.ones(1) if row_data.exposure is None else row_data.exposure
            specs = replace(model.row_spec(np.ones(1)), scale=exposure), model.columns
            facts |= poisson_facts(
                options, specs, None if groups is None or group is None else replace(groups, group=group)
            )
            checkpoints = open_checkpoints(checkpoint, resume, facts)
            start, W = self._start(options, data, model, pool, exposure)
            solution, _, shards = self._run(
                pool, model, options, start, row_data._replace(W=W), checkpoints, return_W=return_W
            )
        background = None if data.background is None else np.array(data.background, dtype=np.float64)
        attributes = solution_attributes(solution) | {
            "prior_W_": as_numbers(penalties.prior_W), "prior_H_": as_numbers(penalties.prior_H),
            "column_exposure_": None if data.column_exposure is None else model.columns.scale,
            "background_": background, "component_names_": component_names(self.prior_H), "group_names_": names,
        }  # fmt: skip
        if names is not None and model.groups is None:  # a single group
            attributes["group_effects_"] = np.ones((1, survey.shape[1]))
        self._set_fitted_attributes(estimators.PoissonNMF, attributes, client, source, pool)
        if solution.status is Status.NON_FINITE:
            warn(f"{solution.status} (iteration {solution.n_iter})", RuntimeWarning)
        report_end(solution, self.tol)
        return None if shards is None else self._join(list(zip(shards, survey.rows.values(), strict=True)))

    def _start(
        self, options: PoissonOptions, data: FitData, model: PoissonModel, pool: WorkerPool, exposure: np.ndarray
    ) -> tuple[RandomStart | CustomStart | ColumnState, np.ndarray | None]:
        """Start of the factors, and W in the units of the solver if it is given."""
        (n, p), k = pool.survey.shape, options.n_components
        if options.init != "custom":
            if data.W is not None or data.H is not None:
                raise ValueError(f"W and H are starting factors for init='custom' only, got init={options.init!r}")
            return self._random_start(pool, options.random_state), None
        if data.H is None:
            raise ValueError("init='custom' needs H")
        Ht = (check_factor(data.H, (k, p), "H") * model.columns.scale).T
        check_entries(Ht, model.dtype, "H")
        if data.W is None:
            return model.start_columns(Ht), None
        W = check_factor(data.W, (n, k), "W") * exposure[:, None]
        check_entries(W, model.dtype, "W")
        return CustomStart(Ht), W

    def transform(self, X: Any, *, row_exposure: Any = None, groups: Any = None) -> Any:
        """The W that minimises the objective for X with `components_` fixed; see `fastpmf.PoissonNMF.transform`.

        Parameters
        ----------
        X : dask array of shape (n_samples, n_features), AnnData, list, or path-like
            As in `fit`.
        row_exposure : float or array-like of shape (n_samples,), optional
            Exposures of these rows, 1 by default. The number of rows of each block must be known.
        groups : array-like of shape (n_samples,), optional
            Labels of the groups of these rows; needed if the model was fitted with groups.

        Returns
        -------
        W : dask array of shape (n_samples, n_components)
            Lazy: each block is computed on a worker when it is needed.
        """
        check_is_fitted(self, "components_")
        check_groups_given(self, groups)
        return self._transform(X, row_exposure=row_exposure, groups=groups)


def _read_data(options: PoissonOptions, data: FitData, survey: Survey) -> tuple[PoissonModel, Penalties, RowData]:
    """Check options and data; returns the model, named priors as numbers, and the data of all rows."""
    k, (n, p), dtype = options.n_components, survey.shape, dtype_for(options.dtype, survey)
    check_columns(p, k, dtype, Multiplicative.n_factor_copies + 1)
    solver = options.make_solver(row_access_only=True)
    assert isinstance(solver, Multiplicative)
    exposure = None if data.row_exposure is None else vector(data.row_exposure, n, "row_exposure")
    c = vector(data.column_exposure, p, "column_exposure")
    background = None if data.background is None else non_negative_vector(data.background, p, "background")
    fixed = fixed_part_of_H(data.fixed_H, (k, p))
    for scale, name in ((exposure, "row_exposure"), (c, "column_exposure")):
        if scale is not None:
            check_scale(scale, dtype, name)
    total_exposure = (n if exposure is None else float(exposure.sum())) * float(c.sum())
    if has_entries(options.prior_W):
        raise ValueError("prior_W must have a number for each component, not for each entry, with fastpmf.dask")
    penalties = resolve_named_priors(options.penalties, k, survey.total, total_exposure)
    row_prior, column_prior = read_priors(penalties, k, survey.shape)
    columns = factor_spec(column_prior, fixed, c, dtype, Side.COLUMNS, background=background)
    model = PoissonModel(k, dtype, solver, row_prior, columns)
    check_specs((model.row_spec(np.ones(1)), columns), survey.shape, k, dtype)
    return model, penalties, RowData(exposure)


def _read_groups(
    options: PoissonOptions, data: FitData, model: PoissonModel, pool: WorkerPool
) -> tuple[np.ndarray | None, AllGroups | None, np.ndarray | None]:
    """Names of the groups, the groups of all rows, and the group of each row; None without groups, or with one."""
    if data.groups is None:
        return None, None, None
    n, p = pool.survey.shape
    names, group = number_groups(data.groups, n)
    check_number_of_groups(names, n, data.fixed_H)
    if len(names) == 1 and data.fixed_H is None:
        return names, None, None
    counts, start = pool.counts_by_group(group, len(names)), np.ones((p, len(names)))
    groups = AllGroups(group, counts, options.prior_groups, start, np.bincount(group), np.empty((2, len(names), 0)))
    check_mode_with_groups((model.row_spec(np.ones(1)).terms, model.columns.terms), groups)
    return names, replace(groups, group=np.empty(0, np.int64)), group
