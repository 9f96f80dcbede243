"""The simulator against what is known of the MetaTrader5 package 5.0.6231 and of its trade servers: a row per fact.

tests/data/mt5_constants.json and mt5_structs.json were taken from the real package. How it is called and what it
makes of arguments was measured at the real package with a stand-in for its terminal; what a server does is in the
MQL5 reference and book. What other tests of the simulator look at in depth has a row here as well: this file is the
whole list.
"""

import enum
import importlib.util
import json
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from sim_desk import BUY, BUY_LIMIT, BUY_STOP, BUY_STOP_LIMIT, EVER, SELL, SELL_LIMIT, SELL_STOP, Desk

import mt5_sim
import sim_arrays
import sim_types as t

DATA = Path(__file__).resolve().parent / "data"
CONSTANTS: dict[str, int] = json.loads((DATA / "mt5_constants.json").read_text())
STRUCTS: dict[str, Any] = json.loads((DATA / "mt5_structs.json").read_text())
RESULTS = {name: kind["fields"] for name, kind in STRUCTS.items() if isinstance(kind, dict)}
KINDS = {"int": int, "float": float, "bool": bool, "str": str, "TradeRequest": t.TradeRequest}

NO_ARGUMENTS = (
    "shutdown", "version", "last_error", "terminal_info", "account_info", "symbols_total", "orders_total",
    "positions_total",
)  # fmt: skip
BY_PLACE = {
    "symbol_info": ("EURUSD",), "symbol_info_tick": ("EURUSD",), "symbol_select": ("EURUSD", True),
    "market_book_add": ("EURUSD",), "market_book_get": ("EURUSD",), "market_book_release": ("EURUSD",),
    "copy_rates_from": ("EURUSD", 1, 2**30, 5), "copy_rates_from_pos": ("EURUSD", 1, 0, 5),
    "copy_rates_range": ("EURUSD", 1, 1, 2**30), "copy_ticks_from": ("EURUSD", 1, 5, -1),
    "copy_ticks_range": ("EURUSD", 1, 2**30, -1), "order_calc_margin": (0, "EURUSD", 1.0, 1.1),
    "order_calc_profit": (0, "EURUSD", 1.0, 1.1, 1.2), "history_orders_total": (1, 2), "history_deals_total": (1, 2),
}  # fmt: skip
EITHER_WAY = (
    "initialize", "login", "positions_get", "orders_get", "history_orders_get", "history_deals_get", "order_check",
    "order_send", "symbols_get",
)  # fmt: skip
FLOATS = ("volume", "price", "stoplimit", "sl", "tp")
INTEGERS = (
    "action", "magic", "order", "deviation", "type", "type_filling", "type_time", "expiration", "position",
    "position_by",
)  # fmt: skip
GOOD = {"action": 1, "symbol": "EURUSD", "volume": 0.1, "type": 0, "type_filling": 1}


class Int64:
    """Stands for numpy.int64, which is no int."""

    def __index__(self) -> int:
        return 1


class Float64(float):
    """Stands for numpy.float64, which is a float."""


class Side(enum.IntEnum):
    BUY = 0


# ---- what the package exports


@pytest.mark.parametrize("name", CONSTANTS)
def test_a_constant_has_the_value_of_the_package(name: str):
    assert (getattr(mt5_sim, name), getattr(mt5_sim.Client, name)) == (CONSTANTS[name], CONSTANTS[name])


@pytest.mark.parametrize("name", RESULTS)
def test_a_result_type_has_the_fields_of_the_package(name: str):
    kind = getattr(mt5_sim, name)
    assert list(kind.__match_args__) == [field for field, _ in RESULTS[name]]
    assert (kind.n_fields, kind.n_sequence_fields, kind.n_unnamed_fields) == (STRUCTS[name]["n"],) * 2 + (0,)
    assert issubclass(kind, tuple)
    assert repr(kind) == f"<class '{name}'>"
    assert not any(hasattr(kind, missing) for missing in ("_fields", "_replace", "_make", "_field_defaults"))


def test_every_field_of_every_answer_has_the_type_of_the_package():
    desk = Desk({"EURUSD": {"depth": 0.1}})
    sent = desk.send(type=BUY, volume=0.02, magic=5, comment="x")
    desk.pending(type=BUY_LIMIT, price=1.0)
    desk.close(desk.position(sent.order), volume=0.01)
    mt5 = desk.mt5
    mt5.market_book_add("EURUSD")
    mt5.symbol_select("BTCUSD", False)
    mt5.sim_rollover()
    answers = [
        mt5.account_info(), mt5.terminal_info(), *mt5.symbols_get(), mt5.symbol_info_tick("EURUSD"),
        mt5.symbol_info_tick("WINZ26"), *mt5.market_book_get("EURUSD"), *mt5.positions_get(), *mt5.orders_get(),
        *mt5.history_deals_get(*EVER), *mt5.history_orders_get(*EVER), sent, sent.request, mt5.order_send(action=99),
        mt5.order_check(GOOD), mt5.order_check({**GOOD, "volume": 0.001}),
    ]  # fmt: skip
    assert {type(answer).__name__ for answer in answers} == set(RESULTS)
    for answer in answers:
        kinds = [KINDS[kind] for _, kind in RESULTS[type(answer).__name__]]
        assert [type(value) for value in answer] == kinds, answer


@pytest.mark.parametrize(
    ("columns", "name"), [(sim_arrays.TICK_COLUMNS, "ticks_dtype"), (sim_arrays.RATE_COLUMNS, "rates_dtype")]
)
def test_ticks_and_bars_have_the_columns_of_the_package(columns: str, name: str):
    assert [column.split(":") for column in columns.split()] == STRUCTS[name]


def test_a_result_is_a_tuple_that_is_never_changed():
    tick = t.Tick([1, 2.0, 3.0, 0.0, 0, 1000, 6, 0.0])
    assert (tick.bid, tick[1], tick[1:3], tick._asdict()["time_msc"]) == (2.0, 2.0, (2.0, 3.0), 1000)
    for name in ("bid", "new"):
        with pytest.raises(AttributeError):
            setattr(tick, name, 5.0)


