"""The simulated broker trades, refuses and settles as a MetaTrader 5 server does."""

import json
from dataclasses import replace
from decimal import Decimal as D
from pathlib import Path
from typing import Any

import pytest
from sim_desk import (
    BUY,
    BUY_LIMIT,
    BUY_STOP,
    BUY_STOP_LIMIT,
    EVER,
    SELL,
    SELL_LIMIT,
    SELL_STOP,
    SELL_STOP_LIMIT,
    Clock,
    Desk,
)

import mt5_sim
from sim_account import AccountSettings
from sim_broker import Broker
from sim_market import Market, load_ticks
from sim_symbols import SetupError, default_symbols, load_symbols


@pytest.fixture
def desk() -> Desk:
    return Desk()


# ---- market orders


def test_a_market_order_opens_a_position_with_the_orders_ticket(desk: Desk):
    sent = desk.send(type=BUY, magic=77, comment="hello", sl=1.09, tp=1.12)
    position = desk.position(sent.order)
    assert (sent.retcode, sent.price, sent.bid, sent.ask, sent.comment) == (
        10009, 1.1001, 1.1, 1.1001, "Request executed"
    )  # fmt: skip
    assert (position.ticket, position.identifier) == (sent.order, sent.order)
    assert (position.volume, position.price_open, position.price_current) == (0.1, 1.1001, 1.1)
    assert (position.sl, position.tp, position.magic, position.comment, position.reason) == (1.09, 1.12, 77, "hello", 3)
    assert position.profit == -1.0
    (deal,) = desk.deals(sent.order)
    assert (deal.ticket, deal.order, deal.entry, deal.magic, deal.price) == (sent.deal, sent.order, 0, 77, 1.1001)
    assert desk.old_order(sent.order).state == 4


def test_a_sell_opens_at_bid_and_is_worth_ask(desk: Desk):
    position = desk.open(type=SELL)
    assert (position.type, position.price_open, position.price_current) == (1, 1.1, 1.1001)


def test_an_opposite_order_without_position_opens_an_opposite_position(desk: Desk):
    desk.open(type=BUY)
    desk.open(type=SELL)
    assert [p.type for p in desk.mt5.positions_get()] == [0, 1]


def test_closing_books_the_profit_and_the_closing_orders_magic(desk: Desk):
    position = desk.open(type=BUY, magic=77)
    desk.quote("EURUSD", 1.10210, 1.10220)
    sent = desk.close(position, magic=5, comment="out")
    deal = desk.deals(position.identifier)[-1]
    assert (sent.retcode, desk.mt5.positions_get()) == (10009, ())
    assert (deal.type, deal.entry, deal.magic, deal.comment, deal.profit) == (1, 1, 5, "out", 20.0)
    assert desk.mt5.account_info().balance == 10020.0


def test_a_partial_close_keeps_ticket_and_identifier(desk: Desk):
    position = desk.open(type=BUY, volume=0.29)
    desk.clock.now += 5
    desk.close(position, volume=0.12)
    left = desk.position(position.ticket)
    assert (left.volume, left.identifier, left.price_open) == (0.17, position.identifier, position.price_open)
    assert left.time_msc == position.time_msc
    assert left.time_update_msc == position.time_msc + 5000
    desk.close(left)
    assert [deal.volume for deal in desk.deals(position.identifier)] == [0.29, 0.12, 0.17]


def test_29_hundredths_stay_29_hundredths(desk: Desk):
    position = desk.open(type=BUY, volume=0.29)
    for _ in range(29):
        assert desk.close(position, volume=0.01).retcode == 10009
    assert desk.mt5.positions_get() == ()


def test_orders_and_deals_have_rising_numbers_of_their_own(desk: Desk):
    first, second = desk.send(type=BUY), desk.send(type=BUY)
    assert second.order > first.order > 10**9
    assert second.deal > first.deal > 10**9
    assert {first.order, second.order}.isdisjoint({first.deal, second.deal})


def test_comments_are_cut_as_the_server_cuts_them(desk: Desk):
    assert desk.open(type=BUY, comment="Spread-Based Entry").comment == "Spread-Based Ent"
    assert Desk(comment_length=5).open(type=BUY, comment="Spread").comment == "Sprea"


def test_all_times_are_broker_time(desk: Desk):
    position = desk.open(type=BUY)
    assert position.time_msc == 1_700_000_000_000 + 3 * 3600 * 1000
    assert position.time == position.time_msc // 1000
    desk.broker.advance()
    assert desk.mt5.symbol_info_tick("EURUSD").time == position.time


