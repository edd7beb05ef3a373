"""Plots of factorizations of counts, with matplotlib (`pip install 'fastpmf[plot]'`).

structure                            topic proportions of each row, stacked
group_heatmap                        mean topic proportions of groups of rows
similarity_heatmap                   similarity of components, of one fit or of two
top_features, differential           top features of each component; volcano plot of one component
convergence, selection               objectives during fits; scores of numbers of components
intervals                            how certain the top features of each component are
consensus                            similarity of the components of many fits, and their stability
component_gains                      contribution of each component to the prediction of held-out counts
calibration, residuals               held-out counts against their expectations; groups where a fit deviates
overdispersion                       variance of each feature, compared with that of Poisson counts

Data come first, as far as a plot needs them, in the order X, W, H; a fitted estimator may replace H. `groupby` is a
group for each row, `labels` are names of components or fits, and `names` those of features.

Each function draws on `ax`, or on a new figure if `ax` is None, and returns the Axes, or an array of them if there are
several panels. It neither shows the figure nor changes matplotlib's settings, and follows its style, light or dark. A
component has the same colour in all plots, and colours suit colour-blind readers.
"""

from fastpmf.plot.consensus import consensus
from fastpmf.plot.features import differential, intervals, top_features
from fastpmf.plot.fits import calibration, component_gains, convergence, overdispersion, residuals, selection
from fastpmf.plot.topics import group_heatmap, similarity_heatmap, structure

__all__ = [
    "calibration",
    "component_gains",
    "consensus",
    "convergence",
    "differential",
    "group_heatmap",
    "intervals",
    "overdispersion",
    "residuals",
    "selection",
    "similarity_heatmap",
    "structure",
    "top_features",
]
