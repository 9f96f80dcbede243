"""What brokers differ in: sessions, what an account may do, what becomes of comments, the server's midnight."""

from datetime import UTC, datetime
from typing import Any

import pytest
from sim_desk import BUY, BUY_LIMIT, BUY_STOP, BUY_STOP_LIMIT, EVER, SELL, SELL_LIMIT, Desk

from sim_account import AccountSettings
from sim_sessions import is_open
from sim_symbols import SetupError

DAY = 86_400


def at(desk: Desk, when: str) -> None:
    """Move the broker's clock, such as "2023-11-15 10:00" on the server, and the market one step."""
    moment = datetime.fromisoformat(when).replace(tzinfo=UTC).timestamp()
    desk.pass_time(moment - 3 * 3600 - desk.clock.now)


# ---- sessions (the desk's clock starts on Wednesday, 15 November 2023, 01:13 on the server)


@pytest.fixture
def hours() -> Desk:
    """EURUSD is traded on weekdays from nine to six."""
    desk = Desk()
    desk.mt5.sim_symbol("EURUSD", sessions="Mon-Fri 09:00-18:00")
    at(desk, "2023-11-15 10:00")
    return desk


@pytest.mark.parametrize(
    ("when", "opened"),
    [
        ("2023-11-15 08:59:59", False), ("2023-11-15 09:00", True), ("2023-11-15 17:59:59", True),
        ("2023-11-15 18:00", False), ("2023-11-18 12:00", False), ("2023-11-20 12:00", True),
    ],
)  # fmt: skip
def test_the_market_is_open_in_its_sessions(hours: Desk, when: str, opened: bool):
    at(hours, when)
    assert hours.send(type=BUY).retcode == (10009 if opened else 10018)


def test_everything_a_closed_market_is_asked_is_refused(hours: Desk):
    position, other = hours.open(type=BUY), hours.open(type=SELL)
    order = hours.pending(type=BUY_LIMIT, price=1.09).order
    at(hours, "2023-11-15 20:00")
    assert hours.close(position).retcode == 10018
    assert hours.pending(type=BUY_LIMIT, price=1.09).retcode == 10018
    assert hours.send(action=6, position=position.ticket, sl=1.0).retcode == 10018
    assert hours.send(action=7, order=order, price=1.08).retcode == 10018
    assert hours.send(action=8, order=order).retcode == 10018
    assert hours.send(action=10, position=position.ticket, position_by=other.ticket).retcode == 10018
    assert hours.send(type=BUY, symbol="GBPUSD").retcode == 10009


def test_a_closed_market_has_no_ticks_and_triggers_nothing_until_it_opens(hours: Desk):
    position = hours.open(type=BUY, sl=1.095)
    ticket = hours.pending(type=BUY_LIMIT, price=1.09).order
    at(hours, "2023-11-15 20:00")
    before = hours.mt5.symbol_info_tick("EURUSD")
    at(hours, "2023-11-15 21:00")
    assert hours.mt5.symbol_info_tick("EURUSD") == before
    assert hours.mt5.symbol_info_tick("GBPUSD").time > before.time
    hours.quote("EURUSD", 1.0899, 1.0900)  # what the first price of the next session will be
    assert (hours.position(position.ticket).volume, hours.order(ticket).state) == (0.1, 1)
    at(hours, "2023-11-16 09:00")
    assert (hours.position(position.ticket), hours.order(ticket)) == (None, None)
    assert hours.deals(position.ticket)[-1].price == 1.0899
    assert hours.position(ticket).price_open == 1.09


def test_prices_move_again_when_the_market_opens(hours: Desk):
    at(hours, "2023-11-15 20:00")
    hours.mt5.sim_unfreeze()
    before = hours.mt5.symbol_info_tick("EURUSD")
    at(hours, "2023-11-15 21:00")
    hours.mt5.sim_advance(5)
    assert hours.mt5.symbol_info_tick("EURUSD") == before
    position = hours.mt5.positions_get()
    assert position == ()
    at(hours, "2023-11-16 09:00")
    hours.mt5.sim_advance(5)
    assert hours.mt5.symbol_info_tick("EURUSD").time > before.time


