"""The simulated account: what is in it, what it is worth, and the file that keeps it.

`Account` holds positions, orders, history and balance, and computes profit and margin from the market's quotes.
Nothing is decided here: who may trade what at which price is the business of `sim_rules`, what comes of a trade that
of `sim_execution`. Money, lots and prices are `Decimal` inside; the rows it hands out are the ints and floats
MetaTrader 5 gives.
"""

from __future__ import annotations

import json
import os
import time
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from decimal import ROUND_HALF_UP, Decimal
from decimal import Decimal as D
from pathlib import Path
from typing import Any

import sim_types as t
from sim_market import Market
from sim_records import Archive, Deal, Order, Position, made, text_of
from sim_symbols import SetupError, SymbolSpec, value_for

STATE_VERSION = 1
MARGIN_MODES = {
    "netting": t.ACCOUNT_MARGIN_MODE_RETAIL_NETTING,
    "exchange": t.ACCOUNT_MARGIN_MODE_EXCHANGE,
    "hedging": t.ACCOUNT_MARGIN_MODE_RETAIL_HEDGING,
}


HEDGING_ONLY = ("fifo_close", "hedge_prohibited")


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
    stop_out: Decimal = D(50)  # margin level in per cent at which the broker closes; 0 = never
    limit_orders: int = 500  # pending orders at most; 0: no limit
    limit_positions: int = 0  # open positions at most (hedging: with pending orders); 0: no limit
    comment_length: int = 16  # characters the server keeps of a comment
    comment_replaced: str = ""  # what the server writes in place of every comment; empty: it keeps them
    stops_on_open: bool = True  # false: SL and TP in a Market or Exchange execution open are refused
    fifo_close: bool = False  # of a symbol's positions only the oldest may be closed
    hedge_prohibited: bool = False  # no opposite positions of a symbol
    trade_expert: bool = True  # false: the server lets no program trade
    rollover: bool = False  # charge swap at the server's midnight

    def __post_init__(self) -> None:
        if self.margin_mode not in MARGIN_MODES:
            raise SetupError(f"margin mode must be one of {', '.join(MARGIN_MODES)}, not {self.margin_mode!r}")
        if self.login <= 0 or self.leverage <= 0 or self.balance < 0:
            raise SetupError("login and leverage must be positive, the balance must not be negative")
        if not -14 <= self.utc_offset <= 14:
            raise SetupError("the UTC offset must be within -14 and 14 hours")
        if min(self.limit_orders, self.limit_positions, self.comment_length) < 0:
            raise SetupError("limit_orders, limit_positions and comment_length must not be negative")
        wrong = [name for name in HEDGING_ONLY if getattr(self, name) and self.netting]
        if wrong:
            raise SetupError(f"{' and '.join(wrong)}: for hedging accounts only")

    @property
    def netting(self) -> bool:
        """One position per symbol: the margin modes netting and exchange."""
        return self.margin_mode != "hedging"

    @property
    def utc_offset_msc(self) -> int:
        return round(self.utc_offset * 3_600_000)

    @property
    def digits(self) -> int:
        return 0 if self.currency == "JPY" else 2

    def comment_kept(self, comment: str) -> str:
        """What becomes of the comment of a request."""
        return self.comment_replaced or comment[: self.comment_length]


# What a broker may change about an account that trades.
CHANGEABLE = (
    "leverage", "utc_offset", "margin_call", "stop_out", "limit_orders", "limit_positions", "comment_length",
    "comment_replaced", "stops_on_open", "fifo_close", "hedge_prohibited", "trade_expert", "rollover",
)  # fmt: skip
_KINDS = {item.name: str(item.type) for item in fields(AccountSettings)}


def changed_settings(settings: AccountSettings, changes: dict[str, Any]) -> AccountSettings:
    """The settings with some of them changed; SetupError for a key or a value there is not."""
    for key in changes.keys() - set(CHANGEABLE):
        raise SetupError(f"account: unknown key {key!r}; keys are {', '.join(CHANGEABLE)}")
    return replace(settings, **{key: value_for("account", key, _KINDS[key], value) for key, value in changes.items()})


