"""
Intervals of top features
=========================

How certain the shares of words in topics are: means and 90 % intervals of 20 bootstrap replicates, in which documents
have random weights.
"""

import numpy as np

from fastpmf import PoissonNMF, bootstrap, plot
from fastpmf.datasets import load_stdlib
from fastpmf.io import Dataset

words = load_stdlib()
rows = ~np.char.startswith(words.row_names, "encodings")  # these are tables of characters
columns = words.X.sum(axis=0) >= 100
X = Dataset(words.X[rows][:, columns], column_names=words.column_names[columns])
model = PoissonNMF(6, random_state=0).fit(X)
replicates = bootstrap(model, X, n_replicates=20, keep_W=False, random_state=0)
axes = plot.intervals(replicates, 8)

# %%
# The intervals are wide where a few modules make most of the counts of a word. A topic would be grey if replicates
# mixed it with others.

replicates
