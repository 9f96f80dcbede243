"""What the simulated terminal answers: the calls of `mt5_sim`, and the controls of tests, from one broker.

`Terminal` is the terminal with its faults and its Algo Trading button; `sim_terminal` makes a process of it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import Decimal as D
from pathlib import Path
from typing import Any

import sim_types as t
from sim_broker import Broker
from sim_faults import API_CALLS, COPY_CALLS, READS, Faults, Rule
from sim_records import Handling, Outcome, Request
from sim_symbols import SetupError, decimal_of

BUILD = 5200
LARGEST_NUMBER = 1e12  # no price and no volume is larger


class CallFailedError(Exception):
    """The terminal answers a call with an error of the library: `last_error()` will show it."""

    def __init__(self, code: int, text: str = "", *, drop: bool = False) -> None:
        super().__init__(code, text or t.ERROR_TEXT.get(code, ""))
        self.code = code
        self.text = text or t.ERROR_TEXT.get(code, "")
        self.drop = drop  # the client loses its connection


@dataclass
class Session:
    """One client's connection."""

    connected: bool = False
    trade_allowed: bool = False  # false with the investor password
    pid: int = 0
    requests: int = 0  # numbers order_send's request_id
    books: set[str] = field(default_factory=set)
    hold: Callable[[], None] = lambda: None  # tell the client to wait for this answer without letting go of the GIL


