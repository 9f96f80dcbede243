"""The simulator takes and refuses arguments as the MetaTrader5 package does, None and () included."""

import enum
import time
from datetime import datetime, timedelta
from typing import Any

import pytest

import mt5_sim
from sim_account import AccountSettings
from sim_arguments import in_group
from sim_broker import Broker

GOOD = {"action": 1, "symbol": "EURUSD", "volume": 0.01, "type": 0, "type_filling": 1}
SUCCESS = (1, "Success")


class Side(enum.IntEnum):
    BUY = 0


class Int64:
    """Stands for numpy.int64, which is no int."""

    def __index__(self) -> int:
        return 1


class Float64(float):
    """Stands for numpy.float64, which is a float."""


@pytest.fixture
def mt5() -> mt5_sim.Client:
    client = mt5_sim.Client(Broker(AccountSettings(login=7), seed=1))
    assert client.initialize()
    return client


@pytest.fixture
def held(mt5: mt5_sim.Client) -> mt5_sim.Client:
    """Three positions on two symbols, a pending order, and a closed position."""
    for symbol in ("EURUSD", "EURUSD", "USDJPY"):
        assert mt5.order_send({**GOOD, "symbol": symbol}).retcode == 10009
    closed = mt5.order_send(GOOD).order
    assert mt5.order_send({**GOOD, "type": 1, "position": closed}).retcode == 10009
    assert mt5.order_send({**GOOD, "action": 5, "type": 2, "price": 1.0}).retcode == 10009
    return mt5


# ---- calling


@pytest.mark.parametrize(
    "name",
    [
        "shutdown",
        "version",
        "last_error",
        "terminal_info",
        "account_info",
        "symbols_total",
        "orders_total",
        "positions_total",
    ],
)
def test_functions_without_arguments_take_none(mt5: mt5_sim.Client, name: str):
    with pytest.raises(TypeError):
        getattr(mt5, name)(1)
    with pytest.raises(TypeError):
        getattr(mt5, name)(symbol="EURUSD")


@pytest.mark.parametrize(
    ("name", "keywords"),
    [
        ("symbol_info", {"symbol": "EURUSD"}),
        ("symbol_info_tick", {"symbol": "EURUSD"}),
        ("symbol_select", {"symbol": "EURUSD", "enable": True}),
        ("market_book_add", {"symbol": "EURUSD"}),
        ("copy_rates_from_pos", {"symbol": "EURUSD", "timeframe": 1, "start_pos": 0, "count": 1}),
        ("copy_ticks_from", {"symbol": "EURUSD"}),
        ("order_calc_margin", {"action": 0}),
        ("order_calc_profit", {"action": 0}),
        ("history_deals_total", {"date_from": 1, "date_to": 2}),
        ("history_orders_total", {"date_from": 1, "date_to": 2}),
    ],
)
def test_positional_only_functions_raise_on_keywords(mt5: mt5_sim.Client, name: str, keywords: dict[str, Any]):
    with pytest.raises(TypeError):
        getattr(mt5, name)(**keywords)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("order_calc_margin", ("0", "EURUSD", 1.0, 1.1)),
        ("order_calc_margin", (0, "EURUSD", 1.0)),
        ("order_calc_profit", (0, "EURUSD", "1", 1.1, 1.2)),
        ("copy_rates_from_pos", ("EURUSD", "M1", 0, 1)),
        ("copy_ticks_from", ("EURUSD", "today", 1, 0)),
    ],
)
def test_arguments_parsed_in_c_raise_system_error(mt5: mt5_sim.Client, name: str, arguments: tuple[Any, ...]):
    with pytest.raises(SystemError):
        getattr(mt5, name)(*arguments)


def test_wrong_symbol_arguments_give_none_and_minus_two(mt5: mt5_sim.Client):
    for arguments in ((), (1,), ("EURUSD", "X"), ("x" * 30,), (None,)):
        assert mt5.symbol_info(*arguments) is None
        assert mt5.last_error()[0] == -2


def test_an_unknown_symbol_is_not_found(mt5: mt5_sim.Client):
    assert mt5.symbol_info("NOPE") is None
    assert mt5.last_error() == (-4, "Terminal: Not found")
    assert mt5.symbol_select("NOPE", True) is False
    assert mt5.symbol_info_tick("NOPE") is None


def test_last_error_is_of_the_last_call_only(mt5: mt5_sim.Client):
    assert mt5_sim.Client(Broker(AccountSettings(login=7))).last_error() == (0, "")
    mt5.symbol_info("NOPE")
    assert mt5.last_error() == mt5.last_error() != SUCCESS
    mt5.positions_get()
    assert mt5.last_error() == SUCCESS


# ---- connection


