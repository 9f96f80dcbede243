"""What the measurements share: servers as processes, followers that are no bottleneck, posts, and plain statistics."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import re
import select
import shutil
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Final

import jwt
import requests

from auth import read_secret
from db import Store
from records import Role

ROOT: Final = Path(__file__).resolve().parent.parent
BENCH: Final = ROOT / "bench"
SIGNAL: Final = {"symbol": "EURUSD", "action": "BUY", "volume": 0.1, "price": 1.085, "sl": 1.08, "tp": 1.09}


class NotHere(Exception):
    """What is to be measured is not installed; the text says what."""


# --- statistics ------------------------------------------------------------------------------------------------------


def percentile(values: Sequence[float], percent: float) -> float:
    """The value below which so many percent are, of the values as they are."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]


@dataclass(frozen=True, slots=True)
class Goal:
    """Something that must not be more than `most`."""

    what: str
    most: float
    found: float | None  # None = not measured
    unit: str
    why_not: str = ""  # it was not measured

    @property
    def met(self) -> bool | None:
        return None if self.found is None else self.found <= self.most

    def row(self) -> str:
        not_measured = f"not measured: {self.why_not or 'not asked for'}"
        verdict = {True: "met", False: "**not met**", None: not_measured}[self.met]
        found = "" if self.found is None else f"{self.found:.3g} {self.unit}"
        return f"| {self.what} | at most {self.most:g} {self.unit} | {found} | {verdict} |"


def machine() -> str:
    """What this computer is, for the page of results."""
    name = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        found = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text(encoding="utf-8"))
        name = found[1] if found else name
    memory = ""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        memory = f", {os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB of memory"
    kernel = platform.release().partition("-")[0]  # what follows it may be the name of somebody's own build
    python = f"Python {platform.python_version()}, SQLite {sqlite3.sqlite_version}"
    return f"{os.cpu_count()} cores of {name}{memory}, {platform.system()} {kernel}, {python}"


def load() -> float:
    """How many processes wanted a core in the last minute, ours included."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")


# --- processes -------------------------------------------------------------------------------------------------------


@dataclass
class Running:
    """A server that listens: where it takes posts, where WebSockets; and what it costs (Linux only, else 0)."""

    pid: int
    port: int
    websocket_port: int
    master: str = field(repr=False)  # tokens
    followers: list[str] = field(repr=False)
    start_s: float = 0.0  # from the start of the process until it listened

    def cpu_s(self) -> float:
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{self.pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
            return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        return 0.0

    def memory_kib(self) -> int:
        return self._status("VmRSS")

    def threads(self) -> int:
        return self._status("Threads")

    def _status(self, name: str) -> int:
        with contextlib.suppress(OSError):
            found = re.search(rf"^{name}:\s+(\d+)", Path(f"/proc/{self.pid}/status").read_text(), re.MULTILINE)
            return int(found[1]) if found else 0
        return 0


@contextlib.contextmanager
def started(
    command: Sequence[str], log: Path, **environment: str
) -> Iterator[tuple[subprocess.Popen[bytes], list[int]]]:
    """The process, once it has said on which ports it listens."""
    with open(log, "wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, cwd=log.parent, env={**os.environ, **environment})
    try:
        deadline = time.monotonic() + 120
        while not (found := re.search(rb"listen\w* on (.*)$", log.read_bytes(), re.MULTILINE)):
            if process.poll() is not None or time.monotonic() > deadline:
                raise NotHere(f"{Path(command[0]).name} does not listen: {what_failed(log)}")
            time.sleep(0.02)
        yield process, [int(port) for port in re.findall(rb"(?:^|[: ])(\d+)(?= |$)", found[1])]
    finally:
        process.kill()
        process.wait()


def what_failed(log: Path) -> str:
    """The line of what a process wrote that says why it ended."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return next((line for line in reversed(lines) if "Error" in line), lines[-1] if lines else "it said nothing")


@contextlib.contextmanager
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="aibot-bench-") as made:
        yield Path(made)


def token(secret: bytes, user_id: int) -> str:
    now = time.time()
    return jwt.encode({"sub": str(user_id), "tv": 1, "iat": now, "exp": now + 86_400}, secret, "HS256")


