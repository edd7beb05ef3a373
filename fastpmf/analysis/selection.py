"""How many components: what each number predicts of held-out counts, and whether it finds the same ones again."""

import itertools
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from sklearn.base import clone
from sklearn.utils import check_scalar

from fastpmf.analysis.features import match_components
from fastpmf.analysis.scores import poisson_log_likelihood
from fastpmf.core.counts import Side
from fastpmf.core.factors import padded
from fastpmf.counts import MemoryCounts, as_counts
from fastpmf.counts.labels import MatrixLabels, align
from fastpmf.counts.thinning import thin_counts
from fastpmf.estimators.hpf import HPF
from fastpmf.estimators.poisson_nmf import PoissonNMF
from fastpmf.fitting.fit import without_fit_warnings
from fastpmf.fitting.memory import check_declared
from fastpmf.fitting.problem import Known, Penalties
from fastpmf.fitting.transform import transform
from fastpmf.kernels.threads import threads
from fastpmf.solvers import Solver, solver_of
from fastpmf.solvers.mean_field import MeanField
from fastpmf.utils.messages import brief
from fastpmf.utils.progress import progress_bar
from fastpmf.utils.validation import check_array, check_factor, check_number, random_generator

MIXED = 0.01  # share of the rates without structure in the rates that are scored
_WEAK = Penalties(prior_W=(1.1, 0.0))  # no weight is zero, whatever the scale of H
LINE = "{:>6}{:>16}{:>12}{:>12}{:>10}"


@dataclass(frozen=True, eq=False)
class Selection:
    """What `select_n_components` found; printed, a table.

    Attributes
    ----------
    n_components : ndarray of shape (n_ks,), int64
        Numbers of components, ascending.
    log_likelihood : ndarray of shape (n_ks, n_splits), float64
        Of held-out counts, per count, in nats, of each number and split.
    similarity : ndarray of shape (n_ks,), float64
        Mean over pairs of splits of how alike matched components are (`match_components`): 1 where each split finds the
        same; NaN with one split.
    seconds : ndarray of shape (n_ks, n_splits), float64
        Of each fit.
    """

    n_components: np.ndarray
    log_likelihood: np.ndarray
    similarity: np.ndarray
    seconds: np.ndarray

    @property
    def mean(self) -> np.ndarray:
        """Mean log-likelihood per held-out count over the splits, (n_ks,)."""
        return self.log_likelihood.mean(axis=1)

    @property
    def best(self) -> int:
        """The number that predicts best."""
        return int(self.n_components[np.argmax(self.mean)])

    @property
    def error(self) -> np.ndarray:
        """Standard error of how much worse each is than the best, split by split, (n_ks,); NaN with one split."""
        n_splits = self.log_likelihood.shape[1]
        worse = self.log_likelihood[np.argmax(self.mean)] - self.log_likelihood
        return worse.std(axis=1, ddof=1) / np.sqrt(n_splits) if n_splits > 1 else np.full(len(worse), np.nan)

    @property
    def recommended(self) -> int:
        """The smallest number that is worse than the best by no more than that error; with one split the best."""
        near = self.mean >= self.mean.max() - np.nan_to_num(self.error)
        return int(self.n_components[np.flatnonzero(near)[0]])

    @property
    def at_the_end(self) -> bool:
        """Whether the best is the largest number tried, so that a larger one may be better still."""
        return bool(self.best == self.n_components[-1])

    def __str__(self) -> str:
        lines = [LINE.format("k", "nats per count", "error", "similarity", "seconds")]
        for k, mean, error, alike, seconds in zip(
            self.n_components, self.mean, self.error, self.similarity, self.seconds.sum(axis=1), strict=True
        ):
            mark = "  recommended" if k == self.recommended else "  best" if k == self.best else ""
            lines.append(LINE.format(k, f"{mean:.4f}", f"{error:.4f}", f"{alike:.3f}", f"{seconds:.1f}") + mark)
        if self.at_the_end:
            lines.append("The best is the largest that was tried: larger ones may be better.")
        return "\n".join(lines)


class SelectionInterrupted(KeyboardInterrupt):
    """Ctrl-C in `select_n_components`; `selection` has the splits that were done by then."""

    def __init__(self, selection: Selection) -> None:
        super().__init__("interrupted; .selection has the splits that were done")
        self.selection = selection

    def __reduce__(self) -> tuple[Any, ...]:  # so that it comes whole out of a worker process
        return type(self), (self.selection,)