def test_a_request_out_of_the_terminals_window_carries_reason_client_and_magic_0(desk: Desk):
    sent = desk.mt5.sim_order_by_hand(action=1, symbol="EURUSD", volume=0.1, type=0, type_filling=1)
    assert desk.position(sent.order).reason == 0
    desk.mt5.sim_close_by_hand(sent.order, 0.04)
    deal = desk.deals(sent.order)[-1]
    assert (deal.reason, deal.magic, deal.volume, desk.position(sent.order).volume) == (0, 0, 0.04, 0.06)


# ---- refusals: one changed value per row

REFUSED_OPENS = [
    ({"action": 2}, 10013),
    ({"type": BUY_LIMIT}, 10013),
    ({"symbol": "NOPE"}, 10013),
    ({"volume": 0.0}, 10014),
    ({"volume": 0.005}, 10014),
    ({"volume": 0.015}, 10014),
    ({"volume": -0.1}, 10014),
    ({"volume": 100.01}, 10014),
    ({"sl": 1.10000}, 10016),
    ({"sl": 1.2}, 10016),
    ({"tp": 1.10000}, 10016),
    ({"tp": 1.0}, 10016),
    ({"sl": 1.000001}, 10016),
    ({"sl": -1.0}, 10016),
    ({"type": SELL, "sl": 1.10010}, 10016),
    ({"type": SELL, "tp": 1.10010}, 10016),
    ({"volume": 50.0}, 10019),
    ({"type_filling": 2}, 10030),
    ({"type_filling": 3}, 10030),
    ({"type_filling": 9}, 10030),
    ({"position": 5}, 10036),
]


@pytest.mark.parametrize(("change", "retcode"), REFUSED_OPENS)
def test_a_market_order_is_refused(desk: Desk, change: dict[str, Any], retcode: int):
    sent = desk.send(**{"type": BUY} | change)
    assert (sent.retcode, sent.deal, sent.order) == (retcode, 0, 0)
    assert desk.mt5.positions_get() == ()
    assert desk.mt5.history_orders_total(*EVER) == 0


@pytest.mark.parametrize(
    ("change", "retcode"),
    [({}, 10009), ({"volume": 0.30000000000000004}, 10009), ({"sl": 1.09999}, 10009), ({"tp": 1.10001}, 10009)],
)
def test_a_market_order_at_the_edge_is_taken(desk: Desk, change: dict[str, Any], retcode: int):
    assert desk.send(**{"type": BUY} | change).retcode == retcode


@pytest.mark.parametrize(
    ("trade_mode", "buy", "sell", "close"),
    [(0, 10017, 10017, 10017), (1, 10009, 10042, 10009), (2, 10043, 10009, 10009), (3, 10044, 10044, 10009)],
)
def test_trade_modes(desk: Desk, trade_mode: int, buy: int, sell: int, close: int):
    position = desk.open(type=BUY)
    desk.mt5.sim_symbol("EURUSD", trade_mode=trade_mode)
    assert desk.send(type=BUY).retcode == buy
    assert desk.send(type=SELL).retcode == sell
    assert desk.pending(type=SELL_LIMIT, price=1.2).retcode == sell
    assert desk.close(position).retcode == close


@pytest.mark.parametrize(
    ("change", "retcode"),
    [
        ({"volume": 0.11}, 10038),
        ({"volume": 0.005}, 10014),
        ({"type": BUY}, 10013),
        ({"symbol": "GBPUSD"}, 10013),
        ({"position": 12345}, 10036),
        ({"type_filling": 2}, 10030),
    ],
)
def test_a_close_is_refused(desk: Desk, change: dict[str, Any], retcode: int):
    position = desk.open(type=BUY)
    assert desk.close(position, **change).retcode == retcode
    assert desk.position(position.ticket) == position


def test_closing_twice_says_the_position_is_closed(desk: Desk):
    position = desk.open(type=BUY)
    assert desk.close(position).retcode == 10009
    assert desk.close(position).retcode == 10036


def test_what_is_left_of_a_position_can_be_closed_even_below_the_minimum():
    desk = Desk({"EURUSD": {"volume_min": 0.05}})
    position = desk.open(type=BUY, volume=0.08)
    assert desk.close(position, volume=0.05).retcode == 10009
    assert desk.close(desk.position(position.ticket)).retcode == 10009


