"""How many components: what each number predicts of held-out counts, and whether it finds the same ones again."""

import itertools
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.utils import check_random_state, check_scalar

from fastpmf.counts import as_counts
from fastpmf.counts.thinning import thin_counts
from fastpmf.estimators._fit import poisson_nmf, silent_of_dead_components
from fastpmf.estimators._progress import counted
from fastpmf.estimators._room import check_declared
from fastpmf.kernels._jit import threads
from fastpmf.model.objective import poisson_log_likelihood
from fastpmf.model.reading import match_components
from fastpmf.solvers import solver_of

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
    n_splits: int = 3,
    fraction: float = 0.1,
    prior: Any = "auto",
    max_iter: int = 300,
    tol: float = 1e-4,
    random_state: Any = None,
    dtype: Any = None,
    n_threads: int | None = None,
    verbose: bool = False,
) -> Selection:
    """Fit each number of components to part of the counts, and score what it says of the rest.

    Counts are split by binomial thinning, which leaves two parts that are independent under the model (`thin_counts`),
    so that no entry is missing from the fit and nothing of the rest was seen. Posterior modes are fitted, since maximum
    likelihood can call a count impossible. Every number has the same splits, so that they are compared pair by pair.

    Parameters
    ----------
    X : matrix of counts of shape (n_samples, n_features)
        Anything that `as_counts` reads, of whole numbers.
    n_components : iterable of int, or int
        Numbers to try, each >= 1.
    n_splits : int, default=3
        Random splits, each with a start of its own.
    fraction : float, default=0.1
        Of the counts that is held out.
    prior : (shape, rate), "auto" or "sparse", default="auto"
        `prior_W` and `prior_H` of the fits; see `PoissonNMF`.
    max_iter, tol, random_state, dtype, n_threads
        As in `PoissonNMF`.
    verbose : bool, default=False
        Show a bar, with tqdm where it is installed.

    Returns
    -------
    Selection

    Raises
    ------
    TypeError, ValueError
        In one sentence that names the argument, what it got and what it wants.
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
    rng = random_state if isinstance(random_state, np.random.Generator) else check_random_state(random_state)
    scores, seconds = np.empty((2, len(ks), n_splits))
    found: list[list[np.ndarray]] = []  # H of each split and number

    def selection(done: int) -> Selection:
        return Selection(ks.astype(np.int64), scores[:, :done], _similarity(found[:done], len(ks)), seconds[:, :done])

    with threads(n_threads), counted(len(ks) * n_splits, "fit", verbose=verbose) as tick:
        check_declared(X, int(ks[-1]), dtype, solver_of("auto", "auto"))
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
                    with silent_of_dead_components():  # they are an answer too
                        fit = poisson_nmf(
                            train, int(k), prior_W=prior, prior_H=prior, max_iter=max_iter, tol=tol, random_state=seed,
                            dtype=dtype, n_threads=n_threads,
                        )  # fmt: skip
                    seconds[a, s] = time.perf_counter() - began
                    share = fraction / (1 - fraction)
                    scores[a, s] = poisson_log_likelihood(rest, fit.W.astype(np.float64) * share, fit.H) / rest.total
                    found[s].append(fit.H)
                    tick()
            return selection(n_splits)
        except KeyboardInterrupt:
            done = sum(len(split) == len(ks) for split in found)
            if not done:  # what a single fit holds is none of it
                raise KeyboardInterrupt("Interrupted from the keyboard before a split was done.") from None
            raise SelectionInterrupted(selection(done)) from None


def _similarity(found: list[list[np.ndarray]], n_ks: int) -> np.ndarray:
    """How alike the matched components of two splits are, mean over components and pairs of splits, (n_ks,)."""
    pairs = list(itertools.combinations(found, 2))
    if not pairs:
        return np.full(n_ks, np.nan)
    return np.array([np.mean([match_components(a[i], b[i])[1].mean() for a, b in pairs]) for i in range(n_ks)])


def _number(k: Any) -> int:
    check_scalar(k, "n_components", (int, np.integer), min_val=1)
    return int(k)