def test_without_a_connection_nothing_is_known():
    mt5 = mt5_sim.Client()
    for name in ("account_info", "terminal_info", "positions_get", "orders_get", "positions_total"):
        assert getattr(mt5, name)() is None
        assert mt5.last_error() == (-10004, "No IPC connection")
    assert mt5.order_send(GOOD) is None
    assert mt5.history_deals_get(1, 2) is None
    assert mt5.symbol_select("EURUSD", True) is False
    assert mt5.login(5) is False
    assert mt5.version() == (0, 0, "")
    assert mt5.shutdown() is True
    assert mt5.symbols_get() is None
    assert mt5.last_error()[0] == -5


def test_initialize_needs_an_address(monkeypatch: pytest.MonkeyPatch):
    mt5 = mt5_sim.Client()
    assert mt5.initialize() is False
    assert mt5.last_error()[0] == -10003
    assert "AIBOT_SIM_TERMINAL" in mt5.last_error()[1]
    monkeypatch.setenv("AIBOT_SIM_TERMINAL", "nonsense")
    assert mt5.initialize() is False
    assert mt5.last_error() == (-10003, "IPC initialize failed, Process create failed 'nonsense'")


@pytest.mark.parametrize(
    "keywords",
    [{"login": "7"}, {"login": Int64()}, {"password": 5}, {"server": None}, {"timeout": 1.5}, {"portable": "yes"}],
)
def test_initialize_is_strict_about_types(keywords: dict[str, Any]):
    mt5 = mt5_sim.Client(Broker(AccountSettings(login=7)))
    assert mt5.initialize(**keywords) is False
    assert mt5.last_error() == (-2, f'Invalid "{next(iter(keywords))}" argument')


@pytest.mark.parametrize(
    ("keywords", "works"),
    [
        ({}, True),
        ({"login": 7}, True),
        ({"login": 7, "password": "demo", "server": "Sim"}, True),
        ({"login": 7, "password": "investor"}, True),
        ({"login": 8, "password": "demo"}, False),
        ({"login": 7, "password": "wrong"}, False),
        ({"login": 7, "password": "demo", "server": "Other"}, False),
    ],
)
def test_wrong_credentials_are_refused(keywords: dict[str, Any], works: bool):
    mt5 = mt5_sim.Client(Broker(AccountSettings(login=7)))
    assert mt5.initialize("any", **keywords) is works
    assert mt5.last_error() == (SUCCESS if works else (-6, "Terminal: Authorization failed"))
    assert (mt5.account_info() is not None) is works


def test_login_takes_positions_or_keywords(mt5: mt5_sim.Client):
    assert mt5.login(7, "demo", "Sim", 1000) is True
    assert mt5.login(login=7, password="demo") is True
    assert mt5.login(0) is False
    assert mt5.last_error()[0] == -2
    assert mt5.login(9, "demo") is False
    assert mt5.last_error()[0] == -6


# ---- positions and orders


def test_nothing_is_an_empty_tuple_and_an_error_is_none(mt5: mt5_sim.Client):
    assert mt5.positions_get() == () == mt5.orders_get()
    assert mt5.positions_get(ticket=5) == () == mt5.positions_get(symbol="NOPE")
    assert mt5.last_error() == SUCCESS


def test_positions_get_takes_keywords_only(held: mt5_sim.Client):
    assert held.positions_get("EURUSD") is None
    assert held.last_error() == (-2, "Unnamed arguments not allowed")


@pytest.mark.parametrize("ticket", [None, 5.0, Int64(), "5"])
def test_a_ticket_is_a_plain_int(held: mt5_sim.Client, ticket: Any):
    assert held.positions_get(ticket=ticket) is None
    assert held.last_error() == (-2, 'Invalid "ticket" argument')


@pytest.mark.parametrize("ticket", [-1, 2**64])
def test_a_ticket_out_of_range_is_a_system_error(held: mt5_sim.Client, ticket: int):
    with pytest.raises(SystemError) as raised:
        held.orders_get(ticket=ticket)
    assert isinstance(raised.value.__cause__, OverflowError)


def test_an_unknown_keyword_is_ignored_and_gives_all(held: mt5_sim.Client):
    assert len(held.positions_get(tiket=5)) == 3


def test_ticket_goes_before_symbol_and_symbol_before_group(held: mt5_sim.Client):
    jpy = held.positions_get(symbol="USDJPY")[0]
    assert held.positions_get(ticket=jpy.ticket, symbol="EURUSD", group="*EUR*") == (jpy,)
    assert held.positions_get(symbol="USDJPY", group="*EUR*") == (jpy,)
    assert len(held.positions_get(group="*EUR*")) == 2


