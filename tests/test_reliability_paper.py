"""docs/reliability.md and docs/security.md name a test for every row of their tables, and every test named exists."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAPER = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
ROWS = [f"S{n}" for n in range(1, 19)] + [f"V{n}" for n in range(1, 13)] + [f"C{n}" for n in range(1, 31)] + ["C22b"]
SECURITY = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
RULES = re.findall(r"^\| ([A-Z][^|]*) \|(.*)\|$", SECURITY.partition("## Under attack")[0], re.MULTILINE)
NAMED = sorted(set(re.findall(r"`(tests/[\w/]+\.py)::(\w+)", PAPER + SECURITY)))


def cells(row: str) -> list[str]:
    """The cells of a row: its name, the failure, what happens, the tests."""
    found = re.findall(rf"^\| {row} \|(.*)\|$", PAPER, re.MULTILINE)
    assert len(found) == 1, f"{row} stands {len(found)} times in docs/reliability.md"
    return [row, *(cell.strip() for cell in found[0].split("|"))]


@pytest.mark.parametrize("row", ROWS)
def test_every_failure_has_its_row_and_its_test(row: str) -> None:
    _, failure, happens, tests = cells(row)
    assert failure
    assert happens
    assert re.search(r"`tests/\w+\.py::test_\w+`", tests), tests


def test_every_rule_of_safety_says_what_happens_and_has_its_test() -> None:
    assert len(RULES) > 30
    for rule, rest in RULES:
        happens, tests = (cell.strip() for cell in rest.split("|"))
        assert happens, rule
        assert re.fullmatch(r"(`tests/\w+\.py::test_\w+`(, )?)+", tests), rule


@pytest.mark.parametrize(("file", "name"), NAMED, ids=[name for _, name in NAMED])
def test_every_test_that_is_named_exists(file: str, name: str) -> None:
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    assert name in {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
