"""The market of the simulated broker: quotes, and what moves them.

Prices are `Decimal` and always multiples of the symbol's tick size. Three things move them: by default a common
market, where the price is a function of the time alone, so that terminals started at different times (a master's
and a client's broker) quote the same prices; with a seed a random walk that gives the same sequence of prices
each time; or a file of ticks that is replayed.
"""

from __future__ import annotations

import csv
import functools
import math
import random
import zlib
from collections import deque
from dataclasses import dataclass, field
from decimal import Decimal
from decimal import Decimal as D
from pathlib import Path
from typing import Any

import sim_types as t
from sim_symbols import SPEC_FIELDS, SetupError, SymbolSpec

TICKS_KEPT = 20_000  # per symbol, for copy_ticks_* and copy_rates_*
STEP_MSC = 100  # the common market looks at its clock this coarsely

# Worth of one unit in USD, where no symbol of the broker says it.
FIXED_RATES = {"USD": D(1), "EUR": D("1.085"), "GBP": D("1.27"), "BRL": D("0.18"), "JPY": D("0.0067")}


@dataclass
class Quote:
    """The last prices of one symbol, and their extremes since the terminal started."""

    bid: Decimal
    ask: Decimal
    time_msc: int
    bid_high: Decimal = field(init=False)
    bid_low: Decimal = field(init=False)
    ask_high: Decimal = field(init=False)
    ask_low: Decimal = field(init=False)

    def __post_init__(self) -> None:
        self.bid_high = self.bid_low = self.bid
        self.ask_high = self.ask_low = self.ask

    def set(self, bid: Decimal, ask: Decimal, time_msc: int) -> None:
        self.bid, self.ask, self.time_msc = bid, ask, time_msc
        self.bid_high, self.bid_low = max(self.bid_high, bid), min(self.bid_low, bid)
        self.ask_high, self.ask_low = max(self.ask_high, ask), min(self.ask_low, ask)


_INT_FIELDS = """chart_mode session_deals session_buy_orders session_sell_orders volume volumehigh volumelow time
    digits spread ticks_bookdepth trade_calc_mode trade_mode start_time expiration_time trade_stops_level
    trade_freeze_level trade_exemode swap_mode swap_rollover3days expiration_mode filling_mode order_mode
    order_gtc_mode option_mode option_right"""
_BOOL_FIELDS = "custom select visible spread_float margin_hedged_use_leg"
_TEXT_FIELDS = """basis category currency_base currency_profit currency_margin bank description exchange formula
    isin name page path"""
_BLANK: dict[str, Any] = (
    dict.fromkeys(t.SymbolInfo.__match_args__, 0.0)
    | dict.fromkeys(_INT_FIELDS.split(), 0)
    | dict.fromkeys(_BOOL_FIELDS.split(), False)
    | dict.fromkeys(_TEXT_FIELDS.split(), "")
)


@functools.lru_cache(maxsize=1024)
def _fixed_fields(spec: SymbolSpec) -> dict[str, Any]:
    """All fields of SymbolInfo in order, with what a specification alone says of them."""
    row = dict(_BLANK)
    for key in SPEC_FIELDS.keys() & row.keys() - {"select"}:
        value = getattr(spec, key)
        row[key] = float(value) if isinstance(value, Decimal) else value
    return row | {
        "name": spec.name,
        "point": float(spec.point),
        "ticks_bookdepth": 10,
        "swap_rollover3days": t.DAY_OF_WEEK_WEDNESDAY,
    }


def symbol_row(spec: SymbolSpec, quote: Quote, selected: bool, tick_gain: Decimal, tick_loss: Decimal) -> list[Any]:
    """The fields of SymbolInfo. A symbol outside Market Watch has its specification but no prices."""
    row = _fixed_fields(spec) | {
        "select": selected,
        "visible": selected,
        "trade_tick_value": float(tick_gain),
        "trade_tick_value_profit": float(tick_gain),
        "trade_tick_value_loss": float(tick_loss),
    }
    if selected:
        row |= {
            "time": quote.time_msc // 1000,
            "bid": float(quote.bid),
            "bidhigh": float(quote.bid_high),
            "bidlow": float(quote.bid_low),
            "ask": float(quote.ask),
            "askhigh": float(quote.ask_high),
            "asklow": float(quote.ask_low),
            "spread": int((quote.ask - quote.bid) / spec.point),
        }
    if selected and spec.has_last:
        row |= {"last": row["bid"], "lasthigh": row["bidhigh"], "lastlow": row["bidlow"]}
    return list(row.values())


@dataclass(frozen=True)
class FileTick:
    """One line of a ticks file: milliseconds since the file's first tick, and the prices."""

    after_ms: int
    symbol: str
    bid: Decimal
    ask: Decimal


