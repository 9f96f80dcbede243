"""A terminal that does not answer, and a working part that dies: the work is started again and the accounts agree."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from chain import MAGIC, ROOT, Chain
from test_chain import running_copier

LIMIT_S = 2


class Hanging(Chain):
    """The terminals of which may take two seconds to answer."""

    def write_configs(self) -> None:
        super().write_configs()
        for name in ("config_sender.json", "config_client.json"):
            file = self.folder / name
            settings = json.loads(file.read_text())
            settings["mt5"]["call_timeout_s"] = LIMIT_S
            file.write_text(json.dumps(settings))

    def said(self, part: str) -> str:
        return (self.folder / f"{part}.out").read_text("utf-8", "replace")

    def worker_of(self, part: str) -> int:
        """The process that works now."""
        return int(re.findall(r"process (\d+)", self.said(part))[-1])

    def types(self, part: str, line: str) -> None:
        stdin = self.running[part].stdin
        assert stdin is not None
        stdin.write(f"{line}\n".encode())
        stdin.flush()


@pytest.fixture
def chain(tmp_path: Path) -> Iterator[Hanging]:
    one = Hanging(tmp_path)
    try:
        yield one
    finally:
        one.stop()


@pytest.mark.parametrize("gil", [True, False], ids=["with the GIL", "without the GIL"])
@pytest.mark.parametrize(
    ("function", "details"),
    [
        ("orders_get", {}),
        ("order_send", {"where": {"magic": MAGIC}}),
        ("order_send", {"where": {"magic": MAGIC}, "after": True}),
    ],
    ids=["while it reads", "before an order", "after an order"],
)
def test_a_hanging_terminal_ends_the_working_part_and_the_next_one_settles_it(
    chain: Hanging, function: str, details: dict[str, Any], gil: bool
) -> None:
    running_copier(chain)
    goes = chain.master_opens(0.2)
    chain.agrees("one trade")
    chain.client.inject(function, "hang", times=1, gil=gil, **details)
    chain.master_opens(0.4)
    chain.wait(lambda: "MetaTrader 5 hangs" in chain.said("copier"), "the hang to be noticed")
    assert f"({function})" in chain.said("copier")
    chain.wait(lambda: chain.said("copier").count("settings: copying") == 2, "the next working part to be connected")
    chain.client.sim_clear_faults()
    chain.master_closes(goes)
    # An order that hung before it was carried out is carried out now. However late, it is the copy and not sent again.
    chain.agrees("after the terminal hung")
    assert chain.ever_opened() == 2
    assert "watchdog.py" in (chain.folder / "client.log").read_text(), "the stack is kept for whoever asks why"


def test_a_hanging_terminal_of_the_master_is_noticed_too(chain: Hanging) -> None:
    running_copier(chain)
    chain.master.inject("orders_get", "hang", times=1, gil=True)
    chain.wait(lambda: "MetaTrader 5 hangs" in chain.said("sender"), "the hang to be noticed")
    chain.master_opens(0.2)
    chain.agrees("after the terminal hung")


def test_a_terminal_that_takes_its_time_to_start_is_no_hanging_one(chain: Hanging) -> None:
    running_copier(chain)
    chain.kill("copier")
    chain.client.inject("initialize", "delay", times=1, seconds=2 * LIMIT_S)
    chain.restart("copier")
    chain.wait(lambda: chain.said("copier").count("settings: copying") == 2, "the copier to be connected")
    assert "hangs" not in chain.said("copier")


@pytest.mark.parametrize("part", ["copier", "sender"])
def test_a_working_part_that_is_killed_is_started_again(chain: Hanging, part: str) -> None:
    running_copier(chain)
    chain.master_opens(0.2)
    chain.agrees("one trade")
    os.kill(chain.worker_of(part), signal.SIGTERM if sys.platform == "win32" else signal.SIGKILL)
    chain.wait(lambda: "has crashed" in chain.said(part), "the crash to be noticed")
    chain.master_opens(0.4)
    chain.agrees("after the working part was killed")
    assert chain.ever_opened() == 2


def test_without_the_supervising_process_the_working_part_ends_and_another_copier_can_start(chain: Hanging) -> None:
    running_copier(chain)
    supervising = chain.running.pop("copier")
    supervising.kill()
    supervising.wait()
    chain.start("copier")
    chain.wait(lambda: chain.said("copier").count("settings: copying") == 2, "the other copier to be connected")
    chain.master_opens(0.2)
    chain.agrees("with the other copier")


def test_an_end_while_the_terminal_hangs_is_forced_and_says_which_order_is_in_doubt(chain: Hanging) -> None:
    running_copier(chain)
    chain.kill("copier")
    file = chain.folder / "config_client.json"
    settings = json.loads(file.read_text())
    settings["mt5"]["call_timeout_s"] = 600
    file.write_text(json.dumps(settings))
    chain.restart("copier")
    chain.wait(lambda: chain.said("copier").count("settings: copying") == 2, "the copier to be connected")
    chain.client.inject("order_send", "hang", times=1, gil=True, after=True, where={"magic": MAGIC})
    chain.master_opens(0.2)
    chain.wait(lambda: chain.copies(), "the order to be executed and not answered")
    copier = chain.running.pop("copier")
    copier.send_signal(signal.SIGINT)
    assert copier.wait(30) == 0
    assert "not known yet whether it was opened: BUY 0.10 EURUSD" in chain.said("copier")
    chain.client.sim_clear_faults()
    chain.restart("copier")
    chain.master_opens(0.4)
    chain.agrees("after the next start")
    assert chain.ever_opened() == 2


# ---- the simulator's own promise

COUNTING = """
import sys, threading, time
import mt5_sim as mt5
assert mt5.initialize(sys.argv[1])
count = 0
def counts():
    global count
    while True:
        count += 1
        time.sleep(0.001)
threading.Thread(target=counts, daemon=True).start()
before = count
print("calling", flush=True)
assert mt5.positions_get() == ()
print("counted", count - before, flush=True)
"""


@pytest.mark.parametrize("gil", [True, False])
def test_a_call_that_hangs_with_the_gil_lets_no_other_thread_run(chain: Hanging, gil: bool) -> None:
    chain.kill("copier")
    chain.client.inject("positions_get", "hang", times=1, gil=gil)
    address = f"127.0.0.1:{chain.ports['client']}"
    command = [sys.executable, "-c", COUNTING, address]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "calling\n"
        chain.wait(lambda: not chain.client.sim_faults(), "the call to hang")
        threading.Event().wait(0.5)  # of which the other thread could make 500 rounds
        chain.client.sim_clear_faults()
        counted = int(child.stdout.readline().split()[1])
    assert (counted <= 20) if gil else (counted > 20)
