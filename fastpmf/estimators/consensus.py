"""Consensus of many fits: what they agree on, component by component."""

import os
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import Any, Self

import numpy as np
from sklearn.base import clone
from sklearn.utils import check_scalar

from fastpmf.analysis.consensus import Clusters, Replicates, check_replicates, check_thresholds, cluster
from fastpmf.analysis.summary import component_shares
from fastpmf.core.counts import Counts
from fastpmf.counts import Dataset, MemoryCounts
from fastpmf.counts.split import thin_counts
from fastpmf.estimators._persistence import damaged_model, write_model
from fastpmf.estimators.poisson_nmf import PoissonNMF
from fastpmf.fitting.fit import check_any_counts
from fastpmf.fitting.options import FitData
from fastpmf.fitting.problem import vector
from fastpmf.kernels.threads import threads
from fastpmf.utils.files import READ_ERRORS, open_npz
from fastpmf.utils.messages import brief
from fastpmf.utils.progress import progress_bar
from fastpmf.utils.tables import Table, data_frame, shown_as_table
from fastpmf.utils.validation import check_option, check_shape_dtype, random_generator, random_seed
from fastpmf.utils.warnings import without_fit_warnings

_N_REPLICATES = 20
_DATA = ("row_exposure", "column_exposure", "background", "groups", "mask", "sample_weight")
_OWN_STARTS = ("auto", "merge", "random", "nndsvd", "nndsvda", "nndsvdar")


@shown_as_table
@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class Consensus(Clusters):
    """Result of `consensus`; `str` of it is a table.

    Attributes
    ----------
    model : PoissonNMF
        Fitted: its `components_` are the consensus, the largest first, and the other fitted attributes are those of
        the fit of W to it.
    W : ndarray of shape (n_samples, k)
        W for these components.
    replicates : Replicates
        The fits that the consensus is made of.
    labels : ndarray of shape (n_replicates, k), int64
        The component of the consensus that each component of each replicate is matched with.
    density : ndarray of shape (n_replicates, k), float64
        Mean distance of each component of each replicate to its nearest neighbours among those of all replicates,
        between 0 and sqrt(2); the distance of two components of similarity s (`match_components`) is sqrt(2 - 2 s).
    kept : ndarray of shape (n_replicates, k), bool
        Whether the density is at most `density_threshold`; others are outliers, which the consensus does not contain.
    stability : ndarray of shape (k,), float64
        For each component of the consensus, the mean similarity of the components matched with it, over all pairs of
        replicates and with outliers: 1 if all replicates have the same component.
    distance : ndarray of shape (n_replicates,), float64
        Mean distance of the components of each replicate to those of the consensus.
    silhouette : float
        Mean silhouette of the components that are kept, between -1 and 1: how much nearer they are to those with the
        same label than to those with the next nearest one. NaN with one component, or if there are fewer than two
        labels or no two components with the same one.
    density_threshold : float
        As given.

    See Also
    --------
    consensus : computes it.
    fastpmf.plot.consensus : draws it.

    Examples
    --------
    >>> from fastpmf import consensus
    >>> from fastpmf.datasets import make_poisson_counts
    >>> X = make_poisson_counts(300, 200, 3, nnz=20_000, random_state=0).X
    >>> found = consensus(X, 3, n_replicates=5, random_state=0)
    >>> found.W.shape, found.model.components_.shape, found.labels.shape
    ((300, 3), (3, 200), (5, 3))
    >>> found.model.transform(X[:2]).shape
    (2, 3)
    """

    model: PoissonNMF
    W: np.ndarray

    @property
    def share(self) -> np.ndarray:
        """Share of each component in the expected counts, (k,), without exposures and effects of groups."""
        return component_shares(self.W, self.model.components_)

    def to_frame(self, *, replicates: bool = False) -> Any:
        """The components, or the replicates, as a pandas DataFrame.

        Parameters
        ----------
        replicates : bool, default=False
            False: a row for each component, with columns stability, kept (the number of replicates in it) and share (of
            counts). True: a row for each replicate, with columns objective, distance and kept (the number of its
            components that are kept).

        Returns
        -------
        DataFrame

        Raises
        ------
        ImportError
            If pandas is not installed.
        """
        if replicates:
            columns = {
                "objective": self.replicates.objective, "distance": self.distance, "kept": self.kept.sum(axis=1)
            }  # fmt: skip
            return data_frame(columns, np.arange(len(self.distance)), "replicate")
        columns = {"stability": self.stability, "kept": self.n_kept, "share": self.share}
        return data_frame(columns, np.arange(len(self.stability)), "component")

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write everything to one `.npz` file; an existing file is replaced whole or not at all.

        It is a model file too: `PoissonNMF.load`, `fastpmf.io.load_model` and the command line read `model` from it.

        Parameters
        ----------
        path : path-like
            Ends in .npz.
        """
        kind, parameters, arrays, facts = self.model._saved()
        own = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("model", "replicates")}
        own |= self.replicates._asdict()
        write_model(
            path, kind, parameters, arrays | {f"consensus_{name}": np.asarray(A) for name, A in own.items()}, facts
        )

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read what `save` wrote.

        Raises
        ------
        FileNotFoundError
            If there is no such file.
        ValueError
            If the file is damaged, or has a model without a consensus.
        """
        model = PoissonNMF.load(path)
        k, p = model.components_.shape
        try:
            with open_npz(path) as (stored, _):
                own = {
                    name.removeprefix("consensus_"): stored[name]
                    for name in stored.files
                    if name.startswith("consensus_")
                }
            if not own:
                raise ValueError("it holds a model without a consensus")
            R = len(own["objective"])
            shapes = {
                "labels": ((R, k), np.dtype(np.int64)), "density": ((R, k), np.dtype(float)),
                "kept": ((R, k), np.dtype(bool)), "stability": ((k,), np.dtype(float)),
                "distance": ((R,), np.dtype(float)), "silhouette": ((), np.dtype(float)),
                "density_threshold": ((), np.dtype(float)),
            }  # fmt: skip
            arrays = {name: check_shape_dtype(own[name], *form, name) for name, form in shapes.items()}
            if arrays["labels"].size and not 0 <= arrays["labels"].min() <= arrays["labels"].max() < k:
                raise ValueError(f"labels must be from 0 to {k - 1}")
            replicates = check_replicates(Replicates(own["components"], own["objective"]), k, p)
            W = check_shape_dtype(own["W"], (len(own["W"]), k), model.components_.dtype, "W")
        except READ_ERRORS as error:
            raise damaged_model(path, error) from None
        values: dict[str, Any] = arrays | {name: float(arrays[name]) for name in ("silhouette", "density_threshold")}
        return cls(model=model, W=W, replicates=replicates, **values)

    def _table(self) -> Table:
        R, k = self.labels.shape
        features = self.model.top_features(6)
        columns: dict[str, Any] = {
            "component": list(range(k)), "stability": [f"{x:.3f}" for x in self.stability],
            "kept": [f"{n} of {R}" for n in self.n_kept], "share of counts": [f"{x:.1%}" for x in self.share],
            "top features": features._table().columns["features"],
        }  # fmt: skip
        facts = {
            "silhouette": f"{self.silhouette:.3f}",
            "outliers": f"{np.count_nonzero(~self.kept)} of {self.kept.size} components, of a density above "
            f"{self.density_threshold:g}",
        }  # fmt: skip
        return Table(f"Consensus of {R} replicates", columns, facts)


