"""The search at the start of a fit: more components, merged, and rounds that replace some."""

import numpy as np
import pytest
from naive import kl_divergence
from scipy import sparse

import fastpmf
from fastpmf import HPF, Checkpoint, FitInterrupted, PoissonNMF, StreamedCounts, as_counts, poisson_nmf
from fastpmf.core.factors import padded
from fastpmf.datasets import make_poisson_counts
from fastpmf.fitting.fit import PoissonFit
from fastpmf.fitting.hpf import smooth
from fastpmf.fitting.options import NO_DATA, NO_PENALTIES, FitData, Penalties
from fastpmf.fitting.problem import build_problem
from fastpmf.model.merging import merge, merge_costs, new_components, put_components
from fastpmf.solvers import Extrapolated, FactorState, make_solver
from fastpmf.solvers.clock import Clock
from fastpmf.solvers.component_search import ComponentSearch, merged_down, past_warm_up

DOUBLE = np.dtype(np.float64)


@pytest.fixture(scope="module")
def topics():
    return make_poisson_counts(300, 200, 8, nnz=20_000, random_state=1).X


def random_factors(n=30, p=20, k=4, seed=0):
    rng = np.random.default_rng(seed)
    return [padded(rng.gamma(0.5, size=(rows, k)), DOUBLE) for rows in (n, p)]


def product(factors, components):
    return factors[0][:, components] @ factors[1][:, components].T


def test_merge_gives_the_best_component_in_place_of_two():
    factors = random_factors()
    both = product(factors, [1, 2])
    merge(factors, 1, 2)
    w, h = (A[:, [1]] for A in factors)
    np.testing.assert_allclose(w.sum() * h.sum(), both.sum(), rtol=1e-13)
    best, rng = kl_divergence(both, w, h.T), np.random.default_rng(1)
    for _ in range(20):
        other = (A * np.exp(0.1 * rng.standard_normal(A.shape)) for A in (w, h.T))
        assert kl_divergence(both, *other) > best


def jensen_shannon(p, q, m, n):
    """The divergence of the two normalised columns from their mean, times the mass; nats."""
    mean = (m * p + n * q) / (m + n)
    return sum(mass * np.sum(a * np.log(a / mean)) for a, mass in ((p, m), (q, n)))


def test_costs_of_merging_are_near_the_jensen_shannon_divergence_of_the_nearer_side():
    factors = random_factors(k=3)
    costs = merge_costs(factors, np.arange(3))
    W, Ht = (A[:, :3] for A in factors)
    mass = W.sum(axis=0) * Ht.sum(axis=0)
    for a, b in ((0, 1), (0, 2), (1, 2)):
        exact = min(jensen_shannon(A[:, a] / A[:, a].sum(), A[:, b] / A[:, b].sum(), mass[a], mass[b]) for A in (W, Ht))
        # The ratio of the two is between 1 and 1 / log 2, that for columns without overlap and equal mass
        assert exact <= costs[a, b] * 1.001
        assert costs[a, b] <= exact / np.log(2) * 1.1
    assert costs == pytest.approx(costs.T)


def test_the_costs_of_merging_equal_components_are_zero():
    factors = random_factors()
    for A in factors:
        A[:, 3] = 2 * A[:, 1]
    assert merge_costs(factors, np.arange(4))[1, 3] == pytest.approx(0, abs=1e-12)


def test_components_that_were_split_are_merged_again():
    factors = random_factors()
    rate = product(factors, range(4))
    counts = as_counts(np.random.default_rng(0).poisson(100 * rate))
    for A in factors:
        A *= 10
    problem, rate = build_problem(counts, 4, DOUBLE, NO_PENALTIES, NO_DATA), 100 * rate
    wide = problem.extended(2, 0, 8)
    split = [padded(A[:, [0, 1, 2, 3, 1, 3]], DOUBLE) for A in factors]
    split[0][:, [1, 4, 3, 5]] *= [0.3, 0.7, 0.5, 0.5]
    state = FactorState(split, [A.sum(axis=0) for A in split], np.ones(8))
    merged = merged_down(problem, wide, state, problem.interchangeable, exact=True)
    np.testing.assert_allclose(product(merged, range(4)), rate, rtol=1e-12)


