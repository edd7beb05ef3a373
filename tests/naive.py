"""Oracles without code of fastpmf: dense, float64, with loops. X is (n, p); U and V belong to its rows and columns."""

import math

import numpy as np


def wide(*arrays):
    """Dense float64 copies."""
    return [np.array(A.toarray() if hasattr(A, "toarray") else A, dtype=np.float64) for A in arrays]


def stored(X):
    """(i, j) of all positive entries in row order."""
    return [(i, j) for i in range(X.shape[0]) for j in range(X.shape[1]) if X[i, j] > 0]


def log(x):
    return math.log(x) if x > 0 else -math.inf


def ratio_contraction(X, U, V):
    """S_ik = sum_j x_ij / (u_i . v_j) v_jk over the positive entries."""
    X, U, V = wide(X, U, V)
    S = np.zeros_like(U)
    for i, j in stored(X):
        S[i] += X[i, j] / (U[i] @ V[j]) * V[j]
    return S


def log_rate(X, U, V):
    """sum_j x_ij log(u_i . v_j) of each row, over the positive entries."""
    X, U, V = wide(X, U, V)
    out = np.zeros(len(U))
    for i, j in stored(X):
        out[i] += X[i, j] * log(U[i] @ V[j])
    return out


def kl_divergence(X, W, H):
    """sum_ij [x_ij log(x_ij / mu_ij) - x_ij + mu_ij], including zeros."""
    X, W, H = wide(X, W, H)
    terms = []
    for i in range(X.shape[0]):
        for j in range(X.shape[1]):
            x, mu = X[i, j], W[i] @ H[:, j]
            terms.append((x * (log(x) - log(mu)) if x > 0 else 0.0) - x + mu)
    return math.fsum(terms) if math.inf not in terms else math.inf


def poisson_log_likelihood(X, W, H):
    """sum_ij [x_ij log mu_ij - mu_ij - log x_ij!], including zeros."""
    X, W, H = wide(X, W, H)
    terms = []
    for i in range(X.shape[0]):
        for j in range(X.shape[1]):
            x, mu = X[i, j], W[i] @ H[:, j]
            terms.append((x * log(mu) if x > 0 else 0.0) - mu - math.lgamma(x + 1))
    return math.fsum(terms) if -math.inf not in terms else -math.inf


def objective_scale(X, W, H):
    """Sum of the absolute terms of a divergence, to which its rounding error is relative."""
    X, W, H = wide(X, W, H)
    logs = math.fsum(X[i, j] * (abs(log(X[i, j])) + abs(log(W[i] @ H[:, j]))) for i, j in stored(X))
    return logs + X.sum() + W.sum(axis=0) @ H.sum(axis=1)


def half_step(X, U, V, relaxed=False):
    """U r with r = S / v_sum, 0 if v_sum is 0; if relaxed U (1.9 r - 0.9) for r > 1, else U r (0.1 + 0.9 r)."""
    S, U, V = ratio_contraction(X, U, V), *wide(U, V)
    v_sum = V.sum(axis=0)
    out = np.zeros_like(U)
    for i, k in np.ndindex(*U.shape):
        ratio = S[i, k] / v_sum[k] if v_sum[k] > 0 else 0.0
        if relaxed:
            ratio *= 1.9 - 0.9 / ratio if ratio > 1 else 0.1 + 0.9 * ratio
        out[i, k] = U[i, k] * ratio
    return out


def multiplicative_iteration(X, W, H):
    """Lee & Seung's update of W, then of H."""
    X, W, H = wide(X, W, H)
    W = half_step(X, W, H.T)
    return W, half_step(X.T, H.T, W).T


def gap_bound(X, U, V):
    """u . v_sum + x (max_k S_k / v_sum_k - 2) of each row, an upper bound on its possible decrease."""
    S, X, U, V = ratio_contraction(X, U, V), *wide(X, U, V)
    v_sum = V.sum(axis=0)
    return np.array([u @ v_sum + x.sum() * (max(s / v_sum) - 2) for x, u, s in zip(X, U, S, strict=True)])


def guarded_step(u, g, c, v, min_count, ratio=None):
    """The update of a coordinate: the pole step if it increases u or is short, else MU or damped Newton.

    Of the latter two the smaller step is taken, and at most to u / 1024, for accurate differences of the rates. `ratio`
    is g / v, or 1 if v increases with u.
    """
    ratio = g / v if ratio is None else ratio
    d = (g - v) / c if c > 0 else -math.inf
    decrement = math.sqrt(c) * abs(d) / math.sqrt(min_count) if c > 0 else math.inf
    if g >= v or decrement <= 0.6838:
        return max(0.0, u + d * ratio)
    return max(u / 1024, min(u * ratio, u + d / (1 + decrement))) if c > 0 else max(0.0, u * ratio)


