"""Oracles of hierarchical Poisson factorization: dense loops, float64, and nothing of fastpmf.

A factor's posterior is (shape, rate, activity_shape, activity_rate), of its entries (n, k) and of its rows (n,); a
prior is (a, a_prime, b_prime, hierarchical), by shape a_prime and mean b_prime, where a is one number, or one for each
component, or in `evidence_bound` one for each entry. X owns W's rows, and X.T those of H'.
"""

import math

import numpy as np
from scipy.integrate import quad
from scipy.special import digamma, gammaln, logsumexp


def log_mean(shape, rate):
    """E[log u]."""
    return digamma(shape) - np.log(rate)


def activity(posterior, prior):
    """E[xi] and E[log xi] of each row."""
    _, _, shape, rate = posterior
    _, _, b_prime, hierarchical = prior
    if hierarchical:
        return shape / rate, log_mean(shape, rate)
    return np.full(len(rate), b_prime), np.full(len(rate), math.log(b_prime))


def allotment(log_u, log_v):
    """phi_k of one entry: the shares of its count that its components have, from E[log u_k] and E[log v_k]."""
    logs = log_u + log_v
    return np.exp(logs - logsumexp(logs))


def half_step(X, log_U, log_V, V, E_xi, prior, observed=None):
    """A factor's best posterior: from E[log U], the other's E[log V] and E[V], and E[xi] of each row."""
    a, a_prime, b_prime, _ = prior
    (n, p), k = X.shape, V.shape[1]
    a = np.broadcast_to(a, (k,))
    shape, rate = np.tile(a, (n, 1)), np.empty((n, k))
    for i in range(n):
        for j in range(p):
            if X[i, j] > 0:
                shape[i] += X[i, j] * allotment(log_U[i], log_V[j])
        seen = np.ones(p, bool) if observed is None else observed[i]
        rate[i] = E_xi[i] + V[seen].sum(axis=0)
    return shape, rate, a_prime + a.sum(), a_prime / b_prime + (shape / rate).sum(axis=1)


def gamma_density(a, log_rate, rate, E_log, E):
    """E[log Gamma(u; a, rate)], with E[log rate] and E[rate] where the rate is random."""
    return a * log_rate - gammaln(a) + (a - 1) * E_log - rate * E


def gamma_entropy(shape, rate):
    """-E[log q(u)] of u ~ Gamma(shape, rate)."""
    return shape - np.log(rate) + gammaln(shape) + (1 - shape) * digamma(shape)


def evidence_bound(X, factors, priors, observed=None, effects=None):
    """E[log p(X, z, u, v, xi, eta)] - E[log q], z being the parts of each count, and the sum of the sizes of its terms.

    Of x in parts z ~ Multinomial(x, phi) under z_k ~ Poisson(u_k v_k), the two E[log z_k!] cancel. `effects` is (group
    of each row, shapes, rates, a): Gamma posteriors of effects (n_groups, p) with the prior Gamma(a, a).
    """
    W, H = factors
    E_W, E_H, log_W, log_H = W[0] / W[1], H[0] / H[1], log_mean(*W[:2]), log_mean(*H[:2])
    terms = []
    for i, j in np.ndindex(*X.shape):
        if observed is not None and not observed[i, j]:
            continue
        E_c, log_c = 1.0, 0.0
        if effects is not None:
            group, shapes, rates, _ = effects
            s, r = shapes[group[i], j], rates[group[i], j]
            E_c, log_c = s / r, log_mean(s, r)
        terms += list(-E_c * E_W[i] * E_H[j])
        if X[i, j] > 0:
            phi = allotment(log_W[i], log_H[j])
            for part, log_rate in zip(phi, log_W[i] + log_H[j] + log_c, strict=True):
                terms += [X[i, j] * part * log_rate, -X[i, j] * part * math.log(part)] if part > 0 else []
            terms.append(-math.lgamma(X[i, j] + 1))
    for posterior, prior in zip(factors, priors, strict=True):
        shape, rate, activity_shape, activity_rate = posterior
        a, a_prime, b_prime, hierarchical = prior
        a = np.broadcast_to(a, shape.shape)
        activity_shape = np.broadcast_to(activity_shape, len(shape))
        E_xi, log_xi = activity(posterior, prior)
        for i, k in np.ndindex(*shape.shape):
            s, r = shape[i, k], rate[i, k]
            terms += [gamma_density(a[i, k], log_xi[i], E_xi[i], log_mean(s, r), s / r), gamma_entropy(s, r)]
        if hierarchical:
            b = a_prime / b_prime
            for i, (s, r) in enumerate(zip(activity_shape, activity_rate, strict=True)):
                terms += [gamma_density(a_prime, math.log(b), b, log_xi[i], E_xi[i]), gamma_entropy(s, r)]
    if effects is not None:
        _, shapes, rates, a = effects
        for s, r in zip(shapes.ravel(), rates.ravel(), strict=True):
            terms += [gamma_density(a, math.log(a), a, log_mean(s, r), s / r), gamma_entropy(s, r)]
    return math.fsum(terms), math.fsum(map(abs, terms))


def log_evidence(x, a, b, c, d):
    """log p(x) of one count x ~ Poisson(u v), u ~ Gamma(a, b), v ~ Gamma(c, d), by quadrature over log u.

    Given u, x is negative binomial.
    """

    def log_density(t):
        u = math.exp(t)
        given = gammaln(c + x) - gammaln(c) - math.lgamma(x + 1) + c * math.log(d / (d + u)) + x * math.log(u / (d + u))
        return given + a * math.log(b) - gammaln(a) + a * t - b * u

    grid = np.linspace(-60, 20, 4001)
    peak = max(map(log_density, grid))
    area, _ = quad(lambda t: math.exp(log_density(t) - peak), -60, 20, limit=1000, epsabs=0, epsrel=1e-10)
    return peak + math.log(area)
