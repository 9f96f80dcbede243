"""The simulated broker: the rules of a trade server over one account and one market.

A pure engine: no sockets, no threads, and no clock of its own (it is handed an object with `time()`, such as the
`time` module or a simulated clock). `send` answers every request with a retcode, `advance` moves the market and
carries out what waits for a price or a time. What a terminal or the connection to it can get wrong (no answer,
late answers, faults) is the business of `sim_terminal`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from decimal import ROUND_DOWN, Decimal
from decimal import Decimal as D
from pathlib import Path
from typing import Any, Protocol

import sim_types as t
from sim_account import Account, AccountSettings, Deal, Handling, Order, Outcome, Position, Request
from sim_market import Market, symbol_row
from sim_symbols import (
    BUY_TYPES,
    LIMIT_TYPES,
    PENDING_TYPES,
    STOP_LIMIT_TYPES,
    SetupError,
    SymbolSpec,
    changed_spec,
    default_symbols,
)

__all__ = ["AccountSettings", "Broker", "Handling", "Outcome", "Request", "SetupError"]

DAY_MSC = 86_400_000


class Clock(Protocol):
    """What the broker needs of a clock: seconds since the epoch, UTC."""

    def time(self) -> float: ...


AS_USUAL = Handling()
Act = Callable[[], Outcome]


class RefusedError(Exception):
    """The server refuses a request, with this retcode."""

    def __init__(self, retcode: int, bid: Decimal = D(0), ask: Decimal = D(0)) -> None:
        super().__init__(retcode)
        self.outcome = Outcome(retcode, bid=bid, ask=ask)


class Broker:
    """One account at one broker. Not thread-safe: whoever shares it between threads locks it.

    `changed` is true after anything about the account (not the quotes) has changed; `save` resets it.
    """

    def __init__(
        self,
        settings: AccountSettings,
        *,
        clock: Clock = time,
        symbols: dict[str, SymbolSpec] | None = None,
        seed: int | str | None = None,
        state: Path | None = None,
    ) -> None:
        self.settings = settings
        self.clock = clock
        self._state = state
        specs = default_symbols() if symbols is None else symbols
        offset_msc = round(settings.utc_offset * 3_600_000)
        self.market = Market(specs, seed=seed, now_msc=self.now_msc(), utc_offset_msc=offset_msc)
        self.account = Account(settings, self.market)
        # The deal that closes something may reach the history late, by this many milliseconds.
        self.closing_delay: Callable[[], int] = lambda: 0
        self.changed = False
        self._actions: dict[int, Callable[[Request, int, Handling], Act]] = {
            t.TRADE_ACTION_DEAL: self._deal,
            t.TRADE_ACTION_PENDING: self._pending,
            t.TRADE_ACTION_SLTP: self._sltp,
            t.TRADE_ACTION_MODIFY: self._modify,
            t.TRADE_ACTION_REMOVE: self._remove,
            t.TRADE_ACTION_CLOSE_BY: self._close_by,
        }
        if state is not None and state.exists():
            self.account.load(state)
            self.settle()
        else:
            self.deposit(settings.balance, "Initial deposit")

    def now_msc(self) -> int:
        """Broker time: milliseconds of the server's wall clock."""
        return round((self.clock.time() + self.settings.utc_offset * 3600) * 1000)

    def save(self) -> None:
        """Write the state file, if there is one."""
        if self._state is not None:
            self.account.save(self._state)
        self.changed = False

    def deposit(self, amount: Decimal, comment: str = "") -> None:
        """A balance operation; a negative amount is a withdrawal."""
        self.account.balance += amount
        deal_ticket = self.account.new_deal_ticket()
        self._record(Deal(deal_ticket, 0, self.now_msc(), t.DEAL_TYPE_BALANCE, profit=amount, comment=comment))

    def _record(self, deal: Deal) -> None:
        self.account.deals.append(deal)
        self.changed = True

    # ---- requests

    def send(self, request: Request, *, reason: int = t.ORDER_REASON_EXPERT, handling: Handling = AS_USUAL) -> Outcome:
        """Carry out a request or refuse it."""
        try:
            return self._checked(request, reason, handling)()
        except RefusedError as refused:
            return refused.outcome

    def check(self, request: Request) -> tuple[int, Decimal]:
        """What `order_check` finds out: retcode (0 for good) and the margin there would be after the trade."""
        try:
            self._checked(request, t.ORDER_REASON_EXPERT, AS_USUAL)
        except RefusedError as refused:
            return refused.outcome.retcode, self.account.margin()
        if request.action != t.TRADE_ACTION_DEAL or request.position:
            return 0, self.account.margin()
        buy = request.type in BUY_TYPES
        return 0, self._margin_after(request.symbol, buy, request.volume, self.account.price(request.symbol, buy))

    def _checked(self, request: Request, reason: int, handling: Handling) -> Act:
        check = self._actions.get(request.action)
        if check is None:
            raise RefusedError(t.TRADE_RETCODE_INVALID)
        return check(request, reason, handling)

    def _spec(self, name: str) -> SymbolSpec:
        if name not in self.market.specs:
            raise RefusedError(t.TRADE_RETCODE_INVALID)
        if name not in self.account.selected:
            raise RefusedError(t.TRADE_RETCODE_PRICE_OFF)  # the terminal has no quotes of it
        return self.market.specs[name]

    def _margin_after(self, symbol: str, buy: bool, volume: Decimal, price: Decimal) -> Decimal:
        """The margin there would be after this much more is bought or sold at this price."""
        side = t.POSITION_TYPE_BUY if buy else t.POSITION_TYPE_SELL
        held = self._net_position(symbol)
        if held is not None and held.is_buy == buy:
            price = (held.price_open * held.volume + price * volume) / (held.volume + volume)
            volume += held.volume
        elif held is not None and held.volume >= volume:  # it shrinks
            side, price, volume = held.type, held.price_open, held.volume - volume
        elif held is not None:  # it is reversed
            volume -= held.volume
        would = Position(0, 0, symbol, side, volume, price, D(0), D(0), 0, 0, "", 0, 0)
        return self.account.margin(would, instead_of=held)

    def _affordable(self, symbol: str, buy: bool, volume: Decimal) -> bool:
        """Whether the money is there for a trade at the present price. A trade that only reduces always goes."""
        if self._new_exposure(symbol, buy, volume) <= 0:
            return True
        after = self._margin_after(symbol, buy, volume, self.account.price(symbol, buy))
        return after <= self.account.equity()

    def _net_position(self, symbol: str) -> Position | None:
        """The one position of a symbol on a netting account; None on a hedging account, where no order meets it."""
        if not self.settings.netting:
            return None
        return next((p for p in self.account.positions.values() if p.symbol == symbol), None)

    def _new_exposure(self, symbol: str, buy: bool, volume: Decimal) -> Decimal:
        """How much of a trade is more than it takes to close the opposite position it meets (netting)."""
        held = self._net_position(symbol)
        return volume - held.volume if held is not None and held.is_buy != buy else volume

    def _order_from(self, request: Request, reason: int) -> Order:
        return Order(
            ticket=0,
            symbol=request.symbol,
            type=request.type,
            volume_initial=request.volume,
            volume_current=request.volume,
            price_open=request.price,
            time_setup_msc=self.now_msc(),
            sl=request.sl,
            tp=request.tp,
            price_stoplimit=request.stoplimit,
            type_time=request.type_time,
            type_filling=request.type_filling,
            magic=request.magic,
            reason=reason,
            comment=request.comment[: self.settings.comment_length],
        )

    # Each of the following checks a request, raising RefusedError, and returns the act that carries it out.

    def _deal(self, request: Request, reason: int, handling: Handling) -> Act:
        spec = self._spec(request.symbol)
        if request.type not in (t.ORDER_TYPE_BUY, t.ORDER_TYPE_SELL):
            raise RefusedError(t.TRADE_RETCODE_INVALID)
        if spec.trade_mode == t.SYMBOL_TRADE_MODE_DISABLED:
            raise RefusedError(t.TRADE_RETCODE_TRADE_DISABLED)
        position = self._position_addressed(request)
        if position is None:
            self._check_opening(spec, request)
        else:
            self._check_closing(spec, request, position)
        if not spec.filling_fits(request.type_filling, request.type):
            raise RefusedError(t.TRADE_RETCODE_INVALID_FILL)
        self._check_deviation(spec, request)
        if position is None:
            self._check_stops(spec, request.type in BUY_TYPES, None, request.sl, request.tp)
            if not self._affordable(request.symbol, request.type in BUY_TYPES, request.volume):
                raise RefusedError(t.TRADE_RETCODE_NO_MONEY)

        def act() -> Outcome:
            order = self._order_from(request, reason)
            order.ticket = self.account.new_order_ticket()
            order.position_id = position.identifier if position else 0
            self.account.selected.add(order.symbol)
            if handling.late_ms:
                order.due_msc = self.now_msc() + handling.late_ms
                order.hidden = handling.hidden
                order.price_open = D(0)
                self.account.orders[order.ticket] = order
                self.changed = True
                return Outcome(t.TRADE_RETCODE_PLACED, order=order.ticket)
            volume = self._part(spec, request.volume, handling.fraction)
            deal = self._fill(order, volume)
            whole = volume == request.volume
            quote = self.market.quotes[order.symbol]
            return Outcome(
                t.TRADE_RETCODE_DONE if whole else t.TRADE_RETCODE_DONE_PARTIAL,
                deal.ticket, order.ticket, volume, deal.price, quote.bid, quote.ask,
            )  # fmt: skip

        return act

    def _position_addressed(self, request: Request) -> Position | None:
        """The position a market order names, to close it; None when it names none.

        Hedging: then it opens another. Netting: then it meets the symbol's position, whatever comes of it.
        """
        if not request.position:
            return None
        position = self.account.positions.get(request.position)
        if position is None:
            raise RefusedError(t.TRADE_RETCODE_POSITION_CLOSED)
        return position

    def _check_opening(self, spec: SymbolSpec, request: Request) -> None:
        """What an order that names no position must pass, at market or pending."""
        buy = request.type in BUY_TYPES
        pending = request.type in PENDING_TYPES
        exposure = request.volume if pending else self._new_exposure(spec.name, buy, request.volume)
        if spec.trade_mode == t.SYMBOL_TRADE_MODE_DISABLED:
            raise RefusedError(t.TRADE_RETCODE_TRADE_DISABLED)
        if exposure > 0:
            self._check_direction(spec, buy)
        closes_all = not exposure and request.volume > 0  # a netting position, whatever its volume
        if not closes_all and not spec.volume_fits(request.volume):
            raise RefusedError(t.TRADE_RETCODE_INVALID_VOLUME)
        if spec.volume_limit and exposure > 0:
            positions = self.account.positions.values()
            orders = self.account.orders.values()
            held = [p.volume for p in positions if p.symbol == spec.name and p.is_buy == buy]
            held += [o.volume_current for o in orders if o.symbol == spec.name and o.is_buy == buy]
            if sum(held) + exposure > spec.volume_limit:
                raise RefusedError(t.TRADE_RETCODE_LIMIT_VOLUME)

    @staticmethod
    def _check_direction(spec: SymbolSpec, buy: bool) -> None:
        if spec.trade_mode == t.SYMBOL_TRADE_MODE_CLOSEONLY:
            raise RefusedError(t.TRADE_RETCODE_CLOSE_ONLY)
        if spec.trade_mode == t.SYMBOL_TRADE_MODE_LONGONLY and not buy:
            raise RefusedError(t.TRADE_RETCODE_LONG_ONLY)
        if spec.trade_mode == t.SYMBOL_TRADE_MODE_SHORTONLY and buy:
            raise RefusedError(t.TRADE_RETCODE_SHORT_ONLY)

    def _check_closing(self, spec: SymbolSpec, request: Request, position: Position) -> None:
        if request.symbol != position.symbol or (request.type == t.ORDER_TYPE_BUY) == position.is_buy:
            raise RefusedError(t.TRADE_RETCODE_INVALID)
        if request.volume > position.volume:
            raise RefusedError(t.TRADE_RETCODE_INVALID_CLOSE_VOLUME)
        if request.volume != position.volume and not spec.volume_fits(request.volume):
            raise RefusedError(t.TRADE_RETCODE_INVALID_VOLUME)
        self._check_not_closing(position)
        self._check_freeze(spec, self._closing_price(position), position.sl, position.tp)

    def _check_not_closing(self, position: Position) -> None:
        waiting = (o for o in self.account.orders.values() if o.due_msc and not o.hidden)
        if any(order.position_id == position.identifier for order in waiting):
            raise RefusedError(t.TRADE_RETCODE_CLOSE_ORDER_EXIST)

    def _check_deviation(self, spec: SymbolSpec, request: Request) -> None:
        """Request and Instant execution trade at the price asked for, give or take `deviation` points."""
        if not spec.at_requested_price:
            return
        if request.price <= 0 or not spec.on_grid(request.price):
            raise RefusedError(t.TRADE_RETCODE_INVALID_PRICE)
        now = self.account.price(spec.name, request.type in BUY_TYPES)
        if abs(now - request.price) > request.deviation * spec.point:
            quote = self.market.quotes[spec.name]
            raise RefusedError(t.TRADE_RETCODE_REQUOTE, quote.bid, quote.ask)

    def _closing_price(self, position: Position) -> Decimal:
        return self.account.price(position.symbol, not position.is_buy)

    def _check_stops(self, spec: SymbolSpec, buy: bool, at: Decimal | None, sl: Decimal, tp: Decimal) -> None:
        """SL and TP on the right side of the price they are measured from, and not nearer than the stops level.

        `at` is the price of a pending order; None: the price the position would be closed at now.
        """
        price = self.account.price(spec.name, not buy) if at is None else at
        for level, below in ((sl, buy), (tp, not buy)):
            distance = price - level if below else level - price
            if level and (distance <= 0 or distance < spec.stops_distance or level < 0 or not spec.on_grid(level)):
                raise RefusedError(t.TRADE_RETCODE_INVALID_STOPS)

    @staticmethod
    def _check_freeze(spec: SymbolSpec, price: Decimal, *levels: Decimal) -> None:
        if spec.freeze_distance and any(level and abs(price - level) <= spec.freeze_distance for level in levels):
            raise RefusedError(t.TRADE_RETCODE_FROZEN)

    def _pending(self, request: Request, reason: int, handling: Handling) -> Act:
        spec = self._spec(request.symbol)
        if request.type not in PENDING_TYPES:
            raise RefusedError(t.TRADE_RETCODE_INVALID)
        self._check_opening(spec, request)
        if not spec.filling_fits(request.type_filling, request.type):
            raise RefusedError(t.TRADE_RETCODE_INVALID_FILL)
        limit = self.settings.limit_orders
        if limit and len(self.account.orders) >= limit:
            raise RefusedError(t.TRADE_RETCODE_LIMIT_ORDERS)
        self._check_pending_prices(spec, request.type, request)
        expires = self._expiration(spec, request)

        def act() -> Outcome:
            order = self._order_from(request, reason)
            order.ticket = self.account.new_order_ticket()
            order.time_expiration = expires
            self.account.orders[order.ticket] = order
            self.changed = True
            quote = self.market.quotes[order.symbol]
            return Outcome(
                t.TRADE_RETCODE_DONE, order=order.ticket, volume=order.volume_initial, bid=quote.bid, ask=quote.ask
            )

        return act

    def _check_pending_prices(self, spec: SymbolSpec, order_type: int, request: Request) -> None:
        buy = order_type in BUY_TYPES
        now = self.account.price(spec.name, buy)
        entry = request.price
        if request.price <= 0 or not spec.on_grid(request.price):
            raise RefusedError(t.TRADE_RETCODE_INVALID_PRICE)
        # A limit order waits for a better price than now, a stop or stop-limit order for a worse one.
        below = buy == (order_type in LIMIT_TYPES)
        distance = now - request.price if below else request.price - now
        if distance <= 0:
            raise RefusedError(t.TRADE_RETCODE_INVALID_PRICE)
        if distance < spec.stops_distance:
            raise RefusedError(t.TRADE_RETCODE_INVALID_STOPS)
        if order_type in STOP_LIMIT_TYPES:
            entry = request.stoplimit
            better = request.price - entry if buy else entry - request.price
            if entry <= 0 or not spec.on_grid(entry) or better <= 0:
                raise RefusedError(t.TRADE_RETCODE_INVALID_PRICE)
        self._check_stops(spec, buy, entry, request.sl, request.tp)

    def _expiration(self, spec: SymbolSpec, request: Request) -> int:
        """The second the order expires, 0 for never."""
        if not 0 <= request.type_time <= 3 or not spec.expiration_mode & 1 << request.type_time:
            raise RefusedError(t.TRADE_RETCODE_INVALID_EXPIRATION)
        now = self.now_msc() // 1000
        if request.type_time == t.ORDER_TIME_GTC:
            return 0
        if request.type_time == t.ORDER_TIME_DAY:
            return (now // 86400 + 1) * 86400
        expires = request.expiration
        if request.type_time == t.ORDER_TIME_SPECIFIED_DAY and expires > 0:
            expires = expires // 86400 * 86400 + 86399
        if expires <= now or expires >= 2**31:
            raise RefusedError(t.TRADE_RETCODE_INVALID_EXPIRATION)
        return expires

    def _sltp(self, request: Request, reason: int, handling: Handling) -> Act:
        position = self.account.positions.get(request.position)
        if position is None:
            raise RefusedError(t.TRADE_RETCODE_POSITION_CLOSED)
        if request.symbol not in ("", position.symbol):
            raise RefusedError(t.TRADE_RETCODE_INVALID)
        spec = self.market.specs[position.symbol]
        if spec.trade_mode == t.SYMBOL_TRADE_MODE_DISABLED:
            raise RefusedError(t.TRADE_RETCODE_TRADE_DISABLED)
        if (request.sl, request.tp) == (position.sl, position.tp):
            raise RefusedError(t.TRADE_RETCODE_NO_CHANGES)
        self._check_freeze(spec, self._closing_price(position), position.sl, position.tp)
        # A level that stays as it is need not be at the distance a new one must have.
        sl = request.sl if request.sl != position.sl else D(0)
        tp = request.tp if request.tp != position.tp else D(0)
        self._check_stops(spec, position.is_buy, None, sl, tp)

        def act() -> Outcome:
            position.sl, position.tp = request.sl, request.tp
            self.changed = True
            return Outcome(t.TRADE_RETCODE_DONE)

        return act

    def _pending_named(self, ticket: int) -> tuple[Order, SymbolSpec]:
        order = self.account.orders.get(ticket)
        if order is None or order.due_msc:
            raise RefusedError(t.TRADE_RETCODE_INVALID_ORDER)
        spec = self.market.specs[order.symbol]
        self._check_freeze(spec, self.account.price(order.symbol, order.is_buy), order.price_open)
        return order, spec

    def _modify(self, request: Request, reason: int, handling: Handling) -> Act:
        order, spec = self._pending_named(request.order)
        if spec.trade_mode == t.SYMBOL_TRADE_MODE_DISABLED:
            raise RefusedError(t.TRADE_RETCODE_TRADE_DISABLED)
        self._check_pending_prices(spec, order.type, request)
        expires = self._expiration(spec, request)
        stoplimit = request.stoplimit if order.type in STOP_LIMIT_TYPES else D(0)
        wanted = (request.price, request.sl, request.tp, stoplimit, request.type_time, expires)
        if wanted == (
            order.price_open, order.sl, order.tp, order.price_stoplimit, order.type_time, order.time_expiration
        ):  # fmt: skip
            raise RefusedError(t.TRADE_RETCODE_NO_CHANGES)

        def act() -> Outcome:
            order.price_open, order.sl, order.tp, order.price_stoplimit = wanted[:4]
            order.type_time, order.time_expiration = request.type_time, expires
            self.changed = True
            return Outcome(t.TRADE_RETCODE_DONE, order=order.ticket)

        return act

    def _remove(self, request: Request, reason: int, handling: Handling) -> Act:
        order, _ = self._pending_named(request.order)

        def act() -> Outcome:
            self._end(order, t.ORDER_STATE_CANCELED)
            return Outcome(t.TRADE_RETCODE_DONE, order=order.ticket)

        return act

    def _close_by(self, request: Request, reason: int, handling: Handling) -> Act:
        positions = self.account.positions
        if self.settings.netting:
            raise RefusedError(t.TRADE_RETCODE_INVALID)
        first, second = positions.get(request.position), positions.get(request.position_by)
        if first is None or second is None:
            raise RefusedError(t.TRADE_RETCODE_POSITION_CLOSED)
        spec = self.market.specs[first.symbol]
        if spec.trade_mode == t.SYMBOL_TRADE_MODE_DISABLED:
            raise RefusedError(t.TRADE_RETCODE_TRADE_DISABLED)
        if not spec.order_mode & t.SYMBOL_ORDER_CLOSEBY:
            raise RefusedError(t.TRADE_RETCODE_INVALID_ORDER)
        if first.symbol != second.symbol or first.type == second.type:
            raise RefusedError(t.TRADE_RETCODE_INVALID)
        for position in (first, second):
            self._check_not_closing(position)
            self._check_freeze(spec, self._closing_price(position), position.sl, position.tp)

        def act() -> Outcome:
            volume, price = min(first.volume, second.volume), second.price_open
            order = self._order_from(request, reason)
            order.ticket = self.account.new_order_ticket()
            order.symbol, order.type, order.price_open = first.symbol, t.ORDER_TYPE_CLOSE_BY, price
            order.volume_initial, order.volume_current = volume, D(0)
            order.position_id, order.position_by_id = first.identifier, second.identifier
            # The profit is booked on the position that is closed; on the other one nothing is left to book.
            deal = self._reduce(first, order, volume, price, t.DEAL_ENTRY_OUT_BY)
            self._reduce(second, order, volume, price, t.DEAL_ENTRY_OUT_BY)
            self._end(order, t.ORDER_STATE_FILLED, visible_msc=deal.visible_msc)
            return Outcome(t.TRADE_RETCODE_DONE, deal.ticket, order.ticket, volume, price)

        return act

    # ---- execution

    @staticmethod
    def _part(spec: SymbolSpec, volume: Decimal, fraction: Decimal) -> Decimal:
        """That part of a volume in whole steps, at least the minimum, at most all of it."""
        steps = (volume * fraction / spec.volume_step).quantize(D(1), ROUND_DOWN)
        return min(volume, max(spec.volume_min, steps * spec.volume_step))

    def _fill(self, order: Order, volume: Decimal) -> Deal:
        """Execute an order at the market, wholly or in part, and put it into the history."""
        order.price_open = self.account.price(order.symbol, order.is_buy)
        position = self._position_of(order)
        if position is None:
            deal = self._open(order, volume)
        elif position.is_buy == order.is_buy:
            deal = self._increase(position, order, volume)
        elif volume <= position.volume:
            deal = self._reduce(position, order, volume, order.price_open, t.DEAL_ENTRY_OUT)
        else:
            deal = self._reverse(position, order, volume)
        order.position_id = deal.position_id
        order.volume_current -= volume
        state = t.ORDER_STATE_PARTIAL if order.volume_current else t.ORDER_STATE_FILLED
        self._end(order, state, visible_msc=deal.visible_msc)
        return deal

    def _position_of(self, order: Order) -> Position | None:
        """The position an order is executed against. Hedging: the one it was sent for. Netting: the symbol's."""
        if self.settings.netting:
            return self._net_position(order.symbol)
        return self._position_with(order.position_id) if order.position_id else None

    def _position_with(self, identifier: int) -> Position | None:
        return next((p for p in self.account.positions.values() if p.identifier == identifier), None)

    def _open(self, order: Order, volume: Decimal) -> Deal:
        self._add_position(order, order.ticket, volume)
        return self._book(order, volume, order.price_open, order.is_buy, order.ticket, t.DEAL_ENTRY_IN, D(0))

    def _add_position(self, order: Order, identifier: int, volume: Decimal) -> None:
        now = self.now_msc()
        self.account.selected.add(order.symbol)
        self.account.positions[order.ticket] = Position(
            ticket=order.ticket,
            identifier=identifier,
            symbol=order.symbol,
            type=t.POSITION_TYPE_BUY if order.is_buy else t.POSITION_TYPE_SELL,
            volume=volume,
            price_open=order.price_open,
            sl=order.sl,
            tp=order.tp,
            magic=order.magic,
            reason=order.reason,
            comment=order.comment,
            time_msc=now,
            time_update_msc=now,
        )

    def _increase(self, position: Position, order: Order, volume: Decimal) -> Deal:
        """Add to a position: the price becomes the average, SL and TP those of the order, be they none."""
        total = position.volume + volume
        position.price_open = (position.price_open * position.volume + order.price_open * volume) / total
        position.volume = total
        position.sl, position.tp = order.sl, order.tp
        position.time_update_msc = self.now_msc()
        price, identifier = order.price_open, position.identifier
        return self._book(order, volume, price, order.is_buy, identifier, t.DEAL_ENTRY_IN, D(0))

    def _reverse(self, position: Position, order: Order, volume: Decimal) -> Deal:
        """Close a netting position and open the opposite one, in one deal, which carries the profit of the close.

        The identifier stays, the ticket becomes that of the reversing order.
        """
        price, identifier = order.price_open, position.identifier
        profit = self.account.profit(position.symbol, position.is_buy, position.volume, position.price_open, price)
        del self.account.positions[position.ticket]
        self._add_position(order, identifier, volume - position.volume)
        return self._book(order, volume, price, order.is_buy, identifier, t.DEAL_ENTRY_INOUT, profit)

    def _reduce(self, position: Position, order: Order, volume: Decimal, price: Decimal, entry: int) -> Deal:
        """Take volume off a position, or all of it."""
        profit = self.account.profit(position.symbol, position.is_buy, volume, position.price_open, price)
        position.volume -= volume
        position.time_update_msc = self.now_msc()
        if not position.volume:
            del self.account.positions[position.ticket]
        return self._book(order, volume, price, not position.is_buy, position.identifier, entry, profit)

    def _book(
        self, order: Order, volume: Decimal, price: Decimal, buy: bool, position_id: int, entry: int, profit: Decimal
    ) -> Deal:
        now = self.now_msc()
        commission = -self.account.money(self.market.specs[order.symbol].commission * volume)
        self.account.balance += profit + commission
        deal = Deal(
            ticket=self.account.new_deal_ticket(),
            order=order.ticket,
            time_msc=now,
            type=t.DEAL_TYPE_BUY if buy else t.DEAL_TYPE_SELL,
            entry=entry,
            magic=order.magic,
            position_id=position_id,
            reason=order.reason,  # the first seven deal reasons are numbered as the order reasons
            volume=volume,
            price=price,
            commission=commission,
            profit=profit,
            symbol=order.symbol,
            comment=order.comment,
            visible_msc=0 if entry == t.DEAL_ENTRY_IN else now + self.closing_delay(),
        )
        self._record(deal)
        return deal

    def _end(self, order: Order, state: int, visible_msc: int = 0) -> None:
        """Move an order to the history."""
        self.account.orders.pop(order.ticket, None)
        order.state = state
        order.time_done_msc = self.now_msc()
        order.price_current = self.account.price(order.symbol, order.is_buy)
        order.due_msc, order.hidden, order.visible_msc = 0, False, visible_msc
        self.account.old_orders.append(order)
        self.changed = True

    def close_by_server(self, position: Position, reason: int, comment: str, volume: Decimal | None = None) -> Deal:
        """Close a position (or some of it) at the market: SL, TP, stop-out, or by hand (CLIENT, magic 0)."""
        volume = position.volume if volume is None else volume
        order = Order(
            ticket=self.account.new_order_ticket(),
            symbol=position.symbol,
            type=t.ORDER_TYPE_SELL if position.is_buy else t.ORDER_TYPE_BUY,
            volume_initial=volume,
            volume_current=volume,
            price_open=D(0),
            time_setup_msc=self.now_msc(),
            magic=0 if reason == t.ORDER_REASON_CLIENT else position.magic,
            reason=reason,
            comment=comment,
            position_id=position.identifier,
        )
        return self._fill(order, volume)

    # ---- time and prices

    def advance(self) -> None:
        """Move the market one step, then do what time and the new prices call for."""
        moved = self.market.step(self.now_msc())
        self.settle(moved)

    def set_quote(self, name: str, bid: Decimal, ask: Decimal) -> None:
        """Put a symbol's prices where they are wanted, and do what they call for."""
        spec = self.market.specs.get(name)
        if spec is None:
            raise SetupError(f"unknown symbol {name!r}")
        if not 0 < bid <= ask or not spec.on_grid(bid) or not spec.on_grid(ask):
            raise SetupError(
                f"{name}: bid {bid} and ask {ask} must be positive multiples of {spec.trade_tick_size}, bid first"
            )
        self.market.set_quote(name, bid.quantize(spec.point), ask.quantize(spec.point), self.now_msc())
        self.settle([name])

    def change_symbol(self, name: str, changes: dict[str, Any]) -> None:
        """Change a symbol's specification while trading goes on, as a broker may."""
        if name not in self.market.specs:
            raise SetupError(f"unknown symbol {name!r}")
        self.market.specs[name] = changed_spec(self.market.specs[name], changes)
        self.market.respread(name, self.now_msc())
        self.settle([name])

    def settle(self, moved: Sequence[str] | None = None) -> None:
        """Expire, execute and trigger what is due. `moved`: symbols with new prices; None: look at all."""
        account = self.account
        now = self.now_msc()
        for order in list(account.orders.values()):
            if order.due_msc:
                if order.due_msc <= now:
                    self._execute_late(order)
            elif order.time_expiration and order.time_expiration * 1000 <= now:
                self._end(order, t.ORDER_STATE_EXPIRED)
            elif moved is None or order.symbol in moved:
                self._trigger(order)
        for position in list(account.positions.values()):
            if moved is None or position.symbol in moved:
                self._trigger_levels(position)
        if account.positions:
            self._stop_out()

    def _execute_late(self, order: Order) -> None:
        if not order.position_id:
            self._fill(order, order.volume_current)
            return
        position = self._position_with(order.position_id)
        if position is None or position.is_buy == order.is_buy:
            self._end(order, t.ORDER_STATE_CANCELED)  # what it was to close is gone
        else:
            self._fill(order, min(order.volume_current, position.volume))

    def _trigger(self, order: Order) -> None:
        now = self.account.price(order.symbol, order.is_buy)
        if order.type in STOP_LIMIT_TYPES:
            if not (now >= order.price_open if order.is_buy else now <= order.price_open):
                return
            order.type = t.ORDER_TYPE_BUY_LIMIT if order.is_buy else t.ORDER_TYPE_SELL_LIMIT
            order.price_open, order.price_stoplimit = order.price_stoplimit, D(0)
            self.changed = True
        below = order.is_buy == (order.type in LIMIT_TYPES)
        if not (now <= order.price_open if below else now >= order.price_open):
            return
        if self._affordable(order.symbol, order.is_buy, order.volume_current):
            self._fill(order, order.volume_current)
        else:
            self._end(order, t.ORDER_STATE_REJECTED)

    def _trigger_levels(self, position: Position) -> None:
        now = self._closing_price(position)
        text = self.market.specs[position.symbol].price_text
        if position.sl and (now <= position.sl if position.is_buy else now >= position.sl):
            self.close_by_server(position, t.ORDER_REASON_SL, f"[sl {text(position.sl)}]")
        elif position.tp and (now >= position.tp if position.is_buy else now <= position.tp):
            self.close_by_server(position, t.ORDER_REASON_TP, f"[tp {text(position.tp)}]")

    def _stop_out(self) -> None:
        """Close the largest loser, again and again, while the margin level is at or below the stop-out level."""
        account = self.account
        while account.positions:
            margin = account.margin()
            if not margin or account.equity() / margin * 100 > self.settings.stop_out:
                return
            worst = min(account.positions.values(), key=account.floating)
            level = account.equity() / margin * 100
            self.close_by_server(worst, t.ORDER_REASON_SO, f"[so {level:.2f}%]")

    # ---- what the account shows

    def positions(self) -> list[Position]:
        return list(self.account.positions.values())

    def orders(self) -> list[Order]:
        return [order for order in self.account.orders.values() if not order.hidden]

    def old_orders(self, *, ticket: int = 0, position: int = 0) -> Iterable[Order]:
        """Ended orders: all, one by ticket, or those of a position, as far as the history shows them yet."""
        archive = self.account.old_orders
        now = self.now_msc()
        if ticket or position:
            items = archive.by_order.get(ticket, []) if ticket else archive.by_position.get(position, [])
        else:
            items = archive.items
        return (item for item in items if item.visible_msc <= now)

    def deals(self, *, order: int = 0, position: int = 0) -> Iterable[Deal]:
        """Deals: all, those of an order, or those of a position, as far as the history shows them yet."""
        archive = self.account.deals
        now = self.now_msc()
        if order or position:
            items = archive.by_order.get(order, []) if order else archive.by_position.get(position, [])
        else:
            items = archive.items
        return (item for item in items if item.visible_msc <= now)

    def symbol_row(self, name: str) -> list[Any]:
        spec = self.market.specs[name]
        gain, loss = self.account.tick_values(spec)
        return symbol_row(spec, self.market.quotes[name], name in self.account.selected, gain, loss)

    def select(self, name: str, wanted: bool) -> bool:
        """Put a symbol into Market Watch or take it out; one that is traded cannot be taken out."""
        account = self.account
        if wanted:
            if name not in account.selected:
                account.selected.add(name)
                self.changed = True
            return True
        if name in account.traded():
            return False
        account.selected.discard(name)
        self.changed = True
        return True
