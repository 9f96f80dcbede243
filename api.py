"""What the server does when it is asked: a method for each route of `routes.py`.

A body is checked whole (exact field names, types, ranges) before anything happens; what is stored is in `db.py`, what
followers are told in `hub.py`.
"""

from __future__ import annotations

import base64
import hashlib
import json
import logging
import re
import socket
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Any, Final, Protocol

from flask import Response, g, request

from asked import Refused, Reply, bearer_token, from_loopback, page, query, token_in, websocket_token
from auth import PASSWORD, Brake, Busy, Passwords, Token, Tokens, network_of
from bodies import (
    ACCOUNT,
    BOOK_LIMIT,
    EXECUTION_OPTIONAL,
    EXECUTION_REQUIRED,
    EXECUTIONS_AT_ONCE,
    IDEMPOTENCY_KEY,
    LOGIN_TEXT,
    MONEY,
    REV,
    SESSION,
    an_object,
    check_terminal_ticket,
    list_of_objects,
    reported_trade,
    settings_from,
    within,
)
from budget import Budget
from database import Unavailable
from db import ANY_SESSION, Store
from hub import TRY_LATER, Connection, Hub, change_message, view_of
from records import Outcome, Post, Role, User
from signals import (
    LEDGER_HEADER,
    LOTS,
    LOTS_LEFT,
    MODIFIABLE,
    PRICE,
    TICKET,
    TIME_MS,
    TRADE_OPTIONAL,
    USERNAME,
    BadField,
    Kind,
    boolean,
    one_of,
    or_null,
    read_fields,
    trade_for_client,
    trade_from_sender,
)
from users import LastAdmin, NameTaken
from version import VERSION
from webserver import GIVE_SOCKET_TO

log = logging.getLogger(__name__)

OPENAPI: Final = Path(__file__).resolve().parent / "openapi.json"
REPORTS_AT_ONCE: Final = 10_000.0  # new ones of a client: what gathers in a ledger while the server is not reached ...
REPORTS_PER_S: Final = 5.0  # ... and in the long run, so that nobody fills the disk

ADMIN: Final = frozenset({Role.ADMIN})
PUBLISHERS: Final = frozenset({Role.MASTER, Role.ADMIN})


class Registration(StrEnum):
    """Who may make an account for himself."""

    OPEN = "open"  # anyone, at once
    APPROVAL = "approval"  # anyone, usable when an admin has made it active
    CLOSED = "closed"


@dataclass(frozen=True, slots=True)
class Settings:
    secret: bytes = field(repr=False)  # signs the tokens
    registration: Registration = Registration.OPEN
    token_seconds: float = 3600.0
    local: bool = True  # nobody but programs on this computer reaches the server, not even through a proxy
    behind_proxy: bool = False  # what the proxy says about addresses is believed
    websockets_per_address: int = 100
    most_websockets: int = 10_000


class Adopter(Protocol):
    """Who takes over sockets that have become WebSockets (`wire.SocketThreads`)."""

    def adopt(self, sock: socket.socket, peer: str, early: bytes, listener: Hub) -> Connection: ...


