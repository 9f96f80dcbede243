"""The master's side: read the account, compare it with what the server has acknowledged, send the difference.

It never trades, so the investor (read-only) password is enough. It never takes a failed or doubtful reading for a
change: a position has closed when the history shows its closing deals, or when good readings have gone without it for
15 seconds.
"""

from __future__ import annotations

import logging
import math
import re
import sys
import time
from collections.abc import Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any, Final

from account import PATIENCE_S, Deal, Entry, Order, OrderEnd, Position, Reading, Symbol
from api_client import Api, ApiDown, ApiRefused
from check import check_sender
from clocks import RemoteClock
from config import SenderConfig, load_sender
from console import Spoken, load_module
from ledger import LedgerError, OneInstance, SenderLedger
from program import Program, main
from signals import (
    NOTHING,
    BadField,
    Change,
    ChangeType,
    Increase,
    Key,
    Kind,
    Source,
    Trade,
    diff,
    modifiable,
    trade_for_sender,
    trade_from_sender,
    trade_from_server,
)
from supervisor import Command
from terminal import ConnectionLost, Terminal, Unreadable, connect_until
from watchdog import Watchdog
from worker import Status, Worker

log = logging.getLogger(__name__)

BOOK_EVERY_S: Final = 5.0
FLAT_LOOK_S: Final = 1.0  # between two looks at quotes while there is no trade whose symbol is watched in any case
BREAK_S: Final = 1800.0  # so long without a quote, under good readings: the market is closed
WATCHED_S: Final = 2.0  # a quote that was not there at a look so young (or two polls) has just been made
SERVER_CLOCK_WINDOW_S: Final = 60.0  # for so long (twice at most) the answer with the least delay shows its time
GAP_S: Final = 10.0  # longer than any rest between two readings: the process slept
CLOCKS_AGREE_S: Final = 1.0  # wall clock and monotonic clock, from one poll to the next, unless the computer slept
FEW_CHANGES: Final = 3  # more than these at once go as one whole book, in one request
LONGEST_REST_S: Final = 5.0  # between attempts to reach a server that is down
# What no comment on the wire may have. A comment is for people to read and must not keep a trade from being copied.
UNSAYABLE: Final = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")


class Superseded(Exception):
    """Another sender has taken over this master."""


class BrokerClock:
    """The broker's clock as quotes show it when they come in.

    A quote that was there already may be hours old and shows nothing; one that was not there a moment ago has just been
    made. It is set for summer time while the market is closed, so after such a break it is not carried on: an hour that
    has gone would make every trade seem an hour old.
    """

    def __init__(self, a_moment: float = WATCHED_S) -> None:
        """`a_moment` is the longest time between two looks of which the later shows what has just been made."""
        self.a_moment = a_moment
        self._last: Mapping[str, int] = {}  # symbol → time of its newest quote at the last look
        self.looked = 0.0
        self._came = 0.0
        self._clock = RemoteClock()

    def look(self, quote_times: Mapping[str, int], now: float, watching_since: float) -> None:
        """These are the symbols' newest quotes; readings of the account have been good since then."""
        came = [msc for name, msc in quote_times.items() if msc > self._last.get(name, msc)]
        moment = now - self.looked <= self.a_moment
        self._last, self.looked = quote_times, now
        if came and moment:
            if now - max(self._came, watching_since) > BREAK_S:
                self._clock = RemoteClock()
            self._came = now
            self._clock = self._clock.shown(max(came), now)

    @property
    def known(self) -> bool:
        return bool(self._clock.ahead)

    def now_msc(self, now: float) -> int | None:
        """Broker time in ms; None while no quote has come in."""
        return self._clock.now_ms(now)


@dataclass(frozen=True, slots=True)
class Seen:
    """When this process first saw a trade (monotonic), and how old it can have been then at most (None = any age)."""

    at: float
    age_ms: int | None


@dataclass(frozen=True, slots=True)
class Grown:
    """When a position was first seen larger, or on the other side, than the server knows it."""

    at: float  # monotonic
    age_ms: int | None  # how long before that it can have been at most; None = any time
    price: Decimal


