"""A drop-in for the MetaTrader5 package that talks to a simulated terminal (`sim_terminal.py`).

    import mt5_sim as mt5
    mt5.initialize("127.0.0.1:18801", login=1001, password="demo", server="Sim")
    mt5.order_send({...})

Functions, argument rules, result types, constants and `last_error()` are those of MetaTrader5 5.0.6231, so that
code written against this module meets the same surprises it would meet against a real terminal: None (unknown) and
() (nothing) differ, order fields are strictly typed, unknown keywords are ignored. What has no counterpart in the
package is named `sim_...`, besides `inject`, which makes the next calls go wrong (docs/simulator.md).

A `Client` is one connection with its own `last_error()`; the module's functions are those of one `Client`. A test
may make several and hand each out as "the module".
"""

from __future__ import annotations

import functools
import importlib
import os
import threading
from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeVar

import sim_types as t
from sim_arguments import (
    NoAnswerError,
    credentials_in,
    dates_in,
    in_group,
    int32,
    integer_in,
    invalid,
    only_symbol,
    parsed,
    text_in,
    trade_request,
    unsigned,
)
from sim_arrays import POINT, TIMEFRAMES, bars_of, numpy, rate_array, tick_array
from sim_link import ENVIRONMENT, Link, LocalLink, ReceiveFailedError, SendFailedError, SocketLink, connect

if TYPE_CHECKING:
    from sim_api import Terminal
    from sim_broker import Broker

__version__ = t.VERSION
__author__ = "MetaQuotes Ltd."

Function = TypeVar("Function", bound=Callable[..., Any])


def _api(failure: Any) -> Callable[[Function], Function]:
    """A function of the package: sets (1, 'Success') first, and answers `failure` when there is no result."""

    def decorate(function: Function) -> Function:
        @functools.wraps(function)
        def call(self: Client, /, *args: Any, **kwargs: Any) -> Any:
            with self._lock:
                self._error = (t.RES_S_OK, t.ERROR_TEXT[t.RES_S_OK])
                try:
                    return function(self, *args, **kwargs)
                except NoAnswerError as missing:
                    self._error = missing.error
                    return failure

        return call  # type: ignore[return-value]

    return decorate


