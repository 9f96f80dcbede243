"""Netting accounts: one position per symbol, whatever is bought and sold."""

from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sim_desk import BUY, BUY_LIMIT, BUY_STOP, EVER, SELL, SELL_LIMIT, Desk

IN, OUT, INOUT = 0, 1, 2


@pytest.fixture(params=["netting", "exchange"])
def desk(request: pytest.FixtureRequest) -> Desk:
    return Desk(margin_mode=request.param)


def the_position(desk: Desk, symbol: str = "EURUSD") -> Any:
    (position,) = desk.mt5.positions_get(symbol=symbol)
    return position


@pytest.mark.parametrize(("mode", "number"), [("netting", 0), ("exchange", 1), ("hedging", 2)])
def test_the_account_says_its_margin_mode(mode: str, number: int):
    assert Desk(margin_mode=mode).mt5.account_info().margin_mode == number


def test_a_second_deal_of_the_same_side_averages_the_price(desk: Desk):
    first = desk.open(type=BUY, volume=0.1, magic=5, comment="first")
    desk.clock.now += 5
    desk.quote("EURUSD", 1.10300, 1.10310)
    sent = desk.send(type=BUY, volume=0.2, magic=6, comment="second")
    position = the_position(desk)
    assert (sent.retcode, position.volume, position.price_open) == (10009, 0.3, pytest.approx(1.1021))
    assert (position.ticket, position.identifier) == (first.ticket, first.identifier)
    assert (position.magic, position.comment) == (5, "first")
    assert (position.time_msc, position.time_update_msc) == (first.time_msc, first.time_msc + 5000)
    deal = desk.deals(first.identifier)[-1]
    assert (deal.entry, deal.order, deal.volume, deal.profit, deal.magic) == (IN, sent.order, 0.2, 0.0, 6)
    assert desk.old_order(sent.order).position_id == first.identifier


def test_a_smaller_opposite_deal_reduces_without_naming_the_position(desk: Desk):
    position = desk.open(type=BUY, volume=0.3, sl=1.09, tp=1.12)
    desk.quote("EURUSD", 1.10110, 1.10120)
    sent = desk.send(type=SELL, volume=0.1)
    left = the_position(desk)
    assert (left.ticket, left.volume, left.price_open, left.type) == (position.ticket, 0.2, 1.1001, BUY)
    assert (left.sl, left.tp) == (1.09, 1.12)
    deal = desk.deals(position.identifier)[-1]
    assert (deal.entry, deal.type, deal.order, deal.profit) == (OUT, SELL, sent.order, 10.0)
    assert desk.mt5.account_info().balance == 10010.0


@pytest.mark.parametrize("named", [True, False])
def test_an_equal_opposite_deal_closes_and_the_next_position_is_another(desk: Desk, named: bool):
    position = desk.open(type=BUY, volume=0.3)
    fields = {"position": position.ticket} if named else {}
    assert desk.send(type=SELL, volume=0.3, **fields).retcode == 10009
    assert desk.mt5.positions_get() == ()
    assert [deal.entry for deal in desk.deals(position.identifier)] == [IN, OUT]
    again = desk.open(type=BUY, volume=0.3)
    assert again.identifier == again.ticket != position.identifier


def test_a_larger_opposite_deal_reverses_and_keeps_the_identifier(desk: Desk):
    position = desk.open(type=BUY, volume=0.1, magic=5, sl=1.09)
    desk.clock.now += 5
    desk.quote("EURUSD", 1.10110, 1.10120)
    sent = desk.send(type=SELL, volume=0.3, magic=6, comment="turn", tp=1.08)
    turned = the_position(desk)
    assert (turned.type, turned.volume, turned.price_open) == (SELL, 0.2, 1.1011)
    assert (turned.ticket, turned.identifier) == (sent.order, position.identifier)
    assert (turned.magic, turned.comment, turned.sl, turned.tp) == (6, "turn", 0.0, 1.08)
    assert turned.time_msc == position.time_msc + 5000
    _, deal = desk.deals(position.identifier)
    assert (deal.entry, deal.type, deal.volume, deal.price, deal.profit) == (INOUT, SELL, 0.3, 1.1011, 10.0)
    assert desk.old_order(sent.order).position_id == position.identifier
    assert desk.position(position.ticket) is None
    # It closes under its new ticket; its whole life is found by the identifier.
    assert desk.close(position, volume=0.1).retcode == 10036
    assert desk.close(turned).retcode == 10009
    assert [deal.entry for deal in desk.deals(position.identifier)] == [IN, INOUT, OUT]


