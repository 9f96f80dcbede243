"""A market that has only so many lots at a price: what is filled, what waits, what is given up."""

from typing import Any

import pytest
from sim_desk import BUY, BUY_LIMIT, BUY_STOP, EVER, SELL, Desk

FOK, IOC, RETURN = 0, 1, 2
MARKET, EXCHANGE = 2, 3


def desk_with(depth: float, exemode: int = MARKET, margin_mode: str = "hedging") -> Desk:
    return Desk({"EURUSD": {"depth": depth, "trade_exemode": exemode}}, margin_mode=margin_mode)


def next_price(desk: Desk) -> None:
    """A new tick at the same prices, with new lots."""
    tick = desk.mt5.symbol_info_tick("EURUSD")
    desk.quote("EURUSD", tick.bid, tick.ask)


def volumes(desk: Desk) -> list[tuple[int, float]]:
    return [(p.ticket, p.volume) for p in desk.mt5.positions_get()]


# ---- market orders


def test_ioc_fills_what_there_is_and_gives_up_the_rest():
    desk = desk_with(0.3)
    sent = desk.send(type=BUY, volume=0.5, type_filling=IOC)
    assert (sent.retcode, sent.volume, sent.price) == (10010, 0.3, 1.1001)
    assert volumes(desk) == [(sent.order, 0.3)]
    order = desk.old_order(sent.order)
    assert (order.state, order.volume_initial, order.volume_current) == (3, 0.5, 0.2)
    assert desk.mt5.orders_get() == ()
    next_price(desk)
    assert volumes(desk) == [(sent.order, 0.3)]


def test_lots_are_used_up_until_the_next_price_and_each_side_has_its_own():
    desk = desk_with(0.3)
    assert desk.send(type=BUY, volume=0.2).retcode == 10009
    assert desk.send(type=BUY, volume=0.2).volume == 0.1
    assert desk.send(type=BUY, volume=0.1).retcode == 10006
    assert desk.send(type=SELL, volume=0.3).retcode == 10009
    next_price(desk)
    assert desk.send(type=BUY, volume=0.3).retcode == 10009


@pytest.mark.parametrize("filling", [FOK, IOC])
def test_an_order_that_finds_nothing_leaves_no_trace(filling: int):
    desk = desk_with(0.3)
    desk.send(type=BUY, volume=0.3)
    sent = desk.send(type=BUY, volume=0.1, type_filling=filling)
    assert (sent.retcode, sent.order, sent.bid, sent.ask) == (10006, 0, 1.1, 1.1001)
    assert len(desk.mt5.positions_get()) == 1
    assert desk.mt5.history_orders_total(*EVER) == 1


def test_fok_is_filled_wholly_or_not_at_all():
    desk = desk_with(0.3)
    assert desk.send(type=BUY, volume=0.31, type_filling=FOK).retcode == 10006
    assert desk.send(type=BUY, volume=0.3, type_filling=FOK).retcode == 10009


def test_what_return_leaves_waits_as_an_order_with_the_positions_ticket():
    desk = desk_with(0.3, EXCHANGE)
    sent = desk.send(type=BUY, volume=0.7, type_filling=RETURN, sl=1.09)
    assert (sent.retcode, sent.volume) == (10010, 0.3)
    order, position = desk.order(sent.order), desk.position(sent.order)
    assert (order.ticket, order.state, order.type, order.volume_current) == (position.ticket, 3, BUY, 0.4)
    desk.quote("EURUSD", 1.1010, 1.1011)
    position = desk.position(sent.order)
    assert (position.volume, position.price_open, position.sl) == (0.6, pytest.approx(1.1006), 1.09)
    next_price(desk)
    assert (desk.order(sent.order), desk.position(sent.order).volume) == (None, 0.7)
    assert [(d.entry, d.volume) for d in desk.deals(sent.order)] == [(0, 0.3), (0, 0.3), (0, 0.1)]
    assert desk.old_order(sent.order).state == 4


def test_a_fault_that_fills_in_part_leaves_nothing_waiting():
    desk = Desk({"EURUSD": {"trade_exemode": EXCHANGE}})
    desk.mt5.inject("order_send", "partial", fraction=0.5)
    sent = desk.send(type=BUY, volume=0.4, type_filling=RETURN)
    assert (sent.retcode, sent.volume, desk.mt5.orders_get()) == (10010, 0.2, ())


def test_return_waits_even_when_there_is_nothing_yet():
    desk = desk_with(0.3, EXCHANGE)
    desk.send(type=SELL, volume=0.3, type_filling=RETURN)
    sent = desk.send(type=SELL, volume=0.2, type_filling=RETURN)
    assert (sent.retcode, sent.deal, desk.order(sent.order).state) == (10008, 0, 1)
    next_price(desk)
    assert desk.position(sent.order).volume == 0.2