def load_ticks(path: Path, specs: dict[str, SymbolSpec]) -> list[FileTick]:
    """Read a CSV with the columns time_msc, bid, ask and optionally symbol (default EURUSD), in time order."""
    ticks: list[FileTick] = []
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = csv.DictReader(file)
            missing = {"time_msc", "bid", "ask"} - set(rows.fieldnames or ())
            if missing:
                raise SetupError(f"{path}: the first line must name the columns; missing: {', '.join(missing)}")
            first = None
            for row in rows:
                name = row.get("symbol") or "EURUSD"
                if name not in specs:
                    raise SetupError(f"{path}, line {rows.line_num}: unknown symbol {name!r}")
                time_msc, bid, ask = int(row["time_msc"]), D(row["bid"]), D(row["ask"])
                first = time_msc if first is None else first
                if not 0 < bid <= ask or (ticks and time_msc - first < ticks[-1].after_ms):
                    raise SetupError(f"{path}, line {rows.line_num}: prices or time out of order")
                ticks.append(FileTick(time_msc - first, name, specs[name].to_grid(bid), specs[name].to_grid(ask)))
    except (OSError, ArithmeticError, TypeError, ValueError) as error:
        if isinstance(error, SetupError):
            raise
        raise SetupError(f"{path}: {error!r}") from error
    if not ticks:
        raise SetupError(f"{path}: no ticks in it")
    return ticks