def test_a_close_that_names_the_position_never_reverses_it(desk: Desk):
    position = desk.open(type=BUY, volume=0.1)
    assert desk.close(position, volume=0.2).retcode == 10038
    assert desk.close(position, type=BUY).retcode == 10013
    assert desk.close(position, position=position.ticket + 1).retcode == 10036
    assert the_position(desk) == position


def test_an_increase_takes_sl_and_tp_from_the_new_order_even_when_it_has_none(desk: Desk):
    desk.open(type=BUY, sl=1.09, tp=1.12)
    desk.send(type=BUY, sl=1.08, tp=1.13)
    assert (the_position(desk).sl, the_position(desk).tp) == (1.08, 1.13)
    desk.send(type=BUY)
    assert (the_position(desk).sl, the_position(desk).tp) == (0.0, 0.0)


def test_sltp_and_the_server_reach_the_position_as_on_any_account(desk: Desk):
    position = desk.open(type=BUY, volume=0.1)
    desk.send(type=BUY, volume=0.1)
    assert desk.send(action=6, position=position.ticket, sl=1.095).retcode == 10009
    desk.quote("EURUSD", 1.09500, 1.09510)
    assert desk.mt5.positions_get() == ()
    deal = desk.deals(position.identifier)[-1]
    assert (deal.entry, deal.reason, deal.volume, deal.profit) == (OUT, 4, 0.2, -102.0)


def test_every_symbol_has_its_own_position(desk: Desk):
    desk.open(type=BUY)
    desk.open(type=SELL, symbol="GBPUSD")
    assert [(p.symbol, p.type) for p in desk.mt5.positions_get()] == [("EURUSD", BUY), ("GBPUSD", SELL)]


@pytest.mark.parametrize(
    ("kind", "price", "volume", "left", "entry"),
    [
        (BUY_LIMIT, 1.099, 0.2, (BUY, 0.3), IN),
        (SELL_LIMIT, 1.101, 0.04, (BUY, 0.06), OUT),
        (SELL_LIMIT, 1.101, 0.1, None, OUT),
        (SELL_LIMIT, 1.101, 0.25, (SELL, 0.15), INOUT),
    ],
)
def test_a_pending_order_that_fills_merges_into_the_position(
    desk: Desk, kind: int, price: float, volume: float, left: Any, entry: int
):
    position = desk.open(type=BUY)
    ticket = desk.pending(type=kind, price=price, volume=volume).order
    assert desk.order(ticket).position_id == 0
    desk.quote("EURUSD", *((1.0989, 1.099) if kind == BUY_LIMIT else (1.101, 1.1011)))
    assert desk.order(ticket) is None
    assert [(p.type, p.volume) for p in desk.mt5.positions_get()] == ([left] if left else [])
    deal = desk.deals(position.identifier)[-1]
    assert (deal.entry, deal.order, deal.price) == (entry, ticket, price)
    assert (desk.old_order(ticket).position_id, desk.old_order(ticket).state) == (position.identifier, 4)


def test_a_pending_order_opens_the_position_when_there_is_none(desk: Desk):
    ticket = desk.pending(type=BUY_STOP, price=1.101, sl=1.09).order
    desk.quote("EURUSD", 1.10100, 1.10110)
    position = the_position(desk)
    assert (position.ticket, position.identifier, position.sl) == (ticket, ticket, 1.09)


def test_close_by_is_for_hedging_accounts(desk: Desk):
    first, second = desk.open(type=BUY), desk.open(type=SELL, symbol="GBPUSD")
    assert desk.send(action=10, position=first.ticket, position_by=second.ticket).retcode == 10013
    assert desk.send(action=10, position=first.ticket, position_by=1).retcode == 10013


@pytest.mark.parametrize(
    ("trade_mode", "volume", "retcode"),
    [
        (1, 0.1, 10009), (1, 0.11, 10042), (3, 0.05, 10009), (3, 0.1, 10009), (3, 0.11, 10044), (0, 0.1, 10017),
    ],
)  # fmt: skip
def test_a_trade_mode_forbids_new_exposure_and_no_reduction(desk: Desk, trade_mode: int, volume: float, retcode: int):
    desk.open(type=BUY)
    desk.mt5.sim_symbol("EURUSD", trade_mode=trade_mode)
    assert desk.send(type=SELL, volume=volume).retcode == retcode


