"""The measurements' own arithmetic, and that what could not be measured is said. The times themselves are no tests."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from bench import all as everything
from bench import fanout, growth, rig
from bench.fanout import OURS, WEBSOCKETS, C, Figures, Results


def test_results_go_between_the_marks_and_nowhere_else(tmp_path: Path) -> None:
    page = tmp_path / "benchmarks.md"
    page.write_text(f"before\n{everything.BEGIN}\nold\n{everything.END}\nafter\n", encoding="utf-8")
    for results in ("first", "new → ones"):
        everything.write(page, results)
    text = page.read_text(encoding="utf-8")
    assert text == f"before\n{everything.BEGIN}\n\nnew → ones\n{everything.END}\nafter\n"


def test_a_page_without_its_marks_is_left_alone(tmp_path: Path) -> None:
    page = tmp_path / "benchmarks.md"
    page.write_text("mine", encoding="utf-8")
    with pytest.raises(SystemExit, match="lost its marks"):
        everything.write(page, "new")
    assert page.read_text(encoding="utf-8") == "mine"


def test_the_page_that_is_written_has_its_marks() -> None:
    text = everything.PAGE.read_text(encoding="utf-8")
    assert text.count(everything.BEGIN) == text.count(everything.END) == 1


def test_a_ratio_is_the_median_of_the_repetitions() -> None:
    results = Results()
    results.found[OURS, 1000] = [Figures(last=[1.0]), Figures(last=[90.0]), Figures(last=[3.0])]
    results.found[C, 1000] = [Figures(last=[1.0]), Figures(last=[10.0]), Figures(last=[2.0])]
    assert results.ratio(1000, C, 50) == 1.5
    assert results.ratio(1000, WEBSOCKETS, 50) is None


def test_a_goal_is_met_up_to_its_limit_and_says_why_it_was_not_measured() -> None:
    assert rig.Goal("last", 1.6, 1.6, "x").row().endswith("| 1.6 x | met |")
    assert rig.Goal("last", 1.6, 1.61, "x").row().endswith("| **not met** |")
    results = Results(missing={WEBSOCKETS: "there is no such module"})
    rows = [goal.row() for goal in results.goals() if WEBSOCKETS in goal.what]
    assert len(rows) == 4
    assert all("not measured: there is no such module" in row for row in rows)


def test_growth_is_told_by_the_cost_that_grows_most() -> None:
    found = growth.Growth("trades", {10: {"a": 1.0, "b": 1.0}, 100: {"a": 2.0, "b": 1.0}, 1000: {"a": 10.0, "b": 30.0}})
    (goal,) = found.goals()
    assert "(b)" in goal.what
    assert goal.found == 3.0
    assert not goal.met


@pytest.fixture
def no_peer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(rig.PEERS, WEBSOCKETS, [sys.executable, "-c", "import websockets_that_are_not_here"])
    monkeypatch.setitem(rig.PEERS, "node ws", ["node-that-is-not-here"])


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (WEBSOCKETS, r"No module named .* \(to install it: pip install"),
        ("node ws", "there is no node-that-is-not-here"),
    ],
)
@pytest.mark.usefixtures("no_peer")
def test_a_peer_that_is_not_installed_is_left_out_with_the_reason(name: str, words: str) -> None:
    said: list[str] = []
    results = fanout.run([1], [name], 1, 1, 0, said.append)
    assert list(results.missing) == [name]
    assert said == [f"{name}: NOT MEASURED: {results.missing[name]}"]
    assert f"{name} was not measured: {results.missing[name]}" in fanout.table(results, [name])[-1]
    with pytest.raises(rig.NotHere, match=words), rig.peer(name, 1):
        pass


def test_without_a_compiler_the_page_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda _name: None)
    monkeypatch.setattr(rig, "_compiled", {})
    page = everything.Page()
    page.section("Fan-out", lambda: [str(rig.compiled(rig.BENCH / "clients.c"))])
    assert "**Not measured**: it needs a C compiler (cc or gcc) and Linux." in page.sections[0]