@pytest.mark.parametrize(("exemode", "flags", "allowed"), [
    (0, 0, {0, 1, 2}), (1, 0, {0, 1, 2}), (2, 1, {0}), (2, 2, {1}), (2, 3, {0, 1}), (2, 0, set()),
    (3, 0, {2}), (3, 1, {0, 2}), (3, 2, {1, 2}), (3, 3, {0, 1, 2}),
])  # fmt: skip
def test_filling_modes_by_execution_mode_and_flags(desk: Desk, exemode: int, flags: int, allowed: set[int]):
    desk.mt5.sim_symbol("EURUSD", trade_exemode=exemode, filling_mode=flags, spread=10)
    ask = desk.mt5.symbol_info_tick("EURUSD").ask
    taken = {n for n in range(4) if desk.send(type=BUY, price=ask, type_filling=n).retcode == 10009}
    assert taken == allowed
    assert desk.pending(type=BUY_LIMIT, price=1.0).retcode == 10009


@pytest.mark.parametrize(
    ("price", "deviation", "retcode"),
    [(1.1001, 0, 10009), (1.10005, 5, 10009), (1.10005, 4, 10004), (1.10015, 4, 10004), (0.0, 100, 10015)],
)
def test_instant_execution_holds_to_the_price_within_the_deviation(price: float, deviation: int, retcode: int):
    desk = Desk({"EURUSD": {"trade_exemode": 1}})
    sent = desk.send(type=BUY, price=price, deviation=deviation)
    assert sent.retcode == retcode
    if retcode == 10004:
        assert (sent.bid, sent.ask, desk.mt5.positions_get()) == (1.1, 1.1001, ())


def test_market_execution_ignores_price_and_deviation(desk: Desk):
    assert desk.send(type=BUY, price=0.5, deviation=0).price == 1.1001


def test_stops_level_keeps_its_distance():
    desk = Desk({"EURUSD": {"trade_stops_level": 20}})
    assert desk.send(type=BUY, sl=1.09981).retcode == 10016
    assert desk.send(type=BUY, sl=1.09980, tp=1.10020).retcode == 10009
    assert desk.pending(type=BUY_LIMIT, price=1.09991).retcode == 10016
    assert desk.pending(type=BUY_LIMIT, price=1.09990, sl=1.09971).retcode == 10016
    assert desk.pending(type=BUY_LIMIT, price=1.09990, sl=1.09970).retcode == 10009


def test_a_level_that_stays_need_not_keep_the_distance():
    desk = Desk({"EURUSD": {"trade_stops_level": 20}})
    position = desk.open(type=BUY, sl=1.0990)
    desk.quote("EURUSD", 1.09905, 1.09915)
    assert desk.send(action=6, position=position.ticket, sl=1.0990, tp=1.2).retcode == 10009
    assert desk.send(action=6, position=position.ticket, sl=1.0991, tp=1.2).retcode == 10016


def test_freeze_level_freezes():
    desk = Desk({"EURUSD": {"trade_freeze_level": 30}})
    position = desk.open(type=BUY, sl=1.09970)
    order = desk.pending(type=BUY_LIMIT, price=1.09980).order
    assert desk.close(position).retcode == 10029
    assert desk.send(action=6, position=position.ticket, sl=1.0).retcode == 10029
    assert desk.send(action=8, order=order).retcode == 10029
    desk.quote("EURUSD", 1.10001, 1.10011)
    assert desk.close(position).retcode == 10009
    assert desk.send(action=8, order=order).retcode == 10009


def test_volume_limit_counts_open_and_pending_of_one_direction():
    desk = Desk({"EURUSD": {"volume_limit": 0.25}})
    desk.open(type=BUY)
    assert desk.pending(type=BUY_LIMIT, price=1.0).retcode == 10009
    assert desk.send(type=BUY).retcode == 10034
    assert desk.send(type=SELL).retcode == 10009
    assert desk.send(type=BUY, volume=0.05).retcode == 10009


def test_pending_orders_are_limited_in_number():
    desk = Desk(limit_orders=1)
    assert desk.pending(type=BUY_LIMIT, price=1.0).retcode == 10009
    assert desk.pending(type=BUY_LIMIT, price=1.0).retcode == 10033


def test_a_symbol_outside_market_watch_has_no_prices():
    desk = Desk()
    assert desk.mt5.symbol_select("GBPUSD", False)
    assert desk.mt5.symbol_info_tick("GBPUSD") is None
    assert desk.mt5.symbol_info("GBPUSD").bid == 0.0
    assert desk.send(type=BUY, symbol="GBPUSD").retcode == 10021
    desk.open(type=BUY)
    assert desk.mt5.symbol_select("EURUSD", False) is False


# ---- SL and TP


