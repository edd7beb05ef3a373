"""Estimators with scikit-learn's interface."""

from fastpmf.estimators.hpf import HPF
from fastpmf.estimators.poisson_nmf import PoissonNMF
from fastpmf.estimators.sklearn_function import non_negative_factorization

__all__ = ["HPF", "PoissonNMF", "non_negative_factorization"]
