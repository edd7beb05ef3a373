"""Floor 3: fits in scikit-learn's manners, and what is made of several fits."""

from fastpmf.estimators._checkpoint import Checkpoint
from fastpmf.estimators._fit import poisson_nmf
from fastpmf.estimators.differential import Differential, differential_expression
from fastpmf.estimators.dropin import non_negative_factorization
from fastpmf.estimators.hpf import HPF
from fastpmf.estimators.nmf import PoissonNMF
from fastpmf.estimators.select import (
    ComponentGains,
    Selection,
    SelectionInterrupted,
    component_gains,
    select_n_components,
)

__all__ = [
    "HPF",
    "Checkpoint",
    "ComponentGains",
    "Differential",
    "PoissonNMF",
    "Selection",
    "SelectionInterrupted",
    "component_gains",
    "differential_expression",
    "non_negative_factorization",
    "poisson_nmf",
    "select_n_components",
]
