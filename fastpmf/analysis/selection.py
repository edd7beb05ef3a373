"""The number of components: prediction of held-out counts, agreement between splits, and the gain of each component."""

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
from sklearn.base import BaseEstimator, clone
from sklearn.utils import check_scalar

from fastpmf.analysis.consensus import KEEP_ALL, Replicates, cluster
from fastpmf.analysis.features import component_labels, match_components
from fastpmf.analysis.rates import align_rates, check_no_groups, column_data, rate_factors
from fastpmf.analysis.scores import kl_divergence, poisson_log_likelihood
from fastpmf.core.counts import Side
from fastpmf.core.factors import padded
from fastpmf.counts import MemoryCounts, as_counts
from fastpmf.counts.labels import MatrixLabels, align, labels_of
from fastpmf.counts.split import thin_counts
from fastpmf.fitting.fit import INTERRUPTIONS, PoissonFit
from fastpmf.fitting.memory import check_memory_before_reading
from fastpmf.fitting.options import FitData, Penalties, PoissonOptions
from fastpmf.fitting.problem import has_entries
from fastpmf.fitting.seeds import SeededPrior
from fastpmf.fitting.transform import transform
from fastpmf.kernels.threads import threads
from fastpmf.solvers import make_solver
from fastpmf.solvers.component_search import make_search
from fastpmf.utils.messages import brief, listed
from fastpmf.utils.progress import progress_bar
from fastpmf.utils.tables import Table, data_frame, shown_as_table
from fastpmf.utils.validation import (
    check_array,
    check_factor,
    check_number,
    check_option,
    check_share,
    random_generator,
    random_seed,
)
from fastpmf.utils.warnings import without_fit_warnings

_BASELINE_SHARE = 0.01  # share of rates without structure in the rates that are scored
_COLUMN_GROUPS = 5  # of the columns of held-out rows, each of which is predicted from the others
_WIDER = 1.5  # components of the rough fit that a descent begins with, relative to the largest number
_ROUGH = 20  # iterations of that fit
_DEFAULT: dict[str, Any] = {"prior_W": "auto", "prior_H": "auto", "max_iter": 300}
_WEAK = Penalties(prior_W=(1.1, 0.0))  # no weight is zero, whatever the scale of H


