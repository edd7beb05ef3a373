"""The base of the estimators."""

import copy
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import numpy as np
from scipy import sparse
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils.validation import check_is_fitted, validate_data

from fastpmf.analysis.differential import Differential, differential_expression
from fastpmf.analysis.dispersion import Overdispersion, is_affordable, overdispersion
from fastpmf.analysis.features import Quality, TopFeatures, top_features, topic_quality
from fastpmf.analysis.ranking import Recommendations, choose_rows, recommend, similar_columns
from fastpmf.analysis.rates import (
    RowEffects,
    check_groups_given,
    check_no_groups,
    model_rates,
    rate_factors,
    with_effects,
)
from fastpmf.analysis.summary import Summary, fit_facts, summary_of, title_of
from fastpmf.analysis.topics import Topics, to_topics
from fastpmf.core.counts import Counts, Side
from fastpmf.counts import Dataset, MemoryCounts, as_counts
from fastpmf.counts.labels import Labels, MatrixLabels, align, labels_of, names_of, warn_of_duplicates
from fastpmf.counts.masked import observed_counts
from fastpmf.counts.streamed import as_fittable
from fastpmf.estimators._callbacks import CallbackSupportMixin, FitTasks
from fastpmf.fitting.memory import check_rows
from fastpmf.fitting.options import NO_DATA, FitData, KnownEffects
from fastpmf.fitting.problem import check_group_labels, vector
from fastpmf.fitting.transform import log_likelihood_of_blocks
from fastpmf.kernels.threads import threads
from fastpmf.solvers import Solution
from fastpmf.utils.messages import brief, listed
from fastpmf.utils.progress import compilation_shown, stage
from fastpmf.utils.tables import Table
from fastpmf.utils.validation import check_array, check_factor, check_names, is_dataframe, positions
from fastpmf.utils.warnings import warn

_PRIVATE_FITTED = ("_online", "_columns", "_priors", "_schedule", "_group_of_row")


def check_feature_names(names: np.ndarray, fitted: np.ndarray) -> None:
    """Raise an error if the names of features, or their order, are not those that were fitted."""
    if len(names) == len(fitted) and (names == fitted).all():
        return
    missing, unknown = fitted[~np.isin(fitted, names)].tolist(), names[~np.isin(names, fitted)].tolist()
    if missing or unknown or len(names) != len(fitted):
        lacking = f", without {listed(missing, 1)}" if missing else ""
        added = f", with {listed(unknown, 1)} that the fit did not have" if unknown else ""
        raise ValueError(
            f"X must have the {len(fitted):,} fitted features, got {len(names):,}{lacking}{added}: Dataset.aligned "
            "gives the counts of the fitted features"
        )
    j = int(np.flatnonzero(names != fitted)[0])
    raise ValueError(
        f"X must have the fitted feature names in the same order: feature {j} is {brief(names[j])}, was "
        f"{brief(fitted[j])}"
    )


def named_weights(W: Any, model: "FactorModel", names: Any, name: str) -> tuple[np.ndarray, np.ndarray | None]:
    """W of a fitted model as an array, and the names of its rows, (n,), or None.

    Parameters
    ----------
    W : array-like of shape (n, n_components)
    model : FactorModel
    names : array-like of str, of length n, or None
        A DataFrame W is aligned with them; by default its own names.
    name : str
        Name of the argument `names`, for messages.

    Raises
    ------
    TypeError, ValueError
        If W does not have one column of numbers for each component, or `names` one name for each row.
    """
    check_is_fitted(model)
    if names is None:
        names = names_of(W, 0)
    else:
        W = align(W, "W", rows=Labels(np.atleast_1d(names).astype(str), source=name))
    W, k = check_array(W, "W"), len(model.components_)
    if W.ndim != 2 or W.shape[1] != k:
        raise ValueError(f"W must have {k} columns, one for each component, got shape {W.shape}")
    return W, None if names is None else check_names(names, len(W), name, "row of W")


