"""Draws of W and H, from a posterior distribution or from bootstrap replicates, and intervals of them."""

import os
from dataclasses import dataclass, fields
from typing import Any, Self

import numpy as np
from scipy.stats import gamma

from fastpmf.analysis.differential import Differential
from fastpmf.analysis.features import component_labels
from fastpmf.utils.files import READ_ERRORS, atomic_write
from fastpmf.utils.messages import brief
from fastpmf.utils.tables import Table, data_frame, number, shown_as_table
from fastpmf.utils.validation import check_share


@shown_as_table
@dataclass(frozen=True, eq=False)
class Draws:
    """Draws of the entries of an array.

    Attributes
    ----------
    values : ndarray of shape (n_draws, ...)
        At least two draws.
    one_count : ndarray of the shape of a draw, or None
        How much of each entry a single count makes. An entry without counts may be 0 in all draws of a bootstrap, which
        does not mean that it is known to be 0. With `one_count` its interval ends where that of a Poisson rate without
        counts does.
    largest : float, default=infinity
        The largest possible value, at which intervals end; 1 for shares.

    See Also
    --------
    FactorDraws : draws of W and H.

    Examples
    --------
    >>> import numpy as np
    >>> from fastpmf import Draws
    >>> draws = Draws(np.random.default_rng(0).standard_gamma([1.0, 9.0], size=(10_000, 2)))
    >>> draws.mean.round(1)
    array([1., 9.])
    >>> low, high = draws.interval(0.9)
    >>> high.round()
    array([ 3., 14.])
    """

    values: np.ndarray
    one_count: np.ndarray | None = None
    largest: float = np.inf

    def __post_init__(self) -> None:
        if not isinstance(self.values, np.ndarray) or self.values.dtype.kind != "f" or self.values.ndim < 1:
            raise TypeError(f"values must be an array of floats, got {brief(self.values)}")
        if len(self.values) < 2:
            raise ValueError(f"values must hold at least two draws, got {len(self.values)}")

    def __len__(self) -> int:
        return len(self.values)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one draw."""
        return self.values.shape[1:]

    @property
    def mean(self) -> np.ndarray:
        """Mean of each entry, float64."""
        return self.values.mean(axis=0, dtype=np.float64)

    @property
    def std(self) -> np.ndarray:
        """Standard deviation of each entry, float64."""
        return self.values.std(axis=0, dtype=np.float64, ddof=1)

    def quantile(self, q: Any) -> np.ndarray:
        """Quantiles of each entry.

        Between the ordered draws they are interpolated such that a further draw is below the i-th of n draws with
        probability i / (n + 1).

        Parameters
        ----------
        q : float or array-like of float
            Between 0 and 1.

        Returns
        -------
        ndarray
            Of the shape of a draw, after that of q.
        """
        q = np.asarray(q, dtype=np.float64)
        if not ((q >= 0) & (q <= 1)).all():
            raise ValueError(f"q must be between 0 and 1, got {brief(q)}")
        return np.quantile(self.values, q, axis=0, method="weibull")

    def interval(self, level: float = 0.9) -> tuple[np.ndarray, np.ndarray]:
        """Central intervals, with a share (1 - level) / 2 of the draws on either side.

        Parameters
        ----------
        level : float, default=0.9
            Between 0 and 1. With fewer than 2 / (1 - level) - 1 draws, the interval is that of all draws.

        Returns
        -------
        low, high : ndarray of the shape of a draw
            With `one_count`, `high` is at least the upper end of the interval of a Poisson rate of which no count was
            seen, under Jeffreys' prior: 1.92 counts for a level of 90 %.
        """
        check_share(level, "level")
        low, high = self.quantile([(1 - level) / 2, (1 + level) / 2])
        if self.one_count is not None:
            high = np.maximum(high, gamma.ppf((1 + level) / 2, 0.5) * self.one_count)
        return low, np.minimum(high, self.largest)

    def _table(self) -> Table:
        size = " x ".join(f"{n:,}" for n in self.shape) or "1"
        facts = {"mean": f"{number(self.values.mean())}"} if self.values.size else {}
        note = ".mean, .std, .interval(0.9) and .quantile(q) compute what is needed."
        return Table(f"{len(self):,} draws of {size} entries", facts=facts, note=note)


@dataclass(frozen=True, eq=False, kw_only=True)
class FactorDraws:
    """Draws of W and H.

    Attributes
    ----------
    H : Draws of shape (k, p)
    W : Draws of shape (n, k), or None
        None if they were not kept.
    feature_names, component_names, row_names : ndarray of str, or None
        Names, if there are any.

    See Also
    --------
    PosteriorDraws : draws from the posterior distribution.

    Examples
    --------
    >>> import numpy as np
    >>> from fastpmf import Draws, FactorDraws
    >>> H = np.random.default_rng(0).gamma([[8.0, 1.0], [1.0, 9.0]], size=(50, 2, 2))
    >>> draws = FactorDraws(H=Draws(H), feature_names=np.array(["ape", "bee"]))
    >>> draws.to_frame(n=1)["feature"].tolist()
    ['ape', 'bee']
    >>> draws.feature_shares.mean.sum(axis=1).round(6)
    array([1., 1.])
    """

    H: Draws
    W: Draws | None = None
    feature_names: np.ndarray | None = None
    component_names: np.ndarray | None = None
    row_names: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.H)

    @property
    def feature_shares(self) -> Draws:
        """P(feature | component): H with rows that sum to 1, (k, p), which the scale of H does not change."""
        sums, one = self.H.values.sum(axis=2, keepdims=True), self.H.one_count
        return Draws(_quotient(self.H.values, sums), None if one is None else _quotient(one, sums.mean(axis=0)), 1.0)

    @property
    def component_shares(self) -> Draws:
        """P(component | row): the share of each component in the expected counts of a row, (n, k).

        Exposures of columns are left out.

        Raises
        ------
        ValueError
            If W was not kept.
        """
        if self.W is None:
            raise ValueError("W was not kept: draw again with keep_W=True")
        scale, one = self.H.values.sum(axis=2), self.W.one_count
        rates = self.W.values * scale[:, None, :]
        sums = rates.sum(axis=2, keepdims=True)
        one = None if one is None else _quotient(one * scale.mean(axis=0), sums.mean(axis=0))
        return Draws(_quotient(rates, sums), one, 1.0)

    def top_share(self, n: int = 10) -> np.ndarray:
        """Share of the draws in which each feature is among the n features of highest weight of a component, (k, p)."""
        k, p = self.H.shape
        if not 1 <= n <= p:
            raise ValueError(f"n must be from 1 to {p}, the number of features, got {n}")
        found = np.zeros((k, p))
        for H in self.H.values:
            first = np.argpartition(-H, n - 1, axis=1)[:, :n]
            np.put_along_axis(found, first, np.take_along_axis(found, first, axis=1) + 1, axis=1)
        return found / len(self)

    def differential(self, against: str | int = "others") -> Differential:
        """Log2 fold changes of P(feature | component), with standard errors from the draws.

        Parameters
        ----------
        against : {"others", "mean"} or int, default="others"
            As in `fastpmf.differential_expression`; the nearest other component is that of the mean of the draws, and
            "mean" is the mean of the components.

        Returns
        -------
        Differential
            Half of `H.one_count` is added to each entry, if there is one, so that features without counts have finite
            changes. A change is undefined if a draw is 0.
        """
        shares = self.feature_shares
        other = _compared_with(shares.mean, against)
        values = shares.values.astype(np.float64)
        if shares.one_count is not None:
            values += 0.5 * shares.one_count
        with np.errstate(divide="ignore", invalid="ignore"):
            logs = np.log2(values)
            if against == "mean":
                changes = logs - np.log2(values.mean(axis=1, keepdims=True))
            else:
                changes = logs - np.take_along_axis(logs, np.broadcast_to(other, logs.shape), axis=1)
            change, error = changes.mean(axis=0), changes.std(axis=0, ddof=1)
        defined = np.isfinite(change) & np.isfinite(error)
        return Differential(
            np.where(defined, change, 0.0), np.where(defined, error, np.inf), other, None, self.feature_names,
            self.component_names,
        )  # fmt: skip

    def to_frame(self, level: float = 0.9, n: int | None = None) -> Any:
        """A pandas DataFrame of P(feature | component), with a row for each feature of each component.

        Its columns are component, feature, mean, low, high, and, if n is given, in_top: the share of the draws in which
        the feature is among the n first.

        Parameters
        ----------
        level : float, default=0.9
            Of the intervals.
        n : int, optional
            Only the n features of highest mean of each component.

        Raises
        ------
        ImportError
            If pandas is not installed.
        """
        (k, p), shares = self.H.shape, self.feature_shares
        mean, (low, high) = shares.mean, shares.interval(level)
        features = np.arange(p) if self.feature_names is None else self.feature_names
        at = np.broadcast_to(np.arange(p), (k, p)) if n is None else np.argsort(-mean, axis=1, kind="stable")[:, :n]

        def pick(A: np.ndarray) -> np.ndarray:
            return np.take_along_axis(A, at, axis=1).ravel()

        columns = {
            "component": np.repeat(component_labels(self.component_names, k), at.shape[1]),
            "feature": features[at.ravel()], "mean": pick(mean), "low": pick(low), "high": pick(high),
        }  # fmt: skip
        if n is not None:
            columns["in_top"] = pick(self.top_share(n))
        return data_frame(columns)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write everything to one `.npz` file; an existing file is replaced whole or not at all."""
        arrays: dict[str, Any] = {}
        for f in fields(self):
            value = getattr(self, f.name)
            if isinstance(value, Draws):
                arrays |= {} if value.one_count is None else {f"{f.name}_one_count": value.one_count}
                value = value.values
            if value is not None:
                value = np.asarray(value)
                arrays[f.name] = value.astype(str) if value.dtype == object else value
        with atomic_write(path) as file:
            np.savez_compressed(file, **arrays)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read what `save` wrote; `FactorDraws.load` also reads a `Bootstrap` and `PosteriorDraws`.

        Raises
        ------
        FileNotFoundError
            If there is no such file.
        ValueError
            If the file is damaged, or has other contents.
        """
        try:
            with np.load(path, allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
            kinds = {kind: {f.name for f in fields(kind)} for kind in (cls, *cls.__subclasses__())}
            given = set(arrays) - {"H_one_count", "W_one_count"}
            kind = next((kind for kind, known in kinds.items() if "H" in given and given <= known), None)
            if kind is None:
                raise ValueError(f"it has the arrays {sorted(arrays)}")
            values: dict[str, Any] = {name: A if A.ndim else A.item() for name, A in arrays.items()}
            for name in ("H", "W"):
                one_count = values.pop(f"{name}_one_count", None)
                if name in values:
                    values[name] = Draws(values[name], one_count)
            return kind(**values)
        except FileNotFoundError:
            raise
        except READ_ERRORS as error:
            raise ValueError(f"{os.fspath(path)} is damaged, or is no file of {cls.__name__}") from error


class DrawsInterrupted(KeyboardInterrupt):
    """Ctrl-C while draws were made; `draws` has those that are complete.

    See Also
    --------
    bootstrap, HPF.sample_posterior, PoissonNMF.sample_posterior : raise it.

    Examples
    --------
    >>> from fastpmf import HPF, DrawsInterrupted
    >>> X = [[9, 0, 8, 0], [8, 1, 9, 0], [0, 7, 1, 8], [0, 9, 0, 7]]
    >>> model = HPF(2, random_state=0).fit(X)
    >>> try:
    ...     draws = model.sample_posterior(X, 20, random_state=0)
    ... except DrawsInterrupted as interrupted:  # Ctrl-C
    ...     draws = interrupted.draws
    >>> len(draws)
    20
    """

    def __init__(self, draws: FactorDraws) -> None:
        super().__init__("interrupted; the attribute `draws` has the complete ones")
        self.draws = draws

    def __reduce__(self) -> tuple[Any, ...]:  # for pickling, since `args` is the message
        return type(self), (self.draws,)


def _compared_with(mean: np.ndarray, against: str | int) -> np.ndarray:
    """The component that each entry (k, p) is compared with; -1 for the mean."""
    k, p = mean.shape
    if against == "mean":
        return np.full((k, p), -1)
    if against == "others":
        if k < 2:
            raise ValueError("against must be 'mean' for a single component, got 'others'")
        with np.errstate(divide="ignore", invalid="ignore"):
            logs = np.log(mean)
            distance = np.abs(logs[:, None] - logs[None])
        distance[np.isnan(distance) | np.eye(k, dtype=bool)[:, :, None]] = np.inf
        return distance.argmin(axis=1)
    if not isinstance(against, int | np.integer) or isinstance(against, bool) or not 0 <= against < k:
        raise ValueError(f"against must be 'others', 'mean' or a component from 0 to {k - 1}, got {brief(against)}")
    return np.full((k, p), int(against))


def _quotient(A: np.ndarray, sums: np.ndarray) -> np.ndarray:
    """A / sums, and 0 where a sum is 0."""
    return np.divide(A, sums, out=np.zeros_like(A), where=sums > 0)