def select_n_components(
    X: Any,
    n_components: Iterable[int] | int,
    *,
    estimator: PoissonNMF | HPF | None = None,
    n_splits: int = 3,
    fraction: float = 0.1,
    random_state: Any = None,
    n_threads: int | None = None,
    verbose: bool = False,
) -> Selection:
    """Choose the number of components: fit each number to part of the counts, and score it on the rest.

    Counts are split by binomial thinning into two parts that are independent under the model (`thin_counts`), so that
    no entry is missing from the fit and the fit has seen nothing of the rest. All numbers are compared on the same
    splits.

    The score is the log-likelihood of the rest under rates that are 99 % the model's and 1 % those without structure,
    row sum times column sum (with half a count more in each), since the zeros of a maximum-likelihood fit can call a
    count impossible. All models are scored in this way.

    Parameters
    ----------
    X : matrix of counts of shape (n_samples, n_features)
        Anything that `as_counts` reads, of whole numbers.
    n_components : iterable of int, or int
        Numbers to try, each >= 1.
    estimator : PoissonNMF or HPF, default=None
        The model to choose the number for, with any `n_components`: clones of it are fitted with each number and the
        seed of the split. None is ``PoissonNMF(1, prior_W="auto", prior_H="auto", max_iter=300)``, posterior modes.
        Maximum likelihood overfits sooner, so its best number is often smaller: give the model that you will fit.
    n_splits : int, default=3
        Random splits, each with a start of its own.
    fraction : float, default=0.1
        Of the counts that is held out.
    random_state : int, RandomState, Generator or None, default=None
        For the splits and the starts.
    n_threads : int or None, default=None
        As in `PoissonNMF`; the estimator's own is not used.
    verbose : bool, default=False
        Show a bar, with tqdm where it is installed.

    Returns
    -------
    Selection

    Raises
    ------
    TypeError, ValueError
        If an argument has an invalid type or value.
    SelectionInterrupted
        On Ctrl-C once a split is done; a KeyboardInterrupt whose `selection` is what was found by then.

    References
    ----------
    A. Neufeld, L. L. Gao, J. Popp, A. Battle and D. Witten, "Inference after latent variable estimation for
    single-cell RNA sequencing data", Biostatistics 25 (2024), on binomial thinning ("count splitting").

    Examples
    --------
    >>> from fastpmf import select_n_components
    >>> from fastpmf.datasets import make_poisson_counts
    >>> X = make_poisson_counts(300, 200, 3, nnz=20_000, random_state=0).X
    >>> select_n_components(X, [1, 2, 3, 4, 5], random_state=0).recommended
    3
    """
    ks = np.unique([_number(k) for k in (n_components if isinstance(n_components, Iterable) else [n_components])])
    if not len(ks):
        raise ValueError("n_components must hold at least one number")
    check_scalar(n_splits, "n_splits", (int, np.integer), min_val=1)
    if estimator is None:
        estimator = PoissonNMF(1, prior_W="auto", prior_H="auto", max_iter=300)
    elif not isinstance(estimator, PoissonNMF | HPF):
        raise TypeError(f"estimator must be a PoissonNMF or an HPF, got {brief(estimator)}")
    rng = random_generator(random_state)
    scores, seconds = np.empty((2, len(ks), n_splits))
    found: list[list[np.ndarray]] = []  # H of each split and number

    def selection(done: int) -> Selection:
        return Selection(ks.astype(np.int64), scores[:, :done], _similarity(found[:done], len(ks)), seconds[:, :done])

    with threads(n_threads), progress_bar(len(ks) * n_splits, "fit", verbose=verbose) as tick:
        check_declared(X, int(ks[-1]), estimator.dtype, _solver(estimator)(), n_init=estimator.n_init)
        counts = as_counts(X, n_threads=n_threads)
        try:
            for s in range(n_splits):
                train, rest = thin_counts(counts, fraction, random_state=rng)
                if not train.total or not rest.total:
                    raise ValueError(f"X must hold enough counts for fraction={fraction:g} to leave some on both sides")
                seed = int(rng.integers(2**31)) if isinstance(rng, np.random.Generator) else int(rng.randint(2**31 - 1))
                found.append([])
                for a, k in enumerate(ks):
                    began = time.perf_counter()
                    model = clone(estimator).set_params(n_components=int(k), random_state=seed, n_threads=n_threads)
                    with without_fit_warnings():  # an empty component is an answer too
                        W = model.fit_transform(train)
                    seconds[a, s] = time.perf_counter() - began
                    factors = _mixed(train, W, model.components_, fraction / (1 - fraction))
                    scores[a, s] = poisson_log_likelihood(rest, *factors) / rest.total
                    found[s].append(model.components_)
                    tick()
            return selection(n_splits)
        except KeyboardInterrupt:
            done = sum(len(split) == len(ks) for split in found)
            if not done:  # what a single fit holds is none of it
                raise KeyboardInterrupt("Interrupted from the keyboard before a split was done.") from None
            raise SelectionInterrupted(selection(done)) from None


