"""The legs of a master's trade: what was entered at once is one, what is closed is taken from the oldest."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import replace
from decimal import Decimal as D
from typing import Any

import pytest
from follower import order, position
from hypothesis import given
from hypothesis import strategies as st

from legs import Leg, Legs, first_legs, followed, held_as, whole
from mirror import Held, Mirror
from signals import Action, Increase, Trade

OPENED_AT = 1_790_000_000_000
GREW_AT = OPENED_AT + 60_000


def leg(number: int, lots: str, left: str | None = None, **more: Any) -> Leg:
    fields: dict[str, Any] = {"buys": True, "price": D("1.1"), "order": 0, "opened_at": OPENED_AT, **more}
    return Leg(number=number, initial=D(lots), left=D(lots if left is None else left), **fields)


def trade(volume: str, action: str = "BUY", increase: Increase | None = None) -> Trade:
    return position(7, action, volume, price=D("1.15"), opened_at=OPENED_AT, increase=increase)


def grown(lots: str, order: int = 0, at: int = GREW_AT) -> Increase:
    return Increase(D(lots), D("1.2"), order, at)


def lefts(legs: Legs) -> list[str]:
    return [str(one.left) for one in legs]


ALL = range(100)  # every leg has been copied or refused
NONE = ()


# --- seen for the first time -----------------------------------------------------------------------------------------


def test_a_trade_that_never_grew_is_one_leg_of_its_own_price_and_age() -> None:
    (only,) = first_legs(trade("0.30"))
    assert only == Leg(0, True, D("0.30"), D("0.30"), D("1.15"), 7, OPENED_AT)  # a position may have begun as an order
    (pending,) = first_legs(order(7, "SELL_LIMIT", opened_at=OPENED_AT))
    assert (pending.buys, pending.order) == (False, 0)


def test_what_a_trade_first_seen_has_grown_by_last_is_a_leg_of_its_own() -> None:
    before, last = first_legs(trade("0.30", increase=grown("0.10", order=5)))
    assert before == Leg(0, True, D("0.20"), D("0.20"), D("1.15"), 7, OPENED_AT)
    assert last == Leg(1, True, D("0.10"), D("0.10"), D("1.2"), 5, GREW_AT)


def test_a_trade_first_seen_after_it_turned_round_is_as_old_as_the_turn() -> None:
    (only,) = first_legs(trade("0.30", "SELL", grown("0.30")))
    assert only == Leg(0, False, D("0.30"), D("0.30"), D("1.2"), 7, GREW_AT)
    (of_order,) = first_legs(trade("0.30", "SELL", grown("0.30", order=5)))
    assert of_order.order == 5


def test_lots_that_have_gone_since_the_increase_are_in_no_leg() -> None:
    (only,) = first_legs(trade("0.05", increase=grown("0.10")))
    assert (only.initial, only.left) == (D("0.05"), D("0.05"))


# --- followed --------------------------------------------------------------------------------------------------------


def test_a_trade_of_the_same_volume_has_the_same_legs() -> None:
    legs = (leg(0, "0.10"), leg(1, "0.20"))
    assert followed(legs, trade("0.30", increase=grown("0.20")), NONE) == legs


@pytest.mark.parametrize(
    ("volume", "left"),
    [("0.35", ["0.05", "0.20", "0.10"]), ("0.30", ["0.00", "0.20", "0.10"]), ("0.05", ["0.00", "0.00", "0.05"])],
)
def test_the_oldest_leg_is_closed_first(volume: str, left: list[str]) -> None:
    legs = (leg(0, "0.10"), leg(1, "0.20"), leg(2, "0.10"))
    after = followed(legs, trade(volume), ALL)
    assert lefts(after) == left
    assert [one.initial for one in after] == [one.initial for one in legs], "shares are parts of what was entered"


def test_a_leg_that_has_ended_does_not_come_back() -> None:
    legs = followed((leg(0, "0.10"), leg(1, "0.20")), trade("0.20"), ALL)
    legs = followed(legs, trade("0.30", increase=grown("0.10")), ALL)
    assert lefts(legs) == ["0.00", "0.20", "0.10"]
    assert [one.number for one in legs] == [0, 1, 2]


def test_an_increase_is_a_leg_of_its_own_price_order_and_age() -> None:
    legs = followed((leg(0, "0.10"),), trade("0.30", increase=grown("0.20", order=5)), ALL)
    assert legs == (leg(0, "0.10"), Leg(1, True, D("0.20"), D("0.20"), D("1.2"), 5, GREW_AT))


def test_two_increases_between_two_looks_are_one_leg_of_all_the_lots() -> None:
    legs = followed((leg(0, "0.10"),), trade("0.60", increase=grown("0.20")), ALL)
    assert legs[1].left == D("0.50")


def test_an_increase_of_which_nobody_said_anything_is_of_unknown_age() -> None:
    legs = followed((leg(0, "0.10"),), trade("0.30"), ALL)
    assert (legs[1].left, legs[1].price, legs[1].opened_at) == (D("0.20"), D("1.15"), 0)


def test_a_trade_that_turned_round_has_ended_all_its_legs_and_begun_one() -> None:
    legs = (leg(0, "0.10", "0.05"), leg(1, "0.20"))
    after = followed(legs, trade("0.15", "SELL", grown("0.15")), ALL)
    assert lefts(after) == ["0", "0", "0.15"]
    assert (after[2].buys, after[2].number, after[2].opened_at) == (False, 2, GREW_AT)


def test_a_turn_to_the_same_volume_is_a_turn_all_the_same() -> None:
    assert lefts(followed((leg(0, "0.10"),), trade("0.10", "SELL"), ALL)) == ["0", "0.10"]


def test_more_of_the_same_pending_order_joins_its_leg_while_that_is_not_decided() -> None:
    legs = (leg(0, "0.10"), leg(1, "0.20", "0.15", order=5, price=D("1.2"), opened_at=GREW_AT))
    after = followed(legs, trade("0.55", increase=grown("0.30", order=5, at=GREW_AT + 900)), {0})
    assert len(after) == 2
    assert after[1] == replace(legs[1], initial=D("0.50"), left=D("0.45"))


@pytest.mark.parametrize(
    ("legs", "grown_by_order", "decided"),
    [
        pytest.param((leg(0, "0.10", order=5),), 5, {0}, id="decided"),
        pytest.param((leg(0, "0.10", order=5),), 6, NONE, id="another order"),
        pytest.param((leg(0, "0.10", order=0),), 0, NONE, id="at market"),
        pytest.param((leg(0, "0.10", order=5), leg(1, "0.20")), 5, NONE, id="not the last"),
        pytest.param((leg(0, "0.10"), leg(1, "0.20", "0", order=5)), 5, NONE, id="ended"),
    ],
)
def test_any_other_increase_is_a_leg_of_its_own(legs: Legs, grown_by_order: int, decided: Container[int]) -> None:
    volume = sum((one.left for one in legs), D("0.10"))
    after = followed(legs, trade(str(volume), increase=grown("0.10", order=grown_by_order)), decided)
    assert after[:-1] == legs
    assert (after[-1].number, after[-1].left) == (len(legs), D("0.10"))


def test_an_increase_that_was_followed_already_makes_no_other_look_young() -> None:
    """A server database put back from an old copy shows again what has gone."""
    legs = followed((leg(0, "0.10"),), trade("0.30", increase=grown("0.20")), ALL)
    legs = followed(legs, trade("0.10", increase=grown("0.20")), ALL)
    legs = followed(legs, trade("0.30", increase=grown("0.20")), ALL)
    assert [one.opened_at for one in legs] == [OPENED_AT, GREW_AT, 0]
    legs = followed(legs, trade("0.40", increase=grown("0.10", at=GREW_AT + 1)), ALL)
    assert legs[-1].opened_at == GREW_AT + 1, "another one is as old as it is"


# --- any history -----------------------------------------------------------------------------------------------------

LOOKS = st.lists(
    st.tuples(
        st.integers(-60, 60).filter(bool),  # the master's steps of 0.01 lots, below 0 when they are sold
        st.integers(0, 2),  # the pending order that filled, 0 = at market
        st.booleans(),  # whether everything has been decided since
    ),
    min_size=1,
    max_size=30,
)


@given(LOOKS)
def test_in_any_history_the_legs_are_the_lots_in_the_order_in_which_they_came(
    looks: list[tuple[int, int, bool]],
) -> None:
    lots, order_number, _ = looks[0]
    buys = lots > 0
    model: list[list[int]] = [[abs(lots), 7]]  # what is open: steps and order, the oldest first
    legs = first_legs(trade(str(D(abs(lots)) / 100), "BUY" if buys else "SELL"))
    decided: set[int] = set()
    for number, (lots, order_number, all_decided) in enumerate(looks[1:], 1):
        if all_decided:
            decided |= {one.number for one in legs}
        newest = legs[-1]
        held = sum(steps for steps, _ in model)
        if (lots > 0) != buys:
            buys, model, held = lots > 0, [], 0
        increase = grown("0.01", order_number, GREW_AT + number)
        before = legs
        legs = followed(legs, trade(str(D(abs(lots)) / 100), "BUY" if buys else "SELL", increase), decided)
        more = abs(lots) - held
        if more > 0:
            joins = bool(model and order_number and newest.number not in decided and model[-1][1] == order_number)
            if joins:
                model[-1][0] += more
            else:
                model.append([more, order_number])
            assert len(legs) == len(before) + (not joins)
        while more < 0:
            gone = min(model[0][0], -more)
            model[0][0] -= gone
            more += gone
            if not model[0][0]:
                model.pop(0)
        open_now = [one for one in legs if one.left]
        assert sum(one.left for one in legs) == D(abs(lots)) / 100
        assert [(one.left * 100, one.order) for one in open_now] == [(steps, number) for steps, number in model]
        assert {one.buys for one in open_now} == {buys}
        assert [one.number for one in legs] == list(range(len(legs)))
        assert all(0 <= one.left <= one.initial for one in legs)


# --- as trades of their own ------------------------------------------------------------------------------------------

NOW = 70.0


def mirror() -> Mirror:
    one = Mirror()
    data: dict[str, Any] = {"masters": [], "trades": []}
    server_time = GREW_AT + 4_000
    one.apply({"type": "book", "seq": 1, "epoch": "e", "server_time": server_time, "data": data}, NOW)
    return one


def shown(one: Trade, legs: Legs) -> list[Held]:
    found = dict(held_as(Held(one, 64_000, NOW), legs, mirror(), NOW + 1))
    assert list(found) == [held.key for held in found.values()]
    return list(found.values())


def test_the_open_legs_are_trades_with_their_own_lots_prices_and_ages() -> None:
    legs = (
        leg(0, "0.10", "0"),
        leg(1, "0.20", "0.15", order=5, price=D("1.2"), opened_at=GREW_AT),
        leg(2, "0.30", opened_at=0, price=D("1.3")),
    )
    second, third = shown(trade("0.45", increase=grown("0.30")), legs)
    assert second.key == ("master_user", "position", 7, 1)
    assert (second.trade.volume, second.trade.price, second.order) == (D("0.15"), D("1.2"), 5)
    assert (second.age_ms(NOW + 1), third.age_ms(NOW + 1)) == (5_000, None)
    assert (second.trade.opened_at, third.trade.opened_at) == (GREW_AT, 0)
    assert second.trade.increase is third.trade.increase is None


def test_a_later_leg_says_of_how_many_lots_the_first_one_was() -> None:
    """So that a fixed lot stands for the first leg, also when that has ended."""
    legs = (leg(0, "0.10", "0"), leg(1, "0.20"), leg(2, "0.30"))
    assert [one.of_lots for one in shown(trade("0.50"), legs)] == [D("0.10"), D("0.10")]
    assert [one.of_lots for one in shown(trade("0.10"), (leg(0, "0.10"),))] == [None]


def test_after_a_turn_the_first_leg_is_the_one_that_began_then() -> None:
    legs = (leg(0, "0.10", "0"), leg(1, "0.40", buys=False), leg(2, "0.20", buys=False))
    assert [one.of_lots for one in shown(trade("0.60", "SELL"), legs)] == [None, D("0.40")]
    back = (leg(0, "0.10", "0"), leg(1, "0.40", "0", buys=False), leg(2, "0.20"), leg(3, "0.05"))
    assert [one.of_lots for one in shown(trade("0.25"), back)] == [None, D("0.20")]


def test_the_first_leg_is_as_old_as_the_trade_was_when_it_was_heard_of() -> None:
    (only,) = shown(trade("0.10"), (leg(0, "0.10"),))
    assert only.age_ms(NOW + 1) == 65_000


def test_a_trade_that_was_always_one_leg_is_that_leg() -> None:
    key, held = whole(Held(trade("0.10"), 5, NOW))
    assert (key, held.order, held.of_lots) == (("master_user", "position", 7, 0), 7, None)
    assert whole(Held(order(7), 5, NOW))[1].order == 0
    assert held.trade.action is Action.BUY