@shown_as_table
@dataclass(frozen=True, eq=False)
class Selection:
    """Result of `select_n_components`; `str` of it is a table.

    Attributes
    ----------
    n_components : ndarray of shape (n_ks,), int64
        Numbers of components, ascending.
    log_likelihood : ndarray of shape (n_ks, n_splits), float64
        Log-likelihood of the held-out counts for each number and split, in nats per held-out count.
    similarity : ndarray of shape (n_ks,), float64
        Mean similarity of matched components (`match_components`) over pairs of splits: 1 if all splits give the same
        components; NaN with one split.
    seconds : ndarray of shape (n_ks, n_splits), float64
        Time of each number and split: of both fits, where there is one from its own start too.
    excess : ndarray of shape (n_ks,), float64, or None
        How much higher the objective is after merging than from its own start, in nats per count: the mean over
        the splits with both fits, whose lower one is used. None if there are none.
    silhouette : ndarray of shape (n_ks,), float64, or None
        Mean silhouette of the components of the replicates of each number (`Consensus`, all components kept): 1 if all
        replicates have the same components, and NaN for one component. None without replicates.
    divergence : ndarray of shape (n_ks,), float64, or None
        Divergence of the consensus of these replicates, with weights fitted to it, in nats per count. None without
        replicates.

    See Also
    --------
    select_n_components : computes it.
    fastpmf.plot.selection : draws it.

    Examples
    --------
    >>> from fastpmf import select_n_components
    >>> from fastpmf.datasets import make_poisson_counts
    >>> X = make_poisson_counts(300, 200, 3, nnz=20_000, random_state=0).X
    >>> selection = select_n_components(X, [2, 3, 4], random_state=0)
    >>> selection.best, selection.recommended
    (3, 3)
    >>> selection.log_likelihood.shape
    (3, 3)
    """

    n_components: np.ndarray
    log_likelihood: np.ndarray
    similarity: np.ndarray
    seconds: np.ndarray
    excess: np.ndarray | None = None
    silhouette: np.ndarray | None = None
    divergence: np.ndarray | None = None

    @property
    def mean(self) -> np.ndarray:
        """Mean of `log_likelihood` over the splits, (n_ks,)."""
        return self.log_likelihood.mean(axis=1)

    @property
    def best(self) -> int:
        """The number of components with the highest mean."""
        return int(self.n_components[np.argmax(self.mean)])

    @property
    def error(self) -> np.ndarray:
        """Standard error of the difference to the best over the splits, (n_ks,); NaN with one split."""
        n_splits = self.log_likelihood.shape[1]
        worse = self.log_likelihood[np.argmax(self.mean)] - self.log_likelihood
        return worse.std(axis=1, ddof=1) / np.sqrt(n_splits) if n_splits > 1 else np.full(len(worse), np.nan)

    @property
    def recommended(self) -> int:
        """The smallest number whose mean is within one `error` of the best; with one split the best."""
        near = self.mean >= self.mean.max() - np.nan_to_num(self.error)
        return int(self.n_components[np.flatnonzero(near)[0]])

    @property
    def best_is_largest(self) -> bool:
        """Whether the best number is the largest one tried, so that a larger one may be better."""
        return bool(self.best == self.n_components[-1])

    def to_frame(self) -> Any:
        """A pandas DataFrame with a row for each number of components.

        Its columns are log_likelihood (the mean), error, similarity, seconds (the sum over the splits), and those of
        excess, silhouette and divergence that are not None.

        Raises
        ------
        ImportError
            If pandas is not installed.
        """
        columns = {
            "log_likelihood": self.mean, "error": self.error, "similarity": self.similarity,
            "seconds": self.seconds.sum(axis=1),
        }  # fmt: skip
        for name in ("excess", "silhouette", "divergence"):
            if (values := getattr(self, name)) is not None:
                columns[name] = values
        return data_frame(columns, self.n_components, "n_components")

    def _table(self) -> Table:
        ks = self.n_components.tolist()
        mark = ["recommended" if k == self.recommended else "best" if k == self.best else "" for k in ks]
        columns = {
            "k": ks, "nats per count": [f"{x:.4f}" for x in self.mean],
            "error": [f"{x:.4f}" for x in self.error], "similarity": [f"{x:.3f}" for x in self.similarity],
            "seconds": [f"{x:.1f}" for x in self.seconds.sum(axis=1)],
        }  # fmt: skip
        if self.excess is not None:
            columns["excess"] = [f"{x:+.4f}" for x in self.excess]
        for name in ("silhouette", "divergence"):
            if (values := getattr(self, name)) is not None:
                columns[name] = [f"{x:.3f}" for x in values]
        columns[""] = mark
        note = "The best number is the largest that was tried: larger ones may be better."
        return Table("", columns, note=note * self.best_is_largest)


class SelectionInterrupted(KeyboardInterrupt):
    """Ctrl-C in `select_n_components`; `selection` has the complete splits.

    See Also
    --------
    select_n_components : raises it.

    Examples
    --------
    >>> from fastpmf import SelectionInterrupted, select_n_components
    >>> from fastpmf.datasets import make_poisson_counts
    >>> X = make_poisson_counts(300, 200, 3, nnz=20_000, random_state=0).X
    >>> try:
    ...     selection = select_n_components(X, [2, 3], n_splits=2, random_state=0)
    ... except SelectionInterrupted as interrupted:  # Ctrl-C
    ...     selection = interrupted.selection
    >>> selection.best
    3
    """

    def __init__(self, selection: Selection) -> None:
        super().__init__("interrupted; the attribute `selection` has the complete splits")
        self.selection = selection

    def __reduce__(self) -> tuple[Any, ...]:  # for pickling, since `args` is the message
        return type(self), (self.selection,)


