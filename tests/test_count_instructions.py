"""The counting study: what it reads of callgrind's and makes of it, and what it says without valgrind."""

import os
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "scripts" / "count_instructions.py"


@pytest.fixture
def study(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    import count_instructions

    return count_instructions


def test_a_dump_tells_its_total(study):
    assert study.total_of("desc: Trigger: --dump-after=qsort_r\n\nevents: Ir\nsummary: 12\n\ntotals: 34\n") == 34


def test_a_call_with_one_nonzero_is_taken_off_and_earlier_marks_are_ignored(study):
    assert study.per_nonzero([7, 7, 7, 100, 1_090, 200, 398], n_cases=2, nnz=100) == [10.0, 2.0]


VALGRIND = """\
#!/bin/sh
for argument in "$@"; do
    case $argument in --callgrind-out-file=*) dumps=${argument#*=} ;; esac
done
n=0
for total in TOTALS; do
    n=$((n + 1))
    echo "totals: $total" > "$dumps.$n"
done
: > "$dumps"
"""


@pytest.fixture
def run(study, monkeypatch, tmp_path):
    """The study's command line, with nothing on the path but what a test puts there."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", [str(SCRIPT), "--counts", "1000", *map(str, arguments)])
        monkeypatch.setenv("PATH", str(tmp_path))
        return study.main()

    return run


@pytest.mark.skipif(os.name != "posix", reason="neither valgrind nor a shell")
def test_every_kernel_runs_as_a_comparison_and_its_totals_become_a_table(study, run, monkeypatch, tmp_path, capfd):
    nnz = study.as_counts(study.power_law(1_000)).nnz
    # Two marks of Python's own, then for the n-th kernel 7 instructions with one nonzero, and 3 n more for each other
    totals = [1, 1, *(total for n in (1, 2, 3, 4) for total in (7, 7 + 3 * n * (nnz - 1)))]
    valgrind = tmp_path / "valgrind"
    valgrind.write_text(VALGRIND.replace("TOTALS", " ".join(map(str, totals))))
    valgrind.chmod(0o755)
    # The process that would be counted, in which every kernel runs twice, doesn't compile them: that takes long.
    monkeypatch.setenv("NUMBA_DISABLE_JIT", "1")
    assert run("-k", 3, "--dtype", "float64", "--csv", tmp_path / "table.csv") == 0
    out, err = capfd.readouterr()
    assert err == ""  # where an error in a comparison would be told
    rows = [tuple(line.split()) for line in out.splitlines()]
    assert rows[1:] == [(kernel, "3", "float64", f"{3 * n}.00") for n, kernel in enumerate(study.KERNELS, 1)]
    assert (tmp_path / "table.csv").read_text().split() == [",".join(row) for row in rows]


def test_without_valgrind_it_says_so_and_exits_with_2(run, capsys):
    assert run() == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("valgrind is not there")
