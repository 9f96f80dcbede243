"""The whole system in one process and one thread: the product's own classes on a simulated clock, network and disk.

Sender, server (store, hub, application) and copier are the real classes, each handed what it asks the outside for: a
clock, a terminal module (`mt5_sim` over a simulated broker), an HTTP session, database connections and a link to the
server. The world moves time, passes messages and lets things go wrong where a schedule says so.

A part can be killed at every boundary: before and after each commit, request and order. `Killed` is raised there, what
was not committed is rolled back, and the part is built anew from its files. What is simulated in place of the product
is small: the loops around `step()` (`sender.poll`, `copier.copy_until`) and the two threads of `link.py`, whose socket
is a list of frames here.
"""

from __future__ import annotations

import contextlib
import functools
import io
import logging
import queue
import random
import shutil
import sqlite3
import tempfile
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field, replace
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import requests
from flask import Flask
from werkzeug.security import generate_password_hash
from werkzeug.test import run_wsgi_app

import sim_types as t
from api import Api as ServerApi
from api import Settings
from api_client import Api, ApiDown, ApiRefused
from auth import Passwords
from config import ApiSettings, ClientConfig, Module, Mt5Settings, SenderConfig
from copier import Copier
from copies import Copy
from database import Unavailable, Unusable
from db import Store
from hub import Hub
from ledger import CopierLedger, Ledger, LedgerError, SenderLedger
from link import FIRST_BOOK_S, SILENCE_S, Heard, Inbox, Listener, Lost, Reporter
from mt5_sim import Client
from records import Role
from routes import create_app
from run_copier import check_newest
from safety import Copying, Limits, Mode, Sizing
from sender import Sender, Superseded
from signals import Kind, decode, encode
from sim_account import AccountSettings
from sim_api import Session
from sim_api import Terminal as SimTerminal
from sim_broker import Broker
from sim_records import Position, Request
from sim_symbols import SymbolSpec, default_symbols
from terminal import CannotConnect, ConnectionLost, Terminal

D = Decimal
START: Final = 1_790_000_000.0
TICK_S: Final = 0.5
UTC_OFFSET_S: Final = 3 * 3600
MAGIC: Final = 123456
FOREIGN_MAGIC: Final = 777
MULTIPLIER: Final = D("0.5")
STEP: Final = D("0.01")
MAX_AGE_S: Final = 10
POINT: Final = D("0.00001")
SYMBOLS: Final = {"EURUSD": (D("1.10000"), D("0.00010")), "GBPUSD": (D("1.30000"), D("0.00012"))}
PASSWORD: Final = "not a secret: lives for one schedule"  # noqa: S105
SECRET: Final = bytes(range(32))
LONGEST_TURN: Final = 5  # steps of a copier in one tick, while each asks for another
DISK_FULL: Final = 13  # SQLITE_FULL
CHEAP_METHOD: Final = "pbkdf2:sha256:1"
CHEAP_HASH: Final = generate_password_hash(PASSWORD, CHEAP_METHOD)

log = logging.getLogger(__name__)


class Killed(BaseException):
    """The process of a part ends here and now. No handler of the product catches it."""

    def __init__(self, part: Part) -> None:
        super().__init__(part.name)
        self.part = part


@dataclass
class WorldClock:
    """True time: the broker's clocks run by it."""

    now: float = START

    def time(self) -> float:
        return self.now


class MachineClock:
    """The clocks of one computer: the wall clock can be set, the monotonic one may stand still while it sleeps."""

    def __init__(self, world: WorldClock) -> None:
        self._world = world
        self.busy_until = 0.0  # true time up to which the part waits inside a call
        self.wall_ahead = 0.0
        self.slept = 0.0

    def _now(self) -> float:
        return max(self._world.now, self.busy_until)

    def time(self) -> float:
        return self._now() + self.wall_ahead

    def monotonic(self) -> float:
        return self._now() - self.slept - START + 1000.0

    def waits(self, seconds: float) -> None:
        self.busy_until = self._now() + seconds


@dataclass(eq=False)
class Part:
    """A program on a computer: server, sender or copier."""

    name: str
    clock: MachineClock
    alive: bool = False
    starts_at: float | None = 0.0  # true time at which somebody starts it again; None while it runs
    kill_in: int = 0  # boundaries until it is killed; 0 = it is not
    asleep_until: float = 0.0
    disk_full_until: float = 0.0
    network: str = ""  # what is wrong with its way to the server
    network_until: float = 0.0
    objects: Any = None
    rest_until: float = 0.0
    open_files: list[Connection] = field(default_factory=list)


