"""
Overdispersion
==============

Variance of each feature around its fitted rates, relative to that of Poisson counts. The counts on the left are
Poisson, those on the right are negative binomial with the same means, and a dispersion of 0.3.
"""

import matplotlib.pyplot as plt
import numpy as np

from fastpmf import PoissonNMF, overdispersion, plot

rng = np.random.default_rng(0)
W, H = (
    rng.gamma(0.5, size=(500, 4)),
    rng.gamma(0.5, size=(4, 200)) * np.exp(rng.normal(-1, 1.5, 200)),
)
rates = W @ H
kinds = {
    "Poisson": rng.poisson(rates),
    "negative binomial": rng.poisson(rates * rng.gamma(1 / 0.3, 0.3, rates.shape)),
}
fig, axes = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
for ax, (kind, X) in zip(axes, kinds.items(), strict=True):
    model = PoissonNMF(4, random_state=0)
    plot.overdispersion(overdispersion(X, model.fit_transform(X), model), n=3, ax=ax)
    ax.set_title(kind)

# %%
# Of Poisson counts most points are in the grey band. A variance of mu + phi mu^2 is the more visible the higher the
# rates are: features of few counts have the same dispersion on the right, and look like Poisson counts.
