"""What a user says of the factors beside the counts, brought into the one form that solvers know.

With exposures r and c, weights w, a background b and fixed parts, the model is

    x_ij ~ Poisson(r_i c_j (W_i . H_j + b_j)),    each row's log-likelihood and log prior times w_i

Solvers see counts w_i x_ij and rates W' H' with W' = diag(w r) W and H' = H diag(c): w_i D(x_i || mu_i) is
D(w_i x_i || w_i mu_i). Priors are brought into these units, and the background is one more component that is known.
Where a known component is very large or small, W' and H' are those times powers of two, `units`.
"""

import math
import numbers
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from fastpmf.core.counts import Counts, Side
from fastpmf.core.factors import dot, empty_factor, padded
from fastpmf.counts import MemoryCounts, as_counts
from fastpmf.counts.labels import MatrixLabels, align, align_components
from fastpmf.counts.masked import hide_entries, weight_rows
from fastpmf.fitting.ranges import check_entries, check_scale
from fastpmf.model.priors import Terms
from fastpmf.solvers import Problem
from fastpmf.utils.messages import brief
from fastpmf.utils.validation import check_array, check_factor
from fastpmf.utils.warnings import warn

# What predicted held-out counts best over text, cells, ratings and baskets, among shapes 1 to 1.3 and a hundredth to
# three times the rate that gives the data's mean: the shape decides, and a rate as low as this leaves totals alone.
AUTO_SHAPE, AUTO_RATE = 1.1, 0.1
# Shapes of priors by name. A shape above 1 acts as shape - 1 counts in each component, which is too much for many
# components and few counts in a row: there shape 1, an L1 penalty, gave the best recommendations.
SHAPES = {"auto": AUTO_SHAPE, "sparse": 1.0}
FREE = "real numbers and NaN"  # what a factor known in part holds


class Penalties(NamedTuple):
    """Priors and penalties as `PoissonNMF` has them."""

    prior_W: Any = None
    prior_H: Any = None
    alpha_W: float = 0.0
    alpha_H: Any = "same"
    l1_ratio: float = 0.0


class Known(NamedTuple):
    """What is known beside the counts, as `PoissonNMF.fit` has it."""

    fixed_W: Any = None
    fixed_H: Any = None
    row_exposure: Any = None
    column_exposure: Any = None
    background: Any = None
    mask: Any = None
    sample_weight: Any = None

    def aligned(self, labels: MatrixLabels) -> "Known":
        """All fields aligned with X by labels if both have labels; the mask is read as counts."""
        rows, columns = labels
        mask = align(self.mask, "mask", rows=rows, columns=columns)
        return Known(
            fixed_W=align(self.fixed_W, "fixed_W", rows=rows),
            fixed_H=align(self.fixed_H, "fixed_H", columns=columns),
            row_exposure=align(self.row_exposure, "row_exposure", rows=rows),
            column_exposure=align(self.column_exposure, "column_exposure", rows=columns),
            background=align(self.background, "background", rows=columns),
            mask=None if mask is None else as_counts(mask, name="mask"),
            sample_weight=align(self.sample_weight, "sample_weight", rows=rows),
        )


def align_beside(
    labels: MatrixLabels, known: Known, *, W: Any = None, H: Any = None, validation: Any = None
) -> tuple[Known, Any, Any, Any]:
    """The arguments of `fit` other than X, aligned with the labels of X, and factors aligned by components."""
    rows, columns = labels
    known = known.aligned(labels)
    W, H = align(W, "W", rows=rows), align(H, "H", columns=columns)
    factors = (known.fixed_W, "fixed_W", 1), (known.fixed_H, "fixed_H", 0), (W, "W", 1), (H, "H", 0)
    fixed_W, fixed_H, W, H = align_components(factors)
    validation = align(validation, "validation", rows=rows, columns=columns)
    return known._replace(fixed_W=fixed_W, fixed_H=fixed_H), W, H, validation


class Plain(NamedTuple):
    """One factor's prior in the user's units: shape - 1, rate and ridge, each (n_components,)."""

    shape: np.ndarray
    rate: np.ndarray
    ridge: np.ndarray


