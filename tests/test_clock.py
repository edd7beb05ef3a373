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
    """A clock that is set by hand."""

    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def time(monkeypatch):
    hands = Time()
    monkeypatch.setattr(clock, "perf_counter", hands)
    return hands


def compile_for(time, seconds):
    """As Numba tells of a compilation, with one inside that it needs."""
    with event.trigger_event(COMPILING):
        time.now += seconds / 2
        with event.trigger_event(COMPILING):
            time.now += seconds / 2


def test_a_clock_stands_still_while_its_thread_compiles(time):
    compile_for(time, 5.0)  # before it is made
    hands = Clock(seconds=10.0)
    time.now += 1.0
    assert hands.seconds() == 11.0
    compile_for(time, 100.0)
    assert hands.seconds() == 11.0
    time.now += 0.5
    assert hands.seconds() == 11.5


def test_a_clock_goes_on_while_another_thread_compiles(time):
    hands = Clock()
    other = threading.Thread(target=compile_for, args=(time, 4.0))
    other.start()
    other.join()
    assert hands.seconds() == 4.0


def test_numba_tells_of_its_compilations():
    """Also of those that are loaded from the cache, and of waiting for another thread's."""
    numba = pytest.importorskip("numba")
    if numba.config.DISABLE_JIT:
        pytest.skip("nothing is compiled with the JIT off")
    before = clock._compilations.seconds
    assert numba.njit("int64(int64)")(lambda x: x + 1)(1) == 2
    assert clock._compilations.seconds > before


def solution(made):
    return made.n_iter, made.status, made.trace["seconds"].tolist()


def estimated(model, X):
    with pytest.warns(ConvergenceWarning, match=r"^Stopped at max_time .* after \d+ iterations; tol is 1e-12\.$"):
        model.fit(X)
    return model.n_iter_, model.status_, model.trace_["seconds"].tolist()


def streamed(by_column=False):
    return StreamedCounts(lambda: [X.T[:9], X.T[9:]] if by_column else [X[:25], X[25:]], by_column=by_column)


LIMITS = {"max_time": 14.5, "eval_every": 1, "random_state": 0, "n_threads": 1, "max_iter": 400, "tol": 1e-12}
FITS = {
    "cd": lambda told: solution(poisson_nmf(X, 2, **told)),
    "mu": lambda told: solution(poisson_nmf(X, 2, solver="mu", **told)),
    "em": lambda told: solution(poisson_nmf(X, 2, solver="em", **told)),
    "several starts": lambda told: solution(poisson_nmf(X, 2, n_init=3, **told)),
    "validation": lambda told: solution(poisson_nmf(X, 2, validation=0.3, **told | {"max_time": 2.5})),
    "streamed": lambda told: solution(poisson_nmf(streamed(), 2, **told)),
    "streamed columns": lambda told: solution(poisson_nmf(streamed(by_column=True), 2, **told)),
    "PoissonNMF": lambda told: estimated(PoissonNMF(2, **told), X),
    "HPF": lambda told: estimated(HPF(2, **told), X),
    "HPF, streamed": lambda told: estimated(HPF(2, **told), streamed()),
}


@pytest.mark.parametrize("kind", FITS)
def test_max_time_stops_a_fit_at_the_same_iteration_with_and_without_compilation(time, kind):
    """Each record takes a second of a clock that is set by hand, and once a thousand for a compilation."""

    def told(compiles):
        def callback(record, W, H):
            time.now += 1.0
            if record.n_iter == 2:
                compile_for(time, compiles)

        return LIMITS | {"callback": callback}

    compiled, cached = FITS[kind](told(1000.0)), FITS[kind](told(0.0))
    n_iter, status, seconds = compiled
    assert (n_iter, status) == cached[:2]
    assert status is Status.MAX_TIME
    assert n_iter > 1
    assert seconds == pytest.approx(cached[2], abs=1e-9)  # the thousand seconds round those that are added to them


def test_counts_that_are_known_are_fitted_for_no_time_at_all_by_one_iteration(time):
    with pytest.warns(ConvergenceWarning, match="^Stopped at max_time .* after 1 iterations"):
        model = PoissonNMF(2, max_time=0, tol=1e-12, random_state=0).fit(as_counts(X))
    assert (model.n_iter_, model.status_) == (1, Status.MAX_TIME)
