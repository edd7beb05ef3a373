"""Shared by the estimators over workers: the loop of a fit, W as a dask array, and the local model."""

import copy
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted

from fastpmf.counts.labels import align, warn_of_duplicates
from fastpmf.dask.cluster import find_client, library
from fastpmf.dask.pool import WorkerPool
from fastpmf.dask.shard import ColumnState, CustomStart, HPFModel, Model, PoissonModel, RandomStart
from fastpmf.dask.sources import Source, read_source
from fastpmf.dask.worker import RowData, transform_block
from fastpmf.estimators.base import FactorModel, check_feature_names
from fastpmf.fitting.checkpoint import CheckpointFolder
from fastpmf.fitting.fit import observed
from fastpmf.fitting.options import FitOptions
from fastpmf.fitting.problem import check_group_labels, vector
from fastpmf.solvers import Record, Run, Solution, State
from fastpmf.solvers.base import NOT_SAVED
from fastpmf.solvers.run import Objective
from fastpmf.utils.validation import random_generator


@dataclass
class PoolState(State):
    """The state of a fit whose factors are on workers; `columns` has H once the fit has ended."""

    pool: WorkerPool = field(metadata=NOT_SAVED)
    columns: ColumnState = field(default_factory=dict, metadata=NOT_SAVED)

    def state_dict(self) -> dict[str, np.ndarray]:
        return self.pool.column_state()

    def load_state_dict(self, arrays: dict[str, np.ndarray]) -> None:
        self.n_steps, self.gaps = int(arrays["n_iter"]), np.array(arrays["gaps"])
        self.pool.start(arrays, self.n_steps)


