"""Data beside the counts: fixed parts of the factors, exposures, a background, weights of rows."""

from functools import partial

import fitting
import naive
import numpy as np
import pytest
from conftest import MENAGERIE
from fitting import some_start
from scipy import sparse
from test_solvers import SOLVERS, assert_same_bits

from fastpmf import PoissonNMF, Status

EPS = np.finfo(float).eps
fit = partial(fitting.fit, n_threads=1)
GAMMA = {"prior_W": (1.5, 2.0), "prior_H": (2.0, 1.0)}
priors = pytest.mark.parametrize("prior", [{}, GAMMA], ids=["likelihood", "prior"])
every_solver = pytest.mark.parametrize("solver", SOLVERS)


@pytest.fixture
def X(planted):
    """float64, so that each kernel is compiled once."""
    return planted[0].astype(float)


@pytest.fixture
def known(planted):
    """(fixed_W, fixed_H): one column and one row are fixed, and a quarter of the other entries are zero."""
    _, W, H = planted
    rng = np.random.default_rng(8)
    fixed = []
    for A, k in ((W, 1), (H.T, 0)):
        free = np.full(A.shape, np.nan)
        free[rng.random(A.shape) < 0.25] = 0
        free[:, 2] = np.nan  # so that every count can be explained
        free[:, k] = A[:, k] / 3
        fixed.append(free)
    return fixed[0], fixed[1].T


def uneven(X, seed=9):
    rng = np.random.default_rng(seed)
    return {"row_exposure": 10 ** rng.uniform(-1, 1, X.shape[0]), "column_exposure": rng.gamma(1.0, size=X.shape[1])}


# ── parts of the factors ────────────────────────────────────────────────────────────────────────────────────────


@every_solver
@pytest.mark.parametrize("beside", ["", "exposures and weights", "prior", "background"])
def test_fixed_parts_are_returned_to_the_bit_and_zeros_stay_zero(solver, beside, X, known, unchanged):
    fixed_W, fixed_H = unchanged(*known)
    options = GAMMA if beside == "prior" else {"background": 0.1} if beside == "background" else {}
    if beside == "exposures and weights":
        options = uneven(X) | {"sample_weight": np.linspace(0, 3, 30)}
    solution = fit(X, fixed_W=fixed_W, fixed_H=fixed_H, max_iter=40, **options, **SOLVERS[solver])
    for A, fixed in ((solution.W, fixed_W), (solution.H, fixed_H)):
        there = ~np.isnan(fixed)
        np.testing.assert_array_equal(A[there], fixed[there])
        assert (A[~there] > 0).any()


def test_a_fixed_factor_is_returned_in_the_working_precision(X, known):
    solution = fit(X, fixed_H=known[1], dtype=np.float32, max_iter=5, **uneven(X))
    there = ~np.isnan(known[1])
    np.testing.assert_array_equal(solution.H[there], known[1][there].astype(np.float32))


def test_fixed_zeros_alone_are_those_of_a_start_with_zeros(planted, X):
    # Where a multiplicative update starts at 0 it stays, so that both are the same iterations
    _, W, H = planted
    zero = np.random.default_rng(2).random(W.shape) < 0.3
    zero[:, 0] = False
    pattern, start = np.where(zero, 0, np.nan), np.where(zero, 0, W)
    patterned, started = fit(X, start=(W, H), fixed_W=pattern), fit(X, start=(start, H))
    np.testing.assert_allclose(patterned.W, started.W, rtol=1e-10, atol=1e-12)  # the same sums in another order
    assert patterned.objective == pytest.approx(started.objective, rel=1e-12)


def test_a_fit_with_both_factors_fixed_has_converged_at_once(X, planted):
    _, W, H = planted
    solution = fit(X, fixed_W=W, fixed_H=H, tol=1e-6)
    assert (solution.status, solution.n_iter, solution.kkt_residual) == (Status.CONVERGED, 1, 0.0)
    assert solution.objective == pytest.approx(naive.kl_divergence(X, W, H), rel=1e-12)  # another order of sums


