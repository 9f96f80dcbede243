"""The demo's story on a netting master: one position for each symbol, which grows, shrinks and turns round.

What the client must show after each step is worked out from the master's own deals, entry by entry
(`demo_accounts.legs`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal

from demo_accounts import NOTHING, ORDER, POSITION, Key, Line, plain
from demo_report import Broker, Stops, is_proportional, number_of, shares
from demo_script import Event, Look, MasterTrader, Test, gone, in_words, opened, with_stops
from safety import Reason


class NettingTrader(MasterTrader):
    """Does one thing after the other on a netting master and waits each time until the client shows it."""

    def _legs(self, symbol: str) -> list[Line]:
        """The entries of the symbol's last position, open or closed, the oldest first."""
        lines = [line for line in self._master.ever() if line.kind == POSITION and line.symbol == symbol]
        newest = max(line.ticket for line in lines)
        return sorted((line for line in lines if line.ticket == newest), key=lambda line: line.leg)

    def _copied(self, symbol: str, *, beside: int = 0) -> list[Line]:
        refused = self._stage.meant_refused
        return [line for line in self._legs(symbol) if line.volume and line.key not in refused]

    def _shares(self, symbol: str) -> dict[Key, Decimal]:
        """The lots that the copy of each entry had at first."""
        brokers = {symbol: self._stage.broker(symbol)}
        placed = {line.ticket for line in self._master.ever() if line.kind == ORDER}
        refused = dict.fromkeys(self._stage.meant_refused, "refused")
        return shares(self._legs(symbol), brokers, self._stage.multiplier, placed, refused)

    def _deal(self, symbol: str, lots: Decimal, stops: Stops = (NOTHING, NOTHING)) -> None:
        """Buy so many lots, or sell when they are below 0."""
        self._master.open(symbol, "BUY" if lots > 0 else "SELL", abs(lots), *stops)

    # -- entries

    def enter(self, symbol: str, volume: str, stops: tuple[int, int] | None = None, refusal: str = "") -> None:
        """Open a position where there is none."""
        self._wait_for(self._enter(symbol, volume, stops, refusal))

    def enter_at_once(self, *wanted: tuple[str, str]) -> None:
        """Several positions without waiting in between."""
        self._wait_for(*[self._enter(symbol, volume) for symbol, volume in wanted])

    def _enter(self, symbol: str, volume: str, stops: tuple[int, int] | None = None, refusal: str = "") -> Event:
        action, lots = self.side(), Decimal(volume)
        prices = self._stops(symbol, action == "BUY", *stops) if stops else (NOTHING, NOTHING)
        self._deal(symbol, lots if action == "BUY" else -lots, prices)
        words = f"{action} {plain(lots)} {symbol}" + (f" {in_words(prices)}" if stops else "")
        return self._entered(words, symbol, refusal)

    def _entered(self, words: str, symbol: str, refusal: str = "", *, timed: bool = True) -> Event:
        leg = self._legs(symbol)[-1]
        words = f"{words} #{number_of(leg)}"
        return self._stage.did(words, leg, opened(leg), opens=timed, refusal=refusal, timed=timed)

    def increase(self, symbol: str, volume: str, refusal: str = "") -> None:
        """Enter more on the side of the position. Its SL and TP stay: the order has the same."""
        before, lots = self._master.whole(symbol), Decimal(volume)
        self._deal(symbol, lots if before.signed > 0 else -lots, (before.sl, before.tp))
        words = f"{before.action} {plain(lots)} {symbol} more, now {plain(before.volume + lots)}"
        self._wait_for(self._entered(words, symbol, refusal))

    def turn(self, symbol: str, volume: str, sl: int, tp: int) -> None:
        """Close the position and open one of so many lots on the other side, in one order."""
        before, lots = self._master.whole(symbol), Decimal(volume)
        stops = self._stops(symbol, before.signed < 0, sl, tp)
        self._deal(symbol, -before.signed - lots if before.signed > 0 else -before.signed + lots, stops)
        *ended, leg = self._legs(symbol)
        words = f"turns {before.action} {plain(before.volume)} {symbol} to {leg.action} {plain(lots)} #{number_of(leg)}"
        self._wait_for(self._stage.did(words, leg, turned(ended, leg), opens=True))

    # -- changes

    def set_stops_of(self, symbol: str, sl_points: int, tp_points: int) -> None:
        whole = self._master.whole(symbol)
        stops = self._stops(symbol, whole.signed > 0, sl_points, tp_points)
        self._master.set_stops(whole.ticket, symbol, *stops)
        words = f"moves SL and TP of {symbol} #{whole.ticket} to {plain(stops[0])} and {plain(stops[1])}"
        test = all_with_stops(self._copied(symbol), self._stage.broker(symbol))
        self._wait_for(self._stage.did(words, whole, test))

    def reduce_by(self, symbol: str, volume: str) -> None:
        """Close so many lots."""
        before, lots = self._master.whole(symbol), Decimal(volume)
        self._deal(symbol, -lots if before.signed > 0 else lots)
        words = f"closes {plain(lots)} of {plain(before.volume)} lots of {symbol} #{before.ticket}"
        self._wait_for(self._reduced(words, symbol))

    def _reduced(self, words: str, symbol: str, ended: Line | None = None, *, timed: bool = True) -> Event:
        *_, last = legs = [leg for leg in self._legs(symbol) if leg.key not in self._stage.meant_refused]
        test = all_reduced(legs, self._shares(symbol), self._stage.broker(symbol), ended)
        return self._stage.did(words, last, test, timed=timed)

    def close_symbols(self, *symbols: str) -> None:
        events = []
        for symbol in symbols:
            before = self._master.whole(symbol)
            self._deal(symbol, -before.signed)
            words = f"closes {plain(before.volume)} {symbol} #{before.ticket}"
            events.append(self._reduced(words, symbol))
        self._wait_for(*events)

    def close_refused_symbol(self, symbol: str) -> None:
        """Close what was never copied; the client has nothing to do."""
        self._deal(symbol, -self._master.whole(symbol).signed)

    # -- pending orders

    def place_with(self, symbol: str, volume: str, away: int, sl: int = 0) -> int:
        """Place a limit order on the side of the position, so many points from the price."""
        buys = self._master.whole(symbol).signed > 0
        return self.place(symbol, "BUY_LIMIT" if buys else "SELL_LIMIT", volume, -away if buys else away, sl)

    def place_against(self, symbol: str, volume: str, away: int) -> int:
        """Place a limit order against the position, as a target where some of it is to be closed."""
        sells = self._master.whole(symbol).signed > 0
        return self.place(symbol, "SELL_LIMIT" if sells else "BUY_LIMIT", volume, away if sells else -away)

    def let_fill(self, ticket: int) -> None:
        """Let the market reach a limit order, at both brokers: the position grows, or a part of it is closed."""
        order = self._lines.pop(ticket)
        before = self._legs(order.symbol)
        with self._reached(order):
            words = f"{order.action} {order.symbol} #{ticket} fills"
            if len(self._legs(order.symbol)) > len(before):
                event = self._entered(words + ",", order.symbol, timed=False)
            else:
                event = self._reduced(f"{words} and closes {plain(order.volume)}", order.symbol, order, timed=False)
            self._wait_for(event)