def select_n_components(
    X: Any, n_components: Iterable[int] | int, *, estimator: Any = None, holdout: str = "rows", n_splits: int = 3,
    fraction: float = 0.1, own_starts: int = 0, n_replicates: int = 0, random_state: Any = None,
    n_threads: int | None = None, verbose: bool = False,
) -> Selection:  # fmt: skip
    """Choose the number of components by the likelihood of held-out counts.

    Each number of components is fitted to one part of the counts and scored on another; all numbers are compared on the
    same splits. By default H is fitted to most of the rows. W of the other rows is inferred from four fifths of the
    columns, at random, and scored on the last fifth, and so for each fifth. This needs counts that are independent
    given W and H, whatever their distribution.

    With ``holdout="counts"``, binomial thinning divides each count into two parts, which are independent if counts are
    Poisson (`thin_counts`). If counts vary more, which `overdispersion` tells, both parts share the extra variation,
    and the score rises with each component that fits it.

    The score is the log-likelihood of the held-out counts under rates that are 99 % those of the model and 1 % rates
    without structure, row sum times column sum (with half a count added to each), since maximum-likelihood fits have
    rates of zero, under which a count is impossible. All models are scored in this way.

    In each split the numbers are fitted from the largest one downwards. The first fit starts from a rough one with half
    as many components more, and each other one from the fit before: the most similar components are merged, some
    are replaced in one round, and all are fitted until they converge (init="shrink" of `PoissonNMF`). See the Notes.

    Parameters
    ----------
    X : matrix of counts of shape (n_samples, n_features)
        Anything that `as_counts` reads. To hold out counts they must be whole numbers.
    n_components : iterable of int, or int
        Numbers to try, each >= 1.
    estimator : PoissonNMF or HPF, default=None
        The model to choose the number for; its own `n_components`, `random_state` and `n_threads` are not used. None:
        posterior modes, ``PoissonNMF(k, prior_W="auto", prior_H="auto", max_iter=300)``. Maximum likelihood overfits
        sooner, so its best number is often smaller: give the model that you will fit.
    holdout : {"rows", "counts"}, default="rows"
        What to hold out, see above.
    n_splits : int, default=3
        Number of random splits, each with its own random start.
    fraction : float, default=0.1
        Share of the rows, or of the counts, to hold out.
    own_starts : int, default=0
        Number of splits, the first ones, in which each number is also fitted from its own start, which takes about
        three times as long. The lower of the two fits is used, and `Selection.excess` is their difference. 0 for models
        that are always fitted from their own start, see the Notes.
    n_replicates : int, default=0
        Number of fits of all counts from random starts, 0 or at least 2, for each number of components. With them the
        result has `silhouette` and `divergence`, the stability and the error by which users of consensus NMF choose.
        They don't enter `best` and `recommended`.
    random_state : int, RandomState, Generator or None, default=None
        For the splits and the starts.
    n_threads : int or None, default=None
        As in `PoissonNMF`.
    verbose : bool, default=False
        Whether to show a progress bar (lines without tqdm or a terminal) on standard error.

    Returns
    -------
    Selection

    Raises
    ------
    TypeError, ValueError
        If an argument has an invalid type or value.
    MemoryError
        If the estimated memory of the largest fit exceeds this process's limit.
    SelectionInterrupted
        On Ctrl-C after at least one complete split; a KeyboardInterrupt with the results so far as `selection`.

    See Also
    --------
    Selection : the result.
    component_gains : which components of one fit predict held-out counts.
    thin_counts : the splits of counts.
    overdispersion : whether the counts vary more than Poisson counts.

    Notes
    -----
    Fits that start from one with more components take about half of the time of fits from their own start, and mostly
    end as low or lower; the user guide has the figures. Splits stay independent, since no fit starts from another
    split's. `HPF`, and estimators with another `init` than "auto" or "merge" or with n_init > 1, are fitted from their
    own start for all numbers and in all splits.

    References
    ----------
    A. Neufeld, L. L. Gao, J. Popp, A. Battle and D. Witten, "Inference after latent variable estimation for
    single-cell RNA sequencing data", Biostatistics 25 (2024), on binomial thinning ("count splitting").
    A. B. Owen and P. O. Perry, "Bi-cross-validation of the SVD and the nonnegative matrix factorization", Annals of
    Applied Statistics 3 (2009), on holding out rows and columns together.

    Examples
    --------
    >>> from fastpmf import select_n_components
    >>> from fastpmf.datasets import make_poisson_counts
    >>> X = make_poisson_counts(300, 200, 3, nnz=20_000, random_state=0).X
    >>> select_n_components(X, [1, 2, 3, 4, 5], random_state=0).recommended
    3
    """
    numbers = list(n_components) if isinstance(n_components, Iterable) else [n_components]
    if not numbers:
        raise ValueError("n_components must hold at least one number")
    for k in numbers:
        check_scalar(k, "n_components", (int, np.integer), min_val=1)
    ks = np.unique(numbers).astype(np.int64)
    check_scalar(n_splits, "n_splits", (int, np.integer), min_val=1)
    check_scalar(own_starts, "own_starts", (int, np.integer), min_val=0)
    if estimator is not None and not (isinstance(estimator, BaseEstimator) and hasattr(estimator, "_check_memory")):
        raise TypeError(f"estimator must be a PoissonNMF or an HPF, got {brief(estimator)}")
    if own_starts and not _can_shrink(estimator):
        raise ValueError(
            "own_starts must be 0 for HPF, and with an init other than 'auto' and 'merge' or n_init > 1, since these "
            f"are always fitted from their own start; got {own_starts}"
        )
    for name, value in {} if estimator is None else estimator.get_params(deep=False).items():
        if isinstance(value, SeededPrior) and (ks != len(value.shape)).any():
            raise ValueError(
                f"n_components must be {len(value.shape)} only, that of the seeded prior {name} of estimator, got "
                f"{listed(ks.tolist())}"
            )
    check_option(holdout, _HOLDOUTS, "holdout")
    if holdout == "rows" and has_entries(getattr(estimator, "prior_W", None)):
        raise ValueError("holdout must be 'counts' with a prior_W of single rows, since rows are held out, got 'rows'")
    hold_out = _HOLDOUTS[holdout]
    check_scalar(n_replicates, "n_replicates", (int, np.integer), min_val=0)
    if n_replicates == 1:
        raise ValueError("n_replicates must be 0 or at least 2, got 1")
    rng = random_generator(random_state)
    descends = len(ks) > 1 and _can_shrink(estimator)
    n_both = min(own_starts, n_splits) if descends else 0
    scores, seconds = np.empty((2, len(ks), n_splits))
    excess = np.empty((len(ks), n_both))
    found: list[list[np.ndarray]] = []  # H of each split and number

    def model(k: int, seed: int | None = None, **options: Any) -> Any:
        return clone(estimator).set_params(n_components=k, random_state=seed, n_threads=n_threads, **options)

    def fit(train: MemoryCounts, k: int, seed: int, wide: _Fit | None = None, **options: Any) -> _Fit:
        start: dict[str, Any] = {}
        if wide is not None:
            start, options["init"] = {"W": wide.W, "H": wide.H}, "shrink"
        with without_fit_warnings():  # empty components are a valid result here
            if estimator is None:
                return _fit_default(train, k, seed, FitData(**start), **options)
            fitted = model(k, seed, **options)
            W = fitted.fit_transform(train, **start)

        def infer(X: MemoryCounts, columns: np.ndarray) -> np.ndarray:
            with without_fit_warnings():  # as with fits
                return np.asarray(fitted._with_features(columns).transform(X))

        return _Fit(W, fitted.components_, getattr(fitted, "objective_", math.nan), infer)

    def selection(n_done: int) -> Selection:
        both = excess[:, :n_done]
        return Selection(
            ks, scores[:, :n_done], _similarity(found[:n_done], len(ks)), seconds[:, :n_done],
            both.mean(axis=1) if both.size else None,
        )  # fmt: skip

    def agreement(k: int) -> tuple[float, float]:
        """Silhouette and divergence of replicates."""
        fits = []
        for r in range(n_replicates):
            progress.describe(f"k = {k}, replicate {r + 1} of {n_replicates}")
            fits.append(fit(counts, k, random_seed(rng), init="random"))
            progress.update()
        replicates = Replicates(np.stack([fit.H for fit in fits]), np.array([fit.objective for fit in fits]))
        clusters = cluster(replicates, density_threshold=KEEP_ALL)
        H = clusters.components(counts)
        W, _ = transform(counts, H, max_iter=200, tol=1e-3, warn_unconverged=False)
        return clusters.silhouette, kl_divergence(counts, W, H) / counts.total

    n_fits = len(ks) * (n_splits + n_both + n_replicates)
    with threads(n_threads), progress_bar(n_fits, "fits", verbose=verbose) as progress:
        if estimator is None:
            check_memory_before_reading(
                X, int(ks[-1]), None, make_solver("auto", "auto"), search=make_search("auto", "auto")
            )
        else:
            model(int(ks[-1]))._check_memory(X)
        counts = as_counts(X, n_threads=n_threads)
        try:
            for s in range(n_splits):
                train, score = hold_out(counts, fraction, rng)
                seed = random_seed(rng)
                found.append([])
                best: _Fit | None = None
                for a, k in reversed(list(enumerate(ks.tolist()))):
                    progress.describe(f"k = {k}, split {s + 1} of {n_splits}")
                    start, fits = time.perf_counter(), []
                    if descends:
                        n_rough = min(_ROUGH, _DEFAULT["max_iter"] if estimator is None else estimator.max_iter)
                        rough = {"init": "random", "max_iter": n_rough, "tol": 0, "callback": None}
                        wide = best or fit(train, math.ceil(_WIDER * k), seed, **rough)
                        fits.append(fit(train, k, seed, wide))
                        progress.update()
                    if not descends or s < n_both:
                        if descends:
                            progress.describe(f"k = {k} from its own start, split {s + 1} of {n_splits}")
                        fits.append(fit(train, k, seed))
                        progress.update()
                    seconds[a, s] = time.perf_counter() - start
                    best = min(fits, key=lambda fit: fit.objective)
                    if len(fits) == 2:
                        excess[a, s] = (fits[0].objective - fits[1].objective) / train.total
                    scores[a, s] = score(best)
                    found[s].insert(0, best.H)
            if not n_replicates:
                return selection(n_splits)
            silhouette, divergence = np.array([agreement(k) for k in ks.tolist()]).T
            return replace(selection(n_splits), silhouette=silhouette, divergence=divergence)
        except KeyboardInterrupt:
            n_done = sum(len(split) == len(ks) for split in found)
            if not n_done:  # not `FitInterrupted`, whose solution is that of a single fit
                raise KeyboardInterrupt("Interrupted before the first split was complete.") from None
            raise SelectionInterrupted(selection(n_done)) from None