def test_sltp_sets_both_and_zero_deletes(desk: Desk):
    position = desk.open(type=BUY, sl=1.09, tp=1.12)
    desk.clock.now += 5
    assert desk.send(action=6, position=position.ticket, sl=1.095).retcode == 10009
    changed = desk.position(position.ticket)
    assert (changed.sl, changed.tp, changed.time_update_msc) == (1.095, 0.0, position.time_update_msc)
    assert len(desk.deals(position.identifier)) == 1
    assert desk.send(action=6, position=position.ticket, sl=1.095).retcode == 10025
    assert desk.send(action=6, position=position.ticket, sl=1.2).retcode == 10016
    assert desk.send(action=6, position=1).retcode == 10036


@pytest.mark.parametrize(
    ("side", "levels", "bid", "reason", "comment"),
    [
        (BUY, {"sl": 1.09900}, 1.09900, 4, "[sl 1.09900]"),
        (BUY, {"tp": 1.10100}, 1.10100, 5, "[tp 1.10100]"),
        (SELL, {"sl": 1.10100}, 1.10090, 4, "[sl 1.10100]"),
        (SELL, {"tp": 1.09900}, 1.09890, 5, "[tp 1.09900]"),
    ],
)
def test_sl_and_tp_close_at_the_market(
    desk: Desk, side: int, levels: dict[str, float], bid: float, reason: int, comment: str
):
    position = desk.open(type=side, magic=77, **levels)
    away = 0.00001 if (side == BUY) == (reason == 4) else -0.00001
    desk.quote("EURUSD", round(bid + away, 5), round(bid + away + 0.0001, 5))
    assert desk.position(position.ticket)
    desk.quote("EURUSD", bid, round(bid + 0.0001, 5))
    deal = desk.deals(position.identifier)[-1]
    assert desk.position(position.ticket) is None
    assert (deal.entry, deal.reason, deal.magic, deal.comment) == (1, reason, 77, comment)
    assert deal.price == (bid if side == BUY else round(bid + 0.0001, 5))
    assert desk.old_order(deal.order).reason == reason


def test_a_gap_through_the_stop_fills_beyond_it(desk: Desk):
    position = desk.open(type=BUY, sl=1.099)
    desk.quote("EURUSD", 1.095, 1.0951)
    assert desk.deals(position.identifier)[-1].price == 1.095


# ---- pending orders


@pytest.mark.parametrize(
    ("kind", "price", "fills_at"),
    [(BUY_LIMIT, 1.09, (1.0899, 1.09)), (SELL_LIMIT, 1.11, (1.11, 1.1101)),
     (BUY_STOP, 1.11, (1.1099, 1.11)), (SELL_STOP, 1.09, (1.09, 1.0901))],
)  # fmt: skip
def test_a_pending_order_fills_when_its_price_is_reached(
    desk: Desk, kind: int, price: float, fills_at: tuple[float, float]
):
    sent = desk.pending(type=kind, price=price, magic=9, comment="wait", sl=price - 0.02 if kind % 2 == 0 else 0.0)
    order = desk.order(sent.order)
    assert (sent.retcode, sent.deal, order.type, order.state, order.price_open) == (10009, 0, kind, 1, price)
    assert (order.volume_initial, order.volume_current, order.position_id) == (0.1, 0.1, 0)
    short = 0.0001 if fills_at[0] < 1.1 else -0.0001
    desk.quote("EURUSD", round(fills_at[0] + short, 5), round(fills_at[1] + short, 5))
    assert desk.order(sent.order)
    desk.quote("EURUSD", *fills_at)
    assert desk.order(sent.order) is None
    position = desk.position(sent.order)
    assert (position.identifier, position.magic, position.comment, position.price_open) == (
        sent.order, 9, "wait", fills_at[1] if kind % 2 == 0 else fills_at[0]
    )  # fmt: skip
    done = desk.old_order(sent.order)
    assert (done.state, done.type, done.position_id, done.volume_current) == (4, kind, sent.order, 0.0)


def test_a_stop_limit_becomes_a_limit_with_the_same_ticket(desk: Desk):
    sent = desk.pending(type=BUY_STOP_LIMIT, price=1.11, stoplimit=1.105)
    assert desk.order(sent.order).price_stoplimit == 1.105
    desk.quote("EURUSD", 1.1099, 1.11)
    order = desk.order(sent.order)
    assert (order.type, order.price_open, order.price_stoplimit) == (BUY_LIMIT, 1.105, 0.0)
    desk.quote("EURUSD", 1.1049, 1.105)
    assert desk.position(sent.order)