class FactorModel(CallbackSupportMixin, ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """What `PoissonNMF` and `HPF` share: reading of input, fitted attributes, and analyses of the fitted factors."""

    def _fit_html(self) -> str:
        """The size of the model and how its fit went, for notebooks; empty before the fit."""
        return Table(title_of(self), facts=fit_facts(self)).to_html() if hasattr(self, "components_") else ""

    def _repr_html_inner(self) -> str:
        return self._fit_html() + super()._repr_html_inner()

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, str]:
        bundle = super()._repr_mimebundle_(**kwargs)
        return bundle | {"text/html": self._fit_html() + bundle["text/html"]} if "text/html" in bundle else bundle

    def inverse_transform(self, X: Any) -> np.ndarray:
        """The rates W H, without exposures, background and effects of groups, as a dense matrix.

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
            Result of `fit_transform` or `transform`.

        Returns
        -------
        Topics
        """
        check_is_fitted(self)
        return to_topics(W, self)

    def top_features(
        self, n: int = 10, *, by: str = "weight", min_weight: float = 0.0, names: Any = None
    ) -> TopFeatures:
        """The top n features of each component, with their names; see `fastpmf.top_features`.

        Parameters
        ----------
        n : int, default=10
        by : {"weight", "lift", "exclusivity"}, default="weight"
        min_weight : float, default=0.0
        names : array-like of str, of length n_features, optional
            By default the fitted names; in a pipeline only the first step knows them.

        Returns
        -------
        TopFeatures
        """
        check_is_fitted(self)
        return top_features(self, n, by=by, min_weight=min_weight, names=names)

    def quality(
        self, X: Any, n: int = 10, *, W: Any = None, row_exposure: Any = None, groups: Any = None
    ) -> Quality:  # fmt: skip
        """Coherence, exclusivity and size of each component; see `fastpmf.topic_quality`.

        With W and whole counts, the result also says how much the counts vary around the fitted rates, unless this
        would take more than some seconds; see `fastpmf.overdispersion`.

        Parameters
        ----------
        X : matrix of counts of shape (n_samples, n_features)
        n : int, default=10
        W : array-like of shape (n_samples, n_components), optional
            The result of `fit_transform` or `transform` for X.
        row_exposure : float or array-like of shape (n_samples,), optional
            The exposures given to `fit` or `transform`, for the overdispersion.
        groups : array-like of shape (n_samples,), optional
            The groups given to `fit` or `transform`; without them there is no overdispersion of a model with groups.

        Returns
        -------
        Quality
        """
        check_is_fitted(self)
        if groups is not None:
            check_groups_given(self, groups)
        W = align(W, "W", rows=self._labels(X).rows)
        counts = self._read_new_data(X)[0]
        found = topic_quality(counts, self, n, W=W)
        unknown = groups is None and getattr(self, "group_effects_", None) is not None
        if W is None or unknown or not is_affordable(counts, len(self.components_)):
            return found
        return found._replace(overdispersion=self.overdispersion(X, W, row_exposure=row_exposure, groups=groups))

    def overdispersion(self, X: Any, W: Any, *, row_exposure: Any = None, groups: Any = None) -> Overdispersion:
        """How much more counts vary than Poisson counts of the fitted rates; see `fastpmf.overdispersion`.

        Parameters
        ----------
        X : matrix of counts of shape (n_samples, n_features)
            The fitted counts.
        W : array-like of shape (n_samples, n_components)
            The result of `fit_transform` for X.
        row_exposure : float or array-like of shape (n_samples,), optional
            The exposures given to `fit`.
        groups : array-like of shape (n_samples,), optional
            The groups given to `fit`.

        Returns
        -------
        Overdispersion
        """
        check_is_fitted(self)
        rows = self._labels(X).rows
        W, row_exposure, groups = (
            align(A, name, rows=rows) for A, name in ((W, "W"), (row_exposure, "row_exposure"), (groups, "groups"))
        )
        return overdispersion(
            self._read_new_data(X)[0], W, self, row_exposure=row_exposure, groups=groups,
            names=getattr(self, "feature_names_in_", None), n_threads=self.n_threads,
        )  # fmt: skip

    def differential_expression(
        self, X: Any, W: Any, *, against: str | int = "others", pseudocount: float = 1.0,
        standard_errors: str = "robust", shrink: bool = False, row_exposure: Any = None, groups: Any = None,
    ) -> Differential:  # fmt: skip
        """Log fold changes of the rate of each feature in each component; see `fastpmf.differential_expression`.

        Parameters
        ----------
        X : matrix of counts of shape (n_samples, n_features)
        W : array-like of shape (n_samples, n_components)
            The result of `fit_transform` or `transform` for X.
        against : {"others", "mean"} or int, default="others"
        pseudocount : float, default=1.0
        standard_errors : {"robust", "model"}, default="robust"
        shrink : bool, default=False
        row_exposure : float or array-like of shape (n_samples,), optional
            The exposures given to `fit` or `transform`.
        groups : array-like of shape (n_samples,), optional
            The groups given to `fit` or `transform`; needed if the model was fitted with groups. Changes are those of
            an average group.

        Returns
        -------
        Differential
        """
        check_is_fitted(self)
        check_groups_given(self, groups)
        rows = self._labels(X).rows
        W, row_exposure, groups = (
            align(A, name, rows=rows) for A, name in ((W, "W"), (row_exposure, "row_exposure"), (groups, "groups"))
        )
        return differential_expression(
            self._read_new_data(X)[0], W, self, against=against, pseudocount=pseudocount,
            standard_errors=standard_errors, shrink=shrink, row_exposure=row_exposure, groups=groups,
            names=getattr(self, "feature_names_in_", None), n_threads=self.n_threads,
        )  # fmt: skip

    def summary(self, n: int = 8) -> Summary:
        """The facts of the fit, and the size and the top features of each component, as a table to look at.

        Parameters
        ----------
        n : int, default=8
            Number of top features of each component.

        Returns
        -------
        Summary
            Notebooks show it as a table; `print` shows it as text.

        Examples
        --------
        >>> from fastpmf import PoissonNMF
        >>> from fastpmf.io import Dataset
        >>> X = Dataset([[8, 2, 0], [6, 4, 0], [0, 1, 9]], column_names=["tea", "jam", "rye"])
        >>> print(PoissonNMF(1, random_state=0).fit(X).summary(2))  # doctest: +ELLIPSIS
        PoissonNMF: 1 component of 3 features, float32
          status        Converged to within tol.
          ...
        component  share of counts  top features
                0           100.0%  tea, rye
        """
        return summary_of(self, self.top_features(n))

    def report(
        self, path: str | os.PathLike[str], X: Any = None, W: Any = None, *, n_top: int = 10, title: str | None = None,
        groupby: Any = None, row_exposure: Any = None, groups: Any = None, mask: Any = None,
    ) -> Path:  # fmt: skip
        """Write a report on the fit, with plots, as one HTML file that opens in any browser without a network.

        It has the course of the fit, what to do if it did not converge, the components with their sizes, their most
        frequent and most distinctive features, the parameters and the versions of libraries. With X it also has the
        size of the data, coherence, calibration, residuals and the variation of the counts around their rates; with X
        or W a structure plot.

        Parameters
        ----------
        path : path-like
            File to write, which ends in .html; an existing file is replaced.
        X : matrix of counts of shape (n_samples, n_features), optional
            The fitted counts, or new ones.
        W : array-like of shape (n_samples, n_components), optional
            Result of `fit_transform` or `transform` for X; by default that of `transform`.
        n_top : int, default=10
            Number of top features of each component.
        title : str, optional
            Heading of the report; by default the model and its size.
        groupby : array-like of shape (n_samples,), optional
            Groups of rows, such as types of cells, that the structure plot draws apart; see `fastpmf.plot.structure`.
        row_exposure : float or array-like of shape (n_samples,), optional
            The exposures of the rows of X that `fit` or `transform` got, of a `PoissonNMF`.
        groups : array-like of shape (n_samples,), optional
            The groups given to `fit` or `transform`.
        mask : matrix of shape (n_samples, n_features), optional
            True or positive where an entry of X is not observed, as in `transform`. There are no calibration,
            residuals and variation then.

        Returns
        -------
        Path
            The file.

        Raises
        ------
        ImportError
            If Matplotlib is not installed.
        FileNotFoundError, PermissionError
            If the file can't be written.
        TypeError, ValueError
            If an argument has an invalid type, shape or value.

        Examples
        --------
        >>> import pathlib, tempfile
        >>> from fastpmf import PoissonNMF
        >>> from fastpmf.datasets import make_poisson_counts
        >>> X = make_poisson_counts(100, 50, 2, nnz=2_000, random_state=0).X
        >>> model = PoissonNMF(2, random_state=0).fit(X)
        >>> model.report(pathlib.Path(tempfile.mkdtemp()) / "report.html", X).name
        'report.html'
        """
        check_is_fitted(self)
        from fastpmf.estimators._report import write_report  # it loads the plots, which `import fastpmf` does not need

        return write_report(
            self, path, X, W, n_top=n_top, title=title, groupby=groupby, row_exposure=row_exposure, groups=groups,
            mask=mask,
        )  # fmt: skip

    def recommend(
        self, X: Any = None, W: Any = None, n: int = 10, *, rows: Any = None, items: Any = None,
        exclude_seen: bool = True,
    ) -> Recommendations:  # fmt: skip
        """The n features with the highest rates for each row; see `fastpmf.recommend`.

        Rates are expected counts, with the column exposures and the background of the fit and without row exposures.

        A row without any counts in X (or of zeros in W, if W is given) gets the recommendations of the average fitted
        row: the most popular features. If the mean of W is not known, as after a fit with `fastpmf.dask`, such a row
        gets no recommendations without a prior, and otherwise those that its prior implies.

        Parameters
        ----------
        X : matrix of counts of shape (n_samples, n_features), optional
            Counts of the rows. Needed if `exclude_seen` is true or W is not given.
        W : array-like of shape (n_samples, n_components), optional
            W of the same rows, from `fit_transform` or `transform`; by default `transform(X)`, as for new rows.
        n : int, default=10
            How many features to recommend to each row.
        rows : array-like of int or str, optional
            Rows to recommend to, by position or, if X has row names (of a `Dataset`, or the index of a DataFrame), by
            name; by default all. An integer is a name if the names are integers, and a position if they are text, as
            those of a `Dataset` are; it is an error if it is a position and its text the name of another one.
        items : array-like of int or str, optional
            Features that may be recommended, by position or name, as for `rows`; by default all.
        exclude_seen : bool, default=True
            Whether to leave out the features of which a row has counts in X.

        Returns
        -------
        Recommendations
            With the names of features and rows if they have names. Features of rate 0 are not recommended: the index
            is then -1.

        Raises
        ------
        TypeError, ValueError
            If an argument has an invalid type, shape or value, or a row or feature is unknown.

        Examples
        --------
        >>> from fastpmf import PoissonNMF
        >>> from fastpmf.io import Dataset
        >>> X = Dataset([[3, 2, 0], [4, 0, 1], [0, 1, 0]], ["ada", "bob", "cy"], ["tea", "jam", "rye"])
        >>> model = PoissonNMF(1, random_state=0).fit(X)
        >>> model.recommend(X, rows=["bob", "cy"], n=1).names.tolist()
        [['jam'], ['tea']]
        """
        if exclude_seen and X is None:
            raise ValueError("X must be given to exclude its features; give exclude_seen=False without X")
        if X is None and W is None:
            raise ValueError("X or W must be given")
        check_is_fitted(self)
        check_no_groups(self, "the model", "give fastpmf.recommend W and H of model.rate_factors(W, groups=...)")
        counts: Any = None if X is None else self._read_new_data(X)[0]
        names = getattr(self, "feature_names_in_", None)
        if items is not None:
            items = positions(items, self.components_.shape[1], "items", names)
        labels = labels_of(W if X is None else X, 0)
        W, counts, row_names = choose_rows(rows, W, counts, labels, len(self.components_))
        if W is None:
            W = self.transform(Dataset(counts, column_names=names))
            unknown = counts.sums(Side.ROWS) == 0
        else:
            unknown = ~W.any(axis=1)
        if unknown.any() and (average := self.mean_W_) is not None:
            W = np.where(unknown[:, None], average, W)
        W, H = model_rates(self, W)
        found = recommend(W, H, n, exclude=counts if exclude_seen else None, items=items)
        return found.named(names, row_names)

    def similar_items(self, features: Any, n: int = 10, *, items: Any = None) -> Recommendations:
        """The n features whose rates vary most like those of the given ones; see `fastpmf.similar_columns`.

        Parameters
        ----------
        features : int, str or array-like of either, of shape (m,)
            Positions or names of features. It is an error if an integer is a position and its text the name of another
            one.
        n : int, default=10
        items : array-like of int or str, optional
            Features that may be returned, by position or name; by default all.

        Returns
        -------
        Recommendations
            With the names of features if they have names; `row_names` are the names of the given features.
        """
        check_is_fitted(self)
        p, names = self.components_.shape[1], getattr(self, "feature_names_in_", None)
        features = np.atleast_1d(positions(features, p, "features", names))
        items = None if items is None else positions(items, p, "items", names)
        found = similar_columns(self.components_, features, n, items=items)
        return found.named(names, None if names is None else names[features])

    def _rate_factors(self, W: Any, row_exposure: Any, groups: Any) -> tuple[np.ndarray, np.ndarray]:
        """`rate_factors` of both estimators."""
        check_is_fitted(self)
        check_groups_given(self, groups)
        rows = labels_of(W, 0)
        row_exposure, groups = (
            align(A, name, rows=rows) for A, name in ((row_exposure, "row_exposure"), (groups, "groups"))
        )
        W = check_array(W, "W")
        W = check_factor(W, (len(np.atleast_1d(W)), len(self.components_)), "W")
        if row_exposure is not None:
            row_exposure = vector(row_exposure, len(W), "row_exposure")
        p = self.components_.shape[1]
        of_columns = (getattr(self, name, None) for name in ("column_exposure_", "background_"))
        exposure, background = (None if A is None else np.broadcast_to(A, p) for A in of_columns)
        W, H = rate_factors(W, self.components_, exposure, background, row_exposure)
        if groups is None:
            return W, H
        known = RowEffects.given(self, groups, len(W))
        return with_effects(W, H, known.group, known.effects)

    def _with_known_effects(self, counts: Counts, data: FitData) -> FitData:
        """The data with the effects of groups in place of their labels; those of new groups are 1, with a warning."""
        if data.groups is None:
            return data
        known = RowEffects.given(self, data.groups, counts.shape[0])
        return replace(data, groups=KnownEffects(known.group, known.effects.T))

    def _with_groups_of(
        self, counts: Counts, data: FitData,
        estimate: Callable[[MemoryCounts, FitData, np.ndarray], tuple[np.ndarray, dict[str, Any]]],
    ) -> Self:  # fmt: skip
        """The model with the groups of these rows: itself, or if it lacks some a copy.

        `estimate` is given the counts and data of the rows of the groups that it lacks, and the numbers of these rows.
        It returns the effects, (n_new, n_features), and other attributes of the copy.
        """
        if data.groups is None:
            return self
        labels = check_group_labels(data.groups, counts.shape[0])
        known = RowEffects.of(self, labels)
        if not known.new.any():
            return self
        if not isinstance(counts, MemoryCounts):
            raise ValueError(f"X must be in memory to estimate the effects of new groups, got {type(counts).__name__}")
        rows = np.flatnonzero(known.new[known.group])
        effects, attributes = estimate(counts.select_rows(rows), replace(data, groups=labels).select_rows(rows), rows)
        model = copy.copy(self)
        for name, value in attributes.items():
            setattr(model, name, value)
        model.group_names_ = np.concatenate([self.group_names_, known.names[known.new]])
        model.group_effects_ = np.concatenate([self.group_effects_, effects])
        return model

    def _with_features(self, columns: np.ndarray) -> Self:
        """A copy of the fitted model for counts of these features only, given by their numbers."""
        check_is_fitted(self)
        model = copy.copy(self)
        model.components_, model.n_features_in_ = np.ascontiguousarray(self.components_[:, columns]), len(columns)
        if hasattr(self, "feature_names_in_"):
            model.feature_names_in_ = self.feature_names_in_[columns]
        if self.group_effects_ is not None:
            model.group_effects_ = self.group_effects_[:, columns]
        return model

    def _read_training_data(self, X: Any, data: FitData) -> tuple[Counts, FitData, dict[str, Any]]:
        """Read X and the data that belong to it: counts, aligned data, and the attributes on features after the fit."""
        data = data.aligned(MatrixLabels.of(X))
        with stage("reading X"):
            counts, features = as_fittable(X, mask=data.mask, n_threads=self.n_threads), BaseEstimator()
        self._check_features(features, X, counts, reset=True)
        warn_of_duplicates(getattr(features, "feature_names_in_", None))
        return counts, data, vars(features)

    def _read_new_data(self, X: Any, data: FitData = NO_DATA, *, streamed: bool = False) -> tuple[Any, FitData]:
        """Read X for a fitted model, in memory unless `streamed`: counts and aligned data."""
        check_is_fitted(self)
        data = data.aligned(self._labels(X))
        if streamed:
            check_rows(X, len(self.components_), self.components_.dtype)
        with compilation_shown(verbose=self.verbose), stage("reading X"):
            counts = (as_fittable if streamed else observed_counts)(X, mask=data.mask, n_threads=self.n_threads)
        self._check_features(self, X, counts, reset=False)
        return counts, data

    def _read_batch(self, X: Any, *, first: bool) -> tuple[MemoryCounts, dict[str, Any]]:
        """Read a mini-batch: counts, and the attributes on features if it is the first one."""
        check_rows(X, self.n_components, self.dtype)
        if first:
            counts, _, features = self._read_training_data(X, NO_DATA)
        else:
            (counts, _), features = self._read_new_data(X), {}
        return as_counts(counts), features  # an error if the counts are streamed

    def _score(self, counts: Counts, W: np.ndarray, data: FitData) -> float:
        """Poisson log-likelihood per count, in nats."""
        with threads(self.n_threads), compilation_shown(verbose=self.verbose):
            value, total = log_likelihood_of_blocks(counts, W, self.components_, data)
        if total == 0:
            raise ValueError("X must hold a positive count, in a feature that components_ produce, to be scored")
        return value / total

    def _is_empty(self, X: Any) -> bool:
        """Whether X has no rows. Raise an error if its features are not the fitted ones."""
        counts = X.X if isinstance(X, Dataset) else X
        shape: tuple[int, ...] = getattr(counts, "shape", ())
        if len(shape) != 2 or shape[0] > 0:
            return False
        self._check_features(self, X, counts, reset=False)
        return True

    def _labels(self, X: Any) -> MatrixLabels:
        """The labels of X, with the fitted names of features if it has none."""
        return MatrixLabels.of(X, getattr(self, "feature_names_in_", None))

    def _names(self, X: Any) -> dict[str, np.ndarray | None]:
        """Names of the features, the components, and the rows of X, for draws of W and H."""
        return {
            "feature_names": getattr(self, "feature_names_in_", None),
            "component_names": getattr(self, "component_names_", None), "row_names": names_of(X, 0),
        }  # fmt: skip

    def _fitted_names(self) -> list[str]:
        """Names of the attributes that a fit sets."""
        return [
            name for name in vars(self)
            if name in _PRIVATE_FITTED or (name.endswith("_") and not name.startswith("_"))
        ]  # fmt: skip

    def _set_fitted_attributes(self, attributes: dict[str, Any]) -> None:
        """Replace all fitted attributes at once, so that Ctrl-C can't mix those of two fits."""
        fitted = self._fitted_names()
        self.__dict__ = {name: value for name, value in vars(self).items() if name not in fitted} | attributes

    def _tasks(
        self, attributes: Callable[[Solution, Any], dict[str, Any]], X: Any, y: Any, data: FitData
    ) -> FitTasks | None:
        """The observer that reports a fit to scikit-learn's callbacks; None if there are none."""
        return FitTasks(self, attributes, X, y, data) if getattr(self, "_skl_callbacks", None) else None

    def _check_features(self, estimator: BaseEstimator, X: Any, counts: Counts, *, reset: bool) -> None:
        """Compare the number and the names of features of X with those of `estimator`, or set them if `reset`."""
        if is_dataframe(X) and not X.columns.is_unique and all(isinstance(name, str) for name in X.columns):
            X = Dataset(X, column_names=np.asarray(X.columns))  # scikit-learn takes unique names only
        if isinstance(X, Dataset) and X.column_names is not None:  # which scikit-learn can't see
            names = np.asarray(X.column_names).astype(object)
            known = None if reset else getattr(estimator, "feature_names_in_", None)
            if known is not None:
                check_feature_names(names, known)
            if known is None:
                validate_data(estimator, X=counts, reset=reset, skip_check_array=True)
            if reset:
                estimator.feature_names_in_ = names
            elif known is None:
                warn(f"X has feature names, but {type(self).__name__} was fitted without feature names")
            return
        if not reset and not is_dataframe(X) and counts.shape[1] != estimator.n_features_in_:
            raise ValueError(  # that of scikit-learn, which first warns that X has no names
                f"X has {counts.shape[1]} features, but {type(self).__name__} is expecting "
                f"{estimator.n_features_in_} features as input"
            )
        validate_data(estimator, X=counts if isinstance(X, tuple | Dataset) else X, reset=reset, skip_check_array=True)

    @property
    def _n_features_out(self) -> int:
        return len(self.components_)

    def get_feature_names_out(self, input_features: Any = None) -> np.ndarray:
        """Names of the components, for the columns of W: those of `component_names_` if there are any.

        Parameters
        ----------
        input_features : None
            Ignored.

        Returns
        -------
        ndarray of shape (n_components,), object
        """
        names = getattr(self, "component_names_", None)
        return super().get_feature_names_out(input_features) if names is None else names.astype(object)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        tags.input_tags.positive_only = True
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags
