"""Fits of a scipy matrix by fastpmf and by scikit-learn, from the same start."""

import numpy as np
from sklearn.decomposition import NMF

from fastpmf import PoissonNMF, kl_divergence

from .common import N_COMPONENTS, power_law, random_start, scale

N_COUNTS, N_ITERATIONS = 50_000 * scale(), 10


def estimator(library):
    """An estimator that does `N_ITERATIONS` multiplicative updates; with tol=0 it neither stops early nor warns."""
    same = {"n_components": N_COMPONENTS, "init": "custom", "solver": "mu", "max_iter": N_ITERATIONS, "tol": 0}
    if library == "sklearn":
        return NMF(**same, beta_loss="kullback-leibler")
    return PoissonNMF(**same, eval_every=N_ITERATIONS)


class FitTransform:
    """Ten multiplicative updates; the factors of both libraries are scored by `kl_divergence`."""

    param_names = ("library",)
    params = (["fastpmf", "sklearn"],)

    def setup_cache(self):
        return power_law(N_COUNTS)

    def setup(self, X, library):  # before every fit, since scikit-learn overwrites the start
        self.X = X.astype(np.float64) if library == "sklearn" else X  # each reads it without a copy
        self.estimator = estimator(library)
        if library == "fastpmf":
            self.estimator.fit(X, **random_start(X.shape, X.sum(), N_COMPONENTS))  # compiles
        self.start = random_start(X.shape, X.sum(), N_COMPONENTS)

    def time_fit(self, *_):
        self.estimator.fit_transform(self.X, **self.start)

    def track_objective(self, X, library):
        W = self.estimator.fit_transform(self.X, **self.start)
        return kl_divergence(X, W, self.estimator.components_)

    track_objective.unit = "nats"