def joint_step(u, g, C, d, min_count, bends):
    """The values of one or two coordinates after a step that is safe, or None.

    The step goes to the minimum over u >= 0 of the quadratic model with gradient d - g and Hessian C. If no coordinate
    shrinks and the model `bends`, as it does without a ridge, it is longer by (step . g) / (step . d).
    """
    C, slope = np.asarray(C), np.asarray(g) - d
    if ((C.diagonal() == 0) & (np.asarray(g) > 0)).any():
        return None
    if len(u) == 2 and (C.diagonal() > 0).all():
        less = C[0, 1] / C.diagonal()
        if not 1 - less[0] * less[1] > 2.0**-10:
            return None
    elif len(u) == 2:  # one of them has no entries
        C = np.diag(C.diagonal())
    best = np.where(C.diagonal() > 0, np.linalg.solve(C + np.diag(C.diagonal() == 0), slope), -u)
    out = best < -u
    step = np.where(out, -u, best)
    for k in range(len(u)):
        if out.sum() == 1 and not out[k] and C[k, k] > 0:  # the other one becomes 0
            step[k] = max(-u[k], (slope[k] + C[k, 1 - k] * u[1 - k]) / C[k, k])
    if (step < 0).any():
        return np.maximum(u + step, 0) if step @ C @ step / min_count < 0.6838**2 else None
    if not math.isfinite(step @ C @ step):
        return None
    return u + step * (step @ g / (step @ d) if bends and step @ g > step @ d else 1.0)