def test_what_waited_is_looked_at_when_the_market_opens_even_if_the_price_stands_still():
    desk = Desk({"EURUSD": {"volatility": 0}})
    ticket = desk.pending(type=BUY_LIMIT, price=1.09).order
    desk.mt5.sim_symbol("EURUSD", sessions="Mon-Fri 09:00-18:00")
    desk.quote("EURUSD", 1.0899, 1.0900)
    desk.mt5.sim_symbol("EURUSD", spread=10)
    desk.mt5.sim_unfreeze()
    at(desk, "2023-11-15 08:00")
    assert desk.order(ticket)
    at(desk, "2023-11-15 09:00")
    assert desk.position(ticket)


def test_an_order_expires_while_the_market_is_closed(hours: Desk):
    ticket = hours.pending(type=BUY_LIMIT, price=1.09, type_time=1).order
    at(hours, "2023-11-16 00:00:01")
    assert hours.old_order(ticket).state == 6


def test_stop_out_waits_for_the_session_of_the_loser(hours: Desk):
    loser = hours.open(type=BUY, volume=7.0)
    other = hours.open(type=BUY, volume=0.1, symbol="GBPUSD")
    at(hours, "2023-11-15 20:00")
    hours.quote("EURUSD", 1.0930, 1.0931)
    hours.mt5.sim_account(leverage=50)
    assert [p.ticket for p in hours.mt5.positions_get()] == [loser.ticket]  # what can be closed is
    assert hours.deals(other.ticket)[-1].reason == 6
    at(hours, "2023-11-16 09:00")
    assert hours.deals(loser.ticket)[-1].reason == 6


def test_a_market_can_be_closed_and_opened_at_once(hours: Desk):
    hours.mt5.sim_symbol("EURUSD", sessions="closed")
    assert hours.send(type=BUY).retcode == 10018
    hours.mt5.sim_symbol("EURUSD", sessions="")
    assert hours.send(type=BUY).retcode == 10009


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("9-18", "no session"), ("Mon 9:00-18:00", "no session"), ("Mo-Fr 09:00-18:00", "no session"),
        ("Fri-Mon 09:00-18:00", "ends before"), ("Mon 18:00-09:00", "ends before"), ("Mon 09:00-24:01", "ends before"),
        ("Mon-Fri 09:00-18:00,", "no session"),
    ],
)  # fmt: skip
def test_a_session_that_is_written_wrong_is_named(text: str, words: str):
    with pytest.raises(SetupError, match=f"EURUSD: sessions.*{words}"):
        Desk({"EURUSD": {"sessions": text}})


def test_sessions_over_midnight_are_written_as_two():
    text = "Sun 22:00-24:00, Mon-Thu 00:00-24:00, Fri 00:00-22:00"
    minute = 60_000
    monday = 4 * DAY * 1000  # 5 January 1970
    assert is_open(text, monday)
    assert is_open(text, monday - 120 * minute)
    assert not is_open(text, monday - 121 * minute)
    assert is_open(text, monday + (4 * DAY + 22 * 3600) * 1000 - 1)
    assert not is_open(text, monday + (4 * DAY + 22 * 3600) * 1000)


# ---- what an account may do


def test_a_fifo_account_closes_the_oldest_position_of_a_symbol_first():
    desk = Desk(fifo_close=True)
    assert desk.mt5.account_info().fifo_close is True
    first, second, other = desk.open(type=BUY), desk.open(type=BUY), desk.open(type=BUY, symbol="GBPUSD")
    assert desk.close(second).retcode == 10045
    assert desk.close(second, volume=0.05).retcode == 10045
    assert desk.close(other).retcode == 10009
    assert desk.close(first, volume=0.05).retcode == 10009
    assert desk.close(second).retcode == 10045
    assert desk.close(desk.position(first.ticket)).retcode == 10009
    assert desk.close(second).retcode == 10009


