"""The demo's trader: what is done on the master, and watching until it shows on the client.

The trader works as a person does who has both terminals open: it trades on the master through mt5_sim, looks at the
client's account, and goes on when the copy is there.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any, Final

from api_client import Api
from demo_accounts import NOTHING, ORDER, POSITION, Account, Key, Line, Sight, parts, plain, wall_ms
from demo_report import Broker, Stops, expected_volume, is_proportional, joint_stops, side_of, tags_of
from safety import Reason
from terminal import exact

TAKEN_UP_S: Final = 15.0  # how long anything may take until it counts as missed
REFUSAL_STANDS_S: Final = 5.0
LOOK_EVERY_S: Final = 0.002
ASK_SERVER_EVERY_S: Final = 0.1
PAGE: Final = 100  # reports fetched at once
REFUSALS: Final = ("refused", "skipped", "failed")  # events of reports that say why there is no copy


class NotTakenUp(Exception):
    """Something that was done on the master did not show on the client in time."""


class Reports:
    """What the copier has reported to the server, as it comes in."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._last = 0
        self.all: list[dict[str, Any]] = []
        self._refusals: dict[int, tuple[str, str]] = {}

    def fetch(self) -> None:
        """Ask the server for what is new. Raises `ApiDown`, `ApiRefused`."""
        while page := self._api.call("GET", f"/executions?after={self._last}&limit={PAGE}")["executions"]:
            for report in page:
                self._last = report["number"]
                self.all.append(report)
                if report["event"] in REFUSALS:
                    self._refusals[report["ticket"]] = (report.get("reason", ""), report.get("detail", ""))

    def refusal(self, ticket: int) -> tuple[str, str]:
        """Reason and detail of the last refusal of a master's trade; empty when there was none."""
        return self._refusals.get(ticket, ("", ""))

    def refused(self, ticket: int) -> str:
        reason, detail = self.refusal(ticket)
        return f"{reason}: {detail}" if reason else ""


class Look:
    """The client's account at one moment, by the marks of the copies."""

    def __init__(self, sight: Sight) -> None:
        self.netting = sight.deals is not None
        self._deals = sight.deals or []
        self._lines: dict[tuple[str, str], Line] = {(line.kind, line.comment): line for line in sight.lines}
        self._wholes = {line.symbol: line for line in sight.lines if line.kind == POSITION}

    def position(self, trade: Line) -> Line | None:
        """The open copy of a master's position, or of the pending order that it came from."""
        tags = tags_of(trade)
        if not self.netting:
            found = (self._lines.get((POSITION, tag)) for tag in tags)
            return next((line for line in found if line is not None), None)
        copies = parts((d for d in self._deals if d.comment in tags), dict.fromkeys(tags, trade.key))
        return next((copy for copy in copies if copy.volume), None)

    def order(self, trade: Line) -> Line | None:
        return self._lines.get((ORDER, tags_of(trade)[1]))

    def whole(self, symbol: str) -> Line | None:
        """A netting account's position."""
        return self._wholes.get(symbol) if self.netting else None

    def in_all(self, symbol: str) -> str:
        """What a netting account has of a symbol, in words that go on from those about one copy."""
        if not self.netting:
            return ""
        lots = sum((copy.signed for copy in parts(self._of(symbol), {})), NOTHING)
        return f", in all {side_of(lots)}" if lots else ", flat"

    def _of(self, symbol: str) -> Iterable[Any]:
        return (deal for deal in self._deals if deal.symbol == symbol)


Test = Callable[[Look], str | None]  # what the client shows, in words; None = not yet


@dataclass(slots=True)
class Event:
    """One thing done on the master, and what must come of it on the client."""

    words: str  # what the master did
    trade: Line  # of the master
    arrived: Test
    refusal: str = ""  # the rule that is meant to refuse it; "" = it is to be copied
    timed: bool = True  # false: what happens on the client is not caused by the copier
    done_at: float = 0.0  # monotonic; when the master's terminal had confirmed it
    answer: str | None = None  # what the client showed, or the copier's reason
    was_refused: bool = False
    took_ms: float = 0.0