class Terminal:
    """Answers the calls of `mt5_sim` from a broker, with the injected faults in between.

    Thread-safe: one lock around everything that touches the broker; nobody waits inside it.
    """

    def __init__(self, broker: Broker, *, password: str = "demo", investor_password: str = "investor") -> None:  # noqa: S107
        self.broker = broker
        self.lock = threading.RLock()
        self.running = True  # in one process with its clients: false makes every call fail as after a crash
        self._password = password
        self._investor_password = investor_password
        self._clock = broker.clock
        self._folder = str(Path.cwd())
        self._faults = Faults(self._clock.time)
        broker.execution.closing_delay = self._faults.closing_delay
        self._hanging: list[Rule] = []
        self._algo_trading = True  # the Algo Trading button
        self._api_disabled = False  # the option "disable automatic trading via external Python API"
        self._calls: dict[str, Callable[[Session, dict[str, Any]], Any]] = {
            "initialize": self._login,
            "login": self._login,
            "version": lambda session, args: [500, BUILD, "14 Aug 2025"],
            "account_info": self._account_info,
            "terminal_info": self._terminal_info,
            "symbols_total": lambda session, args: len(broker.market.specs),
            "symbols_get": lambda session, args: [broker.symbol_row(name) for name in broker.market.specs],
            "symbol_info": lambda session, args: broker.symbol_row(self._symbol(args)),
            "symbol_info_tick": self._tick,
            "symbol_select": lambda session, args: broker.select(self._symbol(args), bool(args.get("enable", True))),
            "market_book_add": self._book_add,
            "market_book_get": self._book_get,
            "market_book_release": self._book_release,
            "orders_total": lambda session, args: len(broker.orders()),
            "orders_get": self._orders_get,
            "positions_total": lambda session, args: len(broker.positions()),
            "positions_get": self._positions_get,
            "order_calc_margin": self._calc_margin,
            "order_calc_profit": self._calc_profit,
            "order_check": self._order_check,
            "history_orders_get": self._history_orders,
            "history_deals_get": self._history_deals,
            "history_orders_total": lambda session, args: len(self._history_orders(session, args)),
            "history_deals_total": lambda session, args: len(self._history_deals(session, args)),
            **dict.fromkeys(COPY_CALLS, self._ticks),
        }
        self._controls: dict[str, Callable[[dict[str, Any]], Any]] = {
            "inject": self._inject,
            "sim_clear_faults": lambda args: self._clear_faults(),
            "sim_faults": lambda args: [[r.function, r.outcome, r.left, r.details] for r in self._faults.rules],
            "sim_set_quote": self._set_quote,
            "sim_freeze": self._freeze,
            "sim_advance": self._advance,
            "sim_symbol": lambda args: broker.change_symbol(str(args.get("name")), dict(args.get("changes") or {})),
            "sim_account": lambda args: broker.change_account(dict(args.get("changes") or {})),
            "sim_rollover": self._rollover,
            "sim_trading": self._trading,
            "sim_deposit": lambda args: broker.deposit(_number(args, "amount"), str(args.get("comment") or "")),
            "sim_close_by_hand": self._close_by_hand,
            "sim_order_by_hand": self._order_by_hand,
        }

    def call(self, session: Session, name: str, args: dict[str, Any]) -> Any:
        """Answer one call; CallFailedError is an answer too, SetupError a wrong control."""
        if name in self._controls:
            with self.lock:
                result = self._controls[name](args)
                self._save_changes()
                return result
        if name not in API_CALLS:
            raise SetupError(f"no such call: {name!r}")
        if not session.connected and name != "initialize":
            raise CallFailedError(t.RES_E_INTERNAL_FAIL_CONNECT)
        with self.lock:
            if not self._faults.rules:  # by far the most calls
                return self._answered(session, name, args, None, False)
            offline = self._faults.offline(session.pid)
            rule = self._faults.take(name, args, session.pid)
            if rule is not None and rule.outcome == "hang":
                self._hanging.append(rule)
        late_answer = rule is not None and bool(rule.details.get("after"))
        if rule is not None and not late_answer:
            self._wait_for(rule, session)
        with self.lock:
            result = self._answered(session, name, args, rule, offline)
        if rule is not None and late_answer:
            self._wait_for(rule, session)
        return result

    def tick(self) -> None:
        """One step of the market."""
        with self.lock:
            self.broker.advance()
            self._save_changes()

    def close(self) -> None:
        """Let everybody go who hangs, and keep the last quotes."""
        with self.lock:
            self.running = False
            self._clear_faults()
            self.broker.save()

    def _save_changes(self) -> None:
        if self.broker.account.changed:
            self.broker.save()

    def _wait_for(self, rule: Rule, session: Session) -> None:
        if rule.outcome == "hang":
            if rule.details.get("gil"):
                session.hold()
            rule.released.wait()
        elif rule.outcome == "delay":
            sleep = getattr(self._clock, "sleep", time.sleep)
            sleep(rule.number("seconds", 1))

    def _clear_faults(self) -> None:
        self._faults.clear()
        for rule in self._hanging:
            rule.released.set()
        self._hanging = []

    def _answered(self, session: Session, name: str, args: dict[str, Any], rule: Rule | None, offline: bool) -> Any:
        try:
            return self._answer(session, name, args, rule, offline)
        except SetupError as error:
            raise CallFailedError(t.RES_E_INVALID_PARAMS) from error
        finally:
            self._save_changes()

    def _answer(self, session: Session, name: str, args: dict[str, Any], rule: Rule | None, offline: bool) -> Any:
        outcome = rule.outcome if rule is not None else ""
        if rule is not None and outcome == "none":
            raise self._failure(rule, t.RES_E_FAIL)
        if name in READS and (offline or outcome == "stale_empty"):
            return 0 if name.endswith("total") else []
        if name == "order_send":
            return self._order_send(session, args, rule, offline)
        result = self._calls[name](session, args)
        if name == "terminal_info" and offline:
            result[2] = False  # connected
        if rule is not None and outcome == "other_login":
            result[0] = int(rule.details.get("login", result[0] + 1))
        return result

    @staticmethod
    def _failure(rule: Rule, code: int) -> CallFailedError:
        code = int(rule.details.get("code", code))
        # After these two the library has no connection any more.
        lost = code in (t.RES_E_INTERNAL_FAIL_SEND, t.RES_E_INTERNAL_FAIL_RECEIVE)
        return CallFailedError(code, str(rule.details.get("text", "")), drop=bool(rule.details.get("drop", lost)))

    # ---- connection and account

    def _login(self, session: Session, args: dict[str, Any]) -> Any:
        settings = self.broker.settings
        login, password, server = args.get("login"), args.get("password"), args.get("server")
        session.connected = False
        if login not in (None, settings.login) or server not in (None, "", settings.server):
            raise CallFailedError(t.RES_E_AUTH_FAILED)
        # Without a password the terminal uses the one it has saved.
        if password not in (None, "", self._password, self._investor_password):
            raise CallFailedError(t.RES_E_AUTH_FAILED)
        session.connected = True
        session.trade_allowed = password in (None, "", self._password)
        session.pid = args.get("pid") or session.pid
        return True

    def _account_info(self, session: Session, args: dict[str, Any]) -> Any:
        return self.broker.account.account_row(session.trade_allowed)

    def _terminal_info(self, session: Session, args: dict[str, Any]) -> Any:
        folder = self._folder
        return [
            False, False, True, False, self._algo_trading, self._api_disabled, False, False, False, False,
            BUILD, 100_000, 1252, 25_000, 0.0, 0.0, self.broker.settings.company, "Simulated MetaTrader 5",
            "English", folder, folder, folder,
        ]  # fmt: skip

    # ---- symbols

    def _symbol(self, args: dict[str, Any]) -> str:
        name = args.get("symbol")
        if not isinstance(name, str) or name not in self.broker.market.specs:
            raise CallFailedError(t.RES_E_NOT_FOUND)
        return name

    def _tick(self, session: Session, args: dict[str, Any]) -> Any:
        name = self._symbol(args)
        if name not in self.broker.account.selected:
            raise CallFailedError(t.RES_E_NOT_FOUND)
        quote = self.broker.market.quotes[name]
        bid, flags = float(quote.bid), t.TICK_FLAG_BID | t.TICK_FLAG_ASK
        last = bid if self.broker.market.specs[name].has_last else 0.0
        return [quote.time_msc // 1000, bid, float(quote.ask), last, 0, quote.time_msc, flags, 0.0]

    def _ticks(self, session: Session, args: dict[str, Any]) -> Any:
        return [[msc, float(bid), float(ask)] for msc, bid, ask in self.broker.market.history[self._symbol(args)]]

    def _book_add(self, session: Session, args: dict[str, Any]) -> Any:
        session.books.add(self._symbol(args))
        return True

    def _book_get(self, session: Session, args: dict[str, Any]) -> Any:
        name = self._symbol(args)
        if name not in session.books:
            raise CallFailedError(t.RES_E_NOT_FOUND)
        quote = self.broker.market.quotes[name]
        return [
            [t.BOOK_TYPE_SELL, float(quote.ask), 100, 100.0],
            [t.BOOK_TYPE_BUY, float(quote.bid), 100, 100.0],
        ]

    def _book_release(self, session: Session, args: dict[str, Any]) -> Any:
        session.books.discard(self._symbol(args))
        return True

    # ---- orders, positions, history

    def _positions_get(self, session: Session, args: dict[str, Any]) -> Any:
        chosen = (p for p in self.broker.positions() if _chosen(p.ticket, p.symbol, args))
        return [self.broker.account.position_row(position) for position in chosen]

    def _orders_get(self, session: Session, args: dict[str, Any]) -> Any:
        chosen = (o for o in self.broker.orders() if _chosen(o.ticket, o.symbol, args))
        return [self.broker.account.order_row(order) for order in chosen]

    def _history_orders(self, session: Session, args: dict[str, Any]) -> Any:
        broker = self.broker
        if "ticket" in args or "position" in args:
            ticket, position = args.get("ticket") or -1, args.get("position") or -1
            found = broker.old_orders(ticket=ticket) if "ticket" in args else broker.old_orders(position=position)
        else:
            first, last = int(args["from"]), int(args["to"])
            found = (o for o in broker.old_orders() if first <= o.time_done_msc // 1000 <= last)
        return [broker.account.order_row(order) for order in found]

    def _history_deals(self, session: Session, args: dict[str, Any]) -> Any:
        broker = self.broker
        if "ticket" in args or "position" in args:
            ticket, position = args.get("ticket") or -1, args.get("position") or -1
            found = broker.deals(order=ticket) if "ticket" in args else broker.deals(position=position)
        else:
            first, last = int(args["from"]), int(args["to"])
            found = (d for d in broker.deals() if first <= d.time_msc // 1000 <= last)
        return [broker.account.deal_row(deal) for deal in found]

    def _calc_margin(self, session: Session, args: dict[str, Any]) -> Any:
        account = self.broker.account
        spec = account.spec(self._symbol(args))
        return float(account.money(_number(args, "volume") * account.lot_margin(spec, _number(args, "price"))))

    def _calc_profit(self, session: Session, args: dict[str, Any]) -> Any:
        opened, closed = _number(args, "price_open"), _number(args, "price_close")
        buy = args.get("action") == t.ORDER_TYPE_BUY
        name = self._symbol(args)
        return float(self.broker.account.profit(name, buy, _number(args, "volume"), opened, closed))

    def _order_check(self, session: Session, args: dict[str, Any]) -> Any:
        try:
            request = _request(args)
        except ValueError:
            return [t.TRADE_RETCODE_INVALID, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, t.RETCODE_TEXT[t.TRADE_RETCODE_INVALID]]
        retcode = self._forbidden(session)
        margin = self.broker.account.margin()
        if not retcode:
            retcode, margin = self.broker.check(request)
        account = self.broker.account
        equity = account.equity()
        level = float(equity / margin * 100) if margin else 0.0
        text = t.RETCODE_TEXT.get(retcode, "") if retcode else "Done"
        return [
            retcode, float(account.balance), float(equity), float(account.total_floating()), float(margin),
            float(equity - margin), level, text,
        ]  # fmt: skip

    def _forbidden(self, session: Session) -> int:
        """The retcode that answers every trade request, if there is one."""
        if self._api_disabled:
            raise CallFailedError(t.RES_E_AUTO_TRADING_DISABLED)
        if not session.trade_allowed:
            return t.TRADE_RETCODE_TRADE_DISABLED
        return 0 if self._algo_trading else t.TRADE_RETCODE_CLIENT_DISABLES_AT

    def _order_send(self, session: Session, args: dict[str, Any], rule: Rule | None, offline: bool) -> Any:
        session.requests += 1
        try:
            request = _request(args)
        except ValueError:
            return self._sent(session, Outcome(t.TRADE_RETCODE_INVALID))
        retcode = self._forbidden(session)
        if not retcode and offline:
            retcode = t.TRADE_RETCODE_CONNECTION
        if retcode:
            return self._sent(session, Outcome(retcode))
        return self._sent(session, self._with_fault(request, rule) if rule else self.broker.send(request))

    def _with_fault(self, request: Request, rule: Rule) -> Outcome:
        broker, outcome = self.broker, rule.outcome
        late_ms = round(rule.number("seconds", 3) * 1000)
        if outcome == "retcode":
            return Outcome(rule.details["retcode"])
        if outcome == "requote":
            quote = broker.market.quotes.get(request.symbol)
            bid, ask = (quote.bid, quote.ask) if quote else (D(0), D(0))
            return Outcome(t.TRADE_RETCODE_REQUOTE, bid=bid, ask=ask)
        if outcome == "timeout_not_executed":
            return Outcome(t.TRADE_RETCODE_TIMEOUT)
        if outcome == "none_not_executed":
            raise self._failure(rule, t.RES_E_INTERNAL_FAIL_RECEIVE)
        if outcome == "partial":
            return broker.send(request, handling=Handling(fraction=D(str(rule.number("fraction", 0.5)))))
        if outcome == "placed_late_fill":
            return broker.send(request, handling=Handling(late_ms=late_ms))
        if outcome == "timeout_late_fill":
            broker.send(request, handling=Handling(late_ms=late_ms, hidden=True))
            return Outcome(t.TRADE_RETCODE_TIMEOUT)
        if outcome == "retcode_late_fill":
            broker.send(request, handling=Handling(late_ms=late_ms, hidden=True))
            return Outcome(rule.details["retcode"])
        sent = broker.send(request)
        if outcome == "timeout_after_fill":
            return Outcome(t.TRADE_RETCODE_TIMEOUT)
        if outcome == "none_after_fill":
            raise self._failure(rule, t.RES_E_INTERNAL_FAIL_RECEIVE)
        if outcome == "retcode_after_fill":
            return Outcome(rule.details["retcode"])
        return sent

    @staticmethod
    def _sent(session: Session, o: Outcome) -> list[Any]:
        return [
            o.retcode, o.deal, o.order, float(o.volume), float(o.price), float(o.bid), float(o.ask),
            t.RETCODE_TEXT.get(o.retcode, "Unknown"), session.requests, 0,
        ]  # fmt: skip

    # ---- controls

    def _inject(self, args: dict[str, Any]) -> None:
        times, details = args.get("times", 1), args.get("details") or {}
        if times is not None and (not isinstance(times, int) or times < 0):
            raise SetupError(f"inject: times must be a number from 0 or None, not {times!r}")
        self._faults.add(str(args.get("function")), args.get("outcome", ""), times, details)

    def _set_quote(self, args: dict[str, Any]) -> None:
        self.broker.market.frozen = True
        self.broker.set_quote(str(args.get("symbol")), _number(args, "bid"), _number(args, "ask"))

    def _freeze(self, args: dict[str, Any]) -> None:
        self.broker.market.frozen = bool(args.get("frozen", True))

    def _advance(self, args: dict[str, Any]) -> None:
        for _ in range(int(args.get("steps", 1))):
            self.broker.advance()

    def _rollover(self, args: dict[str, Any]) -> None:
        nights = args.get("nights", 1)
        if not isinstance(nights, int) or not 0 < nights < 1000:
            raise SetupError(f"nights must be a number from 1, not {nights!r}")
        self.broker.roll_over(nights)

    def _trading(self, args: dict[str, Any]) -> None:
        self._algo_trading = bool(args.get("allowed", True))
        self._api_disabled = bool(args.get("api_disabled", False))

    def _close_by_hand(self, args: dict[str, Any]) -> Any:
        position = self.broker.account.positions.get(int(args.get("ticket", 0)))
        if position is None:
            raise SetupError(f"no open position {args.get('ticket')}")
        volume = _number(args, "volume") if args.get("volume") is not None else position.volume
        if not 0 < volume <= position.volume:
            raise SetupError(f"position {position.ticket} has {position.volume} lots; cannot close {volume}")
        return self.broker.execution.close(position, t.ORDER_REASON_CLIENT, "", volume).ticket

    def _order_by_hand(self, args: dict[str, Any]) -> Any:
        return self._sent(Session(), self.broker.send(_request(args), reason=t.ORDER_REASON_CLIENT))


def _chosen(ticket: int, symbol: str, args: dict[str, Any]) -> bool:
    if "ticket" in args:
        return bool(ticket == args["ticket"])
    return "symbol" not in args or bool(symbol == args["symbol"])


def _number(args: dict[str, Any], key: str) -> D:
    """A finite number of sensible size, exactly as it was written; SetupError otherwise."""
    value = args.get(key)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) <= LARGEST_NUMBER:
        raise SetupError(f"{key} must be a number, not {value!r}")
    return decimal_of(float(value))


_REQUEST_DECIMALS = ("volume", "price", "stoplimit", "sl", "tp")
_REQUEST_TEXTS = ("symbol", "comment")


def _request(args: dict[str, Any]) -> Request:
    """The trade request in a call's arguments; SetupError when it is none."""
    values: dict[str, Any] = {}
    for key in t.TradeRequest.__match_args__:
        if key not in args:
            continue
        value = args[key]
        if key in _REQUEST_DECIMALS:
            values[key] = _number(args, key)
        elif key in _REQUEST_TEXTS and isinstance(value, str):
            values[key] = value
        elif key not in _REQUEST_TEXTS and isinstance(value, int):
            values[key] = int(value)
        else:
            raise SetupError(f"{key} cannot be {value!r}")
    return Request(**values)