def test_sl_closes_whatever_the_age_on_a_fifo_account():
    desk = Desk(fifo_close=True)
    desk.open(type=BUY)
    second = desk.open(type=BUY, sl=1.099)
    desk.quote("EURUSD", 1.0989, 1.0990)
    assert desk.position(second.ticket) is None


def test_close_by_on_a_fifo_account_takes_the_oldest():
    desk = Desk(fifo_close=True)
    first, second, third = desk.open(type=BUY), desk.open(type=BUY), desk.open(type=SELL)
    assert desk.send(action=10, position=second.ticket, position_by=third.ticket).retcode == 10045
    assert desk.send(action=10, position=third.ticket, position_by=first.ticket).retcode == 10009


def test_opposite_positions_are_prohibited_where_the_account_says_so():
    desk = Desk(hedge_prohibited=True)
    waiting = desk.pending(type=SELL_LIMIT, price=1.11).order
    position = desk.open(type=BUY)
    assert desk.send(type=SELL).retcode == 10046
    assert desk.pending(type=SELL_LIMIT, price=1.11).retcode == 10046
    assert desk.send(type=BUY).retcode == 10009
    assert desk.send(type=SELL, symbol="GBPUSD").retcode == 10009
    assert desk.close(position).retcode == 10009
    desk.quote("EURUSD", 1.1100, 1.1101)
    assert desk.old_order(waiting).state == 5  # reached while there is an opposite position: rejected


@pytest.mark.parametrize("name", ["fifo_close", "hedge_prohibited"])
def test_rules_about_several_positions_are_for_hedging_accounts(name: str):
    with pytest.raises(SetupError, match=name):
        AccountSettings(login=7, margin_mode="netting", **{name: True})
    assert Desk(margin_mode="netting").mt5.account_info().fifo_close is False


def test_positions_are_limited_in_number_with_pending_orders_on_hedging():
    desk = Desk(limit_positions=2)
    desk.open(type=BUY)
    desk.pending(type=BUY_LIMIT, price=1.09)
    assert desk.send(type=BUY).retcode == 10040
    assert desk.pending(type=BUY_LIMIT, price=1.09).retcode == 10040
    assert desk.close(desk.mt5.positions_get()[0]).retcode == 10009
    assert desk.send(type=BUY).retcode == 10009


def test_positions_are_limited_in_number_of_symbols_on_netting():
    desk = Desk(limit_positions=1, margin_mode="netting")
    desk.open(type=BUY)
    assert desk.send(type=BUY).retcode == 10009
    assert desk.pending(type=BUY_LIMIT, price=1.09).retcode == 10009
    assert desk.send(type=BUY, symbol="GBPUSD").retcode == 10040
    assert desk.send(type=SELL, volume=0.5).retcode == 10009


def test_a_server_may_keep_programs_from_trading_and_let_people():
    desk = Desk()
    desk.mt5.sim_account(trade_expert=False)
    assert desk.mt5.account_info().trade_expert is False
    assert desk.send(type=BUY).retcode == 10026
    assert desk.mt5.order_check(action=1, symbol="EURUSD", volume=0.1, type=0, type_filling=1).retcode == 10026
    assert desk.mt5.sim_order_by_hand(action=1, symbol="EURUSD", volume=0.1, type=0, type_filling=1).retcode == 10009


@pytest.mark.parametrize(("exemode", "retcode"), [(0, 10009), (1, 10009), (2, 10016), (3, 10016)])
def test_a_broker_may_refuse_sl_and_tp_in_the_open(exemode: int, retcode: int):
    desk = Desk({"EURUSD": {"trade_exemode": exemode}}, stops_on_open=False)
    assert desk.send(type=BUY, price=1.1001, sl=1.09).retcode == retcode
    assert desk.send(type=BUY, price=1.1001, tp=1.12).retcode == retcode
    position = desk.open(type=BUY, price=1.1001)
    assert desk.send(action=6, position=position.ticket, sl=1.09).retcode == 10009
    assert desk.pending(type=BUY_LIMIT, price=1.09, sl=1.08).retcode == 10009


