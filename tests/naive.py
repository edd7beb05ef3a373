"""Oracles: dense, loop by loop, float64, and nothing of fastpmf. X is (n, p), U and V own its rows and columns."""

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
    """Sum of the sizes of the terms that a divergence is put together from: what its rounding is relative to."""
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


def guarded_step(u, g, c, v, least):
    """The coordinate rule: pole step from the left or when surely short, else the nearer of MU and damped Newton."""
    d = (g - v) / c if c > 0 else -math.inf
    decrement = math.sqrt(c) * abs(d) / math.sqrt(least) if c > 0 else math.inf
    if g >= v or decrement <= 0.6838:
        return max(0.0, u + d * g / v)
    return max(0.0, min(u * g / v, u + d / (1 + decrement) if c > 0 else 0.0))


def coordinate_round(X, U, V, sweeps, zero):
    """Cyclic guarded coordinate descent on each row: `sweeps` over the components that are not, or don't want to be, 0.

    What becomes 0 leaves the later sweeps.
    """
    S, X, U, V = ratio_contraction(X, U, V), *wide(X, U, V)
    v_sum, out = V.sum(axis=0), np.zeros_like(U)
    for i, x in enumerate(X):
        alive = [k for k in range(U.shape[1]) if v_sum[k] > 0]
        active = [k for k in alive if U[i, k] > zero * x.sum() / v_sum[k] or S[i, k] > v_sum[k]]
        out[i, active] = U[i, active]
        rate = V @ np.where(v_sum > 0, U[i], 0)
        some = x > 0
        for _ in range(sweeps):
            for k in active:
                w = V[some, k] / rate[some]
                u = guarded_step(
                    out[i, k], (x[some] * w).sum(), (x[some] * w * w).sum(), v_sum[k], min(x[some], default=1)
                )
                rate = rate + (u - out[i, k]) * V[:, k]
                out[i, k] = u
            active = [k for k in active if out[i, k] > 0]
    return out


def best_rows(X, U, V, n_iter=5000):
    """The rows of least divergence while V stays, by very many multiplicative updates: the problem is convex."""
    X, U, V = wide(X, U, V)
    v_sum = V.sum(axis=0)
    for _ in range(n_iter):
        ratio = np.divide(X, U @ V.T, out=np.zeros_like(X), where=X > 0)
        U = U * (ratio @ V) / v_sum
    return U


def transpose(X):
    """(data, indices, indptr) of the transpose of a dense matrix's positive entries."""
    (X,) = wide(X)
    entries = stored(X.T)
    data = [X[i, j] for j, i in entries]
    indptr = [0]
    for column in X.T:
        indptr.append(indptr[-1] + sum(column > 0))
    return np.array(data), np.array([i for _, i in entries], dtype=int), np.array(indptr)
