"""The two accounts of the demo as a person's own terminal shows them, through mt5_sim alone.

Nothing of sender, server or copier is asked here: what the demo compares at its end are the accounts themselves.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, replace
from decimal import ROUND_HALF_EVEN, Decimal
from typing import Any, Final

import mt5_sim
import sim_types as t
from terminal import exact

PASSWORD: Final = "demo"  # noqa: S105 - of the simulated accounts, known to everybody
SERVER: Final = "Sim"
NOTHING: Final = Decimal(0)
EVER: Final = (1, 2**31 - 1)  # seconds between which all history lies
REQUOTES: Final = 5  # how often an order is sent again because the price had moved

POSITION, ORDER = "position", "order"
ACTIONS: Final = {
    t.ORDER_TYPE_BUY: "BUY",
    t.ORDER_TYPE_SELL: "SELL",
    t.ORDER_TYPE_BUY_LIMIT: "BUY_LIMIT",
    t.ORDER_TYPE_SELL_LIMIT: "SELL_LIMIT",
    t.ORDER_TYPE_BUY_STOP: "BUY_STOP",
    t.ORDER_TYPE_SELL_STOP: "SELL_STOP",
    t.ORDER_TYPE_BUY_STOP_LIMIT: "BUY_STOP_LIMIT",
    t.ORDER_TYPE_SELL_STOP_LIMIT: "SELL_STOP_LIMIT",
}
TYPES: Final = {action: number for number, action in ACTIONS.items()}


class AccountFailed(Exception):
    """A terminal did not answer, or refused what the demo's trader asked for."""


Key = tuple[int, int]  # a trade: its ticket, and which leg of that position


@dataclass(frozen=True, slots=True)
class Line:
    """A position or a pending order of an account, open or ended. Lots and prices are exact; 0 stands for none.

    Of a netting position, which grows, shrinks and turns round, a line is a part: see `legs` and `parts`.
    """

    kind: str  # POSITION or ORDER
    ticket: int  # a position's identifier, a pending order's ticket
    symbol: str
    action: str
    opened: Decimal  # lots that were ever opened, or ordered
    volume: Decimal  # lots now; 0 = it has ended
    price: Decimal = NOTHING
    sl: Decimal = NOTHING
    tp: Decimal = NOTHING
    comment: str = ""
    filled: bool = False  # an order that became a position
    leg: int = 0  # of a netting account's position: which entry, the first is 0
    order: int = 0  # of a position: the order that opened it

    @property
    def key(self) -> Key:
        return (self.ticket, self.leg)

    @property
    def signed(self) -> Decimal:
        """Lots now, below 0 when they are sold."""
        return self.volume if self.action.startswith("BUY") else -self.volume


@dataclass(frozen=True, slots=True)
class Sight:
    """An account at one moment: what is open, and of a netting account every deal that has brought it there."""

    lines: list[Line]
    deals: list[Any] | None = None  # None = a hedging account, where the lines say everything


