"""A fitted `PoissonNMF` at work on rows of counts: their W, and how likely they are."""

from typing import Any, Self

import numpy as np
from sklearn.utils.validation import check_is_fitted

from fastpmf.core.counts import Counts
from fastpmf.counts.labels import align
from fastpmf.estimators._online import OnlineNMF
from fastpmf.fitting.fit import check_parameters
from fastpmf.fitting.problem import Known
from fastpmf.fitting.transform import log_likelihoods, transforms
from fastpmf.kernels.threads import threads
from fastpmf.solvers.base import Callback
from fastpmf.utils.progress import compilation_shown


class AppliedNMF(OnlineNMF):
    """`PoissonNMF`'s transform and score."""

    solver: str
    acceleration: str | None
    inner_steps: int
    tol: float
    max_time: float | None
    callback: Callback | None

    def transform(self, X: Any, *, row_exposure: Any = None, mask: Any = None, return_gap_bound: bool = False) -> Any:
        """The W that explains X best with `components_` fixed, under W's prior where there is one.

        Each row is a convex problem of its own, solved by coordinate descent whatever `solver` is, and its answer
        depends, bitwise, on that row alone. Rows that `max_iter` rounds don't bring to `tol` are warned of. Counts of
        features in which every component is zero can't be explained by any W and are left out. For the rows that were
        fitted this is not quite the W of `fit_transform` unless that fit had converged: there H has moved on since W
        was updated.

        Parameters
        ----------
        X : matrix of counts of shape (n_samples, n_features)
        row_exposure : float or array-like of shape (n_samples,), optional
            Of these rows, 1 by default; column exposures and background are those of `fit`.
        mask : matrix of shape (n_samples, n_features), optional
            True or positive where an entry is not observed; X may hold NaN there.
        return_gap_bound : bool, default=False
            Also return the certificate.

        Returns
        -------
        W : ndarray of shape (n_samples, n_components)
        gap_bound : ndarray of shape (n_samples,)
            With `return_gap_bound`: no other row could lower the divergence of this one by more, in nats. Rounding of
            the working dtype enters, some 1e-6 nats per count in float32.
        """
        counts, known = self._read_beside(X, row_exposure, mask)
        W, gap_bound = self._solve_rows(counts, known)
        return (W, gap_bound) if return_gap_bound else W

    def score(
        self, X: Any, y: None = None, *, row_exposure: Any = None, mask: Any = None, sample_weight: Any = None
    ) -> float:
        """Poisson log-likelihood of X under its own best W, per count: ``log L(transform(X), components_) / sum(X)``.

        Counts of features in which every component is zero, which had none in training, are left out of both, as they
        are in `transform`: any model of that training data gives them likelihood 0. So are masked entries.

        Parameters
        ----------
        X : matrix of counts of shape (n_samples, n_features)
        y : None
            Ignored.
        row_exposure, mask
            As in `transform`.
        sample_weight : float or array-like of shape (n_samples,), optional
            How often each row counts; its W does not depend on it.

        Returns
        -------
        float
            In nats per count, higher is better.

        Raises
        ------
        ValueError
            X has no counts to score.
        """
        counts, known = self._read_beside(X, row_exposure, mask)
        weight = align(sample_weight, "sample_weight", rows=self._labels(X).rows)
        with threads(self.n_threads), compilation_shown(verbose=self.verbose):
            W, _ = self._solve_rows(counts, known)
            score, total = log_likelihoods(counts, W, self.components_, known._replace(sample_weight=weight))
        if total == 0:
            raise ValueError("X must hold a positive count, in a feature that components_ produce, to be scored")
        return score / total

    def _read_beside(self, X: Any, row_exposure: Any, mask: Any) -> tuple[Counts, Known]:
        """New counts, and the exposures and mask aligned with them."""
        check_is_fitted(self)
        known = Known(row_exposure=row_exposure, mask=mask).aligned(self._labels(X))
        counts = self._read(X, mask=known.mask, streamed=True)
        return counts, known._replace(column_exposure=self.column_exposure_, background=self.background_)

    def _of_features(self, columns: np.ndarray) -> Self:
        model = super()._of_features(columns)
        model.alpha_W = self.alpha_W * (self.components_.shape[1] / len(columns))  # it is multiplied by n_features
        model.column_exposure_, model.background_ = (
            x if x is None or x.ndim == 0 else x[columns] for x in (self.column_exposure_, self.background_)
        )
        return model

    def _solve_rows(self, counts: Counts, known: Known) -> tuple[np.ndarray, np.ndarray]:
        check_parameters(
            self.n_components, self.solver, self.acceleration, self.inner_steps, self.n_init, self.max_iter, self.tol,
            self.max_time, self.eval_every, self.callback,
        )  # fmt: skip
        with threads(self.n_threads), compilation_shown(verbose=self.verbose):
            return transforms(
                counts, self.components_, max_iter=self.max_iter, tol=self.tol, known=known,
                penalties=self._penalties._replace(prior_W=self.prior_W_, prior_H=self.prior_H_),
            )  # fmt: skip
