"""Fits over the workers of a Dask cluster: the results of one machine, also if workers are lost."""

import gc
import os
import re
import signal
import warnings
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numba
import numpy as np
import pytest
from scipy import sparse

import fastpmf
from fastpmf import StreamedCounts
from fastpmf.io import write_counts

dask = pytest.importorskip("dask")
distributed = pytest.importorskip("distributed")
array = pytest.importorskip("dask.array")

from fastpmf.dask import HPF, PoissonNMF, exchange, local_cluster, worker  # noqa: E402
from fastpmf.dask.pool import WorkerPool  # noqa: E402

WORKERS = 3
THREADS = os.environ.get("NUMBA_NUM_THREADS")
# Partial sums differ by rounding, about 1e-16 of them, in each iteration
CLOSE = {"rtol": 1e-10, "atol": 1e-12}
OPTIONS = {"random_state": 0, "max_iter": 8, "tol": 0, "eval_every": 4}
pytestmark = [
    # tol=0 is never reached
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),
    # Sockets of distributed that a killed worker leaves open
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(scope="module")
def cluster():
    with local_cluster(WORKERS, silence_logs="CRITICAL") as cluster:
        yield cluster


@pytest.fixture
def client(cluster):
    """A client of all workers; those that an earlier test killed have been replaced."""
    with distributed.Client(cluster) as client:
        client.wait_for_workers(WORKERS, timeout=60)
        yield client


@pytest.fixture(scope="module")
def X():
    """120 x 40 counts of three components that hardly overlap, so that fits converge quickly; float64, as `CLOSE`."""
    rng = np.random.default_rng(3)
    H = np.full((3, 40), 0.02)
    for z in range(3):
        H[z, z * 13 : z * 13 + 14] = rng.gamma(2.0, size=14)
    return sparse.csr_array(rng.poisson(rng.gamma(0.5, size=(120, 3)) @ H).astype(float))


def blocks_of(X, count):
    return [X[rows[0] : rows[-1] + 1] for rows in np.array_split(np.arange(X.shape[0]), count)]


def delayed(X, count):
    return [dask.delayed(block) for block in blocks_of(X, count)]


def chunked(X, count):
    parts = [array.from_delayed(d, (n, X.shape[1]), X.dtype) for d, n in zip(
        delayed(X, count), [b.shape[0] for b in blocks_of(X, count)], strict=True)]  # fmt: skip
    return array.concatenate(parts)


def streamed(X):
    return StreamedCounts(lambda: blocks_of(X, 4))


def n_stored(client):
    """Number of fits that workers store, summed over the workers."""
    return sum(client.run(lambda: len(worker.fits)).values())


def killer(client, which, at=5):
    """A callback that kills these of the workers, by number, at an iteration."""
    pids = client.run(os.getpid)

    def callback(record):
        if record.n_iter == at:
            for address in sorted(pids)[which]:
                os.kill(pids[address], signal.SIGKILL)

    return callback


@pytest.mark.parametrize(
    ("count", "options"),
    [
        (1, {"solver": "mu"}),
        (2, {"solver": "mu", "acceleration": "relaxation"}),
        (5, {"solver": "cd"}),
        (24, {"solver": "cd", "inner_steps": 2}),
    ],
)
def test_factors_are_those_of_one_machine(client, X, count, options):
    model = PoissonNMF(4, **OPTIONS, **options)
    W = model.fit_transform(delayed(X, count))
    local = fastpmf.PoissonNMF(4, **OPTIONS, **options)
    expected = local.fit_transform(streamed(X))
    np.testing.assert_allclose(model.components_, local.components_, **CLOSE)
    np.testing.assert_allclose(W.compute(), expected, **CLOSE)
    for name in ("n_iter", "objective"):
        np.testing.assert_allclose(model.trace_[name], local.trace_[name], rtol=1e-10)
    np.testing.assert_allclose(model.trace_["kkt_residual"], local.trace_["kkt_residual"], rtol=1e-8, atol=1e-12)
    assert model.objective_ == pytest.approx(local.objective_, rel=1e-10)
    assert model.kkt_residual_ == pytest.approx(local.kkt_residual_, rel=1e-8)
    assert str(model.status_) == str(local.status_)
    assert model.recoveries_ == n_stored(client) == 0


@pytest.mark.parametrize(
    "options",
    [
        {"prior_W": "auto", "prior_H": "auto"},
        {"alpha_W": 1e-3, "l1_ratio": 0.5},
        {"prior_W": (1.1, 0.5), "prior_H": (1.0, [0.1, 0.2, 0.3])},
    ],
)
def test_priors_and_exposures_count_for_all_rows_together(client, X, options):
    given = {
        "row_exposure": np.random.default_rng(0).gamma(3.0, size=120) + 0.1,
        "column_exposure": np.linspace(0.5, 2.0, 40),
    }
    model = PoissonNMF(3, **OPTIONS, **options)
    W = model.fit_transform(chunked(X, 4), **given).compute()
    local = fastpmf.PoissonNMF(3, **OPTIONS, **options)
    expected = local.fit_transform(streamed(X), **given)
    np.testing.assert_allclose(model.components_, local.components_, **CLOSE)
    np.testing.assert_allclose(W, expected, **CLOSE)
    np.testing.assert_allclose(model.trace_["objective"], local.trace_["objective"], rtol=1e-10)
    assert model.kkt_residual_ == pytest.approx(local.kkt_residual_, rel=1e-8)
    assert model.prior_W_ == local.prior_W_


