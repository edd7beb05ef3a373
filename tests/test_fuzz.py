"""Whatever matrix meets whatever option: refused in a sentence, or a finite fit that never rises and is the oracle's.

120 cases, always the same ones, or 400 with FASTPMF_TESTS=all. FASTPMF_FUZZ=10000 in the environment is that many of
each test, others each time.
"""

import gc
import os
import re
import tracemalloc
import warnings

import naive
import numpy as np
import pytest
from conftest import ALL
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from scipy import sparse
from sklearn.exceptions import ConvergenceWarning

from fastpmf import (
    HPF,
    PoissonNMF,
    differential_expression,
    kl_divergence,
    match_components,
    poisson_deviance,
    poisson_log_likelihood,
    pyldavis_input,
    ranking_scores,
    recommend,
    similar_columns,
    to_topics,
    top_features,
    topic_quality,
)
from fastpmf.fitting.options import NO_PENALTIES, PoissonOptions

MANY = os.environ.get("FASTPMF_FUZZ")
fuzzed = settings(
    derandomize=MANY is None, max_examples=int(MANY or (100 if ALL else 30)), deadline=None, database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)  # fmt: skip

SHAPES = [(1, 1), (1, 7), (7, 1), (3, 4), (20, 15), (50, 8), (8, 50), (2, 200)]
LARGEST = {"bool": 1, "uint8": 255, "int8": 127, "uint16": 2**16 - 1, "int32": 2**31 - 1, "float16": 65000}
WHOLE = ["bool", "uint8", "int8", "uint16", "int32", "int64", "uint64", "float16", "float32", "float64", "object"]
FLOATS = ["float32", "float64"]
FORMATS = ["csr", "csc", "coo", "bsr", "dia", "dok", "lil", "dense", "unsorted", "twice", "zeros", "int64"]
# Everything else must be fitted.
REFUSALS = (
    "at least one positive|can't hold counts|is for solver=|needs n_components <=|"
    "inner_steps must be|infinity|must be finite|has no mode|is unbounded|must be between|must be at most|a rate of 0"
)
# What may also be said where an H is known whose rates, or whose W, a dtype can't hold
OUT_OF_RANGE = "Stopped at a rate|is out of the range of|can't tell from 0 or infinity"


def _values(kind, rng, size):
    """Counts of a kind, and the dtypes that can hold them."""
    match kind:
        case "small":
            return rng.poisson(1.0, size).astype(float), WHOLE
        case "bytes":
            return rng.integers(0, 256, size).astype(float), WHOLE
        case "huge":
            return rng.integers(2**50, 2**53, size).astype(float), ["float64", "int64", "uint64"]
        case "skewed":
            across = np.outer(np.arange(1, size[0] + 1), np.arange(1, size[1] + 1))
            return np.floor(1e4 / across**2), WHOLE
        case "subnormal":
            return 5e-324 * rng.integers(1, 1000, size), ["float64"]
    low, high = {
        "wide": (-8, 8), "wider": (-30, 30), "low": (-125, -20), "high": (20, 125), "outside": (-300, 300),
    }[kind]  # fmt: skip
    return 10.0 ** rng.uniform(low, high, size), FLOATS if kind == "wide" else ["float64"]


