"""From the start of a POST to the first, the median and the last of N followers; and the same of other servers.

Server and followers are processes of their own, as in reality; the followers are one thread in C that only notes times.
"""

from __future__ import annotations

import argparse
import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from bench.rig import PEERS, Followers, NotHere, Poster, Running, load, machine, peer, percentile, server

OURS: Final = "this server"
SIZES: Final = (1, 10, 100, 500, 1000, 2000)
BURST: Final = 20
PAUSE_S: Final = 0.05


@dataclass
class Figures:
    """Of one server with so many followers, over all repetitions; milliseconds."""

    first: list[float] = field(default_factory=list)
    median: list[float] = field(default_factory=list)
    last: list[float] = field(default_factory=list)
    answered: list[float] = field(default_factory=list)  # until the POST had its answer
    bursts: list[float] = field(default_factory=list)  # from the start of 20 posts until the last follower has all
    cpu_ms: list[float] = field(default_factory=list)  # for a signal
    kib: list[float] = field(default_factory=list)  # for a connection
    threads: int = 0


def measure(running: Running, followers: int, signals: int, bursts: int, into: Figures) -> None:
    before = running.memory_kib()
    crowd = Followers(running, running.followers[:followers])
    poster = Poster(running)
    with contextlib.closing(crowd), contextlib.closing(poster):
        time.sleep(0.5)
        for _ in range(3):  # to warm up
            crowd.expect(1)
            poster.post()
            crowd.arrival()
        into.kib.append(max(0, running.memory_kib() - before) / followers)
        crowd.expect(signals)
        spent = running.cpu_s()
        for _ in range(signals):
            time.sleep(PAUSE_S)
            began, answered = poster.post()
            arrival = crowd.arrival()
            into.first.append((arrival.first - began) / 1e6)
            into.median.append((arrival.median - began) / 1e6)
            into.last.append((arrival.last - began) / 1e6)
            into.answered.append((answered - began) / 1e6)
        into.cpu_ms.append((running.cpu_s() - spent) / signals * 1000)
        into.threads = max(into.threads, running.threads())
        for _ in range(bursts):
            time.sleep(PAUSE_S)
            crowd.expect(BURST)
            began = min(poster.post()[0] for _ in range(BURST))
            into.bursts.append((max(crowd.arrival().last for _ in range(BURST)) - began) / 1e6)


def run(
    sizes: Sequence[int], names: Sequence[str], repetitions: int, signals: int, bursts: int, say: Callable[[str], None]
) -> dict[tuple[str, int], Figures]:
    """Every server in turn, and again: what else the machine does meets all of them."""
    results: dict[tuple[str, int], Figures] = {}
    missing: set[str] = set()
    for followers in sizes:
        for repetition in range(repetitions):
            for name in names:
                if name in missing:
                    continue
                try:
                    with server(followers) if name == OURS else peer(name, followers) as running:
                        figures = results.setdefault((name, followers), Figures())
                        measure(running, followers, signals, bursts, figures)
                except NotHere as why:
                    missing.add(name)
                    say(f"{name}: left out, {str(why).strip().splitlines()[-1]}")
                    continue
                p50, p99 = (percentile(figures.last, p) for p in (50, 99))
                turn = f"{repetition + 1}/{repetitions} {followers:5} followers  {name:20}"
                say(f"{turn} last p50 {p50:7.1f}  p99 {p99:7.1f} ms  load {load():.1f}")
    return results


def table(results: dict[tuple[str, int], Figures], names: Sequence[str]) -> list[str]:
    lines = [
        "| followers | server | first p50 | median p50 | last p50 | p95 | p99 | max | last p50 : websockets | : C "
        "| burst of 20 p50 | POST answered p50 | CPU per signal | KiB per connection | threads |",
        "|" + "---|" * 15,
    ]
    for size in sorted({size for _, size in results}):
        for name in names:
            f = results.get((name, size))
            if f is None or not f.last:
                continue
            ratios = []
            for other in ("websockets", "C, epoll"):
                to = results.get((other, size))
                ratios.append(f"{percentile(f.last, 50) / percentile(to.last, 50):.2f}" if to and to.last else "")
            values = [f"{percentile(f.first, 50):.1f}", f"{percentile(f.median, 50):.1f}"]
            values += [f"{percentile(f.last, p):.1f}" for p in (50, 95, 99, 100)]
            values += [*ratios, f"{percentile(f.bursts, 50):.1f}", f"{percentile(f.answered, 50):.1f}"]
            values += [f"{percentile(f.cpu_ms, 50):.2f}", f"{percentile(f.kib, 50):.0f}", str(f.threads)]
            lines.append(f"| {size} | {name} | " + " | ".join(values) + " |")
    return lines


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="run.py bench fanout", description=__doc__)
    parser.add_argument("--followers", type=int, nargs="+", default=SIZES)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--signals", type=int, default=60, help="in each repetition (default: %(default)s)")
    parser.add_argument("--bursts", type=int, default=5)
    parser.add_argument("--alone", action="store_true", help="without the peers")
    parser.add_argument("--only", nargs="+", help="only these servers")
    options = parser.parse_args(arguments)
    names = [OURS] if options.alone else [name for name in (OURS, *PEERS) if not options.only or name in options.only]
    print(machine())
    results = run(options.followers, names, options.repetitions, options.signals, options.bursts, print)
    print("\n".join(["", *table(results, names)]))
    return 0
