"""docs/guide/troubleshooting.md has every warning of the package, and only messages that the package has."""

import ast
import re
from pathlib import Path

import fastpmf
from fastpmf import Status

PACKAGE = Path(fastpmf.__file__).parent
PAGE = (Path(__file__).parents[1] / "docs" / "guide" / "troubleshooting.md").read_text(encoding="utf-8")
QUOTED = re.findall(r"^`(.+)`$\n: ", PAGE, re.MULTILINE)  # the terms of its definition lists, … for what varies
TREES = {path: ast.parse(path.read_text(encoding="utf-8")) for path in sorted(PACKAGE.rglob("*.py"))}


def pattern(text: ast.expr) -> str:
    """The regular expression of what a string or an f-string can be, any text for a placeholder; "" for other code."""
    if isinstance(text, ast.JoinedStr):
        return "".join(re.escape(part.value) if isinstance(part, ast.Constant) else ".+" for part in text.values)
    return re.escape(text.value) if isinstance(text, ast.Constant) and isinstance(text.value, str) else ""


def test_every_warning_of_the_package_is_on_the_page():
    calls = {
        f"{path.relative_to(PACKAGE)}, line {node.lineno}": pattern(node.args[0])
        for path, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "warn"
    }
    assert len(calls) > 20
    assert all(calls.values()), "the text of a warning is a string or an f-string in the call of `warn`"
    missing = [place for place, known in calls.items() if not any(re.fullmatch(known, text) for text in QUOTED)]
    assert not missing, "add these warnings to docs/guide/troubleshooting.md"


def test_every_message_on_the_page_is_one_of_the_package():
    nodes = [node for tree in TREES.values() for node in ast.walk(tree)]
    plain = {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    with_values = {pattern(node) for node in nodes if isinstance(node, ast.JoinedStr)}
    with_values = {known for known in with_values if len(known.replace(".+", "")) > 10}  # others match any text
    wrong = [
        text for text in QUOTED if text not in plain and not any(re.fullmatch(known, text) for known in with_values)
    ]
    assert not wrong


def test_the_page_has_every_reason_to_stop_before_convergence():
    page = " ".join(PAGE.split())
    assert all(status.value in page for status in set(Status) - {Status.CONVERGED, Status.ONLINE})