class ConsensusInterrupted(KeyboardInterrupt):
    """Ctrl-C in `consensus`; `replicates` has the complete ones.

    See Also
    --------
    consensus : raises it, and continues from these replicates.

    Examples
    --------
    >>> from fastpmf import ConsensusInterrupted, consensus
    >>> from fastpmf.datasets import make_poisson_counts
    >>> X = make_poisson_counts(300, 200, 3, nnz=20_000, random_state=0).X
    >>> try:
    ...     found = consensus(X, 3, n_replicates=5, random_state=0)
    ... except ConsensusInterrupted as interrupted:  # Ctrl-C
    ...     found = consensus(X, 3, replicates=interrupted.replicates)
    >>> len(found.distance)
    5
    """

    def __init__(self, replicates: Replicates) -> None:
        super().__init__("interrupted; the attribute `replicates` has the complete ones")
        self.replicates = replicates

    def __reduce__(self) -> tuple[Any, ...]:  # for pickling, since `args` is the message
        return type(self), (self.replicates,)


def consensus(
    X: Any, n_components: int, *, n_replicates: int | None = None, estimator: Any = None, resample: str | None = None,
    fraction: float = 0.5, density_threshold: float = 0.5, neighbors: float = 0.3, replicates: Replicates | None = None,
    row_exposure: Any = None, column_exposure: Any = None, background: Any = None, groups: Any = None, mask: Any = None,
    sample_weight: Any = None, random_state: Any = None, n_threads: int | None = None, verbose: bool = False,
) -> Consensus:  # fmt: skip
    """Components that many fits agree on, and how stable each of them is.

    The counts are fitted `n_replicates` times, from random starts. The components of all fits are put into
    `n_components` clusters that have one component of each fit. Components with few near neighbours in other fits are
    outliers. The consensus is the mean of each cluster without outliers, and W is fitted to it.

    Parameters
    ----------
    X : matrix of counts of shape (n_samples, n_features)
        As in `PoissonNMF.fit`.
    n_components : int
        Number of components, >= 1.
    n_replicates : int, default=None
        Number of fits, at least 2, those in `replicates` included. None: 20, or as many as `replicates` has.
    estimator : PoissonNMF, default=None
        The model to fit; its own `n_components`, `random_state` and `n_threads` are not used. Its priors must be the
        same for all components, and its `init` must need no given start. None: ``PoissonNMF(k, init="random")``, since
        the consensus of fits with the default search is hardly more reproducible, and takes more than twice as long.
    resample : {"rows", "counts"} or None, default=None
        What the fits differ in besides their starts. None: nothing. "rows": each fits a bootstrap sample of the rows.
        "counts": each fits the rest of the counts after `fraction` of them has been left out at random.
    fraction : float, default=0.5
        Share of the counts that each fit leaves out, between 0 and 1, with resample="counts".
    density_threshold : float, default=0.5
        Components whose mean distance to their nearest neighbours is larger are outliers. Distances are between 0 and
        sqrt(2), and 0.5 is that of two components of similarity 0.875; 1.5 keeps all components.
    neighbors : float, default=0.3
        Number of these neighbours, relative to the number of replicates.
    replicates : Replicates, default=None
        Fits to begin with: those of an earlier `Consensus`, for another threshold; of an interruption, to continue; or
        others, such as fits with `fastpmf.dask`. With equal `random_state` and `X`, the result is that of a single run.
    row_exposure, column_exposure, background, groups, mask, sample_weight
        As in `PoissonNMF.fit`, for all fits.
    random_state : int, RandomState, Generator or None, default=None
        For samples and starts.
    n_threads : int or None, default=None
        As in `PoissonNMF`.
    verbose : bool, default=False
        Whether to show a progress bar (lines without tqdm or a terminal) on standard error.

    Returns
    -------
    Consensus

    Raises
    ------
    TypeError, ValueError
        If an argument has an invalid type or value, or no component is kept.
    MemoryError
        If the estimated memory of a fit exceeds this process's limit.
    ConsensusInterrupted
        On Ctrl-C after at least two complete replicates; a KeyboardInterrupt that has them as `replicates`.

    Warns
    -----
    UserWarning
        If all components of a cluster are outliers; its centre is the mean of all of them.

    See Also
    --------
    Consensus : the result.
    match_components : the similarity of components, and the matching of two fits.
    select_n_components : chooses the number of components.

    Notes
    -----
    The mean of the probabilities P(j|z) of a cluster minimises the sum of their Kullback-Leibler divergences from it.
    A feature that none of the components in the consensus has, though it has counts, gets its share of all counts in
    each. The consensus has a higher objective than a single fit, since W alone is fitted to it; ``PoissonNMF(k,
    init="custom").fit(X, W=found.W, H=found.model.components_)`` goes to the optimum near it.

    The replicates are stored, n_replicates n_components n_features numbers; comparing them takes copies in float64, and
    a matrix of their similarities of (n_replicates n_components)^2 numbers.

    References
    ----------
    D. Kotliar et al., "Identifying gene expression programs of cell-type identity and cellular activity with
    single-cell RNA-Seq", eLife 8 (2019), for consensus, density and silhouettes.

    Examples
    --------
    >>> from fastpmf import consensus
    >>> from fastpmf.datasets import make_poisson_counts
    >>> X = make_poisson_counts(300, 200, 3, nnz=20_000, random_state=0).X
    >>> found = consensus(X, 3, n_replicates=10, random_state=0)
    >>> found.stability.round(2)
    array([1., 1., 1.])
    >>> every = consensus(X, 3, replicates=found.replicates, density_threshold=1.5)  # without another fit
    """
    check_scalar(n_components, "n_components", (int, np.integer), min_val=1)
    check_option(resample, ("rows", "counts"), "resample", none=True)
    check_thresholds(density_threshold, neighbors)
    if replicates is not None:
        replicates = check_replicates(replicates, n_components)
    n_given = 0 if replicates is None else len(replicates.components)
    if n_replicates is None:
        n_replicates = n_given or _N_REPLICATES
    check_scalar(n_replicates, "n_replicates", (int, np.integer), min_val=2)
    if n_replicates < n_given:
        raise ValueError(f"n_replicates must be at least {n_given}, the number of replicates given, got {n_replicates}")
    model = _model(estimator, n_components, n_threads, resample)
    rng = random_generator(random_state)
    seeds = [random_seed(rng) for _ in range(n_replicates)]
    data = FitData(
        row_exposure=row_exposure, column_exposure=column_exposure, background=background, groups=groups, mask=mask,
        sample_weight=sample_weight,
    )  # fmt: skip
    found = list(zip(*replicates, strict=True)) if replicates is not None else []
    with threads(n_threads), progress_bar(n_replicates - n_given + 1, "fits", verbose=verbose) as progress:
        model._check_memory(X)
        counts, data, features = model._read_training_data(X, data)
        check_any_counts(counts, data.mask)
        if replicates is not None:
            check_replicates(replicates, n_components, counts.shape[1])
        try:
            for r in range(n_given, n_replicates):
                progress.describe(f"replicate {r + 1} of {n_replicates}")
                found.append(_fit(model, counts, data, seeds[r], resample, fraction))
                progress.update()
            progress.describe("weights of the consensus")
            replicates = _collected(found)
            clusters = cluster(replicates, density_threshold=density_threshold, neighbors=neighbors)
            result = _with_model(clusters, model.set_params(random_state=seeds[0]), counts, data, features)
            progress.update()
        except KeyboardInterrupt:
            if len(found) < 2:
                raise KeyboardInterrupt("Interrupted before two replicates were complete.") from None
            raise ConsensusInterrupted(_collected(found)) from None
    return result