class Account:
    """One connection to a simulated terminal. Every method raises `AccountFailed` when it gets no answer."""

    def __init__(self, address: str, login: int, password: str = PASSWORD) -> None:
        self.mt5: Any = mt5_sim.Client()
        if not self.mt5.initialize(address, login=login, password=password, server=SERVER):
            raise self._unanswered("initialize")
        self.netting = self._answer("account_info").margin_mode != t.ACCOUNT_MARGIN_MODE_RETAIL_HEDGING
        self._deals: dict[int, Any] = {}  # by ticket: those of a netting account that were seen

    def close(self) -> None:
        self.mt5.shutdown()

    def _unanswered(self, question: str) -> AccountFailed:
        return AccountFailed(f"the terminal did not answer {question}: {self.mt5.last_error()}")

    def _answer(self, question: str, *args: Any, **kwargs: Any) -> Any:
        answer = getattr(self.mt5, question)(*args, **kwargs)
        if answer is None:
            raise self._unanswered(question)
        return answer

    # -- looking

    def now(self) -> list[Line]:
        """The open positions and pending orders. Orders are read first: one that fills meanwhile is seen twice."""
        orders = [order_line(o, exact(o.volume_current)) for o in self._answer("orders_get")]
        return [*(position_line(p) for p in self._answer("positions_get")), *orders]

    def sight(self) -> Sight:
        """What is open now, with the deals of a netting account; these are read last, so they are the newest."""
        lines = self.now()
        return Sight(lines, self._newest_deals() if self.netting else None)

    def _newest_deals(self) -> list[Any]:
        """All deals; only those since the last one that is known are asked for."""
        since = max((deal.time for deal in self._deals.values()), default=EVER[0])
        self._deals.update({deal.ticket: deal for deal in self._answer("history_deals_get", since, EVER[1])})
        return list(self._deals.values())

    def ever(self) -> list[Line]:
        """Everything that was ever opened or placed, ended or not; of a netting account's positions the legs."""
        orders, positions = self._answer("orders_get"), self._answer("positions_get")
        deals, old_orders = self._answer("history_deals_get", *EVER), self._answer("history_orders_get", *EVER)
        if self.netting:
            return [*legs(positions, deals), *order_lines(orders, old_orders)]
        return all_lines(positions, orders, deals, old_orders)

    def copies(self, marks: Mapping[str, Key]) -> list[Line]:
        """Everything that was ever opened or placed, told apart by the comments that mark copies."""
        if not self.netting:
            return self.ever()
        orders, old_orders = self._answer("orders_get"), self._answer("history_orders_get", *EVER)
        return [*parts(self._answer("history_deals_get", *EVER), marks), *order_lines(orders, old_orders)]

    def whole(self, symbol: str) -> Line:
        """The position that a netting account has of a symbol."""
        found = self._answer("positions_get", symbol=symbol)
        if not found:
            raise AccountFailed(f"there is no position of {symbol}")
        return position_line(found[0])

    def symbol(self, name: str) -> Any:
        """symbol_info() with prices."""
        if not self.mt5.symbol_select(name, True):
            raise self._unanswered(f"symbol_select({name})")
        return self._answer("symbol_info", name)

    def price(self, symbol: str, points: int = 0, *, ask: bool = False) -> Decimal:
        """Bid or ask, moved by so many points, on the symbol's price grid."""
        info = self.symbol(symbol)
        step = exact(info.trade_tick_size)
        wanted = exact(info.ask if ask else info.bid) + points * exact(info.point)
        return (wanted / step).to_integral_value(ROUND_HALF_EVEN) * step

    # -- trading

    def open(self, symbol: str, action: str, volume: Decimal, sl: Decimal = NOTHING, tp: Decimal = NOTHING) -> int:
        """Open a position at market; its identifier."""
        order: int = self._deal(symbol, action, volume, sl=float(sl), tp=float(tp)).order
        return order

    def close_position(self, ticket: int, volume: Decimal | None = None) -> None:
        """Close a position, or so many lots of it."""
        found = self._answer("positions_get", ticket=ticket)
        if not found:
            raise AccountFailed(f"there is no position {ticket} to close")
        position = found[0]
        action = "SELL" if position.type == t.POSITION_TYPE_BUY else "BUY"
        lots = exact(position.volume) if volume is None else volume
        self._deal(position.symbol, action, lots, position=ticket)

    def _deal(self, symbol: str, action: str, volume: Decimal, **fields: Any) -> Any:
        for attempt in range(REQUOTES):
            price = float(self.price(symbol, ask=action == "BUY"))
            request = {"action": t.TRADE_ACTION_DEAL, "symbol": symbol, "type": TYPES[action], "deviation": 20}
            result = self._answer("order_send", {**request, "volume": float(volume), "price": price, **fields})
            if result.retcode != t.TRADE_RETCODE_REQUOTE or attempt == REQUOTES - 1:
                break
        return self._done(result, f"{action} {volume} {symbol}")

    def set_stops(self, ticket: int, symbol: str, sl: Decimal, tp: Decimal) -> None:
        if self.netting:  # the ticket changes when a position turns round
            ticket = next((p.ticket for p in self._answer("positions_get", symbol=symbol)), ticket)
        fields = {"action": t.TRADE_ACTION_SLTP, "position": ticket, "symbol": symbol, "sl": float(sl), "tp": float(tp)}
        self._done(self._answer("order_send", fields), f"SL {sl} TP {tp} for #{ticket}")

    def place(self, symbol: str, action: str, volume: Decimal, price: Decimal, sl: Decimal = NOTHING) -> int:
        """Place a pending order; its ticket."""
        fields = {
            "action": t.TRADE_ACTION_PENDING,
            "symbol": symbol,
            "type": TYPES[action],
            "type_filling": t.ORDER_FILLING_RETURN,
            "volume": float(volume),
            "price": float(price),
            "sl": float(sl),
        }
        result = self._done(self._answer("order_send", fields), f"{action} {volume} {symbol} at {price}")
        order: int = result.order
        return order

    def move(self, ticket: int, price: Decimal, sl: Decimal) -> None:
        """Give a pending order another price and SL."""
        fields = {"action": t.TRADE_ACTION_MODIFY, "order": ticket, "price": float(price), "sl": float(sl)}
        self._done(self._answer("order_send", fields), f"price {price} SL {sl} for #{ticket}")

    def remove(self, ticket: int) -> None:
        fields = {"action": t.TRADE_ACTION_REMOVE, "order": ticket}
        self._done(self._answer("order_send", fields), f"removing #{ticket}")

    @staticmethod
    def _done(result: Any, what: str) -> Any:
        if result.retcode != t.TRADE_RETCODE_DONE:
            raise AccountFailed(f"the simulated broker refused {what}: {result.retcode} {result.comment}")
        return result


def position_line(p: Any) -> Line:
    volume = exact(p.volume)
    return Line(
        POSITION, p.identifier, p.symbol, ACTIONS[p.type], volume, volume,
        exact(p.price_open), exact(p.sl), exact(p.tp), p.comment,
    )  # fmt: skip