@dataclass
class Stage:
    """What the trader works with."""

    master: Account
    client: Account
    reports: Reports
    check: Callable[[], None]  # raises when a program has ended by itself
    tell: Callable[[Event], None]  # shows an event that is over
    multiplier: Decimal  # the client's lots for one of the master's
    latencies: list[float] = field(default_factory=list)  # ms from the master's confirmation until the client shows it
    visible: dict[int, list[int]] = field(
        default_factory=dict
    )  # ticket -> UTC ms of its confirmation, and of each growth
    overdue: dict[Key, str] = field(default_factory=dict)  # trade -> what did not come in time
    meant_refused: set[Key] = field(default_factory=set)  # trades
    brokers: dict[str, Broker] = field(default_factory=dict)  # the client's, by symbol

    def broker(self, symbol: str) -> Broker:
        if symbol not in self.brokers:
            info = self.client.symbol(symbol)
            limits = (info.volume_min, info.volume_max, info.volume_step, info.trade_tick_size)
            self.brokers[symbol] = Broker(*(exact(value) for value in limits))
        return self.brokers[symbol]

    def look(self) -> Look:
        """The client now."""
        return Look(self.client.sight())

    def did(self, words: str, trade: Line, arrived: Test, *, opens: bool = False, **more: Any) -> Event:
        """Note that the master's terminal has just confirmed something."""
        event = Event(words, trade, arrived, done_at=time.monotonic(), **more)
        if opens:
            self.visible.setdefault(trade.ticket, []).append(wall_ms())
        if event.refusal:
            self.meant_refused.add(trade.key)
        return event

    def watch(self, events: Sequence[Event], until: float | None = None) -> None:
        """Look at the client until all events have arrived, or to a moment. Raises `NotTakenUp`."""
        waiting = [event for event in events if event.answer is None]
        ask_again = time.monotonic() + ASK_SERVER_EVERY_S
        while waiting:
            look = self.look()
            now = time.monotonic()
            for event in waiting:
                self._settle(event, look, now)
            waiting = [event for event in waiting if event.answer is None]
            if not waiting or (until is not None and now >= until):
                return
            late = [event for event in waiting if now - event.done_at > TAKEN_UP_S]
            for event in late:
                self.overdue[event.trade.key] = f"not seen within {TAKEN_UP_S:.0f} s: {event.words}"
            if late:
                raise NotTakenUp(self.overdue[late[0].trade.key])
            if now >= ask_again:
                self.check()
                self.reports.fetch()
                ask_again = time.monotonic() + ASK_SERVER_EVERY_S
            time.sleep(LOOK_EVERY_S)

    def _settle(self, event: Event, look: Look, now: float) -> None:
        shown = event.arrived(look)
        if shown is not None:
            event.answer = shown
            event.took_ms = (now - event.done_at) * 1000
            if event.timed:
                self.latencies.append(event.took_ms)
        else:
            reason, detail = self.reports.refusal(event.trade.ticket)
            # A refusal for now may end in a copy after all, so an unforeseen one is waited upon.
            if reason and (reason == event.refusal or now - event.done_at > REFUSAL_STANDS_S):
                event.answer = f"refused by {reason}: {detail}"
                event.was_refused = True
        if event.answer is not None:
            self.tell(event)


# --- what the client must show ---------------------------------------------------------------------------------------


def opened(trade: Line) -> Test:
    def test(look: Look) -> str | None:
        copy = look.position(trade)
        if copy is None:
            return None
        number = look.in_all(trade.symbol) or f" #{copy.ticket}"  # on a netting account all have the same
        return f"{copy.action} {plain(copy.volume)} at {plain(copy.price)}{number}"

    return test


def placed(trade: Line) -> Test:
    def test(look: Look) -> str | None:
        copy = look.order(trade)
        return f"{copy.action} {plain(copy.volume)} at {plain(copy.price)} #{copy.ticket}" if copy else None

    return test


