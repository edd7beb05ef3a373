"""
Gains of components
===================

What each component adds to the prediction of held-out counts, with two standard errors to each side.
The counts are drawn with eight components and fitted with twelve.
"""

from fastpmf import PoissonNMF, component_gains, plot, thin_counts
from fastpmf.datasets import make_poisson_counts

X = make_poisson_counts(400, 300, 8, nnz=20_000, random_state=0).X
train, test = thin_counts(X, 0.2, random_state=0)
model = PoissonNMF(12, prior_W="auto", prior_H="auto", random_state=0).fit(train)
ax = plot.component_gains(component_gains(train, model.components_, test, exposure=0.2 / 0.8))

# %%
# Grey components are not supported by the held-out counts: they fit noise, or are copies of others.