class Client:
    """One connection to one simulated terminal, with everything the MetaTrader5 package has.

    Without an argument it connects to a terminal process. Given a `Broker` or a `Terminal` it talks to that one,
    in this process and without a socket, whatever path `initialize` is given; clients that share faults and
    the Algo Trading button share a `Terminal`.
    """

    def __init__(self, terminal: Broker | Terminal | None = None) -> None:
        if terminal is not None and not hasattr(terminal, "call"):
            terminal = importlib.import_module("sim_api").Terminal(terminal)
        self._local: Any = terminal
        self._link: Link | None = None
        self._lost = (t.RES_E_INTERNAL_FAIL_CONNECT, t.ERROR_TEXT[t.RES_E_INTERNAL_FAIL_CONNECT])
        self._error: tuple[int, str] = (0, "")
        self._lock = threading.RLock()  # the real package holds the GIL for a whole call

    # ---- the connection

    def _ask(self, name: str, args: dict[str, Any] | None = None) -> Any:
        """One call of the terminal; NoAnswerError says what last_error() is to say."""
        if self._link is None:
            raise NoAnswerError(*self._lost)
        try:
            answer = self._link.call(name, args or {})
        except SendFailedError as error:
            self._disconnect(t.RES_E_INTERNAL_FAIL_SEND)
            raise NoAnswerError(t.RES_E_INTERNAL_FAIL_SEND) from error
        except ReceiveFailedError as error:
            self._disconnect()
            raise NoAnswerError(t.RES_E_INTERNAL_FAIL_RECEIVE) from error
        except BaseException:  # interrupted in the middle: the next answer would be of this call
            self._disconnect()
            raise
        if "wrong" in answer:
            raise ValueError(answer["wrong"])
        if "error" in answer:
            if answer.get("drop"):
                self._disconnect()
            raise NoAnswerError(*answer["error"][:2])
        return answer["result"]

    def _disconnect(self, code: int = t.RES_E_INTERNAL_FAIL_CONNECT) -> None:
        """From here on every call fails with that code, until initialize()."""
        if self._link is not None:
            self._link.close()
        self._link = None
        self._lost = (code, t.ERROR_TEXT[code])

    @_api(failure=False)
    def initialize(self, *args: Any, **kwargs: Any) -> Any:
        """initialize([path], login=, password=, server=, timeout=60000, portable=False) -> bool."""
        if len(args) > 1:
            invalid("Invalid number of arguments")
        path = args[0] if args else kwargs.get("path")
        credentials = credentials_in(kwargs)
        timeout = integer_in(kwargs, "timeout", 60_000) / 1000
        integer_in(kwargs, "portable", 0)
        if path is not None and not isinstance(path, str):
            invalid('Invalid "path" argument')
        self._disconnect()
        link = LocalLink(self._local) if self._local else connect(path or os.environ.get(ENVIRONMENT), timeout)
        self._link = link
        try:
            self._ask("initialize", credentials | {"pid": os.getpid()})
        except TimeoutError:
            raise NoAnswerError(t.RES_E_INTERNAL_FAIL_TIMEOUT) from None
        except NoAnswerError:
            self._disconnect()
            raise
        if isinstance(link, SocketLink):
            link.no_timeout()
        return True

    @_api(failure=False)
    def login(self, *args: Any, **kwargs: Any) -> Any:
        """login(login, password="", server="", timeout=60000) -> bool."""
        if len(args) > 4:
            invalid("Invalid number of arguments")
        given = dict(zip(("login", "password", "server", "timeout"), args, strict=False)) | kwargs
        credentials = credentials_in(given)
        integer_in(given, "timeout", 60_000)
        if not credentials.get("login"):
            invalid('Invalid "login" argument')
        self._ask("login", credentials)
        return True

    @_api(failure=True)
    def shutdown(self) -> Any:
        self._disconnect()
        return True

    @_api(failure=(0, 0, ""))
    def version(self) -> Any:
        return tuple(self._ask("version"))

    def last_error(self) -> tuple[int, str]:
        return self._error

    @_api(failure=None)
    def account_info(self) -> Any:
        return t.AccountInfo(self._ask("account_info"))

    @_api(failure=None)
    def terminal_info(self) -> Any:
        return t.TerminalInfo(self._ask("terminal_info"))

    # ---- symbols

    @_api(failure=None)
    def symbols_total(self) -> Any:
        return self._ask("symbols_total")

    @_api(failure=None)
    def symbols_get(self, *args: Any, **kwargs: Any) -> Any:
        if len(args) > 1:
            invalid("Invalid number of arguments")
        group = text_in(args[0] if args else kwargs.get("group", "*"), "group")
        if self._link is None:
            raise NoAnswerError(t.RES_E_INVALID_VERSION)
        symbols = (t.SymbolInfo(row) for row in self._ask("symbols_get"))
        return tuple(symbol for symbol in symbols if in_group(symbol.name, group))

    @_api(failure=None)
    def symbol_info(self, *args: Any) -> Any:
        return t.SymbolInfo(self._ask("symbol_info", {"symbol": only_symbol(args)}))

    @_api(failure=None)
    def symbol_info_tick(self, *args: Any) -> Any:
        return t.Tick(self._ask("symbol_info_tick", {"symbol": only_symbol(args)}))

    @_api(failure=False)
    def symbol_select(self, *args: Any) -> Any:
        symbol, enable = only_symbol(args[:1]), args[1] if len(args) > 1 else True
        if len(args) > 2 or not isinstance(enable, int):
            invalid("Invalid arguments")
        if not self._ask("symbol_select", {"symbol": symbol, "enable": bool(enable)}):
            raise NoAnswerError(t.RES_E_FAIL)
        return True

    @_api(failure=False)
    def market_book_add(self, *args: Any) -> Any:
        return self._ask("market_book_add", {"symbol": only_symbol(args)})

    @_api(failure=None)
    def market_book_get(self, *args: Any) -> Any:
        rows = self._ask("market_book_get", {"symbol": only_symbol(args)})
        return tuple(t.BookInfo(row) for row in rows)

    @_api(failure=False)
    def market_book_release(self, *args: Any) -> Any:
        return self._ask("market_book_release", {"symbol": only_symbol(args)})

    # ---- positions and orders

    @_api(failure=None)
    def positions_total(self) -> Any:
        return self._ask("positions_total")

    @_api(failure=None)
    def orders_total(self) -> Any:
        return self._ask("orders_total")

    @_api(failure=None)
    def positions_get(self, *args: Any, **kwargs: Any) -> Any:
        return self._trades("positions_get", t.TradePosition, args, kwargs)

    @_api(failure=None)
    def orders_get(self, *args: Any, **kwargs: Any) -> Any:
        return self._trades("orders_get", t.TradeOrder, args, kwargs)

    def _trades(
        self, call: str, kind: type[t.StructSequence], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Any, ...]:
        """Of ticket, symbol and group the first that is given counts; any other keyword is ignored."""
        if args:
            invalid("Unnamed arguments not allowed")
        chosen: dict[str, Any] = {}
        group = "*"
        if "ticket" in kwargs:
            chosen["ticket"] = unsigned(kwargs["ticket"], "ticket", call)
        elif "symbol" in kwargs:
            chosen["symbol"] = text_in(kwargs["symbol"], "symbol")
        elif "group" in kwargs:
            group = text_in(kwargs["group"], "group")
        rows = (kind(row) for row in self._ask(call, chosen))
        return tuple(trade for trade in rows if group == "*" or in_group(trade.symbol, group))

    @_api(failure=None)
    def order_calc_margin(self, *args: Any) -> Any:
        action, symbol, volume, price = parsed("order_calc_margin", args, (int, str, float, float))
        return self._ask("order_calc_margin", {"action": action, "symbol": symbol, "volume": volume, "price": price})

    @_api(failure=None)
    def order_calc_profit(self, *args: Any) -> Any:
        values = parsed("order_calc_profit", args, (int, str, float, float, float))
        names = ("action", "symbol", "volume", "price_open", "price_close")
        return self._ask("order_calc_profit", dict(zip(names, values, strict=True)))

    @_api(failure=None)
    def order_check(self, *args: Any, **kwargs: Any) -> Any:
        request = trade_request("order_check", args, kwargs)
        row = self._ask("order_check", request._asdict())
        return t.OrderCheckResult([*row, request])

    @_api(failure=None)
    def order_send(self, *args: Any, **kwargs: Any) -> Any:
        request = trade_request("order_send", args, kwargs)
        row = self._ask("order_send", request._asdict())
        return t.OrderSendResult([*row, request])

    # ---- history

    @_api(failure=None)
    def history_orders_get(self, *args: Any, **kwargs: Any) -> Any:
        return self._history("history_orders_get", t.TradeOrder, args, kwargs)

    @_api(failure=None)
    def history_deals_get(self, *args: Any, **kwargs: Any) -> Any:
        return self._history("history_deals_get", t.TradeDeal, args, kwargs)

    def _history(
        self, call: str, kind: type[t.StructSequence], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Any, ...]:
        """Two dates, and then ticket and position are ignored; or no date, and one of these."""
        group = text_in(kwargs.get("group", "*"), "group")
        if len(args) == 2:
            dates = dates_in(call, args)
            rows = self._ask(call, dates) if dates else self._ask(call, {"ticket": 0})
        elif args:
            invalid("Invalid arguments")
        elif "ticket" in kwargs:
            rows = self._ask(call, {"ticket": unsigned(kwargs["ticket"], "ticket", call)})
        elif "position" in kwargs:
            rows = self._ask(call, {"position": unsigned(kwargs["position"], "position", call)})
        else:
            invalid("Invalid arguments")
        trades = (kind(row) for row in rows)
        return tuple(trade for trade in trades if group == "*" or in_group(trade.symbol, group))

    @_api(failure=None)
    def history_orders_total(self, *args: Any) -> Any:
        return self._history_total("history_orders_total", args)

    @_api(failure=None)
    def history_deals_total(self, *args: Any) -> Any:
        return self._history_total("history_deals_total", args)

    def _history_total(self, call: str, args: tuple[Any, ...]) -> Any:
        if len(args) != 2:
            invalid("Invalid arguments")
        dates = dates_in(call, args)
        return self._ask(call, dates) if dates else 0

    # ---- prices as numpy arrays

    @_api(failure=None)
    def copy_ticks_from(self, *args: Any) -> Any:
        symbol, since, count, flags = parsed("copy_ticks_from", args, (str, datetime, int, int))
        first = int32(since, "copy_ticks_from") * 1000
        return tick_array([tick for tick in self._ticks("copy_ticks_from", symbol, flags) if tick[0] >= first][:count])

    @_api(failure=None)
    def copy_ticks_range(self, *args: Any) -> Any:
        symbol, since, until, flags = parsed("copy_ticks_range", args, (str, datetime, datetime, int))
        call = "copy_ticks_range"
        first, last = int32(since, call) * 1000, int32(until, call) * 1000 + 999
        return tick_array([tick for tick in self._ticks(call, symbol, flags) if first <= tick[0] <= last])

    @_api(failure=None)
    def copy_rates_from(self, *args: Any) -> Any:
        symbol, frame, until, count = parsed("copy_rates_from", args, (str, int, datetime, int))
        last = int32(until, "copy_rates_from")
        bars = [bar for bar in self._bars("copy_rates_from", symbol, frame) if bar[0] <= last]
        return rate_array(bars[-count:] if count > 0 else [])

    @_api(failure=None)
    def copy_rates_from_pos(self, *args: Any) -> Any:
        symbol, frame, start, count = parsed("copy_rates_from_pos", args, (str, int, int, int))
        bars = self._bars("copy_rates_from_pos", symbol, frame)
        end = len(bars) - start
        return rate_array(bars[max(0, end - count) : max(0, end)])

    @_api(failure=None)
    def copy_rates_range(self, *args: Any) -> Any:
        symbol, frame, since, until = parsed("copy_rates_range", args, (str, int, datetime, datetime))
        first, last = int32(since, "copy_rates_range"), int32(until, "copy_rates_range")
        return rate_array([bar for bar in self._bars("copy_rates_range", symbol, frame) if first <= bar[0] <= last])

    def _ticks(self, call: str, symbol: str, flags: int) -> list[Any]:
        numpy()
        ticks: list[Any] = self._ask(call, {"symbol": symbol})
        # There are quotes only, no trades.
        return [] if flags == t.COPY_TICKS_TRADE else ticks

    def _bars(self, call: str, symbol: str, frame: int) -> list[Any]:
        numpy()
        if frame not in TIMEFRAMES:
            raise NoAnswerError(t.RES_E_INVALID_PARAMS)
        point = self._ask("symbol_info", {"symbol": symbol})[POINT]
        return bars_of(self._ask(call, {"symbol": symbol}), point, frame)

    # ---- controls of the simulation: the package has nothing like them

    def _control(self, name: str, args: dict[str, Any] | None = None) -> Any:
        """Controls raise instead of answering None: a mistake in a test must be seen."""
        with self._lock:
            try:
                if self._link is None and self._local is not None:
                    answer = LocalLink(self._local).call(name, args or {})
                    if "wrong" in answer:
                        raise ValueError(answer["wrong"])
                    return answer["result"]
                return self._ask(name, args)
            except NoAnswerError as missing:
                raise ConnectionError(f"{name}: {missing.error}") from missing

    def inject(self, function: str, outcome: str | int, times: int | None = 1, **details: Any) -> None:
        """Let the next `times` calls of `function` (`*`: of any) at this terminal end as `outcome` says.

        0 or None: until sim_clear_faults(). docs/simulator.md lists the outcomes and their details.
        """
        self._control("inject", {"function": function, "outcome": outcome, "times": times, "details": details})

    def sim_clear_faults(self) -> None:
        """Take back every fault, and release every call that hangs."""
        self._control("sim_clear_faults")

    def sim_faults(self) -> list[Any]:
        """The faults still to come: [function, outcome, calls left or None, details]."""
        faults: list[Any] = self._control("sim_faults")
        return faults

    def sim_set_quote(self, symbol: str, bid: float, ask: float) -> None:
        """Set a symbol's prices and stop the market from moving by itself; orders trigger as usual."""
        self._control("sim_set_quote", {"symbol": symbol, "bid": bid, "ask": ask})

    def sim_freeze(self) -> None:
        """Stop the market."""
        self._control("sim_freeze", {"frozen": True})

    def sim_unfreeze(self) -> None:
        """Let the market move again."""
        self._control("sim_freeze", {"frozen": False})

    def sim_advance(self, steps: int = 1) -> None:
        """Move the market by that many steps at once."""
        self._control("sim_advance", {"steps": steps})

    def sim_symbol(self, name: str, **changes: Any) -> None:
        """Change a symbol's specification; the keys are those of a symbols file."""
        self._control("sim_symbol", {"name": name, "changes": changes})

    def sim_account(self, **changes: Any) -> None:
        """Change the terms of the account, such as fifo_close=True; docs/simulator.md lists them."""
        self._control("sim_account", {"changes": changes})

    def sim_rollover(self, nights: int = 1) -> None:
        """Charge the swap of so many nights at once, or re-open positions, as each symbol's swap_mode says."""
        self._control("sim_rollover", {"nights": nights})

    def sim_trading(self, allowed: bool = True, api_disabled: bool = False) -> None:
        """The Algo Trading button (off: 10027), and the option that disables this API (order_send: None, -8)."""
        self._control("sim_trading", {"allowed": allowed, "api_disabled": api_disabled})

    def sim_deposit(self, amount: float, comment: str = "") -> None:
        """Pay money in, or out when negative."""
        self._control("sim_deposit", {"amount": amount, "comment": comment})

    def sim_close_by_hand(self, ticket: int, volume: float | None = None) -> int:
        """Close a position, or some of it, as a person in the terminal does; the deal's ticket."""
        deal: int = self._control("sim_close_by_hand", {"ticket": ticket, "volume": volume})
        return deal

    def sim_order_by_hand(self, **fields: Any) -> Any:
        """A trade request as a person in the terminal makes it: reason CLIENT, magic 0 if none is given."""
        request = trade_request("sim_order_by_hand", (), fields)
        return t.OrderSendResult([*self._control("sim_order_by_hand", request._asdict()), request])


