"""What a terminal shows of an account: plain frozen data, filled by `terminal.py`, read by everybody else.

Lots, prices and money are `Decimal`; `time_msc` are milliseconds of the broker's clock, which is not UTC.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from enum import IntEnum, StrEnum
from typing import Final

from signals import Action, Kind

# Seconds of good readings that must contradict what is known before they are believed, where no deal proves it. The
# same at the sender (a master's trade) and at the copier (a copy).
PATIENCE_S: Final = 15.0


class MarginMode(IntEnum):
    """The numbers are MetaTrader's ACCOUNT_MARGIN_MODE_*."""

    NETTING = 0
    EXCHANGE = 1
    HEDGING = 2


class Lifetime(IntEnum):
    """How long a pending order stands; the numbers are MetaTrader's ORDER_TIME_*."""

    GTC = 0  # until it is cancelled
    DAY = 1  # until the end of the day on which it was placed
    SPECIFIED = 2  # until a second
    SPECIFIED_DAY = 3  # until the end of a day


@dataclass(frozen=True, slots=True)
class Account:
    """The account that the terminal is logged in to."""

    login: int
    server: str
    currency: str
    leverage: int
    balance: Decimal
    equity: Decimal
    margin_free: Decimal
    margin_mode: MarginMode
    trading_refused: str = ""  # why this account or terminal does not take orders now; empty = it does


@dataclass(frozen=True, slots=True)
class Position:
    """An open position. Requests name it by `ticket`; `identifier` stays the same for its whole life."""

    ticket: int
    identifier: int
    symbol: str
    action: Action  # BUY or SELL
    volume: Decimal
    price: Decimal  # price at which it was opened
    sl: Decimal
    tp: Decimal
    magic: int
    comment: str
    time_msc: int  # when it was opened
    profit: Decimal
    updated_msc: int = 0  # when its volume last changed (MT5 docs: a change of stops does not count)

    @property
    def kind(self) -> Kind:
        return Kind.POSITION


@dataclass(frozen=True, slots=True)
class Order:
    """A pending order. The position that it becomes has the order's ticket as its identifier, as a rule."""

    ticket: int
    symbol: str
    action: Action
    initial_volume: Decimal
    volume: Decimal  # not filled yet
    price: Decimal
    stoplimit: Decimal
    sl: Decimal
    tp: Decimal
    magic: int
    comment: str
    time_msc: int  # when it was placed
    expiration_msc: int  # 0 = none
    lifetime: Lifetime = Lifetime.GTC

    @property
    def kind(self) -> Kind:
        return Kind.ORDER

    @property
    def identifier(self) -> int:
        return self.ticket


class Entry(IntEnum):
    """What a deal did to its position; the numbers are MetaTrader's DEAL_ENTRY_*."""

    IN = 0
    OUT = 1
    INOUT = 2
    OUT_BY = 3


@dataclass(frozen=True, slots=True)
class Deal:
    """An execution in the account's history."""

    ticket: int
    order: int
    position_id: int  # identifier of the position it opened, changed or closed
    entry: Entry
    buys: bool
    volume: Decimal
    price: Decimal
    profit: Decimal
    reason: int  # DEAL_REASON_*
    magic: int
    comment: str
    time_msc: int


class OrderEnd(StrEnum):
    """How a pending or market order ended."""

    FILLED = "filled"
    CANCELLED = "cancelled"  # by anybody: the client, the broker, a rejection
    EXPIRED = "expired"
    UNDECIDED = "undecided"  # in the history, but in a state that is not an end


@dataclass(frozen=True, slots=True)
class PastOrder:
    """An order in the account's history."""

    ticket: int
    position_id: int  # 0 when it never filled
    end: OrderEnd
    symbol: str
    action: Action | None  # None = it closed one position by another
    volume: Decimal  # lots that were ordered
    filled: Decimal  # of those
    magic: int
    comment: str
    time_msc: int  # when it was set up

    @property
    def buys(self) -> bool:
        return self.action is not None and self.action.buys


@dataclass(frozen=True, slots=True)
class Symbol:
    """What the broker says of a symbol, and its quote now."""

    name: str
    bid: Decimal
    ask: Decimal
    time_msc: int  # of the quote
    point: Decimal
    digits: int
    tick_size: Decimal
    contract_size: Decimal
    volume_min: Decimal
    volume_max: Decimal
    volume_step: Decimal
    trade_mode: int  # SYMBOL_TRADE_MODE_*
    opens_buy: bool
    opens_sell: bool
    lifetimes: frozenset[Lifetime] = frozenset(Lifetime)  # of pending orders, that the broker takes
    stops_level: int = 0  # points that SL and TP must keep from the price; 0 may also mean that it varies
    freeze_level: int = 0  # points from the price within which nothing can be changed; 0 = none
    margin_buy: Decimal | None = None  # for one lot, account currency; None = the terminal could not say
    margin_sell: Decimal | None = None


@dataclass(frozen=True, slots=True)
class Reading:
    """One good look at an account. A look that failed is never a `Reading`: `terminal.Unreadable` is raised."""

    account: Account
    positions: tuple[Position, ...]
    orders: tuple[Order, ...]

    @property
    def everything(self) -> tuple[Position | Order, ...]:
        return (*self.positions, *self.orders)