# ---- the table: a fact, how the simulator is asked, and what it must answer


class Fact(NamedTuple):
    about: str
    ask: Callable[[Desk], Any]
    answer: Any  # what it gives, or the exception it raises


FACTS: list[Fact] = []
Ask = Callable[..., Any]


def fact(about: str, answer: Any) -> Callable[[Ask], Ask]:
    """Add a row."""

    def add(ask: Ask) -> Ask:
        FACTS.append(Fact(about, ask, answer))
        return ask

    return add


def facts(about: str, rows: Iterable[tuple[Any, ...]]) -> Callable[[Ask], Ask]:
    """Add a row for each of `rows`, which are what the question is about and, last, the answer."""

    def add(ask: Ask) -> Ask:
        for *values, answer in rows:
            named = [value if isinstance(value, str) else repr(value) for value in values]
            FACTS.append(Fact(about.format(*named), partial(lambda values, desk: ask(desk, *values), values), answer))
        return ask

    return add


SUCCESS = (1, "Success")


def told(desk: Desk, call: str, *arguments: Any, **keywords: Any) -> Any:
    """What a call gives, with the last_error() after it."""
    return getattr(desk.mt5, call)(*arguments, **keywords), desk.mt5.last_error()


def refused(what: str) -> tuple[None, tuple[int, str]]:
    return None, (-2, what)


def code(desk: Desk, **fields: Any) -> int:
    """The retcode of a market order that is GOOD but for these fields."""
    retcode: int = desk.mt5.order_send(GOOD | fields).retcode
    return retcode


def held(desk: Desk) -> Any:
    return desk.open(type=BUY, volume=0.3, magic=7, comment="opened", sl=1.09, tp=1.12)


def specified(desk: Desk, **changes: Any) -> None:
    desk.mt5.sim_symbol("EURUSD", spread=10, **changes)


# what it exports


@fact("there are 32 functions, each one a function of the module and of a client", (32, True))
def _(d: Desk) -> Any:
    names = {*NO_ARGUMENTS, *BY_PLACE, *EITHER_WAY}
    return len(names), all(callable(getattr(holder, name)) for holder in (mt5_sim, d.mt5) for name in names)


@fact("a star import brings functions, constants and result types, and no control", True)
def _(d: Desk) -> Any:
    return set(mt5_sim.__all__) == {*NO_ARGUMENTS, *BY_PLACE, *EITHER_WAY, *CONSTANTS, *RESULTS}


@fact("version and author are exported", ("5.0.6231", True))
def _(d: Desk) -> Any:
    return mt5_sim.__version__, bool(mt5_sim.__author__)


@facts("{0} is not exported", [(name, False) for name in (
    "SYMBOL_FILLING_FOK", "SYMBOL_FILLING_IOC", "SYMBOL_FILLING_BOC", "TRADE_RETCODE_HEDGE_PROHIBITED",
    "SYMBOL_ORDER_CLOSEBY", "DEAL_REASON_CORPORATE_ACTION",
)])  # fmt: skip
def _(d: Desk, name: str) -> Any:
    return hasattr(mt5_sim, name) or hasattr(d.mt5, name)


@fact("every retcode has its text", set())
def _(d: Desk) -> Any:
    codes = {value for name, value in CONSTANTS.items() if name.startswith("TRADE_RETCODE")}
    return codes - t.RETCODE_TEXT.keys()


@fact("_asdict of a result leaves the request in it a result", t.TradeRequest)
def _(d: Desk) -> Any:
    return type(d.send(type=BUY)._asdict()["request"])


@fact("a result is built from one sequence", TypeError)
def _(d: Desk) -> Any:
    return t.Tick(1, 2.0, 3.0, 0.0, 0, 1000, 6, 0.0)


@fact("of the right length", TypeError)
def _(d: Desk) -> Any:
    return t.Tick([1, 2.0])


@fact("the repr of a result names its fields", "BookInfo(type=1, price=2.0, volume=3, volume_dbl=4.0)")
def _(d: Desk) -> Any:
    return repr(t.BookInfo([1, 2.0, 3, 4.0]))


# how it is called


@facts("{0} takes no argument", [(name, TypeError) for name in NO_ARGUMENTS])
def _(d: Desk, name: str) -> Any:
    return getattr(d.mt5, name)(1)


@facts("{0} takes no keyword", [(name, TypeError) for name in (*NO_ARGUMENTS, *BY_PLACE)])
def _(d: Desk, name: str) -> Any:
    return getattr(d.mt5, name)(symbol="EURUSD")


@facts("{0} raises SystemError for a wrong type", [
    (name, SystemError) for name in BY_PLACE if name.startswith(("copy_", "order_calc_"))
])  # fmt: skip
def _(d: Desk, name: str) -> Any:
    return getattr(d.mt5, name)(None, *BY_PLACE[name][1:])


@facts("{0} raises SystemError for a missing argument", [
    (name, SystemError) for name in BY_PLACE if name.startswith(("copy_", "order_calc_"))
])  # fmt: skip
def _(d: Desk, name: str) -> Any:
    return getattr(d.mt5, name)(*BY_PLACE[name][:-1])


@facts("{0} of {1}", [
    (name, value, (None, (-2, 'Invalid "symbol" argument')))
    for name in ("symbol_info", "symbol_info_tick") for value in (5, None, "x" * 30)
])  # fmt: skip
def _(d: Desk, name: str, value: Any) -> Any:
    return told(d, name, value)


@facts("{0} of an unknown symbol", [
    ("symbol_info", (None, (-4, "Terminal: Not found"))), ("symbol_info_tick", (None, (-4, "Terminal: Not found"))),
    ("symbol_select", (False, (-4, "Terminal: Not found"))),
])  # fmt: skip
def _(d: Desk, name: str) -> Any:
    return told(d, name, "NOPE")


@fact("last_error is (0, '') before the first call", (0, ""))
def _(d: Desk) -> Any:
    return mt5_sim.Client().last_error()


@fact("every call sets (1, 'Success') first", SUCCESS)
def _(d: Desk) -> Any:
    d.mt5.symbol_info("NOPE")
    d.mt5.positions_get()
    return d.mt5.last_error()