def with_stops(trade: Line, others: Sequence[Line], broker: Broker) -> Test:
    """`others` are the master's other copied trades of the symbol: on a netting account they share SL and TP."""

    def test(look: Look) -> str | None:
        if not look.netting:
            copy = look.position(trade)
            return in_words((trade.sl, trade.tp)) if copy and (copy.sl, copy.tp) == (trade.sl, trade.tp) else None
        whole = look.whole(trade.symbol)
        if whole is None:
            return "none: its copies are flat in all"
        alike = [line for line in (trade, *others) if line.action == whole.action]
        wanted = joint_stops(alike, whole.action, broker)
        if (whole.sl, whole.tp) != wanted:
            return None
        return in_words(wanted) if alike == [trade] else f"{in_words(wanted)}, the farthest of {len(alike)}"

    return test


def in_words(stops: Stops) -> str:
    sl, tp = (plain(price) if price else "none" for price in stops)
    return f"SL {sl} TP {tp}"


def moved(trade: Line) -> Test:
    def test(look: Look) -> str | None:
        copy = look.order(trade)
        right = copy and (copy.price, copy.sl) == (trade.price, trade.sl)
        return f"at {plain(trade.price)}, SL {plain(trade.sl)}" if right else None

    return test


def reduced(trade: Line, share: Decimal, broker: Broker) -> Test:
    """`trade` as it is after it was reduced; `share` the lots of its copy at first."""

    def test(look: Look) -> str | None:
        copy = look.position(trade)
        right = copy and is_proportional(copy.volume, share, trade.volume, trade.opened, broker)
        return f"{plain(copy.volume)} lots left{look.in_all(trade.symbol)}" if copy and right else None

    return test


def gone(trade: Line) -> Test:
    def test(look: Look) -> str | None:
        is_there = look.position(trade) or look.order(trade)
        return None if is_there else f"closed{look.in_all(trade.symbol)}"

    return test


def cancelled(trade: Line) -> Test:
    return lambda look: "cancelled" if look.order(trade) is None else None


# --- the script ------------------------------------------------------------------------------------------------------


