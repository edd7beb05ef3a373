"""What is done beside and after a fit: intervals, overdispersion, consensus, and the number of components."""

import warnings

from fastpmf import HPF, PoissonNMF

from .common import planted_counts, scale

N_COUNTS = 40_000 * scale()
K = 8


class _Analysis:
    """A fit of counts of K components; the method `run` is timed, and gives a number."""

    param_names = ("rows",)
    params = ([N_COUNTS // 100],)

    model = PoissonNMF(K, random_state=0)

    def setup_cache(self):
        return planted_counts(N_COUNTS // 100, 300, N_COUNTS, n_components=K)

    def setup(self, X, rows):
        self.fitted = self.model.fit(X)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of few draws, and of replicates without a component
            self.run(X)


class Overdispersion(_Analysis):
    """The test for overdispersion, given W."""

    def setup(self, X, rows):
        self.W = self.model.fit_transform(X)
        self.run(X)

    def run(self, X):
        return self.model.overdispersion(X, self.W).overall_z_score

    def time_overdispersion(self, X, rows):
        self.run(X)

    def track_z_score(self, X, rows):
        return self.run(X)

    track_z_score.unit = "standard errors"


class Bootstrap(_Analysis):
    """Five replicates."""

    def run(self, X):
        from fastpmf import bootstrap

        return bootstrap(self.fitted, X, n_replicates=5, random_state=0).similarity.mean()

    def time_5_replicates(self, X, rows):
        self.run(X)

    def track_similarity(self, X, rows):
        return self.run(X)

    track_similarity.unit = "1"


class Sampling(_Analysis):
    """Fifty sweeps of the Gibbs sampler."""

    model = HPF(K, random_state=0, tol=1e-3)

    def run(self, X):
        return self.fitted.sample_posterior(X, 5, burn_in=0, random_state=0).log_likelihood.mean()

    def time_50_sweeps(self, X, rows):
        self.run(X)

    def track_log_likelihood(self, X, rows):
        return self.run(X)

    track_log_likelihood.unit = "nats"


class Consensus(_Analysis):
    """Five fits and their clusters."""

    def run(self, X):
        from fastpmf import consensus

        return consensus(X, K, n_replicates=5, random_state=0).stability.mean()

    def time_5_fits(self, X, rows):
        self.run(X)

    def track_stability(self, X, rows):
        return self.run(X)

    track_stability.unit = "1"


class Selection(_Analysis):
    """Three numbers of components, one split."""

    def run(self, X):
        from fastpmf import select_n_components

        return select_n_components(X, [K // 2, K, 2 * K], n_splits=1, random_state=0).recommended

    def time_3_numbers(self, X, rows):
        self.run(X)

    def track_recommended(self, X, rows):
        return self.run(X)

    track_recommended.unit = "components"
