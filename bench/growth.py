"""What it costs when there is more: a larger book, more users, a longer log, all followers back at once."""

from __future__ import annotations

import argparse
import contextlib
import sqlite3
import statistics
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import requests

from bench.rig import Followers, Goal, NotHere, Poster, Running, machine, server

FOLLOWERS: Final = 50  # connected while something else grows
TIMES: Final = 20
REPETITIONS: Final = 3
NOISE: Final = 1.25  # linear growth is measured as up to so much more on a computer that does other things too
BOOK: Final = 100  # trades in the book that followers who come back are given
PAUSE_S: Final = 0.02

Costs = Mapping[str, float]


@dataclass(frozen=True)
class Growth:
    """One thing that becomes more, and what each number of it costs."""

    what: str
    costs: Mapping[int, Costs]

    def goals(self) -> list[Goal]:
        """From the last but one size to the last no cost grows by more than the size does."""
        *_, before, last = self.costs
        grown = {name: cost / self.costs[before][name] for name, cost in self.costs[last].items() if cost}
        name = max(grown, key=lambda name: grown[name])
        what = f"{self.what}, {before:,} → {last:,}: the cost that grows most ({name}), to linear"
        return [Goal(what, NOISE, grown[name] / (last / before), "x")]

    def lines(self) -> list[str]:
        names = list(next(iter(self.costs.values())))
        table = [f"| {self.what} | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
        for size, costs in self.costs.items():
            table.append(f"| {size:,} | {' | '.join(f'{costs[name]:.3g}' for name in names)} |")
        return table


def books(sizes: Sequence[int]) -> Growth:
    costs = {}
    for size in sizes:
        with server(FOLLOWERS + TIMES) as running:
            crowd, poster = Followers(running, running.followers[:FOLLOWERS]), Poster(running)
            with contextlib.closing(crowd), contextlib.closing(poster):
                poster.put_book(None, 1, 0)
                session = str(poster.answer["session"])
                opened, unchanged = [], []
                for number in range(REPETITIONS):
                    poster.put_book(session, 100 * number + 2, 0)
                    crowd.expect(size)
                    began, _ = poster.put_book(session, 100 * number + 3, size)
                    opened.append((max(crowd.arrival().last for _ in range(size)) - began) / 1e6)
                    for again in range(TIMES):
                        time.sleep(PAUSE_S)
                        asked, answered = poster.put_book(session, 100 * number + 4 + again, size)
                        unchanged.append((answered - asked) / 1e6)
                costs[size] = {
                    "all opened in one report, until the last follower, ms": statistics.median(opened),
                    "report without a change, ms": statistics.median(unchanged),
                    **signals(crowd, poster),
                    "a follower comes, until it has the book, ms": statistics.median(
                        crowd.connect_all([one]).last / 1e6 for one in running.followers[FOLLOWERS:]
                    ),
                }
    return Growth("trades in the book", costs)


def users(sizes: Sequence[int]) -> Growth:
    costs = {}
    for size in sizes:
        with server(size) as running:
            here = min(FOLLOWERS, size - TIMES)
            crowd, poster = Followers(running, running.followers[:here]), Poster(running)
            with contextlib.closing(crowd), contextlib.closing(poster):
                costs[size] = {
                    "start, ms": running.start_s * 1000,
                    **signals(crowd, poster),
                    "a follower comes, until it has the book, ms": statistics.median(
                        crowd.connect_all([one]).last / 1e6 for one in running.followers[-TIMES:]
                    ),
                    "memory, MiB": running.memory_kib() / 1024,
                }
    return Growth("users", costs)


def logs(sizes: Sequence[int]) -> Growth:
    costs = {}
    for size in sizes:

        def fill(path: Path, size: int = size) -> None:
            fill_log(path, size)

        with server(FOLLOWERS, before=fill) as running:
            crowd, poster = Followers(running, running.followers), Poster(running)
            with contextlib.closing(crowd), contextlib.closing(poster):
                costs[size] = {
                    "start, ms": running.start_s * 1000,
                    **signals(crowd, poster),
                    "1,000 of its first, ms": read_log(running, 0),
                    "1,000 of its last, ms": read_log(running, max(0, size - 1000)),
                    "memory, MiB": running.memory_kib() / 1024,
                }
    return Growth("signals in the log", costs)


def fill_log(path: Path, size: int) -> None:
    """So many signals of the master, with their trades opened and closed, as they would have been stored."""
    trade = (
        '{"kind":"position","ticket":%d,"source":"terminal","symbol":"EURUSD","action":"BUY","volume":"0.1",'
        '"initial_volume":"0.1","price":"1.085","stoplimit":"0","sl":"1.08","tp":"1.09","contract_size":"100000",'
        '"point":"0.00001","expiration":0,"magic":"0","comment":"","digits":5,"opened_at":1,"increase":null}'
    )
    tickets = (number // 2 + 1 for number in range(size))
    rows = (
        (1, *(("close", "0") if number % 2 else ("signal", None)), ticket, trade % ticket)
        for number, ticket in enumerate(tickets)
    )
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("BEGIN")
        master = db.execute("SELECT id FROM users WHERE role = 'master'").fetchone()[0]
        db.executemany(
            f"""INSERT INTO signals (at, master_id, type, remaining, kind, ticket, trade)
                VALUES (?, {master}, ?, ?, 'position', ?, ?)""",  # noqa: S608 - a number of our own
            rows,
        )
        db.execute("COMMIT")
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def read_log(running: Running, after: int) -> float:
    """ms for a page of the log."""
    url, headers = f"http://127.0.0.1:{running.port}/signals", {"Authorization": f"Bearer {running.master}"}
    times = []
    for _ in range(TIMES):
        began = time.monotonic()
        answer = requests.get(url, params={"after": after, "limit": 1000}, headers=headers, timeout=60)
        assert answer.ok, answer.text
        times.append((time.monotonic() - began) * 1000)
    return statistics.median(times)


def signals(crowd: Followers, poster: Poster) -> dict[str, float]:
    """ms from the start of a POST to the last follower."""
    times = []
    for _ in range(TIMES):
        time.sleep(PAUSE_S)
        crowd.expect(1)
        began, _ = poster.post()
        times.append((crowd.arrival().last - began) / 1e6)
    return {"one signal, until the last follower, ms": statistics.median(times)}


def returns(sizes: Sequence[int]) -> Growth:
    """Without the pauses of random length by which copiers spread their return (`link.pause`)."""
    costs = {}
    for size in sizes:
        found = [all_return(size) for _ in range(REPETITIONS)]
        costs[size] = {name: statistics.median(one[name] for one in found) for name in found[0]}
    return Growth("followers that come back at once", costs)


def all_return(size: int) -> dict[str, float]:
    with server(size) as running:
        crowd, poster = Followers(running, []), Poster(running)
        with contextlib.closing(crowd), contextlib.closing(poster):
            poster.put_book(None, 1, BOOK)
            spent, before = running.cpu_s(), running.memory_kib()
            over, posts = threading.Event(), list[float]()
            posting = threading.Thread(target=post_until, args=(over, poster, posts))
            posting.start()
            try:
                arrival = crowd.connect_all(running.followers)
            finally:
                over.set()
                posting.join()
            return {
                "the first has its book, ms": arrival.first / 1e6,
                "the median, ms": arrival.median / 1e6,
                "the last, ms": arrival.last / 1e6,
                "CPU for each, ms": (running.cpu_s() - spent) / size * 1000,
                "memory for each, KiB": (running.memory_kib() - before) / size,
                "longest answer to a POST meanwhile, ms": max(posts, default=0.0),
            }


def post_until(over: threading.Event, poster: Poster, into: list[float]) -> None:
    while not over.wait(PAUSE_S):
        began, answered = poster.post()
        into.append((answered - began) / 1e6)


@dataclass(frozen=True)
class Kind:
    measure: Callable[[Sequence[int]], Growth]
    sizes: Sequence[int]


KINDS: Final = {
    "books": Kind(books, (10, 100, 1000)),
    "users": Kind(users, (100, 1000, 10_000)),
    "logs": Kind(logs, (1000, 10_000, 100_000, 1_000_000)),
    "returns": Kind(returns, (250, 500, 1000)),
}


def run(names: Sequence[str], say: Callable[[str], None] = print) -> list[Growth]:
    found = []
    for name in names:
        found.append(KINDS[name].measure(KINDS[name].sizes))
        say("\n".join(["", *found[-1].lines()]))
    return found


def goals(found: Sequence[Growth]) -> list[Goal]:
    goals = [goal for growth in found for goal in growth.goals()]
    for growth in found:
        if growth.what == "signals in the log":
            size = max(growth.costs)
            goals.append(Goal(f"start with {size:,} signals in the log", 2000, growth.costs[size]["start, ms"], "ms"))
    return goals


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="run.py bench growth", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=list(KINDS), default=list(KINDS))
    options = parser.parse_args(arguments)
    print(machine())
    try:
        run(options.only)
    except NotHere as why:
        print(f"NOT MEASURED: {why}")
        return 1
    return 0