class MasterTrader:
    """Does one thing after the other on the master and waits each time until the client shows it."""

    def __init__(self, stage: Stage, seed: int, pace: float, chapter: Callable[[str], None]) -> None:
        """`pace`: seconds between two actions, for people to read along; `chapter` shows what comes next."""
        self._stage = stage
        self.chapter = chapter
        self._master = stage.master
        self._chance = random.Random(seed)  # noqa: S311 - sides and pauses of a demonstration
        self._pace = pace
        self._lines: dict[int, Line] = {}

    def _wait_for(self, *events: Event) -> None:
        self._stage.watch(events)
        time.sleep(self._pace * self._chance.uniform(0.5, 1.5))

    def _stops(self, symbol: str, buy: bool, sl: int, tp: int) -> tuple[Decimal, Decimal]:
        """SL and TP so many points away from the price, on the right sides."""
        side = 1 if buy else -1
        return self._master.price(symbol, -side * sl), self._master.price(symbol, side * tp)

    def side(self) -> str:
        return self._chance.choice(("BUY", "SELL"))

    def _copied(self, symbol: str, *, beside: int) -> list[Line]:
        """The other open positions of a symbol that have copies."""
        found = (line for line in self._lines.values() if line.kind == POSITION and line.symbol == symbol)
        return [line for line in found if line.ticket != beside and line.key not in self._stage.meant_refused]

    def _open(self, symbol: str, volume: str, stops: tuple[int, int] | None = None, refusal: str = "") -> Event:
        action, lots = self.side(), Decimal(volume)
        sl, tp = self._stops(symbol, action == "BUY", *stops) if stops else (NOTHING, NOTHING)
        ticket = self._master.open(symbol, action, lots, sl, tp)
        line = self._lines[ticket] = Line(POSITION, ticket, symbol, action, lots, lots, sl=sl, tp=tp)
        words = f"{action} {plain(lots)} {symbol}" + (f" {in_words((sl, tp))}" if stops else "")
        return self._stage.did(f"{words} #{ticket}", line, opened(line), opens=True, refusal=refusal)

    def open(self, symbol: str, volume: str, stops: tuple[int, int] | None = None) -> int:
        event = self._open(symbol, volume, stops)
        self._wait_for(event)
        return event.trade.ticket

    def open_at_once(self, *wanted: tuple[str, str]) -> list[int]:
        """Several positions without waiting in between."""
        events = [self._open(symbol, volume) for symbol, volume in wanted]
        self._wait_for(*events)
        return [event.trade.ticket for event in events]

    def open_refused(self, symbol: str, volume: str, rule: Reason) -> int:
        event = self._open(symbol, volume, refusal=rule)
        self._wait_for(event)
        return event.trade.ticket

    def set_stops(self, ticket: int, sl_points: int, tp_points: int) -> None:
        line = self._lines[ticket]
        sl, tp = self._stops(line.symbol, line.action == "BUY", sl_points, tp_points)
        line = self._lines[ticket] = replace(line, sl=sl, tp=tp)
        test = with_stops(line, self._copied(line.symbol, beside=ticket), self._stage.broker(line.symbol))
        changes = test(self._stage.look()) is None  # on a netting account the others may be farther
        self._master.set_stops(ticket, line.symbol, sl, tp)
        words = f"moves SL and TP of {line.symbol} #{ticket} to {plain(sl)} and {plain(tp)}"
        self._wait_for(self._stage.did(words, line, test, timed=changes))

    def reduce(self, ticket: int, left: str) -> None:
        """Close a part, so that `left` lots remain."""
        line, rest = self._lines[ticket], Decimal(left)
        self._master.close_position(ticket, line.volume - rest)
        broker = self._stage.broker(line.symbol)
        share = expected_volume(line.opened, broker, self._stage.multiplier)
        words = f"closes {plain(line.volume - rest)} of {plain(line.volume)} lots of {line.symbol} #{ticket}"
        line = self._lines[ticket] = replace(line, volume=rest)
        self._wait_for(self._stage.did(words, line, reduced(line, share, broker)))

    def close(self, *tickets: int) -> None:
        events = []
        for ticket in tickets:
            self._master.close_position(ticket)
            line = self._lines.pop(ticket)
            words = f"closes {plain(line.volume)} {line.symbol} #{ticket}"
            events.append(self._stage.did(words, line, gone(line)))
        self._wait_for(*events)

    def close_refused(self, ticket: int) -> None:
        """Close what was never copied; the client has nothing to do."""
        self._master.close_position(ticket)
        del self._lines[ticket]

    def place(self, symbol: str, action: str, volume: str, away: int, sl: int = 0) -> int:
        """Place a pending order so many points from the price; SL as many points behind it, 0 = none."""
        price = self._master.price(symbol, away, ask=action.startswith("BUY"))
        stop = self._behind(symbol, action, price, sl)
        lots = Decimal(volume)
        ticket = self._master.place(symbol, action, lots, price, stop)
        line = self._lines[ticket] = Line(ORDER, ticket, symbol, action, lots, lots, price, stop)
        words = f"places {action} {plain(lots)} {symbol} at {plain(price)} #{ticket}"
        self._wait_for(self._stage.did(words, line, placed(line), opens=True))
        return ticket

    def _behind(self, symbol: str, action: str, price: Decimal, points: int) -> Decimal:
        if not points:
            return NOTHING
        distance = self._master.price(symbol, points) - self._master.price(symbol)
        return price - distance if action.startswith("BUY") else price + distance

    def move(self, ticket: int, points: int, sl: int) -> None:
        """Move a pending order by so many points and give it an SL."""
        line = self._lines[ticket]
        price = line.price + points * exact(self._master.symbol(line.symbol).point)
        stop = self._behind(line.symbol, line.action, price, sl)
        self._master.move(ticket, price, stop)
        line = self._lines[ticket] = replace(line, price=price, sl=stop)
        words = f"moves {line.action} {line.symbol} #{ticket} to {plain(price)}, SL {plain(stop)}"
        self._wait_for(self._stage.did(words, line, moved(line)))

    def remove(self, ticket: int) -> None:
        self._master.remove(ticket)
        line = self._lines.pop(ticket)
        words = f"cancels {line.action} {line.symbol} #{ticket}"
        self._wait_for(self._stage.did(words, line, cancelled(line)))

    def let_fill(self, ticket: int) -> None:
        """Let the market reach a pending order, at both brokers."""
        line = self._lines[ticket]
        filled = self._lines[ticket] = replace(line, kind=POSITION, action=line.action.partition("_")[0])
        with self._reached(line):
            words = f"{line.action} {line.symbol} #{ticket} is reached by the market"
            self._wait_for(self._stage.did(words, filled, opened(filled), timed=False))

    @contextmanager
    def _reached(self, order: Line) -> Iterator[None]:
        """Both markets stand a point beyond the price of a limit order, the same side of each whatever its spread."""
        accounts = (self._master, self._stage.client)
        point = exact(self._master.symbol(order.symbol).point)
        for account in accounts:
            info = account.symbol(order.symbol)
            spread = exact(info.ask) - exact(info.bid)
            bid = order.price - point - spread if order.action.startswith("BUY") else order.price + point
            account.mt5.sim_set_quote(order.symbol, float(bid), float(bid + spread))
        yield
        for account in accounts:
            account.mt5.sim_unfreeze()