@pytest.mark.parametrize(
    ("mask", "symbols"),
    [
        ("*", "EURUSD GBPUSD USDJPY"),
        ("*USD", "EURUSD GBPUSD"),
        ("EURUSD", "EURUSD"),
        ("EUR", ""),
        ("*eur*", ""),
        ("EUR*,GBP*", "EURUSD GBPUSD"),
        ("EUR*, GBP*", "EURUSD GBPUSD"),
        ("*,!EUR", "EURUSD GBPUSD USDJPY"),
        ("*,!*EUR*", "GBPUSD USDJPY"),
        ("!*EUR*", ""),
        ("!*EUR*,*", "EURUSD GBPUSD USDJPY"),
        ("*,! *EUR*", "EURUSD GBPUSD USDJPY"),
        ("*U*D", "EURUSD GBPUSD"),
        ("", ""),
    ],
)
def test_group_masks(mask: str, symbols: str):
    names = ("EURUSD", "GBPUSD", "USDJPY")
    assert [name for name in names if in_group(name, mask)] == symbols.split()


def test_a_mask_of_30_characters_is_refused(held: mt5_sim.Client):
    assert held.positions_get(group="*" * 29) is not None
    assert held.positions_get(group="*" * 30) is None
    assert held.last_error() == (-2, 'Invalid "group" argument')


def test_symbols_get_takes_its_group_either_way(mt5: mt5_sim.Client):
    assert [info.name for info in mt5.symbols_get("*JPY*")] == ["USDJPY"]
    assert [info.name for info in mt5.symbols_get(group="WIN*,WDO*")] == ["WINZ26", "WDOZ26"]
    assert len(mt5.symbols_get()) == mt5.symbols_total()


# ---- order_send


@pytest.mark.parametrize("field", ["volume", "price", "stoplimit", "sl", "tp"])
@pytest.mark.parametrize("value", [0, 1, "1.0", None, Int64(), True])
def test_prices_and_volume_must_be_float(mt5: mt5_sim.Client, field: str, value: Any):
    assert mt5.order_send({**GOOD, field: value}) is None
    assert mt5.last_error() == (-2, f'Invalid "{field}" argument')


@pytest.mark.parametrize(
    "field",
    [
        "action",
        "magic",
        "order",
        "deviation",
        "type",
        "type_filling",
        "type_time",
        "expiration",
        "position",
        "position_by",
    ],
)
@pytest.mark.parametrize("value", [1.0, "1", None, Int64(), datetime(2026, 1, 1)])
def test_the_other_numbers_must_be_int(mt5: mt5_sim.Client, field: str, value: Any):
    assert mt5.order_send({**GOOD, field: value}) is None
    assert mt5.last_error() == (-2, f'Invalid "{field}" argument')


@pytest.mark.parametrize("field", ["magic", "position"])
@pytest.mark.parametrize("value", [-1, 2**64])
def test_unsigned_fields_out_of_range_are_a_system_error(mt5: mt5_sim.Client, field: str, value: int):
    with pytest.raises(SystemError):
        mt5.order_send({**GOOD, field: value})


def test_subclasses_of_float_and_int_are_taken(mt5: mt5_sim.Client):
    assert mt5.order_send({**GOOD, "volume": Float64(0.01), "type": Side.BUY}).retcode == 10009


@pytest.mark.parametrize(
    ("comment", "taken"),
    [("x" * 29, True), ("x" * 30, False), ("é" * 29, True), ("😀" * 14, True), ("😀" * 15, False), (None, False)],
)
def test_a_comment_has_29_utf16_units_at_most(mt5: mt5_sim.Client, comment: Any, taken: bool):
    sent = mt5.order_send({**GOOD, "comment": comment})
    assert (sent is not None) is taken
    assert mt5.last_error() == (SUCCESS if taken else (-2, 'Invalid "comment" argument'))


def test_unknown_keys_are_ignored_and_keywords_do_as_well(mt5: mt5_sim.Client):
    assert mt5.order_send({**GOOD, "stoploss": "far"}).retcode == 10009
    assert mt5.order_send(**GOOD).retcode == 10009


def test_request_as_a_keyword_sends_zeros(mt5: mt5_sim.Client):
    sent = mt5.order_send(request=GOOD)
    assert sent.retcode == 10013
    assert sent.request.symbol == ""
    assert mt5.positions_get() == ()


@pytest.mark.parametrize("arguments", [([1, 2],), (None,), (GOOD, GOOD), ()])
def test_anything_but_a_dict_is_refused(mt5: mt5_sim.Client, arguments: tuple[Any, ...]):
    assert mt5.order_send(*arguments) is None
    assert mt5.last_error()[0] == -2


def test_a_result_cannot_be_sent_again_as_a_request(mt5: mt5_sim.Client):
    assert mt5.order_send(mt5.order_send(GOOD).request) is None


