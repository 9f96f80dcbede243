"""The campaign notices when a rule of the product is taken out (`campaign/mutants.py`)."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

import pytest

from campaign.mutants import MUTANTS, Mutant
from campaign.mutate import ROOT, Moved, changed, fastest, fate_of, main, row, without_change


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_text_stands_exactly_once(mutant: Mutant) -> None:
    for file, _, _ in mutant.changes:
        text = (ROOT / file).read_text("utf-8")
        after = changed(file, text, mutant.changes)
        assert after != text
        compile(after, file, "exec")


def test_list_is_sound() -> None:
    names = [mutant.name for mutant in MUTANTS]
    assert len(set(names)) == len(names) >= 24
    assert {mutant.pair for mutant in MUTANTS} - {""} <= set(names)
    assert all(mutant.protects and mutant.seed >= 1 for mutant in MUTANTS)


def test_moved_text_is_told() -> None:
    with pytest.raises(Moved, match=r"plan\.py has the text 'gone' 0 times"):
        changed("plan.py", "something else", [("plan.py", "gone", "")])


def test_unknown_name_is_refused() -> None:
    with pytest.raises(SystemExit):
        main(["faults", "--only", "no such mutant"])


def test_fastest_are_caught() -> None:
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        unchanged = pool.submit(without_change, [mutant.seed for mutant in fastest(15)])
        fates = list(pool.map(lambda mutant: fate_of(mutant, 150), fastest(15)))
    assert len(fates) == 15
    assert [row(fate) for fate in fates if not fate.schedules] == []
    assert unchanged.result() == ""
