"""The only module that knows the MetaTrader5 package; it is handed the package (or `mt5_sim`) as an argument.

A question that was not answered raises `Unreadable` and is never an empty answer. An order ends in one of four ways,
which `outcomes.py` looks up. Nothing here decides whether to trade, and nothing here sends an order twice but for one
reason: the broker refused the filling mode (10030), which is a proof that nothing was executed.

Facts about the package are cited as "MT5 docs" (integration pages and MQL5 reference) or "measured" (the package itself
run against a stand-in).
"""

from __future__ import annotations

import functools
import logging
import math
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

from account import (
    Account,
    Deal,
    Entry,
    Lifetime,
    MarginMode,
    Order,
    OrderEnd,
    PastOrder,
    Position,
    Reading,
    Symbol,
)
from config import Mt5Settings
from expiry import Until
from outcomes import Op, Outcome, Verdict, verdict_of, words_for
from signals import Action

log = logging.getLogger(__name__)

DAY_S: Final = 86_400
AGREE_S: Final = 5.0  # a quote that fits to the broker's clock so well is hardly an old one
EXPECTED_S: Final = 3.0  # the first quote of a symbol that is selected comes within so long, where there are any


class Unreadable(Exception):
    """The terminal did not answer, or not about our account. Says nothing about the account's positions."""


class ConnectionLost(Unreadable):
    """There is no connection to the terminal program: `connect()` again."""


class CannotConnect(Exception):
    """The terminal cannot be reached or does not let us in; str() says what was tried and what to do."""


# --- numbers ---------------------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=4096)
def exact(value: float) -> Decimal:
    """The decimal number that a double of the terminal stands for: 0.30000000000000004 is 0.3."""
    return Decimal(repr(round(value, 10)))


# --- the terminal ----------------------------------------------------------------------------------------------------

# Named here because the package does not export them. MT5 docs, symbol_filling_mode: a bit mask of its own, not
# ORDER_FILLING_*.
_FILLING_FLAG_IOC = 2
_EXECUTION_MARKET, _EXECUTION_EXCHANGE = 2, 3


