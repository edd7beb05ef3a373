"""Draws from the posterior of W and H, by Gibbs sampling.

With Gamma priors by shape and rate, exposures r and c, and a background b, the model is

    x_ij ~ Poisson(r_i c_j (sum_k W_ik H_kj + b_j)),   W_ik ~ Gamma(a_ik, xi_ik),   H_kj ~ Gamma(c_kj, eta_kj)

A sweep draws each of these given all others, which leaves the posterior unchanged:

    z_ij.  ~ Multinomial(x_ij, shares of W_ik H_kj, and of b_j)                the units of a count, by component
    W_ik   ~ Gamma(a_ik + sum_j z_ijk,  xi_ik + r_i sum_j c_j H_kj)
    H_kj   ~ Gamma(c_kj + sum_i z_ijk,  eta_kj + c_j sum_i r_i W_ik)

and, of an `HPF` with its hierarchy, where xi_ik = xi_i and eta_kj = eta_j,

    xi_i   ~ Gamma(a' + sum_k a_k,  a' / b' + sum_k W_ik),     and likewise eta_j

The z_ijk are never stored, only their sums over rows and over columns. Given z, W and H the likelihood still does not
depend on a factor s by which W_k is multiplied and H_k divided. Draws of W and H in turn move it by about one over the
square root of the counts of the component, so that it is also drawn on its own: with A_k = sum_i xi_ik W_ik and
B_k = sum_j eta_kj H_kj the density of u = log s is proportional to

    exp(lambda u - A exp(u) - B exp(-u)),    lambda = sum_i a_ik - sum_j c_kj

which is log-concave. A normal distribution with its mode and curvature proposes u, and a Metropolis step accepts it.

Source: A. T. Cemgil, "Bayesian inference for nonnegative matrix factorisation models", Computational Intelligence and
Neuroscience (2009), section 3.3, for priors without a hierarchy, exposures and scales.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from sklearn.utils import check_scalar

from fastpmf.analysis.draws import Draws, DrawsInterrupted, FactorDraws
from fastpmf.analysis.features import component_labels
from fastpmf.core.counts import Counts, Side
from fastpmf.core.factors import column_sums, padded
from fastpmf.counts import MemoryCounts
from fastpmf.counts.masked import hide_entries
from fastpmf.kernels.draw import ROWS_AT_ONCE, allocate
from fastpmf.kernels.threads import current_threads
from fastpmf.model.hierarchy import GammaPrior
from fastpmf.utils.memory import check_memory_for
from fastpmf.utils.progress import progress_bar
from fastpmf.utils.tables import Table, shown_as_table
from fastpmf.utils.validation import random_generator, random_seed
from fastpmf.utils.warnings import warn

_FEW = 10  # effective draws below which a warning is given
_SMALLEST = 1e-150  # of an entry: so small that it changes no allocation, and products of two are positive


class EntryPrior(NamedTuple):
    """The prior of the entries of a factor with a row for each row or column of the counts.

    Attributes
    ----------
    shape : ndarray of shape (1 or n_rows, k), float64
    rate : ndarray of shape (1 or n_rows, k), float64
        Not used with a hierarchy.
    hierarchy : GammaPrior or None
        The prior of the rates of the rows, if they are drawn too.
    """

    shape: np.ndarray
    rate: np.ndarray
    hierarchy: GammaPrior | None = None

    @classmethod
    def of(cls, prior: GammaPrior, n_components: int, n_rows: int) -> "EntryPrior":
        """The prior of a factor of an `HPF`."""
        rate = np.full((1, 1), prior.activity_mean)
        return cls(prior.entry_shapes(n_components, n_rows), rate, prior if prior.hierarchical else None)

    def start_rates(self, A: np.ndarray) -> np.ndarray:
        """Rates of the entries to start from, given the factor."""
        if self.hierarchy is None:
            return self.rate
        return self._activity_shape() / (self.hierarchy.activity_rate + A.sum(axis=1, keepdims=True))

    def draw_rates(self, A: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Rates of the entries drawn given the factor, (1 or n_rows, 1 or k)."""
        if self.hierarchy is None:
            return self.rate
        shape = np.broadcast_to(self._activity_shape(), (len(A), 1))
        return rng.standard_gamma(shape) / (self.hierarchy.activity_rate + A.sum(axis=1, keepdims=True))

    def _activity_shape(self) -> np.ndarray:
        assert self.hierarchy is not None
        return self.hierarchy.activity_shape + self.shape.sum(axis=1, keepdims=True)


