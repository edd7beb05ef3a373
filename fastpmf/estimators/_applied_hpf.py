"""A fitted `HPF` at work: posteriors of other rows, predictions, and how likely counts are."""

from dataclasses import replace
from typing import Any, Self

import numpy as np
from sklearn.utils.validation import check_is_fitted

from fastpmf.core.counts import Counts
from fastpmf.core.factors import column_sums
from fastpmf.counts.labels import align, names_of
from fastpmf.estimators._online import OnlineHPF
from fastpmf.fitting.fit import in_memory_only
from fastpmf.fitting.hpf import infer_rows
from fastpmf.fitting.problem import Known
from fastpmf.fitting.ranges import check_scale
from fastpmf.fitting.transform import log_likelihoods, row_blocks_of
from fastpmf.kernels.threads import threads
from fastpmf.model.gamma import GammaPosterior
from fastpmf.model.hierarchy import GammaFactor
from fastpmf.utils.progress import compilation_shown
from fastpmf.utils.validation import check_number, positions


class AppliedHPF(OnlineHPF):
    """`HPF`'s posterior, transform, predictions and score."""

    max_iter: int
    tol: float

    def posterior(self, X: Any, *, mask: Any = None) -> GammaPosterior:
        """Posterior of W for rows of counts, H's posterior as it is.

        Half-steps on W are repeated, for each row until they move at most a share `tol` of its counts; a row takes the
        same way alone and in company.

        Parameters
        ----------
        X : matrix of counts of shape (n_samples, n_features)
        mask : matrix of shape (n_samples, n_features), optional

        Returns
        -------
        GammaPosterior of shape (n_samples, n_components)
        """
        return self._infer_rows(*self._read_beside(X, mask))

    def transform(self, X: Any, *, mask: Any = None) -> np.ndarray:
        """E[W] for rows of counts, H's posterior as it is; see `posterior`.

        Parameters
        ----------
        X : matrix of counts of shape (n_samples, n_features)
        mask : matrix of shape (n_samples, n_features), optional

        Returns
        -------
        W : ndarray of shape (n_samples, n_components)
        """
        return self.posterior(X, mask=mask).mean

    def predictive_mean(self, rows: Any, columns: Any) -> np.ndarray:
        """Posterior predictive means E[W_i . H_j] of entries of the fitted rows.

        Parameters
        ----------
        rows, columns : int or array-like of int
            Numbers of rows and columns, from 0, or their names if X had names. They are broadcast against each other.

        Returns
        -------
        mean : ndarray of the broadcast shape, float64

        Raises
        ------
        TypeError, ValueError
            If `rows` or `columns` do not hold integers or known names, can't be broadcast, or a number is negative or
            too large.
        """
        W, H = self._pairs(rows, columns)
        return (W.mean.astype(np.float64) * H.mean).sum(axis=-1)

    def predictive_sample(
        self, rows: Any, columns: Any, n_samples: int = 100, *, random_state: Any = None
    ) -> np.ndarray:
        """Draws of counts of entries of the fitted rows, from the posterior predictive distribution.

        Each is Poisson(W_i . H_j) with W_i and H_j drawn from their posteriors anew, for each entry by itself.

        Parameters
        ----------
        rows, columns : int or array-like of int
            As in `predictive_mean`, which raises the same errors.
        n_samples : int, default=100
        random_state : int, RandomState, Generator or None, default=None

        Returns
        -------
        counts : ndarray of int64, n_samples draws of the broadcast shape
        """
        rng = np.random.default_rng(random_state) if not hasattr(random_state, "poisson") else random_state
        W, H = self._pairs(rows, columns)
        size = (n_samples, *W.shape.shape)
        return rng.poisson((W.sample(size, rng) * H.sample(size, rng)).sum(axis=-1))

    def predictive_log_likelihood(self, X: Any, *, exposure: float = 1.0) -> float:
        """Log-likelihood per count of other counts of the fitted rows, at the posterior predictive means.

        Parameters
        ----------
        X : matrix of counts of shape (n_samples, n_features)
            Held-out counts, for example of `thin_counts`. If both X and the fitted counts have row names, rows are
            matched by them, and X may have only some of the fitted rows.
        exposure : float, default=1.0
            Their rates are so many times those of the fitted counts: f / (1 - f) after thinning by f.

        Returns
        -------
        float
            In nats per count.
        """
        check_is_fitted(self, "W_posterior_")
        counts = self._read(X)
        check_number(exposure, "exposure", positive=True)
        check_scale(np.array([exposure]), np.dtype(np.float64), "exposure")
        W, names, fitted = self.W_posterior_.mean, names_of(X, 0), getattr(self, "row_names_", None)
        if names is not None and fitted is not None and not np.array_equal(names, fitted):
            W = W[positions(names.tolist(), len(W), "row names of X", fitted)]
        if counts.shape[0] != len(W):
            raise ValueError(f"X must have the {len(W)} fitted rows, got {counts.shape[0]}")
        return self._score(counts, W, Known(row_exposure=np.full(counts.shape[0], exposure)))

    def score(self, X: Any, y: None = None, *, mask: Any = None, sample_weight: Any = None) -> float:
        """Poisson log-likelihood per count of X at the posterior means, W's inferred from X.

        Parameters
        ----------
        X : matrix of counts of shape (n_samples, n_features)
        y : None
            Ignored.
        mask : matrix of shape (n_samples, n_features), optional
        sample_weight : float or array-like of shape (n_samples,), optional
            How often each row counts.

        Returns
        -------
        float
            In nats per count, higher is better.
        """
        counts, mask = self._read_beside(X, mask)
        weight = align(sample_weight, "sample_weight", rows=self._labels(X).rows)
        with compilation_shown(verbose=self.verbose):
            return self._score(counts, self._infer_rows(counts, mask).mean, Known(mask=mask, sample_weight=weight))

    def _read_beside(self, X: Any, mask: Any) -> tuple[Counts, Any]:
        """New counts, and the mask aligned with them."""
        check_is_fitted(self)
        mask = Known(mask=mask).aligned(self._labels(X)).mask
        return self._read(X, mask=mask, streamed=True), mask

    def _of_features(self, columns: np.ndarray) -> Self:
        model = super()._of_features(columns)
        factor = self._columns.select_rows(columns)
        model._columns = replace(factor, sums=column_sums(factor.mean))
        return model

    def _infer_rows(self, counts: Counts, mask: Any) -> GammaPosterior:
        k = len(self.components_)
        with threads(self.n_threads), compilation_shown(verbose=self.verbose):
            in_memory_only(counts, mask=mask)
            parts, rows = [], []
            for some, block in row_blocks_of(counts):
                told: dict[str, Any] = {"max_iter": self.max_iter, "tol": self.tol}
                parts.append(infer_rows(block, self._columns, self._row_prior, k, mask, **told))
                rows.append(np.arange(*some.indices(counts.shape[0])))
            factor = parts[0] if len(parts) == 1 else GammaFactor.joined(parts, np.concatenate(rows), parts[0].weight)
        return GammaPosterior.of_entries(factor, k)

    def _score(self, counts: Counts, W: np.ndarray, known: Known) -> float:
        with threads(self.n_threads), compilation_shown(verbose=self.verbose):
            value, total = log_likelihoods(counts, W, self.components_, known)
        if total == 0:
            raise ValueError("X must hold a positive count to be scored")
        return value / total

    def _pairs(self, rows: Any, columns: Any) -> tuple[GammaPosterior, GammaPosterior]:
        """Posteriors of the W_i and H_j of entries, one behind the other."""
        check_is_fitted(self, "W_posterior_")
        rows = positions(rows, len(self.W_posterior_.shape), "rows", getattr(self, "row_names_", None))
        names = getattr(self, "feature_names_in_", None)
        columns = positions(columns, self.components_.shape[1], "columns", names)
        try:
            rows, columns = np.broadcast_arrays(rows, columns)
        except ValueError:
            raise ValueError(
                f"rows and columns must have shapes that can be broadcast, got {rows.shape} and {columns.shape}"
            ) from None
        return self.W_posterior_[rows], self.H_posterior_.transposed()[columns]
