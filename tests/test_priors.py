"""Priors and penalties: every solver minimises the documented objective, for both factors and in the best units."""

import math
from functools import partial

import fitting
import naive
import numpy as np
import pytest
from conftest import ALL, MENAGERIE
from scipy import optimize, sparse
from sklearn.base import clone
from sklearn.decomposition import NMF
from sklearn.decomposition._nmf import _beta_divergence
from sklearn.exceptions import ConvergenceWarning
from test_solvers import SOLVERS, assert_same_bits

from fastpmf import PoissonNMF, Status
from fastpmf.core.factors import column_sums, padded
from fastpmf.model.priors import Terms, best_units

EPS = np.finfo(float).eps
fit = partial(fitting.fit, n_threads=1)  # the matrices are small, and threads would wait for each other
GAMMA = {"prior_W": (1.5, 2.0), "prior_H": ([1.2, 2.0, 3.0], [0.5, 1.0, 2.0])}
MIXED = {"alpha_W": 0.02, "alpha_H": 0.05, "l1_ratio": 0.5}
MATRICES = ["tiny", "empty_row", "empty_column", "large_counts", "small_scale", "one_row", "rank_one", "short_rows"]

every_solver = pytest.mark.parametrize("solver", SOLVERS)


def random_fixed_parts(n, p, k, rng):
    """A row of H and a column of W are fixed, and zeros in others."""
    fixed_W, fixed_H = np.full((n, k), np.nan), np.full((k, p), np.nan)
    fixed_H[0], fixed_W[:, 1] = rng.gamma(1.0, size=p) + 0.1, rng.gamma(1.0, size=n) + 0.1
    fixed_H[2, rng.random(p) < 0.3], fixed_W[rng.random(n) < 0.3, 2] = 0, 0
    return {"fixed_W": fixed_W, "fixed_H": fixed_H}


def exposures(n, p, rng):
    return {"row_exposure": 10 ** rng.uniform(-1, 1, n), "column_exposure": 10 ** rng.uniform(-1, 1, p)}


def priors_of_entries(n, p, rng, k=3):
    """Shapes and rates for each entry, some of them flat."""
    prior_W, prior_H = (
        (1 + rng.gamma(0.3, size=size) * (rng.random(size) < 0.7), rng.gamma(1.0, size=size) + 0.1)
        for size in ((n, k), (k, p))
    )
    return {"prior_W": prior_W, "prior_H": prior_H}


# Options and data of a fit to n x p counts
MODELS = {
    "Gamma": lambda n, p, rng: GAMMA,
    "nearly flat": lambda n, p, rng: {"prior_W": (1.01, 1.0), "prior_H": (1.001, 1.0)},
    "one side alone": lambda n, p, rng: {"prior_W": (3.0, 2.0)},
    "L1": lambda n, p, rng: {"alpha_W": 0.05, "alpha_H": 1e-4, "l1_ratio": 1.0},
    "L1 that kills": lambda n, p, rng: {"alpha_W": 4.0, "alpha_H": 1e-4, "l1_ratio": 1.0},
    "L2": lambda n, p, rng: {"alpha_W": 0.1},
    "L1 and L2": lambda n, p, rng: MIXED,
    "mask": lambda n, p, rng: {"mask": rng.random((n, p)) < 0.3},
    "background": lambda n, p, rng: {"background": rng.gamma(0.3, size=p)},
    "known": lambda n, p, rng: random_fixed_parts(n, p, 3, rng),
    "exposures": lambda n, p, rng: exposures(n, p, rng) | GAMMA,
    "weights": lambda n, p, rng: {"sample_weight": rng.choice([0.5, 1.0, 3.0], n)} | GAMMA,
    "entries": lambda n, p, rng: priors_of_entries(n, p, rng),
    "entries and all": lambda n, p, rng: (
        {"mask": rng.random((n, p)) < 0.2, "background": rng.gamma(0.3, size=p)}
        | {"sample_weight": rng.gamma(1.0, size=n)}
        | random_fixed_parts(n, p, 3, rng)
        | exposures(n, p, rng)
        | priors_of_entries(n, p, rng)
    ),
    "everything": lambda n, p, rng: (
        {"mask": rng.random((n, p)) < 0.2, "background": rng.gamma(0.3, size=p)}
        | {"sample_weight": rng.gamma(1.0, size=n)}
        | random_fixed_parts(n, p, 3, rng)
        | exposures(n, p, rng)
        | (GAMMA if rng.random() < 0.5 else MIXED)
    ),
}  # fmt: skip
models = pytest.mark.parametrize("model", MODELS)
dying = pytest.mark.filterwarnings("ignore:.*carry no counts:UserWarning")  # as a penalty may do