def _model(estimator: Any, k: int, n_threads: int | None, resample: str | None) -> PoissonNMF:
    """The estimator of a replicate; an error if its components are not exchangeable or its fits are all the same."""
    if estimator is None:
        return PoissonNMF(int(k), init="random", n_threads=n_threads)
    if not isinstance(estimator, PoissonNMF):
        raise TypeError(f"estimator must be a PoissonNMF, got {brief(estimator)}")
    for name in ("prior_W", "prior_H"):
        prior = getattr(estimator, name)
        if not (prior is None or isinstance(prior, str)) and any(np.size(part) > 1 for part in _parts(prior)):
            raise ValueError(f"estimator must have a {name} that is the same for all components, got {brief(prior)}")
    if estimator.init not in _OWN_STARTS:
        raise ValueError(f"estimator must have an init that needs no given start, got {estimator.init!r}")
    if estimator.init.startswith("nndsvd") and resample is None:
        raise ValueError(
            f"resample must be 'rows' or 'counts' if estimator has init={estimator.init!r}, whose fits are all the same"
        )
    return clone(estimator).set_params(n_components=int(k), n_threads=n_threads, verbose=False)


def _parts(prior: Any) -> Iterator[Any]:
    """Shape and rate."""
    yield from (prior.shape, prior.rate) if hasattr(prior, "rate") else prior


