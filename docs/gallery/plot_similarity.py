"""
Similarity of components
========================

Components of two fits from different random starts, matched one to one.
"""

import matplotlib.pyplot as plt

from fastpmf import PoissonNMF, plot
from fastpmf.datasets import load_stdlib

words = load_stdlib()
first, second = (PoissonNMF(10, random_state=seed).fit(words) for seed in (0, 1))
labels, other_labels = (model.top_features(2).titles() for model in (first, second))

fig, ax = plt.subplots(figsize=(6.4, 5.6), layout="constrained")
plot.similarity_heatmap(first, second, labels=labels, other_labels=other_labels, ax=ax)

# %%
# A dim cell on the diagonal, or a bright one off it, belongs to a component that depends on the start.
# ``plot.similarity_heatmap(model)`` compares the components of one fit with each other.
