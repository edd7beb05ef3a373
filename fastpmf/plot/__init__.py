"""Plots of factorizations of counts, with matplotlib (`pip install 'fastpmf[plot]'`).

structure                            topic proportions of each row, stacked
topic_label_heatmap                  mean topic proportions of groups of rows
topic_heatmap                        similarity of components, of one fit or of two
top_features, differential           top features of each component; volcano plot of one component
convergence, selection               objectives during fits; scores of numbers of components
calibration, residuals               held-out counts against their expectations; groups where a fit deviates

Each function draws on `ax`, or on a new figure if `ax` is None, and returns the Axes, or an array of them if there are
several panels. It neither shows the figure nor changes matplotlib's settings. Colours suit colour-blind readers.
"""

from fastpmf.plot.features import differential, top_features
from fastpmf.plot.fits import calibration, convergence, residuals, selection
from fastpmf.plot.topics import structure, topic_heatmap, topic_label_heatmap

__all__ = [
    "calibration",
    "convergence",
    "differential",
    "residuals",
    "selection",
    "structure",
    "top_features",
    "topic_heatmap",
    "topic_label_heatmap",
]
