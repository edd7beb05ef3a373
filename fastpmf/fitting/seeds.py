"""Priors of H from lists of features: soft knowledge of what some components are."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.utils import check_scalar

from fastpmf.counts.labels import Labels, labels_of, order_of
from fastpmf.model.priors import AUTO_SHAPE
from fastpmf.utils.messages import brief, listed
from fastpmf.utils.validation import check_array, check_factor, check_number, check_option, duplicates, is_pandas
from fastpmf.utils.warnings import warn


@dataclass(frozen=True, eq=False)
class SeededPrior:
    """A Gamma prior of H with names of components, for `prior_H` of `PoissonNMF` or `c` of `HPF`; see `seeded_prior`.

    Attributes
    ----------
    shape : ndarray of shape (n_components, n_features), float64
    rate : float or {"auto", "sparse"}
    component_names : ndarray of shape (n_components,)
        Names of the seeded components, then the numbers of the others.
    feature_names : ndarray of shape (n_features,)
        The prior is aligned by them with counts that have names, and by position with others.

    See Also
    --------
    seeded_prior : makes one.

    Examples
    --------
    >>> from fastpmf import seeded_prior
    >>> prior = seeded_prior(["ape", "bee", "cat"], {"insects": ["bee"]}, 2, strength=10)
    >>> prior.shape
    array([[ 1.1, 11.1,  1.1],
           [ 1.1,  1.1,  1.1]])
    >>> prior.component_names.tolist()
    ['insects', '1']
    """

    shape: np.ndarray
    rate: Any
    component_names: np.ndarray
    feature_names: np.ndarray

    def aligned(self, columns: Labels, n_components: int, name: str = "prior_H") -> tuple[np.ndarray, Any]:
        """(shape, rate) with features in the order of the columns of X; `name` is that of the argument, for messages.

        Raises
        ------
        ValueError
            If the prior has another number of components, or lacks a column of X.

        Warns
        -----
        UserWarning
            If X lacks all features that are expected in a component.
        """
        k, names = len(self.shape), self.component_names
        if k != n_components:
            raise ValueError(f"n_components must be {k}, that of the seeded prior {name}, got {n_components}")
        order = order_of(Labels(self.feature_names), columns, name)
        if order is None:
            return self.shape, self.rate
        shape, least = self.shape[:, order], self.shape.min()
        if len(lost := names[(self.shape > least).any(axis=1) & (shape <= least).all(axis=1)]):
            warn(f"X lacks all features that {name} expects in {len(lost)} component(s): {listed(lost.tolist())}")
        return shape, self.rate

    def __repr__(self) -> str:
        (k, p), names = self.shape.shape, listed(self.component_names.tolist())
        return f"SeededPrior({k} components of {p} features: {names})"


def component_names(prior_H: Any) -> np.ndarray | None:
    """The names of the components that a prior has, a copy; None if it is not a seeded one."""
    return prior_H.component_names.copy() if isinstance(prior_H, SeededPrior) else None


def seeded_prior(
    features: Any, seeds: Mapping[str, Any], n_components: int, *, strength: float, shape: float = AUTO_SHAPE,
    rate: Any = "auto",
) -> SeededPrior:  # fmt: skip
    """A prior of H from features that components are expected to have.

    The prior of a seeded component acts like `strength` counts of its features that were seen in it before. More counts
    than these in the data overrule it. The random start of a fit is moved towards the rows that have these features.

    Parameters
    ----------
    features : array-like of str, of length n_features, or matrix of counts with column names
        The names of all features. Those of the expected ones must be unique.
    seeds : dict
        For each seeded component, by name, the features to expect: a list of their names, a dict or Series with a
        weight >= 0 for each of them, or an array of shape (n_features,) with a weight for each feature, such as a known
        profile. They are the first components, in this order.
    n_components : int
        Number of components, at least as many as there are seeds; the others have no expected features.
    strength : float
        Counts, > 0, that the prior of each seeded component acts like. They are divided among its features in
        proportion to the weights.
    shape : float, default=1.1
        Shape >= 1 of the prior without these counts.
    rate : float or {"auto", "sparse"}, default="auto"
        Rate > 0 of the prior. A name stands for the rate of that prior, see `PoissonNMF`.

    Returns
    -------
    SeededPrior
        For ``PoissonNMF(n_components, prior_W="auto", prior_H=...)`` or ``HPF(n_components, c=...)``, whose
        `component_names_` are then the names of the seeds and the numbers of the other components.

    Raises
    ------
    TypeError, ValueError
        If an argument has an invalid type or value, or a feature is unknown.

    See Also
    --------
    PoissonNMF : takes it as `prior_H`; its argument `fixed_H` fixes components instead.
    HPF : takes it as `c`; its own priors decide on the shape and rate without these counts.

    Examples
    --------
    >>> from fastpmf import PoissonNMF, seeded_prior
    >>> from fastpmf.datasets import load_stdlib
    >>> words = load_stdlib()
    >>> seeds = {"network": ["socket", "server", "http"], "time": ["date", "year", "month"]}
    >>> prior = seeded_prior(words, seeds, 8, strength=1000)
    >>> model = PoissonNMF(8, prior_W="auto", prior_H=prior, random_state=0).fit(words)
    >>> model.component_names_[:3].tolist()
    ['network', 'time', '2']
    """
    names = _feature_names(features)
    if not isinstance(seeds, Mapping) or not all(isinstance(name, str) for name in seeds):
        raise TypeError(f"seeds must be a dict from names of components to features, got {brief(seeds)}")
    check_scalar(n_components, "n_components", (int, np.integer), min_val=1)
    if not 1 <= len(seeds) <= n_components:
        raise ValueError(f"seeds must have from 1 to n_components = {n_components} components, got {len(seeds)}")
    numbers = [str(z) for z in range(len(seeds), n_components)]
    if clash := set(seeds).intersection(numbers):
        raise ValueError(f"seeds must not have the number of another component as a name, got {listed(sorted(clash))}")
    check_number(strength, "strength", positive=True)
    check_number(shape, "shape")
    check_scalar(shape, "shape", (int, float, np.number), min_val=1)
    if isinstance(rate, str):
        check_option(rate, ("auto", "sparse"), "rate")
    else:
        check_number(rate, "rate", positive=True)
    shapes = np.full((n_components, len(names)), float(shape))
    for z, (component, given) in enumerate(seeds.items()):
        weights = _weights(given, names, f"seeds[{component!r}]")
        shapes[z] += strength * weights / weights.sum()
    return SeededPrior(shapes, rate, np.array([*seeds, *numbers], dtype=object), names)


def _feature_names(features: Any) -> np.ndarray:
    values = labels_of(features, 1).names
    if values is None:
        values = np.asarray(features, dtype=object)
    if values.ndim != 1 or not len(values) or not all(isinstance(name, str) for name in values.tolist()):
        raise ValueError(f"features must be names, or counts with column names, got {brief(features)}")
    return values


def _weights(given: Any, names: np.ndarray, name: str) -> np.ndarray:
    """The weights of all features, (n_features,), float64, from those of a seed; not all of them are 0."""
    p = len(names)
    if isinstance(given, str) or not isinstance(given, Iterable):
        raise TypeError(f"{name} must be a list of features, a dict or an array, got {brief(given)}")
    if is_pandas(given):
        values: Any = given
        given = values.to_dict() if values.dtype.kind in "iuf" else values.tolist()
    given = given if isinstance(given, Mapping | np.ndarray) else list(given)
    if isinstance(given, Mapping) or any(isinstance(x, str) for x in given):
        if not isinstance(given, Mapping) and (repeated := duplicates(list(given))):
            raise ValueError(f"{name} must have each feature once, got {listed(repeated, 1)} more than once")
        weight = given if isinstance(given, Mapping) else dict.fromkeys(given, 1.0)
        position = {feature: j for j, feature in enumerate(names.tolist())}
        if unknown := [feature for feature in weight if feature not in position]:
            raise ValueError(f"{name} must have names in features, which lacks {listed(unknown)}")
        if repeated := [feature for feature in duplicates(names.tolist()) if feature in weight]:
            raise ValueError(
                f"{name} must have names that features has once, got {listed(repeated)}, which it has more than once; "
                "names of AnnData can be made unique by adata.var_names_make_unique()"
            )
        weights = np.zeros(p)
        weights[[position[feature] for feature in weight]] = check_array(list(weight.values()), name)
    elif not len(given):
        raise ValueError(f"{name} must have at least one feature, got none")
    elif np.shape(given) != (p,):
        raise ValueError(
            f"{name} must be a list of names of features, a dict from names to weights, or an array with a weight for "
            f"each of {p} features, got {brief(given)}"
        )
    else:
        weights = check_array(given, name)
    weights = check_factor(weights, (p,), name).astype(np.float64)
    if not weights.any():
        raise ValueError(f"{name} must have at least one feature of positive weight")
    return weights