class _Fit(NamedTuple):
    """A fit; NaN in place of the objective of an `HPF`.

    `infer` gives W of the rows of new counts of the columns with these numbers.
    """

    W: np.ndarray
    H: np.ndarray
    objective: float
    infer: Callable[[MemoryCounts, np.ndarray], np.ndarray]


def _fit_default(train: MemoryCounts, k: int, seed: int, data: FitData, **options: Any) -> _Fit:
    """Posterior modes; see `select_n_components`."""
    fit = PoissonFit(train, PoissonOptions(n_components=k, random_state=seed, **(_DEFAULT | options)), data)
    solution, _ = fit.run()
    if solution.status in INTERRUPTIONS:
        raise KeyboardInterrupt
    penalties = fit.problem.penalties

    def infer(X: MemoryCounts, columns: np.ndarray) -> np.ndarray:
        H = np.ascontiguousarray(solution.H[:, columns])
        return transform(X, H, max_iter=300, tol=1e-4, penalties=penalties, warn_unconverged=False)[0]

    return _Fit(solution.W, solution.H, solution.objective, infer)


# ── What is held out: the counts to fit, and the score of a fit to them ─────────────────────────────────────────

_Score = Callable[[_Fit], float]


def _hold_out_counts(counts: MemoryCounts, fraction: float, rng: Any) -> tuple[MemoryCounts, _Score]:
    """Thinned counts, and the score on the rest of them."""
    train, rest = thin_counts(counts, fraction, random_state=rng)
    if not train.total or not rest.total:
        raise ValueError(f"X must hold enough counts to fit and to hold out with fraction={fraction:g}")
    return train, lambda fit: _heldout_score(train, fit.W, fit.H, rest, fraction / (1 - fraction))


