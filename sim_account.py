"""The simulated account: what is in it, what it is worth, and the file that keeps it.

`Account` holds positions, orders, history and balance, and computes profit and margin from the market's quotes.
The records of trading are here too: what is asked of the broker, what it answers, and what comes of it. Nothing is
decided here: who may trade what at which price is the business of `sim_broker`. Money, lots and prices are
`Decimal` inside; the rows it hands out are the ints and floats MetaTrader 5 gives.

All times are broker time in milliseconds: the server's wall clock written as if it were UTC.
"""

from __future__ import annotations

import json
import os
import time
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal
from decimal import Decimal as D
from pathlib import Path
from typing import Any, Generic, TypeVar, get_type_hints

import sim_types as t
from sim_market import Market
from sim_symbols import BUY_TYPES, SetupError, SymbolSpec

STATE_VERSION = 1
MARGIN_MODES = {
    "netting": t.ACCOUNT_MARGIN_MODE_RETAIL_NETTING,
    "exchange": t.ACCOUNT_MARGIN_MODE_EXCHANGE,
    "hedging": t.ACCOUNT_MARGIN_MODE_RETAIL_HEDGING,
}


@dataclass(frozen=True)
class AccountSettings:
    """What an account is, apart from what happens in it."""

    login: int
    balance: Decimal = D(10000)  # the first deposit
    currency: str = "USD"
    leverage: int = 100
    margin_mode: str = "hedging"
    name: str = "Simulated Account"
    server: str = "Sim"
    company: str = "Simulated Broker"
    utc_offset: float = 3.0  # hours the server's clock is ahead of UTC
    margin_call: Decimal = D(100)  # margin level in per cent: a warning only
    stop_out: Decimal = D(50)  # margin level in per cent at which the broker closes
    limit_orders: int = 500  # pending orders at most; 0: no limit
    comment_length: int = 16  # characters the server keeps of a comment

    def __post_init__(self) -> None:
        if self.margin_mode not in MARGIN_MODES:
            raise SetupError(f"margin mode must be one of {', '.join(MARGIN_MODES)}, not {self.margin_mode!r}")
        if self.login <= 0 or self.leverage <= 0 or self.balance < 0:
            raise SetupError("login and leverage must be positive, the balance must not be negative")
        if not -14 <= self.utc_offset <= 14:
            raise SetupError("the UTC offset must be within -14 and 14 hours")

    @property
    def netting(self) -> bool:
        """One position per symbol: the margin modes netting and exchange."""
        return self.margin_mode != "hedging"

    @property
    def digits(self) -> int:
        return 0 if self.currency == "JPY" else 2


@dataclass
class Position:
    """An open position. `ticket` and `identifier` are the ticket of the order that opened it.

    A reversal on a netting account gives it the ticket of the reversing order; the identifier stays for life.
    """

    ticket: int
    identifier: int
    symbol: str
    type: int
    volume: Decimal
    price_open: Decimal
    sl: Decimal
    tp: Decimal
    magic: int
    reason: int
    comment: str
    time_msc: int
    time_update_msc: int

    @property
    def is_buy(self) -> bool:
        return self.type == t.POSITION_TYPE_BUY


@dataclass
class Order:
    """A pending order, a market order that still waits, or (in the history) one that has ended."""

    ticket: int
    symbol: str
    type: int
    volume_initial: Decimal
    volume_current: Decimal
    price_open: Decimal
    time_setup_msc: int
    state: int = t.ORDER_STATE_PLACED
    sl: Decimal = D(0)
    tp: Decimal = D(0)
    price_stoplimit: Decimal = D(0)
    type_time: int = 0
    type_filling: int = 0
    time_expiration: int = 0  # seconds
    magic: int = 0
    reason: int = t.ORDER_REASON_EXPERT
    comment: str = ""
    position_id: int = 0  # 0 until it has to do with a position
    position_by_id: int = 0
    price_current: Decimal = D(0)
    time_done_msc: int = 0
    due_msc: int = 0  # a late market order is executed then; 0: it is none
    hidden: bool = False  # not shown while it waits
    visible_msc: int = 0  # in the history from then on

    @property
    def is_buy(self) -> bool:
        return self.type in BUY_TYPES