def test_the_volume_limit_is_for_what_a_direction_would_hold(desk: Desk):
    desk.mt5.sim_symbol("EURUSD", volume_limit=0.3)
    desk.open(type=BUY, volume=0.2)
    assert desk.send(type=BUY, volume=0.11).retcode == 10034
    assert desk.send(type=SELL, volume=0.51).retcode == 10034
    assert desk.send(type=SELL, volume=0.5).retcode == 10009
    assert (the_position(desk).type, the_position(desk).volume) == (SELL, 0.3)


def test_what_is_left_below_the_minimum_can_be_closed(desk: Desk):
    desk.mt5.sim_symbol("EURUSD", volume_min=0.05)
    desk.open(type=BUY, volume=0.08)
    assert desk.send(type=SELL, volume=0.03).retcode == 10014
    assert desk.send(type=SELL, volume=0.05).retcode == 10009
    assert desk.send(type=SELL, volume=0.03).retcode == 10009
    assert desk.mt5.positions_get() == ()


def test_margin_is_for_the_net_position(desk: Desk):
    desk.open(type=BUY, volume=1.0)
    assert desk.mt5.account_info().margin == 1100.1
    desk.send(type=SELL, volume=1.5)
    assert desk.mt5.account_info().margin == 550.0
    check = desk.mt5.order_check(action=1, symbol="EURUSD", volume=1.0, type=BUY, type_filling=1)
    assert (check.retcode, check.margin) == (0, 550.05)


def test_money_is_asked_for_new_exposure_only(desk: Desk):
    desk.open(type=BUY, volume=8.0)
    desk.quote("EURUSD", 1.09500, 1.09510)  # 4080 lost: 5920 of equity for 8800.8 of margin
    assert desk.send(type=BUY, volume=0.01).retcode == 10019
    assert desk.send(type=SELL, volume=4.0).retcode == 10009
    assert desk.send(type=SELL, volume=13.5).retcode == 10019
    assert desk.send(type=SELL, volume=9.0).retcode == 10009
    assert (the_position(desk).type, the_position(desk).volume) == (SELL, 5.0)


def test_stop_out_closes_the_net_position(desk: Desk):
    position = desk.open(type=BUY, volume=8.0)
    desk.quote("EURUSD", 1.09000, 1.09010)
    assert desk.mt5.positions_get() == ()
    assert desk.deals(position.identifier)[-1].reason == 6


def test_closing_by_hand_takes_from_the_net_position(desk: Desk):
    position = desk.open(type=BUY, volume=0.3)
    desk.mt5.sim_close_by_hand(position.ticket, 0.1)
    assert the_position(desk).volume == 0.2
    desk.mt5.sim_order_by_hand(action=1, symbol="EURUSD", volume=0.3, type=1, type_filling=1)
    assert (the_position(desk).type, the_position(desk).volume, the_position(desk).reason) == (SELL, 0.1, 0)


@pytest.mark.parametrize(("side", "left"), [(BUY, 0.3), (SELL, 0.1)])
def test_a_late_fill_meets_the_position_there_is_by_then(desk: Desk, side: int, left: float):
    desk.mt5.inject("order_send", "placed_late_fill", seconds=3)
    assert desk.send(type=side, volume=0.1).retcode == 10008
    position = desk.open(type=BUY, volume=0.2)
    desk.pass_time(3)
    assert (the_position(desk).identifier, the_position(desk).volume) == (position.identifier, left)


def test_a_late_close_closes_no_more_than_there_is_and_never_reverses(desk: Desk):
    position = desk.open(type=BUY, volume=0.3)
    desk.mt5.inject("order_send", "timeout_late_fill", seconds=3)
    assert desk.close(position).retcode == 10012
    desk.send(type=SELL, volume=0.1)
    desk.pass_time(3)
    assert desk.mt5.positions_get() == ()
    assert [deal.volume for deal in desk.deals(position.identifier)] == [0.3, 0.1, 0.2]

    position = desk.open(type=BUY, volume=0.3)
    desk.mt5.inject("order_send", "timeout_late_fill", seconds=3)
    late = desk.close(position)
    desk.send(type=SELL, volume=0.4)
    desk.pass_time(3)
    assert (late.retcode, the_position(desk).type, the_position(desk).volume) == (10012, SELL, 0.1)