def order_line(o: Any, volume: Decimal) -> Line:
    return Line(
        ORDER, o.ticket, o.symbol, ACTIONS[o.type], exact(o.volume_initial), volume,
        exact(o.price_open), exact(o.sl), exact(o.tp), o.comment, o.state == t.ORDER_STATE_FILLED,
    )  # fmt: skip


def trading(deals: Iterable[Any]) -> list[Any]:
    """The deals that traded, without deposits and the like, in the order in which they were made."""
    return sorted((d for d in deals if d.type in (t.DEAL_TYPE_BUY, t.DEAL_TYPE_SELL)), key=lambda d: d.ticket)


def order_lines(orders: Iterable[Any], old_orders: Iterable[Any]) -> list[Line]:
    """The pending orders, open or ended."""
    ended = {o.ticket: order_line(o, NOTHING) for o in old_orders if ACTIONS.get(o.type) not in (None, "BUY", "SELL")}
    for order in orders:  # one that ends meanwhile is in both
        ended[order.ticket] = order_line(order, exact(order.volume_current))
    return list(ended.values())


def all_lines(
    positions: Iterable[Any], orders: Iterable[Any], deals: Iterable[Any], old_orders: Iterable[Any]
) -> list[Line]:
    """Of a hedging account: positions put together from their deals (and from what is open now), and pending orders."""
    opened: defaultdict[int, Decimal] = defaultdict(Decimal)
    first: dict[int, Any] = {}
    for deal in trading(deals):
        if deal.entry == t.DEAL_ENTRY_IN:
            opened[deal.position_id] += exact(deal.volume)
            first.setdefault(deal.position_id, deal)
    shown = {p.identifier: position_line(p) for p in positions}
    found: list[Line] = []
    for identifier, deal in first.items():
        now = shown.pop(identifier, None)
        stops = (now.price, now.sl, now.tp) if now else (exact(deal.price), NOTHING, NOTHING)
        volume = now.volume if now else NOTHING
        action = ACTIONS[deal.type]
        found.append(Line(POSITION, identifier, deal.symbol, action, opened[identifier], volume, *stops, deal.comment))
    found += shown.values()  # open, and its deal not in the history yet
    return [*found, *order_lines(orders, old_orders)]


def legs(positions: Iterable[Any], deals: Iterable[Any]) -> list[Line]:
    """The positions of a netting account, entry by entry, put together from its deals.

    Each growth is a leg of its own; what is closed is taken from the oldest first; when a position turns round, it ends
    all its legs and begins another. SL and TP of an open leg are its position's.
    """
    found: dict[int, list[Line]] = {}  # by the position's identifier
    for deal in trading(deals):
        ours = found.setdefault(deal.position_id, [])
        left = exact(deal.volume)
        if deal.entry != t.DEAL_ENTRY_IN:
            for index, leg in enumerate(ours):
                taken = min(leg.volume, left)
                ours[index], left = replace(leg, volume=leg.volume - taken), left - taken
        if left:
            ours.append(
                Line(
                    POSITION, deal.position_id, deal.symbol, ACTIONS[deal.type], left, left, exact(deal.price),
                    comment=deal.comment, leg=len(ours), order=deal.order,
                )
            )  # fmt: skip
    for position in positions:
        ours = found.get(position.identifier, [])
        sl, tp = exact(position.sl), exact(position.tp)
        found[position.identifier] = [replace(leg, sl=sl, tp=tp) if leg.volume else leg for leg in ours]
    return [leg for ours in found.values() for leg in ours]


def parts(deals: Iterable[Any], marks: Mapping[str, Key]) -> list[Line]:
    """The copies of which a netting account's positions consist, by the comments of its deals alone.

    `marks` says which trade a comment stands for. The side of a trade's first deal is that of its copy, what was done
    on the other side has closed it. A second order that opened the same is a line of its own. Less than nothing is left
    (below 0) of what was closed twice.
    """
    groups: dict[Hashable, list[Any]] = {}
    for deal in trading(deals):
        groups.setdefault(marks.get(deal.comment, deal.comment), []).append(deal)
    found: list[Line] = []
    for group in groups.values():
        first = group[0]
        opened: dict[int, Line] = {}  # by order
        closed = NOTHING
        for deal in group:
            lots = exact(deal.volume)
            if deal.type != first.type:
                closed += lots
                continue
            known = opened.get(deal.order)
            if known is None:
                known = Line(
                    POSITION, deal.position_id, deal.symbol, ACTIONS[deal.type], NOTHING, NOTHING, exact(deal.price),
                    comment=deal.comment, order=deal.order,
                )  # fmt: skip
            opened[deal.order] = replace(known, opened=known.opened + lots, volume=known.volume + lots)
        *older, newest = opened.values()
        for line in older:
            taken = min(line.volume, closed)
            closed -= taken
            found.append(replace(line, volume=line.volume - taken))
        found.append(replace(newest, volume=newest.volume - closed))
    return found


def plain(number: Decimal) -> str:
    """A price or lots as people write them: 2, not 2.0."""
    return f"{number.normalize():f}"


def wall_ms() -> int:
    """UTC ms, as sender, server and copier note it."""
    return int(time.time() * 1000)