def counts_of(name):
    """float64, so that each kernel is compiled once."""
    return MENAGERIE[name].astype(float)


def options_of(model, X, seed=5):
    return MODELS[model](*X.shape, np.random.default_rng(seed))


@dying
@models
@every_solver
def test_the_documented_objective_is_minimised_and_never_rises(model, solver):
    half = list(SOLVERS).index(solver) % 2
    for name in MATRICES if ALL else MATRICES[half::2]:
        X = counts_of(name)
        options, seen = options_of(model, X), {}

        def see(record, W, H, X=X, options=options, seen=seen):
            if record.n_iter in (0, 4, 16):
                seen[record.n_iter] = naive.objective_terms(X, W, H, **options), record.objective

        solution = fit(X, max_iter=24, eval_every=1, callback=see, **options, **SOLVERS[solver])
        seen[24] = naive.objective_terms(X, solution.W, solution.H, **options), solution.objective
        size = max(abs(terms).sum() for terms, _ in seen.values())
        # Steps, sums and logarithms are exact up to some tens of eps of the terms
        slack = 64 * EPS * size
        if solver.startswith("cd"):  # entries below 1e-11 of a row's counts and shapes become 0
            slack += 1e-11 * 2 * 3 * size
        trace = solution.trace["objective"]
        assert np.isfinite(trace).all(), name
        assert (np.diff(trace) <= slack).all(), name
        for terms, objective in seen.values():
            assert objective == pytest.approx(terms.sum(), abs=slack + max(X.shape) * EPS * size), name
        assert solution.kkt_residual >= 0, name
        for A in (solution.W, solution.H):
            assert (A >= 0).all(), name


def slopes(X, W, H, options):
    """(gradient of the objective, its positive part) in W and in H, densely; W in the units of the user."""
    (n, p), get = X.shape, options.get
    r, c, w = (np.broadcast_to(get(name, 1.0), m) for name, m in
               (("row_exposure", n), ("column_exposure", p), ("sample_weight", n)))  # fmt: skip
    seen = w[:, None] * (1.0 - np.asarray(get("mask", np.zeros((n, p)))))
    rates = W @ H + get("background", 0.0)
    up = seen * r[:, None] * c
    down = np.divide(seen * X, rates, out=np.zeros((n, p)), where=seen * X > 0)
    alpha = {"W": p * get("alpha_W", 0.0), "H": n * get("alpha_H", get("alpha_W", 0.0))}
    out = []
    for name, A, plus, minus, weight in (
        ("W", W, up @ H.T, down @ H.T, w[:, None]), ("H", H.T, up.T @ W, down.T @ W, np.ones((p, 1))),
    ):  # fmt: skip
        shape, rate = get(f"prior_{name}") or (1.0, alpha[name] * get("l1_ratio", 0.0))
        ridge = 0.0 if get(f"prior_{name}") else alpha[name] * (1 - get("l1_ratio", 0.0))
        shape, rate = (naive.per_entry(x, A.T.shape, transposed=name == "W").T for x in (shape, rate))
        more = shape - 1
        minus = minus + weight * np.divide(more, A, out=np.zeros(A.shape), where=(more > 0) & (A > 0))
        plus = plus + weight * (rate + ridge * A)
        fixed = get(f"fixed_{name}")
        free = np.ones(A.shape, bool) if fixed is None else np.isnan(fixed if name == "W" else fixed.T)
        out.append((np.where(free, plus - minus, 0.0), plus, A))
    return out