def test_new_components_are_for_rows_that_are_fitted_badly():
    rng = np.random.default_rng(0)
    X = rng.poisson(2.0, size=(50, 30))
    X[7, 11] = 500
    counts = as_counts(X)
    factors = [padded(X.mean(axis=1)[:, None], DOUBLE), padded(X.mean(axis=0)[:, None] / X.mean(), DOUBLE)]
    W, Ht = new_components(counts, factors, 1, rng)
    assert Ht[:, 0].argmax() == 11
    np.testing.assert_allclose([W.sum(), Ht.sum()], 1)


def test_appended_components_do_not_change_the_total_rate():
    W, Ht = random_factors(k=5)
    factors = [np.pad(A[:, :5], [(0, 0), (0, 3)]) for A in (W, Ht)]
    total = factors[0].sum(axis=0) @ factors[1].sum(axis=0)
    new = tuple(np.full((len(A), 2), 1 / len(A)) for A in factors)
    put_components(factors, np.array([5, 6]), new, np.arange(5))
    assert factors[0].sum(axis=0) @ factors[1].sum(axis=0) == pytest.approx(total)
    assert (factors[0][:, 5:7] > 0).all()


def test_fits_end_in_the_same_optimum_where_those_from_random_starts_do_not(topics):
    def objectives(init):
        return np.array([poisson_nmf(topics, 6, init=init, random_state=seed).objective for seed in range(5)])

    merged, random = objectives("merge"), objectives("random")
    np.testing.assert_allclose(merged, merged[0], rtol=1e-5)  # each within tol, 1e-4 nats per count, of its optimum
    assert merged.max() < random.min()


def test_the_default_is_to_merge_with_coordinate_descent(topics):
    def fit(**options):
        return poisson_nmf(topics, 4, max_iter=100, random_state=0, **options).trace

    np.testing.assert_array_equal(fit()["objective"], fit(init="merge")["objective"])
    np.testing.assert_array_equal(fit(solver="mu")["objective"], fit(solver="mu", init="random")["objective"])


@pytest.mark.parametrize("solver", ["cd", "mu", "em"])
def test_iterations_of_the_search_count_and_no_record_is_higher_than_the_one_before(topics, solver):
    solution = poisson_nmf(topics, 6, init="merge", solver=solver, max_iter=150, tol=0, random_state=0)
    trace = solution.trace
    assert solution.n_iter == 150
    assert (np.diff(trace["n_iter"]) > 0).all()
    assert trace["n_iter"][1] == 25
    assert set(trace["n_iter"][trace["n_iter"] <= 70]) <= {0, 25, 40, 55, 70}  # no record of a round that was undone
    assert (np.diff(trace["objective"]) <= 1e-6 * trace["objective"][1:]).all()  # float32
    assert (np.diff(trace["seconds"]) >= 0).all()


def test_with_few_components_random_starts_compete_with_the_merged_ones(topics, monkeypatch):
    drawn = []
    monkeypatch.setattr(PoissonFit, "_start", lambda self, start=PoissonFit._start: drawn.append(1) or start(self))
    options = {"init": "merge", "random_state": 0, "tol": 0}
    poisson_nmf(topics, 4, max_iter=400, **options)
    assert len(drawn) == 1 + 4
    drawn.clear()
    poisson_nmf(topics, 11, max_iter=400, **options)  # more than ten components
    poisson_nmf(topics, 4, max_iter=180, **options)  # of 90 iterations, 45 are for the rounds, 25 for merging
    assert len(drawn) == 2


def test_the_search_takes_at_most_half_of_the_iterations(topics):
    def trace(max_iter, init="merge"):
        return poisson_nmf(topics, 6, init=init, max_iter=max_iter, tol=0, random_state=0).trace

    np.testing.assert_array_equal(trace(40)["objective"], trace(40, "random")["objective"])
    assert trace(100)["n_iter"][:4].tolist() == [0, 25, 40, 50]


@pytest.mark.parametrize("n_threads", [1, 2])
def test_the_result_does_not_depend_on_the_number_of_threads(topics, n_threads):
    solution = poisson_nmf(topics, 6, init="merge", max_iter=160, random_state=0, n_threads=n_threads)
    expected = poisson_nmf(topics, 6, init="merge", max_iter=160, random_state=0)
    np.testing.assert_array_equal(solution.H, expected.H)