# --- what the client must show ---------------------------------------------------------------------------------------


def turned(ended: Sequence[Line], leg: Line) -> Test:
    def test(look: Look) -> str | None:
        return opened(leg)(look) if all(gone(line)(look) for line in ended) else None

    return test


def all_with_stops(legs: Sequence[Line], broker: Broker) -> Test:
    def test(look: Look) -> str | None:
        shown = [with_stops(leg, (), broker)(look) for leg in legs]
        return None if None in shown else shown[0]

    return test


def all_reduced(legs: Sequence[Line], shares: Mapping[Key, Decimal], broker: Broker, ended: Line | None) -> Test:
    """Every leg's copy has what is left of it, and of the order that has `ended` there is nothing."""

    def test(look: Look) -> str | None:
        if ended is not None and (look.order(ended) or look.position(ended)):
            return None
        left = []
        for leg in legs:
            copy = look.position(leg)
            if not leg.volume:
                if copy is not None:
                    return None
            elif copy is None or not is_proportional(copy.volume, shares[leg.key], leg.volume, leg.opened, broker):
                return None
            else:
                left.append(copy.volume)
        if not left:
            return f"closed{look.in_all(legs[0].symbol)}"
        return f"{plain(sum(left, NOTHING))} lots left{f' in {len(left)} copies' * (len(left) > 1)}"

    return test


# --- the story -------------------------------------------------------------------------------------------------------


def play_netting(trader: NettingTrader) -> None:
    """The client's broker and limits are those of demo.py; every line waits until the copies are there."""
    trader.chapter(
        "The master opens positions. The client takes half the lots, as its own broker's steps and limits allow."
    )
    trader.enter("EURUSD", "0.40", stops=(400, 600))
    trader.enter("WINZ26", "4", stops=(2000, 3000))
    trader.enter("XAUUSD", "1.00")
    trader.chapter("The client's rules come first: its broker's spread of GBPUSD is too wide.")
    trader.enter("GBPUSD", "0.20", refusal=Reason.SPREAD)
    trader.chapter("Positions grow. Each entry is copied by itself; what rounding leaves over goes to the next one.")
    trader.increase("EURUSD", "0.20")
    trader.increase("WINZ26", "3")
    trader.increase("WINZ26", "1")
    trader.chapter("Stops are moved, parts of positions are closed: of the oldest entry first.")
    trader.set_stops_of("EURUSD", 350, 700)
    trader.reduce_by("EURUSD", "0.24")
    trader.reduce_by("EURUSD", "0.26")
    trader.reduce_by("WINZ26", "2")
    trader.chapter("Positions turn round: what was copied is closed, and the other side is opened.")
    trader.turn("WINZ26", "3", sl=2000, tp=3000)
    trader.turn("XAUUSD", "0.40", sl=3000, tp=5000)
    trader.chapter("Pending orders are placed, moved, cancelled; one makes a position grow, one closes a part of one.")
    limit = trader.place_with("EURUSD", "0.20", away=250)
    stop = trader.place("USDJPY", "SELL_STOP", "1.00", away=-250, sl=200)
    trader.move(limit, points=-30, sl=300)
    trader.remove(stop)
    trader.let_fill(trader.place_with("EURUSD", "0.30", away=120))
    trader.set_stops_of("EURUSD", 500, 800)
    trader.let_fill(trader.place_against("XAUUSD", "0.20", away=150))
    trader.chapter("Two at once, and then the client has as many copies as its settings allow.")
    trader.enter_at_once(("US30", "2.0"), ("USDJPY", "2.00"))
    trader.increase("US30", "1.0")
    trader.increase("WINZ26", "2", refusal=Reason.EXPOSURE_TRADES)
    trader.close_refused_symbol("GBPUSD")
    trader.chapter("Positions are closed, and one is opened again. Some stay open.")
    trader.close_symbols("WINZ26")
    trader.close_symbols("US30", "XAUUSD")
    trader.enter("XAUUSD", "0.20")
    trader.reduce_by("XAUUSD", "0.10")
