"""What `verbose` shows on standard error: bars in a terminal, elsewhere lines of stages, iterations and entries."""

import io
import itertools
import re
import sys
import threading

import numpy as np
import pytest
from scipy import sparse
from sklearn.exceptions import ConvergenceWarning

from fastpmf import PoissonNMF, cli, select_n_components
from fastpmf.utils import progress


@pytest.fixture
def X():
    return sparse.csr_array(np.random.default_rng(0).poisson(1.0, (30, 20)))


@pytest.fixture
def every_stage(monkeypatch):
    """Stages are written when they begin, as if each took more than a second."""

    class Immediately(threading.Timer):
        def start(self):
            self.function()

    def timer(delay, function):
        return (Immediately if function.__qualname__.startswith("stage") else threading.Timer)(delay, function)

    monkeypatch.setattr(progress, "threading", type("Threading", (), {"Timer": timer, "Lock": threading.Lock}))


class Terminal(io.StringIO):
    """Takes the place of standard error."""

    def isatty(self):
        return True


def test_a_stage_that_takes_long_is_named_on_one_line(every_stage, capsys):
    with progress.compilation_shown(verbose=True), progress.stage("reading a\nb\x1b[2J.npz"):
        pass
    assert capsys.readouterr().err == "reading a b?[2J.npz\n"


def test_short_stages_and_those_that_are_not_verbose_say_nothing(every_stage, monkeypatch, capsys):
    with progress.compilation_shown(verbose=False), progress.stage("reading"):
        pass
    with progress.stage("reading"):
        pass
    monkeypatch.undo()
    monkeypatch.setattr(progress, "DELAY", 1e6)
    with progress.compilation_shown(verbose=True), progress.stage("reading"):
        pass
    assert capsys.readouterr().err == ""


def test_a_fit_of_the_command_line_says_where_it_is(every_stage, X, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    sparse.save_npz("X.npz", X)
    line = "fit X.npz -k 2 --init nndsvd -o m.npz --weights W.csv --report r.html"
    assert cli.main(line.split()) == 0
    lines = [text for text in capsys.readouterr().err.splitlines() if text != progress.MESSAGE]
    stages = ["reading X.npz", "computing the starting factors", "iteration ", "transposing the counts",
              "evaluating the final factors", "Converged", "writing m.npz", "writing W.csv", "drawing the report",
              "writing r.html"]  # fmt: skip
    places = [next(i for i, text in enumerate(lines) if stage in text) for stage in stages]
    assert places == sorted(places)
    assert cli.main(f"{line} -q".split()) == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("line", "stage"),
    [
        ("transform m.npz X.npz -o W.npy", "computing the weights of rows"),
        ("recommend m.npz X.npz", "finding the columns of highest rate"),
        ("differential m.npz X.npz", "computing log fold changes"),
        ("evaluate m.npz X.npz --train X.npz", "scoring the held-out counts"),
        ("plot calibration m.npz X.npz --train X.npz -o c.png", "drawing the plot"),
        ("plot component-gains m.npz X.npz --train X.npz -o c.png", "computing the contributions of components"),
        ("report m.npz X.npz -o r.html", "drawing the report"),
        ("split X.npz --train a --test b", "writing a"),
    ],
)
def test_every_long_command_says_where_it_is(every_stage, X, tmp_path, monkeypatch, capsys, line, stage):
    monkeypatch.chdir(tmp_path)
    sparse.save_npz("X.npz", X)
    PoissonNMF(2, prior_W="auto", prior_H="auto", random_state=0).fit(X).save("m.npz")
    assert cli.main(line.split()) == 0
    lines = capsys.readouterr().err.splitlines()
    assert "reading X.npz" in lines
    assert stage in lines


def test_a_fit_writes_lines_with_its_iterations_where_there_is_no_terminal(X, capsys):
    model = PoissonNMF(2, random_state=0, verbose=True).fit(X)
    lines = [text for text in capsys.readouterr().err.splitlines() if text != progress.MESSAGE]
    assert lines[0].startswith("iteration     0 of 500  objective ")
    last = f"iteration {model.n_iter_:>5} of 500  objective {model.objective_:.6g} nats, kkt_residual "
    assert lines[-1].startswith(last)
    assert lines[-1].endswith(" s  Converged to within tol.")


def test_starts_are_numbered(X, monkeypatch, capsys):
    monkeypatch.setattr(progress, "perf_counter", itertools.count(0.0, 100.0).__next__)  # every line is due
    PoissonNMF(2, n_init=3, random_state=0, verbose=True).fit(X)
    lines = [text for text in capsys.readouterr().err.splitlines() if text != progress.MESSAGE]
    numbers = [int(number) for number in re.findall(r"^start (\d) of 3, iteration ", "\n".join(lines), re.MULTILINE)]
    assert list(dict.fromkeys(numbers))[:3] == [1, 2, 3]
    assert lines[-1].startswith(("iteration ", "final factors"))  # of the best start


def test_an_iteration_has_one_line_and_the_final_factors_another(X, monkeypatch, capsys):
    monkeypatch.setattr(progress, "perf_counter", itertools.count(0.0, 100.0).__next__)  # every line is due
    with pytest.warns(ConvergenceWarning):
        PoissonNMF(2, max_iter=20, tol=1e-9, random_state=0, verbose=True).fit(X)
    lines = [text for text in capsys.readouterr().err.splitlines() if text != progress.MESSAGE]
    assert sum("iteration    20 of 20" in line for line in lines) == 1
    assert lines[-1].startswith("final factors  objective ")
    assert "Stopped at max_iter" in lines[-1]


def test_a_terminal_gets_a_bar_that_ends_full(X, monkeypatch):
    pytest.importorskip("tqdm")
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    model = PoissonNMF(2, random_state=0, verbose=True).fit(X)
    last = terminal.getvalue().split("\r")[-1]
    assert last.startswith("converged: 100%|")
    assert f" {model.n_iter_}/{model.n_iter_} [" in last
    assert "kkt_residual" in last


def test_a_selection_says_which_fit_it_is_at(X, capsys, monkeypatch):
    select_n_components(X, [1, 2], n_splits=2, random_state=0, verbose=True)
    lines = [text for text in capsys.readouterr().err.splitlines() if text != progress.MESSAGE]
    assert lines[:2] == ["k = 2, split 1 of 2 (1 of 4)", "k = 1, split 1 of 2 (2 of 4)"]
    assert len(lines) == 4


def test_lines_of_a_long_computation_become_rarer(monkeypatch, capsys):
    now = iter([0.0, *np.arange(0.5, 1000.0, 0.5)])
    monkeypatch.setattr(progress, "perf_counter", lambda: next(now))
    with progress.progress_bar(None, "entries", verbose=True) as shown:
        for _ in range(900):
            shown.update(1)
    lines = capsys.readouterr().err.splitlines()
    counts = [int(line.split()[0].replace(",", "")) for line in lines]
    assert len(lines) < 60
    assert np.all(np.diff(counts, 2) >= -1)
    assert all(line.endswith(" entries") for line in lines)