def test_fixed_components_stay_and_are_not_merged(topics):
    rng = np.random.default_rng(0)
    fixed = np.full((5, 200), np.nan)
    fixed[1], fixed[3] = rng.gamma(1.0, size=(2, 200))
    model = PoissonNMF(5, init="merge", random_state=0).fit(
        topics, fixed_H=fixed, background=np.full(200, 1e-3), row_exposure=rng.uniform(0.5, 2, 300)
    )
    np.testing.assert_array_equal(model.components_[[1, 3]], fixed[[1, 3]].astype(model.components_.dtype))
    data = FitData(fixed_H=fixed)
    problem = build_problem(as_counts(topics), 5, DOUBLE, NO_PENALTIES, data)
    assert problem.interchangeable.tolist() == [0, 2, 4]


def test_only_components_with_equal_priors_are_interchangeable(topics):
    penalties = Penalties(prior_W=(1.5, 0.1), prior_H=([1.1, 1.1, 1.2, 1.1], 0.5))
    problem = build_problem(as_counts(topics), 4, DOUBLE, penalties, NO_DATA)
    assert problem.interchangeable.tolist() == [0, 1, 3]
    wide = problem.extended(2, 0, 8)
    np.testing.assert_allclose(wide.terms[1].shape[0, :6], [0.1, 0.1, 0.2, 0.1, 0.1, 0.1], rtol=1e-7)
    solution = poisson_nmf(topics, 4, prior_W=(1.5, 0.1), prior_H=([1.1, 1.1, 1.2, 1.1], 0.5), random_state=0)
    assert np.isfinite(solution.objective)


def test_masks_are_respected(topics):
    rng = np.random.default_rng(0)
    mask = sparse.random_array((300, 200), density=0.05, rng=rng, format="csr")
    merged, random = (
        poisson_nmf(topics, 8, init=init, mask=mask, random_state=0, tol=1e-5) for init in ("merge", "random")
    )
    assert np.isfinite(merged.objective)
    assert merged.objective < 1.01 * random.objective


def test_one_component_needs_no_search(topics):
    one, other = (poisson_nmf(topics, 1, init=init, random_state=0) for init in ("merge", "random"))
    assert one.objective == other.objective


def test_ctrl_c_in_the_search_keeps_the_factors_of_the_last_record(topics):
    records = []

    def callback(record, W, H):
        records.append(record)
        if len(records) == 3:
            raise KeyboardInterrupt

    with pytest.raises(FitInterrupted) as interrupted:
        poisson_nmf(topics, 11, init="merge", random_state=0, callback=callback)  # without other starts
    solution = interrupted.value.solution
    assert solution.n_iter == 40
    assert solution.objective == pytest.approx(records[-1].objective, rel=1e-6)


def test_a_callback_can_stop_the_search(topics):
    solution = poisson_nmf(topics, 6, init="merge", random_state=0, callback=lambda record, W, H: record.n_iter > 0)
    assert solution.status.name == "CALLBACK"
    assert solution.n_iter == 25


def test_max_time_ends_the_search(topics):
    solution = poisson_nmf(topics, 6, init="merge", random_state=0, max_time=0, tol=0)
    assert solution.status.name == "MAX_TIME"
    assert solution.n_iter < 25


def streamed(topics, *, by_column=False):
    stored = sparse.csr_array(topics.T if by_column else topics)
    blocks = [stored[i : i + 50] for i in range(0, stored.shape[0], 50)]
    return StreamedCounts(lambda: blocks, by_column=by_column)


@pytest.mark.parametrize("by_column", [False, True], ids=["rows", "columns"])
def test_streamed_fits_end_lower_from_a_search_which_is_the_default(topics, by_column):
    def fits(**options):
        return [poisson_nmf(counts, 6, max_iter=200, random_state=seed, **options) for seed in range(3)]

    counts = streamed(topics, by_column=by_column)
    merged, default, random = fits(init="merge"), fits(), fits(init="random")
    assert [fit.objective for fit in merged] == [fit.objective for fit in default]
    assert np.median([fit.objective for fit in merged]) < np.median([fit.objective for fit in random])


@pytest.mark.parametrize("storage", [as_counts, streamed], ids=["memory", "streamed"])
def test_the_bound_of_hpf_is_higher_from_a_search_which_is_the_default(topics, storage):
    def bounds(**options):
        return [HPF(6, max_iter=200, tol=0, random_state=seed, **options).fit(counts).elbo_ for seed in range(3)]

    counts = storage(topics)
    merged = bounds(init="merge")
    assert merged == bounds()
    assert np.median(merged) > np.median(bounds(init="random"))


