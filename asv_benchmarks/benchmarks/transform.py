"""What a user waits for who has a model and new rows: W for these rows, with H as it is."""

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
    """Half of the rows, under the H that was fitted to the other half; each library with its own tol and max_iter.

    Both libraries' W are scored by the same function, `kl_divergence`.
    """

    param_names = ("library", "shape")
    params = (["fastpmf", "sklearn"], names(N_COUNTS, "tall", "power_law"))

    def setup_cache(self):
        found = {}
        for name in self.params[1]:
            X = SHAPES[name.split("-")[0]](N_COUNTS)
            unseen = np.random.default_rng(0).random(X.shape[0]) < 0.5
            fitted, X = X[~unseen], X[unseen]
            H = poisson_nmf(fitted, N_COMPONENTS, max_iter=100, tol=0.0, random_state=0).H
            produced = H.any(axis=0)  # counts of other features have likelihood 0 under every W
            found[name] = X[:, produced], H[:, produced]
        return found

    def setup(self, cached, library, shape):
        self.X, H = cached[shape]
        if library == "sklearn":
            self.X = self.X.astype(np.float64)
            self.model = NMF(N_COMPONENTS, solver="mu", beta_loss="kullback-leibler")
            self.model.components_, self.model.n_components_, self.model.n_features_in_ = H, *H.shape  # fitted
        else:
            self.model = PoissonNMF(N_COMPONENTS, max_iter=1, tol=0.0, random_state=0).fit(self.X, fixed_H=H)
            self.model.set_params(max_iter=500, tol=1e-4)
            self.transform()  # compiles

    def transform(self, **options):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # the gap bound says it in numbers
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
    """`Update.gap` of the rows: what `PoissonNMF.transform` says of its own W."""
    k = len(H)
    W, Ht = (padded(A, np.dtype(np.float64)) for A in (W, H.T))
    S = empty_factor(*W.shape, W.dtype)
    with threads():
        as_counts(X).contract(Side.ROWS, W, Ht, S)
        return multiplicative(subproblem_of_rows(Ht, k), W, S, None).gap