def test_what_waits_of_a_market_order_can_be_removed_but_not_changed():
    desk = desk_with(0.3, EXCHANGE)
    ticket = desk.send(type=BUY, volume=0.7, type_filling=RETURN).order
    assert desk.send(action=7, order=ticket, price=1.0).retcode == 10035
    assert desk.send(action=8, order=ticket).retcode == 10009
    next_price(desk)
    assert volumes(desk) == [(ticket, 0.3)]
    assert (desk.old_order(ticket).state, desk.old_order(ticket).volume_current) == (2, 0.4)


def test_a_close_that_waits_for_lots_goes_on_and_no_second_close_is_taken():
    desk = desk_with(0.3, EXCHANGE)
    position = desk.open(type=BUY, volume=0.3, type_filling=RETURN)
    desk.mt5.sim_symbol("EURUSD", depth=0.2)
    assert desk.close(position, type_filling=RETURN).retcode == 10010
    assert desk.close(position, volume=0.1, type_filling=RETURN).retcode == 10039
    next_price(desk)
    assert (desk.mt5.positions_get(), desk.mt5.orders_get()) == ((), ())
    assert [(d.entry, d.volume) for d in desk.deals(position.identifier)] == [(0, 0.3), (1, 0.2), (1, 0.1)]


@pytest.mark.parametrize("by_hand", [0.05, 0.1])
def test_a_close_that_waits_closes_no_more_than_is_left(by_hand: float):
    desk = desk_with(0.3, EXCHANGE)
    position = desk.open(type=BUY, volume=0.3, type_filling=RETURN)
    desk.mt5.sim_symbol("EURUSD", depth=0.2)
    ticket = desk.close(position, type_filling=RETURN).order
    desk.mt5.sim_close_by_hand(position.ticket, by_hand)
    next_price(desk)
    assert (desk.mt5.positions_get(), desk.mt5.orders_get()) == ((), ())
    assert sum(deal.volume for deal in desk.deals(position.identifier)[1:]) == pytest.approx(0.3)
    assert desk.old_order(ticket).state == (3 if by_hand == 0.05 else 2)


def test_a_market_without_limit_is_what_there_is_unless_it_is_said():
    desk = Desk()
    assert desk.send(type=BUY, volume=5.0).retcode == 10009


# ---- pending orders


def test_a_pending_order_that_is_filled_in_part_and_its_position_have_the_same_ticket():
    desk = desk_with(0.3)
    ticket = desk.pending(type=BUY_LIMIT, price=1.099, volume=0.7, sl=1.09).order
    desk.quote("EURUSD", 1.0989, 1.0990)
    order, position = desk.order(ticket), desk.position(ticket)
    assert (order.state, order.volume_initial, order.volume_current, order.price_open) == (3, 0.7, 0.4, 1.099)
    assert (position.volume, position.price_open, position.sl) == (0.3, 1.099, 1.09)
    assert (order.position_id, position.identifier) == (ticket, ticket)
    desk.quote("EURUSD", 1.0999, 1.1000)  # away from the limit: nothing more
    assert desk.position(ticket).volume == 0.3
    desk.quote("EURUSD", 1.0979, 1.0980)
    assert desk.position(ticket).volume == 0.6
    assert desk.position(ticket).price_open == pytest.approx(1.0985)
    next_price(desk)
    assert (desk.position(ticket).volume, desk.order(ticket)) == (0.7, None)
    assert desk.old_order(ticket).state == 4
    assert {deal.order for deal in desk.deals(ticket)} == {ticket}


def test_a_stop_order_that_was_reached_goes_on_filling_whatever_the_price():
    desk = desk_with(0.3)
    ticket = desk.pending(type=BUY_STOP, price=1.101, volume=0.5).order
    desk.quote("EURUSD", 1.1019, 1.1020)  # a gap: filled beyond the price, which the order keeps
    assert (desk.position(ticket).price_open, desk.order(ticket).price_open) == (1.102, 1.101)
    desk.quote("EURUSD", 1.0999, 1.1000)
    assert (desk.position(ticket).volume, desk.order(ticket)) == (0.5, None)
    assert desk.old_order(ticket).price_open == 1.101


