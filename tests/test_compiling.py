"""Compilation that takes more than a second is announced once, on standard error."""

import os
import sys
import threading

import numpy as np
import pytest
from numba.core import event

from fastpmf import HPF, PoissonNMF, cli, non_negative_factorization, poisson_nmf, select_n_components
from fastpmf.io import write_counts
from fastpmf.utils import progress
from fastpmf.utils.progress import COMPILING, MESSAGE, compilation_shown

X = np.random.default_rng(0).poisson(1.0, (40, 20)) + np.eye(40, 20, dtype=int)


class Clock:
    """A clock, and timers of it, that are set by hand."""

    def __init__(self):
        self.now = 0.0
        self.timers = []

    def __call__(self):
        return self.now

    def timer(self, seconds, call):
        return Timer(self, seconds, call)

    def advance(self, seconds):
        self.now += seconds
        for timer in list(self.timers):
            if timer.due <= self.now:
                timer.cancel()
                timer.call()


class Timer:
    """A `threading.Timer` of such a clock."""

    daemon = False

    def __init__(self, clock, seconds, call):
        self.clock, self.seconds, self.call = clock, seconds, call

    def start(self):
        self.due = self.clock.now + self.seconds
        self.clock.timers.append(self)

    def cancel(self):
        if self in self.clock.timers:
            self.clock.timers.remove(self)


@pytest.fixture
def clock(monkeypatch):
    made = Clock()
    monkeypatch.setattr(progress, "perf_counter", made)
    monkeypatch.setattr(progress.threading, "Timer", made.timer)
    return made


def compile_for(clock, seconds):
    with event.trigger_event(COMPILING):
        clock.advance(seconds)


def test_compilation_of_more_than_a_second_is_announced_while_it_goes_on(clock, capsys):
    with compilation_shown(verbose=True), event.trigger_event(COMPILING):
        clock.advance(0.9)
        assert capsys.readouterr() == ("", "")
        clock.advance(0.2)
        assert capsys.readouterr() == ("", f"{MESSAGE}\n")
    assert not clock.timers


def test_several_short_compilations_are_announced_once_they_take_a_second_together(clock, capsys):
    with compilation_shown(verbose=True):
        compile_for(clock, 0.6)
        clock.advance(1000.0)  # of iterations
        compile_for(clock, 0.3)
        assert capsys.readouterr().err == ""
        compile_for(clock, 0.2)
        assert capsys.readouterr().err == f"{MESSAGE}\n"
        compile_for(clock, 5.0)
        assert capsys.readouterr().err == ""


def test_each_call_is_announced_anew_and_those_inside_it_are_not(clock, capsys):
    for _ in range(2):
        with compilation_shown(verbose=True):
            for _ in range(2):
                with compilation_shown(verbose=True):
                    compile_for(clock, 2.0)
        assert capsys.readouterr().err == f"{MESSAGE}\n"


def test_nothing_is_announced_if_verbose_is_false_or_nothing_is_compiled(clock, capsys):
    with compilation_shown(verbose=False):
        compile_for(clock, 2.0)
    compile_for(clock, 2.0)
    with compilation_shown(verbose=True):
        clock.advance(1000.0)
        with event.trigger_event("numba:compiler_lock"):  # also of kernels that are loaded from the cache
            clock.advance(2.0)
    assert capsys.readouterr() == ("", "")


def test_a_timer_that_is_late_announces_nothing(clock, capsys):
    with compilation_shown(verbose=True):
        with event.trigger_event(COMPILING):
            (timer,) = clock.timers
        timer.call()  # it had begun when it was cancelled
        with event.trigger_event(COMPILING):
            pass
    with event.trigger_event(COMPILING):
        timer.call()
    assert capsys.readouterr().err == ""


def test_an_error_ends_the_announcement(clock, capsys):
    with pytest.raises(ZeroDivisionError), compilation_shown(verbose=True), event.trigger_event(COMPILING):
        raise ZeroDivisionError
    assert not clock.timers
    compile_for(clock, 2.0)
    assert capsys.readouterr().err == ""