@dying
@models
@pytest.mark.parametrize("name", ["planted", "rank_one"])
def test_a_converged_fit_meets_the_optimality_conditions_computed_densely(model, name):
    X, tol = counts_of(name).toarray(), 1e-10
    options = options_of(model, X)
    solution = fit(X, solver="cd", max_iter=5000, tol=tol, **options)
    assert solution.status is Status.CONVERGED
    assert solution.kkt_residual <= tol
    total = X.sum()
    for gradient, plus, A in slopes(X, solution.W, solution.H, options):
        # A gap is quadratic in the remaining gradient at a positive entry, and linear at a zero
        assert (np.abs(A * gradient) <= 3 * math.sqrt(tol) * (total + (A * plus).max())).all()
        assert (gradient >= -3 * math.sqrt(tol) * plus).all()


@pytest.mark.parametrize(
    "model", ["Gamma", "L1", "L2", "L1 and L2", "mask", "background", "entries and all", "everything"]
)
def test_every_solver_reaches_the_optimum_of_a_convex_problem_within_its_residual(model):
    X = counts_of("dense")
    H = np.random.default_rng(1).gamma(0.5, size=(3, X.shape[1])) + 0.01
    options = options_of(model, X) | {"fixed_H": H, "fixed_W": None}
    fits = [fit(X, max_iter=5000, tol=1e-4, **options, **choice) for choice in SOLVERS.values()]
    total = X.sum() * max(1, np.max(options.get("sample_weight", 1)))
    lowest = min(solution.objective for solution in fits)
    for solution in fits:
        assert solution.status is Status.CONVERGED
        np.testing.assert_array_equal(solution.H, H)
        # No other W is better by more than the residual; rounding is relative to the objective
        assert solution.objective - lowest <= solution.kkt_residual * total + 1e-10 * abs(lowest)


@pytest.fixture
def counts(planted):
    return planted[0].astype(float)


# ── what is nothing, and what is the same said otherwise ────────────────────────────────────────────────────────

NOTHING = {
    "a flat prior": {"prior_W": (1, 0), "prior_H": (np.ones(3), np.zeros(3))},
    "no penalty": {"alpha_W": 0.0, "alpha_H": 0, "l1_ratio": 0.5},
    "exposures of one": {"row_exposure": np.ones(30), "column_exposure": [1] * 40},
    "weights of one": {"sample_weight": np.ones(30)},
    "a mask of nothing": {"mask": sparse.csr_array((30, 40), dtype=bool)},
    "nothing known": {"fixed_W": np.full((30, 3), np.nan), "fixed_H": np.full((3, 40), np.nan)},
}


@pytest.mark.parametrize("nothing", NOTHING.values(), ids=NOTHING)
def test_options_without_effect_change_no_bit(nothing, counts):
    assert_same_bits(fit(counts, solver="cd", **nothing), fit(counts, solver="cd"))


@pytest.mark.parametrize("options", [{}, {"solver": "cd"}, {"solver": "em"}], ids=["mu", "cd", "em"])
def test_a_prior_of_shape_one_is_the_penalty_of_its_rate(options, counts):
    n, p = counts.shape
    prior = fit(counts, prior_W=(1, 0.02 * p), prior_H=(1, 0.05 * n), **options)
    penalty = fit(counts, alpha_W=0.02, alpha_H=0.05, l1_ratio=1.0, **options)
    assert_same_bits(prior, penalty)
    same = [fit(counts, alpha_W=0.02, alpha_H=alpha, **options) for alpha in (0.02, "same")]
    assert_same_bits(*same)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@every_solver
@pytest.mark.parametrize("model", ["no other data", "exposures", "weights", "mask", "known"])
def test_arrays_of_equal_numbers_are_the_numbers(model, solver, dtype, counts):
    (n, p), data = counts.shape, {} if model == "no other data" else options_of(model, counts)
    data |= {"prior_W": None, "prior_H": None, "dtype": dtype}
    if model == "weights":
        data["sample_weight"] = np.where(np.arange(n) < 4, 0.0, data["sample_weight"])  # some rows are not seen
    (a, b), (c, d) = GAMMA["prior_W"], GAMMA["prior_H"]
    arrays = {"prior_W": (np.full((n, 3), a), b), "prior_H": (np.tile(c, (p, 1)).T, np.tile(d, (p, 1)).T)}
    numbers, entries = (fit(counts, **data | priors, **SOLVERS[solver]) for priors in (GAMMA, arrays))
    # The sum of rates is rounded once more
    rtol = 1e-3 if dtype == np.float32 else 1e-9
    np.testing.assert_allclose(entries.H, numbers.H, rtol=rtol, atol=rtol * numbers.H.max())
    np.testing.assert_allclose(entries.W, numbers.W, rtol=rtol, atol=rtol * numbers.W.max())
    assert entries.objective == pytest.approx(numbers.objective, rel=rtol)