class Sender:
    """One master account. `step()` is one poll; everything it works with is handed in."""

    def __init__(
        self, terminal: Terminal, api: Api, ledger: SenderLedger, config: SenderConfig, clock: Any = time
    ) -> None:
        self._terminal = terminal
        self._api = api
        self._ledger = ledger
        self._config = config
        self._clock = clock
        # As the server acknowledged it last, and what it may know besides. None of these ends without proof.
        self._book: dict[Key, Trade] = ledger.acknowledged()
        self._merged = False  # the server's own book was added to it, so that a lost ledger forgets nothing
        self._session: str | None = None
        self._replaces: str | None = None  # the session that ours begins after
        self._rev = 0
        self._whole_book_due = True
        self._last_book = 0.0
        self._rest_until = 0.0
        self._failures = 0
        self._broker_clock = BrokerClock(max(WATCHED_S, 2 * config.poll_ms / 1000))
        self._server_clock = RemoteClock(SERVER_CLOCK_WINDOW_S)
        self._wall_ahead = clock.time() - clock.monotonic()  # of the monotonic clock, s, at the last poll
        self._measured_at = 0.0  # monotonic: when the ages were
        self._market_watch: set[str] | None = None
        self._is_read = False  # at the last poll, whatever the server said
        self._last_good: float | None = None
        self._read_at = -math.inf  # of the last good reading, also when failed ones have come since
        self._watching_since = 0.0  # readings have been good and close together since then
        self._seen: dict[Key, Seen] = {}
        self._grew: dict[Key, Grown] = {}  # positions that have grown since the server acknowledged them
        self._ageless: set[Key] = set()  # told without an age, because nothing showed it then
        self._missing_since: dict[Key, float] = {}
        self._took_ms: int | None = None  # from the look that showed the last change to the server's answer
        self._spoken = Spoken(log)

    # -- what a person at the console asks for

    def command(self, _word: str) -> str:
        """The only one is `status`."""
        return self.status().line

    def status(self) -> Status:
        kinds = [kind for kind, _ in self._book]
        connected = self._session is not None and not self._failures
        parts = ["connected" if connected else "NOT CONNECTED"]
        parts.append("account read" if self._is_read else "ACCOUNT NOT READ")
        parts.append(f"positions {kinds.count(Kind.POSITION)}, orders {kinds.count(Kind.ORDER)}")
        if self._took_ms is not None:
            parts.append(f"last change told in {self._took_ms} ms")
        short = f"{len(kinds)} trades" if connected else "NOT CONNECTED"
        return Status(" | ".join(parts), f"{short}: sender {self._config.mt5.login}")

    # -- one poll

    def step(self) -> None:
        """Look at the account and tell the server what is new.

        Raises `ConnectionLost`, `Superseded`, `LedgerError`.
        """
        now = self._clock.monotonic()
        ahead = self._clock.time() - now
        if abs(ahead - self._wall_ahead) > CLOCKS_AGREE_S:
            self._forget_times()
        self._wall_ahead = ahead
        if now < self._rest_until:
            return
        try:
            reading = self._terminal.read()
            self._is_read = True
            trades = self._trades(reading)
            ages = self._ages(reading, trades, now)
            if not self._merged:
                self._merge_server_book()
            trades = self._grown(reading, self._without_filled(reading, trades), now)
            endings = self._endings(trades, reading, now)
        except Unreadable as problem:
            self._last_good, self._is_read = None, False
            self._spoken.say("terminal", f"the account cannot be read: {problem}")
            if isinstance(problem, ConnectionLost):
                raise
            return
        except (ApiDown, ApiRefused) as error:
            self._failed(error)
            return
        self._spoken.clear("terminal", "the account can be read again")
        self._last_good = self._read_at = now
        if endings is None:
            return
        self._tell(trades, ages, endings, reading, now)

    def _tell(
        self,
        trades: Mapping[Key, Trade],
        ages: Mapping[Key, int | None],
        endings: Mapping[Key, list[Deal]],
        reading: Reading,
        now: float,
    ) -> None:
        changes = diff(self._book, trades)
        if not self._failures:
            for change in changes:
                log.info("detected %s", _told(change))
        sayable = all(c.type is not ChangeType.MODIFY or modifiable(self._book_after(c), c.trade) for c in changes)
        try:
            if self._session is None or self._whole_book_due or not sayable or len(changes) > FEW_CHANGES:
                self._put_book(trades, ages, reading, loud=bool(changes) or self._session is None)
            else:
                for change in changes:
                    self._post(change, ages, endings.get(change.trade.key, []))
                age_now_known = any(ages[key] is not None for key in self._ageless & trades.keys())
                if age_now_known or now - self._last_book >= BOOK_EVERY_S:
                    self._put_book(trades, ages, reading, loud=False)
        except (ApiDown, ApiRefused) as error:
            self._failed(error)
            return
        except LedgerError:
            self._whole_book_due = True  # the server has it, the ledger has not
            raise
        if changes:
            self._took_ms = round((self._clock.monotonic() - now) * 1000)
        if self._failures:
            log.info("the server is reached again")
        self._failures = 0

    def _book_after(self, change: Change) -> Trade:
        """What the server knows of a trade once an earlier change of its volume has been told."""
        known = self._book[change.trade.key]
        if change.trade.volume < known.volume:
            return replace(known, volume=change.trade.volume)
        return known

    def _failed(self, error: ApiDown | ApiRefused) -> None:
        """Whatever a failed request did or did not do at the server, the whole book settles it."""
        if isinstance(error, ApiRefused) and error.code in ("no_session", "stale"):
            # The server's database was lost or restored; or a beginning of ours whose answer was lost has arrived.
            self._session, self._merged = None, False
        elif isinstance(error, ApiRefused) and error.status == 409:
            raise Superseded(
                f"another sender has taken over this master ({error}). Two senders would contradict each other, so "
                "this one stops."
            )
        self._whole_book_due = True
        self._failures += 1
        self._rest_until = self._clock.monotonic() + min(0.25 * 2 ** min(self._failures, 8), LONGEST_REST_S)
        if self._failures == 1:
            log.error("the server did not take it: %s; the whole book is sent as soon as it can be", error)
        else:
            self._spoken.say("server", f"still failing: {error}", logging.ERROR)

    # -- reading

    def _trades(self, reading: Reading) -> dict[Key, Trade]:
        """The account as a book. What cannot be said on the wire is left out, loudly, or stays as it was told last."""
        offset = self._terminal.utc_offset_s({thing.symbol for thing in reading.everything})
        trades = {}
        for thing in reading.everything:
            if isinstance(thing, Order) and thing.action.kind is Kind.POSITION:
                continue  # a market order on its way: the position it becomes is told
            trade = self._trade(thing, offset)
            known = self._book.get(trade.key)
            try:
                if trade != known:
                    trade_from_sender(trade_for_sender(trade, None))
            except BadField as problem:
                self._spoken.say(
                    f"bad {trade.key}", f"{trade.symbol} #{trade.ticket} cannot be copied: {problem}", logging.ERROR
                )
                if known is None:
                    continue
                trade = known  # it is there, so it must not count as closed
            trades[trade.key] = trade
        return trades

    def _trade(self, thing: Position | Order, offset_s: int | None) -> Trade:
        known = self._book.get((thing.kind, thing.identifier))
        symbol = None if known else self._symbol(thing.symbol)
        stoplimit, expires = NOTHING, 0
        if isinstance(thing, Order):
            stoplimit = thing.stoplimit
            if thing.expiration_msc and offset_s is not None:
                expires = thing.expiration_msc - offset_s * 1000
            elif thing.expiration_msc and known:  # no quotes now, on a weekend: what was told stays
                expires = known.expiration
        return Trade(
            ticket=thing.identifier,
            kind=thing.kind,
            symbol=thing.symbol,
            action=thing.action,
            volume=thing.volume,
            initial_volume=known.initial_volume if known and known.action is thing.action else thing.volume,
            price=thing.price,
            sl=thing.sl,
            tp=thing.tp,
            magic=thing.magic,
            comment=UNSAYABLE.sub(" ", thing.comment),
            contract_size=symbol.contract_size if symbol else known.contract_size if known else NOTHING,
            point=symbol.point if symbol else known.point if known else NOTHING,
            digits=symbol.digits if symbol else known.digits if known else 0,
            stoplimit=stoplimit,
            expiration=expires,
        )

    def _symbol(self, name: str) -> Symbol | None:
        """The symbol of a new trade; None when the terminal does not answer about it: that holds up no trade."""
        try:
            return self._terminal.symbol(name)
        except ConnectionLost:
            raise
        except Unreadable as problem:
            self._spoken.say(f"symbol {name}", f"sent without its contract size: {problem}")
            return None

    def _forget_times(self) -> None:
        """The clocks have gone apart: this machine may have slept while its monotonic clock stood still, and then every
        age that it has carried on is too low. The wall clock, which may have been set, is asked for nothing else."""
        log.warning("this computer slept, or its clock was set: ages are not known until new quotes show the time")
        self._broker_clock = BrokerClock(self._broker_clock.a_moment)
        self._last_good, self._read_at = None, -math.inf
        self._seen = {key: replace(seen, age_ms=None) for key, seen in self._seen.items()}
        self._grew = {key: replace(grew, age_ms=None) for key, grew in self._grew.items()}
        self._missing_since.clear()

    def _ages(self, reading: Reading, trades: Mapping[Key, Trade], now: float) -> dict[Key, int | None]:
        """How old each trade is, in ms; None where nothing shows it.

        Two measures, and the larger counts: the broker's clock (newest quote less time of opening), which also knows
        what happened while this program was not running, and the own monotonic clock since the trade was first seen.
        """
        gap = math.inf if self._last_good is None else now - self._last_good
        if gap > GAP_S:
            self._watching_since = now
        self._measured_at = now
        clock = self._broker_clock
        symbols = {trade.symbol for trade in trades.values()}
        if not (symbols and clock.known):
            if self._market_watch is None:
                self._market_watch = self._terminal.market_watch()
            symbols |= self._market_watch
        if trades or not clock.known or now - clock.looked >= FLAT_LOOK_S:
            clock.look(self._terminal.quote_times(symbols), now, self._watching_since)
        broker_now = clock.now_msc(now)
        # A terminal that has just logged in may show an account bit by bit.
        age_when_seen = round(gap * 1000) if now - self._watching_since >= PATIENCE_S else None
        opened = {(Kind.POSITION, p.identifier): p.time_msc for p in reading.positions}
        opened |= {(Kind.ORDER, o.ticket): o.time_msc for o in reading.orders}
        self._seen = {key: self._seen.get(key) or Seen(now, age_when_seen) for key in trades}
        ages: dict[Key, int | None] = {}
        for key in trades:
            seen = self._seen[key]
            by_broker = None if broker_now is None else max(0, broker_now - opened[key])
            by_watch = None if seen.age_ms is None else seen.age_ms + int((now - seen.at) * 1000)
            known = [age for age in (by_broker, by_watch) if age is not None]
            ages[key] = max(known) if known else None
        return ages

    def _without_filled(self, reading: Reading, trades: Mapping[Key, Trade]) -> Mapping[Key, Trade]:
        """The trades without what has filled of pending orders. These are read before the positions, so one that fills
        in between is shown as well as the lots that it brought, which would then seem to have come at market."""
        at_one_moment = dict(trades)
        for position in reading.positions:
            trade = trades.get((Kind.POSITION, position.identifier))
            if trade is None or not self._came(trade):
                continue
            alike = [o for o in reading.orders if o.symbol == position.symbol and o.action.buys == position.action.buys]
            pending = [order for order in alike if (Kind.ORDER, order.ticket) in trades]
            deals = self._terminal.deals_of(position.identifier) if pending else []
            for order in pending:
                key = (Kind.ORDER, order.ticket)
                left = order.initial_volume - sum((d.volume for d in deals if d.order == order.ticket), NOTHING)
                if left <= 0:
                    del at_one_moment[key]
                elif left < order.volume:
                    at_one_moment[key] = replace(trades[key], volume=left)
        return at_one_moment

    def _grown(self, reading: Reading, trades: Mapping[Key, Trade], now: float) -> dict[Key, Trade]:
        """The trades; those of which the server knows less, or the other side, with when and how they grew.

        The price is that of the quote when it was first seen, or of the pending order that filled: the average price of
        a netting position does not show it. When nobody was looking the age is not known.
        """
        gap = now - self._read_at
        larger = {}
        for position in reading.positions:
            key = (Kind.POSITION, position.identifier)
            trade = trades.get(key)
            lots = NOTHING if trade is None else self._came(trade)
            if trade is None or not lots:
                continue
            order = self._filled_order(trade, lots, trades)
            grew = self._grew.get(key)
            if grew is None:
                age_when_seen = round(gap * 1000) if gap <= GAP_S else None
                grew = Grown(now, age_when_seen, order.price if order else self._price_now(trade))
                self._grew[key] = grew
            broker_now = self._broker_clock.now_msc(now)
            age = None if grew.age_ms is None else grew.age_ms + int((now - grew.at) * 1000)
            if age is not None and broker_now is not None:
                age = max(age, broker_now - position.updated_msc)
            how = Increase(lots, grew.price, order.ticket if order else 0, age_ms=age)
            larger[key] = replace(trade, increase=how)
        self._grew = {key: grew for key, grew in self._grew.items() if key in larger}
        return {**trades, **larger}

    def _came(self, trade: Trade) -> Decimal:
        """Lots that have come to a position since the server was told of it, or of the pending order it began as."""
        known = self._book.get(trade.key) or self._book.get((Kind.ORDER, trade.ticket))
        if known is None:
            return NOTHING
        if known.action.buys != trade.action.buys:
            return trade.volume
        return max(trade.volume - known.volume, NOTHING)

    def _filled_order(self, position: Trade, lots: Decimal, trades: Mapping[Key, Trade]) -> Trade | None:
        """The pending order whose fill made a position grow: the one that has as many lots less, or the only one that
        has less. None when it was none, or several at once: then all of them have ended, and the position has grown."""
        known = self._book.get(position.key)
        if known is not None and known.action is not position.action:
            lots += known.volume  # they closed what was there
        filled = {}
        for order in self._book.values():
            alike = order.symbol == position.symbol and order.action.buys == position.action.buys
            began_as = known is None and order.ticket == position.ticket
            if order.kind is Kind.ORDER and alike and not began_as:
                left = trades[order.key].volume if order.key in trades else NOTHING
                if left < order.volume:
                    filled[order.key] = order.volume - left
        exact = [key for key, volume in filled.items() if volume == lots]
        found = exact[:1] or (list(filled) if len(filled) == 1 else [])
        return self._book[found[0]] if found else None

    def _price_now(self, trade: Trade) -> Decimal:
        symbol = self._symbol(trade.symbol)
        price = NOTHING if symbol is None else symbol.ask if trade.action.buys else symbol.bid
        return price or trade.price

    def _endings(self, trades: Mapping[Key, Trade], reading: Reading, now: float) -> dict[Key, list[Deal]] | None:
        """The deals that ended the trades which are not there any more; None while one has no proof of its end."""
        if self._last_good is None or now - self._last_good > GAP_S:
            self._missing_since.clear()  # nobody could look meanwhile: patience begins anew
        missing = [key for key in self._book if key not in trades]
        self._missing_since = {key: self._missing_since.get(key, now) for key in missing}
        endings = {}
        for key in missing:
            deals = self._proof(key, reading)
            if deals is None:
                waited = now - self._missing_since[key]
                if waited < PATIENCE_S:
                    self._spoken.say(
                        f"missing {key}",
                        f"{key[0]} #{key[1]} is not shown and the history does not say why: waiting for proof",
                    )
                    return None
                log.warning("%s #%d has been gone for %.0f s without a deal: taken as closed", *key, waited)
                deals = []
            self._spoken.clear(f"missing {key}", "")
            endings[key] = deals
        return endings

    def _proof(self, key: Key, reading: Reading) -> list[Deal] | None:
        """The closing deals of a position, an empty list for an order that ended; None when nothing shows an end."""
        kind, ticket = key
        if kind is Kind.POSITION:
            deals = self._terminal.deals_of(ticket)
            return [deal for deal in deals if deal.entry is not Entry.IN] if _nothing_left(deals) else None
        past = self._terminal.past_order(ticket)
        if past is None or past.end is OrderEnd.UNDECIDED:
            return None
        if past.end is OrderEnd.FILLED and past.position_id not in {p.identifier for p in reading.positions}:
            # It became a position that is not shown: either that has closed already, or the reading lags behind.
            return [] if _nothing_left(self._terminal.deals_of(past.position_id)) else None
        return []

    def _merge_server_book(self) -> None:
        """Add what the server holds of us to what the ledger knows, so that a lost ledger cannot hide a close."""
        answer = self._api.call("GET", "/signal/book")
        held = [trade_from_server(entry) for entry in answer.get("trades", [])]
        for trade in held:
            if trade.source is Source.TERMINAL and trade.key not in self._book:
                self._book[trade.key] = trade
        # It may be another database, with an earlier clock: ages would seem to have been measured later than they were.
        self._server_clock = RemoteClock(SERVER_CLOCK_WINDOW_S)
        self._hears_time(answer)
        self._replaces = answer.get("session")
        self._merged = True

    def _hears_time(self, answer: Mapping[str, Any]) -> None:
        """The server's clock: what is posted says when its ages were measured, so that a post that is long on its way
        does not make a trade look young."""
        if type(answer.get("server_time")) is int:
            self._server_clock = self._server_clock.shown(answer["server_time"], self._clock.monotonic())

    # -- sending

    def _next_rev(self) -> int:
        self._rev += 1
        return self._rev

    def _put_book(
        self, trades: Mapping[Key, Trade], ages: Mapping[Key, int | None], reading: Reading, *, loud: bool
    ) -> None:
        account = reading.account
        body = {
            "session": self._session,
            "rev": self._next_rev(),
            "detected_at": int(self._clock.time() * 1000),
            "as_of": self._server_clock.now_ms(self._measured_at),
            "trades": [trade_for_sender(trade, ages[key]) for key, trade in trades.items()],
            "account": {
                "login": account.login,
                "balance": account.balance,
                "equity": account.equity,
                "currency": account.currency,
                "leverage": account.leverage,
                "margin_mode": int(account.margin_mode),
            },
        }
        if self._session is None:
            body["replaces"] = self._replaces  # so that this request, if it comes late, undoes nothing newer
        level = logging.INFO if loud else logging.DEBUG
        log.log(level, "PUT /signal/book: %d trades", len(trades))
        news = self._whole_book_due or bool(diff(self._book, trades))
        self._book = {**trades, **self._book}  # whatever comes of it, from now on the server may know of these
        answer = self._api.call("PUT", "/signal/book", body)
        log.log(level, "answered: seq %s, %s changes", answer.get("seq"), answer.get("changes"))
        self._hears_time(answer)
        self._session = str(answer["session"])
        if news:
            self._ledger.acknowledge(whole=trades)
        self._book = dict(trades)
        self._grew.clear()
        self._ageless = {key for key in trades if ages[key] is None}
        self._whole_book_due = False
        self._last_book = self._clock.monotonic()

    def _post(self, change: Change, ages: Mapping[Key, int | None], deals: list[Deal]) -> None:
        trade = change.trade
        body: dict[str, Any] = {
            "session": self._session,
            "rev": self._next_rev(),
            "detected_at": int(self._clock.time() * 1000),
            "as_of": self._server_clock.now_ms(self._measured_at),
        }
        match change.type:
            case ChangeType.SIGNAL:
                body |= trade_for_sender(trade, ages[trade.key])
                if ages[trade.key] is None:
                    self._ageless.add(trade.key)
                self._book[trade.key] = trade  # also if the answer is lost: the server may know of it
                self._grew.pop(trade.key, None)
                path = "/signal/broadcast"
            case ChangeType.MODIFY:
                names = ("sl", "tp", "price", "stoplimit", "expiration")
                body |= {"ticket": trade.ticket, "kind": trade.kind} | {name: getattr(trade, name) for name in names}
                path = "/signal/modify"
            case ChangeType.CLOSE:
                body |= {"ticket": trade.ticket, "kind": trade.kind, "remaining": change.remaining}
                if deals:
                    body |= {"price": deals[-1].price, "profit": sum((d.profit for d in deals), Decimal(0))}
                path = "/signal/close"
        log.info("POST %s %s", path, _told(change))
        answer = self._api.call("POST", path, body)
        log.info("answered: %s", ", ".join(f"{name} {value}" for name, value in answer.items()))
        if change.gone:
            self._ledger.acknowledge(gone=[trade.key])
            del self._book[trade.key]
        else:
            told = trade if change.type is not ChangeType.CLOSE else replace(self._book[trade.key], volume=trade.volume)
            self._ledger.acknowledge([told])
            self._book[trade.key] = told


