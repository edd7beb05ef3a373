"""Floor 3: scikit-learn's manners, no mathematics."""

from fastpmf.estimators._fit import poisson_nmf
from fastpmf.estimators.hpf import HPF
from fastpmf.estimators.nmf import PoissonNMF

__all__ = ["HPF", "PoissonNMF", "poisson_nmf"]
