"""
Calibration
===========

Do entries with an expected count of 0.1 have 0.1 counts on average?
They do where points are on the diagonal.
"""

import matplotlib.pyplot as plt

from fastpmf import PoissonNMF, plot, thin_counts
from fastpmf.datasets import make_poisson_counts

X = make_poisson_counts(300, 200, 8, nnz=15_000, random_state=0).X
train, test = thin_counts(X, 0.2, random_state=0)
fig, axes = plt.subplots(1, 2, figsize=(8, 4), layout="constrained")
for k, prior, ax in zip([30, 8], [None, "auto"], axes, strict=True):
    model = PoissonNMF(k, prior_W=prior, prior_H=prior, random_state=0)
    W = model.fit_transform(train)
    plot.calibration(test, W, model, exposure=0.2 / 0.8, ax=ax)
    ax.set_title(f"{k} components, prior {prior}")

# %%
# Both models are fitted to four fifths of the counts and compared with the rest.
# The first follows noise: what it expects most is rarer than that, and what it hardly expects is more frequent.