def _nothing_left(deals: Iterable[Deal]) -> bool:
    """Whether a position's deals show that it was opened and is closed: a part closed earlier is no proof."""
    left, opened = NOTHING, False
    for deal in sorted(deals, key=lambda deal: (deal.time_msc, deal.ticket)):
        match deal.entry:
            case Entry.IN:
                left, opened = left + deal.volume, True
            case Entry.OUT | Entry.OUT_BY:
                left -= deal.volume
            case Entry.INOUT:  # a netting account: the rest of the deal is the position's other side
                left = deal.volume - left
    return opened and left <= 0


def _told(change: Change) -> str:
    trade = change.trade
    words = f"{change.type} {trade.kind} #{trade.ticket} {trade.action} {trade.volume} {trade.symbol} at {trade.price}"
    if change.type is ChangeType.CLOSE:
        return f"{words}, {change.remaining} lots left"
    return f"{words} SL {trade.sl} TP {trade.tp}"


# --- the program -----------------------------------------------------------------------------------------------------


def run(config: SenderConfig, worker: Worker) -> int:
    """Send until it is asked to end or must not go on. The exit code.

    Raises `WrongLedger`, `LedgerError`, `NoModule`.
    """
    folder, mt5, stop = config.folder, config.mt5, worker.stop
    watchdog = Watchdog(mt5.call_timeout_s, mt5.timeout_ms)
    with (
        closing(OneInstance(folder / "sender.lock")),
        closing(SenderLedger(folder / "sender.db", f"account {mt5.login} at {mt5.server}")) as ledger,
        closing(watchdog),
        closing(Terminal(watchdog.watched(load_module(mt5.module)), mt5)) as terminal,
    ):
        sender = Sender(terminal, Api(config.api, role="master"), ledger, config)
        worker.running()
        watchdog.start()
        if not connect_until(terminal, stop):
            return 0
        log.info("watching account %d at %s every %d ms", mt5.login, mt5.server, config.poll_ms)
        return poll(sender, terminal, config.poll_ms, worker)