@pytest.mark.parametrize(
    ("fields", "retcode"),
    [
        ({"type": BUY}, 10013),
        ({"type": 8}, 10013),
        ({"type": BUY_LIMIT, "price": 0.0}, 10015),
        ({"type": BUY_LIMIT, "price": 1.100001}, 10015),
        ({"type": BUY_LIMIT, "price": 1.10010}, 10015),
        ({"type": BUY_STOP, "price": 1.10010}, 10015),
        ({"type": SELL_LIMIT, "price": 1.10000}, 10015),
        ({"type": SELL_STOP, "price": 1.10000}, 10015),
        ({"type": BUY_STOP_LIMIT, "price": 1.2, "stoplimit": 1.3}, 10015),
        ({"type": SELL_STOP_LIMIT, "price": 1.0, "stoplimit": 0.9}, 10015),
        ({"type": BUY_LIMIT, "sl": 1.09}, 10016),
        ({"type": BUY_LIMIT, "tp": 1.09}, 10016),
        ({"type": BUY_LIMIT, "volume": 0.001}, 10014),
        ({"type": BUY_LIMIT, "type_time": 2, "expiration": 1}, 10022),
        ({"type": BUY_LIMIT, "type_time": 9}, 10022),
        ({"type": BUY_LIMIT, "type_filling": 3}, 10030),
    ],
)
def test_a_pending_order_is_refused(desk: Desk, fields: dict[str, Any], retcode: int):
    assert desk.pending(**{"price": 1.09} | fields).retcode == retcode
    assert desk.mt5.orders_get() == ()


def test_modify_changes_everything_it_names_and_deletes_what_it_does_not(desk: Desk):
    ticket = desk.pending(type=BUY_LIMIT, price=1.09, sl=1.08, tp=1.12).order
    assert desk.send(action=7, order=ticket, price=1.091, tp=1.13).retcode == 10009
    order = desk.order(ticket)
    assert (order.price_open, order.sl, order.tp, order.volume_initial) == (1.091, 0.0, 1.13, 0.1)
    assert desk.send(action=7, order=ticket, price=1.091, tp=1.13).retcode == 10025
    assert desk.send(action=7, order=ticket, price=1.2).retcode == 10015
    assert desk.send(action=7, order=1, price=1.09).retcode == 10035


def test_remove_cancels_once(desk: Desk):
    ticket = desk.pending(type=BUY_LIMIT, price=1.09).order
    assert desk.send(action=8, order=ticket).retcode == 10009
    assert desk.old_order(ticket).state == 2
    assert desk.send(action=8, order=ticket).retcode == 10035


def test_orders_expire_by_the_brokers_clock(desk: Desk):
    server_now = int(desk.clock.now) + 3 * 3600
    specified = desk.pending(type=BUY_LIMIT, price=1.09, type_time=2, expiration=server_now + 60).order
    day = desk.pending(type=BUY_LIMIT, price=1.09, type_time=1).order
    whole_day = desk.pending(type=BUY_LIMIT, price=1.09, type_time=3, expiration=server_now + 86400).order
    forever = desk.pending(type=BUY_LIMIT, price=1.09).order
    desk.pass_time(59)
    assert desk.order(specified).time_expiration == server_now + 60
    desk.pass_time(1)
    assert desk.old_order(specified).state == 6
    desk.pass_time(86400 - server_now % 86400)
    assert desk.order(day) is None
    assert desk.order(whole_day)
    desk.pass_time(86400)
    assert [order.ticket for order in desk.mt5.orders_get()] == [forever]


def test_a_pending_order_without_money_is_rejected_when_it_is_reached(desk: Desk):
    ticket = desk.pending(type=BUY_LIMIT, price=1.09, volume=50.0).order
    desk.quote("EURUSD", 1.0899, 1.09)
    assert desk.mt5.positions_get() == ()
    assert desk.old_order(ticket).state == 5


# ---- money