@st.composite
def matrices(draw):
    """(X, the same dense in float64)."""
    size, seed = draw(st.sampled_from(SHAPES)), draw(st.integers(0, 2**32 - 1))
    kind = draw(
        st.sampled_from(["small", "bytes", "skewed", "wide", "wider", "huge", "low", "high", "outside", "subnormal"])
    )
    rng = np.random.default_rng(seed)
    values, dtypes = _values(kind, rng, size)
    dtype, form = draw(st.sampled_from(dtypes)), draw(st.sampled_from(FORMATS))
    if kind != "small":
        values *= rng.random(size) < draw(st.sampled_from([0.05, 0.3, 1.0]))
    if draw(st.booleans()):
        values[rng.integers(size[0])] = 0
    if draw(st.booleans()):
        values[:, rng.integers(size[1])] = 0
    A = np.minimum(values, LARGEST.get(dtype, np.inf)).astype(dtype)
    dense = A.astype(float)
    if form == "dense" or dtype in ("object", "float16"):  # which scipy has no formats for
        return A, dense
    if form in ("csr", "csc", "coo", "bsr", "dia", "dok", "lil"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", sparse.SparseEfficiencyWarning)  # of many diagonals
            return getattr(sparse, f"{form}_array")(A), dense
    X = sparse.csr_array(A)
    if form == "twice":
        if dtype == "bool":  # True twice is True
            return X, dense
        X = X.tocoo()
        both = [np.concatenate([part, part]) for part in (X.data, X.row, X.col)]
        return sparse.coo_array((both[0], (both[1], both[2])), shape=size), 2 * dense
    if form == "unsorted":
        for start, stop in zip(X.indptr[:-1], X.indptr[1:], strict=True):
            order = start + rng.permutation(stop - start)
            X.data[start:stop], X.indices[start:stop] = X.data[order], X.indices[order]
        X.has_sorted_indices = False
    elif form == "zeros" and X.nnz:
        X.data[rng.integers(X.nnz)] = 0
        dense = X.toarray().astype(float)
    elif form == "int64":
        X.indices, X.indptr = X.indices.astype(np.int64), X.indptr.astype(np.int64)
    return X, dense


def _some(**options):
    """Each option with one of its values, or not at all."""
    return st.fixed_dictionaries({}, optional={name: st.sampled_from(values) for name, values in options.items()})


ALWAYS = {
    "n_components": st.sampled_from([1, 2, 3, 17]), "max_iter": st.integers(1, 24), "tol": st.sampled_from([0.0, 1e-4]),
    "random_state": st.integers(0, 99), "eval_every": st.just(1), "n_threads": st.sampled_from([1, 2]),
}  # fmt: skip
PENALTIES = st.sampled_from(
    [{}, {}, {}, {"prior_W": "auto", "prior_H": "auto"}, {"prior_H": (1.5, 0.1)}, {"prior_W": (2.0, 1e-3)},
     {"alpha_W": 1e-3, "l1_ratio": 1.0}, {"alpha_W": 10.0, "l1_ratio": 0.5}, {"alpha_H": 0.1, "l1_ratio": 0.0}]
)  # fmt: skip
OPTIONS = st.builds(
    lambda *parts: {name: value for part in parts for name, value in part.items()},
    st.fixed_dictionaries({**ALWAYS, "solver": st.sampled_from(["auto", "mu", "em", "cd"])}), PENALTIES,
    _some(dtype=FLOATS, init=["random", "nndsvd", "nndsvda", "nndsvdar"], n_init=[2], inner_steps=[3],
          acceleration=[None, "extrapolation", "relaxation"]),
)  # fmt: skip
KNOWN = st.sets(
    st.sampled_from(["row_exposure", "column_exposure", "sample_weight", "mask", "background", "fixed_H"]), max_size=2
)


def _known(names, shape, k, seed):
    rng = np.random.default_rng(seed)
    far = rng.choice([3, 3, 3, 40, 300])

    def numbers(*size):
        return 10.0 ** rng.uniform(-far, far, size)

    made = {
        "row_exposure": numbers(shape[0]), "column_exposure": numbers(shape[1]),
        "sample_weight": numbers(shape[0]) * (rng.random(shape[0]) < 0.8), "mask": rng.random(shape) < 0.2,
        "background": numbers(shape[1]), "fixed_H": np.where(rng.random((k, 1)) < 0.5, np.nan, numbers(k, shape[1])),
    }  # fmt: skip
    return {name: made[name] for name in names}


def _bytes(X):
    """All that the user's matrix is made of, copied."""
    if not sparse.issparse(X):
        return [X.copy()]
    if isinstance(X, sparse.dok_array):
        return [np.array(sorted(X.items()), dtype=object)]
    names = ("data", "indices", "indptr", "row", "col", "offsets", "rows")
    return [np.array(getattr(X, name), copy=True) for name in names if hasattr(X, name)]


def _fitted(model, X, **known):
    """What came of it: W, or None and the sentence."""
    before = _bytes(X)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        warnings.filterwarnings("ignore", "Only one of W and H is penalised|.* carry no counts")
        try:
            W, said = model.fit_transform(X, **known), ""
        except (ValueError, TypeError, RuntimeWarning) as error:
            W, said = None, str(error)
    for one, other in zip(before, _bytes(X), strict=True):
        np.testing.assert_array_equal(one, other)
    return W, said


def _asked(call):
    try:
        return call(), ""
    except ValueError as error:
        return None, str(error)


def _check(model, W, dense, n_terms=0):
    H, objective = model.components_, model.trace_["objective"]
    assert np.isfinite(W).all()
    assert np.isfinite(H).all()
    assert (W >= 0).all()
    assert (H >= 0).all()
    assert np.isfinite(objective).all()
    # Rounding is relative to the terms that the objective is a difference of, x log x and the like, and `n_terms` more
    near = 200 * np.finfo(W.dtype).eps
    size = np.abs(objective).max() + 100 * dense.sum() + n_terms
    assert (np.diff(objective) <= near * size).all()
    return near * size


@fuzzed
@given(matrices(), OPTIONS, KNOWN)
def test_any_counts_with_any_options_are_fitted_or_refused_in_a_sentence(pair, options, names):
    X, dense = pair
    known = _known(names, dense.shape, options["n_components"], options["random_state"])
    if "mask" in known:
        known["mask"] &= dense == 0
    model = PoissonNMF(**options)
    W, said = _fitted(model, X, **known)
    if W is None:
        assert re.search(f"{REFUSALS}|{OUT_OF_RANGE}" if "fixed_H" in known else REFUSALS, said), said
        assert "\n" not in said
        event("refused")
        return
    near = _check(model, W, dense * known.get("sample_weight", np.ones(len(dense)))[:, None])
    if not known and PoissonOptions.of(model).penalties == NO_PENALTIES:
        assert model.objective_ == pytest.approx(naive.kl_divergence(dense, W, model.components_), abs=near)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        if "fixed_H" in known:
            warnings.filterwarnings("ignore", f".*({OUT_OF_RANGE})", RuntimeWarning)
        beside = {name: known[name] for name in ("row_exposure", "mask") if name in known}
        again, said = _asked(lambda: model.transform(X, **beside))
    if again is None:
        assert "fixed_H" in known
        assert re.search(OUT_OF_RANGE, said), said
        return
    assert np.isfinite(again).all()
    assert (again >= 0).all()


@fuzzed
@given(
    matrices(), st.fixed_dictionaries(ALWAYS),
    _some(dtype=FLOATS, hierarchy=[False], learn_prior=[False], n_init=[2], init=["nndsvda"]),
)  # fmt: skip
def test_any_counts_have_a_posterior_or_are_refused_in_a_sentence(pair, options, more):
    X, dense = pair
    model = HPF(**options, **more)
    W, said = _fitted(model, X)
    if W is None:
        assert re.search(REFUSALS, said), said
        event("refused")
        return
    _check(model, W, dense, W.size + model.components_.size)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        assert np.isfinite(model.transform(X)).all()
        assert np.isfinite(model.score(X))


@fuzzed
@given(
    matrices(), st.fixed_dictionaries(ALWAYS), _some(dtype=FLOATS), st.sampled_from([PoissonNMF, HPF]),
    st.integers(1, 3),
)  # fmt: skip
def test_any_counts_are_learned_online_or_are_refused_in_a_sentence(pair, options, more, Model, times):
    X, _ = pair
    model, before = Model(**options, **more), _bytes(X)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        warnings.filterwarnings("ignore", ".* carry no counts")
        for _ in range(times):
            _, said = _asked(lambda: model.partial_fit(X))
            if said:
                break
            assert np.isfinite(model.components_).all()
            assert (model.components_ >= 0).all()
        else:
            assert np.isfinite(model.transform(X)).all()
    assert not said or re.search(REFUSALS, said), said
    for one, other in zip(before, _bytes(X), strict=True):
        np.testing.assert_array_equal(one, other)


READERS = {  # of (W, H, X, n); NaN only where a number is -1, for nothing, or where told
    "topics": lambda W, H, X, n: to_topics(W, H),
    "factors": lambda W, H, X, n: to_topics(W, H).to_factors(),
    "mixtures": lambda W, H, X, n: to_topics(W, H).mixtures,
    "likelihoods": lambda W, H, X, n: (to_topics(W, H).joint_log_likelihood(X), poisson_log_likelihood(X, W, H)),
    "divergence": lambda W, H, X, n: (kl_divergence(X, W, H), poisson_deviance(X, W, H)),
    "features": lambda W, H, X, n: top_features(H, n, by="lift")[:2],
    "recommended": lambda W, H, X, n: recommend(W, H, n, exclude=X)[:2],
    "similar": lambda W, H, X, n: similar_columns(H, [0], n)[:2],
    "quality": lambda W, H, X, n: topic_quality(X, H, n, W=W)[3:],
    "scores": lambda W, H, X, n: ranking_scores(X, W, H, n, auc=True),
    "matched": lambda W, H, X, n: match_components(H, np.roll(H, 1, axis=1)),
    "pyldavis": lambda W, H, X, n: list(pyldavis_input(X, W, H).values()),
    "differential": lambda W, H, X, n: differential_expression(X, W, H)[:2],
}

OF_FACTORS = (
    "small enough|two components with any mass|must be at most|out of the range|no feature with less|exclude does"
)


def _numbers(told):
    if hasattr(told, "__dataclass_fields__"):
        told = [getattr(told, name) for name in told.__dataclass_fields__]
    return [np.asarray(x) for x in told] if isinstance(told, tuple | list) else [np.asarray(told)]


@fuzzed
@given(st.integers(0, 2**32 - 1), st.sampled_from(list(READERS)), st.sampled_from([1, 5, 20, 37, 150, 300]))
def test_any_factors_are_read_or_refused_in_a_sentence(seed, name, far):
    rng = np.random.default_rng(seed)
    (n, k, p), dtype = rng.integers(1, 9, 3), np.float64 if far > 37 else rng.choice([np.float32, np.float64])
    W, H = (10.0 ** rng.uniform(-far, far, size) * (rng.random(size) < 0.7) for size in ((n, k), (k, p)))
    W, H, X = W.astype(dtype), H.astype(dtype), rng.poisson(rng.choice([0.2, 50]), (n, p))
    read, said = _asked(lambda: READERS[name](W, H, X, int(rng.integers(1, p + 1))))
    if read is None:
        assert re.search(OF_FACTORS, said), said
        return
    told = _numbers(read)
    nothing = told[0] < 0 if told[0].dtype.kind == "i" else np.zeros(told[0].shape, bool)
    for A in told:
        if A.dtype.kind == "f":
            missing = np.isnan(A)
            assert not missing.any() or (missing == nothing).all()


@pytest.mark.parametrize(
    "fit",
    [PoissonNMF(2, max_iter=3, tol=0, solver="mu"), PoissonNMF(2, max_iter=3, tol=0, solver="cd"),
     HPF(2, max_iter=3, tol=0)],
    ids=["mu", "cd", "hpf"],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_fits_leave_no_memory_behind(fit):
    X = sparse.csr_array(np.random.default_rng(0).poisson(1.0, (300, 200)))

    def held(n):
        for _ in range(n):
            fit.fit(X).transform(X)
        gc.collect()
        return tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    try:
        sizes = [held(n) for n in (5, 20, 20, 20)]
        # Factors alone are 32 KB; NumPy keeps some thousand freed blocks of few bytes for the next arrays. The
        # interpreter's table of interned strings may grow by megabytes, but once only; a leak grows each time.
        assert min(np.diff(sizes)) < 20 * 2000
    finally:
        tracemalloc.stop()
