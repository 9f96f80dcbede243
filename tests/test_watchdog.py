"""The watchdog in a process of its own, which it ends."""

from __future__ import annotations

import subprocess
import sys

import pytest
from chain import ROOT

# `freeze` is a C function that holds the GIL for so many seconds, as every function of the real package does.
SCRIPT = """
import ctypes, sys, time
from watchdog import Watchdog
libc = ctypes.PyDLL("kernel32" if sys.platform == "win32" else None)
def freeze(seconds):
    if sys.platform == "win32": libc.Sleep(int(seconds * 1000))
    else: libc.usleep(int(seconds * 1e6))
class Mt5:
    ORDER_TYPE_BUY = 0
    def initialize(self, seconds): freeze(seconds)
    def positions_get(self, seconds): freeze(seconds)
    def orders_get(self, seconds): time.sleep(seconds)
    def last_error(self): return (1, "Success")
watchdog = Watchdog(limit_s=1, timeout_ms=1000)
mt5 = watchdog.watched(Mt5())
watchdog.start()
print("watched", flush=True)
"""


def run(*lines: str) -> tuple[int, str, str]:
    command = [sys.executable, "-c", SCRIPT + "\n".join(lines) + "\nprint('through')\nwatchdog.close()"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    return ended.returncode, ended.stdout, ended.stderr


@pytest.mark.parametrize("before", ["", "mt5.initialize(0)", "mt5.positions_get(0)"])
def test_a_call_that_holds_the_gil_for_too_long_ends_the_process_from_the_first_moment_on(before: str) -> None:
    code, out, err = run(before, "mt5.positions_get(30)")
    assert (code, out) == (1, "watched\n")
    assert err.startswith("Timeout (")
    assert "in positions_get" in err


def test_a_call_that_waits_without_the_gil_for_too_long_ends_the_process_too() -> None:
    code, out, err = run("mt5.orders_get(30)")
    assert (code, out) == (1, "watched\n")
    assert err.startswith("Hung: orders_get was not answered for 1 s")


@pytest.mark.parametrize(
    "lines",
    ["mt5.initialize(3)", "time.sleep(3)", "[mt5.positions_get(0.4) for _ in range(6)]", "freeze(0.9)"],
    ids=["a start takes longer", "nothing is called", "many short calls", "something else holds the GIL"],
)
def test_what_is_allowed_to_take_its_time_ends_nothing(lines: str) -> None:
    assert run(lines) == (0, "watched\nthrough\n", "")


def test_after_its_end_it_ends_nothing() -> None:
    assert run("watchdog.close()", "freeze(3)") == (0, "watched\nthrough\n", "")


def test_all_else_of_the_package_is_as_it_was() -> None:
    code, out, _ = run("print(mt5.ORDER_TYPE_BUY, mt5.last_error())")
    assert (code, out) == (0, "watched\n0 (1, 'Success')\nthrough\n")
