"""Posteriors of entries as independent Gamma distributions."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats
from scipy.special import digamma

from fastpmf.model.hierarchy import GammaFactor
from fastpmf.utils.tables import Table, number, shown_as_table
from fastpmf.utils.validation import check_share


@shown_as_table
@dataclass(frozen=True, repr=False)
class GammaPosterior:
    """Independent Gamma distributions, by shape and rate.

    Attributes
    ----------
    shape, rate : ndarray of one shape, float32 or float64
        The density of an entry u is rate^shape u^(shape - 1) exp(-rate u) / Gamma(shape).

    See Also
    --------
    HPF : infers such posteriors.

    Examples
    --------
    >>> import numpy as np
    >>> from fastpmf import GammaPosterior
    >>> posterior = GammaPosterior(shape=np.array([1.0, 9.0]), rate=np.array([1.0, 3.0]))
    >>> posterior.mean
    array([1., 3.])
    >>> low, high = posterior.interval(0.9)
    >>> high.round(2)
    array([3.  , 4.81])
    """

    shape: np.ndarray
    rate: np.ndarray

    @classmethod
    def of_entries(cls, factor: GammaFactor, exposure: float = 1.0) -> "GammaPosterior":
        """Posteriors of the entries of a factor divided by `exposure`, (n_rows, n_components)."""
        k = factor.n_components
        rate = factor.rates()[:, :k] * factor.mean.dtype.type(exposure)
        return cls(np.array(factor.shape[:, :k], order="C"), rate)

    @classmethod
    def of_rows(cls, factor: GammaFactor, exposure: float = 1.0) -> "GammaPosterior":
        """Posteriors of the rates of the rows of a factor whose entries are divided by `exposure`, (n_rows,)."""
        return cls(np.full(len(factor.activity_rate), factor.activity_shape), factor.activity_rate / exposure)

    def _table(self) -> Table:
        mean = self.mean
        size = " x ".join(f"{n:,}" for n in mean.shape)
        facts = {"mean": f"{number(mean.min())} to {number(mean.max())}"} if mean.size else {}
        note = ".mean, .variance, .interval(0.9) and .sample() compute what is needed."
        return Table(f"GammaPosterior of {size} entries", facts=facts, note=note)

    @property
    def mean(self) -> np.ndarray:
        """E[u] = shape / rate."""
        return self.shape / self.rate

    @property
    def geometric_mean(self) -> np.ndarray:
        """exp E[log u] = exp(digamma(shape)) / rate: below the mean, and close to 0 if the shape is small."""
        with np.errstate(under="ignore"):
            return np.exp(digamma(self.shape)) / self.rate

    @property
    def variance(self) -> np.ndarray:
        """shape / rate^2."""
        return self.mean / self.rate

    def interval(self, level: float = 0.9) -> tuple[np.ndarray, np.ndarray]:
        """Central credible intervals, with probability (1 - level) / 2 on either side.

        Parameters
        ----------
        level : float, default=0.9
            Between 0 and 1.

        Returns
        -------
        low, high : ndarray of the shape of `mean`, float64
        """
        check_share(level, "level")
        return stats.gamma.interval(level, self.shape.astype(np.float64), scale=1.0 / self.rate.astype(np.float64))

    def sample(self, size: Any = None, random_state: Any = None) -> np.ndarray:
        """Independent draws.

        Parameters
        ----------
        size : tuple of int, optional
            Shape of the result, whose last dimensions are those of `mean`; by default one draw of each entry.
        random_state : int, RandomState, Generator or None, default=None

        Returns
        -------
        ndarray of shape `size`, float64
        """
        rng = random_state if hasattr(random_state, "standard_gamma") else np.random.default_rng(random_state)
        draws = rng.standard_gamma(self.shape, size=self.shape.shape if size is None else size)
        with np.errstate(under="ignore"):
            return draws / self.rate

    def transposed(self) -> "GammaPosterior":
        """With rows and columns exchanged."""
        return GammaPosterior(self.shape.T, self.rate.T)

    def __getitem__(self, key: Any) -> "GammaPosterior":
        return GammaPosterior(self.shape[key], self.rate[key])
