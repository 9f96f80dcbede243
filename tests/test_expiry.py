"""Pending orders that end by themselves: in the ways that the client's broker knows, and without the server."""

from __future__ import annotations

from decimal import Decimal as D

import pytest
from follower import Follower, Make, order, position

from account import Lifetime, Order
from expiry import DAY_S, GRACE_MS, Until, is_over, is_same, shown, until
from safety import Copying
from signals import Action, Kind

GTC, DAY, SPECIFIED, SPECIFIED_DAY = Lifetime
AHEAD = 3 * 3600
NOON = 1_790_000_000 // DAY_S * DAY_S + 12 * 3600 - AHEAD  # UTC seconds; at the broker it is noon
EVENING, TOMORROW = NOON + 6 * 3600, NOON + 24 * 3600


@pytest.mark.parametrize(
    ("lifetimes", "expires", "wanted"),
    [
        (set(Lifetime), EVENING, Until(SPECIFIED, EVENING + AHEAD)),
        ({GTC, DAY, SPECIFIED_DAY}, EVENING, Until(SPECIFIED_DAY, EVENING + AHEAD)),
        ({GTC, DAY}, EVENING, Until(DAY)),
        ({GTC, DAY}, TOMORROW, Until(GTC)),  # DAY would end it too early
        ({GTC}, EVENING, Until(GTC)),
        ({DAY}, TOMORROW, Until(DAY)),  # there is nothing else
        (set(Lifetime), 0, Until(GTC)),
        ({DAY, SPECIFIED}, 0, Until(DAY)),
        (set(), 0, Until(GTC)),
    ],
)
def test_an_order_gets_the_end_that_the_broker_knows_and_none_before_the_masters(
    lifetimes: set[Lifetime], expires: int, wanted: Until
) -> None:
    assert until(expires * 1000, lifetimes, AHEAD, NOON * 1000) == wanted


def test_without_the_brokers_clock_or_the_time_no_end_is_named() -> None:
    assert until(EVENING * 1000, set(Lifetime), None, NOON * 1000) == Until(GTC)
    assert until(EVENING * 1000, {GTC, DAY}, AHEAD, None) == Until(GTC)


def test_the_day_is_that_of_the_brokers_clock() -> None:
    last_second = NOON + 12 * 3600 - 1
    assert until(last_second * 1000, {GTC, DAY}, AHEAD, NOON * 1000) == Until(DAY)
    assert until((last_second + 1) * 1000, {GTC, DAY}, AHEAD, NOON * 1000) == Until(GTC)
    two_at_night = NOON - 10 * 3600  # by UTC it is still the day before
    assert until(EVENING * 1000, {GTC, DAY}, AHEAD, two_at_night * 1000) == Until(DAY)


def standing(lifetime: Lifetime, at: int = 0) -> Order:
    return Order(
        1, "EURUSD", Action.BUY_LIMIT, D(1), D(1), D("1.09"), D(0), D(0), D(0), 5, "", 0, at * 1000, lifetime
    )  # fmt: skip


def test_an_order_that_stands_as_wanted_is_not_moved() -> None:
    end_of_day = EVENING // DAY_S * DAY_S + DAY_S - 1
    assert is_same(shown(standing(SPECIFIED_DAY, end_of_day)), Until(SPECIFIED_DAY, EVENING))
    assert not is_same(shown(standing(SPECIFIED_DAY, end_of_day)), Until(SPECIFIED_DAY, EVENING + DAY_S))
    assert is_same(shown(standing(DAY, end_of_day)), Until(DAY))  # brokers may show the end of the day or nothing
    assert is_same(shown(standing(GTC)), Until(GTC))
    assert not is_same(shown(standing(GTC)), Until(DAY))
    assert not is_same(shown(standing(SPECIFIED, EVENING)), Until(SPECIFIED, EVENING + 1))


def test_an_order_is_over_at_its_time_and_the_broker_goes_first_where_he_was_told_it() -> None:
    at = EVENING * 1000
    assert is_over(at, at)
    assert not is_over(at, at - 1)
    assert is_over(at, at, standing(GTC))
    assert not is_over(at, at + GRACE_MS - 1, standing(SPECIFIED, EVENING))
    assert is_over(at, at + GRACE_MS, standing(SPECIFIED, EVENING))
    assert not is_over(at, None)
    assert not is_over(0, at)


# --- the copier -------------------------------------------------------------------------------------------------------


def placed(follower: Follower, expiration_mode: int, seconds: int = 600) -> int:
    """A copied order of the master's that ends in so many seconds; the second."""
    follower.mt5.sim_symbol("EURUSD", expiration_mode=expiration_mode)
    at = int(follower.clock.time()) + seconds
    follower.master_opens(order(7, expiration=at * 1000))
    follower.look()
    assert len(follower.orders) == 1
    return at


