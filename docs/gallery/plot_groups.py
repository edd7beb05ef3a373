"""
Batches and types
=================

The topics of cells of five types in four batches, without and with effects of the batches on the genes.
A cell has most of its counts from the topic of its type.
"""

import matplotlib.pyplot as plt
import numpy as np

from fastpmf import PoissonNMF, plot

rng = np.random.default_rng(0)
n, p, k = 800, 300, 5
programs = rng.gamma(0.3, 1.0, (k, p)) + 0.02
programs /= programs.sum(axis=1, keepdims=True)
kind, batch = rng.integers(k, size=n), rng.integers(4, size=n)
effects = np.exp(rng.standard_normal((4, p)))
shares = np.where(np.arange(k) == kind[:, None], 0.8, 0.05)
X = rng.poisson(300 * (shares @ programs) * effects[batch])

labels = np.array([f"{'ABCDE'[t]}{b + 1}" for t, b in zip(kind, batch, strict=True)])
fig, axes = plt.subplots(2, 1, figsize=(9, 5.5), layout="constrained")
for ax, groups, title in zip(
    axes, (None, batch), ("Without groups", "groups=batch"), strict=True
):
    model = PoissonNMF(k, random_state=0)
    W = model.fit_transform(X, groups=groups)
    plot.structure(W, model, groupby=labels, ax=ax)
    ax.set_title(title)
plt.show()

# %%
# A letter is a type and a number is a batch.
# Without groups, topics are the batches.
# With them, topics are the types, whatever the batch.
# See the :doc:`guide </guide/groups>`.
