"""Slow and silent connections, guessed passwords, a rush of log-ins: what a good client notices of them.

The good client posts signals over a connection that it keeps, and between them asks for /health over new ones. The
attackers are a process of their own. Over a limit, and with a wrong password too many, being refused at once is right.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import multiprocessing
import queue
import selectors
import socket
import sqlite3
import ssl
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from auth import Passwords
from bench.rig import SIGNAL, NotHere, Running, folder, machine, percentile, server

PASSWORD: Final = "correct horse"
WRONG: Final = json.dumps({"username": "client_0", "password": "wrong horse"}).encode()
PAUSE_S: Final = 0.02  # of the good client, between two requests
DRIP_S: Final = 1.0  # a slow connection sends a byte so often
OF_ADDRESS: Final = 100  # connections, the server's own limit
REFUSED_S: Final = 1.0  # what the server ends so early it has refused
GOAL_MS: Final = 200.0
SPAWN: Final = multiprocessing.get_context("spawn")


@dataclass(frozen=True, slots=True)
class Attack:
    """So many connections, from so many addresses, that say this and then a byte a second, or nothing more."""

    name: str
    connections: int = 0
    addresses: int = 1
    beginning: bytes = b""
    drips: bool = False
    tls: bool = False
    handshake: bool = False  # of TLS: carried out, and then silence


HEAD: Final = b"POST /token HTTP/1.1\r\nHost: localhost\r\n"
HELD: Final = 10  # addresses among which 1,000 connections are all within the limit
ATTACKS: Final = (
    Attack("none"),
    Attack("silent connections, one address", 1000),
    Attack("silent connections", 1000, HELD),
    Attack("half a request, then silence", 1000, HELD, HEAD + b"X-Half: "),
    Attack("heads that drip", 1000, HELD, HEAD + b"X-Slow: ", drips=True),
    Attack("bodies that drip", 1000, HELD, HEAD + b"Content-Length: 2000\r\n\r\n", drips=True),
    Attack("silent connections, over every limit", 4000, 4 * HELD),
    Attack("none, TLS", tls=True),
    Attack("TLS, no handshake", 1000, HELD, tls=True),
    Attack("TLS, half a handshake", 1000, HELD, b"\x16\x03\x01\x02\x00\x01", tls=True),
    Attack("TLS, handshake, then silence", 1000, HELD, tls=True, handshake=True),
    Attack("TLS, no handshake, one address", 1000, tls=True),
)


@dataclass
class Seen:
    """What came of it."""

    kept: list[float] = field(default_factory=list)  # ms of a POST /signal/broadcast over a connection that is kept
    new: list[float] = field(default_factory=list)  # ms of connecting anew and GET /health
    refused_new: int = 0  # new connections of the good client that were refused
    memory_kib: int = 0  # the most
    threads: int = 0
    held: int = 0  # the attackers' connections that were open together
    refused: int = 0  # ... that were refused
    slowest_refusal_ms: float = 0.0

    @property
    def met(self) -> bool:
        """Of new connections only where they are not refused: where everything is full, who is in stays in."""
        counting = (self.kept,) if self.refused_new else (self.kept, self.new)
        return all(percentile(times, 99) < GOAL_MS for times in counting)


# --- the good client -------------------------------------------------------------------------------------------------


def connection_to(
    running: Running, tls: ssl.SSLContext | None, address: str = "127.0.0.1"
) -> http.client.HTTPConnection:
    if tls is None:
        return http.client.HTTPConnection("127.0.0.1", running.port, 30, (address, 0))
    return http.client.HTTPSConnection("127.0.0.1", running.port, timeout=30, source_address=(address, 0), context=tls)


def asked(connection: http.client.HTTPConnection, method: str, path: str, body: bytes = b"", token: str = "") -> int:
    """Put one request; the status of its answer."""
    connection.request(method, path, body or None, {"Authorization": f"Bearer {token}"} if token else {})
    answer = connection.getresponse()
    answer.read()
    return answer.status


class GoodClient:
    """Connected before the attack begins, as a sender is. Looks at the server's memory too."""

    def __init__(self, running: Running, tls: ssl.SSLContext | None = None) -> None:
        self.seen = Seen()
        self._running = running
        self._tls = tls
        self._kept = connection_to(running, tls)
        self._signal = json.dumps(SIGNAL).encode()
        self._post()

    def watch(self, go_on: Callable[[], bool]) -> None:
        while go_on():
            self.seen.kept.append(self._post())
            self._ask_anew()
            self.seen.memory_kib = max(self.seen.memory_kib, self._running.memory_kib())
            self.seen.threads = max(self.seen.threads, self._running.threads())
            time.sleep(PAUSE_S)

    def _post(self) -> float:
        began = time.perf_counter()
        if asked(self._kept, "POST", "/signal/broadcast", self._signal, self._running.master) != 201:
            raise RuntimeError("a good signal was refused")
        return (time.perf_counter() - began) * 1000

    def _ask_anew(self) -> None:
        began = time.perf_counter()
        with contextlib.closing(connection_to(self._running, self._tls)) as new:
            try:
                welcome = asked(new, "GET", "/health") == 200
            except OSError:
                welcome = False
        if welcome:
            self.seen.new.append((time.perf_counter() - began) * 1000)
        else:
            self.seen.refused_new += 1

    def close(self) -> None:
        self._kept.close()