def test_the_first_update_with_a_prior_is_that_of_its_formula(counts, planted):
    # The first update of W, under shape a and rate b, is (W * S + a - 1) / (h_sum + b)
    X, (_, W, H) = counts, planted
    solution = fit(X, start=(W, H), fixed_H=H, prior_W=(1.5, 2.0), max_iter=1)
    expected = (W * naive.ratio_contraction(X, W, H.T) + 0.5) / (H.sum(axis=1) + 2.0)
    np.testing.assert_allclose(solution.W, expected, rtol=1e-13)  # two orders of summation


# ── scikit-learn's penalties ────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("l1_ratio", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("alpha_H", ["same", 0.05])
def test_penalties_are_scikit_learns_and_the_optimum_is_no_worse_than_theirs(l1_ratio, alpha_H, planted):
    X, W, H = planted
    penalty = {"alpha_W": 0.02, "alpha_H": alpha_H, "l1_ratio": l1_ratio}
    theirs = NMF(3, init="custom", solver="mu", beta_loss="kullback-leibler", max_iter=300, tol=0, **penalty)
    their_W = theirs.fit_transform(X.astype(float), W=W.copy(), H=H.copy())

    def their_objective(W, H):
        out = _beta_divergence(X.toarray().astype(float), W, H, 1)
        for A, alpha in ((W, 0.02 * X.shape[1]), (H, (0.02 if alpha_H == "same" else alpha_H) * X.shape[0])):
            out += alpha * (l1_ratio * A.sum() + (1 - l1_ratio) / 2 * (A**2).sum())
        return out

    ours = fit(X.astype(float), start=(W, H), solver="cd", max_iter=300, tol=1e-8, **penalty)
    assert ours.status is Status.CONVERGED
    rel = 1e-8  # their divergence has an absolute epsilon
    assert ours.objective == pytest.approx(their_objective(ours.W, ours.H), rel=rel)
    assert ours.objective <= their_objective(their_W, theirs.components_) * (1 + rel)


# ── the relative scale of W and H ───────────────────────────────────────────────────────────────────────────────

SIDES = {
    "L1": (Terms(rate=np.array([[2.0]])), Terms(rate=np.array([[0.3]]))),
    "L2": (Terms(ridge=np.array([[2.0]])), Terms(ridge=np.array([[0.3]]))),
    "L1 and L2": (Terms(rate=np.array([[2.0]]), ridge=np.array([[1e-3]])), Terms(ridge=np.array([[30.0]]))),
    "shape of rows": (Terms(np.array([[0.5]]), np.array([[2.0]])), Terms(rate=np.array([[1e-6]]))),
    "shape of columns": (Terms(rate=np.array([[1e-6]])), Terms(np.array([[0.5]]), np.array([[2.0]]))),
    "no rate of columns": (Terms(np.array([[2.0]]), np.array([[2.0]])), Terms(np.array([[0.5]]))),
    "no rate of rows": (Terms(np.array([[0.5]])), Terms(np.array([[2.0]]), np.array([[2.0]]))),
    "hardly more shape of columns": (Terms(np.array([[0.5]])), Terms(np.array([[0.4]]), np.array([[2.0]]))),
    "L2 of rows, L1 of columns": (Terms(ridge=np.array([[2.0]])), Terms(rate=np.array([[0.3]]))),
    "L1 of rows, L2 of columns": (Terms(rate=np.array([[2.0]])), Terms(ridge=np.array([[0.3]]))),
    "L2 of rows alone": (Terms(np.array([[2.0]]), ridge=np.array([[2.0]])), Terms(np.array([[0.5]]))),
    "L2 of columns alone": (Terms(np.array([[0.5]])), Terms(np.array([[2.0]]), ridge=np.array([[2.0]]))),
    "both shapes": (Terms(np.array([[2.0]]), np.array([[2.0]])), Terms(np.array([[0.5]]), np.array([[1e-3]]))),
    "all": (
        Terms(np.array([[2.0]]), np.array([[2.0]]), np.array([[0.1]])),
        Terms(np.array([[0.5]]), np.array([[1e-3]]), np.array([[5.0]])),
    ),
    "of each row": (Terms(np.arange(5.0)[:, None], np.ones((5, 1))), Terms(rate=np.arange(1.0, 8.0)[:, None])),
}


