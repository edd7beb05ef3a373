"""Priors of H from lists of features: soft knowledge of what some components are."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.utils import check_scalar

from fastpmf.counts.labels import Labels, labels_of, order_of
from fastpmf.model.priors import AUTO_SHAPE
from fastpmf.utils.messages import brief, listed
from fastpmf.utils.validation import check_array, check_factor, check_number, duplicates


@dataclass(frozen=True, eq=False)
class SeededPrior:
    """A Gamma prior of H with names of components, for the `prior_H` of `PoissonNMF`; see `seeded_prior`.

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

    def aligned(self, columns: Labels) -> tuple[np.ndarray, Any]:
        """(shape, rate) with features in the order of the columns of X."""
        order = order_of(Labels(self.feature_names), columns, "prior_H")
        return (self.shape if order is None else self.shape[:, order]), self.rate


def seeded_prior(
    features: Any, seeds: Mapping[str, Any], n_components: int, *, strength: float, shape: float = AUTO_SHAPE,
    rate: Any = "auto",
) -> SeededPrior:  # fmt: skip
    """A prior of H from features that components are expected to have.

    The prior of a seeded component acts like `strength` counts of it that were seen before, of its features. So it can
    be overruled by more counts than these. The random start of a fit is moved towards it.

    Parameters
    ----------
    features : array-like of str, of length n_features, or matrix of counts with column names
        The names of all features.
    seeds : dict
        For each seeded component, by name, the features to expect: a list of their names, a dict with a weight >= 0 for
        each of them, or an array of shape (n_features,) with a weight for each feature, such as a known profile.
    n_components : int
        Number of components, at least as many as there are seeds; the others have no expected features.
    strength : float
        Counts, > 0, that the prior of a seeded component is worth, which are shared by its features in proportion to
        their weights.
    shape : float, default=1.1
        Shape >= 1 of the prior of all entries without these counts.
    rate : float or {"auto", "sparse"}, default="auto"
        Rate of the prior. A name stands for the rate of that prior, see `PoissonNMF`.

    Returns
    -------
    SeededPrior
        For ``PoissonNMF(n_components, prior_W="auto", prior_H=...)``.

    Raises
    ------
    TypeError, ValueError
        If an argument has an invalid type or value, or a feature is unknown.

    See Also
    --------
    PoissonNMF : takes it as `prior_H`; its argument `fixed_H` fixes components instead.

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
    if not seeds:
        raise ValueError("seeds must have at least one component")
    check_scalar(n_components, "n_components", (int, np.integer), min_val=1)
    if n_components < len(seeds):
        raise ValueError(f"n_components must be at least the number of seeds, {len(seeds)}, got {n_components}")
    check_number(strength, "strength", positive=True)
    check_scalar(shape, "shape", (int, float, np.number), min_val=1)
    position = {name: j for j, name in enumerate(names.tolist())}
    shapes = np.full((n_components, len(names)), float(shape))
    for z, (component, given) in enumerate(seeds.items()):
        weights = _weights(given, position, f"seeds[{component!r}]")
        shapes[z] += strength * weights / weights.sum()
    numbers = [str(z) for z in range(len(seeds), n_components)]
    return SeededPrior(shapes, rate, np.array([*seeds, *numbers], dtype=object), names)


def _feature_names(features: Any) -> np.ndarray:
    values = labels_of(features, 1).names
    if values is None:
        values = np.asarray(features, dtype=object)
    if values.ndim != 1 or not len(values) or not all(isinstance(name, str) for name in values.tolist()):
        raise ValueError(f"features must be names, or counts with column names, got {brief(features)}")
    if repeated := duplicates(values.tolist()):
        raise ValueError(f"features must be unique, got {listed(repeated, 1)} more than once")
    return values


def _weights(given: Any, position: dict[Any, int], name: str) -> np.ndarray:
    """The weights of all features, (n_features,), float64, from those of a seed; not all of them are 0."""
    p = len(position)
    if isinstance(given, str):
        raise TypeError(f"{name} must be a list of features, got the text {given!r}")
    if isinstance(given, Mapping) or all(isinstance(x, str) for x in given):
        weight = dict(given) if isinstance(given, Mapping) else dict.fromkeys(given, 1.0)
        if unknown := [feature for feature in weight if feature not in position]:
            raise ValueError(f"{name} must have names of features, got {listed(unknown)}, which X lacks")
        weights = np.zeros(p)
        weights[[position[feature] for feature in weight]] = check_array(list(weight.values()), name)
    else:
        weights = check_array(given, name)
    weights = check_factor(weights, (p,), name).astype(np.float64)
    if not weights.any():
        raise ValueError(f"{name} must have at least one feature of positive weight")
    return weights
