"""Bootstrap: how much the factors of a fit would differ if the counts were drawn again.

A replicate multiplies what was observed by random weights of mean 1, exponentially distributed, and fits again from the
model's factors (the Bayesian, or weighted likelihood, bootstrap). What is weighted are units that are independent:

    kind="poisson"   each unit of each count. The sum of x exponential weights is a draw of Gamma(x, 1), which replaces
                     the count x. Its variance is x, that of a Poisson count.
    kind="rows"      each row, for H: all counts and the exposure of row i are multiplied by v_i. Rows are independent
                     whatever the distribution of their counts. For W, with the replicate's H fixed, each column: counts
                     and exposure of column j are multiplied by u_j, so that W_i varies as the counts of row i vary
                     around their rates.

The counts that a prior adds, shape - 1 of each entry, are replaced by draws of Gamma(shape - 1, 1) as well; fixed ones
would keep entries without counts above what they may be.

Weights are positive, so that a replicate has the nonzeros of the counts. Each count that is allocated to an entry
varies like a draw of Gamma(1, 1), hence an entry like the posterior of a Poisson rate under a prior of shape 0. An
entry without counts is 0 in every replicate; the intervals of `Draws` with `one_count` take Jeffreys' prior there.

See `bootstrap` for the references.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_scalar
from sklearn.utils.validation import check_is_fitted

from fastpmf.analysis.draws import Draws, DrawsInterrupted, FactorDraws
from fastpmf.analysis.features import component_labels, distributions
from fastpmf.analysis.rates import RowEffects
from fastpmf.core.counts import Counts, Side
from fastpmf.core.factors import FLOATS
from fastpmf.counts import MemoryCounts, SparseRows
from fastpmf.counts.streamed import StreamedCounts
from fastpmf.fitting.fit import poisson_nmf
from fastpmf.fitting.options import FitData, KnownEffects
from fastpmf.fitting.problem import check_group_labels, number_groups, vector
from fastpmf.fitting.transform import transform_blocks
from fastpmf.kernels.threads import threads
from fastpmf.solvers import Status
from fastpmf.utils.memory import check_memory_for
from fastpmf.utils.messages import listed
from fastpmf.utils.progress import progress_bar
from fastpmf.utils.tables import Table, shown_as_table
from fastpmf.utils.validation import check_option, random_generator, random_seed
from fastpmf.utils.warnings import warn, without_fit_warnings

_SMALLEST = 1e-4  # of a weight: float32 still represents the product with a count, and the kernels need it positive
_RAISED = 1e-3  # of the mean of a component, where refits start
KINDS = ("rows", "poisson")


@shown_as_table
@dataclass(frozen=True, eq=False, kw_only=True)
class Bootstrap(FactorDraws):
    """Factors of bootstrap replicates.

    Attributes
    ----------
    H : Draws of shape (k, p)
        H of the replicates, with the sum of each row as in the model's `components_`: how much of the scale belongs to
        W is not determined by counts.
    W : Draws of shape (n, k), or None
        Scaled accordingly; None if they were not kept.
    similarity : ndarray of shape (n_replicates, k), float64
        Similarity of each component of a replicate to the model's (Bhattacharyya coefficient, as in
        `match_components`).
    same : ndarray of shape (n_replicates, k), bool
        Whether each component of a replicate is more similar to the model's component of this number than to others.
    feature_names, component_names, row_names : ndarray of str, or None
        Names, if there are any.

    See Also
    --------
    bootstrap : makes it.
    FactorDraws : its methods.

    Examples
    --------
    >>> from fastpmf import PoissonNMF, bootstrap
    >>> from fastpmf.datasets import make_poisson_counts
    >>> X = make_poisson_counts(100, 50, 2, nnz=1_000, random_state=0).X
    >>> replicates = bootstrap(PoissonNMF(2, random_state=0).fit(X), X, n_replicates=20, random_state=0)
    >>> replicates.identified
    array([ True,  True])
    >>> low, high = replicates.feature_shares.interval(0.9)
    >>> low.shape
    (2, 50)
    """

    similarity: np.ndarray
    same: np.ndarray

    @property
    def identified(self) -> np.ndarray:
        """Whether each component stays itself in at least 95 % of the replicates, (k,), bool.

        The intervals of other components mix those of several: they say little.
        """
        return self.same.mean(axis=0) >= 0.95

    def _table(self) -> Table:
        k, p = self.H.shape
        columns = {
            "component": component_labels(self.component_names, k).tolist(),
            "similarity": [f"{x:.3f}" for x in self.similarity.mean(axis=0)],
            "identified": ["yes" if yes else "no" for yes in self.identified],
        }
        return Table(f"{len(self):,} bootstrap replicates of {k} components of {p:,} features", columns)


def bootstrap(
    model: Any, X: Any, *, n_replicates: int = 50, kind: str = "rows", row_exposure: Any = None, groups: Any = None,
    mask: Any = None, keep_W: bool = True, random_state: Any = None, verbose: bool = False,
) -> Bootstrap:  # fmt: skip
    """Refit a model to reweighted counts, to see how certain its factors are.

    Parameters
    ----------
    model : PoissonNMF
        Fitted. Each replicate starts from its factors, and has its parameters.
    X : matrix of counts of shape (n_samples, n_features)
        The fitted counts.
    n_replicates : int, default=50
        At least 2. A 90 % interval needs 19, a 95 % interval 39.
    kind : {"rows", "poisson"}, default="rows"
        "rows": valid for any distribution of the counts, if rows are independent. "poisson": valid for Poisson counts
        only; for counts that vary more, as most do, its intervals are too narrow.
    row_exposure : float or array-like of shape (n_samples,), optional
        The exposures given to `fit`.
    groups : array-like of shape (n_samples,), optional
        The groups given to `fit`; their effects are fitted again in each replicate.
    mask : matrix of shape (n_samples, n_features), optional
        The mask given to `fit`.
    keep_W : bool, default=True
        Whether to keep W of all replicates, n_replicates times the memory of W. With kind="rows", False also saves the
        time to compute them.
    random_state : int, RandomState, Generator or None, default=None
        Equal seeds give bitwise equal replicates, for any number of threads.
    verbose : bool, default=False
        Whether to show a progress bar (lines without tqdm or a terminal) on standard error.

    Returns
    -------
    Bootstrap

    Raises
    ------
    TypeError, ValueError
        If an argument has an invalid type or value.
    MemoryError
        If the replicates exceed this process's limit.
    DrawsInterrupted
        On Ctrl-C after at least two replicates; a KeyboardInterrupt with those so far as `draws`.

    Warns
    -----
    ConvergenceWarning
        If replicates stopped at the model's `max_iter`.

    See Also
    --------
    Bootstrap : the result.
    PoissonNMF.sample_posterior : intervals that rely on priors and the Poisson distribution.
    select_n_components : the number of components, which is taken as given here.

    Notes
    -----
    Intervals show how an estimate varies, and not its bias: with many rows of few columns they contain the true H less
    often. Replicates stay near the model's optimum. Other optima, which fits from other starts find, are not visited:
    compare several fits for these. Parts of factors that were fixed in the fit are fitted.

    References
    ----------
    M. A. Newton and A. E. Raftery, "Approximate Bayesian inference with the weighted likelihood bootstrap", J. R. Stat.
    Soc. B 56 (1994). D. B. Rubin, "The Bayesian bootstrap", Annals of Statistics 9 (1981).

    Examples
    --------
    >>> from fastpmf import PoissonNMF, bootstrap
    >>> from fastpmf.datasets import make_poisson_counts
    >>> X = make_poisson_counts(100, 50, 2, nnz=1_000, random_state=0).X
    >>> model = PoissonNMF(2, random_state=0).fit(X)
    >>> bootstrap(model, X, n_replicates=20, random_state=0).to_frame(n=3).shape
    (6, 6)
    """
    if not hasattr(model, "prior_H") or not hasattr(model, "components_"):
        kind_of = type(model).__name__
        advice = "; HPF has sample_posterior" if kind_of == "HPF" else ""
        raise TypeError(f"model must be a fitted PoissonNMF, got {kind_of}{advice}")
    check_is_fitted(model)
    check_scalar(n_replicates, "n_replicates", (int, np.integer), min_val=2)
    check_option(kind, KINDS, "kind")
    counts, data = model._read_rows(X, row_exposure, groups, mask)
    if data.groups is not None:
        known = RowEffects.of(model, check_group_labels(data.groups, counts.shape[0]))
        if known.new.any():
            raise ValueError(f"groups must be those of the fit, got {listed(known.names[known.new].tolist())} too")
    (n, p), k, dtype = counts.shape, len(model.components_), model.components_.dtype
    n_bytes = n_replicates * k * (p + n * keep_W) * dtype.itemsize
    check_memory_for("bootstrap", n_bytes, ": take fewer replicates, or keep_W=False")
    rng = random_generator(random_state)
    seeds = [random_seed(rng) for _ in range(n_replicates)]
    H, W = np.empty((n_replicates, k, p), dtype), np.empty((n_replicates if keep_W else 0, n, k), dtype)
    same, similarity = np.empty((n_replicates, k), bool), np.empty((n_replicates, k))
    n_done = n_stopped = 0
    with threads(model.n_threads), progress_bar(n_replicates, "replicates", verbose=verbose) as progress:
        known = model._with_known_effects(counts, data)
        options = {"max_iter": model.max_iter, "tol": model.tol, "warn_unconverged": False}
        start, _ = transform_blocks(counts, model.components_, known, model._row_penalties(model.prior_W_), **options)
        refit = _Refit(model, counts, data, start)
        one_count = _one_count(start, model.components_, known, counts.shape)
        sums, roots = model.components_.sum(axis=1, dtype=np.float64), np.sqrt(distributions(model))

        def replicates() -> Bootstrap:
            return Bootstrap(
                H=Draws(H[:n_done], one_count[1]), W=Draws(W[:n_done], one_count[0]) if keep_W else None,
                similarity=similarity[:n_done], same=same[:n_done], **model._names(X),
            )  # fmt: skip

        try:
            for seed in seeds:
                progress.describe(f"replicate {n_done + 1} of {n_replicates}")
                w, h, converged = refit(kind, np.random.default_rng(seed), with_W=keep_W)
                own = h.sum(axis=1, dtype=np.float64)
                scale = np.divide(sums, own, out=np.ones(k), where=(own > 0) & (sums > 0))
                alike = roots @ np.sqrt(distributions(h)).T
                similarity[n_done], same[n_done] = np.diag(alike), alike.argmax(axis=0) == np.arange(k)
                H[n_done] = h * scale[:, None]
                if w is not None:
                    W[n_done] = w / scale
                n_stopped += not converged
                n_done += 1
                progress.update()
        except KeyboardInterrupt:
            if n_done < 2:
                raise KeyboardInterrupt("Interrupted before two replicates were complete.") from None
            raise DrawsInterrupted(replicates()) from None
    if n_stopped:
        warn(
            f"{n_stopped} of {n_replicates} replicates stopped at max_iter={model.max_iter} before converging, so that "
            "their intervals are too narrow: model.set_params(max_iter=...) increases it",
            ConvergenceWarning,
        )
    return replicates()


@dataclass(frozen=True)
class _Refit:
    """Fits of replicates, from W (n, k) and the components of the model."""

    model: Any
    counts: Counts
    data: FitData
    W: np.ndarray

    def __call__(
        self, kind: str, rng: np.random.Generator, *, with_W: bool
    ) -> tuple[np.ndarray | None, np.ndarray, bool]:
        """W, or None, H, and whether the fit converged."""
        model, n = self.model, self.counts.shape[0]
        data, prior_W, prior_H = self.data, self._prior_W(rng), self._prior_H(rng)
        if kind == "rows":
            v = _weights(rng, n)
            counts = _reweighted(self.counts, lambda X, rows: X.data * np.repeat(v[rows], np.diff(X.indptr)))
            data = replace(data, row_exposure=v * vector(data.row_exposure, n, "row_exposure"))
            if prior_W is not None:
                prior_W = 1 + v[:, None] * (prior_W[0] - 1), v[:, None] * prior_W[1]
        else:
            seed = int(rng.integers(2**62))

            def units(X: SparseRows, rows: slice) -> np.ndarray:
                return np.random.default_rng((seed, rows.start)).standard_gamma(X.data.astype(np.float64))

            counts = _reweighted(self.counts, units)
        options = {
            name: getattr(model, name)
            for name in ("alpha_W", "alpha_H", "l1_ratio", "prior_groups", "solver", "acceleration", "inner_steps",
                         "max_iter", "tol", "n_threads")
        }  # fmt: skip
        with without_fit_warnings():
            solution = poisson_nmf(
                counts, len(model.components_), W=_raised(self.W), H=_raised(model.components_.T).T, init="custom",
                prior_W=prior_W, prior_H=prior_H, row_exposure=data.row_exposure, column_exposure=data.column_exposure,
                background=data.background, groups=data.groups, mask=data.mask, dtype=model.components_.dtype,
                **options,
            )  # fmt: skip
        W: np.ndarray | None = solution.W
        if not with_W:
            W = None
        elif kind == "rows":
            W = self._rows(rng, solution.H, solution.group_effects)
        return W, solution.H, solution.status is Status.CONVERGED

    def _rows(self, rng: np.random.Generator, H: np.ndarray, effects: np.ndarray | None) -> np.ndarray:
        """W given H, with weights of columns."""
        data, p = self.data, self.counts.shape[1]
        u = _weights(rng, p)
        counts = _reweighted(self.counts, lambda X, *_: X.data * u[X.indices])
        data = replace(data, column_exposure=u * vector(data.column_exposure, p, "column_exposure"))
        if effects is not None:
            data = replace(data, groups=KnownEffects(number_groups(data.groups, len(self.W))[1], effects.T))
        penalties = self.model._row_penalties(self._prior_W(rng))
        options = {"max_iter": self.model.max_iter, "tol": self.model.tol, "warn_unconverged": False}
        return transform_blocks(counts, H, data, penalties, **options)[0]

    def _prior_W(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray] | None:
        """The prior of W, with draws in place of the counts that it adds."""
        if self.model.prior_W_ is None:
            return None
        shape, rate = (np.broadcast_to(x, self.W.shape).astype(np.float64) for x in self.model.prior_W_)
        return 1 + rng.standard_gamma(shape - 1), rate

    def _prior_H(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray] | None:
        """The prior of H, likewise."""
        if self.model.prior_H_ is None:
            return None
        size = self.model.components_.shape
        shape, rate = (
            np.broadcast_to(np.asarray(x)[:, None] if np.ndim(x) == 1 else x, size).astype(np.float64)
            for x in self.model.prior_H_
        )
        return 1 + rng.standard_gamma(shape - 1), rate


def _raised(A: np.ndarray) -> np.ndarray:
    """A with entries of at least a small share of the mean of their column: multiplicative updates never leave 0."""
    return np.maximum(A, _RAISED * A.mean(axis=0))


def _weights(rng: np.random.Generator, n: int) -> np.ndarray:
    """Exponential weights with mean 1."""
    weights = np.maximum(rng.standard_exponential(n), _SMALLEST)
    return weights / weights.mean()


def _reweighted(counts: Counts, weigh: Callable[[SparseRows, slice], np.ndarray]) -> Counts:
    """Counts of which `weigh` makes other ones, block by block: the same in each pass, and positive."""

    def blocks() -> Iterator[MemoryCounts]:
        for rows, block in counts.blocks():
            X = block.side(Side.ROWS)
            data = np.maximum(weigh(X, rows), _SMALLEST)
            yield MemoryCounts(replace(X, data=data.astype(X.data.dtype if X.data.dtype in FLOATS else np.float32)))

    return StreamedCounts(blocks) if counts.row_access_only else next(blocks())


def _one_count(W: np.ndarray, H: np.ndarray, data: FitData, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """How much of each entry of W, (n, k), and of H, (k, p), a single count makes; 0 where the other factor is."""
    n, p = shape
    r, c = vector(data.row_exposure, n, "row_exposure"), vector(data.column_exposure, p, "column_exposure")
    group, effects = (np.zeros(n, np.int64), np.ones((p, 1))) if data.groups is None else data.groups
    by_group = np.zeros((effects.shape[1], W.shape[1]))
    np.add.at(by_group, group, r[:, None] * W)
    of_rows = r[:, None] * ((effects * c[:, None]).T @ H.T)[group]
    of_columns = c * (effects @ by_group).T
    inverses = [np.divide(1.0, A, out=np.zeros_like(A), where=A > 0) for A in (of_rows, of_columns)]
    return inverses[0], inverses[1]
