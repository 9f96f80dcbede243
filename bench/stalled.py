"""What a follower that stops reading costs the others, and how long it is kept."""

from __future__ import annotations

import argparse
import contextlib
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from bench.rig import Followers, Goal, Poster, Running, connections, machine, percentile, server

FOLLOWERS: Final = 50
PAUSE_S: Final = 0.02
LOOK_S: Final = 0.5  # between two looks at how many are connected
CALM_S: Final = 11.0  # as long as it takes to drop one
LONGEST_S: Final = 30.0


@dataclass
class Round:
    """Milliseconds from the start of a POST to the last of those who read."""

    calm: list[float] = field(default_factory=list)
    stalled: list[float] = field(default_factory=list)  # while one of them did not read
    kept_s: float = 0.0  # how long that one was kept


@dataclass
class Stalled:
    rounds: list[Round] = field(default_factory=list)

    def ratio(self, percent: float) -> float:
        """Of the stalled times to the calm ones: the median of the rounds."""
        return statistics.median(percentile(r.stalled, percent) / percentile(r.calm, percent) for r in self.rounds)

    def goals(self) -> list[Goal]:
        what = f"one of {FOLLOWERS} does not read: last of the others, p99, to the same without it"
        kept = max(one.kept_s for one in self.rounds)
        return [Goal(what, 1.1, self.ratio(99), "x"), Goal("until it is dropped", 15, kept, "s")]

    def lines(self) -> list[str]:
        table = [
            "| round | signals | last p50 | p99 | with one that does not read, p50 | p99 | it was dropped after |",
            "|" + "---|" * 7,
        ]
        for number, one in enumerate(self.rounds, 1):
            cells = [f"{percentile(times, p):.1f} ms" for times in (one.calm, one.stalled) for p in (50, 99)]
            counts = f"{len(one.calm)} + {len(one.stalled)}"
            table.append(f"| {number} | {counts} | {' | '.join(cells)} | {one.kept_s:.1f} s |")
        return [*table, "", f"Median of the rounds: p50 {self.ratio(50):.2f} x, p99 {self.ratio(99):.2f} x."]


def post_while(going: Callable[[], bool], crowd: Followers, poster: Poster, into: list[float]) -> None:
    while going():
        time.sleep(PAUSE_S)
        crowd.expect(1)
        began, _ = poster.post()
        into.append((crowd.arrival().last - began) / 1e6)


def all_there(running: Running, longest_s: float) -> Callable[[], bool]:
    """Whether all are connected, asked of the server twice a second; not after the longest time."""
    began, asked_at, there = time.monotonic(), 0.0, True

    def look() -> bool:
        nonlocal asked_at, there
        now = time.monotonic()
        if now - asked_at >= LOOK_S:
            asked_at, there = now, connections(running) >= FOLLOWERS
        return there and now - began < longest_s

    return look


def run(rounds: int, say: Callable[[str], None] = print) -> Stalled:
    found = Stalled()
    with server(FOLLOWERS + rounds) as running:
        crowd, poster = Followers(running, running.followers[:FOLLOWERS]), Poster(running)
        with contextlib.closing(crowd), contextlib.closing(poster):
            post_while(all_there(running, 1), crowd, poster, [])  # to warm up
            for number in range(rounds):
                one = Round()
                post_while(all_there(running, CALM_S), crowd, poster, one.calm)
                crowd.stall_last()
                began = time.monotonic()
                post_while(all_there(running, LONGEST_S), crowd, poster, one.stalled)
                one.kept_s = time.monotonic() - began
                crowd.connect(running.followers[FOLLOWERS + number])
                found.rounds.append(one)
                say(f"round {number + 1}/{rounds}: dropped after {one.kept_s:.1f} s")
    return found


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="run.py bench stalled", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="of some 25 seconds (default: %(default)s)")
    options = parser.parse_args(arguments)
    print(machine())
    print(*run(options.rounds).lines(), sep="\n")
    return 0
