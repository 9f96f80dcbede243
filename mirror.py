"""The copier's picture of its masters' books, built from the server's messages.

Pure: messages and the time of their arrival (monotonic seconds) come as arguments. A gap in the numbering is always
noticed, and answered by asking for the whole book, never by guessing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any, Final

from account import PATIENCE_S
from clocks import RemoteClock
from signals import (
    TICKET,
    TIME_MS,
    USERNAME,
    Kind,
    Source,
    Trade,
    an_object,
    boolean,
    number,
    one_of,
    or_null,
    read_fields,
    text,
    trade_from_server,
    whole,
)

TradeKey = tuple[str, Kind, int]  # master, kind, ticket
CopyKey = tuple[str, Kind, int, int]  # and which leg of the trade, see legs.py

_SEQ: Final = whole(0, 2**62)
CLOCK_WINDOW_S: Final = 60.0  # for so long (twice at most) the message with the least delay shows the server's time


_NAME: Final = text(r"[A-Za-z0-9_-]{1,64}", "an identifier")


def _starts(value: Any) -> list[tuple[str, int]]:
    if type(value) is not list or not all(type(item) is list and len(item) == 2 for item in value):
        raise ValueError("must be a list of pairs")
    return [(_NAME(run), _SEQ(seq)) for run, seq in value]


def _list_of_objects(value: Any) -> list[dict[str, Any]]:
    if type(value) is not list or not all(type(item) is dict for item in value):
        raise ValueError("must be a list of objects")
    return value


@dataclass(frozen=True, slots=True)
class Held:
    """A trade of a book, with what is needed to tell its age without any wall clock."""

    trade: Trade
    age_at_receipt_ms: int | None  # by the server's clock at that moment; None = the server does not know it
    received: float  # monotonic seconds
    detected_at: int = 0  # UTC ms at the sender, for the report of latencies only
    server_time: int = 0
    leg: int = 0  # which part of the master's trade this is, see legs.py
    order: int = 0  # the pending order it came from, if it came from one
    of_lots: Decimal | None = None  # the master's lots of the first leg when this is a later one

    @property
    def trade_key(self) -> TradeKey:
        return (self.trade.master, *self.trade.key)

    @property
    def key(self) -> CopyKey:
        return (*self.trade_key, self.leg)

    def age_ms(self, now: float) -> int | None:
        if self.age_at_receipt_ms is None:
            return None
        return self.age_at_receipt_ms + int((now - self.received) * 1000)


@dataclass(frozen=True, slots=True)
class Master:
    """What the server says of a master."""

    reported_at: int | None  # UTC ms of the last whole book that reached this server database; None = never
    online: bool


@dataclass(frozen=True, slots=True)
class Doubt:
    """A server database that may not know all trades of a master, because it is new, another one or an old backup.

    Its sender tells it, unless that has lost its memory as well and looks at a terminal that does not show all of the
    account yet. So only a report counts that was made when `PATIENCE_S` have gone by.
    """

    since: float  # monotonic: when it began
    reported_at: int | None  # the last report that does not count

    def after(self, reported_at: int | None, now: float) -> Doubt | None:
        """What is left of it when the master's last report is this one."""
        if now - self.since < PATIENCE_S:
            return replace(self, reported_at=reported_at)
        return self if reported_at == self.reported_at else None


