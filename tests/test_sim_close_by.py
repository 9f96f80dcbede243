"""Close-by: two opposite positions of a hedging account close each other."""

from typing import Any

import pytest
from sim_desk import BUY, EVER, SELL, Desk


@pytest.fixture
def desk() -> Desk:
    return Desk()


def close_by(desk: Desk, first: Any, second: Any) -> Any:
    return desk.mt5.order_send(action=10, position=first.ticket, position_by=second.ticket, magic=5, comment="both")


@pytest.mark.parametrize(
    ("first", "second", "left", "profit"),
    [
        ((BUY, 0.3), (SELL, 0.1), [(0, 0.2)], -1.0),
        ((BUY, 0.1), (SELL, 0.3), [(1, 0.2)], -1.0),
        ((BUY, 0.2), (SELL, 0.2), [], -2.0),
        ((SELL, 0.3), (BUY, 0.1), [(0, 0.2)], -1.0),
    ],
)
def test_the_smaller_volume_of_both_is_closed_at_the_price_of_the_second(
    desk: Desk, first: Any, second: Any, left: Any, profit: float
):
    pair = [desk.open(type=side, volume=volume, sl=0.0) for side, volume in (first, second)]
    desk.clock.now += 5
    desk.quote("EURUSD", 1.20000, 1.20010)  # the market has no say in it
    sent = close_by(desk, *pair)
    volume = min(first[1], second[1])
    assert (sent.retcode, sent.volume, sent.price) == (10009, volume, pair[1].price_open)
    rest = desk.mt5.positions_get()
    assert [(p.ticket, p.identifier, p.volume) for p in rest] == [
        (pair[place].ticket, pair[place].identifier, lots) for place, lots in left
    ]
    assert all(p.time_update_msc == pair[0].time_msc + 5000 for p in rest)
    assert all(p.price_open == pair[place].price_open for p, (place, _) in zip(rest, left, strict=True))
    out, out_by = (desk.deals(position.identifier)[-1] for position in pair)
    assert (out.entry, out.profit, out.type, out.volume) == (3, profit, second[0], volume)
    assert (out_by.entry, out_by.profit, out_by.type, out_by.volume) == (3, 0.0, first[0], volume)
    assert (out.price, out_by.price) == (pair[1].price_open, pair[1].price_open)
    assert (out.order, out_by.order, out.magic, out.comment) == (sent.order, sent.order, 5, "both")
    order = desk.old_order(sent.order)
    assert (order.type, order.state, order.position_id, order.position_by_id) == (
        8, 4, pair[0].identifier, pair[1].identifier
    )  # fmt: skip
    info = desk.mt5.account_info()
    assert info.balance == sum(deal.profit for deal in desk.mt5.history_deals_get(*EVER)) == 10000 + profit


def test_profit_of_a_close_by_is_what_the_two_prices_are_apart(desk: Desk):
    first = desk.open(type=BUY, volume=0.2)
    desk.quote("EURUSD", 1.10510, 1.10520)
    second = desk.open(type=SELL, volume=0.2)
    equity = desk.mt5.account_info().equity
    close_by(desk, first, second)
    # The spread is saved: no side goes through the market again.
    assert desk.mt5.account_info().balance == 10100.0
    assert equity == pytest.approx(10098.0)


def test_a_position_that_is_gone_a_wrong_partner_and_a_symbol_that_forbids_it_are_refused(desk: Desk):
    first, second, other = desk.open(type=BUY), desk.open(type=SELL), desk.open(type=SELL, symbol="GBPUSD")
    same = desk.open(type=BUY)
    assert close_by(desk, first, first).retcode == 10013
    assert close_by(desk, first, same).retcode == 10013
    assert close_by(desk, first, other).retcode == 10013
    desk.mt5.sim_symbol("EURUSD", order_mode=63)
    assert close_by(desk, first, second).retcode == 10035
    desk.mt5.sim_symbol("EURUSD", order_mode=127, trade_mode=0)
    assert close_by(desk, first, second).retcode == 10017
    desk.mt5.sim_symbol("EURUSD", trade_mode=3)
    assert close_by(desk, first, second).retcode == 10009
    assert close_by(desk, first, same).retcode == 10036
    assert close_by(desk, same, first).retcode == 10036


@pytest.mark.parametrize("frozen", [0, 1])
def test_a_frozen_position_is_not_closed_by(desk: Desk, frozen: int):
    desk.mt5.sim_symbol("EURUSD", trade_freeze_level=30)
    levels = ({"sl": 1.09980}, {"sl": 1.10030})
    pair = [desk.open(type=side, **(levels[side] if side == frozen else {})) for side in (BUY, SELL)]
    assert close_by(desk, *pair).retcode == 10029
    assert len(desk.mt5.positions_get()) == 2


@pytest.mark.parametrize("waiting", [0, 1])
def test_a_position_whose_close_is_on_its_way_is_not_closed_by(desk: Desk, waiting: int):
    pair = [desk.open(type=side) for side in (BUY, SELL)]
    desk.mt5.inject("order_send", "placed_late_fill", seconds=3)
    desk.close(pair[waiting])
    assert close_by(desk, *pair).retcode == 10039


def test_a_person_closes_by_as_well(desk: Desk):
    first, second = desk.open(type=BUY, magic=7), desk.open(type=SELL, magic=7)
    sent = desk.mt5.sim_order_by_hand(action=10, position=first.ticket, position_by=second.ticket)
    deal = desk.deals(first.ticket)[-1]
    assert (sent.retcode, deal.entry, deal.reason, deal.magic) == (10009, 3, 0, 0)
