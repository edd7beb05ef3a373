"""`max_time` counts iterations, not the compilation of their kernels."""

import threading

import numpy as np
import pytest
from numba.core import event
from sklearn.exceptions import ConvergenceWarning

from fastpmf import HPF, PoissonNMF, Status, StreamedCounts, as_counts, poisson_nmf
from fastpmf.solvers import clock
from fastpmf.solvers.clock import COMPILING, Clock

X = np.random.default_rng(0).poisson(1.0, (40, 20)) + np.eye(40, 20, dtype=int)


class Time:
    """A clock that tests set."""

    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def time(monkeypatch):
    now = Time()
    monkeypatch.setattr(clock, "perf_counter", now)
    return now


def compile_for(time, seconds):
    """The events of a compilation that needs another one."""
    with event.trigger_event(COMPILING):
        time.now += seconds / 2
        with event.trigger_event(COMPILING):
            time.now += seconds / 2


def test_a_clock_stops_while_its_thread_compiles(time):
    compile_for(time, 5.0)  # before the clock is started
    reading = Clock(seconds=10.0)
    time.now += 1.0
    assert reading.seconds() == 11.0
    compile_for(time, 100.0)
    assert reading.seconds() == 11.0
    time.now += 0.5
    assert reading.seconds() == 11.5


def test_a_clock_continues_while_another_thread_compiles(time):
    reading = Clock()
    other = threading.Thread(target=compile_for, args=(time, 4.0))
    other.start()
    other.join()
    assert reading.seconds() == 4.0


def test_numba_reports_its_compilations():
    """Including kernels that are loaded from the cache, and the wait for another thread's compilation."""
    numba = pytest.importorskip("numba")
    if numba.config.DISABLE_JIT:
        pytest.skip("nothing is compiled with the JIT off")
    before = clock._compilations.seconds
    assert numba.njit("int64(int64)")(lambda x: x + 1)(1) == 2
    assert clock._compilations.seconds > before


def solution(solution_):
    return solution_.n_iter, solution_.status, solution_.trace["seconds"].tolist()


def estimated(model, X):
    with pytest.warns(ConvergenceWarning, match=r"^Stopped at max_time .* after \d+ iterations; tol is 1e-12[.;]"):
        model.fit(X)
    return model.n_iter_, model.status_, model.trace_["seconds"].tolist()


def streamed(by_column=False):
    return StreamedCounts(lambda: [X.T[:9], X.T[9:]] if by_column else [X[:25], X[25:]], by_column=by_column)


LIMITS = {"max_time": 14.5, "eval_every": 1, "random_state": 0, "n_threads": 1, "max_iter": 400, "tol": 1e-12}
FITS = {
    "cd": lambda options: solution(poisson_nmf(X, 2, **options)),
    "mu": lambda options: solution(poisson_nmf(X, 2, solver="mu", **options)),
    "em": lambda options: solution(poisson_nmf(X, 2, solver="em", **options)),
    "several starts": lambda options: solution(poisson_nmf(X, 2, n_init=3, **options)),
    "validation": lambda options: solution(poisson_nmf(X, 2, validation=0.3, **options | {"max_time": 2.5})),
    "streamed": lambda options: solution(poisson_nmf(streamed(), 2, **options)),
    "streamed columns": lambda options: solution(poisson_nmf(streamed(by_column=True), 2, **options)),
    "PoissonNMF": lambda options: estimated(PoissonNMF(2, **options), X),
    "HPF": lambda options: estimated(HPF(2, **options), X),
    "HPF, streamed": lambda options: estimated(HPF(2, **options), streamed()),
}


@pytest.mark.parametrize("kind", FITS)
def test_max_time_stops_a_fit_at_the_same_iteration_with_and_without_compilation(time, kind):
    """Each record takes a second, and one of them also a thousand seconds of compilation."""

    def options(compiles):
        def callback(record, W, H):
            time.now += 1.0
            if record.n_iter == 2:
                compile_for(time, compiles)

        return LIMITS | {"callback": callback}

    compiled, cached = FITS[kind](options(1000.0)), FITS[kind](options(0.0))
    n_iter, status, seconds = compiled
    assert (n_iter, status) == cached[:2]
    assert status is Status.MAX_TIME
    assert n_iter > 1
    assert seconds == pytest.approx(cached[2], abs=1e-9)  # adding to a thousand seconds rounds


def test_with_a_max_time_of_zero_a_fit_does_one_iteration(time):
    with pytest.warns(ConvergenceWarning, match="^Stopped at max_time .* after 1 iterations"):
        model = PoissonNMF(2, max_time=0, tol=1e-12, random_state=0).fit(as_counts(X))
    assert (model.n_iter_, model.status_) == (1, Status.MAX_TIME)