@dataclass(frozen=True)
class Statement:
    """A problem, and how its factors are those that the user knows.

    Attributes
    ----------
    problem : Problem
    counts : Counts
        Its counts: weighted, and without what is not observed.
    scales : (ndarray of shape (n,), ndarray of shape (p,))
        W' = scales[0] W / units and H' = units H scales[1], float64.
    unweighted : ndarray of int
        Rows of weight 0, which the fit doesn't see.
    units : ndarray of shape (K,), float64
        Those that `problem` starts with.
    known : two of ndarray of shape (n or p, K), or None
        What is known of W' and of H' transposed.
    penalties : Penalties
        With "auto" priors as numbers.
    """

    problem: Problem
    counts: Counts
    scales: tuple[np.ndarray, np.ndarray]
    unweighted: np.ndarray
    units: np.ndarray
    known: tuple[np.ndarray | None, np.ndarray | None]
    penalties: Penalties

    @property
    def partly_known(self) -> bool:
        """Whether some parts of the factors stay as they are."""
        return any(terms.held is not None or terms.zeros is not None for terms in self.problem.terms)

    @property
    def background(self) -> np.ndarray:
        """The background's row of H', (p,)."""
        known = self.known[1]
        assert known is not None  # asked for only where there is one
        return known[:, -1]

    def start(self, W: np.ndarray, Ht: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Padded starting factors with the known parts in their places, of those for the free components alone.

        What comes with a known component is taken in `units`.
        """
        out = []
        for A, known, terms in zip((W, Ht), self.known, self.problem.terms, strict=True):
            K = self.problem.n_components
            B = empty_factor(len(A), K, A.dtype)
            held = np.zeros(K, bool) if terms.held is None else terms.held[:K]
            if not held.all():
                B[:, : min(A.shape[1], B.shape[1])] = A[:, : B.shape[1]]
            if terms.zeros is not None:
                B[terms.zeros] = 0
            with np.errstate(under="ignore"):
                if known is not None and held.all():
                    B[:, :K] = known
                elif known is not None and held.any():
                    B[:, :K][:, held] = known[:, held]
            out.append(B)
        return out[0], out[1]


def stated(counts: Counts, n_components: int, dtype: np.dtype, penalties: Penalties, known: Known) -> Statement:
    """Check all of it, and state the problem.

    Raises
    ------
    TypeError, ValueError
        If an argument has an invalid type or value.
    """
    n, p = counts.shape
    k = n_components
    r = vector(known.row_exposure, n, "row_exposure")
    c = vector(known.column_exposure, p, "column_exposure")
    w = vector(known.sample_weight, n, "sample_weight", zero=True)
    b = None if known.background is None else _background(known.background, p)
    H = known.fixed_H
    fixed = [
        _fixed(A, shape, name, axis)
        for A, shape, name, axis in (
            (known.fixed_W, (n, k), "fixed_W", "column"),
            (H if H is None else check_array(H, "fixed_H", FREE).T, (p, k), "fixed_H", "row"),
        )
    ]
    for scale, name in ((r, "row_exposure"), (c, "column_exposure"), (w, "sample_weight")):
        check_scale(scale, dtype, name)
    seen = w > 0
    if isinstance(counts, MemoryCounts):
        counts = hide_entries(counts, known.mask)
        if known.sample_weight is not None and (w != 1).any():
            counts = weight_rows(counts, w, dtype)
    penalties = resolve_auto(penalties, k, counts.total, _total_exposure(counts, r * w, c))
    plain = read_penalties(penalties, k, counts.shape)
    for prior, name in zip(plain, ("prior_W or alpha_W", "prior_H or alpha_H"), strict=True):
        check_entries(np.concatenate(prior), dtype, name)
    scales = np.where(seen, r * w, r), c
    # What is known of rows of weight 0 must not be seen either: in W' it is 0
    known_scales = r * w, c
    K = k + (b is not None)
    width = empty_factor(1, K, dtype).shape[1]
    terms, parts = [], []
    # In W' the prior's terms w (shape log W - rate W - ridge W^2 / 2) have these weights; w = 1 for the columns
    names = "fixed_W", "fixed_H" if b is None else "fixed_H or background"
    for name, (weight, exposure), prior, (values, held, zeros), scale, backdrop in zip(
        names, ((w, r), (np.ones(p), c)), plain, fixed, known_scales, (r * w, None if b is None else c * b), strict=True
    ):
        if backdrop is not None and b is not None:
            values = np.zeros((len(scale), k)) if values is None else _scaled(values, scale)
            values = np.concatenate([values, backdrop[:, None]], axis=1)
            held = np.append(np.zeros(k, bool) if held is None else held, True)
        elif values is not None:
            values = _scaled(values, scale)
        if values is not None:
            check_entries(values, dtype, f"{name}, times exposures and weights,")
        terms.append(_terms(weight, exposure, prior, held, zeros, width, dtype))
        parts.append(values)
    _check_modes(terms, counts.shape, k)
    _check_data(counts, terms, parts, dtype)
    units = known_units((terms[0], terms[1]), parts, width)
    trivial = k == K and all((s == 1).all() for s in scales) and not any(t.penalised for t in terms)
    problem = Problem(counts, K, (terms[0], terms[1]), units=units)
    if not trivial or (units != 1).any():
        problem = replace(problem, present=partial(present, n_components=k, scales=scales, fixed=fixed))
    return Statement(problem, counts, scales, np.flatnonzero(~seen), units, (parts[0], parts[1]), penalties)


def _terms(
    weight: np.ndarray, exposure: np.ndarray, prior: Plain, held: np.ndarray | None, zeros: np.ndarray | None,
    width: int, dtype: np.dtype,
) -> Terms:  # fmt: skip
    def pad(A: np.ndarray | None) -> np.ndarray | None:
        return None if A is None else np.pad(A, [(0, 0)] * (A.ndim - 1) + [(0, width - A.shape[-1])])

    held, zeros = pad(held), pad(zeros)

    def spread(number: np.ndarray, factor: np.ndarray) -> np.ndarray | None:
        """number_k factor_i, one row where all are alike, without what is held or zero."""
        if not number.any():
            return None
        rows = number[None] if (factor == 1).all() and zeros is None else factor[:, None] * number
        out = np.pad(rows, [(0, 0), (0, width - len(number))])
        if held is not None:
            out[:, held] = 0
        if zeros is not None:
            out[zeros] = 0
        return out

    safe = np.where(weight > 0, weight, 1.0)
    shape = spread(prior.shape, weight)
    ridge = spread(prior.ridge, 1 / (exposure**2 * safe)) if prior.ridge.any() else None
    if shape is not None and ridge is not None:
        shape, ridge = np.broadcast_arrays(shape, ridge)
    constant = 0.0
    if shape is not None:
        constant = float((shape * np.log(exposure * safe)[:, None]).sum())
        shape = np.ascontiguousarray(shape, dtype)
    return Terms(shape, spread(prior.rate, 1 / exposure), ridge, held, zeros, constant)


def resolve_auto(penalties: Penalties, k: int, total: float, exposure: float) -> Penalties:
    """The penalties with named priors as numbers: the shape of the name, and a tenth of the rate that fits the mean.

    With shapes a and rates b of both factors, the prior mean of a count's rate is k (a / b)^2.

    Parameters
    ----------
    penalties : Penalties
    k : int
    total, exposure : float
        Sums over the observed entries of the counts and of their exposures r_i c_j, each times the weight of its row.
    """

    def numbers(prior: Any) -> Any:
        if not named_prior(prior):
            return prior
        shape, mean = SHAPES[prior], total / exposure
        return shape, AUTO_RATE * shape * math.sqrt(k / mean) if mean > 0 else 1.0

    return penalties._replace(prior_W=numbers(penalties.prior_W), prior_H=numbers(penalties.prior_H))


def named_prior(prior: Any) -> bool:
    """Whether a prior is given by name, whose rate depends on the data."""
    return isinstance(prior, str) and prior in SHAPES


def _total_exposure(counts: Counts, rows: np.ndarray, columns: np.ndarray) -> float:
    """Sum of rows_i columns_j over the entries that are observed."""
    total = float(rows.sum()) * float(columns.sum())
    hidden = counts.unobserved if isinstance(counts, MemoryCounts) else None
    if hidden is None:
        return total
    number = np.repeat(np.arange(len(rows)), np.diff(hidden.indptr))
    return total - dot(rows[number], columns[hidden.indices])


def as_numbers(prior: Any) -> tuple[Any, ...] | None:
    """A prior that was found right, as Python's numbers and lists, which no array of the user's stands behind."""
    return None if prior is None else tuple(np.asarray(x, dtype=np.float64).tolist() for x in prior)


def read_penalties(penalties: Penalties, k: int, shape: tuple[int, int]) -> tuple[Plain, Plain]:
    """The priors of W and of H transposed; scikit-learn's penalties are those priors of shape 1, scaled by its rule."""
    prior_W, prior_H, alpha_W, alpha_H, l1_ratio = penalties
    alpha_W = _number(alpha_W, "alpha_W")
    alpha_H = alpha_W if isinstance(alpha_H, str) and alpha_H == "same" else _number(alpha_H, "alpha_H")
    if _number(l1_ratio, "l1_ratio") > 1:
        raise ValueError(f"l1_ratio must be between 0 and 1, got {l1_ratio}")
    out = []
    for prior, alpha, size, name in ((prior_W, alpha_W, shape[1], "W"), (prior_H, alpha_H, shape[0], "H")):
        if prior is None:
            l1, l2 = size * alpha * l1_ratio, size * alpha * (1 - l1_ratio)
            out.append(Plain(np.zeros(k), np.full(k, l1), np.full(k, l2)))
            continue
        if alpha > 0:
            raise ValueError(f"prior_{name} and alpha_{name} say the same thing: give one of them")
        out.append(_gamma(prior, k, f"prior_{name}"))
    return out[0], out[1]


def _gamma(prior: Any, k: int, name: str) -> Plain:
    try:
        shape, rate = prior
        shape, rate = (np.broadcast_to(np.asarray(x, dtype=np.float64), (k,)) for x in (shape, rate))
    except (TypeError, ValueError):
        raise ValueError(
            f"{name} must be 'auto', 'sparse' or (shape, rate), each a number or one for each of {k} components, "
            f"got {brief(prior)}"
        ) from None
    if (wrong := ~(np.isfinite(shape) & (shape >= 1))).any():
        raise ValueError(f"{name} must have shapes >= 1, for a finite density at zero, got {shape[wrong][0]:g}")
    if (wrong := ~(np.isfinite(rate) & (rate >= 0))).any():
        raise ValueError(f"{name} must have finite rates >= 0, got {rate[wrong][0]:g}")
    return Plain(shape - 1, np.array(rate), np.zeros(k))


def _check_modes(terms: list[Terms], shape: tuple[int, int], k: int) -> None:
    """Turn away priors under which W D, D^-1 H is the better the larger, or the smaller, D is."""
    count, price, held = [], [], np.zeros(k, bool)
    for t, n in zip(terms, shape, strict=True):
        count.append(np.zeros(k) if t.shape is None else t.shape[:, :k].sum(axis=0) * (n if len(t.shape) == 1 else 1))
        price.append(sum((np.zeros(k) if x is None else x[:, :k].sum(axis=0) for x in (t.rate, t.ridge)), np.zeros(k)))
        if t.held is not None:
            held |= t.held[:k]
    more = np.where(held, 0.0, count[0] - count[1])
    for name, worse in (("prior_W", (more > 0) & (price[0] == 0)), ("prior_H", (more < 0) & (price[1] == 0))):
        if worse.any():
            raise ValueError(
                f"{name} must have rates > 0 where its shapes are > 1: with rate 0 the posterior has no mode, since "
                "scaling one factor up and the other down always raises it"
            )
    alone = ~held & (more == 0) & ((price[0] > 0) != (price[1] > 0))
    if alone.any():
        warn(
            "Only one of W and H is penalised, so rescaling can make its penalty arbitrarily small: penalise or fix "
            "the other factor too."
        )


def _check_data(counts: Counts, terms: list[Terms], parts: list[np.ndarray | None], dtype: np.dtype) -> None:
    """Turn away entries of a shape above 1 and rate 0 that no observed count depends on, which would be infinite."""
    for side in Side:
        mine, other, known = terms[side], terms[1 - side], parts[1 - side]
        if mine.shape is None:
            continue
        prices = [x for x in (mine.rate, mine.ridge) if x is not None]
        loose = np.all([x == 0 for x in np.broadcast_arrays(*prices)], axis=0) if prices else np.True_
        loose = (mine.shape > 0) & loose
        if not loose.any():
            continue
        possible = np.broadcast_to(np.ones(mine.shape.shape[1], dtype), (counts.shape[1 - side], mine.shape.shape[1]))
        possible = padded(possible if other.zeros is None else ~other.zeros, dtype)
        if known is not None and other.held is not None:
            possible[:, other.held] = known[:, other.held[: known.shape[1]]] > 0
        seen = np.atleast_2d(counts.observed_sums(side, possible, possible.sum(axis=0, dtype=np.float64)))
        if (loose & (seen == 0)).any():
            name, whole = ("prior_W", "row") if side is Side.ROWS else ("prior_H", "column")
            raise ValueError(
                f"{name} must have rates > 0 where its shapes are > 1 and a {whole} is masked or the other factor is "
                "fixed at zero: without any data there, and with rate 0, the posterior has no mode"
            )


def _scaled(A: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Rows times their scales, or A itself where all of these are 1."""
    return A if (scale == 1).all() else A * scale[:, None]


def _number(value: Any, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name} must be a number >= 0, got {brief(value)}")
    if not math.isfinite(value) or value < 0:
        raise ValueError(f"{name} must be a number >= 0, got {value}")
    return float(value)


def vector(values: Any, n: int, name: str, *, zero: bool = False) -> np.ndarray:
    """One number for each row or column, float64; a single number is that of all, and ones are the default."""
    if values is None:
        return np.ones(n)
    values = check_array(values, name)
    values = np.full(n, values) if values.ndim == 0 else values
    values = check_factor(values, (n,), name).astype(np.float64)
    if not zero and not (values > 0).all():
        raise ValueError(f"{name} must be positive: what has no exposure has no data, leave it out; got a minimum of 0")
    if zero and not values.any():
        raise ValueError(f"{name} must hold at least one positive number, got all zero")
    check_scale(values, np.dtype(np.float64), name)
    return values


def _background(values: Any, p: int) -> np.ndarray:
    values = check_array(values, "background")
    if values.ndim == 0:
        values = np.full(p, values)
    return check_factor(values, (p,), "background").astype(np.float64)


def _fixed(
    A: Any, shape: tuple[int, int], name: str, line: str
) -> tuple[np.ndarray | None, np.ndarray | None, np.ndarray | None]:
    """Values, held components and held zeros of a factor that is known in part, components as columns."""
    if A is None:
        return None, None, None
    A = check_array(A, name, FREE)
    wanted = shape if line == "column" else shape[::-1]
    if A.shape != shape:
        raise ValueError(f"{name} must have shape {wanted}, got {A.shape if line == 'column' else A.shape[::-1]}")
    free = np.isnan(A)
    if not free.any():  # what `transform` knows of H, and often
        return check_factor(A, shape, name), np.ones(shape[1], bool), None
    check_factor(np.where(free, 0, A), shape, name)
    held, zeros = ~free.any(axis=0), (A == 0)
    mixed = ~held & ((~free & ~zeros).any(axis=0))
    if mixed.any():
        raise ValueError(
            f"{name} must in each {line} be either wholly known, or NaN but for zeros; {line} "
            f"{np.flatnonzero(mixed)[0]} has both NaN and positive numbers"
        )
    zeros[:, held] = False
    return np.where(free, 0, A), held if held.any() else None, zeros if zeros.any() else None


_NEAR = 24  # components whose sum is 2**-24 to 2**24 are left as they are
_FARTHEST = 1000  # powers of two that float64 has, and their inverses


def known_units(terms: tuple[Terms, Terms], parts: list[np.ndarray | None], width: int) -> np.ndarray:
    """Powers of two, (width,), in which the squares of a component that is known are within a dtype's range.

    Parameters
    ----------
    terms : (Terms, Terms)
    parts : list of two ndarray of shape (n_rows, K) or None
        What is known of W' and of H' transposed; brought into the units, in new arrays.
    width : int

    Notes
    -----
    A component that is known of both factors is left as it is, and so are all where squares have a price, which may
    be what holds the other factor down. Multiplication by a power of two rounds nothing.
    """
    exponent = np.zeros(width)
    ridged = any(t.ridge is not None for t in terms)
    held = [np.zeros(width, bool) if t.held is None else t.held for t in terms]
    for side, sign in zip(Side, (1, -1), strict=True):
        known, mine = parts[side], held[side] & ~held[1 - side]
        if known is None or ridged or not mine.any():
            continue
        sums = np.pad(known.sum(axis=0, dtype=np.float64), (0, width - known.shape[1]))
        power = np.floor(np.log2(sums, where=mine & (sums > 0), out=np.zeros(width)))
        power[np.abs(power) <= _NEAR] = 0
        power = np.clip(power, -_FARTHEST, _FARTHEST)
        if power.any():
            parts[side] = np.ldexp(known, -power[: known.shape[1]].astype(np.int64))
            exponent += sign * power
    return np.exp2(exponent)


def present(
    W: np.ndarray,
    Ht: np.ndarray,
    units: np.ndarray,
    *,
    n_components: int,
    scales: tuple[np.ndarray, np.ndarray],
    fixed: list[tuple[np.ndarray | None, np.ndarray | None, np.ndarray | None]],
) -> tuple[np.ndarray, np.ndarray]:
    """W and H of the free components in the user's units, from a solver's; what is known, to the bit."""
    units = units[:n_components]
    with np.errstate(over="ignore", under="ignore"):  # a solution that is not finite is refused
        W = (W[:, :n_components] * units / scales[0][:, None]).astype(W.dtype)
        Ht = (Ht[:, :n_components] / units / scales[1][:, None]).astype(Ht.dtype)
        for A, (values, held, _) in zip((W, Ht), fixed, strict=True):
            if values is not None and held is not None:
                A[:, held] = values[:, held]
    return W, Ht.T
