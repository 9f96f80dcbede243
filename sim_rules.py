"""The rules of the simulated broker: what it refuses, and with which retcode.

A check returns when the request may go on and raises `RefusedError` when it may not; none changes anything. The
rules are those of the MQL5 reference (trade server return codes, symbol and account properties) and of the MQL5 book
(symbols_spreads_levels, experts_execution_filling); docs/simulator.md has them in a table.
"""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from decimal import Decimal as D

import sim_types as t
from sim_account import Account
from sim_records import Order, Outcome, Position, Request
from sim_sessions import DAY_MSC
from sim_symbols import BUY_TYPES, LIMIT_TYPES, MARKET_TYPES, PENDING_TYPES, STOP_LIMIT_TYPES, SymbolSpec


class RefusedError(Exception):
    """The server refuses a request, with this retcode."""

    def __init__(self, retcode: int, bid: Decimal = D(0), ask: Decimal = D(0)) -> None:
        super().__init__(retcode)
        self.outcome = Outcome(retcode, bid=bid, ask=ask)


class Rules:
    """What may be traded on an account now."""

    def __init__(self, account: Account, now_msc: Callable[[], int]) -> None:
        self._account = account
        self._market = account.market
        self._now_msc = now_msc

    def spec_of(self, name: str) -> SymbolSpec:
        """The specification of a symbol that has quotes and is traded now."""
        if name not in self._market.specs:
            raise RefusedError(t.TRADE_RETCODE_INVALID)
        if name not in self._account.selected:
            raise RefusedError(t.TRADE_RETCODE_PRICE_OFF)  # the terminal has no quotes of it
        spec = self._market.specs[name]
        self.check_traded(spec)
        return spec

    def check_traded(self, spec: SymbolSpec) -> None:
        if spec.trade_mode == t.SYMBOL_TRADE_MODE_DISABLED:
            raise RefusedError(t.TRADE_RETCODE_TRADE_DISABLED)
        self._check_open(spec)

    def _check_open(self, spec: SymbolSpec) -> None:
        if not spec.is_open(self._now_msc()):
            raise RefusedError(t.TRADE_RETCODE_MARKET_CLOSED)

    def closing_price(self, position: Position) -> Decimal:
        return self._account.price(position.symbol, not position.is_buy)

    # ---- orders that may bring new exposure

    def check_market_order(self, spec: SymbolSpec, request: Request, named: Position | None) -> None:
        """A market order; `named` is the position it is to close, if it names one."""
        if request.type not in MARKET_TYPES:
            raise RefusedError(t.TRADE_RETCODE_INVALID)
        if not spec.order_type_fits(request.type):
            raise RefusedError(t.TRADE_RETCODE_INVALID_ORDER)
        if named is None:
            self._check_opening(spec, request)
        else:
            self._check_closing(spec, request, named)
        if not spec.filling_fits(request.type_filling, request.type):
            raise RefusedError(t.TRADE_RETCODE_INVALID_FILL)
        self._check_deviation(spec, request)
        if named is None:
            buy = request.type in BUY_TYPES
            at_once = self._account.settings.stops_on_open or spec.at_requested_price
            if (request.sl or request.tp) and not at_once:
                raise RefusedError(t.TRADE_RETCODE_INVALID_STOPS)
            self._check_stops(spec, buy, None, request.sl, request.tp)
            if not self._account.affordable(spec.name, buy, request.volume):
                raise RefusedError(t.TRADE_RETCODE_NO_MONEY)

    def check_pending(self, spec: SymbolSpec, request: Request) -> int:
        """A new pending order; gives the second at which it expires, 0 for never."""
        if request.type not in PENDING_TYPES:
            raise RefusedError(t.TRADE_RETCODE_INVALID)
        if not spec.order_type_fits(request.type):
            raise RefusedError(t.TRADE_RETCODE_INVALID_ORDER)
        self._check_opening(spec, request)
        if not spec.filling_fits(request.type_filling, request.type):
            raise RefusedError(t.TRADE_RETCODE_INVALID_FILL)
        limit = self._account.settings.limit_orders
        if limit and len(self._account.orders) >= limit:
            raise RefusedError(t.TRADE_RETCODE_LIMIT_ORDERS)
        self._check_pending_prices(spec, request.type, request)
        return self._expiration(spec, request)

    def _check_opening(self, spec: SymbolSpec, request: Request) -> None:
        """What an order that names no position must pass, at market or pending."""
        account = self._account
        buy = request.type in BUY_TYPES
        pending = request.type in PENDING_TYPES
        exposure = request.volume if pending else account.new_exposure(spec.name, buy, request.volume)
        if exposure > 0:
            self._check_direction(spec, buy)
            self._check_number(spec)
        closes_all = not exposure and request.volume > 0  # a netting position, whatever its volume
        if not closes_all and not spec.volume_fits(request.volume):
            raise RefusedError(t.TRADE_RETCODE_INVALID_VOLUME)
        if spec.volume_limit and exposure > 0:
            held = [p.volume for p in account.positions.values() if p.symbol == spec.name and p.is_buy == buy]
            held += [o.volume_current for o in account.orders.values() if o.symbol == spec.name and o.is_buy == buy]
            if sum(held) + exposure > spec.volume_limit:
                raise RefusedError(t.TRADE_RETCODE_LIMIT_VOLUME)

    def _check_direction(self, spec: SymbolSpec, buy: bool) -> None:
        if spec.trade_mode == t.SYMBOL_TRADE_MODE_CLOSEONLY:
            raise RefusedError(t.TRADE_RETCODE_CLOSE_ONLY)
        if spec.trade_mode == t.SYMBOL_TRADE_MODE_LONGONLY and not buy:
            raise RefusedError(t.TRADE_RETCODE_LONG_ONLY)
        if spec.trade_mode == t.SYMBOL_TRADE_MODE_SHORTONLY and buy:
            raise RefusedError(t.TRADE_RETCODE_SHORT_ONLY)
        if self.hedges(spec.name, buy):
            raise RefusedError(t.TRADE_RETCODE_HEDGE_PROHIBITED)

    def hedges(self, symbol: str, buy: bool) -> bool:
        """Whether a trade would make the opposite positions that the account forbids."""
        if not self._account.settings.hedge_prohibited:
            return False
        return any(p.symbol == symbol and p.is_buy != buy for p in self._account.positions.values())

    def _check_number(self, spec: SymbolSpec) -> None:
        """Hedging: every order may become a position. Netting: one of a symbol that has none."""
        account = self._account
        limit, count = account.settings.limit_positions, len(account.positions)
        if account.settings.netting:
            reached = count >= limit and account.net_position(spec.name) is None
        else:
            reached = count + len(account.orders) >= limit
        if limit and reached:
            raise RefusedError(t.TRADE_RETCODE_LIMIT_POSITIONS)

    def _check_deviation(self, spec: SymbolSpec, request: Request) -> None:
        """Request and Instant execution trade at the price asked for, give or take `deviation` points."""
        if not spec.at_requested_price:
            return
        if request.price <= 0 or not spec.on_grid(request.price):
            raise RefusedError(t.TRADE_RETCODE_INVALID_PRICE)
        now = self._account.price(spec.name, request.type in BUY_TYPES)
        if abs(now - request.price) > request.deviation * spec.point:
            quote = self._market.quotes[spec.name]
            raise RefusedError(t.TRADE_RETCODE_REQUOTE, quote.bid, quote.ask)

    # ---- prices of orders, SL and TP

    def _check_stops(self, spec: SymbolSpec, buy: bool, at: Decimal | None, sl: Decimal, tp: Decimal) -> None:
        """SL and TP on the right side of the price they are measured from, and not nearer than the stops level.

        `at` is the price of a pending order; None: the price the position would be closed at now.
        """
        price = self._account.price(spec.name, not buy) if at is None else at
        for level, below, flag in ((sl, buy, t.SYMBOL_ORDER_SL), (tp, not buy, t.SYMBOL_ORDER_TP)):
            if not level:
                continue
            distance = price - level if below else level - price
            if distance <= 0 or distance < spec.stops_distance or level < 0 or not spec.on_grid(level):
                raise RefusedError(t.TRADE_RETCODE_INVALID_STOPS)
            if not spec.order_mode & flag:
                raise RefusedError(t.TRADE_RETCODE_INVALID_STOPS)

    @staticmethod
    def _check_freeze(spec: SymbolSpec, price: Decimal, *levels: Decimal) -> None:
        if spec.freeze_distance and any(level and abs(price - level) <= spec.freeze_distance for level in levels):
            raise RefusedError(t.TRADE_RETCODE_FROZEN)

    def _check_pending_prices(self, spec: SymbolSpec, order_type: int, request: Request) -> None:
        buy = order_type in BUY_TYPES
        now = self._account.price(spec.name, buy)
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
        now = self._now_msc() // 1000
        day = DAY_MSC // 1000
        if request.type_time == t.ORDER_TIME_GTC:
            return 0
        if request.type_time == t.ORDER_TIME_DAY:
            return (now // day + 1) * day
        expires = request.expiration
        if request.type_time == t.ORDER_TIME_SPECIFIED_DAY and expires > 0:
            expires = expires // day * day + day - 1
        if expires <= now or expires >= 2**31:
            raise RefusedError(t.TRADE_RETCODE_INVALID_EXPIRATION)
        return expires

    # ---- what there is already: positions and waiting orders

    def position_named(self, ticket: int) -> Position:
        position = self._account.positions.get(ticket)
        if position is None:
            raise RefusedError(t.TRADE_RETCODE_POSITION_CLOSED)
        return position

    def _check_closing(self, spec: SymbolSpec, request: Request, position: Position) -> None:
        if request.symbol != position.symbol or (request.type == t.ORDER_TYPE_BUY) == position.is_buy:
            raise RefusedError(t.TRADE_RETCODE_INVALID)
        if request.volume > position.volume:
            raise RefusedError(t.TRADE_RETCODE_INVALID_CLOSE_VOLUME)
        if request.volume != position.volume and not spec.volume_fits(request.volume):
            raise RefusedError(t.TRADE_RETCODE_INVALID_VOLUME)
        self._check_closable(spec, position)
        self._check_oldest(position)

    def _check_closable(self, spec: SymbolSpec, position: Position) -> None:
        waiting = (o for o in self._account.orders.values() if o.closing and not o.hidden)
        if any(order.position_id == position.identifier for order in waiting):
            raise RefusedError(t.TRADE_RETCODE_CLOSE_ORDER_EXIST)
        self._check_freeze(spec, self.closing_price(position), position.sl, position.tp)

    def _check_oldest(self, *closing: Position) -> None:
        """FIFO: the oldest position of the symbol must be among those that are closed."""
        if not self._account.settings.fifo_close:
            return
        same = (p.identifier for p in self._account.positions.values() if p.symbol == closing[0].symbol)
        if min(same) not in [position.identifier for position in closing]:
            raise RefusedError(t.TRADE_RETCODE_FIFO_CLOSE)

    def check_close_by(self, spec: SymbolSpec, first: Position, second: Position) -> None:
        self.check_traded(spec)
        if not spec.order_mode & t.SYMBOL_ORDER_CLOSEBY:
            raise RefusedError(t.TRADE_RETCODE_INVALID_ORDER)
        if first.symbol != second.symbol or first.type == second.type:
            raise RefusedError(t.TRADE_RETCODE_INVALID)
        for position in (first, second):
            self._check_closable(spec, position)
        self._check_oldest(first, second)

    def check_levels(self, spec: SymbolSpec, request: Request, position: Position) -> None:
        """A change of SL and TP."""
        if request.symbol not in ("", position.symbol):
            raise RefusedError(t.TRADE_RETCODE_INVALID)
        self.check_traded(spec)
        if (request.sl, request.tp) == (position.sl, position.tp):
            raise RefusedError(t.TRADE_RETCODE_NO_CHANGES)
        self._check_freeze(spec, self.closing_price(position), position.sl, position.tp)
        # A level that stays as it is need not be at the distance a new one must have.
        sl = request.sl if request.sl != position.sl else D(0)
        tp = request.tp if request.tp != position.tp else D(0)
        self._check_stops(spec, position.is_buy, None, sl, tp)

    def order_named(self, ticket: int) -> Order:
        """A waiting order that may be removed; where trading is disabled too."""
        order = self._account.orders.get(ticket)
        if order is None or order.due_msc:
            raise RefusedError(t.TRADE_RETCODE_INVALID_ORDER)
        spec = self._market.specs[order.symbol]
        self._check_open(spec)
        if not order.at_market:
            self._check_freeze(spec, self._account.price(order.symbol, order.is_buy), order.price_open)
        return order

    def check_modify(self, spec: SymbolSpec, request: Request, order: Order) -> int:
        """A change of a pending order; gives the second at which it then expires."""
        if order.at_market:
            raise RefusedError(t.TRADE_RETCODE_INVALID_ORDER)
        self.check_traded(spec)
        self._check_pending_prices(spec, order.type, request)
        return self._expiration(spec, request)
