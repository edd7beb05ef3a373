"""What a user waits for: a fit from a scipy matrix, beside scikit-learn's from the same start."""

import numpy as np
from sklearn.decomposition import NMF

from fastpmf import PoissonNMF, kl_divergence

from .common import power_law, random_start, scale

N_COUNTS, N_ITERATIONS = 50_000 * scale(), 10


def estimator(library, n_components):
    """An estimator that does `N_ITERATIONS` multiplicative updates: with tol=0 it neither stops early nor warns."""
    same = {"n_components": n_components, "init": "custom", "solver": "mu", "max_iter": N_ITERATIONS, "tol": 0}
    if library == "sklearn":
        return NMF(**same, beta_loss="kullback-leibler")
    return PoissonNMF(**same, eval_every=N_ITERATIONS)


class FitTransform:
    """Both libraries' factors are scored by the same function, `kl_divergence`."""

    param_names = ("library", "n_components")
    params = (["fastpmf", "sklearn"], [8, 32])

    def setup_cache(self):
        return power_law(N_COUNTS).astype(np.float64)

    def setup(self, X, library, n_components):  # before every fit, for scikit-learn overwrites the start
        self.estimator = estimator(library, n_components)
        if library == "fastpmf":
            self.estimator.fit(X, **random_start(X.shape, X.sum(), n_components))  # compiles
        self.start = random_start(X.shape, X.sum(), n_components)

    def time_fit(self, X, *_):
        self.estimator.fit_transform(X, **self.start)

    def track_objective(self, X, *_):
        W = self.estimator.fit_transform(X, **self.start)
        return kl_divergence(X, W, self.estimator.components_)

    track_objective.unit = "nats"
