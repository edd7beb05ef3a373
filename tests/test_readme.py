"""The README's example runs after its install command, prints what it shows, and all of it is short."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
EXAMPLE = re.search(r"^```python\n(.*?)^```$", README, re.MULTILINE | re.DOTALL).group(1)
SHOWN = re.search(r"^```text\n(.*?)^```$", README, re.MULTILINE | re.DOTALL).group(1)


@pytest.fixture(scope="module")
def example():
    names = {}
    exec(compile(EXAMPLE, "README.md", "exec"), names)
    return names


def test_the_example_prints_a_summary_of_the_form_shown(example):
    printed = str(example["model"].summary()).splitlines()
    shown = SHOWN.splitlines()
    assert len(printed) == len(shown)
    for line, other in zip(printed, shown, strict=True):  # words and numbers depend on the version of Python
        assert line.split()[:1] == other.split()[:1]
    assert shown[1] == printed[1], "the status"


def test_the_example_has_the_shapes_that_its_comments_say(example):
    rows, columns = (re.search(rf"{name}, \((\d+), (\d+)\)", EXAMPLE) for name in ("in each module", "in each topic"))
    k = int(rows[2])
    assert int(columns[1]) == k
    assert example["W"].shape[1] == example["H"].shape[0] == k


def test_the_first_two_bash_blocks_are_the_two_commands():
    blocks = re.findall(r"^```bash\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    assert blocks == ["pip install . && fastpmf demo\n", "pip install -e '.[test]' && pytest\n"]


def test_it_can_be_read_to_the_end():
    assert len(README.encode()) <= 8192


def test_its_pictures_are_in_the_repository():
    pictures = re.findall(r"(?:src|srcset)=\"([^\"]+)\"", README)
    assert len(pictures) == 2
    assert all((ROOT / picture).stat().st_size < 100_000 for picture in pictures)
