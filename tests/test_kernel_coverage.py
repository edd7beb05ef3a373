"""Coverage can't see into compiled code, so the kernels' own tests run once more with the JIT off, line by line."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import fastpmf

TESTS = Path(__file__).parent
SUITES = [TESTS / name for name in ("test_kernels.py", "test_coordinate.py", "test_draw.py", "test_special.py")]
FILES = ["contract.py", "log_rate.py", "multiply.py", "csr.py", "coordinate.py", "rows.py", "draw.py", "posterior.py",
         "groups.py", "leverage.py"]  # fmt: skip
KERNELS = Path(fastpmf.__file__).parent / "kernels"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """How the kernels' tests ended with the JIT off, and the lines of each file in kernels/ that it missed."""
    folder = tmp_path_factory.mktemp("coverage")
    path = os.pathsep.join([str(KERNELS.parents[1]), os.environ.get("PYTHONPATH", "")])
    env = os.environ | {"NUMBA_DISABLE_JIT": "1", "COVERAGE_FILE": str(folder / "data"), "PYTHONPATH": path}

    def coverage(*args):
        command = [sys.executable, "-m", "coverage", *args]
        return subprocess.run(command, cwd=TESTS.parent, env=env, capture_output=True, text=True, timeout=300)

    tests = coverage("run", f"--include={KERNELS}/*", "-m", "pytest", *map(str, SUITES), "-q", "-n", "0",
                     "-p", "no:cacheprovider")  # fmt: skip
    report = coverage("json", "-o", str(folder / "report.json"))
    assert report.returncode == 0, report.stdout + report.stderr
    files = json.loads((folder / "report.json").read_text())["files"]
    return tests, {Path(file).name: set(found["missing_lines"]) for file, found in files.items()}


def test_kernels_agree_with_their_oracles_without_the_jit_too(run):
    tests, _ = run
    assert tests.returncode == 0, tests.stdout + tests.stderr


def functions_of(file):
    """The functions of a file in kernels/, and those of them that are operations, whose bodies are for the compiler."""
    nodes = [node for node in ast.parse((KERNELS / file).read_text()).body if isinstance(node, ast.FunctionDef)]
    return nodes, [node for node in nodes if any("operation(" in ast.unparse(by) for by in node.decorator_list)]


def lines(function):
    return set(range(function.lineno, function.end_lineno + 1))


@pytest.mark.parametrize("file", FILES)
def test_every_line_of_a_kernel_is_run_by_its_tests(run, file):
    _, missing = run
    assert missing[file] == set().union(*map(lines, functions_of(file)[1])) & missing[file]


def test_every_numpy_meaning_of_an_operation_is_run(run):
    """It is a lambda in a decorator, run with the line it is on, or a function of this name, or made of formulas."""
    _, missing = run
    for file, is_meaning in {
        "simd.py": lambda name: name.endswith("_meaning"),
        "draw.py": lambda name: name.endswith("_meaning"),
        "special.py": lambda name: name not in ("exp", "log"),  # of which NumPy's own are called
    }.items():
        meanings = [function for function in functions_of(file)[0] if is_meaning(function.name)]
        assert meanings
        for meaning in meanings:
            assert not missing[file] & lines(meaning), meaning.name