# --- slow and silent connections -------------------------------------------------------------------------------------


class Crowd:
    """The attackers' connections. One that the server ends is opened anew."""

    def __init__(self, port: int, attack: Attack) -> None:
        self._port = port
        self._attack = attack
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self._context.check_hostname, self._context.verify_mode = False, ssl.CERT_NONE
        self._selector = selectors.DefaultSelector()
        self._born: dict[Any, float] = {}
        self.tried = 0
        self.refused = 0
        self.slowest_refusal = 0.0
        self.most = 0

    def fill(self) -> None:
        """Open what is missing, a hundred at most, so that the attackers see to their other connections meanwhile."""
        for _ in range(min(100, self._attack.connections - len(self._born))):
            self.tried += 1
            source = f"127.0.1.{1 + self.tried % self._attack.addresses}"
            began = time.monotonic()
            connection: Any = None
            try:
                connection = socket.create_connection(("127.0.0.1", self._port), 10, (source, 0))
                if self._attack.handshake:
                    connection = self._context.wrap_socket(connection, server_hostname="localhost")
                if self._attack.beginning:
                    connection.sendall(self._attack.beginning)
                connection.setblocking(False)
                self._selector.register(connection, selectors.EVENT_READ)
            except OSError:
                self._note_refusal(began)
                if connection is not None:
                    connection.close()
            else:
                self._born[connection] = began
        settled = time.monotonic() - REFUSED_S
        self.most = max(self.most, sum(born < settled for born in self._born.values()))

    def _note_refusal(self, began: float) -> None:
        self.refused += 1
        self.slowest_refusal = max(self.slowest_refusal, time.monotonic() - began)

    def listen(self, seconds: float) -> None:
        """Notice what the server ends: soon after its birth a connection was refused, later given up."""
        for key, _ in self._selector.select(seconds):
            connection: Any = key.fileobj
            try:
                data = connection.recv(4096)
            except (BlockingIOError, ssl.SSLWantReadError):
                continue  # a session ticket of TLS
            except OSError:
                data = b""
            self._selector.unregister(connection)
            began = self._born.pop(connection)
            connection.close()
            refused = data.startswith(b"HTTP/1.1 503 ") or (not data and time.monotonic() - began < REFUSED_S)
            if refused:
                self._note_refusal(began)

    def drip(self) -> None:
        for connection in self._born:
            with contextlib.suppress(OSError):
                connection.send(b"x")


def attack_until(stop: Any, full: Any, port: int, attack: Attack, results: Any) -> None:
    """The attackers' process."""
    crowd, dripped, begun = Crowd(port, attack), 0.0, 0.0
    while not stop.is_set():
        crowd.fill()
        crowd.listen(0.05)
        begun = begun or (time.monotonic() if crowd.tried >= attack.connections else 0.0)
        if begun and time.monotonic() - begun > 2 * REFUSED_S:
            full.set()
        if attack.drips and time.monotonic() - dripped >= DRIP_S:
            dripped = time.monotonic()
            crowd.drip()
    results.put((crowd.most, crowd.refused, crowd.slowest_refusal * 1000))