def _solver(estimator: PoissonNMF | HPF) -> Callable[[], Solver]:
    """A function that returns a new solver of an estimator's fits."""
    if isinstance(estimator, PoissonNMF):
        return solver_of(estimator.solver, estimator.acceleration)
    priors = estimator._priors()
    return lambda: MeanField(priors)


def _mixed(train: MemoryCounts, W: np.ndarray, H: np.ndarray, exposure: float) -> tuple[np.ndarray, np.ndarray]:
    """Factors of the rates of held-out counts: the model's, mixed with a share `MIXED` of rates without structure."""
    rows, columns = (train.sums(side) + 0.5 for side in Side)
    W = exposure * np.column_stack([(1 - MIXED) * W.astype(np.float64), MIXED * rows / columns.sum()])
    return W, np.vstack([H.astype(np.float64), columns])


class ComponentGains(NamedTuple):
    """What each component adds to the prediction of held-out counts.

    Attributes
    ----------
    gain : ndarray of shape (k,), float64
        Decrease of the log-likelihood of the held-out counts if the component is left out, in nats per held-out count.
    error : ndarray of shape (k,), float64
        Standard error of `gain` over the rows.
    """

    gain: np.ndarray
    error: np.ndarray

    @property
    def supported(self) -> np.ndarray:
        """Whether each gain is more than two standard errors above 0, (k,), bool."""
        return self.gain > 2 * self.error


def component_gains(X: Any, H: Any, heldout: Any, *, exposure: float, n_threads: int | None = None) -> ComponentGains:
    """How much each component adds to the prediction of held-out counts; noise and copies of components add nothing.

    The weights of all rows are fitted to X with all components, and again without each of them; both are scored on the
    held-out counts as in `select_n_components`. Without a component that fits noise, or is a copy of another, the score
    does not fall. Coherence shows neither.

    Parameters
    ----------
    X : matrix of counts of shape (n_samples, n_features)
        The counts that H was fitted to, the first part of `thin_counts`. `H` and `heldout` are aligned with X by labels
        if both have labels.
    H : array-like of shape (n_components, n_features)
        `components_` of a model of at least two components.
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

    Notes
    -----
    Of two copies of one component neither is supported: leave out one of them and call this function again. The weights
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
        H = check_array(align(H, "H", columns=labels.columns), "H")
        if H.ndim != 2 or len(H) < 2:
            raise ValueError(f"H must have at least two components, got shape {H.shape}")
        H = check_factor(H, (len(H), counts.shape[1]), "H").astype(np.float64)
        if rest.shape != counts.shape:
            raise ValueError(f"heldout must have the shape of X, {counts.shape}, got {rest.shape}")
        if not rest.total:
            raise ValueError("heldout must hold a positive count")

        def score(H: np.ndarray) -> np.ndarray:
            W, _ = transform(counts, H, max_iter=200, tol=1e-3, penalties=_WEAK, known=Known(), warn_unconverged=False)
            W, H = _mixed(counts, W, H, exposure)
            return rest.log_rate(padded(W, W.dtype), padded(H.T, H.dtype)) - W @ H.sum(axis=1)

        whole = score(H)
        losses = np.array([whole - score(np.delete(H, z, axis=0)) for z in range(len(H))])
    error = np.sqrt(len(whole)) * losses.std(axis=1, ddof=1) / rest.total
    return ComponentGains(losses.sum(axis=1) / rest.total, error)


def _similarity(found: list[list[np.ndarray]], n_ks: int) -> np.ndarray:
    """How alike the matched components of two splits are, mean over components and pairs of splits, (n_ks,)."""
    pairs = list(itertools.combinations(found, 2))
    if not pairs:
        return np.full(n_ks, np.nan)
    return np.array([np.mean([match_components(a[i], b[i])[1].mean() for a, b in pairs]) for i in range(n_ks)])


def _number(k: Any) -> int:
    check_scalar(k, "n_components", (int, np.integer), min_val=1)
    return int(k)