@pytest.mark.parametrize(
    ("symbol", "quote", "later", "volume", "profit", "margin"),
    [
        ("EURUSD", (1.10000, 1.10010), (1.10110, 1.10120), 1.0, 100.0, 1100.10),
        ("USDJPY", (150.000, 150.010), (151.010, 151.020), 0.5, 331.08, 500.0),
        ("XAUUSD", (2650.00, 2650.50), (2655.50, 2656.00), 0.1, 50.0, 265.05),
        ("US30", (42500.0, 42501.0), (42401.0, 42402.0), 1.5, -150.0, 637.52),
        ("WINZ26", (130000.0, 130005.0), (130505.0, 130510.0), 2.0, 36.0, 54.0),
        ("WDOZ26", (5450.0, 5450.5), (5451.0, 5451.5), 1.0, 0.90, 28.8),
    ],
)
def test_profit_and_margin_in_the_accounts_currency(
    desk: Desk, symbol: str, quote: Any, later: Any, volume: float, profit: float, margin: float
):
    desk.quote(symbol, *quote)
    filling = 2 if symbol.startswith("W") else 1
    position = desk.open(symbol=symbol, type=BUY, volume=volume, type_filling=filling, price=quote[1])
    info = desk.mt5.account_info()
    assert (info.margin, info.margin_free) == (margin, pytest.approx(info.equity - margin))
    assert desk.mt5.order_calc_margin(0, symbol, volume, quote[1]) == margin
    desk.quote(symbol, *later)
    position = desk.position(position.ticket)
    assert position.profit == profit
    assert desk.mt5.order_calc_profit(0, symbol, volume, quote[1], later[0]) == profit
    info = desk.mt5.account_info()
    assert (info.profit, info.equity) == (profit, 10000.0 + profit)
    desk.close(position, price=later[0], type_filling=filling)
    assert desk.mt5.account_info().balance == 10000.0 + profit


def test_tick_value_is_in_the_accounts_currency(desk: Desk):
    assert desk.mt5.symbol_info("EURUSD").trade_tick_value == 1.0
    assert desk.mt5.symbol_info("WINZ26").trade_tick_value == 0.18
    desk.quote("USDJPY", 150.0, 150.01)
    assert desk.mt5.symbol_info("USDJPY").trade_tick_value_loss == pytest.approx(100 / 150.0)
    assert desk.mt5.symbol_info("USDJPY").trade_tick_value_profit == pytest.approx(100 / 150.01)


def test_an_account_in_another_currency():
    desk = Desk(currency="EUR")
    position = desk.open(type=BUY, volume=1.0)
    desk.quote("EURUSD", 1.1101, 1.1102)
    assert desk.position(position.ticket).profit == round(1000 / 1.1102, 2)
    assert desk.mt5.account_info().margin == 1000.0


def test_opposite_positions_are_charged_once(desk: Desk):
    desk.open(type=BUY, volume=1.0)
    desk.open(type=SELL, volume=1.0)
    assert desk.mt5.account_info().margin == pytest.approx(1100.05, abs=0.01)


def test_commission_is_charged_on_every_deal():
    desk = Desk({"EURUSD": {"commission": 3.5}})
    position = desk.open(type=BUY, volume=1.0)
    assert desk.mt5.account_info().balance == 9996.5
    desk.close(position)
    assert [deal.commission for deal in desk.deals(position.ticket)] == [-3.5, -3.5]


def test_stop_out_closes_the_largest_loser_first(desk: Desk):
    small = desk.open(type=BUY, volume=1.0)
    large = desk.open(type=BUY, volume=7.0)
    desk.quote("EURUSD", 1.09300, 1.09310)  # equity 10000 - 5680 = 4320 of 8800.8 margin
    assert [p.ticket for p in desk.mt5.positions_get()] == [small.ticket]
    deal = desk.deals(large.ticket)[-1]
    assert (deal.reason, deal.comment[:4]) == (6, "[so ")


def test_just_above_the_stop_out_level_nothing_is_closed(desk: Desk):
    desk.open(type=BUY, volume=8.0)
    desk.quote("EURUSD", 1.09320, 1.09330)
    assert 50 < desk.mt5.account_info().margin_level < 51
    assert len(desk.mt5.positions_get()) == 1


def test_a_broker_whose_stop_out_level_is_nothing_closes_nothing():
    desk = Desk(stop_out=D(0))
    desk.open(type=BUY, volume=8.0)
    desk.quote("EURUSD", 1.05000, 1.05010)
    assert desk.mt5.account_info().equity < 0
    assert len(desk.mt5.positions_get()) == 1


@pytest.mark.parametrize(
    ("field", "value"), [("type", SELL), ("volume", D("0.5")), ("price_open", D("1.08")), ("swap", D("-3"))]
)
def test_what_the_account_shows_follows_every_change_of_a_position(desk: Desk, field: str, value: Any):
    desk.open(type=BUY, volume=1.0)
    before = desk.mt5.account_info()
    account = desk.broker.account
    (position,) = account.positions.values()
    setattr(position, field, value)
    assert account.account_row(True) == account._account_row(True)
    assert desk.mt5.account_info() != before