def _fit(
    model: PoissonNMF, counts: Counts, data: FitData, seed: int, resample: str | None, fraction: float
) -> tuple[np.ndarray, float]:
    """H and the objective of a replicate."""
    rng, n = np.random.RandomState(seed), counts.shape[0]
    if resample == "rows":
        weight = 1.0 if data.sample_weight is None else vector(data.sample_weight, n, "sample_weight", zero=True)
        data = replace(data, sample_weight=weight * rng.multinomial(n, np.full(n, 1 / n)))
    elif resample == "counts":
        if not isinstance(counts, MemoryCounts):
            raise ValueError(f"resample must be None for counts that are not in memory, got {resample!r}")
        counts, _ = thin_counts(counts, fraction, random_state=rng)
    fitted = clone(model).set_params(random_state=rng)
    with without_fit_warnings():  # empty components and fits that are not converged are outliers, at worst
        fitted.fit(counts, **{name: getattr(data, name) for name in _DATA})
    return fitted.components_, fitted.objective_


def _collected(found: list[tuple[np.ndarray, float]]) -> Replicates:
    components, objectives = zip(*found, strict=True)
    return Replicates(np.stack(components), np.array(objectives))


def _with_model(
    clusters: Clusters, model: PoissonNMF, counts: Counts, data: FitData, features: dict[str, Any]
) -> Consensus:
    """The clusters with a model whose components are their centres, the largest first, and its W."""
    H = clusters.components(counts)
    names = features.get("feature_names_in_")
    model = model.set_params(init="random", n_init=1)
    W = model.fit_transform(
        counts if names is None else Dataset(counts, column_names=names),
        fixed_H=H.astype(clusters.replicates.components.dtype), **{name: getattr(data, name) for name in _DATA},
    )  # fmt: skip
    W = np.asarray(W)  # scikit-learn may be configured to return DataFrames
    order = np.argsort(-component_shares(W, model.components_), kind="stable")
    model.components_, model.mean_W_ = model.components_[order], model.mean_W_[order]
    clusters = clusters.ordered(order)
    own = {f.name: getattr(clusters, f.name) for f in fields(clusters)}
    return Consensus(model=model, W=np.ascontiguousarray(W[:, order]), **own)
