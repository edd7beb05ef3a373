"""Floor 3: scikit-learn's manners, no mathematics."""

from fastpmf.estimators._fit import poisson_nmf
from fastpmf.estimators.dropin import non_negative_factorization
from fastpmf.estimators.hpf import HPF
from fastpmf.estimators.nmf import PoissonNMF
from fastpmf.estimators.select import Selection, select_n_components

__all__ = ["HPF", "PoissonNMF", "Selection", "non_negative_factorization", "poisson_nmf", "select_n_components"]