def test_deposits_and_withdrawals_are_balance_deals(desk: Desk):
    desk.mt5.sim_deposit(-2500.0, "withdrawal")
    deal = desk.mt5.history_deals_get(*EVER)[-1]
    assert (deal.type, deal.profit, deal.symbol, desk.mt5.account_info().balance) == (2, -2500.0, "", 7500.0)


# ---- symbols, prices, state


def test_the_default_symbols_are_of_every_kind():
    specs = default_symbols()
    assert [(s.digits, str(s.trade_tick_size), str(s.volume_step)) for s in specs.values()] == [
        (5, "0.00001", "0.01"), (5, "0.00001", "0.01"), (3, "0.001", "0.01"), (2, "0.01", "0.01"),
        (1, "0.1", "0.1"), (2, "0.01", "0.01"), (0, "5", "1"), (1, "0.5", "1"),
    ]  # fmt: skip


@pytest.mark.parametrize("seed", [1, None], ids=["walk", "common market"])
def test_prices_are_always_on_the_grid_and_stay_near_their_start(seed: int | None):
    specs = default_symbols()
    market = Market(specs, seed=seed, now_msc=0)
    for step in range(3000):
        market.step(step * 200)
        for name, quote in market.quotes.items():
            assert quote.bid % specs[name].trade_tick_size == 0
            assert quote.ask - quote.bid == specs[name].spread * specs[name].point
    assert all(abs(q.bid / specs[name].price - 1) < 0.06 for name, q in market.quotes.items())
    assert all(len({bid for _, bid, _ in ticks}) > 10 for ticks in market.history.values())


def test_the_same_seed_gives_the_same_prices():
    def prices(seed: int) -> list[Any]:
        market = Market(default_symbols(), seed=seed)
        return [(name, market.quotes[name].bid) for _ in range(50) for name in market.step(0)]

    assert prices(3) == prices(3) != prices(4)


def test_brokers_that_start_at_different_times_quote_the_same_prices():
    early = Market(default_symbols(), now_msc=7_200_000, utc_offset_msc=7_200_000)
    for step in range(100):
        early.step(7_200_000 + step * 150)
    early.step(7_200_000 + 3_600_000)
    late = Market(default_symbols(), now_msc=10_800_000 + 3_600_000, utc_offset_msc=10_800_000)
    assert [q.bid for q in early.quotes.values()] == [q.bid for q in late.quotes.values()]


def test_a_frozen_market_keeps_prices_and_goes_on_ticking(desk: Desk):
    desk.pass_time(60)
    tick = desk.mt5.symbol_info_tick("EURUSD")
    assert (tick.bid, tick.ask) == (1.1, 1.1001)
    assert tick.time_msc == int(desk.clock.now * 1000) + 3 * 3_600_000
    desk.mt5.sim_unfreeze()
    desk.mt5.sim_advance(50)
    assert desk.mt5.symbol_info_tick("EURUSD").bid != 1.1


def test_a_ticks_file_is_replayed_at_its_pace_and_again(tmp_path: Path):
    file = tmp_path / "ticks.csv"
    file.write_text("time_msc,bid,ask\n1000,1.14605,1.14643\n1500,1.14608,1.14663\n3000,1.146,1.1461\n")
    specs = default_symbols()
    market = Market(specs, seed=1)
    market.replay(load_ticks(file, specs), 2.0, 0)
    seen = []
    for now in (0, 200, 250, 999, 1000, 1001):
        market.step(now)
        seen.append(str(market.quotes["EURUSD"].bid))
    assert seen == ["1.14605", "1.14605", "1.14608", "1.14608", "1.14600", "1.14605"]


@pytest.mark.parametrize(
    "text", ["", "a,b\n", "time_msc,bid,ask\n", "time_msc,bid,ask\n1,2,1\n", "time_msc,bid,ask\n5,1,2\n4,1,2\n",
             "time_msc,bid,ask\n1,x,2\n", "time_msc,bid,ask,symbol\n1,1,2,NOPE\n", "time_msc,bid,ask\n1,1\n"],
)  # fmt: skip
def test_a_bad_ticks_file_is_named(tmp_path: Path, text: str):
    file = tmp_path / "ticks.csv"
    file.write_text(text)
    with pytest.raises(SetupError, match=r"ticks\.csv"):
        load_ticks(file, default_symbols())