def poll(sender: Sender, terminal: Terminal, poll_ms: int, worker: Worker) -> int:
    """Look every `poll_ms` until it is asked to end or must not go on. The exit code."""
    stop = worker.stop
    while not stop.is_set():
        started = time.monotonic()
        try:
            worker.carry_out(sender.command)
            sender.step()
            worker.show(sender.status)
        except ConnectionLost:
            worker.connecting()
            connect_until(terminal, stop)
        except LedgerError as error:
            log.error("%s", error)
            stop.wait(1.0)
        except Superseded as reason:
            log.error("stopped: %s", reason)
            return 1
        stop.wait(max(0.0, poll_ms / 1000 - (time.monotonic() - started)))
    return 0


SENDER: Final = Program(
    name="sender",
    script=__file__,
    about="Sends the trades of your MetaTrader 5 account to the server.",
    config="config_sender.json",
    log="sender.log",
    load=lambda path, content: load_sender(path, data=content),
    run=run,
    unsettled=lambda config: [],  # it never trades
    check=check_sender,
    fill_in=(
        "api.url                        the address of the server",
        "api.username, api.password     your user there, which has the role master",
        "mt5.login, password, server    the account whose trades are sent, as in MetaTrader 5's log-in window",
    ),
    commands={"status": Command("how it goes")},
)


if __name__ == "__main__":
    sys.exit(main(SENDER))