def attacked(attack: Attack, seconds: float) -> Seen:
    """From the first of the attackers' connections until so many seconds after all have been held or refused."""
    full = SPAWN.Event()
    with folder() as place:
        options = ["--per-address", str(OF_ADDRESS)]
        tls = None
        if attack.tls:
            certificate, key = certificate_in(place)
            options += ["--tls-cert", str(certificate), "--tls-key", str(key)]
            tls = ssl.create_default_context(cafile=str(certificate))
        with (
            server(0, *options) as running,
            contextlib.closing(GoodClient(running, tls)) as client,
            beside(attack_until, full, running.port, attack) as results,
        ):
            client.watch(lambda: not full.is_set())
            until = time.monotonic() + seconds
            client.watch(lambda: time.monotonic() < until)
            seen = client.seen
            seen.held, seen.refused, seen.slowest_refusal_ms = results()
    return seen


@contextlib.contextmanager
def beside(target: Callable[..., None], *arguments: Any) -> Iterator[Callable[[], Any]]:
    """A process that works until what is yielded is called, which gives what it has put."""
    stop, results = SPAWN.Event(), SPAWN.Queue()
    process = SPAWN.Process(target=target, args=(stop, *arguments, results), daemon=True)
    process.start()

    def ended() -> Any:
        stop.set()
        while True:
            with contextlib.suppress(queue.Empty):
                return results.get(timeout=1)
            if not process.is_alive():
                raise RuntimeError("the attackers ended")

    try:
        yield ended
    finally:
        process.kill()
        process.join()


def certificate_in(place: Path) -> tuple[Path, Path]:
    """Raises `NotHere`."""
    certificate, key = place / "certificate.pem", place / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-keyout", str(key), "-out", str(certificate), "-days", "2", "-subj", "/CN=localhost"]
    command += ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except FileNotFoundError as error:
        raise NotHere("there is no openssl") from error
    return certificate, key


# --- passwords -------------------------------------------------------------------------------------------------------


def with_password(path: Path) -> None:
    """Every client's password is the same, so that one hash is enough."""
    with contextlib.closing(sqlite3.connect(path)) as db, db:
        db.execute("UPDATE users SET password = ? WHERE role = 'client'", [Passwords().hashed(PASSWORD)])


def log_in(running: Running, body: bytes, address: str) -> int:
    with contextlib.closing(connection_to(running, None, address)) as connection:
        return asked(connection, "POST", "/token", body)


def credentials(user: int) -> bytes:
    return json.dumps({"username": f"client_{user}", "password": PASSWORD}).encode()


def side_by_side(jobs: Sequence[Callable[[], int]], threads: int) -> Counter[int]:
    """Do the jobs, so many at a time; their results, counted."""
    waiting: queue.SimpleQueue[Callable[[], int]] = queue.SimpleQueue()
    for job in jobs:
        waiting.put(job)
    found: list[int] = []

    def work() -> None:
        with contextlib.suppress(queue.Empty):
            while True:
                found.append(waiting.get_nowait()())

    crew = [threading.Thread(target=work, daemon=True) for _ in range(threads)]
    for thread in crew:
        thread.start()
    for thread in crew:
        thread.join()
    return Counter(found)


def guess_all(_stop: Any, running: Running, guesses: int, addresses: int, results: Any) -> None:
    jobs = [lambda n=n: log_in(running, WRONG, f"127.0.1.{1 + n % addresses}") for n in range(guesses)]
    results.put(dict(side_by_side(jobs, 20)))


def log_in_all(stop: Any, running: Running, users: int, results: Any) -> None:
    """Everybody at once, from an address of his own, again and again."""
    found: Counter[int] = Counter()
    while not stop.is_set():
        jobs = [lambda n=n: log_in(running, credentials(n), f"127.0.1.{1 + n}") for n in range(users)]
        found += side_by_side(jobs, users)
    results.put(dict(found))


