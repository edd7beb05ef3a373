"""The README's tables come from the studies' files, with machine, versions and commands, or not at all."""

import importlib
import math
import sys
from pathlib import Path

import pytest
from scipy import sparse

SCRIPTS = Path(__file__).parents[1] / "scripts"


@pytest.fixture
def scripts(monkeypatch):
    """Import a script as if from its folder, and only then: not while tests are collected."""
    monkeypatch.syspath_prepend(SCRIPTS)
    return importlib.import_module


@pytest.fixture
def wrote(scripts, tmp_path, monkeypatch):
    """Write a table as this study does; the path."""

    def write(study, header, *rows):
        monkeypatch.setattr(sys, "argv", [f"somewhere/{study}.py", "--data", "somewhere/else/tiny.npz"])
        path = tmp_path / f"{study}.csv"
        scripts("provenance").write_table(path, header, rows, {"tiny": sparse.csr_array((1107, 507))})
        return str(path)

    return write


@pytest.fixture
def files(scripts, wrote):
    """One small file of each study."""
    tiny = ["tiny", 5]
    points = [(1, 0.5, 120.0, 0.2), (2, 1.5, 100.05, 0.0005)]
    fastpmf, failed = (
        ["fastpmf", "1", "Poisson/KL", "given", 2, 1.9, "float32", 0],
        ["lda", "2", "LDA", "own", 1, "", "", 0],
    )
    shape, dtypes, speed = (50_000, 20_000), ("float32", "uint8"), (0.0432, 0.123, 4.321, 12.34, 17, 0.5, 0.4)
    return [
        wrote("versus_sklearn", scripts("versus_sklearn").HEAD, [*tiny, "float32", 2.5, 50, 20, 7.25, 7.25, 1.5, 1.25]),
        wrote(
            "time_to_objective",
            scripts("time_to_objective").HEAD,
            *([*tiny, seed, 7.0, 19, s, 40 * s, 40, 5] for seed, s in enumerate((0.1, 0.3, 0.2))),
        ),
        wrote(
            "compare_solvers",
            scripts("compare_solvers").COLUMNS,
            *([*tiny, "cd+x", 0, n, s, D, gap, gap] for n, s, D, gap in points),
            [*tiny, "mu", 0, 1, 1.5, 110.0, 0.1, 0.1],
        ),
        wrote(
            "compare_rivals",
            scripts("compare_rivals").COLUMNS,
            *([*tiny, *fastpmf, n, s, D, gap, 0, ""] for n, s, D, gap in points),
            [*tiny, *failed, "", "", "", "", "", "ImportError: no | such module"],
        ),
        wrote(
            "compare_starts",
            scripts("compare_starts").Fit._fields,
            *(
                [*tiny, "random", "cd+x", n_init, seed, 400, s, D, 1e-4, "float32"]
                for seed, (one, ten) in enumerate([(1000.0, 990.0), (1020.0, 985.0), (1010.0, 992.0)])
                for n_init, s, D in ((1, 0.5, one), (10, 2.5 + seed, ten))
            ),
            [*tiny, "random", "mu", 1, 0, 2000, 9.0, 1100.0, 1e-4, "float32"],
        ),
        wrote(
            "transform_speed",
            scripts("transform_speed").Point._fields,
            [*tiny, 1e-3, 553, 2000.0, 0.0123, 1.23, 100, 812.5, 813.75, 0.0321, 0, 200, 2, "float32"],
        ),
        wrote(
            "scaling_study",
            scripts("scaling_study").Point._fields,
            ["weak", *shape, 10_000_000, 0.01, 32, 0.0, *dtypes, 2, *speed, 1.5 * 2**30, 96.4 * 2**20, 0.1],
            ["skew", *shape, 900_000, 0.01, 32, 0.5, *dtypes, 1, *speed, math.nan, math.nan, math.nan],
        ),
        wrote(
            "roofline",
            scripts("roofline").Point._fields,
            ["bound", "stream", "", 2, "float64", 0, 0.01, 0.1, 0, 0.3, 10, 30, math.nan, 0.1, "", math.nan],
            *(
                ["kernel", name, side, 2, "float32", 20, 0.1, 1, 1, 1, 10, 20, 12.34, 0.5, "gather", 0.456]
                for side in "WH"
                for name in ("ratio_contract", "descend")
            ),
        ),
        wrote("other", ["nonzeros", "seconds"], [1_000_000, 0.123456]),
    ]


def test_each_study_is_known_by_its_header_and_told_with_machine_versions_and_command(scripts, files, capsys):
    assert scripts("readme_tables").main([*reversed(files), "--name", "tiny", "cells"]) == 0
    out = capsys.readouterr().out
    lines = out.splitlines()
    assert lines[0].startswith("Measured on ")
    assert "cores in use; python " in lines[0]
    for package in ("numpy", "numba", "scikit-learn", "fastpmf"):
        assert f", {package} " in lines[0]
    for path in files:
        assert f"From `python scripts/{Path(path).stem}.py --data tiny.npz`." in out
    assert "somewhere" not in out
    cells = "| cells, 1,107 × 507, 0 nonzeros | 5 |"
    assert f"{cells} float32 | 2.5 ms | 50 ms | 20 | 7.2 | 1.5 (1.2) |" in lines  # 7.25 and 1.25: halves to even
    assert f"{cells} 19 | 0.20 s | 8.0 s | 40 |" in lines
    assert f"{cells} 1.5 | 1.5 s | - | 100, cd+x | 9.9e-02 |" in lines
    assert f"{cells} fastpmf (1) | Poisson/KL | 2 | float32 | 100 | 5.0e-04 | 1.5 s | 1.5 s | 1.0 |" in lines
    assert "| | 5 | lda (2) | LDA | 1 | | failed: ImportError: no \\| such module | - | - | - | - |" in lines
    assert "| counts | k | cd+x (400) | cd+x, n_init=10 (400) | mu (2,000) |" in lines
    assert f"{cells} 1,010 | 990, 7.0 fits | 1,100 |" in lines
    assert f"{cells} 553 | 0.001 | 0.012 s | 1.2 s | 100 | 812.5 / 813.8 | 0.032 |" in lines
    assert "| weak | 2 | 50,000 × 20,000 | 10.0 M | 32 | 2 | 4.3 | 12 | 1.5 GiB (96 MiB) |" in lines
    assert "| skew | 0.5 | 50,000 × 20,000 | 0.9 M | 32 | 1 | 4.3 | 12 | - |" in lines
    kernel = lines.index("| descend | W | 20 | float32 | 2 | 12 | gather | 0.46 |")
    assert lines[kernel + 1] == "| | H | 20 | float32 | 2 | 12 | gather | 0.46 |"
    assert "stream" not in out
    assert lines[-3:] == ["| nonzeros | seconds |", "| --- | --- |", "| 1,000,000 | 0.123 |"]


def test_write_replaces_what_is_between_the_markers_and_check_tells_whether_it_would(scripts, files, tmp_path, capsys):
    tables, readme = scripts("readme_tables"), tmp_path / "README.md"
    around = "# A\n\n<!-- tables: begin -->{}<!-- tables: end -->\n\nB\n"
    readme.write_text(around.format("\nold\n"), encoding="utf-8")
    options = [*files, "--readme", str(readme)]
    assert tables.main([*options, "--check"]) == 1
    assert "is not what these tables make it" in capsys.readouterr().out
    assert readme.read_text(encoding="utf-8") == around.format("\nold\n")
    assert tables.main([*options, "--write"]) == 0
    assert tables.main([*options, "--check"]) == 0
    tables.main(files)
    assert readme.read_text(encoding="utf-8") == around.format(f"\n{capsys.readouterr().out}")


def test_machines_that_differ_are_told_at_each_table(scripts, files, capsys):
    path = Path(files[0])
    path.write_text(path.read_text(encoding="utf-8").replace("# machine: ", "# machine: Another "), encoding="utf-8")
    scripts("readme_tables").main(files[:2])
    out = capsys.readouterr().out
    assert not out.startswith("Measured on")
    assert "From `python scripts/versus_sklearn.py --data tiny.npz` on Another " in out


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a,b\n1,2\n", "does not say its command, machine, versions: have the study write it anew with --csv"),
        ("# command: c\n# machine: m\n# versions: v\na,b\n", "has no rows"),
        (None, "No such file"),
    ],
)
def test_a_table_that_can_not_be_made_is_refused_in_a_sentence(scripts, tmp_path, capsys, text, said):
    path = tmp_path / "some.csv"
    if text is not None:
        path.write_text(text, encoding="utf-8")
    with pytest.raises(SystemExit):
        scripts("readme_tables").main([str(path)])
    assert said in capsys.readouterr().err.splitlines()[-1]


def test_a_readme_without_markers_is_left_as_it_is(scripts, files, tmp_path, capsys):
    readme = tmp_path / "README.md"
    readme.write_text("# A\n", encoding="utf-8")
    with pytest.raises(SystemExit):
        scripts("readme_tables").main([*files, "--readme", str(readme), "--write"])
    assert "the README must have a line <!-- tables: begin -->" in capsys.readouterr().err
    assert readme.read_text(encoding="utf-8") == "# A\n"