def test_smoothed_factors_keep_their_sums_and_have_no_zeros_in_rows_with_counts():
    factors = random_factors()
    factors[0][:, 1], factors[0][3], factors[1][::2, 0] = 0, 0, 0
    mass = np.sqrt(factors[0].sum(axis=0) * factors[1].sum(axis=0))
    scaled = [A * np.divide(mass, A.sum(axis=0), where=mass > 0, out=np.zeros(len(mass))) for A in factors]
    smooth(*factors)
    for A, before in zip(factors, scaled, strict=True):
        np.testing.assert_allclose(A.sum(axis=0), mass, rtol=1e-13)
        np.testing.assert_allclose(A.sum(axis=1), before.sum(axis=1), rtol=1e-13)
        np.testing.assert_array_equal(A[:, [0, 2, 3]] > 0, before.any(axis=1)[:, None] & np.ones(3, bool))


def test_the_iterations_of_hpf_begin_after_its_search(topics):
    model = HPF(6, max_iter=60, tol=0, random_state=0).fit(topics)
    assert model.n_iter_ == 60
    assert model.trace_["n_iter"].tolist() == list(range(0, 61, 10))
    none, random = (HPF(6, max_iter=40, tol=0, random_state=0, init=init).fit(topics) for init in ("auto", "random"))
    np.testing.assert_array_equal(none.components_, random.components_)


def test_hpf_refuses_starts_from_given_factors(topics):
    for init in ("grow", "custom"):
        with pytest.raises(ValueError, match=f"^init must be one of 'auto', 'merge', .*, got '{init}'"):
            HPF(3, init=init).fit(topics)


def test_ctrl_c_in_the_search_of_hpf_leaves_the_estimator_unchanged(topics, monkeypatch):
    model = HPF(6, random_state=0).fit(topics)
    before = model.components_
    monkeypatch.setattr(Extrapolated, "step", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt, match="nothing is kept") as interrupted:
        model.fit(topics)
    assert not isinstance(interrupted.value, FitInterrupted)
    assert model.components_ is before


def test_max_time_includes_the_searches_of_all_starts_of_hpf(topics, monkeypatch):
    real, seconds = ComponentSearch.apply, []

    def measured(self, run, *args):
        seconds.append(run.seconds)
        real(self, run, *args)
        seconds.append(run.seconds)

    monkeypatch.setattr(ComponentSearch, "apply", measured)
    model = HPF(6, n_init=2, max_iter=60, tol=0, random_state=0).fit(topics)
    assert len(seconds) == 4
    assert seconds == sorted(seconds)  # the second goes on where the first ended
    assert model.trace_["seconds"][0] >= seconds[1]


def test_max_time_includes_the_search_of_hpf(topics, monkeypatch):
    seconds = 0.0

    def advance(self):
        nonlocal seconds
        seconds += 1.0
        return seconds

    monkeypatch.setattr(Clock, "seconds", advance)
    model = HPF(6, random_state=0, tol=0, max_time=5.0).fit(topics)
    assert (model.status_.name, model.n_iter_) == ("MAX_TIME", 1)


def test_several_starts_are_all_searched(topics):
    solution = poisson_nmf(topics, 6, init="merge", n_init=3, random_state=0)
    assert len(solution.restarts) == 3
    # The first start is that of n_init=1
    assert solution.objective <= poisson_nmf(topics, 6, init="merge", random_state=0).objective * 1.01


def test_the_memory_of_the_search_is_estimated():
    size = (10_000, 2_000), 300_000, 20
    assert fastpmf.plan(*size).factor_bytes > fastpmf.plan(*size, init="random").factor_bytes
    assert fastpmf.plan(*size) == fastpmf.plan(*size, init="merge")


def test_a_fit_grows_from_one_with_fewer_components(topics):
    small = poisson_nmf(topics, 4, random_state=0)
    grown = poisson_nmf(topics, 6, init="grow", W=small.W, H=small.H, random_state=0)
    assert grown.W.shape == (300, 6)
    assert grown.objective < small.objective
    assert len(grown.dead_components) == 0
    # Not higher than the median of random starts
    random = [poisson_nmf(topics, 6, init="random", random_state=seed).objective for seed in range(3)]
    assert grown.objective <= np.median(random)


def test_growing_keeps_fixed_components(topics):
    fixed = np.full((300, 5), np.nan)
    fixed[:, 4] = 1
    small = poisson_nmf(topics, 3, random_state=0)
    grown = poisson_nmf(topics, 5, init="grow", W=small.W, H=small.H, fixed_W=fixed, random_state=0)
    np.testing.assert_array_equal(grown.W[:, 4], 1)
    assert len(grown.dead_components) == 0


