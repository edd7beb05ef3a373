"""
Similarity of components
========================

Components of two fits from different random starts: bright cells off the diagonal, or a dim diagonal, are components
that depend on the start.
With one fit as the argument, it shows which of its components are alike.
"""

import matplotlib.pyplot as plt

from fastpmf import PoissonNMF, plot
from fastpmf.datasets import load_stdlib

words = load_stdlib()
first, second = (PoissonNMF(10, random_state=seed).fit(words) for seed in (0, 1))
labels, other_labels = (model.top_features(2).titles() for model in (first, second))

fig, ax = plt.subplots(figsize=(6.4, 5.6), layout="constrained")
plot.similarity_heatmap(first, second, labels=labels, other_labels=other_labels, ax=ax)