class Wire:
    """One WebSocket connection: frames on their way from the server to the copier."""

    def __init__(self, world: World, line: Line, server: Any) -> None:
        self.peer = "10.0.0.2:1"
        self.over = False  # what is lost leaves the hub at once, from the same thread
        self.server = server
        self.began_at = self.heard_at = world.clock.now
        self.frames: list[tuple[float, bytes | tuple[int, str]]] = []  # (arrives at, content or close)
        self._world = world
        self._line = line

    def send_frame(self, payload: bytes) -> None:
        line = self._line
        if line.lose_frames and line.wire is self:
            line.lose_frames -= 1
            self._world.note("network", f"loses the frame {payload[:90].decode()}")
            return
        delay = self._world.random.choice((0.0, 0.0, 0.01, 0.3))
        if line.stall_within_s and line.wire is self:
            delay, line.stall_within_s = line.stall_within_s, 0.0
            self.heard_at = self._world.clock.now  # what has come of it ends the silence
            self._world.note("network", f"stops for {delay:g} s in the middle of {payload[:90].decode()}")
        at = max(self._world.clock.now + delay, self.frames[-1][0] if self.frames else 0.0)
        self.frames.append((at, payload))

    def close(self, code: int, reason: str) -> None:
        self.frames.append((self._world.clock.now, (code, reason)))


class Line:
    """The copier's way to the WebSocket. Stands in for the thread `link.Listener`."""

    def __init__(self, world: World, part: Part, inbox: Inbox, api: Api, settings: ApiSettings, ledger: str) -> None:
        self.wire: Wire | None = None
        self.stalled_until = 0.0
        self.cut_until = 0.0
        self.lose_frames = 0
        self.stall_within_s = 0.0  # the next frame stops in the middle for so long
        self._world = world
        self._part = part
        self._inbox = inbox
        self._api = api
        self._ledger = ledger
        self._listener = Listener(api, settings, inbox, threading.Event())  # for what it makes of a close code
        self._retry_at = 0.0
        self._token = ""

    def sync(self) -> None:
        world, wire = self._world, self.wire
        if wire is None or world.clock.now < max(self.stalled_until, self.cut_until) or not self._stands(wire):
            return
        world.as_part(world.server, lambda: wire.server.hub.received(wire, encode({"type": "sync"})))

    def _stands(self, wire: Wire) -> bool:
        return self._world.server.alive and wire.server is self._world.server.objects

    def turn(self) -> None:
        """What the listening thread does in a moment: take in what has come, notice silence, connect."""
        now = self._world.clock.now
        if self.wire is not None and (now < self.cut_until or not self._stands(self.wire)):
            self.lost("the connection was cut")
        if self.wire is not None and now >= self.stalled_until:
            self._take(self.wire, now)
        if self.wire is not None:
            wire = self.wire
            patience = FIRST_BOOK_S if wire.heard_at == wire.began_at else SILENCE_S
            if now - wire.heard_at > patience:
                self.lost(f"nothing heard for {patience:.0f} s")
        if self.wire is None and now >= max(self._retry_at, self.cut_until):
            self._connect()

    def _take(self, wire: Wire, now: float) -> None:
        while wire.frames and wire.frames[0][0] <= now and self.wire is wire:
            _, frame = wire.frames.pop(0)
            wire.heard_at = now
            if isinstance(frame, bytes):
                self._inbox.put(Heard(decode(frame), self._part.clock.monotonic()))
            else:
                code, reason = frame
                self._end(self._listener._closed(code.to_bytes(2) + reason.encode(), self._token))

    def lost(self, why: str, *, server_knows: bool = True) -> None:
        wire = self.wire
        if wire is None:
            return
        if server_knows and self._stands(wire):
            wire.server.hub.left(wire, 1006, why)
        self._end(Lost(why))

    def _end(self, lost: Lost) -> None:
        self.wire = None
        self._retry_at = self._world.clock.now + self._world.random.uniform(0.3, 3.0)
        self._inbox.put(lost)

    def _connect(self) -> None:
        world = self._world
        self._retry_at = world.clock.now + world.random.uniform(0.5, 3.0)
        try:
            self._token = self._api.token()
        except (ApiDown, ApiRefused) as error:
            self._inbox.put(Lost(str(error)))
            return
        if not world.server.alive or world.broken(self._part):
            self._inbox.put(Lost("no connection"))
            return
        wire = Wire(world, self, world.server.objects)

        def join() -> None:
            found = wire.server.app.extensions["api"].user_of(self._token)
            if found is None:
                self._api.forget_token(self._token)
                self._inbox.put(Lost("the server refused the WebSocket: 401"))
                return
            self.wire = wire
            try:
                hub = wire.server.hub
                hub.join(wire, found[0], found[1].expires_at, ledger=self._ledger, arrived=hub.arrival())
            except Unavailable:
                self.lost("1013 the database does not answer")

        if not world.as_part(world.server, join):
            self.lost("the server died", server_knows=False)