def test_the_server_may_write_its_own_comment():
    desk = Desk(comment_replaced="from web")
    position = desk.open(type=BUY, comment="mine")
    assert position.comment == "from web"
    assert desk.order(desk.pending(type=BUY_LIMIT, price=1.09).order).comment == "from web"
    desk.close(position, comment="mine")
    assert [deal.comment for deal in desk.deals(position.ticket)] == ["from web", "from web"]


@pytest.mark.parametrize("length", [0, 5, 16, 31])
def test_comments_are_cut_to_the_servers_length(length: int):
    sent = "abcdefghijklmnopqrstuvwxyzabc"
    assert Desk(comment_length=length).open(type=BUY, comment=sent).comment == sent[:length]


@pytest.mark.parametrize(
    ("mask", "refused"),
    [
        (126, "market"), (125, "limit"), (123, "stop"), (119, "stop limit"), (111, "sl"), (95, "tp"),
    ],
)  # fmt: skip
def test_a_symbol_takes_the_kinds_of_orders_of_its_order_mode(mask: int, refused: str):
    desk = Desk({"EURUSD": {"order_mode": mask}})
    codes = {
        "market": desk.send(type=BUY).retcode,
        "limit": desk.pending(type=BUY_LIMIT, price=1.09).retcode,
        "stop": desk.pending(type=BUY_STOP, price=1.11).retcode,
        "stop limit": desk.pending(type=BUY_STOP_LIMIT, price=1.11, stoplimit=1.105).retcode,
        "sl": desk.send(type=BUY, sl=1.09).retcode if mask & 1 else 10009,
        "tp": desk.send(type=BUY, tp=1.12).retcode if mask & 1 else 10009,
    }
    assert codes == dict.fromkeys(codes, 10009) | {refused: 10016 if refused in ("sl", "tp") else 10035}


@pytest.mark.parametrize(("mask", "allowed"), [(1, {0}), (2, {1}), (4, {2}), (8, {3}), (15, {0, 1, 2, 3})])
def test_a_symbol_takes_the_expirations_of_its_expiration_mode(mask: int, allowed: set[int]):
    desk = Desk({"EURUSD": {"expiration_mode": mask}})
    tomorrow = int(desk.clock.now) + 2 * DAY
    codes = {
        kind: desk.pending(type=BUY_LIMIT, price=1.09, type_time=kind, expiration=tomorrow).retcode for kind in range(4)
    }
    assert codes == {kind: 10009 if kind in allowed else 10022 for kind in range(4)}
    ticket = desk.mt5.orders_get()[0].ticket
    kind = desk.mt5.orders_get()[0].type_time
    changed = {
        other: desk.send(action=7, order=ticket, price=1.08, type_time=other, expiration=tomorrow + other).retcode
        for other in range(4) if other != kind
    }  # fmt: skip
    assert changed == {other: 10009 if other in allowed else 10022 for other in changed}