# initialize, login, shutdown


@fact("initialize takes one argument by place at most", (False, (-2, "Invalid number of arguments")))
def _(d: Desk) -> Any:
    return told(d, "initialize", "a", "b")


@facts("initialize with {0} = {1}", [
    (name, value, (False, (-2, f'Invalid "{name}" argument')))
    for name, value in (("login", "5"), ("login", Int64()), ("password", 5), ("server", None), ("timeout", 1.5),
                        ("portable", "yes"))
])  # fmt: skip
def _(d: Desk, name: str, value: Any) -> Any:
    return told(d, "initialize", **{name: value})


@facts("initialize with credentials {0}", [
    ({}, (True, SUCCESS)),
    ({"login": 7}, (True, SUCCESS)),
    ({"login": 7, "password": "demo", "server": "Sim"}, (True, SUCCESS)),
    ({"login": 8, "password": "demo"}, (False, (-6, "Terminal: Authorization failed"))),
    ({"login": 7, "password": "wrong"}, (False, (-6, "Terminal: Authorization failed"))),
    ({"login": 7, "password": "demo", "server": "Other"}, (False, (-6, "Terminal: Authorization failed"))),
])  # fmt: skip
def _(d: Desk, credentials: dict[str, Any]) -> Any:
    return told(d, "initialize", **credentials)


@fact("login takes login, password, server and timeout by place", True)
def _(d: Desk) -> Any:
    return d.mt5.login(7, "demo", "Sim", 1000)


@fact("a login of 0", (False, (-2, 'Invalid "login" argument')))
def _(d: Desk) -> Any:
    return told(d, "login", 0)


@fact("after a refused login there is no account", (False, None))
def _(d: Desk) -> Any:
    return d.mt5.login(9, "demo"), d.mt5.account_info()


@fact("shutdown is True, however often", (True, True))
def _(d: Desk) -> Any:
    return d.mt5.shutdown(), d.mt5.shutdown()


@facts("without a connection {0}", [
    *((name, (None, (-10004, "No IPC connection"))) for name in (
        "account_info", "terminal_info", "symbols_total", "positions_get", "orders_get", "positions_total",
        "orders_total",
    )),
    ("version", ((0, 0, ""), (-10004, "No IPC connection"))),
    ("symbols_get", (None, (-5, "Terminal: Incompatible versions"))),
])  # fmt: skip
def _(d: Desk, name: str) -> Any:
    mt5 = mt5_sim.Client()
    return getattr(mt5, name)(), mt5.last_error()


@fact("without a connection order_send is None and symbol_select False", (None, False, -10004))
def _(d: Desk) -> Any:
    mt5 = mt5_sim.Client()
    return mt5.order_send(GOOD), mt5.symbol_select("EURUSD", True), mt5.last_error()[0]


@fact("initialize where no terminal listens", (False, -10003))
def _(d: Desk) -> Any:
    mt5 = mt5_sim.Client()
    return mt5.initialize("127.0.0.1:1"), mt5.last_error()[0]


@fact("a terminal that is gone is -10001 until initialize", [(None, (-10001, "IPC send failed"))] * 2)
def _(d: Desk) -> Any:
    d.mt5._local.running = False
    gone = told(d, "positions_get")
    d.mt5._local.running = True
    return [gone, told(d, "account_info")]


@fact("an IPC error in order_send is None: executed or not", (None, -10002, 1))
def _(d: Desk) -> Any:
    d.mt5.inject("order_send", "none_after_fill")
    sent, error = told(d, "order_send", GOOD)
    d.mt5.initialize()
    return sent, error[0], len(d.mt5.positions_get())


# who may trade


@fact("Python API disabled: order_send is None with -8", (None, -8, True))
def _(d: Desk) -> Any:
    d.mt5.sim_trading(api_disabled=True)
    sent, error = told(d, "order_send", GOOD)
    return sent, error[0], d.mt5.terminal_info().tradeapi_disabled


@fact("Algo Trading off: 10027", (10027, False))
def _(d: Desk) -> Any:
    d.mt5.sim_trading(allowed=False)
    return code(d), d.mt5.terminal_info().trade_allowed


@fact("the server lets no program trade: 10026", (10026, False))
def _(d: Desk) -> Any:
    d.mt5.sim_account(trade_expert=False)
    return code(d), d.mt5.account_info().trade_expert


@fact("the investor password reads and does not trade", (False, (), 10017))
def _(d: Desk) -> Any:
    d.mt5.initialize(login=7, password="investor")
    return d.mt5.account_info().trade_allowed, d.mt5.positions_get(), code(d)


# positions_get, orders_get, groups


@facts("nothing found: {0} {1}", [
    ("positions_get", {}, ((), SUCCESS)), ("orders_get", {}, ((), SUCCESS)),
    ("positions_get", {"ticket": 5}, ((), SUCCESS)), ("orders_get", {"symbol": "NOPE"}, ((), SUCCESS)),
])  # fmt: skip
def _(d: Desk, name: str, chosen: dict[str, Any]) -> Any:
    return told(d, name, **chosen)


@fact("positions_get takes nothing by place", refused("Unnamed arguments not allowed"))
def _(d: Desk) -> Any:
    return told(d, "positions_get", "EURUSD")


@facts("a ticket of {0}", [
    *((value, refused('Invalid "ticket" argument')) for value in (None, 5.0, "5", Int64())),
    (-1, SystemError), (2**64, SystemError),
])  # fmt: skip
def _(d: Desk, value: Any) -> Any:
    return told(d, "orders_get", ticket=value)


@facts("{0} of 30 units; of 29 it is fine", [
    (name, (refused(f'Invalid "{name}" argument'), ((), SUCCESS))) for name in ("symbol", "group")
])  # fmt: skip
def _(d: Desk, name: str) -> Any:
    return told(d, "positions_get", **{name: "x" * 30}), told(d, "positions_get", **{name: "x" * 29})


@fact("an unknown keyword gives all positions", 2)
def _(d: Desk) -> Any:
    held(d), held(d)
    return len(d.mt5.positions_get(tiket=5))


