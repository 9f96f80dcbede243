"""Who is connected, what each may see, and what each is told.

Connections that follow the same masters with the same sizing form a group and get the same frames, built once.
Numbering, storing and handing out happen under one lock, so that every connection sees the changes in the order of
their numbers, and nothing falls between the book it gets on joining and the first change after it. A connection only
takes frames in and never blocks, so no reader can hold up another.

No sockets here: a connection is anything that takes frames (`wire.py` has the real ones).
"""

from __future__ import annotations

import itertools
import logging
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Final, Protocol

from budget import Budget
from database import Unavailable
from db import Store
from records import Clock, Entry, Master, Outcome, Role, User, UserConfig
from safety import Sizing, wanted_volume
from signals import BadJson, ChangeType, Trade, decode, encode, trade_for_client
from version import VERSION

log = logging.getLogger(__name__)

MOST_LOTS: Final = Decimal(1_000_000)
HEARTBEAT_S: Final = 5.0  # quiet after which a group hears which number it should have reached
STEP_S: Final = 0.5  # between two looks at expired tokens, silent masters and quiet groups
MOST_OF_USER: Final = 10  # connections of one master or admin; of a client there is one
MESSAGES_AT_ONCE: Final = 20  # a connection may send this many at once ...
MESSAGES_PER_S: Final = 1.0  # ... and this many in the long run

GOING_AWAY: Final = 1001
BAD_MESSAGE: Final = 1007
POLICY: Final = 1008
TRY_LATER: Final = 1013
TOKEN_EXPIRED: Final = 4401
FORBIDDEN: Final = 4403
TAKEN_OVER: Final = 4409


class Connection(Protocol):
    """One WebSocket, as far as the hub knows it. Neither method blocks or raises, also when the other side is gone."""

    @property
    def peer(self) -> str: ...

    @property
    def over(self) -> bool:
        """Whether it has ended. It is so before `Hub.left` is told."""

    def send_frame(self, payload: bytes) -> None:
        """Take one text message to deliver in order."""

    def close(self, code: int, reason: str) -> None:
        """Deliver nothing more and close."""


@dataclass(frozen=True, slots=True)
class View:
    """What decides the content of a connection's frames."""

    follow: frozenset[str] | None  # None = every master
    sizing: Sizing | None  # None = the master's volumes

    def sees(self, master: str) -> bool:
        return self.follow is None or master in self.follow

    def volume(self, trade: Trade) -> Decimal:
        """Lots to show beside the master's; within what a message may say, whatever the multiplier."""
        if self.sizing is None:
            return trade.volume
        return min(round(wanted_volume(self.sizing, trade.volume), 10), MOST_LOTS)


@dataclass(slots=True, eq=False)
class Member:
    """A connection and the user behind it."""

    connection: Connection
    user: User
    token_expires_at: int  # UTC ms
    view: View
    messages: Budget  # that it may send
    arrived: int  # its place in the order of the handshakes
    copier_since: int | None = None  # UTC ms since when no other copier of the user was connected; None = no copier
    wants_book: bool = False
    address: str = ""  # whom it comes from, for the limit of connections


@dataclass(slots=True, eq=False)
class Group:
    """Connections of equal view. `last` is the number of the last change that they were told, or could have been."""

    last: int
    told_at: float  # monotonic
    connections: dict[Connection, None] = field(default_factory=dict)  # in the order of joining


def view_of(user: User, store: Store) -> View:
    """What `user` may see: a client the masters it follows, a master itself, an admin everything."""
    if user.role is Role.MASTER:
        return View(frozenset({user.username}), None)
    if user.role is Role.ADMIN:
        return View(None, None)
    config = store.config_of(user.id)
    return View(None if config.follow is None else frozenset(config.follow), config.sizing)


def change_message(entry: Entry, view: View) -> dict[str, Any]:
    """A change as `view` sees it, without `prev`."""
    change = entry.change
    data = trade_for_client(change.trade, view.volume(change.trade))
    if change.type is ChangeType.CLOSE:
        data["remaining"] = change.remaining
        if entry.close_price is not None:
            data["close_price"] = entry.close_price
        if entry.profit is not None:
            data["profit"] = entry.profit
    message = {"type": change.type, "seq": entry.seq, "server_time": entry.at, "data": data}
    if entry.detected_at is not None:
        message["detected_at"] = entry.detected_at
    return message


def settings_frame(settings: UserConfig, copier_since: int | None) -> bytes:
    message: dict[str, Any] = {"type": "config", "data": settings.as_message()}
    if copier_since is not None:
        message["copier_since"] = copier_since
    return encode(message).encode()


FanOut = Callable[[Sequence[Any], Sequence[bytes]], None]  # sends messages, in their order, to each of some connections