class SamplingOptions(NamedTuple):
    """Arguments of `HPF.sample_posterior`, with the same meaning."""

    n_draws: int
    burn_in: int
    thin: int
    keep_W: bool

    def check(self, counts: Counts, n_components: int, dtype: np.dtype) -> None:
        """Raise an error if an option is invalid, the draws exceed the memory limit, or counts are not whole."""
        check_scalar(self.n_draws, "n_draws", (int, np.integer), min_val=2)
        check_scalar(self.burn_in, "burn_in", (int, np.integer), min_val=0)
        check_scalar(self.thin, "thin", (int, np.integer), min_val=1)
        n, p = counts.shape
        n_bytes = self.n_draws * (p + n * self.keep_W) * dtype.itemsize + 8 * (current_threads() * p + n)
        check_memory_for("sample_posterior", n_bytes * n_components, ": take fewer draws, or keep_W=False")
        for _, block in counts.blocks():
            data = block.side(Side.ROWS).data
            if data.dtype.kind == "f" and not ((data == np.floor(data)) & (data < 2.0**53)).all():
                raise ValueError("X must hold whole counts below 2^53, got fractions or larger ones")


@dataclass
class Chain:
    """The state of a sampler.

    Attributes
    ----------
    counts : Counts of shape (n, p)
        Whole numbers.
    priors : (EntryPrior, EntryPrior)
    exposures : (ndarray of shape (n,), ndarray of shape (p,))
    background : ndarray of shape (p,), or None
    rng : Generator
    factors : list of two ndarray
        W (n, k) and H transposed (p, k), float64.
    rates : list of two ndarray
        Prior rates of the entries of the factors, (1 or n_rows, 1 or k).
    """

    counts: Counts
    priors: tuple[EntryPrior, EntryPrior]
    exposures: tuple[np.ndarray, np.ndarray]
    background: np.ndarray | None
    rng: np.random.Generator
    factors: list[np.ndarray]
    rates: list[np.ndarray]

    @classmethod
    def start(
        cls, counts: Counts, W: np.ndarray, H: np.ndarray, priors: tuple[EntryPrior, EntryPrior],
        exposures: tuple[np.ndarray, np.ndarray] | None = None, background: np.ndarray | None = None, *,
        mask: Any = None, random_state: Any = None,
    ) -> "Chain":  # fmt: skip
        """A chain that starts from W and H."""
        if isinstance(counts, MemoryCounts):
            counts = hide_entries(counts, mask)
        if exposures is None:
            exposures = np.ones(len(W)), np.ones(H.shape[1])
        rng = np.random.default_rng(random_seed(random_generator(random_state)))
        factors = [np.maximum(A, _SMALLEST, dtype=np.float64, order="C") for A in (W, H.T)]
        rates = [prior.start_rates(A) for prior, A in zip(priors, factors, strict=True)]
        return cls(counts, priors, exposures, background, rng, factors, rates)

    def sweep(self) -> None:
        """Draw everything once."""
        allocated = self._allocate()
        for side in Side:
            prior, k = self.priors[side], self.factors[side].shape[1]
            V = padded(self.factors[side.other] * self.exposures[side.other][:, None], np.dtype(float))
            weight = np.atleast_2d(self.counts.observed_sums(side, V, column_sums(V)))[:, :k]
            rate = self.rates[side] + self.exposures[side][:, None] * weight
            draw = self.rng.standard_gamma(prior.shape + allocated[side]) / rate
            self.factors[side] = np.maximum(draw, _SMALLEST)
            self.rates[side] = prior.draw_rates(self.factors[side], self.rng)
        self._rescale()

    def _allocate(self) -> list[np.ndarray]:
        """Units of counts by row and component, (n, k), and by column and component, (p, k)."""
        (W, Ht), seed = self.factors, int(self.rng.integers(2**62))
        if self.background is not None:
            W = np.column_stack([W, np.ones(len(W))])
            Ht = np.column_stack([Ht, np.maximum(self.background, _SMALLEST)])
        of_rows = np.empty(W.shape, np.int64)
        of_columns, ends = np.zeros((current_threads(), *Ht.shape), np.int64), np.empty((current_threads(), W.shape[1]))
        for rows, block in self.counts.blocks():
            X = block.side(Side.ROWS)
            n_tasks = -(-(rows.stop - rows.start) // ROWS_AT_ONCE)
            allocate(
                n_tasks, seed, rows.start, X.data, X.indices, X.indptr, W[rows], Ht, of_rows[rows], of_columns, ends
            )
        k = self.factors[0].shape[1]
        return [of_rows[:, :k], of_columns.sum(axis=0)[:, :k]]

    def _rescale(self) -> None:
        """Draw the scale of each component of W against that of H."""
        A, B = ((F * rate).sum(axis=0) for F, rate in zip(self.factors, self.rates, strict=True))
        shapes = [
            prior.shape.sum(axis=0) * (len(F) if len(prior.shape) == 1 else 1)
            for prior, F in zip(self.priors, self.factors, strict=True)
        ]
        order = shapes[0] - shapes[1]
        curvature = np.hypot(order, 2 * np.sqrt(A * B))
        # The logarithm of one root of a quadratic equation, without cancellation for either sign of the order
        mode = np.where(order >= 0, np.log((order + curvature) / (2 * A)), np.log(2 * B / (curvature - order)))
        z, threshold = self.rng.standard_normal(len(mode)), np.log(self.rng.random(len(mode)))
        u = mode + z / np.sqrt(curvature)
        change = order * u - A * np.expm1(u) - B * np.expm1(-u)
        scale = np.exp(np.where(threshold < change + 0.5 * (z**2 - curvature * mode**2), u, 0.0))
        self.factors = [np.maximum(F, _SMALLEST) for F in (self.factors[0] * scale, self.factors[1] / scale)]

    def scaled_factors(self) -> list[np.ndarray]:
        """Factors of the rates: with exposures, and with the background as one more component; padded."""
        found = []
        for side in Side:
            A = self.factors[side]
            if self.background is not None:
                A = np.column_stack([A, np.ones(len(A)) if side is Side.ROWS else self.background])
            found.append(padded(A * self.exposures[side][:, None], np.dtype(float)))
        return found

    def log_likelihood(self) -> float:
        """Log-likelihood of the counts given W and H, in nats."""
        U, V = self.scaled_factors()
        rate_total = self.counts.rate_total(U, V, column_sums(U), column_sums(V))
        return float(self.counts.log_rate(U, V).sum()) - rate_total - self.counts.log_factorial

    def component_totals(self) -> np.ndarray:
        """Sum of the rates of each component over all entries, (k,)."""
        sums = [self.exposures[side] @ self.factors[side] for side in Side]
        return sums[0] * sums[1]


@shown_as_table
@dataclass(frozen=True, eq=False, kw_only=True)
class PosteriorDraws(FactorDraws):
    """Draws of W and H from their posterior distribution.

    Attributes
    ----------
    H : Draws of shape (k, p)
    W : Draws of shape (n, k), or None
        None if they were not kept.
    totals : ndarray of shape (n_draws, k), float64
        Sum of the rates of each component in each draw: how many counts are expected from it.
    log_likelihood : ndarray of shape (n_draws,), float64
        Log-likelihood of the counts given each draw, in nats.
    feature_names, component_names, row_names : ndarray of str, or None
        Names, if there are any.

    See Also
    --------
    HPF.sample_posterior, PoissonNMF.sample_posterior : make them.

    Examples
    --------
    >>> from fastpmf import HPF
    >>> from fastpmf.datasets import make_poisson_counts
    >>> X = make_poisson_counts(100, 50, 2, nnz=1_000, random_state=0).X
    >>> draws = HPF(2, random_state=0).fit(X).sample_posterior(X, 50, random_state=0)
    >>> low, high = draws.H.interval(0.9)
    >>> low.shape, len(draws)
    ((2, 50), 50)
    """

    totals: np.ndarray
    log_likelihood: np.ndarray

    @property
    def effective_draws(self) -> np.ndarray:
        """How many independent draws those of the total of each component are worth, (k,); see `effective_draws`."""
        return effective_draws(np.log(self.totals))

    def _table(self) -> Table:
        k, p = self.H.shape
        names = component_labels(self.component_names, k).tolist()
        shares = self.totals / self.totals.sum(axis=1, keepdims=True)
        low, high = np.quantile(shares, [0.05, 0.95], axis=0, method="weibull")
        columns = {
            "component": names, "share of counts": [f"{x:.1%}" for x in shares.mean(axis=0)],
            "90 % interval": [f"{a:.1%} to {b:.1%}" for a, b in zip(low, high, strict=True)],
            "effective draws": [f"{x:.0f}" for x in self.effective_draws],
        }  # fmt: skip
        return Table(f"{len(self):,} draws from the posterior of {k} components of {p:,} features", columns)


def effective_draws(chain: np.ndarray) -> np.ndarray:
    """How many independent draws have a mean as precise as that of the correlated draws of a chain.

    Parameters
    ----------
    chain : ndarray of shape (n_draws, m)

    Returns
    -------
    ndarray of shape (m,)
        n_draws for a constant.

    References
    ----------
    C. J. Geyer, "Practical Markov chain Monte Carlo", Statistical Science 7 (1992), section 3.3: the initial monotone
    sequence estimator.
    """
    n = len(chain)
    centered = chain - chain.mean(axis=0)
    spectrum = np.abs(np.fft.rfft(centered, 2 * n, axis=0)) ** 2
    covariance = np.fft.irfft(spectrum, axis=0)[:n]
    constant = covariance[0] <= 0
    correlation = covariance / np.where(constant, 1.0, covariance[0])
    pairs = correlation[0 : n - 1 : 2] + correlation[1:n:2]
    pairs = np.where(np.logical_and.accumulate(pairs > 0, axis=0), np.minimum.accumulate(pairs, axis=0), 0.0)
    return np.where(constant, n, n / np.maximum(2 * pairs.sum(axis=0) - 1, 1 / n))


def draw_posterior(
    chain: Chain, options: SamplingOptions, dtype: np.dtype, names: dict[str, np.ndarray | None], *, verbose: bool
) -> PosteriorDraws:
    """Draws of a chain, stored with this dtype."""
    (n, p), k, (n_draws, burn_in, thin, keep_W) = chain.counts.shape, chain.factors[0].shape[1], options
    H, W = np.empty((n_draws, k, p), dtype), np.empty((n_draws if keep_W else 0, n, k), dtype)
    totals, logs, n_done = np.empty((n_draws, k)), np.empty(n_draws), 0

    def draws(n_done: int) -> PosteriorDraws:
        return PosteriorDraws(
            H=Draws(H[:n_done]), W=Draws(W[:n_done]) if keep_W else None, totals=totals[:n_done],
            log_likelihood=logs[:n_done], **names,
        )  # fmt: skip

    with progress_bar(burn_in + n_draws * thin, "sweeps", verbose=verbose) as progress:
        try:
            for sweep in range(1 - burn_in, n_draws * thin + 1):
                progress.describe("burn-in" if sweep <= 0 else f"draw {n_done + 1} of {n_draws}")
                chain.sweep()
                progress.update()
                if sweep > 0 and sweep % thin == 0:
                    H[n_done] = chain.factors[Side.COLUMNS].T
                    if keep_W:
                        W[n_done] = chain.factors[Side.ROWS]
                    totals[n_done], logs[n_done] = chain.component_totals(), chain.log_likelihood()
                    n_done += 1
        except KeyboardInterrupt:
            if n_done < 2:
                raise
            raise DrawsInterrupted(draws(n_done)) from None
    found = draws(n_draws)
    if n_draws >= 2 * _FEW and (few := found.effective_draws < _FEW).any():
        warn(
            f"The draws of {few.sum()} of {k} components are worth fewer than {_FEW} independent ones, so that their "
            "intervals are too narrow: increase thin, and burn_in with it."
        )
    return found
