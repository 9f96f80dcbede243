"""The whole chain, hop by hop: from the master's terminal to the fill at the client's, with 1 to 50 copiers.

Every terminal (simulated) and every copier is a process of its own. All clocks are this computer's.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import demo_report
from bench.rig import load, machine, started
from campaign.processes import PASSWORDS, ROOT, Chain

SIZES: Final = (1, 10, 50)
QUIET_S: Final = 15.0


@contextmanager
def more_copiers(chain: Chain, count: int) -> Iterator[None]:
    """Further followers beside the chain's own, each with a terminal of its own."""
    processes: list[subprocess.Popen[bytes]] = []
    terminals: list[Any] = []
    try:
        for number in range(count):
            name, place = f"client_{number}", chain.folder / f"client_{number}"
            place.mkdir()
            chain.admin("POST", "/users/", {"username": name, "password": PASSWORDS["client_user"], "role": "client"})
            command = [sys.executable, str(ROOT / "sim_terminal.py"), "--port", "0", "--login", str(3000 + number)]
            command += ["--state", "client.state.json", "--seed", "7", "--password", PASSWORDS["terminal"]]
            terminal = started(command, place / "terminal.out")
            _, ports = terminal.__enter__()
            terminals.append(terminal)
            config = json.loads((chain.folder / "config_client.json").read_text(encoding="utf-8"))
            config["api"]["username"] = name
            config["mt5"] |= {"login": 3000 + number, "path": f"127.0.0.1:{ports[0]}"}
            (place / "config_client.json").write_text(json.dumps(config), encoding="utf-8")
            out = open(place / "copier.out", "wb")  # noqa: SIM115 - the process's own from here on
            processes.append(
                subprocess.Popen([sys.executable, str(ROOT / "copier.py")], cwd=place, stdout=out, stderr=out)
            )
            out.close()
        chain.wait(
            lambda: len(chain.admin("GET", "/overview")["connected"]) > count, "all copiers to be connected", 300
        )
        yield
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait()
        for terminal in terminals:
            terminal.__exit__(None, None, None)


def run(copiers: int, trades: int) -> dict[str, list[int]]:
    """Milliseconds of every hop of every copy of `trades` trades."""
    folder = Path(tempfile.mkdtemp(prefix="aibot-bench-"))
    try:
        chain = Chain(folder)
        try:
            with more_copiers(chain, copiers - 1):
                time.sleep(3)  # a copier's ledger is to be older than the first trade
                visible: dict[int, list[int]] = {}
                for _ in range(trades):
                    ticket = chain.master_opens(0.2)
                    visible[ticket] = [int(time.time() * 1000)]
                    time.sleep(0.7)
                    chain.master_closes(ticket)
                    time.sleep(0.3)
                wait_for_reports(chain, trades * copiers)
                reports, after = [], 0
                while page := chain.admin("GET", f"/executions?limit=1000&after={after}")["executions"]:
                    reports += page
                    after = page[-1]["number"]
                return demo_report.hops(reports, visible)
        finally:
            chain.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def wait_for_reports(chain: Chain, wanted: int) -> None:
    """Until all are there, or none has come for a while: a busy computer may close a trade before it is copied."""
    seen, since = -1, time.monotonic()
    while (there := opened(chain)) < wanted and time.monotonic() - since < QUIET_S:
        if there != seen:
            seen, since = there, time.monotonic()
        time.sleep(0.5)
    if not there:
        raise RuntimeError("no copier has reported a copy")


def opened(chain: Chain) -> int:
    return int(chain.admin("GET", "/overview")["executions"].get("opened", 0))


def lines(results: dict[int, dict[str, list[int]]]) -> list[str]:
    """Milliseconds, as a table."""
    table = [
        "| hop | " + " | ".join(f"{n} copiers p50 | p99" for n in results) + " |",
        "|---" * (1 + 2 * len(results)) + "|",
    ]
    for hop in next(iter(results.values())):
        cells = [f"{demo_report.percentile(hops[hop], p):.0f}" for hops in results.values() for p in (50, 99)]
        table.append(f"| {hop} | " + " | ".join(cells) + " |")
    counts = [f"{len(next(iter(hops.values())))} | " for hops in results.values()]
    table.append("| copies measured | " + " | ".join(counts) + " |")
    return table


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="run.py bench latency", description=__doc__)
    parser.add_argument("--copiers", type=int, nargs="+", default=SIZES)
    parser.add_argument("--trades", type=int, default=20)
    options = parser.parse_args(arguments)
    print(machine())
    results = {}
    for copiers in options.copiers:
        results[copiers] = run(copiers, options.trades)
        print(f"{copiers} copiers done, load {load():.1f}", flush=True)
    print("\n".join(lines(results)))
    return 0
