"""W of new rows under a fitted model, by fastpmf and by scikit-learn."""

import warnings

import numpy as np
from sklearn.decomposition import NMF
from sklearn.exceptions import ConvergenceWarning

from fastpmf import PoissonNMF, as_counts, kl_divergence, poisson_nmf
from fastpmf.core.counts import Side
from fastpmf.core.factors import empty_factor, padded
from fastpmf.kernels.threads import threads
from fastpmf.model.updates import multiplicative

from .common import N_COMPONENTS, SHAPES, names, scale, subproblem_of_rows

N_COUNTS = 50_000 * scale()


class Transform:
    """W of half of the rows, with H fitted to the other half; each library has its own default tol and max_iter.

    The results of both libraries are scored by `kl_divergence`.
    """

    param_names = ("library", "shape")
    params = (["fastpmf", "sklearn"], names(N_COUNTS, "tall", "power_law"))

    def setup_cache(self):
        found = {}
        for name in self.params[1]:
            X = SHAPES[name.split("-")[0]](N_COUNTS)
            unseen = np.random.default_rng(0).random(X.shape[0]) < 0.5
            seen, X = X[~unseen], X[unseen]
            H = poisson_nmf(seen, N_COMPONENTS, max_iter=100, tol=0.0, random_state=0).H
            used = H.any(axis=0)  # counts of other features have likelihood 0 under every W
            found[name] = X[:, used], H[:, used]
        return found

    def setup(self, cached, library, shape):
        self.X, H = cached[shape]
        if library == "sklearn":
            self.X = self.X.astype(H.dtype)
            self.model = NMF(N_COMPONENTS, solver="mu", beta_loss="kullback-leibler")
            self.model.components_, self.model.n_components_, self.model.n_features_in_ = H, *H.shape  # fitted
        else:
            self.model = PoissonNMF(N_COMPONENTS, max_iter=1, tol=0.0, random_state=0).fit(self.X, fixed_H=H)
            self.model.set_params(max_iter=500, tol=1e-4)
            self.transform()  # compiles

    def transform(self, **options):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # `track_gap_bound` measures the convergence
            return self.model.transform(self.X, **options)

    def time_transform(self, *_):
        self.transform()

    def track_objective(self, *_):
        return kl_divergence(self.X, self.transform(), self.model.components_) / self.X.sum()

    track_objective.unit = "nats/count"

    def track_gap_bound(self, cached, library, shape):
        if library == "sklearn":
            gap = gap_bound(self.X, self.transform(), self.model.components_)
        else:
            gap = self.transform(return_gap_bound=True)[1].sum()
        return gap / self.X.sum()

    track_gap_bound.unit = "nats/count"


def gap_bound(X, W, H):
    """Upper bound on the gap of each row's objective, as `PoissonNMF.transform` computes it."""
    k = len(H)
    W, Ht = (padded(A, np.dtype(np.float64)) for A in (W, H.T))
    S = empty_factor(*W.shape, W.dtype)
    with threads():
        as_counts(X).contract(Side.ROWS, W, Ht, S)
        return multiplicative(subproblem_of_rows(Ht, k), W, S, None).gap