def make_users(path: Path, clients: int) -> tuple[str, list[str]]:
    """A database with a master and so many clients, who cannot log in by password; their tokens."""
    store = Store(path, time)
    store.add_user("admin", "no hash", Role.ADMIN)
    master = store.add_user("master_user", "no hash", Role.MASTER)
    store.close()
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("BEGIN")
        db.executemany(
            "INSERT INTO users (username, password, role, active, created_at) VALUES (?, 'no hash', 'client', 1, 1)",
            [(f"client_{number}",) for number in range(clients)],
        )
        db.execute("COMMIT")
    secret = read_secret(path.with_suffix(".secret"))
    return token(secret, master.id), [token(secret, master.id + 1 + number) for number in range(clients)]


@contextlib.contextmanager
def server(followers: int, *options: str, before: Any = None) -> Iterator[Running]:
    """`python server.py` on a database with so many followers; `before` is called with the database's path."""
    with folder() as place:
        path = place / "server.db"
        master, clients = make_users(path, followers)
        if before is not None:
            before(path)
        command = [sys.executable, str(ROOT / "server.py"), "--port", "0", "--database", str(path)]
        began = time.monotonic()
        with started([*command, "--per-address", "100000", *options], place / "server.log") as (process, ports):
            yield Running(process.pid, ports[0], ports[0], master, clients, time.monotonic() - began)


HOW_TO_INSTALL: Final = "pip install -r bench/requirements.txt; in bench/peers: npm install ws"
PEERS: Final = {
    "websockets": [sys.executable, str(BENCH / "peers" / "websockets_peer.py")],
    "aiohttp": [sys.executable, str(BENCH / "peers" / "aiohttp_peer.py")],
    "Starlette, uvicorn": [sys.executable, str(BENCH / "peers" / "starlette_peer.py")],
    "node ws": ["node", str(BENCH / "peers" / "ws_peer.js")],
    "C, epoll": ["epoll"],
}


@contextlib.contextmanager
def peer(name: str, followers: int) -> Iterator[Running]:
    """Raises `NotHere`."""
    secret = bytes(range(32))
    command = PEERS[name]
    with folder() as place:
        if name == "C, epoll":
            command = [str(compiled(BENCH / "peers" / "epoll.c"))]
        elif shutil.which(command[0]) is None:
            raise NotHere(f"there is no {command[0]} on this computer")
        with contextlib.ExitStack() as running:
            try:
                process, ports = running.enter_context(
                    started([*command, "0"], place / "peer.log", BENCH_SECRET=secret.hex())
                )
            except NotHere as error:
                raise NotHere(f"{error} (to install it: {HOW_TO_INSTALL})") from error
            yield Running(process.pid, ports[0], ports[-1], token(secret, 1), [token(secret, 2)] * followers)


_compiled: dict[Path, Path] = {}
_programs = tempfile.TemporaryDirectory(prefix="aibot-bench-")


def compiled(source: Path) -> Path:
    """The program of a C file. Raises `NotHere`."""
    if source not in _compiled:
        compiler = shutil.which("cc") or shutil.which("gcc")
        if compiler is None or sys.platform != "linux":
            raise NotHere("it needs a C compiler (cc or gcc) and Linux")
        target = Path(_programs.name) / source.stem
        built = subprocess.run([compiler, "-O2", "-o", str(target), str(source)], capture_output=True, text=True)
        if built.returncode != 0:
            raise NotHere(f"{source.name} cannot be compiled: {built.stderr.strip().splitlines()[-1]}")
        _compiled[source] = target
    return _compiled[source]


PATIENCE_S: Final = 60
SETTLED_S: Final = 0.5  # a server may count a follower in only after it has answered the handshake

# --- followers and posts ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Arrival:
    """When the first, the median and the last follower had a signal: ns of time.monotonic_ns."""

    first: int
    median: int
    last: int