def _hold_out_rows(counts: MemoryCounts, fraction: float, rng: Any) -> tuple[MemoryCounts, _Score]:
    """The counts of most rows, and the score on each group of columns of the other rows, given the other groups."""
    check_share(fraction, "fraction")
    n, p = counts.shape
    if n < 2 or p < 2:
        raise ValueError(f"X must have at least two rows and two columns to hold out rows, got shape {counts.shape}")
    n_heldout = min(max(1, round(fraction * n)), n - 1)
    rows, columns = rng.permutation(n), rng.permutation(p)
    train, heldout = (counts.select_rows(np.sort(part)) for part in (rows[n_heldout:], rows[:n_heldout]))
    parts = []  # numbers of the columns that are given, their counts, and the same of those that are scored
    for group in np.array_split(columns, min(_COLUMN_GROUPS, p)):
        scored = np.zeros(p, bool)
        scored[group] = True
        numbers = np.flatnonzero(~scored), np.flatnonzero(scored)
        parts.append([(given, _take_columns(heldout, given)) for given in numbers])
    if not train.total or not any(given[1].total and scored[1].total for given, scored in parts):
        raise ValueError(f"X must hold enough counts to fit and to hold out rows with fraction={fraction:g}")
    totals = train.sums(Side.COLUMNS) + 0.5

    def score(fit: _Fit) -> float:
        total = 0.0
        for (given, part), (scored, rest) in parts:
            row_totals = (part.sums(Side.ROWS) + 0.5) / totals[given].sum()
            factors = _mixed(row_totals, totals[scored], fit.infer(part, given), fit.H[:, scored])
            total += poisson_log_likelihood(rest, *factors)
        return total / heldout.total

    return train, score