class Mirror:
    """The masters' books as far as the server has told them."""

    def __init__(
        self,
        last_epoch: str = "",
        last_seq: int = 0,
        last_run: str = "",
        masters: Iterable[str] = (),
        unreported: Iterable[str] = (),
    ) -> None:
        """What the ledger remembers from before the start; `masters` are those of whom there are copies, `unreported`
        such as had not reported to the database of `last_epoch`, which had taken the place of another."""
        self.trades: dict[TradeKey, Held] = {}
        self.masters: dict[str, Master] = {}
        self.epoch = last_epoch
        self.seq = last_seq
        self.run = last_run  # of the server, from one start to the next
        self.known = False  # a book has come since the start
        self.synced = False  # and everything since, over a connection that stands
        self.book_time = 0  # UTC ms by the server's clock: when it made the last whole book
        self.book_received = 0.0  # monotonic: when it came
        self._server_clock = RemoteClock(CLOCK_WINDOW_S)
        self._closed: set[TradeKey] = set()  # closed in so many words since the last whole book
        # Pending orders of these that went behind a missing message, which may tell of the position of their fill.
        self.may_have_filled: set[TradeKey] = set()
        self._told: set[TradeKey] = set()  # of masters in doubt: told in so many words since the doubt began
        self._heard_of = set(masters)  # of whom there may be copies, whether the server names them now or not
        # Masters whose books are not believed to be complete: the server's database is another one, or went back in
        # time (a backup was restored).
        self.went_back: dict[str, Doubt] = {}
        # The database is not the one that was known before, and these have not reported to it yet.
        self.unreported = set(unreported)

    def disconnected(self) -> None:
        """The books stay as they are, but may be out of date: nothing may be opened from them."""
        self.synced = False

    def speaks_for(self, key: TradeKey, source: Source, epoch: str) -> bool:
        """Whether a trade that is not in the book is gone, and not merely unknown to this server database.

        `epoch` is that of the database that told of the trade. What a sender's account holds is known once it has
        reported; what was entered by hand is known to the database in which it was entered, and to no other. What a
        close message has ended is gone in any case.
        """
        master = key[0]
        if key in self._closed:
            return True
        if not self.known or master not in self.masters or master in self.went_back:
            return False
        if source is Source.MANUAL:
            return epoch == self.epoch
        return self.masters[master].reported_at is not None

    def believed(self, key: TradeKey) -> bool:
        """Whether the side and the lots of a trade, and what a pending order says, are those of now: an old copy of the
        server's database may show those of then."""
        return key[0] not in self.went_back or key in self._told

    def server_ms(self, now: float) -> int | None:
        """The time by the server's clock, carried on while it is not heard; None when it was never heard."""
        return self._server_clock.now_ms(now)

    def age_ms(self, opened_at: int, now: float) -> int | None:
        """How old is what was opened then, by the server's clock; None when that is not known."""
        server_now = self.server_ms(now)
        return None if not opened_at or server_now is None else max(0, server_now - opened_at)

    def apply(self, message: Mapping[str, Any], now: float) -> bool:
        """Take in a message; True when the whole book must be asked for. Raises `BadField`; ignores unknown types."""
        match message.get("type"):
            case "book":
                self._book(message, now)
            case "signal" | "modify" | "close":
                return self._change(message, now)
            case "heartbeat":
                found = read_fields(message, {"seq": _SEQ}, {"server_time": TIME_MS}, others_allowed=True)
                if "server_time" in found:
                    self._server_clock = self._server_clock.shown(found["server_time"], now)
                if found["seq"] > self.seq:
                    self.synced = False
                return not self.synced
            case "master":
                return self._master(message, now)
        return False

    def _book(self, message: Mapping[str, Any], now: float) -> None:
        found = read_fields(
            message,
            {"seq": _SEQ, "epoch": _NAME, "server_time": TIME_MS, "data": an_object},
            {"starts": _starts},
            others_allowed=True,
        )
        starts = found.get("starts", [])
        data = read_fields(
            found["data"], {"masters": _list_of_objects, "trades": _list_of_objects}, others_allowed=True
        )
        masters = {}
        for entry in data["masters"]:
            one = read_fields(
                entry, {"master": USERNAME, "reported_at": or_null(TIME_MS), "online": boolean}, others_allowed=True
            )
            masters[one["master"]] = Master(one["reported_at"], one["online"])
        clock = self._server_clock.shown(found["server_time"], now)
        trades = {}
        for entry in data["trades"]:
            held = _held(entry, clock, now, 0, found["server_time"])
            trades[(held.trade.master, *held.trade.key)] = held

        another = self.epoch not in ("", found["epoch"])
        older = not another and (found["seq"] < self.seq or self._unknown_to(starts))
        if another or older:
            self.unreported = {name for name, master in masters.items() if master.reported_at is None}
        went_back = {}
        self._heard_of |= masters.keys()
        for name in sorted(self._heard_of):  # also those that it does not name now: they may be deactivated in a backup
            reported_at = masters[name].reported_at if name in masters else None
            if older or (another and (reported_at is not None or name not in masters)):
                went_back[name] = Doubt(now, reported_at)  # what it says of reports may be long past
            elif not another and name not in masters:  # deactivated, or no longer followed
                if name in self.went_back:
                    went_back[name] = self.went_back[name]
            elif not another and (doubt := self._doubt(name, reported_at, now)):
                went_back[name] = doubt
        self.went_back = went_back
        self.unreported -= {name for name, master in masters.items() if master.reported_at is not None}
        if another or older:
            self._told = set()
        self._told = {key for key in self._told if key[0] in went_back and key in trades}
        # The time at the sender is not in the book; keep what an earlier message said.
        for key, held in trades.items():
            before = self.trades.get(key)
            if before is not None and before.detected_at:
                trades[key] = replace(held, detected_at=before.detected_at, server_time=before.server_time)
        self._closed = {key for key in self._closed if key[0] in self.went_back and key not in trades}
        self.masters, self.trades = masters, trades
        self._server_clock, self.book_received = clock, now
        self.epoch, self.seq, self.book_time = found["epoch"], found["seq"], found["server_time"]
        self.run = starts[-1][0] if starts else ""
        self.may_have_filled.clear()
        self.known = self.synced = True

    def _unknown_to(self, starts: list[tuple[str, int]]) -> bool:
        """Whether this server database does not know of all that was heard: it is a backup, whatever it has numbered
        since. `starts` are its last ones."""
        runs = [run for run, _ in starts]
        if not self.run or not runs or self.run == runs[-1]:
            return False
        return self.run not in runs or self.seq > starts[runs.index(self.run) + 1][1]

    def _change(self, message: Mapping[str, Any], now: float) -> bool:
        found = read_fields(
            message,
            {"seq": _SEQ, "prev": _SEQ, "server_time": TIME_MS, "data": an_object},
            {"detected_at": or_null(TIME_MS)},
            others_allowed=True,
        )
        if not self.known:
            return True
        if found["seq"] <= self.seq:
            return False
        clock = self._server_clock.shown(found["server_time"], now)
        data = found["data"]
        key = _key(data)
        gone = message["type"] == "close" and not _lots_left(data)
        if gone:  # absolute, and of the newest: true whatever may be missing before it
            self.trades.pop(key, None)
            self._closed.add(key)
        # That a master is named (again) has no number either: what comes of one that is not shows that it was missed.
        if not self.synced or found["prev"] > self.seq or key[0] not in self.masters:
            if gone and key[1] is Kind.ORDER:
                self.may_have_filled.add(key)
            self.synced = False
            return True
        if not gone:
            held = _held(data, clock, now, found.get("detected_at") or 0, found["server_time"])
            known = self.trades.get(key)
            # What moves only the stops of a position has the lots that the database has: perhaps those of then.
            modified = message["type"] == "modify" and key[1] is Kind.POSITION
            as_before = known is not None and _signed(known.trade) == _signed(held.trade)
            lots_told = not (modified and as_before)
            self.trades[key] = held
            self._closed.discard(key)  # it is there again: what was said before no longer counts
            if key[0] in self.went_back and lots_told:
                self._told.add(key)
        self._server_clock = clock
        self.seq = found["seq"]
        return False

    def _master(self, message: Mapping[str, Any], now: float) -> bool:
        found = read_fields(message, {"data": an_object}, others_allowed=True)
        entry = read_fields(
            found["data"],
            {"master": USERNAME, "online": boolean},
            {"reported_at": or_null(TIME_MS)},
            others_allowed=True,
        )
        name = entry["master"]
        known = self.masters.get(name)
        # That a master has reported makes `speaks_for` believe what is here of its book: so never before that is here.
        if not self.synced or known is None:
            self.synced = False
            return True
        reported = entry.get("reported_at", known.reported_at)
        doubt = self._doubt(name, reported, now)
        if reported is not None:
            self.unreported.discard(name)
        self.masters[name] = Master(reported, entry["online"])
        self.went_back.pop(name, None)
        if doubt:
            self.went_back[name] = doubt
        return False

    def _doubt(self, name: str, reported_at: int | None, now: float) -> Doubt | None:
        """What is left of the doubt about a master, when this is its last report. A first one to a database that took
        the place of another begins a doubt, and so does one that was taken back (other masters may have moved the
        number on meanwhile). When the server names a doubted master again that it has not named for a while, its last
        report is none that was made since."""
        known = self.masters.get(name)
        first = name in self.unreported and reported_at is not None
        back = known is not None and (known.reported_at or 0) > (reported_at or 0)
        named_again = known is None and name in self.went_back
        if first or back or named_again:
            return Doubt(now, reported_at)
        doubt = self.went_back.get(name)
        return doubt and doubt.after(reported_at, now)


def _lots_left(data: Mapping[str, Any]) -> Decimal:
    left: Decimal = read_fields(data, {"remaining": number(0, 1_000_000)}, others_allowed=True)["remaining"]
    return left


def _signed(trade: Trade) -> Decimal:
    return trade.volume if trade.action.buys else -trade.volume


def _key(data: Mapping[str, Any]) -> TradeKey:
    found = read_fields(data, {"master": USERNAME, "kind": one_of(Kind), "ticket": TICKET}, others_allowed=True)
    return (found["master"], found["kind"], found["ticket"])


def _held(data: Mapping[str, Any], clock: RemoteClock, now: float, detected_at: int, server_time: int) -> Held:
    """A message may have been on its way for seconds: the age is that of now, not that of when it was sent."""
    trade = trade_from_server(data)
    server_now = clock.now_ms(now) or server_time
    age = max(0, server_now - trade.opened_at) if trade.opened_at else None
    return Held(trade, age, now, detected_at, server_time, order=trade.first_order)
