"""A short campaign of random trades between every two kinds of account, and that it can find something."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from campaign import trades
from campaign.trades import PAIRS, run_history

ROOT = Path(__file__).resolve().parent.parent


def campaign(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "campaign", "trades", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=300)


def test_random_histories_come_to_the_same_lots_between_all_kinds_of_account() -> None:
    ran = campaign("--histories", "500")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert all(pair in ran.stdout for pair in PAIRS)


def test_random_histories_with_faults_double_nothing_and_end_flat() -> None:
    ran = campaign("--histories", "120", "--faults")
    assert ran.returncode == 0, ran.stdout + ran.stderr


@pytest.mark.parametrize("pair", PAIRS)
def test_a_copier_that_copies_nothing_is_found_out(pair: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trades, "WIDE", trades.replace(trades.WIDE, max_exposure_trades=0))
    assert "the share is" in run_history(pair, "half", "0.01", [("open", 0, 20, 1)])[0]