class Account:
    """Positions, orders, history and balance of one login, valued at the market's quotes."""

    def __init__(self, settings: AccountSettings, market: Market) -> None:
        self.settings = settings
        self.market = market
        self._coin = D(1).scaleb(-settings.digits)
        self._shown: tuple[list[Any], list[Any]] = ([], [])  # what `account_row` was made of last, and the row
        self.balance = D(0)
        self.positions: dict[int, Position] = {}  # by ticket
        self.orders: dict[int, Order] = {}  # by ticket
        self.old_orders: Archive[Order] = Archive()
        self.deals: Archive[Deal] = Archive()
        self.changed = False  # anything but the quotes, since it was saved
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

    def net_position(self, symbol: str) -> Position | None:
        """The one position of a symbol on a netting account; None on a hedging account, where no order meets it."""
        if not self.settings.netting:
            return None
        return next((p for p in self.positions.values() if p.symbol == symbol), None)

    def position_with(self, identifier: int) -> Position | None:
        return next((p for p in self.positions.values() if p.identifier == identifier), None)

    # ---- arithmetic

    def spec(self, name: str) -> SymbolSpec:
        return self.market.specs[name]

    def money(self, amount: Decimal) -> Decimal:
        return amount.quantize(self._coin, ROUND_HALF_UP)

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
        """Profit of the open positions, swap included."""
        return sum((self.floating(position) + position.swap for position in self.positions.values()), D(0))

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

    def new_exposure(self, symbol: str, buy: bool, volume: Decimal) -> Decimal:
        """How much of a trade is more than it takes to close the opposite position it meets (netting)."""
        held = self.net_position(symbol)
        return volume - held.volume if held is not None and held.is_buy != buy else volume

    def margin_after(self, symbol: str, buy: bool, volume: Decimal) -> Decimal:
        """The margin there would be after this much more is bought or sold at the present price."""
        side = t.POSITION_TYPE_BUY if buy else t.POSITION_TYPE_SELL
        price = self.price(symbol, buy)
        held = self.net_position(symbol)
        if held is not None and held.is_buy == buy:
            price = (held.price_open * held.volume + price * volume) / (held.volume + volume)
            volume += held.volume
        elif held is not None and held.volume >= volume:  # it shrinks
            side, price, volume = held.type, held.price_open, held.volume - volume
        elif held is not None:  # it is reversed
            volume -= held.volume
        would = Position(0, 0, symbol, side, volume, price, D(0), D(0), 0, 0, "", 0, 0)
        return self.margin(would, instead_of=held)

    def affordable(self, symbol: str, buy: bool, volume: Decimal) -> bool:
        """Whether the money is there for a trade at the present price. A trade that only reduces always goes."""
        if self.new_exposure(symbol, buy, volume) <= 0:
            return True
        return self.margin_after(symbol, buy, volume) <= self.equity()

    def swap_per_night(self, spec: SymbolSpec, position: Position, rate: Decimal) -> Decimal:
        """Swap of a position for one night, in the account's currency, where it is charged in money."""
        now = self.price(position.symbol, not position.is_buy)
        if spec.swap_mode == t.SYMBOL_SWAP_MODE_POINTS:
            amount, currency = rate * spec.point * spec.unit_value * position.volume, spec.currency_profit
        elif spec.swap_mode in (t.SYMBOL_SWAP_MODE_INTEREST_CURRENT, t.SYMBOL_SWAP_MODE_INTEREST_OPEN):
            price = now if spec.swap_mode == t.SYMBOL_SWAP_MODE_INTEREST_CURRENT else position.price_open
            worth = price * spec.unit_value * position.volume
            amount, currency = worth * rate / 100 / 360, spec.currency_profit  # a bank's year
        else:
            currencies = {
                t.SYMBOL_SWAP_MODE_CURRENCY_SYMBOL: spec.currency_base,
                t.SYMBOL_SWAP_MODE_CURRENCY_MARGIN: spec.currency_margin,
            }
            amount, currency = rate * position.volume, currencies.get(spec.swap_mode, self.settings.currency)
        return amount * self.market.rate(currency, self.settings.currency, gain=amount > 0)

    def tick_values(self, spec: SymbolSpec) -> tuple[Decimal, Decimal]:
        """Worth of one tick of one lot in the account's currency, when it is a gain and when it is a loss."""
        worth = spec.trade_tick_size * spec.unit_value
        source, target = spec.currency_profit, self.settings.currency
        gain, loss = (worth * self.market.rate(source, target, gain=is_gain) for is_gain in (True, False))
        return gain.quantize(D("1e-8")), loss.quantize(D("1e-8"))

    # ---- rows, in the field order of the result types

    def account_row(self, trade_allowed: bool) -> list[Any]:
        """Asked for far more often than anything changes: worked out anew when a quote or a position is another."""
        made_of = [trade_allowed, self.settings, self.balance, self.market.moves]
        for p in self.positions.values():
            made_of += (p.ticket, p.type, p.volume, p.price_open, p.swap)
        if made_of != self._shown[0]:
            self._shown = (made_of, self._account_row(trade_allowed))
        return [*self._shown[1]]

    def _account_row(self, trade_allowed: bool) -> list[Any]:
        s = self.settings
        floating, margin = self.total_floating(), self.margin()
        equity = self.balance + floating
        level = float(equity / margin * 100) if margin else 0.0
        return [
            s.login, t.ACCOUNT_TRADE_MODE_DEMO, s.leverage, s.limit_orders, t.ACCOUNT_STOPOUT_MODE_PERCENT,
            trade_allowed, s.trade_expert, MARGIN_MODES[s.margin_mode], s.digits, s.fifo_close,
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
            float(now), float(p.swap), float(profit), p.symbol, p.comment, "",
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
            d.reason, float(d.volume), float(d.price), float(d.commission), float(d.swap), float(d.profit), 0.0,
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
            text_of(head)[:-1]
            + ',\n"old_orders": [\n'
            + ",\n".join(self.old_orders.texts())
            + '\n],\n"deals": [\n'
            + ",\n".join(self.deals.texts())
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
            self.positions = {p.ticket: p for p in (made(Position, values) for values in state["positions"])}
            self.orders = {o.ticket: o for o in (made(Order, values) for values in state["orders"])}
            for values in state["old_orders"]:
                self.old_orders.append(made(Order, values))
            for values in state["deals"]:
                self.deals.append(made(Deal, values))
            held = self.traded()
            if held - self.market.specs.keys():
                raise SetupError(f"it holds symbols that are gone: {sorted(held - self.market.specs.keys())}")
            self.selected = (set(state["selected"]) & self.market.specs.keys()) | held
            for name, (bid, ask) in state["quotes"].items():
                if name in self.market.specs:
                    self.market.resume(name, D(bid), D(ask))
        except (OSError, ValueError, KeyError, TypeError, ArithmeticError) as error:
            raise SetupError(f"state file {path}: {error}") from error