@dataclass(frozen=True)
class Deal:
    """One execution, or a balance operation (`symbol` empty, `order` 0)."""

    ticket: int
    order: int
    time_msc: int
    type: int
    entry: int = t.DEAL_ENTRY_IN
    magic: int = 0
    position_id: int = 0
    reason: int = t.DEAL_REASON_CLIENT
    volume: Decimal = D(0)
    price: Decimal = D(0)
    commission: Decimal = D(0)
    profit: Decimal = D(0)
    symbol: str = ""
    comment: str = ""
    visible_msc: int = 0  # in the history from then on


@dataclass(frozen=True)
class Request:
    """MqlTradeRequest as it arrives at the server."""

    action: int = 0
    magic: int = 0
    order: int = 0
    symbol: str = ""
    volume: Decimal = D(0)
    price: Decimal = D(0)
    stoplimit: Decimal = D(0)
    sl: Decimal = D(0)
    tp: Decimal = D(0)
    deviation: int = 0
    type: int = 0
    type_filling: int = 0
    type_time: int = 0
    expiration: int = 0
    comment: str = ""
    position: int = 0
    position_by: int = 0


@dataclass(frozen=True)
class Outcome:
    """What the server answers to a request."""

    retcode: int
    deal: int = 0
    order: int = 0
    volume: Decimal = D(0)
    price: Decimal = D(0)
    bid: Decimal = D(0)
    ask: Decimal = D(0)


@dataclass(frozen=True)
class Handling:
    """How the broker carries out a market order when something is to be unusual about it."""

    fraction: Decimal = D(1)  # the part of the volume that finds a counterparty
    late_ms: int = 0  # the execution comes that much later; the answer is 10008 at once
    hidden: bool = False  # and the waiting order is not shown meanwhile


Item = TypeVar("Item", Order, Deal)


class Archive(Generic[Item]):
    """History in the order it happened, found by order and by position.

    The text each item has in the state file is made once: nothing in the history ever changes.
    """

    def __init__(self) -> None:
        self.items: list[Item] = []
        self.texts: list[str] = []
        self.by_order: defaultdict[int, list[Item]] = defaultdict(list)
        self.by_position: defaultdict[int, list[Item]] = defaultdict(list)

    def append(self, item: Item) -> None:
        self.items.append(item)
        self.texts.append(_text(vars(item)))
        self.by_order[item.ticket if isinstance(item, Order) else item.order].append(item)
        self.by_position[item.position_id].append(item)