def spread(terms, width=8):
    """One component and its padding."""
    return Terms(*(None if A is None else np.pad(A, [(0, 0), (0, width - 1)]) for A in
                   (terms.shape, terms.rate, terms.ridge)))  # fmt: skip


@pytest.mark.parametrize("sides", SIDES.values(), ids=SIDES)
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_the_units_agree_with_a_numerical_search(sides, scale):
    rows, columns = map(spread, sides)
    rng = np.random.default_rng(4)
    factors = [padded(size * rng.gamma(1.0, size=(n, 1)), np.dtype(float)) for n, size in ((5, scale), (7, 1.0))]
    sums = [column_sums(A) for A in factors]
    units = best_units(rows, columns, factors, sums, np.ones(8))
    assert (units[1:] == 1).all()

    def penalty(log_s):
        s = np.full(8, math.exp(log_s))
        return rows.penalty(factors[0], sums[0], s) + columns.penalty(factors[1], sums[1], 1 / s)

    found = optimize.minimize_scalar(penalty, bounds=(math.log(units[0]) - 5, math.log(units[0]) + 5), method="bounded",
                                     options={"xatol": 1e-10})  # fmt: skip
    # A minimum is flat: its place is known to the square root of the rounding of the value
    assert math.log(units[0]) == pytest.approx(found.x, abs=1e-6)
    assert penalty(math.log(units[0])) <= found.fun + 8 * EPS * abs(found.fun)


def test_units_without_an_optimum_are_kept():
    W, Ht = (padded(np.ones((n, 3)), np.dtype(float)) for n in (5, 7))
    W[:, 1], Ht[:, 2] = 0, 0  # dead in one factor
    sums, before = [column_sums(W), column_sums(Ht)], np.arange(2.0, 10.0)
    price, nothing = Terms(rate=np.ones((1, 8))), Terms()
    for terms in ((price, nothing), (nothing, price), (nothing, nothing)):
        np.testing.assert_array_equal(best_units(*terms, [W, Ht], sums, before), before)
    units = best_units(price, price, [W, Ht], sums, before)
    np.testing.assert_array_equal(units[1:], before[1:])
    assert units[0] == pytest.approx(math.sqrt(7 / 5), rel=1e-15)
    few, many = (Terms(np.full((1, 8), a), np.ones((1, 8))) for a in (0.1, 3.0))
    assert best_units(many, few, [W, Ht], sums, before)[1] == before[1]  # scaling up W = 0 has no cost
    assert best_units(few, many, [W, Ht], sums, before)[2] == before[2]
    fixed = Terms(rate=np.ones((1, 8)), fixed=np.arange(8) == 0)
    np.testing.assert_array_equal(best_units(price, fixed, [W, Ht], sums, before), before)


@pytest.mark.parametrize("model", ["Gamma", "L1", "L2", "L1 and L2", "exposures", "weights", "entries"])
@pytest.mark.parametrize("max_iter", [1, 40])
def test_no_rescaling_of_components_is_better(model, max_iter):
    X = counts_of("planted")
    options = options_of(model, X)
    solution = fit(X, max_iter=max_iter, **options)

    def objective(logs):
        D = np.exp(logs)
        return naive.objective_terms(X, solution.W * D, solution.H / D[:, None], **options).sum()

    least = objective(np.zeros(3))
    rounding = 64 * EPS * np.abs(naive.objective_terms(X, solution.W, solution.H, **options)).sum()
    for k in range(3):
        for step in (-1.0, -1e-3, 1e-3, 1.0):
            assert objective(step * (np.arange(3) == k)) >= least - rounding
    for logs in np.random.default_rng(0).normal(size=(5, 3)):
        assert objective(logs) > least