def _take_columns(counts: MemoryCounts, columns: np.ndarray) -> MemoryCounts:
    """The counts of these columns alone."""
    part, mask = as_counts(counts.to_scipy()[:, columns]).side(Side.ROWS), counts.unobserved
    if mask is None:
        return MemoryCounts(part)
    return MemoryCounts(part, unobserved=_take_columns(MemoryCounts(mask), columns).side(Side.ROWS))


_HOLDOUTS = {"counts": _hold_out_counts, "rows": _hold_out_rows}


def _can_shrink(estimator: Any) -> bool:
    """Whether fits start from others: of W and H, without a start that is asked for, such as "nndsvd" or n_init=10."""
    if estimator is None:
        return True
    options = estimator.get_params()
    return "prior_W" in options and options["init"] in ("auto", "merge") and options["n_init"] == 1


def heldout_log_likelihood(
    X: Any, W: Any, H: Any, heldout: Any, *, exposure: float | None = None, n_threads: int | None = None
) -> float:
    """Log-likelihood of held-out counts of the fitted rows, per held-out count, as in `select_n_components`.

    The rates are 99 % those of the model and 1 % rates without structure, row sum times column sum of X (with half a
    count added to each), since maximum-likelihood fits have rates of zero, under which a count is impossible.

    Parameters
    ----------
    X : matrix of counts of shape (n_samples, n_features)
        The counts that W was fitted to, such as the first part of `thin_counts`. The other arguments are aligned with X
        by labels if both have labels.
    W : array-like of shape (n_samples, n_components)
        Multiplied by the row exposures, if the fit had any.
    H : array-like of shape (n_components, n_features) or fitted estimator
        Of a fitted estimator, the rates have its column exposures and background.
    heldout : matrix of counts of shape (n_samples, n_features)
        Counts of the same rows that were not fitted, such as the second part of `thin_counts`.
    exposure : float, default=None
        Ratio of the rates of `heldout` to those of X: f / (1 - f) after thinning by f. None: the ratio of their totals.
    n_threads : int or None, default=None
        As in `PoissonNMF`.

    Returns
    -------
    float
        In nats per held-out count, higher is better.

    Raises
    ------
    TypeError, ValueError
        If an argument has an invalid type, shape or value.

    See Also
    --------
    thin_counts : splits counts into the two parts.
    select_n_components : compares numbers of components by this score.

    Examples
    --------
    >>> from fastpmf import PoissonNMF, heldout_log_likelihood, thin_counts
    >>> from fastpmf.datasets import make_poisson_counts
    >>> X = make_poisson_counts(300, 200, 3, nnz=20_000, random_state=0).X
    >>> train, test = thin_counts(X, 0.2, random_state=0)
    >>> model = PoissonNMF(3, random_state=0)
    >>> W = model.fit_transform(train)
    >>> independent = [[x] for x in train.to_scipy().sum(axis=1)], [train.to_scipy().sum(axis=0) / train.total]
    >>> gain = heldout_log_likelihood(train, W, model.components_, test)
    >>> bool(gain > heldout_log_likelihood(train, *independent, test))
    True
    """
    with threads(n_threads):
        labels = MatrixLabels.of(X)
        W, H = align_rates(X, W, H)
        counts = as_counts(X)
        rest = as_counts(align(heldout, "heldout", rows=labels.rows, columns=labels.columns), name="heldout")
        if rest.shape != counts.shape:
            raise ValueError(f"heldout must have the shape of X, {counts.shape}, got {rest.shape}")
        if not counts.total or not rest.total:
            raise ValueError("X and heldout must each hold a positive count")
        if exposure is None:
            exposure = rest.total / counts.total
        check_number(exposure, "exposure", positive=True)
        k = np.shape(W)[1] if np.ndim(W) == 2 else 1
        W, H = (check_factor(A, shape, name) for A, shape, name in (
            (W, (counts.shape[0], k), "W"), (H, (k, counts.shape[1]), "H")
        ))  # fmt: skip
        return _heldout_score(counts, W, H, rest, exposure)