def test_what_is_left_of_a_pending_order_is_removed_changed_or_expires_alone():
    desk = desk_with(0.3)
    server_now = int(desk.clock.now) + 3 * 3600
    first = desk.pending(type=BUY_LIMIT, price=1.099, volume=0.5).order
    desk.quote("EURUSD", 1.0989, 1.0990)
    second = desk.pending(type=BUY_LIMIT, price=1.098, volume=0.5, type_time=2, expiration=server_now + 60).order
    assert desk.send(action=7, order=first, price=1.0985, sl=1.09).retcode == 10009
    assert (desk.order(first).price_open, desk.position(first).sl) == (1.0985, 0.0)
    assert desk.send(action=8, order=first).retcode == 10009
    desk.quote("EURUSD", 1.0979, 1.0980)
    desk.pass_time(61)
    assert volumes(desk) == [(first, 0.3), (second, 0.3)]
    assert [desk.old_order(n).state for n in (first, second)] == [2, 6]
    assert [desk.old_order(n).volume_current for n in (first, second)] == [0.2, 0.2]


def test_a_position_closed_while_its_order_still_fills_opens_again_under_the_same_number():
    desk = desk_with(0.3)
    ticket = desk.pending(type=BUY_LIMIT, price=1.099, volume=0.5).order
    desk.quote("EURUSD", 1.0989, 1.0990)
    assert desk.close(desk.position(ticket)).retcode == 10009
    next_price(desk)
    assert volumes(desk) == [(ticket, 0.2)]


def test_sl_of_a_position_that_was_changed_stays_when_its_order_fills_on():
    desk = desk_with(0.3)
    ticket = desk.pending(type=BUY_LIMIT, price=1.099, volume=0.5, sl=1.09).order
    desk.quote("EURUSD", 1.0989, 1.0990)
    desk.send(action=6, position=ticket, sl=1.095)
    next_price(desk)
    assert (desk.position(ticket).volume, desk.position(ticket).sl) == (0.5, 1.095)


@pytest.mark.parametrize(("filling", "volume", "state"), [(IOC, 0.3, 3), (FOK, None, None), (RETURN, 0.3, None)])
def test_the_filling_of_a_pending_order_decides_when_it_finds_too_little(filling: int, volume: Any, state: Any):
    desk = desk_with(0.3)
    ticket = desk.pending(type=BUY_LIMIT, price=1.099, volume=0.5, type_filling=filling).order
    desk.quote("EURUSD", 1.0989, 1.0990)
    assert (desk.position(ticket) and desk.position(ticket).volume) == volume
    assert bool(desk.order(ticket)) == (state is None)
    if state is not None:
        assert desk.old_order(ticket).state == state
    desk.mt5.sim_symbol("EURUSD", depth=1)
    if filling == FOK:
        assert desk.position(ticket).volume == 0.5


def test_an_ioc_order_that_finds_nothing_when_it_is_reached_is_canceled():
    desk = desk_with(0.3)
    first = desk.pending(type=BUY_LIMIT, price=1.099, volume=0.3).order
    second = desk.pending(type=BUY_LIMIT, price=1.099, volume=0.3, type_filling=IOC).order
    desk.quote("EURUSD", 1.0989, 1.0990)
    assert volumes(desk) == [(first, 0.3)]
    assert desk.old_order(second).state == 2


# ---- netting


def test_on_a_netting_account_parts_merge_and_reverse():
    desk = desk_with(0.3, EXCHANGE, "exchange")
    desk.open(type=BUY, volume=0.2, type_filling=RETURN)
    held = desk.mt5.positions_get()[0]
    sent = desk.send(type=SELL, volume=0.7, type_filling=RETURN)
    assert sent.retcode == 10010
    (turned,) = desk.mt5.positions_get()
    assert (turned.type, turned.volume, turned.ticket, turned.identifier) == (SELL, 0.1, sent.order, held.identifier)
    assert desk.order(sent.order).position_id == held.identifier
    next_price(desk)
    next_price(desk)
    (turned,) = desk.mt5.positions_get()
    assert (turned.volume, turned.ticket, desk.mt5.orders_get()) == (0.5, sent.order, ())
    assert [(d.entry, d.volume) for d in desk.deals(held.identifier)] == [(0, 0.2), (2, 0.3), (0, 0.3), (0, 0.1)]


def test_money_of_parts_adds_up():
    desk = desk_with(0.3, EXCHANGE)
    ticket = desk.send(type=BUY, volume=0.7, type_filling=RETURN).order
    desk.quote("EURUSD", 1.1010, 1.1011)
    desk.quote("EURUSD", 1.1020, 1.1021)
    position = desk.position(ticket)
    for _ in range(3):
        desk.close(desk.position(ticket), volume=min(0.3, desk.position(ticket).volume), type_filling=IOC)
        next_price(desk)
    deals = desk.deals(ticket)
    assert desk.mt5.positions_get() == ()
    assert sum(d.volume for d in deals if d.entry == 0) == pytest.approx(0.7)
    assert sum(d.profit for d in deals) == pytest.approx((1.1020 - position.price_open) * 0.7 * 100_000, abs=0.03)
    assert desk.mt5.account_info().balance == pytest.approx(10000 + sum(d.profit for d in deals))
