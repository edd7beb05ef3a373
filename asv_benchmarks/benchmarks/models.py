"""Iterations of maximum likelihood and of the other models, and the objective of each."""

import numpy as np

from fastpmf import HPF, PoissonNMF, as_counts, poisson_nmf

from .common import N_COMPONENTS, counts_of_shapes, names, random_start, scale

N_COUNTS = 100_000 * scale()
N_ITERATIONS = 20
MODELS = ("ml", "map", "l1", "exposures", "mask", "background", "groups")


def options_of(model, counts):
    """Options of `poisson_nmf` for a model of these counts."""
    n, p = counts.shape
    rng = np.random.default_rng(0)
    if model == "map":
        return {"prior_W": (1.1, 1.0), "prior_H": (1.1, 1.0)}
    if model == "l1":
        return {"alpha_W": 1e-3, "l1_ratio": 1.0}
    if model == "exposures":
        return {"row_exposure": rng.gamma(2.0, 0.5, n) + 0.1}
    if model == "groups":
        return {"groups": rng.integers(0, 4, n)}
    if model == "mask":  # as many entries as a hundredth of the counts
        entries = np.unique(rng.integers(0, n * p, counts.nnz // 100))
        indptr = np.searchsorted(entries, p * np.arange(n + 1))
        return {"mask": as_counts((np.ones(len(entries), np.uint8), entries % p, indptr), shape=counts.shape)}
    return {"background": 1e-3 * counts.total / (n * p)} if model == "background" else {}


class PointEstimates:
    """Multiplicative updates of each model from the same start."""

    param_names = ("shape", "model")
    params = (names(N_COUNTS, "power_law"), MODELS)

    def setup_cache(self):
        return counts_of_shapes(N_COUNTS, "power_law")

    def setup(self, cached, shape, model):
        counts = cached[shape]
        start = random_start(counts.shape, counts.total, N_COMPONENTS)
        self.options = {
            "init": "custom", **start, "solver": "mu", "tol": 0.0, "eval_every": N_ITERATIONS,
            **options_of(model, counts),
        }  # fmt: skip
        self.counts = counts
        self.fit(2)

    def fit(self, n_iterations):
        return poisson_nmf(self.counts, N_COMPONENTS, max_iter=n_iterations, **self.options)

    def time_20_iterations(self, cached, shape, model):
        self.fit(N_ITERATIONS)

    def track_objective(self, cached, shape, model):
        return self.fit(N_ITERATIONS).objective

    track_objective.unit = "nats"


class MeanField:
    """HPF with its hierarchy, without it, and with fitted hyperparameters."""

    param_names = ("shape", "model")
    params = (names(N_COUNTS, "power_law"), ("hierarchy", "plain", "learned"))

    def setup_cache(self):
        return counts_of_shapes(N_COUNTS, "power_law")

    def setup(self, cached, shape, model):
        self.counts, self.model = cached[shape], model
        self.fit(2)

    def fit(self, n_iterations):
        return HPF(
            N_COMPONENTS, hierarchy=self.model != "plain", learn_prior=self.model == "learned", random_state=0,
            max_iter=n_iterations, tol=0.0, eval_every=n_iterations,
        ).fit(self.counts)  # fmt: skip

    def time_20_iterations(self, cached, shape, model):
        self.fit(N_ITERATIONS)

    def track_bound(self, cached, shape, model):
        return self.fit(N_ITERATIONS).elbo_

    track_bound.unit = "nats"


class Online:
    """One epoch of mini-batches."""

    param_names = ("shape", "model")
    params = (names(N_COUNTS, "power_law"), ("PoissonNMF", "HPF"))

    def setup_cache(self):
        return counts_of_shapes(N_COUNTS, "power_law")

    def setup(self, cached, shape, model):
        X = cached[shape].to_scipy()
        step = -(-X.shape[0] // 4)
        self.batches = [X[i : i + step] for i in range(0, X.shape[0], step)]
        self.model, self.X = {"PoissonNMF": PoissonNMF, "HPF": HPF}[model], X
        self.epoch()

    def epoch(self):
        model = self.model(N_COMPONENTS, random_state=0)
        for batch in self.batches:
            model.partial_fit(batch)
        return model

    def time_epoch(self, cached, shape, model):
        self.epoch()

    def track_score(self, cached, shape, model):
        return self.epoch().score(self.X)

    track_score.unit = "nats/count"