class HttpSession:
    """In place of `requests.Session`: the request goes to the application, unless the network is broken."""

    trust_env = True

    def __init__(self, world: World, part: Part) -> None:
        self._world = world
        self._part = part

    def request(self, method: str, url: str, *, data: bytes | None, headers: dict[str, str], **_: Any) -> Any:
        world, part = self._world, self._part
        world.boundary(f"{method} before")
        path = "/" + url.partition("://")[2].partition("/")[2]
        fault = part.network if world.clock.now < part.network_until else ""
        if fault == "lossy":
            fault = world.random.choice(("", "cut", "lost_reply", "lost_reply", "duplicated", "delayed"))
        if fault:
            world.note("network", f"{fault}: {method} {path} of the {part.name}")
        if fault == "cut":
            raise requests.ConnectionError("no route")
        if fault in ("delayed", "very late"):  # it arrives when nobody waits for the answer any more, behind later ones
            late = world.random.uniform(*((0.5, 12.0) if fault == "delayed" else (20.0, 30.0)))
            world.later(late, lambda: world.serve(method, path, data, headers))
            part.clock.waits(min(late, 10.0))
            raise requests.ReadTimeout("too late")
        answer = world.serve(method, path, data, headers)
        if fault == "duplicated":
            answer = world.serve(method, path, data, headers)
        if answer is not None and answer[0] < 300 and method != "GET" and path.startswith("/signal"):
            world.backup_unheard = False
        if answer is None:
            raise requests.ConnectionError("the server ended the connection")
        if fault == "lost_reply":
            part.clock.waits(world.random.choice((0.2, 10.0)))
            raise requests.ReadTimeout("no answer")
        world.boundary(f"{method} after")
        return SimpleNamespace(status_code=answer[0], content=answer[1], headers={})


class Mt5:
    """The terminal module of one program, with the boundaries around its orders."""

    def __init__(self, world: World, part: Part, client: Client) -> None:
        self._world = world
        self._part = part
        self._client = client

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._client, name)
        setattr(self, name, value)  # the next look-up is a plain one
        return value

    def order_send(self, request: dict[str, Any]) -> Any:
        world = self._world
        world.boundary("order before")
        world.counts["orders"] += 1
        fault, world.order_fault = world.order_fault, ""
        if fault == "exception_not_executed":
            world.note("broker", "order_send raises, nothing was executed")
            raise RuntimeError("order_send failed")
        first = world.client_broker.account.next_order
        result = self._client.order_send(request)
        for ticket in range(first, world.client_broker.account.next_order):
            world.tags[ticket] = request.get("comment", "")  # whatever the broker keeps of it
        if fault == "slow":
            self._part.clock.waits(world.random.uniform(0.5, 8.0))
        words = None if result is None else result.retcode
        world.note("broker", f"{_request_words(request)} -> {words}")
        world.boundary("order after")
        if fault == "exception_after_fill":
            raise RuntimeError("order_send failed")
        return result


def _request_words(request: dict[str, Any]) -> str:
    names = ("action", "symbol", "volume", "type", "position", "order", "price", "sl", "tp", "comment")
    return "order " + " ".join(f"{name}={request[name]}" for name in names if request.get(name))


class Connection(sqlite3.Connection):
    """A database of a part: its commits are boundaries, and fail while its disk is full."""

    world: World
    part: Part

    def execute(self, sql: str, *values: Any) -> sqlite3.Cursor:
        if sql != "COMMIT":
            return super().execute(sql, *values)
        world = self.world
        world.boundary("commit before")
        if world.clock.now < self.part.disk_full_until:
            world.counts["commits on a full disk"] += 1
            error = sqlite3.OperationalError("database or disk is full")
            error.sqlite_errorcode = DISK_FULL
            raise error
        done = super().execute(sql)
        world.boundary("commit after")
        return done


class Disk:
    """Opens databases for a part."""

    def __init__(self, world: World, part: Part) -> None:
        self._world = world
        self._part = part

    def connect(self, *arguments: Any, **options: Any) -> sqlite3.Connection:
        connection: Connection = sqlite3.connect(*arguments, factory=Connection, **options)
        connection.world, connection.part = self._world, self._part
        self._part.open_files.append(connection)
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")  # nobody else opens it: a third of the system calls
        return connection


# What takes long and is the same each time is made once in a process, by the product, and copied or begun anew.


@functools.cache
def new_server_database(number: int) -> bytes:
    """The first, second … of a world, each with an epoch of its own. Made as by hand with `server.py adduser`; the hash
    is a cheap one, so that logging in is."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "server.db")
        store = Store(path, MachineClock(WorldClock()))
        for name, role in (("admin", Role.ADMIN), ("master_user", Role.MASTER), ("client_user", Role.CLIENT)):
            store.add_user(name, CHEAP_HASH, role)
        store.close()
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as db:
            db.execute("DELETE FROM starts")
        return path.read_bytes()


@functools.cache
def new_ledger() -> bytes:
    """With its schema, and nobody's: the program that opens it first begins it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "ledger.db")
        Ledger(path, "", MachineClock(WorldClock())).close()
        with sqlite3.connect(path) as db:
            db.execute("DELETE FROM meta")
        db.close()
        return path.read_bytes()