def test_growing_needs_a_component_that_is_not_zero(topics):
    with pytest.raises(ValueError, match=r"^init='grow' needs a component of W and H that is not zero"):
        poisson_nmf(topics, 5, init="grow", W=np.zeros((300, 3)), H=np.ones((3, 200)))


def fits_of(W, H):
    """Arguments of a fit that shrinks from these factors."""
    return {"init": "shrink", "W": W, "H": H, "random_state": 0}


@pytest.mark.parametrize("solver", ["cd", "mu"])
def test_a_fit_shrinks_from_one_with_more_components(topics, solver):
    large = poisson_nmf(topics, 9, solver=solver, random_state=0)
    W, H = large.W.copy(), large.H.copy()
    small = poisson_nmf(topics, 6, solver=solver, **fits_of(large.W, large.H))
    np.testing.assert_array_equal(large.W, W)  # not written to
    np.testing.assert_array_equal(large.H, H)
    assert small.W.shape == (300, 6)
    assert len(small.dead_components) == 0
    # Merging ends where the search does, which ends below all random starts, see above
    random = [poisson_nmf(topics, 6, solver=solver, init="random", random_state=seed).objective for seed in range(3)]
    assert small.objective < min(random)


def test_shrinking_merges_components_that_were_split(topics):
    small = poisson_nmf(topics, 4, random_state=0, dtype="float64")
    split = np.array([0, 1, 2, 3, 0, 2])
    W = small.W[:, split] * [0.3, 1, 0.5, 1, 0.7, 0.5]
    again = poisson_nmf(topics, 4, dtype="float64", max_iter=1, tol=0, **fits_of(W, small.H[split]))
    assert again.trace["objective"][0] == pytest.approx(small.objective, rel=1e-12)


def test_shrinking_keeps_fixed_components_and_a_background(topics):
    rng = np.random.default_rng(0)
    fixed = np.full((4, 200), np.nan)
    fixed[1] = rng.gamma(1.0, size=200)
    large = poisson_nmf(topics, 7, random_state=0)
    data = {"fixed_H": fixed, "background": np.full(200, 1e-3), "row_exposure": rng.uniform(0.5, 2, 300)}
    small = poisson_nmf(topics, 4, **data, **fits_of(large.W, large.H))
    np.testing.assert_array_equal(small.H[1], fixed[1].astype(small.H.dtype))
    assert len(small.dead_components) == 0
    assert small.objective < 1.01 * poisson_nmf(topics, 4, **data, random_state=0).objective


def test_shrinking_respects_masks_and_priors(topics):
    mask = sparse.random_array((300, 200), density=0.05, rng=np.random.default_rng(0), format="csr")
    data = {"mask": mask, "prior_W": (1.5, 0.1), "prior_H": "auto"}
    large = poisson_nmf(topics, 8, random_state=0, **data)
    small = poisson_nmf(topics, 5, **data, **fits_of(large.W, large.H))
    # Fits from different seeds differ by as much here
    assert small.objective < 1.006 * poisson_nmf(topics, 5, random_state=0, **data).objective


def test_shrinking_from_factors_of_other_counts_replaces_zeros(topics):
    W, H = np.ones((300, 3)), np.ones((3, 200))
    H[:, np.flatnonzero(topics.sum(axis=0))[0]] = 0
    with pytest.warns(UserWarning, match="the zeros there were replaced"):
        solution = poisson_nmf(topics, 2, **fits_of(W, H))
    assert np.isfinite(solution.objective)


def test_streamed_counts_shrink_by_similarity(topics, tmp_path):
    fastpmf.io.write_counts(tmp_path / "counts", topics)
    streamed = fastpmf.io.stream_counts(tmp_path / "counts", block_entries=5_000)
    large = poisson_nmf(topics, 8, random_state=0)
    small = poisson_nmf(streamed, 5, **fits_of(large.W, large.H))
    assert small.objective < 1.01 * poisson_nmf(topics, 5, random_state=0).objective


@pytest.mark.parametrize(
    ("k", "options", "sentence"),
    [
        (3, {}, r"W must have at least 4 columns with init='shrink' and n_components=3, got shape \(300, 3\)"),
        (2, {"fixed_H": np.ones((2, 200))}, "init='shrink' needs a component that has no fixed entries"),
        (2, {"n_init": 2}, "n_init must be 1 with init='shrink', got 2"),
    ],
)
def test_shrinking_raises_a_clear_error(topics, k, options, sentence):
    with pytest.raises(ValueError, match=f"^{sentence}"):
        poisson_nmf(topics, k, **options, **fits_of(np.ones((300, 3)), np.ones((3, 200))))