class Followers:
    """bench/clients.c: one thread for thousands of WebSockets. Raises `NotHere`."""

    def __init__(self, running: Running, tokens: Sequence[str]) -> None:
        self._process = subprocess.Popen(
            [str(compiled(BENCH / "clients.c")), str(running.websocket_port)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
        )
        self.connect(*tokens)

    def _ask(self, line: str, answer: bytes) -> list[int]:
        to: IO[bytes] | None = self._process.stdin
        assert to is not None
        to.write(line.encode() + b"\n")
        to.flush()
        return self._said(answer)

    def _said(self, word: bytes) -> list[int]:
        assert self._process.stdout is not None
        if not select.select([self._process.stdout], [], [], PATIENCE_S)[0]:
            raise RuntimeError(f"the followers did not say {word.decode()!r} for {PATIENCE_S} s: a message is missing")
        said = self._process.stdout.readline()
        if not said.startswith(word):
            raise RuntimeError(f"the followers ended: {said!r}")
        return [int(number) for number in said.split()[1:]]

    def expect(self, signals: int) -> None:
        self._ask(f"go {signals}", b"ready")

    def arrival(self) -> Arrival:
        """Of the next signal, once the last follower has it."""
        return Arrival(*self._said(b"round"))

    def connect(self, *tokens: str) -> None:
        for one in tokens:
            self._ask(f"connect {one}", b"connected")
        time.sleep(SETTLED_S)

    def connect_all(self, tokens: Sequence[str]) -> Arrival:
        """All at once; when the first, the median and the last had its first message, in ns from the beginning."""
        for one in tokens:
            self._ask(f"later {one}", b"later")
        return Arrival(*self._ask("all", b"all"))

    def stall_last(self) -> None:
        self._ask("stall", b"stalled")

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


def connections(running: Running) -> int:
    """How many clients the server says are connected."""
    answer = requests.get(f"http://127.0.0.1:{running.port}/metrics", timeout=60)
    found = re.search(r'aibot_connections\{role="client"\} (\d+)', answer.text)
    return int(found[1]) if found else 0


class Poster:
    """A connection that is kept, as a sender's is."""

    def __init__(self, running: Running) -> None:
        self._socket = socket.create_connection(("127.0.0.1", running.port), timeout=60)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._head = f"Host: 127.0.0.1:{running.port}\r\nAuthorization: Bearer {running.master}\r\n"
        self._signal = self._request("POST", "/signal/broadcast", SIGNAL)
        self.answer: dict[str, Any] = {}

    def _request(self, method: str, path: str, body: Any) -> bytes:
        content = json.dumps(body).encode()
        kind = f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
        return f"{method} {path} HTTP/1.1\r\n{self._head}{kind}".encode() + content

    def post(self) -> tuple[int, int]:
        """Post a signal; when that began and when it was answered (ns)."""
        return self._asked(self._signal)

    def close_trade(self, ticket: int) -> None:
        self._asked(self._request("POST", "/signal/close", {"ticket": ticket}))

    def put_book(self, session: str | None, rev: int, trades: int) -> tuple[int, int]:
        """Report a book of so many trades."""
        account = {"login": 1, "balance": 1, "equity": 1, "currency": "USD", "leverage": 1, "margin_mode": 2}
        book = [{**SIGNAL, "ticket": number + 1, "age_ms": 0} for number in range(trades)]
        body = {"session": session, "rev": rev, "trades": book, "account": account}
        return self._asked(self._request("PUT", "/signal/book", body))

    def _asked(self, request: bytes) -> tuple[int, int]:
        began = time.monotonic_ns()
        self._socket.sendall(request)
        answer = b""
        while True:
            head, end, body = answer.partition(b"\r\n\r\n")
            length = re.search(rb"(?i)content-length: (\d+)", head)
            if end and length and len(body) >= int(length[1]):
                break
            piece = self._socket.recv(65536)
            if not piece:
                raise RuntimeError(f"the server hung up: {answer!r}")
            answer += piece
        took = time.monotonic_ns()
        if not re.match(rb"HTTP/1.1 20[01] ", head):
            raise RuntimeError(answer.decode(errors="replace"))
        self.answer = json.loads(body)
        return began, took

    def close(self) -> None:
        self._socket.close()