@dataclass
class Guessed:
    seen: Seen
    seconds: float
    statuses: dict[int, int]
    rightful: int  # status of the user's own log-in afterwards
    rightful_ms: float


def guessed(addresses: int, guesses: int = 1000) -> Guessed:
    """Guesses for one account; its user has logged in from his own address before."""
    with server(1, before=with_password) as running, contextlib.closing(GoodClient(running)) as client:
        log_in(running, credentials(0), "127.0.0.9")
        done = threading.Event()
        began = time.monotonic()
        with beside(guess_all, running, guesses, addresses) as results:
            found: list[dict[int, int]] = []

            def wait() -> None:
                found.append(results())
                done.set()

            waiting = threading.Thread(target=wait, daemon=True)
            waiting.start()
            client.watch(lambda: not done.is_set())
            waiting.join()
        took = time.monotonic() - began
        began = time.monotonic()
        status = log_in(running, credentials(0), "127.0.0.9")
        return Guessed(client.seen, took, found[0], status, (time.monotonic() - began) * 1000)


def rushed(users: int, seconds: float) -> tuple[Seen, dict[int, int]]:
    """So many log-ins side by side, all with the right password."""
    with (
        server(users, before=with_password) as running,
        contextlib.closing(GoodClient(running)) as client,
        beside(log_in_all, running, users) as results,
    ):
        until = time.monotonic() + seconds
        client.watch(lambda: time.monotonic() < until)
        return client.seen, results()


# --- the table -------------------------------------------------------------------------------------------------------


COLUMNS: Final = (
    "POST p50",
    "p99",
    "new p50",
    "p99",
    "not let in",
    "MiB",
    "threads",
    "held",
    "refused",
    "in ms at most",
)


def row(name: str, seen: Seen) -> str:
    cells = [f"{percentile(times, p):.1f}" if times else "-" for times in (seen.kept, seen.new) for p in (50, 99)]
    cells += [
        str(seen.refused_new),
        f"{seen.memory_kib / 1024:.0f}",
        str(seen.threads),
        str(seen.held),
        str(seen.refused),
    ]
    cells.append(f"{seen.slowest_refusal_ms:.0f}" if seen.refused else "-")
    return f"| {name} | {' | '.join(cells)} |"


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="run.py bench attack", description=__doc__)
    parser.add_argument("--seconds", type=float, default=20.0, help="of each attack (default: %(default)s)")
    parser.add_argument("--only", default="", metavar="WORDS", help="attacks whose name has these words")
    options = parser.parse_args(arguments)
    raise_file_limit()
    print(machine())
    print(f"| attack | {' | '.join(COLUMNS)} |", "|---" * (1 + len(COLUMNS)) + "|", sep="\n", flush=True)
    everything: list[Seen] = []
    for attack in ATTACKS:
        if options.only in attack.name:
            everything.append(attacked(attack, options.seconds))
            print(row(attack.name, everything[-1]), flush=True)
    words: list[str] = []
    for addresses in (1, 100):
        name = f"1,000 guesses, {addresses} address{'es' if addresses > 1 else ''}"
        if options.only in name:
            found = guessed(addresses)
            everything.append(found.seen)
            print(row(name, found.seen), flush=True)
            words.append(
                f"{name}, in {found.seconds:.0f} s: {found.statuses.get(401, 0)} evaluated, "
                f"{found.statuses.get(429, 0)} refused before; the user himself: {found.rightful}, "
                f"{found.rightful_ms:.0f} ms"
            )
    if options.only in (name := "50 log-ins side by side"):
        seen, statuses = rushed(50, options.seconds)
        everything.append(seen)
        print(row(name, seen), flush=True)
        words.append(f"{name}, for {options.seconds:.0f} s: answers by status {dict(sorted(statuses.items()))}")
    print(*words, sep="\n")
    print(f"p99 under {GOAL_MS:.0f} ms: {'met' if all(seen.met for seen in everything) else 'NOT MET'}")
    return 0


def raise_file_limit() -> None:
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
