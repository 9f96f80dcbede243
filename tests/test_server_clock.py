"""The clocks that the programs ask."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import pytest

from server import AwakeClock


def awake() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


@pytest.mark.parametrize(("system", "clock"), [("linux", awake), ("win32", time.monotonic)])
def test_the_servers_clock_is_the_one_that_goes_on_while_the_computer_sleeps(
    monkeypatch: pytest.MonkeyPatch, system: str, clock: Callable[[], float]
) -> None:
    if system == "linux" != sys.platform:
        pytest.skip("only Linux has a clock that stands still, and one that does not")
    monkeypatch.setattr(sys, "platform", system)
    before = clock()
    assert before <= AwakeClock.monotonic() <= clock()


def test_the_wall_clock_is_the_computers() -> None:
    before = time.time()
    assert before <= AwakeClock.time() <= time.time()
