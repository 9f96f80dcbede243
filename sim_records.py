"""The records of trading at the simulated broker: what is asked of it, what it answers, and what comes of it.

Data only. Money, lots and prices are `Decimal`; all times are broker time in milliseconds: the server's wall clock
written as if it were UTC.
"""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass
from decimal import Decimal
from decimal import Decimal as D
from typing import Any, Generic, TypeVar, get_type_hints

import sim_types as t
from sim_symbols import BUY_TYPES, MARKET_TYPES


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
    swap: Decimal = D(0)  # charged or paid so far, in the account's currency; booked when it closes

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
    closing: bool = False  # a market order that names the position it is to close: it never opens one
    position_by_id: int = 0
    price_current: Decimal = D(0)
    time_done_msc: int = 0
    due_msc: int = 0  # a late market order is executed then; 0: as soon as there is a counterparty
    hidden: bool = False  # not shown while it waits
    visible_msc: int = 0  # in the history from then on

    @property
    def is_buy(self) -> bool:
        return self.type in BUY_TYPES

    @property
    def at_market(self) -> bool:
        """A market order, which waits only because it is late or finds no counterparty."""
        return self.type in MARKET_TYPES


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
    swap: Decimal = D(0)
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

    The text each item has in the state file is made once, when it is first asked for: nothing in the history ever
    changes.
    """

    def __init__(self) -> None:
        self.items: list[Item] = []
        self._texts: list[str] = []
        self.by_order: defaultdict[int, list[Item]] = defaultdict(list)
        self.by_position: defaultdict[int, list[Item]] = defaultdict(list)

    def append(self, item: Item) -> None:
        self.items.append(item)
        self.by_order[item.ticket if isinstance(item, Order) else item.order].append(item)
        self.by_position[item.position_id].append(item)

    def texts(self) -> list[str]:
        self._texts += [text_of(vars(item)) for item in self.items[len(self._texts) :]]
        return self._texts


_Record = TypeVar("_Record", Position, Order, Deal)
_HINTS = {kind: get_type_hints(kind) for kind in (Position, Order, Deal)}


def made(kind: type[_Record], values: dict[str, Any]) -> _Record:
    """A record from its values in the state file."""
    hints = _HINTS[kind]
    known: dict[str, Any] = {key: D(value) if hints[key] is Decimal else value for key, value in values.items()}
    return kind(**known)


def text_of(values: dict[str, Any]) -> str:
    return json.dumps(values, default=str)
