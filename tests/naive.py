"""Oracles: dense loops in float64, independent of fastpmf. X is (n, p); U and V are the factors of rows and columns."""

import math

import numpy as np


def wide(*arrays):
    """Dense float64 copies."""
    return [np.array(A.toarray() if hasattr(A, "toarray") else A, dtype=np.float64) for A in arrays]


def stored(X):
    """(i, j) of every positive entry, row by row."""
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
    """sum_ij [x_ij log(x_ij / mu_ij) - x_ij + mu_ij], the zeros included."""
    X, W, H = wide(X, W, H)
    terms = []
    for i in range(X.shape[0]):
        for j in range(X.shape[1]):
            x, mu = X[i, j], W[i] @ H[:, j]
            terms.append((x * (log(x) - log(mu)) if x > 0 else 0.0) - x + mu)
    return math.fsum(terms) if math.inf not in terms else math.inf


def poisson_log_likelihood(X, W, H):
    """sum_ij [x_ij log mu_ij - mu_ij - log x_ij!], the zeros included."""
    X, W, H = wide(X, W, H)
    terms = []
    for i in range(X.shape[0]):
        for j in range(X.shape[1]):
            x, mu = X[i, j], W[i] @ H[:, j]
            terms.append((x * log(mu) if x > 0 else 0.0) - mu - math.lgamma(x + 1))
    return math.fsum(terms) if -math.inf not in terms else -math.inf


def objective_scale(X, W, H):
    """Sum of the absolute values of the terms of a divergence, to which its rounding is relative."""
    X, W, H = wide(X, W, H)
    logs = math.fsum(X[i, j] * (abs(log(X[i, j])) + abs(log(W[i] @ H[:, j]))) for i, j in stored(X))
    return logs + X.sum() + W.sum(axis=0) @ H.sum(axis=1)


def half_step(X, U, V, relaxed=False):
    """U r with r = S / v_sum; relaxed U (1.9 r - 0.9) where r > 1, else U r (0.1 + 0.9 r); 0 where v_sum is 0."""
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
    """Of each row: u . v_sum + x (max_k S_k / v_sum_k - 2), which is at least what a better row could gain."""
    S, X, U, V = ratio_contraction(X, U, V), *wide(X, U, V)
    v_sum = V.sum(axis=0)
    return np.array([u @ v_sum + x.sum() * (max(s / v_sum) - 2) for x, u, s in zip(X, U, S, strict=True)])