class Terminal:
    """One terminal and the account that is expected in it. For one thread."""

    def __init__(self, mt5: Any, settings: Mt5Settings, clock: Any = time) -> None:
        self._mt5 = mt5
        self._settings = settings
        self._clock = clock
        self._offset_s: int | None = None
        self._broker_ahead_s = 0.0  # the broker's clock against the monotonic one when the offset was found
        self._quote_times: dict[str, int] = {}  # as `utc_offset_s` saw them last
        self._from_before: dict[str, int] = {}  # time of the quote that a symbol showed when it was selected
        self._selected_at = -math.inf  # monotonic: the last one of them
        self._filling: dict[tuple[str, bool], int] = {}  # (symbol, pending) → the mode that was taken last
        self._actions = {getattr(mt5, f"ORDER_TYPE_{action}"): action for action in Action}

    # -- connection

    def connect(self) -> None:
        """Connect and log in, starting the terminal when it is not running. Raises `CannotConnect`."""
        s = self._settings
        path = (s.path,) if s.path else ()
        options = {"portable": True} if s.portable else {}
        ok = self._mt5.initialize(
            *path, login=s.login, password=s.password, server=s.server, timeout=s.timeout_ms, **options
        )
        if not ok:
            code, words = self._mt5.last_error()
            raise CannotConnect(
                f"no connection to the terminal for account {s.login} at {s.server}"
                f"{f' ({s.path})' if s.path else ''}: {words} ({code}). {_advice(code)}"
            )
        try:
            self._gate()
        except Unreadable as problem:
            raise CannotConnect(str(problem)) from problem
        self._filling.clear()

    def close(self) -> None:
        self._mt5.shutdown()

    def _failed(self, question: str) -> Unreadable:
        code, words = self._mt5.last_error()
        kind = ConnectionLost if code in (-10001, -10002, -10003, -10004) else Unreadable
        return kind(f"{question} was not answered: {words} ({code})")

    def _gate(self) -> tuple[Any, Any]:
        """What terminal and account say of themselves, when the account is ours and the terminal is connected to its
        broker. Raises `Unreadable`."""
        terminal = self._mt5.terminal_info()
        if terminal is None:
            raise self._failed("terminal_info")
        info = self._mt5.account_info()
        if info is None:
            raise self._failed("account_info")
        if not terminal.connected:
            raise Unreadable("the terminal is not connected to the broker")
        wanted = self._settings
        if info.login != wanted.login or info.server.casefold() != wanted.server.casefold():
            raise Unreadable(
                f"the terminal is logged in to account {info.login} at {info.server}, "
                f"expected is {wanted.login} at {wanted.server}"
            )
        return terminal, info

    def permissions(self) -> list[Permission]:
        """What has to be allowed before an order is taken. Raises `Unreadable`."""
        terminal, account = self._mt5.terminal_info(), self._mt5.account_info()
        if terminal is None or account is None:
            raise self._failed("terminal_info or account_info")
        return [Permission(name, given(terminal, account), missing) for name, given, missing in _PERMISSIONS]

    # -- looking

    def read(self) -> Reading:
        """The account, its orders and positions, at one moment. Raises `Unreadable`.

        Orders are read before positions: a pending order that fills between the two is then seen twice, never zero
        times. The account is checked before and after, because another one may be logged in at any moment.
        """
        self._gate()
        orders = self._mt5.orders_get()
        if orders is None:
            raise self._failed("orders_get")
        positions = self._mt5.positions_get()
        if positions is None:
            raise self._failed("positions_get")
        return Reading(
            _account(*self._gate()),
            tuple(self._position(p) for p in positions),
            tuple(self._order(o) for o in orders if o.type in self._actions),
        )

    def _position(self, p: Any) -> Position:
        return Position(
            ticket=p.ticket,
            identifier=p.identifier,
            symbol=p.symbol,
            action=self._actions[p.type],
            volume=exact(p.volume),
            price=exact(p.price_open),
            sl=exact(p.sl),
            tp=exact(p.tp),
            magic=p.magic,
            comment=p.comment,
            time_msc=p.time_msc,
            profit=exact(p.profit),
            updated_msc=p.time_update_msc,
        )

    def _order(self, o: Any) -> Order:
        return Order(
            ticket=o.ticket,
            symbol=o.symbol,
            action=self._actions[o.type],
            initial_volume=exact(o.volume_initial),
            volume=exact(o.volume_current),
            price=exact(o.price_open),
            stoplimit=exact(o.price_stoplimit),
            sl=exact(o.sl),
            tp=exact(o.tp),
            magic=o.magic,
            comment=o.comment,
            time_msc=o.time_setup_msc,
            expiration_msc=o.time_expiration * 1000,
            lifetime=Lifetime(o.type_time),
        )

    def symbol(self, name: str) -> Symbol | None:
        """The symbol with its quote now, None when the broker has none of that name. Raises `Unreadable`.

        A symbol outside Market Watch has no quotes: it is selected first (MT5 docs, symbol_select), and shows a bid and
        ask of 0 until its first quote has come. What the terminal shows of it at once may be the last quote of days ago
        (mt5.md 2.10) and counts as none, unless the broker's clock, known from others, shows that it is of now.
        """
        info = self._mt5.symbol_info(name)
        if info is None:
            code, _ = self._mt5.last_error()
            if code == self._mt5.RES_E_NOT_FOUND:
                return None
            raise self._failed(f"symbol_info({name})")
        selected = not (info.select and info.visible)
        if selected and not self._mt5.symbol_select(name, True):
            raise self._failed(f"symbol_select({name})")
        volume_step, point = exact(info.volume_step), exact(info.point)
        if volume_step <= 0 or point <= 0:
            raise Unreadable(f"the terminal does not know the volume step or the point of {name} yet")
        tick = self._mt5.symbol_info_tick(name)
        if selected and not (tick and self._is_of_now(tick.time_msc)):
            self._from_before[name] = tick.time_msc if tick else 0
            self._selected_at = self._clock.monotonic()
        if tick and self._from_before.get(name) == tick.time_msc:
            tick = None
        mt5 = self._mt5
        full = info.trade_mode == mt5.SYMBOL_TRADE_MODE_FULL
        return Symbol(
            name=info.name,
            bid=exact(tick.bid) if tick else Decimal(0),
            ask=exact(tick.ask) if tick else Decimal(0),
            time_msc=tick.time_msc if tick else 0,
            point=point,
            digits=info.digits,
            tick_size=exact(info.trade_tick_size) or point,
            contract_size=exact(info.trade_contract_size),
            volume_min=exact(info.volume_min),
            volume_max=exact(info.volume_max),
            volume_step=volume_step,
            trade_mode=info.trade_mode,
            opens_buy=full or info.trade_mode == mt5.SYMBOL_TRADE_MODE_LONGONLY,
            opens_sell=full or info.trade_mode == mt5.SYMBOL_TRADE_MODE_SHORTONLY,
            stops_level=info.trade_stops_level,
            freeze_level=info.trade_freeze_level,
            lifetimes=frozenset(one for one in Lifetime if info.expiration_mode & 1 << one),
        )

    def _is_of_now(self, time_msc: int) -> bool:
        """False also where it cannot be told."""
        return self._offset_s is not None and abs(time_msc / 1000 - self._clock.time() - self._offset_s) < AGREE_S

    @property
    def expects_quote(self) -> bool:
        """Whether a symbol was selected a moment ago, so that its first quote may come any time."""
        now: float = self._clock.monotonic()
        return now - self._selected_at < EXPECTED_S

    def margin_per_lot(self, action: Action, symbol: Symbol) -> Decimal | None:
        """Margin of one lot at the price now, in account currency; None when the terminal cannot say."""
        side = self._mt5.ORDER_TYPE_BUY if action.buys else self._mt5.ORDER_TYPE_SELL
        price = symbol.ask if action.buys else symbol.bid
        margin = self._mt5.order_calc_margin(side, symbol.name, 1.0, float(price))
        return None if margin is None else exact(margin)

    def quote_times(self, symbols: set[str]) -> dict[str, int]:
        """Time of the newest quote of each symbol that has one, by the broker's clock in ms."""
        ticks = {name: self._mt5.symbol_info_tick(name) for name in symbols}
        return {name: tick.time_msc for name, tick in ticks.items() if tick}

    def market_watch(self, most: int = 20) -> set[str]:
        """Some of the symbols that have quotes. Raises `Unreadable`."""
        found = self._mt5.symbols_get()
        if found is None:
            raise self._failed("symbols_get")
        return set([info.name for info in found if info.select and info.visible][:most])

    def utc_offset_s(self, symbols: set[str]) -> int | None:
        """Seconds by which the broker's clock is ahead of UTC, None while no fresh quote has shown it.

        Measured: all times of the package are the broker's wall clock written as if it were UTC. The offset is a
        multiple of half an hour. A quote shows it while it is young: when it has just come in the place of an older
        one. Friday's last quote is a multiple of half an hour old again and again until Monday and must not count; one
        that was there at the first look may be such a one, and counts only when it fits to a few seconds.
        A known offset changes only when the broker's clock has jumped against the monotonic clock as well (summer
        time); when it has not, the clock of this machine was set.
        """
        now, monotonic = self._clock.time(), self._clock.monotonic()
        for name, time_msc in sorted(self.quote_times(symbols).items(), key=lambda item: item[1]):
            before = self._quote_times.get(name)
            self._quote_times[name] = time_msc
            if before == time_msc:
                continue
            difference = time_msc / 1000 - now
            offset = round(difference / 1800) * 1800
            if abs(difference - offset) < (AGREE_S if before is None else 60) and -12 * 3600 <= offset <= 14 * 3600:
                ahead = time_msc / 1000 - monotonic
                if self._offset_s is None or abs(ahead - self._broker_ahead_s) > 900:
                    self._offset_s, self._broker_ahead_s = offset, ahead
        return self._offset_s

    # -- history

    def deals_of(self, identifier: int) -> list[Deal]:
        """All deals of a position. Raises `Unreadable`. A deal may appear up to seconds after its effect."""
        deals = self._mt5.history_deals_get(position=identifier)
        if deals is None:
            raise self._failed(f"history_deals_get(position={identifier})")
        return [
            Deal(
                ticket=d.ticket,
                order=d.order,
                position_id=d.position_id,
                entry=Entry(d.entry),
                buys=d.type == self._mt5.DEAL_TYPE_BUY,
                volume=exact(d.volume),
                price=exact(d.price),
                profit=exact(d.profit),
                reason=d.reason,
                magic=d.magic,
                comment=d.comment,
                time_msc=d.time_msc,
            )
            for d in deals
        ]

    def past_order(self, ticket: int) -> PastOrder | None:
        """An order that is no longer pending, None while the history does not have it. Raises `Unreadable`."""
        found = self._mt5.history_orders_get(ticket=ticket)
        if found is None:
            raise self._failed(f"history_orders_get(ticket={ticket})")
        return self._past(found[0]) if found else None

    def past_orders(self, since_s: int) -> list[PastOrder]:
        """Orders of the last `since_s` seconds that are no longer pending. Raises `Unreadable`.

        The history is asked for in the broker's clock, which is within a day of UTC: a day is added at both ends.
        """
        now = int(self._clock.time())
        found = self._mt5.history_orders_get(now - since_s - DAY_S, now + DAY_S)
        if found is None:
            raise self._failed("history_orders_get")
        return [self._past(order) for order in found]

    def _past(self, o: Any) -> PastOrder:
        mt5 = self._mt5
        ends = {
            mt5.ORDER_STATE_FILLED: OrderEnd.FILLED,
            mt5.ORDER_STATE_CANCELED: OrderEnd.CANCELLED,
            mt5.ORDER_STATE_REJECTED: OrderEnd.CANCELLED,
            mt5.ORDER_STATE_EXPIRED: OrderEnd.EXPIRED,
        }
        return PastOrder(
            ticket=o.ticket,
            position_id=o.position_id,
            end=ends.get(o.state, OrderEnd.UNDECIDED),
            symbol=o.symbol,
            action=self._actions.get(o.type),
            volume=exact(o.volume_initial),
            filled=exact(o.volume_initial) - exact(o.volume_current),
            magic=o.magic,
            comment=o.comment,
            time_msc=o.time_setup_msc,
        )

    # -- trading

    def open(
        self,
        symbol: Symbol,
        action: Action,
        volume: Decimal,
        *,
        sl: Decimal,
        tp: Decimal,
        deviation: int,
        magic: int,
        comment: str,
    ) -> Outcome:
        """Open a position at market. `deviation` in points, for Request and Instant execution only (MT5 docs)."""
        return self._send_filled(
            Op.OPEN,
            symbol.name,
            {
                "action": self._mt5.TRADE_ACTION_DEAL,
                "symbol": symbol.name,
                "volume": float(volume),
                "type": self._type(action),
                "price": float(symbol.ask if action.buys else symbol.bid),
                "sl": float(sl),
                "tp": float(tp),
                "deviation": deviation,
                "magic": magic,
                "comment": comment,
            },
        )

    def close_position(
        self, position: Position, volume: Decimal, *, deviation: int, magic: int, comment: str
    ) -> Outcome:
        """Close `volume` lots of a position. Less than all of it is not harmless to repeat; all of it is.

        Without a quote it is sent all the same: Market and Exchange execution do not look at the price (MT5 docs).
        """
        opposite = Action.SELL if position.action.buys else Action.BUY
        tick = self._mt5.symbol_info_tick(position.symbol)
        price = 0.0 if tick is None else tick.ask if opposite.buys else tick.bid
        return self._send_filled(
            Op.CLOSE if volume >= position.volume else Op.REDUCE,
            position.symbol,
            {
                "action": self._mt5.TRADE_ACTION_DEAL,
                "symbol": position.symbol,
                "position": position.ticket,
                "volume": float(volume),
                "type": self._type(opposite),
                "price": float(price),
                "deviation": deviation,
                "magic": magic,
                "comment": comment,
            },
        )

    def trade_against(
        self, symbol: str, action: Action, volume: Decimal, *, position: int, deviation: int, magic: int, comment: str
    ) -> Outcome:
        """On a netting account: trade `volume` lots the other way than `action`. Not harmless to repeat.

        With a `position` (ticket) the broker takes it as the close of that one, which can turn nothing round and opens
        nothing when it is gone already (MT5 docs, MqlTradeRequest); 0 = none.
        """
        opposite = Action.SELL if action.buys else Action.BUY
        tick = self._mt5.symbol_info_tick(symbol)
        price = 0.0 if tick is None else tick.ask if opposite.buys else tick.bid
        return self._send_filled(
            Op.REDUCE,
            symbol,
            {
                "action": self._mt5.TRADE_ACTION_DEAL,
                "symbol": symbol,
                "volume": float(volume),
                "type": self._type(opposite),
                "price": float(price),
                "deviation": deviation,
                "magic": magic,
                "comment": comment,
                **({"position": position} if position else {}),
            },
        )

    def modify_position(self, position: Position, *, sl: Decimal, tp: Decimal) -> Outcome:
        """Set both stops of a position; 0 removes one (MT5 docs, TRADE_ACTION_SLTP sets both)."""
        return self._send(
            Op.MODIFY,
            {
                "action": self._mt5.TRADE_ACTION_SLTP,
                "symbol": position.symbol,
                "position": position.ticket,
                "sl": float(sl),
                "tp": float(tp),
            },
        )

    def place(
        self,
        symbol: Symbol,
        action: Action,
        volume: Decimal,
        *,
        price: Decimal,
        stoplimit: Decimal,
        sl: Decimal,
        tp: Decimal,
        expiration: Until,
        magic: int,
        comment: str,
    ) -> Outcome:
        """Place a pending order."""
        return self._send_filled(
            Op.PLACE,
            symbol.name,
            {
                "action": self._mt5.TRADE_ACTION_PENDING,
                "symbol": symbol.name,
                "volume": float(volume),
                "type": self._type(action),
                "price": float(price),
                "stoplimit": float(stoplimit),
                "sl": float(sl),
                "tp": float(tp),
                **self._until(expiration),
                "magic": magic,
                "comment": comment,
            },
        )

    def modify_order(
        self, order: Order, *, price: Decimal, stoplimit: Decimal, sl: Decimal, tp: Decimal, expiration: Until
    ) -> Outcome:
        """Move a pending order. Whatever is not repeated here the broker would delete (MT5 docs)."""
        return self._send(
            Op.MODIFY,
            {
                "action": self._mt5.TRADE_ACTION_MODIFY,
                "order": order.ticket,
                "symbol": order.symbol,
                "price": float(price),
                "stoplimit": float(stoplimit),
                "sl": float(sl),
                "tp": float(tp),
                **self._until(expiration),
            },
        )

    def remove_order(self, order: Order) -> Outcome:
        return self._send(Op.REMOVE, {"action": self._mt5.TRADE_ACTION_REMOVE, "order": order.ticket})

    def _type(self, action: Action) -> int:
        return int(getattr(self._mt5, f"ORDER_TYPE_{action}"))

    @staticmethod
    def _until(expiration: Until) -> dict[str, int]:
        named = {"type_time": int(expiration.lifetime)}
        return named | ({"expiration": expiration.at} if expiration.at else {})

    def _send_filled(self, op: Op, symbol: str, request: Mapping[str, Any]) -> Outcome:
        """Send with the filling mode that fits the symbol; on 10030 (nothing was executed) each other mode once."""
        pending = op is Op.PLACE
        outcome = Outcome(Verdict.REFUSED, 10030, words_for(10030))
        for mode in self._filling_modes(symbol, pending):
            outcome = self._send(op, {**request, "type_filling": mode})
            if outcome.code != 10030:
                self._filling[symbol, pending] = mode
                break
            self._filling.pop((symbol, pending), None)
        return outcome

    def _filling_modes(self, symbol: str, pending: bool) -> list[int]:
        """All three modes, the likeliest first. MT5 docs, symbol_filling_mode and enum_order_type_filling."""
        mt5 = self._mt5
        fok, ioc, rest = mt5.ORDER_FILLING_FOK, mt5.ORDER_FILLING_IOC, mt5.ORDER_FILLING_RETURN
        info = mt5.symbol_info(symbol)
        flags = info.filling_mode if info is not None else 0
        execution = info.trade_exemode if info is not None else None
        if pending:
            modes = [rest, fok, ioc]
        elif execution == _EXECUTION_MARKET:
            modes = [ioc, fok, rest] if flags & _FILLING_FLAG_IOC else [fok, ioc, rest]
        elif execution == _EXECUTION_EXCHANGE:
            modes = [rest, ioc, fok]
        else:
            modes = [fok, ioc, rest]
        taken = self._filling.get((symbol, pending))
        return [mode for mode in modes if mode == taken] + [mode for mode in modes if mode != taken]

    def _send(self, op: Op, request: Mapping[str, Any]) -> Outcome:
        """Send one request, once. Never raises: what went wrong is in the verdict."""
        try:
            self._gate()  # another account may have been logged in since the last look
        except Unreadable as problem:
            return Outcome(Verdict.LATER, -10004, f"not sent: {problem}")
        try:
            result = self._mt5.order_send(dict(request))
        except Exception as error:  # noqa: BLE001  whatever the package does here, the order may be at the broker
            return Outcome(Verdict.UNKNOWN, -1, f"order_send failed: {error!r}")
        if result is None:
            code, words = self._mt5.last_error()
            return Outcome(verdict_of(op, code), code, words)
        words = words_for(result.retcode)
        return Outcome(
            verdict_of(op, result.retcode),
            result.retcode,
            f"{words} ({result.comment})" if result.comment else words,
            order=result.order,
            volume=exact(result.volume),
            price=exact(result.price),
        )