def test_a_symbols_file_changes_adds_and_removes(tmp_path: Path):
    file = tmp_path / "symbols.json"
    changes = {
        "EURUSD": {"spread": 15, "volume_step": 0.1, "volume_min": 0.1, "digits": 4, "price": 1.1},
        "EURUSD.m": {"like": "EURUSD", "trade_stops_level": 10},
        "NEW": {"price": 5.25, "digits": 2},
        "US30": None,
    }
    file.write_text(json.dumps(changes))
    specs = load_symbols(file)
    assert (specs["EURUSD"].spread, specs["EURUSD"].volume_step, specs["EURUSD"].trade_tick_size) == (
        15, D("0.1"), D("0.0001")
    )  # fmt: skip
    assert (specs["EURUSD.m"].trade_stops_level, specs["EURUSD.m"].digits) == (10, 5)
    assert specs["NEW"].point == D("0.01")
    assert "US30" not in specs


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"EURUSD": {"sprad": 5}}, "did you mean spread"),
        ({"EURUSD": {"spread": "5"}}, "whole number"),
        ({"EURUSD": {"spread": 1.5}}, "whole number"),
        ({"EURUSD": {"volume_step": 0}}, "volume_step must be positive"),
        ({"EURUSD": {"volume_min": 0.015}}, "multiple of volume_step"),
        ({"EURUSD": {"select": 1}}, "true or false"),
        ({"EURUSD": 5}, "object of settings"),
        ({"NEW": {}}, "a new symbol needs"),
        ({"NEW": {"like": "NOPE"}}, "no such symbol"),
        ({"WINZ26": {"trade_tick_value": 0}}, "future needs trade_tick_value"),
    ],
)
def test_a_mistake_in_a_symbols_file_is_named(tmp_path: Path, changes: dict[str, Any], words: str):
    file = tmp_path / "symbols.json"
    file.write_text(json.dumps(changes))
    with pytest.raises(SetupError, match=words) as raised:
        load_symbols(file)
    assert "symbols.json" in str(raised.value)


def test_the_whole_account_survives_in_its_file(tmp_path: Path):
    file, clock = tmp_path / "state.json", Clock()
    settings = AccountSettings(login=7)

    def start() -> tuple[Broker, mt5_sim.Client]:
        broker = Broker(settings, clock=clock, seed=1, state=file)
        client = mt5_sim.Client(broker)
        client.initialize()
        client.sim_freeze()
        return broker, client

    _, mt5 = start()
    mt5.symbol_select("US30", True)
    kept = mt5.order_send(
        action=1, symbol="EURUSD", volume=0.29, type=0, type_filling=1, sl=1.0, magic=2**63, comment="é"
    )
    gone = mt5.order_send(action=1, symbol="USDJPY", volume=0.1, type=1, type_filling=1).order
    mt5.order_send(action=1, symbol="USDJPY", volume=0.1, type=0, type_filling=1, position=gone)
    mt5.order_send(action=5, symbol="EURUSD", volume=0.1, type=2, type_filling=2, price=1.0, type_time=1)
    mt5.inject("order_send", "placed_late_fill", seconds=30)
    late = mt5.order_send(action=1, symbol="EURUSD", volume=0.05, type=0, type_filling=1).order

    def everything(client: mt5_sim.Client) -> list[Any]:
        calls = [client.positions_get(), client.orders_get(), client.history_deals_get(*EVER)]
        return [*calls, client.history_orders_get(*EVER), client.account_info(), client.symbol_info("US30").select]

    before = everything(mt5)
    again, mt5 = start()
    assert everything(mt5) == before
    assert kept.order < late < mt5.order_send(action=1, symbol="EURUSD", volume=0.01, type=0, type_filling=1).order
    clock.now += 31
    again.advance()
    assert mt5.positions_get(ticket=late)[0].volume == 0.05


@pytest.mark.parametrize("change", [{"login": 8}, {"currency": "EUR"}])
def test_a_state_file_of_another_account_is_refused(tmp_path: Path, change: dict[str, Any]):
    file = tmp_path / "state.json"
    settings = AccountSettings(login=7)
    Broker(settings, state=file).save()
    with pytest.raises(SetupError, match=next(iter(change))):
        Broker(replace(settings, **change), state=file)


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"version": 99}', "\x00"])
def test_a_broken_state_file_is_refused_and_left_alone(tmp_path: Path, text: str):
    file = tmp_path / "state.json"
    file.write_text(text)
    with pytest.raises(SetupError, match=r"state\.json"):
        Broker(AccountSettings(login=7), state=file)
    assert file.read_text() == text


def test_a_margin_mode_there_is_not_is_named():
    with pytest.raises(SetupError, match="netting, exchange, hedging"):
        AccountSettings(login=7, margin_mode="other")
