"""
Topics by group
===============

The mean shares of the topics in groups of rows.
It shows in numbers what a structure plot shows in bars, and has space for more groups.
"""

import numpy as np

from fastpmf import PoissonNMF, plot
from fastpmf.datasets import load_stdlib

words = load_stdlib()
model = PoissonNMF(10, random_state=0)
W = model.fit_transform(words)

package = np.array([name.split(".")[0] for name in words.row_names])
names, sizes = np.unique(package, return_counts=True)
large = names[sizes >= 5]
labels = model.top_features(2).titles()
ax = plot.group_heatmap(W, model, groupby=package, groups=large, labels=labels)

# %%
# Columns are ordered by the group with their largest mean.