@priors
def test_transform_is_the_fit_with_that_h(prior, X):
    given = uneven(X) | {"background": np.linspace(0, 0.5, 40)}
    model = PoissonNMF(3, max_iter=2000, random_state=0, n_threads=1, **prior)
    model.fit(X, **given)
    mask, row_exposure = np.random.default_rng(1).random(X.shape) < 0.2, given["row_exposure"]
    model.set_params(tol=1e-10)
    V, gap = model.transform(X, row_exposure=row_exposure, mask=mask, return_gap_bound=True)
    solution = fit(X, fixed_H=model.components_, mask=mask, max_iter=3000, tol=1e-10, solver="cd", **given, **prior)
    # The optimum is one point; both are within 1e-10 nats per count of it, and a distance is the root of such a gap
    np.testing.assert_allclose(V, solution.W, rtol=1e-4, atol=1e-4)
    given |= {"mask": mask, "fixed_H": model.components_}
    at = [naive.objective_terms(X, A, model.components_, **given, **prior) for A in (V, solution.W)]
    assert solution.objective == pytest.approx(at[1].sum(), abs=1e4 * EPS * abs(at[1]).sum())
    assert at[0].sum() - at[1].sum() <= gap.sum() + 64 * EPS * abs(at[0]).sum()


# ── exposures and background ────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("options", [{}, {"solver": "cd"}, {"solver": "em"}], ids=["mu", "cd", "em"])
def test_exposures_only_rescale_the_likeliest_factors(options, X):
    given = uneven(X)
    plain, exposed = fit(X, **options), fit(X, **given, **options)
    assert exposed.objective == plain.objective
    np.testing.assert_array_equal(exposed.W, plain.W / given["row_exposure"][:, None])
    np.testing.assert_array_equal(exposed.H, plain.H / given["column_exposure"])


@priors
def test_a_change_of_unit_of_the_exposures_changes_the_unit_of_w_alone(prior, X):
    unit, start = 1024.0, some_start(X.shape)
    exposure = uneven(X)["row_exposure"]
    if prior:  # which is of W in its own unit
        (shape, rate), shifted = prior["prior_W"], {**prior}
        shifted["prior_W"] = (shape, rate * unit)
    one = fit(X, start=start, row_exposure=exposure, **prior)
    other = fit(X, start=(start[0] / unit, start[1]), row_exposure=exposure * unit, **(shifted if prior else {}))
    np.testing.assert_allclose(other.W * unit, one.W, rtol=1e-12)  # the unit is a power of two
    np.testing.assert_allclose(other.H, one.H, rtol=1e-12)


def test_a_background_of_zero_is_none(X):
    start = some_start(X.shape)
    for options in ({}, {"solver": "cd"}, GAMMA):
        plain, zero = fit(X, start=start, **options), fit(X, start=start, background=0, **options)
        assert zero.objective == pytest.approx(plain.objective, rel=1e-12)
        np.testing.assert_allclose(zero.W, plain.W, rtol=1e-9, atol=1e-11)  # 20 times the roundings of other sums


def test_a_background_is_a_fixed_component(X, planted):
    _, W, H = planted
    b = np.linspace(0.0, 0.5, 40)
    fixed_W, fixed_H = np.full((30, 3), np.nan), np.full((3, 40), np.nan)
    fixed_W[:, 2], fixed_H[2] = 1.0, b
    component = fit(X, start=(W, H), fixed_W=fixed_W, fixed_H=fixed_H, solver="cd")
    background = fit(X, 2, start=(W[:, :2], H[:2]), background=b, solver="cd")
    assert component.objective == pytest.approx(background.objective, rel=1e-12)
    np.testing.assert_allclose(component.W[:, :2], background.W, rtol=1e-9, atol=1e-11)  # as above


# ── weights of rows ─────────────────────────────────────────────────────────────────────────────────────────────


@priors
@pytest.mark.parametrize("options", [{}, {"solver": "em"}, {"solver": "cd"}], ids=["mu", "em", "cd"])
def test_a_weight_of_two_is_the_row_twice(options, prior, X, planted):
    _, W, H = planted
    weight = np.ones(30)
    weight[[3, 8]] = 2
    rows = np.append(np.arange(30), [3, 8])
    given = {"background": 0.05, "row_exposure": np.linspace(0.5, 2, 30), **prior, **options}
    once = fit(X, start=(W, H), sample_weight=weight, **given)
    twice = fit(X[rows], start=(W[rows], H), **given | {"row_exposure": given["row_exposure"][rows]})
    assert once.objective == pytest.approx(twice.objective, rel=1e-11)
    np.testing.assert_allclose(once.H, twice.H, rtol=1e-10, atol=1e-11)  # the same sums in another order
    np.testing.assert_allclose(once.W[rows], twice.W, rtol=1e-10, atol=1e-11)
    assert once.kkt_residual == pytest.approx(twice.kkt_residual, rel=1e-6, abs=1e-12)