def test_terms_change_while_the_account_trades_and_a_wrong_one_is_named():
    desk = Desk()
    first, second = desk.open(type=BUY), desk.open(type=BUY)
    desk.mt5.sim_account(fifo_close=True, limit_orders=1, comment_length=3)
    assert desk.close(second).retcode == 10045
    assert desk.close(first, comment="abcdef").retcode == 10009
    assert desk.deals(first.ticket)[-1].comment == "abc"
    for changes, words in (
        ({"fifo": True}, "unknown key 'fifo'"), ({"fifo_close": 1}, "true or false"), ({"login": 5}, "unknown key"),
        ({"limit_orders": -1}, "negative"), ({"comment_length": 1.5}, "whole number"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=words):
            desk.mt5.sim_account(**changes)
    assert desk.mt5.account_info().fifo_close is True


# ---- the server's midnight


def test_orders_good_for_a_day_end_and_the_levels_of_positions_with_them_where_the_broker_says_so():
    def left(mode: int) -> Any:
        desk = Desk({"EURUSD": {"order_gtc_mode": mode}})
        position = desk.open(type=BUY, sl=1.09, tp=1.12)
        ticket = desk.pending(type=BUY_LIMIT, price=1.09).order
        at(desk, "2023-11-15 23:59:59")
        assert desk.order(ticket)
        at(desk, "2023-11-16 00:00:00")
        kept = desk.position(position.ticket)
        return desk.order(ticket) is not None, kept.sl, kept.tp

    # Only what has no end of its own, and no market order that is on its way.
    desk = Desk({"EURUSD": {"order_gtc_mode": 1}})
    later = int(desk.clock.now) + 3 * 3600 + 3 * DAY
    specified = desk.pending(type=BUY_LIMIT, price=1.09, type_time=2, expiration=later).order
    at(desk, "2023-11-15 23:59:59")
    desk.mt5.inject("order_send", "placed_late_fill", seconds=3)
    late = desk.send(type=BUY).order
    desk.pass_time(2)
    assert [order.ticket for order in desk.mt5.orders_get()] == [specified, late]
    assert left(0) == (True, 1.09, 1.12)
    assert left(1) == (False, 0.0, 0.0)
    assert left(2) == (False, 1.09, 1.12)


@pytest.mark.parametrize(
    ("changes", "long", "short"),
    [
        ({"swap_mode": 0}, 0.0, 0.0),
        ({"swap_mode": 1}, -6.5, 2.1),  # points of one lot: 1 USD each
        ({"swap_mode": 2}, -7.15, 2.31),  # EUR: charged at ask 1.1001, paid at bid 1.1
        ({"swap_mode": 3}, -7.15, 2.31),
        ({"swap_mode": 4}, -6.5, 2.1),
        ({"swap_mode": 5}, -19.86, 6.42),  # per cent a year of 110,000 now
        ({"swap_mode": 6}, -19.86, 6.42),
    ],
)
def test_swap_is_charged_for_a_night_as_the_symbol_says(changes: dict[str, Any], long: float, short: float):
    desk = Desk({"EURUSD": {"swap_long": -6.5, "swap_short": 2.1} | changes})
    buy, sell = desk.open(type=BUY, volume=1.0), desk.open(type=SELL, volume=1.0)
    desk.mt5.sim_rollover()
    assert (desk.position(buy.ticket).swap, desk.position(sell.ticket).swap) == (long, short)
    info = desk.mt5.account_info()
    assert info.profit == pytest.approx(-20.0 + long + short)
    assert info.balance == 10000.0
    desk.close(buy, volume=0.5)
    assert desk.deals(buy.ticket)[-1].swap == pytest.approx(long / 2, abs=0.011)
    desk.close(desk.position(buy.ticket))
    desk.close(sell)
    deals = desk.mt5.history_deals_get(*EVER)
    assert sum(deal.swap for deal in deals) == pytest.approx(long + short)
    assert desk.mt5.account_info().balance == pytest.approx(sum(deal.profit + deal.swap for deal in deals))


def test_swap_by_reopening_gives_a_new_ticket_and_keeps_the_identifier():
    desk = Desk({"EURUSD": {"swap_mode": 7, "swap_long": -6.0, "swap_short": 2.0}})
    buy = desk.open(type=BUY, magic=5, comment="keep", sl=1.09, tp=1.12)
    sell = desk.open(type=SELL, magic=5)
    desk.pass_time(5)
    desk.mt5.sim_rollover()
    again, sold = desk.mt5.positions_get()
    assert again.ticket not in (buy.ticket, sell.ticket)
    assert (again.identifier, sold.identifier) == (buy.identifier, sell.identifier)
    assert (again.price_open, sold.price_open) == (1.10006, 1.10012)  # closed at 1.1 and 1.1001
    assert (again.volume, again.sl, again.tp, again.magic, again.comment) == (0.1, 1.09, 1.12, 5, "keep")
    assert again.time_msc == buy.time_msc + 5000
    deals = desk.deals(buy.identifier)
    assert [(d.entry, d.reason, d.price) for d in deals] == [(0, 3, 1.1001), (1, 7, 1.1), (0, 7, 1.10006)]
    assert [d.magic for d in deals] == [5, 5, 5]
    assert again.ticket == deals[-1].order
    assert desk.position(buy.ticket) is None
    # The account is as good as before, less the swap, which is in the price now.
    info = desk.mt5.account_info()
    assert info.balance == pytest.approx(sum(d.profit for d in desk.mt5.history_deals_get(*EVER))) == 9998.0
    assert info.equity == pytest.approx(10000 - 2.0 - 0.6 + 0.2)
    assert desk.close(again).retcode == 10009


def test_swap_charged_before_is_booked_when_a_position_is_reopened_or_reversed():
    desk = Desk({"EURUSD": {"swap_long": -10.0, "swap_short": -10.0}}, margin_mode="netting")
    position = desk.open(type=BUY)
    desk.mt5.sim_rollover()
    assert desk.position(position.ticket).swap == -1.0
    desk.send(type=SELL, volume=0.2)
    (turned,) = desk.mt5.positions_get()
    assert (desk.deals(position.identifier)[-1].swap, turned.swap) == (-1.0, 0.0)
    desk.mt5.sim_rollover(2)
    desk.mt5.sim_symbol("EURUSD", swap_mode=7)
    desk.mt5.sim_rollover()
    (again,) = desk.mt5.positions_get()
    assert ([deal.swap for deal in desk.deals(position.identifier)], again.swap) == ([0.0, -1.0, -2.0, 0.0], 0.0)
    deals = desk.mt5.history_deals_get(*EVER)
    assert desk.mt5.account_info().balance == pytest.approx(sum(deal.profit + deal.swap for deal in deals))


def test_reopening_at_bid_takes_bid_for_both_sides():
    desk = Desk({"EURUSD": {"swap_mode": 8, "swap_long": -6.0, "swap_short": 2.0}})
    desk.open(type=BUY)
    desk.open(type=SELL)
    desk.mt5.sim_rollover()
    assert [p.price_open for p in desk.mt5.positions_get()] == [1.10006, 1.10002]


def test_reopening_on_a_netting_account_keeps_the_identifier_too():
    desk = Desk({"EURUSD": {"swap_mode": 7, "swap_long": -6.0}}, margin_mode="netting")
    position = desk.open(type=BUY)
    desk.mt5.sim_rollover()
    (again,) = desk.mt5.positions_get()
    assert (again.identifier, again.volume) == (position.identifier, 0.1)
    assert again.ticket != position.ticket
    desk.send(type=SELL, volume=0.3)
    (turned,) = desk.mt5.positions_get()
    assert (turned.identifier, turned.volume, turned.type) == (position.identifier, 0.2, SELL)


@pytest.mark.parametrize(
    ("since", "until", "nights"),
    [
        ("2023-11-13 12:00", "2023-11-13 23:59:59", 0),
        ("2023-11-13 12:00", "2023-11-14 00:00", 1),  # Monday
        ("2023-11-15 12:00", "2023-11-16 12:00", 3),  # Wednesday
        ("2023-11-17 12:00", "2023-11-20 12:00", 1),  # Friday, and the weekend that Wednesday paid for
        ("2023-11-13 12:00", "2023-11-20 12:00", 7),
    ],
)
def test_with_rollover_every_midnight_of_the_week_charges_and_wednesday_three_times(
    since: str, until: str, nights: int
):
    desk = Desk({"EURUSD": {"swap_long": -10.0}}, rollover=True)
    desk.clock.now -= 7 * DAY
    at(desk, since)
    position = desk.open(type=BUY)
    at(desk, until)
    assert desk.position(position.ticket).swap == -1.0 * nights


def test_without_rollover_nothing_is_charged():
    desk = Desk({"EURUSD": {"swap_long": -10.0}})
    position = desk.open(type=BUY)
    desk.pass_time(10 * DAY)
    assert desk.position(position.ticket).swap == 0.0


def test_the_server_may_change_its_clock():
    desk = Desk()
    before = desk.open(type=BUY)
    desk.mt5.sim_account(utc_offset=2.0)
    assert desk.open(type=BUY).time_msc == before.time_msc - 3_600_000