# ---- the module is one Client

_FUNCTIONS = (
    "initialize", "login", "shutdown", "version", "last_error", "account_info", "terminal_info", "symbols_total",
    "symbols_get", "symbol_info", "symbol_info_tick", "symbol_select", "market_book_add", "market_book_get",
    "market_book_release", "copy_rates_from", "copy_rates_from_pos", "copy_rates_range", "copy_ticks_from",
    "copy_ticks_range", "orders_total", "orders_get", "positions_total", "positions_get", "order_calc_margin",
    "order_calc_profit", "order_check", "order_send", "history_orders_total", "history_orders_get",
    "history_deals_total", "history_deals_get",
)  # fmt: skip
_CONTROLS = ("inject", *(name for name in vars(Client) if name.startswith("sim_")))
_VALUES: dict[str, Any] = {**t.CONSTANTS, **{struct.__name__: struct for struct in t.STRUCTS}}

for _name, _value in _VALUES.items():
    setattr(Client, _name, _value)
Client.__version__, Client.__author__ = __version__, __author__  # type: ignore[attr-defined]

_default = Client()
globals().update(_VALUES)
globals().update({_name: getattr(_default, _name) for _name in (*_FUNCTIONS, *_CONTROLS)})

__all__ = [*_FUNCTIONS, *_VALUES]