@pytest.mark.parametrize(
    "prior", [{"prior_W": (1.5, 0.1), "prior_H": (1.1, 0.5)}, {"alpha_W": 1e-3, "l1_ratio": 1.0}, {"alpha_W": 1e-3}],
    ids=["shape", "rate", "ridge"],
)  # fmt: skip
def test_priors_that_depend_on_the_row_are_extended(topics, prior):
    rng = np.random.default_rng(0)
    data = {"sample_weight": rng.uniform(0.5, 2, 300), "row_exposure": rng.uniform(0.5, 2, 300)}
    merged, random = (
        poisson_nmf(topics, 6, init=init, random_state=0, **data, **prior) for init in ("merge", "random")
    )
    assert merged.objective < 1.001 * random.objective


@pytest.mark.parametrize(("step", "n_iter"), [(10, 9), (28, 25), (45, 40)])
def test_ctrl_c_within_a_step_of_the_search_keeps_what_was_fitted(topics, monkeypatch, tmp_path, step, n_iter):
    n_steps, real = 0, Extrapolated.step

    def interrupted(self, problem, state):
        nonlocal n_steps
        n_steps += 1
        if n_steps == step:
            raise KeyboardInterrupt
        real(self, problem, state)

    monkeypatch.setattr(Extrapolated, "step", interrupted)
    checkpoint = Checkpoint(tmp_path, iterations=1)
    model = PoissonNMF(11, init="merge", random_state=0)  # without other starts
    with pytest.raises(FitInterrupted):
        model.fit(topics, checkpoint=checkpoint)
    assert model.n_iter_ == n_iter
    assert np.isfinite(model.objective_)
    assert not list(tmp_path.iterdir())


def test_a_fit_resumes_from_the_end_of_the_search(topics, tmp_path):
    def fitted(**options):
        return PoissonNMF(6, init="merge", tol=0, max_iter=150, random_state=0).set_params(**options)

    whole = fitted().fit(topics)

    def stop(record, W, H):
        return record.n_iter >= 80

    fitted(callback=stop).fit(topics, checkpoint=Checkpoint(tmp_path, iterations=1))
    resumed = fitted().fit(topics, resume=tmp_path)
    np.testing.assert_array_equal(resumed.components_, whole.components_)


def test_max_time_is_that_of_all_starts(topics, monkeypatch):
    seconds = 0.0

    def advance(self):
        nonlocal seconds
        seconds += 1.0
        return seconds

    monkeypatch.setattr(Clock, "seconds", advance)
    solution = poisson_nmf(topics, 6, init="merge", n_init=5, max_time=20.0, tol=0, random_state=0)
    assert solution.status.name == "MAX_TIME"
    assert len(solution.restarts) == 1  # the others are not begun


def test_the_search_ends_once_the_fit_has_converged(topics):
    assert poisson_nmf(topics, 6, init="merge", tol=0.5, random_state=0).n_iter <= 26


def test_growing_keeps_exposures_and_a_background(topics):
    exposure, background = np.random.default_rng(0).uniform(0.5, 2, 300), np.full(200, 0.01)
    options = {"row_exposure": exposure, "background": background, "random_state": 0}
    small = poisson_nmf(topics, 5, **options)
    grown = poisson_nmf(topics, 8, init="grow", W=small.W, H=small.H, **options)
    assert grown.objective < small.objective
    assert np.isfinite(grown.W @ grown.H).all()


@pytest.mark.parametrize(
    ("W", "H", "message"),
    [
        (None, None, "^init='grow' needs both W and H"),
        (np.ones((300, 4)), np.ones((4, 200)), "^W must have from 1 to 3 columns with init='grow' and n_components=4"),
        (np.ones((300, 2)), np.ones((3, 200)), r"^H must have shape \(2, 200\)"),
    ],
)
def test_growing_needs_factors_with_fewer_components(topics, W, H, message):
    with pytest.raises(ValueError, match=message):
        poisson_nmf(topics, 4, init="grow", W=W, H=H)


def test_making_solvers_past_their_warm_up_keeps_the_rest():
    solver = past_warm_up(make_solver("cd", "auto", inner_steps=2))
    assert (solver.solver.warm_up, solver.solver.inner_steps, solver.extrapolates) == (0, 2, True)
