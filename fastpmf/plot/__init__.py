"""Pictures of counts' factorizations, with matplotlib (`pip install 'fastpmf[plot]'`).

structure                            topic proportions of each row, stacked
topic_label_heatmap                  mean topic proportions of each group of rows
topic_heatmap                        how alike components are, of one fit or of two
top_features, differential           typical features of each component; a volcano plot of one
convergence, selection               how fits came to their objectives; how many components predict best
calibration, residuals               held-out counts against their expectations; where a fit misses

Each draws on `ax`, or on a new figure where it is None, and returns the Axes, or an array of them where there are
several panels. None shows the figure or changes matplotlib's settings. Colours are told apart by all eyes.
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