def one_by_one(connections: Sequence[Connection], payloads: Sequence[bytes]) -> None:
    for connection in connections:
        for payload in payloads:
            connection.send_frame(payload)


class Hub:
    def __init__(self, store: Store, clock: Clock, fan_out: FanOut = one_by_one) -> None:
        """`fan_out` is for connections of a kind that knows a faster way than one by one."""
        self._store = store
        self._clock = clock
        self._fan_out = fan_out
        # Held from before a change is stored until every connection has it; also while somebody joins. Taken before
        # `_list` when both are needed.
        self._publishing = threading.RLock()
        self._list = threading.RLock()  # guards the four below, never held while the database works
        self._members: dict[Connection, Member] = {}
        self._of_user: dict[int, list[Member]] = {}  # the same, by the user's id
        self._addresses: Counter[str] = Counter()  # how many of them come from each
        self._groups: dict[View, Group] = {}
        self._books: dict[View, str] = {}  # the data of the book message, as long as nothing has changed
        self._masters = {master.name: master.online for master in store.masters()}  # as last told
        self._reported: set[str] = set()  # masters that have reported since the start
        self._arrivals = itertools.count(1)
        self._wake = threading.Event()
        self._stopping = False
        self.closed: Counter[int] = Counter()  # connections ended, by close code

    # --- changes -----------------------------------------------------------------------------------------------------

    def publish(self, master: User, operation: Callable[[int], Outcome], *, report: bool = False) -> Outcome:
        """Carry out an operation of the store and tell every connection that sees `master` what it changed.

        `operation` is given the number of these connections. With `report` it was the master's whole book.
        """
        with self._publishing:
            outcome = operation(self._audience(master.username))
            self._books.clear()
            self._broadcast(outcome.entries)
            if report and outcome.status < 400:
                self._tell_masters(master.username)
        return outcome

    def _audience(self, master: str) -> int:
        with self._list:
            return sum(len(group.connections) for view, group in self._groups.items() if view.sees(master))

    def _broadcast(self, entries: Sequence[Entry]) -> None:
        started = self._clock.monotonic()
        told: Counter[int] = Counter()
        with self._list:
            for view, group in self._groups.items():
                seen = [entry for entry in entries if view.sees(entry.change.trade.master)]
                messages = []
                for entry in seen:
                    message = change_message(entry, view)
                    message["prev"], group.last = group.last, entry.seq
                    messages.append(message)
                    told[entry.seq] += len(group.connections)
                if messages:
                    self._send(group, messages)
        took_ms = (self._clock.monotonic() - started) * 1000
        for entry in entries:
            trade = entry.change.trade
            log.info(
                "broadcast: seq %d %s %s %s %s ticket %d to %d connections in %.1f ms",
                entry.seq,
                entry.change.type,
                trade.action,
                trade.volume,
                trade.symbol,
                trade.ticket,
                told[entry.seq],
                took_ms,
            )

    def _send(self, group: Group, messages: Iterable[Mapping[str, Any]]) -> None:
        frames = [encode(message).encode() for message in messages]
        self._fan_out(list(group.connections), frames)
        group.told_at = self._clock.monotonic()

    # --- coming and going --------------------------------------------------------------------------------------------

    def arrival(self) -> int:
        """The place of a handshake in the order in which they come, for `join`: asked for before anything that waits,
        because whoever is let in first has not always come first."""
        return next(self._arrivals)

    def join(
        self,
        connection: Connection,
        user: User,
        token_expires_at: int,
        address: str = "",
        ledger: str = "",
        *,
        arrived: int,
    ) -> None:
        """Take in a connection whose token was good for `user` as given: it gets the book, then its settings, then
        every change that it may see. What the user has too many of, a client more than one, is closed, those first
        that came first. A client's copier names its `ledger`. Raises `Unavailable`."""
        with self._publishing:
            now = self._store.user(user.id)
            if now is None or not self._still_good(now, user):
                connection.close(FORBIDDEN, "the account was changed")
                return
            most = 1 if now.role is Role.CLIENT else MOST_OF_USER
            with self._list:
                newer = sum(other.arrived > arrived for other in self._members_of(now.id))
            if newer >= most:
                connection.close(TAKEN_OVER, "a newer connection of this user is there")
            if newer >= most or connection.over:
                log.info("websocket: %s came too late from %s", now.username, connection.peer)
                return
            view = view_of(now, self._store)
            book, settings, seq = self._book_frame(view), self._store.config_of(now.id), self._store.last_seq()
            # The last that can fail: who has not been let in has taken nobody's place.
            since = self._store.copier_since(now, ledger) if ledger and now.role is Role.CLIENT else None
            messages = Budget.full(MESSAGES_AT_ONCE, MESSAGES_PER_S, self._clock.monotonic())
            member = Member(connection, now, token_expires_at, view, messages, arrived, since, address=address)
            config = settings_frame(settings, since)
            with self._list:
                if connection.over:  # `left` has been told already, or waits for us and finds a member
                    return
                others = sorted(self._members_of(now.id), key=lambda other: other.arrived)
                for older in others[: max(0, len(others) - most + 1)]:
                    self._end(older, TAKEN_OVER, "another connection of this user took over")
                self._members[connection] = member
                self._of_user.setdefault(now.id, []).append(member)
                self._addresses[address] += 1
                self._enter(member, seq)
                connection.send_frame(book)
                connection.send_frame(config)
                connected = len(self._members)
        log.info(
            "websocket: %s (%s) connected from %s, %d connected", now.username, now.role, connection.peer, connected
        )

    def left(self, connection: Connection, code: int, reason: str) -> None:
        """The connection is gone, by itself or because it was too slow. Harmless when it has been ended already."""
        with self._list:
            member = self._members.get(connection)
            if member is not None:
                self._forget(member, code, reason)

    def received(self, connection: Connection, message: str) -> None:
        """A message of the other side. `{"type":"sync"}` asks for the book; other types are ignored."""
        with self._list:
            member = self._members.get(connection)
            if member is None:
                return
            if member.messages.spend(1, self._clock.monotonic()) < 0:
                self._end(member, POLICY, "too many messages")
                return
            try:
                kind = decode(message).get("type")
            except BadJson as error:
                self._end(member, BAD_MESSAGE, str(error))
                return
            if kind == "sync":
                member.wants_book = True
                self._wake.set()  # answered by the hub's own thread: this one may be the reader of all sockets

    def _still_good(self, now: User, then: User) -> bool:
        expired = now.expires_at is not None and now.expires_at <= self._store.now_ms()
        return now.active and now.token_version == then.token_version and not expired

    def _members_of(self, user_id: int) -> list[Member]:
        return list(self._of_user.get(user_id, ()))

    def _enter(self, member: Member, seq: int) -> None:
        group = self._groups.get(member.view)
        if group is None:
            group = self._groups[member.view] = Group(seq, self._clock.monotonic())
        group.connections[member.connection] = None

    def _leave_group(self, member: Member) -> None:
        group = self._groups[member.view]
        group.connections.pop(member.connection)
        if not group.connections:
            del self._groups[member.view]

    def _forget(self, member: Member, code: int, reason: str) -> None:
        del self._members[member.connection]
        of_user = self._of_user[member.user.id]
        of_user.remove(member)
        if not of_user:
            del self._of_user[member.user.id]
        self._leave_group(member)
        self._addresses[member.address] -= 1
        if not self._addresses[member.address]:
            del self._addresses[member.address]
        self.closed[code] += 1
        log.info(
            "websocket: %s disconnected from %s: %d %s, %d connected",
            member.user.username,
            member.connection.peer,
            code,
            reason,
            len(self._members),
        )

    def _end(self, member: Member, code: int, reason: str) -> None:
        self._forget(member, code, reason)
        member.connection.close(code, reason)

    def close_all(self) -> None:
        with self._list:
            for member in list(self._members.values()):
                self._end(member, GOING_AWAY, "the server is ending")

    # --- frames for one ----------------------------------------------------------------------------------------------

    def _book_frame(self, view: View) -> bytes:
        data = self._books.get(view)
        if data is None:
            masters = [master.as_message() for master in self._store.masters() if view.sees(master.name)]
            trades = [trade_for_client(trade, view.volume(trade)) for trade in self._store.book(view.follow)]
            data = self._books[view] = encode({"masters": masters, "trades": trades})
        head = encode(
            {
                "type": "book",
                "seq": self._store.last_seq(),
                "server_time": self._store.now_ms(),
                "epoch": self._store.epoch,
                "starts": self._store.starts,
                "version": VERSION,
            }
        )
        return f'{head[:-1]},"data":{data}}}'.encode()

    def _config_frame(self, member: Member) -> bytes:
        return settings_frame(self._store.config_of(member.user.id), member.copier_since)

    def _send_book(self, member: Member) -> None:
        """All that a connection is told first: what has asked for it may have missed any of it."""
        frame, config = self._book_frame(member.view), self._config_frame(member)
        with self._list:
            member.wants_book = False
            if member.connection in self._members:
                member.connection.send_frame(frame)
                member.connection.send_frame(config)

    # --- what changed about users ------------------------------------------------------------------------------------

    def config_changed(self, user_id: int) -> None:
        """A user's settings were stored: its connections get them, and the book when it looks different to them now."""
        with self._publishing:
            self._reload(user_id)

    def _reload(self, user_id: int) -> None:
        user = self._store.user(user_id)
        if user is None:
            return
        view, book = view_of(user, self._store), None
        seq = self._store.last_seq()
        with self._list:
            members = self._members_of(user_id)
        for member in members:
            member.connection.send_frame(self._config_frame(member))
            if member.view != view:
                book = book or self._book_frame(view)
                with self._list:
                    if member.connection in self._members:
                        self._leave_group(member)
                        member.view = view
                        self._enter(member, seq)
                        member.connection.send_frame(book)

    def user_changed(self, user_id: int) -> None:
        """Role, password, activity or expiry of a user was stored: connections that are not good any more end."""
        with self._publishing:
            self._recheck({user_id})
            self._tell_masters()

    def _recheck(self, user_ids: Iterable[int]) -> None:
        for user_id in user_ids:
            user = self._store.user(user_id)
            with self._list:
                for member in self._members_of(user_id):
                    if user is None or not self._still_good(user, member.user):
                        self._end(member, FORBIDDEN, "the account was deactivated or changed")
                    else:
                        member.user = user  # whose expiry may have been set just now

    # --- what time brings --------------------------------------------------------------------------------------------

    def step(self) -> None:
        """Look after everything that no request causes: books asked for, tokens, silent masters, heartbeats.

        Raises `Unavailable`.
        """
        with self._publishing:
            with self._list:
                members = list(self._members.values())
            if self._store.changed_elsewhere():
                self._books.clear()
                self._recheck({member.user.id for member in members})
            now = self._store.now_ms()
            for member in members:
                self._end_when_expired(member, now)
                if member.wants_book:
                    self._send_book(member)
            self._tell_masters()
            self._beat(now)

    def _end_when_expired(self, member: Member, now: int) -> None:
        with self._list:
            if member.connection not in self._members:
                return
            if member.user.expires_at is not None and member.user.expires_at <= now:
                self._end(member, FORBIDDEN, "the account has expired")
            elif member.token_expires_at <= now:
                self._end(member, TOKEN_EXPIRED, "the token has expired")

    def _tell_masters(self, reporting: str | None = None) -> None:
        """Tell followers which masters went offline or came back. `reporting` has just sent its whole book."""
        masters = self._store.masters()
        if {master.name for master in masters} != set(self._masters):
            # A master came or went: everybody needs the book with it or without it.
            known, self._masters = self._masters, {master.name: False for master in masters}
            self._masters.update((name, online) for name, online in known.items() if name in self._masters)
            self._books.clear()
            with self._list:
                views = list(self._groups)
            frames = {view: self._book_frame(view) for view in views}
            with self._list:
                for member in self._members.values():
                    member.connection.send_frame(frames[member.view])
        for master in masters:
            first_report = master.name == reporting and master.name not in self._reported
            if first_report:
                self._reported.add(master.name)
            if first_report or self._masters[master.name] != master.online:
                self._masters[master.name] = master.online
                self._tell_master(master)

    def _tell_master(self, master: Master) -> None:
        self._books.clear()
        log.info("master %s is %s", master.name, "online" if master.online else "offline")
        message = {"type": "master", "server_time": self._store.now_ms(), "data": master.as_message()}
        with self._list:
            for view, group in self._groups.items():
                if view.sees(master.name):
                    self._fan_out(list(group.connections), [encode(message).encode()])

    def _beat(self, now: int) -> None:
        with self._list:
            for group in self._groups.values():
                if self._clock.monotonic() - group.told_at >= HEARTBEAT_S:
                    self._send(group, [{"type": "heartbeat", "seq": group.last, "server_time": now}])

    def run(self) -> None:
        """The hub's own thread, until `stop`."""
        troubled = False
        while not self._stopping:
            self._wake.clear()
            try:
                self.step()
                if troubled:
                    log.info("the database works again")
                troubled = False
            except Unavailable as error:
                if not troubled:
                    log.error("%s", error)
                troubled = True
            self._wake.wait(STEP_S)

    def stop(self) -> None:
        self._stopping = True
        self._wake.set()

    # --- for the dashboard and the metrics ---------------------------------------------------------------------------

    @property
    def connected(self) -> int:
        return len(self._members)

    def connected_from(self, address: str) -> int:
        return self._addresses[address]

    def connected_by_role(self) -> dict[str, int]:
        with self._list:
            return Counter(member.user.role for member in self._members.values())

    def connected_users(self) -> dict[str, int]:
        """User name → number of connections."""
        with self._list:
            return Counter(member.user.username for member in self._members.values())

    def followers_of(self, master: str) -> dict[str, int]:
        """Client name → number of connections, of the clients that see `master`."""
        with self._list:
            return Counter(
                member.user.username
                for member in self._members.values()
                if member.user.role is Role.CLIENT and member.view.sees(master)
            )
