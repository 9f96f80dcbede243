"""From the start of a POST to the first, the median and the last of N followers; and the same of other servers.

Server and followers are processes of their own, as in reality; the followers are one thread in C that only notes times.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from bench.rig import (
    PEERS,
    Followers,
    Goal,
    NotHere,
    Poster,
    Running,
    load,
    machine,
    peer,
    percentile,
    server,
)

OURS: Final = "this server"
WEBSOCKETS: Final = "websockets"
C: Final = "C, epoll"
SIZES: Final = (1, 10, 100, 500, 1000, 2000)
BURST: Final = 20
PAUSE_S: Final = 0.05


@dataclass
class Figures:
    """Of one server with so many followers in one repetition; milliseconds."""

    first: list[float] = field(default_factory=list)
    median: list[float] = field(default_factory=list)
    last: list[float] = field(default_factory=list)
    answered: list[float] = field(default_factory=list)  # until the POST had its answer
    bursts: list[float] = field(default_factory=list)  # from the start of 20 posts until the last follower has all
    cpu_ms: float = 0.0  # for a signal
    kib: float = 0.0  # for a connection
    threads: int = 0


@dataclass
class Results:
    """Repetitions by server and number of followers; and which servers are not here, and why."""

    found: dict[tuple[str, int], list[Figures]] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)

    def all(self, name: str, followers: int, what: str) -> list[float]:
        """One kind of figure of all repetitions."""
        return [value for one in self.found.get((name, followers), ()) for value in getattr(one, what)]

    def ratio(self, followers: int, other: str, percent: float, what: str = "last") -> float | None:
        """This server's percentile divided by the other's; None = one of them is not here.

        The median of the repetitions, in each of which the two took turns: what else the machine does meets both.
        """
        pairs = zip(self.found.get((OURS, followers), ()), self.found.get((other, followers), ()), strict=False)
        ratios = [percentile(getattr(a, what), percent) / percentile(getattr(b, what), percent) for a, b in pairs]
        return statistics.median(ratios) if ratios else None

    def goals(self) -> list[Goal]:
        goals = []
        for followers, other, most in ((1000, WEBSOCKETS, 1.0), (1000, C, 1.6), (2000, WEBSOCKETS, 0.7)):
            for percent in (50, 99):
                what = f"last of {followers:,} followers, p{percent}: this server to {other}"
                found = self.ratio(followers, other, percent)
                goals.append(Goal(what, most, found, "x", self.missing.get(other, "")))
        kib = [one.kib for (name, size), ones in self.found.items() if name == OURS and size >= 1000 for one in ones]
        goals.append(Goal("memory for a connection", 64, max(kib, default=None), "KiB"))
        fifty = self.all(OURS, 50, "last")
        p99 = percentile(fifty, 99) if fifty else None
        goals.append(Goal("POST → on the last of 50 followers' sockets, p99, synchronous=FULL", 25, p99, "ms"))
        return goals


def measure(running: Running, followers: int, signals: int, bursts: int) -> Figures:
    figures = Figures()
    before = running.memory_kib()
    crowd = Followers(running, running.followers[:followers])
    poster = Poster(running)
    with contextlib.closing(crowd), contextlib.closing(poster):
        for _ in range(3):  # to warm up
            crowd.expect(1)
            poster.post()
            crowd.arrival()
        figures.kib = max(0, running.memory_kib() - before) / followers
        crowd.expect(signals)
        spent = running.cpu_s()
        for _ in range(signals):
            time.sleep(PAUSE_S)
            began, answered = poster.post()
            arrival = crowd.arrival()
            figures.first.append((arrival.first - began) / 1e6)
            figures.median.append((arrival.median - began) / 1e6)
            figures.last.append((arrival.last - began) / 1e6)
            figures.answered.append((answered - began) / 1e6)
        figures.cpu_ms = (running.cpu_s() - spent) / signals * 1000
        figures.threads = running.threads()
        for _ in range(bursts):
            time.sleep(PAUSE_S)
            crowd.expect(BURST)
            began = min(poster.post()[0] for _ in range(BURST))
            figures.bursts.append((max(crowd.arrival().last for _ in range(BURST)) - began) / 1e6)
    return figures


def run(
    sizes: Sequence[int],
    names: Sequence[str],
    repetitions: int,
    signals: int,
    bursts: int,
    say: Callable[[str], None],
    results: Results | None = None,
) -> Results:
    """Every server in turn, and again, backwards every other time: what else the machine does meets all of them.

    Adds to `results`, if there are some."""
    results = results or Results()
    for followers in sizes:
        for repetition in range(repetitions):
            for name in names if repetition % 2 == 0 else reversed(names):
                if name in results.missing:
                    continue
                try:
                    with server(followers) if name == OURS else peer(name, followers) as running:
                        figures = measure(running, followers, signals, bursts)
                except NotHere as why:
                    results.missing[name] = str(why).strip().splitlines()[-1]
                    say(f"{name}: NOT MEASURED: {results.missing[name]}")
                    if name == OURS:
                        return results
                    continue
                results.found.setdefault((name, followers), []).append(figures)
                p50, p99 = (percentile(figures.last, p) for p in (50, 99))
                turn = f"{repetition + 1}/{repetitions} {followers:5} followers  {name:20}"
                say(f"{turn} last p50 {p50:7.1f}  p99 {p99:7.1f} ms  load {load():.1f}")
    return results


def table(results: Results, names: Sequence[str]) -> list[str]:
    """Milliseconds; the percentiles are of all repetitions together, the ratios as `Results.ratio` says."""
    lines = [
        "| followers | server | first p50 | median p50 | last p50 | p95 | p99 | max | we to it, last p50 | p99 "
        "| burst of 20, p50 | POST answered p50 | CPU per signal | KiB per connection | threads |",
        "|" + "---|" * 15,
    ]
    for size in sorted({size for _, size in results.found}):
        for name in names:
            ones = results.found.get((name, size))
            if not ones:
                continue
            last, bursts = results.all(name, size, "last"), results.all(name, size, "bursts")
            values = [f"{percentile(results.all(name, size, what), 50):.1f}" for what in ("first", "median")]
            values += [f"{percentile(last, p):.1f}" for p in (50, 95, 99, 100)]
            ratios = [None if name == OURS else results.ratio(size, name, p) for p in (50, 99)]
            values += ["" if ratio is None else f"{ratio:.2f}" for ratio in ratios]
            values += [f"{percentile(bursts, 50):.1f}" if bursts else ""]
            values += [f"{percentile(results.all(name, size, 'answered'), 50):.1f}"]
            values += [f"{statistics.median(one.cpu_ms for one in ones):.2f}"]
            values += [f"{statistics.median(one.kib for one in ones):.0f}", str(max(one.threads for one in ones))]
            lines.append(f"| {size} | {name} | " + " | ".join(values) + " |")
    lines += [f"\n{name} was not measured: {why}." for name, why in results.missing.items()]
    return lines


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="run.py bench fanout", description=__doc__)
    parser.add_argument("--followers", type=int, nargs="+", default=SIZES)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--signals", type=int, default=100, help="in each repetition (default: %(default)s)")
    parser.add_argument("--bursts", type=int, default=5)
    parser.add_argument("--alone", action="store_true", help="without the peers")
    parser.add_argument("--only", nargs="+", metavar="NAME", choices=[OURS, *PEERS], help="only these servers")
    options = parser.parse_args(arguments)
    names = [OURS] if options.alone else [name for name in (OURS, *PEERS) if not options.only or name in options.only]
    print(machine())
    results = run(options.followers, names, options.repetitions, options.signals, options.bursts, print)
    print("\n".join(["", *table(results, names)]))
    return 0
