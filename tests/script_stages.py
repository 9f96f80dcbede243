"""The two stages on which the scripts in `protocol/` are played, both of the program's own classes.

`ServerStage` is the application, its database on a disk, and the hub; requests come through WSGI, handshakes too, and a
connection is an object that remembers its frames. `CopierStage` is the copier with its ledger on a simulated account.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import socket
import sqlite3
from decimal import Decimal
from pathlib import Path
from typing import Any

from follower import Follower
from script_kit import REST, BadScript, Line, Unexpected, Values, split_headers
from server_kit import ACCOUNT, ORIGINAL_SIGNAL, PASSWORD, SECRET, FakeConnection, HandClock, password_hash

from api import Registration, Settings
from api_client import Api
from auth import Tokens
from db import Store
from hub import Connection, Hub
from link import Heard, Listener, Lost
from records import Role, User
from routes import create_app
from signals import Action, BadJson, Kind, Source, Trade, decode, encode, trade_for_client
from webserver import GIVE_SOCKET_TO

ACTORS = {
    "admin": Role.ADMIN,
    "master": Role.MASTER,
    "master2": Role.MASTER,
    "client": Role.CLIENT,
    "client2": Role.CLIENT,
}
ANYONE = "anyone"  # calls without a token
HANDSHAKE = {
    "Upgrade": "websocket",
    "Connection": "Upgrade",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
    "Sec-WebSocket-Version": "13",
}


def one_argument(line: Line) -> tuple[str, str]:
    word, _, rest = line.rest.partition(" ")
    return word, rest.strip()


def seconds_of(line: Line) -> float:
    if not re.fullmatch(r"\+\d+(\.\d+)?", line.rest):
        raise BadScript("time goes on by seconds: time +10")
    return float(line.rest)


def add_actors(store: Store) -> list[User]:
    return [store.add_user(name, password_hash(), role) for name, role in ACTORS.items()]


_first: list[
    bytes
] = []  # the file of a database in which the actors are; made once, because every commit waits for disk


def first_database(folder: Path) -> bytes:
    if not _first:
        with contextlib.closing(Store(folder / "first.db", HandClock())) as store:
            add_actors(store)
        _first.append((folder / "first.db").read_bytes())
    return _first[0]


class Sockets:
    """In place of the thread that owns the sockets: what the hub says to a connection is kept."""

    def __init__(self) -> None:
        self.last: FakeConnection | None = None

    def adopt(self, sock: socket.socket, peer: str, early: bytes, listener: Hub) -> Connection:
        self.last = FakeConnection(peer)
        return self.last


class ServerStage:
    def __init__(self, folder: Path) -> None:
        self._file = folder / "server.db"
        self._clock = HandClock()
        self._values = Values(self._short)
        self._settings: dict[str, Any] = {}
        self._sockets = Sockets()
        self._connections: dict[str, FakeConnection] = {}
        self._answers: dict[str, Any] = {}  # who → the answer that no line has spoken of yet
        self._tokens: dict[str, str] = {}
        self._file.write_bytes(first_database(folder))
        self._start()
        for name in ACTORS:
            user = self._store.user_named(name)
            assert user is not None
            self._has_token(name, self._issuer.issue(user))

    def close(self) -> None:
        self._hub.close_all()
        self._store.close()

    def _start(self) -> None:
        self._store = Store(self._file, self._clock)
        self._hub = Hub(self._store, self._clock)
        settings = Settings(SECRET, **self._settings)
        self._issuer = Tokens(SECRET, self._store, settings.token_seconds)
        app = create_app(self._store, self._hub, settings, self._clock, self._sockets)
        self._http = app.test_client(use_cookies=False)

    def _make_users(self) -> None:
        for user in add_actors(self._store):
            self._hub.user_changed(user.id)
            self._has_token(user.username, self._issuer.issue(user))

    def _has_token(self, who: str, token: str) -> None:
        self._tokens[who] = self._values.named[f"{who}_token"] = token

    @staticmethod
    def _short(name: str, words: list[str], fields: dict[str, Any]) -> Any:
        """<ACCOUNT>, and a trade as a sender reports it: <BUY 5 volume=0.29>."""
        if name == "ACCOUNT":
            return {**ACCOUNT, **fields}
        if name not in Action.__members__ or len(words) > 1:
            raise BadScript(f"there is no short name <{name} {' '.join(words)}>")
        ticket = {"ticket": int(words[0])} if words else {}
        trade = {**ORIGINAL_SIGNAL, "action": name, **ticket, **fields}
        return {key: value for key, value in trade.items() if value != "-"}

    # -- lines

    def play(self, line: Line) -> None:
        if line.who == "time" and not line.mark:
            self._time_passes(seconds_of(line))
        elif line.who == "server" and line.mark == "!":
            self._server(*one_argument(line))
        elif line.who not in ACTORS and line.who != ANYONE:
            raise BadScript(f"there is nobody called {line.who}")
        elif line.socket:
            self._websocket(line)
        elif line.mark == ">":
            self._request(line.who, line.rest)
        elif line.mark == "<":
            self._check_answer(line.who, line.rest)
        elif line.mark == "!" and line.rest == "logs in":
            self._request(line.who, json.dumps({"username": line.who, "password": PASSWORD}), "POST /token ")
            self._has_token(line.who, self._answers.pop(line.who).get_json()["access_token"])
        else:
            raise BadScript("not a line for a server")

    def end(self) -> None:
        self._all_was_well()
        for name, connection in self._connections.items():
            if connection.messages:
                raise Unexpected(f"{name} also got {json.dumps(connection.messages[0])}")
            if connection.closed is not None and name not in self._told:
                raise Unexpected(f"{name} was closed: {connection.closed}")

    _told: frozenset[str] = frozenset()  # connections whose end a line has spoken of

    def _all_was_well(self) -> None:
        """A request whose answer no line speaks of has to have been taken."""
        for who, answer in self._answers.items():
            if answer.status_code >= 300:
                raise Unexpected(f"the request of {who} before was answered {answer.status_code} {answer.get_data()!r}")
        self._answers.clear()

    # -- time and the server itself

    def _time_passes(self, seconds: float) -> None:
        """With a look of the hub every half second, as it has; in long times every 120th part of them."""
        self._all_was_well()
        step = max(0.5, seconds / 120)
        while seconds > 1e-9:
            self._clock.advance(min(step, seconds))
            seconds -= step
            self._hub.step()

    def _server(self, what: str, how: str) -> None:
        self._all_was_well()
        backup = self._file.with_suffix(".backup")
        if what == "clock":
            self._clock.wall += float(how)
        elif what == "backup":
            with (
                contextlib.closing(sqlite3.connect(self._file)) as one,
                contextlib.closing(sqlite3.connect(backup)) as to,
            ):
                one.backup(to)
        elif what in ("restart", "restore-backup", "lose-database"):
            for option in how.split():
                name, _, value = option.partition("=")
                self._settings[name] = Registration(value) if name == "registration" else float(value)
            self.close()
            if what != "restart":
                for file in self._file.parent.glob("server.db*"):
                    file.unlink()
            if what == "restore-backup":
                shutil.copy(backup, self._file)
            self._start()
            if what == "lose-database":
                self._make_users()
        else:
            raise BadScript(f"a server cannot {what}")

    # -- HTTP

    def _request(self, who: str, rest: str, prefix: str = "") -> None:
        self._all_was_well()
        content, headers = split_headers(prefix + rest)
        if content.startswith("book "):
            _, session, rev, trades = (content + " ").split(" ", 3)
            trades = trades.strip().replace("> <", ">, <")
            content = (
                f'PUT /signal/book {{"session": {session}, "rev": {rev}, "trades": [{trades}], "account": <ACCOUNT>}}'
            )
        method, _, after = content.partition(" ")
        path, _, body = after.strip().partition(" ")
        if method not in ("GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "HEAD") or not path.startswith("/"):
            raise BadScript("a request is like POST /signal/close {...}")
        given = {name: self._values.text(value) for name, value in headers.items()}
        if who in self._tokens:
            given.setdefault("Authorization", f"Bearer {self._tokens[who]}")
        data = self._body(body.strip())
        if body.startswith("form "):
            given["Content-Type"] = "application/x-www-form-urlencoded"
        self._answers[who] = self._http.open(self._values.text(path), method=method, data=data, headers=given)

    def _body(self, body: str) -> bytes | None:
        if not body:
            return None
        form, _, text = body.partition(" ")
        if form in ("raw", "form"):
            return text.encode()
        if form == "blanks":
            return b" " * int(text)
        return json.dumps(self._values.value(body)).encode()

    def _check_answer(self, who: str, rest: str) -> None:
        if who not in self._answers:
            raise BadScript(f"{who} has not asked anything")
        self._compare_answer(self._answers.pop(who), rest)

    def _compare_answer(self, answer: Any, rest: str) -> None:
        """`200 {...}`, `409 superseded`, `422 bad_field session`, with headers where they matter."""
        expected, headers = split_headers(rest)
        found = re.fullmatch(r"(\d{3})(?: ([a-z_]+))?(?: ([^\s{]+))?(?: (\{.*))?", expected)
        if found is None:
            raise BadScript("an answer is like 200 {...} or 404 unknown_ticket")
        status, code, field, body = found.groups()
        content = answer.get_data(as_text=True)
        if answer.status_code != int(status):
            raise Unexpected(f"answered {answer.status_code} and not {status}: {content}")
        if code:
            error = {"code": code, REST: 0} | ({"field": field} if field else {})
            self._values.compare({"error": error, REST: 0}, json.loads(content))
        if body:
            self._values.compare(self._values.pattern(body), json.loads(content))
        for name, value in headers.items():
            if value not in (REST, answer.headers.get(name)) or name not in answer.headers:
                raise Unexpected(f"the header {name} is {answer.headers.get(name)}")

    # -- WebSockets

    def _websocket(self, line: Line) -> None:
        name = line.who + line.socket
        word, rest = one_argument(line)
        if line.mark == "<" and word == "refused":
            self._check_answer(name, rest)
            return
        if not line.mark:
            self._come_or_go(line, name, word, rest)
            return
        connection = self._connections.get(name)
        if connection is None:
            raise BadScript(f"{name} is not connected")
        if line.mark == ">":
            self._all_was_well()
            said = self._values.text(rest) if word == "raw" else json.dumps(self._values.value(line.rest))
            self._hub.received(connection, said)
            self._hub.step()
        else:
            self._hears(name, connection, word, rest)

    def _come_or_go(self, line: Line, name: str, word: str, rest: str) -> None:
        if word in ("connect", "joins"):
            self._connect(line.who, name, rest)
            if word == "joins":  # what comes first is not what the script is about
                if name not in self._connections:
                    raise Unexpected(f"{name} did not get in: {self._answers[name].get_data()!r}")
                for kind in ("book", "config"):
                    self._hears(name, self._connections[name], kind, "{...}")
        elif word == "leaves" and name in self._connections:
            self._hub.left(self._connections.pop(name), 1001, "gone")
        else:
            raise BadScript("a connection connects, joins or leaves")

    def _connect(self, who: str, name: str, rest: str) -> None:
        self._all_was_well()
        path, headers = split_headers(rest)
        given = {**HANDSHAKE, **{key: self._values.text(value) for key, value in headers.items()}}
        if who in self._tokens and "Sec-WebSocket-Protocol" not in headers:
            given.setdefault("Authorization", f"Bearer {self._tokens[who]}")
        owners: list[Any] = []
        ours, theirs = socket.socketpair()
        with ours, theirs:
            extra = {"werkzeug.socket": theirs, "REMOTE_PORT": "1", GIVE_SOCKET_TO: owners.append}
            path = self._values.text(path) or "/ws"
            answer = self._http.get(path, headers=given, environ_overrides=extra)
            self._connections.pop(name, None)
            if answer.status_code == 101:
                self._sockets.last = None
                owners[0](theirs, b"")
                assert self._sockets.last is not None
                self._connections[name] = self._sockets.last
                self._told -= {name}
            else:
                self._answers[name] = answer

    def _hears(self, name: str, connection: FakeConnection, word: str, rest: str) -> None:
        if word == REST:
            connection.messages.clear()
        elif word == "nothing":
            if connection.messages or connection.closed:
                raise Unexpected(f"{name} got {connection.messages or connection.closed}")
        elif word == "closed":
            if connection.messages:
                raise Unexpected(f"{name} first got {json.dumps(connection.messages[0])}")
            if connection.closed is None or connection.closed[0] != int(rest):
                raise Unexpected(f"{name} was closed with {connection.closed}")
            self._told |= {name}
        elif not connection.messages:
            raise Unexpected(f"{name} got nothing (closed: {connection.closed})")
        else:
            message = connection.messages.pop(0)
            if message["type"] != word:
                raise Unexpected(f"{name} got {json.dumps(message)}")
            del message["type"]
            self._values.compare(self._values.pattern(rest or "{...}"), message)


# --- the copier ------------------------------------------------------------------------------------------------------

SIDES = ("BUY", "SELL", "BUY_LIMIT", "SELL_LIMIT", "BUY_STOP", "SELL_STOP")


def in_words(request: dict[str, Any]) -> str:
    """An order that the copier sent."""
    volume, symbol = request.get("volume"), request.get("symbol")
    match request["action"]:
        case 1 if request.get("position"):
            return f"closes {volume} {symbol}"
        case 1:
            return f"opens {SIDES[request['type']]} {volume} {symbol}"
        case 5:
            return f"places {SIDES[request['type']]} {volume} {symbol} at {request['price']}"
        case 6:
            return f"sets sl {request['sl']} tp {request['tp']}"
        case 7:
            return f"moves the order to {request['price']}"
        case 8:
            return "removes the order"
    return str(request)


class CopierStage:
    """The account is 2001 with 10,000 USD; EURUSD stands at 1.10000/1.10010."""

    def __init__(self, folder: Path) -> None:
        self._follower = Follower(folder)
        self._values = Values(self._short)
        self._watched = self._follower.watch()
        self._read = 0  # so many of the orders sent have been spoken of
        self._unread = False  # messages that the copier has not looked at

    def close(self) -> None:
        self._follower.ledger.close()

    def _short(self, name: str, words: list[str], fields: dict[str, Any]) -> Any:
        """<MASTER>, and a trade as the server tells of it: <BUY 5 volume=0.29 age=3>."""
        if name == "MASTER":
            return {"master": "master", "reported_at": 1, "online": True, **fields}
        if name not in Action.__members__ or len(words) != 1:
            raise BadScript(f"there is no short name <{name} {' '.join(words)}>")
        action = Action(name)
        age = fields.pop("age", 0)
        price = Decimal("1.1") if action.kind is Kind.POSITION else Decimal("1.09")
        values: dict[str, Any] = {"volume": 0.1, "price": float(price), "symbol": "EURUSD", "master": "master"}
        values |= {"opened_at": 0 if age == "unknown" else self._follower.server_ms() - int(age * 1000)} | fields
        for field in ("volume", "initial_volume", "price", "sl", "tp"):
            values[field] = Decimal(str(values.get(field, values["volume"] if field == "initial_volume" else 0)))
        values["source"] = Source(values.get("source", "terminal"))
        more = {key: values.pop(key) for key in ("remaining",) if key in values}
        trade = Trade(int(words[0]), action.kind, action=action, **values)
        return json.loads(encode({**trade_for_client(trade, trade.volume), **more}))

    # -- lines

    def play(self, line: Line) -> None:
        match line.who, line.mark:
            case "server", ">":
                self._server_says(*one_argument(line))
            case "server", "!":
                self._server(*one_argument(line))
            case "time", "":
                self._look()
                self._follower.passes(seconds_of(line))
            case "copier", "!":
                self._copier(line.rest)
            case "copier", "<":
                self._look()
                self._copier_did(line.rest)
            case "ledger", "<":
                self._look()
                self._ledger_has(line.rest)
            case "account", "<":
                self._look()
                self._account_shows(line.rest)
            case "account", "!":
                self._look()
                self._account(*one_argument(line))
            case _:
                raise BadScript("not a line for a copier")

    def end(self) -> None:
        self._look()
        self._copier_did("nothing")

    def _look(self) -> None:
        """What the server said in one go is taken in in one go."""
        if self._unread and not self._follower.copier.ended:
            self._unread = False
            self._follower.look()

    def _server_says(self, kind: str, body: str) -> None:
        self._unread = True
        self._follower.clock.now += 0.005  # a trade that begins with this message is younger than what was said before
        now = self._follower.clock.monotonic()
        if kind == "raw":
            text = body
        else:
            text = json.dumps(
                {"type": kind, "server_time": self._follower.server_ms(), **self._values.value(body or "{}")}
            )
        try:
            self._follower.inbox.put(Heard(decode(text), now))
        except BadJson as error:  # as the listener does
            self._follower.inbox.put(Lost(f"the server sent what is not a message: {error}"))

    def _server(self, what: str, how: str) -> None:
        self._unread = True
        if what == "begins":
            self._server_says("book", '{"seq": 0, "epoch": "first", "data": {"masters": [<MASTER>], "trades": []}}')
            self._server_says("config", '{"data": {"copying": "on"}}')
            self._look()
        elif what == "cut":
            self._follower.disconnects()
        elif what == "closes":
            settings = self._follower.config().api
            listener = Listener(Api(settings), settings, self._follower.inbox, None)  # type: ignore[arg-type]
            self._follower.inbox.put(listener._closed(int(how).to_bytes(2, "big"), ""))
        else:
            raise BadScript(f"a server cannot {what} here")

    def _copier(self, what: str) -> None:
        if what not in ("restart", "loses ledger", "looks"):
            raise BadScript(f"a copier cannot be made to {what}")
        self._look()
        if what == "looks":
            self._follower.look()
            return
        if what == "restart":
            self._follower.restart()
        else:
            self._follower.lose_ledger()
        self._watched, self._read = self._follower.watch(), 0

    def _copier_did(self, expected: str) -> None:
        sent, link = self._watched.sent[self._read :], self._follower.link
        if expected == "nothing":
            if sent or link.syncs or (self._follower.copier.ended and not self._told):
                did = f"{[in_words(request) for request in sent]}, asked {link.syncs} times for the book"
                raise Unexpected(f"the copier: {did}, ended: {self._follower.copier.ended!r}")
        elif expected == "sync":
            if link.syncs != 1:
                raise Unexpected(f"the copier asked {link.syncs} times for the book")
            link.syncs = 0
        elif expected.startswith("ended"):
            if not self._follower.copier.ended or expected[6:] not in self._follower.copier.ended:
                raise Unexpected(f"ended: {self._follower.copier.ended!r}")
            self._told = True
        elif not sent or in_words(sent[0]) != expected:
            raise Unexpected(f"the copier {in_words(sent[0]) if sent else 'sent no order'} and not: {expected}")
        else:
            self._read += 1

    _told = False  # a line has spoken of the copier's end

    def _ledger_has(self, rest: str) -> None:
        """`5 open`, `5 skipped older_than_ledger`, `order 7 open`, `5 nothing`."""
        found = re.fullmatch(r"(?:(order) )?(\d+) (\w+)(?: (\w+))?", rest)
        if found is None:
            raise BadScript("the ledger has: 5 open, or: 5 skipped older_than_ledger")
        kind, ticket, state, reason = found.groups()
        key = ("master", Kind(kind or "position"), int(ticket), 0)
        self._follower.ledger.load([key])
        copy = self._follower.ledger.copies.get(key)
        real = (str(copy.state), str(copy.reason)) if copy else ("nothing", "")
        if state != real[0] or (reason and reason != real[1]):
            raise Unexpected(f"the ledger has {ticket} {' '.join(real)}")

    def _account_shows(self, expected: str) -> None:
        shown = [f"{SIDES[one.type]} {one.volume} {one.symbol}" for one in self._follower.positions]
        shown += [f"{SIDES[one.type]} {one.volume_current} {one.symbol}" for one in self._follower.orders]
        if (", ".join(shown) or "empty") != expected:
            raise Unexpected(f"the account shows {', '.join(shown) or 'nothing'}")

    def _account(self, what: str, how: str) -> None:
        if what == "closes":  # the person does, by hand
            self._follower.mt5.sim_close_by_hand(self._follower.positions[int(how or 1) - 1].ticket)
        elif what == "price":
            self._follower.mt5.sim_set_quote("EURUSD", float(how), float(how) + 0.0001)
        elif what == "fault":
            function, outcome, *times = how.split()
            self._follower.mt5.inject(function, outcome, times=int(times[0]) if times else 1)
        elif what == "well":
            self._follower.mt5.inject(how, None)
        else:
            raise BadScript(f"an account cannot {what}")
        if what != "fault":
            self._follower.look()
