"""The counting study: what it reads of callgrind's and makes of it, and what it says without valgrind."""

import os
import subprocess
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


@pytest.mark.parametrize("kernel", ["ratio_contract", "log_rate", "multiply", "descend"])
def test_every_kernel_can_be_called_as_a_comparison(study, kernel):
    assert study.prepare((kernel, 3, "float64"), study.as_counts([[1, 2], [0, 3]]))(0, 0) == 0


def test_without_valgrind_it_says_so_and_exits_with_2(tmp_path):
    path = os.pathsep.join([str(SCRIPT.parents[1]), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--counts", "1000"],
        env={**os.environ, "PATH": str(tmp_path), "PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("valgrind is not there")