class AtOnce(Executor):
    """In place of the server's threads for passwords: there is one thread here."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        done: Future[Any] = Future()
        done.set_result(fn(*args, **kwargs))
        return done


_applications: list[Flask] = []


def application(store: Store, hub: Hub, settings: Settings) -> Flask:
    """Of a server that starts: what a server process remembers is in its `Api` object, which is begun anew."""
    if not _applications:
        # Its clock, which stands still here, is for log lines only.
        _applications.append(create_app(store, hub, settings, MachineClock(WorldClock())))
    app = _applications[0]
    ServerApi.__init__(app.extensions["api"], store, hub, settings, Passwords(CHEAP_METHOD, AtOnce()))
    return app


@dataclass
class Trade:
    """What the master really did with one trade: the truth that the copies are judged by."""

    ticket: int
    kind: str
    symbol: str
    opened: float
    volumes: list[tuple[float, Decimal]] = field(default_factory=list)  # (since, lots)
    filled: float | None = None  # a pending order: when it became a position
    ended: float | None = None

    def volume_at(self, when: float) -> Decimal:
        """Lots at a time; 0 when it was not open."""
        if self.ended is not None and when >= self.ended:
            return D(0)
        return [lots for since, lots in self.volumes if since <= when][-1] if when >= self.opened else D(0)


@dataclass(frozen=True)
class Setup:
    """What kind of accounts there are, and how the follower sizes."""

    master_mode: str = "hedging"
    client_mode: str = "hedging"
    sizing: Sizing = Sizing(Mode.MULTIPLIER, D(0), MULTIPLIER)  # noqa: RUF009  frozen
    limits: Limits = Limits(10_000, 100, 50, D(100), D(50), MAX_AGE_S)  # noqa: RUF009  frozen
    client_step: Decimal = STEP  # lots; the minimum as well
    foreign: bool = True  # the follower has positions of his own
    mixed: tuple[str, Decimal] | None = None  # on a netting account: symbol and lots of his own, and copies beside them
    ends_by_itself: bool = True  # the master sets stops, and his pending orders expire
    comment: str = ""  # what the client's broker writes in the place of every comment; empty: it keeps them


class World:
    """One system and what happens to it. `tick()` is half a second."""

    def __init__(
        self, seed: int, folder: Path, *, kill_at: int = 0, trace: bool = False, setup: Setup | None = None
    ) -> None:
        self.setup = setup or Setup()
        self.random = random.Random(f"world {seed}")
        self.folder = folder
        self.clock = WorldClock()
        self.kill_at = kill_at
        self.boundaries = 0
        self.counts: Counter[str] = Counter()
        self.trace: list[str] | None = [] if trace else None
        self.actor: Part | None = None
        self.order_fault = ""
        self.defects: list[str] = []
        self._later: list[tuple[float, int, Callable[[], Any]]] = []
        self._ids = 0
        self.trades: dict[int, Trade] = {}
        self.token_seconds = 3600.0
        self.databases = 0  # of the server, so far
        self.ledger_lost = False  # a copier's ledger, or the server's reports, cannot be complete any more
        self.reports_lost = False
        self.tags: dict[int, str] = {}  # order of a copier → the tag that it was sent with
        self.ledger_put_back = False  # an old copy of it
        self.unseen_by_it: set[int] = set()  # orders that were under way then, shown neither in account nor in history
        self.by_hand: set[int] = set()  # client positions that the follower touched himself
        self.server_put_back = False  # an old backup of its database
        self.backup_unheard = False  # the server tells what an old backup says: the sender has not reported to it yet
        # Client positions and their lots when a copier's ledger was lost while that was so.
        self.lost_in_the_dark: dict[int, Decimal] = {}
        self.healed = False

        self.master_broker = self._broker(1001, self.setup.master_mode, STEP)
        self.client_broker = self._broker(2001, self.setup.client_mode, self.setup.client_step, self.setup.comment)
        self.master_sim, self.client_sim = SimTerminal(self.master_broker), SimTerminal(self.client_broker)
        self.move_market()
        self.server = Part("server", MachineClock(self.clock))
        self.sender = Part("sender", MachineClock(self.clock))
        self.copier = Part("copier", MachineClock(self.clock))
        self.second_sender: Part | None = None
        self.second_copier: Part | None = None
        for part in (self.server, self.sender, self.copier):
            self.start(part)
        self.foreign: dict[int, Decimal] = {}
        if self.setup.foreign:
            self._foreign_position()
        if self.setup.mixed is not None:
            self.client_broker.send(_deal(*self.setup.mixed, t.ORDER_TYPE_BUY))

    # -- what tells about it

    def note(self, who: str, words: str) -> None:
        if self.trace is not None:
            self.trace.append(f"{self.clock.now - START:8.2f}  {who:8} {words}")

    def boundary(self, name: str) -> None:
        part = self.actor
        if part is None:
            return
        self.boundaries += 1
        if part.kill_in:
            part.kill_in -= 1
            doomed = part.kill_in == 0
        else:
            doomed = False
        if doomed or self.boundaries == self.kill_at:
            self.note(part.name, f"is killed: {name}")
            raise Killed(part)

    def as_part(self, part: Part, act: Callable[[], Any]) -> bool:
        """Let a part do something; False when it was killed meanwhile."""
        before, self.actor = self.actor, part
        try:
            act()
        except Killed as killed:
            self.bury(killed.part)
            if killed.part is not part:
                raise
            return False
        finally:
            self.actor = before
        return True

    def later(self, seconds: float, act: Callable[[], Any]) -> None:
        self._ids += 1
        self._later.append((self.clock.now + seconds, self._ids, act))
        self._later.sort(key=lambda entry: entry[:2])

    # -- brokers

    def _broker(self, login: int, margin_mode: str, step: Decimal, comment: str = "") -> Broker:
        specs: dict[str, SymbolSpec] = {
            name: replace(spec, volume_min=step, volume_step=step)
            for name, spec in default_symbols().items()
            if name in SYMBOLS
        }
        account = AccountSettings(
            login=login, balance=D(1_000_000), margin_mode=margin_mode, stop_out=D(0), comment_replaced=comment
        )
        return Broker(account, clock=self.clock, symbols=specs, seed=1)

    def move_market(self, name: str = "", points: int = 0, *, only: Broker | None = None) -> None:
        """New quotes near the usual price, or one jump of a symbol by so many points."""
        for broker in (self.master_broker, self.client_broker):
            if only is not None and broker is not only:
                continue
            broker.market.frozen = True
            moved = [name] if name else list(SYMBOLS)
            for symbol in moved:
                price, spread = SYMBOLS[symbol]
                bid = price + (points or self.random.randint(-5, 5)) * POINT
                broker.market.set_quote(symbol, bid, bid + spread, broker.now_msc())
            broker.settle(moved)

    def _foreign_position(self) -> None:
        self.follower_opens("EURUSD", D("0.10"), t.ORDER_TYPE_BUY, FOREIGN_MAGIC)
        self.follower_opens("GBPUSD", D("0.05"), t.ORDER_TYPE_SELL, 0)

    def follower_opens(self, symbol: str, lots: Decimal, side: int, magic: int) -> None:
        """A position of his own, or of another program."""
        done = self.client_broker.send(_deal(symbol, lots, side, magic=magic))
        if done.retcode == t.TRADE_RETCODE_DONE:
            self.foreign[done.order] = lots

    # -- programs start and end

    def start(self, part: Part) -> None:
        part.starts_at = None
        makers = {"server": self._server, "sender": self._sender, "copier": self._copier}
        self.note(part.name, "starts")

        def make() -> None:
            part.objects = makers[part.name.partition(" ")[0]](part)
            part.alive = True

        self.as_part(part, make)

    def bury(self, part: Part) -> None:
        """Its process is gone: what is not in its files is lost."""
        self.counts[f"kills {part.name}"] += 1
        self._down(part)
        part.starts_at = self.clock.now + self.random.choice((0.5, 1.0, 2.0, 4.0))

    def _down(self, part: Part) -> None:
        part.alive = False
        part.kill_in = 0
        objects, part.objects = part.objects, None
        if objects is not None and part.name.startswith("copier"):
            objects.line.lost("the copier died")
        for connection in part.open_files:  # also of a program that died while it began
            connection.close()
        part.open_files.clear()

    def stop(self, part: Part, starts_in: float | None) -> None:
        """Ended by its operator, or because it must not go on."""
        self._down(part)
        part.starts_at = None if starts_in is None else self.clock.now + starts_in

    def _server(self, part: Part) -> Any:
        path = self.folder / "server.db"
        if not path.exists():
            self._new_database(path)
        try:
            store = Store(path, part.clock, connect=Disk(self, part).connect)
        except Unusable as problem:  # the operator does what the words say
            self.note("operator", str(problem))
            self._remove(path)
            backup = self.folder / "server.copy"
            if backup.exists():
                shutil.copy(backup, path)
                self.backup_unheard = self.server_put_back = True
            else:
                self._new_database(path)
            self.reports_lost = True
            store = Store(path, part.clock, connect=Disk(self, part).connect)
        hub = Hub(store, part.clock)
        app = application(store, hub, Settings(SECRET, token_seconds=self.token_seconds))
        return SimpleNamespace(store=store, hub=hub, app=app)

    def ledger_is_lost(self) -> None:
        """Whatever is known from now on is not all that a copier knew before."""
        self.ledger_lost = True
        if self.backup_unheard:
            self.lost_in_the_dark |= {p.identifier: p.volume for p in self.client_broker.positions()}

    def _new_database(self, path: Path) -> None:
        self.databases += 1
        path.write_bytes(new_server_database(self.databases))

    def _ledger_of(self, part: Part) -> Path:
        path = self.folder / f"{part.name}.db"
        if not path.exists():
            path.write_bytes(new_ledger())
        return path

    def _remove(self, path: Path) -> None:
        for file in self.folder.glob(path.name + "*"):
            file.unlink()

    def _api(self, part: Part, user: str) -> tuple[Api, ApiSettings]:
        settings = ApiSettings("http://127.0.0.1:8000", user, PASSWORD, "ws://127.0.0.1:8000")
        return Api(settings, HttpSession(self, part), clock=part.clock), settings

    def _sender(self, part: Part) -> Any:
        api, settings = self._api(part, "master_user")
        mt5 = Mt5Settings(1001, "investor", "Sim", path="x", module=Module.MT5_SIM)
        ledger = SenderLedger(self._ledger_of(part), "account 1001 at Sim", part.clock, Disk(self, part).connect)
        terminal = Terminal(Mt5(self, part, Client(self.master_sim)), mt5, part.clock)
        sender = Sender(terminal, api, ledger, SenderConfig(settings, mt5, 500, self.folder), part.clock)
        return SimpleNamespace(sender=sender, terminal=terminal, connected=False, ledger=ledger)

    def _copier(self, part: Part) -> Any:
        api, settings = self._api(part, "client_user")
        mt5 = Mt5Settings(2001, "demo", "Sim", path="x", module=Module.MT5_SIM)
        config = ClientConfig(
            api=settings,
            mt5=mt5,
            sizing=self.setup.sizing,
            limits=self.setup.limits,
            copying=Copying.ON,
            magic=MAGIC,
            folder=self.folder,
            allow_mixed_symbol=self.setup.mixed is not None,
        )
        ledger = CopierLedger(self._ledger_of(part), "account 2001 at Sim", part.clock, Disk(self, part).connect)
        terminal = Terminal(Mt5(self, part, Client(self.client_sim)), mt5, part.clock)
        inbox: Inbox = queue.SimpleQueue()
        line = Line(self, part, inbox, api, settings, ledger.get("ledger") or "")
        reporter = Reporter(api, ledger, threading.Event())

        def begin() -> Copier:  # when the terminal has answered for the first time, as in run_copier.py
            if self.ledger_put_back:
                self.unseen_by_it |= {o.ticket for o in self.client_broker.account.orders.values() if o.due_msc}
            check_newest(ledger, terminal, config)
            return Copier(terminal, ledger, config, inbox, line, part.clock)

        return SimpleNamespace(
            copier=None, begin=begin, terminal=terminal, line=line, inbox=inbox, reporter=reporter, ledger=ledger,
            connected=False, looked=0.0, reported=0.0,
        )  # fmt: skip

    # -- the network

    def broken(self, part: Part) -> bool:
        return self.clock.now < part.network_until and part.network == "cut"

    def serve(self, method: str, path: str, data: bytes | None, headers: dict[str, str]) -> tuple[int, bytes] | None:
        """The server's answer, None when there is none."""
        if not self.server.alive or self.clock.now < self.server.asleep_until:
            return None
        bare, _, query = path.partition("?")
        environ = {
            "REQUEST_METHOD": method, "SCRIPT_NAME": "", "PATH_INFO": bare, "QUERY_STRING": query,
            "SERVER_NAME": "127.0.0.1", "SERVER_PORT": "8000", "SERVER_PROTOCOL": "HTTP/1.1",
            "REMOTE_ADDR": "10.0.0.1", "CONTENT_TYPE": headers.get("Content-Type", ""),
            "CONTENT_LENGTH": str(len(data or b"")), "HTTP_AUTHORIZATION": headers.get("Authorization", ""),
            "wsgi.version": (1, 0), "wsgi.url_scheme": "http", "wsgi.input": io.BytesIO(data or b""),
            "wsgi.errors": io.StringIO(), "wsgi.multithread": True, "wsgi.multiprocess": False,
            "wsgi.run_once": False,
        }  # fmt: skip
        answer: list[tuple[int, bytes]] = []

        def respond() -> None:
            pieces, status, _ = run_wsgi_app(self.server.objects.app, environ, buffered=True)
            answer.append((int(status[:3]), b"".join(pieces)))

        if not self.as_part(self.server, respond):
            return None
        if answer[0][0] == 500:
            self.defects.append(f"500 for {method} {path}")
        return answer[0]

    # -- time

    def tick(self, seconds: float = TICK_S) -> None:
        self.clock.now += seconds
        now = self.clock.now
        for part in self.parts():
            if self.healed and not part.alive and part.starts_at is None and part is not self.second_copier:
                self.counts["restarts after the faults"] += 1  # whoever runs it sees that it has stopped
                part.starts_at = now + 1.0
            if not part.alive and part.starts_at is not None and part.starts_at <= now:
                try:
                    self.start(part)
                except (LedgerError, Unavailable) as problem:
                    self.note(part.name, f"cannot start: {problem}")
                    part.starts_at = now + 2.0
        while self._later and self._later[0][0] <= now:
            self._later.pop(0)[2]()
        self.move_market()
        self.watch_master()
        turns = [self._turn_of_server, *(lambda p=p: self._turn(p) for p in self.parts()[1:])]
        self.random.shuffle(turns)
        for turn in turns:
            turn()

    def parts(self) -> list[Part]:
        more = [part for part in (self.second_sender, self.second_copier) if part is not None]
        return [self.server, self.sender, self.copier, *more]

    def _awake(self, part: Part) -> bool:
        return part.alive and self.clock.now >= max(part.asleep_until, part.clock.busy_until, part.rest_until)

    def _turn_of_server(self) -> None:
        if self._awake(self.server):
            self.as_part(self.server, self._hub_step)

    def _hub_step(self) -> None:
        try:
            self.server.objects.hub.step()
        except Unavailable as error:
            self.note("server", str(error))

    def _turn(self, part: Part) -> None:
        if not self._awake(part):
            return
        turn = self._sender_turn if part.name.startswith("sender") else self._copier_turn
        try:
            self.as_part(part, lambda: turn(part))
        except Killed:
            raise
        except Exception as error:
            self.defects.append(f"{part.name}: {error!r}")
            log.exception("%s", part.name)
            part.rest_until = self.clock.now + 5.0

    def _connected(self, part: Part) -> bool:
        objects = part.objects
        if not objects.connected:
            try:
                objects.terminal.connect()
                objects.connected = True
            except CannotConnect as problem:
                self.note(part.name, str(problem))
                part.rest_until = self.clock.now + 1.0
        return bool(objects.connected)

    def _sender_turn(self, part: Part) -> None:
        """One round of `sender.poll`."""
        if not self._connected(part):
            return
        try:
            part.objects.sender.step()
        except ConnectionLost:
            part.objects.connected = False
        except LedgerError as error:
            self.note(part.name, str(error))
            part.rest_until = self.clock.now + 1.0
        except Superseded as reason:
            self.note(part.name, f"stopped: {reason}")
            self.stop(part, None)

    def _copier_turn(self, part: Part) -> None:
        """What the three threads of the copier do in half a second: listen, `copy_until`, report."""
        objects = part.objects
        if not self._connected(part):
            return
        if objects.copier is None:
            try:
                objects.copier = objects.begin()
            except LedgerError as error:
                self.note(part.name, f"stops: {error}")
                self.stop(part, 2.0)
                return
        objects.line.turn()
        now = self.clock.now
        if objects.inbox.empty() and now - objects.looked < 1.0:
            self._report(part)
            return
        for _ in range(LONGEST_TURN):
            objects.looked = now
            objects.copier.wait(0.0)
            if objects.copier.ended:
                self.note(part.name, f"stopped: {objects.copier.ended}")
                self.stop(part, None)
                return
            try:
                again = objects.copier.step()
            except ConnectionLost:
                objects.connected = False
                return
            except LedgerError as error:
                self.note(part.name, str(error))
                part.rest_until = now + 1.0
                return
            if objects.copier.defect:
                raise AssertionError(objects.copier.defect)
            if not again or not self._awake(part):
                break
        self._report(part)

    def _report(self, part: Part) -> None:
        objects = part.objects
        if self.clock.now - objects.reported < 1.0:
            return
        objects.reported = self.clock.now
        before = part.clock.busy_until
        try:
            objects.reporter.step()
        except (ApiDown, ApiRefused, LedgerError) as error:
            self.note(part.name, f"reports wait: {error}")
            objects.reported = self.clock.now + 2.0
        part.clock.busy_until = before  # it has a thread of its own, and makes nobody wait

    def heal(self) -> None:
        """All is well from now on: what was broken is mended, what does not run is started."""
        self.healed = True
        self.order_fault = ""
        self.later(5.0, self.reactivate)
        for second in (self.second_sender, self.second_copier):
            if second is not None:
                self.stop(second, None)
        self.second_sender = None
        for sim in (self.master_sim, self.client_sim):
            sim.running = True
            sim.call(Session(), "sim_clear_faults", {})
            sim.call(Session(), "sim_trading", {})
        for part in self.parts():
            if part is self.second_copier:
                continue
            part.kill_in = 0
            part.network = ""
            part.disk_full_until = part.asleep_until = 0.0
            if not part.alive:
                part.starts_at = self.clock.now
        if self.copier.alive:
            line = self.copier.objects.line
            line.cut_until = line.stalled_until = 0.0
            line.lose_frames = 0
            line.stall_within_s = 0.0

    def reactivate(self) -> None:
        """A backup that was put back may hold an account as it was while deactivated: the operator sees to it."""
        if not self.server.alive:
            self.later(1.0, self.reactivate)
            return

        def change() -> None:
            store, hub = self.server.objects.store, self.server.objects.hub
            for name in ("master_user", "client_user"):
                user = store.user_named(name)
                if not user.active:
                    hub.user_changed(store.change_user(name, active=True).id)

        self.as_part(self.server, change)

    # -- the truth about the master

    def master_opens(self, symbol: str, volume: Decimal, buy: bool, sl: bool, tp: bool) -> None:
        bid = self.master_broker.market.quotes[symbol].bid
        side = 1 if buy else -1
        stop = bid - side * D("0.00300") if sl else D(0)
        profit = bid + side * D("0.00300") if tp else D(0)
        request = _deal(symbol, volume, t.ORDER_TYPE_BUY if buy else t.ORDER_TYPE_SELL, sl=stop, tp=profit)
        done = self.master_broker.send(request)
        self._witness(done.order, "position", symbol, volume, done.retcode)

    def master_places(self, symbol: str, volume: Decimal, kind: int, points: int) -> None:
        bid = self.master_broker.market.quotes[symbol].bid
        below = kind in (t.ORDER_TYPE_BUY_LIMIT, t.ORDER_TYPE_SELL_STOP)
        price = bid - D(points) * D("0.00001") if below else bid + D(points) * D("0.00001")
        request = Request(
            action=t.TRADE_ACTION_PENDING, symbol=symbol, volume=volume, type=kind, price=price,
            type_filling=t.ORDER_FILLING_RETURN,
        )  # fmt: skip
        done = self.master_broker.send(request)
        self._witness(done.order, "order", symbol, volume, done.retcode)

    def _witness(self, ticket: int, kind: str, symbol: str, volume: Decimal, retcode: int) -> None:
        if retcode != t.TRADE_RETCODE_DONE:
            self.defects.append(f"the campaign's own order of the master was refused: {retcode}")
            return
        self.counts["master opens"] += 1
        self.trades[ticket] = Trade(ticket, kind, symbol, self.clock.now, [(self.clock.now, volume)])
        self.note("master", f"{kind} #{ticket} {symbol} {volume}")

    def watch_master(self) -> None:
        """Bring the truth up to what the master's account shows: also what the broker did by itself."""
        positions = {p.identifier: p for p in self.master_broker.positions()}
        orders = {o.ticket for o in self.master_broker.orders()}
        for trade in self.trades.values():
            if trade.ended is not None:
                continue
            position = positions.get(trade.ticket)
            if position is not None:
                if trade.kind == "order" and trade.filled is None:
                    trade.filled = self.clock.now
                if position.volume != trade.volumes[-1][1]:
                    trade.volumes.append((self.clock.now, position.volume))
            elif trade.ticket not in orders:
                trade.ended = self.clock.now
                self.note("master", f"#{trade.ticket} has ended")

    def reports(self) -> list[dict[str, Any]]:
        """What the copiers have told the server."""
        if not self.server.alive:
            return []
        store: Store = self.server.objects.store
        found: list[dict[str, Any]] = []
        while page := store.executions_after(found[-1]["number"] if found else 0, 1000):
            found += page
        return found

    def close(self) -> None:
        for part in self.parts():
            self._down(part)

    @property
    def ledger(self) -> dict[Any, Copy]:
        """What the copiers' ledgers hold, all of it."""
        found: dict[Any, Copy] = {}
        for part in (self.second_copier, self.copier):
            if part is not None and part.alive:
                ledger: CopierLedger = part.objects.ledger
                ledger.load(("master_user", kind, ticket, 0) for ticket in self.trades for kind in Kind)
                found |= ledger.copies
        return found


def _deal(symbol: str, volume: Decimal, side: int, **more: Any) -> Request:
    return Request(
        action=t.TRADE_ACTION_DEAL, symbol=symbol, volume=volume, type=side,
        type_filling=t.ORDER_FILLING_IOC, **more,
    )  # fmt: skip


def position_of(broker: Broker, identifier: int) -> Position | None:
    return next((p for p in broker.positions() if p.identifier == identifier), None)