class Rows:
    """The problem of each row: f(u) = d . u + q . u^2 / 2 - a . log u - sum_j x_j log(u . v_j), u_k = 0 where d is inf.

    X is (n, p), V (p, k); d, a and q are (k,) or (n, k), fixed (k,).
    """

    def __init__(self, X, V, d=None, a=0.0, q=0.0, fixed=False):
        self.X, self.V = wide(X, V)
        shape = len(self.X), self.V.shape[1]
        d = self.V.sum(axis=0) if d is None else d
        self.d, self.a, self.q = (np.broadcast_to(np.array(x, dtype=float), shape) for x in (d, a, q))
        self.fixed = np.broadcast_to(fixed, shape[1:])
        self.free = ~self.fixed & np.isfinite(self.d)

    def objective(self, U):
        (U,) = wide(U)
        out = -log_rate(self.X, U, self.V)
        for i, k in np.ndindex(*U.shape):
            u, a = U[i, k], self.a[i, k]
            out[i] += (self.d[i, k] * u if u > 0 else 0.0) + self.q[i, k] * u * u / 2 - (a * log(u) if a > 0 else 0.0)
        return out

    def attraction(self, U):
        """t = S + a / u."""
        (U,) = wide(U)
        return ratio_contraction(self.X, U, self.V) + np.divide(self.a, U, out=np.zeros_like(U), where=self.a > 0)

    def step(self, U, relaxed=False):
        """U r, where r minimises an upper bound that is tight at U; `relaxed` as in `half_step`."""
        t, (U,) = self.attraction(U), wide(U)
        out = U.copy()
        for i, k in np.ndindex(*U.shape):
            if self.fixed[k] or U[i, k] == 0:
                continue
            d, cross = self.d[i, k], 4 * self.q[i, k] * U[i, k] * t[i, k]
            root = d + math.sqrt(d * d + cross)
            r = 2 * t[i, k] / root if root > 0 else 0.0
            if relaxed:
                r = 1.9 * r - 0.9 if r > 1 else r * (0.1 + 0.9 * r)
            out[i, k] = U[i, k] * r
        return out

    def gap(self, U):
        """sum_k u_k (d_k + q_k u_k - t_k) + total max_k (t_k - d_k - q_k u_k) / d_k over the free k, total = u . t.

        A negative last term counts as 0, except if all optima have d . u = total.
        """
        t, (U,) = self.attraction(U), wide(U)
        out = np.zeros(len(U))
        tight = self.free.all() and not self.q.any()
        for i, u in enumerate(U):
            slack = -math.inf if tight else 0.0
            for k in np.flatnonzero(self.free[i]):
                excess = t[i, k] - self.d[i, k] - self.q[i, k] * u[k]
                out[i] -= u[k] * excess
                slack = max(slack, excess / self.d[i, k]) if self.d[i, k] > 0 else slack
            out[i] += slack * (u @ t[i])
        return out

    def best(self, U, n_iter=5000):
        """The rows of minimum objective, by many steps of all rows; the problem is convex."""
        (U,) = wide(U)
        U = np.where(np.isfinite(self.d), U, 0.0)
        for _ in range(n_iter):
            rates = U @ self.V.T
            t = np.divide(self.X, rates, out=np.zeros_like(self.X), where=self.X > 0) @ self.V
            t += np.divide(self.a, U, out=np.zeros_like(U), where=self.a > 0)
            root = self.d + np.sqrt(self.d**2 + 4 * self.q * U * t)
            U = np.where(self.fixed, U, np.divide(2 * U * t, root, out=np.zeros_like(U), where=root > 0))
        return U

    def coordinate_round(self, U, sweeps, zero, narrow=0, strip=None):
        """Cyclic descent: `sweeps` over the components that are positive or would increase, two at a time.

        Rows of at most `narrow` entries move components 2 m and 2 m + 1 together, others the next two in the list, of
        each strip of components. Entries that become 0 are skipped in the later sweeps.
        """
        total, n_components = self.X.sum(axis=1) + self.a.sum(axis=1), self.d.shape[1]
        (U,) = wide(U)
        U = np.where(self.fixed | (np.isfinite(self.d) & (self.d > 0)), U, 0.0)
        U = np.maximum(U, np.where(self.a > 0, self.a * zero / np.where(self.d > 0, self.d, math.inf), 0.0))
        t, out = self.attraction(U), np.where(self.fixed, U, 0.0)
        for i, x in enumerate(self.X):
            d, a = self.d[i], self.a[i]
            threshold = 1e-6 * min(x[x > 0], default=math.inf) / len(d)
            active = [
                k
                for k in np.flatnonzero(self.free[i] & (d > 0))
                if U[i, k] > zero * total[i] / d[k] or a[k] > 0 or t[i, k] > d[k] or U[i, k] * t[i, k] > threshold
            ]
            out[i, active] = U[i, active]
            is_short = (x > 0).sum() <= narrow
            for _ in range(sweeps):
                for low in range(0, n_components, 2 if is_short else strip or n_components):
                    listed = [k for k in active if low <= k < low + (2 if is_short else strip or n_components)]
                    for n in range(0, len(listed), 2):
                        self.move(i, listed[n : n + 2], out[i])
                active = [k for k in active if out[i, k] > 0]
        return out

    def move(self, i, listed, u):
        """Move one or two components of row i together, or if that isn't safe one after the other."""
        C, g, d, min_count, q = self.derivatives(i, listed, u)
        new = joint_step(u[listed], g, C, d, min_count, not q.any())
        if new is not None:
            u[listed] = new
            return
        for k in listed:
            C, g, d, min_count, q = self.derivatives(i, [k], u)
            u[k] = guarded_step(u[k], g[0], C[0, 0], d[0], min_count, **({"ratio": 1.0} if q[0] > 0 else {}))

    def derivatives(self, i, listed, u):
        """Hessian, ratio sums, prices, the smallest count or shape, and ridges."""
        positive, (a, q) = self.X[i] > 0, (A[i, listed] for A in (self.a, self.q))
        x, w = self.X[i, positive], self.V[positive][:, listed] / (self.V[positive] @ u)[:, None]
        pull = np.divide(a, u[listed], out=np.zeros(len(listed)), where=a > 0)
        C = w.T @ (x[:, None] * w) + np.diag(q + np.divide(pull, u[listed], out=np.zeros(len(listed)), where=a > 0))
        min_count = min([*x, *a[a > 0]], default=math.inf)
        return C, x @ w + pull, self.d[i, listed] + q * u[listed], min_count, q


def coordinate_round(X, U, V, *args):
    """`Rows.coordinate_round` without a prior."""
    return Rows(X, V).coordinate_round(U, *args)


def best_rows(X, U, V, n_iter=5000):
    """The rows of minimum divergence for fixed V."""
    return Rows(X, V).best(U, n_iter)


def transpose(X):
    """(data, indices, indptr) of the transpose of a dense matrix's positive entries."""
    (X,) = wide(X)
    entries = stored(X.T)
    data = [X[i, j] for j, i in entries]
    indptr = [0]
    for column in X.T:
        indptr.append(indptr[-1] + sum(column > 0))
    return np.array(data), np.array([i for _, i in entries], dtype=int), np.array(indptr)


def per_entry(x, shape, *, transposed):
    """A number, one for each of k components, or one for each entry, as an array of this shape, (k, n)."""
    x = np.array(x, dtype=float)
    if x.ndim == 2:
        return x.T if transposed else x
    return np.broadcast_to(np.broadcast_to(x, shape[0])[:, None], shape)