def test_calls_in_two_threads_that_overlap_are_announced_once(clock, capsys):
    inside, done = threading.Event(), threading.Event()

    def other():
        with compilation_shown(verbose=True):
            inside.set()
            done.wait(60)

    thread = threading.Thread(target=other)
    with compilation_shown(verbose=True):
        thread.start()
        inside.wait(60)
        compile_for(clock, 2.0)
    compile_for(clock, 2.0)  # the other call goes on
    done.set()
    thread.join()
    compile_for(clock, 2.0)
    assert capsys.readouterr().err == f"{MESSAGE}\n"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded")  # which is what is tested
def test_a_child_forked_while_a_thread_opens_a_call_does_not_hang(clock):
    with progress._notice._lock:  # which no thread of the child would release
        child = os.fork()
        if not child:
            status = 1
            try:
                with compilation_shown(verbose=True):
                    compile_for(clock, 0.5)
                status = 7
            finally:
                os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


def test_a_bar_stays_whole(clock, capsys):
    tqdm = pytest.importorskip("tqdm").tqdm
    with tqdm(total=2) as bar, compilation_shown(verbose=True):
        bar.update()
        compile_for(clock, 2.0)
    lines = capsys.readouterr().err.replace("\r", "\n").split("\n")
    assert lines.count(MESSAGE) == 1


def test_without_tqdm_it_is_a_plain_line(clock, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    with compilation_shown(verbose=True):
        compile_for(clock, 2.0)
    assert capsys.readouterr() == ("", f"{MESSAGE}\n")


@pytest.fixture
def compiles(clock, monkeypatch):
    """Every call of a kernel takes two seconds to compile it."""
    from fastpmf.kernels._jit import Kernel

    call = Kernel.__call__

    def compile_first(self, *args):
        compile_for(clock, 2.0)
        call(self, *args)

    monkeypatch.setattr(Kernel, "__call__", compile_first)


FITTED = {"max_iter": 3, "tol": 100.0, "random_state": 0}


def model(verbose, kind=PoissonNMF):
    return kind(2, verbose=verbose, **FITTED)


CALLS = {
    "PoissonNMF.fit": lambda verbose: model(verbose).fit(X),
    "PoissonNMF.transform": lambda verbose: model(False).fit(X).set_params(verbose=verbose).transform(X),
    "PoissonNMF.score": lambda verbose: model(False).fit(X).set_params(verbose=verbose).score(X),
    "PoissonNMF.partial_fit": lambda verbose: model(verbose).partial_fit(X),
    "HPF.fit": lambda verbose: model(verbose, HPF).fit(X),
    "HPF.transform": lambda verbose: model(False, HPF).fit(X).set_params(verbose=verbose).transform(X),
    "HPF.score": lambda verbose: model(False, HPF).fit(X).set_params(verbose=verbose).score(X),
    "HPF.partial_fit": lambda verbose: model(verbose, HPF).partial_fit(X),
    "poisson_nmf": lambda verbose: poisson_nmf(X, 2, verbose=verbose, **FITTED),
    "non_negative_factorization": lambda verbose: non_negative_factorization(
        X, n_components=2, verbose=int(verbose), **FITTED
    ),
    "select_n_components": lambda verbose: select_n_components(
        X, [2], estimator=model(False), n_splits=1, random_state=0, verbose=verbose
    ),
}


@pytest.mark.parametrize("call", CALLS)
def test_verbose_announces_compilation_once_and_otherwise_nothing_is_written(call, compiles, capsys):
    CALLS[call](True)
    out, err = capsys.readouterr()
    assert (out, err.count(MESSAGE)) == ("", 1)
    CALLS[call](False)
    assert capsys.readouterr() == ("", "")


def test_commands_announce_compilation_once_unless_quiet(compiles, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    write_counts("X.npz", X)
    for line in (
        "fit X.npz -k 2 --tol 100 -o model.npz",
        "transform model.npz X.npz -o W.npy",
        "recommend model.npz X.npz",
        "select X.npz -k 2 --splits 1",
    ):
        out = []
        for options, n_lines in (([], 1), (["--quiet"], 0)):
            assert cli.main(line.split() + options) == 0
            written = capsys.readouterr()
            assert written.err.count(MESSAGE) == n_lines
            assert MESSAGE not in written.out
            out.append(written.out)
        assert out[0] == out[1] or not line.startswith("recommend")