def guarded_step(u, g, c, v, least, ratio=None):
    """The coordinate step: the pole step from the left or if it is surely short, else the nearer of the multiplicative
    and the damped Newton step.

    The latter goes no further than to u / 1024, so that updates by differences keep rates accurate.

    `ratio` is g / v, and 1 if v rises with u.
    """
    ratio = g / v if ratio is None else ratio
    d = (g - v) / c if c > 0 else -math.inf
    decrement = math.sqrt(c) * abs(d) / math.sqrt(least) if c > 0 else math.inf
    if g >= v or decrement <= 0.6838:
        return max(0.0, u + d * ratio)
    return max(u / 1024, min(u * ratio, u + d / (1 + decrement))) if c > 0 else max(0.0, u * ratio)


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

    def pull(self, U):
        """t = S + a / u."""
        (U,) = wide(U)
        return ratio_contraction(self.X, U, self.V) + np.divide(self.a, U, out=np.zeros_like(U), where=self.a > 0)

    def step(self, U, relaxed=False):
        """U r, with r the minimum of a bound that is tight at U; as `half_step`."""
        t, (U,) = self.pull(U), wide(U)
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

        What is negative of the last is left out, but for rows of which every optimum has d . u = total.
        """
        t, (U,) = self.pull(U), wide(U)
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
        """The rows that minimise the objective, by very many steps for all rows at once; the problem is convex."""
        (U,) = wide(U)
        U = np.where(np.isfinite(self.d), U, 0.0)
        for _ in range(n_iter):
            rates = U @ self.V.T
            t = np.divide(self.X, rates, out=np.zeros_like(self.X), where=self.X > 0) @ self.V
            t += np.divide(self.a, U, out=np.zeros_like(U), where=self.a > 0)
            root = self.d + np.sqrt(self.d**2 + 4 * self.q * U * t)
            U = np.where(self.fixed, U, np.divide(2 * U * t, root, out=np.zeros_like(U), where=root > 0))
        return U

    def coordinate_round(self, U, sweeps, zero):
        """Cyclic guarded coordinate descent: `sweeps` over the components that are not, or don't want to be, 0.

        What becomes 0 leaves the later sweeps.
        """
        total = self.X.sum(axis=1) + self.a.sum(axis=1)
        (U,) = wide(U)
        U = np.where(self.fixed | (np.isfinite(self.d) & (self.d > 0)), U, 0.0)
        price = np.where(self.d > 0, self.d, math.inf)
        U = np.maximum(U, np.where(self.a > 0, self.a * zero / price, 0.0))
        t, out = self.pull(U), np.where(self.fixed, U, 0.0)
        for i, x in enumerate(self.X):
            d, a, q = self.d[i], self.a[i], self.q[i]
            alive = [k for k in np.flatnonzero(self.free[i]) if d[k] > 0]
            few = 1e-6 * min(x[x > 0], default=math.inf) / len(d)
            active = [
                k
                for k in alive
                if U[i, k] > zero * total[i] / d[k] or a[k] > 0 or t[i, k] > d[k] or U[i, k] * t[i, k] > few
            ]
            out[i, active] = U[i, active]
            rate = self.V @ U[i]
            some = x > 0
            for sweep in range(sweeps):
                for k in active if sweep else alive:
                    if k not in active:
                        rate = rate - U[i, k] * self.V[:, k]
                        continue
                    w, u = self.V[some, k] / rate[some], out[i, k]
                    g, c, least = (x[some] * w).sum(), (x[some] * w * w).sum(), min(x[some], default=math.inf)
                    if a[k] > 0:
                        g, c, least = g + a[k] / u, c + a[k] / u**2, min(least, a[k])
                    ridged = {"ratio": 1.0} if q[k] > 0 else {}
                    new = guarded_step(u, g, c + q[k], d[k] + q[k] * u, least, **ridged)
                    rate = rate + (new - u) * self.V[:, k]
                    out[i, k] = new
                active = [k for k in active if out[i, k] > 0]
        return out


def coordinate_round(X, U, V, sweeps, zero):
    """`Rows.coordinate_round` without a prior."""
    return Rows(X, V).coordinate_round(U, sweeps, zero)


def best_rows(X, U, V, n_iter=5000):
    """The rows that minimise the divergence with V fixed."""
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


def statement(
    X, W, H, *, prior_W=None, prior_H=None, alpha_W=0.0, alpha_H="same", l1_ratio=0.0, fixed_W=None, fixed_H=None,
    row_exposure=1.0, column_exposure=1.0, background=0.0, mask=None, sample_weight=1.0,
):  # fmt: skip
    """The terms of what a fit minimises, nats: sum them for the objective, and their sizes for what rounds it.

    Of each observed entry w_i (x log(x / mu) - x + mu), with mu_ij = r_i c_j (W_i . H_j + b_j); and of each entry of W
    and H that is not known the penalty  rate u + ridge u^2 / 2 - (shape - 1) log u,  that of W_i times w_i.
    """
    X, W, H = wide(X, W, H)
    (n, p), k = X.shape, W.shape[1]
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
        shape, rate = (np.broadcast_to(np.array(x, dtype=float), k) for x in (shape, rate))
        ridge = alpha * (1 - l1_ratio) if prior is None else 0.0
        for j, i in zip(*np.nonzero(free), strict=True):
            u, more = A[j, i], shape[j] - 1
            terms += [weight[i] * rate[j] * u, weight[i] * ridge * u * u / 2]
            terms += [-weight[i] * more * log(u)] if more * weight[i] > 0 else []
    return np.array(terms)