def play(trader: MasterTrader) -> None:
    """The story. The client's broker and limits are those of demo.py; every line waits until the copy is there."""
    trader.chapter(
        "The master opens trades. The client takes half the lots, as its own broker's steps and limits allow."
    )
    euro = trader.open("EURUSD", "0.40", stops=(400, 600))
    yen = trader.open("USDJPY", "1.00", stops=(400, 600))
    gold = trader.open("XAUUSD", "1.00", stops=(3000, 5000))
    dow = trader.open("US30", "2.0")
    mini = trader.open("WINZ26", "4", stops=(2000, 3000))
    trader.chapter("The client's rules come first: its broker's spread of GBPUSD is too wide.")
    pound = trader.open_refused("GBPUSD", "0.20", Reason.SPREAD)
    trader.chapter("Stops are moved, parts of positions are closed.")
    trader.set_stops(euro, 350, 700)
    trader.reduce(euro, left="0.16")
    trader.reduce(yen, left="0.40")
    trader.set_stops(dow, 3000, 4000)
    trader.chapter("Pending orders are placed, moved, cancelled, and one is reached by the market.")
    limit = trader.place("EURUSD", "BUY_LIMIT", "0.20", away=-250)
    stop = trader.place("USDJPY", "SELL_STOP", "1.00", away=-250, sl=200)
    trader.move(limit, points=-30, sl=300)
    trader.remove(stop)
    reached = trader.place("EURUSD", "SELL_LIMIT", "0.30", away=120)
    trader.let_fill(reached)
    trader.set_stops(reached, 500, 800)
    trader.chapter("Two at once, and then the client has as many copies as its settings allow.")
    trader.close(gold)
    trader.open_at_once(("EURUSD", "0.60"), ("USDJPY", "2.00"))
    many = trader.open_refused("XAUUSD", "0.20", Reason.EXPOSURE_TRADES)
    trader.close_refused(many)
    trader.close_refused(pound)
    trader.chapter("Trades are closed, in parts, two at once, and one more comes and goes. Some stay open.")
    trader.reduce(mini, left="2")
    trader.close(mini, dow)
    again = trader.open("XAUUSD", "0.20")
    trader.reduce(again, left="0.10")
    trader.close(again)