class Account:
    """Positions, orders, history and balance of one login, valued at the market's quotes."""

    def __init__(self, settings: AccountSettings, market: Market) -> None:
        self.settings = settings
        self.market = market
        self.balance = D(0)
        self.positions: dict[int, Position] = {}  # by ticket
        self.orders: dict[int, Order] = {}  # by ticket
        self.old_orders: Archive[Order] = Archive()
        self.deals: Archive[Deal] = Archive()
        self.selected = {name for name, spec in market.specs.items() if spec.select}
        # Orders and positions share one line of numbers, deals have another; both differ between logins.
        self.next_order = 3_408_192_541 + settings.login % 10_000 * 1_000_003
        self.next_deal = 3_365_080_444 + settings.login % 10_000 * 1_000_003

    def new_order_ticket(self) -> int:
        self.next_order += 1
        return self.next_order - 1

    def new_deal_ticket(self) -> int:
        self.next_deal += 1
        return self.next_deal - 1

    def traded(self) -> set[str]:
        """The symbols that have a position or an order."""
        return {p.symbol for p in self.positions.values()} | {o.symbol for o in self.orders.values()}

    # ---- arithmetic

    def spec(self, name: str) -> SymbolSpec:
        return self.market.specs[name]

    def money(self, amount: Decimal) -> Decimal:
        return amount.quantize(D(1).scaleb(-self.settings.digits), ROUND_HALF_UP)

    def price(self, name: str, buy: bool) -> Decimal:
        """The price a buyer (or seller) gets now."""
        quote = self.market.quotes[name]
        return quote.ask if buy else quote.bid

    def profit(self, name: str, buy: bool, volume: Decimal, opened: Decimal, closed: Decimal) -> Decimal:
        """Profit in the account's currency, rounded to its smallest coin."""
        spec = self.spec(name)
        move = closed - opened if buy else opened - closed
        rate = self.market.rate(spec.currency_profit, self.settings.currency, gain=move > 0)
        return self.money(move * spec.unit_value * volume * rate)

    def floating(self, position: Position) -> Decimal:
        """What closing the position now would bring."""
        now = self.price(position.symbol, not position.is_buy)
        return self.profit(position.symbol, position.is_buy, position.volume, position.price_open, now)

    def total_floating(self) -> Decimal:
        return sum((self.floating(position) for position in self.positions.values()), D(0))

    def equity(self) -> Decimal:
        return self.balance + self.total_floating()

    def lot_margin(self, spec: SymbolSpec, price: Decimal) -> Decimal:
        """Margin for one lot at this price, in the account's currency (docs: symbol_calc_mode), not rounded."""
        currency = self.settings.currency
        if spec.is_future:
            return spec.margin_initial * self.market.rate(spec.currency_margin, currency, gain=False)
        leverage = self.settings.leverage
        if spec.trade_calc_mode == t.SYMBOL_CALC_MODE_FOREX:
            if spec.currency_profit == currency:
                return spec.trade_contract_size / leverage * price
            rate = self.market.rate(spec.currency_margin, currency, gain=False)
            return spec.trade_contract_size / leverage * rate
        if spec.trade_calc_mode != t.SYMBOL_CALC_MODE_CFDLEVERAGE:
            leverage = 1
        rate = self.market.rate(spec.currency_profit, currency, gain=False)
        return spec.trade_contract_size / leverage * price * rate

    def margin(self, extra: Position | None = None, instead_of: Position | None = None) -> Decimal:
        """Margin of all positions, with `extra` and without `instead_of`.

        Opposite positions are charged as `margin_hedged` says.
        """
        sides: defaultdict[str, list[tuple[Decimal, Decimal]]] = defaultdict(lambda: [(D(0), D(0))] * 2)
        everything: Iterable[Position] = self.positions.values()
        if extra:
            everything = [*(position for position in everything if position is not instead_of), extra]
        for position in everything:
            lots, worth = sides[position.symbol][position.type]
            sides[position.symbol][position.type] = (
                lots + position.volume,
                worth + position.volume * position.price_open,
            )
        total = D(0)
        for name, ((buy_lots, buy_worth), (sell_lots, sell_worth)) in sides.items():
            spec = self.spec(name)
            hedged = min(buy_lots, sell_lots)
            if buy_lots >= sell_lots:
                lots, worth = buy_lots, buy_worth
            else:
                lots, worth = sell_lots, sell_worth
            need = (lots - hedged) * self.lot_margin(spec, worth / lots)
            if hedged:
                average = (buy_worth + sell_worth) / (buy_lots + sell_lots)
                part = (spec.margin_hedged or D(0)) / spec.trade_contract_size
                need += hedged * part * self.lot_margin(spec, average)
            total += self.money(need)
        return total

    def tick_values(self, spec: SymbolSpec) -> tuple[Decimal, Decimal]:
        """Worth of one tick of one lot in the account's currency, when it is a gain and when it is a loss."""
        worth = spec.trade_tick_size * spec.unit_value
        source, target = spec.currency_profit, self.settings.currency
        gain, loss = (worth * self.market.rate(source, target, gain=is_gain) for is_gain in (True, False))
        return gain.quantize(D("1e-8")), loss.quantize(D("1e-8"))

    # ---- rows, in the field order of the result types

    def account_row(self, trade_allowed: bool) -> list[Any]:
        s = self.settings
        floating, margin = self.total_floating(), self.margin()
        equity = self.balance + floating
        level = float(equity / margin * 100) if margin else 0.0
        return [
            s.login, t.ACCOUNT_TRADE_MODE_DEMO, s.leverage, s.limit_orders, t.ACCOUNT_STOPOUT_MODE_PERCENT,
            trade_allowed, True, MARGIN_MODES[s.margin_mode], s.digits, False,
            float(self.balance), 0.0, float(floating), float(equity), float(margin), float(equity - margin),
            level, float(s.margin_call), float(s.stop_out), 0.0, 0.0, 0.0, 0.0, 0.0,
            s.name, s.server, s.currency, s.company,
        ]  # fmt: skip

    def position_row(self, p: Position) -> list[Any]:
        now = self.price(p.symbol, not p.is_buy)
        profit = self.profit(p.symbol, p.is_buy, p.volume, p.price_open, now)
        return [
            p.ticket, p.time_msc // 1000, p.time_msc, p.time_update_msc // 1000, p.time_update_msc, p.type,
            p.magic, p.identifier, p.reason, float(p.volume), float(p.price_open), float(p.sl), float(p.tp),
            float(now), 0.0, float(profit), p.symbol, p.comment, "",
        ]  # fmt: skip

    def order_row(self, o: Order) -> list[Any]:
        now = o.price_current if o.time_done_msc else self.price(o.symbol, o.is_buy)
        return [
            o.ticket, o.time_setup_msc // 1000, o.time_setup_msc, o.time_done_msc // 1000, o.time_done_msc,
            o.time_expiration, o.type, o.type_time, o.type_filling, o.state, o.magic, o.position_id,
            o.position_by_id, o.reason, float(o.volume_initial), float(o.volume_current), float(o.price_open),
            float(o.sl), float(o.tp), float(now), float(o.price_stoplimit), o.symbol, o.comment, "",
        ]  # fmt: skip

    @staticmethod
    def deal_row(d: Deal) -> list[Any]:
        return [
            d.ticket, d.order, d.time_msc // 1000, d.time_msc, d.type, d.entry, d.magic, d.position_id,
            d.reason, float(d.volume), float(d.price), float(d.commission), 0.0, float(d.profit), 0.0,
            d.symbol, d.comment, "",
        ]  # fmt: skip

    # ---- the state file

    def save(self, path: Path) -> None:
        """Write everything to a new file and put it in place of the old one in one step."""
        s = self.settings
        head = {
            "version": STATE_VERSION,
            "login": s.login,
            "currency": s.currency,
            "margin_mode": s.margin_mode,
            "balance": self.balance,
            "next_order": self.next_order,
            "next_deal": self.next_deal,
            "selected": sorted(self.selected),
            "quotes": {name: [quote.bid, quote.ask] for name, quote in self.market.quotes.items()},
            "positions": [vars(position) for position in self.positions.values()],
            "orders": [vars(order) for order in self.orders.values()],
        }
        text = (
            _text(head)[:-1]
            + ',\n"old_orders": [\n'
            + ",\n".join(self.old_orders.texts)
            + '\n],\n"deals": [\n'
            + ",\n".join(self.deals.texts)
            + "\n]}\n"
        )
        beside = path.with_name(path.name + ".new")
        beside.write_text(text, encoding="utf-8")
        for attempt in range(50):
            try:
                os.replace(beside, path)
                return
            except PermissionError:  # Windows, while a scanner or an editor holds the old file open
                if attempt == 49:
                    raise
                time.sleep(0.02)

    def load(self, path: Path) -> None:
        """Take over the state of an earlier run; SetupError when the file is not this account's."""
        try:
            state = json.loads(path.read_text(encoding="utf-8"))
            s = self.settings
            for key, mine in (
                ("version", STATE_VERSION),
                ("login", s.login),
                ("currency", s.currency),
                ("margin_mode", s.margin_mode),
            ):
                if state[key] != mine:
                    raise SetupError(f"it is of {key} {state[key]!r}, not {mine!r}")
            self.balance = D(state["balance"])
            self.next_order, self.next_deal = state["next_order"], state["next_deal"]
            self.positions = {p.ticket: p for p in (_made(Position, values) for values in state["positions"])}
            self.orders = {o.ticket: o for o in (_made(Order, values) for values in state["orders"])}
            for values in state["old_orders"]:
                self.old_orders.append(_made(Order, values))
            for values in state["deals"]:
                self.deals.append(_made(Deal, values))
            held = self.traded()
            if held - self.market.specs.keys():
                raise SetupError(f"it holds symbols that are gone: {sorted(held - self.market.specs.keys())}")
            self.selected = (set(state["selected"]) & self.market.specs.keys()) | held
            for name, (bid, ask) in state["quotes"].items():
                if name in self.market.specs:
                    self.market.resume(name, D(bid), D(ask))
        except (OSError, ValueError, KeyError, TypeError, ArithmeticError) as error:
            raise SetupError(f"state file {path}: {error}") from error


_Record = TypeVar("_Record", Position, Order, Deal)
_HINTS = {kind: get_type_hints(kind) for kind in (Position, Order, Deal)}


def _made(kind: type[_Record], values: dict[str, Any]) -> _Record:
    hints = _HINTS[kind]
    known: dict[str, Any] = {key: D(value) if hints[key] is Decimal else value for key, value in values.items()}
    return kind(**known)


def _text(values: dict[str, Any]) -> str:
    return json.dumps(values, default=str)