def test_a_component_that_a_penalty_removes_within_an_iteration_does_not_raise_the_objective():
    X, mask = counts_of("rank_one"), np.zeros((5, 4), bool)
    mask[[0, 0, 0, 1, 1, 1, 2, 2, 3, 3, 3, 4, 4], [0, 1, 2, 0, 1, 3, 0, 2, 0, 1, 2, 1, 3]] = True
    options = {"alpha_W": 4.1, "alpha_H": 1e-4, "l1_ratio": 0.5, "mask": mask, "background": [0.05, 2.2, 0.1, 0.9]}
    with pytest.warns(UserWarning, match=r"^2 of 3 components carry no counts"):
        solution = fit(X, solver="cd", acceleration=None, max_iter=60, eval_every=1, **options)
    trace = solution.trace["objective"]
    assert (np.diff(trace) <= 64 * EPS * trace.max()).all()


# ── the estimator ───────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "prior", [(2, 1.5), [2.0, 1.0], ([1.0, 2.0, 3.0], [1, 2, 3]), (np.array([1.0, 2.0, 3.0]), np.float32(2.0)), "auto"]
)
def test_a_saved_model_keeps_its_priors_exposures_and_background(prior, planted, tmp_path):
    X, (n, p) = planted[0].astype(float), planted[0].shape
    model = PoissonNMF(3, prior_W=prior, prior_H=(1.1, 2.0), max_iter=5, tol=0, random_state=0)
    model.fit(X, column_exposure=np.linspace(1, 2, p), background=0.1)
    model.save(tmp_path / "model.npz")
    loaded = PoissonNMF.load(tmp_path / "model.npz")
    new = {"row_exposure": np.linspace(1, 3, n), "mask": np.eye(n, p)}
    with pytest.warns(ConvergenceWarning):  # no tolerance can be met that is 0 after five rounds
        np.testing.assert_array_equal(loaded.set_params(tol=1e-9).transform(X, **new),
                                      model.set_params(tol=1e-9).transform(X, **new))  # fmt: skip
    np.testing.assert_array_equal(loaded.column_exposure_, np.linspace(1, 2, p))
    assert loaded.background_ == 0.1


def test_a_fitted_model_does_not_change_with_the_users_arrays(planted):
    X, exposure, shapes = planted[0].astype(float), np.ones(40), np.full(3, 1.5)
    model = PoissonNMF(3, prior_W=(shapes, 1.0), prior_H=(1.5, 1.0), max_iter=50, tol=1e-2, random_state=0)
    model.fit(X, column_exposure=exposure)
    before = model.transform(X)
    exposure[:], shapes[:] = 7.0, 9.0
    np.testing.assert_array_equal(model.transform(X), before)


def test_priors_are_estimator_parameters():
    model = PoissonNMF(3, alpha_H=0.5, l1_ratio=1.0, **GAMMA)
    assert clone(model).get_params()["prior_H"] == GAMMA["prior_H"]
    assert model.set_params(prior_W=None, alpha_W=0.1).get_params()["prior_W"] is None


def test_a_row_that_needs_many_rounds_keeps_its_own_penalty():
    # Nearly collinear components, and a penalty that the exposures make another for each row
    rng = np.random.default_rng(0)
    some = rng.gamma(0.5, size=(3, 60))
    H = np.vstack([some, some[:2] * rng.uniform(0.99, 1.01, (2, 60))])
    X, exposure = rng.poisson(20 * rng.gamma(0.5, size=(40, 5)) @ H).astype(float), 10 ** rng.uniform(-2, 2, 40)
    model = PoissonNMF(5, alpha_W=1e-7, max_iter=1, tol=0, random_state=0, n_threads=1).fit(X)
    model.set_params(max_iter=500, tol=1e-6).components_ = H
    together, gap = model.transform(X, row_exposure=exposure, return_gap_bound=True)
    assert (gap <= 1e-6 * X.sum(axis=1)).all()
    for i in range(0, 40, 7):
        np.testing.assert_array_equal(model.transform(X[[i]], row_exposure=exposure[[i]])[0], together[i])