@pytest.mark.filterwarnings("ignore:.*carry no counts:UserWarning")  # of two rows alone
@pytest.mark.parametrize("case", ["likelihood", "prior", "background", "fixed_W"])
def test_a_row_of_weight_zero_is_not_seen_and_gets_its_w_from_the_fitted_h(case, X, planted, known):
    _, W, H = planted
    some, weight = np.delete(np.arange(30), [0, 7]), np.ones(30)
    weight[[0, 7]] = 0
    given = {"prior": GAMMA, "background": {"background": 0.3}}.get(case, {}) | {"max_iter": 1000, "tol": 1e-9}
    fixed = {"fixed_W": known[0]} if case == "fixed_W" else {}
    seen = {name: A[some] for name, A in fixed.items()}
    exposure = np.linspace(0.5, 2, 30)
    zero = fit(X, start=(W, H), solver="cd", sample_weight=weight, row_exposure=exposure, **given, **fixed)
    less = fit(X[some], start=(W[some], H), solver="cd", row_exposure=exposure[some], **given, **seen)
    # Under priors the units of the start are those of all rows, so that only the ends are the same
    assert zero.objective == pytest.approx(less.objective, abs=1e-8 * X.sum())
    np.testing.assert_allclose(zero.H, less.H, rtol=1e-3, atol=1e-3)
    terms = naive.objective_terms(X, zero.W, zero.H, sample_weight=weight, row_exposure=exposure, **fixed,
                            **{name: given[name] for name in (*GAMMA, "background") if name in given})  # fmt: skip
    assert zero.objective == pytest.approx(terms.sum(), abs=1e4 * EPS * abs(terms).sum())
    rows = {name: A[[0, 7]] for name, A in fixed.items()}
    alone = fit(X[[0, 7]], fixed_H=zero.H, solver="cd", row_exposure=exposure[[0, 7]], **given, **rows)
    np.testing.assert_allclose(zero.W[[0, 7]], alone.W, rtol=1e-3, atol=1e-3)  # to the root of the tolerance


def test_the_weight_of_a_single_row_weighs_its_prior_too():
    X = MENAGERIE["one_row"].astype(float)
    for weight in (0.5, 3.0):
        given = {"sample_weight": [weight], "row_exposure": [2.0]} | GAMMA
        solution = fit(X, 2, **given)
        terms = naive.objective_terms(X, solution.W, solution.H, **given)
        assert solution.objective == pytest.approx(terms.sum(), abs=64 * EPS * abs(terms).sum())


# ── everything together ─────────────────────────────────────────────────────────────────────────────────────────


def everything(X, known):
    rng = np.random.default_rng(6)
    return GAMMA | uneven(X) | {
        "fixed_W": known[0], "fixed_H": known[1], "background": rng.gamma(0.3, size=X.shape[1]),
        "mask": sparse.csr_array(rng.random(X.shape) < 0.2), "sample_weight": rng.choice([0.0, 1.0, 2.5], X.shape[0]),
    }  # fmt: skip


@pytest.mark.parametrize("solver", ["mu", "em", "cd+x"])
def test_one_and_two_threads_give_the_same_bits_with_everything(solver):
    # More rows than the 512 of a block
    rng = np.random.default_rng(0)
    X = sparse.csr_array(rng.poisson(0.3, (1100, 30)) + np.eye(1100, 30))
    fixed_W, fixed_H = np.full((1100, 3), np.nan), np.full((3, 30), np.nan)
    fixed_W[:, 1], fixed_H[0] = rng.gamma(1.0, size=1100), rng.gamma(1.0, size=30)
    given = everything(X, (fixed_W, fixed_H)) | {"max_iter": 14, "eval_every": 5}
    assert_same_bits(*(fitting.fit(X, n_threads=n, **given, **SOLVERS[solver]) for n in (1, 2)))


