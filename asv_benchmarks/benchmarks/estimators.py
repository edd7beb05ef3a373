"""What a user waits for: a fit from a scipy matrix, beside scikit-learn's from the same start."""

import numpy as np
from sklearn.decomposition import NMF

from fastpmf import PoissonNMF, kl_divergence

from .common import power_law, scale

N_COUNTS, N_ITERATIONS = 100_000 * scale(), 10


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
    number = 1  # scikit-learn overwrites the start

    def setup_cache(self):
        return power_law(N_COUNTS).astype(np.float64)

    def setup(self, X, library, n_components):
        self.estimator = estimator(library, n_components)
        self.start(X, n_components)
        self.estimator.fit(X, W=self.W, H=self.H)  # compiles
        self.start(X, n_components)

    def start(self, X, n_components):
        rng = np.random.default_rng(0)
        W, H = rng.random((X.shape[0], n_components)), rng.random((n_components, X.shape[1]))
        level = np.sqrt(X.sum() / (W.sum(axis=0) @ H.sum(axis=1)))  # sum(W H) = sum(X)
        self.W, self.H = level * W, level * H

    def fit(self, X):
        return self.estimator.fit_transform(X, W=self.W, H=self.H)

    def time_fit(self, X, *_):
        self.fit(X)

    def track_objective(self, X, *_):
        W = self.fit(X)
        return kl_divergence(X, W, self.estimator.components_)

    track_objective.unit = "nats"