def connect_until(terminal: Terminal, stop: threading.Event) -> bool:
    """Connect, trying again with growing pauses until it works; False when `stop` was set first."""
    said, rest = "", 1.0
    while not stop.is_set():
        try:
            terminal.connect()
        except CannotConnect as problem:
            if str(problem) != said:
                said = str(problem)
                log.error("%s Trying again.", said)
            stop.wait(rest)
            rest = min(rest * 1.5, 15.0)
        else:
            log.info("connected to the terminal")
            return True
    return False


@dataclass(frozen=True, slots=True)
class Permission:
    """One of the switches that all have to be on before an order is taken."""

    name: str
    given: bool
    missing: str  # what is wrong when it is not given, and what to do


def _account(terminal: Any, info: Any) -> Account:
    return Account(
        login=info.login,
        server=info.server,
        currency=info.currency,
        leverage=info.leverage,
        balance=exact(info.balance),
        equity=exact(info.equity),
        margin_free=exact(info.margin_free),
        margin_mode=MarginMode(info.margin_mode),
        trading_refused=_why_no_trading(terminal, info),
    )


# Name, whether it is given by what terminal_info and account_info say, and what is wrong when it is not.
_PERMISSIONS: Final[tuple[tuple[str, Callable[[Any, Any], bool], str], ...]] = (
    (
        "trading password",
        lambda terminal, account: bool(account.trade_allowed),
        "the account is read-only: log in with the trading password, not the investor password",
    ),
    (
        "automatic trading by the broker",
        lambda terminal, account: bool(account.trade_expert),
        "the broker does not allow automatic trading on this account",
    ),
    (
        "API trading",
        lambda terminal, account: not terminal.tradeapi_disabled,
        "trading from Python is switched off: Tools > Options > Expert Advisors, "
        'untick "Disable automatic trading via external Python API"',
    ),
    (
        "Algo Trading",
        lambda terminal, account: bool(terminal.trade_allowed),
        'automatic trading is switched off: press "Algo Trading" in the terminal',
    ),
)


def _why_no_trading(terminal: Any, account: Any) -> str:
    """Why orders would be refused now, in words that say what to do; empty when they would not."""
    return next((missing for _, given, missing in _PERMISSIONS if not given(terminal, account)), "")


def _advice(code: int) -> str:
    return {
        -6: "Check mt5.login, mt5.password and mt5.server (its name is the one in the terminal's log-in window).",
        -10003: "Is MetaTrader 5 installed? If it is not in its usual folder, set mt5.path to its terminal64.exe.",
        -10005: "The terminal answers but is not logged in yet; is it connected to the internet?",
    }.get(code, "Is the terminal running and logged in?")
