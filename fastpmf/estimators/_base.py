"""What the estimators share: counts through the door, names checked, factors multiplied out."""

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
from scipy import sparse
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils.validation import check_is_fitted, validate_data

from fastpmf._messages import brief
from fastpmf.counts import Counts, as_counts
from fastpmf.counts.named import Dataset
from fastpmf.counts.streamed import as_fittable
from fastpmf.estimators._callbacks import Observed
from fastpmf.estimators._room import check_rows
from fastpmf.estimators.differential import Differential, differential_expression
from fastpmf.model.factors import check_array, check_factor
from fastpmf.model.ranking import Recommendations, recommend, similar_columns
from fastpmf.model.reading import Quality, TopFeatures, top_features, topic_quality
from fastpmf.model.topics import Topics, to_topics


class FactorModel(Observed, ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """An estimator of W and of `components_`, in scikit-learn's manners."""

    components_: np.ndarray
    n_threads: int | None

    def inverse_transform(self, X: Any) -> np.ndarray:
        """The rates W H, a dense matrix: mind its size. Exposures and background are not in it.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_components)
            The factor W.

        Returns
        -------
        rate : ndarray of shape (n_samples, n_features)
        """
        check_is_fitted(self)
        W = X.toarray() if sparse.issparse(X) else check_array(X, "X")
        shape = (W.shape[0] if W.ndim else 0, len(self.components_))
        W = check_factor(W, shape, "X")
        with np.errstate(under="ignore"):
            return W @ self.components_

    def to_topics(self, W: Any) -> Topics:
        """W and `components_` as probabilities, which is PLSI; see `fastpmf.to_topics`.

        Parameters
        ----------
        W : array-like of shape (n_samples, n_components)
            What `fit_transform` or `transform` returned.

        Returns
        -------
        Topics
        """
        check_is_fitted(self)
        return to_topics(W, self.components_)

    def top_features(self, n: int = 10, *, by: str = "weight", least: float = 0.0, names: Any = None) -> TopFeatures:
        """The n first features of each component, by name; see `fastpmf.top_features`.

        Parameters
        ----------
        n : int, default=10
        by : {"weight", "lift", "exclusivity"}, default="weight"
        least : float, default=0.0
        names : array-like of str, of length n_features, optional
            By default those that `fit` saw; in a pipeline these are lost, and its first step has them.

        Returns
        -------
        TopFeatures
        """
        check_is_fitted(self)
        names = getattr(self, "feature_names_in_", None) if names is None else names
        return top_features(self.components_, n, by=by, least=least, names=names)

    def quality(self, X: Any, n: int = 10, *, W: Any = None) -> Quality:
        """Coherence, exclusivity and size of each component; see `fastpmf.topic_quality`.

        Parameters
        ----------
        X : matrix of counts of shape (n_samples, n_features)
        n : int, default=10
        W : array-like of shape (n_samples, n_components), optional

        Returns
        -------
        Quality
        """
        check_is_fitted(self)
        return topic_quality(self.components_, self._read(X), n, W=W)

    def differential_expression(
        self, W: Any, X: Any, *, against: str | int = "others", pseudocount: float = 1.0, shrink: bool = False,
        row_exposure: Any = None,
    ) -> Differential:  # fmt: skip
        """How a feature's rates in two components differ, with errors; see `fastpmf.differential_expression`.

        Parameters
        ----------
        W : array-like of shape (n_samples, n_components)
            What `fit_transform` or `transform` returned for X.
        X : matrix of counts of shape (n_samples, n_features)
        against : {"others", "mean"} or int, default="others"
        pseudocount : float, default=1.0
        shrink : bool, default=False
        row_exposure : array-like of shape (n_samples,), optional
            What `fit` or `transform` was given.

        Returns
        -------
        Differential
        """
        check_is_fitted(self)
        return differential_expression(
            W, self.components_, self._read(X), against=against, pseudocount=pseudocount, shrink=shrink,
            row_exposure=row_exposure, names=getattr(self, "feature_names_in_", None), n_threads=self.n_threads,
        )  # fmt: skip

    def recommend(self, rows: Any = None, X: Any = None, n: int = 10, *, exclude_seen: bool = True) -> Recommendations:
        """The n features of highest rate for each row: `fastpmf.recommend`.

        Parameters
        ----------
        rows : array-like of shape (m, n_components), optional
            W of the rows, from `fit_transform` or `transform`; by default what `transform(X)` finds, as for new users.
        X : matrix of counts of shape (m, n_features), optional
            What these rows hold.
        n : int, default=10
        exclude_seen : bool, default=True
            Leave out what a row holds in X.

        Returns
        -------
        Recommendations
        """
        if exclude_seen and X is None:
            raise ValueError("X must be given, to exclude what is seen, or exclude_seen=False")
        if rows is None and X is None:
            raise ValueError("rows or X must be given")
        check_is_fitted(self)
        counts = None if X is None else self._read(X)
        names = getattr(self, "feature_names_in_", None)  # which X was found to have
        W = self.transform(Dataset(counts, column_names=names)) if rows is None else rows
        return recommend(W, self.components_, n, exclude=counts if exclude_seen else None)

    def similar_items(self, features: Any, n: int = 10) -> Recommendations:
        """The n features whose rates rise and fall with those of the given ones: `fastpmf.similar_columns`.

        Parameters
        ----------
        features : array-like of int, of shape (m,)
        n : int, default=10

        Returns
        -------
        Recommendations
        """
        check_is_fitted(self)
        return similar_columns(self.components_, features, n)

    def _enter(self, X: Any) -> tuple[Counts, dict[str, Any]]:
        """X through the door for a fit, and what is known of its features, for `_adopt` once the fit has succeeded.

        So a fit that fails leaves a fitted model as it is.
        """
        counts, seen = as_fittable(X, n_threads=self.n_threads), BaseEstimator()
        self._check_features(seen, X, counts, reset=True)
        return counts, vars(seen)

    def _become(self, keep: Callable[..., None], *found: Any) -> None:
        """What keep(self, *found) makes of it, all at once: Ctrl-C leaves no estimator with halves of two fits."""
        model = copy.copy(self)
        keep(model, *found)
        self.__dict__ = model.__dict__

    def _adopt(self, seen: dict[str, Any]) -> None:
        self.__dict__.pop("feature_names_in_", None)
        self.__dict__.update(seen)

    def _read(self, X: Any, *, streamed: bool = False) -> Any:
        """X through the door, its width and names checked against what was fitted; in memory, or `streamed`."""
        check_is_fitted(self)
        if streamed:  # for W of its rows
            check_rows(X, len(self.components_), self.components_.dtype)
        counts = (as_fittable if streamed else as_counts)(X, n_threads=self.n_threads)
        self._check_features(self, X, counts, reset=False)
        return counts

    def _check_features(self, estimator: BaseEstimator, X: Any, counts: Counts, *, reset: bool) -> None:
        if isinstance(X, Dataset) and X.column_names is not None:  # which scikit-learn can't see
            names = np.asarray(X.column_names).astype(object)
            known = None if reset else getattr(estimator, "feature_names_in_", None)
            if known is not None and len(names) == len(known) and (names != known).any():
                j = int(np.flatnonzero(names != known)[0])
                raise ValueError(
                    "X must have the feature names that were fitted, in their order: "
                    f"feature {j} is {brief(names[j])}, was {brief(known[j])}"
                )
            if reset or known is None or len(names) != len(known):
                validate_data(estimator, X=counts, reset=reset, skip_check_array=True)
            if reset:
                estimator.feature_names_in_ = names
            return
        validate_data(estimator, X=counts if isinstance(X, tuple) else X, reset=reset, skip_check_array=True)

    @property
    def _n_features_out(self) -> int:
        return len(self.components_)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        tags.input_tags.positive_only = True
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags
