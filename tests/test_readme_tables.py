"""The README's tables come from the studies' files, with machine, versions and commands, or not at all."""

import importlib
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
    for study in ("versus_sklearn", "time_to_objective", "compare_solvers", "compare_rivals", "other"):
        assert f"From `python scripts/{study}.py --data tiny.npz`." in out
    assert "somewhere" not in out
    cells = "| cells, 1,107 × 507, 0 nonzeros | 5 |"
    assert f"{cells} float32 | 2.5 ms | 50 ms | 20 | 7.2 | 1.5 (1.2) |" in lines  # 7.25 and 1.25: halves to even
    assert f"{cells} 19 | 0.20 s | 8.0 s | 40 |" in lines
    assert f"{cells} 1.5 | 1.5 s | - | 100, cd+x | 9.9e-02 |" in lines
    assert f"{cells} fastpmf (1) | Poisson/KL | 2 | float32 | 100 | 5.0e-04 | 1.5 s | 1.5 s | 1.0 |" in lines
    assert "| | 5 | lda (2) | LDA | 1 | | failed: ImportError: no \\| such module | - | - | - | - |" in lines
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