@fact("ticket goes before symbol, symbol before group", (1, 1))
def _(d: Desk) -> Any:
    position = held(d)
    by_ticket = d.mt5.positions_get(ticket=position.ticket, symbol="NOPE")
    return len(by_ticket), len(d.mt5.positions_get(symbol="EURUSD", group="*JPY*"))


@facts("group {0}", [
    ("*", "EURUSD USDJPY"), ("EUR", ""), ("*eur*", ""), ("EURUSD", "EURUSD"), ("EUR*,USDJPY", "EURUSD USDJPY"),
    ("EUR*, USDJPY", "EURUSD USDJPY"), ("*,!EUR", "EURUSD USDJPY"), ("*,!*EUR*", "USDJPY"), ("!*EUR*", ""),
    ("!*EUR*,*", "EURUSD USDJPY"), ("*,! *EUR*", "EURUSD USDJPY"), ("*U*D", "EURUSD"), ("", ""),
])  # fmt: skip
def _(d: Desk, mask: str) -> Any:
    return " ".join(info.name for info in d.mt5.symbols_get(mask) if info.name in ("EURUSD", "USDJPY"))


# history


@facts("history of {0} {1}", [
    ((), {}, refused("Invalid arguments")),
    ((1,), {}, refused("Invalid arguments")),
    ((1, 2, "*"), {}, refused("Invalid arguments")),
    ((), {"date_from": 1, "date_to": 2}, refused("Invalid arguments")),
    ((Int64(), 2), {}, refused("Invalid arguments")),
    (("1", "2"), {}, refused("Invalid arguments")),
    ((1, datetime(2038, 1, 21)), {}, ((), SUCCESS)),  # after 2038 a date becomes the smallest number
    ((0, 2**31 - 1), {}, ((), SUCCESS)),
    ((1, 2**40), {}, SystemError),
    ((), {"ticket": 1}, ((), SUCCESS)),
    ((), {"position": 1}, ((), SUCCESS)),
])  # fmt: skip
def _(d: Desk, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
    return told(d, "history_deals_get", *arguments, **keywords)


@facts("history dates may be {0}", [
    ("int", (1, 2**31 - 1), 1), ("float", (1.0, 2.0**31 - 1), 1),
    ("datetime", (datetime(2020, 1, 1), datetime(2030, 1, 1)), 1),
])  # fmt: skip
def _(d: Desk, kind: str, dates: tuple[Any, ...]) -> Any:
    return len(d.mt5.history_deals_get(*dates))


@fact("a naive datetime is this machine's local time", [1, 0])
def _(d: Desk) -> Any:
    deal = d.mt5.history_deals_get(*EVER)[0]
    here = datetime.fromtimestamp(deal.time)
    return [len(d.mt5.history_deals_get(here + timedelta(seconds=late), deal.time + 5)) for late in (0, 1)]


@fact("ticket is an order's, position a position's identifier", (1, 2))
def _(d: Desk) -> Any:
    position = held(d)
    d.close(position)
    by_order = d.mt5.history_deals_get(ticket=position.ticket)
    return len(by_order), len(d.mt5.history_deals_get(position=position.identifier))


@fact("with two dates, ticket and position count for nothing", 1)
def _(d: Desk) -> Any:
    return len(d.mt5.history_deals_get(*EVER, ticket=5))


@fact("a balance operation is a deal of type 2 without symbol and order", (2, "", 0, 10000.0))
def _(d: Desk) -> Any:
    deal = d.mt5.history_deals_get(*EVER)[0]
    return deal.type, deal.symbol, deal.order, deal.profit


@fact("the deal of a close may come after the position is gone", ((), 1, 2))
def _(d: Desk) -> Any:
    position = held(d)
    d.mt5.inject("history_deals_get", "late", seconds=1)
    d.close(position)
    before = d.mt5.positions_get(), len(d.deals(position.identifier))
    d.pass_time(1)
    return *before, len(d.deals(position.identifier))


# arguments of order_send


@facts("{0} = {1}: a float is wanted", [
    (name, value, refused(f'Invalid "{name}" argument'))
    for name in FLOATS for value in (0, 1, True, "1.0", None, Int64())
])  # fmt: skip
def _(d: Desk, name: str, value: Any) -> Any:
    return told(d, "order_send", GOOD | {name: value})


@facts("{0} = {1}: an int is wanted", [
    (name, value, refused(f'Invalid "{name}" argument'))
    for name in INTEGERS for value in (1.0, "1", None, Int64(), datetime(2026, 1, 1))
])  # fmt: skip
def _(d: Desk, name: str, value: Any) -> Any:
    return told(d, "order_send", GOOD | {name: value})


@facts("{0} = {1}: out of range", [
    (name, value, SystemError) for name in ("magic", "order", "position", "position_by") for value in (-1, 2**64)
])  # fmt: skip
def _(d: Desk, name: str, value: int) -> Any:
    return told(d, "order_send", GOOD | {name: value})


@facts(
    "{0} = None: leave the key out", [(name, refused(f'Invalid "{name}" argument')) for name in ("comment", "symbol")]
)
def _(d: Desk, name: str) -> Any:
    return told(d, "order_send", GOOD | {name: None})


@facts("a comment of {0} times {1}", [
    (29, "x", SUCCESS), (30, "x", (-2, 'Invalid "comment" argument')), (29, "é", SUCCESS), (14, "😀", SUCCESS),
    (15, "😀", (-2, 'Invalid "comment" argument')),
])  # fmt: skip
def _(d: Desk, count: int, letter: str) -> Any:
    return told(d, "order_send", GOOD | {"comment": letter * count})[1]


@facts("order_send of {0}", [
    *((value, refused("Invalid arguments")) for value in ([1, 2], None, "buy", t.TradeRequest([0] * 17))),
])  # fmt: skip
def _(d: Desk, value: Any) -> Any:
    return told(d, "order_send", value)


@fact("order_send without arguments", refused("Invalid number of arguments"))
def _(d: Desk) -> Any:
    return told(d, "order_send")


@fact("order_send(request=...) sends zeros", (10013, (0, 0, 0, "", *[0.0] * 5, *[0] * 5, "", 0, 0)))
def _(d: Desk) -> Any:
    sent = d.mt5.order_send(request=GOOD)
    return sent.retcode, sent.request


@facts("order_send takes {0}", [
    ("keywords", 10009), ("subclasses of float and int", 10009), ("unknown keys", 10009),
])  # fmt: skip
def _(d: Desk, what: str) -> Any:
    if what == "keywords":
        return d.mt5.order_send(**GOOD).retcode
    return code(d, stoploss="far") if what == "unknown keys" else code(d, volume=Float64(0.1), type=Side.BUY)


@fact("what is missing is zero: BUY, FOK, no SL and TP", (10009, 0, 0.0, 0.0))
def _(d: Desk) -> Any:
    sent = d.mt5.order_send({"action": 1, "symbol": "EURUSD", "volume": 0.1})
    position = d.position(sent.order)
    return sent.retcode, position.type, position.sl, position.tp


@fact("last_error after a refusal of the server is success", (10014, SUCCESS))
def _(d: Desk) -> Any:
    return code(d, volume=0.001), d.mt5.last_error()


@fact("order_check: 0 and Done, and nothing is executed", (0, "Done", ()))
def _(d: Desk) -> Any:
    checked = d.mt5.order_check(GOOD)
    return checked.retcode, checked.comment, d.mt5.positions_get()


@facts("order_check of {0}", [
    ({"sl": 0}, refused('Invalid "sl" argument')), ({"comment": "x" * 30}, refused('Invalid "comment" argument')),
])  # fmt: skip
def _(d: Desk, change: dict[str, Any]) -> Any:
    return told(d, "order_check", GOOD | change)


@facts("order_check finds {1} for {0}", [
    ({"volume": 0.001}, 10014, 10014), ({"type_filling": 2}, 10030, 10030), ({"volume": 50.0}, 10019, 10019),
])  # fmt: skip
def _(d: Desk, change: dict[str, Any], retcode: int) -> Any:
    return d.mt5.order_check(GOOD | change).retcode


# operations


@fact(
    "an open: 10009, its text, the request, a position with the order's ticket", (10009, "Request executed", 77, True)
)
def _(d: Desk) -> Any:
    sent = d.send(type=BUY, magic=77)
    return sent.retcode, sent.comment, sent.request.magic, d.position(sent.order).identifier == sent.order


@fact("hedging: an opposite order that names no position opens another", 2)
def _(d: Desk) -> Any:
    held(d)
    d.send(type=SELL)
    return len(d.mt5.positions_get())


@fact("a partial close: same ticket and identifier, newer time_update, a deal OUT", (True, True, 0.2, 0, 5000, 1))
def _(d: Desk) -> Any:
    before = held(d)
    d.clock.now += 5
    d.close(before, volume=0.1)
    left = d.position(before.ticket)
    return (
        left.ticket == before.ticket, left.identifier == before.identifier, left.volume,
        left.time_msc - before.time_msc, left.time_update_msc - before.time_update_msc,
        d.deals(before.identifier)[-1].entry,
    )  # fmt: skip


@fact("SLTP sets both: 0.0 deletes; no deal, time_update stays", (1.08, 0.0, 1, 0))
def _(d: Desk) -> Any:
    before = held(d)
    d.clock.now += 5
    d.send(action=6, position=before.ticket, sl=1.08)
    now = d.position(before.ticket)
    return now.sl, now.tp, len(d.deals(now.identifier)), now.time_update_msc - before.time_update_msc


@fact("SLTP that changes nothing: 10025", 10025)
def _(d: Desk) -> Any:
    position = held(d)
    return d.send(action=6, position=position.ticket, sl=position.sl, tp=position.tp).retcode


@facts("a position that is gone: {0}", [({"action": 6, "sl": 1.0}, 10036), ({"type": SELL}, 10036)])
def _(d: Desk, fields: dict[str, Any]) -> Any:
    return code(d, position=5, **fields)


@fact("a close of more than there is: 10038", 10038)
def _(d: Desk) -> Any:
    return d.close(held(d), volume=0.4).retcode


@fact("a change of a pending order deletes what it leaves out; the volume stays", (1.08, 0.0, 0.1))
def _(d: Desk) -> Any:
    ticket = d.pending(type=BUY_LIMIT, price=1.09, sl=1.0).order
    d.send(action=7, order=ticket, price=1.08, volume=5.0)
    order = d.order(ticket)
    return order.price_open, order.sl, order.volume_initial


@fact("a removal needs the order's ticket only", (10009, ()))
def _(d: Desk) -> Any:
    sent = d.mt5.order_send(action=8, order=d.pending(type=BUY_LIMIT, price=1.09).order)
    return sent.retcode, d.mt5.orders_get()


@fact(
    "close-by: both deals OUT_BY at the price of position_by, the profit on position", [(3, -1.0, 1.1), (3, 0.0, 1.1)]
)
def _(d: Desk) -> Any:
    first, second = d.open(type=BUY), d.open(type=SELL)
    d.send(action=10, position=first.ticket, position_by=second.ticket)
    deals = [d.deals(position.identifier)[-1] for position in (first, second)]
    return [(deal.entry, deal.profit, deal.price) for deal in deals]


@facts("close-by where order_mode is {0}", [(127, 10009), (63, 10035)])
def _(d: Desk, mask: int) -> Any:
    first, second = d.open(type=BUY), d.open(type=SELL)
    d.mt5.sim_symbol("EURUSD", order_mode=mask)
    return d.send(action=10, position=first.ticket, position_by=second.ticket).retcode


@facts("execution {0}: {1} points off with a deviation of {2}", [
    (0, 5, 5, 10009), (0, 6, 5, 10004), (1, -5, 5, 10009), (1, -6, 5, 10004), (2, 900, 0, 10009), (3, 900, 0, 10009),
])  # fmt: skip
def _(d: Desk, mode: int, points: int, deviation: int) -> Any:
    specified(d, trade_exemode=mode)
    return code(d, price=round(1.1001 + points * 1e-5, 5), deviation=deviation)


@fact("a requote tells the new prices", (10004, 1.1, 1.1001))
def _(d: Desk) -> Any:
    specified(d, trade_exemode=1)
    sent = d.send(type=BUY, price=1.2)
    return sent.retcode, sent.bid, sent.ask


@facts("execution {0} with filling flags {1}: what is taken at market", [
    (0, 0, {0, 1, 2}), (1, 0, {0, 1, 2}), (2, 0, set()), (2, 1, {0}), (2, 2, {1}), (2, 3, {0, 1}),
    (3, 0, {2}), (3, 1, {0, 2}), (3, 2, {1, 2}), (3, 3, {0, 1, 2}),
])  # fmt: skip
def _(d: Desk, mode: int, flags: int) -> Any:
    specified(d, trade_exemode=mode, filling_mode=flags)
    codes = {filling: code(d, type_filling=filling, price=1.1001) for filling in range(4)}
    assert set(codes.values()) <= {10009, 10030}
    return {filling for filling, retcode in codes.items() if retcode == 10009}


@facts("execution {0}: RETURN for a pending order", [(mode, 10009) for mode in range(4)])
def _(d: Desk, mode: int) -> Any:
    specified(d, trade_exemode=mode, filling_mode=1)
    return d.pending(type=BUY_LIMIT, price=1.0, type_filling=2).retcode


@fact("IOC may be filled in part: 10010", (10010, 0.3))
def _(d: Desk) -> Any:
    specified(d, depth=0.3)
    sent = d.send(type=BUY, volume=0.5)
    return sent.retcode, sent.volume


@fact("a pending order that is filled in part stands beside its position, with one ticket", (True, 0.3, 0.2))
def _(d: Desk) -> Any:
    specified(d, depth=0.3)
    ticket = d.pending(type=BUY_LIMIT, price=1.09, volume=0.5).order
    d.quote("EURUSD", 1.0899, 1.09)
    order, position = d.order(ticket), d.position(ticket)
    return order.ticket == position.ticket, position.volume, order.volume_current


@fact("a stop-limit order that is reached is a limit order", (BUY_LIMIT, 1.105, 0.0))
def _(d: Desk) -> Any:
    ticket = d.pending(type=BUY_STOP_LIMIT, price=1.11, stoplimit=1.105).order
    d.quote("EURUSD", 1.1099, 1.11)
    order = d.order(ticket)
    return order.type, order.price_open, order.price_stoplimit


@fact("10008: placed, no deal and no position yet", (10008, 0, (), 1))
def _(d: Desk) -> Any:
    d.mt5.inject("order_send", "placed_late_fill", seconds=1)
    sent = d.send(type=BUY)
    before = d.mt5.positions_get()
    d.pass_time(1)
    return sent.retcode, sent.deal, before, len(d.mt5.positions_get())


# volumes, prices, levels, limits


@facts("a volume of {0}", [
    (0.01, 10009), (0.005, 10014), (0.015, 10014), (0.0, 10014), (-0.1, 10014), (100.01, 10014),
    (0.30000000000000004, 10009), (0.3 - 0.1, 10009),
])  # fmt: skip
def _(d: Desk, volume: float) -> Any:
    d.mt5.sim_deposit(1_000_000.0)
    return code(d, volume=volume)


@facts("{0} at a price of {1}: the tick size counts, not the point", [
    ("EURUSD", 1.09, 10009), ("EURUSD", 1.090001, 10015), ("WINZ26", 129995.0, 10009), ("WINZ26", 129998.0, 10015),
    ("WDOZ26", 5449.5, 10009), ("WDOZ26", 5449.4, 10015),
])  # fmt: skip
def _(d: Desk, symbol: str, price: float) -> Any:
    d.quote("WINZ26", 130000.0, 130005.0)
    d.quote("WDOZ26", 5450.0, 5450.5)
    return d.pending(symbol=symbol, type=BUY_LIMIT, volume=1.0, price=price).retcode


@facts("profit of {0} is steps of the price times tick value times lots", [
    ("EURUSD", 1.1, 1.101, 0.0), ("WINZ26", 130000.0, 130050.0, 0.0), ("WDOZ26", 5450.0, 5460.0, 0.0),
])  # fmt: skip
def _(d: Desk, symbol: str, opened: float, closed: float) -> Any:
    info = d.mt5.symbol_info(symbol)
    expected = (closed - opened) / info.trade_tick_size * info.trade_tick_value_profit * 2
    return round(d.mt5.order_calc_profit(BUY, symbol, 2.0, opened, closed) - expected, 2)


@facts("stops level 20, an order with {0}", [
    ({"sl": 1.0998}, 10009), ({"sl": 1.09981}, 10016), ({"tp": 1.1002}, 10009), ({"tp": 1.10019}, 10016),
    ({"type": 1, "sl": 1.1003}, 10009), ({"type": 1, "sl": 1.10029}, 10016), ({"type": 1, "tp": 1.0999}, 10009),
    ({"type": 1, "tp": 1.09991}, 10016), ({}, 10009),
])  # fmt: skip
def _(d: Desk, fields: dict[str, Any]) -> Any:
    specified(d, trade_stops_level=20)
    return code(d, **fields)


@facts("stops level 20, a pending order of type {0} at {1}", [
    (BUY_LIMIT, 1.0999, 10009), (BUY_LIMIT, 1.09991, 10016), (SELL_LIMIT, 1.1002, 10009), (SELL_LIMIT, 1.10019, 10016),
    (BUY_STOP, 1.1003, 10009), (BUY_STOP, 1.10029, 10016), (SELL_STOP, 1.0998, 10009), (SELL_STOP, 1.09981, 10016),
])  # fmt: skip
def _(d: Desk, kind: int, price: float) -> Any:
    specified(d, trade_stops_level=20)
    return d.pending(type=kind, price=price).retcode


@facts("freeze level 30, a position with its SL at {0}: {1}", [
    (1.0997, "close", 10029), (1.0997, "levels", 10029), (1.09969, "close", 10009), (1.09969, "levels", 10009),
])  # fmt: skip
def _(d: Desk, sl: float, what: str) -> Any:
    position = d.open(type=BUY, sl=sl)
    specified(d, trade_freeze_level=30)
    if what == "close":
        return d.close(position).retcode
    return d.send(action=6, position=position.ticket, sl=1.0).retcode


@facts("freeze level 30, a pending order at {0}: {1}", [
    (1.0998, "change", 10029), (1.0998, "removal", 10029), (1.09979, "change", 10009), (1.09979, "removal", 10009),
])  # fmt: skip
def _(d: Desk, price: float, what: str) -> Any:
    ticket = d.pending(type=BUY_LIMIT, price=price).order
    specified(d, trade_freeze_level=30)
    change = {"action": 8} if what == "removal" else {"action": 7, "price": 1.05}
    return d.send(order=ticket, **change).retcode


@fact("the freeze level is nothing to an open without stops", 10009)
def _(d: Desk) -> Any:
    specified(d, trade_freeze_level=30)
    return code(d)


@fact("volume_limit: open and pending of one direction", [10034, 10009, 10009])
def _(d: Desk) -> Any:
    specified(d, volume_limit=0.25)
    d.send(type=BUY)
    d.pending(type=BUY_LIMIT, price=1.0)
    return [code(d, volume=0.06), code(d, volume=0.05), code(d, type=SELL)]


@fact("limit_orders: pending orders only", [1, 10009, 10033, 10009])
def _(d: Desk) -> Any:
    d.mt5.sim_account(limit_orders=1)
    pending = [d.pending(type=BUY_LIMIT, price=1.0).retcode for _ in range(2)]
    return [d.mt5.account_info().limit_orders, *pending, code(d)]


@fact("a limit of positions: 10040", [10009, 10040])
def _(d: Desk) -> Any:
    d.mt5.sim_account(limit_positions=1)
    return [code(d), code(d)]


@facts("trade mode {0}: a buy, a sell, a close", [
    (0, [10017, 10017, 10017]), (1, [10009, 10042, 10009]), (2, [10043, 10009, 10009]), (3, [10044, 10044, 10009]),
    (4, [10009, 10009, 10009]),
])  # fmt: skip
def _(d: Desk, mode: int) -> Any:
    position = held(d)
    specified(d, trade_mode=mode)
    return [code(d), code(d, type=SELL), d.close(position).retcode]


@facts("expiration mode {0}: types of time", [
    (mask, [10009 if mask >> kind & 1 else 10022 for kind in range(4)]) for mask in (1, 2, 4, 8, 15)
])  # fmt: skip
def _(d: Desk, mask: int) -> Any:
    specified(d, expiration_mode=mask)
    fields = {"type": BUY_LIMIT, "price": 1.0, "expiration": 2**31 - 1 - 86400}
    return [d.pending(type_time=kind, **fields).retcode for kind in range(4)]


@facts("order mode {0}: market, limit, stop, stop-limit, SL, TP", [
    (127 - (1 << bit), [
        *(10035 if kind == bit else 10009 for kind in range(4)), *(10016 if kind == bit else 10009 for kind in (4, 5))
    ]) for bit in range(1, 6)
])  # fmt: skip
def _(d: Desk, mask: int) -> Any:
    specified(d, order_mode=mask)
    pending = [
        d.pending(type=BUY_LIMIT, price=1.0).retcode,
        d.pending(type=BUY_STOP, price=1.2).retcode,
        d.pending(type=BUY_STOP_LIMIT, price=1.2, stoplimit=1.15).retcode,
    ]
    return [code(d), *pending, code(d, sl=1.0), code(d, tp=1.2)]


@fact("no market orders where order_mode lacks 1", 10035)
def _(d: Desk) -> Any:
    specified(d, order_mode=126)
    return code(d)


@fact("outside the sessions: 10018", [10018, 10018])
def _(d: Desk) -> Any:
    specified(d, sessions="closed")
    return [code(d), d.pending(type=BUY_LIMIT, price=1.0).retcode]


@fact("not enough money: 10019", 10019)
def _(d: Desk) -> Any:
    return code(d, volume=50.0)


@fact("outside Market Watch a symbol has no tick", (True, None, False, 10021))
def _(d: Desk) -> Any:
    taken_out = d.mt5.symbol_select("EURUSD", False)
    return taken_out, d.mt5.symbol_info_tick("EURUSD"), d.mt5.symbol_info("EURUSD").visible, code(d)


@fact("a symbol with a position stays in Market Watch", False)
def _(d: Desk) -> Any:
    held(d)
    return d.mt5.symbol_select("EURUSD", False)


@fact("FIFO: only the oldest position may be closed", (True, 10045, 10009))
def _(d: Desk) -> Any:
    d.mt5.sim_account(fifo_close=True)
    first, second = held(d), held(d)
    return d.mt5.account_info().fifo_close, d.close(second).retcode, d.close(first).retcode


@fact("opposite positions may be prohibited: 10046, pending too", [10046, 10046])
def _(d: Desk) -> Any:
    d.mt5.sim_account(hedge_prohibited=True)
    held(d)
    return [code(d, type=SELL), d.pending(type=SELL_LIMIT, price=1.2).retcode]


@fact("SL in an open that the broker takes without stops only", [10016, 10009])
def _(d: Desk) -> Any:
    d.mt5.sim_account(stops_on_open=False)
    return [code(d, sl=1.0), code(d)]


@fact("B3's mini contracts: whole contracts, steps of 5 and 0.5, worth 1 and 5 BRL, exchange execution", [
    (1.0, 1.0, 5.0, 0.18, 3, "BRL"), (1.0, 1.0, 0.5, 0.9, 3, "BRL"),
])  # fmt: skip
def _(d: Desk) -> Any:
    return [
        (info.volume_min, info.volume_step, info.trade_tick_size, info.trade_tick_value, info.trade_exemode,
         info.currency_profit)
        for info in map(d.mt5.symbol_info, ("WINZ26", "WDOZ26"))
    ]  # fmt: skip


@fact("an exchange shows the last price, forex none", (True, 0.0))
def _(d: Desk) -> Any:
    last = d.mt5.symbol_info_tick("WINZ26").last
    return last == d.mt5.symbol_info("WINZ26").last > 0, d.mt5.symbol_info_tick("EURUSD").last


# comments, magic, reasons


@fact("the server keeps 16 characters of a comment", "Spread-Based Ent")
def _(d: Desk) -> Any:
    return d.open(type=BUY, comment="Spread-Based Entry").comment


@fact("it may write its own", "broker")
def _(d: Desk) -> Any:
    d.mt5.sim_account(comment_replaced="broker")
    return d.open(type=BUY, comment="mine").comment


@fact("a magic is unsigned", 2**64 - 1)
def _(d: Desk) -> Any:
    return d.open(type=BUY, magic=2**64 - 1).magic


@facts("a deal made by {0}: magic, reason, comment", [
    ("SL", (7, 4, "[sl 1.09000]")), ("TP", (7, 5, "[tp 1.12000]")), ("stop-out", (7, 6, "[so 0.00%]")),
    ("a program", (5, 3, "out")), ("hand", (0, 0, "")), ("rollover", (7, 7, "opened")),
])  # fmt: skip
def _(d: Desk, cause: str) -> Any:
    position = held(d)
    if cause == "SL":
        d.quote("EURUSD", 1.09, 1.0901)
    elif cause == "TP":
        d.quote("EURUSD", 1.12, 1.1201)
    elif cause == "stop-out":
        d.mt5.sim_deposit(-9997.0)
        d.mt5.sim_advance()
    elif cause == "a program":
        d.close(position, magic=5, comment="out")
    elif cause == "hand":
        d.mt5.sim_close_by_hand(position.ticket)
    else:
        d.mt5.sim_symbol("EURUSD", swap_mode=7)
        d.mt5.sim_rollover()
    deal = d.deals(position.identifier)[1]
    return deal.magic, deal.reason, deal.comment


@fact("a position keeps the magic of its opening order", 7)
def _(d: Desk) -> Any:
    position = held(d)
    d.close(position, volume=0.1, magic=5)
    return d.position(position.ticket).magic


# hedging, netting, identifiers


@facts("margin mode {0}", [("netting", 0), ("exchange", 1), ("hedging", 2)])
def _(d: Desk, mode: str) -> Any:
    return Desk(margin_mode=mode).mt5.account_info().margin_mode


@facts("netting, 0.3 held: {0} {1} of it makes", [
    ("buy", 0.1, (0, 0.4, "ticket", "identifier", 0)),
    ("sell", 0.1, (0, 0.2, "ticket", "identifier", 1)),
    ("sell", 0.3, 1),
    ("sell", 0.4, (1, 0.1, "another ticket", "identifier", 2)),
])  # fmt: skip
def _(d: Desk, side: str, volume: float) -> Any:
    net = Desk(margin_mode="netting")
    before = net.open(type=BUY, volume=0.3)
    sent = net.send(type=BUY if side == "buy" else SELL, volume=volume)
    entry = net.deals(before.identifier)[-1].entry
    if not net.mt5.positions_get():
        return entry
    (now,) = net.mt5.positions_get()
    ticket = {before.ticket: "ticket", sent.order: "another ticket"}[now.ticket]
    return now.type, now.volume, ticket, "identifier" if now.identifier == before.identifier else "", entry


@fact("netting: the price is the average", 1.1021)
def _(d: Desk) -> Any:
    net = Desk(margin_mode="netting")
    net.open(type=BUY, volume=0.1)
    net.quote("EURUSD", 1.103, 1.1031)
    net.send(type=BUY, volume=0.2)
    return round(net.mt5.positions_get()[0].price_open, 10)


@fact("netting: close-by is for hedging", 10013)
def _(d: Desk) -> Any:
    net = Desk(margin_mode="netting")
    ticket = net.open(type=BUY).ticket
    return net.send(action=10, position=ticket, position_by=ticket).retcode


@fact("swap by re-opening: another ticket, the same identifier", (False, True))
def _(d: Desk) -> Any:
    before = held(d)
    d.mt5.sim_symbol("EURUSD", swap_mode=7)
    d.mt5.sim_rollover()
    (now,) = d.mt5.positions_get()
    return now.ticket == before.ticket, now.identifier == before.identifier


@fact("position_id of every order and deal of a position is its identifier", {True})
def _(d: Desk) -> Any:
    position = held(d)
    d.close(position)
    rows = (*d.deals(position.identifier), *d.mt5.history_orders_get(position=position.identifier))
    return {row.position_id == position.identifier for row in rows}


# time


@fact("a time is the server's wall clock written as an epoch", (3 * 3_600_000, True))
def _(d: Desk) -> Any:
    position = held(d)
    return position.time_msc - round(d.clock.now * 1000), position.time == position.time_msc // 1000


@fact("a tick's too, and the server may change its clock", 2 * 3_600_000)
def _(d: Desk) -> Any:
    d.mt5.sim_account(utc_offset=2.0)
    d.pass_time(1)
    return d.mt5.symbol_info_tick("EURUSD").time_msc - round(d.clock.now * 1000)


@facts("an expiration {0} s from now, by the server's clock", [(0, 10022), (1, 10009)])
def _(d: Desk, later: int) -> Any:
    now = int(d.clock.now) + 3 * 3600
    return d.pending(type=BUY_LIMIT, price=1.0, type_time=2, expiration=now + later).retcode


# arrays


@facts("{0} without numpy is unsupported", [
    (name, (None, (-7, "Unsupported function"))) for name in BY_PLACE
    if name.startswith("copy_") and importlib.util.find_spec("numpy") is None
])  # fmt: skip
def _(d: Desk, name: str) -> Any:
    return told(d, name, *BY_PLACE[name])


@pytest.mark.parametrize("row", [pytest.param(row, id=row.about) for row in FACTS])
def test_the_simulator_does_as_is_known(row: Fact):
    desk = Desk()
    if isinstance(row.answer, type) and issubclass(row.answer, Exception):
        with pytest.raises(row.answer):
            row.ask(desk)
    else:
        assert row.ask(desk) == row.answer