# ---- random trading against a model that knows nothing of the simulator


class Model:
    """A net position in fractions: signed lots, average price, money."""

    def __init__(self) -> None:
        self.lots, self.average, self.money = Fraction(0), Fraction(0), Fraction(0)

    def trade(self, lots: Fraction, price: Fraction) -> str:
        held, after = self.lots, self.lots + lots
        if held * lots >= 0:
            self.average = (self.average * abs(held) + price * abs(lots)) / abs(after)
            entry = "IN"
        else:
            closed = min(abs(held), abs(lots))
            self.money += (price - self.average) * closed * (1 if held > 0 else -1) * 100_000
            entry = "INOUT" if after * held < 0 else "OUT"
            if entry == "INOUT":
                self.average = price
        self.lots = after
        return entry


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["buy", "sell", "buy limit", "sell limit", "close", "close by hand"]),
        st.integers(1, 40),  # hundredths of a lot
        st.integers(-300, 300),  # points the price moves first
    ),
    max_size=25,
)


@settings(max_examples=60)
@given(steps=STEPS, exchange=st.booleans())
def test_random_trading_keeps_volume_price_and_money_of_a_plain_model(steps: list[Any], exchange: bool):
    desk = Desk(margin_mode="exchange" if exchange else "netting", balance=1_000_000)
    model, bid, entries, lives = Model(), 110_000, [], []

    def trade(lots: Fraction, points: int) -> None:
        lives.append(lives[-1] + (not model.lots) if lives else 1)
        entries.append(model.trade(lots, Fraction(points, 100_000)))

    for what, hundredths, move in steps:
        bid = max(100_000, min(120_000, bid + move))
        ask = bid + 10
        desk.quote("EURUSD", bid / 100_000, ask / 100_000)
        lots = hundredths / 100
        if what == "buy":
            assert desk.send(type=BUY, volume=lots).retcode == 10009
            trade(Fraction(hundredths, 100), ask)
        elif what == "sell":
            assert desk.send(type=SELL, volume=lots).retcode == 10009
            trade(-Fraction(hundredths, 100), bid)
        elif what.endswith("limit"):
            buy = what == "buy limit"
            price = ask - 100 if buy else bid + 100
            sent = desk.pending(type=BUY_LIMIT if buy else SELL_LIMIT, volume=lots, price=price / 100_000)
            assert sent.retcode == 10009
            bid = price - 10 if buy else price
            desk.quote("EURUSD", bid / 100_000, (bid + 10) / 100_000)
            trade(Fraction(hundredths if buy else -hundredths, 100), price)
        elif model.lots:
            position = the_position(desk)
            part = min(round(lots * 100), round(position.volume * 100))
            if what == "close":
                assert desk.close(position, volume=part / 100).retcode == 10009
            else:
                desk.mt5.sim_close_by_hand(position.ticket, part / 100)
            sell = model.lots > 0
            trade(Fraction(-part if sell else part, 100), bid if sell else ask)

        deals = desk.mt5.history_deals_get(*EVER)[1:]
        assert [("IN", "OUT", "INOUT")[deal.entry] for deal in deals] == entries
        info = desk.mt5.account_info()
        assert info.balance == pytest.approx(1_000_000 + sum(deal.profit for deal in deals), abs=1e-6)
        assert info.balance == pytest.approx(1_000_000 + float(model.money), abs=0.01 * len(deals) + 1e-6)
        # A life from flat to flat has one identifier, which all its deals and orders carry and no other life's do.
        assert len(set(zip(lives, (deal.position_id for deal in deals), strict=True))) == len(set(lives))
        assert len({deal.position_id for deal in deals}) == len(set(lives))
        orders = {order.ticket: order.position_id for order in desk.mt5.history_orders_get(*EVER)}
        assert all(orders[deal.order] == deal.position_id for deal in deals)
        if not model.lots:
            assert desk.mt5.positions_get() == ()
            assert info.margin == 0.0
            continue
        position = the_position(desk)
        assert (position.volume, position.type) == (float(abs(model.lots)), BUY if model.lots > 0 else SELL)
        assert position.price_open == pytest.approx(float(model.average), abs=1e-12)
        assert info.equity == pytest.approx(info.balance + position.profit, abs=1e-6)
        assert info.margin == pytest.approx(float(abs(model.lots) * model.average * 1000), abs=0.011)
        assert position.identifier == deals[-1].position_id
