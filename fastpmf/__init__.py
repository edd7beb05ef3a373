"""Poisson matrix factorization of large sparse counts, from one Numba kernel.

PoissonNMF, poisson_nmf                                     fit W and H to counts
kl_divergence, poisson_log_likelihood, poisson_deviance     score factors exactly
as_counts                                                   read any matrix once, use it often
plan                                                        the memory and time that a fit will take
datasets                                                    counts that every machine has, or drawn from the model
show_versions                                               what a bug report should say
"""

from fastpmf._show_versions import show_versions
from fastpmf._version import __version__
from fastpmf.counts import MemoryCounts, as_counts
from fastpmf.estimators import PoissonNMF, poisson_nmf
from fastpmf.model.objective import kl_divergence, poisson_deviance, poisson_log_likelihood
from fastpmf.plan import Plan, plan
from fastpmf.solvers import FitInterrupted, Record, Solution, Status

__all__ = [
    "FitInterrupted",
    "MemoryCounts",
    "Plan",
    "PoissonNMF",
    "Record",
    "Solution",
    "Status",
    "__version__",
    "as_counts",
    "kl_divergence",
    "plan",
    "poisson_deviance",
    "poisson_log_likelihood",
    "poisson_nmf",
    "show_versions",
]
