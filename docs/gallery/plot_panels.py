"""
Several plots in one figure
===========================

Every function draws into the Axes that it gets as ``ax``, and returns them, to be changed like any others.
"""

import matplotlib.pyplot as plt

from fastpmf import PoissonNMF, plot
from fastpmf.datasets import load_stdlib

words = load_stdlib()
model = PoissonNMF(6, random_state=0)
W = model.fit_transform(words)

fig, axes = plt.subplot_mosaic("ss;ab", figsize=(9, 6), layout="constrained")
plot.structure(W, model, ax=axes["s"])
plot.top_features(model, 8, components=[0, 1], ax=[axes["a"], axes["b"]])
for ax, letter in zip(axes.values(), "abc", strict=True):
    ax.set_title(letter, loc="left", fontweight="bold")

# %%
# The components have the same colours in all plots.
