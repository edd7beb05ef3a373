"""
Volcano plot
============

How much more frequent each gene is in one topic than in any other, and how certain this is.
Of 500 genes, topic 1 raises the first ten by factors of 2 to 10.
"""

import numpy as np

from fastpmf import PoissonNMF, plot
from fastpmf.io import Dataset

rng = np.random.default_rng(0)
genes = [f"GENE{j}" for j in range(500)]
H = np.tile(rng.gamma(0.5, size=500), (3, 1))
H[1, :10] *= rng.uniform(2, 10, 10)
H[2, 10:40] *= rng.uniform(2, 10, 30)
W = rng.dirichlet([0.3, 0.3, 0.3], 400) * rng.gamma(5, 0.3, (400, 1))
X = Dataset(rng.poisson(W @ H), column_names=genes)

model = PoissonNMF(3, random_state=0)
W = model.fit_transform(X)
changes = model.differential_expression(X, W)
topic = changes.log2_fold_change[:, :10].sum(axis=1).argmax()  # topics have no order
ax = plot.differential(changes, topic)

# %%
# The ten genes with the largest change, after subtracting two standard errors, have names.
