"""The simulated broker: the trade server over one account and one market.

A pure engine: no sockets, no threads, and no clock of its own (it is handed an object with `time()`, such as the
`time` module or a simulated clock). `send` answers every request with a retcode (`sim_rules` refuses, `sim_execution`
carries out), `advance` moves the market and carries out what waits for a price or a time. What a terminal or the
connection to it can get wrong (no answer, late answers, faults) is the business of `sim_terminal`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from decimal import ROUND_DOWN, Decimal
from decimal import Decimal as D
from pathlib import Path
from typing import Any, Protocol

import sim_types as t
from sim_account import Account, AccountSettings, changed_settings
from sim_execution import Execution
from sim_market import Market, symbol_row
from sim_records import Deal, Handling, Order, Outcome, Position, Request
from sim_rules import RefusedError, Rules
from sim_sessions import DAY_MSC, weekday
from sim_symbols import (
    BUY_TYPES,
    LIMIT_TYPES,
    STOP_LIMIT_TYPES,
    SetupError,
    SymbolSpec,
    changed_spec,
    default_symbols,
)

TRIPLE_SWAP_DAY = 2  # the night after Wednesday pays for the weekend
FRIDAY = 4


class Clock(Protocol):
    """What the broker needs of a clock: seconds since the epoch, UTC."""

    def time(self) -> float: ...


AS_USUAL = Handling()
Act = Callable[[], Outcome]


class Broker:
    """One account at one broker. Not thread-safe: whoever shares it between threads locks it."""

    def __init__(
        self,
        settings: AccountSettings,
        *,
        clock: Clock = time,
        symbols: dict[str, SymbolSpec] | None = None,
        seed: int | str | None = None,
        state: Path | None = None,
    ) -> None:
        self.clock = clock
        self._state = state
        self._offset_msc = settings.utc_offset_msc
        specs = default_symbols() if symbols is None else symbols
        self.market = Market(specs, seed=seed, now_msc=self.now_msc(), utc_offset_msc=self._offset_msc)
        self.account = Account(settings, self.market)
        self.execution = Execution(self.account, self.now_msc)
        self._rules = Rules(self.account, self.now_msc)
        self._day = self.now_msc() // DAY_MSC
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

    @property
    def settings(self) -> AccountSettings:
        return self.account.settings

    def now_msc(self) -> int:
        """Broker time: milliseconds of the server's wall clock."""
        return round(self.clock.time() * 1000) + self._offset_msc

    def save(self) -> None:
        """Write the state file, if there is one."""
        if self._state is not None:
            self.account.save(self._state)
        self.account.changed = False

    def deposit(self, amount: Decimal, comment: str = "") -> None:
        """A balance operation; a negative amount is a withdrawal."""
        account = self.account
        account.balance += amount
        ticket, now = account.new_deal_ticket(), self.now_msc()
        self.execution.record(Deal(ticket, 0, now, t.DEAL_TYPE_BALANCE, profit=amount, comment=comment))

    def change_account(self, changes: dict[str, Any]) -> None:
        """Change the terms of the account while it trades, as a broker may; SetupError for what there is not."""
        self.account.settings = changed_settings(self.settings, changes)
        self._offset_msc = self.market.utc_offset_msc = self.settings.utc_offset_msc
        self.settle()

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
        return 0, self.account.margin_after(request.symbol, request.type in BUY_TYPES, request.volume)

    def _checked(self, request: Request, reason: int, handling: Handling) -> Act:
        check = self._actions.get(request.action)
        if check is None:
            raise RefusedError(t.TRADE_RETCODE_INVALID)
        if reason == t.ORDER_REASON_EXPERT and not self.settings.trade_expert:
            raise RefusedError(t.TRADE_RETCODE_SERVER_DISABLES_AT)
        return check(request, reason, handling)

    def _order_from(self, request: Request, reason: int) -> Order:
        return Order(
            ticket=self.account.new_order_ticket(),
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
            comment=self.settings.comment_kept(request.comment),
        )

    # Each of the following checks a request, raising RefusedError, and returns the act that carries it out.

    def _deal(self, request: Request, reason: int, handling: Handling) -> Act:
        rules = self._rules
        spec = rules.spec_of(request.symbol)
        named = rules.position_named(request.position) if request.position else None
        rules.check_market_order(spec, request, named)

        def act() -> Outcome:
            buy = request.type in BUY_TYPES
            available = self.market.available(request.symbol, buy, request.volume)
            waits = request.type_filling == t.ORDER_FILLING_RETURN and not handling.late_ms
            if not handling.late_ms and available < request.volume:
                nothing = not available or request.type_filling == t.ORDER_FILLING_FOK
                if nothing and not waits:
                    return self._outcome(t.TRADE_RETCODE_REJECT, request.symbol)
            order = self._order_from(request, reason)
            if named:
                order.position_id, order.closing = named.identifier, True
            self.account.selected.add(order.symbol)
            if handling.late_ms:
                order.due_msc = self.now_msc() + handling.late_ms
                order.hidden = handling.hidden
            if handling.late_ms or not available:
                order.price_open = D(0)
                self.execution.place(order)
                return Outcome(t.TRADE_RETCODE_PLACED, order=order.ticket)
            volume = self._part(spec, available, handling.fraction)
            deal = self.execution.fill(order, volume)
            if order.volume_current and waits and volume == available:
                self.execution.place(order)
            elif order.volume_current:
                self.execution.end(order, t.ORDER_STATE_PARTIAL, visible_msc=deal.visible_msc)
            retcode = t.TRADE_RETCODE_DONE_PARTIAL if order.volume_current else t.TRADE_RETCODE_DONE
            return self._outcome(retcode, order.symbol, deal, order.ticket)

        return act

    def _outcome(self, retcode: int, symbol: str, deal: Deal | None = None, order: int = 0) -> Outcome:
        quote = self.market.quotes[symbol]
        if deal is None:
            return Outcome(retcode, order=order, bid=quote.bid, ask=quote.ask)
        return Outcome(retcode, deal.ticket, order, deal.volume, deal.price, quote.bid, quote.ask)

    @staticmethod
    def _part(spec: SymbolSpec, volume: Decimal, fraction: Decimal) -> Decimal:
        """That part of a volume in whole steps, at least the minimum, at most all of it."""
        steps = (volume * fraction / spec.volume_step).quantize(D(1), ROUND_DOWN)
        return min(volume, max(spec.volume_min, steps * spec.volume_step))

    def _pending(self, request: Request, reason: int, handling: Handling) -> Act:
        spec = self._rules.spec_of(request.symbol)
        expires = self._rules.check_pending(spec, request)

        def act() -> Outcome:
            order = self._order_from(request, reason)
            order.time_expiration = expires
            self.execution.place(order)
            quote = self.market.quotes[order.symbol]
            return Outcome(
                t.TRADE_RETCODE_DONE, order=order.ticket, volume=order.volume_initial, bid=quote.bid, ask=quote.ask
            )

        return act

    def _sltp(self, request: Request, reason: int, handling: Handling) -> Act:
        position = self._rules.position_named(request.position)
        self._rules.check_levels(self.market.specs[position.symbol], request, position)

        def act() -> Outcome:
            position.sl, position.tp = request.sl, request.tp
            self.account.changed = True
            return Outcome(t.TRADE_RETCODE_DONE)

        return act

    def _modify(self, request: Request, reason: int, handling: Handling) -> Act:
        order = self._rules.order_named(request.order)
        expires = self._rules.check_modify(self.market.specs[order.symbol], request, order)
        stoplimit = request.stoplimit if order.type in STOP_LIMIT_TYPES else D(0)
        wanted = (request.price, request.sl, request.tp, stoplimit, request.type_time, expires)
        if wanted == (
            order.price_open, order.sl, order.tp, order.price_stoplimit, order.type_time, order.time_expiration
        ):  # fmt: skip
            raise RefusedError(t.TRADE_RETCODE_NO_CHANGES)

        def act() -> Outcome:
            order.price_open, order.sl, order.tp, order.price_stoplimit = wanted[:4]
            order.type_time, order.time_expiration = request.type_time, expires
            self.account.changed = True
            return Outcome(t.TRADE_RETCODE_DONE, order=order.ticket)

        return act

    def _remove(self, request: Request, reason: int, handling: Handling) -> Act:
        order = self._rules.order_named(request.order)

        def act() -> Outcome:
            self.execution.end(order, t.ORDER_STATE_CANCELED)
            return Outcome(t.TRADE_RETCODE_DONE, order=order.ticket)

        return act

    def _close_by(self, request: Request, reason: int, handling: Handling) -> Act:
        if self.settings.netting:
            raise RefusedError(t.TRADE_RETCODE_INVALID)
        first = self._rules.position_named(request.position)
        second = self._rules.position_named(request.position_by)
        self._rules.check_close_by(self.market.specs[first.symbol], first, second)

        def act() -> Outcome:
            order = self._order_from(request, reason)
            deal = self.execution.close_by(order, first, second)
            return Outcome(t.TRADE_RETCODE_DONE, deal.ticket, order.ticket, deal.volume, deal.price)

        return act

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
        if now // DAY_MSC != self._day:
            self._new_day(now)
        for order in list(account.orders.values()):
            if order.due_msc:
                if order.due_msc <= now:
                    self._execute(order, order.volume_current)
            elif order.time_expiration and order.time_expiration * 1000 <= now:
                self.execution.end(order, t.ORDER_STATE_EXPIRED)
            elif (moved is None or order.symbol in moved) and self._traded(order.symbol, now):
                self._trigger(order)
        for position in list(account.positions.values()):
            if (moved is None or position.symbol in moved) and self._traded(position.symbol, now):
                self._trigger_levels(position)
        if account.positions and self.settings.stop_out:
            self._stop_out(now)

    def _traded(self, symbol: str, now: int) -> bool:
        return self.market.specs[symbol].is_open(now)

    def _execute(self, order: Order, volume: Decimal) -> None:
        """Execute so much of a waiting market order, but of one that closes no more than there is to close."""
        if order.closing:
            position = self.account.position_with(order.position_id)
            if position is None or position.is_buy == order.is_buy:
                self.execution.end(order, t.ORDER_STATE_CANCELED)  # what it was to close is gone
                return
            volume = min(volume, position.volume)
        if not volume:
            return
        deal = self.execution.fill(order, volume)
        over = order.closing and self.account.position_with(order.position_id) is None
        if order.volume_current and over:
            self.execution.end(order, t.ORDER_STATE_PARTIAL, visible_msc=deal.visible_msc)

    def _trigger(self, order: Order) -> None:
        now = self.account.price(order.symbol, order.is_buy)
        if order.type in STOP_LIMIT_TYPES:
            if not (now >= order.price_open if order.is_buy else now <= order.price_open):
                return
            order.type = t.ORDER_TYPE_BUY_LIMIT if order.is_buy else t.ORDER_TYPE_SELL_LIMIT
            order.price_open, order.price_stoplimit = order.price_stoplimit, D(0)
            self.account.changed = True
        below = order.is_buy == (order.type in LIMIT_TYPES)
        reached = now <= order.price_open if below else now >= order.price_open
        # A stop order that has been filled in part was reached, whatever the price is by now.
        begun = order.state == t.ORDER_STATE_PARTIAL and order.type not in LIMIT_TYPES
        if not (reached or begun or order.at_market):
            return
        volume = self.market.available(order.symbol, order.is_buy, order.volume_current)
        if order.at_market:
            self._execute(order, volume)
            return
        hedges = self._rules.hedges(order.symbol, order.is_buy)
        if hedges or not self.account.affordable(order.symbol, order.is_buy, order.volume_current):
            self.execution.end(order, t.ORDER_STATE_REJECTED)
            return
        if volume < order.volume_current and order.type_filling == t.ORDER_FILLING_FOK:
            return  # it waits for a price at which there is enough
        if volume:
            self.execution.fill(order, volume)
        if order.volume_current and order.type_filling == t.ORDER_FILLING_IOC:
            self.execution.end(order, t.ORDER_STATE_PARTIAL if volume else t.ORDER_STATE_CANCELED)

    def _trigger_levels(self, position: Position) -> None:
        now = self._rules.closing_price(position)
        text = self.market.specs[position.symbol].price_text
        if position.sl and (now <= position.sl if position.is_buy else now >= position.sl):
            self.execution.close(position, t.ORDER_REASON_SL, f"[sl {text(position.sl)}]")
        elif position.tp and (now >= position.tp if position.is_buy else now <= position.tp):
            self.execution.close(position, t.ORDER_REASON_TP, f"[tp {text(position.tp)}]")

    def _stop_out(self, now: int) -> None:
        """Close the largest loser, again and again, while the margin level is at or below the stop-out level."""
        account = self.account
        while account.positions:
            margin = account.margin()
            if not margin or account.equity() / margin * 100 > self.settings.stop_out:
                return
            traded = [p for p in account.positions.values() if self._traded(p.symbol, now)]
            if not traded:
                return
            worst = min(traded, key=account.floating)
            level = account.equity() / margin * 100
            self.execution.close(worst, t.ORDER_REASON_SO, f"[so {level:.2f}%]")

    def _new_day(self, now: int) -> None:
        """The server's midnight: what is good for a day only ends, swap is charged for the nights since the last."""
        nights, ended = 0, self._day
        self._day = now // DAY_MSC
        for day in range(ended, min(self._day, ended + 366)):
            weekday_ended = weekday(day * DAY_MSC)
            if weekday_ended <= FRIDAY:
                nights += 3 if weekday_ended == TRIPLE_SWAP_DAY else 1
        for order in list(self.account.orders.values()):
            daily = self.market.specs[order.symbol].order_gtc_mode != t.SYMBOL_ORDERS_GTC
            if daily and order.type_time == t.ORDER_TIME_GTC and not order.due_msc:
                self.execution.end(order, t.ORDER_STATE_EXPIRED)
        for position in self.account.positions.values():
            if self.market.specs[position.symbol].order_gtc_mode == t.SYMBOL_ORDERS_DAILY:
                position.sl = position.tp = D(0)
                self.account.changed = True
        if self.settings.rollover and nights:
            self.roll_over(nights)

    def roll_over(self, nights: int) -> None:
        """Charge the swap of so many nights, or re-open the positions whose symbol does it that way."""
        for position in list(self.account.positions.values()):
            self.execution.charge_swap(position, nights)

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
                account.changed = True
            return True
        if name in account.traded():
            return False
        account.selected.discard(name)
        account.changed = True
        return True
