"""The files that services read agree with the package."""

import re
import tomllib
from pathlib import Path

import fastpmf

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def text(path: str) -> str:
    return (ROOT / path).read_text(encoding="utf-8")


def test_the_citation_and_the_conda_recipe_have_the_version_of_the_package():
    for path in ("CITATION.cff", ".conda/recipe.yaml"):
        (version,) = re.findall(r"^ *version: ([\d.]+)$", text(path), re.MULTILINE)
        assert version == fastpmf.__version__


def test_the_conda_recipe_asks_for_the_dependencies_of_the_package():
    run = text(".conda/recipe.yaml").partition("  run:\n")[2].partition("\n\n")[0]
    asked = {line.strip("- ").replace(" ", "") for line in run.splitlines()}
    needed = {line for line in PROJECT["dependencies"] if ";" not in line}
    assert asked == needed | {f"python{PROJECT['requires-python']}"}


def test_the_workflows_test_every_python_that_the_package_names():
    named = [line.rpartition(" ")[2] for line in PROJECT["classifiers"] if re.search(r":: 3\.\d+$", line)]
    (tested,) = re.findall(r"python: \[(.*)\]", text(".github/workflows/tests.yml"))
    assert re.findall(r"[\d.]+", tested) == named
    assert PROJECT["requires-python"] == f">={named[0]}"


def test_the_oldest_dependencies_that_are_tested_are_those_asked_for():
    tested = set(re.findall(r"'([\w-]+)==([\d.]+)\.\*'", text(".github/workflows/tests.yml")))
    assert tested == {tuple(line.split(">=")) for line in PROJECT["dependencies"] if ";" not in line}
