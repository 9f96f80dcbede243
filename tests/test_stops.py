"""Which of the master's stops the client's broker takes: at the exact edges, and for any prices."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal as D

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_safety import EURUSD, PENDING, SELL, TRADE

from account import Order, Position, Symbol
from signals import Action
from stops import (
    Levels,
    displaced,
    entry_price,
    for_new,
    for_open,
    is_frozen,
    is_frozen_order,
    missing,
    of_increase,
    passed,
)

TEN = replace(EURUSD, stops_level=10)  # SL of a buy at most 1.09990, TP at least 1.10010; the bid is 1.10000
WIN = replace(EURUSD, bid=D(130000), ask=D(130005), point=D(1), digits=0, tick_size=D(5), stops_level=12)
NONE = Levels(D(0), D(0))


def held(action: str = "BUY", sl: str = "0", tp: str = "0", volume: str = "1") -> Position:
    return Position(1, 1, "EURUSD", Action(action), D(volume), D("1.1"), D(sl), D(tp), 5, "", 0, D(0))


def levels(sl: str, tp: str = "0") -> Levels:
    return Levels(D(sl), D(tp))


@pytest.mark.parametrize(
    ("buys", "price", "symbol", "asked", "taken"),
    [
        (True, "1.10000", TEN, levels("1.09990", "1.10010"), levels("1.09990", "1.10010")),  # at the edge
        (True, "1.10000", TEN, levels("1.09991", "1.10009"), levels("1.09990", "1.10010")),  # a point too near
        (True, "1.10000", TEN, levels("1.10050", "1.09950"), levels("1.09990", "1.10010")),  # passed
        (True, "1.10000", TEN, levels("1.05", "1.15"), levels("1.05", "1.15")),
        (False, "1.10010", TEN, levels("1.10020", "1.10000"), levels("1.10020", "1.10000")),
        (False, "1.10010", TEN, levels("1.10019", "1.10001"), levels("1.10020", "1.10000")),
        (True, "1.10000", EURUSD, levels("1.10000", "1.10000"), levels("1.09999", "1.10001")),  # no level: a tick
        (True, "130000", WIN, levels("129990", "130010"), levels("129985", "130015")),  # 12 points, ticks of 5
        (False, "130005", WIN, levels("130010", "129995"), levels("130020", "129990")),
        (True, "1.10000", TEN, NONE, NONE),  # none stays none
        (True, "0", TEN, levels("1.2", "1.0"), levels("1.2", "1.0")),  # without a price nothing can be said
        (True, "0.00005", TEN, levels("0.00004"), NONE),  # there is no level that far below
    ],
)
def test_a_level_that_is_too_near_is_moved_away_from_the_price_as_little_as_possible(
    buys: bool, price: str, symbol: Symbol, asked: Levels, taken: Levels
) -> None:
    assert for_new(buys, D(price), asked, symbol) == taken


PRICES = st.integers(100, 300_000)


@given(st.booleans(), PRICES, PRICES, PRICES, st.integers(0, 500), st.sampled_from([1, 5, 25]))
def test_no_level_is_nearer_than_the_masters_or_than_the_broker_takes(
    buys: bool, price: int, sl: int, tp: int, level: int, tick: int
) -> None:
    symbol = replace(WIN, tick_size=D(tick), stops_level=level, bid=D(price), ask=D(price))
    asked = Levels(D(sl // tick * tick), D(tp // tick * tick))
    taken = for_new(buys, D(price), asked, symbol)
    for has, wanted, below in ((taken.sl, asked.sl, buys), (taken.tp, asked.tp, not buys)):
        if not has:  # nothing that low
            assert below
            assert price - max(level, tick) < tick
            continue
        side = 1 if below else -1
        assert has % tick == 0
        assert side * (price - has) >= max(level, 1)
        assert side * (wanted - has) >= 0
        nearer = has + side * tick
        assert has == wanted or side * (price - nearer) < max(level, tick)  # and not a tick farther than need be
    assert for_open(held("BUY" if buys else "SELL", str(taken.sl), str(taken.tp)), asked, symbol) == taken


def step(sl: str, asked: str, bid: str, action: str = "BUY") -> D:
    return for_open(held(action, sl=sl), levels(asked), replace(TEN, bid=D(bid), ask=D(bid))).sl


def test_a_level_that_stays_as_it_is_is_not_measured_again() -> None:
    assert step("1.09995", "1.09995", "1.10000") == D("1.09995")


def test_a_stop_that_the_price_has_passed_is_set_as_near_as_allowed_and_to_the_masters_when_that_is_possible() -> None:
    assert step("0", "1.10", "1.09500") == D("1.09490")
    assert step("1.09490", "1.10", "1.09400") == D("1.09490")  # the price falls on: nothing is moved away
    assert step("1.09490", "1.10", "1.09600") == D("1.09490")  # less than half of what is missing: not for every tick
    assert step("1.09490", "1.10", "1.09755") == D("1.09745")  # half of it
    assert step("1.09745", "1.10", "1.10010") == D("1.10")
    assert step("0", "1.09", "1.095", "SELL") == D("1.09510")
    assert step("1.09510", "1.09", "1.09600", "SELL") == D("1.09510")
    assert step("1.09510", "1.09", "1.08990", "SELL") == D("1.09")


def test_a_stop_nearer_than_the_masters_is_widened_past_his_where_his_is_not_allowed() -> None:
    assert step("1.09999", "1.09995", "1.10000") == D("1.09990")


def test_what_is_missing_and_what_is_elsewhere() -> None:
    assert missing(held(), levels("1.09", "1.12")) == "SL 1.09 and TP 1.12"
    assert missing(held(sl="1.08"), levels("1.09", "1.12")) == "TP 1.12"
    assert missing(held(), NONE) == ""
    assert displaced(held(sl="1.08", tp="1.12"), levels("1.09", "1.12")) == "SL 1.08 in place of 1.09"
    assert displaced(held(), NONE) == ""


@pytest.mark.parametrize(("sl", "bid", "frozen"), [("1.0999", "1.1", True), ("1.09989", "1.1", False)])
def test_a_position_is_frozen_while_one_of_its_levels_is_within_the_freeze_level(
    sl: str, bid: str, frozen: bool
) -> None:
    symbol = replace(EURUSD, freeze_level=10, bid=D(bid), ask=D("1.2"))
    assert is_frozen(held(sl=sl), symbol) is frozen
    assert is_frozen(held("SELL", sl="1.20005"), symbol) is True  # a sell is closed at the ask
    assert is_frozen(held(tp="1.10005"), symbol) is True
    assert is_frozen(held(), symbol) is False
    assert is_frozen(held(sl=bid), replace(symbol, freeze_level=0)) is False


def test_a_pending_order_is_frozen_while_it_is_about_to_fill() -> None:
    symbol = replace(EURUSD, freeze_level=10)

    def order(action: str, price: str) -> Order:
        return Order(1, "EURUSD", Action(action), D(1), D(1), D(price), D(0), D(0), D(0), 5, "", 0, 0)

    assert is_frozen_order(order("BUY_LIMIT", "1.10000"), symbol)  # a buy fills at the ask, 1.10010
    assert not is_frozen_order(order("BUY_LIMIT", "1.09999"), symbol)
    assert is_frozen_order(order("SELL_STOP", "1.09990"), symbol)
    assert not is_frozen_order(order("SELL_STOP", "1.09989"), symbol)


def test_a_level_is_passed_when_the_price_has_reached_it() -> None:
    price = D("1.1")
    assert passed(replace(TRADE, sl=D("1.09999"), tp=D("1.10001")), price) == ""
    assert passed(replace(TRADE, sl=D("1.1")), price) == "SL 1.1"
    assert passed(replace(TRADE, tp=D("1.1")), price) == "TP 1.1"
    assert passed(replace(SELL, sl=D("1.10001"), tp=D("1.09999")), price) == ""
    assert passed(replace(SELL, sl=D("1.1")), price) == "SL 1.1"
    assert passed(replace(SELL, tp=D("1.1")), price) == "TP 1.1"


def test_the_levels_of_a_pending_order_are_measured_from_where_it_fills() -> None:
    assert entry_price(PENDING) == D("1.05")
    assert entry_price(replace(PENDING, action=Action.BUY_STOP_LIMIT, price=D("1.2"), stoplimit=D("1.15"))) == D("1.15")


@pytest.mark.parametrize(
    ("there", "buys", "lots", "carried"),
    [
        (None, True, "1", levels("1.05", "1.15")),
        (held(sl="1.08", tp="1.13"), True, "1", levels("1.08", "1.13")),  # none would delete them
        (held("SELL", sl="1.12"), True, "1", NONE),  # it becomes flat
        (held("SELL", sl="1.12"), True, "0.5", NONE),  # it shrinks, and keeps them
        (held("SELL", sl="1.12"), True, "1.5", levels("1.05", "1.15")),  # it turns round
    ],
)
def test_on_a_netting_account_an_order_carries_the_stops_that_the_position_should_have_after_it(
    there: Position | None, buys: bool, lots: str, carried: Levels
) -> None:
    assert of_increase(there, buys, D(lots), levels("1.05", "1.15")) == carried