def test_the_users_arrays_are_never_written(X, known, unchanged):
    given = everything(X, known)
    unchanged(X, *(A for A in given.values() if hasattr(A, "dtype")))
    model = PoissonNMF(3, max_iter=12, tol=0, random_state=0, **{name: given.pop(name) for name in GAMMA})
    model.fit(X, **given)
    model.set_params(tol=1e-3, max_iter=500)
    again = {"row_exposure": given["row_exposure"], "mask": given["mask"]}
    unchanged(model.components_, model.column_exposure_, model.background_)
    model.transform(X, **again)
    model.score(X, **again)


# ── bad input ───────────────────────────────────────────────────────────────────────────────────────────────────

NAN, LACK = np.nan, "leave 30 row.s. of X a rate of 0 under a positive count"
HALF = np.where(np.arange(30)[:, None] < 15, NAN, np.ones((30, 3)))
# (argument, value, how the one sentence begins)
BAD = [
    *((f"prior_{name}", value, message) for name in "WH" for value, message in [
        (3, "must be 'auto', 'sparse' or .shape, rate."), ((1, 2, 3), "must be 'auto', 'sparse' or .shape, rate."),
        (([1, 2], 1), "must be 'auto', 'sparse' or .shape, rate., each a number, one for each of 3 components"),
        *((value, "must be 'auto', 'sparse' or .shape, rate.")
          for value in (("a", 1), ("1.5", 1), (True, 1), (1.5 + 0j, 1), "gamma")),
        ((0.5, 1), "must have shapes >= 1.*got 0.5"), ((NAN, 1), "must have shapes >= 1"),
        ((2, -1), "must have finite rates >= 0, got -1"), ((2, NAN), "must have finite rates >= 0, got nan"),
        ((2, 0), "must have rates > 0 where its shapes are > 1.*no mode"),
    ]),
    *((name, value, "must be a number >= 0") for name in ("alpha_W", "alpha_H", "l1_ratio")
      for value in (-1.0, NAN, np.inf, "a", None, True, [0.1])),
    ("l1_ratio", 1.5, "must be between 0 and 1, got 1.5"),
    *((name, value(n), message) for name, n in (("row_exposure", 30), ("column_exposure", 40), ("sample_weight", 30))
      for value, message in [
        (lambda n: np.ones(n + 1), "must have shape"), (lambda n: np.ones((n, 1)), "must have shape"),
        (lambda n: -1.0, "must be non-negative"), (lambda n: NAN, "must be finite"),
        (lambda n: np.full(n, NAN), "must be finite"),
        (lambda n: -np.ones(n), "must be non-negative"), (lambda n: np.full(n, "a"), "must hold real numbers"),
        (lambda n: sparse.eye_array(n), "must be a dense array"),
    ]),
    ("row_exposure", np.zeros(30), "must be positive, got a minimum of 0; leave out"),
    ("column_exposure", np.zeros(40), "must be positive, got a minimum of 0; leave out"),
    ("sample_weight", np.zeros(30), "must hold at least one positive number"),
    ("background", -1.0, "must be non-negative"), ("background", NAN, "must be finite"),
    ("background", np.ones(41), "must have shape"), ("background", "a", "must hold real numbers"),
    *((f"fixed_{name}", value if name == "W" else np.ones((3, 40)) * value[:3, :1], message) for name in "WH"
      for value, message in [
        (-np.ones((30, 3)), "must be non-negative"), (np.full((30, 3), np.inf), "must be finite"),
    ]),
    ("fixed_W", np.ones((30, 2)), "must have shape .30, 3., got .30, 2."),
    ("fixed_H", np.ones((40, 3)), "must have shape .3, 40., got .40, 3."),
    ("fixed_H", np.full((3, 40), "a"), "must hold real numbers and NaN"),
    ("fixed_W", HALF, "must be wholly fixed, or NaN except for zeros, in each column; column 0 has both"),
    ("fixed_H", np.r_[[[NAN] * 40], [[NAN, 1.0] * 20], [[NAN] * 40]], "must be wholly fixed, .*; row 1 has both"),
    ("fixed_W", np.zeros((30, 3)), f"and fixed_H {LACK}"),
    ("fixed_H", np.zeros((3, 40)), f"^fixed_W and fixed_H {LACK}"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "value", "message"), BAD, ids=[f"{name}-{i}" for i, (name, *_) in enumerate(BAD)])
