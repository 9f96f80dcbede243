"""The simulator has the constants and result types of MetaTrader5 5.0.6231, exactly."""

import hashlib
from typing import Any

import pytest

import mt5_sim
import sim_types
from sim_account import AccountSettings
from sim_broker import Broker

# Made from what the real package exports: "NAME=value" and "Type: field field ..." lines, sorted.
CONSTANTS = "30b51411227a9a3694a8e9ce5face88a015cae38f8acb98687fcd7911da55d6e"
STRUCTS = "9c515853cf160a8e86c45255d66a85f8aa871d1631aa0421a9d47b0f81f5b364"

# The Python type of every field, in order: int, float, bool, str, and the request in two of them.
FIELD_TYPES = {
    "AccountInfo": "iiiiibbiibffffffffffffffssss",
    "BookInfo": "ifif",
    "OrderCheckResult": "iffffffsr",
    "OrderSendResult": "iiiffffsiir",
    "SymbolInfo": "b" + "i" + "bb" + "i" * 9 + "b" + "i" * 10 + "b" + "i" * 6 + "f" * 52 + "s" * 13,
    "TerminalInfo": "bbbbbbbbbbiiiiffssssss",
    "Tick": "ifffiiif",
    "TradeDeal": "iiiiiiiiiffffffsss",
    "TradeOrder": "iiiiiiiiiiiiiifffffffsss",
    "TradePosition": "iiiiiiiiifffffffsss",
    "TradeRequest": "iiisfffffiiiiisii",
}
KINDS = {"i": int, "f": float, "b": bool, "s": str, "r": sim_types.TradeRequest}

FUNCTIONS = [
    "initialize",
    "login",
    "shutdown",
    "version",
    "last_error",
    "account_info",
    "terminal_info",
    "symbols_total",
    "symbols_get",
    "symbol_info",
    "symbol_info_tick",
    "symbol_select",
    "market_book_add",
    "market_book_get",
    "market_book_release",
    "copy_rates_from",
    "copy_rates_from_pos",
    "copy_rates_range",
    "copy_ticks_from",
    "copy_ticks_range",
    "orders_total",
    "orders_get",
    "positions_total",
    "positions_get",
    "order_calc_margin",
    "order_calc_profit",
    "order_check",
    "order_send",
    "history_orders_total",
    "history_orders_get",
    "history_deals_total",
    "history_deals_get",
]


def digest(lines: list[str]) -> str:
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()


@pytest.fixture
def mt5() -> mt5_sim.Client:
    client = mt5_sim.Client(Broker(AccountSettings(login=7), seed=1))
    assert client.initialize()
    return client


def test_every_constant_has_the_value_of_the_package():
    assert digest([f"{name}={value}" for name, value in sim_types.CONSTANTS.items()]) == CONSTANTS


def test_every_result_type_has_the_fields_of_the_package():
    lines = [f"{struct.__name__}: {' '.join(struct.__match_args__)}" for struct in sim_types.STRUCTS]
    assert digest(lines) == STRUCTS


@pytest.mark.parametrize(
    "holder", [mt5_sim, mt5_sim.Client(Broker(AccountSettings(login=7)))], ids=["module", "client"]
)
def test_a_module_and_a_client_have_everything_the_package_has(holder: Any):
    assert len(FUNCTIONS) == 32
    assert all(callable(getattr(holder, name)) for name in FUNCTIONS)
    assert all(getattr(holder, name) == value for name, value in sim_types.CONSTANTS.items())
    assert all(getattr(holder, struct.__name__) is struct for struct in sim_types.STRUCTS)
    assert (holder.__version__, bool(holder.__author__)) == ("5.0.6231", True)


def test_a_star_import_brings_the_api_of_the_package_and_no_controls():
    assert set(mt5_sim.__all__) == {*FUNCTIONS, *sim_types.CONSTANTS, *FIELD_TYPES}


def test_not_exported_constants_stay_unexported():
    for name in ("SYMBOL_FILLING_FOK", "SYMBOL_ORDER_CLOSEBY", "TRADE_RETCODE_HEDGE_PROHIBITED"):
        assert not hasattr(mt5_sim, name)


def test_a_result_is_a_struct_sequence_and_no_named_tuple():
    tick = sim_types.Tick([1, 2.0, 3.0, 0.0, 0, 1000, 6, 0.0])
    assert isinstance(tick, tuple)
    assert (tick.bid, tick[1], tick[1:3]) == (2.0, 2.0, (2.0, 3.0))
    assert repr(tick).startswith("Tick(time=1, bid=2.0, ask=3.0, ")
    assert repr(sim_types.Tick) == "<class 'Tick'>"
    assert tick._asdict()["time_msc"] == 1000
    assert (tick.n_fields, tick.n_sequence_fields, tick.n_unnamed_fields) == (8, 8, 0)
    assert tick.__match_args__[0] == "time"
    for missing in ("_fields", "_replace", "_make", "_field_defaults"):
        assert not hasattr(tick, missing)
        assert not hasattr(sim_types.Tick, missing)


def test_a_result_is_built_from_one_sequence_of_the_right_length_and_never_changed():
    with pytest.raises(TypeError):
        sim_types.Tick(1, 2.0, 3.0, 0.0, 0, 1000, 6, 0.0)
    with pytest.raises(TypeError, match="8-sequence"):
        sim_types.Tick([1, 2.0])
    tick = sim_types.Tick([1, 2.0, 3.0, 0.0, 0, 1000, 6, 0.0])
    with pytest.raises(AttributeError):
        tick.bid = 5.0
    with pytest.raises(AttributeError):
        tick.new = 5.0


def test_every_field_of_every_answer_has_its_type(mt5: mt5_sim.Client):
    for name in ("EURUSD", "WINZ26"):
        mt5.symbol_select(name)
    sent = mt5.order_send(action=1, symbol="EURUSD", volume=0.02, type=0, type_filling=1, magic=5, comment="x")
    mt5.order_send(action=5, symbol="EURUSD", volume=0.02, type=2, price=1.0, type_filling=2)
    mt5.order_send(action=1, symbol="EURUSD", volume=0.01, type=1, type_filling=1, position=sent.order)
    mt5.market_book_add("EURUSD")
    answers = [
        mt5.account_info(), mt5.terminal_info(), mt5.symbol_info("EURUSD"), mt5.symbol_info("WINZ26"),
        mt5.symbol_info("BTCUSD"), mt5.symbol_info_tick("EURUSD"), mt5.market_book_get("EURUSD")[0],
        mt5.positions_get()[0], mt5.orders_get()[0], *mt5.history_deals_get(1, 2**31 - 1),
        *mt5.history_orders_get(1, 2**31 - 1), sent, sent.request, mt5.order_send(action=99),
        mt5.order_check(action=1, symbol="EURUSD", volume=0.02, type=0, type_filling=1),
    ]  # fmt: skip
    assert {type(answer).__name__ for answer in answers} == set(FIELD_TYPES)
    for answer in answers:
        kinds = [KINDS[letter] for letter in FIELD_TYPES[type(answer).__name__]]
        assert [type(value) for value in answer] == kinds, answer


def test_a_nested_request_stays_a_result_in_asdict(mt5: mt5_sim.Client):
    sent = mt5.order_send(action=1, symbol="EURUSD", volume=0.02, type=0, type_filling=1)
    assert isinstance(sent._asdict()["request"], sim_types.TradeRequest)
