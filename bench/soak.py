"""20 signals a second to 50 followers for minutes: times, memory and threads at the beginning and at the end."""

from __future__ import annotations

import argparse
import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from bench.rig import Followers, Goal, Poster, machine, percentile, server


@dataclass
class Soak:
    minutes: float
    last: list[float] = field(default_factory=list)  # ms from the start of a POST to the last follower
    memory: list[tuple[float, int, int]] = field(default_factory=list)  # seconds, KiB, threads

    @property
    def growth_percent(self) -> float:
        """Of the memory, from the first tenth of the time, when caches have filled, to the end."""
        begun = [kib for at, kib, _ in self.memory if at >= self.minutes * 6]
        return (begun[-1] / begun[0] - 1) * 100

    def goals(self) -> list[Goal]:
        what = f"memory after {self.minutes:g} minutes of 20 signals a second to 50 followers: growth"
        return [Goal(what, 5, self.growth_percent, "%")]

    def lines(self) -> list[str]:
        _, first, threads = self.memory[0]
        _, end, threads_then = self.memory[-1]
        p50, p99 = percentile(self.last, 50), percentile(self.last, 99)
        return [
            f"{self.minutes:g} minutes, {len(self.last)} signals to 50 followers: last follower p50 {p50:.1f} ms, "
            f"p99 {p99:.1f} ms, max {max(self.last):.1f} ms",
            f"memory {first} KiB, at the end {end} KiB ({self.growth_percent:+.1f} % after the first tenth); "
            f"threads {threads}, at the end {threads_then}",
        ]


def run(minutes: float, followers: int = 50, per_second: float = 20) -> Soak:
    soak = Soak(minutes)
    with server(followers) as running:
        crowd, poster = Followers(running, running.followers), Poster(running)
        with contextlib.closing(crowd), contextlib.closing(poster):
            began, sent = time.monotonic(), 0
            tickets: list[int] = []
            while (now := time.monotonic() - began) < minutes * 60:
                if not soak.memory or now - soak.memory[-1][0] >= 1:
                    soak.memory.append((now, running.memory_kib(), running.threads()))
                time.sleep(max(0, sent / per_second - now))
                crowd.expect(1)
                started, _ = poster.post()
                soak.last.append((crowd.arrival().last - started) / 1e6)
                tickets.append(int(poster.answer["ticket"]))
                if len(tickets) > 20:  # the book stays as large as a master's is
                    poster.close_trade(tickets.pop(0))
                sent += 1
            soak.memory.append((time.monotonic() - began, running.memory_kib(), running.threads()))
    return soak


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="run.py bench soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    options = parser.parse_args(arguments)
    print(machine(), *run(options.minutes).lines(), sep="\n")
    return 0