def _heldout_score(train: MemoryCounts, W: np.ndarray, H: np.ndarray, rest: MemoryCounts, exposure: float) -> float:
    """The score of `heldout_log_likelihood`."""
    return poisson_log_likelihood(rest, *_mixed_by_totals(train, W, H, exposure)) / rest.total


def _mixed_by_totals(
    train: MemoryCounts, W: np.ndarray, H: np.ndarray, exposure: float
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """`_mixed` with the totals of rows and columns of the counts that were fitted."""
    rows, columns = (train.sums(side) + 0.5 for side in Side)
    return _mixed(exposure * rows / columns.sum(), columns, exposure * W.astype(np.float64), H)


def _mixed(rows: np.ndarray, columns: np.ndarray, W: np.ndarray, H: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Factors of the rates of held-out counts: those of the model, mixed with rates without structure."""
    W = np.column_stack([(1 - _BASELINE_SHARE) * W.astype(np.float64), _BASELINE_SHARE * rows])
    return W, np.vstack([H.astype(np.float64), columns])


@shown_as_table
class ComponentGains(NamedTuple):
    """Contribution of each component to the prediction of held-out counts.

    Attributes
    ----------
    gain : ndarray of shape (k,), float64
        Decrease of the log-likelihood of the held-out counts if the component is left out, in nats per held-out count.
    error : ndarray of shape (k,), float64
        Standard error of `gain` over the rows.
    component_names : ndarray of shape (k,), or None
        Names of the components, if they have any.

    See Also
    --------
    component_gains : computes them.

    Examples
    --------
    >>> import numpy as np
    >>> from fastpmf import ComponentGains
    >>> ComponentGains(gain=np.array([0.3, 0.001]), error=np.array([0.02, 0.003])).supported
    array([ True, False])
    """

    gain: np.ndarray
    error: np.ndarray
    component_names: np.ndarray | None = None

    @property
    def supported(self) -> np.ndarray:
        """Whether each gain is more than two standard errors above 0, (k,), bool."""
        return self.gain > 2 * self.error

    def to_frame(self) -> Any:
        """A pandas DataFrame with a row for each component, and columns gain, error and supported.

        Raises
        ------
        ImportError
            If pandas is not installed.
        """
        columns = {"gain": self.gain, "error": self.error, "supported": self.supported}
        return data_frame(columns, component_labels(self.component_names, len(self.gain)), "component")

    def _table(self) -> Table:
        components = component_labels(self.component_names, len(self.gain)).tolist()
        columns = {
            "component": components, "gain": self.gain.tolist(), "error": self.error.tolist(),
            "supported": ["yes" if yes else "no" for yes in self.supported],
        }  # fmt: skip
        return Table("Gain of each component, in nats per held-out count", columns)


def component_gains(X: Any, H: Any, heldout: Any, *, exposure: float, n_threads: int | None = None) -> ComponentGains:
    """Contribution of each component to the prediction of held-out counts; near 0 for noise and copies.

    The weights of all rows are fitted to X with all components, and again without each of them; each fit is scored on
    the held-out counts as in `select_n_components`. Leaving out a component that fits noise, or a copy of another one,
    does not lower the score. Coherence detects neither.

    Parameters
    ----------
    X : matrix of counts of shape (n_samples, n_features)
        The counts that H was fitted to, the first part of `thin_counts`. `H` and `heldout` are aligned with X by labels
        if both have labels.
    H : array-like of shape (n_components, n_features) or fitted estimator
        Of at least two components. Of a fitted estimator, the rates have its column exposures and background.
    heldout : matrix of counts of shape (n_samples, n_features)
        Counts of the same rows that were not fitted, the second part of `thin_counts`.
    exposure : float
        Ratio of the rates of `heldout` to those of X: f / (1 - f) after thinning by f.
    n_threads : int or None, default=None
        As in `PoissonNMF`.

    Returns
    -------
    ComponentGains

    Raises
    ------
    TypeError, ValueError
        If an argument has an invalid type, shape or value.

    See Also
    --------
    thin_counts : splits counts into the two parts.
    select_n_components : compares numbers of components in the same way.
    topic_quality : measures that need no held-out counts.

    Notes
    -----
    Of two copies of a component neither is supported: leave out one of them and call this function again. The weights
    are posterior modes under Gamma priors of shape 1.1 and rate 0, whatever model H was fitted with.

    Examples
    --------
    >>> from fastpmf import PoissonNMF, component_gains, thin_counts
    >>> from fastpmf.datasets import make_poisson_counts
    >>> X = make_poisson_counts(300, 200, 3, nnz=20_000, random_state=0).X
    >>> train, test = thin_counts(X, 0.2, random_state=0)
    >>> model = PoissonNMF(3, prior_W="auto", prior_H="auto", random_state=0).fit(train)
    >>> component_gains(train, model.components_, test, exposure=0.25).supported
    array([ True,  True,  True])
    """
    check_number(exposure, "exposure", positive=True)
    with threads(n_threads):
        labels = MatrixLabels.of(X)
        counts = as_counts(X)
        rest = as_counts(align(heldout, "heldout", rows=labels.rows, columns=labels.columns), name="heldout")
        check_no_groups(H, advice="component_gains has no groups")
        exposures, background = column_data(H, labels.columns)
        component_names = labels_of(H, 0).names
        H = check_array(align(H, "H", columns=labels.columns), "H")
        if H.ndim != 2 or len(H) < 2:
            raise ValueError(f"H must have at least two components, got shape {H.shape}")
        H = check_factor(H, (len(H), counts.shape[1]), "H").astype(np.float64)
        if rest.shape != counts.shape:
            raise ValueError(f"heldout must have the shape of X, {counts.shape}, got {rest.shape}")
        if not rest.total:
            raise ValueError("heldout must hold a positive count")

        data = FitData(column_exposure=exposures, background=background)

        def score(H: np.ndarray) -> np.ndarray:
            """Log-likelihood of each row, up to a constant of the data."""
            W, _ = transform(counts, H, max_iter=200, tol=1e-3, penalties=_WEAK, data=data, warn_unconverged=False)
            W, H = _mixed_by_totals(counts, *rate_factors(W, H, exposures, background), exposure)
            return rest.log_rate(padded(W, W.dtype), padded(H.T, H.dtype)) - W @ H.sum(axis=1)

        full = score(H)
        losses = np.array([full - score(np.delete(H, z, axis=0)) for z in range(len(H))])
    error = np.sqrt(len(full)) * losses.std(axis=1, ddof=1) / rest.total
    return ComponentGains(losses.sum(axis=1) / rest.total, error, component_names)


def _similarity(found: list[list[np.ndarray]], n_ks: int) -> np.ndarray:
    """Mean similarity of matched components over components and pairs of splits, (n_ks,); NaN with one split."""
    pairs = list(combinations(found, 2))
    if not pairs:
        return np.full(n_ks, np.nan)
    return np.array([np.mean([match_components(a[i], b[i])[1].mean() for a, b in pairs]) for i in range(n_ks)])
