"""
Residuals of groups
===================

Where a fit disagrees with the counts: differences of sums over groups of rows and columns, in standard deviations.
Cells of three types in two batches are fitted with three topics, so that no topic is free for the batches.
"""

import numpy as np

from fastpmf import PoissonNMF, plot

rng = np.random.default_rng(0)
kind, batch = rng.integers(3, size=600), rng.integers(2, size=600)
gene_set = rng.choice(["A", "B", "C", "stress", "other"], 400, p=[0.1, 0.1, 0.1, 0.1, 0.6])
rates = np.ones((600, 400))
for z, name in enumerate("ABC"):
    rates[np.ix_(kind == z, gene_set == name)] *= 4
rates[np.ix_(batch == 1, gene_set == "stress")] *= 1.5
X = rng.poisson(0.3 * rates * rng.gamma(1, size=400))

model = PoissonNMF(3, random_state=0)
W = model.fit_transform(X)
groups = [f"type {'ABC'[z]}, batch {b + 1}" for z, b in zip(kind, batch, strict=True)]
ax = plot.residuals(X, W, model, groupby=groups, column_groupby=gene_set)

# %%
# Poisson counts with the fitted rates would be between -2 and 2 in most cells.
# The stress genes are not: they differ between the batches.
# A fourth topic would take them up.