@dataclass(frozen=True)
class PoolFit:
    """The solver and the problem of a fit whose steps, objective and residual are computed by workers."""

    extrapolates: ClassVar[bool] = False

    model: Model
    start: RandomStart | CustomStart | ColumnState
    total: float  # sum of all counts
    options: FitOptions
    periods: tuple[int, ...]  # the client is needed after iterations that are multiples of these
    end: float  # when `max_time` is over, on the clock `time.monotonic`

    def prepare(self, problem: Objective, state: PoolState) -> None:
        state.pool.start(self.start)

    def step(self, problem: Objective, state: PoolState) -> None:
        """Several iterations, up to the next one after which the client is needed."""
        n, last, tol = state.n_steps, self.options.max_iter, self.options.tol
        stop = min(last, *((n // period + 1) * period for period in self.periods))
        measures = stop == last or stop % self.options.eval_every == 0
        state.gaps = state.pool.iterate(stop, seconds=self.end - time.monotonic(), tol=tol, measures=measures)
        state.n_steps = state.pool.iteration

    def objective(self, state: PoolState) -> float:
        return state.pool.objective()

    def residual(self, state: PoolState) -> float:
        return state.residual(self.total) if isinstance(self.model, HPFModel) else state.pool.gap() / self.total

    def complete(self, state: PoolState) -> None:
        if isinstance(self.model, PoissonModel) and self.model.groups is not None:
            state.pool.complete()
        state.columns = state.pool.column_state()
        state.n_steps = state.pool.iteration

    def solution_factors(self, state: PoolState) -> tuple[np.ndarray, np.ndarray]:
        """W without rows, as W stays on the workers, and H once the fit has ended."""
        k = self.model.n_components
        H = self.model.H(state.columns) if state.columns else np.empty((k, 0), self.model.dtype)
        return np.empty((0, k), self.model.dtype), H

    def effects_of(self, state: PoolState) -> np.ndarray | None:
        """The effects of groups, (n_groups, p), once the fit has ended; None without groups."""
        effects = state.columns.get("effects")
        return None if effects is None or not effects.size else effects.T.copy()


class DistributedEstimator(BaseEstimator):
    """A model of counts whose rows are on the workers of a Dask cluster."""

    client: Any
    n_threads: int | None
    callback: Callable[[Record], Any] | None
    memory: bool
    timeout: float
    _local: Any
    _local_on_workers: Any

    def to_local(self) -> Any:
        """The fitted model as an estimator of fastpmf, which needs no cluster."""
        check_is_fitted(self, "components_")
        return copy.deepcopy(self._local)

    def _open(self, X: Any) -> tuple[Any, Source]:
        """The client, and X as shards."""
        client = find_client(self.client)
        return client, read_source(X, len(client.nthreads()), memory=self.memory)

    def _run(
        self, pool: WorkerPool, model: Model, options: FitOptions, start: RandomStart | CustomStart | ColumnState,
        row_data: RowData, checkpoints: CheckpointFolder | None, *, return_W: bool,
    ) -> tuple[Solution, ColumnState, list[Any] | None]:  # fmt: skip
        """The solution, without rows of W; the state of H; and, if `return_W`, futures of W of each shard."""
        pool.prepare(model, row_data)
        callback = self.callback
        observer = None if callback is None else lambda record, *_: callback(record)
        residual = "residual" if isinstance(model, HPFModel) else "kkt_residual"
        with observed(options, observer, None, residual) as (progress, observers):
            periods = (options.eval_every, *(() if checkpoints is None else checkpoints.periods))
            end = math.inf if options.max_time is None else time.monotonic() + options.max_time
            fit = PoolFit(model, start, pool.survey.total, options, periods, end)
            run = Run(fit, fit, PoolState(pool), options, observers, checkpoints)
            solution = run.advance(options.max_iter).finish()
            progress.end(solution)
        return solution, run.state.columns, pool.W() if return_W else None

    def _set_fitted_attributes(
        self, kind: type[FactorModel], attributes: dict[str, Any], client: Any, source: Source, pool: WorkerPool
    ) -> None:
        """Make the local model from these attributes; set its public attributes and those of the fit."""
        parameters = self.get_params(deep=False)
        names = kind(parameters["n_components"]).get_params(deep=False).keys() & parameters.keys() - {"callback"}
        attributes |= {"n_features_in_": pool.survey.shape[1]}
        if (features := source.labels.columns.names) is not None:
            warn_of_duplicates(features)
            attributes["feature_names_in_"] = features
        self._local = kind(**{name: parameters[name] for name in names})
        self._local._set_fitted_attributes(attributes)
        self._local_on_workers = None
        kept = {name: value for name, value in vars(self).items() if name.startswith("_") or not name.endswith("_")}
        public = {name: value for name, value in attributes.items() if not name.startswith("_")}
        of_fit = {"client_": client, "recoveries_": pool.recoveries, "communication_": pool.traffic()}
        self.__dict__ = kept | public | of_fit

    def _transform(self, X: Any, **of_rows: Any) -> Any:
        """`transform` of each block on a worker, as a dask array."""
        check_is_fitted(self, "components_")
        delayed = library("dask").delayed
        client, source = self._open(X)
        model = self._local_on_workers
        if model is None or model.client is not client or model.status != "finished":
            model = self._local_on_workers = client.scatter([self._local], broadcast=True, hash=False)[0]
        fitted, names = getattr(self._local, "feature_names_in_", None), source.labels.columns.names
        if fitted is not None and names is not None:
            check_feature_names(names, fitted)
        parts = source.parts()
        given: list[dict[str, np.ndarray]] = [{} for _ in parts]
        for name, values in of_rows.items():
            if values is None:
                continue
            values = align(values, name, rows=source.labels.rows)
            sizes = np.array([n for _, n in parts])
            if np.isnan(sizes).any():
                raise ValueError(f"{name} needs blocks of known numbers of rows: give a dask array, or a path")
            ends = np.cumsum(sizes).astype(np.int64)
            n_rows = int(ends[-1])
            values = check_group_labels(values, n_rows) if name == "groups" else vector(values, n_rows, name)
            for found, block in zip(given, np.split(values, ends[:-1]), strict=True):
                found[name] = block
        return self._join([
            (delayed(transform_block, pure=False)(model, part, found), n)
            for (part, n), found in zip(parts, given, strict=True)
        ])  # fmt: skip

    def _join(self, blocks: list[tuple[Any, float]]) -> Any:
        """A dask array from blocks of W and their numbers of rows."""
        array = library("dask.array")
        k, dtype = self._local.components_.shape[0], self._local.components_.dtype
        return array.concatenate([array.from_delayed(block, (n, k), dtype) for block, n in blocks])

    def _random_start(self, pool: WorkerPool, random_state: Any) -> RandomStart:
        """A start with a copy of the generator, which is sent to the workers; the original is advanced."""
        rng = np.random.default_rng() if random_state is None else random_generator(random_state)
        survey = pool.survey
        start = RandomStart(copy.deepcopy(rng), survey.shape, survey.total, survey.slices)
        rng.standard_normal()
        return start
