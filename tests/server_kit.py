"""A server for tests: the real application, hub, database and sockets in this process, on a free port."""

from __future__ import annotations

import functools
import json
import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

import requests
import websocket
from secrets_kit import secrets_in

from api import Registration, Settings
from auth import Passwords, Tokens, network_of
from db import Store
from hub import Hub
from records import Clock, Role, User
from routes import create_app, may_send_much
from signals import Action, Kind, Trade
from webserver import WebServer
from wire import SocketThreads

SECRET = bytes(range(32))
PASSWORD = "correct horse"

# The request of the system's first version, word for word.
ORIGINAL_SIGNAL = {
    "symbol": "EURUSD",
    "action": "BUY",
    "volume": 0.10,
    "price": 1.0850,
    "sl": 1.0800,
    "tp": 1.0900,
}
ACCOUNT = {
    "login": 1001,
    "balance": 10000.0,
    "equity": 10012.35,
    "currency": "USD",
    "leverage": 100,
    "margin_mode": "hedging",
}


class HandClock:
    """Moves only when told to; `wall` can be set on its own, as a computer's clock can."""

    def __init__(self, wall: float = 1_790_000_000.0) -> None:
        self.wall = wall
        self.now = 100.0

    def time(self) -> float:
        return self.wall

    def monotonic(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.wall += seconds
        self.now += seconds


@functools.cache
def password_hash() -> str:
    return Passwords().hashed(PASSWORD)


def trade(ticket: int = 1, **fields: Any) -> Trade:
    values: dict[str, Any] = {
        "kind": Kind.POSITION,
        "symbol": "EURUSD",
        "action": Action.BUY,
        "volume": Decimal("0.10"),
        "initial_volume": Decimal("0.10"),
        "price": Decimal("1.0850"),
        **fields,
    }
    return Trade(ticket, **values)


def report(ticket: int, **fields: Any) -> dict[str, Any]:
    """A trade as a sender reports it."""
    return {**ORIGINAL_SIGNAL, "ticket": ticket, "age_ms": 0, **fields}


@dataclass(eq=False)
class FakeConnection:
    """What the hub sees of a connection; remembers what it was given."""

    peer: str = "test:1"
    messages: list[dict[str, Any]] = field(default_factory=list)
    closed: tuple[int, str] | None = None
    over: bool = False

    def send_frame(self, payload: bytes) -> None:
        assert self.closed is None, "something was sent after the close"
        self.messages.append(json.loads(payload))

    def close(self, code: int, reason: str) -> None:
        self.closed = (code, reason)

    def types(self) -> list[str]:
        return [message["type"] for message in self.messages]

    def take(self) -> list[dict[str, Any]]:
        """Everything that came since the last look."""
        taken, self.messages = self.messages, []
        return taken


class Listening:
    """A follower's end of a WebSocket."""

    def __init__(self, url: str, token: str, **options: Any) -> None:
        options.setdefault("header", [f"Authorization: Bearer {token}"])
        self.socket = websocket.create_connection(url.replace("http", "ws", 1) + "/ws", timeout=20, **options)

    def next(self, kind: str | None = None) -> dict[str, Any]:
        """The next message, heartbeats aside; with `kind`, the next of that type."""
        while True:
            message = json.loads(self.socket.recv())
            if message["type"] != "heartbeat" and kind in (None, message["type"]):
                return dict(message)

    def joined(self) -> Listening:
        """Pass over what every connection gets first."""
        assert self.next()["type"] == "book"
        assert self.next()["type"] == "config"
        return self

    def close_code(self) -> int:
        """Read to the end; the code of the close."""
        while True:
            opcode, data = self.socket.recv_data(control_frame=True)
            if opcode == websocket.ABNF.OPCODE_CLOSE:
                return int.from_bytes(data[:2], "big")

    def close(self) -> None:
        self.socket.close()


@dataclass
class Caller:
    """A user of the server, with a token."""

    serving: Serving
    user: User
    token: str

    @property
    def name(self) -> str:
        return self.user.username

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"}

    def call(self, method: str, path: str, body: Any = None, **headers: str) -> requests.Response:
        return self.serving.call(method, path, body, **{**self.headers, **headers})

    def get(self, path: str) -> Any:
        answer = self.call("GET", path)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def post(self, path: str, body: Any, status: int | None = None, **headers: str) -> Any:
        answer = self.call("POST", path, body, **headers)
        assert answer.status_code == status if status else answer.status_code < 300, answer.text
        return answer.json()

    def put_book(self, session: str | None, rev: int, *trades: dict[str, Any], status: int = 200) -> Any:
        body = {"session": session, "rev": rev, "trades": list(trades), "account": ACCOUNT}
        answer = self.call("PUT", "/signal/book", body)
        assert answer.status_code == status, answer.text
        return answer.json()

    def listen(self, **options: Any) -> Listening:
        listening = Listening(self.serving.url, self.token, **options)
        self.serving.listening.append(listening)
        return listening


class Serving:
    def __init__(self, store: Store, hub: Hub, url: str, tokens: Tokens) -> None:
        self.store = store
        self.hub = hub
        self.url = url
        self.tokens = tokens
        self.session = requests.Session()
        self.session.trust_env = False  # a proxy or a CA file in the environment is not for this
        self.listening: list[Listening] = []
        self.secrets: tuple[str | bytes, ...] = (PASSWORD, SECRET)

    def user(self, name: str, role: Role | str = Role.CLIENT) -> Caller:
        user = self.store.add_user(name, password_hash(), Role(role))
        self.hub.user_changed(user.id)
        return Caller(self, user, self.tokens.issue(user))

    def call(self, method: str, path: str, body: Any = None, **headers: str) -> requests.Response:
        data = body if isinstance(body, (bytes, type(None))) else json.dumps(body).encode()
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        answer = self.session.request(method, self.url + path, data=data, headers=headers, timeout=20)
        assert not secrets_in(answer.content, *self.secrets) or path == "/token", "a secret is in an answer"
        return answer


class Logged(logging.Handler):
    """All that the server writes, before anything of it is hidden."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []
        self.setFormatter(logging.Formatter())

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))


@contextmanager
def serving(
    folder: Path,
    *,
    registration: Registration = Registration.OPEN,
    token_seconds: float = 3600,
    clock: Clock = time,
    tls: Any = None,
    most_from_address: int | None = None,
    **settings: Any,
) -> Iterator[Serving]:
    """`settings` are more of `api.Settings`."""
    store = Store(folder / "server.db", clock)

    def failed() -> None:
        raise AssertionError("a thread of the sockets ended")

    sockets = SocketThreads(clock, failed)
    hub = Hub(store, clock, sockets.send_to_all)
    app = create_app(store, hub, Settings(SECRET, registration, token_seconds, **settings), clock, sockets)
    server = WebServer(
        "127.0.0.1",
        0,
        app,
        tls,
        most_from_address=most_from_address,
        address_group=network_of,
        may_send_much=functools.partial(may_send_much, app.extensions["api"]),
    )
    threads = [
        threading.Thread(target=server.serve_forever, args=(0.02,), name="http", daemon=True),
        threading.Thread(target=hub.run, name="hub", daemon=True),
    ]
    for thread in threads:
        thread.start()
    running = Serving(store, hub, server.url, Tokens(SECRET, store, token_seconds))
    logged = Logged()
    logging.getLogger().addHandler(logged)
    for name in ("api", "auth", "database", "db", "hub", "routes", "users", "webserver", "wire"):
        logging.getLogger(name).setLevel(logging.DEBUG)
    try:
        yield running
    finally:
        for listening in running.listening:
            listening.socket.shutdown()
        running.session.close()
        server.shutdown()
        server.server_close()
        hub.close_all()
        sockets.stop()
        hub.stop()
        for thread in threads:
            thread.join(5)
        store.close()
        logging.getLogger().removeHandler(logged)
    assert not secrets_in("\n".join(logged.lines).encode(), *running.secrets), "a secret is in the log"
    for file in folder.glob("server.db*"):
        assert not secrets_in(file.read_bytes(), *running.secrets), "a secret is in the database"