def test_invalid_arguments_are_named_in_one_sentence(name, value, message, X):
    pattern = message if message.startswith("^") else f"^{name} {message}"
    with pytest.raises((ValueError, TypeError), match=pattern) as caught:
        fit(X, **{name: value})
    assert "\n" not in str(caught.value)


def test_a_prior_and_a_penalty_of_one_factor_are_refused(X):
    for name in "WH":
        with pytest.raises(ValueError, match=f"^prior_{name} and alpha_{name} both penalise {name}: give"):
            fit(X, **{f"prior_{name}": (1, 1), f"alpha_{name}": 0.1})


def test_a_penalty_of_one_factor_alone_gives_a_warning(X):
    with pytest.warns(UserWarning, match="^Only one of W and H is penalised"):
        fit(X, alpha_W=0.1, alpha_H=0.0, max_iter=1)
    fit(X, alpha_W=0.1, alpha_H=0.0, fixed_H=np.ones((3, 40)), max_iter=1)  # H is fixed: no warning


def test_a_prior_without_a_mode_is_refused_if_a_fixed_component_is_zero(X):
    H = np.ones((3, 40))
    H[1] = 0
    with pytest.raises(ValueError, match=r"^prior_W must have rates > 0 where .* fixed at zero"):
        fit(X, fixed_H=H, prior_W=(2.0, 0.0))


def test_a_posterior_that_grows_along_single_entries_is_refused(X):
    shape, rate = np.full((30, 2), 1.5), np.ones((30, 2))
    rate[:5] = 0
    with pytest.raises(ValueError, match=r"^prior_W must have rates > 0 where its shapes are > 1"):
        fit(X, 2, prior_W=(shape, rate), prior_H=(1.0, 1.0))  # W of five rows may grow without end, with H near 0
    fit(X, 2, prior_W=(shape, rate), prior_H=(1.1, 1.0))  # 0.1 of 40 columns exceed 0.5 of 5 rows
    fit(X, 2, prior_W=(1.4, 0.0), prior_H=(1.3, 0.0), max_iter=1)  # 0.4 of 30 rows are 0.3 of 40 columns
    fit(X, 1, prior_W=(shape[:, :1], rate[:, :1]), prior_H=(1.0, 1.0))  # rates of other rows would be 0
    with pytest.raises(ValueError, match=r"^prior_H must have rates > 0 where its shapes are > 1"):
        fit(X.T, 2, prior_H=(shape.T, rate.T), prior_W=(1.0, 1.0))


def test_a_posterior_that_grows_as_effects_of_groups_fall_is_refused(X):
    groups = np.arange(30) % 2
    for name, weak, strong in (("prior_H", 3.0, 12.0), ("prior_W", 1.2, 20.0)):
        other = "prior_W" if name == "prior_H" else "prior_H"
        options = {other: (60.0, 1.0), "groups": groups, "max_iter": 5}
        fit(X, 2, **{name: (weak, 0.0)}, **options)
        with pytest.raises(ValueError, match=f"^{name} must have rates > 0 .*, or prior_groups must be larger"):
            fit(X, 2, **{name: (strong, 0.0)}, **options)
        fit(X, 2, **{name: (strong, 1e-3)}, **options)
    for hidden in ({"background": 0.1}, {"fixed_H": np.vstack([np.ones(40), np.full((2, 40), np.nan)])}):
        given = {"prior_W": (60.0, 1.0), "groups": groups, "max_iter": 5, **hidden}
        fit(X, 3, prior_H=(3.0, 0.0), **given)
        with pytest.raises(ValueError, match="or prior_groups must be larger"):
            fit(X, 3, prior_H=(20.0, 0.0), **given)


@pytest.mark.parametrize(
    "given", [{"row_exposure": np.zeros(30)}, {"mask": np.ones((30, 41))}], ids=lambda given: [*given]
)
def test_new_rows_are_checked_as_in_a_fit(given, X):
    model = PoissonNMF(2, max_iter=5, tol=0, random_state=0).fit(X)
    for method in (model.transform, model.score):
        with pytest.raises(ValueError, match=f"^{next(iter(given))} must"):
            method(X, **given)
