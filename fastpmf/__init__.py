"""Poisson matrix factorization of large sparse counts.

PoissonNMF, poisson_nmf                                     fit W and H: maximum likelihood, or posterior modes
non_negative_factorization                                  the same with scikit-learn's signature
HPF, GammaPosterior                                         infer posteriors of W and H
bootstrap, PosteriorDraws                                   intervals of factors, by refitting or by sampling
select_n_components, component_gains                        choose the number of components by held-out counts
consensus                                                   what many fits agree on, and how stable it is
SeededPrior, seeded_prior                                   expect features in components
Topics, to_topics                                           factors as probabilities, which is PLSI
top_features, topic_quality, match_components               interpret and compare components
pyldavis_input                                              input of pyLDAvis
overdispersion                                              whether counts vary more than Poisson counts
differential_expression                                     log fold changes of features between components
recommend, similar_columns, ranking_scores                  rank features for rows, and score rankings
kl_divergence, poisson_log_likelihood, poisson_deviance     score factors exactly
as_counts, StreamedCounts                                   counts in memory, counts on disk
thin_counts, split_entries, heldout_log_likelihood          random splits of counts, and the score of a fit to one part
Checkpoint, plan, warmup                                    save a fit in progress, estimate its memory, compile ahead
datasets, show_versions                                     example data, versions for bug reports
io, plot, anndata, dask, cnmf                               modules, each imported at its first use
"""

from importlib import import_module
from types import ModuleType

import fastpmf.datasets  # noqa: F401
from fastpmf._show_versions import show_versions
from fastpmf._version import __version__
from fastpmf.analysis.bootstrap import Bootstrap, bootstrap
from fastpmf.analysis.consensus import Replicates
from fastpmf.analysis.differential import Differential, differential_expression
from fastpmf.analysis.dispersion import Overdispersion, overdispersion
from fastpmf.analysis.draws import Draws, DrawsInterrupted, FactorDraws
from fastpmf.analysis.features import match_components, top_features, topic_quality
from fastpmf.analysis.gibbs import PosteriorDraws
from fastpmf.analysis.ranking import ranking_scores, recommend, similar_columns
from fastpmf.analysis.scores import kl_divergence, poisson_deviance, poisson_log_likelihood
from fastpmf.analysis.selection import (
    ComponentGains,
    Selection,
    SelectionInterrupted,
    component_gains,
    heldout_log_likelihood,
    select_n_components,
)
from fastpmf.analysis.topics import Topics, pyldavis_input, to_topics
from fastpmf.counts import MemoryCounts, as_counts
from fastpmf.counts.split import split_entries, thin_counts
from fastpmf.counts.streamed import StreamedCounts
from fastpmf.estimators import HPF, PoissonNMF, non_negative_factorization
from fastpmf.estimators.consensus import Consensus, ConsensusInterrupted, consensus
from fastpmf.fitting.checkpoint import Checkpoint
from fastpmf.fitting.fit import poisson_nmf
from fastpmf.fitting.memory import Plan, plan
from fastpmf.fitting.seeds import SeededPrior, seeded_prior
from fastpmf.model.gamma import GammaPosterior
from fastpmf.solvers import FitInterrupted, Record, Solution, Status
from fastpmf.warmup import warmup

__all__ = [
    "HPF",
    "Bootstrap",
    "Checkpoint",
    "ComponentGains",
    "Consensus",
    "ConsensusInterrupted",
    "Differential",
    "Draws",
    "DrawsInterrupted",
    "FactorDraws",
    "FitInterrupted",
    "GammaPosterior",
    "MemoryCounts",
    "Overdispersion",
    "Plan",
    "PoissonNMF",
    "PosteriorDraws",
    "Record",
    "Replicates",
    "SeededPrior",
    "Selection",
    "SelectionInterrupted",
    "Solution",
    "Status",
    "StreamedCounts",
    "Topics",
    "__version__",
    "as_counts",
    "bootstrap",
    "component_gains",
    "consensus",
    "differential_expression",
    "heldout_log_likelihood",
    "kl_divergence",
    "match_components",
    "non_negative_factorization",
    "overdispersion",
    "plan",
    "poisson_deviance",
    "poisson_log_likelihood",
    "poisson_nmf",
    "pyldavis_input",
    "ranking_scores",
    "recommend",
    "seeded_prior",
    "select_n_components",
    "show_versions",
    "similar_columns",
    "split_entries",
    "thin_counts",
    "to_topics",
    "top_features",
    "topic_quality",
    "warmup",
]

_LAZY = ("anndata", "cnmf", "dask", "io", "plot")


def __getattr__(name: str) -> ModuleType:
    if name in _LAZY:
        return import_module(f"fastpmf.{name}")
    raise AttributeError(f"module 'fastpmf' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY} - {"import_module", "ModuleType"})
