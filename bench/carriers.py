"""The same application carried by other HTTP servers: a good client alone, eight at once, and beside slow connections.

This is what the choice of the server in docs/decisions.md goes by. What is not installed is passed over
(pip install -r bench/requirements.txt); gunicorn does not exist on Windows, waitress has no TLS.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import socket
import ssl
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from bench.attack import SPAWN, Attack, asked, attack_until, beside, certificate_in, connection_to, raise_file_limit
from bench.rig import BENCH, SIGNAL, NotHere, Running, folder, machine, make_users, percentile, server, started

OURS: Final = "werkzeug with webserver.py"
CARRIERS: Final = (OURS, "werkzeug as it is", "cheroot", "gunicorn", "waitress")
PATIENCE_S: Final = 5.0  # of the good client with one answer
HEAD: Final = b"POST /token HTTP/1.1\r\nHost: localhost\r\nX-Slow: "
CASES: Final = (
    Attack("1,000 heads that drip", 1000, 10, HEAD, drips=True),
    Attack("TLS, 1,000 without handshake", 1000, 10, tls=True),
    Attack("TLS, 1,000 after it", 1000, 10, tls=True, handshake=True),
)


@contextlib.contextmanager
def carried(name: str, tls: tuple[Path, Path] | None) -> Iterator[Running]:
    """Raises `NotHere`."""
    pair = [str(file) for file in tls or ()]
    if name == OURS:
        options = ["--tls-cert", pair[0], "--tls-key", pair[1]] if pair else []
        with server(0, *options) as running:
            yield running
        return
    if name == "waitress" and pair:
        raise NotHere("waitress has no TLS")
    with folder() as place, contextlib.closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        path = place / "server.db"
        master, _ = make_users(path, 0)
        command = [sys.executable, str(BENCH / "peers" / "carrier.py"), name, str(path), str(port), *pair]
        with started(command, place / "carrier.log") as (process, _ports):
            yield Running(process.pid, port, port, master, [])


def good_client(running: Running, seconds: float, tls: ssl.SSLContext | None) -> list[float]:
    """Posts over a connection that is kept while it answers; the ms of each answer that came."""
    signal, until, times = json.dumps(SIGNAL).encode(), time.monotonic() + seconds, []
    while time.monotonic() < until:
        connection = connection_to(running, tls)
        connection.timeout = PATIENCE_S
        with contextlib.closing(connection), contextlib.suppress(OSError):
            while time.monotonic() < until:
                began = time.perf_counter()
                asked(connection, "POST", "/signal/broadcast", signal, running.master)
                times.append((time.perf_counter() - began) * 1000)
                time.sleep(0.02)
    return times


def per_second(running: Running, clients: int, seconds: float) -> float:
    """Posts of so many clients at once."""
    signal, until, counts = json.dumps(SIGNAL).encode(), time.monotonic() + seconds, [0] * clients

    def post(number: int) -> None:
        with contextlib.closing(connection_to(running, None)) as connection, contextlib.suppress(OSError):
            while time.monotonic() < until:
                asked(connection, "POST", "/signal/broadcast", signal, running.master)
                counts[number] += 1

    threads = [threading.Thread(target=post, args=(number,), daemon=True) for number in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts) / seconds


def words(times: Sequence[float], seconds: float) -> str:
    if not times:
        return f"no answer in {seconds:.0f} s"
    few = f", {len(times)} answers in {seconds:.0f} s" if len(times) < seconds * 5 else ""
    return f"p99 {percentile(times, 99):.0f} ms{few}"


def measured(name: str, seconds: float) -> list[str]:
    """The cells of one server's row. Raises `NotHere`."""
    with carried(name, None) as running:
        times = good_client(running, seconds, None)
        cells = [f"{words(times, seconds)}, {per_second(running, 8, seconds):.0f} posts/s"]
    for case in CASES:
        with folder() as place, contextlib.ExitStack() as stack:
            pair = certificate_in(place) if case.tls else None
            try:
                running = stack.enter_context(carried(name, pair))
            except NotHere as problem:
                cells.append(str(problem))
                continue
            full = SPAWN.Event()
            stack.enter_context(beside(attack_until, full, running.port, case))
            full.wait(30)
            context = ssl.create_default_context(cafile=str(pair[0])) if pair else None
            cells.append(words(good_client(running, seconds, context), seconds))
    return cells


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="run.py bench carriers", description=__doc__)
    parser.add_argument("--seconds", type=float, default=15.0, help="of each case (default: %(default)s)")
    parser.add_argument("--only", choices=CARRIERS, help="this server")
    options = parser.parse_args(arguments)
    raise_file_limit()
    print(machine())
    print(f"| server | alone, and 8 at once | {' | '.join(case.name for case in CASES)} |")
    print("|---" * (2 + len(CASES)) + "|", flush=True)
    for name in (options.only,) if options.only else CARRIERS:
        try:
            print(f"| {name} | {' | '.join(measured(name, options.seconds))} |", flush=True)
        except NotHere as problem:
            print(f"| {name} | {problem} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
