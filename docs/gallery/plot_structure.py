"""
Structure plot
==============

Each row of X is a bar, divided by the shares of its topics.
Groups of rows, here packages of Python's standard library, are drawn apart.
"""

import numpy as np

from fastpmf import PoissonNMF, plot
from fastpmf.datasets import load_stdlib

words = load_stdlib()
model = PoissonNMF(10, random_state=0)
W = model.fit_transform(words)

package = np.array([name.split(".")[0] for name in words.row_names])
names, sizes = np.unique(package, return_counts=True)
largest = names[np.argsort(-sizes)[:8]]
labels = model.top_features(2).titles()
ax = plot.structure(W, model, groupby=package, groups=largest, labels=labels)

# %%
# Rows are ordered by their dominant topic.
# ``order="principal"`` suits gradual changes, and ``groups`` may be left out.