@pytest.mark.parametrize(
    ("mode", "type_time"),
    [(15, SPECIFIED), (4, SPECIFIED), (1 + 2 + 8, SPECIFIED_DAY), (1 + 2, DAY), (1, GTC), (2, DAY)],
)
def test_an_order_is_placed_with_a_lifetime_that_the_symbol_takes_and_not_moved_for_ever(
    follower: Follower, mode: int, type_time: Lifetime
) -> None:
    placed(follower, mode)
    assert follower.orders[0].type_time == type_time
    follower.passes(5)
    assert follower.events() == ["opened"]


@pytest.mark.parametrize("mode", [1, 2, 8 + 1])
def test_the_copier_removes_an_order_at_its_time_where_the_broker_cannot_and_without_the_server(
    follower: Follower, mode: int
) -> None:
    at = placed(follower, mode)
    follower.passes(300, step=5)
    follower.disconnects()
    follower.clock.wall = -40_000  # what time this machine thinks it is does not matter
    follower.passes(295, step=5)
    assert len(follower.orders) == 1
    follower.passes(at - follower.clock.now + 1)
    assert follower.orders == []
    assert (follower.state(7, Kind.ORDER), follower.copy(7, Kind.ORDER).reason) == ("closed", "expired")  # type: ignore[union-attr]
    follower.passes(30)
    assert follower.events() == ["opened", "cancelled"]  # and it is not placed again, although the book still has it
    assert follower.opened() == 0


def test_a_clock_of_this_machine_that_is_ahead_removes_nothing(follower: Follower) -> None:
    placed(follower, 1)
    follower.clock.wall = 40_000
    follower.passes(3)
    assert len(follower.orders) == 1


def test_an_order_that_the_broker_was_told_the_second_of_is_left_to_him_first(follower: Follower) -> None:
    at = placed(follower, 15)
    watched = follower.watch()
    follower.passes(at - follower.clock.now + 2)
    assert watched.sent == []
    follower.sim.tick()
    follower.passes(2)
    assert follower.orders == []
    assert follower.copy(7, Kind.ORDER).reason == "expired"  # type: ignore[union-attr]


def test_one_that_the_broker_forgets_is_removed_after_a_few_seconds(follower: Follower) -> None:
    at = placed(follower, 15)
    follower.passes(at - follower.clock.now + 7)  # the simulated broker does nothing without a tick
    assert follower.orders == []


def test_an_expired_order_is_removed_while_paused(follower: Follower) -> None:
    at = placed(follower, 1, seconds=20)
    follower.sends_config(copying=Copying.PAUSED)
    follower.passes(at - follower.clock.now + 1)
    assert follower.orders == []


def test_an_order_whose_time_has_come_is_not_placed(follower: Follower) -> None:
    at = int(follower.clock.time()) + 5
    follower.mt5.sim_set_quote("EURUSD", 1.1000, 1.1004)
    follower.sends_config(copying="close_only")
    follower.master_opens(order(7, expiration=at * 1000))
    follower.passes(6)
    follower.sends_config()
    follower.passes(2)
    assert follower.orders == []
    assert follower.reports()[-1]["reason"] == "expired"


def test_another_end_is_told_the_broker(follower: Follower) -> None:
    at = placed(follower, 15)
    follower.master_modifies(follower.book["master_user", Kind.ORDER, 7], expiration=(at + 60) * 1000)
    follower.look()
    assert follower.orders[0].time_expiration == at + 60 + AHEAD


def test_a_later_end_is_followed(follower: Follower) -> None:
    at = placed(follower, 1, seconds=20)
    follower.master_modifies(follower.book["master_user", Kind.ORDER, 7], expiration=(at + 60) * 1000)
    follower.passes(at - follower.clock.now + 5)
    assert len(follower.orders) == 1
    follower.passes(60)
    assert follower.orders == []


def test_an_order_that_expired_here_first_is_entered_when_the_masters_fills_after_all(follower: Follower) -> None:
    at = placed(follower, 15, seconds=20)
    follower.passes(at - follower.clock.now + 1)
    follower.sim.tick()
    follower.passes(2)
    assert follower.state(7, Kind.ORDER) == "closed"
    follower.mt5.sim_set_quote("EURUSD", 1.08995, 1.09005)
    follower.master_opens(position(7, price=D("1.09")))
    follower.master_closes(follower.book["master_user", Kind.ORDER, 7])
    follower.passes(3)
    assert follower.opened() == 1
    assert follower.state(7) == "open"


def test_on_a_netting_account_an_expired_order_is_not_taken_for_one_that_the_follower_deleted(make: Make) -> None:
    follower = make(account={"margin_mode": "netting"})
    at = placed(follower, 15, seconds=20)
    follower.passes(at - follower.clock.now + 1)
    follower.sim.tick()
    follower.passes(3)
    copy = follower.copy(7, Kind.ORDER)
    assert copy is not None
    assert (copy.state, copy.reason) == ("closed", "expired")
