"""Seeded trials of the whole system: python run.py campaign faults [--schedules N] [--seed S] [--minutes M].

Each trial draws trades and faults from its seed, lets them happen, stops the faults, waits until everything must have
settled, and compares the two brokers' records (`verdict`). A violation is shown with its seed; `--replay SEED` tells
what happened in it, line by line. `--kills` tries a kill at every single boundary of a set of base schedules.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import itertools
import logging
import multiprocessing
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from campaign.schedule import ALL_FAULTS, drawn, pace_of, setup_of
from campaign.verdict import violations
from campaign.world import START, World

# Nothing is decided by seconds any more: at first as often as a price must be looked at to see that it is new, then
# just below the gap that is taken for a sleep. What has not settled by then goes on as it began.
QUIET_TICK_S: Final = 2.0
QUIET_TICKS_S: Final = (QUIET_TICK_S,) * 4 + (4.0,) * 3
LONGEST_QUIET_S: Final = 120.0
COLLECT_EVERY: Final = 20  # trials
SHOWN: Final = 20  # violations that are printed in full


@dataclass
class Result:
    """What came of one trial, or of many together."""

    trials: int = 0
    boundaries: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    broken: list[tuple[int, int, list[str]]] = field(default_factory=list)  # seed, killed at boundary, what was wrong

    def add(self, other: Result) -> None:
        self.trials += other.trials
        self.boundaries += other.boundaries
        self.counts += other.counts
        self.faults += other.faults
        self.broken += other.broken


@contextmanager
def memory_folder() -> Iterator[Path]:
    """A folder in memory where there is one: what is tried here is the program, not the disk."""
    where = "/dev/shm" if os.path.isdir("/dev/shm") else None  # noqa: S108
    with tempfile.TemporaryDirectory(prefix="aibot-", dir=where, ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def trial(seed: int, *, kill_at: int = 0, faults: int | None = None, trace: bool = False) -> tuple[Result, list[str]]:
    """One trial; what came of it and, with `trace`, what happened in it."""
    result = Result(1)
    with memory_folder() as folder:
        world = World(seed, folder, kill_at=kill_at, trace=trace, setup=setup_of(seed))
        if trace:
            listen(world)
        tick_s = pace_of(seed).tick_s
        for event in drawn(seed, faults=faults):
            while world.clock.now - START < event.at:
                world.tick(tick_s)
            if event.name in ALL_FAULTS:
                result.faults[event.name] += 1
                world.note("fault", event.name)
            event.act(world, random.Random(event.seed))
        found = settle(world)
        world.close()
    if found:
        result.broken.append((seed, kill_at, found))
    result.counts, result.boundaries = world.counts, world.boundaries
    return result, world.trace or []


def settle(world: World) -> list[str]:
    """Nothing more goes wrong: long enough for every patience, then until nothing is wrong or time is up. What is."""
    world.note("campaign", "the faults are over")
    for _ in range(2):  # what the faults have left behind ends by itself, or soon
        world.tick()
    world.heal()
    began = world.clock.now
    for seconds in QUIET_TICKS_S:
        world.tick(seconds)
    while (found := violations(world)) and world.clock.now - began < LONGEST_QUIET_S:
        world.tick(QUIET_TICK_S)
    return found


def listen(world: World) -> None:
    """The product's own log lines go into the trace."""

    class Lines(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            who = world.actor.name if world.actor else "-"
            world.note(who, f"{record.levelname.lower()}: {record.getMessage()}")

    logging.disable(logging.NOTSET)
    logging.getLogger().handlers[:] = [Lines()]
    logging.getLogger().setLevel(logging.INFO)


# --- many of them ----------------------------------------------------------------------------------------------------


_trials = itertools.count(1)  # of this process


def _one(job: tuple[int, int, int | None]) -> Result:
    seed, kill_at, faults = job
    if next(_trials) % COLLECT_EVERY == 0:
        gc.collect()
    return trial(seed, kill_at=kill_at, faults=faults)[0]


def _alone() -> None:
    """For a process that does nothing but trials: no log, and a trial is too short to look for circles in it."""
    logging.disable(logging.CRITICAL)
    gc.disable()
    gc.freeze()


def run_all(
    jobs: Iterator[tuple[int, int, int | None]],
    *,
    until: float,
    stop_at_first: bool,
    quiet: bool = False,
    processes: int | None = None,
) -> Result:
    """The jobs on all cores (or so many `processes`; 1 = in this one, in order), as long as there is time (monotonic
    seconds)."""
    total = Result()
    said = time.monotonic()
    with contextlib.ExitStack() as stack:
        timely = _in_time(jobs, until)
        results: Iterable[Result] = map(_one, timely)
        if processes != 1:
            spawn = multiprocessing.get_context("spawn")
            pool = stack.enter_context(spawn.Pool(processes or os.cpu_count(), initializer=_alone))
            results = pool.imap_unordered(_one, timely, chunksize=4)
        for result in results:
            total.add(result)
            for seed, kill_at, found in result.broken:
                if len(total.broken) <= SHOWN:
                    where = f" --kill-at {kill_at}" if kill_at else ""
                    print(f"VIOLATION  --replay {seed}{where}\n  " + "\n  ".join(found), flush=True)
            if not quiet and time.monotonic() - said > 10:
                said = time.monotonic()
                print(f"{total.trials} trials, {len(total.broken)} violations", flush=True)
            if stop_at_first and total.broken:
                break  # leaving the pool ends its processes
    return total


def _in_time(jobs: Iterator[tuple[int, int, int | None]], until: float) -> Iterator[tuple[int, int, int | None]]:
    for job in jobs:
        if time.monotonic() > until:
            return
        yield job


def table(result: Result, seconds: float) -> str:
    kills = sum(n for name, n in result.counts.items() if name.startswith("kills"))
    lines = [
        ("trials", result.trials),
        ("seconds", round(seconds)),
        ("boundaries passed", result.boundaries),
        ("kills", kills),
        ("kinds of fault", len(result.faults)),
        *sorted(result.counts.items()),
        *((f"fault: {name}", result.faults[name]) for name in ALL_FAULTS if name in result.faults),
        ("VIOLATIONS", len(result.broken)),
    ]
    return "\n".join(f"{name:<66} {number:>10,}" for name, number in lines)


def schedules(seed: int, count: int, faults: int | None = None) -> Iterator[tuple[int, int, int | None]]:
    for number in range(seed, seed + count):
        yield number, 0, faults


def every_kill(seed: int, bases: int) -> Iterator[tuple[int, int, int | None]]:
    """A kill at every boundary of so many base schedules, each with few other faults."""
    for number in range(seed, seed + bases):
        base, _ = trial(number, faults=number % 3)
        for kill_at in range(1, base.boundaries + 1):
            yield number, kill_at, number % 3


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="run.py campaign faults", description=(__doc__ or "").split("\n\n")[1])
    parser.add_argument("--schedules", type=int, default=20_000, help="trials (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of the first one (default: %(default)s)")
    parser.add_argument("--minutes", type=float, default=60.0, help="stop beginning new ones after so long")
    parser.add_argument("--kills", type=int, metavar="BASES", help="a kill at every boundary of so many schedules")
    parser.add_argument("--replay", type=int, metavar="SEED", help="tell what happened in one trial")
    parser.add_argument("--kill-at", type=int, default=0, metavar="N", help="with --replay: kill at the Nth boundary")
    parser.add_argument("--stop-at-first", action="store_true", help="end at the first violation")
    parser.add_argument("--jobs", type=int, metavar="N", help="so many at once (default: as many as there are cores)")
    options = parser.parse_args(argv)
    if os.environ.get("PYTHONHASHSEED") != "0":  # the order of sets must be the same each time a seed is tried
        command = [sys.executable, "-m", "campaign.faults", *argv]
        return subprocess.run(command, env={**os.environ, "PYTHONHASHSEED": "0"}, check=False).returncode
    if options.replay is not None:
        faults = options.replay % 3 if options.kill_at else None
        result, lines = trial(options.replay, kill_at=options.kill_at, faults=faults, trace=True)
        print("\n".join(lines))
        print("\n".join(result.broken[0][2]) if result.broken else "nothing is wrong")
        return 1 if result.broken else 0
    _alone()
    began = time.monotonic()
    if options.kills is not None:
        print(f"a kill at every boundary of the schedules {options.seed} to {options.seed + options.kills - 1}")
        jobs = every_kill(options.seed, options.kills)
    else:
        print(f"schedules {options.seed} to {options.seed + options.schedules - 1}")
        jobs = schedules(options.seed, options.schedules)
    result = run_all(
        jobs, until=began + options.minutes * 60, stop_at_first=options.stop_at_first, processes=options.jobs
    )
    print(table(result, time.monotonic() - began))
    return 1 if result.broken else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