def test_last_error_after_a_refused_order_is_success(mt5: mt5_sim.Client):
    assert mt5.order_send({**GOOD, "volume": 0.001}).retcode == 10014
    assert mt5.last_error() == SUCCESS


@pytest.mark.parametrize("volume", [float("nan"), float("inf"), 1e300])
def test_no_number_breaks_the_broker(mt5: mt5_sim.Client, volume: float):
    assert mt5.order_send({**GOOD, "volume": volume}).retcode == 10013
    assert mt5.order_calc_margin(0, "EURUSD", volume, 1.1) is None


def test_order_check_answers_zero_and_done(mt5: mt5_sim.Client):
    checked = mt5.order_check({**GOOD, "volume": 1.0})
    assert (checked.retcode, checked.comment) == (0, "Done")
    assert checked.margin == pytest.approx(mt5.symbol_info_tick("EURUSD").ask * 1000, abs=0.01)
    assert mt5.order_check({**GOOD, "volume": 0.001}).retcode == 10014
    assert mt5.order_check({**GOOD, "sl": 0}) is None
    assert mt5.positions_get() == ()


# ---- history


def test_history_takes_dates_by_position(held: mt5_sim.Client):
    now = int(time.time())
    for first, last in (
        (now - 86400, now + 86400),
        (float(now - 86400), float(now + 86400)),
        (datetime.now() - timedelta(days=1), datetime.now() + timedelta(days=1)),
    ):
        assert len(held.history_deals_get(first, last)) == 6
        assert len(held.history_deals_get(first, last, group="*JPY*")) == 1
        assert held.history_deals_total(first, last) == 6
        assert held.history_orders_total(first, last) == 5
    assert held.history_deals_get(now + 86400, now + 172800) == ()


@pytest.mark.parametrize(
    ("arguments", "keywords"),
    [
        ((), {}),
        ((1,), {}),
        ((), {"date_from": 1, "date_to": 2}),
        ((Int64(), 2), {}),
        (("1", "2"), {}),
        ((1, 2, "*"), {}),
    ],
)
def test_other_dates_are_refused(held: mt5_sim.Client, arguments: tuple[Any, ...], keywords: dict[str, Any]):
    assert held.history_deals_get(*arguments, **keywords) is None
    assert held.last_error()[0] == -2


def test_dates_pass_through_32_bits(held: mt5_sim.Client):
    assert held.history_deals_get(1, datetime(2038, 1, 21)) == ()
    assert len(held.history_deals_get(1, datetime(2038, 1, 17))) == 6
    with pytest.raises(SystemError):
        held.history_deals_get(1, 2**40)


def test_history_by_order_and_by_position(held: mt5_sim.Client):
    deals = held.history_deals_get(1, 2**31 - 1)
    out = next(deal for deal in deals if deal.entry == 1)
    both = held.history_deals_get(position=out.position_id)
    assert [deal.entry for deal in both] == [0, 1]
    assert held.history_deals_get(ticket=out.order) == (out,)
    assert [order.ticket for order in held.history_orders_get(ticket=out.order)] == [out.order]
    assert len(held.history_orders_get(position=out.position_id)) == 2
    assert held.history_deals_get(ticket=1) == () == held.history_deals_get(position=1)


def test_two_dates_make_ticket_and_position_count_for_nothing(held: mt5_sim.Client):
    assert len(held.history_deals_get(1, 2**31 - 1, ticket=5)) == 6


def test_a_balance_deal_has_no_symbol_and_no_order(mt5: mt5_sim.Client):
    (deal,) = mt5.history_deals_get(1, 2**31 - 1)
    assert (deal.type, deal.symbol, deal.order, deal.profit) == (2, "", 0, 10000.0)


# ---- what needs numpy


def test_price_arrays_need_numpy(mt5: mt5_sim.Client):
    try:
        import numpy  # noqa: F401
    except ImportError:
        assert mt5.copy_rates_from_pos("EURUSD", mt5.TIMEFRAME_M1, 0, 5) is None
        assert mt5.last_error() == (-7, "Unsupported function")
        assert mt5.copy_ticks_from("EURUSD", 1, 5, mt5.COPY_TICKS_ALL) is None
        return
    mt5.sim_advance(20)
    ticks = mt5.copy_ticks_from("EURUSD", 1, 5, mt5.COPY_TICKS_ALL)
    assert len(ticks) == 5
    assert ticks["ask"][0] > ticks["bid"][0]
    bars = mt5.copy_rates_from_pos("EURUSD", mt5.TIMEFRAME_M1, 0, 5)
    assert bars["high"][-1] >= bars["close"][-1] >= bars["low"][-1]