class Market:
    """The quotes of all symbols and what moves them.

    With a `seed` every symbol walks by its own generator, so that the same seed gives the same sequence of
    prices whatever the other symbols do; it leans back towards the symbol's price and stays within a few per
    cent of it. Without one (None) prices follow the common market. `replay` makes symbols follow a file instead.
    """

    def __init__(
        self,
        specs: dict[str, SymbolSpec],
        *,
        seed: int | str | None = None,
        now_msc: int = 0,
        utc_offset_msc: int = 0,
    ) -> None:
        self.specs = specs
        self.frozen = False
        self._closed: set[str] = set()  # no session at the last step
        self._taken: dict[tuple[str, bool], Decimal] = {}  # lots that have found a counterparty at this price
        self._seed = seed
        self.utc_offset_msc = utc_offset_msc
        self._random = {name: random.Random(f"{seed}:{name}") for name in specs}
        self._ticks: list[FileTick] = []
        self._replayed: set[str] = set()
        self.moves = 0  # times that a quote was set
        self.quotes: dict[str, Quote] = {}
        self.history: dict[str, deque[tuple[int, Decimal, Decimal]]] = {}
        for name, spec in specs.items():
            bid = spec.price if seed is not None else self._common_bid(spec, now_msc)
            self.quotes[name] = Quote(bid, self._ask_for(spec, bid), now_msc)
            self.history[name] = deque(maxlen=TICKS_KEPT)

    def replay(self, ticks: list[FileTick], speed: float, now_msc: int) -> None:
        """Let the symbols of a ticks file follow it from now on, `speed` times as fast as it was written."""
        self._ticks, self._tick_speed = ticks, speed
        self._next_tick, self._replay_began = 0, now_msc
        self._replayed = {tick.symbol for tick in ticks}
        self._replay(now_msc)

    @staticmethod
    def _ask_for(spec: SymbolSpec, bid: Decimal) -> Decimal:
        return bid + spec.to_grid(spec.spread * spec.point)

    def set_quote(self, name: str, bid: Decimal, ask: Decimal, now_msc: int) -> None:
        self.moves += 1
        self.quotes[name].set(bid, ask, now_msc)
        if self._taken:
            self._taken.pop((name, True), None)
            self._taken.pop((name, False), None)
        self.history[name].append((now_msc, bid, ask))

    def resume(self, name: str, bid: Decimal, ask: Decimal) -> None:
        """Go on from the prices of an earlier run, so that a restart is no jump."""
        spec, quote = self.specs[name], self.quotes[name]
        if self._seed is not None and spec.on_grid(bid) and spec.on_grid(ask) and 0 < bid <= ask:
            self.set_quote(name, bid, ask, quote.time_msc)
            self._random[name].seed(f"{self._seed}:{name}:{bid}")

    def respread(self, name: str, now_msc: int) -> None:
        """Show a changed spread at once."""
        bid = self.specs[name].to_grid(self.quotes[name].bid)
        self.set_quote(name, bid, self._ask_for(self.specs[name], bid), now_msc)

    def available(self, name: str, buy: bool, volume: Decimal) -> Decimal:
        """How much of this volume a buyer (or seller) gets at the present price, in whole steps."""
        spec = self.specs[name]
        if not spec.depth:
            return volume
        left = spec.depth - self._taken.get((name, buy), D(0))
        return volume if left >= volume else max(D(0), spec.whole_steps(left))

    def take(self, name: str, buy: bool, volume: Decimal) -> None:
        """So much has been bought (or sold) at the present price."""
        if self.specs[name].depth:
            self._taken[name, buy] = self._taken.get((name, buy), D(0)) + volume

    def step(self, now_msc: int) -> list[str]:
        """Move the market once; the symbols that have a new tick, or whose session has just begun."""
        opened = self._open_sessions(now_msc)
        if self.frozen:  # the quotes go on coming, their prices stay
            for name, quote in self.quotes.items():
                if name not in self._closed:
                    quote.time_msc = now_msc
            return opened
        changed = opened + self._replay(now_msc)
        for name, spec in self.specs.items():
            if name in self._replayed or name in self._closed:
                continue
            if self._seed is None:
                bid = self._common_bid(spec, now_msc)
            else:
                bid = self.quotes[name].bid + self._move(name, spec)
            if bid != self.quotes[name].bid:
                self.set_quote(name, bid, self._ask_for(spec, bid), now_msc)
                changed.append(name)
        return changed

    def _open_sessions(self, now_msc: int) -> list[str]:
        """Look which symbols have no session now, and so no ticks; the names of those that have just begun one."""
        before = self._closed
        self._closed = {name for name, spec in self.specs.items() if spec.sessions and not spec.is_open(now_msc)}
        return [name for name in before if name not in self._closed]

    def _move(self, name: str, spec: SymbolSpec) -> Decimal:
        chance = self._random[name]
        dice, size = chance.random(), chance.randint(0, spec.volatility)
        away = float((self.quotes[name].bid - spec.price) / spec.price) / 0.02
        up = dice < 0.5 - 0.45 * max(-1.0, min(1.0, away))
        return spec.trade_tick_size * (size if up else -size)

    def _common_bid(self, spec: SymbolSpec, now_msc: int) -> Decimal:
        """The price at this moment, wherever it is asked: noise of ten periods from 0.4 s to 29 h.

        Each period's swing grows with the square root of its length, as a random walk's does.
        """
        utc_msc = (now_msc - self.utc_offset_msc) // STEP_MSC * STEP_MSC
        ticks = 0.0
        for octave in range(10):
            period = 400 * 4**octave
            at, part = divmod(utc_msc, period)
            here, after = (_noise(f"{spec.name}:{octave}:{place}") for place in (at, at + 1))
            ticks += math.sqrt(period / 200) * (here + (after - here) * part / period)
        return spec.to_grid(spec.price + spec.trade_tick_size * round(ticks * spec.volatility * 0.6))

    def _replay(self, now_msc: int) -> list[str]:
        """The ticks of the file that are due, several at once when it is replayed fast; begins again at its end."""
        changed: list[str] = []
        if not self._ticks:
            return changed
        due = (now_msc - self._replay_began) * self._tick_speed
        while self._next_tick < len(self._ticks) and self._ticks[self._next_tick].after_ms <= due:
            tick = self._ticks[self._next_tick]
            self._next_tick += 1
            self.set_quote(tick.symbol, tick.bid, tick.ask, now_msc)
            changed.append(tick.symbol)
        if self._next_tick == len(self._ticks):
            self._next_tick, self._replay_began = 0, now_msc
        return changed

    def rate(self, source: str, target: str, *, gain: bool) -> Decimal:
        """Units of `target` for one unit of `source`; of bid and ask the one that is worse for the account."""
        if source == target:
            return D(1)
        found = self._direct_rate(source, target, gain)
        if found is not None:
            return found
        return self._in_usd(source, gain) / self._in_usd(target, not gain)

    def _in_usd(self, currency: str, gain: bool) -> Decimal:
        if currency == "USD":
            return D(1)
        found = self._direct_rate(currency, "USD", gain)
        return found if found is not None else FIXED_RATES.get(currency, D(1))

    def _direct_rate(self, source: str, target: str, gain: bool) -> Decimal | None:
        for name, spec in self.specs.items():
            if spec.trade_calc_mode != t.SYMBOL_CALC_MODE_FOREX:
                continue
            quote = self.quotes[name]
            if (spec.currency_base, spec.currency_profit) == (source, target):
                return quote.bid if gain else quote.ask
            if (spec.currency_base, spec.currency_profit) == (target, source):
                return 1 / (quote.ask if gain else quote.bid)
        return None


def _noise(key: str) -> float:
    """A number from -1 to 1 that depends on nothing but the key."""
    return zlib.crc32(key.encode()) / 2**31 - 1
