"""What the estimators over workers share: the cluster around a fit, rows of W as a dask array, the local model."""

import copy
import math
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted

from fastpmf.counts.labels import Labels, align, warn_of_duplicates
from fastpmf.dask import _worker
from fastpmf.dask._cluster import library, the_client
from fastpmf.dask._crew import Crew
from fastpmf.dask._fit import Result, Whole, check_timeout, surveyed
from fastpmf.dask._sources import Source, source_of
from fastpmf.estimators.base import check_feature_names
from fastpmf.fitting.problem import vector


class OverWorkers(BaseEstimator):
    """A fit over the workers of a Dask cluster."""

    client: Any
    n_components: int
    n_threads: int | None
    memory: bool
    timeout: float
    _local: Any

    def to_local(self) -> Any:
        """The fitted model as fastpmf's own estimator, which needs no cluster."""
        check_is_fitted(self, "components_")
        return copy.deepcopy(self._local)

    def _over(self, X: Any) -> tuple[Any, Source]:
        client, _ = the_client(self.client), check_timeout(self.timeout)
        return client, source_of(X, len(client.nthreads()), memory=self.memory)

    def _run(self, client: Any, source: Source, **told: Any) -> tuple[Any, Result]:
        """A fit, with nothing of it left on the workers in the end but W, where it is wanted: that as a dask array."""
        crew = Crew(client, source, n_threads=self.n_threads, timeout=self.timeout)
        try:
            whole = surveyed(crew)
            result = self._solve(crew, whole, **told)
        except BaseException:
            crew.release()
            raise
        self.client_, self.recoveries_ = client, result.recoveries
        self._fit_id = crew.fit
        self.communication_ = result.traffic._asdict()
        self._adopt(result, whole, source.names.columns)
        W = None
        if result.W is not None:
            blocks = zip(result.W, whole.sizes.tolist(), strict=True)
            W = self._stacked(list(blocks))
        return W, result

    def _solve(self, crew: Crew, whole: Whole, *, wanted: bool, **told: Any) -> Result:
        """The fit of counts that are open; `wanted` as in `fastpmf.dask._fit.fit`."""
        raise NotImplementedError

    def _made(self, result: Result) -> Any:
        """The fitted local estimator."""
        raise NotImplementedError

    def _adopt(self, result: Result, whole: Whole, names: np.ndarray | None) -> None:
        self._local = self._made(result)
        self._local.n_features_in_ = whole.shape[1]
        if names is not None:
            warn_of_duplicates(names)
            self._local.feature_names_in_ = names
        self._sent = None
        self.__dict__.pop("feature_names_in_", None)
        self.__dict__.update({name: x for name, x in vars(self._local).items() if name[-1] == "_" and name[0] != "_"})

    def _parameters(self, kind: type[BaseEstimator]) -> dict[str, Any]:
        """What `kind` has too, but for the callback, which is another here."""
        own = self.get_params(deep=False)
        return {name: own[name] for name in kind._get_param_names() if name in own and name != "callback"}

    def _transform(self, X: Any, row_exposure: Any = None) -> Any:
        """`transform` of each block on a worker, once it is computed."""
        check_is_fitted(self, "components_")
        dask = library("dask")
        client, source = self._over(X)
        if self._sent is None or self._sent.client is not client or self._sent.status != "finished":
            self._sent = client.scatter([self._local], broadcast=True, hash=False)[0]
        fitted, names = getattr(self._local, "feature_names_in_", None), source.names.columns
        if fitted is not None and names is not None:
            check_feature_names(names, fitted)
        row_exposure = align(row_exposure, "row_exposure", rows=Labels(source.names.rows))
        parts, done = source.parts(), 0
        if row_exposure is not None:
            n_rows = sum(n for _, n in parts)
            if math.isnan(n_rows):
                raise ValueError("row_exposure needs blocks of known numbers of rows: give a dask array, or a path")
            row_exposure = vector(row_exposure, int(n_rows), "row_exposure")
        out = []
        for part, n in parts:
            exposure = None
            if row_exposure is not None:
                exposure, done = row_exposure[done : done + int(n)], done + int(n)
            out.append((dask.delayed(_worker.transformed, pure=False)(self._sent, part, exposure), n))
        return self._stacked(out)

    def _stacked(self, blocks: list[tuple[Any, float]]) -> Any:
        array = library("dask.array")
        k, dtype = self._local.components_.shape[0], self._local.components_.dtype
        return array.concatenate([array.from_delayed(block, (n, k), dtype) for block, n in blocks])