def objective_terms(
    X, W, H, *, prior_W=None, prior_H=None, alpha_W=0.0, alpha_H="same", l1_ratio=0.0, fixed_W=None, fixed_H=None,
    row_exposure=1.0, column_exposure=1.0, background=0.0, mask=None, sample_weight=1.0,
):  # fmt: skip
    """The terms of the objective of a fit in nats; its rounding error is relative to the sum of their absolute values.

    w_i (x log(x / mu) - x + mu) of each observed entry, with mu_ij = r_i c_j (W_i . H_j + b_j); and the penalty
    rate u + ridge u^2 / 2 - (shape - 1) log u  of each entry of W and H that is not fixed, times w_i for W_i.
    """
    X, W, H = wide(X, W, H)
    n, p = X.shape
    r, w = (np.broadcast_to(x, n) for x in (row_exposure, sample_weight))
    c, b = (np.broadcast_to(x, p) for x in (column_exposure, background))
    hidden = np.zeros((n, p)) if mask is None else wide(mask)[0]
    rates, terms = r[:, None] * c * (W @ H + b), []
    for i, j in zip(*np.nonzero(hidden == 0), strict=True):
        x, mu = X[i, j], rates[i, j]
        terms += [w[i] * x * (log(x) - log(mu)) if x * w[i] > 0 else 0.0, -w[i] * x, w[i] * mu]
    alpha_H = alpha_W if alpha_H == "same" else alpha_H
    sides = (W.T, prior_W, p * alpha_W, fixed_W, w), (H, prior_H, n * alpha_H, fixed_H, np.ones(p))
    for A, prior, alpha, fixed, weight in sides:
        free = np.ones(A.shape, bool) if fixed is None else np.isnan(fixed if A is H else np.transpose(fixed))
        shape, rate = (1.0, alpha * l1_ratio) if prior is None else prior
        shape, rate = (per_entry(x, A.shape, transposed=A is not H) for x in (shape, rate))
        ridge = alpha * (1 - l1_ratio) if prior is None else 0.0
        for j, i in zip(*np.nonzero(free), strict=True):
            u, exponent = A[j, i], shape[j, i] - 1
            terms += [weight[i] * rate[j, i] * u, weight[i] * ridge * u * u / 2]
            terms += [-weight[i] * exponent * log(u)] if exponent * weight[i] > 0 else []
    return np.array(terms)


def leverages(X, shares, expected):
    """x p' A^+ p of each entry (n, p), row by row; A = sum x p p' + diag(max(expected - sum x p, 0))."""
    out = np.zeros(X.shape)
    for i in range(len(X)):
        P, x = shares[i], X[i]
        slope = np.maximum(expected[i] - x @ P, 0)
        inverse = np.linalg.pinv((P * x[:, None]).T @ P + np.diag(slope), hermitian=True, rcond=1e-12)
        out[i] = x * np.einsum("jk,kl,jl->j", P, inverse, P)
    return np.clip(out, 0, 1)


def overdispersion(X, W, H, r, c, effects, background):
    """Dispersion and z score of each feature, and of all; rates r_i c_j effects_ij (W_i . H_j + background_j)."""
    X, W, H = (np.asarray(A, float) for A in (X, W, H))
    scale = r[:, None] * c * effects
    parts = np.einsum("ik,kj->ijk", W, H)  # without the background
    rate = parts.sum(axis=2) + background
    mu = scale * rate
    shares = np.divide(parts, rate[:, :, None], out=np.zeros_like(parts), where=rate[:, :, None] > 0)
    expected = parts * scale[:, :, None]
    leverage = leverages(X, shares, expected.sum(axis=1))
    leverage += leverages(X.T, shares.swapaxes(0, 1), expected.sum(axis=0)).T
    leverage = np.minimum(leverage, 1) * (X > 0)
    statistic = (np.square(X - mu) - X + leverage * mu).sum(axis=0)
    squares = np.square(mu).sum(axis=0)
    remaining = np.maximum((np.square(mu) * (1 - leverage)).sum(axis=0), 0.1 * squares)
    return {
        "dispersion": statistic / remaining, "z_score": statistic / np.sqrt(2 * squares),
        "standard_error": np.sqrt(2 * squares) / remaining, "mean_rate": mu.mean(axis=0),
        "variance_ratio": 1 + statistic / remaining * squares / mu.sum(axis=0),
        "overall_dispersion": statistic.sum() / remaining.sum(),
        "overall_z_score": statistic.sum() / np.sqrt(2 * squares.sum()),
    }  # fmt: skip
