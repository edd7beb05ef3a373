"""Poisson matrix factorization of large sparse counts.

PoissonNMF, poisson_nmf                                     maximum likelihood and MAP estimates of W and H
non_negative_factorization                                  the same with the signature of scikit-learn's function
HPF, GammaPosterior                                         approximate posteriors of W and H
select_n_components                                         choose the number of components by held-out counts
Topics, to_topics                                           factors as probabilities (PLSI)
top_features, topic_quality, match_components               describe and match components
pyldavis_input                                              input of pyLDAvis
differential_expression                                     log fold changes of features between components, with errors
recommend, similar_columns, ranking_scores                  the columns with the highest rates, and their evaluation
kl_divergence, poisson_log_likelihood, poisson_deviance     exact scores of factors
as_counts                                                   convert any matrix to canonical counts
StreamedCounts                                              counts that are read in each pass
thin_counts                                                 divide counts into two independent parts
Checkpoint                                                  periodically save a fit, to resume it
plan                                                        estimate the memory of a fit
warmup                                                      compile kernels before the first fit
datasets                                                    example counts
show_versions                                               versions and machine, for bug reports
"""

import fastpmf._interrupted  # noqa: F401
from fastpmf._show_versions import show_versions
from fastpmf._version import __version__
from fastpmf.analysis.differential import Differential, differential_expression
from fastpmf.analysis.features import match_components, pyldavis_input, top_features, topic_quality
from fastpmf.analysis.ranking import ranking_scores, recommend, similar_columns
from fastpmf.analysis.scores import kl_divergence, poisson_deviance, poisson_log_likelihood
from fastpmf.analysis.selection import (
    ComponentGains,
    Selection,
    SelectionInterrupted,
    component_gains,
    select_n_components,
)
from fastpmf.analysis.topics import Topics, to_topics
from fastpmf.counts import MemoryCounts, as_counts
from fastpmf.counts.streamed import StreamedCounts
from fastpmf.counts.thinning import thin_counts
from fastpmf.estimators import HPF, PoissonNMF, non_negative_factorization
from fastpmf.fitting.checkpoint import Checkpoint
from fastpmf.fitting.fit import poisson_nmf
from fastpmf.fitting.memory import Plan, plan
from fastpmf.model.gamma import GammaPosterior
from fastpmf.solvers import FitInterrupted, Record, Solution, Status
from fastpmf.warmup import warmup

__all__ = [
    "HPF",
    "Checkpoint",
    "ComponentGains",
    "Differential",
    "FitInterrupted",
    "GammaPosterior",
    "MemoryCounts",
    "Plan",
    "PoissonNMF",
    "Record",
    "Selection",
    "SelectionInterrupted",
    "Solution",
    "Status",
    "StreamedCounts",
    "Topics",
    "__version__",
    "as_counts",
    "component_gains",
    "differential_expression",
    "kl_divergence",
    "match_components",
    "non_negative_factorization",
    "plan",
    "poisson_deviance",
    "poisson_log_likelihood",
    "poisson_nmf",
    "pyldavis_input",
    "ranking_scores",
    "recommend",
    "select_n_components",
    "show_versions",
    "similar_columns",
    "thin_counts",
    "to_topics",
    "top_features",
    "topic_quality",
    "warmup",
]