class Api:
    """The routes' handlers: each is given the caller and what the request says, and gives status and answer."""

    def __init__(self, store: Store, hub: Hub, settings: Settings, passwords: Passwords) -> None:
        self._store = store
        self._hub = hub
        self._settings = settings
        self._passwords = passwords
        self._tokens = Tokens(settings.secret, store, settings.token_seconds)
        self._brake = Brake(store)
        self._reports: dict[int, Budget] = {}  # user id → reports that he may still send
        self.answered: Counter[int] = Counter()  # requests by status

    def end(self) -> None:
        """Give up log-ins that wait for their turn."""
        self._passwords.close()

    # --- who is calling ----------------------------------------------------------------------------------------------

    def user_of(self, token: str) -> tuple[User, Token] | None:
        """The user that a token speaks for now, None when it is not good (any more)."""
        found = self._tokens.read(token)
        user = self._store.user(found.user_id) if found else None
        if found is None or user is None or not user.active or user.token_version != found.version:
            return None
        if user.expires_at is not None and user.expires_at <= self._store.now_ms():
            return None
        return user, found

    def is_signed(self, authorization: str) -> bool:
        """Whether the token in it is one of this server's, by signature and time alone."""
        token = token_in(authorization)
        return token is not None and self._tokens.read(token) is not None

    def caller(self, token: str | None, roles: frozenset[Role]) -> tuple[User, Token]:
        found = self.user_of(token) if token else None
        if found is None:
            raise Refused(401, "unauthorized", "a valid token is needed: log in with POST /token")
        if found[0].role not in roles:
            raise Refused(403, "forbidden", f"not for the role {found[0].role}")
        return found

    def log_in(self, _caller: User | None, body: dict[str, Any]) -> Reply:
        found = read_fields(body, {"username": LOGIN_TEXT, "password": LOGIN_TEXT})
        username, password, address = found["username"], found["password"], request.remote_addr or ""
        attempt = self._brake.log_in(username, address)  # before the slow part
        user = self._store.user_named(username)
        try:
            fits = self._passwords.fits(user, password, known=attempt.known)
            outdated = fits and user is not None and self._passwords.is_outdated(user)
            renewed = self._passwords.hashed(password, known=True) if outdated else None
        except Busy:
            self._brake.undone(attempt)
            raise
        if not fits or user is None:
            log.warning("log-in of %s from %s refused", user.username if user else "an unknown user", address)
            raise Refused(401, "wrong_credentials", "wrong user name or password")
        self._brake.succeeded(attempt, username, address)
        if renewed is not None:
            self._store.renew_hash(user, renewed)
        if not user.active:
            raise Refused(403, "inactive", "this account is not active: an administrator has to activate it")
        if user.expires_at is not None and user.expires_at <= self._store.now_ms():
            raise Refused(403, "expired", "this account has expired")
        g.caller = user
        seconds = self._tokens.drawn_life()
        return 200, {
            "access_token": self._tokens.issue(user, seconds),
            "token_type": "bearer",
            "expires_in": int(seconds),
            "role": user.role,
        }

    # --- users -------------------------------------------------------------------------------------------------------

    def register(self, _caller: User | None, body: dict[str, Any]) -> Reply:
        if self._settings.registration is Registration.CLOSED:
            raise Refused(403, "registration_closed", "accounts are made by the administrator")
        found = read_fields(body, {"username": USERNAME, "password": PASSWORD})
        self._brake.register(found["username"], request.remote_addr or "")
        active = self._settings.registration is Registration.OPEN
        user = self._add_user(found["username"], found["password"], Role.CLIENT, active)
        waiting = {} if active else {"active": False}
        return 201, {"id": user.id, "username": user.username, "role": user.role, **waiting}

    def add_user(self, _caller: User, body: dict[str, Any]) -> Reply:
        found = read_fields(body, {"username": USERNAME, "password": PASSWORD, "role": one_of(Role)})
        user = self._add_user(found["username"], found["password"], found["role"], True, by_admin=True)
        self._hub.user_changed(user.id)
        return 201, {"id": user.id, "username": user.username, "role": user.role}

    def _add_user(self, username: str, password: str, role: Role, active: bool, *, by_admin: bool = False) -> User:
        _refuse_own_name(username, password)
        try:
            if self._store.user_named(username):  # before the slow hash
                raise NameTaken(username)
            return self._store.add_user(username, self._passwords.hashed(password, known=by_admin), role, active)
        except NameTaken as error:
            raise Refused(409, "name_taken", f"there is a user {username} already") from error

    def users(self, _caller: User) -> Reply:
        after, limit = page()
        connected = self._hub.connected_users()
        return 200, {"users": [_public(user, connected) for user in self._store.users(after, limit)]}

    def change_user(self, _caller: User, body: dict[str, Any], username: str) -> Reply:
        found = read_fields(
            body, {}, {"active": boolean, "role": one_of(Role), "password": PASSWORD, "expires_at": or_null(TIME_MS)}
        )
        if self._store.user_named(username) is None:
            raise Refused(404, "unknown_user", "there is no such user")
        if "password" in found:
            _refuse_own_name(username, found["password"])
            found["password"] = self._passwords.hashed(found["password"], known=True)
        if "expires_at" in found and found["expires_at"] is None:
            found["never_expires"] = True
        try:
            user = self._store.change_user(username, **found)
            if "password" in found:
                self._brake.forgive(username)
        except LastAdmin as error:
            raise Refused(409, "last_admin", "somebody must remain who can administer the server") from error
        if user is None:
            raise Refused(404, "unknown_user", "there is no such user")
        self._hub.user_changed(user.id)
        return 200, _public(user, self._hub.connected_users())

    def config(self, caller: User) -> Reply:
        return 200, self._store.config_of(self._subject(caller).id).as_message()

    def set_config(self, caller: User, body: dict[str, Any]) -> Reply:
        user = self._subject(caller)
        named = settings_from(body)
        if named.get("follow") is not None:
            named["follow"] = self._masters_named(named["follow"])
        config = self._store.change_config(user, named)
        self._hub.config_changed(user.id)
        return 200, config.as_message()

    def _subject(self, caller: User) -> User:
        """Whose settings: the caller's own, or for an admin those of ?username=."""
        wanted = query({"username": USERNAME}).get("username")
        if wanted is None or wanted == caller.username:
            return caller
        if caller.role is not Role.ADMIN:
            raise Refused(403, "forbidden", "only an admin may see or change the settings of others")
        return self._existing(wanted)

    def _existing(self, username: str) -> User:
        user = self._store.user_named(username)
        if user is None:
            raise Refused(404, "unknown_user", "there is no such user")
        return user

    def _masters_named(self, wanted: Iterable[str]) -> tuple[str, ...]:
        found = []
        for name in wanted:
            user = self._store.user_named(name)
            if user is None or user.role not in PUBLISHERS:
                raise BadField("follow", f"there is no master {name}")
            found.append(user.username)  # as it was registered
        return tuple(dict.fromkeys(found))

    # --- trades ------------------------------------------------------------------------------------------------------

    def broadcast(self, caller: User, body: dict[str, Any]) -> Reply:
        post = self._post(body)
        trade, age_ms = trade_from_sender(body)
        if post.session is not None:
            check_terminal_ticket(trade)
        return self._publish(
            caller, lambda audience: self._store.open_trade(caller, trade, age_ms, replace(post, audience=audience))
        )

    def modify(self, caller: User, body: dict[str, Any]) -> Reply:
        post = self._post(body)
        modifiable = {name: TRADE_OPTIONAL.get(name, PRICE) for name in MODIFIABLE}
        found = read_fields(body, {"ticket": TICKET}, {"kind": one_of(Kind), **modifiable})
        ticket, kind = found.pop("ticket"), found.pop("kind", None)
        return self._publish(
            caller,
            lambda audience: self._store.modify_trade(caller, ticket, kind, found, replace(post, audience=audience)),
        )

    def close(self, caller: User, body: dict[str, Any]) -> Reply:
        post = self._post(body)
        found = read_fields(
            body,
            {"ticket": TICKET},
            {"kind": one_of(Kind), "remaining": LOTS_LEFT, "volume": LOTS, "price": PRICE, "profit": MONEY},
        )
        if "volume" in found:
            if "remaining" in found:
                raise BadField("volume", "cannot be given together with remaining")
            if post.key is None or post.session is not None:
                raise BadField(
                    "volume", "needs an Idempotency-Key, because repeating it would close more; or say remaining"
                )
        return self._publish(
            caller,
            lambda audience: self._store.close_trade(
                caller,
                found["ticket"],
                found.get("kind"),
                replace(post, audience=audience),
                remaining=found.get("remaining"),
                volume=found.get("volume"),
                close_price=found.get("price"),
                profit=found.get("profit"),
            ),
        )

    def report_book(self, caller: User, body: dict[str, Any]) -> Reply:
        found = read_fields(
            body,
            {"session": or_null(SESSION), "rev": REV, "trades": list_of_objects(BOOK_LIMIT), "account": an_object},
            {"detected_at": or_null(TIME_MS), "as_of": or_null(TIME_MS), "replaces": or_null(SESSION)},
        )
        if "replaces" in found and found["session"] is not None:
            raise BadField("replaces", "is for the beginning of a session, with session null")
        account = within("account", found["account"], ACCOUNT, {})
        trades = [reported_trade(index, item) for index, item in enumerate(found["trades"])]
        keys = Counter(trade.key for trade, _ in trades)
        if len(keys) < len(trades):
            raise BadField("trades", f"ticket {keys.most_common(1)[0][0][1]} is given twice")
        reply = self._publish(
            caller,
            lambda _audience: self._store.report_book(
                caller,
                found["session"],
                found["rev"],
                trades,
                account,
                found.get("detected_at"),
                found.get("as_of"),
                found.get("replaces", ANY_SESSION),
            ),
            report=True,
        )
        g.quiet = reply[0] == 200 and not reply[1]["changes"] and found["session"] is not None
        return reply if reply[0] >= 400 else (reply[0], {**reply[1], "server_time": self._store.now_ms()})

    def book(self, caller: User) -> Reply:
        """What the server knows of a master's book, for a sender that starts."""
        wanted = query({"master": USERNAME}).get("master")
        master = caller
        if wanted is not None and wanted != caller.username:
            if caller.role is not Role.ADMIN:
                raise Refused(403, "forbidden", "only an admin may read the book of others")
            master = self._existing(wanted)
        sender = self._store.sender_of(master.id)
        trades = self._store.book(frozenset({master.username}))
        return 200, {
            "session": sender and sender.session,
            "rev": sender and sender.rev,
            "seq": self._store.last_seq(),
            "reported_at": sender and sender.reported_at,
            "server_time": self._store.now_ms(),
            "trades": [trade_for_client(trade, trade.volume) for trade in trades],
        }

    def _post(self, body: dict[str, Any]) -> Post:
        """Take out of the body of a post about a trade what is not about the trade."""
        key = request.headers.get("Idempotency-Key")
        fingerprint = hashlib.sha256(json.dumps([request.path, body], sort_keys=True, default=str).encode()).hexdigest()
        checks = {"session": SESSION, "rev": REV, "detected_at": or_null(TIME_MS), "as_of": or_null(TIME_MS)}
        found = read_fields({name: body.pop(name) for name in checks if name in body}, {}, checks)
        if ("session" in found) != ("rev" in found):
            raise BadField("rev" if "session" in found else "session", "missing: session and rev go together")
        if key is not None:
            try:
                IDEMPOTENCY_KEY(key)
            except ValueError as error:
                raise BadField("Idempotency-Key", str(error)) from error
        return Post(
            found.get("session"), found.get("rev", 0), key, fingerprint, found.get("detected_at"), found.get("as_of")
        )

    def _publish(self, master: User, operation: Callable[[int], Outcome], *, report: bool = False) -> Reply:
        outcome = self._hub.publish(master, operation, report=report)
        return outcome.status, outcome.answer

    # --- reading -----------------------------------------------------------------------------------------------------

    def signals(self, caller: User) -> Reply:
        after, limit = page()
        view = view_of(caller, self._store)
        entries = self._store.entries_after(after, limit, view.follow, inactive_too=caller.role in PUBLISHERS)
        return 200, {"signals": [change_message(entry, view) for entry in entries], "last": self._store.last_seq()}

    def add_executions(self, caller: User, body: dict[str, Any]) -> Reply:
        found = read_fields(body, {"executions": list_of_objects(EXECUTIONS_AT_ONCE)})
        reports = [
            within(f"executions[{index}]", item, EXECUTION_REQUIRED, EXECUTION_OPTIONAL)
            for index, item in enumerate(found["executions"])
        ]
        now = self._store.now_ms() / 1000
        budget = self._reports.setdefault(caller.id, Budget.full(REPORTS_AT_ONCE, REPORTS_PER_S, now))
        if (missing := 1 - budget.left_at(now)) > 0:
            log.warning("%s sends more than %g reports a second: refused", caller.username, REPORTS_PER_S)
            words = f"more than {REPORTS_PER_S:g} reports a second in the long run"
            raise Refused(429, "too_many_reports", words, retry_after=missing / REPORTS_PER_S)
        stored, duplicates = self._store.add_executions(caller, reports)
        budget.spend(stored, now)
        return 200, {"stored": stored, "duplicates": duplicates}

    def executions(self, caller: User) -> Reply:
        after, limit = page()
        found = self._store.executions_after(after, limit, **_own(caller))
        return 200, {"executions": found}

    def overview(self, caller: User) -> Reply:
        """Everything at a glance, as far as the caller may see it."""
        view = view_of(caller, self._store)
        trades = Counter((trade.master, trade.kind) for trade in self._store.book(view.follow))
        masters = []
        for master in self._store.masters():
            if view.sees(master.name):
                shown = master.as_message()
                shown["positions"] = trades[(master.name, Kind.POSITION)]
                shown["orders"] = trades[(master.name, Kind.ORDER)]
                if caller.role is Role.ADMIN or caller.username == master.name:
                    shown["account"] = master.account
                masters.append(shown)
        connected = self._hub.connected_users()
        if caller.role is not Role.ADMIN:
            followers = self._hub.followers_of(caller.username) if caller.role is Role.MASTER else {}
            connected = {caller.username: connected.get(caller.username, 0), **followers}
        return 200, {
            "version": VERSION,
            "epoch": self._store.epoch,
            "server_time": self._store.now_ms(),
            "seq": self._store.last_seq(),
            "username": caller.username,
            "role": caller.role,
            "masters": masters,
            "connected": connected,
            "executions": self._store.executions_by_event(**_own(caller)),
            "users": self._store.users_by_role() if caller.role is Role.ADMIN else None,
            "shared_accounts": [
                {"login": login, "clients": clients} for login, clients in self._store.shared_accounts()
            ]
            if caller.role is Role.ADMIN
            else None,
        }

    def health(self, _caller: User | None) -> Reply:
        self._store.check()
        return 200, {"status": "ok"}

    def description(self, _caller: User | None) -> Response:
        return Response(OPENAPI.read_bytes(), mimetype="application/json")

    def metrics(self, _caller: User | None) -> Response:
        if not from_loopback():
            self.caller(bearer_token(), ADMIN)
        lines = [f'aibot_info{{version="{VERSION}"}} 1', f"aibot_last_seq {self._store.last_seq()}"]
        lines += _series("aibot_connections", "role", self._hub.connected_by_role())
        lines += _series("aibot_users", "role", self._store.users_by_role())
        lines += _series("aibot_executions_total", "event", self._store.executions_by_event())
        lines += _series("aibot_http_requests_total", "status", self.answered)
        lines += _series("aibot_connections_ended_total", "code", self._hub.closed)
        return Response("\n".join(lines) + "\n", mimetype="text/plain")

    # --- the WebSocket -----------------------------------------------------------------------------------------------

    def no_handshake(self, _caller: User) -> Reply:
        raise Refused(426, "upgrade_required", "this address speaks WebSocket")

    def admit(self, roles: frozenset[Role]) -> None:
        """Refuse a handshake while it is still a request. The rest of it is looked at by simple-websocket."""
        g.arrived = self._hub.arrival()
        g.admitted = self.caller(websocket_token(), roles)
        g.caller = g.admitted[0]
        if self._hub.connected_from(network_of(request.remote_addr or "")) >= self._settings.websockets_per_address:
            raise Refused(429, "too_many_connections", "too many connections from this address", retry_after=5)
        if self._hub.connected >= self._settings.most_websockets:
            raise Refused(503, "full", "the server has as many connections as it may have", retry_after=5)
        if not _is_websocket_key(request.headers.get("Sec-WebSocket-Key", "")):
            raise Refused(400, "bad_handshake", "Sec-WebSocket-Key is not 16 bytes in base64")
        if not re.fullmatch(r"[0-9a-z]{0,64}", request.headers.get(LEDGER_HEADER, "")):
            raise Refused(400, "bad_handshake", f"{LEDGER_HEADER} is more than 64 characters, or not of a-z and 0-9")
        # simple-websocket would agree to compression, and each follower would then need frames of its own.
        request.environ.pop("HTTP_SEC_WEBSOCKET_EXTENSIONS", None)

    def follow(self, sockets: Adopter) -> None:
        """Have the socket, which has been upgraded, given to the thread that owns them all."""
        (user, token), arrived = g.admitted, g.arrived
        address = request.remote_addr or ""
        peer = f"{address}:{request.environ['REMOTE_PORT']}"
        ledger = request.headers.get(LEDGER_HEADER, "")

        def adopt(sock: socket.socket, early: bytes) -> None:
            connection = sockets.adopt(sock, peer, early, self._hub)
            try:
                self._hub.join(connection, user, token.expires_at, network_of(address), ledger, arrived=arrived)
            except Unavailable as error:
                log.error("%s", error)
                connection.close(TRY_LATER, "the database does not answer")

        request.environ[GIVE_SOCKET_TO](adopt)


def _refuse_own_name(username: str, password: str) -> None:
    if password.lower() == username.lower():
        raise BadField("password", "must not be the user name")


def _public(user: User, connected: Mapping[str, int]) -> dict[str, Any]:
    return {
        "id": user.id,
        "username": user.username,
        "role": user.role,
        "active": user.active,
        "created_at": user.created_at,
        "expires_at": user.expires_at,
        "connected": connected.get(user.username, 0),
    }


def _own(caller: User) -> dict[str, str]:
    """Which reports concern the caller."""
    return {Role.ADMIN: {}, Role.MASTER: {"master": caller.username}, Role.CLIENT: {"client": caller.username}}[
        caller.role
    ]


def _series(name: str, label: str, values: Mapping[Any, int]) -> list[str]:
    return [f'{name}{{{label}="{key}"}} {value}' for key, value in sorted(values.items())]


def _is_websocket_key(key: str) -> bool:
    try:
        return len(base64.b64decode(key, validate=True)) == 16
    except ValueError:
        return False
