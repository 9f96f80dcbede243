"""What the terminal says and does not say: no failed question is an answer, no unknown order is a refused one."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal as D
from types import SimpleNamespace
from typing import Any

import pytest
from fakes import NOON, FakeClock, FakeMt5

import sim_types
from account import Entry, Lifetime, MarginMode, Order, OrderEnd, Position
from config import Mt5Settings
from expiry import Until
from mt5_sim import Client
from outcomes import LAST_ERRORS, RETCODES, Op, Outcome, Verdict, verdict_of
from signals import Action, Kind
from sim_account import AccountSettings
from sim_broker import Broker
from sim_symbols import symbols_with
from terminal import CannotConnect, ConnectionLost, Terminal, Unreadable, connect_until, exact

SETTINGS = Mt5Settings(7, "secret", "Broker-Demo")


@pytest.fixture
def mt5() -> FakeMt5:
    return FakeMt5()


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def terminal(mt5: FakeMt5, clock: FakeClock) -> Terminal:
    return Terminal(mt5, SETTINGS, clock)


def position_row(**fields: Any) -> Any:
    known = {
        "ticket": 11, "identifier": 10, "symbol": "EURUSD", "type": 0, "volume": 0.3, "price_open": 1.1, "sl": 0.0,
        "tp": 1.2, "magic": 5, "comment": "p1.abcd", "time_msc": 99, "time_update_msc": 120, "profit": -1.5,
    }  # fmt: skip
    return SimpleNamespace(**{**known, **fields})


def order_row(**fields: Any) -> Any:
    known = {
        "ticket": 21, "symbol": "EURUSD", "type": 2, "volume_initial": 0.5, "volume_current": 0.2, "price_open": 1.05,
        "price_stoplimit": 0.0, "sl": 1.0, "tp": 0.0, "magic": 5, "comment": "", "time_setup_msc": 77,
        "time_expiration": 60, "type_time": 2, "state": 1, "position_id": 0,
    }  # fmt: skip
    return SimpleNamespace(**{**known, **fields})


POSITION = Position(11, 10, "EURUSD", Action.BUY, D("0.3"), D("1.1"), D(0), D("1.2"), 5, "", 99, D(0))
ORDER = Order(
    21, "EURUSD", Action.BUY_LIMIT, D("0.5"), D("0.2"), D("1.05"), D(0), D(1), D(0), 5, "", 77, 60_000,
    Lifetime.SPECIFIED,
)  # fmt: skip


# --- looking ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("question", ["terminal_info", "account_info", "orders_get", "positions_get"])
def test_none_is_never_an_empty_account(terminal: Terminal, mt5: FakeMt5, question: str) -> None:
    mt5.answers[question] = None
    with pytest.raises(Unreadable, match=f"{question} was not answered.*Call failed"):
        terminal.read()


def test_an_empty_account_is_read_as_one(terminal: Terminal) -> None:
    reading = terminal.read()
    assert (reading.positions, reading.orders) == ((), ())


def test_the_account_is_checked_before_and_after_and_orders_are_read_before_positions(
    terminal: Terminal, mt5: FakeMt5
) -> None:
    terminal.read()
    gate = ["terminal_info", "account_info"]
    assert mt5.names() == [*gate, "orders_get", "positions_get", *gate]


def other_login(mt5: FakeMt5) -> None:
    mt5.account.login = 8


def other_server(mt5: FakeMt5) -> None:
    mt5.account.server = "Broker-Live"


def disconnected(mt5: FakeMt5) -> None:
    mt5.terminal.connected = False


@pytest.mark.parametrize("trouble", [other_login, other_server, disconnected])
def test_another_account_or_no_connection_is_noticed_before_and_after(
    terminal: Terminal, mt5: FakeMt5, trouble: Callable[[FakeMt5], None]
) -> None:
    def meanwhile(**_: Any) -> tuple[()]:
        trouble(mt5)
        return ()

    mt5.answers["positions_get"] = meanwhile
    with pytest.raises(Unreadable):
        terminal.read()
    assert "positions_get" in mt5.names()
    mt5.asked.clear()
    with pytest.raises(Unreadable):
        terminal.read()
    assert "orders_get" not in mt5.names(), "the account was looked at although it is not ours"


def test_the_server_is_the_same_in_any_case(terminal: Terminal, mt5: FakeMt5) -> None:
    mt5.account.server = "BROKER-demo"
    assert terminal.read().account.login == 7


@pytest.mark.parametrize(
    ("code", "lost"),
    {
        -1: False,
        -2: False,
        -10000: False,
        -10005: False,
        -10001: True,
        -10002: True,
        -10003: True,
        -10004: True,
    }.items(),
)
def test_a_broken_connection_is_told_from_a_failed_question(
    terminal: Terminal, mt5: FakeMt5, code: int, lost: bool
) -> None:
    mt5.answers["positions_get"], mt5.error = None, (code, "words")
    with pytest.raises(Unreadable) as raised:
        terminal.read()
    assert isinstance(raised.value, ConnectionLost) is lost


def test_positions_and_orders_are_read_exactly(terminal: Terminal, mt5: FakeMt5) -> None:
    mt5.answers["positions_get"] = (position_row(volume=0.1 + 0.2), position_row(ticket=12, identifier=12, type=1))
    mt5.answers["orders_get"] = (order_row(), order_row(ticket=22, type=7, price_stoplimit=1.04))
    reading = terminal.read()
    first, second = reading.positions
    assert (first.ticket, first.identifier, first.volume, first.action) == (11, 10, D("0.3"), Action.BUY)
    assert (first.time_msc, first.updated_msc) == (99, 120)
    assert (second.action, second.kind) == (Action.SELL, Kind.POSITION)
    assert reading.orders[0] == replace(ORDER, comment="")
    assert (reading.orders[1].action, reading.orders[1].stoplimit) == (Action.SELL_STOP_LIMIT, D("1.04"))
    assert reading.account.equity == D("1000.1")
    assert reading.account.margin_mode is MarginMode.HEDGING


def test_an_order_that_closes_two_positions_against_each_other_is_no_pending_order(
    terminal: Terminal, mt5: FakeMt5
) -> None:
    mt5.answers["orders_get"] = (order_row(type=sim_types.ORDER_TYPE_CLOSE_BY), order_row())
    assert [order.ticket for order in terminal.read().orders] == [21]


@pytest.mark.parametrize(
    ("value", "text"),
    {
        0.1 + 0.2: "0.3", 0.29: "0.29", 29 * 0.01: "0.29", 1.08500000000000001: "1.085", 1e-05: "0.00001",
        1e-10: "1E-10", 0.0: "0.0", 130000.0: "130000.0", 0.3 - 0.1: "0.2", 64999.99: "64999.99", -1.005: "-1.005",
    }.items(),
)  # fmt: skip
def test_a_double_becomes_the_number_it_stands_for(value: float, text: str) -> None:
    assert exact(value) == D(text)


@pytest.mark.parametrize(
    ("part", "field", "value", "words"),
    [
        ("account", "trade_allowed", False, "investor password"),
        ("account", "trade_expert", False, "does not allow automatic trading"),
        ("terminal", "tradeapi_disabled", True, "external Python API"),
        ("terminal", "trade_allowed", False, "Algo Trading"),
    ],
)
def test_why_orders_would_be_refused_is_said_and_reading_goes_on(
    terminal: Terminal, mt5: FakeMt5, part: str, field: str, value: bool, words: str
) -> None:
    assert terminal.read().account.trading_refused == ""
    setattr(getattr(mt5, part), field, value)
    assert words in terminal.read().account.trading_refused


# --- connecting -------------------------------------------------------------------------------------------------------


def test_connecting_names_the_account_and_the_terminal(mt5: FakeMt5) -> None:
    Terminal(mt5, replace(SETTINGS, path="C:/MT5/terminal64.exe", portable=True)).connect()
    calls: list[Any] = []
    mt5.answers["initialize"] = lambda *args, **kwargs: calls.append((args, kwargs)) or True
    Terminal(mt5, replace(SETTINGS, path="C:/MT5/terminal64.exe", portable=True)).connect()
    Terminal(mt5, SETTINGS).connect()
    account = {"login": 7, "password": "secret", "server": "Broker-Demo", "timeout": 60_000}
    assert calls == [(("C:/MT5/terminal64.exe",), {**account, "portable": True}), ((), account)]


@pytest.mark.parametrize(
    ("code", "advice"), {-6: "mt5.password", -10003: "mt5.path", -10005: "internet", -1: "running"}.items()
)
def test_a_failed_connection_says_what_to_do_and_never_the_password(mt5: FakeMt5, code: int, advice: str) -> None:
    mt5.answers["initialize"], mt5.error = False, (code, "words of the package")
    with pytest.raises(CannotConnect) as raised:
        Terminal(mt5, SETTINGS).connect()
    assert advice in str(raised.value)
    assert "words of the package" in str(raised.value)
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize("trouble", [other_login, other_server, disconnected])
def test_a_terminal_that_shows_another_account_is_not_connected(
    mt5: FakeMt5, trouble: Callable[[FakeMt5], None]
) -> None:
    trouble(mt5)
    with pytest.raises(CannotConnect):
        Terminal(mt5, SETTINGS).connect()


def test_connecting_is_tried_again_until_it_works_and_said_once(mt5: FakeMt5, caplog: pytest.LogCaptureFixture) -> None:
    class Stop(threading.Event):
        rests: list[float | None]

        def wait(self, timeout: float | None = None) -> bool:
            self.rests.append(timeout)
            return False

    stop = Stop()
    stop.rests = []
    mt5.then["initialize"] = [False] * 12
    with caplog.at_level("INFO"):
        assert connect_until(Terminal(mt5, SETTINGS), stop)
    assert len(stop.rests) == 12
    assert stop.rests == sorted(stop.rests)  # type: ignore[type-var]
    assert stop.rests[-1] == 15.0
    assert [record.levelname for record in caplog.records] == ["ERROR", "INFO"]
    stop.set()
    assert not connect_until(Terminal(mt5, SETTINGS), stop)


# --- symbols, quotes, the broker's clock ------------------------------------------------------------------------------


def test_a_symbol_is_selected_before_its_first_quote(terminal: Terminal, mt5: FakeMt5) -> None:
    mt5.symbol.visible = False
    symbol = terminal.symbol("EURUSD")
    assert mt5.asked == [
        ("symbol_info", ("EURUSD",)),
        ("symbol_select", ("EURUSD", True)),
        ("symbol_info_tick", ("EURUSD",)),
    ]
    assert symbol is not None
    assert symbol.point == D("0.00001")


def test_the_quote_that_a_symbol_shows_when_it_is_selected_may_be_of_days_ago_and_counts_as_none(
    terminal: Terminal, mt5: FakeMt5, clock: FakeClock
) -> None:
    mt5.symbol.visible = False
    assert not terminal.expects_quote
    for _ in range(2):
        symbol = terminal.symbol("EURUSD")
        assert symbol is not None
        assert (symbol.bid, symbol.ask, symbol.time_msc) == (0, 0, 0)
        assert terminal.expects_quote, "so that it is looked for sooner than in a second"
        mt5.symbol.visible = True
    clock.passes(3)
    assert not terminal.expects_quote
    mt5.quote.time_msc += 1
    symbol = terminal.symbol("EURUSD")
    assert symbol is not None
    assert (symbol.bid, symbol.ask, symbol.point, symbol.volume_step) == (
        D("1.1"),
        D("1.1001"),
        D("0.00001"),
        D("0.01"),
    )


@pytest.mark.parametrize(("age", "counts"), [(1, True), (10, False), (86_400, False)])
def test_the_quote_of_a_symbol_just_selected_counts_where_the_known_clock_of_the_broker_shows_that_it_is_of_now(
    terminal: Terminal, mt5: FakeMt5, clock: FakeClock, age: int, counts: bool
) -> None:
    mt5.quote.time_msc = round((clock.time() + 3 * 3600) * 1000)
    assert terminal.utc_offset_s({"GBPUSD"}) == 3 * 3600
    mt5.symbol.visible = False
    mt5.quote.time_msc -= age * 1000
    symbol = terminal.symbol("EURUSD")
    assert symbol is not None
    assert bool(symbol.bid) is counts
    assert terminal.expects_quote is not counts


def test_a_selected_symbol_is_not_selected_again(terminal: Terminal, mt5: FakeMt5) -> None:
    terminal.symbol("EURUSD")
    assert "symbol_select" not in mt5.names()


def test_a_symbol_without_a_quote_has_none_and_is_not_an_error(terminal: Terminal, mt5: FakeMt5) -> None:
    mt5.answers["symbol_info_tick"] = None
    symbol = terminal.symbol("EURUSD")
    assert symbol is not None
    assert (symbol.bid, symbol.ask, symbol.time_msc) == (0, 0, 0)


def test_an_unknown_symbol_is_none_and_a_failed_question_is_not(terminal: Terminal, mt5: FakeMt5) -> None:
    mt5.answers["symbol_info"], mt5.error = None, (-4, "Terminal: Not found")
    assert terminal.symbol("NOSUCH") is None
    mt5.error = (-10005, "IPC timeout")
    with pytest.raises(Unreadable):
        terminal.symbol("EURUSD")


def test_a_symbol_that_cannot_be_selected_is_a_failed_question(terminal: Terminal, mt5: FakeMt5) -> None:
    mt5.symbol.select, mt5.answers["symbol_select"] = False, False
    with pytest.raises(Unreadable):
        terminal.symbol("EURUSD")


@pytest.mark.parametrize(
    ("mode", "buys", "sells"),
    [(0, False, False), (1, True, False), (2, False, True), (3, False, False), (4, True, True)],
)
def test_the_trade_mode_says_which_side_may_be_opened(
    terminal: Terminal, mt5: FakeMt5, mode: int, buys: bool, sells: bool
) -> None:
    mt5.symbol.trade_mode = mode
    symbol = terminal.symbol("EURUSD")
    assert symbol is not None
    assert (symbol.opens_buy, symbol.opens_sell) == (buys, sells)


def test_the_margin_of_a_lot_is_asked_at_the_price_that_would_be_paid(terminal: Terminal, mt5: FakeMt5) -> None:
    symbol = terminal.symbol("EURUSD")
    assert symbol is not None
    assert terminal.margin_per_lot(Action.BUY, symbol) == D("1100.5")
    assert mt5.asked[-1] == ("order_calc_margin", (0, "EURUSD", 1.0, 1.1001))
    terminal.margin_per_lot(Action.SELL_LIMIT, symbol)
    assert mt5.asked[-1] == ("order_calc_margin", (1, "EURUSD", 1.0, 1.1))
    mt5.answers["order_calc_margin"] = None
    assert terminal.margin_per_lot(Action.BUY, symbol) is None


def quotes(mt5: FakeMt5, **times_msc: int) -> None:
    mt5.answers["symbol_info_tick"] = lambda name: SimpleNamespace(bid=1.0, ask=1.1, time_msc=times_msc[name])


def at(hours: float, seconds: float = 0) -> int:
    """Broker time in ms that is so far ahead of noon UTC."""
    return int((NOON + hours * 3600 + seconds) * 1000)


@pytest.mark.parametrize("hours", [-12, -5, 0, 2, 3, 5.5, 14])
def test_a_fresh_quote_shows_how_far_the_broker_is_from_utc(terminal: Terminal, mt5: FakeMt5, hours: float) -> None:
    quotes(mt5, EURUSD=at(hours, -2))
    assert terminal.utc_offset_s({"EURUSD"}) == hours * 3600


def test_without_a_quote_the_brokers_clock_is_not_known(terminal: Terminal, mt5: FakeMt5) -> None:
    assert terminal.utc_offset_s(set()) is None
    mt5.answers["symbol_info_tick"] = None
    assert terminal.utc_offset_s({"EURUSD"}) is None


def test_a_quote_that_does_not_change_never_shows_the_offset_however_old_it_gets(
    terminal: Terminal, mt5: FakeMt5, clock: FakeClock
) -> None:
    quotes(mt5, EURUSD=at(3))
    assert terminal.utc_offset_s({"EURUSD"}) == 3 * 3600
    for _ in range(48 * 60):  # a weekend; twice an hour the age of Friday's last quote is near a multiple of 30 minutes
        clock.passes(60)
        assert terminal.utc_offset_s({"EURUSD"}) == 3 * 3600


def test_an_old_quote_at_the_first_look_shows_nothing_until_another_comes(
    terminal: Terminal, mt5: FakeMt5, clock: FakeClock
) -> None:
    quotes(mt5, EURUSD=at(3, -3630))  # an hour old, as good as
    assert terminal.utc_offset_s({"EURUSD"}) is None
    clock.passes(10)
    assert terminal.utc_offset_s({"EURUSD"}) is None
    quotes(mt5, EURUSD=at(3, -20))
    assert terminal.utc_offset_s({"EURUSD"}) == 3 * 3600


def test_an_old_quote_of_another_symbol_does_not_hide_a_fresh_one(terminal: Terminal, mt5: FakeMt5) -> None:
    quotes(mt5, EURUSD=at(3), WINZ26=at(3, -3 * 3600 - 1))
    assert terminal.utc_offset_s({"EURUSD", "WINZ26"}) == 3 * 3600


def test_summer_time_is_followed(terminal: Terminal, mt5: FakeMt5, clock: FakeClock) -> None:
    quotes(mt5, EURUSD=at(3))
    terminal.utc_offset_s({"EURUSD"})
    clock.passes(3600)
    quotes(mt5, EURUSD=at(3))  # an hour later by our clock, the same by the broker's: but no new quote
    assert terminal.utc_offset_s({"EURUSD"}) == 3 * 3600
    quotes(mt5, EURUSD=at(3, 1))
    assert terminal.utc_offset_s({"EURUSD"}) == 2 * 3600


def test_a_quote_of_no_known_time_zone_is_not_believed(terminal: Terminal, mt5: FakeMt5) -> None:
    quotes(mt5, EURUSD=at(-12.5))
    assert terminal.utc_offset_s({"EURUSD"}) is None


# --- history ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("function", "ask"),
    [
        ("history_deals_get", lambda terminal: terminal.deals_of(10)),
        ("history_orders_get", lambda terminal: terminal.past_order(10)),
        ("history_orders_get", lambda terminal: terminal.past_orders(60)),
    ],
)
def test_a_history_that_cannot_be_read_is_not_empty(
    terminal: Terminal, mt5: FakeMt5, function: str, ask: Callable[[Terminal], Any]
) -> None:
    assert not ask(terminal)
    mt5.answers[function] = None
    with pytest.raises(Unreadable, match=function):
        ask(terminal)


def test_deals_and_ended_orders_are_read(terminal: Terminal, mt5: FakeMt5) -> None:
    deal = SimpleNamespace(
        ticket=1, order=21, position_id=10, type=1, entry=3, volume=0.29, price=1.1, profit=-0.1, reason=4, magic=5,
        comment="[sl 1.1]", time_msc=9,
    )  # fmt: skip
    mt5.answers["history_deals_get"] = (deal,)
    (found,) = terminal.deals_of(10)
    assert mt5.asked[-1] == ("history_deals_get", {"position": 10})
    assert (found.entry, found.volume, found.profit, found.buys) == (Entry.OUT_BY, D("0.29"), D("-0.1"), False)
    ends = {4: OrderEnd.FILLED, 2: OrderEnd.CANCELLED, 5: OrderEnd.CANCELLED, 6: OrderEnd.EXPIRED}
    for state in range(10):
        mt5.answers["history_orders_get"] = (order_row(state=state, position_id=21),)
        past = terminal.past_order(21)
        assert past is not None
        assert past.end is ends.get(state, OrderEnd.UNDECIDED)
        assert past.filled == D("0.3")


# --- verdicts ---------------------------------------------------------------------------------------------------------

# What each code means is the subject of test_order_codes.py.


def open_eurusd(terminal: Terminal, **fields: Any) -> Outcome:
    symbol = terminal.symbol("EURUSD")
    assert symbol is not None
    known = {"sl": D("1.0"), "tp": D(0), "deviation": 20, "magic": 5, "comment": "p1.abcd"}
    return terminal.open(symbol, Action.BUY, D("0.29"), **{**known, **fields})


@pytest.mark.parametrize("code", LAST_ERRORS)
def test_no_answer_is_judged_by_last_error(terminal: Terminal, mt5: FakeMt5, code: int) -> None:
    mt5.answers["order_send"], mt5.error = None, (code, "words")
    outcome = open_eurusd(terminal)
    assert (outcome.verdict, outcome.code, outcome.text) == (verdict_of(Op.OPEN, code), code, "words")
    assert len(mt5.sent()) == 1


@pytest.mark.parametrize("error", [OSError("pipe"), SystemError("result with an error set"), ValueError("x")])
def test_an_exception_while_sending_leaves_the_outcome_unknown(
    terminal: Terminal, mt5: FakeMt5, error: Exception
) -> None:
    mt5.answers["order_send"] = error
    outcome = open_eurusd(terminal)
    assert outcome.verdict is Verdict.UNKNOWN
    assert len(mt5.sent()) == 1


@pytest.mark.parametrize("code", sorted(set(RETCODES) - {10030}))
def test_an_order_is_sent_once_whatever_is_answered(terminal: Terminal, mt5: FakeMt5, code: int) -> None:
    mt5.answers["order_send"] = mt5.result(code, comment="Words of the broker")
    outcome = open_eurusd(terminal)
    assert len(mt5.sent()) == 1
    assert outcome.verdict is verdict_of(Op.OPEN, code)
    assert (outcome.order, outcome.volume, outcome.price) == (5, D("0.1"), D("1.1001"))
    assert "Words of the broker" in outcome.text


@pytest.mark.parametrize("trouble", [other_login, other_server, disconnected])
def test_nothing_is_sent_to_another_account_or_without_a_connection(
    terminal: Terminal, mt5: FakeMt5, trouble: Callable[[FakeMt5], None]
) -> None:
    symbol = terminal.symbol("EURUSD")
    assert symbol is not None
    trouble(mt5)
    answers = [
        open_eurusd(terminal),
        terminal.close_position(POSITION, D("0.3"), deviation=10, magic=5, comment=""),
        terminal.modify_position(POSITION, sl=D(1), tp=D(2)),
        terminal.remove_order(ORDER),
    ]
    assert mt5.sent() == []
    assert {answer.verdict for answer in answers} == {Verdict.LATER}


# --- filling modes ----------------------------------------------------------------------------------------------------

FOK, IOC, RETURN = 0, 1, 2


def modes(mt5: FakeMt5) -> list[int]:
    return [request["type_filling"] for request in mt5.sent()]


@pytest.mark.parametrize(
    ("execution", "flags", "expected"),
    [
        (2, 3, [IOC, FOK, RETURN]),
        (2, 2, [IOC, FOK, RETURN]),
        (2, 1, [FOK, IOC, RETURN]),
        (2, 0, [FOK, IOC, RETURN]),
        (3, 3, [RETURN, IOC, FOK]),
        (3, 0, [RETURN, IOC, FOK]),
        (0, 3, [FOK, IOC, RETURN]),
        (1, 0, [FOK, IOC, RETURN]),
    ],
)
def test_the_filling_mode_fits_the_execution_and_each_other_is_tried_once_on_10030(
    terminal: Terminal, mt5: FakeMt5, execution: int, flags: int, expected: list[int]
) -> None:
    mt5.symbol.trade_exemode, mt5.symbol.filling_mode = execution, flags
    mt5.answers["order_send"] = mt5.result(10030)
    outcome = open_eurusd(terminal)
    assert modes(mt5) == expected
    assert (outcome.verdict, outcome.code) == (Verdict.REFUSED, 10030)


def test_the_mode_that_was_taken_is_the_first_the_next_time(terminal: Terminal, mt5: FakeMt5) -> None:
    mt5.then["order_send"] = [mt5.result(10030), mt5.result(10030), mt5.result(10009)]
    assert open_eurusd(terminal).verdict is Verdict.DONE
    assert modes(mt5) == [IOC, FOK, RETURN]
    mt5.asked.clear()
    open_eurusd(terminal)
    assert modes(mt5) == [RETURN]
    mt5.asked.clear()
    mt5.then["order_send"] = [mt5.result(10030)]  # the broker has changed its mind
    assert open_eurusd(terminal).verdict is Verdict.DONE
    assert modes(mt5) == [RETURN, IOC]
    terminal.connect()
    mt5.asked.clear()
    open_eurusd(terminal)
    assert modes(mt5) == [IOC]


def test_an_unknown_answer_after_10030_ends_the_trying(terminal: Terminal, mt5: FakeMt5) -> None:
    mt5.then["order_send"] = [mt5.result(10030), mt5.result(10012), mt5.result(10009)]
    assert open_eurusd(terminal).verdict is Verdict.UNKNOWN
    assert len(mt5.sent()) == 2


def test_a_close_that_no_mode_fits_is_tried_again_later(terminal: Terminal, mt5: FakeMt5) -> None:
    mt5.answers["order_send"] = mt5.result(10030)
    symbol = terminal.symbol("EURUSD")
    assert symbol is not None
    outcome = terminal.close_position(POSITION, D("0.3"), deviation=10, magic=5, comment="")
    assert (outcome.verdict, len(mt5.sent())) == (Verdict.LATER, 3)


# --- requests ---------------------------------------------------------------------------------------------------------

FLOATS = {"volume", "price", "stoplimit", "sl", "tp"}


def assert_strict(request: dict[str, Any]) -> None:
    """As the package insists on it: an int where a float belongs makes order_send answer None."""
    assert request.keys() <= set(sim_types.TradeRequest.__match_args__)
    for name, value in request.items():
        wanted = float if name in FLOATS else str if name in ("symbol", "comment") else int
        assert type(value) is wanted, (name, value)
        assert wanted is not str or len(value) <= 29


def test_an_open_has_every_field_in_the_type_the_package_insists_on(terminal: Terminal, mt5: FakeMt5) -> None:
    open_eurusd(terminal, sl=D(1), tp=D(0))
    (request,) = mt5.sent()
    assert_strict(request)
    assert request == {
        "action": 1, "symbol": "EURUSD", "volume": 0.29, "type": 0, "price": 1.1001, "sl": 1.0, "tp": 0.0,
        "deviation": 20, "magic": 5, "comment": "p1.abcd", "type_filling": IOC,
    }  # fmt: skip


def test_a_sell_is_priced_at_the_bid(terminal: Terminal, mt5: FakeMt5) -> None:
    symbol = terminal.symbol("EURUSD")
    assert symbol is not None
    terminal.open(symbol, Action.SELL, D(1), sl=D(0), tp=D(0), deviation=0, magic=5, comment="")
    assert (mt5.sent()[0]["type"], mt5.sent()[0]["price"]) == (1, 1.1)


@pytest.mark.parametrize(("volume", "verdict"), [("0.3", Verdict.LATER), ("0.1", Verdict.UNKNOWN)])
def test_a_close_names_the_position_by_its_ticket_and_trades_against_it(
    terminal: Terminal, mt5: FakeMt5, volume: str, verdict: Verdict
) -> None:
    symbol = terminal.symbol("EURUSD")
    assert symbol is not None
    mt5.answers["order_send"] = mt5.result(10039)  # means one thing for a close, another for a reduction
    outcome = terminal.close_position(POSITION, D(volume), deviation=10, magic=5, comment="p1.abcd")
    (request,) = mt5.sent()
    assert_strict(request)
    assert (request["position"], request["type"], request["price"], request["volume"]) == (11, 1, 1.1, float(volume))
    assert outcome.verdict is verdict
    terminal.close_position(replace(POSITION, action=Action.SELL), D(volume), deviation=1, magic=5, comment="")
    assert (mt5.sent()[1]["type"], mt5.sent()[1]["price"]) == (0, 1.1001)


def test_both_stops_are_always_sent_because_one_left_out_would_be_removed(terminal: Terminal, mt5: FakeMt5) -> None:
    terminal.modify_position(POSITION, sl=D(1), tp=D(0))
    (request,) = mt5.sent()
    assert_strict(request)
    assert request == {"action": 6, "symbol": "EURUSD", "position": 11, "sl": 1.0, "tp": 0.0}


def test_the_lifetimes_of_pending_orders_that_a_symbol_takes_are_read(terminal: Terminal, mt5: FakeMt5) -> None:
    mt5.symbol.expiration_mode = 1 + 8
    symbol = terminal.symbol("EURUSD")
    assert symbol is not None
    assert symbol.lifetimes == {Lifetime.GTC, Lifetime.SPECIFIED_DAY}


def test_a_pending_order_is_placed_moved_and_removed_with_every_field(terminal: Terminal, mt5: FakeMt5) -> None:
    symbol = terminal.symbol("EURUSD")
    assert symbol is not None
    prices = {"price": D(1), "stoplimit": D("0.9"), "sl": D("0.8"), "tp": D(2)}
    terminal.place(
        symbol, Action.SELL_STOP_LIMIT, D(1), **prices, expiration=Until(Lifetime.GTC), magic=5, comment="o1.abcd"
    )
    terminal.place(
        symbol, Action.BUY_LIMIT, D(1), **prices, expiration=Until(Lifetime.SPECIFIED, 1234), magic=5, comment="o1.abcd"
    )
    terminal.modify_order(ORDER, **prices, expiration=Until(Lifetime.SPECIFIED_DAY, 1234))
    terminal.modify_order(ORDER, **prices, expiration=Until(Lifetime.DAY))
    terminal.remove_order(ORDER)
    for request in mt5.sent():
        assert_strict(request)
    first, second, third, fourth, last = mt5.sent()
    assert (first["action"], first["type"], first["type_time"], first["type_filling"]) == (5, 7, 0, RETURN)
    assert (second["type"], second["type_time"], second["expiration"]) == (2, 2, 1234)
    assert third == {
        "action": 7, "order": 21, "symbol": "EURUSD", "price": 1.0, "stoplimit": 0.9, "sl": 0.8, "tp": 2.0,
        "type_time": 3, "expiration": 1234,
    }  # fmt: skip
    assert (fourth["type_time"], "expiration" in fourth) == (1, False)
    assert "expiration" not in first
    assert last == {"action": 8, "order": 21}


# --- against the simulator, which insists on the same as the package --------------------------------------------------


@pytest.mark.parametrize(
    ("execution", "flags"), [(e, f) for e, f in itertools.product(range(4), range(4)) if (e, f) != (2, 0)]
)
def test_the_simulated_broker_takes_every_request(execution: int, flags: int) -> None:
    clock = FakeClock()
    symbols = symbols_with({"EURUSD": {"trade_exemode": execution, "filling_mode": flags, "select": False}})
    broker = Broker(AccountSettings(login=7, server="Broker-Demo"), clock=clock, symbols=symbols, seed=1)
    mt5 = Client(broker)
    terminal = Terminal(mt5, replace(SETTINGS, password="demo"), clock)
    terminal.connect()
    terminal.symbol("EURUSD")  # selects it
    clock.passes(1)
    mt5.sim_set_quote("EURUSD", 1.10000, 1.10010)
    symbol = terminal.symbol("EURUSD")
    assert symbol is not None
    assert symbol.ask == D("1.1001")
    assert terminal.utc_offset_s({"EURUSD"}) == 3 * 3600

    opened = open_eurusd(terminal, sl=D(1), tp=D(0))
    assert opened.verdict is Verdict.DONE, opened
    (position,) = terminal.read().positions
    assert (position.volume, position.ticket, position.sl) == (D("0.29"), opened.order, D(1))
    assert terminal.modify_position(position, sl=D(1), tp=D("1.2")).verdict is Verdict.DONE
    assert terminal.modify_position(position, sl=D(1), tp=D("1.2")).code == 10025
    part = terminal.close_position(position, D("0.10"), deviation=10, magic=5, comment="")
    assert part.verdict is Verdict.DONE
    (position,) = terminal.read().positions
    assert (position.volume, position.tp) == (D("0.19"), D("1.2"))
    whole = terminal.close_position(position, position.volume, deviation=10, magic=5, comment="")
    assert whole.verdict is Verdict.DONE
    again = terminal.close_position(position, position.volume, deviation=10, magic=5, comment="")
    assert (again.verdict, again.code) == (Verdict.DONE, 10036)
    assert [deal.entry for deal in terminal.deals_of(position.identifier)] == [Entry.IN, Entry.OUT, Entry.OUT]

    in_an_hour = int(clock.time()) + 3 * 3600 + 3600
    prices = {"price": D("1.09"), "stoplimit": D(0), "sl": D(0), "tp": D(0)}
    placed = terminal.place(
        symbol, Action.BUY_LIMIT, D(1), **prices, expiration=Until(Lifetime.SPECIFIED, in_an_hour), magic=5, comment=""
    )
    assert placed.verdict is Verdict.DONE
    (order,) = terminal.read().orders
    assert (order.ticket, order.expiration_msc) == (placed.order, in_an_hour * 1000)
    moved = terminal.modify_order(order, **{**prices, "price": D("1.08")}, expiration=Until(Lifetime.GTC))
    assert moved.verdict is Verdict.DONE
    assert terminal.remove_order(order).verdict is Verdict.DONE
    past = terminal.past_order(order.ticket)
    assert past is not None
    assert (past.end, past.action, past.volume, past.filled) == (OrderEnd.CANCELLED, Action.BUY_LIMIT, D(1), D(0))
    assert not terminal.read().everything
