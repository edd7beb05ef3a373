"""What the README shows in Python runs as it stands there, from the top."""

import re
from pathlib import Path

import pytest

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def test_every_python_block_of_the_readme_runs_after_those_above_it(capsys, monkeypatch, tmp_path):
    plt = pytest.importorskip("matplotlib.pyplot")
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```python\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    assert len(blocks) > 1
    names = {}
    for block in blocks:
        exec(compile(block, "README.md", "exec"), names)
    said = capsys.readouterr().out
    assert "Converged" in said
    assert float(names["model"].objective_) > 0
    assert (tmp_path / "structure.png").stat().st_size > 1000
    plt.close("all")


def test_what_the_first_example_says_of_its_output_is_so(capsys):
    block = re.search(r"^```python\n(.*?)^```$", README, re.MULTILINE | re.DOTALL).group(1)
    names = {}
    exec(compile(block, "README.md", "exec"), names)
    assert capsys.readouterr().out.splitlines()[0] == re.search(r"print\(model.status_\)  # (.*)", block).group(1)
    assert names["W"].shape == (1000, 10)
    assert names["H"].shape == (10, 400)
