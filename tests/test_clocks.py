"""The clocks that the programs ask."""

from __future__ import annotations

import sys
import time

import pytest

from clocks import AwakeClock


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the clock of the module time goes on by itself")
def test_the_servers_clock_is_the_one_that_goes_on_while_the_computer_sleeps() -> None:
    before = time.clock_gettime(time.CLOCK_BOOTTIME)
    assert before <= AwakeClock.monotonic() <= time.clock_gettime(time.CLOCK_BOOTTIME)


def test_the_wall_clock_is_the_computers() -> None:
    before = time.time()
    assert before <= AwakeClock.time() <= time.time()