@pytest.mark.parametrize(
    "given",
    [
        {"fixed_H": "rows", "column_exposure": np.linspace(0.5, 2.0, 40)},
        {"fixed_H": "zeros", "row_exposure": np.linspace(0.5, 2.0, 120)},
        {"background": 0.05, "row_exposure": np.linspace(0.5, 2.0, 120)},
        {"background": np.linspace(0.01, 0.1, 40), "fixed_H": "rows"},
    ],
    ids=["fixed rows", "fixed zeros", "background", "background and fixed rows"],
)
def test_fixed_parts_and_background_are_those_of_one_machine(client, X, given):
    fixed = {"rows": np.full((4, 40), np.nan), "zeros": np.full((4, 40), np.nan)}
    fixed["rows"][1], fixed["zeros"][2, :25] = np.linspace(0.1, 1, 40), 0
    given = given | ({"fixed_H": fixed[given["fixed_H"]]} if "fixed_H" in given else {})
    options = OPTIONS | {"prior_W": (1.1, 0.5), "prior_H": (1.1, 0.1)}
    model, local = PoissonNMF(4, **options), fastpmf.PoissonNMF(4, **options)
    W = model.fit_transform(chunked(X, 5), **given).compute()
    expected = local.fit_transform(streamed(X), **given)
    np.testing.assert_allclose(model.components_, local.components_, **CLOSE)
    np.testing.assert_allclose(W, expected, **CLOSE)
    np.testing.assert_allclose(model.trace_["objective"], local.trace_["objective"], rtol=1e-10)
    assert model.kkt_residual_ == pytest.approx(local.kkt_residual_, rel=1e-8)
    rows = {name: A for name, A in given.items() if name == "row_exposure"}
    np.testing.assert_allclose(model.transform(chunked(X, 3), **rows), local.transform(X, **rows), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("given", [{}, {"column_exposure": np.linspace(0.5, 2.0, 40), "row_exposure": 2.0}])
def test_a_fit_from_given_factors_is_that_of_one_machine(client, X, given):
    rng = np.random.default_rng(0)
    W, H = rng.random((120, 3)) + 0.1, rng.random((3, 40)) + 0.1
    model, local = PoissonNMF(3, init="custom", **OPTIONS), fastpmf.PoissonNMF(3, init="custom", **OPTIONS)
    found = model.fit_transform(delayed(X, 4), W=W, H=H, **given).compute()
    np.testing.assert_allclose(found, local.fit_transform(streamed(X), W=W, H=H, **given), **CLOSE)
    np.testing.assert_allclose(model.components_, local.components_, **CLOSE)
    # Without W the fit starts from the best W for H
    best = fastpmf.PoissonNMF(3, tol=1e-9, max_iter=500).fit(X, fixed_H=H, **given)
    model.fit(delayed(X, 4), H=H, **given)
    assert model.trace_["objective"][0] == pytest.approx(best.objective_, rel=1e-7)


@pytest.mark.parametrize(
    ("count", "options"),
    [
        (1, {"solver": "mu"}),
        (4, {"solver": "cd", "prior_W": (1.2, 0.5), "prior_H": (1.1, 0.2), "row_exposure": True}),
        (5, {"solver": "mu", "prior_groups": 2.0, "alpha_W": 1e-3, "l1_ratio": 1.0}),
        (6, {"solver": "cd", "fixed_H": True}),
    ],
)
def test_effects_of_groups_are_those_of_one_machine(client, X, count, options):
    groups, given, rng = np.array(["a", "b", "c"])[np.arange(120) % 3], {}, np.random.default_rng(0)
    if options.pop("row_exposure", False):
        given["row_exposure"] = rng.gamma(3.0, size=120) + 0.1
    if options.pop("fixed_H", False):
        given["fixed_H"] = np.vstack([rng.random(40) + 0.1, np.full((2, 40), np.nan)])
    options |= OPTIONS | {"max_iter": 12, "eval_every": 3}
    model, local = PoissonNMF(3, **options), fastpmf.PoissonNMF(3, init="random", **options)
    W = model.fit_transform(delayed(X, count), groups=groups, **given)
    expected = local.fit_transform(streamed(X), groups=groups, **given)
    np.testing.assert_allclose(model.group_effects_, local.group_effects_, **CLOSE)
    np.testing.assert_allclose(model.components_, local.components_, **CLOSE)
    np.testing.assert_allclose(W.compute(), expected, **CLOSE)
    np.testing.assert_allclose(model.trace_["objective"], local.trace_["objective"], rtol=1e-10)
    np.testing.assert_allclose(model.trace_["kkt_residual"], local.trace_["kkt_residual"], rtol=1e-7, atol=1e-12)
    assert model.objective_ == pytest.approx(local.objective_, rel=1e-10)
    assert model.kkt_residual_ == pytest.approx(local.kkt_residual_, rel=1e-7)
    assert model.group_names_.tolist() == ["a", "b", "c"]
    exposure = {name: value for name, value in given.items() if name == "row_exposure"}
    W = model.transform(chunked(X, 2), groups=groups, **exposure)
    np.testing.assert_allclose(W.compute(), local.transform(X, groups=groups, **exposure), rtol=1e-6, atol=1e-8)
    assert n_stored(client) == 0


def test_a_single_group_has_no_effects_and_a_group_for_each_row_is_refused(client, X):
    model, plain = PoissonNMF(3, **OPTIONS), PoissonNMF(3, **OPTIONS)
    model.fit(delayed(X, 3), groups=np.zeros(120, int))
    np.testing.assert_array_equal(model.components_, plain.fit(delayed(X, 3)).components_)
    assert (model.group_effects_ == np.ones((1, 40))).all()
    for wrong, message in (
        (np.arange(120), "groups must have fewer groups than X has rows"),
        (["a"] * 7, "groups must have one label for each of 120 rows"),
    ):
        with pytest.raises(ValueError, match=message):
            model.fit(delayed(X, 3), groups=wrong)
    with pytest.raises(ValueError, match="groups must be given, since the model was fitted with groups"):
        model.transform(delayed(X, 3))


def test_effects_of_groups_survive_a_worker_that_is_killed_and_a_checkpoint(client, X, tmp_path):
    groups = np.arange(120) % 3
    options = {"random_state": 1, "max_iter": 60, "tol": 0, "eval_every": 20}
    undisturbed = fastpmf.PoissonNMF(3, init="random", **options).fit(streamed(X), groups=groups)
    model = PoissonNMF(3, callback=killer(client, slice(0, 1), at=40), timeout=300, **options)
    model.fit(chunked(X, 6), groups=groups)
    assert model.recoveries_ == 1
    assert model.objective_ == pytest.approx(undisturbed.objective_, rel=1e-6)
    np.testing.assert_allclose(model.group_effects_, undisturbed.group_effects_, rtol=0.01)
    first = PoissonNMF(3, **options | {"max_iter": 20})
    first.fit(delayed(X, 3), groups=groups, checkpoint=fastpmf.Checkpoint(tmp_path / "saved", iterations=10))
    resumed = PoissonNMF(3, **options).fit(delayed(X, 2), groups=groups, resume=tmp_path / "saved")
    assert resumed.objective_ == pytest.approx(undisturbed.objective_, rel=1e-3)  # W was solved again
    with pytest.raises(ValueError, match="priors, exposures and fixed parts"):
        PoissonNMF(3, **options).fit(delayed(X, 2), groups=groups[::-1], resume=tmp_path / "saved")


def test_a_fit_with_seeds_from_a_given_start_is_that_of_one_machine(client, X):
    prior = fastpmf.seeded_prior([f"g{j}" for j in range(40)], {"a": ["g1", "g5"], "b": ["g7"]}, 3, strength=20)
    options = OPTIONS | {"init": "custom", "prior_W": "auto", "prior_H": prior}
    rng = np.random.default_rng(0)
    start = {"W": rng.random((120, 3)) + 0.1, "H": rng.random((3, 40)) + 0.1}
    model, local = PoissonNMF(3, **options), fastpmf.PoissonNMF(3, **options)
    model.fit(delayed(X, 4), **start)
    local.fit(streamed(X), **start)
    np.testing.assert_allclose(model.components_, local.components_, **CLOSE)
    assert model.component_names_.tolist() == model.to_local().component_names_.tolist() == ["a", "b", "2"]


def test_a_column_without_counts_may_have_rate_zero(client, X):
    wide, fixed = sparse.csr_array(sparse.hstack([X, sparse.csr_array((120, 1))])), np.zeros((3, 41))
    fixed[:, :40] = np.random.default_rng(0).random((3, 40)) + 0.1
    W = PoissonNMF(3, **OPTIONS).fit_transform(chunked(wide, 3), fixed_H=fixed).compute()
    np.testing.assert_allclose(
        W, fastpmf.PoissonNMF(3, **OPTIONS).fit_transform(streamed(wide), fixed_H=fixed), **CLOSE
    )


def test_a_fit_with_fixed_parts_survives_a_worker_that_is_killed(client, X):
    fixed = np.full((3, 40), np.nan)
    fixed[0] = np.linspace(0.1, 1, 40)
    options, given = (
        {"random_state": 1, "max_iter": 60, "tol": 0, "eval_every": 20},
        {"fixed_H": fixed, "background": 0.01},
    )
    undisturbed = fastpmf.PoissonNMF(3, init="random", **options).fit(streamed(X), **given)
    model = PoissonNMF(3, callback=killer(client, slice(1, 2), at=40), timeout=300, **options)
    model.fit(delayed(X, 6), **given)
    assert model.recoveries_ == 1
    np.testing.assert_array_equal(model.components_[0], fixed[0])
    assert model.objective_ == pytest.approx(undisturbed.objective_, rel=1e-5)


@pytest.mark.parametrize("hierarchy", [True, False])
def test_posteriors_are_those_of_one_machine(client, X, hierarchy):
    model = HPF(3, hierarchy=hierarchy, **OPTIONS)
    W = model.fit_transform(delayed(X, 4)).compute()
    local = fastpmf.HPF(3, hierarchy=hierarchy, **OPTIONS).fit(streamed(X))
    np.testing.assert_allclose(W, local.W_posterior_.mean, **CLOSE)
    np.testing.assert_allclose(model.H_posterior_.shape, local.H_posterior_.shape, **CLOSE)
    np.testing.assert_allclose(model.H_posterior_.rate, local.H_posterior_.rate, **CLOSE)
    np.testing.assert_allclose(model.trace_["objective"], local.trace_["objective"], rtol=1e-10)
    assert model.residual_ == pytest.approx(local.residual_, rel=1e-8)
    np.testing.assert_allclose(model.to_local().transform(X), local.transform(X), **CLOSE)
    np.testing.assert_allclose(model.transform(delayed(X, 4)).compute(), local.transform(X), **CLOSE)


def test_a_fit_stops_at_the_iteration_of_the_local_one(client, X):
    options = {"random_state": 0, "tol": 5e-3, "max_iter": 300}
    model = PoissonNMF(3, **options).fit(delayed(X, 3))
    local = fastpmf.PoissonNMF(3, init="random", **options).fit(streamed(X))
    assert model.status_ is local.status_ is fastpmf.Status.CONVERGED
    assert model.n_iter_ == local.n_iter_ < 300
    options = {"random_state": 0, "tol": 3e-2, "max_iter": 300}
    model = HPF(3, **options).fit(delayed(X, 3))
    local = fastpmf.HPF(3, init="random", **options).fit(streamed(X))
    assert model.n_iter_ == local.n_iter_ < 300


def test_single_precision_stays_single(client, X):
    blocks = [dask.delayed(block.astype(np.float32)) for block in blocks_of(X, 3)]
    model = PoissonNMF(3, **OPTIONS)
    assert model.fit_transform(blocks).compute().dtype == model.components_.dtype == np.float32
    double = PoissonNMF(3, dtype="float64", **OPTIONS).fit(blocks)
    np.testing.assert_allclose(model.components_, double.components_, rtol=1e-3, atol=1e-5)  # rounding of float32


def test_results_do_not_depend_on_which_worker_is_done_first(client, X):
    def slow(waiting):
        """Let one worker wait in each iteration until another one has updated its rows."""
        workers = sorted(client.nthreads())

        def change(role):
            plain = worker.update_rows

            def update_rows(fit, epoch, iteration):
                event = distributed.Event(f"{fit}-{iteration}")
                if role == "waits":
                    event.wait()
                out = plain(fit, epoch, iteration)
                if role == "is waited for":
                    event.set()
                return out

            worker.update_rows, worker.plain = update_rows, plain

        client.run(change, "waits", workers=[workers[waiting]])
        client.run(change, "is waited for", workers=[workers[1 - waiting]])
        try:
            model = PoissonNMF(4, **OPTIONS).fit(delayed(X, 6))
        finally:
            client.run(lambda: worker.__dict__.update(update_rows=worker.plain), workers=workers[:2])
        return model.components_, model.trace_["objective"]

    plain = PoissonNMF(4, **OPTIONS).fit(delayed(X, 6))
    for H, objective in (slow(0), slow(1)):
        np.testing.assert_array_equal(H, plain.components_)
        np.testing.assert_array_equal(objective, plain.trace_["objective"])


def test_sums_by_slices_are_bitwise_those_of_whole_arrays(client, X):
    def set_cost(n_bytes):
        exchange.MESSAGE = n_bytes

    whole = PoissonNMF(4, **OPTIONS).fit(delayed(X, 6))
    client.run(set_cost, 0)
    try:
        sliced = PoissonNMF(4, **OPTIONS).fit(delayed(X, 6))
    finally:
        client.run(set_cost, exchange.MESSAGE)
    np.testing.assert_array_equal(sliced.components_, whole.components_)
    np.testing.assert_array_equal(sliced.trace_["objective"], whole.trace_["objective"])
    assert sliced.communication_["messages"] > whole.communication_["messages"]
    assert sliced.communication_["between_workers"] < whole.communication_["between_workers"]


def test_two_fits_at_a_time_do_not_wait_for_each_other_forever(client, X):
    alone = PoissonNMF(4, client=client, **OPTIONS).fit(delayed(X, 6))
    with ThreadPoolExecutor(2) as threads:
        fits = [threads.submit(PoissonNMF(4, client=client, **OPTIONS).fit, delayed(X, 6)) for _ in range(2)]
        for fit in fits:
            np.testing.assert_array_equal(fit.result().components_, alone.components_)


def test_an_error_on_one_worker_ends_the_fit_although_the_others_wait_for_it(client, X):
    def fail(fit, epoch, iteration):
        if iteration == 6:
            raise ValueError("no rows today")
        return worker.plain(fit, epoch, iteration)

    address = sorted(client.nthreads())[1:2]
    client.run(lambda: worker.__dict__.update(plain=worker.update_rows, update_rows=fail), workers=address)
    try:
        with pytest.raises(ValueError, match="no rows today"):
            PoissonNMF(4, **OPTIONS).fit(delayed(X, 6))
    finally:
        client.run(lambda: worker.__dict__.update(update_rows=worker.plain), workers=address)
    assert n_stored(client) == 0


@pytest.mark.parametrize(
    ("kind", "local", "which"),
    [
        (PoissonNMF, fastpmf.PoissonNMF, slice(0, 1)),
        pytest.param(HPF, fastpmf.HPF, slice(2, 3), marks=pytest.mark.long),
    ],
)
def test_a_fit_survives_a_worker_that_is_killed(client, X, kind, local, which, caplog):
    options = {"random_state": 1, "max_iter": 60, "tol": 0, "eval_every": 20}
    undisturbed = local(3, init="random", **options).fit(streamed(X))
    model = kind(3, callback=killer(client, which, at=40), timeout=300, **options)
    W = model.fit_transform(chunked(X, 6)).compute()
    assert model.recoveries_ == 1
    assert "2 of 6 shards were lost" in caplog.text
    assert model.n_iter_ == 60
    # Rows that were solved again are ahead of the others, so the same optimum is reached on another path
    assert model.objective_ == pytest.approx(undisturbed.objective_, rel=1e-6)
    np.testing.assert_allclose(model.components_, undisturbed.components_, rtol=0.05, atol=0.01)
    assert W.shape == (120, 3)
    assert n_stored(client) == 0


def test_a_fit_survives_a_worker_that_dies_while_the_others_wait_for_it(client, X):
    def die(fit, epoch, iteration):
        if iteration == 46:
            os.kill(os.getpid(), signal.SIGKILL)
        return worker.plain(fit, epoch, iteration)

    address = sorted(client.nthreads())[1:2]
    client.run(lambda: worker.__dict__.update(plain=worker.update_rows, update_rows=die), workers=address)
    options = {"random_state": 1, "max_iter": 60, "tol": 0, "eval_every": 20}
    model = PoissonNMF(3, timeout=300, **options).fit(delayed(X, 6))
    assert model.recoveries_ == 1
    assert model.trace_["n_iter"].tolist() == [0, 20, 40, 60]
    undisturbed = fastpmf.PoissonNMF(3, init="random", **options).fit(streamed(X))
    assert model.objective_ == pytest.approx(undisturbed.objective_, rel=1e-6)
    assert n_stored(client) == 0


def test_a_fit_restarts_if_all_workers_are_killed(client, X):
    options = {"random_state": 0, "max_iter": 10, "tol": 0, "eval_every": 5, "timeout": 300}
    # The lost iterations count, so only the last five of ten enter the result
    undisturbed = PoissonNMF(3, **options | {"max_iter": 5}).fit(delayed(X, 6))
    model = PoissonNMF(3, callback=killer(client, slice(None)), **options).fit(delayed(X, 6))
    assert model.recoveries_ == 1
    assert model.n_iter_ == 10
    assert model.objective_ == pytest.approx(undisturbed.objective_, rel=1e-10)


def test_lost_blocks_that_cannot_be_computed_again_are_an_error(client, X):
    workers = sorted(client.nthreads())
    futures = [
        client.scatter([block], workers=[workers[n % 3]], hash=False)[0] for n, block in enumerate(blocks_of(X, 3))
    ]
    model = PoissonNMF(3, callback=killer(client, slice(1, 2), at=4), **OPTIONS)
    with pytest.raises(ValueError, match=r"block 1 of X was lost .* a future can't be computed again"):
        model.fit(futures)
    assert n_stored(client) == 0


def test_a_worker_that_hangs_ends_the_fit_with_its_name(client, X):
    PoissonNMF(3, **OPTIONS).fit(delayed(X, 3))  # so that the kernels are compiled
    event, address = distributed.Event("go on"), sorted(client.nthreads())[1]
    hanging = client.submit(lambda: distributed.Event("go on").wait(), workers=[address], pure=False)
    try:
        with pytest.raises(TimeoutError, match=f"{re.escape(address)}.* did not finish reading its rows within"):
            PoissonNMF(3, timeout=0.5, **OPTIONS).fit(delayed(X, 3))
    finally:
        event.set()
    hanging.result()

    def hang(record):
        if record.n_iter == 4:
            event.clear()
            futures.append(client.submit(lambda: distributed.Event("go on").wait(), workers=[address], pure=False))

    futures = []
    try:
        with pytest.raises(TimeoutError, match=f"{re.escape(address)}.* did not finish the rows of iteration"):
            PoissonNMF(3, timeout=3, callback=hang, **OPTIONS).fit(delayed(X, 3))
    finally:
        event.set()
    futures[0].result()
    assert client.submit(n_stored_here, workers=[address], pure=False).result() == 0  # after all earlier tasks


def n_stored_here():
    return len(worker.fits)


@pytest.mark.parametrize("kind", ["cd", "mu", "HPF"])
@pytest.mark.parametrize("streams", [False, True])
def test_a_worker_compiles_all_kernels_before_the_first_iteration(X, monkeypatch, kind, streams):
    """In this process, where the calls to the compiler can be recorded."""
    from fastpmf.core.counts import Side
    from fastpmf.dask.shard import HPFModel, PoissonModel, RandomStart
    from fastpmf.fitting.options import Penalties
    from fastpmf.fitting.problem import FixedPart, factor_spec, read_priors
    from fastpmf.kernels import _jit
    from fastpmf.model.hierarchy import GammaPrior
    from fastpmf.solvers import MeanField, make_solver

    counts, (n, p), work = fastpmf.as_counts(X), X.shape, np.dtype(float)
    prior = GammaPrior(0.3, 0.3, 1.0)
    if kind == "HPF":
        model = HPFModel(2, work, MeanField(priors=(prior, prior)))
    else:
        rows, columns = read_priors(Penalties(prior_W=(1.1, 1.0), prior_H=(1.1, 1.0)), 2, X.shape)
        columns = factor_spec(columns, FixedPart(), np.ones(p), work, Side.COLUMNS)
        model = PoissonModel(2, work, make_solver(kind, "auto", row_access_only=True), rows, columns)
    shard = worker.Shard(n, None, lambda: [counts]) if streams else worker.Shard(n, counts)
    monkeypatch.setitem(worker.fits, "fit", worker.WorkerFit("fit", 0, "keepalive", 1, {0: shard}))
    built = []
    compiled = _jit.Kernel._compile

    def compile_late(self, *args):
        built.append(self.__name__)
        return compiled(self, *args)

    monkeypatch.setattr(_jit.Kernel, "_compile", compile_late)
    for kernel in list(all_kernels()):
        monkeypatch.setattr(kernel, "_overloads", {})
    monkeypatch.setattr(_jit, "_launchers", {})
    worker.compile_kernels("fit", 0, model)
    prepared, built[:], functions = list(built), [], set(_jit._launchers)
    assert numba.config.DISABLE_JIT or prepared
    start = RandomStart(np.random.default_rng(0), X.shape, counts.total, {0: slice(0, n)})
    worker.make_factors("fit", 0, 0, model, start, {0: worker.RowData()})
    for iteration in range(12):
        worker.update_columns("fit", 0, iteration, worker.update_rows("fit", 0, iteration))
    worker.call("fit", 0, 11, "objective", True)
    assert not built
    assert set(_jit._launchers) == functions


def all_kernels():
    from fastpmf.kernels._jit import Kernel

    return (thing for thing in gc.get_objects() if type(thing) is Kernel)


def test_tasks_that_dask_runs_again_are_rejected(client, X):
    from fastpmf.dask.shard import HPFModel, RandomStart
    from fastpmf.dask.sources import read_source
    from fastpmf.model.hierarchy import GammaPrior
    from fastpmf.solvers import MeanField

    prior = GammaPrior(0.3, 0.3, 1.0)
    model = HPFModel(2, np.dtype(float), MeanField(priors=(prior, prior)))
    with WorkerPool(client, read_source(delayed(X, 2), 3, memory=True), n_threads=1, timeout=60) as pool:
        survey = pool.open()
        pool.prepare(model, worker.RowData())
        pool.start(RandomStart(np.random.default_rng(0), survey.shape, survey.total, survey.slices))
        limits = {"seconds": 60, "tol": 0, "measures": False}
        pool.iterate(1, **limits)
        address = next(iter(pool._shards))
        for epoch, iteration in ((0, 1), (0, 3), (1, 2)):
            task = client.submit(worker.update_rows, pool._fit, epoch, iteration, workers=[address], pure=False)
            with pytest.raises(worker.StaleTaskError):
                task.result()
        pool.iterate(2, **limits)
        assert pool.iteration == 2


def test_rows_of_files_are_read_by_the_workers(client, X, tmp_path):
    write_counts(tmp_path / "counts", X)
    options = OPTIONS | {"dtype": np.float64}  # the file has integers
    local = fastpmf.PoissonNMF(3, **options)
    expected = local.fit_transform(streamed(X))
    for memory in (True, False):
        model = PoissonNMF(3, memory=memory, **options)
        W = model.fit_transform(tmp_path / "counts")
        np.testing.assert_allclose(W.compute(), expected, **CLOSE)
        np.testing.assert_allclose(model.components_, local.components_, **CLOSE)
        assert model.transform(str(tmp_path / "counts")).shape == (120, 3)
        assert n_stored(client) == 0


def test_h5ad_files_and_lazy_anndata_keep_their_names(client, X, tmp_path):
    anndata = pytest.importorskip("anndata")
    made = anndata.AnnData(sparse.csr_matrix(X.astype(np.float32)))
    made.var_names = [f"gene {j}" for j in range(40)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of anndata
        made.write_h5ad(tmp_path / "X.h5ad")
    lazy = made.copy()
    lazy.X = chunked(X.astype(np.float32), 4)
    by_path, by_array = (PoissonNMF(3, **OPTIONS).fit(given) for given in (tmp_path / "X.h5ad", lazy))
    np.testing.assert_allclose(by_path.components_, by_array.components_, rtol=1e-3, atol=1e-5)  # rounding of float32
    assert by_path.feature_names_in_.tolist() == by_array.to_local().feature_names_in_.tolist() == list(made.var_names)
    made.X = sparse.csc_matrix(made.X)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made.write_h5ad(tmp_path / "columns.h5ad")
    with pytest.raises(ValueError, match=r"columns.h5ad is stored by columns \(CSC\)"):
        PoissonNMF(3).fit(tmp_path / "columns.h5ad")


def test_data_beside_X_is_aligned_by_names(client, X):
    anndata, pandas = pytest.importorskip("anndata"), pytest.importorskip("pandas")
    lazy = anndata.AnnData(sparse.csr_matrix(X.astype(np.float64)))
    lazy.obs_names, lazy.var_names = [f"cell {i}" for i in range(120)], [f"gene {j}" for j in range(40)]
    lazy.X = chunked(X.astype(np.float64), 4)
    rng = np.random.default_rng(0)
    given = {
        "row_exposure": pandas.Series(rng.uniform(0.5, 2, 120), index=lazy.obs_names),
        "column_exposure": pandas.Series(rng.uniform(0.5, 2, 40), index=lazy.var_names),
        "H": pandas.DataFrame(rng.random((3, 40)) + 0.1, columns=lazy.var_names),
    }
    other = {name: A.sample(frac=1, axis=A.ndim - 1, random_state=1) for name, A in given.items()}
    expected = PoissonNMF(3, init="custom", **OPTIONS).fit(lazy, **{name: A.to_numpy() for name, A in given.items()})
    model = PoissonNMF(3, init="custom", **OPTIONS).fit(lazy, **other)
    np.testing.assert_array_equal(model.components_, expected.components_)
    W = expected.transform(lazy, row_exposure=given["row_exposure"].to_numpy()).compute()
    np.testing.assert_array_equal(model.transform(lazy, row_exposure=other["row_exposure"]).compute(), W)
    with pytest.raises(ValueError, match="row_exposure must have a label for each row of X, and lacks 'cell 3' of 120"):
        PoissonNMF(3).fit(lazy, row_exposure=given["row_exposure"].drop("cell 3"))
    renamed = lazy.copy()
    renamed.var_names = lazy.var_names[::-1]
    with pytest.raises(ValueError, match="X must have the fitted feature names in the same order"):
        model.transform(renamed)


def test_the_local_model_transforms_and_is_saved(client, X, tmp_path):
    model = PoissonNMF(3, random_state=0, tol=5e-3).fit(chunked(X, 4))
    W = model.transform(chunked(X, 5))
    assert W.chunks == ((24,) * 5, (3,))
    local = model.to_local()
    np.testing.assert_array_equal(W.compute(), local.transform(X))
    exposure = np.linspace(1, 2, 120)
    np.testing.assert_array_equal(
        model.transform(chunked(X, 5), row_exposure=exposure).compute(), local.transform(X, row_exposure=exposure)
    )
    with pytest.raises(ValueError, match="row_exposure needs blocks of known numbers of rows"):
        model.transform(delayed(X, 5), row_exposure=exposure)
    with pytest.raises(ValueError, match=r"row_exposure must have shape \(120,\), got \(119,\)"):
        model.transform(chunked(X, 5), row_exposure=exposure[1:])
    local.save(tmp_path / "model.npz")
    assert type(local) is fastpmf.PoissonNMF
    np.testing.assert_array_equal(fastpmf.PoissonNMF.load(tmp_path / "model.npz").components_, model.components_)
    again = PoissonNMF(3, init="custom", max_iter=20, tol=5e-3).fit(chunked(X, 4), H=local.components_)
    assert again.n_iter_ < model.n_iter_
    assert again.objective_ == pytest.approx(model.objective_, rel=1e-3)


@pytest.mark.parametrize(("kind", "local"), [(PoissonNMF, fastpmf.PoissonNMF), (HPF, fastpmf.HPF)])
def test_a_fit_continues_from_the_h_of_a_checkpoint(client, X, tmp_path, kind, local):
    options = {"random_state": 0, "tol": 0, "eval_every": 5}
    saving = fastpmf.Checkpoint(tmp_path / "saved", iterations=5)
    kind(3, max_iter=10, **options).fit(delayed(X, 3), checkpoint=saving)
    model = kind(3, max_iter=25, **options).fit(delayed(X, 2), resume=tmp_path / "saved")
    whole = local(3, max_iter=25, **options).fit(streamed(X))
    assert model.n_iter_ == 25
    assert model.trace_["n_iter"].tolist() == list(range(0, 30, 5))
    assert model.objective_ == pytest.approx(whole.objective_, rel=1e-3)  # W was solved again


def test_few_bytes_of_a_fit_reach_the_client(client):
    n_iter, p, k = 10, 2000, 8
    X = sparse.csr_array(np.random.default_rng(0).poisson(0.02, (90, p)))
    before = client.run(lambda dask_worker: len(dask_worker.transfer_outgoing_log))
    model = PoissonNMF(k, random_state=0, max_iter=n_iter, tol=0, eval_every=2).fit(delayed(X, 3))
    sent = [
        (log["who"], key, n)
        for address, logs in client.run(lambda dask_worker: list(dask_worker.transfer_outgoing_log)).items()
        for log in logs[before[address] :]
        for key, n in log["keys"].items()
        if str(key).startswith("fastpmf-")
    ]
    here = [(key, n) for who, key, n in sent if who is None]
    factor = p * k * 8
    communication = model.communication_
    assert sum(n for key, n in here if "-column_state-" in key) >= factor
    assert sum(n for key, n in here if "-column_state-" not in key) < factor / 10
    assert factor <= communication["to_client"] < 1.2 * factor
    # Each worker sends all others its contribution before, in and after the iterations, for the residual
    assert communication["messages"] == 6 * (n_iter + 2)
    assert 6 * (n_iter + 1) * factor < communication["between_workers"] < 7 * (n_iter + 1) * factor


def test_no_task_of_a_fit_stays_with_the_scheduler(client, X):
    PoissonNMF(3, **OPTIONS).fit(delayed(X, 4))
    for _ in range(1000):  # the messages that release tasks are on their way
        left = client.run_on_scheduler(lambda dask_scheduler: [key for key in dask_scheduler.tasks if "fastpmf" in key])
        if not left:
            break
    assert not left


def test_a_callback_and_ctrl_c_stop_a_fit_and_keep_it(client, X):
    assert PoissonNMF(3, callback=lambda record: record.n_iter == 4, **OPTIONS).fit(delayed(X, 3)).n_iter_ == 4

    def interrupt(record):
        if record.n_iter == 4:
            raise KeyboardInterrupt

    model = PoissonNMF(3, callback=interrupt, **OPTIONS)
    with pytest.raises(fastpmf.FitInterrupted):
        model.fit(delayed(X, 3))
    assert model.n_iter_ == 4
    assert model.components_.shape == (3, 40)
    assert n_stored(client) == 0


def test_ctrl_c_while_workers_iterate_keeps_what_they_have_done(client, X, monkeypatch):
    interrupted = []
    plain = WorkerPool._wait

    def wait(pool, tasks, timeout=None):
        plain(pool, tasks, timeout)
        if pool.iteration == 4 and not interrupted:
            interrupted.append(True)  # the workers are done with the next iterations, and this process is not told
            raise KeyboardInterrupt

    monkeypatch.setattr(WorkerPool, "_wait", wait)
    model = PoissonNMF(3, **OPTIONS | {"max_iter": 20})
    with pytest.raises(fastpmf.FitInterrupted):
        model.fit(delayed(X, 3))
    monkeypatch.undo()
    expected = PoissonNMF(3, **OPTIONS | {"max_iter": model.n_iter_}).fit(delayed(X, 3))
    np.testing.assert_array_equal(model.components_, expected.components_)
    assert model.objective_ == expected.objective_
    assert n_stored(client) == 0


def test_a_fit_that_stops_at_max_time_has_the_factors_of_its_last_iteration(client, X):
    model = PoissonNMF(3, **OPTIONS | {"max_iter": 100_000, "max_time": 0.1}).fit(delayed(X, 3))
    assert model.status_ is fastpmf.Status.MAX_TIME
    expected = PoissonNMF(3, **OPTIONS | {"max_iter": model.n_iter_}).fit(delayed(X, 3))
    np.testing.assert_array_equal(model.components_, expected.components_)


def test_workers_have_their_number_of_threads_and_this_process_keeps_its_own(client):
    assert os.environ.get("NUMBA_NUM_THREADS") == THREADS
    numba.njit(lambda: 1)()  # reads the environment anew
    threads = client.run(lambda: (worker.worker_threads(None), worker.worker_threads(3)))
    assert set(threads.values()) == {(1, 3)}
    # The Numba of a worker may have read its number before; it could not compile anything after a change
    for environment in client.run(
        lambda dask_worker: (
            os.environ.get("NUMBA_NUM_THREADS"), os.environ["OMP_NUM_THREADS"], dask_worker.state.nthreads
        )
    ).values():  # fmt: skip
        assert environment == (THREADS, "1", 1)
    with pytest.raises(ValueError, match="threads_per_worker == 0, must be >= 1"):
        local_cluster(1, threads_per_worker=0)
    with pytest.raises(ValueError, match="n_workers == -1, must be >= 0"):
        local_cluster(-1)
    with pytest.raises(TypeError, match="n_workers must be an instance of"):
        local_cluster("2")


def test_workers_that_are_added_later_have_their_threads_too():
    with local_cluster(0, threads_per_worker=2, env={"MINE": "1"}) as cluster:
        cluster.scale(1)
        with distributed.Client(cluster) as client:
            client.wait_for_workers(1, timeout=60)
            ((*environment, threads),) = client.run(
                lambda: (os.environ["MINE"], os.environ["OMP_NUM_THREADS"], worker.worker_threads(None))
            ).values()
            assert (environment, threads) == (["1", "2"], 2)


def test_invalid_input_is_an_error_in_one_sentence(client, X, tmp_path):
    wrong = [
        (X, TypeError, "X must be a dask array .* got csr_array"),
        ([X], TypeError, "got list"),
        (array.zeros((10, 10), chunks=(5, 5)), ValueError, "one chunk, got 2 chunks"),
        ([dask.delayed(X), dask.delayed(X[:, :5])], ValueError, "the same number of columns"),
        ([dask.delayed(X), dask.delayed(-X)], ValueError, "X must hold counts >= 0"),
        ([dask.delayed(0 * X)], ValueError, "at least one positive count, got all 120 x 40 zero"),
        (tmp_path / "none.h5ad", FileNotFoundError, "no file"),
    ]
    for given, kind, message in wrong:
        with pytest.raises(kind, match=message):
            PoissonNMF(3).fit(given)
    sparse.save_npz(tmp_path / "X.npz", X)
    with pytest.raises(ValueError, match=r"X\.npz can't be read by rows: .* convert_counts"):
        PoissonNMF(3).fit(tmp_path / "X.npz")
    for options, message in (
        ({"solver": "em"}, "solver must be 'auto', 'cd' or 'mu'"),
        ({"acceleration": "extrapolation"}, "acceleration"),
        ({"timeout": 0}, "timeout"),
        ({"memory": False}, "memory=False is for a path"),
        ({"init": "nndsvd"}, "init must be one of 'auto', 'random', 'custom'"),
        ({"init": "merge"}, "init must be one of 'auto', 'random', 'custom'"),
        ({"init": "custom"}, "init='custom' needs H"),
    ):
        with pytest.raises(ValueError, match=message):
            PoissonNMF(3, **options).fit(delayed(X, 2))
    with pytest.raises(ValueError, match="row_exposure must have shape"):
        PoissonNMF(3).fit(delayed(X, 2), row_exposure=np.ones(3))
    with pytest.raises(ValueError, match="H must give every count of X a positive rate"):
        PoissonNMF(3, init="custom").fit(delayed(X, 2), H=np.zeros((3, 40)))
    with pytest.raises(ValueError, match="H must give every count of X a positive rate"):
        PoissonNMF(3).fit(delayed(X, 2), fixed_H=np.zeros((3, 40)))
    with pytest.raises(ValueError, match="W and H are starting factors for init='custom' only"):
        PoissonNMF(3).fit(delayed(X, 2), H=np.ones((3, 40)))
    with pytest.raises(ValueError, match=r"fixed_H must have shape \(3, 40\), got \(2, 40\)"):
        PoissonNMF(3).fit(delayed(X, 2), fixed_H=np.ones((2, 40)))
    assert n_stored(client) == 0


def test_h_must_fit_into_the_memory_of_this_process(client, X, monkeypatch):
    monkeypatch.setattr("fastpmf.utils.memory.UNCHECKED_BYTES", 0)
    monkeypatch.setattr("fastpmf.utils.memory.memory_limit", lambda: 2**10)
    for kind in (PoissonNMF, HPF):
        with pytest.raises(MemoryError, match="H of 3 components and 40 columns needs"):
            kind(3).fit(delayed(X, 2))
    assert n_stored(client) == 0


def test_without_a_client_or_a_worker_a_fit_is_an_error(X):
    with pytest.raises(ValueError, match=r"client must be a distributed\.Client if there is no current one"):
        PoissonNMF(3).fit(delayed(X, 2))
    with pytest.raises(TypeError, match=r"client must be a distributed\.Client or None, got str"):
        PoissonNMF(3, client="tcp://here").fit(delayed(X, 2))
    message = "client must have a worker, and its cluster had none within timeout=1 s"
    with local_cluster(0) as empty, distributed.Client(empty) as client, pytest.raises(TimeoutError, match=message):
        PoissonNMF(3, client=client, timeout=1).fit(delayed(X, 2))


def test_one_worker_may_be_in_this_process_but_not_several(X):
    local = fastpmf.PoissonNMF(3, solver="mu", **OPTIONS).fit(X)
    with local_cluster(1, processes=False) as cluster, distributed.Client(cluster) as client:
        model = PoissonNMF(3, solver="mu", client=client, **OPTIONS).fit(delayed(X, 2))
    assert np.allclose(model.components_, local.components_, **CLOSE)
    with local_cluster(2, processes=False) as cluster, distributed.Client(cluster) as client:
        client.wait_for_workers(2, timeout=60)
        with pytest.raises(ValueError, match="or a single one in this process, got 2"):
            PoissonNMF(3, client=client).fit(delayed(X, 2))


def test_a_worker_that_vanishes_at_once_is_not_used():
    waited = []
    client = SimpleNamespace(wait_for_workers=lambda n, timeout: waited.append((n, timeout)))
    pool = WorkerPool(client, None, n_threads=None, timeout=3.0)
    seen = iter([set(), set(), {"b", "a"}])
    pool._alive = lambda: next(seen)
    assert pool._wait_for_any() == ["a", "b"]
    assert waited == [(1, 3.0)] * 2


def test_the_default_dtype_depends_on_the_counts_of_all_workers(client, X):
    whole = sparse.csr_array(X.astype(int))
    assert PoissonNMF(3, **OPTIONS).fit(delayed(whole, 4)).components_.dtype == np.float32
    large = whole.copy()
    large.data[-1] = 2**24 + 1  # of one worker, which float32 does not represent
    assert PoissonNMF(3, **OPTIONS).fit(delayed(large, 4)).components_.dtype == np.float64
    assert HPF(3, **OPTIONS).fit(delayed(large, 4)).components_.dtype == np.float64
